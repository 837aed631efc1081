package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// HoldRestored remembers until later that the provider called the connection
// of an open case connected: while the customer is in Connect, that is most
// likely their own doing, and the code is about to say so better. A closed case
// stays as it is. ErrNotFound when there is no such case.
func (d *DB) HoldRestored(ctx context.Context, caseID string, until time.Time) error {
	return d.updateCase(ctx, "hold what a provider announced", caseID, `
UPDATE cases SET restored_due_at = $2 WHERE case_id = $1 AND outcome IS NULL`, until)
}

// DueRestored lists the open cases whose hold is over.
func (d *DB) DueRestored(ctx context.Context, at time.Time, limit int) (list []Case, err error) {
	err = d.read(ctx, "list what providers announced", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectCases+`
 WHERE k.restored_due_at <= $1 AND k.outcome IS NULL ORDER BY k.restored_due_at LIMIT $2`, at, limit)
	})
	return list, err
}

// ForgetRestored ends a hold, once its case has been told.
func (d *DB) ForgetRestored(ctx context.Context, caseID string) error {
	return d.write(ctx, "forget what a provider announced", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `UPDATE cases SET restored_due_at = NULL WHERE case_id = $1`, caseID)
	})
}
