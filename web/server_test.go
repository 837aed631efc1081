package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

func TestConfig(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"DB", func(c *Config) { c.DB = nil }, "DB is missing"},
		{"Keys", func(c *Config) { c.Keys = nil }, "Keys are missing"},
		{"Starter", func(c *Config) { c.Starter = nil }, "Starter is missing"},
		{"Introspect", func(c *Config) { c.Introspect = nil }, "Introspect is missing"},
		{"TemporalHealth", func(c *Config) { c.TemporalHealth = nil }, "TemporalHealth is missing"},
		{"no PublicURL", func(c *Config) { c.PublicURL = "" }, `PublicURL must be an absolute http or https URL without a path, as "https://reauth.example.com"`},
		{"PublicURL without a scheme", func(c *Config) { c.PublicURL = "reauth.example.com" }, "PublicURL"},
		{"PublicURL with a path", func(c *Config) { c.PublicURL = "https://a.example/reauth" }, "PublicURL"},
		{"PublicURL with a query", func(c *Config) { c.PublicURL = "https://a.example?x" }, "PublicURL"},
		{"PublicURL with a user", func(c *Config) { c.PublicURL = "https://u:p@a.example" }, "PublicURL"},
		{"ConnectHosts with a scheme", func(c *Config) { c.ConnectHosts = []string{"https://a.example"} }, `ConnectHosts holds "https://a.example"`},
		{"an empty connect host", func(c *Config) { c.ConnectHosts = []string{""} }, "ConnectHosts"},
		{"ConnectHosts with a policy in it", func(c *Config) { c.ConnectHosts = []string{"a.example; script-src *"} }, "ConnectHosts"},
		{"CodecOrigins with a slash", func(c *Config) { c.CodecOrigins = []string{"http://localhost:8233/"} }, "CodecOrigins"},
		{"a codec that all the world can use", func(c *Config) { c.CodecOpen = true }, "only their own machine can reach"},
		{"metrics that all the world can read", func(c *Config) { c.MetricsOpen = true }, "only their own machine can reach"},
		{"every origin", func(c *Config) { c.CodecOrigins = []string{"*"} }, "CodecOrigins"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := f.config
			test.change(&c)
			_, err := New(c)
			require.ErrorContains(t, err, test.want)
		})
	}
	c := f.config
	c.PublicURL, c.ConnectHosts, c.ProductName = "https://a.example/", nil, ""
	require.NoError(t, c.check())
	require.Equal(t, "https://a.example", c.PublicURL)
	require.Equal(t, []string{"connect.tryfinch.com"}, c.ConnectHosts)
	require.NotEmpty(t, c.ProductName)

	f.dbDown()
	_, err := New(f.config)
	require.ErrorContains(t, err, "storing the bootstrap API key")
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	f.api(200, "GET", "/healthz", nil, nil, noKey)
	var h Health
	f.api(200, "GET", "/readyz", nil, &h, noKey)
	require.Equal(t, Health{Status: "ok", Parts: map[string]string{"database": "ok", "temporal": "ok"}, Mail: "on"}, h)
	f.health = errDown
	f.api(503, "GET", "/readyz", nil, &h, noKey)
	require.Equal(t, Health{Status: "unavailable", Parts: map[string]string{"database": "ok", "temporal": "down"}, Mail: "on"}, h)
	f.dbDown()
	f.api(503, "GET", "/readyz", nil, &h, noKey)
	require.Equal(t, "down", h.Parts["database"])
	f.api(200, "GET", "/healthz", nil, nil, noKey)
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.press(f.ready(connID))
	f.api(202, "POST", reportURL, map[string]any{"source": "sweep"}, nil)
	f.event("msg_1", `{"event_type":"test"}`)
	f.visit("GET", "/callback?code=a&code=b")
	f.do("BREW", "/r/Hush", nil)
	f.do("GET", "/wp-admin/Hush.php", nil)
	text := f.api(200, "GET", "/metrics", nil, nil).Body.String()
	for _, line := range []string{
		`reauth_clicks_total 1`,
		`reauth_reports_total{created="false",source="sweep"} 1`,
		`reauth_returns_total{result="malformed"} 1`,
		`reauth_webhooks_total{provider="finch",result="ignored"} 1`,
		`http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="303",http_route="/r/{link}"} 1`,
		`http_server_request_duration_seconds_count{http_request_method="other",http_response_status_code="405",http_route="unknown"} 1`,
		`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",http_route="unknown"} 1`,
	} {
		require.Contains(t, text, line)
	}
	f.checkHidden("metrics", text)
	require.NotContains(t, text, connID)
}

func TestAccessLog(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	f.visit("GET", link+"?x=Hush")
	w := f.do("GET", "/v1/connections/"+connID, nil, header("X-Request-Id", "req-7"))
	require.Equal(t, "req-7", w.Header().Get("X-Request-Id"))
	w = f.do("GET", "/callback?code=code-Hush&state=Hush", nil, header("X-Request-Id", "bad id\nHush"))
	require.NotEqual(t, "bad id\nHush", w.Header().Get("X-Request-Id"))
	require.NotEmpty(t, w.Header().Get("X-Request-Id"))
	f.visit("GET", stopPage(link)+"?x=Hush")
	f.visit("POST", stopPage(link)+"?x=Hush", form("what=not_me"))

	var lines []map[string]any
	for line := range strings.Lines(f.log.String()) {
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		if entry["msg"] == "http request" {
			lines = append(lines, entry)
		}
	}
	require.Len(t, lines, 5)
	require.Equal(t, "/r/{link}", lines[0]["route"])
	require.Equal(t, "GET", lines[0]["method"])
	require.EqualValues(t, 200, lines[0]["status"])
	require.Contains(t, lines[0], "duration_ms")
	require.Equal(t, "/v1/connections/{connection_id}", lines[1]["route"])
	require.Equal(t, "req-7", lines[1]["request_id"])
	require.Equal(t, "bootstrap", lines[1]["api_key"])
	require.Equal(t, "/callback", lines[2]["route"])
	require.Equal(t, "/stop/{link}", lines[3]["route"])
	require.Equal(t, "/stop/{link}", lines[4]["route"])
	require.NotContains(t, f.log.String(), link)
}

func TestPanics(t *testing.T) {
	f := newFixture(t)
	f.introspect = func(_, token string) (finch.Introspection, error) { panic("boom " + token) }
	p := f.problem(http.StatusInternalServerError, "PUT", connectionURL, map[string]any{"access_token": "token-Hush"})
	require.NotContains(t, p.Detail, "boom")
	require.Contains(t, f.log.String(), "a handler panicked")
	require.Contains(t, f.log.String(), "TestPanics", "the log says where")
	require.NotContains(t, f.log.String(), "boom")
	require.Equal(t, http.StatusOK, f.do("GET", "/healthz", nil).Code, "the service goes on")

	f.introspect = func(string, string) (finch.Introspection, error) { panic(http.ErrAbortHandler) }
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { f.do("PUT", connectionURL, map[string]any{"access_token": "token-Hush"}) })
}

func TestNothingThere(t *testing.T) {
	f := newFixture(t)
	require.Contains(t, f.problem(404, "GET", "/v1/nothing", nil).Detail, "/docs")
	require.Contains(t, f.problem(404, "GET", "/v2/Hush", nil).Detail, "/docs")
	w := f.do("PATCH", connectionURL, nil)
	require.Equal(t, 405, w.Code)
	require.Equal(t, "DELETE, GET, HEAD, PUT", w.Header().Get("Allow"))
	require.Contains(t, w.Body.String(), "This address takes DELETE, GET, HEAD, PUT.")
	require.Equal(t, "This link does not work", title(f.visit("GET", "/r/")))
	require.Equal(t, "This link does not work", title(f.visit("GET", "/done/a/b")))
	w = f.visit("POST", "/callback")
	require.Equal(t, 405, w.Code)
	require.Equal(t, "That did not work", title(w))
	for _, path := range []string{"/r", "//r/x", "/r/../v1/cases", "/%2e%2e/x"} {
		w := f.do("GET", path, nil, noKey)
		require.Less(t, w.Code, 500, path)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	}
}

func TestAssets(t *testing.T) {
	f := newFixture(t)
	page := f.visit("GET", f.ready(connID)).Body.String()
	style := regexp.MustCompile(`href="(/assets/style\.css\?v=[0-9a-f]+)"`).FindStringSubmatch(page)
	require.NotNil(t, style)
	w := f.do("GET", style[1], nil, noKey)
	require.Equal(t, 200, w.Code)
	require.Equal(t, "text/css; charset=utf-8", w.Header().Get("Content-Type"))
	require.Contains(t, w.Header().Get("Cache-Control"), "immutable")
	require.NotContains(t, w.Body.String(), "url(")
	require.NotContains(t, w.Body.String(), "@import")
	require.NotContains(t, f.do("GET", "/assets/style.css?v=old", nil).Header().Get("Cache-Control"), "immutable")
	require.Equal(t, "image/svg+xml", f.do("GET", "/assets/icon.svg", nil).Header().Get("Content-Type"))
	for _, path := range []string{"/assets/page.html", "/assets/..%2ftemplates%2fpage.html", "/assets/"} {
		require.Equal(t, 404, f.do("GET", path, nil).Code, path)
	}
}

func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	w := f.do("GET", "/openapi.json", nil, noKey)
	require.Equal(t, 200, w.Code)
	var api struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Security    []map[string][]string
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &api))
	require.Equal(t, "3.1.0", api.OpenAPI)
	want := map[string][]string{
		"/v1/connections":                                {"get", "post"},
		"/v1/connections/{connection_id}":                {"delete", "get", "put"},
		"/v1/connections/{connection_id}/reauth":         {"get", "post"},
		"/v1/connections/{connection_id}/reauth/code":    {"post"},
		"/v1/connections/{connection_id}/reauth/cancel":  {"post"},
		"/v1/connections/{connection_id}/reauth/snooze":  {"post"},
		"/v1/connections/{connection_id}/reauth/remind":  {"post"},
		"/v1/connections/{connection_id}/reauth/stop":    {"post"},
		"/v1/contacts/bounce":                            {"post"},
		"/v1/contacts/restore":                           {"post"},
		"/v1/contacts/forget":                            {"post"},
		"/v1/connections/{connection_id}/reauth/session": {"post"},
		"/v1/connections/{connection_id}/token":          {"get"},
		importPath:                                       {"post"},
		"/v1/imports":                                    {"get"},
		"/v1/imports/{import_id}":                        {"get"},
		"/v1/imports/{import_id}/rejected":               {"get"},
		"/v1/reports":                                    {"post"},
		"/v1/cases":                                      {"get"},
		"/v1/quarantine":                                 {"get"},
		"/v1/quarantine/{fingerprint}":                   {"delete"},
		"/v1/quarantine/{fingerprint}/disconnect":        {"post"},
		"/v1/storms":                                     {"get"},
		"/v1/storms/{storm_id}/release":                  {"post"},
		"/v1/mail":                                       {"get", "put"},
		"/v1/cases:cancel":                               {"post"},
		"/v1/cases:snooze":                               {"post"},
		"/v1/cases:stop":                                 {"post"},
		"/v1/cases:release":                              {"post"},
		"/v1/bulk":                                       {"get"},
		"/v1/bulk/{bulk_id}":                             {"get"},
	}
	require.Len(t, api.Paths, len(want))
	for path, methods := range want {
		for _, method := range methods {
			op, ok := api.Paths[path][method]
			require.True(t, ok, "%s %s", method, path)
			require.Len(t, op.Security, 1)
			require.NotEmpty(t, op.Security[0]["key"])
			require.Contains(t, op.Responses, "401")
		}
	}
	require.NotContains(t, w.Body.String(), "$schema")
	require.Contains(t, w.Body.String(), `"writeOnly":true`)

	// The pattern of connection IDs is the contract's own.
	pattern := regexp.MustCompile(regexp.MustCompile(`"pattern":"(\^\[A-Za-z0-9\][^"]*)"`).FindStringSubmatch(w.Body.String())[1])
	for _, id := range []string{"a", "a.b_c:d-e", strings.Repeat("a", 128), strings.Repeat("a", 129), "", "-a", "a/b", "ä"} {
		require.Equal(t, reauth.CheckConnectionID(id) == nil, pattern.MatchString(id), id)
	}
}

func TestDocs(t *testing.T) {
	f := newFixture(t)
	w := f.visit("GET", "/docs")
	page := w.Body.String()
	for _, text := range []string{"/v1/connections/{connection_id}/reauth/snooze", "Register or update a connection", "access_token", "curl -X PUT", "tokens:read", "ada@acme.example", "account_manager", "POST /v1/contacts/bounce", "held_by_storm"} {
		require.Contains(t, page, text)
	}
	require.NotContains(t, page, "cdn")
	require.NotContains(t, page, "unpkg")

	// The examples of bodies are taken by the API.
	f.temporal.noCase = true
	s := &server{Config: f.config, mux: http.NewServeMux()}
	api := s.newAPI()
	s.connectionRoutes(api)
	s.reportRoutes(api)
	s.steeringRoutes(api)
	s.embeddedRoutes(api)
	s.reachRoutes(api)
	f.register("6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1")
	for path, item := range api.OpenAPI().Paths {
		if item.Put != nil {
			body := exampleOf(api.OpenAPI(), item.Put.RequestBody.Content["application/json"].Schema)
			w := f.do("PUT", strings.ReplaceAll(path, "{connection_id}", connID), body)
			require.Equal(t, 200, w.Code, w.Body.String())
		}
	}
	report := exampleOf(api.OpenAPI(), api.OpenAPI().Paths["/v1/connections/{connection_id}/reauth"].Post.RequestBody.Content["application/json"].Schema)
	f.api(202, "POST", reportURL, report, nil)
	for _, path := range []string{"/v1/contacts/bounce", "/v1/contacts/restore", "/v1/contacts/forget"} {
		body := exampleOf(api.OpenAPI(), api.OpenAPI().Paths[path].Post.RequestBody.Content["application/json"].Schema)
		f.api(200, "POST", path, body, nil)
	}
}

func TestHome(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.TemporalUIURL = "/temporal" })
	page := f.visit("GET", "/").Body.String()
	require.Contains(t, page, `href="/docs"`)
	require.Contains(t, page, `href="/temporal"`)
}

func TestClientAddress(t *testing.T) {
	s := &server{Config: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	tests := []struct{ remote, forwarded, want string }{
		{"203.0.113.9:1", "", "203.0.113.9"},
		{"203.0.113.9:1", "1.2.3.4", "203.0.113.9"}, // anybody can write the header
		{"10.0.0.1:1", "1.2.3.4", "1.2.3.4"},
		{"10.0.0.1:1", "6.6.6.6, 1.2.3.4", "1.2.3.4"},
		{"10.0.0.1:1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"},
		{"10.0.0.1:1", "10.0.0.3", "10.0.0.3"},
		{"10.0.0.1:1", "junk", "10.0.0.1"},
		{"10.0.0.1:1", "", "10.0.0.1"},
		{"[::ffff:203.0.113.9]:1", "", "203.0.113.9"},
		{"[2001:db8:1:2:3:4:5:6]:1", "", "2001:db8:1:2::/64"},
		{"[fd00::1]:1", "2001:db8:1:2::9", "2001:db8:1:2::/64"},
		{"@", "", "@"},
	}
	for _, test := range tests {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = test.remote
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		require.Equal(t, test.want, s.clientAddress(r), "%s %s", test.remote, test.forwarded)
	}
}

func TestCodec(t *testing.T) {
	const origin = "http://localhost:8233"
	p := newIdentityProvider(t)
	f := newFixture(t, withSignIn(p, true), func(c *Config) { c.CodecOrigins = []string{origin} })
	payloads, err := f.keys.Codec().Encode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"plain"`)}})
	require.NoError(t, err)
	encoded, err := protojson.Marshal(&commonpb.Payloads{Payloads: payloads})
	require.NoError(t, err)
	body := string(encoded)
	key := bearer(f.key(db.APIKey{Name: "temporal-ui", Scopes: []string{ScopeCodec}}))
	w := f.do("POST", "/codec/decode", body, key, header("Origin", origin))
	require.Equal(t, 200, w.Code, w.Body.String())
	require.Contains(t, w.Body.String(), "InBsYWluIg==")
	require.Equal(t, origin, w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, 200, f.do("POST", "/codec/encode", body, key).Code)
	preflight := f.do("OPTIONS", "/codec/decode", nil, noKey, header("Origin", origin))
	require.Equal(t, http.StatusNoContent, preflight.Code)
	require.Equal(t, origin, preflight.Header().Get("Access-Control-Allow-Origin"))

	rest := slices.DeleteFunc(Scopes(), func(scope string) bool { return scope == ScopeCodec })
	others := bearer(f.key(db.APIKey{Name: "others", Scopes: rest}))
	foreign := header("Origin", "https://evil.example")
	past := f.clock().Add(-time.Second)
	for name, refused := range map[string]struct {
		options []option
		want    int
	}{
		"no key":                           {[]option{noKey}, 401},
		"no key, from the web UI":          {[]option{noKey, header("Origin", origin)}, 401},
		"every other scope":                {[]option{others}, 401},
		"an expired key":                   {[]option{bearer(f.key(db.APIKey{Name: "expired", Scopes: Scopes(), ExpiresAt: &past}))}, 401},
		"a key for one application":        {[]option{bearer(f.key(db.APIKey{Name: "acme", Scopes: Scopes(), Application: "acme"}))}, 401},
		"another origin, with a key":       {[]option{key, foreign}, 403},
		"a sandboxed page, with a key":     {[]option{key, header("Origin", "null")}, 403},
		"an origin that continues, a key":  {[]option{key, header("Origin", origin+".evil.example")}, 403},
		"a body that is far too large":     {[]option{key, form(strings.Repeat(" ", 9<<20))}, 400},
		"a body that is no list, in clear": {[]option{key, form(`["plain"]`)}, 400},
	} {
		for _, path := range []string{"/codec/decode", "/codec/encode"} {
			w := f.do("POST", path, body, refused.options...)
			require.Equal(t, refused.want, w.Code, "%s: %s %s", name, path, w.Body)
			require.NotContains(t, w.Body.String(), "InBsYWluIg==")
			require.NotEqual(t, "https://evil.example", w.Header().Get("Access-Control-Allow-Origin"))
		}
	}
	w = f.do("OPTIONS", "/codec/decode", nil, noKey, foreign)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))

	// Operators who are signed in decode in the web UI, which sends their cookie.
	decode := func(v *visitor, options ...option) int {
		return v.open("POST", "/codec/decode", nil, append([]option{form(body), header("Sec-Fetch-Site", "same-site")}, options...)...).Code
	}
	p.says(map[string]any{"groups": []string{"ops"}})
	ada := f.visitor()
	require.Equal(t, http.StatusSeeOther, ada.signIn(p).Code)
	require.Equal(t, 200, decode(ada, header("Origin", origin)))
	require.Equal(t, 401, decode(ada), "no page of the web UI asks")
	require.Equal(t, 403, decode(ada, foreign))
	byKey := func(key db.APIKey) *visitor {
		v := f.visitor()
		w := v.open("POST", "/operator/sign-in", url.Values{"key": {f.key(key)}})
		require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
		return v
	}
	require.Equal(t, 200, decode(byKey(db.APIKey{Name: "bob", Scopes: []string{ScopeOperator, ScopeCodec}}), header("Origin", origin)))
	require.Equal(t, 401, decode(byKey(db.APIKey{Name: "eve", Scopes: []string{ScopeOperator}}), header("Origin", origin)))
	require.Equal(t, 401, decode(byKey(db.APIKey{Name: "acme-ops", Scopes: Scopes(), Application: "acme"}), header("Origin", origin)))
	f.advance(9 * time.Hour)
	require.Equal(t, 401, decode(ada, header("Origin", origin)), "signed in for eight hours")

	open := f.again(t, func(c *Config) { c.CodecOpen, c.PublicURL = true, "http://127.0.0.1:8080" })
	require.Equal(t, 200, open.do("POST", "/codec/encode", body, noKey).Code)
	require.Equal(t, 403, open.do("POST", "/codec/encode", body, noKey, foreign).Code, "no page of another site, open or not")
}

func TestLocalURL(t *testing.T) {
	for _, address := range []string{"http://localhost:8080", "http://127.0.0.1:8080", "https://127.8.9.1", "http://[::1]:1"} {
		require.True(t, LocalURL(address), address)
	}
	for _, address := range []string{"https://reauth.example.com", "http://10.0.0.1", "http://192.168.1.7:8080", "http://localhost.example.com", "http://0.0.0.0:8080", "http://[::]:80", "http://127.0.0.1.nip.io", ""} {
		require.False(t, LocalURL(address), address)
	}
}
