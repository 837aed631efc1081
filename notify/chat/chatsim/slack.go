package chatsim

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf16"
)

type slackMessage struct {
	Channel     string       `json:"channel"`
	TS          string       `json:"ts"`
	Text        string       `json:"text"`
	Blocks      []slackBlock `json:"blocks"`
	Attachments []struct {
		Color  string       `json:"color"`
		Blocks []slackBlock `json:"blocks"`
	} `json:"attachments"`
	Parse string `json:"parse"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text"`
	Fields   []slackText `json:"fields"`
	Elements []slackText `json:"elements"`
}

type slackText struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Verbatim bool   `json:"verbatim"`
}

func slackSays(word string) reply {
	return reply{status: http.StatusOK, body: map[string]any{"ok": false, "error": word}}
}

func slackFaults(k Knobs) reply {
	if k.Fault == FaultRateLimit {
		return reply{http.StatusTooManyRequests, k.retryAfter(), map[string]any{"ok": false, "error": "ratelimited"}}
	}
	if k.Error == "" {
		return reply{status: k.status(), body: "told to fail"}
	}
	answer := slackSays(k.Error)
	if k.Status != 0 {
		answer.status = k.Status
	}
	return answer
}

func (s *Server) slackPost(q request) reply {
	m, refusal := s.slackMessage(q)
	if refusal != "" {
		return slackSays(refusal)
	}
	channel, ok := s.channel(m.Channel)
	if !ok {
		return slackSays("channel_not_found")
	}
	kept := m.shown(q)
	kept.Channel = channel
	kept = s.add(kept, func(number int) string { return fmt.Sprintf("1760000000.%06d", number) })
	return slackTook(kept)
}

func (s *Server) slackUpdate(q request) reply {
	m, refusal := s.slackMessage(q)
	if refusal != "" {
		return slackSays(refusal)
	}
	// Unlike chat.postMessage, chat.update knows channels by their IDs only.
	if id, ok := s.channel(m.Channel); !ok || id != m.Channel {
		return slackSays("channel_not_found")
	}
	if length(m.Text) > 4000 {
		return slackSays("msg_too_long")
	}
	kept := m.shown(q)
	kept.Channel, kept.ID = m.Channel, m.TS
	if !s.change(kept) {
		return slackSays("message_not_found")
	}
	return slackTook(kept)
}

func slackTook(m Message) reply {
	return reply{status: http.StatusOK, body: map[string]any{"ok": true, "channel": m.Channel, "ts": m.ID, "message": m.Body}}
}

// slackMessage reads a message, or says what Slack would have against it.
func (s *Server) slackMessage(q request) (m slackMessage, refusal string) {
	switch token, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer "); {
	case !ok:
		return m, "not_authed"
	case token != s.token:
		return m, "invalid_auth"
	}
	media, parameters, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return m, "invalid_post_type"
	}
	if !strings.EqualFold(parameters["charset"], "utf-8") {
		return m, "invalid_charset" // Slack only warns where there is none
	}
	if json.Unmarshal(q.body, &m) != nil {
		return m, "invalid_json"
	}
	return m, m.refusal()
}

// refusal is what Slack would have against the message's form.
func (m slackMessage) refusal() string {
	if m.Text == "" && len(m.Blocks) == 0 && len(m.Attachments) == 0 {
		return "no_text"
	}
	all, ok := 0, len(m.Attachments) <= 100
	for _, blocks := range m.blocks() {
		ok = ok && len(blocks) <= 50
		for _, block := range blocks {
			size, fits := block.size()
			all, ok = all+size, ok && fits
		}
	}
	switch {
	case !ok:
		return "invalid_blocks"
	case all > 13_000: // nowhere documented; measured by others
		return "msg_blocks_too_long"
	}
	return ""
}

// blocks returns the message's own blocks and those of each attachment.
func (m slackMessage) blocks() [][]slackBlock {
	all := [][]slackBlock{m.Blocks}
	for _, attachment := range m.Attachments {
		all = append(all, attachment.Blocks)
	}
	return all
}

// size returns the length of a block as JSON, and whether Slack takes it.
func (b slackBlock) size() (size int, ok bool) {
	var written strings.Builder
	write := json.NewEncoder(&written)
	write.SetEscapeHTML(false)
	ok = write.Encode(b) == nil
	switch b.Type {
	case "section":
		ok = ok && (b.Text != nil || len(b.Fields) > 0) && len(b.Elements) == 0 && len(b.Fields) <= 10
	case "context":
		ok = ok && b.Text == nil && len(b.Fields) == 0 && len(b.Elements) >= 1 && len(b.Elements) <= 10
	default:
		ok = false
	}
	for i, text := range b.texts() {
		limit := 3000
		if b.Text == nil || i > 0 {
			limit = 2000
		}
		n := length(text.Text)
		ok = ok && n >= 1 && n <= limit && (text.Type == "mrkdwn" || text.Type == "plain_text")
	}
	return length(written.String()), ok
}

func (b slackBlock) texts() []slackText {
	var all []slackText
	if b.Text != nil {
		all = append(all, *b.Text)
	}
	return append(append(all, b.Fields...), b.Elements...)
}

var (
	slackLink = regexp.MustCompile(`<(https?://[^|>]*)\|([^>]*)>`)
	// Whatever else is in angle brackets means a person, a group or a channel.
	slackPing = regexp.MustCompile(`<[@!#][^>]*>`)
	// These call somebody only where Slack was not told to leave text alone.
	slackName    = regexp.MustCompile(`@(channel|here|everyone|[a-z0-9._-]+)`)
	slackEscapes = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")
)

// shown is the message as a person sees it.
func (m slackMessage) shown(q request) Message {
	kept := Message{Service: Slack, Body: q.body}
	var lines []string
	for _, blocks := range m.blocks() {
		for _, block := range blocks {
			for _, text := range block.texts() {
				lines = append(lines, text.Text)
				if text.Type == "mrkdwn" {
					kept.Pings = append(kept.Pings, slackPing.FindAllString(text.Text, -1)...)
					if !text.Verbatim || m.Parse != "none" {
						kept.Pings = append(kept.Pings, slackName.FindAllString(text.Text, -1)...)
					}
				}
			}
		}
	}
	kept.Pings = append(kept.Pings, slackPing.FindAllString(m.Text, -1)...)
	if len(lines) == 0 {
		lines = []string{m.Text} // which else is for notifications only
	}
	kept.Text = slackEscapes.Replace(slackLink.ReplaceAllString(strings.Join(lines, "\n"), "$2 ($1)"))
	for _, attachment := range m.Attachments {
		kept.Color = attachment.Color
	}
	return kept
}

// length counts in UTF-16 units.
func length(s string) int { return len(utf16.Encode([]rune(s))) }
