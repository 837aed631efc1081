package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
)

const anyReportURL = "/v1/reports"

// put registers a connection of a customer.
func (f *fixture) put(id, customer, application, system string) {
	f.t.Helper()
	_, err := f.db.PutConnection(f.t.Context(), reauth.Connection{ConnectionID: id, CustomerID: customer, Application: application, System: system})
	require.NoError(f.t, err)
}

func TestReportByAnyKey(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.adopt("token-Hush-1")
	f.put("c-2", "cus_2", "default", "Gusto")
	f.put("c-3a", "cus_3", "default", "Gusto")
	f.put("c-3b", "cus_3", "default", "ADP Run")
	f.put("c-3c", "cus_3", "sandbox", "Gusto")
	for name, test := range map[string]struct {
		body map[string]any
		want string
	}{
		"by connection_id":               {map[string]any{"connection_id": connID}, connID},
		"by connection_id and its token": {map[string]any{"connection_id": connID, "token_fingerprint": reauth.Fingerprint("token-Hush-1")}, connID},
		"by token_fingerprint":           {map[string]any{"token_fingerprint": reauth.Fingerprint("token-Hush-1")}, connID},
		"by customer_id":                 {map[string]any{"customer_id": "cus_2"}, "c-2"},
		"by customer_id and application": {map[string]any{"customer_id": "cus_3", "application": "sandbox"}, "c-3c"},
		"by customer_id and system":      {map[string]any{"customer_id": "cus_3", "system": "adp run"}, "c-3b"},
		"by customer_id and provider":    {map[string]any{"customer_id": "cus_2", "provider": "finch"}, "c-2"},
	} {
		t.Run(name, func(t *testing.T) {
			test.body["source"], test.body["finch_code"] = "api_error", "reauthenticate_user"
			var r AnyReportResult
			f.api(http.StatusAccepted, "POST", anyReportURL, test.body, &r)
			require.Equal(t, test.want, r.ConnectionID)
			require.Equal(t, "case-"+test.want, r.CaseID)
			require.Equal(t, "reauth-"+test.want, r.WorkflowID)
		})
	}
	f.adopt("token-Hush-2")
	var r AnyReportResult
	f.api(http.StatusOK, "POST", anyReportURL, map[string]any{"source": "api_error", "token_fingerprint": reauth.Fingerprint("token-Hush-1")}, &r)
	require.Equal(t, AnyReportResult{ConnectionID: connID, ReportResult: ReportResult{TokenSuperseded: true, Generation: 2}}, r, "whose token it was")
}

func TestReportByAnyKeyRefusesBadInput(t *testing.T) {
	f := newFixture(t)
	f.put("c-1", "cus_1", "default", "Gusto")
	f.put("gone", "cus_gone", "default", "Gusto")
	_, err := f.db.RemoveConnection(t.Context(), "gone")
	require.NoError(t, err)
	with := func(pairs ...any) map[string]any {
		b := map[string]any{"source": "manual"}
		for i := 0; i < len(pairs); i += 2 {
			b[pairs[i].(string)] = pairs[i+1]
		}
		return b
	}
	fp := reauth.Fingerprint("token-Hush")
	for name, test := range map[string]struct {
		body   map[string]any
		status int
		want   string
	}{
		"nothing":                    {with(), 422, "must name the connection by connection_id, token_fingerprint or customer_id"},
		"an ID and a customer":       {with("connection_id", "c-1", "customer_id", "cus_1"), 422, "body.customer_id: must be absent"},
		"a customer and a token":     {with("customer_id", "cus_1", "token_fingerprint", fp), 422, "body.customer_id: must be absent"},
		"a token itself":             {with("token_fingerprint", "token-Hush"), 422, "body.token_fingerprint: expected string to be the first 16 bytes"},
		"a bad ID":                   {with("connection_id", "../c"), 422, "connection_id must be 1 to 128 letters"},
		"an application and an ID":   {with("connection_id", "c-1", "application", "default"), 422, "body.application: goes with customer_id alone"},
		"a system and a token":       {with("token_fingerprint", fp, "system", "Gusto"), 422, "body.system: goes with customer_id"},
		"to ask for a token":         {with("token_fingerprint", fp, "ask_provider", true), 422, "body.ask_provider: goes with customer_id"},
		"to ask without a name":      {with("customer_id", "cus_9", "ask_provider", true), 422, "body.customer_name: is missing"},
		"to ask, but nobody can":     {with("customer_id", "cus_9", "ask_provider", true, "customer_name", "Acme"), 422, "body.ask_provider: is not available here"},
		"a customer of two lines":    {with("customer_id", "a\nb"), 422, "body.customer_id: must be one line"},
		"an unknown ID":              {with("connection_id", "nobody"), 404, "PUT /v1/connections/nobody registers it"},
		"a removed connection's ID":  {with("connection_id", "gone"), 404, "was removed"},
		"an unknown token":           {with("token_fingerprint", fp), 404, "or register it with its access_token"},
		"an unknown customer":        {with("customer_id", "cus_9"), 404, "with its customer_id registers one"},
		"a removed one's customer":   {with("customer_id", "cus_gone"), 404, "No registered connection is this customer's"},
		"another application's":      {with("customer_id", "cus_1", "application", "sandbox"), 404, "No registered connection"},
		"no source":                  {map[string]any{"connection_id": "c-1"}, 422, "required property source"},
		"an unknown field":           {with("connection_id", "c-1", "conection_id", "x"), 422, "is not a field here; known are application, ask_provider, campaign, connection_id, customer_id"},
		"a bad reminder":             {with("connection_id", "c-1", "reminders", []string{"soon"}), 422, "reminders[0] must be a duration"},
		"a campaign that cannot be":  {with("connection_id", "c-1", "campaign", "a b"), 422, "body.campaign"},
		"a secret as the customer's": {with("customer_id", "cus-Hush"), 404, "No registered connection"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, f.problem(test.status, "POST", anyReportURL, test.body).Detail, test.want)
		})
	}
	require.Empty(t, f.temporal.reports)
	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "tokens", hashAPIKey("key-Hush-tokens"), []string{ScopeTokens}))
	f.problem(http.StatusForbidden, "POST", anyReportURL, with("connection_id", "c-1"), header("Authorization", "Bearer key-Hush-tokens"))
}

func TestReportOfACustomerWithSeveralConnections(t *testing.T) {
	f := newFixture(t)
	f.put("c-a", "cus_1", "default", "Gusto")
	f.put("c-b", "cus_1", "sandbox", "")
	w := f.do("POST", anyReportURL, map[string]any{"source": "api_error", "customer_id": "cus_1"})
	require.Equal(t, http.StatusConflict, w.Code, w.Body.String())
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var p struct {
		problemBody
		Connections []NamedConnection
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, http.StatusConflict, p.Status)
	require.Contains(t, p.Detail, "by its connection_id: c-a, c-b.")
	require.Equal(t, []NamedConnection{
		{ConnectionID: "c-a", Provider: "finch", Application: "default", System: "Gusto", Status: "connected"},
		{ConnectionID: "c-b", Provider: "finch", Application: "sandbox", Status: "connected"},
	}, p.Connections)
	require.Empty(t, f.temporal.reports, "nothing was reported")
	var api struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	f.api(200, "GET", "/openapi.json", nil, &api, noKey)
	for _, field := range []string{"detail", "status", "connections"} {
		require.Contains(t, api.Components.Schemas["SeveralConnections"].Properties, field)
	}

	require.NoError(t, f.db.SetConnectionStatus(t.Context(), "c-a", reauth.StatusDisconnected, f.clock()))
	var r AnyReportResult
	f.api(http.StatusAccepted, "POST", anyReportURL, map[string]any{"source": "api_error", "customer_id": "cus_1"}, &r)
	require.Equal(t, "c-b", r.ConnectionID, "the other one was disconnected")
}

func TestReportThatAsksTheProvider(t *testing.T) {
	var asked [][3]string
	found, failure := "found-1", error(nil)
	f := newFixture(t, func(c *Config) {
		c.FindConnection = func(_ context.Context, application, id, name string) (string, error) {
			asked = append(asked, [3]string{application, id, name})
			return found, failure
		}
	})
	f.put("c-1", "cus_1", "default", "Gusto")
	body := func(customer string, ask bool) map[string]any {
		b := map[string]any{"source": "api_error", "customer_id": customer}
		if ask {
			b["ask_provider"], b["customer_name"] = true, "Acme Ltd"
		}
		return b
	}
	f.problem(404, "POST", anyReportURL, body("cus_new", false))
	f.api(202, "POST", anyReportURL, body("cus_1", true), nil)
	require.Empty(t, asked, "only when it is asked for, and only for a customer who is not known")

	var r AnyReportResult
	f.api(202, "POST", anyReportURL, body("cus_new", true), &r)
	require.Equal(t, "found-1", r.ConnectionID)
	require.Equal(t, [][3]string{{"default", "cus_new", "Acme Ltd"}}, asked)
	c, err := f.db.Connection(t.Context(), "found-1")
	require.NoError(t, err)
	require.Equal(t, "cus_new", c.CustomerID)
	require.Equal(t, "Acme Ltd", c.CustomerName)
	f.api(202, "POST", anyReportURL, body("cus_new", true), &r)
	require.Len(t, asked, 1, "it is registered now")

	found = "c-1"
	require.Contains(t, f.problem(409, "POST", anyReportURL, body("cus_2", true)).Detail, "is registered as another customer's")
	found = ""
	require.Contains(t, f.problem(404, "POST", anyReportURL, body("cus_2", true)).Detail, "has to connect first")
	found = "a b"
	require.Contains(t, f.problem(404, "POST", anyReportURL, body("cus_2", true)).Detail, "cannot be used here")
	f.put("gone", "cus_2", "default", "")
	_, err = f.db.RemoveConnection(t.Context(), "gone")
	require.NoError(t, err)
	found = "gone"
	require.Contains(t, f.problem(404, "POST", anyReportURL, body("cus_2", true)).Detail, "was removed")
	failure = lifecycle.ErrUnknownApplication
	require.Contains(t, f.problem(422, "POST", anyReportURL, body("cus_2", true)).Detail, "body.application: is not configured")
	failure = errors.New("token-" + mark[:2])
	require.Contains(t, f.problem(503, "POST", anyReportURL, body("cus_2", true)).Detail, "Nothing was reported")

	asked = nil
	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "reports", hashAPIKey("key-Hush-reports"), []string{ScopeReports}))
	p := f.problem(403, "POST", anyReportURL, body("cus_2", true), header("Authorization", "Bearer key-Hush-reports"))
	require.Contains(t, p.Detail, "connections:write")
	require.Empty(t, asked)
}

// A case about the customer's account that a report of a lost login joins.
func TestALostLoginJoinsACaseAboutTheAccount(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	code := func() string {
		c, err := f.db.OpenCaseOf(t.Context(), connID)
		require.NoError(t, err)
		return c.FinchCode
	}
	report := func(source, finchCode string) {
		f.api(202, "POST", anyReportURL, map[string]any{"source": source, "connection_id": connID, "finch_code": finchCode}, nil)
	}
	for _, source := range []string{"api_error", "manual"} {
		report("api_error", "account_setup_required")
		f.sql(`UPDATE cases SET finch_code = 'account_setup_required' WHERE outcome IS NULL`)
		report(source, "account_setup_required")
		require.Equal(t, "account_setup_required", code())
		report(source, "reauthenticate_user")
		require.Equal(t, "reauthenticate_user", code(), source)
	}
}

func TestReportsAreCoalesced(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	report := func(body map[string]any) (r ReportResult) {
		t.Helper()
		f.api(202, "POST", reportURL, body, &r)
		return r
	}
	machine := map[string]any{"source": "api_error", "finch_code": "reauthenticate_user"}
	asked := func() int { return len(f.temporal.reports) }

	first := report(machine)
	require.True(t, *first.Created)
	for range 10 {
		r := report(machine)
		require.Equal(t, first.CaseID, r.CaseID)
		require.Equal(t, "reauth-"+connID, r.WorkflowID)
		require.False(t, *r.Created)
	}
	require.Equal(t, 1, asked(), "it is known that the case runs")
	require.NoError(t, f.db.SetPhase(t.Context(), first.CaseID, reauth.PhaseAwaitingCustomer, ""))
	require.Equal(t, "awaiting_customer", report(map[string]any{"source": "webhook"}).Phase)
	require.Equal(t, 1, asked(), "whatever the evidence")

	report(map[string]any{"source": "manual"})
	require.Equal(t, 2, asked(), "what a person reports goes to Temporal")

	f.advance(runningFor)
	report(machine)
	require.Equal(t, 3, asked(), "what Temporal said is too old: an operator may have terminated the run")

	f.close(first.CaseID, reauth.OutcomeHealed, "")
	second := report(machine)
	require.True(t, *second.Created, "a case that has just closed swallows nothing")
	require.NotEqual(t, first.CaseID, second.CaseID)
	require.Equal(t, 4, asked())

	f.close(second.CaseID, reauth.OutcomeHealed, "")
	f.open(connID, "of-another-process", reauth.PhaseAwaitingCustomer)
	require.Equal(t, "of-another-process", report(machine).CaseID)
	require.Equal(t, 5, asked(), "another case is open than the one that is known to run")
	report(machine)
	require.Equal(t, 5, asked())
}

// Between the start of a case and its row.
func TestReportsOfACaseThatHasNoRowYet(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.adopt("token-Hush-1")
	f.temporal.idle = true
	report := func(body map[string]any) {
		body["source"] = "api_error"
		f.api(202, "POST", reportURL, body, nil)
	}
	fp := reauth.Fingerprint("token-Hush-1")
	for range 5 {
		report(map[string]any{"token_fingerprint": fp})
	}
	require.Len(t, f.temporal.reports, 1)
	report(map[string]any{})
	require.Len(t, f.temporal.reports, 2, "other evidence may open a case where the first did not")
	report(map[string]any{"finch_code": "error_permissions"})
	require.Len(t, f.temporal.reports, 3)
	report(map[string]any{"finch_code": "error_permissions"})
	require.Len(t, f.temporal.reports, 3)
	f.advance(begunFor)
	report(map[string]any{"finch_code": "error_permissions"})
	require.Len(t, f.temporal.reports, 4, "it may have come to nothing")

	// It got its row, and closed at once.
	f.open(connID, "case-"+connID, reauth.PhaseConfirming)
	f.close("case-"+connID, reauth.OutcomeHealed, "")
	report(map[string]any{"finch_code": "error_permissions"})
	require.Len(t, f.temporal.reports, 5)
}

func TestReportsThatFailAreNotRemembered(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.temporal.down = true
	f.problem(503, "POST", reportURL, map[string]any{"source": "api_error"})
	f.temporal.down = false
	var r ReportResult
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, &r)
	require.True(t, *r.Created)
}

// The token that a case has just brought fails, while that case still tells
// everybody: the report must not be lost to it.
func TestAFreshTokenThatFailsIsNotSwallowedByItsCase(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.adopt("token-Hush-1")
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, nil)
	f.close("case-"+connID, reauth.OutcomeRecovered, "")
	f.temporal.closing = "case-" + connID
	require.Contains(t, f.problem(503, "POST", reportURL, map[string]any{"source": "api_error", "token_fingerprint": reauth.Fingerprint("token-Hush-1")}).Detail, "just being closed")
	var r ReportResult
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, &r)
	require.Equal(t, "case-"+connID, r.CaseID, "a report that does not say which token may be an old one")
	f.temporal.closing = ""
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error", "token_fingerprint": reauth.Fingerprint("token-Hush-1")}, &r)
	require.True(t, *r.Created)
}
