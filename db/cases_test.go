package db_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestOpenCase(t *testing.T) {
	s := newStore(t)
	_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "c1", Provider: "atto", Application: "sandbox", CustomerName: "Acme"})
	require.NoError(t, err)
	_, err = s.Adopt(s.ctx, adoption("c1", "token", t0))
	require.NoError(t, err)
	in := db.Case{
		CaseID: "k1", ConnectionID: "c1", Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user",
		Reason: "says anna@example.com \x00", OpenedAt: t0,
	}
	for range 2 { // the second time, as after a lost answer
		opened, err := s.OpenCase(s.ctx, in)
		require.NoError(t, err)
		assert.True(t, opened)
	}
	want := in
	want.Provider, want.Application, want.CustomerName, want.Generation = "atto", "sandbox", "Acme", 1
	want.Phase, want.Reason = reauth.PhaseConfirming, "says [address] \uFFFD"
	for name, read := range map[string]func() (db.Case, error){
		"by ID":  func() (db.Case, error) { return s.CaseByID(s.ctx, "k1") },
		"open":   func() (db.Case, error) { return s.OpenCaseOf(s.ctx, "c1") },
		"newest": func() (db.Case, error) { return s.NewestCase(s.ctx, "c1") },
	} {
		got, err := read()
		require.NoError(t, err, name)
		assert.Equal(t, want, got, name)
	}
	assert.Equal(t, reauth.StatusStale, s.status(t, "c1"))
	timeline, err := s.Timeline(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, []db.Event{{CaseID: "k1", ConnectionID: "c1", Kind: "opened", Detail: "api_error reauthenticate_user", At: t0}}, timeline)

	s.end(t, "k1", reauth.OutcomeExpired, t0.Add(time.Hour))
	opened, err := s.OpenCase(s.ctx, in)
	require.NoError(t, err)
	assert.False(t, opened, "a closed case does not open again")
	_, err = s.OpenCaseOf(s.ctx, "c1")
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.CaseByID(s.ctx, "k2")
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.NewestCase(s.ctx, "c2")
	require.ErrorIs(t, err, db.ErrNotFound)
}

func TestOpenCaseRefuses(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	s.open(t, "c1", "k1", t0)
	for name, test := range map[string]struct {
		change func(c *db.Case)
		text   string
	}{
		"an unknown connection":     {func(c *db.Case) { c.ConnectionID = "c3" }, "not found"},
		"another connection's case": {func(c *db.Case) { c.CaseID = "k1" }, "the case is another connection's"},
		"an unknown source":         {func(c *db.Case) { c.Source = "rumour" }, "cases_source_known"},
		"an unknown phase":          {func(c *db.Case) { c.Phase = "odd" }, "cases_phase_known"},
		"the phase of closed cases": {func(c *db.Case) { c.Phase = reauth.PhaseClosed }, "cases_closed_iff_outcome"},
		"no ID":                     {func(c *db.Case) { c.CaseID = "" }, "cases_id_set"},
	} {
		c := db.Case{CaseID: "k2", ConnectionID: "c2", Source: reauth.SourceManual, OpenedAt: t0}
		test.change(&c)
		opened, err := s.OpenCase(s.ctx, c)
		require.ErrorContains(t, err, test.text, name)
		assert.False(t, opened, name)
	}
	assert.Equal(t, 1, s.count(t, "cases"))
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c2"))
}

func TestTerminatedRunIsClosedByTheNextCase(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.open(t, "c1", "terminated", t0)
	require.NoError(t, s.SetSchedule(s.ctx, "terminated", db.Schedule{At: &t0, Step: "after-2d", NoticesSent: 1}))
	s.open(t, "c1", "next", t0.Add(time.Hour))

	k, err := s.CaseByID(s.ctx, "terminated")
	require.NoError(t, err)
	assert.Equal(t, reauth.OutcomeCancelled, k.Outcome)
	assert.Equal(t, db.ReasonTerminated, k.CloseReason)
	assert.Equal(t, reauth.PhaseClosed, k.Phase)
	assert.Equal(t, t0.Add(time.Hour), *k.ClosedAt)
	open, err := s.OpenCaseOf(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, "next", open.CaseID)
	assert.Equal(t, reauth.StatusStale, s.status(t, "c1"))
	assert.Zero(t, s.count(t, "suppressions"), "nobody cancelled anything")

	// The start of an older run that is late: it is the terminated one.
	opened, err := s.OpenCase(s.ctx, db.Case{CaseID: "late", ConnectionID: "c1", Source: reauth.SourceManual, OpenedAt: t0.Add(time.Minute)})
	require.NoError(t, err)
	assert.False(t, opened)
	k, err = s.CaseByID(s.ctx, "late")
	require.NoError(t, err)
	assert.Equal(t, reauth.OutcomeCancelled, k.Outcome)
	assert.Equal(t, t0.Add(time.Minute), *k.ClosedAt)
	open, err = s.OpenCaseOf(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, "next", open.CaseID)
	newest, err := s.NewestCase(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, "next", newest.CaseID)
	timeline, err := s.Timeline(s.ctx, "late")
	require.NoError(t, err)
	require.Len(t, timeline, 2)
	assert.Equal(t, "cancelled: terminated", timeline[1].Detail)
}

func TestOpenCaseAtOnce(t *testing.T) {
	for name, at := range map[string]func(i int) time.Time{
		"one after the other": func(i int) time.Time { return t0.Add(time.Duration(i) * time.Second) },
		"at the same moment":  func(int) time.Time { return t0 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.connect(t, "c1")
			const n = 50
			var opened atomic.Int64
			together(2*n, func(i int) { // each twice
				ok, err := s.OpenCase(s.ctx, db.Case{
					CaseID: fmt.Sprintf("k%02d", i%n), ConnectionID: "c1", Source: reauth.SourceAPIError, OpenedAt: at(i % n),
				})
				assert.NoError(t, err)
				if ok {
					opened.Add(1)
				}
			})
			assert.Equal(t, n, s.count(t, "cases"))
			assert.Equal(t, 1, s.count(t, "cases WHERE outcome IS NULL"))
			assert.NotZero(t, opened.Load())
			open, err := s.OpenCaseOf(s.ctx, "c1")
			require.NoError(t, err)
			assert.Equal(t, "k49", open.CaseID, "the newest")
			assert.Equal(t, n, s.count(t, "case_events WHERE kind = 'opened'"))
			assert.Equal(t, n-1, s.count(t, "case_events WHERE kind = 'closed'"))
		})
	}
}

func TestCaseIsUpdatedWhileItIsOpen(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	expires, deadline, next := t0.Add(24*time.Hour), t0.Add(48*time.Hour), t0.Add(2*time.Hour)

	update := func(ordinal int) {
		require.NoError(t, s.SetSession(s.ctx, "k1", db.Session{
			ID: fmt.Sprint("s", ordinal), URL: "https://connect.example/s", Ordinal: ordinal, ExpiresAt: expires, DeadlineAt: deadline,
		}))
	}
	update(2)
	update(1) // late
	require.NoError(t, s.SetSchedule(s.ctx, "k1", db.Schedule{At: &next, Step: "after-2d", Audience: "primary", Channel: "mail", NoticesSent: 3}))
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, "s2", k.SessionID)
	assert.Equal(t, "https://connect.example/s", k.ConnectURL)
	assert.Equal(t, 2, k.SessionOrdinal)
	assert.Equal(t, expires, *k.SessionExpiresAt)
	assert.Equal(t, deadline, *k.DeadlineAt)
	assert.Equal(t, reauth.PhaseAwaitingCustomer, k.Phase)
	assert.Equal(t, next, *k.NextNoticeAt)
	assert.Equal(t, "after-2d", k.NextStep)
	assert.Equal(t, 3, k.NoticesSent)
	assert.Equal(t, 1, s.count(t, "cases WHERE next_audience = 'primary' AND next_channel = 'mail'"))

	require.NoError(t, s.SetPhase(s.ctx, "k1", reauth.PhaseBlocked, "refused for anna@example.com"))
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, reauth.PhaseBlocked, k.Phase)
	assert.Equal(t, "refused for [address]", k.LastError)
	require.NoError(t, s.SetPhase(s.ctx, "k1", "", "another error"))
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, reauth.PhaseBlocked, k.Phase)
	assert.Equal(t, "another error", k.LastError)
	require.NoError(t, s.SpendSession(s.ctx, "k1", 1)) // late
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.NotEmpty(t, k.ConnectURL, "a later session stays")
	require.NoError(t, s.SpendSession(s.ctx, "k1", 2))
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Empty(t, k.ConnectURL)
	assert.Equal(t, "s2", k.SessionID)
	require.NoError(t, s.SetPhase(s.ctx, "k1", reauth.PhaseVerifying, ""))
	require.NoError(t, s.SetSchedule(s.ctx, "k1", db.Schedule{NoticesSent: 4}))
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Empty(t, k.LastError)
	assert.Nil(t, k.NextNoticeAt)
	assert.Empty(t, k.NextStep)
	require.ErrorContains(t, s.SetPhase(s.ctx, "k1", reauth.PhaseClosed, ""), "cases_closed_iff_outcome")

	require.NoError(t, s.SetSchedule(s.ctx, "k1", db.Schedule{At: &next, Step: "after-5d", NoticesSent: 4}))
	s.end(t, "k1", reauth.OutcomeExpired, deadline)
	before, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Nil(t, before.NextNoticeAt, "a closed case plans nothing")
	assert.Empty(t, before.NextStep)
	update(3)
	require.NoError(t, s.SpendSession(s.ctx, "k1", 2))
	require.NoError(t, s.SetPhase(s.ctx, "k1", reauth.PhaseConfirming, "late"))
	require.NoError(t, s.SetSchedule(s.ctx, "k1", db.Schedule{At: &next, Step: "after-5d", NoticesSent: 9}))
	after, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, before, after, "a closed case stays as it is")

	require.ErrorIs(t, s.SetSession(s.ctx, "k2", db.Session{}), db.ErrNotFound)
	require.ErrorIs(t, s.SpendSession(s.ctx, "k2", 1), db.ErrNotFound)
	require.ErrorIs(t, s.SetPhase(s.ctx, "k2", reauth.PhaseBlocked, ""), db.ErrNotFound)
	require.ErrorIs(t, s.SetSchedule(s.ctx, "k2", db.Schedule{}), db.ErrNotFound)
}

func TestCloseCase(t *testing.T) {
	for _, test := range []struct {
		outcome reauth.Outcome
		reason  string
		want    reauth.ConnectionStatus
	}{
		{reauth.OutcomeRecovered, "", reauth.StatusConnected},
		{reauth.OutcomeHealed, "", reauth.StatusConnected},
		{reauth.OutcomeFalseAlarm, "", reauth.StatusConnected},
		{reauth.OutcomeExpired, "", reauth.StatusStale},
		{reauth.OutcomeCancelled, "the customer left: anna@example.com", reauth.StatusStale},
		{reauth.OutcomeFailed, "some other reason", reauth.StatusStale},
		{reauth.OutcomeFailed, reauth.ReasonConnectionNotFound, reauth.StatusDisconnected},
	} {
		t.Run(string(test.outcome)+" "+test.reason, func(t *testing.T) {
			s := newStore(t)
			s.connect(t, "c1")
			s.open(t, "c1", "k1", t0)
			at := t0.Add(time.Hour)
			closing := db.Closing{CaseID: "k1", Outcome: test.outcome, Reason: test.reason, Generation: 7, At: at,
				Event: &db.OutboxEvent{ID: "e1", Type: "case.closed", Payload: []byte(`{"a": 1}`)}}
			first, err := s.CloseCase(s.ctx, closing)
			require.NoError(t, err)
			assert.True(t, first)

			k, err := s.CaseByID(s.ctx, "k1")
			require.NoError(t, err)
			assert.Equal(t, test.outcome, k.Outcome)
			assert.Equal(t, strings.Replace(test.reason, "anna@example.com", "[address]", 1), k.CloseReason)
			assert.Equal(t, int64(7), k.Generation)
			assert.Equal(t, at, *k.ClosedAt)
			assert.Equal(t, reauth.PhaseClosed, k.Phase)
			assert.Equal(t, test.want, s.status(t, "c1"))
			var seen *time.Time
			require.NoError(t, s.raw.Get(&seen, `SELECT seen_connected_at FROM connections`))
			assert.Equal(t, test.want == reauth.StatusConnected, seen != nil && seen.Equal(at))
			assert.Equal(t, 1, s.count(t, "outbox WHERE connection_id = 'c1' AND case_id = 'k1'"))

			// The first outcome stands.
			for _, other := range reauth.Outcomes() {
				if other == reauth.OutcomeRecovered {
					continue
				}
				first, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: other, Reason: "late", At: at.Add(time.Hour),
					Event: &db.OutboxEvent{ID: "e2", Type: "case.closed", Payload: []byte(`{}`)}})
				require.NoError(t, err)
				assert.False(t, first)
			}
			again, err := s.CaseByID(s.ctx, "k1")
			require.NoError(t, err)
			assert.Equal(t, k, again)
			assert.Equal(t, test.want, s.status(t, "c1"))
			assert.Equal(t, 1, s.count(t, "outbox"))
			assert.Equal(t, 1, s.count(t, "case_events WHERE kind = 'closed'"))
		})
	}
}

// A customer who comes through while an expiry or a cancelling is being told has
// the last word; nobody else has.
func TestCustomerHasTheLastWord(t *testing.T) {
	for _, before := range reauth.Outcomes() {
		t.Run(string(before), func(t *testing.T) {
			s := newStore(t)
			s.connect(t, "c1")
			s.open(t, "c1", "k1", t0)
			s.end(t, "k1", before, t0.Add(time.Hour))

			a := adoption("c1", "token", t0.Add(time.Hour))
			a.Close = &db.Closing{CaseID: "k1", Outcome: reauth.OutcomeRecovered, At: t0.Add(2 * time.Hour),
				Event: &db.OutboxEvent{ID: "e1", Type: "recovered", Payload: []byte(`{}`)}}
			_, err := s.Adopt(s.ctx, a)
			require.NoError(t, err)
			k, err := s.CaseByID(s.ctx, "k1")
			require.NoError(t, err)
			if before.Restored() {
				assert.Equal(t, before, k.Outcome)
				assert.Zero(t, s.count(t, "outbox"))
				return
			}
			assert.Equal(t, reauth.OutcomeRecovered, k.Outcome)
			assert.Equal(t, t0.Add(2*time.Hour), *k.ClosedAt)
			assert.Equal(t, int64(1), k.Generation)
			assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"))
			assert.Zero(t, s.count(t, "suppressions"))
			assert.Equal(t, 1, s.count(t, "outbox"))
			first, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: before, At: t0.Add(3 * time.Hour)})
			require.NoError(t, err)
			assert.False(t, first, "and keeps it")
		})
	}
}

func TestCloseCaseRefuses(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	_, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k2", Outcome: reauth.OutcomeExpired, At: t0})
	require.ErrorIs(t, err, db.ErrNotFound)
	for _, outcome := range []reauth.Outcome{"", "odd"} {
		_, err = s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: outcome, At: t0})
		require.EqualError(t, err, "close a case: the outcome is unknown")
	}
	_, err = s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: reauth.OutcomeExpired, At: t0,
		Event: &db.OutboxEvent{ID: "e1", Type: "case.closed", Payload: []byte(`{`)}})
	require.Error(t, err)
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.True(t, k.Open(), "the case and its event are one")

	// A clock that is behind the one of the opening.
	s.end(t, "k1", reauth.OutcomeExpired, t0.Add(-time.Hour))
	k, err = s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, t0, *k.ClosedAt)
}

func TestCloseCaseAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	var firsts atomic.Int64
	var winner atomic.Value
	outcomes := []reauth.Outcome{reauth.OutcomeHealed, reauth.OutcomeFalseAlarm, reauth.OutcomeExpired, reauth.OutcomeCancelled, reauth.OutcomeFailed}
	together(30, func(i int) {
		outcome := outcomes[i%len(outcomes)]
		first, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: outcome, At: t0.Add(time.Hour)})
		assert.NoError(t, err)
		if first {
			firsts.Add(1)
			winner.Store(outcome)
		}
	})
	assert.Equal(t, int64(1), firsts.Load())
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, winner.Load(), k.Outcome)
	assert.Equal(t, 1, s.count(t, "case_events WHERE kind = 'closed'"))
}

func TestCasesArePaged(t *testing.T) {
	s := newStore(t)
	for i := range 6 {
		id := fmt.Sprintf("c%d", i)
		s.connect(t, id)
		s.open(t, id, fmt.Sprintf("k%d", i), t0.Add(time.Duration(i/2)*time.Microsecond)) // two at a time
	}
	s.end(t, "k1", reauth.OutcomeExpired, t0)
	s.end(t, "k4", reauth.OutcomeHealed, t0)
	require.NoError(t, s.SetPhase(s.ctx, "k5", reauth.PhaseBlocked, ""))
	_, err := s.raw.Exec(`UPDATE cases SET provider = 'atto' WHERE case_id = 'k2'`)
	require.NoError(t, err)

	pages := func(filter db.CaseFilter, limit int) (pages []string) {
		for after := ""; ; {
			list, next, err := s.Cases(s.ctx, filter, after, limit)
			require.NoError(t, err)
			text := ""
			for _, c := range list {
				text += c.CaseID
				assert.Equal(t, "Acme", c.CustomerName)
			}
			pages = append(pages, text)
			if next == "" {
				return pages
			}
			after = next
		}
	}
	assert.Equal(t, []string{"k5", "k4", "k3", "k2", "k1", "k0"}, pages(db.CaseFilter{}, 1))
	assert.Equal(t, []string{"k5k4k3", "k2k1k0"}, pages(db.CaseFilter{}, 3))
	assert.Equal(t, []string{"k5k4k3k2", "k1k0"}, pages(db.CaseFilter{}, 4))
	assert.Equal(t, []string{"k5k4k3k2k1k0"}, pages(db.CaseFilter{}, -1))
	assert.Equal(t, []string{"k4", "k1"}, pages(db.CaseFilter{Phase: reauth.PhaseClosed}, 1))
	assert.Equal(t, []string{"k5"}, pages(db.CaseFilter{Phase: reauth.PhaseBlocked}, 1))
	assert.Equal(t, []string{"k1"}, pages(db.CaseFilter{Outcome: reauth.OutcomeExpired}, 1))
	assert.Equal(t, []string{"k2"}, pages(db.CaseFilter{Provider: "atto"}, 1))
	assert.Equal(t, []string{""}, pages(db.CaseFilter{Provider: "atto", Outcome: reauth.OutcomeExpired}, 1))

	_, _, err = s.Cases(s.ctx, db.CaseFilter{}, "bad", 1)
	require.ErrorIs(t, err, db.ErrBadCursor)
}

func TestTimeline(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	s.open(t, "c1", "k1", t0)
	add := func(e db.Event) error { return s.AddEvent(s.ctx, e) }
	later := db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "clicked", Detail: "by anna@example.com", At: t0.Add(2 * time.Hour)}
	earlier := db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "session", At: t0.Add(time.Hour)}
	require.NoError(t, add(later))
	require.NoError(t, add(earlier))
	require.NoError(t, add(later), "a retry")
	require.NoError(t, add(db.Event{ConnectionID: "c1", Kind: "registered", At: t0}), "outside of any case")

	timeline, err := s.Timeline(s.ctx, "k1")
	require.NoError(t, err)
	require.Len(t, timeline, 3)
	assert.Equal(t, "opened", timeline[0].Kind)
	assert.Equal(t, earlier, timeline[1])
	assert.Equal(t, "by [address]", timeline[2].Detail)
	assert.Equal(t, time.UTC, timeline[2].At.Location())

	require.ErrorIs(t, add(db.Event{CaseID: "k2", ConnectionID: "c1", Kind: "x", At: t0}), db.ErrNotFound)
	require.ErrorIs(t, add(db.Event{CaseID: "k1", ConnectionID: "c2", Kind: "x", At: t0}), db.ErrNotFound)
	require.ErrorIs(t, add(db.Event{ConnectionID: "c3", Kind: "x", At: t0}), db.ErrNotFound)
	require.ErrorContains(t, add(db.Event{ConnectionID: "c1", At: t0}), "case_events_kind_set")
}
