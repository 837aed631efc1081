package db_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// seal is what looks like a value that a key has sealed.
func seal(keyID uint32, text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{1}, keyID), text...)
}

// Every column that holds something sealed is listed, so that no value is left
// behind when a key is retired: what is called so, and every column of bytes that
// is not known to hold a hash.
func TestEverySealedColumnIsListed(t *testing.T) {
	s := newStore(t)
	var columns []string
	require.NoError(t, s.raw.SelectContext(s.ctx, &columns, `
SELECT table_name || '.' || column_name FROM information_schema.columns
 WHERE table_schema = 'public' AND (data_type = 'bytea' OR column_name LIKE '%sealed%')
   AND column_name NOT LIKE '%hash' AND column_name NOT LIKE '%sha256' ORDER BY 1`))
	var listed []string
	for _, c := range db.SealedColumns() {
		listed = append(listed, c.Table+"."+c.Column)
	}
	slices.Sort(listed)
	require.Equal(t, columns, listed, "add the column to SealedColumns; a hash is told by its name")

	for _, c := range db.SealedColumns() {
		var key []string
		require.NoError(t, s.raw.SelectContext(s.ctx, &key, `
SELECT k.column_name FROM information_schema.table_constraints t JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name)
 WHERE t.table_name = $1 AND t.constraint_type = 'PRIMARY KEY' ORDER BY k.ordinal_position`, c.Table))
		assert.Equal(t, key, c.Key, c.Table)
		_, err := s.SealedByKey(s.ctx, c)
		require.NoError(t, err)
		_, err = s.Reseal(s.ctx, c, db.Resealing{Primary: 1, After: make([]string, len(c.Key)), Limit: 10})
		if c.Table != "tokens" { // whose key holds a number, which an empty text is not
			require.NoError(t, err)
		}
	}
}

func column(t *testing.T, table string) db.SealedColumn {
	t.Helper()
	for _, c := range db.SealedColumns() {
		if c.Table == table {
			return c
		}
	}
	t.Fatal("not listed: " + table)
	return db.SealedColumn{}
}

func TestReseal(t *testing.T) {
	s := newStore(t)
	const old, current = 0xFEDCBA98, 7
	tokens := column(t, "tokens")
	for i := range 12 {
		id := fmt.Sprintf("c%02d", i)
		s.connect(t, id)
		key := uint32(old)
		if i == 5 {
			key = current
		}
		for g := range 2 {
			a := adoption(id, fmt.Sprint("token ", i, g), t0)
			a.Seal = func(generation int64) ([]byte, error) { return seal(key, fmt.Sprint("token ", id, generation)), nil }
			_, err := s.Adopt(s.ctx, a)
			require.NoError(t, err)
		}
	}
	_, err := s.raw.ExecContext(s.ctx, `UPDATE tokens SET sealed = 'what is this?' WHERE connection_id = 'c03' AND generation = 1`)
	require.NoError(t, err)
	count, err := s.SealedByKey(s.ctx, tokens)
	require.NoError(t, err)
	require.Equal(t, map[uint32]int{old: 21, current: 2, 0: 1}, count)

	refused := errors.New("it does not open")
	anew := func(sealed []byte, bound []string) ([]byte, error) {
		if sealed[0] != 1 {
			return nil, refused
		}
		want := "token " + bound[1] + bound[2]
		if bound[0] != "token" || string(sealed[5:]) != want {
			return nil, fmt.Errorf("%q is not bound to %q", sealed[5:], bound)
		}
		return seal(current, want), nil
	}
	// Every batch ends where the next one begins; another transaction's row waits
	// for the next pass, and nobody waits for it.
	held := s.raw.MustBegin()
	held.MustExec(`SELECT FROM tokens WHERE connection_id = 'c02' AND generation = 1 FOR UPDATE`)
	pass := func() (done int, failed []error, batches int) {
		var after []string
		for {
			out, err := s.Reseal(s.ctx, tokens, db.Resealing{Primary: current, After: after, Limit: 5, Seal: anew})
			require.NoError(t, err)
			done, failed, batches = done+out.Done, append(failed, out.Failed...), batches+1
			if after = out.Next; after == nil {
				return done, failed, batches
			}
		}
	}
	done, failed, batches := pass()
	require.Equal(t, 20, done)
	require.Equal(t, []error{refused}, failed)
	require.Equal(t, 5, batches)
	require.NoError(t, held.Rollback())
	done, failed, _ = pass()
	require.Equal(t, 1, done)
	require.Equal(t, []error{refused}, failed, "what does not open stays as it is")
	count, err = s.SealedByKey(s.ctx, tokens)
	require.NoError(t, err)
	require.Equal(t, map[uint32]int{current: 23, 0: 1}, count)
	done, _, _ = pass()
	require.Zero(t, done, "a repetition changes nothing")
}

// Whatever happens to rows while they are sealed anew, no value is lost and none
// comes to another row.
func TestResealBesideAdoptionsAndRemovals(t *testing.T) {
	s := newStore(t)
	const connections, rounds = 20, 12
	tokens := column(t, "tokens")
	for i := range connections {
		s.connect(t, fmt.Sprintf("c%02d", i))
	}
	var stop atomic.Bool
	var primary atomic.Uint32
	primary.Store(1)
	sealer := func(id string) func(int64) ([]byte, error) {
		return func(generation int64) ([]byte, error) {
			return seal(primary.Load(), fmt.Sprint(id, " ", generation)), nil
		}
	}
	var resealed atomic.Int64
	together(4, func(i int) {
		switch i {
		case 0, 1: // adopt and remove
			for round := range rounds {
				for n := range connections {
					id := fmt.Sprintf("c%02d", n)
					a := adoption(id, fmt.Sprint("token ", i, round, n), t0)
					a.Seal = sealer(id)
					if _, err := s.Adopt(s.ctx, a); err != nil {
						assert.ErrorIs(t, err, db.ErrRemoved)
						_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: id})
						assert.NoError(t, err)
					}
					if (n+round)%7 == i {
						_, err := s.RemoveConnection(s.ctx, id)
						assert.NoError(t, err)
					}
				}
			}
			stop.Store(true)
		default:
			for !stop.Load() {
				to := primary.Add(1)
				var after []string
				for {
					out, err := s.Reseal(s.ctx, tokens, db.Resealing{Primary: to, After: after, Limit: 7, Seal: func(sealed []byte, bound []string) ([]byte, error) {
						return seal(to, bound[1]+" "+bound[2]), nil
					}})
					if !assert.NoError(t, err) {
						return
					}
					resealed.Add(int64(out.Done))
					if after = out.Next; after == nil {
						break
					}
				}
			}
		}
	})
	require.Positive(t, resealed.Load())
	var rows []struct {
		ID         string `db:"connection_id"`
		Generation int64
		Sealed     []byte
	}
	require.NoError(t, sqlx.SelectContext(s.ctx, s.raw, &rows, `SELECT connection_id, generation, sealed FROM tokens`))
	require.NotEmpty(t, rows)
	for _, row := range rows {
		require.Equal(t, fmt.Sprint(row.ID, " ", row.Generation), string(row.Sealed[5:]))
	}
}

// A link that was superseded still leads where it led, and its recipient gets one
// of the new key.
func TestSupersedeLinks(t *testing.T) {
	s := newStore(t)
	ensure := func(id string, key uint32) (version int, used uint32) {
		t.Helper()
		version, used, err := s.EnsureLink(s.ctx, id, db.RecipientOperator, key, func(keyID uint32, version int) ([]byte, error) {
			return hashOf(fmt.Sprint(id, keyID, version)), nil
		})
		require.NoError(t, err)
		return version, used
	}
	for i := range 5 {
		s.connect(t, fmt.Sprint("c", i))
		ensure(fmt.Sprint("c", i), uint32(1+i/4))
	}
	count, err := s.LinksByKey(s.ctx)
	require.NoError(t, err)
	require.Equal(t, map[uint32]int{1: 4, 2: 1}, count)
	for _, want := range []int{3, 1, 0} {
		n, err := s.SupersedeLinks(s.ctx, 2, 3)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	count, err = s.LinksByKey(s.ctx)
	require.NoError(t, err)
	require.Equal(t, map[uint32]int{2: 1}, count)

	version, key := ensure("c0", 2)
	require.Equal(t, 2, version)
	require.EqualValues(t, 2, key)
	version, key = ensure("c4", 3)
	require.Equal(t, 1, version, "a link of the key in use stays")
	require.EqualValues(t, 2, key)
	before, err := s.LinkByHash(s.ctx, hashOf("c01 1"))
	require.NoError(t, err)
	require.Nil(t, before.RevokedAt)
	require.NoError(t, s.RevokeLinks(s.ctx, "c0", db.RecipientOperator))
	for _, hash := range []string{"c01 1", "c02 2"} {
		link, err := s.LinkByHash(s.ctx, hashOf(hash))
		require.NoError(t, err)
		require.NotNil(t, link.RevokedAt, "revoking takes all of a recipient's links")
	}
}
