package db

import (
	"context"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// Recipient is a contact who can be written to.
type Recipient struct {
	// ContactID names the contact everywhere outside contacts.
	ContactID string `db:"contact_id"`
	Email     string `db:"email"`
	Name      string `db:"name"`
	Role      string `db:"role"`
	Locale    string `db:"locale"`
	TimeZone  string `db:"time_zone"`
	// Unreachable says why the contact must not be written to; empty if they may.
	Unreachable Unreachable `db:"unreachable"`
	// Declined: they said that they are not the right person, whatever else
	// Unreachable says.
	Declined bool `db:"declined"`
}

// String keeps the e-mail address and the name out of anything that prints a recipient.
func (r Recipient) String() string { return "contact " + r.ContactID }

// GoString keeps the e-mail address and the name out of %#v.
func (r Recipient) GoString() string { return r.String() }

const selectRecipients = `
SELECT p.contact_id, p.email, p.name, p.role, p.locale, p.time_zone, ` + unreachable + ` AS unreachable,
       p.declined_at IS NOT NULL AS declined
  FROM contacts p`

// Recipients returns the contacts of a connection in the order in which they
// were registered, those who must not be written to included. A connection
// without contacts, or an unknown one, has none.
func (d *DB) Recipients(ctx context.Context, connectionID string) (list []Recipient, err error) {
	err = d.read(ctx, "read the recipients", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectRecipients+`
 WHERE p.connection_id = $1 AND p.removed_at IS NULL ORDER BY p.position`, connectionID)
	})
	return list, err
}

// Recipient returns one contact of a connection, also one who must not be
// written to. ErrNotFound when the connection has no such contact, or no longer.
func (d *DB) Recipient(ctx context.Context, connectionID, contactID string) (r Recipient, err error) {
	err = d.read(ctx, "read a recipient", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &r, selectRecipients+`
 WHERE p.contact_id = $2 AND p.connection_id = $1 AND p.removed_at IS NULL`, connectionID, contactID)
	})
	return r, err
}

// replaceContacts makes contacts the ones of a locked connection. Whoever was
// taken off it before, and is given again, is the same contact as then.
func replaceContacts(ctx context.Context, tx *sqlx.Tx, connectionID string, contacts []reauth.Contact, now time.Time) error {
	var stored []struct {
		ContactID string `db:"contact_id"`
		EmailKey  string `db:"email_key"`
	}
	if err := tx.SelectContext(ctx, &stored, `
SELECT contact_id, email_key FROM contacts WHERE connection_id = $1 AND removed_at IS NULL`, connectionID); err != nil {
		return err
	}
	gone := make(map[string]string, len(stored)) // by address, who is not given again
	for _, s := range stored {
		gone[s.EmailKey] = s.ContactID
	}

	seen := make(map[string]bool, len(contacts))
	for i, c := range contacts {
		email := strings.TrimSpace(c.Email)
		key := emailKey(email)
		if seen[key] {
			continue
		}
		seen[key] = true
		id, known := gone[key]
		delete(gone, key)
		var err error
		if known {
			err = exec(ctx, tx, `
UPDATE contacts SET position = $2, email = $3, name = $4, role = $5, locale = $6, time_zone = $7 WHERE contact_id = $1`,
				id, i, email, c.Name, c.Role, c.Locale, c.TimeZone)
		} else if known, err = changed(ctx, tx, `
UPDATE contacts SET position = $2, email = $3, email_key = $4, name = $5, role = $6, locale = $7, time_zone = $8, removed_at = NULL, address_hash = NULL
 WHERE contact_id = (SELECT contact_id FROM contacts WHERE connection_id = $1 AND address_hash = $9 AND removed_at IS NOT NULL
                      ORDER BY removed_at DESC LIMIT 1)`,
			connectionID, i, email, key, c.Name, c.Role, c.Locale, c.TimeZone, addressHash(email)); err == nil && !known {
			err = exec(ctx, tx, `
INSERT INTO contacts (connection_id, position, email, email_key, name, role, locale, time_zone)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
				connectionID, i, email, key, c.Name, c.Role, c.Locale, c.TimeZone)
		}
		if err != nil {
			return err
		}
	}

	for _, id := range gone {
		if err := exec(ctx, tx, `
UPDATE contacts SET email = '', email_key = '', name = '', removed_at = $2, address_hash = sha256(convert_to(email_key, 'UTF8')) WHERE contact_id = $1`, id, now); err != nil {
			return err
		}
		if err := exec(ctx, tx, `
UPDATE links SET revoked_at = $3 WHERE connection_id = $1 AND recipient = $2 AND revoked_at IS NULL`, connectionID, id, now); err != nil {
			return err
		}
	}
	return nil
}
