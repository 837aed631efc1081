package activities

import (
	"context"
	"errors"
	"fmt"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// Confirm asks the provider whether a reported loss is real, and opens the
// case's first Connect session if it is. It also turns away reports that must
// open no case, for starts that did not come through our own doors.
func (a *Activities) Confirm(ctx context.Context, in ConfirmInput) (Confirmed, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityConfirm)
	defer startPulse(ctx).end()
	report := in.Case.Report
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return Confirmed{Verdict: VerdictUnknown}, nil
	case err != nil:
		return Confirmed{}, err
	case connection.Status == reauth.StatusRemoved:
		return Confirmed{Verdict: VerdictRemoved}, nil
	}
	out := Confirmed{Generation: connection.Generation}
	if out.Plan, err = a.plan(ctx, report, connection); err != nil {
		return Confirmed{}, err
	}
	refusal, err := a.unheard(ctx, in.Case)
	if err != nil || refusal != nil {
		return deref(refusal), err
	}
	if err := a.openCase(ctx, in.Case, connection); err != nil {
		return Confirmed{}, err
	}
	judged, err := a.judge(ctx, in, connection)
	out.Verdict, out.Problem, out.Entities = judged.Verdict, judged.Problem, judged.Entities
	if err != nil || out.Verdict != VerdictStale {
		return out, a.noteVerdict(ctx, in.Case, out, err)
	}
	out.ConfirmedAt = a.Now().UTC()
	opened, err := a.startSession(ctx, in.Case, out.Plan, out.Plan.Minutes, 1, out.Plan.Renewals, in.Patient)
	if err != nil {
		return out, err
	}
	out.Verdict, out.Session, out.Problem = opened.Verdict, opened.Session, opened.Problem
	if err := a.scheduleFirst(ctx, in.Case, out); err != nil {
		return out, err
	}
	return out, a.noteVerdict(ctx, in.Case, out, nil)
}

// scheduleFirst puts on record which notice a case sends first, and when.
func (a *Activities) scheduleFirst(ctx context.Context, c Case, out Confirmed) error {
	if err := a.DB.SetCampaign(ctx, c.CaseID, out.Plan.Campaign.Name); err != nil || out.Session == nil {
		return err
	}
	dates := out.Plan.Dates(c, out.Session.ExpiresAt, c.Report.Source == reauth.SourceLink)
	if len(dates) == 0 {
		return nil
	}
	return a.DB.SetSchedule(ctx, c.CaseID, scheduleOf(&dates[0], 0))
}

// unheard says why a report opens no case, if so.
func (a *Activities) unheard(ctx context.Context, c Case) (*Confirmed, error) {
	if _, err := a.DB.CaseByID(ctx, c.CaseID); err == nil {
		return nil, nil // the case is open already: the report was heard
	} else if !errors.Is(err, db.ErrNotFound) {
		return nil, err
	}
	if fp := c.Report.TokenFingerprint; fp != "" {
		_, current, err := a.DB.TokenByFingerprint(ctx, c.ConnectionID, fp)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return nil, err
		}
		if err == nil && !current {
			now, err := a.DB.CurrentToken(ctx, c.ConnectionID)
			return &Confirmed{Verdict: VerdictSuperseded, Generation: now.Generation}, err
		}
	}
	until, reason, suppressed, err := a.DB.Suppressed(ctx, c.ConnectionID, c.Report.Source, c.Report.FinchCode, a.Now())
	if err != nil || !suppressed {
		return nil, err
	}
	return &Confirmed{Verdict: VerdictSuppressed, Reason: reason, Until: &until}, nil
}

// openCase makes the case's row, if this is the first to need it.
func (a *Activities) openCase(ctx context.Context, c Case, connection reauth.Connection) error {
	_, err := a.DB.OpenCase(ctx, db.Case{
		CaseID: c.CaseID, ConnectionID: c.ConnectionID,
		Provider: connection.Provider, Application: connection.Application,
		Source: c.Report.Source, FinchCode: c.Report.FinchCode, Reason: c.Report.Reason,
		Phase: reauth.PhaseConfirming, OpenedAt: c.OpenedAt,
	})
	return err
}

// judge asks the provider about the report. A provider's error is retried, not
// believed. With no stored token to ask with, the report is believed; one that
// says that the customer's account must be mended is the operator's.
func (a *Activities) judge(ctx context.Context, in ConfirmInput, connection reauth.Connection) (Confirmed, error) {
	access, _, ok, err := a.access(ctx, connection.ConnectionID)
	if err != nil {
		return Confirmed{}, err
	}
	if !ok {
		verdict, problem, err := a.judgeUnasked(ctx, in)
		return Confirmed{Verdict: verdict, Problem: problem}, err
	}
	provider, err := a.provider(connection.Application)
	if err != nil {
		verdict, problem, err := a.onlyOperator(in.Patient, wordsOf(err))
		return Confirmed{Verdict: verdict, Problem: problem}, err
	}
	at := a.Now()
	inspection, refusal := provider.Inspect(ctx, access)
	if err := a.see(ctx, connection, inspection, refusal, at); err != nil {
		return Confirmed{}, err
	}
	verdict, problem, err := a.verdict(in, inspection, refusal)
	return Confirmed{Verdict: verdict, Problem: problem, Entities: countOf(inspection.Entities)}, err
}

// verdict is what the provider's answer, or its refusal, says about a report.
func (a *Activities) verdict(in ConfirmInput, inspection Inspection, err error) (Verdict, string, error) {
	if err == nil {
		switch inspection.Condition {
		case ConditionStale:
			return VerdictStale, "", nil
		case ConditionConnected:
			return VerdictConnected, lacking(in), nil
		case ConditionGone:
			return VerdictNotFound, "", nil
		case ConditionPending:
			return "", "", retryLater("the provider is still at it: "+inspection.Status, "pending", pendingAgain)
		}
		return a.onlyOperator(in.Patient, fmt.Sprintf("The provider says %q: the customer's account needs mending that no new login brings.", inspection.Status))
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleReauth:
		return VerdictStale, "", nil
	case TroubleSetup:
		return a.onlyOperator(in.Patient, "The provider says "+trouble.Error()+": the customer's account needs mending that no new login brings.")
	case TroubleToken:
		if in.Case.Report.FinchCode == reauth.CodeReauth {
			return VerdictStale, "", nil // a dead token with a clear report: believe the report
		}
		return a.onlyOperator(in.Patient, "The provider refuses the stored token ("+trouble.Error()+") without saying that a new login would help.")
	case TroubleUnauthorized, TroubleClient, TroubleRequest, TroubleNotFound, TroubleGrant:
		return a.onlyOperator(in.Patient, "The provider refuses the stored token ("+trouble.Error()+") without saying that a new login would help.")
	}
	return "", "", retry("ask the provider whether the loss is real", err)
}

// judgeUnasked judges a report of a connection whose token is not ours to ask
// with. A later report that the customer must log in again, which joins the
// case, is written over the code that opened it.
func (a *Activities) judgeUnasked(ctx context.Context, in ConfirmInput) (Verdict, string, error) {
	code := in.Case.Report.FinchCode
	if !reauth.IsSetupCode(code) {
		return VerdictStale, "", nil
	}
	stored, err := a.DB.CaseByID(ctx, in.Case.CaseID)
	if err != nil {
		return "", "", err
	}
	if stored.FinchCode == reauth.CodeReauth {
		return VerdictStale, "", nil
	}
	return a.onlyOperator(in.Patient, "The backend was told "+code+": the customer's account needs mending that no new login brings. "+
		"No token of the connection is stored to ask the provider with, so cancel the case once the account is mended.")
}

// lacking is what the operator should know of a connection that works, but
// whose account is said to lack something. An operator who was told before, of
// what blocked the case, is not told again.
func lacking(in ConfirmInput) string {
	code := in.Case.Report.FinchCode
	if in.Patient || !reauth.IsSetupCode(code) {
		return ""
	}
	return "A call was refused with " + code + ", though the provider says that the connection works: the customer's account lacks something that the call needs, a permission, say. No new login mends that, so nobody at the customer was written to."
}

// onlyOperator is the verdict that only an operator can help. Once the operator
// has been told, it is a reason to ask again later.
func (a *Activities) onlyOperator(patient bool, problem string) (Verdict, string, error) {
	if patient {
		return "", "", retryLater(problem, "blocked", 0)
	}
	return VerdictBlocked, problem, nil
}

// noteVerdict puts what the provider said into the timeline.
func (a *Activities) noteVerdict(ctx context.Context, c Case, out Confirmed, err error) error {
	if err != nil {
		return err
	}
	detail := map[Verdict]string{
		VerdictStale:     "The loss is real.",
		VerdictConnected: "The provider says that the connection works.",
		VerdictBlocked:   out.Problem,
		VerdictNotFound:  "The provider has no such connection any more.",
	}[out.Verdict]
	return a.event(ctx, c, "confirmed", detail)
}

func (a *Activities) event(ctx context.Context, c Case, kind, detail string) error {
	return a.DB.AddEvent(ctx, db.Event{CaseID: c.CaseID, ConnectionID: c.ConnectionID, Kind: kind, Detail: detail, At: a.Now()})
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
