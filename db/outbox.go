package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// NoticeDue is the type of the event by which the backend writes to the customer
// itself.
const NoticeDue = "reauth.notice.due"

// OutboxEvent is a webhook on its way to the backend.
type OutboxEvent struct {
	// ID is the webhook's ID; an event is enqueued once.
	ID   string `db:"event_id"`
	Type string `db:"type"`
	// Payload is kept byte for byte.
	Payload      json.RawMessage `db:"payload"`
	ConnectionID string          `db:"connection_id"`
	CaseID       string          `db:"case_id"`
	// Recipients are contacts of the connection, by their IDs: their addresses
	// and links are added to the payload when it leaves.
	Recipients pq.StringArray `db:"recipients"`
	// Attempts counts the claims since QueuedAt, when the event was enqueued or
	// last replayed; CreatedAt is when it was enqueued. They are only ever read.
	Attempts  int       `db:"attempts"`
	CreatedAt time.Time `db:"created_at"`
	QueuedAt  time.Time `db:"queued_at"`
}

// OutboxState says where an event is.
type OutboxState string

// The states of an event.
const (
	OutboxWaiting   OutboxState = "waiting"   // it will be brought
	OutboxDelivered OutboxState = "delivered" // the backend took it
	OutboxAbandoned OutboxState = "abandoned" // it was given up
)

// OutboxRow is an event of the outbox, with what has become of it.
type OutboxRow struct {
	OutboxEvent
	State OutboxState `db:"state"`
	// DueAt is when a waiting event is brought next; nil while an earlier one
	// of its case waits.
	DueAt       *time.Time `db:"due_at"`
	DeliveredAt *time.Time `db:"delivered_at"`
	AbandonedAt *time.Time `db:"abandoned_at"`
	LastError   string     `db:"last_error"`
}

// OutboxFilter chooses events; an empty field chooses every event.
type OutboxFilter struct {
	ID, Type, CaseID, ConnectionID string
	State                          OutboxState
	// Since and Until bound when the event was enqueued; Until is the first
	// moment past them.
	Since, Until time.Time
}

const (
	outboxWaits   = `delivered_at IS NULL AND abandoned_at IS NULL`
	outboxColumns = `event_id, type, payload, coalesce(connection_id, '') AS connection_id, coalesce(case_id, '') AS case_id, recipients,
       attempts, created_at, coalesce(replayed_at, created_at) AS queued_at`
	outboxMatches = `
       ($1 = '' OR event_id = $1) AND ($2 = '' OR type = $2) AND ($3 = '' OR case_id = $3) AND ($4 = '' OR connection_id = $4)
   AND ($5 = '' OR $5 = CASE WHEN delivered_at IS NOT NULL THEN 'delivered' WHEN abandoned_at IS NOT NULL THEN 'abandoned' ELSE 'waiting' END)
   AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)`
)

func (f OutboxFilter) args(more ...any) []any {
	moment := func(t time.Time) sql.NullTime { return sql.NullTime{Time: t, Valid: !t.IsZero()} }
	return append([]any{f.ID, f.Type, f.CaseID, f.ConnectionID, f.State, moment(f.Since), moment(f.Until)}, more...)
}

// Enqueue puts an event into the outbox, once. It is brought after the events of
// its case that wait there already. ErrNotFound when its connection or case is
// unknown.
func (d *DB) Enqueue(ctx context.Context, e OutboxEvent) error {
	now := d.now()
	return d.write(ctx, "enqueue an event", func(ctx context.Context, tx *sqlx.Tx) error { return enqueue(ctx, tx, e, now) })
}

// enqueue lets an event go into the outbox at the end of the transaction.
func enqueue(ctx context.Context, _ *sqlx.Tx, e OutboxEvent, at time.Time) error {
	return outgoingOf(ctx).add(outgoingEvent{caseID: e.CaseID, at: at, make: func(context.Context, *sqlx.Tx) (OutboxEvent, error) { return e, nil }})
}

// outgoing are the events that a transaction puts into the outbox. They are
// written last, the cases in order, since writing takes a lock on the turns of
// the case until the transaction ends: so the events of a case have the order of
// their transactions, and no two transactions can wait for each other.
type outgoing struct {
	publishes bool
	now       func() time.Time
	events    []outgoingEvent
}

type outgoingEvent struct {
	caseID string
	at     time.Time
	make   func(ctx context.Context, tx *sqlx.Tx) (OutboxEvent, error)
}

type outgoingKey struct{}

var errNoTransaction = errors.New("an event needs the context of its transaction")

// in returns the context of a transaction's statements.
func (o *outgoing) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, outgoingKey{}, o)
}

// outgoingOf finds the events of the transaction that a context belongs to.
func outgoingOf(ctx context.Context) *outgoing {
	o, _ := ctx.Value(outgoingKey{}).(*outgoing)
	return o
}

func (o *outgoing) add(e outgoingEvent) error {
	if o == nil {
		return errNoTransaction
	}
	o.events = append(o.events, e)
	return nil
}

// line adds the event of a line of a case's timeline. The event of a closed case
// comes with its Closing, unless the run of the case was terminated.
func (o *outgoing) line(id int64, e Event) error {
	if o == nil {
		return errNoTransaction
	}
	if !o.publishes {
		return nil
	}
	event := outgoingEvent{caseID: e.CaseID, at: o.now(), make: func(ctx context.Context, tx *sqlx.Tx) (OutboxEvent, error) {
		return lineEvent(ctx, tx, id, e)
	}}
	if e.Kind == EventClosed {
		if e.Detail != string(reauth.OutcomeCancelled)+": "+ReasonTerminated {
			return nil
		}
		event.make = func(ctx context.Context, tx *sqlx.Tx) (OutboxEvent, error) { return closedEvent(ctx, tx, e) }
	}
	return o.add(event)
}

// write puts the events into the outbox. What is due at once is so by the real
// clock, whatever the clock of the cases: the backend has no other.
func (o *outgoing) write(ctx context.Context, tx *sqlx.Tx) error {
	slices.SortStableFunc(o.events, func(a, b outgoingEvent) int { return strings.Compare(a.caseID, b.caseID) })
	locked := ""
	for _, out := range o.events {
		if out.caseID != locked {
			if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(`+turnsOf("$1")+`)`, out.caseID); err != nil {
				return err
			}
			locked = out.caseID
		}
		e, err := out.make(ctx, tx)
		if err != nil {
			return err
		}
		if e.Recipients == nil {
			e.Recipients = pq.StringArray{}
		}
		if err := exec(ctx, tx, `
INSERT INTO outbox (event_id, type, payload, connection_id, case_id, recipients, created_at, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN EXISTS (SELECT FROM outbox WHERE case_id = $5 AND `+outboxWaits+`) THEN NULL ELSE $8::timestamptz END)
ON CONFLICT (event_id) DO NOTHING`,
			e.ID, e.Type, string(e.Payload), null(e.ConnectionID), null(e.CaseID), e.Recipients, out.at, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// turnsOf is the SQL for the key of the lock on the turns of a case.
func turnsOf(caseID string) string { return `hashtextextended('outbox ' || ` + caseID + `, 0)` }

// claimStatement looks at no more rows than it takes, however many wait: those
// whose turn has not come have no place in the index.
func claimStatement() string {
	return `
WITH due AS (
    SELECT event_id FROM outbox o WHERE due_at <= $1 AND ` + outboxWaits + `
       AND ($4 OR type <> '` + NoticeDue + `' OR NOT EXISTS (SELECT FROM cases k WHERE k.case_id = o.case_id AND k.outcome IS NULL))
       AND ` + outboxPart("$5", "$6") + `
     ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE outbox SET attempts = attempts + 1, due_at = $3 WHERE event_id IN (SELECT event_id FROM due) RETURNING *
)
SELECT ` + outboxColumns + ` FROM claimed ORDER BY seq`
}

// ClaimOutbox takes events that are due at a time, those that have been due the
// longest, and keeps others from taking them for the time of the lease. An event
// that is neither Delivered nor DeliveryFailed by then is due again. Of the
// events of a case only the earliest that waits is ever taken. Those by which the
// backend would write to a customer wait while mail is not on.
func (d *DB) ClaimOutbox(ctx context.Context, at time.Time, limit int, lease time.Duration) (list []OutboxEvent, err error) {
	return OutboxPart{DB: d}.ClaimOutbox(ctx, at, limit, lease)
}

// nonNil is a list that PostgreSQL takes for one, and not for NULL.
func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// OutboxPart is the outbox as far as it is for one receiver: the events about
// connections of one application, or, where Only is empty, all others.
type OutboxPart struct {
	*DB
	Only   string
	Except []string
}

// outboxPart is the SQL that tells whether an event is in a part.
func outboxPart(only, except string) string {
	return `CASE WHEN ` + only + ` <> '' THEN EXISTS (SELECT FROM connections c WHERE c.connection_id = o.connection_id AND c.application = ` + only + `)
                ELSE cardinality(` + except + `::text[]) = 0
                     OR NOT EXISTS (SELECT FROM connections c WHERE c.connection_id = o.connection_id AND c.application = ANY(` + except + `)) END`
}

// ClaimOutbox is DB's, for the events of the part.
func (d OutboxPart) ClaimOutbox(ctx context.Context, at time.Time, limit int, lease time.Duration) (list []OutboxEvent, err error) {
	err = d.write(ctx, "claim events", func(ctx context.Context, tx *sqlx.Tx) error {
		control, err := mailControl(ctx, tx)
		if err != nil {
			return err
		}
		return tx.SelectContext(ctx, &list, claimStatement(), at, page(limit), at.Add(lease), control.Mode == reauth.MailOn, d.Only, pq.StringArray(nonNil(d.Except)))
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Delivered says that an event has arrived; the next one of its case is due then.
func (d *DB) Delivered(ctx context.Context, id string, at time.Time) error {
	return d.endOutbox(ctx, "note a delivery", id, "delivered_at", at, "")
}

// DeliveryFailed says why an event did not arrive, and when it is due next. The
// zero time gives it up; the next one of its case is due then.
func (d *DB) DeliveryFailed(ctx context.Context, id string, at, next time.Time, reason string) error {
	const doing = "note a failed delivery"
	reason = plain(reason)
	if next.IsZero() {
		return d.endOutbox(ctx, doing, id, "abandoned_at", at, reason)
	}
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE outbox SET due_at = $2, last_error = $3 WHERE event_id = $1 AND due_at IS NOT NULL AND `+outboxWaits, id, next, reason)
	})
}

// endOutbox ends an event that waits, and gives the next one of its case its turn.
func (d *DB) endOutbox(ctx context.Context, doing, id, end string, at time.Time, reason string) error {
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(`+turnsOf("case_id")+`) FROM outbox WHERE event_id = $1 AND case_id IS NOT NULL`, id); err != nil {
			return err
		}
		var caseID string
		ended, err := first(ctx, tx, &caseID, `
UPDATE outbox SET `+end+` = $2, last_error = $3 WHERE event_id = $1 AND `+outboxWaits+` RETURNING coalesce(case_id, '')`, id, at, reason)
		if err != nil || !ended || caseID == "" {
			return err
		}
		return exec(ctx, tx, `
UPDATE outbox SET due_at = $2 WHERE due_at IS NULL AND event_id = (
    SELECT event_id FROM outbox WHERE case_id = $1 AND `+outboxWaits+` ORDER BY seq LIMIT 1)`, caseID, at)
	})
}

// OverdueOutbox returns the IDs of events that are due at a time, whose turn has
// come, and that were enqueued or last replayed before another time.
func (d *DB) OverdueOutbox(ctx context.Context, at, before time.Time, limit int) (ids []string, err error) {
	return OutboxPart{DB: d}.OverdueOutbox(ctx, at, before, limit)
}

// OverdueOutbox is DB's, for the events of the part.
func (d OutboxPart) OverdueOutbox(ctx context.Context, at, before time.Time, limit int) (ids []string, err error) {
	err = d.read(ctx, "look for old events", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &ids, `
SELECT event_id FROM outbox o WHERE due_at <= $1 AND `+outboxWaits+` AND coalesce(replayed_at, created_at) < $2 AND `+outboxPart("$4", "$5")+`
 ORDER BY due_at, seq LIMIT $3`, at, before, page(limit), d.Only, pq.StringArray(nonNil(d.Except)))
	})
	return ids, err
}

// Outbox lists events, the newest first: limit of them, 500 at most, 50 when it
// is zero.
func (d *DB) Outbox(ctx context.Context, filter OutboxFilter, limit int) (list []OutboxRow, err error) {
	err = d.read(ctx, "list events", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT `+outboxColumns+`, due_at, delivered_at, abandoned_at, last_error,
       CASE WHEN delivered_at IS NOT NULL THEN 'delivered' WHEN abandoned_at IS NOT NULL THEN 'abandoned' ELSE 'waiting' END AS state
  FROM outbox WHERE`+outboxMatches+` ORDER BY seq DESC LIMIT $8`, filter.args(page(limit))...)
	})
	return list, err
}

// replayBatch is how many events one transaction replays.
const replayBatch = 200

// ReplayOutbox makes events due again at a time, whatever has become of them,
// each under its old ID, and returns how many. Those of a case keep their order.
// Events that are enqueued meanwhile are left alone. When it fails midway, those
// that were counted are due, and calling it again is safe. An empty filter is
// refused.
func (d *DB) ReplayOutbox(ctx context.Context, filter OutboxFilter, at time.Time) (replayed int, err error) {
	const doing = "replay events"
	if filter == (OutboxFilter{}) {
		return 0, errors.New(doing + ": the filter must choose some")
	}
	var last int64
	if err := d.read(ctx, doing, func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &last, `SELECT coalesce(max(seq), 0) FROM outbox`)
	}); err != nil {
		return 0, err
	}
	for from := int64(0); ; {
		var batch []outboxPlace
		err := d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
			if err := tx.SelectContext(ctx, &batch, `
SELECT event_id, seq, coalesce(case_id, '') AS case_id FROM outbox
 WHERE`+outboxMatches+` AND seq > $8 AND seq <= $9 ORDER BY seq LIMIT $10`, filter.args(from, last, replayBatch)...); err != nil {
				return err
			}
			return replay(ctx, tx, batch, at)
		})
		if err != nil && replayed > 0 {
			err = fmt.Errorf("%w; %d were replayed before", err, replayed)
		}
		if err != nil {
			return replayed, err
		}
		replayed += len(batch)
		if len(batch) < replayBatch {
			return replayed, nil
		}
		from = batch[len(batch)-1].Seq
	}
}

// outboxPlace is an event's place in the outbox.
type outboxPlace struct {
	ID     string `db:"event_id"`
	Seq    int64  `db:"seq"`
	CaseID string `db:"case_id"`
}

// replay makes events due again, and gives the turns of their cases anew.
func replay(ctx context.Context, tx *sqlx.Tx, batch []outboxPlace, at time.Time) error {
	ids, cases := make(pq.StringArray, len(batch)), pq.StringArray{}
	for i, place := range batch {
		ids[i] = place.ID
		if place.CaseID != "" {
			cases = append(cases, place.CaseID)
		}
	}
	slices.Sort(cases)
	cases = slices.Compact(cases)
	for _, caseID := range cases {
		if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(`+turnsOf("$1")+`)`, caseID); err != nil {
			return err
		}
	}
	if err := exec(ctx, tx, `
UPDATE outbox SET delivered_at = NULL, abandoned_at = NULL, replayed_at = $2::timestamptz, attempts = 0, last_error = '',
       due_at = CASE WHEN case_id IS NULL THEN $2::timestamptz END
 WHERE event_id = ANY ($1)`, ids, at); err != nil {
		return err
	}
	const earlier = `EXISTS (SELECT FROM outbox e WHERE e.case_id = o.case_id AND e.seq < o.seq AND e.delivered_at IS NULL AND e.abandoned_at IS NULL)`
	if err := exec(ctx, tx, `
UPDATE outbox o SET due_at = NULL WHERE case_id = ANY ($1) AND due_at IS NOT NULL AND `+outboxWaits+` AND `+earlier, cases); err != nil {
		return err
	}
	return exec(ctx, tx, `
UPDATE outbox o SET due_at = $2 WHERE case_id = ANY ($1) AND due_at IS NULL AND `+outboxWaits+` AND NOT `+earlier, cases, at)
}
