package campaign_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/campaign"
)

const everything = `# every key
campaigns:
  default:
    mails_per_day: 2
    gather: 90s
    quiet_hours: "20:30-7:15"
    days_off: [friday, Saturday]
    time_zone: Asia/Riyadh
    channel: mail
    steps:
      - after: 0s
        anytime: true
      - after: 2d
        anytime: false
      - {after: 5d, to: alternates, template: first}
      - after: 9d
        to: company
        channel: chat
      - after: 216h
        to: alternates
      - after: 9d
        to: company
      - before: 1.5d
        to: alternates
        template: last_call
      - before: 1.5d
        to: company
        template: reminder
  headless:
    channel: webhook
    quiet_hours: none
    days_off: []
    mails_per_day: 0
    gather: 0
    steps: [{after: 0}, {after: 7d, to: company, channel: mail}]
  v2.1_short:
    days_off: none
    steps: [{before: 24h}]
choose:
  - application: sandbox
    campaign: headless
`

func TestParse(t *testing.T) {
	book, err := campaign.Parse("campaigns.yaml", []byte(everything))
	require.NoError(t, err)
	assert.Equal(t, []string{"default", "headless", "v2.1_short"}, book.Names())

	c, _ := book.Named("default")
	assert.Equal(t, []string{
		"after-0s primary mail!", "after-2d primary mail", "after-5d alternates mail first",
		"after-9d company chat", "after-9d-alternates-mail alternates mail", "after-9d-company-mail company mail",
		"before-36h alternates mail last_call", "before-36h-company-mail company mail reminder",
	}, told(c.Steps))
	assert.Equal(t, 9*24*time.Hour, c.Steps[4].After)
	assert.Equal(t, 36*time.Hour, c.Steps[7].Before)
	assert.Equal(t, campaign.Campaign{
		Name: "default", Steps: c.Steps, PerDay: 2, Gather: 90 * time.Second,
		Hours: campaign.Hours{QuietFrom: clock(20, 30), QuietUntil: clock(7, 15), DaysOff: []time.Weekday{time.Friday, time.Saturday}, TimeZone: "Asia/Riyadh"},
	}, c)

	c, _ = book.Named("headless")
	assert.Equal(t, []string{"after-0s primary webhook", "after-7d company mail"}, told(c.Steps))
	assert.Equal(t, campaign.Campaign{Name: "headless", Steps: c.Steps}, c)

	c, _ = book.Named("v2.1_short")
	hours := office()
	hours.DaysOff = nil
	assert.Equal(t, campaign.Campaign{Name: "v2.1_short", Steps: c.Steps, PerDay: 1, Gather: 15 * time.Second, Hours: hours}, c, "the rest is the built-in default's, not the file's")
}

// The keys of steps stand in ledgers: they must not change where a file only
// gets more steps after the others.
func TestKeysStay(t *testing.T) {
	keys := func(steps string) (keys []string) {
		book, err := campaign.Parse("campaigns.yaml", []byte("campaigns: {default: {steps: ["+steps+"]}}"))
		require.NoError(t, err)
		for _, s := range book.Choose("", "", "").Steps {
			keys = append(keys, s.Key)
		}
		return keys
	}
	before := keys("{after: 9d}, {after: 9d, to: company}")
	assert.Equal(t, []string{"after-9d", "after-9d-company-mail"}, before)
	assert.Equal(t, append(before, "after-9d-company-chat", "after-10d"), keys("{after: 9d}, {after: 9d, to: company}, {after: 9d, to: company, channel: chat}, {after: 10d}"))
}

// in puts lines into a campaign that has a step; the first of them is line 5.
func in(lines ...string) string {
	return "campaigns:\n  default:\n    steps:\n      - after: 0s\n    " + strings.Join(lines, "\n    ") + "\n"
}

// step puts lines into a second step; the first of them is line 5.
func step(lines ...string) string {
	return "campaigns:\n  default:\n    steps:\n      - after: 0s\n      - " + strings.Join(lines, "\n        ") + "\n"
}

// chosen puts lines after two campaigns; the first of them is line 6.
func chosen(lines ...string) string {
	return "campaigns:\n  default:\n    steps: [{after: 0s}]\n  quiet: {steps: [{after: 0s}]}\nchoose:\n  " + strings.Join(lines, "\n  ") + "\n"
}

func TestParseSaysWhatIsWrongAndWhere(t *testing.T) {
	type cases map[string]struct {
		file string
		want []string // how each line begins, without the file's name
	}
	for group, list := range map[string]cases{
		"the file": {
			"empty":                        {"", []string{"1: the file is empty; it must have campaigns"}},
			"comments only":                {"# campaigns:\n", []string{"1: the file is empty"}},
			"an empty document":            {"---\n", []string{"1: the file is empty"}},
			"a mark and nothing":           {"\ufeff", []string{"1: the file is empty"}},
			"a text, which is not shown":   {"hunter2", []string{`1:1: the file has no keys; it must have "campaigns"`}},
			"a list":                       {"- campaigns", []string{"1:1: the file has no keys"}},
			"without campaigns":            {"choose: []", []string{`1:1: the file has no campaigns; it must have "campaigns", and may have "choose"`}},
			"an unknown key":               {"campaigns: {default: {steps: [{after: 0s}]}}\nchoice: []", []string{"2:1: choice is not known; did you mean choose? the keys here are campaigns, choose"}},
			"campaigns misspelt":           {"\ncampaign: {default: {steps: [{after: 0s}]}}", []string{"2:1: campaign is not known; did you mean campaigns?"}},
			"campaigns without a value":    {"campaigns:", []string{"1:11: campaigns is empty; it must have one campaign or more by name"}},
			"no campaign":                  {"campaigns: {}", []string{"1:12: campaigns has no entry; it must have one campaign or more by name"}},
			"a list of campaigns":          {"campaigns:\n  - default", []string{"2:3: campaigns is a list; it must have one"}},
			"campaigns twice":              {"campaigns: {default: {steps: [{after: 0s}]}}\ncampaigns: {}", []string{"2:1: campaigns is here twice, first in line 1"}},
			"a campaign twice":             {"campaigns:\n  a: {steps: [{after: 0s}]}\n  b: {steps: [{after: 0s}]}\n  a: {steps: [{after: 0s}]}", []string{"4:3: campaigns.a is here twice, first in line 2"}},
			"not UTF-8":                    {"campaigns:\n  \xff: 3", []string{"2:3: the file is not in UTF-8 here"}},
			"UTF-16":                       {"\xff\xfea\x00", []string{"1:1: the file is not in UTF-8 here"}},
			"a null character":             {"a: b\x00", []string{"1:5: the character U+0000 cannot be in this file"}},
			"an old line break":            {"a: b\rc: d", []string{"1:5: the character U+000D cannot be in this file"}},
			"a line separator":             {"a: 'ü\u2028'", []string{"1:6: the character U+2028 cannot be in this file"}},
			"larger than 1 MiB":            {strings.Repeat("#", 1<<20) + "\n", []string{"1: the file is larger than 1 MiB"}},
			"two documents":                {"campaigns: {default: {steps: [{after: 0s}]}}\n---\ncampaigns: {}\n", []string{"2:1: a second document begins here; a file holds one"}},
			"two documents, both wrong":    {"campaigns: {}\n---\na: b: c\n", []string{"3: the file stops being YAML here"}},
			"an alias":                     {"campaigns:\n  a: &x {steps: [{after: 0s}]}\n  b: *x\n", []string{"2:6: &x is an anchor", "3:6: *x is an alias, which has no place in this file; write out"}},
			"an alias in its own value":    {"campaigns: &x\n  a: *x\n", []string{"1:12: &x is an anchor", "2:6: *x is an alias"}},
			"an alias of nothing":          {"campaigns:\n  a:\n    steps: *x\n", []string{"3: an alias, which begins with *, has no place in this file"}},
			"a merge":                      {"campaigns:\n  a:\n    <<: {gather: 1m}\n    steps: [{after: 0s}]\n", []string{`3:5: campaigns.a."<<" is not known; the keys here are`}},
			"a tag":                        {"campaigns:\n  a: !campaign\n    steps: [{after: 0s}]\n", []string{`2:6: a tag, as "!campaign", has no place in this file`}},
			"a key that is a list":         {"campaigns:\n  [a]: b\n", []string{"2:3: campaigns has a key that is a list", "2:3: campaigns has no entry"}},
			"a name with a space":          {"campaigns:\n  my own: {steps: [{after: 0s}]}", []string{`2:3: campaigns."my own" has a name that cannot be used: the name of a campaign must be 1 to 64 letters`}},
			"a campaign without value":     {"campaigns:\n  default:\n", []string{`2:11: campaigns.default is empty; it must have "steps"`}},
			"a campaign without steps":     {"campaigns:\n  default:\n    gather: 1m\n", []string{"2:3: campaigns.default.steps has no entry; a campaign has from 1 to 50 steps, as steps: [{after: 0s}"}},
			"steps misspelt":               {"campaigns:\n  default:\n    step: [{after: 0s}]\n", []string{"3:5: campaigns.default.step is not known; did you mean steps? the keys here are mails_per_day, gather"}},
			"another book's key, far away": {"campaigns:\n  default:\n    xyz: 1\n    steps: [{after: 0s}]\n", []string{"3:5: campaigns.default.xyz is not known; the keys here are mails_per_day, gather"}},
		},
		"YAML": {
			"a tab":                        {"campaigns:\n  default:\n\tsteps: []\n", []string{"3:1: the line is indented with a tab; YAML is indented with spaces"}},
			"a tab after spaces":           {"campaigns:\n  default:\n  \tsteps: 1\n", []string{"3:3: the line is indented with a tab"}},
			"an item too far to the left":  {"campaigns:\n  default:\n    steps:\n      - after: 0s\n     - after: 2d\n", []string{"5: the file stops being YAML here, for a reason here or in the line above (did not find expected key)"}},
			"a key too far to the left":    {"campaigns:\n  default:\n    gather: 1m\n   steps: []\n    days_off: none\n", []string{"4: the file stops being YAML here"}},
			"a key too far to the right":   {"campaigns:\n  default:\n    gather: 1m\n      steps: []\n", []string{"4: the file stops being YAML here"}},
			"a missing colon":              {"campaigns:\n  default\n    steps: []\n", []string{"3: the file stops being YAML here, for a reason here or in the line above"}},
			"a second colon":               {"campaigns:\n  default:\n    gather: 1m: 2\n    steps: []\n", []string{"3: the file stops being YAML here"}},
			"a quote that is never closed": {"campaigns:\n  default:\n    quiet_hours: \"19:00\n    days_off: none\n    steps: []\n", []string{"3: the file stops being YAML here"}},
			"a list that is never closed":  {"campaigns:\n  default:\n    days_off: [saturday,\n      sunday]\n    steps: [{after: 0s},\n    gather: 1m\n", []string{"5: the file stops being YAML here"}},
			"on the last line":             {"campaigns:\n  default: ]", []string{"2: the file stops being YAML here"}},
			"with other line breaks":       {"campaigns:\r\n  default:\r\n    gather: 1m\r\n   steps: []\r\n", []string{"4: the file stops being YAML here"}},
			"after a long way":             {"campaigns:\n" + strings.Repeat("  # long\n", 300) + "  - [\n" + strings.Repeat("  # long\n", 300), []string{"302: the file stops being YAML here"}},
			"never closed, far above":      {"campaigns:\n" + strings.Repeat("# x\n", 998) + "  a: \"x\n" + strings.Repeat("      b\n", 20_000), []string{"1000: the file stops being YAML here"}},
			"too deep":                     {"\n" + strings.Repeat("[", 20_000), []string{"2: the file stops being YAML here, for a reason here or in the line above (exceeded max depth"}},
		},
		"a campaign": {
			"an unknown key":            {in("quiethours: none"), []string{"5:5: campaigns.default.quiethours is not known; did you mean quiet_hours?"}},
			"a key twice":               {in("gather: 1m", "gather: 2m"), []string{"6:5: campaigns.default.gather is here twice, first in line 5; once is right"}},
			"too many mails":            {in("mails_per_day: 25"), []string{"5:20: campaigns.default.mails_per_day is 25; it must be a whole number from 0 to 24"}},
			"half a mail":               {in("mails_per_day: 1.5"), []string{`5:20: campaigns.default.mails_per_day is "1.5"; it must be a whole number`}},
			"negative mails":            {in("mails_per_day: -1"), []string{`5:20: campaigns.default.mails_per_day is "-1"; it must be a whole number`}},
			"octal mails":               {in("mails_per_day: 010"), []string{`5:20: campaigns.default.mails_per_day is "010"`}},
			"very many mails":           {in("mails_per_day: 99999999999999999999"), []string{"5:20: campaigns.default.mails_per_day is"}},
			"mails in quotes":           {in(`mails_per_day: "1"`), []string{`5:20: campaigns.default.mails_per_day is "1"; it must be a whole number`}},
			"no number of mails":        {in("mails_per_day:"), []string{"5:19: campaigns.default.mails_per_day is empty; it must be a whole number"}},
			"a list of mails":           {in("mails_per_day: [1]"), []string{"5:20: campaigns.default.mails_per_day is a list"}},
			"too long a gathering":      {in("gather: 61m"), []string{`5:13: campaigns.default.gather is "1h1m"; it must be a duration from "0s" to "1h"`}},
			"a negative gathering":      {in("gather: -1m"), []string{`5:13: campaigns.default.gather is "-1m"; it must be a duration from`}},
			"gathering without a unit":  {in("gather: 60"), []string{`5:13: campaigns.default.gather is "60"; it must be a duration from`}},
			"less than a second":        {in("gather: 500ms"), []string{`5:13: campaigns.default.gather is "500ms"; it must be whole seconds`}},
			"quiet in words":            {in("quiet_hours: at night"), []string{`5:18: campaigns.default.quiet_hours is "at night"; it must be from one time of day to another, as "19:00-08:00", or none`}},
			"quiet until 24:00":         {in("quiet_hours: 19:00-24:00"), []string{`5:18: campaigns.default.quiet_hours is "19:00-24:00"; a time of day is from 00:00 to 23:59`}},
			"quiet from 19:60":          {in("quiet_hours: 19:60-08:00"), []string{`5:18: campaigns.default.quiet_hours is "19:60-08:00"; a time of day is`}},
			"quiet always, or never":    {in("quiet_hours: 08:00-8:00"), []string{`5:18: campaigns.default.quiet_hours is "08:00-8:00"; that could mean no hour or every hour`}},
			"quiet without a value":     {in("quiet_hours:"), []string{`5:17: campaigns.default.quiet_hours is empty; it must be from one`}},
			"quiet as a list":           {in("quiet_hours: [19, 8]"), []string{`5:18: campaigns.default.quiet_hours is a list; it must be from one`}},
			"a day that is none":        {in("days_off:", "  - saturday", "  - sundey"), []string{`7:9: campaigns.default.days_off[1] is "sundey"; did you mean sunday? it must be a day of the week, as saturday`}},
			"a day cut short":           {in("days_off: [sat]"), []string{`5:16: campaigns.default.days_off[0] is "sat"; did you mean saturday?`}},
			"a day that is a list":      {in("days_off: [[sunday]]"), []string{`5:16: campaigns.default.days_off[0] is a list; it must be a day of the week`}},
			"an empty day":              {in("days_off: [~]"), []string{`5:16: campaigns.default.days_off[0] is empty; it must be a day of the week`}},
			"a day twice":               {in("days_off: [sunday, Sunday]"), []string{"5:15: campaigns.default.days_off has sunday twice"}},
			"no day left":               {in("days_off: [monday, tuesday, wednesday, thursday, friday, saturday, sunday]"), []string{"5:15: campaigns.default.days_off leaves no day"}},
			"days that are no list":     {in("days_off: sunday"), []string{`5:15: campaigns.default.days_off is "sunday"; it must be a list of days of the week, as [saturday, sunday], or none`}},
			"days without a value":      {in("days_off:"), []string{`5:14: campaigns.default.days_off is empty; it must be a list of days`}},
			"no such zone":              {in("time_zone: Eastern"), []string{`5:16: campaigns.default.time_zone is "Eastern"; it must be an IANA name, as "America/New_York"`}},
			"the machine's zone":        {in("time_zone: Local"), []string{`5:16: campaigns.default.time_zone is "Local"`}},
			"an empty zone":             {in(`time_zone: ""`), []string{`5:16: campaigns.default.time_zone is ""; it must be an IANA name`}},
			"an unknown channel, once":  {in("channel: email"), []string{`5:14: campaigns.default.channel is "email"; did you mean mail? it must be one of mail, webhook, chat`}},
			"a channel without a value": {in("channel:"), []string{`5:13: campaigns.default.channel is empty; it must be a word`}},
			"chat for everybody":        {in("channel: chat"), []string{`4:9: campaigns.default.steps[0].channel is chat, where only the company's own people are`}},
			"steps that are no list":    {"campaigns:\n  default:\n    steps: 3\n", []string{`3:12: campaigns.default.steps is "3"; it must be a list of steps`}},
			"an empty list of steps":    {"campaigns:\n  default:\n    steps: []\n", []string{`3:12: campaigns.default.steps has no entry`}},
			"steps without a value":     {"campaigns:\n  default:\n    steps:\n", []string{`3:11: campaigns.default.steps is empty; it must be a list of steps`}},
			"51 steps":                  {"campaigns:\n  default:\n    steps:\n" + manySteps(51), []string{`4:7: campaigns.default.steps has 51 entries; a campaign has 50 steps at most`}},
		},
		"a step": {
			"no mapping":                        {step("2d"), []string{`5:9: campaigns.default.steps[1] is "2d"; it must have "after", as in {after: 2d}, or "before"`}},
			"nothing":                           {step(""), []string{`5:8: campaigns.default.steps[1] is empty; it must have "after"`}},
			"no moment":                         {step("to: company"), []string{`5:9: campaigns.default.steps[1] has no moment; it must have "after"`}},
			"two moments":                       {step("after: 2d", "before: 2d"), []string{`5:9: campaigns.default.steps[1] has two moments; it must have "after", as in {after: 2d}, or "before", as in {before: 24h}, and not both`}},
			"no moment, as misspelt":            {step("aftre: 2d"), []string{`5:9: campaigns.default.steps[1].aftre is not known; did you mean after? the keys here are after, before, to, channel, template, anytime`}},
			"in words":                          {step("after: 2 days"), []string{`5:16: campaigns.default.steps[1].after is "2 days"; it must be a duration after the opening, as "0s", "36h" or "2d", of a year at most`}},
			"without a unit":                    {step("after: 2"), []string{`5:16: campaigns.default.steps[1].after is "2"; it must be a duration`}},
			"without a value":                   {step("after:"), []string{`5:15: campaigns.default.steps[1].after is empty; it must be a duration`}},
			"a list of moments":                 {step("after: [2d]"), []string{`5:16: campaigns.default.steps[1].after is a list; it must be a duration`}},
			"more than a year":                  {step("after: 367d"), []string{`5:16: campaigns.default.steps[1].after is "367d"; it must be a duration`}},
			"after, negative":                   {step("after: -24h"), []string{`5:16: campaigns.default.steps[1].after is "-24h"; a step before the deadline has "before" for "after", without the minus`}},
			"after, a fraction":                 {step("after: 1500ms"), []string{`5:16: campaigns.default.steps[1].after is "1500ms"; it must be whole seconds`}},
			"before, negative":                  {step("before: -24h"), []string{`5:17: campaigns.default.steps[1].before is "-24h"; it must be a duration before the deadline`}},
			"before, nothing":                   {step("before: 0s"), []string{`5:17: campaigns.default.steps[1].before is "0s"; it must be more than nothing; it must be a duration before the deadline`}},
			"an unknown audience":               {step("after: 2d", "to: alternate"), []string{`6:13: campaigns.default.steps[1].to is "alternate"; did you mean alternates? it must be one of primary, alternates, company`}},
			"a list of audiences":               {step("after: 2d", "to: [primary]"), []string{`6:13: campaigns.default.steps[1].to is a list; it must be a word; leave the key out for the usual`}},
			"an unknown channel":                {step("after: 2d", "channel: slack"), []string{`6:18: campaigns.default.steps[1].channel is "slack"; it must be one of mail, webhook, chat`}},
			"chat to primary contacts":          {step("after: 2d", "channel: chat"), []string{`6:18: campaigns.default.steps[1].channel is chat, where only the company's own people are; such a step needs "to: company"`}},
			"an unknown template":               {step("after: 2d", "template: last-call"), []string{`6:19: campaigns.default.steps[1].template is "last-call"; did you mean last_call? it must be one of first, reminder, last_call`}},
			"an empty template":                 {step("after: 2d", `template: ""`), []string{`6:19: campaigns.default.steps[1].template is ""; it must be a word; leave the key out`}},
			"anytime, yes":                      {step("after: 2d", "anytime: yes"), []string{`6:18: campaigns.default.steps[1].anytime is "yes"; it must be true or false`}},
			"anytime, in quotes":                {step("after: 2d", `anytime: "true"`), []string{`6:18: campaigns.default.steps[1].anytime is "true"; it must be true or false`}},
			"a twin":                            {step("after: 0h"), []string{`5:9: campaigns.default.steps[1] is steps[0] in line 4 once more: both are due at once, to primary, by mail; leave one of them out`}},
			"one that has no moment is no twin": {step("after: soon") + "      - {after: 1d, before: 1d}\n      - {to: company}\n      - {after: 0s, to: company}\n", []string{"5:16", "6:9", "7:9"}},
			"everything about it":               {step("after: soon", "to: nobody", "channel: fax", "template: none", "anytime: 1", "when: 2d"), []string{"5:16", "6:13", "7:18", "8:19", "9:18", "10:9"}},
		},
		"a choice": {
			"no list":                  {chosen("campaign: quiet"), []string{`6:3: choose is a mapping; it must be a list of choices, as [{application: sandbox, campaign: quiet}]`}},
			"no mapping":               {chosen("- quiet"), []string{`6:5: choose[0] is "quiet"; it must have "campaign", and "application" or "provider" or both`}},
			"no campaign":              {chosen("- provider: finch"), []string{`6:5: choose[0] names no campaign; it must have "campaign"`}},
			"a campaign that is not":   {chosen("- provider: finch", "  campaign: quite"), []string{`7:15: choose[0].campaign is "quite"; did you mean quiet? the campaigns are default, quiet`}},
			"fits everything":          {chosen("- campaign: quiet"), []string{`6:5: choose[0] fits every connection; it must have "campaign", and "application" or "provider" or both`}},
			"an unknown key":           {chosen("- app: sandbox", "  campaign: quiet"), []string{`6:5: choose[0].app is not known; did you mean application? the keys here are application, provider, campaign`}},
			"a name that is none":      {chosen("- application: my own", "  campaign: quiet"), []string{`6:18: choose[0].application is "my own"; it must be 1 to 64 letters`}},
			"without a value":          {chosen("- provider:", "  campaign: quiet"), []string{`6:14: choose[0].provider is empty; it must be 1 to 64 letters`}},
			"never, the same again":    {chosen("- {provider: finch, campaign: quiet}", "- {provider: finch, campaign: default}"), []string{`7:5: choose[1] never applies, since the choice in line 6 comes first`}},
			"never, one is wider":      {chosen("- {provider: finch, campaign: quiet}", "- {application: a, campaign: quiet}", "- {provider: finch, application: b, campaign: default}"), []string{`8:5: choose[2] never applies, since the choice in line 6`}},
			"an error in its campaign": {"campaigns:\n  quiet: {steps: [{after: x}]}\nchoose: [{provider: finch, campaign: quiet}]", []string{"2:27: campaigns.quiet.steps[0].after"}},
		},
		"right": {
			"no choice":              {chosen("# - {provider: finch, campaign: quiet}"), nil},
			"an empty list":          {"campaigns: {default: {steps: [{after: 0s}]}}\nchoose: []", nil},
			"narrow before wide":     {chosen("- {provider: finch, application: b, campaign: default}", "- {provider: finch, campaign: quiet}"), nil},
			"both ways to overlap":   {chosen("- {provider: finch, campaign: default}", "- {application: b, campaign: quiet}"), nil},
			"the built-in default":   {"campaigns: {a: {steps: [{after: 0s}]}}\nchoose: [{provider: finch, campaign: default}]", nil},
			"a byte order mark":      {"\ufeffcampaigns: {default: {steps: [{after: 0s}]}}", nil},
			"other line breaks":      {"campaigns:\r\n  default:\r\n    steps:\r\n    - after: 0s\r\n", nil},
			"marks around it":        {"---\ncampaigns: {default: {steps: [{after: 0s}]}}\n...\n", nil},
			"JSON":                   {`{"campaigns": {"default": {"steps": [{"after": "0s", "anytime": true}]}}}`, nil},
			"a tab before a remark":  {"campaigns: {default: {steps: [{after: 0s}]}} \t# remark", nil},
			"one moment, three ways": {step("after: 24h", "to: company") + "      - after: 1d\n      - {after: 1d, to: company, channel: chat, template: first}\n", nil},
			"50 steps":               {"campaigns:\n  default:\n    steps:\n" + manySteps(50), nil},
			"almost 1 MiB":           {"campaigns: {default: {steps: [{after: 0s}]}}\n" + strings.Repeat("#", 1<<20-45), nil},
			"quiet, with spaces":     {in("quiet_hours: 19:00 - 08:00"), nil},
		},
	} {
		for name, tc := range list {
			t.Run(group+"/"+name, func(t *testing.T) {
				book, err := campaign.Parse("campaigns.yaml", []byte(tc.file))
				if len(tc.want) == 0 {
					require.NoError(t, err)
					return
				}
				require.Error(t, err)
				assert.Nil(t, book)
				got := strings.Split(err.Error(), "\n")
				require.Len(t, got, len(tc.want), "%s", err)
				for i, want := range tc.want {
					assert.True(t, strings.HasPrefix(got[i], "campaigns.yaml:"+want), "want %s\n got %s", want, got[i])
				}
				assert.NotContains(t, err.Error(), "hunter2")
				assert.NotContains(t, err.Error(), "yaml: ", "the library speaks")
			})
		}
	}
}

func manySteps(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "      - after: %dh\n", i)
	}
	return b.String()
}

func TestParseReportsManyErrorsInOrder(t *testing.T) {
	var file strings.Builder
	file.WriteString("choose: 3\ncampaigns:\n")
	for i := range 30 {
		fmt.Fprintf(&file, "  campaign-%d: {gather: soon, steps: 3}\n", 30-i)
	}
	_, err := campaign.Parse("dir/own.yaml", []byte(file.String()))
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 21)
	assert.True(t, strings.HasPrefix(lines[0], "dir/own.yaml:1:9: choose"), lines[0])
	for i, line := range lines[1:20] {
		part, column := "gather", 25
		if i%2 == 1 {
			part, column = "steps", 38
		}
		want := fmt.Sprintf(`dir/own.yaml:%d:%d: campaigns.campaign-%d.%s is `, 3+i/2, column, 30-i/2, part)
		assert.Contains(t, line, want)
	}
	assert.Equal(t, "dir/own.yaml:12: there are 41 more errors from here on", lines[20])
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "they are joined")
	assert.Len(t, joined.Unwrap(), 21)
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	book, err := campaign.Load(write("right.yaml", everything))
	require.NoError(t, err)
	parsed, err := campaign.Parse("", []byte(everything))
	require.NoError(t, err)
	assert.Equal(t, parsed, book)

	for name, tc := range map[string]struct{ path, want string }{
		"not there":      {filepath.Join(dir, "missing.yaml"), "read the campaigns: open .*missing.yaml: no such file"},
		"a folder":       {dir, "read the campaigns: .*is a directory"},
		"far too large":  {write("large.yaml", strings.Repeat("a: b\n", 1<<20)), `large.yaml:1: the file is larger than 1 MiB`},
		"something else": {write("wrong.yaml", "a: b"), `wrong.yaml:1:1: a is not known`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := campaign.Load(tc.path)
			require.Error(t, err)
			assert.Regexp(t, tc.want, err.Error())
		})
	}
}

// The examples of the documentation are right, and what it calls the built-in
// default is that.
func TestTheDocumentationIsRight(t *testing.T) {
	page, err := os.ReadFile("../../docs/campaigns.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	require.GreaterOrEqual(t, len(examples), 4)
	builtIn := 0
	for i, example := range examples {
		book, err := campaign.Parse(fmt.Sprintf("example %d", i+1), example[1])
		require.NoError(t, err)
		if c, _ := book.Named("default"); strings.Contains(string(example[1]), "# the built-in default") {
			assert.Equal(t, campaign.Default(), c)
			builtIn++
		}
	}
	assert.Equal(t, 1, builtIn)
	for _, key := range []string{"mails_per_day", "gather", "quiet_hours", "days_off", "time_zone", "channel", "steps", "after", "before", "to", "template", "anytime", "application", "provider", "campaign"} {
		assert.Contains(t, string(page), "| `"+key+"` |", "a key without a line")
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{
		everything, "", "#", "---", "campaigns:", "campaigns: {default: {steps: [{after: 0s}]}}", chosen("- {provider: finch, campaign: quiet}"),
		in("mails_per_day: 3", "gather: 1h", "quiet_hours: 00:00-23:59", "days_off: [monday]", "time_zone: Pacific/Apia", "channel: webhook"),
		step("before: 36h", "to: company", "channel: chat", "template: first", "anytime: true"),
		step("after: 9d", "- after: 216h", "  to: company"), step("after: 0.1d"), step("after: 1e1d"), "campaigns: &x\n  a: *x\n",
		"campaigns:\n  default:\n\tsteps: []\n", "a: \"b\n", "a: [b\n", "? a\n: !!binary b\n---\n--- ", "\ufeff{\"campaigns\": {}}", "a: |\n  b\n c\n",
		"campaigns: {a: {steps: [{after: 0s}, {after: 0s}, {after: x}, 3, {}]}, a: 3}\nchoose: [3, {}, {campaign: b}]",
	} {
		f.Add([]byte(file))
	}
	places := regexp.MustCompile(`^campaigns\.yaml:[1-9][0-9]*(:[1-9][0-9]*)?: .`)
	f.Fuzz(func(t *testing.T, data []byte) {
		book, err := campaign.Parse("campaigns.yaml", data)
		again, same := campaign.Parse("campaigns.yaml", data)
		if !reflect.DeepEqual(book, again) || fmt.Sprint(err) != fmt.Sprint(same) {
			t.Fatalf("the same bytes give %+v, %v and %+v, %v", book, err, again, same)
		}
		if err != nil {
			if book != nil {
				t.Errorf("a book beside the error %v", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) > 21 {
				t.Errorf("%d errors", len(lines))
			}
			for _, line := range lines {
				if !places.MatchString(line) {
					t.Errorf("no place: %q", line)
				}
			}
			return
		}
		for _, name := range book.Names() {
			c, ok := book.Named(name)
			if err := c.Check(); !ok || err != nil || c.Name != name {
				t.Errorf("%s, %v: %v", name, ok, err)
			}
		}
	})
}
