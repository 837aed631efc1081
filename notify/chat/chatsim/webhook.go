package chatsim

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
)

func webhookFaults(k Knobs) reply {
	if k.Fault == FaultRateLimit {
		return reply{http.StatusTooManyRequests, k.retryAfter(), "rate_limited"}
	}
	text := k.Error
	if text == "" {
		text = "told to fail"
	}
	return reply{status: k.status(), body: text}
}

// webhookPing is what calls somebody in Slack, Mattermost or Google Chat.
var webhookPing = regexp.MustCompile(`<[@!][^>]*>|<users/[^>]*>|@[A-Za-z0-9]+`)

func (s *Server) webhookPost(q request) reply {
	var m struct {
		Text string `json:"text"`
	}
	switch {
	case q.PathValue("token") != s.secret:
		return reply{status: http.StatusNotFound, body: "no_service"}
	case json.Unmarshal(q.body, &m) != nil:
		return reply{status: http.StatusBadRequest, body: "invalid_payload"}
	case m.Text == "":
		return reply{status: http.StatusBadRequest, body: "no_text"}
	case length(m.Text) > 4000:
		return reply{status: http.StatusBadRequest, body: "msg_too_long"}
	}
	s.add(Message{Service: Webhook, Text: m.Text, Pings: webhookPing.FindAllString(m.Text, -1), Body: q.body}, strconv.Itoa)
	return reply{status: http.StatusOK, body: "ok"}
}
