package campaign

import (
	"errors"
	"slices"
	"sort"
	"time"
	_ "time/tzdata" // a container may have no zones of its own
)

// horizon is how far Next looks: further than any working day can be away, even
// where a change of the clocks swallows the only minute of a week.
const horizon = 35 * 24 * time.Hour

// Location is the time zone of a person: theirs, or else the one for people of
// whom none is known, or else UTC. A name that is no IANA name counts as none,
// and so does "Local", which would be the zone of our own machine.
func (h Hours) Location(zone string) *time.Location {
	for _, name := range []string{zone, h.TimeZone} {
		if loc, err := location(name); err == nil {
			return loc
		}
	}
	return time.UTC
}

func location(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, errors.New("not an IANA name")
	}
	return time.LoadLocation(name)
}

// Next is the first minute at or after t at which a person in a zone may be
// written to: t itself if they may be now, else the moment, in UTC, at which
// the next stretch of permitted time begins. What counts is what their clock
// shows: an hour that a change of the clocks skips is no hour, and one that
// comes twice is the same hour both times. Hours that permit no minute at all,
// which Check refuses, return t.
func (h Hours) Next(t time.Time, zone string) time.Time {
	local := t.In(h.Location(zone))
	if h.allow(local) {
		return t
	}
	for limit := t.Add(horizon); local.Before(limit); {
		local = h.nextChange(local)
		if h.allow(local) {
			return local.UTC()
		}
	}
	return t
}

// allow reports whether a person whose clock shows this may be written to.
func (h Hours) allow(local time.Time) bool {
	if slices.Contains(h.DaysOff, local.Weekday()) {
		return false
	}
	minute := local.Hour()*60 + local.Minute()
	if h.QuietFrom <= h.QuietUntil {
		return minute < h.QuietFrom || minute >= h.QuietUntil
	}
	return minute < h.QuietFrom && minute >= h.QuietUntil
}

// nextChange is the next moment at which a person who may not be written to
// perhaps may: the end of the quiet hours, a midnight, or a change of the clocks.
func (h Hours) nextChange(local time.Time) time.Time {
	hour, minute, second := local.Clock()
	sinceMidnight := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute +
		time.Duration(second)*time.Second + time.Duration(local.Nanosecond())
	wait := 24*time.Hour - sinceMidnight
	if quiet := time.Duration(h.QuietUntil)*time.Minute - sinceMidnight; quiet > 0 {
		wait = min(wait, quiet)
	}
	return untilClockChange(local, local.Add(wait))
}

// untilClockChange is the moment between two, not more than two days apart, at
// which the clocks of their zone change, or the second where they do not.
// Time.ZoneBounds does not say that on the last day of a leap year, where it
// gives an end that is over.
func untilClockChange(from, to time.Time) time.Time {
	_, before := from.Zone()
	second := from.Truncate(time.Second)
	changed := func(i int) bool {
		_, offset := second.Add(time.Duration(i) * time.Second).Zone()
		return offset != before
	}
	seconds := int(to.Sub(second) / time.Second)
	if !changed(seconds) {
		return to
	}
	return second.Add(time.Duration(sort.Search(seconds, changed)) * time.Second)
}

// DayOf is the calendar day around t of a person in a zone, from its first
// moment to the first moment of the next, in UTC. It has 24 hours except where
// the clocks change. Days follow one another without gaps: a date that a zone
// has skipped is no day, and where the clocks go back across midnight, what
// comes twice belongs to the day that has begun.
func (h Hours) DayOf(t time.Time, zone string) (begins, ends time.Time) {
	loc := h.Location(zone)
	year, month, day := t.In(loc).Date()
	begins, ends = midnight(year, month, day, loc), midnight(year, month, day+1, loc)
	for !ends.After(t) {
		day++
		begins, ends = ends, midnight(year, month, day+1, loc)
	}
	return begins, ends
}

// midnight is the first moment at which a calendar shows a date, or a later one
// where there is no such date. time.Date cannot say that: where midnight is
// skipped or comes twice, it picks a side.
func midnight(year int, month time.Month, day int, loc *time.Location) time.Time {
	wall := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	at := wall.Add(-27 * time.Hour).In(loc) // the day before, or the one before that, anywhere on earth
	for {
		_, offset := at.Zone()
		begins := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		if !begins.After(at) {
			return at.UTC() // the clocks went over it
		}
		if at = untilClockChange(at, begins); at.Equal(begins) {
			if _, same := at.Zone(); same == offset {
				return begins.UTC()
			}
		}
	}
}

// When is the moment at which a step that is due now may reach a person in a
// zone: now, if the step goes out at any time or they may be written to now,
// else the next permitted minute. It is never at or past the deadline: where
// none is left before it, the answer is now, since an odd hour is better than
// nothing at all.
func (c Campaign) When(s Step, now, deadline time.Time, zone string) time.Time {
	if s.Anytime {
		return now
	}
	if next := c.Hours.Next(now, zone); next.Before(deadline) {
		return next
	}
	return now
}

// AfterCap is the moment at which somebody in a zone who has had the day's mails
// may get the next: the first permitted minute of the next day of theirs, or of
// a later one. It is the zero time where that is not before the deadline: then
// the step is left out for this person, since the cap is a promise.
func (c Campaign) AfterCap(now, deadline time.Time, zone string) time.Time {
	_, tomorrow := c.Hours.DayOf(now, zone)
	if next := c.Hours.Next(tomorrow, zone); next.Before(deadline) {
		return next
	}
	return time.Time{}
}
