package campaign

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

// Load reads a file of campaigns; docs/campaigns.md says how one looks. The
// error says everything that is wrong with it, as Parse does.
func Load(path string) (*Book, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the campaigns: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the campaigns: %w", err)
	}
	return Parse(path, data)
}

// Parse reads the content of a file of campaigns, which has the given name. The
// error joins what is wrong with it, in the order of the lines, each with the
// name, the line and the column, and with what would be right; twenty at most.
func Parse(name string, data []byte) (*Book, error) {
	r := &reading{name: name}
	var book *Book
	if root := r.document(data); root != nil {
		book = r.book(root)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return book, nil
}

// reading is a file while it is read.
type reading struct {
	name   string
	faults []fault
}

// fault is something wrong in a file.
type fault struct {
	line, column int // column is 0 where only the line is known
	text         string
}

func (r *reading) fault(line, column int, format string, args ...any) {
	r.faults = append(r.faults, fault{line, column, fmt.Sprintf(format, args...)})
}

// at says what is wrong with a value, or with the key before it.
func (r *reading) at(n *yaml.Node, path, format string, args ...any) {
	r.fault(n.Line, n.Column, "%s", strings.TrimSpace(path+" "+fmt.Sprintf(format, args...)))
}

// wrong says that a value is not what it must be.
func (r *reading) wrong(n *yaml.Node, path, want string) {
	r.at(n, path, "is %s; %s", describe(n), want)
}

func (r *reading) err() error {
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
func (r *reading) document(data []byte) *yaml.Node {
	if len(data) > maxFile {
		r.fault(1, 0, "the file is larger than 1 MiB; a file of campaigns is much smaller")
		return nil
	}
	if !r.isText(data) {
		return nil
	}
	first, second, err := decode(&linewise{data: data})
	switch {
	case err != nil:
		r.syntax(data, err)
	case first == nil || isNull(first.Content[0]):
		r.fault(1, 0, `the file is empty; it must have campaigns, as "campaigns: {default: {steps: [{after: 0s}, {after: 2d}]}}"`)
	case second != nil:
		r.at(second, "", `a second document begins here; a file holds one, so leave out the "---" between them`)
	case r.isPlain(first.Content[0]):
		return first.Content[0]
	}
	return nil
}

// isText reports whether the file is text that YAML can hold.
func (r *reading) isText(data []byte) bool {
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
func (r *reading) isPlain(n *yaml.Node) bool {
	before := len(r.faults)
	switch {
	case n.Kind == yaml.AliasNode:
		r.at(n, "", "*%s is an alias, which has no place in this file; write out what it stands for", word(n.Value))
	case n.Anchor != "":
		r.at(n, "", "&%s is an anchor, which has no place in this file; leave it out", word(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		r.at(n, "", "a tag, as %s, has no place in this file; leave it out", quote(n.Tag))
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
func (r *reading) syntax(data []byte, err error) {
	line := brokenLine(data)
	text := lineOf(data, line)
	what := libraryPrefix.ReplaceAllString(err.Error(), "")
	switch {
	case strings.HasPrefix(strings.TrimLeft(text, " "), "\t"):
		r.fault(line, strings.IndexByte(text, '\t')+1, "the line is indented with a tab; YAML is indented with spaces")
	case strings.HasPrefix(what, "unknown anchor"):
		r.fault(line, 0, "an alias, which begins with *, has no place in this file; write out what it stands for, or put the text in quotes")
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

// field is a key of a mapping and its value.
type field struct {
	name       string
	key, value *yaml.Node
}

// mapping reads a mapping whose keys are among the known ones, or any where
// none are given. What is unknown or there twice is left out. ok is false where
// there is no mapping at all.
func (r *reading) mapping(n *yaml.Node, path, want string, known ...string) (fields []field, ok bool) {
	if n.Kind != yaml.MappingNode {
		r.wrong(n, path, want)
		return nil, false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f := field{name: n.Content[i].Value, key: n.Content[i], value: n.Content[i+1]}
		if f.key.Kind != yaml.ScalarNode {
			r.wrong(f.key, strings.TrimSpace(path+" has a key that"), "a key must be a word")
			continue
		}
		if len(known) > 0 && !slices.Contains(known, f.name) {
			r.at(f.key, join(path, word(f.name)), "is not known; %sthe keys here are %s", didYouMean(f.name, known), strings.Join(known, ", "))
			continue
		}
		if line, twice := lines[f.name]; twice {
			r.at(f.key, join(path, word(f.name)), "is here twice, first in line %d; once is right", line)
			continue
		}
		lines[f.name] = f.key.Line
		fields = append(fields, f)
	}
	return fields, true
}

// complete reports whether every key of a mapping could be used: what is missing
// is then missing indeed, and not only misspelt.
func complete(n *yaml.Node, fields []field) bool { return len(fields) == len(n.Content)/2 }

func join(path, part string) string {
	if path == "" || part == "" {
		return path + part
	}
	return path + "." + part
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe shows a value to a person.
func describe(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "empty"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	}
	return quote(n.Value)
}
