package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// world is a courier, its receiver and an outbox, by a clock of their own.
type world struct {
	store
	*courier
	mu   sync.Mutex
	time time.Time
}

// newWorld makes a world whose receiver is at an address. Waits are as long as
// they are meant to be.
func newWorld(t *testing.T, address string) *world {
	t.Helper()
	w := &world{store: newStore(t), time: time.Now().Add(time.Minute).UTC().Truncate(time.Second)}
	w.restart(t, address)
	return w
}

// restart gives the world another courier, which knows nothing of the last one's.
func (w *world) restart(t *testing.T, address string) {
	t.Helper()
	w.courier = w.store.courier(t, address, webhookSecret)
	w.courier.now = w.clock
	w.spread = func(wait time.Duration) time.Duration { return wait }
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

// settle delivers until nothing more is due, and returns how many deliveries
// were tried.
func (w *world) settle(t *testing.T) (tried int) {
	t.Helper()
	return settle(t, w.courier)
}

func settle(t *testing.T, c *courier) (tried int) {
	t.Helper()
	for {
		n := c.dispatch(t.Context())
		c.flights.Wait()
		c.clearOld(t.Context())
		tried += n
		if n == 0 {
			return tried
		}
	}
}

// live lets time pass, a minute at a step, or five where it is long.
func (w *world) live(t *testing.T, d time.Duration) (tried int) {
	t.Helper()
	step := time.Minute
	if d > 24*time.Hour {
		step = 5 * time.Minute
	}
	for range d / step {
		w.pass(step)
		tried += w.settle(t)
	}
	return tried
}

// open opens a case of a connection of the same name.
func (w *world) open(t *testing.T, id string, contacts ...reauth.Contact) {
	t.Helper()
	_, err := w.PutConnection(t.Context(), reauth.Connection{ConnectionID: id, Contacts: contacts})
	require.NoError(t, err)
	opened, err := w.OpenCase(t.Context(), db.Case{CaseID: id, ConnectionID: id, Source: reauth.SourceManual, OpenedAt: w.clock()})
	require.NoError(t, err)
	require.True(t, opened)
}

// put enqueues an event of a case.
func (w *world) put(t *testing.T, caseID, id string) {
	t.Helper()
	require.NoError(t, w.Enqueue(t.Context(), db.OutboxEvent{ID: id, Type: "x", Payload: json.RawMessage(`{}`), CaseID: caseID, ConnectionID: caseID}))
}

// ids are the webhook-ids of deliveries.
func ids(all []delivery) []string {
	list := []string{}
	for _, one := range all {
		list = append(list, one.header.Get("webhook-id"))
	}
	return list
}

// verified checks the signatures of what has arrived, as a backend does that
// has this secret.
func verified(t *testing.T, all []delivery) {
	t.Helper()
	backend, err := standardwebhooks.NewWebhook("whsec_" + webhookSecret)
	require.NoError(t, err)
	for _, one := range all {
		require.NoError(t, backend.VerifyIgnoringTimestamp([]byte(one.body), one.header)) // the clock is not the machine's
	}
}

// backend answers as it is told; it is well at first.
type backend struct {
	*receiver
	mu     sync.Mutex
	answer http.HandlerFunc
	took   []string // what it answered with 200
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.receiver = newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		answer := b.answer
		if answer == nil {
			b.took = append(b.took, r.Header.Get("webhook-id"))
		}
		b.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	})
	return b
}

// answers sets the answer; nil is 200.
func (b *backend) answers(answer http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if len(header) == 2 {
			w.Header().Set(header[0], header[1])
		}
		w.WriteHeader(code)
	}
}

func dropped(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestCourierSigns(t *testing.T) {
	for name, secret := range map[string]string{"with prefix": "whsec_" + webhookSecret, "without": webhookSecret} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			r := newReceiver(t, nil)
			// The bytes are signed, so they must arrive as they were stored.
			payload := `{"b":  1, "a": "é\u003c", "b": 2}`
			s.enqueue(t, "evt_1", payload)
			c := s.courier(t, r.URL, secret)
			assert.Equal(t, 1, settle(t, c))

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
			assert.Zero(t, settle(t, c), "once")
		})
	}
}

func TestCourierJudgesAnswers(t *testing.T) {
	elsewhere := newReceiver(t, nil)
	b := newBackend(t)
	w := newWorld(t, b.URL)
	for _, test := range []struct {
		status     int
		retryAfter string
		next       time.Duration // 0: it arrived
	}{
		{200, "", 0}, {201, "", 0}, {202, "", 0}, {204, "", 0}, {299, "", 0}, {200, "60", 0},
		{300, "", 5 * time.Second}, {301, "", 5 * time.Second}, {302, "", 5 * time.Second}, {307, "", 5 * time.Second}, {308, "", 5 * time.Second},
		{400, "", 5 * time.Second}, {401, "", 5 * time.Second}, {404, "", 5 * time.Second}, {500, "", 5 * time.Second},
		{502, "", 5 * time.Second}, {503, "", 5 * time.Second}, {504, "", 5 * time.Second},
		{429, "", 5 * time.Second}, {429, "1", 5 * time.Second}, {429, "90", 90 * time.Second}, {503, "7200", 2 * time.Hour},
		{429, w.clock().Add(10 * time.Minute).Format(http.TimeFormat), 10 * time.Minute},
		{429, w.clock().Add(-time.Hour).Format(http.TimeFormat), 5 * time.Second},
		{429, "soon", 5 * time.Second}, {429, "-5", 5 * time.Second}, {429, "99999999999", 24 * time.Hour}, {503, "99999999999999999999", 5 * time.Second},
		{410, "", time.Hour}, {410, "60", time.Hour}, {410, "86400", 24 * time.Hour},
	} {
		name := fmt.Sprint(test.status, " ", test.retryAfter)
		b.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL)
			if test.retryAfter != "" {
				w.Header().Set("Retry-After", test.retryAfter)
			}
			w.WriteHeader(test.status)
		})
		w.restart(t, b.URL+"/?password=planted-password")
		id := "evt_" + name
		w.enqueue(t, id, `{}`)
		require.Equal(t, 1, w.settle(t), name)
		row := w.row(t, id)
		assert.Equal(t, 1, row.Attempts, name)
		if test.next == 0 {
			assert.NotNil(t, row.DeliveredAt, name)
			continue
		}
		assert.Nil(t, row.DeliveredAt, name)
		assert.Equal(t, fmt.Sprintf("the receiver answered %d", test.status), row.LastError)
		assert.Equal(t, test.next, row.DueAt.Sub(w.clock()), name)
		assert.Zero(t, w.settle(t), "not before it is due")
	}
	assert.Empty(t, elsewhere.got(), "redirects are not followed")
	assert.NotContains(t, w.logs.String(), "planted")
}

func TestCourierWithoutAnswer(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:1/?password=planted-password")
	w.enqueue(t, "evt_refused", `{}`)
	require.Equal(t, 1, w.settle(t))

	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.url, w.client.Timeout = slow.URL, 200*time.Millisecond
	w.enqueue(t, "evt_slow", `{}`)
	require.Equal(t, 1, w.settle(t))

	// One that takes it, and drops the connection before it has said so.
	broken := newReceiver(t, dropped)
	w.url = broken.URL
	w.enqueue(t, "evt_broken", `{}`)
	require.Equal(t, 1, w.settle(t))

	for _, id := range []string{"evt_refused", "evt_slow", "evt_broken"} {
		row := w.row(t, id)
		assert.Nil(t, row.DeliveredAt, id)
		assert.Equal(t, "the receiver did not answer", row.LastError, "and nothing of the URL")
		assert.Equal(t, w.clock().Add(5*time.Second), row.DueAt.UTC(), id)
	}
	assert.Empty(t, w.logs.String())

	// It comes again, under the same ID and with the same content.
	well := newReceiver(t, nil)
	w.url = well.URL
	w.pass(5 * time.Second)
	require.Equal(t, 3, w.settle(t))
	first, second := broken.got()[0], well.got()[slices.Index(ids(well.got()), "evt_broken")]
	assert.Equal(t, "evt_broken", first.header.Get("webhook-id"))
	assert.Equal(t, first.body, second.body)
	verified(t, append(broken.got(), well.got()...))
	assert.Empty(t, w.row(t, "evt_broken").LastError)
}

// A receiver whose address is in the private network is not spoken to, and one
// that sends us on to another address is not followed.
func TestCourierGoesNowhereElse(t *testing.T) {
	inside := newReceiver(t, nil)
	w := newWorld(t, inside.URL)
	guarded, err := newCourier(w.DB, inside.URL, webhookSecret, outbound.Guard{}, w.store.logger())
	require.NoError(t, err)
	w.courier.client = guarded.client
	w.enqueue(t, "evt_inside", `{}`)
	require.Equal(t, 1, w.settle(t))
	assert.Contains(t, w.row(t, "evt_inside").LastError, "REAUTH_OUTBOUND_ALLOW")
	assert.Empty(t, inside.got())

	w.restart(t, newReceiver(t, func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, inside.URL, http.StatusPermanentRedirect)
	}).URL)
	w.enqueue(t, "evt_onward", `{}`)
	require.NotZero(t, w.settle(t))
	assert.Equal(t, "the receiver answered 308", w.row(t, "evt_onward").LastError)
	assert.Empty(t, inside.got())
}

// A receiver may take its time over a body that says nothing, say more than
// anybody wants to hear, or answer twice.
func TestCourierAndOddReceivers(t *testing.T) {
	var written atomic.Int64
	for name, handler := range map[string]http.HandlerFunc{
		"the body never ends": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"the body is large": func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(w, io.LimitReader(zeros{}, 1<<40)) // until the courier has had enough
			written.Add(n)
		},
		"it answers twice": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, handler)
			w := newWorld(t, r.URL)
			w.client.Timeout = 500 * time.Millisecond
			for i := range 2 {
				id := fmt.Sprintf("%s %d", name, i)
				w.enqueue(t, id, `{}`)
				require.Equal(t, 1, w.settle(t))
				assert.NotNil(t, w.row(t, id).DeliveredAt, "each is judged by its own answer: %s", w.row(t, id).LastError)
			}
			assert.Len(t, r.got(), 2)
			r.Close() // when the handlers are done
		})
	}
	assert.NotZero(t, written.Load())
	assert.Less(t, written.Load(), int64(64<<20), "what is not read fills a few buffers")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestCourierWaitsLonger(t *testing.T) {
	r := newReceiver(t, status(500))
	w := newWorld(t, r.URL)
	w.enqueue(t, "evt_1", `{}`)
	for i, want := range []time.Duration{
		5 * time.Second, 15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second, 1215 * time.Second, 3645 * time.Second,
		10935 * time.Second, 6 * time.Hour, 6 * time.Hour, 6 * time.Hour,
	} {
		require.Equal(t, 1, w.settle(t))
		row := w.row(t, "evt_1")
		assert.Equal(t, i+1, row.Attempts)
		assert.Equal(t, want, row.DueAt.Sub(w.clock()))
		w.pass(want - time.Second)
		assert.Zero(t, w.settle(t))
		w.pass(time.Second)
	}
	assert.Empty(t, w.logs.String(), "an event that is never taken does not mean that the receiver is down")
	many := db.OutboxEvent{Attempts: 1 << 30, QueuedAt: w.clock()}
	assert.Equal(t, 6*time.Hour, w.next(t.Context(), many, result{problem: "x"}, false).Sub(w.clock()))
}

func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		wait := jitter(10 * time.Second)
		seen[wait] = true
		assert.GreaterOrEqual(t, wait, 8*time.Second)
		assert.LessOrEqual(t, wait, 12*time.Second)
	}
	assert.Greater(t, len(seen), 900)
}

// A receiver is down for a day: it refuses, drops what it has read, hangs and
// answers with faults; the courier, too, is started anew amid it. Then all
// arrives, what belongs to a case in its order, and nothing twice.
func TestABackendThatIsDownForADay(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	w.PublishEvents(true)
	const cases = 40
	name := func(i int) string { return fmt.Sprintf("case-%02d", i) }
	for i := range cases {
		w.open(t, name(i))
	}
	assert.Equal(t, cases, w.settle(t))
	require.Len(t, b.took, cases)

	down := []http.HandlerFunc{dropped, status(500), status(503), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, status(502)}
	w.client.Timeout = 50 * time.Millisecond
	tried, restarts := 0, 2
	for hour := range 24 {
		b.answers(down[hour%len(down)])
		for i := range cases {
			if (i+hour)%3 == 0 {
				require.NoError(t, w.AddEvent(t.Context(), db.Event{CaseID: name(i), ConnectionID: name(i), Kind: "line", Detail: fmt.Sprint(hour), At: w.clock()}))
			}
		}
		if hour%10 == 9 {
			w.restart(t, b.URL)
			w.client.Timeout = 50 * time.Millisecond
		}
		tried += w.live(t, time.Hour)
	}
	require.Len(t, b.took, cases, "nothing arrived")
	const ladder = 8 + 24 // what is tried at once before a courier knows, and a generous day of probes
	assert.LessOrEqual(t, tried, (1+restarts)*ladder+24*4, "it was hammered")
	assert.Equal(t, 1+restarts, strings.Count(w.logs.String(), "The backend does not take webhooks"))

	b.answers(nil)
	w.live(t, 20*time.Minute)
	var waiting int
	require.NoError(t, w.raw.Get(&waiting, `SELECT count(*) FROM outbox WHERE delivered_at IS NULL`))
	assert.Zero(t, waiting)
	var sent []string
	require.NoError(t, w.raw.Select(&sent, `SELECT event_id FROM outbox ORDER BY seq`))
	assert.ElementsMatch(t, sent, b.took, "each once")
	assert.Len(t, sent, cases+24*cases/3)
	var ofCases []struct {
		ID     string `db:"event_id"`
		CaseID string `db:"case_id"`
	}
	require.NoError(t, w.raw.Select(&ofCases, `SELECT event_id, case_id FROM outbox ORDER BY seq`))
	order := map[string][]string{}
	for _, e := range ofCases {
		order[e.CaseID] = append(order[e.CaseID], e.ID)
	}
	for caseID, want := range order {
		got := slices.DeleteFunc(slices.Clone(b.took), func(id string) bool { return !strings.HasPrefix(id, "evt_"+caseID+"_") })
		assert.Equal(t, want, got, caseID)
	}
	assert.Equal(t, 1, strings.Count(w.logs.String(), "The backend takes webhooks again"))
	verified(t, b.got())
}

// One slow answer holds up its own case, and no other.
func TestASlowAnswer(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan string, 100)
	r := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- r.Header.Get("webhook-id")
		if r.Header.Get("webhook-id") == "slow-1" {
			<-release
		}
	})
	w := newWorld(t, r.URL)
	w.open(t, "slow")
	w.put(t, "slow", "slow-1")
	w.put(t, "slow", "slow-2")
	for i := range 2 * courierAtOnce {
		id := fmt.Sprint("c", i)
		w.open(t, id)
		for n := range 3 {
			w.put(t, id, fmt.Sprint(id, "-", n))
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	next := func() string {
		t.Helper()
		select {
		case id := <-arrived:
			return id
		case <-time.After(time.Minute):
			require.FailNow(t, "nothing arrives")
			return ""
		}
	}
	seen := map[string]bool{}
	for range 1 + 3*2*courierAtOnce {
		seen[next()] = true
	}
	assert.Len(t, seen, 1+3*2*courierAtOnce, "everything of the others has arrived")
	assert.True(t, seen["slow-1"])
	assert.False(t, seen["slow-2"])
	close(release)
	assert.Equal(t, "slow-2", next())
	stop()
	<-done
}

// No more than so many are under way, however many wait and however slow the
// receiver is.
func TestCourierIsBounded(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(free) // before the receiver is closed
	w := newWorld(t, r.URL)
	for i := range 3 * courierAtOnce {
		w.enqueue(t, fmt.Sprint(i), `{}`)
	}
	assert.Equal(t, courierAtOnce, w.dispatch(t.Context()))
	assert.Zero(t, w.dispatch(t.Context()))
	free()
	w.flights.Wait()
	assert.Equal(t, courierAtOnce, w.dispatch(t.Context()))
	w.flights.Wait()
	assert.Len(t, r.got(), 2*courierAtOnce)
}

// A receiver that asks for patience gets it; then one webhook finds out whether
// it is ready for the others.
func TestABackendThatAsksForPatience(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	b.answers(status(429, "Retry-After", "120"))
	w.enqueue(t, "evt_0", `{}`)
	require.Equal(t, 1, w.settle(t))
	for i := range 20 {
		w.enqueue(t, fmt.Sprint("evt_", i+1), `{}`)
	}
	w.pass(119 * time.Second)
	assert.Zero(t, w.settle(t), "no other event is sent either")
	w.pass(time.Second)
	assert.Equal(t, 1, w.settle(t))
	w.pass(119 * time.Second)
	assert.Zero(t, w.settle(t))
	b.answers(nil)
	w.pass(time.Second)
	assert.Equal(t, 21, w.settle(t))
	assert.Len(t, b.took, 21)
	verified(t, b.got())

	// Without a time, it is a few seconds.
	b.answers(status(429))
	w.enqueue(t, "evt_x", `{}`)
	require.Equal(t, 1, w.settle(t))
	w.enqueue(t, "evt_y", `{}`)
	w.pass(4 * time.Second)
	assert.Zero(t, w.settle(t))
	b.answers(nil)
	w.pass(time.Second)
	assert.Equal(t, 2, w.settle(t))

	// What left before the answer came, and was taken, does not shorten the wait.
	var first sync.Once
	proceed := make(chan struct{})
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		refuse := false
		first.Do(func() { refuse = true })
		if !refuse {
			<-proceed
			return
		}
		status(429, "Retry-After", "60")(w, r)
	})
	w.enqueue(t, "evt_a", `{}`)
	w.enqueue(t, "evt_b", `{}`)
	<-w.landed // of those before
	require.Equal(t, 2, w.dispatch(t.Context()))
	<-w.landed // the refusal
	close(proceed)
	w.flights.Wait()
	w.pass(59 * time.Second)
	w.enqueue(t, "evt_c", `{}`)
	assert.Zero(t, w.settle(t))
	b.answers(nil)
	w.pass(time.Second)
	assert.Equal(t, 2, w.settle(t))
}

// A receiver that says it is gone is asked again by the hour, and nothing is
// lost if that was a mistake.
func TestABackendThatSaysItIsGone(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	b.answers(status(410))
	for i := range 30 {
		w.enqueue(t, fmt.Sprint("evt_", i), `{}`)
	}
	first := w.settle(t)
	assert.LessOrEqual(t, first, courierAtOnce)
	assert.Equal(t, 5, w.live(t, 5*time.Hour+time.Minute))
	assert.Contains(t, w.logs.String(), "answered 410")
	b.answers(nil)
	w.live(t, time.Hour)
	assert.Len(t, b.took, 30)
}

// Events that a backend never takes hold up neither the others nor themselves
// for good.
func TestEventsThatAreNeverTaken(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	b.answers(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("webhook-id"), "bad") {
			rw.WriteHeader(500)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.took = append(b.took, r.Header.Get("webhook-id"))
	})
	for i := range 3 {
		id := fmt.Sprint("c", i)
		w.open(t, id)
		w.put(t, id, fmt.Sprint("bad-", i))
		w.put(t, id, fmt.Sprint("after-", i))
	}
	for hour := range 24 {
		w.enqueue(t, fmt.Sprint("good-", hour), `{}`)
		w.live(t, time.Hour)
		assert.Len(t, b.took, hour+1, "the others arrive")
	}
	assert.NotContains(t, w.logs.String(), "does not take webhooks")
	assert.Less(t, len(b.got()), 24+3*15)
	w.live(t, 5*24*time.Hour)
	for i := range 3 {
		assert.NotNil(t, w.row(t, fmt.Sprint("bad-", i)).AbandonedAt)
		assert.NotNil(t, w.row(t, fmt.Sprint("after-", i)).DeliveredAt, "once the one before it was given up")
	}
}

// What was not taken for five days is given up, whether or not anybody tried to
// bring it, and comes under its old ID when it is replayed.
func TestABackendThatIsDownForAWeek(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	b.answers(status(500))
	for i := range 20 {
		id := fmt.Sprint("c", i)
		w.open(t, id)
		for n := range 3 {
			w.put(t, id, fmt.Sprint(id, "-", n))
		}
	}
	tried := w.live(t, 5*24*time.Hour-10*time.Minute)
	assert.Less(t, tried, 600)
	count := func(state db.OutboxState) int {
		t.Helper()
		list, err := w.Outbox(t.Context(), db.OutboxFilter{State: state}, 500)
		require.NoError(t, err)
		return len(list)
	}
	assert.Equal(t, 60, count(db.OutboxWaiting))
	w.live(t, 20*time.Minute)
	assert.Equal(t, 60, count(db.OutboxAbandoned))
	w.live(t, 2*24*time.Hour)
	b.answers(nil)
	w.live(t, time.Hour)
	assert.Empty(t, b.took, "what was given up is not brought any more")

	n, err := w.ReplayOutbox(t.Context(), db.OutboxFilter{State: db.OutboxAbandoned}, w.clock())
	require.NoError(t, err)
	assert.Equal(t, 60, n)
	w.live(t, 20*time.Minute)
	assert.Len(t, b.took, 60)
	for i := range 20 {
		prefix := fmt.Sprint("c", i, "-")
		got := slices.DeleteFunc(slices.Clone(b.took), func(id string) bool { return !strings.HasPrefix(id, prefix) })
		assert.Equal(t, []string{prefix + "0", prefix + "1", prefix + "2"}, got)
	}
	verified(t, b.got())

	// What was delivered can be replayed too, and has five days again.
	b.answers(status(500))
	n, err = w.ReplayOutbox(t.Context(), db.OutboxFilter{CaseID: "c0"}, w.clock())
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	w.live(t, 4*24*time.Hour)
	assert.Equal(t, 3, count(db.OutboxWaiting))
	b.answers(nil)
	w.live(t, 6*time.Hour+time.Minute)
	assert.Equal(t, []string{"c0-0", "c0-1", "c0-2"}, b.took[60:])
}

// The worker was off for a week: what waited is brought, and a first failure
// does not give it up.
func TestAWorkerThatWasOffForAWeek(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	b.answers(status(500))
	for i := range 10 {
		w.enqueue(t, fmt.Sprint("evt_", i), `{}`)
	}
	w.pass(7 * 24 * time.Hour)
	assert.NotZero(t, w.settle(t))
	w.live(t, time.Minute)
	b.answers(nil)
	w.live(t, time.Minute)
	assert.Len(t, b.took, 10)
}

func TestCourierTakesOverAfterACrash(t *testing.T) {
	r := newReceiver(t, nil)
	w := newWorld(t, r.URL)
	w.enqueue(t, "evt_1", `{}`)
	dying, stop := context.WithCancel(t.Context())
	w.outbox = outboxOf{w.DB, stop, nil} // it dies as soon as it has claimed
	assert.Equal(t, 1, w.dispatch(dying))
	w.flights.Wait()
	assert.Empty(t, r.got())

	w.restart(t, r.URL)
	w.pass(courierLease - time.Second)
	assert.Zero(t, w.settle(t), "another may still be at it")
	w.pass(time.Second)
	assert.Equal(t, 1, w.settle(t))
	assert.Equal(t, 2, w.row(t, "evt_1").Attempts)
	assert.Len(t, r.got(), 1)
	assert.Less(t, 2*courierTimeout, courierLease, "or else two couriers bring the same to a slow receiver")
}

// What a receiver has taken is on record, also when the courier is stopped
// before the answer's end.
func TestCourierRecordsWhatArrivedWhileItStops(t *testing.T) {
	s := newStore(t)
	stopping, stop := context.WithCancel(t.Context())
	r := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // the body never ends
	})
	s.enqueue(t, "evt_1", `{}`)
	c := s.courier(t, r.URL, webhookSecret)
	c.client.Transport = stopsAfter{c.client.Transport, stop}
	c.dispatch(stopping)
	c.flights.Wait()
	assert.NotNil(t, s.row(t, "evt_1").DeliveredAt)
	assert.Empty(t, s.logs.String())
}

// stopsAfter stops the courier when the head of an answer is there.
type stopsAfter struct {
	http.RoundTripper
	stop func()
}

func (s stopsAfter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.RoundTripper.RoundTrip(r)
	s.stop()
	return response, err
}

// outboxOf is the outbox of a courier with bad luck.
type outboxOf struct {
	*db.DB
	claimed func()
	fails   error
}

func (o outboxOf) ClaimOutbox(ctx context.Context, at time.Time, limit int, lease time.Duration) ([]db.OutboxEvent, error) {
	list, err := o.DB.ClaimOutbox(ctx, at, limit, lease)
	if o.claimed != nil {
		o.claimed()
	}
	return list, err
}

func (o outboxOf) Delivered(ctx context.Context, id string, at time.Time) error {
	if o.fails != nil {
		return o.fails
	}
	return o.DB.Delivered(ctx, id, at)
}

func TestCouriersShareTheWork(t *testing.T) {
	r := newReceiver(t, nil)
	w := newWorld(t, r.URL)
	const cases, perCase = 5, 6
	for i := range cases {
		id := fmt.Sprint("c", i)
		w.open(t, id)
		for n := range perCase {
			w.put(t, id, fmt.Sprint(id, "-", n))
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 3 {
		c := w.store.courier(t, r.URL, webhookSecret)
		all.Go(func() { c.run(ctx) })
	}
	require.Eventually(t, func() bool { return len(r.got()) >= cases*perCase }, time.Minute, 20*time.Millisecond)
	stop()
	all.Wait()
	byCase := map[string][]string{}
	for _, id := range ids(r.got()) {
		caseID, _, _ := strings.Cut(id, "-")
		byCase[caseID] = append(byCase[caseID], id)
	}
	assert.Len(t, byCase, cases)
	for caseID, got := range byCase {
		assert.Len(t, got, perCase, "each once")
		assert.IsIncreasing(t, got, caseID)
	}
}

func TestCourierBringsAnEventOnce(t *testing.T) {
	r := newReceiver(t, nil)
	w := newWorld(t, r.URL)
	for i := range 3 { // a retried activity enqueues the same event again
		require.NoError(t, w.Enqueue(t.Context(), db.OutboxEvent{ID: "evt_case_recovered", Type: "x", Payload: json.RawMessage(fmt.Sprint(i))}))
		w.settle(t)
	}
	require.Len(t, r.got(), 1)
	assert.Equal(t, "0", r.got()[0].body)
}

func TestCourierWithoutDatabase(t *testing.T) {
	r := newReceiver(t, nil)
	w := newWorld(t, r.URL)
	w.enqueue(t, "evt_1", `{"planted": "content"}`)
	w.outbox = outboxOf{w.DB, nil, assert.AnError}
	assert.Equal(t, 1, w.settle(t))
	assert.Contains(t, w.logs.String(), "it will come again")

	// It does, under its ID, so that the backend knows it.
	w.outbox = w.DB
	w.pass(courierLease)
	assert.Equal(t, 1, w.settle(t))
	assert.Equal(t, []string{"evt_1", "evt_1"}, ids(r.got()))

	require.NoError(t, w.Close())
	assert.Zero(t, w.settle(t))
	assert.Contains(t, w.logs.String(), "The outbox could not be read")
	assert.NotContains(t, w.logs.String(), "planted")
}

func TestCircuit(t *testing.T) {
	plain := func(wait time.Duration) time.Duration { return wait }
	now := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	fails := func(r *circuit, id string, probe bool, how result) time.Duration {
		until, _ := r.failed(now, id, how, probe, plain)
		return max(until.Sub(now), 0)
	}
	bad := result{problem: "bad"}

	t.Run("many failures of one event", func(t *testing.T) {
		var r circuit
		for range 100 {
			assert.Zero(t, fails(&r, "1", false, bad))
		}
		n, probe := r.takes(now, 8)
		assert.Equal(t, 8, n)
		assert.False(t, probe)
	})
	t.Run("failures of many, with one that arrives between", func(t *testing.T) {
		var r circuit
		for i := range 100 {
			assert.Zero(t, fails(&r, strconv.Itoa(i), false, bad))
			if i%(circuitFails-1) == circuitFails-2 {
				assert.False(t, r.took(false))
			}
		}
	})
	t.Run("down", func(t *testing.T) {
		now := now
		var r circuit
		var until time.Time
		var fell bool
		for i := range circuitFails {
			assert.False(t, fell)
			until, fell = r.failed(now, strconv.Itoa(i), bad, false, plain)
		}
		assert.True(t, fell)
		assert.Equal(t, now.Add(5*time.Second), until)
		began := now

		var waits []time.Duration
		for now.Sub(began) < 5*24*time.Hour {
			n, _ := r.takes(until.Add(-time.Nanosecond), 8)
			require.Zero(t, n)
			waits = append(waits, until.Sub(now))
			now = until
			n, probe := r.takes(now, 8)
			require.Equal(t, 1, n)
			require.True(t, probe)
			n, _ = r.takes(now.Add(time.Hour), 8)
			require.Zero(t, n, "one at a time")
			late, _ := r.failed(now, "late", bad, false, plain)
			require.Zero(t, late, "which had left before")
			until, fell = r.failed(now, "x", bad, true, plain)
			require.False(t, fell, "it was known")
		}
		assert.Less(t, len(waits), 600)
		assert.Equal(t, 15*time.Minute, waits[len(waits)-1])
		assert.True(t, slices.IsSorted(waits))
		assert.Equal(t, now.Sub(began), r.downFor(now))

		n, _ := r.takes(until, 8)
		require.Equal(t, 1, n)
		r.notAsked() // nothing was due
		n, probe := r.takes(until, 8)
		require.Equal(t, 1, n)
		assert.False(t, r.took(false), "one that had left before")
		assert.True(t, r.took(probe))
		n, probe = r.takes(until, 8)
		assert.Equal(t, 8, n)
		assert.False(t, probe)
		assert.Zero(t, r.downFor(now))
	})
	t.Run("no room", func(t *testing.T) {
		var r circuit
		assert.NotZero(t, fails(&r, "1", false, result{problem: "slow", slow: true}))
		n, _ := r.takes(now.Add(time.Hour), 0)
		assert.Zero(t, n)
		n, _ = r.takes(now.Add(time.Hour), 1)
		assert.Equal(t, 1, n)
	})
	t.Run("a longer wait stands", func(t *testing.T) {
		var r circuit
		assert.Equal(t, time.Hour, fails(&r, "1", false, result{problem: "slow", slow: true, pause: time.Hour}))
		assert.Equal(t, time.Hour, fails(&r, "2", false, result{problem: "slow", slow: true, pause: time.Minute}))
	})
}

// whom builds the people of a world, with real links.
func (w *world) whom(t *testing.T) people {
	t.Helper()
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	return peopleOf(&activities.Activities{DB: w.DB, Keys: keys, Settings: activities.Settings{PublicURL: "https://reauth.example/"}})
}

// An event that names recipients gets their addresses and links when it leaves,
// and nowhere before.
func TestCourierNamesRecipients(t *testing.T) {
	b := newBackend(t)
	w := newWorld(t, b.URL)
	w.courier.people = w.whom(t)
	w.open(t, "c1",
		reauth.Contact{Email: "anna@example.com", Name: "Anna", Role: "admin", Locale: "de-DE", TimeZone: "Europe/Berlin"},
		reauth.Contact{Email: "bob@example.com", Name: "Bob"},
		reauth.Contact{Email: "carol@example.com"}, reauth.Contact{Email: "dave@example.com"}, reauth.Contact{Email: "eve@example.com"})
	all, err := w.Recipients(t.Context(), "c1")
	require.NoError(t, err)
	named := make([]string, 4) // not Eve
	for i := range named {
		named[i] = all[i].ContactID
	}
	put := func(id string) {
		t.Helper()
		require.NoError(t, w.Enqueue(t.Context(), db.OutboxEvent{
			ID: id, Type: activities.NoticeDue, CaseID: "c1", ConnectionID: "c1", Recipients: named,
			Payload: json.RawMessage(`{"type": "reauth.notice.due", "extra": 12345678901234567890, "data": {"step": "first", "n": 12345678901234567890}}`),
		}))
	}
	put("evt_1")
	// Since then Carol was taken off, and Dave said that he is not the one.
	_, err = w.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c1", Contacts: []reauth.Contact{
		{Email: "bob@example.com", Name: "Bob"}, {Email: "anna@example.com", Name: "Anna", Role: "admin", Locale: "de-DE", TimeZone: "Europe/Berlin"},
		{Email: "dave@example.com"}, {Email: "eve@example.com"},
	}})
	require.NoError(t, err)
	_, err = w.Decline(t.Context(), "c1", named[3])
	require.NoError(t, err)

	type event struct {
		Type  string      `json:"type"`
		Extra json.Number `json:"extra"`
		Data  struct {
			Step       string      `json:"step"`
			N          json.Number `json:"n"`
			Recipients []Recipient `json:"recipients"`
		} `json:"data"`
	}
	require.Equal(t, 1, w.settle(t))
	verified(t, b.got())
	var got event
	require.NoError(t, json.Unmarshal([]byte(b.got()[0].body), &got))
	assert.Equal(t, "reauth.notice.due", got.Type)
	assert.Equal(t, "first", got.Data.Step)
	assert.Equal(t, json.Number("12345678901234567890"), cmp.Or(got.Extra, got.Data.N), "nothing else is changed")
	assert.Equal(t, got.Extra, got.Data.N)
	links := map[string]string{}
	for i := range got.Data.Recipients {
		r := &got.Data.Recipients[i]
		links[r.ContactID] = r.LinkURL
		secret, found := strings.CutPrefix(r.LinkURL, "https://reauth.example/r/")
		require.True(t, found, r.LinkURL)
		link, err := w.LinkByHash(t.Context(), secrets.HashLink(secret))
		require.NoError(t, err)
		assert.Equal(t, r.ContactID, link.Recipient)
		assert.Nil(t, link.RevokedAt)
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", *r, *r, *r), "example")
		r.LinkURL = ""
	}
	assert.Equal(t, []Recipient{
		{ContactID: named[1], Email: "bob@example.com", Name: "Bob"},
		{ContactID: named[0], Email: "anna@example.com", Name: "Anna", Role: "admin", Locale: "de-DE", TimeZone: "Europe/Berlin"},
	}, got.Data.Recipients)

	// The database has neither, and the same links come with every event.
	var row string
	require.NoError(t, w.raw.Get(&row, `SELECT outbox::text FROM outbox`))
	for _, private := range append(slices.Collect(maps.Values(links)), "@example.com") {
		assert.NotContains(t, row, private)
	}
	_, err = w.ReplayOutbox(t.Context(), db.OutboxFilter{ID: "evt_1"}, w.clock())
	require.NoError(t, err)
	require.Equal(t, 1, w.settle(t))
	assert.Equal(t, b.got()[0].body, b.got()[1].body)

	// Nobody is to be written to about a case that is closed.
	put("evt_2")
	_, err = w.CloseCase(t.Context(), db.Closing{CaseID: "c1", Outcome: reauth.OutcomeRecovered, At: w.clock()})
	require.NoError(t, err)
	require.Equal(t, 1, w.settle(t))
	assert.Contains(t, b.got()[2].body, `"recipients":[]`)
	assert.NotContains(t, b.got()[2].body, "example")

	// Another event may name people of a closed case, and nobody of a removed
	// connection.
	other := db.OutboxEvent{ID: "evt_3", Type: "other", CaseID: "c1", ConnectionID: "c1", Recipients: named, Payload: json.RawMessage(`{"data": {}}`)}
	require.NoError(t, w.Enqueue(t.Context(), other))
	require.Equal(t, 1, w.settle(t))
	assert.Contains(t, b.got()[3].body, "bob@example.com")
	_, err = w.RemoveConnection(t.Context(), "c1")
	require.NoError(t, err)
	other.ID = "evt_4"
	require.NoError(t, w.Enqueue(t.Context(), other))
	require.Equal(t, 1, w.settle(t))
	assert.Equal(t, `{"data":{"recipients":[]}}`, b.got()[4].body)
	assert.Empty(t, w.logs.String())
}

// Without its recipients an event does not leave; that is no fault of the
// receiver's.
func TestCourierCannotFindRecipients(t *testing.T) {
	for name, test := range map[string]struct {
		people  Expander
		payload string
	}{
		"nobody to find them":  {nil, `{"data": {}}`},
		"they cannot be found": {unfound{assert.AnError}, `{"data": {}}`},
		"no data":              {unfound{}, `{}`},
		"data that is no list": {unfound{}, `{"data": null}`},
		"no object":            {unfound{}, `[]`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			w := newWorld(t, b.URL)
			w.courier.people = test.people
			w.open(t, "c1")
			for i := range 2 * circuitFails {
				require.NoError(t, w.Enqueue(t.Context(), db.OutboxEvent{
					ID: fmt.Sprint("evt_", i), Type: "x", ConnectionID: "c1", Recipients: []string{"p1"}, Payload: json.RawMessage(test.payload),
				}))
			}
			assert.Equal(t, 2*circuitFails, w.settle(t))
			assert.Empty(t, b.got())
			row := w.row(t, "evt_0")
			assert.Contains(t, row.LastError, "its recipients could not be added")
			assert.Equal(t, 5*time.Second, row.DueAt.Sub(w.clock()))
			assert.NotContains(t, w.logs.String(), "does not take webhooks")
			w.enqueue(t, "evt_plain", `{}`)
			assert.Equal(t, 1, w.settle(t))
			assert.Equal(t, []string{"evt_plain"}, b.took)
		})
	}

	// Nor does it keep the courier from finding out how the receiver is.
	b := newBackend(t)
	w := newWorld(t, b.URL)
	w.open(t, "c1")
	b.answers(status(429))
	w.enqueue(t, "evt_1", `{}`)
	require.Equal(t, 1, w.settle(t))
	require.NoError(t, w.Enqueue(t.Context(), db.OutboxEvent{ID: "evt_0", Type: "x", ConnectionID: "c1", Recipients: []string{"p1"}, Payload: json.RawMessage(`{}`)}))
	b.answers(nil)
	w.pass(5 * time.Second)
	assert.Equal(t, 2, w.settle(t))
	assert.Equal(t, []string{"evt_1"}, b.took)
}

// A connection that is removed while its people are looked for has none.
func TestRecipientsOfAConnectionThatGoes(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:1/")
	w.open(t, "c1", reauth.Contact{Email: "anna@example.com"})
	all, err := w.Recipients(t.Context(), "c1")
	require.NoError(t, err)
	event := db.OutboxEvent{Type: "x", CaseID: "c1", ConnectionID: "c1", Recipients: []string{all[0].ContactID}}
	for _, test := range []error{db.ErrRemoved, assert.AnError} {
		p := people{w.DB, func(context.Context, string, string) (string, error) {
			return "", fmt.Errorf("prepare a link: %w", test)
		}}
		found, err := p.Expand(t.Context(), event)
		assert.Empty(t, found)
		if test == db.ErrRemoved {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, test)
	}
}

type unfound struct{ err error }

func (u unfound) Expand(context.Context, db.OutboxEvent) ([]Recipient, error) { return nil, u.err }

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
			_, err := newCourier(nil, test.url, test.secret, here(), nil)
			if test.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.problem)
			assert.False(t, strings.Contains(err.Error(), "planted"), "the secret is not repeated")
		})
	}
}
