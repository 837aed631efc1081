package web

import (
	"html"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// companies stores what was seen of a connection's companies, as pairs of name
// and status.
func (f *fixture) companies(pairs ...string) {
	f.t.Helper()
	var seen reauth.Entities
	for i := 0; i < len(pairs); i += 2 {
		seen = append(seen, reauth.Entity{EntityID: "id-" + pairs[i], Name: pairs[i], Status: pairs[i+1]})
	}
	require.NoError(f.t, f.db.SeeEntities(f.t.Context(), connID, seen, f.clock()))
}

func TestLinkNamesCompanies(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "c", reauth.PhaseAwaitingCustomer)
	f.companies("Acme East", "reauth", "Acme <b>West", "reauth", "Acme North", "connected", "Acme Old", "disconnected")
	page := html.UnescapeString(f.visit("GET", link).Body.String())
	require.Contains(t, page, "can no longer read the payroll and HR system of Acme East and Acme <b>West. This happens")
	require.Contains(t, page, "Signing in once more brings them back. Acme North still works.")
	require.Contains(t, page, "<dt>Needs you</dt><dd>Acme East, Acme <b>West</dd>")
	require.Contains(t, page, "<dt>Still works</dt><dd>Acme North</dd>")
	require.NotContains(t, page, "Acme Old")
	require.NotContains(t, f.visit("GET", link).Body.String(), "<b>")

	f.advance(time.Minute)
	f.companies("Acme East", "reauth", "Acme West", "reauth")
	page = f.visit("GET", link).Body.String()
	require.Contains(t, page, "the payroll and HR system of Acme Ltd.", "all of it")
	require.Contains(t, page, "<dt>Needs you</dt><dd>Acme East, Acme West</dd>")
	require.NotContains(t, page, "Still works")

	require.Equal(t, "a, b and 2 more", fewNames([]string{"a", "b", "c", "d"}))
	require.Equal(t, "a, b and c", fewNames([]string{"a", "b", "c"}))
}

// A login that brought some companies back, but not all, says which are left.
func TestDoneNamesWhatIsLeft(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	f.companies("Acme East", "connected", "Acme West", "reauth", "Acme North", "reauth")
	hash := reauth.CodeHash("code-Hush")
	_, _, err := f.db.ReceiveCode(t.Context(), hash, connID, "case-"+connID)
	require.NoError(t, err)
	require.NoError(t, f.db.SettleCode(t.Context(), hash, connID, "case-"+connID, reauth.CodeAdopted, 0))
	ticket, err := f.keys.Mint(ticketDone, doneTicket{ConnectionID: connID, CodeHash: hash, Link: strings.TrimPrefix(link, "/r/"), At: f.clock()}, f.clock().Add(time.Hour))
	require.NoError(t, err)

	require.NoError(t, f.db.SetPhase(t.Context(), "case-"+connID, reauth.PhaseVerifying, ""))
	w := f.visit("GET", "/done/"+ticket)
	require.Equal(t, "Checking the connection", title(w))
	require.Contains(t, w.Body.String(), "Acme East works already. We are waiting for Acme West and Acme North.")

	require.NoError(t, f.db.SetPhase(t.Context(), "case-"+connID, reauth.PhaseAwaitingCustomer, ""))
	w = f.visit("GET", "/done/"+ticket)
	require.Equal(t, "Almost there", title(w))
	require.Contains(t, w.Body.String(), "Acme East works, but Acme West and Acme North still need you.")
	require.Contains(t, w.Body.String(), "<dt>Works</dt><dd>Acme East</dd>")
	require.Contains(t, w.Body.String(), `href="/again/`)
}

func TestEntitiesInTheAPI(t *testing.T) {
	f := newFixture(t)
	f.introspect = func(string, string) (finch.Introspection, error) {
		return finch.Introspection{
			ConnectionID: connID, Connection: finch.ConnectionStatus{Status: finch.StatusConnected},
			Entities: []finch.Entity{{ID: "e1", Name: "Acme East", Status: "connected"}, {ID: "e2", Name: "Acme West", Status: "reauth"}},
		}, nil
	}
	var c reauth.Connection
	f.api(http.StatusCreated, "PUT", connectionURL, map[string]any{"access_token": "token-Hush"}, &c)
	require.Equal(t, []string{"Acme West"}, c.Entities.Stale())
	require.Equal(t, reauth.StatusStale, c.Status)
	require.Equal(t, f.clock(), c.Entities[0].SeenAt)

	f.open(connID, "c", reauth.PhaseAwaitingCustomer)
	var detail struct {
		Entities reauth.Entities
		Timeline []struct{ Kind, Detail string }
	}
	f.api(http.StatusOK, "GET", reportURL, nil, &detail)
	require.Equal(t, c.Entities, detail.Entities)
	require.NotContains(t, f.do("PUT", connectionURL, map[string]any{}).Body.String(), "Gusto")

	// Events about one company are kept; the open case looks at all of them.
	event := func(id, entity, status string) {
		t.Helper()
		f.advance(time.Second)
		require.Equal(t, "looked", f.obeyed(id, strings.Replace(accountUpdated(status), "null", `"`+entity+`"`, 1)))
	}
	event("msg_1", "e1", "disconnected")
	event("msg_2", "e9", "connected")
	event("msg_3", "e2", "connected")
	f.api(http.StatusOK, "GET", reportURL, nil, &detail)
	require.Equal(t, "disconnected", detail.Entities[0].Status)
	require.Equal(t, "connected", detail.Entities[1].Status)
	require.Contains(t, detail.Timeline, struct{ Kind, Detail string }{"entity_gone", "Acme East is not part of the connection any more."})
}
