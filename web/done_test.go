package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestVerdicts(t *testing.T) {
	now := time.Now()
	const hash = "h"
	open := func(phase reauth.Phase) *db.Case { return &db.Case{Phase: phase} }
	closed := func(outcome reauth.Outcome) *db.Case { return &db.Case{Phase: reauth.PhaseClosed, Outcome: outcome} }
	tests := []struct {
		name  string
		state reauth.CodeState // empty: no row
		hash  string
		kase  *db.Case
		age   time.Duration
		want  verdict
	}{
		{"no row yet", "", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictWaiting},
		{"no row, and no case", "", hash, nil, 0, verdictWaiting},
		{"no row for long", "", hash, nil, stuck + 1, verdictOurs},
		{"no row, case closed otherwise", "", hash, closed(reauth.OutcomeHealed), 0, verdictWaiting},
		{"received", "received", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictWaiting},
		{"received, redeeming", "received", hash, open(reauth.PhaseRedeeming), 0, verdictWaiting},
		{"received, another code is verified", "received", hash, open(reauth.PhaseVerifying), 0, verdictChecking},
		{"received for long", "received", hash, open(reauth.PhaseBlocked), stuck + 1, verdictOurs},
		{"received, case recovered by another code", "received", hash, closed(reauth.OutcomeRecovered), 0, verdictWaiting},
		{"minted", "minted", hash, open(reauth.PhaseRedeeming), 0, verdictChecking},
		{"minted, case recovered by another code", "minted", hash, closed(reauth.OutcomeRecovered), 0, verdictChecking},
		{"minted for long", "minted", hash, open(reauth.PhaseVerifying), stuck + 1, verdictOurs},
		{"adopted", "adopted", hash, open(reauth.PhaseVerifying), 0, verdictChecking},
		{"adopted, verified no longer", "adopted", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictUnconfirmed},
		{"adopted, case expired", "adopted", hash, closed(reauth.OutcomeExpired), 0, verdictUnconfirmed},
		{"adopted, works otherwise", "adopted", hash, closed(reauth.OutcomeHealed), 0, verdictWorks},
		{"recovered", "recovered", hash, closed(reauth.OutcomeRecovered), 0, verdictFixed},
		{"recovered, case not read", "recovered", hash, nil, 0, verdictFixed},
		{"refused", "refused", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictRefused},
		{"refused, works", "refused", hash, closed(reauth.OutcomeRecovered), 0, verdictWorks},
		{"refused, healed", "refused", hash, closed(reauth.OutcomeHealed), 0, verdictWorks},
		{"refused, false alarm", "refused", hash, closed(reauth.OutcomeFalseAlarm), 0, verdictRefused},
		{"refused, expired", "refused", hash, closed(reauth.OutcomeExpired), 0, verdictRefused},
		{"lost", "lost", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictLost},
		{"lost, works", "lost", hash, closed(reauth.OutcomeHealed), 0, verdictWorks},
		{"wrong account", "wrong_account", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictWrong},
		{"wrong account, works", "wrong_account", hash, closed(reauth.OutcomeHealed), 0, verdictWrong},
		{"unusable", "unusable", hash, open(reauth.PhaseAwaitingCustomer), 0, verdictOurs},
		{"unusable, works", "unusable", hash, closed(reauth.OutcomeHealed), 0, verdictWorks},
		{"adopted, of several companies", "adopted", hash, open(reauth.PhaseVerifying), 0, verdictChecking},
		{"quarantined", "quarantined", hash, closed(reauth.OutcomeCancelled), 0, verdictRemoved},
		{"pressed while redeeming", "", "", open(reauth.PhaseRedeeming), 0, verdictChecking},
		{"pressed, recovered since", "", "", closed(reauth.OutcomeRecovered), 0, verdictWorks},
		{"pressed, waits again", "", "", open(reauth.PhaseAwaitingCustomer), 0, verdictRefused},
		{"pressed, cancelled", "", "", closed(reauth.OutcomeCancelled), 0, verdictRefused},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := result{now: now, ticket: doneTicket{CodeHash: test.hash, At: now.Add(-test.age)}}
			if test.state != "" {
				v.hasCode, v.code = true, db.CodeRow{State: test.state, ReceivedAt: now.Add(-test.age)}
			}
			if test.kase != nil {
				v.hasCase, v.kase = true, *test.kase
			}
			require.Equal(t, test.want, v.verdict())
		})
	}
}

// No page says that it works unless the token is stored and works, or the case
// was closed because the connection works.
func TestNoVerdictOfSuccessTooEarly(t *testing.T) {
	states := []reauth.CodeState{"", reauth.CodeReceivedState, reauth.CodeMinted, reauth.CodeAdopted, reauth.CodeRefused, reauth.CodeLost,
		reauth.CodeWrongAccount, reauth.CodeUnusable, reauth.CodeQuarantined}
	for _, state := range states {
		for _, phase := range reauth.Phases() {
			for _, outcome := range append(reauth.Outcomes(), "") {
				v := result{now: time.Now(), hasCode: state != "", code: db.CodeRow{State: state, ReceivedAt: time.Now()},
					hasCase: true, kase: db.Case{Phase: phase, Outcome: outcome}, ticket: doneTicket{CodeHash: "h", At: time.Now()}}
				if !outcome.Restored() {
					require.NotContains(t, []verdict{verdictFixed, verdictWorks}, v.verdict(), "%s %s %s", state, phase, outcome)
				}
				require.NotEqual(t, verdictFixed, v.verdict())
			}
		}
	}
}

func TestDonePages(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	ctx := t.Context()
	secret := strings.TrimPrefix(link, "/r/")
	settle := func(n int, state reauth.CodeState) string {
		hash := reauth.CodeHash(fmt.Sprint("code-Hush-", n))
		_, _, err := f.db.ReceiveCode(ctx, hash, connID, "case-"+connID)
		require.NoError(t, err)
		if state != reauth.CodeReceivedState {
			require.NoError(t, f.db.SettleCode(ctx, hash, connID, "case-"+connID, state, 0))
		}
		ticket, err := f.keys.Mint(ticketDone, doneTicket{ConnectionID: connID, CodeHash: hash, Link: secret, At: f.clock()}, f.clock().Add(time.Hour))
		require.NoError(t, err)
		return "/done/" + ticket
	}
	tests := []struct {
		state   reauth.CodeState
		title   string
		refresh bool
		again   bool
	}{
		{reauth.CodeReceivedState, "We have your sign-in", true, false},
		{reauth.CodeMinted, "Checking the connection", true, false},
		{reauth.CodeAdopted, "Not confirmed yet", false, true}, // the case waits for the customer
		{reauth.CodeRecovered, "It works again", false, false},
		{reauth.CodeRefused, "The sign-in did not go through", false, true},
		{reauth.CodeLost, "One more click, please", false, true},
		{reauth.CodeWrongAccount, "That was another account", false, true},
		{reauth.CodeUnusable, "That is our fault", false, false},
		{reauth.CodeQuarantined, "This connection is no longer in use", false, false},
	}
	for i, test := range tests {
		t.Run(string(test.state), func(t *testing.T) {
			path := settle(i, test.state)
			before := f.rows()
			w := f.visit("GET", path)
			page := w.Body.String()
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, test.title, title(w))
			require.Equal(t, test.refresh, strings.Contains(page, `<meta http-equiv="refresh" content="2">`))
			require.Equal(t, test.again, strings.Contains(page, `href="/again/`))
			if test.state != reauth.CodeQuarantined {
				require.Contains(t, page, "Acme Ltd")
			}
			require.Equal(t, before, f.rows())
			require.Equal(t, http.StatusOK, f.visit("HEAD", path).Code)
		})
	}

	waiting := settle(0, reauth.CodeReceivedState)
	f.advance(slow + time.Second)
	page := f.visit("GET", waiting).Body.String()
	require.Contains(t, page, "you can close this page: we write to you if anything more is needed")
	require.Contains(t, page, `content="15"`)
	f.advance(stuck)
	require.Equal(t, "That is our fault", title(f.visit("GET", waiting)))
}

// What RedeemWorkflow found out about a code of an unknown connection is on
// its page.
func TestDoneOfARedeemedCode(t *testing.T) {
	f := newFixture(t)
	f.press(f.ready(connID))
	done := location(t, f.visit("GET", callbackURL("code-Hush-1", ""))).Path
	w := f.visit("GET", done)
	require.Equal(t, "We have your sign-in", title(w))
	require.Contains(t, w.Body.String(), "your company")
	require.NoError(t, f.db.SettleCode(t.Context(), reauth.CodeHash("code-Hush-1"), connID, "case-"+connID, reauth.CodeRecovered, 1))
	w = f.visit("GET", done)
	require.Equal(t, "It works again", title(w))
	require.Contains(t, w.Body.String(), "Acme Ltd")
}

func TestDoneTickets(t *testing.T) {
	f := newFixture(t)
	good, err := f.keys.Mint(ticketDone, doneTicket{ConnectionID: connID}, f.clock().Add(time.Hour))
	require.NoError(t, err)
	state, err := f.keys.Mint(ticketState, doneTicket{ConnectionID: connID}, f.clock().Add(time.Hour))
	require.NoError(t, err)
	old, err := f.keys.Mint(ticketDone, doneTicket{ConnectionID: connID}, f.clock())
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, f.visit("GET", "/done/"+good).Code)
	for name, ticket := range map[string]string{"another kind": state, "expired": old, "altered": good[:len(good)-2] + "AA", "junk": "x", "long": strings.Repeat("A", 9000)} {
		t.Run(name, func(t *testing.T) {
			w := f.visit("GET", "/done/"+ticket)
			require.Equal(t, http.StatusNotFound, w.Code)
			require.Equal(t, "This page is no longer here", title(w))
		})
	}
}

func TestDoneOfARemovedConnectionNamesNobody(t *testing.T) {
	f := newFixture(t)
	f.ready(connID)
	_, err := f.db.RemoveConnection(t.Context(), connID)
	require.NoError(t, err)
	ticket, err := f.keys.Mint(ticketDone, doneTicket{ConnectionID: connID, CodeHash: reauth.CodeHash("x"), At: f.clock()}, f.clock().Add(time.Hour))
	require.NoError(t, err)
	require.NotContains(t, f.visit("GET", "/done/"+ticket).Body.String(), "Acme")
}
