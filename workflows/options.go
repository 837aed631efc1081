package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// How patient each step is. Every activity sends a heartbeat every few
// seconds, so that a worker that was killed is noticed soon.
const heartbeat = 10 * time.Second

// undecidedAtMost is how long the provider may leave a report undecided before
// the operator is told.
const undecidedAtMost = 6 * time.Hour

func patience(first, most time.Duration) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{InitialInterval: first, BackoffCoefficient: 2, MaximumInterval: most}
}

// asking is for questions to the provider. Once the operator has been told, it
// goes on without an end, and slowly.
func asking(patient bool, summary string) workflow.ActivityOptions {
	options := workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: undecidedAtMost,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(2*time.Second, 5*time.Minute),
		Summary:                summary,
	}
	if patient {
		options.ScheduleToCloseTimeout = 0
		options.RetryPolicy = patience(15*time.Second, 30*time.Minute)
		options.Summary += " (slowly, until an operator has mended it)"
	}
	return options
}

func (c *reauthCase) confirming(patient bool) workflow.ActivityOptions {
	return asking(patient, "Ask "+c.providerName()+" whether the loss is real; if so, open a Connect session")
}

func (c *reauthCase) opening(patient bool) workflow.ActivityOptions {
	return asking(patient, "Open a fresh Connect session at "+c.providerName())
}

// noticing lets a step try until the next one of its kind is due, which then
// goes out in its place.
func (c *reauthCase) noticing(ctx workflow.Context, s step) workflow.ActivityOptions {
	until := workflow.Now(ctx).Add(24 * time.Hour)
	for _, next := range c.steps {
		if next.alike(s) && next.at.Before(until) {
			until = next.at
		}
	}
	if ends := c.sessionEnds(); ends.Before(until) {
		until = *ends
	}
	return workflow.ActivityOptions{
		StartToCloseTimeout:    5 * time.Minute,
		ScheduleToCloseTimeout: remaining(ctx, until, 30*time.Second),
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(5*time.Second, 10*time.Minute),
		Summary:                "Notice (" + s.Words() + "): look once more, then write to the customer",
	}
}

var looking = workflow.ActivityOptions{
	StartToCloseTimeout:    time.Minute,
	ScheduleToCloseTimeout: 2 * time.Minute,
	HeartbeatTimeout:       heartbeat,
	RetryPolicy:            patience(2*time.Second, 30*time.Second),
	Summary:                "Look whether access is back",
}

// redeeming lets an exchange try for as long as the code lives.
func redeeming(ctx workflow.Context, code activities.RedeemInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: remaining(ctx, code.ReceivedAt.Add(reauth.CodeLifetime), 10*time.Second),
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(time.Second, 15*time.Second),
		Summary:                "Exchange the code for a new token",
	})
}

// verifying never gives up in the end: a token must not be lost.
func verifying(ctx workflow.Context, atMost time.Duration) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: atMost,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(time.Second, time.Minute),
		Summary:                "Check whose token it is; store it only if the same connection came back",
	})
}

func working(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: verifyingAtMost,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(5*time.Second, time.Minute),
		Summary:                "Wait until the stored token works",
	})
}

// closingOptions never give up: a case without an outcome would block the next.
func (c *reauthCase) closingOptions(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 5 * time.Minute,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		Summary:             "Close the case as " + string(c.result.Outcome) + " and tell everyone who was alerted",
	})
}

// lookingUp insists on the database's answer.
func lookingUp(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: 24 * time.Hour,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(time.Second, time.Minute),
		Summary:                "Look whether the code had brought a token after all",
	})
}

// recording is for lines of the timeline.
func recording(ctx workflow.Context, what string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: 24 * time.Hour,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(time.Second, time.Minute),
		Summary:                "Put on record: " + what,
	})
}

func telling(ctx workflow.Context, problem string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    2 * time.Minute,
		ScheduleToCloseTimeout: time.Hour,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(5*time.Second, 10*time.Minute),
		Summary:                "Tell the operator: " + clip(problem, 100),
	})
}

func handingOver(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Second,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		Summary:             "Hand the sealed token to the case of its connection",
	})
}
