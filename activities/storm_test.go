package activities_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// stormStarter stands for the way to the cases of a storm.
type stormStarter struct {
	told []toldCase
	fail func(n int) error // what the n-th call fails with, from 1
}

type toldCase struct {
	connectionID string
	released     reauth.NoticesReleased
}

func (s *stormStarter) WatchStorm(context.Context, string) error {
	return errors.New("nobody asks here")
}

func (s *stormStarter) ReleaseNotices(_ context.Context, connectionID string, released reauth.NoticesReleased) error {
	if s.fail != nil {
		if err := s.fail(len(s.told) + 1); err != nil {
			return err
		}
	}
	s.told = append(s.told, toldCase{connectionID, released})
	return nil
}

// storm makes one that holds the cases of customers.
func (r *rig) storm(customers ...customer) (id string) {
	r.t.Helper()
	for _, c := range customers {
		id = r.holds(c.ref.CaseID)
	}
	return id
}

func (r *rig) holds(caseID string) string {
	r.t.Helper()
	rule := db.StormRule{Count: 1, Window: time.Hour, AtMost: 2 * time.Hour}
	storm, held, err := r.db.Brake(r.t.Context(), caseID, rule, r.clock())
	require.NoError(r.t, err)
	require.True(r.t, held)
	return storm.StormID
}

func TestCheckStorm(t *testing.T) {
	r := newRig(t)
	tokenless := func(o *options) { o.tokenless = true }
	for name, test := range map[string]struct {
		customers, back int
		change          func(*options)
		fault           finchsim.Fault
		other           func(*testing.T, []customer)
		asked, found    int
		recovered       bool
	}{
		"nobody is back":       {customers: 5, asked: 5},
		"eight of ten":         {customers: 10, back: 8, asked: 10, found: 8, recovered: true},
		"seven of ten":         {customers: 10, back: 7, asked: 10, found: 7},
		"three of four":        {customers: 4, back: 3, asked: 4, found: 3},
		"both":                 {customers: 2, back: 2, asked: 2, found: 2, recovered: true},
		"the only one":         {customers: 1, back: 1, asked: 1, found: 1, recovered: true},
		"one of two":           {customers: 2, back: 1, asked: 2, found: 1},
		"no more than ten":     {customers: 12, back: 12, asked: 10, found: 10, recovered: true},
		"we hold no token":     {customers: 3, change: tokenless},
		"too many calls":       {customers: 3, back: 3, fault: always(introspect, finchsim.FaultRateLimit), asked: 1},
		"the provider is down": {customers: 3, back: 3, fault: always(introspect, finchsim.FaultServerError), asked: 3},
		"one of them fails": {customers: 4, back: 4, asked: 4, found: 3,
			fault: finchsim.Fault{Endpoint: introspect, Kind: finchsim.FaultServerError, Times: 1}},
		"still at it": {customers: 3, asked: 3, other: func(t *testing.T, all []customer) {
			for _, c := range all {
				require.NoError(t, r.sim.SetStatus(c.id, finch.StatusPending))
			}
		}},
		"not with our credentials": {customers: 2, change: func(o *options) { o.application = unreachable }, asked: 2},
		"whoever has healed is not asked": {customers: 4, back: 3, asked: 3, found: 3, recovered: true, other: func(t *testing.T, all []customer) {
			perform(r, r.acts.CloseAndTell, closing(all[3], reauth.OutcomeHealed, ""))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			var all []customer
			for range test.customers {
				c := r.customer(test.change)
				_, err := r.db.OpenCase(t.Context(), db.Case{CaseID: c.ref.CaseID, ConnectionID: c.id, Source: reauth.SourceAPIError, OpenedAt: c.ref.OpenedAt})
				require.NoError(t, err)
				require.NoError(t, r.db.SetSession(t.Context(), c.ref.CaseID, db.Session{ID: "s", Ordinal: 1}))
				require.NoError(t, r.sim.Break(c.id))
				all = append(all, c)
			}
			storm := r.storm(all...)
			for _, c := range all[:test.back] {
				require.NoError(t, r.sim.Restore(c.id))
			}
			if test.other != nil {
				test.other(t, all)
			}
			if test.fault.Kind != "" {
				r.fail(test.fault)
			}
			before := len(r.asked(introspect))
			out := perform(r, r.acts.CheckStorm, activities.StormCheck{StormID: storm, Round: 1})
			assert.Equal(t, reauth.StormCheck{At: r.now, Asked: test.asked, Back: test.found}, out.Check)
			assert.Equal(t, test.recovered, out.Recovered)
			assert.Equal(t, test.customers, out.Storm.Held)
			if test.change == nil {
				assert.LessOrEqual(t, len(r.asked(introspect))-before, max(test.asked, 2), "and no call more (but what Go itself repeats)")
			}
			ended, err := r.db.EndStorm(t.Context(), storm, "the test is over", r.now) // or it would hold those of the next
			require.NoError(t, err)
			require.True(t, ended)
			r.advance(2 * time.Hour)
		})
	}
}

// limited answers four calls well, and no more.
type limited struct {
	activities.Provider
	calls *int
}

func (l limited) Inspect(context.Context, activities.Access) (activities.Inspection, error) {
	*l.calls++
	if *l.calls > 4 {
		return activities.Inspection{}, &activities.ProviderError{Trouble: activities.TroubleLimit}
	}
	return activities.Inspection{Condition: activities.ConditionConnected}, nil
}

// Four of five would do, but there was no room for more questions.
func TestCheckStormStopsAtTheLimit(t *testing.T) {
	r := newRig(t)
	calls := 0
	r.acts.Providers["limited"] = limited{calls: &calls}
	stormID, _ := r.held(10)
	_, err := r.raw.ExecContext(t.Context(), `UPDATE connections SET application = 'limited'`)
	require.NoError(t, err)
	for i := range 10 {
		r.adopt(customer{id: fmt.Sprintf("held-%d", i+1)}, fmt.Sprintf("planted-token-%d", i+1), r.now)
	}
	out := perform(r, r.acts.CheckStorm, activities.StormCheck{StormID: stormID, Round: 1})
	assert.Equal(t, reauth.StormCheck{At: r.now, Asked: 5, Back: 4}, out.Check)
	assert.False(t, out.Recovered)
	assert.Equal(t, 5, calls)
}

// Every round asks others.
func TestCheckStormGoesAround(t *testing.T) {
	r := newRig(t)
	var all []customer
	for range 15 {
		all = append(all, r.stale())
	}
	storm := r.storm(all...)
	tokens := func(round int) []string {
		before := r.sim.Counters().Calls[introspect]
		out := perform(r, r.acts.CheckStorm, activities.StormCheck{StormID: storm, Round: round})
		assert.Equal(t, 10, out.Check.Asked)
		assert.Equal(t, before+10, r.sim.Counters().Calls[introspect])
		sample, err := r.db.SampleHeld(t.Context(), storm, round, 10)
		require.NoError(t, err)
		return sample
	}
	assert.NotEqual(t, tokens(1), tokens(2))
}

func TestReadAndEndStorm(t *testing.T) {
	r := newRig(t)
	c, other := r.stale(), r.stale()
	storm := r.storm(c, other)
	want := reauth.Storm{
		StormID: storm, Provider: reauth.Finch, System: "Gusto", Broken: 2, Connections: 2, Held: 2, Waiting: 2,
		BeganAt: r.now, EndsAt: r.now.Add(2 * time.Hour),
	}
	assert.Equal(t, want, perform(r, r.acts.ReadStorm, reauth.StormInput{StormID: storm}))
	perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeHealed, ""))
	want.Waiting, want.Restored, want.EndedHow = 1, 1, "released by [address]"
	r.secret("ann.planted@product.example")
	for _, how := range []string{"released by ann.planted@product.example", "otherwise"} {
		assert.Equal(t, want, perform(r, r.acts.EndStorm, activities.StormEnd{StormID: storm, How: how}), "the first end stands")
	}
	row, err := r.db.CaseByID(t.Context(), other.ref.CaseID)
	require.NoError(t, err)
	assert.False(t, row.Held)

	for _, err := range []error{
		second(run(r, r.acts.ReadStorm, reauth.StormInput{StormID: "none"})),
		second(run(r, r.acts.EndStorm, activities.StormEnd{StormID: "none", How: "x"})),
	} {
		var failure interface {
			NonRetryable() bool
			Type() string
		}
		require.ErrorAs(t, err, &failure)
		assert.True(t, failure.NonRetryable())
		assert.Equal(t, reauth.ErrTypeInvalidInput, failure.Type())
	}
	r.closed()
	_, err = run(r, r.acts.ReadStorm, reauth.StormInput{StormID: storm})
	r.failure(err)
}

func second[T any](_ T, err error) error { return err }

// held makes a storm that holds many cases, and lists their connections in the
// order of the cases.
func (r *rig) held(n int) (stormID string, connections []string) {
	r.t.Helper()
	_, err := r.raw.ExecContext(r.t.Context(), `
INSERT INTO connections (connection_id, provider, application, system, status, created_at, updated_at)
SELECT 'held-' || i, 'finch', 'default', 'Gusto', 'stale', now(), now() FROM generate_series(1, $1::int) i`, n)
	require.NoError(r.t, err)
	_, err = r.raw.ExecContext(r.t.Context(), `
INSERT INTO cases (case_id, connection_id, provider, application, source, phase, session_ordinal, opened_at)
SELECT md5('case ' || i), 'held-' || i, 'finch', 'default', 'api_error', 'awaiting_customer', 1, $2 FROM generate_series(1, $1::int) i`, n, r.now)
	require.NoError(r.t, err)
	var first string
	require.NoError(r.t, r.raw.GetContext(r.t.Context(), &first, `SELECT min(case_id) FROM cases`))
	stormID = r.holds(first)
	_, err = r.raw.ExecContext(r.t.Context(), `UPDATE cases SET storm_id = $1`, stormID)
	require.NoError(r.t, err)
	require.NoError(r.t, r.raw.SelectContext(r.t.Context(), &connections, `SELECT connection_id FROM cases ORDER BY case_id`))
	return stormID, connections
}

func told(cases []toldCase) (connections []string) {
	for _, c := range cases {
		connections = append(connections, c.connectionID)
	}
	return connections
}

func TestLetGo(t *testing.T) {
	r := newRig(t)
	storm, connections := r.held(230)
	cases := &stormStarter{}
	r.acts.Storms = cases
	out := perform(r, r.acts.LetGo, reauth.StormInput{StormID: storm})
	assert.Equal(t, activities.StormReleased{Cases: 230, Until: r.now.Add(229 * 3 * time.Second)}, out)
	assert.Equal(t, connections, told(cases.told))
	for i, c := range cases.told {
		require.Equal(t, reauth.NoticesReleased{StormID: storm, At: r.now.Add(time.Duration(i) * 3 * time.Second)}, c.released)
	}

	// Nobody waits, or nobody can be told: then the cases wake by themselves.
	r.acts.Storms = nil
	assert.Zero(t, perform(r, r.acts.LetGo, reauth.StormInput{StormID: storm}))
	r.acts.Storms = &stormStarter{fail: func(int) error { return errors.New("nobody is to be told") }}
	_, err := r.raw.ExecContext(t.Context(), `UPDATE cases SET outcome = 'healed', phase = 'closed', closed_at = opened_at`)
	require.NoError(t, err)
	assert.Zero(t, perform(r, r.acts.LetGo, reauth.StormInput{StormID: storm}))
}

// A worker dies amid the second page, and the next goes on an hour later.
func TestLetGoGoesOn(t *testing.T) {
	r := newRig(t)
	storm, connections := r.held(230)
	cases := &stormStarter{fail: func(n int) error {
		if n == 131 {
			return errors.New("Temporal cannot be reached")
		}
		return nil
	}}
	r.acts.Storms = cases
	_, err := run(r, r.acts.LetGo, reauth.StormInput{StormID: storm})
	r.failure(err)
	require.Len(t, cases.told, 130)
	began := r.now
	r.advance(time.Hour)
	cases.fail = nil
	out, err := again(r, r.acts.LetGo, reauth.StormInput{StormID: storm})
	require.NoError(t, err)
	assert.Equal(t, connections, told(cases.told), "everybody once")
	assert.Equal(t, activities.StormReleased{Cases: 230, Until: r.now.Add(99 * 3 * time.Second)}, out)
	assert.Equal(t, began.Add(129*3*time.Second), cases.told[129].released.At)
	assert.Equal(t, r.now, cases.told[130].released.At, "what is left does not come all at once")
	assert.Equal(t, r.now.Add(3*time.Second), cases.told[131].released.At)

	// The last words of a worker that is killed may be a little old: whoever is
	// told again is told a time after that of the one before.
	cases.told = nil
	out = perform(r, r.acts.LetGo, reauth.StormInput{StormID: storm})
	assert.Equal(t, 230, out.Cases)
	assert.Equal(t, connections, told(cases.told))
}

func TestTellOfStorm(t *testing.T) {
	r := newRig(t)
	r.acts.Settings.TemporalUIURL = "https://temporal.product.example/"
	storm := reauth.Storm{
		StormID: "6c1e", Provider: reauth.Finch, System: "Gusto", Broken: 412, Connections: 480, Held: 412, Waiting: 412,
		BeganAt: time.Date(2026, 11, 21, 2, 51, 0, 0, time.UTC), EndsAt: time.Date(2026, 11, 21, 4, 51, 0, 0, time.UTC),
	}
	began := activities.StormNews{Storm: storm}
	unknown, sent := activities.StormTold{Delivery: notify.Unknown}, activities.StormTold{Delivery: notify.Sent}

	// Until the mail server has taken it …
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 450}))
	_, err := run(r, r.acts.TellOfStorm, began)
	for range 2 {
		assert.Equal(t, "mail_deferred", r.failure(err).Type())
		assert.True(t, benign(r.failure(err)))
		_, err = again(r, r.acts.TellOfStorm, began)
	}
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	out, err := again(r, r.acts.TellOfStorm, began)
	require.NoError(t, err)
	assert.Equal(t, sent, out)
	require.Len(t, r.mails(operatorMail), 1)
	first := r.mails(operatorMail)[0]
	assert.Equal(t, notify.MessageID("product.example", "storm-6c1e", "began", 0, "operator"), first.MessageID)
	assert.Empty(t, first.InReplyTo)
	assert.Equal(t, "[Payday] 412 of 480 connections of Gusto broke together", first.Subject)
	assert.Contains(t, first.Links, "https://temporal.product.example/namespaces/default-test-namespace/workflows/storm-6c1e")
	for _, text := range []string{flat(first.Text), flat(first.HTML)} {
		assert.Contains(t, text, "412 of 480 connections of Gusto broke together")
		assert.Contains(t, text, "412 of 480 connections of Gusto broke within minutes")
		assert.Contains(t, text, "first notices are held until 21 November 2026 at 04:51 UTC at the latest")
		assert.Contains(t, text, "POST "+publicURL+"/v1/storms/6c1e/release")
		assert.Contains(t, text, "send the signal release to the workflow storm-6c1e")
		assert.NotContains(t, text, "A connection needs an operator")
	}

	// … and not again when the worker died before it could say so.
	out, err = again(r, r.acts.TellOfStorm, began)
	require.NoError(t, err)
	assert.Equal(t, unknown, out)
	require.Len(t, r.mails(operatorMail), 1)

	// The end stands in the same conversation.
	storm.EndedHow, storm.Held, storm.Waiting, storm.Restored = "access was back at 9 of 10 connections that were asked", 420, 100, 300
	ended := activities.StormNews{Storm: storm, Released: activities.StormReleased{Cases: 100, Until: storm.EndsAt}}
	assert.Equal(t, sent, perform(r, r.acts.TellOfStorm, ended))
	require.Len(t, r.mails(operatorMail), 2)
	second := r.mails(operatorMail)[1]
	assert.Equal(t, first.Subject, second.Subject)
	assert.Equal(t, first.MessageID, second.InReplyTo)
	assert.NotEqual(t, first.MessageID, second.MessageID)
	text := flat(second.Text)
	assert.True(t, strings.HasPrefix(text, "412 of 480 connections of Gusto broke together "), text)
	assert.Contains(t, text, "The storm is over: access was back at 9 of 10 connections that were asked. "+
		"Of the 420 cases that were held, 300 had access back by then, 20 had ended otherwise, "+
		"and 100 are let go one after the other until 21 November 2026 at 04:51 UTC.")
	assert.NotContains(t, text, "/release")

	ended.Storm.Restored, ended.Storm.Waiting, ended.Storm.EndedHow, ended.Released = 420, 0, "no held case is left open.", activities.StormReleased{}
	perform(r, r.acts.TellOfStorm, ended)
	assert.Contains(t, flat(r.mails(operatorMail)[2].Text),
		"no held case is left open. Of the 420 cases that were held, 420 had access back by then, and none is left to be let go.")

	// What people call a system cannot make a header of it.
	began.Storm.System = "Gusto\r\nBcc:\tx@product.example"
	perform(r, r.acts.TellOfStorm, began)
	assert.Equal(t, "[Payday] 412 of 480 connections of Gusto Bcc: x@product.example broke together", r.mails(operatorMail)[3].Subject)
}

func TestTellOfStormOnlyOnce(t *testing.T) {
	r := newRig(t)
	began := activities.StormNews{Storm: reauth.Storm{StormID: "6c1e", Provider: reauth.Finch, Broken: 20, Connections: 20}}
	for knobs, want := range map[inbox.Knobs]struct {
		out   notify.Delivery
		mails int
	}{
		{Fault: inbox.FaultDrop, At: inbox.AtContent}:              {notify.Unknown, 1}, // which took it
		{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550}:    {notify.Refused, 0},
		{Fault: inbox.FaultReject, At: inbox.AtContent, Code: 554}: {notify.Refused, 0},
	} {
		before := len(r.mails(operatorMail))
		require.NoError(t, r.inbox.SetKnobs(knobs))
		assert.Equal(t, activities.StormTold{Delivery: want.out}, perform(r, r.acts.TellOfStorm, began))
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
		out, err := again(r, r.acts.TellOfStorm, began)
		require.NoError(t, err)
		assert.Equal(t, activities.StormTold{Delivery: notify.Unknown}, out)
		assert.Len(t, r.mails(operatorMail), before+want.mails)
	}

	// Nobody to write to: the log has to do.
	r.acts.Settings.OperatorEmail = ""
	before := len(r.inbox.Messages())
	said := r.said.Len()
	assert.Zero(t, perform(r, r.acts.TellOfStorm, began))
	assert.Len(t, r.inbox.Messages(), before)
	assert.Contains(t, r.said.String()[said:], `"level":"WARN","msg":"Many connections broke together"`)
	assert.Contains(t, r.said.String()[said:], "20 of 20 connections of Finch")

	// A mail that cannot be composed is no reason to be silent about why.
	r.acts.Settings.OperatorEmail, r.acts.Settings.MailFrom = operatorMail, ""
	_, err := run(r, r.acts.TellOfStorm, began)
	assert.ErrorContains(t, r.failure(err), "compose the operator's mail")
}

// flat is a text without its line breaks and indents.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }
