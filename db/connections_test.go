package db_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestConnectionIsStoredWhole(t *testing.T) {
	s := newStore(t)
	now := t0
	s.SetNow(func() time.Time { return now })
	in := reauth.Connection{
		ConnectionID: "c1", Provider: "atto", Application: "sandbox", CustomerID: "7", CustomerName: `Acme "Ünïted"`,
		Contacts: []reauth.Contact{
			{Email: " Anna@Example.com ", Name: "Anna", Role: "admin", Locale: "de", TimeZone: "Europe/Berlin"},
			{Email: "bob@example.com"},
			{Email: "ANNA@example.com", Name: "Anna again"},
		},
		Products: []string{"company", `odd "product", {}`},
	}
	created, err := s.PutConnection(s.ctx, in)
	require.NoError(t, err)
	assert.True(t, created)

	want := in
	want.Contacts = []reauth.Contact{
		{Email: "Anna@Example.com", Name: "Anna", Role: "admin", Locale: "de", TimeZone: "Europe/Berlin"},
		{Email: "bob@example.com"},
	}
	want.Status, want.CreatedAt, want.UpdatedAt = reauth.StatusConnected, t0, t0
	got, err := s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	for i := range want.Contacts {
		want.Contacts[i].ContactID = s.contacts(t, "c1")[i]
	}
	assert.Equal(t, want, got)
	assert.Equal(t, time.UTC, got.CreatedAt.Location())

	now = t0.Add(time.Hour)
	created, err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1"})
	require.NoError(t, err)
	assert.False(t, created)
	got, err = s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, reauth.Connection{
		ConnectionID: "c1", Provider: "finch", Application: "default", Contacts: []reauth.Contact{}, Products: []string{},
		Status: reauth.StatusConnected, CreatedAt: t0, UpdatedAt: now,
	}, got, "everything is replaced")

	_, err = s.Connection(s.ctx, "c2")
	require.ErrorIs(t, err, db.ErrNotFound)
	assert.EqualError(t, err, "read a connection: not found")
}

func TestPutKeepsStatusAndGeneration(t *testing.T) {
	s := newStore(t)
	_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1", Status: reauth.StatusStale})
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusStale, s.status(t, "c1"), "a new one is what the caller says")
	_, err = s.Adopt(s.ctx, adoption("c1", "token", t0))
	require.NoError(t, err)

	_, err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1", Status: reauth.StatusConnected, Generation: 9})
	require.NoError(t, err)
	c, err := s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusStale, c.Status)
	assert.Equal(t, int64(1), c.Generation)
}

func TestContactsAreReplaced(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com", "bob@example.com")
	s.connect(t, "c2", "bob@example.com")
	before, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	anna, bob := before[0].ContactID, before[1].ContactID
	for _, id := range []string{anna, bob} {
		_, _, err := s.EnsureLink(s.ctx, "c1", id, 1, func(uint32, int) ([]byte, error) { return hashOf(id), nil })
		require.NoError(t, err)
	}

	_, err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1", Contacts: []reauth.Contact{
		{Email: "carol@example.com", Name: "Carol"}, {Email: "ANNA@example.com", Name: "Anna B.", Locale: "fr"},
	}})
	require.NoError(t, err)
	after, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	require.Len(t, after, 2)
	assert.Equal(t, "Carol", after[0].Name)
	assert.Equal(t, db.Recipient{ContactID: anna, Email: "ANNA@example.com", Name: "Anna B.", Locale: "fr"}, after[1],
		"the same address is the same contact")
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", after, after, after), "@")

	// Bob's row stays, since the ledger may refer to it, but not his address.
	var row struct {
		Email, Name string
		Key         string     `db:"email_key"`
		RemovedAt   *time.Time `db:"removed_at"`
	}
	require.NoError(t, s.raw.Get(&row, `SELECT email, name, email_key, removed_at FROM contacts WHERE contact_id = $1`, bob))
	assert.Empty(t, row.Email+row.Name+row.Key)
	assert.NotNil(t, row.RemovedAt)
	link, err := s.LinkByHash(s.ctx, hashOf(bob))
	require.NoError(t, err)
	assert.NotNil(t, link.RevokedAt, "his link is revoked")
	link, err = s.LinkByHash(s.ctx, hashOf(anna))
	require.NoError(t, err)
	assert.Nil(t, link.RevokedAt)
	others, err := s.Recipients(s.ctx, "c2")
	require.NoError(t, err)
	assert.Len(t, others, 1, "another connection's contacts stay")

	s.connect(t, "c1", "bob@example.com")
	assert.Equal(t, bob, s.recipient(t, "c1"), "who comes back is known again")

	none, err := s.Recipients(s.ctx, "unknown")
	require.NoError(t, err)
	assert.Empty(t, none)
}

func TestPutConnectionAtOnce(t *testing.T) {
	s := newStore(t)
	created := make([]bool, 20)
	together(len(created), func(i int) {
		var err error
		created[i], err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1", Contacts: []reauth.Contact{
			{Email: "anna@example.com"}, {Email: fmt.Sprintf("%d@example.com", i%3)},
		}})
		assert.NoError(t, err)
	})
	first := 0
	for _, c := range created {
		if c {
			first++
		}
	}
	assert.Equal(t, 1, first)
	assert.Equal(t, 1, s.count(t, "contacts WHERE email_key = 'anna@example.com'"))
	assert.Equal(t, 2, s.count(t, "contacts WHERE removed_at IS NULL"))
}

func TestRemoveConnection(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.connect(t, "c2", "anna@example.com")
	for _, id := range []string{"c1", "c2"} {
		for i, token := range []string{"old", "new"} {
			_, err := s.Adopt(s.ctx, adoption(id, id+token, t0.Add(time.Duration(i)*time.Hour)))
			require.NoError(t, err)
			require.NoError(t, s.PutMinted(s.ctx, reauth.CodeHash(id+token), id, reauth.Fingerprint(id+token), []byte("sealed"), t0))
		}
		require.NoError(t, s.PutMinted(s.ctx, reauth.CodeHash(id+"on its way"), id, reauth.Fingerprint(id+"on its way"), []byte("sealed"), t0))
		_, _, err := s.EnsureLink(s.ctx, id, "operator", 1, func(uint32, int) ([]byte, error) { return hashOf(id), nil })
		require.NoError(t, err)
		s.open(t, id, "closed-"+id, t0)
		s.end(t, "closed-"+id, reauth.OutcomeExpired, t0)
	}
	s.open(t, "c1", "k1", t0.Add(time.Hour))

	removed, err := s.RemoveConnection(s.ctx, "c1")
	require.NoError(t, err)
	assert.True(t, removed)
	removed, err = s.RemoveConnection(s.ctx, "c1")
	require.NoError(t, err)
	assert.False(t, removed)
	_, err = s.RemoveConnection(s.ctx, "c3")
	require.ErrorIs(t, err, db.ErrNotFound)

	c, err := s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusRemoved, c.Status)
	assert.Empty(t, c.Contacts)
	assert.Zero(t, c.Generation)
	assert.Zero(t, s.count(t, "tokens WHERE connection_id = 'c1'"))
	assert.Zero(t, s.count(t, "contacts WHERE connection_id = 'c1' AND email <> ''"))
	assert.Zero(t, s.count(t, "suppressions WHERE connection_id = 'c1'"))
	link, err := s.LinkByHash(s.ctx, hashOf("c1"))
	require.NoError(t, err)
	assert.NotNil(t, link.RevokedAt)
	_, err = s.Minted(s.ctx, reauth.CodeHash("c1new"))
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.Minted(s.ctx, reauth.CodeHash("c1on its way"))
	require.NoError(t, err, "what is not adopted yet is never lost")

	// Nothing new begins on it, and what is open can end.
	_, err = s.Adopt(s.ctx, adoption("c1", "late", t0))
	require.ErrorIs(t, err, db.ErrRemoved)
	_, err = s.OpenCase(s.ctx, db.Case{CaseID: "k2", ConnectionID: "c1", Source: reauth.SourceManual, OpenedAt: t0})
	require.ErrorIs(t, err, db.ErrRemoved)
	_, _, err = s.EnsureLink(s.ctx, "c1", "operator", 1, linkHash)
	require.ErrorIs(t, err, db.ErrRemoved)
	require.ErrorIs(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusConnected, t0), db.ErrRemoved)
	s.end(t, "k1", reauth.OutcomeHealed, t0.Add(2*time.Hour))
	assert.Equal(t, reauth.StatusRemoved, s.status(t, "c1"))

	// The other one is as it was.
	c, err = s.Connection(s.ctx, "c2")
	require.NoError(t, err)
	assert.Equal(t, int64(2), c.Generation)
	assert.Len(t, c.Contacts, 1)
	assert.Equal(t, 2, s.count(t, "tokens WHERE connection_id = 'c2'"))
	assert.Equal(t, 1, s.count(t, "suppressions WHERE connection_id = 'c2'"))

	// Revived, it goes on counting its generations.
	created, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1"})
	require.NoError(t, err)
	assert.True(t, created)
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"))
	adopted, err := s.Adopt(s.ctx, adoption("c1", "c1old", t0))
	require.NoError(t, err)
	assert.Equal(t, db.Adopted{Generation: 3, Current: true}, adopted)
}

func TestSetConnectionStatus(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	for _, status := range []reauth.ConnectionStatus{reauth.StatusStale, reauth.StatusDisconnected, reauth.StatusConnected} {
		require.NoError(t, s.SetConnectionStatus(s.ctx, "c1", status, t0))
		assert.Equal(t, status, s.status(t, "c1"))
	}
	require.ErrorContains(t, s.SetConnectionStatus(s.ctx, "c1", reauth.StatusRemoved, t0), "RemoveConnection")
	require.ErrorContains(t, s.SetConnectionStatus(s.ctx, "c1", "odd", t0), "connections_status_known")
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"))
	require.ErrorIs(t, s.SetConnectionStatus(s.ctx, "c2", reauth.StatusStale, t0), db.ErrNotFound)
}

func TestConnectionsArePaged(t *testing.T) {
	s := newStore(t)
	for i := range 7 {
		s.connect(t, fmt.Sprintf("c%d", i), "anna@example.com")
	}
	require.NoError(t, s.SetConnectionStatus(s.ctx, "c2", reauth.StatusStale, t0))
	require.NoError(t, s.SetConnectionStatus(s.ctx, "c5", reauth.StatusStale, t0))
	_, err := s.RemoveConnection(s.ctx, "c3")
	require.NoError(t, err)

	pages := func(status reauth.ConnectionStatus, limit int) (pages []string) {
		for after := ""; ; {
			list, next, err := s.Connections(s.ctx, status, after, limit)
			require.NoError(t, err)
			text := ""
			for _, c := range list {
				text += c.ConnectionID
				require.Len(t, c.Contacts, map[bool]int{true: 0, false: 1}[c.Status == reauth.StatusRemoved])
			}
			pages = append(pages, text)
			if next == "" {
				return pages
			}
			after = next
		}
	}
	assert.Equal(t, []string{"c0c1", "c2c4", "c5c6"}, pages("", 2))
	assert.Equal(t, []string{"c0c1c2c4c5c6"}, pages("", 0))
	assert.Equal(t, []string{"c2", "c5"}, pages(reauth.StatusStale, 1))
	assert.Equal(t, []string{"c3"}, pages(reauth.StatusRemoved, 1))
	assert.Equal(t, []string{""}, pages("odd", 1))

	_, next, err := s.Connections(s.ctx, "", "", 1)
	require.NoError(t, err)
	for _, bad := range []string{"x", next + "x", next[1:]} {
		_, _, err = s.Connections(s.ctx, "", bad, 1)
		require.ErrorIs(t, err, db.ErrBadCursor)
		assert.EqualError(t, err, "list connections: malformed cursor")
	}
	_, _, err = s.Cases(s.ctx, db.CaseFilter{}, next, 1)
	assert.True(t, errors.Is(err, db.ErrBadCursor), "another list's cursor")
}

func TestSystemIsKeptUnlessGiven(t *testing.T) {
	d := newStore(t)
	ctx := t.Context()
	for _, step := range []struct{ given, want string }{{"Gusto", "Gusto"}, {"", "Gusto"}, {"ADP Run", "ADP Run"}} {
		_, err := d.PutConnection(ctx, reauth.Connection{ConnectionID: "conn-system", System: step.given})
		require.NoError(t, err)
		c, err := d.Connection(ctx, "conn-system")
		require.NoError(t, err)
		assert.Equal(t, step.want, c.System)
	}
}

// contacts lists the IDs of a connection's contacts, in order.
func (s store) contacts(t *testing.T, connectionID string) (ids []string) {
	t.Helper()
	list, err := s.Recipients(s.ctx, connectionID)
	require.NoError(t, err)
	for _, r := range list {
		ids = append(ids, r.ContactID)
	}
	return ids
}
