package db

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// APIKey is a key to the HTTP API, without its secret.
type APIKey struct {
	ID     int64          `db:"key_id"`
	Name   string         `db:"name"`
	Scopes pq.StringArray `db:"scopes"`
	// Application is the only one whose connections the key may see; empty for all.
	Application string     `db:"application"`
	CreatedAt   time.Time  `db:"created_at"`
	ExpiresAt   *time.Time `db:"expires_at"`
	RevokedAt   *time.Time `db:"revoked_at"`
	LastUsedAt  *time.Time `db:"last_used_at"`
}

// Good reports whether the key was not revoked and has not expired.
func (k APIKey) Good(now time.Time) bool {
	return k.RevokedAt == nil && (k.ExpiresAt == nil || k.ExpiresAt.After(now))
}

const keyColumns = `key_id, name, scopes, application, created_at, expires_at, revoked_at, last_used_at`

// EnsureAPIKey makes the key with the SHA-256 hash the one that bears a name,
// with these scopes. A key with another hash that bore the name is revoked: a
// new value of a setting replaces the old. ErrRevoked when this very key was
// revoked before.
func (d *DB) EnsureAPIKey(ctx context.Context, name string, hash []byte, scopes []string) error {
	if scopes == nil {
		scopes = []string{}
	}
	now := d.now()
	return d.write(ctx, "store an API key", func(ctx context.Context, tx *sqlx.Tx) error {
		// Keys are few and seldom stored: one transaction at a time.
		if err := exec(ctx, tx, `LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		var revoked bool
		known, err := first(ctx, tx, &revoked, `SELECT revoked_at IS NOT NULL FROM api_keys WHERE hash = $1`, hash)
		if err != nil {
			return err
		}
		if revoked {
			return ErrRevoked
		}
		if err := exec(ctx, tx, `
UPDATE api_keys SET revoked_at = $3 WHERE name = $1 AND hash <> $2 AND revoked_at IS NULL`, name, hash, now); err != nil {
			return err
		}
		if known {
			return exec(ctx, tx, `UPDATE api_keys SET name = $2, scopes = $3 WHERE hash = $1`, hash, name, pq.Array(scopes))
		}
		return exec(ctx, tx, `
INSERT INTO api_keys (name, hash, scopes, created_at) VALUES ($1, $2, $3, $4)`, name, hash, pq.Array(scopes), now)
	})
}

// CreateAPIKey stores a new key with the SHA-256 of its secret; ID and times but
// ExpiresAt are made here. ErrExists when a key that was not revoked bears the name.
func (d *DB) CreateAPIKey(ctx context.Context, k APIKey, hash []byte) (created APIKey, err error) {
	if k.Scopes == nil {
		k.Scopes = pq.StringArray{}
	}
	now := d.now()
	err = d.write(ctx, "store an API key", func(ctx context.Context, tx *sqlx.Tx) error {
		made, err := first(ctx, tx, &created, `
INSERT INTO api_keys (name, hash, scopes, application, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING `+keyColumns,
			k.Name, hash, k.Scopes, k.Application, now, k.ExpiresAt)
		if err == nil && !made {
			return ErrExists
		}
		return err
	})
	return created, err
}

// APIKeyByName returns the key that bears a name and was not revoked. ErrNotFound
// when there is none.
func (d *DB) APIKeyByName(ctx context.Context, name string) (k APIKey, err error) {
	err = d.read(ctx, "find an API key", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &k, `SELECT `+keyColumns+` FROM api_keys WHERE name = $1 AND revoked_at IS NULL`, name)
	})
	return k, err
}

// APIKeyByHash returns a key by the SHA-256 of its secret, also one that is
// revoked or expired. ErrNotFound when there is none.
func (d *DB) APIKeyByHash(ctx context.Context, hash []byte) (k APIKey, err error) {
	err = d.read(ctx, "find an API key", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &k, `SELECT `+keyColumns+` FROM api_keys WHERE hash = $1`, hash)
	})
	return k, err
}

// APIKeys lists every key, the newest first.
func (d *DB) APIKeys(ctx context.Context) (list []APIKey, err error) {
	err = d.read(ctx, "list the API keys", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `SELECT `+keyColumns+` FROM api_keys ORDER BY key_id DESC`)
	})
	return list, err
}

// RevokeAPIKey revokes a key for good; one that is revoked stays so. ErrNotFound
// when there is none.
func (d *DB) RevokeAPIKey(ctx context.Context, id int64) error {
	now := d.now()
	return d.write(ctx, "revoke an API key", func(ctx context.Context, tx *sqlx.Tx) error {
		found, err := changed(ctx, tx, `UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE key_id = $1`, id, now)
		if err == nil && !found {
			return ErrNotFound
		}
		return err
	})
}

// TouchAPIKey notes that a key was used, to the minute, so that a busy key is
// not written with every request.
func (d *DB) TouchAPIKey(ctx context.Context, id int64, at time.Time) error {
	return d.write(ctx, "note the use of an API key", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `
UPDATE api_keys SET last_used_at = $2 WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $3)`,
			id, at, at.Add(-time.Minute))
	})
}
