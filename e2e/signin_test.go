package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
)

// The secrets of a company's identity provider.
const (
	oidcSecret    = "planted-oidc-client-secret"
	oidcCode      = "planted-oidc-code"
	oidcToken     = "planted-oidc-access-token"
	operatorsMail = "planted.operator@acme.example"
)

// identityProvider lets everybody in, as an operator named Ada.
type identityProvider struct {
	*httptest.Server
	mu    sync.Mutex
	nonce string
	given []string // ID tokens
}

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	require.NoError(t, err)
	p := &identityProvider{}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.nonce = r.URL.Query().Get("nonce")
		p.mu.Unlock()
		back := r.URL.Query().Get("redirect_uri") + "?code=" + oidcCode + "&state=" + url.QueryEscape(r.URL.Query().Get("state"))
		http.Redirect(w, r, back, http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if _, secret, _ := r.BasicAuth(); secret != oidcSecret || r.PostFormValue("code") != oidcCode {
			http.Error(w, `{"error":"invalid_grant","error_description":"`+r.PostFormValue("code")+`"}`, http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		claims, _ := json.Marshal(map[string]any{
			"iss": p.URL, "aud": "reauth", "sub": "sub-1", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "nonce": p.nonce,
			"name": "Ada Ops", "email": operatorsMail, "email_verified": true,
		})
		signed, err := signer.Sign(claims)
		if err != nil {
			panic(err)
		}
		raw, _ := signed.CompactSerialize()
		p.given = append(p.given, raw)
		answer(w, map[string]any{"access_token": oidcToken, "token_type": "Bearer", "id_token": raw})
	})
	return p
}
