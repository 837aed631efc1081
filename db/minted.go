package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// MintedToken is a token as an exchange returned it, sealed.
type MintedToken struct {
	CodeHash     string    `db:"code_hash"`
	ConnectionID string    `db:"connection_id"`
	Fingerprint  string    `db:"fingerprint"`
	Sealed       []byte    `db:"sealed"`
	MintedAt     time.Time `db:"minted_at"`
}

// PutMinted keeps the token that a code was exchanged for. The same token again
// changes nothing.
func (d *DB) PutMinted(ctx context.Context, codeHash, connectionID, fingerprint string, sealed []byte, at time.Time) error {
	return d.write(ctx, "keep a minted token", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO minted (code_hash, connection_id, fingerprint, sealed, minted_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
			codeHash, connectionID, fingerprint, sealed, at)
	})
}

// Minted returns the token that a code was exchanged for; the newest, should
// the provider ever have given two. ErrNotFound when none was kept.
func (d *DB) Minted(ctx context.Context, codeHash string) (m MintedToken, err error) {
	err = d.read(ctx, "read a minted token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &m, `
SELECT code_hash, connection_id, fingerprint, sealed, minted_at FROM minted
 WHERE code_hash = $1 ORDER BY minted_at DESC, fingerprint LIMIT 1`, codeHash)
	})
	return m, err
}
