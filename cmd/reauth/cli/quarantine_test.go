package cli

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

func TestQuarantineCommand(t *testing.T) {
	settle(t, nil)
	sim, err := finchsim.New(finchsim.Config{ClientID: "id", ClientSecret: "secret"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sim.Close() })
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	url := pgtest.URL(t)
	database, err := db.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Close() })
	t.Setenv("DATABASE_URL", url)
	t.Setenv("REAUTH_KEYSET", keyset)
	t.Setenv("FINCH_BASE_URL", server.URL)

	tokens := map[string]string{}
	keep := func(connection finchsim.NewConnection) string {
		t.Helper()
		c, token, err := sim.AddConnection(connection)
		require.NoError(t, err)
		sealed, err := keys.Seal([]byte(token), "minted", c.ID)
		require.NoError(t, err)
		fp := reauth.Fingerprint(token)
		require.NoError(t, database.Quarantine(t.Context(), db.QuarantinedToken{
			Fingerprint: fp, ConnectionID: c.ID, ExpectedConnectionID: "meant", Sealed: sealed, Reason: "wrong_account", At: time.Now(),
		}))
		tokens[fp] = token
		return fp
	}
	var out, problems bytes.Buffer
	command := func(code int, args ...string) string {
		t.Helper()
		out.Reset()
		problems.Reset()
		require.Equal(t, code, run(append([]string{"quarantine"}, args...), &out, &problems), problems.String())
		for _, token := range tokens {
			require.NotContains(t, out.String()+problems.String(), token)
		}
		return out.String() + problems.String()
	}
	require.Contains(t, command(exitOK, "list"), "no token is kept aside")
	first, second := keep(finchsim.NewConnection{ConnectionID: "con-1"}), keep(finchsim.NewConnection{ConnectionID: "con-2"})
	require.Regexp(t, `(?m)^\S+.* `+first+` +con-1 +meant +wrong_account +- +-$`, command(exitOK, "list"))
	require.Contains(t, command(exitOK, "list", "--limit", "1"), "there are more")
	require.Contains(t, command(exitUsage, "list", "--limit", "0"), "--limit must be from 1 to 200")

	require.Contains(t, command(exitUsage, "disconnect", "xyz"), "32 characters of lower-case hex")
	require.Contains(t, command(exitFailure, "disconnect", reauth.Fingerprint("nobody's")), "`reauth quarantine list` shows those that are")
	require.Contains(t, command(exitOK, "disconnect", first), "connection con-1: disconnected at the provider; the token is erased")
	require.Contains(t, command(exitOK, "disconnect", first), "connection con-1: disconnected at the provider", "the first end is shown again")
	at, err := sim.Connection("con-1")
	require.NoError(t, err)
	require.Equal(t, "disconnected", at.Status)

	_, err = database.PutConnection(t.Context(), reauth.Connection{ConnectionID: "con-2"})
	require.NoError(t, err)
	require.Contains(t, command(exitFailure, "disconnect", second), "`reauth quarantine forget "+second+"`")
	require.Contains(t, command(exitOK, "forget", second), "connection con-2: not disconnected; the token is erased")
	at, err = sim.Connection("con-2")
	require.NoError(t, err)
	require.Equal(t, "connected", at.Status)

	var list []listedToken
	require.NoError(t, json.Unmarshal([]byte(command(exitOK, "list", "--ended", "--json")), &list))
	require.Len(t, list, 2)
	require.Equal(t, "forgotten", list[0].EndedHow)
}
