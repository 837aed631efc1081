package db_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

// t0 is when things begin in the tests.
var t0 = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// store is a database for one test.
type store struct {
	*db.DB
	raw *sqlx.DB // past the package, to look at rows and to try wrong ones
	ctx context.Context
}

func newStore(t testing.TB) store {
	t.Helper()
	return openStore(t, pgtest.URL(t))
}

func openStore(t testing.TB, url string) store {
	t.Helper()
	ctx := background(t)
	d, err := db.Open(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	raw, err := sqlx.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, raw.Close()) })
	return store{DB: d, raw: raw, ctx: ctx}
}

// connect registers a connection whose contacts have these addresses.
func (s store) connect(t testing.TB, id string, emails ...string) {
	t.Helper()
	c := reauth.Connection{ConnectionID: id, Provider: reauth.Finch, Application: "default", CustomerName: "Acme"}
	for _, email := range emails {
		c.Contacts = append(c.Contacts, reauth.Contact{Email: email, Name: "Anna"})
	}
	_, err := s.PutConnection(s.ctx, c)
	require.NoError(t, err)
}

// open opens a case.
func (s store) open(t testing.TB, connectionID, caseID string, at time.Time) {
	t.Helper()
	opened, err := s.OpenCase(s.ctx, db.Case{CaseID: caseID, ConnectionID: connectionID, Source: reauth.SourceManual, OpenedAt: at})
	require.NoError(t, err)
	require.True(t, opened)
}

// end closes a case that is open.
func (s store) end(t testing.TB, caseID string, outcome reauth.Outcome, at time.Time) {
	t.Helper()
	first, err := s.CloseCase(s.ctx, db.Closing{CaseID: caseID, Outcome: outcome, At: at})
	require.NoError(t, err)
	require.True(t, first)
}

func (s store) status(t testing.TB, id string) reauth.ConnectionStatus {
	t.Helper()
	c, err := s.Connection(s.ctx, id)
	require.NoError(t, err)
	return c.Status
}

// recipient returns the ID of a connection's first contact.
func (s store) recipient(t testing.TB, connectionID string) string {
	t.Helper()
	list, err := s.Recipients(s.ctx, connectionID)
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list[0].ContactID
}

// adoption is one of a token that was minted at a time.
func adoption(connectionID, token string, mintedAt time.Time) db.Adoption {
	return db.Adoption{
		ConnectionID: connectionID, Fingerprint: reauth.Fingerprint(token), Source: "code", MintedAt: mintedAt,
		Seal: func(generation int64) ([]byte, error) {
			return fmt.Appendf(nil, "sealed %s %d", token, generation), nil
		},
	}
}

// count returns the number of rows that a statement finds.
func (s store) count(t testing.TB, from string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, s.raw.GetContext(s.ctx, &n, `SELECT count(*) FROM `+from, args...))
	return n
}

// together runs n calls at the same moment, and returns when all have ended.
func together(n int, call func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			call(i)
		})
	}
	done.Wait()
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func linkHash(keyID uint32, version int) ([]byte, error) {
	return hashOf(fmt.Sprint("link ", keyID, version)), nil
}

func hash32(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
