package db_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

// A table whose rows name a connection or a case goes with the connection.
func TestEveryTableIsForgotten(t *testing.T) {
	s := newStore(t)
	var tables []string
	require.NoError(t, s.raw.Select(&tables, `
SELECT DISTINCT table_name FROM information_schema.columns
 WHERE table_schema = 'public' AND (column_name LIKE '%connection_id' OR column_name = 'case_id')`))
	require.NotEmpty(t, tables)
	for _, table := range tables {
		assert.Contains(t, db.TablesOfConnections(), table, "it belongs into db.aboutConnections")
	}
}

func TestForgetConnection(t *testing.T) {
	s := lived(t)
	_, err := s.ForgetConnection(s.ctx, "old")
	require.ErrorIs(t, err, db.ErrConnected, "it has to be removed first")
	_, err = s.RemoveConnection(s.ctx, "old")
	require.NoError(t, err)
	codes, err := s.CodesOf(s.ctx, "old")
	require.NoError(t, err)
	require.Len(t, codes, 2)

	counted, err := s.CountConnection(s.ctx, "old")
	require.NoError(t, err)
	_, err = s.ForgetConnection(db.Within(s.ctx, "another"), "old")
	require.ErrorIs(t, err, db.ErrNotFound)
	gone, err := s.ForgetConnection(s.ctx, "old")
	require.NoError(t, err)
	assert.Equal(t, counted, gone, "what a dry run says")
	for _, table := range []string{"cases", "contacts", "minted", "quarantined_tokens", "outbox", "webhooks", "notices", "chats", "clicks", "links", "codes", "budgets"} {
		assert.Positive(t, gone[table], table)
	}

	rest, err := s.CountConnection(s.ctx, "old")
	require.NoError(t, err)
	assert.Empty(t, rest)
	for _, table := range db.TablesOfConnections() {
		var text string
		require.NoError(t, s.raw.Get(&text, `SELECT coalesce(string_agg(r::text, E'\n'), '') FROM `+table+` r`))
		for _, marker := range []string{"case-old", "old.example", "-old", "code:old"} {
			assert.NotContains(t, text, marker, table)
		}
		if !slices.Contains([]string{"staged_tokens", "suppressions", "mail_waits"}, table) {
			assert.NotEmpty(t, text, "what is another's stays in %s", table)
		}
	}
	gone, err = s.ForgetConnection(s.ctx, "old")
	require.NoError(t, err)
	assert.Empty(t, gone, "once more finds nothing")
}

func TestForgetContact(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com", "bob@example.com")
	s.connect(t, "c2", "ANNA@example.com")
	s.connect(t, "c3", "anna@example.com")
	s.connect(t, "c3", "bob@example.com") // Anna has left it: a hash of her address is kept
	require.Equal(t, 1, s.count(t, "contacts WHERE address_hash IS NOT NULL"))
	s.open(t, "c1", "k1", t0)
	anna := s.recipient(t, "c1")
	_, _, err := s.EnsureLink(s.ctx, "c1", anna, 1, linkHash)
	require.NoError(t, err)
	_, _, err = s.SetUnreachable(s.ctx, "anna@example.com", db.UnreachableOptOut, "")
	require.NoError(t, err)

	found, err := s.CountContact(s.ctx, " Anna@Example.com ")
	require.NoError(t, err)
	assert.Equal(t, db.ForgottenContact{Contacts: 2, Past: 1, Unreachable: db.UnreachableOptOut}, found)
	none, err := s.ForgetContact(db.Within(s.ctx, "another"), "anna@example.com", true)
	require.NoError(t, err)
	assert.Zero(t, none.Contacts)
	forgotten, err := s.ForgetContact(s.ctx, "anna@example.com", false)
	require.NoError(t, err)
	assert.Equal(t, []db.CaseContact{{CaseID: "k1", ConnectionID: "c1", ContactID: anna}}, forgotten.Cases)
	forgotten.Cases = nil
	assert.Equal(t, found, forgotten)

	var text string
	require.NoError(t, s.raw.Get(&text, `SELECT string_agg(p::text, E'\n') FROM contacts p`))
	assert.NotContains(t, text, "nna@")
	assert.Contains(t, text, "bob@example.com")
	assert.Zero(t, s.count(t, "contacts WHERE address_hash IS NOT NULL"))
	assert.Equal(t, 1, s.count(t, "links WHERE revoked_at IS NOT NULL"))
	assert.Equal(t, 1, s.count(t, "case_events WHERE kind = 'contact_forgotten' AND detail = $1", anna))

	// Who registers the address again does not write to it.
	s.connect(t, "c2", "anna@example.com")
	list, err := s.Recipients(s.ctx, "c2")
	require.NoError(t, err)
	assert.Equal(t, db.UnreachableOptOut, list[0].Unreachable)
	_, err = s.ForgetContact(s.ctx, "anna@example.com", true)
	require.NoError(t, err)
	assert.Zero(t, s.count(t, "unreachable"))

	again, err := s.ForgetContact(s.ctx, "anna@example.com", true)
	require.NoError(t, err)
	assert.Equal(t, db.ForgottenContact{}, again)
}
