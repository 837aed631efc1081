package activities_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// oldRows is a store of rows that are all old.
type oldRows struct {
	activities.Store
	left   map[string]int
	broken map[string]error
	kept   map[string]time.Time
}

func (o *oldRows) Retire(_ context.Context, r db.Retained, cutoff time.Time, limit int) (int, error) {
	if err := o.broken[r.Table]; err != nil {
		return 0, err
	}
	if o.kept == nil {
		o.kept = map[string]time.Time{}
	}
	o.kept[r.Table] = cutoff
	n := min(limit, o.left[r.Table])
	o.left[r.Table] -= n
	return n, nil
}

// A batch deletes all there is, a few rows at a time, by the times that were
// chosen; one table that fails keeps no other, and an attempt counts what the one
// before it had deleted.
func TestRetentionBatch(t *testing.T) {
	now := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	rows := &oldRows{left: map[string]int{"webhooks": 1234, "clicks": 3, "outbox": 5, "connections": 45}, broken: map[string]error{"codes": errors.New("no")}}
	a := &activities.Activities{DB: rows, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() time.Time { return now }}
	run := func(keep reauth.Retention) (out activities.RetiredBatch, err error) {
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.RegisterActivity(a)
		env.SetHeartbeatDetails(reauth.Deleted{"clicks": 10})
		answer, err := env.ExecuteActivity(a.RetentionBatch, activities.RetentionBatch{Keep: keep})
		if err == nil {
			require.NoError(t, answer.Get(&out))
		}
		return out, err
	}
	out, err := run(reauth.Retention{"clicks": "30d", "outbox": "keep"})
	require.NoError(t, err)
	assert.Equal(t, reauth.Deleted{"webhooks": 1234, "clicks": 13, "connections": 45}, out.Deleted)
	assert.Equal(t, "no", out.Trouble)
	assert.False(t, out.More)
	assert.Equal(t, now.AddDate(0, 0, -30), rows.kept["clicks"])
	assert.Equal(t, now.AddDate(0, 0, -400), rows.kept["cases"])
	assert.Equal(t, 5, rows.left["outbox"], "kept for good")

	rows.broken["webhooks"] = db.ErrUnavailable
	_, err = run(nil)
	require.Error(t, err, "to be tried again")
}
