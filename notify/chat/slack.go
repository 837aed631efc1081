package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/finch-reauth/reauth/outbound"
)

const slackAPI = "https://slack.com"

// slack speaks Slack's Web API: what an incoming webhook of Slack has said
// cannot be changed.
type slack struct {
	service
	api, token, channel string
}

// newSlack reads what stands behind slack:// in the setting. It is not read as
// a URL, because # begins a fragment there and a channel's name here.
func newSlack(rest string, guard outbound.Guard) (*slack, error) {
	rest, query, _ := strings.Cut(rest, "?")
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return nil, errors.New("chat has no @ between token and channel; want " + slackForm)
	}
	s := &slack{service: newService("Slack", guard), api: slackAPI, token: rest[:at], channel: strings.TrimPrefix(rest[at+1:], "#")}
	if !botToken.MatchString(s.token) {
		return nil, errors.New("chat has no bot token, which begins with xoxb-, before the @; want " + slackForm)
	}
	if s.channel == "" || len(s.channel) > 80 || strings.ContainsFunc(s.channel, notChannel) {
		return nil, errors.New("chat has no channel behind the @: an ID as C0123456789 or a name as ops-reauth; want " + slackForm)
	}
	if !channelID.MatchString(s.channel) {
		if strings.ToLower(s.channel) != s.channel {
			return nil, errors.New("chat names a channel in capitals, which only IDs as C0123456789 have; want " + slackForm)
		}
		s.channel = "#" + s.channel
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("chat has a malformed option; there is only api, as ?api=http://127.0.0.1:8080")
	}
	for name, values := range options {
		if name != "api" || len(values) != 1 {
			return nil, errors.New("chat has an unknown option; there is only api, as ?api=http://127.0.0.1:8080")
		}
		u, err := url.Parse(values[0])
		// The token goes there.
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !loopback(u.Hostname()) || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("chat has an option api that is not an address of this machine, as ?api=http://127.0.0.1:8080")
		}
		s.api = u.Scheme + "://" + u.Host
	}
	return s, nil
}

var (
	botToken  = regexp.MustCompile(`^xoxb-[A-Za-z0-9-]{8,}$`)
	channelID = regexp.MustCompile(`^[CDGU][A-Z0-9]{7,}$`)
)

func notChannel(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
}

// Post posts the message, or changes it where it stands. Where Slack does not
// let it be changed any more, it is posted again.
func (s *slack) Post(ctx context.Context, m Message, ref string) (string, Delivery, error) {
	if err := m.check(); err != nil {
		return ref, Refused, s.failed(Refused, "%s", err)
	}
	message := s.layout(m)
	if at, ok := parseSlackPlace(ref); ok {
		change := message
		change.Channel, change.TS = at.channel, at.ts
		_, f := s.do(ctx, "chat.update", change)
		switch f = f.ofChange(); {
		case f == nil:
			return ref, Sent, nil
		case !f.gone:
			return ref, f.delivery, f
		}
	}
	message.Channel = s.channel
	message.UnfurlLinks, message.UnfurlMedia = new(bool), new(bool)
	at, f := s.do(ctx, "chat.postMessage", message)
	if f != nil {
		return ref, f.delivery, f
	}
	return at.String(), Sent, nil
}

// slackPlace is where a message stands: chat.update takes a channel's ID only,
// so the one that Slack answered with is kept.
type slackPlace struct{ channel, ts string }

func (p slackPlace) String() string { return "slack:" + p.channel + ":" + p.ts }

var slackRef = regexp.MustCompile(`^slack:([A-Z0-9]{2,40}):([0-9]{1,20}\.[0-9]{1,10})$`)

func parseSlackPlace(ref string) (slackPlace, bool) {
	found := slackRef.FindStringSubmatch(ref)
	if found == nil {
		return slackPlace{}, false
	}
	return slackPlace{channel: found[1], ts: found[2]}, true
}

// slackErrors are what is known of Slack's errors. Any other refuses the
// message.
var slackErrors = map[string]struct {
	delivery   Delivery
	gone, form bool
	advice     string
}{
	"ratelimited":                {delivery: Deferred},
	"rate_limited":               {delivery: Deferred},
	"message_limit_exceeded":     {delivery: Deferred},
	"service_unavailable":        {delivery: Deferred},
	"request_timeout":            {delivery: Deferred}, // what we sent arrived broken off
	"team_added_to_org":          {delivery: Deferred},
	"org_login_required":         {delivery: Deferred},
	"external_channel_migrating": {delivery: Deferred},
	// Slack says of these that a part may have been done.
	"fatal_error":    {delivery: Unknown},
	"internal_error": {delivery: Unknown},
	"update_failed":  {delivery: Unknown},

	"message_not_found":   {delivery: Refused, gone: true},
	"cant_update_message": {delivery: Refused, gone: true},
	"edit_window_closed":  {delivery: Refused, gone: true},
	// Of a change, these tell of where the message was; the setting may name
	// another channel by now.
	"channel_not_found": {delivery: Refused, gone: true, advice: "the channel does not exist, or the bot must be invited to it"},
	"is_inactive":       {delivery: Refused, gone: true, advice: "the channel is archived"},
	"is_archived":       {delivery: Refused, gone: true, advice: "the channel is archived"},
	"not_in_channel":    {delivery: Refused, gone: true, advice: "invite the bot to the channel"},

	"invalid_blocks":                    {delivery: Refused, form: true},
	"invalid_blocks_format":             {delivery: Refused, form: true},
	"invalid_attachments":               {delivery: Refused, form: true},
	"attachment_payload_limit_exceeded": {delivery: Refused, form: true},
	"msg_blocks_too_long":               {delivery: Refused, form: true},
	"msg_too_long":                      {delivery: Refused, form: true},

	"invalid_auth":     {delivery: Refused, advice: "the bot's token is wrong"},
	"not_authed":       {delivery: Refused, advice: "the bot's token is wrong"},
	"account_inactive": {delivery: Refused, advice: "the bot's token is no longer valid"},
	"token_revoked":    {delivery: Refused, advice: "the bot's token is no longer valid"},
	"token_expired":    {delivery: Refused, advice: "the bot's token is no longer valid; want one that does not rotate"},
	"missing_scope":    {delivery: Refused, advice: "the bot needs the scope chat:write"},
}

var slackWord = regexp.MustCompile(`^[a-z_]{1,60}$`)

// do calls one method and returns where Slack says the message stands. If Slack
// does not like the form, it gets the plain text: else one message that is odd
// in a way nobody thought of would be refused for ever.
func (s *slack) do(ctx context.Context, method string, message slackMessage) (slackPlace, *failure) {
	at, f := s.try(ctx, method, message)
	if f != nil && f.form {
		message.Blocks, message.Attachments = []slackBlock{}, []slackAttachment{}
		at, f = s.try(ctx, method, message)
	}
	return at, f
}

func (s *slack) try(ctx context.Context, method string, message slackMessage) (slackPlace, *failure) {
	header := http.Header{"Authorization": {"Bearer " + s.token}}
	a, f := s.call(ctx, http.MethodPost, s.api+"/api/"+method, header, message)
	if f != nil {
		f.text = method + ": " + f.text
		return slackPlace{}, f
	}
	var said struct {
		OK      bool   `json:"ok"`
		Error   string `json:"error"`
		Channel string `json:"channel"`
		TS      string `json:"ts"`
	}
	if json.Unmarshal(a.body, &said) != nil {
		said.OK, said.Error = false, ""
	}
	// Slack says no with 200 as a rule. What a gateway in front of it says is
	// judged by its status.
	_, known := slackErrors[said.Error]
	f = s.judge(a)
	switch {
	case said.Error != "" && (f == nil || known && a.status != http.StatusTooManyRequests):
		return slackPlace{}, s.refusal(method, said.Error, a)
	case f != nil:
		f.text = method + ": " + f.text
		return slackPlace{}, f
	case !said.OK:
		return slackPlace{}, s.failed(Unknown, "%s: the answer is not one of Slack's", method)
	}
	at := slackPlace{said.Channel, said.TS}
	if _, ok := parseSlackPlace(at.String()); !ok {
		return slackPlace{}, s.failed(Unknown, "%s: the answer does not say where the message stands", method)
	}
	return at, nil
}

func (s *slack) refusal(method, word string, a answer) *failure {
	known, ok := slackErrors[word]
	if !ok {
		known.delivery = Refused
	}
	if !slackWord.MatchString(word) {
		word = "an error whose name is not a word" // nothing of it may be printed
	}
	f := s.failed(known.delivery, "%s: %s", method, word)
	if known.advice != "" {
		f.text += ": " + known.advice
	}
	f.gone, f.form = known.gone, known.form
	if f.delivery == Deferred {
		if f.retryAfter = retryAfter(a.header); f.retryAfter == 0 {
			f.retryAfter = defaultRetryAfter
		}
	}
	return f
}

// slackMessage is a message as both methods take it.
type slackMessage struct {
	Channel string `json:"channel"`
	TS      string `json:"ts,omitempty"`
	// Text is what notifications and screen readers say.
	Text   string       `json:"text"`
	Blocks []slackBlock `json:"blocks"`
	// Attachments hold the details, for the sake of their colour. It is never
	// left out: chat.update would keep the old ones.
	Attachments []slackAttachment `json:"attachments"`
	// Parse is "none"; for chat.update the default is "client", which finds
	// mentions in plain text.
	Parse       string `json:"parse"`
	UnfurlLinks *bool  `json:"unfurl_links,omitempty"`
	UnfurlMedia *bool  `json:"unfurl_media,omitempty"`
}

type slackAttachment struct {
	Color  string       `json:"color"`
	Blocks []slackBlock `json:"blocks"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text,omitempty"`
	Fields   []slackText `json:"fields,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Verbatim keeps Slack from looking for names and addresses in the text.
	Verbatim bool `json:"verbatim"`
}

func (s *slack) layout(m Message) slackMessage {
	p := m.page(mrkdwn, richLimits)
	message := slackMessage{
		Text:        p.mark + " " + p.title,
		Blocks:      []slackBlock{slackSection(p.mark + " *" + p.title + "*")},
		Attachments: []slackAttachment{},
		Parse:       "none",
	}
	if p.problem != "" {
		message.Text += ": " + p.problem
		message.Blocks = append(message.Blocks, slackSection(p.problem))
	}

	var details []slackBlock
	if len(p.facts) > 0 {
		facts := slackBlock{Type: "section"}
		for _, fact := range p.facts {
			if fact.Label != "" {
				fact.Value = "*" + fact.Label + "*\n" + fact.Value
			}
			facts.Fields = append(facts.Fields, slackMarkup(fact.Value))
		}
		details = append(details, facts)
	}
	if len(p.lines) > 0 {
		details = append(details, slackSection("• "+strings.Join(p.lines, "\n• ")))
	}
	if len(p.links) > 0 {
		links := make([]string, len(p.links))
		for i, link := range p.links {
			// The first | ends the address.
			links[i] = "<" + link.URL + "|" + link.Name + ">"
		}
		details = append(details, slackSection(strings.Join(links, " · ")))
	}
	if p.key != "" {
		details = append(details, slackBlock{Type: "context", Elements: []slackText{slackMarkup(p.key)}})
	}
	if len(details) > 0 {
		message.Attachments = append(message.Attachments, slackAttachment{Color: fmt.Sprintf("#%06x", p.color), Blocks: details})
	}
	return message
}

func slackSection(text string) slackBlock {
	t := slackMarkup(text)
	return slackBlock{Type: "section", Text: &t}
}

func slackMarkup(text string) slackText { return slackText{Type: "mrkdwn", Text: text, Verbatim: true} }
