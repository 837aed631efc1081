package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/privacy"
	"github.com/finch-reauth/reauth/reauth"
)

// inTemporal is every byte that Temporal keeps of the stack's workflows.
func (s *stack) inTemporal() string {
	s.t.Helper()
	var text strings.Builder
	list, err := s.temporal.ListWorkflow(context.Background(), &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("TaskQueue = %q", s.taskQueue)})
	require.NoError(s.t, err)
	for _, execution := range list.GetExecutions() {
		text.WriteString(protojson.Format(execution))
		h := s.history(execution.GetExecution().GetWorkflowId(), execution.GetExecution().GetRunId())
		text.WriteString(protojson.Format(h))
		payloads(h.ProtoReflect(), func(p *commonpb.Payload) { text.Write(p.GetData()); text.WriteByte('\n') })
	}
	return text.String()
}

// Everything that is known of a connection goes, also while its case is open, and
// what is known of another stays.
func TestForgetAConnection(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newStack(t)
	b := s.browser()

	// A customer who logs in to the wrong account first, then to the right one.
	c := s.stale()
	s.report(c, map[string]any{"token_fingerprint": reauth.Fingerprint(c.token)})
	s.settle(b, b.press(s.toConnect(b, s.link()), "authorize-other"))
	s.settle(b, b.press(s.toConnect(b, s.link()), "authorize"))
	require.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	// Once more, by the RedeemWorkflow of another browser.
	require.NoError(t, s.sim.Break(c.id))
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	s.knobs(func(k *finchsim.Knobs) { k.EchoState = false })
	connect := s.toConnect(b, s.link())
	stranger := s.browser()
	s.settle(stranger, stranger.press(connect, "authorize"))
	s.result(c)
	s.knobs(func(k *finchsim.Knobs) { k.EchoState = true })
	codes := append(b.codes, stranger.codes...)
	require.Len(t, codes, 3)
	// And a third case, which is open.
	require.NoError(t, s.sim.Break(c.id))
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)

	// Somebody else, who stays.
	other, token, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: "Bystander Inc"})
	require.NoError(t, err)
	status, body := s.call(http.MethodPut, "/v1/connections/"+other.ID, map[string]any{
		"customer_id": "cus-2", "customer_name": "Bystander Inc", "access_token": token,
		"contacts": []map[string]any{{"email": "bystander@example.com", "name": "Bea"}},
	})
	require.Equal(t, http.StatusCreated, status, "%v", body)
	bystander := customer{other.ID, token}
	require.NoError(t, s.sim.Break(bystander.id))
	s.report(bystander, nil)
	s.awaitPhase(bystander, reauth.PhaseAwaitingCustomer)

	var people []string
	list, err := s.db.Recipients(ctx, c.id)
	require.NoError(t, err)
	for _, p := range list {
		people = append(people, p.ContactID)
	}
	planted := map[string]string{
		"its ID": c.id, "the address": customerMail, "the person": "Pat Payroll", "the customer": "Acme Bakery", "the customer's ID": "cus-1",
		"the first token": reauth.Fingerprint(c.token), "the contact": people[0],
	}
	for i, code := range codes {
		planted[fmt.Sprintf("code %d", i)] = reauth.CodeHash(code)
	}
	s.eventually("Temporal lists all that has happened", func() bool {
		text := s.inTemporal()
		return strings.Contains(text, reauth.WorkflowID(c.id)) && strings.Contains(text, reauth.RedeemWorkflowID(codes[2]))
	})
	before := ""
	for _, text := range everyRow(t, s.dbURL) {
		before += text
	}
	for what, marker := range planted {
		require.Contains(t, before, marker, "the scan does see %s", what)
	}

	// Nothing goes while the case cannot end: there is no worker.
	s.stopWorker()
	forgetter := privacy.Forgetter{DB: s.db, Temporal: s.starter, By: "a test", Wait: time.Millisecond}
	found, err := forgetter.LookAt(ctx, c.id)
	require.NoError(t, err)
	assert.Equal(t, reauth.WorkflowID(c.id), found.Open)
	assert.Equal(t, 3, found.Histories, "two cases and a redeem")
	_, err = forgetter.Connection(ctx, c.id)
	require.ErrorIs(t, err, privacy.ErrStillOpen)
	require.Contains(t, err.Error(), reauth.WorkflowID(c.id))
	rows, err := s.db.CountConnection(ctx, c.id)
	require.NoError(t, err)
	require.Positive(t, rows["cases"], "nothing is half deleted")
	require.NotEmpty(t, s.history(reauth.WorkflowID(c.id), "").GetEvents())

	// With one, it goes on.
	s.startWorker()
	forgetter.Wait = patience
	gone, err := forgetter.Connection(ctx, c.id)
	require.NoError(t, err)
	assert.Empty(t, gone.Open)
	assert.Equal(t, 4, gone.Histories, "three cases and a redeem")
	assert.Positive(t, gone.Rows["quarantined_tokens"])

	left := everyRow(t, s.dbURL)
	for table, text := range left {
		for what, marker := range planted {
			assert.False(t, strings.Contains(text, marker), "%s is left in the table %s: …%s…", what, table, around(text, marker))
		}
	}
	assert.Contains(t, left["contacts"], "bystander@example.com")
	assert.Contains(t, left["tokens"], reauth.Fingerprint(token))
	s.eventually("Temporal lists none of it", func() bool {
		text := s.inTemporal()
		for _, marker := range planted {
			if strings.Contains(text, marker) {
				return false
			}
		}
		return strings.Contains(text, bystander.id)
	})
	assert.Equal(t, reauth.PhaseAwaitingCustomer, s.status(bystander).Phase, "another's case goes on")
	_, err = forgetter.Connection(ctx, c.id)
	require.ErrorIs(t, err, privacy.ErrUnknown)
}

// A person goes from every connection, in the middle of a case, which goes on
// with somebody else; who had opted out is never written to again.
func TestForgetAContact(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.register(
		reauth.Contact{Email: customerMail, Name: "Pat Payroll"},
		reauth.Contact{Email: "second@acme.example", Name: "Sam Second"},
	)
	webhooks := s.sim.Knobs().Webhooks
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = false })
	require.NoError(t, s.sim.Break(c.id))
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = webhooks })
	s.report(c, nil)
	s.link()
	s.call(http.MethodPost, "/v1/contacts/bounce", map[string]any{"email": "gone@acme.example", "kind": "opt_out"})

	forgetter := privacy.Forgetter{DB: s.db, Temporal: s.starter}
	forgotten, untold, err := forgetter.Contact(context.Background(), strings.ToUpper(customerMail), false)
	require.NoError(t, err)
	assert.Equal(t, 1, forgotten.Contacts)
	assert.Len(t, forgotten.Cases, 1)
	assert.Zero(t, untold)
	s.eventually("the next person takes over", func() bool { return len(s.mails("second@acme.example")) > 0 })

	for where, text := range everyRow(t, s.dbURL) {
		assert.NotContains(t, text, customerMail, "the table %s", where)
		assert.NotContains(t, text, "Pat Payroll", "the table %s", where)
	}
	assert.NotContains(t, s.inTemporal(), customerMail)
	assert.NotContains(t, s.logs.String(), customerMail)
	_, _, err = forgetter.Contact(context.Background(), "gone@acme.example", false)
	require.NoError(t, err)
	kind, err := s.db.AddressUnreachable(context.Background(), "gone@acme.example")
	require.NoError(t, err)
	assert.EqualValues(t, "opt_out", kind, "an opt-out is honoured for ever")
}
