package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/reauth"
)

// ReportFound is Report for what a sweep finds.
func (s *Starter) ReportFound(ctx context.Context, in reauth.Input) error {
	_, err := s.Report(ctx, in)
	return err
}

// AccessBack is Restored where there need not be an open case.
func (s *Starter) AccessBack(ctx context.Context, connectionID string) error {
	return unlessNoCase(s.Restored(ctx, connectionID))
}

// Sweeping is a sweep, or a retention, that runs.
type Sweeping struct {
	WorkflowID, RunID string
	// Started is false where it ran already.
	Started bool
}

// Sweep starts a sweep under a workflow ID, or joins the one that runs under it.
func (s *Starter) Sweep(ctx context.Context, workflowID string, in reauth.SweepInput) (Sweeping, error) {
	if err := in.Check(); err != nil {
		return Sweeping{}, fmt.Errorf("start a sweep: %w: %w", ErrRefused, err)
	}
	return s.begin(ctx, "start a sweep", workflowID, SweepSummary, reauth.SweepWorkflowType, in)
}

// Retain starts the deleting of what has been kept for long enough, under a
// workflow ID, or joins what runs under it.
func (s *Starter) Retain(ctx context.Context, workflowID string, in reauth.RetentionInput) (Sweeping, error) {
	if err := in.Keep.Check(); err != nil {
		return Sweeping{}, fmt.Errorf("start the retention: %w: %w", ErrRefused, err)
	}
	return s.begin(ctx, "start the retention", workflowID, RetentionSummary, reauth.RetentionWorkflowType, in)
}

func (s *Starter) begin(ctx context.Context, doing, workflowID, summary, workflowType string, in any) (Sweeping, error) {
	run, err := s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       workflowID,
		TaskQueue:                                s.taskQueue,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            summary,
	}, workflowType, in)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &running):
		return Sweeping{WorkflowID: workflowID, RunID: cmp.Or(running.FirstExecutionRunId, running.RunId)}, nil
	case err != nil:
		return Sweeping{}, fmt.Errorf("%s: %w", doing, err)
	}
	return Sweeping{WorkflowID: workflowID, RunID: run.GetRunID(), Started: true}, nil
}

// What the web UI calls a sweep, and a retention.
const (
	SweepSummary     = "Sweep: check connections that nobody has complained of"
	RetentionSummary = "Retention: delete what has been kept for long enough"
)
