package workflows_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// held answers as Notify does while mail is stopped.
func (w *world) held(why string, version int64, wait time.Duration) activities.Noticed {
	at := w.env.Now().Add(wait)
	return activities.Noticed{Later: &at, Mail: why, MailVersion: version}
}

// A step that was held because mail is stopped goes out when it is switched on,
// and of several that were held only the last.
func TestMailThatWasStoppedGoesOn(t *testing.T) {
	w := newWorld(t)
	stopped := true
	w.notify = func(_ int, in activities.NoticeInput) (activities.Noticed, error) {
		if stopped {
			return w.held(activities.NoticedStopped, 7, 24*time.Hour), nil
		}
		return activities.Noticed{Sent: 1}, nil
	}
	w.after(36*time.Hour, func() {
		assert.Equal(t, "stopped", w.status(t).Mail)
	})
	w.after(2*24*time.Hour+time.Hour, func() { // after-0s and after-2d are held
		w.env.SignalWorkflow(reauth.SignalNoticesReleased, reauth.NoticesReleased{Mail: 7, At: w.env.Now()})
	})
	w.after(2*24*time.Hour+2*time.Hour, func() {
		stopped = false
		w.env.SignalWorkflow(reauth.SignalNoticesReleased, reauth.NoticesReleased{Mail: 8, At: w.env.Now()})
	})
	w.after(2*24*time.Hour+3*time.Hour, func() { assert.Empty(t, w.status(t).Mail) })
	result := w.run(t, reauth.Input{MinutesToExpire: 4 * 1440, Reminders: []string{"0s", "2d"}})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Equal(t, 1, result.NoticesSent)
	// The first again after a day, in case nobody tells it; the change that stopped
	// mail lets nothing go.
	assert.Equal(t, []string{"first after-0s", "first after-0s", "first after-2d", "first after-2d"}, w.did("notify"))
	assert.Equal(t, days(0, 1, 2, 2+2.0/24), w.when("notify"))
}

// A release that arrives before the answer of the step that it is about is not
// lost.
func TestMailIsSwitchedOnWhileAStepIsHeld(t *testing.T) {
	w := newWorld(t)
	w.notify = func(n int, _ activities.NoticeInput) (activities.Noticed, error) {
		if n == 1 {
			w.env.SignalWorkflow(reauth.SignalNoticesReleased, reauth.NoticesReleased{Mail: 8, At: w.env.Now()})
			return w.held(activities.NoticedStopped, 7, 24*time.Hour), nil
		}
		return activities.Noticed{Sent: 1}, nil
	}
	result := w.run(t, reauth.Input{MinutesToExpire: 1440, Reminders: []string{"0s"}})
	assert.Equal(t, 1, result.NoticesSent)
	assert.Equal(t, []time.Duration{0, 0}, w.when("notify"))
}

// The deadline stands, whatever holds the notices.
func TestDeadlineWhileMailIsStopped(t *testing.T) {
	w := newWorld(t)
	w.notify = func(int, activities.NoticeInput) (activities.Noticed, error) {
		return w.held(activities.NoticedStopped, 1, 24*time.Hour), nil
	}
	result := w.run(t, reauth.Input{MinutesToExpire: 3 * 1440, Reminders: []string{"0s"}})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Zero(t, result.NoticesSent)
}

// A case in the ramp sleeps until its turn; one that hears of another ramp asks
// again.
func TestRampWaitsOnce(t *testing.T) {
	w := newWorld(t)
	w.notify = func(n int, _ activities.NoticeInput) (activities.Noticed, error) {
		switch n {
		case 1:
			return w.held(activities.NoticedRamp, 1, 10*time.Hour), nil
		case 2:
			return w.held(activities.NoticedRamp, 2, 2*time.Hour), nil
		}
		return activities.Noticed{Sent: 1}, nil
	}
	w.signal(time.Hour, reauth.SignalNoticesReleased, reauth.NoticesReleased{Mail: 2, At: opened.Add(time.Hour)})
	w.after(2*time.Hour, func() { assert.Equal(t, "ramp", w.status(t).Mail) })
	w.run(t, reauth.Input{MinutesToExpire: 2 * 1440, Reminders: []string{"0s"}})
	assert.Equal(t, []time.Duration{0, time.Hour, 3 * time.Hour}, w.when("notify"))
}

// Shadow tells nobody, and the first that anybody hears introduces itself.
func TestShadowIsNotHeard(t *testing.T) {
	w := newWorld(t)
	w.notify = func(n int, _ activities.NoticeInput) (activities.Noticed, error) {
		if n <= 2 {
			return activities.Noticed{Shadowed: 1, Mail: activities.NoticedShadow}, nil
		}
		return activities.Noticed{Sent: 1}, nil
	}
	w.after(time.Hour, func() { assert.Equal(t, "shadow", w.status(t).Mail) })
	result := w.run(t, reauth.Input{MinutesToExpire: 10 * 1440, Reminders: []string{"0s", "2d", "5d", "8d"}})
	assert.Equal(t, 2, result.NoticesSent)
	assert.Equal(t, []string{"first after-0s", "first after-2d", "first after-5d", "reminder after-8d"}, w.did("notify"))
}

// Release ends whatever holds the notices, and of the steps that were missed the
// last is sent.
func TestReleaseAll(t *testing.T) {
	release := reauth.NoticesReleased{All: true, At: opened.Add(3 * 24 * time.Hour), Reason: "all is well"}
	in := reauth.Input{MinutesToExpire: 6 * 1440, Reminders: []string{"0s", "1d", "2d", "5d"}}
	tests := map[string]func(w *world){
		"a snooze": func(w *world) {
			w.signal(time.Hour, reauth.SignalSnooze, reauth.Snooze{Until: opened.Add(5*24*time.Hour + 20*time.Hour), Reason: "holidays"})
		},
		"a stop": func(w *world) {
			w.signal(time.Hour, reauth.SignalStopNotices, reauth.StopNotices{Reason: "wait"})
		},
		"both": func(w *world) {
			w.signal(time.Hour, reauth.SignalStopNotices, reauth.StopNotices{Reason: "wait"})
			w.signal(2*time.Hour, reauth.SignalSnooze, reauth.Snooze{Until: opened.Add(5*24*time.Hour + 20*time.Hour)})
		},
	}
	for name, hold := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			hold(w)
			w.signal(3*24*time.Hour-time.Hour, reauth.SignalNoticesReleased, release)
			w.run(t, in)
			assert.Equal(t, []string{"first after-0s", "reminder after-2d", "reminder after-5d"}, w.did("notify"))
			assert.Equal(t, days(0, 3, 5), w.when("notify"))
			assert.Contains(t, w.did("record"), "released")
		})
	}
	t.Run("the ramp and a storm", func(t *testing.T) {
		w := newWorld(t)
		w.notify = func(n int, _ activities.NoticeInput) (activities.Noticed, error) {
			switch n {
			case 1:
				return w.held(activities.NoticedRamp, 1, 100*time.Hour), nil
			case 2: // it is asked for while the answer is under way
				w.env.SignalWorkflow(reauth.SignalNoticesReleased, reauth.NoticesReleased{All: true, At: w.env.Now().Add(time.Hour)})
				out := w.held("", 0, 80*time.Hour)
				out.Storm = "s1"
				return out, nil
			}
			return activities.Noticed{Sent: 1}, nil
		}
		w.signal(5*time.Hour, reauth.SignalNoticesReleased, reauth.NoticesReleased{All: true, At: opened.Add(6 * time.Hour)})
		w.run(t, reauth.Input{MinutesToExpire: 6 * 1440, Reminders: []string{"0s"}})
		assert.Equal(t, []time.Duration{0, 6 * time.Hour, 7 * time.Hour}, w.when("notify"))
	})
	t.Run("not mail that is stopped", func(t *testing.T) {
		w := newWorld(t)
		w.notify = func(int, activities.NoticeInput) (activities.Noticed, error) {
			return w.held(activities.NoticedStopped, 1, 24*time.Hour), nil
		}
		w.signal(5*time.Hour, reauth.SignalNoticesReleased, reauth.NoticesReleased{All: true, At: opened.Add(6 * time.Hour)})
		w.run(t, reauth.Input{MinutesToExpire: 2 * 1440, Reminders: []string{"0s"}})
		assert.Equal(t, days(0, 1), w.when("notify"))
	})
}
