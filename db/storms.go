package db

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// Storm is a time at which so many connections of one provider broke together
// that first notices are held.
type Storm struct {
	StormID  string          `db:"storm_id"`
	Provider reauth.Provider `db:"provider"`
	// System is the employment system that broke; empty for all of the provider's.
	System string `db:"system"`
	// Broken of Connections had broken when the storm began.
	Broken      int       `db:"broken"`
	Connections int       `db:"connections"`
	BeganAt     time.Time `db:"began_at"`
	// EndsAt is when the storm is over at the latest.
	EndsAt   time.Time  `db:"ends_at"`
	EndedAt  *time.Time `db:"ended_at"`
	EndedHow string     `db:"ended_how"`
	// Held counts the cases that it holds or held, Waiting those of them that
	// are open, Restored those that ended with access back. Brake counts none.
	Held     int `db:"held"`
	Waiting  int `db:"waiting"`
	Restored int `db:"restored"`
}

// Over reports whether the storm has ended.
func (s Storm) Over() bool { return s.EndedAt != nil }

// StormTimeOver is how a storm ends that nobody ended in its time.
const StormTimeOver = "its time was over"

// StormRule says when so many cases are a storm: those of Count connections,
// and of the Share of all connections of the provider or system, within Window.
// A Count or AtMost of 0 is never.
type StormRule struct {
	Count  int
	Share  float64
	Window time.Duration
	// AtMost is how long first notices are held.
	AtMost time.Duration
}

func (r StormRule) met(broken, connections int) bool {
	return broken >= r.Count && float64(broken) >= r.Share*float64(connections)
}

const stormColumns = `s.storm_id, s.provider, s.system, s.broken, s.connections, s.began_at, s.ends_at, s.ended_at, s.ended_how`

// countStorms adds to the storms s what became of their cases.
const countStorms = `
SELECT ` + stormColumns + `, count(k.case_id) AS held, count(k.case_id) FILTER (WHERE k.outcome IS NULL) AS waiting,
       count(k.case_id) FILTER (WHERE k.outcome IN ('recovered', 'healed')) AS restored
  FROM s LEFT JOIN cases k ON k.storm_id = s.storm_id
 GROUP BY ` + stormColumns

// Brake says which storm holds the first notice of a case, if any, and
// remembers that it does. A storm of the case's system or of the whole provider
// that rages is joined; otherwise one begins when the rule says so: of the
// system, unless the provider's other systems broke as well. A case that a storm
// has held is never held again, and cases that a storm covered do not count for
// the next, nor do those that a customer opened at the page. However many
// transactions ask at once, one storm begins, and whoever is held by a storm
// stands in HeldCases once EndStorm has returned. A storm whose time is over
// holds nothing, whether or not somebody watches it. held is false when nothing
// holds the notice. ErrNotFound when there is no such case.
func (d *DB) Brake(ctx context.Context, caseID string, rule StormRule, at time.Time) (storm Storm, held bool, err error) {
	if rule.Count <= 0 || rule.AtMost <= 0 {
		return Storm{}, false, nil
	}
	err = d.write(ctx, "look for a storm", func(ctx context.Context, tx *sqlx.Tx) error {
		storm, held, err = brake(ctx, tx, caseID, rule, at)
		return err
	})
	if err != nil || !held {
		return Storm{}, false, err
	}
	return storm, true, nil
}

func brake(ctx context.Context, tx *sqlx.Tx, caseID string, rule StormRule, at time.Time) (storm Storm, held bool, err error) {
	var k struct {
		Provider reauth.Provider `db:"provider"`
		System   string          `db:"system"`
		StormID  string          `db:"storm_id"`
		// Open: it has no outcome, and no operator has let its notices go.
		Open bool `db:"open"`
	}
	if err := tx.GetContext(ctx, &k, `
SELECT k.provider, c.system, coalesce(k.storm_id, '') AS storm_id, k.outcome IS NULL AND k.released_at IS NULL AS open
  FROM cases k JOIN connections c USING (connection_id) WHERE k.case_id = $1 FOR NO KEY UPDATE OF k`, caseID); err != nil {
		return storm, false, err
	}
	if !k.Open {
		return storm, false, nil
	}
	if k.StormID != "" {
		if err := tx.GetContext(ctx, &storm, `SELECT `+stormColumns+` FROM storms s WHERE s.storm_id = $1`, k.StormID); err != nil || storm.Over() {
			return storm, false, err
		}
		if storm.EndsAt.After(at) {
			return storm, true, nil
		}
		return storm, false, endStale(ctx, tx, k.Provider, at)
	}
	scope := stormScope{k.Provider, k.System, rule, at}
	if held, err = scope.raging(ctx, tx, &storm); err == nil && !held {
		held, err = scope.begin(ctx, tx, &storm)
	}
	if err != nil || !held {
		return storm, false, err
	}
	return storm, true, exec(ctx, tx, `UPDATE cases SET storm_id = $2 WHERE case_id = $1`, caseID, storm.StormID)
}

// stormScope is what a storm would have to cover to hold a case.
type stormScope struct {
	provider reauth.Provider
	system   string
	rule     StormRule
	at       time.Time
}

// raging finds the storm that covers the scope. It cannot end before the
// transaction does.
func (s stormScope) raging(ctx context.Context, tx *sqlx.Tx, storm *Storm) (bool, error) {
	return first(ctx, tx, storm, `
SELECT `+stormColumns+` FROM storms s
 WHERE s.provider = $1 AND s.system IN ('', $2) AND s.ended_at IS NULL AND s.ends_at > $3
 ORDER BY s.system DESC LIMIT 1 FOR SHARE OF s`, s.provider, s.system, s.at)
}

// begin begins a storm if the rule says so, or joins one that another
// transaction has just begun.
func (s stormScope) begin(ctx context.Context, tx *sqlx.Tx, storm *Storm) (bool, error) {
	switch broken, _, _, err := s.breakage(ctx, tx); {
	case err != nil:
		return false, err
	case broken == 0: // or a storm that began a moment ago covers them
		return s.raging(ctx, tx, storm)
	}
	if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(hashtextextended('storm of ' || $1::text, 0))`, s.provider); err != nil {
		return false, err
	}
	if found, err := s.raging(ctx, tx, storm); found || err != nil {
		return found, err
	}
	broken, connections, system, err := s.breakage(ctx, tx)
	if err != nil || broken == 0 {
		return false, err
	}
	if err := endStale(ctx, tx, s.provider, s.at); err != nil {
		return false, err
	}
	return first(ctx, tx, storm, `
INSERT INTO storms AS s (storm_id, provider, system, broken, connections, began_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING `+stormColumns, uuid.NewString(), s.provider, system, broken, max(broken, connections), s.at, s.at.Add(s.rule.AtMost))
}

// endStale ends the storms whose time is over, if nobody else has.
func endStale(ctx context.Context, tx *sqlx.Tx, provider reauth.Provider, at time.Time) error {
	return exec(ctx, tx, `
UPDATE storms SET ended_at = ends_at, ended_how = $3 WHERE provider = $1 AND ended_at IS NULL AND ends_at <= $2`, provider, at, StormTimeOver)
}

// breakage says how many of how many connections broke, and of which system,
// if that is a storm; else all is zero.
func (s stormScope) breakage(ctx context.Context, tx *sqlx.Tx) (broken, connections int, system string, err error) {
	type count struct {
		Here int `db:"here"`
		All  int `db:"all"`
	}
	var of, are count
	if err := tx.GetContext(ctx, &of, `
SELECT count(DISTINCT k.connection_id) FILTER (WHERE c.system = $2 AND $2 <> '') AS here, count(DISTINCT k.connection_id) AS "all"
  FROM cases k JOIN connections c USING (connection_id)
 WHERE k.opened_at > $3 AND k.provider = $1 AND k.session_ordinal > 0 AND k.source <> 'link' AND c.status <> 'removed'
   AND NOT EXISTS (SELECT FROM storms s WHERE s.provider = $1 AND s.system IN ('', c.system) AND coalesce(s.ended_at, s.ends_at) >= k.opened_at)`,
		s.provider, s.system, s.at.Add(-s.rule.Window)); err != nil || of.All < s.rule.Count {
		return 0, 0, "", err
	}
	if err := tx.GetContext(ctx, &are, `
SELECT count(*) FILTER (WHERE system = $2 AND $2 <> '') AS here, count(*) AS "all" FROM connections WHERE provider = $1 AND status <> 'removed'`,
		s.provider, s.system); err != nil {
		return 0, 0, "", err
	}
	switch {
	case s.rule.met(of.Here, are.Here) && !s.rule.met(of.All-of.Here, are.All-are.Here):
		return of.Here, are.Here, s.system, nil
	case s.rule.met(of.All, are.All):
		return of.All, are.All, "", nil
	}
	return 0, 0, "", nil
}

// MayStorm reports whether a provider has as many connections as a storm needs.
func (d *DB) MayStorm(ctx context.Context, provider reauth.Provider, count int) (may bool, err error) {
	if count <= 0 {
		return false, nil
	}
	err = d.read(ctx, "look whether there can be a storm", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &may, `
SELECT EXISTS (SELECT FROM connections WHERE provider = $1 AND status <> 'removed' OFFSET $2)`, provider, count-1)
	})
	return may, err
}

// StormByID returns a storm. ErrNotFound when there is none.
func (d *DB) StormByID(ctx context.Context, id string) (storm Storm, err error) {
	err = d.read(ctx, "read a storm", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &storm, `WITH s AS (SELECT * FROM storms WHERE storm_id = $1)`+countStorms, id)
	})
	return storm, err
}

// Storms lists storms, those that rage first, then the newest.
func (d *DB) Storms(ctx context.Context, limit int) (list []Storm, err error) {
	const order = ` ORDER BY (s.ended_at IS NULL) DESC, s.began_at DESC, s.storm_id`
	err = d.read(ctx, "list the storms", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
WITH s AS (SELECT * FROM storms s`+order+` LIMIT $1)`+countStorms+order, page(limit))
	})
	return list, err
}

// EndStorm ends a storm: from now on it holds no further case. The first end
// stands: first is false after it. ErrNotFound when there is no such storm.
func (d *DB) EndStorm(ctx context.Context, id, how string, at time.Time) (first bool, err error) {
	if how == "" {
		return false, errors.New("end a storm: say how it ended")
	}
	err = d.write(ctx, "end a storm", func(ctx context.Context, tx *sqlx.Tx) error {
		if first, err = changed(ctx, tx, `
UPDATE storms SET ended_at = greatest(began_at, $2), ended_how = $3 WHERE storm_id = $1 AND ended_at IS NULL`, id, at, plain(how)); err != nil || first {
			return err
		}
		var exists bool
		if err := tx.GetContext(ctx, &exists, `SELECT EXISTS (SELECT FROM storms WHERE storm_id = $1)`, id); err != nil {
			return err
		}
		if !exists {
			return ErrNotFound
		}
		return nil
	})
	return first && err == nil, err
}

// HeldCases lists open cases that a storm holds, or held to its end, in the
// order of their IDs, from the one after.
func (d *DB) HeldCases(ctx context.Context, stormID, after string, limit int) (list []Case, err error) {
	err = d.read(ctx, "list held cases", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectCases+`
 WHERE k.storm_id = $1 AND k.outcome IS NULL AND k.case_id > $2 ORDER BY k.case_id LIMIT $3`, stormID, after, page(limit))
	})
	return list, err
}

// SampleHeld picks, from all over, n of the connections whose open cases a storm
// holds and of which a token is stored. The same round picks the same ones.
func (d *DB) SampleHeld(ctx context.Context, stormID string, round, n int) (connectionIDs []string, err error) {
	err = d.read(ctx, "pick held cases", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &connectionIDs, `
SELECT k.connection_id FROM cases k JOIN connections c USING (connection_id)
 WHERE k.storm_id = $1 AND k.outcome IS NULL AND c.generation IS NOT NULL AND c.status <> 'disconnected'
 ORDER BY md5(k.case_id || ' ' || $2), k.case_id LIMIT $3`, stormID, strconv.Itoa(round), n)
	})
	return connectionIDs, err
}
