package clock_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// began is the real time at which the workflows here are started.
var began = epoch.Add(90 * time.Second)

func environment() *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(began)
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{fast.Interceptor()}})
	return env
}

// However a workflow waits, it sees all the time pass that it waits for, and
// little of it does.
func TestWaiting(t *testing.T) {
	never := func() bool { return false }
	for name, wait := range map[string]func(workflow.Context, time.Duration) error{
		"Sleep":    workflow.Sleep,
		"NewTimer": func(ctx workflow.Context, d time.Duration) error { return workflow.NewTimer(ctx, d).Get(ctx, nil) },
		"NewTimerWithOptions": func(ctx workflow.Context, d time.Duration) error {
			return workflow.NewTimerWithOptions(ctx, d, workflow.TimerOptions{Summary: "a summary"}).Get(ctx, nil)
		},
		"AwaitWithTimeout": func(ctx workflow.Context, d time.Duration) error {
			_, err := workflow.AwaitWithTimeout(ctx, d, never)
			return err
		},
		"AwaitWithOptions": func(ctx workflow.Context, d time.Duration) error {
			_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: d}, never)
			return err
		},
		"ReceiveWithTimeout": func(ctx workflow.Context, d time.Duration) error {
			workflow.GetSignalChannel(ctx, "none comes").ReceiveWithTimeout(ctx, d, nil)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := environment()
			var before, after time.Time
			env.ExecuteWorkflow(func(ctx workflow.Context) error {
				before = workflow.Now(ctx)
				err := wait(ctx, 14*day)
				after = workflow.Now(ctx)
				return err
			})
			require.NoError(t, env.GetWorkflowError())
			assert.Equal(t, epoch.Add(4000*90*time.Second), before)
			assert.Equal(t, before.Add(14*day), after)
			assert.Equal(t, began.Add(14*day/4000), env.Now().UTC())
		})
	}
}

// Whoever waits until a moment is not woken before it, since it would wait
// forever for the rest that is no real time at all.
func TestWaitingUntilAnOddMoment(t *testing.T) {
	env := environment()
	waits := 0
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		at := workflow.Now(ctx).Add(time.Hour + 1)
		for ; workflow.Now(ctx).Before(at) && waits < 10; waits++ {
			if err := workflow.Sleep(ctx, at.Sub(workflow.Now(ctx))); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, env.GetWorkflowError())
	assert.Equal(t, 1, waits)
}

func TestInfo(t *testing.T) {
	env := environment()
	var first, second workflow.Info
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		first = *workflow.GetInfo(ctx)
		if err := workflow.Sleep(ctx, day); err != nil {
			return err
		}
		second = *workflow.GetInfo(ctx)
		return nil
	})
	require.NoError(t, env.GetWorkflowError())
	assert.Equal(t, fast.At(began), first.WorkflowStartTime)
	assert.Equal(t, fast.At(began), second.WorkflowStartTime, "looking does not change it")
	assert.NotEmpty(t, first.WorkflowExecution.ID)
}

// The world that activities deal with is no faster than usual.
func TestActivitiesKeepTheirTime(t *testing.T) {
	env := environment()
	var info activity.Info
	work := func(ctx context.Context) error { info = activity.GetInfo(ctx); return nil }
	env.RegisterActivity(work)
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: time.Minute, ScheduleToCloseTimeout: time.Hour, HeartbeatTimeout: 20 * time.Second,
		}), work).Get(ctx, nil)
	})
	require.NoError(t, env.GetWorkflowError())
	assert.Equal(t, time.Minute, info.StartToCloseTimeout)
	assert.Equal(t, time.Hour, info.ScheduleToCloseTimeout)
	assert.Equal(t, 20*time.Second, info.HeartbeatTimeout)
}

// A workflow that was recorded comes to the same times when it is replayed,
// and to others without the clock.
func TestReplaying(t *testing.T) {
	var seen []time.Time
	remind := func(ctx workflow.Context) error {
		seen = []time.Time{workflow.GetInfo(ctx).WorkflowStartTime, workflow.Now(ctx)}
		at := workflow.GetInfo(ctx).WorkflowStartTime.Add(14 * day)
		for workflow.Now(ctx).Before(at) {
			if err := workflow.Sleep(ctx, at.Sub(workflow.Now(ctx))); err != nil {
				return err
			}
			seen = append(seen, workflow.Now(ctx))
		}
		return nil
	}
	started, woken := began.Add(30*time.Millisecond), began.Add(302*time.Second+450*time.Millisecond)
	wait := 302*time.Second + 370*time.Millisecond // fourteen days, less the two minutes that the first task took to begin
	history := func() *historypb.History {
		h := &history{}
		h.add(began, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, func(e *historypb.HistoryEvent) {
			e.Attributes = &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				WorkflowType: &commonpb.WorkflowType{Name: "remind"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "queue"},
				OriginalExecutionRunId: "run", FirstExecutionRunId: "run", Attempt: 1,
				WorkflowTaskTimeout: durationpb.New(10 * time.Second),
			}}
		})
		decided := h.task(began, started)
		timer := h.add(started, enumspb.EVENT_TYPE_TIMER_STARTED, func(e *historypb.HistoryEvent) {
			e.Attributes = &historypb.HistoryEvent_TimerStartedEventAttributes{TimerStartedEventAttributes: &historypb.TimerStartedEventAttributes{
				TimerId: "5", StartToFireTimeout: durationpb.New(wait), WorkflowTaskCompletedEventId: decided,
			}}
		})
		h.add(woken, enumspb.EVENT_TYPE_TIMER_FIRED, func(e *historypb.HistoryEvent) {
			e.Attributes = &historypb.HistoryEvent_TimerFiredEventAttributes{TimerFiredEventAttributes: &historypb.TimerFiredEventAttributes{
				TimerId: "5", StartedEventId: timer,
			}}
		})
		decided = h.task(woken, woken)
		h.add(woken, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, func(e *historypb.HistoryEvent) {
			e.Attributes = &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{WorkflowExecutionCompletedEventAttributes: &historypb.WorkflowExecutionCompletedEventAttributes{
				WorkflowTaskCompletedEventId: decided,
			}}
		})
		return &historypb.History{Events: h.events}
	}
	replay := func(interceptors ...interceptor.WorkerInterceptor) error {
		replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{Interceptors: interceptors})
		require.NoError(t, err)
		replayer.RegisterWorkflowWithOptions(remind, workflow.RegisterOptions{Name: "remind"})
		return replayer.ReplayWorkflowHistory(nil, history())
	}
	for range 2 {
		require.NoError(t, replay(fast.Interceptor()))
		assert.Equal(t, []time.Time{fast.At(began), fast.At(started), fast.At(woken)}, seen)
	}
	other := fast
	other.Speed = 3000
	require.ErrorContains(t, replay(other.Interceptor()), "extra replay command for StartTimer", "it would wait once more")
	require.ErrorContains(t, replay(), "extra replay command for StartTimer", "it would wait for fourteen days")
}

// history is what a server would have recorded.
type history struct{ events []*historypb.HistoryEvent }

func (h *history) add(at time.Time, kind enumspb.EventType, attributes func(*historypb.HistoryEvent)) (id int64) {
	e := &historypb.HistoryEvent{EventId: int64(len(h.events)) + 1, EventTime: timestamppb.New(at), EventType: kind}
	attributes(e)
	h.events = append(h.events, e)
	return e.EventId
}

// task adds a workflow task, from its scheduling to its completion.
func (h *history) task(scheduled, started time.Time) (completed int64) {
	first := h.add(scheduled, enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, func(e *historypb.HistoryEvent) {
		e.Attributes = &historypb.HistoryEvent_WorkflowTaskScheduledEventAttributes{WorkflowTaskScheduledEventAttributes: &historypb.WorkflowTaskScheduledEventAttributes{}}
	})
	second := h.add(started, enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED, func(e *historypb.HistoryEvent) {
		e.Attributes = &historypb.HistoryEvent_WorkflowTaskStartedEventAttributes{WorkflowTaskStartedEventAttributes: &historypb.WorkflowTaskStartedEventAttributes{ScheduledEventId: first}}
	})
	return h.add(started, enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, func(e *historypb.HistoryEvent) {
		e.Attributes = &historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes{WorkflowTaskCompletedEventAttributes: &historypb.WorkflowTaskCompletedEventAttributes{ScheduledEventId: first, StartedEventId: second}}
	})
}
