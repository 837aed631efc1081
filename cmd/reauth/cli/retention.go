package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// retentionSettings say how long what is over is kept.
type retentionSettings struct {
	Retention string `env:"REAUTH_RETENTION" default:"on" placeholder:"KIND=TIME ..." help:"How long what is over is kept, or off; docs/privacy.md says what can be chosen."`
}

func checkRetention(value string) error {
	_, _, err := reauth.ParseRetention(value)
	return err
}

// keep reads the setting, which was checked before.
func (s retentionSettings) keep() (keep reauth.Retention, on bool) {
	keep, on, _ = reauth.ParseRetention(s.Retention)
	return keep, on
}

type retentionCommand struct {
	retentionSettings
	DatabaseURL string `env:"DATABASE_URL" hidden:"" help:"URL of the PostgreSQL database, for --dry-run."`
	DryRun      bool   `help:"Count what would be deleted, and delete nothing."`
	Wait        bool   `default:"true" negatable:"" help:"Wait for the result."`
	TaskQueue   string `env:"REAUTH_TASK_QUEUE" default:"reauth" help:"Temporal task queue."`
	JSON        bool   `help:"Print JSON."`
}

const (
	// retentionByHand is the workflow ID of what a person starts.
	retentionByHand = reauth.RetentionWorkflowID + "-by-hand"
	// oldAtMost is how many old rows of a table are counted.
	oldAtMost = 1_000_000
)

func (c *retentionCommand) Run(ctx context.Context, s streams) error {
	keep, on := c.keep()
	if !on {
		return settingError{"REAUTH_RETENTION", "is off, so that nothing is ever deleted", rules()["REAUTH_RETENTION"].wants, rules()["REAUTH_RETENTION"].example}
	}
	if c.DryRun {
		return c.count(ctx, s, keep)
	}
	temporal, err := dial(ctx, "") // nothing in it needs encryption
	if err != nil {
		return err
	}
	defer temporal.Close()
	begun, err := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue)).Retain(ctx, retentionByHand, reauth.RetentionInput{Keep: keep})
	if err != nil {
		return err
	}
	if !begun.Started {
		fmt.Fprintf(s.err, "joined what runs already: workflow %s\n", begun.WorkflowID)
	}
	if !c.Wait {
		if c.JSON {
			return printJSON(s.out, map[string]any{"workflow_id": begun.WorkflowID, "run_id": begun.RunID, "started": begun.Started})
		}
		_, err := fmt.Fprintf(s.out, "workflow %s deletes what has been kept for long enough\n", begun.WorkflowID)
		return err
	}
	var status reauth.RetentionStatus
	if err := temporal.GetWorkflow(ctx, begun.WorkflowID, begun.RunID).Get(ctx, &status); err != nil {
		return fmt.Errorf("waiting for the retention, which goes on (workflow %s): %w", begun.WorkflowID, err)
	}
	if c.JSON {
		err = printJSON(s.out, status)
	} else {
		_, err = fmt.Fprintf(s.out, "deleted: %s\n", status.Deleted.Words())
	}
	if err == nil && status.Trouble != "" {
		return errors.New("not all could be deleted: " + status.Trouble)
	}
	return err
}

// count says what is old enough to go now. What goes with it, or because of it, is
// not counted.
func (c *retentionCommand) count(ctx context.Context, s streams, keep reauth.Retention) error {
	if c.DatabaseURL == "" {
		return missing("DATABASE_URL")
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	kinds := map[string]time.Duration{}
	for _, kind := range reauth.RetainedKinds() {
		kinds[kind.Name] = keep.Of(kind)
	}
	type line struct {
		Kind  string `json:"kind"`
		Table string `json:"table"`
		Days  int    `json:"kept_days"` // 0: for good
		Old   int    `json:"old"`
	}
	var lines []line
	for _, rows := range db.RetainedRows() {
		kept := kinds[rows.Kind]
		l := line{Kind: rows.Kind, Table: rows.Table, Days: int(kept.Hours() / 24)}
		if kept > 0 {
			if l.Old, err = database.Old(ctx, rows, time.Now().Add(-kept), oldAtMost); err != nil {
				return err
			}
		}
		lines = append(lines, l)
	}
	if c.JSON {
		return printJSON(s.out, lines)
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tTABLE\tKEPT\tWOULD GO")
	for _, l := range lines {
		kept := reauth.RetentionKeep
		if l.Days > 0 {
			kept = fmt.Sprintf("%dd", l.Days)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", l.Kind, l.Table, kept, l.Old)
	}
	return table.Flush()
}
