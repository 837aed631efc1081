package finch_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// gate is a Limiter that says what it is told to.
type gate struct {
	mu      sync.Mutex
	rooms   []finch.Room // one after the other; then there is room
	err     error
	asked   []finch.Call
	left    []finch.Call
	refused []refusal
}

type refusal struct {
	call       finch.Call
	after      time.Duration
	everything bool
}

func (g *gate) Ask(_ context.Context, c finch.Call) (finch.Room, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, c)
	if g.err != nil {
		return finch.Room{}, g.err
	}
	if len(g.rooms) == 0 {
		return finch.Room{Granted: true}, nil
	}
	room := g.rooms[0]
	g.rooms = g.rooms[1:]
	return room, nil
}

func (g *gate) Refused(_ context.Context, c finch.Call, after time.Duration, everything bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = append(g.refused, refusal{c, after, everything})
	return nil
}

func (g *gate) Leave(ctx context.Context, c finch.Call) error {
	g.left = append(g.left, c)
	return ctx.Err()
}

// limited is a client whose calls go through a LimitTransport.
type limited struct {
	*finch.Client
	gate  gate
	calls int // that reached Finch
	slept []time.Duration
	fates []finch.Fate
}

func newLimited(t *testing.T, answer http.HandlerFunc) *limited {
	t.Helper()
	l := &limited{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.calls++
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	l.Client = finch.New(finch.Config{BaseURL: server.URL, ClientID: "id", ClientSecret: "secret", HTTPClient: &http.Client{
		Transport: &finch.LimitTransport{
			Limiter: &l.gate, Application: "default",
			Count: func(_ context.Context, _ finch.Call, f finch.Fate) { l.fates = append(l.fates, f) },
			Sleep: func(ctx context.Context, d time.Duration) error { l.slept = append(l.slept, d); return ctx.Err() },
		},
	}})
	return l
}

func fine(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"connection_id": "c1", "access_token": "minted"}`)
}

var noon = time.Date(2026, 11, 2, 12, 34, 56, 0, time.UTC)

func TestACallWithoutRoomIsNotSent(t *testing.T) {
	l := newLimited(t, fine)
	l.gate.rooms = []finch.Room{{Again: 41500 * time.Millisecond, Until: noon}}
	_, err := l.Introspect(finch.WithPriority(t.Context(), finch.PriorityLook), "token-1")
	var refused *finch.Error
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, finch.CodeBudget, refused.FinchCode)
	assert.True(t, refused.IsRateLimited() && refused.Temporary())
	assert.Equal(t, "Finch's limit: waits until 12:34:56 UTC", refused.Message)
	assert.Equal(t, noon, refused.WaitsUntil)
	assert.InDelta(t, 41.5, refused.RetryAfter.Seconds(), 0.01)
	assert.Zero(t, l.calls)
	assert.Equal(t, []finch.Fate{finch.FateWaits}, l.fates)
	assert.Equal(t, []finch.Call{{Application: "default", Endpoint: "introspect", Priority: finch.PriorityLook, Waiter: reauth.Fingerprint("token-1")}}, l.gate.asked)
}

func TestAShortWaitIsWaited(t *testing.T) {
	l := newLimited(t, fine)
	l.gate.rooms = []finch.Room{{Again: 3 * time.Second}, {Again: 500 * time.Millisecond}}
	_, err := l.Introspect(t.Context(), "token-1")
	require.NoError(t, err)
	assert.Equal(t, []time.Duration{3 * time.Second, 500 * time.Millisecond}, l.slept)
	assert.Equal(t, []finch.Fate{finch.FateSent}, l.fates)
	assert.Equal(t, finch.PriorityVerify, l.gate.asked[0].Priority, "when nothing is said")

	l.gate.rooms = []finch.Room{{Again: 3 * time.Second}, {Again: 3 * time.Second}}
	_, err = l.Introspect(t.Context(), "token-1")
	var refused *finch.Error
	require.ErrorAs(t, err, &refused, "but not for ever")
	assert.Equal(t, finch.CodeBudget, refused.FinchCode)
}

func TestWhoGivesUpLeavesTheLine(t *testing.T) {
	l := newLimited(t, fine)
	l.gate.rooms = []finch.Room{{Again: time.Second}}
	ctx, cancel := context.WithCancel(t.Context())
	transport := &finch.LimitTransport{Limiter: &l.gate, Sleep: func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://finch.example/introspect", nil)
	require.NoError(t, err)
	_, err = transport.RoundTrip(r) //nolint:bodyclose // there is none
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, l.gate.left, 1)
}

// Without the database a token in hand is asked about all the same, and all
// else waits.
func TestWithoutTheLimiterOnlyVerifyGoesOut(t *testing.T) {
	l := newLimited(t, fine)
	l.gate.err = errors.New("the database is unavailable")
	_, err := l.Exchange(t.Context(), "code", "")
	require.NoError(t, err)
	for _, p := range []finch.Priority{finch.PriorityConfirm, finch.PriorityLook, finch.PrioritySweep, finch.PriorityImport} {
		_, err := l.Introspect(finch.WithPriority(t.Context(), p), "token-1")
		var refused *finch.Error
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, finch.CodeBudget, refused.FinchCode)
		assert.InDelta(t, 5, refused.RetryAfter.Seconds(), 0.01)
	}
	assert.Equal(t, 1, l.calls)
	assert.Equal(t, finch.FateBlind, l.fates[0])
}

func TestFinchsRefusalsAreTold(t *testing.T) {
	for name, test := range map[string]struct {
		body, retryAfter string
		want             refusal
	}{
		"with a time":  {`{"finch_code": "finch_application_rl"}`, "42", refusal{after: 42 * time.Second}},
		"without":      {`{"finch_code": "finch_application_rl"}`, "", refusal{}},
		"by IP":        {`{"finch_code": "finch_api_ip_rl"}`, "3600", refusal{after: time.Hour, everything: true}},
		"Connect's":    {`{"finch_code": "finch_auth_ip_rl"}`, "", refusal{everything: true}},
		"a gateway's":  {`<html>`, "7", refusal{after: 7 * time.Second}},
		"of any shape": {`{"finch_code": 7}`, "", refusal{}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLimited(t, func(w http.ResponseWriter, _ *http.Request) {
				if test.retryAfter != "" {
					w.Header().Set("Retry-After", test.retryAfter)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := l.Introspect(t.Context(), "token-1")
			var refused *finch.Error
			require.ErrorAs(t, err, &refused)
			assert.NotEqual(t, finch.CodeBudget, refused.FinchCode, "it is Finch's own")
			assert.Equal(t, test.want.after, refused.RetryAfter)
			test.want.call = l.gate.asked[0]
			assert.Equal(t, []refusal{test.want}, l.gate.refused)
			assert.Equal(t, []finch.Fate{finch.FateSent, finch.FateRefused}, l.fates)
		})
	}
}

// The transport reads the beginning of a refusal; whoever called reads all of it.
func TestARefusalIsPassedOnWhole(t *testing.T) {
	long := `{"finch_code": "finch_application_rl", "message": "` + strings.Repeat("x", 100<<10) + `"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, long)
	}))
	defer server.Close()
	client := http.Client{Transport: &finch.LimitTransport{Limiter: &gate{}}}
	resp, err := client.Get(server.URL + "/introspect")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, long, string(body))
}

func TestEndpointOf(t *testing.T) {
	for path, want := range map[string]string{
		"/introspect":                      "introspect",
		"/auth/token":                      finch.EndpointToken,
		"/connect/sessions":                "connect/sessions",
		"/connect/sessions/reauthenticate": "connect/sessions/reauthenticate",
		"/employer/company":                "company",
		"/employer/pay-statement":          "pay-statement",
		"/employer/benefits/6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1/individuals": "benefits/*/individuals",
		"/jobs/automated/42":          "jobs/automated/*",
		"/a/b/c/d/e":                  "a/b/c/d",
		"/" + strings.Repeat("x", 50): "*",
		"/":                           "*",
	} {
		assert.Equal(t, want, finch.EndpointOf(httptest.NewRequest(http.MethodGet, path, nil)), path)
	}
}

func TestParseLimits(t *testing.T) {
	minute := finch.Limit{Calls: 20, Window: time.Minute}
	limits, err := finch.ParseLimits("20/1m")
	require.NoError(t, err)
	assert.Equal(t, finch.DefaultLimits(), limits)
	assert.Equal(t, minute, limits.Of("introspect"))
	assert.Equal(t, finch.Limit{Calls: 12, Window: time.Minute}, limits.Of("payment"))
	assert.Zero(t, limits.Of(finch.EndpointToken))
	assert.Zero(t, limits.Of("connect/sessions/reauthenticate"))

	limits, err = finch.ParseLimits("100/1m, introspect=40/90s company=off connect/sessions/reauthenticate=5/1s ip=5000/1h")
	require.NoError(t, err)
	assert.Equal(t, finch.Limit{Calls: 40, Window: 90 * time.Second}, limits.Of("introspect"))
	assert.Zero(t, limits.Of("company"))
	assert.Equal(t, finch.Limit{Calls: 100, Window: time.Minute}, limits.Of("directory"))
	assert.Equal(t, finch.Limit{Calls: 5, Window: time.Second}, limits.Of("connect/sessions/reauthenticate"))
	assert.Equal(t, finch.Limit{Calls: 5000, Window: time.Hour}, limits.Together)
	again, err := finch.ParseLimits(limits.String())
	require.NoError(t, err, limits.String())
	assert.Equal(t, limits, again)

	off, err := finch.ParseLimits(" off ")
	require.NoError(t, err)
	assert.Zero(t, off)

	for text, says := range map[string]string{
		"":                          "empty",
		"20":                        "as 20/1m",
		"20/min":                    "as 20/1m",
		"0/1m":                      "from 1 to",
		"-1/1m":                     "from 1 to",
		"20/2h":                     "from 1s to 1h",
		"20/1ms":                    "from 1s to 1h",
		"introspect":                "as 20/1m",
		"introspect=":               "as 20/1m",
		"/introspect=20/1m":         "without /employer",
		"Introspect=20/1m":          "without /employer",
		"=20/1m":                    "without /employer",
		"20/1m 30/1m":               "named twice",
		"company=1/1m company=2/1m": "named twice",
		"auth/token=20/1m":          "a code lives ten minutes",
	} {
		_, err := finch.ParseLimits(text)
		require.ErrorContains(t, err, says, text)
	}
}
