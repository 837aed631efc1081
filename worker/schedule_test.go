package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

const day = 24 * time.Hour

func contact(email, zone string) reauth.Contact {
	return reauth.Contact{Email: email, Name: "Ada", TimeZone: zone}
}

// The built-in campaign from a Monday on: at once whatever the hour, then on
// working days between 8 and 19 o'clock, where the person is.
func TestBuiltInCampaign(t *testing.T) {
	tests := map[string]struct {
		from time.Time // Monday, 2 March 2026 unless said otherwise
		zone string
		want []string
	}{
		"Berlin, opened in office hours": {
			from: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), zone: "Europe/Berlin",
			// Day 5 is a Saturday and moves to Monday; day 13 is a Sunday. The last
			// call is on the 31st, and daylight saving has begun by then.
			want: []string{"Mon 02 Mar 10:00", "Wed 04 Mar 10:00", "Mon 09 Mar 08:00", "Wed 11 Mar 10:00", "Mon 16 Mar 08:00", "Tue 31 Mar 11:00"},
		},
		"Kiritimati, a day ahead": {
			from: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), zone: "Pacific/Kiritimati", // UTC+14: Monday 23:00
			want: []string{"Mon 02 Mar 23:00", "Thu 05 Mar 08:00", "Mon 09 Mar 08:00", "Thu 12 Mar 08:00", "Mon 16 Mar 08:00", "Wed 01 Apr 08:00"},
		},
		"Niue, a day behind": {
			from: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), zone: "Pacific/Niue", // UTC-11: Sunday 22:00
			// The last call, due on Monday at 22:00, would be after the deadline on
			// Tuesday at 22:00 only if it waited longer than until the morning.
			want: []string{"Sun 01 Mar 22:00", "Wed 04 Mar 08:00", "Mon 09 Mar 08:00", "Wed 11 Mar 08:00", "Mon 16 Mar 08:00", "Tue 31 Mar 08:00"},
		},
		"New York, over the change of its clocks": {
			from: time.Date(2026, 3, 3, 14, 30, 0, 0, time.UTC), zone: "America/New_York", // Tuesday 9:30; summer time begins on 8 March
			want: []string{"Tue 03 Mar 09:30", "Thu 05 Mar 09:30", "Mon 09 Mar 08:00", "Thu 12 Mar 10:30", "Mon 16 Mar 10:30", "Wed 01 Apr 10:30"},
		},
		"Sydney, over the end of its summer": {
			from: time.Date(2026, 3, 30, 22, 0, 0, 0, time.UTC), zone: "Australia/Sydney", // Tuesday 9:00; summer time ends on 5 April
			want: []string{"Tue 31 Mar 09:00", "Thu 02 Apr 09:00", "Mon 06 Apr 08:00", "Thu 09 Apr 08:00", "Mon 13 Apr 08:00", "Wed 29 Apr 08:00"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSeason(t, test.from)
			s.connect("c1", contact("ada@acme.example", test.zone))
			s.broken(0, reauth.Input{ConnectionID: "c1"})
			s.run()
			assert.Equal(t, test.want, s.mails("ada@acme.example", test.zone))
			assert.Equal(t, reauth.OutcomeExpired, s.results["c1"].Outcome)
			assert.Equal(t, len(test.want), s.results["c1"].NoticesSent)
		})
	}
}

// Two people of one connection hear each in their own morning.
func TestEachRecipientsOwnHours(t *testing.T) {
	c := campaign.Default()
	c.Steps = []campaign.Step{{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Mail}}
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	s.book(c)
	s.connect("c1", contact("berlin@acme.example", "Europe/Berlin"), contact("tokyo@acme.example", "Asia/Tokyo"), contact("denver@acme.example", "America/Denver"))
	s.broken(0, reauth.Input{ConnectionID: "c1"})
	s.run()
	assert.Equal(t, []string{"Mon 02 Mar 10:00"}, s.mails("berlin@acme.example", "Europe/Berlin"))
	assert.Equal(t, []string{"Mon 02 Mar 18:00"}, s.mails("tokyo@acme.example", "Asia/Tokyo"))
	assert.Equal(t, []string{"Mon 02 Mar 08:00"}, s.mails("denver@acme.example", "America/Denver"))
	assert.Equal(t, 3, s.results["c1"].NoticesSent)
	assert.Contains(t, s.timeline("c1"), "notice_moved after-0s to 2026-03-02 15:00 UTC")
}

// Quiet hours may span midnight or lie within a day; a step never moves past
// the deadline.
func TestQuietHoursAndTheDeadline(t *testing.T) {
	tests := map[string]struct {
		hours   campaign.Hours
		from    time.Time
		minutes int
		want    []string
	}{
		"across midnight": {
			hours: campaign.Hours{QuietFrom: 22 * 60, QuietUntil: 6 * 60}, from: time.Date(2026, 3, 2, 23, 30, 0, 0, time.UTC),
			minutes: 1440, want: []string{"Tue 03 Mar 06:00"},
		},
		"at noon": {
			hours: campaign.Hours{QuietFrom: 12 * 60, QuietUntil: 14 * 60}, from: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC),
			minutes: 1440, want: []string{"Mon 02 Mar 14:00"},
		},
		"a weekend of Friday and Saturday": {
			hours: campaign.Hours{DaysOff: []time.Weekday{time.Friday, time.Saturday}}, from: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC),
			minutes: 5 * 1440, want: []string{"Sun 08 Mar 00:00"},
		},
		"no allowed minute is left before the deadline": {
			hours: campaign.Hours{QuietFrom: 22 * 60, QuietUntil: 6 * 60}, from: time.Date(2026, 3, 2, 23, 30, 0, 0, time.UTC),
			minutes: 300, want: []string{"Mon 02 Mar 23:30"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSeason(t, test.from)
			s.book(campaign.Campaign{Name: "default", Hours: test.hours, Steps: []campaign.Step{{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Mail}}})
			s.connect("c1", contact("ada@acme.example", "UTC"))
			s.broken(0, reauth.Input{ConnectionID: "c1", MinutesToExpire: test.minutes})
			s.run()
			assert.Equal(t, test.want, s.mails("ada@acme.example", "UTC"))
		})
	}
}

// Connections that break together are one mail; one that breaks later on the
// same day waits for the next, and from then on they go together.
func TestDigestAndCap(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	ada := contact("ada@acme.example", "Europe/London")
	s.connect("a", ada)
	s.connect("b", ada)
	s.connect("c", reauth.Contact{Email: "ADA@acme.example", TimeZone: "Europe/London"})
	s.connect("other", contact("bob@acme.example", "Europe/London"))
	s.broken(0, reauth.Input{ConnectionID: "a"})
	s.broken(10*time.Second, reauth.Input{ConnectionID: "b"})
	s.broken(3*time.Hour, reauth.Input{ConnectionID: "c"})
	s.broken(time.Minute, reauth.Input{ConnectionID: "other"})
	s.run()

	mails := append(s.sent("ada@acme.example"), s.sent("ADA@acme.example")...)
	byDay := map[string]int{}
	for _, m := range mails {
		byDay[m.at.Format("2006-01-02")]++
	}
	for d, n := range byDay {
		assert.Equal(t, 1, n, "%s has more than one mail", d)
	}
	first := s.sent("ada@acme.example")[0]
	assert.Equal(t, s.from.Add(15*time.Second), first.at, "the first waits a little for others")
	assert.Contains(t, first.text, "Customer a")
	assert.Contains(t, first.text, "Customer b")
	assert.NotContains(t, first.text, "Customer c")
	assert.Equal(t, []string{"after-0s sent", "after-2d sent", "after-5d sent", "after-9d sent", "after-13d sent", "before-1d sent"}, s.ledger("a"))
	assert.Equal(t, s.ledger("a"), s.ledger("b"), "the ledger has a row for each")
	assert.Equal(t, s.ledger("a"), s.ledger("c"))
	for _, id := range []string{"a", "b", "c"} {
		assert.Equal(t, 6, s.results[id].NoticesSent, id)
	}
	assert.Len(t, s.mails("bob@acme.example", "UTC"), 6, "somebody else's campaign is his own")
	assert.Equal(t, "Tue 03 Mar 08:00", s.mails("ADA@acme.example", "Europe/London")[0], "the third waits for the next day")
	assert.Len(t, mails, 7, "from then on three campaigns of six steps go together")
}

// A snooze holds notices, not the deadline; a renewal moves no offset.
func TestSnoozeAndRenewal(t *testing.T) {
	renewals := 1
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	s.connect("c1", contact("ada@acme.example", "UTC"))
	s.broken(0, reauth.Input{ConnectionID: "c1", MinutesToExpire: 7 * 1440, Renewals: &renewals})
	s.signal(time.Hour, "c1", reauth.SignalSnooze, reauth.Snooze{Until: time.Date(2026, 3, 6, 18, 0, 0, 0, time.UTC)})
	s.run()
	assert.Equal(t, []string{
		"Mon 02 Mar 09:00",
		"Fri 06 Mar 18:00", // day 2, held by the snooze
		"Mon 09 Mar 08:00", // day 5 is a Saturday
		"Wed 11 Mar 09:00", // day 9, in the second session
		"Mon 16 Mar 08:00", // the last call, due on a Sunday, an hour before the deadline
	}, s.mails("ada@acme.example", "UTC"))
	assert.Equal(t, reauth.OutcomeExpired, s.results["c1"].Outcome)
}

// Stopped notices leave the case open; an operator may still remind by hand, at
// any hour.
func TestStopAndRemindNow(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	s.connect("c1", contact("ada@acme.example", "UTC"))
	s.broken(0, reauth.Input{ConnectionID: "c1"})
	s.signal(day, "c1", reauth.SignalStopNotices, reauth.StopNotices{Reason: "they are on the phone with us"})
	s.signal(5*day+14*time.Hour, "c1", reauth.SignalRemindNow, nil)
	s.run()
	assert.Equal(t, []string{"Mon 02 Mar 09:00", "Sat 07 Mar 23:00"}, s.mails("ada@acme.example", "UTC"))
	assert.Equal(t, reauth.OutcomeExpired, s.results["c1"].Outcome, "the deadline stands")
}

// Whoever cannot be reached makes room for the next, at once.
func TestTheCaseIsHandedOn(t *testing.T) {
	from := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	alternate := reauth.Contact{Email: "bea@acme.example", Name: "Bea", Role: "alternate", TimeZone: "UTC"}
	t.Run("not me", func(t *testing.T) {
		s := newSeason(t, from)
		s.connect("c1", contact("ada@acme.example", "UTC"), alternate)
		s.broken(0, reauth.Input{ConnectionID: "c1"})
		s.after(3*time.Hour, func() {
			people, err := s.db.Recipients(t.Context(), "c1")
			assert.NoError(t, err)
			_, err = s.db.Decline(t.Context(), "c1", people[0].ContactID)
			assert.NoError(t, err)
			assert.NoError(t, s.env.SignalWorkflowByID(reauth.WorkflowID("c1"), reauth.SignalContactsChanged, reauth.ContactsChanged{Reason: "not me"}))
		})
		s.run()
		assert.Equal(t, []string{"Mon 02 Mar 09:00"}, s.mails("ada@acme.example", "UTC"))
		assert.Equal(t, "Mon 02 Mar 12:00", s.mails("bea@acme.example", "UTC")[0], "the next one hears at once")
		assert.Contains(t, s.sent("bea@acme.example")[0].text, "/r/")
		assert.Len(t, s.sent("bea@acme.example"), 6)
	})
	t.Run("nobody is left", func(t *testing.T) {
		s := newSeason(t, from)
		s.connect("c1", contact("ada@acme.example", "UTC"))
		s.broken(0, reauth.Input{ConnectionID: "c1"})
		s.after(3*time.Hour, func() {
			_, _, err := s.db.SetUnreachable(t.Context(), "ada@acme.example", db.UnreachableOptOut, "")
			assert.NoError(t, err)
			assert.NoError(t, s.env.SignalWorkflowByID(reauth.WorkflowID("c1"), reauth.SignalContactsChanged, reauth.ContactsChanged{Reason: "opted out"}))
		})
		s.after(4*time.Hour, func() {
			s.connect("c1", contact("ada@acme.example", "UTC"), contact("new@acme.example", "UTC"))
			assert.NoError(t, s.env.SignalWorkflowByID(reauth.WorkflowID("c1"), reauth.SignalContactsChanged, reauth.ContactsChanged{Reason: "a new contact"}))
		})
		s.run()
		assert.Len(t, s.sent("ada@acme.example"), 1)
		operator := s.sent("operator@product.example")
		assert.Equal(t, from.Add(3*time.Hour), operator[0].at, "the operator hears at once")
		assert.Contains(t, strings.Join(strings.Fields(operator[0].text), " "), "1 of its contacts want no mail")
		assert.Equal(t, from.Add(4*time.Hour), s.sent("new@acme.example")[0].at, "and so does whoever is new")
	})
}

// Who is only an alternate hears from the step on that says so.
func TestAlternatesJoinLater(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	s.connect("c1", contact("ada@acme.example", "UTC"), reauth.Contact{Email: "bea@acme.example", Role: "alternate", TimeZone: "UTC"})
	s.broken(0, reauth.Input{ConnectionID: "c1"})
	s.run()
	assert.Len(t, s.sent("ada@acme.example"), 6)
	assert.Equal(t, []string{"Mon 09 Mar 08:00", "Wed 11 Mar 09:00", "Mon 16 Mar 08:00", "Tue 31 Mar 09:00"}, s.mails("bea@acme.example", "UTC"))
}

// Reminders that a start names are these very moments.
func TestNamedRemindersKeepNoHours(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 6, 23, 0, 0, 0, time.UTC))
	s.connect("c1", contact("ada@acme.example", "UTC"))
	s.broken(0, reauth.Input{ConnectionID: "c1", Reminders: []string{"0s", "2s", "1h", "36h"}})
	s.run()
	assert.Equal(t, []string{"Fri 06 Mar 23:00", "Fri 06 Mar 23:00", "Sat 07 Mar 00:00", "Sun 08 Mar 11:00"}, s.mails("ada@acme.example", "UTC"))
}

// Where two steps meet because one or both were moved, the one that the
// campaign has last goes out, and the other is not sent after it.
func TestMovedStepsThatMeet(t *testing.T) {
	c := campaign.Default()
	c.Steps = []campaign.Step{
		{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Mail, Anytime: true},
		{Key: "after-4h", After: 4 * time.Hour, Audience: campaign.Primary, Channel: campaign.Mail},
		{Key: "after-2d", After: 2 * day, Audience: campaign.Primary, Channel: campaign.Mail},
	}
	s := newSeason(t, time.Date(2026, 3, 6, 9, 0, 0, 0, time.UTC)) // a Friday
	s.book(c)
	s.connect("c1", contact("ada@acme.example", "UTC"))
	s.broken(0, reauth.Input{ConnectionID: "c1", MinutesToExpire: 5 * 1440})
	s.run()
	assert.Equal(t, []string{"Fri 06 Mar 09:00", "Mon 09 Mar 08:00"}, s.mails("ada@acme.example", "UTC"))
	assert.Equal(t, []string{"after-0s sent", "after-2d sent"}, s.ledger("c1"))
}

// What goes along in a mail is looked at as if it had a mail of its own.
func TestADigestTellsOnlyOfWhatIsStillLost(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	for _, id := range []string{"a", "b"} {
		s.connect(id, contact("ada@acme.example", "UTC"))
		s.store(id)
		s.broken(0, reauth.Input{ConnectionID: id})
	}
	s.after(36*time.Hour, func() { s.back("b") })
	s.run()
	assert.Equal(t, reauth.OutcomeHealed, s.results["b"].Outcome)
	mails := s.sent("ada@acme.example")
	assert.Contains(t, mails[0].text, "Customer b")
	for _, m := range mails[1:] {
		if m.at.Sub(s.from) > 47*time.Hour && !strings.Contains(m.text, "is connected again") {
			assert.NotContains(t, m.text, "Customer b", "%s", m.at)
		}
	}
	assert.Len(t, mails, 7, "six of a's campaign, and the note that b works again")
}

// A snooze holds also what a change of the contacts asks for.
func TestAChangeOfContactsInASnooze(t *testing.T) {
	s := newSeason(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	s.connect("c1", contact("ada@acme.example", "UTC"))
	s.broken(0, reauth.Input{ConnectionID: "c1"})
	s.signal(time.Hour, "c1", reauth.SignalSnooze, reauth.Snooze{Until: time.Date(2026, 3, 5, 10, 0, 0, 0, time.UTC)})
	s.after(5*time.Hour, func() {
		s.connect("c1", contact("ada@acme.example", "UTC"), contact("new@acme.example", "UTC"))
		assert.NoError(t, s.env.SignalWorkflowByID(reauth.WorkflowID("c1"), reauth.SignalContactsChanged, reauth.ContactsChanged{}))
	})
	s.run()
	assert.Equal(t, "Thu 05 Mar 10:00", s.mails("new@acme.example", "UTC")[0])
	assert.Equal(t, []string{"Mon 02 Mar 09:00", "Thu 05 Mar 10:00"}, s.mails("ada@acme.example", "UTC")[:2])
}
