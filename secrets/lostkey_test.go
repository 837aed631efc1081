package secrets_test

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/secrets"
)

type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

var _ log.Logger = quiet{}

// temporalServer starts a real Temporal server and returns its address.
func temporalServer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("temporal")
	if err != nil {
		out, err := exec.Command("go", "tool", "-modfile=../tools.mod", "-n", "temporal").Output()
		require.NoError(t, err, "find the temporal command")
		path = strings.TrimSpace(string(out))
	}
	server, err := testsuite.StartDevServer(t.Context(), testsuite.DevServerOptions{
		ExistingPath: path, LogLevel: "error", Stdout: io.Discard, Stderr: io.Discard,
		ClientOptions: &client.Options{Logger: quiet{}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	return server.FrontendHostPort()
}

// dial connects with keys, or as a foreign client, which has none.
func dial(t *testing.T, address string, keys *secrets.Keys) client.Client {
	t.Helper()
	options := client.Options{HostPort: address, Logger: quiet{}}
	if keys != nil {
		keys.Configure(&options)
	}
	c, err := client.DialContext(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

type message struct{ Text string }

func inputWorkflow(_ workflow.Context, m message) (string, error) { return m.Text, nil }

func signalWorkflow(ctx workflow.Context) (string, error) {
	var m message
	workflow.GetSignalChannel(ctx, "message").Receive(ctx, &m)
	return m.Text, nil
}

func activities(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: "activities", StartToCloseTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
}

func resultWorkflow(ctx workflow.Context) (string, error) {
	var m message
	err := workflow.ExecuteActivity(activities(ctx), "give").Get(ctx, &m)
	return m.Text, err
}

func failureWorkflow(ctx workflow.Context) (string, error) {
	err := workflow.ExecuteActivity(activities(ctx), "fail").Get(ctx, nil)
	return err.Error(), nil
}

// TestALostKeyBlocksAWorkflowAndFailsNothing runs a worker that lacks the key
// of what it must read, on a real server: the workflow task fails and is tried
// again, and the workflow completes once a worker has the key.
func TestALostKeyBlocksAWorkflowAndFailsNothing(t *testing.T) {
	address := temporalServer(t)
	original := generate(t)
	_, rotated := rotate(t, original)
	foreign, old := dial(t, address, nil), dial(t, address, load(t, original))
	lacking := dial(t, address, load(t, generate(t)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	acts := worker.New(old, "activities", worker.Options{})
	acts.RegisterActivityWithOptions(func(context.Context) (message, error) { return message{"SENTINEL"}, nil }, activity.RegisterOptions{Name: "give"})
	acts.RegisterActivityWithOptions(func(context.Context) error { return temporal.NewApplicationError("SENTINEL", "kind") }, activity.RegisterOptions{Name: "fail"})
	require.NoError(t, acts.Start())
	defer acts.Stop()

	start := func(c client.Client, f any, args ...any) client.WorkflowRun {
		run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: "workflows"}, f, args...)
		require.NoError(t, err)
		return run
	}
	signal := func(run client.WorkflowRun, c client.Client, arg any) {
		require.NoError(t, c.SignalWorkflow(ctx, run.GetID(), "", "message", arg))
	}
	work := func(c client.Client) worker.Worker {
		w := worker.New(c, "workflows", worker.Options{})
		for _, f := range []any{inputWorkflow, signalWorkflow, resultWorkflow, failureWorkflow} {
			w.RegisterWorkflow(f)
		}
		require.NoError(t, w.Start())
		return w
	}

	runs := map[string]client.WorkflowRun{
		"input":   start(old, inputWorkflow, message{"SENTINEL"}),
		"signal":  start(foreign, signalWorkflow),
		"result":  start(foreign, resultWorkflow),
		"failure": start(foreign, failureWorkflow),
	}
	signal(runs["signal"], old, message{"SENTINEL"})

	// What no key opens is dropped, and nobody waits for it.
	forged := start(foreign, signalWorkflow)
	payload, err := load(t, original).Codec().Encode([]*commonpb.Payload{{Data: []byte("x")}})
	require.NoError(t, err)
	payload[0].Data[len(payload[0].Data)-1] ^= 1
	signal(forged, foreign, converter.NewRawValue(payload[0]))
	signal(forged, foreign, message{"after the forged one"})

	w := work(lacking)
	for name, run := range runs {
		failed := taskFailure(ctx, t, foreign, run)
		attributes := failed.GetWorkflowTaskFailedEventAttributes()
		require.Equal(t, "Encoded failure", attributes.GetFailure().GetMessage(), name)
		err := load(t, rotated).FailureConverter().FailureToError(attributes.GetFailure())
		require.Contains(t, err.Error(), "Encoded failure", "%s: only the worker's own keys open it", name)
		described, err := foreign.DescribeWorkflowExecution(ctx, run.GetID(), "")
		require.NoError(t, err)
		require.Equal(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, described.GetWorkflowExecutionInfo().GetStatus(), name)
	}
	w.Stop()

	current := dial(t, address, load(t, rotated))
	w = work(current)
	defer w.Stop()
	for name, run := range runs {
		var text string
		require.NoError(t, current.GetWorkflow(ctx, run.GetID(), "").Get(ctx, &text), name)
		require.Contains(t, text, "SENTINEL", name)
	}
	var text string
	require.NoError(t, current.GetWorkflow(ctx, forged.GetID(), "").Get(ctx, &text))
	require.Equal(t, "after the forged one", text)
}

// taskFailure waits for a workflow task of the run to fail.
func taskFailure(ctx context.Context, t *testing.T, c client.Client, run client.WorkflowRun) *historypb.HistoryEvent {
	t.Helper()
	events := c.GetWorkflowHistory(ctx, run.GetID(), "", true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		switch event.GetEventType() {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED:
			return event
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
			require.Fail(t, "the workflow ended", "%v", event.GetEventType())
		}
	}
	require.Fail(t, "no workflow task failed")
	return nil
}
