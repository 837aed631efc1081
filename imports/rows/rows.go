// Package rows reads what a company exports of its connections, CSV or NDJSON,
// one row at a time. It knows nothing of databases or providers, so that what
// strangers' files can hold is tried out on it alone.
//
// A row that is wrong is a *Problem, and the next call goes on with the next
// line; a file that is wrong as a whole is a *FileError. Neither repeats what
// the file holds, since that can be a token or an address.
package rows

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/secrets"
)

// Format is how rows are written.
type Format string

// The formats.
const (
	CSV    Format = "csv"
	NDJSON Format = "ndjson"
)

// MaxLine is how many bytes a line may have.
const MaxLine = 256 << 10

// Row is one connection of a file, its token, or both.
type Row struct {
	Line       int64
	Connection reauth.Connection // without an ID where the token is to tell it
	Given      Given
	Token      secrets.Secret // may be empty
	MintedAt   time.Time      // zero where the row does not say
}

// Given says which fields a row speaks of.
type Given struct {
	Provider, Application, CustomerID, CustomerName, System, Campaign, Products, Contacts bool
}

// Problem is what is wrong with one row.
type Problem struct {
	Line int64
	// ConnectionID is what the row names, if that can be read.
	ConnectionID string
	Message      string
}

func (p *Problem) Error() string { return fmt.Sprintf("line %d: %s", p.Line, p.Message) }

// FileError is what is wrong with a file as a whole.
type FileError struct {
	Line    int64
	Message string
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

// Options are what is known here and not in a file.
type Options struct {
	// Format is found out from the content if empty.
	Format Format
	// Campaigns are the names of the campaigns that there are; nil takes every name.
	Campaigns []string
	// Applications are the names of the applications that are configured; nil takes
	// every name.
	Applications []string
	// Now says what lies in the future.
	Now time.Time
}

// Reader reads rows. It holds one line at a time.
type Reader struct {
	in      *bufio.Reader
	options Options
	format  Format
	header  *header
	line    int64 // the last one that was read
	bytes   int64
	digest  hash.Hash
}

// NewReader looks at the beginning of a file, tells its format, and reads the
// header of a CSV. The error is a *FileError, or the reader's own.
func NewReader(in io.Reader, options Options) (*Reader, error) {
	r := &Reader{in: bufio.NewReaderSize(in, MaxLine), options: options, format: options.Format, digest: sha256.New()}
	start, err := r.in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return nil, &FileError{0, "the content is compressed (gzip); give it uncompressed, as in: gunzip -c FILE | reauth import"}
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return nil, &FileError{0, "the content is a spreadsheet or a ZIP archive; save it as CSV (UTF-8)"}
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}), bytes.HasPrefix(start, []byte{0xfe, 0xff}):
		return nil, &FileError{0, "the content is UTF-16; save it as UTF-8"}
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(start, bom), " \t\r\n")
	if len(text) == 0 && len(start) < 512 {
		return nil, &FileError{0, "there is nothing in it; it wants CSV with a header line, or one JSON object a line"}
	}
	if r.format == "" {
		r.format = CSV
		if len(text) > 0 && (text[0] == '{' || text[0] == '[') {
			r.format = NDJSON
		}
	}
	if r.format == CSV {
		if err := r.readHeader(); err != nil {
			return nil, err
		}
		return r, nil
	}
	if len(text) > 0 && text[0] == '[' {
		return nil, &FileError{1, "is a JSON array; give one JSON object a line, without brackets around them and commas between them, as `jq -c '.[]'` writes them"}
	}
	return r, nil
}

var bom = []byte{0xef, 0xbb, 0xbf}

// Format is the format of the file.
func (r *Reader) Format() Format { return r.format }

// Line is the number of the last line that was read.
func (r *Reader) Line() int64 { return r.line }

// Bytes is how much has been read.
func (r *Reader) Bytes() int64 { return r.bytes }

// Digest is the SHA-256 of what has been read.
func (r *Reader) Digest() []byte { return r.digest.Sum(nil) }

// SkipTo reads on up to a line without looking at what stands there. It reports
// false where the file is shorter.
func (r *Reader) SkipTo(line int64) (reached bool, err error) {
	for r.line < line {
		if _, err := r.readLine(); err != nil && !errors.Is(err, errTooLong) {
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			return false, err
		}
	}
	return r.line == line, nil
}

// Next returns the next row. The error is io.EOF after the last one, or a
// *Problem, after which the next row can be read.
func (r *Reader) Next() (Row, error) {
	for {
		text, err := r.readLine()
		if errors.Is(err, errTooLong) {
			return Row{}, &Problem{Line: r.line, Message: tooLong}
		}
		if err != nil {
			return Row{}, err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		row, err := r.parse(text)
		if err != nil {
			return Row{}, r.problem(row, err)
		}
		row.Line = r.line
		return row, nil
	}
}

func (r *Reader) parse(text []byte) (row Row, err error) {
	if !utf8.Valid(text) {
		return row, errors.New("is not valid UTF-8; save the file as UTF-8")
	}
	if r.format == CSV {
		row, err = r.header.row(text)
	} else {
		row, err = object(text)
	}
	if err != nil {
		return row, err
	}
	return row, r.check(&row)
}

// check is what PUT checks, and whether there is something to import at all.
func (r *Reader) check(row *Row) error {
	if row.Connection.ConnectionID == "" && row.Token == "" {
		return errors.New("has neither a connection_id nor an access_token; give at least one of them")
	}
	if row.Connection.ConnectionID != "" {
		if err := reauth.CheckConnectionID(row.Connection.ConnectionID); err != nil {
			row.Connection.ConnectionID = ""
			return err
		}
	}
	if err := register.CheckToken(row.Token.Reveal()); err != nil {
		return err
	}
	if row.Token == "" && !row.MintedAt.IsZero() {
		return errors.New("minted_at: goes with an access_token, and there is none")
	}
	if row.MintedAt.After(r.options.Now.Add(24 * time.Hour)) {
		return errors.New("minted_at: lies in the future")
	}
	if err := register.CheckCampaign(row.Connection.Campaign, r.options.Campaigns); err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	checked, err := register.Check(row.Connection)
	if err == nil {
		row.Connection, err = checked, register.CheckApplication(checked.Application, r.options.Applications)
	}
	return err
}

// problem is what is wrong with the row that was read last.
func (r *Reader) problem(row Row, err error) *Problem {
	p := &Problem{Line: r.line, Message: err.Error()}
	if id := row.Connection.ConnectionID; reauth.CheckConnectionID(id) == nil {
		p.ConnectionID = id
	}
	var wrong *register.Problem
	if r.format == CSV && errors.As(err, &wrong) {
		p.Message = r.header.columnOf(wrong.Field) + ": " + wrong.Message
	}
	return p
}

var errTooLong = errors.New("too long")

var tooLong = fmt.Sprintf("is longer than %d KiB; one line is one connection", MaxLine>>10)

// readLine returns the next line without its end. It holds until the next call.
func (r *Reader) readLine() ([]byte, error) {
	text, err := r.in.ReadSlice('\n')
	r.took(text)
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			text, err = r.in.ReadSlice('\n')
			r.took(text)
		}
		r.line++
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, errTooLong
	}
	if err != nil && !(errors.Is(err, io.EOF) && len(text) > 0) {
		return nil, err
	}
	r.line++
	if r.line == 1 {
		text = bytes.TrimPrefix(text, bom)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), nil
}

func (r *Reader) took(text []byte) {
	r.bytes += int64(len(text))
	_, _ = r.digest.Write(text) // which never fails
}

// moment reads when a token was minted.
func moment(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			if at.Year() < 2000 {
				return time.Time{}, errors.New("lies before the year 2000")
			}
			return at.UTC(), nil
		}
	}
	return time.Time{}, errors.New(`must be a time, as "2026-03-01T09:30:00Z" or "2026-03-01"`)
}
