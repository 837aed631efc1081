package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/finch-reauth/reauth/dev"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/worker/clock"
)

type devCommand struct {
	Data         string `default:".reauth" help:"Folder for everything it keeps; a second start resumes there."`
	ReadyFile    string `placeholder:"FILE" help:"Write a JSON there, with every address and process ID, once all of it answers."`
	Speed        *int   `placeholder:"N" help:"Let time pass N times as fast for cases, for a new --data folder: with 4000, fourteen days pass in 5 minutes."`
	PortChoice   string `name:"ports" enum:"fixed,auto" default:"fixed" help:"auto takes free ports, and the same ones again next time where they are free."`
	APIPort      int    `placeholder:"8080" help:"Port of the API and customers' pages."`
	UIPort       int    `placeholder:"8233" help:"Port of Temporal's web UI."`
	TemporalPort int    `placeholder:"7233" help:"Port of Temporal."`
	PostgresPort int    `placeholder:"5433" help:"Port of PostgreSQL."`
	InboxPort    int    `placeholder:"8025" help:"Port of the inbox page."`
	SMTPPort     int    `name:"smtp-port" placeholder:"1025" help:"Port of the mail server."`
	FinchPort    int    `placeholder:"8090" help:"Port of the simulated Finch."`

	// With a client ID, the real Finch is used.
	FinchClientID      string `env:"FINCH_CLIENT_ID" placeholder:"ID" help:"Client ID of your Finch application: with it, the real Finch is used."`
	FinchClientSecret  string `env:"FINCH_CLIENT_SECRET" hidden:""`
	FinchWebhookSecret string `env:"FINCH_WEBHOOK_SECRET" hidden:""`
	FinchBaseURL       string `env:"FINCH_BASE_URL" default:"https://api.tryfinch.com" hidden:""`
	DatabaseURL        string `env:"DATABASE_URL" hidden:""`
	Keyset             string `env:"REAUTH_KEYSET" hidden:""`
	PublicURL          string `env:"REAUTH_PUBLIC_URL" hidden:""`
}

func (c *devCommand) Run(ctx context.Context, s streams) error {
	options := dev.Options{
		Data: c.Data, ReadyFile: c.ReadyFile, AutoPorts: c.PortChoice == "auto",
		Ports: dev.Ports{
			API: c.APIPort, UI: c.UIPort, Temporal: c.TemporalPort, Postgres: c.PostgresPort,
			Inbox: c.InboxPort, SMTP: c.SMTPPort, Finch: c.FinchPort,
		},
		Environ: os.Environ(), DatabaseURL: c.DatabaseURL, Keyset: c.Keyset, PublicURL: c.PublicURL, Out: s.out,
	}
	if c.Speed != nil {
		if err := clock.CheckSpeed(*c.Speed); err != nil {
			return usageError{fmt.Errorf("--speed: %w", err)}
		}
		options.Speed = *c.Speed
	}
	if c.FinchClientID != "" {
		if c.FinchClientSecret == "" {
			return missing("FINCH_CLIENT_SECRET")
		}
		options.Finch = &dev.RealFinch{
			FinchCredentials: dev.FinchCredentials{ClientID: c.FinchClientID, ClientSecret: c.FinchClientSecret, WebhookSecret: c.FinchWebhookSecret},
			BaseURL:          c.FinchBaseURL,
		}
	}
	return dev.Run(ctx, options)
}

type demoCommand struct {
	Keep    bool          `help:"Leave everything running at the end, until Ctrl-C."`
	Timeout time.Duration `default:"20m" help:"Give up after this time; the first build of Temporal alone takes minutes."`
}

func (c *demoCommand) Run(ctx context.Context, s streams) error {
	limited, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("the demo took longer than %s", c.Timeout))
	defer cancel()
	if c.Keep {
		limited = ctx
	}
	err := dev.Demo(limited, dev.DemoOptions{Environ: os.Environ(), Keep: c.Keep, Out: s.out})
	if ctx.Err() != nil && !c.Keep {
		return errors.New("stopped before the end")
	}
	return err
}

// devFinchCommand is the simulated Finch, as `reauth dev` runs it.
type devFinchCommand struct {
	finchClientSettings
	HTTP          string `required:"" help:"Address to listen on."`
	File          string `help:"Where the state is kept."`
	RedirectURI   string `name:"redirect-uri" required:""`
	WebhookURL    string `required:""`
	WebhookSecret string `env:"FINCH_WEBHOOK_SECRET" needed:"" hidden:""`
}

func (c *devFinchCommand) Run(ctx context.Context, s streams) error {
	logger := slog.New(slog.NewTextHandler(s.err, nil))
	sim, err := finchsim.New(finchsim.Config{
		ClientID: c.FinchClientID, ClientSecret: c.FinchClientSecret,
		RedirectURIs: []string{c.RedirectURI},
		WebhookURL:   c.WebhookURL, WebhookSecret: c.WebhookSecret,
		PublicURL: "http://" + c.HTTP, File: c.File, Logger: logger,
	})
	if err != nil {
		return fmt.Errorf("starting the simulated Finch: %w", err)
	}
	return errors.Join(listenAndServe(ctx, c.HTTP, sim, logger), sim.Close())
}

// devInboxCommand is the mail server, as `reauth dev` runs it.
type devInboxCommand struct {
	HTTP string `required:"" help:"Address of the inbox page."`
	SMTP string `name:"smtp" required:"" help:"Address of the mail server."`
	Dir  string `help:"Where messages are kept."`
}

func (c *devInboxCommand) Run(ctx context.Context, s streams) error {
	logger := slog.New(slog.NewTextHandler(s.err, nil))
	server, err := inbox.New(inbox.Options{Addr: c.SMTP, Dir: c.Dir, Log: logger})
	if err != nil {
		return fmt.Errorf("starting the mail server: %w", err)
	}
	return errors.Join(listenAndServe(ctx, c.HTTP, server.Handler(), logger), server.Close())
}

// listenAndServe serves until ctx ends.
func listenAndServe(ctx context.Context, address string, handler http.Handler, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := newHTTPServer(handler, logger)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
		return shutDown(server)
	case err := <-served:
		return fmt.Errorf("serving HTTP: %w", err)
	}
}

// devLeashCommand kills what its parent has left behind.
type devLeashCommand struct{}

func (devLeashCommand) Run() error {
	dev.Leash(os.Stdin, func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return nil
}
