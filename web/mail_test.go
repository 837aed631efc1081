package web

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestMail(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	var v MailView
	f.api(200, "GET", "/v1/mail", nil, &v)
	require.Equal(t, "on", v.Mode)
	require.Empty(t, v.History)
	require.Nil(t, v.ChangedAt)

	f.api(200, "PUT", "/v1/mail", map[string]any{"ramp_per_hour": 50}, &v)
	f.api(200, "PUT", "/v1/mail", map[string]any{"mode": "stopped", "reason": "a wrong text"}, &v)
	f.api(200, "PUT", "/v1/mail", map[string]any{"mode": "stopped", "reason": "again"}, &v)
	require.Equal(t, "stopped", v.Mode)
	require.Equal(t, 50, v.RampPerHour, "what is absent stays")
	require.Equal(t, "key bootstrap", v.ChangedBy)
	require.Equal(t, "a wrong text", v.Reason)
	require.Len(t, v.History, 2, "what changes nothing is no change")
	require.Regexp(t, `^mail-2-[0-9a-f]{8}$`, v.History[0].WorkflowID)
	_, _, err := f.db.HoldMail(t.Context(), "case-1")
	require.NoError(t, err)
	f.api(200, "GET", "/v1/mail", nil, &v)
	require.Equal(t, MailWaiting{Stopped: 1}, v.Waiting)

	var c CaseDetail
	f.api(200, "GET", reportURL, nil, &c)
	require.Equal(t, "stopped", c.Mail)
	var list CaseList
	f.api(200, "GET", "/v1/cases?application=default", nil, &list)
	require.Equal(t, "stopped", list.Cases[0].Mail)
	f.api(200, "GET", "/v1/cases?system=Elsewhere", nil, &list)
	require.Empty(t, list.Cases)
	var h Health
	f.api(200, "GET", "/readyz", nil, &h, noKey)
	require.Equal(t, "stopped", h.Mail, "which is no reason not to be ready")
	require.Contains(t, f.visit("GET", "/").Body.String(), "Customer mail is stopped")
	metrics := f.do("GET", "/metrics", nil).Body.String()
	require.Contains(t, metrics, `reauth_mail_mode{mode="stopped"} 1`)
	require.Contains(t, metrics, `reauth_mail_mode{mode="on"} 0`)
	require.Contains(t, metrics, `reauth_mail_ramp 50`)
	require.Contains(t, metrics, `reauth_mail_waiting{why="stopped"} 1`)

	f.api(200, "PUT", "/v1/mail", map[string]any{"mode": "shadow", "ramp_per_hour": 0}, &v)
	require.Contains(t, f.visit("GET", "/").Body.String(), "Mail is in shadow")
	f.close("case-1", reauth.OutcomeExpired, "")
	f.api(200, "GET", reportURL, nil, &c)
	require.Empty(t, c.Mail)
}

func TestMailRefuses(t *testing.T) {
	f := newFixture(t)
	for name, test := range map[string]struct {
		body any
		want string
	}{
		"nothing":         {map[string]any{}, `body: must say what to change`},
		"a reason alone":  {map[string]any{"reason": "x"}, `body: must say what to change`},
		"an unknown mode": {map[string]any{"mode": "off"}, `body.mode: expected value to be one of "on, shadow, stopped"`},
		"a ramp below 0":  {map[string]any{"ramp_per_hour": -1}, "body.ramp_per_hour: expected number >= 0"},
		"two lines":       {map[string]any{"mode": "on", "reason": "a\nb"}, "body.reason: must be one line"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, f.problem(422, "PUT", "/v1/mail", test.body).Detail, test.want)
		})
	}
	f.problem(401, "PUT", "/v1/mail", map[string]any{"mode": "stopped"}, noKey)
	f.dbDown()
	f.problem(503, "PUT", "/v1/mail", map[string]any{"mode": "stopped"})
}

// The call that stops mail waits for what is on its way, and says what is left.
func TestMailOnItsWay(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	permit, err := f.db.BeginMail(t.Context(), db.Mail{
		Notice: db.Notice{CaseID: "case-1", Step: "after-0s", SessionOrdinal: 1, Recipient: f.contact(connID), Channel: db.ChannelMail, MessageID: "<1>"},
		At:     time.Now(),
	})
	require.NoError(t, err)
	require.True(t, permit.Granted)
	answered := make(chan MailView)
	go func() {
		var v MailView
		f.api(200, "PUT", "/v1/mail", map[string]any{"mode": "stopped"}, &v)
		answered <- v
	}()
	require.Eventually(t, func() bool {
		c, err := f.db.Mail(t.Context())
		return err == nil && c.Mode == reauth.MailStopped
	}, time.Minute, time.Millisecond)
	select {
	case <-answered:
		t.Fatal("it did not wait")
	default:
	}
	require.NoError(t, f.db.EndNotice(t.Context(), permit.ID, db.NoticeSent, ""))
	require.Zero(t, (<-answered).UnderWay)
}

func TestBulk(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	var b BulkView
	f.api(200, "POST", "/v1/cases:cancel", map[string]any{"provider": "finch", "reason": "they left", "dry_run": true}, &b)
	require.Equal(t, []any{"dry_run", 1, ""}, []any{b.State, b.Matched, b.BulkID})
	require.Zero(t, f.count("bulks"))
	until := f.clock().Add(72 * time.Hour).UTC().Truncate(time.Second)
	for path, body := range map[string]map[string]any{
		"cancel":  {"application": "default", "reason": "they left"},
		"stop":    {"all": true, "reason": "we phone them"},
		"release": {"system": "Gusto", "reason": "it is over"},
		"snooze":  {"phase": "blocked", "reason": "holidays", "until": until},
	} {
		b = BulkView{}
		f.api(202, "POST", "/v1/cases:"+path, body, &b)
		require.Equal(t, []any{path, "waiting", "key bootstrap"}, []any{b.Action, b.State, b.By})
		var again BulkView
		f.api(200, "GET", "/v1/bulk/"+b.BulkID, nil, &again)
		require.Equal(t, b, again)
	}
	var list BulkList
	f.api(200, "GET", "/v1/bulk", nil, &list)
	require.Len(t, list.Bulks, 4)
	f.problem(404, "GET", "/v1/bulk/none", nil)

	for name, test := range map[string]struct {
		path string
		body map[string]any
		want string
	}{
		"no filter":         {"cancel", map[string]any{"reason": "x"}, `or ask for every open one with {"all": true}`},
		"all and a filter":  {"cancel", map[string]any{"reason": "x", "all": true, "provider": "finch"}, "body.all: must be absent"},
		"no reason":         {"stop", map[string]any{"all": true}, "expected required property reason"},
		"a reason of lines": {"release", map[string]any{"all": true, "reason": "a\nb"}, "body.reason: must be one line"},
		"an unknown field":  {"release", map[string]any{"all": true, "reason": "x", "aplication": "y"}, "body.aplication: is not a field here; known are all, application"},
		"no time":           {"snooze", map[string]any{"all": true, "reason": "x"}, "expected required property until"},
		"the past":          {"snooze", map[string]any{"all": true, "reason": "x", "until": f.clock().Add(-time.Hour)}, "body.until: must be in the future"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, f.problem(422, "POST", "/v1/cases:"+test.path, test.body).Detail, test.want)
		})
	}
	require.Equal(t, http.StatusUnauthorized, f.do("POST", "/v1/cases:cancel", map[string]any{"all": true, "reason": "x"}, noKey).Code)
}

// Operators' pages say that mail does not go out, and which cases wait for it.
func TestOperatorsPagesSayThatMailIsStopped(t *testing.T) {
	f := newFixture(t, withSignIn(nil, true))
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	v := f.visitor()
	v.open(http.MethodPost, "/operator/sign-in", url.Values{"key": {apiKey}})
	require.NotContains(t, v.open(http.MethodGet, "/operator?show=all", nil).Body.String(), "Customer mail is stopped")
	f.api(200, "PUT", "/v1/mail", map[string]any{"mode": "stopped"}, nil)
	_, _, err := f.db.HoldMail(t.Context(), "case-1")
	require.NoError(t, err)
	page := v.open(http.MethodGet, "/operator?show=all", nil).Body.String()
	require.Contains(t, page, "Customer mail is stopped")
	require.Contains(t, page, "waiting for customer mail to be switched on again")
	require.Contains(t, v.open(http.MethodGet, "/operator/connections/"+connID, nil).Body.String(), "Customer mail is stopped")
}

// A key that is limited to an application has no part in what is about all of
// them.
func TestALimitedKeyStopsNothing(t *testing.T) {
	f := newFixture(t)
	limited := bearer(f.key(db.APIKey{Name: "payroll", Scopes: Scopes(), Application: "payroll"}))
	for _, call := range [][2]string{{"GET", "/v1/mail"}, {"PUT", "/v1/mail"}, {"POST", "/v1/cases:cancel"}, {"GET", "/v1/bulk"}} {
		require.Equal(t, http.StatusForbidden, f.do(call[0], call[1], map[string]any{"mode": "stopped"}, limited).Code, call)
	}
}
