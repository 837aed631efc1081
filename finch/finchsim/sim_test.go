package finchsim_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
)

const (
	clientID      = "sim-client"
	clientSecret  = "sim-secret"
	webhookSecret = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
	callback      = "https://reauth.example.com/callback"
)

// bench is a simulator that listens, and a client of it.
type bench struct {
	*finchsim.Sim
	URL    string
	Client *finch.Client
}

func config() finchsim.Config {
	return finchsim.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{callback}}
}

func start(t *testing.T, cfg finchsim.Config) bench {
	t.Helper()
	sim, err := finchsim.New(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(sim)
	t.Cleanup(func() {
		assert.NoError(t, sim.Close())
		srv.Close()
	})
	return bench{sim, srv.URL, finch.New(finch.Config{BaseURL: srv.URL, ClientID: clientID, ClientSecret: clientSecret, Timeout: 20 * time.Second})}
}

// reauthenticate opens a session for a connection.
func (b bench) reauthenticate(t *testing.T, connectionID string) finch.Session {
	t.Helper()
	s, err := b.Client.Reauthenticate(t.Context(), finch.ReauthenticateParams{ConnectionID: connectionID, RedirectURI: callback})
	require.NoError(t, err)
	return s
}

// code goes through Connect once.
func (b bench) code(t *testing.T, connectionID string) string {
	t.Helper()
	code, err := b.CompleteConnect(b.reauthenticate(t, connectionID).ID, finchsim.SameAccount)
	require.NoError(t, err)
	return code
}

func (b bench) status(t *testing.T, token string) string {
	t.Helper()
	i, err := b.Client.Introspect(t.Context(), token)
	require.NoError(t, err)
	return i.Status()
}

// do makes a raw call and returns the status, headers and body.
func (b bench) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.URL+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(text)
}

// control makes a control call and decodes the answer.
func (b bench) control(t *testing.T, method, path, body string, into any) int {
	t.Helper()
	status, _, text := b.do(t, method, path, body)
	if into != nil {
		require.NoError(t, json.Unmarshal([]byte(text), into), text)
	}
	return status
}

// post sends a form, as a browser does.
func (b bench) post(t *testing.T, path string, form url.Values) (int, http.Header, string) {
	t.Helper()
	return b.do(t, http.MethodPost, path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

func asError(t *testing.T, err error) *finch.Error {
	t.Helper()
	var e *finch.Error
	require.ErrorAs(t, err, &e)
	return e
}

// A connection is lost, and its customer brings it back.
func TestTheWholePath(t *testing.T) {
	b := start(t, config())
	conn, old, err := b.AddConnection(finchsim.NewConnection{CustomerID: "acme", CustomerName: "Acme"})
	require.NoError(t, err)
	require.NoError(t, b.Client.Company(t.Context(), old))
	assert.Equal(t, "connected", b.status(t, old))

	require.NoError(t, b.Break(conn.ID))
	assert.True(t, asError(t, b.Client.Company(t.Context(), old)).IsReauth())
	assert.Equal(t, "reauth", b.status(t, old), "introspection tells the status of a stale connection")

	session := b.reauthenticate(t, conn.ID)
	assert.Equal(t, b.URL+"/authorize?session="+session.ID, session.ConnectURL)
	assert.Equal(t, "reauth", b.status(t, old), "a session alone changes nothing")

	code, err := b.CompleteConnect(session.ID, finchsim.SameAccount)
	require.NoError(t, err)
	assert.Equal(t, "connected", b.status(t, old), "the provider says connected before the code is exchanged")

	token, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
	assert.NotEqual(t, old, token.AccessToken)
	assert.Equal(t, conn.ID, token.ConnectionID)
	assert.Equal(t, "acme", token.CustomerID)
	require.NoError(t, b.Client.Company(t.Context(), token.AccessToken))
	require.NoError(t, b.Client.Company(t.Context(), old), "older tokens work again")

	_, err = b.Client.Exchange(t.Context(), code, callback)
	assert.True(t, asError(t, err).IsInvalidGrant(), "a code works once")
}

func TestAnotherAccountIsAnotherConnection(t *testing.T) {
	b := start(t, config())
	conn, old, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID))
	code, err := b.CompleteConnect(b.reauthenticate(t, conn.ID).ID, finchsim.OtherAccount)
	require.NoError(t, err)
	token, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
	assert.NotEqual(t, conn.ID, token.ConnectionID)
	assert.Equal(t, "connected", b.status(t, token.AccessToken))
	assert.Equal(t, "reauth", b.status(t, old), "the session's own connection is as stale as before")
	require.NoError(t, b.Client.Disconnect(t.Context(), token.AccessToken))
	assert.Equal(t, "reauth", b.status(t, old))
}

func TestANewCustomerConnects(t *testing.T) {
	b := start(t, config())
	params := finch.NewSession{CustomerID: "acme", CustomerName: "Acme", Products: []string{"company"}, RedirectURI: callback}
	first, err := b.Client.CreateSession(t.Context(), params)
	require.NoError(t, err)
	params.CustomerName = "Acme Ltd"
	again, err := b.Client.CreateSession(t.Context(), params)
	require.NoError(t, err)
	assert.Equal(t, first.ID, again.ID, "a customer who has not connected yet gets the same session")

	code, err := b.CompleteConnect(first.ID, finchsim.SameAccount)
	require.NoError(t, err)
	token, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
	i, err := b.Client.Introspect(t.Context(), token.AccessToken)
	require.NoError(t, err)
	assert.Equal(t, "Acme Ltd", i.CustomerName)
	assert.Equal(t, []string{"company"}, i.Products)

	_, err = b.Client.CreateSession(t.Context(), params)
	e := asError(t, err)
	assert.Equal(t, finch.CodeConnectionAlreadyExists, e.FinchCode)
	assert.Equal(t, token.ConnectionID, e.ConnectionID)

	require.NoError(t, b.Client.Disconnect(t.Context(), token.AccessToken))
	fresh, err := b.Client.CreateSession(t.Context(), params)
	require.NoError(t, err, "after a disconnect the customer may connect anew")
	assert.NotEqual(t, first.ID, fresh.ID)
}

func TestADisconnectedConnection(t *testing.T) {
	b := start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	another, err := b.MintToken(conn.ID)
	require.NoError(t, err)
	session := b.reauthenticate(t, conn.ID)
	code := b.code(t, conn.ID)
	require.NoError(t, b.Client.Disconnect(t.Context(), token))
	for _, text := range []string{token, another} {
		_, err := b.Client.Introspect(t.Context(), text)
		e := asError(t, err)
		assert.Equal(t, 401, e.Status)
		assert.Empty(t, e.FinchCode)
		assert.False(t, e.IsReauth())
	}
	_, err = b.Client.Reauthenticate(t.Context(), finch.ReauthenticateParams{ConnectionID: conn.ID})
	assert.True(t, asError(t, err).IsConnectionNotFound())
	_, err = b.Client.Exchange(t.Context(), code, callback)
	assert.True(t, asError(t, err).IsInvalidGrant())
	_, err = b.CompleteConnect(session.ID, finchsim.SameAccount)
	require.ErrorIs(t, err, finchsim.ErrSessionOver)
	require.ErrorIs(t, b.Restore(conn.ID), finchsim.ErrInvalid, "there is no way back")
	_, err = b.MintToken(conn.ID)
	require.ErrorIs(t, err, finchsim.ErrInvalid)
}

// One of many callers gets the token of a code.
func TestACodeIsExchangedOnceAmongMany(t *testing.T) {
	b := start(t, config())
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	code := b.code(t, conn.ID)
	minted := b.Counters().TokensMinted
	var mu sync.Mutex
	var all sync.WaitGroup
	won := 0
	for range 20 {
		all.Go(func() {
			if _, err := b.Client.Exchange(t.Context(), code, callback); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assert.Equal(t, 1, won)
	assert.Equal(t, minted+1, b.Counters().TokensMinted)
}

func TestTimeRunsOut(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	cfg := config()
	cfg.Now = func() time.Time { return now }
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)

	late := b.code(t, conn.ID)
	now = now.Add(10*time.Minute - time.Second)
	inTime := b.code(t, conn.ID)
	now = now.Add(time.Second)
	_, err = b.Client.Exchange(t.Context(), late, callback)
	assert.True(t, asError(t, err).IsInvalidGrant(), "a code lives ten minutes")
	_, err = b.Client.Exchange(t.Context(), inTime, callback)
	require.NoError(t, err)

	session, err := b.Client.Reauthenticate(t.Context(), finch.ReauthenticateParams{ConnectionID: conn.ID, RedirectURI: callback, MinutesToExpire: 60})
	require.NoError(t, err)
	var clock struct {
		Now      time.Time
		Advanced string
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/clock", `{"advance":"59m59s"}`, &clock))
	assert.Equal(t, now.Add(59*time.Minute+59*time.Second), clock.Now)
	status, _, _ := b.do(t, "GET", "/authorize?session="+session.ID, "")
	assert.Equal(t, 200, status)
	require.Equal(t, 200, b.control(t, "POST", "/sim/clock", `{"advance":"1s"}`, &clock))
	assert.Equal(t, "1h0m0s", clock.Advanced)
	status, _, page := b.do(t, "GET", "/authorize?session="+session.ID, "")
	assert.Equal(t, 410, status)
	assert.Contains(t, page, "This session has expired.")
	_, err = b.CompleteConnect(session.ID, finchsim.SameAccount)
	require.ErrorIs(t, err, finchsim.ErrSessionOver)
	_, err = b.Advance(-time.Second)
	require.ErrorIs(t, err, finchsim.ErrInvalid)
}

// Sessions last as long as they were asked to, or as Finch's default says.
func TestHowLongSessionsLast(t *testing.T) {
	b := start(t, config())
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	for body, want := range map[string]time.Duration{
		`{"connection_id":"` + conn.ID + `"}`:                              30 * 24 * time.Hour,
		`{"connection_id":"` + conn.ID + `","minutes_to_expire":1}`:        time.Minute,
		`{"connection_id":"` + conn.ID + `","minutes_to_expire":129600}`:   90 * 24 * time.Hour,
		`{"connection_id":"` + conn.ID + `","minutes_to_expire":43200}`:    30 * 24 * time.Hour,
		`{"connection_id":"` + conn.ID + `","products":null}`:              30 * 24 * time.Hour,
		`{"connection_id":"` + conn.ID + `","products":["company"]}`:       30 * 24 * time.Hour,
		`{"connection_id":"` + conn.ID + `","redirect_uri":null,"more":1}`: 30 * 24 * time.Hour,
	} {
		status, _, text := b.basic(t, "/connect/sessions/reauthenticate", body)
		require.Equal(t, 201, status, text)
		var opened struct {
			SessionID string `json:"session_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &opened))
		found := false
		for _, x := range b.Sessions(conn.ID) {
			if x.ID == opened.SessionID {
				found = true
				assert.Equal(t, want, x.ExpiresAt.Sub(x.CreatedAt), body)
			}
		}
		assert.True(t, found)
	}
	_, err = b.Client.CreateSession(t.Context(), finch.NewSession{CustomerID: "acme", CustomerName: "Acme", Products: []string{"company"}})
	require.NoError(t, err)
	for _, x := range b.Sessions("") {
		if x.CustomerID == "acme" {
			assert.Equal(t, 90*24*time.Hour, x.ExpiresAt.Sub(x.CreatedAt))
		}
	}
}

func TestSeveralEntities(t *testing.T) {
	b := start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{Entities: []string{"North", "South"}})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID, conn.Entities[1].ID))
	i, err := b.Client.Introspect(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, "connected", i.Status())
	assert.True(t, i.NeedsReauth())
	require.Len(t, i.StaleEntities(), 1)
	assert.Equal(t, "South", i.StaleEntities()[0].Name)

	company := func(entity string) int {
		status, _, _ := b.bearer(t, "GET", "/employer/company?entity_ids[]="+entity, "", token)
		return status
	}
	assert.Equal(t, 200, company(conn.Entities[0].ID))
	assert.Equal(t, 401, company(conn.Entities[1].ID))
	assert.Equal(t, 400, company("someone-else"))
	require.NoError(t, b.Client.Company(t.Context(), token), "other entities still serve data")

	require.NoError(t, b.Break(conn.ID, conn.Entities[0].ID))
	assert.Equal(t, "reauth", b.status(t, token), "all entities are the connection")
	_, err = b.Client.Exchange(t.Context(), b.code(t, conn.ID), callback)
	require.NoError(t, err)
	i, err = b.Client.Introspect(t.Context(), token)
	require.NoError(t, err)
	assert.False(t, i.NeedsReauth())
	require.ErrorIs(t, b.Break(conn.ID, "someone-else"), finchsim.ErrNotFound)
}

func TestAddConnection(t *testing.T) {
	b := start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{ConnectionID: "conn-1", CustomerName: "Acme", ProviderID: "bamboo_hr", Products: []string{"company"}, Employees: 3})
	require.NoError(t, err)
	i, err := b.Client.Introspect(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, "conn-1", i.ConnectionID)
	assert.Equal(t, "bamboo_hr", i.ProviderID)
	assert.Equal(t, conn.CompanyID, i.CompanyID)
	assert.Equal(t, clientID, i.ClientID)
	assert.False(t, i.Connection.LastSuccessfulSync.IsZero())
	for name, n := range map[string]finchsim.NewConnection{
		"malformed ID":           {ConnectionID: "no spaces"},
		"unknown product":        {Products: []string{"weather"}},
		"unknown authentication": {AuthenticationType: "magic"},
		"too many people":        {Employees: 1_000_000},
	} {
		_, _, err := b.AddConnection(n)
		require.ErrorIs(t, err, finchsim.ErrInvalid, name)
	}
	_, _, err = b.AddConnection(finchsim.NewConnection{ConnectionID: "conn-1"})
	require.ErrorIs(t, err, finchsim.ErrExists)
	assert.Len(t, b.Connections(), 1)
	_, err = b.Connection("conn-2")
	require.ErrorIs(t, err, finchsim.ErrNotFound)
	require.ErrorIs(t, b.Break("conn-2"), finchsim.ErrNotFound)
	require.ErrorIs(t, b.SetStatus("conn-1", "dormant"), finchsim.ErrInvalid)
	_, err = b.CompleteConnect("nothing", finchsim.SameAccount)
	require.ErrorIs(t, err, finchsim.ErrNotFound)
	_, err = b.CompleteConnect(b.reauthenticate(t, "conn-1").ID, "neither")
	require.ErrorIs(t, err, finchsim.ErrInvalid)
}

func TestConfigIsChecked(t *testing.T) {
	for name, spoil := range map[string]func(*finchsim.Config){
		"no credentials":       func(c *finchsim.Config) { c.ClientSecret = "" },
		"redirect URI":         func(c *finchsim.Config) { c.RedirectURIs = []string{"/callback"} },
		"webhook secret":       func(c *finchsim.Config) { c.WebhookURL, c.WebhookSecret = "http://127.0.0.1/", "not base64!" },
		"public URL":           func(c *finchsim.Config) { c.PublicURL = "localhost" },
		"knobs":                func(c *finchsim.Config) { c.Knobs = &finchsim.Knobs{VerifyPending: -1} },
		"file in a file's way": func(c *finchsim.Config) { c.File = "sim_test.go/state.json" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			spoil(&cfg)
			_, err := finchsim.New(cfg)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), clientSecret)
		})
	}
}

func TestWhereItIsReached(t *testing.T) {
	cfg := config()
	cfg.PublicURL, cfg.ConnectURL = "https://finch.example.com/", "https://connect.example.com/"
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	s := b.reauthenticate(t, conn.ID)
	assert.Equal(t, "https://connect.example.com/authorize?session="+s.ID, s.ConnectURL)
}

func (b bench) basic(t *testing.T, path, body string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "/", nil)
	require.NoError(t, err)
	r.SetBasicAuth(clientID, clientSecret)
	return b.do(t, http.MethodPost, path, body, "Authorization", r.Header.Get("Authorization"), "Finch-API-Version", "2020-09-17")
}

func (b bench) bearer(t *testing.T, method, path, body, token string) (int, http.Header, string) {
	t.Helper()
	return b.do(t, method, path, body, "Authorization", "Bearer "+token, "Finch-API-Version", "2020-09-17")
}

// A person who can log in for some entities alone brings those back, and an
// entity that was disconnected comes back with nobody.
func TestSomeEntitiesComeBack(t *testing.T) {
	b := start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{Entities: []string{"East", "West", "North"}})
	require.NoError(t, err)
	statuses := func() []string {
		conn, err := b.Connection(conn.ID)
		require.NoError(t, err)
		out := []string{conn.Status}
		for _, e := range conn.Entities {
			out = append(out, e.Status)
		}
		return out
	}
	require.NoError(t, b.Break(conn.ID))
	session := b.reauthenticate(t, conn.ID)
	_, err = b.CompletePartly(session.ID, "no-entity")
	require.ErrorIs(t, err, finchsim.ErrNotFound)
	_, err = b.CompletePartly(session.ID, conn.Entities[0].ID)
	require.NoError(t, err)
	assert.Equal(t, []string{"connected", "connected", "reauth", "reauth"}, statuses())

	status, _, _ := b.bearer(t, "POST", "/disconnect-entity", `{"entity_ids":["`+conn.Entities[2].ID+`"]}`, token)
	require.Equal(t, 200, status)
	status, _, _ = b.bearer(t, "POST", "/disconnect-entity", `{"entity_ids":[]}`, token)
	require.Equal(t, 400, status)
	status, _, _ = b.bearer(t, "POST", "/disconnect-entity", `{"entity_ids":["no-entity"]}`, token)
	require.Equal(t, 400, status)
	_, err = b.CompleteConnect(b.reauthenticate(t, conn.ID).ID, finchsim.SameAccount)
	require.NoError(t, err)
	assert.Equal(t, []string{"connected", "connected", "connected", "disconnected"}, statuses())

	for _, e := range conn.Entities[:2] {
		var after finchsim.Connection
		require.Equal(t, 200, b.control(t, "POST", "/sim/connections/"+conn.ID+"/entities/"+e.ID+"/break", "", &after))
	}
	assert.Equal(t, []string{"reauth", "reauth", "reauth", "disconnected"}, statuses())
	require.Equal(t, 200, b.control(t, "POST", "/sim/connections/"+conn.ID+"/entities/"+conn.Entities[1].ID+"/restore", "", nil))
	require.Equal(t, 400, b.control(t, "POST", "/sim/connections/"+conn.ID+"/entities/"+conn.Entities[1].ID+"/polish", "", nil))
	require.Equal(t, 404, b.control(t, "POST", "/sim/connections/"+conn.ID+"/entities/nothing/disconnect", "", nil))
	require.NoError(t, b.DisconnectEntity(conn.ID, conn.Entities[1].ID))
	assert.Equal(t, []string{"reauth", "reauth", "disconnected", "disconnected"}, statuses())
	require.NoError(t, b.DisconnectEntity(conn.ID, conn.Entities[0].ID))
	assert.Equal(t, []string{"disconnected", "disconnected", "disconnected", "disconnected"}, statuses(), "nothing is left of it")
}
