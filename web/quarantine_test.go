package web

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// disconnects makes the provider answer calls to disconnect, and returns the
// tokens that it was called with.
func disconnects(answer *error) (func(*Config), *[]string) {
	var tokens []string
	return func(c *Config) {
		c.Disconnect = func(_ context.Context, application string, token secrets.Secret) error {
			tokens = append(tokens, application+" "+token.Reveal())
			return *answer
		}
	}, &tokens
}

func TestDeleteAndDisconnect(t *testing.T) {
	var answer error
	with, tokens := disconnects(&answer)
	f := newFixture(t, with)
	f.temporal.noCase = true
	const path = connectionURL + "?disconnect=true"
	status := func() reauth.ConnectionStatus {
		t.Helper()
		c, err := f.db.Connection(t.Context(), connID)
		require.NoError(t, err)
		return c.Status
	}
	require.Contains(t, f.problem(404, "DELETE", path, nil).Detail, "is not registered")
	f.register(connID)
	p := f.problem(409, "DELETE", path, nil)
	require.Contains(t, p.Detail, "No token of the connection is stored")
	require.Contains(t, p.Detail, "repeat the call without ?disconnect=true")
	require.Equal(t, reauth.StatusConnected, status())

	f.api(200, "PUT", connectionURL, map[string]any{"access_token": "token-Hush"}, nil)
	for _, test := range []struct {
		answer error
		status int
		want   string
	}{
		{errDown, 503, "cannot be reached to disconnect it just now. Nothing was removed."},
		{&finch.Error{Status: 500}, 503, "cannot be reached"},
		{&finch.Error{Status: 403, FinchCode: "insufficient_scope_error"}, 502, "refuses to disconnect it, with insufficient_scope_error. Nothing was removed."},
		{&finch.Error{Status: 401, FinchCode: "reauthenticate_user"}, 502, "with reauthenticate_user"},
	} {
		answer = test.answer
		p := f.problem(test.status, "DELETE", path, nil)
		require.Contains(t, p.Detail, test.want)
		require.Equal(t, reauth.StatusConnected, status())
	}
	require.Equal(t, "default token-Hush", (*tokens)[0])
	require.Contains(t, f.problem(422, "DELETE", connectionURL+"?disconnect=perhaps", nil).Detail, "query.disconnect")

	answer = nil
	require.Equal(t, http.StatusNoContent, f.do("DELETE", path, nil).Code)
	require.Equal(t, reauth.StatusRemoved, status())
	asked := len(*tokens)
	require.Equal(t, http.StatusNoContent, f.do("DELETE", path, nil).Code, "again changes nothing")
	require.Len(t, *tokens, asked)
	var c reauth.Connection
	f.api(200, "GET", connectionURL, nil, &c)
	require.NotNil(t, c.DisconnectedAt)

	// One that was removed without is gone from here, and not from the provider.
	f.api(201, "PUT", connectionURL, map[string]any{"access_token": "token-Hush-2"}, nil)
	require.Equal(t, http.StatusNoContent, f.do("DELETE", connectionURL, nil).Code)
	require.Contains(t, f.problem(409, "DELETE", path, nil).Detail, "was removed before, with its tokens")
	require.Len(t, *tokens, asked)
}

func TestDeleteAndDisconnectWithoutTheKey(t *testing.T) {
	f := newFixture(t)
	f.temporal.noCase = true
	f.register(connID)
	_, err := f.db.Adopt(t.Context(), db.Adoption{
		ConnectionID: connID, Fingerprint: reauth.Fingerprint("x"), MintedAt: f.clock(),
		Seal: func(int64) ([]byte, error) { return []byte("sealed with another key"), nil },
	})
	require.NoError(t, err)
	require.Contains(t, f.problem(409, "DELETE", connectionURL+"?disconnect=true", nil).Detail, "None of our keys opens the connection's token")
	f.api(200, "PUT", connectionURL, map[string]any{"access_token": "token-Hush"}, nil)
	require.Contains(t, f.problem(503, "DELETE", connectionURL+"?disconnect=true", nil).Detail, "cannot be reached", "nobody has configured a way")
}

func TestQuarantineAPI(t *testing.T) {
	var answer error
	with, tokens := disconnects(&answer)
	f := newFixture(t, with)
	keep := func(name, owner string) string {
		t.Helper()
		sealed, err := f.keys.Seal([]byte("token-Hush-"+name), "minted", owner)
		require.NoError(t, err)
		fp := reauth.Fingerprint("token-Hush-" + name)
		require.NoError(t, f.db.Quarantine(t.Context(), db.QuarantinedToken{
			Fingerprint: fp, ConnectionID: owner, ExpectedConnectionID: connID, Application: "default", Sealed: sealed, Reason: "wrong_account", At: f.clock(),
		}))
		f.advance(1e9)
		return fp
	}
	f.register(connID)
	first, second := keep("1", "con-wrong"), keep("2", connID)
	var list QuarantineList
	w := f.api(200, "GET", "/v1/quarantine", nil, &list)
	f.checkHidden("answer", w.Body.String())
	require.Len(t, list.Tokens, 2)
	require.Equal(t, second, list.Tokens[0].Fingerprint, "newest first")
	require.Equal(t, "con-wrong", list.Tokens[1].ConnectionID)
	f.api(200, "GET", "/v1/quarantine?limit=1", nil, &list)
	require.NotEmpty(t, list.NextCursor)
	f.api(200, "GET", "/v1/quarantine?limit=1&cursor="+list.NextCursor, nil, &list)
	require.Equal(t, first, list.Tokens[0].Fingerprint)
	f.problem(422, "GET", "/v1/quarantine?cursor=x", nil)

	const none = "No token of this fingerprint is in quarantine"
	nobody := "/v1/quarantine/" + reauth.Fingerprint("nobody")
	require.Contains(t, f.problem(404, "POST", nobody+"/disconnect", nil).Detail, none)
	require.Contains(t, f.problem(404, "DELETE", nobody, nil).Detail, none)
	require.Contains(t, f.problem(422, "POST", "/v1/quarantine/xyz/disconnect", nil).Detail, "32 characters of lower-case hex")
	require.Contains(t, f.problem(409, "POST", "/v1/quarantine/"+second+"/disconnect", nil).Detail, "belongs to a connection that is registered here")
	require.Empty(t, *tokens)

	answer = errors.New("no route to host")
	require.Contains(t, f.problem(503, "POST", "/v1/quarantine/"+first+"/disconnect", nil).Detail, "The token is kept.")
	answer = &finch.Error{Status: 401, Name: "invalid_token_error"}
	var ended QuarantinedToken
	for range 2 {
		f.api(200, "POST", "/v1/quarantine/"+first+"/disconnect", nil, &ended)
		require.Equal(t, "gone", ended.EndedHow)
		require.Equal(t, "invalid_token_error", ended.FinchCode)
	}
	require.Len(t, *tokens, 2)
	for range 2 {
		require.Equal(t, http.StatusNoContent, f.do("DELETE", "/v1/quarantine/"+second, nil).Code)
	}
	f.api(200, "GET", "/v1/quarantine", nil, &list)
	require.Empty(t, list.Tokens)
	f.api(200, "GET", "/v1/quarantine?ended=true", nil, &list)
	require.Len(t, list.Tokens, 2)
	require.Equal(t, "forgotten", list.Tokens[0].EndedHow)
}
