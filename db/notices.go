package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

const (
	// The channels of notices.
	ChannelMail    = "mail"
	ChannelWebhook = "webhook" // the company's backend writes to the customer
	ChannelChat    = "chat"    // the operators' chat
	// RecipientOperator stands in for a contact where the operator is told.
	RecipientOperator = "operator"
)

// NoticeState says what became of a notice.
type NoticeState string

// The states of a notice.
const (
	NoticeSending  NoticeState = "sending"  // permitted; no end is known yet
	NoticeSent     NoticeState = "sent"     // the mail server took it
	NoticeDeferred NoticeState = "deferred" // it was definitely not taken; it may be tried again
	NoticeRefused  NoticeState = "refused"  // it was refused for good
	NoticeUnknown  NoticeState = "unknown"  // it may have been taken; it is not tried again
	NoticeShadow   NoticeState = "shadow"   // it would have been sent, if mail had been on

	// NoticeStopped is no state of a notice: mail is stopped, so that it has not
	// begun. Nothing stands in the ledger of it.
	NoticeStopped NoticeState = "stopped"
)

// Notice asks for the permission to send one message.
type Notice struct {
	CaseID         string
	Step           string
	SessionOrdinal int
	// Recipient is a contact's ID or RecipientOperator, never an address.
	Recipient string
	Channel   string
	MessageID string
	// Fixed marks the note that says it is fixed.
	Fixed bool
	// Operator marks what is for RecipientOperator, who may be told of a closed
	// case as well.
	Operator bool
}

// NoticeRow is an entry of the send ledger.
type NoticeRow struct {
	ID             int64  `db:"notice_id"`
	CaseID         string `db:"case_id"`
	Step           string `db:"step"`
	SessionOrdinal int    `db:"session_ordinal"`
	Recipient      string `db:"recipient"`
	Channel        string `db:"channel"`
	MessageID      string `db:"message_id"`
	Fixed          bool   `db:"fixed"`
	// LeadID is the notice in whose mail this one went along; 0 for its own mail.
	LeadID int64       `db:"lead_id"`
	State  NoticeState `db:"state"`
	Detail string      `db:"detail"`
	// Attempts counts how often sending was permitted, the last time at BegunAt.
	Attempts int        `db:"attempts"`
	BegunAt  time.Time  `db:"begun_at"`
	EndedAt  *time.Time `db:"ended_at"`
}

const selectNotices = `
SELECT notice_id, case_id, step, session_ordinal, recipient, channel, message_id, fixed, coalesce(lead_id, 0) AS lead_id, state, detail,
       attempts, begun_at, ended_at
  FROM notices`

// BeginNotice asks whether a notice may be sent now, and writes the permission
// into the ledger. Once per case, step, session ordinal, recipient and channel
// the answer is yes, and again only after EndNotice said NoticeDeferred. A
// notice needs its case to be open, and a fixed note needs it to be closed as
// recovered or healed, of which there is one per case, recipient and channel;
// the operator may be told of a closed case as well. The permission and the
// closing of the case wait for each other: no notice of an open case is permitted
// after CloseCase has returned.
//
// Where mail is stopped no notice to a contact begins, nor any of a step: the state
// is NoticeStopped, and the case stands among those that wait. In shadow none
// begins at all: the ledger then has it as NoticeShadow, and EndNotice tells the
// timeline. A notice in shadow counts for nothing once mail is on.
//
// Without a permission id and state are those of the notice that stands in the
// ledger; both are empty where there is none. ErrNotFound when there is no such
// case, or when the recipient is not a contact of the case's connection.
func (d *DB) BeginNotice(ctx context.Context, n Notice) (id int64, permit bool, state NoticeState, err error) {
	const doing = "begin a notice"
	if n.Operator && n.Recipient != RecipientOperator {
		return 0, false, "", errors.New(doing + ": only the operator may be told of a closed case")
	}
	now := d.now()
	err = d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		control, err := mailControl(ctx, tx)
		if err != nil {
			return err
		}
		if control.Mode == reauth.MailStopped && !n.Operator {
			id, permit, state = 0, false, NoticeStopped
			if n.Fixed {
				return nil // whoever closes the case remembers it
			}
			_, err = waitForMail(ctx, tx, n.CaseID, "stopped", control, now)
			return err
		}
		id, permit, state, err = beginNotice(ctx, tx, control.Mode, n, now)
		return err
	})
	if err != nil {
		return 0, false, "", err
	}
	return id, permit, state, nil
}

func beginNotice(ctx context.Context, tx *sqlx.Tx, mode reauth.MailMode, n Notice, now time.Time) (id int64, permit bool, state NoticeState, err error) {
	var k struct {
		ConnectionID string         `db:"connection_id"`
		Outcome      reauth.Outcome `db:"outcome"`
	}
	if err := tx.GetContext(ctx, &k, `
SELECT connection_id, coalesce(outcome, '') AS outcome FROM cases WHERE case_id = $1 FOR SHARE`, n.CaseID); err != nil {
		return 0, false, "", err
	}
	allowed := k.Outcome == "" || n.Operator
	if n.Fixed {
		allowed = k.Outcome.Restored()
	}
	begun := begunIn(mode)
	if allowed {
		inserted, err := first(ctx, tx, &id, `
INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, message_id, fixed, state, begun_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING notice_id`,
			n.CaseID, k.ConnectionID, n.Step, n.SessionOrdinal, n.Recipient, n.Channel, n.MessageID, n.Fixed, begun, now, endedIn(begun, now))
		if err != nil || inserted {
			return id, inserted && begun == NoticeSending, begun, err
		}
	}

	var row NoticeRow
	found, err := first(ctx, tx, &row, selectNotices+`
 WHERE case_id = $1 AND recipient = $2 AND channel = $3 AND (step = $4 AND session_ordinal = $5 OR fixed AND $6)
 ORDER BY notice_id LIMIT 1 FOR NO KEY UPDATE`, n.CaseID, n.Recipient, n.Channel, n.Step, n.SessionOrdinal, n.Fixed)
	if err != nil || !found {
		return 0, false, "", err
	}
	if !allowed || !row.State.mayBegin(mode) {
		return row.ID, false, row.State, nil
	}
	return row.ID, begun == NoticeSending, begun, exec(ctx, tx, `
UPDATE notices SET state = $2, begun_at = $3, ended_at = $4, attempts = attempts + 1, detail = '' WHERE notice_id = $1`, row.ID, begun, now, endedIn(begun, now))
}

// mayBegin reports whether a notice that stands in the ledger may begin again.
func (s NoticeState) mayBegin(mode reauth.MailMode) bool {
	return s == NoticeDeferred || s == NoticeShadow && mode == reauth.MailOn
}

// begunIn is the state of a notice that begins. In shadow it is its last.
func begunIn(mode reauth.MailMode) NoticeState {
	if mode == reauth.MailShadow {
		return NoticeShadow
	}
	return NoticeSending
}

func endedIn(begun NoticeState, at time.Time) *time.Time {
	if begun == NoticeSending {
		return nil
	}
	return &at
}

// EndNotice says what became of a notice that was permitted, and of those that
// went along in its mail, and tells the timelines of their cases. detail is words
// for a person, without an address. The first end of a permission stands.
// ErrNotFound when there is no such notice.
func (d *DB) EndNotice(ctx context.Context, id int64, state NoticeState, detail string) error {
	const doing = "end a notice"
	switch state {
	case NoticeSent, NoticeDeferred, NoticeRefused, NoticeUnknown, NoticeShadow:
	default:
		return errors.New(doing + ": the state must be sent, deferred, refused, unknown or shadow")
	}
	now := d.now()
	detail = plain(detail)
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		var rows []struct {
			NoticeRow
			ConnectionID string `db:"connection_id"`
		}
		if err := tx.SelectContext(ctx, &rows, `
SELECT notice_id, case_id, connection_id, step, recipient, channel, state, begun_at FROM notices
 WHERE notice_id = $1 OR lead_id = $1 ORDER BY notice_id FOR NO KEY UPDATE`, id); err != nil {
			return err
		}
		if len(rows) == 0 {
			return ErrNotFound
		}
		for _, row := range rows {
			at := now
			switch {
			case row.State == NoticeShadow && state == NoticeShadow: // which it has been from its beginning
				at = row.BegunAt
			case row.State != NoticeSending:
				continue
			default:
				if err := exec(ctx, tx, `
UPDATE notices SET state = $2, detail = $3, ended_at = $4 WHERE notice_id = $1`, row.ID, state, detail, now); err != nil {
					return err
				}
			}
			text := fmt.Sprintf("%s to %s by %s", row.Step, row.Recipient, row.Channel)
			if state == NoticeShadow {
				text = wouldHave(row.NoticeRow)
			}
			if row.ID != id {
				text += " (in one mail with another connection's)"
			}
			if detail != "" {
				text += ": " + detail
			}
			if err := addEvent(ctx, tx, Event{CaseID: row.CaseID, ConnectionID: row.ConnectionID, Kind: EventNotice + string(state), Detail: text, At: at}); err != nil {
				return err
			}
		}
		return nil
	})
}

// wouldHave says whom a notice in shadow would have reached.
func wouldHave(n NoticeRow) string {
	whom := "contact " + n.Recipient
	if n.Recipient == RecipientOperator {
		whom = "the operator"
	}
	switch n.Channel {
	case ChannelWebhook:
		return "would have asked the backend to write to " + whom + " (step " + n.Step + ")"
	case ChannelChat:
		return "would have told the operators' chat (step " + n.Step + ")"
	}
	return "would have written to " + whom + " (step " + n.Step + ")"
}

// NoticesOf returns the send ledger of a case, in the order of the permissions.
func (d *DB) NoticesOf(ctx context.Context, caseID string) (list []NoticeRow, err error) {
	err = d.read(ctx, "read the notices", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectNotices+` WHERE case_id = $1 ORDER BY notice_id`, caseID)
	})
	return list, err
}

// Alerted returns who got, or may have got, a mail of a case other than the
// fixed note, in the order of their first, and the message ID of that first
// mail by recipient: the root of the thread.
func (d *DB) Alerted(ctx context.Context, caseID string) (recipients []string, rootMessageID map[string]string, err error) {
	rootMessageID = make(map[string]string)
	err = d.read(ctx, "read who was alerted", func(ctx context.Context) error {
		var rows []struct {
			Recipient string `db:"recipient"`
			MessageID string `db:"message_id"`
		}
		if err := d.sqlx.SelectContext(ctx, &rows, `
SELECT recipient, message_id FROM notices
 WHERE case_id = $1 AND channel = $2 AND NOT fixed AND state IN ('sent', 'unknown') ORDER BY notice_id`, caseID, ChannelMail); err != nil {
			return err
		}
		for _, row := range rows {
			if _, seen := rootMessageID[row.Recipient]; !seen {
				recipients = append(recipients, row.Recipient)
				rootMessageID[row.Recipient] = row.MessageID
			}
		}
		return nil
	})
	return recipients, rootMessageID, err
}
