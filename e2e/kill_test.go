package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// program builds the reauth binary once per test run.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "reauth-e2e-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "reauth")
	out, err := exec.Command("go", "build", "-o", binary, "../cmd/reauth").CombinedOutput()
	if err != nil {
		err = &buildError{string(out)}
	}
	return binary, err
})

type buildError struct{ output string }

func (e *buildError) Error() string { return "build cmd/reauth: " + e.output }

// workerProcess runs `reauth worker` as a process of its own.
func (s *stack) workerProcess() *exec.Cmd {
	s.t.Helper()
	binary, err := program()
	require.NoError(s.t, err)
	cmd := exec.Command(binary, "worker")
	cmd.Env = append(os.Environ(),
		"DATABASE_URL="+s.dbURL, "TEMPORAL_ADDRESS="+address, "REAUTH_TASK_QUEUE="+s.taskQueue, "REAUTH_KEYSET="+s.keyset,
		"REAUTH_PUBLIC_URL="+s.url, "SMTP_URL="+s.inbox.SMTPURL(), "REAUTH_MAIL_FROM=Payday <hello@product.example>",
		"REAUTH_OPERATOR_EMAIL="+operatorMail, "REAUTH_OUTBOUND_ALLOW=loopback", "FINCH_BASE_URL="+s.finchURL, "FINCH_CLIENT_ID="+clientID, "FINCH_CLIENT_SECRET="+clientSecret,
	)
	cmd.Stdout, cmd.Stderr = s.logs, s.logs
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() { kill(cmd) })
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // SIGKILL
	_ = cmd.Wait()
}

// 11: every process may be killed with SIGKILL at any time, and every case goes on.
func TestTheWorkerIsKilled(t *testing.T) {
	slow := func(endpoint string) func(*stack) {
		return func(s *stack) {
			s.knobs(func(k *finchsim.Knobs) {
				k.Latency = map[string]finchsim.Duration{endpoint: finchsim.Duration(3 * time.Second)}
			})
		}
	}
	called := func(endpoint string, times int) func(*stack, customer) bool {
		return func(s *stack, _ customer) bool { return s.sim.Counters().Calls[endpoint] >= times }
	}
	hang := func(s *stack) {
		require.NoError(s.t, s.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultHang, At: inbox.AtContent, Discard: true}))
	}
	sending := func(n int) func(*stack, customer) bool {
		return func(s *stack, c customer) bool {
			rows, err := s.db.NoticesOf(context.Background(), s.caseID(c))
			return err == nil && len(rows) == n
		}
	}
	for name, tc := range map[string]struct {
		before, beforeCode func(*stack)                // what makes the moment last
		early              func(*stack, customer) bool // the moment, before the code
		late               func(*stack, customer) bool // the moment, after it
	}{
		"while it confirms the loss":   {before: slow("GET /introspect"), early: called("GET /introspect", 2)},
		"while it opens a session":     {before: slow("POST /connect/sessions/reauthenticate"), early: called("POST /connect/sessions/reauthenticate", 1)},
		"amid a mail":                  {before: hang, early: sending(1)},
		"while it waits":               {early: func(s *stack, c customer) bool { return len(s.mails(customerMail)) == 1 }},
		"while it exchanges the code":  {beforeCode: slow("POST /auth/token"), late: called("POST /auth/token", 1)},
		"while it verifies the token":  {beforeCode: slow("GET /introspect"), late: func(s *stack, c customer) bool { return s.status(c).Phase == reauth.PhaseVerifying }},
		"while it tells that it works": {beforeCode: hang, late: sending(2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, func(o *options) { o.noWorker = true })
			s.knobs(func(k *finchsim.Knobs) { k.Webhooks = false })
			c := s.stale()
			worker := s.workerProcess()
			strike := func(moment func(*stack, customer) bool) {
				if moment == nil {
					return
				}
				s.eventually("the moment has come", func() bool { return moment(s, c) })
				kill(worker)
				s.knobs(func(k *finchsim.Knobs) { k.Latency = nil })
				require.NoError(t, s.inbox.SetKnobs(inbox.Knobs{}))
				worker = s.workerProcess()
			}
			if tc.before != nil {
				tc.before(s)
			}
			s.report(c, nil)
			strike(tc.early)
			session := s.awaitSession(c)
			s.eventually("the first step is over", func() bool { return s.status(c).NoticesSent == 1 })
			if tc.beforeCode != nil {
				tc.beforeCode(s)
			}
			s.submit(c, session)
			strike(tc.late)
			s.eventually("the case has come through, or asks for one more click", func() bool {
				status := s.status(c)
				return status.Outcome != "" || status.SessionID != session
			})
			if s.status(c).Outcome == "" {
				// Finch took the code, and its answer died with the worker.
				assert.Equal(t, "while it exchanges the code", name)
				assert.Equal(t, reauth.CodeLost, s.onlyCode())
				s.submit(c, s.awaitSession(c))
			}
			assert.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
			assert.True(t, s.apiWorks(c))
			for _, n := range s.sim.Counters().Exchanges {
				assert.LessOrEqual(t, n, 2, "a code whose answer was lost may be asked about once more")
			}
			firsts := 0
			for _, m := range s.mails(customerMail) {
				if m.InReplyTo == "" {
					firsts++
				}
			}
			assert.LessOrEqual(t, firsts, 1, "no notice is sent twice")
		})
	}
}

// submit goes through Connect and brings the code to the case.
func (s *stack) submit(c customer, session string) {
	s.t.Helper()
	code, err := s.sim.CompleteConnect(session, finchsim.SameAccount)
	require.NoError(s.t, err)
	_, err = s.starter.SubmitCode(context.Background(), c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
	require.NoError(s.t, err)
}

// caseID is the case of a connection, as the database has it.
func (s *stack) caseID(c customer) string {
	newest, err := s.db.NewestCase(context.Background(), c.id)
	if err != nil {
		return ""
	}
	return newest.CaseID
}
