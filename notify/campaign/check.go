package campaign

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/yamlfile"
)

// The limits of a campaign.
const (
	MaxSteps  = 50
	MaxPerDay = 24
	MaxGather = time.Hour
	MaxOffset = 366 * 24 * time.Hour
)

// What would be right, for whoever says what is wrong.
const (
	wantAfter  = `it must be a duration after the opening, as "0s", "36h" or "2d", of a year at most`
	wantBefore = `it must be a duration before the deadline, as "24h" or "2d", of a year at most`
	wantPerDay = `it must be a whole number from 0 to 24, where 0 means no cap`
	wantGather = `it must be a duration from "0s" to "1h"`
	wantQuiet  = `it must be from one time of day to another, as "19:00-08:00", or none`
	wantDays   = `it must be a list of days of the week, as [saturday, sunday], or none`
	wantZone   = `it must be an IANA name, as "America/New_York"`
)

// problem is what is wrong with a part of a campaign, and what would be right.
type problem struct {
	// part is the place in a file's words, as "steps[3].after"; empty for the
	// campaign itself.
	part string
	text string
}

type problems []problem

func (p *problems) add(part, format string, args ...any) {
	*p = append(*p, problem{part, fmt.Sprintf(format, args...)})
}

// Check says everything that is wrong with a campaign, if anything, and what
// would be right, in the words that a file uses.
func (c Campaign) Check() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, fmt.Errorf("campaign %s: %s", yamlfile.Word(c.Name), strings.TrimSpace(p.part+" "+p.text)))
	}
	return errors.Join(errs...)
}

func (c Campaign) problems() problems {
	var all problems
	if err := reauth.CheckCampaignName(c.Name); err != nil {
		all.add("", "has a name that cannot be used: %s", err)
	}
	switch n := len(c.Steps); {
	case n == 0:
		all.add("steps", "has no entry; a campaign has from 1 to %d steps, as steps: [{after: 0s}, {after: 2d}]", MaxSteps)
	case n > MaxSteps:
		all.add("steps", "has %d entries; a campaign has %d steps at most", n, MaxSteps)
	}
	keys := make(map[string]int, len(c.Steps))
	for i, s := range c.Steps {
		part := stepPart(i)
		s.addProblems(&all, part)
		if first, taken := keys[s.Key]; taken && s.Key != "" {
			all.add(part, "has the key of %s, %s; every step needs its own", stepPart(first), yamlfile.Word(s.Key))
			continue
		}
		keys[s.Key] = i
	}
	if c.PerDay < 0 || c.PerDay > MaxPerDay {
		all.add("mails_per_day", "is %d; %s", c.PerDay, wantPerDay)
	}
	if c.Gather < 0 || c.Gather > MaxGather {
		all.add("gather", "is %s; %s", yamlfile.Quote(span(c.Gather)), wantGather)
	}
	c.Hours.addProblems(&all)
	return all
}

func stepPart(i int) string { return fmt.Sprintf("steps[%d]", i) }

func (s Step) addProblems(all *problems, part string) {
	if s.Key == "" {
		all.add(part, "has no key, by which the send ledger knows it")
	}
	if s.After != 0 && s.Before != 0 {
		all.add(part, `has both "after" and "before"; a step has one of them`)
	}
	if s.After < 0 || s.After > MaxOffset {
		all.add(part+".after", "is %s; %s", yamlfile.Quote(span(s.After)), wantAfter)
	}
	if s.Before < 0 || s.Before > MaxOffset {
		all.add(part+".before", "is %s; %s", yamlfile.Quote(span(s.Before)), wantBefore)
	}
	addUnless(all, part+".to", s.Audience, Primary, Alternates, Company)
	s.Channel.addProblems(all, part+".channel")
	if s.Template != Auto {
		addUnless(all, part+".template", s.Template, First, Reminder, LastCall)
	}
	if s.Channel == Chat && (s.Audience == Primary || s.Audience == Alternates) {
		all.add(part+".channel", `is chat, where only the company's own people are; such a step needs "to: company"`)
	}
}

func (c Channel) addProblems(all *problems, part string) {
	addUnless(all, part, c, Mail, Webhook, Chat)
}

func (h Hours) addProblems(all *problems) {
	const day = 24 * 60
	if h.QuietFrom < 0 || h.QuietFrom >= day || h.QuietUntil < 0 || h.QuietUntil >= day {
		all.add("quiet_hours", "goes from minute %d to minute %d of a day, whose last one is %d; %s", h.QuietFrom, h.QuietUntil, day-1, wantQuiet)
	}
	off := map[time.Weekday]bool{}
	for _, d := range h.DaysOff {
		switch {
		case d < time.Sunday || d > time.Saturday:
			all.add("days_off", "has day %d of the week; it must be from 0, a Sunday, to 6", int(d))
			continue
		case off[d]:
			all.add("days_off", "has %s twice; once is enough", strings.ToLower(d.String()))
		}
		off[d] = true
	}
	if len(off) == 7 {
		all.add("days_off", "leaves no day on which anybody may be written to; at least one must be left")
	}
	if h.TimeZone != "" {
		if _, err := location(h.TimeZone); err != nil {
			all.add("time_zone", "is %s; %s", yamlfile.Quote(h.TimeZone), wantZone)
		}
	}
}

// addUnless says that a value is none of the words that are known here.
func addUnless[T ~string](all *problems, part string, value T, known ...T) {
	if slices.Contains(known, value) {
		return
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = string(k)
	}
	all.add(part, "is %s; %sit must be one of %s", yamlfile.Quote(string(value)), yamlfile.DidYouMean(string(value), words), strings.Join(words, ", "))
}
