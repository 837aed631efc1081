// Package workflows tells the story of a case. Workflow code is deterministic:
// it does nothing to the world itself, but asks activities to.
package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// lookAgain is when a look is tried again that brought no answer.
const lookAgain = 5 * time.Minute

// ReauthWorkflow brings one stale connection back. It confirms the loss, opens
// a Connect session, tells the right people and reminds them until a deadline,
// takes the authorization code, exchanges it, verifies and stores the token,
// and tells everyone it had alerted that it is fixed.
//
// Codes are taken by two coroutines (redeem.go) whatever this story is doing.
func ReauthWorkflow(ctx workflow.Context, in reauth.Input) (reauth.Result, error) {
	c, err := begin(ctx, in)
	if err != nil {
		return reauth.Result{}, err
	}
	ctx = c.listen(ctx)

	if c.redeeming() {
		// The case begins with a code: the person is here, so there is nothing
		// to confirm and nobody to write to.
		c.personIsHere = true
		c.awaitRedeem(ctx)
	}
	c.confirm(ctx)
	for c.open() {
		c.sleep(ctx)
		c.receive(ctx)
		switch now := workflow.Now(ctx); {
		case !c.open(): // a code brought the connection back
		case c.redeeming():
			c.awaitRedeem(ctx)
		case c.cancel != nil:
			c.callOff(ctx)
		case c.credentialsRefused:
			c.awaitCredentials(ctx)
		case c.sessionSpent:
			c.refresh(ctx)
		case c.askAgain:
			c.tryAgain(ctx)
		case c.restored || due(c.lookAt, now):
			c.look(ctx)
		case c.remindNow:
			c.remind(ctx)
		case c.contactsChanged:
			c.handOn(ctx)
		case due(c.nextNoticeAt(), now):
			c.notify(ctx, c.takeStep(now))
		case due(c.sessionEnds(), now):
			c.renewOrExpire(ctx)
		}
	}
	return c.close(ctx), nil
}

// confirm asks the provider whether the loss is real and opens the first
// session. What only an operator can mend blocks the case until it is mended.
func (c *reauthCase) confirm(ctx workflow.Context) {
	in := activities.ConfirmInput{Case: c.ref}
	for c.open() && c.session == nil {
		var out activities.Confirmed
		done, err := c.do(ctx, c.confirming(in.Patient), acts.Confirm, in, &out)
		if !done {
			return // the loop in ReauthWorkflow sees why
		}
		if err != nil {
			out.Verdict, out.Problem = activities.VerdictBlocked, "The provider has given no clear answer for six hours."
		}
		c.plan = out.Plan
		c.status.Generation = max(c.status.Generation, out.Generation)
		c.counted(out.Entities)
		switch out.Verdict {
		case activities.VerdictStale:
			c.lookedAt = out.ConfirmedAt
			c.beginSession(ctx, out.Session, c.plan.Renewals)
		case activities.VerdictBlocked:
			c.block(ctx, out.Problem)
			in.Patient = true
		case activities.VerdictConnected:
			if out.Problem != "" { // the account lacks something that no login brings
				c.tellOperator(ctx, "", out.Problem)
			}
			if in.Patient {
				c.end(reauth.OutcomeHealed, "")
			} else {
				c.end(reauth.OutcomeFalseAlarm, out.Problem)
			}
		case activities.VerdictNotFound:
			c.end(reauth.OutcomeFailed, reauth.ReasonConnectionNotFound)
		case activities.VerdictUnknown:
			c.endUnopened(reauth.Result{Outcome: reauth.OutcomeFailed, Reason: reauth.ReasonConnectionUnknown})
		case activities.VerdictRemoved:
			c.endUnopened(reauth.Result{Outcome: reauth.OutcomeCancelled, Reason: reauth.ReasonConnectionRemoved})
		case activities.VerdictSuppressed:
			c.endUnopened(reauth.Result{Suppressed: true, Reason: out.Reason, Until: out.Until})
		case activities.VerdictSuperseded:
			c.endUnopened(reauth.Result{TokenSuperseded: true, Generation: out.Generation})
		}
	}
}

// notify sends one step's notices, unless access turns out to be back. Who must
// not be written to now hears later.
func (c *reauthCase) notify(ctx workflow.Context, s step) {
	s.kind, s.held, s.waits, s.mail = c.kindOf(s), false, "", 0
	if s.ordinal == 0 {
		s.ordinal = c.session.Ordinal
	}
	var out activities.Noticed
	done, err := c.do(ctx, c.noticing(ctx, s), acts.Notify, c.noticeInput(s), &out)
	c.counted(out.Entities)
	switch {
	case !done:
	case err != nil:
		c.giveUp(ctx, s)
	case out.Restored && out.HoldUntil != nil:
		c.putBack(s, workflow.Now(ctx))
		c.holdNotices = later(ctx, *out.HoldUntil)
	case out.Restored:
		c.heal(ctx)
	case out.Gone:
		c.end(reauth.OutcomeFailed, reauth.ReasonConnectionNotFound)
	case out.Removed:
		c.end(reauth.OutcomeCancelled, reauth.ReasonConnectionRemoved)
	default:
		c.status.NoticesSent += out.Sent - s.sent
		c.noted(s, out)
		if out.Later != nil {
			c.postpone(ctx, s, out)
		}
		c.status.HeldByStorm = slices.ContainsFunc(c.steps, func(s step) bool { return s.held })
	}
	c.show(ctx)
}

// look asks whether access is back. Healing waits for the customer: while a
// click is young, the code may still be on its way, and the look is held.
func (c *reauthCase) look(ctx workflow.Context) (held bool) {
	c.told = c.told || c.restored
	c.restored, c.lookAt = false, time.Time{}
	var out activities.Looked
	done, err := c.do(ctx, looking, acts.Look, activities.LookInput{Case: c.ref, Told: c.told}, &out)
	c.counted(out.Entities)
	switch {
	case !done:
	case err != nil:
		c.lookAt = workflow.Now(ctx).Add(lookAgain)
	case out.Restored && out.HoldUntil != nil:
		c.lookAt = later(ctx, *out.HoldUntil)
		return true
	case out.Restored:
		c.heal(ctx)
	case out.Gone:
		c.end(reauth.OutcomeFailed, reauth.ReasonConnectionNotFound)
	case out.Removed:
		c.end(reauth.OutcomeCancelled, reauth.ReasonConnectionRemoved)
	default:
		c.told = false
	}
	return false
}

// renewOrExpire is what happens at the end of a session.
func (c *reauthCase) renewOrExpire(ctx workflow.Context) {
	if c.holding() { // a token is in our hands: it decides, not the timer
		c.awaitTokens(ctx)
		return
	}
	if c.status.RenewalsLeft == 0 {
		held := c.look(ctx)
		c.receive(ctx) // a code that has arrived meanwhile wins
		if held {
			c.holdSession = c.lookAt // the person is in Connect: so long the session counts
		} else if c.open() && !c.interrupted() && !c.redeeming() {
			c.end(reauth.OutcomeExpired, "")
		}
		return
	}
	c.openSession(ctx, activities.SessionInput{RenewalsLeft: c.status.RenewalsLeft - 1, SpareClick: true})
}
