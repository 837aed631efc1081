package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// scheduled is a workflow that Temporal starts ever so often, unless the last one
// still runs.
type scheduled struct {
	id, of string // of: what it starts, for people
	spec   client.ScheduleSpec
	action *client.ScheduleWorkflowAction
	// catchUp is how late one may start that was missed.
	catchUp time.Duration
}

// schedule makes a schedule. It may be called by any number of workers, at every
// start: an existing one is brought up to date, and stays paused if somebody has
// paused it.
func schedule(ctx context.Context, c client.Client, s scheduled) error {
	schedules := c.ScheduleClient()
	_, err := schedules.Create(ctx, client.ScheduleOptions{
		ID: s.id, Spec: s.spec, Action: s.action,
		Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: s.catchUp,
	})
	if err == nil {
		return nil
	}
	var exists *serviceerror.AlreadyExists
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) && !errors.As(err, &exists) {
		return fmt.Errorf("schedule %s: %w", s.of, err)
	}
	err = schedules.GetHandle(ctx, s.id).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			known := in.Description.Schedule
			known.Spec, known.Action = &s.spec, s.action
			if known.Policy == nil {
				known.Policy = &client.SchedulePolicies{}
			}
			known.Policy.Overlap, known.Policy.CatchupWindow = enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, s.catchUp
			return &client.ScheduleUpdate{Schedule: &known}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("bring the schedule of %s up to date: %w", s.of, err)
	}
	return nil
}

// unschedule ends a schedule, if there is one.
func unschedule(ctx context.Context, c client.Client, id, of string) error {
	var notFound *serviceerror.NotFound
	if err := c.ScheduleClient().GetHandle(ctx, id).Delete(ctx); err != nil && !errors.As(err, &notFound) {
		return fmt.Errorf("end the schedule of %s: %w", of, err)
	}
	return nil
}
