package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
)

// The scopes that an API key can have.
const (
	ScopeReports     = "reports:write"     // report stale connections and read their cases
	ScopeConnections = "connections:write" // register, read, update and remove connections
	ScopeTokens      = "tokens:read"       // read the current access tokens
	ScopeOperator    = "operator"          // see everything but tokens; cancel, snooze and remind
	ScopeMetrics     = "metrics"           // read /metrics
	ScopeCodec       = "codec"             // decode what is encrypted in Temporal
)

// Scopes lists every scope.
func Scopes() []string {
	return []string{ScopeReports, ScopeConnections, ScopeTokens, ScopeOperator, ScopeMetrics, ScopeCodec}
}

// BootstrapKeyName is what the key of Config.BootstrapAPIKey is called.
const BootstrapKeyName = "bootstrap"

func hashAPIKey(key string) []byte { return secrets.HashAPIKey(key) }

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
	const invalid = challenge + `, error="invalid_token"`
	now, address, hash := s.Now(), infoOf(ctx).address, hashAPIKey(token)
	if err := s.withinRefusals(ctx, hash); err != nil {
		return db.APIKey{}, err
	}
	if err := secrets.CheckAPIKey(token); err != nil {
		s.limits.refused.take(address, now)
		return db.APIKey{}, refuse(http.StatusUnauthorized, invalid, "The API key is mistyped or cut off: its checksum does not fit.")
	}
	// A key is found by its hash, so that how long it takes tells nothing of it.
	key, err := s.DB.APIKeyByHash(ctx, hash)
	switch {
	case err != nil && !errors.Is(err, db.ErrNotFound):
		return db.APIKey{}, s.databaseDown(ctx, "looking an API key up", err)
	case err != nil, !key.Good(now):
		s.limits.refused.take(address, now)
		return db.APIKey{}, refuse(http.StatusUnauthorized, invalid, "The API key is not known, or it was revoked or has expired.")
	}
	infoOf(ctx).key = key.Name
	s.limits.good.note(address, hash, now)
	if wait, ok := s.limits.key.take(strconv.FormatInt(key.ID, 10), now); !ok {
		return db.APIKey{}, tooMany(wait, "Too many calls with this API key: "+s.limits.key.rate.String()+" are answered.")
	}
	if !slices.ContainsFunc(scopes, func(scope string) bool { return slices.Contains(key.Scopes, scope) }) {
		wanted := strings.Join(scopes, " or ")
		return db.APIKey{}, refuse(http.StatusForbidden, challenge+`, error="insufficient_scope", scope="`+strings.Join(scopes, " ")+`"`,
			"The API key lacks the scope "+wanted+".")
	}
	s.touch(ctx, key, now)
	return key, nil
}

// touch notes a key's use, which not every request writes to the database.
func (s *server) touch(ctx context.Context, key db.APIKey, now time.Time) {
	if due, _ := s.touched.say(key.Name, now); !due {
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
	return ok && slices.Contains(key.Scopes, scope)
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
	if key.Application != "" {
		if err := s.confine(ctx, key.Application); err != nil {
			_, w := humago.Unwrap(ctx)
			writeProblem(w, err)
			return
		}
	}
	inner := actingAs(context.WithValue(ctx.Context(), apiKeyKey{}, key), "key "+key.Name)
	if key.Application != "" {
		inner = db.Within(inner, key.Application)
	}
	next(huma.WithContext(ctx, inner))
}

// authorizeAll is authorize for what is of all applications together, which a key
// that is limited to one may not see.
func (s *server) authorizeAll(ctx context.Context, authorization, scope string) error {
	key, err := s.authorize(ctx, authorization, scope)
	if err == nil && key.Application != "" {
		err = problem(http.StatusForbidden, "The API key is for the application "+key.Application+" alone, and this is of all of them; it needs a key without an application.")
	}
	return err
}

// guard puts a handler outside of the API behind a scope, unless it is open.
func (s *server) guard(open bool, scope string, next http.Handler) http.Handler {
	if open {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.authorizeAll(r.Context(), r.Header.Get("Authorization"), scope); err != nil {
			writeProblem(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}
