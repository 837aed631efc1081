// Package chat tells operators in their chat how the cases stand: one message
// for each case, which changes in place as the case goes on. It speaks to Slack
// (as a bot), to Discord, and to any other incoming webhook; a webhook cannot
// change what it has said, so there a case speaks up again only where that
// matters.
//
// The setting that names the chat is a secret. No error, and nothing here that
// is printed, shows any of it; nor do errors show what a message says.
package chat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/outbound"
)

// State decides the mark and the colour of a message, and what a webhook says
// again.
type State string

// The states.
const (
	Open          State = "open"           // going on by itself
	NeedsOperator State = "needs_operator" // only an operator can help
	Resolved      State = "resolved"       // over, and well
	Ended         State = "ended"          // over without success
)

// States lists every state.
func States() []State { return []State{Open, NeedsOperator, Resolved, Ended} }

// Message is what the chat says about one case, or about a storm. Its texts may
// hold anything: they are made one line each, shortened and escaped, so that
// they mean nothing to the chat, call nobody and link nowhere.
type Message struct {
	// Key is what the message is about, such as the case ID. It stands in small
	// print, so that a search for it finds the message.
	Key string
	// Title is needed, as "Acme Bakery · Gusto: waiting for the customer".
	Title string
	State State
	// Facts stand in two columns where the chat has them. Those without a value
	// are left out.
	Facts []Fact
	// Problem is what only an operator can mend, if there is such a thing.
	Problem string
	// Lines are the last lines of the timeline, oldest first. Where there are
	// too many the newest are shown.
	Lines []string
	// Links that are not http or https, or are very long, are left out.
	Links []Link
}

// Fact is a thing to know about a case.
type Fact struct{ Label, Value string }

// Link is an address an operator can open.
type Link struct{ Name, URL string }

// check returns an error if nothing can be made of the message.
func (m Message) check() error {
	if _, ok := looks[m.State]; !ok {
		return fmt.Errorf("field State must be one of %q", States())
	}
	if clean(m.Title) == "" {
		return errors.New("field Title is empty")
	}
	return nil
}

// Delivery says what a chat did with a message.
type Delivery string

const (
	// Sent: the chat shows this state of the case, or there was nothing that
	// had to be said.
	Sent Delivery = "sent"
	// Deferred: posting the same again later does no harm: the chat did not
	// take it, or it was a change of a message, which can be repeated.
	// [RetryAfter] says how long to wait, and that holds for every message.
	Deferred Delivery = "deferred"
	// Refused: the chat will not take it until somebody changes the setting or
	// something at the chat: the error says what, and an operator should hear
	// of it some other way.
	Refused Delivery = "refused"
	// Unknown: a new message may or may not have been taken, and no chat can
	// tell. Posting the same again may show it twice; posting the next state of
	// the case instead shows at worst an old message beside the current one.
	Unknown Delivery = "unknown"
)

// Poster posts messages to one chat. It may be used by several goroutines, but
// two posts of the same message at the same time may make two of it.
type Poster interface {
	// Post shows the message. ref is where it stands, as the last Post of this
	// message returned it; empty if there was none. newRef is to be stored
	// whatever the delivery. It is opaque, has at most 200 bytes, and holds
	// neither a secret nor anything of the message. A ref of another chat is
	// one of no message: after a change of the setting cases are posted anew.
	//
	// The error is nil for Sent alone. Post never waits and tries again by
	// itself. It gives up when ctx ends, and after 15 seconds for each call:
	// mostly there is one, and there are never more than four.
	Post(ctx context.Context, m Message, ref string) (newRef string, delivery Delivery, err error)
}

// RetryAfter returns how long not to post anything after Post returned err: 0
// if the chat does not say; never more than an hour.
func RetryAfter(err error) time.Duration {
	var f *failure
	if errors.As(err, &f) {
		return f.retryAfter
	}
	return 0
}

const (
	slackForm   = "slack://xoxb-TOKEN@CHANNEL"
	discordForm = "https://discord.com/api/webhooks/ID/TOKEN"
	forms       = slackForm + ", " + discordForm + " or the https:// URL of another incoming webhook"

	maxSetting = 2000 // bytes
)

// Check says what is wrong with a setting for [New], and what would be right.
// It connects to nothing, and never repeats the setting.
func Check(setting string) error {
	_, err := New(setting, outbound.Guard{})
	return err
}

// New returns the chat that a setting names:
//
//	slack://xoxb-TOKEN@CHANNEL                     Slack, as a bot with the scope chat:write
//	https://discord.com/api/webhooks/ID/TOKEN      Discord
//	https://hooks.example.com/…                    any other incoming webhook
//
// CHANNEL is an ID as C0123456789, or a name with or without its #. Slack's own
// incoming webhooks are of the last kind. A server on this machine may also be
// reached by http://, a stand-in for Slack with ?api=http://127.0.0.1:8080.
//
// The chat is spoken to through the guard. New connects to nothing. Its errors
// never repeat the setting.
func New(setting string, guard outbound.Guard) (Poster, error) {
	if setting == "" {
		return nil, errors.New("chat is empty; want " + forms)
	}
	if len(setting) > maxSetting {
		return nil, fmt.Errorf("chat is longer than %d bytes; want %s", maxSetting, forms)
	}
	if strings.ContainsFunc(setting, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errors.New("chat has a space or a control character; want " + forms)
	}
	if rest, ok := strings.CutPrefix(setting, "slack://"); ok {
		return newSlack(rest, guard)
	}
	u, err := url.Parse(setting)
	if err != nil {
		// The error of url.Parse repeats the URL.
		return nil, errors.New("chat is not a URL; want " + forms)
	}
	if err := webAddress(u); err != nil {
		return nil, fmt.Errorf("chat %w; want %s", err, forms)
	}
	if isDiscord(u) {
		return newDiscord(u, guard)
	}
	return newWebhook(u, guard), nil
}

// webAddress returns an error if a URL is not one that a message may go to.
func webAddress(u *url.URL) error {
	switch {
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("must begin with https://, except for a server on this machine")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("does not begin with slack:// or https://")
	case u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("has a user or a password in front of the host")
	case u.Fragment != "":
		return errors.New("has something after a #")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
