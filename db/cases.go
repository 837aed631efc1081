package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// ReasonTerminated is the close reason of a case whose run ended without
// closing it, because an operator terminated it, say.
const ReasonTerminated = "terminated"

// Kinds of the events that this package adds to a case's timeline by itself. An
// ended notice adds EventNotice and its state, as "notice_sent".
const (
	EventOpened = "opened"
	// EventUnreachable: a contact must not be written to any more.
	EventUnreachable = "contact_unreachable"
	// EventOperatorNeeded: only an operator can help.
	EventOperatorNeeded = "operator_needed"
	// EventHeld: a notice waits for a storm to be over, for mail to be switched on,
	// or for its turn in the ramp.
	EventHeld   = "held"
	EventClosed = "closed"
	EventNotice = "notice_"
)

// Case is one incident.
type Case struct {
	CaseID       string          `db:"case_id"`
	ConnectionID string          `db:"connection_id"`
	Provider     reauth.Provider `db:"provider"`
	Application  string          `db:"application"`
	Source       reauth.Source   `db:"source"`
	FinchCode    string          `db:"finch_code"`
	// Reason is the report's; CloseReason the outcome's.
	Reason      string         `db:"reason"`
	Phase       reauth.Phase   `db:"phase"`
	Outcome     reauth.Outcome `db:"outcome"` // empty while the case is open
	CloseReason string         `db:"close_reason"`

	SessionID  string `db:"session_id"`
	ConnectURL string `db:"connect_url"`
	// SessionOrdinal counts the sessions of the case from 1; 0 before the first.
	SessionOrdinal   int        `db:"session_ordinal"`
	SessionExpiresAt *time.Time `db:"session_expires_at"`
	DeadlineAt       *time.Time `db:"deadline_at"`

	// Campaign names the campaign that the case follows, NextStep the step that
	// is due at NextNoticeAt. StormID is the storm that holds the first notice,
	// or held it once; Held tells whether it still does.
	Campaign     string     `db:"campaign"`
	NextNoticeAt *time.Time `db:"next_notice_at"`
	NextStep     string     `db:"next_step"`
	StormID      string     `db:"storm_id"`
	Held         bool       `db:"held"`
	// Waits says what else holds a notice: "stopped" or "ramp", or nothing.
	Waits       string     `db:"waits"`
	NoticesSent int        `db:"notices_sent"`
	LastClickAt *time.Time `db:"last_click_at"`
	// Generation is the connection's when the case opened, and the one that
	// the case ended with when it is closed.
	Generation int64      `db:"generation"`
	LastError  string     `db:"last_error"`
	OpenedAt   time.Time  `db:"opened_at"`
	ClosedAt   *time.Time `db:"closed_at"`

	// CustomerName is the connection's; it is only ever read.
	CustomerName string `db:"customer_name"`
}

// Open reports whether the case has no outcome yet.
func (c Case) Open() bool { return c.Outcome == "" }

const selectCases = `
SELECT k.case_id, k.connection_id, k.provider, k.application, k.source, k.finch_code, k.reason, k.phase,
       coalesce(k.outcome, '') AS outcome, k.close_reason, k.session_id, k.connect_url, k.session_ordinal,
       k.session_expires_at, k.deadline_at, k.next_notice_at, k.notices_sent, k.last_click_at, k.generation,
       k.last_error, k.opened_at, k.closed_at, c.customer_name, k.campaign, k.next_step, coalesce(k.storm_id, '') AS storm_id,
       EXISTS (SELECT FROM storms s WHERE s.storm_id = k.storm_id AND s.ended_at IS NULL AND k.outcome IS NULL AND k.released_at IS NULL) AS held,
       coalesce((SELECT max(w.why) FROM mail_waits w WHERE w.case_id = k.case_id AND w.why <> 'fixed' AND k.outcome IS NULL), '') AS waits
  FROM cases k JOIN connections c USING (connection_id)`

// OpenCase opens a case and calls its connection stale. opened reports whether
// the case is open after the call, so that calling it again with the same
// case_id, after a lost answer, gives the same answer and changes nothing.
//
// An older case of the connection that is still open belongs to a run that was
// terminated: it is closed as cancelled, with ReasonTerminated. When a newer one
// is open, this case is the one that was terminated, and is stored closed.
// A report that a person made ends the suppression of reports.
//
// c needs CaseID, ConnectionID, Source and OpenedAt; Provider and Application
// are the connection's when empty, Phase is confirming when empty. ErrNotFound
// when the connection is unknown, ErrRemoved when it was removed.
func (d *DB) OpenCase(ctx context.Context, c Case) (opened bool, err error) {
	if c.Phase == "" {
		c.Phase = reauth.PhaseConfirming
	}
	c.FinchCode, c.Reason = plain(c.FinchCode), plain(c.Reason)
	err = d.write(ctx, "open a case", func(ctx context.Context, tx *sqlx.Tx) error {
		connection, err := lockConnection(ctx, tx, c.ConnectionID)
		if err != nil {
			return err
		}
		var stored struct {
			ConnectionID string `db:"connection_id"`
			Open         bool   `db:"open"`
		}
		known, err := first(ctx, tx, &stored, `SELECT connection_id, outcome IS NULL AS open FROM cases WHERE case_id = $1`, c.CaseID)
		if err != nil {
			return err
		}
		if known && stored.ConnectionID != c.ConnectionID {
			return errors.New("the case is another connection's")
		}
		if known {
			opened = stored.Open
			return nil
		}
		if connection.removed() {
			return ErrRemoved
		}
		opened, err = insertCase(ctx, tx, c, connection)
		return err
	})
	return opened && err == nil, err
}

// insertCase stores a case that is not stored yet, of a locked connection.
func insertCase(ctx context.Context, tx *sqlx.Tx, c Case, connection lockedConnection) (opened bool, err error) {
	if c.Provider == "" {
		c.Provider = connection.Provider
	}
	if c.Application == "" {
		c.Application = connection.Application
	}
	var other struct {
		CaseID   string    `db:"case_id"`
		OpenedAt time.Time `db:"opened_at"`
	}
	found, err := first(ctx, tx, &other, `
SELECT case_id, opened_at FROM cases WHERE connection_id = $1 AND outcome IS NULL FOR NO KEY UPDATE`, c.ConnectionID)
	if err != nil {
		return false, err
	}
	openedAt := c.OpenedAt.Truncate(time.Microsecond)
	newer := found && (other.OpenedAt.After(openedAt) || other.OpenedAt.Equal(openedAt) && other.CaseID > c.CaseID)
	if found && !newer {
		if err := endCase(ctx, tx, Closing{CaseID: other.CaseID, Outcome: reauth.OutcomeCancelled, Reason: ReasonTerminated, At: c.OpenedAt}, c.ConnectionID); err != nil {
			return false, err
		}
	}

	phase, outcome, reason, closedAt := c.Phase, "", "", (*time.Time)(nil)
	if newer {
		phase, outcome, reason, closedAt = reauth.PhaseClosed, string(reauth.OutcomeCancelled), ReasonTerminated, &c.OpenedAt
	}
	// A click may have come a moment before the case that it asked for.
	if err := exec(ctx, tx, `
INSERT INTO cases (case_id, connection_id, provider, application, source, finch_code, reason, phase, outcome, close_reason, closed_at,
                   generation, opened_at, last_click_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, (SELECT max(at) FROM clicks WHERE case_id = $1 AND connection_id = $2))`,
		c.CaseID, c.ConnectionID, c.Provider, c.Application, c.Source, c.FinchCode, c.Reason, phase, null(outcome), reason, closedAt,
		connection.Generation, c.OpenedAt); err != nil {
		return false, err
	}
	detail := strings.TrimSpace(string(c.Source) + " " + c.FinchCode)
	if err := addEvent(ctx, tx, Event{CaseID: c.CaseID, ConnectionID: c.ConnectionID, Kind: EventOpened, Detail: detail, At: c.OpenedAt}); err != nil {
		return false, err
	}
	if newer {
		return false, addClosed(ctx, tx, c.ConnectionID, c.CaseID, reauth.OutcomeCancelled, "", ReasonTerminated, c.OpenedAt)
	}
	if !c.Source.Machine() {
		if err := endSuppression(ctx, tx, c.ConnectionID, c.OpenedAt); err != nil {
			return false, err
		}
	}
	return true, setStatus(ctx, tx, c.ConnectionID, reauth.StatusStale, c.OpenedAt)
}

// CaseByID returns a case. ErrNotFound when there is none.
func (d *DB) CaseByID(ctx context.Context, caseID string) (Case, error) {
	return d.oneCase(ctx, "read a case", selectCases+` WHERE k.case_id = $1`, caseID)
}

// OpenCaseOf returns the open case of a connection. ErrNotFound when none is open.
func (d *DB) OpenCaseOf(ctx context.Context, connectionID string) (Case, error) {
	return d.oneCase(ctx, "read the open case", selectCases+` WHERE k.connection_id = $1 AND k.outcome IS NULL`, connectionID)
}

// NewestCase returns the case of a connection that was opened last, open or
// closed. ErrNotFound when it never had one.
func (d *DB) NewestCase(ctx context.Context, connectionID string) (Case, error) {
	return d.oneCase(ctx, "read the newest case", selectCases+`
 WHERE k.connection_id = $1 ORDER BY k.opened_at DESC, k.case_id DESC LIMIT 1`, connectionID)
}

func (d *DB) oneCase(ctx context.Context, doing, query, id string) (c Case, err error) {
	err = d.read(ctx, doing, func(ctx context.Context) error { return d.sqlx.GetContext(ctx, &c, query, id) })
	return c, err
}

// CaseFilter chooses cases; an empty field chooses every case.
type CaseFilter struct {
	Phase    reauth.Phase
	Outcome  reauth.Outcome
	Provider reauth.Provider
	// Application is the case's, System the connection's.
	Application, System string
	// Open leaves out the cases that have ended.
	Open bool
}

// Cases lists cases, the newest first. next is empty after the last page.
func (d *DB) Cases(ctx context.Context, filter CaseFilter, after string, limit int) (list []Case, next string, err error) {
	const listName = "cases"
	from, given, err := parseCursor(listName, after)
	if err != nil {
		return nil, "", fmt.Errorf("list cases: %w", err)
	}
	limit = page(limit)
	err = d.read(ctx, "list cases", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectCases+`
 WHERE ($1 = '' OR k.phase = $1) AND ($2 = '' OR k.outcome = $2) AND ($3 = '' OR k.provider = $3)
   AND (NOT $4 OR (k.opened_at, k.case_id) < ($5, $6))
   AND ($8 = '' OR c.application = $8)
   AND ($9 = '' OR k.application = $9) AND ($10 = '' OR c.system = $10) AND (NOT $11 OR k.outcome IS NULL)
 ORDER BY k.opened_at DESC, k.case_id DESC LIMIT $7`,
			filter.Phase, filter.Outcome, filter.Provider, given, from.At, from.ID, limit+1, within(ctx), filter.Application, filter.System, filter.Open)
	})
	if len(list) > limit {
		list = list[:limit]
		last := list[limit-1]
		next = cursor{List: listName, At: last.OpenedAt, ID: last.CaseID}.String()
	}
	return list, next, err
}

// Session is a provider's Connect session.
type Session struct {
	ID, URL string
	// Ordinal counts the sessions of a case from 1.
	Ordinal    int
	ExpiresAt  time.Time
	DeadlineAt time.Time
}

// SetSession gives an open case a session; the case then waits for the
// customer. A closed case, and one that has a later session, stay as they are.
// ErrNotFound when there is no such case.
func (d *DB) SetSession(ctx context.Context, caseID string, s Session) error {
	return d.updateCase(ctx, "store a session", caseID, `
UPDATE cases
   SET session_id = $2, connect_url = $3, session_ordinal = $4, session_expires_at = $5, deadline_at = $6, phase = 'awaiting_customer'
 WHERE case_id = $1 AND outcome IS NULL AND session_ordinal <= $4`,
		s.ID, s.URL, s.Ordinal, s.ExpiresAt, s.DeadlineAt)
}

// SetPhase says what an open case is doing, where phase is not empty, and what
// went wrong last; an empty lastError clears it. A closed case stays as it is.
// ErrNotFound when there is no such case.
func (d *DB) SetPhase(ctx context.Context, caseID string, phase reauth.Phase, lastError string) error {
	return d.updateCase(ctx, "set a case's phase", caseID, `
UPDATE cases SET phase = coalesce(nullif($2, ''), phase), last_error = $3 WHERE case_id = $1 AND outcome IS NULL`, phase, plain(lastError))
}

// Recode notes that an open case, which was opened by one of reauth.SetupCodes,
// is about a lost login after all. A case of another code, and a closed one,
// stays as it is. ErrNotFound when there is no such case.
func (d *DB) Recode(ctx context.Context, caseID string) error {
	return d.updateCase(ctx, "note another code of a case", caseID, `
UPDATE cases SET finch_code = $2 WHERE case_id = $1 AND outcome IS NULL AND finch_code = ANY($3)`, reauth.CodeReauth, pq.Array(reauth.SetupCodes()))
}

// SpendSession takes the session away that a code has used up, so that nobody
// is sent to it again. A later session of the case stays, and so does a closed
// case. ErrNotFound when there is no such case.
func (d *DB) SpendSession(ctx context.Context, caseID string, ordinal int) error {
	return d.updateCase(ctx, "spend a session", caseID, `
UPDATE cases SET connect_url = '' WHERE case_id = $1 AND outcome IS NULL AND session_ordinal = $2`, ordinal)
}

// Schedule is what an open case will send next.
type Schedule struct {
	// At is when (nil: never again), Step which step it is, as in the ledger.
	At   *time.Time
	Step string
	// Audience and Channel are the step's.
	Audience, Channel string
	// NoticesSent is how many notices the case has sent so far.
	NoticesSent int
	// Problem, if set, is the case's last error from now on; an empty one clears it.
	Problem *string
}

// problem is Problem as it is stored.
func (s Schedule) problem() *string {
	if s.Problem == nil {
		return nil
	}
	text := plain(*s.Problem)
	return &text
}

// SetSchedule says what an open case will send next. A closed case stays as it
// is. ErrNotFound when there is no such case.
func (d *DB) SetSchedule(ctx context.Context, caseID string, s Schedule) error {
	return d.updateCase(ctx, "set a case's schedule", caseID, `
UPDATE cases SET next_notice_at = $2, next_step = $3, next_audience = $4, next_channel = $5, notices_sent = $6, last_error = coalesce($7, last_error)
 WHERE case_id = $1 AND outcome IS NULL`, s.At, s.Step, s.Audience, s.Channel, s.NoticesSent, s.problem())
}

// SetCampaign says which campaign a case follows. ErrNotFound when there is no
// such case.
func (d *DB) SetCampaign(ctx context.Context, caseID, campaign string) error {
	return d.updateCase(ctx, "set a case's campaign", caseID, `UPDATE cases SET campaign = $2 WHERE case_id = $1`, campaign)
}

// updateCase runs a statement whose first argument is a case.
func (d *DB) updateCase(ctx context.Context, doing, caseID, query string, args ...any) error {
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		done, err := changed(ctx, tx, query, append([]any{caseID}, args...)...)
		if done || err != nil {
			return err
		}
		var exists bool
		if err := tx.GetContext(ctx, &exists, `SELECT EXISTS (SELECT FROM cases WHERE case_id = $1)`, caseID); err != nil {
			return err
		}
		if !exists {
			return ErrNotFound
		}
		return nil
	})
}

// Closing ends a case.
type Closing struct {
	CaseID  string
	Outcome reauth.Outcome
	// Reason says why, as reauth.ReasonConnectionNotFound or in words.
	Reason string
	// By says who ended it, where a person did; empty otherwise.
	By string
	// Generation is the one that the case ended with; 0 keeps what is stored.
	Generation int64
	At         time.Time
	// Event, if set, is enqueued in the same transaction. Its connection and
	// case are those of the case.
	Event *OutboxEvent
}

// CloseCase gives a case its outcome. The first outcome stands: first is false
// when there was one, and then nothing changes; except that a customer who came
// through while another end was being told has the last word: recovered is taken
// over all but healed. In the same transaction
//
//   - recovered, healed and false_alarm make the connection connected, and
//     reauth.ReasonConnectionNotFound makes it disconnected, unless it was
//     removed; after every other outcome it stays as it is;
//   - recovered and healed end the suppression of machine reports; expired,
//     cancelled and failed begin one of 30 days; false_alarm one of an hour,
//     doubled with each further false alarm within a week of the last, a day
//     at most;
//   - the event, if there is one, goes into the outbox.
//
// ErrNotFound when there is no such case.
func (d *DB) CloseCase(ctx context.Context, closing Closing) (first bool, err error) {
	err = d.write(ctx, "close a case", func(ctx context.Context, tx *sqlx.Tx) error {
		var connectionID string // which never changes, so it may be read before the lock
		if err := tx.GetContext(ctx, &connectionID, `SELECT connection_id FROM cases WHERE case_id = $1`, closing.CaseID); err != nil {
			return err
		}
		connection, err := lockConnection(ctx, tx, connectionID)
		if err != nil {
			return err
		}
		first, err = closeCase(ctx, tx, connectionID, connection, closing)
		return err
	})
	return first && err == nil, err
}

// closeCase closes a case of a locked connection, with all that follows from it.
func closeCase(ctx context.Context, tx *sqlx.Tx, connectionID string, connection lockedConnection, closing Closing) (bool, error) {
	if !slices.Contains(reauth.Outcomes(), closing.Outcome) {
		return false, errors.New("the outcome is unknown")
	}
	var outcome sql.NullString
	if err := tx.GetContext(ctx, &outcome, `
SELECT outcome FROM cases WHERE case_id = $1 AND connection_id = $2 FOR NO KEY UPDATE`, closing.CaseID, connectionID); err != nil {
		return false, err
	}
	if outcome.Valid && !lastWord(reauth.Outcome(outcome.String), closing.Outcome) {
		return false, nil
	}
	if err := endCase(ctx, tx, closing, connectionID); err != nil {
		return false, err
	}
	if closing.Event != nil {
		event := *closing.Event
		event.ConnectionID, event.CaseID = connectionID, closing.CaseID
		if err := enqueue(ctx, tx, event, closing.At); err != nil {
			return false, err
		}
	}
	if connection.removed() {
		return true, nil
	}

	status := connection.Status
	switch {
	case closing.Outcome.Restored(), closing.Outcome == reauth.OutcomeFalseAlarm:
		status = reauth.StatusConnected
	case closing.Reason == reauth.ReasonConnectionNotFound:
		status = reauth.StatusDisconnected
	}
	if status != connection.Status || status == reauth.StatusConnected {
		if err := setStatus(ctx, tx, connectionID, status, closing.At); err != nil {
			return false, err
		}
	}
	return true, suppress(ctx, tx, connectionID, closing)
}

// lastWord reports whether an outcome may replace another.
func lastWord(was, is reauth.Outcome) bool {
	return is == reauth.OutcomeRecovered && !was.Restored()
}

// endCase writes an outcome into the row of a locked case, and into its timeline.
func endCase(ctx context.Context, tx *sqlx.Tx, closing Closing, connectionID string) error {
	reason := plain(closing.Reason)
	var closedAt time.Time
	if err := tx.GetContext(ctx, &closedAt, `
UPDATE cases
   SET outcome = $2, phase = 'closed', close_reason = $3, generation = CASE WHEN $4 > 0 THEN $4 ELSE generation END,
       closed_at = greatest(opened_at, $5), next_notice_at = NULL, next_step = ''
 WHERE case_id = $1 RETURNING closed_at`,
		closing.CaseID, closing.Outcome, reason, closing.Generation, closing.At); err != nil {
		return err
	}
	if err := exec(ctx, tx, `DELETE FROM mail_waits WHERE case_id = $1 AND why <> 'fixed'`, closing.CaseID); err != nil {
		return err
	}
	return addClosed(ctx, tx, connectionID, closing.CaseID, closing.Outcome, closing.By, reason, closedAt)
}

func addClosed(ctx context.Context, tx *sqlx.Tx, connectionID, caseID string, outcome reauth.Outcome, by, reason string, at time.Time) error {
	detail := string(outcome)
	if by != "" {
		detail += " by " + by
	}
	if reason != "" {
		detail += ": " + reason
	}
	return addEvent(ctx, tx, Event{CaseID: caseID, ConnectionID: connectionID, Kind: EventClosed, Detail: detail, At: at})
}
