package starter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// ErrNoToken: the connection is not registered, was removed, or has no stored
// token.
var ErrNoToken = errors.New("there is no token of the connection")

// Token is a connection's access token. What prints, logs or encodes it shows
// everything but the token itself.
type Token struct {
	AccessToken string `json:"-"`
	// Generation counts the connection's tokens. It never goes back.
	Generation int64 `json:"generation"`
	// Fingerprint is the token's reauth.Fingerprint.
	Fingerprint string    `json:"fingerprint"`
	AdoptedAt   time.Time `json:"adopted_at"`
}

// String keeps the token out of anything that prints it.
func (t Token) String() string { return fmt.Sprintf("token of generation %d", t.Generation) }

// GoString keeps the token out of %#v.
func (t Token) GoString() string { return t.String() }

// LogValue keeps the token out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// TokenSource gives the current token of connections, from GET
// /v1/connections/{connection_id}/token, and lets a caller wait until a
// connection has a new one. It asks once for any number of callers, remembers
// the answer, and asks again soon for a token that failed: Transport.Tokens and
// TokenTransport tell it so. While reauth cannot be reached, what it remembers
// stands.
//
// Its methods may be called from any number of goroutines. The fields must not
// change after the first call.
type TokenSource struct {
	// BaseURL is where `reauth serve` answers, as "https://reauth.example.com".
	BaseURL string
	// APIKey authorizes the calls; it needs the scope tokens:read.
	APIKey string
	// Client makes them. It must not go through a TokenTransport of this source,
	// and its time limit must be longer than Wait. By default a client without
	// one: calls are bounded here.
	Client *http.Client

	// Fresh is how long a token is trusted, and how long one is not that failed;
	// 5 minutes by default.
	Fresh time.Duration
	// Recheck is how often a token that failed is asked for at most; 5 seconds
	// by default.
	Recheck time.Duration
	// Wait is how long one call may wait for a new token; 50 seconds by default,
	// which is the most that reauth takes.
	Wait time.Duration

	mu      sync.Mutex
	held    map[string]*heldToken // by connection
	owners  map[string]string     // connections, by the fingerprints of held tokens
	fetches map[string]*fetch     // under way, by connection
	polls   map[pollFor]*poll     // under way
}

type heldToken struct {
	Token
	checked time.Time // when reauth said last that it is the current one
	suspect time.Time // it failed: not trusted until then
}

// fetch is a call for a token, which any number of callers wait for.
type fetch struct {
	done  chan struct{}
	token Token
	err   error
}

const maxTokenWait = 50 * time.Second

func (s *TokenSource) fresh() time.Duration { return cmp.Or(s.Fresh, 5*time.Minute) }

// Token returns the current token of a connection. One that it remembers is
// returned at once, and asked for anew beside that when it is no longer fresh;
// only for a token that failed, and for one that it does not know, is the caller
// kept waiting. Without a token the error wraps ErrNoToken.
func (s *TokenSource) Token(ctx context.Context, connectionID string) (Token, error) {
	if err := reauth.CheckConnectionID(connectionID); err != nil {
		return Token{}, fmt.Errorf("get a token: %w: %w", ErrRefused, err)
	}
	now := time.Now()
	s.mu.Lock()
	held := s.held[connectionID]
	var remembered Token
	if held != nil {
		remembered = held.Token
		age, suspect := now.Sub(held.checked), now.Before(held.suspect)
		if suspect && age < cmp.Or(s.Recheck, 5*time.Second) || !suspect && age < s.fresh() {
			s.mu.Unlock()
			return remembered, nil
		}
		if !suspect {
			s.fetch(connectionID)
			s.mu.Unlock()
			return remembered, nil
		}
	}
	f := s.fetch(connectionID)
	s.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return Token{}, fmt.Errorf("get a token: %w", ctx.Err())
	}
	if f.err != nil && held != nil && !final(f.err) {
		return remembered, nil
	}
	return f.token, f.err
}

// final tells whether an error says that the token must not be used any more,
// not just that nobody can tell now.
func final(err error) bool {
	return errors.Is(err, ErrNoToken) || errors.Is(err, ErrRefused) || errors.Is(err, errNotAllowed)
}

// errNotAllowed: the API key is refused.
var errNotAllowed = errors.New("the API key is refused")

// fetch asks for a token, unless that is under way. The lock is held.
func (s *TokenSource) fetch(connectionID string) *fetch {
	f := s.fetches[connectionID]
	if f != nil {
		return f
	}
	f = &fetch{done: make(chan struct{})}
	if s.fetches == nil {
		s.fetches = map[string]*fetch{}
	}
	s.fetches[connectionID] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
		defer cancel()
		f.token, _, f.err = s.ask(ctx, connectionID, nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.fetches, connectionID)
		f.token = s.keep(connectionID, f.token, f.err)
		close(f.done)
	}()
	return f
}

// keep remembers what reauth said, and returns the token to use. A generation
// never goes back, in whatever order answers come. The lock is held.
func (s *TokenSource) keep(connectionID string, token Token, err error) Token {
	held := s.held[connectionID]
	switch {
	case errors.Is(err, ErrNoToken) && held != nil:
		delete(s.owners, held.Fingerprint)
		delete(s.held, connectionID)
		return Token{}
	case err != nil:
		return Token{}
	case held != nil && token.Generation < held.Generation:
		return held.Token
	case held != nil && token.Generation == held.Generation:
		held.checked = time.Now()
		return token
	case held != nil:
		delete(s.owners, held.Fingerprint)
	}
	if s.held == nil {
		s.held, s.owners = map[string]*heldToken{}, map[string]string{}
	}
	s.held[connectionID] = &heldToken{Token: token, checked: time.Now()}
	s.owners[token.Fingerprint] = connectionID
	return token
}

// ask calls reauth once. Without a token of a generation after the one that the
// query names, the token is empty and status says what reauth believes of the
// connection.
func (s *TokenSource) ask(ctx context.Context, connectionID string, query url.Values) (t Token, status reauth.ConnectionStatus, err error) {
	answer, err := api{s.BaseURL, s.APIKey, s.Client}.call(ctx, http.MethodGet, query, nil, "v1", "connections", connectionID, "token")
	if err != nil {
		return Token{}, "", fmt.Errorf("get a token: %w", err)
	}
	status = reauth.ConnectionStatus(answer.Header.Get("Reauth-Connection-Status"))
	switch {
	case answer.StatusCode == http.StatusNoContent:
		return Token{}, status, nil
	case answer.StatusCode == http.StatusNotFound:
		return Token{}, "", fmt.Errorf("get a token: %w: %w", ErrNoToken, answer.refusal())
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return Token{}, "", fmt.Errorf("get a token: %w: %w", errNotAllowed, answer.refusal())
	case answer.StatusCode != http.StatusOK:
		return Token{}, "", fmt.Errorf("get a token: %w", answer.refusal())
	case answer.err != nil:
		return Token{}, "", fmt.Errorf("get a token: %w", answer.err)
	}
	var body struct {
		AccessToken string    `json:"access_token"`
		Generation  int64     `json:"generation"`
		AdoptedAt   time.Time `json:"adopted_at"`
	}
	if json.Unmarshal(answer.body, &body) != nil || body.AccessToken == "" {
		// What cannot be understood may hold the token, so it is not repeated.
		return Token{}, "", errors.New("get a token: the answer holds none; is the base URL that of reauth?")
	}
	return Token{body.AccessToken, body.Generation, reauth.Fingerprint(body.AccessToken), body.AdoptedAt}, status, nil
}

// Stale says that a token failed, by its fingerprint: it is asked for anew
// before it is given out again. A token that is not the current one any more is
// no news. An empty connectionID is looked up, an empty fingerprint means
// whatever token the connection has.
func (s *TokenSource) Stale(connectionID, fingerprint string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if connectionID == "" {
		connectionID = s.owners[fingerprint]
	}
	held := s.held[connectionID]
	if held == nil || fingerprint != "" && fingerprint != held.Fingerprint {
		return
	}
	if !now.Before(held.suspect) {
		held.checked = time.Time{} // ask at once
	}
	held.suspect = now.Add(s.fresh())
}

// whose tells whose a token is that is remembered; empty if it is not.
func (s *TokenSource) whose(fingerprint string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owners[fingerprint]
}

// Recovered waits until a connection works again, whose current token has
// failed, and returns the token to use. It returns at once where the current
// token is not known to have failed.
func (s *TokenSource) Recovered(ctx context.Context, connectionID string) (Token, error) {
	token, err := s.Token(ctx, connectionID)
	if err != nil {
		return Token{}, err
	}
	s.mu.Lock()
	held := s.held[connectionID]
	failed := held != nil && held.Generation == token.Generation && time.Now().Before(held.suspect)
	s.mu.Unlock()
	if !failed {
		return token, nil
	}
	return s.Await(ctx, connectionID, token.Generation)
}

type pollFor struct {
	connectionID string
	after        int64
}

// poll is a call that waits for a new token, on behalf of any number of
// callers. It ends when none is left.
type poll struct {
	done    chan struct{}
	cancel  context.CancelFunc
	callers int
	token   Token
	status  reauth.ConnectionStatus
	err     error
}

// Await waits until a connection has a token of a generation after the one
// given (0 waits for any), and returns it. Where access comes back without a new
// token, it returns the one that there is, within Wait: reauth then calls the
// connection connected. Only ctx bounds the time, through which reauth may well
// be down for a while; it may take days, until the customer has logged in.
func (s *TokenSource) Await(ctx context.Context, connectionID string, after int64) (Token, error) {
	if err := reauth.CheckConnectionID(connectionID); err != nil {
		return Token{}, fmt.Errorf("wait for a token: %w: %w", ErrRefused, err)
	}
	const atLeast = time.Second // between two calls, whatever the answers
	pause := atLeast
	for {
		began := time.Now()
		if t, ok := s.heldAfter(connectionID, after); ok {
			return t, nil
		}
		p, err := s.poll(ctx, pollFor{connectionID, after})
		switch {
		case err != nil:
			return Token{}, fmt.Errorf("wait for a token: %w", err)
		case p.err == nil && p.token.Generation > after:
			return p.token, nil
		case p.err == nil && p.status == reauth.StatusConnected && after > 0:
			return s.trusted(ctx, connectionID)
		case p.err == nil && time.Since(began) >= atLeast:
			pause = atLeast
			continue
		case p.err != nil && final(p.err):
			return Token{}, p.err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Token{}, fmt.Errorf("wait for a token: %w", errors.Join(ctx.Err(), p.err))
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func (s *TokenSource) heldAfter(connectionID string, after int64) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.held[connectionID]; held != nil && held.Generation > after {
		return held.Token, true
	}
	return Token{}, false
}

// trusted returns the token of a connection that works again.
func (s *TokenSource) trusted(ctx context.Context, connectionID string) (Token, error) {
	s.mu.Lock()
	if held := s.held[connectionID]; held != nil {
		held.suspect = time.Time{}
	}
	s.mu.Unlock()
	return s.Token(ctx, connectionID)
}

// poll waits for a call's answer together with whoever wants the same.
func (s *TokenSource) poll(ctx context.Context, of pollFor) (*poll, error) {
	s.mu.Lock()
	p := s.polls[of]
	if p == nil {
		p = &poll{done: make(chan struct{})}
		if s.polls == nil {
			s.polls = map[pollFor]*poll{}
		}
		s.polls[of] = p
		wait := min(cmp.Or(s.Wait, maxTokenWait), maxTokenWait)
		var polling context.Context
		polling, p.cancel = context.WithTimeout(context.Background(), wait+reportTimeout)
		go s.run(polling, p, of, wait)
	}
	p.callers++
	s.mu.Unlock()
	select {
	case <-p.done:
		return p, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.callers--; p.callers == 0 {
		p.cancel()
		if s.polls[of] == p {
			delete(s.polls, of)
		}
	}
	return nil, ctx.Err()
}

func (s *TokenSource) run(ctx context.Context, p *poll, of pollFor, wait time.Duration) {
	defer p.cancel()
	p.token, p.status, p.err = s.ask(ctx, of.connectionID, url.Values{
		"after": {strconv.FormatInt(of.after, 10)},
		"wait":  {strconv.Itoa(int(wait / time.Second))},
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.polls[of] == p {
		delete(s.polls, of)
	}
	if p.token.Generation > 0 {
		p.token = s.keep(of.connectionID, p.token, nil)
	}
	close(p.done)
}

// String keeps the API key out of anything that prints the source.
func (s *TokenSource) String() string { return "tokens from " + s.BaseURL }

// GoString keeps the API key out of %#v.
func (s *TokenSource) GoString() string { return s.String() }
