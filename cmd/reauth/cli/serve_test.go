package cli

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A client that sends slowly, a lot, or nothing more does not keep a connection.
func TestTheServerIsBounded(t *testing.T) {
	server := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }), slog.New(slog.DiscardHandler))
	require.Positive(t, server.ReadHeaderTimeout)
	require.Positive(t, server.ReadTimeout)
	require.Positive(t, server.WriteTimeout)
	require.Positive(t, server.IdleTimeout)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	for size, want := range map[int]int{1 << 10: http.StatusOK, 1 << 20: http.StatusRequestHeaderFieldsTooLarge} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
		require.NoError(t, err)
		request.Header.Set("X-Large", strings.Repeat("x", size))
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, want, response.StatusCode)
	}
}

func TestNothingIsOpenToTheWorld(t *testing.T) {
	for _, test := range []struct {
		url, codec, metrics, want string
	}{
		{"https://reauth.example.com", "false", "0", ""},
		{"http://localhost:8080", "true", "1", ""},
		{"https://reauth.example.com", "true", "false", "REAUTH_CODEC_OPEN is true, but REAUTH_PUBLIC_URL is not an address of this machine alone; it wants false, and an API key with the scope codec, for example REAUTH_CODEC_OPEN=false"},
		{"http://10.1.2.3:8080", "false", "1", "REAUTH_METRICS_OPEN is true"},
	} {
		var c serveCommand
		c.PublicURL, c.CodecOpen, c.MetricsOpen = test.url, test.codec, test.metrics
		err := c.checkOpen()
		if test.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, test.want)
	}
}
