package activities_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// answering is Finch answering every call by the same handler.
func answering(t *testing.T, handler http.HandlerFunc, timeout ...time.Duration) activities.Finch {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return activities.Finch{Client: finch.New(finch.Config{BaseURL: server.URL, ClientID: clientID, ClientSecret: clientSecret, Timeout: append(timeout, 5*time.Second)[0]})}
}

func TestFinchErrors(t *testing.T) {
	const (
		reauthUser   = `{"code": 401, "name": "authentication_error", "finch_code": "reauthenticate_user"}`
		notFound     = `{"code": 404, "name": "not_found_error", "finch_code": "connection_not_found"}`
		notFoundText = `{"code": 400, "name": "bad_request", "finch_code": "invalid_request", "message": "Connection not found"}`
	)
	var status int
	var body string
	var header http.Header
	f := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
	retryAfter := http.Header{"Retry-After": {"90"}}
	all := func(trouble activities.Trouble) [4]activities.Trouble {
		return [4]activities.Trouble{trouble, trouble, trouble, trouble}
	}
	// What the same answer means differs by whose credentials the call has: the
	// token's (Inspect, Probe) or ours (OpenSession, Exchange).
	split := func(tokens, ours activities.Trouble) [4]activities.Trouble {
		return [4]activities.Trouble{tokens, tokens, ours, ours}
	}
	for name, test := range map[string]struct {
		status int
		body   string
		header http.Header
		want   [4]activities.Trouble
		after  time.Duration
	}{
		"reauthenticate_user":            {401, reauthUser, nil, all(activities.TroubleReauth), 0},
		"account_setup_required":         {401, setupRequired, nil, all(activities.TroubleSetup), 0},
		"insufficient permissions":       {403, noPermissions, nil, all(activities.TroubleSetup), 0},
		"invalid_client by name":         {401, `{"name": "invalid_client_error"}`, nil, all(activities.TroubleClient), 0},
		"invalid_client as a text":       {401, `{"error": "Invalid client: Unable to validate credentials"}`, nil, all(activities.TroubleClient), 0},
		"a bare 401":                     {401, ``, nil, split(activities.TroubleUnauthorized, activities.TroubleClient), 0},
		"unauthorized_request":           {401, `{"name": "unauthorized_request_error"}`, nil, split(activities.TroubleUnauthorized, activities.TroubleClient), 0},
		"invalid_token":                  {401, invalidToken, nil, split(activities.TroubleToken, activities.TroubleClient), 0},
		"invalid_grant":                  {400, `{"name": "invalid_grant_error"}`, nil, all(activities.TroubleGrant), 0},
		"invalid_grant with 401":         {401, `{"name": "invalid_grant"}`, nil, all(activities.TroubleGrant), 0},
		"invalid_grant as OAuth has it":  {400, `{"error": "invalid_grant", "error_description": "no"}`, nil, all(activities.TroubleGrant), 0},
		"connection_not_found by code":   {404, notFound, nil, all(activities.TroubleNotFound), 0},
		"connection_not_found as a text": {400, notFoundText, nil, all(activities.TroubleNotFound), 0},
		"too many calls":                 {429, `{"name": "rate_limit_exceeded_error"}`, retryAfter, all(activities.TroubleLimit), 90 * time.Second},
		"too many calls, until whenever": {429, ``, nil, all(activities.TroubleLimit), 0},
		"500":                            {500, `{"name": "server_error"}`, nil, all(activities.TroubleDown), 0},
		"a gateway's page":               {502, `<html>Bad Gateway</html>`, nil, all(activities.TroubleDown), 0},
		"maintenance":                    {503, ``, retryAfter, all(activities.TroubleDown), 90 * time.Second},
		"408":                            {408, ``, nil, all(activities.TroubleDown), 0},
		"425":                            {425, ``, nil, all(activities.TroubleDown), 0},
		"400":                            {400, `{"name": "bad_request"}`, nil, all(activities.TroubleRequest), 0},
		"403":                            {403, `{"name": "insufficient_scope_error"}`, nil, all(activities.TroubleRequest), 0},
		"404":                            {404, `{"name": "not_found_error"}`, nil, all(activities.TroubleRequest), 0},
		"a redirect":                     {302, ``, http.Header{"Location": {"https://elsewhere.example/"}}, all(activities.TroubleRequest), 0},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, header = test.status, test.body, test.header
			for i, err := range ask(t.Context(), f) {
				var e *activities.ProviderError
				require.ErrorAs(t, err, &e)
				assert.Equal(t, test.want[i], e.Trouble, "call %d", i)
				assert.Equal(t, test.after, e.RetryAfter, "call %d", i)
			}
		})
	}
}

// ask makes every call and returns their errors: Inspect, Probe, OpenSession, Exchange.
func ask(ctx context.Context, f activities.Finch) [4]error {
	access := activities.Access{ConnectionID: "c", Token: "a-token"}
	_, inspect := f.Inspect(ctx, access)
	_, open := f.OpenSession(ctx, activities.SessionRequest{ConnectionID: "c", Minutes: 60})
	_, exchange := f.Exchange(ctx, "a-code", "")
	return [4]error{inspect, f.Probe(ctx, access), open, exchange}
}

func TestFinchWithoutAnswer(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	short := answering(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then is it seen that the caller has hung up
		<-r.Context().Done()
	}, 50*time.Millisecond)
	nobody := activities.Finch{Client: finch.New(finch.Config{BaseURL: "http://127.0.0.1:1", Timeout: 5 * time.Second})}
	for name, test := range map[string]struct {
		ctx   context.Context
		finch activities.Finch
		want  activities.Trouble
	}{
		"it hangs up":              {t.Context(), answering(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), activities.TroubleNoAnswer},
		"it takes too long":        {t.Context(), short, activities.TroubleNoAnswer},
		"nobody listens":           {t.Context(), nobody, activities.TroubleNotSent},
		"we have given up already": {cancelled, short, activities.TroubleNotSent},
	} {
		t.Run(name, func(t *testing.T) {
			for i, err := range ask(test.ctx, test.finch) {
				var e *activities.ProviderError
				require.ErrorAs(t, err, &e)
				assert.Equal(t, test.want, e.Trouble, "call %d", i)
			}
		})
	}

	// A good status with something else behind it is no answer; of Probe, 202 is.
	odd := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if w.WriteHeader(http.StatusAccepted); r.URL.Path != "/employer/company" {
			_, _ = w.Write([]byte("surprise"))
		}
	})
	for i, err := range ask(t.Context(), odd) {
		var e *activities.ProviderError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, activities.TroubleNoAnswer, e.Trouble, "call %d", i)
	}
}

func TestFinchErrorsSayWhatHelps(t *testing.T) {
	f := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Finch-Request-Id", "req-7")
		w.WriteHeader(403)
		_, _ = w.Write([]byte(noPermissions))
	})
	_, err := f.Inspect(t.Context(), activities.Access{Token: "a-token"})
	assert.EqualError(t, err, "setup (insufficient_account_permissions) [request req-7]")
	assert.EqualError(t, &activities.ProviderError{Trouble: activities.TroubleReauth, Code: "reauthenticate_user"}, "reauthenticate_user")
	assert.EqualError(t, &activities.ProviderError{Trouble: activities.TroubleNoAnswer}, "no_answer")
}

func TestFinchInspection(t *testing.T) {
	var body string
	f := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
	entities := `, "entities": [{"id": "1", "name": "North", "status": "connected"}, {"id": "2", "name": "South", "status": "reauth"}]`
	for said, want := range map[string]activities.Inspection{
		`"connection_status": {"status": "connected"}`:              {Status: "connected", Condition: activities.ConditionConnected},
		`"connection_status": {"status": "reauth"}`:                 {Status: "reauth", Condition: activities.ConditionStale},
		`"connection_status": {"status": "pending"}`:                {Status: "pending", Condition: activities.ConditionPending},
		`"connection_status": {"status": "processing"}`:             {Status: "processing", Condition: activities.ConditionPending},
		`"connection_status": {"status": "error_permissions"}`:      {Status: "error_permissions", Condition: activities.ConditionSetup},
		`"connection_status": {"status": "error_no_account_setup"}`: {Status: "error_no_account_setup", Condition: activities.ConditionSetup},
		`"connection_status": {"status": "disconnected"}`:           {Status: "disconnected", Condition: activities.ConditionGone},
		`"connection_status": {"status": "hibernating"}`:            {Status: "hibernating", Condition: activities.ConditionUnknown},
		`"connection_status": null`:                                 {Condition: activities.ConditionUnknown},
		`"connection_status": {"status": "connected"}` + entities:   {Status: "connected", Condition: activities.ConditionStale, Entities: reauth.Entities{{EntityID: "1", Name: "North", Status: "connected"}, {EntityID: "2", Name: "South", Status: "reauth"}}},
		`"authentication_methods": [{"connection_status": {"status": "reauth"}}]`: { // as Finch had it before
			Status: "reauth", Condition: activities.ConditionStale,
		},
	} {
		body = `{"connection_id": "c-1", ` + said + `}`
		got, err := f.Inspect(t.Context(), activities.Access{Token: "a-token"})
		require.NoError(t, err, said)
		want.ConnectionID = "c-1"
		assert.Equal(t, want, got, said)
	}
}
