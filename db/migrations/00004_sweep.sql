-- +goose Up

-- Finch's limit, over all processes. The calls of the last minutes, each
-- counted before it goes out.
CREATE TABLE finch_calls (
    call_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application text NOT NULL CONSTRAINT finch_calls_application_set CHECK (application <> ''),
    endpoint    text NOT NULL CONSTRAINT finch_calls_endpoint_set CHECK (endpoint <> ''),
    priority    smallint NOT NULL CONSTRAINT finch_calls_priority_known CHECK (priority BETWEEN 0 AND 4),
    at          timestamptz NOT NULL
);
CREATE INDEX finch_calls_of_endpoint ON finch_calls (application, endpoint, at);
CREATE INDEX finch_calls_by_age ON finch_calls (at);

-- Who waits for room to call, in the order of priority and since. Whoever does
-- not ask again before gone_at (it was killed, say) waits no longer.
CREATE TABLE finch_waits (
    application text NOT NULL,
    endpoint    text NOT NULL,
    priority    smallint NOT NULL CONSTRAINT finch_waits_priority_known CHECK (priority BETWEEN 0 AND 4),
    waiter      text NOT NULL CONSTRAINT finch_waits_waiter_form CHECK (waiter ~ '^[A-Za-z0-9]{1,64}$'), -- a fingerprint, or at random
    by_ip       boolean NOT NULL, -- waits for room in the limit of all endpoints
    since       timestamptz NOT NULL,
    gone_at     timestamptz NOT NULL,
    PRIMARY KEY (application, endpoint, priority, waiter),
    CONSTRAINT finch_waits_gone_after_since CHECK (gone_at >= since)
);
CREATE INDEX finch_waits_gone ON finch_waits (gone_at);

-- Until when nothing is called, since Finch refused a call for its limit. The
-- row with empty names stops everything.
CREATE TABLE finch_pauses (
    application text NOT NULL,
    endpoint    text NOT NULL,
    until       timestamptz NOT NULL,
    PRIMARY KEY (application, endpoint),
    CONSTRAINT finch_pauses_of_one_or_all CHECK ((application = '') = (endpoint = ''))
);

-- When the provider was last heard of each connection, and until when nobody
-- else is to check it: because a check is under way, or has just failed.
ALTER TABLE connections ADD COLUMN checked_at timestamptz, ADD COLUMN checking_until timestamptz;
UPDATE connections SET checked_at = seen_connected_at;
CREATE INDEX connections_to_check ON connections (application, checked_at NULLS FIRST, connection_id)
    WHERE generation IS NOT NULL AND status IN ('connected', 'stale');
