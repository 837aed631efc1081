package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// TellOfCode takes mails at once, except those of a mail server that is down.
func (w *world) TellOfCode(_ context.Context, in activities.RedeemProblem) error {
	if w.note("operator", in.Step+" "+in.Application+": "+in.Problem); in.Application == mailless && w.env.Now().Sub(opened) < 3*time.Hour {
		return retryable()
	}
	return nil
}

// mailless is an application whose operator no mail reaches for three hours.
const mailless = "mailless"

// redeemed runs a RedeemWorkflow to its end.
func (w *world) redeemed(t *testing.T, in reauth.RedeemInput) reauth.RedeemResult {
	t.Helper()
	in.Code = "abc"
	w.env.SetStartWorkflowOptions(startAs(reauth.RedeemWorkflowID(in.Code)))
	w.env.ExecuteWorkflow(reauth.RedeemWorkflowType, in)
	require.NoError(t, w.env.GetWorkflowError())
	var result reauth.RedeemResult
	require.NoError(t, w.env.GetWorkflowResult(&result))
	return result
}

// blocked is a provider that refuses our own credentials, and what it says of
// the code once it takes them.
func blocked(unanswered bool, then func(activities.RedeemInput) (activities.Redeemed, error)) func(int, activities.RedeemInput) (activities.Redeemed, error) {
	return func(_ int, in activities.RedeemInput) (activities.Redeemed, error) {
		if !in.Patient {
			return activities.Redeemed{State: reauth.CodeReceivedState, Blocked: true, Unanswered: unanswered, Problem: "our credentials are refused"}, nil
		}
		return then(in)
	}
}

// refuses is what the activity makes of a refused code.
func refuses(in activities.RedeemInput) (activities.Redeemed, error) {
	if in.Unanswered {
		return activities.Redeemed{State: reauth.CodeLost, Unanswered: true}, nil
	}
	return activities.Redeemed{State: reauth.CodeRefused}, nil
}

func dead(activities.RedeemInput) (activities.Redeemed, error) {
	return activities.Redeemed{}, retryable()
}

// What became of a code whose exchange our own credentials held up, in a case
// and without one: a code that was refused after an unanswered attempt is lost,
// also across the restart, and the database has the last word on it.
func TestWhatBecomesOfACodeThatWasHeldUp(t *testing.T) {
	for name, tc := range map[string]struct {
		unanswered bool
		then       func(activities.RedeemInput) (activities.Redeemed, error)
		known      bool // to the database
		want       reauth.CodeState
		looks      int
	}{
		"refused":                              {then: refuses, want: reauth.CodeUnusable},
		"dead before they work":                {then: dead, want: reauth.CodeUnusable, looks: 1},
		"dead, but it had brought a token":     {then: dead, known: true, want: reauth.CodeMinted, looks: 1},
		"unanswered before, then refused":      {unanswered: true, then: refuses, want: reauth.CodeLost, looks: 1},
		"unanswered before, and dead":          {unanswered: true, then: dead, want: reauth.CodeLost, looks: 1},
		"unanswered, but it brought a token":   {unanswered: true, then: refuses, known: true, want: reauth.CodeMinted, looks: 1},
		"exchanged, as soon as they do so":     {then: func(in activities.RedeemInput) (activities.Redeemed, error) { return mint(in.Code), nil }, want: reauth.CodeMinted},
		"exchanged, after one that was no one": {unanswered: true, then: func(in activities.RedeemInput) (activities.Redeemed, error) { return mint(in.Code), nil }, want: reauth.CodeMinted},
	} {
		world := func(t *testing.T) *world {
			w := newWorld(t)
			w.redeem = blocked(tc.unanswered, tc.then)
			if tc.known {
				w.lookUp = mint("abc")
			}
			return w
		}
		settled := []string{string(tc.want)}
		if tc.want == reauth.CodeMinted {
			settled = []string{}
		}
		t.Run(name, func(t *testing.T) {
			w := world(t)
			w.code(time.Hour, "abc")
			w.code(5*time.Hour, "def")
			first := w.redeem
			w.redeem = func(n int, in activities.RedeemInput) (activities.Redeemed, error) {
				if in.Code == "def" {
					return mint(in.Code), nil
				}
				return first(n, in)
			}
			w.after(4*time.Hour, func() { assert.NotEqual(t, reauth.PhaseBlocked, w.status(t).Phase) })
			assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
			assert.Equal(t, settled, w.did("settle"))
			assert.Len(t, w.did("lookup"), tc.looks)
			assert.Equal(t, []string{"our credentials are refused"}, w.did("operator"))
			if tc.want == reauth.CodeMinted {
				assert.Len(t, w.did("verify"), 1)
				return
			}
			// The person is asked for one more click, once, with a fresh session.
			assert.Equal(t, []string{"2"}, w.did("session"))
			assert.Equal(t, []string{"first after-0s", "try_again try-again-1"}, w.did("notify"))
		})
		t.Run(name+", without a case", func(t *testing.T) {
			w := world(t)
			assert.Equal(t, tc.want, w.redeemed(t, reauth.RedeemInput{Application: "sandbox"}).Result)
			assert.Equal(t, settled, w.did("settle"))
			assert.Len(t, w.did("lookup"), tc.looks)
			assert.Equal(t, []string{"credentials sandbox: our credentials are refused"}, w.did("operator"))
			handed := []string{}
			if tc.want == reauth.CodeMinted {
				handed = []string{connectionID}
			}
			assert.Equal(t, handed, w.did("handover"))
		})
	}
}

// The database takes its time to say what it knows of a dead code: the next
// code does not wait for it.
func TestALookUpHoldsUpNoOtherCode(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(_ int, in activities.RedeemInput) (activities.Redeemed, error) {
		if in.Code == "abc" {
			return activities.Redeemed{State: reauth.CodeLost, Unanswered: true}, nil
		}
		assert.Empty(t, w.did("settle"), "nothing is known of the first code yet")
		return mint(in.Code), nil
	}
	w.env.OnActivity("Redeem", mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.RedeemInput) (activities.Redeemed, error) {
		if in.LookUp && w.env.Now().Sub(opened) < 3*time.Hour {
			return activities.Redeemed{}, retryable()
		}
		return w.Redeem(ctx, in)
	})
	w.code(time.Hour, "abc")
	w.code(2*time.Hour, "def")
	assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
	assert.Equal(t, []time.Duration{time.Hour, 2 * time.Hour}, w.when("redeem"))
	assert.Equal(t, []string{"lost"}, w.did("settle"))
}

// The operator's mail is tried for hours, and the token does not wait for it.
func TestTheTokenDoesNotWaitForTheOperatorsMail(t *testing.T) {
	w := newWorld(t)
	w.redeem = blocked(false, func(in activities.RedeemInput) (activities.Redeemed, error) { return mint(in.Code), nil })
	assert.Equal(t, reauth.CodeMinted, w.redeemed(t, reauth.RedeemInput{Application: mailless}).Result)
	assert.Equal(t, []time.Duration{0}, w.when("handover"))
	mails := w.when("operator")
	assert.GreaterOrEqual(t, mails[len(mails)-1], 3*time.Hour, "until the mail server has taken it")
}

// A token of which nobody knows whose it is goes to no case: the operator hears
// of it, and the person is asked for one more click.
func TestATokenOfNobodyKnown(t *testing.T) {
	w := newWorld(t)
	w.redeem = func(_ int, in activities.RedeemInput) (activities.Redeemed, error) {
		out := mint(in.Code)
		out.Minted.ConnectionID = ""
		return out, nil
	}
	assert.Equal(t, reauth.RedeemResult{Result: reauth.CodeLost}, w.redeemed(t, reauth.RedeemInput{}))
	assert.Equal(t, []string{""}, w.did("handover"), "where it is kept aside")
	require.Len(t, w.did("operator"), 1)
	assert.Contains(t, w.did("operator")[0], "owner : A code brought a token")
}

// Once our credentials work the case is not blocked any more, whether it began
// with the code or had a session before.
func TestACodeThatWasHeldUpUnblocksItsCase(t *testing.T) {
	for name, at := range map[string]time.Duration{"begun with the code": 0, "with a session": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.redeem = blocked(false, func(in activities.RedeemInput) (activities.Redeemed, error) {
				if w.env.Now().Sub(opened) < at+5*time.Minute {
					return activities.Redeemed{}, retryable()
				}
				return mint(in.Code), nil
			})
			w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
				if w.env.Now().Sub(opened) < at+20*time.Minute {
					return activities.Verified{}, retryable()
				}
				return activities.Verified{State: reauth.CodeRecovered, Generation: 2}, nil
			}
			w.code(at, "abc")
			w.after(at+2*time.Minute, func() { assert.Equal(t, reauth.PhaseBlocked, w.status(t).Phase) })
			w.after(at+10*time.Minute, func() { assert.Equal(t, reauth.PhaseVerifying, w.status(t).Phase) })
			assert.Equal(t, reauth.OutcomeRecovered, w.run(t, reauth.Input{}).Outcome)
		})
	}
}

// A case that begins with its code sends no first notice, since the person is
// here; but not where the code died of our own fault, and the person has left.
func TestACodeThatDiedOfOurFaultIsFollowedByANotice(t *testing.T) {
	w := newWorld(t)
	w.redeem = blocked(false, dead)
	w.code(0, "abc")
	w.run(t, reauth.Input{Source: reauth.SourceLink})
	assert.Equal(t, "first after-0s", w.did("notify")[0])
	assert.Equal(t, []string{"unusable"}, w.did("settle"))
}

// One token, however often and by whichever way it comes, is verified once.
func TestATokenIsVerifiedOnce(t *testing.T) {
	w := newWorld(t)
	w.verify = func(int, activities.VerifyInput) (activities.Verified, error) {
		return activities.Verified{State: reauth.CodeWrongAccount}, nil
	}
	w.code(time.Hour, "abc")
	for _, at := range []time.Duration{2 * time.Hour, 3 * time.Hour} {
		w.signal(at, reauth.SignalTokenMinted, *mint("abc").Minted)
		w.signal(at, reauth.SignalTokenMinted, *mint("def").Minted)
	}
	w.run(t, reauth.Input{MinutesToExpire: 600})
	assert.Equal(t, []string{reauth.CodeHash("abc"), reauth.CodeHash("def")}, w.did("verify"))
}
