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
	"github.com/finch-reauth/reauth/starter"
)

// ReportBody is evidence that a connection is stale.
type ReportBody struct {
	ConnectionID string `json:"connection_id,omitempty" doc:"The same as in the path, if given."`
	ReportFields
}

// ReportFields are what a report says, however it names the connection.
type ReportFields struct {
	Provider         string   `json:"provider,omitempty" enum:"finch" doc:"The connection's provider, if given."`
	Source           string   `json:"source" enum:"api_error,webhook,sweep,manual,consent_expiry,link" doc:"Whose evidence it is. Reports of machines (api_error, webhook, sweep) are suppressed for a while after a case expired, was cancelled or failed; manual and link are a person's, and end that."`
	FinchCode        string   `json:"finch_code,omitempty" maxLength:"100" doc:"The provider's error code." example:"reauthenticate_user"`
	Reason           string   `json:"reason,omitempty" maxLength:"1000" doc:"What happened, in words for operators."`
	TokenFingerprint string   `json:"token_fingerprint,omitempty" pattern:"^[0-9a-f]{32}$" patternDescription:"the first 16 bytes of the token's SHA-256 in lower-case hex (32 characters)" doc:"Which token failed. If a newer one is stored by now, no case opens."`
	MinutesToExpire  int      `json:"minutes_to_expire,omitempty" minimum:"1" maximum:"129600" doc:"How long a Connect session lives."`
	Renewals         *int     `json:"renewals,omitempty" minimum:"0" maximum:"24" doc:"How many further sessions the case may open."`
	RedirectURI      string   `json:"redirect_uri,omitempty" maxLength:"2048" doc:"Where Connect returns to. By default our own /callback."`
	Products         []string `json:"products,omitempty" nullable:"false" maxItems:"50" doc:"The products that the session asks for."`
	Reminders        []string `json:"reminders,omitempty" nullable:"false" maxItems:"50" doc:"When notices go out: after the opening (\"48h\", \"9d\") or before the deadline (\"-24h\"). Without any, the campaign's own steps."`
	Campaign         string   `json:"campaign,omitempty" maxLength:"64" doc:"The campaign of the case that this report opens, by its name. Without it, the connection's own, or what the campaigns' rules choose. It changes nothing for a case that is open."`
}

// ReportResult says what became of a report: a case (case_id), nothing because
// a newer token is stored (token_superseded), or nothing for now (suppressed).
type ReportResult struct {
	CaseID          string     `json:"case_id,omitempty" doc:"The case that the report opened or joined."`
	WorkflowID      string     `json:"workflow_id,omitempty" doc:"The case's workflow at Temporal."`
	Created         *bool      `json:"created,omitempty" doc:"Whether the report opened the case."`
	Phase           string     `json:"phase,omitempty" doc:"What the case is doing."`
	TokenSuperseded bool       `json:"token_superseded,omitempty" doc:"The token that failed has been replaced: use the current one."`
	Generation      int64      `json:"generation,omitempty" doc:"The generation of the current token."`
	Suppressed      bool       `json:"suppressed,omitempty" doc:"No case opens for reports of machines until then."`
	Reason          string     `json:"reason,omitempty" doc:"Why reports are suppressed."`
	Until           *time.Time `json:"until,omitempty"`
}

type reportInput struct {
	ConnectionPath
	Body ReportBody
}

type reportOutput struct {
	Status int
	Body   ReportResult
}

func (s *server) reportRoutes(api huma.API) {
	op := answers(operation("report", http.MethodPost, "/v1/connections/{connection_id}/reauth", tagCases, "Report a stale connection",
		"Opens a case, or joins the one that is open: any number of reports make one case. Answers 202 with the case; 200 with `token_superseded` when the token that failed has been replaced since; 200 with `suppressed` when a case was closed lately and only a person may open another.",
		ScopeReports), http.StatusNotFound, http.StatusUnprocessableEntity)
	op.DefaultStatus = http.StatusAccepted
	huma.Register(api, also(op, http.StatusOK, "No case was opened: the token was superseded, or reports are suppressed."), s.report)
}

func (b ReportFields) input(id string) reauth.Input {
	return reauth.Input{
		ConnectionID: id, Provider: reauth.Provider(b.Provider), Source: reauth.Source(b.Source), FinchCode: b.FinchCode, Reason: b.Reason,
		TokenFingerprint: b.TokenFingerprint, MinutesToExpire: b.MinutesToExpire, Renewals: b.Renewals,
		RedirectURI: b.RedirectURI, Products: b.Products, Reminders: b.Reminders, Campaign: b.Campaign,
	}
}

func (s *server) report(ctx context.Context, in *reportInput) (*reportOutput, error) {
	if in.Body.ConnectionID != "" && in.Body.ConnectionID != in.ConnectionID {
		return nil, fieldProblem("body.connection_id", "must be the connection_id of the path, or absent")
	}
	if err := s.checkCampaign(in.Body.Campaign); err != nil {
		return nil, err
	}
	if err := in.Body.input(in.ConnectionID).Check(); err != nil {
		return nil, problem(http.StatusUnprocessableEntity, err.Error())
	}
	result, err := s.reportTo(ctx, in.ConnectionID, in.Body.ReportFields)
	if err != nil {
		return nil, err
	}
	return &reportOutput{Status: result.status(), Body: result}, nil
}

// reportTo reports a connection. The error is a problem.
func (s *server) reportTo(ctx context.Context, id string, b ReportFields) (ReportResult, error) {
	c, err := s.usableConnection(ctx, id)
	if err != nil {
		return ReportResult{}, err
	}
	if reauth.Provider(cmp.Or(b.Provider, string(c.Provider))) != c.Provider {
		return ReportResult{}, fieldProblem("body.provider", "must be the connection's own provider, "+string(c.Provider)+", or absent")
	}
	return s.open(ctx, c, b.input(id))
}

// status says whether the report is with a case.
func (r ReportResult) status() int {
	if r.CaseID != "" {
		return http.StatusAccepted
	}
	return http.StatusOK
}

// open reports a connection that is registered. The error is a problem.
func (s *server) open(ctx context.Context, c reauth.Connection, in reauth.Input) (ReportResult, error) {
	in.Provider = c.Provider
	current := false
	if in.TokenFingerprint != "" {
		var err error
		_, current, err = s.DB.TokenByFingerprint(ctx, c.ConnectionID, in.TokenFingerprint)
		switch {
		case err == nil && !current:
			return ReportResult{TokenSuperseded: true, Generation: c.Generation}, nil
		case err != nil && !errors.Is(err, db.ErrNotFound):
			return ReportResult{}, s.databaseDown(ctx, "looking a token up", err)
		}
	}
	if in.Source.Machine() {
		return s.openOrJoin(ctx, in, current)
	}
	if in.Source == reauth.SourceManual || in.Source == reauth.SourceLink {
		if err := s.DB.LiftSuppression(ctx, c.ConnectionID); err != nil {
			return ReportResult{}, s.databaseDown(ctx, "lifting a suppression", err)
		}
	}
	reported, err := s.startCase(ctx, in)
	if err != nil {
		return ReportResult{}, s.temporalDown(ctx, "reporting a connection", err)
	}
	return s.reported(ctx, in, reported, current)
}

// startCase asks Temporal to start a case, or to join the one that runs.
func (s *server) startCase(ctx context.Context, in reauth.Input) (reported starter.Reported, err error) {
	err = s.temporal(ctx, func(ctx context.Context) (err error) {
		reported, err = s.Starter.Report(ctx, in)
		return err
	})
	return reported, err
}

// reported answers a report that Temporal took. current says that it is the
// current token that failed.
func (s *server) reported(ctx context.Context, in reauth.Input, reported starter.Reported, current bool) (ReportResult, error) {
	s.metrics.reported(ctx, in.Source, reported.Created)
	phase := reauth.PhaseConfirming // a case that was opened this moment has not told the database yet
	if c, err := s.DB.CaseByID(ctx, reported.CaseID); err == nil {
		phase = c.Phase
		if !reported.Created && !c.Open() && (!in.Source.Machine() || current && c.Outcome == reauth.OutcomeRecovered) {
			// The last case, which is over, still tells everybody: joining it would
			// open nothing, though a person asks, or the token that it brought fails.
			return ReportResult{}, unavailable("The connection's last case is just being closed. Please repeat the call in a minute.")
		}
		if !reported.Created {
			s.recode(ctx, c, in)
		}
	}
	return ReportResult{CaseID: reported.CaseID, WorkflowID: reported.WorkflowID, Created: &reported.Created, Phase: string(phase)}, nil
}
