package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker"
)

// skipping is a clock that skips to the next moment somebody waits for, as soon
// as nobody does anything.
type skipping struct {
	mu    sync.Mutex
	now   time.Time
	busy  int
	since time.Time // by the real clock, when somebody last began or ended something
	waits map[chan struct{}]time.Time
}

// quiet is how long nobody must have done anything.
const quiet = 10 * time.Millisecond

func newSkipping(t *testing.T, from time.Time) *skipping {
	c := &skipping{now: from, since: time.Now(), waits: map[chan struct{}]time.Time{}}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		tick := time.NewTicker(quiet / 5)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				c.skip()
			}
		}
	}()
	return c
}

func (c *skipping) skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy > 0 || len(c.waits) == 0 || time.Since(c.since) < quiet {
		return
	}
	var next time.Time
	for _, at := range c.waits {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.After(c.now) {
		c.now = next
	}
	for wake, at := range c.waits {
		if !at.After(c.now) {
			close(wake)
			delete(c.waits, wake)
		}
	}
	c.since = time.Now()
}

func (c *skipping) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *skipping) Sleep(ctx context.Context, d time.Duration) error {
	wake := make(chan struct{})
	c.mu.Lock()
	c.waits[wake] = c.now.Add(d)
	c.since = time.Now()
	c.mu.Unlock()
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waits, wake)
		return ctx.Err()
	}
}

// at work, time stands still.
func (c *skipping) work() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy--
		c.since = time.Now()
	}
}

// working is a store and a limiter at whose work time stands still.
type working struct {
	activities.Store
	finch.Limiter
	clock *skipping
}

func (w working) TakeCheck(ctx context.Context, application string, before time.Time, hold time.Duration) (db.Check, bool, error) {
	defer w.clock.work()()
	return w.Store.TakeCheck(ctx, application, before, hold)
}

func (w working) EndCheck(ctx context.Context, c db.Check, at time.Time) error {
	defer w.clock.work()()
	return w.Store.EndCheck(ctx, c, at)
}

func (w working) Connection(ctx context.Context, id string) (reauth.Connection, error) {
	defer w.clock.work()()
	return w.Store.Connection(ctx, id)
}

func (w working) CurrentToken(ctx context.Context, id string) (db.Token, error) {
	defer w.clock.work()()
	return w.Store.CurrentToken(ctx, id)
}

func (w working) Ask(ctx context.Context, c finch.Call) (finch.Room, error) {
	defer w.clock.work()()
	return w.Limiter.Ask(ctx, c)
}

// sent is a call that went out to Finch.
type sent struct {
	at       time.Time
	priority finch.Priority
	waiter   string
}

// broom is a sweep on a skipping clock: the real workflow, activity, limiter and
// client, a real database, and a simulated Finch that enforces its limits.
type broom struct {
	t      *testing.T
	db     *db.DB
	sim    *finchsim.Sim
	clock  *skipping
	acts   *activities.Activities
	client *finch.Client

	mu      sync.Mutex
	calls   []sent
	onCall  func(n int)
	reports map[string]reauth.Input
	told    []string
}

func newBroom(t *testing.T, limits string) *broom {
	t.Helper()
	from := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	b := &broom{t: t, clock: newSkipping(t, from), reports: map[string]reauth.Input{}}
	opened, err := db.Open(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	b.db = opened.WithClock(b.clock.Now)
	knobs := finchsim.Knobs{Limits: map[string]finchsim.Limit{"*": {Calls: 20, Window: finchsim.Duration(time.Minute), RetryAfter: true}}}
	b.sim, err = finchsim.New(finchsim.Config{ClientID: "id", ClientSecret: "secret", Now: b.clock.Now, Knobs: &knobs})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.sim.Close() })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer b.clock.work()()
		b.sim.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)

	parsed, err := finch.ParseLimits(limits)
	require.NoError(t, err)
	w := working{Store: b.db, Limiter: b.db.FinchLimiter(parsed).WithClock(b.clock.Now), clock: b.clock}
	b.client = finch.New(finch.Config{BaseURL: server.URL, ClientID: "id", ClientSecret: "secret", HTTPClient: &http.Client{Transport: &finch.LimitTransport{
		Limiter: w, Application: reauth.DefaultApplication, Sleep: b.clock.Sleep, Count: b.count,
	}}})
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	b.acts = &activities.Activities{
		DB: w, Keys: keys, Providers: map[string]activities.Provider{reauth.DefaultApplication: activities.Finch{Client: b.client}},
		Finds: b, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: b.clock.Now, Sleep: b.clock.Sleep,
	}
	return b
}

func (b *broom) count(_ context.Context, c finch.Call, fate finch.Fate) {
	if fate != finch.FateSent {
		return
	}
	b.mu.Lock()
	b.calls = append(b.calls, sent{b.clock.Now(), c.Priority, c.Waiter})
	n, on := len(b.calls), b.onCall
	b.mu.Unlock()
	if on != nil {
		on(n)
	}
}

// ReportFound stands for the starter.
func (b *broom) ReportFound(_ context.Context, in reauth.Input) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports[in.ConnectionID] = in
	return nil
}

// AccessBack stands for the starter.
func (b *broom) AccessBack(_ context.Context, connectionID string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, connectionID)
	return nil
}

// connect makes a connection at Finch and with us.
func (b *broom) connect(id string) (token string) {
	b.t.Helper()
	_, token, err := b.sim.AddConnection(finchsim.NewConnection{ConnectionID: id})
	require.NoError(b.t, err)
	_, err = b.db.PutConnection(b.t.Context(), reauth.Connection{ConnectionID: id})
	require.NoError(b.t, err)
	_, err = b.db.Adopt(b.t.Context(), db.Adoption{
		ConnectionID: id, Fingerprint: reauth.Fingerprint(token), MintedAt: b.clock.Now(), Source: "api",
		Seal: func(generation int64) ([]byte, error) {
			return b.acts.Keys.Seal([]byte(token), "token", id, strconv.FormatInt(generation, 10))
		},
	})
	require.NoError(b.t, err)
	return token
}

func (b *broom) status(id string) reauth.ConnectionStatus {
	b.t.Helper()
	c, err := b.db.Connection(b.t.Context(), id)
	require.NoError(b.t, err)
	return c.Status
}

// sweep runs one sweep to its end.
func (b *broom) sweep(in reauth.SweepInput) (status reauth.SweepStatus) {
	b.t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(b.acts.Logger))
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(b.clock.Now())
	env.SetTestTimeout(5 * time.Minute)
	worker.Register(env, b.acts)
	env.ExecuteWorkflow(reauth.SweepWorkflowType, in)
	require.True(b.t, env.IsWorkflowCompleted())
	require.NoError(b.t, env.GetWorkflowError())
	require.NoError(b.t, env.GetWorkflowResult(&status))
	return status
}

func (b *broom) sentAs(p finch.Priority) []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.calls), func(s sent) bool { return s.priority != p })
}

// A sweep of more connections than minutes have room for uses what is left to
// it, is never refused, checks every connection before any twice, and lets
// others go first.
func TestASweepUsesWhatIsLeftToIt(t *testing.T) {
	const connections, people = 95, 6
	b := newBroom(t, "20/1m")
	owners := map[string]string{}
	for i := range connections {
		id := fmt.Sprintf("c%03d", i)
		owners[reauth.Fingerprint(b.connect(id))] = id
	}
	for _, id := range []string{"c010", "c020", "c030"} {
		require.NoError(t, b.sim.Break(id))
	}
	require.NoError(t, b.sim.SetStatus("c040", finch.StatusErrorPermissions))
	require.NoError(t, b.db.SetConnectionStatus(t.Context(), "c050", reauth.StatusStale, b.clock.Now().Add(-40*time.Hour)))
	_, person, err := b.sim.AddConnection(finchsim.NewConnection{ConnectionID: "person"})
	require.NoError(t, err)

	// Amid the sweep, people want six calls at once.
	type wait struct{ asked, granted time.Time }
	var confirms []wait
	var done sync.WaitGroup
	b.onCall = func(n int) {
		if n != 45 {
			return
		}
		for range people {
			asked, stop := b.clock.Now(), b.clock.work() // until it is on its way
			done.Go(func() {
				var once sync.Once
				for {
					ctx := finch.WithPriority(t.Context(), finch.PriorityConfirm)
					once.Do(stop)
					_, err := b.client.Introspect(ctx, person)
					var refused *finch.Error
					if errors.As(err, &refused) && refused.FinchCode == finch.CodeBudget {
						_ = b.clock.Sleep(ctx, refused.RetryAfter)
						continue
					}
					assert.NoError(t, err)
					b.mu.Lock()
					confirms = append(confirms, wait{asked, b.clock.Now()})
					b.mu.Unlock()
					return
				}
			})
		}
	}
	began := b.clock.Now()
	status := b.sweep(reauth.SweepInput{})
	done.Wait()

	swept := b.sentAs(finch.PrioritySweep)
	minutes := swept[len(swept)-1].at.Sub(began).Minutes()
	seen := map[string]int{}
	for _, call := range swept {
		seen[owners[call.waiter]]++
	}
	assert.Len(t, seen, connections, "every connection was checked")
	for id, n := range seen {
		assert.Equal(t, 1, n, "%s, and none twice", id)
	}
	counters := b.sim.Counters()
	assert.Zero(t, counters.Limited["GET /introspect"], "Finch refused nothing")

	whole := 20*minutes - people
	part := 19*minutes - people + 1 // the first call goes out at once
	t.Logf("%d connections swept in %.2f minutes of Finch's time, with %d calls of people: %.1f%% of what these left of 20 a minute; %.1f%% of a sweep's part of it, 19 a minute; refused by Finch: %d",
		len(swept), minutes, people, 100*float64(len(swept))/whole, 100*float64(len(swept))/part, counters.Limited["GET /introspect"])
	assert.Greater(t, float64(len(swept))/part, 0.95)

	require.Len(t, confirms, people)
	longest := time.Duration(0)
	for _, c := range confirms {
		longest = max(longest, c.granted.Sub(c.asked))
		for _, call := range swept {
			assert.False(t, call.at.After(c.asked) && call.at.Before(c.granted), "a sweep's call at %s, while a person waited from %s to %s", call.at, c.asked, c.granted)
		}
	}
	t.Logf("the calls of people waited %s at the longest, for the sixth of them", longest)

	assert.Equal(t, reauth.SweepCounts{Checked: connections, Connected: 91, Restored: 1, Stale: 3, Setup: 1, Reported: 4}, status.SweepCounts)
	assert.Zero(t, status.Left)
	assert.Zero(t, status.Lag.Overdue)
	assert.Equal(t, reauth.StatusConnected, b.status("c050"))
	report := b.reports["c010"]
	assert.Equal(t, reauth.SourceSweep, report.Source)
	assert.Equal(t, finch.CodeReauthenticateUser, report.FinchCode)
	assert.Equal(t, finch.StatusErrorPermissions, b.reports["c040"].FinchCode)
	assert.NoError(t, report.Check())
	assert.Contains(t, status.Words(b.clock.Now()), "95 checked: 91 work, 3 want the customer's login, 1 want something else of the customer. 1 taken for stale before, work again. 4 reported. Of 95 connections, none is overdue")

	// What was just checked is not due.
	again := b.sweep(reauth.SweepInput{})
	assert.Zero(t, again.Checked)
	assert.Len(t, b.sentAs(finch.PrioritySweep), connections)
}

// Where nothing answers, a sweep ends, says so, and counts nothing as checked.
func TestASweepEndsWhereFinchIsDown(t *testing.T) {
	b := newBroom(t, "1000/1s")
	for i := range 40 {
		b.connect(fmt.Sprintf("c%02d", i))
	}
	require.NoError(t, b.sim.SetKnobs(func(k *finchsim.Knobs) {
		k.Limits = nil
		k.Faults = []finchsim.Fault{{Endpoint: "*", Kind: finchsim.FaultServerError, Times: -1}}
	}))
	status := b.sweep(reauth.SweepInput{})
	assert.Contains(t, status.Trouble, "checks in a row have failed, the last one for the provider's unavailable (internal_server_error)")
	assert.Zero(t, status.Checked)
	assert.Less(t, status.Failed, 20, "it did not ask about all of them")
	assert.Equal(t, 40, status.Left)
	assert.Contains(t, status.Words(b.clock.Now()), "It ended early: ")

	require.NoError(t, b.sim.SetKnobs(func(k *finchsim.Knobs) { k.Faults = nil }))
	status = b.sweep(reauth.SweepInput{})
	assert.Equal(t, 40, status.Checked+status.Left, "those that failed wait a while; the others are checked")
	assert.Positive(t, status.Checked)
}

// Where others use up the same credentials' limit, Finch's refusals are obeyed.
func TestASweepObeysFinchsRefusals(t *testing.T) {
	b := newBroom(t, "60/1m") // more than Finch allows
	for i := range 50 {
		b.connect(fmt.Sprintf("c%02d", i))
	}
	status := b.sweep(reauth.SweepInput{})
	assert.Equal(t, 50, status.Checked)
	assert.Zero(t, status.Failed)
	limited := b.sim.Counters().Limited["GET /introspect"]
	assert.Positive(t, limited)
	t.Logf("50 checks at three times Finch's pace: %d refusals", limited)
	assert.Less(t, limited, 50)
}

func TestASweepByName(t *testing.T) {
	b := newBroom(t, "20/1m")
	for _, id := range []string{"c1", "c2", "c3"} {
		b.connect(id)
	}
	require.NoError(t, b.sim.Delete("c2"))
	require.NoError(t, b.sim.Break("c3"))
	all := b.sweep(reauth.SweepInput{})
	assert.Equal(t, 3, all.Checked)
	status := b.sweep(reauth.SweepInput{ConnectionIDs: []string{"c1", "nobody", "c3"}})
	assert.Equal(t, reauth.SweepCounts{Checked: 2, Connected: 1, Stale: 1, Reported: 1, Skipped: 1}, status.SweepCounts)
	assert.Zero(t, status.Left)
	assert.Len(t, b.sentAs(finch.PriorityLook), 2, "somebody waits for it")
	assert.True(t, strings.HasPrefix(status.Words(b.clock.Now()), "2 checked: 1 work, 1 want the customer's login. 1 reported. 1 skipped."))
}
