package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

// soon is when everything that was enqueued is due.
func soon() time.Time { return time.Now().Add(time.Minute).UTC().Truncate(time.Microsecond) }

// claim takes what is due.
func (s store) claim(t testing.TB, at time.Time, limit int) []db.OutboxEvent {
	t.Helper()
	list, err := s.ClaimOutbox(s.ctx, at, limit, time.Minute)
	require.NoError(t, err)
	return list
}

// claimIDs takes everything that is due, and says what it was.
func (s store) claimIDs(t testing.TB, at time.Time) []string {
	t.Helper()
	ids := []string{}
	for _, e := range s.claim(t, at, 500) {
		ids = append(ids, e.ID)
	}
	return ids
}

func (s store) enqueue(t testing.TB, caseID string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		e := db.OutboxEvent{ID: id, Type: "x", Payload: json.RawMessage(`{}`), CaseID: caseID}
		if caseID != "" {
			e.ConnectionID = "c" + caseID
		}
		require.NoError(t, s.Enqueue(s.ctx, e))
	}
}

// cases opens cases, each of a connection whose ID begins with c.
func (s store) cases(t testing.TB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		s.connect(t, "c"+id)
		s.open(t, "c"+id, id, t0)
	}
}

func TestOutbox(t *testing.T) {
	s := newStore(t)
	s.SetNow(func() time.Time { return t0 })
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	payload := json.RawMessage(`{"b":  1, "a": "é\\u0000\u003c", "b": 2}`) // kept to the byte, even where JSON would not care
	one := db.OutboxEvent{ID: "1", Type: "case.opened", Payload: payload, ConnectionID: "c1", CaseID: "k1", Recipients: pq.StringArray{"p1", "p2"}}
	two := db.OutboxEvent{ID: "2", Type: "ping", Payload: json.RawMessage(`{}`), Recipients: pq.StringArray{}}
	require.NoError(t, s.Enqueue(s.ctx, one))
	require.NoError(t, s.Enqueue(s.ctx, two))
	again := one
	again.Payload = json.RawMessage(`{"late": true}`)
	require.NoError(t, s.Enqueue(s.ctx, again))

	one.Attempts, one.CreatedAt, one.QueuedAt = 1, t0, t0
	two.Attempts, two.CreatedAt, two.QueuedAt = 1, t0, t0
	assert.Empty(t, s.claim(t, t0, 10), "due by the real clock, not by that of the cases")
	now := soon()
	assert.Equal(t, []db.OutboxEvent{one}, s.claim(t, now, 1))
	assert.Equal(t, []db.OutboxEvent{two}, s.claim(t, now, 10))
	assert.Empty(t, s.claim(t, now, 10), "both are leased")

	// Nobody said what became of them: they are due again when the lease is over.
	now = now.Add(time.Minute)
	one.Attempts, two.Attempts = 2, 2
	assert.Equal(t, []db.OutboxEvent{one, two}, s.claim(t, now, 10))

	require.NoError(t, s.Delivered(s.ctx, "1", now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "1", now, now, "late"))
	require.NoError(t, s.DeliveryFailed(s.ctx, "2", now, now.Add(time.Hour), "500 for anna@example.com"))
	assert.Equal(t, 1, s.count(t, "outbox WHERE last_error = '500 for [address]'"))
	now = now.Add(59 * time.Minute)
	assert.Empty(t, s.claim(t, now, 10))
	now = now.Add(time.Minute)
	two.Attempts = 3
	assert.Equal(t, []db.OutboxEvent{two}, s.claim(t, now, 10))
	require.NoError(t, s.DeliveryFailed(s.ctx, "2", now, time.Time{}, "410"))
	require.NoError(t, s.Delivered(s.ctx, "2", now))
	assert.Equal(t, 1, s.count(t, "outbox WHERE abandoned_at IS NOT NULL AND delivered_at IS NULL AND last_error = '410'"))
	now = now.Add(1000 * time.Hour)
	assert.Empty(t, s.claim(t, now, 10))

	for name, e := range map[string]db.OutboxEvent{
		"an unknown connection": {ID: "3", Type: "x", Payload: payload, ConnectionID: "c2"},
		"an unknown case":       {ID: "3", Type: "x", Payload: payload, ConnectionID: "c1", CaseID: "k2"},
	} {
		require.ErrorIs(t, s.Enqueue(s.ctx, e), db.ErrNotFound, name)
	}
	require.Error(t, s.Enqueue(s.ctx, db.OutboxEvent{ID: "3", Type: "x", Payload: json.RawMessage(`{`)}))
	err := s.Enqueue(s.ctx, db.OutboxEvent{ID: "3", Type: "x", Payload: payload, Recipients: pq.StringArray{"anna@example.com"}})
	require.ErrorContains(t, err, "outbox_recipients_form")
	assert.NotContains(t, err.Error(), "anna")
}

func TestOutboxKeepsTheOrderOfACase(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	s.enqueue(t, "k1", "a1", "a2", "a3")
	s.enqueue(t, "k2", "b1", "b2")
	s.enqueue(t, "", "x1", "x2")
	now := soon()
	assert.Equal(t, []string{"a1", "b1", "x1", "x2"}, s.claimIDs(t, now), "one of each case, and all that belong to none")
	assert.Empty(t, s.claimIDs(t, now))

	// What fails holds up its own case, and no other.
	require.NoError(t, s.DeliveryFailed(s.ctx, "a1", now, now.Add(time.Hour), "500"))
	require.NoError(t, s.Delivered(s.ctx, "b1", now))
	assert.Equal(t, []string{"b2"}, s.claimIDs(t, now))
	require.NoError(t, s.Delivered(s.ctx, "b2", now))
	s.enqueue(t, "k2", "b3")
	assert.Equal(t, []string{"b3"}, s.claimIDs(t, now), "nothing waits before it")

	// What is said of an event twice, or of one whose turn has not come, changes
	// nothing for the others.
	require.NoError(t, s.Delivered(s.ctx, "b1", now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "a2", now, now, "odd"))
	assert.Empty(t, s.claimIDs(t, now))

	// Given up, it lets the next one pass.
	now = now.Add(time.Hour)
	require.NoError(t, s.Delivered(s.ctx, "b3", now))
	require.NoError(t, s.Delivered(s.ctx, "x1", now))
	require.NoError(t, s.Delivered(s.ctx, "x2", now))
	assert.Equal(t, []string{"a1"}, s.claimIDs(t, now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "a1", now, time.Time{}, "500"))
	assert.Equal(t, []string{"a2"}, s.claimIDs(t, now))

	// An end of one that waits behind another leaves the turn where it is.
	require.NoError(t, s.DeliveryFailed(s.ctx, "a3", now, time.Time{}, "never"))
	assert.Empty(t, s.claimIDs(t, now))
	require.NoError(t, s.Delivered(s.ctx, "a2", now))
	assert.Empty(t, s.claimIDs(t, now.Add(1000*time.Hour)))

	// Past this package, too, no two events of a case can be on their way.
	s.enqueue(t, "k1", "a4", "a5")
	_, err := s.raw.Exec(`UPDATE outbox SET due_at = now() WHERE event_id = 'a5'`)
	require.ErrorContains(t, err, "outbox_one_turn_per_case")
	_, err = s.raw.Exec(`UPDATE outbox SET due_at = NULL WHERE event_id = 'x1'`)
	require.ErrorContains(t, err, "outbox_only_cases_wait_in_line")
}

// While many enqueue and many deliver, each event is in one pair of hands at a
// time, those of a case leave in their order, and none is left behind.
func TestOutboxAmongMany(t *testing.T) {
	s := newStore(t)
	const cases, writers, perWriter, couriers = 3, 6, 20, 4
	for i := range cases {
		s.cases(t, fmt.Sprint("k", i))
	}
	var writing atomic.Int32
	writing.Store(writers)
	var mu sync.Mutex
	flying, last, arrived := map[string]bool{}, map[string]int{}, 0
	seqOf := func(id string) (seq int) {
		assert.NoError(t, s.raw.Get(&seq, `SELECT seq FROM outbox WHERE event_id = $1`, id))
		return seq
	}
	together(writers+couriers, func(i int) {
		if i < writers {
			defer writing.Add(-1)
			for n := range perWriter {
				k := fmt.Sprint("k", n%cases)
				if !assert.NoError(t, s.Enqueue(s.ctx, db.OutboxEvent{
					ID: fmt.Sprint(k, "-", i, "-", n), Type: "x", Payload: json.RawMessage(`{}`), ConnectionID: "c" + k, CaseID: k,
				})) {
					return
				}
			}
			return
		}
		for {
			over := writing.Load() == 0 // before looking
			list, err := s.ClaimOutbox(s.ctx, soon(), 2, time.Hour)
			if !assert.NoError(t, err) {
				return
			}
			mu.Lock()
			some := len(flying) > 0
			for _, e := range list {
				assert.False(t, flying[e.CaseID], "two of case %s", e.CaseID)
				flying[e.CaseID] = true
				seq := seqOf(e.ID)
				assert.Greater(t, seq, last[e.CaseID], "an earlier one of case %s came to light later", e.CaseID)
				last[e.CaseID] = seq
			}
			mu.Unlock()
			for _, e := range list {
				mu.Lock()
				delete(flying, e.CaseID)
				arrived++
				mu.Unlock()
				if !assert.NoError(t, s.Delivered(s.ctx, e.ID, time.Now())) {
					return
				}
			}
			if len(list) == 0 && over && !some {
				return
			}
		}
	})
	assert.Zero(t, s.count(t, "outbox WHERE delivered_at IS NULL"), "none waits forever")
	assert.Equal(t, writers*perWriter, arrived, "each was taken once")
}

// Transactions that tell of the same cases in another order do not stop each other.
func TestOutboxWithoutDeadlock(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	together(8, func(i int) {
		for n := range 25 {
			pair := []db.OutboxEvent{
				{ID: fmt.Sprint("a", i, "-", n), Type: "x", Payload: json.RawMessage(`{}`), ConnectionID: "ck1", CaseID: "k1"},
				{ID: fmt.Sprint("b", i, "-", n), Type: "x", Payload: json.RawMessage(`{}`), ConnectionID: "ck2", CaseID: "k2"},
			}
			if i%2 == 0 {
				pair[0], pair[1] = pair[1], pair[0]
			}
			assert.NoError(t, s.EnqueueTogether(s.ctx, pair...))
		}
	})
	assert.Equal(t, 400, s.count(t, "outbox"))
	assert.Equal(t, 2, s.count(t, "outbox WHERE due_at IS NOT NULL"))
}

// With a hundred thousand events that wait, most of them behind another one or
// for a later attempt, taking some reads no more than these.
func TestClaimOutboxIsCheap(t *testing.T) {
	s := newStore(t)
	_, err := s.raw.ExecContext(s.ctx, `
WITH one AS (
    INSERT INTO connections (connection_id, provider, application, status, created_at, updated_at)
    SELECT 'c' || i, 'finch', 'default', 'stale', now(), now() FROM generate_series(1, 10000) i
)
INSERT INTO cases (case_id, connection_id, provider, application, source, phase, opened_at)
SELECT 'k' || i, 'c' || i, 'finch', 'default', 'sweep', 'confirming', now() FROM generate_series(1, 10000) i`)
	require.NoError(t, err)
	_, err = s.raw.ExecContext(s.ctx, `
INSERT INTO outbox (event_id, type, payload, connection_id, case_id, created_at, due_at)
SELECT i || '-' || n, 'x', '{}', 'c' || i, 'k' || i, now(), CASE WHEN n = 1 THEN now() + CASE WHEN i % 2 = 0 THEN interval '1 h' ELSE '0 s' END END
  FROM generate_series(1, 10) n, generate_series(1, 10000) i`)
	require.NoError(t, err)
	_, err = s.raw.ExecContext(s.ctx, `ANALYZE outbox`)
	require.NoError(t, err)
	require.Equal(t, 100_000, s.count(t, "outbox"))

	now := soon()
	require.Len(t, s.claim(t, now, 8), 8)
	tx, err := s.raw.BeginTxx(s.ctx, nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	var plan []byte
	require.NoError(t, tx.GetContext(s.ctx, &plan, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+db.ClaimStatement(), now, 8, now.Add(time.Minute), false, "", pq.StringArray{}))
	assert.Contains(t, string(plan), `"outbox_due"`)
	assert.NotContains(t, string(plan), `"Seq Scan"`)
	var parsed []struct {
		Plan struct {
			Hit    int `json:"Shared Hit Blocks"`
			Read   int `json:"Shared Read Blocks"`
			Actual int `json:"Actual Rows"`
		}
	}
	require.NoError(t, json.Unmarshal(plan, &parsed))
	assert.Equal(t, 8, parsed[0].Plan.Actual)
	assert.Less(t, parsed[0].Plan.Hit+parsed[0].Plan.Read, 400, "pages, of some thousand")
}

func TestOverdueOutbox(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	s.enqueue(t, "k1", "a1", "a2")
	s.enqueue(t, "k2", "b1")
	s.enqueue(t, "", "x1", "x2", "x3")
	now := soon()
	overdue := func(at, before time.Time, limit int) []string {
		t.Helper()
		ids, err := s.OverdueOutbox(s.ctx, at, before, limit)
		require.NoError(t, err)
		return ids
	}
	assert.Equal(t, []string{"a1", "b1", "x1", "x2", "x3"}, overdue(now, now, 10), "a2 has no turn yet")
	assert.Equal(t, []string{"a1", "b1"}, overdue(now, now, 2))
	assert.Empty(t, overdue(now, time.Now().Add(-time.Hour), 10), "none is that old")
	require.NoError(t, s.DeliveryFailed(s.ctx, "a1", now, now.Add(time.Hour), "500"))
	require.NoError(t, s.DeliveryFailed(s.ctx, "b1", now, time.Time{}, "500"))
	require.NoError(t, s.Delivered(s.ctx, "x1", now))
	assert.Equal(t, []string{"x2", "x3"}, overdue(now, now, 10))
	_, err := s.ReplayOutbox(s.ctx, db.OutboxFilter{ID: "x2"}, now)
	require.NoError(t, err)
	assert.Equal(t, []string{"x3"}, overdue(now, now, 10), "the time counts anew when an event was replayed")
}

func TestOutboxLists(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	hour := func(h int) time.Time { return t0.Add(time.Duration(h) * time.Hour) }
	for i, e := range []db.OutboxEvent{
		{ID: "1", Type: "opened", ConnectionID: "ck1", CaseID: "k1"},
		{ID: "2", Type: "opened", ConnectionID: "ck2", CaseID: "k2", Recipients: pq.StringArray{"p1"}},
		{ID: "3", Type: "closed", ConnectionID: "ck1", CaseID: "k1"},
		{ID: "4", Type: "ping"},
	} {
		s.SetNow(func() time.Time { return hour(i) })
		e.Payload = json.RawMessage(`{}`)
		require.NoError(t, s.Enqueue(s.ctx, e))
	}
	now := soon()
	require.Len(t, s.claim(t, now, 10), 3)
	require.NoError(t, s.Delivered(s.ctx, "2", now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "1", now, now.Add(time.Hour), "the receiver answered 500"))
	require.NoError(t, s.DeliveryFailed(s.ctx, "4", now, time.Time{}, "the receiver answered 400"))

	list, err := s.Outbox(s.ctx, db.OutboxFilter{}, 0)
	require.NoError(t, err)
	due := now.Add(time.Hour)
	assert.Equal(t, []db.OutboxRow{
		{OutboxEvent: db.OutboxEvent{ID: "4", Type: "ping", Payload: []byte(`{}`), Recipients: pq.StringArray{}, Attempts: 1, CreatedAt: hour(3), QueuedAt: hour(3)},
			State: db.OutboxAbandoned, DueAt: &[]time.Time{now.Add(time.Minute)}[0], AbandonedAt: &now, LastError: "the receiver answered 400"},
		{OutboxEvent: db.OutboxEvent{ID: "3", Type: "closed", Payload: []byte(`{}`), ConnectionID: "ck1", CaseID: "k1", Recipients: pq.StringArray{}, CreatedAt: hour(2), QueuedAt: hour(2)},
			State: db.OutboxWaiting},
		{OutboxEvent: db.OutboxEvent{ID: "2", Type: "opened", Payload: []byte(`{}`), ConnectionID: "ck2", CaseID: "k2", Recipients: pq.StringArray{"p1"}, Attempts: 1, CreatedAt: hour(1), QueuedAt: hour(1)},
			State: db.OutboxDelivered, DueAt: &[]time.Time{now.Add(time.Minute)}[0], DeliveredAt: &now},
		{OutboxEvent: db.OutboxEvent{ID: "1", Type: "opened", Payload: []byte(`{}`), ConnectionID: "ck1", CaseID: "k1", Recipients: pq.StringArray{}, Attempts: 1, CreatedAt: hour(0), QueuedAt: hour(0)},
			State: db.OutboxWaiting, DueAt: &due, LastError: "the receiver answered 500"},
	}, list)

	for name, test := range map[string]struct {
		filter db.OutboxFilter
		limit  int
		want   []string
	}{
		"all":          {db.OutboxFilter{}, 0, []string{"4", "3", "2", "1"}},
		"the newest":   {db.OutboxFilter{}, 2, []string{"4", "3"}},
		"one":          {db.OutboxFilter{ID: "3"}, 0, []string{"3"}},
		"a case":       {db.OutboxFilter{CaseID: "k1"}, 0, []string{"3", "1"}},
		"a connection": {db.OutboxFilter{ConnectionID: "ck2"}, 0, []string{"2"}},
		"a type":       {db.OutboxFilter{Type: "opened"}, 0, []string{"2", "1"}},
		"waiting":      {db.OutboxFilter{State: db.OutboxWaiting}, 0, []string{"3", "1"}},
		"delivered":    {db.OutboxFilter{State: db.OutboxDelivered}, 0, []string{"2"}},
		"abandoned":    {db.OutboxFilter{State: db.OutboxAbandoned}, 0, []string{"4"}},
		"since":        {db.OutboxFilter{Since: hour(2)}, 0, []string{"4", "3"}},
		"until":        {db.OutboxFilter{Until: hour(2)}, 0, []string{"2", "1"}},
		"both":         {db.OutboxFilter{Type: "opened", Since: hour(1), Until: hour(3)}, 0, []string{"2"}},
		"none":         {db.OutboxFilter{CaseID: "k3"}, 0, nil},
	} {
		list, err := s.Outbox(s.ctx, test.filter, test.limit)
		require.NoError(t, err, name)
		var ids []string
		for _, row := range list {
			ids = append(ids, row.ID)
		}
		assert.Equal(t, test.want, ids, name)
	}
}

func TestReplayOutbox(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	now := soon()
	replay := func(filter db.OutboxFilter) int {
		t.Helper()
		n, err := s.ReplayOutbox(s.ctx, filter, now)
		require.NoError(t, err)
		return n
	}
	s.enqueue(t, "k1", "a1", "a2", "a3")
	s.enqueue(t, "k2", "b1")
	s.enqueue(t, "", "x1")
	for _, want := range [][]string{{"a1", "b1", "x1"}, {"a2"}} {
		assert.Equal(t, want, s.claimIDs(t, now))
		for _, id := range want {
			require.NoError(t, s.Delivered(s.ctx, id, now))
		}
	}
	require.Equal(t, []string{"a3"}, s.claimIDs(t, now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "a3", now, time.Time{}, "500"))

	// What was given up, what was delivered, and what belongs to no case.
	assert.Equal(t, 1, replay(db.OutboxFilter{State: db.OutboxAbandoned}))
	list := s.claim(t, now, 10)
	require.Len(t, list, 1)
	assert.Equal(t, "a3", list[0].ID)
	assert.Equal(t, 1, list[0].Attempts, "counted anew")
	assert.Equal(t, now, list[0].QueuedAt, "and so is its time")
	assert.NotEqual(t, now, list[0].CreatedAt)
	require.NoError(t, s.Delivered(s.ctx, "a3", now))
	assert.Zero(t, replay(db.OutboxFilter{State: db.OutboxAbandoned}))
	assert.Equal(t, 1, replay(db.OutboxFilter{ID: "x1"}))
	assert.Equal(t, []string{"x1"}, s.claimIDs(t, now))
	require.NoError(t, s.Delivered(s.ctx, "x1", now))

	// A whole case, in its order.
	assert.Equal(t, 3, replay(db.OutboxFilter{CaseID: "k1"}))
	for _, id := range []string{"a1", "a2", "a3"} {
		assert.Equal(t, []string{id}, s.claimIDs(t, now))
		require.NoError(t, s.Delivered(s.ctx, id, now))
	}

	// An earlier one goes before what waits, even if that is on its way; what
	// becomes of the latter then changes nothing of the order.
	s.enqueue(t, "k1", "a4", "a5")
	assert.Equal(t, []string{"a4"}, s.claimIDs(t, now))
	assert.Equal(t, 1, replay(db.OutboxFilter{ID: "a2"}))
	assert.Equal(t, []string{"a2"}, s.claimIDs(t, now))
	require.NoError(t, s.DeliveryFailed(s.ctx, "a4", now, now, "500"))
	assert.Empty(t, s.claimIDs(t, now))
	require.NoError(t, s.Delivered(s.ctx, "a2", now))
	assert.Equal(t, []string{"a4"}, s.claimIDs(t, now))

	// A later one leaves the turn, and how long it waits, where they are.
	require.NoError(t, s.DeliveryFailed(s.ctx, "a4", now, now.Add(time.Hour), "500"))
	assert.Equal(t, 1, replay(db.OutboxFilter{ID: "a5"}))
	assert.Empty(t, s.claimIDs(t, now))
	assert.Equal(t, 1, replay(db.OutboxFilter{ID: "a4"}), "which is due at once if it is itself replayed")
	assert.Equal(t, []string{"a4"}, s.claimIDs(t, now))

	_, err := s.ReplayOutbox(s.ctx, db.OutboxFilter{}, now)
	require.EqualError(t, err, "replay events: the filter must choose some")
	assert.Zero(t, replay(db.OutboxFilter{ID: "a9"}))
}

// More than one transaction holds, over many cases, while others deliver.
func TestReplayOutboxOfMany(t *testing.T) {
	s := newStore(t)
	const perCase = 15
	names := make([]string, 40)
	for i := range names {
		names[i] = fmt.Sprintf("k%02d", i)
	}
	s.cases(t, names...)
	for n := range perCase {
		for _, name := range names {
			s.enqueue(t, name, fmt.Sprintf("%s-%02d", name, n))
		}
	}
	_, err := s.raw.Exec(`UPDATE outbox SET delivered_at = now()`)
	require.NoError(t, err)
	require.Greater(t, perCase*len(names), 2*db.ReplayBatch)

	done := make(chan struct{})
	var mu sync.Mutex
	order := map[string][]string{}
	drain := func(ctx context.Context, at time.Time) (n int, err error) {
		list, err := s.ClaimOutbox(ctx, at, 1+rand.IntN(20), time.Hour)
		for _, e := range list {
			mu.Lock()
			order[e.CaseID] = append(order[e.CaseID], e.ID)
			mu.Unlock()
			if err := s.Delivered(ctx, e.ID, at); err != nil {
				return n, err
			}
		}
		return len(list), err
	}
	var couriers sync.WaitGroup
	for range 3 {
		couriers.Go(func() {
			for over := false; ; {
				select {
				case <-done:
					over = true
				default:
				}
				n, err := drain(s.ctx, soon())
				if !assert.NoError(t, err) || over && n == 0 {
					return
				}
			}
		})
	}
	n, err := s.ReplayOutbox(s.ctx, db.OutboxFilter{Type: "x"}, time.Now())
	close(done)
	couriers.Wait()
	require.NoError(t, err)
	assert.Equal(t, perCase*len(names), n)
	assert.Zero(t, s.count(t, "outbox WHERE delivered_at IS NULL"), "none waits forever")
	for _, name := range names {
		assert.Len(t, order[name], perCase, name)
		assert.IsIncreasing(t, order[name], name)
	}
}

// An event that is replayed while the one before it arrives is not left behind.
func TestReplayOutboxAmidDeliveries(t *testing.T) {
	s := newStore(t)
	s.cases(t, "k1", "k2")
	for _, k := range []string{"k1", "k2"} {
		s.enqueue(t, k, k+"-1", k+"-2", k+"-3")
	}
	const operators, rounds, couriers = 3, 40, 3
	var replaying atomic.Int32
	replaying.Store(operators)
	together(operators+couriers, func(i int) {
		if i < operators {
			defer replaying.Add(-1)
			for n := range rounds {
				_, err := s.ReplayOutbox(s.ctx, db.OutboxFilter{ID: fmt.Sprintf("k%d-%d", 1+n%2, 1+rand.IntN(3))}, time.Now())
				if !assert.NoError(t, err) {
					return
				}
			}
			return
		}
		for {
			over := replaying.Load() == 0
			list, err := s.ClaimOutbox(s.ctx, soon(), 2, time.Hour)
			if !assert.NoError(t, err) || over && len(list) == 0 {
				return
			}
			for _, e := range list {
				assert.NoError(t, s.Delivered(s.ctx, e.ID, time.Now()))
			}
		}
	})
	for range 6 { // what the last replays made due, one after the other
		for _, e := range s.claim(t, soon(), 10) {
			require.NoError(t, s.Delivered(s.ctx, e.ID, time.Now()))
		}
	}
	assert.Zero(t, s.count(t, "outbox WHERE delivered_at IS NULL"), "none waits forever")
}
