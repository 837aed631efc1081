package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// dayLeft is how much of a session must be left for its end to stand when we had
// to open it again.
const dayLeft = 24 * time.Hour

// sessionsAtMost bounds what junk codes can cost of the provider's quota.
const sessionsAtMost = 40

// awaitCredentials waits until the provider accepts our own credentials again,
// opens a fresh session, and asks the person for one more click.
func (c *reauthCase) awaitCredentials(ctx workflow.Context) {
	c.credentialsRefused = false
	if c.session == nil {
		return // the case began with a code: confirm opens its session
	}
	in := activities.SessionInput{RenewalsLeft: c.status.RenewalsLeft, Patient: true}
	if ends := c.sessionEnds(); ends.Sub(workflow.Now(ctx)) > dayLeft {
		in.Until = ends // the deadline stands; where little is left of it, our fault is not to cost the customer the rest
	}
	c.openSession(ctx, in)
	if c.open() && !c.interrupted() {
		c.askAgain, c.askCause = true, ""
	}
}

// tryAgain asks somebody to click once more who may have left the page before
// it could say so.
func (c *reauthCase) tryAgain(ctx workflow.Context) {
	c.askAgain = false
	c.tryAgains++
	s := c.askedStep(fmt.Sprintf("try-again-%d", c.tryAgains))
	s.kind, s.cause = activities.NoticeTryAgain, c.askCause
	c.notify(ctx, s)
}

// refresh opens a fresh session in place of one that Connect may regard as
// used up, until the same end: another try is one click away.
func (c *reauthCase) refresh(ctx workflow.Context) {
	c.sessionSpent = false
	if c.session.Ordinal >= sessionsAtMost || due(c.sessionEnds(), workflow.Now(ctx)) {
		return
	}
	c.openSession(ctx, activities.SessionInput{RenewalsLeft: c.status.RenewalsLeft, Until: c.sessionEnds()})
}

// openSession opens a further session of the case.
func (c *reauthCase) openSession(ctx workflow.Context, in activities.SessionInput) {
	in.Case, in.Plan, in.Ordinal = c.ref, c.plan, c.session.Ordinal+1
	for c.open() {
		var out activities.SessionOpened
		done, err := c.do(ctx, c.opening(in.Patient), acts.OpenSession, in, &out)
		switch {
		case !done:
			return
		case err != nil:
			c.block(ctx, "The provider has opened no session for six hours.")
		case out.HoldUntil != nil:
			c.holdSession = later(ctx, *out.HoldUntil)
			return
		case out.Verdict == activities.VerdictNotFound:
			c.end(reauth.OutcomeFailed, reauth.ReasonConnectionNotFound)
		case out.Verdict == activities.VerdictBlocked:
			c.block(ctx, out.Problem)
		default:
			c.beginSession(ctx, out.Session, in.RenewalsLeft)
			return
		}
		in.Patient = true
	}
}
