package pgtest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const helper = "REAUTH_TEST_PGTEST_HELPER"

// TestMain makes this program one that uses a server and is killed, when the
// test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	if _, err := shared(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func register(t *testing.T, address, id string) {
	t.Helper()
	d, err := db.Open(t.Context(), address)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	created, err := d.PutConnection(t.Context(), reauth.Connection{ConnectionID: id})
	require.NoError(t, err)
	assert.True(t, created)
}

func TestEveryTestHasItsOwnDatabase(t *testing.T) {
	one, two := URL(t), URL(t)
	require.NotEqual(t, one, two)
	register(t, one, "c1")
	register(t, two, "c1")
	empty, err := db.Open(t.Context(), Empty(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, empty.Close()) }()
	_, err = empty.Connection(t.Context(), "c1")
	require.ErrorContains(t, err, `relation "connections" does not exist`)
}

func TestDatabaseIsDropped(t *testing.T) {
	var address string
	t.Run("a test", func(t *testing.T) {
		address = URL(t)
		left, err := db.Open(context.Background(), address) // and never closed
		require.NoError(t, err)
		require.NoError(t, left.Ping(t.Context()))
	})
	_, err := db.Open(t.Context(), address)
	require.ErrorContains(t, err, "does not exist")
}

func TestServerThatIsGiven(t *testing.T) {
	own := ready(t)
	t.Setenv("REAUTH_TEST_DATABASE_URL", own.of("postgres"))
	given, err := start()
	require.NoError(t, err)
	assert.Empty(t, given.template)
	assert.Equal(t, own.address.Host, given.address.Host)

	t.Setenv("REAUTH_TEST_DATABASE_URL", "postgres://u:hush hush@[")
	_, err = start()
	require.ErrorContains(t, err, "REAUTH_TEST_DATABASE_URL is malformed")
	assert.NotContains(t, err.Error(), "hush")
}

func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helper+"=1", "TMPDIR="+dir, "REAUTH_TEST_DATABASE_URL=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready", strings.TrimSpace(line))
	left := func() []string {
		names, err := filepath.Glob(dir + "/*")
		require.NoError(t, err)
		return names
	}
	require.NotEmpty(t, left())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return len(left()) == 0 }, time.Minute, 20*time.Millisecond)
}
