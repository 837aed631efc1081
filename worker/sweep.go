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

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// sweepStarts is how often a sweep is started, so that each connection gets
// several chances within the time in which it is to be checked.
func sweepStarts(every time.Duration) time.Duration {
	return min(max(every/48, time.Minute), 30*time.Minute)
}

// ScheduleSweep makes Temporal start a sweep ever so often, by which each
// connection is checked once in a while; none if every is 0. It may be called by
// any number of workers, at every start: an existing schedule is brought up to
// date, and stays paused if somebody has paused it.
func ScheduleSweep(ctx context.Context, c client.Client, taskQueue string, every time.Duration) error {
	schedules := c.ScheduleClient()
	handle := schedules.GetHandle(ctx, reauth.SweepScheduleID)
	if every == 0 {
		var notFound *serviceerror.NotFound
		if err := handle.Delete(ctx); err != nil && !errors.As(err, &notFound) {
			return fmt.Errorf("end the schedule of sweeps: %w", err)
		}
		return nil
	}
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: sweepStarts(every)}}}
	action := &client.ScheduleWorkflowAction{
		ID: reauth.SweepWorkflowID, Workflow: reauth.SweepWorkflowType, TaskQueue: taskQueue,
		Args: []any{reauth.SweepInput{Every: every.String()}}, StaticSummary: starter.SweepSummary,
	}
	_, err := schedules.Create(ctx, client.ScheduleOptions{
		ID: reauth.SweepScheduleID, Spec: spec, Action: action,
		Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		// One that was missed while Temporal was away is made good by the next.
		CatchupWindow: time.Minute,
	})
	if err == nil {
		return nil
	}
	var exists *serviceerror.AlreadyExists
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) && !errors.As(err, &exists) {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	err = handle.Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			schedule := in.Description.Schedule
			schedule.Spec, schedule.Action = &spec, action
			if schedule.Policy == nil {
				schedule.Policy = &client.SchedulePolicies{}
			}
			schedule.Policy.Overlap, schedule.Policy.CatchupWindow = enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, time.Minute
			return &client.ScheduleUpdate{Schedule: &schedule}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("bring the schedule of sweeps up to date: %w", err)
	}
	return nil
}
