package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/workflows"
)

// FindConnection knows one customer; the provider fails for a while first.
func (w *world) FindConnection(_ context.Context, in reauth.FindConnection) (reauth.FoundConnection, error) {
	switch n := w.note("find", in.Application+" "+in.CustomerID); {
	case in.CustomerID == "nobody":
		return reauth.FoundConnection{}, nil
	case in.CustomerID == "never" || n < 3:
		return reauth.FoundConnection{}, retryable()
	}
	return reauth.FoundConnection{ConnectionID: "con-of-" + in.CustomerID}, nil
}

func TestFindConnection(t *testing.T) {
	ask := func(in reauth.FindConnection, id string) (*world, reauth.FoundConnection, error) {
		w := newWorld(t)
		w.env.RegisterWorkflowWithOptions(workflows.FindConnectionWorkflow, workflow.RegisterOptions{Name: reauth.FindConnectionWorkflowType})
		w.env.SetStartWorkflowOptions(startAs(id))
		w.env.ExecuteWorkflow(reauth.FindConnectionWorkflowType, in)
		var found reauth.FoundConnection
		if err := w.env.GetWorkflowError(); err != nil {
			return w, found, err
		}
		require.NoError(t, w.env.GetWorkflowResult(&found))
		return w, found, nil
	}
	id := reauth.FindConnectionWorkflowID
	_, found, err := ask(reauth.FindConnection{Application: "sandbox", CustomerID: "cus"}, id("sandbox", "cus"))
	require.NoError(t, err)
	assert.Equal(t, "con-of-cus", found.ConnectionID)
	_, found, err = ask(reauth.FindConnection{Application: "default", CustomerID: "nobody"}, id("default", "nobody"))
	require.NoError(t, err)
	assert.Empty(t, found.ConnectionID)
	w, _, err := ask(reauth.FindConnection{Application: "default", CustomerID: "never"}, id("default", "never"))
	require.Error(t, err)
	for _, at := range w.when("find") {
		assert.LessOrEqual(t, at, time.Minute, "somebody waits for the answer")
	}
	_, _, err = ask(reauth.FindConnection{Application: "default", CustomerID: "cus"}, id("sandbox", "cus"))
	require.ErrorContains(t, err, "find-<hash of application and customer_id>")
	_, _, err = ask(reauth.FindConnection{Application: "default"}, id("default", ""))
	require.ErrorContains(t, err, "customer_id is missing")
}

// A case whose connection was removed ends, should nobody have told it.
func TestARemovedConnectionEndsItsCase(t *testing.T) {
	t.Run("at a notice", func(t *testing.T) {
		w := newWorld(t)
		w.notify = func(n int, _ activities.NoticeInput) (activities.Noticed, error) {
			return activities.Noticed{Removed: n == 2, Sent: 1}, nil
		}
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionRemoved, result.Reason)
		assert.Len(t, w.did("notify"), 2)
	})
	t.Run("at a look", func(t *testing.T) {
		w := newWorld(t)
		w.look = func(int, activities.LookInput) (activities.Looked, error) {
			return activities.Looked{Removed: true}, nil
		}
		w.after(time.Hour, func() { w.env.SignalWorkflow(reauth.SignalConnectionRestored, nil) })
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionRemoved, result.Reason)
	})
}
