package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The examples do what their comments say, against what `reauth dev` starts:
// each is a process of its own, as a newcomer runs it.
func TestExamples(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	installed := sync.OnceValue(func() error { return install(t, folder) })
	t.Cleanup(func() { _ = installed() })
	go func() { _ = installed() }() // while everything starts

	secret := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	settings := []string{}
	var webhooks *example
	if python := programOf(t, "python3"); python != "" {
		webhooks = startExample(t, filepath.Join("..", "examples", "python"), []string{"REAUTH_WEBHOOK_SECRET=" + secret}, python, "webhook.py")
		settings = []string{"REAUTH_WEBHOOK_URL=" + webhooks.address(), "REAUTH_WEBHOOK_SECRET=" + secret}
	}
	e := startDevWith(t, settings, t.TempDir())
	// What comes to light does so through the examples.
	e.finch(http.MethodPut, "/sim/knobs", `{"webhooks": false}`)

	t.Run("all", func(t *testing.T) { // which ends before e does
		t.Run("go", func(t *testing.T) { t.Parallel(); e.in(t).exampleInGo() })
		t.Run("python", func(t *testing.T) {
			t.Parallel()
			needed(t, "python3")
			receiver := *webhooks
			receiver.t = t
			e.in(t).exampleInPython(&receiver)
		})
		for name, run := range map[string]func(e *environment, folder string){
			"typescript over HTTP":          (*environment).exampleOverHTTP,
			"typescript through Temporal":   (*environment).exampleThroughTemporal,
			"the contract, from a stranger": (*environment).contractFromOutside,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				needed(t, "node")
				needed(t, "npm")
				require.NoError(t, installed())
				run(e.in(t), folder)
			})
		}
	})
}

// in is the environment for a test inside the one that started it.
func (e *environment) in(t *testing.T) *environment {
	inner := *e
	inner.stack = &stack{t: t, logs: e.logs, url: e.url, finchURL: e.finchURL}
	return &inner
}

func (e *environment) exampleInGo() {
	binary := filepath.Join(e.t.TempDir(), "example")
	out, err := exec.Command("go", "build", "-o", binary, "../examples/go").CombinedOutput()
	require.NoError(e.t, err, "%s", out)
	id, token := e.addConnection("Acme Bakery")
	x := startExample(e.t, ".", append(e.variables(), "ACCESS_TOKEN="+token, "CUSTOMER_EMAIL=go@acme.example"), binary, id)
	x.says("generation 1: the call works: Acme Bakery")
	e.breakConnection(id)
	x.says("generation 1: 401 reauthenticate_user; waiting for the customer")
	e.comeBack(id)
	x.says("generation 2: the call works again: Acme Bakery")
	x.ends()
	e.recovered(id)
}

func (e *environment) exampleInPython(webhooks *example) {
	id := e.staleCustomer("Northwind Traders")
	x := startExample(e.t, filepath.Join("..", "examples", "python"), e.variables(), "python3", "backend.py", id)
	x.says("generation 1: 401 reauthenticate_user")
	x.says("reported: case ")
	e.comeBack(id)
	x.says("the case ended: recovered")
	x.says("the call works: Northwind Traders")
	x.ends()
	e.recovered(id)

	webhooks.says("reauth.case.opened " + id)
	webhooks.says("reauth.case.closed " + id + " recovered")
	assert.NotContains(e.t, webhooks.out.String(), "refused", "every webhook of ours is signed")
	for problem, timestamp := range map[string]string{
		"the timestamp is missing or malformed": "",
		"the timestamp is too far from now":     "1600000000",
		"no signature is right":                 fmt.Sprint(time.Now().Unix()),
	} {
		request, err := http.NewRequest(http.MethodPost, webhooks.address(), strings.NewReader(`{"type": "reauth.case.closed", "data": {}}`))
		require.NoError(e.t, err)
		request.Header.Set("Webhook-Id", "evt_forged")
		request.Header.Set("Webhook-Timestamp", timestamp)
		request.Header.Set("Webhook-Signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=")
		response, err := http.DefaultClient.Do(request)
		require.NoError(e.t, err)
		require.NoError(e.t, response.Body.Close())
		assert.Equal(e.t, http.StatusUnauthorized, response.StatusCode)
		webhooks.says("refused: " + problem)
	}
}

// exampleOverHTTP also shows that Finch's own client gets through again.
func (e *environment) exampleOverHTTP(folder string) {
	id := e.staleCustomer("Blue Harbor Logistics")
	x := startExample(e.t, folder, e.variables(), "node", "build/backend.js", id)
	x.says("generation 1: 401 reauthenticate_user")
	x.says("reported: case ")
	e.comeBack(id)
	x.says("the case ended: recovered")
	x.says("the call works: Blue Harbor Logistics")
	x.ends()
	e.recovered(id)
}

func (e *environment) exampleThroughTemporal(folder string) {
	id := e.staleCustomer("Tailspin Toys")
	x := startExample(e.t, folder, e.variables(), "node", "build/temporal.js", id)
	x.says("opened reauth-" + id)
	x.says("phase awaiting_customer, session until ")
	x.says("snoozed until ")
	x.says("waiting for the customer")
	var view map[string]any
	e.eventually("the timeline tells of the snooze", func() bool {
		_, view = e.api(http.MethodGet, "/v1/connections/"+id+"/reauth", nil)
		return strings.Contains(fmt.Sprint(view["timeline"]), "kind:snoozed")
	})
	e.comeBack(id)
	line := x.says("result ")
	x.ends()
	var result struct {
		Outcome      string `json:"outcome"`
		ConnectionID string `json:"connection_id"`
		CaseID       string `json:"case_id"`
		Generation   int    `json:"generation"`
	}
	require.NoError(e.t, json.Unmarshal([]byte(line), &result), line)
	assert.Equal(e.t, "recovered", result.Outcome)
	assert.Equal(e.t, id, result.ConnectionID)
	assert.Equal(e.t, view["case_id"], result.CaseID)
	assert.Equal(e.t, 2, result.Generation)
	e.recovered(id)
}

// contractFromOutside has Temporal's own TypeScript client check what a client
// may rely on, mistakes included.
func (e *environment) contractFromOutside(folder string) {
	text, err := os.ReadFile(filepath.Join("testdata", "contract.mjs"))
	require.NoError(e.t, err)
	require.NoError(e.t, os.WriteFile(filepath.Join(folder, "contract.mjs"), text, 0o600))
	healthy, _ := e.customer("Fabrikam")
	restored := e.staleCustomer("Litware")
	variables := append(e.variables(), "HEALTHY="+healthy, "STALE="+e.staleCustomer("Contoso"), "RESTORED="+restored,
		"RESTORE_URL="+e.finchURL+"/sim/connections/"+restored+"/restore")
	x := startExample(e.t, folder, variables, "node", "contract.mjs")
	x.says("the contract holds")
	x.ends()
}

// variables tell an example where everything is.
func (e *environment) variables() []string {
	r := e.ready()
	return []string{
		"REAUTH_URL=" + r.APIURL, "REAUTH_API_KEY=" + r.APIKey, "FINCH_BASE_URL=" + r.FinchURL,
		"TEMPORAL_ADDRESS=" + r.TemporalAddress, "TEMPORAL_NAMESPACE=" + r.TemporalNamespace,
	}
}

// addConnection makes a connection at the simulated Finch.
func (e *environment) addConnection(name string) (id, token string) {
	e.t.Helper()
	made := e.finch(http.MethodPost, "/sim/connections", fmt.Sprintf(`{"customer_id": %q, "customer_name": %q, "provider_id": "gusto"}`, "cus "+name, name))
	return fmt.Sprint(made["connection_id"]), fmt.Sprint(made["access_token"])
}

// customer is a connection that is registered and works.
func (e *environment) customer(name string) (id, token string) {
	e.t.Helper()
	id, token = e.addConnection(name)
	status, body := e.api(http.MethodPut, "/v1/connections/"+id, map[string]any{
		"customer_name": name, "access_token": token,
		"contacts": []map[string]string{{"email": "someone@" + id + ".example", "name": "Someone"}},
	})
	require.Less(e.t, status, 300, "%v", body)
	return id, token
}

func (e *environment) staleCustomer(name string) string {
	e.t.Helper()
	id, _ := e.customer(name)
	e.breakConnection(id)
	return id
}

func (e *environment) breakConnection(id string) {
	e.t.Helper()
	e.finch(http.MethodPost, "/sim/connections/"+id+"/break", "")
}

// comeBack is everything that the customer does.
func (e *environment) comeBack(id string) {
	e.t.Helper()
	b := e.browser()
	e.settle(b, b.press(e.toConnect(b, e.linkOf(id)), "authorize"))
}

// recovered checks what an example has brought about: a case that its report
// opened, and a connection that works, with its second token.
func (e *environment) recovered(id string) {
	e.t.Helper()
	_, view := e.api(http.MethodGet, "/v1/connections/"+id+"/reauth", nil)
	assert.Equal(e.t, "recovered", view["outcome"])
	assert.Equal(e.t, "api_error", view["source"])
	assert.Equal(e.t, "reauthenticate_user", view["finch_code"])
	_, connection := e.api(http.MethodGet, "/v1/connections/"+id, nil)
	assert.Equal(e.t, "connected", connection["status"])
	assert.EqualValues(e.t, 2, connection["generation"])
}

// example is a running one.
type example struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *logs
	done chan struct{}
}

func startExample(t *testing.T, folder string, variables []string, name string, args ...string) *example {
	t.Helper()
	x := &example{t: t, cmd: exec.CommandContext(t.Context(), name, args...), out: &logs{}, done: make(chan struct{})}
	x.cmd.Dir, x.cmd.Env = folder, append(os.Environ(), variables...)
	x.cmd.Stdout, x.cmd.Stderr = x.out, x.out
	require.NoError(t, x.cmd.Start())
	go func() {
		_ = x.cmd.Wait()
		close(x.done)
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-x.done
	})
	return x
}

// says waits for a whole line that begins so, and returns the rest of it.
func (x *example) says(beginning string) (rest string) {
	x.t.Helper()
	found := func() bool {
		for line := range strings.Lines(x.out.String()) {
			if after, begins := strings.CutPrefix(line, beginning); begins && strings.HasSuffix(line, "\n") {
				rest = strings.TrimSpace(after)
				return true
			}
		}
		return false
	}
	(&stack{t: x.t, logs: x.out}).eventually(fmt.Sprintf("an example says %q", beginning), func() bool {
		if found() {
			return true
		}
		select {
		case <-x.done:
			if !found() { // it may have been its last word
				x.t.Fatalf("the example ended before it said %q:\n%s", beginning, x.out)
			}
			return true
		default:
			return false
		}
	})
	return rest
}

// ends waits for the example's success.
func (x *example) ends() {
	x.t.Helper()
	<-x.done
	require.Zero(x.t, x.cmd.ProcessState.ExitCode(), "%s", x.out)
}

// address is where a receiver listens.
func (x *example) address() string { return x.says("listening on ") }

// programOf finds a program. Where CI=true it must be there.
func programOf(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, but the examples must be checked where CI=true", name)
	}
	return path
}

// needed skips a test whose program is not there.
func needed(t *testing.T, name string) {
	t.Helper()
	if programOf(t, name) == "" {
		t.Skipf("%s is not installed; install it (Node.js 20 or newer, with npm; Python 3.9 or newer) to check this example", name)
	}
}

// install has npm bring the packages of the TypeScript examples, beside a copy,
// so that nothing of them stays, and compiles them.
func install(t *testing.T, folder string) error {
	files, err := os.ReadDir(filepath.Join("..", "examples", "typescript"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", "examples", "typescript", file.Name()))
		if err != nil {
			return err
		}
		if file.Name() == "package-lock.json" && bytes.Contains(text, []byte(`"resolved"`)) {
			return errors.New("the lock file names a registry; npm leaves that out where .npmrc is beside it")
		}
		if err := os.WriteFile(filepath.Join(folder, file.Name()), text, 0o600); err != nil {
			return err
		}
	}
	for _, command := range [][]string{
		{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"},
		{"npm", "run", "build"},
	} {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}
