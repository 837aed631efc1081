package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jmoiron/sqlx"
)

// OutboxEvent is a webhook on its way to the backend.
type OutboxEvent struct {
	// ID is the webhook's ID; an event is enqueued once.
	ID   string `db:"event_id"`
	Type string `db:"type"`
	// Payload is kept byte for byte.
	Payload      json.RawMessage `db:"payload"`
	ConnectionID string          `db:"connection_id"`
	CaseID       string          `db:"case_id"`
	// Attempts counts the claims, CreatedAt is when it was enqueued; both are
	// only ever read.
	Attempts  int       `db:"attempts"`
	CreatedAt time.Time `db:"created_at"`
}

// Enqueue puts an event into the outbox, once. ErrNotFound when its connection
// or case is unknown.
func (d *DB) Enqueue(ctx context.Context, e OutboxEvent) error {
	now := d.now()
	return d.write(ctx, "enqueue an event", func(ctx context.Context, tx *sqlx.Tx) error { return enqueue(ctx, tx, e, now) })
}

func enqueue(ctx context.Context, tx *sqlx.Tx, e OutboxEvent, at time.Time) error {
	return exec(ctx, tx, `
INSERT INTO outbox (event_id, type, payload, connection_id, case_id, created_at, due_at) VALUES ($1, $2, $3, $4, $5, $6, $6)
ON CONFLICT (event_id) DO NOTHING`,
		e.ID, e.Type, string(e.Payload), null(e.ConnectionID), null(e.CaseID), at)
}

// ClaimOutbox takes events that are due, the oldest first, and keeps others
// from taking them for the time of the lease. An event that is neither Delivered
// nor DeliveryFailed by then is due again.
func (d *DB) ClaimOutbox(ctx context.Context, limit int, lease time.Duration) (list []OutboxEvent, err error) {
	now := d.now()
	err = d.write(ctx, "claim events", func(ctx context.Context, tx *sqlx.Tx) error {
		return tx.SelectContext(ctx, &list, `
WITH due AS (
    SELECT event_id FROM outbox WHERE delivered_at IS NULL AND abandoned_at IS NULL AND due_at <= $1
     ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE outbox o SET attempts = o.attempts + 1, due_at = $3 FROM due WHERE o.event_id = due.event_id
    RETURNING o.seq, o.event_id, o.type, o.payload, coalesce(o.connection_id, '') AS connection_id, coalesce(o.case_id, '') AS case_id,
              o.attempts, o.created_at
)
SELECT event_id, type, payload, connection_id, case_id, attempts, created_at FROM claimed ORDER BY seq`,
			now, page(limit), now.Add(lease))
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Delivered says that an event has arrived.
func (d *DB) Delivered(ctx context.Context, id string) error {
	now := d.now()
	return d.write(ctx, "note a delivery", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE outbox SET delivered_at = $2, last_error = '' WHERE event_id = $1 AND delivered_at IS NULL AND abandoned_at IS NULL`, id, now)
	})
}

// DeliveryFailed says why an event did not arrive, and when it is due next; the
// zero time gives it up.
func (d *DB) DeliveryFailed(ctx context.Context, id string, next time.Time, reason string) error {
	now := d.now()
	return d.write(ctx, "note a failed delivery", func(ctx context.Context, tx *sqlx.Tx) error {
		if next.IsZero() {
			return exec(ctx, tx, `
UPDATE outbox SET abandoned_at = $2, last_error = $3 WHERE event_id = $1 AND delivered_at IS NULL AND abandoned_at IS NULL`,
				id, now, plain(reason))
		}
		return exec(ctx, tx, `
UPDATE outbox SET due_at = $2, last_error = $3 WHERE event_id = $1 AND delivered_at IS NULL AND abandoned_at IS NULL`,
			id, next, plain(reason))
	})
}
