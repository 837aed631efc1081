package chatsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

type discordMessage struct {
	Content         string         `json:"content"`
	Embeds          []discordEmbed `json:"embeds"`
	AllowedMentions *struct {
		Parse []string `json:"parse"`
	} `json:"allowed_mentions"`
}

type discordEmbed struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Color       int    `json:"color"`
	Fields      []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"fields"`
	Footer *struct {
		Text string `json:"text"`
	} `json:"footer"`
}

func discordSays(status, code int, message string) reply {
	return reply{status: status, body: map[string]any{"message": message, "code": code}}
}

func discordFaults(k Knobs) reply {
	if k.Fault == FaultRateLimit {
		seconds, _ := strconv.ParseFloat(k.retryAfter()["Retry-After"], 64)
		return reply{http.StatusTooManyRequests, k.retryAfter(),
			map[string]any{"message": "You are being rate limited.", "retry_after": seconds, "global": false}}
	}
	code, _ := strconv.Atoi(k.Error)
	return discordSays(k.status(), code, "told to fail")
}

func (s *Server) discordPost(q request) reply {
	m, refusal := s.discordMessage(q)
	if refusal != nil {
		return *refusal
	}
	kept := s.add(m.shown(q), func(number int) string { return fmt.Sprintf("12%017d", number) })
	if q.URL.Query().Get("wait") != "true" {
		return reply{status: http.StatusNoContent}
	}
	return reply{status: http.StatusOK, body: map[string]any{"id": kept.ID, "content": m.Content}}
}

func (s *Server) discordUpdate(q request) reply {
	m, refusal := s.discordMessage(q)
	if refusal != nil {
		return *refusal
	}
	kept := m.shown(q)
	kept.ID = q.PathValue("message")
	if !s.change(kept) {
		return discordSays(http.StatusNotFound, 10008, "Unknown Message")
	}
	return reply{status: http.StatusOK, body: map[string]any{"id": kept.ID, "content": m.Content}}
}

func (s *Server) discordMessage(q request) (discordMessage, *reply) {
	var m discordMessage
	refuse := func(status, code int, message string) (discordMessage, *reply) {
		r := discordSays(status, code, message)
		return m, &r
	}
	switch {
	case q.PathValue("webhook") != discordWebhook:
		return refuse(http.StatusNotFound, 10015, "Unknown Webhook")
	case q.PathValue("token") != s.secret:
		return refuse(http.StatusUnauthorized, 50027, "Invalid Webhook Token")
	case !strings.HasPrefix(q.Header.Get("Content-Type"), "application/json"), json.Unmarshal(q.body, &m) != nil, !m.fits():
		return refuse(http.StatusBadRequest, 50035, "Invalid Form Body")
	case m.Content == "" && len(m.Embeds) == 0:
		return refuse(http.StatusBadRequest, 50006, "Cannot send an empty message")
	}
	return m, nil
}

// fits reports whether the message keeps to Discord's limits.
func (m discordMessage) fits() bool {
	within := func(s string, least, most int) bool { return length(s) >= least && length(s) <= most }
	ok, all := within(m.Content, 0, 2000) && len(m.Embeds) <= 10, 0
	for _, embed := range m.Embeds {
		ok = ok && within(embed.Title, 0, 256) && within(embed.Description, 0, 4096) && len(embed.Fields) <= 25
		all += length(embed.Title) + length(embed.Description)
		for _, field := range embed.Fields {
			ok = ok && within(field.Name, 1, 256) && within(field.Value, 1, 1024)
			all += length(field.Name) + length(field.Value)
		}
		if embed.Footer != nil {
			ok = ok && within(embed.Footer.Text, 0, 2048)
			all += length(embed.Footer.Text)
		}
		ok = ok && (embed.Title != "" || embed.Description != "" || len(embed.Fields) > 0 || embed.Footer != nil)
	}
	return ok && all <= 6000
}

var (
	discordPing   = regexp.MustCompile(`@everyone|@here|<@[&!]?[0-9]+>`)
	discordLink   = regexp.MustCompile(`([^\\]|^)\[((?:\\.|[^\]])*)\]\((https?://[^)]*)\)`)
	discordEscape = regexp.MustCompile(`\\([^0-9A-Za-z\s])`)
)

// shown is the message as a person sees it.
func (m discordMessage) shown(q request) Message {
	kept := Message{Service: Discord, Body: q.body}
	lines := []string{m.Content}
	if m.AllowedMentions == nil || m.AllowedMentions.Parse == nil || len(m.AllowedMentions.Parse) > 0 {
		kept.Pings = discordPing.FindAllString(m.Content, -1)
	}
	for _, embed := range m.Embeds {
		kept.Color = fmt.Sprintf("#%06x", embed.Color)
		lines = append(lines, embed.Title, embed.Description)
		for _, field := range embed.Fields {
			lines = append(lines, field.Name, field.Value)
		}
	}
	text := discordLink.ReplaceAllString(join(lines), "$1$2 ($3)")
	kept.Text = discordEscape.ReplaceAllString(text, "$1")
	for _, embed := range m.Embeds {
		if embed.Footer != nil {
			kept.Text += "\n" + embed.Footer.Text // which has no markup
		}
	}
	return kept
}

// join puts what is not empty on lines of its own.
func join(lines []string) string {
	var kept []string
	for _, line := range lines {
		if line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
