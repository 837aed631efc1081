// Package yamlfile reads YAML files that people write: strictly, and saying of
// everything that is wrong where it stands and what would be right. It holds what
// such files share; what may stand in one, its own package knows.
package yamlfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	maxFile   = 1 << 20
	maxFaults = 20
)

// Kind is what a file is about.
type Kind struct {
	// Of names it, as "campaigns".
	Of string
	// Example is what a whole file could be.
	Example string
	// Secret files hold secrets: what is wrong with a value never repeats it.
	Secret bool
}

// Load reads a file and returns what read makes of it, as Parse does.
func Load[T any](k Kind, path string, read func(*Reader, *yaml.Node) T) (out T, err error) {
	f, err := os.Open(path)
	if err != nil {
		return out, fmt.Errorf("read the %s: %w", k.Of, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return out, fmt.Errorf("read the %s: %w", k.Of, err)
	}
	return Parse(k, path, data, read)
}

// Parse returns what read makes of the one document of a file with the given
// name, or a zero T with an error. The
// error joins what is wrong with the file, in the order of the lines, each with
// the name, the line and the column, and with what would be right; twenty at
// most.
func Parse[T any](k Kind, name string, data []byte, read func(*Reader, *yaml.Node) T) (out T, err error) {
	r := &Reader{name: name, kind: k}
	if root := r.document(data); root != nil {
		out = read(r, root)
	}
	if err := r.err(); err != nil {
		var none T
		return none, err
	}
	return out, nil
}

// Reader is a file while it is read.
type Reader struct {
	name   string
	kind   Kind
	faults []fault
}

// fault is something wrong in a file.
type fault struct {
	line, column int // column is 0 where only the line is known
	text         string
}

func (r *Reader) fault(line, column int, format string, args ...any) {
	r.faults = append(r.faults, fault{line, column, fmt.Sprintf(format, args...)})
}

// At says what is wrong with a value, or with the key before it.
func (r *Reader) At(n *yaml.Node, path, format string, args ...any) {
	r.fault(n.Line, n.Column, "%s", strings.TrimSpace(path+" "+fmt.Sprintf(format, args...)))
}

// Wrong says that a value is not what it must be.
func (r *Reader) Wrong(n *yaml.Node, path, want string) {
	if r.kind.Secret && n.Kind == yaml.ScalarNode && !IsNull(n) {
		r.At(n, path, "is not right; %s", want)
		return
	}
	r.At(n, path, "is %s; %s", Describe(n), want)
}

func (r *Reader) err() error {
	slices.SortStableFunc(r.faults, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	var errs []error
	for i, f := range r.faults {
		place := fmt.Sprintf("%s:%d", r.name, f.line)
		if i == maxFaults {
			errs = append(errs, fmt.Errorf("%s: there are %d more errors from here on", place, len(r.faults)-i))
			break
		}
		if f.column > 0 {
			place += ":" + strconv.Itoa(f.column)
		}
		errs = append(errs, fmt.Errorf("%s: %s", place, f.text))
	}
	return errors.Join(errs...)
}

// document finds the one YAML document in a file, and refuses what nobody needs
// here: aliases, which can make a small file a huge one, and tags.
func (r *Reader) document(data []byte) *yaml.Node {
	if len(data) > maxFile {
		r.fault(1, 0, "the file is larger than 1 MiB; a file of %s is much smaller", r.kind.Of)
		return nil
	}
	if !r.isText(data) {
		return nil
	}
	first, second, err := decode(&linewise{data: data})
	switch {
	case err != nil:
		r.syntax(data, err)
	case first == nil || IsNull(first.Content[0]):
		r.fault(1, 0, `the file is empty; it must have %s, as "%s"`, r.kind.Of, r.kind.Example)
	case second != nil:
		r.At(second, "", `a second document begins here; a file holds one, so leave out the "---" between them`)
	case r.isPlain(first.Content[0]):
		return first.Content[0]
	}
	return nil
}

// isText reports whether the file is text that YAML can hold.
func (r *Reader) isText(data []byte) bool {
	line, column := 1, 1
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			r.fault(line, column, "the file is not in UTF-8 here; save it as UTF-8")
			return false
		case c == '\n':
			line, column = line+1, 0
		case c == '\t', c == '\r' && i+1 < len(data) && data[i+1] == '\n', c == '\ufeff' && i == 0:
		case c < ' ', c == '\r', 0x7f <= c && c < 0xa0, c == '\u2028', c == '\u2029', c == '\ufeff', c == '\ufffe', c == '\uffff':
			r.fault(line, column, "the character %U cannot be in this file; take it out", c)
			return false
		}
		i += size
		column++
	}
	return true
}

// isPlain reports whether a document does without anchors, aliases and tags.
func (r *Reader) isPlain(n *yaml.Node) bool {
	before := len(r.faults)
	switch odd := n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0; {
	case odd && r.kind.Secret:
		r.At(n, "", "a value that begins with *, & or ! is put in quotes")
	case n.Kind == yaml.AliasNode:
		r.At(n, "", "*%s is an alias, which has no place in this file; write out what it stands for", Word(n.Value))
	case n.Anchor != "":
		r.At(n, "", "&%s is an anchor, which has no place in this file; leave it out", Word(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		r.At(n, "", "a tag, as %s, has no place in this file; leave it out", Quote(n.Tag))
	}
	for _, child := range n.Content {
		r.isPlain(child)
	}
	return len(r.faults) == before
}

// linewise hands out a text by lines, so that it knows how far it was read.
type linewise struct {
	data  []byte
	lines int
}

func (l *linewise) Read(p []byte) (int, error) {
	if len(l.data) == 0 {
		return 0, io.EOF
	}
	n := len(l.data)
	if i := bytes.IndexByte(l.data, '\n'); i >= 0 {
		n = i + 1
	}
	if n = copy(p, l.data[:n]); l.data[n-1] == '\n' {
		l.lines++
	}
	l.data = l.data[n:]
	return n, nil
}

// decode reads a document and the one after it; each is nil where there is none.
func decode(from io.Reader) (first, second *yaml.Node, err error) {
	decoder := yaml.NewDecoder(from)
	for _, document := range []**yaml.Node{&first, &second} {
		var n yaml.Node
		switch err := decoder.Decode(&n); {
		case errors.Is(err, io.EOF):
			return first, second, nil
		case err != nil:
			return nil, nil, err
		}
		*document = &n
	}
	return first, second, nil
}

var libraryPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// syntax says where a file stops being YAML.
func (r *Reader) syntax(data []byte, err error) {
	line := brokenLine(data)
	text := lineOf(data, line)
	what := libraryPrefix.ReplaceAllString(err.Error(), "")
	switch {
	case strings.HasPrefix(strings.TrimLeft(text, " "), "\t"):
		r.fault(line, strings.IndexByte(text, '\t')+1, "the line is indented with a tab; YAML is indented with spaces")
	case strings.HasPrefix(what, "unknown anchor"):
		r.fault(line, 0, "an alias, which begins with *, has no place in this file; write out what it stands for, or put the text in quotes")
	case r.kind.Secret:
		r.fault(line, 0, "the file stops being YAML here, for a reason here or in the line above; what belongs together begins in the same column, a key ends in a colon and a space, and every quote and bracket is closed")
	default:
		r.fault(line, 0, `the file stops being YAML here, for a reason here or in the line above (%s); what belongs together begins in the same column, a key ends in a colon and a space, and every quote and bracket is closed`, what)
	}
}

// brokenLine is the line at which a file that is not YAML stops being so: up to
// the one before, the file can be read. The line in the library's own messages
// is often that of a block's beginning, far above.
func brokenLine(data []byte) int {
	whole := &linewise{data: data}
	if _, _, err := decode(whole); err == nil {
		return 1
	}
	var ends []int // of the lines, in bytes
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	readable := func(lines int) bool {
		_, _, err := decode(bytes.NewReader(data[:ends[lines-1]]))
		return err == nil
	}
	// The library has read a little past the place, or, where something is
	// never closed, to the end. Every try reads the file again, so a long way
	// back in a large one goes by halves, which may stop at something that is
	// closed later.
	line := whole.lines
	for budget := 2 * maxFile; budget > 0; line-- {
		if line == 0 || readable(line) {
			return line + 1
		}
		budget -= ends[line-1]
	}
	low := 0
	for low < line {
		if middle := (low + line + 1) / 2; readable(middle) {
			low = middle
		} else {
			line = middle - 1
		}
	}
	return low + 1
}

func lineOf(data []byte, line int) string {
	for ; line > 1; line-- {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	text, _, _ := bytes.Cut(data, []byte("\n"))
	return string(text)
}

// Field is a key of a mapping and its value.
type Field struct {
	Name       string
	Key, Value *yaml.Node
}

// Mapping reads a mapping whose keys are among the known ones, or any where
// none are given. What is unknown or there twice is left out. ok is false where
// there is no mapping at all.
func (r *Reader) Mapping(n *yaml.Node, path, want string, known ...string) (fields []Field, ok bool) {
	if n.Kind != yaml.MappingNode {
		r.Wrong(n, path, want)
		return nil, false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f := Field{Name: n.Content[i].Value, Key: n.Content[i], Value: n.Content[i+1]}
		if f.Key.Kind != yaml.ScalarNode {
			r.Wrong(f.Key, strings.TrimSpace(path+" has a key that"), "a key must be a word")
			continue
		}
		if len(known) > 0 && !slices.Contains(known, f.Name) {
			r.At(f.Key, Join(path, Word(f.Name)), "is not known; %sthe keys here are %s", DidYouMean(f.Name, known), strings.Join(known, ", "))
			continue
		}
		if line, twice := lines[f.Name]; twice {
			r.At(f.Key, Join(path, Word(f.Name)), "is here twice, first in line %d; once is right", line)
			continue
		}
		lines[f.Name] = f.Key.Line
		fields = append(fields, f)
	}
	return fields, true
}

// Complete reports whether every key of a mapping could be used: what is missing
// is then missing indeed, and not only misspelt.
func Complete(n *yaml.Node, fields []Field) bool { return len(fields) == len(n.Content)/2 }

// Join is the path to a part of a value.
func Join(path, part string) string {
	if path == "" || part == "" {
		return path + part
	}
	return path + "." + part
}

// IsNull reports whether a value is empty.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// Describe shows a value to a person.
func Describe(n *yaml.Node) string {
	switch {
	case IsNull(n):
		return "empty"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	}
	return Quote(n.Value)
}

// DidYouMean is a question that ends in a space, or nothing.
func DidYouMean(wrong string, known []string) string {
	if near := nearest(wrong, known); near != "" {
		return fmt.Sprintf("did you mean %s? ", near)
	}
	return ""
}

// nearest is the known word that somebody who wrote a wrong one may have had in
// mind, or nothing.
func nearest(wrong string, known []string) string {
	bare := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
	}
	given := bare(wrong)
	if len(wrong) > 40 || given == "" {
		return ""
	}
	for _, k := range known {
		if len(given) >= 3 && strings.HasPrefix(bare(k), given) {
			return k
		}
	}
	distance := func(k string) int { return edits(given, bare(k)) }
	best := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(a), distance(b)) })
	if d := distance(best); d > 2 || d*2 >= len(given) {
		return ""
	}
	return best
}

// edits counts the letters to insert, drop or change to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Quote shows a value to a person, cut where it is long.
func Quote(value string) string {
	const most = 40
	if runes := []rune(value); len(runes) > most {
		value = string(runes[:most]) + "…"
	}
	return strconv.Quote(value)
}

// Word shows a name as it is where it is a plain one.
func Word(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return Quote(name)
}

var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
