package finch

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

var (
	// ErrNoAnswer matches the error of a call that got no usable answer,
	// although the request may have reached Finch and been obeyed.
	ErrNoAnswer = errors.New("finch gave no usable answer")
	// ErrNotSent matches the error of a call that certainly did not reach Finch.
	ErrNotSent = errors.New("the request was not sent to finch")
	// ErrPending matches the error of a data call that Finch accepted (202)
	// without having the data yet.
	ErrPending = errors.New("finch does not have the data yet")
)

// Codes and names by which Finch's errors are told apart.
const (
	CodeReauthenticateUser             = "reauthenticate_user"
	CodeAccountSetupRequired           = "account_setup_required"
	CodeInsufficientAccountPermissions = "insufficient_account_permissions"
	CodeConnectionNotFound             = "connection_not_found"
	CodeConnectionAlreadyExists        = "connection_already_exists"
)

const (
	maxMessage    = 200
	maxRetryAfter = 24 * time.Hour
)

// Error is an answer of Finch that is not a success.
type Error struct {
	// Op is the call, as "GET /introspect".
	Op string
	// Status is the HTTP status.
	Status int
	// Name and FinchCode are Finch's words for the error; either may be empty.
	Name, FinchCode string
	// Message is Finch's text for people, 200 characters at most, without the
	// secrets that the request held. It is not part of Error().
	Message string
	// RequestID is what Finch's support asks for.
	RequestID string
	// RetryAfter is how long Finch asks to wait; 0 if it does not say. It is
	// never more than 24 hours.
	RetryAfter time.Duration
	// WaitsUntil is when a call is likely to go out that LimitTransport did not
	// send; zero for every other error.
	WaitsUntil time.Time
	// ConnectionID is the connection that stands in the way, when a new session
	// is refused with connection_already_exists.
	ConnectionID string

	auth credentials
	// hint is the one of hints with which Finch's text begins, if any.
	hint string
}

// hints are the errors that Finch also writes as nothing but a text, as in
// {"error": "Invalid client: Unable to validate credentials"}.
var hints = [...]string{"invalid_client", "invalid_grant", "invalid_token", "invalid_request"}

// vocabulary is what an error may be called even if a secret reads the same:
// the code in a callback is whatever a stranger makes of it, and must not
// decide how its refusal is understood.
const vocabulary = " authentication_error bad_gateway_error bad_request client_connection_closed " +
	"connection_already_exists connection_not_found invalid_client invalid_client_error invalid_grant " +
	"invalid_grant_error invalid_request invalid_request_error invalid_token invalid_token_error " +
	"rate_limit_exceeded_error reauthenticate_user server_error unauthorized_request_error "

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("finch: ")
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	b.WriteString(strconv.Itoa(e.Status))
	if e.Name != "" {
		b.WriteString(" " + e.Name)
	}
	if e.FinchCode != "" {
		b.WriteString(" (" + e.FinchCode + ")")
	}
	if e.RequestID != "" {
		b.WriteString(", request " + e.RequestID)
	}
	return b.String()
}

// IsReauth reports whether the customer must log in again.
func (e *Error) IsReauth() bool {
	return e.FinchCode == CodeReauthenticateUser && e.Status >= 400 && e.Status < 500
}

// IsAccountSetup reports whether the employer must set up an account or grant
// permissions in their own system, for which a new login is no remedy.
func (e *Error) IsAccountSetup() bool {
	return e.FinchCode == CodeAccountSetupRequired || e.FinchCode == CodeInsufficientAccountPermissions
}

// IsInvalidToken reports whether Finch names the access token itself as wrong.
// A 401 without a name is not that.
func (e *Error) IsInvalidToken() bool {
	return e.Status == http.StatusUnauthorized && e.says("invalid_token")
}

// IsInvalidGrant reports whether the authorization code is refused: unknown,
// too old, used before, or exchanged with another redirect URI.
func (e *Error) IsInvalidGrant() bool {
	return (e.Status == http.StatusBadRequest || e.Status == http.StatusUnauthorized) && e.says("invalid_grant")
}

// IsInvalidClient reports whether Finch refuses our own client credentials. On
// calls that have no other credentials every 401 means that, unless it names
// something else.
func (e *Error) IsInvalidClient() bool {
	if e.Status != http.StatusUnauthorized {
		return false
	}
	if e.says("invalid_client") {
		return true
	}
	ours := e.auth == basicAuth || e.auth == bodyAuth
	return ours && !e.IsReauth() && !e.IsAccountSetup() && !e.IsInvalidGrant() && !e.says("invalid_request")
}

// IsConnectionNotFound reports whether the connection does not exist at Finch,
// or no longer. Finch writes it as a finch_code or only as a message.
func (e *Error) IsConnectionNotFound() bool {
	return (e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound) &&
		(e.FinchCode == CodeConnectionNotFound || strings.Contains(strings.ToLower(e.Message), "connection not found"))
}

// IsRateLimited reports whether we called too often.
func (e *Error) IsRateLimited() bool { return e.Status == http.StatusTooManyRequests }

// Temporary reports whether the same call may succeed later.
func (e *Error) Temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500
}

// says reports whether the error is the named one, in any of the places and
// spellings in which Finch writes it.
func (e *Error) says(name string) bool {
	for _, s := range []string{e.Name, e.FinchCode} {
		if s == name || s == name+"_error" {
			return true
		}
	}
	return e.Name == "" && e.hint == name
}

func hint(message string) string {
	for _, name := range hints {
		words := strings.ReplaceAll(name, "_", " ")
		if len(message) >= len(words) && strings.EqualFold(message[:len(words)], words) {
			return name
		}
	}
	return ""
}

// parseError reads an answer that is not a success. Both shapes that Finch
// documents are understood, OAuth's as well; a body that is neither (a
// gateway's HTML, or nothing) leaves all but the status empty.
func parseError(status int, h http.Header, body []byte, secrets []string) *Error {
	var wire struct {
		Name        string          `json:"name"`
		FinchCode   string          `json:"finch_code"`
		Message     string          `json:"message"`
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		Context     struct {
			ConnectionID string `json:"connection_id"`
		} `json:"context"`
	}
	// What cannot be read stays empty: the status has been learned anyhow.
	_ = decode(body, &wire)
	var other string
	_ = decode(wire.Error, &other)
	if wire.Name == "" && word(other, nil) != "" && !strings.Contains(other, ".") {
		wire.Name = other
	} else if wire.Message == "" {
		wire.Message = other
	}
	if wire.Message == "" {
		wire.Message = wire.Description
	}
	out := &Error{
		Status:       status,
		Name:         word(wire.Name, secrets),
		FinchCode:    word(wire.FinchCode, secrets),
		Message:      text(wire.Message, secrets),
		RequestID:    word(h.Get("Finch-Request-Id"), secrets),
		RetryAfter:   retryAfter(h),
		ConnectionID: word(wire.Context.ConnectionID, secrets),
		hint:         hint(wire.Message),
	}
	if out.FinchCode == CodeBudget {
		out.WaitsUntil, _ = time.Parse(time.RFC3339, h.Get(HeaderUntil))
	}
	return out
}

// word keeps an identifier, and drops what is none or holds a secret.
func word(s string, secrets []string) string {
	odd := func(r rune) bool {
		return r > '~' || (!unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-.:", r))
	}
	if s != "" && strings.Contains(vocabulary, " "+s+" ") {
		return s
	}
	if len(s) > 128 || strings.ContainsFunc(s, odd) || redact(s, secrets) != s {
		return ""
	}
	return s
}

// text keeps one line without secrets, and not much of it.
func text(s string, secrets []string) string {
	s = redact(strings.ToValidUTF8(s, "?"), secrets)
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxMessage {
		s = string(runes[:maxMessage])
	}
	return s
}

// redact removes secrets, also where they have been encoded on the way.
func redact(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		quoted, _ := json.Marshal(secret)
		for _, form := range []string{
			secret,
			strings.Trim(string(quoted), `"`),
			url.QueryEscape(secret),
			url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)),
		} {
			s = strings.ReplaceAll(s, form, "[redacted]")
		}
	}
	return s
}

// retryAfter reads how long to wait: Retry-After in seconds or as a date, or
// Retry-After-Ms.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		return wait(ms / 1000)
	}
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return wait(seconds)
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// Finch's clock, where the answer shows it, is the one that the date is by.
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return wait(until.Sub(now).Seconds())
}

func wait(seconds float64) time.Duration {
	switch {
	case math.IsNaN(seconds) || seconds <= 0:
		return 0
	case seconds >= maxRetryAfter.Seconds():
		return maxRetryAfter
	}
	return time.Duration(seconds * float64(time.Second))
}

// unanswered is a call without a usable answer. It unwraps into several errors
// at once, so that what walks single causes to write them down (Temporal does)
// finds none whose text has not been looked through.
type unanswered struct {
	op, text string
	reached  bool
	cause    error
}

func (c *Client) unanswered(q call, cause error, reached bool) error {
	return Unanswered(q.String(), cause, reached, c.secrets(q)...)
}

var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"?`)

func (e *unanswered) Error() string {
	state := "not sent"
	if e.reached {
		state = "no answer"
	}
	return fmt.Sprintf("finch: %s: %s: %s", e.op, state, e.text)
}

func (e *unanswered) Unwrap() []error {
	if e.reached {
		return []error{ErrNoAnswer, e.cause}
	}
	return []error{ErrNotSent, e.cause}
}

// reach observes whether a request got as far as a connection.
type reach struct{ wanted, got atomic.Bool }

func (r *reach) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { r.wanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { r.got.Store(true) },
	})
}

// possible reports whether the request may have reached Finch: unless it is
// known that a connection was wanted and never had. A transport that tells
// nothing proves nothing.
func (r *reach) possible() bool { return !r.wanted.Load() || r.got.Load() }
