package db_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// lived is a store with two connections: that of old has lived through all there
// is at t0, and so has that of open, whose case never ended.
func lived(t *testing.T) store {
	t.Helper()
	s := newStore(t)
	s.DB = s.WithClock(func() time.Time { return t0 })
	for _, id := range []string{"old", "open"} {
		s.connect(t, id, "anna@"+id+".example", "bob@"+id+".example")
		s.open(t, id, "case-"+id, t0)
		for i, token := range []string{"first", "second"} {
			a := adoption(id, token+" "+id, t0.Add(time.Duration(i)*time.Minute))
			a.CaseID = "case-" + id
			_, err := s.Adopt(s.ctx, a)
			require.NoError(t, err)
		}
		_, _, err := s.EnsureLink(s.ctx, id, s.recipient(t, id), 1, func(keyID uint32, version int) ([]byte, error) {
			return hashOf(fmt.Sprint(id, keyID, version)), nil
		})
		require.NoError(t, err)
		_, _, _, err = s.BeginNotice(s.ctx, notice("case-"+id, "first", s.recipient(t, id)))
		require.NoError(t, err)
		hash := func(what string) string { return reauth.CodeHash(what + id) }
		for _, statement := range []string{
			`INSERT INTO clicks (click_id, link_id, case_id, connection_id, at) SELECT 'click-$ID', link_id, 'case-$ID', '$ID', '$T0' FROM links WHERE connection_id = '$ID'`,
			`INSERT INTO codes (hash, connection_id, case_id, state, received_at, settled_at) VALUES ('` + hash("code") + `', '$ID', 'case-$ID', 'recovered', '$T0', '$T0')`,
			`INSERT INTO held_codes (hash, connection_id, sealed, held_at, released_at) VALUES ('` + hash("code") + `', '$ID', NULL, '$T0', '$T0')`,
			`INSERT INTO minted (code_hash, fingerprint, connection_id, sealed, minted_at) VALUES ('` + hash("code") + `', '` + reauth.Fingerprint("second "+id) + `', '$ID', 'sealed', '$T0')`,
			`INSERT INTO minted (code_hash, fingerprint, connection_id, sealed, minted_at) VALUES ('` + hash("lost") + `', '` + reauth.Fingerprint("nowhere else "+id) + `', '$ID', 'sealed', '$T0')`,
			`INSERT INTO quarantined_tokens (fingerprint, connection_id, expected_connection_id, sealed, at) VALUES ('` + reauth.Fingerprint("foreign "+id) + `', 'foreign', '$ID', 'sealed', '$T0')`,
			`INSERT INTO outbox (event_id, type, payload, connection_id, case_id, created_at, due_at, delivered_at) VALUES ('told-$ID', 'x', '{}', '$ID', 'case-$ID', '$T0', '$T0', '$T0')`,
			`INSERT INTO chats (case_id, due_at) VALUES ('case-$ID', '$T0')`,
			`INSERT INTO mail_starts (case_id, at) VALUES ('case-$ID', '$T0')`,
			`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, connection_id, case_id, state, processed_at) VALUES ('finch', 'done-$ID', sha256('x'), '$T0', '$ID', 'case-$ID', 'done', '$T0')`,
			`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, connection_id, state) VALUES ('finch', 'waits-$ID', sha256('x'), '$T0', '$ID', 'waiting')`,
			`INSERT INTO webhook_lines (provider, connection_id, last_seq, due_at) VALUES ('finch', '$ID', 0, '$T0')`,
			`INSERT INTO imports (import_id, reports, began_at, updated_at, read_at) VALUES ('import-$ID', true, '$T0', '$T0', '$T0')`,
			`INSERT INTO import_rejects (import_id, line, connection_id, problem) VALUES ('import-$ID', 1, '$ID', 'x')`,
			`INSERT INTO staged_tokens (fingerprint, import_id, line, connection_id, minted_at, state, generation, due_at, asked_at) VALUES ('` + reauth.Fingerprint("first "+id) + `', 'import-$ID', 2, '$ID', '$T0', 'adopted', 1, '$T0', '$T0')`,
			`INSERT INTO quarantined_tokens (fingerprint, expected_connection_id, at, ended_at, ended_how) VALUES ('` + reauth.Fingerprint("ended "+id) + `', '$ID', '$T0', '$T0', 'disconnected')`,
			`INSERT INTO entities (connection_id, entity_id, position, name, status, since, seen_at) VALUES ('$ID', 'e-$ID', 0, 'Acme $ID', 'connected', '$T0', '$T0')`,
			`INSERT INTO budgets (name, began_at, ends_at, spent) VALUES ('code:$ID', '$T0', '$T0', 1)`,
			`INSERT INTO case_events (connection_id, kind, at) VALUES ('$ID', 'connection_removed', '$T0')`,
		} {
			_, err := s.raw.Exec(strings.NewReplacer("$ID", id, "$T0", t0.Format(time.RFC3339)).Replace(statement))
			require.NoError(t, err, statement)
		}
	}
	for _, statement := range []string{
		`INSERT INTO storms (storm_id, provider, broken, connections, began_at, ends_at, ended_at, ended_how) VALUES ('s1', 'finch', 1, 1, '$T0', '$T0', '$T0', 'over')`,
		`INSERT INTO bulks (bulk_id, action, every, reason, created_by, created_at, matched, ended_at, ended_how) VALUES ('b1', 'cancel', true, 'x', 'x', '$T0', 0, '$T0', 'x')`,
		`INSERT INTO mail_changes SELECT v, v::text, 'on', 0, 'on', 0, 'x', '', '$T0', '$T0' FROM generate_series(1, 2) v`,
		`INSERT INTO finch_calls (application, endpoint, priority, at) VALUES ('default', 'introspect', 1, '$T0')`,
		`INSERT INTO finch_waits VALUES ('default', 'introspect', 1, 'x', false, '$T0', '$T0')`,
		`INSERT INTO finch_pauses VALUES ('', '', '$T0')`,
		`INSERT INTO keyset_holders VALUES ('p1', '', '{1}', 1, '{1}', 1, '$T0')`,
		`UPDATE notices SET state = 'sent', ended_at = '$T0'`,
	} {
		_, err := s.raw.Exec(strings.ReplaceAll(statement, "$T0", t0.Format(time.RFC3339)))
		require.NoError(t, err, statement)
	}
	s.end(t, "case-old", reauth.OutcomeExpired, t0)
	_, err := s.raw.Exec(`UPDATE suppressions SET until = began_at`)
	require.NoError(t, err)
	return s
}

// retire runs retention at a time, with its defaults, a few rows at a time.
func (s store) retire(t *testing.T, at time.Time) reauth.Deleted {
	t.Helper()
	deleted := reauth.Deleted{}
	for _, kind := range reauth.RetainedKinds() {
		for _, rows := range db.RetainedRows() {
			if rows.Kind != kind.Name || kind.Default == 0 {
				continue
			}
			old, err := s.Old(s.ctx, rows, at.Add(-kind.Default), 1000)
			require.NoError(t, err, rows.Table)
			taken := 0
			for {
				n, err := s.Retire(s.ctx, rows, at.Add(-kind.Default), 1)
				require.NoError(t, err, rows.Table)
				deleted[rows.Table] += n
				if taken += n; n == 0 {
					break
				}
			}
			assert.Equal(t, old, taken, "what a dry run says of %s", rows.Table)
		}
	}
	return deleted
}

// Retention deletes what is over, when its time has come and not before, and
// nothing that an open case needs.
func TestRetention(t *testing.T) {
	s := lived(t)
	require.Equal(t, "nothing", s.retire(t, t0.Add(12*time.Hour)).Words())

	s.retire(t, t0.Add(31*24*time.Hour))
	for from, want := range map[string]int{
		"webhooks WHERE state = 'waiting'": 2, "webhooks": 2, "outbox WHERE event_id LIKE 'told-%'": 0, // delivered
		"clicks": 2, "codes": 2, "cases": 2, "storms": 1, "finch_calls": 0, "budgets": 0, "keyset_holders": 0,
	} {
		assert.Equal(t, want, s.count(t, from), "after a month: %s", from)
	}

	_, err := s.raw.Exec(`UPDATE outbox SET delivered_at = created_at`)
	require.NoError(t, err)
	s.retire(t, t0.Add(500*24*time.Hour))
	for from, want := range map[string]int{
		"cases": 1, "cases WHERE case_id = 'case-open'": 1, "notices": 1, "chats": 1, "mail_starts": 1, "suppressions": 0,
		"clicks": 1, "codes": 1, "held_codes": 0, "storms": 0, "bulks": 0, "mail_changes": 1,
		"tokens":                      4, // the rows stay
		"tokens WHERE sealed IS NULL": 2, "tokens WHERE state = 'current' AND sealed IS NOT NULL": 2,
		"minted": 2, "quarantined_tokens": 2, // the only handles to what they made
		"webhooks WHERE state = 'waiting'": 2, "webhook_lines": 2,
		"imports": 0, "import_rejects": 0, "staged_tokens": 0,
		"connections": 2, "entities": 2, "contacts": 4, "links": 2,
		"case_events WHERE case_id IS NULL": 0,
	} {
		assert.Equal(t, want, s.count(t, from), "after 500 days: %s", from)
	}
	_, current, err := s.TokenByFingerprint(s.ctx, "old", reauth.Fingerprint("first old"))
	require.NoError(t, err)
	assert.False(t, current, "that a report of the old token is late is still known")
	token, err := s.CurrentToken(s.ctx, "old")
	require.NoError(t, err)
	assert.NotEmpty(t, token.Sealed)
	again, err := s.Adopt(s.ctx, adoption("old", "first old", t0))
	require.NoError(t, err)
	assert.True(t, again.Already, "nor is it adopted anew")
}

// People who were taken off, and connections that were removed, go when nothing
// refers to them any more.
func TestRetentionOfWhoIsGone(t *testing.T) {
	s := lived(t)
	_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "old", CustomerName: "Acme", Contacts: []reauth.Contact{{Email: "bob@old.example"}}})
	require.NoError(t, err)
	_, err = s.raw.Exec(`UPDATE outbox SET delivered_at = created_at`)
	require.NoError(t, err)
	s.retire(t, t0.Add(500*24*time.Hour))
	assert.Equal(t, 1, s.count(t, `contacts WHERE connection_id = 'old'`), "Anna had left; Bob stays")
	assert.Equal(t, 0, s.count(t, `links WHERE connection_id = 'old'`))

	_, err = s.RemoveConnection(s.ctx, "old")
	require.NoError(t, err)
	s.retire(t, t0.Add(399*24*time.Hour))
	assert.Equal(t, 1, s.count(t, `connections WHERE connection_id = 'old'`))
	s.retire(t, t0.Add(401*24*time.Hour))
	assert.Equal(t, 0, s.count(t, `connections WHERE connection_id = 'old'`))
	assert.Equal(t, 1, s.count(t, `quarantined_tokens WHERE expected_connection_id = 'old'`), "kept until it is disconnected or forgotten")
	assert.Equal(t, 1, s.count(t, `connections WHERE connection_id = 'open'`))
}

// Every row that retention looks for is found by an index, so that a day with
// nothing to delete costs next to nothing.
func TestRetentionReadsNoWholeTable(t *testing.T) {
	s := newStore(t)
	small := []string{"storms", "bulks", "mail_changes", "imports", "import_rejects", "finch_pauses"} // stay small, or go with others
	for _, rows := range db.RetainedRows() {
		if slices.Contains(small, rows.Table) {
			continue
		}
		var lines []string
		tx, err := s.raw.Beginx()
		require.NoError(t, err)
		_, err = tx.Exec(`SET LOCAL enable_seqscan = off`)
		require.NoError(t, err)
		require.NoError(t, tx.Select(&lines, rows.Explain(), t0))
		require.NoError(t, tx.Rollback())
		assert.NotContains(t, strings.Join(lines, "\n"), "Seq Scan on "+rows.Table+" r", rows.Table)
	}
}

// A new table is either kept small, or said to stay.
func TestEveryTableHasARetention(t *testing.T) {
	s := newStore(t)
	stays := map[string]string{
		"unreachable":      "an opt-out is honoured for ever",
		"api_keys":         "who may call, and could",
		"keyset_keys":      "which keys sealed what",
		"mail_control":     "one row",
		"goose_db_version": "one row for each migration",
		"webhook_lines":    "ends with the events that wait",
		"mail_waits":       "ends with the wait",
	}
	goAlong := []string{"entities", "notices", "chats", "mail_starts", "suppressions"}
	var tables, known []string
	require.NoError(t, s.raw.Select(&tables, `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'`))
	for _, rows := range db.RetainedRows() {
		known = append(known, rows.Table)
	}
	for _, table := range tables {
		_, stay := stays[table]
		assert.True(t, stay || slices.Contains(known, table) || slices.Contains(goAlong, table),
			"%s grows for ever: it belongs into db.RetainedRows, or among those that stay and why", table)
	}
}

// What is stored is written down, for everybody who has to know.
func TestEveryTableIsInThePrivacyPage(t *testing.T) {
	s := newStore(t)
	page, err := os.ReadFile("../docs/privacy.md")
	require.NoError(t, err)
	var tables []string
	require.NoError(t, s.raw.Select(&tables, `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'`))
	for _, table := range tables {
		assert.Contains(t, string(page), "`"+table+"`", "docs/privacy.md says nothing of it")
	}
	for _, kind := range reauth.RetainedKinds() {
		kept := ", kept for good"
		if kind.Default > 0 {
			kept = fmt.Sprintf(" %dd", int(kind.Default.Hours()/24))
		}
		assert.Contains(t, string(page), "`"+kind.Name+"`"+kept, "how long it is kept by default")
	}
}
