-- +goose Up

-- A customer's access to one employment system. generation points at the
-- current token; last_generation is the highest ever given out, so that a
-- generation is never used twice, not even after a removal.
CREATE TABLE connections (
    connection_id     text PRIMARY KEY
        CONSTRAINT connections_id_form CHECK (connection_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    provider          text NOT NULL CONSTRAINT connections_provider_set CHECK (provider <> ''),
    application       text NOT NULL CONSTRAINT connections_application_set CHECK (application <> ''),
    customer_id       text NOT NULL DEFAULT '',
    system            text NOT NULL DEFAULT '',
    customer_name     text NOT NULL DEFAULT '',
    campaign          text NOT NULL DEFAULT '',
    products          text[] NOT NULL DEFAULT '{}',
    status            text NOT NULL
        CONSTRAINT connections_status_known CHECK (status IN ('connected', 'stale', 'disconnected', 'removed')),
    generation        bigint,
    last_generation   bigint NOT NULL DEFAULT 0,
    current_state     text GENERATED ALWAYS AS (CASE WHEN generation IS NULL THEN NULL ELSE 'current' END) STORED,
    seen_connected_at timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    CONSTRAINT connections_generation_given CHECK (generation BETWEEN 1 AND last_generation),
    CONSTRAINT connections_removed_holds_no_token CHECK (status <> 'removed' OR generation IS NULL)
);
CREATE INDEX connections_by_status ON connections (status, connection_id);
CREATE INDEX connections_by_system ON connections (provider, system) WHERE status <> 'removed';

-- The people at the customer. The only table that holds e-mail addresses.
CREATE TABLE contacts (
    contact_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    connection_id text NOT NULL REFERENCES connections,
    position      integer NOT NULL,
    email         text NOT NULL,
    email_key     text NOT NULL, -- the address in lower case
    name          text NOT NULL,
    role          text NOT NULL,
    locale        text NOT NULL,
    time_zone     text NOT NULL,
    declined_at   timestamptz, -- said that they are not the right person for this connection
    removed_at    timestamptz,
    -- of a contact that was taken off its connection, so that whoever comes back
    -- is known again: who has heard what, and who wants no mail
    address_hash  bytea CONSTRAINT contacts_hash_length CHECK (octet_length(address_hash) = 32),
    UNIQUE (contact_id, connection_id),
    CONSTRAINT contacts_removed_is_blank CHECK (
        CASE WHEN removed_at IS NULL THEN email <> '' AND email_key <> ''
             ELSE email = '' AND email_key = '' AND name = '' END)
);
CREATE UNIQUE INDEX contacts_one_per_address ON contacts (connection_id, email_key) WHERE removed_at IS NULL;
CREATE INDEX contacts_by_address ON contacts (email_key) WHERE removed_at IS NULL;

-- Addresses that nobody is to write to, whoever's contacts they are. Only a
-- hash of each is here, so that it outlives the contact.
CREATE TABLE unreachable (
    address_hash bytea PRIMARY KEY CONSTRAINT unreachable_hash_length CHECK (octet_length(address_hash) = 32),
    kind         text NOT NULL CONSTRAINT unreachable_kind_known CHECK (kind IN ('bounce', 'complaint', 'opt_out')),
    detail       text NOT NULL DEFAULT '',
    at           timestamptz NOT NULL
);

-- Times at which so many connections of one provider broke together that it
-- is the provider, not the customers. An empty system means all of them.
CREATE TABLE storms (
    storm_id      text PRIMARY KEY CONSTRAINT storms_id_set CHECK (storm_id <> ''),
    provider      text NOT NULL CONSTRAINT storms_provider_set CHECK (provider <> ''),
    system        text NOT NULL DEFAULT '',
    broken        integer NOT NULL CONSTRAINT storms_broken_count CHECK (broken >= 1),
    connections   integer NOT NULL CONSTRAINT storms_connections_count CHECK (connections >= broken),
    began_at      timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL, -- when it is over at the latest
    ended_at      timestamptz,
    ended_how     text NOT NULL DEFAULT '',
    CONSTRAINT storms_ended_how_iff_ended CHECK ((ended_at IS NULL) = (ended_how = ''))
);
CREATE UNIQUE INDEX storms_one_at_a_time ON storms (provider, system) WHERE ended_at IS NULL;
CREATE INDEX storms_newest ON storms (provider, system, began_at DESC);

-- One incident each.
CREATE TABLE cases (
    case_id            text PRIMARY KEY CONSTRAINT cases_id_set CHECK (case_id <> ''),
    connection_id      text NOT NULL REFERENCES connections,
    provider           text NOT NULL CONSTRAINT cases_provider_set CHECK (provider <> ''),
    application        text NOT NULL CONSTRAINT cases_application_set CHECK (application <> ''),
    source             text NOT NULL
        CONSTRAINT cases_source_known CHECK (source IN ('api_error', 'webhook', 'sweep', 'manual', 'consent_expiry', 'link')),
    finch_code         text NOT NULL DEFAULT '',
    reason             text NOT NULL DEFAULT '',
    phase              text NOT NULL
        CONSTRAINT cases_phase_known CHECK (phase IN ('confirming', 'awaiting_customer', 'redeeming', 'verifying', 'blocked', 'closed')),
    outcome            text
        CONSTRAINT cases_outcome_known CHECK (outcome IN ('recovered', 'healed', 'false_alarm', 'expired', 'cancelled', 'failed')),
    close_reason       text NOT NULL DEFAULT '',
    session_id         text NOT NULL DEFAULT '',
    connect_url        text NOT NULL DEFAULT '',
    session_ordinal    integer NOT NULL DEFAULT 0 CONSTRAINT cases_ordinal_counts CHECK (session_ordinal >= 0),
    session_expires_at timestamptz,
    deadline_at        timestamptz,
    campaign           text NOT NULL DEFAULT '',
    next_notice_at     timestamptz,
    next_step          text NOT NULL DEFAULT '',
    next_audience      text NOT NULL DEFAULT '',
    next_channel       text NOT NULL DEFAULT '',
    storm_id           text REFERENCES storms, -- that holds, or held, the first notice
    notices_sent       integer NOT NULL DEFAULT 0 CONSTRAINT cases_notices_count CHECK (notices_sent >= 0),
    last_click_at      timestamptz,
    restored_due_at    timestamptz, -- when to tell the case that the provider called it connected
    generation         bigint NOT NULL DEFAULT 0 CONSTRAINT cases_generation_counts CHECK (generation >= 0),
    last_error         text NOT NULL DEFAULT '',
    opened_at          timestamptz NOT NULL,
    closed_at          timestamptz,
    UNIQUE (case_id, connection_id),
    CONSTRAINT cases_closed_iff_outcome CHECK ((outcome IS NULL) = (closed_at IS NULL) AND (outcome IS NULL) = (phase <> 'closed')),
    CONSTRAINT cases_close_after_open CHECK (closed_at >= opened_at),
    CONSTRAINT cases_closed_plans_nothing CHECK (outcome IS NULL OR next_notice_at IS NULL)
);
CREATE UNIQUE INDEX cases_one_open_per_connection ON cases (connection_id) WHERE outcome IS NULL;
CREATE INDEX cases_newest_of_connection ON cases (connection_id, opened_at DESC, case_id DESC);
CREATE INDEX cases_newest ON cases (opened_at DESC, case_id DESC);
CREATE INDEX cases_closed ON cases (closed_at) WHERE outcome IS NOT NULL;
CREATE INDEX cases_held ON cases (storm_id, case_id) WHERE storm_id IS NOT NULL;
CREATE INDEX cases_restored_due ON cases (restored_due_at) WHERE outcome IS NULL AND restored_due_at IS NOT NULL;

-- The tokens that were adopted, sealed. A token belongs to one connection for
-- good, whatever its generation.
CREATE TABLE tokens (
    connection_id text NOT NULL REFERENCES connections,
    generation    bigint NOT NULL CONSTRAINT tokens_generation_counts CHECK (generation >= 1),
    state         text NOT NULL CONSTRAINT tokens_state_known CHECK (state IN ('current', 'superseded')),
    fingerprint   text NOT NULL CONSTRAINT tokens_fingerprint_form CHECK (fingerprint ~ '^[0-9a-f]{32}$'),
    sealed        bytea NOT NULL CONSTRAINT tokens_sealed_set CHECK (octet_length(sealed) > 0),
    source        text NOT NULL DEFAULT '',
    case_id       text,
    minted_at     timestamptz NOT NULL,
    adopted_at    timestamptz NOT NULL,
    PRIMARY KEY (connection_id, generation),
    UNIQUE (connection_id, generation, state),
    CONSTRAINT tokens_one_row_per_token UNIQUE (fingerprint),
    FOREIGN KEY (case_id, connection_id) REFERENCES cases (case_id, connection_id)
);
CREATE UNIQUE INDEX tokens_one_current_per_connection ON tokens (connection_id) WHERE state = 'current';

ALTER TABLE connections ADD CONSTRAINT connections_generation_is_current
    FOREIGN KEY (connection_id, generation, current_state) REFERENCES tokens (connection_id, generation, state)
    DEFERRABLE INITIALLY DEFERRED;

-- Until when the reports of machines open no case.
CREATE TABLE suppressions (
    connection_id text PRIMARY KEY REFERENCES connections,
    case_id       text NOT NULL,
    outcome       text NOT NULL
        CONSTRAINT suppressions_outcome_known CHECK (outcome IN ('false_alarm', 'expired', 'cancelled', 'failed')),
    began_at      timestamptz NOT NULL,
    until         timestamptz NOT NULL,
    false_alarms  integer NOT NULL DEFAULT 0,
    FOREIGN KEY (case_id, connection_id) REFERENCES cases (case_id, connection_id),
    CONSTRAINT suppressions_end_after_begin CHECK (until >= began_at),
    CONSTRAINT suppressions_false_alarms_counted CHECK ((outcome = 'false_alarm') = (false_alarms > 0))
);

-- The send ledger. recipient is a contact of the same connection, or 'operator'.
CREATE TABLE notices (
    notice_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id         text NOT NULL,
    connection_id   text NOT NULL,
    step            text NOT NULL CONSTRAINT notices_step_set CHECK (step <> ''),
    session_ordinal integer NOT NULL CONSTRAINT notices_ordinal_counts CHECK (session_ordinal >= 0),
    recipient       text NOT NULL,
    contact_id      text GENERATED ALWAYS AS (NULLIF(recipient, 'operator')) STORED,
    channel         text NOT NULL CONSTRAINT notices_channel_known CHECK (channel IN ('mail', 'webhook', 'chat')),
    message_id      text NOT NULL DEFAULT '',
    lead_id         bigint REFERENCES notices, -- the notice in whose mail this one went along
    fixed           boolean NOT NULL DEFAULT false,
    state           text NOT NULL
        CONSTRAINT notices_state_known CHECK (state IN ('sending', 'sent', 'deferred', 'refused', 'unknown')),
    detail          text NOT NULL DEFAULT '',
    attempts        integer NOT NULL DEFAULT 1,
    begun_at        timestamptz NOT NULL,
    ended_at        timestamptz,
    CONSTRAINT notices_sent_once UNIQUE (case_id, step, session_ordinal, recipient, channel),
    FOREIGN KEY (case_id, connection_id) REFERENCES cases (case_id, connection_id),
    FOREIGN KEY (contact_id, connection_id) REFERENCES contacts (contact_id, connection_id),
    CONSTRAINT notices_sending_iff_not_ended CHECK ((state = 'sending') = (ended_at IS NULL))
);
CREATE INDEX notices_of_lead ON notices (lead_id) WHERE lead_id IS NOT NULL;
CREATE INDEX notices_to_contact ON notices (contact_id, begun_at);
CREATE UNIQUE INDEX notices_fixed_once ON notices (case_id, recipient, channel) WHERE fixed;

-- What happened, in order: the timeline of a case.
CREATE TABLE case_events (
    event_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id       text,
    connection_id text NOT NULL REFERENCES connections,
    kind          text NOT NULL CONSTRAINT case_events_kind_set CHECK (kind <> ''),
    detail        text NOT NULL DEFAULT '',
    at            timestamptz NOT NULL,
    FOREIGN KEY (case_id, connection_id) REFERENCES cases (case_id, connection_id)
);
-- A retried activity tells the same thing once.
CREATE UNIQUE INDEX case_events_once ON case_events (case_id, at, kind, md5(detail));
CREATE INDEX case_events_of_connection ON case_events (connection_id, event_id);

-- The one message that the operators' chat has about a case. told counts the
-- events of the timeline that it tells of.
CREATE TABLE chats (
    case_id    text PRIMARY KEY REFERENCES cases,
    ref        text NOT NULL DEFAULT '', -- where it stands in the chat; empty before it does
    told       bigint NOT NULL DEFAULT 0 CONSTRAINT chats_told_counts CHECK (told >= 0),
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    last_error text NOT NULL DEFAULT ''
);

-- The durable links that go into messages. The secret itself is never here.
CREATE TABLE links (
    link_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id text NOT NULL REFERENCES connections,
    recipient     text NOT NULL CONSTRAINT links_recipient_form CHECK (recipient <> '' AND recipient !~ '@'),
    version       integer NOT NULL CONSTRAINT links_version_counts CHECK (version >= 1),
    key_id        bigint NOT NULL CONSTRAINT links_key_id_range CHECK (key_id BETWEEN 0 AND 4294967295),
    hash          bytea NOT NULL UNIQUE CONSTRAINT links_hash_length CHECK (octet_length(hash) = 32),
    created_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    last_case_at  timestamptz,
    UNIQUE (connection_id, recipient, version),
    UNIQUE (link_id, connection_id)
);
CREATE UNIQUE INDEX links_one_live_per_recipient ON links (connection_id, recipient) WHERE revoked_at IS NULL;

-- A click may be recorded a moment before its case is, so case_id is checked
-- against nothing.
CREATE TABLE clicks (
    click_id      text PRIMARY KEY CONSTRAINT clicks_id_set CHECK (click_id <> ''),
    link_id       bigint,
    case_id       text NOT NULL DEFAULT '',
    connection_id text NOT NULL REFERENCES connections,
    embedded      boolean NOT NULL DEFAULT false,
    at            timestamptz NOT NULL,
    FOREIGN KEY (link_id, connection_id) REFERENCES links (link_id, connection_id)
);
CREATE INDEX clicks_of_case ON clicks (case_id, at);
CREATE INDEX clicks_newest ON clicks (at);

-- codes, held_codes, minted and quarantined_tokens refer to nothing on
-- purpose: a code or a token that reached us must find a place whatever else
-- is known or missing.

-- What became of each authorization code. hash is reauth.CodeHash.
CREATE TABLE codes (
    hash          text PRIMARY KEY CONSTRAINT codes_hash_form CHECK (hash ~ '^[0-9a-f]{32}$'),
    connection_id text NOT NULL DEFAULT '',
    case_id       text NOT NULL DEFAULT '',
    state         text NOT NULL CONSTRAINT codes_state_known CHECK (state IN
        ('received', 'minted', 'adopted', 'recovered', 'refused', 'lost', 'wrong_account', 'unusable', 'quarantined')),
    generation    bigint NOT NULL DEFAULT 0 CONSTRAINT codes_generation_counts CHECK (generation >= 0),
    received_at   timestamptz NOT NULL,
    settled_at    timestamptz,
    CONSTRAINT codes_settled_iff_final CHECK ((settled_at IS NULL) = (state IN ('received', 'minted', 'adopted')))
);

-- Codes that wait for Temporal, sealed until they are released.
CREATE TABLE held_codes (
    hash          text PRIMARY KEY CONSTRAINT held_codes_hash_form CHECK (hash ~ '^[0-9a-f]{32}$'),
    connection_id text NOT NULL DEFAULT '',
    case_id       text NOT NULL DEFAULT '',
    sealed        bytea,
    held_at       timestamptz NOT NULL,
    released_at   timestamptz,
    CONSTRAINT held_codes_erased_iff_released CHECK ((sealed IS NULL) = (released_at IS NOT NULL)),
    CONSTRAINT held_codes_sealed_set CHECK (octet_length(sealed) > 0)
);
CREATE INDEX held_codes_waiting ON held_codes (held_at) WHERE sealed IS NOT NULL;

-- Tokens as the exchange returned them, sealed, before they are adopted.
CREATE TABLE minted (
    code_hash     text NOT NULL CONSTRAINT minted_code_hash_form CHECK (code_hash ~ '^[0-9a-f]{32}$'),
    fingerprint   text NOT NULL CONSTRAINT minted_fingerprint_form CHECK (fingerprint ~ '^[0-9a-f]{32}$'),
    connection_id text NOT NULL DEFAULT '',
    sealed        bytea NOT NULL CONSTRAINT minted_sealed_set CHECK (octet_length(sealed) > 0),
    minted_at     timestamptz NOT NULL,
    PRIMARY KEY (code_hash, fingerprint)
);
CREATE INDEX minted_by_fingerprint ON minted (fingerprint);

-- Tokens that must not be used, sealed: the only handles by which the
-- connections they made can be disconnected.
CREATE TABLE quarantined_tokens (
    fingerprint            text PRIMARY KEY CONSTRAINT quarantined_fingerprint_form CHECK (fingerprint ~ '^[0-9a-f]{32}$'),
    connection_id          text NOT NULL DEFAULT '',
    expected_connection_id text NOT NULL DEFAULT '',
    sealed                 bytea NOT NULL CONSTRAINT quarantined_sealed_set CHECK (octet_length(sealed) > 0),
    reason                 text NOT NULL DEFAULT '',
    case_id                text NOT NULL DEFAULT '',
    at                     timestamptz NOT NULL
);

CREATE TABLE api_keys (
    key_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CONSTRAINT api_keys_name_set CHECK (name <> ''),
    hash         bytea NOT NULL UNIQUE CONSTRAINT api_keys_hash_length CHECK (octet_length(hash) = 32),
    scopes       text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE UNIQUE INDEX api_keys_one_live_per_name ON api_keys (name) WHERE revoked_at IS NULL;

-- Webhooks on their way to the backend. payload keeps its exact text, since
-- its signature covers the bytes. recipients are contacts, whose addresses are
-- added when the webhook leaves. Of the events of a case that wait, the earliest
-- alone has its turn: due_at says when; the others have none until it has ended.
CREATE TABLE outbox (
    event_id      text PRIMARY KEY CONSTRAINT outbox_id_set CHECK (event_id <> ''),
    seq           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    type          text NOT NULL CONSTRAINT outbox_type_set CHECK (type <> ''),
    payload       json NOT NULL,
    connection_id text REFERENCES connections,
    case_id       text,
    recipients    text[] NOT NULL DEFAULT '{}' CONSTRAINT outbox_recipients_form CHECK (recipients::text !~ '@'),
    attempts      integer NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL,
    replayed_at   timestamptz,
    due_at        timestamptz,
    delivered_at  timestamptz,
    abandoned_at  timestamptz,
    last_error    text NOT NULL DEFAULT '',
    FOREIGN KEY (case_id, connection_id) REFERENCES cases (case_id, connection_id),
    CONSTRAINT outbox_case_has_connection CHECK (case_id IS NULL OR connection_id IS NOT NULL),
    CONSTRAINT outbox_only_cases_wait_in_line CHECK (due_at IS NOT NULL OR case_id IS NOT NULL),
    CONSTRAINT outbox_one_end CHECK (delivered_at IS NULL OR abandoned_at IS NULL)
);
CREATE INDEX outbox_due ON outbox (due_at, seq) WHERE due_at IS NOT NULL AND delivered_at IS NULL AND abandoned_at IS NULL;
CREATE UNIQUE INDEX outbox_one_turn_per_case ON outbox (case_id) WHERE due_at IS NOT NULL AND delivered_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX outbox_of_case ON outbox (case_id, seq);

-- Provider events that were seen, so that a repeated one changes nothing.
CREATE TABLE webhooks (
    provider    text NOT NULL,
    event_id    text NOT NULL CONSTRAINT webhooks_id_set CHECK (event_id <> ''),
    body_sha256 bytea NOT NULL CONSTRAINT webhooks_hash_length CHECK (octet_length(body_sha256) = 32),
    received_at timestamptz NOT NULL,
    PRIMARY KEY (provider, event_id)
);

-- How often something was done in the window that began at began_at.
CREATE TABLE budgets (
    name     text PRIMARY KEY,
    began_at timestamptz NOT NULL,
    ends_at  timestamptz NOT NULL,
    spent    integer NOT NULL CONSTRAINT budgets_spent_counts CHECK (spent >= 1)
);
CREATE INDEX budgets_over ON budgets (ends_at);

-- +goose StatementBegin
CREATE FUNCTION connections_keep_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_generation < OLD.last_generation OR NEW.generation < OLD.generation THEN
        RAISE EXCEPTION 'a stored generation never goes back' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER connections_keep_generation BEFORE UPDATE OF generation, last_generation ON connections
    FOR EACH ROW EXECUTE FUNCTION connections_keep_generation();

-- The first outcome stands; only a customer who came through while another end
-- was being told has the last word.
-- +goose StatementBegin
CREATE FUNCTION cases_keep_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.outcome IS NOT NULL AND (NEW.outcome IS DISTINCT FROM OLD.outcome OR NEW.closed_at IS DISTINCT FROM OLD.closed_at)
       AND NOT (OLD.outcome NOT IN ('recovered', 'healed') AND NEW.outcome IS NOT DISTINCT FROM 'recovered') THEN
        RAISE EXCEPTION 'the first outcome of a case stands' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER cases_keep_outcome BEFORE UPDATE OF outcome, closed_at ON cases
    FOR EACH ROW EXECUTE FUNCTION cases_keep_outcome();
