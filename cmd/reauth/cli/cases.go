package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// casesCommand lists cases, and asks the same of many. It needs the database; a
// worker does what is asked.
type casesCommand struct {
	List    casesListCommand    `cmd:"" help:"List open cases, the newest first."`
	Cancel  casesCancelCommand  `cmd:"" help:"Call many cases off."`
	Snooze  casesSnoozeCommand  `cmd:"" help:"Hold the notices of many cases until a time."`
	Release casesReleaseCommand `cmd:"" help:"End whatever holds the notices of many cases: snooze, storm, stop, ramp."`
	Stop    casesStopCommand    `cmd:"" help:"Stop the notices of many cases, which stay open."`
	Bulk    casesBulkCommand    `cmd:"" help:"Show how far it has come what was asked of many cases."`
}

type casesFilter struct {
	Provider    string `placeholder:"NAME" help:"Only cases of this provider, as finch."`
	Application string `placeholder:"NAME" help:"Only cases of this application."`
	System      string `placeholder:"NAME" help:"Only cases of connections to this employment system."`
	Phase       string `placeholder:"PHASE" help:"Only cases in this phase, as blocked."`
}

func (f casesFilter) filter() (db.BulkFilter, error) {
	switch phase := reauth.Phase(f.Phase); phase {
	case "", reauth.PhaseConfirming, reauth.PhaseAwaitingCustomer, reauth.PhaseRedeeming, reauth.PhaseVerifying, reauth.PhaseBlocked:
		return db.BulkFilter{Provider: reauth.Provider(f.Provider), Application: f.Application, System: f.System, Phase: phase}, nil
	}
	return db.BulkFilter{}, usageError{errors.New("--phase must be confirming, awaiting_customer, redeeming, verifying or blocked")}
}

type casesListCommand struct {
	databaseSettings
	casesFilter
	Closed bool `help:"Closed ones, too."`
	Limit  int  `default:"50" placeholder:"N" help:"How many, 500 at most."`
	JSON   bool `help:"Print JSON."`
}

func (c *casesListCommand) Run(ctx context.Context, s streams) error {
	if c.Limit < 1 || c.Limit > mostListed {
		return usageError{fmt.Errorf("--limit must be from 1 to %d", mostListed)}
	}
	f, err := c.filter()
	if err != nil {
		return err
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	list, next, err := database.Cases(ctx, db.CaseFilter{
		Provider: f.Provider, Application: f.Application, System: f.System, Phase: f.Phase, Open: !c.Closed,
	}, "", c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, shownCases(list))
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.err, "no case matches")
		return err
	}
	if err := printCases(s.out, list); err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(s.err, "these are the newest %d; there are more (--limit)\n", len(list))
	}
	return nil
}

type shownCase struct {
	CaseID       string         `json:"case_id"`
	ConnectionID string         `json:"connection_id"`
	Provider     string         `json:"provider"`
	Application  string         `json:"application"`
	Phase        reauth.Phase   `json:"phase"`
	Outcome      reauth.Outcome `json:"outcome,omitempty"`
	NoticesSent  int            `json:"notices_sent"`
	NextNoticeAt *time.Time     `json:"next_notice_at"`
	Waits        string         `json:"waits,omitempty"`
	OpenedAt     time.Time      `json:"opened_at"`
}

func shownCases(list []db.Case) []shownCase {
	shown := make([]shownCase, len(list))
	for i, c := range list {
		shown[i] = shownCase{c.CaseID, c.ConnectionID, string(c.Provider), c.Application, c.Phase, c.Outcome, c.NoticesSent, c.NextNoticeAt, c.Waits, c.OpenedAt}
	}
	return shown
}

func printCases(w io.Writer, list []db.Case) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "OPENED\tCONNECTION\tCUSTOMER\tAPPLICATION\tSTATE\tTOLD\tNEXT NOTICE")
	for _, c := range list {
		state, next := string(c.Phase), when(c.NextNoticeAt)
		switch {
		case c.Outcome != "":
			state = string(c.Outcome)
		case c.Waits == "stopped":
			next = "once mail is on again"
		case c.Waits == "ramp":
			next += " (its turn)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", when(&c.OpenedAt), c.ConnectionID, cmp.Or(c.CustomerName, "-"), c.Application, state, c.NoticesSent, cmp.Or(next, "-"))
	}
	return table.Flush()
}

// askSettings are what asking the same of many cases needs.
type askSettings struct {
	databaseSettings
	casesFilter
	All    bool   `help:"Every open case. It must be said: without a filter nothing is done."`
	Reason string `placeholder:"TEXT" help:"Why, for the timelines; needed."`
	DryRun bool   `help:"Only count the cases that fit."`
	Wait   bool   `help:"Wait until every case was told."`
	JSON   bool   `help:"Print JSON."`
}

type casesCancelCommand struct{ askSettings }

type casesReleaseCommand struct{ askSettings }

type casesStopCommand struct{ askSettings }

type casesSnoozeCommand struct {
	Until string `required:"" placeholder:"TIME" help:"Until when, as 2027-01-31T09:00:00Z or 2027-01-31."`
	askSettings
}

func (c *casesCancelCommand) Run(ctx context.Context, s streams) error {
	return c.ask(ctx, s, reauth.BulkCancel, nil)
}

func (c *casesReleaseCommand) Run(ctx context.Context, s streams) error {
	return c.ask(ctx, s, reauth.BulkRelease, nil)
}

func (c *casesStopCommand) Run(ctx context.Context, s streams) error {
	return c.ask(ctx, s, reauth.BulkStop, nil)
}

func (c *casesSnoozeCommand) Run(ctx context.Context, s streams) error {
	until, err := time.Parse(time.RFC3339, c.Until)
	if err != nil {
		until, err = time.Parse(time.DateOnly, c.Until)
	}
	if now := time.Now(); err != nil || !until.After(now) || until.After(now.AddDate(1, 0, 1)) {
		return usageError{errors.New("--until must be a time as 2027-01-31T09:00:00Z or 2027-01-31, in the future and at most a year ahead")}
	}
	until = until.UTC()
	return c.ask(ctx, s, reauth.BulkSnooze, &until)
}

func (c *askSettings) ask(ctx context.Context, s streams, action reauth.BulkAction, until *time.Time) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	reason, err := oneLine("--reason", c.Reason)
	switch none := f == (db.BulkFilter{}); {
	case err != nil:
		return err
	case reason == "":
		return usageError{errors.New("--reason is missing; the cases' timelines say it")}
	case none && !c.All:
		return usageError{errors.New("choose cases by --provider, --application, --system or --phase, or ask for every open one with --all")}
	case !none && c.All:
		return usageError{errors.New("--all stands alone: leave it out, or the filter")}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	if c.DryRun {
		n, err := database.CountBulk(ctx, f)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s.out, map[string]any{"action": action, "dry_run": true, "matched": n})
		}
		_, err = fmt.Fprintf(s.out, "%d open cases match; nothing was asked of them\n", n)
		return err
	}
	b, err := database.AddBulk(ctx, db.Bulk{
		Action: action, BulkFilter: f, Every: c.All, Reason: reason, By: whoAmI(), Until: until, CreatedAt: time.Now(),
	})
	if err != nil {
		return err
	}
	for c.Wait && b.EndedAt == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		if b, err = database.BulkByID(ctx, b.BulkID); err != nil {
			return err
		}
	}
	return printBulk(s.out, b, c.JSON)
}

type casesBulkCommand struct {
	databaseSettings
	ID   string `arg:"" optional:"" name:"id" help:"The one of this ID; without it the newest."`
	JSON bool   `help:"Print JSON."`
}

func (c *casesBulkCommand) Run(ctx context.Context, s streams) error {
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	if c.ID == "" {
		list, err := database.Bulks(ctx, 1)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(s.err, "nothing was ever asked of many cases")
			return err
		}
		return printBulk(s.out, list[0], c.JSON)
	}
	b, err := database.BulkByID(ctx, c.ID)
	if errors.Is(err, db.ErrNotFound) {
		return fmt.Errorf("nothing of the ID %s was asked of many cases", c.ID)
	}
	if err != nil {
		return err
	}
	return printBulk(s.out, b, c.JSON)
}

type shownBulk struct {
	BulkID     string            `json:"bulk_id"`
	Action     reauth.BulkAction `json:"action"`
	Matched    int               `json:"matched"`
	Told       int               `json:"told"`
	Gone       int               `json:"gone"`
	Reason     string            `json:"reason"`
	By         string            `json:"by"`
	CreatedAt  time.Time         `json:"created_at"`
	StartedAt  *time.Time        `json:"started_at"`
	EndedAt    *time.Time        `json:"ended_at"`
	EndedHow   string            `json:"ended_how,omitempty"`
	WorkflowID string            `json:"workflow_id"`
}

func printBulk(w io.Writer, b db.Bulk, asJSON bool) error {
	if asJSON {
		return printJSON(w, shownBulk{b.BulkID, b.Action, b.Matched, b.Told, b.Gone, b.Reason, b.By, b.CreatedAt, b.StartedAt, b.EndedAt, b.EndedHow, reauth.BulkWorkflowID(b.BulkID)})
	}
	state := "waits for a worker to begin it"
	switch {
	case b.EndedAt != nil:
		state = "ended: " + b.EndedHow
	case b.StartedAt != nil:
		state = "under way"
	}
	_, err := fmt.Fprintf(w, "%s %d open cases: %s\n%d were told, %d had ended before; `reauth cases bulk %s` says how far it has come\n", b.Action, b.Matched, state, b.Told, b.Gone, b.BulkID)
	return err
}
