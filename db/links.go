package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// linkCaseInterval is how often one link may open a case.
const linkCaseInterval = time.Hour

// Link is a durable URL that went into messages, without its secret.
type Link struct {
	ID           int64      `db:"link_id"`
	ConnectionID string     `db:"connection_id"`
	Recipient    string     `db:"recipient"`
	Version      int        `db:"version"`
	KeyID        uint32     `db:"key_id"`
	CreatedAt    time.Time  `db:"created_at"`
	RevokedAt    *time.Time `db:"revoked_at"`
}

// EnsureLink returns version and key of the live link of a connection's
// recipient, from which its secret is derived again. Where there is none it
// makes the next version, under keyID; hash then gives the hash of its secret
// and must not wait for anything. ErrNotFound when the connection is unknown,
// ErrRemoved when it was removed.
func (d *DB) EnsureLink(ctx context.Context, connectionID, recipient string, keyID uint32, hash func(keyID uint32, version int) ([]byte, error)) (version int, key uint32, err error) {
	var live struct {
		Version int    `db:"version"`
		KeyID   uint32 `db:"key_id"`
	}
	now := d.now()
	err = d.write(ctx, "prepare a link", func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := lockConnection(ctx, tx, connectionID)
		if err != nil {
			return err
		}
		if c.removed() {
			return ErrRemoved
		}
		found, err := first(ctx, tx, &live, `
SELECT version, key_id FROM links WHERE connection_id = $1 AND recipient = $2 AND revoked_at IS NULL AND superseded_at IS NULL`, connectionID, recipient)
		if found || err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &live.Version, `
SELECT coalesce(max(version), 0) + 1 FROM links WHERE connection_id = $1 AND recipient = $2`, connectionID, recipient); err != nil {
			return err
		}
		live.KeyID = keyID
		sum, err := hash(keyID, live.Version)
		if err != nil {
			return err
		}
		return exec(ctx, tx, `
INSERT INTO links (connection_id, recipient, version, key_id, hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			connectionID, recipient, live.Version, int64(keyID), sum, now)
	})
	if err != nil {
		return 0, 0, err
	}
	return live.Version, live.KeyID, nil
}

// LinkByHash returns a link by the SHA-256 of its secret, also one that was
// revoked. ErrNotFound when there is none.
func (d *DB) LinkByHash(ctx context.Context, hash []byte) (l Link, err error) {
	err = d.read(ctx, "find a link", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &l, `
SELECT link_id, connection_id, recipient, version, key_id, created_at, revoked_at FROM links WHERE hash = $1`, hash)
	})
	return l, err
}

// SupersedeLinks sees to it that no live link needs any key but keyID: those
// derived with another still lead where they led, but the next message to their
// recipients gets a link of its own. It looks at limit links at most, leaves alone
// what another transaction holds, and returns how many it changed.
func (d *DB) SupersedeLinks(ctx context.Context, keyID uint32, limit int) (n int, err error) {
	now := d.now()
	err = d.write(ctx, "supersede links", func(ctx context.Context, tx *sqlx.Tx) error {
		n, err = affected(ctx, tx, `
UPDATE links SET superseded_at = $2 WHERE link_id IN (
    SELECT link_id FROM links WHERE revoked_at IS NULL AND superseded_at IS NULL AND key_id <> $1
     ORDER BY link_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED)`, int64(keyID), now, limit)
		return err
	})
	return n, err
}

// LinksByKey counts the links by the key that their next message would need.
func (d *DB) LinksByKey(ctx context.Context) (count map[uint32]int, err error) {
	err = d.read(ctx, "count the links of each key", func(ctx context.Context) error {
		count, err = countByKey(ctx, d.sqlx, `SELECT key_id, count(*) AS n FROM links WHERE revoked_at IS NULL AND superseded_at IS NULL GROUP BY key_id`)
		return err
	})
	return count, err
}

// RevokeLinks revokes the live links of a connection's recipient, or all the
// connection's links when recipient is empty.
func (d *DB) RevokeLinks(ctx context.Context, connectionID, recipient string) error {
	now := d.now()
	return d.write(ctx, "revoke links", func(ctx context.Context, tx *sqlx.Tx) error {
		// The lock keeps EnsureLink from making a link meanwhile.
		if _, err := lockConnection(ctx, tx, connectionID); err != nil {
			return err
		}
		return exec(ctx, tx, `
UPDATE links SET revoked_at = $3 WHERE connection_id = $1 AND ($2 = '' OR recipient = $2) AND revoked_at IS NULL`,
			connectionID, recipient, now)
	})
}

// ClaimLinkCase reports whether a link may open a new case at a time: true at
// most once per link and hour, and never for a revoked link.
func (d *DB) ClaimLinkCase(ctx context.Context, linkID int64, at time.Time) (claimed bool, err error) {
	err = d.write(ctx, "claim a link's case", func(ctx context.Context, tx *sqlx.Tx) error {
		claimed, err = changed(ctx, tx, `
UPDATE links SET last_case_at = $2 WHERE link_id = $1 AND revoked_at IS NULL AND (last_case_at IS NULL OR last_case_at <= $3)`,
			linkID, at, at.Add(-linkCaseInterval))
		return err
	})
	return claimed && err == nil, err
}
