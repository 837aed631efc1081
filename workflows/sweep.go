package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// sweepBatch is how many connections are checked in one activity: about five
	// minutes of what Finch allows.
	sweepBatch = 100
	// sweepBatches is after how many batches a sweep goes on as a new run, so
	// that its history stays small.
	sweepBatches = 100
)

// SweepWorkflow checks connections that nobody has complained of: those whose
// last check is a while ago, the oldest first, at the pace that Finch's limit
// leaves to it. It ends when all are checked that were due when it began; the
// schedule starts the next one.
func SweepWorkflow(ctx workflow.Context, in reauth.SweepInput) (reauth.SweepStatus, error) {
	if err := in.Check(); err != nil {
		return reauth.SweepStatus{}, temporal.NewNonRetryableApplicationError(err.Error(), reauth.ErrTypeInvalidInput, nil)
	}
	s := newSweep(ctx, in)
	if err := s.answer(ctx); err != nil {
		return s.status, err
	}
	for batches := 0; ; batches++ {
		s.show(ctx)
		if batches == sweepBatches {
			return s.status, workflow.NewContinueAsNewError(ctx, reauth.SweepWorkflowType, s.goesOn())
		}
		more, err := s.batch(ctx)
		if err != nil {
			return s.status, err
		}
		if !more {
			return s.end(ctx), nil
		}
	}
}

// sweep is what SweepWorkflow knows.
type sweep struct {
	in     reauth.SweepInput
	every  time.Duration
	status reauth.SweepStatus
}

func newSweep(ctx workflow.Context, in reauth.SweepInput) *sweep {
	s := &sweep{in: in}
	s.every, _ = in.Interval() // checked before
	if in.Goes != nil {
		s.status = *in.Goes
		return s
	}
	now := workflow.Now(ctx).UTC()
	s.status.BeganAt, s.status.Cutoff = now, now
	if !in.All {
		s.status.Cutoff = now.Add(-reauth.SweepDueAfter(s.every))
	}
	s.status.Left = len(in.ConnectionIDs)
	return s
}

// answer answers the query status from now on.
func (s *sweep) answer(ctx workflow.Context) error {
	return workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, func() (reauth.SweepStatus, error) { return s.status, nil },
		workflow.QueryHandlerOptions{Description: "What the sweep has found so far"})
}

// batch checks the next connections. more reports whether there are others.
func (s *sweep) batch(ctx workflow.Context) (more bool, err error) {
	batch := activities.SweepBatch{Cutoff: s.status.Cutoff, Most: sweepBatch, ConnectionIDs: s.in.ConnectionIDs, Every: s.every}
	var out activities.SweptBatch
	if err := workflow.ExecuteActivity(sweeping(ctx), acts.SweepBatch, batch).Get(ctx, &out); err != nil {
		return false, err
	}
	s.status.Batches++
	s.status.Add(out.SweepCounts)
	s.status.Lag, s.status.Trouble = out.Lag, out.Trouble
	s.status.Left = out.Lag.Due
	if len(s.in.ConnectionIDs) > 0 {
		s.in.ConnectionIDs, s.status.Left = out.Rest, len(out.Rest)
	}
	return out.More, nil
}

// goesOn is the input of the run that goes on with the sweep.
func (s *sweep) goesOn() reauth.SweepInput {
	in := s.in
	in.Goes = &s.status
	return in
}

func (s *sweep) end(ctx workflow.Context) reauth.SweepStatus {
	now := workflow.Now(ctx).UTC()
	s.status.EndedAt = &now
	s.show(ctx)
	return s.status
}

// show says in words what the sweep has found and how far behind it is.
func (s *sweep) show(ctx workflow.Context) {
	headline := "Checking connections that nobody has complained of."
	switch {
	case s.status.EndedAt != nil && s.status.Trouble != "":
		headline = "The sweep ended early."
	case s.status.EndedAt != nil:
		headline = "The sweep is done."
	}
	text := "**" + headline + "**\n\n"
	if s.status.Batches > 0 {
		text += s.status.Words(workflow.Now(ctx)) + "\n"
	}
	workflow.SetCurrentDetails(ctx, text)
}

// sweeping lets a batch take its time; what was done of it when its worker dies
// is not done again.
func sweeping(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Minute,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		Summary:             "Check the connections whose last check is the oldest, at the pace of Finch's limit",
	})
}
