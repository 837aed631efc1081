package activities

import (
	"context"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// OpenSession opens a further Connect session of an open case. It waits for a
// person who pressed the button lately: they may be in Connect with the old one.
func (a *Activities) OpenSession(ctx context.Context, in SessionInput) (SessionOpened, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityConfirm)
	defer startPulse(ctx).end()
	if in.SpareClick {
		click, err := a.DB.LastClick(ctx, in.Case.CaseID)
		if err != nil {
			return SessionOpened{}, err
		}
		if click != nil && a.Now().Before(click.Add(clickSpares)) {
			until := click.Add(clickSpares)
			return SessionOpened{HoldUntil: &until}, nil
		}
	}
	minutes := in.Plan.Minutes
	if in.Until != nil {
		left := in.Until.Sub(a.Now()) + time.Minute - time.Nanosecond
		minutes = min(minutes, max(int(left/time.Minute), reauth.MinSessionMinutes))
	}
	out, err := a.startSession(ctx, in.Case, in.Plan, minutes, in.Ordinal, in.RenewalsLeft, in.Patient)
	if err == nil && out.Verdict == VerdictStale {
		err = a.event(ctx, in.Case, "session_renewed", "A fresh Connect session was opened.")
	}
	return out, err
}

// startSession opens a session at the provider and stores it. Its life counts
// from before the call, so that we never think it longer than the provider does.
func (a *Activities) startSession(ctx context.Context, c Case, plan Plan, minutes, ordinal, renewals int, patient bool) (SessionOpened, error) {
	provider, err := a.provider(plan.Application)
	if err != nil {
		return a.sessionBlocked(patient, wordsOf(err))
	}
	products := c.Report.Products
	if products == nil {
		connection, err := a.DB.Connection(ctx, c.ConnectionID)
		if err != nil {
			return SessionOpened{}, err
		}
		products = connection.Products
	}
	openedAt := a.Now().UTC()
	opened, err := provider.OpenSession(ctx, SessionRequest{
		ConnectionID: c.ConnectionID, RedirectURI: a.redirectURI(c.Report, plan.Application), Minutes: minutes, Products: products,
	})
	if err != nil {
		switch trouble := troubleOf(err); trouble.Trouble {
		case TroubleNotFound:
			return SessionOpened{Verdict: VerdictNotFound}, nil
		case TroubleClient:
			return a.sessionBlocked(patient, "The provider refuses our own client credentials ("+trouble.Error()+").")
		case TroubleLimit, TroubleNotSent, TroubleDown, TroubleNoAnswer:
			return SessionOpened{}, retry("open a Connect session", err)
		default:
			return a.sessionBlocked(patient, "The provider refuses to open a Connect session ("+trouble.Error()+"); is the redirect URI configured there?")
		}
	}
	life := time.Duration(plan.Minutes) * time.Minute
	session := &Session{
		ID: opened.ID, Ordinal: ordinal, OpenedAt: openedAt, ExpiresAt: openedAt.Add(time.Duration(minutes) * time.Minute),
	}
	err = a.DB.SetSession(ctx, c.CaseID, db.Session{
		ID: opened.ID, URL: opened.ConnectURL, Ordinal: ordinal,
		ExpiresAt: session.ExpiresAt, DeadlineAt: session.ExpiresAt.Add(time.Duration(renewals) * life),
	})
	return SessionOpened{Verdict: VerdictStale, Session: session}, err
}

func (a *Activities) sessionBlocked(patient bool, problem string) (SessionOpened, error) {
	verdict, problem, err := a.onlyOperator(patient, problem)
	return SessionOpened{Verdict: verdict, Problem: problem}, err
}

// Record puts a line into the case's timeline.
func (a *Activities) Record(ctx context.Context, in RecordInput) error {
	defer startPulse(ctx).end()
	if _, err := a.DB.CaseByID(ctx, in.Case.CaseID); err != nil {
		return a.unlessNoCase(err)
	}
	if err := a.DB.SetPhase(ctx, in.Case.CaseID, openPhase(in.Phase), in.LastError); err != nil {
		return err
	}
	if err := a.DB.SetSchedule(ctx, in.Case.CaseID, scheduleOf(in.Next, in.NoticesSent)); err != nil {
		return err
	}
	return a.event(ctx, in.Case, in.Kind, in.Detail)
}

// openPhase is a phase that an open case may be in; SetPhase keeps what is
// stored for an empty one.
func openPhase(phase reauth.Phase) reauth.Phase {
	if phase == reauth.PhaseClosed {
		return ""
	}
	return phase
}
