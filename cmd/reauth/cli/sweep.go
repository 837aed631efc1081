package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

type sweepCommand struct {
	clientKeySettings
	Connection []string `placeholder:"ID" help:"Check this connection, whenever it was checked last; may be given more than once. Without any, all that are due."`
	All        bool     `help:"Check all connections, however young their last check is."`
	Wait       bool     `default:"true" negatable:"" help:"Show the progress, and wait for the result."`
	Every      string   `default:"24h" help:"How often each connection is to be checked, which says what is due."`
	TaskQueue  string   `env:"REAUTH_TASK_QUEUE" default:"reauth" help:"Temporal task queue."`
	JSON       bool     `help:"Print JSON."`
}

// Workflow IDs of sweeps that a person starts: a sweep of all is joined by who
// asks for another.
const (
	sweepByHand = reauth.SweepWorkflowID + "-by-hand"
	// askProgress is how often a sweep is asked how far it has come.
	askProgress = time.Second
)

func (c *sweepCommand) Run(ctx context.Context, s streams) error {
	in := reauth.SweepInput{Every: c.Every, All: c.All, ConnectionIDs: c.Connection}
	if err := in.Check(); err != nil {
		return usageError{err}
	}
	if c.All && len(c.Connection) > 0 {
		return usageError{errors.New("--all and --connection do not go together")}
	}
	id := sweepByHand
	if len(c.Connection) > 0 {
		id += "-" + strings.ToLower(rand.Text()[:8])
	}
	temporal, err := dial(ctx, c.Keyset)
	if err != nil {
		return err
	}
	defer temporal.Close()
	sweeping, err := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue)).Sweep(ctx, id, in)
	if err != nil {
		return err
	}
	if !c.Wait {
		if c.JSON {
			return printJSON(s.out, map[string]any{"workflow_id": sweeping.WorkflowID, "run_id": sweeping.RunID, "started": sweeping.Started})
		}
		what := "joined the sweep that runs already"
		if sweeping.Started {
			what = "started a sweep"
		}
		_, err := fmt.Fprintf(s.out, "%s: workflow %s\n", what, sweeping.WorkflowID)
		return err
	}
	if !sweeping.Started {
		fmt.Fprintf(s.err, "joined the sweep that runs already: workflow %s\n", sweeping.WorkflowID)
	}
	status, err := await(ctx, temporal, sweeping, s.err)
	switch {
	case err != nil:
		return err
	case c.JSON:
		err = printJSON(s.out, status)
	default:
		_, err = fmt.Fprintln(s.out, status.Words(time.Now()))
	}
	if err == nil && status.Trouble != "" {
		return errors.New("the sweep ended early: " + status.Trouble)
	}
	return err
}

// await shows how far a sweep has come until it is done.
func await(ctx context.Context, c client.Client, sweeping starter.Sweeping, progress io.Writer) (reauth.SweepStatus, error) {
	type ended struct {
		status reauth.SweepStatus
		err    error
	}
	done := make(chan ended, 1)
	go func() {
		var e ended
		e.err = c.GetWorkflow(ctx, sweeping.WorkflowID, sweeping.RunID).Get(ctx, &e.status)
		done <- e
	}()
	tick := time.NewTicker(askProgress)
	defer tick.Stop()
	said := ""
	for {
		select {
		case e := <-done:
			if e.err != nil {
				return e.status, fmt.Errorf("waiting for the sweep, which goes on (workflow %s): %w", sweeping.WorkflowID, e.err)
			}
			return e.status, nil
		case <-tick.C:
			if line := progressOf(ctx, c, sweeping.WorkflowID); line != "" && line != said {
				fmt.Fprintln(progress, line)
				said = line
			}
		}
	}
}

// progressOf says in a line how far a sweep has come; nothing if it cannot be
// said just now.
func progressOf(ctx context.Context, c client.Client, workflowID string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := c.QueryWorkflow(ctx, workflowID, "", reauth.QueryStatus)
	var status reauth.SweepStatus
	if err != nil || answer.Get(&status) != nil {
		return ""
	}
	described, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil || described.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return ""
	}
	batch := batchOf(described)
	counts := status.SweepCounts
	counts.Add(batch.SweepCounts)
	line := counts.Words()
	if batch.Waits != "" {
		line += " Waiting: " + batch.Waits
	}
	return line
}

// batchOf reads how far the batch has come that is under way. What it says is
// never encrypted.
func batchOf(described *workflowservice.DescribeWorkflowExecutionResponse) (p reauth.SweepProgress) {
	for _, activity := range described.GetPendingActivities() {
		if details := activity.GetHeartbeatDetails(); len(details.GetPayloads()) > 0 {
			_ = converter.GetDefaultDataConverter().FromPayloads(details, &p)
		}
	}
	return p
}
