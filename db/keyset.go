package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// What a key of a keyset does.
const (
	KeySeals = "seal"  // it seals values
	KeyLinks = "links" // it derives the secrets of links
)

const (
	// HolderEvery is how often a process says which keys it has; it counts as
	// running for as long as holderFor after the last time.
	HolderEvery = 30 * time.Second
	holderFor   = 3 * time.Minute
)

// Holder is a running process and the keys that it has.
type Holder struct {
	// ID is the process's alone; Name says what it is and where, for people.
	ID   string
	Name string
	// SealKeys and LinkKeys are the keys that it can use, SealPrimary and
	// LinkPrimary those that it uses for what is new.
	SealKeys    []uint32
	SealPrimary uint32
	LinkKeys    []uint32
	LinkPrimary uint32
	SeenAt      time.Time
}

// KeysetKey is what is known of a key. The key itself is nowhere here.
type KeysetKey struct {
	Kind        string    `db:"kind"`
	ID          uint32    `db:"key_id"`
	FirstSeenAt time.Time `db:"first_seen_at"`
	// PrimarySince and LastPrimaryAt are when a process first and last said that
	// it uses the key for what is new; nil where none ever has.
	PrimarySince  *time.Time `db:"primary_since"`
	LastPrimaryAt *time.Time `db:"last_primary_at"`
}

// HoldKeys notes that a process runs, and which keys it has and uses.
func (d *DB) HoldKeys(ctx context.Context, h Holder) error {
	now := d.now()
	return d.write(ctx, "note which keys a process has", func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
INSERT INTO keyset_holders AS h (process_id, name, seal_keys, seal_primary, link_keys, link_primary, seen_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (process_id) DO UPDATE
   SET name = excluded.name, seal_keys = excluded.seal_keys, seal_primary = excluded.seal_primary,
       link_keys = excluded.link_keys, link_primary = excluded.link_primary, seen_at = greatest(h.seen_at, excluded.seen_at)`,
			h.ID, h.Name, ids(h.SealKeys), int64(h.SealPrimary), ids(h.LinkKeys), int64(h.LinkPrimary), now); err != nil {
			return err
		}
		// In the order of the keys, so that no two processes wait for each other.
		if err := exec(ctx, tx, `
INSERT INTO keyset_keys AS k (kind, key_id, first_seen_at, primary_since, last_primary_at)
SELECT kind, id, $5, CASE WHEN used THEN $5::timestamptz END, CASE WHEN used THEN $5::timestamptz END
  FROM (SELECT 'links' AS kind, id, id = $4 AS used FROM unnest($3::bigint[]) id
         UNION ALL SELECT 'seal', id, id = $2 FROM unnest($1::bigint[]) id ORDER BY 1, 2) held
ON CONFLICT (kind, key_id) DO UPDATE
   SET primary_since = coalesce(k.primary_since, excluded.primary_since), last_primary_at = greatest(k.last_primary_at, excluded.last_primary_at)
 WHERE excluded.last_primary_at IS NOT NULL`,
			ids(h.SealKeys), int64(h.SealPrimary), ids(h.LinkKeys), int64(h.LinkPrimary), now); err != nil {
			return err
		}
		return exec(ctx, tx, `
DELETE FROM keyset_holders WHERE process_id IN (
    SELECT process_id FROM keyset_holders WHERE seen_at < $1 LIMIT 100 FOR UPDATE SKIP LOCKED)`, now.Add(-24*time.Hour))
	})
}

// LetKeysGo notes that a process has come to its end.
func (d *DB) LetKeysGo(ctx context.Context, processID string) error {
	return d.write(ctx, "note that a process has ended", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `DELETE FROM keyset_holders WHERE process_id = $1`, processID)
	})
}

// Holders lists the processes that run, as far as they say so.
func (d *DB) Holders(ctx context.Context) (list []Holder, err error) {
	var rows []struct {
		ID          string        `db:"process_id"`
		Name        string        `db:"name"`
		SealKeys    pq.Int64Array `db:"seal_keys"`
		SealPrimary uint32        `db:"seal_primary"`
		LinkKeys    pq.Int64Array `db:"link_keys"`
		LinkPrimary uint32        `db:"link_primary"`
		SeenAt      time.Time     `db:"seen_at"`
	}
	err = d.read(ctx, "list the processes that have keys", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &rows, `
SELECT process_id, name, seal_keys, seal_primary, link_keys, link_primary, seen_at
  FROM keyset_holders WHERE seen_at >= $1 ORDER BY name, process_id`, d.now().Add(-holderFor))
	})
	for _, row := range rows {
		list = append(list, Holder{
			ID: row.ID, Name: row.Name, SealKeys: keyIDs(row.SealKeys), SealPrimary: row.SealPrimary,
			LinkKeys: keyIDs(row.LinkKeys), LinkPrimary: row.LinkPrimary, SeenAt: row.SeenAt,
		})
	}
	return list, err
}

// KeysetKeys lists every key that a process ever had, the first seen first.
func (d *DB) KeysetKeys(ctx context.Context) (list []KeysetKey, err error) {
	err = d.read(ctx, "list what is known of keys", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT kind, key_id, first_seen_at, primary_since, last_primary_at FROM keyset_keys ORDER BY kind DESC, first_seen_at, key_id`)
	})
	return list, err
}

// OpenCasesBefore counts the open cases that were opened by a time.
func (d *DB) OpenCasesBefore(ctx context.Context, at time.Time) (n int, err error) {
	err = d.read(ctx, "count open cases", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &n, `SELECT count(*) FROM cases WHERE outcome IS NULL AND opened_at <= $1`, at)
	})
	return n, err
}

func ids(keys []uint32) pq.Int64Array {
	list := make(pq.Int64Array, len(keys))
	for i, key := range keys {
		list[i] = int64(key)
	}
	return list
}

func keyIDs(list pq.Int64Array) []uint32 {
	keys := make([]uint32, len(list))
	for i, key := range list {
		keys[i] = uint32(key)
	}
	return keys
}
