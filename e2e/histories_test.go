package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/worker"
)

// Run `make histories` to record them anew, which is allowed until the first
// tagged release; from then on a change of the workflow needs
// workflow.GetVersion, and a new history beside the old ones.
var record = flag.Bool("record", false, "record testdata/histories anew")

const histories = "../testdata/histories"

// 10: every recorded history still replays, so that a deploy never breaks a
// case that has been waiting for weeks.
func TestHistoriesReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(histories, "*.json"))
	require.NoError(t, err)
	covered := map[reauth.Outcome]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			replayer := sdkworker.NewWorkflowReplayer()
			worker.RegisterWorkflows(replayer)
			require.NoError(t, replayer.ReplayWorkflowHistoryFromJSONFile(nil, file))
		})
		for _, outcome := range reauth.Outcomes() {
			if strings.HasPrefix(filepath.Base(file), string(outcome)) {
				covered[outcome] = true
			}
		}
	}
	if !*record {
		for _, outcome := range reauth.Outcomes() {
			assert.True(t, covered[outcome], "no history of the outcome %s is recorded", outcome)
		}
	}
}

// With the codec, histories replay as well.
func TestEncryptedHistoryReplays(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	c := s.stale()
	s.report(c, nil)
	s.reconnect(s.browser())
	s.result(c)
	h := s.history(reauth.WorkflowID(c.id), "")
	with := client.Options{}
	s.keys.Configure(&with)
	replayer, err := sdkworker.NewWorkflowReplayerWithOptions(sdkworker.WorkflowReplayerOptions{
		DataConverter: with.DataConverter, FailureConverter: with.FailureConverter,
	})
	require.NoError(t, err)
	worker.RegisterWorkflows(replayer)
	require.NoError(t, replayer.ReplayWorkflowHistory(nil, h))
}

// TestRecordHistories records a history of every outcome, and of the ways there.
func TestRecordHistories(t *testing.T) {
	if !*record {
		return
	}
	submit := func(s *stack, c customer, account finchsim.Account) {
		code, err := s.sim.CompleteConnect(s.awaitSession(c), account)
		require.NoError(s.t, err)
		_, err = s.starter.SubmitCode(context.Background(), c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
		require.NoError(s.t, err)
	}
	for name, story := range map[string]func(s *stack) customer{
		"recovered-after-first-notice": func(s *stack) customer {
			c := s.stale()
			s.report(c, nil)
			s.link()
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"recovered-after-reminders": func(s *stack) customer {
			c := s.stale()
			s.start(reauth.Input{ConnectionID: c.id, Reminders: []string{"0s", "2s", "4s"}})
			s.eventually("the reminders are out", func() bool { return s.status(c).NoticesSent == 3 })
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"recovered-after-wrong-account-and-refusal": func(s *stack) customer {
			c := s.stale()
			s.report(c, nil)
			s.link()
			s.signal(c, reauth.SignalCodeReceived, reauth.CodeReceived{Code: "no-such-code"})
			s.knobs(func(k *finchsim.Knobs) { k.SessionReusable = true })
			submit(s, c, finchsim.OtherAccount)
			s.eventually("the operator is told", func() bool { return len(s.mails(operatorMail)) == 1 })
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"recovered-after-renewal": func(s *stack) customer {
			c := s.stale()
			one := 1
			s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 1, Renewals: &one})
			first := s.awaitSession(c)
			s.eventually("the session is renewed", func() bool { return s.status(c).SessionID != first })
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"recovered-while-finch-was-down": func(s *stack) customer {
			c := s.stale()
			s.report(c, nil)
			s.link()
			s.knobs(func(k *finchsim.Knobs) { k.VerifyPending = 2 })
			s.faults(finchsim.Fault{Endpoint: "POST /auth/token", Kind: finchsim.FaultServerError, Times: 2},
				finchsim.Fault{Endpoint: "GET /employer/company", Kind: finchsim.FaultServerError, Times: 2})
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"recovered-by-a-code-first": func(s *stack) customer {
			c := s.stale()
			s.start(reauth.Input{ConnectionID: c.id})
			session := s.awaitSession(c)
			s.signal(c, reauth.SignalCancel, reauth.Cancel{})
			s.result(c)
			code, err := s.sim.CompleteConnect(session, finchsim.SameAccount)
			require.NoError(s.t, err)
			_, err = s.starter.SubmitCode(context.Background(), c.id, reauth.CodeReceived{Code: code, RedirectURI: s.url + "/callback"})
			require.NoError(s.t, err)
			return c
		},
		"recovered-after-blocked": func(s *stack) customer {
			c := s.stale()
			s.faults(finchsim.Fault{
				Endpoint: "POST /connect/sessions/reauthenticate", Kind: finchsim.FaultAnswer, Times: 1,
				Status: 401, Body: `{"error":"Invalid client: Unable to validate credentials"}`,
			})
			s.report(c, nil)
			s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"healed": func(s *stack) customer {
			c := s.stale()
			s.report(c, nil)
			s.link()
			require.NoError(s.t, s.sim.Restore(c.id))
			return c
		},
		"false_alarm": func(s *stack) customer {
			c := s.register()
			s.report(c, nil)
			return c
		},
		"expired": func(s *stack) customer {
			c := s.stale()
			s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 1, Reminders: []string{"0s", "20s"}})
			return c
		},
		"cancelled-after-snooze-and-reminder": func(s *stack) customer {
			c := s.stale()
			s.report(c, nil)
			s.link()
			s.signal(c, reauth.SignalRemindNow, nil)
			s.eventually("the reminder has come", func() bool { return len(s.mails(customerMail)) == 2 })
			s.signal(c, reauth.SignalSnooze, reauth.Snooze{Until: time.Now().Add(time.Hour)})
			s.signal(c, reauth.SignalSnooze, map[string]any{})
			s.eventually("the notices are held", func() bool { return s.status(c).SnoozedUntil != nil })
			s.signal(c, reauth.SignalCancel, reauth.Cancel{Reason: "the customer left"})
			return c
		},
		"cancelled-after-handing-on-and-stopping": func(s *stack) customer {
			c := s.staleWith(primaryAndAlternate()...)
			s.report(c, nil)
			s.link()
			s.call(http.MethodPost, "/v1/contacts/bounce", map[string]any{"email": customerMail})
			s.eventually("the alternate has heard", func() bool { return len(s.mails(alternateMail)) == 1 })
			s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/stop", map[string]any{"reason": "we phone them"})
			s.eventually("the notices are stopped", func() bool { return s.status(c).NoticesStopped })
			s.signal(c, reauth.SignalCancel, reauth.Cancel{Reason: "the customer left"})
			return c
		},
		"expired-in-quiet-hours": func(s *stack) customer {
			c := s.stale()
			s.start(reauth.Input{ConnectionID: c.id, MinutesToExpire: 3, Campaign: "quiet"})
			return c
		},
		"recovered-after-storm": func(s *stack) customer {
			c, other := s.staleWith(), s.staleWith()
			s.report(c, nil)
			s.report(other, nil)
			s.eventually("both are held", func() bool { return s.status(c).HeldByStorm && s.status(other).HeldByStorm })
			storms, err := s.db.Storms(context.Background(), 1)
			require.NoError(s.t, err)
			require.NoError(s.t, s.starter.ReleaseStorm(context.Background(), storms[0].StormID, "Grace"))
			storm := reauth.StormWorkflowID(storms[0].StormID)
			require.NoError(s.t, s.temporal.GetWorkflow(context.Background(), storm, "").Get(context.Background(), nil))
			save(s.t, "storm-released", s.history(storm, ""))
			s.eventually("the customer has heard", func() bool { return s.status(c).NoticesSent == 1 })
			submit(s, c, finchsim.SameAccount)
			return c
		},
		"failed-not-found": func(s *stack) customer {
			c := s.register(reauth.Contact{Email: customerMail})
			require.NoError(s.t, s.sim.Break(c.id))
			s.faults(finchsim.Fault{
				Endpoint: "POST /connect/sessions/reauthenticate", Kind: finchsim.FaultAnswer, Times: 1,
				Status: 400, Body: `{"code":400,"finch_code":"invalid_request","message":"Connection not found","name":"bad_request"}`,
			})
			s.report(c, nil)
			return c
		},
		"failed-unknown": func(s *stack) customer {
			c := customer{id: "nobody-knows-me-" + time.Now().Format("150405")}
			s.start(reauth.Input{ConnectionID: c.id})
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, func(o *options) {
				o.plainTemporal = true
				o.settings = func(a *activities.Settings) { a.Campaigns = quietCampaign(t) }
				if strings.HasSuffix(name, "storm") {
					o.settings = func(a *activities.Settings) {
						a.Campaigns = campaign.BookOf(campaign.FromReminders([]string{"0s"}))
						a.Storm = db.StormRule{Count: 2, Window: time.Hour, AtMost: time.Hour}
						a.StormSettles = 3 * time.Second
					}
				}
			})
			c := story(s)
			result := s.result(c)
			if want, _, _ := strings.Cut(name, "-"); want != string(result.Outcome) {
				t.Fatalf("the case ended as %s, not as %s", result.Outcome, want)
			}
			save(t, name, s.history(reauth.WorkflowID(c.id), ""))
		})
	}
}

// quietCampaign has a campaign that can write to nobody for the next two minutes.
func quietCampaign(t *testing.T) *campaign.Book {
	t.Helper()
	zone, err := time.LoadLocation("America/New_York") // the contact's
	require.NoError(t, err)
	now := time.Now().In(zone)
	book, err := campaign.Parse("campaigns.yaml", fmt.Appendf(nil, `
campaigns:
  quiet:
    quiet_hours: "%s-%s"
    days_off: none
    steps:
      - {after: 0s}
      - {after: 30s, to: company, channel: chat}
`, now.Add(-time.Hour).Format("15:04"), now.Add(2*time.Minute).Format("15:04")))
	require.NoError(t, err)
	return book
}

func save(t *testing.T, name string, h *historypb.History) {
	t.Helper()
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(h)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(histories, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(histories, name+".json"), append(text, '\n'), 0o644))
}
