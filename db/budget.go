package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// SpendBudget spends one of limit in the window that holds a time, and reports
// whether there was one left. Windows follow each other from the Unix epoch: with
// an hour, the budget is full again at every full hour. A name should hold no
// address of a person in plain text.
func (d *DB) SpendBudget(ctx context.Context, name string, limit int, window time.Duration, at time.Time) (spent bool, err error) {
	if limit <= 0 {
		return false, nil
	}
	began := at.UTC().Truncate(window)
	err = d.write(ctx, "spend of a budget", func(ctx context.Context, tx *sqlx.Tx) error {
		spent, err = changed(ctx, tx, `
INSERT INTO budgets AS b (name, began_at, ends_at, spent) VALUES ($1, $2, $3, 1)
ON CONFLICT (name) DO UPDATE
   SET began_at = greatest(b.began_at, excluded.began_at), ends_at = greatest(b.ends_at, excluded.ends_at),
       spent = CASE WHEN b.began_at < excluded.began_at THEN 1 ELSE b.spent + 1 END
 WHERE b.began_at < excluded.began_at OR b.spent < $4`,
			name, began, began.Add(window), limit)
		if err != nil {
			return err
		}
		// Budgets that are over go away with those that are spent. This comes
		// last and waits for no lock, so that no two spenders wait for each other.
		return exec(ctx, tx, `
DELETE FROM budgets WHERE name IN (
    SELECT name FROM budgets WHERE ends_at <= $1 ORDER BY ends_at LIMIT 10 FOR UPDATE SKIP LOCKED)`, began)
	})
	return spent && err == nil, err
}
