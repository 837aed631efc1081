package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// A removed connection is not reported, mailed or opened again, whichever door
// somebody comes through; and a case that was open is not told by anybody here,
// as if Temporal had been away just then.
func TestARemovedConnectionIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	status, answer := s.report(c, map[string]any{"reminders": []string{"0s", "6s", "1h"}})
	require.Equal(t, http.StatusAccepted, status, "%v", answer)
	link := s.link()
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)

	// A notice is planned when the connection goes: nobody gets it.
	removed, err := s.db.RemoveConnection(context.Background(), c.id)
	require.NoError(t, err)
	require.True(t, removed)
	result := s.result(c)
	assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
	assert.Equal(t, reauth.ReasonConnectionRemoved, result.Reason)
	assert.Len(t, s.mails(customerMail), 1)
	cases := func() float64 {
		t.Helper()
		_, list := s.call(http.MethodGet, "/v1/cases", nil)
		return float64(len(list["cases"].([]any)))
	}
	require.EqualValues(t, 1, cases())

	// The report over HTTP, and the other calls of a backend.
	status, answer = s.report(c, nil)
	assert.Equal(t, http.StatusNotFound, status)
	assert.Contains(t, answer["detail"], "was removed. PUT /v1/connections/")
	for _, call := range []struct{ method, path string }{
		{http.MethodPost, "/reauth/session"}, {http.MethodPost, "/reauth/remind"}, {http.MethodGet, "/token"},
	} {
		status, _ = s.call(call.method, "/v1/connections/"+c.id+call.path, nil)
		assert.Contains(t, []int{http.StatusNotFound, http.StatusConflict}, status, call.path)
	}
	// The start through Temporal.
	s.start(reauth.Input{ConnectionID: c.id, Source: reauth.SourceManual})
	result = s.result(c)
	assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
	assert.Equal(t, reauth.ReasonConnectionRemoved, result.Reason)
	// Finch's webhook.
	before := s.sim.Counters().WebhooksDelivered
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = true })
	require.NoError(t, s.sim.Break(c.id))
	s.eventually("the webhook was taken", func() bool { return s.sim.Counters().WebhooksDelivered > before })
	s.eventually("the webhook was acted upon", func() bool {
		waiting, _, err := s.db.WebhookBacklog(context.Background())
		return err == nil && waiting == 0
	})
	// The sweep, both its turn and by name.
	asked := s.sim.Counters().Calls["GET /introspect"]
	for i, in := range []reauth.SweepInput{{All: true}, {ConnectionIDs: []string{c.id}}} {
		sweep, err := s.starter.Sweep(context.Background(), fmt.Sprintf("sweep-%s-%d", c.id, i), in)
		require.NoError(t, err)
		require.NoError(t, s.temporal.GetWorkflow(context.Background(), sweep.WorkflowID, sweep.RunID).Get(context.Background(), nil))
	}
	assert.Equal(t, asked, s.sim.Counters().Calls["GET /introspect"], "nobody asked Finch about it")
	// The link in the mail, and its button.
	b := s.browser()
	p := b.get(link)
	assert.Equal(t, http.StatusNotFound, p.status)
	assert.Contains(t, p.body, "This link does not work")
	request, err := http.NewRequest(http.MethodPost, link, strings.NewReader(""))
	require.NoError(t, err)
	assert.Equal(t, http.StatusNotFound, b.do(request).status)

	assert.EqualValues(t, 1, cases(), "no further case")
	assert.Len(t, s.mails(customerMail), 1)
	assert.Empty(t, s.mails(operatorMail))
	_, connection := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
	assert.Equal(t, "removed", connection["status"])
}

// A connection is disconnected at Finch before it is removed; and the one that
// somebody made by logging in to the wrong account is ended by an operator.
func TestDisconnecting(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	p := s.settle(b, b.press(s.toConnect(b, s.link()), "authorize-other"))
	require.Contains(t, p.body, "That was another account")
	var list map[string]any
	s.eventually("the wrong account's token is in quarantine", func() bool {
		_, list = s.call(http.MethodGet, "/v1/quarantine", nil)
		return len(list["tokens"].([]any)) == 1
	})
	kept := list["tokens"].([]any)[0].(map[string]any)
	assert.Equal(t, "wrong_account", kept["reason"])
	assert.Equal(t, c.id, kept["expected_connection_id"])
	assert.Equal(t, "default", kept["application"])
	path := "/v1/quarantine/" + fmt.Sprint(kept["fingerprint"])
	for range 2 {
		status, ended := s.call(http.MethodPost, path+"/disconnect", nil)
		require.Equal(t, http.StatusOK, status, "%v", ended)
		assert.Equal(t, "disconnected", ended["ended_how"])
	}
	wrong, err := s.sim.Connection(fmt.Sprint(kept["connection_id"]))
	require.NoError(t, err)
	assert.Equal(t, "disconnected", wrong.Status)
	_, list = s.call(http.MethodGet, "/v1/quarantine", nil)
	assert.Empty(t, list["tokens"])

	for range 2 {
		status, _ := s.request(http.MethodDelete, "/v1/connections/"+c.id+"?disconnect=true", nil, apiKey)
		require.Equal(t, http.StatusNoContent, status)
	}
	at, err := s.sim.Connection(c.id)
	require.NoError(t, err)
	assert.Equal(t, "disconnected", at.Status)
	assert.Equal(t, reauth.OutcomeCancelled, s.result(c).Outcome)
	assert.Equal(t, 2, s.sim.Counters().Calls["POST /disconnect"], "each once")
	_, connection := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
	assert.NotEmpty(t, connection["disconnected_at"])
}
