package chatsim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Fault is a way in which a chat fails.
type Fault string

// The faults.
const (
	FaultNone      Fault = ""
	FaultRateLimit Fault = "rate_limit" // 429, with Retry-After
	FaultFail      Fault = "fail"       // answer what the knobs say
	FaultHang      Fault = "hang"       // no answer until the knobs change
	FaultDrop      Fault = "drop"       // close the connection without an answer
)

// Call is a kind of calls.
type Call string

// The kinds of calls.
const (
	CallPost   Call = "post"   // of a new message
	CallUpdate Call = "update" // of a message that is there
)

// Knobs make the chats fail on purpose.
type Knobs struct {
	Fault Fault
	// On is the kind of calls that fail; empty means all.
	On Call
	// RetryAfter is what FaultRateLimit asks for, in whole seconds; default 1 s.
	RetryAfter time.Duration
	// Status is what FaultFail answers, from 300 to 599; default 500.
	Status int
	// Error, with FaultFail, is the chat's word for it: one of Slack's errors,
	// which then come with status 200 unless Status says otherwise; a number at
	// Discord; the answer's text at a webhook.
	Error string
	// Times is how often the fault strikes before all is well again; 0 means
	// until the knobs change.
	Times int
	// Discard, with FaultHang or FaultDrop, does not take the message. Else it
	// is taken, and only the answer is lost.
	Discard bool
}

func (k Knobs) check() error {
	switch {
	case !slices.Contains([]Fault{FaultNone, FaultRateLimit, FaultFail, FaultHang, FaultDrop}, k.Fault):
		return errors.New(`knob Fault must be "rate_limit", "fail", "hang", "drop" or ""`)
	case !slices.Contains([]Call{"", CallPost, CallUpdate}, k.On):
		return fmt.Errorf("knob On must be %q, %q or empty", CallPost, CallUpdate)
	case k.RetryAfter < 0 || k.RetryAfter%time.Second != 0:
		return errors.New("knob RetryAfter must be whole seconds")
	case k.Status != 0 && (k.Status < 300 || k.Status > 599):
		return errors.New("knob Status must be from 300 to 599")
	case k.Times < 0:
		return errors.New("knob Times must not be negative")
	}
	return nil
}

// retryAfter is the header of that name.
func (k Knobs) retryAfter() map[string]string {
	return map[string]string{"Retry-After": strconv.Itoa(max(1, int(k.RetryAfter/time.Second)))}
}

// status is what FaultFail answers.
func (k Knobs) status() int {
	if k.Status == 0 {
		return 500
	}
	return k.Status
}

// SetKnobs changes how the chats fail, and lets go on whatever hangs.
func (s *Server) SetKnobs(k Knobs) error {
	if err := k.check(); err != nil {
		return fmt.Errorf("chatsim: %w", err)
	}
	s.faults.set(k)
	return nil
}

// Struck returns how often a fault has struck so far.
func (s *Server) Struck() int {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	return s.faults.struck
}

// AwaitStruck waits until faults have struck n times in all: a call hangs, say,
// and what was to be taken of it is. The error is why ctx ended before.
func (s *Server) AwaitStruck(ctx context.Context, n int) error {
	for {
		s.faults.mu.Lock()
		struck, next := s.faults.struck, s.faults.next
		s.faults.mu.Unlock()
		if struck >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// faults is the state behind the knobs.
type faults struct {
	mu      sync.Mutex
	knobs   Knobs
	release chan struct{} // closed when the knobs change
	closed  bool
	struck  int
	next    chan struct{} // closed when the next fault strikes
}

func (f *faults) init() { f.release, f.next = make(chan struct{}), make(chan struct{}) }

func (f *faults) set(k Knobs) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knobs = k
	if !f.closed {
		close(f.release)
		f.release = make(chan struct{})
	}
}

func (f *faults) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.release)
	}
}

// count counts a fault that has struck.
func (f *faults) count() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.struck++
	close(f.next)
	f.next = make(chan struct{})
}

// strike returns the fault that is due, if any. A hanging one goes on when
// release is closed.
func (f *faults) strike(call Call) (k Knobs, release <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.knobs.Fault == FaultNone || f.knobs.On != "" && f.knobs.On != call {
		return Knobs{}, nil
	}
	k = f.knobs
	if f.knobs.Times == 1 {
		f.knobs = Knobs{}
	} else if f.knobs.Times > 1 {
		f.knobs.Times--
	}
	return k, f.release
}
