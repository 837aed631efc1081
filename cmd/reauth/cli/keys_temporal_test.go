package cli

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"

	"github.com/finch-reauth/reauth/dev/temporal"
)

// What a real Temporal keeps is counted: what runs, what is closed, and until when.
func TestWhatTemporalKeeps(t *testing.T) {
	path, err := temporal.Binary(t.Context(), io.Discard)
	require.NoError(t, err)
	server, err := testsuite.StartDevServer(t.Context(), testsuite.DevServerOptions{
		ExistingPath: path, LogLevel: "error", Stdout: io.Discard, Stderr: io.Discard,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	c := server.Client()
	ctx := t.Context()
	start := func(id, queue string) {
		_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: queue}, "Story")
		require.NoError(t, err)
	}
	for _, id := range []string{"a", "b", "c"} {
		start(id, "reauth")
	}
	start("other", "not-ours")
	require.NoError(t, c.TerminateWorkflow(ctx, "a", "", "the end"))
	described, err := c.DescribeWorkflowExecution(ctx, "a", "")
	require.NoError(t, err)
	closed := described.GetWorkflowExecutionInfo().GetCloseTime().AsTime()

	h := temporalHistories{c, "default", "reauth"}
	later := time.Now().Add(time.Hour)
	var has kept
	require.Eventually(t, func() bool { // what is listed lags behind
		has, err = h.kept(ctx, time.Time{}, later)
		return err == nil && has.running == 2 && has.closed == 1
	}, patience, 50*time.Millisecond, "%v", err)
	require.Greater(t, has.until.Sub(closed), time.Hour, "its retention")
	for _, when := range []struct{ from, by time.Time }{{time.Time{}, time.Now().Add(-time.Hour)}, {later, later}} {
		has, err := h.kept(ctx, when.from, when.by)
		require.NoError(t, err)
		require.Zero(t, has.closed)
	}
}
