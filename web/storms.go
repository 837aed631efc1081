package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// StormView is a time at which so many connections of one provider broke
// together that first notices are held.
type StormView struct {
	StormID     string     `json:"storm_id"`
	Provider    string     `json:"provider"`
	System      string     `json:"system,omitempty" doc:"The employment system that broke; absent when it is the whole provider."`
	Broken      int        `json:"broken" doc:"How many connections had broken when it began."`
	Connections int        `json:"connections" doc:"Of how many."`
	Held        int        `json:"held" doc:"How many cases it holds, or held until it ended."`
	Waiting     int        `json:"waiting" doc:"How many of them are open."`
	Restored    int        `json:"restored" doc:"How many of them ended with access back."`
	BeganAt     time.Time  `json:"began_at"`
	EndsAt      time.Time  `json:"ends_at" doc:"When it is over at the latest."`
	EndedAt     *time.Time `json:"ended_at" doc:"Null while it rages."`
	EndedHow    string     `json:"ended_how,omitempty" doc:"Why it ended, in words."`
	WorkflowID  string     `json:"workflow_id"`
}

// StormList is the storms that there are and were.
type StormList struct {
	Storms []StormView `json:"storms" nullable:"false"`
}

type listStormsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many to return at most."`
}

type stormPath struct {
	StormID string `path:"storm_id" maxLength:"128" doc:"As GET /v1/storms and the operator's mail have it." example:"5b0cfd52-6a5c-4e0e-8f8a-0f2a7c1f6a51"`
}

func (s *server) stormRoutes(api huma.API) {
	huma.Register(api, operation("list-storms", http.MethodGet, "/v1/storms", tagOperators, "List storms",
		"When so many connections of one provider break within minutes that it is the provider's fault and not the customers', first notices are held until it has recovered. Those that rage come first, then the newest.",
		ScopeOperator), s.listStorms)
	op := answers(operation("release-storm", http.MethodPost, "/v1/storms/{storm_id}/release", tagOperators, "Release a storm",
		"Lets the held first notices go now, one after the other. Each case still looks at its connection before it writes to anybody. 409 when the storm is over.",
		ScopeOperator), http.StatusNotFound, http.StatusConflict)
	op.DefaultStatus = http.StatusAccepted
	huma.Register(api, op, s.releaseStorm)
}

func stormViewOf(storm db.Storm) StormView {
	return StormView{
		StormID: storm.StormID, Provider: string(storm.Provider), System: storm.System, Broken: storm.Broken, Connections: storm.Connections,
		Held: storm.Held, Waiting: storm.Waiting, Restored: storm.Restored, BeganAt: storm.BeganAt, EndsAt: storm.EndsAt,
		EndedAt: storm.EndedAt, EndedHow: storm.EndedHow, WorkflowID: reauth.StormWorkflowID(storm.StormID),
	}
}

func (s *server) listStorms(ctx context.Context, in *listStormsInput) (*struct{ Body StormList }, error) {
	storms, err := s.DB.Storms(ctx, in.Limit)
	if err != nil {
		return nil, s.databaseDown(ctx, "listing storms", err)
	}
	list := StormList{Storms: make([]StormView, 0, len(storms))}
	for _, storm := range storms {
		list.Storms = append(list.Storms, stormViewOf(storm))
	}
	return &struct{ Body StormList }{list}, nil
}

func (s *server) releaseStorm(ctx context.Context, in *stormPath) (*struct{ Body StormView }, error) {
	storm, err := s.ragingStorm(ctx, in.StormID)
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	release := func(ctx context.Context) error { return s.Starter.ReleaseStorm(ctx, storm.StormID, by) }
	err = s.temporal(ctx, release)
	if errors.Is(err, starter.ErrNoStorm) {
		// It has just ended, or whatever watched it was terminated.
		if storm, err = s.ragingStorm(ctx, in.StormID); err != nil {
			return nil, err
		}
		if err = s.temporal(ctx, func(ctx context.Context) error { return s.Starter.WatchStorm(ctx, storm.StormID) }); err == nil {
			err = s.temporal(ctx, release)
		}
	}
	if err != nil {
		return nil, s.temporalDown(ctx, "releasing a storm", err)
	}
	return &struct{ Body StormView }{stormViewOf(storm)}, nil
}

// ragingStorm reads a storm that is not over. The error is a problem.
func (s *server) ragingStorm(ctx context.Context, id string) (db.Storm, error) {
	storm, err := s.DB.StormByID(ctx, id)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return storm, problem(http.StatusNotFound, "There is no such storm. GET /v1/storms lists those that there are.")
	case err != nil:
		return storm, s.databaseDown(ctx, "reading a storm", err)
	case storm.Over():
		return storm, problem(http.StatusConflict, "The storm is over: "+storm.EndedHow+".")
	}
	return storm, nil
}
