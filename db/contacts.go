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
}

// String keeps the e-mail address and the name out of anything that prints a recipient.
func (r Recipient) String() string { return "contact " + r.ContactID }

// GoString keeps the e-mail address and the name out of %#v.
func (r Recipient) GoString() string { return r.String() }

// Recipients returns the contacts of a connection in the order in which they
// were registered. A connection without contacts, or an unknown one, has none.
func (d *DB) Recipients(ctx context.Context, connectionID string) (list []Recipient, err error) {
	err = d.read(ctx, "read the recipients", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT contact_id, email, name, role, locale, time_zone FROM contacts
 WHERE connection_id = $1 AND removed_at IS NULL ORDER BY position`, connectionID)
	})
	return list, err
}

// replaceContacts makes contacts the ones of a locked connection.
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
		key := strings.ToLower(email)
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
		} else {
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
UPDATE contacts SET email = '', email_key = '', name = '', removed_at = $2 WHERE contact_id = $1`, id, now); err != nil {
			return err
		}
		if err := exec(ctx, tx, `
UPDATE links SET revoked_at = $3 WHERE connection_id = $1 AND recipient = $2 AND revoked_at IS NULL`, connectionID, id, now); err != nil {
			return err
		}
	}
	return nil
}
