package starter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// temporalServer starts a real Temporal server that knows our search
// attributes.
func temporalServer(t *testing.T) client.Client {
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
		SearchAttributes: temporal.NewSearchAttributes(
			connectionKey.ValueSet(""), providerKey.ValueSet(""), phaseKey.ValueSet("")),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	return server.Client()
}

// fakeCase stands for ReauthWorkflow: it waits for a code or for being
// cancelled, and answers the query.
func fakeCase(ctx workflow.Context, in reauth.Input) (reauth.Result, error) {
	status := reauth.Status{CaseID: workflow.GetInfo(ctx).FirstRunID, ConnectionID: in.ConnectionID, Phase: reauth.PhaseAwaitingCustomer}
	if err := workflow.SetQueryHandler(ctx, reauth.QueryStatus, func() (reauth.Status, error) { return status, nil }); err != nil {
		return reauth.Result{}, err
	}
	var result reauth.Result
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(workflow.GetSignalChannel(ctx, reauth.SignalCodeReceived), func(ch workflow.ReceiveChannel, _ bool) {
		var m reauth.CodeReceived
		ch.Receive(ctx, &m)
		result = reauth.Result{Outcome: reauth.OutcomeRecovered, Reason: reauth.CodeHash(m.Code)}
	})
	selector.AddReceive(workflow.GetSignalChannel(ctx, reauth.SignalCancel), func(ch workflow.ReceiveChannel, _ bool) {
		var m reauth.Cancel
		ch.Receive(ctx, &m)
		result = reauth.Result{Outcome: reauth.OutcomeCancelled, Reason: m.Reason}
	})
	selector.Select(ctx)
	status.Phase, status.Outcome = reauth.PhaseClosed, result.Outcome
	return result, nil
}

func fakeRedeem(ctx workflow.Context, in reauth.RedeemInput) (reauth.RedeemResult, error) {
	return reauth.RedeemResult{Result: reauth.CodeRecovered}, nil
}

// fakeStorm stands for StormWorkflow: it waits to be released.
func fakeStorm(ctx workflow.Context, in reauth.StormInput) (reauth.StormStatus, error) {
	var m reauth.ReleaseStorm
	workflow.GetSignalChannel(ctx, reauth.SignalReleaseStorm).Receive(ctx, &m)
	return reauth.StormStatus{Storm: reauth.Storm{StormID: in.StormID, EndedHow: "released by " + m.By}}, nil
}

func TestOnARealServer(t *testing.T) {
	c := temporalServer(t)
	s := starter.New(c)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	t.Run("a storm through a transport makes one case of each connection", func(t *testing.T) {
		var mu sync.Mutex
		reported, created := 0, 0
		transport := starter.NewTransport(answers(401, staleBody), func(ctx context.Context, in reauth.Input) error {
			out, err := s.Report(ctx, in)
			mu.Lock()
			defer mu.Unlock()
			reported++
			if out.Created {
				created++
			}
			return err
		})
		_, err := storm(transport, company, 0, 2000, 20, 32)
		require.NoError(t, err)
		require.NoError(t, transport.Close(ctx))
		require.Equal(t, 20, reported)
		require.Equal(t, 20, created)
		for n := range 20 {
			run, err := c.DescribeWorkflowExecution(ctx, reauth.WorkflowID(fmt.Sprint("con-", n)), "")
			require.NoError(t, err)
			require.EqualValues(t, 2, run.WorkflowExecutionInfo.HistoryLength, "started, and nothing besides")
			require.NoError(t, c.TerminateWorkflow(ctx, reauth.WorkflowID(fmt.Sprint("con-", n)), "", "the end of a test"))
		}
	})

	t.Run("a thousand reports at once make one case", func(t *testing.T) {
		const reports = 1000
		var mu sync.Mutex
		cases, created, repeated := make(map[starter.Reported]int), 0, false
		begin := make(chan struct{})
		var callers sync.WaitGroup
		for i := range reports {
			callers.Go(func() {
				<-begin
				in := reauth.Input{ConnectionID: "con-1000", Source: reauth.SourceAPIError, Reason: fmt.Sprint(i)}
				got, err := s.Report(ctx, in)
				again := false
				for ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) { // a busy machine; the SDK waits ten seconds
					again = true
					got, err = s.Report(ctx, in)
				}
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				repeated = repeated || again
				if got.Created {
					created++
				}
				got.Created = false
				cases[got]++
			})
		}
		close(begin)
		callers.Wait()
		if repeated { // the answer that said so may be among those that did not come
			require.LessOrEqual(t, created, 1)
		} else {
			require.Equal(t, 1, created)
		}
		require.Len(t, cases, 1, "all are told the same case")
		for got := range cases {
			described, err := c.DescribeWorkflowExecution(ctx, got.WorkflowID, "")
			require.NoError(t, err)
			require.Equal(t, got.CaseID, described.GetWorkflowExecutionInfo().GetExecution().GetRunId())
			require.EqualValues(t, 2, described.GetWorkflowExecutionInfo().GetHistoryLength(), "joining leaves no history: started and task scheduled")
		}
		require.EqualValues(t, 1, countWorkflows(ctx, t, c, "ReauthConnectionId = 'con-1000'"))
	})

	t.Run("a case is found and read in the web UI", func(t *testing.T) {
		_, err := s.Report(ctx, reauth.Input{ConnectionID: "con-ui", Source: reauth.SourceWebhook, FinchCode: "reauthenticate_user"})
		require.NoError(t, err)
		require.EqualValues(t, 1, countWorkflows(ctx, t, c, "ReauthConnectionId = 'con-ui' AND ReauthProvider = 'finch' AND ReauthPhase = 'confirming'"))
		described, err := c.DescribeWorkflowExecution(ctx, "reauth-con-ui", "")
		require.NoError(t, err)
		text := func(payload *commonpb.Payload) (s string) {
			require.NoError(t, converter.GetDefaultDataConverter().FromPayload(payload, &s))
			return s
		}
		metadata := described.GetExecutionConfig().GetUserMetadata()
		require.Equal(t, "Bring back connection con-ui", text(metadata.GetSummary()))
		require.Contains(t, text(metadata.GetDetails()), "webhook")
	})

	t.Run("without an open case", func(t *testing.T) {
		require.ErrorIs(t, s.Restored(ctx, "con-none"), starter.ErrNoOpenCase)
		require.ErrorIs(t, s.Cancel(ctx, "con-none", reauth.Cancel{Reason: "r"}), starter.ErrNoOpenCase)
		require.ErrorIs(t, s.Snooze(ctx, "con-none", reauth.Snooze{Until: time.Now()}), starter.ErrNoOpenCase)
		require.ErrorIs(t, s.RemindNow(ctx, "con-none"), starter.ErrNoOpenCase)
		require.ErrorIs(t, s.StopNotices(ctx, "con-none", reauth.StopNotices{Reason: "r"}), starter.ErrNoOpenCase)
		require.NoError(t, s.ContactsChanged(ctx, "con-none", reauth.ContactsChanged{Reason: "r"}))
		require.NoError(t, s.ReleaseNotices(ctx, "con-none", reauth.NoticesReleased{StormID: "s"}))
		require.ErrorIs(t, s.ReleaseStorm(ctx, "none", "Ann"), starter.ErrNoStorm)
		_, err := s.Status(ctx, "con-none")
		require.ErrorIs(t, err, starter.ErrNoOpenCase)
	})

	w := worker.New(c, reauth.TaskQueue, worker.Options{})
	w.RegisterWorkflowWithOptions(fakeCase, workflow.RegisterOptions{Name: reauth.WorkflowType})
	w.RegisterWorkflowWithOptions(fakeRedeem, workflow.RegisterOptions{Name: reauth.RedeemWorkflowType})
	w.RegisterWorkflowWithOptions(fakeStorm, workflow.RegisterOptions{Name: reauth.StormWorkflowType})
	require.NoError(t, w.Start())
	defer w.Stop()

	t.Run("a case from report to code, and the next one", func(t *testing.T) {
		first, err := s.Report(ctx, reauth.Input{ConnectionID: "con-1"})
		require.NoError(t, err)
		require.True(t, first.Created)
		status, err := s.Status(ctx, "con-1")
		require.NoError(t, err)
		require.Equal(t, first.CaseID, status.CaseID)
		require.Equal(t, reauth.PhaseAwaitingCustomer, status.Phase)
		require.NoError(t, s.RemindNow(ctx, "con-1"))

		runID, err := s.SubmitCode(ctx, "con-1", reauth.CodeReceived{Code: "code-1"})
		require.NoError(t, err)
		require.Equal(t, first.CaseID, runID, "the code goes to the open case")
		var result reauth.Result
		require.NoError(t, c.GetWorkflow(ctx, first.WorkflowID, runID).Get(ctx, &result))
		require.Equal(t, reauth.CodeHash("code-1"), result.Reason)
		require.ErrorIs(t, s.Cancel(ctx, "con-1", reauth.Cancel{}), starter.ErrNoOpenCase, "the case is closed")
		status, err = s.Status(ctx, "con-1")
		require.NoError(t, err)
		require.Equal(t, reauth.OutcomeRecovered, status.Outcome, "a closed case still says how it ended")

		second, err := s.Report(ctx, reauth.Input{ConnectionID: "con-1"})
		require.NoError(t, err)
		require.True(t, second.Created, "the next incident is the next case")
		require.NotEqual(t, first.CaseID, second.CaseID)
		require.NoError(t, s.Cancel(ctx, "con-1", reauth.Cancel{Reason: "enough"}))
		require.NoError(t, c.GetWorkflow(ctx, second.WorkflowID, second.CaseID).Get(ctx, &result))
		require.Equal(t, "enough", result.Reason)
	})

	t.Run("a code without a case opens one", func(t *testing.T) {
		runID, err := s.SubmitCode(ctx, "con-2", reauth.CodeReceived{Code: "code-2"})
		require.NoError(t, err)
		var result reauth.Result
		require.NoError(t, c.GetWorkflow(ctx, "reauth-con-2", runID).Get(ctx, &result))
		require.Equal(t, reauth.CodeHash("code-2"), result.Reason)
	})

	t.Run("a storm is watched once", func(t *testing.T) { testStorm(ctx, t, c, s) })

	t.Run("a code is redeemed once", func(t *testing.T) {
		in := reauth.RedeemInput{Code: "code-3"}
		started, err := s.Redeem(ctx, in)
		require.NoError(t, err)
		require.True(t, started)
		require.NoError(t, c.GetWorkflow(ctx, reauth.RedeemWorkflowID("code-3"), "").Get(ctx, nil))
		started, err = s.Redeem(ctx, in)
		require.NoError(t, err)
		require.False(t, started, "also after it was")
	})
}

// A storm is watched by one workflow, however many cases ask for it.
func testStorm(ctx context.Context, t *testing.T, c client.Client, s *starter.Starter) {
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() { assert.NoError(t, s.WatchStorm(ctx, "6c1e")) })
	}
	callers.Wait()
	require.EqualValues(t, 1, countWorkflows(ctx, t, c, "WorkflowId = 'storm-6c1e'"))

	// Somebody terminates the watch, and the next case has it watched again.
	require.NoError(t, c.TerminateWorkflow(ctx, "storm-6c1e", "", "by hand"))
	require.ErrorIs(t, s.ReleaseStorm(ctx, "6c1e", "Ann"), starter.ErrNoStorm)
	require.NoError(t, s.WatchStorm(ctx, "6c1e"))
	require.NoError(t, s.ReleaseStorm(ctx, "6c1e", "Ann"))
	var status reauth.StormStatus
	require.NoError(t, c.GetWorkflow(ctx, "storm-6c1e", "").Get(ctx, &status))
	require.Equal(t, "released by Ann", status.EndedHow)

	// It is over, and stays so.
	require.NoError(t, s.WatchStorm(ctx, "6c1e"))
	require.ErrorIs(t, s.ReleaseStorm(ctx, "6c1e", "Ann"), starter.ErrNoStorm)
}

// countWorkflows waits until the search finds any, and counts them.
func countWorkflows(ctx context.Context, t *testing.T, c client.Client, query string) int64 {
	t.Helper()
	for {
		counted, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default", Query: query})
		require.NoError(t, err)
		if counted.GetCount() > 0 {
			return counted.GetCount()
		}
		time.Sleep(50 * time.Millisecond)
	}
}
