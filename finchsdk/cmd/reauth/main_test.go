package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/dev"
	"github.com/finch-reauth/reauth/finch/finchsim"
)

const (
	clientID     = "4ab15e51-11ad-49f4-acae-f343b7794375"
	clientSecret = "planted-client-secret-8c40"
	patience     = 5 * time.Minute
)

// recorder is Finch, and remembers by which client each call was made.
type recorder struct {
	sim atomic.Pointer[finchsim.Sim]

	mu     sync.Mutex
	agents map[string]map[string]bool // by endpoint
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	sim := r.sim.Load()
	if sim == nil {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	r.mu.Lock()
	endpoint := request.Method + " " + request.URL.Path
	if r.agents[endpoint] == nil {
		r.agents[endpoint] = map[string]bool{}
	}
	r.agents[endpoint][request.UserAgent()] = true
	r.mu.Unlock()
	sim.ServeHTTP(w, request)
}

// TestACaseWithTheOfficialClient runs the whole program and brings one
// connection back: every call to Finch, by worker and service, is the official
// client's.
func TestACaseWithTheOfficialClient(t *testing.T) {
	finch := &recorder{agents: map[string]map[string]bool{}}
	server := httptest.NewServer(finch)
	defer server.Close()
	ready := start(t, server.URL)
	sim, err := finchsim.New(finchsim.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{ready.APIURL + "/callback"}})
	require.NoError(t, err)
	defer sim.Close()
	require.NoError(t, sim.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = false }))
	finch.sim.Store(sim)

	connection, token, err := sim.AddConnection(finchsim.NewConnection{CustomerName: "Acme", ProviderID: "gusto"})
	require.NoError(t, err)
	path := "/v1/connections/" + connection.ID
	call := func(method, path string, body any, out any) {
		t.Helper()
		text, err := json.Marshal(body)
		require.NoError(t, err)
		request, err := http.NewRequestWithContext(t.Context(), method, ready.APIURL+path, bytes.NewReader(text))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+ready.APIKey)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		var answer json.RawMessage
		require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
		require.Less(t, response.StatusCode, 300, "%s %s: %s", method, path, answer)
		require.NoError(t, json.Unmarshal(answer, out))
	}
	var ignored json.RawMessage
	call(http.MethodPut, path, map[string]any{
		"customer_name": "Acme", "access_token": token,
		"contacts": []map[string]string{{"email": "someone@acme.example", "name": "Someone"}},
	}, &ignored)
	require.NoError(t, sim.Break(connection.ID))
	call(http.MethodPost, path+"/reauth", map[string]any{"source": "api_error", "finch_code": "reauthenticate_user"}, &ignored)

	var view struct {
		Phase   string `json:"phase"`
		Outcome string `json:"outcome"`
		Session struct {
			ID string `json:"id"`
		} `json:"session"`
	}
	require.Eventually(t, func() bool {
		response, err := get(ready, path+"/reauth", &view)
		return err == nil && response == http.StatusOK && view.Phase == "awaiting_customer"
	}, patience, 50*time.Millisecond)
	code, err := sim.CompleteEmbedded(view.Session.ID, finchsim.SameAccount)
	require.NoError(t, err)
	call(http.MethodPost, path+"/reauth/code", map[string]any{"code": code}, &ignored)
	require.Eventually(t, func() bool {
		_, err := get(ready, path+"/reauth", &view)
		return err == nil && view.Outcome == "recovered"
	}, patience, 50*time.Millisecond)

	finch.mu.Lock()
	defer finch.mu.Unlock()
	for _, endpoint := range []string{"GET /introspect", "POST /connect/sessions/reauthenticate", "POST /auth/token"} {
		assert.Equal(t, map[string]bool{"Finch/Go 2.4.0": true}, finch.agents[endpoint], endpoint)
	}
}

func get(ready dev.Ready, path string, out any) (status int, err error) {
	request, err := http.NewRequest(http.MethodGet, ready.APIURL+path, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+ready.APIKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return response.StatusCode, json.NewDecoder(response.Body).Decode(out)
}

// start builds the program, runs `reauth dev` with this Finch, and says where
// everything is.
func start(t *testing.T, finchURL string) (ready dev.Ready) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "reauth")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	file := filepath.Join(t.TempDir(), "ready.json")
	var log bytes.Buffer
	cmd := exec.Command(binary, "dev", "--data", t.TempDir(), "--ports", "auto", "--ready-file", file)
	cmd.Env = append(os.Environ(), "DATABASE_URL=", "FINCH_CLIENT_ID="+clientID, "FINCH_CLIENT_SECRET="+clientSecret, "FINCH_BASE_URL="+finchURL)
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		<-ended
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil {
			require.NoError(t, json.Unmarshal(text, &ready))
			return ready
		}
		select {
		case <-ended:
			t.Fatal("it ended before it was ready")
		default:
		}
		require.Less(t, time.Since(begin), patience, "it was not ready in time")
	}
}
