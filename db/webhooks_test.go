package db_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// arrive stores an event of a connection that waits.
func (s store) arrive(t testing.TB, connectionID, id string) (fresh bool) {
	t.Helper()
	fresh, err := s.StoreWebhook(s.ctx, db.Webhook{
		Provider: reauth.Finch, EventID: id, Type: "account.updated", ConnectionID: connectionID, Status: "reauth",
		State: db.WebhookWaiting, ReceivedAt: t0,
	}, []byte("body of "+id))
	require.NoError(t, err)
	return fresh
}

func (s store) claimLines(t testing.TB, at time.Time, limit int) []db.WebhookLine {
	t.Helper()
	lines, err := s.ClaimWebhooks(s.ctx, at, limit, time.Minute)
	require.NoError(t, err)
	return lines
}

// waiting lists the IDs of the events of a line.
func (s store) waiting(t testing.TB, line db.WebhookLine) (ids []string) {
	t.Helper()
	list, err := s.WaitingWebhooks(s.ctx, line, 500)
	require.NoError(t, err)
	for _, e := range list {
		ids = append(ids, e.EventID)
	}
	return ids
}

func (s store) webhook(t testing.TB, id string) db.Webhook {
	t.Helper()
	list, err := s.Webhooks(s.ctx, db.WebhookFilter{EventID: id}, 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

func TestStoreWebhook(t *testing.T) {
	s := newStore(t)
	assert.True(t, s.arrive(t, "c1", "1"))
	assert.False(t, s.arrive(t, "c1", "1"))
	assert.False(t, s.arrive(t, "c2", "1"), "an ID is remembered whatever the event says")
	ignored := db.Webhook{
		Provider: reauth.Finch, EventID: "2", Type: "a@b.example", State: db.WebhookIgnored, Result: "type", ReceivedAt: t0,
		Body: `{"email": "anna@example.com", "other": "bob\u0040example.com"}`,
	}
	fresh, err := s.StoreWebhook(s.ctx, ignored, []byte(`{"email": "anna@example.com"}`))
	require.NoError(t, err)
	assert.True(t, fresh)
	fresh, err = s.StoreWebhook(s.ctx, ignored, nil)
	require.NoError(t, err)
	assert.False(t, fresh)
	ignored.Provider = "atto"
	fresh, err = s.StoreWebhook(s.ctx, ignored, nil)
	require.NoError(t, err)
	assert.True(t, fresh, "each provider has its own IDs")

	assert.Equal(t, 1, s.count(t, "webhooks WHERE body_sha256 = $1", hashOf(`{"email": "anna@example.com"}`)))
	list, err := s.Webhooks(s.ctx, db.WebhookFilter{}, 0)
	require.NoError(t, err)
	require.Len(t, list, 3, "the newest first")
	assert.Equal(t, db.Webhook{
		Provider: reauth.Finch, EventID: "2", Type: "[address]", Body: `{"email": "[address]", "other": "[address]"}`,
		State: db.WebhookIgnored, Result: "type", ReceivedAt: t0, ProcessedAt: &t0, Seq: list[1].Seq, Applications: pq.StringArray{},
	}, list[1])
	assert.Equal(t, db.Webhook{
		Provider: reauth.Finch, EventID: "1", Type: "account.updated", ConnectionID: "c1", Status: "reauth", State: db.WebhookWaiting, ReceivedAt: t0, Seq: list[2].Seq, Applications: pq.StringArray{},
	}, list[2])
	for name, filter := range map[string]db.WebhookFilter{
		"connection": {ConnectionID: "c1"}, "state": {State: db.WebhookWaiting}, "all": {ConnectionID: "c1", EventID: "1", Since: t0},
	} {
		list, err := s.Webhooks(s.ctx, filter, 0)
		require.NoError(t, err)
		require.Len(t, list, 1, name)
		assert.Equal(t, "1", list[0].EventID)
	}
	list, err = s.Webhooks(s.ctx, db.WebhookFilter{Since: t0.Add(time.Second)}, 0)
	require.NoError(t, err)
	assert.Empty(t, list)

	for name, w := range map[string]db.Webhook{
		"no ID":                         {Provider: reauth.Finch, State: db.WebhookIgnored, ReceivedAt: t0},
		"one that is over":              {Provider: reauth.Finch, EventID: "3", State: db.WebhookDone, ReceivedAt: t0},
		"it waits without a connection": {Provider: reauth.Finch, EventID: "3", State: db.WebhookWaiting, ReceivedAt: t0},
	} {
		_, err := s.StoreWebhook(s.ctx, w, nil)
		require.Error(t, err, name)
	}
	assert.Equal(t, 1, s.count(t, "webhook_lines"))
}

func TestStoreWebhookTogether(t *testing.T) {
	s := newStore(t)
	var fresh atomic.Int64
	together(30, func(i int) {
		if s.arrive(t, fmt.Sprint("c", i%3), "1") {
			fresh.Add(1)
		}
	})
	assert.Equal(t, int64(1), fresh.Load())
}

func TestWebhookLines(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"a1", "b1", "a2"} {
		s.arrive(t, id[:1], id)
	}
	assert.Empty(t, s.claimLines(t, t0.Add(-time.Second), 10))
	lines := s.claimLines(t, t0, 1)
	lines = append(lines, s.claimLines(t, t0, 10)...)
	require.Len(t, lines, 2, "one for each connection")
	a, b := lines[0], lines[1]
	if a.ConnectionID == "b" {
		a, b = b, a
	}
	assert.Equal(t, []string{"a1", "a2"}, s.waiting(t, a))
	assert.Equal(t, []string{"b1"}, s.waiting(t, b))
	assert.Empty(t, s.claimLines(t, t0, 10), "both are leased")

	// What arrives for a line that is held waits for the end of the lease.
	s.arrive(t, "a", "a3")
	assert.Empty(t, s.claimLines(t, t0, 10))
	held, err := s.EndWebhooks(s.ctx, a, db.WebhookEnd{EventIDs: []string{"a1", "a2"}, State: db.WebhookDone, Result: "reported", CaseID: "k", At: t0})
	require.NoError(t, err)
	assert.True(t, held)
	first, second := s.webhook(t, "a1"), s.webhook(t, "a2")
	assert.Equal(t, "coalesced", first.Result)
	assert.Equal(t, "reported", second.Result)
	assert.Equal(t, []any{"k", "k", 0, 1, t0}, []any{first.CaseID, second.CaseID, first.Attempts, second.Attempts, *second.ProcessedAt})
	require.NoError(t, s.LeaveWebhooks(s.ctx, a, second.Seq, t0))
	lines = s.claimLines(t, t0, 10)
	require.Len(t, lines, 1, "a3 had arrived before it was left")
	assert.Equal(t, []string{"a3"}, s.waiting(t, lines[0]))

	// The old lease is over: its holder can record nothing any more.
	held, err = s.EndWebhooks(s.ctx, a, db.WebhookEnd{EventIDs: []string{"a3"}, State: db.WebhookDone, At: t0})
	require.NoError(t, err)
	assert.False(t, held)
	require.NoError(t, s.LeaveWebhooks(s.ctx, a, 1<<40, t0))
	require.NoError(t, s.PostponeWebhooks(s.ctx, a, "a3", t0, "late"))
	assert.Equal(t, db.WebhookWaiting, s.webhook(t, "a3").State)
	assert.Empty(t, s.claimLines(t, t0, 10))

	// Failures are counted until something succeeds.
	at := t0.Add(10 * time.Second)
	require.NoError(t, s.PostponeWebhooks(s.ctx, lines[0], "a3", at, "down, says anna@example.com"))
	assert.Empty(t, s.claimLines(t, at.Add(-time.Second), 10))
	lines = s.claimLines(t, at, 10)
	require.Len(t, lines, 1)
	assert.Equal(t, 1, lines[0].Attempts)
	assert.Equal(t, []any{1, "down, says [address]"}, []any{s.webhook(t, "a3").Attempts, s.webhook(t, "a3").LastError})
	require.NoError(t, s.PostponeWebhooks(s.ctx, lines[0], "a3", at, ""))
	lines = s.claimLines(t, at, 10)
	assert.Equal(t, 1, lines[0].Attempts, "no attempt was made")
	s.arrive(t, "a", "a4")
	_, err = s.EndWebhooks(s.ctx, lines[0], db.WebhookEnd{EventIDs: []string{"a3"}, State: db.WebhookAbandoned, Result: "abandoned", Problem: "404 for anna@example.com", At: at})
	require.NoError(t, err)
	assert.Equal(t, "404 for [address]", s.webhook(t, "a3").LastError)
	require.NoError(t, s.LeaveWebhooks(s.ctx, lines[0], s.webhook(t, "a3").Seq, at))
	lines = s.claimLines(t, at, 10)
	assert.Zero(t, lines[0].Attempts)

	// A line whose holder was killed is claimed by another after its lease.
	assert.Empty(t, s.claimLines(t, t0.Add(59*time.Second), 1))
	lines = s.claimLines(t, at.Add(time.Minute), 10)
	require.Len(t, lines, 2)

	waiting, oldest, err := s.WebhookBacklog(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, 2, waiting, "b1 and a4")
	assert.Equal(t, t0, *oldest)
	for _, line := range lines {
		ids := s.waiting(t, line)
		_, err := s.EndWebhooks(s.ctx, line, db.WebhookEnd{EventIDs: ids, State: db.WebhookIgnored, At: at})
		require.NoError(t, err)
		require.NoError(t, s.LeaveWebhooks(s.ctx, line, line.LastSeq, at))
	}
	waiting, oldest, err = s.WebhookBacklog(s.ctx)
	require.NoError(t, err)
	assert.Zero(t, waiting)
	assert.Nil(t, oldest)
	assert.Zero(t, s.count(t, "webhook_lines"))

	_, err = s.EndWebhooks(s.ctx, a, db.WebhookEnd{State: db.WebhookDone})
	require.Error(t, err)
}

// However events arrive and are taken at the same time, each is taken once, in
// the order of its place, and none is left behind.
func TestWebhooksAmidArrivals(t *testing.T) {
	const connections, each, senders, clerks = 5, 40, 6, 4
	s := newStore(t)
	var mu sync.Mutex
	taken := map[string][]int64{}
	var done sync.WaitGroup
	var sent atomic.Int64
	for i := range senders {
		done.Go(func() {
			for n := range connections * each {
				if n%senders == i || n%7 == i { // many are sent twice
					if s.arrive(t, fmt.Sprint("c", n%connections), fmt.Sprint(n)) {
						sent.Add(1)
					}
				}
			}
		})
	}
	for range clerks {
		done.Go(func() {
			for {
				mu.Lock()
				n := 0
				for _, seqs := range taken {
					n += len(seqs)
				}
				mu.Unlock()
				if n >= connections*each {
					return
				}
				for _, line := range s.claimLines(t, t0, 2) {
					list, err := s.WaitingWebhooks(s.ctx, line, 3)
					if !assert.NoError(t, err) {
						return
					}
					seen := line.LastSeq
					if len(list) == 3 {
						seen = 0
					}
					for _, e := range list {
						mu.Lock()
						taken[e.ConnectionID] = append(taken[e.ConnectionID], e.Seq)
						mu.Unlock()
						held, err := s.EndWebhooks(s.ctx, line, db.WebhookEnd{EventIDs: []string{e.EventID}, State: db.WebhookDone, At: t0})
						assert.NoError(t, err)
						assert.True(t, held)
						seen = max(seen, e.Seq)
					}
					assert.NoError(t, s.LeaveWebhooks(s.ctx, line, seen, t0))
				}
			}
		})
	}
	done.Wait()
	assert.Equal(t, int64(connections*each), sent.Load())
	for id, seqs := range taken {
		assert.Len(t, seqs, each)
		assert.IsIncreasing(t, seqs, id)
	}
	assert.Zero(t, s.count(t, "webhooks WHERE state <> 'done'"))
}

func TestWebhooksOf(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"1", "2", "3", "4"} {
		s.arrive(t, "c", id)
	}
	line := s.claimLines(t, t0, 1)[0]
	for _, end := range []db.WebhookEnd{
		{EventIDs: []string{"1", "2"}, CaseID: "k"}, {EventIDs: []string{"3"}}, {EventIDs: []string{"4"}, CaseID: "k"},
	} {
		end.State, end.Result, end.At = db.WebhookDone, "reported", t0
		_, err := s.EndWebhooks(s.ctx, line, end)
		require.NoError(t, err)
	}
	ids := func(caseID string, limit int) (ids []string) {
		list, err := s.WebhooksOf(s.ctx, caseID, limit)
		require.NoError(t, err)
		for _, e := range list {
			ids = append(ids, e.EventID)
		}
		return ids
	}
	assert.Equal(t, []string{"2", "4"}, ids("k", 10))
	assert.Equal(t, []string{"4"}, ids("k", 1), "the newest")
	assert.Empty(t, ids("", 10))
}
