package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// sandboxed is a stale connection of the second application.
func (s *stack) sandboxed(mail string) customer {
	s.t.Helper()
	connection, token, err := s.sandbox.AddConnection(finchsim.NewConnection{CustomerName: "Sandbox Ltd"})
	require.NoError(s.t, err)
	status, body := s.call(http.MethodPut, "/v1/connections/"+connection.ID, map[string]any{
		"application": "sandbox", "customer_name": "Sandbox Ltd", "contacts": []reauth.Contact{{Email: mail}}, "access_token": token,
	})
	require.Equal(s.t, http.StatusCreated, status, "%v", body)
	require.NoError(s.t, s.sandbox.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = false }))
	require.NoError(s.t, s.sandbox.Break(connection.ID))
	return customer{connection.ID, token}
}

// linkTo waits for an address's first mail and returns its link.
func (s *stack) linkTo(mail string) (link string) {
	s.t.Helper()
	s.eventually("a mail with a link has come to "+mail, func() bool {
		for _, m := range s.mails(mail) {
			for _, l := range m.Links {
				if strings.HasPrefix(l, s.url+"/r/") {
					link = l
				}
			}
		}
		return link != ""
	})
	return link
}

// Two applications side by side: each connection is recovered with its own
// credentials, however its code comes back, and never meets the other's Finch.
func TestApplicationsSideBySide(t *testing.T) {
	for name, tc := range map[string]struct{ echo, cookie bool }{
		"by state": {echo: true}, "by the cookie": {cookie: true}, "by the path alone": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, func(o *options) { o.sandbox = true })
			const sandboxMail = "planted.sandbox@acme.example"
			for _, sim := range []*finchsim.Sim{s.sim, s.sandbox} {
				require.NoError(t, sim.SetKnobs(func(k *finchsim.Knobs) { k.EchoState = tc.echo }))
			}
			ours, theirs := s.stale(), s.sandboxed(sandboxMail)
			for _, c := range []customer{ours, theirs} {
				status, answer := s.report(c, nil)
				require.Equal(t, http.StatusAccepted, status, "%v", answer)
			}
			for c, link := range map[customer]string{theirs: s.linkTo(sandboxMail), ours: s.linkTo(customerMail)} {
				b := s.browser()
				connect := b.press(b.get(link), "")
				if !tc.cookie {
					b = s.browser() // another browser: no cookie
				}
				p := s.settle(b, b.press(connect, "authorize"))
				require.Contains(t, p.body, "works again")
				require.Equal(t, c == theirs, strings.HasPrefix(b.last, s.url+"/callback/sandbox?"), b.last)
				assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
			}
			// Each Finch got its own code once, and none that it never issued.
			for _, sim := range []*finchsim.Sim{s.sim, s.sandbox} {
				counters := sim.Counters()
				assert.Equal(t, 1, counters.Calls["POST /auth/token"], "no code was brought to the other one")
				assert.Zero(t, counters.Exchanges[finchsim.UnknownCode])
				assert.Len(t, counters.Exchanges, 1)
			}
		})
	}
}

func TestApplicationsAreKeptApart(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(o *options) { o.sandbox = true })
	const sandboxMail = "planted.sandbox@acme.example"
	connection, token, err := s.sandbox.AddConnection(finchsim.NewConnection{CustomerName: "Sandbox Ltd"})
	require.NoError(t, err)

	// What is wrong is said at the door.
	status, body := s.call(http.MethodPut, "/v1/connections/"+connection.ID, map[string]any{"application": "nowhere"})
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, body["detail"], "body.application: is not configured here; known are default, sandbox.")
	status, body = s.call(http.MethodPut, "/v1/connections/"+connection.ID, map[string]any{"access_token": token})
	require.Equal(t, http.StatusUnprocessableEntity, status, "the default one's Finch does not know the token")
	require.Contains(t, body["detail"], "body.access_token")

	// Finch's webhooks count for the connections of whoever signed them.
	c := s.sandboxed(sandboxMail)
	require.NoError(t, s.sandbox.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = true }))
	require.NoError(t, s.sandbox.Break(c.id))
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	mine, _, err := s.sim.AddConnection(finchsim.NewConnection{ConnectionID: c.id})
	require.NoError(t, err)
	require.NoError(t, s.sim.Delete(mine.ID)) // says "disconnected" of the same ID
	s.eventually("the other Finch's event was taken", func() bool { return s.sim.Counters().WebhooksDelivered == 1 })
	s.eventually("it was looked at", func() bool { return strings.Contains(s.logs.String(), "was signed by another application") })
	_, seen := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
	assert.Equal(t, "stale", seen["status"], "the other application's event says nothing about it")
}
