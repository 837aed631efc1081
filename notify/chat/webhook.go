package chat

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/finch-reauth/reauth/outbound"
)

// webhook speaks to an incoming webhook that is not Discord's. It cannot change
// what it has said.
type webhook struct {
	service
	address string
	dialect dialect
}

// dialect is what is known of a webhook by its host.
type dialect struct {
	markup markup
	// body makes the request's body of the lines of a message.
	body func(lines []string) any
}

func newWebhook(u *url.URL, guard outbound.Guard) *webhook {
	return &webhook{service: newService("incoming webhook", guard), address: u.String(), dialect: dialectOf(u.Hostname())}
}

func dialectOf(host string) dialect {
	host = strings.ToLower(host)
	switch {
	case host == "hooks.slack.com" || host == "hooks.slack-gov.com":
		return dialect{mrkdwn, slackWebhookBody}
	case slices.ContainsFunc(teamsHosts, func(domain string) bool { return strings.HasSuffix(host, domain) }):
		return dialect{neutral, teamsBody}
	}
	return dialect{neutral, textBody}
}

// Post posts the message if it matters: it is the first about this case, only
// an operator can help now, or the case is over. The ref remembers the state
// that was seen last, so that nothing is said twice.
func (w *webhook) Post(ctx context.Context, m Message, ref string) (string, Delivery, error) {
	if err := m.check(); err != nil {
		return ref, Refused, w.failed(Refused, "%s", err)
	}
	next := webhookRefPrefix + string(m.State)
	if last, ok := parseWebhookRef(ref); ok && (m.State == last || m.State == Open) {
		return next, Sent, nil
	}
	a, f := w.call(ctx, http.MethodPost, w.address, nil, w.dialect.body(w.layout(m)))
	if f == nil {
		f = w.judge(a)
	}
	if f != nil {
		return ref, f.delivery, f
	}
	return next, Sent, nil
}

const webhookRefPrefix = "webhook:"

func parseWebhookRef(ref string) (State, bool) {
	state, ok := strings.CutPrefix(ref, webhookRefPrefix)
	return State(state), ok && slices.Contains(States(), State(state))
}

func (w *webhook) layout(m Message) []string {
	p := m.page(w.dialect.markup, textLimits)
	lines := []string{p.mark + " " + p.title}
	if p.problem != "" {
		lines = append(lines, p.problem)
	}
	for _, fact := range p.facts {
		if fact.Label != "" {
			fact.Value = fact.Label + ": " + fact.Value
		}
		lines = append(lines, fact.Value)
	}
	for _, line := range p.lines {
		lines = append(lines, "• "+line)
	}
	for _, link := range p.links {
		// Bare, because the chats agree on no other way to write a link.
		lines = append(lines, link.Name+": "+link.URL)
	}
	if p.key != "" {
		lines = append(lines, p.key)
	}
	return lines
}

// textBody is what Mattermost, Google Chat and most others take. It has nothing
// but the text: Google Chat refuses what it does not know.
func textBody(lines []string) any {
	return map[string]any{"text": strings.Join(lines, "\n")}
}

func slackWebhookBody(lines []string) any {
	return map[string]any{"text": strings.Join(lines, "\n"), "unfurl_links": false, "unfurl_media": false}
}

var teamsHosts = []string{".logic.azure.com", ".logic.azure.us", ".api.powerplatform.com", ".api.powerplatform.us", ".webhook.office.com"}

// teamsBody is what a workflow of Teams takes. Its template answers 202 to a
// bare text, too, and then shows nothing.
func teamsBody(lines []string) any {
	blocks := make([]any, len(lines))
	for i, line := range lines {
		block := map[string]any{"type": "TextBlock", "text": line, "wrap": true, "spacing": "Small"}
		if i == 0 {
			block["weight"] = "Bolder"
		}
		blocks[i] = block
	}
	return map[string]any{
		"type": "message",
		"attachments": []any{map[string]any{
			"contentType": "application/vnd.microsoft.card.adaptive",
			"content": map[string]any{
				"$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
				"type":    "AdaptiveCard", "version": "1.4", "body": blocks,
			},
		}},
	}
}
