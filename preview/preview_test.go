package preview

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

var update = flag.Bool("update", false, "write the table in docs/preview.md anew")

const day = 24 * time.Hour

// sample is the sample connection under the default campaign, with a case that
// opens on a Monday at nine in New York, six days before its clocks change.
func sample() Case {
	connection, people := Sample()
	return Case{
		Connection: connection, People: people, Campaign: campaign.Default(), From: time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC),
		Settings: SampleSettings(activities.Settings{}),
	}
}

func play(t *testing.T, c Case) Preview {
	t.Helper()
	p, err := Run(t.Context(), c)
	require.NoError(t, err)
	return p
}

// lines are the rows without subjects and addresses.
func lines(p Preview) []string {
	var out []string
	for _, r := range p.Rows {
		to := r.Person.Name
		if r.LeftOut {
			to += " (left out)"
		}
		out = append(out, strings.TrimRight(fmt.Sprintf("%d %s %s %s %s: %s", p.Day(r), r.When(), r.Step, r.Channel, to, r.Note), ": "))
	}
	return out
}

// docs/preview.md shows the table as the program prints it today.
func TestDocsShowTheTable(t *testing.T) {
	const file = "../docs/preview.md"
	const begin, end = "<!-- table -->\n```text\n", "```\n<!-- /table -->"
	var table strings.Builder
	require.NoError(t, play(t, sample()).WriteTable(&table))
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), begin)
	require.True(t, ok, "where the table begins")
	shown, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "where the table ends")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+table.String()+end+after), 0o644))
		return
	}
	assert.Equal(t, table.String(), shown, "go test ./preview -run Docs -update writes it anew")
}

// People on both sides of an ocean hear by their own clocks, which change in
// other weeks.
func TestTheDefaultCampaignOverAChangeOfTheClocks(t *testing.T) {
	c := sample()
	c.From = time.Date(2026, 10, 19, 13, 0, 0, 0, time.UTC)
	assert.Equal(t, []string{
		"0 Mon 19 Oct 2026 09:00 EDT (UTC-4) after-0s mail Dana Whitfield",
		"2 Wed 21 Oct 2026 09:00 EDT (UTC-4) after-2d mail Dana Whitfield",
		"7 Mon 26 Oct 2026 08:00 GMT (UTC+0) after-5d mail Priya Nair: moved from Sat 24 Oct 14:00: outside their hours",
		"7 Mon 26 Oct 2026 08:00 EDT (UTC-4) after-5d mail Dana Whitfield: moved from Sat 24 Oct 09:00: outside their hours",
		"9 Wed 28 Oct 2026 09:00 EDT (UTC-4) after-9d mail Dana Whitfield",
		"9 Wed 28 Oct 2026 13:00 GMT (UTC+0) after-9d mail Priya Nair",
		"14 Mon 02 Nov 2026 08:00 GMT (UTC+0) after-13d mail Priya Nair: moved from Sun 01 Nov 13:00: outside their hours",
		"14 Mon 02 Nov 2026 08:00 EST (UTC-5) after-13d mail Dana Whitfield: moved from Sun 01 Nov 08:00: outside their hours",
		"29 Tue 17 Nov 2026 08:00 EST (UTC-5) before-1d mail Dana Whitfield",
		"29 Tue 17 Nov 2026 13:00 GMT (UTC+0) before-1d mail Priya Nair",
		"30 Wed 18 Nov 2026 13:00 UTC expired mail the operator",
		"30 Wed 18 Nov 2026 13:00 UTC deadline",
	}, lines(play(t, c)))
}

// Two runs of a case give the same text and the same page, and neither holds
// the secret of a link.
func TestEveryRunIsTheSame(t *testing.T) {
	write := func() string {
		p := play(t, sample())
		var out strings.Builder
		require.NoError(t, p.WriteTable(&out))
		require.NoError(t, p.WriteMessages(&out))
		require.NoError(t, p.WritePage(&out))
		return out.String()
	}
	first := write()
	assert.Equal(t, first, write())
	assert.Contains(t, first, "https://reauth.ledgerly.example/r/…")
	assert.NotRegexp(t, regexp.MustCompile(`ledgerly\.example/[^\s"<]*[A-Za-z0-9_-]{20}`), first)
	assert.NotContains(t, first, "default-test-run-id")
}

// Where the backend writes, it gets an event for each step, and nobody a mail
// but the operator at the end.
func TestHeadless(t *testing.T) {
	c := sample()
	for i := range c.Campaign.Steps {
		c.Campaign.Steps[i].Channel = campaign.Webhook
	}
	p := play(t, c)
	var events, mails int
	for _, r := range p.Rows[:len(p.Rows)-1] {
		if r.Channel == db.ChannelMail {
			mails++
			assert.Equal(t, "expired", r.Step)
			continue
		}
		assert.Equal(t, "your backend writes", r.Subject)
		var event struct {
			Type string
			Data struct{ Step string }
		}
		require.NoError(t, json.Unmarshal([]byte(p.Messages[r.Message-1].Event), &event))
		assert.Equal(t, activities.NoticeDue, event.Type)
		assert.Equal(t, r.Step, event.Data.Step)
		events++
	}
	assert.Equal(t, 10, events)
	assert.Equal(t, 1, mails)
}

// Who cannot be written to is shown, and who hears in their place.
func TestSomebodyElseTakesOver(t *testing.T) {
	step := func(key string, after time.Duration, to campaign.Audience, channel campaign.Channel) campaign.Step {
		return campaign.Step{Key: key, After: after, Audience: to, Channel: channel}
	}
	c := sample()
	c.Campaign.Steps = []campaign.Step{
		step("after-0s", 0, campaign.Primary, campaign.Mail),
		step("after-1d", day, campaign.Alternates, campaign.Mail),
		step("after-2d", 2*day, campaign.Company, campaign.Mail),
		step("after-3d", 3*day, campaign.Company, campaign.Chat),
	}
	c.Settings.SessionMinutes = 7 * 24 * 60
	for name, test := range map[string]struct {
		gone map[int]db.Unreachable // by place among the contacts
		want []string
	}{
		"nobody": {nil, []string{
			"Dana Whitfield", "Dana Whitfield", "Priya Nair", "Sam Okafor", "the operator: a mail to the operator where there is no chat",
		}},
		"the primary contact": {map[int]db.Unreachable{0: db.UnreachableBounce}, []string{
			"Priya Nair: takes over: no primary contact can be written to", "Priya Nair", "Sam Okafor", "the operator: a mail to the operator where there is no chat",
		}},
		"everybody at the customer": {map[int]db.Unreachable{0: db.UnreachableBounce, 1: db.UnreachableNotMe}, []string{
			"Sam Okafor: takes over: nobody at the customer can be written to", "Sam Okafor: takes over: nobody at the customer can be written to",
			"Sam Okafor", "the operator: a mail to the operator where there is no chat",
		}},
		"everybody": {map[int]db.Unreachable{0: db.UnreachableBounce, 1: db.UnreachableNotMe, 2: db.UnreachableOptOut}, []string{
			"the operator: nobody can be written to",
			"the operator", "the operator: a mail to the operator where there is no chat",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			c.People = slices.Clone(c.People)
			for i, why := range test.gone {
				c.People[i].Unreachable = why
			}
			p := play(t, c)
			var got []string
			for _, r := range p.Rows[:len(p.Rows)-2] { // the operator hears of the end
				got = append(got, strings.TrimSuffix(r.Person.Name+": "+r.Note, ": "))
			}
			assert.Equal(t, test.want, got)
			for i, person := range p.People {
				assert.Equal(t, test.gone[i] == "", person.Reachable() == "yes", i)
			}
			chat := p.Rows[len(p.Rows)-3]
			assert.Equal(t, db.ChannelChat, chat.Channel)
			assert.Contains(t, chat.Subject, "Nobody has logged in again since 2 March")
		})
	}
}

// What is left out is there, with its reason.
func TestWhatIsLeftOut(t *testing.T) {
	c := sample()
	c.People = c.People[:1]
	c.From = time.Date(2026, 3, 6, 14, 0, 0, 0, time.UTC) // a Friday
	c.Settings.SessionMinutes = 6*24*60 + 60
	step := func(key string, after, before time.Duration) campaign.Step {
		return campaign.Step{Key: key, After: after, Before: before, Audience: campaign.Primary, Channel: campaign.Mail}
	}
	c.Campaign.Steps = []campaign.Step{
		step("after-0s", 0, 0),
		step("after-2d", 2*day, 0),           // a Sunday
		step("after-70h", 70*time.Hour, 0),   // the first minute of Monday's hours
		step("after-4d", 4*day, 0),           // Tuesday
		step("after-98h", 98*time.Hour, 0),   // Tuesday again
		step("after-138h", 138*time.Hour, 0), // four hours before the last call
		step("before-3h", 0, 3*time.Hour),    // Thursday
		step("before-2h", 0, 2*time.Hour),    // Thursday again
		step("before-6d", 0, 6*day),          // an hour after the opening
		step("after-7d", 7*day, 0),           // past the deadline
	}
	assert.Equal(t, []string{
		"0 Fri 06 Mar 2026 09:00 EST (UTC-5) after-0s mail Dana Whitfield",
		"0 Fri 06 Mar 2026 15:00 UTC before-6d mail primary (left out): due within twelve hours of the opening, or before it",
		"2 Sun 08 Mar 2026 10:00 EDT (UTC-4) after-2d mail Dana Whitfield (left out): after-70h goes out in its place",
		"3 Mon 09 Mar 2026 08:00 EDT (UTC-4) after-70h mail Dana Whitfield",
		"4 Tue 10 Mar 2026 10:00 EDT (UTC-4) after-4d mail Dana Whitfield",
		"5 Wed 11 Mar 2026 08:00 EDT (UTC-4) after-98h mail Dana Whitfield: moved from Tue 10 Mar 12:00: the day's mail was sent",
		"6 Thu 12 Mar 2026 08:00 UTC after-138h mail primary (left out): due less than twelve hours from a last call",
		"6 Thu 12 Mar 2026 08:00 EDT (UTC-4) before-3h mail Dana Whitfield",
		"6 Thu 12 Mar 2026 09:00 EDT (UTC-4) before-2h mail Dana Whitfield (left out): the day's mail was sent, and no day is left before the deadline",
		"6 Thu 12 Mar 2026 15:00 UTC expired mail the operator",
		"7 Fri 13 Mar 2026 14:00 UTC after-7d mail primary (left out): due at the deadline or past it",
		"6 Thu 12 Mar 2026 15:00 UTC deadline",
	}, lines(play(t, c)))

	// Where no hour is left before the deadline, a step goes out at an odd one.
	c.Campaign.Steps = []campaign.Step{step("after-2d", 2*day, 0)}
	c.Settings.SessionMinutes = 60 * 60
	assert.Equal(t, "2 Sun 08 Mar 2026 10:00 EDT (UTC-4) after-2d mail Dana Whitfield: outside their hours, of which none are left before the deadline",
		lines(play(t, c))[0])
}

// Days are those of the person's calendar.
func TestDaysAreTheirs(t *testing.T) {
	c := sample()
	c.From = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	c.People = []db.Recipient{{ContactID: "1", Email: "kai@adventure.example", Name: "Kai", TimeZone: "Pacific/Auckland"}}
	c.Campaign = campaign.FromReminders([]string{"0s", "2h"})
	assert.Equal(t, []string{
		"0 Mon 02 Mar 2026 23:00 NZDT (UTC+13) after-0s mail Kai",
		"1 Tue 03 Mar 2026 01:00 NZDT (UTC+13) after-2h mail Kai",
	}, lines(play(t, c))[:2])
}

// A case of years, with as many steps as a campaign may have, is over at once,
// and each of its steps is in the table.
func TestALongCampaign(t *testing.T) {
	c := sample()
	c.Settings.SessionMinutes, c.Settings.SessionRenewals = reauth.MaxSessionMinutes, 11
	c.Campaign.Steps = nil
	for i := range 50 {
		after := time.Duration(i) * 8 * day
		if after > 365*day {
			after = 365*day - time.Duration(50-i)*day
		}
		c.Campaign.Steps = append(c.Campaign.Steps, campaign.Step{
			Key: fmt.Sprintf("after-%dh", int(after.Hours())), After: after, Audience: campaign.Alternates, Channel: campaign.Mail,
		})
	}
	p := play(t, c)
	heard := map[string]int{}
	for _, r := range p.Rows {
		heard[r.Step]++
	}
	for _, s := range c.Campaign.Steps {
		assert.Equal(t, 2, heard[s.Key], s.Key)
	}
	assert.Equal(t, 12, p.Sessions)
	assert.Equal(t, 1080*day, p.DeadlineAt.Sub(p.From))
	assert.Equal(t, "the end of session 12", p.Rows[len(p.Rows)-1].Note)
}

func TestNoCaseOpens(t *testing.T) {
	c := sample()
	c.Connection.Status = reauth.StatusRemoved
	_, err := Run(t.Context(), c)
	assert.EqualError(t, err, "nobody is written to: the case ends at once as connection_removed")

	c = sample()
	c.Settings.ProductName = ""
	_, err = Run(t.Context(), c)
	assert.ErrorContains(t, err, "field ProductName is missing")

	c = sample()
	c.Campaign.Steps = nil
	_, err = Run(t.Context(), c)
	assert.ErrorContains(t, err, "check the campaign: ")
}

// The page frames every mail, runs nothing, and leads nowhere.
func TestThePage(t *testing.T) {
	c := sample()
	c.Connection.CustomerName = `<script>alert("x")</script>`
	p := play(t, c)
	var out bytes.Buffer
	require.NoError(t, p.WritePage(&out))
	root, err := html.Parse(&out)
	require.NoError(t, err)
	ids, anchors, frames := map[string]bool{}, []string{}, []string{}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		assert.NotEqual(t, "script", n.Data)
		attributes := map[string]string{}
		for _, a := range n.Attr {
			attributes[a.Key] = a.Val
			assert.False(t, strings.HasPrefix(a.Key, "on"), a.Key)
			assert.NotEqual(t, "src", a.Key)
		}
		ids[attributes["id"]] = true
		switch n.Data {
		case "a":
			anchors = append(anchors, attributes["href"])
		case "iframe":
			sandbox, ok := attributes["sandbox"]
			assert.True(t, ok && sandbox == "")
			frames = append(frames, attributes["srcdoc"])
		}
	}
	var want []string
	for _, m := range p.Messages {
		want = append(want, framed(m.Mail.HTML))
		assert.Contains(t, framed(m.Mail.HTML), "pointer-events:none")
	}
	assert.Equal(t, want, frames)
	assert.Len(t, anchors, len(p.Messages))
	for _, a := range anchors {
		id, ok := strings.CutPrefix(a, "#")
		assert.True(t, ok && ids[id], a)
	}
}
