package finchsim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Finch's own Node client finds in the simulator the Finch that it was made for.
func TestWithFinchsOwnClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is not installed, but this must be checked where CI=true")
		}
		t.Skip("node is not installed; install Node.js 20 or newer, with npm, to check the simulator with Finch's own client")
	}
	npm, err := exec.LookPath("npm")
	require.NoError(t, err, "node is installed, but npm is not")

	// The packages are installed beside a copy, so that nothing of them stays.
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc", "check.mjs"} {
		text, err := os.ReadFile(filepath.Join("nodecheck", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	run := func(env []string, name string, args ...string) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	run(nil, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")

	type webhook struct {
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
	}
	var mu sync.Mutex
	sent := []webhook{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet {
			_ = json.NewEncoder(w).Encode(sent)
			return
		}
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		one := webhook{Headers: map[string]string{}, Body: string(body)}
		for name := range r.Header {
			one.Headers[name] = r.Header.Get(name)
		}
		sent = append(sent, one)
	}))
	defer receiver.Close()

	cfg := config()
	cfg.WebhookURL, cfg.WebhookSecret = receiver.URL, webhookSecret
	b := start(t, cfg)
	run([]string{
		"FINCH_URL=" + b.URL, "FINCH_CLIENT_ID=" + clientID, "FINCH_CLIENT_SECRET=" + clientSecret,
		"FINCH_WEBHOOK_SECRET=" + webhookSecret, "REDIRECT_URI=" + callback, "WEBHOOKS_URL=" + receiver.URL,
	}, node, "check.mjs")
}
