package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// finchLimitSettings say what Finch allows.
type finchLimitSettings struct {
	FinchLimit string `env:"REAUTH_FINCH_LIMIT" default:"20/1m" placeholder:"LIMIT ..." help:"Calls that Finch allows per endpoint and application, over all processes, or off; docs/sweep.md says how to write others."`
}

// sweepSettings say how often each connection is checked.
type sweepSettings struct {
	Sweep string `env:"REAUTH_SWEEP" default:"24h" placeholder:"DURATION" help:"How often each connection is checked although nobody complained, or off."`
}

func checkFinchLimit(value string) error {
	_, err := finch.ParseLimits(value)
	return err
}

func checkSweep(value string) error {
	_, err := parseSweep(value)
	return err
}

// parseSweep reads how often each connection is checked; 0 is never.
func parseSweep(value string) (time.Duration, error) {
	if value == "off" {
		return 0, nil
	}
	every, err := time.ParseDuration(value)
	if err != nil || every < reauth.MinSweepEvery || every > reauth.MaxSweepEvery {
		return 0, errMalformed
	}
	return every, nil
}

// finchBudget makes the clients of Finch, and shares out among them what Finch allows.
type finchBudget struct {
	make    func(finch.Config) activities.FinchClient
	limiter *db.FinchLimiter // nil: no limit
	calls   metric.Int64Counter
	logger  *slog.Logger
}

// budget makes the budget of all Finch clients of this process, which it shares
// with every other process on the database, and counts its calls.
func (s finchLimitSettings) budget(p parts, database *db.DB, meter metric.Meter, logger *slog.Logger) (finchBudget, error) {
	if s.FinchLimit == "off" {
		return finchBudget{make: p.finch}, nil
	}
	limits, err := finch.ParseLimits(s.FinchLimit)
	if err != nil {
		return finchBudget{}, malformed("REAUTH_FINCH_LIMIT", err)
	}
	b := finchBudget{make: p.finch, limiter: database.FinchLimiter(limits), logger: logger}
	b.calls, err = meter.Int64Counter("reauth.finch.calls", metric.WithDescription(
		"Calls to Finch by this process, by how urgent they are and what became of them: sent; waits, for which Finch's limit left no room; refused, by Finch for its limit; blind, sent without counting since the database was away."))
	if err != nil {
		return finchBudget{}, fmt.Errorf("making a counter: %w", err)
	}
	return b, b.observe(meter)
}

// observe shows how much of the budget is used, over all processes.
func (b finchBudget) observe(meter metric.Meter) error {
	share, err := meter.Float64ObservableGauge("reauth.finch.budget.share", metric.WithUnit("1"),
		metric.WithDescription("Share of Finch's limit that is used now, over all processes, by application and endpoint."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	waiting, err := meter.Int64ObservableGauge("reauth.finch.waiting", metric.WithDescription("Calls that wait for room in Finch's limit, over all processes."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		use, err := b.limiter.Use(ctx)
		if err != nil {
			return err
		}
		for _, u := range use {
			of := metric.WithAttributes(attribute.String("application", u.Application), attribute.String("endpoint", u.Endpoint))
			if u.Limit.Calls > 0 {
				o.ObserveFloat64(share, u.Share(), of)
			}
			o.ObserveInt64(waiting, int64(u.Waiting), of)
		}
		return nil
	}, share, waiting)
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// client makes the Finch client of an application.
func (b finchBudget) client(application string, config finch.Config) activities.FinchClient {
	if b.limiter != nil {
		config.HTTPClient = &http.Client{Transport: &finch.LimitTransport{
			Limiter: b.limiter, Application: application, Logger: b.logger, Count: b.count,
		}}
	}
	return b.make(config)
}

func (b finchBudget) count(ctx context.Context, c finch.Call, fate finch.Fate) {
	b.calls.Add(ctx, 1, metric.WithAttributes(attribute.String("application", c.Application), attribute.String("endpoint", c.Endpoint),
		attribute.String("priority", c.Priority.String()), attribute.String("fate", string(fate))))
}

// observeSweep shows how far behind the checks of connections are.
func observeSweep(meter metric.Meter, database *db.DB, now func() time.Time, every time.Duration) error {
	age, err := meter.Float64ObservableGauge("reauth.sweep.oldest_check.age", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest check of a connection, of those that are checked in turn."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	connections, err := meter.Int64ObservableGauge("reauth.sweep.connections",
		metric.WithDescription("Connections that are checked in turn: all of them, those that are overdue, and those that were never checked."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		at := now()
		lag, err := database.SweepLag(ctx, at.Add(-every), at.Add(-reauth.SweepDueAfter(every)))
		if err != nil {
			return err
		}
		if lag.OldestAt != nil {
			o.ObserveFloat64(age, max(0, at.Sub(*lag.OldestAt)).Seconds())
		}
		for state, n := range map[string]int{"all": lag.Connections, "overdue": lag.Overdue, "never": lag.Never} {
			o.ObserveInt64(connections, int64(n), metric.WithAttributes(attribute.String("state", state)))
		}
		return nil
	}, age, connections)
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// meterOn counts into a registry that others use as well.
func meterOn(registry *prometheus.Registry) (metric.Meter, error) {
	exporter, err := prometheusexporter.New(prometheusexporter.WithRegisterer(registry), prometheusexporter.WithoutScopeInfo(), prometheusexporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("setting up metrics: %w", err)
	}
	return sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("reauth"), nil
}
