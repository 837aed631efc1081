package worker

import (
	"context"
	"time"

	"go.temporal.io/sdk/client"

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
	if every == 0 {
		return unschedule(ctx, c, reauth.SweepScheduleID, "sweeps")
	}
	return schedule(ctx, c, scheduled{
		id: reauth.SweepScheduleID, of: "sweeps",
		spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: sweepStarts(every)}}},
		action: &client.ScheduleWorkflowAction{
			ID: reauth.SweepWorkflowID, Workflow: reauth.SweepWorkflowType, TaskQueue: taskQueue,
			Args: []any{reauth.SweepInput{Every: every.String()}}, StaticSummary: starter.SweepSummary,
		},
		// One that was missed while Temporal was away is made good by the next.
		catchUp: time.Minute,
	})
}
