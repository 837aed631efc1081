package finchsim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
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

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
)

func TestARestartResumes(t *testing.T) {
	cfg := config()
	cfg.File = filepath.Join(t.TempDir(), "data", "finch.json")
	cfg.Knobs = &finchsim.Knobs{EchoState: true}
	first := start(t, cfg)
	conn, token, err := first.AddConnection(finchsim.NewConnection{CustomerName: "Acme", Entities: []string{"North", "South"}})
	require.NoError(t, err)
	require.NoError(t, first.Break(conn.ID))
	used := first.code(t, conn.ID)
	_, err = first.Client.Exchange(t.Context(), used, callback)
	require.NoError(t, err)
	code, session := first.code(t, conn.ID), first.reauthenticate(t, conn.ID)
	require.NoError(t, first.Break(conn.ID))
	require.NoError(t, first.SetKnobs(func(k *finchsim.Knobs) { k.OldTokenDies, k.VerifyPending = true, 1 }))
	_, err = first.Advance(time.Hour)
	require.NoError(t, err)
	require.NoError(t, first.Close())

	second := start(t, cfg)
	got, err := second.Connection(conn.ID)
	require.NoError(t, err)
	want, err := first.Connection(conn.ID)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, first.Knobs(), second.Knobs(), "the file's knobs, not the configured ones")
	assert.Equal(t, first.Counters(), second.Counters())
	assert.Equal(t, first.Sessions(""), second.Sessions(""))
	assert.Equal(t, "reauth", second.status(t, token))
	_, err = second.Client.Exchange(t.Context(), used, callback)
	assert.True(t, asError(t, err).IsInvalidGrant())
	_, err = second.Client.Exchange(t.Context(), code, callback)
	assert.True(t, asError(t, err).IsInvalidGrant(), "the clock is still an hour ahead")
	_, err = second.CompleteConnect(session.ID, finchsim.SameAccount)
	require.NoError(t, err)

	info, err := os.Stat(cfg.File)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "the file holds tokens")
	left, err := filepath.Glob(filepath.Dir(cfg.File) + "/*")
	require.NoError(t, err)
	assert.Len(t, left, 1, "no half-written file is left")
}

// Every operation is in the file by the time that it returns.
func TestEachChangeIsSaved(t *testing.T) {
	r := receive(t)
	r.status = http.StatusServiceUnavailable
	cfg := webhookConfig(r)
	cfg.File = filepath.Join(t.TempDir(), "finch.json")
	b := start(t, cfg)
	require.NoError(t, b.SetKnobs(func(k *finchsim.Knobs) { k.WebhookDelay = finchsim.Duration(time.Hour) }))
	conn, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	var session finch.Session
	var code string
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"add", func() error { _, _, err := b.AddConnection(finchsim.NewConnection{}); return err }},
		{"mint", func() error { _, err := b.MintToken(conn.ID); return err }},
		{"break", func() error { return b.Break(conn.ID) }},
		{"session", func() error { session = b.reauthenticate(t, conn.ID); return nil }},
		{"complete", func() error { code, err = b.CompleteConnect(session.ID, finchsim.SameAccount); return err }},
		{"failed exchange", func() error { _, _ = b.Client.Exchange(t.Context(), code, ""); return nil }},
		{"exchange", func() error { _, err := b.Client.Exchange(t.Context(), code, callback); return err }},
		{"sandbox status", func() error { return b.Client.UpdateSandboxAccount(t.Context(), token, "reauth") }},
		{"sandbox connection", func() error {
			_, err := b.Client.CreateSandboxConnection(t.Context(), finch.SandboxConnection{ProviderID: "gusto"})
			return err
		}},
		{"new session", func() error {
			_, err := b.Client.CreateSession(t.Context(), finch.NewSession{CustomerID: "acme", CustomerName: "Acme", Products: []string{"company"}})
			return err
		}},
		{"knobs", func() error { return b.SetKnobs(func(k *finchsim.Knobs) { k.VerifyPending = 3 }) }},
		{"clock", func() error { _, err := b.Advance(time.Minute); return err }},
		{"event", func() error {
			b.control(t, "POST", "/sim/webhooks", `{"connection_id":"`+conn.ID+`","status":"reauth"}`, nil)
			return nil
		}},
		{"restore", func() error { return b.Restore(conn.ID) }},
		{"disconnect", func() error { return b.Client.Disconnect(t.Context(), token) }},
	} {
		before, err := os.ReadFile(cfg.File)
		require.NoError(t, err)
		require.NoError(t, step.do(), step.name)
		after, err := os.ReadFile(cfg.File)
		require.NoError(t, err)
		assert.NotEqual(t, string(before), string(after), step.name)
	}
}

func TestADamagedFile(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "{", "another version": `{"version":99}`} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.File = filepath.Join(t.TempDir(), "finch.json")
			require.NoError(t, os.WriteFile(cfg.File, []byte(text), 0o600))
			_, err := finchsim.New(cfg)
			require.ErrorContains(t, err, "remove it to begin anew")
		})
	}
}

// What cannot be saved is not acknowledged.
func TestAChangeThatCannotBeSaved(t *testing.T) {
	cfg := config()
	cfg.File = filepath.Join(t.TempDir(), "data", "finch.json")
	b := start(t, cfg)
	conn, _, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	code := b.code(t, conn.ID)
	session := b.reauthenticate(t, conn.ID)
	dir := filepath.Dir(cfg.File)
	require.NoError(t, os.RemoveAll(dir))
	_, err = b.Client.Exchange(t.Context(), code, callback)
	assert.Equal(t, 500, asError(t, err).Status)
	_, err = b.CompleteConnect(session.ID, finchsim.SameAccount)
	require.Error(t, err)
	assert.Equal(t, 500, b.control(t, "POST", "/sim/connections/"+conn.ID+"/break", "", nil))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, b.Restore(conn.ID))
}

const killedEnv = "FINCHSIM_TEST_STATE_FILE"

// TestMain turns the test's program into a simulator that waits to be killed,
// when TestKilled starts it so.
func TestMain(m *testing.M) {
	if file := os.Getenv(killedEnv); file != "" {
		if err := serveUntilKilled(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func serveUntilKilled(file string) error {
	cfg := config()
	cfg.File = file
	sim, err := finchsim.New(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	return http.Serve(l, sim)
}

// A simulator that is killed with SIGKILL while many people go through Connect
// forgets no token and no code that anybody was told of.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "finch.json")
	var (
		mu     sync.Mutex
		tokens []string
		unused = map[string]bool{} // codes whose exchange was never tried
	)
	for round := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		child := exec.CommandContext(ctx, os.Args[0])
		child.Env = append(os.Environ(), killedEnv+"="+file)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		line := make([]byte, 100)
		n, err := out.Read(line)
		require.NoError(t, err)
		b := bench{URL: strings.TrimSpace(string(line[:n]))}
		b.Client = finch.New(finch.Config{BaseURL: b.URL, ClientID: clientID, ClientSecret: clientSecret})

		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				id := fmt.Sprintf("conn-%d-%d", round, i)
				if _, err := http.Post(b.URL+"/sim/connections", "application/json", strings.NewReader(`{"connection_id":"`+id+`"}`)); err != nil {
					return
				}
				for {
					s, err := b.Client.Reauthenticate(ctx, finch.ReauthenticateParams{ConnectionID: id, RedirectURI: callback})
					if err != nil {
						return
					}
					resp, err := http.Post(b.URL+"/sim/sessions/"+s.ID+"/complete", "application/json", nil)
					if err != nil {
						return
					}
					var done struct{ Code string }
					err = json.NewDecoder(resp.Body).Decode(&done)
					_ = resp.Body.Close()
					if err != nil {
						return
					}
					mu.Lock()
					keep := len(unused) < 10*(round+1)
					if keep {
						unused[done.Code] = true
					}
					mu.Unlock()
					if keep {
						continue
					}
					token, err := b.Client.Exchange(ctx, done.Code, callback)
					if err != nil {
						return
					}
					mu.Lock()
					tokens = append(tokens, token.AccessToken)
					mu.Unlock()
				}
			})
		}
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(tokens) > 10*(round+1)
		}, time.Minute, time.Millisecond)
		require.NoError(t, child.Process.Kill())
		_ = child.Wait() // says that it was killed
		all.Wait()
		cancel()
	}

	cfg := config()
	cfg.File = file
	b := start(t, cfg)
	for _, token := range tokens {
		assert.Equal(t, "connected", b.status(t, token))
	}
	for code := range unused {
		_, err := b.Client.Exchange(t.Context(), code, callback)
		assert.NoError(t, err)
	}
}
