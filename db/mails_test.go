package db_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const ada = "ada@example.com"

// waits opens a case "k-" of a connection whose contacts have these addresses.
// It waits for the customer, and its next notice, by mail to the primary
// contacts, is due in an hour.
func (s store) waits(t testing.TB, connectionID string, emails ...string) {
	t.Helper()
	s.connect(t, connectionID, emails...)
	caseID := "k-" + connectionID
	s.open(t, connectionID, caseID, t0)
	require.NoError(t, s.SetSession(s.ctx, caseID, db.Session{
		ID: "s", URL: "https://connect.example/s", Ordinal: 1, ExpiresAt: t0.Add(30 * day), DeadlineAt: t0.Add(30 * day),
	}))
	s.due(t, connectionID, db.Schedule{})
}

// due says what the case of a connection sends next; what is left out is as in waits.
func (s store) due(t testing.TB, connectionID string, next db.Schedule) {
	t.Helper()
	if next.At == nil {
		at := t0.Add(time.Hour)
		next.At = &at
	}
	if next.Step == "" {
		next.Step = "first"
	}
	if next.Audience == "" {
		next.Audience = "primary"
	}
	if next.Channel == "" {
		next.Channel = db.ChannelMail
	}
	require.NoError(t, s.SetSchedule(s.ctx, "k-"+connectionID, next))
}

// mail asks for a step of a connection's case to its first contact, one a day at
// most, with others along whose next notice is due within the day.
func (s store) mail(t testing.TB, connectionID, step string) db.Mail {
	t.Helper()
	return db.Mail{
		Notice: db.Notice{
			CaseID: "k-" + connectionID, Step: step, SessionOrdinal: 1, Recipient: s.recipient(t, connectionID), Channel: db.ChannelMail,
			MessageID: "<" + connectionID + "/" + step + ">",
		},
		At: t0, PerDay: 1, DayBegins: t0.Truncate(day), JoinBefore: t0.Truncate(day).Add(day),
	}
}

func (s store) permit(t testing.TB, m db.Mail) db.Permit {
	t.Helper()
	p, err := s.BeginMail(s.ctx, m)
	require.NoError(t, err)
	return p
}

// alone is a permit for a mail in which nothing goes along.
func (s store) alone(t testing.TB, m db.Mail) int64 {
	t.Helper()
	p := s.permit(t, m)
	require.True(t, p.Granted)
	require.Empty(t, p.Along)
	return p.ID
}

func along(p db.Permit) []string {
	cases := []string{}
	for _, a := range p.Along {
		cases = append(cases, a.CaseID)
	}
	return cases
}

// ledger is a case's notices, as "step state", "+" for one that goes along in
// another's mail, and the message.
func (s store) ledger(t testing.TB, connectionID string) []string {
	t.Helper()
	rows, err := s.NoticesOf(s.ctx, "k-"+connectionID)
	require.NoError(t, err)
	out := []string{}
	for _, row := range rows {
		led := ""
		if row.LeadID != 0 {
			led = " +"
		}
		out = append(out, fmt.Sprintf("%s %s%s %s", row.Step, row.State, led, row.MessageID))
	}
	return out
}

func TestMailIsPermittedOnce(t *testing.T) {
	s := newStore(t)
	s.waits(t, "c1", ada)
	m := s.mail(t, "c1", "first")
	m.PerDay = 0
	p := s.permit(t, m)
	assert.Equal(t, db.Permit{ID: p.ID, Granted: true, State: db.NoticeSending}, p)
	again := db.Permit{ID: p.ID, State: db.NoticeSending, BegunAt: t0}
	assert.Equal(t, again, s.permit(t, m), "nobody knows what became of it")

	for _, state := range []db.NoticeState{db.NoticeSent, db.NoticeRefused, db.NoticeUnknown} {
		_, err := s.raw.Exec(`UPDATE notices SET state = $1, ended_at = now()`, state)
		require.NoError(t, err)
		again.State = state
		assert.Equal(t, again, s.permit(t, m))
	}
	_, err := s.raw.Exec(`UPDATE notices SET state = 'deferred'`)
	require.NoError(t, err)
	m.At = t0.Add(time.Minute)
	assert.Equal(t, db.Permit{ID: p.ID, Granted: true, State: db.NoticeSending}, s.permit(t, m), "it was certainly not sent")
	again.State, again.BegunAt = db.NoticeSending, m.At
	assert.Equal(t, again, s.permit(t, m))
	assert.Equal(t, 1, s.count(t, "notices WHERE attempts = 2"))

	// Another step is another mail; the same one in another session is not.
	other := m
	other.SessionOrdinal, other.PerDay = 2, 0
	assert.Equal(t, again, s.permit(t, other))
	other = s.mail(t, "c1", "second")
	other.PerDay = 0
	assert.True(t, s.permit(t, other).Granted)
}

func TestMailNeedsAnOpenCaseAndAContact(t *testing.T) {
	s := newStore(t)
	s.waits(t, "c1", ada, "bob@example.com")
	s.waits(t, "c2", "cara@example.com")
	m := s.mail(t, "c1", "first")
	put := s.alone(t, m)
	require.NoError(t, s.EndNotice(s.ctx, put, db.NoticeDeferred, ""))
	s.end(t, "k-c1", reauth.OutcomeCancelled, t0)
	assert.Equal(t, db.Permit{ID: put, State: db.NoticeDeferred}, s.permit(t, m), "not even what was put off")
	assert.Equal(t, db.Permit{}, s.permit(t, s.mail(t, "c1", "second")))
	assert.Equal(t, 1, s.count(t, "notices"))

	gone := s.mail(t, "c2", "first")
	s.connect(t, "c2", "successor@example.com")
	stranger := gone
	stranger.Recipient = m.Recipient // of another connection
	unknown := s.mail(t, "c2", "first")
	unknown.CaseID = "k-c3"
	for name, m := range map[string]db.Mail{"a contact that was removed": gone, "another connection's contact": stranger, "an unknown case": unknown} {
		p, err := s.BeginMail(s.ctx, m)
		require.ErrorIs(t, err, db.ErrNotFound, name)
		assert.Equal(t, db.Permit{}, p, name)
	}
	assert.Equal(t, 1, s.count(t, "notices"))
}

func TestMailsADay(t *testing.T) {
	// What the owner of the address has had before, each over another connection.
	had := func(change func(s store, m *db.Mail), state db.NoticeState) func(t *testing.T, s store) {
		return func(t *testing.T, s store) {
			id := fmt.Sprint("had", s.count(t, "connections"))
			s.waits(t, id, "ADA@Example.com")
			m := s.mail(t, id, "first")
			m.PerDay, m.JoinBefore = 0, time.Time{}
			if change != nil {
				change(s, &m)
			}
			p := s.permit(t, m)
			require.True(t, p.Granted)
			if state != db.NoticeSending {
				require.NoError(t, s.EndNotice(s.ctx, p.ID, state, ""))
			}
		}
	}
	at := func(at time.Time) func(store, *db.Mail) { return func(_ store, m *db.Mail) { m.At = at } }
	midnight := t0.Truncate(day)
	sent := had(nil, db.NoticeSent)
	for name, test := range map[string]struct {
		before []func(t *testing.T, s store)
		perDay int
		capped bool
	}{
		"nothing":                              {perDay: 1},
		"one":                                  {before: []func(*testing.T, store){sent}, perDay: 1, capped: true},
		"one of two":                           {before: []func(*testing.T, store){sent}, perDay: 2},
		"two of two":                           {before: []func(*testing.T, store){sent, sent}, perDay: 2, capped: true},
		"as many as there are":                 {before: []func(*testing.T, store){sent, sent}},
		"one that is on its way":               {before: []func(*testing.T, store){had(nil, db.NoticeSending)}, perDay: 1, capped: true},
		"one that may have come":               {before: []func(*testing.T, store){had(nil, db.NoticeUnknown)}, perDay: 1, capped: true},
		"one that was put off":                 {before: []func(*testing.T, store){had(nil, db.NoticeDeferred)}, perDay: 1},
		"one that was refused":                 {before: []func(*testing.T, store){had(nil, db.NoticeRefused)}, perDay: 1},
		"one at the day's first moment":        {before: []func(*testing.T, store){had(at(midnight), db.NoticeSent)}, perDay: 1, capped: true},
		"one of the day before":                {before: []func(*testing.T, store){had(at(midnight.Add(-time.Second)), db.NoticeSent)}, perDay: 1},
		"one by a clock that is ahead of ours": {before: []func(*testing.T, store){had(at(t0.Add(time.Minute)), db.NoticeSent)}, perDay: 1, capped: true},
		"one about a case that has ended": {before: []func(*testing.T, store){had(nil, db.NoticeSent), func(t *testing.T, s store) {
			_, err := s.CloseCase(s.ctx, db.Closing{CaseID: "k-had1", Outcome: reauth.OutcomeExpired, At: t0})
			require.NoError(t, err)
		}}, perDay: 1},
		"a fixed note": {before: []func(*testing.T, store){func(t *testing.T, s store) {
			sent(t, s)
			// The case is open again only in the database of this test.
			_, err := s.raw.Exec(`UPDATE notices SET fixed = true`)
			require.NoError(t, err)
		}}, perDay: 1},
		"one that the backend sent": {before: []func(*testing.T, store){func(t *testing.T, s store) {
			sent(t, s)
			_, err := s.raw.Exec(`UPDATE notices SET channel = 'webhook'`)
			require.NoError(t, err)
		}}, perDay: 1},
		"one mail about two connections": {before: []func(*testing.T, store){sent, sent, func(t *testing.T, s store) {
			_, err := s.raw.Exec(`UPDATE notices SET message_id = 'one'`)
			require.NoError(t, err)
		}}, perDay: 2},
		"one to somebody else at the same connection": {before: []func(*testing.T, store){func(t *testing.T, s store) {
			list, err := s.Recipients(s.ctx, "c1")
			require.NoError(t, err)
			m := s.mail(t, "c1", "first")
			m.Recipient, m.JoinBefore = list[1].ContactID, time.Time{}
			require.True(t, s.permit(t, m).Granted)
		}}, perDay: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.waits(t, "c1", ada, "bob@example.com")
			for _, before := range test.before {
				before(t, s)
			}
			m := s.mail(t, "c1", "first")
			m.PerDay, m.JoinBefore = test.perDay, time.Time{}
			p := s.permit(t, m)
			assert.Equal(t, test.capped, p.Capped)
			assert.Equal(t, !test.capped, p.Granted)
			if test.capped {
				assert.Equal(t, db.Permit{Capped: true}, p)
				assert.Empty(t, s.ledger(t, "c1"), "the ledger has nothing of it")
			}
		})
	}
}

// What was put off yesterday and is sent today counts today.
func TestRetriedMailCountsWhenItIsSent(t *testing.T) {
	s := newStore(t)
	s.waits(t, "c1", ada)
	s.waits(t, "c2", ada)
	m := s.mail(t, "c1", "first")
	m.JoinBefore = time.Time{}
	yesterday := m
	yesterday.At, yesterday.DayBegins = t0.Add(-day), m.DayBegins.Add(-day)
	id := s.alone(t, yesterday)
	require.NoError(t, s.EndNotice(s.ctx, id, db.NoticeDeferred, ""))
	require.NoError(t, s.EndNotice(s.ctx, s.alone(t, m), db.NoticeSent, ""))
	assert.True(t, s.permit(t, s.mail(t, "c2", "first")).Capped)
}

func TestDigestTakesAlong(t *testing.T) {
	s := newStore(t)
	s.waits(t, "lead", ada)
	moment := func(at time.Time) func(string) {
		return func(id string) { s.due(t, id, db.Schedule{At: &at}) }
	}
	set := func(column, value string) func(string) {
		return func(id string) {
			_, err := s.raw.Exec(`UPDATE cases SET `+column+` = $2 WHERE connection_id = $1`, id, value)
			require.NoError(t, err)
		}
	}
	storm := func(ended bool) func(string) {
		return func(id string) {
			_, err := s.raw.Exec(`INSERT INTO storms (storm_id, provider, system, broken, connections, began_at, ends_at) VALUES ($1, 'finch', $1, 1, 1, $2, $3)`,
				id, t0, t0.Add(time.Hour))
			require.NoError(t, err)
			set("storm_id", id)(id)
			if ended {
				_, err := s.EndStorm(s.ctx, id, "it was let go", t0)
				require.NoError(t, err)
			}
		}
	}
	midnight := t0.Truncate(day).Add(day)
	tests := map[string]struct {
		change func(id string)
		goes   bool
	}{
		"due-in-an-hour":    {goes: true},
		"due-today":         {change: moment(midnight.Add(-time.Microsecond)), goes: true},
		"overdue":           {change: moment(t0.Add(-time.Hour)), goes: true},
		"due-tomorrow":      {change: moment(midnight)},
		"nothing-due":       {change: func(id string) { require.NoError(t, s.SetSchedule(s.ctx, "k-"+id, db.Schedule{})) }},
		"webhook":           {change: func(id string) { s.due(t, id, db.Schedule{Channel: db.ChannelWebhook}) }},
		"for-the-company":   {change: func(id string) { s.due(t, id, db.Schedule{Audience: "company"}) }},
		"verifying":         {change: set("phase", "verifying")},
		"blocked":           {change: set("phase", "blocked")},
		"confirming":        {change: set("phase", "confirming")},
		"held-by-a-storm":   {change: storm(false)},
		"let-go-by-a-storm": {change: storm(true)}, // it looks at its connection first, in its own turn
		"long-after-a-storm": {change: func(id string) {
			storm(true)(id)
			s.due(t, id, db.Schedule{NoticesSent: 1})
		}, goes: true},
		"closed":             {change: func(id string) { s.end(t, "k-"+id, reauth.OutcomeHealed, t0) }},
		"other-capitals":     {change: func(id string) { s.connect(t, id, "Ada@EXAMPLE.com") }, goes: true},
		"somebody-elses":     {change: func(id string) { s.connect(t, id, "bob@example.com") }},
		"also-somebody-else": {change: func(id string) { s.connect(t, id, "bob@example.com", ada) }, goes: true},
		"declined": {change: func(id string) {
			_, err := s.Decline(s.ctx, id, s.recipient(t, id))
			require.NoError(t, err)
		}},
		"sent-already": {change: func(id string) {
			m := s.mail(t, id, "first")
			m.PerDay, m.JoinBefore = 0, time.Time{}
			require.NoError(t, s.EndNotice(s.ctx, s.alone(t, m), db.NoticeRefused, ""))
		}},
		"on-its-way": {change: func(id string) {
			m := s.mail(t, id, "first")
			m.PerDay, m.JoinBefore = 0, time.Time{}
			s.alone(t, m)
		}},
		"put-off": {change: func(id string) {
			m := s.mail(t, id, "first")
			m.PerDay, m.JoinBefore, m.At = 0, time.Time{}, t0.Add(-time.Hour)
			require.NoError(t, s.EndNotice(s.ctx, s.alone(t, m), db.NoticeDeferred, ""))
		}, goes: true},
		"an-alternates": {change: func(id string) {
			_, err := s.raw.Exec(`UPDATE contacts SET role = 'alternate' WHERE connection_id = $1`, id)
			require.NoError(t, err)
		}},
	}
	want := []string{}
	for id, test := range tests {
		s.waits(t, id, ada)
		if test.change != nil {
			test.change(id)
		}
		if test.goes {
			want = append(want, "k-"+id)
		}
	}
	slices.Sort(want)
	_, err := s.raw.Exec(`DELETE FROM case_events`)
	require.NoError(t, err)
	m := s.mail(t, "lead", "first")
	m.PerDay = 0
	asked := map[string]bool{}
	m.Joins = func(audience, role string) bool {
		asked[audience+"/"+role] = true
		return audience == "primary" && role != "alternate"
	}
	p := s.permit(t, m)
	require.True(t, p.Granted)
	assert.Equal(t, want, along(p))
	assert.True(t, asked["company/"] && asked["primary/alternate"], "%v", asked)

	for _, a := range p.Along {
		rows, err := s.NoticesOf(s.ctx, a.CaseID)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		id := strings.TrimPrefix(a.CaseID, "k-")
		deadline := t0.Add(30 * day)
		assert.Equal(t, db.Along{
			NoticeID: rows[0].ID, CaseID: a.CaseID, ConnectionID: id, ContactID: rows[0].Recipient, Step: "first", SessionOrdinal: 1,
			OpenedAt: t0, DeadlineAt: &deadline, NoticesSent: a.NoticesSent, Role: "", Audience: "primary",
		}, a)
		assert.Equal(t, p.ID, rows[0].LeadID)
		assert.Equal(t, db.NoticeSending, rows[0].State)
		assert.Equal(t, "<lead/first>", rows[0].MessageID)
		assert.Equal(t, t0, rows[0].BegunAt, "also if it had begun before")
	}

	// The end of the one is the end of all.
	require.NoError(t, s.EndNotice(s.ctx, p.ID, db.NoticeSent, ""))
	assert.Equal(t, []string{"first sent <lead/first>"}, s.ledger(t, "lead"))
	for _, a := range p.Along {
		id := strings.TrimPrefix(a.CaseID, "k-")
		assert.Equal(t, []string{"first sent + <lead/first>"}, s.ledger(t, id))
		timeline, err := s.Timeline(s.ctx, a.CaseID)
		require.NoError(t, err)
		require.Len(t, timeline, 1)
		assert.Equal(t, "notice_sent", timeline[0].Kind)
		assert.Equal(t, "first to "+a.ContactID+" by mail (in one mail with another connection's)", timeline[0].Detail)
	}
	lead, err := s.Timeline(s.ctx, "k-lead")
	require.NoError(t, err)
	require.Len(t, lead, 1)
	assert.Equal(t, "first to "+m.Recipient+" by mail", lead[0].Detail)
	assert.Equal(t, len(p.Along)+1, s.count(t, "case_events"), "and nobody else's")
	assert.Equal(t, []string{"first sending <on-its-way/first>"}, s.ledger(t, "on-its-way"))

	// One mail, for the cap.
	s.waits(t, "later", ada)
	_, err = s.raw.Exec(`DELETE FROM notices WHERE lead_id IS NULL AND case_id <> 'k-lead'`)
	require.NoError(t, err)
	second := s.mail(t, "later", "first")
	second.PerDay = 2
	assert.True(t, s.permit(t, second).Granted)
}

func TestDigestHasAnEnd(t *testing.T) {
	s := newStore(t)
	for i := range 55 {
		s.waits(t, fmt.Sprintf("c%02d", i), ada)
	}
	p := s.permit(t, s.mail(t, "c00", "first"))
	assert.Len(t, p.Along, 49)
	assert.Equal(t, 50, s.count(t, "notices"))
}

// Either all rows of a digest are written, or none.
func TestDigestIsOneTransaction(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{"a", "b", "c"} {
		s.waits(t, id, ada)
	}
	_, err := s.raw.Exec(`ALTER TABLE notices ADD CONSTRAINT not_c CHECK (case_id <> 'k-c')`)
	require.NoError(t, err)
	p, err := s.BeginMail(s.ctx, s.mail(t, "a", "first"))
	require.ErrorContains(t, err, "not_c")
	assert.Equal(t, db.Permit{}, p)
	assert.Zero(t, s.count(t, "notices"))
}

// The case that goes along finds its notice standing when its own turn comes.
func TestFollowerFindsItsNotice(t *testing.T) {
	s := newStore(t)
	s.waits(t, "a", ada)
	s.waits(t, "b", ada)
	lead := s.permit(t, s.mail(t, "a", "first"))
	require.Equal(t, []string{"k-b"}, along(lead))
	own := s.mail(t, "b", "first")
	own.At = t0.Add(time.Minute)
	follows := db.Permit{ID: lead.Along[0].NoticeID, State: db.NoticeSending, Led: true, BegunAt: t0}
	assert.Equal(t, follows, s.permit(t, own))
	require.NoError(t, s.EndNotice(s.ctx, lead.ID, db.NoticeUnknown, ""))
	follows.State = db.NoticeUnknown
	assert.Equal(t, follows, s.permit(t, own))

	// To end what goes along does not end the mail for the others.
	s.waits(t, "c", "bob@example.com")
	s.waits(t, "d", "bob@example.com")
	lead = s.permit(t, s.mail(t, "c", "first"))
	require.NoError(t, s.EndNotice(s.ctx, lead.Along[0].NoticeID, db.NoticeUnknown, ""))
	assert.Equal(t, []string{"first sending <c/first>"}, s.ledger(t, "c"))
	require.NoError(t, s.EndNotice(s.ctx, lead.ID, db.NoticeSent, ""))
	assert.Equal(t, []string{"first sent <c/first>"}, s.ledger(t, "c"))
	assert.Equal(t, []string{"first unknown + <c/first>"}, s.ledger(t, "d"), "the first end stands")
}

// A digest that was put off is tried again by whichever of its cases comes first.
func TestDeferredDigest(t *testing.T) {
	begin := func(t *testing.T) (store, db.Permit) {
		s := newStore(t)
		for _, id := range []string{"a", "b", "c"} {
			s.waits(t, id, ada)
		}
		p := s.permit(t, s.mail(t, "a", "first"))
		require.Equal(t, []string{"k-b", "k-c"}, along(p))
		require.NoError(t, s.EndNotice(s.ctx, p.ID, db.NoticeDeferred, "try later"))
		for _, id := range []string{"b", "c"} {
			require.Equal(t, []string{"first deferred + <a/first>"}, s.ledger(t, id))
		}
		return s, p
	}
	t.Run("by the one that led", func(t *testing.T) {
		s, before := begin(t)
		_, err := s.Decline(s.ctx, "c", s.recipient(t, "c"))
		require.NoError(t, err)
		m := s.mail(t, "a", "first")
		m.At = t0.Add(time.Hour)
		p := s.permit(t, m)
		require.True(t, p.Granted)
		assert.Equal(t, before.ID, p.ID)
		assert.Equal(t, []string{"k-b"}, along(p), "the third does not go along any more")
		assert.Equal(t, db.Permit{ID: p.Along[0].NoticeID, State: db.NoticeSending, Led: true, BegunAt: m.At}, s.permit(t, s.mail(t, "b", "first")))
		require.NoError(t, s.EndNotice(s.ctx, p.ID, db.NoticeSent, ""))
		assert.Equal(t, []string{"first sent <a/first>"}, s.ledger(t, "a"))
		assert.Equal(t, []string{"first sent + <a/first>"}, s.ledger(t, "b"))
		assert.Equal(t, []string{"first deferred + <a/first>"}, s.ledger(t, "c"), "it was not in this mail")
		assert.Equal(t, 2, s.count(t, "notices WHERE attempts = 2"))
	})
	t.Run("by one that went along", func(t *testing.T) {
		s, before := begin(t)
		p := s.permit(t, s.mail(t, "b", "first"))
		require.True(t, p.Granted)
		assert.Equal(t, []string{"k-a", "k-c"}, along(p))
		assert.Equal(t, []string{"first sending <b/first>"}, s.ledger(t, "b"), "now it leads")
		assert.Equal(t, []string{"first sending + <b/first>"}, s.ledger(t, "a"))
		assert.Equal(t, before.ID, p.Along[0].NoticeID)
		led := s.permit(t, s.mail(t, "a", "first"))
		assert.True(t, led.Led)
		assert.False(t, led.Granted)
		require.NoError(t, s.EndNotice(s.ctx, p.ID, db.NoticeSent, ""))
		for _, id := range []string{"a", "c"} {
			assert.Equal(t, []string{"first sent + <b/first>"}, s.ledger(t, id))
		}
	})
	t.Run("by one that went along, alone", func(t *testing.T) {
		s, before := begin(t)
		m := s.mail(t, "b", "first")
		m.JoinBefore = time.Time{}
		p := s.permit(t, m)
		require.True(t, p.Granted)
		assert.Equal(t, []string{"first sending <b/first>"}, s.ledger(t, "b"), "it is a mail of its own")
		// What becomes of the other mail is not what becomes of this one.
		m = s.mail(t, "a", "first")
		m.PerDay, m.JoinBefore = 0, time.Time{}
		require.Equal(t, before.ID, s.alone(t, m))
		require.NoError(t, s.EndNotice(s.ctx, before.ID, db.NoticeRefused, ""))
		assert.Equal(t, []string{"first sending <b/first>"}, s.ledger(t, "b"))
	})
	t.Run("but not beyond the cap", func(t *testing.T) {
		s, _ := begin(t)
		s.waits(t, "d", ada)
		d := s.mail(t, "d", "second")
		d.JoinBefore = time.Time{}
		s.alone(t, d)
		assert.Equal(t, db.Permit{Capped: true}, s.permit(t, s.mail(t, "a", "first")))
		assert.Equal(t, []string{"first deferred <a/first>"}, s.ledger(t, "a"))
	})
}

// However many cases of one person ask at once, one mail goes out, and every
// other case is in it or has to wait.
func TestOneMailHoweverManyAsk(t *testing.T) {
	s := newStore(t)
	const cases = 20
	for round := range 3 {
		address := fmt.Sprintf("ada%d@example.com", round)
		mails := make([]db.Mail, cases)
		for i := range mails {
			id := fmt.Sprintf("c%d-%02d", round, i)
			s.waits(t, id, address)
			mails[i] = s.mail(t, id, "first")
			mails[i].At = t0.Add(time.Duration(i) * time.Second) // nobody's clock is the other's
			if i%4 == 3 {                                        // too late for today's mail
				tomorrow := t0.Add(day)
				s.due(t, id, db.Schedule{At: &tomorrow})
			}
		}
		var mu sync.Mutex
		permits := map[string]db.Permit{}
		together(cases, func(i int) {
			p, err := s.BeginMail(s.ctx, mails[i])
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			permits[mails[i].CaseID] = p
		})
		in := map[string]bool{}
		granted, capped := 0, 0
		for caseID, p := range permits {
			if p.Granted {
				granted++
				for _, other := range append(along(p), caseID) {
					in[other] = true
				}
			}
		}
		require.Equal(t, 1, granted)
		for caseID, p := range permits {
			switch {
			case p.Granted:
			case p.Capped:
				capped++
				assert.False(t, in[caseID], "%s is in the mail", caseID)
			default:
				assert.True(t, p.Led && in[caseID], "%s is in no mail", caseID)
			}
		}
		assert.Len(t, in, cases-capped)
		assert.NotZero(t, capped)
		assert.Equal(t, 1, s.count(t, "(SELECT DISTINCT message_id FROM notices JOIN contacts USING (contact_id) WHERE email_key = $1) m", address))
	}
}

func TestSharesContact(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "bob@example.com", ada)
	s.connect(t, "c2", "ADA@example.com")
	s.connect(t, "c3", "cara@example.com")
	shares := func(id string) bool {
		is, err := s.SharesContact(s.ctx, id)
		require.NoError(t, err)
		return is
	}
	assert.True(t, shares("c1"))
	assert.True(t, shares("c2"))
	assert.False(t, shares("c3"))
	s.connect(t, "c2", "successor@example.com")
	assert.False(t, shares("c1"), "the contact is gone")
	_, err := s.RemoveConnection(s.ctx, "c2")
	require.NoError(t, err)
	assert.False(t, shares("c2"))
}

func TestHandToBackend(t *testing.T) {
	s := newStore(t)
	s.waits(t, "c1", ada, "bob@example.com", "cara@example.com")
	s.waits(t, "c2", "dora@example.com")
	people, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	n := db.Notice{CaseID: "k-c1", Step: "first", SessionOrdinal: 1}
	event := db.OutboxEvent{ID: "evt", Type: "reauth.notice.due", Payload: json.RawMessage(`{"a": 1}`)}
	hand := func(people ...db.Recipient) int {
		contacts := []string{}
		for _, p := range people {
			contacts = append(contacts, p.ContactID)
		}
		given, _, err := s.HandToBackend(s.ctx, n, contacts, event, t0)
		require.NoError(t, err)
		return given
	}
	type row struct {
		ID           string `db:"event_id"`
		Type         string `db:"type"`
		Payload      string `db:"payload"`
		ConnectionID string `db:"connection_id"`
		CaseID       string `db:"case_id"`
		Recipients   string `db:"recipients"`
	}
	outbox := func() (rows []row) {
		require.NoError(t, s.raw.Select(&rows, `
SELECT event_id, type, payload, connection_id, case_id, array_to_string(recipients, ' ') AS recipients FROM outbox ORDER BY seq`))
		return rows
	}

	assert.Equal(t, 2, hand(people[0], people[1]))
	events := outbox()
	require.Len(t, events, 1)
	assert.True(t, strings.HasPrefix(events[0].ID, "evt_"), events[0].ID)
	assert.Equal(t, row{events[0].ID, "reauth.notice.due", `{"a": 1}`, "c1", "k-c1", people[0].ContactID + " " + people[1].ContactID}, events[0])
	rows, err := s.NoticesOf(s.ctx, "k-c1")
	require.NoError(t, err)
	require.Len(t, rows, 2)
	for i, r := range rows {
		assert.Equal(t, db.NoticeRow{
			ID: r.ID, CaseID: "k-c1", Step: "first", SessionOrdinal: 1, Recipient: people[i].ContactID, Channel: "webhook", MessageID: "evt",
			State: db.NoticeSent, Attempts: 1, BegunAt: t0, EndedAt: &t0,
		}, r)
	}

	// Again nothing happens, and whoever comes later is another event.
	assert.Zero(t, hand(people[0], people[1]))
	assert.Zero(t, hand())
	assert.Len(t, outbox(), 1)
	assert.Equal(t, 1, hand(people...))
	events = outbox()
	require.Len(t, events, 2)
	assert.NotEqual(t, events[0].ID, events[1].ID)
	assert.Equal(t, people[2].ContactID, events[1].Recipients)

	// The ledger and the outbox go together.
	n.Step = "second"
	_, _, err = s.HandToBackend(s.ctx, n, []string{people[0].ContactID, s.recipient(t, "c2")}, event, t0)
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.raw.Exec(`ALTER TABLE outbox ADD CONSTRAINT never CHECK (false) NOT VALID`)
	require.NoError(t, err)
	_, _, err = s.HandToBackend(s.ctx, n, []string{people[0].ContactID}, event, t0)
	require.ErrorContains(t, err, "never")
	assert.Equal(t, 3, s.count(t, "notices"))
	_, err = s.raw.Exec(`ALTER TABLE outbox DROP CONSTRAINT never`)
	require.NoError(t, err)

	s.end(t, "k-c1", reauth.OutcomeHealed, t0)
	assert.Zero(t, hand(people[0]), "the case has ended")
	assert.Len(t, outbox(), 2)
	n.CaseID = "k-c3"
	_, _, err = s.HandToBackend(s.ctx, n, nil, event, t0)
	require.ErrorIs(t, err, db.ErrNotFound)
}
