// Package cli is the program reauth: one subcommand each, wiring only. It can be
// imported so that a program may be built with other parts than usual.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2 // wrong flags, arguments or settings
	exitRejects = 3 // all was done, but for rows that were rejected
)

// commandLine is everything that `reauth` can do, one field a subcommand.
type commandLine struct {
	Dev          devCommand          `cmd:"" help:"Run everything on this machine, with a simulated Finch, and stay."`
	Demo         demoCommand         `cmd:"" help:"Bring a stale connection back, on real parts, and show each step."`
	Serve        serveCommand        `cmd:"" help:"Serve the API, customers' pages and webhooks over HTTP."`
	Worker       workerCommand       `cmd:"" help:"Run the cases."`
	Migrate      migrateCommand      `cmd:"" help:"Bring the database and the Temporal namespace up to date."`
	Start        startCommand        `cmd:"" help:"Report a connection as stale, through Temporal."`
	Status       statusCommand       `cmd:"" help:"Show where a connection's newest case stands, through Temporal."`
	Import       importCommand       `cmd:"" help:"Register the connections that you have already, and hand in their tokens."`
	Sweep        sweepCommand        `cmd:"" help:"Check connections that nobody has complained of, through Temporal."`
	Preview      previewCommand      `cmd:"" help:"Show who would get what and when, before anybody gets it."`
	Mail         mailCommand         `cmd:"" help:"Stop mail to customers, let it go, or let new customers hear slowly."`
	Cases        casesCommand        `cmd:"" help:"List cases, and ask the same of many."`
	Keys         keysCommand         `cmd:"" help:"Make keysets."`
	Applications applicationsCommand `cmd:"" help:"List the applications (client credentials) that are configured."`
	Quarantine   quarantineCommand   `cmd:"" help:"List, disconnect and forget tokens that were kept aside."`
	Webhooks     webhooksCommand     `cmd:"" help:"List and replay the webhooks to your backend."`
	Events       eventsCommand       `cmd:"" help:"List what Finch has told us."`
	Version      versionCommand      `cmd:"" help:"Print the version."`

	DevFinch devFinchCommand `cmd:"" hidden:""`
	DevInbox devInboxCommand `cmd:"" hidden:""`
	DevLeash devLeashCommand `cmd:"" hidden:""`
}

// streams are where a command writes: answers to out, what happens to err.
type streams struct{ out, err io.Writer }

// run runs one subcommand and returns the exit code.
func run(args []string, stdout, stderr io.Writer, options ...Option) int {
	// Cancelling this context is how every command is stopped.
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()

	var cli commandLine
	exited := -1
	parser, err := kong.New(&cli,
		kong.Name("reauth"),
		kong.Description("Brings stale provider connections back: one durable case for each, from the report to the new token."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(streams{stdout, stderr}),
		kong.Bind(partsWith(options)),
	)
	if err != nil {
		return fail(stderr, err, exitFailure)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // help was shown
		return exited
	}
	if err != nil {
		return fail(stderr, fmt.Errorf("%w; `reauth %s--help` tells more", err, named(args)), exitUsage)
	}
	target := command.Selected().Target
	if err := checkSettings(target.Addr().Interface()); err != nil {
		return fail(stderr, err, exitUsage)
	}
	err = command.Run()
	var setting settingError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &setting), errors.As(err, &usage):
		return fail(stderr, err, exitUsage)
	case errors.Is(err, errRejects):
		return exitRejects // each of them has been told
	}
	return fail(stderr, err, exitFailure)
}

func fail(stderr io.Writer, err error, code int) int {
	fmt.Fprintf(stderr, "reauth: %v\n", err)
	return code
}

// named repeats the subcommand of a wrong command line, if it has one.
func named(args []string) string {
	if strings.HasPrefix(args[0], "-") {
		return ""
	}
	commands := reflect.TypeFor[commandLine]()
	for i := range commands.NumField() {
		if strings.EqualFold(commands.Field(i).Name, args[0]) {
			return args[0] + " "
		}
	}
	return ""
}

func (s logSettings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // checked before
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

type versionCommand struct{}

func (versionCommand) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "reauth", version())
	return err
}

// version is the module's, or that of the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value[:min(12, len(setting.Value))]
		}
	}
	return "development"
}
