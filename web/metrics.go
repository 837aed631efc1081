package web

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// metrics counts what happens at the doors. No label holds anything that a
// client can make up.
type metrics struct {
	registry *prometheus.Registry
	requests metric.Float64Histogram
	reports  metric.Int64Counter
	joined   metric.Int64Counter
	clicks   metric.Int64Counter
	returns  metric.Int64Counter
	holds    metric.Int64Counter
	webhooks metric.Int64Counter
	meter    metric.Meter
	obedient metric.Int64Counter
	// backlog is what was last seen to wait; nil until somebody has looked.
	backlog atomic.Pointer[backlog]
}

// backlog is how many providers' events wait, and since when the oldest does.
type backlog struct {
	waiting int64
	oldest  *time.Time
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	exp, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("exporting metrics: %w", err)
	}
	meter := sdk.NewMeterProvider(sdk.WithReader(exp)).Meter("github.com/finch-reauth/reauth/web")
	m := &metrics{registry: registry, meter: meter}
	if m.requests, err = meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"),
		metric.WithDescription("How long HTTP requests took, by route and status."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)); err != nil {
		return nil, fmt.Errorf("making a histogram: %w", err)
	}
	for _, c := range []struct {
		counter     *metric.Int64Counter
		name, about string
	}{
		{&m.reports, "reauth.reports", "Reports that reached a case, by source and whether they opened it."},
		{&m.joined, "reauth.reports.coalesced", "Those of them that joined a case without Temporal being asked, by source."},
		{&m.clicks, "reauth.clicks", "Customers who were sent to Connect."},
		{&m.returns, "reauth.returns", "Visits to the callback, by what became of them."},
		{&m.holds, "reauth.codes.held", "Codes that had to wait for Temporal."},
		{&m.webhooks, "reauth.webhooks", "Provider events, by what became of them at the door."},
		{&m.obedient, "reauth.webhooks.obeyed", "Provider events that were acted upon, by what they did."},
	} {
		if *c.counter, err = meter.Int64Counter(c.name, metric.WithDescription(c.about)); err != nil {
			return nil, fmt.Errorf("making the counter %s: %w", c.name, err)
		}
	}
	return m, m.watchBacklog(meter)
}

// watchBacklog makes the gauges of what waits.
func (m *metrics) watchBacklog(meter metric.Meter) error {
	waiting, err := meter.Int64ObservableGauge("reauth.webhooks.waiting", metric.WithDescription("Provider events that wait to be acted upon."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	oldest, err := meter.Float64ObservableGauge("reauth.webhooks.oldest", metric.WithUnit("s"), metric.WithDescription("How long the oldest provider event has waited; 0 if none waits."))
	if err != nil {
		return fmt.Errorf("making a gauge: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		b := m.backlog.Load()
		if b == nil {
			return nil
		}
		o.ObserveInt64(waiting, b.waiting)
		age := 0.0
		if b.oldest != nil {
			age = max(0, time.Since(*b.oldest).Seconds())
		}
		o.ObserveFloat64(oldest, age)
		return nil
	}, waiting, oldest)
	if err != nil {
		return fmt.Errorf("observing a gauge: %w", err)
	}
	return nil
}

// watchMail shows whether mail goes out, as of each time that somebody looks.
func (m *metrics) watchMail(database *db.DB) error {
	mode, err := m.meter.Int64ObservableGauge("reauth.mail.mode", metric.WithDescription("Whether mail goes out: 1 for the mode that is set, 0 for the others."))
	if err != nil {
		return fmt.Errorf("making the gauge of mail: %w", err)
	}
	ramp, err := m.meter.Int64ObservableGauge("reauth.mail.ramp", metric.WithDescription("How many new customers may hear in an hour; 0 lets all of them."))
	if err != nil {
		return fmt.Errorf("making the gauge of the ramp: %w", err)
	}
	waiting, err := m.meter.Int64ObservableGauge("reauth.mail.waiting", metric.WithDescription("Cases that wait for mail to be switched on, or for their turn in the ramp."))
	if err != nil {
		return fmt.Errorf("making the gauge of what waits for mail: %w", err)
	}
	_, err = m.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		control, err := database.Mail(ctx)
		if err != nil {
			return nil // a scrape shows what there is
		}
		standing, err := database.MailStanding(ctx)
		if err != nil {
			return nil
		}
		for _, known := range reauth.MailModes() {
			var is int64
			if known == control.Mode {
				is = 1
			}
			o.ObserveInt64(mode, is, metric.WithAttributes(attribute.String("mode", string(known))))
		}
		o.ObserveInt64(ramp, int64(control.Ramp))
		for why, n := range map[string]int{"stopped": standing.Stopped, "ramp": standing.Ramp, "fixed": standing.Fixed} {
			o.ObserveInt64(waiting, int64(n), metric.WithAttributes(attribute.String("why", why)))
		}
		return nil
	}, mode, ramp, waiting)
	if err != nil {
		return fmt.Errorf("watching mail: %w", err)
	}
	return nil
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) request(ctx context.Context, method, route string, status int, took time.Duration) {
	m.requests.Record(ctx, took.Seconds(), metric.WithAttributes(
		attribute.String("http.request.method", method), attribute.String("http.route", route), attribute.Int("http.response.status_code", status)))
}

func (m *metrics) reported(ctx context.Context, source reauth.Source, created bool) {
	m.reports.Add(ctx, 1, metric.WithAttributes(attribute.String("source", string(source)), attribute.Bool("created", created)))
}

func (m *metrics) coalesced(ctx context.Context, source reauth.Source) {
	m.reported(ctx, source, false)
	m.joined.Add(ctx, 1, metric.WithAttributes(attribute.String("source", string(source))))
}

func (m *metrics) clicked(ctx context.Context) { m.clicks.Add(ctx, 1) }

func (m *metrics) returned(ctx context.Context, result string) {
	m.returns.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

func (m *metrics) held(ctx context.Context) { m.holds.Add(ctx, 1) }

func (m *metrics) webhook(ctx context.Context, provider, result string) {
	m.webhooks.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider), attribute.String("result", result)))
}

func (m *metrics) obeyed(ctx context.Context, result string, n int) {
	m.obedient.Add(ctx, int64(n), metric.WithAttributes(attribute.String("result", result)))
}
