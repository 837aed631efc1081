package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
)

// mostListed is how many events a list shows at most.
const mostListed = 500

type webhooksCommand struct {
	List   webhooksListCommand   `cmd:"" help:"List the events for your backend, the newest first, and what became of them."`
	Replay webhooksReplayCommand `cmd:"" help:"Deliver events once more, each under its old ID."`
}

type webhooksListCommand struct {
	databaseSettings
	State      string `placeholder:"STATE" help:"Only those that are waiting, delivered or abandoned."`
	Case       string `placeholder:"ID" help:"Only those of a case."`
	Connection string `placeholder:"ID" help:"Only those of a connection."`
	Since      string `placeholder:"TIME" help:"Only those made at this time or later: 2026-11-21T08:00:00Z, 2026-11-21, or an age as 36h or 2d."`
	Limit      int    `default:"50" placeholder:"N" help:"How many, 500 at most."`
	JSON       bool   `help:"Print JSON."`
}

func (c *webhooksListCommand) Run(ctx context.Context, s streams) error {
	filter, err := c.filter(time.Now())
	if err != nil {
		return usageError{err}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	list, err := database.Outbox(ctx, filter, c.Limit)
	if err != nil {
		return fmt.Errorf("listing the webhooks: %w", err)
	}
	if c.JSON {
		return printJSON(s.out, webhooksOf(list))
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.err, "no event matches")
		return err
	}
	if err := printWebhooks(s.out, list); err != nil {
		return err
	}
	if len(list) == c.Limit {
		fmt.Fprintf(s.err, "these are the newest %d; there may be more (--limit)\n", c.Limit)
	}
	return nil
}

func (c *webhooksListCommand) filter(now time.Time) (db.OutboxFilter, error) {
	states := []db.OutboxState{"", db.OutboxWaiting, db.OutboxDelivered, db.OutboxAbandoned}
	if !slices.Contains(states, db.OutboxState(c.State)) {
		return db.OutboxFilter{}, fmt.Errorf("--state must be waiting, delivered or abandoned, and not %q", c.State)
	}
	if c.Limit < 1 || c.Limit > mostListed {
		return db.OutboxFilter{}, fmt.Errorf("--limit must be from 1 to %d", mostListed)
	}
	since, err := moment("--since", c.Since, now)
	return db.OutboxFilter{State: db.OutboxState(c.State), CaseID: c.Case, ConnectionID: c.Connection, Since: since}, err
}

type webhooksReplayCommand struct {
	databaseSettings
	Event     string `placeholder:"ID" help:"The event of this ID."`
	Case      string `placeholder:"ID" help:"All events of a case."`
	Since     string `placeholder:"TIME" help:"All events made at this time or later: 2026-11-21T08:00:00Z, 2026-11-21, or an age as 36h or 2d."`
	Until     string `placeholder:"TIME" help:"With --since: only those made before this time."`
	Type      string `placeholder:"TYPE" help:"With --since: only those of a type, as reauth.case.closed."`
	Abandoned bool   `help:"All events that were given up."`
}

func (c *webhooksReplayCommand) Run(ctx context.Context, s streams) error {
	now := time.Now()
	filter, err := c.filter(now)
	if err != nil {
		return usageError{err}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	n, err := database.ReplayOutbox(ctx, filter, now)
	if err != nil {
		return fmt.Errorf("replaying the webhooks: %w", err)
	}
	switch {
	case n == 0 && c.Event != "":
		return fmt.Errorf("no event has the ID %s; `reauth webhooks list` shows them", c.Event)
	case n == 0 && c.Case != "":
		return fmt.Errorf("no event of a case %s is known", c.Case)
	}
	events := "events"
	if n == 1 {
		events = "event"
	}
	_, err = fmt.Fprintf(s.out, "%d %s will be delivered once more, under the same webhook-id\n", n, events)
	return err
}

func (c *webhooksReplayCommand) filter(now time.Time) (db.OutboxFilter, error) {
	given := 0
	for _, is := range []bool{c.Event != "", c.Case != "", c.Since != "", c.Abandoned} {
		if is {
			given++
		}
	}
	if given != 1 {
		return db.OutboxFilter{}, errors.New("say which events: exactly one of --event, --case, --since and --abandoned")
	}
	if c.Since == "" && (c.Until != "" || c.Type != "") {
		return db.OutboxFilter{}, errors.New("--until and --type go with --since")
	}
	filter := db.OutboxFilter{ID: c.Event, CaseID: c.Case, Type: c.Type}
	if c.Abandoned {
		filter.State = db.OutboxAbandoned
	}
	var err error
	if filter.Since, err = moment("--since", c.Since, now); err != nil {
		return filter, err
	}
	if filter.Until, err = moment("--until", c.Until, now); err != nil {
		return filter, err
	}
	if !filter.Until.IsZero() && !filter.Until.After(filter.Since) {
		return filter, errors.New("--until must be after --since")
	}
	return filter, nil
}

// moment reads a time in one of the forms that the flags name; none is the zero
// time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC(), nil
		}
	}
	age, err := time.ParseDuration(text)
	if days, found := strings.CutSuffix(text, "d"); found {
		var n int
		n, err = strconv.Atoi(days)
		age = time.Duration(min(max(n, 0), 36500)) * 24 * time.Hour
	}
	if err != nil || age <= 0 {
		return time.Time{}, fmt.Errorf("%s must be a time as 2026-11-21T08:00:00Z or 2026-11-21, or an age as 36h or 2d, and not %q", flag, text)
	}
	return now.Add(-age).UTC(), nil
}

// listedWebhook is an event as JSON shows it.
type listedWebhook struct {
	ID           string         `json:"id"`
	Type         string         `json:"type"`
	CaseID       string         `json:"case_id,omitempty"`
	ConnectionID string         `json:"connection_id,omitempty"`
	State        db.OutboxState `json:"state"`
	Attempts     int            `json:"attempts"`
	CreatedAt    time.Time      `json:"created_at"`
	QueuedAt     time.Time      `json:"queued_at"`
	DueAt        *time.Time     `json:"due_at,omitempty"`
	DeliveredAt  *time.Time     `json:"delivered_at,omitempty"`
	AbandonedAt  *time.Time     `json:"abandoned_at,omitempty"`
	LastError    string         `json:"last_error,omitempty"`
}

func webhooksOf(list []db.OutboxRow) []listedWebhook {
	listed := make([]listedWebhook, len(list))
	for i, row := range list {
		listed[i] = listedWebhook{
			ID: row.ID, Type: row.Type, CaseID: row.CaseID, ConnectionID: row.ConnectionID, State: row.State, Attempts: row.Attempts,
			CreatedAt: row.CreatedAt, QueuedAt: row.QueuedAt, DeliveredAt: row.DeliveredAt, AbandonedAt: row.AbandonedAt, LastError: row.LastError,
		}
		if row.State == db.OutboxWaiting {
			listed[i].DueAt = row.DueAt
		}
	}
	return listed
}

func printWebhooks(w io.Writer, list []db.OutboxRow) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MADE\tTYPE\tEVENT\tSTATE\tTRIES\tPROBLEM")
	for _, row := range list {
		state := "waits behind an earlier one of its case"
		switch {
		case row.State == db.OutboxDelivered:
			state = "delivered " + when(row.DeliveredAt)
		case row.State == db.OutboxAbandoned:
			state = "abandoned " + when(row.AbandonedAt)
		case row.DueAt != nil:
			state = "waiting, due " + when(row.DueAt)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", when(&row.CreatedAt), row.Type, row.ID, state, row.Attempts, cmp.Or(row.LastError, "-"))
	}
	return table.Flush()
}
