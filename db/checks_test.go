package db_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const hold = 5 * time.Minute

// swept registers a connection with a token that was last checked at a time;
// never, if that is zero.
func (s store) swept(t *testing.T, id string, checkedAt time.Time) {
	t.Helper()
	s.connect(t, id)
	_, err := s.Adopt(s.ctx, adoption(id, "token of "+id, t0))
	require.NoError(t, err)
	if !checkedAt.IsZero() {
		_, err = s.raw.ExecContext(s.ctx, `UPDATE connections SET checked_at = $2 WHERE connection_id = $1`, id, checkedAt)
		require.NoError(t, err)
	}
}

// take takes the next connection and returns its ID; none if empty.
func (s store) take(t *testing.T, before time.Time) db.Check {
	t.Helper()
	c, taken, err := s.TakeCheck(s.ctx, "default", before, hold)
	require.NoError(t, err)
	require.Equal(t, taken, c.ConnectionID != "")
	return c
}

func TestChecksGoByAge(t *testing.T) {
	s := newStore(t)
	s.swept(t, "young", t0)
	s.swept(t, "old", t0.Add(-30*time.Hour))
	s.swept(t, "never", time.Time{})
	s.swept(t, "older", t0.Add(-40*time.Hour))
	s.connect(t, "no-token")
	s.swept(t, "gone", t0.Add(-50*time.Hour))
	require.NoError(t, s.SetConnectionStatus(s.ctx, "gone", reauth.StatusDisconnected, t0.Add(-50*time.Hour)))
	s.swept(t, "removed", t0.Add(-50*time.Hour))
	_, err := s.RemoveConnection(s.ctx, "removed")
	require.NoError(t, err)
	s.swept(t, "in-a-case", t0.Add(-50*time.Hour))
	s.open(t, "in-a-case", "k1", t0.Add(-50*time.Hour))

	cutoff := t0.Add(-20 * time.Hour)
	lag, err := s.SweepLag(s.ctx, t0.Add(-35*time.Hour), cutoff)
	require.NoError(t, err)
	oldest := t0.Add(-40 * time.Hour)
	assert.Equal(t, reauth.SweepLag{Connections: 4, Overdue: 1, Due: 3, Never: 1, OldestAt: &oldest}, lag)

	var got []string
	for c := s.take(t, cutoff); c.ConnectionID != ""; c = s.take(t, cutoff) {
		got = append(got, c.ConnectionID)
		require.NoError(t, s.EndCheck(s.ctx, c, t0))
	}
	assert.Equal(t, []string{"never", "older", "old"}, got, "and none twice")

	other, taken, err := s.TakeCheck(s.ctx, "sandbox", t0.Add(time.Hour), hold)
	require.NoError(t, err)
	assert.False(t, taken, "%v is another application's", other)

	// What a case or a webhook has to say of a connection counts as a check.
	s.end(t, "k1", reauth.OutcomeHealed, t0)
	assert.Empty(t, s.take(t, cutoff))
}

// Nobody takes a connection that somebody else has, also when that one was
// killed, until its time is over; and then the first one changes nothing.
func TestNoTwoChecksOfOneConnection(t *testing.T) {
	s := newStore(t)
	for i := range 5 {
		s.swept(t, fmt.Sprint("c", i), time.Time{})
	}
	var mu sync.Mutex
	taken := map[string]int{}
	together(12, func(int) {
		c, ok, err := s.TakeCheck(s.ctx, "default", t0, hold)
		if assert.NoError(t, err) && ok {
			mu.Lock()
			defer mu.Unlock()
			taken[c.ConnectionID]++
		}
	})
	assert.Empty(t, s.take(t, t0), "all are taken")
	assert.Len(t, taken, 5)
	for id, n := range taken {
		assert.Equal(t, 1, n, id)
	}
	_, ok, err := s.TakeCheckOf(s.ctx, "c0", hold)
	require.NoError(t, err)
	assert.False(t, ok)

	_, err = s.raw.ExecContext(s.ctx, `UPDATE connections SET checking_until = clock_timestamp() - interval '1 s' WHERE connection_id = 'c3'`)
	require.NoError(t, err)
	var late db.Check
	require.NoError(t, s.raw.GetContext(s.ctx, &late, `SELECT connection_id, application, checking_until FROM connections WHERE connection_id = 'c3'`))
	second := s.take(t, t0)
	require.Equal(t, "c3", second.ConnectionID)
	require.NoError(t, s.EndCheck(s.ctx, late, t0))
	require.NoError(t, s.PutOffCheck(s.ctx, late, 0))
	assert.Empty(t, s.take(t, t0), "the second still has it")

	require.NoError(t, s.PutOffCheck(s.ctx, second, 0))
	third := s.take(t, t0)
	require.Equal(t, "c3", third.ConnectionID, "it was not checked, so it is still due")
	require.NoError(t, s.PutOffCheck(s.ctx, third, time.Hour))
	assert.Empty(t, s.take(t, t0), "but not for an hour")
}

func TestCheckingOneByName(t *testing.T) {
	s := newStore(t)
	s.swept(t, "c1", t0)
	s.open(t, "c1", "k1", t0)
	s.connect(t, "no-token")
	c, ok, err := s.TakeCheckOf(s.ctx, "c1", hold)
	require.NoError(t, err)
	require.True(t, ok, "also one that was just checked and has a case")
	require.NoError(t, s.EndCheck(s.ctx, c, t0))
	for _, id := range []string{"no-token", "nobody"} {
		_, ok, err = s.TakeCheckOf(s.ctx, id, hold)
		require.NoError(t, err)
		assert.False(t, ok, id)
	}
}

func TestSeenWorking(t *testing.T) {
	s := newStore(t)
	s.swept(t, "c1", time.Time{})
	seen := func() bool {
		marked, err := s.SeenWorking(s.ctx, "c1", t0.Add(time.Hour))
		require.NoError(t, err)
		return marked
	}
	assert.False(t, seen(), "it is connected")
	s.open(t, "c1", "k1", t0)
	assert.False(t, seen(), "a case decides for itself")
	assert.Equal(t, reauth.StatusStale, s.status(t, "c1"))
	s.end(t, "k1", reauth.OutcomeExpired, t0)
	_, _, suppressed, err := s.Suppressed(s.ctx, "c1", reauth.SourceSweep, "", t0.Add(2*time.Hour))
	require.NoError(t, err)
	require.True(t, suppressed)
	assert.True(t, seen())
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"))
	_, _, suppressed, err = s.Suppressed(s.ctx, "c1", reauth.SourceSweep, "", t0.Add(2*time.Hour))
	require.NoError(t, err)
	assert.False(t, suppressed, "the connection was seen connected")
	require.NoError(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusDisconnected, t0))
	assert.False(t, seen())
	_, err = s.SeenWorking(s.ctx, "nobody", t0)
	require.ErrorIs(t, err, db.ErrNotFound)
}
