// Package finchsim is a simulator of Finch: the API on the wire, the Connect
// pages that a person clicks through, and signed webhooks. It behaves as
// Finch's documents say; where they are silent, a knob chooses, and the default
// is the less convenient behaviour. A page at / and calls under /sim/ break
// connections, bring them back, move its clock and make it fail on purpose.
//
// It is made for development and tests. Its control calls ask for no password,
// so it must listen on a loopback address only.
package finchsim

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/finch"
)

// Config says what application the simulator knows and where things are.
type Config struct {
	// ClientID and ClientSecret are the credentials that it accepts. Needed.
	ClientID, ClientSecret string
	// RedirectURIs are the ones that sessions may name, compared exactly.
	RedirectURIs []string
	// WebhookURL receives the events, signed with WebhookSecret (base64). No
	// event is sent if it is empty.
	WebhookURL, WebhookSecret string
	// PublicURL is where the simulator is reached, as "http://127.0.0.1:4000";
	// if empty, what the request's Host says.
	PublicURL string
	// ConnectURL is what a session's connect_url begins with; PublicURL if empty.
	ConnectURL string
	// File keeps the state over restarts; if empty, the state is in memory. It
	// is replaced atomically before any change is acknowledged.
	File string
	// Now is the clock, time.Now if nil. Sessions and codes age by it; POST
	// /sim/clock adds to it.
	Now func() time.Time
	// Knobs are the ones to begin with, DefaultKnobs if nil. A File that exists
	// has its own.
	Knobs *Knobs
	// Logger hears of webhooks that nobody took; nothing is logged if nil.
	Logger *slog.Logger
}

func (c Config) check() error {
	if c.ClientID == "" || c.ClientSecret == "" {
		return errors.New("ClientID and ClientSecret are needed")
	}
	for _, raw := range append([]string{c.PublicURL, c.ConnectURL, c.WebhookURL}, c.RedirectURIs...) {
		if raw == "" {
			continue
		}
		if u, err := url.Parse(raw); err != nil || u.Host == "" {
			return fmt.Errorf("%q is not an absolute URL", raw)
		}
	}
	if c.WebhookURL != "" {
		if err := finch.CheckWebhookSecret(c.WebhookSecret); err != nil {
			return fmt.Errorf("WebhookSecret: %w", err)
		}
	}
	return nil
}

// Sim is a simulated Finch. It is an http.Handler and safe for concurrent use.
type Sim struct {
	cfg   Config
	mux   *http.ServeMux
	pages *template.Template

	mu    sync.Mutex // guards all below
	state state
	dirty bool // the state differs from the file
	// succeeded is when the calls of each endpoint did that its limit counts.
	succeeded map[string][]time.Time

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wake chan struct{} // events are waiting
	done chan struct{} // the deliverer has ended
}

// New returns a simulator that resumes from Config.File. Close it after use.
func New(cfg Config) (*Sim, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("finchsim: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	knobs := DefaultKnobs()
	if cfg.Knobs != nil {
		knobs = *cfg.Knobs
	}
	if err := knobs.check(); err != nil {
		return nil, fmt.Errorf("finchsim: knobs: %w", err)
	}
	st, err := loadState(cfg.File, knobs)
	if err != nil {
		return nil, fmt.Errorf("finchsim: read the state: %w", err)
	}
	pages, err := parsePages()
	if err != nil {
		return nil, fmt.Errorf("finchsim: read the pages: %w", err)
	}
	s := &Sim{cfg: cfg, pages: pages, state: st, succeeded: map[string][]time.Time{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.mux = s.routes()
	go s.deliver()
	return s, nil
}

// Close ends what runs in the background. Events that were not delivered are
// kept in the state.
func (s *Sim) Close() error {
	s.stop()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true // counters alone are not saved as they change
	return s.commit()
}

// ServeHTTP answers as Finch's API, as its Connect pages and to its own
// control calls.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Sim) routes() *http.ServeMux {
	mux := http.NewServeMux()
	s.apiRoutes(mux)
	s.connectRoutes(mux)
	s.controlRoutes(mux)
	return mux
}

// now is the simulator's clock. The caller holds the lock.
func (s *Sim) now() time.Time {
	return s.cfg.Now().Add(time.Duration(s.state.Advanced)).UTC()
}

// commit writes what has changed to the file. The caller holds the lock, and
// acknowledges a change only if commit has not failed.
func (s *Sim) commit() error {
	if !s.dirty {
		return nil
	}
	if s.cfg.File != "" {
		if err := s.state.save(s.cfg.File); err != nil {
			return fmt.Errorf("finchsim: save the state: %w", err)
		}
	}
	s.dirty = false
	return nil
}

// change runs f under the lock and commits what it changed.
func (s *Sim) change(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := f(); err != nil {
		return err
	}
	s.dirty = true
	return s.commit()
}

// base is where the simulator is reached, without a slash at the end.
func (s *Sim) base(r *http.Request) string {
	if s.cfg.PublicURL != "" {
		return strings.TrimRight(s.cfg.PublicURL, "/")
	}
	return "http://" + r.Host
}

func (s *Sim) connectURL(r *http.Request, sessionID string) string {
	base := s.base(r)
	if s.cfg.ConnectURL != "" {
		base = strings.TrimRight(s.cfg.ConnectURL, "/")
	}
	return base + "/authorize?session=" + url.QueryEscape(sessionID)
}
