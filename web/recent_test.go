package web

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRecent(t *testing.T) {
	var r recent
	require.False(t, r.has("a"))
	r.add("a")
	for i := range recentAtMost {
		r.add(fmt.Sprint(i))
		require.True(t, r.has("a"))
	}
	require.True(t, r.has("0"))
	for i := range recentAtMost {
		r.add(fmt.Sprint("more ", i))
	}
	require.False(t, r.has("a"))
	require.LessOrEqual(t, len(r.young)+len(r.old), 2*recentAtMost)
}

// What this process has stored it knows without asking; another asks.
func TestRepeatedWebhooksAskNobody(t *testing.T) {
	f := newFixture(t)
	require.JSONEq(t, `{"result":"stored"}`, f.event("msg_1", `{"event_type":"test"}`).Body.String())
	second, err := New(f.config)
	require.NoError(t, err)
	first := f.handler
	f.handler = second
	require.JSONEq(t, `{"result":"repeated"}`, f.event("msg_1", `{"event_type":"test"}`).Body.String())
	f.dbDown()
	for _, f.handler = range []http.Handler{first, second} {
		require.JSONEq(t, `{"result":"repeated"}`, f.event("msg_1", `{"event_type":"test"}`).Body.String())
	}
	w := f.event("msg_2", `{"event_type":"test"}`)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"), "Finch shall come again")
	require.Equal(t, http.StatusServiceUnavailable, f.event("msg_2", `{"event_type":"test"}`).Code, "what was not stored is not known")
}
