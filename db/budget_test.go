package db_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSpendBudget(t *testing.T) {
	s := newStore(t)
	for i, step := range []struct {
		name  string
		limit int
		after time.Duration
		want  bool
	}{
		{"a", 2, 0, true},
		{"a", 2, time.Minute, true},
		{"a", 2, 59 * time.Minute, false},
		{"b", 2, 59 * time.Minute, true},
		{"a", 3, 59 * time.Minute, true}, // a larger limit
		{"a", 2, time.Hour, true},
		{"a", 2, time.Hour - time.Second, true}, // a clock that is behind spends of the window that has begun
		{"a", 2, time.Hour, false},
		{"a", 1, 10 * time.Hour, true},
		{"a", 1, 10 * time.Hour, false},
		{"c", 0, 0, false},
		{"c", -1, 0, false},
	} {
		spent, err := s.SpendBudget(s.ctx, step.name, step.limit, time.Hour, t0.Add(step.after))
		require.NoError(t, err)
		assert.Equal(t, step.want, spent, "step %d", i)
	}
}

func TestSpendBudgetAtOnce(t *testing.T) {
	s := newStore(t)
	for window := range 3 {
		var spent atomic.Int64
		together(40, func(i int) {
			// Half of them spend of budgets of their own, which sweep each other away.
			name := "shared"
			if i%2 == 0 {
				name = fmt.Sprint(i)
			}
			ok, err := s.SpendBudget(s.ctx, name, 7, time.Hour, t0.Add(time.Duration(window)*time.Hour))
			assert.NoError(t, err)
			if ok && name == "shared" {
				spent.Add(1)
			}
		})
		assert.Equal(t, int64(7), spent.Load())
	}
}

func TestBudgetsThatAreOverGoAway(t *testing.T) {
	s := newStore(t)
	for i := range 25 {
		_, err := s.SpendBudget(s.ctx, fmt.Sprint(i), 1, time.Hour, t0)
		require.NoError(t, err)
	}
	for i := range 3 {
		_, err := s.SpendBudget(s.ctx, "other", 9, time.Hour, t0.Add(time.Duration(i+2)*time.Hour))
		require.NoError(t, err)
	}
	assert.Equal(t, 1, s.count(t, "budgets"))
}
