package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/starter"
)

// maxSnooze bounds how long notices can be held: longer is a cancellation.
const maxSnooze = 366 * 24 * time.Hour

// CancelBody says why a case is called off.
type CancelBody struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why, for the timeline." example:"the customer left us"`
}

// StopBody says why nobody is to be written to any more.
type StopBody struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why, for the timeline." example:"we talk to them on the phone"`
}

// SnoozeBody says how long notices are held.
type SnoozeBody struct {
	Until time.Time `json:"until" doc:"No notice goes out before this time. The deadline stays as it is." example:"2027-01-31T09:00:00Z"`
}

// CodeBody is an authorization code that reached the backend.
type CodeBody struct {
	Code        string `json:"code" minLength:"1" maxLength:"2048" doc:"The code that Connect returned. It lives ten minutes."`
	RedirectURI string `json:"redirect_uri,omitempty" maxLength:"2048" doc:"Where Connect returned to, if it was a redirect. Leave it out for the embedded Connect, which has none."`
}

// Accepted says which case was told.
type Accepted struct {
	CaseID string `json:"case_id"`
	Phase  string `json:"phase"`
}

// CodeResult says what has become of a code.
type CodeResult struct {
	CaseID string `json:"case_id,omitempty"`
	State  string `json:"state" enum:"received,minted,adopted,recovered,refused,lost,wrong_account,unusable,quarantined" doc:"received until its case has exchanged it; GET /v1/connections/{connection_id}/reauth follows the case."`
}

type steerOutput struct{ Body Accepted }

type cancelInput struct {
	ConnectionPath
	Body CancelBody
}

type stopInput struct {
	ConnectionPath
	Body StopBody
}

type snoozeInput struct {
	ConnectionPath
	Body SnoozeBody
}

type codeInput struct {
	ConnectionPath
	Body CodeBody
}

type codeOutput struct {
	Status int
	Body   CodeResult
}

func (s *server) steeringRoutes(api huma.API) {
	register := func(id, what, summary, description string) huma.Operation {
		op := answers(operation(id, http.MethodPost, "/v1/connections/{connection_id}/reauth/"+what, tagOperators, summary, description+" 409 when no case is open.",
			ScopeOperator), http.StatusNotFound, http.StatusConflict)
		op.DefaultStatus = http.StatusAccepted
		return op
	}
	huma.Register(api, register("cancel", "cancel", "Call a case off", "The connection stays stale, and nobody is written to again. A code that has arrived is still redeemed first."), s.cancel)
	huma.Register(api, register("snooze", "snooze", "Hold the notices", "No notice goes out before `until`. The deadline stays, and a code is still taken."), s.snooze)
	huma.Register(api, register("stop-notices", "stop", "Stop the notices", "Nobody is reminded any more, but the case stays open: its deadline stands, its links work, and a code is still taken."), s.stopNotices)
	huma.Register(api, register("remind", "remind", "Remind now", "Sends one more notice at once, whatever the hour, also after stop. Within ten minutes of the last time it changes nothing."), s.remind)

	op := answers(operation("submit-code", http.MethodPost, "/v1/connections/{connection_id}/reauth/code", tagCases, "Hand in a code",
		"For the embedded Connect, whose code reaches your own page. The code is taken whether or not a case is open, and the same code again shows what has become of it.",
		ScopeReports), http.StatusNotFound)
	op.DefaultStatus = http.StatusAccepted
	huma.Register(api, also(op, http.StatusOK, "The code was handed in before."), s.submitCode)
}

// steer tells the open case of a connection something.
func (s *server) steer(ctx context.Context, id string, tell func(context.Context) error) (*steerOutput, error) {
	if _, err := s.connection(ctx, id); err != nil {
		return nil, err
	}
	err := s.temporal(ctx, tell)
	switch {
	case errors.Is(err, starter.ErrNoOpenCase):
		return nil, problem(http.StatusConflict, "The connection has no open case. GET /v1/connections/"+id+"/reauth shows the last one.")
	case err != nil:
		return nil, s.temporalDown(ctx, "telling a case", err)
	}
	c, err := s.DB.OpenCaseOf(ctx, id)
	if errors.Is(err, db.ErrNotFound) {
		return &steerOutput{Accepted{Phase: string(reauth.PhaseConfirming)}}, nil
	}
	if err != nil {
		return nil, s.databaseDown(ctx, "reading the open case", err)
	}
	return &steerOutput{Accepted{CaseID: c.CaseID, Phase: string(c.Phase)}}, nil
}

func (s *server) cancel(ctx context.Context, in *cancelInput) (*steerOutput, error) {
	if !register.Printable(in.Body.Reason) {
		return nil, fieldProblem("body.reason", "must be one line of printable text")
	}
	return s.steer(ctx, in.ConnectionID, func(ctx context.Context) error {
		return s.Starter.Cancel(ctx, in.ConnectionID, reauth.Cancel{Reason: in.Body.Reason, By: actor(ctx)})
	})
}

func (s *server) stopNotices(ctx context.Context, in *stopInput) (*steerOutput, error) {
	if !register.Printable(in.Body.Reason) {
		return nil, fieldProblem("body.reason", "must be one line of printable text")
	}
	return s.steer(ctx, in.ConnectionID, func(ctx context.Context) error {
		return s.Starter.StopNotices(ctx, in.ConnectionID, reauth.StopNotices{Reason: in.Body.Reason, By: actor(ctx)})
	})
}

func (s *server) snooze(ctx context.Context, in *snoozeInput) (*steerOutput, error) {
	now := s.Now()
	if !in.Body.Until.After(now) || in.Body.Until.After(now.Add(maxSnooze)) {
		return nil, fieldProblem("body.until", "must be in the future, and at most a year ahead")
	}
	return s.steer(ctx, in.ConnectionID, func(ctx context.Context) error {
		return s.Starter.Snooze(ctx, in.ConnectionID, reauth.Snooze{Until: in.Body.Until.UTC(), By: actor(ctx)})
	})
}

func (s *server) remind(ctx context.Context, in *ConnectionPath) (*steerOutput, error) {
	return s.steer(ctx, in.ConnectionID, func(ctx context.Context) error {
		return s.Starter.Remind(ctx, in.ConnectionID, reauth.RemindNow{By: actor(ctx)})
	})
}

func (s *server) submitCode(ctx context.Context, in *codeInput) (*codeOutput, error) {
	message := reauth.CodeReceived{Code: in.Body.Code, RedirectURI: in.Body.RedirectURI, Embedded: in.Body.RedirectURI == ""}
	if err := message.Check(); err != nil {
		return nil, problem(http.StatusUnprocessableEntity, err.Error())
	}
	if _, err := s.usableConnection(ctx, in.ConnectionID); err != nil {
		return nil, err
	}
	row, err := s.DB.CodeByHash(ctx, reauth.CodeHash(in.Body.Code))
	switch {
	case err == nil && row.ConnectionID != "" && row.ConnectionID != in.ConnectionID:
		return nil, problem(http.StatusConflict, "The code was handed in for another connection.")
	case err == nil:
		return &codeOutput{Status: http.StatusOK, Body: CodeResult{CaseID: row.CaseID, State: string(row.State)}}, nil
	case !errors.Is(err, db.ErrNotFound):
		return nil, s.databaseDown(ctx, "looking a code up", err)
	}
	caseID, err := s.deliver(ctx, delivery{ConnectionID: in.ConnectionID, Message: message})
	if err != nil {
		return nil, s.temporalDown(ctx, "handing a code over", err)
	}
	return &codeOutput{Status: http.StatusAccepted, Body: CodeResult{CaseID: caseID, State: string(reauth.CodeReceivedState)}}, nil
}
