package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

type connectionRow struct {
	ConnectionID string                  `db:"connection_id"`
	Provider     reauth.Provider         `db:"provider"`
	Application  string                  `db:"application"`
	CustomerID   string                  `db:"customer_id"`
	CustomerName string                  `db:"customer_name"`
	System       string                  `db:"system"`
	Campaign     string                  `db:"campaign"`
	Products     pq.StringArray          `db:"products"`
	Status       reauth.ConnectionStatus `db:"status"`
	Generation   int64                   `db:"generation"`
	CreatedAt    time.Time               `db:"created_at"`
	UpdatedAt    time.Time               `db:"updated_at"`
	Disconnected *time.Time              `db:"disconnected_at"`
	Contacts     []byte                  `db:"contacts"`
	Entities     []byte                  `db:"entities"`
}

// One statement, so that a connection is never seen with another version's contacts.
const selectConnections = `
SELECT c.connection_id, c.provider, c.application, c.customer_id, c.customer_name, c.system, c.campaign, c.products, c.status,
       coalesce(c.generation, 0) AS generation, c.created_at, c.updated_at, c.disconnected_at,
       (SELECT coalesce(json_agg(json_build_object('contact_id', p.contact_id, 'email', p.email, 'name', p.name, 'role', p.role,
                                                   'locale', p.locale, 'time_zone', p.time_zone,
                                                   'unreachable', ` + unreachable + `)
                                 ORDER BY p.position), '[]')
          FROM contacts p WHERE p.connection_id = c.connection_id AND p.removed_at IS NULL) AS contacts,
       (SELECT coalesce(json_agg(json_build_object('entity_id', e.entity_id, 'name', e.name, 'status', e.status, 'since', e.since, 'seen_at', e.seen_at)
                                 ORDER BY e.position, e.entity_id), 'null')
          FROM entities e WHERE e.connection_id = c.connection_id) AS entities
  FROM connections c`

func (r connectionRow) connection() (reauth.Connection, error) {
	c := reauth.Connection{
		ConnectionID: r.ConnectionID, Provider: r.Provider, Application: r.Application,
		CustomerID: r.CustomerID, CustomerName: r.CustomerName, System: r.System, Campaign: r.Campaign, Products: r.Products,
		Status: r.Status, Generation: r.Generation, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, DisconnectedAt: r.Disconnected,
	}
	if err := json.Unmarshal(r.Contacts, &c.Contacts); err != nil {
		return reauth.Connection{}, errors.New("contacts are no list")
	}
	if err := json.Unmarshal(r.Entities, &c.Entities); err != nil {
		return reauth.Connection{}, errors.New("entities are no list")
	}
	for i := range c.Entities {
		c.Entities[i].Since, c.Entities[i].SeenAt = c.Entities[i].Since.UTC(), c.Entities[i].SeenAt.UTC()
	}
	return c, nil
}

// lockedConnection is what a transaction must know of the connection it holds.
type lockedConnection struct {
	Status         reauth.ConnectionStatus `db:"status"`
	Provider       reauth.Provider         `db:"provider"`
	Application    string                  `db:"application"`
	Generation     int64                   `db:"generation"`
	LastGeneration int64                   `db:"last_generation"`
}

func (c lockedConnection) removed() bool { return c.Status == reauth.StatusRemoved }

// lockConnection locks the row of a connection: the first lock of every
// transaction that needs more than one. It is not found where the context is
// limited to another application.
func lockConnection(ctx context.Context, tx *sqlx.Tx, id string) (lockedConnection, error) {
	var c lockedConnection
	err := tx.GetContext(ctx, &c, `
SELECT status, provider, application, coalesce(generation, 0) AS generation, last_generation
  FROM connections WHERE connection_id = $1 AND ($2 = '' OR application = $2) FOR NO KEY UPDATE`, id, within(ctx))
	return c, err
}

// PutConnection stores a connection as given: its provider, application,
// customer, products and contacts replace what was there. A contact that is
// given again (the same address, in upper or lower case) stays the same
// contact; one that is missing is blanked, and its links are revoked, until it is given
// again. Of two
// contacts with the same address the first counts. ErrNotFound where the context
// is limited to another application than the connection's, as given or as stored.
//
// Status and generation of a stored connection stay as they are. A new one is
// connected unless c says otherwise; a removed one is revived as if it were
// new. created reports whether the connection was new or removed before.
func (d *DB) PutConnection(ctx context.Context, c reauth.Connection) (created bool, err error) {
	if c.Status == "" {
		c.Status = reauth.StatusConnected
	}
	if c.Provider == "" {
		c.Provider = reauth.Finch
	}
	if c.Application == "" {
		c.Application = reauth.DefaultApplication
	}
	if c.Products == nil {
		c.Products = []string{}
	}
	now := d.now()
	err = d.write(ctx, "store a connection", func(ctx context.Context, tx *sqlx.Tx) error {
		if only := within(ctx); only != "" && c.Application != only {
			return ErrNotFound
		}
		inserted, err := changed(ctx, tx, `
INSERT INTO connections (connection_id, provider, application, customer_id, customer_name, products, status, created_at, updated_at, system, campaign)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10) ON CONFLICT (connection_id) DO NOTHING`,
			c.ConnectionID, c.Provider, c.Application, c.CustomerID, c.CustomerName, pq.Array(c.Products), c.Status, now, c.System, c.Campaign)
		if err != nil {
			return err
		}
		if !inserted {
			before, err := lockConnection(ctx, tx, c.ConnectionID)
			if err != nil {
				return err
			}
			created = before.removed()
			if err := exec(ctx, tx, `
UPDATE connections
   SET provider = $2, application = $3, customer_id = $4, customer_name = $5, products = $6,
       system = CASE WHEN $9 = '' THEN system ELSE $9 END, campaign = $10, disconnected_at = NULL,
       status = CASE WHEN status = 'removed' THEN $7 ELSE status END, updated_at = $8
 WHERE connection_id = $1`,
				c.ConnectionID, c.Provider, c.Application, c.CustomerID, c.CustomerName, pq.Array(c.Products), c.Status, now, c.System, c.Campaign); err != nil {
				return err
			}
		}
		created = created || inserted
		return replaceContacts(ctx, tx, c.ConnectionID, c.Contacts, now)
	})
	return created && err == nil, err
}

// Connection returns a connection, also one that was removed. ErrNotFound when
// nobody registered it.
func (d *DB) Connection(ctx context.Context, id string) (c reauth.Connection, err error) {
	err = d.read(ctx, "read a connection", func(ctx context.Context) error {
		var row connectionRow
		if err := d.sqlx.GetContext(ctx, &row, selectConnections+` WHERE c.connection_id = $1 AND ($2 = '' OR c.application = $2)`, id, within(ctx)); err != nil {
			return err
		}
		c, err = row.connection()
		return err
	})
	return c, err
}

// Connections lists connections of a status by their ID; of every status but
// removed when status is empty. next is empty after the last page.
func (d *DB) Connections(ctx context.Context, status reauth.ConnectionStatus, after string, limit int) (list []reauth.Connection, next string, err error) {
	const listName = "connections"
	from, _, err := parseCursor(listName, after)
	if err != nil {
		return nil, "", fmt.Errorf("list connections: %w", err)
	}
	limit = page(limit)
	err = d.read(ctx, "list connections", func(ctx context.Context) error {
		var rows []connectionRow
		if err := d.sqlx.SelectContext(ctx, &rows, selectConnections+`
 WHERE c.connection_id > $1 AND CASE WHEN $2 = '' THEN c.status <> 'removed' ELSE c.status = $2 END
   AND ($4 = '' OR c.application = $4)
 ORDER BY c.connection_id LIMIT $3`, from.ID, status, limit+1, within(ctx)); err != nil {
			return err
		}
		if len(rows) > limit {
			rows = rows[:limit]
			next = cursor{List: listName, ID: rows[limit-1].ConnectionID}.String()
		}
		list = make([]reauth.Connection, len(rows))
		for i, row := range rows {
			if list[i], err = row.connection(); err != nil {
				return err
			}
		}
		return nil
	})
	return list, next, err
}

// RemoveConnection forgets a connection: its tokens, those that an import has
// handed in too, its entities and the suppression of reports are deleted, its
// contacts blanked, its links revoked. Its cases and
// its row stay, and so does every token that is in quarantine or was minted but
// not adopted. It reports false when the connection was removed before.
// ErrNotFound when nobody registered it.
func (d *DB) RemoveConnection(ctx context.Context, id string) (removed bool, err error) {
	return d.removeConnection(ctx, id, nil)
}

// RemoveDisconnected is RemoveConnection for a connection that has just been
// disconnected at its provider, which it puts on record.
func (d *DB) RemoveDisconnected(ctx context.Context, id string) (removed bool, err error) {
	now := d.now()
	return d.removeConnection(ctx, id, &now)
}

func (d *DB) removeConnection(ctx context.Context, id string, disconnectedAt *time.Time) (removed bool, err error) {
	now := d.now()
	err = d.write(ctx, "remove a connection", func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, id)
		if err != nil || c.removed() {
			return err
		}
		removed = true
		if err := exec(ctx, tx, `UPDATE connections SET status = 'removed', generation = NULL, disconnected_at = $2 WHERE connection_id = $1`, id, disconnectedAt); err != nil {
			return err
		}
		for _, statement := range []string{
			`UPDATE connections SET seen_connected_at = NULL, checked_at = NULL, checking_until = NULL, updated_at = $2 WHERE connection_id = $1`,
			`UPDATE links SET revoked_at = $2 WHERE connection_id = $1 AND revoked_at IS NULL`,
			`UPDATE contacts SET email = '', email_key = '', name = '', removed_at = coalesce(removed_at, $2), address_hash = NULL WHERE connection_id = $1`,
		} {
			if err := exec(ctx, tx, statement, id, now); err != nil {
				return err
			}
		}
		for _, statement := range []string{
			`DELETE FROM minted m USING tokens t WHERE t.connection_id = $1 AND m.fingerprint = t.fingerprint`,
			`DELETE FROM tokens WHERE connection_id = $1`,
			`DELETE FROM suppressions WHERE connection_id = $1`,
			`DELETE FROM entities WHERE connection_id = $1`,
			`DELETE FROM staged_tokens WHERE connection_id = $1`,
		} {
			if err := exec(ctx, tx, statement, id); err != nil {
				return err
			}
		}
		return nil
	})
	return removed && err == nil, err
}

// SetConnectionStatus says what we believe of a connection since at. When it
// was seen connected, the reports of machines are no longer suppressed.
// ErrRemoved when the connection was removed.
func (d *DB) SetConnectionStatus(ctx context.Context, id string, status reauth.ConnectionStatus, at time.Time) error {
	const doing = "set a connection's status"
	if status == reauth.StatusRemoved {
		return errors.New(doing + ": a connection is removed by RemoveConnection only")
	}
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, id)
		if err != nil {
			return err
		}
		if c.removed() {
			return ErrRemoved
		}
		return setStatus(ctx, tx, id, status, at)
	})
}

// setStatus changes the status of a locked connection that was not removed.
// Whoever sets it has just heard how the connection does, so no check is due.
func setStatus(ctx context.Context, tx *sqlx.Tx, id string, status reauth.ConnectionStatus, at time.Time) error {
	return exec(ctx, tx, `
UPDATE connections
   SET status = $2, updated_at = greatest(updated_at, $3),
       seen_connected_at = CASE WHEN $2 = 'connected' THEN greatest(seen_connected_at, $3) ELSE seen_connected_at END,
       checked_at = greatest(checked_at, $3)
 WHERE connection_id = $1`, id, status, at)
}
