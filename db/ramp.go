package db

import (
	"context"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

const (
	// rampHour is a little more than an hour: mails may leave a moment after
	// their turn, and yet no hour is to see more of them than the ramp allows.
	rampHour = time.Hour + time.Minute
	// rampSeen bounds how much of the queue is searched for a gap. Behind that
	// much of it, a case goes to its end.
	rampSeen = 2000
)

// Turn is what the ramp says of a case that has told nobody yet.
type Turn struct {
	// Now: it may tell its first customer.
	Now bool
	// At is when its turn is, where that is not now.
	At time.Time
	// Version is the control's.
	Version int64
}

// TakeTurn asks whether a case may tell its first customer now, as far as the
// ramp goes. If not, the case gets a turn, which it keeps until the ramp is
// changed: so it needs to ask once more and no oftener. may says when, at a time
// or after it, somebody of the case may be written to; turns are given in the
// order in which they are asked for, as far as that allows. A case that was let go,
// that has had its turn or has told somebody, or that asks where there is no ramp
// may go on. ErrNotFound when there is no
// such case.
func (d *DB) TakeTurn(ctx context.Context, caseID string, at time.Time, may func(time.Time) time.Time) (t Turn, err error) {
	err = d.write(ctx, "take a turn in the ramp", func(ctx context.Context, tx *sqlx.Tx) error {
		t, err = takeTurn(ctx, tx, caseID, at.Truncate(time.Microsecond), may)
		return err
	})
	if err != nil {
		return Turn{}, err
	}
	return t, nil
}

func takeTurn(ctx context.Context, tx *sqlx.Tx, caseID string, at time.Time, may func(time.Time) time.Time) (Turn, error) {
	c, err := mailControl(ctx, tx)
	if err != nil {
		return Turn{}, err
	}
	var k struct {
		Released bool       `db:"released"`
		Started  bool       `db:"started"`
		Slot     *time.Time `db:"slot_at"`
	}
	if c.Ramped() {
		// One at a time: a turn is given once.
		if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(hashtextextended('mail ramp', 0))`); err != nil {
			return Turn{}, err
		}
		if err := tx.GetContext(ctx, &k, `
SELECT k.released_at IS NOT NULL AS released,
       EXISTS (SELECT FROM mail_starts s WHERE s.case_id = k.case_id)
       OR EXISTS (SELECT FROM notices n WHERE n.case_id = k.case_id AND n.contact_id IS NOT NULL AND n.state IN ('sending', 'sent', 'unknown')) AS started,
       (SELECT slot_at FROM mail_waits w WHERE w.case_id = k.case_id AND w.why = 'ramp') AS slot_at
  FROM cases k WHERE k.case_id = $1`, caseID); err != nil {
			return Turn{}, err
		}
	} else {
		k.Started = true
	}
	if k.Started || k.Released {
		return Turn{Now: true, Version: c.Version}, exec(ctx, tx, `DELETE FROM mail_waits WHERE case_id = $1 AND why = 'ramp'`, caseID)
	}
	if k.Slot != nil && k.Slot.After(at) {
		return Turn{At: *k.Slot, Version: c.Version}, exec(ctx, tx, `
UPDATE mail_waits SET version = $2 WHERE case_id = $1 AND why = 'ramp'`, caseID, c.Version)
	}

	r := ramp{perHour: c.Ramp, may: may}
	if err := tx.SelectContext(ctx, &r.starts, `SELECT at FROM mail_starts WHERE at > $1 AND at <= $2 ORDER BY at`, at.Add(-rampHour), at); err != nil {
		return Turn{}, err
	}
	if k.Slot == nil || r.full(at) {
		// The turns that others have; one that has come and was not taken yet is now.
		if err := tx.SelectContext(ctx, &r.turns, `
SELECT greatest(w.slot_at, $2) AS at FROM mail_waits w JOIN cases o USING (case_id)
 WHERE w.why = 'ramp' AND w.slot_at > $3 AND w.case_id <> $1 AND o.outcome IS NULL ORDER BY w.slot_at LIMIT $4`,
			caseID, at, at.Add(-rampHour), rampSeen); err != nil {
			return Turn{}, err
		}
		from := at
		if len(r.turns) == rampSeen {
			if err := tx.GetContext(ctx, &from, `SELECT max(slot_at) FROM mail_waits WHERE why = 'ramp'`); err != nil {
				return Turn{}, err
			}
			r.turns = []time.Time{from}
		}
		if turn := r.next(from).Truncate(time.Microsecond); turn.After(at) {
			return Turn{At: turn, Version: c.Version}, exec(ctx, tx, `
INSERT INTO mail_waits (case_id, why, version, slot_at, since) VALUES ($1, 'ramp', $2, $3, $4)
ON CONFLICT (case_id, why) DO UPDATE SET version = excluded.version, slot_at = excluded.slot_at`, caseID, c.Version, turn, at)
		}
	}
	if err := exec(ctx, tx, `INSERT INTO mail_starts (case_id, at) VALUES ($1, $2)`, caseID, at); err != nil {
		return Turn{}, err
	}
	return Turn{Now: true, Version: c.Version}, exec(ctx, tx, `DELETE FROM mail_waits WHERE case_id = $1 AND why = 'ramp'`, caseID)
}

// ramp plans the turns of those who are to tell their first customer.
type ramp struct {
	perHour int
	may     func(time.Time) time.Time
	// starts are those who have had their turn lately, turns those who have one
	// that is still to come; both in order.
	starts, turns []time.Time
}

// full reports whether as many have begun in the hour before as may.
func (r ramp) full(at time.Time) bool {
	n := 0
	for _, start := range r.starts {
		if start.After(at.Add(-time.Hour)) {
			n++
		}
	}
	return n >= r.perHour
}

// next is the first free turn at a time or after it: as far from every other as
// the ramp's pace has it, and after no hour that is full already.
func (r ramp) next(at time.Time) time.Time {
	pace := rampHour / time.Duration(r.perHour)
	taken := slices.Concat(r.starts, r.turns)
	slices.SortFunc(taken, time.Time.Compare)
	turn := r.may(at)
	for _, other := range taken {
		switch {
		case !other.Add(pace).After(turn): // long before
		case !other.Before(turn.Add(pace)): // long after, and so are all others
			return r.afterFull(turn)
		default:
			turn = r.may(other.Add(pace))
		}
	}
	return r.afterFull(turn)
}

// afterFull moves a turn out of an hour that has had all that it may, which is
// so where many have begun together that were kept from it before.
func (r ramp) afterFull(turn time.Time) time.Time {
	if n := len(r.starts); n >= r.perHour {
		if free := r.starts[n-r.perHour].Add(rampHour); free.After(turn) {
			return r.may(free)
		}
	}
	return turn
}
