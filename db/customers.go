package db

import (
	"context"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// Customer chooses the connections of one of the backend's customers; an empty
// field but ID chooses all of them.
type Customer struct {
	ID          string
	Application string
	Provider    reauth.Provider
	System      string
}

// CustomerConnections lists the connections of a customer by their ID, but for
// those that were removed, 50 at most. Those that are disconnected count only
// where there is no other: whoever connects anew gets a new connection.
func (d *DB) CustomerConnections(ctx context.Context, of Customer) (list []reauth.Connection, err error) {
	err = d.read(ctx, "list a customer's connections", func(ctx context.Context) error {
		var rows []connectionRow
		if err := d.sqlx.SelectContext(ctx, &rows, selectConnections+`
 WHERE c.customer_id = $1 AND c.customer_id <> '' AND c.status <> 'removed'
   AND ($2 = '' OR c.application = $2) AND ($3 = '' OR c.provider = $3) AND ($4 = '' OR lower(c.system) = lower($4))
   AND ($5 = '' OR c.application = $5)
 ORDER BY c.status = 'disconnected', c.connection_id LIMIT 50`, of.ID, of.Application, of.Provider, of.System, within(ctx)); err != nil {
			return err
		}
		for i, row := range rows {
			if row.Status == reauth.StatusDisconnected && i > 0 && rows[0].Status != reauth.StatusDisconnected {
				break
			}
			c, err := row.connection()
			if err != nil {
				return err
			}
			list = append(list, c)
		}
		return nil
	})
	return list, err
}

// ConnectionOfToken returns the connection whose token it is or was, by the
// token's reauth.Fingerprint; of one that an import handed in and that nobody has
// been asked about, what the import says. ErrNotFound when it is nobody's that is
// stored.
func (d *DB) ConnectionOfToken(ctx context.Context, fingerprint string) (connectionID string, err error) {
	err = d.read(ctx, "look up whose a token is", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &connectionID, `
SELECT connection_id FROM (
    SELECT connection_id FROM tokens WHERE fingerprint = $1
    UNION ALL
    SELECT connection_id FROM staged_tokens WHERE fingerprint = $1 AND state IN ('waiting', 'stale') AND connection_id IS NOT NULL
) t JOIN connections c USING (connection_id)
 WHERE $2 = '' OR c.application = $2 LIMIT 1`, fingerprint, within(ctx))
	})
	return connectionID, err
}

// IntroduceConnection registers a connection that the provider named as a
// customer's, and returns whose it is after that. One that is registered, or
// was removed, stays as it is, but for a customer that it has not got yet.
// ErrNotFound where the context is limited to another application than the
// connection's, as given or as stored.
func (d *DB) IntroduceConnection(ctx context.Context, c reauth.Connection) (customerID string, err error) {
	now := d.now()
	err = d.write(ctx, "introduce a connection", func(ctx context.Context, tx *sqlx.Tx) error {
		if only := within(ctx); only != "" && c.Application != only {
			return ErrNotFound
		}
		if err := exec(ctx, tx, `
INSERT INTO connections (connection_id, provider, application, customer_id, customer_name, status, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, 'connected', $6, $6) ON CONFLICT (connection_id) DO NOTHING`,
			c.ConnectionID, c.Provider, c.Application, c.CustomerID, c.CustomerName, now); err != nil {
			return err
		}
		if _, err := lockConnection(ctx, tx, c.ConnectionID); err != nil {
			return err
		}
		if err := exec(ctx, tx, `
UPDATE connections SET customer_id = $2, customer_name = CASE WHEN customer_name = '' THEN $3 ELSE customer_name END, updated_at = $4
 WHERE connection_id = $1 AND customer_id = '' AND status <> 'removed'`, c.ConnectionID, c.CustomerID, c.CustomerName, now); err != nil {
			return err
		}
		return tx.GetContext(ctx, &customerID, `SELECT customer_id FROM connections WHERE connection_id = $1`, c.ConnectionID)
	})
	return customerID, err
}

// Waiter is somebody who waits until a connection has a token of a generation
// after After.
type Waiter struct {
	ConnectionID string
	After        int64
}

// Awaited returns those of the waiters' connections that have what is waited
// for, or that can have it no more since they were removed: one statement,
// however many wait.
func (d *DB) Awaited(ctx context.Context, waiters []Waiter) (connectionIDs []string, err error) {
	ids, after := make([]string, len(waiters)), make([]int64, len(waiters))
	for i, w := range waiters {
		ids[i], after[i] = w.ConnectionID, w.After
	}
	err = d.read(ctx, "look for awaited tokens", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &connectionIDs, `
SELECT c.connection_id FROM unnest($1::text[], $2::bigint[]) AS w (connection_id, after) JOIN connections c USING (connection_id)
 WHERE c.generation > w.after OR c.status = 'removed'`, pq.Array(ids), pq.Array(after))
	})
	return connectionIDs, err
}
