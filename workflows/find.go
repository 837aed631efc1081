package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/reauth"
)

// findAtMost is how long somebody waits for the provider's answer.
const findAtMost = 45 * time.Second

// FindConnectionWorkflow asks a provider which connection a customer has. It is a
// workflow so that the client credentials stay with the worker, and so that the
// same question asked at once by many is asked once.
func FindConnectionWorkflow(ctx workflow.Context, in reauth.FindConnection) (reauth.FoundConnection, error) {
	if err := in.Check(); err != nil {
		return reauth.FoundConnection{}, temporal.NewNonRetryableApplicationError(err.Error(), reauth.ErrTypeInvalidInput, nil)
	}
	if workflow.GetInfo(ctx).WorkflowExecution.ID != reauth.FindConnectionWorkflowID(in.Application, in.CustomerID) {
		return reauth.FoundConnection{}, temporal.NewNonRetryableApplicationError(
			"a question must have the workflow ID find-<hash of application and customer_id>", reauth.ErrTypeWorkflowIDMismatch, nil)
	}
	workflow.SetCurrentDetails(ctx, "Somebody asked explicitly which connection a customer has.")
	var found reauth.FoundConnection
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: findAtMost,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(time.Second, 10*time.Second),
		Summary:                "Ask the provider which connection a customer has",
	}), acts.FindConnection, in).Get(ctx, &found)
	return found, err
}
