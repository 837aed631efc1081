package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// QuarantinedToken is a token that must not be used, sealed. It is the only
// handle by which the connection it belongs to can be disconnected.
type QuarantinedToken struct {
	// ConnectionID is the token's own connection, ExpectedConnectionID the one
	// that it was meant for.
	ConnectionID         string    `db:"connection_id"`
	ExpectedConnectionID string    `db:"expected_connection_id"`
	Fingerprint          string    `db:"fingerprint"`
	Sealed               []byte    `db:"sealed"`
	Reason               string    `db:"reason"`
	CaseID               string    `db:"case_id"`
	At                   time.Time `db:"at"`
}

// Quarantine keeps a token aside. The same token again changes nothing.
func (d *DB) Quarantine(ctx context.Context, q QuarantinedToken) error {
	return d.write(ctx, "quarantine a token", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO quarantined_tokens (fingerprint, connection_id, expected_connection_id, sealed, reason, case_id, at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (fingerprint) DO NOTHING`,
			q.Fingerprint, q.ConnectionID, q.ExpectedConnectionID, q.Sealed, plain(q.Reason), q.CaseID, q.At)
	})
}

// Quarantined returns a token from quarantine by its reauth.Fingerprint.
// ErrNotFound when it is not there.
func (d *DB) Quarantined(ctx context.Context, fingerprint string) (q QuarantinedToken, err error) {
	err = d.read(ctx, "read a quarantined token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &q, `
SELECT fingerprint, connection_id, expected_connection_id, sealed, reason, case_id, at FROM quarantined_tokens WHERE fingerprint = $1`, fingerprint)
	})
	return q, err
}
