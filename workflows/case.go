package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// replayID is the workflow ID that the SDK's replayer gives to every history.
const replayID = "ReplayId"

// acts only names the activities.
var acts *activities.Activities

// reauthCase is one case in the making: what ReauthWorkflow knows.
type reauthCase struct {
	ref     activities.Case
	plan    activities.Plan
	session *activities.Session
	status  reauth.Status
	result  *reauth.Result // set once the case has ended

	// What the main story waits for.
	steps       []step                // the notices still to be sent, in order
	deadline    time.Time             // the end of the last permitted session
	lookedAt    time.Time             // when the connection was last seen stale
	lookAt      time.Time             // when to look again whether access is back
	holdNotices time.Time             // no notice before: the customer is in Connect
	holdSession time.Time             // no renewal before: the customer is in Connect
	lastStep    *campaign.Step        // of those for the customer, the last that was due
	released    map[string]*time.Time // storms that let the first notice go, and when
	// mailReleased is the last change of mail that let notices go, allReleased when
	// an operator let everything go.
	mailReleased reauth.NoticesReleased
	allReleased  *time.Time
	kept         []step // what was still to be sent when the notices were stopped
	remindedAt   time.Time
	reminders    int
	handedOn     int
	unheard      string // why the last notice reached nobody
	tryAgains    int
	problems     int
	waiting      reauth.Phase // what the main story is doing
	shown        reauth.Phase // what the search attribute says
	// personIsHere: somebody is at the page, so no first notice is due.
	personIsHere bool

	signals
	redeemer
}

// checkID refuses, in these words, a workflow that was started under another ID
// than its own.
func checkID(ctx workflow.Context, want, refusal string) error {
	id := workflow.GetInfo(ctx).WorkflowExecution.ID
	if id != want && (id != replayID || !workflow.IsReplaying(ctx)) {
		return temporal.NewNonRetryableApplicationError(refusal, reauth.ErrTypeWorkflowIDMismatch, nil)
	}
	return nil
}

// begin checks how the workflow was started.
func begin(ctx workflow.Context, in reauth.Input) (*reauthCase, error) {
	info := workflow.GetInfo(ctx)
	if err := in.Check(); err != nil {
		return nil, temporal.NewNonRetryableApplicationError(err.Error(), reauth.ErrTypeInvalidInput, nil)
	}
	want := reauth.WorkflowID(in.ConnectionID)
	if err := checkID(ctx, want, fmt.Sprintf("a case of connection %s must have the workflow ID %s", in.ConnectionID, want)); err != nil {
		return nil, err
	}
	if in.Provider == "" {
		in.Provider = reauth.Finch
	}
	if in.Source == "" {
		in.Source = reauth.SourceManual
	}
	caseID := info.FirstRunID
	if caseID == "" {
		caseID = info.WorkflowExecution.RunID
	}
	c := &reauthCase{
		ref:          activities.Case{CaseID: caseID, ConnectionID: in.ConnectionID, OpenedAt: info.WorkflowStartTime.UTC(), Report: in},
		status:       reauth.Status{CaseID: caseID, ConnectionID: in.ConnectionID},
		waiting:      reauth.PhaseConfirming,
		released:     map[string]*time.Time{},
		personIsHere: in.Source == reauth.SourceLink,
	}
	err := workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, c.answer, workflow.QueryHandlerOptions{
		Description: "Where the case stands",
	})
	if err != nil {
		return nil, err
	}
	c.show(ctx)
	return c, nil
}

// beginSession takes a session that was opened; renewals may follow it.
func (c *reauthCase) beginSession(ctx workflow.Context, s *activities.Session, renewals int) {
	first := c.session == nil
	c.session = s
	c.holdSession, c.credentialsRefused, c.sessionSpent = time.Time{}, false, false
	c.status.SessionID = s.ID
	c.status.SessionExpiresAt = &s.ExpiresAt
	c.status.RenewalsLeft = renewals
	c.deadline = c.plan.Deadline(s.ExpiresAt, renewals)
	c.status.DeadlineAt = &c.deadline
	c.status.Campaign = c.plan.Campaign.Name
	if first {
		c.planSteps()
	}
	c.setWaiting(ctx, reauth.PhaseAwaitingCustomer) // before the record, which keeps the phase
	if first && c.personIsHere {
		c.record(ctx, "scheduled", "Somebody is at the page, so the first notice is left out.")
	}
}

// block records that only an operator can help, and tells the operator.
func (c *reauthCase) block(ctx workflow.Context, problem string) {
	c.trouble(problem)
	c.setWaiting(ctx, reauth.PhaseBlocked)
	c.tellOperator(ctx, reauth.PhaseBlocked, problem)
}

// tellOperator tells the operator of a problem, without waiting for it.
func (c *reauthCase) tellOperator(ctx workflow.Context, phase reauth.Phase, problem string) {
	c.problems++
	in := activities.ProblemInput{Case: c.ref, Phase: phase, Problem: problem, Step: fmt.Sprintf("problem-%d", c.problems)}
	c.telling++
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.ExecuteActivity(telling(ctx, problem), acts.TellOperator, in).Get(ctx, nil)
		c.telling--
	})
}

// callOff ends the case as cancelled, once no redeem is under way.
func (c *reauthCase) callOff(ctx workflow.Context) {
	c.awaitTokens(ctx)
	if c.open() {
		c.end(reauth.OutcomeCancelled, c.cancel.Reason)
		c.result.By = c.cancel.By
	}
}

// heal ends the case because the stored token works, unless a code or token is
// in our hands: then that decides.
func (c *reauthCase) heal(ctx workflow.Context) {
	c.receive(ctx)
	if c.holding() {
		c.lookAt = workflow.Now(ctx).Add(lookAgain)
		return
	}
	if c.adopted {
		c.end(reauth.OutcomeRecovered, "")
		return
	}
	c.end(reauth.OutcomeHealed, "")
}

// open reports whether the case has no outcome yet.
func (c *reauthCase) open() bool { return c.result == nil }

// end gives the case its outcome. The first one stands, except that a customer
// who comes through while another end is being told has the last word.
func (c *reauthCase) end(outcome reauth.Outcome, reason string) {
	if c.result != nil && (outcome != reauth.OutcomeRecovered || c.result.Outcome.Restored()) {
		return
	}
	c.endUnopened(reauth.Result{Outcome: outcome, Reason: reason})
	c.unopened = false
}

// endUnopened ends a workflow for which no case was opened in the database.
func (c *reauthCase) endUnopened(r reauth.Result) {
	c.result, c.unopened = &r, true
}

// close tells everybody the outcome and handles what has arrived meanwhile: a
// code that waits is exchanged even now.
func (c *reauthCase) close(ctx workflow.Context) reauth.Result {
	var told reauth.Outcome
	for {
		c.receive(ctx)
		if c.holding() || c.recording > 0 {
			_ = workflow.Await(ctx, func() bool { return !c.holding() && c.recording == 0 })
			continue
		}
		if !c.unopened && told != c.result.Outcome {
			told = c.result.Outcome
			c.tell(ctx)
			continue
		}
		if c.telling > 0 {
			_ = workflow.Await(ctx, func() bool { return c.telling == 0 || c.holding() || !c.unopened && told != c.result.Outcome })
			continue
		}
		break
	}
	r := *c.result
	r.CaseID, r.ConnectionID, r.NoticesSent = c.ref.CaseID, c.ref.ConnectionID, c.status.NoticesSent
	r.Generation = max(r.Generation, c.status.Generation)
	c.show(ctx)
	return r
}

// tell closes the case in the database and tells everybody who should know.
func (c *reauthCase) tell(ctx workflow.Context) {
	c.show(ctx)
	in := activities.CloseInput{Case: c.ref, Outcome: c.result.Outcome, Reason: c.result.Reason, By: c.result.By, Generation: c.status.Generation}
	var out activities.Closed
	if err := workflow.ExecuteActivity(c.closingOptions(ctx), acts.CloseAndTell, in).Get(ctx, &out); err != nil {
		c.trouble("Closing the case in the database failed.")
	}
	if out.Problem != "" {
		c.trouble(out.Problem)
	}
}

// sleep waits for the next date in the case's calendar, or for news.
func (c *reauthCase) sleep(ctx workflow.Context) {
	at, what := c.nextDate()
	waitUntil(ctx, at, what, c.news)
	c.dropLate(ctx)
}

// nextDate is the next moment at which the story goes on by itself.
func (c *reauthCase) nextDate() (time.Time, string) {
	var at time.Time
	var what string
	for _, date := range []struct {
		at   *time.Time
		what string
	}{
		{c.nextNoticeAt(), c.nextNotice()},
		{c.sessionEnds(), c.sessionEnd()},
		{c.lookAtOrNil(), "Look again whether access is back"},
	} {
		if date.at != nil && (at.IsZero() || date.at.Before(at)) {
			at, what = *date.at, date.what
		}
	}
	return at, what
}

// news reports whether anything has happened that the story must see.
func (c *reauthCase) news() bool {
	return !c.open() || c.redeeming() || c.signalled() || c.cancel != nil || c.restored || c.remindNow || c.contactsChanged || c.credentialsRefused || c.sessionSpent || c.askAgain
}

// interrupted reports whether what the main story is doing has become
// pointless: the case has ended, or is being called off.
func (c *reauthCase) interrupted() bool {
	return !c.open() || (c.cancel != nil && !c.holding())
}

// do runs an activity of the main story, and abandons it when interrupted.
// done is false when it was abandoned.
func (c *reauthCase) do(ctx workflow.Context, options workflow.ActivityOptions, activity, in, out any) (done bool, err error) {
	ctx, abandon := workflow.WithCancel(workflow.WithActivityOptions(ctx, options))
	defer abandon()
	future := workflow.ExecuteActivity(ctx, activity, in)
	if err := workflow.Await(ctx, func() bool { return future.IsReady() || c.interrupted() }); err != nil || !future.IsReady() {
		return false, err
	}
	err = future.Get(ctx, out)
	return !c.interrupted(), err
}

// record puts a line into the case's timeline, without waiting for it.
func (c *reauthCase) record(ctx workflow.Context, kind, detail string) {
	in := activities.RecordInput{
		Case: c.ref, Kind: kind, Detail: detail, Phase: c.phase(), LastError: c.status.LastError,
		Next: c.upcoming(), NoticesSent: c.status.NoticesSent,
	}
	c.recording++
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.ExecuteActivity(recording(ctx, kind), acts.Record, in).Get(ctx, nil)
		c.recording--
	})
}

// waitUntil waits until the moment comes (never, if zero) or the condition
// holds. It cancels its timer, which the SDK leaves running by itself.
func waitUntil(ctx workflow.Context, at time.Time, what string, condition func() bool) {
	if condition() {
		return
	}
	if at.IsZero() {
		_ = workflow.Await(ctx, condition)
		return
	}
	left := at.Sub(workflow.Now(ctx))
	if left <= 0 {
		return
	}
	ctx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	_, _ = workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout:      left,
		TimerOptions: workflow.TimerOptions{Summary: what},
	}, condition)
}

// due reports whether a moment has come; one that is not set never does.
func due[T time.Time | *time.Time](at T, now time.Time) bool {
	switch at := any(at).(type) {
	case *time.Time:
		return at != nil && !at.After(now)
	case time.Time:
		return !at.IsZero() && !at.After(now)
	}
	return false
}
