package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// walk is a service with something behind every route, and what leads there.
type walk struct {
	*fixture
	link, stop, callback, done, again string
	state                             string
	operator                          *visitor
	form                              string
	provider                          *identityProvider
}

func newWalk(t *testing.T) *walk {
	p := newIdentityProvider(t)
	f := newFixture(t, withSignIn(p, true))
	w := &walk{fixture: f, provider: p}
	w.link = f.ready(connID)
	w.stop = stopPage(w.link)
	w.state, _ = f.press(w.link)
	w.callback = callbackURL("code-Hush-1", w.state)
	w.done = location(t, f.visit("GET", w.callback)).Path
	w.again = (&server{Config: f.config}).wayBack(t.Context(), strings.TrimPrefix(w.link, "/r/"))
	p.says(map[string]any{"groups": []string{"ops"}})
	w.operator = f.visitor()
	require.Equal(t, http.StatusSeeOther, w.operator.signIn(p).Code)
	w.form = formOf(t, w.operator.open("GET", "/operator/connections/"+connID, nil).Body.String())
	return w
}

// browserRoutes are the routes that a browser is sent to, each with an address.
// Every route of the mux that is not here must be one of programRoutes.
func (w *walk) browserRoutes() map[string]string {
	return map[string]string{
		"GET /r/{link}": w.link, "POST /r/{link}": w.link, "GET /stop/{link}": w.stop, "POST /stop/{link}": w.stop, "GET /callback": w.callback,
		"GET /callback/{application}": "/callback/sandbox?code=code-Hush-2&state=" + url.QueryEscape(w.state),
		"GET /done/{ticket}":          w.done, "GET /again/{ticket}": w.again, "GET /docs": "/docs", "GET /{$}": "/", "GET /assets/{name}": "/assets/icon.svg",
		"GET /operator": "/operator", "GET /operator/connections/{connection_id}": "/operator/connections/" + connID,
		"POST /operator/connections/{connection_id}/{act}": "/operator/connections/" + connID + "/remind", "POST /operator/storms/{storm_id}/release": "/operator/storms/x/release",
		"GET /operator/sign-in": "/operator/sign-in", "POST /operator/sign-in": "/operator/sign-in", "POST /operator/sign-out": "/operator/sign-out",
		"GET /operator/openid": "/operator/openid", "GET /operator/openid/return": "/operator/openid/return?code=x&state=y",
	}
}

// programRoutes are for programs. The API's own are in routes_test.go.
var programRoutes = []string{
	"POST /webhooks/finch", "POST /webhooks/atto", "GET /healthz", "GET /readyz", "GET /metrics",
	"POST /codec/decode", "POST /codec/encode", "OPTIONS /codec/decode", "OPTIONS /codec/encode",
}

var muxRoute = regexp.MustCompile(`"((?:GET|POST|PUT|DELETE|OPTIONS) /[^"]*)"`)

// muxRoutes reads from the source which routes are mounted beside the API.
func muxRoutes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var routes []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(source)) {
			if !strings.Contains(line, "mux.Handle") && !strings.Contains(line, "for _, route := range") {
				continue
			}
			for _, found := range muxRoute.FindAllStringSubmatch(line, -1) {
				routes = append(routes, found[1])
			}
		}
	}
	return routes
}

func TestHeadersOfEveryRoute(t *testing.T) {
	w := newWalk(t)
	pages := w.browserRoutes()
	routes := muxRoutes(t)
	require.GreaterOrEqual(t, len(routes), len(pages)+len(programRoutes)-1)
	for _, route := range routes {
		method, pattern, _ := strings.Cut(route, " ")
		address, ok := pages[route]
		if !ok {
			require.Contains(t, programRoutes, route, "a new route: is it a page, or for programs?")
			address = pattern
		}
		var form url.Values
		if method == "POST" {
			form = url.Values{"form": {w.form}, "what": {"not_me"}, "key": {"wrong"}}
		}
		answers := map[string]*httptest.ResponseRecorder{
			"an operator": w.operator.open(method, address, form),
			"a stranger":  w.visitor().open(method, address, form),
		}
		if method == "GET" && strings.Contains(pattern, "{") {
			answers["what leads nowhere"] = w.visitor().open(method, strings.NewReplacer("{link}", "x", "{ticket}", "x", "{name}", "x", "{connection_id}", "x", "{application}", "x", "{$}", "").Replace(pattern), nil)
		}
		for who, answer := range answers {
			w.checkHeaders(t, route+" for "+who, answer)
		}
		if route == "POST /operator/sign-out" {
			require.Equal(t, http.StatusSeeOther, w.operator.signIn(w.provider).Code)
			w.form = formOf(t, w.operator.open("GET", "/operator/connections/"+connID, nil).Body.String())
		}
	}
	for _, c := range w.calls() {
		w.checkHeaders(t, c.String(), w.do(c.method, c.with(nil), nil, noKey, elsewhere()))
	}
}

// checkHeaders checks what holds for every answer.
func (w *walk) checkHeaders(t *testing.T, what string, answer *httptest.ResponseRecorder) {
	t.Helper()
	h := answer.Header()
	policy := h.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'", what)
	require.Contains(t, policy, "base-uri 'none'", what)
	require.Contains(t, policy, "frame-ancestors 'none'", what)
	require.NotContains(t, policy, "unsafe", what)
	require.NotContains(t, policy, "*", what)
	require.Equal(t, "no-referrer", h.Get("Referrer-Policy"), what)
	require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), what)
	require.Equal(t, "noindex, nofollow", h.Get("X-Robots-Tag"), what)
	require.Equal(t, "max-age=31536000", h.Get("Strict-Transport-Security"), what)
	if !strings.HasPrefix(what, "GET /assets/") {
		require.Equal(t, "no-store", h.Get("Cache-Control"), what)
	}
	for _, c := range answer.Result().Cookies() {
		require.True(t, strings.HasPrefix(c.Name, "__Host-") && c.Secure && c.HttpOnly && c.Path == "/" && c.Domain == "" && c.SameSite == http.SameSiteLaxMode, "%s sets %s", what, c.Name)
	}
	if to := h.Get("Location"); to != "" && !strings.HasPrefix(to, w.provider.URL+"/authorize?") && !strings.HasPrefix(to, connect+"&") {
		require.Regexp(t, `^/(r|stop|done|operator)([/?].*)?$`, to, what)
		require.False(t, strings.HasPrefix(to, "//"), what)
	}
	require.NotRegexp(t, `(?i)<script|\sstyle=|\son[a-z]+=|javascript:|<iframe|<base`, answer.Body.String(), what)
}

func TestHTTPSIsDemandedOnlyWhereThereIsAny(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.PublicURL = "http://127.0.0.1:8080" })
	w := f.visit("GET", f.ready(connID))
	require.Empty(t, w.Header().Get("Strict-Transport-Security"), "a development machine keeps its other pages")
	_, jar := f.press(f.link(connID))
	require.Len(t, jar, 1)
	require.Equal(t, "reauth", jar[0].Name, "browsers take a __Host- cookie over TLS alone")
	require.True(t, jar[0].HttpOnly && !jar[0].Secure && jar[0].SameSite == http.SameSiteLaxMode)
}

var postForm = regexp.MustCompile(`(?s)<form method="post".*?</form>`)

// Every form is either behind a secret in its own address, or carries a ticket
// that was made for the one who is signed in; and no other site can press it.
func TestEveryFormIsProtected(t *testing.T) {
	w := newWalk(t)
	forms := 0
	for _, address := range []string{"/operator", "/operator?show=all", "/operator/connections/" + connID} {
		page := w.operator.open("GET", address, nil)
		require.Equal(t, http.StatusOK, page.Code)
		for _, form := range postForm.FindAllString(page.Body.String(), -1) {
			forms++
			require.Regexp(t, `name="form" value="[A-Za-z0-9_-]{60,}"`, form, address)
		}
	}
	require.GreaterOrEqual(t, forms, 6)

	before, told := w.dump(), w.temporal.told()
	elsewhere := []option{header("Sec-Fetch-Site", "cross-site"), header("Origin", "https://evil.example")}
	old := []option{header("Sec-Fetch-Site", ""), header("Origin", "https://evil.example")}
	for route, address := range w.browserRoutes() {
		if !strings.HasPrefix(route, "POST ") {
			continue
		}
		for _, from := range [][]option{elsewhere, old} {
			answer := w.operator.open("POST", address, url.Values{"form": {w.form}, "what": {"not_me"}, "key": {apiKey}}, from...)
			require.Equal(t, http.StatusForbidden, answer.Code, "%s: %s", route, answer.Body)
			require.Empty(t, answer.Result().Cookies(), route)
		}
	}
	require.Equal(t, before, w.dump(), "nothing was changed")
	require.Equal(t, told, w.temporal.told())
	require.Equal(t, http.StatusOK, w.operator.open("GET", "/operator", nil).Code, "and nobody was signed out")
}

// No address that somebody hands to a person leads from here to another site.
func TestNoRedirectLeadsElsewhere(t *testing.T) {
	w := newWalk(t)
	for _, address := range []string{
		w.link + "?next=//evil.example", w.callback + "&redirect_uri=https://evil.example&next=//evil.example", "/callback?error=x&next=https://evil.example",
		w.done + "?next=//evil.example", w.again + "?next=//evil.example", "//evil.example/", "//evil.example/../r/x", `/\evil.example`, "/operator//evil.example", "/.//evil.example",
		"/operator?next=//evil.example", "/operator/sign-in?next=https://evil.example", "/operator/openid?next=//evil.example/operator", "/operator//evil.example/%2e%2e",
	} {
		for _, v := range []*visitor{w.visitor(), w.operator} {
			r := httptest.NewRequest("GET", "/", nil)
			u, err := url.Parse(publicURL + address)
			require.NoError(t, err)
			r.URL, r.RequestURI, r.Host = u, address, u.Host
			for _, c := range v.jar {
				r.AddCookie(c)
			}
			answer := httptest.NewRecorder()
			w.handler.ServeHTTP(answer, r)
			to := answer.Header().Get("Location")
			if to == "" || strings.HasPrefix(to, w.provider.URL+"/authorize?") {
				continue
			}
			leads, err := u.Parse(to)
			require.NoError(t, err)
			require.Equal(t, "https://reauth.example.com", leads.Scheme+"://"+leads.Host, "%s leads to %s", address, to)
			require.False(t, strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`), "%s leads to %s", address, to)
		}
	}
	// After the sign-in, too.
	v := w.visitor()
	away := v.open("GET", "/operator/openid?next=%2F%2Fevil.example%2Foperator", nil)
	back := v.open("GET", w.provider.visit(t, away.Header().Get("Location")), nil)
	require.Equal(t, "/operator", back.Header().Get("Location"))
}

// Where the request's address may not be logged, nothing else of the request is
// either: whatever a stranger writes into it, the log has our own words alone.
func TestTheAccessLogRepeatsNothing(t *testing.T) {
	w := newWalk(t)
	w.log.drain()
	for _, path := range append([]string{"/Hush", "/v1/Hush", "/operator/Hush", "/assets/Hush", "/codec/Hush", "/webhooks/Hush", "/stop/Hush", "/again/Hush", "/r/Hush/Hush"}, w.link, w.done, w.again) {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "HUSH-Hush"} {
			r := httptest.NewRequest(method, path+"?code=Hush&Hush=1", strings.NewReader("Hush=Hush"))
			r.Host = "Hush.example"
			for _, name := range []string{"Referer", "User-Agent", "X-Request-Id", "Origin", "Cookie", "X-Forwarded-For", "Authorization", "Finch-Event-Id"} {
				r.Header.Set(name, "Hush Hush")
			}
			w.handler.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	log := w.log.String()
	require.Contains(t, log, `"route":"unknown"`)
	for line := range strings.Lines(log) {
		require.NotContains(t, line, mark)
	}
	require.GreaterOrEqual(t, strings.Count(log, "http request"), 70)
}
