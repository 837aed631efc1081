package web

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

var _ Starter = (*starter.Starter)(nil)

// Everything in the tests that must never be seen holds one of these marks.
const (
	mark      = "Hush"
	apiKey    = "key-Hush-operator"
	email     = "Ada.Hush@acme.example"
	connID    = "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"
	publicURL = "https://reauth.example.com"
	// webhookSecret is base64, as Finch's are.
	webhookSecret = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
	connect       = "https://connect.tryfinch.com/authorize?session=ses_1"
)

var errDown = errors.New("connection refused")

// fixture is a service on a real database, with a Temporal and a provider that
// do what the test says.
type fixture struct {
	t        testing.TB
	url      string
	db       *db.DB
	proxy    *proxy
	keys     *secrets.Keys
	temporal *fakeTemporal
	handler  http.Handler
	config   Config
	log      *syncBuffer
	// hidden are further texts that no log line and no page may hold.
	hidden []string

	mu         sync.Mutex
	now        time.Time
	introspect func(application, token string) (finch.Introspection, error)
	health     error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newFixture(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, url: pgtest.URL(t)}
	var err error
	f.proxy, err = newProxy(f.url)
	require.NoError(t, err)
	t.Cleanup(f.proxy.cut)
	f.db, err = db.Open(t.Context(), f.proxy.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.db.Close() })
	f.start(change...)
	return f
}

// again is a new fixture on the same database, which is emptied: that is
// quicker than another one.
func (f *fixture) again(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	next := &fixture{t: t, url: f.url, proxy: f.proxy, db: f.db}
	next.sql(`TRUNCATE connections, api_keys, webhooks, webhook_lines, budgets, codes, held_codes, minted, quarantined_tokens, outbox, unreachable, storms, imports CASCADE`)
	next.start(change...)
	return next
}

// start makes the service and what surrounds it.
func (f *fixture) start(change ...func(*Config)) {
	t := f.t
	t.Helper()
	f.log, f.now = &syncBuffer{}, time.Now().UTC().Truncate(time.Millisecond)
	setting, err := secrets.Generate()
	require.NoError(t, err)
	f.keys, err = secrets.Load(setting)
	require.NoError(t, err)
	f.temporal = &fakeTemporal{db: f.db, clock: f.clock}
	f.introspect = func(string, string) (finch.Introspection, error) {
		return finch.Introspection{ConnectionID: connID, Connection: finch.ConnectionStatus{Status: finch.StatusConnected}}, nil
	}
	f.config = Config{
		DB: f.db, Keys: f.keys, Starter: f.temporal, PublicURL: publicURL, ProductName: "Payhub", SupportEmail: "help@payhub.example",
		BootstrapAPIKey: apiKey, FinchWebhookSecrets: []string{webhookSecret}, Now: f.clock,
		Logger: slog.New(slog.NewJSONHandler(f.log, nil)),
		Introspect: func(_ context.Context, application string, token secrets.Secret) (finch.Introspection, error) {
			return f.introspect(application, token.Reveal())
		},
		TemporalHealth: func(context.Context) error { return f.health },
	}
	for _, c := range change {
		c(&f.config)
	}
	f.handler, err = New(f.config)
	require.NoError(t, err)
	t.Cleanup(f.checkLog)
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

// checkLog is part of every test: whatever happened, no secret is in the log.
func (f *fixture) checkLog() {
	f.checkHidden("log", f.log.String())
}

func (f *fixture) checkHidden(where, text string) {
	f.t.Helper()
	for _, secret := range append([]string{mark}, f.hidden...) {
		if strings.Contains(text, secret) {
			f.t.Errorf("the %s holds a secret (%.8s…)", where, secret)
		}
	}
}

type option func(*http.Request)

func header(name, value string) option {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func noKey(r *http.Request) { r.Header.Del("Authorization") }

func from(address string) option { return func(r *http.Request) { r.RemoteAddr = address } }

func cookies(jar []*http.Cookie) option {
	return func(r *http.Request) {
		for _, c := range jar {
			r.AddCookie(c)
		}
	}
}

// do makes a request with the operator's key.
func (f *fixture) do(method, path string, body any, options ...option) *httptest.ResponseRecorder {
	f.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		require.NoError(f.t, err)
		reader = bytes.NewReader(encoded)
	}
	r := httptest.NewRequest(method, path, reader)
	r.Header.Set("Authorization", "Bearer "+apiKey)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, o := range options {
		o(r)
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

// api makes an API call, wants this status and decodes the answer into out.
func (f *fixture) api(status int, method, path string, body, out any, options ...option) *httptest.ResponseRecorder {
	f.t.Helper()
	w := f.do(method, path, body, options...)
	require.Equal(f.t, status, w.Code, w.Body.String())
	if out != nil {
		reflect.ValueOf(out).Elem().SetZero()
		require.NoError(f.t, json.Unmarshal(w.Body.Bytes(), out), w.Body.String())
	}
	return w
}

type problemBody struct {
	Title, Detail string
	Status        int
	Errors        []struct{ Location, Message string }
}

// problem makes an API call that must fail, and returns its problem body.
func (f *fixture) problem(status int, method, path string, body any, options ...option) problemBody {
	f.t.Helper()
	w := f.do(method, path, body, options...)
	require.Equal(f.t, status, w.Code, w.Body.String())
	require.Equal(f.t, "application/problem+json", w.Header().Get("Content-Type"))
	f.checkHidden("problem", w.Body.String())
	var p problemBody
	require.NoError(f.t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(f.t, status, p.Status)
	require.NotEmpty(f.t, p.Detail)
	return p
}

var titlePattern = regexp.MustCompile(`<h1>([^<]*)</h1>`)

// visit loads a page as a browser does and checks what holds for every page.
func (f *fixture) visit(method, path string, options ...option) *httptest.ResponseRecorder {
	f.t.Helper()
	w := f.do(method, path, nil, append([]option{noKey}, options...)...)
	if w.Code >= 300 && w.Code < 400 {
		f.checkHidden("redirect's body", w.Body.String())
		return w
	}
	h := w.Header()
	require.Equal(f.t, "text/html; charset=utf-8", h.Get("Content-Type"), w.Body.String())
	csp := h.Get("Content-Security-Policy")
	require.Contains(f.t, csp, "default-src 'none'")
	require.Contains(f.t, csp, "frame-ancestors 'none'")
	require.Contains(f.t, csp, "form-action 'self' https://connect.tryfinch.com")
	require.NotContains(f.t, csp, "unsafe")
	require.Equal(f.t, "no-referrer", h.Get("Referrer-Policy"))
	require.Equal(f.t, "no-store", h.Get("Cache-Control"))
	require.Equal(f.t, "nosniff", h.Get("X-Content-Type-Options"))
	require.Contains(f.t, h.Get("X-Robots-Tag"), "noindex")
	page := w.Body.String()
	f.checkHidden("page", page)
	if method != http.MethodHead {
		require.Contains(f.t, page, `<html lang="en">`)
		require.Len(f.t, titlePattern.FindAllString(page, -1), 1, "one heading of the first level")
		require.NotRegexp(f.t, `(?i)<script|\sstyle=|\son[a-z]+=|javascript:`, page)
		require.NotRegexp(f.t, `(src|href)="(https?:)?//`, page, "nothing from elsewhere")
	}
	return w
}

// form is the body of a page's form.
func form(body string) option {
	return func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
}

// title is what a page says in its heading.
func title(w *httptest.ResponseRecorder) string {
	m := titlePattern.FindStringSubmatch(w.Body.String())
	if m == nil {
		return ""
	}
	return strings.NewReplacer("&#39;", "'", "&amp;", "&").Replace(m[1])
}

func location(t testing.TB, w *httptest.ResponseRecorder) *url.URL {
	t.Helper()
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body.String())
	u, err := url.Parse(w.Header().Get("Location"))
	require.NoError(t, err)
	return u
}

// register stores a connection with one contact and returns the contact's link.
func (f *fixture) register(id string) (link string) {
	f.t.Helper()
	_, err := f.db.PutConnection(f.t.Context(), reauth.Connection{
		ConnectionID: id, Provider: reauth.Finch, Application: reauth.DefaultApplication, CustomerName: "Acme Ltd",
		Contacts: []reauth.Contact{{Email: email, Name: "Ada"}},
	})
	require.NoError(f.t, err)
	return f.link(id)
}

// contact is the ID of a connection's first contact.
func (f *fixture) contact(id string) string {
	f.t.Helper()
	recipients, err := f.db.Recipients(f.t.Context(), id)
	require.NoError(f.t, err)
	require.NotEmpty(f.t, recipients)
	return recipients[0].ContactID
}

func (f *fixture) link(id string) string { return f.linkFor(id, f.contact(id)) }

func (f *fixture) linkFor(id, recipient string) string {
	f.t.Helper()
	s := &server{Config: f.config}
	link, err := s.linkURL(f.t.Context(), id, recipient)
	require.NoError(f.t, err)
	u, err := url.Parse(link)
	require.NoError(f.t, err)
	f.hidden = append(f.hidden, strings.TrimPrefix(u.Path, "/r/"))
	return u.Path
}

// open stores an open case; with a session unless it is confirming.
func (f *fixture) open(connectionID, caseID string, phase reauth.Phase) {
	f.t.Helper()
	ctx := f.t.Context()
	opened, err := f.db.OpenCase(ctx, db.Case{CaseID: caseID, ConnectionID: connectionID, Source: reauth.SourceAPIError, OpenedAt: f.clock()})
	require.NoError(f.t, err)
	require.True(f.t, opened)
	if phase != reauth.PhaseConfirming {
		f.session(caseID, connect, f.clock().Add(30*24*time.Hour))
		require.NoError(f.t, f.db.SetPhase(ctx, caseID, phase, ""))
	}
}

func (f *fixture) session(caseID, connectURL string, expires time.Time) {
	f.t.Helper()
	require.NoError(f.t, f.db.SetSession(f.t.Context(), caseID, db.Session{ID: "ses_1", URL: connectURL, Ordinal: 1, ExpiresAt: expires, DeadlineAt: expires}))
}

func (f *fixture) close(caseID string, outcome reauth.Outcome, reason string) {
	f.t.Helper()
	first, err := f.db.CloseCase(f.t.Context(), db.Closing{CaseID: caseID, Outcome: outcome, Reason: reason, At: f.clock()})
	require.NoError(f.t, err)
	require.True(f.t, first)
}

// pool is the database, past package db.
func (f *fixture) pool() *sql.DB {
	f.t.Helper()
	pool, err := sql.Open("postgres", f.url)
	require.NoError(f.t, err)
	return pool
}

// sql runs a statement for which db has no method.
func (f *fixture) sql(statement string, args ...any) {
	f.t.Helper()
	pool, err := sql.Open("postgres", f.url)
	require.NoError(f.t, err)
	defer func() { _ = pool.Close() }()
	_, err = pool.ExecContext(f.t.Context(), statement, args...)
	require.NoError(f.t, err)
}

// count returns how many rows a table has.
func (f *fixture) count(table string) (n int) {
	f.t.Helper()
	pool, err := sql.Open("postgres", f.url)
	require.NoError(f.t, err)
	defer func() { _ = pool.Close() }()
	require.NoError(f.t, pool.QueryRowContext(f.t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

// dbDown makes the database unreachable for the rest of the test.
func (f *fixture) dbDown() { f.proxy.cut() }

// proxy stands before the database, so that a test can cut it off.
type proxy struct {
	url      string
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func newProxy(database string) (*proxy, error) {
	target, err := url.Parse(database)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener}
	address := target.Host
	target.Host = listener.Addr().String()
	p.url = target.String()
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				}()
			}
		}
	}()
	return p, nil
}

func (p *proxy) cut() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// fakeTemporal notes what it is told. Report opens a case in the database, as
// a worker would, unless worker is off.
type fakeTemporal struct {
	db    *db.DB
	clock func() time.Time

	mu       sync.Mutex
	down     bool
	idle     bool // no worker runs
	noCase   bool // nothing runs that could be signalled
	onCode   func()
	closing  string // a case that is over, but whose workflow still runs
	reports  []reauth.Input
	codes    []reauth.CodeReceived
	codesFor []string
	redeems  []reauth.RedeemInput
	signals  []string
	cancels  []reauth.Cancel
	snoozes  []reauth.Snooze
	stops    []reauth.StopNotices
	changes  []reauth.ContactsChanged
	reminds  []reauth.RemindNow
}

func (f *fakeTemporal) Report(ctx context.Context, in reauth.Input) (starter.Reported, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return starter.Reported{}, errDown
	}
	f.reports = append(f.reports, in)
	reported := starter.Reported{CaseID: "case-" + in.ConnectionID, WorkflowID: reauth.WorkflowID(in.ConnectionID), Created: true}
	if f.closing != "" {
		reported.CaseID, reported.Created = f.closing, false
		return reported, nil
	}
	if open, err := f.db.OpenCaseOf(ctx, in.ConnectionID); err == nil {
		reported.CaseID, reported.Created = open.CaseID, false
		return reported, nil
	}
	if newest, err := f.db.NewestCase(ctx, in.ConnectionID); err == nil {
		reported.CaseID = newest.CaseID + "+"
	}
	if !f.idle {
		_, err := f.db.OpenCase(ctx, db.Case{CaseID: reported.CaseID, ConnectionID: in.ConnectionID, Source: in.Source, OpenedAt: f.clock()})
		return reported, err
	}
	return reported, nil
}

func (f *fakeTemporal) SubmitCode(_ context.Context, id string, m reauth.CodeReceived) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return "", errDown
	}
	if f.onCode != nil {
		f.onCode()
	}
	f.codes, f.codesFor = append(f.codes, m), append(f.codesFor, id)
	return "case-" + id, nil
}

func (f *fakeTemporal) Redeem(_ context.Context, in reauth.RedeemInput) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return false, errDown
	}
	f.redeems = append(f.redeems, in)
	return true, nil
}

func (f *fakeTemporal) signal(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.down:
		return errDown
	case f.noCase:
		return starter.ErrNoOpenCase
	}
	f.signals = append(f.signals, what)
	return nil
}

func (f *fakeTemporal) Restored(_ context.Context, id string) error {
	return f.signal("restored " + id)
}

func (f *fakeTemporal) Cancel(_ context.Context, id string, m reauth.Cancel) error {
	if err := f.signal("cancel " + id); err != nil {
		return err
	}
	f.cancels = append(f.cancels, m)
	return nil
}

func (f *fakeTemporal) Snooze(_ context.Context, id string, m reauth.Snooze) error {
	if err := f.signal("snooze " + id); err != nil {
		return err
	}
	f.snoozes = append(f.snoozes, m)
	return nil
}

func (f *fakeTemporal) StopNotices(_ context.Context, id string, m reauth.StopNotices) error {
	if err := f.signal("stop " + id); err != nil {
		return err
	}
	f.stops = append(f.stops, m)
	return nil
}

func (f *fakeTemporal) ContactsChanged(ctx context.Context, id string, m reauth.ContactsChanged) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := f.signal("contacts " + id)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changes = append(f.changes, m)
	}
	if errors.Is(err, starter.ErrNoOpenCase) {
		return nil
	}
	return err
}

func (f *fakeTemporal) Remind(_ context.Context, id string, m reauth.RemindNow) error {
	if err := f.signal("remind " + id); err != nil {
		return err
	}
	f.reminds = append(f.reminds, m)
	return nil
}
