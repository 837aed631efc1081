package db_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// published lists the types of the events of a case, in their order.
func (s store) published(t testing.TB, caseID string) []string {
	t.Helper()
	types := []string{}
	require.NoError(t, s.raw.SelectContext(s.ctx, &types, `SELECT type FROM outbox WHERE case_id = $1 ORDER BY seq`, caseID))
	return types
}

// payload is the newest event of a type.
func (s store) payload(t testing.TB, kind string) (id, text string) {
	t.Helper()
	list, err := s.Outbox(s.ctx, db.OutboxFilter{Type: kind}, 1)
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0].ID, string(list[0].Payload)
}

func TestPublishedEvents(t *testing.T) {
	s := newStore(t)
	s.PublishEvents(true)
	_, err := s.PutConnection(s.ctx, reauth.Connection{
		ConnectionID: "c1", CustomerID: "cust-1", CustomerName: "Acme", System: "Gusto", Contacts: []reauth.Contact{{Email: "anna@example.com", Name: "Anna"}},
	})
	require.NoError(t, err)
	opened, err := s.OpenCase(s.ctx, db.Case{CaseID: "k1", ConnectionID: "c1", Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user", OpenedAt: t0})
	require.NoError(t, err)
	require.True(t, opened)
	id, text := s.payload(t, "reauth.case.opened")
	assert.Regexp(t, `^evt_k1_\d+$`, id)
	assert.JSONEq(t, `{"type": "reauth.case.opened", "timestamp": "2026-11-02T09:00:00Z", "data": {
		"case_id": "k1", "connection_id": "c1", "provider": "finch", "application": "default",
		"customer_id": "cust-1", "customer_name": "Acme", "system": "Gusto",
		"phase": "confirming", "kind": "opened", "detail": "api_error reauthenticate_user", "opened_at": "2026-11-02T09:00:00Z",
		"session_expires_at": null, "deadline_at": null, "next_notice_at": null, "notices_sent": 0}}`, text)

	// Each says how the case stands when it is told.
	expires := t0.Add(30 * 24 * time.Hour)
	require.NoError(t, s.SetSession(s.ctx, "k1", db.Session{ID: "s1", URL: "https://connect.example/secret", Ordinal: 1, ExpiresAt: expires, DeadlineAt: expires.Add(time.Hour)}))
	next := t0.Add(48*time.Hour + 123*time.Millisecond)
	_, err = s.raw.Exec(`UPDATE cases SET next_notice_at = $1, notices_sent = 2`, next)
	require.NoError(t, err)
	require.NoError(t, s.SetPhase(s.ctx, "k1", "", "The mail server is down for bob@example.com, it says."))
	line := db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "odd", Detail: "Ask anna@example.com, please.", At: t0.Add(time.Minute + 1234*time.Nanosecond)}
	require.NoError(t, s.AddEvent(s.ctx, line))
	id, text = s.payload(t, "reauth.case.odd")
	assert.JSONEq(t, `{"type": "reauth.case.odd", "timestamp": "2026-11-02T09:01:00.000001Z", "data": {
		"case_id": "k1", "connection_id": "c1", "provider": "finch", "application": "default",
		"customer_id": "cust-1", "customer_name": "Acme", "system": "Gusto",
		"phase": "awaiting_customer", "kind": "odd", "detail": "Ask [address], please.", "opened_at": "2026-11-02T09:00:00Z",
		"session_expires_at": "2026-12-02T09:00:00Z", "deadline_at": "2026-12-02T10:00:00Z", "next_notice_at": "2026-11-04T09:00:00.123Z",
		"notices_sent": 2, "last_error": "The mail server is down for [address], it says."}}`, text)

	// The same line again is no other event.
	require.NoError(t, s.AddEvent(s.ctx, line))
	assert.Equal(t, []string{"reauth.case.opened", "reauth.case.odd"}, s.published(t, "k1"))
	again, _ := s.payload(t, "reauth.case.odd")
	assert.Equal(t, id, again)

	// What belongs to no case, and what could not be stored, is no event.
	require.NoError(t, s.AddEvent(s.ctx, db.Event{ConnectionID: "c1", Kind: "odd", At: t0}))
	require.ErrorIs(t, s.AddEvent(s.ctx, db.Event{CaseID: "k2", ConnectionID: "c1", Kind: "odd", At: t0}), db.ErrNotFound)
	assert.Equal(t, 2, s.count(t, "outbox"))

	// A line and its event are one.
	_, err = s.raw.Exec(`ALTER TABLE outbox ADD CONSTRAINT never CHECK (type <> 'reauth.case.never')`)
	require.NoError(t, err)
	require.Error(t, s.AddEvent(s.ctx, db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "never", At: t0}))
	assert.Zero(t, s.count(t, "case_events WHERE kind = 'never'"))
	require.ErrorContains(t, s.AddEventOutside(s.ctx, db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "lost", At: t0}), "its transaction")

	var all string
	require.NoError(t, s.raw.Get(&all, `SELECT string_agg(payload::text, ' ') FROM outbox`))
	for _, private := range []string{"@example.com", "Anna", "secret"} {
		assert.NotContains(t, all, private)
	}
}

// Whatever adds a line to a timeline tells the backend too.
func TestEveryLineIsPublished(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			s := newStore(t)
			s.PublishEvents(on)
			if on { // and stays on under another clock
				s.DB = s.DB.WithClock(func() time.Time { return t0.Add(time.Hour) })
			}
			s.connect(t, "c1", "anna@example.com")
			s.open(t, "c1", "k1", t0)
			ledger, permit, _, err := s.BeginNotice(s.ctx, notice("k1", "first", s.recipient(t, "c1")))
			require.NoError(t, err)
			require.True(t, permit)
			require.NoError(t, s.EndNotice(s.ctx, ledger, db.NoticeSent, ""))
			require.NoError(t, s.EndNotice(s.ctx, ledger, db.NoticeSent, ""))
			require.NoError(t, s.AddEvent(s.ctx, db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "confirmed", At: t0}))
			closing := db.Closing{CaseID: "k1", Outcome: reauth.OutcomeExpired, At: t0.Add(2 * time.Hour)}
			if on {
				closing.Event = &db.OutboxEvent{ID: "evt_k1_expired", Type: "reauth.case.closed", Payload: json.RawMessage(`{}`)}
			}
			first, err := s.CloseCase(s.ctx, closing)
			require.NoError(t, err)
			require.True(t, first)
			if !on {
				assert.Zero(t, s.count(t, "outbox"))
				return
			}
			lines, err := s.Timeline(s.ctx, "k1")
			require.NoError(t, err)
			published := s.published(t, "k1")
			assert.Len(t, published, len(lines))
			for _, line := range lines {
				assert.Contains(t, published, "reauth.case."+line.Kind)
			}
			assert.Equal(t, "reauth.case.opened", published[0])
			assert.Equal(t, "reauth.case.closed", published[len(published)-1])
			_, sent := s.payload(t, "reauth.case.notice_sent")
			assert.NotContains(t, sent, "example.com")

			// After the end of a case, its events say how it ended.
			require.NoError(t, s.AddEvent(s.ctx, db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "operator_needed", At: t0.Add(3 * time.Hour)}))
			_, text := s.payload(t, "reauth.case.operator_needed")
			assert.Contains(t, text, `"phase":"closed","outcome":"expired"`)
		})
	}
}

// The end of a case whose run was terminated is told by nobody else.
func TestATerminatedCaseIsPublished(t *testing.T) {
	s := newStore(t)
	s.PublishEvents(true)
	s.connect(t, "c1")
	s.open(t, "c1", "k2", t0)
	s.open(t, "c1", "k3", t0.Add(time.Hour)) // k2 was terminated
	opened, err := s.OpenCase(s.ctx, db.Case{CaseID: "k1", ConnectionID: "c1", Source: reauth.SourceManual, OpenedAt: t0.Add(-time.Hour)})
	require.NoError(t, err)
	require.False(t, opened)
	assert.Equal(t, []string{"reauth.case.opened"}, s.published(t, "k3"))
	for caseID, want := range map[string]string{
		"k1": `"opened_at": "2026-11-02T08:00:00Z", "closed_at": "2026-11-02T08:00:00Z"`,
		"k2": `"opened_at": "2026-11-02T09:00:00Z", "closed_at": "2026-11-02T10:00:00Z"`,
	} {
		assert.Equal(t, []string{"reauth.case.opened", "reauth.case.closed"}, s.published(t, caseID), caseID)
		list, err := s.Outbox(s.ctx, db.OutboxFilter{CaseID: caseID, Type: "reauth.case.closed"}, 1)
		require.NoError(t, err)
		assert.Equal(t, "evt_"+caseID+"_cancelled", list[0].ID, "as the event of every other end")
		_, closedAt, _ := strings.Cut(want, `"closed_at": `)
		assert.JSONEq(t, `{"type": "reauth.case.closed", "timestamp": `+closedAt+`, "data": {
			"case_id": "`+caseID+`", "connection_id": "c1", "provider": "finch", "application": "default", "customer_id": "",
			"outcome": "cancelled", "reason": "terminated", `+want+`}}`, string(list[0].Payload))
	}
}
