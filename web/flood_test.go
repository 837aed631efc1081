package web

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// traffic is a day of webhooks: what each connection's events say, in order of
// arrival.
type traffic struct {
	connections []string
	events      map[string][]dayEvent
}

type dayEvent struct {
	id, body string
	says     string // what is told to Temporal; empty if nothing is
	forged   bool
}

// newDay makes up a day of so many events. Every fifth is a repetition of an
// earlier one, every fifth is forged, and a good part says nothing to us.
// Some arrive in another order than that in which they happened.
func newDay(connections, events int) traffic {
	random := rand.New(rand.NewPCG(1, 2))
	d := traffic{events: map[string][]dayEvent{}}
	for i := range connections {
		d.connections = append(d.connections, fmt.Sprintf("conn-%04d", i))
	}
	body := func(connection, kind, data string) string {
		return `{"company_id":"c","account_id":"a","connection_id":"` + connection + `","entity_id":null,"event_type":"` + kind + `","data":` + data + `}`
	}
	for n := range events {
		id := d.connections[n%connections]
		list := d.events[id]
		e := dayEvent{id: fmt.Sprintf("msg_%06d", n)}
		switch roll := random.IntN(10); {
		case len(list) == 0:
			e.says, e.body = "reauth", body(id, "account.updated", `{"status":"reauth","authentication_method":"credential"}`)
		case roll < 2:
			e = list[random.IntN(len(list))] // again, under the same ID
		case roll < 4:
			e.forged, e.body = true, body(id, "account.updated", `{"status":"disconnected"}`)
		case roll < 6:
			e.body = body(id, "individual.updated", `{"individual_id":"i"}`)
		case roll < 9:
			e.says, e.body = "reauth", body(id, "account.updated", `{"status":"reauth","authentication_method":{"type":"oauth"}}`)
		default:
			e.says, e.body = "connected", body(id, "account.updated", `{"status":"connected","authentication_method":"credential"}`)
		}
		list = append(list, e)
		if last := len(list) - 1; last > 1 && random.IntN(10) == 0 { // a pair that overtook one another
			list[last-1], list[last] = list[last], list[last-1]
		}
		d.events[id] = list
	}
	return d
}

// listening notes what Temporal is told of each connection, in order.
type listening struct {
	*fakeTemporal
	mu      sync.Mutex
	told    map[string][]string
	created map[string]int
}

func (l *listening) Report(ctx context.Context, in reauth.Input) (starter.Reported, error) {
	reported, err := l.fakeTemporal.Report(ctx, in)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[in.ConnectionID] = append(l.told[in.ConnectionID], "reauth")
	if reported.Created {
		l.created[in.ConnectionID]++
	}
	return reported, err
}

func (l *listening) Restored(ctx context.Context, id string) error {
	err := l.fakeTemporal.Restored(ctx, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[id] = append(l.told[id], "connected")
	return err
}

// flooded is a service that a day of webhooks comes to, over HTTP.
type flooded struct {
	*fixture
	listening *listening
	url       string
	client    *http.Client
}

func newFlooded(t testing.TB, connections []string) *flooded {
	l := &listening{told: map[string][]string{}, created: map[string]int{}}
	f := newFixture(t)
	l.fakeTemporal = f.temporal
	for _, id := range connections {
		f.register(id)
	}
	direct, err := db.Open(t.Context(), f.url) // past the proxy, which takes its time
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, direct.Close()) })
	f.config.Starter, f.config.DB, f.config.Registry, f.config.Now = l, direct, nil, time.Now
	f.config.Logger = slog.New(slog.DiscardHandler) // tens of thousands of lines
	service, err := New(f.config)
	require.NoError(t, err)
	server := httptest.NewServer(service)
	ctx, stop := context.WithCancel(t.Context())
	var clerks sync.WaitGroup
	for range 2 { // as two processes would
		clerks.Go(func() { newClerk(service.server).run(ctx, 10*time.Millisecond) })
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	t.Cleanup(func() { stop(); clerks.Wait(); client.CloseIdleConnections(); server.Close() })
	return &flooded{fixture: f, listening: l, url: server.URL, client: client}
}

// post sends an event and returns the status of the answer and its text.
func (f *flooded) post(e dayEvent) (int, string) {
	r, err := http.NewRequest(http.MethodPost, f.url+"/webhooks/finch", strings.NewReader(e.body))
	if err != nil {
		return 0, err.Error()
	}
	r.Header = finch.SignWebhook(webhookSecret, e.id, f.clock(), []byte(e.body))
	if e.forged {
		r.Header.Set(finch.HeaderSignature, "v1,bm90IHRoZSByaWdodCBvbmU=")
	}
	return f.do(r)
}

func (f *flooded) do(r *http.Request) (int, string) {
	answer, err := f.client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(text)
}

// send sends a day, several connections' events side by side, and counts the
// answers.
func (f *flooded) send(d traffic) map[string]int {
	var mu sync.Mutex
	answers := map[string]int{}
	var senders sync.WaitGroup
	const atOnce = 8
	for i := range atOnce {
		senders.Go(func() {
			for c := i; c < len(d.connections); c += atOnce {
				for _, e := range d.events[d.connections[c]] {
					status, text := f.post(e)
					what := fmt.Sprint(status)
					if status == http.StatusOK {
						what = strings.TrimSpace(text)
					}
					mu.Lock()
					answers[what]++
					mu.Unlock()
				}
			}
		})
	}
	senders.Wait()
	return answers
}

// drained waits until everything has been acted upon.
func (f *flooded) drained() {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.count("webhook_lines") == 0 }, 5*time.Minute, 20*time.Millisecond)
}

// check makes sure that a day did what it should.
func (f *flooded) check(d traffic, answers map[string]int) {
	t := f.t
	t.Helper()
	signed, forged, unique := 0, 0, map[string]bool{}
	for _, id := range d.connections {
		var arrived []string
		connected := 0
		for _, e := range d.events[id] {
			if e.forged {
				forged++
				continue
			}
			signed++
			if !unique[e.id] {
				unique[e.id] = true
				arrived = append(arrived, e.id)
				if e.says == "connected" {
					connected++
				}
			}
		}
		require.Equal(t, 1, f.listening.created[id], "one case for each connection")
		// How many that say the same were taken together depends on the moment,
		// and so does how many reports had to ask Temporal.
		require.Equal(t, "reauth", f.listening.told[id][0], "what arrived first")
		restored := slices.DeleteFunc(slices.Clone(f.listening.told[id]), func(told string) bool { return told != "connected" })
		require.LessOrEqual(t, len(restored), connected)
		require.Equal(t, connected > 0, len(restored) > 0)

		list, err := f.db.Webhooks(t.Context(), db.WebhookFilter{ConnectionID: id}, 500)
		require.NoError(t, err)
		slices.Reverse(list)
		var stored []string
		var last time.Time
		for _, e := range list {
			stored = append(stored, e.EventID)
			if e.State == db.WebhookDone {
				require.False(t, e.ProcessedAt.Before(last), "acted upon in order of arrival")
				last = *e.ProcessedAt
			}
		}
		require.Equal(t, arrived, stored, "stored in order of arrival")
	}
	require.Equal(t, map[string]int{
		`{"result":"stored"}`: len(unique), `{"result":"repeated"}`: signed - len(unique), "401": forged,
	}, answers)
	require.Equal(t, len(unique), f.count("webhooks"), "every event once")
	require.Equal(t, len(d.connections), f.count("cases"))
	require.Zero(t, f.count("webhooks WHERE state = 'waiting'"))
}

// A day of webhooks with repetitions, forgeries, events that say nothing to us
// and events that overtook one another opens one case for each connection, and
// the same day once more changes nothing.
func TestADayOfWebhooks(t *testing.T) {
	d := newDay(60, 2400)
	f := newFlooded(t, d.connections)
	answers := f.send(d)
	f.drained()
	f.check(d, answers)

	told := len(f.listening.reports) + len(f.listening.signals)
	rows := f.rows()
	again := f.send(d)
	f.drained()
	require.Equal(t, map[string]int{`{"result":"repeated"}`: answers[`{"result":"stored"}`] + answers[`{"result":"repeated"}`], "401": answers["401"]}, again)
	require.Equal(t, rows, f.rows())
	require.Equal(t, told, len(f.listening.reports)+len(f.listening.signals))
	t.Log(f.costs(4))
}

// costs says what one request of each kind costs the service, as a multiple of
// GET /healthz in the same run: the median, in blocks that take turns.
func (f *flooded) costs(blocks int) string {
	const block = 50
	unknown := `{"connection_id":"` + connID + `","event_type":"individual.updated","data":{"individual_id":"i"}}`
	n := 0
	fresh := func() dayEvent { n++; return dayEvent{id: fmt.Sprintf("msg_cost_%d", n), body: unknown} }
	repeated := fresh()
	f.post(repeated)
	kinds := []struct {
		name string
		do   func() int
		want int
	}{
		{"GET /healthz", func() int {
			r, _ := http.NewRequest(http.MethodGet, f.url+"/healthz", nil)
			status, _ := f.do(r)
			return status
		}, 200},
		{"a forged event", func() int { e := fresh(); e.forged = true; status, _ := f.post(e); return status }, 401},
		{"a repeated event", func() int { status, _ := f.post(repeated); return status }, 200},
		{"a new event that says nothing to us", func() int { status, _ := f.post(fresh()); return status }, 200},
		{"a new event that is acted upon", func() int {
			e := fresh()
			e.body = strings.Replace(accountUpdated("reauth"), connID, "nobody", 1)
			status, _ := f.post(e)
			return status
		}, 200},
	}
	took := make([][]time.Duration, len(kinds))
	for range blocks {
		for i, kind := range kinds {
			for range block {
				began := time.Now()
				if status := kind.do(); status != kind.want {
					return fmt.Sprintf("%s answered %d", kind.name, status)
				}
				took[i] = append(took[i], time.Since(began))
			}
		}
	}
	median := func(i int) float64 {
		slices.Sort(took[i])
		return float64(took[i][len(took[i])/2])
	}
	lines := []string{fmt.Sprintf("median of %d, as multiples of GET /healthz (%.0f µs)", blocks*block, median(0)/1000)}
	for i := 1; i < len(kinds); i++ {
		lines = append(lines, fmt.Sprintf("%s %.1f", kinds[i].name, median(i)/median(0)))
	}
	return strings.Join(lines, " · ")
}

// BenchmarkADayOfWebhooks is 20,000 events of 500 connections, sent twice.
func BenchmarkADayOfWebhooks(b *testing.B) {
	const connections, events = 500, 20_000
	for range b.N {
		b.StopTimer()
		d := newDay(connections, events)
		f := newFlooded(b, d.connections)
		b.StartTimer()
		began := time.Now()
		answers := f.send(d)
		answered := time.Since(began)
		f.drained()
		drained := time.Since(began)
		b.StopTimer()
		f.check(d, answers)
		began = time.Now()
		f.send(d)
		again := time.Since(began)
		b.ReportMetric(events/answered.Seconds(), "events/s")
		b.ReportMetric(events/again.Seconds(), "replayed/s")
		b.ReportMetric(float64(drained-answered)/1e6, "ms-to-drain")
		b.ReportMetric(float64(len(f.listening.reports)+len(f.listening.signals)), "calls-to-Temporal")
		b.Log(f.costs(40))
		b.StartTimer()
	}
}
