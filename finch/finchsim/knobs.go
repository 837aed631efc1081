package finchsim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Duration is a time.Duration that JSON has as "1m30s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New(`a duration is a text such as "500ms", "30s" or "24h"`)
	}
	*d = Duration(parsed)
	return nil
}

// Knobs choose among behaviours that Finch does not document, and make the
// simulator fail on purpose.
type Knobs struct {
	// Latency delays the answers of an endpoint, named as "POST /auth/token",
	// or of every endpoint: "*".
	Latency map[string]Duration `json:"latency"`
	// Faults are what goes wrong next, in order.
	Faults []Fault `json:"faults"`
	// SessionSupersededByNewer ends a connection's sessions when another one is
	// opened for it.
	SessionSupersededByNewer bool `json:"session_superseded_by_newer"`
	// SessionReusable lets a session be completed more than once.
	SessionReusable bool `json:"session_reusable"`
	// EchoState returns the state that was appended to connect_url.
	EchoState bool `json:"echo_state"`
	// OldTokenDies refuses a connection's older tokens from the moment on that
	// a code is exchanged for a new one. Otherwise they work again once the
	// connection does.
	OldTokenDies bool `json:"old_token_dies"`
	// IntrospectUnauthorized makes GET /introspect answer 401
	// reauthenticate_user for a stale connection, instead of 200 with the
	// status "reauth".
	IntrospectUnauthorized bool `json:"introspect_unauthorized"`
	// BatchErrorsInline makes POST /employer/individual answer 200 for a stale
	// connection, with the 401 inside each item.
	BatchErrorsInline bool `json:"batch_errors_inline"`
	// Webhooks turns events on.
	Webhooks bool `json:"webhooks"`
	// WebhookDelay is how long an event waits before it is sent.
	WebhookDelay Duration `json:"webhook_delay"`
	// VerifyPending is how many introspections after an exchange say
	// "processing", while data calls answer 202.
	VerifyPending int `json:"verify_pending"`
	// Limits are enforced: so many calls of an endpoint, or of each endpoint
	// ("*"), succeed within a rolling window; more are refused, and do not count.
	Limits map[string]Limit `json:"limits"`
}

// Limit is how many calls of one endpoint succeed within a rolling window.
type Limit struct {
	Calls  int      `json:"calls"`
	Window Duration `json:"window"`
	// RetryAfter sends Retry-After with a refusal, which Finch does not document.
	RetryAfter bool `json:"retry_after"`
}

// DefaultKnobs returns the knobs of a simulator that nobody has adjusted:
// state is echoed, webhooks are on, nothing fails.
func DefaultKnobs() Knobs { return Knobs{EchoState: true, Webhooks: true} }

// Fault is something that goes wrong.
type Fault struct {
	// Endpoint is where, as "POST /auth/token", or "*" for everywhere.
	Endpoint string `json:"endpoint"`
	// Kind is what: one of the Fault constants.
	Kind string `json:"kind"`
	// Times is how often; 0 means once and -1 for ever.
	Times int `json:"times,omitempty"`
	// RetryAfter is what a rate_limit answer asks for, in whole seconds; no
	// header is sent if it is 0.
	RetryAfter Duration `json:"retry_after,omitempty"`
	// Status and Body are the answer of the kind "answer".
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
}

// The kinds of faults.
const (
	FaultRateLimit   = "rate_limit"   // 429
	FaultServerError = "server_error" // 500
	FaultAnswer      = "answer"       // any status and body
	FaultTimeout     = "timeout"      // nothing is done, and no answer comes
	FaultDrop        = "drop"         // nothing is done, and the connection is closed
	FaultLost        = "lost"         // it is done, but the connection is closed without an answer
)

func (k Knobs) check() error {
	for name, d := range k.Latency {
		if err := checkEndpoint(name); err != nil {
			return fmt.Errorf("latency: %w", err)
		}
		if d < 0 {
			return errors.New("latency: a delay cannot be negative")
		}
	}
	for _, f := range k.Faults {
		if err := checkEndpoint(f.Endpoint); err != nil {
			return fmt.Errorf("faults: %w", err)
		}
		kinds := []string{FaultRateLimit, FaultServerError, FaultAnswer, FaultTimeout, FaultDrop, FaultLost}
		if !slices.Contains(kinds, f.Kind) {
			return fmt.Errorf("faults: kind must be one of %s", strings.Join(kinds, ", "))
		}
		if f.Times < -1 || f.RetryAfter < 0 {
			return errors.New("faults: times must be -1 or more, and retry_after not negative")
		}
		if f.Kind == FaultAnswer && (f.Status < 200 || f.Status > 599) {
			return errors.New("faults: an answer needs a status from 200 to 599")
		}
	}
	for name, l := range k.Limits {
		if err := checkEndpoint(name); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
		if l.Calls < 1 || l.Window <= 0 {
			return errors.New("limits: calls must be 1 or more, and a window longer than nothing")
		}
	}
	if k.WebhookDelay < 0 || k.VerifyPending < 0 {
		return errors.New("webhook_delay and verify_pending cannot be negative")
	}
	return nil
}

func (k Knobs) clone() Knobs {
	k.Latency = maps.Clone(k.Latency)
	k.Limits = maps.Clone(k.Limits)
	k.Faults = slices.Clone(k.Faults)
	return k
}

// take returns the fault that hits a call of the endpoint, if any, and counts it.
func (k *Knobs) take(name string) (Fault, bool) {
	for i, f := range k.Faults {
		if f.Endpoint != name && f.Endpoint != "*" {
			continue
		}
		switch {
		case f.Times > 1:
			k.Faults[i].Times--
		case f.Times >= 0:
			k.Faults = slices.Delete(k.Faults, i, i+1)
		}
		return f, true
	}
	return Fault{}, false
}

func (k Knobs) latency(name string) time.Duration {
	if d, ok := k.Latency[name]; ok {
		return time.Duration(d)
	}
	return time.Duration(k.Latency["*"])
}

// limit is the limit of an endpoint, if it has one.
func (k Knobs) limit(name string) (Limit, bool) {
	l, ok := k.Limits[name]
	if !ok {
		l, ok = k.Limits["*"]
	}
	return l, ok
}

// Counters say what has happened since the state began.
type Counters struct {
	// Calls counts the calls of each endpoint, failed ones included.
	Calls map[string]int `json:"calls"`
	// Limited counts the calls of each endpoint that were refused for its limit.
	Limited map[string]int `json:"limited"`
	// Exchanges counts how often each code was brought to POST /auth/token with
	// good credentials, by reauth.CodeHash of the code. Codes that the simulator
	// never issued are counted together as "unknown".
	Exchanges map[string]int `json:"exchanges"`
	// TokensMinted counts all access tokens.
	TokensMinted int `json:"tokens_minted"`
	// CodesIssued counts the codes that Connect has issued.
	CodesIssued int `json:"codes_issued"`
	// SessionsOpened counts Connect sessions.
	SessionsOpened int `json:"sessions_opened"`
	// WebhooksDelivered counts the events that were taken, and WebhookAttempts
	// how often sending was tried.
	WebhooksDelivered int `json:"webhooks_delivered"`
	WebhookAttempts   int `json:"webhook_attempts"`
}

func (c Counters) clone() Counters {
	c.Calls, c.Limited, c.Exchanges = maps.Clone(c.Calls), maps.Clone(c.Limited), maps.Clone(c.Exchanges)
	return c
}

// UnknownCode is under what Counters.Exchanges counts codes that were never issued.
const UnknownCode = "unknown"

// Knobs returns the present knobs.
func (s *Sim) Knobs() Knobs {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Knobs.clone()
}

// SetKnobs adjusts the knobs by calling f on the present ones.
func (s *Sim) SetKnobs(f func(*Knobs)) error {
	return s.setKnobs(func(k *Knobs) error { f(k); return nil })
}

func (s *Sim) setKnobs(f func(*Knobs) error) error {
	return s.change(func() error {
		k := s.state.Knobs.clone()
		if err := f(&k); err != nil {
			return err
		}
		if err := k.check(); err != nil {
			return invalid(err)
		}
		s.state.Knobs = k
		return nil
	})
}

// Counters returns what has been counted.
func (s *Sim) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Counters.clone()
}
