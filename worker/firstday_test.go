package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// firstDay is a season whose mails go through a real mail server, in which
// operators do what they do on the day on which they adopt all this.
type firstDay struct {
	*season
	inbox *inbox.Server
	smtp  *notify.SMTP

	mu    sync.Mutex
	asked int // how many cases were told something
	dies  func(asked int) bool
	begun bool
	mails []reauth.MailStatus
	bulks []reauth.BulkStatus
}

func newFirstDay(t *testing.T, from time.Time) *firstDay {
	t.Helper()
	d := &firstDay{season: newSeason(t, from)}
	var err error
	d.inbox, err = inbox.New(inbox.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.inbox.Close() })
	d.smtp, err = notify.NewSMTP(d.inbox.SMTPURL())
	require.NoError(t, err)
	d.acts.Mail, d.acts.Steer = d, d
	d.env.RegisterWorkflowWithOptions(d.operations, workflow.RegisterOptions{Name: "operations"})
	return d
}

// operations stands for what workers see to beside the cases: it starts the
// workflows that operators have asked for.
func (d *firstDay) operations(ctx workflow.Context) error {
	run := func(ctx workflow.Context, id, kind string, in, out any) error {
		child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: id})
		return workflow.ExecuteChildWorkflow(child, kind, in).Get(child, out)
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var in reauth.MailInput
			workflow.GetSignalChannel(ctx, "mail").Receive(ctx, &in)
			workflow.Go(ctx, func(ctx workflow.Context) {
				var status reauth.MailStatus
				if run(ctx, reauth.MailWorkflowID(in.ChangeID), reauth.MailWorkflowType, in, &status) == nil {
					d.mails = append(d.mails, status)
				}
			})
		}
	})
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var id string
			workflow.GetSignalChannel(ctx, "bulk").Receive(ctx, &id)
			workflow.Go(ctx, func(ctx workflow.Context) {
				var status reauth.BulkStatus
				if run(ctx, reauth.BulkWorkflowID(id), reauth.BulkWorkflowType, reauth.BulkInput{BulkID: id}, &status) == nil {
					d.bulks = append(d.bulks, status)
				}
			})
		}
	})
	return d.year(ctx, d.breaks)
}

func (d *firstDay) run() {
	d.t.Helper()
	d.after(0, func() { d.begun = true })
	d.env.ExecuteWorkflow("operations")
	require.True(d.t, d.env.IsWorkflowCompleted())
	require.NoError(d.t, d.env.GetWorkflowError())
	require.Len(d.t, d.results, len(d.breaks), "a case has no result")
}

// set changes mail, as PUT /v1/mail does, and has it told as a worker does.
func (d *firstDay) set(mode reauth.MailMode, ramp int) {
	d.t.Helper()
	c, changed, err := d.db.SetMail(context.Background(), db.MailSetting{Mode: &mode, Ramp: &ramp, By: "Grace", At: d.env.Now()})
	require.NoError(d.t, err)
	if changed {
		change, err := d.db.MailChange(context.Background(), c.Version)
		require.NoError(d.t, err)
		d.start("mail", reauth.MailInput{Version: c.Version, ChangeID: change.ChangeID})
	}
}

// ask asks the same of many cases.
func (d *firstDay) ask(b db.Bulk) {
	d.t.Helper()
	b.By, b.CreatedAt = "Grace", d.env.Now()
	b, err := d.db.AddBulk(context.Background(), b)
	require.NoError(d.t, err)
	d.start("bulk", b.BulkID)
}

// start has a workflow started, once the season has begun.
func (d *firstDay) start(kind string, what any) {
	if d.begun {
		d.env.SignalWorkflow(kind, what)
	} else {
		d.after(time.Second, func() { d.env.SignalWorkflow(kind, what) })
	}
}

// Send hands a mail to the mail server, and remembers when.
func (d *firstDay) Send(ctx context.Context, m notify.Mail) (notify.Delivery, error) {
	delivery, err := d.smtp.Send(ctx, m)
	if delivery == notify.Sent {
		_, _ = d.season.Send(ctx, m)
	}
	return delivery, err
}

func (d *firstDay) signalled(connection, name string, m any) error {
	d.mu.Lock()
	d.asked++
	n := d.asked
	d.mu.Unlock()
	err := d.env.SignalWorkflowByID(reauth.WorkflowID(connection), name, m)
	if d.dies != nil && d.dies(n) {
		return errors.New("the worker is dead")
	}
	return err
}

// Cancel and the others stand for the starter.
func (d *firstDay) Cancel(_ context.Context, connection string, m reauth.Cancel) error {
	return d.signalled(connection, reauth.SignalCancel, m)
}

func (d *firstDay) Snooze(_ context.Context, connection string, m reauth.Snooze) error {
	return d.signalled(connection, reauth.SignalSnooze, m)
}

func (d *firstDay) StopNotices(_ context.Context, connection string, m reauth.StopNotices) error {
	return d.signalled(connection, reauth.SignalStopNotices, m)
}

func (d *firstDay) ReleaseNotices(_ context.Context, connection string, m reauth.NoticesReleased) error {
	return d.signalled(connection, reauth.SignalNoticesReleased, m)
}

// many breaks many connections within a minute, each with a contact of its own.
func (d *firstDay) many(n int, in reauth.Input) {
	for i := range n {
		id := fmt.Sprintf("c%03d", i)
		d.connect(id, contact(id+"@acme.example", "UTC"))
		in.ConnectionID = id
		d.broken(time.Duration(i)*time.Minute/time.Duration(n), in)
	}
}

func (d *firstDay) count(where string, args ...any) int {
	d.t.Helper()
	n := 0
	for i := range len(d.breaks) {
		for _, row := range d.ledger(fmt.Sprintf("c%03d", i)) {
			if fmt.Sprintf(where, args...) == row {
				n++
			}
		}
	}
	return n
}

var tuesday = time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)

func steps(after ...time.Duration) campaign.Campaign {
	c := campaign.Default()
	c.Steps = nil
	for i, d := range after {
		key := fmt.Sprintf("after-%dd", int(d/day))
		if d == 0 {
			key = "after-0s"
		}
		c.Steps = append(c.Steps, campaign.Step{Key: key, After: d, Audience: campaign.Primary, Channel: campaign.Mail, Anytime: i == 0})
	}
	return c
}

// Fourteen days of a hundred cases in shadow: every case runs to its end, the
// ledger says who would have heard what, and nobody gets a mail, nor the operator.
func TestShadowForFourteenDays(t *testing.T) {
	const many = 100
	d := newFirstDay(t, tuesday)
	d.set(reauth.MailShadow, 0)
	d.many(many, reauth.Input{MinutesToExpire: 14 * 1440})
	d.run()
	assert.Empty(t, d.inbox.Messages(), "nobody is written to")
	// The default campaign: at once, after 2, 5 and 9 days, and a last call on the 13th day.
	assert.Equal(t, []string{"after-0s shadow", "after-2d shadow", "after-5d shadow", "after-9d shadow", "before-1d shadow"}, d.ledger("c000"))
	for _, step := range []string{"after-0s", "after-2d", "after-5d", "after-9d", "before-1d"} {
		assert.Equal(t, many, d.count("%s shadow", step), step)
	}
	for id, r := range d.results {
		assert.Equal(t, reauth.OutcomeExpired, r.Outcome, id)
		assert.Zero(t, r.NoticesSent, id)
	}
	timeline := d.timeline("c000")
	assert.Contains(t, timeline, "notice_shadow would have written to contact ")
	assert.Contains(t, timeline, "notice_shadow would have written to the operator (step expired)")
}

// Mail is switched on in the middle: nobody who was in shadow counts as told, so
// whoever hears now hears first words; and what is fixed is told to those alone
// who had heard of it.
func TestShadowThenOn(t *testing.T) {
	d := newFirstDay(t, tuesday)
	d.set(reauth.MailShadow, 0)
	d.book(steps(0, 2*day, 5*day+24*time.Hour))
	d.many(4, reauth.Input{MinutesToExpire: 10 * 1440})
	for i := range 4 {
		d.store(fmt.Sprintf("c%03d", i))
	}
	heals := func(after time.Duration, id string) {
		d.after(after, func() { d.back(id) })
		d.signal(after+time.Minute, id, reauth.SignalConnectionRestored, nil)
	}
	heals(time.Hour, "c000")
	d.after(day, func() { d.set(reauth.MailOn, 0) })
	heals(36*time.Hour, "c001")
	heals(3*day, "c002")
	d.run()

	assert.Empty(t, d.sent("c000@acme.example"), "it was fixed in shadow")
	assert.Empty(t, d.sent("c001@acme.example"), "who heard nothing is not told that it is fixed")
	require.Len(t, d.sent("c002@acme.example"), 2)
	assert.Equal(t, tuesday.Add(2*day).Truncate(time.Hour), d.sent("c002@acme.example")[0].at.Truncate(time.Hour))
	assert.Contains(t, d.sent("c002@acme.example")[0].text, "needs you to sign in again", "first words")
	assert.Contains(t, d.sent("c002@acme.example")[1].text, "connected again")
	require.Len(t, d.sent("c003@acme.example"), 2)
	assert.Contains(t, d.sent("c003@acme.example")[0].text, "needs you to sign in again")
	assert.Contains(t, d.sent("c003@acme.example")[1].text, "still disconnected")
	assert.Equal(t, []string{"after-0s shadow", "after-2d sent", "after-6d sent"}, d.ledger("c003"))
	assert.Equal(t, 2, d.results["c003"].NoticesSent)
	require.Len(t, d.mails, 2)
	assert.Equal(t, "sent", d.mails[1].OperatorTold)
	assert.Contains(t, d.sent("operator@product.example")[0].subject, "Customer mail is on")
}

// Mail is stopped for days: steps wait, the deadline does not, and when it is
// switched on again everybody hears the last that they missed, one after the
// other. Those who wait to hear that it is fixed hear it too.
func TestStopAndGoOn(t *testing.T) {
	const many = 20
	d := newFirstDay(t, tuesday)
	d.book(steps(0, 2*day, 3*day))
	d.many(many, reauth.Input{MinutesToExpire: 9 * 1440})
	d.store("c000")
	d.connect("short", contact("short@acme.example", "UTC"))
	d.broken(25*time.Hour, reauth.Input{ConnectionID: "short", MinutesToExpire: 2 * 1440})
	d.after(day, func() { d.set(reauth.MailStopped, 0) })
	d.after(36*time.Hour, func() { d.back("c000") })
	d.signal(36*time.Hour+time.Minute, "c000", reauth.SignalConnectionRestored, nil)
	on := 6*day + time.Hour
	d.after(on-time.Hour, func() {
		assert.Len(t, d.customers(), many, "the first notices, and nothing since")
		standing, err := d.db.MailStanding(context.Background())
		assert.NoError(t, err)
		assert.Equal(t, []int{many - 1, 1}, []int{standing.Stopped, standing.Fixed})
	})
	d.after(on, func() { d.set(reauth.MailOn, 0) })
	d.run()

	assert.Equal(t, reauth.OutcomeHealed, d.results["c000"].Outcome)
	mails := d.sent("c000@acme.example")
	require.Len(t, mails, 2)
	assert.Contains(t, mails[1].text, "connected again")
	assert.WithinDuration(t, tuesday.Add(on), mails[1].at, time.Minute)
	var times []time.Time
	for i := 1; i < many; i++ {
		id := fmt.Sprintf("c%03d", i)
		mails := d.sent(id + "@acme.example")
		require.Len(t, mails, 2, id)
		assert.Equal(t, []string{"after-0s sent", "after-3d sent"}, d.ledger(id), "of those that were missed, the last")
		times = append(times, mails[1].at)
	}
	slices.SortFunc(times, time.Time.Compare)
	assert.Equal(t, time.Duration(many-2)*3*time.Second, times[len(times)-1].Sub(times[0]), "three seconds apart")
	assert.Equal(t, reauth.OutcomeExpired, d.results["short"].Outcome, "a stop holds no deadline")
	assert.Empty(t, d.sent("short@acme.example"))
	operator := d.sent("operator@product.example")
	require.Len(t, operator, 2+many, "of the stop, of its end, and of each case that expired")
	assert.Contains(t, operator[0].subject, "Customer mail is stopped")
	assert.Equal(t, day, operator[0].at.Sub(tuesday).Truncate(time.Minute))
	assert.Contains(t, d.timeline("c001"), "held after-2d is held: customer mail is stopped.")
}

// A ramp of ten an hour with two hundred cases: no hour has more than ten new
// customers, everybody is served in order, and whoever has heard is reminded as
// ever.
func TestRampOfTen(t *testing.T) {
	const many, perHour = 200, 10
	d := newFirstDay(t, tuesday)
	d.set(reauth.MailOn, perHour)
	c := steps(0, 2*day)
	c.Hours = campaign.Hours{} // by day and by night
	d.book(c)
	d.many(many, reauth.Input{MinutesToExpire: 5 * 1440})
	d.run()

	var firsts, reminders []letter
	heard := map[string]bool{}
	for _, l := range d.customers() {
		if heard[l.to] {
			reminders = append(reminders, l)
		} else {
			firsts = append(firsts, l)
		}
		heard[l.to] = true
	}
	require.Len(t, firsts, many)
	for i, l := range firsts {
		assert.Equal(t, fmt.Sprintf("c%03d@acme.example", i), l.to, "in order")
		if i >= perHour {
			assert.GreaterOrEqual(t, l.at.Sub(firsts[i-perHour].at), time.Hour, "%s", l.to)
		}
	}
	assert.Less(t, firsts[many-1].at.Sub(tuesday), 21*time.Hour, "and no slower than it must be")
	require.Len(t, reminders, many)
	for _, l := range reminders { // after-2d, for all within the minute in which they broke
		assert.Less(t, l.at.Sub(tuesday.Add(2*day)), 2*time.Minute, "the ramp is not for reminders")
	}
	n := 0
	for i := range many {
		n += strings.Count(d.timeline(fmt.Sprintf("c%03d", i)), "waits for its turn")
	}
	assert.Equal(t, many-1, n, "each waited once")
}

// Another ramp plans those anew who wait; without one all of them go, one after
// the other. Who waits keeps their hours.
func TestTheRampIsChanged(t *testing.T) {
	const many = 40
	d := newFirstDay(t, tuesday)
	d.set(reauth.MailOn, 2)
	d.book(steps(0))
	d.many(many, reauth.Input{MinutesToExpire: 9 * 1440})
	d.after(4*time.Hour+30*time.Minute, func() {
		assert.Len(t, d.customers(), 9)
		d.set(reauth.MailOn, 6)
	})
	d.after(6*time.Hour+30*time.Minute, func() {
		assert.Contains(t, []int{20, 21}, len(d.customers()))
		standing, err := d.db.MailStanding(context.Background())
		assert.NoError(t, err)
		assert.Equal(t, many-len(d.customers()), standing.Ramp)
		d.set(reauth.MailOn, 0)
	})
	d.run()
	mails := d.customers()
	require.Len(t, mails, many)
	assert.Less(t, mails[many-1].at.Sub(tuesday), 6*time.Hour+32*time.Minute)
}

// An operator cancels five hundred cases, and the worker dies in the middle.
func TestBulkCancelGoesOn(t *testing.T) {
	const many = 500
	d := newFirstDay(t, tuesday)
	d.book(steps(2 * day))
	d.many(many, reauth.Input{MinutesToExpire: 9 * 1440})
	_, err := d.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: "other", System: "ADP", Contacts: []reauth.Contact{contact("other@acme.example", "UTC")}})
	require.NoError(t, err)
	d.broken(0, reauth.Input{ConnectionID: "other", MinutesToExpire: 2160}) // which outlasts what is asked, and ends before its step
	d.dies = func(asked int) bool { return asked == many/2 || asked == many/2+1 }
	d.after(day/2, func() {
		d.ask(db.Bulk{Action: reauth.BulkCancel, BulkFilter: db.BulkFilter{System: "Gusto", Provider: reauth.Finch}, Reason: "the contract has ended"})
	})
	d.run()
	require.Len(t, d.bulks, 1)
	b := d.bulks[0]
	assert.Equal(t, "done", b.EndedHow)
	assert.Equal(t, many, b.Matched)
	assert.Equal(t, many, b.Told+b.Gone, "each was counted once")
	assert.Equal(t, reauth.OutcomeExpired, d.results["other"].Outcome, "it was not meant")
	delete(d.results, "other")
	for id, r := range d.results {
		require.Equal(t, reauth.OutcomeCancelled, r.Outcome, id)
		require.Equal(t, "the contract has ended", r.Reason, id)
	}
	assert.Empty(t, d.customers())
}

// Release ends a snooze, a stop and a storm of those whom it is about, and of
// nobody else.
func TestBulkRelease(t *testing.T) {
	d := newFirstDay(t, tuesday)
	d.book(steps(0, day))
	for _, id := range []string{"c000", "c001", "c002"} {
		system := "Gusto"
		if id == "c002" {
			system = "ADP"
		}
		_, err := d.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: id, System: system, Contacts: []reauth.Contact{contact(id+"@acme.example", "UTC")}})
		require.NoError(t, err)
		d.broken(0, reauth.Input{ConnectionID: id, MinutesToExpire: 4 * 1440})
	}
	until := tuesday.Add(3*day + 12*time.Hour)
	d.after(time.Hour, func() {
		d.ask(db.Bulk{Action: reauth.BulkSnooze, Every: true, Reason: "holidays", Until: &until})
	})
	d.signal(2*time.Hour, "c001", reauth.SignalStopNotices, reauth.StopNotices{Reason: "wait"})
	d.after(2*day+2*time.Hour, func() {
		d.ask(db.Bulk{Action: reauth.BulkRelease, BulkFilter: db.BulkFilter{System: "Gusto"}, Reason: "back at work"})
	})
	d.run()
	for _, id := range []string{"c000", "c001"} {
		mails := d.sent(id + "@acme.example")
		require.Len(t, mails, 2, id)
		assert.WithinDuration(t, tuesday.Add(2*day+2*time.Hour), mails[1].at, time.Minute, id)
		assert.Contains(t, d.timeline(id), "released Nothing holds the notices any more, released by Grace: back at work")
	}
	assert.Equal(t, []string{"Tue 03 Mar 09:00", "Fri 06 Mar 21:00"}, []string{d.got("c002")[0], tuesday.Add(3*day + 12*time.Hour).Format("Mon 02 Jan 15:04")})
	require.Len(t, d.bulks, 2)
	assert.Equal(t, []int{3, 2}, []int{d.bulks[0].Told, d.bulks[1].Told})
}

func (d *firstDay) got(id string) []string { return d.season.mails(id+"@acme.example", "UTC") }

// What steers is what the activities want.
var _ activities.Steerer = (*firstDay)(nil)
