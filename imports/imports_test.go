package imports_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/imports/rows"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// world is a database and an importer.
type world struct {
	*imports.Importer
	t      *testing.T
	url    string
	db     *db.DB
	raw    *sqlx.DB
	closed []db.ImportReject // what was rejected
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, url: pgtest.URL(t)}
	var err error
	w.db, err = db.Open(t.Context(), w.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.db.Close() })
	w.raw, err = sqlx.Open("postgres", w.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.raw.Close() })
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	w.Importer = &imports.Importer{Store: w.db, Keys: keys, Now: time.Now, Wrote: func(p imports.Part) {
		w.closed = append(w.closed, p.Rejected...)
	}}
	return w
}

func (w *world) run(id, content string) db.ImportTotals {
	w.t.Helper()
	w.closed = nil
	result, err := w.Import(w.t.Context(), imports.Job{ID: id, Reports: true, Content: strings.NewReader(content)})
	require.NoError(w.t, err)
	return result.Totals
}

func (w *world) count(from string, args ...any) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.raw.Get(&n, `SELECT count(*) FROM `+from, args...))
	return n
}

func (w *world) connection(id string) reauth.Connection {
	w.t.Helper()
	c, err := w.db.Connection(w.t.Context(), id)
	require.NoError(w.t, err)
	return c
}

func (w *world) problems() []string {
	list := []string{}
	for _, r := range w.closed {
		list = append(list, fmt.Sprintf("%d %s: %s", r.Line, r.ConnectionID, r.Problem))
	}
	return list
}

const sheet = `connection_id,access_token,customer_id,customer_name,system,products,minted_at,contact_email,contact_name,contact2_email,contact2_role
c1,tok-1,cus-1,Acme,Gusto,company directory,2026-01-02T03:04:05Z,ada@acme.example,Ada,bob@acme.example,alternate
c2,tok-2,cus-2,"Brown, Sons & Co",,,,eve@brown.example,,,
,tok-3,cus-3,Cole,,,,cid@cole.example,,,
c4,,cus-4,Dent,,,,,,,
`

func TestImport(t *testing.T) {
	w := newWorld(t)
	assert.Equal(t, db.ImportTotals{Rows: 4, Created: 3, Staged: 3}, w.run("one", sheet))
	c := w.connection("c1")
	assert.Equal(t, "Acme", c.CustomerName)
	assert.Equal(t, "Gusto", c.System)
	assert.Equal(t, []string{"company", "directory"}, c.Products)
	require.Len(t, c.Contacts, 2)
	assert.Equal(t, "ada@acme.example", c.Contacts[0].Email)
	assert.Equal(t, "alternate", c.Contacts[1].Role)
	assert.Equal(t, "Brown, Sons & Co", w.connection("c2").CustomerName)
	assert.Empty(t, w.connection("c4").Contacts)
	assert.Equal(t, 3, w.count("connections"))
	assert.Equal(t, 3, w.count("contacts"), "those of a connection that nobody has named yet are sealed")
	assert.Zero(t, w.count("tokens"), "no token is anybody's before the provider was asked")

	staged, err := w.db.StagedOf(t.Context(), "c1", time.Now())
	require.NoError(t, err)
	require.Len(t, staged, 1)
	token, _, err := imports.Open(w.Keys, staged[0])
	require.NoError(t, err)
	assert.Equal(t, "tok-1", token.Reveal())
	assert.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), staged[0].MintedAt)
	other := staged[0]
	other.ImportID = "another"
	_, _, err = imports.Open(w.Keys, other)
	require.ErrorIs(t, err, secrets.ErrSealed, "the seal is bound to the import")
	var nameless []byte
	require.NoError(t, w.raw.Get(&nameless, `SELECT sealed FROM staged_tokens WHERE connection_id IS NULL`))
	assert.NotContains(t, string(nameless), "cole.example")

	before := w.dump()
	assert.Equal(t, db.ImportTotals{Rows: 4, Known: 3}, w.run("one", sheet), "the same file again changes nothing")
	assert.Equal(t, db.ImportTotals{Rows: 4, Known: 3}, w.run("two", sheet), "nor under another name")
	assert.Equal(t, before, w.dump())
}

// dump is everything an import can change, with when it was changed.
func (w *world) dump() string {
	w.t.Helper()
	var text string
	require.NoError(w.t, w.raw.Get(&text, `
SELECT (SELECT coalesce(json_agg(c ORDER BY connection_id), '[]') FROM connections c)::text || (SELECT coalesce(json_agg(c ORDER BY contact_id), '[]') FROM contacts c)::text
    || (SELECT coalesce(json_agg(s ORDER BY fingerprint), '[]') FROM staged_tokens s)::text || (SELECT coalesce(json_agg(t ORDER BY fingerprint), '[]') FROM tokens t)::text`))
	return text
}

// What a row is silent of stays; what it speaks of replaces what was there.
func TestImportOfKnownConnections(t *testing.T) {
	w := newWorld(t)
	w.run("one", sheet)
	ada := w.connection("c1").Contacts[0].ContactID

	w.run("tokens", "connection_id,access_token\nc1,tok-9\n")
	assert.Len(t, w.connection("c1").Contacts, 2, "a file of tokens alone takes nobody away")
	assert.Equal(t, "Acme", w.connection("c1").CustomerName)

	totals := w.run("people", `{"connection_id":"c1","contacts":[{"email":"new@acme.example"},{"email":"ADA@acme.example","name":"Ada L."}]}
{"connection_id":"c2","contacts":[]}
{"connection_id":"c4","customer_name":"Dent Ltd"}
`)
	assert.Equal(t, db.ImportTotals{Rows: 3, Updated: 3}, totals)
	c := w.connection("c1")
	require.Len(t, c.Contacts, 2)
	assert.Equal(t, "new@acme.example", c.Contacts[0].Email)
	assert.Equal(t, reauth.Contact{ContactID: ada, Email: "ADA@acme.example", Name: "Ada L."}, c.Contacts[1], "the same person")
	assert.Empty(t, w.connection("c2").Contacts)
	assert.Equal(t, 2, w.count("contacts WHERE removed_at IS NOT NULL AND email = '' AND address_hash IS NOT NULL"))
	assert.Equal(t, "Dent Ltd", w.connection("c4").CustomerName)

	bob := w.count("contacts")
	w.run("back", `{"connection_id":"c1","contacts":[{"email":"bob@acme.example"}]}`)
	assert.Equal(t, bob, w.count("contacts"), "whoever comes back is the same contact as then")
	assert.Equal(t, "bob@acme.example", w.connection("c1").Contacts[0].Email)

	_, err := w.db.RemoveConnection(t.Context(), "c1")
	require.NoError(t, err)
	assert.Zero(t, w.count("staged_tokens WHERE connection_id = 'c1'"), "a removal erases what an import has handed in")
	assert.Equal(t, db.ImportTotals{Rows: 4, Created: 1, Staged: 1, Known: 2, Updated: 1 + 1}, w.run("one", sheet))
	assert.Equal(t, reauth.StatusConnected, w.connection("c1").Status)
}

// The batch does what PutConnection does.
func TestImportIsLikePut(t *testing.T) {
	people := []string{"a@x.example", "b@x.example", "c@x.example", "A@X.example"}
	random := rand.New(rand.NewPCG(1, 2))
	one, many := newWorld(t), newWorld(t)
	for step := range 40 {
		id := fmt.Sprintf("c%d", random.IntN(4))
		c := reauth.Connection{ConnectionID: id, CustomerID: fmt.Sprint(random.IntN(2)), System: []string{"", "Gusto"}[random.IntN(2)], Products: []string{"company"}[:random.IntN(2)]}
		var text []string
		seen := map[string]bool{}
		for _, i := range random.Perm(len(people))[:random.IntN(4)] {
			if key := strings.ToLower(people[i]); !seen[key] {
				seen[key] = true
				c.Contacts = append(c.Contacts, reauth.Contact{Email: people[i], Role: "r" + fmt.Sprint(random.IntN(2))})
				text = append(text, fmt.Sprintf(`{"email":%q,"role":%q}`, people[i], c.Contacts[len(c.Contacts)-1].Role))
			}
		}
		_, err := one.db.PutConnection(t.Context(), c)
		require.NoError(t, err)
		products := `[]`
		if len(c.Products) > 0 {
			products = `["company"]`
		}
		many.run(fmt.Sprint("i", step), fmt.Sprintf(`{"connection_id":%q,"customer_id":%q,"system":%q,"products":%s,"campaign":"","contacts":[%s]}`,
			id, c.CustomerID, c.System, products, strings.Join(text, ",")))
		if step%7 == 6 {
			for _, w := range []*world{one, many} {
				_, err := w.db.RemoveConnection(t.Context(), id)
				require.NoError(t, err)
			}
		}
		const shown = `SELECT json_agg(x ORDER BY x::text)::text FROM (
SELECT c.connection_id, c.customer_id, c.system, c.products, c.status, p.position, p.email, p.email_key, p.role, p.removed_at IS NULL AS live, encode(p.address_hash, 'hex') AS hash
  FROM connections c LEFT JOIN contacts p USING (connection_id)) x`
		var want, got string
		require.NoError(t, one.raw.Get(&want, shown))
		require.NoError(t, many.raw.Get(&got, shown))
		require.Equal(t, want, got, "step %d", step)
	}
}

func TestImportRejectsRows(t *testing.T) {
	w := newWorld(t)
	w.run("before", "connection_id,access_token\nc0,tok-0\n")
	_, err := w.db.Adopt(t.Context(), db.Adoption{
		ConnectionID: "c0", Fingerprint: reauth.Fingerprint("tok-0"), MintedAt: time.Now(), Seal: func(int64) ([]byte, error) { return []byte("x"), nil },
	})
	require.NoError(t, err)
	totals := w.run("one", `connection_id,access_token,contact_email,customer_id
c1,tok-1,ada@acme.example,cus
c2,tok-1,eve@acme.example,cus
c3,tok-0,eve@acme.example,cus
,tok-0,new@acme.example,cus
,,nobody@acme.example,cus
c4,tok 4,,
c 5,,,
c6,tok-6,not an address,
c1,tok-7,,
c7,,"x
c8,,
,tok-8,,
,tok-8,,
`)
	assert.Equal(t, []string{
		"6 : has neither a connection_id nor an access_token; give at least one of them",
		"7 c4: access_token: must be printable ASCII without spaces",
		"8 : connection_id must be 1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit",
		"9 c6: contact_email: must be an e-mail address alone, as \"ada@acme.example\"",
		"11 : column 3 begins with a double quote that nothing closes on its line; no cell may hold a line break",
		"12 : has 3 columns, but the header has 4; a cell with a separator or a quote in it must stand in double quotes",
		"3 c2: access_token: stands in line 2 already, with another connection_id",
		"4 c3: access_token: is stored as another connection's token",
	}, w.problems())
	assert.Equal(t, db.ImportTotals{Rows: 13, Rejected: 8, Created: 1, Updated: 1, Staged: 3, Known: 2}, totals)
	assert.Equal(t, 2, w.count("connections"), "of a rejected row nothing is stored: c0 and c1")
	assert.Equal(t, "new@acme.example", w.connection("c0").Contacts[0].Email, "a token that is stored says whose row it is")
	list, next, err := w.db.ImportRejects(t.Context(), "one", "", 5)
	require.NoError(t, err)
	require.Len(t, list, 5)
	assert.Equal(t, int64(3), list[0].Line)
	list, next, err = w.db.ImportRejects(t.Context(), "one", next, 5)
	require.NoError(t, err)
	assert.Len(t, list, 3)
	assert.Empty(t, next)
	for _, secret := range []string{"tok-", "acme.example"} {
		assert.Zero(t, w.count("import_rejects WHERE problem LIKE $1 AND problem NOT LIKE '%as \"ada@acme.example\"'", "%"+secret+"%"))
	}
}

// A row may come twice, with and without the ID; what names it counts.
func TestImportTakesTheNameOfALaterRow(t *testing.T) {
	w := newWorld(t)
	w.run("one", "{\"access_token\":\"tok\"}\n{\"access_token\":\"tok\",\"connection_id\":\"c1\"}\n")
	assert.Equal(t, 1, w.count("staged_tokens WHERE connection_id = 'c1' AND state = 'waiting'"))
	w.run("two", "{\"access_token\":\"tok\",\"connection_id\":\"c2\"}\n")
	assert.Equal(t, 1, w.count("staged_tokens WHERE connection_id = 'c2' AND state = 'waiting' AND import_id = 'two'"), "a corrected file corrects")
	w.run("three", "{\"access_token\":\"tok\",\"customer_id\":\"cus\"}\n")
	assert.Equal(t, 1, w.count("staged_tokens WHERE connection_id = 'c2' AND state = 'waiting'"), "silence corrects nothing")
	assert.Equal(t, "cus", w.connection("c2").CustomerID)
}

func TestImportThatCannotBegin(t *testing.T) {
	w := newWorld(t)
	for content, want := range map[string]string{
		"":                             "there is nothing in it",
		"a,b\n1,2\n":                   "line 1: the first line of a CSV must name its columns",
		"connection_id,emial\nc1,x\n":  "line 1: the header's column 2 (emial) is not known",
		"[{\"connection_id\":\"c1\"}]": "is a JSON array",
	} {
		_, err := w.Import(t.Context(), imports.Job{ID: "x", Content: strings.NewReader(content)})
		var file *rows.FileError
		require.ErrorAs(t, err, &file, content)
		assert.ErrorContains(t, err, want)
	}
	_, err := w.Import(t.Context(), imports.Job{ID: "a b", Content: strings.NewReader(sheet)})
	require.ErrorContains(t, err, "the ID of an import must be")
	assert.Zero(t, w.count("imports"))
}

// crashing is a store whose process dies now and then, before a part was
// stored or after it.
type crashing struct {
	imports.Store
	random *rand.Rand
	every  int
}

var errKilled = errors.New("killed")

func (c *crashing) WriteImport(ctx context.Context, b db.ImportBatch) (db.ImportWritten, error) {
	die := c.random.IntN(c.every) == 0
	if die && c.random.IntN(2) == 0 {
		return db.ImportWritten{}, errKilled
	}
	written, err := c.Store.WriteImport(ctx, b)
	if die && err == nil {
		err = errKilled
	}
	return written, err
}

// bigFile writes n rows: every tenth connection has two tokens, every twentieth
// row names no connection, every thousandth is wrong, and the last hundredth
// repeats the first.
func bigFile(n int) (io.Reader, func() int64) {
	in, out := io.Pipe()
	var read atomic.Int64
	go func() {
		var b bytes.Buffer
		b.WriteString("connection_id,access_token,customer_id,customer_name,contact_email,contact_name,contact_time_zone,contact2_email\n")
		for i := range n {
			k := i
			if i >= n-n/100 {
				k = i - (n - n/100)
			}
			id := fmt.Sprintf("6f1f7cd5-1d52-4a1c-b3ea-%012d", k)
			switch {
			case k%1000 == 999:
				id = "not an id"
			case k%20 == 19:
				id = ""
			case k%10 == 7:
				id = fmt.Sprintf("6f1f7cd5-1d52-4a1c-b3ea-%012d", k-1)
			}
			fmt.Fprintf(&b, "%s,token-%d,cus-%d,Customer %d,ada%d@acme.example,Ada,Europe/London,bob%d@acme.example\n", id, k, k, k, k, k)
			if b.Len() > 1<<16 {
				m, err := b.WriteTo(out)
				if read.Add(m); err != nil {
					return
				}
			}
		}
		_, err := b.WriteTo(out)
		_ = out.CloseWithError(err)
	}()
	return in, read.Load
}

func TestImportOfManyRowsWithCrashesInBetween(t *testing.T) {
	n := 20_000
	if text := os.Getenv("REAUTH_IMPORT_ROWS"); text != "" { // `make import`
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	w := newWorld(t)
	store := &crashing{Store: w.db, random: rand.New(rand.NewPCG(3, 4)), every: 20}
	w.Store = store
	var most uint64
	parts := 0
	w.Wrote = func(imports.Part) {
		if parts++; parts%20 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	began, crashes := time.Now(), 0
	var result imports.Result
	for {
		content, _ := bigFile(n)
		var err error
		result, err = w.Import(t.Context(), imports.Job{ID: "big", Reports: true, Content: content})
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errKilled)
		crashes++
		require.Less(t, crashes, 1000)
	}
	t.Logf("%d rows, %d crashes, %s, at most %d MiB of heap: %+v", n, crashes, time.Since(began).Round(time.Millisecond), most>>20, result.Totals)
	assert.Positive(t, crashes)
	assert.Less(t, most, uint64(64<<20))

	unique := n - n/100
	nameless, wrong, doubled := 0, 0, 0
	for k := range unique {
		switch {
		case k%1000 == 999:
			wrong++
		case k%20 == 19:
			nameless++
		case k%10 == 7:
			doubled++
		}
	}
	wrongTwice := n / 100 / 1000
	assert.Equal(t, db.ImportTotals{
		Rows: int64(n), Rejected: int64(wrong + wrongTwice), Created: int64(unique - wrong - nameless - doubled),
		Updated: result.Totals.Updated, Staged: int64(unique - wrong), Known: int64(n/100 - wrongTwice),
	}, result.Totals)
	assert.Equal(t, unique-wrong-nameless-doubled, w.count("connections"))
	assert.Equal(t, 2*(unique-wrong-nameless-doubled), w.count("contacts WHERE removed_at IS NULL"))
	assert.Equal(t, unique-wrong, w.count("staged_tokens WHERE state = 'waiting'"))
	assert.Equal(t, nameless, w.count("staged_tokens WHERE connection_id IS NULL"))
	assert.Equal(t, wrong+wrongTwice, w.count("import_rejects"))
	assert.Zero(t, w.count(`(SELECT connection_id FROM contacts WHERE removed_at IS NULL GROUP BY 1 HAVING count(*) <> 2) x`))
}

// Other content under the ID of an import that was interrupted is refused.
func TestResumingWithOtherContent(t *testing.T) {
	w := newWorld(t)
	store := &crashing{Store: w.db, random: rand.New(rand.NewPCG(5, 6)), every: 3}
	w.Store = store
	text := func(n int, prefix string) string {
		b := &strings.Builder{}
		for i := range n {
			fmt.Fprintf(b, "{\"connection_id\":\"%s%d\"}\n", prefix, i)
		}
		return b.String()
	}
	interrupt := func(id string) {
		for range 100 {
			_, err := w.Import(t.Context(), imports.Job{ID: id, Content: strings.NewReader(text(5000, "a"))})
			if p, readErr := w.db.ImportByID(t.Context(), id); readErr == nil && err != nil && p.LinesDone > 0 {
				return
			}
			id += "x"
		}
		t.Fatal("it was never interrupted in its midst")
	}
	interrupt("one")
	var id string
	require.NoError(t, w.raw.Get(&id, `SELECT import_id FROM imports WHERE lines_done > 0 AND read_at IS NULL LIMIT 1`))
	w.Store = w.db
	for _, other := range []string{text(5000, "b"), text(3, "a")} {
		_, err := w.Import(t.Context(), imports.Job{ID: id, Content: strings.NewReader(other)})
		require.ErrorIs(t, err, imports.ErrOtherContent)
	}
	assert.Zero(t, w.count("connections WHERE connection_id LIKE 'b%'"))
	result, err := w.Import(t.Context(), imports.Job{ID: id, Content: strings.NewReader(text(5000, "a"))})
	require.NoError(t, err)
	assert.Positive(t, result.Resumed)
	assert.Equal(t, int64(5000), result.Totals.Rows)
}

// Two processes that import the same do not get into each other's way.
func TestTheSameImportTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	content := &strings.Builder{}
	for i := range 3000 {
		fmt.Fprintf(content, "{\"connection_id\":\"c%d\",\"access_token\":\"t%d\",\"contacts\":[{\"email\":\"a%d@x.example\"}]}\n", i%700, i, i%700)
	}
	done := make(chan error, 4)
	for i := range 4 {
		go func() {
			importer := *w.Importer
			importer.Wrote = nil
			_, err := importer.Import(t.Context(), imports.Job{ID: fmt.Sprint("at-once-", i%2), Content: strings.NewReader(content.String())})
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			require.ErrorIs(t, err, db.ErrImportMoved)
		}
	}
	for i := range 2 {
		w.run(fmt.Sprint("at-once-", i), content.String())
	}
	assert.Equal(t, 700, w.count("connections"))
	assert.Equal(t, 700, w.count("contacts"))
	assert.Equal(t, 3000, w.count("staged_tokens"))
}

func TestTakes(t *testing.T) {
	assert.Equal(t, 69*time.Hour+20*time.Minute+33*time.Second, imports.Takes(83211, 20))
}
