package inbox

import (
	"bytes"
	"crypto/subtle"
	"io"
	"net"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one conversation with a client.
type session struct {
	server *Server
	conn   *smtp.Conn
	authed bool
	from   string
	to     []string
}

func (s *Server) newSession(conn *smtp.Conn) (smtp.Session, error) {
	created := &session{server: s, conn: conn}
	if err := created.fault(AtHello); err != nil {
		return nil, err
	}
	return created, nil
}

// AuthMechanisms is what EHLO offers.
func (s *session) AuthMechanisms() []string {
	if s.server.options.User == "" {
		return nil
	}
	return []string{sasl.Plain}
}

// Auth checks user and password.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	if mechanism != sasl.Plain || s.server.options.User == "" {
		return nil, smtp.ErrAuthUnknownMechanism
	}
	return sasl.NewPlainServer(func(_, user, password string) error {
		same := subtle.ConstantTimeCompare([]byte(user), []byte(s.server.options.User)) &
			subtle.ConstantTimeCompare([]byte(password), []byte(s.server.options.Password))
		if same != 1 {
			return smtp.ErrAuthFailed
		}
		s.authed = true
		return nil
	}), nil
}

// Mail begins a message.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.server.options.User != "" && !s.authed {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	if err := s.fault(AtMail); err != nil {
		return err
	}
	s.from = from
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.fault(AtRcpt, to); err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

// Data takes the message.
func (s *session) Data(r io.Reader) error {
	r, err := s.bodyFault(r)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	k, release := s.server.faults.strike(AtContent, s.to...)
	if k.Fault == FaultReject {
		return k.rejection()
	}
	if k.Fault == FaultNone || !k.Discard {
		if err := s.server.store.add(s.server.options.Now(), s.conn.Hostname(), s.from, s.to, raw); err != nil {
			s.server.options.Log.Error("inbox could not keep a message", "error", err)
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Could not keep the message"}
		}
	}
	switch k.Fault {
	case FaultHang, FaultSlow:
		k.wait(release)
		if k.Discard {
			return k.rejection()
		}
	case FaultDrop:
		return s.drop()
	}
	return nil
}

// Reset forgets the message that was begun.
func (s *session) Reset() { s.from, s.to = "", nil }

// Logout ends the session.
func (s *session) Logout() error { return nil }

// fault fails, or hangs, if the knobs say so.
func (s *session) fault(at Point, to ...string) error {
	switch k, release := s.server.faults.strike(at, to...); k.Fault {
	case FaultReject:
		return k.rejection()
	case FaultDrop:
		return s.drop()
	case FaultHang, FaultSlow:
		k.wait(release)
	}
	return nil
}

// bodyFault is fault amid the message: it strikes when the client has begun to
// send it. It returns where to read on.
func (s *session) bodyFault(r io.Reader) (io.Reader, error) {
	var begun bytes.Buffer
	_, _ = io.CopyN(&begun, r, 64) // what is wrong with r is met again behind it
	k, release := s.server.faults.strike(AtBody, s.to...)
	switch k.Fault {
	case FaultNone:
		return io.MultiReader(&begun, r), nil
	case FaultHang:
		k.wait(release)
	case FaultSlow:
		k.wait(release)
		return io.MultiReader(&begun, r), nil
	case FaultDrop:
		return r, s.drop()
	}
	return r, k.rejection()
}

// drop closes the connection. What the SMTP server says after that reaches
// nobody.
func (s *session) drop() error {
	_ = s.conn.Conn().Close()
	return net.ErrClosed
}
