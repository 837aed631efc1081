package inbox

import (
	"bytes"
	"encoding/base64"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Message is one mail that was taken.
type Message struct {
	ID         string    `json:"id"`
	ReceivedAt time.Time `json:"received_at"`
	// From and ReplyTo are as the mail's header has them, To the addresses it was
	// sent to.
	From       string   `json:"from"`
	To         []string `json:"to"`
	ReplyTo    string   `json:"reply_to"`
	Subject    string   `json:"subject"`
	MessageID  string   `json:"message_id"` // this and the next two without angle brackets
	InReplyTo  string   `json:"in_reply_to"`
	References []string `json:"references"`
	Text       string   `json:"text"`
	HTML       string   `json:"html"`
	// Links are the addresses the mail leads to, each once, those of the HTML
	// first, in its order.
	Links []string `json:"links"`
	Size  int      `json:"size"` // bytes
	// Headers are all headers by their canonical names, as "List-Unsubscribe",
	// unfolded and decoded, with the lines that the inbox has put on top.
	Headers map[string][]string `json:"headers"`
}

// Header returns the first value of a header, whatever the case of its name;
// "" if there is none.
func (m Message) Header(name string) string { return textproto.MIMEHeader(m.Headers).Get(name) }

// parse reads a message as far as it can be read: whatever is malformed in it,
// it is still shown.
func parse(id string, at time.Time, raw []byte) Message {
	m := Message{ID: id, ReceivedAt: at, To: []string{}, References: []string{}, Links: []string{}, Headers: map[string][]string{}, Size: len(raw)}
	parsed, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		m.Text = strings.ToValidUTF8(string(raw), "\ufffd")
		return m
	}
	h := parsed.Header
	for name, values := range h {
		for _, value := range values {
			m.Headers[name] = append(m.Headers[name], decode(value))
		}
	}
	m.From = address(h.Get("From"))
	m.ReplyTo = address(h.Get("Reply-To"))
	m.Subject = decode(h.Get("Subject"))
	m.To = append(m.To, h["Delivered-To"]...)
	if ids := messageIDs(h.Get("Message-Id")); len(ids) > 0 {
		m.MessageID = ids[0]
	}
	if ids := messageIDs(h.Get("In-Reply-To")); len(ids) > 0 {
		m.InReplyTo = ids[0]
	}
	m.References = append(m.References, messageIDs(h.Get("References"))...)
	m.part(textproto.MIMEHeader(h), parsed.Body, 0)
	if m.Text == "" && m.HTML == "" {
		_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
		m.Text = strings.ReplaceAll(inUTF8(body, ""), "\r\n", "\n")
	}
	m.Links = append(m.Links, links(m.HTML, m.Text)...)
	return m
}

func (m *Message) part(h textproto.MIMEHeader, body io.Reader, depth int) {
	const deepest = 8
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "multipart/") && depth < deepest {
		parts := multipart.NewReader(body, params["boundary"])
		for {
			part, err := parts.NextRawPart()
			if err != nil {
				return
			}
			m.part(part.Header, part, depth+1)
		}
	}
	if strings.HasPrefix(h.Get("Content-Disposition"), "attachment") {
		return
	}
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	content, _ := io.ReadAll(body) // what could be decoded
	text := strings.ReplaceAll(inUTF8(content, params["charset"]), "\r\n", "\n")
	switch {
	case kind == "text/html" && m.HTML == "":
		m.HTML = text
	case kind == "text/plain" && m.Text == "":
		m.Text = text
	}
}

func inUTF8(content []byte, charset string) string {
	switch strings.ToLower(charset) {
	case "iso-8859-1", "latin1":
		runes := make([]rune, len(content))
		for i, b := range content {
			runes[i] = rune(b)
		}
		return string(runes)
	}
	return strings.ToValidUTF8(string(content), "\ufffd")
}

// address writes an address as people do: without quotes, brackets only after
// a name.
func address(header string) string {
	parsed, err := mail.ParseAddress(header)
	switch {
	case err != nil:
		return decode(header)
	case parsed.Name == "":
		return parsed.Address
	}
	return parsed.Name + " <" + parsed.Address + ">"
}

func decode(header string) string {
	decoded, err := (&mime.WordDecoder{}).DecodeHeader(header)
	if err != nil {
		return header
	}
	return decoded
}

var messageIDPattern = regexp.MustCompile(`<([^<>\s]+)>`)

func messageIDs(header string) []string {
	var ids []string
	for _, match := range messageIDPattern.FindAllStringSubmatch(header, -1) {
		ids = append(ids, match[1])
	}
	return ids
}

var (
	hrefPattern = regexp.MustCompile(`(?i)<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')`)
	urlPattern  = regexp.MustCompile(`https?://[^\s<>"']+`)
)

func links(htmlText, text string) []string {
	var found []string
	add := func(link string) {
		if !slices.Contains(found, link) {
			found = append(found, link)
		}
	}
	for _, match := range hrefPattern.FindAllStringSubmatch(htmlText, -1) {
		if link := html.UnescapeString(match[1] + match[2]); urlPattern.MatchString(link) {
			add(link)
		}
	}
	for _, link := range urlPattern.FindAllString(text, -1) {
		add(strings.TrimRight(link, ".,;:!?)"))
	}
	return found
}
