package db

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// BulkFilter chooses open cases; an empty field chooses every case.
type BulkFilter struct {
	Provider    reauth.Provider `db:"provider"`
	Application string          `db:"application"`
	System      string          `db:"system"`
	Phase       reauth.Phase    `db:"phase"`
}

// Bulk is what was asked of many cases at once.
type Bulk struct {
	BulkID string            `db:"bulk_id"`
	Action reauth.BulkAction `db:"action"`
	BulkFilter
	// Every says that all open cases are meant: that an empty filter is meant so.
	Every bool `db:"every"`
	// Reason and By say why and by whom, without an address.
	Reason string `db:"reason"`
	By     string `db:"created_by"`
	// Until is when a snooze ends.
	Until     *time.Time `db:"until"`
	CreatedAt time.Time  `db:"created_at"`
	// Matched counts the cases that were open and fitted when it was asked for.
	// Told of them were told, Gone had ended before it was their turn, and After is
	// the last of those. They are only ever read.
	Matched   int        `db:"matched"`
	Told      int        `db:"told"`
	Gone      int        `db:"gone"`
	After     string     `db:"after_case"`
	StartedAt *time.Time `db:"started_at"`
	EndedAt   *time.Time `db:"ended_at"`
	EndedHow  string     `db:"ended_how"`
}

// bulkMatches are the cases that were open at a time and fit.
const bulkMatches = `
  FROM cases k JOIN connections c USING (connection_id)
 WHERE ($1 = '' OR k.provider = $1) AND ($2 = '' OR k.application = $2) AND ($3 = '' OR c.system = $3)
   AND k.opened_at <= $5 AND (k.outcome IS NULL AND ($4 = '' OR k.phase = $4) OR k.closed_at >= $5 AND $4 = '')`

func (b Bulk) args(more ...any) []any {
	return append([]any{b.Provider, b.Application, b.System, b.Phase, b.CreatedAt}, more...)
}

const selectBulks = `
SELECT bulk_id, action, provider, application, system, phase, every, reason, created_by, until, created_at, matched, told, gone, after_case,
       started_at, ended_at, ended_how
  FROM bulks`

// CountBulk counts the open cases that a filter chooses.
func (d *DB) CountBulk(ctx context.Context, f BulkFilter) (n int, err error) {
	err = d.read(ctx, "count the cases that fit", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &n, `
SELECT count(*) FROM cases k JOIN connections c USING (connection_id)
 WHERE ($1 = '' OR k.provider = $1) AND ($2 = '' OR k.application = $2) AND ($3 = '' OR c.system = $3) AND ($4 = '' OR k.phase = $4)
   AND k.outcome IS NULL`, f.Provider, f.Application, f.System, f.Phase)
	})
	return n, err
}

// AddBulk stores what is asked of many cases; a worker begins it. It returns the
// bulk with its ID and how many cases it is about. A filter that chooses every
// case is refused where b.Every does not say so.
func (d *DB) AddBulk(ctx context.Context, b Bulk) (Bulk, error) {
	const doing = "ask many cases"
	if b.Every != (b.BulkFilter == BulkFilter{}) {
		return Bulk{}, errors.New(doing + ": the filter must choose some, or else all of them be asked for")
	}
	b.BulkID, b.Reason, b.By = uuid.NewString(), plain(b.Reason), plain(b.By)
	err := d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		// Cases may live by another clock, that of a machine or of a developer.
		if err := tx.GetContext(ctx, &b.CreatedAt, `
SELECT greatest($1::timestamptz, max(opened_at)) FROM cases WHERE outcome IS NULL`, b.CreatedAt); err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &b.Matched, `SELECT count(*)`+bulkMatches, b.args()...); err != nil {
			return err
		}
		return exec(ctx, tx, `
INSERT INTO bulks (bulk_id, action, provider, application, system, phase, every, reason, created_by, until, created_at, matched)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
			b.BulkID, b.Action, b.Provider, b.Application, b.System, b.Phase, b.Every, b.Reason, b.By, b.Until, b.CreatedAt, b.Matched)
	})
	if err != nil {
		return Bulk{}, err
	}
	return b, nil
}

// BulkByID returns a bulk. ErrNotFound when there is none.
func (d *DB) BulkByID(ctx context.Context, id string) (b Bulk, err error) {
	err = d.read(ctx, "read a bulk", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &b, selectBulks+` WHERE bulk_id = $1`, id)
	})
	return b, err
}

// Bulks lists bulks, the newest first.
func (d *DB) Bulks(ctx context.Context, limit int) (list []Bulk, err error) {
	err = d.read(ctx, "list bulks", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectBulks+` ORDER BY created_at DESC, bulk_id LIMIT $1`, page(limit))
	})
	return list, err
}

// UnstartedBulks lists the bulks that no workflow has begun, the oldest first.
func (d *DB) UnstartedBulks(ctx context.Context) (ids []string, err error) {
	err = d.read(ctx, "look for bulks", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &ids, `
SELECT bulk_id FROM bulks WHERE started_at IS NULL AND ended_at IS NULL ORDER BY created_at, bulk_id LIMIT 20`)
	})
	return ids, err
}

// StartBulk says that a bulk has begun, and returns it. ErrNotFound when there is
// none.
func (d *DB) StartBulk(ctx context.Context, id string, at time.Time) (b Bulk, err error) {
	err = d.write(ctx, "begin a bulk", func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `UPDATE bulks SET started_at = $2 WHERE bulk_id = $1 AND started_at IS NULL`, id, at); err != nil {
			return err
		}
		return tx.GetContext(ctx, &b, selectBulks+` WHERE bulk_id = $1`, id)
	})
	return b, err
}

// BulkCase is a case that a bulk is about.
type BulkCase struct {
	CaseID       string `db:"case_id"`
	ConnectionID string `db:"connection_id"`
	Open         bool   `db:"open"`
}

// BulkCases lists the cases that a bulk has not told yet, in the order of their
// IDs, also those that have ended since it was asked for: so every case is
// counted once, wherever it goes on after a crash. (Where the filter names a
// phase, those are left out: nobody knows in which phase they were.)
func (d *DB) BulkCases(ctx context.Context, b Bulk, after string, limit int) (list []BulkCase, err error) {
	err = d.read(ctx, "list the cases of a bulk", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT k.case_id, k.connection_id, k.outcome IS NULL AS open`+bulkMatches+` AND k.case_id > $6 ORDER BY k.case_id LIMIT $7`, b.args(after, page(limit))...)
	})
	return list, err
}

// BulkTold says that a case was told, or that it had ended, once.
func (d *DB) BulkTold(ctx context.Context, id, caseID string, told bool) error {
	return d.write(ctx, "note that a case was told", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE bulks SET after_case = $2, told = told + CASE WHEN $3 THEN 1 ELSE 0 END, gone = gone + CASE WHEN $3 THEN 0 ELSE 1 END
 WHERE bulk_id = $1 AND after_case < $2`, id, caseID, told)
	})
}

// EndBulk ends a bulk, and returns it; the first end stands.
func (d *DB) EndBulk(ctx context.Context, id, how string, at time.Time) (b Bulk, err error) {
	const doing = "end a bulk"
	if how == "" {
		return b, errors.New(doing + ": say how it ended")
	}
	err = d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
UPDATE bulks SET ended_at = $2, ended_how = $3, started_at = coalesce(started_at, $2) WHERE bulk_id = $1 AND ended_at IS NULL`, id, at, plain(how)); err != nil {
			return err
		}
		return tx.GetContext(ctx, &b, selectBulks+` WHERE bulk_id = $1`, id)
	})
	return b, err
}
