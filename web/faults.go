package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/finch-reauth/reauth/db"
)

// temporalTimeout bounds a call to Temporal: a caller is waiting.
const temporalTimeout = 5 * time.Second

// temporal calls Temporal, for no longer than a caller should wait.
func (s *server) temporal(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, temporalTimeout)
	defer cancel()
	return call(ctx)
}

// databaseDown logs what failed and returns the problem: 503 while the
// database cannot be used, 500 when it refused what we asked of it.
func (s *server) databaseDown(ctx context.Context, doing string, err error) error {
	s.complain(ctx, "the database failed", doing, err)
	if databaseUnavailable(err) {
		return unavailable("The database cannot be reached just now. Nothing was changed; please repeat the call.")
	}
	return problem(http.StatusInternalServerError, internalDetail)
}

func databaseUnavailable(err error) bool {
	return errors.Is(err, db.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

const internalDetail = "Something went wrong on our side. The X-Request-Id of this answer finds it in the log."

// temporalDown does the same for Temporal.
func (s *server) temporalDown(ctx context.Context, doing string, err error) error {
	s.complain(ctx, "Temporal failed", doing, err)
	return unavailable("Temporal cannot be reached just now. Nothing is lost if you repeat the call.")
}

func (s *server) complain(ctx context.Context, message, doing string, err error) {
	s.Logger.LogAttrs(ctx, slog.LevelError, message, slog.String("doing", doing),
		slog.String("error", err.Error()), slog.String("request_id", infoOf(ctx).id))
}
