-- +goose Up

-- The companies of a connection that has several, as the provider named them
-- last. Those that are gone stay, so that people see what became of them.
CREATE TABLE entities (
    connection_id text NOT NULL REFERENCES connections,
    entity_id     text NOT NULL CONSTRAINT entities_id_set CHECK (entity_id <> ''),
    position      integer NOT NULL,
    name          text NOT NULL,
    status        text NOT NULL CONSTRAINT entities_status_set CHECK (status <> ''), -- the provider's own word
    since         timestamptz NOT NULL, -- when it was first seen in this status
    seen_at       timestamptz NOT NULL,
    told_at       timestamptz, -- when the operator was told that it is gone
    PRIMARY KEY (connection_id, entity_id),
    CONSTRAINT entities_since_before_seen CHECK (since <= seen_at),
    CONSTRAINT entities_told_of_gone_ones CHECK (told_at IS NULL OR status = 'disconnected')
);

-- When a removed connection was disconnected at the provider as well.
ALTER TABLE connections ADD COLUMN disconnected_at timestamptz,
    ADD CONSTRAINT connections_disconnected_is_removed CHECK (disconnected_at IS NULL OR status = 'removed');

-- A token in quarantine is erased once its connection was disconnected, or an
-- operator has said to forget it; what became of it stays.
ALTER TABLE quarantined_tokens
    ALTER COLUMN sealed DROP NOT NULL,
    ADD COLUMN application text NOT NULL DEFAULT '',
    ADD COLUMN ended_at timestamptz,
    ADD COLUMN ended_how text NOT NULL DEFAULT ''
        CONSTRAINT quarantined_end_known CHECK (ended_how IN ('', 'disconnected', 'gone', 'forgotten')),
    ADD COLUMN finch_code text NOT NULL DEFAULT '',
    ADD CONSTRAINT quarantined_erased_iff_ended CHECK ((sealed IS NULL) = (ended_at IS NOT NULL)),
    ADD CONSTRAINT quarantined_ended_somehow CHECK ((ended_at IS NULL) = (ended_how = ''));
CREATE INDEX quarantined_newest ON quarantined_tokens (at DESC, fingerprint DESC);

-- The applications whose secrets sign a provider's event: it counts for their
-- connections. Empty where that was not put on record.
ALTER TABLE webhooks ADD COLUMN applications text[] NOT NULL DEFAULT '{}';
