// Package db is everything we keep in PostgreSQL, and all the SQL there is.
//
// Every write is one transaction; READ COMMITTED with explicit row locks. Locks
// are always taken in this order, so that no two transactions can wait for each
// other:
//
//  1. the row in connections (FOR NO KEY UPDATE),
//  2. the row in cases (FOR NO KEY UPDATE to change or close it, FOR SHARE to
//     be sure that it stays open while a notice is permitted),
//  3. anything below them,
//  4. the turns of cases in the outbox, at the very end, in the order of the
//     cases (outgoing does this).
//
// A transaction that holds a case and not its connection never asks for the
// connection. NO KEY UPDATE is used, and not UPDATE, since foreign keys take
// KEY SHARE on the rows they refer to and must not wait.
//
// Every call is bounded by its context, and by 10 seconds at most. Errors say
// what was being done and never hold a value of a row. Times are returned in UTC,
// in microseconds, as PostgreSQL keeps them.
package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// callTimeout bounds every call whose context does not end sooner.
	callTimeout = 10 * time.Second
	// openTimeout bounds Open.
	openTimeout = 10 * time.Second
	// maxConns bounds the pool; a PostgreSQL server takes 100 connections by
	// default, and several of our processes share it.
	maxConns = 20
)

// DB is a pool of connections to the database. Its methods may be called from
// any number of goroutines.
type DB struct {
	sqlx *sqlx.DB
	now  func() time.Time
	// publishes: every line of a case's timeline goes to the backend as well.
	publishes bool
	// store is StoreWebhook's statement.
	store *prepared
}

// Open connects to the database that a URL names and makes sure that it
// answers. It does not wait for a server that is down. The error has one line
// and never holds the password.
func Open(ctx context.Context, url string) (*DB, error) {
	config, err := pq.NewConfig(url)
	if err != nil || url == "" {
		// The parser's own error repeats the URL, and with it the password.
		return nil, errors.New(`the database URL is malformed; it should look like "postgres://user:password@localhost:5432/reauth?sslmode=disable"`)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.ApplicationName == "" {
		config.ApplicationName = "reauth"
	}
	config.Runtime = withUTC(config.Runtime)

	pool := sql.OpenDB(connector{config})
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns / 2)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(time.Hour)
	d := &DB{sqlx: sqlx.NewDb(pool, "postgres"), now: time.Now, store: &prepared{query: storeWebhook}}

	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := pool.PingContext(ctx); err != nil {
		_ = pool.Close()
		address := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
		doing := fmt.Sprintf("connect to PostgreSQL at %s, database %q", address, config.Database)
		if errors.Is(err, pq.ErrSSLNotSupported) { // with several hosts it has several lines
			return nil, errors.New(doing + ": the server does not speak TLS; if that is meant, add sslmode=disable to the URL")
		}
		return nil, wrap(ctx, doing, err)
	}
	return d, nil
}

func withUTC(runtime map[string]string) map[string]string {
	params := map[string]string{"timezone": "UTC"}
	for k, v := range runtime {
		if !strings.EqualFold(k, "timezone") {
			params[k] = v
		}
	}
	return params
}

// Close closes the pool.
func (d *DB) Close() error { return d.sqlx.Close() }

// Ping makes sure that the database answers.
func (d *DB) Ping(ctx context.Context) error {
	return d.read(ctx, "reach PostgreSQL", func(ctx context.Context) error {
		_, err := d.sqlx.ExecContext(ctx, `SELECT 1`)
		return err
	})
}

// Migrate brings the database to the newest version of its tables. It may run
// in several processes at once: one migrates, the others wait for it.
func (d *DB) Migrate(ctx context.Context) error {
	const doing = "migrate the database"
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return wrap(ctx, doing, err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300), lock.WithUnlockTimeout(1, 30))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, d.sqlx.DB, files, goose.WithSessionLocker(locker))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return wrap(ctx, doing, err)
	}
	return nil
}

// prepared is a statement that is planned once for each connection, since the
// planning is most of what it costs.
type prepared struct {
	query string
	stmt  atomic.Pointer[sqlx.Stmt]
}

// on returns the statement, and prepares it if nobody has. Whoever needs it at
// the same time waits for no one else.
func (p *prepared) on(ctx context.Context, pool *sqlx.DB) (*sqlx.Stmt, error) {
	if stmt := p.stmt.Load(); stmt != nil {
		return stmt, nil
	}
	stmt, err := pool.PreparexContext(ctx, p.query)
	if err != nil {
		return nil, err
	}
	if !p.stmt.CompareAndSwap(nil, stmt) {
		_ = stmt.Close()
	}
	return p.stmt.Load(), nil
}

// read runs statements that change nothing.
func (d *DB) read(ctx context.Context, doing string, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return wrap(ctx, doing, do(ctx))
}

// write runs a transaction. Even a single statement runs in one: outside,
// database/sql would run it again when the connection breaks before the
// answer, and "was it the first?" would get the answer of the second run.
func (d *DB) write(ctx context.Context, doing string, do func(ctx context.Context, tx *sqlx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tx, err := d.sqlx.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing is left to roll back after a commit
	out := &outgoing{publishes: d.publishes, now: d.now}
	if err := do(out.in(ctx), tx); err != nil {
		return wrap(ctx, doing, err)
	}
	if err := out.write(ctx, tx); err != nil {
		return wrap(ctx, doing, err)
	}
	return wrap(ctx, doing, tx.Commit())
}

// first fills dest with the only row of a query, and reports whether there is one.
func first(ctx context.Context, q sqlx.QueryerContext, dest any, query string, args ...any) (bool, error) {
	err := sqlx.GetContext(ctx, q, dest, query, args...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// affected runs a statement and returns how many rows it changed.
func affected(ctx context.Context, tx *sqlx.Tx, query string, args ...any) (int, error) {
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// changed runs a statement and reports whether it changed a row.
func changed(ctx context.Context, tx *sqlx.Tx, query string, args ...any) (bool, error) {
	n, err := affected(ctx, tx, query, args...)
	return n > 0, err
}

// exec runs a statement.
func exec(ctx context.Context, tx *sqlx.Tx, query string, args ...any) error {
	_, err := tx.ExecContext(ctx, query, args...)
	return err
}

// null is NULL for an empty text.
func null(text string) sql.NullString { return sql.NullString{String: text, Valid: text != ""} }
