package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

// dial connects to Temporal for one call of a person, who wants to hear at
// once if it cannot be reached.
func dial(ctx context.Context, keyset string) (client.Client, error) {
	c, _, err := dialNamespace(ctx, keyset)
	return c, err
}

// dialNamespace is dial that tells the namespace, too.
func dialNamespace(ctx context.Context, keyset string) (c client.Client, namespace string, err error) {
	var keys *secrets.Keys
	if keyset != "" {
		if keys, err = secrets.Load(keyset, keyServices()...); err != nil {
			return nil, "", malformed("REAUTH_KEYSET", err)
		}
	}
	options, err := temporalOptions(keys, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if c, err = client.DialContext(ctx, options); err != nil {
		return nil, "", fmt.Errorf("reaching Temporal at %s (TEMPORAL_ADDRESS names another one): %w", options.HostPort, err)
	}
	return c, options.Namespace, nil
}

type startCommand struct {
	clientKeySettings
	ConnectionID     string   `arg:"" help:"The provider's connection_id."`
	Source           string   `default:"manual" help:"Whose evidence this is: manual, api_error, webhook, sweep, consent_expiry or link."`
	FinchCode        string   `help:"The provider's error code, as reauthenticate_user."`
	Reason           string   `help:"Why, in words, for the case's timeline."`
	TokenFingerprint string   `help:"Fingerprint of the token that failed."`
	MinutesToExpire  int      `help:"Minutes until the Connect session ends."`
	Renewals         *int     `help:"How often the case opens a further session."`
	RedirectURI      string   `name:"redirect-uri" help:"Where Connect sends the browser afterwards."`
	Products         []string `help:"Products to ask for."`
	Reminders        []string `help:"When notices go out, as 0s,48h,9d,-24h."`
	TaskQueue        string   `env:"REAUTH_TASK_QUEUE" default:"reauth" help:"Temporal task queue."`
	JSON             bool     `help:"Print JSON."`
}

func (c *startCommand) Run(ctx context.Context, s streams) error {
	in := reauth.Input{
		ConnectionID: c.ConnectionID, Source: reauth.Source(c.Source), FinchCode: c.FinchCode, Reason: c.Reason,
		TokenFingerprint: c.TokenFingerprint, MinutesToExpire: c.MinutesToExpire, Renewals: c.Renewals,
		RedirectURI: c.RedirectURI, Products: c.Products, Reminders: c.Reminders,
	}
	if err := in.Check(); err != nil {
		return usageError{err}
	}
	temporal, err := dial(ctx, c.Keyset)
	if err != nil {
		return err
	}
	defer temporal.Close()
	reported, err := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue)).Report(ctx, in)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, map[string]any{"case_id": reported.CaseID, "workflow_id": reported.WorkflowID, "created": reported.Created})
	}
	what := "a case is open already"
	if reported.Created {
		what = "a case is opened"
	}
	_, err = fmt.Fprintf(s.out, "%s: workflow %s, case %s\n", what, reported.WorkflowID, reported.CaseID)
	return err
}

type statusCommand struct {
	clientKeySettings
	Database     string `env:"DATABASE_URL" hidden:""`
	ConnectionID string `arg:"" help:"The provider's connection_id."`
	TaskQueue    string `env:"REAUTH_TASK_QUEUE" default:"reauth" help:"Temporal task queue."`
	JSON         bool   `help:"Print JSON."`
}

func (c *statusCommand) Run(ctx context.Context, s streams) error {
	if err := reauth.CheckConnectionID(c.ConnectionID); err != nil {
		return usageError{err}
	}
	temporal, err := dial(ctx, c.Keyset)
	if err != nil {
		return err
	}
	defer temporal.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	status, err := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue)).Status(ctx, c.ConnectionID)
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound), errors.Is(err, starter.ErrNoOpenCase):
		return fmt.Errorf("no case of connection %s is known to Temporal", c.ConnectionID)
	case err != nil:
		return fmt.Errorf("asking for the case's status (a worker must run to answer): %w", err)
	}
	if status.Outcome == "" && c.Database != "" {
		if mode, err := mailMode(ctx, c.Database); err == nil && mode != reauth.MailOn {
			status.Mail = string(mode) // the case itself knows how its last notice found things
		}
	}
	if c.JSON {
		return printJSON(s.out, status)
	}
	return printStatus(s.out, status)
}

// mailMode reads whether mail goes out, where there is a database to read it from.
func mailMode(ctx context.Context, url string) (reauth.MailMode, error) {
	database, err := db.Open(ctx, url)
	if err != nil {
		return "", err
	}
	defer database.Close()
	control, err := database.Mail(ctx)
	return control.Mode, err
}

func printStatus(w io.Writer, status reauth.Status) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	row("connection", status.ConnectionID)
	row("case", status.CaseID)
	row("phase", string(status.Phase))
	row("outcome", string(status.Outcome))
	row("session", status.SessionID)
	row("session ends", when(status.SessionExpiresAt))
	row("deadline", when(status.DeadlineAt))
	row("next notice", when(status.NextNoticeAt))
	row("snoozed until", when(status.SnoozedUntil))
	row("mail", mailWords[status.Mail])
	row("notices sent", fmt.Sprint(status.NoticesSent))
	row("generation", fmt.Sprint(status.Generation))
	row("last error", status.LastError)
	return table.Flush()
}

// mailWords say how a case's last notice found mail, where it was not simply on.
var mailWords = map[string]string{
	"shadow":  "in shadow: nobody is written to",
	"stopped": "STOPPED: every step waits until mail is switched on again",
	"ramp":    "the first notice waits for its turn",
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
