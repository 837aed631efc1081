-- +goose Up

-- The bytes of a superseded token go when nobody needs them any more; that it
-- was this connection's, and which generation, is still known by the row.
ALTER TABLE tokens ALTER COLUMN sealed DROP NOT NULL;
ALTER TABLE tokens ADD CONSTRAINT tokens_current_is_sealed CHECK (state <> 'current' OR sealed IS NOT NULL);

-- What is old is found by its age, so that retention reads what it deletes and
-- little else.
CREATE INDEX webhooks_processed ON webhooks (processed_at) WHERE processed_at IS NOT NULL;
CREATE INDEX codes_settled ON codes (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX held_codes_released ON held_codes (released_at) WHERE released_at IS NOT NULL;
CREATE INDEX minted_by_age ON minted (minted_at);
CREATE INDEX tokens_superseded ON tokens (adopted_at) WHERE state = 'superseded' AND sealed IS NOT NULL;
CREATE INDEX quarantined_tokens_ended ON quarantined_tokens (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX outbox_over ON outbox (created_at) WHERE delivered_at IS NOT NULL OR abandoned_at IS NOT NULL;
CREATE INDEX staged_tokens_settled ON staged_tokens (asked_at) WHERE sealed IS NULL;
CREATE INDEX contacts_blanked ON contacts (removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX links_revoked ON links (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX case_events_of_no_case ON case_events (at) WHERE case_id IS NULL;
CREATE INDEX connections_removed ON connections (updated_at) WHERE status = 'removed';

-- What is about a connection is found by it, so that it can be forgotten; and so
-- is what refers to a row that goes.
CREATE INDEX contacts_of_connection ON contacts (connection_id);
CREATE INDEX clicks_of_connection ON clicks (connection_id);
CREATE INDEX clicks_of_link ON clicks (link_id) WHERE link_id IS NOT NULL;
CREATE INDEX outbox_of_connection ON outbox (connection_id) WHERE connection_id IS NOT NULL;
CREATE INDEX codes_of_connection ON codes (connection_id) WHERE connection_id <> '';
CREATE INDEX held_codes_of_connection ON held_codes (connection_id) WHERE connection_id <> '';
CREATE INDEX minted_of_connection ON minted (connection_id) WHERE connection_id <> '';
CREATE INDEX quarantined_tokens_of_connection ON quarantined_tokens (connection_id) WHERE connection_id <> '';
CREATE INDEX quarantined_tokens_expected ON quarantined_tokens (expected_connection_id) WHERE expected_connection_id <> '';
CREATE INDEX import_rejects_of_connection ON import_rejects (connection_id) WHERE connection_id <> '';
CREATE INDEX tokens_of_case ON tokens (case_id) WHERE case_id IS NOT NULL;
CREATE INDEX suppressions_of_case ON suppressions (case_id);
CREATE INDEX contacts_once_by_hash ON contacts (address_hash) WHERE address_hash IS NOT NULL;
