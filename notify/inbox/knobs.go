package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// Fault is a way in which a mail server fails.
type Fault string

// The faults.
const (
	FaultNone   Fault = ""
	FaultHang   Fault = "hang"   // no answer, until the knobs are changed
	FaultReject Fault = "reject" // answer Knobs.Code
	FaultDrop   Fault = "drop"   // close the connection without an answer
)

// Point is where in a conversation a fault strikes.
type Point string

// The points, in the order of a conversation.
const (
	AtGreeting Point = "greeting" // in place of the first line
	AtMail     Point = "mail"     // in answer to MAIL FROM
	AtRcpt     Point = "rcpt"     // in answer to RCPT TO
	AtData     Point = "data"     // in answer to DATA; only without TLS
	AtBody     Point = "body"     // amid the message, which is not kept
	AtContent  Point = "content"  // in answer to the whole message
)

// Points lists every point.
func Points() []Point {
	return []Point{AtGreeting, AtMail, AtRcpt, AtData, AtBody, AtContent}
}

// Knobs make the server fail on purpose.
type Knobs struct {
	Fault Fault `json:"fault"`
	// At is where; default AtContent.
	At Point `json:"at,omitempty"`
	// Code is what FaultReject answers, from 400 to 599; default 451.
	Code int `json:"code,omitempty"`
	// Text is what stands behind the code.
	Text string `json:"text,omitempty"`
	// Times is how often the fault strikes before the server is well again; 0
	// means until the knobs are changed.
	Times int `json:"times,omitempty"`
	// Discard, with FaultHang or FaultDrop AtContent, does not keep the
	// message. Else the server has taken it, and only its answer is lost.
	Discard bool `json:"discard,omitempty"`
}

func (k Knobs) withDefaults() (Knobs, error) {
	switch k.Fault {
	case FaultNone:
		return Knobs{}, nil
	case FaultHang, FaultReject, FaultDrop:
	default:
		return k, errors.New(`fault must be "hang", "reject", "drop" or ""`)
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

// adopt remembers a connection until it is closed.
func (f *faults) adopt(conn net.Conn) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = conn.Close()
	}
	f.conns[conn] = struct{}{}
	return &faultConn{Conn: conn, faults: f}
}

func (f *faults) forget(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
}

// strike returns the fault that is due at a point, if any. A hanging one goes on
// when release is closed.
func (f *faults) strike(at Point) (k Knobs, release <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.knobs.Fault == FaultNone || f.knobs.At != at {
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
		switch k, _ := l.faults.strike(AtGreeting); k.Fault {
		case FaultHang:
			l.faults.hold(conn)
		case FaultReject:
			_, _ = fmt.Fprintf(conn, "%d %s\r\n", k.Code, k.Text)
			_ = conn.Close()
		case FaultDrop:
			_ = conn.Close()
		default:
			return l.faults.adopt(conn), nil
		}
	}
}

// faultConn has the faults that the SMTP server leaves no other room for: its
// answer to DATA.
type faultConn struct {
	net.Conn
	faults *faults
}

func (c *faultConn) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(p, []byte("354 ")) {
		return c.Conn.Write(p)
	}
	switch k, release := c.faults.strike(AtData); k.Fault {
	case FaultHang:
		<-release
	case FaultReject:
		// The server believes it has said 354, so the conversation ends here.
		_, _ = fmt.Fprintf(c.Conn, "%d %s\r\n", k.Code, k.Text)
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
