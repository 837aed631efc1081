package activities_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

func (r *rig) setMail(mode reauth.MailMode) {
	r.t.Helper()
	_, _, err := r.db.SetMail(r.t.Context(), db.MailSetting{Mode: &mode, By: "Grace", At: r.clock()})
	require.NoError(r.t, err)
}

// Mail is stopped while several workers send as fast as they can to a mail server
// that takes its time. Once the call that stops it has returned, no mail to a
// customer begins; nobody is lost, and when it is on again everybody hears once.
func TestNoMailBeginsAfterTheStop(t *testing.T) {
	const many, workers, each = 36, 3, 3
	r := newRig(t)
	var cases []customer
	for range many {
		cases = append(cases, r.stale())
	}
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultSlow, At: inbox.AtContent, Delay: inbox.Duration(50 * time.Millisecond)}))
	quiet := sdklog.NewStructuredLogger(r.acts.Logger)
	send := func(acts *activities.Activities, c customer) (out activities.Noticed, err error) {
		var suite testsuite.WorkflowTestSuite
		suite.SetLogger(quiet)
		env := suite.NewTestActivityEnvironment()
		env.RegisterActivityWithOptions(acts.Notify, activity.RegisterOptions{Name: "notify"})
		in := r.notice(c)
		in.LookedAt = r.now
		value, err := env.ExecuteActivity("notify", in)
		if err == nil {
			err = value.Get(&out)
		}
		return out, err
	}
	queue := make(chan customer, many)
	for _, c := range cases {
		queue <- c
	}
	close(queue)
	var mu sync.Mutex
	var held []customer
	sent := 0
	begun := make(chan struct{}, many)
	var sending sync.WaitGroup
	for range workers {
		acts := *r.acts
		smtp, err := notify.NewSMTP(r.inbox.SMTPURL())
		require.NoError(t, err)
		acts.Mail = smtp
		for range each {
			sending.Go(func() {
				for c := range queue {
					out, err := send(&acts, c)
					mu.Lock()
					switch {
					case !assert.NoError(t, err):
					case out.Mail == activities.NoticedStopped:
						held = append(held, c)
						assert.NotNil(t, out.Later)
					default:
						sent += out.Sent
					}
					mu.Unlock()
					begun <- struct{}{}
				}
			})
		}
	}
	for range many / 4 {
		<-begun
	}
	r.setMail(reauth.MailStopped)
	require.NoError(t, r.db.AwaitMailUnderWay(t.Context(), time.Minute, time.Millisecond))
	arrived := len(r.inbox.Messages())
	sending.Wait()
	assert.Len(t, r.inbox.Messages(), arrived, "a mail began after the stop")
	assert.Equal(t, arrived, sent)
	assert.NotEmpty(t, held, "it was stopped amid the work")
	assert.Len(t, cases, sent+len(held), "nobody is lost")
	standing, err := r.db.MailStanding(t.Context())
	require.NoError(t, err)
	assert.Equal(t, len(held), standing.Stopped)

	r.setMail(reauth.MailOn)
	for _, c := range held {
		out, err := send(r.acts, c)
		require.NoError(t, err)
		assert.Equal(t, 1, out.Sent)
	}
	for _, c := range cases {
		assert.Len(t, r.mails(c.mail), 1)
		assert.Equal(t, []db.NoticeState{db.NoticeSent}, r.ledger(c))
	}
}

// A step that was stopped amid its recipients goes on with those who have not
// heard.
func TestAStepIsStoppedInTheMiddle(t *testing.T) {
	r := newRig(t)
	c := r.stale(func(o *options) {
		o.people = []reauth.Contact{{Email: "planted.second@acme.example"}, {Email: "planted.third@acme.example"}}
	})
	mail := r.acts.Mail
	r.acts.Mail = stopping{r, mail}
	out := perform(r, r.acts.Notify, r.notice(c))
	assert.Equal(t, 1, out.Sent)
	assert.Equal(t, activities.NoticedStopped, out.Mail)
	assert.Len(t, r.inbox.Messages(), 1)
	assert.Contains(t, r.timeline(c, db.EventHeld), "after-0s is held: customer mail is stopped.")
	row := r.row(c)
	assert.WithinDuration(t, r.now, *row.NextNoticeAt, time.Second, "it is due")
	again := perform(r, r.acts.Notify, r.notice(c))
	assert.Equal(t, out.Sent, again.Sent)
	assert.Len(t, r.timeline(c, db.EventHeld), 1, "the timeline says so once")
	r.acts.Mail = mail
	r.setMail(reauth.MailOn)
	out = perform(r, r.acts.Notify, r.notice(c))
	assert.Equal(t, 3, out.Sent)
	assert.Empty(t, out.Mail)
	assert.Len(t, r.inbox.Messages(), 3)
}

// stopping stops mail as soon as one was sent.
type stopping struct {
	rig  *rig
	mail activities.Mailer
}

// The operator's own mails go on while mail is stopped, and not in shadow.
func TestTheOperatorsMails(t *testing.T) {
	for mode, want := range map[reauth.MailMode]int{reauth.MailStopped: 1, reauth.MailShadow: 0, reauth.MailOn: 1} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t)
			c := r.stale()
			r.setMail(mode)
			perform(r, alone(r.acts.TellOperator), activities.ProblemInput{Case: c.ref, Step: "problem-1", Problem: "Something broke."})
			perform(r, alone(r.acts.TellOfCode), activities.RedeemProblem{Step: "blocked", Problem: "Our credentials are refused."})
			assert.Len(t, r.mails(operatorMail), 2*want)
			assert.Contains(t, r.timeline(c, db.EventOperatorNeeded), "Something broke.")
		})
	}
}

// A headless step and one for the chat are held and put in shadow as mails are.
func TestOtherChannels(t *testing.T) {
	for _, channel := range []campaign.Channel{campaign.Webhook, campaign.Chat} {
		t.Run(string(channel), func(t *testing.T) {
			r := newRig(t)
			r.acts.Settings.Chat = true
			c := r.stale()
			in := r.notice(c)
			in.Step.Channel = channel
			if channel == campaign.Chat {
				in.Step.Audience = campaign.Company
			}
			outbox := func() int {
				list, err := r.db.Outbox(t.Context(), db.OutboxFilter{Type: activities.NoticeDue}, 10)
				require.NoError(t, err)
				return len(list)
			}
			r.setMail(reauth.MailStopped)
			out := perform(r, r.acts.Notify, in)
			assert.Equal(t, activities.NoticedStopped, out.Mail)
			r.setMail(reauth.MailShadow)
			out = perform(r, r.acts.Notify, in)
			assert.Zero(t, out.Sent)
			assert.Nil(t, out.Later)
			assert.Zero(t, outbox())
			assert.Len(t, r.timeline(c, db.EventNotice+string(db.NoticeShadow)), 1)
			assert.Empty(t, r.timeline(c, db.EventOperatorNeeded))
			r.setMail(reauth.MailOn)
			perform(r, r.acts.Notify, in)
			if channel == campaign.Webhook {
				assert.Equal(t, 1, outbox())
			} else {
				assert.Len(t, r.timeline(c, db.EventOperatorNeeded), 1)
			}
		})
	}
}

// Who is asked for by name, and the company's own people, wait for no turn.
func TestWhoIsNotUnderTheRamp(t *testing.T) {
	r := newRig(t)
	one := 1
	_, _, err := r.db.SetMail(t.Context(), db.MailSetting{Ramp: &one, By: "Grace", At: r.now})
	require.NoError(t, err)
	first, second := r.stale(), r.stale()
	assert.Equal(t, 1, perform(r, r.acts.Notify, r.notice(first)).Sent)
	out := perform(r, r.acts.Notify, r.notice(second))
	assert.Equal(t, activities.NoticedRamp, out.Mail)
	assert.WithinDuration(t, r.now.Add(61*time.Minute), *out.Later, time.Second)
	assert.Equal(t, fmt.Sprint(out.Later.Unix()), fmt.Sprint(r.row(second).NextNoticeAt.Unix()))
	reminder := r.notice(first)
	reminder.Step.Key, reminder.NoticesSent = "after-2d", 1
	assert.Equal(t, 1, perform(r, r.acts.Notify, reminder).Sent, "reminders go on")
	asked := r.notice(second)
	asked.Step.Key, asked.Asked = "remind-now-1", true
	assert.Equal(t, 1, perform(r, r.acts.Notify, asked).Sent, "a person asked for it")
	assert.Equal(t, 1, perform(r, r.acts.Notify, r.notice(second)).Sent, "and then it has told somebody")
}

func (s stopping) Send(ctx context.Context, m notify.Mail) (notify.Delivery, error) {
	delivery, err := s.mail.Send(ctx, m)
	s.rig.setMail(reauth.MailStopped)
	return delivery, err
}
