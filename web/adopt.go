package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

// introspected is a token that a backend handed in, and what the provider says
// of it.
type introspected struct {
	finch.Introspection
	token secrets.Secret
	at    time.Time
}

// status is what we may believe of the connection after the introspection.
func (t *introspected) status() reauth.ConnectionStatus {
	if t.NeedsReauth() {
		return reauth.StatusStale
	}
	return reauth.StatusConnected
}

// introspect asks the provider whose a token is. The error is a problem, and
// means that nothing may be stored.
func (s *server) introspect(ctx context.Context, application, accessToken string) (*introspected, error) {
	if err := register.CheckToken(accessToken); err != nil {
		return nil, bodyProblem(err)
	}
	at, token := s.Now(), secrets.Secret(accessToken)
	answer, err := s.Introspect(ctx, application, token)
	var refusal *finch.Error
	switch {
	case err == nil:
		if err := s.checkOwner(application, answer.ClientID); err != nil {
			return nil, err
		}
		return &introspected{Introspection: answer, token: token, at: at}, nil
	case errors.Is(err, lifecycle.ErrUnknownApplication):
		return nil, fieldProblem("body.application", "is not configured here, so its tokens cannot be checked")
	case errors.As(err, &refusal) && refusal.IsReauth():
		return nil, fieldProblem("body.access_token", "cannot be checked, because the provider only says that the customer must log in again. Register the connection without a token, then report it with POST /v1/connections/{connection_id}/reauth")
	case errors.As(err, &refusal) && (refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusForbidden):
		return nil, fieldProblem("body.access_token", "is refused by the provider; give the connection's current token, or none")
	}
	if refusal != nil && !refusal.WaitsUntil.IsZero() {
		return nil, unavailableFor(refusal.RetryAfter, "The provider cannot be asked about the access_token just now: its limit leaves no room until "+
			refusal.WaitsUntil.UTC().Format("15:04:05 MST")+". Nothing was stored; please repeat the call then.")
	}
	s.complain(ctx, "the provider failed", "introspecting a token", err)
	return nil, unavailable("The provider cannot be asked about the access_token just now. Nothing was stored; please repeat the call.")
}

// adopt stores a token that was introspected as its connection's, sealed.
func (s *server) adopt(ctx context.Context, connectionID string, t *introspected) error {
	adopted, err := s.DB.Adopt(ctx, db.Adoption{
		ConnectionID: connectionID, Fingerprint: reauth.Fingerprint(t.token.Reveal()), Source: "api", MintedAt: t.at,
		Seal: func(generation int64) ([]byte, error) {
			return s.Keys.Seal([]byte(t.token.Reveal()), db.TokenBound(connectionID, generation)...)
		},
	})
	switch {
	case errors.Is(err, db.ErrForeignToken):
		return fieldProblem("body.access_token", "is stored as another connection's token")
	case errors.Is(err, db.ErrRemoved):
		return problem(http.StatusConflict, "The connection was removed while it was being stored. Repeat the call to register it again.")
	case err != nil:
		return s.databaseDown(ctx, "adopting a token", err)
	}
	if adopted.Current {
		s.believe(ctx, connectionID, t)
	}
	return nil
}

// believe passes on what the provider said of the current token. An open case
// decides for itself; only without one is the connection's status ours to set.
// Nothing here may fail the call: the token is stored.
func (s *server) believe(ctx context.Context, connectionID string, t *introspected) {
	if t.NeedsReauth() {
		s.setStatus(ctx, connectionID, reauth.StatusStale, t.at)
		return
	}
	err := s.temporal(ctx, func(ctx context.Context) error { return s.Starter.Restored(ctx, connectionID) })
	switch {
	case errors.Is(err, starter.ErrNoOpenCase):
		s.setStatus(ctx, connectionID, reauth.StatusConnected, t.at)
	case err != nil:
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "an open case was not told of a new token; it will see for itself",
			slog.String("connection_id", connectionID), slog.String("error", err.Error()))
	}
}

func (s *server) setStatus(ctx context.Context, connectionID string, status reauth.ConnectionStatus, at time.Time) {
	if err := s.DB.SetConnectionStatus(ctx, connectionID, status, at); err != nil && !errors.Is(err, db.ErrRemoved) {
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "a connection's status was not stored",
			slog.String("connection_id", connectionID), slog.String("error", err.Error()))
	}
}
