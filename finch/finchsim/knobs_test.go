package finchsim_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// stale starts a simulator with one stale connection.
func stale(t *testing.T) (b bench, connectionID, token string) {
	t.Helper()
	b = start(t, config())
	conn, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID))
	return b, conn.ID, token
}

func (b bench) fault(t *testing.T, faults ...finchsim.Fault) {
	t.Helper()
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Faults = faults }))
}

func TestFaults(t *testing.T) {
	b, _, token := stale(t)
	introspect := func() error {
		_, err := b.Client.Introspect(t.Context(), token)
		return err
	}
	b.fault(t,
		finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultRateLimit, Times: 2, RetryAfter: finchsim.Duration(30 * time.Second)},
		finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultRateLimit},
		finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultServerError},
		finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultAnswer, Status: 401, Body: `{"message":"Unauthorized"}`},
		finchsim.Fault{Endpoint: "*", Kind: finchsim.FaultDrop},
	)
	for range 2 {
		e := asError(t, introspect())
		assert.True(t, e.IsRateLimited())
		assert.Equal(t, 30*time.Second, e.RetryAfter)
		assert.Equal(t, "finch_application_rl", e.FinchCode)
	}
	assert.Zero(t, asError(t, introspect()).RetryAfter)
	assert.Equal(t, 500, asError(t, introspect()).Status)
	e := asError(t, introspect())
	assert.Equal(t, 401, e.Status)
	assert.Empty(t, e.Name)
	_, err := b.Client.Exchange(t.Context(), "some-code", callback)
	require.ErrorIs(t, err, finch.ErrNoAnswer)
	require.NoError(t, introspect(), "all faults are used up")
	assert.Empty(t, b.Knobs().Faults)

	b.fault(t, finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultServerError, Times: -1})
	for range 3 {
		assert.Equal(t, 500, asError(t, introspect()).Status)
	}
	b.fault(t)
	require.NoError(t, introspect())
	assert.Equal(t, 10, b.Counters().Calls["GET /introspect"])
}

// A code whose answer was lost is consumed, and its token was minted.
func TestALostAnswer(t *testing.T) {
	b, connectionID, _ := stale(t)
	code := b.code(t, connectionID)
	before := b.Counters().TokensMinted
	b.fault(t, finchsim.Fault{Endpoint: "POST /auth/token", Kind: finchsim.FaultLost})
	_, err := b.Client.Exchange(t.Context(), code, callback)
	require.ErrorIs(t, err, finch.ErrNoAnswer)
	assert.Equal(t, before+1, b.Counters().TokensMinted)
	_, err = b.Client.Exchange(t.Context(), code, callback)
	assert.True(t, asError(t, err).IsInvalidGrant())
	assert.Equal(t, 2, b.Counters().Exchanges[reauth.CodeHash(code)])
	assert.Equal(t, before+1, b.Counters().TokensMinted)
}

// A call that was dropped did nothing.
func TestADroppedCall(t *testing.T) {
	b, connectionID, _ := stale(t)
	code := b.code(t, connectionID)
	b.fault(t, finchsim.Fault{Endpoint: "POST /auth/token", Kind: finchsim.FaultDrop})
	_, err := b.Client.Exchange(t.Context(), code, callback)
	require.ErrorIs(t, err, finch.ErrNoAnswer)
	_, err = b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
}

func TestNoAnswerComes(t *testing.T) {
	b, connectionID, _ := stale(t)
	code := b.code(t, connectionID)
	for name, prepare := range map[string]func(*finchsim.Knobs){
		"timeout": func(k *finchsim.Knobs) {
			k.Faults = []finchsim.Fault{{Endpoint: "POST /auth/token", Kind: finchsim.FaultTimeout}}
		},
		"latency": func(k *finchsim.Knobs) {
			k.Latency = map[string]finchsim.Duration{"POST /auth/token": finchsim.Duration(time.Hour)}
		},
		"latency everywhere": func(k *finchsim.Knobs) { k.Latency = map[string]finchsim.Duration{"*": finchsim.Duration(time.Hour)} },
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, b.SetKnobs(prepare))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := b.Client.Exchange(ctx, code, callback)
			require.ErrorIs(t, err, finch.ErrNoAnswer)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 200, b.control(t, "DELETE", "/sim/knobs", "", nil))
		})
	}
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) {
		k.Latency = map[string]finchsim.Duration{"*": finchsim.Duration(time.Hour), "POST /auth/token": finchsim.Duration(time.Millisecond)}
	}))
	_, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err, "the endpoint's own latency counts; nothing was consumed before")
}

// Close lets go of callers whom a fault keeps waiting.
func TestCloseEndsWaiting(t *testing.T) {
	b, _, token := stale(t)
	b.fault(t, finchsim.Fault{Endpoint: "GET /introspect", Kind: finchsim.FaultTimeout})
	ended := make(chan error)
	go func() {
		_, err := b.Client.Introspect(t.Context(), token)
		ended <- err
	}()
	require.Eventually(t, func() bool { return b.Counters().Calls["GET /introspect"] == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-ended, finch.ErrNoAnswer)
}

func TestOldTokens(t *testing.T) {
	b, connectionID, old := stale(t)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.OldTokenDies = true }))
	code := b.code(t, connectionID)
	assert.Equal(t, "connected", b.status(t, old), "the old token lives until the new one is minted")
	token, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
	_, err = b.Client.Introspect(t.Context(), old)
	assert.True(t, asError(t, err).IsInvalidToken())
	assert.Equal(t, "connected", b.status(t, token.AccessToken))
}

func TestIntrospectionOfAStaleConnection(t *testing.T) {
	b, connectionID, token := stale(t)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.IntrospectUnauthorized = true }))
	_, err := b.Client.Introspect(t.Context(), token)
	assert.True(t, asError(t, err).IsReauth())
	require.NoError(t, b.Restore(connectionID))
	assert.Equal(t, "connected", b.status(t, token))
}

func TestVerificationTakesTime(t *testing.T) {
	b, connectionID, old := stale(t)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.VerifyPending = 2 }))
	code := b.code(t, connectionID)
	assert.Equal(t, "connected", b.status(t, old), "it begins with the exchange")
	token, err := b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)
	for range 2 {
		require.ErrorIs(t, b.Client.Company(t.Context(), token.AccessToken), finch.ErrPending)
		assert.Equal(t, "processing", b.status(t, token.AccessToken))
	}
	assert.Equal(t, "connected", b.status(t, token.AccessToken))
	require.NoError(t, b.Client.Company(t.Context(), token.AccessToken))
}

func TestSessions(t *testing.T) {
	b, connectionID, _ := stale(t)
	first, second := b.reauthenticate(t, connectionID), b.reauthenticate(t, connectionID)
	for _, s := range []finch.Session{first, second} {
		_, err := b.CompleteConnect(s.ID, finchsim.SameAccount)
		require.NoError(t, err, "sessions live beside each other")
	}
	_, err := b.CompleteConnect(first.ID, finchsim.SameAccount)
	require.ErrorIs(t, err, finchsim.ErrSessionOver)

	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.SessionReusable = true }))
	again, err := b.CompleteConnect(first.ID, finchsim.SameAccount)
	require.NoError(t, err)
	_, err = b.Client.Exchange(t.Context(), again, callback)
	require.NoError(t, err)

	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.SessionSupersededByNewer = true }))
	older := b.reauthenticate(t, connectionID)
	newer := b.reauthenticate(t, connectionID)
	_, err = b.CompleteConnect(older.ID, finchsim.SameAccount)
	require.ErrorIs(t, err, finchsim.ErrSessionOver)
	_, err = b.CompleteConnect(newer.ID, finchsim.SameAccount)
	require.NoError(t, err)
	require.Len(t, b.Sessions(connectionID), 4)
}

// Knobs over HTTP: those that are named change, the others stay.
func TestKnobsOverHTTP(t *testing.T) {
	b := start(t, config())
	var k finchsim.Knobs
	require.Equal(t, 200, b.control(t, "GET", "/sim/knobs", "", &k))
	assert.Equal(t, finchsim.DefaultKnobs(), k)
	assert.True(t, k.EchoState && k.Webhooks)

	require.Equal(t, 200, b.control(t, "PUT", "/sim/knobs", `{"old_token_dies":true,"latency":{"GET /introspect":"5ms"},
		"faults":[{"endpoint":"GET /introspect","kind":"answer","status":503,"times":4,"body":"x"}],"webhook_delay":"2s"}`, nil))
	k = finchsim.Knobs{}
	require.Equal(t, 200, b.control(t, "PUT", "/sim/knobs", `{"echo_state":false}`, &k))
	assert.Equal(t, finchsim.Knobs{
		OldTokenDies: true, Webhooks: true, WebhookDelay: finchsim.Duration(2 * time.Second),
		Latency: map[string]finchsim.Duration{"GET /introspect": finchsim.Duration(5 * time.Millisecond)},
		Faults:  []finchsim.Fault{{Endpoint: "GET /introspect", Kind: "answer", Status: 503, Times: 4, Body: "x"}},
	}, k)
	k = finchsim.Knobs{}
	require.Equal(t, 200, b.control(t, "PUT", "/sim/knobs", `{"faults":[{"endpoint":"*","kind":"drop"}]}`, &k))
	assert.Equal(t, []finchsim.Fault{{Endpoint: "*", Kind: "drop"}}, k.Faults, "faults are replaced as a whole")
	require.Equal(t, 200, b.control(t, "PUT", "/sim/knobs", `{"faults":[]}`, nil))

	before := b.Knobs()
	for _, body := range []string{
		`{"old_token_lives":true}`, `{"echo_state":1}`, `{`, `[]`, `{"webhook_delay":5}`, `{"webhook_delay":"-5s"}`, `{"verify_pending":-1}`,
		`{"latency":{"GET /nowhere":"1s"}}`, `{"latency":{"*":"-1s"}}`, `{"faults":[{"endpoint":"*","kind":"flood"}]}`,
		`{"faults":[{"endpoint":"POST /nowhere","kind":"drop"}]}`, `{"faults":[{"endpoint":"*","kind":"answer"}]}`,
		`{"faults":[{"endpoint":"*","kind":"drop","times":-2}]}`, `{"echo_state":true,"webhook_delay":"soon"}`,
	} {
		var problem struct{ Error string }
		assert.Equal(t, 400, b.control(t, "PUT", "/sim/knobs", body, &problem), body)
		assert.NotEmpty(t, problem.Error)
		assert.Equal(t, before, b.Knobs(), "nothing of a request with an error counts")
	}
	k = finchsim.Knobs{}
	require.Equal(t, 200, b.control(t, "DELETE", "/sim/knobs", "", &k))
	assert.Equal(t, finchsim.DefaultKnobs(), k)
}

// A limit counts what succeeded within a rolling window, each endpoint for
// itself, and the simulator's clock ends it.
func TestLimits(t *testing.T) {
	b, _, token := stale(t)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) {
		k.Limits = map[string]finchsim.Limit{
			"*":                     {Calls: 2, Window: finchsim.Duration(time.Minute), RetryAfter: true},
			"GET /employer/company": {Calls: 1, Window: finchsim.Duration(time.Hour)},
		}
	}))
	introspect := func(token string) error {
		_, err := b.Client.Introspect(t.Context(), token)
		return err
	}
	for range 5 {
		assert.True(t, asError(t, introspect("nobody's")).IsInvalidToken(), "failures do not count")
	}
	require.NoError(t, introspect(token))
	_, err := b.Advance(20 * time.Second)
	require.NoError(t, err)
	require.NoError(t, introspect(token))
	refused := asError(t, introspect(token))
	assert.Equal(t, 429, refused.Status)
	assert.Equal(t, "finch_application_rl", refused.FinchCode)
	assert.LessOrEqual(t, refused.RetryAfter, 40*time.Second)
	assert.Positive(t, refused.RetryAfter)
	_, err = b.Advance(refused.RetryAfter)
	require.NoError(t, err)
	require.NoError(t, introspect(token), "the first one has left the window")
	assert.True(t, asError(t, introspect(token)).IsRateLimited())

	require.NoError(t, b.Restore(b.Connections()[0].ID))
	require.NoError(t, b.Client.Company(t.Context(), token))
	assert.Zero(t, asError(t, b.Client.Company(t.Context(), token)).RetryAfter, "the knob does not say when")
	assert.Equal(t, map[string]int{"GET /introspect": 2, "GET /employer/company": 1}, b.Counters().Limited)

	for _, wrong := range []finchsim.Limit{{Calls: 0, Window: 1}, {Calls: 1}} {
		require.ErrorIs(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Limits = map[string]finchsim.Limit{"*": wrong} }), finchsim.ErrInvalid)
	}
	require.ErrorIs(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Limits = map[string]finchsim.Limit{"GET /nowhere": {Calls: 1, Window: 1}} }), finchsim.ErrInvalid)
}
