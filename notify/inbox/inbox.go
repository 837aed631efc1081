// Package inbox is a mail server that keeps what it is sent, for development
// and tests: real SMTP, a page to read the mails on, a JSON API, and knobs that
// make it fail the way mail servers do. It delivers nothing to anybody.
package inbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Options are what New needs to know; the zero value is an inbox in memory on a
// free port of 127.0.0.1.
type Options struct {
	// Addr is where SMTP listens; default "127.0.0.1:0".
	Addr string
	// Dir is where messages are kept, each in an .eml file of its own; it is
	// made if absent. Empty keeps them in memory.
	Dir string
	// User and Password, when set, are asked for (AUTH PLAIN).
	User, Password string
	// TLS offers STARTTLS, or with ImplicitTLS speaks TLS from the start.
	TLS         *tls.Config
	ImplicitTLS bool
	// Log gets what goes wrong; default nowhere.
	Log *slog.Logger
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Server is a running inbox.
type Server struct {
	options  Options
	smtp     *smtp.Server
	listener net.Listener
	store    *store
	faults   faults
	served   sync.WaitGroup
}

// New loads the messages in Options.Dir and begins to take mail. Close ends it.
func New(options Options) (*Server, error) {
	if options.Addr == "" {
		options.Addr = "127.0.0.1:0"
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.ImplicitTLS && options.TLS == nil {
		return nil, errors.New("inbox: ImplicitTLS needs TLS")
	}
	kept, err := openStore(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	s := &Server{options: options, store: kept}
	s.faults.init()

	s.smtp = smtp.NewServer(smtp.BackendFunc(s.newSession))
	s.smtp.Domain = "inbox.localhost"
	s.smtp.MaxMessageBytes = 20 << 20
	s.smtp.MaxRecipients = 100
	s.smtp.ReadTimeout, s.smtp.WriteTimeout = 5*time.Minute, 5*time.Minute
	s.smtp.AllowInsecureAuth = true
	s.smtp.EnableSMTPUTF8 = true
	s.smtp.ErrorLog = errorLog{options.Log}

	plain, err := net.Listen("tcp", options.Addr)
	if err != nil {
		return nil, fmt.Errorf("inbox: listen for mail: %w", err)
	}
	s.listener = &faultListener{Listener: plain, faults: &s.faults}
	if options.ImplicitTLS {
		s.listener = tls.NewListener(s.listener, options.TLS)
	} else {
		s.smtp.TLSConfig = options.TLS
	}
	s.served.Go(func() {
		if err := s.smtp.Serve(s.listener); err != nil && !errors.Is(err, net.ErrClosed) {
			options.Log.Error("inbox stopped taking mail", "error", err)
		}
	})
	return s, nil
}

// SMTPAddr returns host and port where mail is taken.
func (s *Server) SMTPAddr() string { return s.listener.Addr().String() }

// SMTPURL returns the address of the mail server as a setting has it, without
// user and password.
func (s *Server) SMTPURL() string {
	if s.options.ImplicitTLS {
		return "smtps://" + s.SMTPAddr()
	}
	return "smtp://" + s.SMTPAddr()
}

// Close stops taking mail, ends every conversation, and returns when nothing
// runs any more. Messages stay in Options.Dir.
func (s *Server) Close() error {
	s.faults.close()
	err := s.listener.Close()
	s.served.Wait()
	// Its connections are closed by now; this waits for those who serve them.
	_ = s.smtp.Shutdown(context.Background())
	if errors.Is(err, net.ErrClosed) {
		return nil // closed before
	}
	return err
}

// Messages returns every message, in order of arrival.
func (s *Server) Messages() []Message { return s.store.all() }

// Message returns one message.
func (s *Server) Message(id string) (Message, bool) { return s.store.get(id) }

// Raw returns one message as it arrived, below the lines that say from whom, to
// whom and when.
func (s *Server) Raw(id string) ([]byte, bool) { return s.store.raw(id) }

// Delete removes one message and reports whether there was one.
func (s *Server) Delete(id string) (bool, error) { return s.store.delete(id) }

// DeleteAll removes every message.
func (s *Server) DeleteAll() error { return s.store.deleteAll() }

// errorLog lets the SMTP server write to a slog.Logger.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Printf(format string, v ...any) {
	l.log.Warn("inbox: " + fmt.Sprintf(format, v...))
}

func (l errorLog) Println(v ...any) {
	l.log.Warn("inbox: " + fmt.Sprint(v...))
}
