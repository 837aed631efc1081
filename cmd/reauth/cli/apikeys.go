package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

type apiKeysCommand struct {
	New    apiKeysNewCommand    `cmd:"" help:"Make a key, and print it this once."`
	List   apiKeysListCommand   `cmd:"" help:"List the keys: what each may do, its last use and its end."`
	Revoke apiKeysRevokeCommand `cmd:"" help:"Revoke a key for good, at once."`
}

type apiKeysNewCommand struct {
	databaseSettings
	Name        string `required:"" placeholder:"NAME" help:"What the key is called in logs, and in timelines as who did something."`
	Scopes      string `required:"" placeholder:"SCOPE,..." help:"What it may do: reports:write, connections:write, tokens:read, operator, metrics, codec."`
	Application string `placeholder:"NAME" help:"Let it see the connections of this provider application only."`
	Expires     string `default:"never" placeholder:"WHEN" help:"When it ends: after 90d or 12h, at 2027-06-30 or 2027-06-30T18:00:00Z, or never."`
}

var (
	keyNamePattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	applicationPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
)

// key checks the flags.
func (c *apiKeysNewCommand) key(now time.Time) (db.APIKey, error) {
	k := db.APIKey{Name: c.Name, Application: c.Application}
	if !keyNamePattern.MatchString(c.Name) {
		return k, errors.New("--name must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit")
	}
	if c.Name == web.BootstrapKeyName {
		return k, fmt.Errorf("--name must not be %s, which is the key of REAUTH_BOOTSTRAP_API_KEY", c.Name)
	}
	for _, scope := range list(c.Scopes) {
		if !slices.Contains(web.Scopes(), scope) {
			return k, fmt.Errorf("--scopes holds %q; there are %s", scope, strings.Join(web.Scopes(), ", "))
		}
		if !slices.Contains(k.Scopes, scope) {
			k.Scopes = append(k.Scopes, scope)
		}
	}
	if len(k.Scopes) == 0 {
		return k, fmt.Errorf("--scopes must name at least one of %s", strings.Join(web.Scopes(), ", "))
	}
	if c.Application != "" && !applicationPattern.MatchString(c.Application) {
		return k, errors.New("--application must be 1 to 64 lower-case letters, digits, '_' or '-'")
	}
	if c.Application != "" && slices.Contains(k.Scopes, web.ScopeMetrics) {
		return k, errors.New("--scopes may not hold metrics with --application: metrics are of all applications together")
	}
	if c.Application != "" && slices.Contains(k.Scopes, web.ScopeCodec) {
		return k, errors.New("--scopes may not hold codec with --application: what it decodes is of all applications together")
	}
	expires, err := ending(c.Expires, now)
	k.ExpiresAt = expires
	return k, err
}

// ending reads when something ends; nil is never.
func ending(text string, now time.Time) (*time.Time, error) {
	if text == "never" {
		return nil, nil
	}
	at, err := parseEnding(text, now)
	if err != nil || !at.After(now) || at.Year() > 9999 {
		return nil, fmt.Errorf("--expires must be a time in the future, as 90d, 12h, 2027-06-30 or 2027-06-30T18:00:00Z, or never, and not %q", text)
	}
	at = at.UTC()
	return &at, nil
}

func parseEnding(text string, now time.Time) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	if days, found := strings.CutSuffix(text, "d"); found {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > 36500 {
			return time.Time{}, errors.New("not a number of days")
		}
		return now.AddDate(0, 0, n), nil
	}
	d, err := time.ParseDuration(text)
	return now.Add(d), err
}

func (c *apiKeysNewCommand) Run(ctx context.Context, s streams) error {
	k, err := c.key(time.Now())
	if err != nil {
		return usageError{err}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	secret := secrets.NewAPIKey()
	created, err := database.CreateAPIKey(ctx, k, secrets.HashAPIKey(secret))
	switch {
	case errors.Is(err, db.ErrExists):
		return fmt.Errorf("a key is called %s already; choose another name, or revoke that one first: reauth keys api revoke %s", k.Name, k.Name)
	case err != nil:
		return fmt.Errorf("storing the key: %w", err)
	}
	fmt.Fprintf(s.err, "The key %s may use %s%s, %s. It is shown this once and stored as a hash:\n",
		created.Name, strings.Join(created.Scopes, ", "), ofApplication(created), endOf(created))
	_, err = fmt.Fprintln(s.out, secret)
	return err
}

func ofApplication(k db.APIKey) string {
	if k.Application == "" {
		return " for every application"
	}
	return " for the application " + k.Application
}

func endOf(k db.APIKey) string {
	if k.ExpiresAt == nil {
		return "without an end"
	}
	return "until " + when(k.ExpiresAt)
}

type apiKeysListCommand struct {
	databaseSettings
	JSON bool `help:"Print JSON."`
}

type listedKey struct {
	ID          int64      `json:"id"`
	Name        string     `json:"name"`
	State       string     `json:"state"` // good, expired or revoked
	Scopes      []string   `json:"scopes"`
	Application string     `json:"application,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty"`
}

func (c *apiKeysListCommand) Run(ctx context.Context, s streams) error {
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	keys, err := database.APIKeys(ctx)
	if err != nil {
		return fmt.Errorf("listing the keys: %w", err)
	}
	listed := make([]listedKey, 0, len(keys))
	for _, k := range keys {
		state := "good"
		switch {
		case k.RevokedAt != nil:
			state = "revoked"
		case !k.Good(time.Now()):
			state = "expired"
		}
		listed = append(listed, listedKey{k.ID, k.Name, state, k.Scopes, k.Application, k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt})
	}
	if c.JSON {
		return printJSON(s.out, listed)
	}
	return printKeys(s.out, listed)
}

func printKeys(w io.Writer, keys []listedKey) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tNAME\tSTATE\tSCOPES\tAPPLICATION\tMADE\tLAST USE\tENDS")
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	for _, k := range keys {
		ends := k.ExpiresAt
		if k.RevokedAt != nil {
			ends = k.RevokedAt
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, k.State, strings.Join(k.Scopes, ","),
			or(k.Application, "all"), when(&k.CreatedAt), or(when(k.LastUsedAt), "never"), or(when(ends), "never"))
	}
	return table.Flush()
}

type apiKeysRevokeCommand struct {
	databaseSettings
	Key string `arg:"" help:"The key's name, or its ID as list shows it."`
}

func (c *apiKeysRevokeCommand) Run(ctx context.Context, s streams) error {
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	key, err := database.APIKeyByName(ctx, c.Key)
	id := key.ID
	if errors.Is(err, db.ErrNotFound) {
		var number error
		if id, number = strconv.ParseInt(c.Key, 10, 64); number == nil {
			err = nil
		}
	}
	if err == nil {
		err = database.RevokeAPIKey(ctx, id)
	}
	switch {
	case errors.Is(err, db.ErrNotFound):
		return fmt.Errorf("no key is called %s, or none that was not revoked; `reauth keys api list` shows them", c.Key)
	case err != nil:
		return fmt.Errorf("revoking the key: %w", err)
	}
	_, err = fmt.Fprintf(s.out, "revoked %s; every process refuses it from its next request on\n", c.Key)
	if key.Name == web.BootstrapKeyName {
		fmt.Fprintln(s.err, "REAUTH_BOOTSTRAP_API_KEY must be taken away or changed: `reauth serve` does not start with a revoked one.")
	}
	return err
}
