package workflows_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/workflows"
)

const stormID = "6c1e"

// stormWorld stands for everything that activities do about a storm. It rages
// for two hours at most, and nobody comes back by themselves, unless a test
// says otherwise.
type stormWorld struct {
	env *testsuite.TestWorkflowEnvironment

	mu    sync.Mutex
	log   []string // what was done, with the minutes since the beginning
	news  []activities.StormNews
	count map[string]int
	storm reauth.Storm

	elsewhere string // how it ended before it is ended
	// fail makes an attempt at a step fail.
	fail func(step string, attempt int) error
	// check changes the storm and says what a check brings.
	check func(round int, storm *reauth.Storm) (asked, back int, recovered bool)
}

var stormBegan = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func newStormWorld(t *testing.T) *stormWorld {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	w := &stormWorld{
		env: suite.NewTestWorkflowEnvironment(), count: map[string]int{},
		storm: reauth.Storm{
			StormID: stormID, Provider: reauth.Finch, System: "Gusto", Broken: 20, Connections: 480, Held: 20, Waiting: 20,
			BeganAt: stormBegan, EndsAt: stormBegan.Add(2 * time.Hour),
		},
	}
	w.env.SetStartTime(stormBegan)
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: reauth.StormWorkflowID(stormID), TaskQueue: reauth.TaskQueue})
	w.env.SetTestTimeout(30 * time.Second)
	w.env.RegisterWorkflowWithOptions(workflows.StormWorkflow, workflow.RegisterOptions{Name: reauth.StormWorkflowType})
	w.env.RegisterActivity(w)
	return w
}

// did notes that a step is done, and says whether it works. An attempt that
// fails is noted as such.
func (w *stormWorld) did(step, what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count[step]++
	var err error
	if w.fail != nil {
		err = w.fail(step, w.count[step])
	}
	if err != nil {
		what = "failed"
	}
	if what != "" {
		step += " " + what
	}
	w.log = append(w.log, fmt.Sprintf("%s at %v", step, w.env.Now().Sub(stormBegan).Truncate(time.Second)))
	return err
}

// steps lists what was done so far. A step that was abandoned may still be under
// way.
func (w *stormWorld) steps() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

func (w *stormWorld) ReadStorm(_ context.Context, in reauth.StormInput) (reauth.Storm, error) {
	return w.storm, w.did("read", "")
}

func (w *stormWorld) CheckStorm(_ context.Context, in activities.StormCheck) (activities.StormChecked, error) {
	if err := w.did("check", fmt.Sprint(in.Round)); err != nil {
		return activities.StormChecked{}, err
	}
	asked, back, recovered := 10, 0, false
	if w.check != nil {
		asked, back, recovered = w.check(in.Round, &w.storm)
	}
	return activities.StormChecked{
		Storm: w.storm, Check: reauth.StormCheck{At: w.env.Now().UTC(), Asked: asked, Back: back}, Recovered: recovered,
	}, nil
}

func (w *stormWorld) EndStorm(_ context.Context, in activities.StormEnd) (reauth.Storm, error) {
	if w.storm.EndedHow == "" {
		w.storm.EndedHow = cmp.Or(w.elsewhere, in.How)
	}
	return w.storm, w.did("end", in.How)
}

func (w *stormWorld) LetGo(_ context.Context, in reauth.StormInput) (activities.StormReleased, error) {
	err := w.did("let go", "")
	return activities.StormReleased{Cases: w.storm.Waiting, Until: w.env.Now().Add(time.Hour)}, err
}

func (w *stormWorld) TellOfStorm(_ context.Context, in activities.StormNews) (activities.StormTold, error) {
	what := "began"
	if in.Storm.EndedHow != "" {
		what = "ended"
	}
	err := w.did("tell", what)
	if err == nil {
		w.news = append(w.news, in)
	}
	return activities.StormTold{Delivery: notify.Sent}, err
}

func (w *stormWorld) release(after time.Duration, message any) {
	w.env.RegisterDelayedCallback(func() { w.env.SignalWorkflow(reauth.SignalReleaseStorm, message) }, after)
}

func (w *stormWorld) status(t *testing.T) reauth.StormStatus {
	t.Helper()
	answer, err := w.env.QueryWorkflow(reauth.QueryStatus)
	require.NoError(t, err)
	var status reauth.StormStatus
	require.NoError(t, answer.Get(&status))
	return status
}

// details is what the web UI shows.
func (w *stormWorld) details(t *testing.T) string {
	t.Helper()
	answer, err := w.env.QueryWorkflow("__temporal_workflow_metadata")
	require.NoError(t, err)
	var metadata sdkpb.WorkflowMetadata
	require.NoError(t, answer.Get(&metadata))
	return metadata.GetCurrentDetails()
}

// run runs a storm to its end.
func (w *stormWorld) run(t *testing.T) reauth.StormStatus {
	t.Helper()
	w.env.ExecuteWorkflow(reauth.StormWorkflowType, reauth.StormInput{StormID: stormID})
	require.True(t, w.env.IsWorkflowCompleted(), "the storm did not end; it did %v", w.steps())
	require.NoError(t, w.env.GetWorkflowError())
	var status reauth.StormStatus
	require.NoError(t, w.env.GetWorkflowResult(&status))
	return status
}

func TestAStormLetsGoWhenTheProviderHasRecovered(t *testing.T) {
	w := newStormWorld(t)
	w.check = func(round int, storm *reauth.Storm) (int, int, bool) {
		storm.Held, storm.Waiting, storm.Restored = 400+round, 390+round, 10
		return 10, 3 * round, round == 3
	}
	w.env.RegisterDelayedCallback(func() {
		assert.Equal(t, reauth.StormStatus{
			Storm: reauth.Storm{
				StormID: stormID, Provider: reauth.Finch, System: "Gusto", Broken: 20, Connections: 480, Held: 402, Waiting: 392, Restored: 10,
				BeganAt: stormBegan, EndsAt: stormBegan.Add(2 * time.Hour),
			},
			Checks: 2, LastCheck: &reauth.StormCheck{At: stormBegan.Add(20 * time.Minute), Asked: 10, Back: 6}, OperatorTold: "sent",
		}, w.status(t))
		assert.Equal(t, `**So many connections of Gusto broke together that their first notices are held.**

- 20 of 480 connections broke within minutes, before 2026-03-02 09:00 UTC
- Cases held: 402, of which 392 are open and 10 have access back
- Checks: 2, the last on 2026-03-02 09:20 UTC: access was back at 6 of 10 connections
- Held until 2026-03-02 10:58 UTC at the latest; the signal `+"`release` `{\"by\": \"your name\"}`"+` lets go now
- The operator's last mail: sent
`, w.details(t))
	}, 25*time.Minute)
	status := w.run(t)
	const how = "access was back at 9 of 10 connections that were asked"
	assert.Equal(t, []string{
		"read at 0s", "tell began at 0s", "check 1 at 10m0s", "check 2 at 20m0s", "check 3 at 30m0s",
		"end " + how + " at 30m0s", "let go at 30m0s", "tell ended at 30m0s",
	}, w.steps())
	assert.Equal(t, how, status.EndedHow)
	assert.Equal(t, 393, status.Released)
	assert.Equal(t, &reauth.StormCheck{At: stormBegan.Add(30 * time.Minute), Asked: 10, Back: 9}, status.LastCheck)
	assert.Equal(t, status, w.status(t))
	assert.True(t, reauth.EncodePublic(status), "everybody may read it in Temporal")
	assert.False(t, reauth.EncodePublic(reauth.ReleaseStorm{}), "a message may hold a name")
	assert.Contains(t, w.details(t), "**First notices are held no longer: "+how+".**")
	assert.Contains(t, w.details(t), "- Cases let go: 393, the last on 2026-03-02 10:30 UTC; each looks")
	require.Len(t, w.news, 2)
	assert.Zero(t, w.news[0].Released)
	assert.Equal(t, 393, w.news[1].Released.Cases)
	assert.Equal(t, how, w.news[1].Storm.EndedHow)
}

func TestAStormLetsGoWhenItsTimeIsOver(t *testing.T) {
	w := newStormWorld(t)
	status := w.run(t)
	assert.Equal(t, activities.StormTimeOver, status.EndedHow)
	assert.Equal(t, 11, status.Checks)
	assert.Equal(t, []string{
		"check 11 at 1h50m0s", "end its time was over at 1h58m0s", "let go at 1h58m0s", "tell ended at 1h58m0s",
	}, w.steps()[len(w.steps())-4:], "a little before the held cases wake by themselves")
	assert.Equal(t, 2, w.count["tell"])
}

// However short it may last, and when it was over before anybody watched.
func TestAShortStorm(t *testing.T) {
	for name, test := range map[string]struct {
		lasts time.Duration
		ended string
		want  []string
	}{
		"five minutes": {lasts: 5 * time.Minute, want: []string{"read at 0s", "tell began at 0s", "end its time was over at 4m30s", "let go at 4m30s", "tell ended at 4m30s"}},
		"ten seconds":  {lasts: 10 * time.Second, want: []string{"read at 0s", "tell began at 0s", "end its time was over at 9s", "let go at 9s", "tell ended at 9s"}},
		"over already": {lasts: time.Hour, ended: "for a reason", want: []string{"read at 0s", "end for a reason at 0s", "let go at 0s", "tell ended at 0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newStormWorld(t)
			w.storm.EndsAt, w.storm.EndedHow = stormBegan.Add(test.lasts), test.ended
			w.run(t)
			assert.Equal(t, test.want, w.steps())
		})
	}
}

func TestAStormClosesByItself(t *testing.T) {
	w := newStormWorld(t)
	w.check = func(round int, storm *reauth.Storm) (int, int, bool) {
		if round == 2 {
			storm.Waiting, storm.Restored = 0, 20
		}
		return 0, 0, false
	}
	status := w.run(t)
	assert.Equal(t, "no held case is left open", status.EndedHow)
	assert.Zero(t, status.Released)
	assert.Equal(t, "end no held case is left open at 20m0s", w.steps()[4])
}

// Somebody else may have ended it: the first end stands.
func TestAStormThatWasEndedElsewhere(t *testing.T) {
	w := newStormWorld(t)
	w.check = func(_ int, storm *reauth.Storm) (int, int, bool) {
		storm.EndedHow = "by hand"
		return 10, 10, true
	}
	assert.Equal(t, "by hand", w.run(t).EndedHow)
	w = newStormWorld(t)
	w.elsewhere = "by hand"
	w.release(time.Minute, reauth.ReleaseStorm{By: "Ann"})
	assert.Equal(t, "by hand", w.run(t).EndedHow)
	assert.Equal(t, "end released by Ann at 1m0s", w.steps()[2])
}

func TestAnOperatorReleasesAStorm(t *testing.T) {
	for name, test := range map[string]struct {
		message any
		how     string
	}{
		"by name":            {reauth.ReleaseStorm{By: " Ann of operations\n"}, "released by Ann of operations"},
		"by a long name":     {reauth.ReleaseStorm{By: strings.Repeat("x", 90) + "ééééééééééé"}, "released by " + strings.Repeat("x", 90) + "ééééé"},
		"by nobody":          {struct{}{}, "released by an operator"},
		"without a message":  {nil, "released by an operator"},
		"in another fashion": {[]int{1}, "released by an operator"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newStormWorld(t)
			w.release(25*time.Minute, test.message)
			w.release(25*time.Minute, reauth.ReleaseStorm{By: "somebody else"}) // who is too late
			status := w.run(t)
			assert.Equal(t, test.how, status.EndedHow)
			assert.Equal(t, []string{"end " + test.how + " at 25m0s", "let go at 25m0s", "tell ended at 25m0s"}, w.steps()[len(w.steps())-3:])
			assert.Equal(t, 2, w.count["tell"])
			assert.Equal(t, 1, w.count["let go"])
		})
	}
}

// A release waits for nothing: no provider without an answer, no mail server.
func TestAReleaseDoesNotWait(t *testing.T) {
	w := newStormWorld(t)
	w.fail = func(step string, attempt int) error {
		if step == "check" || step == "tell" && attempt < 12 {
			return temporal.NewApplicationError("not yet", "no_answer")
		}
		return nil
	}
	w.release(10*time.Minute+3*time.Second, reauth.ReleaseStorm{By: "Ann"})
	w.run(t)
	var end, told []string
	for i, line := range w.steps() {
		if line == "end released by Ann at 10m3s" {
			end, told = w.steps()[:i], w.steps()[i:]
		}
	}
	assert.Contains(t, end, "check failed at 10m2s")
	assert.Contains(t, end, "tell failed at 5m15s")
	assert.Equal(t, []string{"end released by Ann at 10m3s", "let go at 10m3s",
		"tell failed at 10m3s", "tell failed at 10m8s", "tell failed at 10m18s", "tell failed at 10m38s", "tell ended at 11m18s"}, told,
		"that it began is no news any more, that it ended is told when the mail server is back")
}

func TestACancellationReleasesAStorm(t *testing.T) {
	w := newStormWorld(t)
	w.env.RegisterDelayedCallback(w.env.CancelWorkflow, 25*time.Minute)
	status := w.run(t)
	assert.Equal(t, "released by a cancellation through Temporal", status.EndedHow)
	assert.Equal(t, "let go at 25m0s", w.steps()[len(w.steps())-2])
}

// Without an answer of the provider or the database the storm goes on.
func TestAStormGoesOnWithoutAnAnswer(t *testing.T) {
	w := newStormWorld(t)
	w.fail = func(step string, attempt int) error {
		if step == "check" && w.env.Now().Before(stormBegan.Add(29*time.Minute)) {
			return temporal.NewNonRetryableApplicationError("no answer", "no_answer", nil)
		}
		return nil
	}
	w.check = func(round int, _ *reauth.Storm) (int, int, bool) { return 3, 3, true }
	status := w.run(t)
	assert.Equal(t, 1, status.Checks)
	assert.Equal(t, []string{"check failed at 10m0s", "check failed at 20m0s", "check 1 at 30m0s"}, w.steps()[2:5])
}

// Nothing keeps the cases from being let go, in the end; and not before no
// further one is held.
func TestEndingAndLettingGoInsist(t *testing.T) {
	w := newStormWorld(t)
	w.fail = func(step string, attempt int) error {
		if (step == "read" || step == "end" || step == "let go") && attempt < 4 {
			return temporal.NewApplicationError("the database is down", "unavailable")
		}
		return nil
	}
	w.release(time.Minute, reauth.ReleaseStorm{By: "Ann"})
	w.run(t)
	assert.Equal(t, []string{
		"read failed at 0s", "read failed at 1s", "read failed at 3s", "read at 7s", "tell began at 7s",
		"end failed at 1m0s", "end failed at 1m1s", "end failed at 1m3s", "end released by Ann at 1m7s",
		"let go failed at 1m7s", "let go failed at 1m8s", "let go failed at 1m10s", "let go at 1m14s", "tell ended at 1m14s",
	}, w.steps())
}

func TestWhatIsNoStorm(t *testing.T) {
	for name, test := range map[string]struct {
		id   string
		kind string
		log  []string
	}{
		"under another workflow ID": {id: "another", kind: reauth.ErrTypeWorkflowIDMismatch},
		"one that does not exist":   {id: stormID, kind: reauth.ErrTypeInvalidInput, log: []string{"read failed at 0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newStormWorld(t)
			w.fail = func(string, int) error {
				return temporal.NewNonRetryableApplicationError("there is no such storm", reauth.ErrTypeInvalidInput, nil)
			}
			w.env.ExecuteWorkflow(reauth.StormWorkflowType, reauth.StormInput{StormID: test.id})
			require.True(t, w.env.IsWorkflowCompleted())
			var failure *temporal.ApplicationError
			require.ErrorAs(t, w.env.GetWorkflowError(), &failure)
			assert.Equal(t, test.kind, failure.Type())
			assert.Equal(t, test.log, w.steps())
		})
	}
}
