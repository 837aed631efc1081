package workflows_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// Who steered a case stands in its timeline; a signal need not say.
func TestWhoSteersACase(t *testing.T) {
	const anna = "key ops-anna"
	w := newWorld(t)
	var lines []string
	w.record = func(in activities.RecordInput) { lines = append(lines, in.Kind+": "+in.Detail) }
	w.signal(time.Hour, reauth.SignalSnooze, reauth.Snooze{Until: opened.Add(3 * time.Hour), By: anna})
	w.signal(4*time.Hour, reauth.SignalRemindNow, reauth.RemindNow{By: anna})
	for i, message := range []any{nil, map[string]any{}, "now", 7, map[string]any{"by": 7}} { // a day apart, so that each counts
		w.signal(time.Duration(i+1)*day, reauth.SignalRemindNow, message)
	}
	w.signal(6*day, reauth.SignalStopNotices, reauth.StopNotices{Reason: "we phone them", By: anna})
	var closed activities.CloseInput
	w.close = func(_ int, in activities.CloseInput) (activities.Closed, error) {
		closed = in
		return activities.Closed{}, nil
	}
	w.signal(7*day, reauth.SignalCancel, reauth.Cancel{Reason: "the customer left", By: anna})
	result := w.run(t, reauth.Input{Reminders: []string{"0s"}})
	assert.Equal(t, []string{
		"snoozed: Notices are held until 2026-03-02 12:00 UTC, asked for by key ops-anna.",
		"remind_asked: A reminder was asked for by key ops-anna.",
		"notices_stopped: Nobody is written to any more, stopped by key ops-anna: we phone them",
	}, lines)
	assert.Len(t, w.did("notify"), 7, "every reminder was sent, whatever came with its signal")
	require.Equal(t, reauth.OutcomeCancelled, result.Outcome)
	assert.Equal(t, "the customer left", closed.Reason)
	assert.Equal(t, anna, closed.By)
	assert.Equal(t, anna, result.By)
}
