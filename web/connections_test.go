package web

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
)

const connectionURL = "/v1/connections/" + connID

func goodConnection() map[string]any {
	return map[string]any{
		"customer_id": "cus_1", "customer_name": "Acme Ltd", "products": []string{"directory", "company"},
		"contacts": []map[string]any{{"email": email, "name": "Ada Lovelace", "role": "payroll", "locale": "en_gb", "time_zone": "Europe/London"}},
	}
}

func TestPutConnection(t *testing.T) {
	f := newFixture(t)
	var c reauth.Connection
	w := f.api(http.StatusCreated, "PUT", connectionURL, goodConnection(), &c)
	require.Equal(t, connectionURL, w.Header().Get("Location"))
	require.NotEmpty(t, c.Contacts[0].ContactID)
	require.Equal(t, reauth.Connection{
		ConnectionID: connID, Provider: reauth.Finch, Application: "default", CustomerID: "cus_1", CustomerName: "Acme Ltd",
		Contacts: []reauth.Contact{{ContactID: c.Contacts[0].ContactID, Email: email, Name: "Ada Lovelace", Role: "payroll", Locale: "en-GB", TimeZone: "Europe/London"}},
		Products: []string{"company", "directory"}, Status: reauth.StatusConnected, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}, c)

	var again reauth.Connection
	w = f.api(http.StatusOK, "PUT", connectionURL, map[string]any{"customer_name": "Acme plc"}, &again)
	require.Empty(t, w.Header().Get("Location"))
	require.Equal(t, "Acme plc", again.CustomerName)
	require.Empty(t, again.Contacts, "a PUT replaces everything")

	var read reauth.Connection
	f.api(http.StatusOK, "GET", connectionURL, nil, &read)
	require.Equal(t, again, read)
}

func TestPutConnectionRefusesBadInput(t *testing.T) {
	f := newFixture(t)
	with := func(field string, value any) map[string]any {
		b := goodConnection()
		b[field] = value
		return b
	}
	contact := func(field string, value any) map[string]any {
		b := goodConnection()
		b["contacts"].([]map[string]any)[0][field] = value
		return b
	}
	const up = http.StatusUnprocessableEntity
	tests := []struct {
		name   string
		path   string
		body   any
		status int
		want   string
	}{
		{"unknown field", "", with("custmer_name", "Acme"), up, "body.custmer_name: is not a field here; known are access_token, application, campaign, contacts, customer_id, customer_name, products, provider"},
		{"unknown field of a contact", "", contact("emial", email), up, "body.contacts[0].emial: is not a field here; known are contact_id, email, locale, name, role, time_zone, unreachable"},
		{"unknown provider", "", with("provider", "plaid"), up, `body.provider: expected value to be one of "finch"`},
		{"bad application", "", with("application", "Über uns"), up, "body.application: expected string to be 1 to 64 lower-case letters"},
		{"a number for a name", "", with("customer_name", 7), up, "body.customer_name: expected string"},
		{"a name of two lines", "", with("customer_name", "Acme\r\nBcc: x@y.example"), up, "body.customer_name: must be one line"},
		{"an id of two lines", "", with("customer_id", "a\tb"), up, "body.customer_id: must be one line"},
		{"a campaign that cannot be", "", with("campaign", "-x"), up, "body.campaign: the name of a campaign must be 1 to 64 letters"},
		{"a long campaign", "", with("campaign", strings.Repeat("x", 65)), up, "body.campaign: expected length <= 64"},
		{"contacts that are no list", "", with("contacts", "ada"), up, "body.contacts: expected array"},
		{"too many contacts", "", with("contacts", make([]map[string]string, 21)), up, "body.contacts: expected array length <= 20"},
		{"contact without an address", "", with("contacts", []any{map[string]any{"name": "Ada"}}), up, "body.contacts[0]: expected required property email to be present"},
		{"address without a domain", "", contact("email", "ada.Hush"), up, `body.contacts[0].email: must be an e-mail address alone, as "ada@acme.example"`},
		{"address with a name", "", contact("email", "Ada Hush <ada@acme.example>"), up, "body.contacts[0].email"},
		{"address with a line break", "", contact("email", "ada@acme.example\nBcc: Hush@x.example"), up, "body.contacts[0].email"},
		{"two addresses", "", contact("email", "a.Hush@x.example, b@x.example"), up, "body.contacts[0].email"},
		{"address beyond ASCII", "", contact("email", "Hushä@x.example"), up, "body.contacts[0].email"},
		{"the same address twice", "", with("contacts", []any{map[string]any{"email": "Hush@x.example"}, map[string]any{"email": "HUSH@x.example"}}), up, "body.contacts[1].email: stands in contacts twice"},
		{"name of two lines", "", contact("name", "Ada\nHush"), up, "body.contacts[0].name: must be one line"},
		{"bad locale", "", contact("locale", "english"), up, `body.contacts[0].locale: must be a BCP 47 language tag, as "en-GB" or "de"`},
		{"bad time zone", "", contact("time_zone", "Europe/Londn"), up, `body.contacts[0].time_zone: must be an IANA time zone, as "Europe/London"`},
		{"time zone outside", "", contact("time_zone", "../../etc/passwd"), up, "body.contacts[0].time_zone"},
		{"the server's own time zone", "", contact("time_zone", "Local"), up, "body.contacts[0].time_zone"},
		{"bad product", "", with("products", []string{"pay roll"}), up, "body.products[0]: expected string to be 1 to 64 lower-case letters"},
		{"token with a space", "", with("access_token", "token Hush"), up, "body.access_token: must be printable ASCII without spaces"},
		{"token of the wrong type", "", with("access_token", map[string]string{"token": "Hush"}), up, "body.access_token: expected string"},
		{"bad connection_id", "/v1/connections/a%20b", goodConnection(), up, "path.connection_id: expected string to be 1 to 128 letters"},
		{"unknown parameter", connectionURL + "?dry_run=1", goodConnection(), up, "query.dry_run: is not a parameter of this call, which takes none"},
		{"not JSON", "", "token=Hush", http.StatusBadRequest, "body: is not valid JSON at byte 2"},
		{"an unknown field beside a secret", "", `{"access_token":"token-Hush","x":1}`, up, "body.x: is not a field here"},
		{"twice", "", `{"customer_name":"a","customer_name":"b"}`, http.StatusBadRequest, `body: has the field "customer_name" twice`},
		{"upper case", "", `{"Access_Token":"token-Hush"}`, http.StatusBadRequest, `as "access_token"`},
		{"no body", "", "", http.StatusBadRequest, "request body is required"},
		{"too large", "", `{"customer_name":"` + strings.Repeat("a", maxBody) + `"}`, http.StatusRequestEntityTooLarge, "too large"},
		{"no object", "", `[]`, up, "body: expected object"},
		{"null", "", `null`, up, "body: expected object"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.path
			if path == "" {
				path = connectionURL
			}
			p := f.problem(test.status, "PUT", path, test.body)
			require.Contains(t, p.Detail, test.want)
		})
	}
	w := f.do("PUT", connectionURL, `<a>Hush</a>`, header("Content-Type", "application/xml"))
	require.Equal(t, http.StatusUnsupportedMediaType, w.Code, w.Body.String())
	f.checkHidden("problem", w.Body.String())
	require.Zero(t, f.count("connections"), "nothing was stored")
}

func TestCampaignOfAConnection(t *testing.T) {
	f := newFixture(t)
	f.temporal.noCase = true
	var c reauth.Connection
	f.api(201, "PUT", connectionURL, map[string]any{"campaign": "whatever"}, &c)
	require.Equal(t, "whatever", c.Campaign, "without a list every name is taken")

	f = f.again(t, func(c *Config) { c.Campaigns = []string{"gentle", "eager"} })
	f.temporal.noCase = true
	f.api(201, "PUT", connectionURL, map[string]any{"campaign": "gentle"}, nil)
	f.api(200, "GET", connectionURL, nil, &c)
	require.Equal(t, "gentle", c.Campaign)
	const want = "body.campaign: is not a campaign here; known are gentle, eager"
	require.Equal(t, want, f.problem(422, "PUT", connectionURL, map[string]any{"campaign": "Eager"}).Detail)
	require.Equal(t, want, f.problem(422, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush", "campaign": "x"}).Detail)
	require.Equal(t, want, f.problem(422, "POST", reportURL, map[string]any{"source": "manual", "campaign": "x"}).Detail)
	require.Empty(t, f.temporal.reports)
	f.api(200, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush", "campaign": "eager"}, &c)
	require.Equal(t, "eager", c.Campaign)
	f.api(200, "PUT", connectionURL, map[string]any{"customer_name": "Acme"}, &c)
	require.Empty(t, c.Campaign, "a PUT replaces everything")

	f = f.again(t, func(c *Config) { c.Campaigns = []string{} })
	require.Equal(t, "body.campaign: is not a campaign here, where there is none; leave it out",
		f.problem(422, "PUT", connectionURL, map[string]any{"campaign": "gentle"}).Detail)
}

// An open case hears when others can be written to than before, and only then.
func TestPutConnectionTellsAnOpenCaseOfOtherContacts(t *testing.T) {
	type contact = map[string]any
	ada, bob := contact{"email": email, "role": "payroll"}, contact{"email": "bob.Hush@acme.example"}
	with := func(c contact, field string, value any) contact {
		c = maps.Clone(c)
		c[field] = value
		return c
	}
	tests := []struct {
		name          string
		before, after []contact
		gone          string // an address that must not be written to
		tells         bool
	}{
		{"nothing changes", []contact{ada, bob}, []contact{ada, bob}, "", false},
		{"somebody comes", []contact{ada}, []contact{ada, bob}, "", true},
		{"somebody goes", []contact{ada, bob}, []contact{bob}, "", true},
		{"somebody takes over", []contact{ada}, []contact{bob}, "", true},
		{"the first one comes", nil, []contact{ada}, "", true},
		{"another order", []contact{ada, bob}, []contact{bob, ada}, "", false},
		{"upper case", []contact{ada}, []contact{with(ada, "email", strings.ToUpper(email))}, "", false},
		{"another name, language and zone", []contact{ada}, []contact{with(with(with(ada, "name", "Ada"), "locale", "de"), "time_zone", "Europe/Berlin")}, "", false},
		{"another job, as primary", []contact{ada}, []contact{with(ada, "role", "director")}, "", false},
		{"an alternate from now on", []contact{ada, bob}, []contact{ada, with(bob, "role", "alternate")}, "", true},
		{"an account manager no longer", []contact{ada, with(bob, "role", "account_manager")}, []contact{ada, bob}, "", true},
		{"somebody comes who must not be written to", []contact{ada}, []contact{ada, bob}, "BOB.Hush@acme.example", false},
		{"somebody goes who must not be written to", []contact{ada, bob}, []contact{ada}, "bob.Hush@acme.example", false},
		{"what GET shows is given back", []contact{ada, bob}, []contact{ada, with(bob, "unreachable", "bounce")}, "bob.Hush@acme.example", false},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			if test.gone != "" {
				_, _, err := f.db.SetUnreachable(t.Context(), test.gone, db.UnreachableBounce, "")
				require.NoError(t, err)
			}
			f.api(201, "PUT", connectionURL, map[string]any{"contacts": test.before}, nil)
			require.Empty(t, f.temporal.signals, "no case is open")
			f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
			f.api(200, "PUT", connectionURL, map[string]any{"contacts": test.after}, nil)
			if test.tells {
				require.Equal(t, []string{"contacts " + connID}, f.temporal.signals)
			} else {
				require.Empty(t, f.temporal.signals)
			}
			told := len(f.temporal.signals)
			f.api(200, "PUT", connectionURL, map[string]any{"contacts": test.after}, nil)
			require.Len(t, f.temporal.signals, told, "the same again tells nobody")
		})
	}
}

func TestPutOtherContactsWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.temporal.down = true
	var c reauth.Connection
	f.api(200, "PUT", connectionURL, map[string]any{"contacts": []any{map[string]any{"email": "bob.Hush@acme.example"}}}, &c)
	require.Len(t, c.Contacts, 1)
	require.Contains(t, f.log.String(), "open cases were not told that their contacts changed")
}

func TestPutConnectionWithToken(t *testing.T) {
	const token = "token-Hush-1"
	good := finch.Introspection{ConnectionID: connID, CustomerID: "from finch", CustomerName: "Finch's Acme", Connection: finch.ConnectionStatus{Status: finch.StatusConnected}}
	stale := good
	stale.Connection.Status = finch.StatusReauth
	other := good
	other.ConnectionID = "another"

	tests := []struct {
		name   string
		answer finch.Introspection
		err    error
		status int
		want   string
	}{
		{"ok", good, nil, 201, ""},
		{"stale, but its own", stale, nil, 201, ""},
		{"another connection's", other, nil, 422, "body.access_token: is the token of another connection; nothing was stored"},
		{"provider down", finch.Introspection{}, &finch.Error{Status: 502}, 503, "The provider cannot be asked"},
		{"no answer", finch.Introspection{}, finch.ErrNoAnswer, 503, "The provider cannot be asked"},
		{"rate limited", finch.Introspection{}, &finch.Error{Status: 429}, 503, "The provider cannot be asked"},
		{"no room in its limit", finch.Introspection{}, &finch.Error{Status: 429, FinchCode: finch.CodeBudget, RetryAfter: 1500 * time.Millisecond, WaitsUntil: time.Date(2026, 11, 2, 12, 34, 56, 0, time.UTC)}, 503, "its limit leaves no room until 12:34:56 UTC"},
		{"refused", finch.Introspection{}, &finch.Error{Status: 401, Name: "invalid_token_error"}, 422, "body.access_token: is refused by the provider"},
		{"reauth", finch.Introspection{}, &finch.Error{Status: 401, FinchCode: finch.CodeReauthenticateUser}, 422, "Register the connection without a token"},
		{"unknown application", finch.Introspection{}, fmt.Errorf("introspect: %w", lifecycle.ErrUnknownApplication), 422, "body.application: is not configured here"},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			f.temporal.noCase = true
			f.introspect = func(application, got string) (finch.Introspection, error) {
				require.Equal(t, "default", application)
				require.Equal(t, token, got)
				return test.answer, test.err
			}
			body := map[string]any{"access_token": token, "customer_name": "Acme Ltd"}
			if test.status != 201 {
				p := f.problem(test.status, "PUT", connectionURL, body)
				require.Contains(t, p.Detail, test.want)
				require.Zero(t, f.count("connections")+f.count("tokens"), "nothing was stored")
				return
			}
			var c reauth.Connection
			w := f.api(201, "PUT", connectionURL, body, &c)
			f.checkHidden("answer", w.Body.String())
			require.EqualValues(t, 1, c.Generation)
			require.Equal(t, "Acme Ltd", c.CustomerName)
			require.Equal(t, "from finch", c.CustomerID, "what the backend leaves out, the provider tells")
			want := reauth.StatusConnected
			if test.answer.NeedsReauth() {
				want = reauth.StatusStale
			}
			require.Equal(t, want, c.Status)

			stored, err := f.db.CurrentToken(t.Context(), connID)
			require.NoError(t, err)
			require.NotContains(t, string(stored.Sealed), mark)
			plain, err := f.keys.Open(stored.Sealed, "token", connID, "1")
			require.NoError(t, err)
			require.Equal(t, token, string(plain))
		})
	}
}

func TestPutConnectionTokenGenerations(t *testing.T) {
	f := newFixture(t)
	f.temporal.noCase = true
	put := func(token string) (generation int64) {
		var c reauth.Connection
		w := f.do("PUT", connectionURL, map[string]any{"access_token": token})
		require.Contains(t, []int{200, 201}, w.Code, w.Body.String())
		f.api(200, "GET", connectionURL, nil, &c)
		return c.Generation
	}
	require.EqualValues(t, 1, put("token-Hush-1"))
	require.EqualValues(t, 1, put("token-Hush-1"), "the same token is the same generation")
	f.advance(time.Second)
	require.EqualValues(t, 2, put("token-Hush-2"))
	require.EqualValues(t, 2, put("token-Hush-1"), "an old token handed in again never comes back")
	var token TokenView
	f.api(200, "GET", connectionURL+"/token", nil, &token)
	require.Equal(t, "token-Hush-2", token.AccessToken)
}

func TestPutConnectionTellsAnOpenCase(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	var c reauth.Connection
	people := []any{map[string]any{"email": email}}
	f.api(200, "PUT", connectionURL, map[string]any{"access_token": "token-Hush", "contacts": people}, &c)
	require.Equal(t, []string{"restored " + connID}, f.temporal.signals)
	require.Equal(t, reauth.StatusStale, c.Status, "the open case decides when the connection is back")

	f.temporal.down = true
	f.api(200, "PUT", connectionURL, map[string]any{"access_token": "token-Hush-2", "contacts": people}, &c)
	require.EqualValues(t, 2, c.Generation, "a token is stored whether or not Temporal can be told")
}

func TestPutConnectionRefusesAnotherConnectionsStoredToken(t *testing.T) {
	f := newFixture(t)
	f.temporal.noCase = true
	f.api(201, "PUT", connectionURL, map[string]any{"access_token": "token-Hush"}, nil)
	f.introspect = func(string, string) (finch.Introspection, error) {
		return finch.Introspection{ConnectionID: "other"}, nil
	}
	p := f.problem(422, "PUT", "/v1/connections/other", map[string]any{"access_token": "token-Hush"})
	require.Contains(t, p.Detail, "is stored as another connection's token")
}

func TestPostConnection(t *testing.T) {
	f := newFixture(t)
	f.temporal.noCase = true
	var c reauth.Connection
	w := f.api(201, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush", "customer_name": "Acme"}, &c)
	require.Equal(t, connectionURL, w.Header().Get("Location"))
	require.Equal(t, connID, c.ConnectionID)
	require.EqualValues(t, 1, c.Generation)
	f.api(200, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush"}, &c)

	p := f.problem(422, "POST", "/v1/connections", map[string]any{"customer_name": "Acme"})
	require.Contains(t, p.Detail, "PUT /v1/connections/{connection_id}")
	f.introspect = func(string, string) (finch.Introspection, error) {
		return finch.Introspection{ConnectionID: "../x"}, nil
	}
	p = f.problem(422, "POST", "/v1/connections", map[string]any{"access_token": "token-Hush-3"})
	require.Contains(t, p.Detail, "cannot be used here")
	require.Equal(t, 1, f.count("connections"))
}

func TestListConnections(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		f.register(id)
	}
	_, err := f.db.RemoveConnection(t.Context(), "b")
	require.NoError(t, err)
	require.NoError(t, f.db.SetConnectionStatus(t.Context(), "d", reauth.StatusStale, f.clock()))

	ids := func(l ConnectionList) (ids []string) {
		for _, c := range l.Connections {
			ids = append(ids, c.ConnectionID)
		}
		return ids
	}
	var first, second, stale, removed ConnectionList
	f.api(200, "GET", "/v1/connections?limit=2", nil, &first)
	require.Equal(t, []string{"a", "c"}, ids(first))
	f.api(200, "GET", "/v1/connections?limit=2&cursor="+first.NextCursor, nil, &second)
	require.Equal(t, []string{"d"}, ids(second))
	require.Empty(t, second.NextCursor)
	f.api(200, "GET", "/v1/connections?status=stale", nil, &stale)
	require.Equal(t, []string{"d"}, ids(stale))
	w := f.api(200, "GET", "/v1/connections?status=removed", nil, &removed)
	require.Equal(t, []string{"b"}, ids(removed))
	f.checkHidden("list of removed connections", w.Body.String())
	w = f.api(200, "GET", "/v1/connections?status=disconnected", nil, nil)
	require.Contains(t, w.Body.String(), `"connections":[]`)

	for query, want := range map[string]string{
		"status=broken":                    `query.status: expected value to be one of "connected, stale, disconnected, removed"`,
		"limit=0":                          "query.limit: expected number >= 1",
		"limit=201":                        "query.limit: expected number <= 200",
		"limit=many":                       "query.limit: invalid integer",
		"cursor=x":                         "query.cursor: must be a next_cursor",
		"cursor=" + first.NextCursor + "A": "query.cursor: must be a next_cursor",
		"page=2":                           "query.page: is not a parameter of this call; known are cursor, limit, status",
	} {
		require.Contains(t, f.problem(422, "GET", "/v1/connections?"+query, nil).Detail, want, query)
	}
}

func TestGetAndDeleteConnection(t *testing.T) {
	f := newFixture(t)
	p := f.problem(404, "GET", connectionURL, nil)
	require.Contains(t, p.Detail, "PUT /v1/connections/"+connID+" registers it")
	f.problem(404, "DELETE", connectionURL, nil)

	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.temporal.down = true
	p = f.problem(503, "DELETE", connectionURL, nil)
	require.Contains(t, p.Detail, "repeat the call")
	f.temporal.down = false
	w := f.api(204, "DELETE", connectionURL, nil, nil)
	require.Empty(t, w.Body.String())
	require.Equal(t, []reauth.Cancel{{Reason: reauth.ReasonConnectionRemoved, By: "key bootstrap"}}, f.temporal.cancels)
	f.temporal.noCase = true
	f.api(204, "DELETE", connectionURL, nil, nil)

	var c reauth.Connection
	w = f.api(200, "GET", connectionURL, nil, &c)
	require.Equal(t, reauth.StatusRemoved, c.Status)
	f.checkHidden("removed connection", w.Body.String())
	require.Equal(t, 404, f.visit("GET", link).Code)

	f.api(201, "PUT", connectionURL, goodConnection(), &c)
	require.Equal(t, reauth.StatusConnected, c.Status)
}

func TestConnectionsWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	s := &server{Config: f.config}
	f.dbDown()
	_, err := s.putConnection(ctx, &putConnectionInput{ConnectionPath: ConnectionPath{connID}})
	require.ErrorContains(t, err, "The database cannot be reached")
	_, err = s.listConnections(ctx, &listConnectionsInput{})
	require.ErrorContains(t, err, "The database cannot be reached")
	_, err = s.deleteConnection(ctx, &deleteConnectionInput{ConnectionPath: ConnectionPath{connID}})
	require.ErrorContains(t, err, "The database cannot be reached")
	require.Empty(t, f.temporal.signals, "no case is ended for a connection that was not removed")
}
