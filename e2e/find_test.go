package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// A backend that knows its own customer's ID alone may ask Finch for the
// connection: the worker asks, with the credentials of the application.
func TestFindConnection(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(o *options) { o.sandbox = true })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ours, _, err := s.sim.AddConnection(finchsim.NewConnection{CustomerID: "planted-customer", CustomerName: "Planted Ltd"})
	require.NoError(t, err)
	theirs, _, err := s.sandbox.AddConnection(finchsim.NewConnection{CustomerID: "planted-customer"})
	require.NoError(t, err)

	var asking sync.WaitGroup
	for range 5 { // at once
		asking.Go(func() {
			id, err := s.starter.FindConnection(ctx, reauth.FindConnection{CustomerID: "planted-customer", CustomerName: "Planted Ltd"})
			assert.NoError(t, err)
			assert.Equal(t, ours.ID, id)
		})
	}
	asking.Wait()
	id, err := s.starter.FindConnection(ctx, reauth.FindConnection{Application: "sandbox", CustomerID: "planted-customer"})
	require.NoError(t, err)
	assert.Equal(t, theirs.ID, id)
	assert.Zero(t, s.sim.Counters().SessionsOpened)

	// For one who never connected Finch opens a session, of a minute.
	id, err = s.starter.FindConnection(ctx, reauth.FindConnection{CustomerID: "nobody"})
	require.NoError(t, err)
	assert.Empty(t, id)
	sessions := s.sim.Sessions("")
	require.Len(t, sessions, 1)
	assert.Equal(t, time.Minute, sessions[0].ExpiresAt.Sub(sessions[0].CreatedAt))

	_, err = s.starter.FindConnection(ctx, reauth.FindConnection{Application: "nowhere", CustomerID: "x"})
	require.ErrorIs(t, err, starter.ErrApplicationUnknown)
	require.ErrorIs(t, err, starter.ErrRefused)
	_, err = s.starter.FindConnection(ctx, reauth.FindConnection{})
	require.ErrorIs(t, err, starter.ErrRefused)
	require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) {
		k.Faults = []finchsim.Fault{{Endpoint: "POST /connect/sessions", Kind: finchsim.FaultServerError, Times: 1}}
	}))
	id, err = s.starter.FindConnection(ctx, reauth.FindConnection{CustomerID: "planted-customer"})
	require.NoError(t, err, "a provider that fails once is asked again")
	assert.Equal(t, ours.ID, id)
	require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) {
		k.Faults = []finchsim.Fault{{Endpoint: "POST /connect/sessions", Kind: finchsim.FaultAnswer, Status: 401, Body: `{"error": "Invalid client: no"}`}}
	}))
	_, err = s.starter.FindConnection(ctx, reauth.FindConnection{CustomerID: "planted-customer"})
	require.ErrorIs(t, err, starter.ErrRefused)
	require.ErrorContains(t, err, "invalid_client")

	// What Temporal shows holds no customer.
	workflowID := reauth.FindConnectionWorkflowID("default", "planted-customer")
	assert.NotContains(t, workflowID, "planted")
	shown := fmt.Sprint(s.history(workflowID, ""))
	for _, secret := range []string{"planted-customer", "Planted Ltd", sandboxClientSecret, clientSecret} {
		assert.False(t, strings.Contains(shown, secret), secret)
	}
}
