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

// codeReauth is the finch_code with which Finch says that a customer must log
// in again.
const codeReauth = "reauthenticate_user"

var (
	// ErrNoConnection: a call failed because its connection is stale, but
	// nothing says which connection that is.
	ErrNoConnection = errors.New("nothing says which connection the call was for; set Transport.Connection or use WithConnection")
	// ErrQueueFull: too many reports wait to be made. The connection's next
	// failing call reports it again.
	ErrQueueFull = errors.New("too many reports are waiting")
	// ErrClosed: the Transport was closed before the report could be made.
	ErrClosed = errors.New("the transport is closed")
)

// Transport is an http.RoundTripper for a backend's own Finch client. It
// notices when Finch answers that a connection is stale (401 with the
// finch_code reauthenticate_user, also for single items inside the 200 of a
// batch endpoint) and reports that in the background.
//
// The caller gets exactly what it would get without a Transport: the same
// answer, bytes and errors, as soon. However many calls fail, a connection is
// reported once per Interval; a report that fails is tried again until it
// succeeds or proves useless.
//
// The fields must not change after the first call. Close it after the last.
type Transport struct {
	// Base makes the calls; http.DefaultTransport by default.
	Base http.RoundTripper
	// Report makes a report: Starter.Reporter or HTTPReporter.Report. It is
	// required. An error that wraps ErrRefused is not tried again.
	Report func(context.Context, reauth.Input) error
	// Connection tells the connection_id of a call. Where it is nil or returns
	// "", the request's context is asked: see WithConnection.
	Connection func(*http.Request) string
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
	slots    chan struct{} // one for each report that is being made
	stop     context.Context
	stopNow  context.CancelFunc
	closing  chan struct{}

	mu      sync.Mutex
	closed  bool
	waiting int
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
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		stale, notice := says(resp, "finch_code"), t.noticer(req, resp)
		resp.Body = readAhead(resp.Body, func(head []byte) {
			if stale(head) {
				notice()
			}
		})
	case resp.StatusCode == http.StatusOK && batch(req.URL.Path):
		stale, notice := says(resp, "responses", each, "body", "finch_code"), t.noticer(req, resp)
		resp.Body = &overheard{ReadCloser: resp.Body, heard: func(head []byte) {
			if stale(head) {
				notice()
			}
		}}
	}
	return resp, nil
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

// batch reports whether an endpoint answers for many people at once, each with
// a status of its own.
func batch(path string) bool {
	path = strings.TrimSuffix(path, "/")
	for _, endpoint := range []string{"/employer/individual", "/employer/employment", "/employer/pay-statement"} {
		if strings.HasSuffix(path, endpoint) {
			return true
		}
	}
	return false
}

// noticer returns what to do when the answer proves to say that the connection
// is stale. What it needs of the request is taken now, while it is unchanged.
func (t *Transport) noticer(req *http.Request, resp *http.Response) func() {
	connectionID := ""
	if t.Connection != nil {
		connectionID = t.Connection(req)
	}
	if connectionID == "" {
		connectionID, _ = req.Context().Value(connectionKey{}).(string)
	}
	in := reauth.Input{
		ConnectionID:     connectionID,
		Provider:         reauth.Finch,
		Source:           reauth.SourceAPIError,
		FinchCode:        codeReauth,
		TokenFingerprint: fingerprint(req, resp.Request),
	}
	return func() { t.notice(in) }
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

// notice has a stale connection reported, unless that is known or under way. It
// never waits.
func (t *Transport) notice(in reauth.Input) {
	t.init()
	if in.ConnectionID == "" {
		t.failed("", ErrNoConnection)
		return
	}
	if err := in.Check(); err != nil {
		t.failed(in.ConnectionID, err)
		return
	}
	report := t.coalesce.noticed(in, time.Now())
	if report == nil {
		return
	}
	if err := t.enter(); err != nil {
		t.coalesce.dropped(report)
		t.failed(in.ConnectionID, err)
		return
	}
	go func() {
		defer t.leave()
		t.deliver(report)
	}()
}

func (t *Transport) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
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
		case err == nil:
			t.coalesce.made(report, time.Now())
			return
		case errors.Is(err, ErrRefused):
			t.coalesce.made(report, time.Now())
			t.failed(in.ConnectionID, err)
			return
		}
		t.failed(in.ConnectionID, err)
		if last || t.stop.Err() != nil {
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
// evidence.
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
	if err := t.Report(ctx, in); err != nil {
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
