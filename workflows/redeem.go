package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// verifyingAtMost is how long a case stays in verifying before it waits for
// the customer again.
const verifyingAtMost = 30 * time.Minute

// leftThePage is how long a code may take before the person who brought it has
// most likely left the page that waits for it.
const leftThePage = 45 * time.Second

// redeemer is what has become of the codes that arrived. A code is exchanged
// as soon as those before it have been, whatever else the case is doing; each
// token that one brings is verified on its own, so that neither a database
// outage nor a token that Finch has no answer about lets a code grow old.
type redeemer struct {
	codes       []activities.RedeemInput // waiting or under way, the oldest first
	inHand      int                      // tokens that are neither adopted nor set aside
	stalled     int                      // those of them whose verifying takes too long
	working     int                      // adopted tokens that do not work yet
	adopted     bool                     // a token of this case is stored
	knownCodes  map[string]bool
	knownTokens map[string]bool
	// credentialsRefused: the provider refuses our own client credentials.
	credentialsRefused bool
	// sessionSpent: a code came of the session, but brought nothing back.
	sessionSpent bool
	// askAgain: the person must be written to, because of askCause.
	askAgain bool
	askCause reauth.CodeState
}

// know adds a hash to a set, and reports whether it is new there.
func know(set *map[string]bool, hash string) bool {
	if (*set)[hash] {
		return false
	}
	if *set == nil {
		*set = map[string]bool{}
	}
	(*set)[hash] = true
	return true
}

// redeeming reports whether a code or token is on its way, so that the main
// story must wait for it.
func (r *redeemer) redeeming() bool {
	return len(r.codes) > 0 || r.inHand > r.stalled || r.working > 0
}

// holding reports whether a code or token is in our hands at all.
func (r *redeemer) holding() bool { return r.redeeming() || r.inHand > 0 }

// awaitRedeem waits until the codes that have arrived are through.
func (c *reauthCase) awaitRedeem(ctx workflow.Context) {
	_ = workflow.Await(ctx, func() bool { return !c.open() || !c.redeeming() })
}

// awaitTokens waits until nothing is in our hands any more.
func (c *reauthCase) awaitTokens(ctx workflow.Context) {
	_ = workflow.Await(ctx, func() bool { return !c.holding() })
}

// exchangeCodes exchanges every distinct code once, in order of arrival.
func (c *reauthCase) exchangeCodes(ctx workflow.Context) {
	for workflow.Await(ctx, func() bool { return len(c.codes) > 0 }) == nil {
		c.exchange(ctx, c.codes[0])
		c.codes = c.codes[1:]
		c.show(ctx)
	}
}

func (c *reauthCase) exchange(ctx workflow.Context, code activities.RedeemInput) {
	c.show(ctx)
	code.Application = c.plan.Application
	out := redeem(ctx, code, func(problem string) { c.block(ctx, problem) })
	if out.Blocked && out.Minted == nil {
		c.personIsHere = false // nobody waits at the page until our credentials work
	}
	if !out.Unanswered {
		c.exchanged(ctx, code, out)
		return
	}
	// However long the database takes to answer, the next code does not wait.
	c.inHand++
	c.stalled++
	workflow.Go(ctx, func(ctx workflow.Context) {
		out := lookUp(ctx, code, out)
		c.inHand--
		c.stalled--
		c.exchanged(ctx, code, out)
		c.show(ctx)
	})
}

// exchanged takes what came of a code.
func (c *reauthCase) exchanged(ctx workflow.Context, code activities.RedeemInput, out activities.Redeemed) {
	if out.Minted == nil {
		c.credentialsRefused = c.credentialsRefused || out.Blocked
		c.fail(ctx, code, out)
		return
	}
	switch {
	case !out.Blocked:
	case c.session != nil:
		c.setWaiting(ctx, reauth.PhaseAwaitingCustomer)
	default:
		c.setWaiting(ctx, reauth.PhaseConfirming)
	}
	c.hold(ctx, *out.Minted)
}

// redeem exchanges a code for as long as it lives. Where our own client
// credentials are refused it says so by blocked, and goes on until an operator
// has mended them or the code is dead; then the answer says Blocked too. Where
// the answer says Unanswered, lookUp has the last word.
func redeem(ctx workflow.Context, code activities.RedeemInput, blocked func(problem string)) activities.Redeemed {
	var out activities.Redeemed
	err := workflow.ExecuteActivity(redeeming(ctx, code), acts.Redeem, code).Get(ctx, &out)
	switch {
	case err != nil:
		return activities.Redeemed{State: reauth.CodeLost, Unanswered: true, Problem: "the provider gave no usable answer while the code lived"}
	case !out.Blocked || code.Patient:
		return out
	}
	blocked(out.Problem)
	code.Patient, code.Unanswered = true, out.Unanswered
	out = redeem(ctx, code, blocked)
	if out.Blocked = true; out.Minted == nil && !code.Unanswered {
		out.State = reauth.CodeUnusable // it died of our own fault
	}
	return out
}

// lookUp asks the database about a code that is dead, but may have brought a
// token in an attempt whose worker died. It insists on an answer.
func lookUp(ctx workflow.Context, code activities.RedeemInput, out activities.Redeemed) activities.Redeemed {
	code.LookUp = true
	var found activities.Redeemed
	if err := workflow.ExecuteActivity(lookingUp(ctx), acts.Redeem, code).Get(ctx, &found); err == nil && found.Minted != nil {
		out.State, out.Minted = found.State, found.Minted
	}
	return out
}

// fail records a code that came to nothing: the person is asked to try again.
func (c *reauthCase) fail(ctx workflow.Context, code activities.RedeemInput, out activities.Redeemed) {
	c.trouble(codeTrouble(out))
	c.sessionSpent = true
	c.askLater(ctx, code.ReceivedAt, out.State)
	c.settle(ctx, activities.SettleInput{
		Case: &c.ref, CodeHash: reauth.CodeHash(code.Code), State: out.State, Problem: out.Problem, SessionOrdinal: c.ordinal(),
	})
}

// askLater remembers to write to a person who may have left the page. When our
// own credentials are refused, awaitCredentials does that once they work.
func (c *reauthCase) askLater(ctx workflow.Context, since time.Time, cause reauth.CodeState) {
	if !c.credentialsRefused && workflow.Now(ctx).Sub(since) > leftThePage {
		c.askAgain, c.askCause = true, cause
	}
}

func (c *reauthCase) settle(ctx workflow.Context, in activities.SettleInput) {
	c.recording++
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.ExecuteActivity(recording(ctx, "code "+string(in.State)), acts.SettleCode, in).Get(ctx, nil)
		c.recording--
	})
}

// hold takes a minted token into our hands until it is adopted or set aside.
func (c *reauthCase) hold(ctx workflow.Context, minted reauth.TokenMinted) {
	if !know(&c.knownTokens, minted.Fingerprint) {
		return
	}
	c.inHand++
	workflow.GoNamed(ctx, "verify", func(ctx workflow.Context) {
		c.verify(ctx, minted)
		c.inHand--
		c.show(ctx)
	})
}

// verify finds out whose a token is. It is never given up: the token may be
// the only one that works.
func (c *reauthCase) verify(ctx workflow.Context, minted reauth.TokenMinted) {
	c.show(ctx)
	in := activities.VerifyInput{Case: c.ref, Minted: minted, SessionOrdinal: c.ordinal()}
	var out activities.Verified
	err := workflow.ExecuteActivity(verifying(ctx, verifyingAtMost), acts.Verify, in).Get(ctx, &out)
	for err != nil {
		c.stalled++
		c.trouble("The new token could not be verified yet; it is kept and tried again.")
		c.show(ctx)
		c.record(ctx, "verifying_takes_long", c.status.LastError)
		err = workflow.ExecuteActivity(verifying(ctx, 0), acts.Verify, in).Get(ctx, &out)
		c.stalled--
	}
	c.status.Generation = max(c.status.Generation, out.Generation)
	c.counted(out.Entities)
	switch out.State {
	case reauth.CodeRecovered:
		c.adopted = true
		c.end(reauth.OutcomeRecovered, "")
	case reauth.CodeAdopted:
		c.adopted = true
		c.working++
		workflow.GoNamed(ctx, "working", func(ctx workflow.Context) { c.awaitWorking(ctx, minted, out.Generation) })
	case reauth.CodeQuarantined:
		if out.Unknown {
			c.endUnopened(reauth.Result{Outcome: reauth.OutcomeFailed, Reason: reauth.ReasonConnectionUnknown})
		} else {
			c.end(reauth.OutcomeCancelled, reauth.ReasonConnectionRemoved)
		}
	default:
		c.sessionSpent = true
		c.askLater(ctx, minted.MintedAt, out.State)
		c.trouble(out.Problem)
		c.tellOperator(ctx, "", out.Problem)
	}
}

// awaitWorking waits until a token that is stored works, or the customer must
// be waited for again.
func (c *reauthCase) awaitWorking(ctx workflow.Context, minted reauth.TokenMinted, generation int64) {
	in := activities.WorkingInput{Case: c.ref, CodeHash: minted.CodeHash, Generation: generation}
	err := workflow.ExecuteActivity(working(ctx), acts.AwaitWorking, in).Get(ctx, nil)
	c.working--
	if err == nil {
		c.end(reauth.OutcomeRecovered, "")
	} else {
		c.sessionSpent = true
		c.trouble(notWorking(err))
		c.askAgain, c.askCause = true, reauth.CodeAdopted
	}
	c.show(ctx)
}

// notWorking says why a token that is stored does not work.
func notWorking(err error) string {
	var failed *temporal.ApplicationError
	if errors.As(err, &failed) && failed.Type() == activities.ErrTypeEntitiesLeft {
		return "The new token is stored, but some of the connection's entities still want a login."
	}
	return "The new token is stored, but the provider still refuses the connection."
}

// RedeemWorkflow exchanges a code that came back from Connect without saying
// whose it is, and hands the token to the case that owns its connection.
func RedeemWorkflow(ctx workflow.Context, in reauth.RedeemInput) (reauth.RedeemResult, error) {
	if err := (reauth.CodeReceived{Code: in.Code, RedirectURI: in.RedirectURI}).Check(); err != nil {
		return reauth.RedeemResult{}, temporal.NewNonRetryableApplicationError(err.Error(), reauth.ErrTypeInvalidInput, nil)
	}
	if workflow.GetInfo(ctx).WorkflowExecution.ID != reauth.RedeemWorkflowID(in.Code) {
		return reauth.RedeemResult{}, temporal.NewNonRetryableApplicationError(
			"a redeem must have the workflow ID redeem-<hash of its code>", reauth.ErrTypeWorkflowIDMismatch, nil)
	}
	workflow.SetCurrentDetails(ctx, "A code came back from Connect without saying whose it is. It is exchanged, and the token goes to the case of its connection.")
	code := activities.RedeemInput{Application: in.Application, Code: in.Code, RedirectURI: in.RedirectURI, ReceivedAt: workflow.GetInfo(ctx).WorkflowStartTime}
	var mails []workflow.Future
	tell := func(step, problem string) {
		in := activities.RedeemProblem{Application: code.Application, Step: step, Problem: problem}
		mails = append(mails, workflow.ExecuteActivity(tellingOfCode(ctx, problem), acts.TellOfCode, in))
	}
	out := redeem(ctx, code, func(problem string) { tell("credentials", problem) })
	if out.Unanswered {
		out = lookUp(ctx, code, out)
	}
	var err error
	result := reauth.RedeemResult{Result: out.State}
	if out.Minted == nil {
		in := activities.SettleInput{CodeHash: reauth.CodeHash(code.Code), State: out.State, Problem: out.Problem}
		err = workflow.ExecuteActivity(recording(ctx, "code "+string(out.State)), acts.SettleCode, in).Get(ctx, nil)
	} else {
		result.ConnectionID = out.Minted.ConnectionID
		err = workflow.ExecuteActivity(handingOver(ctx), acts.HandOver, *out.Minted).Get(ctx, nil)
		if result.ConnectionID == "" {
			result.Result = reauth.CodeLost
			tell("owner", "A code brought a token of which the provider does not say whose it is. The token is kept aside.")
		}
	}
	for _, mail := range mails {
		_ = mail.Get(ctx, nil) // a mail that could not be sent is no reason to redeem anew
	}
	return result, err
}

// tellingOfCode tries for a day: no case goes on reminding the operator.
func tellingOfCode(ctx workflow.Context, problem string) workflow.Context {
	return workflow.WithScheduleToCloseTimeout(telling(ctx, problem), 24*time.Hour)
}
