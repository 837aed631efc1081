package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/dev"
	"github.com/finch-reauth/reauth/dev/postgres"
	"github.com/finch-reauth/reauth/dev/temporal"
)

// What follows runs the program itself, on real servers.

// patience is how long anything here may take; on a busy machine, the first
// build of Temporal alone takes minutes.
const patience = 10 * time.Minute

var buildOnce struct {
	sync.Once
	folder, path string
	err          error
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(buildOnce.folder)
	os.Exit(code)
}

// program builds the reauth program, once for all tests.
func program(t *testing.T) string {
	t.Helper()
	b := &buildOnce
	b.Do(func() {
		if b.folder, b.err = os.MkdirTemp("", "reauth-program-"); b.err != nil {
			return
		}
		b.path = filepath.Join(b.folder, "reauth")
		out, err := exec.Command("go", "build", "-o", b.path, "..").CombinedOutput()
		if err != nil {
			b.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	require.NoError(t, b.err)
	return b.path
}

// running is a program that a test has started.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output may be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func begin(t *testing.T, settings map[string]string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(program(t), args...), out: &output{}, done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "REAUTH_") && !strings.HasPrefix(name, "FINCH_") && !strings.HasPrefix(name, "TEMPORAL_") && name != "DATABASE_URL" && name != "SMTP_URL" {
			r.cmd.Env = append(r.cmd.Env, variable)
		}
	}
	for name, value := range settings {
		r.cmd.Env = append(r.cmd.Env, name+"="+value)
	}
	require.NoError(t, r.cmd.Start())
	go func() { defer close(r.done); _ = r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("reauth %s:\n%s", strings.Join(args, " "), r.out)
		}
	})
	return r
}

// ends waits for the program and returns its exit code.
func (r *running) ends() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		require.FailNow(r.t, "the program does not end")
	}
	return r.cmd.ProcessState.ExitCode()
}

// until waits for something, as long as the program runs.
func (r *running) until(what string, reached func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-r.done:
			require.FailNow(r.t, "the program ended before "+what)
		default:
			require.True(r.t, time.Now().Before(deadline), "waiting until "+what)
		}
	}
}

// readyAt waits for the ready file and reads it.
func (r *running) readyAt(file string) dev.Ready {
	r.t.Helper()
	var ready dev.Ready
	r.until("it is ready", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(text, &ready) == nil && ready.Pids["dev"] == r.cmd.Process.Pid
	})
	return ready
}

func alive(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, after, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(after, "Z") // a zombie is dead
	}
	return syscall.Kill(pid, 0) == nil
}

func requireGone(t *testing.T, pids map[string]int) {
	t.Helper()
	for name, pid := range pids {
		require.Eventually(t, func() bool { return !alive(pid) }, time.Minute, 20*time.Millisecond, name)
	}
}

func get(t *testing.T, address, key string, into any) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	if into != nil && response.StatusCode == http.StatusOK {
		require.NoError(t, json.Unmarshal(text, into), string(text))
	}
	return response.StatusCode
}

func TestDev(t *testing.T) {
	t.Parallel()
	data, file := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "ready.json")
	args := []string{"dev", "--data", data, "--ready-file", file, "--ports", "auto"}

	// A ready file of a predecessor that was killed is not believed.
	require.NoError(t, os.WriteFile(file, []byte("left behind"), 0o600))
	first := begin(t, nil, args...)
	ready := first.readyAt(file)
	for _, name := range []string{"dev", "postgres", "temporal", "worker", "serve", "finch", "inbox"} {
		require.Contains(t, ready.Pids, name)
		require.True(t, alive(ready.Pids[name]), name)
	}
	require.Equal(t, first.cmd.Process.Pid, ready.Pids["dev"])
	require.NotEmpty(t, ready.FinchClientID)
	require.NotEmpty(t, ready.FinchClientSecret)
	require.NotEmpty(t, ready.FinchWebhookSecret)
	for _, address := range []string{ready.APIURL + "/readyz", ready.APIURL + "/docs", ready.InboxURL, ready.FinchURL, ready.TemporalUIURL} {
		require.Equal(t, http.StatusOK, get(t, address, "", nil), address)
		require.Contains(t, first.out.String(), address[:strings.LastIndex(address, ":")+6])
	}
	for _, name := range []string{"keyset", "api-key"} {
		require.Contains(t, first.out.String(), filepath.Join(data, name), "what was made is said")
		info, err := os.Stat(filepath.Join(data, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	for _, secret := range []string{ready.APIKey, ready.FinchClientSecret, ready.DatabaseURL} {
		require.NotContains(t, first.out.String(), secret)
	}

	// Three connections, one of them stale, with its mail in the inbox.
	var connections struct {
		Connections []struct {
			ConnectionID string `json:"connection_id"`
			Status       string `json:"status"`
		} `json:"connections"`
	}
	require.Equal(t, http.StatusOK, get(t, ready.APIURL+"/v1/connections", ready.APIKey, &connections))
	require.Len(t, connections.Connections, 3)
	stale := slices.IndexFunc(connections.Connections, func(c struct {
		ConnectionID string `json:"connection_id"`
		Status       string `json:"status"`
	}) bool {
		return c.Status == "stale"
	})
	require.GreaterOrEqual(t, stale, 0)
	var mails []struct {
		Links []string `json:"links"`
	}
	require.Equal(t, http.StatusOK, get(t, ready.InboxURL+"/api/messages", "", &mails))
	require.Len(t, mails, 1)
	require.True(t, slices.ContainsFunc(mails[0].Links, func(link string) bool { return strings.HasPrefix(link, ready.APIURL+"/r/") }))

	second := begin(t, nil, args...)
	require.Equal(t, exitFailure, second.ends())
	require.Contains(t, second.out.String(), "another `reauth dev` works with the data in "+data)
	require.True(t, alive(ready.Pids["serve"]), "the first one is not disturbed")

	// What is killed is started again, and the ready file says so.
	for _, name := range []string{"worker", "serve", "finch", "inbox", "postgres", "temporal"} {
		require.NoError(t, syscall.Kill(ready.Pids[name], syscall.SIGKILL), name)
	}
	var now dev.Ready
	first.until("everything is back", func() bool {
		now = first.readyAt(file)
		for name, pid := range now.Pids {
			if name != "dev" && (pid == ready.Pids[name] || !alive(pid)) {
				return false
			}
		}
		return get(t, now.APIURL+"/readyz", "", nil) == http.StatusOK
	})
	require.Len(t, now.Pids, len(ready.Pids))
	var before, after dev.Ready
	before, after = ready, now
	before.Pids, after.Pids = nil, nil
	require.Equal(t, before, after, "every address stays")

	// Killing it leaves nothing behind.
	require.NoError(t, first.cmd.Process.Kill())
	requireGone(t, now.Pids)

	// A second start resumes: the same addresses, and the open case.
	third := begin(t, nil, args...)
	resumed := third.readyAt(file)
	after = resumed
	after.Pids = nil
	require.Equal(t, before, after)
	var open struct {
		Phase   string `json:"phase"`
		Outcome string `json:"outcome"`
	}
	require.Equal(t, http.StatusOK, get(t, resumed.APIURL+"/v1/connections/"+connections.Connections[stale].ConnectionID+"/reauth", resumed.APIKey, &open))
	require.Equal(t, "awaiting_customer", open.Phase)
	require.Equal(t, http.StatusOK, get(t, resumed.APIURL+"/v1/connections", resumed.APIKey, &connections))
	require.Len(t, connections.Connections, 3, "no further samples")
	require.NotContains(t, third.out.String(), "made a keyset")

	// The command line reaches the case through Temporal.
	connectionID := connections.Connections[stale].ConnectionID
	here := map[string]string{"TEMPORAL_ADDRESS": resumed.TemporalAddress, "REAUTH_KEYSET": "file:" + filepath.Join(data, "keyset")}
	status := begin(t, here, "status", connectionID)
	require.Equal(t, exitOK, status.ends(), status.out)
	require.Contains(t, status.out.String(), "awaiting_customer")
	status = begin(t, here, "status", "--json", connectionID)
	require.Equal(t, exitOK, status.ends(), status.out)
	require.Contains(t, status.out.String(), `"phase": "awaiting_customer"`)
	start := begin(t, here, "start", "--reason", "seen by a person", connectionID)
	require.Equal(t, exitOK, start.ends(), start.out)
	require.Contains(t, start.out.String(), "a case is open already: workflow reauth-"+connectionID)
	unknown := begin(t, here, "status", "never-reported")
	require.Equal(t, exitFailure, unknown.ends())
	require.Contains(t, unknown.out.String(), "no case of connection never-reported is known to Temporal")

	// Ctrl-C stops everything.
	require.NoError(t, third.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitOK, third.ends(), third.out)
	requireGone(t, resumed.Pids)
	require.NoFileExists(t, file)
}

// With credentials for it the real Finch is used, and a given database too.
func TestDevWithWhatIsThere(t *testing.T) {
	t.Parallel()
	database, err := postgres.Start(t.Context(), postgres.Options{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Stop() })
	require.NoError(t, database.EnsureDatabase(t.Context(), "mine"))
	finch := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(finch.Close)
	data, file := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "ready.json")
	r := begin(t, map[string]string{
		"FINCH_CLIENT_ID": "client-1", "FINCH_CLIENT_SECRET": "secret-1", "FINCH_BASE_URL": finch.URL,
		"DATABASE_URL": database.URL("mine"), "REAUTH_PUBLIC_URL": "https://tunnel.example.com",
		"TEMPORAL_ADDRESS": "127.0.0.1:1", "TEMPORAL_TLS": "true", // somebody else's
	}, "dev", "--data", data, "--ready-file", file, "--ports", "auto")
	ready := r.readyAt(file)
	require.Equal(t, finch.URL, ready.FinchURL)
	require.Equal(t, "client-1", ready.FinchClientID)
	require.Equal(t, "secret-1", ready.FinchClientSecret)
	require.Equal(t, database.URL("mine"), ready.DatabaseURL)
	require.NotContains(t, ready.Pids, "finch")
	require.NotContains(t, ready.Pids, "postgres")
	require.Contains(t, r.out.String(), "https://tunnel.example.com/callback")
	require.NotContains(t, r.out.String(), database.URL("mine"))
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitOK, r.ends())
	select {
	case <-database.Done():
		require.Fail(t, "a database that it did not start is left alone")
	default:
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	temporary := t.TempDir()
	demo := begin(t, map[string]string{
		"TMPDIR": temporary,
		// What is set for something else does not get into its way.
		"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "REAUTH_SESSION_MINUTES": "x", "FINCH_CLIENT_ID": "real", "TEMPORAL_ADDRESS": "127.0.0.1:1",
	}, "demo")
	require.Equal(t, exitOK, demo.ends())
	for _, line := range []string{
		"everything answers", "registered the connection", "the backend's call, GET /employer/company, works",
		"broke the connection", "401 reauthenticate_user", "a case is open", "has mail", "its link opens a page",
		"its button leads to Connect", "Connect is completed", "the code is exchanged", "stored, as generation 2",
		"the same call works again", "closed as recovered", "The connection is back",
	} {
		require.Contains(t, demo.out.String(), line)
	}
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left, "it cleans up")
}

func TestDemoCleansUpWhenItIsStopped(t *testing.T) {
	t.Parallel()
	temporary := t.TempDir()
	demo := begin(t, map[string]string{"TMPDIR": temporary}, "demo", "--keep")
	demo.until("it is done", func() bool { return strings.Contains(demo.out.String(), "everything stays as it is until Ctrl-C") })
	address := demo.out.String()
	address = address[strings.Index(address, "API http")+4:]
	address = strings.TrimSuffix(address[:strings.IndexAny(address, " \n")], "/docs")
	require.Equal(t, http.StatusOK, get(t, address+"/readyz", "", nil), "one can look")
	require.NoError(t, demo.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitOK, demo.ends())
	require.Zero(t, get(t, address+"/readyz", "", nil))
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left)
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// The service and the worker may be started before what they need.
func TestStartOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	database, err := postgres.Start(t.Context(), postgres.Options{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Stop() })
	require.NoError(t, database.EnsureDatabase(t.Context(), "reauth"))
	temporalServer := temporal.Server{Port: freePort(t), Headless: true}
	settings := complete(t)
	delete(settings, "REAUTH_REMINDERS") // which does not go together with campaigns
	settings["DATABASE_URL"] = database.URL("reauth")
	settings["TEMPORAL_ADDRESS"] = temporalServer.Address()
	settings["TEMPORAL_NAMESPACE"] = temporal.Namespace
	settings["TEMPORAL_TLS"] = "false"
	settings["REAUTH_HTTP_ADDR"] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	settings["REAUTH_METRICS_ADDR"] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	require.NoError(t, database.Stop())

	serve, work := begin(t, settings, "serve"), begin(t, settings, "worker")
	address := "http://" + settings["REAUTH_HTTP_ADDR"]
	serve.until("it says what it waits for", func() bool { return strings.Contains(serve.out.String(), "waiting for PostgreSQL") })
	require.Equal(t, http.StatusOK, get(t, address+"/healthz", "", nil), "it lives")
	require.Equal(t, http.StatusServiceUnavailable, get(t, address+"/readyz", "", nil), "but is not ready")
	work.until("it says what it waits for", func() bool { return strings.Contains(work.out.String(), "waiting for PostgreSQL") })

	require.NoError(t, database.Restart(t.Context()))
	migrated := begin(t, settings, "migrate", "--skip-temporal")
	require.Equal(t, exitOK, migrated.ends(), migrated.out)
	serve.until("it serves", func() bool { return get(t, address+"/openapi.json", "", nil) == http.StatusOK })
	work.until("it waits for Temporal", func() bool { return strings.Contains(work.out.String(), "waiting for Temporal") })
	require.Equal(t, http.StatusServiceUnavailable, get(t, address+"/readyz", "", nil), "Temporal is not there yet")

	binary, err := temporal.Binary(t.Context(), os.Stderr)
	require.NoError(t, err)
	supervisor, err := dev.NewSupervisor(t.TempDir(), t.Logf, func() {})
	require.NoError(t, err)
	t.Cleanup(supervisor.Close)
	require.NoError(t, supervisor.Start(t.Context(), dev.Part{
		Name: "temporal", Command: binary, Args: temporalServer.Args(), Env: os.Environ(), Ready: temporalServer.Ready,
	}))
	serve.until("it is ready", func() bool { return get(t, address+"/readyz", "", nil) == http.StatusOK })
	work.until("it is at work", func() bool { return strings.Contains(work.out.String(), "at work") })
	work.until("it counts", func() bool {
		return get(t, "http://"+settings["REAUTH_METRICS_ADDR"]+"/metrics", "", nil) == http.StatusOK
	})
	migrated = begin(t, settings, "migrate")
	require.Equal(t, exitOK, migrated.ends(), migrated.out)

	for _, secret := range []string{"hunter2", settings["REAUTH_KEYSET"], settings["FINCH_CLIENT_SECRET"], settings["REAUTH_BOOTSTRAP_API_KEY"], settings["DATABASE_URL"]} {
		require.NotContains(t, serve.out.String()+work.out.String()+migrated.out.String(), secret)
	}
	for _, program := range []*running{serve, work} {
		require.NoError(t, program.cmd.Process.Signal(syscall.SIGTERM))
		require.Equal(t, exitOK, program.ends())
	}
}

func TestMigrateGivesUp(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"DATABASE_URL": fmt.Sprintf("postgres://reauth:hunter2@127.0.0.1:%d/reauth?sslmode=disable", freePort(t))}
	migrate := begin(t, settings, "migrate", "--wait", "1s")
	require.Equal(t, exitFailure, migrate.ends())
	require.Contains(t, migrate.out.String(), "reauth: opening the database: gave up waiting")
	require.NotContains(t, migrate.out.String(), "hunter2")
}

func TestStatusWithoutTemporal(t *testing.T) {
	settings := map[string]string{"TEMPORAL_ADDRESS": fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	for _, command := range []string{"status", "start"} {
		r := begin(t, settings, command, "c1")
		require.Equal(t, exitFailure, r.ends())
		require.Contains(t, r.out.String(), "reaching Temporal at "+settings["TEMPORAL_ADDRESS"])
	}
}
