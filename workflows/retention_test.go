package workflows_test

import (
	"context"
	"errors"
	"testing"

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

func retentionRun(in reauth.RetentionInput, batch func(activities.RetentionBatch) (activities.RetiredBatch, error)) *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(sweepBegan)
	env.RegisterWorkflowWithOptions(workflows.RetentionWorkflow, workflow.RegisterOptions{Name: reauth.RetentionWorkflowType})
	env.RegisterActivityWithOptions(func(_ context.Context, in activities.RetentionBatch) (activities.RetiredBatch, error) {
		return batch(in)
	},
		activity.RegisterOptions{Name: "RetentionBatch"})
	env.ExecuteWorkflow(reauth.RetentionWorkflowType, in)
	return env
}

// Much to delete takes several runs; nothing of the count is lost, not even
// when the database is away for a while.
func TestALongRetentionGoesOnInANewRun(t *testing.T) {
	const batches = 250
	done, failed := 0, false
	in, runs := reauth.RetentionInput{Keep: reauth.Retention{"clicks": "30d"}}, 0
	for {
		runs++
		require.Less(t, runs, 10)
		env := retentionRun(in, func(in activities.RetentionBatch) (activities.RetiredBatch, error) {
			assert.Equal(t, reauth.Retention{"clicks": "30d"}, in.Keep)
			if done == 120 && !failed {
				failed = true
				return activities.RetiredBatch{}, errors.New("the database is unavailable")
			}
			done++
			return activities.RetiredBatch{Deleted: reauth.Deleted{"clicks": 1000, "codes": 1}, More: done < batches}, nil
		})
		var next *workflow.ContinueAsNewError
		if errors.As(env.GetWorkflowError(), &next) {
			in = reauth.RetentionInput{}
			require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
			continue
		}
		require.NoError(t, env.GetWorkflowError())
		var status reauth.RetentionStatus
		require.NoError(t, env.GetWorkflowResult(&status))
		assert.Equal(t, reauth.Deleted{"clicks": 250_000, "codes": 250}, status.Deleted)
		assert.Equal(t, batches, status.Batches)
		assert.Equal(t, sweepBegan, status.BeganAt)
		assert.NotNil(t, status.EndedAt)
		answer, err := env.QueryWorkflow(reauth.QueryStatus)
		require.NoError(t, err)
		var asked reauth.RetentionStatus
		require.NoError(t, answer.Get(&asked))
		assert.Equal(t, status, asked)
		break
	}
	assert.Equal(t, 3, runs)
}

func TestRetentionChecksItsInput(t *testing.T) {
	for _, keep := range []reauth.Retention{{"tables": "3d"}, {"webhooks": "1d"}, {"cases": "a while"}} {
		env := retentionRun(reauth.RetentionInput{Keep: keep}, nil)
		var failure *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &failure)
		assert.Equal(t, reauth.ErrTypeInvalidInput, failure.Type())
	}
}
