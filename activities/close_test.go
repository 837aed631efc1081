package activities_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// alerted is a stale customer who got a first notice and a reminder.
func (r *rig) alerted(change ...func(*options)) customer {
	r.t.Helper()
	c := r.stale(change...)
	in := r.notice(c)
	perform(r, r.acts.Notify, in)
	in.Step.Key, in.Kind = "after-2d", activities.NoticeReminder
	perform(r, r.acts.Notify, in)
	return c
}

func closing(c customer, outcome reauth.Outcome, reason string) activities.CloseInput {
	return activities.CloseInput{Case: c.ref, Outcome: outcome, Reason: reason}
}

func TestCloseAndTell(t *testing.T) {
	r := newRig(t)
	for outcome, test := range map[reauth.Outcome]struct {
		fixed    bool
		operator string
		status   reauth.ConnectionStatus
	}{
		reauth.OutcomeRecovered:  {fixed: true, status: reauth.StatusConnected},
		reauth.OutcomeHealed:     {fixed: true, status: reauth.StatusConnected},
		reauth.OutcomeFalseAlarm: {status: reauth.StatusConnected},
		reauth.OutcomeCancelled:  {status: reauth.StatusStale},
		reauth.OutcomeExpired:    {status: reauth.StatusStale, operator: "Nobody at the customer logged in again"},
		reauth.OutcomeFailed:     {status: reauth.StatusDisconnected, operator: "connection_not_found"},
	} {
		t.Run(string(outcome), func(t *testing.T) {
			r.in(t)
			c := r.alerted()
			reason := ""
			if outcome == reauth.OutcomeFailed {
				reason = reauth.ReasonConnectionNotFound
			}
			in := closing(c, outcome, reason)
			in.Generation = 7
			told := len(r.mails(operatorMail))
			closedAt := r.now
			for repeated := range 2 { // the second time nothing more happens
				out := perform(r, r.acts.CloseAndTell, in)
				row := r.row(c)
				assert.Equal(t, outcome, row.Outcome)
				assert.Equal(t, reason, row.CloseReason)
				assert.Equal(t, closedAt, *row.ClosedAt)
				assert.Equal(t, int64(7), row.Generation)
				connection, err := r.db.Connection(t.Context(), c.id)
				require.NoError(t, err)
				assert.Equal(t, test.status, connection.Status)
				assert.Equal(t, []string{"evt_" + c.ref.CaseID + "_" + string(outcome)}, r.outbox(c))

				mails := r.mails(c.mail)
				if test.fixed {
					assert.Equal(t, 1-repeated, out.FixedNotes)
					require.Len(t, mails, 3)
					assert.Contains(t, mails[2].Text, "is connected again")
					assert.Equal(t, mails[0].MessageID, mails[2].InReplyTo, "in the same thread")
					assert.Equal(t, mails[0].Subject, mails[2].Subject)
				} else {
					assert.Zero(t, out.FixedNotes)
					require.Len(t, mails, 2)
				}
				operator := r.mails(operatorMail)[told:]
				if test.operator == "" {
					assert.Empty(t, operator)
				} else {
					require.Len(t, operator, 1)
					assert.Contains(t, operator[0].Text, test.operator)
					assert.Contains(t, operator[0].Text, c.ref.CaseID)
					assert.Len(t, r.timeline(c, "operator_needed"), 1)
				}
				r.advance(time.Minute)
			}
		})
	}
}

func TestTheEventForTheBackend(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	r.advance(time.Hour)
	perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeFailed, reauth.ReasonConnectionNotFound))
	var payload string
	require.NoError(t, r.raw.Get(&payload, `SELECT payload FROM outbox`))
	var event map[string]any
	require.NoError(t, json.Unmarshal([]byte(payload), &event))
	at := func(d time.Duration) string { return c.ref.OpenedAt.Add(d).Format(time.RFC3339) }
	assert.Equal(t, map[string]any{
		"type": "reauth.case.closed", "timestamp": at(time.Hour),
		"data": map[string]any{
			"case_id": c.ref.CaseID, "connection_id": c.id, "provider": "finch", "application": "default", "customer_id": "cus-1",
			"outcome": "failed", "reason": "connection_not_found", "opened_at": at(0), "closed_at": at(time.Hour),
		},
	}, event)

	// A backend that wants no events gets none.
	r.acts.Settings.Webhooks = false
	quiet := r.stale()
	perform(r, r.acts.CloseAndTell, closing(quiet, reauth.OutcomeHealed, ""))
	assert.Empty(t, r.outbox(quiet))
}

// Outcome and event are one transaction: where the event cannot be stored, the
// case stays open and nobody is told.
func TestNoOutcomeWithoutItsEvent(t *testing.T) {
	r := newRig(t)
	c := r.alerted()
	_, err := r.raw.Exec(`ALTER TABLE outbox ADD CONSTRAINT never CHECK (false)`)
	require.NoError(t, err)
	_, err = run(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeRecovered, ""))
	r.failure(err)
	assert.True(t, r.row(c).Open())
	assert.Len(t, r.mails(c.mail), 2)

	// The same where a token closes the case.
	_, in, _ := r.back()
	_, err = run(r, r.acts.Verify, in)
	r.failure(err)
	current, err := r.db.CurrentToken(t.Context(), in.Case.ConnectionID)
	require.NoError(t, err)
	assert.Equal(t, int64(1), current.Generation)
}

func TestTheFirstOutcomeStands(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]struct{ first, second, want reauth.Outcome }{
		"cancelled, then expired":   {reauth.OutcomeCancelled, reauth.OutcomeExpired, reauth.OutcomeCancelled},
		"cancelled, then healed":    {reauth.OutcomeCancelled, reauth.OutcomeHealed, reauth.OutcomeCancelled},
		"failed, then recovered":    {reauth.OutcomeFailed, reauth.OutcomeRecovered, reauth.OutcomeRecovered},
		"healed, then recovered":    {reauth.OutcomeHealed, reauth.OutcomeRecovered, reauth.OutcomeHealed},
		"expired, then recovered":   {reauth.OutcomeExpired, reauth.OutcomeRecovered, reauth.OutcomeRecovered},
		"cancelled, then recovered": {reauth.OutcomeCancelled, reauth.OutcomeRecovered, reauth.OutcomeRecovered},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			c := r.alerted()
			perform(r, r.acts.CloseAndTell, closing(c, test.first, ""))
			perform(r, r.acts.CloseAndTell, closing(c, test.second, ""))
			assert.Equal(t, test.want, r.row(c).Outcome)
			events := []string{"evt_" + c.ref.CaseID + "_" + string(test.first)}
			if test.want == test.second {
				events = append(events, "evt_"+c.ref.CaseID+"_"+string(test.second))
			}
			assert.Equal(t, events, r.outbox(c), "one event for each outcome that stood")
			fixed := 0
			if test.want.Restored() {
				fixed = 1
			}
			assert.Len(t, r.mails(c.mail), 2+fixed)
		})
	}
}

func TestFixedNotesGoToWhoWasAlerted(t *testing.T) {
	r := newRig(t)
	stays, leaves, comes := "planted.stays@acme.example", "planted.leaves@acme.example", "planted.comes@acme.example"
	c := r.stale(func(o *options) { o.contacts = []string{leaves, stays} })
	perform(r, r.acts.Notify, r.notice(c))
	r.secret(comes)
	_, err := r.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: c.id, Contacts: []reauth.Contact{{Email: comes}, {Email: stays}}})
	require.NoError(t, err)
	assert.Equal(t, activities.Closed{FixedNotes: 1}, perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeHealed, "")))
	assert.Len(t, r.mails(stays), 2)
	assert.Len(t, r.mails(leaves), 1)
	assert.Empty(t, r.mails(comes))
}

func TestCloseWhileTheMailServerIsDown(t *testing.T) {
	r := newRig(t)
	for outcome, mails := range map[reauth.Outcome]func(customer) []inbox.Message{
		reauth.OutcomeRecovered: func(c customer) []inbox.Message { return r.mails(c.mail)[2:] },
		reauth.OutcomeExpired: func(c customer) (its []inbox.Message) {
			for _, m := range r.mails(operatorMail) {
				if m.MessageID[:len(c.ref.CaseID)] == c.ref.CaseID {
					its = append(its, m)
				}
			}
			return its
		},
	} {
		t.Run(string(outcome), func(t *testing.T) {
			r.in(t)
			began := r.now
			defer func() { r.now = began }()
			down := func() {
				require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultDrop, At: inbox.AtGreeting}))
			}
			up := func() { require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{})) }
			defer up()

			c := r.alerted()
			down()
			for _, later := range []time.Duration{0, 14 * time.Minute} {
				r.now = began.Add(later)
				_, err := run(r, r.acts.CloseAndTell, closing(c, outcome, ""))
				assert.Equal(t, "mail_deferred", r.failure(err).Type())
				assert.True(t, benign(r.failure(err)))
				assert.Equal(t, outcome, r.row(c).Outcome, "the case is closed meanwhile")
			}
			// Within a quarter of an hour the note still goes out …
			up()
			assert.Empty(t, perform(r, r.acts.CloseAndTell, closing(c, outcome, "")).Problem)
			assert.Len(t, mails(c), 1)

			// … after it, the workflow must not linger.
			r.now = began
			c = r.alerted()
			down()
			r.now = began.Add(16 * time.Minute)
			out := perform(r, r.acts.CloseAndTell, closing(c, outcome, ""))
			assert.Equal(t, "The mail server took none of the last mails for a quarter of an hour.", out.Problem)
			assert.Empty(t, mails(c))
		})
	}
}

func TestCloseAfterAnAttemptThatDied(t *testing.T) {
	r := newRig(t)
	c := r.alerted()
	_, err := r.db.CloseCase(t.Context(), db.Closing{CaseID: c.ref.CaseID, Outcome: reauth.OutcomeHealed, At: r.now})
	require.NoError(t, err)
	r.died(c, db.Notice{Step: "fixed", Recipient: r.contact(c), Fixed: true})
	assert.Equal(t, 1, perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeHealed, "")).FixedNotes, "it may have been sent")
	assert.Len(t, r.mails(c.mail), 2, "but is not sent again")
	assert.Equal(t, db.NoticeUnknown, r.ledger(c)[2])

	c = r.stale()
	r.died(c, db.Notice{Step: "expired", Recipient: db.RecipientOperator, Operator: true})
	perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeExpired, ""))
	assert.Empty(t, r.mails(operatorMail))
	assert.Empty(t, r.timeline(c, "operator_needed"), "the attempt that died had put it on record before the ledger")
}

func TestCloseACaseWithoutARow(t *testing.T) {
	r := newRig(t)
	for _, outcome := range reauth.Outcomes() {
		c := r.customer() // registered, but nothing was ever written of the case
		perform(r, r.acts.CloseAndTell, closing(c, outcome, ""))
		assert.Equal(t, outcome, r.row(c).Outcome)
		assert.Equal(t, reauth.SourceAPIError, r.row(c).Source)
		assert.Empty(t, r.mails(c.mail))

		removed := r.customer()
		_, err := r.db.RemoveConnection(t.Context(), removed.id)
		require.NoError(t, err)
		assert.Equal(t, activities.Closed{}, perform(r, r.acts.CloseAndTell, closing(removed, outcome, "")), outcome)

		nobodys := removed
		nobodys.ref.ConnectionID = "nobodys"
		assert.Equal(t, activities.Closed{}, perform(r, r.acts.CloseAndTell, closing(nobodys, outcome, "")), outcome)
	}
}

func TestTellOperator(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	tell := alone(r.acts.TellOperator)
	in := activities.ProblemInput{Case: c.ref, Phase: reauth.PhaseBlocked, Problem: "Finch refuses our own client credentials.", Step: "problem-1"}
	r.acts.Settings.TemporalUIURL = "https://temporal.product.example/"

	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 450}))
	_, err := run(r, tell, in)
	assert.Equal(t, "mail_deferred", r.failure(err).Type())
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	for range 2 {
		perform(r, tell, in)
		require.Len(t, r.mails(operatorMail), 1)
		assert.Equal(t, []string{in.Problem}, r.timeline(c, "operator_needed"))
		assert.Equal(t, reauth.PhaseBlocked, r.row(c).Phase)
		assert.Equal(t, in.Problem, r.row(c).LastError)
		r.advance(time.Minute)
	}
	mail := r.mails(operatorMail)[0]
	assert.Contains(t, mail.Text, in.Problem)
	assert.Contains(t, mail.Text, c.id)
	assert.Contains(t, mail.Links, "https://temporal.product.example/namespaces/default-test-namespace/workflows/reauth-"+c.id)
	assert.NotContains(t, mail.Text, publicURL+"/r/")

	// A further problem is a mail of its own, and leaves the phase as it is.
	in.Step, in.Phase, in.Problem = "problem-2", "", "Something else."
	perform(r, tell, in)
	assert.Len(t, r.mails(operatorMail), 2)
	assert.Equal(t, reauth.PhaseBlocked, r.row(c).Phase)

	in.Case.CaseID = "without-a-row"
	perform(r, tell, in)
	assert.Len(t, r.mails(operatorMail), 2)

	// Without an operator's address, timeline and log say it.
	r.acts.Settings.OperatorEmail = ""
	quiet := r.stale()
	in.Case, in.Step = quiet.ref, "problem-1"
	perform(r, tell, in)
	assert.Len(t, r.mails(operatorMail), 2)
	assert.Equal(t, []string{"Something else."}, r.timeline(quiet, "operator_needed"))
	assert.Contains(t, r.said.String(), "An operator is needed")
}
