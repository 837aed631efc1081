package starter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/starter"
)

// staleServer answers every call as Finch does for a stale connection, after a
// while.
func staleServer(t testing.TB, after time.Duration) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(after)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, staleBody)
	}))
	t.Cleanup(server.Close)
	return server
}

// storm makes calls of stale connections with a client, by so many callers at
// once, and returns how long each was held up.
func storm(rt http.RoundTripper, url string, from, calls, connections, callers int) ([]time.Duration, error) {
	took := make([]time.Duration, calls)
	failed := make(chan error, callers)
	client := &http.Client{Transport: rt}
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := c; i < calls; i += callers {
				n := (from + i) % connections
				ctx := starter.WithConnection(context.Background(), fmt.Sprint("con-", n))
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
				if err != nil {
					failed <- err
					return
				}
				req.Header.Set("Authorization", fmt.Sprint("Bearer token-", n))
				began := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					failed <- err
					return
				}
				text, err := io.ReadAll(resp.Body)
				took[i] = time.Since(began)
				if err = errors.Join(err, resp.Body.Close()); err == nil && string(text) != staleBody {
					err = errors.New("the caller got something else")
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return took, <-failed
}

// TestStormSmall is BenchmarkStorm in small, for what it counts.
func TestStormSmall(t *testing.T) {
	server := staleServer(t, 0)
	var r reports
	transport := r.transport(server.Client().Transport)
	_, err := storm(transport, server.URL, 0, 5000, 50, 32)
	require.NoError(t, err)
	got := closed(t, transport, &r)
	require.Len(t, got, 50, "one report of each connection")
	seen := map[string]bool{}
	for _, in := range got {
		seen[in.ConnectionID] = true
	}
	require.Len(t, seen, 50)
	require.Empty(t, r.errors())
	require.Equal(t, starter.Stats{Stale: 5000, Coalesced: 4950, Reported: 50}, transport.Stats())
}

// BenchmarkStorm makes 100,000 failing calls of 1,000 stale connections, in turns
// through a Transport and through a plain client on the same server. It tells how
// many reports were made, and how long the callers were held up as a ratio to the
// plain client: the mean, the median and the 99th percentile. Finch takes some
// tens of milliseconds at best; where the server answers at once, callers and
// server fight for the processors, and the ratio is that of the work they do.
func BenchmarkStorm(b *testing.B) {
	b.Run("provider takes 20 ms", func(b *testing.B) { benchmarkStorm(b, 20*time.Millisecond, 64) })
	b.Run("provider answers at once", func(b *testing.B) { benchmarkStorm(b, 0, 64) })
}

func benchmarkStorm(b *testing.B, latency time.Duration, callers int) {
	const calls, connections, rounds = 100_000, 1000, 20
	server := staleServer(b, latency)
	base := server.Client().Transport.(*http.Transport)
	base.MaxIdleConnsPerHost = callers
	for b.Loop() {
		var r reports
		transport := r.transport(base)
		var plain, watched []time.Duration
		for round := range rounds {
			const each = calls / rounds
			for _, of := range []struct {
				rt   http.RoundTripper
				took *[]time.Duration
			}{{base, &plain}, {transport, &watched}} {
				took, err := storm(of.rt, server.URL, round*each, each, connections, callers)
				if err != nil {
					b.Fatal(err)
				}
				*of.took = append(*of.took, took...)
			}
		}
		if err := transport.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(transport.Stats().Stale), "calls")
		b.ReportMetric(float64(len(r.all())), "reports")
		b.ReportMetric(mean(watched)/mean(plain), "mean-ratio")
		b.ReportMetric(quantile(watched, 0.5)/quantile(plain, 0.5), "p50-ratio")
		b.ReportMetric(quantile(watched, 0.99)/quantile(plain, 0.99), "p99-ratio")
		b.ReportMetric(mean(plain)/1e6, "plain-mean-ms")
		b.ReportMetric(0, "ns/op")
	}
}

func mean(list []time.Duration) float64 {
	var sum time.Duration
	for _, d := range list {
		sum += d
	}
	return float64(sum) / float64(len(list))
}

func quantile(list []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return float64(sorted[int(q*float64(len(sorted)-1))])
}
