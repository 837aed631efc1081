package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
)

// CaseClosed is the type of the event that the backend gets for every case
// that closes.
const CaseClosed = "reauth.case.closed"

// CloseAndTell gives the case its outcome in the database, sends everybody who
// was alerted one "fixed" note if access is back, and tells the operator of a
// case that failed or expired. The backend's webhook leaves through the outbox
// of the same transaction.
func (a *Activities) CloseAndTell(ctx context.Context, in CloseInput) (Closed, error) {
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if errors.Is(err, db.ErrNotFound) {
		return Closed{}, nil
	}
	if err != nil {
		return Closed{}, err
	}
	if err := a.openCase(ctx, in.Case, connection); err != nil && !errors.Is(err, db.ErrRemoved) {
		return Closed{}, err
	}
	closing, err := a.closing(in.Case, connection, in.Outcome, in.Reason)
	if err != nil {
		return Closed{}, err
	}
	closing.Generation, closing.By = in.Generation, in.By
	_, err = a.DB.CloseCase(ctx, closing)
	if errors.Is(err, db.ErrNotFound) {
		return Closed{}, nil // the connection was removed before the case had a row: nobody was told of it
	}
	if err != nil {
		return Closed{}, err
	}
	if connection.Entities.Count().Gone > 0 {
		if err := a.tellGone(ctx, in.Case); err != nil {
			return Closed{}, err
		}
	}
	switch in.Outcome {
	case reauth.OutcomeRecovered, reauth.OutcomeHealed:
		return a.tellFixed(ctx, in, connection)
	case reauth.OutcomeExpired:
		return a.tellEnd(ctx, in.Case, "expired", "Nobody at the customer logged in again before the last session ended. The link in the mails still works.")
	case reauth.OutcomeFailed:
		return a.tellEnd(ctx, in.Case, "failed", "The case failed: "+in.Reason+".")
	}
	return Closed{}, nil
}

// tellFixed sends the one "fixed" note to everybody who was alerted.
func (a *Activities) tellFixed(ctx context.Context, in CloseInput, connection reauth.Connection) (Closed, error) {
	alerted, roots, err := a.DB.Alerted(ctx, in.Case.CaseID)
	if err != nil {
		return Closed{}, err
	}
	recipients, err := a.DB.Recipients(ctx, in.Case.ConnectionID)
	if err != nil {
		return Closed{}, err
	}
	byID := map[string]db.Recipient{}
	for _, r := range recipients {
		byID[r.ContactID] = r
	}
	var out Closed
	var deferred int
	var owed bool
	for _, id := range alerted {
		to, ok := byID[id]
		if !ok || to.Unreachable != "" {
			continue // taken off the connection since, or not to be written to
		}
		delivery, err := a.deliver(ctx, db.Notice{
			CaseID: in.Case.CaseID, Step: "fixed", SessionOrdinal: 0, Recipient: id, Channel: db.ChannelMail, Fixed: true,
		}, notify.Notice{
			Kind: notify.KindFixed, Recipient: recipientOf(to), CustomerName: connection.CustomerName, ProviderName: connection.System,
			Step: "fixed", OpenedAt: in.Case.OpenedAt, RootMessageID: roots[id],
		})
		if err != nil {
			return out, err
		}
		switch delivery {
		case notify.Sent, notify.Unknown:
			out.FixedNotes++
		case notify.Deferred:
			deferred++
		case stopped:
			owed = true
		}
	}
	if owed { // a closed case does not linger for it
		if err := a.DB.OweFixed(ctx, in.Case.CaseID); err != nil {
			return out, err
		}
		out.Owed = true
		return out, a.event(ctx, in.Case, db.EventHeld, "The note that it is fixed is held: customer mail is stopped.")
	}
	return out, a.patiently(ctx, &out, deferred)
}

// tellEnd tells the operator of a case that ended badly.
func (a *Activities) tellEnd(ctx context.Context, c Case, step, problem string) (Closed, error) {
	delivery, err := a.tellOperator(ctx, c, step, problem)
	if err != nil {
		return Closed{}, err
	}
	var out Closed
	deferred := 0
	if delivery == notify.Deferred {
		deferred = 1
	}
	return out, a.patiently(ctx, &out, deferred)
}

// patiently tries mails again that a mail server has not taken, but not for
// longer than a closed case may linger.
func (a *Activities) patiently(ctx context.Context, out *Closed, deferred int) error {
	if deferred == 0 {
		return nil
	}
	if a.elapsed(ctx) < fixedAtMost {
		return retryLater(fmt.Sprintf("the mail server has not taken %d of the last mails yet", deferred), "mail_deferred", 0)
	}
	out.Problem = "The mail server took none of the last mails for a quarter of an hour."
	return nil
}

// closing says how a case ends, with the event for the backend.
func (a *Activities) closing(c Case, connection reauth.Connection, outcome reauth.Outcome, reason string) (db.Closing, error) {
	closing := db.Closing{CaseID: c.CaseID, Outcome: outcome, Reason: reason, At: a.Now().UTC()}
	if !a.Settings.Webhooks {
		return closing, nil
	}
	payload, err := json.Marshal(map[string]any{
		"type":      CaseClosed,
		"timestamp": closing.At.Format(time.RFC3339),
		"data": map[string]any{
			"case_id":       c.CaseID,
			"connection_id": c.ConnectionID,
			"provider":      connection.Provider,
			"application":   connection.Application,
			"customer_id":   connection.CustomerID,
			"outcome":       outcome,
			"reason":        reason,
			"opened_at":     c.OpenedAt.Format(time.RFC3339),
			"closed_at":     closing.At.Format(time.RFC3339),
		},
	})
	if err != nil {
		return closing, fmt.Errorf("write the event of a closed case: %w", err)
	}
	closing.Event = &db.OutboxEvent{
		ID: "evt_" + c.CaseID + "_" + string(outcome), Type: CaseClosed, Payload: payload, ConnectionID: c.ConnectionID, CaseID: c.CaseID,
	}
	return closing, nil
}

// TellOperator tells the operator what only an operator can mend.
func (a *Activities) TellOperator(ctx context.Context, in ProblemInput) error {
	defer startPulse(ctx).end()
	if _, err := a.DB.CaseByID(ctx, in.Case.CaseID); err != nil {
		return a.unlessNoCase(err)
	}
	if in.Phase != "" && activity.GetInfo(ctx).Attempt <= 1 { // the case may have gone on since
		if err := a.DB.SetPhase(ctx, in.Case.CaseID, in.Phase, in.Problem); err != nil {
			return err
		}
	}
	return a.reachOperator(ctx, in.Case, in.Step, in.Problem)
}

// reachOperator is tellOperator, tried again until the mail server takes it.
func (a *Activities) reachOperator(ctx context.Context, c Case, step, problem string) error {
	delivery, err := a.tellOperator(ctx, c, step, problem)
	if err == nil && delivery == notify.Deferred {
		err = retryLater("the mail server has not taken the operator's mail yet", "mail_deferred", 0)
	}
	return err
}

// unlessNoCase forgives that a case has no row: there is nothing to tell of.
func (a *Activities) unlessNoCase(err error) error {
	if errors.Is(err, db.ErrNotFound) {
		return nil
	}
	return err
}

// tellOperator puts a problem into the timeline and the log, and mails it to
// the operator where one is configured. It returns what became of the mail.
func (a *Activities) tellOperator(ctx context.Context, c Case, step, problem string) (notify.Delivery, error) {
	if a.Settings.OperatorEmail == "" {
		return notify.Sent, a.needOperator(ctx, c, problem)
	}
	connection, err := a.DB.Connection(ctx, c.ConnectionID)
	if err != nil {
		return "", err
	}
	if connection.Status == reauth.StatusRemoved { // nobody has to mend it any more
		return notify.Sent, a.needOperator(ctx, c, problem)
	}
	row := db.Notice{CaseID: c.CaseID, Step: step, Recipient: db.RecipientOperator, Channel: db.ChannelMail, Operator: true}
	// First of all on record: the timeline must say it even while no mail server
	// takes the mail.
	if recorded, err := a.inLedger(ctx, row); err != nil {
		return "", err
	} else if !recorded {
		if err := a.needOperator(ctx, c, problem); err != nil {
			return "", err
		}
	}
	return a.deliver(ctx, row, a.operatorNotice(ctx, c, connection, step, problem))
}

// inLedger reports whether the ledger has a notice already, whatever became of it.
func (a *Activities) inLedger(ctx context.Context, n db.Notice) (bool, error) {
	rows, err := a.DB.NoticesOf(ctx, n.CaseID)
	return slices.ContainsFunc(rows, func(row db.NoticeRow) bool {
		return row.Step == n.Step && row.Recipient == n.Recipient && row.Channel == n.Channel
	}), err
}

// temporalLinks leads an operator to a workflow in Temporal's web UI.
func (a *Activities) temporalLinks(ctx context.Context, name, workflowID string) []notify.Link {
	if a.Settings.TemporalUIURL == "" {
		return nil
	}
	address := strings.TrimSuffix(a.Settings.TemporalUIURL, "/") + "/namespaces/" + url.PathEscape(activity.GetInfo(ctx).Namespace) +
		"/workflows/" + url.PathEscape(workflowID)
	return []notify.Link{{Name: name, URL: address}}
}

func (a *Activities) needOperator(ctx context.Context, c Case, problem string) error {
	a.Logger.WarnContext(ctx, "An operator is needed", "connection_id", c.ConnectionID, "case_id", c.CaseID, "problem", problem)
	return a.event(ctx, c, db.EventOperatorNeeded, problem)
}
