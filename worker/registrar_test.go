package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

// counter is a registrar on a simulated Finch and a clock that the test turns.
type counter struct {
	store
	sim  *finchsim.Sim
	acts *activities.Activities
	keys *secrets.Keys

	mu      sync.Mutex
	now     time.Time
	reports []reauth.Input
	heard   func(reauth.Input) error
	// seen counts questions by their priority, order says about which tokens.
	seen  map[finch.Priority]int
	order []string
}

func newCounter(t *testing.T) *counter {
	t.Helper()
	r := &counter{store: newStore(t), now: time.Now().UTC().Add(time.Minute).Truncate(time.Minute), seen: map[finch.Priority]int{}}
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	r.keys, err = secrets.Load(keyset)
	require.NoError(t, err)
	r.sim, err = finchsim.New(finchsim.Config{ClientID: "id", ClientSecret: "secret", RedirectURIs: []string{"https://x.example/callback"}})
	require.NoError(t, err)
	server := httptest.NewServer(r.sim)
	t.Cleanup(server.Close)
	t.Cleanup(func() { _ = r.sim.Close() })
	client := activities.Finch{Client: finch.New(finch.Config{BaseURL: server.URL, ClientID: "id", ClientSecret: "secret"})}
	r.acts = &activities.Activities{
		DB: r.DB, Keys: r.keys, Logger: r.logger(), Now: r.clock,
		Providers: map[string]activities.Provider{reauth.DefaultApplication: counting{client, r}},
	}
	return r
}

// counting counts the questions.
type counting struct {
	activities.Provider
	r *counter
}

func (c counting) Inspect(ctx context.Context, access activities.Access) (activities.Inspection, error) {
	c.r.mu.Lock()
	c.r.seen[finch.PriorityOf(ctx)]++
	c.r.order = append(c.r.order, reauth.Fingerprint(access.Token.Reveal()))
	c.r.mu.Unlock()
	return c.Provider.Inspect(ctx, access)
}

func (r *counter) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *counter) report(_ context.Context, in reauth.Input) error {
	if r.heard != nil {
		if err := r.heard(in); err != nil {
			return err
		}
	}
	r.reports = append(r.reports, in)
	return nil
}

func (r *counter) registrar(pace int) *registrar {
	return newRegistrar(r.DB, r.acts, r.report, pace, r.logger())
}

// steps lets a registrar work until nothing is due within an hour, and returns
// how much time has passed.
func (r *counter) steps(t *testing.T, registrars ...*registrar) time.Duration {
	t.Helper()
	began, last := r.clock(), r.clock()
	for i := 0; r.clock().Sub(last) < time.Hour; i++ {
		require.Less(t, i, 20000)
		asked := r.asked()
		wait := registrars[i%len(registrars)].step(t.Context())
		if r.asked() > asked {
			last = r.clock()
		}
		if i%len(registrars) == len(registrars)-1 {
			r.mu.Lock()
			r.now = r.now.Add(max(wait, time.Second/2))
			r.mu.Unlock()
		}
	}
	return last.Sub(began)
}

func (r *counter) asked() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.seen {
		n += m
	}
	return n
}

func (r *counter) imported(t *testing.T, lines []string) {
	t.Helper()
	importer := imports.Importer{Store: r.DB, Keys: r.keys, Now: r.clock}
	_, err := importer.Import(t.Context(), imports.Job{ID: "one", Reports: true, Content: strings.NewReader(strings.Join(lines, "\n"))})
	require.NoError(t, err)
}

// An import with everything that can be in one, asked about by two workers, one
// of which is killed again and again amid a question.
func TestRegistrar(t *testing.T) {
	r := newCounter(t)
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	want := map[string]string{} // the current token of each connection
	stale, dead, foreign, strangers := 0, 0, 0, 0
	const n = 120
	for i := range n {
		c, token, err := r.sim.AddConnection(finchsim.NewConnection{CustomerName: fmt.Sprint("Customer ", i)})
		require.NoError(t, err)
		want[c.ID] = token
		switch i % 6 {
		case 0: // named
			line(`{"connection_id":%q,"access_token":%q}`, c.ID, token)
		case 1: // nameless
			line(`{"access_token":%q,"customer_id":"cus-%d"}`, token, i)
		case 2: // three tokens, the newest of them dead
			newer, err := r.sim.MintToken(c.ID)
			require.NoError(t, err)
			line(`{"connection_id":%q,"access_token":%q,"minted_at":"2025-01-01"}`, c.ID, token)
			line(`{"connection_id":%q,"access_token":"dead-%d","minted_at":"2025-03-01"}`, c.ID, i)
			line(`{"access_token":%q,"minted_at":"2025-02-01"}`, newer)
			want[c.ID] = newer
			dead++
		case 3: // stale
			require.NoError(t, r.sim.Break(c.ID))
			line(`{"connection_id":%q,"access_token":%q}`, c.ID, token)
			stale++
		case 4: // another's
			line(`{"connection_id":"not-%s","access_token":%q}`, c.ID, token)
			delete(want, c.ID)
			strangers++
			foreign++
		case 5: // the same twice
			line(`{"connection_id":%q,"access_token":%q}`, c.ID, token)
			line(`{"connection_id":%q,"access_token":%q}`, c.ID, token)
		}
	}
	r.imported(t, lines)
	tokens := n + 2*(n/6)

	one, killed := r.registrar(20), r.registrar(20)
	kill := 0
	killed.check = func(ctx context.Context, token db.StagedToken) (activities.StagedChecked, error) {
		if kill++; kill%3 == 0 { // it has the token, and is gone; the lease brings it back
			return activities.StagedChecked{}, context.Canceled
		}
		return r.acts.CheckStaged(ctx, token)
	}
	took := r.steps(t, one, killed)

	p, err := r.ImportByID(t.Context(), "one")
	require.NoError(t, err)
	assert.Zero(t, p.Waiting)
	assert.Equal(t, int64(dead+foreign), p.RejectedTokens)
	assert.Equal(t, int64(tokens-dead-foreign), p.Adopted)
	assert.Equal(t, tokens, r.asked(), "each token is asked about once")
	assert.Equal(t, map[finch.Priority]int{finch.PriorityImport: tokens}, r.seen)
	for id, token := range want {
		current, err := r.CurrentToken(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, reauth.Fingerprint(token), current.Fingerprint)
	}
	var others int
	require.NoError(t, r.raw.Get(&others, `SELECT count(*) FROM tokens WHERE state = 'superseded'`))
	assert.Equal(t, n/6, others)
	assert.Len(t, r.reports, stale, "each stale connection is reported once")
	for _, in := range r.reports {
		assert.Equal(t, reauth.SourceSweep, in.Source)
		assert.NoError(t, in.Check())
	}
	least := time.Duration(tokens-1) * 3 * time.Second
	assert.GreaterOrEqual(t, took, least, "never faster than the pace, however many workers there are")
	t.Logf("%d tokens asked about in %s of the clock, %s at the least", tokens, took, least)
	assert.NotContains(t, r.logs.String(), "dead-")
}

// A report that cannot be made is made later; one that is refused is not.
func TestRegistrarReports(t *testing.T) {
	r := newCounter(t)
	c, token, err := r.sim.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	require.NoError(t, r.sim.Break(c.ID))
	r.imported(t, []string{fmt.Sprintf(`{"connection_id":%q,"access_token":%q}`, c.ID, token)})
	failures := 0
	r.heard = func(reauth.Input) error {
		if failures++; failures < 3 {
			return errors.New("no Temporal")
		}
		return nil
	}
	r.steps(t, r.registrar(0))
	require.Len(t, r.reports, 1)
	assert.Equal(t, reauth.Fingerprint(token), r.reports[0].TokenFingerprint)

	_, err = r.raw.Exec(`UPDATE staged_tokens SET report_due = true`)
	require.NoError(t, err)
	r.heard = func(reauth.Input) error { failures++; return starter.ErrRefused }
	before := failures
	r.steps(t, r.registrar(0))
	assert.Equal(t, before+1, failures)
}

// While the provider is down nobody else is asked either, and nothing is lost.
func TestRegistrarPausesWithTheProvider(t *testing.T) {
	r := newCounter(t)
	var lines []string
	for range 5 {
		c, token, err := r.sim.AddConnection(finchsim.NewConnection{})
		require.NoError(t, err)
		lines = append(lines, fmt.Sprintf(`{"connection_id":%q,"access_token":%q}`, c.ID, token))
	}
	r.imported(t, lines)
	require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) {
		k.Faults = []finchsim.Fault{{Endpoint: "GET /introspect", Kind: finchsim.FaultRateLimit, RetryAfter: finchsim.Duration(2 * time.Minute), Times: 2}}
	}))
	took := r.steps(t, r.registrar(60))
	assert.GreaterOrEqual(t, took, 4*time.Minute)
	assert.Equal(t, 7, r.asked())
	assert.Equal(t, []string{r.order[0], r.order[0]}, r.order[1:3], "whoever waits for room keeps the place in the line")
	p, err := r.ImportByID(t.Context(), "one")
	require.NoError(t, err)
	assert.Equal(t, int64(5), p.Adopted)
}
