package inbox

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// store keeps messages in order of arrival, and in a directory if it has one.
type store struct {
	dir string

	mu       sync.RWMutex
	messages []stored
}

type stored struct {
	Message
	raw []byte
}

// idPattern is the time of arrival, in nanoseconds since 1970, and four random
// bytes: IDs sort by arrival, and a file name tells all that the message itself
// does not.
var idPattern = regexp.MustCompile(`^([0-9]{19})-[0-9a-f]{8}$`)

func newID(now time.Time) string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return fmt.Sprintf("%019d-%s", now.UnixNano(), hex.EncodeToString(random[:]))
}

func arrival(id string) (time.Time, bool) {
	match := idPattern.FindStringSubmatch(id)
	if match == nil {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseInt(match[1], 10, 64)
	return time.Unix(0, nanos).UTC(), err == nil
}

// openStore makes the directory if need be and reads what is in it. Files that
// are not its own it leaves alone.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for messages: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of messages: %w", err)
	}
	for _, entry := range entries {
		id, isMessage := strings.CutSuffix(entry.Name(), ".eml")
		at, ok := arrival(id)
		if !isMessage || !ok {
			continue
		}
		raw, err := os.ReadFile(s.path(id))
		if err != nil {
			return nil, fmt.Errorf("read message: %w", err)
		}
		s.messages = append(s.messages, stored{parse(id, at, raw), raw})
	}
	slices.SortFunc(s.messages, func(a, b stored) int { return cmp.Compare(a.ID, b.ID) })
	return s, nil
}

func (s *store) path(id string) string { return filepath.Join(s.dir, id+".eml") }

// add keeps a message. When it returns nil the message survives a crash, if
// there is a directory.
func (s *store) add(at time.Time, helo, from string, to []string, body []byte) error {
	id := newID(at)
	raw := append(trace(id, at, helo, from, to), body...)
	if s.dir != "" {
		if err := s.write(id, raw); err != nil {
			return err
		}
	}
	message := parse(id, at.UTC(), raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, stored{message, raw})
	return nil
}

func (s *store) write(id string, raw []byte) error {
	file, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("make message file: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already if all went well
	_, err = file.Write(raw)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write message file: %w", err)
	}
	if err := os.Rename(file.Name(), s.path(id)); err != nil {
		return fmt.Errorf("name message file: %w", err)
	}
	return nil
}

// trace is what a mail server writes on top of a message: from whom and to whom
// it was, which the message itself need not tell.
func trace(id string, at time.Time, helo, from string, to []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Return-Path: <%s>\r\n", oneLine(from))
	for _, recipient := range to {
		fmt.Fprintf(&b, "Delivered-To: %s\r\n", oneLine(recipient))
	}
	fmt.Fprintf(&b, "Received: from %s by inbox.localhost with ESMTP id %s;\r\n\t%s\r\n", oneLine(helo), id, at.UTC().Format(time.RFC1123Z))
	return b.Bytes()
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func (s *store) all() []Message {
	s.mu.RLock()
	defer s.mu.RUnlock()
	messages := make([]Message, len(s.messages))
	for i, m := range s.messages {
		messages[i] = m.Message
	}
	return messages
}

func (s *store) find(id string) (stored, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i := slices.IndexFunc(s.messages, func(m stored) bool { return m.ID == id })
	if i < 0 {
		return stored{}, false
	}
	return s.messages[i], true
}

func (s *store) get(id string) (Message, bool) {
	m, ok := s.find(id)
	return m.Message, ok
}

func (s *store) raw(id string) ([]byte, bool) {
	m, ok := s.find(id)
	return m.raw, ok
}

func (s *store) delete(id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.messages, func(m stored) bool { return m.ID == id })
	if i < 0 {
		return false, nil
	}
	if err := s.remove(id); err != nil {
		return false, err
	}
	s.messages = slices.Delete(s.messages, i, i+1)
	return true, nil
}

func (s *store) deleteAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.messages) > 0 {
		last := len(s.messages) - 1
		if err := s.remove(s.messages[last].ID); err != nil {
			return err
		}
		s.messages = slices.Delete(s.messages, last, last+1)
	}
	return nil
}

func (s *store) remove(id string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete message file: %w", err)
	}
	return nil
}
