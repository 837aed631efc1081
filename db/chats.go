package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// chatAfterEnd is how long after its end a case's message is still brought up
// to date.
const chatAfterEnd = 7 * 24 * time.Hour

// Chat is the message that the operators' chat has, or is to have, about a case.
type Chat struct {
	CaseID string `db:"case_id"`
	// Ref says where the message stands; empty before there is one.
	Ref string `db:"ref"`
	// Events is how many events the case's timeline has; ChatTold takes it back.
	Events int64 `db:"events"`
	// Attempts counts the claims since the message was last brought up to date.
	Attempts int `db:"attempts"`
}

// ClaimChats takes cases whose message is not up to date, and keeps others from
// taking them for the time of the lease. A case has a message once somebody was
// told of it, an operator is needed, or it ended without access; one that a
// storm holds has none. While mail is in shadow no case gets its first message,
// and one that began and ended so never gets any.
func (d *DB) ClaimChats(ctx context.Context, limit int, lease time.Duration) (list []Chat, err error) {
	now := d.now()
	err = d.write(ctx, "claim chat messages", func(ctx context.Context, tx *sqlx.Tx) error {
		return tx.SelectContext(ctx, &list, `
WITH due AS (
    SELECT k.case_id, n.events
      FROM cases k LEFT JOIN chats m USING (case_id)
     CROSS JOIN LATERAL (SELECT count(*) AS events FROM case_events e WHERE e.case_id = k.case_id) n
     WHERE (k.outcome IS NULL OR k.closed_at > $2)
       AND (m.case_id IS NULL OR m.due_at <= $1) AND n.events > coalesce(m.told, 0)
       AND (m.case_id IS NOT NULL OR NOT EXISTS (SELECT FROM mail_control WHERE mode = 'shadow'))
       AND (m.case_id IS NOT NULL OR EXISTS (SELECT FROM notices t WHERE t.case_id = k.case_id AND t.state <> 'shadow')
            OR (k.outcome IN ('expired', 'failed') OR EXISTS (SELECT FROM case_events e WHERE e.case_id = k.case_id AND e.kind = $5))
               AND (k.outcome IS NULL OR NOT EXISTS (SELECT FROM notices t WHERE t.case_id = k.case_id AND t.state = 'shadow')))
     ORDER BY k.opened_at, k.case_id LIMIT $3
), claimed AS (
    INSERT INTO chats AS m (case_id, attempts, due_at) SELECT case_id, 1, $4 FROM due
    ON CONFLICT (case_id) DO UPDATE SET attempts = m.attempts + 1, due_at = $4 WHERE m.due_at <= $1
    RETURNING m.case_id, m.ref, m.attempts
)
SELECT c.case_id, c.ref, c.attempts, due.events FROM claimed c JOIN due USING (case_id) ORDER BY c.case_id`,
			now, now.Add(-chatAfterEnd), page(limit), now.Add(lease), EventOperatorNeeded)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// ChatTold says where a case's message stands now, and how many events of the
// timeline it tells of.
func (d *DB) ChatTold(ctx context.Context, caseID, ref string, events int64) error {
	now := d.now()
	return d.write(ctx, "note a chat message", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE chats SET ref = $2, told = $3, attempts = 0, due_at = $4, last_error = '' WHERE case_id = $1`, caseID, ref, events, now)
	})
}

// ChatFailed says why a case's message could not be brought up to date, where
// it stands as far as anybody knows, and when to try again.
func (d *DB) ChatFailed(ctx context.Context, caseID, ref string, next time.Time, reason string) error {
	return d.write(ctx, "note a failed chat message", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `UPDATE chats SET ref = $2, due_at = $3, last_error = $4 WHERE case_id = $1`, caseID, ref, next, plain(reason))
	})
}
