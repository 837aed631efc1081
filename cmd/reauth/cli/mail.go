package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// mailCommand stops mail and lets it go. It needs the database and nothing else:
// it must work when nothing else does.
type mailCommand struct {
	Status mailStatusCommand `cmd:"" default:"withargs" help:"Show whether mail goes out, what waits because of it, and who changed it."`
	On     mailOnCommand     `cmd:"" help:"Let mail go out. Cases that waited go on, one after the other."`
	Shadow mailShadowCommand `cmd:"" help:"Run every case and write to nobody; the ledger shows who would have heard what."`
	Stop   mailStopCommand   `cmd:"" help:"Stop all mail to customers, at once; every step waits."`
	Ramp   mailRampCommand   `cmd:"" help:"Let only so many new customers hear in an hour."`
}

type mailChangeSettings struct {
	databaseSettings
	Reason string `placeholder:"TEXT" help:"Why, for those who come after."`
	JSON   bool   `help:"Print JSON."`
}

type mailStatusCommand struct {
	databaseSettings
	JSON bool `help:"Print JSON."`
}

type mailOnCommand struct{ mailChangeSettings }

type mailShadowCommand struct{ mailChangeSettings }

type mailStopCommand struct{ mailChangeSettings }

type mailRampCommand struct {
	PerHour string `arg:"" name:"n" help:"How many new customers may hear in an hour, or off."`
	mailChangeSettings
}

func (c *mailStatusCommand) Run(ctx context.Context, s streams) error {
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	return showMail(ctx, database, s, c.JSON)
}

func (c *mailOnCommand) Run(ctx context.Context, s streams) error {
	return c.set(ctx, s, reauth.MailOn)
}

func (c *mailShadowCommand) Run(ctx context.Context, s streams) error {
	return c.set(ctx, s, reauth.MailShadow)
}

func (c *mailStopCommand) Run(ctx context.Context, s streams) error {
	return c.set(ctx, s, reauth.MailStopped)
}

func (c *mailChangeSettings) set(ctx context.Context, s streams, mode reauth.MailMode) error {
	return c.change(ctx, s, db.MailSetting{Mode: &mode})
}

func (c *mailRampCommand) Run(ctx context.Context, s streams) error {
	n, err := strconv.Atoi(c.PerHour)
	if c.PerHour == "off" {
		n, err = 0, nil
	}
	if err != nil || n < 0 || n > reauth.MaxRamp {
		return usageError{fmt.Errorf("the ramp must be a number of customers an hour from 1 to %d, or off", reauth.MaxRamp)}
	}
	return c.change(ctx, s, db.MailSetting{Ramp: &n})
}

// change makes a change, waits for the mails that are on their way where it stops
// mail, and shows how things stand.
func (c *mailChangeSettings) change(ctx context.Context, s streams, setting db.MailSetting) error {
	reason, err := oneLine("--reason", c.Reason)
	if err != nil {
		return err
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	setting.Reason, setting.By, setting.At = reason, whoAmI(), time.Now()
	control, changed, err := database.SetMail(ctx, setting)
	if err != nil {
		return err
	}
	if !changed {
		fmt.Fprintln(s.err, "nothing was changed: it was so already")
	}
	if control.Mode != reauth.MailOn {
		if err := database.AwaitMailUnderWay(ctx, 10*time.Second, 20*time.Millisecond); err != nil {
			return fmt.Errorf("mail is %s, but waiting for what was on its way failed: %w", control.Mode, err)
		}
	}
	return showMail(ctx, database, s, c.JSON)
}

// shownMail is how mail stands, as JSON.
type shownMail struct {
	Mode        reauth.MailMode `json:"mode"`
	RampPerHour int             `json:"ramp_per_hour"`
	Version     int64           `json:"version"`
	Stopped     int             `json:"waiting_stopped"`
	Fixed       int             `json:"waiting_fixed"`
	Ramp        int             `json:"waiting_ramp"`
	RampUntil   *time.Time      `json:"ramp_until"`
	Shadowed    int             `json:"shadowed"`
	UnderWay    int             `json:"under_way"`
	History     []shownChange   `json:"history"`
}

type shownChange struct {
	Version     int64           `json:"version"`
	Mode        reauth.MailMode `json:"mode"`
	RampPerHour int             `json:"ramp_per_hour"`
	ChangedBy   string          `json:"changed_by"`
	Reason      string          `json:"reason,omitempty"`
	ChangedAt   time.Time       `json:"changed_at"`
}

func showMail(ctx context.Context, database *db.DB, s streams, asJSON bool) error {
	control, err := database.Mail(ctx)
	if err != nil {
		return err
	}
	standing, err := database.MailStanding(ctx)
	if err != nil {
		return err
	}
	changes, err := database.MailChanges(ctx, 10)
	if err != nil {
		return err
	}
	shown := shownMail{
		Mode: control.Mode, RampPerHour: control.Ramp, Version: control.Version, Stopped: standing.Stopped, Fixed: standing.Fixed,
		Ramp: standing.Ramp, RampUntil: standing.RampUntil, Shadowed: standing.Shadowed, UnderWay: standing.UnderWay, History: []shownChange{},
	}
	for _, c := range changes {
		shown.History = append(shown.History, shownChange{c.Version, c.Mode, c.Ramp, c.By, c.Reason, c.At})
	}
	if asJSON {
		return printJSON(s.out, shown)
	}
	return printMail(s.out, shown)
}

func printMail(w io.Writer, m shownMail) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	words := map[reauth.MailMode]string{
		reauth.MailOn: "on", reauth.MailShadow: "in shadow: every case runs, and nobody is written to",
		reauth.MailStopped: "STOPPED: no notice to a customer begins, and every step waits",
	}
	row("mail", "%s", words[m.Mode])
	row("new customers an hour", "%s", rampWords(m.RampPerHour))
	if m.Stopped > 0 {
		row("cases that wait for mail", "%d", m.Stopped)
	}
	if m.Fixed > 0 {
		row("closed cases that wait to say so", "%d", m.Fixed)
	}
	if m.Ramp > 0 {
		row("cases that wait for their turn", "%d, the last until %s", m.Ramp, when(m.RampUntil))
	}
	if m.Shadowed > 0 {
		row("notices that were not sent in shadow", "%d", m.Shadowed)
	}
	if m.UnderWay > 0 {
		row("mails on their way at this moment", "%d", m.UnderWay)
	}
	for i, c := range m.History {
		name := ""
		if i == 0 {
			name = "changes"
		}
		text := fmt.Sprintf("%s  %s, %s new customers an hour, by %s", when(&c.ChangedAt), c.Mode, rampWords(c.RampPerHour), c.ChangedBy)
		if c.Reason != "" {
			text += ": " + c.Reason
		}
		row(name, "%s", text)
	}
	return table.Flush()
}

func rampWords(n int) string {
	if n == 0 {
		return "all"
	}
	return strconv.Itoa(n)
}

// whoAmI names whoever runs a command, without an @, which stands for addresses.
func whoAmI() string {
	name := "somebody"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = strings.ReplaceAll(u.Username, "@", " at ")
	}
	if host, err := os.Hostname(); err == nil {
		name += " on " + host
	}
	return name
}

// oneLine takes a text that is to stand in a timeline.
func oneLine(flag, text string) (string, error) {
	text = strings.TrimSpace(text)
	if len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", usageError{errors.New(flag + " must be one line of printable text, 500 bytes at most")}
	}
	return text, nil
}
