-- +goose Up

-- What providers have sent, in order of arrival. Of an event's body only what is
-- acted upon has a column; of an event that nobody here understands the body
-- itself is kept, as far as it fits, without e-mail addresses. body_sha256 is of
-- the body as it came. An event that waits has its turn in webhook_lines.
CREATE SEQUENCE webhooks_arrivals;
ALTER TABLE webhooks
    ADD COLUMN seq           bigint NOT NULL DEFAULT nextval('webhooks_arrivals'),
    ADD COLUMN type          text NOT NULL DEFAULT '',
    ADD COLUMN connection_id text NOT NULL DEFAULT '', -- also one that nobody registered
    ADD COLUMN entity_id     text NOT NULL DEFAULT '',
    ADD COLUMN status        text NOT NULL DEFAULT '',
    ADD COLUMN job_id        text NOT NULL DEFAULT '',
    ADD COLUMN body          text NOT NULL DEFAULT '' CONSTRAINT webhooks_body_bounded CHECK (octet_length(body) <= 2048),
    ADD COLUMN state         text NOT NULL DEFAULT 'done' CONSTRAINT webhooks_state_known CHECK (state IN ('waiting', 'done', 'ignored', 'abandoned')),
    ADD COLUMN result        text NOT NULL DEFAULT '',
    ADD COLUMN case_id       text NOT NULL DEFAULT '', -- the case that was told; it may have no row yet
    ADD COLUMN attempts      integer NOT NULL DEFAULT 0,
    ADD COLUMN last_error    text NOT NULL DEFAULT '',
    ADD COLUMN processed_at  timestamptz;
ALTER SEQUENCE webhooks_arrivals OWNED BY webhooks.seq;

-- What arrived before was acted upon before it was stored.
UPDATE webhooks SET processed_at = received_at;
ALTER TABLE webhooks
    ALTER COLUMN state DROP DEFAULT,
    ADD CONSTRAINT webhooks_processed_iff_over CHECK ((state = 'waiting') = (processed_at IS NULL)),
    ADD CONSTRAINT webhooks_waiting_has_line CHECK (state <> 'waiting' OR connection_id <> '');
CREATE UNIQUE INDEX webhooks_in_order ON webhooks (seq);
CREATE INDEX webhooks_waiting ON webhooks (provider, connection_id, seq) INCLUDE (received_at) WHERE state = 'waiting';
CREATE INDEX webhooks_of_connection ON webhooks (connection_id, seq) WHERE connection_id <> '';
CREATE INDEX webhooks_of_case ON webhooks (case_id, seq) WHERE case_id <> '';

-- The connections of which events wait: one row for each, however many wait.
-- Whoever claims a line moves due_at to the end of the lease and holds it until
-- somebody else claims it: lease is another number each time. last_seq is the
-- newest event's, or 0 if none has come after the one that began the line: it
-- ends only if nothing has arrived that was not seen.
CREATE TABLE webhook_lines (
    provider      text NOT NULL,
    connection_id text NOT NULL CONSTRAINT webhook_lines_connection_set CHECK (connection_id <> ''),
    last_seq      bigint NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL,
    lease         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (provider, connection_id)
);
CREATE INDEX webhook_lines_due ON webhook_lines (due_at);
