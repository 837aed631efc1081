package worker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker/clock"
)

// With a clock of their own, cases are opened and closed at its times.
func TestRunByAFastClock(t *testing.T) {
	s := newStore(t)
	temporal := server(t, s.logs)
	require.NoError(t, RegisterSearchAttributes(t.Context(), temporal, client.DefaultNamespace))
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	finch := waiting{asked: make(chan struct{}), answer: make(chan struct{})}
	close(finch.answer)
	fast := clock.Fast{Speed: 4000, Epoch: time.Now().Add(-time.Hour)}
	config := Config{
		Temporal: temporal, Logger: s.logger(), Clock: &fast,
		Activities: &activities.Activities{
			DB: s.DB, Keys: keys, Logger: s.logger(), Now: fast.Now,
			Providers: map[string]activities.Provider{reauth.DefaultApplication: finch},
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, config) }()
	t.Cleanup(func() { stop(); assert.NoError(t, <-done) })

	_, err = s.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c1"})
	require.NoError(t, err)
	adopt(t, s, keys, "c1")
	before := fast.Now()
	started, err := temporal.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: reauth.WorkflowID("c1"), TaskQueue: reauth.TaskQueue},
		reauth.WorkflowType, reauth.Input{ConnectionID: "c1", Source: reauth.SourceAPIError})
	require.NoError(t, err)
	var result reauth.Result
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, started.Get(limited, &result), s.logs.String())
	require.Equal(t, reauth.OutcomeFalseAlarm, result.Outcome)
	after := fast.Now()

	row, err := s.NewestCase(t.Context(), "c1")
	require.NoError(t, err)
	require.NotNil(t, row.ClosedAt)
	times := []time.Time{before, row.OpenedAt, *row.ClosedAt, after}
	for i := range times[1:] {
		assert.False(t, times[i+1].Before(times[i]), "%v", times)
	}
}
