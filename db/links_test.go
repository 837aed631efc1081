package db_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestEnsureLink(t *testing.T) {
	s := newStore(t)
	s.SetNow(func() time.Time { return t0 })
	s.connect(t, "c1")
	s.connect(t, "c2")
	const bigKey = 4_000_000_000
	hash := func(text string) func(uint32, int) ([]byte, error) {
		return func(keyID uint32, version int) ([]byte, error) {
			return hashOf(fmt.Sprint(text, keyID, "/", version)), nil
		}
	}
	ensure := func(connectionID, recipient string, keyID uint32) string {
		version, key, err := s.EnsureLink(s.ctx, connectionID, recipient, keyID, hash(connectionID+recipient))
		require.NoError(t, err)
		return fmt.Sprint(key, "/", version)
	}
	assert.Equal(t, "4000000000/1", ensure("c1", "a", bigKey))
	assert.Equal(t, "4000000000/1", ensure("c1", "a", 7), "a live link keeps its key")
	assert.Equal(t, "7/1", ensure("c1", "b", 7))
	assert.Equal(t, "7/1", ensure("c2", "a", 7))

	link, err := s.LinkByHash(s.ctx, hashOf("c1a4000000000/1"))
	require.NoError(t, err)
	assert.NotZero(t, link.ID)
	assert.Equal(t, db.Link{ID: link.ID, ConnectionID: "c1", Recipient: "a", Version: 1, KeyID: bigKey, CreatedAt: t0}, link)
	_, err = s.LinkByHash(s.ctx, hashOf("guessed"))
	require.ErrorIs(t, err, db.ErrNotFound)

	require.NoError(t, s.RevokeLinks(s.ctx, "c1", "a"))
	link, err = s.LinkByHash(s.ctx, hashOf("c1a4000000000/1"))
	require.NoError(t, err)
	require.NotNil(t, link.RevokedAt)
	assert.Equal(t, t0, *link.RevokedAt)
	assert.Equal(t, "7/2", ensure("c1", "a", 7), "the next version")
	assert.Equal(t, "7/1", ensure("c1", "b", 7))

	require.NoError(t, s.RevokeLinks(s.ctx, "c1", ""))
	assert.Zero(t, s.count(t, "links WHERE connection_id = 'c1' AND revoked_at IS NULL"))
	assert.Equal(t, 1, s.count(t, "links WHERE connection_id = 'c2' AND revoked_at IS NULL"))
	require.ErrorIs(t, s.RevokeLinks(s.ctx, "c3", ""), db.ErrNotFound)

	broken := errors.New("no such key")
	_, _, err = s.EnsureLink(s.ctx, "c1", "a", 7, func(uint32, int) ([]byte, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
	_, _, err = s.EnsureLink(s.ctx, "c3", "a", 7, linkHash)
	require.ErrorIs(t, err, db.ErrNotFound)
}

func TestEnsureLinkAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	together(30, func(int) {
		version, keyID, err := s.EnsureLink(s.ctx, "c1", "a", 7, linkHash)
		assert.NoError(t, err)
		assert.Equal(t, 1, version)
		assert.Equal(t, uint32(7), keyID)
	})
	assert.Equal(t, 1, s.count(t, "links"))
}

func TestClaimLinkCase(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	_, _, err := s.EnsureLink(s.ctx, "c1", "a", 1, linkHash)
	require.NoError(t, err)
	sum, _ := linkHash(1, 1)
	link, err := s.LinkByHash(s.ctx, sum)
	require.NoError(t, err)

	for _, hour := range []time.Duration{0, time.Hour, 2 * time.Hour} {
		var claims atomic.Int64
		together(30, func(i int) {
			claimed, err := s.ClaimLinkCase(s.ctx, link.ID, t0.Add(hour+time.Duration(i)*time.Millisecond))
			assert.NoError(t, err)
			if claimed {
				claims.Add(1)
			}
		})
		assert.LessOrEqual(t, claims.Load(), int64(1))
		if hour == 0 {
			assert.Equal(t, int64(1), claims.Load())
		}
	}
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{
		{10 * time.Hour, true}, {10*time.Hour + 59*time.Minute, false}, {9 * time.Hour, false}, {11 * time.Hour, true}, {11*time.Hour + time.Minute, false},
	} {
		claimed, err := s.ClaimLinkCase(s.ctx, link.ID, t0.Add(step.at))
		require.NoError(t, err)
		assert.Equal(t, step.want, claimed, step.at)
	}
	require.NoError(t, s.RevokeLinks(s.ctx, "c1", "a"))
	for _, id := range []int64{link.ID, link.ID + 1} {
		claimed, err := s.ClaimLinkCase(s.ctx, id, t0.Add(100*time.Hour))
		require.NoError(t, err)
		assert.False(t, claimed)
	}
}

func TestClicks(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	s.open(t, "c1", "k1", t0)
	_, _, err := s.EnsureLink(s.ctx, "c1", "a", 1, linkHash)
	require.NoError(t, err)
	sum, _ := linkHash(1, 1)
	link, err := s.LinkByHash(s.ctx, sum)
	require.NoError(t, err)

	recent, err := s.RecentClick(s.ctx, t0)
	require.NoError(t, err)
	assert.False(t, recent)
	last, err := s.LastClick(s.ctx, "k1")
	require.NoError(t, err)
	assert.Nil(t, last)

	click := func(id string, after time.Duration) db.Click {
		return db.Click{ID: id, LinkID: &link.ID, CaseID: "k1", ConnectionID: "c1", At: t0.Add(after)}
	}
	require.NoError(t, s.RecordClick(s.ctx, click("1", 2*time.Minute)))
	require.NoError(t, s.RecordClick(s.ctx, click("2", time.Minute)), "an earlier one that comes late")
	require.NoError(t, s.RecordClick(s.ctx, click("1", time.Hour)), "the same once more")
	require.NoError(t, s.RecordClick(s.ctx, db.Click{ID: "3", ConnectionID: "c1", At: t0.Add(9 * time.Hour), Embedded: true}), "of no case")
	last, err = s.LastClick(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, t0.Add(2*time.Minute), *last)
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, t0.Add(2*time.Minute), *k.LastClickAt)
	last, err = s.LastClick(s.ctx, "")
	require.NoError(t, err)
	assert.Nil(t, last)

	for after, want := range map[time.Duration]bool{0: true, 9 * time.Hour: true, 9*time.Hour + time.Microsecond: false} {
		recent, err := s.RecentClick(s.ctx, t0.Add(after))
		require.NoError(t, err)
		assert.Equal(t, want, recent)
	}

	bad := click("4", 0)
	bad.ConnectionID = "c3"
	require.ErrorIs(t, s.RecordClick(s.ctx, bad), db.ErrNotFound)
	bad.ConnectionID = "c2"
	require.ErrorIs(t, s.RecordClick(s.ctx, bad), db.ErrNotFound, "another connection's link")
}

// The click that asks for a case may be recorded before, while or after the
// case is.
func TestClickAndCaseAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	for i := range 20 {
		caseID, opened := fmt.Sprint("k", i), t0.Add(time.Duration(i)*time.Hour)
		clicked := opened.Add(-time.Second)
		together(2, func(j int) {
			if j == 0 {
				assert.NoError(t, s.RecordClick(s.ctx, db.Click{ID: caseID, CaseID: caseID, ConnectionID: "c1", At: clicked}))
				return
			}
			_, err := s.OpenCase(s.ctx, db.Case{CaseID: caseID, ConnectionID: "c1", Source: reauth.SourceLink, OpenedAt: opened})
			assert.NoError(t, err)
		})
		k, err := s.CaseByID(s.ctx, caseID)
		require.NoError(t, err)
		require.NotNil(t, k.LastClickAt)
		assert.Equal(t, clicked, *k.LastClickAt)
	}
}
