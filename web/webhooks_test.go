package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
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

// clerk is one who acts on what has arrived.
func (f *fixture) clerk() *clerk {
	c := newClerk(f.handler.(*Service).server)
	c.spread = func(wait time.Duration) time.Duration { return wait }
	return c
}

// settle lets a clerk act on everything that is due.
func (f *fixture) settle() {
	c := f.clerk()
	for c.dispatch(f.t.Context()) > 0 {
		c.flights.Wait()
	}
}

// stored is what is known of an event.
func (f *fixture) stored(id string) db.Webhook {
	f.t.Helper()
	list, err := f.db.Webhooks(f.t.Context(), db.WebhookFilter{EventID: id}, 0)
	require.NoError(f.t, err)
	require.Len(f.t, list, 1)
	return list[0]
}

// obeyed posts a signed event, lets it be acted upon, and returns what it did.
func (f *fixture) obeyed(id, body string) string {
	f.t.Helper()
	w := f.event(id, body)
	require.Equal(f.t, http.StatusOK, w.Code, w.Body.String())
	require.JSONEq(f.t, `{"result":"stored"}`, w.Body.String())
	f.settle()
	e := f.stored(id)
	require.NotEqual(f.t, db.WebhookWaiting, e.State, e.LastError)
	return e.Result
}

func jobCompleted(id string) string {
	return `{"connection_id":"` + connID + `","entity_id":null,"event_type":"job.data_sync_all.completed","data":{"job_id":"` + id + `","job_url":"u"}}`
}

func ofEntity(body string) string {
	return strings.Replace(body, `"entity_id":null`, `"entity_id":"e-1"`, 1)
}

func TestWebhookEvents(t *testing.T) {
	of := func(body, connectionID string) string { return strings.Replace(body, connID, connectionID, 1) }
	tests := []struct {
		name, body string
		state      db.WebhookState
		result     string
		codes      []string // of the reports
		signals    []string
		status     reauth.ConnectionStatus
	}{
		{"reauth", accountUpdated("reauth"), "done", "reported", []string{"reauthenticate_user"}, nil, reauth.StatusStale},
		{"its older name", accountUpdated("error_reauth"), "done", "reported", []string{"reauthenticate_user"}, nil, reauth.StatusStale},
		{"permissions", accountUpdated("error_permissions"), "done", "reported", []string{"error_permissions"}, nil, reauth.StatusStale},
		{"no account", accountUpdated("error_no_account_setup"), "done", "reported", []string{"error_no_account_setup"}, nil, reauth.StatusStale},
		{"connected", accountUpdated("connected"), "done", "restored", nil, []string{"restored " + connID}, reauth.StatusConnected},
		{"disconnected", accountUpdated("disconnected"), "done", "disconnected", nil, []string{"restored " + connID}, reauth.StatusDisconnected},
		{"one entity reauth", ofEntity(accountUpdated("reauth")), "done", "reported", []string{"reauthenticate_user"}, nil, reauth.StatusStale},
		{"one entity connected", ofEntity(accountUpdated("connected")), "ignored", "no_token", nil, nil, reauth.StatusConnected},
		{"one entity disconnected", ofEntity(accountUpdated("disconnected")), "ignored", "no_token", nil, nil, reauth.StatusConnected},
		{"processing", accountUpdated("processing"), "ignored", "status", nil, nil, reauth.StatusConnected},
		{"a status to come", accountUpdated("on_holiday"), "ignored", "status", nil, nil, reauth.StatusConnected},
		{"a test event", `{"event_type":"test","data":{}}`, "ignored", "type", nil, nil, reauth.StatusConnected},
		{"a type to come", `{"event_type":"moon.full","connection_id":"` + connID + `"}`, "ignored", "type", nil, nil, reauth.StatusConnected},
		{"a job, but nobody to ask", jobCompleted("j"), "ignored", "jobs_off", nil, nil, reauth.StatusConnected},
		{"another connection", of(accountUpdated("reauth"), "nobody"), "ignored", "unregistered", nil, nil, reauth.StatusConnected},
		{"without a connection", `{"event_type":"account.updated","data":{"status":"reauth"}}`, "ignored", "no_connection", nil, nil, reauth.StatusConnected},
		{"an odd connection", of(accountUpdated("reauth"), "../x"), "ignored", "malformed", nil, nil, reauth.StatusConnected},
		{"an odd entity", strings.Replace(accountUpdated("disconnected"), `null`, `"é"`, 1), "ignored", "malformed", nil, nil, reauth.StatusConnected},
		{"not JSON", "status=reauth", "ignored", "malformed", nil, nil, reauth.StatusConnected},
		{"an array", "[]", "ignored", "malformed", nil, nil, reauth.StatusConnected},
		{"without a type", `{"data":{}}`, "ignored", "malformed", nil, nil, reauth.StatusConnected},
		{"empty", "", "ignored", "malformed", nil, nil, reauth.StatusConnected},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			f.register(connID)
			w := f.event("msg_1", test.body)
			require.Equal(t, http.StatusOK, w.Code, w.Body.String())
			require.JSONEq(t, `{"result":"stored"}`, w.Body.String())
			require.Empty(t, f.temporal.reports, "the answer waits for nobody")
			require.Empty(t, f.temporal.signals)
			f.settle()

			e := f.stored("msg_1")
			require.Equal(t, test.state, e.State)
			require.Equal(t, test.result, e.Result)
			var codes []string
			for _, in := range f.temporal.reports {
				require.Equal(t, reauth.SourceWebhook, in.Source)
				codes = append(codes, in.FinchCode)
			}
			require.Equal(t, test.codes, codes)
			require.Equal(t, test.signals, f.temporal.signals)
			c, err := f.db.Connection(t.Context(), connID)
			require.NoError(t, err)
			require.Equal(t, test.status, c.Status)
			if e.Result == "type" || e.Result == "status" || e.Result == "malformed" || e.Result == "no_connection" {
				require.Equal(t, test.body, e.Body, "what is not understood is kept")
			} else if e.State == db.WebhookDone {
				require.Empty(t, e.Body)
			}
			require.Zero(t, f.count("webhook_lines"))

			// The same event again changes nothing.
			rows := f.rows()
			w = f.event("msg_1", test.body)
			require.JSONEq(t, `{"result":"repeated"}`, w.Body.String())
			require.Equal(t, http.StatusOK, w.Code)
			f.settle()
			require.Len(t, f.temporal.reports, len(test.codes))
			require.Len(t, f.temporal.signals, len(test.signals))
			require.Equal(t, rows, f.rows())
		})
	}
}

// Nothing of a person is stored, whoever puts it into an event, and an ID
// that is none is not lost either.
func TestWebhookBodiesHoldNoAddress(t *testing.T) {
	f := newFixture(t)
	body := `{"event_type":"person.created","data":{"email":"` + email + `","other":"ada.hush\u0040acme.example","pad":"` + strings.Repeat("x", 5000) + `"}}`
	require.Equal(t, http.StatusOK, f.event(email, body).Code)
	require.JSONEq(t, `{"result":"repeated"}`, f.event(email, body).Body.String())
	list, err := f.db.Webhooks(t.Context(), db.WebhookFilter{}, 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Contains(t, list[0].Body, `{"event_type":"person.created","data":{"email":"[address]","other":"[address]","pad":"xx`)
	require.Less(t, len(list[0].Body), 2048)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, list[0].EventID)
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
		{"a forgery, too old", good, signed(otherSecret, f.clock().Add(-6*time.Minute), good), 401},
		{"too large", `{"event_type":"` + strings.Repeat("x", maxEvent) + `"}`, nil, 413},
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

// An event that cannot be acted upon waits, and what comes after it does too.
func TestWebhookWithoutTemporal(t *testing.T) {
	shared := newFixture(t)
	for _, status := range []string{"reauth", "connected", "disconnected"} {
		f := shared.again(t)
		f.register(connID)
		f.temporal.down = true
		require.Equal(t, http.StatusOK, f.event("msg_1", accountUpdated(status)).Code)
		f.settle()
		require.Equal(t, http.StatusOK, f.event("msg_2", accountUpdated("error_permissions")).Code)
		f.settle()
		first, second := f.stored("msg_1"), f.stored("msg_2")
		require.Equal(t, db.WebhookWaiting, first.State)
		require.Equal(t, 1, first.Attempts)
		require.Contains(t, first.LastError, "Temporal cannot be reached")
		require.Equal(t, db.WebhookWaiting, second.State)
		require.Zero(t, second.Attempts)

		// The pauses grow, to five minutes.
		waits := []time.Duration{}
		for range 8 {
			before := first.Attempts
			var waited time.Duration
			for f.stored("msg_1").Attempts == before {
				f.advance(time.Second)
				waited += time.Second
				f.settle()
			}
			first = f.stored("msg_1")
			waits = append(waits, waited)
		}
		require.Equal(t, []time.Duration{1, 3, 9, 27, 81, 243, 300, 300}, inSeconds(waits))

		f.temporal.down = false
		f.advance(clerkMaxWait)
		f.settle()
		require.Equal(t, db.WebhookDone, f.stored("msg_1").State)
		require.Equal(t, db.WebhookDone, f.stored("msg_2").State)
		codes, signals := []string{"error_permissions"}, []string{"restored " + connID}
		if status == "reauth" { // the case that it opens is what the other joins
			codes, signals = []string{"reauthenticate_user"}, nil
		}
		require.Equal(t, codes, f.codes())
		require.Equal(t, signals, f.temporal.signals, "each once")
	}
}

func inSeconds(waits []time.Duration) []time.Duration {
	for i := range waits {
		waits[i] /= time.Second
	}
	return waits
}

// What is down for days does not hold events up for ever.
func TestWebhookIsGivenUp(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.temporal.down = true
	f.event("msg_1", accountUpdated("reauth"))
	f.settle()
	f.advance(clerkGivesUp)
	f.settle()
	e := f.stored("msg_1")
	require.Equal(t, db.WebhookAbandoned, e.State)
	require.Contains(t, e.LastError, "Temporal cannot be reached")
	require.Zero(t, f.count("webhook_lines"))
	f.temporal.down = false
	require.Equal(t, "reported", f.obeyed("msg_2", accountUpdated("reauth")))
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
	require.Equal(t, "suppressed", f.obeyed("msg_1", accountUpdated("reauth")))
	require.Empty(t, f.temporal.reports)

	// Once it was seen connected, a new loss is news.
	f.temporal.noCase = true
	require.Equal(t, "restored", f.obeyed("msg_2", accountUpdated("connected")))
	f.temporal.noCase = false
	f.advance(time.Second)
	require.Equal(t, "reported", f.obeyed("msg_3", accountUpdated("reauth")))
	require.Len(t, f.temporal.reports, 1)
}

// Whether a connection is back is for its open case to decide.
func TestWebhookConnectedLeavesAnOpenCaseAlone(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	require.Equal(t, "restored", f.obeyed("msg_1", accountUpdated("connected")))
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
		require.Equal(t, "removed", f.obeyed("msg_"+string(rune('a'+i)), accountUpdated(status)))
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
