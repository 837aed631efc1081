package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const day = 24 * time.Hour

// Every outcome, every source, at every moment that makes a difference.
func TestSuppressed(t *testing.T) {
	coolDown := map[reauth.Outcome]time.Duration{
		reauth.OutcomeExpired:    30 * day,
		reauth.OutcomeCancelled:  30 * day,
		reauth.OutcomeFailed:     30 * day,
		reauth.OutcomeFalseAlarm: time.Hour,
		reauth.OutcomeRecovered:  0,
		reauth.OutcomeHealed:     0,
	}
	machine := map[reauth.Source]bool{
		reauth.SourceAPIError: true, reauth.SourceWebhook: true, reauth.SourceSweep: true,
		reauth.SourceManual: false, reauth.SourceLink: false, reauth.SourceConsentExpiry: false,
	}
	require.Len(t, machine, len(reauth.Sources()))
	s := newStore(t)
	for _, outcome := range reauth.Outcomes() {
		id := "c-" + string(outcome)
		s.connect(t, id)
		s.open(t, id, "k-"+id, t0.Add(-time.Hour))
		s.end(t, "k-"+id, outcome, t0)
		period, known := coolDown[outcome]
		require.True(t, known)
		for _, source := range reauth.Sources() {
			for _, after := range []time.Duration{0, time.Microsecond, time.Hour - time.Microsecond, time.Hour, 29 * day, 30*day - time.Microsecond, 30 * day, 31 * day} {
				until, reason, suppressed, err := s.Suppressed(s.ctx, id, source, "", t0.Add(after))
				require.NoError(t, err)
				want := machine[source] && after < period
				name := fmt.Sprintf("%s, %s, %s later", outcome, source, after)
				require.Equal(t, want, suppressed, name)
				if want {
					assert.Equal(t, t0.Add(period), until, name)
					assert.Equal(t, string(outcome), reason, name)
				} else {
					assert.Zero(t, until, name)
					assert.Zero(t, reason, name)
				}
			}
		}
	}
	_, _, suppressed, err := s.Suppressed(s.ctx, "unknown", reauth.SourceSweep, "", t0)
	require.NoError(t, err)
	assert.False(t, suppressed)
}

func TestSuppressionEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end        func(t *testing.T, s store)
		afterwards map[reauth.Outcome]bool // whether it is suppressed still
	}{
		"nothing happens": {
			end:        func(*testing.T, store) {},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: true, reauth.OutcomeFalseAlarm: true},
		},
		"it is seen connected": {
			end: func(t *testing.T, s store) {
				require.NoError(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusConnected, t0.Add(time.Minute)))
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: false, reauth.OutcomeFalseAlarm: true},
		},
		"it was seen connected before": {
			end: func(t *testing.T, s store) {
				require.NoError(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusConnected, t0.Add(-time.Minute)))
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: true, reauth.OutcomeFalseAlarm: true},
		},
		"it is seen stale": {
			end: func(t *testing.T, s store) {
				require.NoError(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusStale, t0.Add(time.Minute)))
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: true, reauth.OutcomeFalseAlarm: true},
		},
		"it is lifted": {
			end:        func(t *testing.T, s store) { require.NoError(t, s.LiftSuppression(s.ctx, "c1")) },
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: false, reauth.OutcomeFalseAlarm: false},
		},
		"a person asks": {
			end:        func(t *testing.T, s store) { s.open(t, "c1", "asked", t0.Add(time.Minute)) },
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: false, reauth.OutcomeFalseAlarm: false},
		},
		"a machine's case opens all the same": {
			end: func(t *testing.T, s store) {
				_, err := s.OpenCase(s.ctx, db.Case{CaseID: "machine", ConnectionID: "c1", Source: reauth.SourceSweep, OpenedAt: t0.Add(time.Minute)})
				require.NoError(t, err)
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: true, reauth.OutcomeFalseAlarm: true},
		},
		"a later case brings it back": {
			end: func(t *testing.T, s store) {
				s.open(t, "c1", "later", t0.Add(time.Minute))
				s.end(t, "later", reauth.OutcomeHealed, t0.Add(2*time.Minute))
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: false, reauth.OutcomeFalseAlarm: false},
		},
		"it is registered anew": {
			end: func(t *testing.T, s store) {
				_, err := s.RemoveConnection(s.ctx, "c1")
				require.NoError(t, err)
				s.connect(t, "c1")
			},
			afterwards: map[reauth.Outcome]bool{reauth.OutcomeExpired: false, reauth.OutcomeFalseAlarm: false},
		},
	} {
		for outcome, want := range test.afterwards {
			t.Run(name+" after "+string(outcome), func(t *testing.T) {
				s := newStore(t)
				s.connect(t, "c1")
				s.open(t, "c1", "k1", t0.Add(-time.Hour))
				s.end(t, "k1", outcome, t0)
				test.end(t, s)
				_, _, suppressed, err := s.Suppressed(s.ctx, "c1", reauth.SourceWebhook, "", t0.Add(30*time.Minute))
				require.NoError(t, err)
				assert.Equal(t, want, suppressed)
			})
		}
	}
}

func TestFalseAlarmsAreSuppressedLongerEachTime(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	at := t0
	n := 0
	end := func(outcome reauth.Outcome) time.Duration {
		n++
		id := fmt.Sprint("k", n)
		_, err := s.OpenCase(s.ctx, db.Case{CaseID: id, ConnectionID: "c1", Source: reauth.SourceSweep, OpenedAt: at})
		require.NoError(t, err)
		s.end(t, id, outcome, at)
		until, _, suppressed, err := s.Suppressed(s.ctx, "c1", reauth.SourceSweep, "", at)
		require.NoError(t, err)
		if !suppressed {
			return 0
		}
		return until.Sub(at)
	}
	for i, hours := range []int{1, 2, 4, 8, 16, 24, 24, 24} {
		assert.Equal(t, time.Duration(hours)*time.Hour, end(reauth.OutcomeFalseAlarm), "false alarm %d", i+1)
		at = at.Add(7 * day)
	}
	at = at.Add(time.Microsecond)
	assert.Equal(t, time.Hour, end(reauth.OutcomeFalseAlarm), "more than a week later")
	at = at.Add(day)
	assert.Equal(t, 2*time.Hour, end(reauth.OutcomeFalseAlarm))
	at = at.Add(day)
	assert.Zero(t, end(reauth.OutcomeRecovered))
	at = at.Add(day)
	assert.Equal(t, time.Hour, end(reauth.OutcomeFalseAlarm), "after one that was none")
	at = at.Add(day)
	assert.Equal(t, 30*day, end(reauth.OutcomeExpired))
	at = at.Add(day)
	assert.Equal(t, time.Hour, end(reauth.OutcomeFalseAlarm))

	// A person who asks ends the hour, not the counting.
	at = at.Add(day)
	assert.Equal(t, 2*time.Hour, end(reauth.OutcomeFalseAlarm))
	at = at.Add(day)
	s.open(t, "c1", "asked", at)
	s.end(t, "asked", reauth.OutcomeFalseAlarm, at)
	until, _, _, err := s.Suppressed(s.ctx, "c1", reauth.SourceSweep, "", at)
	require.NoError(t, err)
	assert.Equal(t, 4*time.Hour, until.Sub(at))
}
