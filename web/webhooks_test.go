package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// event posts a signed event.
func (f *fixture) event(id, body string, change ...option) *httptest.ResponseRecorder {
	f.t.Helper()
	signed := finch.SignWebhook(webhookSecret, id, f.clock(), []byte(body))
	return f.do("POST", "/webhooks/finch", body, append([]option{noKey, func(r *http.Request) {
		for name, values := range signed {
			r.Header[name] = values
		}
	}}, change...)...)
}

func accountUpdated(status string) string {
	return `{"company_id":"c","connection_id":"` + connID + `","entity_id":null,"event_type":"account.updated","data":{"status":"` + status + `","authentication_method":"credential"}}`
}

func TestWebhookEvents(t *testing.T) {
	tests := []struct {
		name, body, result string
		reports            int
		signals            []string
		status             reauth.ConnectionStatus
	}{
		{"reauth", accountUpdated("reauth"), "reported", 1, nil, reauth.StatusStale},
		{"its older name", accountUpdated("error_reauth"), "reported", 1, nil, reauth.StatusStale},
		{"connected", accountUpdated("connected"), "restored", 0, []string{"restored " + connID}, reauth.StatusConnected},
		{"disconnected", accountUpdated("disconnected"), "disconnected", 0, []string{"restored " + connID}, reauth.StatusDisconnected},
		{"one entity reauth", strings.Replace(accountUpdated("reauth"), "null", `"e"`, 1), "reported", 1, nil, reauth.StatusStale},
		{"one entity connected", strings.Replace(accountUpdated("connected"), "null", `"e"`, 1), "ignored", 0, nil, reauth.StatusConnected},
		{"one entity disconnected", strings.Replace(accountUpdated("disconnected"), "null", `"e"`, 1), "ignored", 0, nil, reauth.StatusConnected},
		{"processing", accountUpdated("processing"), "ignored", 0, nil, reauth.StatusConnected},
		{"a status to come", accountUpdated("on_holiday"), "ignored", 0, nil, reauth.StatusConnected},
		{"a test event", `{"event_type":"test","data":{}}`, "ignored", 0, nil, reauth.StatusConnected},
		{"a job", `{"event_type":"job.data_sync_all.completed","connection_id":"` + connID + `","data":{"job_id":"j"}}`, "ignored", 0, nil, reauth.StatusConnected},
		{"another connection", strings.Replace(accountUpdated("reauth"), connID, "nobody", 1), "ignored", 0, nil, reauth.StatusConnected},
		{"without a connection", `{"event_type":"account.updated","data":{"status":"reauth"}}`, "ignored", 0, nil, reauth.StatusConnected},
		{"an odd connection", strings.Replace(accountUpdated("reauth"), connID, "../x", 1), "ignored", 0, nil, reauth.StatusConnected},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			f.register(connID)
			w := f.event("msg_1", test.body)
			require.Equal(t, http.StatusOK, w.Code, w.Body.String())
			require.JSONEq(t, `{"result":"`+test.result+`"}`, w.Body.String())
			require.Len(t, f.temporal.reports, test.reports)
			for _, in := range f.temporal.reports {
				require.Equal(t, reauth.SourceWebhook, in.Source)
				require.Equal(t, "reauthenticate_user", in.FinchCode)
			}
			require.Equal(t, test.signals, f.temporal.signals)
			c, err := f.db.Connection(t.Context(), connID)
			require.NoError(t, err)
			require.Equal(t, test.status, c.Status)

			// The same event again changes nothing.
			reports, rows := len(f.temporal.reports), f.rows()
			w = f.event("msg_1", test.body)
			require.JSONEq(t, `{"result":"repeated"}`, w.Body.String())
			require.Equal(t, http.StatusOK, w.Code)
			require.Len(t, f.temporal.reports, reports)
			require.Len(t, f.temporal.signals, len(test.signals))
			require.Equal(t, rows, f.rows())
		})
	}
}

func TestWebhookRefuses(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	good := accountUpdated("reauth")
	signed := func(secret string, at time.Time, body string) option {
		return func(r *http.Request) {
			r.Header.Del(finch.HeaderSignature)
			for name, values := range finch.SignWebhook(secret, "msg_1", at, []byte(body)) {
				r.Header[name] = values
			}
		}
	}
	const otherSecret = "b3RoZXIgc2VjcmV0IG9mIDI0IGJ5dGVz"
	tests := []struct {
		name, body string
		change     option
		status     int
	}{
		{"without signature", good, func(r *http.Request) { r.Header.Del(finch.HeaderSignature) }, 401},
		{"without event id", good, func(r *http.Request) { r.Header.Del(finch.HeaderEventID) }, 401},
		{"without timestamp", good, func(r *http.Request) { r.Header.Del(finch.HeaderTimestamp) }, 401},
		{"another secret", good, signed(otherSecret, f.clock(), good), 401},
		{"another body", good, signed(webhookSecret, f.clock(), good+" "), 401},
		{"another event id", good, header(finch.HeaderEventID, "msg_2"), 401},
		{"too old", good, signed(webhookSecret, f.clock().Add(-6*time.Minute), good), 401},
		{"from the future", good, signed(webhookSecret, f.clock().Add(6*time.Minute), good), 401},
		{"not JSON", "status=reauth", nil, 422},
		{"an array", "[]", nil, 422},
		{"without a type", `{"data":{}}`, nil, 422},
		{"empty", "", nil, 422},
		{"too large", `{"event_type":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var change []option
			if test.change != nil {
				change = append(change, test.change)
			}
			w := f.event("msg_1", test.body, change...)
			require.Equal(t, test.status, w.Code, w.Body.String())
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		})
	}
	require.Empty(t, f.temporal.reports)
	require.Zero(t, f.count("webhooks"), "nothing that was refused is remembered")
	require.Equal(t, http.StatusOK, f.event("msg_1", good).Code)
}

// An event that could not be acted upon is acted upon when it is repeated.
func TestWebhookWithoutTemporal(t *testing.T) {
	shared := newFixture(t)
	for _, status := range []string{"reauth", "connected"} {
		f := shared.again(t)
		f.register(connID)
		f.temporal.down = true
		w := f.event("msg_1", accountUpdated(status))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Zero(t, f.count("webhooks"))
		f.temporal.down = false
		require.Equal(t, http.StatusOK, f.event("msg_1", accountUpdated(status)).Code)
		require.Equal(t, 1, len(f.temporal.reports)+len(f.temporal.signals))
	}
}

func TestWebhookWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.dbDown()
	require.Equal(t, http.StatusServiceUnavailable, f.event("msg_1", accountUpdated("reauth")).Code)
	require.Empty(t, f.temporal.reports)
}

func TestWebhookDuringTheCoolDown(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.close("case-1", reauth.OutcomeExpired, "")
	f.advance(time.Second)
	require.JSONEq(t, `{"result":"suppressed"}`, f.event("msg_1", accountUpdated("reauth")).Body.String())
	require.Empty(t, f.temporal.reports)

	// Once it was seen connected, a new loss is news.
	f.temporal.noCase = true
	require.JSONEq(t, `{"result":"restored"}`, f.event("msg_2", accountUpdated("connected")).Body.String())
	f.temporal.noCase = false
	f.advance(time.Second)
	require.JSONEq(t, `{"result":"reported"}`, f.event("msg_3", accountUpdated("reauth")).Body.String())
	require.Len(t, f.temporal.reports, 1)
}

// Whether a connection is back is for its open case to decide.
func TestWebhookConnectedLeavesAnOpenCaseAlone(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	require.JSONEq(t, `{"result":"restored"}`, f.event("msg_1", accountUpdated("connected")).Body.String())
	c, err := f.db.Connection(t.Context(), connID)
	require.NoError(t, err)
	require.Equal(t, reauth.StatusStale, c.Status)
	_, err = f.db.OpenCaseOf(t.Context(), connID)
	require.NoError(t, err)
}

func TestWebhookOfARemovedConnection(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	_, err := f.db.RemoveConnection(t.Context(), connID)
	require.NoError(t, err)
	for i, status := range []string{"reauth", "connected", "disconnected"} {
		require.JSONEq(t, `{"result":"ignored"}`, f.event("msg_"+string(rune('a'+i)), accountUpdated(status)).Body.String())
	}
	require.Empty(t, f.temporal.reports)
	require.Empty(t, f.temporal.signals)
}

func TestWebhookSecretRotation(t *testing.T) {
	const old = "b3RoZXIgc2VjcmV0IG9mIDI0IGJ5dGVz"
	f := newFixture(t, func(c *Config) { c.FinchWebhookSecrets = []string{old, webhookSecret} })
	require.Equal(t, http.StatusOK, f.event("msg_1", `{"event_type":"test"}`).Code)

	f = f.again(t, func(c *Config) { c.FinchWebhookSecrets = nil })
	w := f.event("msg_1", `{"event_type":"test"}`)
	require.Equal(t, http.StatusNotFound, w.Code)
	require.Contains(t, w.Body.String(), "FINCH_WEBHOOK_SECRET")

	f = f.again(t, func(c *Config) { c.FinchWebhookSecrets = []string{"not base64!"} })
	require.Equal(t, http.StatusInternalServerError, f.event("msg_1", `{"event_type":"test"}`).Code, "our own fault is not Finch's")
}

func TestAttoWebhook(t *testing.T) {
	f := newFixture(t)
	p := f.problem(http.StatusNotFound, "POST", "/webhooks/atto", map[string]any{"eventType": "Consent"})
	require.Equal(t, "no Atto application is configured", p.Detail)
}
