package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// a Finch that takes one client's credentials.
func finchOf(t *testing.T, clientID, clientSecret string) string {
	t.Helper()
	sim, err := finchsim.New(finchsim.Config{ClientID: clientID, ClientSecret: clientSecret})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sim.Close() })
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	return server.URL
}

func TestApplicationsCommand(t *testing.T) {
	settle(t, nil)
	own, sandbox := finchOf(t, "own", "own-hunter2"), finchOf(t, "sandbox-id", "sandbox-hunter2")
	t.Setenv("FINCH_BASE_URL", own)
	t.Setenv("FINCH_CLIENT_ID", "own")
	t.Setenv("FINCH_CLIENT_SECRET", "own-hunter2")
	t.Setenv("REAUTH_PUBLIC_URL", "https://reauth.example.com")
	t.Setenv("SANDBOX_SECRET", "sandbox-hunter2")
	t.Setenv("REAUTH_APPLICATIONS", campaignFile(t, `
applications:
  sandbox: {client_id: sandbox-id, client_secret: env:SANDBOX_SECRET, base_url: "`+sandbox+`", webhook_secrets: [env:SANDBOX_WEBHOOKS]}
  wrong: {client_id: own, client_secret: hunter2}
  unset: {client_id: x, client_secret: env:UNSET_SECRET}
`))
	var out, problems bytes.Buffer
	require.Equal(t, exitOK, run([]string{"applications"}, &out, &problems), problems.String())
	require.Regexp(t, `(?m)^sandbox +finch +sandbox-id +env:SANDBOX_SECRET +env:SANDBOX_WEBHOOKS +`+sandbox+` +https://reauth.example.com/callback/sandbox$`, out.String())
	require.Regexp(t, `(?m)^default .* https://reauth.example.com/callback$`, out.String())
	require.Regexp(t, `(?m)^wrong +finch +own +the file itself +- +`+own, out.String())

	out.Reset()
	require.Equal(t, exitFailure, run([]string{"applications", "--check", "--json"}, &out, &problems))
	require.Contains(t, problems.String(), "2 of 4 applications cannot be used")
	var list []listedApplication
	require.NoError(t, json.Unmarshal(out.Bytes(), &list))
	said := map[string]string{}
	for _, a := range list {
		said[a.Name] = a.Credentials
	}
	require.Equal(t, "taken", said["default"])
	require.Equal(t, "taken", said["sandbox"])
	require.Equal(t, "refused", said["wrong"])
	require.Contains(t, said["unset"], "refers to the environment variable UNSET_SECRET, which is not set")
	require.NotContains(t, out.String()+problems.String(), "hunter2")

	// A worker needs every secret; it says which is missing before it does anything.
	_, err := providers(finchSettings{}, finchClientSettings{}, mustRead(t), partsWith(nil).unlimited)
	require.ErrorContains(t, err, "UNSET_SECRET, which is not set")
	t.Setenv("UNSET_SECRET", "set")
	made := map[string]finch.Config{}
	all, err := providers(finchSettings{FinchBaseURL: own}, finchClientSettings{FinchClientID: "own", FinchClientSecret: "own-hunter2"}, mustRead(t),
		func(application string, c finch.Config) activities.FinchClient {
			made[application] = c
			return finch.New(c)
		})
	require.NoError(t, err)
	require.Len(t, all, 4)
	require.IsType(t, activities.Finch{}, all["sandbox"])
	require.Equal(t, finch.Config{BaseURL: sandbox, ClientID: "sandbox-id", ClientSecret: "sandbox-hunter2"}, made["sandbox"])
	require.Equal(t, own, made["wrong"].BaseURL)

	// The service needs the webhook secrets, and no client secret.
	_, err = served(mustRead(t))
	require.ErrorContains(t, err, "SANDBOX_WEBHOOKS, which is not set")
	t.Setenv("SANDBOX_WEBHOOKS", "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH")
	known, err := served(mustRead(t))
	require.NoError(t, err)
	require.Equal(t, "sandbox-id", known[0].ClientID)
	require.Empty(t, tokenClients(finchSettings{FinchBaseURL: own}, mustRead(t), func(_ string, c finch.Config) activities.FinchClient {
		require.Empty(t, c.ClientSecret)
		return finch.New(c)
	})["nobody"])
}

func mustRead(t *testing.T) []applications.Application {
	t.Helper()
	list, err := applicationSettings{os.Getenv("REAUTH_APPLICATIONS")}.further()
	require.NoError(t, err)
	return list
}

func TestFinder(t *testing.T) {
	var asked reauth.FindConnection
	answer := error(nil)
	find := finder(func(_ context.Context, m reauth.FindConnection) (string, error) { asked = m; return "con-1", answer })
	id, err := find(t.Context(), "sandbox", "cus-1", "Acme")
	require.NoError(t, err)
	require.Equal(t, "con-1", id)
	require.Equal(t, reauth.FindConnection{Application: "sandbox", CustomerID: "cus-1", CustomerName: "Acme"}, asked)
	answer = fmt.Errorf("find: %w", starter.ErrApplicationUnknown)
	_, err = find(t.Context(), "nowhere", "cus-1", "")
	require.ErrorIs(t, err, lifecycle.ErrUnknownApplication)
}
