package notify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	netmail "net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/wneessen/go-mail"
)

// Mail is one message to one person, ready to be sent. Message IDs stand
// without angle brackets.
type Mail struct {
	MessageID  string
	InReplyTo  string
	References []string
	// From and ReplyTo are addresses with or without a name:
	// "Ledgerly <connections@ledgerly.example>". ReplyTo may be empty.
	From, ReplyTo string
	// To is a bare address, ToName the name that goes with it, if any.
	To, ToName string
	Subject    string
	Text, HTML string
	// Headers are further headers. They cannot replace those that the other
	// fields make.
	Headers map[string]string
	// Date is when the mail was written; zero means when it is sent.
	Date time.Time
}

// String keeps the address and the text out of anything that prints the mail.
func (m Mail) String() string { return "mail " + m.MessageID }

// GoString keeps the address and the text out of %#v.
func (m Mail) GoString() string { return m.String() }

// MessageID returns the ID, without angle brackets, of the one message that a
// step of a case sends to a recipient: the same arguments always give the same
// ID, different ones never. The ordinal is the session's. It shows case and
// step to whoever reads a mail log; the recipient goes into a hash only.
func MessageID(domain, caseID, step string, ordinal int, recipient string) string {
	hash := sha256.New()
	for _, part := range []string{caseID, step, strconv.Itoa(ordinal), recipient} {
		// The length keeps ("a", "bc") apart from ("ab", "c").
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("%s.%s.%d.%s@%s", idPart(caseID), idPart(step), ordinal, hex.EncodeToString(hash.Sum(nil)[:8]), domainPart(domain))
}

// idPart returns what of s may stand in a message ID without quoting.
func idPart(s string) string {
	const limit = 64
	s = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return -1
	}, s)
	if s == "" {
		return "x"
	}
	return s[:min(len(s), limit)]
}

func domainPart(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '.':
			return r
		}
		return -1
	}, s)
	if s = strings.Trim(s, ".-"); s == "" {
		return "localhost"
	}
	return s
}

// message is a mail as it goes over the wire.
type message struct {
	from, to string // addresses in angle brackets, as MAIL FROM and RCPT TO have them
	raw      []byte
}

// wire returns the mail in MIME form. It refuses what would make a header say
// something else than intended. Its errors name the field, never the value.
func (m Mail) wire() (message, error) {
	if err := m.check(); err != nil {
		return message{}, err
	}
	from, err := netmail.ParseAddress(m.From)
	if err != nil {
		return message{}, errors.New("field From is not an address")
	}
	to, err := netmail.ParseAddress(m.To)
	if err != nil || to.Name != "" {
		return message{}, errors.New("field To is not a bare address")
	}

	msg := mail.NewMsg(mail.WithNoDefaultUserAgent(), mail.WithBoundary(m.boundary()))
	msg.FromMailAddress(from)
	msg.ToMailAddress(&netmail.Address{Name: m.ToName, Address: to.Address})
	if m.ReplyTo != "" {
		replyTo, err := netmail.ParseAddress(m.ReplyTo)
		if err != nil {
			return message{}, errors.New("field ReplyTo is not an address")
		}
		msg.ReplyToMailAddress(replyTo)
	}
	msg.Subject(m.Subject)
	date := m.Date
	if date.IsZero() {
		date = time.Now()
	}
	msg.SetDateWithValue(date.UTC())
	msg.SetMessageIDWithValue(bare(m.MessageID))
	if m.InReplyTo != "" {
		msg.SetGenHeader(mail.HeaderInReplyTo, "<"+bare(m.InReplyTo)+">")
	}
	if len(m.References) > 0 {
		ids := make([]string, len(m.References))
		for i, id := range m.References {
			ids[i] = "<" + bare(id) + ">"
		}
		msg.SetGenHeader(mail.HeaderReferences, strings.Join(ids, " "))
	}
	for name, value := range m.Headers {
		msg.SetGenHeader(mail.Header(name), value)
	}
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	}

	var raw bytes.Buffer
	if _, err := msg.WriteTo(&raw); err != nil {
		return message{}, fmt.Errorf("compose MIME message: %w", err)
	}
	return message{from: envelope(from), to: envelope(to), raw: unfold(raw.Bytes())}, nil
}

var foldedAtOnce = regexp.MustCompile(`(?m)^([A-Za-z-]+):\r\n `)

// unfold puts header values that begin on their second line, as go-mail writes
// long ones, on their first: there are mail programs that take such a
// Message-ID for an empty one, and lose the conversation.
func unfold(raw []byte) []byte {
	header, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	header = foldedAtOnce.ReplaceAll(header, []byte("$1: "))
	return slices.Concat(header, []byte("\r\n\r\n"), body)
}

// reservedHeaders are those that the fields of a Mail make.
var reservedHeaders = []string{
	"from", "to", "cc", "bcc", "reply-to", "sender", "subject", "date", "message-id", "in-reply-to", "references",
	"mime-version", "content-type", "content-transfer-encoding",
}

func (m Mail) check() error {
	fields := []struct{ name, value string }{
		{"MessageID", m.MessageID}, {"InReplyTo", m.InReplyTo}, {"From", m.From}, {"ReplyTo", m.ReplyTo},
		{"To", m.To}, {"ToName", m.ToName}, {"Subject", m.Subject},
	}
	for _, id := range m.References {
		fields = append(fields, struct{ name, value string }{"References", id})
	}
	for name, value := range m.Headers {
		if !headerName(name) {
			return errors.New("field Headers has a name that is not a header's")
		}
		if slices.Contains(reservedHeaders, strings.ToLower(name)) {
			return fmt.Errorf("field Headers may not have %s: it is made from the mail's fields", name)
		}
		fields = append(fields, struct{ name, value string }{"Headers", value})
	}
	for _, field := range fields {
		if strings.ContainsFunc(field.value, unicode.IsControl) || !utf8.ValidString(field.value) {
			return fmt.Errorf("field %s has a control character or is not UTF-8", field.name)
		}
	}
	ids := append([]string{m.MessageID}, m.References...)
	if m.InReplyTo != "" {
		ids = append(ids, m.InReplyTo)
	}
	for _, id := range ids {
		if !messageID(id) {
			return errors.New("a message ID is not of the form left@right")
		}
	}
	if m.Text == "" {
		return errors.New("field Text is empty")
	}
	return nil
}

// boundary separates the parts of the message. It depends on nothing but the
// mail, so that the same mail has the same bytes, and its hash cannot occur in
// the text it separates.
func (m Mail) boundary() string {
	sum := sha256.Sum256([]byte(m.MessageID + "\n" + m.Text + "\n" + m.HTML))
	return hex.EncodeToString(sum[:20])
}

func bare(id string) string {
	return strings.TrimSuffix(strings.TrimPrefix(id, "<"), ">")
}

func messageID(id string) bool {
	left, right, ok := strings.Cut(bare(id), "@")
	return ok && left != "" && right != "" && len(id) <= 250 &&
		!strings.ContainsFunc(left+right, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`<>@,;"\`, r) })
}

func headerName(name string) bool {
	return name != "" && len(name) <= 76 && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

func envelope(address *netmail.Address) string {
	return (&netmail.Address{Address: address.Address}).String()
}
