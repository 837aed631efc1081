package campaign_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/campaign"
)

// utc reads "2026-03-06 12:00" or "2026-03-06 12:00:30".
func utc(t *testing.T, text string) time.Time {
	t.Helper()
	if len(text) == len("2006-01-02 15:04") {
		text += ":00"
	}
	at, err := time.Parse(time.DateTime, text)
	require.NoError(t, err)
	return at
}

func clock(hour, minute int) int { return hour*60 + minute }

// office is what Default keeps.
func office() campaign.Hours {
	return campaign.Hours{QuietFrom: clock(19, 0), QuietUntil: clock(8, 0), DaysOff: []time.Weekday{time.Saturday, time.Sunday}}
}

func quiet(from, until int, off ...time.Weekday) campaign.Hours {
	return campaign.Hours{QuietFrom: from, QuietUntil: until, DaysOff: off}
}

func TestNext(t *testing.T) {
	for name, tc := range map[string]struct {
		hours    campaign.Hours
		zone     string
		at, want string // in UTC; want is empty where it is at itself
	}{
		"within the hours":                    {office(), "America/New_York", "2026-03-04 15:00:12", ""},
		"the first second of the hours":       {office(), "America/New_York", "2026-03-04 13:00", ""},
		"the last second of the hours":        {office(), "America/New_York", "2026-03-04 23:59:59", ""},
		"the first second after the hours":    {office(), "America/New_York", "2026-03-05 00:00", "2026-03-05 13:00"},
		"half a minute before the hours":      {office(), "America/New_York", "2026-03-04 12:59:30", "2026-03-04 13:00"},
		"past midnight in the quiet hours":    {office(), "America/New_York", "2026-03-04 07:30", "2026-03-04 13:00"},
		"a Friday evening":                    {office(), "America/New_York", "2026-02-28 00:00", "2026-03-02 13:00"},
		"the last second of a Friday":         {office(), "America/New_York", "2026-02-27 23:59:59", ""},
		"a Sunday night":                      {office(), "America/New_York", "2026-03-02 04:59", "2026-03-02 13:00"},
		"a weekend in which summer begins":    {office(), "America/New_York", "2026-03-07 00:00", "2026-03-09 12:00"},
		"a weekend in which summer ends":      {office(), "America/New_York", "2026-10-30 23:00", "2026-11-02 13:00"},
		"Friday and Saturday off, Thursday":   {quiet(clock(19, 0), clock(8, 0), time.Friday, time.Saturday), "Asia/Riyadh", "2026-03-05 17:00", "2026-03-08 05:00"},
		"Friday and Saturday off, Sunday":     {quiet(clock(19, 0), clock(8, 0), time.Friday, time.Saturday), "Asia/Riyadh", "2026-03-08 06:00", ""},
		"every day but Wednesday off":         {quiet(clock(19, 0), clock(8, 0), 0, 1, 2, 4, 5, 6), "UTC", "2026-03-04 19:00", "2026-03-11 08:00"},
		"quiet at noon":                       {quiet(clock(12, 0), clock(14, 0)), "UTC", "2026-03-04 12:00", "2026-03-04 14:00"},
		"quiet at noon, before it":            {quiet(clock(12, 0), clock(14, 0)), "UTC", "2026-03-04 11:59:59", ""},
		"quiet at noon, a day off":            {quiet(clock(12, 0), clock(14, 0), time.Saturday, time.Sunday), "UTC", "2026-03-07 12:30", "2026-03-09 00:00"},
		"quiet until midnight":                {quiet(clock(19, 0), 0), "UTC", "2026-03-04 19:00", "2026-03-05 00:00"},
		"quiet until midnight, before it":     {quiet(clock(19, 0), 0), "UTC", "2026-03-04 18:00", ""},
		"quiet from midnight":                 {quiet(0, clock(8, 0)), "UTC", "2026-03-04 00:00", "2026-03-04 08:00"},
		"quiet but for a minute":              {quiet(clock(12, 1), clock(12, 0)), "UTC", "2026-03-04 12:01", "2026-03-05 12:00"},
		"no quiet hours and no days off":      {campaign.Hours{}, "UTC", "2026-03-07 03:00", ""},
		"days off alone":                      {quiet(0, 0, time.Saturday, time.Sunday), "Asia/Tokyo", "2026-03-06 15:00", "2026-03-08 15:00"},
		"no minute at all":                    {quiet(0, 0, 0, 1, 2, 3, 4, 5, 6), "UTC", "2026-03-06 15:00:01", ""},
		"the same moment in Kiritimati, +14":  {office(), "Pacific/Kiritimati", "2026-11-20 12:00", "2026-11-22 18:00"},
		"the same moment in Niue, -11":        {office(), "Pacific/Niue", "2026-11-20 12:00", "2026-11-20 19:00"},
		"half an hour, Kolkata":               {office(), "Asia/Kolkata", "2026-11-20 02:29", "2026-11-20 02:30"},
		"three quarters, Kathmandu":           {office(), "Asia/Kathmandu", "2026-11-20 02:14", "2026-11-20 02:15"},
		"three quarters in summer, Chatham":   {office(), "Pacific/Chatham", "2026-11-20 06:00", "2026-11-22 18:15"},
		"Apia skips a Friday, to a weekend":   {office(), "Pacific/Apia", "2011-12-30 05:00", "2012-01-01 18:00"},
		"Apia skips a Friday that was off":    {quiet(clock(19, 0), clock(8, 0), time.Friday, time.Saturday), "Pacific/Apia", "2011-12-30 05:00", "2011-12-31 18:00"},
		"Apia skips the only day of the week": {quiet(0, 0, 0, 1, 2, 3, 4, 6), "Pacific/Apia", "2011-12-29 12:00", "2012-01-05 10:00"},

		// New York, 8 March 2026: 02:00 becomes 03:00, at 07:00 in UTC.
		"quiet until an hour that is skipped":             {quiet(clock(22, 0), clock(2, 30)), "America/New_York", "2026-03-08 04:00", "2026-03-08 07:00"},
		"quiet until an hour that is skipped, later":      {quiet(clock(22, 0), clock(2, 30)), "America/New_York", "2026-03-08 06:59:59", "2026-03-08 07:00"},
		"quiet until an hour that is skipped, a fraction": {quiet(clock(22, 0), clock(2, 30)), "America/New_York", "2026-03-08 06:59:59.25", "2026-03-08 07:00"},
		"the day after it":                                {quiet(clock(22, 0), clock(2, 30)), "America/New_York", "2026-03-09 04:00", "2026-03-09 06:30"},
		"the only hours of the week are skipped":          {quiet(clock(3, 0), clock(2, 0), 1, 2, 3, 4, 5, 6), "America/New_York", "2026-03-07 12:00", "2026-03-15 06:00"},
		// Lord Howe, 4 October 2026: 02:00 becomes 02:30, at 15:30 in UTC.
		"half an hour is skipped": {quiet(clock(22, 0), clock(2, 15)), "Australia/Lord_Howe", "2026-10-03 13:00", "2026-10-03 15:30"},
		// Beirut, 29 March 2026: 00:00 becomes 01:00.
		"a day that begins at one o'clock": {quiet(0, 0, time.Saturday), "Asia/Beirut", "2026-03-28 10:00", "2026-03-28 22:00"},
		// New York, 1 November 2026: 02:00 becomes 01:00, at 06:00 in UTC.
		"quiet until an hour that comes twice":     {quiet(clock(22, 0), clock(1, 30)), "America/New_York", "2026-11-01 04:10", "2026-11-01 05:30"},
		"between the two, in the first hour":       {quiet(clock(22, 0), clock(1, 30)), "America/New_York", "2026-11-01 05:45", ""},
		"between the two, in the second hour":      {quiet(clock(22, 0), clock(1, 30)), "America/New_York", "2026-11-01 06:10", "2026-11-01 06:30"},
		"quiet from an hour that comes twice":      {quiet(clock(1, 30), clock(8, 0)), "America/New_York", "2026-11-01 05:40", "2026-11-01 06:00"},
		"quiet until eight when the clock goes on": {office(), "Europe/Berlin", "2026-03-30 01:00", "2026-03-30 06:00"},
		// Where the zone's rules are extrapolated, Go gives a wrong end of the zone on such a day.
		"the last day of a leap year": {quiet(clock(19, 0), clock(8, 0)), "America/New_York", "2040-12-31 02:00", "2040-12-31 13:00"},
		// Santiago, 4 April 2026: 24:00 becomes 23:00, at 03:00 in UTC.
		"a day off with 25 hours": {quiet(0, 0, time.Saturday), "America/Santiago", "2026-04-05 03:30", "2026-04-05 04:00"},
	} {
		t.Run(name, func(t *testing.T) {
			at := utc(t, tc.at)
			if tc.want == "" {
				assert.Equal(t, at, tc.hours.Next(at, tc.zone), "unchanged")
				return
			}
			got := tc.hours.Next(at, tc.zone)
			assert.Equal(t, utc(t, tc.want), got)
			assert.Equal(t, got, tc.hours.Next(got, tc.zone), "and there it stays")
		})
	}
}

func TestLocation(t *testing.T) {
	for name, tc := range map[string]struct{ own, campaign, want string }{
		"one's own":              {"Asia/Tokyo", "America/New_York", "Asia/Tokyo"},
		"none known":             {"", "America/New_York", "America/New_York"},
		"no such zone":           {"Mars/Phobos", "America/New_York", "America/New_York"},
		"the machine's":          {"Local", "America/New_York", "America/New_York"},
		"a path":                 {"../../etc/passwd", "America/New_York", "America/New_York"},
		"none at all":            {"", "", "UTC"},
		"both are wrong":         {"Mars/Phobos", "Local", "UTC"},
		"UTC, though others not": {"UTC", "America/New_York", "UTC"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tc.want, campaign.Hours{TimeZone: tc.campaign}.Location(tc.own).String())
		})
	}
	at := utc(t, "2026-03-04 12:30") // 07:30 in New York
	h := office()
	h.TimeZone = "America/New_York"
	assert.Equal(t, utc(t, "2026-03-04 13:00"), h.Next(at, "nonsense"))
	assert.Equal(t, at, h.Next(at, "Europe/London"))
}

func TestDayOf(t *testing.T) {
	for name, tc := range map[string]struct{ zone, at, begins, ends string }{
		"a plain day":                    {"America/New_York", "2026-03-04 15:00", "2026-03-04 05:00", "2026-03-05 05:00"},
		"its first moment":               {"America/New_York", "2026-03-04 05:00", "2026-03-04 05:00", "2026-03-05 05:00"},
		"its last second":                {"America/New_York", "2026-03-05 04:59:59", "2026-03-04 05:00", "2026-03-05 05:00"},
		"the day summer begins":          {"America/New_York", "2026-03-08 15:00", "2026-03-08 05:00", "2026-03-09 04:00"},
		"the day summer ends":            {"America/New_York", "2026-11-01 15:00", "2026-11-01 04:00", "2026-11-02 05:00"},
		"the last day of a month":        {"Asia/Kathmandu", "2026-12-31 12:00", "2026-12-30 18:15", "2026-12-31 18:15"},
		"east of the date line":          {"Pacific/Niue", "2026-11-20 12:00", "2026-11-20 11:00", "2026-11-21 11:00"},
		"west of it, the same moment":    {"Pacific/Kiritimati", "2026-11-20 12:00", "2026-11-20 10:00", "2026-11-21 10:00"},
		"the last day of a leap year":    {"America/New_York", "2040-12-31 12:00", "2040-12-31 05:00", "2041-01-01 05:00"},
		"a day without a midnight":       {"Asia/Beirut", "2026-03-29 12:00", "2026-03-28 22:00", "2026-03-29 21:00"},
		"the day before it":              {"Asia/Beirut", "2026-03-28 21:59", "2026-03-27 22:00", "2026-03-28 22:00"},
		"a day with two midnights":       {"America/Havana", "2026-11-01 12:00", "2026-11-01 04:00", "2026-11-02 05:00"},
		"the hour before midnight twice": {"America/Santiago", "2026-04-05 03:30", "2026-04-04 03:00", "2026-04-05 04:00"},
		"the day before a skipped one":   {"Pacific/Apia", "2011-12-29 12:00", "2011-12-29 10:00", "2011-12-30 10:00"},
		"the day after a skipped one":    {"Pacific/Apia", "2011-12-30 10:00", "2011-12-30 10:00", "2011-12-31 10:00"},
		// St. John's, until 2011: at 00:01 the clocks went back to 23:01 of the day before.
		"back across midnight, before it":     {"America/St_Johns", "2010-11-07 02:29", "2010-11-06 02:30", "2010-11-07 02:30"},
		"back across midnight, the minute":    {"America/St_Johns", "2010-11-07 02:30", "2010-11-07 02:30", "2010-11-08 03:30"},
		"back across midnight, the hour more": {"America/St_Johns", "2010-11-07 03:00", "2010-11-07 02:30", "2010-11-08 03:30"},
	} {
		t.Run(name, func(t *testing.T) {
			begins, ends := campaign.Hours{}.DayOf(utc(t, tc.at), tc.zone)
			assert.Equal(t, utc(t, tc.begins), begins)
			assert.Equal(t, utc(t, tc.ends), ends)
		})
	}
	begins, _ := campaign.Hours{TimeZone: "Asia/Tokyo"}.DayOf(utc(t, "2026-03-04 16:00"), "")
	assert.Equal(t, utc(t, "2026-03-04 15:00"), begins, "of whom no zone is known")
}

func TestWhen(t *testing.T) {
	for name, tc := range map[string]struct {
		anytime             bool
		now, deadline, want string // in New York the hours are from 13:00 to 00:00 UTC
	}{
		"they may be written to":                  {now: "2026-03-04 15:00", deadline: "2026-03-20 12:00", want: "2026-03-04 15:00"},
		"at night":                                {now: "2026-03-04 05:00", deadline: "2026-03-20 12:00", want: "2026-03-04 13:00"},
		"at night, whatever the hour":             {anytime: true, now: "2026-03-04 05:00", deadline: "2026-03-20 12:00", want: "2026-03-04 05:00"},
		"on a weekend":                            {now: "2026-02-28 15:00", deadline: "2026-03-20 12:00", want: "2026-03-02 13:00"},
		"the deadline is before the next minute":  {now: "2026-02-28 15:00", deadline: "2026-03-02 12:00", want: "2026-02-28 15:00"},
		"the deadline is at the next minute":      {now: "2026-02-28 15:00", deadline: "2026-03-02 13:00", want: "2026-02-28 15:00"},
		"the deadline is just after it":           {now: "2026-02-28 15:00", deadline: "2026-03-02 13:00:01", want: "2026-03-02 13:00"},
		"the deadline is over, at a good hour":    {now: "2026-03-04 15:00", deadline: "2026-03-04 14:00", want: "2026-03-04 15:00"},
		"the deadline is over, in the quiet hour": {now: "2026-03-04 05:00", deadline: "2026-03-04 04:00", want: "2026-03-04 05:00"},
	} {
		t.Run(name, func(t *testing.T) {
			c := campaign.Default()
			got := c.When(campaign.Step{Anytime: tc.anytime}, utc(t, tc.now), utc(t, tc.deadline), "America/New_York")
			assert.Equal(t, utc(t, tc.want), got)
		})
	}
}

func TestAfterCap(t *testing.T) {
	for name, tc := range map[string]struct {
		hours         campaign.Hours
		zone          string
		now, deadline string
		want          string // empty: never
	}{
		"the next morning":                     {office(), "America/New_York", "2026-03-04 15:00", "2026-03-20 12:00", "2026-03-05 13:00"},
		"on a Friday":                          {office(), "America/New_York", "2026-02-27 15:00", "2026-03-20 12:00", "2026-03-02 13:00"},
		"after a weekend in which summer came": {office(), "America/New_York", "2026-03-06 15:00", "2026-03-20 12:00", "2026-03-09 12:00"},
		"before the day's hours":               {office(), "America/New_York", "2026-03-04 06:00", "2026-03-20 12:00", "2026-03-05 13:00"},
		"late in the evening":                  {office(), "America/New_York", "2026-03-05 04:59", "2026-03-20 12:00", "2026-03-05 13:00"},
		"no quiet hours: at midnight":          {campaign.Hours{}, "Asia/Kathmandu", "2026-03-04 15:00", "2026-03-20 12:00", "2026-03-04 18:15"},
		"their day, not ours":                  {campaign.Hours{}, "Pacific/Kiritimati", "2026-03-04 09:59", "2026-03-20 12:00", "2026-03-04 10:00"},
		"their day, on the other side":         {campaign.Hours{}, "Pacific/Niue", "2026-03-04 12:00", "2026-03-20 12:00", "2026-03-05 11:00"},
		"the deadline comes first":             {office(), "America/New_York", "2026-03-04 15:00", "2026-03-05 12:59", ""},
		"the deadline comes with it":           {office(), "America/New_York", "2026-03-04 15:00", "2026-03-05 13:00", ""},
		"the deadline is just after it":        {office(), "America/New_York", "2026-03-04 15:00", "2026-03-05 13:00:01", "2026-03-05 13:00"},
	} {
		t.Run(name, func(t *testing.T) {
			c := campaign.Campaign{Hours: tc.hours}
			got := c.AfterCap(utc(t, tc.now), utc(t, tc.deadline), tc.zone)
			if tc.want == "" {
				assert.Zero(t, got)
				return
			}
			assert.Equal(t, utc(t, tc.want), got)
		})
	}
}

// zones have every kind of offset and every way to change the clocks.
var zones = []string{
	"", "UTC", "America/New_York", "America/Los_Angeles", "Europe/London", "Europe/Dublin", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu",
	"Pacific/Chatham", "Australia/Lord_Howe", "Australia/Adelaide", "America/St_Johns", "America/Havana", "America/Santiago", "America/Asuncion",
	"America/Sao_Paulo", "America/Nuuk", "America/Scoresbysund", "Asia/Beirut", "Asia/Gaza", "Asia/Tehran", "Africa/Cairo", "Africa/Casablanca",
	"Antarctica/Troll", "Pacific/Apia", "Pacific/Kiritimati", "Pacific/Niue", "Pacific/Pago_Pago", "Pacific/Marquesas", "Atlantic/Azores",
}

// someTime is in this half century, and near a change of the clocks half the time.
func someTime(r *rand.Rand, loc *time.Location) time.Time {
	at := time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.Int64N(int64(50 * 365 * 24 * time.Hour / time.Nanosecond))))
	if _, change := at.In(loc).ZoneBounds(); r.IntN(2) == 0 && !change.IsZero() {
		at = change.Add(time.Duration(r.Int64N(int64(72*time.Hour))) - 48*time.Hour)
	}
	switch r.IntN(3) {
	case 0:
		at = at.Truncate(time.Hour)
	case 1:
		at = at.Truncate(time.Minute)
	}
	return at.UTC()
}

func someHours(r *rand.Rand) campaign.Hours {
	h := campaign.Hours{TimeZone: zones[r.IntN(len(zones))]}
	if r.IntN(4) > 0 {
		h.QuietFrom, h.QuietUntil = r.IntN(24*60), r.IntN(24*60)
	}
	if r.IntN(2) == 0 {
		h.QuietFrom, h.QuietUntil = h.QuietFrom/60*60, h.QuietUntil/30*30
	}
	for _, d := range r.Perm(7)[:r.IntN(7)] {
		h.DaysOff = append(h.DaysOff, time.Weekday(d))
	}
	return h
}

// calendar says, in other words than the package, whether somebody may be written to.
type calendar struct {
	loc   *time.Location
	off   [7]bool
	quiet [24 * 60]bool
}

func calendarOf(h campaign.Hours, zone string) *calendar {
	c := &calendar{loc: h.Location(zone)}
	for _, d := range h.DaysOff {
		c.off[d] = true
	}
	for m := h.QuietFrom; m != h.QuietUntil; m = (m + 1) % len(c.quiet) { // as a clock goes
		c.quiet[m] = true
	}
	return c
}

func (c *calendar) permits(at time.Time) bool {
	local := at.In(c.loc)
	return !c.off[local.Weekday()] && !c.quiet[local.Hour()*60+local.Minute()]
}

func TestNextIsTheFirstPermittedMinute(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 14))
	moved := 0
	for range 1500 {
		h, zone := someHours(r), zones[r.IntN(len(zones))]
		require.NoError(t, withHours(h).Check())
		permitted := calendarOf(h, zone).permits
		at := someTime(r, h.Location(zone))
		next := h.Next(at, zone)
		require.Falsef(t, next.Before(at), "%+v in %s: %s is before %s", h, zone, next, at)
		require.Truef(t, permitted(next), "%+v in %s: %s, for %s, is not permitted", h, zone, next, at)
		require.Equalf(t, next, h.Next(next, zone), "%+v in %s: it does not stay", h, zone)
		if next.Equal(at) {
			continue
		}
		moved++
		require.Equal(t, time.UTC, next.Location())
		for minute := at; minute.Before(next); minute = minute.Truncate(time.Minute).Add(time.Minute) {
			if permitted(minute) {
				require.Failf(t, "a permitted minute is left out", "%+v in %s: %s lies between %s and %s", h, zone, minute, at, next)
			}
		}
		require.Falsef(t, permitted(next.Add(-1)), "%+v in %s: %s is not where the stretch begins", h, zone, next)
	}
	assert.Greater(t, moved, 500, "or the test says little")
}

func TestDaysFollowOneAnother(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 92))
	for range 3000 {
		h, zone := campaign.Hours{}, zones[r.IntN(len(zones))]
		at := someTime(r, h.Location(zone))
		begins, ends := h.DayOf(at, zone)
		require.Falsef(t, begins.After(at), "%s in %s begins at %s", at, zone, begins)
		require.Truef(t, ends.After(at), "%s in %s ends at %s", at, zone, ends)
		again, same := h.DayOf(begins, zone)
		require.Equal(t, []time.Time{begins, ends}, []time.Time{again, same}, "%s in %s, from its beginning", at, zone)
		next, _ := h.DayOf(ends, zone)
		require.Equalf(t, ends, next, "the day after %s in %s", at, zone)
		_, before := h.DayOf(begins.Add(-1), zone)
		require.Equalf(t, begins, before, "the day before %s in %s", at, zone)
		loc := h.Location(zone)
		require.NotEqualf(t, begins.Add(-1).In(loc).Format(time.DateOnly), begins.In(loc).Format(time.DateOnly), "%s in %s", at, zone)
		length := ends.Sub(begins)
		require.Truef(t, 22*time.Hour <= length && length <= 26*time.Hour, "%s in %s has %s", at, zone, length)
	}
}

func withHours(h campaign.Hours) campaign.Campaign {
	c := campaign.Default()
	c.Hours = h
	return c
}
