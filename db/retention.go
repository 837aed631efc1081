package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Retained is rows that go, or are blanked, when they are old.
type Retained struct {
	// Kind is the reauth.RetainedKind that they are of, Table where they are.
	Kind, Table string

	// old is SQL that is true of rows r that are to go at the cutoff $1, by the
	// column in whose order an index finds them.
	old, by string
	// set is SQL that blanks rows; empty deletes them.
	set string
	// Rows to which others refer are taken by their key: what is in first runs
	// before, for the keys $1. connections are theirs to forget.
	key         string
	first       []string
	connections bool
}

const (
	notPending = `NOT EXISTS (SELECT FROM outbox o WHERE o.case_id = r.case_id AND o.delivered_at IS NULL AND o.abandoned_at IS NULL)`
	noOpenCase = `NOT EXISTS (SELECT FROM cases k WHERE k.connection_id = r.connection_id AND k.outcome IS NULL)`
)

// RetainedRows lists what retention deletes, in an order in which what refers to
// others goes before them. A new table that grows belongs here: that is all it
// needs to be kept small. Nothing here is needed by an open case.
func RetainedRows() []Retained {
	return []Retained{
		{Kind: "webhooks", Table: "webhooks", by: "processed_at",
			old: `r.processed_at <= $1`},

		{Kind: "clicks", Table: "clicks", by: "at",
			old: `r.at <= $1 AND NOT EXISTS (SELECT FROM cases k WHERE k.case_id = r.case_id AND k.outcome IS NULL)`},

		// A minted token is the only copy until it is adopted or in quarantine.
		{Kind: "codes", Table: "minted", by: "minted_at",
			old: `r.minted_at <= $1 AND NOT EXISTS (SELECT FROM codes c WHERE c.hash = r.code_hash AND (c.settled_at IS NULL OR c.settled_at > $1))
  AND (EXISTS (SELECT FROM tokens t WHERE t.fingerprint = r.fingerprint) OR EXISTS (SELECT FROM quarantined_tokens q WHERE q.fingerprint = r.fingerprint))`},
		{Kind: "codes", Table: "held_codes", by: "released_at",
			old: `r.released_at <= $1 AND NOT EXISTS (SELECT FROM codes c WHERE c.hash = r.hash AND (c.settled_at IS NULL OR c.settled_at > $1))`},
		{Kind: "codes", Table: "codes", by: "settled_at",
			old: `r.settled_at <= $1 AND NOT EXISTS (SELECT FROM cases k WHERE k.case_id = r.case_id AND k.outcome IS NULL)
  AND NOT EXISTS (SELECT FROM minted m WHERE m.code_hash = r.hash)`},

		// Superseded for as long as a later one is there. The row stays: by it a
		// report of the old token is known to be late.
		{Kind: "tokens", Table: "tokens", by: "adopted_at", set: `sealed = NULL`,
			old: `r.state = 'superseded' AND r.sealed IS NOT NULL AND r.adopted_at <= $1
  AND EXISTS (SELECT FROM tokens n WHERE n.connection_id = r.connection_id AND n.generation <> r.generation AND n.minted_at >= r.minted_at AND n.adopted_at <= $1)`},

		// One that was not erased yet is the only handle to what it made.
		{Kind: "quarantine", Table: "quarantined_tokens", by: "ended_at",
			old: `r.ended_at <= $1`},

		{Kind: "outbox", Table: "outbox", by: "created_at",
			old: `(r.delivered_at IS NOT NULL OR r.abandoned_at IS NOT NULL) AND r.created_at <= $1 AND coalesce(r.delivered_at, r.abandoned_at) <= $1`},

		{Kind: "imports", Table: "staged_tokens", by: "asked_at",
			old: `r.sealed IS NULL AND r.asked_at <= $1 AND NOT r.report_due`},
		{Kind: "imports", Table: "import_rejects", by: "line",
			old: `r.import_id IN (SELECT i.import_id FROM imports i WHERE i.updated_at <= $1)`},
		{Kind: "imports", Table: "imports", by: "began_at",
			old: `r.updated_at <= $1 AND NOT EXISTS (SELECT FROM staged_tokens s WHERE s.import_id = r.import_id)
  AND NOT EXISTS (SELECT FROM import_rejects j WHERE j.import_id = r.import_id)`},

		// A case waits for what is still to be told of it, for the end of the
		// suppression that it began, and for an open one that goes along in its mail.
		{Kind: "cases", Table: "cases", by: "closed_at", key: "case_id",
			old: `r.outcome IS NOT NULL AND r.closed_at <= $1 AND ` + notPending + `
  AND NOT EXISTS (SELECT FROM mail_waits w WHERE w.case_id = r.case_id)
  AND NOT EXISTS (SELECT FROM suppressions s WHERE s.case_id = r.case_id AND s.until > $1)
  AND NOT EXISTS (SELECT FROM notices n JOIN notices l ON l.lead_id = n.notice_id JOIN cases k ON k.case_id = l.case_id WHERE n.case_id = r.case_id AND k.outcome IS NULL)`,
			first: []string{
				`UPDATE tokens SET case_id = NULL WHERE case_id = ANY($1)`,
				`DELETE FROM suppressions WHERE case_id = ANY($1)`,
				unlead,
				`DELETE FROM notices WHERE case_id = ANY($1)`,
				`DELETE FROM case_events WHERE case_id = ANY($1)`,
				`DELETE FROM chats WHERE case_id = ANY($1)`,
				`DELETE FROM mail_starts WHERE case_id = ANY($1)`,
				`DELETE FROM outbox WHERE case_id = ANY($1)`,
			}},
		{Kind: "cases", Table: "case_events", by: "at",
			old: `r.case_id IS NULL AND r.at <= $1`},

		{Kind: "contacts", Table: "links", by: "revoked_at",
			old: `r.revoked_at <= $1 AND ` + noOpenCase + ` AND NOT EXISTS (SELECT FROM clicks c WHERE c.link_id = r.link_id)`},
		{Kind: "contacts", Table: "contacts", by: "removed_at",
			old: `r.removed_at <= $1 AND ` + noOpenCase + ` AND NOT EXISTS (SELECT FROM notices n WHERE n.contact_id = r.contact_id)`},

		{Kind: "removed", Table: "connections", by: "updated_at", key: "connection_id", connections: true,
			old: `r.status = 'removed' AND r.updated_at <= $1 AND ` + noOpenCase + `
  AND NOT EXISTS (SELECT FROM cases k WHERE k.connection_id = r.connection_id AND k.closed_at > $1)
  AND NOT EXISTS (SELECT FROM outbox o WHERE o.connection_id = r.connection_id AND o.delivered_at IS NULL AND o.abandoned_at IS NULL)`},

		{Kind: "operations", Table: "storms", by: "began_at",
			old: `r.ended_at <= $1 AND NOT EXISTS (SELECT FROM cases k WHERE k.storm_id = r.storm_id)`},
		{Kind: "operations", Table: "bulks", by: "created_at",
			old: `r.ended_at <= $1`},
		{Kind: "operations", Table: "mail_changes", by: "version",
			old: `r.at <= $1 AND r.handled_at IS NOT NULL AND r.version < (SELECT max(version) FROM mail_changes)`},

		// Those who call take these away too; where nobody calls any more they stay.
		{Kind: "counters", Table: "finch_calls", by: "at", old: `r.at <= $1`},
		{Kind: "counters", Table: "finch_waits", by: "gone_at", old: `r.gone_at <= $1`},
		{Kind: "counters", Table: "finch_pauses", by: "until", old: `r.until <= $1`},
		{Kind: "counters", Table: "budgets", by: "ends_at", old: `r.ends_at <= $1`},
		{Kind: "counters", Table: "keyset_holders", by: "seen_at", old: `r.seen_at <= $1`},
	}
}

// Old counts the rows that Retire would take, at most as many as there is a
// limit for.
func (d *DB) Old(ctx context.Context, r Retained, cutoff time.Time, limit int) (n int, err error) {
	err = d.read(ctx, "count old rows of "+r.Table, func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &n, `SELECT count(*) FROM (SELECT FROM `+r.Table+` r WHERE `+r.old+` LIMIT $2) AS old`, cutoff, limit)
	})
	return n, err
}

// Retire deletes or blanks the oldest rows that were over at the cutoff, limit at
// most, and says how many it has. It waits for no row: what somebody holds is
// left for the next time. Fewer than limit means that nothing is left.
func (d *DB) Retire(ctx context.Context, r Retained, cutoff time.Time, limit int) (n int, err error) {
	err = d.write(ctx, "delete old rows of "+r.Table, func(ctx context.Context, tx *sqlx.Tx) error {
		if r.key == "" {
			what := `DELETE FROM ` + r.Table
			if r.set != "" {
				what = `UPDATE ` + r.Table + ` SET ` + r.set
			}
			n, err = affected(ctx, tx, what+` WHERE ctid = ANY (ARRAY(
    SELECT r.ctid FROM `+r.Table+` r WHERE `+r.old+` ORDER BY r.`+r.by+` LIMIT $2 FOR UPDATE SKIP LOCKED))`, cutoff, limit)
			return err
		}
		var keys pq.StringArray
		if err := tx.SelectContext(ctx, &keys, `
SELECT r.`+r.key+` FROM `+r.Table+` r WHERE `+r.old+` ORDER BY r.`+r.by+` LIMIT $2 FOR UPDATE SKIP LOCKED`, cutoff, limit); err != nil || len(keys) == 0 {
			return err
		}
		n = len(keys)
		if r.connections {
			_, err := forgetConnections(ctx, tx, keys, true)
			return err
		}
		for _, statement := range append(r.first, `DELETE FROM `+r.Table+` WHERE `+r.key+` = ANY($1)`) {
			if err := exec(ctx, tx, statement, keys); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
