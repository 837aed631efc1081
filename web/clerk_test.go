package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// withToken stores a token of the registered connection.
func (f *fixture) withToken(id string, mintedAt time.Time) {
	f.t.Helper()
	_, err := f.db.Adopt(f.t.Context(), db.Adoption{
		ConnectionID: id, Fingerprint: reauth.Fingerprint("token-Hush-" + id), Source: "test", MintedAt: mintedAt,
		Seal: func(generation int64) ([]byte, error) {
			return f.keys.Seal([]byte("token-Hush-"+id), db.TokenBound(id, generation)...)
		},
	})
	require.NoError(f.t, err)
}

// codes are the provider's codes of the reports that were made.
func (f *fixture) codes() (codes []string) {
	for _, in := range f.temporal.reports {
		codes = append(codes, in.FinchCode)
	}
	return codes
}

// What a job says is asked for with the stored token, and reported if it is bad
// news.
func TestWebhookOfAJob(t *testing.T) {
	ended := time.Now().UTC()
	over := func(status string) finch.Job {
		return finch.Job{ID: "j", Status: status, CompletedAt: finch.Timestamp{Time: ended}}
	}
	shared := newFixture(t)
	for name, test := range map[string]struct {
		job     finch.Job
		err     error
		prepare func(f *fixture)
		result  string
		state   db.WebhookState
		codes   []string
		unasked bool
	}{
		"it went well":                     {job: over("complete"), result: "fine"},
		"it failed for another reason":     {job: over("error"), result: "fine"},
		"a status to come":                 {job: over("postponed"), result: "fine"},
		"it met a lost login":              {job: over("reauth_error"), result: "reported", codes: []string{"reauthenticate_user"}},
		"it lacked permissions":            {job: over("permissions_error"), result: "reported", codes: []string{"error_permissions"}},
		"the customer came through since":  {job: over("reauth_error"), prepare: func(f *fixture) { f.withToken(connID, ended.Add(jobDoubt+time.Second)) }, result: "superseded"},
		"the token is as old as the job":   {job: over("reauth_error"), prepare: func(f *fixture) { f.withToken(connID, ended.Add(time.Second)) }, result: "reported", codes: []string{"reauthenticate_user"}},
		"the question is refused for it":   {err: &finch.Error{Status: 401, FinchCode: "reauthenticate_user"}, result: "reported", codes: []string{"reauthenticate_user"}},
		"the account needs mending":        {err: &finch.Error{Status: 401, FinchCode: "account_setup_required"}, result: "reported", codes: []string{"account_setup_required"}},
		"there is no such job":             {err: &finch.Error{Status: 404, Name: "not_found_error"}, result: "abandoned", state: db.WebhookAbandoned},
		"a bare 401":                       {err: &finch.Error{Status: 401}, result: "abandoned", state: db.WebhookAbandoned},
		"an application nobody configured": {err: lifecycle.ErrUnknownApplication, result: "abandoned", state: db.WebhookAbandoned},
		"a case is open":                   {prepare: func(f *fixture) { f.open(connID, "case-1", reauth.PhaseAwaitingCustomer) }, result: "case_open", state: db.WebhookIgnored, unasked: true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			f := shared.again(t, func(c *Config) {
				c.Job = func(ctx context.Context, application string, token secrets.Secret, jobID string) (finch.Job, error) {
					asked++
					require.Equal(t, []any{reauth.DefaultApplication, "token-Hush-" + connID, "job-7", finch.PriorityConfirm}, []any{application, token.Reveal(), jobID, finch.PriorityOf(ctx)})
					return test.job, test.err
				}
			})
			f.register(connID)
			if test.prepare != nil {
				test.prepare(f)
			}
			f.withToken(connID, ended.Add(-time.Hour))
			require.Equal(t, test.result, f.obeyed("msg_1", jobCompleted("job-7")))
			require.Equal(t, !test.unasked, asked == 1)
			e := f.stored("msg_1")
			if test.state == "" {
				test.state = db.WebhookDone
			}
			require.Equal(t, test.state, e.State)
			require.Equal(t, test.state == db.WebhookAbandoned, e.LastError != "")
			require.Equal(t, test.codes, f.codes())
			for _, in := range f.temporal.reports {
				require.Equal(t, reauth.Fingerprint("token-Hush-"+connID), in.TokenFingerprint)
				require.True(t, strings.HasPrefix(in.Reason, "job.data_sync_all.completed: "), in.Reason)
			}
		})
	}
}

func TestWebhookOfAJobWithoutAToken(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Job = func(context.Context, string, secrets.Secret, string) (finch.Job, error) {
			panic("there is nothing to ask with")
		}
	})
	f.register(connID)
	require.Equal(t, "no_token", f.obeyed("msg_1", jobCompleted("j")))
	require.Equal(t, "type", f.obeyed("msg_2", strings.Replace(jobCompleted("j"), "data_sync_all.completed", "initial_data_sync_org.succeeded", 1)), "a success is no news")
	require.Equal(t, "malformed", f.obeyed("msg_3", jobCompleted("")))
	require.Equal(t, "malformed", f.obeyed("msg_4", jobCompleted("../x")))
}

// A provider that does not answer is asked again, for a while; what comes after
// waits no longer than that.
func TestWebhookOfAJobThatIsNotAnswered(t *testing.T) {
	shared := newFixture(t)
	for name, answer := range map[string]func() (finch.Job, error){
		"no answer":  func() (finch.Job, error) { return finch.Job{}, fmt.Errorf("finch: %w", finch.ErrNoAnswer) },
		"too often":  func() (finch.Job, error) { return finch.Job{}, &finch.Error{Status: 429, RetryAfter: 10 * time.Minute} },
		"it is down": func() (finch.Job, error) { return finch.Job{}, &finch.Error{Status: 502} },
		"it runs":    func() (finch.Job, error) { return finch.Job{Status: finch.JobInProgress}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			f := shared.again(t, func(c *Config) {
				c.Job = func(context.Context, string, secrets.Secret, string) (finch.Job, error) { asked++; return answer() }
			})
			f.register(connID)
			f.withToken(connID, f.clock())
			f.event("msg_1", jobCompleted("j"))
			f.event("msg_2", accountUpdated("reauth"))
			f.settle()
			require.Equal(t, 1, asked)
			require.Equal(t, db.WebhookWaiting, f.stored("msg_1").State)
			f.advance(10*time.Minute - time.Second)
			f.settle()
			require.Equal(t, name == "too often", asked == 1, "as long as Finch asks for")
			for range 10 {
				f.advance(10 * time.Minute)
				f.settle()
			}
			require.Equal(t, clerkJobTries, asked)
			require.Equal(t, db.WebhookAbandoned, f.stored("msg_1").State)
			require.Equal(t, "reported", f.stored("msg_2").Result)
		})
	}
}

// Jobs that wait for Finch leave room for what needs no answer of it.
func TestWebhooksOfJobsLeaveRoom(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	f := newFixture(t, func(c *Config) {
		c.Job = func(context.Context, string, secrets.Secret, string) (finch.Job, error) {
			asked <- struct{}{}
			<-release
			return finch.Job{Status: finch.JobComplete}, nil
		}
	})
	var bodies []string
	for i := range clerkAtOnce * 2 {
		id := fmt.Sprintf("conn-%d", i)
		f.register(id)
		f.withToken(id, f.clock())
		bodies = append(bodies, strings.Replace(jobCompleted("j"), connID, id, 1))
	}
	f.register(connID)
	for i, body := range append(bodies, accountUpdated("reauth")) {
		require.Equal(t, http.StatusOK, f.event(fmt.Sprint("msg_", i), body).Code)
	}
	c := f.clerk()
	for len(f.codes()) == 0 {
		c.dispatch(t.Context())
		<-c.landed
	}
	require.Len(t, asked, clerkJobs)
	close(release)
	c.flights.Wait()
	f.advance(clerkRest)
	for f.count("webhook_lines") > 0 {
		f.settle()
		f.advance(clerkRest)
	}
	require.Len(t, asked, clerkAtOnce*2, "each in the end, and once")
	require.Equal(t, 0, f.count("webhooks WHERE attempts <> 1"), "waiting for room is no attempt")
}

// One entity neither heals a case nor ends it: the case looks.
func TestWebhookOfAnEntity(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.withToken(connID, f.clock())
	f.temporal.noCase = true
	require.Equal(t, "no_case", f.obeyed("msg_1", ofEntity(accountUpdated("connected"))))
	f.temporal.noCase = false
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	for i, status := range []string{"connected", "disconnected"} {
		require.Equal(t, "looked", f.obeyed(fmt.Sprint("msg_a", i), ofEntity(accountUpdated(status))))
		require.Len(t, f.temporal.signals, i+1)
		c, err := f.db.Connection(t.Context(), connID)
		require.NoError(t, err)
		require.Equal(t, reauth.StatusStale, c.Status)
	}
	require.NoError(t, f.db.RecordClick(t.Context(), db.Click{ID: "0b0ae41b-e0cb-4a3c-8a40-8b0b7c2a7e51", CaseID: "case-1", ConnectionID: connID, At: f.clock()}))
	require.Equal(t, "held", f.obeyed("msg_b", ofEntity(accountUpdated("connected"))))
	require.Len(t, f.temporal.signals, 2)
}

// Events that say the same are acted upon once, and never past one that says
// something else.
func TestWebhooksAreCoalesced(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Job = func(_ context.Context, _ string, _ secrets.Secret, jobID string) (finch.Job, error) {
			require.Equal(t, "j2", jobID, "the newest")
			return finch.Job{Status: finch.JobComplete}, nil
		}
	})
	f.register(connID)
	f.withToken(connID, f.clock())
	bodies := []string{
		jobCompleted("j1"), jobCompleted("j2"),
		accountUpdated("reauth"), accountUpdated("error_reauth"), accountUpdated("reauth"),
		ofEntity(accountUpdated("reauth")),
		accountUpdated("connected"),
		accountUpdated("error_permissions"), accountUpdated("error_no_account_setup"),
	}
	var wanted []string
	for range 100 { // a flood of one kind at the end
		bodies = append(bodies, accountUpdated("disconnected"))
		wanted = append(wanted, "coalesced")
	}
	wanted = append([]string{"coalesced", "fine", "coalesced", "coalesced", "reported", "reported", "restored", "reported", "reported"}, wanted...)
	wanted[len(wanted)-1] = "disconnected"
	for i, body := range bodies {
		require.Equal(t, http.StatusOK, f.event(fmt.Sprint("msg_", i), body).Code)
	}
	f.settle()
	for i, result := range wanted {
		require.Equal(t, result, f.stored(fmt.Sprint("msg_", i)).Result, i)
	}
	require.Equal(t, []string{"reauthenticate_user"}, f.codes(), "the others join the case that is open")
	require.Len(t, f.temporal.signals, 2)
}

// A clerk that dies amid an act leaves nothing behind that another does not do.
func TestWebhooksOfAKilledClerk(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.event("msg_1", accountUpdated("reauth"))
	f.event("msg_2", accountUpdated("connected"))
	lines, err := f.db.ClaimWebhooks(t.Context(), f.clock(), 1, clerkLease)
	require.NoError(t, err)
	require.Len(t, lines, 1)
	// It acts, and dies before it records that.
	_, err = f.clerk().obey(t.Context(), f.stored("msg_1"))
	require.NoError(t, err)
	f.settle()
	require.Equal(t, db.WebhookWaiting, f.stored("msg_1").State, "it may still live")
	f.advance(clerkLease)
	f.settle()
	require.Equal(t, "reported", f.stored("msg_1").Result)
	require.Equal(t, "restored", f.stored("msg_2").Result)
	require.Equal(t, 1, f.count("cases"), "both reports make one case")

	// It lives, but has come too late: what it says then does not count.
	held, err := f.db.EndWebhooks(t.Context(), lines[0], db.WebhookEnd{EventIDs: []string{"msg_1"}, State: db.WebhookAbandoned, At: f.clock()})
	require.NoError(t, err)
	require.False(t, held)
}

// Whoever is stopped leaves what is left to others at once.
func TestWebhooksOfAStoppedClerk(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.event("msg_1", accountUpdated("reauth"))
	lines, err := f.db.ClaimWebhooks(t.Context(), f.clock(), 1, clerkLease)
	require.NoError(t, err)
	f.event("msg_2", accountUpdated("connected"))
	stopped, stop := context.WithCancel(t.Context())
	stop()
	f.clerk().work(stopped, lines[0])
	require.Empty(t, f.temporal.reports)
	f.settle()
	require.Equal(t, "restored", f.stored("msg_2").Result)
}

// While Temporal is down one event at a time is tried, not each of thousands.
func TestWebhooksWhileTemporalIsDown(t *testing.T) {
	f := newFixture(t)
	const connections = 30
	for i := range connections {
		id := fmt.Sprintf("conn-%d", i)
		f.register(id)
		f.event(fmt.Sprint("msg_", i), strings.Replace(accountUpdated("reauth"), connID, id, 1))
	}
	f.temporal.down = true
	c := f.clerk()
	tried := 0
	for range 10 {
		n := c.dispatch(t.Context())
		c.flights.Wait()
		tried += n
	}
	require.Equal(t, clerkAtOnce, tried)
	for range 5 {
		f.advance(clerkRest)
		require.Equal(t, 1, c.dispatch(t.Context()))
		c.flights.Wait()
		require.Zero(t, c.dispatch(t.Context()))
	}
	f.temporal.down = false
	f.advance(clerkMaxWait)
	for f.count("webhook_lines") > 0 {
		c.dispatch(t.Context())
		c.flights.Wait()
	}
	require.Equal(t, connections, f.count("webhooks WHERE result = 'reported'"))
	require.Len(t, f.temporal.reports, connections)
}

// The clerk runs beside the service, however many there are, and ends with its
// context.
func TestActOnWebhooks(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	for i := range 20 {
		f.event(fmt.Sprint("msg_", i), accountUpdated([]string{"reauth", "connected"}[i%2]))
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range 3 {
		running.Go(func() { f.handler.(*Service).ActOnWebhooks(ctx) })
	}
	require.Eventually(t, func() bool { return f.count("webhooks WHERE state = 'done'") == 20 }, 30*time.Second, 10*time.Millisecond)
	stop()
	running.Wait()
	require.Equal(t, 1, f.count("cases"))
	require.Len(t, f.temporal.signals, 10)
	text := f.api(200, "GET", "/metrics", nil, nil).Body.String()
	for _, line := range []string{
		`reauth_webhooks_total{provider="finch",result="stored"} 20`,
		`reauth_webhooks_obeyed_total{result="reported"} 10`,
		`reauth_webhooks_obeyed_total{result="restored"} 10`,
		"reauth_webhooks_waiting ",
		"reauth_webhooks_oldest_seconds ",
	} {
		require.Contains(t, text, line)
	}
}

// A database that goes away amid an act costs a repetition, and no event.
func TestWebhooksWhileTheDatabaseIsDown(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.event("msg_1", accountUpdated("reauth"))
	f.dbDown()
	c := f.clerk()
	require.Zero(t, c.dispatch(t.Context()))
	require.Equal(t, 1, c.failures)
	require.Equal(t, 1, f.count("webhooks WHERE state = 'waiting'"))
	require.Error(t, errOf(c.obey(t.Context(), db.Webhook{Type: "account.updated", Status: "reauth", ConnectionID: connID})))
}

func errOf(_ deed, err error) error { return err }

// The timeline of a case says what Finch has said.
func TestTimelineShowsWebhooks(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	require.Equal(t, "reported", f.obeyed("msg_1", accountUpdated("reauth")))
	f.advance(time.Minute)
	require.Equal(t, "reported", f.obeyed("msg_2", ofEntity(accountUpdated("reauth"))))
	f.advance(time.Minute)
	require.Equal(t, "restored", f.obeyed("msg_3", accountUpdated("connected")))
	var detail CaseDetail
	f.api(200, "GET", reportURL, nil, &detail)
	var said []string
	for i, line := range detail.Timeline {
		if line.Kind == "webhook" {
			said = append(said, line.Detail)
		}
		require.True(t, i == 0 || !line.At.Before(detail.Timeline[i-1].At), "in order")
	}
	require.Equal(t, []string{
		"Finch's webhook said: reauth.", "Finch's webhook said: reauth, of the entity e-1.", "Finch's webhook said: connected. The case was told to look.",
	}, said)
}

// Garbage and old events are told apart, and fill no log.
func TestWebhookRefusalsAreSeldomLogged(t *testing.T) {
	f := newFixture(t)
	f.dbDown() // nobody asks it
	good := accountUpdated("reauth")
	old := func(r *http.Request) {
		for name, values := range finch.SignWebhook(webhookSecret, "msg_1", f.clock().Add(-time.Hour), []byte(good)) {
			r.Header[name] = values
		}
	}
	for range 50 {
		require.Equal(t, http.StatusUnauthorized, f.event("msg_1", good, header(finch.HeaderSignature, "v1,AAAA")).Code)
		require.Equal(t, http.StatusUnauthorized, f.event("msg_1", good, old).Code)
	}
	require.Equal(t, 2, strings.Count(f.log.String(), "a webhook was refused"))
	f.advance(time.Minute)
	f.event("msg_1", good, old)
	require.Contains(t, f.log.String(), `"others_since_the_last_line":49`)
	require.Contains(t, f.event("msg_1", good, old).Body.String(), "Its signature does verify")
	w := httptest.NewRecorder() // without a key, which only the database could look up
	f.handler.(*Service).server.metrics.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := w.Body.String()
	require.Contains(t, text, `reauth_webhooks_total{provider="finch",result="late"} 52`)
	require.Contains(t, text, `reauth_webhooks_total{provider="finch",result="unverified"} 50`)
}

func TestProblemOfABusyAct(t *testing.T) {
	require.Empty(t, problemOf(&later{problem: "x", busy: true}))
	require.Equal(t, "x", problemOf(&later{problem: "x"}))
	require.Equal(t, "y", problemOf(errors.New("y")))
}
