package activities_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// notice is the first notice of a customer whose loss was just confirmed.
func (r *rig) notice(c customer) activities.NoticeInput {
	next := r.now.Add(48 * time.Hour)
	return activities.NoticeInput{
		Case: c.ref, Step: "after-0s", Kind: activities.NoticeFirst, SessionOrdinal: 1,
		DeadlineAt: r.now.Add(30 * 24 * time.Hour), LookedAt: r.now, NextNoticeAt: &next,
	}
}

// ledger lists the states of the case's notices, without the operator's.
func (r *rig) ledger(c customer) []db.NoticeState {
	r.t.Helper()
	rows, err := r.db.NoticesOf(r.t.Context(), c.ref.CaseID)
	require.NoError(r.t, err)
	states := []db.NoticeState{}
	for _, row := range rows {
		if row.Recipient != db.RecipientOperator {
			states = append(states, row.State)
		}
	}
	return states
}

func link(t *testing.T, m inbox.Message) string {
	t.Helper()
	for _, l := range m.Links {
		if strings.HasPrefix(l, publicURL+"/r/") {
			return l
		}
	}
	t.Fatal("the mail has no link")
	return ""
}

func TestNotifyWritesToEverybodyOnce(t *testing.T) {
	r := newRig(t)
	pat, kim := "planted.pat@acme.example", "planted.kim@acme.example"
	c := r.stale(func(o *options) { o.contacts = []string{pat, kim} })
	in := r.notice(c)
	for range 2 { // the second time nobody hears anything
		assert.Equal(t, activities.Noticed{Sent: 2}, perform(r, r.acts.Notify, in))
		row := r.row(c)
		assert.Equal(t, *in.NextNoticeAt, *row.NextNoticeAt)
		assert.Equal(t, 2, row.NoticesSent)
		require.Len(t, r.mails(pat), 1)
		require.Len(t, r.mails(kim), 1)
	}
	first := r.mails(pat)[0]
	assert.NotEqual(t, link(t, first), link(t, r.mails(kim)[0]), "everybody has their own link")
	assert.Empty(t, first.InReplyTo)
	assert.Contains(t, first.Text, "Gusto needs you to sign in again")
	assert.Contains(t, first.Text, "Acme Bakery")
	assert.Contains(t, first.Text, in.DeadlineAt.Format("2 January 2006"))

	// Later steps stand in the thread of the first, with the same link.
	for _, step := range []struct {
		key, says string
		kind      activities.NoticeKind
		ordinal   int
	}{
		{"after-2d", "still disconnected", activities.NoticeReminder, 1},
		{"after-2d", "still disconnected", activities.NoticeReminder, 2}, // of the next session
		{"before-1d", "Last reminder", activities.NoticeLastCall, 2},
		{"try-again-1", "sign in once more", activities.NoticeTryAgain, 2},
	} {
		before := len(r.mails(pat))
		in.Step, in.Kind, in.SessionOrdinal, in.NoticesSent = step.key, step.kind, step.ordinal, 2*before
		assert.Equal(t, activities.Noticed{Sent: 2}, perform(r, r.acts.Notify, in))
		mails := r.mails(pat)
		require.Len(t, mails, before+1)
		last := mails[before]
		assert.Equal(t, first.MessageID, last.InReplyTo)
		assert.Equal(t, link(t, first), link(t, last))
		assert.Contains(t, last.Text, step.says)
		assert.Equal(t, 2*before+2, r.row(c).NoticesSent)
	}
	assert.Empty(t, r.mails(operatorMail))
}

func TestNotifyLooksFirst(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]struct {
		lookedAgo time.Duration
		later     time.Duration // since the step was due
		click     bool
		fault     finchsim.Fault
		restored  bool // at the provider
		want      activities.Noticed
		kind      string
	}{
		"it was looked a minute ago":           {lookedAgo: time.Minute, restored: true, want: activities.Noticed{Sent: 1}},
		"it is still lost":                     {lookedAgo: time.Hour, want: activities.Noticed{Sent: 1}},
		"access is back":                       {lookedAgo: 61 * time.Second, restored: true, want: activities.Noticed{Restored: true}},
		"the customer is on the way":           {lookedAgo: time.Hour, restored: true, click: true, want: activities.Noticed{Restored: true}},
		"no look for a while":                  {lookedAgo: time.Hour, fault: always(introspect, finchsim.FaultServerError), later: 59 * time.Minute, kind: "unavailable"},
		"no look for an hour":                  {lookedAgo: time.Hour, fault: always(introspect, finchsim.FaultServerError), later: 61 * time.Minute, want: activities.Noticed{Sent: 1}},
		"after an hour, but it can be looked":  {lookedAgo: time.Hour, later: 61 * time.Minute, restored: true, want: activities.Noticed{Restored: true}},
		"no look, but one that is still young": {lookedAgo: 0, fault: always(introspect, finchsim.FaultServerError), want: activities.Noticed{Sent: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			defer func(now time.Time) { r.now = now }(r.now)
			r.fail()
			c := r.stale()
			if test.restored {
				require.NoError(t, r.sim.Restore(c.id))
			}
			if test.fault.Kind != "" {
				r.fail(test.fault)
			}
			r.advance(test.later)
			if test.click {
				r.click(c, time.Minute)
				until := r.now.Add(29 * time.Minute)
				test.want.HoldUntil = &until
			}
			in := r.notice(c)
			in.LookedAt = r.now.Add(-test.lookedAgo)
			out, err := run(r, r.acts.Notify, in)
			if test.kind != "" {
				assert.Equal(t, test.kind, r.failure(err).Type())
			} else {
				require.NoError(t, err)
				assert.Equal(t, test.want, out)
			}
			assert.Len(t, r.mails(c.mail), test.want.Sent)
			assert.Len(t, r.ledger(c), test.want.Sent)
		})
	}
}

func TestNotifyAndTheMailServer(t *testing.T) {
	r := newRig(t)
	fault := func(kind inbox.Fault, at inbox.Point, code, times int) inbox.Knobs {
		return inbox.Knobs{Fault: kind, At: at, Code: code, Times: times}
	}
	const refused = "The mail server refused every address of the customer."
	for name, test := range map[string]struct {
		knobs inbox.Knobs
		want  activities.Noticed
		later bool             // nobody knows more than that it must be tried again
		first []db.NoticeState // after the first attempt, and
		then  []db.NoticeState // after the next, when the server is well
		mails []int            // that each has in the end
	}{
		"it is not there": {
			knobs: fault(inbox.FaultDrop, inbox.AtGreeting, 0, 0), later: true, want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeDeferred, db.NoticeDeferred}, then: []db.NoticeState{db.NoticeSent, db.NoticeSent}, mails: []int{1, 1},
		},
		"it defers one": {
			knobs: fault(inbox.FaultReject, inbox.AtRcpt, 451, 1), later: true, want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeDeferred, db.NoticeSent}, then: []db.NoticeState{db.NoticeSent, db.NoticeSent}, mails: []int{1, 1},
		},
		"it refuses one": {
			knobs: fault(inbox.FaultReject, inbox.AtRcpt, 550, 1), want: activities.Noticed{Sent: 1},
			first: []db.NoticeState{db.NoticeRefused, db.NoticeSent}, then: []db.NoticeState{db.NoticeRefused, db.NoticeSent}, mails: []int{0, 1},
		},
		"it refuses all": {
			knobs: fault(inbox.FaultReject, inbox.AtRcpt, 550, 2), want: activities.Noticed{Problem: refused},
			first: []db.NoticeState{db.NoticeRefused, db.NoticeRefused}, then: []db.NoticeState{db.NoticeRefused, db.NoticeRefused}, mails: []int{0, 0},
		},
		"its answer is lost": {
			knobs: fault(inbox.FaultDrop, inbox.AtContent, 0, 2), want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeUnknown, db.NoticeUnknown}, then: []db.NoticeState{db.NoticeUnknown, db.NoticeUnknown}, mails: []int{1, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			domain := strings.ReplaceAll(name, " ", "-") + ".example"
			contacts := []string{"planted.one@" + domain, "planted.two@" + domain}
			c := r.stale(func(o *options) { o.contacts = contacts })
			operator := len(r.mails(operatorMail))
			require.NoError(t, r.inbox.SetKnobs(test.knobs))
			out, err := run(r, r.acts.Notify, r.notice(c))
			if test.later {
				assert.Equal(t, "mail_deferred", r.failure(err).Type())
				assert.True(t, benign(r.failure(err)))
				assert.Zero(t, r.row(c).NoticesSent)
			} else {
				require.NoError(t, err)
				assert.Equal(t, test.want, out)
			}
			assert.Equal(t, test.first, r.ledger(c))

			require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
			assert.Equal(t, test.want, perform(r, r.acts.Notify, r.notice(c)))
			assert.Equal(t, test.then, r.ledger(c))
			assert.Equal(t, test.want.Sent, r.row(c).NoticesSent)
			for i, address := range contacts {
				assert.Len(t, r.mails(address), test.mails[i])
			}
			told := len(r.mails(operatorMail)) - operator
			if test.want.Problem != "" {
				assert.Equal(t, 1, told, "once")
				assert.Equal(t, []string{refused}, r.timeline(c, "operator_needed"))
			} else {
				assert.Zero(t, told)
			}
		})
	}
}

func TestNotifyNobody(t *testing.T) {
	r := newRig(t)
	c := r.stale(func(o *options) { o.contacts = nil })
	in := r.notice(c)
	const problem = "The connection has no contact, so nobody at the customer could be told."

	// The operator's mail, too, is tried again until the server takes it.
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtMail, Code: 451}))
	_, err := run(r, r.acts.Notify, in)
	assert.Equal(t, "mail_deferred", r.failure(err).Type())
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))

	for range 2 {
		assert.Equal(t, activities.Noticed{Problem: problem}, perform(r, r.acts.Notify, in))
		require.Len(t, r.mails(operatorMail), 1)
		assert.Contains(t, r.mails(operatorMail)[0].Text, problem)
		assert.Equal(t, []string{problem}, r.timeline(c, "operator_needed"))
		assert.Equal(t, *in.NextNoticeAt, *r.row(c).NextNoticeAt)
	}
}

// A case that has an outcome writes to nobody, even if the activity was under way.
func TestNotifyOfAClosedCase(t *testing.T) {
	r := newRig(t)
	for _, outcome := range reauth.Outcomes() {
		c := r.stale()
		_, err := r.db.CloseCase(t.Context(), db.Closing{CaseID: c.ref.CaseID, Outcome: outcome, At: r.now})
		require.NoError(t, err)
		assert.Equal(t, activities.Noticed{}, perform(r, r.acts.Notify, r.notice(c)), outcome)
		assert.Empty(t, r.mails(c.mail), outcome)
		assert.Empty(t, r.ledger(c), outcome)
		assert.Nil(t, r.row(c).NextNoticeAt)
	}
}

// died leaves the ledger as an attempt does that dies amid the conversation.
func (r *rig) died(c customer, n db.Notice) {
	r.t.Helper()
	n.CaseID, n.Channel = c.ref.CaseID, db.ChannelMail
	n.MessageID = notify.MessageID("product.example", n.CaseID, n.Step, n.SessionOrdinal, n.Recipient)
	_, permit, _, err := r.db.BeginNotice(r.t.Context(), n)
	require.NoError(r.t, err)
	require.True(r.t, permit)
}

func (r *rig) contact(c customer) string {
	r.t.Helper()
	list, err := r.db.Recipients(r.t.Context(), c.id)
	require.NoError(r.t, err)
	require.NotEmpty(r.t, list)
	return list[0].ContactID
}

func TestNotifyAfterAnAttemptThatDied(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.notice(c)
	r.died(c, db.Notice{Step: in.Step, SessionOrdinal: 1, Recipient: r.contact(c)})
	for range 2 {
		assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in), "it may have been sent")
		assert.Equal(t, []db.NoticeState{db.NoticeUnknown}, r.ledger(c))
		assert.Empty(t, r.mails(c.mail), "but is not sent again")
	}
}

func TestNotifyResolvesRecipientsWhenItSends(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.notice(c)
	perform(r, r.acts.Notify, in)
	successor := "planted.successor@acme.example"
	r.secret(successor)
	_, err := r.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: c.id, Contacts: []reauth.Contact{{Email: successor}}})
	require.NoError(t, err)

	in.Step, in.Kind = "after-2d", activities.NoticeReminder
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
	assert.Len(t, r.mails(c.mail), 1)
	require.Len(t, r.mails(successor), 1)
	assert.Empty(t, r.mails(successor)[0].InReplyTo, "whose first mail it is")
	assert.NotEqual(t, link(t, r.mails(c.mail)[0]), link(t, r.mails(successor)[0]))
}

// abandoning is a mail server during whose first mail the activity is abandoned.
type abandoning struct {
	activities.Mailer
	abandon func()
}

func (a abandoning) Send(ctx context.Context, mail notify.Mail) (notify.Delivery, error) {
	defer a.abandon()
	return a.Mailer.Send(ctx, mail)
}

func TestNotifyThatIsAbandonedBeginsNothingMore(t *testing.T) {
	r := newRig(t)
	pat, kim := "planted.pat@acme.example", "planted.kim@acme.example"
	c := r.stale(func(o *options) { o.contacts = []string{pat, kim} })
	step := func(ctx context.Context, in activities.NoticeInput) (activities.Noticed, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r.acts.Mail = abandoning{r.acts.Mail, cancel}
		return r.acts.Notify(ctx, in)
	}
	_, err := run(r, step, r.notice(c))
	require.Error(t, err)
	assert.Equal(t, []db.NoticeState{db.NoticeSent}, r.ledger(c), "what became of the first is on record")
	assert.Len(t, r.mails(pat), 1)
	assert.Empty(t, r.mails(kim))
}
