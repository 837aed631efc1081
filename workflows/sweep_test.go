package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/workflows"
)

var sweepBegan = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// sweepRun runs one run of a sweep whose batches find what the function says.
func sweepRun(in reauth.SweepInput, batch func(activities.SweepBatch) (activities.SweptBatch, error)) *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(sweepBegan)
	env.RegisterWorkflowWithOptions(workflows.SweepWorkflow, workflow.RegisterOptions{Name: reauth.SweepWorkflowType})
	env.RegisterActivityWithOptions(func(_ context.Context, in activities.SweepBatch) (activities.SweptBatch, error) { return batch(in) },
		activity.RegisterOptions{Name: "SweepBatch"})
	env.ExecuteWorkflow(reauth.SweepWorkflowType, in)
	return env
}

// A sweep that takes long goes on in a new run, with what it has found, and
// what was due at its beginning.
func TestALongSweepGoesOnInANewRun(t *testing.T) {
	const due = 25_000
	left, cutoffs := due, map[time.Time]bool{}
	batch := func(in activities.SweepBatch) (activities.SweptBatch, error) {
		cutoffs[in.Cutoff] = true
		left -= in.Most
		return activities.SweptBatch{SweepCounts: reauth.SweepCounts{Checked: in.Most, Connected: in.Most}, More: left > 0, Lag: reauth.SweepLag{Connections: due, Due: left}}, nil
	}
	in, runs := reauth.SweepInput{Every: "12h"}, 0
	for {
		runs++
		require.Less(t, runs, 10)
		env := sweepRun(in, batch)
		require.True(t, env.IsWorkflowCompleted())
		var next *workflow.ContinueAsNewError
		if errors.As(env.GetWorkflowError(), &next) {
			in = reauth.SweepInput{}
			require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
			continue
		}
		require.NoError(t, env.GetWorkflowError())
		var status reauth.SweepStatus
		require.NoError(t, env.GetWorkflowResult(&status))
		assert.Equal(t, due, status.Checked)
		assert.Equal(t, due/100, status.Batches)
		assert.Equal(t, sweepBegan, status.BeganAt)
		assert.NotNil(t, status.EndedAt)
		break
	}
	assert.Equal(t, 3, runs)
	assert.Equal(t, map[time.Time]bool{sweepBegan.Add(-10 * time.Hour): true}, cutoffs, "five sixths of the interval before it began")
}

func TestASweepCanBeAskedHowItStands(t *testing.T) {
	env := sweepRun(reauth.SweepInput{ConnectionIDs: []string{"a", "b"}}, func(in activities.SweepBatch) (activities.SweptBatch, error) {
		if len(in.ConnectionIDs) == 2 {
			return activities.SweptBatch{SweepCounts: reauth.SweepCounts{Checked: 1, Stale: 1, Reported: 1}, Rest: in.ConnectionIDs[1:], More: true}, nil
		}
		return activities.SweptBatch{SweepCounts: reauth.SweepCounts{Failed: 1}, Trouble: "8 checks in a row have failed"}, nil
	})
	require.NoError(t, env.GetWorkflowError())
	answer, err := env.QueryWorkflow(reauth.QueryStatus)
	require.NoError(t, err)
	var status reauth.SweepStatus
	require.NoError(t, answer.Get(&status))
	assert.Equal(t, reauth.SweepCounts{Checked: 1, Stale: 1, Reported: 1, Failed: 1}, status.SweepCounts)
	assert.Equal(t, "8 checks in a row have failed", status.Trouble)
	assert.Contains(t, status.Words(sweepBegan), "It ended early: 8 checks in a row have failed.")
}

func TestASweepChecksItsInput(t *testing.T) {
	for _, in := range []reauth.SweepInput{{Every: "soon"}, {Every: "1s"}, {ConnectionIDs: []string{"a b"}}, {ConnectionIDs: make([]string, 1001)}} {
		env := sweepRun(in, nil)
		var failure *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &failure)
		assert.Equal(t, reauth.ErrTypeInvalidInput, failure.Type())
		assert.True(t, failure.NonRetryable())
	}
}
