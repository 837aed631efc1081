package lifecycle_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// rig is an Ender on a real database and a simulated Finch.
type rig struct {
	lifecycle.Ender
	t      *testing.T
	sim    *finchsim.Sim
	client *finch.Client
	asked  []string // applications that were asked to disconnect
	now    time.Time
}

// remove is Remove without its first answer.
func (r *rig) remove(id string) error {
	_, err := r.Remove(r.t.Context(), id)
	return err
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Now().UTC().Truncate(time.Second)}
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	database, err := db.Open(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Close() })
	r.sim, err = finchsim.New(finchsim.Config{ClientID: "id", ClientSecret: "secret"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.sim.Close() })
	server := httptest.NewServer(r.sim)
	t.Cleanup(server.Close)
	r.client = finch.New(finch.Config{BaseURL: server.URL, Timeout: 5 * time.Second})
	r.Ender = lifecycle.Ender{
		DB: database, Keys: keys, Now: func() time.Time { return r.now },
		Disconnect: func(ctx context.Context, application string, token secrets.Secret) error {
			r.asked = append(r.asked, application)
			return r.client.Disconnect(ctx, token.Reveal())
		},
		Introspect: func(ctx context.Context, _ string, token secrets.Secret) (finch.Introspection, error) {
			return r.client.Introspect(ctx, token.Reveal())
		},
	}
	return r
}

// connection is one that is registered, with a token and an open case.
func (r *rig) connection(tokenless bool) (id, token string) {
	r.t.Helper()
	c, token, err := r.sim.AddConnection(finchsim.NewConnection{CustomerName: "Acme"})
	require.NoError(r.t, err)
	_, err = r.DB.PutConnection(r.t.Context(), reauth.Connection{ConnectionID: c.ID, Application: "sandbox", Contacts: []reauth.Contact{{Email: "pat@acme.example"}}})
	require.NoError(r.t, err)
	if !tokenless {
		_, err = r.DB.Adopt(r.t.Context(), db.Adoption{
			ConnectionID: c.ID, Fingerprint: reauth.Fingerprint(token), MintedAt: r.now,
			Seal: func(generation int64) ([]byte, error) {
				return r.Keys.Seal([]byte(token), "token", c.ID, strconv.FormatInt(generation, 10))
			},
		})
		require.NoError(r.t, err)
	}
	_, err = r.DB.OpenCase(r.t.Context(), db.Case{CaseID: "case-" + c.ID, ConnectionID: c.ID, Source: reauth.SourceManual, OpenedAt: r.now})
	require.NoError(r.t, err)
	return c.ID, token
}

func (r *rig) lines(caseID string) []string {
	r.t.Helper()
	events, err := r.DB.Timeline(r.t.Context(), caseID)
	require.NoError(r.t, err)
	var lines []string
	for _, e := range events {
		if e.Kind != db.EventOpened {
			lines = append(lines, e.Kind+": "+e.Detail)
		}
	}
	return lines
}

func (r *rig) answers(status int, body string) {
	require.NoError(r.t, r.sim.SetKnobs(func(k *finchsim.Knobs) {
		k.Faults = []finchsim.Fault{{Endpoint: "POST /disconnect", Kind: finchsim.FaultAnswer, Times: -1, Status: status, Body: body}}
	}))
}

func TestRemove(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	status := func(id string) reauth.ConnectionStatus {
		c, err := r.DB.Connection(ctx, id)
		require.NoError(t, err)
		return c.Status
	}

	id, token := r.connection(false)
	require.NoError(t, r.sim.Break(id)) // also one that is stale
	require.NoError(t, r.remove(id))
	require.NoError(t, r.remove(id), "again changes nothing")
	assert.Equal(t, []string{"sandbox"}, r.asked)
	assert.Equal(t, reauth.StatusRemoved, status(id))
	at, err := r.sim.Connection(id)
	require.NoError(t, err)
	assert.Equal(t, "disconnected", at.Status)
	assert.Equal(t, []string{"disconnected: It was disconnected at the provider."}, r.lines("case-"+id))
	c, err := r.DB.Connection(ctx, id)
	require.NoError(t, err)
	assert.NotNil(t, c.DisconnectedAt)
	_, err = r.DB.CurrentToken(ctx, id)
	require.ErrorIs(t, err, db.ErrNotFound, "its token is erased")
	_, err = r.DB.PutConnection(ctx, reauth.Connection{ConnectionID: id})
	require.NoError(t, err)
	c, err = r.DB.Connection(ctx, id)
	require.NoError(t, err)
	assert.Nil(t, c.DisconnectedAt, "one that comes back is another matter")
	_ = token

	// What cannot be disconnected is not removed.
	for name, test := range map[string]struct {
		status int
		body   string
		want   error
		line   string
	}{
		"the provider is down":       {503, "", lifecycle.ErrUnavailable, "status 503"},
		"too many calls":             {429, `{"finch_code": "finch_application_rl"}`, lifecycle.ErrUnavailable, "finch_application_rl"},
		"the customer must log in":   {401, `{"finch_code": "reauthenticate_user"}`, lifecycle.Refused{Code: "reauthenticate_user"}, "reauthenticate_user"},
		"something is not permitted": {403, `{"name": "insufficient_scope_error"}`, lifecycle.Refused{Code: "insufficient_scope_error"}, "insufficient_scope_error"},
	} {
		r.answers(test.status, test.body)
		id, _ := r.connection(false)
		require.ErrorIs(t, r.remove(id), test.want, name)
		assert.Equal(t, reauth.StatusStale, status(id), name)
		_, err := r.DB.CurrentToken(ctx, id)
		require.NoError(t, err, name)
		assert.Contains(t, r.lines("case-" + id)[0], "disconnect_failed: ", name)
		assert.Contains(t, r.lines("case-" + id)[0], test.line, name)
	}

	// What the provider knows no longer has ended already.
	for body, code := range map[string]string{
		`{"name": "invalid_token_error"}`:        "invalid_token_error",
		`{"finch_code": "connection_not_found"}`: "connection_not_found",
		``:                                       "status 401",
	} {
		status := 401
		if code == "connection_not_found" {
			status = 404
		}
		r.answers(status, body)
		id, _ := r.connection(false)
		require.NoError(t, r.remove(id))
		assert.Equal(t, []string{"disconnected: It was to be disconnected at the provider, which knew it no longer (" + code + ")."}, r.lines("case-"+id))
	}

	// Without a token.
	id, _ = r.connection(true)
	require.ErrorIs(t, r.remove(id), lifecycle.ErrNoToken)
	assert.Equal(t, reauth.StatusStale, status(id))
	require.NoError(t, r.DB.SetConnectionStatus(ctx, id, reauth.StatusDisconnected, r.now))
	require.NoError(t, r.remove(id), "the provider has said that it is gone")
	id, _ = r.connection(false)
	_, err = r.DB.RemoveConnection(ctx, id)
	require.NoError(t, err)
	require.ErrorIs(t, r.remove(id), lifecycle.ErrNoToken, "it was removed with its tokens, and goes on at the provider")
	require.ErrorIs(t, r.remove("nobody"), db.ErrNotFound)
}

func TestQuarantine(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	expected, _ := r.connection(false)
	keep := func(owner, token, application string) string {
		t.Helper()
		sealed, err := r.Keys.Seal([]byte(token), "minted", owner)
		require.NoError(t, err)
		fp := reauth.Fingerprint(token)
		require.NoError(t, r.DB.PutMinted(ctx, reauth.CodeHash(token), owner, fp, sealed, r.now))
		require.NoError(t, r.DB.Quarantine(ctx, db.QuarantinedToken{
			ConnectionID: owner, ExpectedConnectionID: expected, Application: application, Fingerprint: fp, Sealed: sealed,
			Reason: "wrong_account", CaseID: "case-" + expected, At: r.now,
		}))
		return fp
	}
	wrong, token, err := r.sim.AddConnection(finchsim.NewConnection{CustomerName: "Somebody's own"})
	require.NoError(t, err)
	fp := keep(wrong.ID, token, "")

	// The provider fails, and then does not.
	r.answers(503, "")
	_, err = r.DisconnectQuarantined(ctx, fp)
	require.ErrorIs(t, err, lifecycle.ErrUnavailable)
	require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) { k.Faults = nil }))
	for range 2 {
		q, err := r.DisconnectQuarantined(ctx, fp)
		require.NoError(t, err)
		assert.Equal(t, db.EndedDisconnected, q.EndedHow)
		assert.Nil(t, q.Sealed)
		r.now = r.now.Add(time.Hour)
	}
	assert.Equal(t, []string{"sandbox", "sandbox"}, r.asked, "the application of the connection that it was meant for; and the second time nobody was asked")
	at, err := r.sim.Connection(wrong.ID)
	require.NoError(t, err)
	assert.Equal(t, "disconnected", at.Status)
	_, err = r.DB.Minted(ctx, reauth.CodeHash(token))
	require.ErrorIs(t, err, db.ErrNotFound, "it is erased wherever it was")
	assert.Equal(t, []string{"quarantine_disconnected: The token of connection " + wrong.ID + " that was kept aside has disconnected it at the provider, and was erased."}, r.lines("case-"+expected))
	q, err := r.ForgetQuarantined(ctx, fp)
	require.NoError(t, err)
	assert.Equal(t, db.EndedDisconnected, q.EndedHow, "the first end stands")

	// A token whose owner nobody knows is asked first.
	unknown, token, err := r.sim.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	q, err = r.DisconnectQuarantined(ctx, keep("", token, "default"))
	require.NoError(t, err)
	assert.Equal(t, db.EndedDisconnected, q.EndedHow)
	at, err = r.sim.Connection(unknown.ID)
	require.NoError(t, err)
	assert.Equal(t, "disconnected", at.Status)
	q, err = r.DisconnectQuarantined(ctx, keep("", "a-token-that-is-dead", "default"))
	require.NoError(t, err)
	assert.Equal(t, db.EndedGone, q.EndedHow)
	assert.Equal(t, "invalid_token_error", q.FinchCode)

	// Another customer's connection is never ended because somebody logged in to it.
	other, _ := r.connection(false)
	second, err := r.sim.MintToken(other)
	require.NoError(t, err)
	for _, owner := range []string{other, ""} {
		fp := keep(owner, second, "default")
		_, err = r.DisconnectQuarantined(ctx, fp)
		require.ErrorIs(t, err, lifecycle.ErrInUse)
		q, err = r.ForgetQuarantined(ctx, fp)
		require.NoError(t, err)
		assert.Equal(t, db.EndedForgotten, q.EndedHow)
		second, err = r.sim.MintToken(other)
		require.NoError(t, err)
	}
	at, err = r.sim.Connection(other)
	require.NoError(t, err)
	assert.Equal(t, "connected", at.Status)

	// Nothing that cannot be opened, or is not there.
	require.NoError(t, r.DB.Quarantine(ctx, db.QuarantinedToken{Fingerprint: reauth.Fingerprint("x"), Sealed: []byte("nonsense"), Reason: "unreadable", At: r.now}))
	_, err = r.DisconnectQuarantined(ctx, reauth.Fingerprint("x"))
	require.ErrorIs(t, err, lifecycle.ErrUnreadable)
	for _, end := range []func(context.Context, string) (db.QuarantinedToken, error){r.DisconnectQuarantined, r.ForgetQuarantined} {
		_, err = end(ctx, reauth.Fingerprint("nobody's"))
		require.ErrorIs(t, err, db.ErrNotFound)
	}
	r.Disconnect = func(context.Context, string, secrets.Secret) error { return lifecycle.ErrUnknownApplication }
	third, token, err := r.sim.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	_, err = r.DisconnectQuarantined(ctx, keep(third.ID, token, "gone"))
	require.ErrorIs(t, err, lifecycle.ErrUnknownApplication)
	r.Introspect = func(context.Context, string, secrets.Secret) (finch.Introspection, error) {
		return finch.Introspection{}, lifecycle.ErrUnknownApplication
	}
	_, err = r.DisconnectQuarantined(ctx, keep("", token, "gone"))
	require.ErrorIs(t, err, lifecycle.ErrUnknownApplication)
	require.NotErrorIs(t, err, lifecycle.ErrUnavailable, "another time is no better")

	kept, next, err := r.DB.QuarantinedTokens(ctx, false, "", 1)
	require.NoError(t, err)
	require.Len(t, kept, 1)
	rest, next, err := r.DB.QuarantinedTokens(ctx, false, next, 1)
	require.NoError(t, err)
	require.Len(t, rest, 1)
	assert.Empty(t, next)
	assert.NotEqual(t, kept[0].Fingerprint, rest[0].Fingerprint)
	_, _, err = r.DB.QuarantinedTokens(ctx, false, "nonsense", 1)
	require.True(t, errors.Is(err, db.ErrBadCursor))
}
