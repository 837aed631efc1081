package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/finch"
)

// FinchLimiter shares out what Finch allows among all processes that use this
// database, and is a finch.Limiter.
//
// Who asks for room when there is none joins a line, ordered by priority and
// then by time, and is told when to ask again. Room is granted only beyond what
// those further ahead in the line need, so that the most urgent get it whoever
// asks first; those who do not come back are forgotten within seconds. Sweeps
// and imports leave one call in twenty to people, and spread theirs evenly over
// the window: when people need more than that, the next call is never far off.
//
// Times are the database's own, so that clocks of workers that differ do no
// harm. All asking is serialised by one advisory lock; a transaction under it
// takes no other lock that anybody else takes.
type FinchLimiter struct {
	db     *DB
	limits finch.Limits
	now    func() time.Time // nil: the database's clock
}

var _ finch.Limiter = (*FinchLimiter)(nil)

// FinchLimiter returns the limiter on this database.
func (d *DB) FinchLimiter(limits finch.Limits) *FinchLimiter {
	return &FinchLimiter{db: d, limits: limits}
}

// WithClock returns the same limiter by another clock than the database's.
func (l *FinchLimiter) WithClock(now func() time.Time) *FinchLimiter {
	other := *l
	other.now = now
	return &other
}

const (
	// finchLock is the advisory lock under which room is asked for.
	finchLock = 0x66696e6368 // "finch"
	// againAtMost is the longest anybody is sent away: places further ahead in
	// the line may be given up.
	againAtMost  = 2 * time.Minute
	againAtLeast = 10 * time.Millisecond
	// backWithin is how long a place is kept for whoever was to ask again.
	backWithin = 5 * time.Second
	// pausedFor and pausedAll are how long nothing is called after a refusal
	// that does not say how long. Finch counts in rolling minutes, and punishes
	// an IP address for an hour; a code, which lives ten minutes, may get
	// through in between.
	pausedFor = 15 * time.Second
	pausedAll = 5 * time.Minute
)

// spare is what sweeps and imports leave to people: one call in so many.
const spare = 20

// slack lengthens a window, since calls do not take equally long to arrive.
func slack(l finch.Limit) time.Duration { return l.Window + l.Window/120 }

// share is how many calls of a limit a priority may use.
func share(l finch.Limit, p finch.Priority) int {
	if patient(p) {
		return max(1, l.Calls-max(1, l.Calls/spare))
	}
	return l.Calls
}

// patient tells the priorities that nobody waits for.
func patient(p finch.Priority) bool { return p >= finch.PrioritySweep }

// standing is what is known when somebody asks.
type standing struct {
	Now        time.Time  `db:"now"`
	PausedTill *time.Time `db:"paused_till"`
	Used       int        `db:"used"`         // calls of the endpoint in its window
	UsedInAll  int        `db:"used_in_all"`  // calls of all endpoints in theirs
	Before     int        `db:"before"`       // further ahead in the endpoint's line
	BeforeIP   int        `db:"before_ip"`    // in the line for the room of all endpoints
	PatientTo  int        `db:"patient_to"`   // of Before, those who are patient
	LastAt     *time.Time `db:"last_patient"` // when the last patient call went out
}

// Ask implements finch.Limiter.
func (l *FinchLimiter) Ask(ctx context.Context, c finch.Call) (room finch.Room, err error) {
	limit, all := l.limits.Of(c.Endpoint), l.limits.Together
	if c.Endpoint == finch.EndpointToken {
		limit, all = finch.Limit{}, finch.Limit{} // only Finch's own word holds a code up
	}
	err = l.locked(ctx, "ask for room to call Finch", func(ctx context.Context, tx *sqlx.Tx) error {
		s, err := l.standing(ctx, tx, c, limit, all)
		if err != nil {
			return err
		}
		until, byIP, err := l.until(ctx, tx, c, s, limit, all)
		if err != nil {
			return err
		}
		if !until.After(s.Now) {
			room = finch.Room{Granted: true}
			return l.grant(ctx, tx, c, s.Now)
		}
		again := max(againAtLeast, min(until.Sub(s.Now), againAtMost))
		room = finch.Room{Again: again, Until: until.UTC()}
		return queue(ctx, tx, c, byIP, s.Now, s.Now.Add(again+backWithin))
	})
	if err != nil {
		return finch.Room{}, err
	}
	return room, nil
}

// locked runs a transaction under the lock. The server ends it should its
// client vanish, so that nobody waits for that.
func (l *FinchLimiter) locked(ctx context.Context, doing string, do func(ctx context.Context, tx *sqlx.Tx) error) error {
	return l.db.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `SELECT set_config('idle_in_transaction_session_timeout', '5000', true), pg_advisory_xact_lock($1)`, int64(finchLock)); err != nil {
			return err
		}
		return do(ctx, tx)
	})
}

// clock is the time to give to a statement that takes the database's for NULL.
func (l *FinchLimiter) clock() *time.Time {
	if l.now == nil {
		return nil
	}
	now := l.now()
	return &now
}

func (l *FinchLimiter) standing(ctx context.Context, tx *sqlx.Tx, c finch.Call, limit, all finch.Limit) (s standing, err error) {
	err = tx.GetContext(ctx, &s, `
WITH t AS MATERIALIZED (SELECT coalesce($5, clock_timestamp()) AS now),
     mine AS MATERIALIZED (SELECT coalesce(min(w.since), (SELECT now FROM t)) AS since FROM finch_waits w, t
                            WHERE w.application = $1 AND w.endpoint = $2 AND w.priority = $3 AND w.waiter = $4 AND w.gone_at > t.now),
     ahead AS MATERIALIZED (SELECT w.* FROM finch_waits w, t, mine
                             WHERE w.gone_at > t.now AND (w.priority < $3 OR w.priority = $3 AND (w.since, w.waiter) < (mine.since, $4)))
SELECT t.now,
       (SELECT max(until) FROM finch_pauses WHERE (application, endpoint) IN (($1, $2), ('', ''))) AS paused_till,
       (SELECT count(*) FROM finch_calls WHERE application = $1 AND endpoint = $2 AND at > t.now - make_interval(secs => $6)) AS used,
       (SELECT count(*) FROM finch_calls WHERE at > t.now - make_interval(secs => $7)) AS used_in_all,
       (SELECT count(*) FROM ahead WHERE application = $1 AND endpoint = $2) AS before,
       (SELECT count(*) FROM ahead WHERE application = $1 AND endpoint = $2 AND priority >= $8) AS patient_to,
       (SELECT count(*) FROM ahead WHERE by_ip) AS before_ip,
       (SELECT max(at) FROM finch_calls WHERE application = $1 AND endpoint = $2 AND priority >= $8 AND at > t.now - make_interval(secs => $6)) AS last_patient
  FROM t`,
		c.Application, c.Endpoint, int(c.Priority), c.Waiter, l.clock(), slack(limit).Seconds(), slack(all).Seconds(), int(finch.PrioritySweep))
	return s, err
}

// until is when a call may go out, and whether that is for the limit of all
// endpoints together.
func (l *FinchLimiter) until(ctx context.Context, tx *sqlx.Tx, c finch.Call, s standing, limit, all finch.Limit) (until time.Time, byIP bool, err error) {
	later := func(t time.Time) {
		if t.After(until) {
			until = t
		}
	}
	if s.PausedTill != nil {
		later(*s.PausedTill)
	}
	if limit.Calls > 0 {
		free, err := l.free(ctx, tx, c, s.Now, limit, s.Used, s.Before, c.Application, c.Endpoint)
		if err != nil {
			return until, false, err
		}
		later(free)
		if patient(c.Priority) && s.LastAt != nil {
			gap := slack(limit) / time.Duration(share(limit, c.Priority))
			later(s.LastAt.Add(gap * time.Duration(1+s.PatientTo)))
		}
	}
	if all.Calls > 0 {
		free, err := l.free(ctx, tx, c, s.Now, all, s.UsedInAll, s.BeforeIP, "", "")
		if err != nil {
			return until, false, err
		}
		byIP = free.After(s.Now)
		later(free)
	}
	return until, byIP, nil
}

// free is when the window of an endpoint, or of all if it has no name, has room
// for one more call, with others ahead. It is not after now if there is room.
func (l *FinchLimiter) free(ctx context.Context, tx *sqlx.Tx, c finch.Call, now time.Time, limit finch.Limit, used, ahead int, application, endpoint string) (time.Time, error) {
	room := share(limit, c.Priority)
	must := used + ahead + 1 - room // so many must leave the window first
	if must <= 0 {
		return now, nil
	}
	// Those that are in it leave when they are old enough, and those that are to
	// come are taken to be spread evenly.
	beyond := max(0, must-used)
	free := now
	if used > 0 {
		if err := tx.GetContext(ctx, &free, `
SELECT at FROM finch_calls WHERE ($1 = '' OR application = $1 AND endpoint = $2) AND at > $3 ORDER BY at OFFSET $4 LIMIT 1`,
			application, endpoint, now.Add(-slack(limit)), min(must, used)-1); err != nil {
			return now, err
		}
		free = free.Add(slack(limit))
	}
	return free.Add(slack(limit) * time.Duration(beyond) / time.Duration(room)), nil
}

// grant counts a call, takes it out of the line, and clears away what is over.
func (l *FinchLimiter) grant(ctx context.Context, tx *sqlx.Tx, c finch.Call, now time.Time) error {
	return exec(ctx, tx, `
WITH calls AS (DELETE FROM finch_calls WHERE at <= $6),
     waits AS (DELETE FROM finch_waits WHERE gone_at <= $5 OR application = $1 AND endpoint = $2 AND priority = $3 AND waiter = $4),
     pauses AS (DELETE FROM finch_pauses WHERE until <= $5)
INSERT INTO finch_calls (application, endpoint, priority, at) VALUES ($1, $2, $3, $5)`,
		c.Application, c.Endpoint, int(c.Priority), c.Waiter, now, now.Add(-l.memory()))
}

// memory is how long calls are remembered.
func (l *FinchLimiter) memory() time.Duration {
	longest := max(slack(l.limits.Each), slack(l.limits.Together))
	for _, limit := range l.limits.Endpoints {
		longest = max(longest, slack(limit))
	}
	return longest
}

// queue keeps the place of who must wait, and forgets those who never came back.
func queue(ctx context.Context, tx *sqlx.Tx, c finch.Call, byIP bool, now, goneAt time.Time) error {
	return exec(ctx, tx, `
WITH gone AS (DELETE FROM finch_waits
               WHERE gone_at <= $6 AND NOT (application = $1 AND endpoint = $2 AND priority = $3 AND waiter = $4))
INSERT INTO finch_waits AS w (application, endpoint, priority, waiter, by_ip, since, gone_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (application, endpoint, priority, waiter) DO UPDATE
   SET since = CASE WHEN w.gone_at > excluded.since THEN w.since ELSE excluded.since END, by_ip = excluded.by_ip, gone_at = excluded.gone_at`,
		c.Application, c.Endpoint, int(c.Priority), c.Waiter, byIP, now, goneAt)
}

// Refused implements finch.Limiter.
func (l *FinchLimiter) Refused(ctx context.Context, c finch.Call, after time.Duration, everything bool) error {
	application, endpoint, usual := c.Application, c.Endpoint, pausedFor
	if everything {
		application, endpoint, usual = "", "", pausedAll
	}
	if after <= 0 {
		after = usual
	}
	return l.locked(ctx, "note that Finch refused a call for its limit", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
INSERT INTO finch_pauses AS p (application, endpoint, until) VALUES ($1, $2, coalesce($3, clock_timestamp()) + make_interval(secs => $4))
ON CONFLICT (application, endpoint) DO UPDATE SET until = greatest(p.until, excluded.until)`,
			application, endpoint, l.clock(), after.Seconds())
	})
}

// Leave implements finch.Limiter.
func (l *FinchLimiter) Leave(ctx context.Context, c finch.Call) error {
	return l.locked(ctx, "leave the line for Finch", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `DELETE FROM finch_waits WHERE application = $1 AND endpoint = $2 AND priority = $3 AND waiter = $4`,
			c.Application, c.Endpoint, int(c.Priority), c.Waiter)
	})
}

// FinchUse is how much of Finch's limit is used now.
type FinchUse struct {
	Application string `db:"application"`
	Endpoint    string `db:"endpoint"`
	// Used of Limit.Calls went out within the window; there is no limit if that
	// is 0.
	Used  int `db:"used"`
	Limit finch.Limit
	// Waiting counts those in the line.
	Waiting int `db:"waiting"`
}

// Share is the part of the limit that is used; 0 where there is none.
func (u FinchUse) Share() float64 {
	if u.Limit.Calls == 0 {
		return 0
	}
	return float64(u.Used) / float64(u.Limit.Calls)
}

// Use tells how much of Finch's limit is used, for every endpoint that was
// called or is waited for.
func (l *FinchLimiter) Use(ctx context.Context) (list []FinchUse, err error) {
	err = l.db.read(ctx, "read the use of Finch's limit", func(ctx context.Context) error {
		if err := l.db.sqlx.SelectContext(ctx, &list, `
WITH t AS MATERIALIZED (SELECT coalesce($1, clock_timestamp()) AS now),
     known AS (SELECT application, endpoint FROM finch_calls UNION SELECT application, endpoint FROM finch_waits)
SELECT k.application, k.endpoint,
       (SELECT count(*) FROM finch_waits w WHERE w.application = k.application AND w.endpoint = k.endpoint AND w.gone_at > t.now) AS waiting
  FROM known k, t ORDER BY 1, 2`, l.clock()); err != nil {
			return err
		}
		for i := range list {
			list[i].Limit = l.limits.Of(list[i].Endpoint)
			if err := l.db.sqlx.GetContext(ctx, &list[i].Used, `
SELECT count(*) FROM finch_calls WHERE application = $1 AND endpoint = $2 AND at > coalesce($3, clock_timestamp()) - make_interval(secs => $4)`,
				list[i].Application, list[i].Endpoint, l.clock(), slack(list[i].Limit).Seconds()); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}
