package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

func TestCourierSigns(t *testing.T) {
	for name, secret := range map[string]string{"with prefix": "whsec_" + webhookSecret, "without": webhookSecret} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			r := newReceiver(t, nil)
			// The bytes are signed, so they must arrive as they were stored.
			payload := `{"b":  1, "a": "é\u003c", "b": 2}`
			s.enqueue(t, "evt_1", payload)
			c := s.courier(t, r.URL, secret)
			assert.Equal(t, 1, c.round(t.Context()))

			got := r.got()
			require.Len(t, got, 1)
			assert.Equal(t, http.MethodPost, got[0].method)
			assert.Equal(t, payload, got[0].body)
			assert.Equal(t, "application/json", got[0].header.Get("Content-Type"))
			assert.Equal(t, "evt_1", got[0].header.Get("webhook-id"))
			backend, err := standardwebhooks.NewWebhook(secret)
			require.NoError(t, err)
			require.NoError(t, backend.Verify([]byte(got[0].body), got[0].header))
			require.Error(t, backend.Verify([]byte(got[0].body+" "), got[0].header))
			stranger, err := standardwebhooks.NewWebhook("c3RyYW5nZXI=")
			require.NoError(t, err)
			require.Error(t, stranger.Verify([]byte(got[0].body), got[0].header))

			assert.NotNil(t, s.row(t, "evt_1").DeliveredAt)
			s.due(t, "evt_1")
			assert.Zero(t, c.round(t.Context()), "once")
		})
	}
}

func TestCourierJudgesAnswers(t *testing.T) {
	s := newStore(t)
	var status int
	elsewhere := newReceiver(t, nil)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(status)
	})
	c := s.courier(t, r.URL+"/?password=planted-password", webhookSecret)
	for _, code := range []int{200, 201, 202, 204, 299, 300, 301, 302, 303, 307, 308, 400, 401, 404, 410, 429, 500, 503} {
		status = code
		id := "evt_" + strconv.Itoa(code)
		s.enqueue(t, id, `{}`)
		require.Equal(t, 1, c.round(t.Context()))
		row := s.row(t, id)
		assert.Equal(t, 1, row.Attempts)
		if code < 300 {
			assert.NotNil(t, row.DeliveredAt, code)
			continue
		}
		assert.Nil(t, row.DeliveredAt, code)
		assert.Equal(t, fmt.Sprintf("the receiver answered %d", code), row.LastError)
		assert.WithinDuration(t, time.Now().Add(15*time.Second), row.DueAt, 5*time.Second, code)
		assert.Zero(t, c.round(t.Context()), "not before it is due")
	}
	assert.Empty(t, elsewhere.got(), "redirects are not followed")
	assert.Empty(t, s.logs.String())
}

func TestCourierWithoutAnswer(t *testing.T) {
	s := newStore(t)
	c := s.courier(t, "http://127.0.0.1:1/?password=planted-password", webhookSecret)
	s.enqueue(t, "evt_refused", `{}`)
	require.Equal(t, 1, c.round(t.Context()))

	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c.url, c.client.Timeout = slow.URL, 200*time.Millisecond
	s.enqueue(t, "evt_slow", `{}`)
	require.Equal(t, 1, c.round(t.Context()))

	broken := newReceiver(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c.url = broken.URL
	s.enqueue(t, "evt_broken", `{}`)
	require.Equal(t, 1, c.round(t.Context()))

	for _, id := range []string{"evt_refused", "evt_slow", "evt_broken"} {
		row := s.row(t, id)
		assert.Nil(t, row.DeliveredAt, id)
		assert.Equal(t, "the receiver did not answer", row.LastError, "and nothing of the URL")
		assert.True(t, row.DueAt.After(time.Now()), id)
	}

	// It comes again, under the same ID and with the same content.
	well := newReceiver(t, nil)
	c.url = well.URL
	s.due(t, "evt_broken")
	require.Equal(t, 1, c.round(t.Context()))
	first, second := broken.got()[0], well.got()[0]
	assert.Equal(t, first.header.Get("webhook-id"), second.header.Get("webhook-id"))
	assert.Equal(t, first.body, second.body)
	assert.Empty(t, s.row(t, "evt_broken").LastError)
}

// A receiver may take its time over a body that says nothing, say more than
// anybody wants to hear, or answer twice.
func TestCourierAndOddReceivers(t *testing.T) {
	s := newStore(t)
	answers := 0
	for name, handler := range map[string]http.HandlerFunc{
		"the body never ends": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"the body is large": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 1<<30))
		},
		"it answers twice": func(w http.ResponseWriter, _ *http.Request) {
			answers++
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
			time.Sleep(50 * time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, handler)
			c := s.courier(t, r.URL, webhookSecret)
			c.client.Timeout = 500 * time.Millisecond
			for i := range 2 {
				id := fmt.Sprintf("%s %d", name, i)
				s.enqueue(t, id, `{}`)
				began := time.Now()
				require.Equal(t, 1, c.round(t.Context()))
				assert.Less(t, time.Since(began), 5*time.Second)
				assert.NotNil(t, s.row(t, id).DeliveredAt, "each is judged by its own answer: %s", s.row(t, id).LastError)
			}
			assert.Len(t, r.got(), 2)
		})
	}
	assert.Equal(t, 2, answers)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestCourierWaitsLonger(t *testing.T) {
	s := newStore(t)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	c := s.courier(t, r.URL, webhookSecret)
	now := time.Now().UTC().Truncate(time.Second)
	c.now = func() time.Time { return now }
	s.enqueue(t, "evt_1", `{}`)
	for i, want := range []time.Duration{
		15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second, 1215 * time.Second, 3645 * time.Second, 10935 * time.Second,
		6 * time.Hour, 6 * time.Hour, 6 * time.Hour,
	} {
		require.Equal(t, 1, c.round(t.Context()))
		row := s.row(t, "evt_1")
		assert.Equal(t, i+1, row.Attempts)
		assert.Equal(t, want, row.DueAt.Sub(now))
		s.due(t, "evt_1")
	}
	assert.Equal(t, 6*time.Hour, c.next(db.OutboxEvent{Attempts: 1 << 30, CreatedAt: now}).Sub(now))
}

func TestCourierGivesUpAfterFiveDays(t *testing.T) {
	s := newStore(t)
	status := 500
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	c := s.courier(t, r.URL, webhookSecret)
	for id, age := range map[string]time.Duration{"evt_young": 5*24*time.Hour - time.Minute, "evt_old": 5*24*time.Hour + time.Minute} {
		s.enqueue(t, id, `{}`)
		_, err := s.raw.Exec(`UPDATE outbox SET created_at = $2 WHERE event_id = $1`, id, time.Now().Add(-age))
		require.NoError(t, err)
	}
	require.Equal(t, 2, c.round(t.Context()))
	assert.Nil(t, s.row(t, "evt_young").AbandonedAt)
	assert.NotNil(t, s.row(t, "evt_old").AbandonedAt)
	assert.Equal(t, "the receiver answered 500", s.row(t, "evt_old").LastError)

	// What was given up is not brought any more, even to a receiver that is well.
	status = 200
	s.due(t, "evt_young")
	s.due(t, "evt_old")
	require.Equal(t, 1, c.round(t.Context()))
	assert.NotNil(t, s.row(t, "evt_young").DeliveredAt)
	assert.Nil(t, s.row(t, "evt_old").DeliveredAt)
}

func TestCourierTakesOverAfterACrash(t *testing.T) {
	s := newStore(t)
	r := newReceiver(t, nil)
	c := s.courier(t, r.URL, webhookSecret)
	s.enqueue(t, "evt_1", `{}`)
	dying, stop := context.WithCancel(t.Context())
	claims := outboxOf{s.DB, stop, nil} // it dies as soon as it has claimed
	(&courier{outbox: claims, url: r.URL, signer: c.signer, client: c.client, logger: s.logger(), now: time.Now}).round(dying)
	assert.Empty(t, r.got())

	assert.WithinDuration(t, time.Now().Add(courierLease), s.row(t, "evt_1").DueAt, 5*time.Second)
	assert.Zero(t, c.round(t.Context()), "another may still be at it")
	s.due(t, "evt_1") // a minute later
	assert.Equal(t, 1, c.round(t.Context()))
	assert.Equal(t, 2, s.row(t, "evt_1").Attempts)
	assert.Len(t, r.got(), 1)
	assert.Less(t, courierBatch*courierTimeout, courierLease, "or else two couriers bring the same to a slow receiver")
}

// What a receiver has taken is on record, also when the courier is stopped
// before the answer's end.
func TestCourierRecordsWhatArrivedWhileItStops(t *testing.T) {
	s := newStore(t)
	stopping, stop := context.WithCancel(t.Context())
	r := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond)
		stop()
		<-r.Context().Done()
	})
	s.enqueue(t, "evt_1", `{}`)
	s.courier(t, r.URL, webhookSecret).round(stopping)
	assert.NotNil(t, s.row(t, "evt_1").DeliveredAt)
	assert.Empty(t, s.logs.String())
}

// outboxOf is the outbox of a courier with bad luck.
type outboxOf struct {
	*db.DB
	claimed func()
	fails   error
}

func (o outboxOf) ClaimOutbox(ctx context.Context, limit int, lease time.Duration) ([]db.OutboxEvent, error) {
	list, err := o.DB.ClaimOutbox(ctx, limit, lease)
	if o.claimed != nil {
		o.claimed()
	}
	return list, err
}

func (o outboxOf) Delivered(ctx context.Context, id string) error {
	return errors.Join(o.fails, o.DB.Delivered(ctx, id))
}

func TestCouriersShareTheWork(t *testing.T) {
	s := newStore(t)
	r := newReceiver(t, nil)
	const events = 4 * courierBatch
	for i := range events {
		s.enqueue(t, fmt.Sprintf("evt_%02d", i), `{}`)
	}
	var both sync.WaitGroup
	for range 2 {
		c := s.courier(t, r.URL, webhookSecret)
		both.Go(func() {
			for c.round(t.Context()) > 0 {
			}
		})
	}
	both.Wait()
	seen := map[string]int{}
	for _, got := range r.got() {
		seen[got.header.Get("webhook-id")]++
	}
	assert.Len(t, seen, events)
	assert.Len(t, r.got(), events, "each once")
}

func TestCourierBringsAnEventOnce(t *testing.T) {
	s := newStore(t)
	r := newReceiver(t, nil)
	c := s.courier(t, r.URL, webhookSecret)
	for i := range 3 { // a retried activity enqueues the same event again
		require.NoError(t, s.Enqueue(t.Context(), db.OutboxEvent{ID: "evt_case_recovered", Type: "x", Payload: json.RawMessage(fmt.Sprint(i))}))
		c.round(t.Context())
	}
	require.Len(t, r.got(), 1)
	assert.Equal(t, "0", r.got()[0].body)
}

func TestCourierWithoutDatabase(t *testing.T) {
	s := newStore(t)
	r := newReceiver(t, nil)
	c := s.courier(t, r.URL, webhookSecret)
	s.enqueue(t, "evt_1", `{"planted": "content"}`)
	c.outbox = outboxOf{s.DB, nil, assert.AnError}
	assert.Equal(t, 1, c.round(t.Context()))
	assert.Contains(t, s.logs.String(), "it will come again")
	assert.Len(t, r.got(), 1)

	require.NoError(t, s.Close())
	c.outbox = s.DB
	assert.Zero(t, c.round(t.Context()))
	assert.Contains(t, s.logs.String(), "The outbox could not be read")
	assert.NotContains(t, s.logs.String(), "planted")
}

func TestCheckWebhook(t *testing.T) {
	for name, test := range map[string]struct{ url, secret, problem string }{
		"good":                 {"https://backend.example/hook", webhookSecret, ""},
		"good, with prefix":    {"http://127.0.0.1:8080", "whsec_" + webhookSecret, ""},
		"no URL":               {"", webhookSecret, "URL"},
		"a path":               {"/hook", webhookSecret, "URL"},
		"another scheme":       {"ftp://backend.example/", webhookSecret, "URL"},
		"no host":              {"https:///hook", webhookSecret, "URL"},
		"no secret":            {"https://backend.example/", "", "secret"},
		"a secret not base64":  {"https://backend.example/", "planted!secret", "secret"},
		"a prefix and nothing": {"https://backend.example/", "whsec_", "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newCourier(nil, test.url, test.secret, nil)
			if test.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.problem)
			assert.False(t, strings.Contains(err.Error(), "planted"), "the secret is not repeated")
		})
	}
}
