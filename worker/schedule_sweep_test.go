package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/reauth"
)

// Any number of workers schedule sweeps, at every start; what they agree on
// holds, and an operator's pause too.
func TestScheduleSweep(t *testing.T) {
	c := server(t, &logs{})
	ctx := t.Context()
	require.NoError(t, ScheduleSweep(ctx, c, "queue", 0), "there is none to end")
	failed := make(chan error, 4)
	for range 4 {
		go func() { failed <- ScheduleSweep(ctx, c, "queue", 24*time.Hour) }()
	}
	for range 4 {
		require.NoError(t, <-failed)
	}
	handle := c.ScheduleClient().GetHandle(ctx, reauth.SweepScheduleID)
	described, err := handle.Describe(ctx)
	require.NoError(t, err)
	assert.Equal(t, 30*time.Minute, described.Schedule.Spec.Intervals[0].Every)
	assert.Len(t, described.Schedule.Spec.Intervals, 1)
	action, ok := described.Schedule.Action.(*client.ScheduleWorkflowAction)
	require.True(t, ok)
	assert.Equal(t, reauth.SweepWorkflowType, action.Workflow)
	assert.Equal(t, "queue", action.TaskQueue)

	require.NoError(t, handle.Pause(ctx, client.SchedulePauseOptions{Note: "maintenance"}))
	require.NoError(t, ScheduleSweep(ctx, c, "other", time.Hour))
	described, err = handle.Describe(ctx)
	require.NoError(t, err)
	assert.Equal(t, time.Hour/48, described.Schedule.Spec.Intervals[0].Every)
	assert.Len(t, described.Schedule.Spec.Intervals, 1)
	assert.Equal(t, "other", described.Schedule.Action.(*client.ScheduleWorkflowAction).TaskQueue)
	assert.True(t, described.Schedule.State.Paused, "it stays paused")

	require.NoError(t, ScheduleSweep(ctx, c, "queue", 0))
	_, err = handle.Describe(ctx)
	var notFound *serviceerror.NotFound
	require.ErrorAs(t, err, &notFound)
}

// Retention is scheduled like sweeps, and ended where it is off.
func TestScheduleRetention(t *testing.T) {
	c := server(t, &logs{})
	ctx := t.Context()
	keep, on, err := reauth.ParseRetention("clicks=30d")
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, ScheduleRetention(ctx, c, "queue", keep, on))
	}
	handle := c.ScheduleClient().GetHandle(ctx, reauth.RetentionScheduleID)
	described, err := handle.Describe(ctx)
	require.NoError(t, err)
	assert.Equal(t, 24*time.Hour, described.Schedule.Spec.Intervals[0].Every)
	assert.Equal(t, enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, described.Schedule.Policy.Overlap)
	assert.Equal(t, reauth.RetentionWorkflowType, described.Schedule.Action.(*client.ScheduleWorkflowAction).Workflow)

	require.NoError(t, ScheduleRetention(ctx, c, "queue", nil, false))
	_, err = handle.Describe(ctx)
	var notFound *serviceerror.NotFound
	require.ErrorAs(t, err, &notFound)
}
