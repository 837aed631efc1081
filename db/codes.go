package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// CodeRow says what became of an authorization code.
type CodeRow struct {
	// Hash is reauth.CodeHash of the code.
	Hash string `db:"hash"`
	// ConnectionID and CaseID are empty while they are not known.
	ConnectionID string           `db:"connection_id"`
	CaseID       string           `db:"case_id"`
	State        reauth.CodeState `db:"state"`
	// Generation is the one that the code's token became; 0 for none.
	Generation int64      `db:"generation"`
	ReceivedAt time.Time  `db:"received_at"`
	SettledAt  *time.Time `db:"settled_at"`
}

const codeColumns = `hash, connection_id, case_id, state, generation, received_at, settled_at`

// ReceiveCode notes that a code arrived. first reports whether it is new;
// otherwise the row says what became of it. A connection and a case that were
// not known before are added.
func (d *DB) ReceiveCode(ctx context.Context, hash, connectionID, caseID string) (row CodeRow, first bool, err error) {
	now := d.now()
	err = d.write(ctx, "receive a code", func(ctx context.Context, tx *sqlx.Tx) error {
		first, err = changed(ctx, tx, `
INSERT INTO codes (hash, connection_id, case_id, state, received_at) VALUES ($1, $2, $3, 'received', $4)
ON CONFLICT (hash) DO NOTHING`, hash, connectionID, caseID, now)
		if err != nil {
			return err
		}
		return tx.GetContext(ctx, &row, `
UPDATE codes SET connection_id = coalesce(nullif(connection_id, ''), $2), case_id = coalesce(nullif(case_id, ''), $3)
 WHERE hash = $1 RETURNING `+codeColumns, hash, connectionID, caseID)
	})
	if err != nil {
		return CodeRow{}, false, err
	}
	return row, first, nil
}

// CodeByHash returns what became of a code. ErrNotFound when it never arrived.
func (d *DB) CodeByHash(ctx context.Context, hash string) (row CodeRow, err error) {
	err = d.read(ctx, "find a code", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, `SELECT `+codeColumns+` FROM codes WHERE hash = $1`, hash)
	})
	return row, err
}

// SettleCode says what became of a code, whether or not its arrival was noted.
// A code moves forward only: received, minted, then any other state. The first
// of those stands, except that adopted may still become recovered. A connection
// that is given with an accepted state replaces the one noted before.
func (d *DB) SettleCode(ctx context.Context, hash, connectionID, caseID string, state reauth.CodeState, generation int64) error {
	now := d.now()
	var settledAt *time.Time
	if state.Settled() {
		settledAt = &now
	}
	return d.write(ctx, "settle a code", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO codes AS c (hash, connection_id, case_id, state, generation, received_at, settled_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (hash) DO UPDATE
   SET connection_id = coalesce(nullif(excluded.connection_id, ''), c.connection_id),
       case_id = coalesce(nullif(excluded.case_id, ''), c.case_id),
       state = excluded.state, generation = greatest(c.generation, excluded.generation), settled_at = excluded.settled_at
 WHERE c.state = 'received' AND excluded.state <> 'received'
    OR c.state = 'minted' AND excluded.state NOT IN ('received', 'minted')
    OR c.state = 'adopted' AND excluded.state = 'recovered'`,
			hash, connectionID, caseID, state, generation, now, settledAt)
	})
}
