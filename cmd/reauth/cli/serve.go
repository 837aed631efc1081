package cli

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
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/activities"
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
	finchLimitSettings
	httpSettings
	campaignSettings
	webhookSettings
	importSettings
	signInSettings
	logSettings
}

func (c *serveCommand) Run(ctx context.Context, s streams, p parts) error {
	logger := c.logger(s.err)
	if err := c.checkOpen(); err != nil {
		return err
	}
	keys, err := c.keys()
	if err != nil {
		return err
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
	signIn, err := c.signIn()
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
	var handler *web.Service
	defer func() {
		if database != nil {
			_ = database.Close()
		}
	}()
	config := c.config(keys, temporal, logger)
	config.Applications, config.ConnectHosts = known, c.connectHosts(further)
	config.Campaigns = campaigns.Names()
	config.Stopping = ctx
	config.TemporalNamespace = options.Namespace
	config.SignIn = signIn
	config.Registry = prometheus.NewRegistry()
	meter, err := meterOn(config.Registry)
	if err != nil {
		return err
	}
	err = patiently(ctx, logger, "PostgreSQL and its tables", func(attempt context.Context) error {
		if database == nil {
			opened, err := db.Open(attempt, c.DatabaseURL)
			if err != nil {
				return err
			}
			database = opened
			database.PublishEvents(c.WebhookURL != "")
			budget, err := c.budget(p, database, meter, logger)
			if err != nil {
				return err
			}
			finchs := tokenClients(c.finchSettings, further, budget.client)
			config.Introspect, config.Job, config.Disconnect = introspecter(finchs), jobs(finchs), disconnecter(finchs)
			config.AdoptImported = adoptImported(database, keys, finchs, logger)
		}
		config.DB = database
		made, err := web.New(config)
		if err != nil {
			return err
		}
		handler = made
		service.begin(handler)
		return nil
	})
	if err == nil {
		logger.Info("serving")
		background, stop := context.WithCancel(ctx)
		var beside sync.WaitGroup
		beside.Go(func() {
			web.Forwarder{DB: database, Keys: keys, Starter: config.Starter, Logger: logger}.Run(background)
		})
		beside.Go(func() { handler.ActOnWebhooks(background) })
		defer beside.Wait()
		defer stop()
		defer holdKeys(ctx, database, keys, "serve", logger)()
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return fmt.Errorf("serving HTTP: %w", err)
		}
	}
	logger.Info("stopping")
	return shutDown(server)
}

// checkOpen refuses what is open without a key where others can reach it.
func (c *serveCommand) checkOpen() error {
	for _, open := range []struct{ name, value, scope string }{
		{"REAUTH_CODEC_OPEN", c.CodecOpen, web.ScopeCodec}, {"REAUTH_METRICS_OPEN", c.MetricsOpen, web.ScopeMetrics},
	} {
		if isTrue(open.value) && !web.LocalURL(c.PublicURL) {
			return settingError{open.name, "is true, but REAUTH_PUBLIC_URL is not an address of this machine alone", "false, and an API key with the scope " + open.scope, "false"}
		}
	}
	return nil
}

// config wires the service, but for its database and what needs it. Everything
// in it was checked before.
func (c *serveCommand) config(keys *secrets.Keys, temporal client.Client, logger *slog.Logger) web.Config {
	var proxies []netip.Prefix
	for _, network := range list(c.TrustedProxies) {
		proxies = append(proxies, netip.MustParsePrefix(network))
	}
	limits, _ := parseRateLimits(c.RateLimits) // checked before
	asks := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue))
	return web.Config{
		Keys:           keys,
		Starter:        asks,
		FindConnection: finder(asks.FindConnection),
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
		ImportPace:          c.pace(),
		Limits:              limits,
		Logger:              logger,
		Version:             version(),
	}
}

// adoptImported asks about an imported token that a backend waits for, as a step
// of a case does.
func adoptImported(database *db.DB, keys *secrets.Keys, finchs map[string]activities.FinchClient, logger *slog.Logger) func(context.Context, string) (bool, error) {
	asking := &activities.Activities{DB: database, Keys: keys, Logger: logger, Now: time.Now, Providers: map[string]activities.Provider{}}
	for application, client := range finchs {
		asking.Providers[application] = activities.Finch{Client: client}
	}
	return func(ctx context.Context, connectionID string) (bool, error) {
		return asking.AdoptImported(finch.WithPriority(ctx, finch.PriorityConfirm), connectionID)
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
		w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Robots-Tag", "noindex, nofollow")
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
