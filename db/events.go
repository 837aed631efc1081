package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// Event is one line of a case's timeline.
type Event struct {
	// CaseID is empty for what concerns a connection outside of any case.
	CaseID       string `db:"case_id"`
	ConnectionID string `db:"connection_id"`
	// Kind is a short word for programs, Detail a line for people.
	Kind   string    `db:"kind"`
	Detail string    `db:"detail"`
	At     time.Time `db:"at"`
}

// AddEvent adds a line to a timeline, once: the same line of the same case and
// time again changes nothing. ErrNotFound when the case or the connection is
// unknown, or the case is another connection's.
func (d *DB) AddEvent(ctx context.Context, e Event) error {
	return d.write(ctx, "add an event", func(ctx context.Context, tx *sqlx.Tx) error { return addEvent(ctx, tx, e) })
}

func addEvent(ctx context.Context, tx *sqlx.Tx, e Event) error {
	return exec(ctx, tx, `
INSERT INTO case_events (case_id, connection_id, kind, detail, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		null(e.CaseID), e.ConnectionID, e.Kind, plain(e.Detail), e.At)
}

// Timeline returns what happened in a case, the oldest first.
func (d *DB) Timeline(ctx context.Context, caseID string) (list []Event, err error) {
	err = d.read(ctx, "read a timeline", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT case_id, connection_id, kind, detail, at FROM case_events WHERE case_id = $1 ORDER BY at, event_id`, caseID)
	})
	return list, err
}
