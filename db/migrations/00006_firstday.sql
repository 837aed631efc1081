-- +goose Up

-- Whether mail goes out, and how fast new customers hear. One row; without it
-- mail is on. Whoever permits a notice holds the lock of its name for shared
-- until the permission is committed, and whoever changes the row holds it alone.
CREATE TABLE mail_control (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT mail_control_one_row CHECK (only_row),
    version  bigint NOT NULL CONSTRAINT mail_control_version_counts CHECK (version >= 1),
    mode     text NOT NULL CONSTRAINT mail_control_mode_known CHECK (mode IN ('on', 'shadow', 'stopped')),
    ramp     integer NOT NULL CONSTRAINT mail_control_ramp_counts CHECK (ramp >= 0) -- new customers an hour; 0: all of them
);

-- Every change of it. handled_at: the cases that waited for it were told.
CREATE TABLE mail_changes (
    version    bigint PRIMARY KEY,
    change_id  text NOT NULL UNIQUE CONSTRAINT mail_changes_id_set CHECK (change_id <> ''), -- several databases may share one Temporal
    mode       text NOT NULL CONSTRAINT mail_changes_mode_known CHECK (mode IN ('on', 'shadow', 'stopped')),
    ramp       integer NOT NULL,
    was_mode   text NOT NULL CONSTRAINT mail_changes_was_mode_known CHECK (was_mode IN ('on', 'shadow', 'stopped')),
    was_ramp   integer NOT NULL,
    changed_by text NOT NULL CONSTRAINT mail_changes_by_set CHECK (changed_by <> ''),
    reason     text NOT NULL DEFAULT '',
    at         timestamptz NOT NULL,
    handled_at timestamptz
);
CREATE INDEX mail_changes_unhandled ON mail_changes (version) WHERE handled_at IS NULL;

-- Cases that wait: for mail to be switched on again (stopped), for their turn
-- (ramp, at slot_at; without one a change has taken it), or, though closed, for
-- their fixed notes to be sent (fixed). version is the control's at which they
-- began to wait. seq is their order.
CREATE TABLE mail_waits (
    case_id text NOT NULL REFERENCES cases,
    why     text NOT NULL CONSTRAINT mail_waits_why_known CHECK (why IN ('stopped', 'ramp', 'fixed')),
    seq     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    version bigint NOT NULL,
    slot_at timestamptz,
    since   timestamptz NOT NULL,
    PRIMARY KEY (case_id, why),
    CONSTRAINT mail_waits_slot_of_ramp CHECK (slot_at IS NULL OR why = 'ramp')
);
CREATE INDEX mail_waits_slots ON mail_waits (slot_at) WHERE why = 'ramp';

-- When the ramp let a case tell its first customer.
CREATE TABLE mail_starts (
    case_id text PRIMARY KEY REFERENCES cases,
    at      timestamptz NOT NULL
);
CREATE INDEX mail_starts_at ON mail_starts (at);

-- When an operator let the case's notices go: neither a storm nor the ramp holds
-- them any more.
ALTER TABLE cases ADD COLUMN released_at timestamptz;

-- shadow: it would have been sent, if mail had been on.
ALTER TABLE notices DROP CONSTRAINT notices_state_known;
ALTER TABLE notices ADD CONSTRAINT notices_state_known
    CHECK (state IN ('sending', 'sent', 'deferred', 'refused', 'unknown', 'shadow'));
CREATE INDEX notices_under_way ON notices (begun_at) WHERE state = 'sending';

-- What was asked of many cases at once: of those that were open at created_at
-- and fit. An empty column of the filter fits every case. after_case is the last
-- case that was told.
CREATE TABLE bulks (
    bulk_id     text PRIMARY KEY CONSTRAINT bulks_id_set CHECK (bulk_id <> ''),
    action      text NOT NULL CONSTRAINT bulks_action_known CHECK (action IN ('cancel', 'snooze', 'stop', 'release')),
    provider    text NOT NULL DEFAULT '',
    application text NOT NULL DEFAULT '',
    system      text NOT NULL DEFAULT '',
    phase       text NOT NULL DEFAULT '',
    every       boolean NOT NULL DEFAULT false, -- every open case was asked for
    reason      text NOT NULL CONSTRAINT bulks_reason_set CHECK (reason <> ''),
    until       timestamptz,
    created_by  text NOT NULL CONSTRAINT bulks_by_set CHECK (created_by <> ''),
    created_at  timestamptz NOT NULL,
    matched     integer NOT NULL CONSTRAINT bulks_matched_counts CHECK (matched >= 0),
    told        integer NOT NULL DEFAULT 0,
    gone        integer NOT NULL DEFAULT 0, -- had ended before they were told
    after_case  text NOT NULL DEFAULT '',
    started_at  timestamptz,
    ended_at    timestamptz,
    ended_how   text NOT NULL DEFAULT '',
    CONSTRAINT bulks_filter_given CHECK (every = (provider = '' AND application = '' AND system = '' AND phase = '')),
    CONSTRAINT bulks_until_iff_snooze CHECK ((until IS NOT NULL) = (action = 'snooze')),
    CONSTRAINT bulks_ended_how_iff_ended CHECK ((ended_at IS NULL) = (ended_how = ''))
);
CREATE INDEX bulks_newest ON bulks (created_at DESC, bulk_id);
CREATE INDEX bulks_unstarted ON bulks (created_at) WHERE started_at IS NULL AND ended_at IS NULL;
