package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// EndedHow says what became of a token in quarantine.
type EndedHow string

// How tokens in quarantine end.
const (
	EndedDisconnected EndedHow = "disconnected" // its connection was disconnected with it
	EndedGone         EndedHow = "gone"         // the provider knew it no longer
	EndedForgotten    EndedHow = "forgotten"    // an operator had it erased, and did nothing else
)

// QuarantinedToken is a token that must not be used, sealed. It is the only
// handle by which the connection it belongs to can be disconnected.
type QuarantinedToken struct {
	// ConnectionID is the token's own connection, ExpectedConnectionID the one
	// that it was meant for.
	ConnectionID         string `db:"connection_id"`
	ExpectedConnectionID string `db:"expected_connection_id"`
	// Application is whose client was given the token; empty where that is not
	// known.
	Application string    `db:"application"`
	Fingerprint string    `db:"fingerprint"`
	Sealed      []byte    `db:"sealed"` // nil once it has ended
	Reason      string    `db:"reason"`
	CaseID      string    `db:"case_id"`
	At          time.Time `db:"at"`
	// EndedAt and EndedHow say when it was erased and why; FinchCode is what the
	// provider said then, if anything.
	EndedAt   *time.Time `db:"ended_at"`
	EndedHow  EndedHow   `db:"ended_how"`
	FinchCode string     `db:"finch_code"`
}

const selectQuarantined = `
SELECT fingerprint, connection_id, expected_connection_id, application, sealed, reason, case_id, at, ended_at, ended_how, finch_code
  FROM quarantined_tokens`

// Quarantine keeps a token aside. The same token again changes nothing.
func (d *DB) Quarantine(ctx context.Context, q QuarantinedToken) error {
	return d.write(ctx, "quarantine a token", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO quarantined_tokens (fingerprint, connection_id, expected_connection_id, application, sealed, reason, case_id, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (fingerprint) DO NOTHING`,
			q.Fingerprint, q.ConnectionID, q.ExpectedConnectionID, q.Application, q.Sealed, plain(q.Reason), q.CaseID, q.At)
	})
}

// Quarantined returns a token from quarantine by its reauth.Fingerprint.
// ErrNotFound when it is not there.
func (d *DB) Quarantined(ctx context.Context, fingerprint string) (q QuarantinedToken, err error) {
	err = d.read(ctx, "read a quarantined token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &q, selectQuarantined+` WHERE fingerprint = $1`, fingerprint)
	})
	return q, err
}

// QuarantinedTokens lists tokens in quarantine, the newest first: those that
// are kept, or those that have ended. next is empty after the last page.
func (d *DB) QuarantinedTokens(ctx context.Context, ended bool, after string, limit int) (list []QuarantinedToken, next string, err error) {
	const listName = "quarantine"
	from, given, err := parseCursor(listName, after)
	if err != nil {
		return nil, "", fmt.Errorf("list quarantined tokens: %w", err)
	}
	limit = page(limit)
	err = d.read(ctx, "list quarantined tokens", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectQuarantined+`
 WHERE (ended_at IS NOT NULL) = $1 AND (NOT $2 OR (at, fingerprint) < ($3, $4)) ORDER BY at DESC, fingerprint DESC LIMIT $5`,
			ended, given, from.At, from.ID, limit+1)
	})
	if len(list) > limit {
		list = list[:limit]
		next = cursor{List: listName, At: list[limit-1].At, ID: list[limit-1].Fingerprint}.String()
	}
	return list, next, err
}

// EndQuarantined erases a token from quarantine, wherever else it was kept as
// well, and says what became of it; the timeline of its case tells. The first end
// stands: ended is what is stored then. ErrNotFound when the token is not there.
func (d *DB) EndQuarantined(ctx context.Context, fingerprint string, how EndedHow, finchCode, detail string, at time.Time) (ended QuarantinedToken, err error) {
	err = d.write(ctx, "erase a quarantined token", func(ctx context.Context, tx *sqlx.Tx) error {
		ended = QuarantinedToken{}
		if err := tx.GetContext(ctx, &ended, selectQuarantined+` WHERE fingerprint = $1 FOR UPDATE`, fingerprint); err != nil {
			return err
		}
		if ended.EndedAt != nil {
			return nil
		}
		if err := exec(ctx, tx, `DELETE FROM minted WHERE fingerprint = $1`, fingerprint); err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &ended, `
UPDATE quarantined_tokens SET sealed = NULL, ended_at = $2, ended_how = $3, finch_code = $4 WHERE fingerprint = $1
RETURNING fingerprint, connection_id, expected_connection_id, application, sealed, reason, case_id, at, ended_at, ended_how, finch_code`,
			fingerprint, at, how, finchCode); err != nil {
			return err
		}
		var connectionID string
		known, err := first(ctx, tx, &connectionID, `SELECT connection_id FROM cases WHERE case_id = $1`, ended.CaseID)
		if err != nil || !known {
			return err
		}
		return addEvent(ctx, tx, Event{CaseID: ended.CaseID, ConnectionID: connectionID, Kind: "quarantine_" + string(how), Detail: detail, At: at})
	})
	if err != nil {
		return QuarantinedToken{}, err
	}
	return ended, nil
}
