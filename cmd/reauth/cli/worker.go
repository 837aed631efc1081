package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
	"github.com/finch-reauth/reauth/worker"
	"github.com/finch-reauth/reauth/worker/clock"
)

const restartAfter = 5 * time.Second

type workerCommand struct {
	databaseSettings
	keySettings
	serviceSettings
	finchSettings
	finchClientSettings
	applicationSettings
	finchLimitSettings
	sweepSettings
	mailSettings
	caseSettings
	campaignSettings
	stormSettings
	chatSettings
	webhookSettings
	importSettings
	outboundSettings
	metricsSettings
	logSettings
	TemporalUIURL string `name:"temporal-ui-url" env:"REAUTH_TEMPORAL_UI_URL" placeholder:"URL" help:"Address of the Temporal web UI, for links to it."`
	DevClock      string `env:"REAUTH_DEV_CLOCK" hidden:"" help:"The clock that 'reauth dev --speed' makes cases live by."`
}

func (c *workerCommand) Run(ctx context.Context, s streams, p parts) error {
	if err := c.webhookSettings.check(); err != nil {
		return err
	}
	logger := c.logger(s.err)
	keys, err := c.keys()
	if err != nil {
		return err
	}
	mail, err := notify.NewSMTP(c.SMTPURL)
	if err != nil {
		return malformed("SMTP_URL", err)
	}
	if err := c.checkTargets(ctx); err != nil {
		return err
	}
	mail = mail.Through(c.guard())
	options, err := temporalOptions(keys, logger)
	if err != nil {
		return err
	}
	campaigns, err := c.book()
	if err != nil {
		return err
	}
	if name := headless(campaigns); name != "" && c.WebhookURL == "" {
		return settingError{"REAUTH_WEBHOOK_URL", "is missing, which the channel webhook of the campaign " + name + " needs", rules()["REAUTH_WEBHOOK_URL"].wants, rules()["REAUTH_WEBHOOK_URL"].example}
	}
	further, err := c.further()
	if err != nil {
		return err
	}
	backends, err := receivers(further, c.WebhookURL)
	if err != nil {
		return err
	}
	var meter metric.Meter = noop.Meter{}
	if c.MetricsAddr != "" {
		counting, stop, err := c.serveMetrics(&options, logger)
		if err != nil {
			return err
		}
		defer stop()
		meter = counting
	}

	var database *db.DB
	err = patiently(ctx, logger, "PostgreSQL", func(attempt context.Context) error {
		database, err = db.Open(attempt, c.DatabaseURL)
		return err
	})
	if err != nil {
		return stopped(ctx, err)
	}
	defer database.Close()
	database.PublishEvents(c.WebhookURL != "")
	defer holdKeys(ctx, database, keys, "worker", logger)()
	budget, err := c.budget(p, database, meter, logger)
	if err != nil {
		return err
	}
	err = patiently(ctx, logger, "the database's tables", func(attempt context.Context) error {
		return database.InitMail(attempt, reauth.MailMode(c.FirstMail), "the setting REAUTH_MAIL")
	})
	if err != nil {
		return stopped(ctx, err)
	}
	var operators chat.Poster
	if c.Chat != "" {
		if operators, err = chat.New(c.Chat, c.guard()); err != nil {
			return malformed("REAUTH_CHAT", err)
		}
	}
	finchs, err := providers(c.finchSettings, c.finchClientSettings, further, budget.client)
	if err != nil {
		return err
	}

	var temporal client.Client
	err = patiently(ctx, logger, "Temporal", func(attempt context.Context) error {
		temporal, err = client.DialContext(attempt, options)
		return err
	})
	if err != nil {
		return stopped(ctx, err)
	}
	defer temporal.Close()
	attributes, cancel := context.WithTimeout(ctx, 10*time.Second)
	if err := worker.RegisterSearchAttributes(attributes, temporal, options.Namespace); err != nil {
		logger.Warn("search attributes could not be registered; if they are missing, "+attributesByHand, "error", err.Error())
	}
	cancel()

	config := worker.Config{
		Temporal:      temporal,
		Activities:    c.activities(database, finchs, keys, mail, campaigns, temporal, logger),
		DB:            database,
		TaskQueue:     c.TaskQueue,
		WebhookURL:    c.WebhookURL,
		WebhookSecret: c.WebhookSecret,
		Receivers:     backends,
		Chat:          c.Chat,
		ImportPace:    c.pace(),
		Outbound:      c.guard(),
		TemporalUIURL: c.TemporalUIURL,
		Namespace:     options.Namespace,
		Logger:        logger,
	}
	config.Activities.Chat = operators
	if c.DevClock != "" {
		fast, _ := clock.Parse(c.DevClock) // checked before
		config.Clock = &fast
		config.DB = database.WithClock(fast.Now)
		config.Activities.Now, config.Activities.Hasten, config.Activities.DB = fast.Now, fast.At, config.DB
		logger.Warn("time passes faster for cases than in the world; this is for a developer's machine and nothing else",
			"speed", fast.Speed, "epoch", fast.Epoch, "now", fast.Now())
	}
	every, _ := parseSweep(c.Sweep) // checked before
	if every > 0 {
		if err := observeSweep(meter, config.DB, config.Activities.Now, every); err != nil {
			return err
		}
	}
	var scheduling sync.WaitGroup
	defer scheduling.Wait()
	scheduling.Go(func() {
		_ = patiently(ctx, logger, "the schedule of sweeps", func(attempt context.Context) error {
			err := worker.ScheduleSweep(attempt, temporal, c.TaskQueue, every)
			if err != nil && notPermitted(err) {
				logger.Warn("Temporal does not let us schedule sweeps; run `reauth sweep` from elsewhere", "error", err.Error())
				return nil
			}
			return err
		})
	})
	for {
		err := worker.Run(ctx, config)
		if ctx.Err() != nil {
			return nil
		}
		// Its namespace may not be there yet, or was away for too long.
		logger.Error("the worker cannot go on; starting it again", "retry_in", restartAfter.String(), "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartAfter):
		}
	}
}

// stopped turns the end of a command that was asked to stop into a success.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// activities wires what a case does to the world. Everything in it was checked
// before.
func (c *workerCommand) activities(database *db.DB, finchs map[string]activities.Provider, keys *secrets.Keys, mail *notify.SMTP, campaigns *campaign.Book, temporal client.Client, logger *slog.Logger) *activities.Activities {
	minutes, _ := strconv.Atoi(c.SessionMinutes)
	renewals, _ := strconv.Atoi(c.SessionRenewals)
	storm, settles, _ := parseStorm(c.Storm)
	cases := starter.New(temporal, starter.WithTaskQueue(c.TaskQueue))
	return &activities.Activities{
		DB:        database,
		Keys:      keys,
		Providers: finchs,
		Mail:      mail,
		Hand:      cases,
		Cases:     cases,
		Storms:    cases,
		Finds:     cases,
		Steer:     cases,
		Settings: activities.Settings{
			PublicURL:       c.PublicURL,
			MailFrom:        c.MailFrom,
			ProductName:     c.ProductName,
			SupportEmail:    c.SupportEmail,
			OperatorEmail:   c.OperatorEmail,
			SessionMinutes:  minutes,
			SessionRenewals: renewals,
			Campaigns:       campaigns,
			Storm:           storm,
			StormSettles:    settles,
			Chat:            c.Chat != "",
			TemporalUIURL:   c.TemporalUIURL,
			Webhooks:        c.WebhookURL != "",
		},
		Logger: logger,
		Now:    time.Now,
	}
}

// serveMetrics makes the Temporal client count, and serves what it counts and
// what is counted with the meter.
func (c *workerCommand) serveMetrics(options *client.Options, logger *slog.Logger) (meter metric.Meter, stop func(), err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := prometheusexporter.New(prometheusexporter.WithRegisterer(registry), prometheusexporter.WithoutScopeInfo())
	if err != nil {
		return nil, nil, fmt.Errorf("setting up metrics: %w", err)
	}
	meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("reauth")
	options.MetricsHandler = opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{Meter: meter})

	listener, err := net.Listen("tcp", c.MetricsAddr)
	if err != nil {
		return nil, nil, fmt.Errorf("listening on REAUTH_METRICS_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	server := newHTTPServer(mux, logger)
	go func() { _ = server.Serve(listener) }()
	return meter, func() { _ = server.Close() }, nil
}
