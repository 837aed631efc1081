package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// Checks are the connections that are looked at in turn, although nobody has
// complained of them. Whatever sets a connection's status counts as a look at it
// (setStatus), so that those that cases had to do with lately are not due.

// Check is a connection that the caller alone may check for a while.
type Check struct {
	ConnectionID string    `db:"connection_id"`
	Application  string    `db:"application"`
	Until        time.Time `db:"checking_until"`
}

// swept chooses the connections that are checked in turn: those with a token of
// which no case takes care.
const swept = `c.generation IS NOT NULL AND c.status IN ('connected', 'stale')
   AND NOT EXISTS (SELECT FROM cases k WHERE k.connection_id = c.connection_id AND k.outcome IS NULL)`

// TakeCheck takes the connection of an application whose last check is the
// oldest of those before a time, for as long as said, by the database's clock.
// Nobody else gets it in the meantime, also if the caller is killed. taken is
// false when none is due.
func (d *DB) TakeCheck(ctx context.Context, application string, before time.Time, hold time.Duration) (c Check, taken bool, err error) {
	return d.takeCheck(ctx, `
UPDATE connections SET checking_until = clock_timestamp() + make_interval(secs => $1)
 WHERE connection_id = (
       SELECT c.connection_id FROM connections c
        WHERE c.application = $2 AND `+swept+`
          AND (c.checked_at IS NULL OR c.checked_at < $3) AND (c.checking_until IS NULL OR c.checking_until <= clock_timestamp())
        ORDER BY c.checked_at NULLS FIRST, c.connection_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING connection_id, application, checking_until`, hold.Seconds(), application, before)
}

// TakeCheckOf takes one connection, whenever it was checked last and whether or
// not it has an open case. taken is false when it cannot be checked, or
// somebody else has it.
func (d *DB) TakeCheckOf(ctx context.Context, connectionID string, hold time.Duration) (c Check, taken bool, err error) {
	return d.takeCheck(ctx, `
UPDATE connections SET checking_until = clock_timestamp() + make_interval(secs => $1)
 WHERE connection_id = $2 AND generation IS NOT NULL AND status IN ('connected', 'stale')
   AND (checking_until IS NULL OR checking_until <= clock_timestamp())
RETURNING connection_id, application, checking_until`, hold.Seconds(), connectionID)
}

func (d *DB) takeCheck(ctx context.Context, query string, args ...any) (c Check, taken bool, err error) {
	err = d.write(ctx, "take a connection to check", func(ctx context.Context, tx *sqlx.Tx) error {
		taken, err = first(ctx, tx, &c, query, args...)
		return err
	})
	return c, taken && err == nil, err
}

// EndCheck says that a connection was checked at a time. It changes nothing when
// the caller's time to do so was over and somebody else has taken it.
func (d *DB) EndCheck(ctx context.Context, c Check, at time.Time) error {
	return d.write(ctx, "end a check", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE connections SET checked_at = greatest(checked_at, $3), checking_until = NULL WHERE connection_id = $1 AND checking_until = $2`,
			c.ConnectionID, c.Until, at)
	})
}

// PutOffCheck gives a connection back that could not be checked. Nobody takes it
// before a time has passed.
func (d *DB) PutOffCheck(ctx context.Context, c Check, by time.Duration) error {
	return d.write(ctx, "put a check off", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE connections SET checking_until = clock_timestamp() + make_interval(secs => $3) WHERE connection_id = $1 AND checking_until = $2`,
			c.ConnectionID, c.Until, by.Seconds())
	})
}

// SeenWorking says that the provider called a connection connected at a time.
// It changes the status, from stale, unless a case is open: that decides for
// itself. Nor is a connection changed that was removed or is disconnected.
func (d *DB) SeenWorking(ctx context.Context, connectionID string, at time.Time) (marked bool, err error) {
	err = d.write(ctx, "mark a connection as connected", func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, connectionID)
		if err != nil || c.Status != reauth.StatusStale {
			return err
		}
		if open, err := caseOpen(ctx, tx, connectionID); err != nil || open {
			return err
		}
		marked = true
		return setStatus(ctx, tx, connectionID, reauth.StatusConnected, at)
	})
	return marked && err == nil, err
}

// SweepLag counts the connections that are checked in turn: all, those whose
// last check was before overdueBefore, and those before dueBefore. Of one that
// was never checked, its registration counts.
func (d *DB) SweepLag(ctx context.Context, overdueBefore, dueBefore time.Time) (lag reauth.SweepLag, err error) {
	var row struct {
		Connections int        `db:"connections"`
		Overdue     int        `db:"overdue"`
		Due         int        `db:"due"`
		Never       int        `db:"never"`
		OldestAt    *time.Time `db:"oldest_at"`
	}
	err = d.read(ctx, "read how far behind the checks are", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &row, `
SELECT count(*) AS connections,
       count(*) FILTER (WHERE coalesce(c.checked_at, c.created_at) < $1) AS overdue,
       count(*) FILTER (WHERE c.checked_at IS NULL OR c.checked_at < $2) AS due,
       count(*) FILTER (WHERE c.checked_at IS NULL) AS never,
       min(coalesce(c.checked_at, c.created_at)) AS oldest_at
  FROM connections c WHERE `+swept, overdueBefore, dueBefore)
	})
	return reauth.SweepLag{Connections: row.Connections, Overdue: row.Overdue, Due: row.Due, Never: row.Never, OldestAt: row.OldestAt}, err
}
