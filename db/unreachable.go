package db

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// EventReachable is on a timeline when a contact may be written to again.
const EventReachable = "contact_reachable"

// Unreachable says why a contact must not be written to.
type Unreachable string

// The reasons. All but UnreachableNotMe are an address's, whoever's contact it
// is; UnreachableNotMe is a contact's of one connection.
const (
	UnreachableBounce    Unreachable = "bounce"    // the address takes no mail
	UnreachableComplaint Unreachable = "complaint" // its owner reported our mail as spam
	UnreachableOptOut    Unreachable = "opt_out"   // its owner wants no mail of ours
	UnreachableNotMe     Unreachable = "not_me"    // its owner is not the right person
)

// unreachable is the SQL for the reason why contact p must not be written to.
const unreachable = `coalesce((SELECT u.kind FROM unreachable u WHERE u.address_hash = sha256(convert_to(p.email_key, 'UTF8'))),
                CASE WHEN p.declined_at IS NOT NULL THEN 'not_me' ELSE '' END)`

// addressHash stands for an address in the table unreachable.
func addressHash(email string) []byte {
	sum := sha256.Sum256([]byte(emailKey(email)))
	return sum[:]
}

// emailKey is an address as contacts are compared by it.
func emailKey(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

// CaseContact is a contact of a connection that has an open case.
type CaseContact struct {
	CaseID       string `db:"case_id"`
	ConnectionID string `db:"connection_id"`
	ContactID    string `db:"contact_id"`
}

// SetUnreachable says that nobody is to write to an address any more, whether
// or not it is known. A complaint or an opt-out stands over a bounce. It
// returns the contacts with that address whose connections have an open case:
// those cases must find somebody else. first is false when the address was
// unreachable before. kind must be a bounce, a complaint or an opt-out.
func (d *DB) SetUnreachable(ctx context.Context, email string, kind Unreachable, detail string) (cases []CaseContact, first bool, err error) {
	const doing = "set an address unreachable"
	if !slices.Contains([]Unreachable{UnreachableBounce, UnreachableComplaint, UnreachableOptOut}, kind) {
		return nil, false, errors.New(doing + ": the kind must be bounce, complaint or opt_out")
	}
	now := d.now()
	err = d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		var err error
		if first, err = changed(ctx, tx, `
INSERT INTO unreachable (address_hash, kind, detail, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			addressHash(email), kind, plain(detail), now); err != nil {
			return err
		}
		if !first {
			if err := exec(ctx, tx, `
UPDATE unreachable SET kind = $2, detail = $3, at = $4 WHERE address_hash = $1 AND kind = 'bounce' AND $2 <> 'bounce'`,
				addressHash(email), kind, plain(detail), now); err != nil {
				return err
			}
		}
		if cases, err = openCasesOf(ctx, tx, email, false); err != nil || !first {
			return err
		}
		for _, c := range cases {
			if err := addEvent(ctx, tx, Event{CaseID: c.CaseID, ConnectionID: c.ConnectionID, Kind: EventUnreachable, Detail: c.ContactID + ": " + string(kind), At: now}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return cases, first, nil
}

// AddressUnreachable says why nobody is to write to an address, whoever's
// contact it is; empty if they may.
func (d *DB) AddressUnreachable(ctx context.Context, email string) (kind Unreachable, err error) {
	err = d.read(ctx, "look an address up", func(ctx context.Context) error {
		_, err := first(ctx, d.sqlx, &kind, `SELECT kind FROM unreachable WHERE address_hash = $1`, addressHash(email))
		return err
	})
	return kind, err
}

// SetReachable takes back that an address is unreachable, and that contacts
// with this address said they are not the right person. It returns the contacts
// with that address whose connections have an open case: they may be written to
// again. did is false when nothing had to be taken back.
func (d *DB) SetReachable(ctx context.Context, email string) (cases []CaseContact, did bool, err error) {
	now := d.now()
	err = d.write(ctx, "set an address reachable", func(ctx context.Context, tx *sqlx.Tx) error {
		listed, err := changed(ctx, tx, `DELETE FROM unreachable WHERE address_hash = $1`, addressHash(email))
		if err != nil {
			return err
		}
		declined, err := changed(ctx, tx, `
UPDATE contacts SET declined_at = NULL WHERE contact_id IN (
    SELECT contact_id FROM contacts WHERE email_key = $1 AND removed_at IS NULL AND declined_at IS NOT NULL ORDER BY contact_id FOR NO KEY UPDATE)`,
			emailKey(email))
		if err != nil {
			return err
		}
		if cases, err = openCasesOf(ctx, tx, email, true); err != nil {
			return err
		}
		if did = listed || declined; !did {
			return nil
		}
		return noteReachable(ctx, tx, cases, now)
	})
	if err != nil {
		return nil, false, err
	}
	return cases, did, nil
}

// SameAddress lists the contacts of other connections that have the address of
// a contact, where a case is open.
func (d *DB) SameAddress(ctx context.Context, connectionID, contactID string) (cases []CaseContact, err error) {
	err = d.read(ctx, "find a person's other connections", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &cases, `
SELECT k.case_id, k.connection_id, p.contact_id
  FROM contacts own JOIN contacts p ON p.email_key = own.email_key AND p.connection_id <> own.connection_id AND p.removed_at IS NULL
  JOIN cases k ON k.connection_id = p.connection_id AND k.outcome IS NULL
 WHERE own.connection_id = $1 AND own.contact_id = $2 AND own.removed_at IS NULL ORDER BY k.case_id LIMIT 50`, connectionID, contactID)
	})
	return cases, err
}

// TakeBack takes back what a contact said of themselves: that they are not the
// right person for their connection, and that their address wants no mail. A
// bounce and a complaint stay. It returns the contacts whose connections have
// an open case in which they may be written to again. ErrNotFound when the
// connection has no such contact.
func (d *DB) TakeBack(ctx context.Context, connectionID, contactID string) (cases []CaseContact, err error) {
	now := d.now()
	err = d.write(ctx, "take back what a contact said", func(ctx context.Context, tx *sqlx.Tx) error {
		var p struct {
			EmailKey   string     `db:"email_key"`
			DeclinedAt *time.Time `db:"declined_at"`
		}
		if err := tx.GetContext(ctx, &p, `
SELECT email_key, declined_at FROM contacts WHERE contact_id = $2 AND connection_id = $1 AND removed_at IS NULL FOR NO KEY UPDATE`,
			connectionID, contactID); err != nil {
			return err
		}
		if p.DeclinedAt != nil {
			if err := exec(ctx, tx, `UPDATE contacts SET declined_at = NULL WHERE contact_id = $1`, contactID); err != nil {
				return err
			}
		}
		listed, err := changed(ctx, tx, `DELETE FROM unreachable WHERE address_hash = $1 AND kind = 'opt_out'`, addressHash(p.EmailKey))
		if err != nil {
			return err
		}
		if cases, err = openCasesOf(ctx, tx, p.EmailKey, true); err != nil {
			return err
		}
		if !listed { // what they said concerned this connection alone
			cases = slices.DeleteFunc(cases, func(c CaseContact) bool { return p.DeclinedAt == nil || c.ContactID != contactID })
		}
		return noteReachable(ctx, tx, cases, now)
	})
	if err != nil {
		return nil, err
	}
	return cases, nil
}

// openCasesOf returns the contacts with an address whose connections have an
// open case, or those of them alone that may be written to.
func openCasesOf(ctx context.Context, tx *sqlx.Tx, email string, reachable bool) (cases []CaseContact, err error) {
	err = tx.SelectContext(ctx, &cases, `
SELECT k.case_id, k.connection_id, p.contact_id FROM contacts p JOIN cases k USING (connection_id)
 WHERE p.email_key = $1 AND p.removed_at IS NULL AND k.outcome IS NULL AND (NOT $2 OR `+unreachable+` = '')
 ORDER BY k.case_id`, emailKey(email), reachable)
	return cases, err
}

// noteReachable puts it on the timelines that contacts may be written to again.
func noteReachable(ctx context.Context, tx *sqlx.Tx, cases []CaseContact, at time.Time) error {
	for _, c := range cases {
		if err := addEvent(ctx, tx, Event{CaseID: c.CaseID, ConnectionID: c.ConnectionID, Kind: EventReachable, Detail: c.ContactID, At: at}); err != nil {
			return err
		}
	}
	return nil
}

// Decline says that a contact is not the right person for their connection. It
// reports false when they had said so before. ErrNotFound when the connection
// has no such contact.
func (d *DB) Decline(ctx context.Context, connectionID, contactID string) (first bool, err error) {
	now := d.now()
	err = d.write(ctx, "note that a contact declined", func(ctx context.Context, tx *sqlx.Tx) error {
		var declinedAt *time.Time
		if err := tx.GetContext(ctx, &declinedAt, `
SELECT declined_at FROM contacts WHERE contact_id = $2 AND connection_id = $1 AND removed_at IS NULL FOR NO KEY UPDATE`, connectionID, contactID); err != nil {
			return err
		}
		if first = declinedAt == nil; !first {
			return nil
		}
		if err := exec(ctx, tx, `UPDATE contacts SET declined_at = $2 WHERE contact_id = $1`, contactID, now); err != nil {
			return err
		}
		var caseID string
		open, err := openCaseID(ctx, tx, connectionID, &caseID)
		if err != nil || !open {
			return err
		}
		return addEvent(ctx, tx, Event{CaseID: caseID, ConnectionID: connectionID, Kind: EventUnreachable, Detail: contactID + ": not_me", At: now})
	})
	return first && err == nil, err
}

func openCaseID(ctx context.Context, tx *sqlx.Tx, connectionID string, caseID *string) (bool, error) {
	return first(ctx, tx, caseID, `SELECT case_id FROM cases WHERE connection_id = $1 AND outcome IS NULL`, connectionID)
}
