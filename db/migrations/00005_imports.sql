-- +goose Up

-- Imports of connections. lines_done says how far an import has come in its
-- content, content_sha256 is that of the content up to there: other content under
-- the same name is told by it.
CREATE TABLE imports (
    import_id      text PRIMARY KEY CONSTRAINT imports_id_form CHECK (import_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    reports        boolean NOT NULL, -- whether connections that turn out to be stale are reported
    lines_done     bigint NOT NULL DEFAULT 0 CONSTRAINT imports_lines_count CHECK (lines_done >= 0),
    content_sha256 bytea NOT NULL DEFAULT '',
    rows_read      bigint NOT NULL DEFAULT 0,
    rows_rejected  bigint NOT NULL DEFAULT 0,
    created        bigint NOT NULL DEFAULT 0, -- connections that were new, or removed before
    updated        bigint NOT NULL DEFAULT 0, -- connections of which something changed
    staged         bigint NOT NULL DEFAULT 0, -- tokens that are asked about
    known          bigint NOT NULL DEFAULT 0, -- tokens that were stored or staged before
    began_at       timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    read_at        timestamptz, -- when it had come to its end
    CONSTRAINT imports_content_iff_begun CHECK (octet_length(content_sha256) = CASE WHEN lines_done = 0 THEN 0 ELSE 32 END)
);
CREATE INDEX imports_newest ON imports (began_at DESC, import_id DESC);

-- Rows of which nothing was stored, and why.
CREATE TABLE import_rejects (
    import_id     text NOT NULL REFERENCES imports,
    line          bigint NOT NULL CONSTRAINT import_rejects_line_counts CHECK (line >= 1),
    connection_id text NOT NULL DEFAULT '',
    problem       text NOT NULL CONSTRAINT import_rejects_problem_set CHECK (problem <> ''),
    PRIMARY KEY (import_id, line)
);

-- Tokens that were handed in by an import and that the provider has not been
-- asked about, sealed; later, what it said. sealed is bound to ("staged",
-- import_id, fingerprint). connection_id is what the row names; where it names
-- none the rest of the row is sealed with the token, until the provider says
-- whose it is. turn is 1 where the connection has a token already: it can wait.
CREATE TABLE staged_tokens (
    fingerprint   text PRIMARY KEY CONSTRAINT staged_fingerprint_form CHECK (fingerprint ~ '^[0-9a-f]{32}$'),
    import_id     text NOT NULL REFERENCES imports,
    line          bigint NOT NULL CONSTRAINT staged_line_counts CHECK (line >= 1),
    connection_id text REFERENCES connections,
    application   text NOT NULL DEFAULT '', -- empty: the connection's own
    sealed        bytea CONSTRAINT staged_sealed_set CHECK (octet_length(sealed) > 0),
    minted_at     timestamptz NOT NULL,
    state         text NOT NULL CONSTRAINT staged_state_known CHECK (state IN ('waiting', 'adopted', 'stale', 'rejected')),
    detail        text NOT NULL DEFAULT '',
    generation    bigint,
    turn          smallint NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    asked_at      timestamptz,
    report_due    boolean NOT NULL DEFAULT false, -- the connection is stale, and nobody has been told
    CONSTRAINT staged_erased_iff_settled CHECK ((sealed IS NULL) = (state IN ('adopted', 'rejected'))),
    CONSTRAINT staged_generation_iff_adopted CHECK ((generation IS NOT NULL) = (state = 'adopted')),
    CONSTRAINT staged_adopted_has_connection CHECK (state <> 'adopted' OR connection_id IS NOT NULL)
);
CREATE INDEX staged_tokens_due ON staged_tokens (turn, due_at, line) WHERE state = 'waiting';
CREATE INDEX staged_tokens_open ON staged_tokens (connection_id, minted_at) WHERE state IN ('waiting', 'stale');
CREATE INDEX staged_tokens_of_connection ON staged_tokens (connection_id);
CREATE INDEX staged_tokens_of_import ON staged_tokens (import_id, state, line);
CREATE INDEX staged_tokens_to_report ON staged_tokens (due_at) WHERE report_due;

-- Whoever comes back to a connection is looked for among those who left it.
CREATE INDEX contacts_by_hash ON contacts (connection_id, address_hash) WHERE removed_at IS NOT NULL;
