package workflows_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

const day = 24 * time.Hour

func TestRecoveredAfterTheFirstNotice(t *testing.T) {
	w := newWorld(t)
	w.after(30*time.Minute, func() {
		s := w.status(t)
		assert.Equal(t, reauth.PhaseAwaitingCustomer, s.Phase)
		assert.Equal(t, "session-1", s.SessionID)
		assert.Equal(t, 1, s.NoticesSent)
		assert.Equal(t, opened.Add(30*day), s.SessionExpiresAt.UTC())
		assert.Equal(t, opened.Add(2*day), s.NextNoticeAt.UTC())
		assert.Empty(t, s.Outcome)
	})
	w.code(time.Hour, "abc")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, int64(2), result.Generation)
	assert.Equal(t, connectionID, result.ConnectionID)
	assert.NotEmpty(t, result.CaseID)
	assert.Equal(t, 1, result.NoticesSent)
	assert.Equal(t, []string{"first after-0s"}, w.did("notify"))
	assert.Equal(t, []string{"abc"}, w.did("redeem"))
	assert.Equal(t, []string{"recovered"}, w.did("close"))
	assert.Equal(t, reauth.OutcomeRecovered, w.status(t).Outcome)
}

func TestDefaultCampaignThenExpired(t *testing.T) {
	w := newWorld(t)
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Equal(t, days(0, 2, 5, 9, 13, 29), w.when("notify"))
	assert.Equal(t, []string{
		"first after-0s", "reminder after-2d", "reminder after-5d", "reminder after-9d", "reminder after-13d", "last_call before-1d",
	}, w.did("notify"))
	assert.Equal(t, days(30), w.when("close"))
	assert.Equal(t, days(30), w.when("look"), "a last look before the case is given up")
}

func TestOwnReminders(t *testing.T) {
	w := newWorld(t)
	w.run(t, reauth.Input{Reminders: []string{"0s", "48h", "9d"}, MinutesToExpire: 10 * 24 * 60})
	assert.Equal(t, days(0, 2, 9), w.when("notify"))
	assert.Equal(t, days(10), w.when("close"))
}

func TestRenewalKeepsTheOffsetsAndMovesTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.after(4*day, func() {
		s := w.status(t)
		assert.Equal(t, "session-2", s.SessionID)
		assert.Equal(t, 0, s.RenewalsLeft)
	})
	result := w.run(t, reauth.Input{MinutesToExpire: 3 * 24 * 60, Renewals: ptr(1)})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Equal(t, days(3), w.when("session"))
	// "-24h" counts from the end of the last permitted session; 5d is within
	// twelve hours of it and dropped.
	assert.Equal(t, days(0, 2, 5), w.when("notify"))
	assert.Equal(t, "last_call before-1d", w.did("notify")[2])
	assert.Equal(t, days(6), w.when("close"))
}

func TestNoRenewalWhileThePersonIsInConnect(t *testing.T) {
	w := newWorld(t)
	until := opened.Add(3*day + 40*time.Minute)
	w.session = func(n int, in activities.SessionInput) (activities.SessionOpened, error) {
		assert.True(t, in.SpareClick)
		if n == 1 {
			return activities.SessionOpened{HoldUntil: &until}, nil
		}
		return activities.SessionOpened{Verdict: activities.VerdictStale, Session: w.newSession(in.Ordinal, in.Plan.Minutes)}, nil
	}
	w.run(t, reauth.Input{MinutesToExpire: 3 * 24 * 60, Renewals: ptr(1), Reminders: []string{"0s"}})
	assert.Equal(t, []time.Duration{3 * day, 3*day + 40*time.Minute}, w.when("session"))
	assert.Equal(t, []time.Duration{6*day + 40*time.Minute}, w.when("close"))
}

func TestACodeThatHasArrivedWinsOverTheTimer(t *testing.T) {
	// The exchange is still being retried when the session ends.
	w := newWorld(t)
	w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
		if w.env.Now().Sub(opened) < time.Hour+2*time.Minute {
			return activities.Redeemed{}, retryable()
		}
		return mint(in.Code), nil
	}
	w.code(59*time.Minute, "abc")
	result := w.run(t, reauth.Input{MinutesToExpire: 60})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []string{"recovered"}, w.did("close"))
}

func TestACodeInTheSameInstantAsTheExpiry(t *testing.T) {
	w := newWorld(t)
	w.code(time.Hour, "abc")
	result := w.run(t, reauth.Input{MinutesToExpire: 60, Reminders: []string{}})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
}

func TestACodeThatComesWhileTheExpiryIsBeingTold(t *testing.T) {
	w := newWorld(t)
	w.close = func(n int, in activities.CloseInput) (activities.Closed, error) {
		if n == 1 {
			w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: "late"})
		}
		return activities.Closed{}, nil
	}
	result := w.run(t, reauth.Input{MinutesToExpire: 60})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []string{"expired", "recovered"}, w.did("close"))
	assert.Equal(t, []string{"late"}, w.did("redeem"))
}

func TestACodeIsTakenWhileTheMailServerHangs(t *testing.T) {
	w := newWorld(t)
	w.notify = func(int, activities.NoticeInput) (activities.Noticed, error) {
		return activities.Noticed{}, retryable()
	}
	w.code(time.Hour, "abc")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []time.Duration{time.Hour}, w.when("redeem"))
}

func TestACodeIsTakenWhileConfirming(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
		return activities.Confirmed{}, retryable()
	}
	w.code(time.Hour, "abc")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Empty(t, w.did("notify"))
}

func TestEveryDistinctCodeIsExchangedOnceInOrder(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
		if in.Code == "good" {
			return mint(in.Code), nil
		}
		return activities.Redeemed{State: reauth.CodeRefused}, nil
	}
	w.after(time.Hour, func() {
		for _, code := range []string{"one", "two", "one", "good", "two"} {
			w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: code})
		}
	})
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []string{"one", "two", "good"}, w.did("redeem"))
	assert.Equal(t, []string{"refused", "refused"}, w.did("settle"))
}

func TestACodeStillWaitingWhenTheCaseClosesIsExchanged(t *testing.T) {
	w := newWorld(t)
	w.after(time.Hour, func() {
		w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: "one"})
		w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: "two"})
	})
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []string{"one", "two"}, w.did("redeem"))
	assert.Len(t, w.did("verify"), 2, "no token is dropped")
	assert.Equal(t, []string{"recovered"}, w.did("close"))
}

func TestARefusedCodeDoesNotEndTheCase(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
		if n == 1 {
			return activities.Redeemed{State: reauth.CodeRefused, Problem: "invalid_grant"}, nil
		}
		return mint(in.Code), nil
	}
	w.code(time.Hour, "bad")
	w.after(2*time.Hour, func() {
		s := w.status(t)
		assert.Equal(t, reauth.PhaseAwaitingCustomer, s.Phase)
		assert.Contains(t, s.LastError, "refused")
	})
	w.code(3*day, "good")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, days(0, 2), w.when("notify"))
}

func TestAnotherAccountsCodeDoesNotEndTheCase(t *testing.T) {
	w := newWorld(t)
	w.verify = func(n int, in activities.VerifyInput) (activities.Verified, error) {
		if n == 1 {
			return activities.Verified{State: reauth.CodeWrongAccount, Problem: "another account"}, nil
		}
		return activities.Verified{State: reauth.CodeRecovered, Generation: 5}, nil
	}
	w.code(time.Hour, "other")
	w.after(2*time.Hour, func() {
		assert.Equal(t, reauth.PhaseAwaitingCustomer, w.status(t).Phase)
		assert.Equal(t, "another account", w.status(t).LastError)
	})
	w.code(3*time.Hour, "mine")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, int64(5), result.Generation)
	assert.Equal(t, []string{"another account"}, w.did("operator"))
}

func TestBlockedUntilAnOperatorHelps(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(n int, in activities.ConfirmInput) (activities.Confirmed, error) {
		switch {
		case n == 1:
			assert.False(t, in.Patient)
			return activities.Confirmed{Verdict: activities.VerdictBlocked, Problem: "our credentials are refused"}, nil
		case w.env.Now().Sub(opened) < 3*day:
			assert.True(t, in.Patient)
			return activities.Confirmed{}, retryable()
		}
		return w.stale(in), nil
	}
	w.after(day, func() {
		assert.Equal(t, reauth.PhaseBlocked, w.status(t).Phase)
		assert.Equal(t, "our credentials are refused", w.status(t).LastError)
	})
	w.code(4*day, "abc")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Len(t, w.did("operator"), 1)
	assert.Equal(t, []string{"first after-2d"}, w.did("notify"), "the notices that were missed are not made up for, but one is sent")
}

func TestUndecidedForSixHoursTheOperatorIsTold(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(n int, in activities.ConfirmInput) (activities.Confirmed, error) {
		if in.Patient && w.env.Now().Sub(opened) > 10*time.Hour {
			return activities.Confirmed{Verdict: activities.VerdictConnected, Plan: plan(in.Case.Report)}, nil
		}
		return activities.Confirmed{}, retryable()
	}
	w.after(5*time.Hour, func() { assert.Equal(t, reauth.PhaseConfirming, w.status(t).Phase) })
	w.after(7*time.Hour, func() { assert.Equal(t, reauth.PhaseBlocked, w.status(t).Phase) })
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeHealed, result.Outcome)
	assert.Len(t, w.did("operator"), 1)
	assert.Empty(t, w.did("notify"))
}

func TestOurCredentialsAreRefusedWithACodeInHand(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
		switch {
		case in.Code == "second":
			return mint(in.Code), nil
		case !in.Patient:
			return activities.Redeemed{Blocked: true, Problem: "our credentials are refused"}, nil
		}
		return activities.Redeemed{}, retryable()
	}
	w.session = func(n int, in activities.SessionInput) (activities.SessionOpened, error) {
		if w.env.Now().Sub(opened) < 5*time.Hour {
			return activities.SessionOpened{}, retryable()
		}
		return activities.SessionOpened{Verdict: activities.VerdictStale, Session: w.newSession(in.Ordinal, in.Plan.Minutes)}, nil
	}
	w.code(time.Hour, "first")
	w.after(time.Hour+5*time.Minute, func() { assert.Equal(t, reauth.PhaseBlocked, w.status(t).Phase) })
	w.after(4*time.Hour, func() { assert.Equal(t, reauth.PhaseBlocked, w.status(t).Phase) })
	w.code(8*time.Hour, "second")
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
	assert.Equal(t, []string{"unusable"}, w.did("settle"))
	assert.Equal(t, []string{"first after-0s", "try_again try-again-1"}, w.did("notify"))
}

func TestTheConnectionIsGoneAtTheProvider(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
		return activities.Confirmed{Verdict: activities.VerdictNotFound}, nil
	}
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeFailed, result.Outcome)
	assert.Equal(t, reauth.ReasonConnectionNotFound, result.Reason)
	assert.Equal(t, []string{"failed"}, w.did("close"))
}

func TestFalseAlarm(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
		return activities.Confirmed{Verdict: activities.VerdictConnected}, nil
	}
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeFalseAlarm, result.Outcome)
	assert.Empty(t, w.did("notify"))
}

// The provider says that it works, but the account lacks something: that is the
// operator's, who hears of it once.
func TestFalseAlarmAboutTheCustomersAccount(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
		return activities.Confirmed{Verdict: activities.VerdictConnected, Problem: "a permission is missing"}, nil
	}
	result := w.run(t, reauth.Input{FinchCode: "insufficient_account_permissions"})
	assert.Equal(t, reauth.OutcomeFalseAlarm, result.Outcome)
	assert.Equal(t, "a permission is missing", result.Reason)
	assert.Equal(t, []string{"a permission is missing"}, w.did("operator"))
	assert.Equal(t, []string{"false_alarm"}, w.did("close"))
	assert.Empty(t, w.did("notify"))
	assert.Empty(t, w.did("session"))
}

func TestReportsThatOpenNoCase(t *testing.T) {
	until := opened.Add(30 * day)
	for name, tc := range map[string]struct {
		confirmed activities.Confirmed
		want      reauth.Result
	}{
		"suppressed": {
			activities.Confirmed{Verdict: activities.VerdictSuppressed, Reason: "cancelled", Until: &until},
			reauth.Result{Suppressed: true, Reason: "cancelled", Until: &until},
		},
		"an old token": {
			activities.Confirmed{Verdict: activities.VerdictSuperseded, Generation: 7},
			reauth.Result{TokenSuperseded: true, Generation: 7},
		},
		"nobody registered it": {
			activities.Confirmed{Verdict: activities.VerdictUnknown},
			reauth.Result{Outcome: reauth.OutcomeFailed, Reason: reauth.ReasonConnectionUnknown},
		},
		"removed": {
			activities.Confirmed{Verdict: activities.VerdictRemoved},
			reauth.Result{Outcome: reauth.OutcomeCancelled, Reason: reauth.ReasonConnectionRemoved},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) { return tc.confirmed, nil }
			got := w.run(t, reauth.Input{})
			tc.want.CaseID, tc.want.ConnectionID = got.CaseID, connectionID
			assert.Equal(t, tc.want, got)
			assert.Empty(t, w.did("notify"))
			assert.Empty(t, w.did("close"), "there is no case to close")
		})
	}
}

func TestHealed(t *testing.T) {
	t.Run("seen before a reminder", func(t *testing.T) {
		w := newWorld(t)
		w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
			if n == 2 {
				return activities.Noticed{Restored: true}, nil
			}
			return activities.Noticed{Sent: 1}, nil
		}
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeHealed, result.Outcome)
		assert.Equal(t, 1, result.NoticesSent)
		assert.Equal(t, days(2), w.when("close"))
	})
	t.Run("announced by the provider", func(t *testing.T) {
		w := newWorld(t)
		w.look = func(_ int, in activities.LookInput) (activities.Looked, error) {
			assert.True(t, in.Told)
			return activities.Looked{Restored: true}, nil
		}
		w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeHealed, result.Outcome)
		assert.Equal(t, []time.Duration{time.Hour}, w.when("close"))
	})
	t.Run("announced, but not so", func(t *testing.T) {
		w := newWorld(t)
		w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
		result := w.run(t, reauth.Input{MinutesToExpire: 120})
		assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	})
	t.Run("seen at the deadline", func(t *testing.T) {
		w := newWorld(t)
		w.look = func(int, activities.LookInput) (activities.Looked, error) {
			return activities.Looked{Restored: true}, nil
		}
		result := w.run(t, reauth.Input{MinutesToExpire: 120})
		assert.Equal(t, reauth.OutcomeHealed, result.Outcome)
	})
}

// The customer's own success makes the provider say "connected" before the
// code is back: while a click is young, that heals nothing.
func TestHealingWaitsForTheCustomer(t *testing.T) {
	held := func(w *world, until time.Time) func(int, activities.LookInput) (activities.Looked, error) {
		return func(int, activities.LookInput) (activities.Looked, error) {
			if w.env.Now().Before(until) {
				return activities.Looked{Restored: true, HoldUntil: &until}, nil
			}
			return activities.Looked{Restored: true}, nil
		}
	}
	t.Run("and the code comes", func(t *testing.T) {
		w := newWorld(t)
		w.look = held(w, opened.Add(90*time.Minute))
		w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
		w.code(70*time.Minute, "abc")
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	})
	t.Run("and the code never comes", func(t *testing.T) {
		w := newWorld(t)
		w.look = held(w, opened.Add(90*time.Minute))
		w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
		assert.Equal(t, reauth.OutcomeHealed, w.run(t, reauth.Input{}).Outcome)
		assert.Equal(t, []time.Duration{time.Hour, 90 * time.Minute}, w.when("look"))
		assert.Equal(t, []time.Duration{90 * time.Minute}, w.when("close"))
	})
	t.Run("also before a reminder", func(t *testing.T) {
		w := newWorld(t)
		until := opened.Add(2*day + 20*time.Minute)
		w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
			if n == 2 {
				return activities.Noticed{Restored: true, HoldUntil: &until}, nil
			}
			return activities.Noticed{Sent: 1}, nil
		}
		w.code(2*day+30*time.Minute, "abc")
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
		assert.Equal(t, []time.Duration{0, 2 * day, 2*day + 20*time.Minute}, w.when("notify"))
	})
}

func TestCancel(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		w := newWorld(t)
		w.signal(time.Hour, reauth.SignalCancel, reauth.Cancel{Reason: "the customer left"})
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, "the customer left", result.Reason)
		assert.Equal(t, []time.Duration{time.Hour}, w.when("close"))
	})
	t.Run("while confirming", func(t *testing.T) {
		w := newWorld(t)
		w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
			return activities.Confirmed{}, retryable()
		}
		w.signal(time.Hour, reauth.SignalCancel, reauth.Cancel{})
		assert.Equal(t, reauth.OutcomeCancelled, w.run(t, reauth.Input{}).Outcome)
	})
	t.Run("waits for a redeem that ends well", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
			if n < 5 {
				return activities.Redeemed{}, retryable()
			}
			return mint(in.Code), nil
		}
		w.code(time.Hour, "abc")
		w.signal(time.Hour+time.Second, reauth.SignalCancel, reauth.Cancel{Reason: "too late"})
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	})
	t.Run("waits for a redeem that does not", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
			if n < 5 {
				return activities.Redeemed{}, retryable()
			}
			return activities.Redeemed{State: reauth.CodeRefused}, nil
		}
		w.code(time.Hour, "abc")
		w.signal(time.Hour+time.Second, reauth.SignalCancel, reauth.Cancel{})
		assert.Equal(t, reauth.OutcomeCancelled, w.run(t, reauth.Input{}).Outcome)
	})
	t.Run("of the workflow itself", func(t *testing.T) {
		w := newWorld(t)
		w.after(time.Hour, w.env.CancelWorkflow)
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, []string{"cancelled"}, w.did("close"))
	})
}

func TestSnoozeHoldsNoticesOnly(t *testing.T) {
	w := newWorld(t)
	w.signal(day, reauth.SignalSnooze, reauth.Snooze{Until: opened.Add(10 * day)})
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Equal(t, days(0, 10, 13, 29), w.when("notify"), "of the steps that were missed, one is sent")
	assert.Equal(t, days(30), w.when("close"), "the deadline stays")
}

func TestSnoozeDoesNotHoldACode(t *testing.T) {
	w := newWorld(t)
	w.signal(time.Hour, reauth.SignalSnooze, reauth.Snooze{Until: opened.Add(10 * day)})
	w.code(2*time.Hour, "abc")
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	assert.Equal(t, []time.Duration{2 * time.Hour}, w.when("close"))
}

func TestRemindNow(t *testing.T) {
	w := newWorld(t)
	w.signal(time.Hour, reauth.SignalRemindNow, nil)
	w.signal(time.Hour+time.Minute, reauth.SignalRemindNow, nil)
	w.signal(3*time.Hour, reauth.SignalRemindNow, nil)
	w.run(t, reauth.Input{Reminders: []string{"0s"}, MinutesToExpire: 600})
	assert.Equal(t, []string{"first after-0s", "reminder remind-now-1", "reminder remind-now-2"}, w.did("notify"))
	assert.Equal(t, []string{"remind_ignored"}, w.did("record"))
}

func TestACaseThatBeginsWithACode(t *testing.T) {
	begin := func(w *world) reauth.Result {
		w.code(0, "abc")
		return w.run(t, reauth.Input{Source: reauth.SourceLink})
	}
	t.Run("skips confirming and notices", func(t *testing.T) {
		w := newWorld(t)
		assert.Equal(t, reauth.OutcomeRecovered, begin(w).Outcome)
		assert.Empty(t, w.did("confirm"))
		assert.Empty(t, w.did("notify"))
	})
	t.Run("goes on as a case if the code is refused", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(int, activities.RedeemInput) (activities.Redeemed, error) {
			return activities.Redeemed{State: reauth.CodeRefused}, nil
		}
		assert.Equal(t, reauth.OutcomeExpired, begin(w).Outcome)
		assert.Equal(t, days(2, 5, 9, 13, 29), w.when("notify"), "no first notice: the person is here")
	})
	t.Run("is a false alarm if nothing was lost", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(int, activities.RedeemInput) (activities.Redeemed, error) {
			return activities.Redeemed{State: reauth.CodeRefused}, nil
		}
		w.confirm = func(int, activities.ConfirmInput) (activities.Confirmed, error) {
			return activities.Confirmed{Verdict: activities.VerdictConnected}, nil
		}
		assert.Equal(t, reauth.OutcomeFalseAlarm, begin(w).Outcome)
	})
	t.Run("with a token that was minted elsewhere", func(t *testing.T) {
		w := newWorld(t)
		w.signal(0, reauth.SignalTokenMinted, *mint("elsewhere").Minted)
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
		assert.Empty(t, w.did("redeem"))
		assert.Equal(t, []string{reauth.CodeHash("elsewhere")}, w.did("verify"))
	})
	t.Run("of a connection that was removed", func(t *testing.T) {
		w := newWorld(t)
		w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
			return activities.Verified{State: reauth.CodeQuarantined}, nil
		}
		result := begin(w)
		assert.Equal(t, reauth.OutcomeCancelled, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionRemoved, result.Reason)
	})
	t.Run("of a connection that nobody registered", func(t *testing.T) {
		w := newWorld(t)
		w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
			return activities.Verified{State: reauth.CodeQuarantined, Unknown: true}, nil
		}
		result := begin(w)
		assert.Equal(t, reauth.OutcomeFailed, result.Outcome)
		assert.Equal(t, reauth.ReasonConnectionUnknown, result.Reason)
	})
}

func TestATokenThatDoesNotWorkYet(t *testing.T) {
	adopted := func(int, activities.VerifyInput) (activities.Verified, error) {
		return activities.Verified{State: reauth.CodeAdopted, Generation: 3}, nil
	}
	t.Run("works soon", func(t *testing.T) {
		w := newWorld(t)
		w.verify = adopted
		w.working = func(int, activities.WorkingInput) error {
			if w.env.Now().Sub(opened) < time.Hour+10*time.Minute {
				return retryable()
			}
			return nil
		}
		w.code(time.Hour, "abc")
		w.after(time.Hour+5*time.Minute, func() { assert.Equal(t, reauth.PhaseVerifying, w.status(t).Phase) })
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeRecovered, result.Outcome)
		assert.Equal(t, int64(3), result.Generation)
	})
	t.Run("half an hour at most, then the customer is waited for again", func(t *testing.T) {
		w := newWorld(t)
		w.verify = adopted
		w.working = func(int, activities.WorkingInput) error { return retryable() }
		w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
			return activities.Noticed{Sent: 1, Restored: n == 4}, nil
		}
		w.code(time.Hour, "abc")
		w.after(time.Hour+20*time.Minute, func() { assert.Equal(t, reauth.PhaseVerifying, w.status(t).Phase) })
		w.after(time.Hour+40*time.Minute, func() { assert.Equal(t, reauth.PhaseAwaitingCustomer, w.status(t).Phase) })
		result := w.run(t, reauth.Input{})
		assert.Equal(t, reauth.OutcomeRecovered, result.Outcome, "the customer's token works after all")
		assert.Equal(t, []string{"first after-0s", "try_again try-again-1", "reminder after-2d", "reminder after-5d"}, w.did("notify"))
		assert.Equal(t, []string{"2"}, w.did("session"), "a fresh session: the customer is not locked out")
	})
}

// A login that brought some companies back, but not all: whoever made it is asked
// once more, soon. Temporal shows how many, and never which.
func TestALoginThatBringsSomeEntitiesBack(t *testing.T) {
	w := newWorld(t)
	count := func(stale int) *reauth.EntityCount { return &reauth.EntityCount{Total: 3, Stale: stale, Gone: 1} }
	w.confirm = func(_ int, in activities.ConfirmInput) (activities.Confirmed, error) {
		out := w.stale(in)
		out.Entities = count(2)
		return out, nil
	}
	w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
		return activities.Verified{State: reauth.CodeAdopted, Generation: 3, Entities: count(1)}, nil
	}
	w.working = func(int, activities.WorkingInput) error {
		return temporal.NewNonRetryableApplicationError("some entities still want the login", activities.ErrTypeEntitiesLeft, nil)
	}
	var causes []reauth.CodeState
	w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
		causes = append(causes, in.Cause)
		return activities.Noticed{Sent: 1, Restored: n == 3}, nil
	}
	w.after(30*time.Minute, func() { assert.Equal(t, count(2), w.status(t).Entities) })
	w.code(time.Hour, "abc")
	w.after(time.Hour+5*time.Minute, func() {
		status := w.status(t)
		assert.Equal(t, count(1), status.Entities)
		assert.Equal(t, reauth.PhaseAwaitingCustomer, status.Phase)
		assert.Equal(t, "The new token is stored, but some of the connection's entities still want a login.", status.LastError)
	})
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome, "with the rest of them")
	assert.Equal(t, []reauth.CodeState{"", reauth.CodeAdopted, ""}, causes)
}

// The customer is in Connect when the last session ends: the case waits, and
// costs nothing while it does.
func TestExpiryWaitsForAPersonInConnect(t *testing.T) {
	w := newWorld(t)
	until := opened.Add(80 * time.Minute)
	w.look = func(int, activities.LookInput) (activities.Looked, error) {
		if w.env.Now().Before(until) {
			return activities.Looked{Restored: true, HoldUntil: &until}, nil
		}
		return activities.Looked{}, nil
	}
	result := w.run(t, reauth.Input{MinutesToExpire: 60, Reminders: []string{"0s"}})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Equal(t, []time.Duration{80 * time.Minute}, w.when("close"))
	assert.LessOrEqual(t, len(w.did("look")), 3)
}

func TestNothingHealsACaseWithACodeInHand(t *testing.T) {
	w := newWorld(t)
	w.look = func(int, activities.LookInput) (activities.Looked, error) {
		w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: "abc"})
		return activities.Looked{Restored: true}, nil
	}
	w.verify = func(n int, _ activities.VerifyInput) (activities.Verified, error) {
		if w.env.Now().Sub(opened) < time.Hour+3*time.Minute {
			return activities.Verified{}, retryable()
		}
		return activities.Verified{State: reauth.CodeRecovered, Generation: 2}, nil
	}
	w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	assert.Equal(t, []string{"recovered"}, w.did("close"))
}

// A token about which there is no answer does not stand in the way of the next.
func TestATokenThatCannotBeVerifiedBlocksNoOther(t *testing.T) {
	w := newWorld(t)
	w.verify = func(n int, in activities.VerifyInput) (activities.Verified, error) {
		if in.Minted.CodeHash == reauth.CodeHash("one") && w.env.Now().Sub(opened) < 5*day {
			return activities.Verified{}, retryable()
		}
		return activities.Verified{State: reauth.CodeRecovered, Generation: 2}, nil
	}
	w.code(time.Hour, "one")
	w.code(3*time.Hour, "two")
	w.after(4*time.Hour, func() { assert.Equal(t, reauth.OutcomeRecovered, w.status(t).Outcome) })
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
}

// No answer came while the code lived, but an attempt whose worker died had
// brought a token: it is found.
func TestATokenThatNobodyHeardOfIsFound(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(int, activities.RedeemInput) (activities.Redeemed, error) {
		return activities.Redeemed{}, retryable()
	}
	w.lookUp = mint("abc")
	w.code(time.Hour, "abc")
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	assert.Equal(t, []string{"abc"}, w.did("lookup"))
	assert.Empty(t, w.did("settle"))
}

func TestALostCodeAsksForOneMoreClick(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(_ int, in activities.RedeemInput) (activities.Redeemed, error) {
		if in.Code == "abc" {
			return activities.Redeemed{}, retryable()
		}
		return mint(in.Code), nil
	}
	w.lookUp = activities.Redeemed{State: reauth.CodeLost}
	w.code(time.Hour, "abc")
	w.code(3*time.Hour, "def")
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	assert.Equal(t, []string{"lost"}, w.did("settle"))
	assert.Equal(t, []string{"first after-0s", "try_again try-again-1"}, w.did("notify"), "the person has left the page by now")
}

func TestTheConnectionGoesAwayWhileTheCaseWaits(t *testing.T) {
	w := newWorld(t)
	w.look = func(int, activities.LookInput) (activities.Looked, error) { return activities.Looked{Gone: true}, nil }
	w.signal(time.Hour, reauth.SignalConnectionRestored, nil)
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeFailed, result.Outcome)
	assert.Equal(t, reauth.ReasonConnectionNotFound, result.Reason)
}

// With the database down, a token cannot be verified and stored. It is never
// given up, and codes that come meanwhile are exchanged at once.
func TestADatabaseOutageLosesNoToken(t *testing.T) {
	w := newWorld(t)
	w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
		if w.env.Now().Sub(opened) < 4*day {
			return activities.Verified{}, retryable()
		}
		return activities.Verified{State: reauth.CodeRecovered, Generation: 2}, nil
	}
	w.code(time.Hour, "one")
	w.code(2*time.Hour, "two")
	w.after(3*time.Hour, func() { assert.Equal(t, reauth.PhaseAwaitingCustomer, w.status(t).Phase) })
	result := w.run(t, reauth.Input{MinutesToExpire: 2 * 24 * 60})
	assert.Equal(t, reauth.OutcomeRecovered, result.Outcome, "though the session ended on the second day")
	assert.Equal(t, []time.Duration{time.Hour, 2 * time.Hour}, w.when("redeem"))
	assert.NotContains(t, w.did("close"), "expired")
}

func TestWrongSignals(t *testing.T) {
	for name, tc := range map[string]struct {
		signal  string
		message any
		want    string
	}{
		"no code":               {reauth.SignalCodeReceived, map[string]any{}, "code is missing"},
		"a code with a space":   {reauth.SignalCodeReceived, map[string]any{"code": "a b"}, "printable"},
		"embedded and redirect": {reauth.SignalCodeReceived, map[string]any{"code": "a", "embedded": true, "redirect_uri": "https://x.example/"}, "redirect_uri must be absent"},
		"a foreign token":       {reauth.SignalTokenMinted, reauth.TokenMinted{ConnectionID: "conn-2", Sealed: []byte("x"), CodeHash: "h", Fingerprint: "f"}, "connection_id"},
		"a token of nonsense":   {reauth.SignalTokenMinted, reauth.TokenMinted{ConnectionID: connectionID, Sealed: []byte("x"), CodeHash: "h", Fingerprint: "f"}, "needs"},
		"half a token":          {reauth.SignalTokenMinted, reauth.TokenMinted{ConnectionID: connectionID}, "needs"},
		"a snooze without end":  {reauth.SignalSnooze, map[string]any{}, "until must be a time"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.signal(time.Hour, tc.signal, tc.message)
			w.after(2*time.Hour, func() { assert.Contains(t, w.status(t).LastError, tc.want) })
			w.code(3*time.Hour, "abc")
			assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
			assert.Equal(t, []string{"abc"}, w.did("redeem"))
			assert.Equal(t, []string{"signal_ignored"}, w.did("record"))
		})
	}
	t.Run("undecodable", func(t *testing.T) {
		w := newWorld(t)
		for _, name := range []string{reauth.SignalCodeReceived, reauth.SignalSnooze, reauth.SignalTokenMinted, reauth.SignalCancel, "no-such-signal"} {
			w.signal(time.Hour, name, "text instead of an object")
		}
		w.code(3*time.Hour, "abc")
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
		assert.Equal(t, []string{"abc"}, w.did("redeem"))
	})
	t.Run("a flood does not fill the history", func(t *testing.T) {
		w := newWorld(t)
		w.after(time.Hour, func() {
			for range 200 {
				w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{})
			}
		})
		w.code(3*time.Hour, "abc")
		assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
		assert.Len(t, w.did("record"), 20)
	})
}

func TestRefusedAtTheDoor(t *testing.T) {
	for name, tc := range map[string]struct {
		in   reauth.Input
		want string
	}{
		"another workflow ID":  {reauth.Input{ConnectionID: "conn-2"}, reauth.ErrTypeWorkflowIDMismatch},
		"no connection":        {reauth.Input{}, reauth.ErrTypeInvalidInput},
		"a strange connection": {reauth.Input{ConnectionID: "a b"}, reauth.ErrTypeInvalidInput},
		"a source of its own":  {reauth.Input{ConnectionID: connectionID, Source: "rumour"}, reauth.ErrTypeInvalidInput},
		"too short a session":  {reauth.Input{ConnectionID: connectionID, MinutesToExpire: -1}, reauth.ErrTypeInvalidInput},
		"too long a session":   {reauth.Input{ConnectionID: connectionID, MinutesToExpire: 129_601}, reauth.ErrTypeInvalidInput},
		"negative renewals":    {reauth.Input{ConnectionID: connectionID, Renewals: ptr(-1)}, reauth.ErrTypeInvalidInput},
		"no duration":          {reauth.Input{ConnectionID: connectionID, Reminders: []string{"soon"}}, reauth.ErrTypeInvalidInput},
		"no fingerprint":       {reauth.Input{ConnectionID: connectionID, TokenFingerprint: "secret-token"}, reauth.ErrTypeInvalidInput},
		"no redirect URI":      {reauth.Input{ConnectionID: connectionID, RedirectURI: "javascript:alert(1)"}, reauth.ErrTypeInvalidInput},
	} {
		t.Run(name, func(t *testing.T) {
			err := newWorld(t).failure(t, tc.in)
			assert.Equal(t, tc.want, err.Type())
			assert.True(t, err.NonRetryable())
			assert.NotContains(t, err.Error(), "secret-token")
		})
	}
}

func TestRedeemWorkflow(t *testing.T) {
	run := func(t *testing.T, w *world) reauth.RedeemResult {
		t.Helper()
		w.env.SetStartWorkflowOptions(startAs(reauth.RedeemWorkflowID("abc")))
		w.env.ExecuteWorkflow(reauth.RedeemWorkflowType, reauth.RedeemInput{Code: "abc"})
		require.NoError(t, w.env.GetWorkflowError())
		var result reauth.RedeemResult
		require.NoError(t, w.env.GetWorkflowResult(&result))
		return result
	}
	t.Run("hands the token over", func(t *testing.T) {
		w := newWorld(t)
		assert.Equal(t, reauth.RedeemResult{ConnectionID: connectionID, Result: reauth.CodeMinted}, run(t, w))
		assert.Equal(t, []string{connectionID}, w.did("handover"))
	})
	t.Run("settles a refused code", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(int, activities.RedeemInput) (activities.Redeemed, error) {
			return activities.Redeemed{State: reauth.CodeRefused}, nil
		}
		assert.Equal(t, reauth.CodeRefused, run(t, w).Result)
		assert.Equal(t, []string{"refused"}, w.did("settle"))
		assert.Empty(t, w.did("handover"))
	})
	t.Run("waits for our credentials while the code lives", func(t *testing.T) {
		w := newWorld(t)
		w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
			if !in.Patient {
				return activities.Redeemed{Blocked: true}, nil
			}
			if n < 4 {
				return activities.Redeemed{}, retryable()
			}
			return mint(in.Code), nil
		}
		assert.Equal(t, reauth.CodeMinted, run(t, w).Result)
	})
	t.Run("under another ID is refused", func(t *testing.T) {
		w := newWorld(t)
		w.env.ExecuteWorkflow(reauth.RedeemWorkflowType, reauth.RedeemInput{Code: "abc"})
		require.ErrorContains(t, w.env.GetWorkflowError(), reauth.ErrTypeWorkflowIDMismatch)
		assert.Empty(t, w.calls())
	})
}

// Notices that were stopped stay stopped, also where the campaign is planned
// only afterwards.
func TestStoppedBeforeTheFirstSession(t *testing.T) {
	w := newWorld(t)
	w.confirm = func(n int, in activities.ConfirmInput) (activities.Confirmed, error) {
		if n == 1 {
			return activities.Confirmed{Verdict: activities.VerdictBlocked, Problem: "our credentials are refused"}, nil
		}
		if w.env.Now().Sub(opened) < 2*time.Hour {
			return activities.Confirmed{}, retryable()
		}
		return w.stale(in), nil
	}
	w.signal(time.Hour, reauth.SignalStopNotices, reauth.StopNotices{Reason: "we phone them"})
	result := w.run(t, reauth.Input{})
	assert.Equal(t, reauth.OutcomeExpired, result.Outcome)
	assert.Empty(t, w.did("notify"))
}

// A worker whose clock is behind names a moment that has come already: the case
// does not ask again at once.
func TestAMomentThatHasComeAlready(t *testing.T) {
	w := newWorld(t)
	w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
		if n <= 3 {
			at := w.env.Now().Add(-time.Second)
			return activities.Noticed{Later: &at}, nil
		}
		return activities.Noticed{Sent: 1}, nil
	}
	w.run(t, reauth.Input{Reminders: []string{"0s"}})
	assert.Equal(t, []time.Duration{0, 0, time.Minute, time.Minute}, w.when("notify"), "half a minute apart")
}

// A step that could not be sent is on record, and the operator hears.
func TestAStepThatIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.notify = func(n int, in activities.NoticeInput) (activities.Noticed, error) {
		if in.Step.Key == "after-0s" {
			return activities.Noticed{}, retryable()
		}
		return activities.Noticed{Sent: 1}, nil
	}
	w.run(t, reauth.Input{Reminders: []string{"0s", "2d"}})
	assert.Contains(t, w.did("record"), "notice_given_up")
	assert.Contains(t, strings.Join(w.did("operator"), "\n"), "after-0s")
	assert.Contains(t, w.did("notify"), "first after-2d")
}
