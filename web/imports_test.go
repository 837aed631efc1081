package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const importLines = `{"connection_id":"c1","access_token":"tok-Hush-1","customer_name":"Acme","contacts":[{"email":"Ada.Hush@acme.example"}]}
{"access_token":"tok-Hush-2"}
{"connection_id":"c3","contacts":[{"email":"Hush"}]}
{"connection_id":"c4"}
`

func TestImportConnections(t *testing.T) {
	f := newFixture(t)
	var out ImportedBody
	f.api(200, "POST", importPath+"?import_id=first", importLines, &out, header("Content-Type", "application/x-ndjson"))
	require.True(t, out.Complete)
	require.Equal(t, int64(4), out.Rows)
	require.Equal(t, int64(2), out.Created)
	require.Equal(t, ImportTokens{Waiting: 2, EstimatedSeconds: 6}, out.Tokens)
	require.Equal(t, []RejectedRow{{3, "c3", `contacts[0].email: must be an e-mail address alone, as "ada@acme.example"`}}, out.RejectedRows)
	var c reauth.Connection
	f.api(200, "GET", "/v1/connections/c1", nil, &c)
	require.Equal(t, "Acme", c.CustomerName)
	require.Len(t, c.Contacts, 1)

	// As CSV, whatever the client calls it; the same again changes nothing.
	f.api(200, "POST", importPath, "connection_id,access_token\nc1,tok-Hush-1\n", &out, header("Content-Type", "application/x-www-form-urlencoded"))
	require.Equal(t, int64(1), out.Known)
	require.Zero(t, out.Tokens.Waiting)
	require.NotEmpty(t, out.ImportID)

	var view ImportView
	f.api(200, "GET", "/v1/imports/first", nil, &view)
	require.Equal(t, int64(1), view.Rejected)
	var list ImportList
	f.api(200, "GET", "/v1/imports?limit=1", nil, &list)
	require.Len(t, list.Imports, 1)
	require.NotEqual(t, "first", list.Imports[0].ImportID, "the newest first")
	f.api(200, "GET", "/v1/imports?cursor="+list.NextCursor, nil, &list)
	require.Equal(t, "first", list.Imports[0].ImportID)
	var rejected RejectedList
	f.api(200, "GET", "/v1/imports/first/rejected", nil, &rejected)
	require.Len(t, rejected.Rows, 1)
	require.Contains(t, f.problem(404, "GET", "/v1/imports/none", nil).Detail, "no import none")
	require.Contains(t, f.problem(404, "GET", "/v1/imports/none/rejected", nil).Detail, "no import none")
	f.problem(422, "GET", "/v1/imports?cursor=x", nil)
	require.Contains(t, f.api(200, "GET", "/openapi.json", nil, nil).Body.String(), importPath)
}

func TestImportConnectionsRefusesWhatIsNoImport(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		name, query, body string
		status            int
		want              string
	}{
		{"an array", "", "[{}]", 422, "body: line 1: is a JSON array"},
		{"no header", "", "c1,tok-Hush\n", 422, "body: line 1: the first line of a CSV must name its columns"},
		{"nothing", "", " ", 422, "body: there is nothing in it"},
		{"an ID", "?import_id=a%20b", importLines, 422, "query.import_id: the ID of an import must be"},
		{"a format", "?format=xml", importLines, 422, "query.format: must be csv or ndjson"},
		{"reports", "?reports=x", importLines, 422, "query.reports: must be true or false"},
		{"a parameter", "?dry=1", importLines, 422, "known are format, import_id, reports"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Contains(t, f.problem(test.status, "POST", importPath+test.query, test.body).Detail, test.want)
		})
	}
	require.Contains(t, f.problem(415, "POST", importPath, importLines, header("Content-Encoding", "gzip")).Detail, "compressed")
	f.problem(401, "POST", importPath, importLines, noKey)
	require.Zero(t, f.count("connections"))
	require.Zero(t, f.count("imports"))
}

// A client that goes away in the midst leaves whole batches behind, and goes on
// where it was.
func TestImportConnectionsGoesOn(t *testing.T) {
	f := newFixture(t)
	content := &strings.Builder{}
	for i := range 4000 {
		fmt.Fprintf(content, "{\"connection_id\":\"c%d\",\"customer_name\":%q}\n", i, strings.Repeat("x", 200))
	}
	server := httptest.NewServer(f.handler)
	defer server.Close()
	send := func(body *cutOff) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+importPath+"?import_id=big", body)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+apiKey)
		return http.DefaultClient.Do(r)
	}
	_, err := send(&cutOff{text: content.String(), at: content.Len() * 2 / 3})
	require.Error(t, err)
	var p db.ImportProgress
	require.Eventually(t, func() bool {
		p, err = f.db.ImportByID(context.Background(), "big")
		return err == nil && p.LinesDone > 0
	}, time.Minute, 10*time.Millisecond)
	require.Less(t, p.LinesDone, int64(4000))
	require.Zero(t, p.LinesDone%500)

	f.api(409, "POST", importPath+"?import_id=big", strings.ReplaceAll(content.String(), "c1", "d1"), nil)
	var out ImportedBody
	require.Eventually(t, func() bool { // until the first one is gone
		w := f.do("POST", importPath+"?import_id=big", content.String())
		return w.Code == 200
	}, time.Minute, 50*time.Millisecond)
	f.api(200, "GET", "/v1/imports/big", nil, &out.ImportView)
	require.Equal(t, int64(4000), out.Created)
	require.Equal(t, int64(4000), out.Rows)
	require.Equal(t, 4000, f.count("connections"))
}

// cutOff breaks off in the midst.
type cutOff struct {
	text string
	read int
	at   int
}

func (c *cutOff) Read(b []byte) (int, error) {
	if c.read >= c.at {
		return 0, errors.New("the client is gone")
	}
	n := copy(b, c.text[c.read:c.at])
	c.read += n
	return n, nil
}

// Whoever asks for a token that was imported does not wait for days.
func TestTokenThatWasImported(t *testing.T) {
	var adopt func(id string) (bool, error)
	f := newFixture(t, func(c *Config) {
		c.AdoptImported = func(_ context.Context, id string) (bool, error) { return adopt(id) }
	})
	const path = "/v1/connections/c1/token"
	f.api(200, "POST", importPath, importLines, nil)
	adopt = func(string) (bool, error) { return false, nil }
	require.Contains(t, f.problem(409, "GET", path, nil).Detail, "has not been asked about it yet")
	require.Contains(t, f.problem(404, "GET", "/v1/connections/c4/token", nil).Detail, "No token of the connection is stored")
	adopt = func(string) (bool, error) { return false, errDown }
	require.Contains(t, f.problem(503, "GET", path, nil).Detail, "cannot be asked about it just now")
	adopt = func(id string) (bool, error) {
		_, err := f.db.Adopt(t.Context(), db.Adoption{
			ConnectionID: id, Fingerprint: reauth.Fingerprint("tok-Hush-1"), MintedAt: f.clock(),
			Seal: func(generation int64) ([]byte, error) {
				return f.keys.Seal([]byte("tok-Hush-1"), db.TokenBound(id, generation)...)
			},
		})
		return err == nil, err
	}
	var token TokenView
	f.api(200, "GET", path, nil, &token)
	require.Equal(t, "tok-Hush-1", token.AccessToken)

	adopt = func(string) (bool, error) { return false, nil }
	for state, want := range map[db.StagedState]int{db.StagedStale: 409, db.StagedRejected: 404} {
		f.api(200, "POST", importPath, `{"connection_id":"`+string(state)+`","access_token":"tok-Hush-`+string(state)+`"}`, nil)
		require.NoError(t, f.db.SettleStaged(t.Context(), db.StagedVerdict{
			Fingerprint: reauth.Fingerprint("tok-Hush-" + string(state)), State: state, Detail: "that is why", At: f.clock(),
		}))
		require.Contains(t, f.problem(want, "GET", "/v1/connections/"+string(state)+"/token", nil).Detail, "that is why")
	}
}

// An import that changes who can be written to tells the open case.
func TestImportTellsAnOpenCase(t *testing.T) {
	f := newFixture(t)
	f.api(200, "POST", importPath, importLines, nil)
	f.open("c1", "case-1", reauth.PhaseAwaitingCustomer)
	f.api(200, "POST", importPath, importLines, nil)
	require.Empty(t, f.temporal.signals)
	f.api(200, "POST", importPath, strings.ReplaceAll(importLines, "Ada.Hush", "Eve.Hush"), nil)
	require.Equal(t, []string{"contacts c1"}, f.temporal.signals)
}
