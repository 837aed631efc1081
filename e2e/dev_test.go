package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/dev"
	"github.com/finch-reauth/reauth/reauth"
)

// environment is a running `reauth dev`.
type environment struct {
	*stack // for its browser and its patience; it has no parts of its own
	cmd    *exec.Cmd
	data   string
	file   string
}

func startDev(t *testing.T, data string, arguments ...string) *environment {
	t.Helper()
	return startDevWith(t, nil, data, arguments...)
}

// startDevWith starts it with more settings, as "NAME=value".
func startDevWith(t *testing.T, settings []string, data string, arguments ...string) *environment {
	t.Helper()
	binary, err := program()
	require.NoError(t, err)
	e := &environment{stack: &stack{t: t, logs: &logs{}}, data: data, file: filepath.Join(t.TempDir(), "ready.json")}
	e.cmd = exec.Command(binary, append([]string{"dev", "--data", data, "--ports", "auto", "--ready-file", e.file}, arguments...)...)
	e.cmd.Stdout, e.cmd.Stderr = e.logs, e.logs
	e.cmd.Env = append(append(os.Environ(), "FINCH_CLIENT_ID=", "DATABASE_URL="), settings...)
	require.NoError(t, e.cmd.Start())
	t.Cleanup(e.stop)
	e.eventually("everything answers", func() bool { _, err := os.Stat(e.file); return err == nil })
	ready := e.ready()
	e.url, e.finchURL = ready.APIURL, ready.FinchURL
	return e
}

// stop is Ctrl-C.
func (e *environment) stop() {
	if e.cmd.ProcessState == nil {
		_ = e.cmd.Process.Signal(syscall.SIGINT)
		_ = e.cmd.Wait()
	}
}

func (e *environment) ready() dev.Ready {
	e.t.Helper()
	text, err := os.ReadFile(e.file)
	require.NoError(e.t, err)
	var ready dev.Ready
	require.NoError(e.t, json.Unmarshal(text, &ready))
	return ready
}

// api calls until there is an answer: serve may just be starting again.
func (e *environment) api(method, path string, body any) (status int, out map[string]any) {
	e.t.Helper()
	e.eventually("the API answers "+method+" "+path, func() bool {
		var reader *strings.Reader = strings.NewReader("")
		if body != nil {
			raw, err := json.Marshal(body)
			require.NoError(e.t, err)
			reader = strings.NewReader(string(raw))
		}
		request, err := http.NewRequest(method, e.url+path, reader)
		require.NoError(e.t, err)
		request.Header.Set("Authorization", "Bearer "+e.ready().APIKey)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		status, out = response.StatusCode, nil
		return json.NewDecoder(response.Body).Decode(&out) == nil && status < 500
	})
	return status, out
}

// staleConnection is the sample connection that is stale from the start.
func (e *environment) staleConnection() string {
	e.t.Helper()
	_, list := e.api(http.MethodGet, "/v1/connections?status=stale", nil)
	connections, _ := list["connections"].([]any)
	require.NotEmpty(e.t, connections, "%v", list)
	first, _ := connections[0].(map[string]any)
	return fmt.Sprint(first["connection_id"])
}

func (e *environment) linkOf(connection string) string {
	e.t.Helper()
	var link string
	e.eventually("the case has a link", func() bool {
		_, view := e.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
		link, _ = view["link"].(string)
		return link != "" && view["phase"] == "awaiting_customer"
	})
	return link
}

// 11: every process of a whole installation may be killed with SIGKILL, and
// the case that is open meanwhile goes on.
func TestEveryProcessMayBeKilled(t *testing.T) {
	t.Parallel()
	e := startDev(t, t.TempDir())
	connection := e.staleConnection()
	e.linkOf(connection)
	for _, name := range []string{"worker", "serve", "finch", "inbox", "temporal", "postgres"} {
		before := e.ready().Pids[name]
		require.NotZero(t, before, name)
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		e.eventually(name+" runs again", func() bool {
			now := e.ready().Pids[name]
			return now != 0 && now != before
		})
	}
	link := e.linkOf(connection)
	b := e.browser()
	var connect page
	e.eventually("the link leads to Connect", func() bool {
		p := b.get(link)
		if p.status != http.StatusOK || !strings.Contains(p.body, "<form") {
			return false
		}
		connect = b.press(p, "")
		return strings.HasPrefix(connect.url.String(), e.finchURL)
	})
	e.settle(b, b.press(connect, "authorize"))
	e.eventually("the case has recovered", func() bool {
		_, view := e.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
		return view["outcome"] == string(reauth.OutcomeRecovered)
	})
}

// 2: a token that a provider minted and that reached us is never lost, though
// Temporal and PostgreSQL are killed while the exchange is under way.
func TestTemporalAndPostgresAreKilledAmidTheExchange(t *testing.T) {
	t.Parallel()
	e := startDev(t, t.TempDir())
	connection := e.staleConnection()
	b := e.browser()
	connect := e.toConnect(b, e.linkOf(connection))
	e.finch(http.MethodPut, "/sim/knobs", `{"latency": {"POST /auth/token": "4s"}}`)
	p := b.press(connect, "authorize")
	e.eventually("the exchange is under way", func() bool {
		calls, _ := e.finch(http.MethodGet, "/sim/counters", "")["calls"].(map[string]any)
		n, _ := calls["POST /auth/token"].(float64)
		return n >= 1
	})
	for _, name := range []string{"temporal", "postgres"} {
		require.NoError(t, syscall.Kill(e.ready().Pids[name], syscall.SIGKILL))
	}
	e.eventually("the case has recovered", func() bool {
		_, view := e.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
		return view["outcome"] == string(reauth.OutcomeRecovered)
	})
	exchanges, _ := e.finch(http.MethodGet, "/sim/counters", "")["exchanges"].(map[string]any)
	require.Len(t, exchanges, 1)
	for _, n := range exchanges {
		assert.EqualValues(t, 1, n, "the code was exchanged once")
	}
	assert.Equal(t, http.StatusOK, e.settle(b, b.get(p.url.String())).status)
}

// finch calls the simulator's controls.
func (e *environment) finch(method, path, body string) (out map[string]any) {
	e.t.Helper()
	request, err := http.NewRequest(method, e.finchURL+path, strings.NewReader(body))
	require.NoError(e.t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(e.t, err)
	defer response.Body.Close()
	require.Equal(e.t, http.StatusOK, response.StatusCode)
	require.NoError(e.t, json.NewDecoder(response.Body).Decode(&out))
	return out
}

// A second start resumes where the first one stopped, open cases included.
func TestDevResumes(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first := startDev(t, data)
	connection := first.staleConnection()
	link := first.linkOf(connection)
	_, before := first.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
	pids := first.ready().Pids
	first.stop()
	for name, pid := range pids {
		assert.Error(t, syscall.Kill(pid, 0), "%s has been stopped", name)
	}

	second := startDev(t, data)
	assert.Equal(t, link, second.linkOf(connection), "links in mails stay valid")
	_, after := second.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
	assert.Equal(t, before["case_id"], after["case_id"])
	b := second.browser()
	second.settle(b, b.press(second.toConnect(b, link), "authorize"))
	second.eventually("the case has recovered", func() bool {
		_, view := second.api(http.MethodGet, "/v1/connections/"+connection+"/reauth", nil)
		return view["outcome"] == string(reauth.OutcomeRecovered)
	})
}

// Several can run on one machine, and one data folder serves one of them.
func TestDevBesideAnother(t *testing.T) {
	t.Parallel()
	one, two := startDev(t, t.TempDir()), startDev(t, t.TempDir())
	assert.NotEqual(t, one.ready().APIURL, two.ready().APIURL)
	binary, err := program()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "dev", "--data", one.data, "--ports", "auto").CombinedOutput()
	require.Error(t, err)
	assert.Len(t, strings.Split(strings.TrimSpace(string(out)), "\n"), 1, "one line says why: %s", out)
	_, connections := one.api(http.MethodGet, "/v1/connections", nil)
	assert.NotEmpty(t, connections["connections"], "the first one was not disturbed")
}

// The demo is what a newcomer sees first.
func TestDemo(t *testing.T) {
	t.Parallel()
	binary, err := program()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "demo")
	cmd.Env = append(os.Environ(), "FINCH_CLIENT_ID=", "DATABASE_URL=")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "the same call works again")
}
