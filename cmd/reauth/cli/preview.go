package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/preview"
	"github.com/finch-reauth/reauth/reauth"
)

// previewSettings are those that show in what people get. None is needed: where
// one is missing, a preview has a sample.
type previewSettings struct {
	PublicURL     string `env:"REAUTH_PUBLIC_URL" hidden:""`
	ProductName   string `env:"REAUTH_PRODUCT_NAME" hidden:""`
	SupportEmail  string `env:"REAUTH_SUPPORT_EMAIL" hidden:""`
	MailFrom      string `env:"REAUTH_MAIL_FROM" hidden:""`
	OperatorEmail string `env:"REAUTH_OPERATOR_EMAIL" hidden:""`
	Database      string `env:"DATABASE_URL" hidden:""`
}

// previewCampaigns are campaignSettings without flags that a preview has itself.
type previewCampaigns struct {
	Campaigns string `env:"REAUTH_CAMPAIGNS" hidden:""`
	Reminders string `env:"REAUTH_REMINDERS" hidden:""`
	TimeZone  string `env:"REAUTH_TIME_ZONE" default:"UTC" hidden:""`
}

// previewLengths are caseSettings under the names that a start has for them.
type previewLengths struct {
	SessionMinutes  string `name:"minutes" env:"REAUTH_SESSION_MINUTES" default:"43200" placeholder:"N" help:"Minutes until the Connect session ends."`
	SessionRenewals string `name:"renewals" env:"REAUTH_SESSION_RENEWALS" default:"0" placeholder:"N" help:"How often the case opens a further session."`
}

type previewCommand struct {
	Campaign   string `placeholder:"FILE" help:"YAML file with campaigns; by default what the settings say, or else the built-in one."`
	Name       string `placeholder:"NAME" help:"The campaign of that name, in place of the one that would be chosen."`
	Connection string `placeholder:"ID" help:"Show it for this connection and its contacts, read from DATABASE_URL, in place of a sample."`
	From       string `placeholder:"TIME" help:"When the case opens, as 2026-03-02T14:00:00Z; by default now."`
	Mails      bool   `help:"Print every message in full, too."`
	Open       string `placeholder:"FILE" help:"Write it all as an HTML page, with the mails as they look, and open that in a browser."`
	previewLengths
	previewSettings
	previewCampaigns
}

func (c *previewCommand) Run(ctx context.Context, s streams) error {
	began := time.Now()
	shown, err := c.what(ctx)
	if err != nil {
		return err
	}
	p, err := preview.Run(ctx, shown)
	if err != nil {
		return fmt.Errorf("preview the campaign: %w", err)
	}
	out := narrow(s.out)
	if err := p.WriteTable(out); err != nil {
		return err
	}
	if c.Mails {
		if err := p.WriteMessages(s.out); err != nil {
			return err
		}
	}
	took := p.EndedAt.Sub(p.From)
	fmt.Fprintf(s.err, "\n%s passed in %.1f seconds; nobody was written to.\n", days(took), time.Since(began).Seconds())
	if out.cut {
		fmt.Fprintln(s.err, "Lines are cut to the width of the terminal; `reauth preview ... | less -S` shows all of them.")
	}
	if c.Open == "" {
		return nil
	}
	return c.show(s, p)
}

func days(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.Round(time.Minute).String()
}

// what reads what is to be previewed.
func (c *previewCommand) what(ctx context.Context) (preview.Case, error) {
	from := time.Now().Round(time.Minute)
	if c.From != "" {
		var err error
		if from, err = time.Parse(time.RFC3339, c.From); err != nil {
			return preview.Case{}, usageError{errors.New("--from is no time; it wants one as 2026-03-02T14:00:00Z or 2026-03-02T09:00:00-05:00")}
		}
	}
	// Both were checked if they came from the environment, and by the same rules
	// if they came as flags.
	minutes, _ := strconv.Atoi(c.SessionMinutes)
	renewals, _ := strconv.Atoi(c.SessionRenewals)
	connection, people, err := c.whose(ctx)
	if err != nil {
		return preview.Case{}, err
	}
	chosen, err := c.choose(connection)
	if err != nil {
		return preview.Case{}, err
	}
	return preview.Case{
		Connection: connection, People: people, Campaign: chosen, From: from,
		Settings: preview.SampleSettings(activities.Settings{
			PublicURL: c.PublicURL, ProductName: c.ProductName, SupportEmail: c.SupportEmail, MailFrom: c.MailFrom, OperatorEmail: c.OperatorEmail,
			SessionMinutes: minutes, SessionRenewals: renewals,
		}),
	}, nil
}

// choose finds the campaign that a case of the connection would follow, or the
// one that is asked for.
func (c *previewCommand) choose(connection reauth.Connection) (campaign.Campaign, error) {
	settings := campaignSettings(c.previewCampaigns)
	if c.Campaign != "" {
		settings = campaignSettings{Campaigns: c.Campaign}
	}
	book, err := settings.book()
	if err != nil {
		return campaign.Campaign{}, usageError{err}
	}
	if c.Name == "" {
		return book.Choose(connection.Campaign, connection.Application, connection.Provider), nil
	}
	chosen, ok := book.Named(c.Name)
	if !ok {
		return chosen, usageError{fmt.Errorf("there is no campaign %q; the campaigns are %s", c.Name, strings.Join(book.Names(), ", "))}
	}
	return chosen, nil
}

// whose reads the connection and its contacts, or makes a sample of both.
func (c *previewCommand) whose(ctx context.Context) (reauth.Connection, []db.Recipient, error) {
	if c.Connection == "" {
		connection, people := preview.Sample()
		return connection, people, nil
	}
	if err := reauth.CheckConnectionID(c.Connection); err != nil {
		return reauth.Connection{}, nil, usageError{err}
	}
	if c.Database == "" {
		return reauth.Connection{}, nil, missing("DATABASE_URL")
	}
	database, err := db.Open(ctx, c.Database)
	if err != nil {
		return reauth.Connection{}, nil, err
	}
	defer database.Close()
	connection, err := database.Connection(ctx, c.Connection)
	if errors.Is(err, db.ErrNotFound) {
		return connection, nil, fmt.Errorf("no connection %s is registered; PUT /v1/connections/%[1]s registers it, and without --connection a sample is shown", c.Connection)
	}
	if err != nil {
		return connection, nil, err
	}
	people, err := database.Recipients(ctx, c.Connection)
	return connection, people, err
}

// show writes the page and tries to open it in a browser.
func (c *previewCommand) show(s streams, p preview.Preview) error {
	path, err := filepath.Abs(c.Open)
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	// It holds the addresses of people.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if err := cmp.Or(p.WritePage(f), f.Close()); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	fmt.Fprintf(s.err, "The page is %s\n", path)
	openInBrowser(path)
	return nil
}

// openInBrowser opens a file where there is a desktop to do it on. That it could
// not be opened is no error: its path was printed.
func openInBrowser(path string) {
	program := "xdg-open"
	switch {
	case runtime.GOOS == "darwin":
		program = "open"
	case os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "":
		return // xdg-open would show it in this terminal
	}
	_ = exec.Command(program, path).Start()
}

// narrowing cuts the lines of a table to the width of a terminal, which would
// break them otherwise. Each write is whole lines.
type narrowing struct {
	io.Writer
	width int // 0: not a terminal
	cut   bool
}

func narrow(w io.Writer) *narrowing {
	f, ok := w.(*os.File)
	if !ok {
		return &narrowing{Writer: w}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &narrowing{Writer: w}
	}
	return &narrowing{Writer: w, width: widthOf(f)}
}

// widthOf asks for the width of a terminal; 0 if it is not known.
func widthOf(terminal *os.File) (columns int) {
	ask := exec.Command("stty", "size")
	ask.Stdin = terminal
	answer, err := ask.Output()
	if err != nil {
		return 0
	}
	var rows int
	_, _ = fmt.Sscan(string(answer), &rows, &columns)
	return columns
}

func (n *narrowing) Write(p []byte) (int, error) {
	var out strings.Builder
	for line := range strings.Lines(string(p)) {
		if runes := []rune(strings.TrimSuffix(line, "\n")); n.width > 1 && len(runes) > n.width {
			n.cut = true
			line = string(runes[:n.width-1]) + "…\n"
		}
		out.WriteString(line)
	}
	if _, err := io.WriteString(n.Writer, out.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
