package db_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestRestoredIsHeld(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"1", "2", "3"} {
		s.connect(t, "c"+id)
		s.open(t, "c"+id, "k"+id, t0)
	}
	hold := func(caseID string, until time.Duration) {
		require.NoError(t, s.HoldRestored(s.ctx, caseID, t0.Add(until)))
	}
	due := func(at time.Duration) (ids string) {
		list, err := s.DueRestored(s.ctx, t0.Add(at), 10)
		require.NoError(t, err)
		for _, c := range list {
			ids += c.CaseID
		}
		return ids
	}
	hold("k1", 2*time.Hour)
	hold("k2", time.Hour)
	assert.Empty(t, due(time.Hour-time.Microsecond))
	assert.Equal(t, "k2", due(time.Hour))
	assert.Equal(t, "k2k1", due(2*time.Hour))
	hold("k1", 3*time.Hour)
	assert.Equal(t, "k2", due(2*time.Hour), "the last hold counts")

	require.NoError(t, s.ForgetRestored(s.ctx, "k2"))
	assert.Empty(t, due(2*time.Hour))
	s.end(t, "k1", reauth.OutcomeRecovered, t0)
	s.end(t, "k3", reauth.OutcomeRecovered, t0)
	hold("k3", 0)
	assert.Empty(t, due(9*time.Hour), "a closed case needs to be told nothing")
	require.ErrorIs(t, s.HoldRestored(s.ctx, "k4", t0), db.ErrNotFound)
}
