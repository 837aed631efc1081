package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// retentionBatches is after how many batches retention goes on as a new run, so
// that its history stays small.
const retentionBatches = 100

// RetentionWorkflow deletes what has been kept for long enough. It ends when
// nothing is left that is old; the schedule starts the next one.
func RetentionWorkflow(ctx workflow.Context, in reauth.RetentionInput) (reauth.RetentionStatus, error) {
	if err := in.Keep.Check(); err != nil {
		return reauth.RetentionStatus{}, temporal.NewNonRetryableApplicationError(err.Error(), reauth.ErrTypeInvalidInput, nil)
	}
	status := reauth.RetentionStatus{BeganAt: workflow.Now(ctx).UTC()}
	if in.Goes != nil {
		status = *in.Goes
	}
	if status.Deleted == nil {
		status.Deleted = reauth.Deleted{}
	}
	err := workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, func() (reauth.RetentionStatus, error) { return status, nil },
		workflow.QueryHandlerOptions{Description: "What retention has deleted so far"})
	if err != nil {
		return status, err
	}
	for batches := 0; ; batches++ {
		showRetention(ctx, in, status)
		if batches == retentionBatches {
			in.Goes = &status
			return status, workflow.NewContinueAsNewError(ctx, reauth.RetentionWorkflowType, in)
		}
		var out activities.RetiredBatch
		if err := workflow.ExecuteActivity(deleting(ctx), acts.RetentionBatch, activities.RetentionBatch{Keep: in.Keep}).Get(ctx, &out); err != nil {
			return status, err
		}
		status.Batches++
		status.Deleted.Add(out.Deleted)
		status.Trouble = out.Trouble
		if !out.More {
			now := workflow.Now(ctx).UTC()
			status.EndedAt = &now
			showRetention(ctx, in, status)
			return status, nil
		}
	}
}

// showRetention says in words what is deleted, by which rule, and how far it is.
func showRetention(ctx workflow.Context, in reauth.RetentionInput, status reauth.RetentionStatus) {
	headline := "Deleting what has been kept for long enough."
	switch {
	case status.EndedAt != nil && status.Trouble != "":
		headline = "Not all that is old could be deleted: " + status.Trouble + ". The next run tries again."
	case status.EndedAt != nil:
		headline = "What has been kept for long enough is deleted."
	}
	workflow.SetCurrentDetails(ctx, "**"+headline+"**\n\nDeleted: "+status.Deleted.Words()+"\n\nKept: `"+in.Keep.String()+"`\n")
}

// deleting lets a batch take its time; what was deleted when its worker dies is
// not deleted again.
func deleting(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Minute,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, 5*time.Minute),
		Summary:             "Delete what has been kept for long enough, a few rows at a time",
	})
}
