package web

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// The customer's own success makes the provider say "connected" before the
// code is back: while a click is young, the open case is not told.
func TestWebhookConnectedAfterAClick(t *testing.T) {
	f := newFixture(t)
	f.press(f.ready(connID))
	f.advance(reauth.ClickGrace - time.Second)
	require.Equal(t, "held", f.obeyed("msg_1", accountUpdated("connected")))
	f.tellOnce()
	require.Empty(t, f.temporal.signals)

	f.advance(time.Second)
	f.temporal.down = true
	f.tellOnce()
	f.temporal.down = false
	f.tellOnce()
	require.Equal(t, []string{"restored " + connID}, f.temporal.signals, "no code came, so the case is told when the grace is over")
	f.tellOnce()
	require.Len(t, f.temporal.signals, 1, "once")
	require.Equal(t, "restored", f.obeyed("msg_2", accountUpdated("connected")))
	require.Len(t, f.temporal.signals, 2, "an old click holds nothing")
}

func (f *fixture) tellOnce() {
	Forwarder{DB: f.db, Keys: f.keys, Starter: f.temporal, Logger: f.config.Logger, Now: f.clock}.tellRestored(f.t.Context())
}

// A case that has closed meanwhile is told nothing, and is not asked about again.
func TestHeldRestoredOfAClosedCase(t *testing.T) {
	f := newFixture(t)
	f.press(f.ready(connID))
	require.Equal(t, "held", f.obeyed("msg_1", accountUpdated("connected")))
	f.close("case-"+connID, reauth.OutcomeRecovered, "")
	f.advance(reauth.ClickGrace)
	f.tellOnce()
	require.Empty(t, f.temporal.signals)
}

func TestOpenEmbedded(t *testing.T) {
	const path = reportURL + "/session"
	f := newFixture(t)
	f.problem(404, "POST", path, nil)
	f.register(connID)
	require.Contains(t, f.problem(409, "POST", path, nil).Detail, "has no open case")
	f.open(connID, "case-1", reauth.PhaseConfirming)
	require.Contains(t, f.problem(409, "POST", path, nil).Detail, "has no session just now, as it is confirming")
	expires := f.clock().Add(time.Hour).Truncate(time.Microsecond)
	f.session("case-1", connect, expires)
	require.Zero(t, f.count("clicks"), "what was refused is no click")

	var session EmbeddedSession
	f.api(http.StatusOK, "POST", path, nil, &session)
	require.Equal(t, EmbeddedSession{CaseID: "case-1", SessionID: "ses_1", ConnectURL: connect, ExpiresAt: expires}, session)
	last, err := f.db.LastClick(t.Context(), "case-1")
	require.NoError(t, err)
	require.WithinDuration(t, f.clock(), *last, time.Millisecond)

	f.advance(time.Hour)
	f.problem(409, "POST", path, nil)
	f.close("case-1", reauth.OutcomeExpired, "")
	f.problem(409, "POST", path, nil)
	require.Equal(t, 1, f.count("clicks"))

	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "tokens", hashAPIKey("key-Hush-tokens"), []string{ScopeTokens}))
	f.problem(403, "POST", path, nil, header("Authorization", "Bearer key-Hush-tokens"))
}

// A stale session of a case that was opened anew is nobody's.
func TestOpenEmbeddedUsesTheOpenCase(t *testing.T) {
	f := newFixture(t)
	f.ready(connID)
	f.close("case-"+connID, reauth.OutcomeExpired, "")
	f.advance(time.Second)
	_, err := f.db.OpenCase(t.Context(), db.Case{CaseID: "next", ConnectionID: connID, Source: reauth.SourceManual, OpenedAt: f.clock()})
	require.NoError(t, err)
	f.problem(409, "POST", reportURL+"/session", nil)
}
