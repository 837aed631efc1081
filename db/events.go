package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// caseEventPrefix comes before the kind of a line in the type of its event.
const caseEventPrefix = "reauth.case."

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

// PublishEvents sets whether the backend hears of every line of a timeline: each
// one that AddEvent or another call adds to a case then goes into the outbox, in
// the same transaction, as an event of the type "reauth.case." and its kind. It
// is off at first. Call it before the DB is used.
func (d *DB) PublishEvents(on bool) { d.publishes = on }

// AddEvent adds a line to a timeline, once: the same line of the same case and
// time again changes nothing. ErrNotFound when the case or the connection is
// unknown, or the case is another connection's.
func (d *DB) AddEvent(ctx context.Context, e Event) error {
	return d.write(ctx, "add an event", func(ctx context.Context, tx *sqlx.Tx) error { return addEvent(ctx, tx, e) })
}

func addEvent(ctx context.Context, tx *sqlx.Tx, e Event) error {
	e.Detail = plain(e.Detail)
	var line struct {
		ID int64     `db:"event_id"`
		At time.Time `db:"at"` // as PostgreSQL keeps it
	}
	added, err := first(ctx, tx, &line, `
INSERT INTO case_events (case_id, connection_id, kind, detail, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING event_id, at`,
		null(e.CaseID), e.ConnectionID, e.Kind, e.Detail, e.At)
	if err != nil || !added || e.CaseID == "" {
		return err
	}
	e.At = line.At
	return outgoingOf(ctx).line(line.ID, e)
}

// Timeline returns what happened in a case, the oldest first.
func (d *DB) Timeline(ctx context.Context, caseID string) (list []Event, err error) {
	err = d.read(ctx, "read a timeline", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT case_id, connection_id, kind, detail, at FROM case_events WHERE case_id = $1 ORDER BY at, event_id`, caseID)
	})
	return list, err
}

// casePayload is what the backend gets for a line of a timeline.
type casePayload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      caseData  `json:"data"`
}

// caseData is a case at the end of the transaction that added the line.
type caseData struct {
	CaseID           string          `db:"case_id" json:"case_id"`
	ConnectionID     string          `db:"connection_id" json:"connection_id"`
	Provider         reauth.Provider `db:"provider" json:"provider"`
	Application      string          `db:"application" json:"application"`
	CustomerID       string          `db:"customer_id" json:"customer_id"`
	CustomerName     string          `db:"customer_name" json:"customer_name,omitempty"`
	System           string          `db:"system" json:"system"`
	Phase            reauth.Phase    `db:"phase" json:"phase"`
	Outcome          reauth.Outcome  `db:"outcome" json:"outcome,omitempty"`
	Kind             string          `db:"-" json:"kind"`
	Detail           string          `db:"-" json:"detail"`
	OpenedAt         time.Time       `db:"opened_at" json:"opened_at"`
	SessionExpiresAt *time.Time      `db:"session_expires_at" json:"session_expires_at"`
	DeadlineAt       *time.Time      `db:"deadline_at" json:"deadline_at"`
	NextNoticeAt     *time.Time      `db:"next_notice_at" json:"next_notice_at"`
	NoticesSent      int             `db:"notices_sent" json:"notices_sent"`
	LastError        string          `db:"last_error" json:"last_error,omitempty"`
}

// lineEvent makes the event of a line.
func lineEvent(ctx context.Context, tx *sqlx.Tx, id int64, e Event) (OutboxEvent, error) {
	p := casePayload{Type: caseEventPrefix + e.Kind, Timestamp: e.At}
	if err := tx.GetContext(ctx, &p.Data, `
SELECT k.case_id, k.connection_id, k.provider, k.application, c.customer_id, c.customer_name, c.system, k.phase,
       coalesce(k.outcome, '') AS outcome, k.opened_at, k.session_expires_at, k.deadline_at, k.next_notice_at, k.notices_sent, k.last_error
  FROM cases k JOIN connections c USING (connection_id) WHERE k.case_id = $1`, e.CaseID); err != nil {
		return OutboxEvent{}, err
	}
	p.Data.Kind, p.Data.Detail = e.Kind, e.Detail
	text, err := json.Marshal(p)
	if err != nil {
		return OutboxEvent{}, fmt.Errorf("write the event of a line: %w", err)
	}
	return OutboxEvent{
		ID: fmt.Sprintf("evt_%s_%d", e.CaseID, id), Type: p.Type, Payload: text, ConnectionID: e.ConnectionID, CaseID: e.CaseID,
	}, nil
}

// closedPayload is what the backend gets for a closed case.
type closedPayload struct {
	Type      string     `json:"type"`
	Timestamp string     `json:"timestamp"`
	Data      closedData `json:"data"`
}

type closedData struct {
	CaseID       string          `db:"case_id" json:"case_id"`
	ConnectionID string          `db:"connection_id" json:"connection_id"`
	Provider     reauth.Provider `db:"provider" json:"provider"`
	Application  string          `db:"application" json:"application"`
	CustomerID   string          `db:"customer_id" json:"customer_id"`
	Outcome      reauth.Outcome  `db:"outcome" json:"outcome"`
	Reason       string          `db:"close_reason" json:"reason"`
	Opened       time.Time       `db:"opened_at" json:"-"`
	Closed       time.Time       `db:"closed_at" json:"-"`
	OpenedAt     string          `db:"-" json:"opened_at"`
	ClosedAt     string          `db:"-" json:"closed_at"`
}

// closedEvent makes the event of a case whose run was terminated: nothing else
// is left to tell of its end. It is like the event of every other closed case.
func closedEvent(ctx context.Context, tx *sqlx.Tx, e Event) (OutboxEvent, error) {
	p := closedPayload{Type: caseEventPrefix + EventClosed, Timestamp: e.At.Format(time.RFC3339)}
	if err := tx.GetContext(ctx, &p.Data, `
SELECT k.case_id, k.connection_id, c.provider, c.application, c.customer_id, k.outcome, k.close_reason, k.opened_at, k.closed_at
  FROM cases k JOIN connections c USING (connection_id) WHERE k.case_id = $1`, e.CaseID); err != nil {
		return OutboxEvent{}, err
	}
	p.Data.OpenedAt, p.Data.ClosedAt = p.Data.Opened.Format(time.RFC3339), p.Data.Closed.Format(time.RFC3339)
	text, err := json.Marshal(p)
	if err != nil {
		return OutboxEvent{}, fmt.Errorf("write the event of a closed case: %w", err)
	}
	return OutboxEvent{
		ID: "evt_" + e.CaseID + "_" + string(p.Data.Outcome), Type: p.Type, Payload: text, ConnectionID: e.ConnectionID, CaseID: e.CaseID,
	}, nil
}
