package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

// Starter is the way to Temporal; *starter.Starter is one.
type Starter interface {
	Report(ctx context.Context, in reauth.Input) (starter.Reported, error)
	SubmitCode(ctx context.Context, connectionID string, m reauth.CodeReceived) (runID string, err error)
	Redeem(ctx context.Context, in reauth.RedeemInput) (started bool, err error)
	Restored(ctx context.Context, connectionID string) error
	Cancel(ctx context.Context, connectionID string, m reauth.Cancel) error
	Snooze(ctx context.Context, connectionID string, m reauth.Snooze) error
	Remind(ctx context.Context, connectionID string, m reauth.RemindNow) error
	StopNotices(ctx context.Context, connectionID string, m reauth.StopNotices) error
	// ContactsChanged is nil when no case is open.
	ContactsChanged(ctx context.Context, connectionID string, m reauth.ContactsChanged) error
	WatchStorm(ctx context.Context, stormID string) error
	ReleaseStorm(ctx context.Context, stormID, by string) error
}

// Config is what the service needs. Fields are required unless they say
// otherwise.
type Config struct {
	DB      *db.DB
	Keys    *secrets.Keys
	Starter Starter
	// Introspect asks the provider what a token is worth. It, Disconnect and Job
	// return lifecycle.ErrUnknownApplication for an application whose client
	// credentials are not configured.
	Introspect func(ctx context.Context, application string, token secrets.Secret) (finch.Introspection, error)
	// Disconnect ends the connection of a token at its provider. Without it no
	// connection can be disconnected.
	Disconnect func(ctx context.Context, application string, token secrets.Secret) error
	// AdoptImported asks the provider about the tokens that imports have handed
	// in as a connection's, and stores the one that works; adopted says that
	// there is one. Optional: without it, they wait for the background.
	AdoptImported func(ctx context.Context, connectionID string) (adopted bool, err error)
	// ImportPace is how many imported tokens are asked about in a minute;
	// imports.DefaultPace if 0.
	ImportPace int
	// Job asks the provider what became of a job of a token's connection.
	// Without it, events about jobs are kept and ignored.
	Job func(ctx context.Context, application string, token secrets.Secret, jobID string) (finch.Job, error)
	// FindConnection asks the provider which connection a customer has; ""
	// means that the provider knows none. An application that is not configured is
	// refused as by Introspect. It is called only where a report asks for it
	// (ask_provider), and the connection is registered before it is reported. Nil:
	// it is not available.
	FindConnection func(ctx context.Context, application, customerID, customerName string) (connectionID string, err error)
	// TemporalHealth tells whether Temporal can be reached.
	TemporalHealth func(ctx context.Context) error

	// PublicURL is how browsers reach this service, as
	// "https://reauth.example.com", without a path.
	PublicURL string
	// ConnectHosts are the hosts that a customer may be sent to: exactly, with
	// their port where it is not the scheme's own. Without any,
	// connect.tryfinch.com.
	ConnectHosts []string
	// ProductName is the company's product as its customers know it.
	ProductName string
	// Campaigns are the names of the campaigns that there are; others are
	// refused. Nil takes every name.
	Campaigns []string
	// SupportEmail is shown to customers who need a person. Optional.
	SupportEmail string

	// FinchWebhookSecrets verify Finch's webhooks: more than one while a
	// secret is rotated. They are the default application's. Where no
	// application has any, the endpoint answers 404.
	FinchWebhookSecrets []string
	// Applications are those beside the default one. Optional.
	Applications []Application
	// BootstrapAPIKey is stored, hashed, as a key with every scope. Optional.
	BootstrapAPIKey string

	// CodecOrigins are the origins of Temporal's web UI, whose browsers may
	// call the payload codec. Optional.
	CodecOrigins []string
	// CodecOpen and MetricsOpen let /codec and /metrics be used without an API
	// key. They are for services that only their own machine can reach, so they are
	// refused unless PublicURL is an address of it.
	CodecOpen, MetricsOpen bool
	// TemporalUIURL is where operators find a case's workflow, in
	// TemporalNamespace ("default" by default). Optional.
	TemporalUIURL, TemporalNamespace string
	// SignIn says how operators sign in to their pages; without it there are none.
	SignIn *SignIn

	// Stopping is done when the service is to stop: answers that are held back
	// are given then. Optional.
	Stopping context.Context

	// Limits bound how many requests are answered. Optional.
	Limits Limits
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Registry collects the metrics; by default a new one.
	Registry *prometheus.Registry
	// Logger and Now default to slog's default and the clock.
	Logger *slog.Logger
	Now    func() time.Time
	// Version is shown in the API's description. Optional.
	Version string
}

// check fills defaults in and says which field is wrong, if any.
func (c *Config) check() error {
	switch {
	case c.DB == nil:
		return errors.New("web: DB is missing")
	case c.Keys == nil:
		return errors.New("web: Keys are missing")
	case c.Starter == nil:
		return errors.New("web: Starter is missing")
	case c.Introspect == nil:
		return errors.New("web: Introspect is missing")
	case c.TemporalHealth == nil:
		return errors.New("web: TemporalHealth is missing")
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New(`web: PublicURL must be an absolute http or https URL without a path, as "https://reauth.example.com"`)
	}
	c.PublicURL = u.Scheme + "://" + u.Host
	if (c.CodecOpen || c.MetricsOpen) && !LocalURL(c.PublicURL) {
		return errors.New("web: CodecOpen and MetricsOpen are for services that only their own machine can reach, and PublicURL is no address of it")
	}
	if len(c.ConnectHosts) == 0 {
		c.ConnectHosts = []string{"connect.tryfinch.com"}
	}
	for _, host := range c.ConnectHosts {
		if u, err := url.Parse("https://" + host); err != nil || u.Host != host || host == "" {
			return fmt.Errorf(`web: ConnectHosts holds %q, but needs host names, as "connect.tryfinch.com" or "127.0.0.1:8080"`, host)
		}
	}
	for i, a := range c.Applications {
		if a.Name == "" || a.Name == reauth.DefaultApplication || slices.ContainsFunc(c.Applications[:i], func(b Application) bool { return b.Name == a.Name }) {
			return fmt.Errorf("web: Applications[%d] has no name of its own", i)
		}
	}
	for _, origin := range c.CodecOrigins {
		if err := secrets.CheckOrigin(origin); err != nil {
			return fmt.Errorf("web: CodecOrigins holds %q, but %w", origin, err)
		}
	}
	c.Limits.fill()
	if c.SignIn != nil && c.SignIn.OpenID != nil {
		if err := CheckAllow(c.SignIn.OpenID.Allow); err != nil {
			return fmt.Errorf("web: SignIn.OpenID.Allow must say who is an operator: %w", err)
		}
	}
	if c.TemporalNamespace == "" {
		c.TemporalNamespace = "default"
	}
	if c.ProductName == "" {
		c.ProductName = "Reauth"
	}
	if c.Disconnect == nil {
		c.Disconnect = noDisconnect
	}
	if c.ImportPace == 0 {
		c.ImportPace = imports.DefaultPace
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	return nil
}

// LocalURL tells whether an address leads to the machine itself: then nobody else
// is meant to reach what is there.
func LocalURL(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// checkCampaign refuses the name of a campaign that does not exist; an empty
// one leaves the choice to us. The error is a problem.
func (c *Config) checkCampaign(name string) error {
	if err := register.CheckCampaign(name, c.Campaigns); err != nil {
		return fieldProblem("body.campaign", err.Error())
	}
	return nil
}

// secure tells whether browsers reach this service over TLS.
func (c *Config) secure() bool { return strings.HasPrefix(c.PublicURL, "https://") }

// connectURLAllowed tells whether a customer's browser may be sent there: a
// session URL comes from a provider over the network and from a database, and
// this service must not be talked into redirecting anywhere else.
func (c *Config) connectURLAllowed(u *url.URL) bool {
	if u.User != nil || (u.Scheme != "https" && (u.Scheme != "http" || c.secure())) {
		return false
	}
	for _, host := range c.ConnectHosts {
		if strings.EqualFold(u.Host, host) {
			return true
		}
	}
	return false
}

// ensureBootstrapKey stores the first API key, hashed.
func (c *Config) ensureBootstrapKey(ctx context.Context) error {
	if c.BootstrapAPIKey == "" {
		return nil
	}
	if err := c.DB.EnsureAPIKey(ctx, BootstrapKeyName, hashAPIKey(c.BootstrapAPIKey), Scopes()); err != nil {
		return fmt.Errorf("storing the bootstrap API key: %w", err)
	}
	return nil
}

var _ http.Handler = (*Service)(nil)
