package web

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/finch-reauth/reauth/db"
)

// The scopes that an API key can have.
const (
	ScopeReports     = "reports:write"     // report stale connections and read their cases
	ScopeConnections = "connections:write" // register, read, update and remove connections
	ScopeTokens      = "tokens:read"       // read the current access tokens
	ScopeOperator    = "operator"          // see everything but tokens; cancel, snooze and remind
	ScopeMetrics     = "metrics"           // read /metrics
)

// Scopes lists every scope.
func Scopes() []string {
	return []string{ScopeReports, ScopeConnections, ScopeTokens, ScopeOperator, ScopeMetrics}
}

func hashAPIKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

const challenge = `Bearer realm="reauth"`

// authorize returns the key that a request carries, if it has one of the
// scopes. The error is a problem with the headers it needs.
func (s *server) authorize(ctx context.Context, authorization string, scopes ...string) (db.APIKey, error) {
	refuse := func(status int, challenge, detail string) error {
		return huma.ErrorWithHeaders(problem(status, detail), http.Header{"Www-Authenticate": {challenge}})
	}
	if authorization == "" {
		return db.APIKey{}, refuse(http.StatusUnauthorized, challenge, `An API key is missing; send it as "Authorization: Bearer <api key>".`)
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return db.APIKey{}, refuse(http.StatusUnauthorized, challenge, `The Authorization header is not understood; send "Authorization: Bearer <api key>".`)
	}
	key, err := s.DB.APIKeyByHash(ctx, hashAPIKey(token))
	now := s.Now()
	switch {
	case err != nil && !errors.Is(err, db.ErrNotFound):
		return db.APIKey{}, s.databaseDown(ctx, "looking an API key up", err)
	case err != nil, key.RevokedAt != nil, key.ExpiresAt != nil && !key.ExpiresAt.After(now):
		return db.APIKey{}, refuse(http.StatusUnauthorized, challenge+`, error="invalid_token"`, "The API key is not known, or it was revoked or has expired.")
	}
	infoOf(ctx).key = key.Name
	if !slices.ContainsFunc(scopes, func(scope string) bool { return slices.Contains([]string(key.Scopes), scope) }) {
		wanted := strings.Join(scopes, " or ")
		return db.APIKey{}, refuse(http.StatusForbidden, challenge+`, error="insufficient_scope", scope="`+strings.Join(scopes, " ")+`"`,
			"The API key lacks the scope "+wanted+".")
	}
	s.touch(ctx, key, now)
	return key, nil
}

// touches remembers which keys were noted as used lately, so that not every
// request writes to the database.
type touches struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (t *touches) due(name string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = map[string]time.Time{}
	}
	if now.Sub(t.last[name]) < time.Minute {
		return false
	}
	t.last[name] = now
	return true
}

func (s *server) touch(ctx context.Context, key db.APIKey, now time.Time) {
	if !s.touched.due(key.Name, now) {
		return
	}
	if err := s.DB.TouchAPIKey(ctx, key.ID, now); err != nil {
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "an API key's use could not be noted", slog.String("error", err.Error()))
	}
}

type apiKeyKey struct{}

// hasScope tells whether the API call's key has a scope.
func hasScope(ctx context.Context, scope string) bool {
	key, ok := ctx.Value(apiKeyKey{}).(db.APIKey)
	return ok && slices.Contains([]string(key.Scopes), scope)
}

// authenticate is the huma middleware of every API call.
func (s *server) authenticate(ctx huma.Context, next func(huma.Context)) {
	scopes, _ := ctx.Operation().Metadata["scopes"].([]string)
	key, err := s.authorize(ctx.Context(), ctx.Header("Authorization"), scopes...)
	if err != nil {
		_, w := humago.Unwrap(ctx)
		writeProblem(w, err)
		return
	}
	next(huma.WithValue(ctx, apiKeyKey{}, key))
}

// guard puts a handler outside of the API behind a scope, unless it is open.
func (s *server) guard(open bool, scope string, next http.Handler) http.Handler {
	if open {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.authorize(r.Context(), r.Header.Get("Authorization"), scope); err != nil {
			writeProblem(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}
