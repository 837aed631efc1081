package worker

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const webhookSecret = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"

// store is a database for one test.
type store struct {
	*db.DB
	raw  *sqlx.DB
	logs *logs
}

func newStore(t *testing.T) store {
	t.Helper()
	address := pgtest.URL(t)
	d, err := db.Open(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	raw, err := sqlx.Open("postgres", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	return store{d, raw, &logs{}}
}

func (s store) enqueue(t *testing.T, id, payload string) {
	t.Helper()
	require.NoError(t, s.Enqueue(t.Context(), db.OutboxEvent{ID: id, Type: "reauth.case.closed", Payload: json.RawMessage(payload)}))
}

// event is a row of the outbox.
type event struct {
	Attempts    int        `db:"attempts"`
	DueAt       time.Time  `db:"due_at"`
	DeliveredAt *time.Time `db:"delivered_at"`
	AbandonedAt *time.Time `db:"abandoned_at"`
	LastError   string     `db:"last_error"`
}

func (s store) row(t *testing.T, id string) (e event) {
	t.Helper()
	require.NoError(t, s.raw.Get(&e, `SELECT attempts, due_at, delivered_at, abandoned_at, last_error FROM outbox WHERE event_id = $1`, id))
	return e
}

// due lets the time pass until an event is due.
func (s store) due(t *testing.T, id string) {
	t.Helper()
	_, err := s.raw.Exec(`UPDATE outbox SET due_at = $2 WHERE event_id = $1`, id, time.Now().Add(-time.Second))
	require.NoError(t, err)
}

func (s store) courier(t *testing.T, url, secret string) *courier {
	t.Helper()
	c, err := newCourier(s.DB, url, secret, here(), s.logger())
	require.NoError(t, err)
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

func (s store) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s.logs, nil)) }

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// receiver is the company's backend.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	all []delivery
}

// delivery is one webhook as it arrived.
type delivery struct {
	method, body string
	header       http.Header
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		r.all = append(r.all, delivery{request.Method, string(body), request.Header.Clone()})
		r.mu.Unlock()
		if answer != nil {
			answer(w, request)
		}
	}))
	t.Cleanup(r.Close)
	t.Cleanup(r.CloseClientConnections)
	return r
}

func (r *receiver) got() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// adopt stores a token of a connection.
func adopt(t *testing.T, s store, keys *secrets.Keys, connectionID string) {
	t.Helper()
	_, err := s.Adopt(t.Context(), db.Adoption{
		ConnectionID: connectionID, Fingerprint: reauth.Fingerprint("a token"), Source: "api", MintedAt: time.Now(),
		Seal: func(generation int64) ([]byte, error) {
			return keys.Seal([]byte("a token"), "token", connectionID, strconv.FormatInt(generation, 10))
		},
	})
	require.NoError(t, err)
}

// here allows what listens on this machine.
func here() outbound.Guard {
	guard, err := outbound.Parse(outbound.Loopback)
	if err != nil {
		panic(err)
	}
	return guard
}
