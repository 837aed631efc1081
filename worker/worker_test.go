package worker

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/dev/temporal"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// server starts a Temporal server that knows nothing of us.
func server(t *testing.T, l *logs) client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	binary, err := temporal.Binary(ctx, os.Stderr)
	require.NoError(t, err)
	s, err := testsuite.StartDevServer(ctx, testsuite.DevServerOptions{
		ExistingPath: binary, LogLevel: "error", Stdout: io.Discard, Stderr: io.Discard,
		ClientOptions: &client.Options{Namespace: client.DefaultNamespace, Logger: sdklog.NewStructuredLogger(store{logs: l}.logger())},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	return s.Client()
}

func TestRegisterSearchAttributes(t *testing.T) {
	c := server(t, &logs{})
	ctx := t.Context()
	known := func() map[string]enumspb.IndexedValueType {
		answer, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: client.DefaultNamespace})
		require.NoError(t, err)
		ours := map[string]enumspb.IndexedValueType{}
		for name, kind := range answer.GetCustomAttributes() {
			if len(name) > 6 && name[:6] == "Reauth" {
				ours[name] = kind
			}
		}
		return ours
	}
	require.Empty(t, known())
	require.Error(t, RegisterSearchAttributes(ctx, c, "no-such-namespace"))

	// One is there already, as somebody else made it: it stays as it is.
	_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: client.DefaultNamespace, SearchAttributes: map[string]enumspb.IndexedValueType{reauth.SearchAttributeProvider: enumspb.INDEXED_VALUE_TYPE_TEXT},
	})
	require.NoError(t, err)
	want := map[string]enumspb.IndexedValueType{
		reauth.SearchAttributeConnectionID: enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		reauth.SearchAttributeProvider:     enumspb.INDEXED_VALUE_TYPE_TEXT,
		reauth.SearchAttributePhase:        enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	}
	// Several processes start at once, and again.
	for range 2 {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { assert.NoError(t, RegisterSearchAttributes(ctx, c, client.DefaultNamespace)) })
		}
		all.Wait()
		assert.Equal(t, want, known())
	}
}

// operators is Temporal's operator service with some search attributes, and the
// client that leads to it.
type operators struct {
	client.Client
	operatorservice.OperatorServiceClient
	known               []string
	listFails, addFails error
	added               []*operatorservice.AddSearchAttributesRequest
}

func (o *operators) OperatorService() operatorservice.OperatorServiceClient { return o }

func (o *operators) ListSearchAttributes(
	context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption,
) (*operatorservice.ListSearchAttributesResponse, error) {
	answer := &operatorservice.ListSearchAttributesResponse{CustomAttributes: map[string]enumspb.IndexedValueType{}}
	for _, name := range o.known {
		answer.CustomAttributes[name] = enumspb.INDEXED_VALUE_TYPE_TEXT
	}
	return answer, o.listFails
}

func (o *operators) AddSearchAttributes(
	_ context.Context, in *operatorservice.AddSearchAttributesRequest, _ ...grpc.CallOption,
) (*operatorservice.AddSearchAttributesResponse, error) {
	o.added = append(o.added, in)
	return &operatorservice.AddSearchAttributesResponse{}, o.addFails
}

// Some servers refuse a request that names an attribute they know, all of it:
// only those that are missing are asked for. Where another process was quicker,
// the server says so, and all is well.
func TestRegisterSearchAttributesAsksForTheMissingOnly(t *testing.T) {
	id, provider, phase := reauth.SearchAttributeConnectionID, reauth.SearchAttributeProvider, reauth.SearchAttributePhase
	exists, down := serviceerror.NewAlreadyExists("search attribute exists"), serviceerror.NewUnavailable("not now")
	for name, test := range map[string]struct {
		operators
		want []string
		says string
	}{
		"none is known":             {want: []string{id, provider, phase}},
		"others are":                {operators: operators{known: []string{"CustomerId"}}, want: []string{id, provider, phase}},
		"one is":                    {operators: operators{known: []string{provider}}, want: []string{id, phase}},
		"all are":                   {operators: operators{known: []string{phase, id, provider}}},
		"another was quicker":       {operators: operators{addFails: exists}, want: []string{id, provider, phase}},
		"they cannot be listed":     {operators: operators{listFails: down}, says: "list Temporal's search attributes"},
		"they cannot be added":      {operators: operators{addFails: down}, want: []string{id, provider, phase}, says: "add search attributes to Temporal"},
		"wrapped, but all the same": {operators: operators{addFails: fmt.Errorf("on the way: %w", exists)}, want: []string{id, provider, phase}},
	} {
		t.Run(name, func(t *testing.T) {
			err := RegisterSearchAttributes(t.Context(), &test.operators, "payday")
			if test.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.says)
			}
			if test.want == nil {
				assert.Empty(t, test.added)
				return
			}
			require.Len(t, test.added, 1)
			want := map[string]enumspb.IndexedValueType{}
			for _, name := range test.want {
				want[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
			}
			assert.Equal(t, want, test.added[0].GetSearchAttributes())
			assert.Equal(t, "payday", test.added[0].GetNamespace())
		})
	}
}

// waiting is a provider that is asked, and answers when it may.
type waiting struct {
	activities.Provider
	asked, answer chan struct{}
}

func (w waiting) Inspect(ctx context.Context, _ activities.Access) (activities.Inspection, error) {
	close(w.asked)
	select {
	case <-w.answer:
	case <-ctx.Done():
		return activities.Inspection{}, ctx.Err()
	}
	return activities.Inspection{Condition: activities.ConditionConnected, Status: "connected"}, nil
}

func TestRun(t *testing.T) {
	s := newStore(t)
	temporal := server(t, s.logs)
	require.NoError(t, RegisterSearchAttributes(t.Context(), temporal, client.DefaultNamespace))
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	keys, err := secrets.Load(keyset)
	require.NoError(t, err)
	finch := waiting{asked: make(chan struct{}), answer: make(chan struct{})}
	acts := &activities.Activities{
		DB: s.DB, Keys: keys, Logger: s.logger(), Now: time.Now, Settings: activities.Settings{Webhooks: true},
		Providers: map[string]activities.Provider{reauth.DefaultApplication: finch},
	}
	backend := newReceiver(t, nil)
	config := Config{Temporal: temporal, Activities: acts, DB: s.DB, Logger: s.logger(), WebhookURL: backend.URL, WebhookSecret: webhookSecret, Outbound: here()}
	run := func(c Config) (stop func() error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, c) }()
		return func() error {
			cancel()
			select {
			case err := <-done:
				return err
			case <-time.After(20 * time.Second):
				t.Fatal("the worker does not stop")
				return nil
			}
		}
	}
	start := func(id, queue string) client.WorkflowRun {
		started, err := temporal.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: reauth.WorkflowID(id), TaskQueue: queue},
			reauth.WorkflowType, reauth.Input{ConnectionID: id, Source: reauth.SourceAPIError})
		require.NoError(t, err)
		return started
	}
	finish := func(started client.WorkflowRun) (result reauth.Result) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, started.Get(ctx, &result), s.logs.String())
		return result
	}

	// It works on the queue of the contract, and lets an activity finish when it stops.
	_, err = s.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c1"})
	require.NoError(t, err)
	adopt(t, s, keys, "c1")
	stop := run(config)
	assert.Equal(t, reauth.ReasonConnectionUnknown, finish(start("nobodys", reauth.TaskQueue)).Reason)
	first := start("c1", reauth.TaskQueue)
	<-finch.asked
	time.AfterFunc(time.Second, func() { close(finch.answer) })
	require.NoError(t, stop())
	select {
	case <-finch.answer:
	default:
		t.Error("the activity was not let finish")
	}
	row, err := s.OpenCaseOf(t.Context(), "c1")
	require.NoError(t, err)
	events, err := s.Timeline(t.Context(), row.CaseID)
	require.NoError(t, err)
	assert.Equal(t, "confirmed", events[len(events)-1].Kind)

	// The next worker goes on where the first stopped, and tells the backend.
	stop = run(config)
	assert.Equal(t, reauth.OutcomeFalseAlarm, finish(first).Outcome)
	require.Eventually(t, func() bool { return len(backend.got()) == 1 }, 20*time.Second, 50*time.Millisecond)
	assert.Equal(t, "evt_"+row.CaseID+"_false_alarm", backend.got()[0].header.Get("webhook-id"))
	require.NoError(t, stop())
	assert.NotContains(t, s.logs.String(), "level=ERROR")

	// On a queue of its own, and without a backend to tell.
	config.TaskQueue, config.WebhookURL = "another", ""
	stop = run(config)
	assert.Equal(t, reauth.ReasonConnectionUnknown, finish(start("nobodys-either", "another")).Reason)
	require.NoError(t, stop())

	// While a receiver keeps the courier waiting it stops as well.
	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	config.WebhookURL = slow.URL
	s.enqueue(t, "evt_slow", `{}`)
	stop = run(config)
	require.Eventually(t, func() bool { return len(slow.got()) == 1 }, 20*time.Second, 50*time.Millisecond)
	began := time.Now()
	require.NoError(t, stop())
	assert.Less(t, time.Since(began), courierTimeout/2)
	assert.Nil(t, s.row(t, "evt_slow").DeliveredAt)
	assert.NotContains(t, s.logs.String(), "could not be recorded")

	// What cannot work ends at once.
	config.WebhookSecret = "no secret"
	require.ErrorContains(t, Run(t.Context(), config), "secret")
	elsewhere, err := client.NewClientFromExisting(temporal, client.Options{Namespace: "no-such-namespace"})
	require.NoError(t, err)
	t.Cleanup(elsewhere.Close)
	config.Temporal, config.WebhookURL = elsewhere, ""
	require.ErrorContains(t, Run(t.Context(), config), "start the worker on task queue another")
}

// registry writes down what is registered.
type registry struct {
	workflows  []string
	activities []any
}

func (r *registry) RegisterWorkflowWithOptions(_ any, o workflow.RegisterOptions) {
	r.workflows = append(r.workflows, o.Name)
}
func (r *registry) RegisterActivity(a any) { r.activities = append(r.activities, a) }

func TestRegister(t *testing.T) {
	acts := &activities.Activities{}
	var all, replayed registry
	Register(&all, acts)
	assert.Equal(t, []string{"ReauthWorkflow", "RedeemWorkflow", "FindConnectionWorkflow", "StormWorkflow", "SweepWorkflow", "MailWorkflow", "RetentionWorkflow", "BulkWorkflow"}, all.workflows)
	assert.Equal(t, []any{acts}, all.activities)
	RegisterWorkflows(&replayed)
	assert.Equal(t, all.workflows, replayed.workflows)

	// A replayer and a worker take them.
	RegisterWorkflows(sdkworker.NewWorkflowReplayer())
	var suite testsuite.WorkflowTestSuite
	Register(suite.NewTestWorkflowEnvironment(), acts)
}
