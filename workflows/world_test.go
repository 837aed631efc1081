package workflows_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/workflows"
)

const connectionID = "conn-1"

// world stands for everything that activities do. Each step has a default that
// goes well; a test replaces the steps it is about.
type world struct {
	mu  sync.Mutex
	env *testsuite.TestWorkflowEnvironment
	log []call

	confirm func(n int, in activities.ConfirmInput) (activities.Confirmed, error)
	session func(n int, in activities.SessionInput) (activities.SessionOpened, error)
	notify  func(n int, in activities.NoticeInput) (activities.Noticed, error)
	look    func(n int, in activities.LookInput) (activities.Looked, error)
	redeem  func(n int, in activities.RedeemInput) (activities.Redeemed, error)
	verify  func(n int, in activities.VerifyInput) (activities.Verified, error)
	working func(n int, in activities.WorkingInput) error
	close   func(n int, in activities.CloseInput) (activities.Closed, error)
	record  func(in activities.RecordInput)
	lookUp  activities.Redeemed // what the database knows of a dead code
}

// call is one step that the world was asked for.
type call struct {
	step string
	what string
	at   time.Duration // since the case's opening
}

var opened = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	w := &world{env: suite.NewTestWorkflowEnvironment()}
	w.env.SetStartTime(opened)
	w.env.SetStartWorkflowOptions(startAs(reauth.WorkflowID(connectionID)))
	w.env.SetTestTimeout(time.Minute)
	w.env.RegisterWorkflowWithOptions(workflows.ReauthWorkflow, workflow.RegisterOptions{Name: reauth.WorkflowType})
	w.env.RegisterWorkflowWithOptions(workflows.RedeemWorkflow, workflow.RegisterOptions{Name: reauth.RedeemWorkflowType})
	w.env.RegisterActivity(w)
	w.env.SetWorkerOptions(worker.Options{
		Interceptors:             []interceptor.WorkerInterceptor{&endless{}},
		DeadlockDetectionTimeout: time.Minute, // a busy machine is no deadlock
	})
	return w
}

// endless lifts the ten attempts at which Temporal's test environment, unlike
// its server, gives an activity up.
type endless struct {
	interceptor.WorkerInterceptorBase
}

func (*endless) InterceptWorkflow(ctx workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &endlessInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}}
}

type endlessInbound struct {
	interceptor.WorkflowInboundInterceptorBase
}

func (i *endlessInbound) Init(outbound interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&endlessOutbound{interceptor.WorkflowOutboundInterceptorBase{Next: outbound}})
}

type endlessOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
}

func (o *endlessOutbound) ExecuteActivity(ctx workflow.Context, activity string, args ...any) workflow.Future {
	policy := *workflow.GetActivityOptions(ctx).RetryPolicy
	policy.MaximumAttempts = 1 << 20
	return o.Next.ExecuteActivity(workflow.WithRetryPolicy(ctx, policy), activity, args...)
}

func (w *world) note(step, what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, call{step, what, w.env.Now().Sub(opened)})
	n := 0
	for _, c := range w.log {
		if c.step == step {
			n++
		}
	}
	return n
}

// calls lists every step so far. One that the case abandoned may still be
// under way.
func (w *world) calls() []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// did lists what a step was asked for.
func (w *world) did(step string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []string{}
	for _, c := range w.log {
		if c.step == step {
			out = append(out, c.what)
		}
	}
	return out
}

// when lists at what time since the opening a step was asked for.
func (w *world) when(step string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []time.Duration{}
	for _, c := range w.log {
		if c.step == step {
			out = append(out, c.at.Truncate(time.Minute))
		}
	}
	return out
}

func plan(in reauth.Input) activities.Plan {
	p := activities.Plan{Minutes: reauth.DefaultSessionMinutes, Campaign: campaign.FromReminders(reauth.DefaultReminders()), Application: "default"}
	if in.MinutesToExpire != 0 {
		p.Minutes = in.MinutesToExpire
	}
	if in.Renewals != nil {
		p.Renewals = *in.Renewals
	}
	if in.Reminders != nil {
		p.Campaign = campaign.FromReminders(in.Reminders)
	}
	return p
}

func (w *world) newSession(ordinal, minutes int) *activities.Session {
	now := w.env.Now().UTC()
	return &activities.Session{ID: fmt.Sprintf("session-%d", ordinal), Ordinal: ordinal, OpenedAt: now, ExpiresAt: now.Add(time.Duration(minutes) * time.Minute)}
}

func (w *world) stale(in activities.ConfirmInput) activities.Confirmed {
	p := plan(in.Case.Report)
	return activities.Confirmed{Verdict: activities.VerdictStale, Plan: p, Session: w.newSession(1, p.Minutes), ConfirmedAt: w.env.Now()}
}

func mint(code string) activities.Redeemed {
	return activities.Redeemed{State: reauth.CodeMinted, Minted: &reauth.TokenMinted{
		ConnectionID: connectionID, CodeHash: reauth.CodeHash(code), Fingerprint: reauth.Fingerprint("token of " + code), Sealed: []byte("sealed"),
	}}
}

func (w *world) Confirm(_ context.Context, in activities.ConfirmInput) (activities.Confirmed, error) {
	n := w.note("confirm", "")
	if w.confirm != nil {
		return w.confirm(n, in)
	}
	return w.stale(in), nil
}

func (w *world) OpenSession(_ context.Context, in activities.SessionInput) (activities.SessionOpened, error) {
	n := w.note("session", fmt.Sprint(in.Ordinal))
	if w.session != nil {
		return w.session(n, in)
	}
	return activities.SessionOpened{Verdict: activities.VerdictStale, Session: w.newSession(in.Ordinal, in.Plan.Minutes)}, nil
}

func (w *world) Notify(_ context.Context, in activities.NoticeInput) (activities.Noticed, error) {
	n := w.note("notify", string(in.Kind)+" "+in.Step.Key)
	if w.notify != nil {
		return w.notify(n, in)
	}
	return activities.Noticed{Sent: 1}, nil
}

func (w *world) Look(_ context.Context, in activities.LookInput) (activities.Looked, error) {
	n := w.note("look", "")
	if w.look != nil {
		return w.look(n, in)
	}
	return activities.Looked{}, nil
}

func (w *world) Redeem(_ context.Context, in activities.RedeemInput) (activities.Redeemed, error) {
	if in.LookUp {
		w.note("lookup", in.Code)
		return w.lookUp, nil
	}
	n := w.note("redeem", in.Code)
	if w.redeem != nil {
		return w.redeem(n, in)
	}
	return mint(in.Code), nil
}

func (w *world) Verify(_ context.Context, in activities.VerifyInput) (activities.Verified, error) {
	n := w.note("verify", in.Minted.CodeHash)
	if w.verify != nil {
		return w.verify(n, in)
	}
	return activities.Verified{State: reauth.CodeRecovered, Generation: 2}, nil
}

func (w *world) AwaitWorking(_ context.Context, in activities.WorkingInput) error {
	n := w.note("working", "")
	if w.working != nil {
		return w.working(n, in)
	}
	return nil
}

func (w *world) CloseAndTell(_ context.Context, in activities.CloseInput) (activities.Closed, error) {
	n := w.note("close", string(in.Outcome))
	if w.close != nil {
		return w.close(n, in)
	}
	return activities.Closed{}, nil
}

func (w *world) SettleCode(_ context.Context, in activities.SettleInput) error {
	w.note("settle", string(in.State))
	return nil
}

func (w *world) TellOperator(_ context.Context, in activities.ProblemInput) error {
	w.note("operator", in.Problem)
	return nil
}

func (w *world) Record(_ context.Context, in activities.RecordInput) error {
	w.note("record", in.Kind)
	if w.record != nil {
		w.record(in)
	}
	return nil
}

func (w *world) HandOver(_ context.Context, in reauth.TokenMinted) error {
	w.note("handover", in.ConnectionID)
	return nil
}

// after does something when the case has been open for a while.
func (w *world) after(d time.Duration, do func()) { w.env.RegisterDelayedCallback(do, d) }

func (w *world) code(after time.Duration, code string) {
	w.after(after, func() { w.env.SignalWorkflow(reauth.SignalCodeReceived, reauth.CodeReceived{Code: code}) })
}

func (w *world) signal(after time.Duration, name string, message any) {
	w.after(after, func() { w.env.SignalWorkflow(name, message) })
}

func (w *world) status(t *testing.T) reauth.Status {
	t.Helper()
	answer, err := w.env.QueryWorkflow(reauth.QueryStatus)
	require.NoError(t, err)
	var status reauth.Status
	require.NoError(t, answer.Get(&status))
	return status
}

// run runs a case to its end.
func (w *world) run(t *testing.T, in reauth.Input) reauth.Result {
	t.Helper()
	if in.ConnectionID == "" {
		in.ConnectionID = connectionID
	}
	if in.Source == "" {
		in.Source = reauth.SourceAPIError
	}
	w.env.ExecuteWorkflow(reauth.WorkflowType, in)
	require.True(t, w.env.IsWorkflowCompleted(), "the case did not end; it did %v", w.calls())
	require.NoError(t, w.env.GetWorkflowError())
	var result reauth.Result
	require.NoError(t, w.env.GetWorkflowResult(&result))
	return result
}

// failure runs a case that must fail and returns the type of its error.
func (w *world) failure(t *testing.T, in reauth.Input) *temporal.ApplicationError {
	t.Helper()
	w.env.ExecuteWorkflow(reauth.WorkflowType, in)
	require.True(t, w.env.IsWorkflowCompleted())
	var app *temporal.ApplicationError
	require.ErrorAs(t, w.env.GetWorkflowError(), &app)
	require.Empty(t, w.calls(), "a case that is refused at the door does nothing")
	return app
}

func days(n ...float64) []time.Duration {
	out := []time.Duration{}
	for _, d := range n {
		out = append(out, time.Duration(d*24*float64(time.Hour)))
	}
	return out
}

func ptr[T any](v T) *T { return &v }

// retryable is an activity error that Temporal tries again.
func retryable() error { return temporal.NewApplicationError("not yet", "no_answer") }

func startAs(id string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: id, TaskQueue: reauth.TaskQueue}
}
