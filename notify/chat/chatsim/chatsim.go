// Package chatsim is a stand-in for the chats that operators use, for
// development and tests: it speaks, on the wire, the part of Slack's Web API
// that posts and changes messages, Discord's webhooks, and incoming webhooks
// that only take a text. It is as strict as they are about credentials and
// sizes, keeps what it is sent, shows it in its present form, and has knobs
// that make it fail the way they do.
package chatsim

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Options are what New needs to know; the zero value is a stand-in on a free
// port of 127.0.0.1, with one channel of Slack's: "ops".
type Options struct {
	// Addr is where it listens; default "127.0.0.1:0".
	Addr string
	// Channels are Slack's: names without #, and their IDs. Default one named
	// "ops".
	Channels map[string]string
}

// The kinds of chats.
const (
	Slack   = "slack"
	Discord = "discord"
	Webhook = "webhook"
)

// Message is a message in its present form.
type Message struct {
	// Service is Slack, Discord or Webhook.
	Service string
	// Channel is the ID of Slack's channel, else empty.
	Channel string
	// ID is unique within a service. Slack's is its ts.
	ID string
	// Text is what a person reads: a line for each part, without escapes.
	Text string
	// Color is "#rrggbb", or empty where there is none.
	Color string
	// Pings are the parts of the message that would call somebody.
	Pings []string
	// Edits is how often the message has been changed.
	Edits int
	// Body is the request that gave it this form.
	Body json.RawMessage
}

// Server is a running stand-in.
type Server struct {
	options  Options
	token    string // Slack's
	secret   string // Discord's and the webhook's
	listener net.Listener
	http     *http.Server
	faults   faults
	served   sync.WaitGroup

	mu       sync.Mutex // guards all below
	messages []Message
	last     int // the newest message's number
}

// New starts a stand-in. Close ends it.
func New(options Options) (*Server, error) {
	if options.Addr == "" {
		options.Addr = "127.0.0.1:0"
	}
	if options.Channels == nil {
		options.Channels = map[string]string{"ops": "C0OPS00001"}
	}
	s := &Server{options: options, token: "xoxb-1000000001-" + rand.Text(), secret: rand.Text()}
	s.faults.init()

	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/chat.postMessage", s.handle(CallPost, s.slackPost, slackFaults))
	mux.HandleFunc("POST /api/chat.update", s.handle(CallUpdate, s.slackUpdate, slackFaults))
	// Real URLs have no version, or any; the client asks for the newest.
	mux.HandleFunc("POST /api/v10/webhooks/{webhook}/{token}", s.handle(CallPost, s.discordPost, discordFaults))
	mux.HandleFunc("PATCH /api/v10/webhooks/{webhook}/{token}/messages/{message}", s.handle(CallUpdate, s.discordUpdate, discordFaults))
	mux.HandleFunc("POST /hooks/{token}", s.handle(CallPost, s.webhookPost, webhookFaults))

	var err error
	if s.listener, err = net.Listen("tcp", options.Addr); err != nil {
		return nil, fmt.Errorf("chatsim: listen: %w", err)
	}
	s.http = &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	s.served.Go(func() { _ = s.http.Serve(s.listener) })
	return s, nil
}

// Close ends every call and the stand-in.
func (s *Server) Close() error {
	s.faults.close()
	err := s.http.Close()
	s.served.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // closed before
	}
	return err
}

func (s *Server) url() string { return "http://" + s.listener.Addr().String() }

// SlackSetting returns the setting for one of Slack's channels, by name or ID.
func (s *Server) SlackSetting(channel string) string {
	return "slack://" + s.token + "@" + channel + "?api=" + s.url()
}

// discordWebhook is the ID of the only webhook there is.
const discordWebhook = "1100000000000000001"

// DiscordSetting returns the setting for Discord.
func (s *Server) DiscordSetting() string {
	return s.url() + "/api/webhooks/" + discordWebhook + "/" + s.secret
}

// WebhookSetting returns the setting for an incoming webhook that only takes a
// text.
func (s *Server) WebhookSetting() string { return s.url() + "/hooks/" + s.secret }

// Secrets returns what of the settings must not be seen anywhere else.
func (s *Server) Secrets() []string { return []string{s.token, s.secret} }

// Messages returns every message in its present form, in the order in which
// they were posted.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Delete removes a message, as a person might, and reports whether there was
// one.
func (s *Server) Delete(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.messages)
	s.messages = slices.DeleteFunc(s.messages, func(m Message) bool { return m.ID == id })
	return len(s.messages) < before
}

// add keeps a new message under an ID made of its number.
func (s *Server) add(m Message, id func(number int) string) Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	m.ID = id(s.last)
	s.messages = append(s.messages, m)
	return m
}

// change gives a message a new form and reports whether there is such a one.
func (s *Server) change(m Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.messages, func(old Message) bool {
		return old.Service == m.Service && old.Channel == m.Channel && old.ID == m.ID
	})
	if i < 0 {
		return false
	}
	m.Edits = s.messages[i].Edits + 1
	s.messages[i] = m
	return true
}

// channel returns the ID of one of Slack's channels.
func (s *Server) channel(nameOrID string) (string, bool) {
	if id, ok := s.options.Channels[strings.TrimPrefix(nameOrID, "#")]; ok {
		return id, true
	}
	return nameOrID, slices.Contains(slices.Collect(maps.Values(s.options.Channels)), nameOrID)
}

// request is a call with its body.
type request struct {
	*http.Request
	body []byte
}

// reply is what a call is answered with: JSON, or a text where body is one.
type reply struct {
	status int
	header map[string]string
	body   any
}

func (a reply) write(w http.ResponseWriter) {
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	if text, ok := a.body.(string); ok {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, text)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

const maxBody = 1 << 20

// handle answers one kind of calls, or fails as the knobs say.
func (s *Server) handle(call Call, do func(request) reply, fail func(Knobs) reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			return // whoever called has gone
		}
		q := request{Request: r, body: body}
		k, release := s.faults.strike(call)
		switch k.Fault {
		case FaultNone:
			do(q).write(w)
			return
		case FaultRateLimit, FaultFail:
			s.faults.count()
			fail(k).write(w)
			return
		}
		var answer reply
		if !k.Discard {
			answer = do(q)
		}
		s.faults.count()
		if k.Fault == FaultHang {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			if !k.Discard {
				answer.write(w)
				return
			}
		}
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
}
