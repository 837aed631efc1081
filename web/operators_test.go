package web

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// identityProvider speaks OpenID Connect, as far as signing in needs it.
type identityProvider struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu     sync.Mutex
	claims map[string]any
	asked  url.Values // of the last visit
	signer *rsa.PrivateKey
}

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p := &identityProvider{key: key, signer: key, claims: map[string]any{}}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", p.token)
	return p
}

// visit is what a person does at the provider: they are sent back with a code.
func (p *identityProvider) visit(t testing.TB, location string) string {
	t.Helper()
	u, err := url.Parse(location)
	require.NoError(t, err)
	require.Equal(t, p.URL+"/authorize", u.Scheme+"://"+u.Host+u.Path)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = u.Query()
	require.Equal(t, "S256", p.asked.Get("code_challenge_method"))
	require.Equal(t, publicURL+"/operator/openid/return", p.asked.Get("redirect_uri"))
	return "/operator/openid/return?code=code-" + mark + "-1&state=" + url.QueryEscape(p.asked.Get("state"))
}

func (p *identityProvider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if id != "reauth" || secret != "oidc-"+mark || r.PostFormValue("code") != "code-"+mark+"-1" ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != p.asked.Get("code_challenge") {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	claims := map[string]any{
		"iss": p.URL, "aud": "reauth", "sub": "sub-1", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "nonce": p.asked.Get("nonce"),
	}
	for name, value := range p.claims {
		claims[name] = value
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.signer, KeyID: "k1"}}, nil)
	if err != nil {
		panic(err)
	}
	text, _ := json.Marshal(claims)
	signed, err := signer.Sign(text)
	if err != nil {
		panic(err)
	}
	raw, _ := signed.CompactSerialize()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "at-" + mark, "token_type": "Bearer", "id_token": raw})
}

func (p *identityProvider) says(claims map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = claims
}

func withSignIn(p *identityProvider, byKey bool) func(*Config) {
	return func(c *Config) {
		c.SignIn = &SignIn{ByKey: byKey}
		if p != nil {
			c.SignIn.OpenID = &OpenID{Issuer: p.URL, ClientID: "reauth", ClientSecret: "oidc-" + mark, Allow: []string{"group:ops", "email:ada@acme.example", "domain:ops.example"}}
		}
	}
}

// visitor is an operator's browser, which keeps cookies.
type visitor struct {
	*fixture
	jar map[string]*http.Cookie
}

func (f *fixture) visitor() *visitor { return &visitor{f, map[string]*http.Cookie{}} }

func (v *visitor) open(method, path string, form url.Values, options ...option) *httptest.ResponseRecorder {
	v.t.Helper()
	jar := make([]*http.Cookie, 0, len(v.jar))
	for _, c := range v.jar {
		jar = append(jar, c)
	}
	options = append([]option{noKey, cookies(jar), header("Content-Type", "application/x-www-form-urlencoded"), header("Sec-Fetch-Site", "same-origin")}, options...)
	var body any
	if form != nil {
		body = form.Encode()
	}
	w := v.do(method, path, body, options...)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(v.jar, c.Name)
		} else {
			v.jar[c.Name] = c
		}
	}
	return w
}

var formField = regexp.MustCompile(`name="form" value="([^"]+)"`)

// formOf finds the ticket of a page's forms.
func formOf(t *testing.T, page string) string {
	t.Helper()
	found := formField.FindStringSubmatch(page)
	require.NotNil(t, found, page)
	return found[1]
}

// signIn goes through the provider and returns where it ended.
func (v *visitor) signIn(p *identityProvider) *httptest.ResponseRecorder {
	v.t.Helper()
	away := v.open(http.MethodGet, "/operator/openid?next=%2Foperator%3Fshow%3Dblocked", nil)
	require.Equal(v.t, http.StatusSeeOther, away.Code, away.Body)
	return v.open(http.MethodGet, p.visit(v.t, away.Header().Get("Location")), nil)
}

func TestOperatorsSignInWithTheirCompanysAccount(t *testing.T) {
	p := newIdentityProvider(t)
	f := newFixture(t, withSignIn(p, false))
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)

	v := f.visitor()
	w := v.open(http.MethodGet, "/operator/connections/"+connID, nil)
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "/operator/sign-in?next="+url.QueryEscape("/operator/connections/"+connID), w.Header().Get("Location"))
	w = v.open(http.MethodGet, w.Header().Get("Location"), nil)
	require.Contains(t, w.Body.String(), `id="openid"`)
	require.NotContains(t, w.Body.String(), `id="by-key"`)

	p.says(map[string]any{"name": "Ada Ops", "groups": []string{"ops"}, "email": "ada." + mark + "@acme.example"})
	w = v.signIn(p)
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
	require.Equal(t, "/operator?show=blocked", w.Header().Get("Location"))
	cookie := v.jar["__Host-reauth-operator"]
	require.NotNil(t, cookie)
	assert.True(t, cookie.HttpOnly && cookie.Secure && cookie.Path == "/" && cookie.Domain == "" && cookie.SameSite == http.SameSiteLaxMode)
	assert.NotContains(t, v.jar, "__Host-reauth-openid", "it is good for one return")

	w = v.open(http.MethodGet, "/operator?show=all", nil)
	require.Equal(t, http.StatusOK, w.Code)
	assert.Contains(t, w.Body.String(), "Ada Ops")
	assert.Contains(t, w.Body.String(), "/operator/connections/"+connID)
	w = v.open(http.MethodGet, "/operator?find=acm", nil)
	assert.Contains(t, w.Body.String(), "/operator/connections/"+connID, "found by a part of the customer's name")

	w = v.open(http.MethodGet, "/operator/connections/"+connID, nil)
	require.Equal(t, http.StatusOK, w.Code)
	form := formOf(t, w.Body.String())
	w = v.open(http.MethodPost, "/operator/connections/"+connID+"/cancel", url.Values{"form": {form}, "reason": {"the customer left"}})
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
	assert.Contains(t, f.temporal.told(), "Ada Ops", "the case hears who did it")

	v.open(http.MethodPost, "/operator/sign-out", url.Values{"form": {form}})
	assert.Equal(t, http.StatusSeeOther, v.open(http.MethodGet, "/operator", nil).Code, "signed out")
}

// told is all that cases were told, as JSON.
func (f *fakeTemporal) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, _ := json.Marshal(map[string]any{"cancel": f.cancels, "snooze": f.snoozes, "stop": f.stops, "remind": f.reminds})
	return string(text)
}

func TestWhoIsNoOperator(t *testing.T) {
	p := newIdentityProvider(t)
	f := newFixture(t, withSignIn(p, false))
	for name, claims := range map[string]map[string]any{
		"nobody in particular":     {"name": "Eve"},
		"an address not verified":  {"email": "ada@acme.example"},
		"another group":            {"groups": []string{"sales"}},
		"a domain that ends alike": {"email": "eve@not-ops.example", "email_verified": true},
		"another issuer":           {"iss": "https://elsewhere.example", "groups": []string{"ops"}},
		"another audience":         {"aud": "other", "groups": []string{"ops"}},
		"over":                     {"exp": time.Now().Add(-time.Hour).Unix(), "groups": []string{"ops"}},
		"of another sign-in":       {"nonce": "other", "groups": []string{"ops"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := f.visitor()
			p.says(claims)
			w := v.signIn(p)
			assert.GreaterOrEqual(t, w.Code, 400, w.Body)
			assert.NotContains(t, v.jar, "__Host-reauth-operator")
			assert.Equal(t, http.StatusSeeOther, v.open(http.MethodGet, "/operator", nil).Code)
		})
	}
	t.Run("signed by somebody else", func(t *testing.T) {
		p.says(map[string]any{"groups": []string{"ops"}})
		other, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		p.mu.Lock()
		p.signer = other
		p.mu.Unlock()
		assert.Equal(t, http.StatusBadGateway, f.visitor().signIn(p).Code)
		p.mu.Lock()
		p.signer = p.key
		p.mu.Unlock()
	})
	for name, claims := range map[string]map[string]any{
		"a verified address": {"email": "Ada@acme.example", "email_verified": true},
		"a verified domain":  {"email": "bob@ops.example", "email_verified": true, "name": "bob@ops.example"},
	} {
		t.Run(name, func(t *testing.T) {
			v := f.visitor()
			p.says(claims)
			require.Equal(t, http.StatusSeeOther, v.signIn(p).Code)
			w := v.open(http.MethodGet, "/operator", nil)
			require.Equal(t, http.StatusOK, w.Code)
			assert.NotContains(t, w.Body.String(), "@ops.example", "an address is no name")
		})
	}
}

// Another's return, or one that nobody began here, signs nobody in.
func TestASignInThatWasNotBegunHere(t *testing.T) {
	p := newIdentityProvider(t)
	f := newFixture(t, withSignIn(p, false))
	p.says(map[string]any{"groups": []string{"ops"}})
	attacker, victim := f.visitor(), f.visitor()
	away := attacker.open(http.MethodGet, "/operator/openid", nil)
	back := p.visit(t, away.Header().Get("Location"))
	assert.Equal(t, http.StatusBadRequest, victim.open(http.MethodGet, back, nil).Code, "no cookie of this browser")
	victim.open(http.MethodGet, "/operator/openid", nil)
	assert.Equal(t, http.StatusBadRequest, victim.open(http.MethodGet, back, nil).Code, "another state")
	assert.NotContains(t, victim.jar, "__Host-reauth-operator")
	f.advance(11 * time.Minute)
	assert.Equal(t, http.StatusBadRequest, attacker.open(http.MethodGet, back, nil).Code, "too late")
}

func TestOperatorsSignInWithAKey(t *testing.T) {
	f := newFixture(t, withSignIn(nil, true))
	f.register(connID)
	v := f.visitor()
	w := v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {"wrong"}, "next": {"/operator"}})
	assert.Equal(t, http.StatusUnauthorized, w.Code)
	w = v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {apiKey}}, header("Sec-Fetch-Site", "cross-site"))
	assert.Equal(t, http.StatusForbidden, w.Code, "login CSRF")
	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "reporter", hashAPIKey("key-"+mark+"-reports-only-0001"), []string{ScopeReports}))
	w = v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {"key-" + mark + "-reports-only-0001"}})
	assert.Equal(t, http.StatusForbidden, w.Code, "without the scope")
	require.Empty(t, v.jar)

	for next, want := range map[string]string{
		"/operator?show=all": "/operator?show=all", "https://evil.example/operator": "/operator", "//evil.example/operator": "/operator",
		"/operator/../v1": "/operator", "/\\evil.example": "/operator", "/operatorx": "/operator", "": "/operator", "/operator/sign-in": "/operator",
	} {
		w = v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {apiKey}, "next": {next}})
		require.Equal(t, http.StatusSeeOther, w.Code)
		assert.Equal(t, want, w.Header().Get("Location"), next)
	}
	require.Equal(t, http.StatusOK, v.open(http.MethodGet, "/operator", nil).Code)

	// A key that is taken away signs its sessions out.
	f.sql(`UPDATE api_keys SET revoked_at = now() WHERE name = 'bootstrap'`)
	assert.Equal(t, http.StatusSeeOther, v.open(http.MethodGet, "/operator", nil).Code)
}

// Nothing acts but a form of ours, made for this sign-in.
func TestOperatorsFormsAreOurs(t *testing.T) {
	f := newFixture(t, withSignIn(nil, true))
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	ada, eve := f.visitor(), f.visitor()
	for _, v := range []*visitor{ada, eve} {
		require.Equal(t, http.StatusSeeOther, v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {apiKey}}).Code)
	}
	own := formOf(t, ada.open(http.MethodGet, "/operator/connections/"+connID, nil).Body.String())
	foreign := formOf(t, eve.open(http.MethodGet, "/operator/connections/"+connID, nil).Body.String())
	untold := f.temporal.told()
	remind := "/operator/connections/" + connID + "/remind"
	for name, try := range map[string]func() int{
		"no ticket":     func() int { return ada.open(http.MethodPost, remind, url.Values{}).Code },
		"another's":     func() int { return ada.open(http.MethodPost, remind, url.Values{"form": {foreign}}).Code },
		"a made-up one": func() int { return ada.open(http.MethodPost, remind, url.Values{"form": {"x"}}).Code },
		"another site": func() int {
			return ada.open(http.MethodPost, remind, url.Values{"form": {own}}, header("Sec-Fetch-Site", "cross-site")).Code
		},
		"nobody":        func() int { return f.visitor().open(http.MethodPost, remind, url.Values{"form": {own}}).Code },
		"by opening it": func() int { return ada.open(http.MethodGet, remind, nil).Code },
		"unknown act": func() int {
			return ada.open(http.MethodPost, "/operator/connections/"+connID+"/erase", url.Values{"form": {own}}).Code
		},
		"without reason": func() int {
			return ada.open(http.MethodPost, "/operator/connections/"+connID+"/cancel", url.Values{"form": {own}}).Code
		},
		"malformed until": func() int {
			return ada.open(http.MethodPost, "/operator/connections/"+connID+"/snooze", url.Values{"form": {own}, "until": {"soon"}}).Code
		},
	} {
		assert.GreaterOrEqual(t, try(), 400, name)
	}
	assert.Equal(t, untold, f.temporal.told(), "nothing was done")
	require.Equal(t, http.StatusSeeOther, ada.open(http.MethodPost, remind, url.Values{"form": {own}}).Code)
	assert.NotEqual(t, untold, f.temporal.told())

	w := ada.open(http.MethodGet, "/operator/connections/"+connID, nil)
	assert.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	assert.Equal(t, "no-referrer", w.Header().Get("Referrer-Policy"))
	f.advance(9 * time.Hour)
	assert.Equal(t, http.StatusSeeOther, ada.open(http.MethodGet, "/operator", nil).Code, "signed in for eight hours")
}

func TestWithoutSignInThereAreNoOperatorsPages(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/operator", "/operator/sign-in", "/operator/connections/" + connID} {
		assert.Equal(t, http.StatusNotFound, f.do(http.MethodGet, path, nil).Code, path)
	}
}

// A key for one application shows that one's connections, and no storm, which is
// of all of them.
func TestAKeyForOneApplicationAtTheOperatorsPages(t *testing.T) {
	f := newFixture(t, withSignIn(nil, true))
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	limited := f.key(db.APIKey{Name: "tenant", Scopes: []string{ScopeOperator}, Application: "sandbox"})
	f.sql(`INSERT INTO storms (storm_id, provider, broken, connections, began_at, ends_at) VALUES ('storm-1', 'finch', 5, 9, now(), now() + interval '1 h')`)
	for key, sees := range map[string]bool{limited: false, apiKey: true} {
		v := f.visitor()
		require.Equal(t, http.StatusSeeOther, v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {key}}).Code)
		home := v.open(http.MethodGet, "/operator?show=all", nil).Body.String()
		assert.Equal(t, sees, strings.Contains(home, "/operator/storms/storm-1/release"))
		assert.Equal(t, sees, strings.Contains(home, connID))
		assert.Equal(t, sees, strings.Contains(v.open(http.MethodGet, "/operator?find=acme", nil).Body.String(), connID))
		assert.Equal(t, sees, v.open(http.MethodGet, "/operator/connections/"+connID, nil).Code == http.StatusOK)
		w := v.open(http.MethodPost, "/operator/storms/storm-1/release", url.Values{"form": {formOf(t, home)}})
		assert.Equal(t, sees, w.Code == http.StatusSeeOther, w.Code)
	}
}
