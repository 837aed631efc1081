package campaign

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/yamlfile"
)

const (
	wantFile      = `it must have "campaigns", and may have "choose"`
	wantCampaigns = `it must have one campaign or more by name, as default: {steps: [{after: 0s}, {after: 2d}]}`
	wantCampaign  = `it must have "steps", as steps: [{after: 0s}, {after: 2d}]`
	wantSteps     = `it must be a list of steps, as [{after: 0s}, {after: 2d}]`
	wantStep      = `it must have "after", as in {after: 2d}, or "before", as in {before: 24h}, and not both`
	wantAnytime   = `it must be true or false`
	wantWord      = `it must be a word; leave the key out for the usual`
	wantChoose    = `it must be a list of choices, as [{application: sandbox, campaign: quiet}]`
	wantChoice    = `it must have "campaign", and "application" or "provider" or both, as {application: sandbox, campaign: quiet}`
	wantName      = `it must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit`
)

// file is what a file of campaigns is.
var file = yamlfile.Kind{Of: "campaigns", Example: "campaigns: {default: {steps: [{after: 0s}, {after: 2d}]}}"}

// Load reads a file of campaigns; docs/campaigns.md says how one looks. The
// error says everything that is wrong with it, as Parse does.
func Load(path string) (*Book, error) { return yamlfile.Load(file, path, readBook) }

// Parse reads the content of a file of campaigns, which has the given name. The
// error joins what is wrong with it, in the order of the lines, each with the
// name, the line and the column, and with what would be right; twenty at most.
func Parse(name string, data []byte) (*Book, error) {
	return yamlfile.Parse(file, name, data, readBook)
}

func readBook(r *yamlfile.Reader, root *yaml.Node) *Book { return reading{r}.book(root) }

// reading is a file while it is read.
type reading struct{ *yamlfile.Reader }

// book reads a whole file.
func (r reading) book(root *yaml.Node) *Book {
	if root.Kind != yaml.MappingNode { // its text, which may be anything, is not repeated
		r.At(root, "the file", "has no keys; %s", wantFile)
		return nil
	}
	fields, _ := r.Mapping(root, "", wantFile, "campaigns", "choose")
	b := &Book{campaigns: map[string]Campaign{DefaultName: Default()}}
	var campaigns, choose *yaml.Node
	for _, f := range fields {
		switch f.Name {
		case "campaigns":
			campaigns = f.Value
		case "choose":
			choose = f.Value
		}
	}
	if campaigns == nil {
		if yamlfile.Complete(root, fields) {
			r.At(root, "the file", "has no campaigns; %s", wantFile)
		}
		return nil
	}
	named, ok := r.Mapping(campaigns, "campaigns", wantCampaigns)
	if ok && len(named) == 0 {
		r.At(campaigns, "campaigns", "has no entry; %s", wantCampaigns)
	}
	for _, f := range named {
		b.campaigns[f.Name] = r.campaign(f)
	}
	if choose != nil && ok {
		b.choices = r.choices(choose, b.Names())
	}
	return b
}

// page is a campaign while it is read.
type page struct {
	reading
	path  string
	nodes map[string]*yaml.Node // by part, as a problem has it
	told  map[string]bool       // the parts of which the reader knows already
}

// wrong says that a part is not what it must be.
func (p *page) wrong(part, want string) {
	p.told[part] = true
	p.Reader.Wrong(p.nodes[part], yamlfile.Join(p.path, part), want)
}

// report says what Check would say, with its place.
func (p *page) report(all problems) {
	for _, q := range all {
		if p.told[q.part] {
			continue
		}
		near := q.part
		for p.nodes[near] == nil {
			near = near[:max(0, strings.LastIndexAny(near, ".["))]
		}
		p.At(p.nodes[near], yamlfile.Join(p.path, q.part), "%s", q.text)
	}
}

// campaign reads one campaign. What it does not say is as in Default.
func (r reading) campaign(named yamlfile.Field) Campaign {
	c := Default()
	c.Name, c.Steps = named.Name, nil
	p := &page{reading: r, path: "campaigns." + yamlfile.Word(named.Name), nodes: map[string]*yaml.Node{"": named.Key}, told: map[string]bool{}}
	fields, ok := r.Mapping(named.Value, p.path, wantCampaign,
		"mails_per_day", "gather", "quiet_hours", "days_off", "time_zone", "channel", "steps")
	if !ok {
		return c
	}
	channel := Mail
	for _, f := range fields {
		p.nodes[f.Name] = f.Value
		switch f.Name {
		case "mails_per_day":
			c.PerDay = p.number(f.Name, wantPerDay)
		case "gather":
			c.Gather = p.duration(f.Name, wantGather)
		case "quiet_hours":
			c.Hours.QuietFrom, c.Hours.QuietUntil = p.quietHours(f.Name)
		case "days_off":
			c.Hours.DaysOff = p.days(f.Name)
		case "time_zone":
			if c.Hours.TimeZone = p.text(f.Name, wantZone); c.Hours.TimeZone == "" && !p.told[f.Name] {
				p.wrong(f.Name, wantZone)
			}
		case "channel":
			channel = p.channel(f.Name)
		}
	}
	if n := p.nodes["steps"]; n != nil {
		c.Steps = p.steps(n, channel)
	} else {
		p.told["steps"] = !yamlfile.Complete(named.Value, fields)
	}
	p.report(c.problems())
	return c
}

// channel reads the channel of the steps that name none.
func (p *page) channel(part string) Channel {
	channel := Channel(p.text(part, wantWord))
	var all problems
	channel.addProblems(&all, part)
	if p.report(all); len(all) > 0 {
		return Mail
	}
	return channel
}

// steps reads the steps. Those of which something essential is missing stay in
// the list, so that the others keep their places.
func (p *page) steps(n *yaml.Node, channel Channel) []Step {
	if n.Kind != yaml.SequenceNode {
		p.wrong("steps", wantSteps)
		return nil
	}
	steps := make([]Step, len(n.Content))
	for i, entry := range n.Content {
		part := stepPart(i)
		p.nodes[part] = entry
		steps[i] = p.step(part, entry, channel)
		p.key(steps, i)
	}
	return steps
}

func (p *page) step(part string, n *yaml.Node, channel Channel) Step {
	step := Step{Audience: Primary, Channel: channel}
	fields, ok := p.Mapping(n, yamlfile.Join(p.path, part), wantStep, "after", "before", "to", "channel", "template", "anytime")
	if !ok {
		p.told[part] = true
		return newStep(0, 0)
	}
	moments := 0
	for _, f := range fields {
		at := yamlfile.Join(part, f.Name)
		p.nodes[at] = f.Value
		switch f.Name {
		case "after":
			step.After = p.duration(at, wantAfter)
			moments++
		case "before":
			if step.Before = p.duration(at, wantBefore); step.Before == 0 && !p.told[at] {
				p.wrong(at, "it must be more than nothing; "+wantBefore)
			}
			moments++
		case "to":
			step.Audience = Audience(p.text(at, wantWord))
		case "channel":
			step.Channel = Channel(p.text(at, wantWord))
		case "template":
			if step.Template = Template(p.text(at, wantWord)); step.Template == Auto && !p.told[at] {
				p.wrong(at, wantWord)
			}
		case "anytime":
			step.Anytime = p.yes(at)
		}
	}
	if moments == 0 && !yamlfile.Complete(n, fields) {
		p.told[part] = true
	} else if moments != 1 {
		p.told[part] = true
		p.At(n, yamlfile.Join(p.path, part), "has %s; %s", map[int]string{0: "no moment", 2: "two moments"}[moments], wantStep)
	}
	if p.told[part+".after"] || p.told[part+".before"] {
		p.told[part] = true
	}
	return step
}

// key gives the last of some steps its key, which derives from its moment. Where
// an earlier step has that moment, audience and channel tell the two apart.
func (p *page) key(steps []Step, i int) {
	part, step := stepPart(i), &steps[i]
	if p.told[part] {
		step.Key = part
		return
	}
	step.Key = newStep(step.After, step.Before).Key
	for j, other := range steps[:i] {
		if p.told[stepPart(j)] || other.After != step.After || other.Before != step.Before {
			continue
		}
		if other.Audience == step.Audience && other.Channel == step.Channel {
			p.At(p.nodes[part], yamlfile.Join(p.path, part), "is %s in line %d once more: both are due %s, to %s, by %s; leave one of them out",
				stepPart(j), p.nodes[stepPart(j)].Line, newStep(step.After, step.Before).Words(), yamlfile.Word(string(step.Audience)), yamlfile.Word(string(step.Channel)))
			p.told[part], step.Key = true, part
			return
		}
		step.Key = fmt.Sprintf("%s-%s-%s", newStep(step.After, step.Before).Key, step.Audience, step.Channel)
	}
}

// text reads a single value; "" where it is none.
func (p *page) text(part, want string) string {
	if n := p.nodes[part]; n.Kind == yaml.ScalarNode && !yamlfile.IsNull(n) {
		return n.Value
	}
	p.wrong(part, want)
	return ""
}

// duration reads a duration as reauth.Input has them, but no negative one.
func (p *page) duration(part, want string) time.Duration {
	text := p.text(part, want)
	if p.told[part] {
		return 0
	}
	parsed, err := reauth.ParseReminders([]string{text})
	switch {
	case err != nil:
		p.wrong(part, want)
	case parsed[0].Before > 0 && strings.HasSuffix(part, "].after"):
		p.wrong(part, `a step before the deadline has "before" for "after", without the minus`)
	case parsed[0].Before > 0:
		p.wrong(part, want)
	case parsed[0].After%time.Second != 0:
		p.wrong(part, "it must be whole seconds")
	default:
		return parsed[0].After
	}
	return 0
}

var wholeNumber = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})$`)

func (p *page) number(part, want string) int {
	n := p.nodes[part]
	if n.Tag != "!!int" || !wholeNumber.MatchString(n.Value) {
		p.wrong(part, want)
		return 0
	}
	number, _ := strconv.Atoi(n.Value)
	return number
}

func (p *page) yes(part string) bool {
	n := p.nodes[part]
	if n.Tag != "!!bool" {
		p.wrong(part, wantAnytime)
	}
	return strings.EqualFold(n.Value, "true")
}

var quietHours = regexp.MustCompile(`^([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})$`)

func (p *page) quietHours(part string) (from, until int) {
	text := p.text(part, wantQuiet)
	if text == "none" || p.told[part] {
		return 0, 0
	}
	m := quietHours.FindStringSubmatch(text)
	if m == nil {
		p.wrong(part, wantQuiet)
		return 0, 0
	}
	var minutes [2]int
	for i := range minutes {
		hour, _ := strconv.Atoi(m[1+2*i])
		minute, _ := strconv.Atoi(m[2+2*i])
		if hour > 23 || minute > 59 {
			p.wrong(part, "a time of day is from 00:00 to 23:59")
			return 0, 0
		}
		minutes[i] = hour*60 + minute
	}
	if minutes[0] == minutes[1] {
		p.wrong(part, "that could mean no hour or every hour; none means that no hour is quiet")
	}
	return minutes[0], minutes[1]
}

func (p *page) days(part string) []time.Weekday {
	n := p.nodes[part]
	if n.Kind == yaml.ScalarNode && n.Value == "none" {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.wrong(part, wantDays)
		return nil
	}
	var names []string
	for d := time.Sunday; d <= time.Saturday; d++ {
		names = append(names, strings.ToLower(d.String()))
	}
	var days []time.Weekday
	for i, entry := range n.Content {
		d := slices.Index(names, strings.ToLower(entry.Value))
		if d < 0 {
			p.Reader.Wrong(entry, fmt.Sprintf("%s[%d]", yamlfile.Join(p.path, part), i),
				yamlfile.DidYouMean(entry.Value, names)+"it must be a day of the week, as saturday")
			continue
		}
		days = append(days, time.Weekday(d))
	}
	return days
}

// choices reads which connections follow which campaign.
func (r reading) choices(n *yaml.Node, names []string) []choice {
	if yamlfile.IsNull(n) { // every choice is commented out
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.Wrong(n, "choose", wantChoose)
		return nil
	}
	choices := make([]choice, 0, len(n.Content))
	for i, entry := range n.Content {
		path := fmt.Sprintf("choose[%d]", i)
		c, ok := r.choice(entry, path, names)
		if !ok {
			continue
		}
		if j := slices.IndexFunc(choices, func(earlier choice) bool { return earlier.covers(c) }); j >= 0 {
			r.At(entry, path, "never applies, since the choice in line %d comes first; put this one before it, or leave it out", choices[j].line)
		}
		choices = append(choices, c)
	}
	return choices
}

func (r reading) choice(n *yaml.Node, path string, names []string) (choice, bool) {
	c := choice{line: n.Line}
	fields, ok := r.Mapping(n, path, wantChoice, "application", "provider", "campaign")
	if !ok {
		return c, false
	}
	for _, f := range fields {
		at := yamlfile.Join(path, f.Name)
		text := f.Value.Value
		if f.Value.Kind != yaml.ScalarNode || yamlfile.IsNull(f.Value) || reauth.CheckCampaignName(text) != nil {
			r.Wrong(f.Value, at, wantName)
			ok = false
			continue
		}
		switch f.Name {
		case "application":
			c.application = text
		case "provider":
			c.provider = reauth.Provider(text)
		case "campaign":
			c.campaign = text
			if !slices.Contains(names, text) {
				r.Wrong(f.Value, at, yamlfile.DidYouMean(text, names)+"the campaigns are "+strings.Join(names, ", "))
				ok = false
			}
		}
	}
	switch {
	case !ok || !yamlfile.Complete(n, fields):
		ok = false
	case c.campaign == "":
		r.At(n, path, "names no campaign; %s", wantChoice)
		ok = false
	case c.application == "" && c.provider == "":
		r.At(n, path, `fits every connection; %s; the campaign "default" is for all the others`, wantChoice)
		ok = false
	}
	return c, ok
}
