package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// connectionJSON is a connection for a statement that stores many; what it is
// silent of is null.
type connectionJSON struct {
	ID           string           `json:"id"`
	Provider     *reauth.Provider `json:"provider"`
	Application  *string          `json:"application"`
	CustomerID   *string          `json:"customer_id"`
	CustomerName *string          `json:"customer_name"`
	System       *string          `json:"system"`
	Campaign     *string          `json:"campaign"`
	Products     []string         `json:"products"`
}

// contactJSON is a contact for a statement that stores many.
type contactJSON struct {
	ConnectionID string `json:"cid"`
	Position     int    `json:"position"`
	Email        string `json:"email"`
	Key          string `json:"key"`
	Hash         []byte `json:"hash"`
	Name         string `json:"name"`
	Role         string `json:"role"`
	Locale       string `json:"locale"`
	TimeZone     string `json:"time_zone"`
}

const (
	asConnections = ` AS i(id text, provider text, application text, customer_id text, customer_name text, system text, campaign text, products text[])`
	asContacts    = ` AS i(cid text, position integer, email text, key text, hash text, name text, role text, locale text, time_zone text)`
)

// putMany is what became of connections that were stored together.
type putMany struct {
	created, updated int64
	contacts         []CaseContact // open cases whose connections have other contacts now
}

// putConnections stores connections as PutConnection does, with a few
// statements for all of them. What a row is silent of stays as it is; of a
// connection that is stored as it is given, nothing is written. Each connection
// stands in rows once.
func putConnections(ctx context.Context, tx *sqlx.Tx, rows []ImportRow, now time.Time) (out putMany, err error) {
	if len(rows) == 0 {
		return out, nil
	}
	list := make([]connectionJSON, len(rows))
	for i, r := range rows {
		list[i] = rowJSON(r)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return out, err
	}
	var inserted []string
	if err := tx.SelectContext(ctx, &inserted, `
INSERT INTO connections (connection_id, provider, application, customer_id, customer_name, system, campaign, products, status, created_at, updated_at)
SELECT i.id, coalesce(i.provider, 'finch'), coalesce(i.application, 'default'), coalesce(i.customer_id, ''), coalesce(i.customer_name, ''),
       coalesce(i.system, ''), coalesce(i.campaign, ''), coalesce(i.products, '{}'), 'connected', $2, $2
  FROM json_to_recordset($1)`+asConnections+` ORDER BY i.id
ON CONFLICT (connection_id) DO NOTHING RETURNING connection_id`, string(text), now); err != nil {
		return out, err
	}
	out.created = int64(len(inserted))
	fresh := make(map[string]bool, len(inserted))
	for _, id := range inserted {
		fresh[id] = true
	}
	changedIDs := map[string]bool{}
	if len(inserted) < len(rows) {
		revived, err := updateConnections(ctx, tx, string(text), rows, fresh, changedIDs, now)
		if err != nil {
			return out, err
		}
		out.created += revived
	}
	contacts, err := putContacts(ctx, tx, rows, fresh, changedIDs, now)
	if err != nil {
		return out, err
	}
	out.contacts = contacts
	for id := range changedIDs {
		if !fresh[id] {
			out.updated++
		}
	}
	return out, nil
}

func rowJSON(r ImportRow) connectionJSON {
	c := connectionJSON{ID: r.Connection.ConnectionID}
	for _, f := range []struct {
		given bool
		into  **string
		value *string
	}{
		{r.Given.Application, &c.Application, &r.Connection.Application},
		{r.Given.CustomerID, &c.CustomerID, &r.Connection.CustomerID},
		{r.Given.CustomerName, &c.CustomerName, &r.Connection.CustomerName},
		{r.Given.System, &c.System, &r.Connection.System},
		{r.Given.Campaign, &c.Campaign, &r.Connection.Campaign},
	} {
		if f.given {
			*f.into = f.value
		}
	}
	if r.Given.Provider {
		c.Provider = &r.Connection.Provider
	}
	if r.Given.Products {
		c.Products = append([]string{}, r.Connection.Products...)
	}
	return c
}

// updateConnections locks the connections that were stored before and updates
// those of which something differs. It reports how many come back that had been
// removed.
func updateConnections(ctx context.Context, tx *sqlx.Tx, text string, rows []ImportRow, fresh, changedIDs map[string]bool, now time.Time) (revived int64, err error) {
	stored := make([]string, 0, len(rows))
	for _, r := range rows {
		if id := r.Connection.ConnectionID; !fresh[id] {
			stored = append(stored, id)
		}
	}
	var removed []string
	if err := tx.SelectContext(ctx, &removed, `
SELECT CASE WHEN status = 'removed' THEN connection_id ELSE '' END FROM connections
 WHERE connection_id = ANY($1) ORDER BY connection_id FOR NO KEY UPDATE`, pq.Array(stored)); err != nil {
		return 0, err
	}
	for _, id := range removed {
		if id != "" {
			revived++
			fresh[id] = true // as good as new
		}
	}
	var changed []string
	if err := tx.SelectContext(ctx, &changed, `
WITH i AS (SELECT * FROM json_to_recordset($1)`+asConnections+`),
     after AS (
    SELECT c.connection_id, coalesce(i.provider, c.provider) AS provider, coalesce(i.application, c.application) AS application,
           coalesce(i.customer_id, c.customer_id) AS customer_id, coalesce(i.customer_name, c.customer_name) AS customer_name,
           coalesce(nullif(i.system, ''), c.system) AS system, coalesce(i.campaign, c.campaign) AS campaign,
           coalesce(i.products, c.products) AS products
      FROM i JOIN connections c ON c.connection_id = i.id WHERE c.connection_id = ANY($3))
UPDATE connections c
   SET provider = a.provider, application = a.application, customer_id = a.customer_id, customer_name = a.customer_name,
       system = a.system, campaign = a.campaign, products = a.products,
       status = CASE WHEN c.status = 'removed' THEN 'connected' ELSE c.status END, disconnected_at = NULL, updated_at = $2
  FROM after a
 WHERE c.connection_id = a.connection_id
   AND (c.status = 'removed'
        OR (c.provider, c.application, c.customer_id, c.customer_name, c.system, c.campaign, c.products)
           IS DISTINCT FROM (a.provider, a.application, a.customer_id, a.customer_name, a.system, a.campaign, a.products))
RETURNING c.connection_id`, text, now, pq.Array(stored)); err != nil {
		return 0, err
	}
	for _, id := range changed {
		changedIDs[id] = true
	}
	return revived, nil
}

// putContacts makes the given contacts those of their locked connections, as
// replaceContacts does for one. It returns the open cases that others can be
// written to for than before.
func putContacts(ctx context.Context, tx *sqlx.Tx, rows []ImportRow, fresh, changedIDs map[string]bool, now time.Time) ([]CaseContact, error) {
	list := []contactJSON{}
	var stored []string // connections that had contacts before, maybe
	for _, r := range rows {
		if !r.Given.Contacts {
			continue
		}
		id := r.Connection.ConnectionID
		if !fresh[id] {
			stored = append(stored, id)
		}
		seen := map[string]bool{}
		for i, c := range r.Connection.Contacts {
			key := emailKey(c.Email)
			if seen[key] {
				continue
			}
			seen[key] = true
			list = append(list, contactJSON{id, i, c.Email, key, addressHash(c.Email), c.Name, c.Role, c.Locale, c.TimeZone})
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	others := map[string]bool{} // connections that have other contacts now
	if len(stored) > 0 {
		if err := changeContacts(ctx, tx, string(text), stored, changedIDs, others, now); err != nil {
			return nil, err
		}
	}
	if len(list) > 0 {
		var grown []string
		if err := tx.SelectContext(ctx, &grown, `
INSERT INTO contacts (connection_id, position, email, email_key, name, role, locale, time_zone)
SELECT i.cid, i.position, i.email, i.key, i.name, i.role, i.locale, i.time_zone FROM json_to_recordset($1)`+asContacts+`
 WHERE NOT EXISTS (SELECT FROM contacts p WHERE p.connection_id = i.cid AND p.email_key = i.key AND p.removed_at IS NULL)
RETURNING connection_id`, string(text)); err != nil {
			return nil, err
		}
		for _, id := range grown {
			others[id], changedIDs[id] = true, true
		}
	}
	told := make([]string, 0, len(others))
	for id := range others {
		if !fresh[id] {
			told = append(told, id)
		}
	}
	if len(told) == 0 {
		return nil, nil
	}
	var cases []CaseContact
	err = tx.SelectContext(ctx, &cases, `
SELECT case_id, connection_id, '' AS contact_id FROM cases WHERE outcome IS NULL AND connection_id = ANY($1) ORDER BY connection_id`, pq.Array(told))
	return cases, err
}

// changeContacts blanks who is not given again, brings back who was there
// before, and changes of the others what differs.
func changeContacts(ctx context.Context, tx *sqlx.Tx, text string, stored []string, changedIDs, others map[string]bool, now time.Time) error {
	var gone []struct {
		ContactID    string `db:"contact_id"`
		ConnectionID string `db:"connection_id"`
	}
	if err := tx.SelectContext(ctx, &gone, `
UPDATE contacts p
   SET email = '', email_key = '', name = '', removed_at = $3, address_hash = sha256(convert_to(p.email_key, 'UTF8'))
 WHERE p.connection_id = ANY($2) AND p.removed_at IS NULL
   AND NOT EXISTS (SELECT FROM json_to_recordset($1)`+asContacts+` WHERE i.cid = p.connection_id AND i.key = p.email_key)
RETURNING p.contact_id, p.connection_id`, text, pq.Array(stored), now); err != nil {
		return err
	}
	recipients := make([]string, len(gone))
	for i, g := range gone {
		recipients[i] = g.ContactID
		others[g.ConnectionID], changedIDs[g.ConnectionID] = true, true
	}
	if len(gone) > 0 {
		if err := exec(ctx, tx, `
UPDATE links SET revoked_at = $3 WHERE connection_id = ANY($1) AND recipient = ANY($2) AND revoked_at IS NULL`,
			pq.Array(stored), pq.Array(recipients), now); err != nil {
			return err
		}
	}
	var back []string
	if err := tx.SelectContext(ctx, &back, `
UPDATE contacts p
   SET position = n.position, email = n.email, email_key = n.key, name = n.name, role = n.role, locale = n.locale, time_zone = n.time_zone,
       removed_at = NULL, address_hash = NULL
  FROM (SELECT DISTINCT ON (i.cid, i.key) o.contact_id AS was, i.*
          FROM json_to_recordset($1)`+asContacts+`
          JOIN contacts o ON o.connection_id = i.cid AND o.address_hash = decode(i.hash, 'base64') AND o.removed_at IS NOT NULL
         WHERE i.cid = ANY($2)
           AND NOT EXISTS (SELECT FROM contacts q WHERE q.connection_id = i.cid AND q.email_key = i.key AND q.removed_at IS NULL)
         ORDER BY i.cid, i.key, o.removed_at DESC) n
 WHERE p.contact_id = n.was
RETURNING p.connection_id`, text, pq.Array(stored)); err != nil {
		return err
	}
	for _, id := range back {
		others[id], changedIDs[id] = true, true
	}
	var differ []struct {
		ConnectionID string `db:"connection_id"`
		Role         bool   `db:"other_role"`
	}
	if err := tx.SelectContext(ctx, &differ, `
WITH n AS (
    SELECT p.contact_id, p.role <> i.role AS other_role, i.*
      FROM json_to_recordset($1)`+asContacts+`
      JOIN contacts p ON p.connection_id = i.cid AND p.email_key = i.key AND p.removed_at IS NULL
     WHERE i.cid = ANY($2)
       AND (p.position, p.email, p.name, p.role, p.locale, p.time_zone)
           IS DISTINCT FROM (i.position, i.email, i.name, i.role, i.locale, i.time_zone))
UPDATE contacts p
   SET position = n.position, email = n.email, name = n.name, role = n.role, locale = n.locale, time_zone = n.time_zone
  FROM n WHERE p.contact_id = n.contact_id
RETURNING p.connection_id, n.other_role`, text, pq.Array(stored)); err != nil {
		return err
	}
	for _, d := range differ {
		changedIDs[d.ConnectionID] = true
		if d.Role {
			others[d.ConnectionID] = true
		}
	}
	return nil
}
