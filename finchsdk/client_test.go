package finchsdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finchsdk"
)

const (
	clientID     = "4ab15e51-11ad-49f4-acae-f343b7794375"
	clientSecret = "planted-client-secret-5e21"
	accessToken  = "planted-access-token-90ab"
	authCode     = "planted-code-77fe"
	address      = "planted.someone@acme.example"
)

// clients are the two that must not be told apart.
var clients = map[string]func(finch.Config) activities.FinchClient{
	"official": func(cfg finch.Config) activities.FinchClient { return finchsdk.New(cfg) },
	"ours":     func(cfg finch.Config) activities.FinchClient { return finch.New(cfg) },
}

func config(baseURL string) finch.Config {
	return finch.Config{BaseURL: baseURL, ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second}
}

// both runs a test with each client.
func both(t *testing.T, test func(t *testing.T, client func(finch.Config) activities.FinchClient)) {
	t.Helper()
	for name, client := range clients {
		t.Run(name, func(t *testing.T) { test(t, client) })
	}
}

// answering is a Finch that answers every call by one handler.
func answering(t *testing.T, handler http.HandlerFunc) finch.Config {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return config(server.URL)
}

func answer(status int, header http.Header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// calls are all that a client can do; own is whether the call is made with the
// application's credentials.
var calls = map[string]struct {
	own  bool
	call func(ctx context.Context, c activities.FinchClient) error
}{
	"Introspect": {false, func(ctx context.Context, c activities.FinchClient) error {
		_, err := c.Introspect(ctx, accessToken)
		return err
	}},
	"Company":    {false, func(ctx context.Context, c activities.FinchClient) error { return c.Company(ctx, accessToken) }},
	"Disconnect": {false, func(ctx context.Context, c activities.FinchClient) error { return c.Disconnect(ctx, accessToken) }},
	"Job": {false, func(ctx context.Context, c activities.FinchClient) error {
		_, err := c.Job(ctx, accessToken, "../introspect")
		return err
	}},
	"CreateSession": {true, func(ctx context.Context, c activities.FinchClient) error {
		_, err := c.CreateSession(ctx, finch.NewSession{CustomerID: "cus", CustomerName: "Acme", CustomerEmail: address, Products: []string{"company"}})
		return err
	}},
	"Reauthenticate": {true, func(ctx context.Context, c activities.FinchClient) error {
		_, err := c.Reauthenticate(ctx, finch.ReauthenticateParams{ConnectionID: "con"})
		return err
	}},
	"Exchange": {true, func(ctx context.Context, c activities.FinchClient) error {
		_, err := c.Exchange(ctx, authCode, "https://reauth.example/callback")
		return err
	}},
}

// clean asserts that a text, however it came about, holds no secret.
func clean(t *testing.T, what any) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(verb, what)
		for _, secret := range []string{clientSecret, accessToken, authCode, address} {
			assert.NotContains(t, text, secret, verb)
		}
	}
}

// troubles are those of a call with a token, and of one with our credentials.
type troubles [2]activities.Trouble

func same(trouble activities.Trouble) troubles { return troubles{trouble, trouble} }

// TestErrors has the same answers sorted by a Provider with either client.
func TestErrors(t *testing.T) {
	after := http.Header{"Retry-After": {"90"}}
	for name, test := range map[string]struct {
		status int
		header http.Header
		body   string
		want   troubles
		code   string
		after  time.Duration
	}{
		"log in again":               {401, nil, `{"code": 401, "name": "authentication_error", "finch_code": "reauthenticate_user", "message": "Please reauthenticate user"}`, same(activities.TroubleReauth), "reauthenticate_user", 0},
		"set up an account":          {401, nil, `{"name": "authentication_error", "finch_code": "account_setup_required"}`, same(activities.TroubleSetup), "account_setup_required", 0},
		"mend permissions":           {403, nil, `{"name": "error_permissions", "finch_code": "insufficient_account_permissions"}`, same(activities.TroubleSetup), "insufficient_account_permissions", 0},
		"a wrong token":              {401, nil, `{"name": "invalid_token_error"}`, troubles{activities.TroubleToken, activities.TroubleClient}, "invalid_token_error", 0},
		"nothing but 401":            {401, nil, ``, troubles{activities.TroubleUnauthorized, activities.TroubleClient}, "", 0},
		"a client refused":           {401, nil, `{"name": "invalid_client_error"}`, same(activities.TroubleClient), "invalid_client_error", 0},
		"a client refused in words":  {401, nil, `{"error": "Invalid client: Unable to validate credentials"}`, same(activities.TroubleClient), "", 0},
		"a code refused":             {400, nil, `{"name": "invalid_grant_error"}`, same(activities.TroubleGrant), "invalid_grant_error", 0},
		"a code refused as by OAuth": {400, nil, `{"error": "invalid_grant", "error_description": "no"}`, same(activities.TroubleGrant), "invalid_grant", 0},
		"a connection gone":          {404, nil, `{"name": "not_found_error", "finch_code": "connection_not_found"}`, same(activities.TroubleNotFound), "connection_not_found", 0},
		"a connection gone in words": {400, nil, `{"name": "bad_request", "finch_code": "invalid_request", "message": "Connection not found"}`, same(activities.TroubleNotFound), "invalid_request", 0},
		"too many calls":             {429, after, `{"name": "rate_limit_exceeded_error", "finch_code": "finch_application_rl"}`, same(activities.TroubleLimit), "finch_application_rl", 90 * time.Second},
		"too many, in milliseconds":  {429, http.Header{"Retry-After-Ms": {"1500"}}, ``, same(activities.TroubleLimit), "", 1500 * time.Millisecond},
		"too many, until whenever":   {429, nil, ``, same(activities.TroubleLimit), "", 0},
		"out of order":               {500, nil, `{"name": "server_error"}`, same(activities.TroubleDown), "server_error", 0},
		"a gateway's page":           {502, http.Header{"Content-Type": {"text/html"}}, `<html>Bad Gateway</html>`, same(activities.TroubleDown), "", 0},
		"maintenance":                {503, after, ``, same(activities.TroubleDown), "", 90 * time.Second},
		"a timeout of theirs":        {408, nil, ``, same(activities.TroubleDown), "", 0},
		"a conflict":                 {409, nil, `{"name": "conflict"}`, same(activities.TroubleRequest), "conflict", 0},
		"asked to retry":             {409, http.Header{"X-Should-Retry": {"true"}}, ``, same(activities.TroubleRequest), "", 0},
		"not bought":                 {403, nil, `{"name": "insufficient_scope_error"}`, same(activities.TroubleRequest), "insufficient_scope_error", 0},
		"JSON that is no object":     {400, nil, `"no"`, same(activities.TroubleRequest), "", 0},
		"elsewhere":                  {302, http.Header{"Location": {"https://elsewhere.example/"}}, ``, same(activities.TroubleRequest), "", 0},
		"elsewhere, with a token":    {307, http.Header{"Location": {"/again"}}, `{"access_token": "t", "connection_id": "c", "session_id": "s", "connect_url": "u"}`, same(activities.TroubleRequest), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
				asked := 0
				cfg := answering(t, func(w http.ResponseWriter, r *http.Request) {
					asked++
					w.Header().Set("Finch-Request-Id", "req-7")
					answer(test.status, test.header, test.body)(w, r)
				})
				f := activities.Finch{Client: client(cfg)}
				access := activities.Access{ConnectionID: "con", Token: accessToken}
				_, inspect := f.Inspect(t.Context(), access)
				_, open := f.OpenSession(t.Context(), activities.SessionRequest{ConnectionID: "con", Minutes: 60})
				_, exchange := f.Exchange(t.Context(), authCode, "")
				for i, err := range []error{inspect, f.Probe(t.Context(), access), open, exchange} {
					var e *activities.ProviderError
					require.ErrorAs(t, err, &e)
					assert.Equal(t, test.want[i/2], e.Trouble, "call %d", i)
					assert.Equal(t, test.code, e.Code, "call %d", i)
					assert.Equal(t, test.after, e.RetryAfter, "call %d", i)
					assert.Equal(t, "req-7", e.RequestID, "call %d", i)
				}
				assert.Equal(t, 4, asked, "every call is made once, whatever the answer")
			})
		})
	}
}

// TestWithoutAnswer tells apart whether a code may be spent.
func TestWithoutAnswer(t *testing.T) {
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		want    error
		ctx     context.Context
		timeout time.Duration
		handler http.HandlerFunc
		url     string
	}{
		"it hangs up": {want: finch.ErrNoAnswer, handler: hangUp},
		"it never answers": {want: finch.ErrNoAnswer, timeout: 50 * time.Millisecond, handler: func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then is it seen that the caller has hung up
			<-r.Context().Done()
		}},
		"its answer breaks off": {want: finch.ErrNoAnswer, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token": "`+accessToken)
		}},
		"its answer is no HTTP": {want: finch.ErrNoAnswer, handler: func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_, _ = io.WriteString(conn, clientSecret+" "+accessToken+" "+authCode+" "+address+"\r\n\r\n")
				_ = conn.Close()
			}
		}},
		"nobody listens":       {want: finch.ErrNotSent, url: "http://127.0.0.1:1"},
		"we have given up":     {want: finch.ErrNotSent, ctx: cancelled, handler: hangUp},
		"a URL without scheme": {want: finch.ErrNotSent, url: "api.tryfinch.com"},
		"a malformed URL":      {want: finch.ErrNotSent, url: "http://[::1"},
		"an odd scheme":        {want: finch.ErrNotSent, url: "ftp://127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
				cfg := config(test.url)
				if test.handler != nil {
					cfg = answering(t, test.handler)
				}
				if test.timeout != 0 {
					cfg.Timeout = test.timeout
				}
				ctx := test.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				for callName, c := range calls {
					err := c.call(ctx, client(cfg))
					require.ErrorIs(t, err, test.want, callName)
					assert.False(t, errors.Is(err, finch.ErrNoAnswer) && errors.Is(err, finch.ErrNotSent))
					assert.NotErrorAs(t, err, new(*finch.Error), callName)
					assert.NoError(t, errors.Unwrap(err), "a single cause would be written down by whoever walks causes")
					clean(t, err.Error())
				}
			})
		})
	}
}

// TestUnusableAnswers: a good status with something else behind it may stand for
// a spent code.
func TestUnusableAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"nothing": "", "a page": "<html>", "an array": "[]", "null": "null", "no fields": "{}", "a text": `"text"`,
		"null fields":  `{"access_token": null, "connection_id": null, "session_id": null, "connect_url": null}`,
		"other types":  `{"access_token": 7, "connection_id": {}, "session_id": [], "connect_url": false}`,
		"far too much": strings.Repeat(" ", 2<<20) + `{"access_token": "t", "connection_id": "c", "session_id": "s", "connect_url": "u"}`,
	} {
		for _, callName := range []string{"Introspect", "Job", "CreateSession", "Reauthenticate", "Exchange"} {
			t.Run(name+"/"+callName, func(t *testing.T) {
				both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
					err := calls[callName].call(t.Context(), client(answering(t, answer(200, nil, body))))
					require.ErrorIs(t, err, finch.ErrNoAnswer)
				})
			})
		}
	}
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		require.ErrorIs(t, calls["Company"].call(t.Context(), client(answering(t, answer(202, nil, `{}`)))), finch.ErrPending)
		require.NoError(t, calls["Company"].call(t.Context(), client(answering(t, answer(200, nil, `surprise`)))))
		require.NoError(t, calls["Disconnect"].call(t.Context(), client(answering(t, answer(200, nil, ``)))))
	})
}

// TestATokenIsNotLost has answers that are odd, but hold a token.
func TestATokenIsNotLost(t *testing.T) {
	for name, test := range map[string]struct{ contentType, body string }{
		"plain text":         {"text/plain", `{"access_token": "minted", "connection_id": "con"}`},
		"no type at all":     {"", `{"access_token": "minted", "connection_id": "con"}`},
		"fields of any type": {"application/json", `{"entity_ids": "one", "products": {"a": 1}, "customer_id": 7, "access_token": "minted", "connection_id": "con", "client_type": []}`},
		"new fields":         {"application/json", `{"access_token": "minted", "connection_id": "con", "scope": {"a": [1]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
				cfg := answering(t, answer(200, http.Header{"Content-Type": {test.contentType}}, test.body))
				token, err := client(cfg).Exchange(t.Context(), authCode, "")
				require.NoError(t, err)
				assert.Equal(t, "minted", token.AccessToken)
				assert.Equal(t, "con", token.ConnectionID)
			})
		})
	}
}

// TestIntrospections are read alike, whatever is missing, null or new in them.
func TestIntrospections(t *testing.T) {
	for name, body := range map[string]string{
		"all there is": `{"id": "i", "client_id": "cl", "client_type": "sandbox", "connection_id": "con", "connection_type": "provider",
			"connection_status": {"status": "connected", "message": "fine", "last_successful_sync": "2026-11-21T08:00:00Z"},
			"products": ["company", "directory"], "provider_id": "gusto", "account_id": "a", "company_id": "co", "customer_id": "cu",
			"customer_name": "Acme", "customer_email": "` + address + `", "username": "maria", "manual": true, "payroll_provider_id": "gusto",
			"authentication_methods": [{"type": "credential", "connection_status": {"status": "reauth", "message": "m", "last_successful_sync": "2026-11-20T08:00:00+02:00"}, "products": ["company"]}],
			"entities": [{"id": "e1", "name": "North", "source_id": "s1", "status": "connected"}, {"id": "e2", "name": null, "source_id": null, "status": "disconnected"}]}`,
		"the least":         `{"connection_id": "con"}`,
		"null":              `{"connection_id": "con", "connection_status": null, "entities": null, "authentication_methods": null, "customer_email": null, "username": null, "products": null, "manual": null}`,
		"null inside":       `{"connection_id": "con", "connection_status": {"status": null, "last_successful_sync": null}}`,
		"the older form":    `{"connection_id": "con", "authentication_methods": [{"type": "credential", "connection_status": {"status": "reauth"}}, {"type": "oauth", "connection_status": {"status": "connected"}}]}`,
		"a status anew":     `{"connection_id": "con", "connection_status": {"status": "hibernating", "last_successful_sync": "some day"}}`,
		"gone":              `{"connection_id": "con", "connection_status": {"status": "disconnected"}}`,
		"one wants login":   `{"connection_id": "con", "connection_status": {"status": "connected"}, "entities": [{"id": "1", "name": "North", "status": "connected"}, {"id": "2", "name": "South", "status": "reauth"}]}`,
		"a time of no zone": `{"connection_id": "con", "connection_status": {"status": "connected", "last_successful_sync": "2026-11-21"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := answering(t, answer(200, nil, body))
			want, err := finch.New(cfg).Introspect(t.Context(), accessToken)
			require.NoError(t, err)
			got, err := finchsdk.New(cfg).Introspect(t.Context(), accessToken)
			require.NoError(t, err)
			// A list that is missing is as good as an empty one.
			assert.Equal(t, emptied(t, want), emptied(t, got))
			assert.Equal(t, want.CustomerEmail, got.CustomerEmail)
			assert.Equal(t, want.Username, got.Username)

			wanted, err := activities.Finch{Client: finch.New(cfg)}.Inspect(t.Context(), activities.Access{Token: accessToken})
			require.NoError(t, err)
			inspection, err := finchsdk.Provider(cfg).Inspect(t.Context(), activities.Access{Token: accessToken})
			require.NoError(t, err)
			assert.Equal(t, wanted, inspection)
		})
	}
}

// TestJobs are read alike.
func TestJobs(t *testing.T) {
	for name, body := range map[string]string{
		"over":        `{"job_id": "j", "type": "data_sync_all", "status": "reauth_error", "job_url": "u", "completed_at": "2026-11-21T08:00:00+02:00", "params": null}`,
		"under way":   `{"job_id": "j", "type": "data_sync_all", "status": "in_progress", "completed_at": null}`,
		"no time":     `{"job_id": "j", "type": "data_sync_all", "status": "complete", "completed_at": "some day"}`,
		"new in kind": `{"job_id": "j", "type": "tea", "status": "brewing", "leaves": [1]}`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := answering(t, answer(200, nil, body))
			want, err := finch.New(cfg).Job(t.Context(), accessToken, "j")
			require.NoError(t, err)
			got, err := finchsdk.New(cfg).Job(t.Context(), accessToken, "j")
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		cfg := answering(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
		for _, id := range []string{"", ".", ".."} {
			_, err := client(cfg).Job(t.Context(), accessToken, id)
			require.ErrorIs(t, err, finch.ErrNotSent)
		}
	})
}

func emptied(t *testing.T, i finch.Introspection) string {
	t.Helper()
	text, err := json.MarshalIndent(i, "", " ")
	require.NoError(t, err)
	return strings.ReplaceAll(string(text), ": null", ": []")
}

// TestWhatIsSent looks at every byte that the calls put on the wire, in an
// environment that has other ideas.
func TestWhatIsSent(t *testing.T) {
	for name, value := range map[string]string{
		"FINCH_CLIENT_ID": "another", "FINCH_CLIENT_SECRET": "another", "FINCH_BASE_URL": "http://127.0.0.1:1",
		"FINCH_WEBHOOK_SECRET": "another", "FINCH_CUSTOM_HEADERS": "Authorization: Bearer another",
	} {
		t.Setenv(name, value)
	}
	for callName, want := range map[string]struct{ request, authorization, body string }{
		"Introspect":     {"GET /introspect", "Bearer " + accessToken, ``},
		"Company":        {"GET /employer/company", "Bearer " + accessToken, ``},
		"Disconnect":     {"POST /disconnect", "Bearer " + accessToken, ``},
		"Job":            {"GET /jobs/automated/..%2Fintrospect", "Bearer " + accessToken, ``},
		"CreateSession":  {"POST /connect/sessions", "Basic", `{"customer_id": "cus", "customer_name": "Acme", "customer_email": "` + address + `", "products": ["company"]}`},
		"Reauthenticate": {"POST /connect/sessions/reauthenticate", "Basic", `{"connection_id": "con", "minutes_to_expire": 43200}`},
		"Exchange":       {"POST /auth/token", "", `{"client_id": "` + clientID + `", "client_secret": "` + clientSecret + `", "code": "` + authCode + `", "redirect_uri": "https://reauth.example/callback"}`},
	} {
		t.Run(callName, func(t *testing.T) {
			both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
				var got *http.Request
				var body []byte
				cfg := answering(t, func(_ http.ResponseWriter, r *http.Request) {
					got, body = r, nil
					body, _ = io.ReadAll(r.Body)
				})
				_ = calls[callName].call(t.Context(), client(cfg))
				require.NotNil(t, got)
				assert.Equal(t, want.request, got.Method+" "+got.URL.RequestURI())
				assert.Equal(t, "2020-09-17", got.Header.Get("Finch-API-Version"))
				switch want.authorization {
				case "Basic":
					id, secret, ok := got.BasicAuth()
					assert.True(t, ok && id == clientID && secret == clientSecret)
				case "":
					assert.NotContains(t, got.Header, "Authorization")
				default:
					assert.Equal(t, want.authorization, got.Header.Get("Authorization"))
				}
				if want.body == "" {
					assert.Empty(t, body)
				} else {
					assert.JSONEq(t, want.body, string(body))
				}
			})
		})
	}
	// The embedded flow's exchange has no redirect_uri at all, and what a session
	// may be asked for arrives.
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		var body string
		cfg := answering(t, func(_ http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			body = string(text)
		})
		_, _ = client(cfg).Exchange(t.Context(), authCode, "")
		assert.NotContains(t, body, "redirect_uri")
		_, _ = client(cfg).Reauthenticate(t.Context(), finch.ReauthenticateParams{
			ConnectionID: "con", RedirectURI: "https://reauth.example/callback", MinutesToExpire: 60, Products: []string{"company", "plans"},
		})
		assert.JSONEq(t, `{"connection_id": "con", "redirect_uri": "https://reauth.example/callback", "minutes_to_expire": 60, "products": ["company", "plans"]}`, body)
		manual := true
		_, _ = client(cfg).CreateSession(t.Context(), finch.NewSession{
			CustomerID: "cus", CustomerName: "Acme", Products: []string{"company"}, RedirectURI: "https://reauth.example/callback", MinutesToExpire: 60,
			Sandbox: "finch", Manual: &manual, Integration: &finch.Integration{Provider: "gusto", AuthMethod: "credential"},
		})
		assert.JSONEq(t, `{"customer_id": "cus", "customer_name": "Acme", "products": ["company"], "redirect_uri": "https://reauth.example/callback", "minutes_to_expire": 60,
			"sandbox": "finch", "manual": true, "integration": {"provider": "gusto", "auth_method": "credential"}}`, body)
	})
}

// TestATokenThatIsNoneIsNotSent: such a header would break off in the middle of
// the call, or the call would be made without one.
func TestATokenThatIsNoneIsNotSent(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		cfg := answering(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
		for _, token := range []string{"", "two words", "line\nbreak", "ünicode"} {
			_, err := client(cfg).Introspect(t.Context(), token)
			require.ErrorIs(t, err, finch.ErrNotSent)
		}
	})
}

// TestNoSecretIsShown has a Finch that repeats everything it was told.
func TestNoSecretIsShown(t *testing.T) {
	both(t, func(t *testing.T, client func(finch.Config) activities.FinchClient) {
		for callName, c := range calls {
			// What a call did not hold, nobody can know to be a secret.
			held := map[bool][]string{false: {clientSecret, accessToken}, true: {clientSecret}}[c.own]
			switch callName {
			case "Exchange":
				held = append(held, authCode)
			case "CreateSession":
				held = append(held, address)
			}
			for _, secret := range held {
				for _, status := range []int{302, 400, 401, 404, 429, 500} {
					body := fmt.Sprintf(`{"name": %[1]q, "finch_code": %[1]q, "message": "no %[1]s here", "error": %[1]q, "context": {"connection_id": %[1]q}}`, secret)
					err := c.call(t.Context(), client(answering(t, answer(status, http.Header{"Finch-Request-Id": {secret}}, body))))
					var e *finch.Error
					require.ErrorAs(t, err, &e, callName)
					for _, verb := range []string{"%v", "%+v", "%#v"} {
						assert.NotContains(t, fmt.Sprintf(verb, *e), secret, callName)
						assert.NotContains(t, fmt.Sprintf(verb, err), secret, callName)
					}
				}
			}
		}
		clean(t, client(config("http://127.0.0.1:1")))
	})
}
