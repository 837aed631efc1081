package db_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

func TestOutbox(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	payload := json.RawMessage(`{"b":  1, "a": "é\\u0000\u003c", "b": 2}`) // kept to the byte, even where JSON would not care
	one := db.OutboxEvent{ID: "1", Type: "case.opened", Payload: payload, ConnectionID: "c1", CaseID: "k1"}
	two := db.OutboxEvent{ID: "2", Type: "ping", Payload: json.RawMessage(`{}`)}
	require.NoError(t, s.Enqueue(s.ctx, one))
	require.NoError(t, s.Enqueue(s.ctx, two))
	again := one
	again.Payload = json.RawMessage(`{"late": true}`)
	require.NoError(t, s.Enqueue(s.ctx, again))

	claim := func(limit int) []db.OutboxEvent {
		t.Helper()
		list, err := s.ClaimOutbox(s.ctx, limit, time.Minute)
		require.NoError(t, err)
		return list
	}
	one.Attempts, one.CreatedAt = 1, t0
	two.Attempts, two.CreatedAt = 1, t0
	assert.Equal(t, []db.OutboxEvent{one}, claim(1))
	assert.Equal(t, []db.OutboxEvent{two}, claim(10))
	assert.Empty(t, claim(10), "both are leased")

	// Nobody said what became of them: they are due again when the lease is over.
	now = t0.Add(time.Minute)
	one.Attempts, two.Attempts = 2, 2
	assert.Equal(t, []db.OutboxEvent{one, two}, claim(10))

	require.NoError(t, s.Delivered(s.ctx, "1"))
	require.NoError(t, s.DeliveryFailed(s.ctx, "1", now, "late"))
	require.NoError(t, s.DeliveryFailed(s.ctx, "2", now.Add(time.Hour), "500 for anna@example.com"))
	assert.Equal(t, 1, s.count(t, "outbox WHERE last_error = '500 for [address]'"))
	now = now.Add(59 * time.Minute)
	assert.Empty(t, claim(10))
	now = now.Add(time.Minute)
	two.Attempts = 3
	assert.Equal(t, []db.OutboxEvent{two}, claim(10))
	require.NoError(t, s.DeliveryFailed(s.ctx, "2", time.Time{}, "410"))
	require.NoError(t, s.Delivered(s.ctx, "2"))
	assert.Equal(t, 1, s.count(t, "outbox WHERE abandoned_at IS NOT NULL AND delivered_at IS NULL"))
	now = now.Add(1000 * time.Hour)
	assert.Empty(t, claim(10))

	for name, e := range map[string]db.OutboxEvent{
		"an unknown connection": {ID: "3", Type: "x", Payload: payload, ConnectionID: "c2"},
		"an unknown case":       {ID: "3", Type: "x", Payload: payload, ConnectionID: "c1", CaseID: "k2"},
	} {
		require.ErrorIs(t, s.Enqueue(s.ctx, e), db.ErrNotFound, name)
	}
	require.Error(t, s.Enqueue(s.ctx, db.OutboxEvent{ID: "3", Type: "x", Payload: json.RawMessage(`{`)}))
}

func TestOutboxIsClaimedOnceAtATime(t *testing.T) {
	s := newStore(t)
	const n = 60
	for i := range n {
		require.NoError(t, s.Enqueue(s.ctx, db.OutboxEvent{ID: fmt.Sprint(i), Type: "x", Payload: json.RawMessage(`{}`)}))
	}
	var mu sync.Mutex
	claimed := make(map[string]int)
	together(12, func(int) {
		for {
			list, err := s.ClaimOutbox(s.ctx, 5, time.Hour)
			if !assert.NoError(t, err) || len(list) == 0 {
				return
			}
			mu.Lock()
			for _, e := range list {
				claimed[e.ID]++
			}
			mu.Unlock()
		}
	})
	assert.Len(t, claimed, n)
	for id, times := range claimed {
		assert.Equal(t, 1, times, id)
	}
}
