package chat

import (
	"time"

	"github.com/finch-reauth/reauth/outbound"
)

// SetTimeout changes how long a chat may take for one call, and returns how
// long it was.
func SetTimeout(p Poster, d time.Duration) (was time.Duration) {
	var s service
	switch p := p.(type) {
	case *slack:
		s = p.service
	case *discord:
		s = p.service
	case *webhook:
		s = p.service
	}
	was, s.client.Timeout = s.client.Timeout, d
	return was
}

// WebhookBody returns what an incoming webhook on a host is sent.
func WebhookBody(host string, m Message) any {
	w := &webhook{service: newService("incoming webhook", outbound.Guard{}), dialect: dialectOf(host)}
	return w.dialect.body(w.layout(m))
}

// SlackText, DiscordText and NeutralText write a text in a chat's markup.
var (
	SlackText   = mrkdwn.text
	DiscordText = markdown.text
	NeutralText = neutral.text
)
