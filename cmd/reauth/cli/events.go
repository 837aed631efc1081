package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
)

type eventsCommand struct {
	List eventsListCommand `cmd:"" help:"List what Finch has told us, the newest first, and what became of it."`
}

type eventsListCommand struct {
	databaseSettings
	State      string `placeholder:"STATE" help:"Only those that are waiting, done, ignored or abandoned."`
	Connection string `placeholder:"ID" help:"Only those of a connection."`
	Since      string `placeholder:"TIME" help:"Only those that arrived at this time or later: 2026-11-21T08:00:00Z, 2026-11-21, or an age as 36h or 2d."`
	Limit      int    `default:"50" placeholder:"N" help:"How many, 500 at most."`
	JSON       bool   `help:"Print JSON."`
}

func (c *eventsListCommand) Run(ctx context.Context, s streams) error {
	filter, err := c.filter(time.Now())
	if err != nil {
		return usageError{err}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	list, err := database.Webhooks(ctx, filter, c.Limit)
	if err != nil {
		return fmt.Errorf("listing the events: %w", err)
	}
	if c.JSON {
		return printJSON(s.out, eventsOf(list))
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.err, "no event matches")
		return err
	}
	if err := printEvents(s.out, list); err != nil {
		return err
	}
	if len(list) == c.Limit {
		fmt.Fprintf(s.err, "these are the newest %d; there may be more (--limit)\n", c.Limit)
	}
	return nil
}

func (c *eventsListCommand) filter(now time.Time) (db.WebhookFilter, error) {
	states := []db.WebhookState{"", db.WebhookWaiting, db.WebhookDone, db.WebhookIgnored, db.WebhookAbandoned}
	if !slices.Contains(states, db.WebhookState(c.State)) {
		return db.WebhookFilter{}, fmt.Errorf("--state must be waiting, done, ignored or abandoned, and not %q", c.State)
	}
	if c.Limit < 1 || c.Limit > mostListed {
		return db.WebhookFilter{}, fmt.Errorf("--limit must be from 1 to %d", mostListed)
	}
	since, err := moment("--since", c.Since, now)
	return db.WebhookFilter{State: db.WebhookState(c.State), ConnectionID: c.Connection, Since: since}, err
}

// listedEvent is an event of Finch's as JSON shows it.
type listedEvent struct {
	ID           string          `json:"id"`
	Type         string          `json:"type"`
	ConnectionID string          `json:"connection_id,omitempty"`
	EntityID     string          `json:"entity_id,omitempty"`
	Status       string          `json:"status,omitempty"`
	JobID        string          `json:"job_id,omitempty"`
	State        db.WebhookState `json:"state"`
	Result       string          `json:"result,omitempty"`
	CaseID       string          `json:"case_id,omitempty"`
	Attempts     int             `json:"attempts"`
	ReceivedAt   time.Time       `json:"received_at"`
	ProcessedAt  *time.Time      `json:"processed_at,omitempty"`
	LastError    string          `json:"last_error,omitempty"`
	Body         string          `json:"body,omitempty"`
}

func eventsOf(list []db.Webhook) []listedEvent {
	listed := make([]listedEvent, len(list))
	for i, w := range list {
		listed[i] = listedEvent{
			ID: w.EventID, Type: w.Type, ConnectionID: w.ConnectionID, EntityID: w.EntityID, Status: w.Status, JobID: w.JobID, State: w.State,
			Result: w.Result, CaseID: w.CaseID, Attempts: w.Attempts, ReceivedAt: w.ReceivedAt, ProcessedAt: w.ProcessedAt, LastError: w.LastError, Body: w.Body,
		}
	}
	return listed
}

func printEvents(w io.Writer, list []db.Webhook) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ARRIVED\tCONNECTION\tSAID\tSTATE\tRESULT\tTRIES\tPROBLEM")
	for _, e := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", when(&e.ReceivedAt), cmp.Or(e.ConnectionID, "-"), cmp.Or(e.Status, e.Type, "-"),
			e.State, cmp.Or(e.Result, "-"), e.Attempts, cmp.Or(e.LastError, "-"))
	}
	return table.Flush()
}
