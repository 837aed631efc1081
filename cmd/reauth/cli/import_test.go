package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
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
	"github.com/finch-reauth/reauth/secrets"
)

// imported runs a command of the program in this process.
func imported(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(append([]string{"import"}, args...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "connections.csv")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func TestImportCommand(t *testing.T) {
	given := complete(t)
	settle(t, map[string]string{"DATABASE_URL": pgtest.URL(t), "REAUTH_KEYSET": given["REAUTH_KEYSET"]})
	file := write(t, "connection_id,access_token,contact_email\nc1,tok-hunter2,ada@acme.example\nc 2,,\nc3,,hunter2\n,tok-hunter3,\n")
	code, out, errs := imported(t, file)
	assert.Equal(t, exitRejects, code, errs)
	assert.Contains(t, out, "4 rows: 1 connections new, 0 changed, 2 rows rejected; 2 tokens handed in, 0 known before\n")
	assert.Contains(t, out, "2 tokens wait to be asked about; at 20 a minute that takes about a minute; `reauth import status ")
	assert.Contains(t, errs, "line 3: connection_id must be 1 to 128")
	assert.Contains(t, errs, `line 4 (c3): contact_email: must be an e-mail address alone`)
	assert.NotContains(t, out+errs, "hunter")

	report := filepath.Join(t.TempDir(), "rejected.txt")
	code, out, errs = imported(t, file, "--report", report, "--json")
	assert.Equal(t, exitRejects, code)
	assert.NotContains(t, errs, "line 3")
	var result importedJSON
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	assert.Equal(t, int64(2), result.Known)
	assert.Zero(t, result.Created, "the same file again changes nothing")
	text, err := os.ReadFile(report)
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(string(text), "\n"))

	code, out, _ = imported(t, "status")
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, result.ImportID)
	code, out, errs = imported(t, "status", result.ImportID, "--rejected")
	assert.Equal(t, exitOK, code)
	assert.Regexp(t, `tokens waiting +2\n`, out)
	assert.Contains(t, errs, "line 3: ")

	code, out, _ = imported(t, write(t, "connection_id\nc1\n"))
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, "1 rows: 0 connections new")
}

func TestImportCommandRefuses(t *testing.T) {
	given := complete(t)
	settle(t, map[string]string{"DATABASE_URL": pgtest.URL(t), "REAUTH_KEYSET": given["REAUTH_KEYSET"]})
	good := write(t, "connection_id\nc1\n")
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a format":        {[]string{good, "--format", "xml"}, exitUsage, "--format must be csv or ndjson"},
		"an ID":           {[]string{good, "--import-id", "a b"}, exitUsage, "the ID of an import must be"},
		"no file":         {[]string{"/nonexistent"}, exitUsage, "no such file"},
		"a folder":        {[]string{t.TempDir()}, exitUsage, "is a folder"},
		"a report":        {[]string{write(t, "connection_id\nc 1\n"), "--report", "/nonexistent/x"}, exitUsage, "no such file"},
		"a wrong file":    {[]string{write(t, "name\nhunter2\n")}, exitFailure, "must name its columns"},
		"no such import":  {[]string{"status", "none"}, exitFailure, "there is no import none"},
		"rejects of what": {[]string{"status", "--rejected"}, exitUsage, "--rejected goes with"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := imported(t, test.args...)
			assert.Equal(t, test.code, code)
			assert.Contains(t, errs, test.want)
			assert.NotContains(t, errs, "hunter2")
		})
	}
	settle(t, nil)
	code, out, errs := imported(t, "--check", write(t, "connection_id\nc1\nc 2\n"))
	assert.Equal(t, exitRejects, code, "checking needs no settings")
	assert.Contains(t, out, "2 rows of csv, 1 of them wrong; nothing was stored")
	assert.Contains(t, errs, "line 3: ")
	code, _, errs = imported(t, good)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, errs, "DATABASE_URL is missing")
}

func TestProgressWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "a minute", 59 * time.Second: "a minute", time.Minute: "1 minute", 61 * time.Minute: "1 hour 1 minute", 24 * time.Hour: "1 day",
		69*time.Hour + 20*time.Minute: "2 days 21 hours", 24*time.Hour + 5*time.Minute: "1 day",
	} {
		assert.Equal(t, want, inWords(d), d)
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 83211: "83,211", 1234567: "1,234,567"} {
		assert.Equal(t, want, thousands(n))
	}
	p := progress{size: 200, terminal: true}
	assert.Equal(t, "[###############...............]  50% 1,000 rows, 3 rejected, 100 a second",
		p.text(imports.Part{Bytes: 100, Totals: db.ImportTotals{Rows: 1000, Rejected: 3}}, 10*time.Second))
}

// The program itself imports a long file, is killed again and again, and goes
// on each time; the database has every connection once. It says how much memory
// it took, and how many statements.
func TestImportManyRowsAndBeKilled(t *testing.T) {
	n := 10_000
	if text := os.Getenv("REAUTH_IMPORT_ROWS"); text != "" { // `make import`
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	address := pgtest.URL(t)
	raw, err := sqlx.Open("postgres", address)
	require.NoError(t, err)
	defer raw.Close()
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	counter := newCounter(t, address)
	settings := map[string]string{"DATABASE_URL": counter.url, "REAUTH_KEYSET": keyset}

	file := filepath.Join(t.TempDir(), "connections.csv")
	out, err := os.Create(file)
	require.NoError(t, err)
	b := bufio.NewWriter(out)
	fmt.Fprintln(b, "connection_id,access_token,customer_id,customer_name,contact_email,contact_name,contact2_email")
	for i := range n {
		fmt.Fprintf(b, "6f1f7cd5-1d52-4a1c-b3ea-%012d,token-%d,cus-%d,Customer %d,ada%d@acme.example,Ada,bob%d@acme.example\n", i, i, i, i, i, i)
	}
	require.NoError(t, errors.Join(b.Flush(), out.Close()))
	lines := func() (done int64) {
		_ = raw.Get(&done, `SELECT coalesce(max(lines_done), 0) FROM imports`)
		return done
	}
	began, kills := time.Now(), 0
	for ; kills < 5; kills++ {
		r := begin(t, settings, "import", file)
		until := lines() + 1 + rand.Int64N(int64(n/6))
		for deadline := time.Now().Add(patience); lines() < until; time.Sleep(5 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline))
		}
		_ = r.cmd.Process.Kill()
		<-r.done
		require.Less(t, lines(), int64(n+1), "it was killed amid the file")
	}
	r := begin(t, settings, "import", file)
	most := int64(0) // MiB, as far as the system tells
	for running := true; running; {
		most = max(most, highWater(r.cmd.Process.Pid)>>10)
		select {
		case <-r.done:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	require.Equal(t, exitOK, r.ends(), r.out.String())
	took := time.Since(began)
	perRow := float64(counter.statements.Load()) / float64(n)
	t.Logf("%d rows, %d kills, %s with them; the last run took at most %d MiB; %.3f statements a row over all runs", n, kills, took.Round(time.Millisecond), most, perRow)
	assert.Less(t, perRow, 0.25)
	assert.Less(t, most, int64(100), "MiB, however long the file is")

	count := func(from string) (n int) {
		require.NoError(t, raw.Get(&n, `SELECT count(*) FROM `+from))
		return n
	}
	assert.Equal(t, n, count("connections"))
	assert.Equal(t, 2*n, count("contacts"))
	assert.Equal(t, n, count("staged_tokens WHERE state = 'waiting'"))
	assert.Equal(t, n, count("imports, LATERAL generate_series(1, rows_read)"), "each row was counted once")
	assert.Equal(t, 1, count("imports WHERE read_at IS NOT NULL"))
}

// highWater is the most memory, in KiB, that a process has had. (What wait tells
// counts the memory of the process that started it, too.)
func highWater(pid int) (kib int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, after, found := strings.Cut(string(text), "VmHWM:"); found {
		_, _ = fmt.Sscan(after, &kib)
	}
	return kib
}

// counter is a way to PostgreSQL that counts the statements that are executed.
type counter struct {
	url        string
	statements atomic.Int64
}

func newCounter(t *testing.T, address string) *counter {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	target := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	c := &counter{}
	u.Host = listener.Addr().String()
	c.url = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				return
			}
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
			go func() { c.relay(server, client); _ = server.Close() }()
		}
	}()
	return c
}

// relay passes on what a client says, message by message.
func (c *counter) relay(server io.Writer, client io.Reader) {
	head := make([]byte, 5)
	for first := true; ; first = false {
		at := head
		if first { // the first message has no kind
			at = head[1:]
			head[0] = 0
		}
		if _, err := io.ReadFull(client, at); err != nil {
			return
		}
		if head[0] == 'E' || head[0] == 'Q' { // execute, query
			c.statements.Add(1)
		}
		if _, err := server.Write(at); err != nil {
			return
		}
		if _, err := io.CopyN(server, client, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
			return
		}
	}
}
