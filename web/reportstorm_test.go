package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
)

// stormOf registers connections, and returns what calls the service over HTTP,
// by so many callers at once, and how long a call took on average.
func stormOf(t testing.TB, f *fixture, connections int) (call func(method, path, body string, from, calls, callers, want int) time.Duration) {
	t.Helper()
	for i := range connections {
		_, err := f.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: fmt.Sprint("con-", i)})
		require.NoError(t, err)
	}
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(client.CloseIdleConnections)
	one := func(method, path, body string, want int) error {
		var reader io.Reader
		if body != "" {
			reader = strings.NewReader(body)
		}
		r, err := http.NewRequestWithContext(context.Background(), method, server.URL+path, reader)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+apiKey)
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		if resp.StatusCode != want {
			err = errors.Join(err, fmt.Errorf("status %d: %s", resp.StatusCode, text))
		}
		return errors.Join(err, resp.Body.Close())
	}
	return func(method, path, body string, from, calls, callers, want int) time.Duration {
		failed := make(chan error, callers)
		took := make([]time.Duration, callers)
		var all sync.WaitGroup
		for c := range callers {
			all.Go(func() {
				for i := c; i < calls; i += callers {
					began := time.Now()
					err := one(method, fmt.Sprintf(path, (from+i)%connections), body, want)
					if took[c] += time.Since(began); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		all.Wait()
		close(failed)
		require.NoError(t, <-failed)
		var sum time.Duration
		for _, d := range took {
			sum += d
		}
		return sum / time.Duration(calls)
	}
}

const reported = `{"source":"api_error","finch_code":"reauthenticate_user"}`

// TestReportStormSmall is BenchmarkReportStorm in small, for what it counts.
func TestReportStormSmall(t *testing.T) {
	f := newFixture(t)
	call := stormOf(t, f, 20)
	call("POST", "/v1/connections/con-%d/reauth", reported, 0, 2000, 16, http.StatusAccepted)
	require.Len(t, f.temporal.reports, 20, "one start for each connection")
	require.Equal(t, 20, f.count("cases"))
}

// BenchmarkReportStorm makes 100,000 reports of 1,000 stale connections over
// HTTP, on a real database. It tells how many reached Temporal, and how long a
// report took as a ratio to a plain GET of the connection, in turns with it.
func BenchmarkReportStorm(b *testing.B) {
	const reports, connections, callers, rounds = 100_000, 1000, 16, 20
	for b.Loop() {
		f := newFixture(b, func(c *Config) { c.Limits.Key = NoLimit() })
		call := stormOf(b, f, connections)
		var report, get time.Duration
		for round := range rounds {
			const each = reports / rounds
			report += call("POST", "/v1/connections/con-%d/reauth", reported, round*each, each, callers, http.StatusAccepted)
			get += call("GET", "/v1/connections/con-%d", "", round*each, each, callers, http.StatusOK)
		}
		b.ReportMetric(reports, "reports")
		b.ReportMetric(float64(len(f.temporal.reports)), "starts")
		b.ReportMetric(float64(report)/float64(get), "report/get-ratio")
		b.ReportMetric(float64(get)/rounds/1e6, "get-mean-ms")
		b.ReportMetric(0, "ns/op")
	}
}
