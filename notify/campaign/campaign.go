// Package campaign decides who is told what and when: the steps of a campaign,
// whom each is for, and at which minute it may reach a person. It decides and
// does nothing: it reads no clock and no database.
package campaign

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// Audience says whom a step is for.
type Audience string

// The audiences. Each takes the next one's people when it has nobody who can
// be reached.
const (
	// Primary: the primary contacts.
	Primary Audience = "primary"
	// Alternates: the primary contacts and the alternates.
	Alternates Audience = "alternates"
	// Company: the company's own account managers, or else its operator.
	Company Audience = "company"
)

// Channel is the way a step takes.
type Channel string

// The channels.
const (
	// Mail: we write to the people.
	Mail Channel = "mail"
	// Webhook: we write to nobody; the company's backend gets what it needs to
	// write itself, with a link for each person.
	Webhook Channel = "webhook"
	// Chat: the operators' chat. Only for the audience Company.
	Chat Channel = "chat"
)

// Template is what a step says.
type Template string

// The templates. Auto is first for the first notice that a case sends,
// last_call for a step before the deadline, and reminder for the others.
const (
	Auto     Template = ""
	First    Template = "first"
	Reminder Template = "reminder"
	LastCall Template = "last_call"
)

// Step is one date of a campaign: After the opening of a case, or Before its
// deadline. One of the two is set; both zero means at once.
type Step struct {
	// Key names the step in the send ledger: "after-2d", "before-1d". It is
	// unique within the campaign.
	Key      string        `json:"key"`
	After    time.Duration `json:"after,omitempty"`
	Before   time.Duration `json:"before,omitempty"`
	Audience Audience      `json:"audience"`
	Template Template      `json:"template,omitempty"`
	Channel  Channel       `json:"channel"`
	// Anytime lets the step go out at its own minute, whatever the hour; only
	// the cap can still move it, and a step that was moved keeps the hours.
	Anytime bool `json:"anytime,omitempty"`
}

// Campaign is a named list of steps, and the hours it keeps. A case keeps the
// campaign that it began with.
type Campaign struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`
	Hours Hours  `json:"hours"`
	// PerDay is how many mails a person may get in a day of theirs, over all
	// their connections, from steps; 0 means as many as there are.
	PerDay int `json:"per_day,omitempty"`
	// Gather is how long the first notice to somebody who has several
	// connections waits for the others, so that one mail can tell of them all.
	Gather time.Duration `json:"gather,omitempty"`
}

// Hours says when people may be written to, in their own time.
type Hours struct {
	// QuietFrom and QuietUntil are minutes after midnight; the time from the
	// one to the other is quiet, across midnight where QuietUntil is not
	// after QuietFrom. The same twice means that no hour is quiet.
	QuietFrom  int `json:"quiet_from,omitempty"`
	QuietUntil int `json:"quiet_until,omitempty"`
	// DaysOff are the days of the week on which nobody is written to.
	DaysOff []time.Weekday `json:"days_off,omitempty"`
	// TimeZone is for people of whom none is known; an IANA name, UTC if empty.
	TimeZone string `json:"time_zone,omitempty"`
}

// Date is a step of a campaign with its moment in one case.
type Date struct {
	Step Step      `json:"step"`
	At   time.Time `json:"at"`
}

// NearLastCall is how close to a last call a step would be too much.
const NearLastCall = 12 * time.Hour

// DefaultName is the campaign of a connection for which nothing else is said.
const DefaultName = "default"

// Default is the campaign of a case when nothing else is said: at once at any
// hour, then after 2, 5, 9 and 13 days and a day before the deadline, from 8 to
// 19 o'clock on working days, one mail a day at most.
func Default() Campaign {
	c := FromReminders(reauth.DefaultReminders())
	c.Name = DefaultName
	c.PerDay = 1
	c.Gather = 15 * time.Second
	c.Hours = Hours{QuietFrom: 19 * 60, QuietUntil: 8 * 60, DaysOff: []time.Weekday{time.Saturday, time.Sunday}}
	for i := range c.Steps {
		s := &c.Steps[i]
		s.Anytime = s.Before == 0 && s.After == 0
		if s.Before > 0 || s.After >= 5*24*time.Hour {
			s.Audience = Alternates
		}
	}
	return c
}

// FromReminders makes a campaign of a bare list of durations, as reauth.Input
// has it. Whoever gives such a list means these very moments: it keeps no hours
// and no cap. Malformed entries are left out; reauth.ParseReminders finds them.
// What is there twice counts once.
func FromReminders(reminders []string) Campaign {
	c := Campaign{Name: "reminders"}
	for _, text := range reminders {
		parsed, err := reauth.ParseReminders([]string{text})
		if err != nil {
			continue
		}
		step := newStep(parsed[0].After, parsed[0].Before)
		step.Anytime = true
		if !slices.ContainsFunc(c.Steps, func(s Step) bool { return s.Key == step.Key }) {
			c.Steps = append(c.Steps, step)
		}
	}
	return c
}

func newStep(after, before time.Duration) Step {
	s := Step{After: after, Before: before, Audience: Primary, Channel: Mail}
	s.Key = "after-" + span(after)
	if before > 0 {
		s.Key = "before-" + span(before)
	}
	return s
}

// Schedule works out when the steps are due in a case. Offsets count from the
// case's opening. Steps at or past the deadline are dropped, and so are steps
// within twelve hours of a last call; a deadline that near to the opening has
// no last call. Where somebody is at the page already, nothing is due at the
// opening.
func (c Campaign) Schedule(opened, deadline time.Time, personIsHere bool) []Date {
	var dates, calls []Date
	for _, s := range c.Steps {
		switch {
		case s.Before > 0:
			if at := deadline.Add(-s.Before); at.Sub(opened) > NearLastCall {
				calls = append(calls, Date{s, at})
			}
		case s.After > 0 || !personIsHere:
			dates = append(dates, Date{s, opened.Add(s.After)})
		}
	}
	dates = slices.DeleteFunc(dates, func(d Date) bool {
		return !d.At.Before(deadline) || slices.ContainsFunc(calls, func(call Date) bool {
			return d.At.Sub(call.At).Abs() < NearLastCall
		})
	})
	dates = append(dates, calls...)
	slices.SortStableFunc(dates, func(a, b Date) int { return a.At.Compare(b.At) })
	return slices.CompactFunc(dates, func(a, b Date) bool { return a.Step.Key == b.Step.Key })
}

// Words names a step for people: "at once", "after 2d", "before 1d", "after 9d
// company chat".
func (s Step) Words() string {
	key := s.Key
	if rest, ok := strings.CutPrefix(key, "after-0s"); ok {
		key = "at once" + rest
	}
	return strings.ReplaceAll(key, "-", " ")
}

// span writes a duration as an operator would: 2d, 36h, 90s.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 && d != 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
