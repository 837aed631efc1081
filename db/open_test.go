package db_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/dev/postgres"
	"github.com/finch-reauth/reauth/reauth"
)

func TestMigrate(t *testing.T) {
	url := pgtest.Empty(t)
	s := openStore(t, url)
	require.NoError(t, s.Migrate(s.ctx))
	s.connect(t, "c1")
	versions := s.count(t, "goose_db_version")
	require.NoError(t, s.Migrate(s.ctx), "again")
	assert.Equal(t, versions, s.count(t, "goose_db_version"))
	assert.Equal(t, reauth.StatusConnected, s.status(t, "c1"), "what was there stays")
}

func TestMigrateInSeveralProcessesAtOnce(t *testing.T) {
	for range 3 {
		url := pgtest.Empty(t)
		stores := make([]store, 8)
		for i := range stores {
			stores[i] = openStore(t, url)
			require.NoError(t, stores[i].Ping(stores[i].ctx))
		}
		errs := make([]error, len(stores))
		together(len(stores), func(i int) { errs[i] = stores[i].Migrate(stores[i].ctx) })
		for _, err := range errs {
			require.NoError(t, err)
		}
		stores[0].connect(t, "c1")
	}
}

func TestTimesAreUTC(t *testing.T) {
	url := pgtest.URL(t)
	s := openStore(t, url)
	_, err := s.raw.Exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database()); END $$`)
	require.NoError(t, err)
	s = openStore(t, url)
	s.connect(t, "c1")
	c, err := s.Connection(s.ctx, "c1")
	require.NoError(t, err)
	assert.Equal(t, time.UTC, c.UpdatedAt.Location())
}

func TestOpenFailsClearly(t *testing.T) {
	good, err := url.Parse(pgtest.Empty(t))
	require.NoError(t, err)
	with := func(change func(u *url.URL)) string {
		u := *good
		change(&u)
		return u.String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := closed.Addr().String()
	require.NoError(t, closed.Close())
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts and never answers
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()

	password, _ := good.User.Password()
	dsn := fmt.Sprintf("host=%s,%s port=%s user=%s password=%s dbname=postgres",
		good.Hostname(), good.Hostname(), good.Port(), good.User.Username(), password)

	const malformed = `the database URL is malformed; it should look like "postgres://user:password@localhost:5432/reauth?sslmode=disable"`
	for name, test := range map[string]struct{ url, want string }{
		"nothing":                     {"", malformed},
		"not a URL":                   {"postgres://u:hush hush@[::1/reauth", malformed},
		"another scheme":              {"mysql://u:hush@localhost/reauth", malformed},
		"a wrong port":                {"postgres://u:hush@localhost:port/reauth", malformed},
		"a wrong option":              {"postgres://u:hush@localhost/reauth?sslmode=perhaps", malformed},
		"nobody listens":              {"postgres://u:hush@" + nobody + "/reauth?sslmode=disable", "connect to PostgreSQL at " + nobody + `, database "reauth": the database is unavailable: `},
		"an unknown host":             {"postgres://u:hush@no.such.host.invalid/reauth", `connect to PostgreSQL at no.such.host.invalid:5432, database "reauth": the database is unavailable: `},
		"a silent server":             {"postgres://u:hush@" + silent.Addr().String() + "/reauth?sslmode=disable&connect_timeout=1", `database "reauth": the database is unavailable: `},
		"a wrong password":            {with(func(u *url.URL) { u.User = url.UserPassword(good.User.Username(), "hush") }), "password authentication failed"},
		"no such database":            {with(func(u *url.URL) { u.Path = "/nowhere" }), `database "nowhere" does not exist`},
		"no TLS there":                {with(func(u *url.URL) { u.RawQuery = "sslmode=require" }), "the server does not speak TLS; if that is meant, add sslmode=disable to the URL"},
		"no TLS at several":           {dsn + " sslmode=require", "the server does not speak TLS"},
		"several, and nobody listens": {"host=127.0.0.1,127.0.0.1 port=1 user=u password=hush dbname=reauth sslmode=disable", "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := db.Open(background(t), test.url)
			require.Error(t, err)
			assert.Nil(t, d)
			assert.Contains(t, err.Error(), test.want)
			assert.NotContains(t, err.Error(), "hush")
			assert.NotContains(t, err.Error(), "\n")
			if password != "" {
				assert.NotContains(t, err.Error(), password)
			}
		})
	}

	t.Run("a context that ends", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := db.Open(ctx, "postgres://u:hush@"+silent.Addr().String()+"/reauth?sslmode=disable&connect_timeout=1000")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// ownServer is a server that the test may stop.
func ownServer(t *testing.T) (*postgres.Server, store) {
	t.Helper()
	ctx := background(t)
	server, err := postgres.Start(ctx, postgres.Options{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	require.NoError(t, server.EnsureDatabase(ctx, "reauth"))
	s := openStore(t, server.URL("reauth"))
	require.NoError(t, s.Migrate(ctx))
	return server, s
}

func TestServerIsRestarted(t *testing.T) {
	server, s := ownServer(t)
	s.connect(t, "c1")
	together(8, func(int) { assert.NoError(t, s.Ping(s.ctx)) }) // so that the pool has several connections

	for range 2 {
		require.NoError(t, server.Restart(s.ctx))
		together(8, func(int) {
			_, err := s.Connection(s.ctx, "c1")
			assert.NoError(t, err)
			assert.NoError(t, s.LiftSuppression(s.ctx, "c1"))
		})
	}

	require.NoError(t, server.Stop())
	require.ErrorIs(t, s.Ping(s.ctx), db.ErrUnavailable)
	_, err := s.OpenCase(s.ctx, db.Case{CaseID: "k1", ConnectionID: "c1", Source: reauth.SourceManual, OpenedAt: t0})
	require.ErrorIs(t, err, db.ErrUnavailable)
	assert.Regexp(t, "^open a case: the database is unavailable: ", err.Error())
	require.NoError(t, server.Restart(s.ctx))
	s.open(t, "c1", "k1", t0)
}

func TestServerDiesDuringAnAdoption(t *testing.T) {
	server, s := ownServer(t)
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)

	a := adoption("c1", "token", t0)
	a.CaseID, a.Close = "k1", &db.Closing{CaseID: "k1", Outcome: reauth.OutcomeRecovered, At: t0}
	seal := a.Seal
	a.Seal = func(generation int64) ([]byte, error) {
		assert.NoError(t, syscall.Kill(server.Pid(), syscall.SIGKILL))
		<-server.Done()
		assert.NoError(t, server.Restart(s.ctx)) // returns when the old backends are gone
		return seal(generation)
	}
	_, err := s.Adopt(s.ctx, a)
	require.Error(t, err)
	assert.True(t, errors.Is(err, db.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded), err) // the latter on a slow machine
	_, err = s.CurrentToken(s.ctx, "c1")
	require.ErrorIs(t, err, db.ErrNotFound)
	k, err := s.CaseByID(s.ctx, "k1")
	require.NoError(t, err)
	require.True(t, k.Open())

	a.Seal = seal
	adopted, err := s.Adopt(s.ctx, a)
	require.NoError(t, err)
	assert.Equal(t, db.Adopted{Generation: 1, Current: true}, adopted)
}

// within fails the test when a call does not come back at all.
func within(t *testing.T, call func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); call() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	server, s := ownServer(t)
	s.connect(t, "c1")
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}

	t.Run("waiting for a lock", func(t *testing.T) {
		tx, err := s.raw.BeginTxx(s.ctx, nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		_, err = tx.Exec(`SELECT FROM connections FOR UPDATE`)
		require.NoError(t, err)
		within(t, func() {
			require.ErrorIs(t, s.SetConnectionStatus(short(), "c1", reauth.StatusStale, t0), context.DeadlineExceeded)
		})
	})
	require.NoError(t, s.Ping(s.ctx))

	freeze := func(t *testing.T, pids ...int) (thaw func()) {
		for _, pid := range pids {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		}
		thaw = sync.OnceFunc(func() {
			for _, pid := range pids {
				assert.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			}
		})
		t.Cleanup(thaw) // or it could not be stopped
		return thaw
	}
	backends := func(t *testing.T) (pids []int) {
		require.NoError(t, s.raw.Select(&pids, `
SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = 'reauth'`))
		require.NotEmpty(t, pids)
		return pids
	}
	calls := map[string]func(ctx context.Context) error{
		"a read": func(ctx context.Context) error {
			_, err := s.Connection(ctx, "c1")
			return err
		},
		"the begin of a transaction": func(ctx context.Context) error {
			return s.SetConnectionStatus(ctx, "c1", reauth.StatusStale, t0)
		},
		"a new connection": func(ctx context.Context) error {
			_, err := db.Open(ctx, server.URL("reauth"))
			return err
		},
	}
	for name, call := range calls {
		t.Run("a server that has frozen before "+name, func(t *testing.T) {
			together(4, func(int) { assert.NoError(t, s.Ping(s.ctx)) }) // connections to freeze
			thaw := freeze(t, append(backends(t), server.Pid())...)
			within(t, func() { assert.ErrorIs(t, call(short()), context.DeadlineExceeded) })
			thaw()
			within(t, func() { assert.Equal(t, reauth.StatusConnected, s.status(t, "c1")) })
		})
	}
	t.Run("a server that has frozen in a transaction", func(t *testing.T) {
		a := adoption("c1", "token", t0)
		thaw := func() {}
		a.Seal = func(int64) ([]byte, error) {
			thaw = freeze(t, backends(t)...)
			return []byte("sealed"), nil
		}
		within(t, func() {
			_, err := s.Adopt(short(), a)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
		thaw()
		a.Seal = adoption("c1", "token", t0).Seal
		within(t, func() {
			adopted, err := s.Adopt(s.ctx, a)
			assert.NoError(t, err)
			assert.Equal(t, db.Adopted{Generation: 1, Current: true}, adopted, "nothing of the first try was kept")
		})
	})
}

// Nothing that a row holds may be in an error, whatever the driver says.
func TestErrorsHoldNoValues(t *testing.T) {
	s := newStore(t)
	const secret = "anna@example.com"
	s.connect(t, "c1", secret)
	s.connect(t, "c2")
	_, err := s.Adopt(s.ctx, adoption("c1", "token", t0))
	require.NoError(t, err)

	for name, call := range map[string]func() error{
		"a value that breaks a rule": func() error {
			return s.AddEvent(s.ctx, db.Event{ConnectionID: secret, Kind: "x", At: t0})
		},
		"a recipient that is an address": func() error {
			_, _, err := s.EnsureLink(s.ctx, "c1", secret, 1, linkHash)
			return err
		},
		"no hash": func() error {
			_, _, err := s.ReceiveCode(s.ctx, secret, "", "")
			return err
		},
		"no JSON": func() error {
			return s.Enqueue(s.ctx, db.OutboxEvent{ID: "e", Type: "t", Payload: []byte(secret)})
		},
		"zero byte": func() error {
			return s.HoldCode(s.ctx, "\x00"+secret, "", "", []byte("x"))
		},
		"another connection's token": func() error {
			_, err := s.Adopt(s.ctx, adoption("c2", "token", t0))
			return err
		},
		"a malformed ID": func() error {
			_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: secret})
			return err
		},
		"an unknown case": func() error {
			_, _, _, err := s.BeginNotice(s.ctx, db.Notice{CaseID: secret})
			return err
		},
	} {
		err := call()
		require.Error(t, err, name)
		for e := err; e != nil; {
			assert.NotContains(t, fmt.Sprintf("%v %+v %#v", e, e, e), "anna", name)
			unwrapped, ok := e.(interface{ Unwrap() error })
			if !ok {
				break
			}
			e = unwrapped.Unwrap()
		}
		assert.False(t, strings.Contains(err.Error(), "\n"), name)
	}

	// The driver itself does tell.
	_, err = s.raw.Exec(`INSERT INTO contacts (connection_id, position, email, email_key, name, role, locale, time_zone)
VALUES ('c1', 1, $1, $1, '', '', '', '')`, secret)
	refused := pq.As(err, pqerror.UniqueViolation)
	require.NotNil(t, refused)
	assert.Contains(t, refused.Detail, secret)
}
