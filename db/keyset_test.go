package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

func TestHoldKeys(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	one := db.Holder{ID: "p1", Name: "serve 1", SealKeys: []uint32{4294967295}, SealPrimary: 4294967295, LinkKeys: []uint32{7}, LinkPrimary: 7}
	require.NoError(t, s.HoldKeys(s.ctx, one))
	now = t0.Add(time.Hour)
	two := db.Holder{ID: "p2", Name: "worker 2", SealKeys: []uint32{4294967295, 5}, SealPrimary: 4294967295, LinkKeys: []uint32{7, 8}, LinkPrimary: 7}
	require.NoError(t, s.HoldKeys(s.ctx, two))
	now = t0.Add(2 * time.Hour)
	two.SealPrimary, two.LinkPrimary = 5, 8
	require.NoError(t, s.HoldKeys(s.ctx, two))
	require.NoError(t, s.HoldKeys(s.ctx, two))

	at := func(d time.Duration) *time.Time { v := t0.Add(d); return &v }
	known, err := s.KeysetKeys(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, []db.KeysetKey{
		{Kind: db.KeySeals, ID: 4294967295, FirstSeenAt: t0, PrimarySince: at(0), LastPrimaryAt: at(time.Hour)},
		{Kind: db.KeySeals, ID: 5, FirstSeenAt: *at(time.Hour), PrimarySince: at(2 * time.Hour), LastPrimaryAt: at(2 * time.Hour)},
		{Kind: db.KeyLinks, ID: 7, FirstSeenAt: t0, PrimarySince: at(0), LastPrimaryAt: at(time.Hour)},
		{Kind: db.KeyLinks, ID: 8, FirstSeenAt: *at(time.Hour), PrimarySince: at(2 * time.Hour), LastPrimaryAt: at(2 * time.Hour)},
	}, known)

	// A process that has not been heard of for minutes does not run.
	holders, err := s.Holders(s.ctx)
	require.NoError(t, err)
	two.SeenAt = now
	assert.Equal(t, []db.Holder{two}, holders)
	require.NoError(t, s.LetKeysGo(s.ctx, "p2"))
	holders, err = s.Holders(s.ctx)
	require.NoError(t, err)
	assert.Empty(t, holders)

	// The rows of those that were killed go away with time.
	now = t0.Add(48 * time.Hour)
	require.NoError(t, s.HoldKeys(s.ctx, two))
	assert.Equal(t, 1, s.count(t, "keyset_holders"))

	together(10, func(i int) {
		h := one
		h.ID, h.SealPrimary = fmt.Sprint("p", i), uint32(i)
		h.SealKeys = []uint32{uint32(i), uint32(9 - i), 100}
		for range 20 {
			assert.NoError(t, s.HoldKeys(s.ctx, h))
		}
	})
}

func TestOpenCasesBefore(t *testing.T) {
	s := newStore(t)
	for i := range 3 {
		id := fmt.Sprint("c", i)
		s.connect(t, id)
		s.open(t, id, "k"+id, t0.Add(time.Duration(i)*time.Hour))
	}
	s.end(t, "kc0", "healed", t0)
	n, err := s.OpenCasesBefore(s.ctx, t0.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
