package db

import (
	"context"
	"crypto/sha256"

	"github.com/jmoiron/sqlx"
)

// RememberWebhook notes that a provider's event arrived, and reports whether it
// is fresh. Of its body only the SHA-256 is kept. An event is best remembered
// after it was acted upon: what the provider sends again, because we died in
// between, is then acted upon again and not lost.
func (d *DB) RememberWebhook(ctx context.Context, provider, eventID string, body []byte) (fresh bool, err error) {
	now := d.now()
	sum := sha256.Sum256(body)
	err = d.write(ctx, "remember a webhook", func(ctx context.Context, tx *sqlx.Tx) error {
		fresh, err = changed(ctx, tx, `
INSERT INTO webhooks (provider, event_id, body_sha256, received_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			provider, eventID, sum[:], now)
		return err
	})
	return fresh && err == nil, err
}

// WebhookSeen reports whether a provider's event was remembered.
func (d *DB) WebhookSeen(ctx context.Context, provider, eventID string) (seen bool, err error) {
	err = d.read(ctx, "look for a webhook", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &seen, `
SELECT EXISTS (SELECT FROM webhooks WHERE provider = $1 AND event_id = $2)`, provider, eventID)
	})
	return seen, err
}
