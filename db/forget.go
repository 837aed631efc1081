package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// EventContactForgotten is on a timeline when a contact was forgotten.
const EventContactForgotten = "contact_forgotten"

// belongings are rows about connections: what goes with them.
type belongings struct {
	table string
	// of is SQL for those of the connections $1.
	of string
	// kept: they outlive a connection that was merely removed; only forgetting
	// it takes them.
	kept bool
}

const (
	theirs      = `connection_id = ANY($1)`
	ofTheirCase = `case_id IN (SELECT case_id FROM cases WHERE connection_id = ANY($1))`
)

// aboutConnections lists every table with rows about a connection, each before
// those that it refers to, its own row last. A new table belongs here: that is all it needs to be
// forgotten with its connection. A test finds those that are missing.
func aboutConnections() []belongings {
	const codes = `(SELECT hash FROM codes WHERE connection_id = ANY($1))`
	return []belongings{
		{table: "minted", of: theirs + ` OR code_hash IN ` + codes, kept: true},
		{table: "held_codes", of: theirs + ` OR hash IN ` + codes, kept: true},
		{table: "quarantined_tokens", of: theirs + ` OR expected_connection_id = ANY($1)`, kept: true},
		{table: "codes", of: theirs},
		{table: "budgets", of: `name IN (SELECT 'code:' || id FROM unnest($1::text[]) AS id) OR name IN (SELECT 'stop:' || link_id FROM links WHERE ` + theirs + `)`},
		{table: "clicks", of: theirs},
		{table: "links", of: theirs},
		{table: "outbox", of: theirs},
		{table: "webhook_lines", of: theirs},
		{table: "webhooks", of: theirs},
		{table: "staged_tokens", of: theirs},
		{table: "import_rejects", of: theirs},
		{table: "suppressions", of: theirs},
		{table: "notices", of: ofTheirCase},
		{table: "chats", of: ofTheirCase},
		{table: "mail_waits", of: ofTheirCase},
		{table: "mail_starts", of: ofTheirCase},
		{table: "case_events", of: theirs},
		{table: "tokens", of: theirs},
		{table: "cases", of: theirs},
		{table: "entities", of: theirs},
		{table: "contacts", of: theirs},
		{table: "connections", of: theirs},
	}
}

// unlead parts the notices of other cases from the mails of cases that go.
const unlead = `
UPDATE notices SET lead_id = NULL
 WHERE lead_id IN (SELECT notice_id FROM notices WHERE case_id = ANY($1)) AND case_id <> ALL($1)`

// CountConnection counts what ForgetConnection would delete, by table.
func (d *DB) CountConnection(ctx context.Context, id string) (count reauth.Deleted, err error) {
	count = reauth.Deleted{}
	err = d.read(ctx, "count what is known of a connection", func(ctx context.Context) error {
		for _, b := range aboutConnections() {
			var n int
			if err := d.sqlx.GetContext(ctx, &n, `SELECT count(*) FROM `+b.table+` WHERE `+b.of, pq.Array([]string{id})); err != nil {
				return err
			}
			if n > 0 {
				count[b.table] = n
			}
		}
		return nil
	})
	return count, err
}

// CodesOf returns the hashes of the codes that arrived for a connection.
func (d *DB) CodesOf(ctx context.Context, connectionID string) (hashes []string, err error) {
	err = d.read(ctx, "list the codes of a connection", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &hashes, `
SELECT hash FROM codes WHERE connection_id = $1
 UNION SELECT hash FROM held_codes WHERE connection_id = $1
 UNION SELECT code_hash FROM minted WHERE connection_id = $1`, connectionID)
	})
	return hashes, err
}

// ForgetConnection deletes every row about a connection that was removed, tokens
// in quarantine and its row included, and says how many of each table there
// were. Doing it again finds what has come since. ErrConnected when the
// connection is there and was not removed.
func (d *DB) ForgetConnection(ctx context.Context, id string) (gone reauth.Deleted, err error) {
	err = d.write(ctx, "forget a connection", func(ctx context.Context, tx *sqlx.Tx) error {
		var status reauth.ConnectionStatus
		known, err := first(ctx, tx, &status, `
SELECT status FROM connections WHERE connection_id = $1 AND ($2 = '' OR application = $2) FOR UPDATE`, id, within(ctx))
		switch {
		case err != nil:
			return err
		case known && status != reauth.StatusRemoved:
			return ErrConnected
		case !known && within(ctx) != "":
			return ErrNotFound
		}
		gone, err = forgetConnections(ctx, tx, []string{id}, false)
		return err
	})
	return gone, err
}

// forgetConnections deletes what is about connections, whose rows are locked.
func forgetConnections(ctx context.Context, tx *sqlx.Tx, ids []string, keep bool) (reauth.Deleted, error) {
	var cases []string
	if err := tx.SelectContext(ctx, &cases, `SELECT case_id FROM cases WHERE connection_id = ANY($1) FOR UPDATE`, pq.Array(ids)); err != nil {
		return nil, err
	}
	if err := exec(ctx, tx, unlead, pq.Array(cases)); err != nil {
		return nil, err
	}
	gone := reauth.Deleted{}
	for _, b := range aboutConnections() {
		if b.kept && keep {
			continue
		}
		n, err := affected(ctx, tx, `DELETE FROM `+b.table+` WHERE `+b.of, pq.Array(ids))
		if err != nil {
			return nil, err
		}
		if n > 0 {
			gone[b.table] = n
		}
	}
	return gone, nil
}

// ForgottenContact is what became of forgetting an address.
type ForgottenContact struct {
	// Contacts counts the connections' contacts with the address that were
	// blanked, Past those who had been taken off their connection before and of
	// whom a hash was left.
	Contacts int `json:"contacts"`
	Past     int `json:"past"`
	// Unreachable says why nobody writes to the address, which stays known by
	// its hash; empty if it may be written to, or that was forgotten too.
	Unreachable Unreachable `json:"unreachable,omitempty"`
	// Sealed counts the rows of imports that wait with sealed contacts, which
	// may be anybody.
	Sealed int `json:"sealed_import_rows"`
	// Cases are the open cases that must hear of it.
	Cases []CaseContact `json:"-"`
}

// CountContact says what ForgetContact would find.
func (d *DB) CountContact(ctx context.Context, email string) (f ForgottenContact, err error) {
	err = d.read(ctx, "count what is known of an address", func(ctx context.Context) error {
		if err := d.sqlx.QueryRowxContext(ctx, `
SELECT (SELECT count(*) FROM contacts p JOIN connections c USING (connection_id) WHERE p.email_key = $1 AND p.removed_at IS NULL AND ($3 = '' OR c.application = $3)),
       (SELECT count(*) FROM contacts p JOIN connections c USING (connection_id) WHERE p.address_hash = $2 AND ($3 = '' OR c.application = $3))`,
			emailKey(email), addressHash(email), within(ctx)).Scan(&f.Contacts, &f.Past); err != nil {
			return err
		}
		return d.contactLeft(ctx, email, &f)
	})
	return f, err
}

// contactLeft says what stays.
func (d *DB) contactLeft(ctx context.Context, email string, f *ForgottenContact) error {
	if _, err := first(ctx, d.sqlx, &f.Unreachable, `SELECT kind FROM unreachable WHERE address_hash = $1`, addressHash(email)); err != nil {
		return err
	}
	return d.sqlx.GetContext(ctx, &f.Sealed, `SELECT count(*) FROM staged_tokens WHERE connection_id IS NULL AND state = 'waiting'`)
}

// ForgetContact blanks an address wherever it is a contact's, and the name, role,
// locale and time zone with it; links go dead. What was sent stays known by the
// contact's ID alone. That nobody is to write to the address stays known by its
// hash, unless optOut says that this is to be forgotten too. Doing it again goes
// on where it broke off. Within an application, only its connections' contacts
// are forgotten, and never the opt-out, which is everybody's.
func (d *DB) ForgetContact(ctx context.Context, email string, optOut bool) (f ForgottenContact, err error) {
	const doing = "forget a contact"
	var connections []string
	if err := d.read(ctx, doing, func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &connections, `
SELECT connection_id FROM connections c
 WHERE connection_id IN (SELECT connection_id FROM contacts WHERE email_key = $1 AND removed_at IS NULL
                          UNION SELECT connection_id FROM contacts WHERE address_hash = $2)
   AND ($3 = '' OR application = $3)
 ORDER BY connection_id`, emailKey(email), addressHash(email), within(ctx))
	}); err != nil {
		return f, err
	}
	// One connection at a time: locks are held for a moment, however many there are.
	for _, id := range connections {
		if err := d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
			return forgetContact(ctx, tx, id, email, d.now(), &f)
		}); err != nil {
			return f, err
		}
	}
	if optOut && within(ctx) == "" {
		if err := d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
			return exec(ctx, tx, `DELETE FROM unreachable WHERE address_hash = $1`, addressHash(email))
		}); err != nil {
			return f, err
		}
	}
	return f, d.read(ctx, doing, func(ctx context.Context) error { return d.contactLeft(ctx, email, &f) })
}

// forgetContact blanks an address among the contacts of one connection.
func forgetContact(ctx context.Context, tx *sqlx.Tx, connectionID, email string, now time.Time, f *ForgottenContact) error {
	if _, err := lockConnection(ctx, tx, connectionID); err != nil {
		return err
	}
	var blanked []struct {
		ContactID string `db:"contact_id"`
		Was       bool   `db:"was"`
	}
	if err := tx.SelectContext(ctx, &blanked, `
WITH found AS (SELECT contact_id, removed_at IS NOT NULL AS was FROM contacts
                WHERE connection_id = $1 AND (email_key = $2 AND removed_at IS NULL OR address_hash = $3) FOR NO KEY UPDATE)
UPDATE contacts p SET email = '', email_key = '', name = '', role = '', locale = '', time_zone = '', address_hash = NULL,
       removed_at = coalesce(p.removed_at, $4)
  FROM found WHERE p.contact_id = found.contact_id RETURNING p.contact_id, found.was`,
		connectionID, emailKey(email), addressHash(email), now); err != nil {
		return err
	}
	var caseID string
	open, err := openCaseID(ctx, tx, connectionID, &caseID)
	if err != nil {
		return err
	}
	for _, b := range blanked {
		if b.Was {
			f.Past++
			continue
		}
		f.Contacts++
		if err := exec(ctx, tx, `
UPDATE links SET revoked_at = $3 WHERE connection_id = $1 AND recipient = $2 AND revoked_at IS NULL`, connectionID, b.ContactID, now); err != nil {
			return err
		}
		if !open {
			continue
		}
		f.Cases = append(f.Cases, CaseContact{CaseID: caseID, ConnectionID: connectionID, ContactID: b.ContactID})
		if err := addEvent(ctx, tx, Event{CaseID: caseID, ConnectionID: connectionID, Kind: EventContactForgotten, Detail: b.ContactID, At: now}); err != nil {
			return err
		}
	}
	return nil
}
