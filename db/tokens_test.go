package db_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestAdopt(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	s.connect(t, "c1")
	_, err := s.CurrentToken(s.ctx, "c1")
	require.ErrorIs(t, err, db.ErrNotFound)

	steps := []struct {
		token  string
		minted time.Duration
		want   db.Adopted
		now    string // the current token after it
	}{
		{"first", 0, db.Adopted{Generation: 1, Current: true}, "first"},
		{"first", 0, db.Adopted{Generation: 1, Current: true, Already: true}, "first"},
		{"second", 2 * time.Minute, db.Adopted{Generation: 2, Current: true}, "second"},
		{"late", time.Minute, db.Adopted{Generation: 3}, "second"},
		{"late", time.Hour, db.Adopted{Generation: 3, Already: true}, "second"},
		{"first", time.Hour, db.Adopted{Generation: 1, Already: true}, "second"},
		{"same moment", 2 * time.Minute, db.Adopted{Generation: 4, Current: true}, "same moment"},
	}
	for i, step := range steps {
		adopted, err := s.Adopt(s.ctx, adoption("c1", step.token, t0.Add(step.minted)))
		require.NoError(t, err)
		require.Equal(t, step.want, adopted, "step %d", i)
		current, err := s.CurrentToken(s.ctx, "c1")
		require.NoError(t, err)
		require.Equal(t, reauth.Fingerprint(step.now), current.Fingerprint, "step %d", i)
		c, err := s.Connection(s.ctx, "c1")
		require.NoError(t, err)
		require.Equal(t, current.Generation, c.Generation, "step %d", i)
	}

	got, current, err := s.TokenByFingerprint(s.ctx, "c1", reauth.Fingerprint("late"))
	require.NoError(t, err)
	assert.False(t, current)
	assert.Equal(t, db.Token{
		ConnectionID: "c1", Generation: 3, Fingerprint: reauth.Fingerprint("late"), Sealed: []byte("sealed late 3"),
		Source: "code", MintedAt: t0.Add(time.Minute), AdoptedAt: t0,
	}, got, "nothing minted is dropped")
	_, current, err = s.TokenByFingerprint(s.ctx, "c1", reauth.Fingerprint("same moment"))
	require.NoError(t, err)
	assert.True(t, current)
	s.connect(t, "c2")
	_, _, err = s.TokenByFingerprint(s.ctx, "c2", reauth.Fingerprint("late"))
	require.ErrorIs(t, err, db.ErrNotFound)

	c, err := s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusConnected, c.Status)
}

func TestAdoptRefuses(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	s.open(t, "c2", "k2", t0)
	_, err := s.Adopt(s.ctx, adoption("c1", "c1's", t0))
	require.NoError(t, err)

	broken := errors.New("the keyset is gone")
	for name, test := range map[string]struct {
		change func(a *db.Adoption)
		want   error
		text   string
	}{
		"an unknown connection":      {change: func(a *db.Adoption) { a.ConnectionID = "c3" }, want: db.ErrNotFound},
		"another connection's token": {change: func(a *db.Adoption) { a.Fingerprint = reauth.Fingerprint("c1's") }, want: db.ErrForeignToken},
		"an unknown case":            {change: func(a *db.Adoption) { a.CaseID = "k3" }, want: db.ErrNotFound},
		"a case of another one": {change: func(a *db.Adoption) {
			a.ConnectionID, a.CaseID = "c1", "k2"
		}, want: db.ErrNotFound},
		"an unknown case to close": {change: func(a *db.Adoption) { a.Close = &db.Closing{CaseID: "k3", Outcome: reauth.OutcomeRecovered} }, want: db.ErrNotFound},
		"a case of another one to close": {change: func(a *db.Adoption) {
			a.ConnectionID, a.Close = "c1", &db.Closing{CaseID: "k2", Outcome: reauth.OutcomeRecovered}
		}, want: db.ErrNotFound},
		"an unknown outcome": {change: func(a *db.Adoption) { a.Close = &db.Closing{CaseID: "k2", Outcome: "odd"} }, text: "the outcome is unknown"},
		"what cannot be sealed": {change: func(a *db.Adoption) {
			a.Seal = func(int64) ([]byte, error) { return nil, broken }
		}, want: broken},
		"an empty seal": {change: func(a *db.Adoption) {
			a.Seal = func(int64) ([]byte, error) { return nil, nil }
		}, text: "the sealed token is empty"},
		"no fingerprint": {change: func(a *db.Adoption) { a.Fingerprint = "token" }, text: "tokens_fingerprint_form"},
	} {
		t.Run(name, func(t *testing.T) {
			a := adoption("c2", "new", t0.Add(time.Hour))
			test.change(&a)
			adopted, err := s.Adopt(s.ctx, a)
			require.Error(t, err)
			assert.Zero(t, adopted)
			if test.want != nil {
				assert.ErrorIs(t, err, test.want)
			}
			assert.ErrorContains(t, err, test.text)
			assert.Equal(t, 1, s.count(t, "tokens"), "nothing is stored")
			k, err := s.CaseByID(s.ctx, "k2")
			require.NoError(t, err)
			assert.True(t, k.Open(), "no case is closed")
		})
	}
}

func TestAdoptClosesItsCase(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	_, err := s.Adopt(s.ctx, adoption("c1", "old", t0))
	require.NoError(t, err)
	s.open(t, "c1", "k1", t0)
	require.Equal(t, reauth.StatusStale, s.status(t, "c1"))

	// Adopted before it works: the connection is not called connected yet.
	a := adoption("c1", "new", t0.Add(time.Hour))
	a.CaseID = "k1"
	adopted, err := s.Adopt(s.ctx, a)
	require.NoError(t, err)
	assert.Equal(t, db.Adopted{Generation: 2, Current: true}, adopted)
	assert.Equal(t, reauth.StatusStale, s.status(t, "c1"))

	// Adopted again with the outcome, as a retry does.
	a.Close = &db.Closing{CaseID: "k1", Outcome: reauth.OutcomeRecovered, At: t0.Add(time.Hour),
		Event: &db.OutboxEvent{ID: "e1", Type: "recovered", Payload: []byte(`{}`)}}
	for range 2 {
		adopted, err = s.Adopt(s.ctx, a)
		require.NoError(t, err)
		assert.Equal(t, db.Adopted{Generation: 2, Current: true, Already: true}, adopted)
	}
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"))
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, reauth.OutcomeRecovered, k.Outcome)
	assert.Equal(t, int64(2), k.Generation)
	assert.Equal(t, 1, s.count(t, "outbox WHERE event_id = 'e1' AND case_id = 'k1'"))

	// The first outcome stands, and the token is stored all the same.
	b := adoption("c1", "newer", t0.Add(2*time.Hour))
	b.Close = &db.Closing{CaseID: "k1", Outcome: reauth.OutcomeHealed, At: t0.Add(2 * time.Hour)}
	adopted, err = s.Adopt(s.ctx, b)
	require.NoError(t, err)
	assert.Equal(t, db.Adopted{Generation: 3, Current: true}, adopted)
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, reauth.OutcomeRecovered, k.Outcome)
}

// A token that comes late closes its case with the generation that stands.
func TestAdoptClosesItsCaseWithTheCurrentGeneration(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	_, err := s.Adopt(s.ctx, adoption("c1", "newer", t0.Add(time.Hour)))
	require.NoError(t, err)
	s.open(t, "c1", "k1", t0)
	a := adoption("c1", "late", t0)
	a.Close = &db.Closing{CaseID: "k1", Outcome: reauth.OutcomeRecovered, At: t0.Add(time.Hour)}
	adopted, err := s.Adopt(s.ctx, a)
	require.NoError(t, err)
	assert.Equal(t, db.Adopted{Generation: 2}, adopted)
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, int64(1), k.Generation)
}

// Adoptions that race: every token gets its own generation, in one strictly
// growing row, one is current, and that is one of those minted last.
func TestAdoptAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	const n = 40
	minted := rand.Perm(n)
	results := make([]db.Adopted, 2*n)
	var mu sync.Mutex
	var seen []int64 // the current generations that a reader saw, in order
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			c, err := s.Connection(s.ctx, "c1")
			if !assert.NoError(t, err) {
				return
			}
			mu.Lock()
			seen = append(seen, c.Generation)
			mu.Unlock()
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	together(2*n, func(i int) { // each token twice
		at := t0.Add(time.Duration(minted[i%n]) * time.Minute)
		var err error
		results[i], err = s.Adopt(s.ctx, adoption("c1", fmt.Sprint("token ", i%n), at))
		assert.NoError(t, err)
	})
	close(stop)
	reader.Wait()

	generations := make(map[int64]bool)
	for i := range n {
		a, b := results[i], results[i+n]
		assert.Equal(t, a.Generation, b.Generation, "the same token is the same generation")
		assert.NotEqual(t, a.Already, b.Already, "and was stored once")
		generations[a.Generation] = true
	}
	assert.Len(t, generations, n)
	for g := range int64(n) {
		assert.True(t, generations[g+1])
	}
	assert.IsIncreasing(t, append([]int64{-1}, compact(seen)...))
	assert.Equal(t, 1, s.count(t, "tokens WHERE state = 'current'"))
	current, err := s.CurrentToken(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, t0.Add((n-1)*time.Minute), current.MintedAt, "an older token never replaces a newer one")
	assert.Equal(t, fmt.Sprintf("sealed token %d %d", indexOf(minted, n-1), current.Generation), string(current.Sealed))
}

// Of two connections that adopt the same token at once, one does.
func TestAdoptOneTokenForTwoConnectionsAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	for i := range 20 {
		errs := make([]error, 2)
		together(2, func(j int) {
			_, errs[j] = s.Adopt(s.ctx, adoption([]string{"c1", "c2"}[j], fmt.Sprint("token ", i), t0))
		})
		if errs[0] == nil {
			errs[0], errs[1] = errs[1], errs[0]
		}
		require.NoError(t, errs[1])
		require.ErrorIs(t, errs[0], db.ErrForeignToken)
	}
}

func compact(list []int64) (short []int64) {
	for i, n := range list {
		if i == 0 || n != list[i-1] {
			short = append(short, n)
		}
	}
	return short
}

func indexOf(list []int, n int) int {
	for i, m := range list {
		if m == n {
			return i
		}
	}
	return -1
}
