package worker

import (
	"context"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// ScheduleRetention makes Temporal delete every day, at three in the morning UTC,
// what has been kept for long enough; nothing unless on. It may be called like
// ScheduleSweep.
func ScheduleRetention(ctx context.Context, c client.Client, taskQueue string, keep reauth.Retention, on bool) error {
	const day = 24 * time.Hour
	if !on {
		return unschedule(ctx, c, reauth.RetentionScheduleID, "retention")
	}
	return schedule(ctx, c, scheduled{
		id: reauth.RetentionScheduleID, of: "retention",
		spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: day, Offset: 3 * time.Hour}}},
		action: &client.ScheduleWorkflowAction{
			ID: reauth.RetentionWorkflowID, Workflow: reauth.RetentionWorkflowType, TaskQueue: taskQueue,
			Args: []any{reauth.RetentionInput{Keep: keep}}, StaticSummary: starter.RetentionSummary,
		},
		catchUp: day / 2,
	})
}
