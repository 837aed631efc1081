package activities_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

func TestOpenSession(t *testing.T) {
	r := newRig(t)
	plan := activities.Plan{Minutes: 600, Renewals: 2, Application: reauth.DefaultApplication}
	in := func(d time.Duration) *time.Time { at := r.now.Add(d); return &at }
	for name, test := range map[string]struct {
		clicked time.Duration // ago; negative: nobody did
		spare   bool
		until   *time.Time
		held    *time.Time
		minutes int
	}{
		"as planned":                               {clicked: -1, minutes: 600},
		"nobody has clicked":                       {clicked: -1, spare: true, minutes: 600},
		"a person clicked just now":                {clicked: 0, spare: true, held: in(time.Hour)},
		"a person clicked 59 minutes ago":          {clicked: 59 * time.Minute, spare: true, held: in(time.Minute)},
		"a person clicked an hour ago":             {clicked: time.Hour, spare: true, minutes: 600},
		"a person clicked, but it cannot wait":     {clicked: 0, minutes: 600},
		"until a moment before the plan's end":     {clicked: -1, until: in(90 * time.Minute), minutes: 90},
		"until a moment amid a minute":             {clicked: -1, until: in(90*time.Minute + time.Second), minutes: 91},
		"until a moment after the plan's end":      {clicked: -1, until: in(700 * time.Minute), minutes: 600},
		"until a moment that is almost there":      {clicked: -1, until: in(time.Second), minutes: 1},
		"until a moment that is over by our clock": {clicked: -1, until: in(-time.Hour), minutes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			c := r.stale(func(o *options) { o.products = []string{"company"} })
			if test.clicked >= 0 {
				r.click(c, test.clicked)
			}
			before := len(r.asked(sessions))
			out := perform(r, r.acts.OpenSession, activities.SessionInput{
				Case: c.ref, Plan: plan, Ordinal: 2, RenewalsLeft: 1, SpareClick: test.spare, Until: test.until,
			})
			asked := r.asked(sessions)[before:]
			if test.held != nil {
				assert.Equal(t, activities.SessionOpened{HoldUntil: test.held}, out)
				assert.Empty(t, asked)
				assert.Equal(t, 1, r.row(c).SessionOrdinal)
				return
			}
			require.Len(t, asked, 1)
			assert.Equal(t, map[string]any{
				"connection_id": c.id, "minutes_to_expire": float64(test.minutes), "redirect_uri": callback, "products": []any{"company"},
			}, asked[0].body)
			ends := r.now.Add(time.Duration(test.minutes) * time.Minute)
			row := r.row(c)
			assert.Equal(t, activities.SessionOpened{
				Verdict: activities.VerdictStale,
				Session: &activities.Session{ID: row.SessionID, Ordinal: 2, OpenedAt: r.now, ExpiresAt: ends},
			}, out)
			assert.Equal(t, 2, row.SessionOrdinal)
			assert.Equal(t, ends, *row.SessionExpiresAt)
			assert.Equal(t, ends.Add(600*time.Minute), *row.DeadlineAt, "one more renewal")
			assert.Equal(t, reauth.PhaseAwaitingCustomer, row.Phase)
			assert.Len(t, r.timeline(c, "session_renewed"), 1)
		})
	}
}

// A late attempt at an earlier session takes nothing from the later one, and a
// closed case gets no session any more.
func TestOpenSessionKeepsTheLatest(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	plan := activities.Plan{Minutes: 600, Application: reauth.DefaultApplication}
	third := perform(r, r.acts.OpenSession, activities.SessionInput{Case: c.ref, Plan: plan, Ordinal: 3})
	perform(r, r.acts.OpenSession, activities.SessionInput{Case: c.ref, Plan: plan, Ordinal: 2})
	assert.Equal(t, third.Session.ID, r.row(c).SessionID)

	_, err := r.db.CloseCase(t.Context(), db.Closing{CaseID: c.ref.CaseID, Outcome: reauth.OutcomeCancelled, At: r.now})
	require.NoError(t, err)
	perform(r, r.acts.OpenSession, activities.SessionInput{Case: c.ref, Plan: plan, Ordinal: 4})
	assert.Equal(t, third.Session.ID, r.row(c).SessionID)
}

func TestOpenSessionErrors(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := activities.SessionInput{Case: c.ref, Plan: activities.Plan{Minutes: 600, Application: reauth.DefaultApplication}, Ordinal: 2}

	r.fail(answer(sessions, 400, `{"message": "Connection not found"}`))
	assert.Equal(t, activities.SessionOpened{Verdict: activities.VerdictNotFound}, perform(r, r.acts.OpenSession, in))

	r.fail(always(sessions, finchsim.FaultServerError))
	_, err := run(r, r.acts.OpenSession, in)
	assert.Equal(t, "unavailable", r.failure(err).Type())

	r.fail()
	in.Plan.Application = wrongSecret
	out := perform(r, r.acts.OpenSession, in)
	assert.Equal(t, activities.VerdictBlocked, out.Verdict)
	assert.Contains(t, out.Problem, "client credentials")

	in.Patient = true
	_, err = run(r, r.acts.OpenSession, in)
	assert.Equal(t, "blocked", r.failure(err).Type())
	assert.True(t, benign(r.failure(err)))

	assert.Equal(t, 1, r.row(c).SessionOrdinal)
	assert.Empty(t, r.timeline(c, "session_renewed"))
}

func TestRecord(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	record := alone(r.acts.Record)
	perform(r, record, activities.RecordInput{Case: c.ref, Kind: "snoozed", Detail: "Notices are held."})
	assert.Equal(t, []string{"Notices are held."}, r.timeline(c, "snoozed"))
	assert.Empty(t, r.row(c).LastError)

	in := activities.RecordInput{Case: c.ref, Kind: "signal_ignored", Detail: "A signal was wrong.", LastError: "A signal was wrong."}
	perform(r, record, in)
	perform(r, record, in)
	assert.Equal(t, []string{"A signal was wrong."}, r.timeline(c, "signal_ignored"), "once")
	assert.Equal(t, "A signal was wrong.", r.row(c).LastError)
	assert.Equal(t, reauth.PhaseAwaitingCustomer, r.row(c).Phase)

	in.Case.CaseID = "without-a-row"
	perform(r, record, in) // nothing to tell of
}
