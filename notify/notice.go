// Package notify holds what is said to people about a case, and sends it: it
// writes one plain mail for each kind of notice and hands it to a mail server,
// saying exactly whether the server took it.
package notify

import (
	"errors"
	netmail "net/mail"
	"net/url"
	"strings"
	"time"
	_ "time/tzdata" // a container without zone files must show people their own time too
	"unicode"
)

// Kind says what a notice is for.
type Kind string

// The kinds of notices.
const (
	KindFirst    Kind = "first"     // a connection was lost
	KindReminder Kind = "reminder"  // it is still lost
	KindLastCall Kind = "last_call" // the deadline is near
	KindTryAgain Kind = "try_again" // somebody signed in, but it did not work: see Cause
	KindFixed    Kind = "fixed"     // the connection works again
	KindOperator Kind = "operator"  // only an operator can help
)

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{KindFirst, KindReminder, KindLastCall, KindTryAgain, KindFixed, KindOperator}
}

// Cause says why somebody must sign in once more.
type Cause string

// The causes of KindTryAgain.
const (
	CauseOurFault     Cause = ""              // we lost the provider's answer, or were too late
	CauseRefused      Cause = "refused"       // the provider refused the code
	CauseWrongAccount Cause = "wrong_account" // the sign-in was for another account
	CauseUnfinished   Cause = "unfinished"    // it was taken, but the connection, or a part of it, is not back
)

// Recipient is whom a notice is for. Name and TimeZone may be empty.
type Recipient struct {
	Email, Name string
	// TimeZone is an IANA name, as "Europe/Berlin". Anything else shows times
	// in UTC.
	TimeZone string
}

// String keeps the address out of anything that prints the recipient.
func (r Recipient) String() string { return "recipient" }

// GoString keeps the address out of %#v.
func (r Recipient) GoString() string { return r.String() }

// StopAll is the query with which a stop link is about all of a person's
// connections that they are being written to about.
const StopAll = "all"

// Link is an address an operator can open.
type Link struct{ Name, URL string }

// Notice is what one mail has to say. Names may hold anything: they are
// cleaned, shortened and escaped.
type Notice struct {
	Kind      Kind
	Recipient Recipient

	// ProductName is the name of the product that people know, whose backend
	// uses the connection.
	ProductName string
	// CustomerName is the company whose connection it is; may be empty.
	CustomerName string
	// ProviderName is the system to sign in to, as "Gusto"; may be empty.
	ProviderName string
	// Entities are the names of the companies or accounts that are affected,
	// where the connection has several; Working of those that still serve data,
	// where some do.
	Entities, Working []string
	// LinkURL is what the button opens. KindFixed and KindOperator have none.
	LinkURL string
	// Others are further stale connections of the same person. With any, the
	// mail is a digest: it lists every connection with a link of its own, that
	// of the notice itself first. At most 50, and only for KindFirst,
	// KindReminder and KindLastCall.
	Others []Other
	// StopURL is a page where the person can say that they are not the right
	// one, or want no more of these mails; may be empty. For KindFirst,
	// KindReminder and KindLastCall it is what mail programs offer as
	// "unsubscribe" too (RFC 2369): they POST List-Unsubscribe=One-Click to it
	// (RFC 8058). That must be https, or http to this very machine: any other
	// address stands in the small print alone. Receivers heed the headers only
	// where a DKIM signature covers them, which is for the mail server to add.
	StopURL string
	// Step is the name of the case's step that sends the notice.
	Step string

	// StaleSince is when access was lost, OpenedAt when the case was opened,
	// DeadlineAt when its last session ends, RestoredAt when access returned
	// (KindFixed). Each may be zero.
	StaleSince, OpenedAt, DeadlineAt, RestoredAt time.Time

	// MessageID is this mail's, RootMessageID that of the first mail this
	// recipient got in this case; empty or the same when this is the first.
	MessageID, RootMessageID string
	// From and ReplyTo are addresses with or without a name. ReplyTo is read by
	// people; when it is empty the mail does not offer to answer.
	From, ReplyTo string

	// Cause says more about KindTryAgain.
	Cause Cause
	// Heading is what a mail to an operator is about (KindOperator), where that
	// is not one connection.
	Heading string
	// What an operator is told (KindOperator): what is wrong, what would help,
	// where to look, and which connection and case it is.
	Problem, Advice      string
	Links                []Link
	ConnectionID, CaseID string
}

// String keeps the link and the address out of anything that prints the notice.
func (n Notice) String() string { return "notice " + string(n.Kind) + " " + n.MessageID }

// GoString keeps the link and the address out of %#v.
func (n Notice) GoString() string { return n.String() }

// Other is one more stale connection that a digest tells of. Its fields are
// those of a Notice.
type Other struct {
	CustomerName, ProviderName       string
	Entities, Working                []string
	LinkURL                          string
	StaleSince, OpenedAt, DeadlineAt time.Time
}

// String keeps the link out of anything that prints the connection.
func (o Other) String() string { return "connection" }

// GoString keeps the link out of %#v.
func (o Other) GoString() string { return o.String() }

// Compose writes the mail for a notice: text and HTML that say the same. Every
// mail of one case to one recipient has the same subject and refers to the
// first, so that mail programs show them as one conversation; the subject of a
// digest names how many connections it tells of. Errors name what is missing or
// malformed, never a value.
func Compose(n Notice) (Mail, error) {
	from, err := netmail.ParseAddress(n.From)
	if err != nil {
		return Mail{}, errors.New("field From is not an address; give one as \"Ledgerly <connections@ledgerly.example>\"")
	}
	if n.ReplyTo != "" {
		if _, err := netmail.ParseAddress(n.ReplyTo); err != nil {
			return Mail{}, errors.New("field ReplyTo is not an address")
		}
	}
	if to, err := netmail.ParseAddress(n.Recipient.Email); err != nil || to.Name != "" {
		return Mail{}, errors.New("field Recipient.Email is not an address")
	}
	if !messageID(n.MessageID) {
		return Mail{}, errors.New("field MessageID is not of the form left@right")
	}
	if n.RootMessageID != "" && !messageID(n.RootMessageID) {
		return Mail{}, errors.New("field RootMessageID is not of the form left@right")
	}

	w, err := wordsFor(n)
	if err != nil {
		return Mail{}, err
	}
	text, html, err := w.render()
	if err != nil {
		return Mail{}, err
	}

	if from.Name = line(from.Name, nameLimit); from.Name == "" {
		from.Name = line(n.ProductName, nameLimit)
	}
	m := Mail{
		MessageID: bare(n.MessageID),
		From:      from.String(),
		ReplyTo:   n.ReplyTo,
		To:        n.Recipient.Email,
		ToName:    line(n.Recipient.Name, nameLimit),
		Subject:   w.Subject,
		Text:      text,
		HTML:      html,
		Headers: map[string]string{
			// RFC 3834, and its Microsoft form. Not "All": that would suppress
			// the bounces we want.
			"Auto-Submitted":           "auto-generated",
			"X-Auto-Response-Suppress": "OOF, AutoReply",
		},
	}
	if campaigning(n.Kind) && oneClick(n.StopURL) {
		m.Headers["List-Unsubscribe"] = "<" + n.StopURL + ">"
		m.Headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
	}
	if step := idPart(n.Step); n.Step != "" {
		m.Headers["X-Reauth-Step"] = step
	}
	if root := bare(n.RootMessageID); root != "" && root != m.MessageID {
		m.InReplyTo, m.References = root, []string{root}
	}
	return m, nil
}

const (
	nameLimit = 80  // runes of a name in a sentence or a header
	factLimit = 600 // runes of what an operator is told
)

// line makes one line of a name or a sentence that somebody else wrote: no
// control characters, no invisible marks that turn the direction of the text
// around, nothing that a mail program would decode (RFC 2047), no runs of
// spaces, at most limit runes.
func line(s string, limit int) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Bidi_Control, r), r == '\ufeff', r == '\u200b':
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(strings.ReplaceAll(s, "=?", "= ?")), " ")
	if runes := []rune(s); len(runes) > limit {
		s = strings.TrimSpace(string(runes[:limit-1])) + "…"
	}
	return s
}

// webURL reports whether a button may open this address.
func webURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && len(raw) <= 2000 &&
		!strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("<>\"'`", r) })
}

// campaigning reports whether mails of this kind come by a schedule, so that
// one may want no more of them, and several can be one.
func campaigning(kind Kind) bool {
	return kind == KindFirst || kind == KindReminder || kind == KindLastCall
}

// oneClick reports whether mail programs may be told to POST to this address.
func oneClick(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()))
}

// stopURLLimit keeps List-Unsubscribe on one line of the 998 bytes that a line
// may have (RFC 5322): it cannot be folded within the address.
const stopURLLimit = 900

// clock writes times as one person reads them.
type clock struct{ zone *time.Location }

// clockFor returns a clock in the named zone, or in UTC if there is no such.
func clockFor(zone string) clock {
	loaded, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" { // "Local" is the server's zone, which says nothing of the person's
		loaded = time.UTC
	}
	return clock{loaded}
}

// moment is a date with time and zone: "Tuesday, 19 May 2026 at 17:00 (Europe/Berlin, UTC+2)".
func (c clock) moment(t time.Time) string {
	t = t.In(c.zone)
	text := t.Format("Monday, 2 January 2006 at 15:04")
	if c.zone.String() == "UTC" {
		return text + " UTC"
	}
	offset := t.Format("-07:00")
	sign, hours, minutes := offset[:1], strings.TrimPrefix(offset[1:3], "0"), offset[4:]
	if minutes == "00" {
		minutes = ""
	} else {
		minutes = ":" + minutes
	}
	return text + " (" + c.zone.String() + ", UTC" + sign + hours + minutes + ")"
}

// day is a date alone: "4 May 2026".
func (c clock) day(t time.Time) string { return t.In(c.zone).Format("2 January 2006") }
