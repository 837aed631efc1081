// Package postgres runs a private PostgreSQL on this machine: its own data
// directory, its own port on the loopback address, its own password. It needs
// the binaries of PostgreSQL 14 or later to be installed, and fetches some
// otherwise.
//
// A server lives as long as the process that started it. When that process is
// killed, Linux tells the server to shut down; elsewhere the next Start on the
// same directory does.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

const (
	superuser   = "reauth"
	maintenance = "postgres" // the database that every cluster has

	lockPatience  = 5 * time.Second  // for the last owner of the directory to let go
	startPatience = 90 * time.Second // for a server to recover and answer
	stopPatience  = 15 * time.Second // for a server to write everything and go
	poll          = 20 * time.Millisecond
	logLimit      = 16 << 20
)

// Options say where a server lives.
type Options struct {
	// Dir holds everything the server keeps; it is made if it is missing. One
	// server at a time can use it.
	Dir string
	// Port on 127.0.0.1; 0 takes the port of the last time if that is free, and
	// any free one otherwise.
	Port int
	// Log, if set, gets a line for everything that may take a few seconds. The
	// server's own log is LogFile.
	Log func(line string)
	// NoSync lets the server lose data when the machine (not the server) dies.
	// It makes tests faster.
	NoSync bool
}

// Server is a running PostgreSQL.
type Server struct {
	options  Options
	paths    paths
	binaries binaries
	account  *account
	password string

	mu   sync.Mutex // held while starting and stopping
	port int
	proc *process
}

// paths are the files in Options.Dir.
type paths struct{ dir, lock, password, port, log, cluster, data string }

func pathsIn(dir string) paths {
	in := func(name string) string { return filepath.Join(dir, name) }
	return paths{
		dir: dir, lock: in("lock"), password: in("password"), port: in("port"), log: in("postgres.log"),
		cluster: in("cluster"), data: in("cluster/data"),
	}
}

// Start starts the server of a directory and returns when it answers. What an
// earlier server left there, however it ended, is resumed. A server that is left
// running though its owner is gone is stopped first. When another process owns
// the server, Start fails.
func Start(ctx context.Context, options Options) (*Server, error) {
	return start(ctx, options, installed())
}

func start(ctx context.Context, options Options, from finder) (*Server, error) {
	if options.Dir == "" {
		return nil, errors.New("start PostgreSQL: no directory is given")
	}
	if options.Log == nil {
		options.Log = func(string) {}
	}
	s, err := prepare(ctx, options, from)
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL in %s: %w", options.Dir, err)
	}
	return s, nil
}

// prepare makes the directory and finds what the server needs.
func prepare(ctx context.Context, options Options, from finder) (*Server, error) {
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Server{options: options, paths: pathsIn(dir)}
	if s.account, err = unprivileged(s.paths.data); err != nil {
		return nil, err
	}
	if s.password, err = ensurePassword(s.paths.password); err != nil {
		return nil, err
	}
	major, err := dataVersion(s.paths.data)
	if err != nil {
		return nil, err
	}
	s.binaries, err = from.find(ctx, major, options.Log)
	return s, err
}

// ensurePassword reads the password of the database's user, or makes one.
func ensurePassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	password := rand.Text()
	return password, writeFile(path, password)
}

// writeFile writes a whole file or nothing of it, for its owner only.
func writeFile(path, text string) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = temporary.WriteString(text)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}

// dataVersion returns the major version that wrote a data directory; 0 when
// there is no data yet.
func dataVersion(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, errors.New("the data there have no readable PG_VERSION")
	}
	return major, nil
}

// run takes the directory, clears up after an earlier server and starts one.
// The directory is given back when the server ends, however it ends.
func (s *Server) run(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lock, err := lockFile(ctx, s.paths.lock, lockPatience)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	name, err := clusterName(lock)
	if err != nil {
		return err
	}
	if err := clearUp(ctx, name, filepath.Join(s.paths.data, "postmaster.pid"), s.options.Log); err != nil {
		return err
	}
	place, err := s.place()
	if err != nil {
		return err
	}
	defer place.close()
	if err := s.initialise(ctx, place); err != nil {
		return err
	}
	return s.launch(ctx, name, place, lock)
}

// place is how the server's account reaches Dir/cluster.
type place struct {
	path  string
	files []*os.File // to be inherited, from descriptor 3
}

func (p place) close() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// place makes Dir/cluster for the server's account. Where that account may not
// enter a folder above it, as in root's home, the server gets the open directory
// and reaches its files through that.
func (s *Server) place() (place, error) {
	if err := os.MkdirAll(s.paths.cluster, 0o700); err != nil {
		return place{}, err
	}
	if s.account == nil {
		return place{path: s.paths.cluster}, nil
	}
	if err := os.Chown(s.paths.cluster, s.account.uid, s.account.gid); err != nil {
		return place{}, err
	}
	probe := func(dir string) error {
		cmd := s.binaries.command("postgres", s.account, "--version")
		cmd.Dir = dir
		return cmd.Run()
	}
	if err := probe("/"); err != nil {
		return place{}, fmt.Errorf("user %s cannot run %s: %w", s.account.name, s.binaries.path("postgres"), err)
	}
	if err := probe(s.paths.cluster); err == nil {
		return place{path: s.paths.cluster}, nil
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		return place{}, fmt.Errorf("user %s, as whom the server runs, may not enter it", s.account.name)
	}
	open, err := os.Open(s.paths.cluster)
	if err != nil {
		return place{}, err
	}
	return place{path: "/proc/self/fd/3", files: []*os.File{open}}, nil
}

// initialise makes the data directory, whole or not at all.
func (s *Server) initialise(ctx context.Context, at place) error {
	if _, err := os.Stat(s.paths.data); err == nil {
		return nil
	}
	s.options.Log("PostgreSQL: creating a database cluster in " + s.paths.dir)
	unfinished, pwfile := s.paths.data+".new", s.paths.cluster+"/pwfile"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := writeFile(pwfile, s.password); err != nil {
		return err
	}
	defer func() { _ = os.Remove(pwfile) }()
	if s.account != nil {
		if err := os.Chown(pwfile, s.account.uid, s.account.gid); err != nil {
			return err
		}
	}
	args := []string{
		"--pgdata=" + at.path + "/data.new", "--pwfile=" + at.path + "/pwfile", "--username=" + superuser,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
	}
	if s.options.NoSync {
		args = append(args, "--no-sync")
	}
	cmd := s.binaries.command("initdb", s.account, args...)
	cmd.ExtraFiles = at.files
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	proc, err := launch(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.signal(syscall.SIGKILL)
		<-proc.done
		return ctx.Err()
	}
	if proc.err != nil {
		return fmt.Errorf("initdb: %w: %s", proc.err, lastLines(output.Bytes()))
	}
	return os.Rename(unfinished, s.paths.data)
}

// launch starts the server on its port, and on another one if that is taken
// and no certain one is asked for.
func (s *Server) launch(ctx context.Context, name string, at place, lock *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	port := s.wantedPort()
	for {
		if port == 0 {
			var err error
			if port, err = freePort(ctx); err != nil {
				return err
			}
		}
		proc, err := s.attempt(ctx, name, at, port)
		if err == nil {
			if err := writeFile(s.paths.port, strconv.Itoa(port)); err != nil {
				proc.stop()
				return err
			}
			s.port, s.proc = port, proc
			go func() {
				<-proc.done
				_ = lock.Close()
			}()
			return nil
		}
		var failed *startError
		switch {
		case ctx.Err() != nil || !errors.As(err, &failed):
			return err
		case failed.says("could not bind") && s.options.Port == 0:
			port = 0
		case failed.says("could not bind"):
			return fmt.Errorf("port %d on 127.0.0.1 is in use", port)
		case failed.says("is still in use"):
			// Processes of a server that was killed are still on their way out.
			if err := sleep(ctx, 10*poll); err != nil {
				return failed
			}
		default:
			return err
		}
	}
}

// wantedPort is the port to try first; 0 for any.
func (s *Server) wantedPort() int {
	if s.options.Port != 0 {
		return s.options.Port
	}
	if s.port != 0 {
		return s.port
	}
	text, _ := os.ReadFile(s.paths.port) // without the file any port does
	port, _ := strconv.Atoi(string(text))
	return port
}

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startError is a server that ended before it answered, with the end of its log.
type startError struct {
	err error
	log string
}

func (e *startError) Error() string         { return fmt.Sprintf("postgres: %v: %s", e.err, e.log) }
func (e *startError) Unwrap() error         { return e.err }
func (e *startError) says(text string) bool { return strings.Contains(e.log, text) }

// attempt starts the server once and waits until it answers.
func (s *Server) attempt(ctx context.Context, name string, at place, port int) (*process, error) {
	log, begin, err := openLog(s.paths.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := s.binaries.command("postgres", s.account, s.arguments(name, at, port)...)
	cmd.ExtraFiles = at.files
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := launch(cmd, syscall.SIGINT)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, proc, port); err != nil {
		proc.stop()
		tail, _ := io.ReadAll(io.NewSectionReader(log, begin, logLimit)) // for the message only
		return nil, &startError{err: err, log: lastLines(tail)}
	}
	return proc, nil
}

func (s *Server) arguments(name string, at place, port int) []string {
	settings := []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=",
		"cluster_name=" + name,
		"max_connections=200",
		"timezone=UTC", "log_timezone=UTC", "lc_messages=C",
		"logging_collector=off", "log_destination=stderr",
		// A failed statement's text and details hold the values of rows.
		"log_statement=none", "log_min_error_statement=panic", "log_error_verbosity=terse",
	}
	if s.options.NoSync {
		settings = append(settings, "fsync=off", "full_page_writes=off")
	}
	args := []string{"-D", at.path + "/data"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// openLog opens the server's log to be read and appended to, and returns its
// present end. A log that has grown long begins anew.
func openLog(path string) (*os.File, int64, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, 0, err
		}
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := log.Stat()
	if err != nil {
		_ = log.Close()
		return nil, 0, err
	}
	return log, info.Size(), nil
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context, proc *process, port int) error {
	began, told := time.Now(), false
	for {
		err := s.ping(ctx, port)
		if err == nil {
			return nil
		}
		if !told && time.Since(began) > 3*time.Second {
			told = true
			s.options.Log("PostgreSQL: still waiting for the server; it may be recovering from a crash")
		}
		select {
		case <-proc.done:
			return fmt.Errorf("it ended: %w", proc.err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", ctx.Err())
		case <-time.After(poll):
		}
	}
}

func (s *Server) ping(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.maintain(port, func(db *sql.DB) error { return db.PingContext(ctx) })
}

// maintain opens the maintenance database for one use.
func (s *Server) maintain(port int, use func(*sql.DB) error) error {
	connector, err := pq.NewConnector(s.url(port, maintenance) + "&connect_timeout=5")
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	return use(db)
}

func (s *Server) url(port int, dbname string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, s.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + dbname, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// URL is the address of a database of this server; it holds the password.
func (s *Server) URL(dbname string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url(s.port, dbname)
}

// EnsureDatabase makes a database unless it is there.
func (s *Server) EnsureDatabase(ctx context.Context, name string) error {
	s.mu.Lock()
	port := s.port
	s.mu.Unlock()
	err := s.maintain(port, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "CREATE DATABASE "+pq.QuoteIdentifier(name))
		return err
	})
	if pq.As(err, pqerror.DuplicateDatabase, pqerror.UniqueViolation) != nil { // the latter when two make it at once
		return nil
	}
	if err != nil {
		return fmt.Errorf("create database %q: %w", name, err)
	}
	return nil
}

// Pid is the process ID of the server.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.pid()
}

// LogFile is where the server writes its log.
func (s *Server) LogFile() string { return s.paths.log }

// Done is closed when the server that runs now has ended, however it ended.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.done
}

// Stop shuts the server down, breaking connections but not data, and returns
// when it has ended. Stopping it again does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proc.stop() {
		return errors.New("stop PostgreSQL: it had to be killed; it will recover at its next start")
	}
	return nil
}

// Restart stops the server, if it still runs, and starts it again on its port.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL in %s: %w", s.options.Dir, err)
	}
	return nil
}

// lastLines is the end of a log, for an error's text.
func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return strings.Join(lines, " | ")
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
