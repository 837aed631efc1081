package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker/clock"
)

// The settings, grouped by what they are for. Each one is a flag and an
// environment variable; its rule (below) says what it wants. A group that a
// command embeds is checked before the command runs. Those marked `needed` must
// be given, those marked `hidden` are secrets that belong into the environment.

type databaseSettings struct {
	DatabaseURL string `env:"DATABASE_URL" needed:"" hidden:"" help:"URL of the PostgreSQL database."`
}

// openDatabase returns the database, which the caller closes.
func openDatabase(ctx context.Context, url string) (*db.DB, error) {
	database, err := db.Open(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return database, nil
}

type keySettings struct {
	Keyset string `env:"REAUTH_KEYSET" needed:"" hidden:"" help:"The keyset that seals tokens, made by 'reauth keys new', or file:PATH."`
}

type clientKeySettings struct {
	Keyset string `env:"REAUTH_KEYSET" hidden:"" help:"The keyset; without one, what goes to Temporal is not encrypted."`
}

type serviceSettings struct {
	PublicURL    string `env:"REAUTH_PUBLIC_URL" needed:"" placeholder:"URL" help:"Address under which customers' browsers reach this service."`
	ProductName  string `env:"REAUTH_PRODUCT_NAME" default:"Your payroll integration" placeholder:"TEXT" help:"Name of your product, as customers know it."`
	SupportEmail string `env:"REAUTH_SUPPORT_EMAIL" placeholder:"EMAIL" help:"Where customers find help."`
	TaskQueue    string `env:"REAUTH_TASK_QUEUE" default:"reauth" placeholder:"NAME" help:"Temporal task queue."`
}

type finchSettings struct {
	FinchBaseURL string `env:"FINCH_BASE_URL" default:"https://api.tryfinch.com" placeholder:"URL" help:"Finch's API."`
}

type finchClientSettings struct {
	FinchClientID     string `env:"FINCH_CLIENT_ID" needed:"" placeholder:"ID" help:"Client ID of your Finch application."`
	FinchClientSecret string `env:"FINCH_CLIENT_SECRET" needed:"" hidden:"" help:"Client secret of your Finch application."`
}

type httpSettings struct {
	HTTPAddr           string `env:"REAUTH_HTTP_ADDR" default:":8080" placeholder:"HOST:PORT" help:"Address to listen on."`
	BootstrapAPIKey    string `env:"REAUTH_BOOTSTRAP_API_KEY" hidden:"" help:"The first API key; it is stored hashed."`
	FinchWebhookSecret string `env:"FINCH_WEBHOOK_SECRET" hidden:"" help:"Secret of Finch's webhooks; two with a space between them while one replaces the other."`
	CodecOrigins       string `env:"REAUTH_CODEC_ORIGINS" placeholder:"ORIGIN,..." help:"Origins of the Temporal web UIs that may have payloads decoded in a browser."`
	ConnectHosts       string `env:"REAUTH_CONNECT_HOSTS" placeholder:"HOST,..." help:"Hosts that a link's button may lead to; by default connect.tryfinch.com and that of FINCH_BASE_URL."`
	TemporalUIURL      string `name:"temporal-ui-url" env:"REAUTH_TEMPORAL_UI_URL" placeholder:"URL" help:"Address of the Temporal web UI, for links to it."`
	TrustedProxies     string `env:"REAUTH_TRUSTED_PROXIES" placeholder:"NETWORK,..." help:"Networks of the proxies whose X-Forwarded-For is believed."`
	RateLimits         string `env:"REAUTH_RATE_LIMITS" placeholder:"LIMITS" help:"How many requests are answered: of one API key, of one address without a key, webhooks of one address, wrong keys of one address. off for any number."`
	CodecOpen          string `env:"REAUTH_CODEC_OPEN" default:"false" placeholder:"BOOL" help:"Let /codec be used without an API key: only where REAUTH_PUBLIC_URL is this machine's own."`
	MetricsOpen        string `env:"REAUTH_METRICS_OPEN" default:"false" placeholder:"BOOL" help:"Let /metrics be read without an API key: only where REAUTH_PUBLIC_URL is this machine's own."`
}

type mailSettings struct {
	SMTPURL       string `name:"smtp-url" env:"SMTP_URL" needed:"" hidden:"" help:"URL of the mail server."`
	MailFrom      string `env:"REAUTH_MAIL_FROM" needed:"" placeholder:"MAILBOX" help:"Sender of the mails."`
	OperatorEmail string `env:"REAUTH_OPERATOR_EMAIL" placeholder:"EMAIL" help:"Who is told what only an operator can mend."`
	FirstMail     string `name:"mail" env:"REAUTH_MAIL" default:"on" placeholder:"MODE" help:"Whether mail goes out at first: on, shadow or stopped. Once set in the database, 'reauth mail' changes it."`
}

type caseSettings struct {
	SessionMinutes  string `env:"REAUTH_SESSION_MINUTES" default:"43200" placeholder:"N" help:"Minutes until a Connect session ends."`
	SessionRenewals string `env:"REAUTH_SESSION_RENEWALS" default:"0" placeholder:"N" help:"How often a case opens a further session."`
}

type webhookSettings struct {
	WebhookURL    string `env:"REAUTH_WEBHOOK_URL" placeholder:"URL" help:"Where your backend hears of outcomes."`
	WebhookSecret string `env:"REAUTH_WEBHOOK_SECRET" hidden:"" help:"Secret with which those webhooks are signed."`
}

type metricsSettings struct {
	MetricsAddr string `env:"REAUTH_METRICS_ADDR" placeholder:"HOST:PORT" help:"Address to serve /metrics on; nothing is served without."`
}

type importSettings struct {
	ImportPace string `env:"REAUTH_IMPORT_PACE" default:"20" placeholder:"N" help:"How many imported tokens the provider is asked about in a minute, by all workers together."`
}

func (s importSettings) pace() int {
	n, _ := strconv.Atoi(s.ImportPace) // checked before
	return n
}

type logSettings struct {
	LogLevel string `env:"REAUTH_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
}

// rule says what a setting wants, in words and in code. What check returns may
// be shown, so it never repeats the value.
type rule struct {
	wants   string
	example string
	check   func(value string) error
}

func rules() map[string]rule {
	return map[string]rule{
		"DATABASE_URL":              {"the URL of a PostgreSQL database", "postgres://reauth:PASSWORD@localhost:5432/reauth?sslmode=disable", checkDatabaseURL},
		"REAUTH_KEYSET":             {"a keyset made by `reauth keys new`, or the file that holds it", "file:/run/secrets/reauth-keyset", checkKeyset},
		"REAUTH_PUBLIC_URL":         {"the absolute http or https URL, without a path, under which customers reach this service", "https://reauth.example.com", checkPublicURL},
		"REAUTH_PRODUCT_NAME":       {"a name of one line, 100 characters at most", "Acme Insights", checkName},
		"REAUTH_SUPPORT_EMAIL":      {"an e-mail address", "support@example.com", checkEmail},
		"REAUTH_TASK_QUEUE":         {"1 to 200 letters, digits, '.', '_', ':', '/' or '-'", "reauth", checkTaskQueue},
		"FINCH_BASE_URL":            {"the absolute http or https URL of Finch's API", "https://api.tryfinch.com", checkBaseURL},
		"FINCH_CLIENT_ID":           {"the client ID that Finch's dashboard shows", "6d28c315-5eaa-4071-8ea5-f030eb45edbc", checkPrintable},
		"FINCH_CLIENT_SECRET":       {"the client secret that Finch's dashboard shows", "finch-secret-production-XXXX", checkPrintable},
		"FINCH_WEBHOOK_SECRET":      {"the secret that Finch showed when the webhook was made, or two with a space between them", "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH", checkWebhookSecrets},
		"REAUTH_APPLICATIONS":       {"a YAML file with applications beside the default one", "/etc/reauth/applications.yaml", checkApplications},
		"REAUTH_FINCH_LIMIT":        {"off, or a number of calls in a time, for every endpoint and with NAME= before it for one", "20/1m introspect=40/1m ip=1000/5m", checkFinchLimit},
		"REAUTH_SWEEP":              {"off, or how often each connection is checked, from 1m to 720h", "24h", checkSweep},
		"REAUTH_RETENTION":          {"on, off, or times in days for any of the kinds of data, KIND=TIME with spaces between them", "webhooks=30d clicks=90d tokens=keep", checkRetention},
		"REAUTH_HTTP_ADDR":          {"an address to listen on, HOST:PORT or :PORT", ":8080", checkAddr},
		"REAUTH_BOOTSTRAP_API_KEY":  {"at least 20 printable characters without spaces, as random as a password", "reauth_XXXXXXXXXXXXXXXXXXXXXXXX", checkAPIKey},
		"REAUTH_CODEC_ORIGINS":      {"origins, SCHEME://HOST or SCHEME://HOST:PORT, with commas between them", "https://temporal.example.com", checkOrigins},
		"REAUTH_CONNECT_HOSTS":      {"hosts, HOST or HOST:PORT, with commas between them", "connect.tryfinch.com", checkHosts},
		"REAUTH_TEMPORAL_UI_URL":    {"the absolute http or https URL of the Temporal web UI", "https://temporal.example.com", checkBaseURL},
		"REAUTH_TRUSTED_PROXIES":    {"networks in CIDR form with commas between them", "10.0.0.0/8", checkNetworks},
		"REAUTH_RATE_LIMITS":        {"off, or any of key, address, webhooks and refused, each with a number a second or a minute", "key=1000/s address=100/s webhooks=1000/s refused=30/m", checkRateLimits},
		"REAUTH_CODEC_OPEN":         {"true or false", "false", checkBool},
		"REAUTH_METRICS_OPEN":       {"true or false", "false", checkBool},
		"SMTP_URL":                  {"the URL of a mail server", "smtp://USER:PASSWORD@smtp.example.com:587", checkSMTPURL},
		"REAUTH_MAIL_FROM":          {"the sender of the mails, with or without a name", "Acme Insights <connections@example.com>", checkMailbox},
		"REAUTH_OPERATOR_EMAIL":     {"an e-mail address", "operations@example.com", checkEmail},
		"REAUTH_MAIL":               {"on, shadow or stopped", "shadow", checkMailMode},
		"REAUTH_SESSION_MINUTES":    {fmt.Sprintf("a whole number of minutes from %d to %d", reauth.MinSessionMinutes, reauth.MaxSessionMinutes), "43200", checkNumber(reauth.MinSessionMinutes, reauth.MaxSessionMinutes)},
		"REAUTH_SESSION_RENEWALS":   {fmt.Sprintf("a whole number from 0 to %d", reauth.MaxRenewals), "2", checkNumber(0, reauth.MaxRenewals)},
		"REAUTH_REMINDERS":          {"durations with commas between them: after the opening of a case, or before its deadline where negative", "0s,2d,5d,9d,13d,-24h", checkReminders},
		"REAUTH_CAMPAIGNS":          {"a YAML file with campaigns", "/etc/reauth/campaigns.yaml", checkCampaigns},
		"REAUTH_TIME_ZONE":          {"an IANA time zone", "America/New_York", checkTimeZone},
		"REAUTH_STORM":              {"off, or count, share, within, hold and settle", "count=50 share=20% within=5m hold=4h settle=30s", checkStorm},
		"REAUTH_CHAT":               {"slack://BOT_TOKEN@CHANNEL, or the https URL of an incoming webhook", "slack://xoxb-XXXXXXXXXXXX@C0123456789", checkChat},
		"REAUTH_WEBHOOK_URL":        {"the absolute http or https URL of an endpoint of your backend", "https://backend.example.com/webhooks/reauth", checkURL},
		"REAUTH_WEBHOOK_SECRET":     {"a secret of the Standard Webhooks form, whsec_ and then base64 of 24 to 64 bytes", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", checkWebhookSecret},
		"REAUTH_IMPORT_PACE":        {"a whole number of calls a minute from 1 to 6000", "20", checkNumber(1, 6000)},
		"REAUTH_OUTBOUND_ALLOW":     {"networks with commas between them: CIDR prefixes, addresses, loopback or private", "10.20.0.0/16,loopback", checkOutbound},
		"REAUTH_METRICS_ADDR":       {"an address to listen on, HOST:PORT or :PORT", ":9090", checkAddr},
		"REAUTH_OIDC_ISSUER":        {"the absolute http or https URL of an OpenID Connect issuer", "https://login.example.com", checkBaseURL},
		"REAUTH_OIDC_CLIENT_ID":     {"the client ID that the identity provider gave us", "reauth", checkPrintable},
		"REAUTH_OIDC_CLIENT_SECRET": {"the client secret that the identity provider gave us", "XXXXXXXXXXXXXXXX", checkPrintable},
		"REAUTH_OIDC_ALLOW":         {"who of the identity provider's people is an operator: email:, domain:, group: and subject:, with commas between them", "group:payroll-ops,email:ada@example.com", checkAllow},
		"REAUTH_SIGN_IN_BY_KEY":     {"true or false", "false", checkBool},
		"REAUTH_LOG_LEVEL":          {"debug, info, warn or error", "info", checkLogLevel},
		"REAUTH_DEV_CLOCK":          {"what `reauth dev --speed` sets, a speed and an epoch", "4000@2026-11-21T02:00:00Z", checkDevClock},

		"TEMPORAL_ADDRESS":                       {"the address of a Temporal server, HOST:PORT", "localhost:7233", checkHostPort},
		"TEMPORAL_NAMESPACE":                     {"a Temporal namespace", "default", checkPrintable},
		"TEMPORAL_TLS":                           {"true or false", "true", checkBool},
		"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": {"true or false", "false", checkBool},
	}
}

// settingError is a setting that is missing or malformed. Its text never holds
// the value, which may be a secret.
// usageError is a wrong argument.
type usageError struct{ error }

type settingError struct{ name, problem, wants, example string }

func (e settingError) Error() string {
	return fmt.Sprintf("%s %s; it wants %s, for example %s=%s", e.name, e.problem, e.wants, e.name, quoteForShell(e.example))
}

func missing(name string) error {
	r := rules()[name]
	return settingError{name, "is missing", r.wants, r.example}
}

func malformed(name string, problem error) error {
	r := rules()[name]
	text := "is malformed"
	if problem.Error() != "" {
		text += " (" + problem.Error() + ")"
	}
	return settingError{name, text, r.wants, r.example}
}

// errMalformed is without words: what the setting wants says enough.
var errMalformed = errors.New("")

func quoteForShell(s string) string {
	if strings.ContainsAny(s, " <>?&;") {
		return "'" + s + "'"
	}
	return s
}

// checkSettings checks every setting among the fields of a command, and
// removes the space around their values.
func checkSettings(command any) error {
	return checkFields(reflect.ValueOf(command).Elem())
}

func checkFields(fields reflect.Value) error {
	for i := range fields.NumField() {
		field, value := fields.Type().Field(i), fields.Field(i)
		name := field.Tag.Get("env")
		switch {
		case field.Anonymous && field.Type.Kind() == reflect.Struct:
			if err := checkFields(value); err != nil {
				return err
			}
		case name != "":
			text := strings.TrimSpace(value.String())
			if text == "" { // as composed containers have variables that nobody set
				text = field.Tag.Get("default")
			}
			if _, needed := field.Tag.Lookup("needed"); needed && text == "" {
				return missing(name)
			}
			if text != "" {
				if err := rules()[name].check(text); err != nil {
					return malformed(name, err)
				}
			}
			value.SetString(text)
		}
	}
	return nil
}

func (s webhookSettings) check() error {
	if s.WebhookURL != "" && s.WebhookSecret == "" {
		return missing("REAUTH_WEBHOOK_SECRET")
	}
	return nil
}

func checkDatabaseURL(value string) error {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return errMalformed
	}
	if u.Host == "" && !u.Query().Has("host") {
		return errors.New("it names no host")
	}
	if strings.Trim(u.Path, "/") == "" && !u.Query().Has("dbname") {
		return errors.New("it names no database")
	}
	if _, err := pq.NewConnector(value); err != nil {
		return errMalformed
	}
	return nil
}

func checkKeyset(value string) error {
	_, err := secrets.Load(value, keyServices()...)
	return err
}

func checkSMTPURL(value string) error {
	_, err := notify.NewSMTP(value)
	return err
}

func checkURL(value string) error {
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return errMalformed
	}
	return nil
}

func checkBaseURL(value string) error {
	if err := checkURL(value); err != nil {
		return err
	}
	u, err := url.Parse(value)
	if err != nil || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errors.New("it may have no query, fragment or password")
	}
	return nil
}

func checkPublicURL(value string) error {
	if err := checkBaseURL(value); err != nil {
		return err
	}
	if u, err := url.Parse(value); err != nil || strings.Trim(u.Path, "/") != "" {
		return errors.New("it may have no path")
	}
	return nil
}

func checkNetworks(value string) error {
	for _, network := range list(value) {
		if _, err := netip.ParsePrefix(network); err != nil {
			return errMalformed
		}
	}
	return nil
}

func checkWebhookSecret(value string) error {
	encoded, prefixed := strings.CutPrefix(value, "whsec_")
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !prefixed || err != nil || len(secret) < 24 || len(secret) > 64 {
		return errMalformed
	}
	return nil
}

func checkMailMode(value string) error {
	if !slices.Contains(reauth.MailModes(), reauth.MailMode(value)) {
		return errMalformed
	}
	return nil
}

func checkLogLevel(value string) error {
	var level slog.Level
	if level.UnmarshalText([]byte(value)) != nil {
		return errMalformed
	}
	return nil
}

func checkDevClock(value string) error {
	_, err := clock.Parse(value)
	return err
}

func checkEmail(value string) error {
	a, err := mail.ParseAddress(value)
	if err != nil || a.Address != value {
		return errMalformed
	}
	return nil
}

func checkMailbox(value string) error {
	if _, err := mail.ParseAddress(value); err != nil || strings.ContainsAny(value, "\r\n") {
		return errMalformed
	}
	return nil
}

func checkName(value string) error {
	if len([]rune(value)) > 100 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errMalformed
	}
	return nil
}

var taskQueuePattern = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,200}$`)

func checkTaskQueue(value string) error {
	if !taskQueuePattern.MatchString(value) || strings.HasPrefix(value, "/_sys/") {
		return errMalformed
	}
	return nil
}

func checkPrintable(value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errMalformed
	}
	return nil
}

func checkAPIKey(value string) error {
	if len(value) < 20 {
		return errors.New("it is too short")
	}
	if len(value) > 500 {
		return errors.New("it is too long")
	}
	if secrets.CheckAPIKey(value) != nil {
		return errors.New("it is mistyped or cut off: its checksum does not fit")
	}
	return checkPrintable(value)
}

func checkWebhookSecrets(value string) error {
	for _, secret := range strings.Fields(value) {
		if finch.CheckWebhookSecret(secret) != nil {
			return errMalformed
		}
	}
	return nil
}

func checkAddr(value string) error {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return errMalformed
	}
	return checkNumber(0, 65535)(port)
}

func checkHostPort(value string) error {
	host, port, err := net.SplitHostPort(value)
	if err != nil || host == "" {
		return errMalformed
	}
	return checkNumber(1, 65535)(port)
}

func checkOrigins(value string) error {
	for _, origin := range list(value) {
		if secrets.CheckOrigin(origin) != nil {
			return errMalformed
		}
	}
	return nil
}

func checkHosts(value string) error {
	for _, host := range list(value) {
		u, err := url.Parse("//" + host)
		if err != nil || u.Hostname() == "" || u.Host != host {
			return errMalformed
		}
	}
	return nil
}

func checkNumber(low, high int) func(string) error {
	return func(value string) error {
		if n, err := strconv.Atoi(value); err != nil || n < low || n > high {
			return errMalformed
		}
		return nil
	}
}

func checkBool(value string) error {
	switch strings.ToLower(value) {
	case "true", "false", "1", "0":
		return nil
	}
	return errMalformed
}

// list splits a setting with commas, and drops what is empty.
func list(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
