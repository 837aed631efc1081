package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// verifyingAtMost is how long a case stays in verifying before it waits for
// the customer again.
const verifyingAtMost = 30 * time.Minute

// redeemer is what has become of the codes that arrived. A code is exchanged
// as soon as those before it have been, whatever else the case is doing; the
// tokens they bring are verified one after the other, beside the exchange, so
// that a database outage never lets a code grow old.
type redeemer struct {
	codes       []activities.RedeemInput // waiting or under way, the oldest first
	minted      []reauth.TokenMinted     // the same for tokens
	working     int                      // adopted tokens that do not work yet
	stalled     bool                     // verifying takes longer than it may
	adopted     bool                     // a token of this case is stored
	knownCodes  map[string]bool
	knownTokens map[string]bool
	// credentialsRefused: the provider refuses our own client credentials.
	credentialsRefused bool
	// sessionSpent: a code came of the session, but brought nothing back.
	sessionSpent bool
}

func (r *redeemer) knowCode(hash string) {
	if r.knownCodes == nil {
		r.knownCodes = map[string]bool{}
	}
	r.knownCodes[hash] = true
}

func (r *redeemer) knowToken(fingerprint string) {
	if r.knownTokens == nil {
		r.knownTokens = map[string]bool{}
	}
	r.knownTokens[fingerprint] = true
}

// redeeming reports whether a code or token is on its way, so that the main
// story must wait for it.
func (r *redeemer) redeeming() bool {
	return len(r.codes) > 0 || (len(r.minted) > 0 && !r.stalled) || r.working > 0
}

// holding reports whether a code or token is in our hands at all.
func (r *redeemer) holding() bool { return r.redeeming() || len(r.minted) > 0 }

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
	out := c.redeem(ctx, code)
	if out.Blocked {
		c.block(ctx, out.Problem)
		code.Patient = true
		out = c.redeem(ctx, code)
		if out.Minted == nil {
			// The code died of our own fault: the person is asked again once
			// the credentials work.
			out.State = reauth.CodeUnusable
			c.credentialsRefused, c.personIsHere = true, false
		} else if c.session != nil {
			c.setWaiting(ctx, reauth.PhaseAwaitingCustomer)
		} else {
			c.setWaiting(ctx, reauth.PhaseConfirming)
		}
	}
	if out.Minted != nil {
		if !c.knownTokens[out.Minted.Fingerprint] {
			c.knowToken(out.Minted.Fingerprint)
			c.minted = append(c.minted, *out.Minted)
		}
		return
	}
	c.trouble(codeTrouble(out))
	c.sessionSpent = true
	c.settle(ctx, activities.SettleInput{
		Case: &c.ref, CodeHash: reauth.CodeHash(code.Code), State: out.State, Problem: out.Problem, SessionOrdinal: c.ordinal(),
	})
}

// redeem runs the exchange for as long as the code lives.
func (c *reauthCase) redeem(ctx workflow.Context, code activities.RedeemInput) activities.Redeemed {
	var out activities.Redeemed
	err := workflow.ExecuteActivity(redeeming(ctx, code), acts.Redeem, code).Get(ctx, &out)
	if err != nil {
		return activities.Redeemed{State: reauth.CodeLost, Problem: "the provider gave no usable answer while the code lived"}
	}
	return out
}

func (c *reauthCase) settle(ctx workflow.Context, in activities.SettleInput) {
	c.recording++
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.ExecuteActivity(recording(ctx, "code "+string(in.State)), acts.SettleCode, in).Get(ctx, nil)
		c.recording--
	})
}

// verifyTokens verifies and adopts every minted token, one after the other.
func (c *reauthCase) verifyTokens(ctx workflow.Context) {
	for workflow.Await(ctx, func() bool { return len(c.minted) > 0 }) == nil {
		c.verify(ctx, c.minted[0])
		c.minted = c.minted[1:]
		c.stalled = false
		c.show(ctx)
	}
}

func (c *reauthCase) verify(ctx workflow.Context, minted reauth.TokenMinted) {
	c.show(ctx)
	in := activities.VerifyInput{Case: c.ref, Minted: minted, SessionOrdinal: c.ordinal()}
	var out activities.Verified
	err := workflow.ExecuteActivity(verifying(ctx, verifyingAtMost), acts.Verify, in).Get(ctx, &out)
	for err != nil {
		// Never given up: the token may be the only one that works.
		c.stalled = true
		c.trouble("The new token could not be verified yet; it is kept and tried again.")
		c.show(ctx)
		err = workflow.ExecuteActivity(verifying(ctx, 0), acts.Verify, in).Get(ctx, &out)
	}
	c.status.Generation = max(c.status.Generation, out.Generation)
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
		c.trouble("The new token is stored, but the provider still refuses the connection.")
	}
	c.show(ctx)
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
	var out activities.Redeemed
	err := workflow.ExecuteActivity(redeeming(ctx, code), acts.Redeem, code).Get(ctx, &out)
	if err == nil && out.Blocked {
		code.Patient = true
		err = workflow.ExecuteActivity(redeeming(ctx, code), acts.Redeem, code).Get(ctx, &out)
	}
	if err != nil {
		out = activities.Redeemed{State: reauth.CodeLost}
	}
	if out.Minted == nil {
		in := activities.SettleInput{CodeHash: reauth.CodeHash(code.Code), State: out.State, Problem: out.Problem}
		err := workflow.ExecuteActivity(recording(ctx, "code "+string(out.State)), acts.SettleCode, in).Get(ctx, nil)
		return reauth.RedeemResult{Result: out.State}, err
	}
	err = workflow.ExecuteActivity(handingOver(ctx), acts.HandOver, *out.Minted).Get(ctx, nil)
	return reauth.RedeemResult{ConnectionID: out.Minted.ConnectionID, Result: reauth.CodeMinted}, err
}
