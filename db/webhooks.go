package db

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// Webhook is an event that a provider has sent.
type Webhook struct {
	Provider reauth.Provider `db:"provider"`
	// EventID is the provider's ID of the event, by which a repeated one is
	// recognised.
	EventID      string `db:"event_id"`
	Type         string `db:"type"`
	ConnectionID string `db:"connection_id"`
	EntityID     string `db:"entity_id"`
	Status       string `db:"status"`
	JobID        string `db:"job_id"`
	// Body is kept of an event that is not understood: its beginning, without
	// e-mail addresses.
	Body  string       `db:"body"`
	State WebhookState `db:"state"`
	// Result says in a word what the event did, or why it did nothing.
	Result string `db:"result"`
	// CaseID is the case that was told, if one was. It may have no row yet.
	CaseID     string    `db:"case_id"`
	ReceivedAt time.Time `db:"received_at"`
	// Applications are those whose webhook secrets sign the event; empty where
	// that was not put on record.
	Applications pq.StringArray `db:"applications"`

	// Seq is the place of the event in the order of arrival. What follows is
	// only ever read.
	Seq         int64      `db:"seq"`
	Attempts    int        `db:"attempts"`
	LastError   string     `db:"last_error"`
	ProcessedAt *time.Time `db:"processed_at"`
}

// WebhookState says where a provider's event is.
type WebhookState string

// The states of a provider's event.
const (
	WebhookWaiting   WebhookState = "waiting"   // it will be acted upon
	WebhookDone      WebhookState = "done"      // it was acted upon
	WebhookIgnored   WebhookState = "ignored"   // there is nothing to do about it
	WebhookAbandoned WebhookState = "abandoned" // it was given up
)

// WebhookCoalesced is the result of an event that said the same as the one after it.
const WebhookCoalesced = "coalesced"

// storeWebhook gives the event its place in the order while it holds its line,
// so that of two events of a connection the one with the lower place is never
// seen later. A repeated event takes no lock and writes nothing.
const storeWebhook = `
WITH line AS (
    INSERT INTO webhook_lines (provider, connection_id, last_seq, due_at)
    SELECT $1, $6, 0, $4
     WHERE $12 = 'waiting' AND NOT EXISTS (SELECT FROM webhooks WHERE provider = $1 AND event_id = $2)
    ON CONFLICT (provider, connection_id) DO UPDATE SET last_seq = nextval('webhooks_arrivals')
    RETURNING last_seq
)
INSERT INTO webhooks (provider, event_id, body_sha256, received_at, type, connection_id, entity_id, status, job_id, body, result, state, processed_at, applications, seq)
SELECT $1, $2, $3, $4::timestamptz, $5, $6, $7, $8, $9, $10, $11, $12,
       CASE WHEN $12 <> 'waiting' THEN $4::timestamptz END, coalesce($13::text[], '{}'), coalesce(nullif((SELECT last_seq FROM line), 0), nextval('webhooks_arrivals'))
 WHERE $12 <> 'waiting' OR EXISTS (SELECT FROM line)
ON CONFLICT (provider, event_id) DO NOTHING`

// StoreWebhook stores an event, once, as waiting or as ignored, and reports
// whether it is fresh. It is acted upon after the events of its connection that
// wait already.
func (d *DB) StoreWebhook(ctx context.Context, w Webhook, body []byte) (fresh bool, err error) {
	const doing = "store a webhook"
	if w.State != WebhookWaiting && w.State != WebhookIgnored {
		return false, errors.New(doing + ": it can only wait or be ignored")
	}
	sum := sha256.Sum256(body)
	// JSON may write the sign of an address in another way.
	w.Body = plain(strings.ReplaceAll(w.Body, `\u0040`, "@"))
	// Unlike other writes it does without BEGIN and COMMIT, for the provider
	// waits: should the connection break before the answer, the statement may be
	// run twice, and then says that the event is stored already. It is.
	err = d.read(ctx, doing, func(ctx context.Context) error {
		statement, err := d.store.on(ctx, d.sqlx)
		if err != nil {
			return err
		}
		result, err := statement.ExecContext(ctx, w.Provider, w.EventID, sum[:], w.ReceivedAt,
			plain(w.Type), w.ConnectionID, w.EntityID, w.Status, w.JobID, w.Body, w.Result, w.State, w.Applications)
		if err != nil {
			return err
		}
		rows, err := result.RowsAffected()
		fresh = rows > 0
		return err
	})
	return fresh && err == nil, err
}

// WebhookLine is the events of one connection that wait, claimed for a time.
type WebhookLine struct {
	Provider     reauth.Provider `db:"provider"`
	ConnectionID string          `db:"connection_id"`
	LastSeq      int64           `db:"last_seq"`
	// Attempts counts the attempts in a row that have failed.
	Attempts int `db:"attempts"`
	// Until is the end of the lease, Lease tells it from every other.
	Until time.Time `db:"due_at"`
	Lease int64     `db:"lease"`
}

// ClaimWebhooks takes the events of connections whose turn has come at a time,
// the longest due first, and keeps others from taking them for the time of the
// lease.
func (d *DB) ClaimWebhooks(ctx context.Context, at time.Time, limit int, lease time.Duration) (lines []WebhookLine, err error) {
	err = d.write(ctx, "claim webhooks", func(ctx context.Context, tx *sqlx.Tx) error {
		return tx.SelectContext(ctx, &lines, `
WITH due AS (
    SELECT provider, connection_id FROM webhook_lines WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE webhook_lines l SET due_at = $3, lease = nextval('webhooks_arrivals') FROM due WHERE l.provider = due.provider AND l.connection_id = due.connection_id
RETURNING l.provider, l.connection_id, l.last_seq, l.attempts, l.due_at, l.lease`, at, page(limit), at.Add(lease))
	})
	if err != nil {
		return nil, err
	}
	return lines, nil
}

const selectWebhooks = `
SELECT provider, event_id, type, connection_id, entity_id, status, job_id, body, state, result, case_id, received_at, seq, attempts, last_error, processed_at, applications
  FROM webhooks`

// WaitingWebhooks returns the events of a line in order of arrival: limit of
// them at most.
func (d *DB) WaitingWebhooks(ctx context.Context, line WebhookLine, limit int) (list []Webhook, err error) {
	err = d.read(ctx, "read the webhooks that wait", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectWebhooks+`
 WHERE provider = $1 AND connection_id = $2 AND state = 'waiting' ORDER BY seq LIMIT $3`, line.Provider, line.ConnectionID, page(limit))
	})
	return list, err
}

// WebhookEnd says what became of events of a line that said the same, in order:
// the last one was acted upon for all.
type WebhookEnd struct {
	EventIDs []string
	State    WebhookState
	Result   string
	CaseID   string
	Problem  string // why an abandoned one was given up
	At       time.Time
}

// EndWebhooks records what became of events. held is false when the lease was
// over and somebody else has claimed the line: then nothing is recorded.
func (d *DB) EndWebhooks(ctx context.Context, line WebhookLine, end WebhookEnd) (held bool, err error) {
	if len(end.EventIDs) == 0 {
		return false, errors.New("record what became of webhooks: there are none")
	}
	acted := end.EventIDs[len(end.EventIDs)-1]
	err = d.holding(ctx, "record what became of webhooks", line, &held, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
UPDATE webhooks
   SET state = $4, result = CASE WHEN event_id = $3 THEN $5 ELSE '`+WebhookCoalesced+`' END, case_id = $6, last_error = $7, processed_at = $8,
       attempts = attempts + CASE WHEN event_id = $3 THEN 1 ELSE 0 END
 WHERE provider = $1 AND event_id = ANY ($2) AND state = 'waiting'`,
			line.Provider, pq.StringArray(slices.Clone(end.EventIDs)), acted, end.State, end.Result, end.CaseID, plain(end.Problem), end.At); err != nil {
			return err
		}
		if line.Attempts == 0 {
			return nil
		}
		return exec(ctx, tx, `UPDATE webhook_lines SET attempts = 0 WHERE provider = $1 AND connection_id = $2`, line.Provider, line.ConnectionID)
	})
	return held && err == nil, err
}

// LeaveWebhooks ends a line whose events up to seen are over. If others have
// arrived meanwhile, it is due again at once.
func (d *DB) LeaveWebhooks(ctx context.Context, line WebhookLine, seen int64, at time.Time) error {
	held := false
	return d.holding(ctx, "leave a line of webhooks", line, &held, func(ctx context.Context, tx *sqlx.Tx) error {
		ended, err := changed(ctx, tx, `
DELETE FROM webhook_lines WHERE provider = $1 AND connection_id = $2 AND last_seq <= $3`, line.Provider, line.ConnectionID, seen)
		if err != nil || ended {
			return err
		}
		return exec(ctx, tx, `UPDATE webhook_lines SET due_at = $3 WHERE provider = $1 AND connection_id = $2`, line.Provider, line.ConnectionID, at)
	})
}

// PostponeWebhooks gives a line back until its next turn. A problem says why the
// attempt to act upon an event failed; without one it was no attempt.
func (d *DB) PostponeWebhooks(ctx context.Context, line WebhookLine, eventID string, next time.Time, problem string) error {
	held, failed := false, 0
	if problem != "" {
		failed = 1
	}
	return d.holding(ctx, "postpone webhooks", line, &held, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
UPDATE webhook_lines SET due_at = $3, attempts = attempts + $4 WHERE provider = $1 AND connection_id = $2`,
			line.Provider, line.ConnectionID, next, failed); err != nil || failed == 0 {
			return err
		}
		return exec(ctx, tx, `
UPDATE webhooks SET attempts = attempts + 1, last_error = $3 WHERE provider = $1 AND event_id = $2 AND state = 'waiting'`,
			line.Provider, eventID, plain(problem))
	})
}

// holding runs a transaction under the lock of a line, if nobody else has claimed it.
// The line is locked before its events, as StoreWebhook does it.
func (d *DB) holding(ctx context.Context, doing string, line WebhookLine, held *bool, do func(ctx context.Context, tx *sqlx.Tx) error) error {
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) (err error) {
		var one int
		*held, err = first(ctx, tx, &one, `
SELECT 1 FROM webhook_lines WHERE provider = $1 AND connection_id = $2 AND lease = $3 FOR UPDATE`, line.Provider, line.ConnectionID, line.Lease)
		if err != nil || !*held {
			return err
		}
		return do(ctx, tx)
	})
}

// WebhookBacklog tells how many events wait, and since when the oldest does.
func (d *DB) WebhookBacklog(ctx context.Context) (waiting int, oldest *time.Time, err error) {
	var row struct {
		Waiting int        `db:"waiting"`
		Oldest  *time.Time `db:"oldest"`
	}
	err = d.read(ctx, "count the webhooks that wait", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, `SELECT count(*) AS waiting, min(received_at) AS oldest FROM webhooks WHERE state = 'waiting'`)
	})
	return row.Waiting, row.Oldest, err
}

// WebhookFilter chooses events of providers; an empty field chooses every event.
type WebhookFilter struct {
	ConnectionID, EventID string
	State                 WebhookState
	// Since bounds when the event arrived.
	Since time.Time
}

// Webhooks lists events, the newest first: limit of them, 500 at most, 50 when
// it is zero.
func (d *DB) Webhooks(ctx context.Context, f WebhookFilter, limit int) (list []Webhook, err error) {
	var since *time.Time
	if !f.Since.IsZero() {
		since = &f.Since
	}
	err = d.read(ctx, "list webhooks", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectWebhooks+`
 WHERE ($1 = '' OR connection_id = $1) AND ($2 = '' OR event_id = $2) AND ($3 = '' OR state = $3) AND ($4::timestamptz IS NULL OR received_at >= $4)
 ORDER BY seq DESC LIMIT $5`, f.ConnectionID, f.EventID, f.State, since, page(limit))
	})
	return list, err
}

// WebhooksOf returns what providers have said to a case, the oldest first: the
// newest limit of them, without those that said the same as the next one.
func (d *DB) WebhooksOf(ctx context.Context, caseID string, limit int) (list []Webhook, err error) {
	err = d.read(ctx, "read the webhooks of a case", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectWebhooks+`
 WHERE case_id = $1 AND case_id <> '' AND result <> '`+WebhookCoalesced+`' ORDER BY seq DESC LIMIT $2`, caseID, page(limit))
	})
	slices.Reverse(list)
	return list, err
}
