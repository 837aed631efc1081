package db

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// Kinds of the events about entities.
const (
	// EventEntities says which entities want a new login.
	EventEntities = "entities"
	// EventEntityGone: an entity is not part of the connection any more.
	EventEntityGone = "entity_gone"
)

const selectEntities = `
SELECT entity_id, name, status, since, seen_at FROM entities WHERE connection_id = $1`

type entityRow struct {
	EntityID string    `db:"entity_id"`
	Name     string    `db:"name"`
	Status   string    `db:"status"`
	Since    time.Time `db:"since"`
	SeenAt   time.Time `db:"seen_at"`
}

func entitiesOf(rows []entityRow) reauth.Entities {
	var list reauth.Entities
	for _, row := range rows {
		list = append(list, reauth.Entity(row))
	}
	return list
}

// SeeEntities puts on record what the provider said of a connection's entities
// at a time: all of them, so that one which it names no more is gone. What it
// has said later stands. Where that changes which entities want a login, the
// timeline of the open case tells, and of each that is gone it tells once. No
// entities at all say nothing. Of a removed connection nothing is kept.
func (d *DB) SeeEntities(ctx context.Context, connectionID string, seen reauth.Entities, at time.Time) error {
	if len(seen) == 0 {
		return nil
	}
	var ids, names, statuses []string
	for _, e := range seen {
		if e.EntityID != "" && e.Status != "" && !slices.Contains(ids, e.EntityID) {
			ids, names, statuses = append(ids, e.EntityID), append(names, plain(e.Name)), append(statuses, e.Status)
		}
	}
	return d.entities(ctx, "store a connection's entities", connectionID, at, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
INSERT INTO entities (connection_id, entity_id, name, status, position, since, seen_at)
SELECT $1, e.id, e.name, e.status, e.position, $5, $5 FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS e (id, name, status, position)
ON CONFLICT (connection_id, entity_id) DO UPDATE
   SET name = excluded.name, status = excluded.status, position = excluded.position, seen_at = excluded.seen_at,
       since = CASE WHEN entities.status = excluded.status THEN entities.since ELSE excluded.since END,
       told_at = CASE WHEN excluded.status = 'disconnected' THEN entities.told_at END
 WHERE entities.seen_at <= excluded.seen_at`, connectionID, pq.Array(ids), pq.Array(names), pq.Array(statuses), at); err != nil {
			return err
		}
		return exec(ctx, tx, `
UPDATE entities SET status = 'disconnected', since = $3, seen_at = $3
 WHERE connection_id = $1 AND NOT entity_id = ANY ($2) AND status <> 'disconnected' AND seen_at <= $3`, connectionID, pq.Array(ids), at)
	})
}

// SetEntityStatus puts on record what the provider said of one entity, or of all
// that are not gone where entityID is empty. Entities that are not known stay so.
func (d *DB) SetEntityStatus(ctx context.Context, connectionID, entityID, status string, at time.Time) error {
	return d.entities(ctx, "store the status of an entity", connectionID, at, func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE entities
   SET status = $3, since = CASE WHEN status = $3 THEN since ELSE $4 END, seen_at = $4, told_at = CASE WHEN $3 = 'disconnected' THEN told_at END
 WHERE connection_id = $1 AND (entity_id = $2 OR $2 = '' AND status <> 'disconnected') AND seen_at <= $4`, connectionID, entityID, status, at)
	})
}

// entities changes the entities of a connection, and tells of it.
func (d *DB) entities(ctx context.Context, doing, connectionID string, at time.Time, change func(context.Context, *sqlx.Tx) error) error {
	return d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, connectionID)
		if err != nil || c.removed() {
			return err
		}
		var before, after []entityRow
		if err := tx.SelectContext(ctx, &before, selectEntities+` ORDER BY position`, connectionID); err != nil {
			return err
		}
		if err := change(ctx, tx); err != nil {
			return err
		}
		if err := tx.SelectContext(ctx, &after, selectEntities+` ORDER BY position`, connectionID); err != nil {
			return err
		}
		return tellOfEntities(ctx, tx, connectionID, entitiesOf(before), entitiesOf(after), at)
	})
}

// tellOfEntities adds the lines about entities that have changed.
func tellOfEntities(ctx context.Context, tx *sqlx.Tx, connectionID string, before, after reauth.Entities, at time.Time) error {
	var open struct {
		CaseID string `db:"case_id"`
		Told   bool   `db:"told"`
	}
	if _, err := first(ctx, tx, &open, `
SELECT k.case_id, EXISTS (SELECT FROM case_events e WHERE e.case_id = k.case_id AND e.kind = $2) AS told
  FROM cases k WHERE k.connection_id = $1 AND k.outcome IS NULL`, connectionID, EventEntities); err != nil {
		return err
	}
	line := func(kind, detail string) error {
		return addEvent(ctx, tx, Event{CaseID: open.CaseID, ConnectionID: connectionID, Kind: kind, Detail: detail, At: at})
	}
	for _, e := range after {
		known := slices.ContainsFunc(before, func(b reauth.Entity) bool { return b.EntityID == e.EntityID && b.Gone() })
		if e.Gone() && !known {
			if err := line(EventEntityGone, fmt.Sprintf("%s is not part of the connection any more.", e.Called())); err != nil {
				return err
			}
		}
	}
	if open.CaseID == "" || after.Count().Total < 2 {
		return nil
	}
	if is := after.Stale(); len(is) > 0 && !open.Told || open.Told && !slices.Equal(before.Stale(), is) {
		return line(EventEntities, wanting(after))
	}
	return nil
}

// wanting says which entities want a new login.
func wanting(all reauth.Entities) string {
	const most = 20
	stale, total := all.Stale(), all.Count().Total
	if len(stale) == 0 {
		return fmt.Sprintf("None of %d entities wants a new login any more.", total)
	}
	names := strings.Join(stale[:min(len(stale), most)], ", ")
	if len(stale) > most {
		names += fmt.Sprintf(" and %d more", len(stale)-most)
	}
	verb := "want"
	if len(stale) == 1 {
		verb = "wants"
	}
	return fmt.Sprintf("%d of %d entities %s a new login: %s.", len(stale), total, verb, names)
}

// UntoldGone lists the entities of a connection that are gone, and of which the
// operator has not been told.
func (d *DB) UntoldGone(ctx context.Context, connectionID string) (reauth.Entities, error) {
	var rows []entityRow
	err := d.read(ctx, "read a connection's entities", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &rows, selectEntities+` AND status = 'disconnected' AND told_at IS NULL ORDER BY position`, connectionID)
	})
	return entitiesOf(rows), err
}

// ToldGone puts on record that the operator was told of entities that are gone.
func (d *DB) ToldGone(ctx context.Context, connectionID string, gone reauth.Entities, at time.Time) error {
	ids := make([]string, len(gone))
	for i, e := range gone {
		ids[i] = e.EntityID
	}
	return d.write(ctx, "note that the operator knows of an entity", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE entities SET told_at = $3 WHERE connection_id = $1 AND entity_id = ANY ($2) AND status = 'disconnected'`, connectionID, pq.Array(ids), at)
	})
}
