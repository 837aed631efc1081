package chat

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/finch-reauth/reauth/outbound"
)

// discord speaks to a webhook of Discord, which can change what it has said.
type discord struct {
	service
	address string // of the webhook
	query   url.Values
}

var (
	discordHosts = []string{"discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com"}
	discordPath  = regexp.MustCompile(`^/api(?:/v[0-9]{1,3})?/webhooks/([0-9]{1,25})/([A-Za-z0-9_-]{1,200})/?$`)
	discordID    = regexp.MustCompile(`^[0-9]{1,25}$`)
)

// isDiscord reports whether the URL is Discord's, or could be that of a stand-in
// on this machine.
func isDiscord(u *url.URL) bool {
	return slices.Contains(discordHosts, strings.ToLower(u.Hostname())) ||
		loopback(u.Hostname()) && discordPath.MatchString(u.Path)
}

func newDiscord(u *url.URL, guard outbound.Guard) (*discord, error) {
	found := discordPath.FindStringSubmatch(u.Path)
	if found == nil {
		return nil, errors.New("chat is at Discord but not a webhook's URL; want " + discordForm)
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("chat has a malformed option; Discord's webhooks have only thread_id, as " + discordForm + "?thread_id=123")
	}
	d := &discord{service: newService("Discord", guard), query: url.Values{}}
	for name, values := range options {
		switch {
		case name == "wait": // always set
		case name == "thread_id" && len(values) == 1 && discordID.MatchString(values[0]):
			d.query.Set(name, values[0])
		default:
			return nil, errors.New("chat has an unknown option; Discord's webhooks have only thread_id, as " + discordForm + "?thread_id=123")
		}
	}
	base := "https://discord.com"
	if loopback(u.Hostname()) {
		base = u.Scheme + "://" + u.Host
	}
	// Without a version Discord answers as its version 6 did, which counts
	// Retry-After in milliseconds.
	d.address = base + "/api/v10/webhooks/" + found[1] + "/" + found[2]
	return d, nil
}

const discordRefPrefix = "discord:"

// Post posts the message, or changes it where it stands. Where Discord does not
// let it be changed any more, it is posted again.
func (d *discord) Post(ctx context.Context, m Message, ref string) (string, Delivery, error) {
	if err := m.check(); err != nil {
		return ref, Refused, d.failed(Refused, "%s", err)
	}
	message := d.layout(m)
	if id, ok := strings.CutPrefix(ref, discordRefPrefix); ok && discordID.MatchString(id) {
		_, f := d.do(ctx, "change", http.MethodPatch, d.at("/messages/"+id, nil), message)
		switch f = f.ofChange(); {
		case f == nil:
			return ref, Sent, nil
		case !f.gone:
			return ref, f.delivery, f
		}
	}
	// Without wait the answer comes before the message is kept, and has no ID.
	id, f := d.do(ctx, "post", http.MethodPost, d.at("", url.Values{"wait": {"true"}}), message)
	if f != nil {
		return ref, f.delivery, f
	}
	return discordRefPrefix + id, Sent, nil
}

// at returns the webhook's address with something added to path and query.
func (d *discord) at(path string, query url.Values) string {
	all := url.Values{}
	for _, values := range []url.Values{d.query, query} {
		for name, value := range values {
			all[name] = value
		}
	}
	address := d.address + path
	if len(all) > 0 {
		address += "?" + all.Encode()
	}
	return address
}

// discordErrors are what is known of Discord's errors.
var discordErrors = map[int]struct {
	gone, later, form bool
	advice            string
}{
	10003:  {advice: "the channel is gone"},
	10008:  {gone: true},
	10015:  {advice: "the webhook is gone; make a new one"},
	30046:  {later: true}, // too many changes of an old message
	50005:  {gone: true},  // another webhook's message
	50027:  {advice: "the webhook's token is wrong"},
	50035:  {form: true},
	50083:  {gone: true}, // in an archived thread, which a new message opens
	220001: {advice: "a forum's webhook needs ?thread_id="},
}

// do makes a call and returns the ID of the message. If Discord does not like
// the form, it gets the headline alone: else one message that is odd in a way
// nobody thought of would be refused for ever.
func (d *discord) do(ctx context.Context, name, method, address string, message discordMessage) (string, *failure) {
	id, f := d.try(ctx, name, method, address, message)
	if f != nil && f.form {
		message.Embeds = []discordEmbed{}
		id, f = d.try(ctx, name, method, address, message)
	}
	return id, f
}

func (d *discord) try(ctx context.Context, name, method, address string, message discordMessage) (string, *failure) {
	a, f := d.call(ctx, method, address, nil, message)
	if f != nil {
		f.text = name + ": " + f.text
		return "", f
	}
	var said struct {
		ID   string `json:"id"`
		Code int    `json:"code"`
	}
	if json.Unmarshal(a.body, &said) != nil {
		said.ID, said.Code = "", 0
	}
	if f = d.judge(a); f != nil {
		f.text = name + ": " + f.text
		if known, ok := discordErrors[said.Code]; ok && f.delivery == Refused {
			f.text += " (code " + strconv.Itoa(said.Code) + ")"
			if known.advice != "" {
				f.text += ": " + known.advice
			}
			if f.gone, f.form = known.gone, known.form; known.later {
				f.delivery, f.retryAfter = Deferred, defaultRetryAfter
			}
		}
		return "", f
	}
	if !discordID.MatchString(said.ID) {
		return "", d.failed(Unknown, "%s: the answer does not say which message it is", name)
	}
	return said.ID, nil
}

type discordMessage struct {
	Content string         `json:"content"`
	Embeds  []discordEmbed `json:"embeds"`
	// AllowedMentions allow none.
	AllowedMentions struct {
		Parse []string `json:"parse"`
	} `json:"allowed_mentions"`
}

type discordEmbed struct {
	Description string         `json:"description,omitempty"`
	Color       int            `json:"color"`
	Fields      []discordField `json:"fields,omitempty"`
	Footer      *discordFooter `json:"footer,omitempty"`
}

type discordField struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Inline bool   `json:"inline"`
}

type discordFooter struct {
	Text string `json:"text"`
}

func (d *discord) layout(m Message) discordMessage {
	p := m.page(markdown, richLimits)
	message := discordMessage{Content: p.mark + " **" + p.title + "**", Embeds: []discordEmbed{}}
	message.AllowedMentions.Parse = []string{}

	var parts []string
	if p.problem != "" {
		parts = append(parts, p.problem)
	}
	if len(p.lines) > 0 {
		parts = append(parts, "• "+strings.Join(p.lines, "\n• "))
	}
	if len(p.links) > 0 {
		links := make([]string, len(p.links))
		for i, link := range p.links {
			links[i] = "[" + link.Name + "](" + link.URL + ")"
		}
		parts = append(parts, strings.Join(links, " · "))
	}
	embed := discordEmbed{Color: p.color, Description: strings.Join(parts, "\n\n")}
	for _, fact := range p.facts {
		if fact.Label == "" {
			fact.Label = "–" // a name is needed
		}
		embed.Fields = append(embed.Fields, discordField{Name: fact.Label, Value: fact.Value, Inline: true})
	}
	if key := plain.text(m.Key, richLimits.key); key != "" {
		embed.Footer = &discordFooter{Text: key}
	}
	if embed.Description != "" || len(embed.Fields) > 0 || embed.Footer != nil {
		message.Embeds = append(message.Embeds, embed)
	}
	return message
}
