package preview

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

// The ledger of a preview answers as the real one does.
func TestTheLedgerAnswersAsTheRealOne(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	connection := reauth.Connection{ConnectionID: "c1", Contacts: []reauth.Contact{{Email: "dana@northwind.example"}, {Email: "priya@northwind.example"}}}
	opened, err := db.Open(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	stored := opened.WithClock(clock)
	_, err = stored.PutConnection(t.Context(), connection)
	require.NoError(t, err)
	people, err := stored.Recipients(t.Context(), "c1")
	require.NoError(t, err)
	kept := &store{connection: connection, people: people, now: clock, says: map[int64]string{}, events: map[int64]db.OutboxEvent{}}

	ask := func(s activities.Store) []any {
		ctx := t.Context()
		now = time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
		var answers []any
		say := func(answer ...any) { answers = append(answers, answer) }
		mail := func(step, to string, perDay int) {
			p, err := s.BeginMail(ctx, db.Mail{
				Notice: db.Notice{CaseID: "k1", Step: step, SessionOrdinal: 1, Recipient: to, Channel: db.ChannelMail, MessageID: step + to + "@x"},
				At:     now, PerDay: perDay, DayBegins: now.Truncate(24 * time.Hour),
			})
			say(step, p.Granted, p.State, p.Capped, p.Led, err)
			if p.Granted {
				say(s.EndNotice(ctx, p.ID, db.NoticeSent, ""))
			}
		}
		notice := func(n db.Notice) {
			n.CaseID = "k1"
			_, permit, state, err := s.BeginNotice(ctx, n)
			say(n.Step, permit, state, err)
		}
		_, err := s.CaseByID(ctx, "k1")
		say(errors.Is(err, db.ErrNotFound))
		for range 2 {
			open, err := s.OpenCase(ctx, db.Case{CaseID: "k1", ConnectionID: "c1", Source: reauth.SourceAPIError, OpenedAt: now})
			say(open, err)
		}
		say(s.SetSession(ctx, "k1", db.Session{ID: "s1", Ordinal: 1, ExpiresAt: now.Add(time.Hour), DeadlineAt: now.Add(2 * time.Hour)}))
		c, err := s.CaseByID(ctx, "k1")
		require.NoError(t, err)
		say(c.SessionOrdinal, c.DeadlineAt.UTC(), c.Open())

		mail("after-0s", people[0].ContactID, 1)
		mail("after-0s", people[0].ContactID, 1) // it stands in the ledger already
		mail("after-1h", people[0].ContactID, 1) // the day's mail was sent
		mail("after-1h", people[1].ContactID, 1) // not to them
		mail("after-1h", people[0].ContactID, 0) // there is no cap
		now = now.Add(24 * time.Hour)
		mail("after-1d", people[0].ContactID, 1) // another day
		for range 2 {
			given, _, err := s.HandToBackend(ctx, db.Notice{CaseID: "k1", Step: "after-2d", SessionOrdinal: 1, Channel: db.ChannelWebhook},
				[]string{people[0].ContactID, people[1].ContactID}, db.OutboxEvent{ID: "evt", Type: activities.NoticeDue, Payload: []byte(`{}`)}, now)
			say(given, err)
		}
		notice(db.Notice{Step: "after-3d", SessionOrdinal: 1, Recipient: db.RecipientOperator, Channel: db.ChannelChat})
		notice(db.Notice{Step: "after-3d", SessionOrdinal: 1, Recipient: db.RecipientOperator, Channel: db.ChannelChat})

		for _, outcome := range []reauth.Outcome{reauth.OutcomeExpired, reauth.OutcomeCancelled} {
			first, err := s.CloseCase(ctx, db.Closing{CaseID: "k1", Outcome: outcome, At: now})
			say(first, err)
		}
		mail("after-4d", people[0].ContactID, 0) // the case is closed
		notice(db.Notice{Step: "after-4d", Recipient: db.RecipientOperator, Channel: db.ChannelMail})
		notice(db.Notice{Step: "expired", Recipient: db.RecipientOperator, Channel: db.ChannelMail, Operator: true})
		c, err = s.CaseByID(ctx, "k1")
		say(c.Outcome, c.ClosedAt.UTC(), err)

		rows, err := s.NoticesOf(ctx, "k1")
		require.NoError(t, err)
		for _, row := range rows {
			say(row.Step, row.Recipient, row.Channel, row.State, row.BegunAt.UTC(), row.SessionOrdinal, row.Attempts)
		}
		alerted, roots, err := s.Alerted(ctx, "k1")
		say(alerted, roots, err)
		return answers
	}
	want := ask(stored)
	assert.Equal(t, want, ask(kept))
}
