package db_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestReceiveCode(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	hash := reauth.CodeHash("code")
	_, err := s.CodeByHash(s.ctx, hash)
	require.ErrorIs(t, err, db.ErrNotFound)

	row, first, err := s.ReceiveCode(s.ctx, hash, "", "")
	require.NoError(t, err)
	assert.True(t, first)
	want := db.CodeRow{Hash: hash, State: reauth.CodeReceivedState, ReceivedAt: t0}
	assert.Equal(t, want, row)

	now = t0.Add(time.Minute)
	row, first, err = s.ReceiveCode(s.ctx, hash, "c1", "k1")
	require.NoError(t, err)
	assert.False(t, first)
	want.ConnectionID, want.CaseID = "c1", "k1"
	assert.Equal(t, want, row, "what was not known is added")

	row, _, err = s.ReceiveCode(s.ctx, hash, "c2", "")
	require.NoError(t, err)
	assert.Equal(t, want, row, "what is known stays")
	row, err = s.CodeByHash(s.ctx, hash)
	require.NoError(t, err)
	assert.Equal(t, want, row)
}

func TestReceiveCodeAtOnce(t *testing.T) {
	s := newStore(t)
	var firsts atomic.Int64
	together(30, func(int) {
		_, first, err := s.ReceiveCode(s.ctx, reauth.CodeHash("code"), "c1", "k1")
		assert.NoError(t, err)
		if first {
			firsts.Add(1)
		}
	})
	assert.Equal(t, int64(1), firsts.Load())
}

// From every state to every state.
func TestSettleCode(t *testing.T) {
	states := []reauth.CodeState{
		"", reauth.CodeReceivedState, reauth.CodeMinted, reauth.CodeAdopted, reauth.CodeRecovered, reauth.CodeRefused,
		reauth.CodeLost, reauth.CodeWrongAccount, reauth.CodeUnusable, reauth.CodeQuarantined,
	}
	moves := func(from, to reauth.CodeState) bool {
		switch from {
		case "":
			return true
		case reauth.CodeReceivedState:
			return to != reauth.CodeReceivedState
		case reauth.CodeMinted:
			return to != reauth.CodeReceivedState && to != reauth.CodeMinted
		case reauth.CodeAdopted:
			return to == reauth.CodeRecovered
		}
		return false
	}
	s := newStore(t)
	for _, from := range states {
		for _, to := range states[1:] {
			name := fmt.Sprintf("from %q to %q", from, to)
			hash := reauth.CodeHash(name)
			s.SetNow(func() time.Time { return t0 })
			if from != "" {
				require.NoError(t, s.SettleCode(s.ctx, hash, "c1", "k1", from, 1), name)
			}
			s.SetNow(func() time.Time { return t0.Add(time.Minute) })
			require.NoError(t, s.SettleCode(s.ctx, hash, "c2", "k2", to, 2), name)

			want := db.CodeRow{Hash: hash, ConnectionID: "c1", CaseID: "k1", State: from, Generation: 1, ReceivedAt: t0}
			at := t0
			if from == "" {
				want.ReceivedAt = t0.Add(time.Minute)
			}
			if moves(from, to) {
				at = t0.Add(time.Minute)
				want.ConnectionID, want.CaseID, want.State, want.Generation = "c2", "k2", to, 2
			}
			if want.State.Settled() {
				want.SettledAt = &at
			}
			row, err := s.CodeByHash(s.ctx, hash)
			require.NoError(t, err, name)
			assert.Equal(t, want, row, name)
		}
	}
	hash := reauth.CodeHash("y")
	require.NoError(t, s.SettleCode(s.ctx, hash, "c1", "k1", reauth.CodeAdopted, 5))
	require.NoError(t, s.SettleCode(s.ctx, hash, "", "", reauth.CodeRecovered, 0))
	row, err := s.CodeByHash(s.ctx, hash)
	require.NoError(t, err)
	assert.Equal(t, int64(5), row.Generation, "what is known stays")

	hash = reauth.CodeHash("x")
	require.ErrorContains(t, s.SettleCode(s.ctx, hash, "", "", "odd", 0), "codes_state_known")
	require.NoError(t, s.SettleCode(s.ctx, hash, "c1", "k1", reauth.CodeMinted, 0))
	require.NoError(t, s.SettleCode(s.ctx, hash, "", "", reauth.CodeRefused, 0))
	row, err = s.CodeByHash(s.ctx, hash)
	require.NoError(t, err)
	assert.Equal(t, "c1k1", row.ConnectionID+row.CaseID, "what is known stays")
}

func TestSettleCodeAtOnce(t *testing.T) {
	s := newStore(t)
	hash := reauth.CodeHash("code")
	finals := []reauth.CodeState{reauth.CodeRefused, reauth.CodeLost, reauth.CodeWrongAccount}
	together(15, func(i int) {
		assert.NoError(t, s.SettleCode(s.ctx, hash, "c1", "k1", finals[i%3], 0))
	})
	first, err := s.CodeByHash(s.ctx, hash)
	require.NoError(t, err)
	together(15, func(i int) {
		assert.NoError(t, s.SettleCode(s.ctx, hash, "c1", "k1", finals[i%3], 0))
	})
	again, err := s.CodeByHash(s.ctx, hash)
	require.NoError(t, err)
	assert.Equal(t, first, again)
}

func TestHeldCodes(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	a, b := reauth.CodeHash("a"), reauth.CodeHash("b")
	require.NoError(t, s.HoldCode(s.ctx, a, "c1", "k1", []byte("sealed a")))
	now = t0.Add(-time.Minute)
	require.NoError(t, s.HoldCode(s.ctx, b, "", "", []byte("sealed b")))
	require.NoError(t, s.HoldCode(s.ctx, a, "c2", "k2", []byte("sealed again")), "held already")

	list, err := s.HeldCodes(s.ctx, 10)
	require.NoError(t, err)
	assert.Equal(t, []db.HeldCode{
		{Hash: b, Sealed: []byte("sealed b"), HeldAt: now},
		{Hash: a, ConnectionID: "c1", CaseID: "k1", Sealed: []byte("sealed a"), HeldAt: t0},
	}, list)
	list, err = s.HeldCodes(s.ctx, 1)
	require.NoError(t, err)
	assert.Len(t, list, 1)

	require.NoError(t, s.ReleaseCode(s.ctx, a))
	require.NoError(t, s.ReleaseCode(s.ctx, a))
	require.NoError(t, s.HoldCode(s.ctx, a, "c1", "k1", []byte("sealed a")), "it has been forwarded")
	list, err = s.HeldCodes(s.ctx, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, b, list[0].Hash)
	assert.Equal(t, 1, s.count(t, "held_codes WHERE hash = $1 AND sealed IS NULL AND released_at IS NOT NULL", a), "it is erased")

	require.Error(t, s.HoldCode(s.ctx, reauth.CodeHash("c"), "", "", nil))
	require.Error(t, s.HoldCode(s.ctx, reauth.CodeHash("c"), "", "", []byte{}))
}

func TestMinted(t *testing.T) {
	s := newStore(t)
	code := reauth.CodeHash("code")
	_, err := s.Minted(s.ctx, code)
	require.ErrorIs(t, err, db.ErrNotFound)
	one, two := reauth.Fingerprint("one"), reauth.Fingerprint("two")
	require.NoError(t, s.PutMinted(s.ctx, code, "of nobody registered", one, []byte("sealed one"), t0))
	require.NoError(t, s.PutMinted(s.ctx, code, "other", one, []byte("sealed otherwise"), t0.Add(time.Hour)), "kept already")
	m, err := s.Minted(s.ctx, code)
	require.NoError(t, err)
	want := db.MintedToken{CodeHash: code, ConnectionID: "of nobody registered", Fingerprint: one, Sealed: []byte("sealed one"), MintedAt: t0}
	assert.Equal(t, want, m)

	require.NoError(t, s.PutMinted(s.ctx, code, "c1", two, []byte("sealed two"), t0.Add(time.Minute)))
	m, err = s.Minted(s.ctx, code)
	require.NoError(t, err)
	assert.Equal(t, two, m.Fingerprint)
	assert.Equal(t, 2, s.count(t, "minted"), "none is lost")
}

func TestQuarantine(t *testing.T) {
	s := newStore(t)
	fingerprint := reauth.Fingerprint("token")
	_, err := s.Quarantined(s.ctx, fingerprint)
	require.ErrorIs(t, err, db.ErrNotFound)
	want := db.QuarantinedToken{
		ConnectionID: "of nobody registered", ExpectedConnectionID: "c1", Fingerprint: fingerprint, Sealed: []byte("sealed"),
		Reason: "wrong account", CaseID: "k1", At: t0,
	}
	require.NoError(t, s.Quarantine(s.ctx, want))
	late := want
	late.Reason, late.Sealed = "late", []byte("other")
	require.NoError(t, s.Quarantine(s.ctx, late))
	got, err := s.Quarantined(s.ctx, fingerprint)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	want.Sealed = nil
	want.Fingerprint = reauth.Fingerprint("other")
	require.Error(t, s.Quarantine(s.ctx, want), "nothing is sealed")
}
