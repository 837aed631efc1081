package db

import (
	"context"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// StagedState says what became of a token that an import handed in.
type StagedState string

// The states of a staged token.
const (
	// StagedWaiting: the provider has not been asked about it.
	StagedWaiting StagedState = "waiting"
	// StagedAdopted: it is one of its connection's tokens.
	StagedAdopted StagedState = "adopted"
	// StagedStale: the provider only says that the customer must log in again,
	// which does not prove whose it is. It is kept, since it may work again.
	StagedStale StagedState = "stale"
	// StagedRejected: it cannot be used, and was erased.
	StagedRejected StagedState = "rejected"
)

// StagedToken is a token that an import handed in, sealed. The seal is bound to
// ("staged", ImportID, Fingerprint).
type StagedToken struct {
	Fingerprint string `db:"fingerprint"`
	ImportID    string `db:"import_id"`
	Line        int64  `db:"line"`
	// ConnectionID is what the row names; empty where the token is to tell it.
	ConnectionID string `db:"connection_id"`
	// Application is whose client credentials it belongs to.
	Application string      `db:"application"`
	Sealed      []byte      `db:"sealed"`
	MintedAt    time.Time   `db:"minted_at"`
	State       StagedState `db:"state"`
	Attempts    int         `db:"attempts"`
	// ImportedAt is when its import began.
	ImportedAt time.Time `db:"imported_at"`
}

const selectStaged = `
SELECT s.fingerprint, s.import_id, s.line, coalesce(s.connection_id, '') AS connection_id,
       coalesce(c.application, nullif(s.application, ''), 'default') AS application,
       s.sealed, s.minted_at, s.state, s.attempts, i.began_at AS imported_at
  FROM staged_tokens s JOIN imports i USING (import_id) LEFT JOIN connections c ON c.connection_id = s.connection_id`

// ClaimStaged returns the token that is next to be asked about, and keeps it
// from others for as long as the lease. Connections without a token come first,
// in the order in which they were imported; of several tokens of a connection,
// the newest. ok is false when none is due.
func (d *DB) ClaimStaged(ctx context.Context, at time.Time, lease time.Duration) (t StagedToken, ok bool, err error) {
	err = d.write(ctx, "claim a staged token", func(ctx context.Context, tx *sqlx.Tx) error {
		var fingerprint string
		found, err := first(ctx, tx, &fingerprint, `
WITH next AS (
    SELECT fingerprint, connection_id FROM staged_tokens
     WHERE state = 'waiting' AND due_at <= $1 ORDER BY turn, due_at, line LIMIT 1),
     newest AS (
    SELECT coalesce((SELECT o.fingerprint FROM staged_tokens o
                      WHERE o.connection_id = n.connection_id AND o.state = 'waiting' AND o.due_at <= $1
                      ORDER BY o.minted_at DESC, o.line DESC LIMIT 1), n.fingerprint) AS fingerprint FROM next n)
SELECT fingerprint FROM staged_tokens
 WHERE fingerprint = (SELECT fingerprint FROM newest) AND state = 'waiting' AND due_at <= $1 FOR NO KEY UPDATE SKIP LOCKED`, at)
		if err != nil || !found { // none is due, or somebody was quicker
			return err
		}
		if err := exec(ctx, tx, `UPDATE staged_tokens SET due_at = $2 WHERE fingerprint = $1`, fingerprint, at.Add(lease)); err != nil {
			return err
		}
		ok = true
		return tx.GetContext(ctx, &t, selectStaged+` WHERE s.fingerprint = $1`, fingerprint)
	})
	if err != nil {
		return StagedToken{}, false, err
	}
	return t, ok, nil
}

// StagedOf returns the tokens that imports named as a connection's and that may
// be its own, the newest first, but for those about which the provider was asked
// a moment ago, or is to be asked later since its answer was not clear.
func (d *DB) StagedOf(ctx context.Context, connectionID string, at time.Time) (list []StagedToken, err error) {
	const moment = time.Minute
	err = d.read(ctx, "read staged tokens", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectStaged+`
 WHERE s.connection_id = $1
   AND CASE s.state WHEN 'waiting' THEN s.attempts = 0 OR s.due_at <= $2 WHEN 'stale' THEN s.asked_at <= $3 ELSE false END
 ORDER BY s.minted_at DESC, s.line DESC LIMIT 20`, connectionID, at, at.Add(-moment))
	})
	return list, err
}

// ImportedToken says what became of the newest token that an import named as a
// connection's, and why. ErrNotFound when there is none.
func (d *DB) ImportedToken(ctx context.Context, connectionID string) (state StagedState, detail string, err error) {
	var row struct {
		State  StagedState `db:"state"`
		Detail string      `db:"detail"`
	}
	err = d.read(ctx, "read what became of an imported token", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, `
SELECT state, detail FROM staged_tokens WHERE connection_id = $1
 ORDER BY state = 'rejected', minted_at DESC, line DESC LIMIT 1`, connectionID)
	})
	return row.State, row.Detail, err
}

// StagedAdoption is a staged token whose connection the provider has named.
type StagedAdoption struct {
	Fingerprint string
	// Row is the connection whose token it is; what it speaks of beside the ID is
	// stored too, as a row of an import is.
	Row ImportRow
	// Learned is what the provider says of the connection; it fills what nobody
	// has said.
	Learned reauth.Connection
	// Stale: the provider says that the customer must log in again.
	Stale bool
	At    time.Time
	// Seal is Adoption.Seal.
	Seal func(generation int64) ([]byte, error)
}

// AdoptStaged makes a staged token its connection's, in one transaction with
// its connection's registration, and erases it among the staged ones. Of several
// tokens of a connection the one that was minted last becomes current. Once
// adopted, adopting it again changes nothing. ErrNotFound when the token is not
// staged any more, ErrRemoved when the connection was removed after the token
// was handed in, ErrForeignToken when it is stored as another connection's.
func (d *DB) AdoptStaged(ctx context.Context, a StagedAdoption) (adopted Adopted, err error) {
	now := d.now()
	id := a.Row.Connection.ConnectionID
	err = d.write(ctx, "adopt a staged token", func(ctx context.Context, tx *sqlx.Tx) error {
		staged, err := lookStaged(ctx, tx, a.Fingerprint)
		if err != nil {
			return err
		}
		if staged.ConnectionID == "" {
			removed, err := removedSince(ctx, tx, id, staged.ImportedAt)
			if err != nil {
				return err
			}
			if removed {
				return ErrRemoved
			}
			if _, err := putConnections(ctx, tx, []ImportRow{a.Row}, now); err != nil {
				return err
			}
		}
		c, err := lockConnection(ctx, tx, id)
		if err != nil {
			return err
		}
		if c.removed() {
			return ErrRemoved
		}
		if staged, err = lockStaged(ctx, tx, a.Fingerprint); err != nil {
			return err
		}
		adopted, err = adopt(ctx, tx, Adoption{
			ConnectionID: id, Fingerprint: a.Fingerprint, Source: "import", MintedAt: staged.MintedAt, Seal: a.Seal,
		}, c, now)
		if err != nil {
			return err
		}
		open, err := caseOpen(ctx, tx, id)
		if err != nil {
			return err
		}
		if adopted.Current && !open { // an open case decides for itself
			status := reauth.StatusConnected
			if a.Stale {
				status = reauth.StatusStale
			}
			if err := setStatus(ctx, tx, id, status, a.At); err != nil {
				return err
			}
		}
		if err := exec(ctx, tx, `
UPDATE connections SET customer_id = CASE WHEN customer_id = '' THEN $2 ELSE customer_id END,
       customer_name = CASE WHEN customer_name = '' THEN $3 ELSE customer_name END,
       system = CASE WHEN system = '' THEN $4 ELSE system END
 WHERE connection_id = $1 AND (customer_id = '' OR customer_name = '' OR system = '')`,
			id, a.Learned.CustomerID, a.Learned.CustomerName, a.Learned.System); err != nil {
			return err
		}
		if err := exec(ctx, tx, `
UPDATE staged_tokens s SET state = 'adopted', detail = '', sealed = NULL, connection_id = $2, generation = $3, asked_at = $4,
       report_due = $5 AND i.reports, due_at = $4
  FROM imports i WHERE s.fingerprint = $1 AND i.import_id = s.import_id`,
			a.Fingerprint, id, adopted.Generation, a.At, a.Stale && adopted.Current && !open); err != nil {
			return err
		}
		return exec(ctx, tx, `UPDATE staged_tokens SET turn = 1 WHERE connection_id = $1 AND state = 'waiting'`, id)
	})
	if err != nil {
		return Adopted{}, err
	}
	return adopted, nil
}

// StagedVerdict is what the provider said of a staged token that it does not
// let us adopt.
type StagedVerdict struct {
	Fingerprint string
	// State is StagedStale or StagedRejected.
	State StagedState
	// Detail says why, without any secret.
	Detail string
	// Gone: the connection was deleted at the provider.
	Gone bool
	At   time.Time
}

// SettleStaged records a verdict. Where a connection has no better token, its
// status follows: stale, or disconnected if it is gone; but while a case is open
// the case decides. One that was settled before stays as it is.
func (d *DB) SettleStaged(ctx context.Context, v StagedVerdict) error {
	return d.write(ctx, "settle a staged token", func(ctx context.Context, tx *sqlx.Tx) error {
		staged, err := lookStaged(ctx, tx, v.Fingerprint)
		if err != nil {
			return ignoreNotFound(err)
		}
		reports := false
		if staged.ConnectionID != "" && (v.State == StagedStale || v.Gone) {
			if reports, err = settleConnection(ctx, tx, staged.ConnectionID, v); err != nil {
				return err
			}
		}
		return exec(ctx, tx, `
UPDATE staged_tokens s
   SET state = $2, detail = $3, asked_at = $4, due_at = $4, attempts = s.attempts + 1,
       sealed = CASE WHEN $2 = 'rejected' THEN NULL ELSE s.sealed END, report_due = $5 AND i.reports
  FROM imports i WHERE s.fingerprint = $1 AND s.state IN ('waiting', 'stale') AND i.import_id = s.import_id`,
			v.Fingerprint, v.State, plain(v.Detail), v.At, reports)
	})
}

// settleConnection lets the status of a connection follow a verdict, and says
// whether it is to be reported.
func settleConnection(ctx context.Context, tx *sqlx.Tx, id string, v StagedVerdict) (reports bool, err error) {
	c, err := lockConnection(ctx, tx, id)
	if err != nil || c.removed() || c.Generation != 0 {
		return false, err
	}
	open, err := caseOpen(ctx, tx, id)
	if err != nil || open {
		return false, err
	}
	if v.Gone {
		return false, setStatus(ctx, tx, id, reauth.StatusDisconnected, v.At)
	}
	return true, setStatus(ctx, tx, id, reauth.StatusStale, v.At)
}

// PostponeStaged has a token asked about later. detail says why; counted says
// that the attempt counts.
func (d *DB) PostponeStaged(ctx context.Context, fingerprint string, due time.Time, detail string, counted bool) error {
	return d.write(ctx, "postpone a staged token", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE staged_tokens SET due_at = $2, detail = $3, attempts = attempts + $4 WHERE fingerprint = $1 AND state = 'waiting'`,
			fingerprint, due, plain(detail), map[bool]int{true: 1}[counted])
	})
}

// StagedReport is a connection whose staleness an import has brought to light
// and nobody has heard of.
type StagedReport struct {
	Fingerprint  string `db:"fingerprint"`
	ConnectionID string `db:"connection_id"`
	// Adopted: the token is the connection's, so that a report may name it.
	Adopted bool `db:"adopted"`
}

// DueStagedReports lists connections that are to be reported.
func (d *DB) DueStagedReports(ctx context.Context, limit int) (list []StagedReport, err error) {
	err = d.read(ctx, "list connections to report", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT fingerprint, connection_id, state = 'adopted' AS adopted FROM staged_tokens
 WHERE report_due AND connection_id IS NOT NULL ORDER BY due_at LIMIT $1`, page(limit))
	})
	return list, err
}

// StagedReported remembers that a connection was reported.
func (d *DB) StagedReported(ctx context.Context, fingerprint string) error {
	return d.write(ctx, "note a report", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `UPDATE staged_tokens SET report_due = false WHERE fingerprint = $1`, fingerprint)
	})
}

// stagedRow is what a transaction must know of a staged token.
type stagedRow struct {
	ConnectionID string    `db:"connection_id"`
	MintedAt     time.Time `db:"minted_at"`
	ImportedAt   time.Time `db:"imported_at"`
}

const selectStagedRow = `
SELECT coalesce(s.connection_id, '') AS connection_id, s.minted_at, i.began_at AS imported_at
  FROM staged_tokens s JOIN imports i USING (import_id) WHERE s.fingerprint = $1 AND s.state <> 'rejected'`

// lookStaged reads a staged token before its connection is locked.
func lookStaged(ctx context.Context, tx *sqlx.Tx, fingerprint string) (row stagedRow, err error) {
	err = tx.GetContext(ctx, &row, selectStagedRow, fingerprint)
	return row, err
}

// lockStaged locks a staged token, after its connection.
func lockStaged(ctx context.Context, tx *sqlx.Tx, fingerprint string) (row stagedRow, err error) {
	err = tx.GetContext(ctx, &row, selectStagedRow+` FOR NO KEY UPDATE OF s`, fingerprint)
	return row, err
}

// removedSince reports whether a connection was removed after a moment.
func removedSince(ctx context.Context, tx *sqlx.Tx, id string, since time.Time) (removed bool, err error) {
	_, err = first(ctx, tx, &removed, `
SELECT status = 'removed' AND updated_at > $2 FROM connections WHERE connection_id = $1 FOR NO KEY UPDATE`, id, since)
	return removed, err
}

// caseOpen reports whether a locked connection has an open case.
func caseOpen(ctx context.Context, tx *sqlx.Tx, connectionID string) (open bool, err error) {
	err = tx.GetContext(ctx, &open, `SELECT EXISTS (SELECT FROM cases WHERE connection_id = $1 AND outcome IS NULL)`, connectionID)
	return open, err
}

func ignoreNotFound(err error) error {
	if errors.Is(safe(context.Background(), err), ErrNotFound) {
		return nil
	}
	return err
}
