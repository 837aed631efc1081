package web

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

const sandboxSecret = "b3RoZXIgc2VjcmV0IG9mIDI0IGJ5dGVz"

func withSandbox(c *Config) {
	c.Applications = []Application{{Name: "sandbox", ClientID: "client-sandbox", WebhookSecrets: []string{sandboxSecret}}, {Name: "eu"}}
}

func TestRegistrationOfAnApplication(t *testing.T) {
	f := newFixture(t, withSandbox)
	f.temporal.noCase = true
	f.introspect = func(application, token string) (finch.Introspection, error) {
		return finch.Introspection{ConnectionID: connID, ClientID: token, Connection: finch.ConnectionStatus{Status: finch.StatusConnected}}, nil
	}
	const unknown = "body.application: is not configured here; known are default, sandbox, eu."
	require.Contains(t, f.problem(422, "PUT", connectionURL, map[string]any{"application": "nowhere"}).Detail, unknown)
	require.Contains(t, f.problem(422, "POST", "/v1/connections", map[string]any{"application": "nowhere", "access_token": "x"}).Detail, unknown)
	for _, test := range []struct{ application, client, want string }{
		{"default", "client-sandbox", "body.access_token: is a token of the application sandbox; nothing was stored. Register the connection with that application"},
		{"eu", "client-sandbox", "body.access_token: is a token of the application sandbox"},
		{"sandbox", "client-own", "body.access_token: is no token of the application sandbox"},
	} {
		require.Contains(t, f.problem(422, "PUT", connectionURL, map[string]any{"application": test.application, "access_token": test.client}).Detail, test.want)
	}
	require.Zero(t, f.count("connections"))
	f.api(201, "PUT", connectionURL, map[string]any{"application": "sandbox", "access_token": "client-sandbox"}, nil)
	f.api(200, "PUT", connectionURL, map[string]any{"application": "eu", "access_token": "client-of-eu"}, nil)
	f.api(200, "PUT", connectionURL, map[string]any{"access_token": "client-own"}, nil)
}

func TestWebhooksOfApplications(t *testing.T) {
	signed := func(secret, body string, f *fixture) option {
		return func(r *http.Request) {
			for name, values := range finch.SignWebhook(secret, "msg_1", f.clock(), []byte(body)) {
				r.Header[name] = values
			}
		}
	}
	f := newFixture(t)
	for name, test := range map[string]struct {
		change              func(*Config)
		application, secret string
		status              int
		result              string
	}{
		"its own":                    {withSandbox, "sandbox", sandboxSecret, 200, "reported"},
		"the default one's":          {withSandbox, "sandbox", webhookSecret, 200, "another_application"},
		"of the default one":         {withSandbox, "default", webhookSecret, 200, "reported"},
		"of the default one, theirs": {withSandbox, "default", sandboxSecret, 200, "another_application"},
		"of one without a secret":    {withSandbox, "eu", sandboxSecret, 200, "another_application"},
		"nobody's":                   {withSandbox, "default", "YW55Ym9keSdzIHNlY3JldCBvZiAyNCBieQ==", 401, ""},
		"one secret of two": {func(c *Config) {
			withSandbox(c)
			c.Applications[1].WebhookSecrets = []string{sandboxSecret}
		}, "eu", sandboxSecret, 200, "reported"},
		"the default one has none": {func(c *Config) { withSandbox(c); c.FinchWebhookSecrets = nil }, "sandbox", sandboxSecret, 200, "reported"},
		"one that cannot be used":  {func(c *Config) { c.FinchWebhookSecrets = []string{"%"} }, "default", webhookSecret, 500, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.again(t, test.change)
			_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: connID, Application: test.application})
			require.NoError(t, err)
			body := accountUpdated("reauth")
			w := f.do("POST", "/webhooks/finch", body, noKey, signed(test.secret, body, f))
			require.Equal(t, test.status, w.Code, w.Body.String())
			if test.result != "" {
				f.settle()
				require.Equal(t, test.result, f.stored("msg_1").Result)
			}
			require.Equal(t, test.result == "reported", len(f.temporal.reports) == 1)
		})
	}
}

func TestCallbackOfAnApplication(t *testing.T) {
	f := newFixture(t, withSandbox)
	_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: connID, Application: "sandbox"})
	require.NoError(t, err)
	require.NoError(t, f.db.RecordClick(t.Context(), db.Click{ID: "click", ConnectionID: connID, At: f.clock()}))

	f.visit("GET", "/callback/sandbox?code=code-Hush-1")
	f.visit("GET", "/callback?code=code-Hush-2")
	require.Equal(t, []reauth.RedeemInput{
		{Code: "code-Hush-1", Application: "sandbox", RedirectURI: publicURL + "/callback/sandbox"},
		{Code: "code-Hush-2", RedirectURI: publicURL + "/callback"},
	}, f.temporal.redeems)

	// A state says whose the code is, and the path what the session was opened with.
	state, err := f.keys.Mint(ticketState, clickTicket{ConnectionID: connID, Application: "sandbox"}, f.clock().Add(TicketLife))
	require.NoError(t, err)
	f.visit("GET", "/callback/sandbox?code=code-Hush-3&state="+state)
	f.visit("GET", "/callback/of-yesterday?code=code-Hush-4&state="+state)
	require.Equal(t, []string{connID, connID}, f.temporal.codesFor)
	require.Equal(t, publicURL+"/callback/sandbox", f.temporal.codes[0].RedirectURI)
	require.Equal(t, publicURL+"/callback/of-yesterday", f.temporal.codes[1].RedirectURI, "an application that is gone from the file loses no code of a known case")

	require.Equal(t, "Please open your link once more", title(f.visit("GET", "/callback/nowhere?code=code-Hush-5")))
	require.Equal(t, http.StatusNotFound, f.visit("GET", "/callback/default?code=code-Hush-6").Code)
	require.Equal(t, http.StatusNotFound, f.visit("GET", "/callback/%2e%2e%2fx?code=code-Hush-7").Code)
	require.Len(t, f.temporal.redeems, 2)
}

func TestApplicationsNeedNames(t *testing.T) {
	f := newFixture(t)
	for _, list := range [][]Application{{{}}, {{Name: "default"}}, {{Name: "a"}, {Name: "a"}}} {
		c := f.config
		c.Applications = list
		_, err := New(c)
		require.ErrorContains(t, err, "has no name of its own")
	}
}
