package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker"
)

// season is any number of cases on one skipping clock: the real workflows with
// the real activities over a real database. Only the provider and the mail
// server are stood in for.
type season struct {
	t    *testing.T
	env  *testsuite.TestWorkflowEnvironment
	db   *db.DB
	acts *activities.Activities
	from time.Time

	mu      sync.Mutex
	letters []letter
	works   map[string]bool // connections whose token works again
	breaks  []breakdown
	results map[string]reauth.Result
	refuse  map[string]error // by address, what a mail server says to RCPT
	looks   int
	watched map[string]bool
	storms  []reauth.StormStatus
}

// letter is a mail as it was sent.
type letter struct {
	at      time.Time
	to      string
	subject string
	text    string
	id      string
	root    string
}

// breakdown is a connection that breaks.
type breakdown struct {
	After time.Duration
	Input reauth.Input
}

func newSeason(t *testing.T, from time.Time) *season {
	t.Helper()
	s := &season{t: t, from: from, works: map[string]bool{}, results: map[string]reauth.Result{}, refuse: map[string]error{}, watched: map[string]bool{}}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(quiet))
	s.env = suite.NewTestWorkflowEnvironment()
	s.env.SetStartTime(from)
	s.env.SetTestTimeout(3 * time.Minute)
	s.env.SetWorkerOptions(sdkworker.Options{Interceptors: []interceptor.WorkerInterceptor{&endless{}}})

	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	opened, err := db.Open(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	s.db = opened.WithClock(func() time.Time { return s.env.Now().UTC() })
	s.acts = &activities.Activities{
		DB: s.db, Keys: keys, Mail: s, Providers: map[string]activities.Provider{"default": s}, Logger: quiet,
		Now:    func() time.Time { return s.env.Now().UTC() },
		Hasten: func(time.Time) time.Time { return s.env.Now() },
		Settings: activities.Settings{
			PublicURL: "https://reauth.product.example", MailFrom: "Payday <hello@product.example>", ProductName: "Payday",
			OperatorEmail: "operator@product.example",
		},
	}
	s.acts.Storms = s
	worker.Register(s.env, s.acts)
	s.env.RegisterWorkflowWithOptions(s.year, workflow.RegisterOptions{Name: "year"})
	return s
}

// year lets connections break when it is time, each as a case of its own.
func (s *season) year(ctx workflow.Context, breaks []breakdown) error {
	done := workflow.NewWaitGroup(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var stormID string
			workflow.GetSignalChannel(ctx, "watch-storm").Receive(ctx, &stormID)
			done.Add(1)
			workflow.Go(ctx, func(ctx workflow.Context) {
				defer done.Done()
				child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: reauth.StormWorkflowID(stormID)})
				var status reauth.StormStatus
				if workflow.ExecuteChildWorkflow(child, reauth.StormWorkflowType, reauth.StormInput{StormID: stormID}).Get(child, &status) == nil {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.storms = append(s.storms, status)
				}
			})
		}
	})
	for _, b := range breaks {
		done.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer done.Done()
			_ = workflow.Sleep(ctx, b.After)
			child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: reauth.WorkflowID(b.Input.ConnectionID)})
			var result reauth.Result
			if workflow.ExecuteChildWorkflow(child, reauth.WorkflowType, b.Input).Get(child, &result) == nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.results[b.Input.ConnectionID] = result
			}
		})
	}
	done.Wait(ctx)
	return nil
}

// connect registers a connection with its contacts.
func (s *season) connect(id string, contacts ...reauth.Contact) {
	s.t.Helper()
	_, err := s.db.PutConnection(s.t.Context(), reauth.Connection{
		ConnectionID: id, CustomerName: "Customer " + id, System: "Gusto", Contacts: contacts,
	})
	require.NoError(s.t, err)
}

// store gives a connection a token, so that the provider can be asked about it.
func (s *season) store(id string) {
	s.t.Helper()
	_, err := s.db.Adopt(s.t.Context(), db.Adoption{
		ConnectionID: id, Fingerprint: reauth.Fingerprint(id), MintedAt: s.from, Source: "registered",
		Seal: func(generation int64) ([]byte, error) {
			return s.acts.Keys.Seal([]byte("token of "+id), "token", id, strconv.FormatInt(generation, 10))
		},
	})
	require.NoError(s.t, err)
}

// back makes a connection work again.
func (s *season) back(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.works[id] = true
}

// breaks makes a connection break after a while.
func (s *season) broken(after time.Duration, in reauth.Input) {
	if in.Source == "" {
		in.Source = reauth.SourceAPIError
	}
	s.breaks = append(s.breaks, breakdown{after, in})
}

// run lets the season pass until every case has ended.
func (s *season) run() {
	s.t.Helper()
	s.env.ExecuteWorkflow("year", s.breaks)
	require.True(s.t, s.env.IsWorkflowCompleted())
	require.NoError(s.t, s.env.GetWorkflowError())
	require.Len(s.t, s.results, len(s.breaks), "a case has no result")
}

// after does something when the season has lasted a while.
func (s *season) after(d time.Duration, do func()) { s.env.RegisterDelayedCallback(do, d) }

func (s *season) signal(after time.Duration, connection, name string, message any) {
	s.after(after, func() {
		require.NoError(s.t, s.env.SignalWorkflowByID(reauth.WorkflowID(connection), name, message))
	})
}

// book makes the campaign with which connections break.
func (s *season) book(c campaign.Campaign) { s.acts.Settings.Campaigns = campaign.BookOf(c) }

// mails lists what an address got, as the local time and the subject.
func (s *season) mails(to, zone string) []string {
	s.t.Helper()
	local, err := time.LoadLocation(zone)
	require.NoError(s.t, err)
	out := []string{}
	for _, l := range s.sent(to) {
		out = append(out, l.at.In(local).Format("Mon 02 Jan 15:04"))
	}
	return out
}

func (s *season) sent(to string) []letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.letters), func(l letter) bool { return l.to != to })
}

// ledger lists what became of a connection's notices to the customer.
func (s *season) ledger(connection string) []string {
	s.t.Helper()
	c, err := s.db.NewestCase(s.t.Context(), connection)
	require.NoError(s.t, err)
	rows, err := s.db.NoticesOf(s.t.Context(), c.CaseID)
	require.NoError(s.t, err)
	out := []string{}
	for _, row := range rows {
		if row.Recipient == db.RecipientOperator {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s", row.Step, row.State))
	}
	return out
}

func (s *season) timeline(connection string) string {
	s.t.Helper()
	c, err := s.db.NewestCase(s.t.Context(), connection)
	require.NoError(s.t, err)
	events, err := s.db.Timeline(s.t.Context(), c.CaseID)
	require.NoError(s.t, err)
	var lines []string
	for _, e := range events {
		lines = append(lines, e.At.Format("2006-01-02 15:04")+" "+e.Kind+" "+e.Detail)
	}
	return strings.Join(lines, "\n")
}

// WatchStorm stands for the starter: the year watches a storm, once.
func (s *season) WatchStorm(_ context.Context, stormID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.watched[stormID] {
		s.watched[stormID] = true
		s.env.SignalWorkflow("watch-storm", stormID)
	}
	return nil
}

// ReleaseNotices stands for the starter.
func (s *season) ReleaseNotices(_ context.Context, connectionID string, m reauth.NoticesReleased) error {
	return s.env.SignalWorkflowByID(reauth.WorkflowID(connectionID), reauth.SignalNoticesReleased, m)
}

// Send stands for the mail server.
func (s *season) Send(_ context.Context, m notify.Mail) (notify.Delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuse[m.To]; err != nil {
		return notify.Refused, err
	}
	s.letters = append(s.letters, letter{s.env.Now().UTC(), m.To, m.Subject, m.Text, m.MessageID, m.InReplyTo})
	return notify.Sent, nil
}

// Inspect stands for the provider.
func (s *season) Inspect(_ context.Context, access activities.Access) (activities.Inspection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	condition := activities.ConditionStale
	if s.works[access.ConnectionID] {
		condition = activities.ConditionConnected
	}
	return activities.Inspection{Condition: condition, ConnectionID: access.ConnectionID}, nil
}

func (s *season) Probe(context.Context, activities.Access) error { return nil }

func (s *season) OpenSession(_ context.Context, request activities.SessionRequest) (activities.OpenSession, error) {
	return activities.OpenSession{ID: "session of " + request.ConnectionID, ConnectURL: "https://connect.tryfinch.com/authorize?session=1"}, nil
}

func (s *season) Exchange(context.Context, secrets.Secret, string) (activities.Grant, error) {
	return activities.Grant{}, fmt.Errorf("nobody comes back from Connect in this season")
}

func (s *season) FindConnection(context.Context, activities.CustomerRequest) (string, error) {
	return "", fmt.Errorf("nobody asks for a customer's connection in this season")
}

// endless makes Temporal's test environment more like its server: it lifts the
// ten attempts after which the environment gives an activity up, and says when a
// child began by the skipping clock, as it does of other workflows.
type endless struct {
	interceptor.WorkerInterceptorBase
}

func (*endless) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &endlessInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}}
}

type endlessInbound struct {
	interceptor.WorkflowInboundInterceptorBase
}

func (i *endlessInbound) Init(outbound interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&endlessOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: outbound}})
}

type endlessOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	began time.Time
}

func (o *endlessOutbound) GetInfo(ctx workflow.Context) *workflow.Info {
	info := *o.Next.GetInfo(ctx)
	if o.began.IsZero() {
		o.began = o.Next.Now(ctx)
	}
	info.WorkflowStartTime = o.began
	return &info
}

func (o *endlessOutbound) ExecuteActivity(ctx workflow.Context, activity string, args ...any) workflow.Future {
	policy := *workflow.GetActivityOptions(ctx).RetryPolicy
	policy.MaximumAttempts = 1 << 20
	return o.Next.ExecuteActivity(workflow.WithRetryPolicy(ctx, policy), activity, args...)
}
