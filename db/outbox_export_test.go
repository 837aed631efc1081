package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// ClaimStatement is the SQL of ClaimOutbox: $1 is when, $2 how many, $3 until when, $4 whether mail is on, $5 and $6 for whom.
var ClaimStatement = claimStatement

// ReplayBatch is how many events one transaction replays.
const ReplayBatch = replayBatch

// EnqueueTogether enqueues events in one transaction, in this order.
func (d *DB) EnqueueTogether(ctx context.Context, events ...OutboxEvent) error {
	return d.write(ctx, "enqueue events", func(ctx context.Context, tx *sqlx.Tx) error {
		for _, e := range events {
			if err := enqueue(ctx, tx, e, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// AddEventOutside adds a line without the context of its transaction.
func (d *DB) AddEventOutside(outside context.Context, e Event) error {
	return d.write(outside, "add an event", func(_ context.Context, tx *sqlx.Tx) error { return addEvent(outside, tx, e) })
}
