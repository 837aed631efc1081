package web

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const reportURL = connectionURL + "/reauth"

func TestReport(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	body := map[string]any{"source": "api_error", "finch_code": "reauthenticate_user", "reason": "GET /employer/directory", "minutes_to_expire": 60, "renewals": 0, "reminders": []string{"0s", "2d"}, "campaign": "gentle"}
	var first, second ReportResult
	f.api(http.StatusAccepted, "POST", reportURL, body, &first)
	require.Equal(t, "case-"+connID, first.CaseID)
	require.Equal(t, "reauth-"+connID, first.WorkflowID)
	require.True(t, *first.Created)
	require.Equal(t, "confirming", first.Phase)
	require.NoError(t, f.db.SetPhase(t.Context(), first.CaseID, reauth.PhaseBlocked, ""))
	f.api(http.StatusAccepted, "POST", reportURL, body, &second)
	require.Equal(t, first.CaseID, second.CaseID)
	require.False(t, *second.Created)
	require.Equal(t, "blocked", second.Phase)

	zero := 0
	require.Equal(t, reauth.Input{
		ConnectionID: connID, Provider: reauth.Finch, Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user", Reason: "GET /employer/directory",
		MinutesToExpire: 60, Renewals: &zero, Reminders: []string{"0s", "2d"}, Campaign: "gentle",
	}, f.temporal.reports[0])
}

func TestReportRefusesBadInput(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: "gone"})
	require.NoError(t, err)
	_, err = f.db.RemoveConnection(t.Context(), "gone")
	require.NoError(t, err)
	good := func(field string, value any) map[string]any { return map[string]any{"source": "manual", field: value} }
	tests := []struct {
		name, path string
		body       any
		status     int
		want       string
	}{
		{"unknown connection", "/v1/connections/nobody/reauth", good("reason", "x"), 404, "PUT /v1/connections/nobody registers it"},
		{"removed connection", "/v1/connections/gone/reauth", good("reason", "x"), 404, "was removed. PUT /v1/connections/gone registers it again"},
		{"no source", "", map[string]any{}, 422, "body: expected required property source to be present"},
		{"unknown source", "", good("source", "rumour"), 422, `body.source: expected value to be one of "api_error, webhook, sweep, manual, consent_expiry, link"`},
		{"another connection", "", good("connection_id", "b"), 422, "body.connection_id: must be the connection_id of the path"},
		{"another provider", "", good("provider", "atto"), 422, "body.provider: expected value to be one of"},
		{"a token for a fingerprint", "", good("token_fingerprint", "token-Hush"), 422, "body.token_fingerprint: expected string to be the first 16 bytes of the token's SHA-256"},
		{"too long a session", "", good("minutes_to_expire", 200000), 422, "body.minutes_to_expire: expected number <= 129600"},
		{"a broken session", "", good("minutes_to_expire", "1h"), 422, "body.minutes_to_expire: expected integer"},
		{"a third of a session", "", good("minutes_to_expire", 0.3), 422, "body.minutes_to_expire: expected integer"},
		{"too many renewals", "", good("renewals", 25), 422, "body.renewals: expected number <= 24"},
		{"bad redirect_uri", "", good("redirect_uri", "reauth.example.com/cb"), 422, "redirect_uri must be an absolute http or https URL"},
		{"bad reminder", "", good("reminders", []string{"0s", "soon"}), 422, "reminders[1] must be a duration"},
		{"a campaign that cannot be", "", good("campaign", "a b"), 422, "body.campaign: the name of a campaign must be 1 to 64 letters"},
		{"long reason", "", good("reason", strings.Repeat("x", 1001)), 422, "body.reason: expected length <= 1000"},
		{"unknown field", "", good("code", "code-Hush"), 422, "body.code: is not a field here; known are campaign, connection_id, finch_code"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.path
			if path == "" {
				path = reportURL
			}
			require.Contains(t, f.problem(test.status, "POST", path, test.body).Detail, test.want)
		})
	}
	require.Empty(t, f.temporal.reports)
}

func (f *fixture) adopt(token string) {
	f.t.Helper()
	s := &server{Config: f.config}
	_, err := f.db.Adopt(f.t.Context(), db.Adoption{
		ConnectionID: connID, Fingerprint: reauth.Fingerprint(token), Source: "test", MintedAt: f.clock(),
		Seal: func(generation int64) ([]byte, error) {
			return s.Keys.Seal([]byte(token), db.TokenBound(connID, generation)...)
		},
	})
	require.NoError(f.t, err)
	f.advance(time.Second)
}

func TestReportOfASupersededToken(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.adopt("token-Hush-1")
	f.adopt("token-Hush-2")
	report := func(token string) (r ReportResult, status int) {
		w := f.do("POST", reportURL, map[string]any{"source": "api_error", "token_fingerprint": reauth.Fingerprint(token)})
		f.api(w.Code, "POST", reportURL, map[string]any{"source": "api_error", "token_fingerprint": reauth.Fingerprint(token)}, &r)
		return r, w.Code
	}
	r, status := report("token-Hush-1")
	require.Equal(t, 200, status)
	require.Equal(t, ReportResult{TokenSuperseded: true, Generation: 2}, r)
	require.Empty(t, f.temporal.reports, "an old token's failure opens nothing")

	r, status = report("token-Hush-2")
	require.Equal(t, 202, status, "the current token's does")
	require.NotEmpty(t, r.CaseID)
	_, status = report("token-Hush-unknown")
	require.Equal(t, 202, status, "and so does one that we never stored")
}

func TestReportDuringTheCoolDown(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	for _, outcome := range []reauth.Outcome{reauth.OutcomeExpired, reauth.OutcomeCancelled, reauth.OutcomeFailed} {
		caseID := "case-" + string(outcome)
		f.open(connID, caseID, reauth.PhaseAwaitingCustomer)
		f.close(caseID, outcome, "")
		for _, source := range []string{"api_error", "webhook", "sweep"} {
			var r ReportResult
			f.api(200, "POST", reportURL, map[string]any{"source": source}, &r)
			require.True(t, r.Suppressed)
			require.Equal(t, string(outcome), r.Reason)
			require.WithinDuration(t, f.clock().Add(30*24*time.Hour), *r.Until, time.Second)
		}
		f.advance(time.Second)
	}
	require.Empty(t, f.temporal.reports)

	var r ReportResult
	f.temporal.idle = true
	f.api(202, "POST", reportURL, map[string]any{"source": "manual"}, &r)
	require.Zero(t, f.count("suppressions"), "a person lifts the suppression, whether or not a worker runs")
	f.temporal.idle = false
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, &r)
	require.True(t, *r.Created)
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, &r)
	require.False(t, *r.Created, "and machines join the open case")
}

// A case that something else opened during the cool-down is joined.
func TestReportJoinsACaseInTheCoolDown(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.close("case-1", reauth.OutcomeCancelled, "")
	f.advance(time.Second)
	f.open(connID, "case-2", reauth.PhaseAwaitingCustomer)
	var r ReportResult
	f.api(202, "POST", reportURL, map[string]any{"source": "sweep"}, &r)
	require.Equal(t, "case-2", r.CaseID)
	require.Equal(t, "awaiting_customer", r.Phase)
}

func TestReportWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.temporal.down = true
	w := f.do("POST", reportURL, map[string]any{"source": "api_error"})
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "5", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "Nothing is lost if you repeat the call")
	f.temporal.down = false
	f.api(202, "POST", reportURL, map[string]any{"source": "api_error"}, nil)
}

func TestManyReportsAtOnce(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			w := f.do("POST", reportURL, map[string]any{"source": "api_error"})
			if w.Code != http.StatusAccepted {
				t.Errorf("status %d: %s", w.Code, w.Body.String())
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, f.count("cases"))
}

func TestGetCase(t *testing.T) {
	f := newFixture(t)
	require.Contains(t, f.problem(404, "GET", reportURL, nil).Detail, "is not registered")
	link := f.register(connID)
	require.Contains(t, f.problem(404, "GET", reportURL, nil).Detail, "POST "+reportURL+" opens one")

	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	next := f.clock().Add(48 * time.Hour).Truncate(time.Microsecond)
	require.NoError(t, f.db.SetSchedule(t.Context(), "case-1", db.Schedule{At: &next, Step: "second", NoticesSent: 2}))
	require.NoError(t, f.db.SetCampaign(t.Context(), "case-1", "gentle"))
	var c CaseDetail
	f.api(200, "GET", reportURL, nil, &c)
	require.Equal(t, "case-1", c.CaseID)
	require.Equal(t, "awaiting_customer", c.Phase)
	require.Empty(t, c.Outcome)
	require.Equal(t, "ses_1", c.Session.ID)
	require.Equal(t, connect, c.Session.ConnectURL)
	require.Equal(t, c.SessionExpiresAt, c.Session.ExpiresAt)
	require.True(t, next.Equal(*c.NextNoticeAt))
	require.Equal(t, 2, c.NoticesSent)
	require.Equal(t, "second", c.NextStep)
	require.Equal(t, "gentle", c.Campaign)
	require.False(t, c.HeldByStorm)
	require.Empty(t, c.Notices)
	require.Equal(t, publicURL+link, c.Link)
	require.Equal(t, "opened", c.Timeline[0].Kind)
	require.Equal(t, "reauth-"+connID, c.WorkflowID)

	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "reports", hashAPIKey("key-Hush-reports"), []string{ScopeReports}))
	w := f.api(200, "GET", reportURL, nil, &c, header("Authorization", "Bearer key-Hush-reports"))
	require.Empty(t, c.Link, "only operators see the customer's link")
	f.checkHidden("case", w.Body.String())

	f.close("case-1", reauth.OutcomeHealed, "")
	f.api(200, "GET", reportURL, nil, &c)
	require.Equal(t, "healed", c.Outcome)
	require.Nil(t, c.Session)
	require.Nil(t, c.NextNoticeAt)
	require.NotNil(t, c.ClosedAt)
}

func TestGetCaseWithoutRecipients(t *testing.T) {
	f := newFixture(t)
	_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: connID})
	require.NoError(t, err)
	f.open(connID, "case-1", reauth.PhaseConfirming)
	var c CaseDetail
	f.api(200, "GET", reportURL, nil, &c)
	require.Empty(t, c.Link)
	require.Nil(t, c.Session)
}

// The ledger says who was told, and a storm shows.
func TestGetCaseWithItsNotices(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.register("other")
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.open("other", "case-2", reauth.PhaseAwaitingCustomer)
	begin := func(caseID, connectionID, step, recipient, channel string) int64 {
		t.Helper()
		if recipient == "" {
			recipient = f.contact(connectionID)
		}
		id, permit, _, err := f.db.BeginNotice(t.Context(), db.Notice{CaseID: caseID, Step: step, Recipient: recipient, Channel: channel})
		require.NoError(t, err)
		require.True(t, permit)
		return id
	}
	refused := begin("case-1", connID, "first", "", db.ChannelMail)
	require.NoError(t, f.db.EndNotice(t.Context(), refused, db.NoticeRefused, "550 no such user"))
	lead := begin("case-2", "other", "first", "", db.ChannelMail)
	along := begin("case-1", connID, "second", "", db.ChannelMail)
	f.sql(`UPDATE notices SET lead_id = $1 WHERE notice_id = $2`, lead, along)
	require.NoError(t, f.db.EndNotice(t.Context(), lead, db.NoticeSent, ""))
	begin("case-1", connID, "third", db.RecipientOperator, db.ChannelChat)

	var c CaseDetail
	w := f.api(200, "GET", reportURL, nil, &c)
	f.checkHidden("case", strings.ReplaceAll(w.Body.String(), c.Link, ""))
	rows, err := f.db.NoticesOf(t.Context(), "case-1")
	require.NoError(t, err)
	require.Equal(t, []NoticeView{
		{Step: "first", Recipient: f.contact(connID), Channel: "mail", State: "refused", At: *rows[0].EndedAt, Detail: "550 no such user"},
		{Step: "second", Recipient: f.contact(connID), Channel: "mail", State: "sent", At: *rows[1].EndedAt, WithOthers: true},
		{Step: "third", Recipient: "operator", Channel: "chat", State: "sending", At: rows[2].BegunAt},
	}, c.Notices)

	f.sql(`INSERT INTO storms (storm_id, provider, broken, connections, began_at, ends_at) VALUES ('storm-1', 'finch', 9, 9, now(), now() + interval '1 h')`)
	f.sql(`UPDATE cases SET storm_id = 'storm-1' WHERE case_id = 'case-1'`)
	var l CaseList
	held := func() (held []string) {
		f.api(200, "GET", "/v1/cases", nil, &l)
		for _, c := range l.Cases {
			if c.HeldByStorm {
				held = append(held, c.CaseID)
			}
		}
		return held
	}
	require.Equal(t, []string{"case-1"}, held())
	f.sql(`UPDATE storms SET ended_at = now(), ended_how = 'over'`)
	require.Empty(t, held())
}

func TestListCases(t *testing.T) {
	f := newFixture(t)
	for i := range 5 {
		id := fmt.Sprintf("conn-%d", i)
		f.register(id)
		f.open(id, fmt.Sprintf("case-%d", i), reauth.PhaseAwaitingCustomer)
		f.advance(time.Second)
	}
	f.close("case-1", reauth.OutcomeExpired, "")
	ids := func(path string) (ids []string, next string) {
		var l CaseList
		f.api(200, "GET", path, nil, &l)
		for _, c := range l.Cases {
			ids = append(ids, c.CaseID)
		}
		return ids, l.NextCursor
	}
	page, next := ids("/v1/cases?limit=3")
	require.Equal(t, []string{"case-4", "case-3", "case-2"}, page)
	page, next = ids("/v1/cases?limit=3&cursor=" + next)
	require.Equal(t, []string{"case-1", "case-0"}, page)
	require.Empty(t, next)
	page, _ = ids("/v1/cases?outcome=expired")
	require.Equal(t, []string{"case-1"}, page)
	page, _ = ids("/v1/cases?phase=awaiting_customer&provider=finch")
	require.Len(t, page, 4)

	require.Contains(t, f.problem(422, "GET", "/v1/cases?phase=open", nil).Detail, "query.phase: expected value to be one of")
	require.Contains(t, f.problem(422, "GET", "/v1/cases?outcome=won", nil).Detail, "query.outcome")
	require.Contains(t, f.problem(422, "GET", "/v1/cases?cursor=Hush", nil).Detail, "query.cursor")
}

func TestGetToken(t *testing.T) {
	f := newFixture(t)
	f.problem(404, "GET", connectionURL+"/token", nil)
	f.register(connID)
	require.Contains(t, f.problem(404, "GET", connectionURL+"/token", nil).Detail, "No token of the connection is stored")
	f.adopt("token-Hush-1")
	f.adopt("token-Hush-2")
	var token TokenView
	w := f.api(200, "GET", connectionURL+"/token", nil, &token)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "token-Hush-2", token.AccessToken)
	require.EqualValues(t, 2, token.Generation)
	require.Equal(t, reauth.Fingerprint("token-Hush-2"), token.Fingerprint)

	setting, err := secrets.Generate()
	require.NoError(t, err)
	*f.keys = *load(t, setting)
	p := f.problem(500, "GET", connectionURL+"/token", nil)
	require.Contains(t, p.Detail, "X-Request-Id", "a token that our keys do not open is our fault")
}

func load(t *testing.T, setting string) *secrets.Keys {
	t.Helper()
	keys, err := secrets.Load(setting)
	require.NoError(t, err)
	return keys
}
