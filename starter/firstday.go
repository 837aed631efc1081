package starter

import (
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/reauth"
)

// SpreadMail has a change of whether mail goes out carried to the cases that
// wait, by one workflow however often it is called.
func (s *Starter) SpreadMail(ctx context.Context, in reauth.MailInput) error {
	if in.ChangeID == "" {
		return fmt.Errorf("have a change of mail told: %w: change_id is missing", ErrRefused)
	}
	err := s.once(ctx, reauth.MailWorkflowID(in.ChangeID), reauth.MailWorkflowType, in,
		"Mail: a change of whether customers are written to")
	if err != nil {
		return fmt.Errorf("have a change of mail told: %w", err)
	}
	return nil
}

// RunBulk has many cases told what was asked of them, by one workflow however
// often it is called.
func (s *Starter) RunBulk(ctx context.Context, bulkID string) error {
	if bulkID == "" {
		return fmt.Errorf("have many cases told: %w: bulk_id is missing", ErrRefused)
	}
	err := s.once(ctx, reauth.BulkWorkflowID(bulkID), reauth.BulkWorkflowType, reauth.BulkInput{BulkID: bulkID}, "Bulk: the same is asked of many cases")
	if err != nil {
		return fmt.Errorf("have many cases told: %w", err)
	}
	return nil
}

// once starts a workflow unless it runs, or has come to its end.
func (s *Starter) once(ctx context.Context, id, kind string, in any, summary string) error {
	_, err := s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                s.taskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            summary,
	}, kind, in)
	var over *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &over) {
		return nil
	}
	return err
}
