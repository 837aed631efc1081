package chat

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf16"
)

// look is how a state shows. The marks differ in shape, too, for those who do
// not tell the colours apart.
type look struct {
	mark  string
	color int // as 0xrrggbb
}

var looks = map[State]look{
	Open:          {"⏳", 0xd9a406},
	NeedsOperator: {"⚠️", 0xc0392b},
	Resolved:      {"✅", 0x2e8b57},
	Ended:         {"⏹️", 0x7f8c8d},
}

// limits are how long the parts of a message may be, and how many. Lengths are
// those of the escaped text, counted as the chats do it at their strictest: in
// UTF-16 units.
type limits struct {
	title, problem, key  int
	facts, label, value  int
	lines, line          int
	links, name, address int
}

var (
	// richLimits keep the longest message within what Slack and Discord take.
	// Slack: ten fields of 2,000 in a block, 3,000 in its text, 4,000 in the
	// fallback text, and some 13,000 for all blocks as JSON, a limit that is
	// documented nowhere. Discord: 2,000 of content, 4,096 in an embed's
	// description, 256 and 1,024 in a field's name and value, 6,000 in an embed.
	richLimits = limits{
		title: 200, problem: 800, key: 100,
		facts: 10, label: 50, value: 120,
		lines: 8, line: 150,
		links: 4, name: 50, address: 300,
	}
	// textLimits keep it at 4,000 in all, which old Mattermost servers and
	// Google Chat take.
	textLimits = limits{
		title: 200, problem: 800, key: 100,
		facts: 8, label: 40, value: 100,
		lines: 5, line: 120,
		links: 3, name: 40, address: 250,
	}
)

// page is a message in one chat's markup, ready to be laid out.
type page struct {
	look
	title, problem, key string
	facts               []Fact
	lines               []string
	links               []Link
}

func (m Message) page(in markup, max limits) page {
	p := page{
		look:    looks[m.State],
		title:   in.text(m.Title, max.title),
		problem: in.text(m.Problem, max.problem),
		key:     in.text(m.Key, max.key),
	}
	for _, fact := range m.Facts {
		label, value := in.text(fact.Label, max.label), in.text(fact.Value, max.value)
		if value != "" && len(p.facts) < max.facts {
			p.facts = append(p.facts, Fact{label, value})
		}
	}
	for _, line := range m.Lines {
		if line := in.text(line, max.line); line != "" {
			p.lines = append(p.lines, line)
		}
	}
	p.lines = p.lines[len(p.lines)-min(len(p.lines), max.lines):]
	for _, link := range m.Links {
		name, address := in.text(link.Name, max.name), in.address(link.URL)
		if name == "" {
			name = "Open"
		}
		if address != "" && units(address) <= max.address && len(p.links) < max.links {
			p.links = append(p.links, Link{name, address})
		}
	}
	return p
}

// markup writes what somebody else wrote so that a chat shows it as it stands.
type markup struct {
	// replace has what is written in place of a character.
	replace map[rune]string
	// ampersand is what stands for & in an address.
	ampersand string
}

var (
	// mrkdwn is Slack's. Only & < > can be escaped; the other three would begin
	// bold, struck out and preformatted text.
	mrkdwn = markup{
		replace:   map[rune]string{'&': "&amp;", '<': "&lt;", '>': "&gt;", '*': "∗", '~': "∼", '`': "ˋ"},
		ampersand: "&amp;",
	}
	// markdown is Discord's. A backslash before a colon keeps an address from
	// becoming a link.
	markdown = markup{replace: backslashed("\\*_~`|<>[]()#@:")}
	// neutral is for chats whose markup is not known. Nothing can be escaped
	// that way, so what begins a mention or a link somewhere is replaced or
	// torn apart with an invisible word joiner.
	neutral = markup{replace: map[rune]string{'<': "‹", '>': "›", '`': "ˋ", '@': "@\u2060", ']': "]\u2060"}}
	// plain is for text that is not read as markup.
	plain = markup{}
)

func backslashed(characters string) map[rune]string {
	replace := make(map[rune]string)
	for _, r := range characters {
		replace[r] = `\` + string(r)
	}
	return replace
}

// text returns s cleaned and escaped, of at most limit UTF-16 units. What is
// too long is cut between two characters of s, so that no escape is torn.
func (m markup) text(s string, limit int) string {
	var out strings.Builder
	used, room := 0, 0 // room is how much of out leaves space for an ellipsis
	for _, r := range clean(s) {
		piece, ok := m.replace[r]
		if !ok {
			piece = string(r)
		}
		if used += units(piece); used > limit {
			return strings.TrimRight(out.String()[:room], " ") + "…"
		}
		out.WriteString(piece)
		if used < limit {
			room = out.Len()
		}
	}
	return out.String()
}

// address returns a URL in a form that no chat's links are broken by, or
// nothing if it cannot be opened.
func (m markup) address(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil ||
		strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("<>\"'`\\", r) }) {
		return ""
	}
	raw = strings.NewReplacer("|", "%7C", "(", "%28", ")", "%29", "*", "%2A").Replace(raw)
	if m.ampersand != "" {
		raw = strings.ReplaceAll(raw, "&", m.ampersand)
	}
	return raw
}

// clean makes one line of a text: no control characters, no invisible marks
// that turn its direction around, no runs of spaces.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Bidi_Control, r), r == '\ufeff', r == '\u200b', r == '\u2060':
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

// units returns the length of s in UTF-16 units.
func units(s string) int {
	n := 0
	for _, r := range s {
		n += utf16.RuneLen(r)
	}
	return n
}
