package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// HeldCode is a code that waits, sealed, until Temporal can take it.
type HeldCode struct {
	Hash         string    `db:"hash"`
	ConnectionID string    `db:"connection_id"`
	CaseID       string    `db:"case_id"`
	Sealed       []byte    `db:"sealed"`
	HeldAt       time.Time `db:"held_at"`
}

// HoldCode keeps a sealed code until it is released. Held or released before,
// it stays as it is.
func (d *DB) HoldCode(ctx context.Context, hash, connectionID, caseID string, sealed []byte) error {
	now := d.now()
	return d.write(ctx, "hold a code", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO held_codes (hash, connection_id, case_id, sealed, held_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (hash) DO NOTHING`,
			hash, connectionID, caseID, sealed, now)
	})
}

// HeldCodes returns the codes that wait, the oldest first.
func (d *DB) HeldCodes(ctx context.Context, limit int) (list []HeldCode, err error) {
	err = d.read(ctx, "read the held codes", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT hash, connection_id, case_id, sealed, held_at FROM held_codes WHERE sealed IS NOT NULL ORDER BY held_at, hash LIMIT $1`, page(limit))
	})
	return list, err
}

// ReleaseCode erases a held code once Temporal has it.
func (d *DB) ReleaseCode(ctx context.Context, hash string) error {
	now := d.now()
	return d.write(ctx, "release a code", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE held_codes SET sealed = NULL, released_at = $2 WHERE hash = $1 AND sealed IS NOT NULL`, hash, now)
	})
}
