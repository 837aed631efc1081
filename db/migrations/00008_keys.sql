-- +goose Up

-- What is known of each key of the keysets. The keys themselves are never here.
-- kind is what the key does: seal values, or derive the secrets of links.
CREATE TABLE keyset_keys (
    kind            text NOT NULL CONSTRAINT keyset_keys_kind_known CHECK (kind IN ('seal', 'links')),
    key_id          bigint NOT NULL CONSTRAINT keyset_keys_id_range CHECK (key_id BETWEEN 0 AND 4294967295),
    first_seen_at   timestamptz NOT NULL,
    primary_since   timestamptz, -- when a process first said that it uses the key for what is new
    last_primary_at timestamptz, -- when one said so last
    PRIMARY KEY (kind, key_id),
    CONSTRAINT keyset_keys_primary_in_order CHECK (
        (primary_since IS NULL) = (last_primary_at IS NULL) AND last_primary_at >= primary_since)
);

-- The processes that run, and which keys each has. One that ends takes its row
-- away; one that is killed stops saying that it is there.
CREATE TABLE keyset_holders (
    process_id   text PRIMARY KEY CONSTRAINT keyset_holders_id_set CHECK (process_id <> ''),
    name         text NOT NULL DEFAULT '', -- what it is and where, for people
    seal_keys    bigint[] NOT NULL,
    seal_primary bigint NOT NULL,
    link_keys    bigint[] NOT NULL,
    link_primary bigint NOT NULL,
    seen_at      timestamptz NOT NULL
);
CREATE INDEX keyset_holders_seen ON keyset_holders (seen_at);

-- A link that was superseded still leads where it led, but goes into no further
-- message: its recipient's next one gets a link of its own, under a newer key.
ALTER TABLE links ADD COLUMN superseded_at timestamptz;
DROP INDEX links_one_live_per_recipient;
CREATE UNIQUE INDEX links_one_live_per_recipient ON links (connection_id, recipient) WHERE revoked_at IS NULL AND superseded_at IS NULL;

-- An empty application means all of them.
ALTER TABLE api_keys ADD COLUMN application text NOT NULL DEFAULT '';
CREATE INDEX connections_of_application ON connections (application, connection_id);
