package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

const (
	// coolDown is how long machine reports are suppressed after a case that
	// ended without access.
	coolDown = 30 * 24 * time.Hour
	// falseAlarmCoolDown is the same after a false alarm. It doubles with each
	// further one within falseAlarmMemory of the last, to falseAlarmLimit.
	falseAlarmCoolDown = time.Hour
	falseAlarmLimit    = 24 * time.Hour
	falseAlarmMemory   = 7 * 24 * time.Hour
)

// Suppressed tells whether a report of a source opens no case at a time, until
// when, and the outcome that is the reason. Only reports of machines are ever
// suppressed, and not after the connection was seen connected, except that
// seeing it connected says nothing new after a false alarm. What ended as a false
// alarm or was called off about the customer's account (reauth.SetupCodes) says nothing of the login: a
// report that the customer must log in again is heard after it.
func (d *DB) Suppressed(ctx context.Context, connectionID string, source reauth.Source, finchCode string, at time.Time) (until time.Time, reason string, suppressed bool, err error) {
	if !source.Machine() {
		return time.Time{}, "", false, nil
	}
	var row struct {
		Until   time.Time `db:"until"`
		Outcome string    `db:"outcome"`
	}
	err = d.read(ctx, "read the suppression of reports", func(ctx context.Context) error {
		var err error
		suppressed, err = first(ctx, d.sqlx, &row, `
SELECT s.until, s.outcome FROM suppressions s JOIN connections c USING (connection_id) JOIN cases k ON k.case_id = s.case_id
 WHERE s.connection_id = $1 AND s.until > $2
   AND (s.outcome = 'false_alarm' OR c.seen_connected_at IS NULL OR c.seen_connected_at <= s.began_at)
   AND NOT (s.outcome IN ('false_alarm', 'cancelled') AND $3 AND k.finch_code = ANY($4))`,
			connectionID, at, finchCode == reauth.CodeReauth, pq.Array(reauth.SetupCodes()))
		return err
	})
	return row.Until, row.Outcome, suppressed, err
}

// LiftSuppression ends the suppression of a connection's reports, and forgets
// earlier false alarms.
func (d *DB) LiftSuppression(ctx context.Context, connectionID string) error {
	return d.write(ctx, "lift the suppression of reports", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `DELETE FROM suppressions WHERE connection_id = $1`, connectionID)
	})
}

// suppress does what the outcome of a case means for later machine reports. The
// connection is locked.
func suppress(ctx context.Context, tx *sqlx.Tx, connectionID string, closing Closing) error {
	if closing.Outcome.Restored() {
		return exec(ctx, tx, `DELETE FROM suppressions WHERE connection_id = $1`, connectionID)
	}
	alarms, period := 0, coolDown
	if closing.Outcome == reauth.OutcomeFalseAlarm {
		var before int
		if _, err := first(ctx, tx, &before, `
SELECT false_alarms FROM suppressions WHERE connection_id = $1 AND outcome = 'false_alarm' AND began_at >= $2`,
			connectionID, closing.At.Add(-falseAlarmMemory)); err != nil {
			return err
		}
		alarms, period = before+1, falseAlarmCoolDown
		for i := 1; i < alarms && period < falseAlarmLimit; i++ {
			period *= 2
		}
		period = min(period, falseAlarmLimit)
	}
	return exec(ctx, tx, `
INSERT INTO suppressions (connection_id, case_id, outcome, began_at, until, false_alarms) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (connection_id) DO UPDATE
   SET case_id = excluded.case_id, outcome = excluded.outcome, began_at = excluded.began_at, until = excluded.until, false_alarms = excluded.false_alarms`,
		connectionID, closing.CaseID, closing.Outcome, closing.At, closing.At.Add(period), alarms)
}

// endSuppression ends a suppression early, and remembers earlier false alarms.
func endSuppression(ctx context.Context, tx *sqlx.Tx, connectionID string, at time.Time) error {
	return exec(ctx, tx, `
UPDATE suppressions SET until = greatest(began_at, least(until, $2)) WHERE connection_id = $1`, connectionID, at)
}
