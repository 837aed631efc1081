package db_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// Within an application, another's connections do not exist.
func TestWithin(t *testing.T) {
	s := newStore(t)
	for _, application := range []string{"acme", "globex"} {
		_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: application + "-1", Application: application})
		require.NoError(t, err)
		_, err = s.Adopt(s.ctx, adoption(application+"-1", application, t0))
		require.NoError(t, err)
		s.open(t, application+"-1", "case-"+application, t0)
	}
	ctx := db.Within(s.ctx, "acme")
	_, err := s.Connection(ctx, "acme-1")
	require.NoError(t, err)
	list, _, err := s.Connections(ctx, "", "", 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	cases, _, err := s.Cases(ctx, db.CaseFilter{}, "", 0)
	require.NoError(t, err)
	require.Len(t, cases, 1)
	require.Equal(t, "case-acme", cases[0].CaseID)
	_, err = s.CurrentToken(ctx, "acme-1")
	require.NoError(t, err)

	for name, call := range map[string]func() error{
		"read":  func() error { _, err := s.Connection(ctx, "globex-1"); return err },
		"token": func() error { _, err := s.CurrentToken(ctx, "globex-1"); return err },
		"take over": func() error {
			_, err := s.PutConnection(ctx, reauth.Connection{ConnectionID: "globex-1", Application: "acme"})
			return err
		},
		"register foreign": func() error {
			_, err := s.PutConnection(ctx, reauth.Connection{ConnectionID: "new", Application: "globex"})
			return err
		},
		"give away": func() error {
			_, err := s.PutConnection(ctx, reauth.Connection{ConnectionID: "acme-1", Application: "globex"})
			return err
		},
		"remove": func() error { _, err := s.RemoveConnection(ctx, "globex-1"); return err },
		"status": func() error { return s.SetConnectionStatus(ctx, "globex-1", reauth.StatusStale, t0) },
		"adopt":  func() error { _, err := s.Adopt(ctx, adoption("globex-1", "stolen", t0.Add(time.Hour))); return err },
		"link": func() error {
			_, _, err := s.EnsureLink(ctx, "globex-1", db.RecipientOperator, 1, linkHash)
			return err
		},
	} {
		assert.ErrorIs(t, call(), db.ErrNotFound, name)
	}
	c, err := s.Connection(s.ctx, "globex-1")
	require.NoError(t, err)
	require.Equal(t, "globex", c.Application)
	require.EqualValues(t, 1, c.Generation)
	require.Equal(t, 0, s.count(t, "connections WHERE connection_id = 'new'"))
	_, err = s.PutConnection(ctx, reauth.Connection{ConnectionID: "acme-2", Application: "acme"})
	require.NoError(t, err)
}

func TestCreateAPIKey(t *testing.T) {
	s := newStore(t)
	s.SetNow(func() time.Time { return t0 })
	expires := t0.Add(time.Hour)
	made, err := s.CreateAPIKey(s.ctx, db.APIKey{Name: "ops-anna", Scopes: []string{"operator"}, Application: "acme", ExpiresAt: &expires}, hash32(1))
	require.NoError(t, err)
	require.Equal(t, db.APIKey{ID: made.ID, Name: "ops-anna", Scopes: []string{"operator"}, Application: "acme", CreatedAt: t0, ExpiresAt: &expires}, made)
	_, err = s.CreateAPIKey(s.ctx, db.APIKey{Name: "ops-anna"}, hash32(2))
	require.ErrorIs(t, err, db.ErrExists)
	for _, find := range []func() (db.APIKey, error){
		func() (db.APIKey, error) { return s.APIKeyByName(s.ctx, "ops-anna") },
		func() (db.APIKey, error) { return s.APIKeyByHash(s.ctx, hash32(1)) },
	} {
		found, err := find()
		require.NoError(t, err)
		require.Equal(t, made, found)
	}
	require.NoError(t, s.RevokeAPIKey(s.ctx, made.ID))
	_, err = s.APIKeyByName(s.ctx, "ops-anna")
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.CreateAPIKey(s.ctx, db.APIKey{Name: "ops-anna"}, hash32(2))
	require.NoError(t, err, "the name is free again")
}
