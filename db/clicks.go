package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// Click is a press of the button behind a link, or the opening of embedded Connect.
type Click struct {
	// ID is a UUID; the same click is recorded once.
	ID     string
	LinkID *int64
	// CaseID is the case that the click belongs to, which need not be stored yet.
	CaseID       string
	ConnectionID string
	At           time.Time
	Embedded     bool
}

// RecordClick stores a click and moves the last click of its case. ErrNotFound
// when the connection is unknown or the link is another connection's.
func (d *DB) RecordClick(ctx context.Context, c Click) error {
	return d.write(ctx, "record a click", func(ctx context.Context, tx *sqlx.Tx) error {
		// The lock makes OpenCase see either this click or nothing of it.
		if _, err := lockConnection(ctx, tx, c.ConnectionID); err != nil {
			return err
		}
		inserted, err := changed(ctx, tx, `
INSERT INTO clicks (click_id, link_id, case_id, connection_id, embedded, at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (click_id) DO NOTHING`, c.ID, c.LinkID, c.CaseID, c.ConnectionID, c.Embedded, c.At)
		if err != nil || !inserted || c.CaseID == "" {
			return err
		}
		return exec(ctx, tx, `
UPDATE cases SET last_click_at = greatest(last_click_at, $3) WHERE case_id = $1 AND connection_id = $2`, c.CaseID, c.ConnectionID, c.At)
	})
}

// LastClick returns the time of a case's last click, nil when there was none.
func (d *DB) LastClick(ctx context.Context, caseID string) (at *time.Time, err error) {
	err = d.read(ctx, "read the last click", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &at, `SELECT max(at) FROM clicks WHERE case_id = $1 AND $1 <> ''`, caseID)
	})
	return at, err
}

// RecentClick reports whether anybody has clicked since a time, that time included.
func (d *DB) RecentClick(ctx context.Context, since time.Time) (recent bool, err error) {
	err = d.read(ctx, "look for recent clicks", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &recent, `SELECT EXISTS (SELECT FROM clicks WHERE at >= $1)`, since)
	})
	return recent, err
}
