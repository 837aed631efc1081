package campaign_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/campaign"
)

func TestCheck(t *testing.T) {
	const day = 24 * time.Hour
	many := func(n int) (steps []campaign.Step) {
		for i := range n {
			steps = append(steps, campaign.Step{Key: fmt.Sprint("k", i), After: time.Duration(i) * time.Hour, Audience: campaign.Primary, Channel: campaign.Mail})
		}
		return steps
	}
	for name, tc := range map[string]struct {
		change func(c *campaign.Campaign)
		want   string // empty: nothing is wrong
	}{
		"the default":              {func(*campaign.Campaign) {}, ""},
		"bare reminders":           {func(c *campaign.Campaign) { *c = campaign.FromReminders([]string{"0s", "2d", "-24h"}) }, ""},
		"reminders, some twice":    {func(c *campaign.Campaign) { *c = campaign.FromReminders([]string{"2d", "48h", "-1d", "2d", "-24h"}) }, ""},
		"no name":                  {func(c *campaign.Campaign) { c.Name = "" }, `campaign "": has a name that cannot be used`},
		"a name with a space":      {func(c *campaign.Campaign) { c.Name = "a b" }, `campaign "a b": has a name that cannot be used`},
		"no step":                  {func(c *campaign.Campaign) { c.Steps = nil }, "campaign default: steps has no entry; a campaign has from 1 to 50 steps"},
		"fifty steps":              {func(c *campaign.Campaign) { c.Steps = many(50) }, ""},
		"fifty-one":                {func(c *campaign.Campaign) { c.Steps = many(51) }, "steps has 51 entries; a campaign has 50 steps at most"},
		"no key":                   {func(c *campaign.Campaign) { c.Steps[1].Key = "" }, "steps[1] has no key"},
		"a key twice":              {func(c *campaign.Campaign) { c.Steps[3].Key = c.Steps[1].Key }, "steps[3] has the key of steps[1], after-2d; every step needs its own"},
		"after and before":         {func(c *campaign.Campaign) { c.Steps[1].Before = day }, `steps[1] has both "after" and "before"`},
		"a negative after":         {func(c *campaign.Campaign) { c.Steps[1].After = -day }, `steps[1].after is "-1d"; it must be a duration after the opening`},
		"a year":                   {func(c *campaign.Campaign) { c.Steps[1].After = 366 * day }, ""},
		"more than a year":         {func(c *campaign.Campaign) { c.Steps[1].After = 366*day + 1 }, "steps[1].after is"},
		"before, more than a year": {func(c *campaign.Campaign) { c.Steps[5].Before = 366*day + 1 }, "steps[5].before is"},
		"a negative before":        {func(c *campaign.Campaign) { c.Steps[5].Before = -day }, `steps[5].before is "-1d"; it must be a duration before the deadline`},
		"no audience":              {func(c *campaign.Campaign) { c.Steps[1].Audience = "" }, `steps[1].to is ""; it must be one of primary, alternates, company`},
		"an unknown audience":      {func(c *campaign.Campaign) { c.Steps[1].Audience = "alternate" }, `steps[1].to is "alternate"; did you mean alternates? it must be one of`},
		"an unknown channel":       {func(c *campaign.Campaign) { c.Steps[1].Channel = "email" }, `steps[1].channel is "email"; did you mean mail? it must be one of mail, webhook, chat`},
		"an unknown template":      {func(c *campaign.Campaign) { c.Steps[1].Template = "fisrt" }, `steps[1].template is "fisrt"; did you mean first? it must be one of first, reminder, last_call`},
		"every template": {func(c *campaign.Campaign) {
			c.Steps[1].Template, c.Steps[2].Template, c.Steps[3].Template, c.Steps[4].Template = campaign.First, campaign.Reminder, campaign.LastCall, campaign.Auto
		}, ""},
		"chat to the company":      {func(c *campaign.Campaign) { c.Steps[1].Channel, c.Steps[1].Audience = campaign.Chat, campaign.Company }, ""},
		"chat to primary contacts": {func(c *campaign.Campaign) { c.Steps[1].Channel = campaign.Chat }, `steps[1].channel is chat, where only the company's own people are; such a step needs "to: company"`},
		"chat to alternates":       {func(c *campaign.Campaign) { c.Steps[5].Channel = campaign.Chat }, "steps[5].channel is chat"},
		"a webhook to anybody": {func(c *campaign.Campaign) {
			c.Steps[1].Channel, c.Steps[5].Channel = campaign.Webhook, campaign.Webhook
		}, ""},
		"no cap":                 {func(c *campaign.Campaign) { c.PerDay = 0 }, ""},
		"24 a day":               {func(c *campaign.Campaign) { c.PerDay = 24 }, ""},
		"25 a day":               {func(c *campaign.Campaign) { c.PerDay = 25 }, "mails_per_day is 25; it must be a whole number from 0 to 24"},
		"less than none":         {func(c *campaign.Campaign) { c.PerDay = -1 }, "mails_per_day is -1"},
		"no gathering":           {func(c *campaign.Campaign) { c.Gather = 0 }, ""},
		"an hour of gathering":   {func(c *campaign.Campaign) { c.Gather = time.Hour }, ""},
		"more than an hour":      {func(c *campaign.Campaign) { c.Gather = time.Hour + 1 }, "gather is"},
		"a negative gathering":   {func(c *campaign.Campaign) { c.Gather = -time.Minute }, `gather is "-1m"; it must be a duration from "0s" to "1h"`},
		"no hours":               {func(c *campaign.Campaign) { c.Hours = campaign.Hours{} }, ""},
		"all but a minute quiet": {func(c *campaign.Campaign) { c.Hours.QuietFrom, c.Hours.QuietUntil = 1, 0 }, ""},
		"quiet from 24:00":       {func(c *campaign.Campaign) { c.Hours.QuietFrom = 1440 }, "quiet_hours goes from minute 1440"},
		"quiet from before":      {func(c *campaign.Campaign) { c.Hours.QuietFrom = -1 }, "quiet_hours goes from minute -1"},
		"quiet until 24:00":      {func(c *campaign.Campaign) { c.Hours.QuietUntil = 1440 }, "quiet_hours goes from minute 1140 to minute 1440"},
		"quiet until before":     {func(c *campaign.Campaign) { c.Hours.QuietUntil = -1 }, "to minute -1"},
		"six days off":           {func(c *campaign.Campaign) { c.Hours.DaysOff = []time.Weekday{0, 1, 2, 4, 5, 6} }, ""},
		"seven days off":         {func(c *campaign.Campaign) { c.Hours.DaysOff = []time.Weekday{0, 1, 2, 3, 4, 5, 6} }, "days_off leaves no day on which anybody may be written to"},
		"a day off twice":        {func(c *campaign.Campaign) { c.Hours.DaysOff = []time.Weekday{0, 6, 0} }, "days_off has sunday twice"},
		"an eighth day":          {func(c *campaign.Campaign) { c.Hours.DaysOff = []time.Weekday{7} }, "days_off has day 7 of the week"},
		"a zone":                 {func(c *campaign.Campaign) { c.Hours.TimeZone = "Pacific/Apia" }, ""},
		"no such zone":           {func(c *campaign.Campaign) { c.Hours.TimeZone = "Mars/Phobos" }, `time_zone is "Mars/Phobos"; it must be an IANA name`},
		"the machine's zone":     {func(c *campaign.Campaign) { c.Hours.TimeZone = "Local" }, `time_zone is "Local"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := campaign.Default()
			tc.change(&c)
			err := c.Check()
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.want)
			assert.Len(t, strings.Split(err.Error(), "\n"), 1, "and nothing else")
		})
	}
	c := campaign.Campaign{Name: "quiet", PerDay: 30, Gather: 2 * time.Hour}
	assert.Len(t, strings.Split(c.Check().Error(), "\n"), 3, "everything at once: %s", c.Check())
}
