package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

func TestTheWholePath(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	status, answer := s.report(c, map[string]any{"token_fingerprint": reauth.Fingerprint(c.token)})
	require.Equal(t, http.StatusAccepted, status, "%v", answer)
	assert.Equal(t, true, answer["created"])
	assert.Equal(t, "reauth-"+c.id, answer["workflow_id"])

	b := s.browser()
	p := s.reconnect(b)
	assert.NotContains(t, p.url.String(), "code=", "the code leaves the address bar")
	result := s.result(c)
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, answer["case_id"], result.CaseID)
	assert.Equal(t, int64(2), result.Generation)
	assert.True(t, s.apiWorks(c))
	assert.Len(t, s.sim.Counters().Exchanges, 1)

	mails := s.mails(customerMail)
	require.Len(t, mails, 2)
	assert.Equal(t, mails[0].MessageID, mails[1].InReplyTo, "the fixed note is in the same thread")
	assert.Contains(t, mails[0].Subject, "Gusto", "people know their system, not Finch")
	assert.Empty(t, s.mails(operatorMail))

	_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Equal(t, "recovered", view["outcome"])
	assert.NotEmpty(t, view["timeline"])
	_, connection := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
	assert.Equal(t, "connected", connection["status"])
}

// Finch documents the echo of state only for its old static URLs: without it
// the browser's cookie tells, and without either the exchange itself does.
func TestTheCallbackFindsItsCase(t *testing.T) {
	for name, tc := range map[string]struct {
		echo, cookie bool
	}{
		"by state":             {echo: true},
		"by the cookie":        {cookie: true},
		"by what Finch minted": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) { k.EchoState = tc.echo }))
			c := s.stale()
			s.report(c, nil)
			b := s.browser()
			connect := s.toConnect(b, s.link())
			if !tc.cookie {
				b = s.browser() // another browser: no cookie
			}
			p := s.settle(b, b.press(connect, "authorize"))
			assert.Equal(t, http.StatusOK, p.status)
			assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
			assert.True(t, s.apiWorks(c))
			assert.Len(t, s.sim.Counters().Exchanges, 1)
		})
	}
}

func TestEmbeddedConnect(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	status, session := s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/session", nil)
	require.Equal(t, http.StatusOK, status, "%v", session)
	code, err := s.sim.CompleteEmbedded(fmt.Sprint(session["session_id"]), finchsim.SameAccount)
	require.NoError(t, err)
	status, body := s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/code", map[string]any{"code": code})
	require.Less(t, status, 300, "%v", body)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	status, body = s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/code", map[string]any{"code": code})
	require.Less(t, status, 300, "a repeat shows the first result: %v", body)
	assert.Len(t, s.sim.Counters().Exchanges, 1)
}

// A client of any language has nothing but the contract: no keys, plain JSON.
func TestAnyLanguagesClient(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newStack(t)
	c := s.stale()
	foreign, err := client.Dial(client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(s.logger())})
	require.NoError(t, err)
	t.Cleanup(foreign.Close)
	run, err := foreign.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "reauth-" + c.id, TaskQueue: s.taskQueue}, "ReauthWorkflow", map[string]any{"connection_id": c.id})
	require.NoError(t, err)
	var status map[string]any
	s.eventually("the case waits for the customer", func() bool {
		answer, err := foreign.QueryWorkflow(ctx, "reauth-"+c.id, "", "status")
		require.NoError(t, err)
		require.NoError(t, answer.Get(&status))
		return status["phase"] == "awaiting_customer"
	})
	for _, name := range []string{"case_id", "connection_id", "phase", "outcome", "session_id", "session_expires_at", "next_notice_at", "notices_sent", "generation", "last_error"} {
		assert.Contains(t, status, name)
	}
	assert.Equal(t, run.GetRunID(), status["case_id"])
	code, err := s.sim.CompleteConnect(fmt.Sprint(status["session_id"]), finchsim.SameAccount)
	require.NoError(t, err)
	require.NoError(t, foreign.SignalWorkflow(ctx, "reauth-"+c.id, "", "code-received", map[string]any{"code": code}))
	var result map[string]any
	require.NoError(t, run.Get(ctx, &result))
	assert.Equal(t, "recovered", result["outcome"])
	assert.EqualValues(t, 2, result["generation"])

	_, err = foreign.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "another-id-" + c.id, TaskQueue: s.taskQueue}, "ReauthWorkflow", map[string]any{"connection_id": c.id})
	require.NoError(t, err)
	err = foreign.GetWorkflow(ctx, "another-id-"+c.id, "").Get(ctx, nil)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, "workflow_id_mismatch", failure.Type())
}

func TestOutcomes(t *testing.T) {
	t.Run("false alarm", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := s.register()
		s.report(c, nil)
		assert.Equal(t, reauth.OutcomeFalseAlarm, s.result(c).Outcome)
		assert.Empty(t, s.inbox.Messages())
	})
	t.Run("healed", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := s.stale()
		s.report(c, nil)
		s.link()
		require.NoError(t, s.sim.Restore(c.id)) // whose webhook tells us
		assert.Equal(t, reauth.OutcomeHealed, s.result(c).Outcome)
		s.eventually("the fixed note has come", func() bool { return len(s.mails(customerMail)) == 2 })
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := s.stale()
		s.report(c, nil)
		s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
		status, _ := s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/cancel", map[string]any{"reason": "the customer left"})
		require.Less(t, status, 300)
		result := s.result(c)
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, "the customer left", result.Reason)
	})
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := s.stale()
		s.report(c, nil)
		s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
		status, _ := s.call(http.MethodDelete, "/v1/connections/"+c.id, nil)
		require.Less(t, status, 300)
		assert.Equal(t, reauth.OutcomeCancelled, s.result(c).Outcome)
	})
	t.Run("failed: deleted at Finch", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		connection, _, err := s.sim.AddConnection(finchsim.NewConnection{})
		require.NoError(t, err)
		c := customer{id: connection.ID}
		_, _ = s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{"customer_name": "Acme", "contacts": []any{}})
		require.NoError(t, s.sim.Delete(c.id))
		s.report(c, nil)
		result := s.result(c)
		assert.Equal(t, reauth.OutcomeFailed, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionNotFound, result.Reason)
		s.eventually("the operator is told", func() bool { return len(s.mails(operatorMail)) == 1 })
		_, view := s.call(http.MethodGet, "/v1/connections/"+c.id, nil)
		assert.Equal(t, "disconnected", view["status"])
	})
	t.Run("failed: nobody registered it", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := customer{id: "nobody-knows-me"}
		status, body := s.report(c, nil)
		assert.Equal(t, http.StatusNotFound, status)
		assert.Contains(t, body["detail"], "PUT /v1/connections/")
		s.start(reauth.Input{ConnectionID: c.id})
		result := s.result(c)
		assert.Equal(t, reauth.OutcomeFailed, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionUnknown, result.Reason)
	})
	t.Run("expired, and the link opens a new case", func(t *testing.T) {
		t.Parallel()
		s := newStack(t)
		c := s.stale()
		s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 1})
		link := s.link()
		first := s.result(c)
		assert.Equal(t, reauth.OutcomeExpired, first.Outcome)
		s.eventually("the operator is told", func() bool { return len(s.mails(operatorMail)) == 1 })
		status, answer := s.report(c, nil)
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, true, answer["suppressed"], "a deadline must mean something")
		s.start(reauth.Input{ConnectionID: c.id}) // past our own doors
		assert.True(t, s.result(c).Suppressed)

		b := s.browser()
		s.settle(b, b.press(s.toConnect(b, link), "authorize"))
		second := s.result(c)
		assert.Equal(t, reauth.OutcomeRecovered, second.Outcome)
		assert.NotEqual(t, first.CaseID, second.CaseID)
		assert.True(t, s.apiWorks(c))
		assert.Len(t, s.mails(customerMail), 1, "the person is here: no first notice, and nobody to tell that it is fixed")
	})
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	one := 1
	s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 1, Renewals: &one})
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	first := s.status(c).SessionID
	s.eventually("the session is renewed", func() bool { return s.status(c).SessionID != first })
	assert.Equal(t, 0, s.status(c).RenewalsLeft)
	s.reconnect(s.browser())
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

func TestFinchsWebhookOpensACase(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.register()
	require.NoError(t, s.sim.Break(c.id))
	s.link()
	_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Equal(t, "webhook", view["source"], "%v", view)
	s.reconnect(s.browser())
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

// A data sync that meets a lost login may be the only one to say so.
func TestFinchsJobOpensACase(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.register()
	_, err := s.sim.Sync(c.id, finch.JobReauthError)
	require.NoError(t, err)
	s.link()
	_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Equal(t, "webhook", view["source"], "%v", view)
	assert.Equal(t, "job.data_sync_all.completed: reauth_error", view["reason"])
	assert.Contains(t, fmt.Sprint(view["timeline"]), "Finch's webhook said: job.data_sync_all.completed. The job that it names had lost its access.")
	s.reconnect(s.browser())
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

// 1: at most one open case per connection.
func TestAThousandReportsMakeOneCase(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	var mu sync.Mutex
	cases, created := map[string]int{}, 0
	var group sync.WaitGroup
	slots := make(chan struct{}, 64)
	for range 1000 {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			reported, err := s.starter.Report(context.Background(), reauth.Input{ConnectionID: c.id, Source: reauth.SourceAPIError})
			if !assert.NoError(t, err) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			cases[reported.CaseID]++
			if reported.Created {
				created++
			}
		})
	}
	group.Wait()
	assert.Len(t, cases, 1)
	assert.Equal(t, 1, created)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	s.link()
	assert.Zero(t, count(s.history(reauth.WorkflowID(c.id), ""), enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED), "reports leave no history")
	assert.Len(t, s.sim.Sessions(c.id), 1)
	assert.Len(t, s.mails(customerMail), 1)
	list, _, err := s.db.Cases(context.Background(), db.CaseFilter{}, "", 10)
	require.NoError(t, err)
	assert.Len(t, list, 1)
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

// Calls in flight with the old token must not reopen what has just been closed.
func TestAReportWithASupersededToken(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	s.reconnect(s.browser())
	s.result(c)
	old := map[string]any{"token_fingerprint": reauth.Fingerprint(c.token)}
	status, answer := s.report(c, old)
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, true, answer["token_superseded"])
	assert.EqualValues(t, 2, answer["generation"])
	s.start(reauth.Input{ConnectionID: c.id, TokenFingerprint: reauth.Fingerprint(c.token)})
	result := s.result(c)
	assert.True(t, result.TokenSuperseded)
	assert.Empty(t, result.Outcome)
	_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Equal(t, "recovered", view["outcome"], "no case was opened")
}

func TestReportsInTheCoolDown(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/cancel", map[string]any{"reason": "later"})
	s.result(c)
	for _, source := range []string{"api_error", "webhook", "sweep"} {
		status, answer := s.report(c, map[string]any{"source": source})
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, true, answer["suppressed"], source)
		assert.NotEmpty(t, answer["until"])
	}
	status, answer := s.report(c, map[string]any{"source": "manual"})
	assert.Equal(t, http.StatusAccepted, status, "a person may always ask: %v", answer)
	s.reconnect(s.browser())
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	require.NoError(t, s.sim.Break(c.id))
	status, _ = s.report(c, nil)
	assert.Equal(t, http.StatusAccepted, status, "it was seen connected")
}

// 7: GET and HEAD change nothing; mail scanners open links.
func TestAMailScannerChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	link := s.link()
	s.eventually("the step is over", func() bool { return s.status(c).NoticesSent == 1 })
	before := s.history(reauth.WorkflowID(c.id), "")
	for range 3 {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
			request, err := http.NewRequest(method, link, nil)
			require.NoError(t, err)
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			_ = response.Body.Close()
			assert.Less(t, response.StatusCode, 500)
			assert.Empty(t, response.Header.Values("Set-Cookie"))
		}
	}
	caseID := s.status(c).CaseID
	click, err := s.db.LastClick(context.Background(), caseID)
	require.NoError(t, err)
	assert.Nil(t, click)
	assert.Len(t, s.history(reauth.WorkflowID(c.id), "").Events, len(before.Events))
	assert.Len(t, s.sim.Sessions(c.id), 1)
}

// 8: a repeat changes nothing and shows the first result.
func TestAReplayedCallback(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	connect := s.toConnect(b, s.link())
	first := s.settle(b, b.press(connect, "authorize"))
	callback := b.last
	require.NotEmpty(t, callback)
	s.result(c)
	for range 3 {
		again := s.settle(b, b.get(callback))
		assert.Equal(t, heading(first), heading(again))
	}
	other := s.browser() // a proxy that replays it elsewhere
	assert.Equal(t, heading(first), heading(s.settle(other, other.get(callback))))
	for code, n := range s.sim.Counters().Exchanges {
		assert.Equal(t, 1, n, "code %s was exchanged once", code)
	}
	codes := 0
	for _, e := range s.history(reauth.WorkflowID(c.id), "").GetEvents() {
		// Finch's "connected" may arrive while the case is just being closed, and be told too.
		if e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == reauth.SignalCodeReceived {
			codes++
		}
	}
	assert.Equal(t, 1, codes)
}

func heading(p page) string {
	_, rest, _ := strings.Cut(p.body, "<h1")
	_, rest, _ = strings.Cut(rest, ">")
	text, _, _ := strings.Cut(rest, "</h1>")
	return text
}

func TestTwoTabs(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) { k.SessionReusable = true }))
	c := s.stale()
	s.report(c, nil)
	link := s.link()
	one, two := s.browser(), s.browser()
	first, second := s.toConnect(one, link), s.toConnect(two, link)
	a := s.settle(one, one.press(first, "authorize"))
	b := s.settle(two, two.press(second, "authorize"))
	assert.Equal(t, heading(a), heading(b), "both tabs say that it is fixed")
	s.eventually("no case is open", func() bool {
		_, err := s.db.OpenCaseOf(context.Background(), c.id)
		return errors.Is(err, db.ErrNotFound)
	})
	assert.True(t, s.apiWorks(c))
	token, err := s.db.CurrentToken(context.Background(), c.id)
	require.NoError(t, err)
	assert.Equal(t, int64(3), token.Generation, "both tokens are kept, and the newer one is current")
}

// A code for a case that has just closed opens a case of its own.
func TestACodeForAClosedCase(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	connect := s.toConnect(b, s.link())
	s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/cancel", map[string]any{"reason": "too late"})
	first := s.result(c)
	require.Equal(t, reauth.OutcomeCancelled, first.Outcome)
	s.settle(b, b.press(connect, "authorize"))
	second := s.result(c)
	assert.Equal(t, reauth.OutcomeRecovered, second.Outcome)
	assert.NotEqual(t, first.CaseID, second.CaseID)
	assert.True(t, s.apiWorks(c))
}

// The customer's own success makes Finch say "connected" before the browser is
// back with the code: that must not end the case as healed.
func TestConnectedArrivesBeforeTheCode(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	connect := s.toConnect(b, s.link())
	code, err := s.sim.CompleteConnect(s.status(c).SessionID, finchsim.SameAccount)
	require.NoError(t, err)
	s.eventually("Finch's webhook has been heard", func() bool {
		due, err := s.db.DueRestored(context.Background(), time.Now().Add(reauth.ClickGrace), 10)
		return err == nil && len(due) == 1
	})
	due, err := s.db.DueRestored(context.Background(), time.Now().Add(reauth.ClickGrace/2), 10)
	require.NoError(t, err)
	assert.Empty(t, due, "the case is told when the click has grown old")
	s.signal(c, reauth.SignalConnectionRestored, nil) // and if it is told all the same
	s.eventually("the case has looked", func() bool { return s.sim.Counters().Calls["GET /introspect"] >= 3 })
	assert.Equal(t, reauth.PhaseAwaitingCustomer, s.status(c).Phase)
	state := connect.url.Query().Get("state")
	p := s.settle(b, b.get(s.url+"/callback?code="+code+"&state="+state))
	assert.Equal(t, http.StatusOK, p.status)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.True(t, s.apiWorks(c))
}

// 3: a token of another connection is never adopted.
func TestAnotherAccount(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	p := s.settle(b, b.press(s.toConnect(b, s.link()), "authorize-other"))
	assert.Contains(t, strings.ToLower(p.body), "account")
	assert.NotContains(t, heading(p), "fixed")
	s.eventually("the operator is told", func() bool { return len(s.mails(operatorMail)) == 1 })
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	token, err := s.db.CurrentToken(context.Background(), c.id)
	require.NoError(t, err)
	assert.Equal(t, int64(1), token.Generation)
	assert.NotEmpty(t, s.status(c).LastError)
	s.settle(b, b.press(s.toConnect(b, s.link()), "authorize"))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.True(t, s.apiWorks(c))
}

func TestAPersonWhoWalksAway(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	p := b.press(s.toConnect(b, s.link()), "leave")
	assert.Equal(t, http.StatusOK, p.status)
	assert.Equal(t, reauth.PhaseAwaitingCustomer, s.status(c).Phase)
	assert.Empty(t, s.sim.Counters().Exchanges)
	s.settle(b, b.press(s.toConnect(b, s.link()), "authorize"))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

func TestABackendThatKeepsItsTokens(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	connection, _, err := s.sim.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	c := customer{id: connection.ID}
	status, body := s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{
		"customer_name": "Acme", "contacts": []reauth.Contact{{Email: customerMail}},
	})
	require.Equal(t, http.StatusCreated, status, "%v", body)
	require.NoError(t, s.sim.Break(c.id))
	s.report(c, nil)
	s.reconnect(s.browser())
	result := s.result(c)
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, int64(1), result.Generation, "the first adopted token is generation 1")
	assert.True(t, s.apiWorks(c))
}

func TestRemindAndSnoozeOverHTTP(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	s.link()
	status, _ := s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/remind", nil)
	require.Less(t, status, 300)
	s.eventually("the reminder has come", func() bool { return len(s.mails(customerMail)) == 2 })
	mails := s.mails(customerMail)
	assert.Equal(t, mails[0].MessageID, mails[1].InReplyTo)
	s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/remind", nil) // pressed twice
	until := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	status, _ = s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/snooze", map[string]any{"until": until})
	require.Less(t, status, 300)
	s.eventually("the next notice waits", func() bool {
		at := s.status(c).NextNoticeAt
		return at != nil && at.Equal(until)
	})
	assert.Len(t, s.mails(customerMail), 2, "an impatient operator does not bury the customer")
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

// busy is one workflow task more, which a machine that is busy with other tests
// may need where two things happen at once.
const busy = 3

// What a person reads must be there: a summary on every activity and timer.
func TestHistoryIsReadableAndCheap(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(o *options) {
		o.settings = func(a *activities.Settings) {
			a.Campaigns = campaign.BookOf(campaign.FromReminders([]string{"0s", "2s", "4s", "6s"}))
		}
	})
	one := s.stale()
	s.report(one, nil)
	s.link()
	s.reconnect(s.browser())
	require.Equal(t, 1, s.result(one).NoticesSent)
	h := s.history(reauth.WorkflowID(one.id), "")
	t.Logf("answered after its first notice: %d events", len(h.Events))
	assert.LessOrEqual(t, len(h.Events), 46+busy)
	for _, e := range h.Events {
		if e.GetEventType() == enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED || e.GetEventType() == enumspb.EVENT_TYPE_TIMER_STARTED {
			assert.NotEmpty(t, e.GetUserMetadata().GetSummary().GetData(), "event %d has no summary", e.GetEventId())
		}
	}

	started, ended := count(h, enumspb.EVENT_TYPE_TIMER_STARTED), count(h, enumspb.EVENT_TYPE_TIMER_FIRED)+count(h, enumspb.EVENT_TYPE_TIMER_CANCELED)
	assert.Equal(t, started, ended, "no timer is left running")
	s.eventually("the case can be searched for", func() bool {
		list, err := s.temporal.ListWorkflow(context.Background(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("ReauthConnectionId = %q AND ReauthProvider = 'finch' AND ReauthPhase = 'closed'", one.id),
		})
		return err == nil && len(list.GetExecutions()) == 1
	})

	events := map[int]int{}
	for _, notices := range []int{2, 3, 4} {
		c := s.stale()
		s.report(c, nil)
		s.eventually("the reminders are out", func() bool { return s.status(c).NoticesSent >= notices })
		_, view := s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
		b := s.browser()
		s.settle(b, b.press(s.toConnect(b, fmt.Sprint(view["link"])), "authorize"))
		sent := s.result(c).NoticesSent
		events[sent] = len(s.history(reauth.WorkflowID(c.id), "").Events)
	}
	t.Logf("events by notices sent: %v", events)
	for sent, n := range events {
		assert.LessOrEqual(t, n, 46+busy+12*(sent-1), "with %d notices", sent)
	}
}

func (s *stack) awaitSession(c customer) string {
	s.t.Helper()
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	return s.status(c).SessionID
}
