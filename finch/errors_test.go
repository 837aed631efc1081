package finch_test

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
)

func errorOf(t *testing.T, callName string, status int, header map[string]string, body string) *finch.Error {
	t.Helper()
	var e *finch.Error
	require.ErrorAs(t, calls()[callName](t.Context(), answering(t, status, header, body)), &e)
	return e
}

// Each error is understood as exactly one thing, whatever shape it comes in.
func TestErrorsAreToldApart(t *testing.T) {
	const (
		reauth = 1 << iota
		setup
		token
		grant
		client
		gone
		limited
		temporary
	)
	for name, tc := range map[string]struct {
		call   string
		status int
		body   string
		want   int
	}{
		"stale":                                {"Company", 401, `{"code":401,"name":"authentication_error","finch_code":"reauthenticate_user","message":"Please reauthenticate user"}`, reauth},
		"stale, said by introspection":         {"Introspect", 401, `{"finch_code":"reauthenticate_user"}`, reauth},
		"account setup":                        {"Company", 401, `{"code":401,"name":"authentication_error","finch_code":"account_setup_required"}`, setup},
		"permissions":                          {"Company", 403, `{"name":"error_permissions","finch_code":"insufficient_account_permissions"}`, setup},
		"wrong token":                          {"Introspect", 401, `{"code":401,"name":"invalid_token_error","message":"x"}`, token},
		"bare 401 for a token":                 {"Introspect", 401, `{"statusCode":401,"status":401,"code":401,"message":"Unauthorized"}`, 0},
		"empty 401 for a token":                {"Introspect", 401, ``, 0},
		"refused code":                         {"Exchange", 400, `{"code":400,"name":"invalid_grant_error","message":"Invalid authorization code"}`, grant},
		"refused code as OAuth writes it":      {"Exchange", 400, `{"error":"invalid_grant","error_description":"expired"}`, grant},
		"refused code as a text":               {"Exchange", 400, `{"error":"Invalid grant: expired"}`, grant},
		"refused code as a finch_code":         {"Exchange", 400, `{"finch_code":"invalid_grant"}`, grant},
		"refused code with 401":                {"Exchange", 401, `{"name":"invalid_grant_error"}`, grant},
		"bad request":                          {"Exchange", 400, `{"name":"bad_request","finch_code":"invalid_request"}`, 0},
		"malformed request with 401":           {"Exchange", 401, `{"name":"invalid_request_error"}`, 0},
		"bad client at the exchange":           {"Exchange", 401, `{"code":401,"name":"invalid_client_error"}`, client},
		"bad client, documented schema":        {"Reauthenticate", 401, `{"code":401,"finch_code":"invalid_client","message":"Invalid client: Unable to validate credentials"}`, client},
		"bad client, documented example":       {"Reauthenticate", 401, `{"error":"Invalid client: Unable to validate credentials"}`, client},
		"bad client, nothing said":             {"CreateSession", 401, ``, client},
		"bad client, a gateway's page":         {"CreateSandboxConnection", 401, `<html>Unauthorized</html>`, client},
		"bad client said of a token call":      {"Introspect", 401, `{"error":"Invalid client: x"}`, client},
		"connection not found, example":        {"Reauthenticate", 400, `{"code":400,"finch_code":"invalid_request","message":"Connection not found","name":"bad_request"}`, gone},
		"connection not found, schema":         {"Reauthenticate", 400, `{"code":400,"finch_code":"connection_not_found"}`, gone},
		"connection not found, 404":            {"Reauthenticate", 404, `{"message":"connection not found"}`, gone},
		"another 404":                          {"Reauthenticate", 404, `{"message":"Not found"}`, 0},
		"bad redirect URI":                     {"Reauthenticate", 400, `{"code":400,"finch_code":"invalid_request","message":"redirect_uri"}`, 0},
		"too many calls":                       {"Introspect", 429, `{"statusCode":429,"name":"rate_limit_exceeded_error","finch_code":"finch_application_rl"}`, limited | temporary},
		"too many calls, stale words":          {"Introspect", 429, `{}`, limited | temporary},
		"timeout":                              {"Introspect", 408, `{"name":"client_connection_closed"}`, temporary},
		"too early":                            {"Introspect", 425, ``, temporary},
		"server error":                         {"Introspect", 500, `{"name":"server_error"}`, temporary},
		"gateway":                              {"Exchange", 502, `<html>`, temporary},
		"server error with stale words":        {"Company", 500, `{"finch_code":"reauthenticate_user"}`, temporary},
		"conflict":                             {"Reauthenticate", 409, ``, 0},
		"payment required":                     {"Company", 402, `{"finch_code":"payment_required"}`, 0},
		"types that nobody expected":           {"Company", 401, `{"code":"401","name":["x"],"finch_code":"reauthenticate_user","message":{"a":1},"context":[],"error":{}}`, reauth},
		"a refusal named like nothing we know": {"Exchange", 400, `{"name":"code_expired"}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := errorOf(t, tc.call, tc.status, nil, tc.body)
			for what, got := range map[int]bool{
				reauth: e.IsReauth(), setup: e.IsAccountSetup(), token: e.IsInvalidToken(), grant: e.IsInvalidGrant(),
				client: e.IsInvalidClient(), gone: e.IsConnectionNotFound(), limited: e.IsRateLimited(), temporary: e.Temporary(),
			} {
				assert.Equal(t, tc.want&what != 0, got, "%b", what)
			}
		})
	}
}

// An Error that somebody else made is judged by its fields alone.
func TestAnErrorMadeElsewhere(t *testing.T) {
	assert.False(t, (&finch.Error{Status: 401}).IsInvalidClient())
	assert.True(t, (&finch.Error{Status: 401, Name: "invalid_client_error"}).IsInvalidClient())
	assert.True(t, (&finch.Error{Status: 400, Name: "invalid_grant_error"}).IsInvalidGrant())
	assert.True(t, (&finch.Error{Status: 401, FinchCode: "reauthenticate_user"}).IsReauth())
}

func TestErrorFields(t *testing.T) {
	e := errorOf(t, "CreateSession", 400, map[string]string{"Finch-Request-Id": "req-77"},
		`{"code":400,"finch_code":"connection_already_exists","message":"There's an existing connection","name":"bad_request",
		  "context":{"customer_id":"acme","connection_id":"conn-5"}}`)
	assert.Equal(t, "POST /connect/sessions", e.Op)
	assert.Equal(t, finch.CodeConnectionAlreadyExists, e.FinchCode)
	assert.Equal(t, "conn-5", e.ConnectionID)
	assert.Equal(t, "There's an existing connection", e.Message)
	assert.Equal(t, "finch: POST /connect/sessions: 400 bad_request (connection_already_exists), request req-77", e.Error())

	assert.Equal(t, "finch: GET /introspect: 502", errorOf(t, "Introspect", 502, nil, "<html>").Error())

	// The status counts even if the rest of the answer was lost.
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "500")
		w.WriteHeader(401)
		_, _ = w.Write([]byte(`{"na`))
	})
	err := cut.Company(t.Context(), accessToken)
	var got *finch.Error
	require.ErrorAs(t, err, &got)
	assert.Equal(t, 401, got.Status)
}

func TestRetryAfter(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		header map[string]string
		want   time.Duration
	}{
		"seconds":      {map[string]string{"Retry-After": "30"}, 30 * time.Second},
		"fraction":     {map[string]string{"Retry-After": "0.5"}, 500 * time.Millisecond},
		"milliseconds": {map[string]string{"Retry-After-Ms": "1500", "Retry-After": "9"}, 1500 * time.Millisecond},
		"date":         {map[string]string{"Retry-After": at.Add(time.Minute).Format(http.TimeFormat), "Date": at.Format(http.TimeFormat)}, time.Minute},
		"past date":    {map[string]string{"Retry-After": at.Add(-time.Minute).Format(http.TimeFormat), "Date": at.Format(http.TimeFormat)}, 0},
		"negative":     {map[string]string{"Retry-After": "-5"}, 0},
		"not a number": {map[string]string{"Retry-After": "NaN"}, 0},
		"no number":    {map[string]string{"Retry-After": "soon"}, 0},
		"too long":     {map[string]string{"Retry-After": "1e300"}, 24 * time.Hour},
		"infinite":     {map[string]string{"Retry-After": "Inf"}, 24 * time.Hour},
		"absent":       {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tc.want, errorOf(t, "Introspect", 429, tc.header, "").RetryAfter)
		})
	}
}

// A provider that repeats what it was sent does not make us repeat it.
func TestErrorsKeepSecrets(t *testing.T) {
	for callName, call := range calls() {
		t.Run(callName, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				all := clientSecret + accessToken + authCode
				w.Header().Set("Finch-Request-Id", all)
				w.WriteHeader(400)
				_, _ = fmt.Fprintf(w, `{"name":%q,"finch_code":%q,"message":%q,"error":%q}`, all, all, "tried "+all+" and "+r.Header.Get("Authorization"), all)
			})
			var e *finch.Error
			require.ErrorAs(t, call(t.Context(), c), &e)
			own := map[string][]string{
				"CreateSession": {clientSecret}, "Reauthenticate": {clientSecret}, "CreateSandboxConnection": {clientSecret},
				"Exchange": {clientSecret, authCode},
			}[callName]
			if own == nil {
				own = []string{accessToken}
			}
			for _, secret := range own {
				for _, text := range []string{e.Error(), e.Message, e.Name, e.FinchCode, e.RequestID, fmt.Sprintf("%+v %#v", e, *e)} {
					assert.NotContains(t, text, secret)
				}
			}
		})
	}
	c := answering(t, 400, nil, `{"message":"ada@acme.example is malformed"}`)
	_, err := c.CreateSession(t.Context(), finch.NewSession{CustomerEmail: "ada@acme.example"})
	var e *finch.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "[redacted] is malformed", e.Message)
}

// The code in a callback is whatever a stranger wrote there. It must not
// change how its own refusal is understood.
func TestAJunkCodeIsUnderstoodAsRefused(t *testing.T) {
	for _, code := range []string{"e", "invalid_grant_error", "invalid", "grant", "Invalid grant"} {
		for _, body := range []string{`{"name":"invalid_grant_error","message":"no"}`, `{"error":"Invalid grant: no"}`, `{"error":"invalid_grant"}`} {
			_, err := answering(t, 400, nil, body).Exchange(t.Context(), code, "")
			var e *finch.Error
			require.ErrorAs(t, err, &e)
			assert.True(t, e.IsInvalidGrant(), "%s %s", code, body)
		}
	}
}

// errorText is all that the text of an Error may consist of.
var errorText = regexp.MustCompile(`^finch: -?\d+( [A-Za-z0-9_.:-]+)?( \([A-Za-z0-9_.:-]+\))?(, request [A-Za-z0-9_.:-]+)?$`)

func FuzzErrorBody(f *testing.F) {
	for _, body := range []string{
		`{"code":401,"name":"authentication_error","finch_code":"reauthenticate_user","message":"Please reauthenticate user"}`,
		`{"error":"Invalid client: Unable to validate credentials"}`,
		`{"error":"invalid_grant","error_description":"` + authCode + `"}`,
		`{"code":400,"finch_code":"invalid_request","message":"Connection not found","name":"bad_request"}`,
		`{"statusCode":429,"status":429,"code":429,"message":"Too many requests for token","name":"rate_limit_exceeded_error"}`,
		`<html>502</html>`, ``, `[]`, `{"error":{"error":1}}`, `{"message":"` + strings.Repeat("é", 300) + `"}`, "{\"message\":\"a\\u0000\\nb\xff\"}",
	} {
		f.Add(400, body, "12", "req-1")
	}
	f.Fuzz(func(t *testing.T, status int, body, retryAfter, requestID string) {
		h := http.Header{"Retry-After": {retryAfter}, "Finch-Request-Id": {requestID}}
		secrets := []string{clientSecret, "", authCode}
		e := finch.ParseError(status, h, []byte(body), secrets)
		if !reflect.DeepEqual(e, finch.ParseError(status, h, []byte(body), secrets)) && h.Get("Retry-After") == "" {
			t.Error("the same answer is read in two ways")
		}
		if e.Status != status || e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
			t.Errorf("status %d, wait %s", e.Status, e.RetryAfter)
		}
		if !utf8.ValidString(e.Message) || utf8.RuneCountInString(e.Message) > 200 || strings.ContainsAny(e.Message, "\r\n\x00") {
			t.Errorf("message %q", e.Message)
		}
		if !errorText.MatchString(e.Error()) {
			t.Errorf("error %q", e.Error())
		}
		for _, text := range []string{e.Error(), e.Message, e.Name, e.FinchCode, e.RequestID, e.ConnectionID} {
			if slices.ContainsFunc([]string{clientSecret, authCode}, func(s string) bool { return strings.Contains(text, s) }) {
				t.Errorf("a secret is in %q", text)
			}
		}
		e.IsReauth()
		e.IsInvalidGrant()
		e.IsInvalidClient()
		e.IsConnectionNotFound()
	})
}
