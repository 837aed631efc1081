package campaign_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/finch-reauth/reauth/notify/campaign"
)

// told writes steps as "after-2d primary mail", with an exclamation mark if anytime.
func told(steps []campaign.Step) (lines []string) {
	for _, s := range steps {
		line := fmt.Sprintf("%s %s %s", s.Key, s.Audience, s.Channel)
		if s.Template != campaign.Auto {
			line += " " + string(s.Template)
		}
		if s.Anytime {
			line += "!"
		}
		lines = append(lines, line)
	}
	return lines
}

func TestDefault(t *testing.T) {
	c := campaign.Default()
	assert.Equal(t, []string{
		"after-0s primary mail!", "after-2d primary mail", "after-5d alternates mail", "after-9d alternates mail", "after-13d alternates mail", "before-1d alternates mail",
	}, told(c.Steps))
	assert.Equal(t, office(), c.Hours)
	assert.Equal(t, "default", c.Name)
	assert.Equal(t, 1, c.PerDay)
	assert.Equal(t, 15*time.Second, c.Gather)
}

func TestFromReminders(t *testing.T) {
	for name, tc := range map[string]struct{ given, want []string }{
		"plain":            {[]string{"0s", "36h", "9d", "-24h"}, []string{"after-0s primary mail!", "after-36h primary mail!", "after-9d primary mail!", "before-1d primary mail!"}},
		"the same twice":   {[]string{"2d", "48h", "-2d"}, []string{"after-2d primary mail!", "before-2d primary mail!"}},
		"one is malformed": {[]string{"0s", "soon"}, []string{"after-0s primary mail!"}},
		"odd spans":        {[]string{"90m", "90s", "1.5d"}, []string{"after-1h30m primary mail!", "after-1m30s primary mail!", "after-36h primary mail!"}},
		"none":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := campaign.FromReminders(tc.given)
			assert.Equal(t, tc.want, told(c.Steps))
			assert.Equal(t, campaign.Campaign{Name: "reminders", Steps: c.Steps}, c, "no hours and no cap")
		})
	}
}

func TestWords(t *testing.T) {
	for key, want := range map[string]string{
		"after-0s": "at once", "after-2d": "after 2d", "before-1d": "before 1d", "remind-now-1": "remind now 1",
		"after-0s-company-chat": "at once company chat", "after-9d-company-chat": "after 9d company chat",
	} {
		assert.Equal(t, want, campaign.Step{Key: key}.Words())
	}
}

func TestSchedule(t *testing.T) {
	opened := utc(t, "2026-03-02 09:00")
	for name, tc := range map[string]struct {
		reminders []string
		deadline  time.Duration
		here      bool
		want      string // key and hours after the opening
	}{
		"the usual":                       {reminders: []string{"0s", "2d", "5d", "9d", "13d", "-24h"}, deadline: 720 * time.Hour, want: "after-0s 0, after-2d 48, after-5d 120, after-9d 216, after-13d 312, before-1d 696"},
		"somebody is at the page":         {reminders: []string{"0s", "2d", "-24h"}, deadline: 720 * time.Hour, here: true, want: "after-2d 48, before-1d 696"},
		"at and past the deadline":        {reminders: []string{"0s", "2d", "3d"}, deadline: 48 * time.Hour, want: "after-0s 0"},
		"just before the deadline":        {reminders: []string{"0s", "47h"}, deadline: 48 * time.Hour, want: "after-0s 0, after-47h 47"},
		"near a last call after 48 hours": {reminders: []string{"0s", "36h", "37h", "59h", "60h", "-24h"}, deadline: 72 * time.Hour, want: "after-0s 0, after-36h 36, before-1d 48, after-60h 60"},
		"a deadline too near for one":     {reminders: []string{"0s", "-24h"}, deadline: 36 * time.Hour, want: "after-0s 0"},
		"a deadline just far enough":      {reminders: []string{"0s", "-24h"}, deadline: 36*time.Hour + time.Minute, want: "after-0s 0, before-1d 12"},
		"two last calls":                  {reminders: []string{"-24h", "-20h"}, deadline: 72 * time.Hour, want: "before-1d 48, before-20h 52"},
		"not in order":                    {reminders: []string{"9d", "2d", "-24h", "0s"}, deadline: 720 * time.Hour, want: "after-0s 0, after-2d 48, after-9d 216, before-1d 696"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range campaign.FromReminders(tc.reminders).Schedule(opened, opened.Add(tc.deadline), tc.here) {
				got = append(got, fmt.Sprintf("%s %d", d.Step.Key, int(d.At.Sub(opened).Hours())))
			}
			assert.Equal(t, tc.want, strings.Join(got, ", "))
		})
	}
}

func TestRoleOf(t *testing.T) {
	for text, want := range map[string]campaign.Role{
		"": campaign.RolePrimary, "primary": campaign.RolePrimary, "Head of Payroll": campaign.RolePrimary,
		"alternate": campaign.RoleAlternate, " Alternate ": campaign.RoleAlternate, "backup": campaign.RoleAlternate, "SECONDARY": campaign.RoleAlternate,
		"account_manager": campaign.RoleCompany, "Account Manager": campaign.RoleCompany, "account-manager": campaign.RoleCompany, "operator": campaign.RoleCompany,
	} {
		assert.Equal(t, want, campaign.RoleOf(text), text)
	}
}

func TestChoosePeople(t *testing.T) {
	people := func(text string) (list []campaign.Person) { // "ann alternate bounce"
		for person := range strings.SplitSeq(text, ",") {
			words := append(strings.Fields(person), "", "")
			list = append(list, campaign.Person{ID: words[0], Role: campaign.RoleOf(words[1]), Unreachable: words[2]})
		}
		return list
	}
	const all = "ann,ben alternate,cid,dot account_manager"
	for name, tc := range map[string]struct {
		audience campaign.Audience
		people   string
		want     string
	}{
		"primary":                                      {campaign.Primary, all, "ann cid"},
		"alternates":                                   {campaign.Alternates, all, "ann ben cid"},
		"company":                                      {campaign.Company, all, "dot"},
		"no primary":                                   {campaign.Primary, "ben alternate,dot account_manager", "ben"},
		"one primary bounced":                          {campaign.Primary, "ann primary bounce,cid", "cid"},
		"every primary bounced":                        {campaign.Primary, "ann primary bounce,ben alternate,dot operator", "ben"},
		"every primary and alternate gone":             {campaign.Primary, "ann primary bounce,ben alternate not_me,dot operator", "dot"},
		"alternates, all of them gone":                 {campaign.Alternates, "ann primary bounce,ben alternate not_me,dot operator", "dot"},
		"alternates, with primary contacts only":       {campaign.Alternates, "ann", "ann"},
		"company, without anybody of the company's":    {campaign.Company, "ann,ben alternate", ""},
		"company, and its only one cannot be written":  {campaign.Company, "ann,dot operator opt_out", ""},
		"nobody can be written to, whoever it was for": {campaign.Primary, "ann primary opt_out,dot operator bounce", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range campaign.Choose(tc.audience, people(tc.people)) {
				got = append(got, p.ID)
			}
			assert.Equal(t, tc.want, strings.Join(got, " "))
		})
	}
	assert.Empty(t, campaign.Choose(campaign.Primary, nil))
}
