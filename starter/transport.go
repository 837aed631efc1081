package starter

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

var (
	// ErrNoConnection: a call failed because its connection is stale, but
	// nothing says which connection that is.
	ErrNoConnection = errors.New("nothing says which connection the call was for; set Transport.Connection or Transport.Lookup, or use WithConnection")
	// ErrQueueFull: too many reports wait to be made. The connection's next
	// failing call reports it again.
	ErrQueueFull = errors.New("too many reports are waiting")
	// ErrClosed: the Transport was closed before the report could be made.
	ErrClosed = errors.New("the transport is closed")
)

// Transport is an http.RoundTripper for a backend's own Finch client. It
// notices when Finch answers that a connection is stale, and reports that in the
// background: a 401 with the finch_code reauthenticate_user, a single item with
// it inside the 200 of a batch endpoint, GET /introspect with the status reauth,
// and a job of GET /jobs/automated that ended with reauth_error. It notices as
// well that the customer's account must be mended (reauth.SetupCodes); such a
// report is the operator's, and opens no Connect session. Answers of status 500
// are counted and not believed; see Stats.
//
// The caller gets exactly what it would get without a Transport: the same
// answer, bytes and errors, as soon. An answer is understood as the caller reads
// it or, where it reads nothing, once it closes the body. However many calls fail, a connection is
// reported once per Interval; a report that fails is tried again until it
// succeeds or proves useless.
//
// The fields must not change after the first call. Close it after the last.
type Transport struct {
	// Base makes the calls; http.DefaultTransport by default.
	Base http.RoundTripper
	// Report makes a report: Starter.Reporter or HTTPReporter.Report. It is
	// required. An error that wraps ErrRefused is not tried again. Where nothing
	// but the token says which connection a call was for, and Lookup is nil, the
	// input has no ConnectionID but a TokenFingerprint: HTTPReporter reports by
	// that.
	Report func(context.Context, reauth.Input) error
	// Connection tells the connection_id of a call. Where it is nil or returns
	// "", the request's context is asked (see WithConnection), then Tokens, then
	// Lookup.
	Connection func(*http.Request) string
	// Lookup tells the connection_id of a token by its reauth.Fingerprint, in the
	// background and once per token; an error that wraps ErrNoConnection says that
	// it is nobody's. Starter.Reporter needs it where calls are not named.
	Lookup func(ctx context.Context, fingerprint string) (connectionID string, err error)
	// Tokens is told which tokens have failed, so that it does not trust what it
	// has got, and tells whose a token is that it has given out. Optional.
	Tokens *TokenSource
	// OnError is told what could not be reported, for logs: a failed attempt,
	// ErrNoConnection, ErrQueueFull or ErrClosed. It must return at once. The
	// error holds no secret. Optional.
	OnError func(connectionID string, err error)

	// Interval is how long after a report of a connection its further failures
	// are taken as known; 5 minutes by default.
	Interval time.Duration
	// Timeout bounds one attempt to report; 10 seconds by default.
	Timeout time.Duration
	// RetryMin and RetryMax bound the pause after a failed attempt, which
	// doubles each time; 1 second and 5 minutes by default.
	RetryMin, RetryMax time.Duration
	// Queue bounds how many connections wait to be reported; 10,000 by default.
	Queue int
	// Workers bounds how many reports are made at once; 4 by default.
	Workers int

	once     sync.Once
	coalesce coalescer
	names    names
	counters counters
	slots    chan struct{} // one for each report that is being made
	stop     context.Context
	stopNow  context.CancelFunc
	closing  chan struct{}

	mu      sync.Mutex
	closed  bool
	waiting int
	besides int // functions that beside runs
	done    sync.WaitGroup
}

// NewTransport returns a Transport that makes calls with base (nil means
// http.DefaultTransport) and reports with report.
func NewTransport(base http.RoundTripper, report func(context.Context, reauth.Input) error) *Transport {
	return &Transport{Base: base, Report: report}
}

type connectionKey struct{}

// WithConnection returns a context whose calls are for a connection.
func WithConnection(ctx context.Context, connectionID string) context.Context {
	return context.WithValue(ctx, connectionKey{}, connectionID)
}

func (t *Transport) init() {
	t.once.Do(func() {
		t.slots = make(chan struct{}, cmp.Or(t.Workers, 4))
		t.closing = make(chan struct{})
		t.stop, t.stopNow = context.WithCancel(context.Background())
		t.coalesce.init(cmp.Or(t.Interval, 5*time.Minute))
	})
}

// RoundTrip makes the call and watches its answer.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base().RoundTrip(req)
	if err != nil || resp == nil || resp.Body == nil || resp.Body == http.NoBody {
		return resp, err
	}
	if resp.StatusCode == http.StatusInternalServerError {
		t.counters.serverErrors.Add(1)
	}
	says, refusal := meaningOf(req, resp)
	if says == nil {
		return resp, nil
	}
	notice := t.noticer(req, resp)
	heard := func(head []byte) {
		if found := says(head); found.code != "" {
			notice(found)
		}
	}
	body := &overheard{body: resp.Body, limit: maxBatch, heard: heard}
	if refusal {
		body.limit, body.beside = maxError, t.beside
	}
	resp.Body = body
	return resp, nil
}

// beside runs what a caller need not wait for. Close waits for it.
func (t *Transport) beside(do func()) {
	t.init()
	t.mu.Lock()
	waited := !t.closed
	if waited {
		t.besides++
		t.done.Add(1)
	}
	t.mu.Unlock()
	go func() {
		do()
		if waited {
			t.mu.Lock()
			t.besides--
			t.mu.Unlock()
			t.done.Done()
		}
	}()
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// CloseIdleConnections closes those of Base.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// noticer returns what to do when the answer proves to say something of its
// connection. What it needs of the request is taken now, while it is unchanged.
func (t *Transport) noticer(req *http.Request, resp *http.Response) func(finding) {
	in := reauth.Input{
		ConnectionID:     connectionOf(req, t.Connection),
		Provider:         reauth.Finch,
		Source:           reauth.SourceAPIError,
		TokenFingerprint: fingerprint(req, resp.Request),
	}
	return func(found finding) {
		in.FinchCode, in.Reason = found.code, found.reason
		t.notice(in)
	}
}

// connectionOf is the connection that a request is for, by the caller's function
// or the request's context.
func connectionOf(req *http.Request, tell func(*http.Request) string) string {
	if tell != nil {
		if id := tell(req); id != "" {
			return id
		}
	}
	id, _ := req.Context().Value(connectionKey{}).(string)
	return id
}

// fingerprint is that of the token that the call was made with. Base may have
// added it to a request of its own.
func fingerprint(requests ...*http.Request) string {
	for _, req := range requests {
		if req == nil {
			continue
		}
		scheme, token, _ := strings.Cut(strings.TrimSpace(req.Header.Get("Authorization")), " ")
		if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
			return reauth.Fingerprint(token)
		}
	}
	return ""
}

// notice has a connection reported, unless that is known or under way. It never
// waits: whose a token is, is looked up in memory here.
func (t *Transport) notice(in reauth.Input) {
	t.init()
	if reauth.IsSetupCode(in.FinchCode) {
		t.counters.setup.Add(1)
	} else {
		t.counters.stale.Add(1)
	}
	if in.ConnectionID == "" {
		in.ConnectionID = t.names.of(in.TokenFingerprint)
	}
	if in.ConnectionID == "" && t.Tokens != nil {
		in.ConnectionID = t.Tokens.whose(in.TokenFingerprint)
	}
	if in.ConnectionID == "" && in.TokenFingerprint == "" {
		t.counters.nameless.Add(1)
		t.failed("", ErrNoConnection)
		return
	}
	t.distrust(in)
	report := t.coalesce.noticed(in, time.Now())
	if report == nil {
		t.counters.coalesced.Add(1)
		return
	}
	if err := checkReport(in); err != nil {
		t.coalesce.made(report, time.Now()) // as useless as one that is refused
		t.counters.refused.Add(1)
		t.failed(in.ConnectionID, err)
		return
	}
	if err := t.enter(); err != nil {
		t.coalesce.dropped(report)
		t.counters.dropped.Add(1)
		t.failed(in.ConnectionID, err)
		return
	}
	go func() {
		defer t.leave()
		t.deliver(report)
	}()
}

// checkReport is Input.Check for a report that may name a token alone.
func checkReport(in reauth.Input) error {
	if in.ConnectionID == "" && in.TokenFingerprint != "" {
		in.ConnectionID = "by-its-token"
	}
	return in.Check()
}

// distrust tells the source of tokens that one has failed.
func (t *Transport) distrust(in reauth.Input) {
	if t.Tokens != nil && in.FinchCode == reauth.CodeReauth {
		t.Tokens.Stale(in.ConnectionID, in.TokenFingerprint)
	}
}

func (t *Transport) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed && t.besides == 0: // what Close waits for may still report
		return ErrClosed
	case t.waiting >= cmp.Or(t.Queue, 10_000):
		return ErrQueueFull
	}
	t.waiting++
	t.done.Add(1)
	return nil
}

func (t *Transport) leave() {
	t.mu.Lock()
	t.waiting--
	t.mu.Unlock()
	t.done.Done()
}

// deliver makes a report, again and again until it is taken or proves useless.
// Once the Transport is closing, the attempt under way or a last one decides.
func (t *Transport) deliver(report *report) {
	pause := cmp.Or(t.RetryMin, time.Second)
	for {
		last := t.isClosing()
		in, err := t.attempt(report)
		switch {
		case err == nil && in.ConnectionID == "" && t.Lookup != nil:
			// Now it is known whose the token is, and so whether that is reported.
			in.ConnectionID = t.names.of(in.TokenFingerprint)
			t.coalesce.made(report, time.Now())
			t.distrust(in)
			if report = t.coalesce.noticed(in, time.Now()); report == nil {
				t.counters.coalesced.Add(1)
				return
			}
			continue
		case err == nil:
			t.counters.reported.Add(1)
			t.coalesce.made(report, time.Now())
			return
		case errors.Is(err, ErrRefused):
			t.counters.refused.Add(1)
			t.coalesce.made(report, time.Now())
			t.failed(in.ConnectionID, err)
			return
		}
		t.counters.failed.Add(1)
		t.failed(in.ConnectionID, err)
		if last || t.stop.Err() != nil {
			t.counters.dropped.Add(1)
			t.coalesce.dropped(report)
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-t.closing:
			timer.Stop()
		}
		pause = min(2*pause, cmp.Or(t.RetryMax, 5*time.Minute))
	}
}

func (t *Transport) isClosing() bool {
	select {
	case <-t.closing:
		return true
	default:
		return false
	}
}

// attempt waits for its turn and makes the report once, with the newest
// evidence; or looks up whose the token is, where only that names the connection.
func (t *Transport) attempt(report *report) (in reauth.Input, err error) {
	select {
	case t.slots <- struct{}{}:
	case <-t.stop.Done():
		return t.coalesce.newest(report), ErrClosed
	}
	defer func() { <-t.slots }()
	in = t.coalesce.newest(report)
	defer func() {
		if p := recover(); p != nil {
			// What panics here must not end the caller's process.
			err = errors.New("the report panicked")
		}
	}()
	ctx, cancel := context.WithTimeout(t.stop, cmp.Or(t.Timeout, reportTimeout))
	defer cancel()
	do := t.Report
	if in.ConnectionID == "" && t.Lookup != nil {
		do = t.lookUp
	}
	if err := do(ctx, in); err != nil {
		if t.stop.Err() != nil {
			return in, ErrClosed
		}
		return in, err
	}
	return in, nil
}

func (t *Transport) failed(connectionID string, err error) {
	if t.OnError != nil {
		t.OnError(connectionID, err)
	}
}

// Close has every report that waits made now, waits for that, and reports
// nothing more. When ctx is done first, it gives up the rest and returns the
// context's error. Calls can still be made through a closed Transport.
func (t *Transport) Close(ctx context.Context) error {
	t.init()
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.closing)
	}
	t.mu.Unlock()
	defer t.stopNow()
	flushed := make(chan struct{})
	go func() {
		t.done.Wait()
		close(flushed)
	}()
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
