package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/imports/rows"
	"github.com/finch-reauth/reauth/secrets"
)

// errRejects: rows were rejected, and everything else was done.
var errRejects = errors.New("rows were rejected")

type importCommand struct {
	Run    importRunCommand    `cmd:"" default:"withargs" help:"Import a file, or what comes on the standard input."`
	Status importStatusCommand `cmd:"" help:"Show how far an import is, or list imports."`
}

// importCampaigns are campaignSettings of which only the names matter.
type importCampaigns struct {
	Campaigns string `env:"REAUTH_CAMPAIGNS" hidden:""`
	Reminders string `env:"REAUTH_REMINDERS" hidden:""`
	TimeZone  string `env:"REAUTH_TIME_ZONE" default:"UTC" hidden:""`
}

type importRunCommand struct {
	File     string `arg:"" optional:"" default:"-" help:"CSV with a header line, or NDJSON; - is the standard input."`
	Format   string `placeholder:"FORMAT" help:"csv or ndjson; by default the content tells."`
	ImportID string `name:"import-id" placeholder:"ID" help:"What the import is called. Under the name of one that was interrupted it goes on; by default a file's name is told by its content."`
	Check    bool   `help:"Read it all, say what is wrong, and store nothing; needs no database."`
	Report   string `placeholder:"FILE" help:"Where the rejected rows are listed, one a line; by default the standard error."`
	NoCases  bool   `name:"no-cases" help:"Open no cases for connections that turn out to be stale."`
	JSON     bool   `help:"Print the result as JSON."`
	Database string `env:"DATABASE_URL" hidden:""`
	Keyset   string `env:"REAUTH_KEYSET" hidden:""`
	importSettings
	importCampaigns
	applicationSettings
}

func (c *importRunCommand) Run(ctx context.Context, s streams) error {
	if c.Format != "" && c.Format != string(rows.CSV) && c.Format != string(rows.NDJSON) {
		return usageError{errors.New("--format must be csv or ndjson")}
	}
	if c.ImportID != "" {
		if err := imports.CheckID(c.ImportID); err != nil {
			return usageError{err}
		}
	}
	book, err := campaignSettings(c.importCampaigns).book()
	if err != nil {
		return err
	}
	further, err := c.further()
	if err != nil {
		return err
	}
	known := applicationNames(further)
	content, size, err := c.open(s)
	if err != nil {
		return err
	}
	defer content.Close()
	if c.Check {
		return c.check(s, content, book.Names(), known)
	}
	for _, needed := range []struct{ name, value string }{{"DATABASE_URL", c.Database}, {"REAUTH_KEYSET", c.Keyset}} {
		if needed.value == "" {
			return missing(needed.name)
		}
	}
	keys, err := secrets.Load(c.Keyset, keyServices()...)
	if err != nil {
		return malformed("REAUTH_KEYSET", err)
	}
	database, err := openDatabase(ctx, c.Database)
	if err != nil {
		return err
	}
	defer database.Close()
	id, err := c.id(content, size)
	if err != nil {
		return err
	}

	bar := newProgress(s.err, size)
	importer := imports.Importer{Store: database, Keys: keys, Campaigns: book.Names(), Applications: known, Now: time.Now, Wrote: bar.show}
	bar.say("import %s; interrupted, it goes on under this name (--import-id)", id)
	result, err := importer.Import(ctx, imports.Job{ID: id, Reports: !c.NoCases, Format: rows.Format(c.Format), Content: content})
	bar.end()
	if err != nil {
		return c.failed(ctx, id, err)
	}
	progress, err := database.ImportByID(ctx, id)
	if err != nil {
		return fmt.Errorf("reading what became of the import: %w", err)
	}
	if err := c.list(ctx, s, database, id, result.Totals.Rejected); err != nil {
		return err
	}
	if err := c.tell(s, progress); err != nil {
		return err
	}
	if result.Totals.Rejected > 0 {
		return errRejects
	}
	return nil
}

// failed says where the import stands that ended early.
func (c *importRunCommand) failed(ctx context.Context, id string, err error) error {
	again := fmt.Sprintf("everything up to there is stored; the same content with --import-id %s goes on", id)
	var file *rows.FileError
	switch {
	case errors.As(err, &file):
		return fmt.Errorf("%s: %w", c.name(), err)
	case errors.Is(err, imports.ErrOtherContent):
		return fmt.Errorf("the import %s was interrupted, and what it had read is not what this content begins with; take another --import-id", id)
	case errors.Is(err, db.ErrImportMoved):
		return fmt.Errorf("the import %s is being carried on by another process just now", id)
	case ctx.Err() != nil:
		return errors.New("interrupted; " + again)
	}
	return fmt.Errorf("%w; %s", err, again)
}

// open opens the content; size is 0 where it cannot be known.
func (c *importRunCommand) open(s streams) (content *os.File, size int64, err error) {
	if c.File != "-" {
		if content, err = os.Open(c.File); err != nil {
			return nil, 0, usageError{err}
		}
	} else {
		content = os.Stdin
		if isTerminal(content) {
			return nil, 0, usageError{errors.New("name a file to import, or send its content to the standard input")}
		}
	}
	info, err := content.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("looking at %s: %w", c.File, err)
	}
	if info.IsDir() {
		return nil, 0, usageError{fmt.Errorf("%s is a folder; name a file", c.File)}
	}
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	return content, size, nil
}

// name is what people call the content.
func (c *importRunCommand) name() string {
	if c.File == "-" {
		return "the standard input"
	}
	return c.File
}

// id is what the import is called: the same file has the same name.
func (c *importRunCommand) id(content *os.File, size int64) (string, error) {
	if c.ImportID != "" {
		return c.ImportID, nil
	}
	if size == 0 || c.File == "-" {
		return strings.ToLower(rand.Text()), nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", fmt.Errorf("reading %s: %w", c.File, err)
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("reading %s again: %w", c.File, err)
	}
	return hex.EncodeToString(sum.Sum(nil)[:12]), nil
}

func (c *importRunCommand) check(s streams, content io.Reader, campaigns, applications []string) error {
	report, done, err := c.report(s)
	if err != nil {
		return err
	}
	format, read, wrong, err := imports.Check(content, rows.Options{Format: rows.Format(c.Format), Campaigns: campaigns, Applications: applications, Now: time.Now()}, func(p rows.Problem) {
		printReject(report, db.ImportReject{Line: p.Line, ConnectionID: p.ConnectionID, Problem: p.Message})
	})
	if err := errors.Join(err, done()); err != nil {
		return fmt.Errorf("%s: %w", c.name(), err)
	}
	if c.JSON {
		err = printJSON(s.out, map[string]any{"format": format, "rows": read, "rejected": wrong})
	} else {
		_, err = fmt.Fprintf(s.out, "%s rows of %s, %s of them wrong; nothing was stored\n", thousands(read), format, thousands(wrong))
	}
	if err == nil && wrong > 0 {
		err = errRejects
	}
	return err
}

// report is where rejected rows are listed.
func (c *importRunCommand) report(s streams) (w io.Writer, done func() error, err error) {
	if c.Report == "" {
		return s.err, func() error { return nil }, nil
	}
	file, err := os.Create(c.Report)
	if err != nil {
		return nil, nil, usageError{err}
	}
	buffered := bufio.NewWriter(file)
	return buffered, func() error { return errors.Join(buffered.Flush(), file.Close()) }, nil
}

// list writes the rejected rows, also those of the runs before.
func (c *importRunCommand) list(ctx context.Context, s streams, database *db.DB, id string, rejected int64) error {
	if rejected == 0 && c.Report == "" {
		return nil
	}
	report, done, err := c.report(s)
	if err != nil {
		return err
	}
	err = eachReject(ctx, database, id, func(r db.ImportReject) { printReject(report, r) })
	return errors.Join(err, done())
}

func eachReject(ctx context.Context, database *db.DB, id string, do func(db.ImportReject)) error {
	for cursor := ""; ; {
		list, next, err := database.ImportRejects(ctx, id, cursor, 500)
		if err != nil {
			return fmt.Errorf("reading the rejected rows: %w", err)
		}
		for _, r := range list {
			do(r)
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

func printReject(w io.Writer, r db.ImportReject) {
	of := ""
	if r.ConnectionID != "" {
		of = " (" + r.ConnectionID + ")"
	}
	fmt.Fprintf(w, "line %d%s: %s\n", r.Line, of, r.Problem)
}

// tell prints what became of an import.
func (c *importRunCommand) tell(s streams, p db.ImportProgress) error {
	if c.JSON {
		return printJSON(s.out, importOf(p, c.pace()))
	}
	fmt.Fprintf(s.out, "%s rows: %s connections new, %s changed, %s rows rejected; %s tokens handed in, %s known before\n",
		thousands(p.Rows), thousands(p.Created), thousands(p.Updated), thousands(p.Rejected), thousands(p.Staged), thousands(p.Known))
	if p.Waiting > 0 {
		fmt.Fprintln(s.out, waits(p, c.pace()))
	}
	return nil
}

// waits says how long the questions take that are not asked yet.
func waits(p db.ImportProgress, pace int) string {
	text := thousands(p.Waiting) + " tokens wait to be asked about; at " + strconv.Itoa(pace) + " a minute that takes about " + inWords(imports.Takes(p.Ahead, pace))
	if p.Ahead > p.Waiting {
		text += ", with " + thousands(p.Ahead-p.Waiting) + " of other imports"
	}
	text += "; `reauth import status " + p.ID + "` shows how far it is"
	if p.Problem != "" {
		text += "\nsome were put off: " + p.Problem
	}
	return text
}

type importStatusCommand struct {
	databaseSettings
	importSettings
	ImportID string `arg:"" optional:"" name:"id" help:"The import; without it, the newest are listed."`
	Rejected bool   `help:"List the rejected rows, too, and those whose token was refused."`
	JSON     bool   `help:"Print JSON."`
}

func (c *importStatusCommand) Run(ctx context.Context, s streams) error {
	if c.Rejected && c.ImportID == "" {
		return usageError{errors.New("--rejected goes with the ID of an import")}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	if c.ImportID == "" {
		return c.list(ctx, s, database)
	}
	p, err := database.ImportByID(ctx, c.ImportID)
	if errors.Is(err, db.ErrNotFound) {
		return fmt.Errorf("there is no import %s; `reauth import status` lists them", c.ImportID)
	}
	if err != nil {
		return fmt.Errorf("reading the import: %w", err)
	}
	if c.JSON {
		err = printJSON(s.out, importOf(p, c.pace()))
	} else {
		err = printImport(s.out, p, c.pace())
	}
	if err != nil || !c.Rejected {
		return err
	}
	return eachReject(ctx, database, c.ImportID, func(r db.ImportReject) { printReject(s.err, r) })
}

func (c *importStatusCommand) list(ctx context.Context, s streams, database *db.DB) error {
	list, _, err := database.Imports(ctx, "", 50)
	if err != nil {
		return fmt.Errorf("listing imports: %w", err)
	}
	if c.JSON {
		views := make([]importedJSON, len(list))
		for i, p := range list {
			views[i] = importOf(p, c.pace())
		}
		return printJSON(s.out, views)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.err, "nothing was imported yet")
		return err
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BEGAN\tIMPORT\tROWS\tREJECTED\tTOKENS WAIT\tADOPTED\tSTALE\tREFUSED\tREAD")
	for _, p := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(&p.BeganAt), p.ID, thousands(p.Rows), thousands(p.Rejected),
			thousands(p.Waiting), thousands(p.Adopted), thousands(p.Stale), thousands(p.RejectedTokens), cmp.Or(when(p.ReadAt), "interrupted, or going on"))
	}
	return table.Flush()
}

func printImport(w io.Writer, p db.ImportProgress, pace int) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"import", p.ID}, {"began", when(&p.BeganAt)}, {"read", cmp.Or(when(p.ReadAt), fmt.Sprintf("up to line %s; the same content under this --import-id goes on", thousands(p.LinesDone)))},
		{"rows", thousands(p.Rows)}, {"rejected", thousands(p.Rejected)}, {"connections new", thousands(p.Created)}, {"connections changed", thousands(p.Updated)},
		{"tokens adopted", thousands(p.Adopted)}, {"tokens waiting", thousands(p.Waiting)}, {"tokens stale", thousands(p.Stale)}, {"tokens refused", thousands(p.RejectedTokens)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	if err := table.Flush(); err != nil || p.Waiting == 0 {
		return err
	}
	_, err := fmt.Fprintln(w, waits(p, pace))
	return err
}

// importedJSON is an import as JSON shows it.
type importedJSON struct {
	ImportID         string     `json:"import_id"`
	Rows             int64      `json:"rows"`
	Rejected         int64      `json:"rejected"`
	Created          int64      `json:"created"`
	Updated          int64      `json:"updated"`
	Known            int64      `json:"known"`
	Waiting          int64      `json:"tokens_waiting"`
	Adopted          int64      `json:"tokens_adopted"`
	Stale            int64      `json:"tokens_stale"`
	RejectedTokens   int64      `json:"tokens_rejected"`
	EstimatedSeconds int64      `json:"estimated_seconds"`
	Line             int64      `json:"line"`
	BeganAt          time.Time  `json:"began_at"`
	ReadAt           *time.Time `json:"read_at,omitempty"`
	Problem          string     `json:"problem,omitempty"`
}

func importOf(p db.ImportProgress, pace int) importedJSON {
	return importedJSON{
		ImportID: p.ID, Rows: p.Rows, Rejected: p.Rejected, Created: p.Created, Updated: p.Updated, Known: p.Known,
		Waiting: p.Waiting, Adopted: p.Adopted, Stale: p.Stale, RejectedTokens: p.RejectedTokens,
		EstimatedSeconds: int64(imports.Takes(p.Ahead, pace).Seconds()), Line: p.LinesDone, BeganAt: p.BeganAt, ReadAt: p.ReadAt, Problem: p.Problem,
	}
}
