package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/finch-reauth/reauth/outbound"
)

// Delivery says what a mail server did with a mail.
type Delivery string

const (
	// Sent: the server took the mail.
	Sent Delivery = "sent"
	// Deferred: the server certainly did not take the mail, and may take it
	// later. It may be sent again.
	Deferred Delivery = "deferred"
	// Refused: the server will not take this mail. Bounced tells whether that is
	// for its address.
	Refused Delivery = "refused"
	// Unknown: the server may have taken the mail. Sending it again may show it
	// twice.
	Unknown Delivery = "unknown"
)

// SMTP sends mail through one server. It may be used by several goroutines;
// every mail has a connection of its own.
type SMTP struct {
	host           string
	port           int
	user, password string
	implicitTLS    bool
	startTLS       mail.TLSPolicy
	helo           string
	// timeout bounds each command, its answer included. The answer to a whole
	// message is waited for ten times as long: a server may look for spam and
	// viruses before it answers, and whoever hangs up on it will not know
	// whether it took the message.
	timeout time.Duration
	// tls is nil, except in tests.
	tls *tls.Config
	// guard says where the server may be; nil lets it be anywhere.
	guard *outbound.Guard
}

// Through returns the same server, spoken to only where the guard lets it: an
// address that it refuses is one to which no mail went.
func (s *SMTP) Through(guard outbound.Guard) *SMTP {
	guarded := *s
	guarded.guard = &guard
	return &guarded
}

// String names the server, without user and password.
func (s *SMTP) String() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// GoString is String.
func (s *SMTP) GoString() string { return s.String() }

const (
	defaultTimeout = 30 * time.Second
	answerPatience = 10 // times the timeout, see SMTP.timeout
	quitTimeout    = 2 * time.Second

	smtpURLForm = "smtp://user:password@mail.example.com:587 or smtps://user:password@mail.example.com:465"
)

// NewSMTP reads the address of a mail server: smtp:// (port 587 with a user,
// else 25) or smtps:// (TLS from the start, port 465), with user and password
// percent-encoded, and optionally
//
//	starttls=always|auto|never  default "always" with a password to another machine, else "auto"
//	timeout=30s                 for one command
//	helo=mail.example.com       the name to introduce ourselves with; default the machine's
//
// It does not connect. Its errors never repeat what they were given.
func NewSMTP(smtpURL string) (*SMTP, error) {
	u, err := url.Parse(smtpURL)
	if err != nil {
		// The error of url.Parse repeats the URL, password and all.
		return nil, errors.New("mail server address is not a URL; want " + smtpURLForm + " (user and password percent-encoded)")
	}
	s := &SMTP{host: u.Hostname(), timeout: defaultTimeout, startTLS: mail.TLSOpportunistic}
	switch u.Scheme {
	case "smtp":
		s.port = 25
	case "smtps":
		s.port, s.implicitTLS = 465, true
	default:
		return nil, errors.New("mail server address must begin with smtp:// or smtps://, as " + smtpURLForm)
	}
	if s.host == "" {
		return nil, errors.New("mail server address names no host; want " + smtpURLForm)
	}
	if strings.Trim(u.Path, "/") != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New("mail server address has something after the port; want " + smtpURLForm + " (user and password percent-encoded)")
	}
	if u.User != nil {
		s.user = u.User.Username()
		s.password, _ = u.User.Password()
		if s.user == "" || s.password == "" {
			return nil, errors.New("mail server address must have both a user and a password, or neither")
		}
		if !s.implicitTLS {
			s.port = 587
			if !loopback(s.host) {
				s.startTLS = mail.TLSMandatory
			}
		}
	}
	if port := u.Port(); port != "" {
		if s.port, err = strconv.Atoi(port); err != nil || s.port < 1 || s.port > 65535 {
			return nil, errors.New("mail server address has a port that is not from 1 to 65535")
		}
	}
	if err := s.options(u.RawQuery); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *SMTP) options(rawQuery string) error {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return errors.New("mail server address has a malformed query; want as ?starttls=always&timeout=30s")
	}
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "starttls":
			switch {
			case s.implicitTLS:
				return errors.New("starttls is for smtp:// only: smtps:// has TLS from the start")
			case value == "always":
				s.startTLS = mail.TLSMandatory
			case value == "auto" || value == "never":
				if s.password != "" && !loopback(s.host) {
					return errors.New("starttls must be \"always\" where a password goes to another machine")
				}
				s.startTLS = mail.TLSOpportunistic
				if value == "never" {
					s.startTLS = mail.NoTLS
				}
			default:
				return errors.New("starttls must be \"always\", \"auto\" or \"never\"")
			}
		case "timeout":
			if s.timeout, err = time.ParseDuration(value); err != nil || s.timeout <= 0 || s.timeout > time.Hour {
				return errors.New("timeout must be a duration of at most an hour, as \"30s\"")
			}
		case "helo":
			if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
				return errors.New("helo must be a host name, as \"mail.example.com\"")
			}
			s.helo = value
		default:
			return errors.New("mail server address has an unknown option; there are starttls, timeout and helo")
		}
	}
	return nil
}

// loopback is true for the names that go-mail, too, trusts with a password in
// the clear.
func loopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// Send hands the mail to the server and says what became of it. The error is
// nil for Sent alone; it names the step that failed and the server's answer (an
// *AnswerError where there was one, see Bounced), and holds no e-mail address
// and nothing of the mail. Send gives up when ctx ends.
//
// The answer is Deferred only where the server cannot have the mail: from the
// first byte of the message on, nothing but its own answer tells what became of
// it. It is Refused only where the server answered 5xx for this mail; a server
// that turns us away before (its doors closed, our password wrong) has said
// nothing about it.
func (s *SMTP) Send(ctx context.Context, m Mail) (delivery Delivery, err error) {
	msg, err := m.wire()
	if err != nil {
		return Refused, fmt.Errorf("compose mail: %w", err)
	}
	t := transfer{SMTP: s, ctx: ctx}
	defer t.hangUp()
	defer func() {
		// What a server says is parsed by code that is not ours: whatever it
		// does to that must not end the process.
		if r := recover(); r != nil {
			if delivery = Deferred; t.begun {
				delivery = Unknown
			}
			err = fmt.Errorf("mail server %s: panic while sending (%T)", s, r)
		}
	}()

	if err := t.connect(); err != nil {
		return Deferred, t.failed("connect", err, m)
	}
	body, step, err := t.envelope(msg)
	if err != nil {
		if c := code(err); c/100 == 5 && c != mustAuthenticate {
			return Refused, t.failed(step, err, m)
		}
		return Deferred, t.failed(step, err, m)
	}
	err = t.content(body, msg.raw)
	switch class := code(err) / 100; {
	case err == nil, class == 2: // it should have said 250, but any 2xx is a yes
		t.quit()
		return Sent, nil
	case class == 4:
		return Deferred, t.failed(endOfMessage, err, m)
	case class == 5:
		return Refused, t.failed(endOfMessage, err, m)
	default:
		return Unknown, t.failed(endOfMessage, err, m)
	}
}

// mustAuthenticate answers MAIL where we have not logged in or not switched to
// TLS: our settings are wrong, not the mail.
const mustAuthenticate = 530

// transfer is one conversation with the server. go-mail's own Client.Send would
// hold it too, but does not tell a connection that broke before the message
// from one that broke after it.
type transfer struct {
	*SMTP
	ctx    context.Context
	client *smtp.Client
	begun  bool // the first byte of the message has been given to the connection

	mu   sync.Mutex
	conn net.Conn
	stop func() bool
}

// connect greets the server, switches to TLS and logs in.
func (t *transfer) connect() error {
	config := t.tls
	if config == nil {
		config = &tls.Config{ServerName: t.host, MinVersion: tls.VersionTLS12}
	}
	options := []mail.Option{
		mail.WithTimeout(t.timeout),
		mail.WithTLSPolicy(t.startTLS),
		mail.WithTLSConfig(config),
		mail.WithDialContextFunc(func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, config) }),
	}
	if t.helo != "" {
		options = append(options, mail.WithHELO(t.helo))
	}
	if t.user != "" {
		options = append(options, mail.WithUsername(t.user), mail.WithPassword(t.password),
			// Named, because go-mail would else prefer NTLM, which needs a
			// domain, wherever Exchange offers it.
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthSCRAMSHA1, mail.SMTPAuthPlain, mail.SMTPAuthLogin, mail.SMTPAuthCramMD5))
	}
	client, err := mail.NewClient(t.host, options...)
	if err != nil {
		return err
	}
	t.client, err = client.DialToSMTPClientWithContext(t.ctx)
	return err
}

func (t *transfer) dial(ctx context.Context, config *tls.Config) (net.Conn, error) {
	dialer := &net.Dialer{}
	if t.guard != nil {
		dialer = t.guard.Dialer(t.timeout)
	}
	conn, err := dialer.DialContext(ctx, "tcp", t.String())
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.conn = conn
	// Closing, because a deadline would be moved by whoever sets the next.
	t.stop = context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	t.mu.Unlock()
	if !t.implicitTLS {
		return conn, nil
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, nil
}

// envelope says from whom and to whom, and asks to go on with the message. If
// it fails, step says where, and the server has nothing of the message.
func (t *transfer) envelope(msg message) (body io.WriteCloser, step string, err error) {
	if !ascii(msg.from + msg.to) {
		if ok, _ := t.client.Extension("SMTPUTF8"); !ok {
			return nil, "MAIL FROM", &textproto.Error{Code: 553, Msg: "not asked, because this server takes no addresses beyond ASCII"}
		}
	}
	t.allow(t.timeout)
	if err := t.client.Mail(msg.from); err != nil {
		return nil, "MAIL FROM", err
	}
	t.allow(t.timeout)
	if err := t.client.Rcpt(msg.to); err != nil {
		return nil, atRcpt, err
	}
	t.allow(t.timeout)
	body, err = t.client.Data()
	return body, "DATA", err
}

// content sends the message and waits for the server's answer to it, which is
// nil or a *textproto.Error. Any other error leaves open what became of it.
func (t *transfer) content(body io.WriteCloser, raw []byte) error {
	t.allow(t.timeout)
	t.begun = true
	if _, err := body.Write(raw); err != nil {
		// A server that breaks off often says why before it hangs up. After a
		// failed Write, Close writes no more: it only reads.
		t.allow(t.timeout)
		if answer := body.Close(); code(answer) >= 400 {
			return answer
		}
		return err
	}
	t.allow(answerPatience * t.timeout)
	return body.Close()
}

// quit says goodbye. The mail is delivered whether or not the server answers.
func (t *transfer) quit() {
	t.allow(min(quitTimeout, t.timeout))
	_ = t.client.Quit()
}

func (t *transfer) allow(d time.Duration) {
	// On a connection that is closed this fails, and so does what follows.
	_ = t.client.UpdateDeadline(d)
}

func (t *transfer) hangUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		t.stop()
		_ = t.conn.Close()
	}
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' })
}

// code is the server's answer in an error, or 0 if there was none.
func code(err error) int {
	var answer *textproto.Error
	if errors.As(err, &answer) {
		return answer.Code
	}
	return 0
}

// failed words an error so that it may stand in a log: the step, the server's
// code, and of its text what is plain words. Where the server answered it is an
// *AnswerError.
func (t *transfer) failed(step string, err error, m Mail) error {
	if c := code(err); c != 0 {
		var answer *textproto.Error
		errors.As(err, &answer)
		enhanced := enhancedIn(answer.Msg)
		return &AnswerError{
			Server: t.String(), Step: step, Code: c, Enhanced: enhanced,
			words: plainWords(answer.Msg, m), bounce: bounced(step, c, enhanced, answer.Msg, m),
		}
	}
	if ended := context.Cause(t.ctx); ended != nil {
		return fmt.Errorf("mail server %s: %s: %w", t.SMTP, step, ended)
	}
	var (
		network     *net.OpError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("mail server %s: %s: connection closed by the server", t.SMTP, step)
	case errors.As(err, &network), errors.As(err, &name), errors.As(err, &certificate):
		return fmt.Errorf("mail server %s: %s: %w", t.SMTP, step, err)
	}
	return fmt.Errorf("mail server %s: %s: %s", t.SMTP, step, plainWords(err.Error(), m))
}

var plainWord = regexp.MustCompile(`^([A-Za-z][A-Za-z'-]{0,19}|[0-9]{1,5}|[245]\.[0-9]{1,3}\.[0-9]{1,3}|-)$`)

// plainWords returns what a server said without anything that could be an
// address, a name, a link or part of our message: servers repeat whom they do
// not know and what they take for spam.
func plainWords(text string, m Mail) string {
	const limit = 40
	parts := func(s string) []string {
		return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(" .+_-'", r) })
	}
	local, _, _ := strings.Cut(m.To, "@")
	private := parts(local + " " + m.ToName)
	public := func(word string) bool {
		return plainWord.MatchString(word) &&
			!slices.ContainsFunc(parts(word), func(part string) bool { return slices.Contains(private, part) })
	}
	var kept []string
	for _, word := range strings.Fields(text) {
		if len(kept) == limit {
			break
		}
		switch {
		case public(strings.Trim(word, `.,;:!?()[]{}<>"'`)):
			kept = append(kept, word)
		case len(kept) == 0 || kept[len(kept)-1] != "…":
			kept = append(kept, "…")
		}
	}
	return strings.Join(kept, " ")
}
