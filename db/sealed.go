package db

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// SealedColumn is a column of values that were sealed with our keys.
type SealedColumn struct {
	Table, Column string
	// Key is the table's primary key.
	Key []string
	// Bound is what the values are bound to: a word, and then columns of the same
	// row. Together they are the parts that secrets.Keys.Seal was given.
	Bound       string
	BoundFields []string
}

// SealedColumns lists every column with sealed values. A new one belongs here:
// that is all it needs to be counted by key and to be sealed anew when keys are
// rotated. A test finds those that are missing.
func SealedColumns() []SealedColumn {
	return []SealedColumn{
		{Table: "tokens", Column: "sealed", Key: []string{"connection_id", "generation"}, Bound: "token", BoundFields: []string{"connection_id", "generation"}},
		{Table: "minted", Column: "sealed", Key: []string{"code_hash", "fingerprint"}, Bound: "minted", BoundFields: []string{"connection_id"}},
		{Table: "quarantined_tokens", Column: "sealed", Key: []string{"fingerprint"}, Bound: "minted", BoundFields: []string{"connection_id"}},
		{Table: "staged_tokens", Column: "sealed", Key: []string{"fingerprint"}, Bound: "staged", BoundFields: []string{"import_id", "fingerprint"}},
		{Table: "held_codes", Column: "sealed", Key: []string{"hash"}, Bound: "code", BoundFields: []string{"hash", "connection_id"}},
	}
}

// TokenBound is what the seal of a stored token is bound to, as SealedColumns says
// it: a row copied elsewhere does not open.
func TokenBound(connectionID string, generation int64) []string {
	return []string{"token", connectionID, strconv.FormatInt(generation, 10)}
}

// MintedBound is the same for a token that was minted, or is in quarantine.
func MintedBound(connectionID string) []string { return []string{"minted", connectionID} }

// keyOf is SQL for the ID of the key that a value was sealed with: Tink writes it
// behind a version byte. It is NULL for what is not sealed.
func keyOf(column string) string {
	return fmt.Sprintf(`(CASE WHEN octet_length(%[1]s) > 5 AND get_byte(%[1]s, 0) = 1
  THEN (get_byte(%[1]s, 1)::bigint << 24) + (get_byte(%[1]s, 2) << 16) + (get_byte(%[1]s, 3) << 8) + get_byte(%[1]s, 4) END)`, column)
}

// SealedByKey counts a column's values by the key that they were sealed with.
// Those that are not sealed at all are counted as 0.
func (d *DB) SealedByKey(ctx context.Context, c SealedColumn) (count map[uint32]int, err error) {
	err = d.read(ctx, "count the sealed values of "+c.Table, func(ctx context.Context) error {
		count, err = countByKey(ctx, d.sqlx, `
SELECT coalesce(`+keyOf(c.Column)+`, 0) AS key_id, count(*) AS n FROM `+c.Table+` WHERE `+c.Column+` IS NOT NULL GROUP BY 1`)
		return err
	})
	return count, err
}

func countByKey(ctx context.Context, q sqlx.QueryerContext, query string, args ...any) (map[uint32]int, error) {
	var rows []struct {
		KeyID uint32 `db:"key_id"`
		N     int    `db:"n"`
	}
	if err := sqlx.SelectContext(ctx, q, &rows, query, args...); err != nil {
		return nil, err
	}
	count := make(map[uint32]int, len(rows))
	for _, row := range rows {
		count[row.KeyID] = row.N
	}
	return count, nil
}

// Resealing is one batch of sealing a column's values anew.
type Resealing struct {
	// Primary is the key in use: values that were sealed with it stay.
	Primary uint32
	// After is where the last batch ended; nil begins.
	After []string
	Limit int
	// Seal seals a value anew for the same parts. It runs while rows are locked,
	// so it must not wait for anything. An error leaves the value as it is.
	Seal func(sealed []byte, bound []string) ([]byte, error)
}

// Resealed is what a batch has done.
type Resealed struct {
	// Next is where the batch ended; nil when there is nothing behind it.
	Next []string
	// Done values were sealed anew, and Failed ones were not: each with its error.
	Done   int
	Failed []error
}

// Reseal seals one batch of a column's values anew that were sealed with another
// key than the one in use, in the order of the table's primary key. It may run
// beside everything else: it waits for no row (what another transaction holds is
// left for the next time), and a value is replaced only if it is the one that was
// opened. When it is interrupted, what is done is done; a repetition finds the rest.
func (d *DB) Reseal(ctx context.Context, c SealedColumn, r Resealing) (out Resealed, err error) {
	err = d.write(ctx, "seal values of "+c.Table+" anew", func(ctx context.Context, tx *sqlx.Tx) error {
		out = Resealed{}
		var rows []struct {
			Place string         `db:"place"`
			Key   pq.StringArray `db:"row_key"`
			Bound pq.StringArray `db:"bound"`
			Value []byte         `db:"value"`
		}
		args := []any{int64(r.Primary), r.Limit}
		behind := ""
		if len(r.After) > 0 {
			var places []string
			for _, part := range r.After {
				args = append(args, part)
				places = append(places, fmt.Sprintf("$%d", len(args)))
			}
			behind = fmt.Sprintf(" AND (%s) > (%s)", strings.Join(c.Key, ", "), strings.Join(places, ", "))
		}
		key := strings.Join(c.Key, ", ")
		if err := tx.SelectContext(ctx, &rows, `
SELECT ctid::text AS place, `+texts(c.Key)+` AS row_key, `+texts(c.BoundFields)+` AS bound, `+c.Column+` AS value
  FROM `+c.Table+`
 WHERE `+c.Column+` IS NOT NULL AND `+keyOf(c.Column)+` IS DISTINCT FROM $1`+behind+`
 ORDER BY `+key+` LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED`, args...); err != nil {
			return err
		}
		if len(rows) == r.Limit {
			out.Next = rows[len(rows)-1].Key
		}
		var places pq.StringArray
		var before, after pq.ByteaArray
		for _, row := range rows {
			sealed, err := r.Seal(row.Value, append([]string{c.Bound}, row.Bound...))
			if err != nil {
				out.Failed = append(out.Failed, err)
				continue
			}
			places, before, after = append(places, row.Place), append(before, row.Value), append(after, sealed)
		}
		if len(places) == 0 {
			return nil
		}
		out.Done, err = affected(ctx, tx, `
UPDATE `+c.Table+` t SET `+c.Column+` = v.after
  FROM unnest($1::tid[], $2::bytea[], $3::bytea[]) v (place, before, after)
 WHERE t.ctid = v.place AND t.`+c.Column+` = v.before`, places, before, after)
		return err
	})
	if err != nil {
		return Resealed{}, err
	}
	return out, nil
}

// texts is SQL for an array of columns as texts.
func texts(columns []string) string {
	cast := make([]string, len(columns))
	for i, column := range columns {
		cast[i] = column + "::text"
	}
	return "ARRAY[" + strings.Join(cast, ", ") + "]"
}
