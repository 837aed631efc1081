package web

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAPIKeys(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	ctx := t.Context()
	for name, scopes := range map[string][]string{
		"key-Hush-reports": {ScopeReports}, "key-Hush-tokens": {ScopeTokens}, "key-Hush-connections": {ScopeConnections},
		"key-Hush-revoked": Scopes(), "key-Hush-expired": Scopes(), "key-Hush-later": Scopes(), "key-Hush-none": nil,
	} {
		require.NoError(t, f.db.EnsureAPIKey(ctx, name[9:], hashAPIKey(name), scopes))
	}
	f.sql(`UPDATE api_keys SET revoked_at = now() WHERE name = 'revoked'`)
	f.sql(`UPDATE api_keys SET expires_at = $1 WHERE name = 'expired'`, f.clock())
	f.sql(`UPDATE api_keys SET expires_at = $1 WHERE name = 'later'`, f.clock().Add(time.Second))

	const path = "/v1/connections/" + connID
	tests := []struct {
		name, authorization, method, path string
		status                            int
		challenge                         string
	}{
		{"no header", "", "GET", path, 401, `Bearer realm="reauth"`},
		{"no scheme", apiKey, "GET", path, 401, `Bearer realm="reauth"`},
		{"another scheme", "Basic " + apiKey, "GET", path, 401, `Bearer realm="reauth"`},
		{"no key", "Bearer ", "GET", path, 401, `Bearer realm="reauth"`},
		{"unknown key", "Bearer key-Hush-nobody", "GET", path, 401, `Bearer realm="reauth", error="invalid_token"`},
		{"the hash itself", "Bearer " + string(hashAPIKey(apiKey)), "GET", path, 401, `Bearer realm="reauth", error="invalid_token"`},
		{"revoked", "Bearer key-Hush-revoked", "GET", path, 401, `Bearer realm="reauth", error="invalid_token"`},
		{"expired", "Bearer key-Hush-expired", "GET", path, 401, `Bearer realm="reauth", error="invalid_token"`},
		{"before it expires", "Bearer key-Hush-later", "GET", path, 200, ""},
		{"without scopes", "Bearer key-Hush-none", "GET", path, 403, `Bearer realm="reauth", error="insufficient_scope", scope="connections:write operator"`},
		{"lower-case scheme", "bearer " + apiKey, "GET", path, 200, ""},
		{"reports cannot read connections", "Bearer key-Hush-reports", "GET", path, 403, ""},
		{"reports cannot read tokens", "Bearer key-Hush-reports", "GET", path + "/token", 403, `Bearer realm="reauth", error="insufficient_scope", scope="tokens:read"`},
		{"tokens can", "Bearer key-Hush-tokens", "GET", path + "/token", 404, ""},
		{"tokens cannot list cases", "Bearer key-Hush-tokens", "GET", "/v1/cases", 403, ""},
		{"reports can", "Bearer key-Hush-reports", "GET", "/v1/cases", 200, ""},
		{"reports cannot cancel", "Bearer key-Hush-reports", "POST", path + "/reauth/cancel", 403, ""},
		{"connections cannot stop notices", "Bearer key-Hush-connections", "POST", path + "/reauth/stop", 403, ""},
		{"reports cannot report bounces", "Bearer key-Hush-reports", "POST", "/v1/contacts/bounce", 403, `Bearer realm="reauth", error="insufficient_scope", scope="connections:write operator"`},
		{"reports cannot forget", "Bearer key-Hush-reports", "POST", "/v1/contacts/forget", 403, ""},
		{"reports cannot restore", "Bearer key-Hush-reports", "POST", "/v1/contacts/restore", 403, ""},
		{"connections cannot report", "Bearer key-Hush-connections", "POST", path + "/reauth", 403, ""},
		{"connections can remove", "Bearer key-Hush-connections", "DELETE", path, 204, ""},
		{"metrics need a scope", "Bearer key-Hush-reports", "GET", "/metrics", 403, `Bearer realm="reauth", error="insufficient_scope", scope="metrics"`},
		{"metrics", "Bearer " + apiKey, "GET", "/metrics", 200, ""},
		{"metrics need a key", "", "GET", "/metrics", 401, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := f.do(test.method, test.path, nil, header("Authorization", test.authorization))
			require.Equal(t, test.status, w.Code, w.Body.String())
			if test.status == 401 || test.status == 403 {
				require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				require.NotEmpty(t, w.Header().Get("WWW-Authenticate"))
				f.checkHidden("problem", w.Body.String())
			}
			if test.challenge != "" {
				require.Equal(t, test.challenge, w.Header().Get("WWW-Authenticate"))
			}
		})
	}
}

// Every call of the API needs a key: none was forgotten.
func TestEveryAPICallNeedsAKey(t *testing.T) {
	f := newFixture(t)
	s := &server{Config: f.config, mux: http.NewServeMux()}
	api := s.newAPI()
	s.connectionRoutes(api)
	s.reportRoutes(api)
	s.caseRoutes(api)
	s.steeringRoutes(api)
	s.embeddedRoutes(api)
	s.tokenRoutes(api)
	s.reachRoutes(api)
	calls := 0
	for path, item := range api.OpenAPI().Paths {
		for method, op := range map[string]any{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete} {
			if f.do(method, path, nil).Code == http.StatusMethodNotAllowed {
				continue
			}
			calls++
			require.NotNil(t, op)
			w := f.do(method, path, `{}`, noKey)
			require.Equal(t, http.StatusUnauthorized, w.Code, "%s %s", method, path)
		}
	}
	require.GreaterOrEqual(t, calls, 16)
}

func TestKeysAreHashed(t *testing.T) {
	f := newFixture(t)
	key, err := f.db.APIKeyByHash(t.Context(), hashAPIKey(apiKey))
	require.NoError(t, err)
	require.Equal(t, "bootstrap", key.Name)
	require.ElementsMatch(t, Scopes(), []string(key.Scopes))

	f.api(200, "GET", "/v1/cases", nil, nil)
	key, err = f.db.APIKeyByHash(t.Context(), hashAPIKey(apiKey))
	require.NoError(t, err)
	require.NotNil(t, key.LastUsedAt, "its use is noted")
	require.Contains(t, f.log.String(), `"api_key":"bootstrap"`, "the log names the key, not its secret")
}

func TestAuthorizationWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	f.dbDown()
	w := f.do("GET", "/v1/cases", nil)
	require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body.String())
	require.Equal(t, "5", w.Header().Get("Retry-After"))
}
