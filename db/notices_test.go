package db_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func notice(caseID, step, recipient string) db.Notice {
	return db.Notice{CaseID: caseID, Step: step, SessionOrdinal: 1, Recipient: recipient, Channel: db.ChannelMail, MessageID: "<" + step + "@reauth>"}
}

func TestNoticeIsPermittedOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com", "bob@example.com")
	s.open(t, "c1", "k1", t0)
	list, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	anna, bob := list[0].ContactID, list[1].ContactID

	id, permit, state, err := s.BeginNotice(s.ctx, notice("k1", "first", anna))
	require.NoError(t, err)
	assert.True(t, permit)
	assert.Equal(t, db.NoticeSending, state)

	// Nobody knows what became of it: it is not sent again.
	again, permit, state, err := s.BeginNotice(s.ctx, notice("k1", "first", anna))
	require.NoError(t, err)
	assert.False(t, permit)
	assert.Equal(t, db.NoticeSending, state)
	assert.Equal(t, id, again)

	// Everything else is a notice of its own.
	other := notice("k1", "first", anna)
	other.SessionOrdinal = 2
	for _, n := range []db.Notice{notice("k1", "first", bob), notice("k1", "second", anna), other, notice("k1", "first", db.RecipientOperator)} {
		_, permit, _, err := s.BeginNotice(s.ctx, n)
		require.NoError(t, err)
		assert.True(t, permit)
	}
	assert.Equal(t, 5, s.count(t, "notices"))
}

func TestNoticeEnds(t *testing.T) {
	for _, state := range []db.NoticeState{db.NoticeSent, db.NoticeDeferred, db.NoticeRefused, db.NoticeUnknown} {
		t.Run(string(state), func(t *testing.T) {
			s := newStore(t)
			s.SetNow(func() time.Time { return t0.Add(time.Hour) })
			s.connect(t, "c1", "anna@example.com")
			s.open(t, "c1", "k1", t0)
			n := notice("k1", "first", s.recipient(t, "c1"))
			id, _, _, err := s.BeginNotice(s.ctx, n)
			require.NoError(t, err)
			require.NoError(t, s.EndNotice(s.ctx, id, state, "550 <anna@example.com> said so"))

			rows, err := s.NoticesOf(s.ctx, "k1")
			require.NoError(t, err)
			end := t0.Add(time.Hour)
			assert.Equal(t, []db.NoticeRow{{
				ID: id, CaseID: "k1", Step: "first", SessionOrdinal: 1, Recipient: n.Recipient, Channel: "mail", MessageID: "<first@reauth>",
				State: state, Detail: "550 <[address]> said so", Attempts: 1, BegunAt: end, EndedAt: &end,
			}}, rows)
			timeline, err := s.Timeline(s.ctx, "k1")
			require.NoError(t, err)
			assert.Equal(t, db.Event{CaseID: "k1", ConnectionID: "c1", Kind: "notice_" + string(state),
				Detail: "first to " + n.Recipient + " by mail: 550 <[address]> said so", At: end}, timeline[1])

			// The first end stands.
			require.NoError(t, s.EndNotice(s.ctx, id, db.NoticeSent, "late"))
			rows, err = s.NoticesOf(s.ctx, "k1")
			require.NoError(t, err)
			assert.Equal(t, state, rows[0].State)
			assert.Equal(t, 2, s.count(t, "case_events"))

			// Only what was definitely not taken is tried again.
			same, permit, after, err := s.BeginNotice(s.ctx, n)
			require.NoError(t, err)
			assert.Equal(t, id, same)
			assert.Equal(t, state == db.NoticeDeferred, permit)
			if permit {
				assert.Equal(t, db.NoticeSending, after)
				_, permit, _, err = s.BeginNotice(s.ctx, n)
				require.NoError(t, err)
				assert.False(t, permit, "once")
				require.NoError(t, s.EndNotice(s.ctx, id, db.NoticeSent, ""))
				rows, err = s.NoticesOf(s.ctx, "k1")
				require.NoError(t, err)
				assert.Equal(t, db.NoticeSent, rows[0].State)
				assert.Equal(t, 2, rows[0].Attempts)
			} else {
				assert.Equal(t, state, after)
			}
		})
	}
}

func TestNoticeNeedsAnOpenCase(t *testing.T) {
	for _, outcome := range append(reauth.Outcomes(), "") {
		t.Run("case "+string(outcome), func(t *testing.T) {
			s := newStore(t)
			s.connect(t, "c1", "anna@example.com")
			s.open(t, "c1", "k1", t0)
			anna := s.recipient(t, "c1")
			deferred := notice("k1", "deferred", anna)
			id, _, _, err := s.BeginNotice(s.ctx, deferred)
			require.NoError(t, err)
			require.NoError(t, s.EndNotice(s.ctx, id, db.NoticeDeferred, ""))
			if outcome != "" {
				s.end(t, "k1", outcome, t0)
			}
			permit := func(n db.Notice) bool {
				id, permit, state, err := s.BeginNotice(s.ctx, n)
				require.NoError(t, err)
				if !permit && n.Step != "deferred" {
					require.Zero(t, id)
					require.Empty(t, state)
				}
				return permit
			}
			open, restored := outcome == "", outcome.Restored()
			assert.Equal(t, open, permit(notice("k1", "new", anna)))
			assert.Equal(t, open, permit(deferred))
			assert.Equal(t, open, permit(notice("k1", "new", db.RecipientOperator)))

			fixed := notice("k1", "fixed", anna)
			fixed.Fixed = true
			assert.Equal(t, restored, permit(fixed))
			operator := notice("k1", "operator", db.RecipientOperator)
			operator.Operator = true
			assert.True(t, permit(operator), "the operator may be told at any time")

			disguised := notice("k1", "disguised", anna)
			disguised.Operator = true
			_, ok, _, err := s.BeginNotice(s.ctx, disguised)
			require.EqualError(t, err, "begin a notice: only the operator may be told of a closed case")
			assert.False(t, ok)
		})
	}
}

func TestFixedNoteIsSentOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	s.end(t, "k1", reauth.OutcomeRecovered, t0)
	fixed := notice("k1", "fixed", s.recipient(t, "c1"))
	fixed.Fixed = true
	id, permit, _, err := s.BeginNotice(s.ctx, fixed)
	require.NoError(t, err)
	require.True(t, permit)
	other := fixed
	other.Step, other.SessionOrdinal = "fixed again", 2
	same, permit, state, err := s.BeginNotice(s.ctx, other)
	require.NoError(t, err)
	assert.False(t, permit, "whatever its step is called")
	assert.Equal(t, id, same)
	assert.Equal(t, db.NoticeSending, state)
}

func TestNoticeRefuses(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.connect(t, "c2", "bob@example.com")
	s.open(t, "c1", "k1", t0)
	anna, bob := s.recipient(t, "c1"), s.recipient(t, "c2")
	for name, test := range map[string]struct {
		notice db.Notice
		text   string
	}{
		"an unknown case":               {notice("k2", "first", anna), "not found"},
		"another connection's contact":  {notice("k1", "first", bob), "not found (notices_contact_id_connection_id_fkey)"},
		"nobody":                        {notice("k1", "first", "nobody"), "not found"},
		"an address":                    {notice("k1", "first", "anna@example.com"), "not found"},
		"no step":                       {notice("k1", "", anna), "notices_step_set"},
		"a channel that does not exist": {db.Notice{CaseID: "k1", Step: "first", Recipient: anna, Channel: "smoke"}, "notices_channel_known"},
	} {
		_, permit, _, err := s.BeginNotice(s.ctx, test.notice)
		require.ErrorContains(t, err, test.text, name)
		assert.False(t, permit, name)
	}
	assert.Zero(t, s.count(t, "notices"))

	require.ErrorIs(t, s.EndNotice(s.ctx, 12345, db.NoticeSent, ""), db.ErrNotFound)
	for _, state := range []db.NoticeState{"", db.NoticeSending, "odd"} {
		require.EqualError(t, s.EndNotice(s.ctx, 1, state, ""), "end a notice: the state must be sent, deferred, refused, unknown or shadow")
	}
}

func TestNoticeAtOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	n := notice("k1", "first", s.recipient(t, "c1"))
	for range 3 {
		var permits, id atomic.Int64
		together(30, func(int) {
			i, permit, _, err := s.BeginNotice(s.ctx, n)
			assert.NoError(t, err)
			id.Store(i)
			if permit {
				permits.Add(1)
			}
		})
		assert.Equal(t, int64(1), permits.Load())
		require.NoError(t, s.EndNotice(s.ctx, id.Load(), db.NoticeDeferred, ""))
	}
}

// No permission is given after CloseCase has returned, and each that was given
// before is in the ledger.
func TestPermitAgainstClose(t *testing.T) {
	s := newStore(t)
	for round := range 15 {
		connectionID, caseID := fmt.Sprint("c", round), fmt.Sprint("k", round)
		s.connect(t, connectionID, "anna@example.com")
		s.open(t, connectionID, caseID, t0)
		anna := s.recipient(t, connectionID)
		var closed atomic.Bool
		var permits atomic.Int64
		together(12, func(i int) {
			if i == 0 {
				time.Sleep(time.Duration(round) * time.Millisecond)
				first, err := s.CloseCase(s.ctx, db.Closing{CaseID: caseID, Outcome: reauth.OutcomeHealed, At: t0})
				assert.NoError(t, err)
				assert.True(t, first)
				closed.Store(true)
				return
			}
			for j := range 6 {
				before := closed.Load()
				_, permit, _, err := s.BeginNotice(s.ctx, notice(caseID, fmt.Sprint(i, "/", j), anna))
				assert.NoError(t, err)
				if permit {
					permits.Add(1)
					assert.False(t, before, "it was closed before it was asked")
				}
			}
		})
		assert.Equal(t, int(permits.Load()), s.count(t, "notices WHERE case_id = $1", caseID))
		_, permit, _, err := s.BeginNotice(s.ctx, notice(caseID, "after", anna))
		require.NoError(t, err)
		assert.False(t, permit)
	}
}

// A permission that is on its way when the case closes makes the closing wait.
func TestCloseWaitsForAPermission(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.open(t, "c1", "k1", t0)
	n := notice("k1", "first", s.recipient(t, "c1"))
	waiting := func(calls int) func() bool {
		return func() bool {
			return s.count(t, "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()") >= calls
		}
	}

	// The same notice, not committed, holds BeginNotice up in the middle.
	tx, err := s.raw.BeginTxx(s.ctx, nil)
	require.NoError(t, err)
	_, err = tx.Exec(`
INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, state, begun_at)
VALUES ('k1', 'c1', $1, $2, $3, 'mail', 'sending', now())`, n.Step, n.SessionOrdinal, n.Recipient)
	require.NoError(t, err)
	began, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(began)
		_, permit, _, err := s.BeginNotice(s.ctx, n)
		assert.NoError(t, err)
		assert.True(t, permit)
	}()
	require.Eventually(t, waiting(1), time.Minute, time.Millisecond)
	go func() {
		defer close(closed)
		_, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k1", Outcome: reauth.OutcomeHealed, At: t0})
		assert.NoError(t, err)
	}()
	require.Eventually(t, func() bool {
		select {
		case <-closed:
			return true
		default:
			return waiting(2)()
		}
	}, time.Minute, time.Millisecond)
	select {
	case <-closed:
		t.Error("the case was closed, and the notice permitted afterwards")
	default:
	}
	// What a permission writes asks for locks on rows that the closing holds.
	_, err = tx.Exec(`INSERT INTO case_events (case_id, connection_id, kind, at) VALUES ('k1', 'c1', 'x', now())`)
	require.NoError(t, err, "no deadlock")
	require.NoError(t, tx.Rollback())
	<-began
	<-closed
}

func TestAlerted(t *testing.T) {
	s := newStore(t)
	emails := []string{"sent@example.com", "unknown@example.com", "refused@example.com", "deferred@example.com", "sending@example.com", "fixed@example.com"}
	s.connect(t, "c1", emails...)
	s.open(t, "c1", "k1", t0)
	list, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	send := func(step, recipient string, state db.NoticeState, fixed bool) {
		n := notice("k1", step, recipient)
		n.Fixed = fixed
		n.MessageID = "<" + step + "/" + string(state) + ">"
		id, permit, _, err := s.BeginNotice(s.ctx, n)
		require.NoError(t, err)
		require.True(t, permit)
		if state != db.NoticeSending {
			require.NoError(t, s.EndNotice(s.ctx, id, state, ""))
		}
	}
	send("first", list[1].ContactID, db.NoticeUnknown, false)
	send("first", list[0].ContactID, db.NoticeRefused, false)
	send("second", list[0].ContactID, db.NoticeSent, false)
	send("third", list[0].ContactID, db.NoticeSent, false)
	send("first", list[2].ContactID, db.NoticeRefused, false)
	send("first", list[3].ContactID, db.NoticeDeferred, false)
	send("first", list[4].ContactID, db.NoticeSending, false)
	s.end(t, "k1", reauth.OutcomeHealed, t0)
	send("fixed", list[5].ContactID, db.NoticeSent, true)

	recipients, roots, err := s.Alerted(s.ctx, "k1")
	require.NoError(t, err)
	assert.Equal(t, []string{list[1].ContactID, list[0].ContactID}, recipients)
	assert.Equal(t, map[string]string{list[1].ContactID: "<first/unknown>", list[0].ContactID: "<second/sent>"}, roots)

	recipients, roots, err = s.Alerted(s.ctx, "k2")
	require.NoError(t, err)
	assert.Empty(t, recipients)
	assert.Empty(t, roots)
}
