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

// tenAndHalf is a storm of ten connections, if they are half of all.
var tenAndHalf = db.StormRule{Count: 10, Share: 0.5, Window: 10 * time.Minute, AtMost: 2 * time.Hour}

// fleet registers connections of a system at Finch, as "Gusto-1" and on. A
// system without a name has the connections "-1" and on.
func (s store) fleet(t testing.TB, system string, n int) {
	t.Helper()
	_, err := s.raw.ExecContext(s.ctx, `
INSERT INTO connections (connection_id, provider, application, system, status, created_at, updated_at)
SELECT 'x' || $1 || '-' || i, 'finch', 'default', $1, 'connected', now(), now() FROM generate_series(1, $2::int) i`, system, n)
	require.NoError(t, err)
}

// breaks opens confirmed cases of connections of a fleet: "case of Gusto-1" and on.
func (s store) breaks(t testing.TB, system string, from, to int, at time.Time) {
	t.Helper()
	_, err := s.raw.ExecContext(s.ctx, `
INSERT INTO cases (case_id, connection_id, provider, application, source, phase, session_ordinal, opened_at)
SELECT 'case of ' || $1 || '-' || i, 'x' || $1 || '-' || i, 'finch', 'default', 'api_error', 'awaiting_customer', 1, $4
  FROM generate_series($2::int, $3::int) i`, system, from, to, at)
	require.NoError(t, err)
}

func caseOf(system string, i int) string { return fmt.Sprintf("case of %s-%d", system, i) }

func (s store) brake(t testing.TB, caseID string, at time.Time) (db.Storm, bool) {
	t.Helper()
	storm, held, err := s.Brake(s.ctx, caseID, tenAndHalf, at)
	require.NoError(t, err)
	k, err := s.CaseByID(s.ctx, caseID)
	require.NoError(t, err)
	assert.Equal(t, held, k.Held)
	if held {
		assert.Equal(t, storm.StormID, k.StormID)
	}
	return storm, held
}

// storm begins one that holds the first case of a system.
func (s store) storm(t testing.TB, system string, at time.Time) db.Storm {
	t.Helper()
	storm, held := s.brake(t, caseOf(system, 1), at)
	require.True(t, held)
	return storm
}

func (s store) over(t testing.TB, storm db.Storm, at time.Time) {
	t.Helper()
	ended, err := s.EndStorm(s.ctx, storm.StormID, "recovered", at)
	require.NoError(t, err)
	require.True(t, ended)
}

func TestWhatIsAStorm(t *testing.T) {
	type group struct {
		system      string
		connections int
		broken      int
		ago         time.Duration
		change      string // of all cases and connections
	}
	gusto := group{system: "Gusto", connections: 20, broken: 10}
	for name, test := range map[string]struct {
		groups []group
		system string // that storms
		broken int    // 0: there is no storm
		of     int
	}{
		"ten of twenty":                      {groups: []group{gusto}, system: "Gusto", broken: 10, of: 20},
		"nine of nine":                       {groups: []group{{system: "Gusto", connections: 9, broken: 9}}},
		"ten of twenty-one":                  {groups: []group{{system: "Gusto", connections: 21, broken: 10}}},
		"within the window, just":            {groups: []group{{system: "Gusto", connections: 20, broken: 10, ago: 10*time.Minute - time.Microsecond}}, system: "Gusto", broken: 10, of: 20},
		"at the window's edge":               {groups: []group{{system: "Gusto", connections: 20, broken: 10, ago: 10 * time.Minute}}},
		"one system of several":              {groups: []group{gusto, {system: "Rippling", connections: 500}}, system: "Gusto", broken: 10, of: 20},
		"one system, and a few more":         {groups: []group{gusto, {system: "Rippling", connections: 500, broken: 40}}, system: "Gusto", broken: 10, of: 20},
		"every system":                       {groups: []group{gusto, {system: "Rippling", connections: 20, broken: 10}}, broken: 20, of: 40},
		"small systems together":             {groups: []group{{system: "Gusto", connections: 5, broken: 5}, {system: "Rippling", connections: 5, broken: 5}}, broken: 10, of: 10},
		"of no known system":                 {groups: []group{{connections: 20, broken: 10}}, broken: 10, of: 20},
		"of no known system, and of another": {groups: []group{{connections: 2, broken: 1}, gusto}, broken: 11, of: 22},
		"another provider's":                 {groups: []group{gusto, {change: `UPDATE cases SET provider = 'atto' WHERE case_id <> 'case of Gusto-1'`}}},
		"their loss is not confirmed":        {groups: []group{gusto, {change: `UPDATE cases SET session_ordinal = 0`}}},
		"customers who came back":            {groups: []group{gusto, {change: `UPDATE cases SET source = 'link'`}}},
		"removed ones":                       {groups: []group{gusto, {change: `UPDATE connections SET status = 'removed' WHERE connection_id <> 'xGusto-1'`}}},
		"removed ones beside":                {groups: []group{{system: "Gusto", connections: 30, broken: 10}, {change: `UPDATE connections SET status = 'removed' WHERE connection_id IN (SELECT 'xGusto-' || i FROM generate_series(21, 30) i)`}}, system: "Gusto", broken: 10, of: 20},
		"closed ones too":                    {groups: []group{gusto, {change: `UPDATE cases SET outcome = 'healed', phase = 'closed', closed_at = opened_at WHERE case_id <> 'case of Gusto-1'`}}, system: "Gusto", broken: 10, of: 20},
		"the same one again and again": {groups: []group{{system: "Gusto", connections: 1, broken: 1}, {change: `
INSERT INTO cases (case_id, connection_id, provider, application, source, phase, outcome, session_ordinal, opened_at, closed_at)
SELECT 'k' || i, 'xGusto-1', 'finch', 'default', 'api_error', 'closed', 'healed', 1, opened_at, opened_at FROM cases, generate_series(1, 20) i`}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			for _, g := range test.groups {
				if g.change != "" {
					_, err := s.raw.ExecContext(s.ctx, g.change)
					require.NoError(t, err)
					continue
				}
				s.fleet(t, g.system, g.connections)
				s.breaks(t, g.system, 1, g.broken, t0.Add(-g.ago))
			}
			storm, held := s.brake(t, caseOf(test.groups[0].system, 1), t0)
			if test.broken == 0 {
				assert.False(t, held)
				assert.Zero(t, storm)
				assert.Zero(t, s.count(t, "storms"))
				return
			}
			require.True(t, held)
			assert.NotEmpty(t, storm.StormID)
			assert.Equal(t, db.Storm{
				StormID: storm.StormID, Provider: reauth.Finch, System: test.system, Broken: test.broken, Connections: test.of,
				BeganAt: t0, EndsAt: t0.Add(2 * time.Hour),
			}, storm)
			if test.system != "" && len(test.groups) > 1 && test.groups[1].broken > 0 {
				_, held := s.brake(t, caseOf(test.groups[1].system, 1), t0)
				assert.False(t, held, "another system is not held")
			}
		})
	}
}

func TestNoBrake(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 20)
	s.breaks(t, "Gusto", 1, 20, t0)
	for _, rule := range []db.StormRule{{}, {Count: 0, Window: time.Hour, AtMost: time.Hour}, {Count: 1, Window: time.Hour}} {
		_, held, err := s.Brake(s.ctx, caseOf("Gusto", 1), rule, t0)
		require.NoError(t, err)
		assert.False(t, held, "%+v", rule)
	}
	_, _, err := s.Brake(s.ctx, "nothing", tenAndHalf, t0)
	require.ErrorIs(t, err, db.ErrNotFound)
	s.end(t, caseOf("Gusto", 1), reauth.OutcomeHealed, t0)
	_, held := s.brake(t, caseOf("Gusto", 1), t0)
	assert.False(t, held, "a closed case has no notice to hold")
	assert.Zero(t, s.count(t, "storms"))
}

// A share of nothing, and a rule by count alone.
func TestAStormByCountAlone(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 5000)
	s.breaks(t, "Gusto", 1, 10, t0)
	rule := tenAndHalf
	rule.Share = 0
	storm, held, err := s.Brake(s.ctx, caseOf("Gusto", 1), rule, t0)
	require.NoError(t, err)
	require.True(t, held)
	assert.Equal(t, [2]int{10, 5000}, [2]int{storm.Broken, storm.Connections})
}

// However many first notices are due at once, in however many systems, one
// storm begins, and it holds them all.
func TestFiveHundredAtOnce(t *testing.T) {
	for name, systems := range map[string][]string{"one system": {"Gusto"}, "five systems": {"Gusto", "Rippling", "ADP", "Paylocity", "Zenefits"}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			each := 500 / len(systems)
			for _, system := range systems {
				s.fleet(t, system, each)
				s.breaks(t, system, 1, each, t0)
			}
			var mu sync.Mutex
			storms := map[string]int{}
			together(500, func(i int) {
				storm, held, err := s.Brake(s.ctx, caseOf(systems[i%len(systems)], i/len(systems)+1), tenAndHalf, t0)
				if assert.NoError(t, err) && assert.True(t, held) {
					mu.Lock()
					defer mu.Unlock()
					storms[storm.StormID]++
				}
			})
			require.Len(t, storms, 1)
			list, err := s.Storms(s.ctx, 0)
			require.NoError(t, err)
			require.Len(t, list, 1)
			assert.Equal(t, map[string]int{list[0].StormID: 500}, storms)
			assert.Equal(t, [3]int{500, 500, 0}, [3]int{list[0].Held, list[0].Waiting, list[0].Restored})
		})
	}
}

// Whoever comes while it rages joins, also those who alone would be none.
func TestAStormIsJoined(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 40)
	s.fleet(t, "Rippling", 100)
	s.breaks(t, "Gusto", 1, 20, t0)
	storm := s.storm(t, "Gusto", t0)
	s.breaks(t, "Gusto", 21, 21, t0.Add(time.Hour))
	joined, held := s.brake(t, caseOf("Gusto", 21), t0.Add(time.Hour))
	assert.True(t, held)
	assert.Equal(t, storm, joined)
	again, held := s.brake(t, caseOf("Gusto", 1), t0.Add(time.Hour))
	assert.True(t, held, "asked again, it holds still")
	assert.Equal(t, storm, again)

	// What it holds makes no second one of the whole provider.
	s.breaks(t, "Rippling", 1, 49, t0.Add(time.Minute))
	_, held = s.brake(t, caseOf("Rippling", 1), t0.Add(time.Minute))
	assert.False(t, held)
	assert.Equal(t, 1, s.count(t, "storms"))
}

func TestAStormOfTheProviderHoldsEverySystem(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "", 10)
	s.fleet(t, "Gusto", 40)
	s.breaks(t, "", 1, 10, t0)
	s.breaks(t, "Gusto", 1, 20, t0)
	storm := s.storm(t, "", t0)
	assert.Empty(t, storm.System)
	joined, held := s.brake(t, caseOf("Gusto", 1), t0)
	assert.True(t, held)
	assert.Equal(t, storm.StormID, joined.StormID)
	assert.Equal(t, 1, s.count(t, "storms"))
}

// After its end only what breaks then can be a storm again, in whatever scope.
func TestAfterAStorm(t *testing.T) {
	for name, test := range map[string]struct {
		first  string // the system whose case begins it
		system string // of the storm
	}{
		"of a system":           {first: "Gusto", system: "Gusto"},
		"of the whole provider": {first: "", system: ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.fleet(t, "Gusto", 40)
			if test.first == "" {
				s.fleet(t, "", 1)
				s.breaks(t, "", 1, 1, t0)
			}
			s.breaks(t, "Gusto", 1, 30, t0)
			storm := s.storm(t, test.first, t0)
			require.Equal(t, test.system, storm.System)
			before, held := s.brake(t, caseOf("Gusto", 2), t0)
			require.True(t, held)
			require.Equal(t, storm.StormID, before.StormID)
			s.over(t, storm, t0.Add(5*time.Minute))

			for _, i := range []int{2, 3} { // one was held, one was on its way
				_, held = s.brake(t, caseOf("Gusto", i), t0.Add(6*time.Minute))
				assert.False(t, held, "case %d", i)
			}
			s.fleet(t, "Rippling", 1)
			s.breaks(t, "Rippling", 1, 1, t0.Add(6*time.Minute))
			_, held = s.brake(t, caseOf("Rippling", 1), t0.Add(6*time.Minute))
			assert.False(t, held, "nor do they make a storm of the rest")
			s.breaks(t, "Gusto", 31, 39, t0.Add(6*time.Minute))
			_, held = s.brake(t, caseOf("Gusto", 31), t0.Add(6*time.Minute))
			assert.False(t, held, "nine are none")

			// The tenth makes ten, which without the first thirty are too few of forty.
			s.breaks(t, "Gusto", 40, 40, t0.Add(7*time.Minute))
			_, held = s.brake(t, caseOf("Gusto", 31), t0.Add(7*time.Minute))
			assert.False(t, held)
			rule := tenAndHalf
			rule.Share = 0.25
			next, held, err := s.Brake(s.ctx, caseOf("Gusto", 31), rule, t0.Add(7*time.Minute))
			require.NoError(t, err)
			require.True(t, held, "but enough of a quarter")
			assert.Equal(t, "Gusto", next.System)
			assert.Equal(t, 10, next.Broken)
			for _, i := range []int{1, 2} { // which the first one held
				if test.first != "" || i == 2 {
					_, held, err = s.Brake(s.ctx, caseOf("Gusto", i), rule, t0.Add(7*time.Minute))
					require.NoError(t, err)
					assert.False(t, held, "a case held once is never held again: case %d", i)
				}
			}
			assert.Equal(t, 2, s.count(t, "storms"))
		})
	}
}

// A storm that nobody watches holds nothing beyond its time.
func TestAStormWhoseTimeIsOver(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 40)
	s.breaks(t, "Gusto", 1, 20, t0)
	storm := s.storm(t, "Gusto", t0)
	_, held := s.brake(t, caseOf("Gusto", 1), storm.EndsAt.Add(-time.Microsecond))
	assert.True(t, held)

	// Whoever is the first to come then begins the next, if it is one.
	s.breaks(t, "Gusto", 21, 40, storm.EndsAt.Add(time.Minute))
	next, held := s.brake(t, caseOf("Gusto", 21), storm.EndsAt.Add(time.Minute))
	assert.True(t, held)
	assert.NotEqual(t, storm.StormID, next.StormID)
	first, err := s.StormByID(s.ctx, storm.StormID)
	require.NoError(t, err)
	assert.Equal(t, storm.EndsAt, *first.EndedAt)
	assert.Equal(t, db.StormTimeOver, first.EndedHow)

	// And its own cases find that it holds them no more.
	_, held = s.brake(t, caseOf("Gusto", 1), storm.EndsAt.Add(time.Minute))
	assert.False(t, held)
	_, held = s.brake(t, caseOf("Gusto", 21), next.EndsAt)
	assert.False(t, held)
	next, err = s.StormByID(s.ctx, next.StormID)
	require.NoError(t, err)
	assert.True(t, next.Over())
}

// Whom a storm holds stands among the held as soon as it has ended: else they
// would wait in vain to be let go.
func TestEndStormWaitsForWhoIsJoining(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 20)
	s.breaks(t, "Gusto", 1, 20, t0)
	storm := s.storm(t, "Gusto", t0)

	// Brake stops where it has found the storm and not yet joined it.
	_, err := s.raw.ExecContext(s.ctx, `
CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
CREATE TRIGGER halt BEFORE UPDATE OF storm_id ON cases FOR EACH ROW EXECUTE FUNCTION halt()`)
	require.NoError(t, err)
	gate, err := s.raw.Conn(s.ctx)
	require.NoError(t, err)
	defer func() { _ = gate.Close() }()
	_, err = gate.ExecContext(s.ctx, `SELECT pg_advisory_lock(4711)`)
	require.NoError(t, err)
	waiting := func(n int) bool {
		return s.count(t, `pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())`) >= n
	}

	var all sync.WaitGroup
	all.Go(func() {
		_, held, err := s.Brake(s.ctx, caseOf("Gusto", 2), tenAndHalf, t0)
		assert.NoError(t, err)
		assert.True(t, held)
	})
	require.Eventually(t, func() bool { return waiting(1) }, time.Minute, time.Millisecond)
	ended := make(chan struct{})
	var held []db.Case
	all.Go(func() {
		defer close(ended)
		_, err := s.EndStorm(s.ctx, storm.StormID, "recovered", t0)
		assert.NoError(t, err)
		held, err = s.HeldCases(s.ctx, storm.StormID, "", 100)
		assert.NoError(t, err)
	})
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			return true // too soon, as the last line finds
		default:
			return waiting(2)
		}
	}, time.Minute, time.Millisecond)
	_, err = gate.ExecContext(s.ctx, `SELECT pg_advisory_unlock(4711)`)
	require.NoError(t, err)
	all.Wait()
	require.Len(t, held, 2)
}

func TestEndStorm(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 20)
	s.breaks(t, "Gusto", 1, 20, t0)
	storm := s.storm(t, "Gusto", t0)
	_, err := s.EndStorm(s.ctx, storm.StormID, "", t0)
	require.ErrorContains(t, err, "say how it ended")
	_, err = s.EndStorm(s.ctx, "nothing", "recovered", t0)
	require.ErrorIs(t, err, db.ErrNotFound)

	ends := make([]bool, 8)
	together(len(ends), func(i int) {
		var err error
		ends[i], err = s.EndStorm(s.ctx, storm.StormID, fmt.Sprintf("released by ann%d@product.example", i), t0.Add(time.Hour))
		assert.NoError(t, err)
	})
	first := 0
	for _, ended := range ends {
		if ended {
			first++
		}
	}
	assert.Equal(t, 1, first, "the first end stands")
	ended, err := s.EndStorm(s.ctx, storm.StormID, "another", t0.Add(2*time.Hour))
	require.NoError(t, err)
	assert.False(t, ended)
	after, err := s.StormByID(s.ctx, storm.StormID)
	require.NoError(t, err)
	assert.True(t, after.Over())
	assert.Equal(t, t0.Add(time.Hour), *after.EndedAt)
	assert.Equal(t, "released by [address]", after.EndedHow)
	_, err = s.StormByID(s.ctx, "nothing")
	require.ErrorIs(t, err, db.ErrNotFound)
}

func TestStorms(t *testing.T) {
	s := newStore(t)
	list, err := s.Storms(s.ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, list)
	var storms []string
	for i, system := range []string{"Gusto", "Rippling", "ADP"} {
		s.fleet(t, system, 20)
		s.breaks(t, system, 1, 20, t0.Add(time.Duration(i)*time.Minute))
		storms = append(storms, s.storm(t, system, t0.Add(time.Duration(i)*time.Minute)).StormID)
	}
	for i := 2; i <= 5; i++ {
		_, held := s.brake(t, caseOf("Gusto", i), t0)
		require.True(t, held)
	}
	for i, outcome := range []reauth.Outcome{reauth.OutcomeHealed, reauth.OutcomeRecovered, reauth.OutcomeCancelled} {
		s.end(t, caseOf("Gusto", i+1), outcome, t0.Add(time.Hour))
	}
	ended, err := s.EndStorm(s.ctx, storms[2], "recovered", t0.Add(time.Hour))
	require.NoError(t, err)
	require.True(t, ended)

	list, err = s.Storms(s.ctx, 0)
	require.NoError(t, err)
	order := []string{}
	for _, storm := range list {
		order = append(order, storm.StormID)
	}
	assert.Equal(t, []string{storms[1], storms[0], storms[2]}, order, "those that rage first, then the newest")
	assert.Equal(t, [3]int{5, 2, 2}, [3]int{list[1].Held, list[1].Waiting, list[1].Restored})
	one, err := s.StormByID(s.ctx, storms[0])
	require.NoError(t, err)
	assert.Equal(t, list[1], one)
	list, err = s.Storms(s.ctx, 2)
	require.NoError(t, err)
	assert.Len(t, list, 2)
}

func TestHeldCases(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 30)
	s.breaks(t, "Gusto", 1, 30, t0)
	storm := s.storm(t, "Gusto", t0)
	want := map[string]bool{}
	for i := 1; i <= 30; i++ {
		_, held := s.brake(t, caseOf("Gusto", i), t0)
		require.True(t, held)
		want[caseOf("Gusto", i)] = true
	}
	for _, i := range []int{3, 17} {
		s.end(t, caseOf("Gusto", i), reauth.OutcomeHealed, t0)
		delete(want, caseOf("Gusto", i))
	}
	got, last, pages := map[string]bool{}, "", 0
	for {
		page, err := s.HeldCases(s.ctx, storm.StormID, last, 10)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		pages++
		for _, k := range page {
			assert.Greater(t, k.CaseID, last)
			last = k.CaseID
			got[k.CaseID] = true
		}
	}
	assert.Equal(t, want, got)
	assert.Equal(t, 3, pages)
}

func TestSampleHeld(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 40)
	s.breaks(t, "Gusto", 1, 40, t0)
	storm := s.storm(t, "Gusto", t0)
	for i := 1; i <= 40; i++ {
		_, held := s.brake(t, caseOf("Gusto", i), t0)
		require.True(t, held)
		if i <= 36 { // of the others no token is stored
			id := fmt.Sprintf("xGusto-%d", i)
			_, err := s.Adopt(s.ctx, adoption(id, "token of "+id, t0))
			require.NoError(t, err)
		}
	}
	s.end(t, caseOf("Gusto", 1), reauth.OutcomeHealed, t0)
	s.end(t, caseOf("Gusto", 2), reauth.OutcomeCancelled, t0)
	_, err := s.raw.ExecContext(s.ctx, `UPDATE connections SET status = 'disconnected' WHERE connection_id = 'xGusto-3'`)
	require.NoError(t, err)

	seen := map[string]bool{}
	var rounds [][]string
	for round := range 20 {
		sample, err := s.SampleHeld(s.ctx, storm.StormID, round, 10)
		require.NoError(t, err)
		require.Len(t, sample, 10)
		again, err := s.SampleHeld(s.ctx, storm.StormID, round, 10)
		require.NoError(t, err)
		assert.Equal(t, sample, again, "a round is asked again in the same way")
		rounds = append(rounds, sample)
		for _, id := range sample {
			seen[id] = true
		}
	}
	assert.NotEqual(t, rounds[0], rounds[1])
	assert.Len(t, seen, 33, "in time everybody is asked who can be")
	all, err := s.SampleHeld(s.ctx, storm.StormID, 1, 100)
	require.NoError(t, err)
	assert.Len(t, all, 33)
}

func TestMayStorm(t *testing.T) {
	s := newStore(t)
	s.fleet(t, "Gusto", 5)
	s.fleet(t, "Rippling", 5)
	for count, want := range map[int]bool{0: false, -1: false, 1: true, 10: true, 11: false} {
		may, err := s.MayStorm(s.ctx, reauth.Finch, count)
		require.NoError(t, err)
		assert.Equal(t, want, may, count)
	}
	may, err := s.MayStorm(s.ctx, "atto", 1)
	require.NoError(t, err)
	assert.False(t, may)
	_, err = s.RemoveConnection(s.ctx, "xGusto-1")
	require.NoError(t, err)
	may, err = s.MayStorm(s.ctx, reauth.Finch, 10)
	require.NoError(t, err)
	assert.False(t, may, "a removed one breaks no more")
}
