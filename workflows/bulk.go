package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// BulkWorkflow asks the same of many cases, one after the other. Cancelling it
// ends it where it is.
func BulkWorkflow(ctx workflow.Context, in reauth.BulkInput) (reauth.BulkStatus, error) {
	b := &bulk{status: reauth.BulkStatus{BulkID: in.BulkID}}
	if err := checkID(ctx, reauth.BulkWorkflowID(in.BulkID), "this workflow must have the workflow ID bulk-<bulk_id>"); err != nil {
		return b.status, err
	}
	err := workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, func() (reauth.BulkStatus, error) { return b.status, nil },
		workflow.QueryHandlerOptions{Description: "How far it has come, as of its beginning or end"})
	if err != nil {
		return b.status, err
	}
	if err := workflow.ExecuteActivity(insisting(ctx, "Read what is asked, and of which cases"), acts.BeginBulk, in).Get(ctx, &b.status); err != nil && ctx.Err() == nil {
		return b.status, err
	}
	b.show(ctx)
	err = workflow.ExecuteActivity(tellingMany(ctx), acts.RunBulk, in).Get(ctx, &b.status)
	if err != nil {
		how := "it could not go on"
		if ctx.Err() != nil {
			how = "cancelled through Temporal"
		}
		after, _ := workflow.NewDisconnectedContext(ctx)
		end := activities.BulkEnd{BulkID: in.BulkID, How: how}
		if ended := workflow.ExecuteActivity(insisting(after, "Put on record that it has ended"), acts.EndBulk, end).Get(after, &b.status); ended != nil {
			return b.status, ended
		}
		if ctx.Err() != nil {
			err = nil
		}
	}
	b.show(ctx)
	return b.status, err
}

type bulk struct{ status reauth.BulkStatus }

// show says in words what is asked.
func (b *bulk) show(ctx workflow.Context) {
	s := b.status
	lines := []string{
		fmt.Sprintf("**%s %d cases**\n", strings.ToUpper(string(s.Action[:min(1, len(s.Action))]))+string(s.Action[min(1, len(s.Action)):]), s.Matched),
		"- Asked for by " + s.By + ": " + s.Reason,
	}
	if s.EndedHow != "" {
		lines = append(lines, fmt.Sprintf("- Ended: %s; %d were told, %d had ended before", s.EndedHow, s.Told, s.Gone))
	} else {
		lines = append(lines, "- Under way; `GET /v1/bulk/"+s.BulkID+"` says how far it has come")
	}
	workflow.SetCurrentDetails(ctx, strings.Join(lines, "\n")+"\n")
}

func tellingMany(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 24 * time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		WaitForCancellation: true,
		Summary:             "Tell the cases, one after the other",
	})
}
