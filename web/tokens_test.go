package web

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestGetTokenAfterAGeneration(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	none := f.api(204, "GET", connectionURL+"/token?wait=1", nil, nil)
	require.Empty(t, none.Body.String())
	require.Equal(t, "connected", none.Header().Get("Reauth-Connection-Status"))
	f.adopt("token-Hush-1")
	var token TokenView
	w := f.api(200, "GET", connectionURL+"/token?after=0&wait=50", nil, &token)
	require.Equal(t, "connected", w.Header().Get("Reauth-Connection-Status"))
	require.Equal(t, "token-Hush-1", token.AccessToken)
	f.api(204, "GET", connectionURL+"/token?after=1", nil, nil)
	require.NoError(t, f.db.SetConnectionStatus(t.Context(), connID, reauth.StatusStale, f.clock()))
	w = f.api(204, "GET", connectionURL+"/token?after=7&wait=1", nil, nil)
	require.Equal(t, "stale", w.Header().Get("Reauth-Connection-Status"))
	require.Empty(t, w.Body.String())

	for query, want := range map[string]string{
		"after=-1": "query.after", "after=x": "query.after", "wait=51": "query.wait: expected number <= 50", "wait=5s": "query.wait", "since=1": "known are after, wait",
	} {
		require.Contains(t, f.problem(422, "GET", connectionURL+"/token?"+query, nil).Detail, want)
	}
	f.problem(404, "GET", "/v1/connections/nobody/token?after=1&wait=50", nil)
}

const (
	waitLimit = 30 * time.Second
	tick      = 10 * time.Millisecond
)

func loggerTo(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// waitingFor waits until so many wait.
func waitingFor(t *testing.T, w *waits, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.waiting) == n
	}, waitLimit, tick)
}

func TestManyWaitForTheirTokens(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.register("never")
	f.adopt("token-Hush-1")
	s := f.handler.(*Service).server
	server := httptest.NewServer(f.handler)
	defer server.Close()
	get := func(id string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v1/connections/"+id+"/token?after=1&wait=50", nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+apiKey)
		return http.DefaultClient.Do(r)
	}
	const n = 300
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			resp, err := get(connID)
			if !assert.NoError(t, err) {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			var token TokenView
			assert.NoError(t, json.NewDecoder(resp.Body).Decode(&token))
			assert.Equal(t, "token-Hush-2", token.AccessToken)
			assert.EqualValues(t, 2, token.Generation)
		})
	}
	gone, leave := context.WithCancel(t.Context())
	all.Go(func() {
		r, err := http.NewRequestWithContext(gone, "GET", server.URL+"/v1/connections/never/token?wait=50", nil)
		assert.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+apiKey)
		_, err = http.DefaultClient.Do(r)
		assert.ErrorIs(t, err, context.Canceled)
	})
	waitingFor(t, &s.waits, n+1)
	f.adopt("token-Hush-2")
	waitingFor(t, &s.waits, 1)
	leave()
	all.Wait()
	waitingFor(t, &s.waits, 0)
	require.Eventually(t, func() bool {
		s.waits.mu.Lock()
		defer s.waits.mu.Unlock()
		return !s.waits.looking
	}, waitLimit, tick, "nobody waits, so nobody looks")
}

func TestWaitingEndsWithTheConnection(t *testing.T) {
	f := newFixture(t)
	f.register(connID)
	f.adopt("token-Hush-1")
	s := f.handler.(*Service).server
	done := make(chan problemBody)
	go func() { done <- f.problem(404, "GET", connectionURL+"/token?after=1&wait=50", nil) }()
	waitingFor(t, &s.waits, 1)
	_, err := f.db.RemoveConnection(t.Context(), connID)
	require.NoError(t, err)
	require.Contains(t, (<-done).Detail, "was removed")
}

func TestWaitingEndsWithTheService(t *testing.T) {
	stopping, stop := context.WithCancel(t.Context())
	f := newFixture(t, func(c *Config) { c.Stopping = stopping })
	f.register(connID)
	s := f.handler.(*Service).server
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.api(204, "GET", connectionURL+"/token?wait=50", nil, nil)
	}()
	waitingFor(t, &s.waits, 1)
	stop()
	<-done
	f.api(204, "GET", connectionURL+"/token?wait=50", nil, nil)
}

// Whoever waits as long as is allowed gets an answer that is no failure: the
// request may take longer than the wait, and less than the server writes.
func TestTheLongestWaitFits(t *testing.T) {
	_, working := boundsOf(httptest.NewRequest("GET", connectionURL+"/token?wait=50", nil))
	require.Greater(t, working, maxTokenWait)
	require.Less(t, working, 60*time.Second)
	_, other := boundsOf(httptest.NewRequest("GET", connectionURL, nil))
	require.Equal(t, maxWorking, other)
}

// However many wait, the database gets one question at a time.
func TestOneQuestionForAllWhoWait(t *testing.T) {
	var w waits
	var asked atomic.Int32
	var most atomic.Int64
	failing := errDown
	look := func(_ context.Context, waiters []db.Waiter) ([]string, error) {
		most.Store(max(most.Load(), int64(len(waiters))))
		if asked.Add(1) == 1 {
			return nil, failing
		}
		return []string{"c-1"}, nil
	}
	var log syncBuffer
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() { w.await(t.Context(), db.Waiter{ConnectionID: "c-1", After: 1}, look, loggerTo(&log)) })
	}
	all.Wait()
	require.LessOrEqual(t, asked.Load(), int32(4), "a failure, and those who came between two looks")
	require.Positive(t, most.Load())
	require.LessOrEqual(t, strings.Count(log.String(), "cannot be looked for"), 1)
}
