package db_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
)

// hands is a clock that is moved by hand.
type hands struct {
	mu  sync.Mutex
	now time.Time
}

func (h *hands) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hands) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// line is a limiter and its clock.
type line struct {
	store
	*db.FinchLimiter
	clock *hands
	t     *testing.T
}

func newLine(t *testing.T, limits string) *line {
	s, clock := newStore(t), &hands{now: t0}
	return &line{s, s.FinchLimiter(parse(t, limits)).WithClock(clock.Now), clock, t}
}

func parse(t *testing.T, limits string) finch.Limits {
	t.Helper()
	parsed, err := finch.ParseLimits(limits)
	require.NoError(t, err)
	return parsed
}

func callOf(p finch.Priority, waiter string) finch.Call {
	return finch.Call{Application: "default", Endpoint: "introspect", Priority: p, Waiter: waiter}
}

func (l *line) ask(c finch.Call) finch.Room {
	l.t.Helper()
	room, err := l.Ask(l.ctx, c)
	require.NoError(l.t, err)
	return room
}

// took asks and reports whether there was room.
func (l *line) took(p finch.Priority, waiter string) bool {
	l.t.Helper()
	return l.ask(callOf(p, waiter)).Granted
}

func (l *line) fill(n int) {
	l.t.Helper()
	for i := range n {
		require.True(l.t, l.took(finch.PriorityVerify, fmt.Sprint("filler", i)))
	}
}

// However many ask at once, through whichever process, no rolling minute has
// more than twenty.
func TestNoRollingMinuteHasMoreThanTwenty(t *testing.T) {
	address, clock := pgtest.URL(t), &hands{now: t0}
	var limiters []*db.FinchLimiter
	for range 2 {
		limiters = append(limiters, openStore(t, address).FinchLimiter(finch.DefaultLimits()).WithClock(clock.Now))
	}
	ctx := background(t)
	var mu sync.Mutex
	var granted []time.Time
	for step := range 50 {
		together(12, func(i int) {
			c := callOf(finch.Priority(i%5), fmt.Sprint("w", i))
			room, err := limiters[i%2].Ask(ctx, c)
			if assert.NoError(t, err) && room.Granted {
				mu.Lock()
				defer mu.Unlock()
				granted = append(granted, clock.Now())
			}
		})
		clock.pass(time.Duration(700+step*83) * time.Millisecond)
	}
	slices.SortFunc(granted, time.Time.Compare)
	most := 0
	for i, from := range granted {
		n := 0
		for _, at := range granted[i:] {
			if at.Before(from.Add(time.Minute)) {
				n++
			}
		}
		most = max(most, n)
	}
	assert.LessOrEqual(t, most, 20)
	minutes := clock.Now().Sub(t0).Minutes()
	t.Logf("%d calls granted in %.1f minutes; at most %d in any rolling minute", len(granted), minutes, most)
	assert.Greater(t, float64(len(granted)), 0.9*20*(minutes-1), "and the room is used")
}

// The last room goes to the most urgent who waits, whoever asks first.
func TestTheMostUrgentGoesFirst(t *testing.T) {
	l := newLine(t, "20/1m")
	l.fill(20)
	order := []finch.Priority{finch.PriorityImport, finch.PrioritySweep, finch.PriorityLook, finch.PriorityConfirm, finch.PriorityVerify}
	for _, p := range order { // the least urgent asks first
		room := l.ask(callOf(p, "a"))
		require.False(t, room.Granted)
		require.Positive(t, room.Again)
	}
	require.False(t, l.took(finch.PriorityConfirm, "b"))
	l.clock.pass(time.Minute - time.Second) // nearly
	for _, p := range order {
		l.ask(callOf(p, "a"))
	}
	l.ask(callOf(finch.PriorityConfirm, "b"))
	l.clock.pass(2 * time.Second) // the twenty of before have left the minute together

	l.fill(16) // those who are new and as urgent as the first; four are left
	assert.False(t, l.took(finch.PrioritySweep, "a"), "it would take what others wait for")
	assert.False(t, l.took(finch.PriorityImport, "a"))
	assert.True(t, l.took(finch.PriorityLook, "a"), "the one that none of the three ahead needs")
	assert.False(t, l.took(finch.PriorityLook, "b"))
	assert.False(t, l.took(finch.PriorityConfirm, "c"), "who comes last goes last")
	assert.True(t, l.took(finch.PriorityConfirm, "b"), "there is room enough for both ahead and for b")
	assert.True(t, l.took(finch.PriorityConfirm, "a"))
	assert.False(t, l.took(finch.PriorityConfirm, "c"), "the last one is kept")
	assert.True(t, l.took(finch.PriorityVerify, "a"))
}

// Each is told when: the k-th in the line when the k-th call of before leaves
// the window.
func TestWhoWaitsIsToldWhen(t *testing.T) {
	l := newLine(t, "4/1m")
	for i := range 4 {
		require.True(t, l.took(finch.PriorityVerify, fmt.Sprint(i)))
		l.clock.pass(10 * time.Second)
	}
	const window = time.Minute + time.Minute/120
	for k := range 4 {
		room := l.ask(callOf(finch.PriorityConfirm, fmt.Sprint("w", k)))
		require.False(t, room.Granted)
		want := t0.Add(time.Duration(k)*10*time.Second + window)
		assert.Equal(t, want, room.Until)
		assert.Equal(t, want.Sub(l.clock.Now()), room.Again)
	}
	fifth := l.ask(callOf(finch.PriorityConfirm, "w5"))
	assert.True(t, fifth.Until.After(t0.Add(30*time.Second+window)), "after all that is in the window")
	first := l.ask(callOf(finch.PriorityVerify, "late"))
	assert.Equal(t, t0.Add(window), first.Until, "who is more urgent is first")
	l.clock.pass(21 * time.Second)
	assert.False(t, l.took(finch.PriorityConfirm, "w0"))
	assert.True(t, l.took(finch.PriorityVerify, "late"))
}

func TestAKilledWaiterIsForgotten(t *testing.T) {
	l := newLine(t, "20/1m")
	l.fill(20)
	killed := l.ask(callOf(finch.PriorityVerify, "killed"))
	require.False(t, killed.Granted)
	l.clock.pass(killed.Again)
	l.fill(19)
	require.False(t, l.took(finch.PriorityConfirm, "alive"), "the last one is kept for who was to come")
	l.clock.pass(6 * time.Second)
	require.True(t, l.took(finch.PriorityConfirm, "alive"))
	assert.Zero(t, l.count(t, `finch_waits`), "and nothing of it is left")
}

func TestALeavingWaiterMakesRoomAtOnce(t *testing.T) {
	l := newLine(t, "1/1m")
	l.fill(1)
	require.False(t, l.took(finch.PriorityVerify, "a"))
	l.clock.pass(61 * time.Second)
	require.False(t, l.took(finch.PriorityLook, "b"))
	require.NoError(t, l.Leave(l.ctx, callOf(finch.PriorityVerify, "a")))
	require.True(t, l.took(finch.PriorityLook, "b"))
}

// A sweep leaves room to people, and goes evenly, so that a person who needs
// more finds some soon.
func TestSweepsAndImportsLeaveRoom(t *testing.T) {
	l := newLine(t, "20/1m")
	sweep := func() (n int) {
		for end := l.clock.Now().Add(time.Minute); l.clock.Now().Before(end); {
			room := l.ask(callOf(finch.PrioritySweep, "s"))
			if room.Granted {
				n++
				continue
			}
			l.clock.pass(room.Again)
		}
		return n
	}
	sweep()
	used := sweep()
	assert.InDelta(t, 19, used, 1)
	require.True(t, l.took(finch.PriorityConfirm, "person"), "one is left for a person")
	more := l.ask(callOf(finch.PriorityConfirm, "another"))
	if !more.Granted {
		t.Logf("the next person waits %s", more.Again)
		assert.Less(t, more.Again, 4*time.Second)
	}
	importing := l.ask(callOf(finch.PriorityImport, "i"))
	assert.False(t, importing.Granted)
}

func TestTheLineSurvivesARestart(t *testing.T) {
	address, clock := pgtest.URL(t), &hands{now: t0}
	ctx := background(t)
	before, err := db.Open(ctx, address)
	require.NoError(t, err)
	limiter := before.FinchLimiter(parse(t, "3/1m")).WithClock(clock.Now)
	for i := range 3 {
		room, err := limiter.Ask(ctx, callOf(finch.PriorityLook, fmt.Sprint(i)))
		require.NoError(t, err)
		require.True(t, room.Granted)
	}
	require.NoError(t, limiter.Refused(ctx, finch.Call{Application: "other", Endpoint: "company"}, time.Hour, false))
	require.NoError(t, before.Close())

	l := line{openStore(t, address), nil, clock, t}
	l.FinchLimiter = l.store.FinchLimiter(parse(t, "3/1m")).WithClock(clock.Now)
	assert.False(t, l.took(finch.PriorityVerify, "x"))
	assert.False(t, l.ask(finch.Call{Application: "other", Endpoint: "company", Waiter: "y"}).Granted)
	assert.True(t, l.ask(finch.Call{Application: "other", Endpoint: "introspect", Waiter: "y"}).Granted)
}

func TestFinchsOwnRefusals(t *testing.T) {
	l := newLine(t, "20/1m")
	code := finch.Call{Application: "default", Endpoint: finch.EndpointToken, Waiter: "code"}
	other := finch.Call{Application: "sandbox", Endpoint: "introspect", Waiter: "o"}

	require.NoError(t, l.Refused(l.ctx, callOf(finch.PriorityLook, ""), 42*time.Second, false))
	room := l.ask(callOf(finch.PriorityVerify, "v"))
	assert.Equal(t, 42*time.Second, room.Again)
	assert.Equal(t, t0.Add(42*time.Second), room.Until)
	assert.True(t, l.ask(other).Granted, "another application's")
	assert.True(t, l.ask(code).Granted, "another endpoint")
	require.NoError(t, l.Refused(l.ctx, callOf(finch.PriorityLook, ""), time.Second, false))
	assert.Equal(t, 42*time.Second, l.ask(callOf(finch.PriorityVerify, "v")).Again, "a shorter one changes nothing")
	l.clock.pass(42 * time.Second)
	assert.True(t, l.took(finch.PriorityVerify, "v"))

	require.NoError(t, l.Refused(l.ctx, callOf(finch.PriorityLook, ""), 0, false))
	assert.Equal(t, 15*time.Second, l.ask(callOf(finch.PriorityVerify, "v")).Again, "Finch did not say how long")
	l.clock.pass(time.Minute)

	require.NoError(t, l.Refused(l.ctx, callOf(finch.PriorityLook, ""), 0, true))
	for _, c := range []finch.Call{callOf(finch.PriorityVerify, "v"), other, code} {
		room := l.ask(c)
		assert.False(t, room.Granted, "%v", c)
		assert.Equal(t, l.clock.Now().Add(5*time.Minute), room.Until)
		assert.Equal(t, 2*time.Minute, room.Again, "but it asks again before")
	}
	l.clock.pass(5 * time.Minute)
	assert.True(t, l.ask(code).Granted)
}

// No guess of ours holds up a code, nor a session, but that of all calls does
// hold up a session.
func TestCodesNeverWaitForAGuess(t *testing.T) {
	l := newLine(t, "1/1m ip=3/5m")
	call := func(endpoint, waiter string) bool {
		return l.ask(finch.Call{Application: "default", Endpoint: endpoint, Waiter: waiter}).Granted
	}
	assert.True(t, call("introspect", "a"))
	assert.True(t, call("connect/sessions/reauthenticate", "b"))
	assert.True(t, call("connect/sessions/reauthenticate", "c"))
	assert.False(t, call("connect/sessions/reauthenticate", "d"), "a thousand in five minutes, or nothing for an hour")
	for i := range 5 {
		assert.True(t, call(finch.EndpointToken, fmt.Sprint("code", i)))
	}
	assert.False(t, l.ask(finch.Call{Application: "sandbox", Endpoint: "company", Waiter: "e"}).Granted, "it is one IP address")
	l.clock.pass(5*time.Minute + 3*time.Second)
	assert.True(t, call("connect/sessions/reauthenticate", "d"))
}

func TestTheUseOfTheLimit(t *testing.T) {
	l := newLine(t, "20/1m")
	l.fill(20)
	l.took(finch.PriorityLook, "w")
	require.True(t, l.ask(finch.Call{Application: "sandbox", Endpoint: finch.EndpointToken, Waiter: "c"}).Granted)
	use, err := l.Use(l.ctx)
	require.NoError(t, err)
	require.Len(t, use, 2)
	assert.Equal(t, db.FinchUse{Application: "default", Endpoint: "introspect", Used: 20, Limit: finch.Limit{Calls: 20, Window: time.Minute}, Waiting: 1}, use[0])
	assert.InDelta(t, 1, use[0].Share(), 0.001)
	assert.Zero(t, use[1].Share())

	// The tables stay small: what is over goes with the next call.
	l.clock.pass(10 * time.Minute)
	l.fill(1)
	assert.Equal(t, 1, l.count(t, `finch_calls`))
	assert.Zero(t, l.count(t, `finch_waits`))
}

func BenchmarkAsk(b *testing.B) {
	s := newStore(b)
	l := s.FinchLimiter(finch.Limits{Each: finch.Limit{Calls: 100_000, Window: time.Minute}})
	b.ResetTimer()
	for i := range b.N {
		if _, err := l.Ask(s.ctx, callOf(finch.PriorityLook, fmt.Sprint("w", i))); err != nil {
			b.Fatal(err)
		}
	}
}
