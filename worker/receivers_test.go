package worker

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// An application's own receiver hears of its connections and of no other's,
// under its own secret; one that is down holds no other up.
func TestEachReceiverHasItsOwnEventsAndSecret(t *testing.T) {
	const otherSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	s := newStore(t)
	require.NoError(t, s.Migrate(t.Context()))
	for _, c := range []reauth.Connection{
		{ConnectionID: "con-1", Application: reauth.DefaultApplication}, {ConnectionID: "con-2", Application: "sandbox"}, {ConnectionID: "con-3", Application: "eu"},
	} {
		_, err := s.PutConnection(t.Context(), c)
		require.NoError(t, err)
	}
	general := newReceiver(t, nil)
	sandbox := newReceiver(t, nil)
	down := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	couriers, err := Config{
		DB: s.DB, Activities: &activities.Activities{DB: s.DB}, Logger: s.logger(), Outbound: here(), WebhookURL: general.URL, WebhookSecret: webhookSecret,
		Receivers: []Receiver{{"sandbox", sandbox.URL, otherSecret}, {"eu", down.URL, otherSecret}},
	}.couriers()
	require.NoError(t, err)
	require.Len(t, couriers, 3)

	for id, connection := range map[string]string{"evt_1": "con-1", "evt_2": "con-2", "evt_3": "con-3", "evt_none": ""} {
		require.NoError(t, s.Enqueue(t.Context(), db.OutboxEvent{ID: id, Type: "reauth.case.closed", ConnectionID: connection, Payload: json.RawMessage(`{}`)}))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for _, c := range couriers {
		go c.run(ctx)
	}
	require.Eventually(t, func() bool { return len(general.got()) == 2 && len(sandbox.got()) == 1 && len(down.got()) > 0 }, time.Minute, 20*time.Millisecond)
	assert.ElementsMatch(t, []string{"evt_1", "evt_none"}, ids(general.got()))
	assert.Equal(t, []string{"evt_2"}, ids(sandbox.got()))
	assert.Equal(t, "evt_3", ids(down.got())[0])
	verified(t, general.got())
	other, err := standardwebhooks.NewWebhook(otherSecret)
	require.NoError(t, err)
	one := sandbox.got()[0]
	require.NoError(t, other.VerifyIgnoringTimestamp([]byte(one.body), one.header))
	first, err := standardwebhooks.NewWebhook("whsec_" + webhookSecret)
	require.NoError(t, err)
	require.Error(t, first.VerifyIgnoringTimestamp([]byte(one.body), one.header), "not under the other's secret")
}
