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

// claimChats claims chat messages at a time.
func (s store) claimChats(t testing.TB, at time.Time, limit int) []db.Chat {
	t.Helper()
	s.SetNow(func() time.Time { return at })
	list, err := s.ClaimChats(s.ctx, limit, time.Minute)
	require.NoError(t, err)
	return list
}

// operatorNeeded adds a line to a case's timeline that calls for an operator.
func (s store) operatorNeeded(t testing.TB, connectionID string, at time.Time) {
	t.Helper()
	require.NoError(t, s.AddEvent(s.ctx, db.Event{CaseID: "k-" + connectionID, ConnectionID: connectionID, Kind: db.EventOperatorNeeded, Detail: "help", At: at}))
}

func TestWhoHasAChatMessage(t *testing.T) {
	s := newStore(t)
	ends := func(outcome reauth.Outcome) func(id string) {
		return func(id string) { s.end(t, "k-"+id, outcome, t0) }
	}
	told := func(id string) { s.alone(t, s.mail(t, id, "first")) }
	both := func(one, other func(id string)) func(id string) {
		return func(id string) { one(id); other(id) }
	}
	tests := map[string]struct {
		change func(id string)
		has    bool
	}{
		"nobody was told":                  {},
		"somebody was told":                {change: told, has: true},
		"an operator is needed":            {change: func(id string) { s.operatorNeeded(t, id, t0) }, has: true},
		"expired":                          {change: ends(reauth.OutcomeExpired), has: true},
		"failed":                           {change: ends(reauth.OutcomeFailed), has: true},
		"a false alarm of which none knew": {change: ends(reauth.OutcomeFalseAlarm)},
		"healed before anybody was told":   {change: ends(reauth.OutcomeHealed)},
		"cancelled before that":            {change: ends(reauth.OutcomeCancelled)},
		"healed after somebody was told":   {change: both(told, ends(reauth.OutcomeHealed)), has: true},
		"held by a storm": {change: func(id string) {
			_, err := s.raw.Exec(`INSERT INTO storms (storm_id, provider, broken, connections, began_at, ends_at) VALUES ('s', 'finch', 1, 1, $1, $2)`, t0, t0.Add(time.Hour))
			require.NoError(t, err)
			_, err = s.raw.Exec(`UPDATE cases SET storm_id = 's' WHERE connection_id = $1`, id)
			require.NoError(t, err)
			require.NoError(t, s.AddEvent(s.ctx, db.Event{CaseID: "k-" + id, ConnectionID: id, Kind: db.EventHeld, At: t0}))
		}},
		"ended long ago": {change: func(id string) {
			_, err := s.raw.Exec(`UPDATE cases SET opened_at = $2 WHERE connection_id = $1`, id, t0.Add(-7*day))
			require.NoError(t, err)
			s.end(t, "k-"+id, reauth.OutcomeExpired, t0.Add(-7*day))
		}},
	}
	names, want := map[string]string{}, map[string]bool{}
	for name, test := range tests {
		id := fmt.Sprint("c", len(names))
		names["k-"+id] = name
		s.waits(t, id, fmt.Sprintf("%s@example.com", id))
		if test.change != nil {
			test.change(id)
		}
		if test.has {
			want[name] = true
		}
	}
	got := map[string]bool{}
	for _, c := range s.claimChats(t, t0, 100) {
		got[names[c.CaseID]] = true
		assert.Empty(t, c.Ref)
		assert.Equal(t, 1, c.Attempts)
		assert.Equal(t, int64(s.count(t, "case_events WHERE case_id = $1", c.CaseID)), c.Events)
	}
	assert.Equal(t, want, got)
}

func TestChatMessageIsBroughtUpToDate(t *testing.T) {
	s := newStore(t)
	s.waits(t, "c1", ada)
	s.operatorNeeded(t, "c1", t0)
	assert.Equal(t, []db.Chat{{CaseID: "k-c1", Events: 2, Attempts: 1}}, s.claimChats(t, t0, 10))
	assert.Empty(t, s.claimChats(t, t0.Add(59*time.Second), 10), "somebody is at it")
	assert.Equal(t, []db.Chat{{CaseID: "k-c1", Events: 2, Attempts: 2}}, s.claimChats(t, t0.Add(time.Minute), 10), "who seems to have died")

	// A line that comes while the message is on its way is not told yet.
	s.operatorNeeded(t, "c1", t0.Add(time.Minute))
	require.NoError(t, s.ChatTold(s.ctx, "k-c1", "ref-1", 2))
	now := t0.Add(time.Minute)
	assert.Equal(t, []db.Chat{{CaseID: "k-c1", Ref: "ref-1", Events: 3, Attempts: 1}}, s.claimChats(t, now, 10))
	require.NoError(t, s.ChatTold(s.ctx, "k-c1", "ref-1", 3))
	now = now.Add(day)
	assert.Empty(t, s.claimChats(t, now, 10), "nothing is new")

	s.operatorNeeded(t, "c1", now)
	assert.Len(t, s.claimChats(t, now, 10), 1)
	next := now.Add(time.Hour)
	require.NoError(t, s.ChatFailed(s.ctx, "k-c1", "ref-2", next, "no answer from anna@example.com"))
	assert.Equal(t, 1, s.count(t, "chats WHERE last_error = 'no answer from [address]'"))
	assert.Empty(t, s.claimChats(t, next.Add(-time.Second), 10))
	assert.Equal(t, []db.Chat{{CaseID: "k-c1", Ref: "ref-2", Events: 4, Attempts: 2}}, s.claimChats(t, next, 10))
	require.NoError(t, s.ChatTold(s.ctx, "k-c1", "ref-2", 4))
	assert.Equal(t, 1, s.count(t, "chats WHERE last_error = '' AND attempts = 0"))

	// The end is told as well, and what comes long after it is not.
	s.end(t, "k-c1", reauth.OutcomeExpired, next)
	assert.Len(t, s.claimChats(t, next.Add(7*day-time.Second), 10), 1)
	assert.Empty(t, s.claimChats(t, next.Add(7*day+time.Hour), 10))
}

func TestChatsAreClaimedOnce(t *testing.T) {
	s := newStore(t)
	const cases = 40
	for i := range cases {
		id := fmt.Sprintf("c%02d", i)
		s.waits(t, id, ada)
		s.operatorNeeded(t, id, t0)
	}
	assert.Len(t, s.claimChats(t, t0, 7), 7, "no more than asked for")
	for _, at := range []time.Time{t0, t0.Add(time.Minute)} { // those without a message, then those with one
		s.SetNow(func() time.Time { return at })
		var mu sync.Mutex
		claimed := map[string]int{}
		together(8, func(int) {
			list, err := s.ClaimChats(s.ctx, cases, time.Minute)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			for _, c := range list {
				claimed[c.CaseID]++
			}
		})
		for id, times := range claimed {
			assert.Equal(t, 1, times, id)
		}
		if at.Equal(t0) {
			assert.Len(t, claimed, cases-7)
		} else {
			assert.Len(t, claimed, cases)
		}
	}
}
