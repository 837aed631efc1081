// Package worker carries the cases: it registers workflows and activities with
// Temporal, and delivers the webhooks that cases leave in the outbox.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
	"github.com/finch-reauth/reauth/worker/clock"
	"github.com/finch-reauth/reauth/workflows"
)

// stopWithin is how long a worker that is asked to stop lets its activities
// finish.
const stopWithin = 30 * time.Second

// Config is what a worker needs.
type Config struct {
	Temporal   client.Client
	Activities *activities.Activities
	// DB is where the backend's events and the chat's news come from; the one of
	// the activities.
	DB *db.DB
	// TaskQueue is reauth.TaskQueue if empty.
	TaskQueue string
	// WebhookURL and WebhookSecret say where the backend's events go; nowhere
	// if the URL is empty.
	WebhookURL, WebhookSecret string
	// Receivers are those of applications that have one of their own, each with
	// its own secret; the events of all others go to WebhookURL.
	Receivers []Receiver
	// Chat names the operators' chat, as notify/chat reads it; none if empty.
	// TemporalUIURL and Namespace make the links in its messages.
	Chat                     string
	TemporalUIURL, Namespace string
	// ImportPace is how many imported tokens are asked about in a minute, by all
	// workers together; imports.DefaultPace if 0.
	ImportPace int
	// Report opens a case for a stale connection that an import has brought to
	// light; through Temporal if nil.
	Report func(ctx context.Context, in reauth.Input) error
	// Outbound says where webhooks and the chat's messages may go besides public
	// addresses.
	Outbound outbound.Guard
	// Clock, if any, is what cases live by instead of the real one. The Now of
	// the activities must be its own.
	Clock  *clock.Fast
	Logger *slog.Logger
}

// Receiver is where the events about an application's connections go.
type Receiver struct{ Application, URL, Secret string }

// couriers makes one courier for each receiver, so that one that is down holds
// no other up.
func (c Config) couriers() ([]*courier, error) {
	var all []*courier
	add := func(part db.OutboxPart, url, secret string) error {
		courier, err := newCourier(part, url, secret, c.Outbound, c.Logger)
		if err != nil {
			return err
		}
		courier.people = peopleOf(c.Activities)
		all = append(all, courier)
		return nil
	}
	others := db.OutboxPart{DB: c.DB}
	for _, r := range c.Receivers {
		others.Except = append(others.Except, r.Application)
		if err := add(db.OutboxPart{DB: c.DB, Only: r.Application}, r.URL, r.Secret); err != nil {
			return nil, fmt.Errorf("the webhook of the application %s: %w", r.Application, err)
		}
	}
	if c.WebhookURL == "" {
		return all, nil
	}
	return all, add(others, c.WebhookURL, c.WebhookSecret)
}

// Registry is what workflows and activities are registered with: a worker, a
// replayer or a test environment.
type Registry interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
	RegisterActivity(a any)
}

// Register registers the project's workflows and activities under the names of
// the contract.
func Register(r Registry, acts *activities.Activities) {
	RegisterWorkflows(r)
	r.RegisterActivity(acts)
}

// WorkflowRegistry is the part of Registry that a replayer has.
type WorkflowRegistry interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
}

// RegisterWorkflows registers the workflows alone, as replaying needs them.
func RegisterWorkflows(r WorkflowRegistry) {
	r.RegisterWorkflowWithOptions(workflows.ReauthWorkflow, workflow.RegisterOptions{Name: reauth.WorkflowType})
	r.RegisterWorkflowWithOptions(workflows.RedeemWorkflow, workflow.RegisterOptions{Name: reauth.RedeemWorkflowType})
	r.RegisterWorkflowWithOptions(workflows.FindConnectionWorkflow, workflow.RegisterOptions{Name: reauth.FindConnectionWorkflowType})
	r.RegisterWorkflowWithOptions(workflows.StormWorkflow, workflow.RegisterOptions{Name: reauth.StormWorkflowType})
	r.RegisterWorkflowWithOptions(workflows.SweepWorkflow, workflow.RegisterOptions{Name: reauth.SweepWorkflowType})
	r.RegisterWorkflowWithOptions(workflows.MailWorkflow, workflow.RegisterOptions{Name: reauth.MailWorkflowType})
	r.RegisterWorkflowWithOptions(workflows.BulkWorkflow, workflow.RegisterOptions{Name: reauth.BulkWorkflowType})
}

// Run works until ctx ends, and lets activities finish then.
func Run(ctx context.Context, c Config) error {
	if c.TaskQueue == "" {
		c.TaskQueue = reauth.TaskQueue
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	options := worker.Options{
		WorkerStopTimeout: stopWithin,
		OnFatalError:      func(err error) { cancel(fmt.Errorf("the worker stopped: %w", err)) },
	}
	if c.Clock != nil {
		options.Interceptors = []interceptor.WorkerInterceptor{c.Clock.Interceptor()}
	}
	w := worker.New(c.Temporal, c.TaskQueue, options)
	Register(w, c.Activities)
	if err := w.Start(); err != nil {
		return fmt.Errorf("start the worker on task queue %s: %w", c.TaskQueue, err)
	}
	defer w.Stop()
	// What goes on beside the cases ends with them, and is waited for.
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	if c.DB != nil {
		control := newControl(c.DB, starter.New(c.Temporal, starter.WithTaskQueue(c.TaskQueue)), c.Logger)
		beside.Go(func() { control.run(ctx) })
	}
	couriers, err := c.couriers()
	if err != nil {
		return err
	}
	for _, courier := range couriers {
		beside.Go(func() { courier.run(ctx) })
	}
	if c.Chat != "" {
		herald, err := newHerald(c.DB, c.Chat, c.Outbound, chatLinks(c.TemporalUIURL, c.Namespace), c.Logger, c.Activities.Now)
		if err != nil {
			return err
		}
		beside.Go(func() { herald.run(ctx) })
	}
	if c.Report == nil {
		c.Report = starter.New(c.Temporal, starter.WithTaskQueue(c.TaskQueue)).Reporter()
	}
	if c.DB != nil {
		registrar := newRegistrar(c.DB, c.Activities, c.Report, c.ImportPace, c.Logger)
		beside.Go(func() { registrar.run(ctx) })
	}
	c.Logger.InfoContext(ctx, "The worker is at work", "task_queue", c.TaskQueue)
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// RegisterSearchAttributes makes the search attributes of cases known to a
// namespace. Those that are known already stay as they are.
func RegisterSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	keywords := map[string]enumspb.IndexedValueType{}
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list Temporal's search attributes: %w", err)
	}
	for _, name := range []string{reauth.SearchAttributeConnectionID, reauth.SearchAttributeProvider, reauth.SearchAttributePhase} {
		if _, ok := known.GetCustomAttributes()[name]; !ok {
			keywords[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
		}
	}
	if len(keywords) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: keywords,
	})
	var exists *serviceerror.AlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("add search attributes to Temporal: %w", err)
	}
	return nil
}
