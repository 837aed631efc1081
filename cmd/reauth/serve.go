package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
	"github.com/finch-reauth/reauth/web"
)

type serveCommand struct {
	databaseSettings
	keySettings
	serviceSettings
	finchSettings
	applicationSettings
	httpSettings
	campaignSettings
	webhookSettings
	logSettings
}

func (c *serveCommand) Run(ctx context.Context, s streams) error {
	logger := c.logger(s.err)
	keys, err := secrets.Load(c.Keyset)
	if err != nil {
		return malformed("REAUTH_KEYSET", err)
	}
	options, err := temporalOptions(keys, logger)
	if err != nil {
		return err
	}
	campaigns, err := c.book()
	if err != nil {
		return err
	}
	further, err := c.further()
	if err != nil {
		return err
	}
	known, err := served(further)
	if err != nil {
		return err
	}
	temporal, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("setting up the Temporal client: %w", err)
	}
	defer temporal.Close()

	listener, err := net.Listen("tcp", c.HTTPAddr)
	if err != nil {
		return fmt.Errorf("listening on REAUTH_HTTP_ADDR: %w", err)
	}
	service := new(starting)
	stopped := make(chan error, 1)
	server := newHTTPServer(service, logger)
	go func() { stopped <- server.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String(), "public_url", c.PublicURL)

	var database *db.DB
	defer func() {
		if database != nil {
			_ = database.Close()
		}
	}()
	config := c.config(keys, temporal, tokenClients(c.finchSettings, further, plainClient), logger)
	config.Applications, config.ConnectHosts = known, c.connectHosts(further)
	config.Campaigns = campaigns.Names()
	err = patiently(ctx, logger, "PostgreSQL and its tables", func(attempt context.Context) error {
		if database == nil {
			opened, err := db.Open(attempt, c.DatabaseURL)
			if err != nil {
				return err
			}
			database = opened
			database.PublishEvents(c.WebhookURL != "")
		}
		config.DB = database
		handler, err := web.New(config)
		if err != nil {
			return err
		}
		service.begin(handler)
		return nil
	})
	if err == nil {
		logger.Info("serving")
		forwarded := make(chan struct{})
		go func() {
			defer close(forwarded)
			web.Forwarder{DB: database, Keys: keys, Starter: config.Starter, Logger: logger}.Run(ctx)
		}()
		defer func() { <-forwarded }()
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return fmt.Errorf("serving HTTP: %w", err)
		}
	}
	logger.Info("stopping")
	return shutDown(server)
}

// config wires the service, but for its database. Everything in it was checked
// before.
func (c *serveCommand) config(keys *secrets.Keys, temporal client.Client, finchs map[string]*finch.Client, logger *slog.Logger) web.Config {
	var proxies []netip.Prefix
	for _, network := range list(c.TrustedProxies) {
		proxies = append(proxies, netip.MustParsePrefix(network))
	}
	return web.Config{
		Keys:       keys,
		Starter:    starter.New(temporal, starter.WithTaskQueue(c.TaskQueue)),
		Introspect: introspecter(finchs),
		Disconnect: disconnecter(finchs),
		TemporalHealth: func(ctx context.Context) error {
			_, err := temporal.CheckHealth(ctx, &client.CheckHealthRequest{})
			return err
		},
		PublicURL:           c.PublicURL,
		ProductName:         c.ProductName,
		SupportEmail:        c.SupportEmail,
		FinchWebhookSecrets: strings.Fields(c.FinchWebhookSecret),
		BootstrapAPIKey:     c.BootstrapAPIKey,
		CodecOrigins:        list(c.CodecOrigins),
		CodecOpen:           isTrue(c.CodecOpen),
		MetricsOpen:         isTrue(c.MetricsOpen),
		TemporalUIURL:       c.TemporalUIURL,
		TrustedProxies:      proxies,
		Logger:              logger,
		Version:             version(),
	}
}

// connectHosts are Finch's own host for Connect and, where an application's API
// is another one than Finch's own, the host of that API.
func (c *serveCommand) connectHosts(further []applications.Application) []string {
	if hosts := list(c.ConnectHosts); len(hosts) > 0 {
		return hosts
	}
	hosts := []string{"connect.tryfinch.com"}
	for _, a := range append([]applications.Application{{}}, further...) {
		base, err := url.Parse(c.at(a))
		if err == nil && base.Host != "api.tryfinch.com" && !slices.Contains(hosts, base.Host) {
			hosts = append(hosts, base.Host)
		}
	}
	return hosts
}

func isTrue(value string) bool { return strings.EqualFold(value, "true") || value == "1" }

// starting answers while the service waits for its database: it lives, but is
// not ready.
type starting struct {
	service atomic.Pointer[http.Handler]
}

func (s *starting) begin(service http.Handler) { s.service.Store(&service) }

func (s *starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if service := s.service.Load(); service != nil {
		(*service).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Path == "/healthz" {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Retry-After", "5")
	if r.URL.Path == "/callback" || strings.HasPrefix(r.URL.Path, "/callback/") {
		// A person comes back from Connect with a code that lives ten minutes:
		// the browser must keep it and try again.
		w.Header().Set("Refresh", "3")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>One moment</title>`+
			`<h1>One moment…</h1><p>Please keep this page open: we are just starting, and go on by ourselves. Nothing of your sign-in is lost.</p></html>`)
		return
	}
	http.Error(w, "This service is starting. Please try again in a moment.", http.StatusServiceUnavailable)
}

func newHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// shutDown lets the requests that are being served come to their end.
func shutDown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(fmt.Errorf("ending open requests: %w", err), server.Close())
	}
	return nil
}
