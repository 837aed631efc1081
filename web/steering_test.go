package web

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
)

func TestSteering(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	until := f.clock().Add(72 * time.Hour).Truncate(time.Second)
	var a Accepted
	f.api(202, "POST", reportURL+"/cancel", map[string]any{"reason": "they left"}, &a)
	require.Equal(t, Accepted{CaseID: "case-1", Phase: "awaiting_customer"}, a)
	f.api(202, "POST", reportURL+"/snooze", map[string]any{"until": until.In(time.FixedZone("", 7200)).Format(time.RFC3339)}, &a)
	f.api(202, "POST", reportURL+"/remind", nil, &a)
	f.api(202, "POST", reportURL+"/stop", map[string]any{"reason": "we phone them"}, &a)
	require.Equal(t, Accepted{CaseID: "case-1", Phase: "awaiting_customer"}, a)
	require.Equal(t, []reauth.StopNotices{{Reason: "we phone them", By: "key bootstrap"}}, f.temporal.stops)
	require.Equal(t, []string{"cancel " + connID, "snooze " + connID, "remind " + connID, "stop " + connID}, f.temporal.signals)
	require.Equal(t, []reauth.Cancel{{Reason: "they left", By: "key bootstrap"}}, f.temporal.cancels)
	require.Equal(t, []reauth.Snooze{{Until: until, By: "key bootstrap"}}, f.temporal.snoozes, "in UTC")
	require.Equal(t, []reauth.RemindNow{{By: "key bootstrap"}}, f.temporal.reminds)
}

func TestSteeringRefuses(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	tests := []struct {
		name, path string
		body       any
		status     int
		want       string
	}{
		{"cancel without a reason", "/cancel", map[string]any{}, 422, "expected required property reason"},
		{"cancel with an empty reason", "/cancel", map[string]any{"reason": ""}, 422, "body.reason: expected length >= 1"},
		{"cancel in two lines", "/cancel", map[string]any{"reason": "a\nb"}, 422, "body.reason: must be one line"},
		{"cancel without a body", "/cancel", nil, 400, "request body is required"},
		{"stop without a reason", "/stop", map[string]any{}, 422, "expected required property reason"},
		{"stop with an empty reason", "/stop", map[string]any{"reason": ""}, 422, "body.reason: expected length >= 1"},
		{"stop in two lines", "/stop", map[string]any{"reason": "a\nb"}, 422, "body.reason: must be one line"},
		{"snooze without a time", "/snooze", map[string]any{}, 422, "expected required property until"},
		{"snooze in words", "/snooze", map[string]any{"until": "tomorrow"}, 422, "body.until: expected string to be RFC 3339 date-time"},
		{"snooze into the past", "/snooze", map[string]any{"until": f.clock().Add(-time.Second)}, 422, "body.until: must be in the future"},
		{"snooze for ever", "/snooze", map[string]any{"until": "2999-01-01T00:00:00Z"}, 422, "at most a year ahead"},
		{"code without a code", "/code", map[string]any{}, 422, "expected required property code"},
		{"an empty code", "/code", map[string]any{"code": ""}, 422, "body.code: expected length >= 1"},
		{"a code with a space", "/code", map[string]any{"code": "code Hush"}, 422, "code must be 1 to 2048 printable ASCII characters"},
		{"a code with a bad redirect_uri", "/code", map[string]any{"code": "code-Hush", "redirect_uri": "here"}, 422, "redirect_uri must be an absolute"},
		{"an unknown field beside a code", "/code", map[string]any{"code": "code-Hush", "embedded": true}, 422, "body.embedded: is not a field here; known are code, redirect_uri"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Contains(t, f.problem(test.status, "POST", reportURL+test.path, test.body).Detail, test.want)
		})
	}
	require.Empty(t, f.temporal.signals)
	require.Empty(t, f.temporal.codes)

	calls := map[string]any{"cancel": map[string]any{"reason": "x"}, "snooze": map[string]any{"until": f.clock().Add(time.Hour)}, "remind": nil, "stop": map[string]any{"reason": "x"}}
	for what, body := range calls {
		f.problem(404, "POST", "/v1/connections/nobody/reauth/"+what, body)
		f.temporal.noCase = true
		require.Contains(t, f.problem(409, "POST", reportURL+"/"+what, body).Detail, "has no open case")
		f.temporal.down = true
		f.problem(503, "POST", reportURL+"/"+what, body)
		f.temporal.down, f.temporal.noCase = false, false
	}
	f.problem(404, "POST", "/v1/connections/nobody/reauth/code", map[string]any{"code": "code-Hush"})
}

func TestSubmitCode(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.register("other")
	var r CodeResult
	f.api(202, "POST", reportURL+"/code", map[string]any{"code": "code-Hush-1"}, &r)
	require.Equal(t, CodeResult{CaseID: "case-" + connID, State: "received"}, r)
	f.api(200, "POST", reportURL+"/code", map[string]any{"code": "code-Hush-1"}, &r)
	require.Equal(t, "received", r.State)
	require.NoError(t, f.db.SettleCode(t.Context(), reauth.CodeHash("code-Hush-1"), connID, "case-1", reauth.CodeRecovered, 1))
	f.api(200, "POST", reportURL+"/code", map[string]any{"code": "code-Hush-1"}, &r)
	require.Equal(t, "recovered", r.State, "a repetition shows the first result")
	f.api(202, "POST", reportURL+"/code", map[string]any{"code": "code-Hush-2", "redirect_uri": "https://app.example.com/cb"}, &r)
	require.Equal(t, []reauth.CodeReceived{
		{Code: "code-Hush-1", Embedded: true}, {Code: "code-Hush-2", RedirectURI: "https://app.example.com/cb"},
	}, f.temporal.codes)
	f.problem(409, "POST", "/v1/connections/other/reauth/code", map[string]any{"code": "code-Hush-1"})

	f.temporal.down = true
	f.api(202, "POST", reportURL+"/code", map[string]any{"code": "code-Hush-3"}, &r)
	require.Equal(t, "received", r.State, "while Temporal is down a code is held")
	require.Equal(t, 1, f.count("held_codes"))
}
