package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The test binary plays the parts: REAUTH_TEST_PART says which one.
func TestMain(m *testing.M) {
	switch os.Getenv("REAUTH_TEST_PART") {
	case "":
		os.Exit(m.Run())
	case "sleeper":
		// Ends politely when asked to.
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("at work")
		<-stop
		fmt.Println("told to stop")
		note("stopped " + os.Getenv("REAUTH_TEST_NAME"))
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignoring everything")
		select {}
	case "failing":
		fmt.Fprintln(os.Stderr, "first line\nthe reason why it cannot start")
		os.Exit(3)
	case "parent":
		parent()
	}
}

func note(line string) {
	f, err := os.OpenFile(os.Getenv("REAUTH_TEST_NOTES"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = fmt.Fprintln(f, line)
		_ = f.Close()
	}
}

// parent supervises two parts and tells their process IDs on its output.
func parent() {
	supervisor, err := NewSupervisor(os.Getenv("REAUTH_TEST_LOGS"), func(string, ...any) {}, func() {})
	if err != nil {
		os.Exit(1)
	}
	for _, name := range []string{"one", "two"} {
		if err := supervisor.Start(context.Background(), testPart(name, "stubborn")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(supervisor.Pids())
	select {}
}

func testPart(name, kind string, env ...string) Part {
	return Part{
		Name: name, Command: os.Args[0],
		Env: append(os.Environ(), append(env, "REAUTH_TEST_PART="+kind, "REAUTH_TEST_NAME="+name)...),
	}
}

// said collects what a supervisor tells a person.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func newTestSupervisor(t *testing.T) (*Supervisor, *said, string) {
	t.Helper()
	logs, words := filepath.Join(t.TempDir(), "logs"), &said{}
	s, err := NewSupervisor(logs, words.say, func() {})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s, words, logs
}

func alive(pid int) bool {
	// A zombie, whose parent has not looked yet, is dead.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		_, after, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(after, "Z")
	}
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat("/proc/self"); err == nil {
			return false
		}
	}
	return syscall.Kill(pid, 0) == nil
}

func TestAKilledPartIsStartedAgain(t *testing.T) {
	s, words, _ := newTestSupervisor(t)
	changes := make(chan map[string]int, 10)
	s.changed = func() { changes <- s.Pids() }
	announced := func() int {
		select {
		case pids := <-changes:
			return pids["worker"]
		case <-time.After(time.Minute):
			require.FailNow(t, "no new process is announced")
			return 0
		}
	}
	require.NoError(t, s.Start(t.Context(), testPart("worker", "sleeper")))
	first := announced()

	for range 2 { // and again
		require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
		second := announced()
		require.NotEqual(t, first, second)
		require.True(t, alive(second))
		first = second
	}
	require.Contains(t, words.text(), "worker ended (signal: killed); starting it again")

	s.Stop("worker")
	require.False(t, alive(first))
	require.Empty(t, s.Pids())
}

func TestAPartThatCannotStartShowsItsLog(t *testing.T) {
	s, _, logs := newTestSupervisor(t)
	part := testPart("serve", "failing")
	part.Ready = func(context.Context) error { return errors.New("nobody answers") }
	err := s.Start(t.Context(), part)
	require.ErrorContains(t, err, "serve did not start: exit status 3")
	require.ErrorContains(t, err, filepath.Join(logs, "serve.log"))
	require.ErrorContains(t, err, "the reason why it cannot start")
	require.Empty(t, s.Pids(), "it is not started again")

	require.ErrorContains(t, s.Run(t.Context(), testPart("migrate", "failing")), "migrate failed: exit status 3")
	require.ErrorContains(t, s.Start(t.Context(), Part{Name: "absent", Command: "/nonexistent/program"}), "starting absent")
}

func TestAPartThatIsNeverReadyIsStopped(t *testing.T) {
	s, _, _ := newTestSupervisor(t)
	part := testPart("serve", "sleeper")
	var pid int
	ctx, cancel := context.WithCancelCause(t.Context())
	part.Ready = func(context.Context) error {
		pid = s.Pids()["serve"]
		cancel(errTooSlow)
		return errors.New("not yet")
	}
	err := s.Start(ctx, part)
	require.ErrorIs(t, err, errTooSlow)
	require.ErrorContains(t, err, "not yet")
	require.NotZero(t, pid)
	require.False(t, alive(pid))
}

func TestPartsStopInTheGivenOrder(t *testing.T) {
	s, _, logs := newTestSupervisor(t)
	notes := "REAUTH_TEST_NOTES=" + filepath.Join(t.TempDir(), "notes")
	for _, name := range []string{"temporal", "worker", "serve"} {
		part := testPart(name, "sleeper", notes)
		part.Ready = func(context.Context) error {
			if log, err := os.ReadFile(filepath.Join(logs, name+".log")); err != nil || string(log) != "at work\n" {
				return errors.New("not yet at work")
			}
			return nil
		}
		require.NoError(t, s.Start(t.Context(), part))
	}
	s.Stop("serve", "worker", "unknown", "temporal")
	text, err := os.ReadFile(strings.TrimPrefix(notes, "REAUTH_TEST_NOTES="))
	require.NoError(t, err)
	require.Equal(t, "stopped serve\nstopped worker\nstopped temporal\n", string(text))
	log, err := os.ReadFile(filepath.Join(logs, "serve.log"))
	require.NoError(t, err)
	require.Equal(t, "at work\ntold to stop\n", string(log))
}

func TestNoPartOutlivesAKilledParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REAUTH_TEST_PART=parent", "REAUTH_TEST_LOGS="+t.TempDir())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pids map[string]int
	require.NoError(t, json.NewDecoder(out).Decode(&pids))
	require.Len(t, pids, 2)
	for _, pid := range pids {
		require.True(t, alive(pid))
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return !alive(pids["one"]) && !alive(pids["two"]) }, 10*time.Second, 20*time.Millisecond)
}

func TestLeashKillsWhatIsLeft(t *testing.T) {
	var killed []int
	Leash(strings.NewReader("+100\n+200\n-100\nnonsense\n+1\n+-5\n+300"), func(pid int) { killed = append(killed, pid) })
	require.Equal(t, []int{200, 300}, killed)
}

func TestPortsAuto(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	first, err := claimPorts(Ports{}, true, file)
	require.NoError(t, err)
	for _, f := range first.fields() {
		require.True(t, isFree(*f.port), "%s %d", f.flag, *f.port)
	}

	other, err := claimPorts(Ports{}, true, filepath.Join(t.TempDir(), "ports.json"))
	require.NoError(t, err)
	defer other.release()
	for i, f := range other.fields() {
		require.NotEqual(t, *first.fields()[i].port, *f.port, "two at a time share no port")
	}

	first.release()
	again, err := claimPorts(Ports{}, true, file)
	require.NoError(t, err)
	require.Equal(t, first.Ports, again.Ports, "the same ports as last time")
	again.release()

	taken, err := net.Listen("tcp", address(first.UI))
	require.NoError(t, err)
	defer taken.Close()
	moved, err := claimPorts(Ports{SMTP: first.SMTP}, true, file)
	require.NoError(t, err)
	defer moved.release()
	require.NotEqual(t, first.UI, moved.UI, "a port that is taken is replaced")
	require.Equal(t, first.API, moved.API, "the others stay, so that links in mails stay valid")
	require.Equal(t, first.SMTP, moved.SMTP)

	_, err = claimPorts(Ports{API: first.UI}, true, file)
	require.ErrorContains(t, err, "--api-port")
	_, err = claimPorts(Ports{API: moved.API, Inbox: moved.API}, true, file)
	require.ErrorContains(t, err, "--api-port and --inbox-port")
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	_, err = claimPorts(Ports{}, true, file)
	require.ErrorContains(t, err, "ports.json")
}

func TestPortsFixed(t *testing.T) {
	free, err := claimPorts(Ports{}, true, filepath.Join(t.TempDir(), "ports.json"))
	require.NoError(t, err)
	defer free.release()
	claim, err := claimPorts(free.Ports, false, "")
	require.NoError(t, err)
	require.Equal(t, free.Ports, claim.Ports)

	taken, err := net.Listen("tcp", address(free.Finch))
	require.NoError(t, err)
	defer taken.Close()
	_, err = claimPorts(free.Ports, false, "")
	require.ErrorContains(t, err, fmt.Sprintf("port %d is taken by another program; choose another one with --finch-port, or let free ones be found with --ports auto", free.Finch))
}

func TestOneAtATimeUsesAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	first, err := openFolder(path)
	require.NoError(t, err)
	_, err = openFolder(path)
	require.ErrorContains(t, err, "another `reauth dev` works with the data in "+path)

	made, fresh, err := first.secretFile("api-key", generateAPIKey)
	require.NoError(t, err)
	require.True(t, fresh)
	info, err := os.Stat(first.file("api-key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	credentials, err := first.simulatedCredentials()
	require.NoError(t, err)
	first.close()

	second, err := openFolder(path)
	require.NoError(t, err)
	defer second.close()
	kept, fresh, err := second.secretFile("api-key", generateAPIKey)
	require.NoError(t, err)
	require.False(t, fresh)
	require.Equal(t, made, kept)
	same, err := second.simulatedCredentials()
	require.NoError(t, err)
	require.Equal(t, credentials, same)
}

func TestReadyFileHoldsWhatProgramsNeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready.json")
	require.NoError(t, Ready{APIURL: "http://127.0.0.1:1", Pids: map[string]int{"worker": 7}}.write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var content map[string]any
	require.NoError(t, json.Unmarshal(text, &content))
	for _, key := range []string{
		"api_url", "api_key", "inbox_url", "finch_url", "finch_client_id", "finch_client_secret", "finch_webhook_secret",
		"temporal_address", "temporal_namespace", "temporal_ui_url", "database_url", "pids",
	} {
		require.Contains(t, content, key)
	}
	require.Equal(t, map[string]any{"worker": 7.0}, content["pids"])
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds secrets")
}
