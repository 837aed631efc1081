// Package finchsdk calls Finch through its official Go client,
// github.com/Finch-API/finch-api-go, where package finch uses net/http alone.
//
// It keeps the promises that a case depends on, which the official client does
// not make of its own accord: it never retries, since repeating POST /auth/token
// burns a code; it follows no redirect; every call has a deadline; the
// application's credentials go into the body of POST /auth/token and nowhere
// else; and no error holds a code, a token or the client secret. The official
// client's check of webhooks is not used: it refuses every event while a secret
// is being replaced.
package finchsdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	finchgo "github.com/Finch-API/finch-api-go/v2"
	"github.com/Finch-API/finch-api-go/v2/option"
	"github.com/Finch-API/finch-api-go/v2/shared"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// Client calls Finch for one application. It is safe for concurrent use. Its
// methods are those of finch.Client, and their errors the same.
type Client struct {
	config finch.Config
	broken bool // the base URL is

	account  *finchgo.AccountService
	company  *finchgo.HRISCompanyService
	jobs     *finchgo.JobAutomatedService
	sessions *finchgo.ConnectSessionService
	tokens   *finchgo.AccessTokenService
}

var _ activities.FinchClient = (*Client)(nil)

// New returns a Client. It makes no call, and reads no environment.
func New(cfg finch.Config) *Client {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	if cfg.BaseURL == "" {
		cfg.BaseURL = finch.DefaultBaseURL
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = finch.DefaultTimeout
	}
	var sender http.Client
	if cfg.HTTPClient != nil {
		sender = *cfg.HTTPClient
	}
	if sender.Transport == nil {
		sender.Transport = http.DefaultTransport
	}
	sender.Transport = bounded{sender.Transport}
	sender.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	base, err := url.Parse(cfg.BaseURL)
	always := []option.RequestOption{
		option.WithBaseURL(cfg.BaseURL),
		option.WithHTTPClient(&sender),
		option.WithMaxRetries(0),
		option.WithRequestTimeout(cfg.Timeout),
	}
	credentials := append(always[:len(always):len(always)],
		option.WithClientID(cfg.ClientID), option.WithClientSecret(cfg.ClientSecret))
	return &Client{
		config: cfg,
		broken: err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http"),
		// Each service has only those credentials that its calls are made with:
		// what the client has, it sends.
		account:  finchgo.NewAccountService(always...),
		company:  finchgo.NewHRISCompanyService(always...),
		jobs:     finchgo.NewJobAutomatedService(always...),
		sessions: finchgo.NewConnectSessionService(credentials...),
		tokens:   finchgo.NewAccessTokenService(always...),
	}
}

// Provider returns the Provider that talks to Finch through a Client.
func Provider(cfg finch.Config) activities.Provider {
	return activities.Finch{Client: New(cfg)}
}

// Format keeps the client secret out of anything that prints the Client.
func (c *Client) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "finchsdk.Client{%s, client %s}", c.config.BaseURL, c.config.ClientID)
}

// call is one request to Finch.
type call struct {
	op      string
	token   string // the access token that it is made with; without one, it is ours
	private string // what else of it no error may show
}

// do makes a call with the options that send gets, and decodes a successful
// answer into out, unless out is nil. It returns the answer's status.
//
// The answer is taken raw, because the official client refuses to decode one
// whose Content-Type is not JSON's, and what it refuses might be a token that
// was minted just now.
func (c *Client) do(ctx context.Context, q call, out any, send func(context.Context, ...option.RequestOption) error) (status int, err error) {
	secrets := []string{c.config.ClientSecret, q.token, q.private}
	unsent := ctx.Err()
	if c.broken {
		unsent = errors.New("the base URL is malformed; it should be like " + finch.DefaultBaseURL)
	}
	if unsent != nil {
		return 0, finch.Unanswered(q.op, unsent, false, secrets...)
	}

	var response *http.Response
	var body []byte
	watched, reached := finch.Watch(ctx)
	err = send(watched, option.WithResponseInto(&response), option.WithResponseBodyInto(&body))
	if response == nil && err == nil {
		err = errors.New("there is no response")
	}
	if response == nil {
		var e *url.Error // whose URL says no more than the call's own name
		if errors.As(err, &e) {
			err = e.Err
		}
		return 0, finch.Unanswered(q.op, err, reached(), secrets...)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		// Of an error, the client hands out what could be read of its body.
		var e *finchgo.Error
		if errors.As(err, &e) {
			body = []byte(e.JSON.RawJSON())
		}
		return 0, finch.Answer{
			Op: q.op, Status: response.StatusCode, Header: response.Header, Body: body, Ours: q.token == "", Secrets: secrets,
		}.Error()
	}
	if err != nil {
		return 0, finch.Unanswered(q.op, err, true, secrets...)
	}
	if out != nil && json.Unmarshal(body, out) != nil {
		return 0, finch.Unanswered(q.op, errors.New("the answer is not the JSON that was expected"), true, secrets...)
	}
	return response.StatusCode, nil
}

// withToken makes a call with an access token.
func (c *Client) withToken(ctx context.Context, op, token string, out any, send func(context.Context, ...option.RequestOption) error) (int, error) {
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return 0, finch.Unanswered(op, errors.New("the access token is empty or has characters that no token has"), false)
	}
	return c.do(ctx, call{op: op, token: token}, out, func(ctx context.Context, o ...option.RequestOption) error {
		return send(ctx, append(o, option.WithAccessToken(token))...)
	})
}

// Introspect asks about a token and its connection.
func (c *Client) Introspect(ctx context.Context, accessToken string) (finch.Introspection, error) {
	const op = "GET /introspect"
	var answer finchgo.Introspection
	_, err := c.withToken(ctx, op, accessToken, &answer, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.account.Introspect(ctx, o...)
		return err
	})
	if err != nil {
		return finch.Introspection{}, err
	}
	if !given(answer.JSON.ConnectionID, answer.ConnectionID) {
		return finch.Introspection{}, finch.Unanswered(op, errors.New("the answer has no connection_id"), true)
	}
	return introspection(answer), nil
}

// Company asks for the company, to see whether the connection serves data.
func (c *Client) Company(ctx context.Context, accessToken string) error {
	const op = "GET /employer/company"
	status, err := c.withToken(ctx, op, accessToken, nil, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.company.Get(ctx, finchgo.HRISCompanyGetParams{}, o...)
		return err
	})
	if err == nil && status == http.StatusAccepted {
		return fmt.Errorf("finch: %s: %w", op, finch.ErrPending)
	}
	return err
}

// Disconnect ends the connection and every token of it, for good.
func (c *Client) Disconnect(ctx context.Context, accessToken string) error {
	_, err := c.withToken(ctx, "POST /disconnect", accessToken, nil, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.account.Disconnect(ctx, o...)
		return err
	})
	return err
}

// Job asks what has become of an automated job.
func (c *Client) Job(ctx context.Context, accessToken, jobID string) (finch.Job, error) {
	// The official client puts the ID into the path as it is.
	escaped := url.PathEscape(jobID)
	op := "GET /jobs/automated/" + escaped
	if strings.Trim(jobID, ".") == "" {
		return finch.Job{}, finch.Unanswered(op, errors.New("the job has no ID"), false)
	}
	var answer finchgo.AutomatedAsyncJob
	_, err := c.withToken(ctx, op, accessToken, &answer, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.jobs.Get(ctx, escaped, o...)
		return err
	})
	if err != nil {
		return finch.Job{}, err
	}
	if !given(answer.JSON.Status, string(answer.Status)) {
		return finch.Job{}, finch.Unanswered(op, errors.New("the answer has no status"), true)
	}
	job := finch.Job{ID: answer.JobID, Type: string(answer.Type), Status: string(answer.Status)}
	if !answer.JSON.CompletedAt.IsNull() { // nor missing
		job.CompletedAt.Time = answer.CompletedAt.UTC()
	}
	return job, nil
}

// CreateSession opens a session for a new connection. A customer who is
// connected already is refused with an Error that has the ConnectionID.
func (c *Client) CreateSession(ctx context.Context, s finch.NewSession) (finch.Session, error) {
	params := finchgo.ConnectSessionNewParams{
		CustomerID:   finchgo.F(s.CustomerID),
		CustomerName: finchgo.F(s.CustomerName),
		Products:     finchgo.F(words[finchgo.ConnectSessionNewParamsProduct](s.Products)),
	}
	if s.CustomerEmail != "" {
		params.CustomerEmail = finchgo.F(s.CustomerEmail)
	}
	if s.RedirectURI != "" {
		params.RedirectUri = finchgo.F(s.RedirectURI)
	}
	if s.MinutesToExpire != 0 {
		params.MinutesToExpire = finchgo.F(float64(s.MinutesToExpire))
	}
	if s.Sandbox != "" {
		params.Sandbox = finchgo.F(finchgo.ConnectSessionNewParamsSandbox(s.Sandbox))
	}
	if s.Manual != nil {
		params.Manual = finchgo.F(*s.Manual)
	}
	if s.Integration != nil {
		integration := finchgo.ConnectSessionNewParamsIntegration{Provider: finchgo.F(s.Integration.Provider)}
		if s.Integration.AuthMethod != "" {
			integration.AuthMethod = finchgo.F(finchgo.ConnectSessionNewParamsIntegrationAuthMethod(s.Integration.AuthMethod))
		}
		params.Integration = finchgo.F(integration)
	}
	q := call{op: "POST /connect/sessions", private: s.CustomerEmail}
	var answer finchgo.ConnectSessionNewResponse
	_, err := c.do(ctx, q, &answer, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.sessions.New(ctx, params, o...)
		return err
	})
	if err != nil {
		return finch.Session{}, err
	}
	return session(q, given(answer.JSON.SessionID, answer.SessionID) && given(answer.JSON.ConnectURL, answer.ConnectURL), answer.SessionID, answer.ConnectURL)
}

// Reauthenticate opens a session for an existing connection.
func (c *Client) Reauthenticate(ctx context.Context, p finch.ReauthenticateParams) (finch.Session, error) {
	minutes := p.MinutesToExpire
	if minutes == 0 {
		minutes = reauth.DefaultSessionMinutes
	}
	params := finchgo.ConnectSessionReauthenticateParams{
		ConnectionID:    finchgo.F(p.ConnectionID),
		MinutesToExpire: finchgo.F(int64(minutes)),
	}
	if p.RedirectURI != "" {
		params.RedirectUri = finchgo.F(p.RedirectURI)
	}
	if len(p.Products) > 0 {
		params.Products = finchgo.F(words[finchgo.ConnectSessionReauthenticateParamsProduct](p.Products))
	}
	q := call{op: "POST /connect/sessions/reauthenticate"}
	var answer finchgo.ConnectSessionReauthenticateResponse
	_, err := c.do(ctx, q, &answer, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.sessions.Reauthenticate(ctx, params, o...)
		return err
	})
	if err != nil {
		return finch.Session{}, err
	}
	return session(q, given(answer.JSON.SessionID, answer.SessionID) && given(answer.JSON.ConnectURL, answer.ConnectURL), answer.SessionID, answer.ConnectURL)
}

// session returns what an answer says of a session, if it is complete.
func session(q call, complete bool, id, connectURL string) (finch.Session, error) {
	if !complete {
		return finch.Session{}, finch.Unanswered(q.op, errors.New("the answer has no session_id or no connect_url"), true)
	}
	return finch.Session{ID: id, ConnectURL: connectURL}, nil
}

// Exchange redeems an authorization code, which works once. An empty
// redirectURI is not sent.
func (c *Client) Exchange(ctx context.Context, code, redirectURI string) (finch.Token, error) {
	params := finchgo.AccessTokenNewParams{
		Code:         finchgo.F(code),
		ClientID:     finchgo.F(c.config.ClientID),
		ClientSecret: finchgo.F(c.config.ClientSecret),
	}
	if redirectURI != "" {
		params.RedirectUri = finchgo.F(redirectURI)
	}
	q := call{op: "POST /auth/token", private: code}
	var answer finchgo.CreateAccessTokenResponse
	_, err := c.do(ctx, q, &answer, func(ctx context.Context, o ...option.RequestOption) error {
		_, err := c.tokens.New(ctx, params, o...)
		return err
	})
	if err != nil {
		return finch.Token{}, err
	}
	if !given(answer.JSON.AccessToken, answer.AccessToken) {
		return finch.Token{}, finch.Unanswered(q.op, errors.New("the answer has no access_token"), true)
	}
	return finch.Token{
		AccessToken:    answer.AccessToken,
		ConnectionID:   answer.ConnectionID,
		CustomerID:     answer.CustomerID,
		ProviderID:     answer.ProviderID,
		ClientType:     string(answer.ClientType),
		ConnectionType: string(answer.ConnectionType),
		EntityIDs:      answer.EntityIDs,
		Products:       answer.Products,
	}, nil
}

// given reports whether a field of an answer is a text that says something. It
// may be missing or null, and the official client makes a text of anything else.
func given(field interface{ Raw() string }, value string) bool {
	return value != "" && strings.HasPrefix(field.Raw(), `"`)
}

// introspection says the same in the words of package finch. What is missing
// or null is the zero value in both.
func introspection(a finchgo.Introspection) finch.Introspection {
	i := finch.Introspection{
		ID:             a.ID,
		ClientID:       a.ClientID,
		ClientType:     string(a.ClientType),
		ConnectionID:   a.ConnectionID,
		ConnectionType: string(a.ConnectionType),
		ProviderID:     a.ProviderID,
		//lint:ignore SA1019 Finch still sends it
		AccountID:     a.AccountID,
		CompanyID:     a.CompanyID,
		CustomerID:    a.CustomerID,
		CustomerName:  a.CustomerName,
		CustomerEmail: a.CustomerEmail,
		Username:      a.Username,
		Connection: finch.ConnectionStatus{
			Status:             string(a.ConnectionStatus.Status),
			Message:            a.ConnectionStatus.Message,
			LastSuccessfulSync: timestamp(a.ConnectionStatus.LastSuccessfulSync),
		},
		Products: a.Products,
		Manual:   a.Manual,
		//lint:ignore SA1019 Finch still sends it
		PayrollProviderID: a.PayrollProviderID,
	}
	for _, m := range a.AuthenticationMethods {
		i.AuthenticationMethods = append(i.AuthenticationMethods, finch.AuthenticationMethod{
			Type: string(m.Type),
			Connection: finch.ConnectionStatus{
				Status:             string(m.ConnectionStatus.Status),
				Message:            m.ConnectionStatus.Message,
				LastSuccessfulSync: timestamp(m.ConnectionStatus.LastSuccessfulSync),
			},
			Products: m.Products,
		})
	}
	for _, e := range a.Entities {
		i.Entities = append(i.Entities, finch.Entity{ID: e.ID, Name: e.Name, SourceID: e.SourceID, Status: string(e.Status)})
	}
	return i
}

// timestamp reads one of the official client's unions of a time and a text.
func timestamp(union any) (t finch.Timestamp) {
	switch v := union.(type) {
	case shared.UnionTime:
		t.Time = time.Time(v).UTC()
	case shared.UnionString:
		_ = t.UnmarshalText([]byte(v))
	}
	return t
}

// words turns texts into the official client's type for them. Finch adds words
// to its sets, so none is refused here.
func words[T ~string](texts []string) []T {
	out := make([]T, len(texts))
	for i, text := range texts {
		out[i] = T(text)
	}
	return out
}
