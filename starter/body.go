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
	// maxError bounds what is read ahead of a refusal, whose body is some hundred
	// bytes.
	maxError = 64 << 10
	// maxBatch bounds what is looked at of a success. Where a connection is
	// stale every item of a batch says so, so its beginning is enough.
	maxBatch = 1 << 20
	// patience is how long a refusal may wait for its body, which comes with it. A
	// body that takes longer is handed on as it comes.
	patience = 100 * time.Millisecond
)

var errReadAfterClose = errors.New("http: read on closed response body")

// ahead is the body of a refusal. It is read in the background, up to maxError, so
// that the answer is understood even if the caller looks at nothing but its
// status; the caller reads the same bytes and errors at its own pace.
type ahead struct {
	body  io.ReadCloser
	heard func([]byte)
	done  chan struct{} // closed when reading ahead has ended

	mu     sync.Mutex
	more   sync.Cond
	head   []byte // what was read ahead
	given  int    // how much of it the caller has
	err    error  // what ended it, if not maxError
	ended  bool
	closed bool
}

// readAhead tells heard what a body begins with.
func readAhead(body io.ReadCloser, heard func([]byte)) io.ReadCloser {
	a := &ahead{body: body, heard: heard, done: make(chan struct{})}
	a.more.L = &a.mu
	go a.run()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	}
	return a
}

func (a *ahead) run() {
	defer close(a.done)
	chunk := make([]byte, 4<<10)
	read := 0
	for {
		n, err := a.body.Read(chunk[:min(len(chunk), maxError-read)])
		read += n
		a.mu.Lock()
		a.head = append(a.head, chunk[:n]...)
		head, ending := a.head, err != nil || a.closed || read == maxError
		a.more.Broadcast()
		a.mu.Unlock()
		if !ending {
			continue
		}
		// Before the caller comes to the end, so that what it does then finds
		// the report under way.
		a.heard(head)
		a.mu.Lock()
		a.err, a.ended = err, true
		a.more.Broadcast()
		a.mu.Unlock()
		return
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	a.mu.Lock()
	for a.given == len(a.head) && !a.ended && !a.closed {
		a.more.Wait()
	}
	switch {
	case a.closed && !a.ended:
		a.mu.Unlock()
		return 0, errReadAfterClose
	case a.given < len(a.head) && !a.closed:
		n := copy(p, a.head[a.given:])
		a.given += n
		a.mu.Unlock()
		return n, nil
	case a.err != nil && !a.closed:
		err := a.err
		a.err = nil
		a.mu.Unlock()
		return 0, err
	}
	a.mu.Unlock()
	return a.body.Read(p)
}

func (a *ahead) Close() error {
	a.mu.Lock()
	a.closed = true
	a.more.Broadcast()
	a.mu.Unlock()
	return a.body.Close()
}

// overheard is a body that is looked at only as the caller reads it. When the
// caller has come to its end, to maxBatch, or closes it, heard is told what it
// began with.
type overheard struct {
	io.ReadCloser
	heard func([]byte)

	mu   sync.Mutex
	head []byte
	told bool
}

func (o *overheard) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	o.listen(p[:n], err != nil)
	return n, err
}

func (o *overheard) Close() error {
	err := o.ReadCloser.Close()
	o.listen(nil, true)
	return err
}

func (o *overheard) listen(read []byte, ended bool) {
	o.mu.Lock()
	if o.told {
		o.mu.Unlock()
		return
	}
	o.head = append(o.head, read[:min(len(read), maxBatch-len(o.head))]...)
	if !ended && len(o.head) < maxBatch {
		o.mu.Unlock()
		return
	}
	head := o.head
	o.told, o.head = true, nil
	o.mu.Unlock()
	o.heard(head)
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
