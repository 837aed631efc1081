package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// companies is a registered connection of three companies, two of which Finch has
// stopped serving.
func (s *stack) companies() (customer, finchsim.Connection) {
	s.t.Helper()
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = false })
	at, token, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: "Acme Group", Entities: []string{"Planted East", "Planted West", "Planted North"}})
	require.NoError(s.t, err)
	status, body := s.call(http.MethodPut, "/v1/connections/"+at.ID, map[string]any{
		"customer_name": "Acme Group", "contacts": []reauth.Contact{{Email: customerMail, Name: "Pat Payroll"}}, "access_token": token,
	})
	require.Equal(s.t, http.StatusCreated, status, "%v", body)
	require.NoError(s.t, s.sim.Break(at.ID, at.Entities[0].ID))
	require.NoError(s.t, s.sim.Break(at.ID, at.Entities[1].ID))
	return customer{at.ID, token}, at
}

// A connection of which some companies still serve data is one case. A login that
// brings one of them back, but not the other, does not end it; and no company is
// named where Temporal shows plain text.
func TestSomeCompaniesWantALogin(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c, at := s.companies()
	s.report(c, nil)
	link := s.link()
	mail := strings.Join(strings.Fields(s.mails(customerMail)[0].Text), " ")
	assert.Contains(t, mail, "Gusto needs you to sign in again for Planted East and Planted West")
	assert.Contains(t, mail, "Planted North still works.")
	b := s.browser()
	assert.Contains(t, b.get(link).body, "<dt>Needs you</dt><dd>Planted East, Planted West</dd>")

	p := b.press(s.toConnect(b, link), "authorize-only-0")
	s.eventually("the page says what is still waited for", func() bool {
		p = b.get(p.url.String())
		return strings.Contains(p.body, "Planted East and Planted North work already. We are waiting for Planted West.")
	})
	status := s.status(c)
	assert.Empty(t, status.Outcome)
	assert.Equal(t, reauth.EntityCount{Total: 3, Stale: 1}, *status.Entities)

	require.NoError(t, s.sim.Restore(c.id, at.Entities[1].ID))
	p = s.settle(b, p)
	assert.Contains(t, p.body, "works again")
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Len(t, view["entities"], 3)
	said := fmt.Sprint(view["timeline"])
	for _, line := range []string{"2 of 3 entities want a new login: Planted East, Planted West.", "1 of 3 entities wants a new login: Planted West.", "None of 3 entities wants a new login any more."} {
		assert.Contains(t, said, line)
	}
	assert.NotContains(t, fmt.Sprint(s.history(reauth.WorkflowID(c.id), "")), "Planted")
}
