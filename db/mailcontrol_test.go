package db_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func (s store) setMail(t testing.TB, mode reauth.MailMode) db.MailControl {
	t.Helper()
	c, _, err := s.SetMail(s.ctx, db.MailSetting{Mode: &mode, By: "Grace", At: t0})
	require.NoError(t, err)
	return c
}

func (s store) setRamp(t testing.TB, perHour int) {
	t.Helper()
	_, _, err := s.SetMail(s.ctx, db.MailSetting{Ramp: &perHour, By: "Grace", At: t0})
	require.NoError(t, err)
}

func TestMailControl(t *testing.T) {
	s := newStore(t)
	c, err := s.Mail(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, db.MailControl{Mode: reauth.MailOn}, c, "without a row it is on")

	require.NoError(t, s.InitMail(s.ctx, reauth.MailShadow, "the setting REAUTH_MAIL"))
	require.NoError(t, s.InitMail(s.ctx, reauth.MailOn, "the setting REAUTH_MAIL"))
	c, err = s.Mail(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, db.MailControl{Version: 1, Mode: reauth.MailShadow}, c, "the setting counts once")

	early := newStore(t) // somebody sets a ramp before the first worker starts
	first := 50
	_, _, err = early.SetMail(early.ctx, db.MailSetting{Ramp: &first, By: "Ada", At: t0})
	require.NoError(t, err)
	require.NoError(t, early.InitMail(early.ctx, reauth.MailShadow, "the setting REAUTH_MAIL"))
	c, err = early.Mail(early.ctx)
	require.NoError(t, err)
	assert.Equal(t, db.MailControl{Version: 2, Mode: reauth.MailShadow, Ramp: 50}, c, "a ramp says nothing of the mode")

	on, ten := reauth.MailOn, 10
	c, changed, err := s.SetMail(s.ctx, db.MailSetting{Mode: &on, Ramp: &ten, By: "Ada", Reason: "ask anna@example.com", At: t0})
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, db.MailControl{Version: 2, Mode: reauth.MailOn, Ramp: 10}, c)
	_, changed, err = s.SetMail(s.ctx, db.MailSetting{Mode: &on, By: "Ada", At: t0})
	require.NoError(t, err)
	assert.False(t, changed, "it was so already")

	changes, err := s.MailChanges(s.ctx, 10)
	require.NoError(t, err)
	require.Len(t, changes, 2)
	assert.Equal(t, "ask [address]", changes[0].Reason, "no address stands outside of contacts")
	assert.Equal(t, reauth.MailShadow, changes[0].WasMode)
	assert.Equal(t, "Ada", changes[0].By)
	unhandled, err := s.UnhandledMail(s.ctx)
	require.NoError(t, err)
	require.Len(t, unhandled, 2)
	require.NoError(t, s.MailHandled(s.ctx, 1, t0))
	unhandled, err = s.UnhandledMail(s.ctx)
	require.NoError(t, err)
	require.Len(t, unhandled, 1)
	assert.Equal(t, changes[0], unhandled[0])

	odd, less := reauth.MailMode("off"), -1
	for _, wrong := range []db.MailSetting{{Mode: &odd, By: "x"}, {Ramp: &less, By: "x"}, {Mode: &on}} {
		_, _, err := s.SetMail(s.ctx, wrong)
		assert.Error(t, err)
	}
}

// Where mail is stopped nothing begins but what is for the operator, and the
// case stands among those that wait.
func TestNothingBeginsWhileMailIsStopped(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	anna := s.recipient(t, "c1")
	s.setMail(t, reauth.MailStopped)

	permit, err := s.BeginMail(s.ctx, db.Mail{Notice: notice("k1", "first", anna), At: t0})
	require.NoError(t, err)
	assert.Equal(t, db.Permit{Stopped: true, Version: 1}, permit)
	_, granted, state, err := s.BeginNotice(s.ctx, notice("k1", "first", anna))
	require.NoError(t, err)
	assert.False(t, granted)
	assert.Equal(t, db.NoticeStopped, state)
	event := db.OutboxEvent{ID: "e1", Type: db.NoticeDue, Payload: []byte(`{}`)}
	given, control, err := s.HandToBackend(s.ctx, db.Notice{CaseID: "k1", Step: "first", Channel: db.ChannelWebhook}, []string{anna}, event, t0)
	require.NoError(t, err)
	assert.Zero(t, given)
	assert.Equal(t, reauth.MailStopped, control.Mode)
	assert.Zero(t, s.count(t, "notices"))
	assert.Zero(t, s.count(t, "outbox"))
	_, granted, _, err = s.BeginNotice(s.ctx, db.Notice{CaseID: "k1", Step: "problem", Recipient: db.RecipientOperator, Channel: db.ChannelMail, Operator: true})
	require.NoError(t, err)
	assert.True(t, granted, "the operator's own mails go on")

	waits, err := s.MailWaits(s.ctx, 2, 0, 10)
	require.NoError(t, err)
	require.Len(t, waits, 1)
	assert.Equal(t, "k1", waits[0].CaseID)
	waits, err = s.MailWaits(s.ctx, 1, 0, 10)
	require.NoError(t, err)
	assert.Empty(t, waits, "it waits since the change, not since before it")
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, "stopped", k.Waits)

	s.setMail(t, reauth.MailOn)
	_, first, err := s.HoldMail(s.ctx, "k1")
	require.NoError(t, err)
	assert.False(t, first)
	standing, err := s.MailStanding(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, db.MailStanding{}, standing, "it waits no more")
	permit, err = s.BeginMail(s.ctx, db.Mail{Notice: notice("k1", "first", anna), At: t0})
	require.NoError(t, err)
	assert.True(t, permit.Granted)
	s.end(t, "k1", reauth.OutcomeExpired, t0.Add(time.Hour))
}

// What is in shadow stands in the ledger, counts for nothing once mail is on, and
// can then be sent.
func TestShadow(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.connect(t, "c2", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	s.open(t, "c2", "k2", t0)
	anna := s.recipient(t, "c1")
	s.setMail(t, reauth.MailShadow)
	mail := db.Mail{Notice: notice("k1", "first", anna), At: t0, PerDay: 1, DayBegins: t0.Add(-time.Hour)}
	mail.MessageID = "<one>"
	permit, err := s.BeginMail(s.ctx, mail)
	require.NoError(t, err)
	assert.False(t, permit.Granted)
	assert.Equal(t, db.NoticeShadow, permit.State)
	for range 2 { // also where the first attempt died before it could say so
		require.NoError(t, s.EndNotice(s.ctx, permit.ID, db.NoticeShadow, ""))
	}
	again, err := s.BeginMail(s.ctx, mail)
	require.NoError(t, err)
	assert.Equal(t, db.NoticeShadow, again.State)
	other := db.Mail{Notice: notice("k2", "first", s.recipient(t, "c2")), At: t0, PerDay: 1, DayBegins: t0.Add(-time.Hour)}
	other.MessageID = "<two>"
	capped, err := s.BeginMail(s.ctx, other)
	require.NoError(t, err)
	assert.True(t, capped.Capped, "shadow shows the day's cap at work")

	recipients, _, err := s.Alerted(s.ctx, "k1")
	require.NoError(t, err)
	assert.Empty(t, recipients, "nobody has heard")
	timeline, err := s.Timeline(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, 1, s.count(t, "case_events WHERE kind = 'notice_shadow'"))
	assert.Contains(t, timeline[len(timeline)-1].Detail, "would have written to contact "+anna+" (step first)")

	event := db.OutboxEvent{ID: "e1", Type: db.NoticeDue, Payload: []byte(`{}`)}
	given, _, err := s.HandToBackend(s.ctx, db.Notice{CaseID: "k1", Step: "headless", Channel: db.ChannelWebhook}, []string{anna}, event, t0)
	require.NoError(t, err)
	assert.Equal(t, 1, given)
	assert.Zero(t, s.count(t, "outbox"), "the backend is asked for nothing")
	_, granted, state, err := s.BeginNotice(s.ctx, db.Notice{CaseID: "k1", Step: "problem", Recipient: db.RecipientOperator, Channel: db.ChannelMail, Operator: true})
	require.NoError(t, err)
	assert.False(t, granted)
	assert.Equal(t, db.NoticeShadow, state, "nor does the operator hear")
	list, err := s.ClaimChats(s.ctx, 10, time.Minute)
	require.NoError(t, err)
	assert.Empty(t, list, "and no chat fills")

	s.setMail(t, reauth.MailOn)
	permit, err = s.BeginMail(s.ctx, other)
	require.NoError(t, err)
	assert.True(t, permit.Granted, "the cap does not count what was in shadow")
	require.NoError(t, s.EndNotice(s.ctx, permit.ID, db.NoticeSent, ""))
	mail.PerDay = 0
	permit, err = s.BeginMail(s.ctx, mail)
	require.NoError(t, err)
	assert.True(t, permit.Granted, "who was in shadow may hear the same step")
	given, _, err = s.HandToBackend(s.ctx, db.Notice{CaseID: "k1", Step: "headless", Channel: db.ChannelWebhook}, []string{anna}, event, t0)
	require.NoError(t, err)
	assert.Equal(t, 1, given)
	assert.Equal(t, 1, s.count(t, "outbox"))
}

// An event that asks the backend to write waits while mail is not on, unless its
// case is over: then it asks for nothing.
func TestEventsForTheCustomerWait(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	_, _, err := s.HandToBackend(s.ctx, db.Notice{CaseID: "k1", Step: "first", Channel: db.ChannelWebhook}, []string{s.recipient(t, "c1")},
		db.OutboxEvent{ID: "e1", Type: db.NoticeDue, Payload: []byte(`{}`)}, t0)
	require.NoError(t, err)
	claim := func() int {
		list, err := s.ClaimOutbox(s.ctx, soon(), 10, 0)
		require.NoError(t, err)
		return len(list)
	}
	for _, mode := range []reauth.MailMode{reauth.MailStopped, reauth.MailShadow} {
		s.setMail(t, mode)
		assert.Zero(t, claim(), mode)
	}
	s.setMail(t, reauth.MailOn)
	assert.Equal(t, 1, claim())
	s.setMail(t, reauth.MailStopped)
	s.end(t, "k1", reauth.OutcomeExpired, t0.Add(time.Hour))
	assert.Equal(t, 1, claim())
}

// However many permissions are asked for at once, none is given once SetMail has
// returned.
func TestNoPermissionAfterTheStop(t *testing.T) {
	s := newStore(t)
	const many = 60
	for i := range many {
		s.connect(t, fmt.Sprint("c", i), fmt.Sprintf("a%d@example.com", i))
		s.open(t, fmt.Sprint("c", i), fmt.Sprint("k", i), t0)
	}
	var stopped atomic.Bool
	var granted, refused, late atomic.Int32
	var sending sync.WaitGroup
	next := make(chan int, many)
	for i := range many {
		next <- i
	}
	close(next)
	begun := make(chan struct{}, many)
	for range 8 {
		sending.Go(func() {
			for i := range next {
				n := notice(fmt.Sprint("k", i), "first", s.recipient(t, fmt.Sprint("c", i)))
				n.MessageID = fmt.Sprint("<", i, ">")
				before := stopped.Load()
				p, err := s.BeginMail(s.ctx, db.Mail{Notice: n, At: t0})
				switch {
				case !assert.NoError(t, err):
				case p.Stopped:
					refused.Add(1)
				case before:
					late.Add(1)
				default:
					granted.Add(1)
				}
				begun <- struct{}{}
			}
		})
	}
	for range 20 {
		<-begun
	}
	s.setMail(t, reauth.MailStopped)
	stopped.Store(true)
	under := s.count(t, "notices WHERE state = 'sending'")
	sending.Wait()
	assert.Zero(t, late.Load())
	assert.Equal(t, under, s.count(t, "notices WHERE state = 'sending'"), "none has begun since")
	assert.Equal(t, int32(many), granted.Load()+refused.Load())
	assert.Equal(t, int(refused.Load()), s.count(t, "mail_waits WHERE why = 'stopped'"), "whoever was refused waits")
}

func always(at time.Time) time.Time { return at }

// Under a ramp, cases get their turns in order, each a pace after the other, and
// no hour has more than it may, whoever comes late.
func TestRamp(t *testing.T) {
	s := newStore(t)
	const many, perHour = 35, 10
	s.setRamp(t, perHour)
	for i := range many {
		s.connect(t, fmt.Sprint("c", i), fmt.Sprintf("a%d@example.com", i))
		s.open(t, fmt.Sprint("c", i), fmt.Sprintf("k%02d", i), t0)
	}
	turns := make([]time.Time, many)
	for i := range many {
		turn, err := s.TakeTurn(s.ctx, fmt.Sprintf("k%02d", i), t0, always)
		require.NoError(t, err)
		assert.Equal(t, i == 0, turn.Now, "the first may at once")
		turns[i] = turn.At.UTC()
		if i == 0 {
			turns[i] = t0
		}
		assert.WithinDuration(t, t0.Add(time.Duration(i)*(61*time.Minute)/perHour), turns[i], time.Second)
	}
	again, err := s.TakeTurn(s.ctx, "k07", t0.Add(time.Minute), always)
	require.NoError(t, err)
	assert.Equal(t, turns[7], again.At.UTC(), "whoever asks again keeps the turn")

	// Nobody worked for three hours: all who were due come at once.
	late := t0.Add(3 * time.Hour)
	var begun []time.Time
	waiting := map[int]time.Time{}
	for i := 1; i < many; i++ {
		waiting[i] = turns[i]
	}
	for now := late; len(waiting) > 0; now = now.Add(time.Minute) {
		require.Less(t, now.Sub(late), 24*time.Hour, "everybody has a turn at last")
		for i := range many {
			at, waits := waiting[i]
			if !waits || at.After(now) {
				continue
			}
			turn, err := s.TakeTurn(s.ctx, fmt.Sprintf("k%02d", i), now, always)
			require.NoError(t, err)
			if turn.Now {
				begun = append(begun, now)
				delete(waiting, i)
			} else {
				require.True(t, turn.At.After(now))
				waiting[i] = turn.At
			}
		}
	}
	for i, at := range begun {
		n := 0
		for _, other := range begun[i:] {
			if other.Sub(at) < time.Hour {
				n++
			}
		}
		assert.LessOrEqual(t, n, perHour)
	}

	s.connect(t, "free", "f@example.com")
	s.open(t, "free", "free", t0)
	require.NoError(t, s.ReleaseCase(s.ctx, "free", t0))
	turn, err := s.TakeTurn(s.ctx, "free", late, always)
	require.NoError(t, err)
	assert.True(t, turn.Now, "who was let go waits for no turn")
}

// However many ask at once, no two get the same turn.
func TestTurnsAreGivenOnce(t *testing.T) {
	s := newStore(t)
	const many = 30
	s.setRamp(t, 60)
	for i := range many {
		s.connect(t, fmt.Sprint("c", i), fmt.Sprintf("a%d@example.com", i))
		s.open(t, fmt.Sprint("c", i), fmt.Sprint("k", i), t0)
	}
	var mu sync.Mutex
	turns := map[time.Time]int{}
	together(many, func(i int) {
		turn, err := s.TakeTurn(s.ctx, fmt.Sprint("k", i), t0, always)
		if assert.NoError(t, err) {
			mu.Lock()
			defer mu.Unlock()
			turns[turn.At.UTC()]++
		}
	})
	assert.Len(t, turns, many)
	s.setRamp(t, 120)
	assert.Equal(t, many-1, s.count(t, "mail_waits WHERE why = 'ramp' AND slot_at IS NULL"), "another ramp plans them anew")
}

// A turn is one at which somebody may be written to.
func TestTurnsKeepHours(t *testing.T) {
	s := newStore(t)
	s.setRamp(t, 2)
	may := func(at time.Time) time.Time { // by day
		if h := at.UTC().Hour(); h >= 9 && h < 11 {
			return at
		}
		day := at.UTC().Truncate(24 * time.Hour)
		if at.UTC().Hour() >= 11 {
			day = day.Add(24 * time.Hour)
		}
		return day.Add(9 * time.Hour)
	}
	var days []string
	for i := range 8 {
		s.connect(t, fmt.Sprint("c", i), fmt.Sprintf("a%d@example.com", i))
		s.open(t, fmt.Sprint("c", i), fmt.Sprint("k", i), t0)
		turn, err := s.TakeTurn(s.ctx, fmt.Sprint("k", i), t0, may)
		require.NoError(t, err)
		days = append(days, turn.At.UTC().Format("2 15:04"))
	}
	assert.Equal(t, []string{"1 00:00", "2 09:30", "2 10:01", "2 10:31", "3 09:00", "3 09:30", "3 10:01", "3 10:31"}, days)
}

func TestBulks(t *testing.T) {
	s := newStore(t)
	for i := range 6 {
		s.connect(t, fmt.Sprint("c", i), fmt.Sprintf("a%d@example.com", i))
		s.open(t, fmt.Sprint("c", i), fmt.Sprint("k", i), t0.Add(time.Duration(i)*time.Minute))
	}
	s.end(t, "k0", reauth.OutcomeExpired, t0.Add(time.Minute))
	_, err := s.AddBulk(s.ctx, db.Bulk{Action: reauth.BulkCancel, Reason: "x", By: "Ada", CreatedAt: t0.Add(time.Hour)})
	require.Error(t, err, "all of them must be asked for")
	n, err := s.CountBulk(s.ctx, db.BulkFilter{Provider: reauth.Finch})
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	b, err := s.AddBulk(s.ctx, db.Bulk{
		Action: reauth.BulkCancel, BulkFilter: db.BulkFilter{Provider: reauth.Finch}, Reason: "they left", By: "Ada", CreatedAt: t0.Add(time.Hour),
	})
	require.NoError(t, err)
	assert.Equal(t, 5, b.Matched)
	ids, err := s.UnstartedBulks(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, []string{b.BulkID}, ids)
	b, err = s.StartBulk(s.ctx, b.BulkID, t0)
	require.NoError(t, err)
	s.open(t, "c0", "k9", t0.Add(2*time.Hour))
	s.end(t, "k2", reauth.OutcomeHealed, t0.Add(2*time.Hour))
	cases, err := s.BulkCases(s.ctx, b, "", 10)
	require.NoError(t, err)
	require.Len(t, cases, 5, "whoever comes later is not meant, and whoever ends meanwhile is counted")
	assert.Equal(t, db.BulkCase{CaseID: "k2", ConnectionID: "c2"}, cases[1])
	for range 2 { // a retry counts nobody twice
		for _, c := range cases {
			require.NoError(t, s.BulkTold(s.ctx, b.BulkID, c.CaseID, c.Open))
		}
	}
	_, err = s.EndBulk(s.ctx, b.BulkID, "done", t0)
	require.NoError(t, err)
	b, err = s.EndBulk(s.ctx, b.BulkID, "cancelled", t0)
	require.NoError(t, err)
	assert.Equal(t, []any{4, 1, "done", "k5"}, []any{b.Told, b.Gone, b.EndedHow, b.After})
	_, err = s.BulkByID(s.ctx, "none")
	assert.ErrorIs(t, err, db.ErrNotFound)
}
