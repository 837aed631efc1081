package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/reauth"
)

// campaignSettings say who is told what and when.
type campaignSettings struct {
	Campaigns string `env:"REAUTH_CAMPAIGNS" placeholder:"FILE" help:"YAML file with your campaigns; docs/campaigns.md says how."`
	Reminders string `env:"REAUTH_REMINDERS" placeholder:"DURATION,..." help:"In place of campaigns, when notices go out: after the opening, or before the deadline where negative."`
	TimeZone  string `env:"REAUTH_TIME_ZONE" default:"UTC" placeholder:"ZONE" help:"Time zone of contacts of whom none is known."`
}

// stormSettings say when a provider is to blame, and not its customers.
type stormSettings struct {
	Storm string `env:"REAUTH_STORM" default:"count=50 share=20% within=5m hold=4h settle=30s" placeholder:"RULE" help:"How many connections of a provider break together before first notices are held, or off."`
}

// chatSettings name the operators' chat.
type chatSettings struct {
	Chat string `env:"REAUTH_CHAT" hidden:"" help:"The operators' chat: slack://TOKEN@CHANNEL, or the URL of an incoming webhook."`
}

// book reads the campaigns that cases may follow.
func (s campaignSettings) book() (*campaign.Book, error) {
	if s.Campaigns != "" && s.Reminders != "" {
		return nil, settingError{"REAUTH_REMINDERS", "is set beside REAUTH_CAMPAIGNS", "to stand alone: a campaign file says when notices go out", "0s,2d,5d,9d,13d,-24h"}
	}
	switch {
	case s.Campaigns != "":
		return campaign.Load(s.Campaigns)
	case s.Reminders != "":
		return campaign.BookOf(campaign.FromReminders(list(s.Reminders))), nil
	}
	c := campaign.Default()
	c.Hours.TimeZone = s.TimeZone
	return campaign.BookOf(c), nil
}

// headless names a campaign that the backend must send itself; none if empty.
func headless(book *campaign.Book) string {
	for _, name := range book.Names() {
		c, _ := book.Named(name)
		if slices.ContainsFunc(c.Steps, func(s campaign.Step) bool { return s.Channel == campaign.Webhook }) {
			return name
		}
	}
	return ""
}

func checkCampaigns(value string) error {
	_, err := campaign.Load(value)
	if err != nil { // which may have several lines
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func checkTimeZone(value string) error {
	if _, err := time.LoadLocation(value); err != nil || value == "Local" {
		return errMalformed
	}
	return nil
}

func checkStorm(value string) error {
	_, _, err := parseStorm(value)
	return err
}

func checkChat(value string) error { return chat.Check(value) }

// parseStorm reads when so many cases are a storm, and how long first notices
// wait where there can be one.
func parseStorm(value string) (rule db.StormRule, settles time.Duration, err error) {
	if value == "off" {
		return rule, 0, nil
	}
	seen := map[string]bool{}
	for _, field := range strings.Fields(value) {
		name, text, found := strings.Cut(field, "=")
		if !found || seen[name] {
			return rule, 0, errMalformed
		}
		seen[name] = true
		switch name {
		case "count":
			if rule.Count, err = strconv.Atoi(text); err != nil || rule.Count < 2 {
				return rule, 0, errors.New("count must be a whole number from 2 on")
			}
		case "share":
			percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
			if err != nil || !strings.HasSuffix(text, "%") || !(percent >= 0 && percent <= 100) {
				return rule, 0, errors.New("share must be from 0% to 100%")
			}
			rule.Share = percent / 100
		case "within":
			rule.Window, err = stormSpan(name, text, time.Second, 24*time.Hour)
		case "hold":
			rule.AtMost, err = stormSpan(name, text, time.Second, 7*24*time.Hour)
		case "settle":
			settles, err = stormSpan(name, text, 0, time.Hour)
		default:
			return rule, 0, errors.New("a part of it is unknown")
		}
		if err != nil {
			return rule, 0, err
		}
	}
	for _, name := range []string{"count", "share", "within", "hold", "settle"} {
		if !seen[name] {
			return rule, 0, errors.New(name + " is missing")
		}
	}
	return rule, settles, nil
}

func stormSpan(name, text string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("%s must be a duration from %s to %s", name, least, most)
	}
	return d, nil
}

func checkReminders(value string) error {
	_, err := reauth.ParseReminders(list(value))
	return err
}
