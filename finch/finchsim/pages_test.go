package finchsim_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch/finchsim"
)

// press presses a button of the Connect page.
func (b bench) press(t *testing.T, session, state, action string) (int, http.Header, string) {
	t.Helper()
	return b.post(t, "/authorize", url.Values{"session": {session}, "state": {state}, "action": {action}})
}

func TestConnectPage(t *testing.T) {
	b, connectionID, token := stale(t)
	s := b.reauthenticate(t, connectionID)
	before := b.Counters()
	for _, method := range []string{"GET", "HEAD"} {
		status, h, _ := b.do(t, method, "/authorize?session="+s.ID+"&state=abc", "")
		assert.Equal(t, 200, status)
		assert.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
		assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
	}
	assert.Equal(t, before, b.Counters())
	assert.Equal(t, "reauth", b.status(t, token), "looking changes nothing")
	_, _, page := b.do(t, "GET", "/authorize?session="+s.ID+"&state=%22%3E%3Cscript%3E", "")
	for _, part := range []string{`id="authorize"`, `id="authorize-other"`, `id="leave"`, "Reconnect Gusto", `name="viewport"`} {
		assert.Contains(t, page, part)
	}
	assert.NotContains(t, page, "<script>", "state is escaped, and no script is needed")
	assert.NotContains(t, strings.ReplaceAll(page, s.ConnectURL, ""), "http", "nothing comes from elsewhere")

	status, h, _ := b.press(t, s.ID, "a b&c", "authorize")
	require.Equal(t, 302, status)
	back, err := url.Parse(h.Get("Location"))
	require.NoError(t, err)
	assert.Equal(t, callback, back.Scheme+"://"+back.Host+back.Path)
	assert.Equal(t, "a b&c", back.Query().Get("state"))
	assert.Equal(t, "connected", b.status(t, token))
	fresh, err := b.Client.Exchange(t.Context(), back.Query().Get("code"), callback)
	require.NoError(t, err)
	assert.Equal(t, connectionID, fresh.ConnectionID)

	status, _, page = b.press(t, s.ID, "", "authorize")
	assert.Equal(t, 410, status)
	assert.Contains(t, page, "already been completed")
	status, _, _ = b.do(t, "GET", "/authorize?session="+s.ID, "")
	assert.Equal(t, 410, status)
}

func TestConnectPageOtherWays(t *testing.T) {
	b, connectionID, token := stale(t)
	s := b.reauthenticate(t, connectionID)

	status, h, _ := b.press(t, s.ID, "abc", "leave")
	require.Equal(t, 302, status)
	assert.Equal(t, callback+"?state=abc", h.Get("Location"), "whoever leaves comes back without a code")
	assert.Equal(t, "reauth", b.status(t, token))

	status, _, page := b.press(t, s.ID, "abc", "dance")
	assert.Equal(t, 400, status)
	assert.Contains(t, page, "one of the buttons")

	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.EchoState = false }))
	status, h, _ = b.press(t, s.ID, "abc", "authorize-other")
	require.Equal(t, 302, status)
	back, err := url.Parse(h.Get("Location"))
	require.NoError(t, err)
	assert.NotContains(t, back.Query(), "state")
	other, err := b.Client.Exchange(t.Context(), back.Query().Get("code"), callback)
	require.NoError(t, err)
	assert.NotEqual(t, connectionID, other.ConnectionID)
	assert.Equal(t, "reauth", b.status(t, token))

	for _, id := range []string{"", "nothing"} {
		status, _, page = b.do(t, "GET", "/authorize?session="+id, "")
		assert.Equal(t, 404, status)
		assert.Contains(t, page, "does not exist")
		status, _, _ = b.press(t, id, "", "authorize")
		assert.Equal(t, 404, status)
	}

	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.SessionSupersededByNewer = true }))
	older := b.reauthenticate(t, connectionID)
	b.reauthenticate(t, connectionID)
	_, _, page = b.do(t, "GET", "/authorize?session="+older.ID, "")
	assert.Contains(t, page, "replaced by a newer one")
	require.NoError(t, b.Delete(connectionID))
	newest := b.Sessions(connectionID)
	status, _, page = b.do(t, "GET", "/authorize?session="+newest[0].ID, "")
	assert.Equal(t, 410, status)
	assert.Contains(t, page, "session")
}

// A redirect URI keeps the query that it has.
func TestRedirectURIWithAQuery(t *testing.T) {
	cfg := config()
	cfg.RedirectURIs = []string{callback + "?tenant=7"}
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	status, _, text := b.basic(t, "/connect/sessions/reauthenticate", `{"connection_id":"`+conn.ID+`","redirect_uri":"`+callback+`?tenant=7"}`)
	require.Equal(t, 201, status)
	var s struct {
		SessionID string `json:"session_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &s))
	_, h, _ := b.press(t, s.SessionID, "abc", "authorize")
	back, err := url.Parse(h.Get("Location"))
	require.NoError(t, err)
	assert.Equal(t, "7", back.Query().Get("tenant"))
	assert.NotEmpty(t, back.Query().Get("code"))
}

// The embedded flow tells the page around it, and shows the code.
func TestEmbeddedConnect(t *testing.T) {
	b, connectionID, _ := stale(t)
	for _, action := range []string{"leave", "authorize"} {
		status, _, text := b.basic(t, "/connect/sessions/reauthenticate", `{"connection_id":"`+connectionID+`"}`)
		require.Equal(t, 201, status)
		var s struct {
			SessionID string `json:"session_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &s))
		status, _, page := b.press(t, s.SessionID, "abc", action)
		require.Equal(t, 200, status)
		assert.Contains(t, page, "finch-auth-message-v2")
		if action == "leave" {
			assert.Contains(t, page, `data-kind="closed"`)
			continue
		}
		assert.Contains(t, page, `data-state="abc"`)
		_, code, _ := strings.Cut(page, `data-code="`)
		code, _, _ = strings.Cut(code, `"`)
		_, err := b.Client.Exchange(t.Context(), code, "")
		require.NoError(t, err)
	}
}

func TestSessionPageNamesStaleEntities(t *testing.T) {
	b := start(t, config())
	conn, _, err := b.AddConnection(finchsim.NewConnection{CustomerName: "Acme", Entities: []string{"North", "South"}})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID, conn.Entities[0].ID))
	_, _, page := b.do(t, "GET", "/authorize?session="+b.reauthenticate(t, conn.ID).ID, "")
	assert.Contains(t, page, "<li>North</li>")
	assert.NotContains(t, page, "<li>South</li>")
}

// On the page at / every connection can be broken, brought back and deleted.
func TestIndexPage(t *testing.T) {
	b := start(t, config())
	_, _, page := b.do(t, "GET", "/", "")
	assert.Contains(t, page, "There is no connection yet.")

	status, _, page := b.post(t, "/sim/connections", url.Values{"customer_name": {"Acme <b>"}, "provider_id": {"bamboo_hr"}})
	require.Equal(t, 200, status)
	_, token, _ := strings.Cut(page, `id="access-token">`)
	token, _, _ = strings.Cut(token, "<")
	assert.Equal(t, "connected", b.status(t, token), "the page shows a token that works")
	conn := b.Connections()[0]
	_, _, page = b.do(t, "GET", "/", "")
	assert.Contains(t, page, "Acme &lt;b&gt;")
	assert.Contains(t, page, "BambooHR")
	assert.NotContains(t, page, token, "tokens are not listed")

	for _, step := range []struct{ action, status, badge string }{
		{"break", "reauth", "badge reauth"}, {"restore", "connected", "badge connected"}, {"break", "reauth", "badge reauth"},
	} {
		assert.Contains(t, page, `action="/sim/connections/`+conn.ID+`/`+step.action+`"`)
		status, h, _ := b.post(t, "/sim/connections/"+conn.ID+"/"+step.action, nil)
		require.Equal(t, 303, status)
		assert.Equal(t, "/", h.Get("Location"))
		assert.Equal(t, step.status, b.status(t, token))
		_, _, page = b.do(t, "GET", "/", "")
		assert.Contains(t, page, step.badge)
	}
	assert.NotContains(t, page, "Open Connect")
	s := b.reauthenticate(t, conn.ID)
	_, _, page = b.do(t, "GET", "/", "")
	assert.Contains(t, page, s.ID)

	_, _, page = b.do(t, "GET", "/?q=acme", "")
	assert.Contains(t, page, conn.ID)
	_, _, page = b.do(t, "GET", "/?q=elsewhere", "")
	assert.NotContains(t, page, conn.ID)
	assert.Contains(t, page, "Nothing matches.")

	status, _, _ = b.post(t, "/sim/knobs", url.Values{"webhooks": {"on"}, "old_token_dies": {"on"}})
	require.Equal(t, 303, status)
	assert.Equal(t, finchsim.Knobs{Webhooks: true, OldTokenDies: true}, b.Knobs(), "boxes that are not ticked are off")
	_, _, page = b.do(t, "GET", "/", "")
	assert.Contains(t, page, `name="old_token_dies" value="on" checked`)
	assert.Contains(t, page, `name="echo_state" value="on">`)

	status, _, _ = b.post(t, "/sim/clock", url.Values{"advance": {"24h"}})
	require.Equal(t, 303, status)
	_, _, page = b.do(t, "GET", "/", "")
	assert.Contains(t, page, "24h0m0s ahead")

	status, _, _ = b.post(t, "/sim/connections/"+conn.ID+"/delete", nil)
	require.Equal(t, 303, status)
	_, _, page = b.do(t, "GET", "/", "")
	assert.Contains(t, page, "badge disconnected")
	assert.NotContains(t, page, "/break", "nothing can be done with what is gone")
	status, _, page = b.post(t, "/sim/connections/"+conn.ID+"/break", nil)
	assert.Equal(t, 400, status)
	assert.Contains(t, page, "deleted")
}

func TestIndexPageOfManyConnections(t *testing.T) {
	b := start(t, config())
	for range 203 {
		_, _, err := b.AddConnection(finchsim.NewConnection{})
		require.NoError(t, err)
	}
	_, _, page := b.do(t, "GET", "/", "")
	assert.Equal(t, 200, strings.Count(page, `id="connection-`))
	assert.Contains(t, page, "3 more are not shown")
}

func TestControlCalls(t *testing.T) {
	b := start(t, config())
	var added struct {
		ConnectionID string `json:"connection_id"`
		AccessToken  string `json:"access_token"`
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/connections",
		`{"connection_id":"conn-1","customer_name":"Acme","provider_id":"gusto","products":["company"],"entities":["North","South"]}`, &added))
	assert.Equal(t, "conn-1", added.ConnectionID)
	assert.Equal(t, "connected", b.status(t, added.AccessToken))

	var conn finchsim.Connection
	for path, want := range map[string]string{"break": "reauth", "restore": "connected"} {
		require.Equal(t, 200, b.control(t, "POST", "/sim/connections/conn-1/"+path, "", &conn))
		assert.Equal(t, want, conn.Status)
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/connections/conn-1/status", `{"status":"pending"}`, &conn))
	assert.Equal(t, "pending", conn.Status)
	require.NoError(t, b.Restore("conn-1"))
	require.Equal(t, 200, b.control(t, "POST", "/sim/connections/conn-1/break", `{"entity_ids":["`+conn.Entities[0].ID+`"]}`, &conn))
	assert.Equal(t, "connected", conn.Status)
	assert.Equal(t, "reauth", conn.Entities[0].Status)

	var more struct {
		AccessToken string `json:"access_token"`
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/connections/conn-1/token", "", &more))
	assert.NotEqual(t, added.AccessToken, more.AccessToken)
	assert.Equal(t, "connected", b.status(t, more.AccessToken))

	s := b.reauthenticate(t, "conn-1")
	var sessions struct{ Sessions []finchsim.Session }
	require.Equal(t, 200, b.control(t, "GET", "/sim/sessions?connection_id=conn-1", "", &sessions))
	require.Len(t, sessions.Sessions, 1)
	assert.Equal(t, s.ID, sessions.Sessions[0].ID)
	var done struct {
		Code        string `json:"code"`
		RedirectURL string `json:"redirect_url"`
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/sessions/"+s.ID+"/complete", `{"account":"same","state":"abc"}`, &done))
	assert.Equal(t, callback+"?code="+done.Code+"&state=abc", done.RedirectURL)
	_, err := b.Client.Exchange(t.Context(), done.Code, callback)
	require.NoError(t, err)

	var list struct{ Connections []finchsim.Connection }
	require.Equal(t, 200, b.control(t, "GET", "/sim/connections", "", &list))
	require.Len(t, list.Connections, 1)
	_, _, text := b.do(t, "GET", "/sim/connections", "")
	assert.NotContains(t, text, "token-")

	var counters finchsim.Counters
	require.Equal(t, 200, b.control(t, "GET", "/sim/counters", "", &counters))
	assert.Equal(t, 1, counters.Calls["POST /auth/token"])
	assert.Equal(t, 3, counters.TokensMinted)
	assert.NotContains(t, counters.Exchanges, done.Code, "codes are counted by their hashes")

	require.Equal(t, 200, b.control(t, "POST", "/sim/connections/conn-1/delete", "", &conn))
	assert.Equal(t, "disconnected", conn.Status)
	require.Equal(t, 200, b.control(t, "GET", "/sim/clock", "", nil))
	require.Equal(t, 200, b.control(t, "GET", "/healthz", "", nil))

	for request, want := range map[string]int{
		"POST /sim/connections/nothing/break  ":               404,
		"GET /sim/connections/nothing  ":                      404,
		"POST /sim/connections/conn-1/restore  ":              400,
		"POST /sim/connections/conn-1/token  ":                400,
		`POST /sim/connections {"connection_id":"conn-1"}`:    409,
		`POST /sim/connections {"provider":"gusto"}`:          400,
		`POST /sim/connections {`:                             400,
		`POST /sim/clock {"advance":"yesterday"}`:             400,
		`POST /sim/clock {"advance":"-1h"}`:                   400,
		"POST /sim/sessions/nothing/complete  ":               404,
		"POST /sim/sessions/" + s.ID + "/complete  ":          410,
		"GET /sim/nothing  ":                                  404,
		`POST /sim/webhooks {"connection_id":"nothing"}`:      404,
		`POST /sim/webhooks {"connection_id":"conn-1"}`:       400,
		`POST /sim/connections/conn-1/status {"status":"up"}`: 400,
	} {
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		status, _, text := b.do(t, method, path, body)
		assert.Equal(t, want, status, "%s: %s", request, text)
		assert.True(t, json.Valid([]byte(text)))
	}
	status, _, _ := b.post(t, "/sim/clock", url.Values{"advance": {"soon"}})
	assert.Equal(t, 400, status)
	status, _, _ = b.do(t, "POST", "/sim/clock", "%zz", "Content-Type", "application/x-www-form-urlencoded")
	assert.Equal(t, 400, status)
	status, _, _ = b.do(t, "POST", "/sim/clock", strings.Repeat(" ", 1<<20+1))
	assert.Equal(t, 400, status)
}

func TestClockOverHTTP(t *testing.T) {
	b := start(t, config())
	var clock struct{ Now time.Time }
	require.Equal(t, 200, b.control(t, "POST", "/sim/clock", `{"advance":"24h"}`, &clock))
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), clock.Now, time.Hour)
}
