package chat

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/finch-reauth/reauth/outbound"
)

const (
	callTimeout = 15 * time.Second // for one call, its answer included
	maxAnswer   = 1 << 20          // bytes; Slack's answers repeat the message

	// defaultRetryAfter is for a chat that finds we post too often and does not
	// say how long to wait.
	defaultRetryAfter = 30 * time.Second
	maxRetryAfter     = time.Hour
)

// service is what the chats have in common.
type service struct {
	name   string // for errors
	client *http.Client
}

func newService(name string, guard outbound.Guard) service {
	return service{name: name, client: &http.Client{
		Timeout: callTimeout,
		// A message is for the address in the setting and nobody else.
		CheckRedirect: outbound.NoRedirects,
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         guard.Dialer(callTimeout).DialContext,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: callTimeout,
			// Messages are few. A connection that the chat has given up in the
			// meantime would leave open whether it took the message.
			DisableKeepAlives: true,
		},
	}}
}

// Format keeps the setting out of anything that prints the chat.
func (s service) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// String names the kind of the chat.
func (s service) String() string { return "chat (" + s.name + ")" }

// GoString is String.
func (s service) GoString() string { return s.String() }

// failure is why a message was not delivered, or may not have been.
type failure struct {
	service, text string
	delivery      Delivery
	retryAfter    time.Duration
	// gone says that the message to be changed cannot be changed any more, form
	// that it is the form of the message that is refused.
	gone, form bool

	cause error // why ctx ended, if that is why
}

func (f *failure) Error() string { return "chat: " + f.service + ": " + f.text }

func (f *failure) Unwrap() error { return f.cause }

func (s service) failed(delivery Delivery, format string, args ...any) *failure {
	return &failure{service: s.name, delivery: delivery, text: fmt.Sprintf(format, args...)}
}

// ofChange is the failure for a change of a message that is there already: to
// make the same change twice does no harm.
func (f *failure) ofChange() *failure {
	if f != nil && f.delivery == Unknown {
		f.delivery = Deferred
	}
	return f
}

// answer is what a chat said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call sends payload as JSON. It fails only where there is no answer.
func (s service) call(ctx context.Context, method, address string, header http.Header, payload any) (answer, *failure) {
	var body bytes.Buffer
	write := json.NewEncoder(&body)
	write.SetEscapeHTML(false)
	if err := write.Encode(payload); err != nil {
		return answer{}, s.failed(Refused, "the message cannot be written as JSON")
	}
	var reach reach
	request, err := http.NewRequestWithContext(reach.trace(ctx), method, address, &body)
	if err != nil {
		// Which address it is would be told.
		return answer{}, s.failed(Refused, "the setting is malformed")
	}
	request.Header = header.Clone()
	if request.Header == nil {
		request.Header = make(http.Header)
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("User-Agent", "reauth")
	response, err := s.client.Do(request)
	if err != nil {
		f := s.failed(Unknown, "no answer: %s", why(err))
		if !reach.got.Load() {
			f = s.failed(Deferred, "not sent: %s", why(err))
		}
		if ended := context.Cause(ctx); ended != nil {
			f.cause, f.text = ended, f.text+": "+ended.Error()
		}
		return answer{}, f
	}
	defer func() { _ = response.Body.Close() }()
	// An answer that is broken off, or cut off here, is not JSON any more; its
	// status counts all the same.
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return answer{status: response.StatusCode, header: response.Header, body: text}, nil
}

// why says in words of ours why there was no answer: those of net/http repeat
// the address.
func why(err error) string {
	var (
		timeout     interface{ Timeout() bool }
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		network     *net.OpError
	)
	switch {
	case errors.Is(err, outbound.ErrRefused):
		return "the host's address is not a public one (REAUTH_OUTBOUND_ALLOW names the networks that are allowed all the same)"
	case errors.As(err, &name):
		return "the name of the host cannot be resolved"
	case errors.As(err, &certificate):
		return "the certificate of the host is not valid"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "it took too long"
	case errors.As(err, &network) && network.Op == "dial":
		return "cannot connect"
	case errors.As(err, &network) && network.Op == "proxyconnect":
		return "the proxy does not connect"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	}
	return "the connection broke"
}

// judge says what an answer's status alone tells of a message, or nil if it is
// a success.
func (s service) judge(a answer) *failure {
	var f *failure
	switch class := a.status / 100; {
	case class == 2:
		return nil
	case a.status == http.StatusTooManyRequests:
		f = s.failed(Deferred, "answered 429: too many messages")
		if f.retryAfter = retryAfter(a.header); f.retryAfter == 0 {
			f.retryAfter = defaultRetryAfter
		}
	case a.status == http.StatusServiceUnavailable, a.status == http.StatusRequestTimeout:
		f = s.failed(Deferred, "answered %d", a.status)
		f.retryAfter = retryAfter(a.header)
	case class == 5:
		f = s.failed(Unknown, "answered %d", a.status)
	case class == 3:
		f = s.failed(Refused, "answered %d: it has moved, so the setting must change", a.status)
	default:
		f = s.failed(Refused, "answered %d", a.status)
	}
	return f
}

// retryAfter reads how long to wait, from 0 to an hour: in seconds, perhaps
// with a fraction, or as a date.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	seconds, err := strconv.ParseFloat(value, 64)
	if err != nil {
		until, err := http.ParseTime(value)
		if err != nil {
			return 0
		}
		// The chat's clock, where the answer shows it, is the one the date is by.
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		seconds = until.Sub(now).Seconds()
	}
	if math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
}

// reach observes whether a request got as far as a connection. If it did not,
// the chat has nothing of it; else only an answer tells.
type reach struct{ got atomic.Bool }

func (r *reach) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { r.got.Store(true) },
	})
}
