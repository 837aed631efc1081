package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/reauth"
)

// ErrApplicationUnknown: no client credentials are configured for the application.
var ErrApplicationUnknown = errors.New("the application is not configured")

// FindConnection asks the provider, by way of a worker, which connection a customer
// has; empty if none. It has a side effect, so call it only where somebody asked for
// it: for a customer who never connected the provider opens a session in which they
// could, which lives a minute and is shown to nobody. It waits for the answer, for
// as long as ctx lets it. An error that wraps ErrRefused is final, as that
// of an unknown application, which is ErrApplicationUnknown too.
func (s *Starter) FindConnection(ctx context.Context, m reauth.FindConnection) (connectionID string, err error) {
	m.Application = cmp.Or(m.Application, reauth.DefaultApplication)
	if err := m.Check(); err != nil {
		return "", fmt.Errorf("find a customer's connection: %w: %w", ErrRefused, err)
	}
	run, err := s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                       reauth.FindConnectionWorkflowID(m.Application, m.CustomerID),
		TaskQueue:                s.taskQueue,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            "Ask the provider which connection a customer has",
	}, reauth.FindConnectionWorkflowType, m)
	if err != nil {
		return "", fmt.Errorf("find a customer's connection: %w", err)
	}
	var found reauth.FoundConnection
	if err := run.Get(ctx, &found); err != nil {
		return "", fmt.Errorf("find a customer's connection: %w", refusedOrNot(err))
	}
	return found.ConnectionID, nil
}

// refusedOrNot marks the errors of a workflow that no repetition mends.
func refusedOrNot(err error) error {
	var failed *temporal.ApplicationError
	if errors.As(err, &failed) {
		switch failed.Type() {
		case reauth.ErrTypeApplicationUnknown:
			return fmt.Errorf("%w: %w", ErrRefused, ErrApplicationUnknown)
		case reauth.ErrTypeProviderRefused, reauth.ErrTypeInvalidInput:
			return fmt.Errorf("%w: %s", ErrRefused, failed.Message())
		}
	}
	return err
}
