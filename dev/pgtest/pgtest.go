// Package pgtest gives tests a real PostgreSQL: the one that
// REAUTH_TEST_DATABASE_URL names, else a private one that is started once per
// test process and is gone with it.
package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/postgres"
)

const patience = 2 * time.Minute

// shared is the server that the tests of this process use.
var shared = sync.OnceValues(start)

// server is a PostgreSQL in which tests make databases.
type server struct {
	address url.URL
	admin   *sql.DB
	// template is a database with all tables to copy; empty on a server that is
	// not ours, where it would be left behind.
	template string
}

// URL returns the address of a new database that has all tables and no rows. It
// is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	s := ready(t)
	if s.template != "" {
		return s.create(t, " TEMPLATE "+s.template)
	}
	address := s.create(t, "")
	if err := migrate(address); err != nil {
		t.Fatal(err)
	}
	return address
}

// Empty returns the address of a new database without tables. It is dropped
// when the test ends.
func Empty(t testing.TB) string {
	t.Helper()
	return ready(t).create(t, "")
}

func ready(t testing.TB) *server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) create(t testing.TB, how string) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	if err := s.execute("CREATE DATABASE " + name + how); err != nil {
		t.Fatalf("create a database for the test: %v", err)
	}
	t.Cleanup(func() {
		if err := s.execute("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return s.of(name)
}

// of returns the address of a database.
func (s *server) of(name string) string {
	address := s.address
	address.Path = "/" + name
	return address.String()
}

func (s *server) execute(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.admin.ExecContext(ctx, statement)
	return err
}

func migrate(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := db.Open(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Migrate(ctx)
}

// start connects to the server that is given, or starts one for this process.
func start() (*server, error) {
	if address := os.Getenv("REAUTH_TEST_DATABASE_URL"); address != "" {
		return connect(address)
	}
	dir, err := os.MkdirTemp("", "reauth-pgtest-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	own, err := postgres.Start(ctx, postgres.Options{Dir: dir, NoSync: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := removeAfterUs(dir, own.Pid()); err != nil {
		return nil, fmt.Errorf("prepare the removal of the test server: %w", err)
	}
	s, err := connect(own.URL("postgres"))
	if err != nil {
		return nil, err
	}
	const template = "reauth_template"
	if err := own.EnsureDatabase(ctx, template); err != nil {
		return nil, err
	}
	if err := migrate(s.of(template)); err != nil {
		return nil, err
	}
	s.template = template
	return s, nil
}

func connect(address string) (*server, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("REAUTH_TEST_DATABASE_URL is malformed; it should look like \"postgres://user:password@localhost:5432/postgres?sslmode=disable\"")
	}
	admin, err := sql.Open("postgres", address)
	if err != nil {
		return nil, err
	}
	return &server{address: *parsed, admin: admin}, nil
}

// removeAfterUs leaves a process behind that waits for our end, however we end,
// then for the server's, and removes the directory. Tests have no common end at
// which this process could do it.
func removeAfterUs(dir string, postmaster int) error {
	const script = `read _
kill -INT "$2" 2>/dev/null
n=0
while kill -0 "$2" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
kill -KILL "$2" 2>/dev/null
rm -rf "$1"`
	end, ours, err := os.Pipe() // our side closes with us
	if err != nil {
		return err
	}
	defer func() { _ = end.Close() }()
	cmd := exec.Command("sh", "-c", script, "remove", filepath.Clean(dir), strconv.Itoa(postmaster))
	cmd.Stdin = end
	cmd.Stdout, cmd.Stderr = nil, nil // not ours, which a test runner would wait for
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait() // it outlives us, if all is well
		_ = ours.Close()
	}()
	return nil
}
