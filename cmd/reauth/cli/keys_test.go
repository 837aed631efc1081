package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

// command runs a command and wants this exit code.
func command(t *testing.T, code int, args ...string) (out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	require.Equal(t, code, run(args, &stdout, &stderr), "%v: %s%s", args, stdout.String(), stderr.String())
	return stdout.String(), stderr.String()
}

func TestKeysNewRotateAndWrap(t *testing.T) {
	settle(t, nil)
	out, errs := command(t, exitOK, "keys", "new")
	require.Empty(t, errs)
	first, err := secrets.Load(out)
	require.NoError(t, err)

	path := filepath.Join(t.TempDir(), "keyset")
	out, _ = command(t, exitOK, "keys", "new", "--out", path)
	require.Empty(t, out, "the keyset is in the file alone")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, errs = command(t, exitUsage, "keys", "new", "-o", path)
	require.Contains(t, errs, "must not replace an old one")

	// Both steps, in place.
	settle(t, map[string]string{"REAUTH_KEYSET": "file:" + path})
	load := func() *secrets.Keys {
		keys, err := secrets.Load("file:" + path)
		require.NoError(t, err)
		return keys
	}
	before := load()
	_, errs = command(t, exitOK, "keys", "rotate", "-o", path)
	require.Contains(t, errs, "Give the keyset to every process and restart them")
	between := load()
	require.Equal(t, before.SealKeyID(), between.SealKeyID())
	require.Len(t, between.SealKeyIDs(), 2)
	_, errs = command(t, exitUsage, "keys", "rotate", "-o", path)
	require.Contains(t, errs, "give DATABASE_URL")
	command(t, exitOK, "keys", "rotate", "-o", path, "--force")
	after := load()
	require.Equal(t, between.SealKeyIDs()[1], after.SealKeyID())
	require.Equal(t, between.LinkKeyIDs()[1], after.LinkKeyID())
	require.NotEqual(t, before.SealKeyID(), after.SealKeyID())

	_, errs = command(t, exitFailure, "keys", "wrap", "--kms", "aws-kms://x")
	require.Contains(t, errs, "no key management service")
	_, errs = command(t, exitFailure, "keys", "new", "--kms", "aws-kms://x")
	require.Contains(t, errs, "no key management service")
	out, _ = command(t, exitOK, "keys", "wrap", "--kms", "plain")
	same, err := secrets.Load(out)
	require.NoError(t, err)
	require.Equal(t, after.SealKeyID(), same.SealKeyID())
	require.NotEqual(t, first.SealKeyID(), same.SealKeyID())
}

// rotation is a rotation of keys on a database, with processes that come and go.
type rotation struct {
	t    *testing.T
	db   *db.DB
	url  string
	path string
	stop map[string]func()
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{t: t, url: pgtest.URL(t), path: filepath.Join(t.TempDir(), "keyset"), stop: map[string]func(){}}
	var err error
	r.db, err = db.Open(t.Context(), r.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.db.Close() })
	settle(t, map[string]string{"REAUTH_KEYSET": "file:" + r.path, "DATABASE_URL": r.url, "TEMPORAL_ADDRESS": "127.0.0.1:1"})
	command(t, exitOK, "keys", "new", "-o", r.path)
	return r
}

func (r *rotation) keys() *secrets.Keys {
	r.t.Helper()
	keys, err := secrets.Load("file:" + r.path)
	require.NoError(r.t, err)
	return keys
}

// restart starts a process with the keyset as it is, in the place of one before.
func (r *rotation) restart(name string) {
	r.t.Helper()
	if stop := r.stop[name]; stop != nil {
		stop()
	}
	keys := r.keys()
	r.stop[name] = holdKeys(r.t.Context(), r.db, keys, name, slog.New(slog.DiscardHandler))
	require.Eventually(r.t, func() bool {
		holders, err := r.db.Holders(r.t.Context())
		return err == nil && slices.ContainsFunc(holders, func(h db.Holder) bool {
			return strings.HasPrefix(h.Name, name+" ") && h.SealPrimary == keys.SealKeyID() && len(h.SealKeys) == len(keys.SealKeyIDs())
		})
	}, patience, 10*time.Millisecond)
}

func (r *rotation) status() (report keysReport, text string) {
	r.t.Helper()
	out, _ := command(r.t, exitOK, "keys", "status", "--json")
	require.NoError(r.t, json.Unmarshal([]byte(out), &report))
	text, _ = command(r.t, exitOK, "keys", "status")
	return report, text
}

// store stores a token, a minted and a quarantined one, a held code and a link,
// each sealed as it is in the service.
func (r *rotation) store(n int) {
	r.t.Helper()
	ctx, keys, now := r.t.Context(), r.keys(), time.Now()
	id, token := fmt.Sprint("con-", n), fmt.Sprint("token ", n)
	fail := func(err error) { r.t.Helper(); require.NoError(r.t, err) }
	sealed := func(bound ...string) []byte { s, err := keys.Seal([]byte(token), bound...); fail(err); return s }
	hash := reauth.CodeHash(token)
	_, err := r.db.PutConnection(ctx, reauth.Connection{ConnectionID: id, Contacts: []reauth.Contact{{Email: "a@b.example"}}})
	fail(err)
	_, err = r.db.Adopt(ctx, db.Adoption{ConnectionID: id, Fingerprint: reauth.Fingerprint(token), MintedAt: now, Seal: func(g int64) ([]byte, error) {
		return sealed("token", id, strconv.FormatInt(g, 10)), nil
	}})
	fail(err)
	fail(r.db.PutMinted(ctx, hash, id, reauth.Fingerprint(token), sealed("minted", id), now))
	fail(r.db.Quarantine(ctx, db.QuarantinedToken{ConnectionID: id, Fingerprint: reauth.Fingerprint(token), Sealed: sealed("minted", id), At: now}))
	fail(r.db.HoldCode(ctx, hash, id, "", sealed("code", hash, id)))
	_, _, err = r.db.EnsureLink(ctx, id, db.RecipientOperator, keys.LinkKeyID(), func(key uint32, version int) ([]byte, error) {
		secret, err := keys.LinkSecret(key, id, db.RecipientOperator, version)
		return secrets.HashLink(secret), err
	})
	fail(err)
}

// opens makes sure that everything that store stored can be read with a keyset.
func (r *rotation) opens(n int) {
	r.t.Helper()
	ctx, keys := r.t.Context(), r.keys()
	id, token := fmt.Sprint("con-", n), fmt.Sprint("token ", n)
	hash := reauth.CodeHash(token)
	plain := func(sealed []byte, bound ...string) {
		r.t.Helper()
		text, err := keys.Open(sealed, bound...)
		require.NoError(r.t, err)
		require.Equal(r.t, token, string(text))
	}
	current, err := r.db.CurrentToken(ctx, id)
	require.NoError(r.t, err)
	plain(current.Sealed, "token", id, "1")
	_, err = keys.Open(current.Sealed, "token", id, "2")
	require.ErrorIs(r.t, err, secrets.ErrSealed, "a row of another generation")
	_, err = keys.Open(current.Sealed, "token", "con-other", "1")
	require.ErrorIs(r.t, err, secrets.ErrSealed, "a row of another connection")
	minted, err := r.db.Minted(ctx, hash)
	require.NoError(r.t, err)
	plain(minted.Sealed, "minted", id)
	aside, err := r.db.Quarantined(ctx, reauth.Fingerprint(token))
	require.NoError(r.t, err)
	plain(aside.Sealed, "minted", id)
	held, err := r.db.HeldCodes(ctx, 500)
	require.NoError(r.t, err)
	i := slices.IndexFunc(held, func(h db.HeldCode) bool { return h.Hash == hash })
	require.GreaterOrEqual(r.t, i, 0)
	plain(held[i].Sealed, "code", hash, id)
}

// The whole way, in the order that docs/keys.md gives: at every moment every
// process reads what every other has written.
func TestARotationWithoutDowntime(t *testing.T) {
	r := newRotation(t)
	r.restart("serve")
	r.restart("worker")
	r.store(1)
	old := r.keys()
	report, text := r.status()
	require.Len(t, report.Keys, 2)
	require.Equal(t, "in use", report.Keys[0].State)
	require.Equal(t, map[string]int{"tokens": 1, "minted": 1, "quarantined_tokens": 1, "held_codes": 1}, report.Keys[0].Sealed)
	require.Equal(t, 1, report.Keys[1].Links)
	require.Contains(t, text, "held_codes 1, minted 1, quarantined_tokens 1, tokens 1")

	// Step one: every process gets the key, before any uses it.
	command(t, exitOK, "keys", "rotate", "-o", r.path)
	r.restart("serve")
	_, errs := command(t, exitFailure, "keys", "rotate", "-o", r.path)
	require.Contains(t, errs, "1 of 2 running processes lack the newest key: worker ")
	require.Len(t, r.keys().SealKeyIDs(), 2, "nothing was changed")
	report, text = r.status()
	require.Equal(t, "new", report.Keys[1].State)
	require.True(t, report.Keys[1].mayRetire(), "a key that was never used may go again")
	require.Contains(t, text, "lacks the newest keys")
	r.store(2)
	r.restart("worker")

	// Step two: it is put to use.
	_, errs = command(t, exitOK, "keys", "rotate", "-o", r.path)
	require.Contains(t, errs, "All 2 running processes have the newest key")
	current := r.keys()
	require.Equal(t, []uint32{old.SealKeyID(), current.SealKeyID()}, current.SealKeyIDs())
	r.restart("serve") // and the worker is late
	r.store(3)
	for n := 1; n <= 3; n++ {
		r.opens(n)
	}
	report, text = r.status()
	require.Contains(t, text, "uses it (restart it with the new keyset)")
	_, errs = command(t, exitFailure, "keys", "retire", fmt.Sprint(old.SealKeyID()), "-o", r.path)
	require.Contains(t, errs, "is needed still: 2 values in held_codes are sealed with it (`reauth keys reseal` seals them anew)")
	require.Contains(t, errs, "Temporal could not be asked")
	r.restart("worker")

	// Step three: what is stored is sealed anew.
	out, errs := command(t, exitOK, "keys", "reseal", "--batch", "1")
	require.Contains(t, out, "tokens: 2 sealed anew, 0 left")
	require.Contains(t, out, "links: 2 still lead where they led")
	require.NotContains(t, errs, "\r", "no bar where nobody watches")
	out, _ = command(t, exitOK, "keys", "reseal")
	require.Contains(t, out, "tokens: 0 sealed anew, 0 left")
	for n := 1; n <= 3; n++ {
		r.opens(n)
	}

	// Step four: it is retired, once nothing needs it.
	report, _ = r.status()
	require.Empty(t, report.Keys[0].Sealed)
	require.NotEmpty(t, report.Keys[0].NeededBy, "browsers hold tickets for a day, and Temporal could not be asked")
	link := slices.IndexFunc(report.Keys, func(k keyState) bool { return k.ID == old.LinkKeyID() })
	require.True(t, report.Keys[link].mayRetire(), report.Keys[link].NeededBy)
	command(t, exitOK, "keys", "retire", fmt.Sprint(old.LinkKeyID()), "-o", r.path)
	_, errs = command(t, exitOK, "keys", "retire", fmt.Sprint(old.SealKeyID()), "-o", r.path, "--force")
	require.Contains(t, errs, "taken out by force")
	require.Equal(t, []uint32{current.SealKeyID()}, r.keys().SealKeyIDs())
	require.Equal(t, []uint32{current.LinkKeyID()}, r.keys().LinkKeyIDs())
	for n := 1; n <= 3; n++ {
		r.opens(n)
	}
	_, errs = command(t, exitUsage, "keys", "retire", fmt.Sprint(old.SealKeyID()))
	require.Contains(t, errs, "the keyset has no key")
	_, errs = command(t, exitUsage, "keys", "retire", fmt.Sprint(current.SealKeyID()))
	require.Contains(t, errs, "is in use")
	for _, stop := range r.stop {
		stop()
	}
	report, text = r.status()
	require.Empty(t, report.Processes)
	require.Contains(t, text, "no process says that it runs")
}

// What does not open is left, counted, and told; and a lost key is missed.
func TestResealSaysWhatIsLeft(t *testing.T) {
	r := newRotation(t)
	r.store(1)
	lost := r.keys().SealKeyID()
	require.NoError(t, os.Remove(r.path))
	command(t, exitOK, "keys", "new", "-o", r.path)
	r.store(2)
	out, errs := command(t, exitFailure, "keys", "reseal")
	require.Contains(t, out, "tokens: 0 sealed anew, 1 left")
	require.Contains(t, out, fmt.Sprintf("1 do not open: the key is not in the keyset: key %d", lost))
	require.Contains(t, errs, "4 values are left that another key sealed")
	report, text := r.status()
	i := slices.IndexFunc(report.Keys, func(k keyState) bool { return k.ID == lost })
	require.Equal(t, "missing", report.Keys[i].State)
	require.Contains(t, text, fmt.Sprintf("%d: the keyset lacks it, and what it sealed cannot be opened; put it back", lost))

	// A process that lacks the key in use keeps values from being closed to it.
	r.restart("worker")
	command(t, exitOK, "keys", "rotate", "--force", "-o", r.path)
	command(t, exitOK, "keys", "rotate", "--force", "-o", r.path)
	_, errs = command(t, exitFailure, "keys", "reseal")
	require.Contains(t, errs, "1 of 1 running processes lack the newest key: worker ")
	require.Contains(t, stops(t, "keys", "reseal", "--batch", "0"), "--batch must be")
}

// told is a Temporal that keeps what a test says.
type told struct {
	kept     kept
	err      error
	from, by time.Time
}

type fakeHistories struct{ *told }

func (h fakeHistories) kept(_ context.Context, from, by time.Time) (kept, error) {
	h.from, h.by = from, by
	return h.told.kept, h.err
}

func TestWhatNeedsAKey(t *testing.T) {
	r := newRotation(t)
	t0 := time.Now().UTC().Truncate(time.Second).Add(-100 * 24 * time.Hour)
	day := func(n int) time.Time { return t0.Add(time.Duration(n) * 24 * time.Hour) }
	hold := func(at time.Time) {
		keys := r.keys()
		d := r.db.WithClock(func() time.Time { return at })
		require.NoError(t, d.HoldKeys(t.Context(), db.Holder{
			ID: "p", Name: "serve", SealKeys: keys.SealKeyIDs(), SealPrimary: keys.SealKeyID(), LinkKeys: keys.LinkKeyIDs(), LinkPrimary: keys.LinkKeyID(),
		}))
	}
	temporal := &told{}
	needs := func(at time.Time, index int) (keyState, []string) {
		d := r.db.WithClock(func() time.Time { return at })
		report, err := reportKeys(t.Context(), d, r.keys(), fakeHistories{temporal}, at)
		require.NoError(t, err)
		return report.Keys[index], report.Keys[index].NeededBy
	}
	step := func() { command(t, exitOK, "keys", "rotate", "--force", "-o", r.path) }

	hold(day(0)) // the first key
	step()
	hold(day(10))
	step()
	hold(day(11)) // the second is in use
	state, reasons := needs(day(10).Add(23*time.Hour), 0)
	require.Equal(t, "old", state.State)
	require.Equal(t, []string{"customers' browsers may hold states and result pages that it sealed, until " + stamp(day(11).Add(unsaid))}, reasons)
	require.True(t, temporal.from.IsZero(), "it was in use when this was first noted, and perhaps long before")
	require.Equal(t, day(10).Add(unsaid), temporal.by)

	hold(day(12))
	temporal.kept = kept{running: 3, closed: 7, until: day(60)}
	_, reasons = needs(day(13), 0)
	require.Equal(t, []string{
		"3 open cases or workflows are from its time (wait for them to end)",
		"Temporal keeps 7 histories of closed workflows from its time, until " + stamp(day(60)) + " at the earliest",
	}, reasons)
	temporal.kept = kept{}
	state, reasons = needs(day(14), 0)
	require.Empty(t, reasons)
	require.True(t, state.mayRetire())

	// An open case from its time needs it, even where Temporal cannot be asked.
	_, err := r.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c"})
	require.NoError(t, err)
	_, err = r.db.OpenCase(t.Context(), db.Case{CaseID: "k", ConnectionID: "c", Source: reauth.SourceManual, OpenedAt: day(0)})
	require.NoError(t, err)
	_, reasons = needs(day(14), 0)
	require.Equal(t, []string{"1 open cases or workflows are from its time (wait for them to end)"}, reasons)
	temporal.err = errors.New("it is away")
	_, reasons = needs(day(14), 0)
	require.Equal(t, []string{"Temporal could not be asked for the histories that it may have sealed: it is away", "1 open cases are from its time (wait for them to end)"}, reasons)
	temporal.err = nil

	// Of a key that was seen before it was used it is known when that began.
	step()
	hold(day(20))
	state, _ = needs(day(20).Add(time.Minute), 2)
	require.Equal(t, "new", state.State)
	require.True(t, state.mayRetire())
	step()
	hold(day(21))
	_, _ = needs(day(21).Add(time.Minute), 1)
	require.Equal(t, day(11).Add(-unsaid), temporal.from)
	require.Equal(t, day(20).Add(unsaid), temporal.by)
}

func TestTheBarOfATerminal(t *testing.T) {
	var out bytes.Buffer
	b := &bar{w: &out, what: "tokens", total: 1000, was: -1}
	for done := range 1001 {
		b.at(done)
	}
	b.end()
	require.Contains(t, out.String(), "tokens               [                              ] 0 of 1000")
	require.Contains(t, out.String(), "[===============               ] 500 of 1000")
	require.Contains(t, out.String(), "[==============================] 1000 of 1000")
	require.Less(t, strings.Count(out.String(), "\r"), 40, "it is drawn when it changes")
	require.Nil(t, newBar(io.Discard, "tokens", 10).w)
}

func TestAPIKeyCommands(t *testing.T) {
	url := pgtest.URL(t)
	settle(t, map[string]string{"DATABASE_URL": url})
	database, err := db.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Close() })

	out, errs := command(t, exitOK, "keys", "api", "new", "--name", "ops-anna", "--scopes", "operator, tokens:read,operator", "--application", "acme", "--expires", "90d")
	key := strings.TrimSpace(out)
	require.NoError(t, secrets.CheckAPIKey(key))
	require.Contains(t, errs, "The key ops-anna may use operator, tokens:read for the application acme, until ")
	require.NotContains(t, errs, key)
	stored, err := database.APIKeyByHash(t.Context(), secrets.HashAPIKey(key))
	require.NoError(t, err)
	require.Equal(t, []string{"operator", "tokens:read"}, []string(stored.Scopes))
	require.Equal(t, "acme", stored.Application)
	require.NotNil(t, stored.ExpiresAt)

	_, errs = command(t, exitFailure, "keys", "api", "new", "--name", "ops-anna", "--scopes", "operator")
	require.Contains(t, errs, "reauth keys api revoke ops-anna")
	_, errs = command(t, exitOK, "keys", "api", "new", "--name", "metrics", "--scopes", "metrics")
	require.Contains(t, errs, "for every application, without an end")

	out, _ = command(t, exitOK, "keys", "api", "list")
	require.Regexp(t, `ops-anna\s+good\s+operator,tokens:read\s+acme\s+\S+\s+never\s+20`, out)
	require.Regexp(t, `metrics\s+good\s+metrics\s+all\s+\S+\s+never\s+never`, out)
	require.NotContains(t, out, key)
	out, _ = command(t, exitOK, "keys", "api", "revoke", "ops-anna")
	require.Contains(t, out, "revoked ops-anna")
	out, _ = command(t, exitOK, "keys", "api", "list", "--json")
	var listed []listedKey
	require.NoError(t, json.Unmarshal([]byte(out), &listed))
	require.Equal(t, []string{"good", "revoked"}, []string{listed[0].State, listed[1].State})
	command(t, exitOK, "keys", "api", "revoke", fmt.Sprint(listed[0].ID))
	_, errs = command(t, exitFailure, "keys", "api", "revoke", "nobody")
	require.Contains(t, errs, "no key is called nobody")

	for flags, says := range map[string]string{
		"--name a@b --scopes operator":                         "--name must be",
		"--name bootstrap --scopes operator":                   "--name must not be bootstrap",
		"--name x --scopes all":                                `--scopes holds "all"; there are reports:write`,
		"--name x --scopes ,":                                  "--scopes must name at least one",
		"--name x --scopes metrics --application acme":         "--scopes may not hold metrics",
		"--name x --scopes codec --application acme":           "--scopes may not hold codec",
		"--name x --scopes operator --application A":           "--application must be",
		"--name x --scopes operator --expires soon":            "--expires must be a time in the future",
		"--name x --scopes operator --expires 0d":              "--expires must be a time in the future",
		"--name x --scopes operator --expires 2020-01-01":      "--expires must be a time in the future",
		"--name x --scopes operator --expires -5h":             "--expires",
		"--name x --scopes operator --expires 99999999999999d": "--expires must be a time in the future",
	} {
		require.Contains(t, stops(t, append([]string{"keys", "api", "new"}, strings.Fields(flags)...)...), says, flags)
	}
}

func TestRateLimits(t *testing.T) {
	limits, err := parseRateLimits("key=5/s refused=7/m webhooks=off")
	require.NoError(t, err)
	require.Equal(t, web.Limits{Key: web.Rate{Count: 5, Per: time.Second, Burst: 100}, Refused: web.Rate{Count: 7, Per: time.Minute, Burst: 7}, Webhooks: web.NoLimit()}, limits)
	limits, err = parseRateLimits("off")
	require.NoError(t, err)
	require.Equal(t, web.NoLimit(), limits.Address)
	fallback, err := parseRateLimits(rules()["REAUTH_RATE_LIMITS"].example)
	require.NoError(t, err)
	require.Equal(t, web.DefaultLimits(), fallback, "the example is the default")
	for _, wrong := range []string{"key", "key=", "key=0/s", "key=-1/s", "key=5", "key=5/h", "keys=5/s", "key=5/s key=6/s", "10"} {
		_, err := parseRateLimits(wrong)
		require.Error(t, err, wrong)
	}
}
