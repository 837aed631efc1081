package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// nearLastCall is how close to the last call a step would be too much.
const nearLastCall = 12 * time.Hour

// step is one date of the campaign.
type step struct {
	key  string
	at   time.Time
	kind activities.NoticeKind // empty: first or reminder, as it comes
	// cause says more of a NoticeTryAgain: the state of the code that came to nothing.
	cause reauth.CodeState
}

// words names a step for people who read the web UI.
func (s step) words() string {
	if s.key == "after-0s" {
		return "at once"
	}
	return strings.ReplaceAll(s.key, "-", " ")
}

// schedule works out when notices are due. Offsets count from the case's
// opening. Steps at or past the deadline are dropped, and so are steps within
// twelve hours of a last call, for which the first notice of all is no
// last call's rival: a deadline that near has no last call. Where somebody is
// at the page already, nothing is due at the opening.
func schedule(reminders []string, opened, deadline time.Time, personIsHere bool) []step {
	parsed, err := reauth.ParseReminders(reminders)
	if err != nil {
		parsed, _ = reauth.ParseReminders(reauth.DefaultReminders())
	}
	var steps, calls []step
	for _, r := range parsed {
		switch {
		case r.Before > 0:
			if at := deadline.Add(-r.Before); at.Sub(opened) > nearLastCall {
				calls = append(calls, step{key: "before-" + span(r.Before), at: at, kind: activities.NoticeLastCall})
			}
		case r.After > 0 || !personIsHere:
			steps = append(steps, step{key: "after-" + span(r.After), at: opened.Add(r.After)})
		}
	}
	steps = slices.DeleteFunc(steps, func(s step) bool {
		return !s.at.Before(deadline) || slices.ContainsFunc(calls, func(call step) bool {
			return s.at.Sub(call.at).Abs() < nearLastCall
		})
	})
	steps = append(steps, calls...)
	slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
	return slices.CompactFunc(steps, func(a, b step) bool { return a.key == b.key })
}

// takeStep takes the step that is due. Of several, those that were missed
// while nobody could be written to, only the last is sent.
func (c *reauthCase) takeStep(now time.Time) step {
	due := 1
	for due < len(c.steps) && !c.steps[due].at.After(now) {
		due++
	}
	s := c.steps[due-1]
	c.steps = c.steps[due:]
	return s
}

// kindOf is what a step says: the first notice introduces itself, whenever it comes.
func (c *reauthCase) kindOf(s step) activities.NoticeKind {
	switch {
	case s.kind == activities.NoticeTryAgain:
		return s.kind
	case c.status.NoticesSent == 0:
		return activities.NoticeFirst
	case s.kind != "":
		return s.kind
	}
	return activities.NoticeReminder
}

// nextNoticeAt is when the next notice is due, or nil.
func (c *reauthCase) nextNoticeAt() *time.Time {
	if len(c.steps) == 0 || !c.open() {
		return nil
	}
	at := c.steps[0].at
	for _, hold := range []time.Time{c.snoozed, c.holdNotices} {
		if hold.After(at) {
			at = hold
		}
	}
	return &at
}

// sessionEnds is when the session is over for the story, or nil.
func (c *reauthCase) sessionEnds() *time.Time {
	if c.session == nil {
		return nil
	}
	at := c.session.ExpiresAt
	if c.holdSession.After(at) {
		at = c.holdSession
	}
	return &at
}

// ordinal counts the case's sessions; 0 before the first.
func (c *reauthCase) ordinal() int {
	if c.session == nil {
		return 0
	}
	return c.session.Ordinal
}

func (c *reauthCase) lookAtOrNil() *time.Time {
	if c.lookAt.IsZero() {
		return nil
	}
	return &c.lookAt
}

func remindKey(n int) string   { return fmt.Sprintf("remind-now-%d", n) }
func tryAgainKey(n int) string { return fmt.Sprintf("try-again-%d", n) }
func problemKey(n int) string  { return fmt.Sprintf("problem-%d", n) }

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
