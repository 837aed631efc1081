package starter

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// maxError bounds what is looked at of a refusal, whose body is some hundred
	// bytes.
	maxError = 64 << 10
	// maxBatch bounds what is looked at of a success. Where a connection is
	// stale every item of a batch says so, so its beginning is enough.
	maxBatch = 1 << 20
	// patience is how long the rest of a refusal may take that its caller did not
	// want; it comes with the answer.
	patience = time.Second
)

var errReadAfterClose = errors.New("http: read on closed response body")

// overheard is a body that is looked at only as the caller reads it, so that
// the caller waits for nothing but the body itself. When the caller has come to
// its end, or to the limit, or closes it, heard is told what it began with.
//
// A caller that looks at nothing but the status closes a body that it has not
// read. The rest of a refusal is read then in the background, by the function
// that beside runs, and the body is closed after that.
type overheard struct {
	body   io.ReadCloser
	limit  int
	heard  func([]byte)
	beside func(func()) // nil: what the caller does not read is of no interest

	mu      sync.Mutex
	head    []byte
	told    bool
	reading int // calls of Read that are under way
	closed  bool
}

func (o *overheard) Read(p []byte) (int, error) {
	o.mu.Lock()
	if o.closed && o.beside != nil {
		o.mu.Unlock()
		return 0, errReadAfterClose
	}
	o.reading++
	o.mu.Unlock()
	n, err := o.body.Read(p)
	o.listen(p[:n], err != nil, -1)
	return n, err
}

func (o *overheard) Close() error {
	o.mu.Lock()
	rest := o.beside != nil && !o.told && !o.closed && o.reading == 0
	o.closed = true
	o.mu.Unlock()
	if rest {
		o.beside(o.finish)
		return nil
	}
	err := o.body.Close()
	o.listen(nil, true, 0)
	return err
}

// finish reads what the caller did not want, and closes the body.
func (o *overheard) finish() {
	late := time.AfterFunc(patience, func() { _ = o.body.Close() })
	defer late.Stop()
	chunk := make([]byte, 4<<10)
	for told := false; !told; {
		n, err := o.body.Read(chunk)
		told = o.listen(chunk[:n], err != nil, 0)
	}
	_ = o.body.Close() // nobody is there to hear an error
}

// listen takes in what was read, and reports whether heard has been told.
func (o *overheard) listen(read []byte, ended bool, readers int) (told bool) {
	o.mu.Lock()
	o.reading += readers
	if o.told {
		o.mu.Unlock()
		return true
	}
	o.head = append(o.head, read[:min(len(read), o.limit-len(o.head))]...)
	if !ended && len(o.head) < o.limit {
		o.mu.Unlock()
		return false
	}
	head := o.head
	o.told, o.head = true, nil
	o.mu.Unlock()
	o.heard(head)
	return true
}

// unzip returns what can be decompressed of a part of a body.
func unzip(head []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(head))
	if err != nil {
		return nil
	}
	plain, _ := io.ReadAll(io.LimitReader(r, maxBatch)) // cut off is no error here
	return plain
}

// each stands in a path for every element of an array.
const each = "[]"

// walk reads the next value and visits every text at the path, in order, until
// visit says that it has seen enough. The error says that the JSON is malformed
// or cut off.
func walk(d *json.Decoder, path []string, visit func(text string) (enough bool)) (enough bool, err error) {
	token, err := d.Token()
	if err != nil {
		return false, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		text, ok := token.(string)
		return ok && len(path) == 0 && visit(text), nil
	}
	for d.More() {
		onPath := delim == '[' && len(path) > 0 && path[0] == each
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return false, err
			}
			onPath = len(path) > 0 && path[0] != each && key == path[0]
		}
		if !onPath {
			if err := skip(d); err != nil {
				return false, err
			}
			continue
		}
		if enough, err := walk(d, path[1:], visit); enough || err != nil {
			return enough, err
		}
	}
	_, err = d.Token()
	return false, err
}

// skip reads the next value, however deep it is.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
