package finch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
)

const (
	clientID     = "client-7f2a"
	clientSecret = "client-secret-9c41d0"
	accessToken  = "access-token-5be2a7"
	authCode     = "auth-code-1d93fe"
)

// serve starts a server and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *finch.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return finch.New(finch.Config{BaseURL: srv.URL + "/", ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second})
}

func answering(t *testing.T, status int, header map[string]string, body string) *finch.Client {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// calls are all calls of a client, each as something that only returns an error.
func calls() map[string]func(context.Context, *finch.Client) error {
	return map[string]func(context.Context, *finch.Client) error{
		"CreateSession": func(ctx context.Context, c *finch.Client) error {
			_, err := c.CreateSession(ctx, finch.NewSession{CustomerID: "acme", CustomerName: "Acme", Products: []string{"company"}})
			return err
		},
		"Reauthenticate": func(ctx context.Context, c *finch.Client) error {
			_, err := c.Reauthenticate(ctx, finch.ReauthenticateParams{ConnectionID: "conn-1"})
			return err
		},
		"Exchange": func(ctx context.Context, c *finch.Client) error {
			_, err := c.Exchange(ctx, authCode, "https://reauth.example.com/callback")
			return err
		},
		"Introspect": func(ctx context.Context, c *finch.Client) error {
			_, err := c.Introspect(ctx, accessToken)
			return err
		},
		"Job": func(ctx context.Context, c *finch.Client) error {
			_, err := c.Job(ctx, accessToken, "job-1")
			return err
		},
		"Company":    func(ctx context.Context, c *finch.Client) error { return c.Company(ctx, accessToken) },
		"Disconnect": func(ctx context.Context, c *finch.Client) error { return c.Disconnect(ctx, accessToken) },
		"CreateSandboxConnection": func(ctx context.Context, c *finch.Client) error {
			_, err := c.CreateSandboxConnection(ctx, finch.SandboxConnection{ProviderID: "gusto"})
			return err
		},
		"UpdateSandboxAccount": func(ctx context.Context, c *finch.Client) error {
			return c.UpdateSandboxAccount(ctx, accessToken, finch.StatusReauth)
		},
	}
}

// Every call is written exactly as Finch documents it.
func TestRequests(t *testing.T) {
	const basic, bearer = "Basic Y2xpZW50LTdmMmE6Y2xpZW50LXNlY3JldC05YzQxZDA=", "Bearer " + accessToken
	manual := false
	for name, tc := range map[string]struct {
		call                       func(context.Context, *finch.Client) error
		request, auth, sent, reply string
	}{
		"a new session": {
			call: func(ctx context.Context, c *finch.Client) error {
				s, err := c.CreateSession(ctx, finch.NewSession{
					CustomerID: "acme", CustomerName: "Acme", CustomerEmail: "ada@acme.example", Products: []string{"company", "directory"},
					RedirectURI: "https://r.example/callback", MinutesToExpire: 60, Sandbox: "finch", Manual: &manual,
					Integration: &finch.Integration{Provider: "gusto", AuthMethod: "credential"},
				})
				assert.Equal(t, finch.Session{ID: "s-1", ConnectURL: "https://connect.tryfinch.com/authorize?session=s-1"}, s)
				return err
			},
			request: "POST /connect/sessions", auth: basic,
			sent: `{"customer_id":"acme","customer_name":"Acme","customer_email":"ada@acme.example","products":["company","directory"],
				"redirect_uri":"https://r.example/callback","minutes_to_expire":60,"sandbox":"finch","manual":false,
				"integration":{"provider":"gusto","auth_method":"credential"}}`,
			reply: `{"session_id":"s-1","connect_url":"https://connect.tryfinch.com/authorize?session=s-1"}`,
		},
		"a reauthentication": {
			call: func(ctx context.Context, c *finch.Client) error {
				s, err := c.Reauthenticate(ctx, finch.ReauthenticateParams{
					ConnectionID: "conn-1", RedirectURI: "https://r.example/callback", MinutesToExpire: 90, Products: []string{"company"},
				})
				assert.Equal(t, finch.Session{ID: "s-2", ConnectURL: "https://c.example/s-2"}, s)
				return err
			},
			request: "POST /connect/sessions/reauthenticate", auth: basic,
			sent:  `{"connection_id":"conn-1","redirect_uri":"https://r.example/callback","minutes_to_expire":90,"products":["company"]}`,
			reply: `{"session_id":"s-2","connect_url":"https://c.example/s-2"}`,
		},
		"a reauthentication always says how long the session lasts": {
			call: func(ctx context.Context, c *finch.Client) error {
				_, err := c.Reauthenticate(ctx, finch.ReauthenticateParams{ConnectionID: "conn-1"})
				return err
			},
			request: "POST /connect/sessions/reauthenticate", auth: basic,
			sent:  `{"connection_id":"conn-1","minutes_to_expire":43200}`,
			reply: `{"session_id":"s-2","connect_url":"https://c.example/s-2"}`,
		},
		"an exchange of the redirect flow": {
			call: func(ctx context.Context, c *finch.Client) error {
				tok, err := c.Exchange(ctx, authCode, "https://r.example/callback")
				assert.Equal(t, finch.Token{
					AccessToken: "new-token", ConnectionID: "conn-1", CustomerID: "acme", ProviderID: "gusto", ClientType: "production",
					ConnectionType: "provider", EntityIDs: []string{"e-1"}, Products: []string{"company"},
				}, tok)
				return err
			},
			request: "POST /auth/token",
			sent:    `{"client_id":"client-7f2a","client_secret":"client-secret-9c41d0","code":"auth-code-1d93fe","redirect_uri":"https://r.example/callback"}`,
			reply: `{"access_token":"new-token","token_type":"bearer","client_type":"production","connection_id":"conn-1","connection_type":"provider",
				"entity_ids":["e-1"],"products":["company"],"provider_id":"gusto","customer_id":"acme","customer_name":null,"account_id":"a"}`,
		},
		"an exchange of the embedded flow": {
			call: func(ctx context.Context, c *finch.Client) error {
				_, err := c.Exchange(ctx, authCode, "")
				return err
			},
			request: "POST /auth/token",
			sent:    `{"client_id":"client-7f2a","client_secret":"client-secret-9c41d0","code":"auth-code-1d93fe"}`,
			reply:   `{"access_token":"new-token","connection_id":"conn-1"}`,
		},
		"an introspection": {
			call: func(ctx context.Context, c *finch.Client) error {
				i, err := c.Introspect(ctx, accessToken)
				assert.Equal(t, "conn-1", i.ConnectionID)
				return err
			},
			request: "GET /introspect", auth: bearer, reply: `{"connection_id":"conn-1"}`,
		},
		"company data": {
			call:    calls()["Company"],
			request: "GET /employer/company", auth: bearer, reply: `{"id":"c-1"}`,
		},
		"a disconnect": {
			call:    calls()["Disconnect"],
			request: "POST /disconnect", auth: bearer, reply: `{"status":"success"}`,
		},
		"a sandbox connection": {
			call: func(ctx context.Context, c *finch.Client) error {
				s, err := c.CreateSandboxConnection(ctx, finch.SandboxConnection{
					ProviderID: "gusto", AuthenticationType: "credential", EmployeeSize: 5, Products: []string{"company"},
				})
				assert.Equal(t, finch.SandboxToken{
					AccessToken: "sandbox-token", ConnectionID: "conn-9", EntityID: "e-9", AccountID: "a-9", CompanyID: "c-9",
					ProviderID: "gusto", AuthenticationType: "credential", Products: []string{"company"},
				}, s)
				return err
			},
			request: "POST /sandbox/connections", auth: basic,
			sent: `{"provider_id":"gusto","authentication_type":"credential","employee_size":5,"products":["company"]}`,
			reply: `{"access_token":"sandbox-token","connection_id":"conn-9","entity_id":"e-9","account_id":"a-9","company_id":"c-9",
				"provider_id":"gusto","authentication_type":"credential","products":["company"],"token_type":"bearer"}`,
		},
		"a sandbox status": {
			call:    calls()["UpdateSandboxAccount"],
			request: "PUT /sandbox/connections/accounts", auth: bearer,
			sent: `{"connection_status":"reauth"}`, reply: `{}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				body, _ := io.ReadAll(r.Body)
				assert.Equal(t, tc.request, r.Method+" "+r.URL.RequestURI())
				assert.Equal(t, tc.auth, r.Header.Get("Authorization"))
				assert.Equal(t, "2020-09-17", r.Header.Get("Finch-API-Version"))
				if tc.sent == "" {
					assert.Empty(t, body)
				} else {
					assert.JSONEq(t, tc.sent, string(body))
					assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
				}
				_, _ = io.WriteString(w, tc.reply)
			})
			require.NoError(t, tc.call(t.Context(), c))
			assert.Equal(t, 1, asked)
		})
	}
}

// No call is made twice: the caller decides what is worth another attempt.
func TestNothingIsRetried(t *testing.T) {
	for name, call := range calls() {
		for _, status := range []int{408, 409, 429, 500, 503} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				asked := 0
				c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					asked++
					w.Header().Set("X-Should-Retry", "true")
					w.WriteHeader(status)
				})
				var e *finch.Error
				require.ErrorAs(t, call(t.Context(), c), &e)
				assert.Equal(t, status, e.Status)
				assert.Equal(t, 1, asked)
			})
		}
	}
}

// A redirect is not followed: a 307 would carry the code and the client secret
// to another host.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	for name, call := range calls() {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			})
			var e *finch.Error
			require.ErrorAs(t, call(t.Context(), c), &e)
			assert.Equal(t, http.StatusTemporaryRedirect, e.Status)
		})
	}
}

func TestCallsThatWereNotSent(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tlsOnly := httptest.NewTLSServer(http.NotFoundHandler()) // of a certificate that nobody trusts
	defer tlsOnly.Close()
	tlsOnly.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	for name, tc := range map[string]struct {
		ctx context.Context
		url string
	}{
		"nobody listens":      {t.Context(), "http://" + closed.Addr().String()},
		"cancelled before":    {cancelled, "http://" + closed.Addr().String()},
		"untrusted":           {t.Context(), tlsOnly.URL},
		"no scheme":           {t.Context(), "api.tryfinch.com"},
		"malformed":           {t.Context(), "http://[::1"},
		"unsupported scheme":  {t.Context(), "ftp://127.0.0.1"},
		"host that is no one": {t.Context(), "http://finch.invalid"},
	} {
		for callName, call := range calls() {
			t.Run(name+"/"+callName, func(t *testing.T) {
				c := finch.New(finch.Config{BaseURL: tc.url, ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second})
				err := call(tc.ctx, c)
				require.ErrorIs(t, err, finch.ErrNotSent)
				assert.NotErrorIs(t, err, finch.ErrNoAnswer)
				assertClean(t, err.Error())
			})
		}
	}
}

func TestCallsWithoutAUsableAnswer(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	for name, h := range map[string]http.HandlerFunc{
		"the connection is closed": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"the answer never comes": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		},
		"the answer breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token":"`)
		},
		"the answer is no HTTP": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, clientSecret+" "+accessToken+" "+authCode+"\r\n\r\n")
				_ = conn.Close()
			}
		},
	} {
		for callName, call := range calls() {
			t.Run(name+"/"+callName, func(t *testing.T) {
				srv := httptest.NewServer(h)
				defer srv.Close()
				c := finch.New(finch.Config{BaseURL: srv.URL, ClientID: clientID, ClientSecret: clientSecret, Timeout: 100 * time.Millisecond})
				err := call(t.Context(), c)
				require.ErrorIs(t, err, finch.ErrNoAnswer)
				assert.NotErrorIs(t, err, finch.ErrNotSent)
				var e *finch.Error
				assert.NotErrorAs(t, err, &e)
				assertClean(t, err.Error())
				assert.NoError(t, errors.Unwrap(err), "a single cause would be written down by whoever walks causes")
			})
		}
	}
}

// An answer of the right status that cannot be used may stand for a consumed
// code or a session that exists.
func TestUnusableAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "HTML": "<html>", "array": "[]", "null": "null", "without the fields": "{}", "huge": strings.Repeat(" ", 1<<20) + "{}",
	} {
		for _, callName := range []string{"CreateSession", "Reauthenticate", "Exchange", "Introspect", "CreateSandboxConnection"} {
			t.Run(name+"/"+callName, func(t *testing.T) {
				require.ErrorIs(t, calls()[callName](t.Context(), answering(t, 200, nil, body)), finch.ErrNoAnswer)
			})
		}
	}
}

func TestTheCallersContextEndsACall(t *testing.T) {
	arrived := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	err := c.Company(ctx, accessToken)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, finch.ErrNoAnswer)
}

// A transport that does not say how far a request got proves nothing.
func TestAnUnknownTransportMayHaveReachedFinch(t *testing.T) {
	c := finch.New(finch.Config{BaseURL: "https://finch.example", HTTPClient: &http.Client{Transport: brokenTransport{}}})
	require.ErrorIs(t, c.Company(t.Context(), accessToken), finch.ErrNoAnswer)
}

type brokenTransport struct{}

func (brokenTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("broken after sending " + accessToken)
}

func TestTokensThatCannotBeSent(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a call was made") })
	for _, token := range []string{"", "two words", "line\nbreak", "ünïcode"} {
		err := c.Company(t.Context(), token)
		require.ErrorIs(t, err, finch.ErrNotSent)
		if token != "" {
			assert.NotContains(t, err.Error(), token)
		}
	}
}

// A minted token is never lost because something else in the answer is odd.
func TestExchangeKeepsTheToken(t *testing.T) {
	for name, tc := range map[string]struct{ body, connection string }{
		"other fields have other types": {`{"products":"company directory","access_token":"new-token","entity_ids":{},"client_type":3,"connection_id":"conn-1"}`, "conn-1"},
		"no connection":                 {`{"access_token":"new-token"}`, ""},
		"connection of another type":    {`{"connection_id":7,"access_token":"new-token"}`, ""},
		"unknown enum values":           {`{"access_token":"new-token","connection_id":"conn-1","client_type":"staging","connection_type":"?"}`, "conn-1"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := answering(t, 200, nil, tc.body).Exchange(t.Context(), authCode, "")
			require.NoError(t, err)
			assert.Equal(t, "new-token", tok.AccessToken)
			assert.Equal(t, tc.connection, tok.ConnectionID)
		})
	}
}

func TestCompanyData(t *testing.T) {
	require.NoError(t, answering(t, 200, nil, "anything").Company(t.Context(), accessToken))
	require.ErrorIs(t, answering(t, 202, nil, "{}").Company(t.Context(), accessToken), finch.ErrPending)
}

func TestIntrospection(t *testing.T) {
	const newest = `{"id":"t-1","client_id":"client","client_type":"production","connection_id":"conn-1","connection_type":"provider",
		"connection_status":{"status":"connected","message":"fine","last_successful_sync":"2026-03-04T05:06:07Z"},
		"account_id":"a-1","company_id":"c-1","products":["company"],"provider_id":"gusto","payroll_provider_id":"gusto",
		"customer_id":"acme","customer_name":"Acme","customer_email":"ada@acme.example","username":"ada","manual":true,
		"authentication_methods":[{"type":"oauth","connection_status":{"status":"connected","last_successful_sync":null},"products":["company"]}],
		"entities":[{"id":"e-1","name":null,"source_id":"s","status":"reauth"},{"id":"e-2","name":"Two","source_id":null,"status":"connected"}]}`
	i, err := answering(t, 200, nil, newest).Introspect(t.Context(), accessToken)
	require.NoError(t, err)
	assert.Equal(t, finch.Introspection{
		ID: "t-1", ClientID: "client", ClientType: "production", ConnectionID: "conn-1", ConnectionType: "provider", ProviderID: "gusto",
		AccountID: "a-1", CompanyID: "c-1", CustomerID: "acme", CustomerName: "Acme", CustomerEmail: "ada@acme.example", Username: "ada",
		Connection: finch.ConnectionStatus{Status: "connected", Message: "fine", LastSuccessfulSync: finch.Timestamp{Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}},
		Products:   []string{"company"},
		AuthenticationMethods: []finch.AuthenticationMethod{{
			Type: "oauth", Connection: finch.ConnectionStatus{Status: "connected"}, Products: []string{"company"},
		}},
		Entities: []finch.Entity{{ID: "e-1", SourceID: "s", Status: "reauth"}, {ID: "e-2", Name: "Two", Status: "connected"}},
		Manual:   true, PayrollProviderID: "gusto",
	}, i)
	assert.True(t, i.NeedsReauth())
	assert.Equal(t, []finch.Entity{{ID: "e-1", SourceID: "s", Status: "reauth"}}, i.StaleEntities())
	text, err := json.Marshal(i)
	require.NoError(t, err)
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s", i, i, i, &i), string(text)} {
		assert.NotContains(t, printed, "ada")
	}

	for name, tc := range map[string]struct {
		body, status string
		reauth       bool
	}{
		"stale":              {`{"connection_status":{"status":"reauth"}}`, "reauth", true},
		"unknown status":     {`{"connection_status":{"status":"dormant"}}`, "dormant", false},
		"unreadable sync":    {`{"connection_status":{"status":"connected","last_successful_sync":1756}}`, "connected", false},
		"older form":         {`{"authentication_methods":[{"type":"assisted","connection_status":{"status":"pending"}},{"type":"credential","connection_status":{"status":"connected"}}]}`, "connected", false},
		"older form, stale":  {`{"authentication_methods":[{"type":"credential","connection_status":{"status":"reauth"}}]}`, "reauth", true},
		"nothing is said":    {`{"entities":null}`, "", false},
		"a disconnected one": {`{"connection_status":{"status":"connected"},"entities":[{"id":"e","status":"disconnected"}]}`, "connected", false},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.Replace(tc.body, "{", `{"connection_id":"conn-1",`, 1)
			i, err := answering(t, 200, nil, body).Introspect(t.Context(), accessToken)
			require.NoError(t, err)
			assert.Equal(t, tc.status, i.Status())
			assert.Equal(t, tc.reauth, i.NeedsReauth())
			assert.True(t, i.Connection.LastSuccessfulSync.IsZero())
		})
	}
}

// Whatever prints them, and however, secrets stay out.
func TestSecretsAreNotPrinted(t *testing.T) {
	cfg := finch.Config{BaseURL: "https://finch.example", ClientID: clientID, ClientSecret: clientSecret}
	tok := finch.Token{AccessToken: accessToken, ConnectionID: "conn-1"}
	sandbox := finch.SandboxToken{AccessToken: accessToken, ConnectionID: "conn-1"}
	for _, v := range []any{cfg, &cfg, *finch.New(cfg), finch.New(cfg), tok, &tok, []finch.Token{tok}, sandbox, &sandbox} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
			printed := fmt.Sprintf(verb, v)
			assertClean(t, printed)
			assert.NotContains(t, printed, fmt.Sprintf("%x", accessToken))
			assert.NotContains(t, printed, fmt.Sprintf("%x", clientSecret))
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("seen", "value", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("seen", "value", v)
		assertClean(t, log.String())
	}
	assert.Contains(t, tok.String(), "conn-1")
}

// assertClean fails if a text holds any of the test's secrets.
func assertClean(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{clientSecret, accessToken, authCode} {
		assert.NotContains(t, text, secret)
	}
}

func TestJob(t *testing.T) {
	var path string
	answer := `{"job_id":"job/1","job_url":"u","type":"data_sync_all","status":"reauth_error","created_at":"x","completed_at":"2026-11-02T09:00:00Z"}`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		_, _ = io.WriteString(w, answer)
	})
	job, err := c.Job(t.Context(), accessToken, "job/1")
	require.NoError(t, err)
	assert.Equal(t, "/jobs/automated/job%2F1", path, "an ID stays one part of the path")
	assert.Equal(t, finch.Job{
		ID: "job/1", Type: "data_sync_all", Status: finch.JobReauthError,
		CompletedAt: finch.Timestamp{Time: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)},
	}, job)
	assert.False(t, job.Running())

	answer = `{"job_id":"job-1","status":"in_progress","completed_at":null}`
	job, err = c.Job(t.Context(), accessToken, "job-1")
	require.NoError(t, err)
	assert.True(t, job.Running())
	assert.True(t, job.CompletedAt.IsZero())

	answer = `{"job_id":"job-1"}`
	_, err = c.Job(t.Context(), accessToken, "job-1")
	require.ErrorIs(t, err, finch.ErrNoAnswer, "a job without a status says nothing")
	for _, id := range []string{"", ".", ".."} {
		_, err = c.Job(t.Context(), accessToken, id)
		require.ErrorIs(t, err, finch.ErrNotSent, "the path would be another one")
	}
}
