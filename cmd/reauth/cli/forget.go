package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/privacy"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/starter"
)

type forgetCommand struct {
	Connection forgetConnectionCommand `cmd:"" help:"Delete everything that is known of a connection, in the database and at Temporal."`
	Contact    forgetContactCommand    `cmd:"" help:"Blank a person's address, name and links, whoever's contact they are."`
}

// forgetSettings are what both need.
type forgetSettings struct {
	databaseSettings
	clientKeySettings
	Yes    bool `short:"y" help:"Do not ask."`
	DryRun bool `help:"Say what would go, and delete nothing."`
	JSON   bool `help:"Print JSON."`
}

// open opens what has to forget.
func (c *forgetSettings) open(ctx context.Context) (f privacy.Forgetter, closeAll func(), err error) {
	temporal, namespace, err := dialNamespace(ctx, c.Keyset)
	if err != nil {
		return f, nil, err
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		temporal.Close()
		return f, nil, err
	}
	f = privacy.Forgetter{DB: database, Temporal: starter.New(temporal, starter.WithNamespace(namespace)), By: "reauth forget"}
	return f, func() { temporal.Close(); _ = database.Close() }, nil
}

type forgetConnectionCommand struct {
	forgetSettings
	ConnectionID string        `arg:"" help:"The connection."`
	Wait         time.Duration `default:"2m" help:"How long its open case may take to end."`
}

func (c *forgetConnectionCommand) Run(ctx context.Context, s streams) error {
	if err := reauth.CheckConnectionID(c.ConnectionID); err != nil {
		return usageError{err}
	}
	f, closeAll, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	f.Wait = c.Wait
	found, err := f.LookAt(ctx, c.ConnectionID)
	if err != nil {
		return err
	}
	if c.DryRun {
		if c.JSON {
			return printJSON(s.out, found)
		}
		_, err := fmt.Fprint(s.out, wouldGo(found))
		return err
	}
	fmt.Fprint(s.err, wouldGo(found))
	if err := c.ask(s, "This cannot be undone. Forget the connection "+c.ConnectionID+"?"); err != nil {
		return err
	}
	gone, err := f.Connection(ctx, c.ConnectionID)
	if errors.Is(err, privacy.ErrStillOpen) {
		return fmt.Errorf("%w. The connection is removed, and its workflow has been told to end; it ends when a worker runs and no code is being exchanged. Nothing else was deleted: run this again when it has ended, as the Temporal web UI shows. A workflow that cannot end can be terminated there", err)
	}
	if err != nil {
		return fmt.Errorf("%w; run this again to go on", err)
	}
	if c.JSON {
		return printJSON(s.out, gone)
	}
	_, err = fmt.Fprintf(s.out, "forgotten: %s; %d workflow histories at Temporal\n", gone.Rows.Words(), gone.Histories)
	return err
}

func wouldGo(c privacy.Connection) string {
	var text strings.Builder
	fmt.Fprintf(&text, "connection %s: %s; %d closed workflow histories at Temporal\n", c.ConnectionID, c.Rows.Words(), c.Histories)
	if c.Open != "" {
		fmt.Fprintf(&text, "%s is open: it is told to end, and waited for\n", c.Open)
	}
	if n := c.Rows["quarantined_tokens"] + c.Rows["minted"]; n > 0 {
		fmt.Fprintf(&text, "%d tokens in quarantine, or not adopted, go too: if what they made at the provider is not disconnected yet, nobody can do so afterwards (`reauth quarantine list` shows them)\n", n)
	}
	if c.Rows["tokens"] > 0 {
		fmt.Fprintln(&text, "the connection at the provider stays as it is: to disconnect it, DELETE it over HTTP with ?disconnect=true first")
	}
	return text.String()
}

type forgetContactCommand struct {
	forgetSettings
	Email      string `arg:"" help:"The address, in upper or lower case."`
	AlsoOptOut bool   `help:"Forget too that nobody is to write to the address: whoever registers it again has it written to."`
}

func (c *forgetContactCommand) Run(ctx context.Context, s streams) error {
	if !register.ValidEmail(c.Email) {
		return usageError{errors.New("the argument must be an e-mail address alone, as ada@acme.example")}
	}
	f, closeAll, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	found, err := f.DB.CountContact(ctx, c.Email)
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.tell(s, found, 0, "would be blanked")
	}
	if err := c.ask(s, fmt.Sprintf("This cannot be undone. Forget this address, a contact of %d connections?", found.Contacts)); err != nil {
		return err
	}
	forgotten, untold, err := f.Contact(ctx, c.Email, c.AlsoOptOut)
	if err != nil {
		return fmt.Errorf("%w; run this again to go on", err)
	}
	return c.tell(s, forgotten, untold, "blanked")
}

// tell says what became of it. It never repeats the address.
func (c *forgetContactCommand) tell(s streams, f db.ForgottenContact, untold int, what string) error {
	if c.JSON {
		return printJSON(s.out, f)
	}
	fmt.Fprintf(s.out, "%d contacts %s, and the hashes of %d that had left\n", f.Contacts, what, f.Past)
	if len(f.Cases) > 0 {
		fmt.Fprintf(s.out, "%d open cases were told that they have lost somebody, %d could not be and find out at their next step\n", len(f.Cases)-untold, untold)
	}
	if f.Unreachable != "" {
		fmt.Fprintf(s.out, "a hash of the address stays, since nobody is to write to it (%s); --also-opt-out forgets that too\n", f.Unreachable)
	}
	if f.Sealed > 0 {
		fmt.Fprintf(s.out, "%d rows of imports wait for the provider with their contacts sealed, so that nobody can look among them: run this again when `reauth import` says that they are through\n", f.Sealed)
	}
	fmt.Fprintln(s.out, "a backend that registers the address again brings it back: take it out there as well")
	return nil
}

// ask asks a person on a terminal; elsewhere --yes must be given.
func (c *forgetSettings) ask(s streams, question string) error {
	if c.Yes {
		return nil
	}
	in, ok := input(s)
	if !ok {
		return usageError{errors.New("this deletes for good; give --yes where nobody can be asked, or --dry-run to see what would go")}
	}
	fmt.Fprintf(s.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was deleted")
	}
	return nil
}

// input is where a person answers: standard input, if it and what they read is a
// terminal.
func input(s streams) (io.Reader, bool) {
	told, ok := s.err.(*os.File)
	if !ok || !isTerminal(told) || !isTerminal(os.Stdin) {
		return nil, false
	}
	return os.Stdin, true
}
