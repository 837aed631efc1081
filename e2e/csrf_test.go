package e2e

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// 3: an attacker who is a customer too has a valid code of their own, and makes a
// victim's browser, which is on its way to Connect, open the callback with it.
// Nothing of the victim's changes, and their own sign-in still works.
func TestAnAttackersCodeInAVictimsBrowser(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newStack(t)
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks, k.SessionReusable = false, true })
	victim, attacker := s.stale(), s.register(reauth.Contact{Email: "eve@attacker.example", Name: "Eve"})
	require.NoError(t, s.sim.Break(attacker.id))
	s.report(victim, nil)
	s.report(attacker, nil)
	s.awaitPhase(victim, reauth.PhaseAwaitingCustomer)
	s.awaitPhase(attacker, reauth.PhaseAwaitingCustomer)
	b, eve := s.browser(), s.browser()
	connect := s.toConnect(b, s.link())
	var eves string
	s.eventually("Eve has a mail", func() bool {
		for _, m := range s.mails("eve@attacker.example") {
			for _, l := range m.Links {
				if strings.HasPrefix(l, s.url+"/r/") {
					eves = l
				}
			}
		}
		return eves != ""
	})
	state := s.toConnect(eve, eves).url.Query().Get("state")
	require.NotEmpty(t, state)
	evesCode := func() string {
		code, err := s.sim.CompleteConnect(s.status(attacker).SessionID, finchsim.SameAccount)
		require.NoError(t, err)
		return code
	}
	generation := func(c customer) int64 {
		token, err := s.db.CurrentToken(ctx, c.id)
		require.NoError(t, err)
		return token.Generation
	}

	// With the victim's cookie alone the code reaches the victim's case, and there
	// its token is seen to be another connection's.
	p := s.settle(b, b.get(s.url+"/callback?code="+url.QueryEscape(evesCode())))
	assert.Equal(t, http.StatusOK, p.status)
	assert.NotContains(t, heading(p), "works again")
	s.eventually("the token is kept aside", func() bool {
		return len(rowsOf(t, s.dbURL, "quarantined_tokens")) == 1
	})
	assert.Equal(t, int64(1), generation(victim), "nothing was adopted")
	assert.Equal(t, int64(1), generation(attacker))
	s.awaitPhase(victim, reauth.PhaseAwaitingCustomer)

	// With the attacker's own state it is the attacker's own sign-in, whoever's
	// browser brings it.
	before := s.status(victim)
	s.settle(b, b.get(s.url+"/callback?code="+url.QueryEscape(evesCode())+"&state="+url.QueryEscape(state)))
	assert.Equal(t, reauth.OutcomeRecovered, s.result(attacker).Outcome)
	assert.Equal(t, int64(1), generation(victim))
	assert.Equal(t, before.CaseID, s.status(victim).CaseID)
	_, err := s.db.OpenCaseOf(ctx, victim.id)
	require.NoError(t, err, "the victim's case is open")

	// And the victim's own sign-in still works, in the tab that was open all along
	// or, where the session is another by now, by the link.
	p = b.press(connect, "authorize")
	if !strings.HasPrefix(p.url.String(), s.url) {
		p = b.press(s.toConnect(b, s.link()), "authorize")
	}
	s.settle(b, p)
	assert.Equal(t, reauth.OutcomeRecovered, s.result(victim).Outcome)
	assert.True(t, s.apiWorks(victim))
	_, err = s.db.OpenCaseOf(ctx, victim.id)
	require.True(t, errors.Is(err, db.ErrNotFound))
}

// rowsOf reads a table, a row in JSON each.
func rowsOf(t *testing.T, address, table string) (rows []string) {
	t.Helper()
	conn, err := sql.Open("postgres", address)
	require.NoError(t, err)
	defer conn.Close()
	found, err := conn.Query(`SELECT row_to_json(t)::text FROM "` + table + `" t`)
	require.NoError(t, err)
	defer found.Close()
	for found.Next() {
		var row string
		require.NoError(t, found.Scan(&row))
		rows = append(rows, row)
	}
	require.NoError(t, found.Err())
	return rows
}
