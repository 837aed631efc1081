package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Fault is a way in which a mail server fails.
type Fault string

// The faults.
const (
	FaultNone   Fault = ""
	FaultHang   Fault = "hang"   // no answer, until the knobs are changed
	FaultReject Fault = "reject" // answer Knobs.Code
	FaultDrop   Fault = "drop"   // close the connection without an answer
	FaultSlow   Fault = "slow"   // answer as ever, but only after Knobs.Delay
)

// Point is where in a conversation a fault strikes.
type Point string

// The points, in the order of a conversation.
const (
	AtGreeting Point = "greeting" // in place of the first line
	AtHello    Point = "hello"    // in answer to EHLO; clients may try HELO then
	AtMail     Point = "mail"     // in answer to MAIL FROM
	AtRcpt     Point = "rcpt"     // in answer to RCPT TO
	AtData     Point = "data"     // in answer to DATA; only without TLS
	AtBody     Point = "body"     // amid the message, which is not kept (unless it is FaultSlow)
	AtContent  Point = "content"  // in answer to the whole message
	AtQuit     Point = "quit"     // in answer to QUIT, the message being kept; only without TLS
)

// Points lists every point.
func Points() []Point {
	return []Point{AtGreeting, AtHello, AtMail, AtRcpt, AtData, AtBody, AtContent, AtQuit}
}

// Duration is a time.Duration that JSON has as "1m30s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New(`a duration is a text such as "500ms" or "30s"`)
	}
	*d = Duration(parsed)
	return nil
}

// Knobs make the server fail on purpose.
type Knobs struct {
	Fault Fault `json:"fault"`
	// At is where; default AtContent.
	At Point `json:"at,omitempty"`
	// To is the one address that the fault is for, at the points rcpt, body and
	// content; others have no trouble. Empty is everybody.
	To string `json:"to,omitempty"`
	// Code is what FaultReject answers, from 400 to 599; default 451.
	Code int `json:"code,omitempty"`
	// Enhanced is the status code behind it, as "5.1.1", or "none". It may also
	// stand at the beginning of Text. Default is x.3.0, with the first digit of
	// Code; none at the greeting and at DATA.
	Enhanced string `json:"enhanced,omitempty"`
	// Text is what stands behind the codes.
	Text string `json:"text,omitempty"`
	// Delay is how late FaultSlow answers, up to an hour; default 2s.
	Delay Duration `json:"delay,omitempty"`
	// Times is how often the fault strikes before the server is well again; 0
	// means until the knobs are changed.
	Times int `json:"times,omitempty"`
	// Discard, with FaultHang, FaultSlow or FaultDrop AtContent, does not keep
	// the message, and an answer that comes late is a refusal. Else the server
	// has taken it, and only its answer is lost or late.
	Discard bool `json:"discard,omitempty"`
}

func (k Knobs) withDefaults() (Knobs, error) {
	switch k.Fault {
	case FaultNone:
		return Knobs{}, nil
	case FaultHang, FaultReject, FaultDrop, FaultSlow:
	default:
		return k, errors.New(`fault must be "hang", "reject", "drop", "slow" or ""`)
	}
	if k.At == "" {
		k.At = AtContent
	}
	if !slices.Contains(Points(), k.At) {
		return k, fmt.Errorf("at must be one of %q", Points())
	}
	if k.Code == 0 {
		k.Code = 451
	}
	if k.Code < 400 || k.Code > 599 {
		return k, errors.New("code must be from 400 to 599")
	}
	if k.To != "" && k.At != AtRcpt && k.At != AtBody && k.At != AtContent {
		return k, errors.New("to is for the points rcpt, body and content: the others are about nobody")
	}
	if match := enhancedPrefix.FindStringSubmatch(k.Text); match != nil && k.Enhanced == "" {
		k.Enhanced, k.Text = match[1], match[2]
	}
	if k.Enhanced != "" && k.Enhanced != noEnhanced && !enhancedPattern.MatchString(k.Enhanced) {
		return k, errors.New(`enhanced must be a status code such as "5.1.1", or "none"`)
	}
	if k.Delay < 0 || k.Delay > Duration(time.Hour) {
		return k, errors.New("delay must be from 0s to 1h")
	}
	if k.Delay == 0 && k.Fault == FaultSlow {
		k.Delay = Duration(2 * time.Second)
	}
	if k.Text == "" {
		k.Text = "Told to fail"
	}
	if bytes.ContainsAny([]byte(k.Text), "\r\n") || len(k.Text) > 500 {
		return k, errors.New("text must be one line of at most 500 bytes")
	}
	if k.Times < 0 {
		return k, errors.New("times must not be negative")
	}
	return k, nil
}

const noEnhanced = "none"

var (
	enhancedPattern = regexp.MustCompile(`^[45]\.[0-9]{1,3}\.[0-9]{1,3}$`)
	enhancedPrefix  = regexp.MustCompile(`^([45]\.[0-9]{1,3}\.[0-9]{1,3})(?: (.*))?$`)
)

// rejection is the answer of FaultReject.
func (k Knobs) rejection() error {
	answer := &smtp.SMTPError{Code: k.Code, EnhancedCode: smtp.EnhancedCode{k.Code / 100, 3, 0}, Message: k.Text}
	switch k.Enhanced {
	case "":
	case noEnhanced:
		answer.EnhancedCode = smtp.NoEnhancedCode
	default:
		for i, part := range strings.Split(k.Enhanced, ".") {
			answer.EnhancedCode[i], _ = strconv.Atoi(part) // matched enhancedPattern
		}
	}
	return answer
}

// line is rejection where the SMTP server does not write it for us.
func (k Knobs) line() string {
	if k.Enhanced == "" || k.Enhanced == noEnhanced {
		return fmt.Sprintf("%d %s\r\n", k.Code, k.Text)
	}
	return fmt.Sprintf("%d %s %s\r\n", k.Code, k.Enhanced, k.Text)
}

// wait lets a fault last: until release is closed, or its delay is over.
func (k Knobs) wait(release <-chan struct{}) {
	if k.Fault != FaultSlow {
		<-release
		return
	}
	timer := time.NewTimer(time.Duration(k.Delay))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-release:
	}
}

// Knobs returns how the server fails just now.
func (s *Server) Knobs() Knobs { return s.faults.get() }

// SetKnobs changes how the server fails, and lets go on whatever hangs.
func (s *Server) SetKnobs(k Knobs) error {
	k, err := k.withDefaults()
	if err != nil {
		return err
	}
	s.faults.set(k)
	return nil
}

// faults is the state behind the knobs.
type faults struct {
	mu      sync.Mutex
	knobs   Knobs
	release chan struct{} // closed when the knobs change
	closed  bool
	conns   map[net.Conn]struct{} // those that the SMTP server has
	held    []net.Conn            // those that hang at their greeting
}

func (f *faults) init() {
	f.release = make(chan struct{})
	f.conns = make(map[net.Conn]struct{})
}

func (f *faults) get() Knobs {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.knobs
}

func (f *faults) set(k Knobs) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knobs = k
	if f.closed {
		return
	}
	f.letGo()
	f.release = make(chan struct{})
}

// letGo ends whatever hangs. A greeting would be late by now, so those
// connections are closed.
func (f *faults) letGo() {
	close(f.release)
	for _, conn := range f.held {
		_ = conn.Close()
	}
	f.held = nil
}

// close ends everything that hangs and every connection.
func (f *faults) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	// First, so that what hangs has nobody left to answer.
	for conn := range f.conns {
		_ = conn.Close()
	}
	f.letGo()
}

// hold keeps a connection that hangs at its greeting.
func (f *faults) hold(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = conn.Close()
		return
	}
	f.held = append(f.held, conn)
}

// adopt remembers a connection until it is closed. What is said first on it
// waits for greeting, if there is one.
func (f *faults) adopt(conn net.Conn, greeting func()) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = conn.Close()
	}
	f.conns[conn] = struct{}{}
	return &faultConn{Conn: conn, faults: f, greeting: greeting}
}

func (f *faults) forget(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
}

// strike returns the fault that is due at a point of a message to these people,
// if any. One that lasts goes on when release is closed.
func (f *faults) strike(at Point, to ...string) (k Knobs, release <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.knobs.Fault == FaultNone || f.knobs.At != at {
		return Knobs{}, nil
	}
	if f.knobs.To != "" && !slices.ContainsFunc(to, func(address string) bool { return strings.EqualFold(address, f.knobs.To) }) {
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

// faultListener has the faults that strike before the server has been told of a
// connection.
type faultListener struct {
	net.Listener
	faults *faults
}

func (l *faultListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		switch k, release := l.faults.strike(AtGreeting); k.Fault {
		case FaultHang:
			l.faults.hold(conn)
		case FaultReject:
			_, _ = conn.Write([]byte(k.line()))
			_ = conn.Close()
		case FaultDrop:
			_ = conn.Close()
		case FaultSlow:
			// Not here: other clients are waiting to be accepted.
			return l.faults.adopt(conn, func() { k.wait(release) }), nil
		default:
			return l.faults.adopt(conn, nil), nil
		}
	}
}

// faultConn has the faults that the SMTP server leaves no other room for: a late
// greeting, and its answers to DATA and QUIT.
type faultConn struct {
	net.Conn
	faults   *faults
	greeting func() // nil if it is not late
}

func (c *faultConn) Write(p []byte) (int, error) {
	if c.greeting != nil {
		c.greeting()
		c.greeting = nil
	}
	var at Point
	switch {
	case bytes.HasPrefix(p, []byte("354 ")):
		at = AtData
	case bytes.HasPrefix(p, []byte("221 ")):
		at = AtQuit
	default:
		return c.Conn.Write(p)
	}
	switch k, release := c.faults.strike(at); k.Fault {
	case FaultHang, FaultSlow:
		k.wait(release)
	case FaultReject:
		// The server believes it has said something else, so the conversation
		// ends here.
		_, _ = c.Conn.Write([]byte(k.line()))
		_ = c.Close()
		return 0, net.ErrClosed
	case FaultDrop:
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *faultConn) Close() error {
	c.faults.forget(c.Conn)
	return c.Conn.Close()
}
