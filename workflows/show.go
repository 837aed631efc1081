package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

var (
	searchConnectionID = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributeConnectionID)
	searchProvider     = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributeProvider)
	searchPhase        = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributePhase)
)

// phase is what the case is doing, of all it may be doing at once the thing
// that matters most to a person who looks.
func (c *reauthCase) phase() reauth.Phase {
	switch {
	case c.result != nil:
		return reauth.PhaseClosed
	case c.waiting == reauth.PhaseBlocked:
		return reauth.PhaseBlocked
	case len(c.codes) > 0:
		return reauth.PhaseRedeeming
	case c.redeeming():
		return reauth.PhaseVerifying
	}
	return c.waiting
}

func (c *reauthCase) setWaiting(ctx workflow.Context, phase reauth.Phase) {
	c.waiting = phase
	c.show(ctx)
}

// show makes the phase searchable and says in words where the case stands.
func (c *reauthCase) show(ctx workflow.Context) {
	c.status.Phase = c.phase()
	if c.result != nil {
		c.status.Outcome = c.result.Outcome
	}
	if c.shown != c.status.Phase {
		c.publish(ctx)
	}
	workflow.SetCurrentDetails(ctx, c.details())
}

// publish writes the search attributes that differ from what the start set.
func (c *reauthCase) publish(ctx workflow.Context) {
	updates := []temporal.SearchAttributeUpdate{}
	if c.shown == "" {
		set := workflow.GetTypedSearchAttributes(ctx)
		if id, _ := set.GetKeyword(searchConnectionID); id != c.ref.ConnectionID {
			updates = append(updates, searchConnectionID.ValueSet(c.ref.ConnectionID))
		}
		if provider, _ := set.GetKeyword(searchProvider); provider != string(c.ref.Report.Provider) {
			updates = append(updates, searchProvider.ValueSet(string(c.ref.Report.Provider)))
		}
		if phase, _ := set.GetKeyword(searchPhase); phase != string(c.status.Phase) {
			updates = append(updates, searchPhase.ValueSet(string(c.status.Phase)))
		}
	} else {
		updates = append(updates, searchPhase.ValueSet(string(c.status.Phase)))
	}
	c.shown = c.status.Phase
	if len(updates) == 0 {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Warn("The phase could not be made searchable", "error", err)
	}
}

// answer is the query status.
func (c *reauthCase) answer() (reauth.Status, error) {
	s := c.status
	s.Phase = c.phase()
	s.NextNoticeAt = c.nextNoticeAt()
	if c.result != nil {
		s.Outcome = c.result.Outcome
	}
	return s, nil
}

// counted keeps what was last counted of the connection's entities, if it has
// several. Their names stay out of what Temporal shows.
func (c *reauthCase) counted(n *reauth.EntityCount) {
	if n != nil {
		c.status.Entities = n
	}
}

// trouble remembers what went wrong last, for people to read.
func (c *reauthCase) trouble(problem string) {
	if problem != "" {
		c.status.LastError = problem
	}
}

// details says in Markdown where the case stands; the web UI shows it.
func (c *reauthCase) details() string {
	lines := []string{"**" + c.headline() + "**\n"}
	if c.status.LastError != "" {
		lines = append(lines, "- Last trouble: "+c.status.LastError)
	}
	lines = append(lines,
		fmt.Sprintf("- Connection `%s` at %s, reported by `%s`", c.ref.ConnectionID, c.providerName(), c.ref.Report.Source),
		"- Open since "+stamp(c.ref.OpenedAt),
	)
	if c.session != nil {
		lines = append(lines, fmt.Sprintf("- Connect session %d, until %s (renewals left: %d)", c.session.Ordinal, stamp(c.session.ExpiresAt), c.status.RenewalsLeft))
	}
	notices := fmt.Sprintf("- Notices sent: %d", c.status.NoticesSent)
	switch at := c.nextNoticeAt(); {
	case at == nil:
	case c.steps[0].waits == activities.NoticedStopped:
		notices += ", the next once customer mail is switched on again"
	default:
		notices += ", the next on " + stamp(*at)
	}
	lines = append(lines, notices)
	switch c.status.Mail {
	case activities.NoticedShadow:
		lines = append(lines, "- Mail is in shadow: nobody is written to, and the timeline says who would have been")
	case activities.NoticedStopped:
		lines = append(lines, "- **Customer mail is stopped**: the notice waits until it is switched on again")
	case activities.NoticedRamp:
		lines = append(lines, "- The first notice waits for its turn: only so many new customers hear in an hour")
	}
	if c.status.SnoozedUntil != nil {
		lines = append(lines, "- Notices are held until "+stamp(*c.status.SnoozedUntil))
	}
	if c.status.HeldByStorm {
		lines = append(lines, "- The first notice is held: so many connections broke together that it may be the provider's fault")
	}
	if c.status.NoticesStopped {
		lines = append(lines, "- Notices were stopped: nobody is written to any more")
	}
	if n := c.status.Entities; n != nil {
		entities := fmt.Sprintf("- Entities that want a login: %d of %d", n.Stale, n.Total)
		if n.Gone > 0 {
			entities += fmt.Sprintf(" (gone: %d)", n.Gone)
		}
		lines = append(lines, entities)
	}
	if c.status.Generation > 0 {
		lines = append(lines, fmt.Sprintf("- Token generation %d is stored", c.status.Generation))
	}
	return strings.Join(lines, "\n") + "\n"
}

func (c *reauthCase) headline() string {
	if c.result != nil {
		return ended(*c.result)
	}
	switch c.phase() {
	case reauth.PhaseConfirming:
		return "Asking " + c.providerName() + " whether access is really lost."
	case reauth.PhaseBlocked:
		return "Blocked: only an operator can help. The case keeps trying."
	case reauth.PhaseRedeeming:
		return "The customer came back from Connect: exchanging the code."
	case reauth.PhaseVerifying:
		return "Checking that the new token belongs to the same connection and works."
	}
	return "Waiting for the customer to log in again."
}

func ended(r reauth.Result) string {
	switch {
	case r.Suppressed:
		return "No case was opened: reports by programs are not heard for now."
	case r.TokenSuperseded:
		return "No case was opened: the report is about a token that has been replaced."
	case r.Reason == reauth.ReasonConnectionUnknown:
		return "Failed: nobody registered this connection (PUT /v1/connections/{connection_id} does)."
	}
	switch r.Outcome {
	case reauth.OutcomeRecovered:
		return "Recovered: the customer logged in again and the new token is stored."
	case reauth.OutcomeHealed:
		return "Healed: access came back by itself."
	case reauth.OutcomeFalseAlarm:
		return "False alarm: the connection works."
	case reauth.OutcomeExpired:
		return "Expired: nobody logged in before the last session ended."
	case reauth.OutcomeCancelled:
		return "Cancelled" + byWhom(" by ", r.By) + "."
	}
	return "Failed: " + strings.ReplaceAll(r.Reason, "_", " ") + "."
}

func codeTrouble(out activities.Redeemed) string {
	switch out.State {
	case reauth.CodeRefused:
		return "The provider refused a code; the person was asked to try again."
	case reauth.CodeUnusable:
		return "A code could not be exchanged in time, by our own fault; the person will be asked again."
	case reauth.CodeLost:
		return "The provider's answer to a code was lost; the person was asked for one more click."
	}
	return out.Problem
}

func (c *reauthCase) nextNotice() string {
	if len(c.steps) == 0 {
		return ""
	}
	if c.steps[0].waits == activities.NoticedStopped {
		return "Customer mail is stopped: ask again, unless it is switched on or the customer comes back before"
	}
	return "Next notice (" + c.steps[0].Words() + "), unless the customer comes back"
}

func (c *reauthCase) sessionEnd() string {
	if c.status.RenewalsLeft > 0 {
		return "The session ends and is renewed, unless the customer comes back"
	}
	return "Deadline, unless the customer comes back"
}

func (c *reauthCase) providerName() string {
	switch p := c.ref.Report.Provider; p {
	case reauth.Finch:
		return "Finch"
	default:
		return string(p)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
