package starter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// vault answers as GET /v1/connections/{connection_id}/token does, inside a
// synctest bubble: it is the client's RoundTripper.
type vault struct {
	mu      sync.Mutex
	asked   []string // queries
	waiting int
	token   string
	gen     int64
	status  string
	fail    int           // the status to answer with instead
	slow    time.Duration // how long a plain answer takes
	changed chan struct{}
}

func newVault(token string, gen int64) *vault {
	return &vault{token: token, gen: gen, status: "connected", changed: make(chan struct{})}
}

func (v *vault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *vault) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") != "Bearer key-SENTINEL" {
		return nil, errors.New("no key")
	}
	after, _ := strconv.ParseInt(req.URL.Query().Get("after"), 10, 64)
	wait, _ := strconv.Atoi(req.URL.Query().Get("wait"))
	v.mu.Lock()
	v.asked = append(v.asked, req.URL.RawQuery)
	v.waiting++
	slow := v.slow
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.waiting--
		v.mu.Unlock()
	}()
	if slow > 0 {
		time.Sleep(slow)
	}
	over := time.NewTimer(time.Duration(wait) * time.Second)
	defer over.Stop()
	for {
		v.mu.Lock()
		status, body := 0, ""
		switch {
		case v.fail != 0:
			status, body = v.fail, `{"detail":"register it"}`
		case v.gen > after:
			status, body = 200, fmt.Sprintf(`{"access_token":%q,"generation":%d,"fingerprint":"x","adopted_at":"2026-11-02T09:00:00Z"}`, v.token, v.gen)
		case wait == 0:
			status = 204
		}
		changed, connection := v.changed, v.status
		v.mu.Unlock()
		if status == 0 {
			select {
			case <-changed:
				continue
			case <-over.C:
				status = 204
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		}
		resp := answer(req, status, io.NopCloser(strings.NewReader(body)))
		resp.Status = fmt.Sprint(status, " ", http.StatusText(status))
		resp.Header.Set("Content-Type", "application/problem+json")
		resp.Header.Set("Reauth-Connection-Status", connection)
		return resp, nil
	}
}

func (v *vault) queries() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.asked...)
}

func (v *vault) source() *starter.TokenSource {
	return &starter.TokenSource{BaseURL: "https://reauth.example.com", APIKey: "key-SENTINEL", Client: &http.Client{Transport: v}}
}

func mustToken(t *testing.T, s *starter.TokenSource) starter.Token {
	t.Helper()
	token, err := s.Token(t.Context(), "con-1")
	require.NoError(t, err)
	return token
}

func TestATokenIsRememberedAndRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		v.slow = time.Second
		s := v.source()
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() { assert.Equal(t, "token-1", mustToken(t, s).AccessToken) })
		}
		callers.Wait()
		require.Len(t, v.queries(), 1, "one question for all")
		token := mustToken(t, s)
		require.Equal(t, starter.Token{
			AccessToken: "token-1", Generation: 1, Fingerprint: reauth.Fingerprint("token-1"), AdoptedAt: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC),
		}, token)
		require.Len(t, v.queries(), 1)

		v.set(func() { v.token, v.gen = "token-2", 2 })
		time.Sleep(5 * time.Minute)
		began := time.Now()
		require.Equal(t, "token-1", mustToken(t, s).AccessToken, "nobody waits for the refreshing")
		require.Equal(t, began, time.Now())
		time.Sleep(2 * time.Second)
		require.Equal(t, "token-2", mustToken(t, s).AccessToken)
		require.Len(t, v.queries(), 2)
	})
}

func TestATokenThatFailedIsAskedForAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		s := v.source()
		fp := mustToken(t, s).Fingerprint
		s.Stale("con-1", reauth.Fingerprint("an older one"))
		mustToken(t, s)
		require.Len(t, v.queries(), 1, "an old token is no news")
		s.Stale("con-2", "")
		s.Stale("", reauth.Fingerprint("nobody's"))

		for range 100 {
			s.Stale("con-1", fp)
			require.Equal(t, "token-1", mustToken(t, s).AccessToken)
		}
		require.Len(t, v.queries(), 2, "at once, but not for every call")
		time.Sleep(5 * time.Second)
		mustToken(t, s)
		require.Len(t, v.queries(), 3)
		v.set(func() { v.token, v.gen = "token-2", 2 })
		time.Sleep(5 * time.Second)
		require.Equal(t, "token-2", mustToken(t, s).AccessToken)
		require.Len(t, v.queries(), 4)
		time.Sleep(time.Minute)
		mustToken(t, s)
		require.Len(t, v.queries(), 4, "a new token is trusted")

		s.Stale("", mustToken(t, s).Fingerprint) // by the token alone
		mustToken(t, s)
		require.Len(t, v.queries(), 5)
		time.Sleep(5 * time.Minute) // no call has failed since: access is back
		mustToken(t, s)             // is refreshed beside
		synctest.Wait()
		time.Sleep(time.Minute)
		mustToken(t, s)
		require.Len(t, v.queries(), 6)
	})
}

func TestWithoutReauthTheRememberedTokenStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		s := v.source()
		fp := mustToken(t, s).Fingerprint
		for _, status := range []int{500, 503, 429, 408} {
			v.set(func() { v.fail = status })
			s.Stale("con-1", fp)
			time.Sleep(10 * time.Second)
			require.Equal(t, "token-1", mustToken(t, s).AccessToken, status)
		}
		_, err := s.Token(t.Context(), "con-2")
		require.ErrorContains(t, err, "status 408")

		v.set(func() { v.fail = 403 })
		time.Sleep(10 * time.Second)
		s.Stale("con-1", fp)
		_, err = s.Token(t.Context(), "con-1")
		require.ErrorContains(t, err, "the API key is refused")
		require.NotErrorIs(t, err, starter.ErrNoToken)

		v.set(func() { v.fail = 404 })
		time.Sleep(10 * time.Second)
		s.Stale("con-1", fp)
		_, err = s.Token(t.Context(), "con-1")
		require.ErrorIs(t, err, starter.ErrNoToken)
		require.ErrorContains(t, err, "register it")
		v.set(func() { v.fail = 500 })
		_, err = s.Token(t.Context(), "con-1")
		require.Error(t, err, "and is forgotten")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		v.set(func() { v.fail, v.slow = 0, time.Second })
		_, err = s.Token(ctx, "con-3")
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(2 * time.Second)
		require.Equal(t, "token-1", mustToken(t, s).AccessToken)
		_, err = s.Token(t.Context(), "../x")
		require.ErrorIs(t, err, starter.ErrRefused)
	})
}

func TestAwaitReturnsTheNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		v.status = "stale"
		s := v.source()
		mustToken(t, s)
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				token, err := s.Await(t.Context(), "con-1", 1)
				assert.NoError(t, err)
				assert.Equal(t, "token-2", token.AccessToken)
			})
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, 1, v.waiting, "one call waits for all")
		v.set(func() { v.fail = 503 }) // reauth is down for a while
		time.Sleep(time.Hour)
		v.set(func() { v.fail, v.token, v.gen, v.status = 0, "token-2", 2, "connected" })
		callers.Wait()
		require.Equal(t, "token-2", mustToken(t, s).AccessToken)
		token, err := s.Await(t.Context(), "con-1", 1)
		require.NoError(t, err)
		require.EqualValues(t, 2, token.Generation, "it is here already")
		require.Equal(t, "after=1&wait=50", v.queries()[1])
	})
}

func TestAwaitEndsWhereAccessIsBackWithTheSameToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		v.status = "stale"
		s := v.source()
		s.Stale("con-1", mustToken(t, s).Fingerprint)
		go func() {
			time.Sleep(time.Hour)
			v.set(func() { v.status = "connected" })
		}()
		began := time.Now()
		token, err := s.Recovered(t.Context(), "con-1")
		require.NoError(t, err) // (it is asked at once, having been told that it is stale)
		require.Equal(t, "token-1", token.AccessToken)
		require.GreaterOrEqual(t, time.Since(began), time.Hour)
		require.Less(t, time.Since(began), time.Hour+time.Minute)
		token, err = s.Recovered(t.Context(), "con-1")
		require.NoError(t, err)
		require.EqualValues(t, 1, token.Generation, "and is trusted from then on")
	})
}

func TestAwaitEndsWithItsContextAndWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		v.status = "stale"
		s := v.source()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		_, err := s.Await(ctx, "con-1", 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Zero(t, v.waiting, "nobody waits for it any more")

		v.set(func() { v.fail = 404 })
		_, err = s.Await(t.Context(), "con-1", 1)
		require.ErrorIs(t, err, starter.ErrNoToken)
		v.set(func() { v.fail = 500 })
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		asked := len(v.queries())
		_, err = s.Await(ctx, "con-1", 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, len(v.queries())-asked, 150, "with a growing pause")
		_, err = s.Await(t.Context(), "", 1)
		require.ErrorIs(t, err, starter.ErrRefused)
	})
}

// A server that answers at once is not asked without end.
func TestAwaitIsPatientWithAHastyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		v.status = "stale"
		s := v.source()
		s.Wait = time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_, err := s.Await(ctx, "con-1", 1)
		require.Error(t, err)
		require.Less(t, len(v.queries()), 60)
	})
}

func TestAnAnswerThatIsNoToken(t *testing.T) {
	for _, body := range []string{``, `{}`, `<p>SENTINEL</p>`, `{"access_token":7,"SENTINEL":1}`, `{"access_token":"","generation":3}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		_, err := (&starter.TokenSource{BaseURL: server.URL}).Token(t.Context(), "con-1")
		server.Close()
		require.ErrorContains(t, err, "the answer holds none", body)
		require.NotContains(t, err.Error(), "SENTINEL")
	}
	_, err := (&starter.TokenSource{BaseURL: "reauth"}).Token(t.Context(), "con-1")
	require.ErrorContains(t, err, "https://reauth.example.com")
}

func TestTokensAreNeverPrinted(t *testing.T) {
	token := starter.Token{AccessToken: "SENTINEL", Generation: 3}
	s := &starter.TokenSource{BaseURL: "https://reauth.example.com", APIKey: "SENTINEL"}
	tt := &starter.TokenTransport{Tokens: s}
	transport := &starter.Transport{Tokens: s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{token, &token, []starter.Token{token}, s, tt, transport} {
			require.NotContains(t, fmt.Sprintf(verb, v), "SENTINEL", "%s of %T", verb, v)
		}
	}
	encoded, err := json.Marshal(token)
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("a token", "token", token, "in", map[string]any{"token": token})
	require.NotContains(t, string(encoded)+log.String(), "SENTINEL")
}

func TestTransportTellsTheSourceWhichTokensFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault("token-1", 1)
		s := v.source()
		mustToken(t, s)
		var r reports
		transport := r.transport(answers(401, staleBody))
		transport.Tokens = s
		read(t, call(t, transport, company, unnamed("token-1")))
		synctest.Wait()
		require.Equal(t, "con-1", r.all()[0].ConnectionID, "the source knows whose token it has given out")
		mustToken(t, s)
		require.Len(t, v.queries(), 2)
		require.NoError(t, transport.Close(t.Context()))

		setup := r.transport(answers(401, setupBody))
		setup.Tokens = s
		time.Sleep(time.Hour)
		mustToken(t, s)
		synctest.Wait()
		read(t, call(t, setup, company))
		mustToken(t, s)
		require.Len(t, v.queries(), 3, "a missing permission is not the token's fault")
		require.NoError(t, setup.Close(t.Context()))
	})
}

// provider answers 200 to one token, and 401 to every other.
type provider struct {
	mu    sync.Mutex
	good  string
	calls []string // method and token
	body  []string
}

func (p *provider) RoundTrip(req *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	p.calls = append(p.calls, req.Method+" "+token)
	if req.Body != nil {
		text, _ := io.ReadAll(req.Body)
		p.body = append(p.body, string(text))
		_ = req.Body.Close()
	}
	if token == p.good {
		return answer(req, 200, io.NopCloser(strings.NewReader("data"))), nil
	}
	return answer(req, 401, io.NopCloser(strings.NewReader(staleBody))), nil
}

func TestTokenTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, p := newVault("token-1", 1), &provider{good: "token-1"}
		tt := &starter.TokenTransport{Base: p, Tokens: v.source()}
		do := func(method, url string, body io.Reader) (int, string) {
			t.Helper()
			req, err := http.NewRequestWithContext(starter.WithConnection(t.Context(), "con-1"), method, url, body)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer the caller's own")
			resp, err := tt.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, "Bearer the caller's own", req.Header.Get("Authorization"), "the request stays as it is")
			require.Same(t, req, resp.Request)
			return resp.StatusCode, read(t, resp)
		}
		status, text := do("GET", company, nil)
		require.Equal(t, 200, status)
		require.Equal(t, "data", text)

		// The token is replaced: a GET goes through with the new one.
		v.set(func() { v.token, v.gen = "token-2", 2 })
		p.good = "token-2"
		status, text = do("GET", company, nil)
		require.Equal(t, 200, status)
		require.Equal(t, "data", text)
		require.Equal(t, []string{"GET token-1", "GET token-1", "GET token-2"}, p.calls)

		// A POST is not made twice, but the next call has the new token.
		v.set(func() { v.token, v.gen = "token-3", 3 })
		p.good, p.calls = "token-3", nil
		status, text = do("POST", company, strings.NewReader("order"))
		require.Equal(t, 401, status)
		require.Equal(t, staleBody, text)
		status, _ = do("POST", company, strings.NewReader("order"))
		require.Equal(t, 200, status)
		require.Equal(t, []string{"POST token-2", "POST token-3"}, p.calls)
		require.Equal(t, []string{"order", "order"}, p.body)

		// Without a newer token the caller gets its 401, once.
		p.good, p.calls = "none", nil
		for range 10 {
			status, text = do("GET", company, nil)
			require.Equal(t, 401, status)
			require.Equal(t, staleBody, text)
		}
		require.Len(t, p.calls, 10)
		asked := len(v.queries())
		do("HEAD", company, nil)
		require.Len(t, v.queries(), asked, "reauth is not asked for every call that fails")
		v.set(func() { v.token, v.gen = "token-4", 4 })
		p.good, p.calls = "still none", nil
		time.Sleep(time.Minute)
		status, _ = do("HEAD", company, nil)
		require.Equal(t, 401, status)
		require.Len(t, p.calls, 1, "the token was asked for before the call")
	})
}

func TestTokenTransportLeavesOtherCallsAlone(t *testing.T) {
	v, p := newVault("token-1", 1), &provider{good: "the caller's own"}
	tt := &starter.TokenTransport{Base: p, Tokens: v.source()}
	for name, test := range map[string]struct{ connection, url string }{
		"no connection":   {"", company},
		"another host":    {"con-1", "https://elsewhere.example/employer/company"},
		"without TLS":     {"con-1", "http://api.tryfinch.com/employer/company"},
		"another port":    {"con-1", "https://api.tryfinch.com:8443/employer/company"},
		"a longer domain": {"con-1", "https://api.tryfinch.com.evil.example/"},
	} {
		req, err := http.NewRequestWithContext(starter.WithConnection(t.Context(), test.connection), "GET", test.url, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer the caller's own")
		resp, err := tt.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, name)
	}
	require.Empty(t, v.queries())
}

func TestTokenTransportWithoutAToken(t *testing.T) {
	v, p := newVault("", 0), &provider{}
	v.fail = 404
	tt := &starter.TokenTransport{Base: p, Tokens: v.source(), Connection: func(*http.Request) string { return "con-1" }}
	sent := &body{Reader: strings.NewReader("order")}
	req, err := http.NewRequestWithContext(t.Context(), "POST", company, sent)
	require.NoError(t, err)
	_, err = tt.RoundTrip(req)
	require.ErrorIs(t, err, starter.ErrNoToken)
	require.EqualValues(t, 1, sent.closes.Load())
	require.Empty(t, p.calls)
	base := &idle{}
	(&http.Client{Transport: &starter.TokenTransport{Base: base}}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)
}

func TestHTTPReporterReportsByToken(t *testing.T) {
	var path string
	var body map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, body = r.URL.Path, nil
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"connection_id":"con-1","case_id":"case-1","workflow_id":"reauth-con-1","created":true,"phase":"confirming"}`)
	}))
	defer server.Close()
	reporter := starter.HTTPReporter{BaseURL: server.URL, APIKey: "key-1"}
	fp := reauth.Fingerprint("token-1")
	require.NoError(t, reporter.Report(t.Context(), reauth.Input{TokenFingerprint: fp, Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user"}))
	require.Equal(t, "/v1/reports", path)
	require.Equal(t, map[string]any{"source": "api_error", "finch_code": "reauthenticate_user", "token_fingerprint": fp}, body)
	require.ErrorIs(t, reporter.Report(t.Context(), reauth.Input{}), starter.ErrRefused)
	require.ErrorIs(t, reporter.Report(t.Context(), reauth.Input{TokenFingerprint: "token-1"}), starter.ErrRefused)

	answer, err := reporter.Send(t.Context(), starter.Report{CustomerID: "cus_1", System: "Gusto", Source: reauth.SourceAPIError})
	require.NoError(t, err)
	require.Equal(t, starter.Answer{ConnectionID: "con-1", CaseID: "case-1", WorkflowID: "reauth-con-1", Created: true, Phase: reauth.PhaseConfirming}, answer)
	require.Equal(t, map[string]any{"source": "api_error", "customer_id": "cus_1", "system": "Gusto"}, body)
	_, err = reporter.Send(t.Context(), starter.Report{ConnectionID: "con-1"})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"source": "manual", "connection_id": "con-1"}, body)
}
