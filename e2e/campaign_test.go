package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/chat/chatsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

const alternateMail = "alternate@acme.example"

func (s *stack) staleWith(contacts ...reauth.Contact) customer {
	s.t.Helper()
	c := s.register(contacts...)
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = false })
	require.NoError(s.t, s.sim.Break(c.id))
	return c
}

func primaryAndAlternate() []reauth.Contact {
	return []reauth.Contact{
		{Email: customerMail, Name: "Pat Payroll", Role: "payroll admin"},
		{Email: alternateMail, Name: "Alex Alternate", Role: "alternate"},
	}
}

// An address that takes no mail hands the case on to the next person in the
// same step; a backend's new contact hears at once.
func TestABouncedAddressHandsTheCaseOn(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550, Enhanced: "5.1.1", To: customerMail}))
	c := s.staleWith(primaryAndAlternate()...)
	s.report(c, nil)
	s.eventually("the alternate has heard", func() bool { return len(s.mails(alternateMail)) == 1 })
	assert.Empty(t, s.mails(customerMail))
	assert.Empty(t, s.mails(operatorMail), "somebody could be told, so the operator need not hear")
	status, body := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, "bounce", body["contacts"].([]any)[0].(map[string]any)["unreachable"])

	status, body = s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{
		"customer_name": "Acme Bakery", "contacts": append(primaryAndAlternate(), reauth.Contact{Email: "new@acme.example"}),
	})
	require.Equal(t, http.StatusOK, status, "%v", body)
	s.eventually("the new contact has heard", func() bool { return len(s.mails("new@acme.example")) == 1 })
	assert.Len(t, s.mails(alternateMail), 1, "who has heard does not hear again")
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

// One press of a mail program's own "unsubscribe" hands the case on. Opening
// the page changes nothing.
func TestAnOptOutHandsTheCaseOn(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.staleWith(primaryAndAlternate()...)
	s.report(c, nil)
	s.eventually("the first person has heard", func() bool { return len(s.mails(customerMail)) == 1 })
	header := s.mails(customerMail)[0].Header("List-Unsubscribe")
	stop := strings.Trim(header, "<>")
	require.True(t, strings.HasPrefix(stop, s.url+"/stop/"), header)
	require.Equal(t, "List-Unsubscribe=One-Click", s.mails(customerMail)[0].Header("List-Unsubscribe-Post"))
	for range 3 {
		s.browser().get(stop)
	}
	assert.Empty(t, s.mails(alternateMail), "a scanner that opens the page stops nothing")

	response, err := http.PostForm(stop, url.Values{"List-Unsubscribe": {"One-Click"}})
	require.NoError(t, err)
	_ = response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	s.eventually("the alternate has heard", func() bool { return len(s.mails(alternateMail)) == 1 })
	s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/remind", nil)
	s.eventually("the reminder has gone to the alternate", func() bool { return len(s.mails(alternateMail)) == 2 })
	assert.Len(t, s.mails(customerMail), 1)

	s.reconnect2(alternateMail)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.Len(t, s.mails(alternateMail), 3, "with the note that it is fixed")
	assert.Len(t, s.mails(customerMail), 1, "who opted out hears nothing more")
}

// reconnect2 is everything that the owner of an address does.
func (s *stack) reconnect2(address string) page {
	s.t.Helper()
	for _, m := range s.mails(address) {
		for _, l := range m.Links {
			if strings.HasPrefix(l, s.url+"/r/") {
				b := s.browser()
				return s.settle(b, b.press(s.toConnect(b, l), "authorize"))
			}
		}
	}
	s.t.Fatal("nobody has a link")
	return page{}
}

// A complaint that the company's mail service reports, and taking it back.
func TestAReportedComplaint(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.staleWith(primaryAndAlternate()...)
	s.report(c, nil)
	s.eventually("the first person has heard", func() bool { return len(s.mails(customerMail)) == 1 })
	status, body := s.call(http.MethodPost, "/v1/contacts/bounce", map[string]any{"email": customerMail, "kind": "complaint"})
	require.Equal(t, http.StatusOK, status, "%v", body)
	assert.EqualValues(t, 1, body["cases"])
	s.eventually("the alternate has heard", func() bool { return len(s.mails(alternateMail)) == 1 })
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

// receiver is the company's backend, as it takes webhooks.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	events []map[string]any
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	require.NoError(t, err)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		raw, _ := io.ReadAll(request.Body)
		var event map[string]any
		if verifier.Verify(raw, request.Header) != nil || json.Unmarshal(raw, &event) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, event)
	}))
	t.Cleanup(r.Close)
	return r
}

// of lists the events of a type.
func (r *receiver) of(kind string) []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.events), func(e map[string]any) bool { return e["type"] != kind })
}

func (r *receiver) types() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		list = append(list, fmt.Sprint(e["type"]))
	}
	return list
}

// text is all that has arrived.
func (r *receiver) text(t *testing.T) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	raw, err := json.Marshal(r.events)
	require.NoError(t, err)
	return string(raw)
}

// The backend hears of every step of a case, in their order.
func TestEveryStepIsAWebhook(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	s := newStack(t, func(o *options) { o.webhookURL = r.URL })
	c := s.stale()
	s.report(c, nil)
	s.reconnect(s.browser())
	s.result(c)
	s.eventually("the end has arrived", func() bool { return len(r.of("reauth.case.closed")) == 1 })
	types := r.types()
	for _, kind := range []string{"opened", "confirmed", "notice_sent", "closed"} {
		assert.Contains(t, types, "reauth.case."+kind, "%v", types)
	}
	assert.Equal(t, "reauth.case.opened", types[0])
	data := r.of("reauth.case.notice_sent")[0]["data"].(map[string]any)
	assert.Equal(t, c.id, data["connection_id"])
	assert.Equal(t, "cus-1", data["customer_id"])
	assert.NotContains(t, r.text(t), customerMail, "no personal data where nobody is to be written to")
}

// Headless: we mail nobody, and the backend can write itself with what it gets.
func TestHeadless(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	s := newStack(t, func(o *options) {
		o.webhookURL = r.URL
		o.settings = func(a *activities.Settings) {
			a.Campaigns = campaign.BookOf(campaign.Campaign{Name: "default", Steps: []campaign.Step{
				{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Webhook, Anytime: true},
			}})
		}
	})
	c := s.stale()
	s.report(c, nil)
	s.eventually("the notice has arrived at the backend", func() bool { return len(r.of(activities.NoticeDue)) == 1 })
	data := r.of(activities.NoticeDue)[0]["data"].(map[string]any)
	assert.Equal(t, "Acme Bakery", data["customer_name"])
	person := data["recipients"].([]any)[0].(map[string]any)
	assert.Equal(t, customerMail, person["email"])
	b := s.browser()
	p := s.settle(b, b.press(s.toConnect(b, fmt.Sprint(person["link_url"])), "authorize"))
	assert.Equal(t, http.StatusOK, p.status)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.Empty(t, s.mails(customerMail), "we mail nobody")
}

// The operators' chat has one message for a case, which changes in place.
func TestTheChatFollowsACase(t *testing.T) {
	t.Parallel()
	sim, err := chatsim.New(chatsim.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sim.Close() })
	s := newStack(t, func(o *options) { o.chat = sim.SlackSetting("ops") })
	c := s.stale()
	s.report(c, nil)
	s.eventually("the chat has heard", func() bool { return len(sim.Messages()) == 1 })
	assert.Contains(t, sim.Messages()[0].Text, "waiting for the customer")
	s.reconnect(s.browser())
	s.result(c)
	s.eventually("the message says how it ended", func() bool { return strings.Contains(sim.Messages()[0].Text, "logged in again") })
	assert.Len(t, sim.Messages(), 1)
	assert.NotContains(t, s.logs.String(), sim.Secrets()[0])
}

// When many connections break at once on the real server, nobody at a customer
// hears of it, and the operator once; a release lets go who is still broken.
func TestStorm(t *testing.T) {
	t.Parallel()
	const many, stay = 60, 3
	s := newStack(t, func(o *options) {
		o.settings = func(a *activities.Settings) {
			a.Storm = db.StormRule{Count: 5, Share: 0.1, Window: 5 * time.Minute, AtMost: time.Hour}
			a.StormSettles = 30 * time.Second // a busy machine confirms slowly; whoever asks before it is a storm is not held
		}
	})
	customers := make([]customer, many)
	for i := range customers {
		customers[i] = s.staleWith(reauth.Contact{Email: fmt.Sprintf("c%02d@acme.example", i)})
	}
	var reports sync.WaitGroup
	for _, c := range customers {
		reports.Go(func() { s.report(c, nil) })
	}
	reports.Wait()
	var storms []any
	s.eventually("every case is held by one storm", func() bool {
		_, body := s.call(http.MethodGet, "/v1/storms", nil)
		storms, _ = body["storms"].([]any)
		return len(storms) == 1 && fmt.Sprint(storms[0].(map[string]any)["held"]) == fmt.Sprint(many)
	})
	s.eventually("the operator has heard", func() bool { return len(s.mails(operatorMail)) == 1 })
	assert.True(t, s.status(customers[0]).HeldByStorm)

	for _, c := range customers[stay:] { // the provider mends most, and says so
		require.NoError(t, s.sim.Restore(c.id))
		s.signal(c, reauth.SignalConnectionRestored, nil)
	}
	for _, c := range customers[stay:] {
		assert.Equal(t, reauth.OutcomeHealed, s.result(c).Outcome)
	}
	for i := range customers {
		assert.Empty(t, s.mails(fmt.Sprintf("c%02d@acme.example", i)), "nobody at a customer has heard")
	}
	id := fmt.Sprint(storms[0].(map[string]any)["storm_id"])
	status, body := s.call(http.MethodPost, "/v1/storms/"+id+"/release", nil)
	require.Equal(t, http.StatusAccepted, status, "%v", body)
	for i := range stay {
		s.eventually("who is still broken hears", func() bool { return len(s.mails(fmt.Sprintf("c%02d@acme.example", i))) == 1 })
	}
	s.eventually("the operator hears what became of it", func() bool { return len(s.mails(operatorMail)) == 2 })
	status, _ = s.call(http.MethodPost, "/v1/storms/"+id+"/release", nil)
	assert.Equal(t, http.StatusConflict, status)
	for _, c := range customers[:stay] {
		s.signal(c, reauth.SignalCancel, reauth.Cancel{})
		s.result(c)
	}
	assert.NoError(t, s.temporal.GetWorkflow(context.Background(), reauth.StormWorkflowID(id), "").Get(context.Background(), nil))
}
