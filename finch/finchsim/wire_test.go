package finchsim_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
)

// Errors are written byte for byte as Finch's documents have them.
func TestErrorsOnTheWire(t *testing.T) {
	b := start(t, config())
	conn, stale, err := b.AddConnection(finchsim.NewConnection{ConnectionID: "conn-1", CustomerID: "acme"})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID))
	_, narrow, err := b.AddConnection(finchsim.NewConnection{Products: []string{"directory"}})
	require.NoError(t, err)
	assisted, forbidden, err := b.AddConnection(finchsim.NewConnection{AuthenticationType: "assisted"})
	require.NoError(t, err)
	require.NoError(t, b.SetStatus(assisted.ID, "error_permissions"))
	setup, noSetup, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.SetStatus(setup.ID, "error_no_account_setup"))
	waiting, pending, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.SetStatus(waiting.ID, "pending"))
	gone, dead, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.Delete(gone.ID))

	const (
		version = "Finch-API-Version"
		basic   = "Basic c2ltLWNsaWVudDpzaW0tc2VjcmV0"
		wrong   = "Basic c2ltLWNsaWVudDp3cm9uZw=="

		invalidBasic  = `{"error":"Invalid client: Unable to validate credentials"}`
		staleBody     = `{"code":401,"name":"authentication_error","finch_code":"reauthenticate_user","message":"Please reauthenticate user"}`
		connNotFound  = `{"code":400,"name":"bad_request","finch_code":"invalid_request","message":"Connection not found"}`
		noCredentials = `{"statusCode":401,"status":401,"code":401,"name":"unauthorized_request_error","message":"Unauthorized request: no authentication given"}`
	)
	for name, tc := range map[string]struct {
		request, auth, body string
		noVersion           bool
		status              int
		want                string // the whole body, or a part where it begins with "…"
	}{
		"stale company":             {request: "GET /employer/company", auth: "Bearer " + stale, status: 401, want: staleBody},
		"stale directory":           {request: "GET /employer/directory", auth: "Bearer " + stale, status: 401, want: staleBody},
		"stale individuals":         {request: "POST /employer/individual", auth: "Bearer " + stale, body: `{"requests":[]}`, status: 401, want: staleBody},
		"no permissions":            {request: "GET /employer/company", auth: "Bearer " + forbidden, status: 403, want: "…insufficient_account_permissions"},
		"no account setup":          {request: "GET /employer/company", auth: "Bearer " + noSetup, status: 401, want: "…account_setup_required"},
		"data that is not there":    {request: "GET /employer/company", auth: "Bearer " + pending, status: 202, want: "…"},
		"missing product":           {request: "GET /employer/company", auth: "Bearer " + narrow, status: 403, want: "…insufficient_scope_error"},
		"disconnected":              {request: "GET /introspect", auth: "Bearer " + dead, status: 401, want: `{"code":401,"name":"invalid_token_error","message":"Unauthorized"}`},
		"unknown token":             {request: "GET /introspect", auth: "Bearer nonsense", status: 401, want: "…invalid_token_error"},
		"no token":                  {request: "GET /introspect", status: 401, want: noCredentials},
		"Basic where Bearer is due": {request: "GET /introspect", auth: basic, status: 401, want: noCredentials},
		"no token for disconnect":   {request: "POST /disconnect", status: 401, want: noCredentials},
		"no token for sandbox":      {request: "PUT /sandbox/connections/accounts", status: 401, want: noCredentials},

		"no version":               {request: "GET /introspect", auth: "Bearer " + stale, noVersion: true, status: 400, want: "…Finch-API-Version is missing"},
		"no version, exchange":     {request: "POST /auth/token", noVersion: true, body: `{}`, status: 400, want: "…Finch-API-Version is missing"},
		"no version, session":      {request: "POST /connect/sessions/reauthenticate", auth: basic, noVersion: true, body: `{"connection_id":"conn-1"}`, status: 201, want: "…connect_url"},
		"no version, new session":  {request: "POST /connect/sessions", auth: basic, noVersion: true, body: `{"customer_id":"b","customer_name":"B","products":["company"]}`, status: 201, want: "…connect_url"},
		"no version, sandbox":      {request: "POST /sandbox/connections", auth: basic, noVersion: true, body: `{"provider_id":"gusto"}`, status: 400, want: "…Finch-API-Version is missing"},
		"bad credentials, session": {request: "POST /connect/sessions", auth: wrong, body: `{}`, status: 401, want: invalidBasic},
		"bad credentials, reauth":  {request: "POST /connect/sessions/reauthenticate", auth: wrong, body: `{"connection_id":"conn-1"}`, status: 401, want: invalidBasic},
		"bad credentials, sandbox": {request: "POST /sandbox/connections", auth: wrong, body: `{"provider_id":"gusto"}`, status: 401, want: invalidBasic},
		"no credentials, reauth":   {request: "POST /connect/sessions/reauthenticate", body: `{"connection_id":"conn-1"}`, status: 401, want: invalidBasic},
		"Bearer for a session":     {request: "POST /connect/sessions/reauthenticate", auth: "Bearer " + stale, body: `{"connection_id":"conn-1"}`, status: 401, want: invalidBasic},

		"unknown connection":           {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-2"}`, status: 400, want: connNotFound},
		"disconnected connection":      {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"` + gone.ID + `"}`, status: 400, want: connNotFound},
		"no connection":                {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{}`, status: 400, want: "…connection_id is needed"},
		"no body":                      {request: "POST /connect/sessions/reauthenticate", auth: basic, status: 400, want: "…JSON body"},
		"no JSON":                      {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `connection_id=conn-1`, status: 400, want: "…JSON"},
		"redirect URI, not configured": {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","redirect_uri":"https://evil.example/callback"}`, status: 400, want: "…redirect_uri"},
		"redirect URI, longer":         {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","redirect_uri":"` + callback + `/"}`, status: 400, want: "…redirect_uri"},
		"unknown product":              {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","products":["weather"]}`, status: 400, want: "…products"},
		"no minutes":                   {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","minutes_to_expire":0}`, status: 400, want: "…minutes_to_expire"},
		"too many minutes":             {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","minutes_to_expire":129601}`, status: 400, want: "…minutes_to_expire"},
		"half a minute":                {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","minutes_to_expire":1.5}`, status: 400, want: "…minutes_to_expire must be an integer"},
		"minutes as a text":            {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","minutes_to_expire":"60"}`, status: 400, want: "…minutes_to_expire must be an integer"},
		"null minutes":                 {request: "POST /connect/sessions/reauthenticate", auth: basic, body: `{"connection_id":"conn-1","minutes_to_expire":null}`, status: 400, want: "…minutes_to_expire must be an integer"},

		"existing customer": {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"acme","customer_name":"Acme","products":["company"]}`, status: 400,
			want: `{"code":400,"name":"bad_request","finch_code":"connection_already_exists","message":"There's an existing connection for the customer_id: acme. Please use the /connect/sessions/reauthenticate endpoint instead.","context":{"connection_id":"conn-1","customer_id":"acme"}}`},
		"new session, no customer":   {request: "POST /connect/sessions", auth: basic, body: `{"customer_name":"B","products":["company"]}`, status: 400, want: "…customer_id"},
		"new session, long name":     {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"` + strings.Repeat("x", 256) + `","products":["company"]}`, status: 400, want: "…customer_name"},
		"new session, no products":   {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"C"}`, status: 400, want: "…products"},
		"new session, sandbox":       {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"C","products":["company"],"sandbox":"beach"}`, status: 400, want: "…sandbox"},
		"new session, sandbox false": {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"C","products":["company"],"sandbox":false}`, status: 400, want: "…JSON"},
		"new session, integration":   {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"C","products":["company"],"integration":{}}`, status: 400, want: "…integration"},
		"new session, minutes":       {request: "POST /connect/sessions", auth: basic, body: `{"customer_id":"c","customer_name":"C","products":["company"],"minutes_to_expire":0.5}`, status: 400, want: "…minutes"},

		"exchange, bad client":   {request: "POST /auth/token", body: `{"client_id":"sim-client","client_secret":"wrong","code":"x"}`, status: 401, want: `{"code":401,"name":"invalid_client_error","message":"Invalid client: Unable to validate credentials"}`},
		"exchange, Basic":        {request: "POST /auth/token", auth: basic, body: `{"code":"x"}`, status: 401, want: "…invalid_client_error"},
		"exchange, no code":      {request: "POST /auth/token", body: `{"client_id":"sim-client","client_secret":"sim-secret"}`, status: 400, want: "…code is needed"},
		"exchange, unknown code": {request: "POST /auth/token", body: `{"client_id":"sim-client","client_secret":"sim-secret","code":"x"}`, status: 400, want: `{"code":400,"name":"invalid_grant_error","message":"Invalid authorization code"}`},

		"sandbox, no provider":    {request: "POST /sandbox/connections", auth: basic, body: `{}`, status: 400, want: "…provider_id"},
		"sandbox, authentication": {request: "POST /sandbox/connections", auth: basic, body: `{"provider_id":"gusto","authentication_type":"magic"}`, status: 400, want: "…authentication_type"},
		"sandbox, status":         {request: "PUT /sandbox/connections/accounts", auth: "Bearer " + stale, body: `{"connection_status":"error_reauth"}`, status: 400, want: "…connection_status"},
		"directory, offset":       {request: "GET /employer/directory?offset=-1", auth: "Bearer " + narrow, status: 400, want: "…offset"},
		"unknown endpoint":        {request: "GET /employer/weather", auth: "Bearer " + stale, status: 404, want: "…not_found_error"},
		"wrong method":            {request: "GET /auth/token", status: 404, want: "…not_found_error"},
		"body that is too large":  {request: "POST /auth/token", body: strings.Repeat(" ", 1<<20+1), status: 400, want: "…too large"},
	} {
		t.Run(name, func(t *testing.T) {
			method, path, _ := strings.Cut(tc.request, " ")
			var header []string
			if tc.auth != "" {
				header = append(header, "Authorization", tc.auth)
			}
			if !tc.noVersion {
				header = append(header, version, "2020-09-17")
			}
			status, h, body := b.do(t, method, path, tc.body, header...)
			assert.Equal(t, tc.status, status, body)
			if part, isPart := strings.CutPrefix(tc.want, "…"); isPart {
				assert.Contains(t, body, part)
			} else {
				assert.Equal(t, tc.want, body)
			}
			assert.True(t, json.Valid([]byte(body)))
			assert.Equal(t, "application/json", h.Get("Content-Type"))
			assert.NoError(t, uuid.Validate(h.Get("Finch-Request-Id")))
		})
	}
	status, _, body := b.do(t, "GET", "/introspect", "", version, "2019-01-01", "Authorization", "Bearer "+stale)
	assert.Equal(t, 400, status)
	assert.Contains(t, body, "2020-09-17")
}

// The redirect URI of an exchange is the session's, and absent if that had none.
func TestRedirectURIOfAnExchange(t *testing.T) {
	cfg := config()
	cfg.RedirectURIs = append(cfg.RedirectURIs, callback+"/other")
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	code := b.code(t, conn.ID)
	for _, uri := range []string{"", callback + "/other"} {
		_, err := b.Client.Exchange(t.Context(), code, uri)
		assert.True(t, asError(t, err).IsInvalidGrant())
	}
	_, err = b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err, "a refusal for its redirect URI does not consume a code")

	status, _, text := b.basic(t, "/connect/sessions/reauthenticate", `{"connection_id":"`+conn.ID+`"}`)
	require.Equal(t, 201, status)
	var opened struct {
		SessionID string `json:"session_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &opened))
	embedded, err := b.CompleteConnect(opened.SessionID, finchsim.SameAccount)
	require.NoError(t, err)
	_, err = b.Client.Exchange(t.Context(), embedded, callback)
	assert.True(t, asError(t, err).IsInvalidGrant(), "the embedded flow has no redirect URI")
	_, err = b.Client.Exchange(t.Context(), embedded, "")
	require.NoError(t, err)
}

func TestData(t *testing.T) {
	b := start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{CustomerName: "Acme", Employees: 5})
	require.NoError(t, err)
	status, h, text := b.bearer(t, "GET", "/employer/company", "", token)
	require.Equal(t, 200, status)
	assert.Contains(t, text, `"legal_name":"Acme"`)
	assert.NotEmpty(t, h.Get("Finch-Data-Retrieved"))

	type directory struct {
		Individuals []struct {
			ID string `json:"id"`
		}
		Paging struct{ Count, Offset int }
	}
	page := func(query string) (d directory) {
		status, _, text := b.bearer(t, "GET", "/employer/directory"+query, "", token)
		require.Equal(t, 200, status)
		require.NoError(t, json.Unmarshal([]byte(text), &d))
		return d
	}
	all := page("")
	assert.Len(t, all.Individuals, 5)
	assert.Equal(t, 5, all.Paging.Count)
	second := page("?limit=2&offset=2")
	assert.Equal(t, all.Individuals[2:4], second.Individuals)
	assert.Equal(t, 2, second.Paging.Offset)
	assert.Empty(t, page("?offset=99").Individuals)

	ask := `{"requests":[{"individual_id":"` + all.Individuals[1].ID + `"},{"individual_id":"nobody"}]}`
	batch := func() (items []struct {
		IndividualID string `json:"individual_id"`
		Code         int
		Body         struct {
			FinchCode string `json:"finch_code"`
		}
	}) {
		status, _, text := b.bearer(t, "POST", "/employer/individual", ask, token)
		require.Equal(t, 200, status, text)
		var d struct{ Responses json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(text), &d))
		require.NoError(t, json.Unmarshal(d.Responses, &items))
		return items
	}
	items := batch()
	require.Len(t, items, 2)
	assert.Equal(t, 200, items[0].Code)
	assert.Equal(t, 404, items[1].Code)

	require.NoError(t, b.Break(conn.ID))
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.BatchErrorsInline = true }))
	for _, item := range batch() {
		assert.Equal(t, 401, item.Code)
		assert.Equal(t, "reauthenticate_user", item.Body.FinchCode)
	}

	status, _, text = b.bearer(t, "GET", "/providers", "", token)
	require.Equal(t, 200, status)
	assert.Contains(t, text, `"display_name":"Gusto"`)
}

// What an exchange and an introspection answer has all that Finch documents.
func TestAnswersAreComplete(t *testing.T) {
	b := start(t, config())
	conn, old, err := b.AddConnection(finchsim.NewConnection{CustomerID: "acme", Entities: []string{"North", "South"}})
	require.NoError(t, err)
	body, err := json.Marshal(map[string]string{"client_id": clientID, "client_secret": clientSecret, "code": b.code(t, conn.ID), "redirect_uri": callback})
	require.NoError(t, err)
	status, _, text := b.do(t, "POST", "/auth/token", string(body), "Finch-API-Version", "2020-09-17")
	require.Equal(t, 200, status)
	assertKeys(t, text, "access_token", "token_type", "client_type", "connection_id", "connection_type", "entity_ids", "products",
		"provider_id", "account_id", "company_id", "customer_id", "customer_name")

	_, _, text = b.bearer(t, "GET", "/introspect", "", old)
	assertKeys(t, text, "id", "client_id", "client_type", "connection_id", "connection_type", "connection_status", "products", "provider_id",
		"account_id", "company_id", "customer_id", "customer_name", "customer_email", "authentication_methods", "entities",
		"payroll_provider_id", "username", "manual")

	status, _, text = b.basic(t, "/sandbox/connections", `{"provider_id":"gusto"}`)
	require.Equal(t, 200, status)
	assertKeys(t, text, "access_token", "account_id", "authentication_type", "company_id", "connection_id", "entity_id", "products", "provider_id", "token_type")
	status, _, text = b.bearer(t, "PUT", "/sandbox/connections/accounts", `{"connection_status":"reauth"}`, old)
	require.Equal(t, 200, status)
	assertKeys(t, text, "account_id", "authentication_type", "company_id", "connection_id", "entity_id", "products", "provider_id")
	assert.Equal(t, "reauth", b.status(t, old))
	status, _, _ = b.bearer(t, "PUT", "/sandbox/connections/accounts", "", old)
	require.Equal(t, 200, status)
	assert.Equal(t, "reauth", b.status(t, old), "no status, no change")
	require.NoError(t, b.Client.UpdateSandboxAccount(t.Context(), old, "connected"))
	assert.Equal(t, "connected", b.status(t, old))
}

func assertKeys(t *testing.T, text string, keys ...string) {
	t.Helper()
	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &object))
	got := make([]string, 0, len(object))
	for key := range object {
		got = append(got, key)
	}
	assert.ElementsMatch(t, keys, got)
}
