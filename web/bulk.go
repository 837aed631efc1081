package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

// BulkFilterBody chooses open cases. All that it names must fit.
type BulkFilterBody struct {
	Provider    string `json:"provider,omitempty" maxLength:"64" doc:"Only cases of this provider." example:"finch"`
	Application string `json:"application,omitempty" maxLength:"64" doc:"Only cases of this application."`
	System      string `json:"system,omitempty" maxLength:"200" doc:"Only cases of connections to this employment system, exactly as it is registered."`
	Phase       string `json:"phase,omitempty" enum:"confirming,awaiting_customer,redeeming,verifying,blocked" doc:"Only cases that are in this phase at the moment of the call."`
	All         bool   `json:"all,omitempty" doc:"Every open case. It stands alone, and must be said: without a filter the call is refused."`
}

// BulkBody asks the same of many cases.
type BulkBody struct {
	BulkFilterBody
	Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why, for the timelines." example:"the contract with this customer has ended"`
	DryRun bool   `json:"dry_run,omitempty" doc:"Only count the cases that fit; nothing is asked of them."`
}

// BulkSnoozeBody holds the notices of many cases.
type BulkSnoozeBody struct {
	BulkBody
	Until time.Time `json:"until" doc:"No notice goes out before this time. The deadlines stay as they are." example:"2027-01-31T09:00:00Z"`
}

// BulkView is what was asked of many cases, and how far it has come.
type BulkView struct {
	BulkID      string     `json:"bulk_id,omitempty" doc:"Absent of a dry run."`
	Action      string     `json:"action" enum:"cancel,snooze,stop,release"`
	State       string     `json:"state" enum:"dry_run,waiting,running,ended" doc:"waiting: no worker has begun it yet."`
	Matched     int        `json:"matched" doc:"How many open cases fitted when it was asked for."`
	Told        int        `json:"told" doc:"How many of them have been told."`
	Gone        int        `json:"gone" doc:"How many had ended before they could be told."`
	Provider    string     `json:"provider,omitempty"`
	Application string     `json:"application,omitempty"`
	System      string     `json:"system,omitempty"`
	Phase       string     `json:"phase,omitempty"`
	All         bool       `json:"all,omitempty"`
	Until       *time.Time `json:"until,omitempty"`
	Reason      string     `json:"reason"`
	By          string     `json:"by,omitempty"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	EndedHow    string     `json:"ended_how,omitempty" doc:"done, or why it ended before."`
	WorkflowID  string     `json:"workflow_id,omitempty"`
}

// BulkList is what was asked of many cases lately.
type BulkList struct {
	Bulks []BulkView `json:"bulks" nullable:"false"`
}

type bulkInput struct{ Body BulkBody }

type bulkSnoozeInput struct{ Body BulkSnoozeBody }

type bulkOutput struct {
	Status int
	Body   BulkView
}

type bulkPath struct {
	BulkID string `path:"bulk_id" maxLength:"64" doc:"As the call that asked for it answered." example:"5b0cfd52-6a5c-4e0e-8f8a-0f2a7c1f6a51"`
}

type listBulksInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many to return at most."`
}

func (s *server) bulkRoutes(api huma.API) {
	const follow = " Workers do it within a moment, one case after the other, and go on where they were after a crash; GET /v1/bulk/{bulk_id} says how far it has come. It is about the cases that are open at the moment of the call. `dry_run` only counts them."
	register := func(action reauth.BulkAction, summary, description string) huma.Operation {
		op := answers(operation("bulk-"+string(action), http.MethodPost, "/v1/cases:"+string(action), tagOperators, summary, description+follow,
			ScopeOperator), http.StatusUnprocessableEntity)
		op.DefaultStatus = http.StatusAccepted
		return also(op, http.StatusOK, "A dry run: nothing was asked of anybody.")
	}
	ask := func(action reauth.BulkAction) func(context.Context, *bulkInput) (*bulkOutput, error) {
		return func(ctx context.Context, in *bulkInput) (*bulkOutput, error) {
			return s.bulk(ctx, action, in.Body, nil)
		}
	}
	huma.Register(api, register(reauth.BulkCancel, "Call many cases off", "The connections stay stale, and nobody is written to again. A code that has arrived is still redeemed first."), ask(reauth.BulkCancel))
	huma.Register(api, register(reauth.BulkSnooze, "Hold the notices of many cases", "No notice of theirs goes out before `until`. The deadlines stay, and codes are still taken."), s.bulkSnooze)
	huma.Register(api, register(reauth.BulkStop, "Stop the notices of many cases", "Nobody is reminded any more, but the cases stay open."), ask(reauth.BulkStop))
	huma.Register(api, register(reauth.BulkRelease, "Release many cases", "Ends whatever holds their notices: a snooze, a storm, a stop of the notices, the ramp. Of the steps that were missed the last is sent, and the cases go on three seconds apart, since each looks at its connection first. It does not override mail that is stopped or in shadow."), ask(reauth.BulkRelease))
	huma.Register(api, answers(operation("get-bulk", http.MethodGet, "/v1/bulk/{bulk_id}", tagOperators, "Read how far it has come",
		"What was asked of many cases, by whom, and how many of them have been told.", ScopeOperator), http.StatusNotFound), s.getBulk)
	huma.Register(api, operation("list-bulks", http.MethodGet, "/v1/bulk", tagOperators, "List what was asked of many cases", "Newest first.", ScopeOperator), s.listBulks)
}

func (s *server) bulkSnooze(ctx context.Context, in *bulkSnoozeInput) (*bulkOutput, error) {
	now := s.Now()
	if !in.Body.Until.After(now) || in.Body.Until.After(now.Add(maxSnooze)) {
		return nil, fieldProblem("body.until", "must be in the future, and at most a year ahead")
	}
	until := in.Body.Until.UTC()
	return s.bulk(ctx, reauth.BulkSnooze, in.Body.BulkBody, &until)
}

// bulk stores what is asked; a worker begins it.
func (s *server) bulk(ctx context.Context, action reauth.BulkAction, body BulkBody, until *time.Time) (*bulkOutput, error) {
	filter := db.BulkFilter{Provider: reauth.Provider(body.Provider), Application: body.Application, System: body.System, Phase: reauth.Phase(body.Phase)}
	switch none := filter == (db.BulkFilter{}); {
	case none && !body.All:
		return nil, fieldProblem("body", `must choose cases by provider, application, system or phase, or ask for every open one with {"all": true}`)
	case !none && body.All:
		return nil, fieldProblem("body.all", "must be absent where provider, application, system or phase choose cases")
	case !register.Printable(body.Reason):
		return nil, fieldProblem("body.reason", "must be one line of printable text")
	}
	b := db.Bulk{
		Action: action, BulkFilter: filter, Every: body.All, Reason: body.Reason, By: cmp.Or(actor(ctx), "an operator"), Until: until, CreatedAt: s.Now(),
	}
	if body.DryRun {
		n, err := s.DB.CountBulk(ctx, filter)
		if err != nil {
			return nil, s.databaseDown(ctx, "counting cases", err)
		}
		b.Matched = n
		v := bulkViewOf(b)
		v.State, v.CreatedAt, v.WorkflowID = "dry_run", nil, ""
		return &bulkOutput{Status: http.StatusOK, Body: v}, nil
	}
	b, err := s.DB.AddBulk(ctx, b)
	if err != nil {
		return nil, s.databaseDown(ctx, "storing what is asked of many cases", err)
	}
	s.Logger.WarnContext(ctx, "the same is asked of many cases", "bulk_id", b.BulkID, "action", b.Action, "matched", b.Matched, "by", b.By)
	return &bulkOutput{Status: http.StatusAccepted, Body: bulkViewOf(b)}, nil
}

func bulkViewOf(b db.Bulk) BulkView {
	v := BulkView{
		BulkID: b.BulkID, Action: string(b.Action), State: "waiting", Matched: b.Matched, Told: b.Told, Gone: b.Gone,
		Provider: string(b.Provider), Application: b.Application, System: b.System, Phase: string(b.Phase), All: b.Every,
		Until: b.Until, Reason: b.Reason, By: b.By, CreatedAt: &b.CreatedAt, StartedAt: b.StartedAt, EndedAt: b.EndedAt, EndedHow: b.EndedHow,
		WorkflowID: reauth.BulkWorkflowID(b.BulkID),
	}
	switch {
	case b.EndedAt != nil:
		v.State = "ended"
	case b.StartedAt != nil:
		v.State = "running"
	}
	return v
}

func (s *server) getBulk(ctx context.Context, in *bulkPath) (*struct{ Body BulkView }, error) {
	b, err := s.DB.BulkByID(ctx, in.BulkID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "There is no such bulk. GET /v1/bulk lists those that there are.")
	case err != nil:
		return nil, s.databaseDown(ctx, "reading a bulk", err)
	}
	return &struct{ Body BulkView }{bulkViewOf(b)}, nil
}

func (s *server) listBulks(ctx context.Context, in *listBulksInput) (*struct{ Body BulkList }, error) {
	bulks, err := s.DB.Bulks(ctx, in.Limit)
	if err != nil {
		return nil, s.databaseDown(ctx, "listing bulks", err)
	}
	list := BulkList{Bulks: make([]BulkView, 0, len(bulks))}
	for _, b := range bulks {
		list.Bulks = append(list.Bulks, bulkViewOf(b))
	}
	return &struct{ Body BulkList }{list}, nil
}
