package finchsim_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
)

// receiver takes webhooks as a backend would.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	events []finch.Event
	ids    []string
	bad    []error
}

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		id, err := finch.VerifyWebhook([]string{webhookSecret}, q.Header, body, time.Now())
		e, parseErr := finch.ParseEvent(body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil || parseErr != nil {
			r.bad = append(r.bad, err, parseErr)
		}
		r.events, r.ids = append(r.events, e), append(r.ids, id)
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

// wait returns the events once there are n.
func (r *receiver) wait(t *testing.T, n int) []finch.Event {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.events) >= n
	}, 30*time.Second, 2*time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	assert.Empty(t, r.bad)
	return append([]finch.Event(nil), r.events...)
}

func webhookConfig(r *receiver) finchsim.Config {
	cfg := config()
	cfg.WebhookURL, cfg.WebhookSecret = r.URL, webhookSecret
	return cfg
}

func TestWebhooks(t *testing.T) {
	r := receive(t)
	b := start(t, webhookConfig(r))
	conn, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	step := 0
	next := func(status string) finch.Event {
		t.Helper()
		step++
		e := r.wait(t, step)[step-1]
		assert.Equal(t, finch.EventAccountUpdated, e.Type)
		assert.Equal(t, status, e.Status)
		return e
	}
	require.NoError(t, b.Break(conn.ID))
	e := next("reauth")
	assert.True(t, e.NeedsReauth())
	assert.Equal(t, conn.ID, e.ConnectionID)
	assert.Equal(t, conn.CompanyID, e.CompanyID)
	assert.Equal(t, conn.AccountID, e.AccountID)
	assert.Empty(t, e.EntityID)
	assert.Equal(t, "credential", e.AuthenticationMethod)

	code := b.code(t, conn.ID)
	next("connected") // before anybody has exchanged the code
	_, err = b.Client.Exchange(t.Context(), code, callback)
	require.NoError(t, err)

	other, err := b.CompleteConnect(b.reauthenticate(t, conn.ID).ID, finchsim.OtherAccount)
	require.NoError(t, err)
	e = next("connected")
	assert.NotEqual(t, conn.ID, e.ConnectionID)
	assert.NotEmpty(t, other)

	require.NoError(t, b.Client.UpdateSandboxAccount(t.Context(), token, "error_permissions"))
	next("error_permissions")
	require.NoError(t, b.Restore(conn.ID))
	next("connected")

	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = false }))
	require.NoError(t, b.Break(conn.ID))
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = true }))
	require.NoError(t, b.Client.Disconnect(t.Context(), token))
	next("disconnected")

	var sent struct {
		EventID string `json:"event_id"`
	}
	require.Equal(t, 200, b.control(t, "POST", "/sim/webhooks", `{"connection_id":"`+conn.ID+`","status":"reauth"}`, &sent))
	next("reauth")
	require.Equal(t, 200, b.control(t, "POST", "/sim/webhooks", `{"connection_id":"`+conn.ID+`","event_type":"job.data_sync_all.completed","data":{"job_id":"j-1","job_url":"u"}}`, nil))
	step++
	e = r.wait(t, step)[step-1]
	assert.Equal(t, "j-1", e.JobID)
	r.mu.Lock()
	assert.Contains(t, r.ids, sent.EventID)
	seen := map[string]bool{}
	for _, id := range r.ids {
		seen[id] = true
	}
	assert.Len(t, seen, step, "each event has an ID of its own")
	r.mu.Unlock()
	require.Eventually(t, func() bool { return b.Counters().WebhooksDelivered == step }, 10*time.Second, time.Millisecond)
}

func TestWebhooksNameTheEntity(t *testing.T) {
	r := receive(t)
	b := start(t, webhookConfig(r))
	conn, _, err := b.AddConnection(finchsim.NewConnection{Entities: []string{"North", "South"}})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID, conn.Entities[1].ID))
	assert.Equal(t, conn.Entities[1].ID, r.wait(t, 1)[0].EntityID)
}

// An event that was refused, or that waited when everything was killed, is sent
// after the next start.
func TestWebhooksOutliveARestart(t *testing.T) {
	r := receive(t)
	r.status = http.StatusServiceUnavailable
	cfg := webhookConfig(r)
	cfg.File = filepath.Join(t.TempDir(), "finch.json")
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID))
	r.wait(t, 1)
	require.Eventually(t, func() bool { return b.Counters().WebhookAttempts == 1 }, 10*time.Second, time.Millisecond)
	assert.Zero(t, b.Counters().WebhooksDelivered)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.WebhookDelay = finchsim.Duration(time.Second) }))
	require.NoError(t, b.Restore(conn.ID))
	require.NoError(t, b.Close())

	r.mu.Lock()
	r.status = http.StatusOK
	r.mu.Unlock()
	second := start(t, cfg)
	require.Eventually(t, func() bool { return second.Counters().WebhooksDelivered == 2 }, 30*time.Second, time.Millisecond)
	events := r.wait(t, 3)
	assert.Equal(t, "connected", events[1].Status, "the delayed one is due before the second attempt of the refused one")
	assert.Equal(t, "reauth", events[2].Status)
	assert.Equal(t, r.ids[0], r.ids[2], "a repeated delivery keeps its ID")
}

// A receiver that redirects has not taken the event.
func TestWebhooksAreNotRedirected(t *testing.T) {
	r := receive(t)
	asked := make(chan struct{}, 10)
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, r.URL, http.StatusTemporaryRedirect)
		asked <- struct{}{}
	}))
	defer away.Close()
	cfg := webhookConfig(r)
	cfg.WebhookURL = away.URL
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, b.Break(conn.ID))
	<-asked
	require.Eventually(t, func() bool { return b.Counters().WebhookAttempts == 1 }, 10*time.Second, time.Millisecond)
	assert.Zero(t, b.Counters().WebhooksDelivered)
	assert.Empty(t, r.events)
}
