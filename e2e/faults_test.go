package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/postgres"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

func (s *stack) knobs(change func(*finchsim.Knobs)) {
	s.t.Helper()
	require.NoError(s.t, s.sim.SetKnobs(change))
}

func (s *stack) faults(faults ...finchsim.Fault) {
	s.t.Helper()
	s.knobs(func(k *finchsim.Knobs) { k.Faults = faults })
}

// 2: PostgreSQL goes away between the exchange and the adoption. Temporal
// holds the sealed token until it is back.
func TestPostgresStopsBetweenExchangeAndAdoption(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cluster, err := postgres.Start(ctx, postgres.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cluster.Stop() })
	require.NoError(t, cluster.EnsureDatabase(ctx, "reauth"))
	s := newStack(t, func(o *options) { o.databaseURL = cluster.URL("reauth") })
	c := s.stale()
	s.report(c, nil)
	s.link()
	code, err := s.sim.CompleteConnect(s.awaitSession(c), finchsim.SameAccount)
	require.NoError(t, err)
	s.knobs(func(k *finchsim.Knobs) {
		k.Latency = map[string]finchsim.Duration{"POST /auth/token": finchsim.Duration(2 * time.Second)}
	})
	_, err = s.starter.SubmitCode(ctx, c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
	require.NoError(t, err)
	s.awaitPhase(c, reauth.PhaseRedeeming)
	require.NoError(t, cluster.Stop())
	s.awaitPhase(c, reauth.PhaseVerifying)
	assert.Equal(t, 1, s.sim.Counters().Exchanges[reauth.CodeHash(code)])
	time.Sleep(2 * time.Second) // a few attempts without a database
	require.NoError(t, cluster.Restart(ctx))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.Equal(t, 1, s.sim.Counters().Exchanges[reauth.CodeHash(code)], "the code was exchanged once")
	assert.True(t, s.apiWorks(c))
}

func TestTheMailServerHangsWhileTheCodeArrives(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultHang, At: inbox.AtContent, Discard: true}))
	c := s.stale()
	s.report(c, nil)
	code, err := s.sim.CompleteConnect(s.awaitSession(c), finchsim.SameAccount)
	require.NoError(t, err)
	s.eventually("the mail server hangs", func() bool {
		rows, err := s.db.NoticesOf(context.Background(), s.status(c).CaseID)
		return err == nil && len(rows) == 1
	})
	_, err = s.starter.SubmitCode(context.Background(), c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
	require.NoError(t, err)
	s.eventually("the token is stored", func() bool {
		token, err := s.db.CurrentToken(context.Background(), c.id)
		return err == nil && token.Generation == 2
	})
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{}))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	for _, m := range s.mails(customerMail) {
		assert.NotEmpty(t, m.InReplyTo, "no notice begins after the outcome, except the fixed note: %s", m.Subject)
	}
}

// Finch consumed the code, but its answer never came. The person is not
// blamed, and one more click brings the connection back.
func TestFinchsAnswerIsLost(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	connect := s.toConnect(b, s.link())
	s.faults(finchsim.Fault{Endpoint: "POST /auth/token", Kind: finchsim.FaultLost})
	p := s.settle(b, b.press(connect, "authorize"))
	row := s.onlyCode()
	assert.Equal(t, reauth.CodeLost, row)
	assert.NotContains(t, strings.ToLower(heading(p)), "refused")
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	p = s.settle(b, b.press(s.toConnect(b, s.link()), "authorize"))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.True(t, s.apiWorks(c))
	assert.Equal(t, http.StatusOK, p.status)
}

// onlyCode is what became of the one code of a stack.
func (s *stack) onlyCode() reauth.CodeState {
	s.t.Helper()
	var state reauth.CodeState
	for hash := range s.sim.Counters().Exchanges {
		row, err := s.db.CodeByHash(context.Background(), hash)
		require.NoError(s.t, err)
		state = row.State
	}
	return state
}

func TestFinchIsSlowToAnswerTheExchange(t *testing.T) {
	for name, fault := range map[string]finchsim.Fault{
		"429 with Retry-After": {Endpoint: "POST /auth/token", Kind: finchsim.FaultRateLimit, Times: 2, RetryAfter: finchsim.Duration(time.Second)},
		"500":                  {Endpoint: "POST /auth/token", Kind: finchsim.FaultServerError, Times: 2},
		"no connection":        {Endpoint: "POST /auth/token", Kind: finchsim.FaultDrop, Times: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			c := s.stale()
			s.report(c, nil)
			b := s.browser()
			connect := s.toConnect(b, s.link())
			s.faults(fault)
			s.settle(b, b.press(connect, "authorize"))
			assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
			assert.Equal(t, reauth.CodeRecovered, s.onlyCode())
		})
	}
}

// Our own client credentials are refused: only an operator can help, and the
// case is never failed for it.
func TestOurCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.faults(finchsim.Fault{
		Endpoint: "POST /connect/sessions/reauthenticate", Kind: finchsim.FaultAnswer, Times: 2,
		Status: 401, Body: `{"error":"Invalid client: Unable to validate credentials"}`,
	})
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseBlocked)
	assert.Empty(t, s.mails(customerMail))
	s.eventually("the operator is told", func() bool { return len(s.mails(operatorMail)) == 1 })
	assert.Contains(t, s.status(c).LastError, "credentials")
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	s.reconnect(s.browser())
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

// 5: where a mail server's answer is unknown, the mail is not sent again.
func TestTheMailServersAnswerIsUnknown(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultDrop, At: inbox.AtContent, Times: 1}))
	c := s.stale()
	s.report(c, nil)
	s.eventually("the step is over", func() bool { return s.status(c).NoticesSent == 1 })
	assert.Len(t, s.mails(customerMail), 1)
	rows, err := s.db.NoticesOf(context.Background(), s.status(c).CaseID)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	assert.Equal(t, db.NoticeUnknown, rows[0].State)
	s.reconnect(s.browser())
	s.result(c)
	assert.Len(t, s.mails(customerMail), 2, "whoever may have been alerted hears that it is fixed")
}

func TestTheMailServerAsksToComeAgain(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 451, Times: 1}))
	c := s.stale()
	s.report(c, nil)
	s.link()
	s.eventually("the step is over", func() bool { return s.status(c).NoticesSent == 1 })
	assert.Len(t, s.mails(customerMail), 1)
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

func TestTheMailServerRefusesTheAddress(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550, Times: 1}))
	c := s.stale()
	s.report(c, nil)
	s.eventually("the operator is told that nobody could be", func() bool { return len(s.mails(operatorMail)) == 1 })
	assert.Empty(t, s.mails(customerMail))
	s.eventually("the case says so", func() bool { return strings.Contains(s.status(c).LastError, "1 of its contacts take no mail") })
	s.signal(c, reauth.SignalCancel, reauth.Cancel{})
	s.result(c)
}

// A code that arrives while no worker is there waits in Temporal, and wins over
// the session's end that came after it.
func TestExpiryWithACodeAlreadyWaiting(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 1})
	code, err := s.sim.CompleteConnect(s.awaitSession(c), finchsim.SameAccount)
	require.NoError(t, err)
	ends := *s.status(c).SessionExpiresAt
	s.link()
	s.stopWorker()
	_, err = s.starter.SubmitCode(context.Background(), c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
	require.NoError(t, err)
	time.Sleep(time.Until(ends) + 2*time.Second)
	s.startWorker()
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
}

// If Temporal cannot be reached, the code is kept sealed in PostgreSQL and
// forwarded; no code of it is lost or exchanged twice.
func TestTheDatabaseHasTheCodeWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	line := newLine(t, address)
	s := newStack(t, func(o *options) { o.temporalAddress = line.address })
	c := s.stale()
	s.report(c, nil)
	b := s.browser()
	connect := s.toConnect(b, s.link())
	line.cut()
	p := b.press(connect, "authorize")
	assert.Equal(t, http.StatusOK, p.status)
	held, err := s.db.HeldCodes(context.Background(), 10)
	require.NoError(t, err)
	require.Len(t, held, 1)
	line.mend()
	p = s.settle(b, p)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.True(t, s.apiWorks(c))
	s.eventually("the held code is erased", func() bool {
		held, err := s.db.HeldCodes(context.Background(), 10)
		return err == nil && len(held) == 0
	})
	for _, n := range s.sim.Counters().Exchanges {
		assert.Equal(t, 1, n)
	}
}
