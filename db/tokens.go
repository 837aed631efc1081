package db

import (
	"context"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
)

// Token is an adopted token, sealed.
type Token struct {
	ConnectionID string `db:"connection_id"`
	// Generation counts the adopted tokens of a connection from 1.
	Generation  int64  `db:"generation"`
	Fingerprint string `db:"fingerprint"`
	Sealed      []byte `db:"sealed"`
	// Source says where the token came from, as the adoption named it.
	Source    string    `db:"source"`
	MintedAt  time.Time `db:"minted_at"`
	AdoptedAt time.Time `db:"adopted_at"`
}

const selectTokens = `
SELECT connection_id, generation, fingerprint, sealed, source, minted_at, adopted_at, state = 'current' AS current FROM tokens`

type tokenRow struct {
	Token
	Current bool `db:"current"`
}

// CurrentToken returns the token to use for a connection. ErrNotFound when
// none is stored.
func (d *DB) CurrentToken(ctx context.Context, connectionID string) (Token, error) {
	var row tokenRow
	err := d.read(ctx, "read the current token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, selectTokens+` WHERE connection_id = $1 AND state = 'current'
   AND ($2 = '' OR EXISTS (SELECT FROM connections c WHERE c.connection_id = tokens.connection_id AND c.application = $2))`, connectionID, within(ctx))
	})
	return row.Token, err
}

// TokenByFingerprint returns a connection's token by its reauth.Fingerprint,
// and whether it is the current one. ErrNotFound when it is not stored.
func (d *DB) TokenByFingerprint(ctx context.Context, connectionID, fingerprint string) (t Token, current bool, err error) {
	var row tokenRow
	err = d.read(ctx, "read a token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, selectTokens+` WHERE connection_id = $1 AND fingerprint = $2`, connectionID, fingerprint)
	})
	return row.Token, row.Current, err
}

// Adoption is a verified token to be stored.
type Adoption struct {
	ConnectionID string
	Fingerprint  string
	// Source says where the token came from.
	Source string
	// CaseID is the case that brought the token; empty when none did.
	CaseID   string
	MintedAt time.Time
	// Seal seals the token for the generation it becomes. It runs while the
	// connection is locked, so it must not wait for anything.
	Seal func(generation int64) ([]byte, error)
	// Close, if set, closes the case in the same transaction, with the
	// connection's generation then, if it names none.
	Close *Closing
}

// Adopted says what became of an adoption.
type Adopted struct {
	Generation int64
	// Current is false when a token minted later had been adopted before.
	Current bool
	// Already reports that the token was stored before.
	Already bool
}

// Adopt stores a token as the next generation of its connection, in one
// transaction, and once: adopting it again returns what it became. When the
// current token was minted later, the new one is kept as superseded and the
// current one stays. ErrNotFound when the connection or the case is unknown,
// ErrRemoved when the connection was removed, ErrForeignToken when the token is
// stored as another connection's; then nothing is stored and no case closed.
func (d *DB) Adopt(ctx context.Context, a Adoption) (Adopted, error) {
	var adopted Adopted
	now := d.now()
	err := d.write(ctx, "adopt a token", func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, a.ConnectionID)
		if err != nil {
			return err
		}
		if c.removed() {
			return ErrRemoved
		}
		if adopted, err = adopt(ctx, tx, a, c, now); err != nil || a.Close == nil {
			return err
		}
		closing := *a.Close
		if closing.Generation == 0 {
			closing.Generation = adopted.Generation
			if !adopted.Current { // the connection goes on with the token that was minted later
				closing.Generation = c.Generation
			}
		}
		_, err = closeCase(ctx, tx, a.ConnectionID, c, closing)
		return err
	})
	if err != nil {
		return Adopted{}, err
	}
	return adopted, nil
}

func adopt(ctx context.Context, tx *sqlx.Tx, a Adoption, c lockedConnection, now time.Time) (Adopted, error) {
	var stored tokenRow
	known, err := first(ctx, tx, &stored, selectTokens+` WHERE fingerprint = $1`, a.Fingerprint)
	if err != nil {
		return Adopted{}, err
	}
	if known && stored.ConnectionID != a.ConnectionID {
		return Adopted{}, ErrForeignToken
	}
	if known {
		return Adopted{Generation: stored.Generation, Current: stored.Current, Already: true}, nil
	}

	var newer bool
	if err := tx.GetContext(ctx, &newer, `
SELECT EXISTS (SELECT FROM tokens WHERE connection_id = $1 AND state = 'current' AND minted_at > $2)`,
		a.ConnectionID, a.MintedAt); err != nil {
		return Adopted{}, err
	}
	adopted := Adopted{Generation: c.LastGeneration + 1, Current: !newer}
	sealed, err := a.Seal(adopted.Generation)
	if err != nil {
		return Adopted{}, err
	}
	if len(sealed) == 0 {
		return Adopted{}, errors.New("the sealed token is empty")
	}

	state := "superseded"
	if adopted.Current {
		state = "current"
		if err := exec(ctx, tx, `
UPDATE tokens SET state = 'superseded' WHERE connection_id = $1 AND state = 'current'`, a.ConnectionID); err != nil {
			return Adopted{}, err
		}
	}
	if err := exec(ctx, tx, `
INSERT INTO tokens (connection_id, generation, state, fingerprint, sealed, source, case_id, minted_at, adopted_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		a.ConnectionID, adopted.Generation, state, a.Fingerprint, sealed, a.Source, null(a.CaseID), a.MintedAt, now); err != nil {
		return Adopted{}, err
	}
	return adopted, exec(ctx, tx, `
UPDATE connections SET last_generation = $2, generation = CASE WHEN $3 THEN $2 ELSE generation END, updated_at = greatest(updated_at, $4)
 WHERE connection_id = $1`, a.ConnectionID, adopted.Generation, adopted.Current, now)
}
