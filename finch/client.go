// Package finch is a small client of the Finch API: exactly the calls that
// bringing a stale connection back needs. It sets a deadline on every call,
// follows no redirects and never retries: whoever calls it decides what is
// worth another attempt, because repeating POST /auth/token burns a code. (What
// net/http does by itself remains: a GET whose idle connection turns out to be
// closed is sent on another.)
//
// Errors come in two kinds. An answer that is not a success is an [*Error]. A
// call that got no usable answer matches [ErrNoAnswer] when the request may
// have reached Finch, and [ErrNotSent] when it certainly has not.
//
// No error, and nothing here that is printed, holds a code, an access token or
// the client secret.
package finch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// DefaultBaseURL is Finch's production API. Its sandbox has the same
	// address and other client credentials.
	DefaultBaseURL = "https://api.tryfinch.com"
	// DefaultTimeout bounds a call when Config says nothing else.
	DefaultTimeout = 30 * time.Second
	// APIVersion is what Finch-API-Version says on every call.
	APIVersion = "2020-09-17"

	maxAnswer = 1 << 20
)

// Config says how to reach Finch, and as which application.
type Config struct {
	// BaseURL is where the API lives; DefaultBaseURL if empty.
	BaseURL string
	// ClientID and ClientSecret are the application's credentials. The secret
	// is left out of JSON.
	ClientID     string
	ClientSecret string `json:"-"`
	// HTTPClient sends the calls; http.DefaultTransport if nil. Its redirect
	// policy is not used: no redirect is followed, since that would carry
	// credentials to wherever the answer points.
	HTTPClient *http.Client
	// Timeout bounds each call, reading the answer included; DefaultTimeout if
	// not positive.
	Timeout time.Duration
}

// Format keeps the client secret out of anything that prints the Config.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "finch.Config{%s, client %s}", c.BaseURL, c.ClientID)
}

// Client calls Finch for one application. It is safe for concurrent use.
type Client struct {
	baseURL, clientID, clientSecret string
	http                            http.Client
	timeout                         time.Duration
}

// New returns a Client. It makes no call.
func New(cfg Config) *Client {
	c := &Client{
		baseURL:      strings.TrimRight(cfg.BaseURL, "/"),
		clientID:     cfg.ClientID,
		clientSecret: cfg.ClientSecret,
		timeout:      cfg.Timeout,
	}
	if c.baseURL == "" {
		c.baseURL = DefaultBaseURL
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if cfg.HTTPClient != nil {
		c.http = *cfg.HTTPClient
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// Format keeps the client secret out of anything that prints the Client.
func (c Client) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "finch.Client{%s, client %s}", c.baseURL, c.clientID)
}

// credentials says how a call proves who makes it.
type credentials int

const (
	basicAuth  credentials = iota + 1 // client ID and secret in the Authorization header
	bearerAuth                        // an access token in the Authorization header
	bodyAuth                          // client ID and secret in the JSON body
)

// call is one request to Finch.
type call struct {
	method, path string
	auth         credentials
	token        string // for bearerAuth
	private      string // what else of the body no error may show, if anything
	body         any    // sent as JSON unless nil
}

func (q call) String() string { return q.method + " " + q.path }

// secrets lists what must not appear in an error about the call.
func (c *Client) secrets(q call) []string {
	return []string{c.clientSecret, q.token, q.private}
}

// do makes the call and decodes a successful answer into out, unless out is
// nil. It returns the HTTP status of a successful answer.
func (c *Client) do(ctx context.Context, q call, out any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, q)
	if err != nil {
		return 0, &unanswered{op: q.String(), text: err.Error(), cause: err}
	}
	var reach reach
	resp, err := c.http.Do(req.WithContext(reach.trace(ctx)))
	if err != nil {
		// The URL in a url.Error says no more than the call's own name.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return 0, c.unanswered(q, err, reach.possible())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		// The status alone says enough if the rest of the answer was lost.
		e := parseError(resp.StatusCode, resp.Header, body, c.secrets(q))
		e.Op, e.auth = q.String(), q.auth
		return 0, e
	}
	if err != nil {
		return 0, c.unanswered(q, err, true)
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	if len(body) > maxAnswer {
		return 0, c.unanswered(q, errors.New("the answer is larger than 1 MiB"), true)
	}
	if err := decode(body, out); err != nil {
		return 0, c.unanswered(q, errors.New("the answer is not the JSON that was expected"), true)
	}
	return resp.StatusCode, nil
}

func (c *Client) request(ctx context.Context, q call) (*http.Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var body io.Reader
	if q.body != nil {
		text, err := json.Marshal(q.body)
		if err != nil {
			return nil, errors.New("the request cannot be written as JSON")
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, c.baseURL+q.path, body)
	if err != nil || req.URL.Host == "" || (req.URL.Scheme != "https" && req.URL.Scheme != "http") {
		return nil, errors.New("the base URL is malformed; it should be like " + DefaultBaseURL)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Finch-API-Version", APIVersion)
	req.Header.Set("User-Agent", "reauth")
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch q.auth {
	case basicAuth:
		req.SetBasicAuth(c.clientID, c.clientSecret)
	case bearerAuth:
		if q.token == "" || strings.ContainsFunc(q.token, notToken) {
			return nil, errors.New("the access token is empty or has characters that no token has")
		}
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	return req, nil
}

func notToken(r rune) bool { return r <= ' ' || r > '~' }

// decode reads JSON leniently: a field of a type that nobody expected is left
// out. To lose a freshly minted token because some other field of the answer
// has changed its type would be absurd.
func decode(body []byte, out any) error {
	err := json.Unmarshal(body, out)
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) && mistyped.Field != "" {
		return nil
	}
	return err
}
