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
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
)

type quarantineCommand struct {
	List       quarantineListCommand       `cmd:"" help:"List tokens that were kept aside, the newest first."`
	Disconnect quarantineDisconnectCommand `cmd:"" help:"End a token's connection at the provider, and erase the token."`
	Forget     quarantineForgetCommand     `cmd:"" help:"Erase a token, and do nothing else."`
}

type quarantineListCommand struct {
	databaseSettings
	Ended bool `help:"Those that were erased, in place of those that are kept."`
	Limit int  `default:"50" placeholder:"N" help:"How many, 200 at most."`
	JSON  bool `help:"Print JSON."`
}

func (c *quarantineListCommand) Run(ctx context.Context, s streams) error {
	if c.Limit < 1 || c.Limit > 200 {
		return usageError{errors.New("--limit must be from 1 to 200")}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	list, next, err := database.QuarantinedTokens(ctx, c.Ended, "", c.Limit)
	if err != nil {
		return fmt.Errorf("listing the quarantine: %w", err)
	}
	switch {
	case c.JSON:
		return printJSON(s.out, quarantinedOf(list))
	case len(list) == 0:
		_, err := fmt.Fprintln(s.err, "no token is kept aside")
		return err
	}
	if err := printQuarantine(s.out, list); err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(s.err, "these are the newest %d; there are more (--limit)\n", c.Limit)
	}
	return nil
}

// listedToken is a token in quarantine as JSON shows it: never the token itself.
type listedToken struct {
	Fingerprint          string     `json:"fingerprint"`
	ConnectionID         string     `json:"connection_id,omitempty"`
	ExpectedConnectionID string     `json:"expected_connection_id,omitempty"`
	Application          string     `json:"application,omitempty"`
	Reason               string     `json:"reason"`
	CaseID               string     `json:"case_id,omitempty"`
	At                   time.Time  `json:"at"`
	EndedAt              *time.Time `json:"ended_at,omitempty"`
	EndedHow             string     `json:"ended_how,omitempty"`
	FinchCode            string     `json:"finch_code,omitempty"`
}

func quarantinedOf(list []db.QuarantinedToken) []listedToken {
	listed := make([]listedToken, len(list))
	for i, q := range list {
		listed[i] = listedToken{
			q.Fingerprint, q.ConnectionID, q.ExpectedConnectionID, q.Application, q.Reason, q.CaseID, q.At, q.EndedAt, string(q.EndedHow), q.FinchCode,
		}
	}
	return listed
}

func printQuarantine(w io.Writer, list []db.QuarantinedToken) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEPT SINCE\tTOKEN\tITS CONNECTION\tMEANT FOR\tWHY\tAPPLICATION\tENDED")
	for _, q := range list {
		ended := "-"
		if q.EndedAt != nil {
			ended = string(q.EndedHow) + " " + when(q.EndedAt)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(&q.At), q.Fingerprint, cmp.Or(q.ConnectionID, "unknown"),
			cmp.Or(q.ExpectedConnectionID, "unknown"), q.Reason, cmp.Or(q.Application, "-"), ended)
	}
	return table.Flush()
}

type quarantineDisconnectCommand struct {
	databaseSettings
	keySettings
	finchSettings
	applicationSettings
	Token string `arg:"" help:"The token's fingerprint, as the list shows it."`
}

func (c *quarantineDisconnectCommand) Run(ctx context.Context, s streams, p parts) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	further, err := c.further()
	if err != nil {
		return err
	}
	clients := tokenClients(c.finchSettings, further, p.unlimited)
	return quarantined(ctx, s, c.DatabaseURL, c.Token, func(e lifecycle.Ender) (db.QuarantinedToken, error) {
		e.Keys, e.Disconnect, e.Introspect = keys, disconnecter(clients), introspecter(clients)
		return e.DisconnectQuarantined(ctx, c.Token)
	})
}

type quarantineForgetCommand struct {
	databaseSettings
	Token string `arg:"" help:"The token's fingerprint, as the list shows it."`
}

func (c *quarantineForgetCommand) Run(ctx context.Context, s streams) error {
	return quarantined(ctx, s, c.DatabaseURL, c.Token, func(e lifecycle.Ender) (db.QuarantinedToken, error) {
		return e.ForgetQuarantined(ctx, c.Token)
	})
}

// quarantined ends a token in quarantine and says what came of it.
func quarantined(ctx context.Context, s streams, databaseURL, fingerprint string, end func(lifecycle.Ender) (db.QuarantinedToken, error)) error {
	if !reauth.IsHash(fingerprint) {
		return usageError{errors.New("a fingerprint has 32 characters of lower-case hex; `reauth quarantine list` shows them")}
	}
	database, err := openDatabase(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	q, err := end(lifecycle.Ender{DB: database, Now: time.Now, By: whoAmI()})
	switch {
	case errors.Is(err, db.ErrNotFound):
		return fmt.Errorf("no token %s is in quarantine; `reauth quarantine list` shows those that are", fingerprint)
	case errors.Is(err, lifecycle.ErrInUse):
		return fmt.Errorf("%w, so that is not disconnected; `reauth quarantine forget %s` forgets the token and leaves it alone", err, fingerprint)
	case err != nil:
		return fmt.Errorf("the token is kept: %w", err)
	}
	said := map[db.EndedHow]string{
		db.EndedDisconnected: "disconnected at the provider; the token is erased",
		db.EndedGone:         "the provider knew it no longer (" + q.FinchCode + "); the token is erased",
		db.EndedForgotten:    "not disconnected; the token is erased",
	}[q.EndedHow]
	_, err = fmt.Fprintf(s.out, "connection %s: %s (%s)\n", cmp.Or(q.ConnectionID, "unknown"), said, when(q.EndedAt))
	return err
}
