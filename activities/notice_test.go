package activities_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// notice is the first notice of a customer whose loss was just confirmed, in a
// campaign that keeps neither hours nor a cap.
func (r *rig) notice(c customer) activities.NoticeInput {
	step := campaign.Step{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Mail}
	next := step
	next.Key = "after-2d"
	return activities.NoticeInput{
		Case: c.ref, Step: step, Kind: activities.NoticeFirst, SessionOrdinal: 1,
		DeadlineAt: r.now.Add(30 * 24 * time.Hour), LookedAt: r.now, Next: &campaign.Date{Step: next, At: r.now.Add(48 * time.Hour)},
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
		assert.Equal(t, in.Next.At, *row.NextNoticeAt)
		assert.Equal(t, "after-2d", row.NextStep)
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
		{"before-1d", "Last reminder", activities.NoticeLastCall, 2},
		{"try-again-1", "sign in once more", activities.NoticeTryAgain, 2},
	} {
		before := len(r.mails(pat))
		in.Step.Key, in.Kind, in.SessionOrdinal, in.NoticesSent = step.key, step.kind, step.ordinal, 2*before
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
		k := inbox.Knobs{Fault: kind, At: at, Code: code, Times: times}
		if code == 550 {
			k.Enhanced = "5.7.1" // not for the address
		}
		return k
	}
	const refused = "The mail server refused every mail of the step."
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
		"it defers one when it has seen it": {
			knobs: fault(inbox.FaultReject, inbox.AtContent, 452, 1), later: true, want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeDeferred, db.NoticeSent}, then: []db.NoticeState{db.NoticeSent, db.NoticeSent}, mails: []int{1, 1},
		},
		"it refuses what one says": {
			knobs: fault(inbox.FaultReject, inbox.AtContent, 550, 1), want: activities.Noticed{Sent: 1},
			first: []db.NoticeState{db.NoticeRefused, db.NoticeSent}, then: []db.NoticeState{db.NoticeRefused, db.NoticeSent}, mails: []int{0, 1},
		},
		"it hangs before it has it": {
			knobs: fault(inbox.FaultHang, inbox.AtRcpt, 0, 1), later: true, want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeDeferred, db.NoticeSent}, then: []db.NoticeState{db.NoticeSent, db.NoticeSent}, mails: []int{1, 1},
		},
		"it hangs when it has it": {
			knobs: fault(inbox.FaultHang, inbox.AtContent, 0, 1), want: activities.Noticed{Sent: 2},
			first: []db.NoticeState{db.NoticeUnknown, db.NoticeSent}, then: []db.NoticeState{db.NoticeUnknown, db.NoticeSent}, mails: []int{1, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			if test.knobs.Fault == inbox.FaultHang {
				defer func(was activities.Mailer) { r.acts.Mail = was }(r.acts.Mail)
				r.hasty()
			}
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
	const problem = "Nobody at the customer can be written to: the connection has no contact."

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
		assert.Equal(t, in.Next.At, *r.row(c).NextNoticeAt)
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

// hasty makes us wait for the mail server no longer than a test can.
func (r *rig) hasty() {
	r.t.Helper()
	smtp, err := notify.NewSMTP(r.inbox.SMTPURL() + "?timeout=300ms")
	require.NoError(r.t, err)
	r.acts.Mail = smtp
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
	r.died(c, db.Notice{Step: in.Step.Key, SessionOrdinal: 1, Recipient: r.contact(c)})
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

	in.Step.Key, in.Kind = "after-2d", activities.NoticeReminder
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
	assert.Len(t, r.mails(c.mail), 1)
	require.Len(t, r.mails(successor), 1)
	assert.Empty(t, r.mails(successor)[0].InReplyTo, "whose first mail it is")
	assert.Contains(t, r.mails(successor)[0].Text, "Gusto needs you to sign in again", "nobody is reminded of what they never heard")
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

// dying is a mail server amid whose conversation the worker dies.
type dying struct {
	activities.Mailer
	before, during bool
	inbox          *inbox.Server
}

func (d dying) Send(ctx context.Context, mail notify.Mail) (notify.Delivery, error) {
	if d.before {
		panic("killed")
	}
	if d.during {
		ctx, cancel := context.WithCancel(ctx)
		d.Mailer = abandoning{d.Mailer, cancel}
		if err := d.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultDrop, At: inbox.AtBody, Times: 1}); err != nil {
			return "", err
		}
		_, _ = d.Mailer.Send(ctx, mail)
		panic("killed")
	}
	_, _ = d.Mailer.Send(ctx, mail)
	panic("killed")
}

// Wherever a worker dies, nobody gets a mail twice: what became of the one that
// was on its way, nobody knows.
func TestNotifyWhenTheWorkerDies(t *testing.T) {
	r := newRig(t)
	well := r.acts.Mail
	for name, test := range map[string]struct {
		mail  dying
		mails int
	}{
		"before the conversation": {mail: dying{before: true}},
		"amid the message":        {mail: dying{during: true}},
		"after it":                {mails: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			c := r.stale()
			in := r.notice(c)
			test.mail.Mailer, test.mail.inbox = well, r.inbox
			r.acts.Mail = test.mail
			_, err := run(r, r.acts.Notify, in)
			require.ErrorContains(t, err, "killed")
			assert.Equal(t, []db.NoticeState{db.NoticeSending}, r.ledger(c))
			r.acts.Mail = well
			assert.Len(t, r.mails(c.mail), test.mails)
			for range 2 {
				assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
				assert.Equal(t, []db.NoticeState{db.NoticeUnknown}, r.ledger(c))
				assert.Len(t, r.mails(c.mail), test.mails)
			}
			in.Step.Key, in.Kind = "after-2d", activities.NoticeReminder
			assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
			assert.Len(t, r.mails(c.mail), test.mails+1, "the next step is on time")
		})
	}
}

// people are the contacts of a customer who has a primary contact, an alternate
// and somebody at the company itself.
func people(name string) []reauth.Contact {
	at := "@" + name + ".example"
	return []reauth.Contact{
		{Email: "planted.pat" + at, Name: "Pat"},
		{Email: "planted.alex" + at, Name: "Alex", Role: "alternate"},
		{Email: "planted.manager" + at, Name: "Morgan", Role: "account_manager"},
	}
}

// changes takes down whom a change of contacts was told to.
type changes struct{ told []string }

func (c *changes) ContactsChanged(_ context.Context, connectionID string, _ reauth.ContactsChanged) error {
	c.told = append(c.told, connectionID)
	return errors.New("the case has just closed") // which is no harm
}

func TestNotifyGoesOnToTheNext(t *testing.T) {
	r := newRig(t)
	told := &changes{}
	r.acts.Cases = told
	bounce := inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550, Enhanced: "5.1.1", Text: "No such user"}
	unreachable := func(kind db.Unreachable) func(t *testing.T, c customer, email string) {
		return func(t *testing.T, c customer, email string) {
			_, _, err := r.db.SetUnreachable(t.Context(), email, kind, "")
			require.NoError(t, err)
		}
	}
	declines := func(t *testing.T, c customer, email string) {
		list, err := r.db.Recipients(t.Context(), c.id)
		require.NoError(t, err)
		for _, person := range list {
			if person.Email == email {
				_, err := r.db.Decline(t.Context(), c.id, person.ContactID)
				require.NoError(t, err)
			}
		}
	}
	bounces := func(t *testing.T, _ customer, email string) {
		k := bounce
		k.To = email
		require.NoError(t, r.inbox.SetKnobs(k))
	}
	type who = map[string]func(t *testing.T, c customer, email string)
	for name, test := range map[string]struct {
		audience campaign.Audience
		out      who // by the beginning of their address
		hear     []string
		problem  string
		states   []db.NoticeState
	}{
		"everybody-is-there":    {hear: []string{"pat"}},
		"the-alternates-too":    {audience: campaign.Alternates, hear: []string{"pat", "alex"}},
		"the-primary-bounces":   {out: who{"pat": bounces}, hear: []string{"alex"}, states: []db.NoticeState{db.NoticeRefused, db.NoticeSent}},
		"the-primary-declined":  {out: who{"pat": declines}, hear: []string{"alex"}},
		"the-primary-opted-out": {out: who{"pat": unreachable(db.UnreachableOptOut)}, hear: []string{"alex"}},
		"the-primary-complains": {out: who{"pat": unreachable(db.UnreachableComplaint)}, hear: []string{"alex"}},
		"one-of-two-bounces":    {audience: campaign.Alternates, out: who{"alex": bounces}, hear: []string{"pat"}, states: []db.NoticeState{db.NoticeSent, db.NoticeRefused}},
		"only-the-company-left": {out: who{"pat": declines, "alex": unreachable(db.UnreachableOptOut)}, hear: []string{"manager"}},
		"the-last-one-bounces":  {out: who{"pat": declines, "alex": bounces}, hear: []string{"manager"}, states: []db.NoticeState{db.NoticeRefused, db.NoticeSent}},
		"nobody": {
			out: who{"pat": declines, "alex": unreachable(db.UnreachableOptOut), "manager": unreachable(db.UnreachableComplaint)}, states: []db.NoticeState{},
			problem: "Nobody at the customer can be written to: 1 of its contacts said they are not the right person, 1 of its contacts want no mail, 1 of its contacts complained of a mail.",
		},
		"nobody-after-a-bounce": {
			out: who{"pat": bounces, "alex": declines, "manager": declines}, states: []db.NoticeState{db.NoticeRefused},
			problem: "Nobody at the customer can be written to: 1 of its contacts take no mail, 2 of its contacts said they are not the right person.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			contacts := people(name)
			c := r.stale(func(o *options) { o.contacts, o.people = nil, contacts })
			email := func(who string) string { return "planted." + who + "@" + name + ".example" }
			for who, is := range test.out {
				is(t, c, email(who))
			}
			in := r.notice(c)
			if test.audience != "" {
				in.Step.Audience = test.audience
			}
			operator := len(r.mails(operatorMail))
			states := test.states
			if states == nil {
				for range test.hear {
					states = append(states, db.NoticeSent)
				}
			}
			want := activities.Noticed{Sent: len(test.hear), Problem: test.problem}
			for range 2 {
				assert.Equal(t, want, perform(r, r.acts.Notify, in))
				require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
				assert.Equal(t, states, r.ledger(c))
				heard := []string{}
				for _, who := range []string{"pat", "alex", "manager"} {
					for range r.mails(email(who)) {
						heard = append(heard, who)
					}
				}
				assert.ElementsMatch(t, test.hear, heard)
			}
			if test.problem == "" {
				assert.Len(t, r.mails(operatorMail), operator)
				return
			}
			require.Len(t, r.mails(operatorMail), operator+1, "the operator hears, once")
			assert.Equal(t, []string{test.problem}, r.timeline(c, "operator_needed"))
		})
	}
	assert.Empty(t, told.told, "nobody else has these contacts")
}

// An address that takes no mail is remembered, for every case that writes to it.
func TestBounceIsRemembered(t *testing.T) {
	r := newRig(t)
	told := &changes{}
	r.acts.Cases = told
	shared := reauth.Contact{Email: "planted.shared@acme.example"}
	c := r.stale(func(o *options) { o.contacts, o.people = nil, []reauth.Contact{shared} })
	other := r.stale(func(o *options) { o.people = []reauth.Contact{shared} })
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, To: shared.Email, Code: 550, Enhanced: "5.1.1", Text: "No such user " + shared.Email}))
	perform(r, r.acts.Notify, r.notice(c))
	assert.Equal(t, []string{other.id}, told.told, "the case itself knows")
	kind, err := r.db.AddressUnreachable(t.Context(), shared.Email)
	require.NoError(t, err)
	assert.Equal(t, db.UnreachableBounce, kind)
	assert.Len(t, r.timeline(c, db.EventUnreachable), 1)
	assert.Len(t, r.timeline(other, db.EventUnreachable), 1)

	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, r.notice(other)), "the one who is left")
	assert.Empty(t, r.mails(shared.Email))
}

// A server that does not like the mail says nothing about the address.
func TestRefusedContentIsNoBounce(t *testing.T) {
	r := newRig(t)
	for _, k := range []inbox.Knobs{
		{At: inbox.AtContent, Code: 554, Enhanced: "5.6.0", Text: "Message content refused"},
		{At: inbox.AtContent, Code: 550, Enhanced: "5.7.1", Text: "Looks like spam"},
		{At: inbox.AtRcpt, Code: 550, Enhanced: "5.7.1", Text: "Blocked by policy"},
	} {
		c := r.stale(func(o *options) { o.people = people("content")[1:] })
		k.Fault = inbox.FaultReject
		k.To = c.mail
		require.NoError(t, r.inbox.SetKnobs(k))
		out := perform(r, r.acts.Notify, r.notice(c))
		assert.Equal(t, "The mail server refused every mail of the step.", out.Problem)
		kind, err := r.db.AddressUnreachable(t.Context(), c.mail)
		require.NoError(t, err)
		assert.Empty(t, kind)
		assert.Empty(t, r.mails("planted.alex@content.example"), "the one it is for is not given up")
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	}
}

func TestNotifyTheCompanysOwnPeople(t *testing.T) {
	r := newRig(t)
	contacts := people("own")
	c := r.stale(func(o *options) { o.contacts, o.people = nil, contacts })
	in := r.notice(c)
	in.Step.Audience = campaign.Company
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
	manager := r.mails(contacts[2].Email)
	require.Len(t, manager, 1)
	text := func(m inbox.Message) string { return strings.Join(strings.Fields(m.Text), " ") }
	assert.Contains(t, text(manager[0]), "nobody at the customer has been told")
	assert.Contains(t, text(manager[0]), c.id, "it is the form for operators")
	assert.Contains(t, link(t, manager[0]), publicURL+"/r/", "with the page that the customer sees")
	assert.Empty(t, r.mails(contacts[0].Email))

	// Whoever is told meanwhile is counted; the company's own people are not.
	in.Step = campaign.Step{Key: "customer", Audience: campaign.Alternates, Channel: campaign.Mail}
	assert.Equal(t, activities.Noticed{Sent: 2}, perform(r, r.acts.Notify, in))
	assert.NotEqual(t, link(t, manager[0]), link(t, r.mails(contacts[0].Email)[0]))
	in.Step = campaign.Step{Key: "after-9d", Audience: campaign.Company, Channel: campaign.Mail}
	perform(r, r.acts.Notify, in)
	assert.Contains(t, text(r.mails(contacts[2].Email)[1]), "2 people at the customer have been told")
	assert.Empty(t, r.mails(operatorMail))

	// Without one of its own, its operator hears.
	plain := r.stale()
	in = r.notice(plain)
	perform(r, r.acts.Notify, in)
	in.Step = campaign.Step{Key: "after-9d", Audience: campaign.Company, Channel: campaign.Mail}
	for range 2 {
		assert.Equal(t, activities.Noticed{}, perform(r, r.acts.Notify, in))
		require.Len(t, r.mails(operatorMail), 1)
		assert.Contains(t, text(r.mails(operatorMail)[0]), "one person at the customer has been told")
	}
}

func TestNotifyInTheChat(t *testing.T) {
	r := newRig(t)
	r.acts.Settings.Chat = true
	chat := func(c customer) activities.NoticeInput {
		in := r.notice(c)
		in.Step = campaign.Step{Key: "after-9d", Audience: campaign.Company, Channel: campaign.Chat}
		return in
	}
	c := r.stale(func(o *options) { o.people = people("chat") })
	const says = "Nobody has logged in again since "
	for range 2 {
		assert.Equal(t, activities.Noticed{}, perform(r, r.acts.Notify, chat(c)))
		require.Len(t, r.timeline(c, "operator_needed"), 1)
		assert.Contains(t, r.timeline(c, "operator_needed")[0], says)
		rows, err := r.db.NoticesOf(t.Context(), c.ref.CaseID)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		assert.Equal(t, db.ChannelChat, rows[0].Channel)
		assert.Equal(t, db.RecipientOperator, rows[0].Recipient)
		assert.Equal(t, db.NoticeSent, rows[0].State)
		r.advance(time.Second)
	}
	assert.Empty(t, r.inbox.Messages())

	// A worker that died amid it has perhaps not said it.
	died := r.stale()
	_, permit, _, err := r.db.BeginNotice(t.Context(), db.Notice{
		CaseID: died.ref.CaseID, Step: "after-9d", SessionOrdinal: 1, Recipient: db.RecipientOperator, Channel: db.ChannelChat,
	})
	require.NoError(t, err)
	require.True(t, permit)
	perform(r, r.acts.Notify, chat(died))
	assert.Len(t, r.timeline(died, "operator_needed"), 1)
	assert.Len(t, r.timeline(died, "notice_sent"), 1)

	// Nor is the company told of what is mended already.
	mended := r.stale()
	require.NoError(t, r.sim.Restore(mended.id))
	in := chat(mended)
	in.LookedAt = r.now.Add(-time.Hour)
	assert.Equal(t, activities.Noticed{Restored: true}, perform(r, r.acts.Notify, in))
	assert.Empty(t, r.timeline(mended, "operator_needed"))

	// Where there is no chat, the operator gets a mail.
	r.acts.Settings.Chat = false
	quiet := r.stale()
	perform(r, r.acts.Notify, chat(quiet))
	require.Len(t, r.mails(operatorMail), 1)
	assert.Len(t, r.timeline(quiet, "operator_needed"), 1)
}

// noon makes it the middle of a day, so that what follows is within that day.
func (r *rig) noon() { r.now = r.now.Truncate(24 * time.Hour).Add(12 * time.Hour) }

// quietIn are hours that begin to be quiet half an hour before now in a zone,
// and end half an hour after.
func (r *rig) quietIn(zone string) campaign.Hours {
	r.t.Helper()
	loc, err := time.LoadLocation(zone)
	require.NoError(r.t, err)
	local := r.now.In(loc)
	minute := local.Hour()*60 + local.Minute()
	return campaign.Hours{QuietFrom: (minute + 24*60 - 30) % (24 * 60), QuietUntil: (minute + 30) % (24 * 60)}
}

func TestNotifyOneNowAndOneLater(t *testing.T) {
	r := newRig(t)
	awake, asleep := "planted.awake@acme.example", "planted.asleep@acme.example"
	c := r.stale(func(o *options) {
		o.contacts, o.people = nil, []reauth.Contact{{Email: awake, TimeZone: "UTC"}, {Email: asleep, TimeZone: "Etc/GMT-6"}}
	})
	in := r.notice(c)
	in.Campaign.Hours = r.quietIn("Etc/GMT-6")
	later := in.Campaign.Hours.Next(r.now, "Etc/GMT-6")
	list, err := r.db.Recipients(t.Context(), c.id)
	require.NoError(t, err)

	out := perform(r, r.acts.Notify, in)
	assert.Equal(t, activities.Noticed{Sent: 1, Later: &later, Why: "it is outside the hours of contact " + list[1].ContactID}, out)
	assert.Len(t, r.mails(awake), 1)
	assert.Empty(t, r.mails(asleep))
	row := r.row(c)
	assert.Equal(t, later, *row.NextNoticeAt)
	assert.Equal(t, "after-0s", row.NextStep)
	assert.Equal(t, 1, row.NoticesSent)
	assert.Len(t, r.timeline(c, "notice_moved"), 1)

	r.advance(later.Sub(r.now))
	in.LookedAt = r.now
	assert.Equal(t, activities.Noticed{Sent: 2}, perform(r, r.acts.Notify, in))
	assert.Len(t, r.mails(awake), 1, "who has heard it")
	assert.Len(t, r.mails(asleep), 1)
	row = r.row(c)
	assert.Equal(t, in.Next.At, *row.NextNoticeAt)
	assert.Equal(t, 2, row.NoticesSent)
}

// What keeps a notice, and what does not.
func TestNotifyWithinHoursAndCap(t *testing.T) {
	r := newRig(t)
	r.noon()
	type change = func(in *activities.NoticeInput)
	off := func(in *activities.NoticeInput) { in.Campaign.Hours = r.quietIn("UTC") }
	capped := func(in *activities.NoticeInput) { in.Campaign.PerDay = 1 }
	asked := func(in *activities.NoticeInput) { in.Asked = true }
	anytime := func(in *activities.NoticeInput) { in.Step.Anytime = true }
	var none campaign.Hours
	_, tomorrow := none.DayOf(r.now, "")
	soon := func(in *activities.NoticeInput) { in.DeadlineAt = tomorrow }
	for name, test := range map[string]struct {
		in   []change
		had  bool // a mail today, about another connection
		sent bool
		left bool // out
	}{
		"nothing keeps it":                           {had: true, sent: true},
		"it is outside the hours":                    {in: []change{off}},
		"outside the hours, but it goes at any time": {in: []change{off, anytime}, sent: true},
		"outside the hours, but somebody asked":      {in: []change{off, asked}, sent: true},
		"the first mail of the day":                  {in: []change{capped}, sent: true},
		"the second mail of the day":                 {in: []change{capped}, had: true},
		"the second, at any time":                    {in: []change{capped, anytime}, had: true},
		"the second, but somebody asked":             {in: []change{capped, asked}, had: true, sent: true},
		"the second, and no other day is left":       {in: []change{capped, soon}, had: true, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			var before customer
			if test.had {
				before = r.stale()
				perform(r, r.acts.Notify, r.notice(before))
			}
			c := r.stale(func(o *options) {
				if test.had {
					o.contacts = []string{before.mail}
				}
			})
			if before.mail != "" {
				c.mail = before.mail
			}
			had := len(r.mails(c.mail))
			in := r.notice(c)
			for _, change := range test.in {
				change(&in)
			}
			in.LookedAt = r.now.Add(-time.Hour)
			looked := len(r.asked(introspect))
			for range 2 {
				out := perform(r, r.acts.Notify, in)
				if test.sent {
					assert.Equal(t, activities.Noticed{Sent: 1}, out)
					assert.Len(t, r.mails(c.mail), had+1)
					continue
				}
				assert.Len(t, r.mails(c.mail), had)
				assert.Zero(t, out.Sent)
				assert.Empty(t, r.ledger(c))
				if test.left {
					assert.Nil(t, out.Later)
					assert.Equal(t, []string{"after-0s to " + r.contact(c) + ": the day's mail was sent already, and no day is left before the deadline."}, r.timeline(c, "notice_left_out"))
					continue
				}
				require.NotNil(t, out.Later)
				if test.had {
					assert.Equal(t, tomorrow, *out.Later)
					assert.Contains(t, out.Why, "has had the day's mail")
				} else {
					assert.Equal(t, in.Campaign.Hours.Next(r.now, ""), *out.Later)
				}
			}
			if len(test.in) > 0 && !test.sent && !test.had {
				assert.Len(t, r.asked(introspect), looked, "why look when nobody can be written to")
			} else {
				assert.Greater(t, len(r.asked(introspect)), looked)
			}
		})
	}
}

func TestNobodyIsLookedForWhenNobodyCanBeTold(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	_, err := r.db.Decline(t.Context(), c.id, r.contact(c))
	require.NoError(t, err)
	in := r.notice(c)
	in.LookedAt = r.now.Add(-time.Hour)
	looked := len(r.asked(introspect))
	assert.NotEmpty(t, perform(r, r.acts.Notify, in).Problem)
	assert.Len(t, r.asked(introspect), looked)
}

func TestHandOnIsForWhoHasNotHeard(t *testing.T) {
	for _, channel := range []campaign.Channel{campaign.Mail, campaign.Webhook} {
		t.Run(string(channel), func(t *testing.T) {
			r := newRig(t)
			c := r.stale()
			in := r.notice(c)
			in.Step.Channel = channel
			perform(r, r.acts.Notify, in)
			first := r.contact(c)
			second := "planted.second@acme.example"
			r.secret(second)
			_, err := r.db.PutConnection(t.Context(), reauth.Connection{
				ConnectionID: c.id, Contacts: []reauth.Contact{{Email: c.mail}, {Email: second}},
			})
			require.NoError(t, err)
			in.Step.Key, in.HandOn, in.Kind = "handed-on-1", true, activities.NoticeReminder
			assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
			rows, err := r.db.NoticesOf(t.Context(), c.ref.CaseID)
			require.NoError(t, err)
			require.Len(t, rows, 2)
			assert.Equal(t, first, rows[0].Recipient)
			assert.NotEqual(t, first, rows[1].Recipient)
			assert.Equal(t, "handed-on-1", rows[1].Step)
		})
	}
}

// stormy is who watches storms.
type stormy struct {
	activities.StormWatcher
	watched []string
	err     error
}

func (s *stormy) WatchStorm(_ context.Context, stormID string) error {
	s.watched = append(s.watched, stormID)
	return s.err
}

func TestNotifyIsHeldByAStorm(t *testing.T) {
	r := newRig(t)
	watch := &stormy{}
	r.acts.Storms = watch
	r.acts.Settings.Storm = db.StormRule{Count: 3, Share: 0.5, Window: time.Hour, AtMost: 6 * time.Hour}
	before, asked, reminded := r.stale(), r.stale(), r.notice(customer{})
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, r.notice(before)), "two are no storm")
	c := r.stale()
	looked := len(r.asked(introspect))

	watch.err = errors.New("Temporal is down")
	_, err := run(r, r.acts.Notify, r.notice(c))
	require.ErrorContains(t, err, "have the storm watched")
	watch.err = nil
	out := perform(r, r.acts.Notify, r.notice(c))
	require.NotEmpty(t, out.Storm)
	ends := r.now.Add(6 * time.Hour)
	assert.Equal(t, activities.Noticed{Later: &ends, Storm: out.Storm, Why: "3 of 3 connections broke together, so it may be the provider's fault"}, out)
	assert.Equal(t, []string{out.Storm, out.Storm}, watch.watched)
	assert.Empty(t, r.mails(c.mail))
	assert.Empty(t, r.ledger(c))
	assert.Len(t, r.timeline(c, db.EventHeld), 1)
	assert.Equal(t, ends, *r.row(c).NextNoticeAt)
	assert.True(t, r.row(c).Held)
	assert.Len(t, r.asked(introspect), looked)

	// Neither what a person asks for is held, nor what follows a first notice.
	in := r.notice(asked)
	in.Asked = true
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in))
	reminded.Case, reminded.NoticesSent, reminded.Step.Key = before.ref, 1, "after-2d"
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, reminded))

	_, err = r.db.EndStorm(t.Context(), out.Storm, "released", r.now)
	require.NoError(t, err)
	assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, r.notice(c)))
	assert.Len(t, r.mails(c.mail), 1)
}

// Headless, we mail nobody: the backend gets what it needs, once for everybody
// who may be written to now.
func TestNotifyThroughTheBackend(t *testing.T) {
	r := newRig(t)
	r.noon()
	contacts := []reauth.Contact{
		{Email: "planted.one@acme.example", TimeZone: "UTC"}, {Email: "planted.two@acme.example", TimeZone: "UTC"},
		{Email: "planted.far@acme.example", TimeZone: "Etc/GMT-6"},
	}
	c := r.stale(func(o *options) { o.contacts, o.people = nil, contacts })
	list, err := r.db.Recipients(t.Context(), c.id)
	require.NoError(t, err)
	in := r.notice(c)
	in.Step.Channel = campaign.Webhook
	in.Campaign.Hours = r.quietIn("Etc/GMT-6")
	in.Campaign.PerDay = 1
	type row struct {
		ID         string `db:"event_id"`
		Type       string `db:"type"`
		Payload    string `db:"payload"`
		Recipients string `db:"recipients"`
	}
	outbox := func() (rows []row) {
		require.NoError(t, r.raw.Select(&rows, `SELECT event_id, type, payload, array_to_string(recipients, ' ') AS recipients FROM outbox WHERE case_id = $1 ORDER BY seq`, c.ref.CaseID))
		return rows
	}
	began := r.now
	for range 2 {
		out := perform(r, r.acts.Notify, in)
		assert.Equal(t, 2, out.Sent)
		require.NotNil(t, out.Later)
		events := outbox()
		require.Len(t, events, 1)
		assert.Equal(t, activities.NoticeDue, events[0].Type)
		assert.Equal(t, list[0].ContactID+" "+list[1].ContactID, events[0].Recipients)
		var payload map[string]any
		require.NoError(t, json.Unmarshal([]byte(events[0].Payload), &payload))
		assert.Equal(t, map[string]any{
			"type": "reauth.notice.due", "timestamp": began.Format(time.RFC3339),
			"data": map[string]any{
				"case_id": c.ref.CaseID, "connection_id": c.id, "provider": "finch", "application": "default", "customer_id": "cus-1",
				"customer_name": "Acme Bakery", "system": "Gusto", "step": "after-0s", "kind": "first",
				"opened_at": c.ref.OpenedAt.Format(time.RFC3339), "deadline_at": in.DeadlineAt.Format(time.RFC3339),
			},
		}, payload)
	}
	r.advance(time.Hour)
	in.LookedAt = r.now
	assert.Equal(t, activities.Noticed{Sent: 3}, perform(r, r.acts.Notify, in))
	events := outbox()
	require.Len(t, events, 2, "the other time zone is another event")
	assert.NotEqual(t, events[0].ID, events[1].ID)
	assert.Equal(t, list[2].ContactID, events[1].Recipients)

	rows, err := r.db.NoticesOf(t.Context(), c.ref.CaseID)
	require.NoError(t, err)
	require.Len(t, rows, 3)
	for i, row := range rows {
		assert.Equal(t, db.ChannelWebhook, row.Channel)
		assert.Equal(t, db.NoticeSent, row.State)
		assert.Equal(t, list[i].ContactID, row.Recipient)
	}
	assert.Empty(t, r.inbox.Messages())

	// The company's own people are told who has heard, whoever told them.
	in.Step = campaign.Step{Key: "after-9d", Audience: campaign.Company, Channel: campaign.Mail}
	perform(r, r.acts.Notify, in)
	require.Len(t, r.mails(operatorMail), 1)
	assert.Contains(t, strings.Join(strings.Fields(r.mails(operatorMail)[0].Text), " "), "3 people at the customer have been told")
}

// Two connections of one person are one mail, and each case has it on record.
func TestDigest(t *testing.T) {
	r := newRig(t)
	r.noon()
	pair := func(t *testing.T, name string) (a, b customer, in func(c customer) activities.NoticeInput) {
		r.in(t)
		email := "planted." + name + "@acme.example"
		with := func(o *options) { o.contacts = []string{email} }
		a, b = r.stale(with), r.stale(with)
		a.mail, b.mail = email, email
		return a, b, func(c customer) activities.NoticeInput {
			in := r.notice(c)
			in.Campaign.PerDay = 1
			return in
		}
	}
	both := func(t *testing.T, a, b customer, state db.NoticeState) {
		t.Helper()
		assert.Equal(t, []db.NoticeState{state}, r.ledger(a))
		assert.Equal(t, []db.NoticeState{state}, r.ledger(b))
	}
	t.Run("sent", func(t *testing.T) {
		a, b, in := pair(t, "sent")
		assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in(a)))
		both(t, a, b, db.NoticeSent)
		assert.Len(t, r.timeline(b, "notice_sent"), 1)
		for _, c := range []customer{b, a} {
			assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in(c)))
			assert.Equal(t, 1, r.row(c).NoticesSent)
		}
		mails := r.mails(a.mail)
		require.Len(t, mails, 1)
		links := map[string]bool{}
		for _, l := range mails[0].Links {
			if strings.HasPrefix(l, publicURL+"/r/") && !strings.HasSuffix(l, "/stop") {
				links[l] = true
			}
		}
		assert.Len(t, links, 2)
		assert.Contains(t, mails[0].Subject, "2 connections")

		// Each case goes on in the thread of this mail.
		next := r.notice(b)
		next.Step.Key, next.Kind = "after-2d", activities.NoticeReminder
		perform(r, r.acts.Notify, next)
		require.Len(t, r.mails(a.mail), 2)
		assert.Equal(t, mails[0].MessageID, r.mails(a.mail)[1].InReplyTo)
		assert.True(t, links[link(t, r.mails(a.mail)[1])])
	})
	t.Run("put off", func(t *testing.T) {
		a, b, in := pair(t, "deferred")
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtContent, Code: 451, Times: 1}))
		_, err := run(r, r.acts.Notify, in(a))
		assert.Equal(t, "mail_deferred", r.failure(err).Type())
		both(t, a, b, db.NoticeDeferred)
		assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in(b)), "whoever comes first tries again")
		assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, in(a)))
		both(t, a, b, db.NoticeSent)
		assert.Len(t, r.mails(a.mail), 1)
	})
	t.Run("on its way", func(t *testing.T) {
		a, b, in := pair(t, "underway")
		defer func(was activities.Mailer) { r.acts.Mail = was }(r.acts.Mail)
		r.acts.Mail = dying{Mailer: r.acts.Mail}
		_, err := run(r, r.acts.Notify, in(a))
		require.ErrorContains(t, err, "killed")
		both(t, a, b, db.NoticeSending)
		_, err = run(r, r.acts.Notify, in(b))
		assert.Equal(t, "mail_deferred", r.failure(err).Type(), "another worker may be at it")
		both(t, a, b, db.NoticeSending)
		r.advance(10 * time.Minute)
		later := in(b)
		later.Campaign.PerDay = 0
		assert.Equal(t, activities.Noticed{Sent: 1}, perform(r, r.acts.Notify, later), "but not for ever")
		assert.Equal(t, []db.NoticeState{db.NoticeUnknown}, r.ledger(b))
		assert.Len(t, r.mails(a.mail), 1)
	})
	t.Run("refused", func(t *testing.T) {
		a, b, in := pair(t, "bounced")
		told := &changes{}
		r.acts.Cases = told
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550, Enhanced: "5.1.1", To: a.mail}))
		perform(r, r.acts.Notify, in(a))
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
		both(t, a, b, db.NoticeRefused)
		assert.Equal(t, []string{b.id}, told.told, "it must find somebody else, too")
	})
}
