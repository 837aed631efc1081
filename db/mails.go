package db

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// Mail asks for the permission to send a step's mail to one contact.
type Mail struct {
	Notice
	// At is the time of the mail.
	At time.Time
	// PerDay is how many mails about open cases the owner of the contact's
	// address may have had since DayBegins; 0 is no limit.
	PerDay    int
	DayBegins time.Time
	// JoinBefore lets other open cases go along in this mail whose next notice
	// is due before it and that have a contact with the same address; the zero
	// time lets none.
	JoinBefore time.Time
	// Joins tells whether a contact of this role hears a step for an audience.
	Joins func(audience, role string) bool
}

// Permit is the answer to Mail.
type Permit struct {
	// ID is the notice, in the ledger or just put there; 0 for none.
	ID int64
	// Granted: the mail may be sent, and EndNotice must say what became of it.
	Granted bool
	// State is what became of the notice before, where it stands in the ledger.
	State NoticeState
	// Led: the notice goes, or went, along in another case's mail, since BegunAt.
	Led     bool
	BegunAt time.Time
	// Capped: the address has had the day's mails.
	Capped bool
	// Stopped: mail is stopped, so that nothing has begun; Version is the
	// control's. Where mail is in shadow nothing is granted, and State is
	// NoticeShadow; the mail is to be composed as ever, and EndNotice to say so.
	Stopped bool
	Version int64
	// Along are the cases that go along in the mail.
	Along []Along
}

// Along is a case that goes along in the mail of another.
type Along struct {
	NoticeID       int64      `db:"notice_id"`
	CaseID         string     `db:"case_id"`
	ConnectionID   string     `db:"connection_id"`
	ContactID      string     `db:"contact_id"`
	Step           string     `db:"next_step"`
	SessionOrdinal int        `db:"session_ordinal"`
	OpenedAt       time.Time  `db:"opened_at"`
	DeadlineAt     *time.Time `db:"deadline_at"`
	NoticesSent    int        `db:"notices_sent"`
	Role           string     `db:"role"`
	Audience       string     `db:"next_audience"`
}

const (
	// mostAlong bounds a mail about many connections.
	mostAlong = 49
	// clocksApart is how far the clocks of those who ask may be apart: a mail
	// that began in the future, a little, counts as well.
	clocksApart = time.Hour
)

// BeginMail is BeginNotice for a step's mail, with what the owner of an address
// may expect of all their connections together: no more than so many mails a
// day, and one mail for what is due together. Permissions for one address wait
// for each other.
func (d *DB) BeginMail(ctx context.Context, m Mail) (p Permit, err error) {
	err = d.write(ctx, "begin a mail", func(ctx context.Context, tx *sqlx.Tx) error {
		p, err = beginMail(ctx, tx, m)
		return err
	})
	if err != nil {
		return Permit{}, err
	}
	return p, nil
}

func beginMail(ctx context.Context, tx *sqlx.Tx, m Mail) (Permit, error) {
	control, err := mailControl(ctx, tx)
	if err != nil {
		return Permit{}, err
	}
	if control.Mode == reauth.MailStopped {
		_, err := waitForMail(ctx, tx, m.CaseID, "stopped", control, m.At)
		return Permit{Stopped: true, Version: control.Version}, err
	}
	var address string
	if err := tx.GetContext(ctx, &address, `SELECT email_key FROM contacts WHERE contact_id = $1`, m.Recipient); err != nil {
		return Permit{}, err
	}
	if address == "" {
		return Permit{}, ErrNotFound // taken off the connection meanwhile
	}
	if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(hashtextextended('mail to ' || $1::text, 0))`, address); err != nil {
		return Permit{}, err
	}
	var row NoticeRow
	found, err := first(ctx, tx, &row, selectNotices+`
 WHERE case_id = $1 AND step = $2 AND recipient = $3 AND channel = $4
 ORDER BY state = 'deferred', notice_id DESC LIMIT 1`, // a step comes once, whatever sessions come and go
		m.CaseID, m.Step, m.Recipient, m.Channel)
	if err != nil {
		return Permit{}, err
	}
	if found && !row.State.mayBegin(control.Mode) {
		return Permit{ID: row.ID, State: row.State, Led: row.LeadID != 0, BegunAt: row.BegunAt}, nil
	}
	if m.PerDay > 0 {
		var had int
		if err := tx.GetContext(ctx, &had, `
SELECT count(DISTINCT n.message_id) FROM notices n JOIN contacts p USING (contact_id) JOIN cases k USING (case_id)
 WHERE p.email_key = $1 AND p.removed_at IS NULL AND n.channel = 'mail' AND NOT n.fixed AND (n.state IN ('sending', 'sent', 'unknown') OR n.state = 'shadow' AND $4)
   AND n.begun_at >= $2 AND n.begun_at <= $3 AND k.outcome IS NULL`, address, m.DayBegins, m.At.Add(clocksApart), control.Mode == reauth.MailShadow); err != nil {
			return Permit{}, err
		}
		if had >= m.PerDay {
			return Permit{Capped: true}, nil
		}
	}
	id, granted, state, err := beginNotice(ctx, tx, control.Mode, m.Notice, m.At)
	p := Permit{ID: id, Granted: granted, State: state, Version: control.Version}
	if err != nil || !granted && (state != NoticeShadow || found && row.State == NoticeShadow) {
		return p, err
	}
	if found { // it was put off, perhaps in another mail, and is now one of its own
		if err := exec(ctx, tx, `UPDATE notices SET lead_id = NULL, message_id = $2 WHERE notice_id = $1`, id, m.MessageID); err != nil {
			return Permit{}, err
		}
	}
	if m.JoinBefore.IsZero() {
		return p, nil
	}
	p.Along, err = takeAlong(ctx, tx, control.Mode, m, id, address)
	return p, err
}

// takeAlong puts the notices into the ledger that go along in a mail.
func takeAlong(ctx context.Context, tx *sqlx.Tx, mode reauth.MailMode, m Mail, lead int64, address string) ([]Along, error) {
	begun := begunIn(mode)
	var due []Along
	if err := tx.SelectContext(ctx, &due, `
SELECT 0 AS notice_id, k.case_id, k.connection_id, p.contact_id, k.next_step, k.session_ordinal, k.opened_at, k.deadline_at, k.notices_sent, p.role, k.next_audience
  FROM contacts p JOIN cases k USING (connection_id)
 WHERE p.email_key = $1 AND p.removed_at IS NULL AND p.declined_at IS NULL AND k.case_id <> $2
   AND k.outcome IS NULL AND k.phase = 'awaiting_customer' AND k.next_notice_at < $3 AND k.next_step <> '' AND k.next_channel = 'mail'
   AND (k.storm_id IS NULL OR k.notices_sent > 0 OR k.released_at IS NOT NULL)
   AND NOT EXISTS (SELECT FROM notices n WHERE n.case_id = k.case_id AND n.step = k.next_step AND n.recipient = p.contact_id
                      AND n.channel = 'mail' AND n.state <> 'deferred' AND NOT (n.state = 'shadow' AND $5))
 ORDER BY k.case_id LIMIT $4 FOR SHARE OF k`, address, m.CaseID, m.JoinBefore, mostAlong, mode == reauth.MailOn); err != nil {
		return nil, err
	}
	along := due[:0]
	for _, a := range due {
		if m.Joins != nil && !m.Joins(a.Audience, a.Role) {
			continue
		}
		taken, err := first(ctx, tx, &a.NoticeID, `
INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, message_id, lead_id, state, begun_at, ended_at)
VALUES ($1, $2, $3, $4, $5, 'mail', $6, $7, $8, $9, $10)
ON CONFLICT (case_id, step, session_ordinal, recipient, channel) DO UPDATE
   SET state = excluded.state, begun_at = excluded.begun_at, ended_at = excluded.ended_at, attempts = notices.attempts + 1,
       message_id = excluded.message_id, lead_id = excluded.lead_id
 WHERE notices.state = 'deferred' OR notices.state = 'shadow' AND $11
RETURNING notice_id`,
			a.CaseID, a.ConnectionID, a.Step, a.SessionOrdinal, a.ContactID, m.MessageID, lead, begun, m.At, endedIn(begun, m.At), mode == reauth.MailOn)
		if err != nil {
			return nil, err
		}
		if taken {
			along = append(along, a)
		}
	}
	return along, nil
}

// LeaveBehind takes a notice out of the mail in which it was to go along: its
// own case sends it, or finds that there is no need to.
func (d *DB) LeaveBehind(ctx context.Context, noticeID int64) error {
	now := d.now()
	return d.write(ctx, "leave a notice behind", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE notices SET state = 'deferred', ended_at = $2, lead_id = NULL, detail = 'left for its own case to send'
 WHERE notice_id = $1 AND state IN ('sending', 'shadow') AND lead_id IS NOT NULL`, noticeID, now)
	})
}

// SharesContact reports whether somebody who is a contact of this connection is
// one of another's too.
func (d *DB) SharesContact(ctx context.Context, connectionID string) (shares bool, err error) {
	err = d.read(ctx, "look for shared contacts", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &shares, `
SELECT EXISTS (SELECT FROM contacts a JOIN contacts b ON b.email_key = a.email_key AND b.connection_id <> a.connection_id AND b.removed_at IS NULL
                WHERE a.connection_id = $1 AND a.removed_at IS NULL)`, connectionID)
	})
	return shares, err
}

// HandToBackend puts a step's notices to several contacts into the ledger, for
// the company's backend to send, and the event that tells it, in one
// transaction. Contacts who have the step already are left out. given is how
// many notices were new; without any, nothing is enqueued. The case must be open.
// Where mail is stopped the control says so and nothing is given, and the case
// stands among those that wait. In shadow the ledger says what would have been
// given, the timeline is told, and no event is enqueued.
func (d *DB) HandToBackend(ctx context.Context, n Notice, contacts []string, event OutboxEvent, at time.Time) (given int, control MailControl, err error) {
	now := d.now()
	err = d.write(ctx, "hand a notice to the backend", func(ctx context.Context, tx *sqlx.Tx) error {
		given = 0
		if control, err = mailControl(ctx, tx); err != nil {
			return err
		}
		if control.Mode == reauth.MailStopped {
			_, err := waitForMail(ctx, tx, n.CaseID, "stopped", control, at)
			return err
		}
		shadow := control.Mode == reauth.MailShadow
		state := NoticeSent
		if shadow {
			state = NoticeShadow
		}
		var k struct {
			ConnectionID string         `db:"connection_id"`
			Outcome      reauth.Outcome `db:"outcome"`
		}
		if err := tx.GetContext(ctx, &k, `
SELECT connection_id, coalesce(outcome, '') AS outcome FROM cases WHERE case_id = $1 FOR SHARE`, n.CaseID); err != nil {
			return err
		}
		if k.Outcome != "" {
			return nil
		}
		event.ConnectionID, event.CaseID, event.Recipients = k.ConnectionID, n.CaseID, nil
		for _, contact := range contacts {
			added, err := changed(ctx, tx, `
INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, message_id, state, begun_at, ended_at)
SELECT $1, $2, $3, $4, $5, 'webhook', $6, $8, $7, $7
 WHERE NOT EXISTS (SELECT FROM notices WHERE case_id = $1 AND step = $3 AND recipient = $5 AND channel = 'webhook' AND NOT (state = 'shadow' AND $9))
ON CONFLICT (case_id, step, session_ordinal, recipient, channel) DO UPDATE
   SET state = excluded.state, begun_at = excluded.begun_at, ended_at = excluded.ended_at, attempts = notices.attempts + 1, message_id = excluded.message_id
 WHERE notices.state = 'shadow' AND $9`,
				n.CaseID, k.ConnectionID, n.Step, n.SessionOrdinal, contact, event.ID, at, state, !shadow)
			if err != nil {
				return err
			}
			if !added {
				continue
			}
			given++
			event.Recipients = append(event.Recipients, contact)
			if shadow {
				line := wouldHave(NoticeRow{Step: n.Step, Recipient: contact, Channel: ChannelWebhook})
				if err := addEvent(ctx, tx, Event{CaseID: n.CaseID, ConnectionID: k.ConnectionID, Kind: EventNotice + string(NoticeShadow), Detail: line, At: at}); err != nil {
					return err
				}
			}
		}
		if given == 0 || shadow {
			return nil
		}
		// People in several time zones get a step's notice in several events.
		sum := sha256.Sum256([]byte(strings.Join(event.Recipients, " ")))
		event.ID += "_" + hex.EncodeToString(sum[:8])
		return enqueue(ctx, tx, event, now)
	})
	if err != nil {
		return 0, MailControl{}, err
	}
	return given, control, nil
}
