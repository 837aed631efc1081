package web

import (
	"context"
	"errors"
	"log/slog"

	"github.com/finch-reauth/reauth/db"
)

type actorKey struct{}

// actingAs says who makes a request. It stands in timelines, which nobody
// encrypts: a name, and no e-mail address.
func actingAs(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, actorKey{}, who)
}

// actor is who makes a request, as timelines name them: "key ops-anna". It is
// empty where nobody did who could be asked.
func actor(ctx context.Context) string {
	who, _ := ctx.Value(actorKey{}).(string)
	return who
}

// acted writes into a connection's timeline what somebody has just done, and who
// it was: into that of its open case, if there is one. What is done stays done if
// that fails; the log has it then.
func (s *server) acted(ctx context.Context, connectionID, kind, what string) {
	detail := what + "."
	if who := actor(ctx); who != "" {
		detail = what + " by " + who + "."
	}
	ctx = context.WithoutCancel(ctx)
	line := db.Event{ConnectionID: connectionID, Kind: kind, Detail: detail, At: s.Now()}
	open, err := s.DB.OpenCaseOf(ctx, connectionID)
	if err == nil {
		line.CaseID = open.CaseID
	}
	if err == nil || errors.Is(err, db.ErrNotFound) {
		err = s.DB.AddEvent(ctx, line)
	}
	if err != nil {
		s.Logger.LogAttrs(ctx, slog.LevelError, "what somebody did is not in the timeline", slog.String("connection_id", connectionID),
			slog.String("kind", kind), slog.String("detail", detail), slog.String("error", err.Error()), slog.String("request_id", infoOf(ctx).id))
	}
}
