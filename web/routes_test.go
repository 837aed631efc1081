package web

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// call is a call of the API, as its own description has it: a new route is in
// every test here by itself.
type call struct {
	method, path string
	scopes       []string
}

func (c call) String() string { return c.method + " " + c.path }

// with fills the path's parameters in.
func (c call) with(values map[string]string) string {
	path := c.path
	for name, value := range values {
		path = strings.ReplaceAll(path, "{"+name+"}", value)
	}
	for strings.Contains(path, "{") {
		before, rest, _ := strings.Cut(path, "{")
		_, after, _ := strings.Cut(rest, "}")
		path = before + "some-id" + after
	}
	return path
}

// calls lists every call of the API, in order.
func (f *fixture) calls() []call {
	f.t.Helper()
	var description struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string
		}
	}
	f.api(200, "GET", "/openapi.json", nil, &description, noKey)
	var calls []call
	for _, path := range slices.Sorted(maps.Keys(description.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(description.Paths[path])) {
			op := description.Paths[path][method]
			require.Len(f.t, op.Security, 1, "%s %s says which key it needs", method, path)
			calls = append(calls, call{strings.ToUpper(method), path, op.Security[0]["key"]})
		}
	}
	require.GreaterOrEqual(f.t, len(calls), 19)
	return calls
}

// key makes a key.
func (f *fixture) key(k db.APIKey) string {
	f.t.Helper()
	secret := secrets.NewAPIKey()
	f.hidden = append(f.hidden, secret)
	_, err := f.db.CreateAPIKey(f.t.Context(), k, secrets.HashAPIKey(secret))
	require.NoError(f.t, err)
	return secret
}

func bearer(key string) option { return header("Authorization", "Bearer "+key) }

// elsewhere gives each request an address of its own, so that none is limited.
func elsewhere() option {
	addresses++
	return from(fmt.Sprintf("10.%d.%d.%d:1", addresses>>16&255, addresses>>8&255, addresses&255))
}

var addresses int

func TestAWrongKeyAtEveryCall(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	past, soon := f.clock().Add(-time.Second), f.clock().Add(time.Hour)
	revoked := f.key(db.APIKey{Name: "revoked", Scopes: Scopes()})
	k, err := f.db.APIKeyByName(t.Context(), "revoked")
	require.NoError(t, err)
	require.NoError(t, f.db.RevokeAPIKey(t.Context(), k.ID))
	good := f.key(db.APIKey{Name: "good", Scopes: Scopes(), ExpiresAt: &soon})
	typo := []byte(good)
	if typo[20]++; good[20] == 'z' || good[20] == 'Z' || good[20] == '9' { // stay in the key's alphabet
		typo[20] = 'a'
	}
	f.hidden = append(f.hidden, string(typo))
	without := map[string]string{}
	for _, scope := range Scopes() {
		rest := slices.DeleteFunc(Scopes(), func(s string) bool { return s == scope })
		without[scope] = f.key(db.APIKey{Name: "no-" + strings.ReplaceAll(scope, ":", "-"), Scopes: rest})
	}
	wrong := map[string]struct {
		authorization, detail string
	}{
		"no key":        {"", "An API key is missing"},
		"no scheme":     {good, "not understood"},
		"unknown":       {"Bearer " + secrets.NewAPIKey(), "not known, or it was revoked or has expired"},
		"chosen":        {"Bearer not-Hush-a-key", "not known, or it was revoked or has expired"},
		"mistyped":      {"Bearer " + string(typo), "mistyped or cut off"},
		"revoked":       {"Bearer " + revoked, "not known, or it was revoked or has expired"},
		"expired":       {"Bearer " + f.key(db.APIKey{Name: "expired", Scopes: Scopes(), ExpiresAt: &past}), "not known, or it was revoked or has expired"},
		"without scope": {"Bearer " + f.key(db.APIKey{Name: "none"}), "lacks the scope"},
	}
	before := f.dump()
	calls := append(f.calls(), call{"GET", "/metrics", []string{ScopeMetrics}})
	for _, c := range calls {
		for name, w := range wrong {
			p := f.problem(map[bool]int{true: 403, false: 401}[name == "without scope"], c.method, c.with(map[string]string{"connection_id": connID}), nil,
				header("Authorization", w.authorization), elsewhere())
			require.Contains(t, p.Detail, w.detail, "%s with a key that is: %s", c, name)
		}
		// A key with every other scope is refused as well, where one is needed.
		if len(c.scopes) == 1 {
			f.problem(403, c.method, c.with(nil), nil, bearer(without[c.scopes[0]]), elsewhere())
		}
	}
	for _, path := range []string{"/codec/decode", "/codec/encode"} {
		for name, w := range wrong {
			require.Equal(t, 401, f.do("POST", path, `{"payloads":[]}`, header("Authorization", w.authorization), elsewhere()).Code, "%s with a key that is: %s", path, name)
		}
	}
	require.Equal(t, before, f.dump(), "nothing was changed")
	require.Empty(t, f.temporal.signals)
	require.Empty(t, f.temporal.reports)
}

// dump is the content of every table but what keys and limits leave behind.
func (f *fixture) dump() map[string]string {
	f.t.Helper()
	pool := f.pool()
	defer func() { _ = pool.Close() }()
	var tables []string
	rows, err := pool.QueryContext(f.t.Context(), `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'`)
	require.NoError(f.t, err)
	defer rows.Close()
	for rows.Next() {
		var table string
		require.NoError(f.t, rows.Scan(&table))
		if table != "api_keys" && table != "budgets" {
			tables = append(tables, table)
		}
	}
	require.NoError(f.t, rows.Err())
	content := map[string]string{}
	for _, table := range tables {
		var text string
		require.NoError(f.t, pool.QueryRowContext(f.t.Context(), `SELECT coalesce(json_agg(t ORDER BY t::text)::text, '') FROM `+table+` t`).Scan(&text))
		content[table] = text
	}
	return content
}

// Two tenants: whatever a key of one does, nothing of the other is shown, changed
// or told to anybody.
func TestAForeignKeyAtEveryCall(t *testing.T) {
	const theirs, storm = "theirs-1", "storm-1"
	f := newFixture(t, func(c *Config) {
		c.FindConnection = func(context.Context, string, string, string) (string, error) { return theirs, nil }
	})
	put := func(id, application, customer string) {
		_, err := f.db.PutConnection(t.Context(), reauth.Connection{
			ConnectionID: id, Provider: reauth.Finch, Application: application, CustomerName: customer, CustomerID: "cus-" + id,
			Contacts: []reauth.Contact{{Email: "person@" + application + ".example"}},
		})
		require.NoError(t, err)
		require.NoError(t, f.db.AddEvent(t.Context(), db.Event{ConnectionID: id, Kind: "note", Detail: "secret of " + customer, At: f.clock()}))
	}
	put(theirs, "acme", "Coyote Supplies")
	put("mine-1", "globex", "Hank's")
	f.open(theirs, "case-theirs", reauth.PhaseAwaitingCustomer)
	f.open("mine-1", "case-mine", reauth.PhaseAwaitingCustomer)
	s := &server{Config: f.config, limits: newLimiters(f.config.Limits)}
	f.adoptToken(s, theirs, "token-theirs")
	// A token that the provider says is theirs.
	f.introspect = func(string, string) (finch.Introspection, error) {
		return finch.Introspection{ConnectionID: theirs, Connection: finch.ConnectionStatus{Status: finch.StatusConnected}}, nil
	}
	key := f.key(db.APIKey{Name: "globex", Scopes: Scopes(), Application: "globex"})
	marks := []string{theirs, "case-theirs", "Coyote", "acme", "token-theirs", "cus-theirs"}

	bodies := []any{nil, `{}`, map[string]any{"source": "manual"}, map[string]any{"reason": "x"}, map[string]any{"code": "code-Hush"},
		map[string]any{"until": f.clock().Add(time.Hour)}, map[string]any{"email": "person@acme.example"}, map[string]any{"access_token": "token-theirs"},
		map[string]any{"connection_id": theirs, "source": "manual"}, map[string]any{"customer_id": "cus-theirs-1", "source": "manual"},
		map[string]any{"customer_id": "cus-theirs-1", "source": "manual", "ask_provider": true, "customer_name": "Anybody"},
		map[string]any{"customer_id": "cus-theirs-1", "source": "manual", "application": "acme"},
		map[string]any{"token_fingerprint": reauth.Fingerprint("token-theirs"), "source": "manual"}}
	before := f.dump()
	for _, c := range f.calls() {
		about := strings.Contains(c.path, "{connection_id}")
		for _, body := range bodies {
			w := f.do(c.method, c.with(map[string]string{"connection_id": theirs, "storm_id": storm, "case_id": "case-theirs"}), body, bearer(key), elsewhere())
			text := strings.ReplaceAll(w.Body.String(), theirs+" is not registered. PUT /v1/connections/"+theirs, "")
			text = strings.ReplaceAll(text, "The connection "+theirs+" cannot be registered with this API key.", "")
			for _, mark := range marks {
				require.NotContains(t, text, mark, "%s shows another tenant's %s", c, mark)
			}
			require.Less(t, w.Code, 500, "%s: %s", c, w.Body.String())
			if about {
				require.Equal(t, 404, w.Code, "%s: %s", c, w.Body.String())
			}
		}
		// A connection that does not exist is answered in the same words.
		if about && c.method != "PUT" {
			unknown := f.do(c.method, c.with(map[string]string{"connection_id": "nobody-1"}), map[string]any{"source": "manual", "reason": "x"}, bearer(key), elsewhere())
			foreign := f.do(c.method, c.with(map[string]string{"connection_id": theirs}), map[string]any{"source": "manual", "reason": "x"}, bearer(key), elsewhere())
			if unknown.Code == 404 {
				require.Equal(t, strings.ReplaceAll(unknown.Body.String(), "nobody-1", theirs), foreign.Body.String(), "%s", c)
			}
		}
	}
	for _, path := range []string{"/metrics", "/codec/decode"} {
		w := f.do(map[bool]string{true: "GET", false: "POST"}[path == "/metrics"], path, `{"payloads":[]}`, bearer(key), elsewhere())
		require.Contains(t, []int{401, 403}, w.Code, "%s is of all applications", path)
	}
	after := f.dump()
	for table, content := range before {
		require.Equal(t, content, after[table], "%s was changed", table)
	}
	require.Empty(t, f.temporal.signals)
	require.Empty(t, f.temporal.reports)
	require.Empty(t, f.temporal.codes)
	require.Empty(t, f.temporal.redeems)
}

// adoptToken stores a token as a connection's.
func (f *fixture) adoptToken(s *server, connectionID, token string) {
	f.t.Helper()
	_, err := f.db.Adopt(f.t.Context(), db.Adoption{
		ConnectionID: connectionID, Fingerprint: reauth.Fingerprint(token), Source: "api", MintedAt: f.clock(),
		Seal: func(generation int64) ([]byte, error) {
			return s.Keys.Seal([]byte(token), db.TokenBound(connectionID, generation)...)
		},
	})
	require.NoError(f.t, err)
}

// What a limited key may do, it does.
func TestALimitedKey(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Applications = []Application{{Name: "globex"}, {Name: "acme"}} })
	key := bearer(f.key(db.APIKey{Name: "globex", Scopes: Scopes(), Application: "globex"}))
	for _, body := range []map[string]any{{"customer_name": "Hank's"}, {"customer_name": "Hank's", "application": "globex"}} {
		f.api(map[bool]int{true: 200, false: 201}[body["application"] != nil], "PUT", "/v1/connections/mine-1", body, nil, key)
	}
	var c reauth.Connection
	f.api(200, "GET", "/v1/connections/mine-1", nil, &c, key)
	require.Equal(t, "globex", c.Application, "what it registers is its application's")
	p := f.problem(422, "PUT", "/v1/connections/mine-1", map[string]any{"application": "acme"}, key)
	require.Equal(t, "body.application: must be globex, which the API key is for, or absent", p.Detail)

	// A token of another application's connection is of no use either.
	_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: connID, Application: "acme"})
	require.NoError(t, err)
	f.problem(404, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush"}, key)
	f.problem(404, "PUT", "/v1/connections/"+connID, map[string]any{}, key)

	var list ConnectionList
	f.api(200, "GET", "/v1/connections", nil, &list, key)
	require.Len(t, list.Connections, 1)
	f.api(200, "GET", "/v1/connections", nil, &list)
	require.Len(t, list.Connections, 2, "a key without a limit sees all")
	f.api(202, "POST", "/v1/connections/mine-1/reauth", map[string]any{"source": "manual"}, nil, key)
	f.api(202, "POST", "/v1/reports", map[string]any{"source": "manual", "connection_id": "mine-1"}, nil, key)
	var cases CaseList
	f.open(connID, "case-acme", reauth.PhaseConfirming)
	f.api(200, "GET", "/v1/cases", nil, &cases, key)
	require.Len(t, cases.Cases, 1)
	f.api(202, "POST", "/v1/connections/mine-1/reauth/cancel", map[string]any{"reason": "enough"}, nil, key)
	require.Equal(t, []reauth.Cancel{{Reason: "enough", By: "key globex"}}, f.temporal.cancels)
	f.api(204, "DELETE", "/v1/connections/mine-1", nil, nil, key)
	require.Contains(t, f.problem(403, "GET", "/v1/storms", nil, key).Detail, "is for the application globex alone")
	require.Contains(t, f.problem(403, "POST", "/v1/contacts/bounce", map[string]any{"email": "a@b.example"}, key).Detail, "about all of them")

	f.dbDown()
	f.problem(503, "GET", "/v1/connections/mine-1", nil, key)
}

// Who did something stands in the timeline.
func TestWhoDidSomething(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	anna := bearer(f.key(db.APIKey{Name: "ops-anna", Scopes: Scopes()}))
	f.api(204, "DELETE", "/v1/connections/"+connID, nil, nil, anna)
	f.api(204, "DELETE", "/v1/connections/"+connID, nil, nil, anna)
	require.Equal(t, "key ops-anna", f.temporal.cancels[0].By)
	var detail CaseDetail
	f.api(200, "GET", reportURL, nil, &detail)
	var lines []string
	for _, e := range detail.Timeline {
		lines = append(lines, e.Kind+" "+e.Detail)
	}
	require.Contains(t, lines, "connection_removed The connection was removed by key ops-anna.")
	require.Equal(t, 1, strings.Count(strings.Join(lines, "\n"), "connection_removed"), "a repeated call did nothing")
}

func TestWrongKeysFromOneAddress(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Limits.Refused = Rate{Count: 2, Per: time.Minute, Burst: 3} })
	f.register(connID)
	const path = "/v1/connections/" + connID
	other := f.key(db.APIKey{Name: "other", Scopes: Scopes()})
	here := from("192.0.2.7:1")
	f.api(200, "GET", path, nil, nil, here) // a good key, known from here
	f.problem(401, "GET", path, nil, noKey, here)
	for range 3 {
		f.problem(401, "GET", path, nil, bearer(secrets.NewAPIKey()), here)
	}
	w := f.do("GET", path, nil, bearer(secrets.NewAPIKey()), here)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "30", w.Header().Get("Retry-After"))
	require.Equal(t, 429, f.do("GET", path, nil, bearer(other), here).Code, "no key is looked at, not even a good one that nobody used from here")
	require.Equal(t, 429, f.do("GET", "/metrics", nil, bearer(other), here).Code)
	f.api(200, "GET", path, nil, nil, here)                       // the one that works goes on
	f.api(200, "GET", path, nil, nil, bearer(other), elsewhere()) // and so do other addresses
	f.problem(401, "GET", path, nil, noKey, here)                 // a missing key is no guess
	f.advance(30 * time.Second)
	f.api(200, "GET", path, nil, nil, bearer(other), here)
	require.NotContains(t, f.log.String(), "192.0.2.7")
}

func TestCallsOfOneKey(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Limits.Key = Rate{Count: 1, Per: time.Second, Burst: 5} })
	f.register(connID)
	const path = "/v1/connections/" + connID
	other := bearer(f.key(db.APIKey{Name: "other", Scopes: Scopes()}))
	for range 5 {
		f.api(200, "GET", path, nil, nil, elsewhere())
	}
	w := f.do("GET", path, nil, elsewhere())
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "1 a second are answered")
	f.api(200, "GET", path, nil, nil, other)
	f.advance(2 * time.Second)
	f.api(200, "GET", path, nil, nil)
}

func TestPagesOfOneAddress(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Limits.Address = Rate{Count: 1, Per: time.Second, Burst: 3}
		c.Limits.Webhooks = Rate{Count: 1, Per: time.Second, Burst: 2}
	})
	link := f.ready(connID)
	here := from("192.0.2.7:1")
	for range 3 {
		require.Equal(t, 200, f.visit("GET", link, here).Code)
	}
	w := f.visit("GET", link, here)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	f.problem(429, "GET", "/nowhere", nil, here)

	// What must never be refused: the service's own probes, the API, and a customer
	// who comes back with a code, from however large an office.
	f.api(200, "GET", "/healthz", nil, nil, noKey, here)
	f.api(200, "GET", "/v1/cases", nil, nil, here)
	_, jar := f.press(link)
	for i := range 10 {
		require.Equal(t, 303, f.visit("GET", fmt.Sprintf("/callback?code=code-Hush-%d", i), here, cookies(jar)).Code)
	}
	require.Len(t, f.temporal.codes, 10)
	// Nobody knows whose this one is: its page tries again by itself.
	w = f.visit("GET", "/callback?code=code-Hush-unknown", here)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Refresh"))

	for range 2 {
		require.Equal(t, 401, f.do("POST", "/webhooks/finch", `{}`, noKey, here).Code)
	}
	f.problem(429, "POST", "/webhooks/finch", `{}`, noKey, here)
	f.advance(time.Minute)
	require.Equal(t, 200, f.visit("GET", link, here).Code)
}

func TestALimiterForgetsWhoWasQuiet(t *testing.T) {
	now := time.Now()
	l := newLimiter(Rate{Count: 1, Per: time.Second, Burst: 2})
	for i := range 3 * maxBuckets {
		_, ok := l.take(fmt.Sprint(i), now)
		require.True(t, ok)
		require.LessOrEqual(t, len(l.buckets), maxBuckets)
	}
	now = now.Add(time.Minute)
	for i := range maxBuckets {
		l.take(fmt.Sprint("later ", i), now)
	}
	require.LessOrEqual(t, len(l.buckets), maxBuckets)
	never := newLimiter(NoLimit())
	for range 1000 {
		_, ok := never.take("one", now)
		require.True(t, ok)
	}
	_, empty := never.empty("one", now)
	require.False(t, empty)
}

// Every request has an end, and every body a bound.
func TestEveryRequestIsBounded(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	var left time.Duration
	s := &server{Config: f.config, limits: newLimiters(f.config.Limits)}
	require.NoError(t, s.Config.check())
	var err error
	s.metrics, err = newMetrics(s.Registry)
	require.NoError(t, err)
	r := httptest.NewRequest("GET", "/", nil)
	s.observe(httptest.NewRecorder(), r, func(_ http.ResponseWriter, r *http.Request) {
		deadline, ok := r.Context().Deadline()
		require.True(t, ok)
		left = time.Until(deadline)
	})
	require.Positive(t, left)
	require.LessOrEqual(t, left, maxWorking)

	large, err := json.Marshal(strings.Repeat("x", maxBody+1))
	require.NoError(t, err)
	for _, c := range append(f.calls(), call{"POST", "/webhooks/finch", nil}) {
		if c.method == "GET" || c.method == "DELETE" {
			continue
		}
		path := c.with(map[string]string{"connection_id": connID})
		largest, working := boundsOf(httptest.NewRequest(c.method, path, nil))
		require.Positive(t, largest, "%s", c)
		require.Positive(t, working, "%s", c)
		if largest > maxBody {
			continue // larger bodies are its business, and it says how large
		}
		w := f.do(c.method, path, string(large), elsewhere())
		if strings.HasSuffix(c.path, "/remind") || strings.HasSuffix(c.path, "/session") || strings.HasSuffix(c.path, "/release") || strings.HasSuffix(c.path, "/disconnect") {
			continue // they read no body
		}
		require.Equal(t, http.StatusRequestEntityTooLarge, w.Code, "%s: %s", c, w.Body.String())
	}
}
