package finchsdk_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/secrets"
)

const callback = "https://reauth.example/callback"

type secret = secrets.Secret

// bench is a simulated Finch and a Provider that talks to it.
type bench struct {
	*finchsim.Sim
	activities.Finch
	config finch.Config
}

func newBench(t *testing.T, client func(finch.Config) activities.FinchClient) bench {
	t.Helper()
	sim, err := finchsim.New(finchsim.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{callback}})
	require.NoError(t, err)
	server := httptest.NewServer(sim)
	t.Cleanup(func() {
		assert.NoError(t, sim.Close())
		server.Close()
	})
	cfg := config(server.URL)
	return bench{sim, activities.Finch{Client: client(cfg)}, cfg}
}

// faults are what goes wrong next.
func (b bench) faults(t *testing.T, faults ...finchsim.Fault) {
	t.Helper()
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Faults = faults }))
}

// code goes through Connect once and returns the code.
func (b bench) code(t *testing.T, connectionID string) string {
	t.Helper()
	session, err := b.OpenSession(t.Context(), activities.SessionRequest{ConnectionID: connectionID, RedirectURI: callback, Minutes: 60})
	require.NoError(t, err)
	code, err := b.CompleteConnect(session.ID, finchsim.SameAccount)
	require.NoError(t, err)
	return code
}

// trouble asserts what a call's error is.
func trouble(t *testing.T, want activities.Trouble, err error) *activities.ProviderError {
	t.Helper()
	var e *activities.ProviderError
	require.ErrorAs(t, err, &e)
	require.Equal(t, want, e.Trouble)
	require.NotEmpty(t, e.RequestID, "what Finch's support asks for")
	return e
}

// TestAConnectionIsBroughtBack walks through what a case asks of a Provider.
func TestAConnectionIsBroughtBack(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b, ctx := newBench(t, client), t.Context()
		connection, token, err := b.AddConnection(finchsim.NewConnection{CustomerID: "cus", CustomerName: "Acme", ProviderID: "gusto"})
		require.NoError(t, err)
		access := activities.Access{ConnectionID: connection.ID, Token: secret(token)}

		inspection, err := b.Inspect(ctx, access)
		require.NoError(t, err)
		assert.Equal(t, connection.ID, inspection.ConnectionID)
		assert.Equal(t, activities.ConditionConnected, inspection.Condition)
		require.NoError(t, b.Probe(ctx, access))

		// It breaks: Finch says so in a status, or refuses even to say.
		require.NoError(t, b.Break(connection.ID))
		inspection, err = b.Inspect(ctx, access)
		require.NoError(t, err)
		assert.Equal(t, activities.ConditionStale, inspection.Condition)
		trouble(t, activities.TroubleReauth, b.Probe(ctx, access))
		require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.IntrospectUnauthorized = true }))
		_, err = b.Inspect(ctx, access)
		assert.Equal(t, "reauthenticate_user", trouble(t, activities.TroubleReauth, err).Code)

		// The customer logs in, and the code brings a new token of the same connection.
		code := b.code(t, connection.ID)
		grant, err := b.Exchange(ctx, secret(code), callback)
		require.NoError(t, err)
		assert.Equal(t, connection.ID, grant.ConnectionID)
		assert.NotEqual(t, token, grant.Token.Reveal())
		access.Token = grant.Token
		require.NoError(t, b.Probe(ctx, access))
		_, err = b.Exchange(ctx, secret(code), callback)
		trouble(t, activities.TroubleGrant, err) // once, and no more
		_, err = b.Exchange(ctx, "no-such-code", callback)
		trouble(t, activities.TroubleGrant, err)

		// A new token may take a while to work.
		require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.VerifyPending = 1 }))
		grant, err = b.Exchange(ctx, secret(b.code(t, connection.ID)), callback)
		require.NoError(t, err)
		access.Token = grant.Token
		require.Error(t, b.Probe(ctx, access), "202: the data is not there yet")
		inspection, err = b.Inspect(ctx, access)
		require.NoError(t, err)
		assert.Equal(t, activities.ConditionPending, inspection.Condition)
		require.NoError(t, b.Probe(ctx, access))

		for status, want := range map[string]activities.Condition{
			"error_permissions": activities.ConditionSetup, "error_no_account_setup": activities.ConditionSetup,
			"processing": activities.ConditionPending, "connected": activities.ConditionConnected,
		} {
			require.NoError(t, b.SetStatus(connection.ID, status))
			inspection, err = b.Inspect(ctx, access)
			require.NoError(t, err)
			assert.Equal(t, want, inspection.Condition, status)
		}

		// It is disconnected.
		require.NoError(t, b.Client.Disconnect(ctx, access.Token.Reveal()))
		_, err = b.Inspect(ctx, access)
		trouble(t, activities.TroubleToken, err)
		_, err = b.OpenSession(ctx, activities.SessionRequest{ConnectionID: connection.ID, Minutes: 60})
		trouble(t, activities.TroubleNotFound, err)
	})
}

// TestEmbedded: an exchange for the embedded flow has no redirect URI.
func TestEmbedded(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b := newBench(t, client)
		connection, _, err := b.AddConnection(finchsim.NewConnection{CustomerName: "Acme", ProviderID: "gusto"})
		require.NoError(t, err)
		session, err := b.OpenSession(t.Context(), activities.SessionRequest{ConnectionID: connection.ID, Minutes: 60})
		require.NoError(t, err)
		code, err := b.CompleteEmbedded(session.ID, finchsim.SameAccount)
		require.NoError(t, err)
		_, err = b.Exchange(t.Context(), secret(code), callback)
		trouble(t, activities.TroubleGrant, err)
		grant, err := b.Exchange(t.Context(), secret(code), "")
		require.NoError(t, err)
		assert.Equal(t, connection.ID, grant.ConnectionID)
	})
}

// TestEveryCallIsMadeOnce: what is repeated, and when, is the case's to decide.
func TestEveryCallIsMadeOnce(t *testing.T) {
	const exchange, sessions, introspect = "POST /auth/token", "POST /connect/sessions/reauthenticate", "GET /introspect"
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b, ctx := newBench(t, client), t.Context()
		connection, token, err := b.AddConnection(finchsim.NewConnection{CustomerName: "Acme", ProviderID: "gusto"})
		require.NoError(t, err)
		code := secret(b.code(t, connection.ID))
		asked := func(endpoint string) int { return b.Counters().Calls[endpoint] }
		for kind, want := range map[string]activities.Trouble{
			finchsim.FaultServerError: activities.TroubleDown,
			finchsim.FaultRateLimit:   activities.TroubleLimit,
			finchsim.FaultDrop:        activities.TroubleNoAnswer,
		} {
			b.faults(t, finchsim.Fault{Endpoint: "*", Kind: kind, Times: -1, RetryAfter: finchsim.Duration(7 * time.Second)})
			for endpoint, call := range map[string]func() error{
				exchange: func() error { _, err := b.Exchange(ctx, code, callback); return err },
				sessions: func() error {
					_, err := b.OpenSession(ctx, activities.SessionRequest{ConnectionID: connection.ID, Minutes: 60})
					return err
				},
				introspect: func() error {
					_, err := b.Inspect(ctx, activities.Access{ConnectionID: connection.ID, Token: secret(token)})
					return err
				},
			} {
				if kind == finchsim.FaultDrop && endpoint == introspect {
					continue // net/http itself sends a GET again whose idle connection was closed
				}
				before := asked(endpoint)
				var e *activities.ProviderError
				require.ErrorAs(t, call(), &e)
				assert.Equal(t, want, e.Trouble, "%s: %s", endpoint, kind)
				assert.Equal(t, before+1, asked(endpoint), "%s: %s", endpoint, kind)
				if kind == finchsim.FaultRateLimit {
					assert.Equal(t, 7*time.Second, e.RetryAfter)
				}
			}
		}
		// The code was never redeemed, so it still works.
		b.faults(t)
		_, err = b.Exchange(ctx, code, callback)
		require.NoError(t, err)

		// Finch did it, but the answer was lost: the code is spent.
		code = secret(b.code(t, connection.ID))
		b.faults(t, finchsim.Fault{Endpoint: exchange, Kind: finchsim.FaultLost})
		before := asked(exchange)
		_, err = b.Exchange(ctx, code, callback)
		var e *activities.ProviderError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, activities.TroubleNoAnswer, e.Trouble)
		assert.Equal(t, before+1, asked(exchange))
		_, err = b.Exchange(ctx, code, callback)
		trouble(t, activities.TroubleGrant, err)
	})
}

// TestOurCredentialsAreRefused: nobody's code or connection is to blame.
func TestOurCredentialsAreRefused(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b := newBench(t, client)
		connection, _, err := b.AddConnection(finchsim.NewConnection{CustomerName: "Acme", ProviderID: "gusto"})
		require.NoError(t, err)
		code := secret(b.code(t, connection.ID))
		cfg := b.config
		cfg.ClientSecret = "another"
		stranger := activities.Finch{Client: client(cfg)}
		_, err = stranger.OpenSession(t.Context(), activities.SessionRequest{ConnectionID: connection.ID, Minutes: 60})
		trouble(t, activities.TroubleClient, err)
		_, err = stranger.Exchange(t.Context(), code, callback)
		trouble(t, activities.TroubleClient, err)
		_, err = b.Exchange(t.Context(), code, callback)
		require.NoError(t, err, "the code was not spent")
	})
}

// TestTheConnectionOfACustomer is found by asking for a session of a customer
// who is connected already.
func TestTheConnectionOfACustomer(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b := newBench(t, client)
		connection, _, err := b.AddConnection(finchsim.NewConnection{CustomerID: "cus", CustomerName: "Acme", ProviderID: "gusto"})
		require.NoError(t, err)
		_, err = b.Client.CreateSession(t.Context(), finch.NewSession{CustomerID: "cus", CustomerName: "Acme", Products: []string{"company"}})
		var e *finch.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, finch.CodeConnectionAlreadyExists, e.FinchCode)
		assert.Equal(t, connection.ID, e.ConnectionID)
		assert.Equal(t, http.StatusBadRequest, e.Status)

		session, err := b.Client.CreateSession(t.Context(), finch.NewSession{CustomerID: "another", CustomerName: "Acme", Products: []string{"company"}})
		require.NoError(t, err)
		assert.NotEmpty(t, session.ID)
		assert.Contains(t, session.ConnectURL, session.ID)
	})
}

// full is a Finch's limit that leaves no room.
type full struct{ until time.Time }

func (f full) Ask(context.Context, finch.Call) (finch.Room, error) {
	return finch.Room{Again: time.Hour, Until: f.until}, nil
}
func (full) Refused(context.Context, finch.Call, time.Duration, bool) error { return nil }
func (full) Leave(context.Context, finch.Call) error                        { return nil }

// TestTheBudgetHolds: the limit on our own calls stands under either client.
func TestTheBudgetHolds(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		b := newBench(t, client)
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		cfg := b.config
		cfg.HTTPClient = &http.Client{Transport: &finch.LimitTransport{Limiter: full{until}, Application: "default"}}
		limited := activities.Finch{Client: client(cfg)}
		_, err := limited.OpenSession(t.Context(), activities.SessionRequest{ConnectionID: "con", Minutes: 60})
		var e *activities.ProviderError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, activities.TroubleLimit, e.Trouble)
		assert.Equal(t, until, e.WaitsUntil)
		assert.Zero(t, b.Counters().Calls["POST /connect/sessions/reauthenticate"])
	})
}
