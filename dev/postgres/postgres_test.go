package postgres

import (
	"archive/zip"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const helperDir = "REAUTH_TEST_OWN_SERVER_IN"

// TestMain makes this program the owner of a server when a test asks for one.
func TestMain(m *testing.M) {
	dir := os.Getenv(helperDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Options{Dir: dir, NoSync: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Pid())
	select {}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startIn(t *testing.T, options Options) *Server {
	t.Helper()
	options.NoSync = true
	s, err := Start(testContext(t), options)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	return s
}

// openDir makes a folder that every account can enter, as a home usually is not.
func openDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "reauth-postgres-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func query[T any](t *testing.T, s *Server, statement string) (value T) {
	t.Helper()
	pool, err := sql.Open("postgres", s.URL("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	require.NoError(t, pool.QueryRowContext(testContext(t), statement).Scan(&value))
	return value
}

func execute(t *testing.T, s *Server, statement string) {
	t.Helper()
	pool, err := sql.Open("postgres", s.URL("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	_, err = pool.ExecContext(testContext(t), statement)
	require.NoError(t, err)
}

// nameOf is the name under which the processes of a directory's cluster are found.
func nameOf(t *testing.T, dir string) string {
	file, err := os.Open(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	name, err := clusterName(file)
	require.NoError(t, err)
	return name
}

func TestStoppedServerIsResumed(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"folder open to all": openDir(t), "folder closed to others": t.TempDir(), "folder with an odd name": filepath.Join(openDir(t), `it's "odd" é $x`)} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(testContext(t), Options{Dir: dir}) // with syncing, as in earnest
			require.NoError(t, err)
			execute(t, s, `CREATE TABLE kept AS SELECT 42 AS n`)
			before := s.URL("postgres")
			require.NoError(t, s.Stop())
			require.NoError(t, s.Stop(), "stopping twice")
			require.Empty(t, processesOf(nameOf(t, dir)))

			s = startIn(t, Options{Dir: dir})
			assert.Equal(t, 42, query[int](t, s, `SELECT n FROM kept`))
			assert.Equal(t, before, s.URL("postgres"), "same port, same password")
		})
	}
}

func TestKilledServerIsResumed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	execute(t, s, `CREATE TABLE kept AS SELECT 42 AS n`)
	// A busy session, which does not notice at once that its postmaster died.
	pool, err := sql.Open("postgres", s.URL("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	busy := make(chan error, 1)
	go func() {
		_, err := pool.Exec(`SELECT count(*) FROM generate_series(1, 20000000)`)
		busy <- err
	}()
	require.Eventually(t, func() bool {
		return query[bool](t, s, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%generate_series(1, 2%' AND state = 'active' AND pid <> pg_backend_pid())`)
	}, time.Minute, poll)

	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGKILL))
	<-s.Done()
	again := startIn(t, Options{Dir: dir})
	assert.Equal(t, 42, query[int](t, again, `SELECT n FROM kept`))
	assert.Equal(t, s.URL("x"), again.URL("x"))
	<-busy // whatever became of it
}

// orphan starts the server of a stopped s behind its back.
func orphan(t *testing.T, s *Server) *exec.Cmd {
	at, err := s.place()
	require.NoError(t, err)
	defer at.close()
	cmd := s.binaries.command("postgres", s.account, s.arguments(nameOf(t, s.paths.dir), at, s.port)...)
	cmd.ExtraFiles = at.files
	cmd.SysProcAttr.Setpgid = true
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool { return s.ping(testContext(t), s.port) == nil }, time.Minute, poll)
	return cmd
}

func TestServerWithoutOwnerIsStoppedFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	execute(t, s, `CREATE TABLE kept AS SELECT 42 AS n`)
	require.NoError(t, s.Stop())
	left := orphan(t, s)
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()

	var told []string
	again := startIn(t, Options{Dir: dir, Log: func(line string) { told = append(told, line) }})
	assert.NoError(t, <-ended, "it was shut down, not killed")
	assert.NotEqual(t, left.Process.Pid, again.Pid())
	assert.Equal(t, 42, query[int](t, again, `SELECT n FROM kept`))
	assert.Len(t, told, 1)
}

func TestPidFileOfAnotherProcessIsNoHindrance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	pidFile := filepath.Join(dir, "cluster/data/postmaster.pid")
	text, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGKILL))
	<-s.Done()
	require.Eventually(t, func() bool { return len(processesOf(nameOf(t, dir))) == 0 }, time.Minute, poll)

	// After the machine's restart, say, the number is another process's, of the
	// same account.
	stranger := exec.Command("sleep", "600")
	stranger.SysProcAttr = s.binaries.command("postgres", s.account).SysProcAttr
	require.NoError(t, stranger.Start())
	defer func() {
		require.NoError(t, stranger.Process.Kill(), "the stranger was left alone")
		require.ErrorContains(t, stranger.Wait(), "killed")
	}()
	_, rest, _ := strings.Cut(string(text), "\n")
	require.NoError(t, os.WriteFile(pidFile, []byte(strconv.Itoa(stranger.Process.Pid)+"\n"+rest), 0o600))
	assert.Equal(t, 1, query[int](t, startIn(t, Options{Dir: dir}), `SELECT 1`))
}

func TestTwoServersSideBySide(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	servers := make(chan *Server, 2)
	failed := make(chan error, 2)
	for _, dir := range []string{one, two} {
		go func() {
			s, err := Start(context.Background(), Options{Dir: dir, NoSync: true})
			servers <- s
			failed <- err
		}()
	}
	a, b := <-servers, <-servers
	require.NoError(t, <-failed)
	require.NoError(t, <-failed)
	defer func() { require.NoError(t, b.Stop()) }()
	assert.NotEqual(t, a.port, b.port)
	assert.NotEqual(t, a.password, b.password)
	execute(t, a, `CREATE TABLE mine (n int)`)
	assert.False(t, query[bool](t, b, `SELECT to_regclass('mine') IS NOT NULL`))
	require.NoError(t, a.Stop())
	assert.Equal(t, 1, query[int](t, b, `SELECT 1`), "the other goes on")
}

func TestOneOwnerAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	_, err := Start(testContext(t), Options{Dir: dir})
	require.ErrorContains(t, err, "another process uses it")
	assert.Equal(t, 1, query[int](t, s, `SELECT 1`))
}

func TestPort(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := taken.Addr().(*net.TCPAddr).Port
	dir := t.TempDir()

	_, err = Start(testContext(t), Options{Dir: dir, Port: port, NoSync: true})
	require.EqualError(t, err, fmt.Sprintf("start PostgreSQL in %s: port %d on 127.0.0.1 is in use", dir, port))
	require.Empty(t, processesOf(nameOf(t, dir)))

	// The port of the last time is taken now.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "port"), []byte(strconv.Itoa(port)), 0o600))
	s := startIn(t, Options{Dir: dir})
	assert.NotEqual(t, port, s.port)
	assert.Contains(t, s.URL("reauth"), fmt.Sprintf("@127.0.0.1:%d/reauth?", s.port))
}

func TestRestart(t *testing.T) {
	t.Parallel()
	s := startIn(t, Options{Dir: t.TempDir()})
	url, pid, done := s.URL("postgres"), s.Pid(), s.Done()
	execute(t, s, `CREATE TABLE kept AS SELECT 42 AS n`)
	require.NoError(t, s.Restart(testContext(t)))
	<-done
	assert.NotEqual(t, pid, s.Pid())
	assert.Equal(t, url, s.URL("postgres"))
	assert.Equal(t, 42, query[int](t, s, `SELECT n FROM kept`))
}

func TestEnsureDatabase(t *testing.T) {
	t.Parallel()
	s := startIn(t, Options{Dir: t.TempDir()})
	results := make(chan error)
	for range 4 {
		go func() { results <- s.EnsureDatabase(context.Background(), `odd "name"`) }()
	}
	for range 4 {
		require.NoError(t, <-results)
	}
	require.NoError(t, s.EnsureDatabase(testContext(t), `odd "name"`))
	assert.Equal(t, 1, query[int](t, s, `SELECT count(*) FROM pg_database WHERE datname = 'odd "name"'`))
}

func TestServerIsPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	assert.Equal(t, "127.0.0.1", query[string](t, s, `SHOW listen_addresses`))
	assert.Equal(t, "", query[string](t, s, `SHOW unix_socket_directories`))

	pool, err := sql.Open("postgres", strings.Replace(s.URL("postgres"), s.password, "guessed", 1))
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	require.ErrorContains(t, pool.Ping(), "password authentication failed")

	for _, path := range []string{"password", "postgres.log", "port", "cluster", "cluster/data"} {
		info, err := os.Stat(filepath.Join(dir, path))
		require.NoError(t, err)
		assert.Zero(t, info.Mode().Perm()&0o077, "%s is for its owner only", path)
	}
	assert.NoFileExists(t, filepath.Join(dir, "cluster/pwfile"))
	assert.NotContains(t, commandLine(s.Pid()), s.password)
}

func TestLogHoldsNoRows(t *testing.T) {
	t.Parallel()
	s := startIn(t, Options{Dir: t.TempDir()})
	execute(t, s, `CREATE TABLE people (email text PRIMARY KEY)`)
	execute(t, s, `INSERT INTO people VALUES ('anna@example.com')`)
	pool, err := sql.Open("postgres", s.URL("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	_, err = pool.Exec(`INSERT INTO people VALUES ($1)`, "anna@example.com")
	require.Error(t, err)
	log, err := os.ReadFile(s.LogFile())
	require.NoError(t, err)
	assert.Contains(t, string(log), "people_pkey", "the refusal itself is logged")
	assert.NotContains(t, string(log), "anna")
}

func TestLongLogBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "postgres.log"))
	require.NoError(t, err)
	require.NoError(t, file.Truncate(logLimit+1))
	require.NoError(t, file.Close())
	s := startIn(t, Options{Dir: dir})
	info, err := os.Stat(s.LogFile())
	require.NoError(t, err)
	assert.Less(t, info.Size(), int64(logLimit))
	assert.FileExists(t, s.LogFile()+".old")
}

func TestUnfinishedClusterIsMadeAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "cluster/data.new/base"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cluster/data.new/PG_VERSION"), []byte("15\n"), 0o600))
	assert.Equal(t, 1, query[int](t, startIn(t, Options{Dir: dir}), `SELECT 1`))
}

func TestWhatCannotStart(t *testing.T) {
	t.Parallel()
	t.Run("no directory", func(t *testing.T) {
		_, err := Start(testContext(t), Options{})
		require.EqualError(t, err, "start PostgreSQL: no directory is given")
	})
	t.Run("data of a version that is nowhere", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "cluster/data"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cluster/data/PG_VERSION"), []byte("9\n"), 0o600))
		_, err := Start(testContext(t), Options{Dir: dir})
		require.ErrorContains(t, err, "the data there were written by PostgreSQL 9, which is not installed")
	})
	t.Run("broken data", func(t *testing.T) {
		dir := t.TempDir()
		s := startIn(t, Options{Dir: dir})
		require.NoError(t, s.Stop())
		require.NoError(t, os.Remove(filepath.Join(dir, "cluster/data/global/pg_control")))
		_, err := Start(testContext(t), Options{Dir: dir})
		require.ErrorContains(t, err, "could not find the database system")
		require.Empty(t, processesOf(nameOf(t, dir)))
	})
	t.Run("a context that ends", func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(testContext(t))
		_, err := Start(ctx, Options{Dir: dir, NoSync: true, Log: func(string) { cancel() }}) // while the cluster is made
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, processesOf(nameOf(t, dir)))
		assert.Equal(t, 1, query[int](t, startIn(t, Options{Dir: dir}), `SELECT 1`), "the directory is free and usable")
	})
}

// repository serves what the library fetches: an archive in an archive, here of
// scripts that run the installed programs.
func repository(t *testing.T, from binaries) *httptest.Server {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for _, name := range []string{"initdb", "postgres", "pg_ctl"} {
		script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", from.path(name))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", name), []byte(script), 0o755))
	}
	packed := filepath.Join(dir, "postgres.txz")
	output, err := exec.Command("tar", "-C", dir, "-cJf", packed, "bin").CombinedOutput()
	require.NoError(t, err, string(output))
	content, err := os.ReadFile(packed)
	require.NoError(t, err)
	var jar bytes.Buffer
	z := zip.NewWriter(&jar)
	entry, err := z.Create("postgres.txz")
	require.NoError(t, err)
	_, err = entry.Write(content)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".jar") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(jar.Bytes())
	}))
	t.Cleanup(server.Close)
	return server
}

func TestBinariesAreFetchedWhereNoneAreInstalled(t *testing.T) {
	t.Parallel()
	local, err := installed().find(testContext(t), 0, func(string) {})
	require.NoError(t, err)
	from := finder{repository: repository(t, local).URL, cache: filepath.Join(openDir(t), "cache")}
	var told []string
	log := func(line string) { told = append(told, line) }
	s, err := start(testContext(t), Options{Dir: t.TempDir(), NoSync: true, Log: log}, from)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop()) }()
	assert.Equal(t, 1, query[int](t, s, `SELECT 1`))
	require.Len(t, told, 2)
	assert.Contains(t, told[0], "fetching")

	// Once is enough.
	from.repository = "http://127.0.0.1:1"
	again, err := from.find(testContext(t), 0, log)
	require.NoError(t, err)
	assert.Equal(t, s.binaries, again)

	from.cache = t.TempDir()
	_, err = from.find(testContext(t), 0, log)
	require.ErrorContains(t, err, "PostgreSQL is not installed, and fetching it failed: unable to connect to http://127.0.0.1:1")
}

func TestWhichBinariesAreTaken(t *testing.T) {
	t.Parallel()
	install := func(dir string, version string) {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "initdb"), nil, 0o755))
	}
	root := t.TempDir()
	for _, version := range []string{"9.6", "13", "14", "16"} {
		install(root+"/lib/"+version+"/bin", version+".3")
	}
	install(root+"/old", "13.9")
	install(root+"/path", "15.2 (Debian 15.2-1)")
	require.NoError(t, os.MkdirAll(root+"/linked", 0o755))
	require.NoError(t, os.Symlink(root+"/path/postgres", root+"/linked/postgres"))
	globs := []string{root + "/lib/*/bin"}

	for name, test := range map[string]struct {
		path  []string
		major int
		want  string
	}{
		"the path comes first":             {path: []string{root, root + "/path"}, want: root + "/path"},
		"a link leads to the rest":         {path: []string{root + "/linked"}, want: root + "/path"},
		"the newest of the others":         {want: root + "/lib/16/bin"},
		"what wrote the data":              {path: []string{root + "/path"}, major: 14, want: root + "/lib/14/bin"},
		"not one that is too old":          {path: []string{root + "/old"}, want: root + "/lib/16/bin"},
		"nothing of the working directory": {path: []string{"", ".", "path"}, want: root + "/lib/16/bin"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := finder{path: test.path, globs: globs}.find(testContext(t), test.major, func(string) {})
			require.NoError(t, err)
			assert.Equal(t, test.want, b.dir)
		})
	}
	_, err := finder{globs: globs}.find(testContext(t), 13, func(string) {})
	require.EqualError(t, err, "the data there were written by PostgreSQL 13, which is not installed")
}
