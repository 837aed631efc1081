package cli

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/secrets"
)

// complete returns settings with which every command would start, but for the
// servers that they name.
func complete(t *testing.T) map[string]string {
	t.Helper()
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	return map[string]string{
		"DATABASE_URL":              "postgres://reauth:hunter2@127.0.0.1:1/reauth?sslmode=disable",
		"REAUTH_KEYSET":             keyset,
		"REAUTH_PUBLIC_URL":         "https://reauth.example.com",
		"REAUTH_PRODUCT_NAME":       "Acme Insights",
		"REAUTH_SUPPORT_EMAIL":      "support@example.com",
		"REAUTH_TASK_QUEUE":         "reauth",
		"FINCH_BASE_URL":            "https://api.tryfinch.com",
		"FINCH_CLIENT_ID":           "6d28c315-5eaa-4071-8ea5-f030eb45edbc",
		"FINCH_CLIENT_SECRET":       "finch-secret-production-0123",
		"FINCH_WEBHOOK_SECRET":      "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH 4WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH",
		"REAUTH_FINCH_LIMIT":        "20/1m introspect=40/1m ip=off",
		"REAUTH_SWEEP":              "12h",
		"REAUTH_RETENTION":          "webhooks=14d quarantine=keep cases=30d",
		"REAUTH_APPLICATIONS":       campaignFile(t, "applications: {sandbox: {client_id: x, client_secret: y}}"),
		"REAUTH_HTTP_ADDR":          ":8080",
		"REAUTH_BOOTSTRAP_API_KEY":  "reauth_0123456789abcdef",
		"REAUTH_RATE_LIMITS":        "key=1000/s refused=30/m",
		"REAUTH_CODEC_ORIGINS":      "https://temporal.example.com, http://localhost:8233",
		"REAUTH_CONNECT_HOSTS":      "connect.tryfinch.com,127.0.0.1:8090",
		"REAUTH_TEMPORAL_UI_URL":    "https://temporal.example.com/ui",
		"REAUTH_TRUSTED_PROXIES":    "10.0.0.0/8,fd00::/8",
		"REAUTH_CODEC_OPEN":         "false",
		"REAUTH_METRICS_OPEN":       "0",
		"SMTP_URL":                  "smtp://user:hunter2@smtp.example.com:587",
		"REAUTH_MAIL_FROM":          "Acme Insights <connections@example.com>",
		"REAUTH_OPERATOR_EMAIL":     "operations@example.com",
		"REAUTH_SESSION_MINUTES":    "1440",
		"REAUTH_SESSION_RENEWALS":   "2",
		"REAUTH_REMINDERS":          "0s,48h,9d,-24h",
		"REAUTH_CAMPAIGNS":          campaignFile(t, "campaigns: {default: {steps: [{after: 0s}]}}"),
		"REAUTH_TIME_ZONE":          "America/New_York",
		"REAUTH_MAIL":               "shadow",
		"REAUTH_STORM":              "count=20 share=12.5% within=10m hold=2h settle=0s",
		"REAUTH_CHAT":               "slack://xoxb-0123456789-hunter2@C0123456789",
		"REAUTH_WEBHOOK_URL":        "https://backend.example.com/hooks?tenant=1",
		"REAUTH_WEBHOOK_SECRET":     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		"REAUTH_IMPORT_PACE":        "60",
		"REAUTH_OUTBOUND_ALLOW":     "10.20.0.0/16, loopback",
		"REAUTH_METRICS_ADDR":       "127.0.0.1:9090",
		"REAUTH_OIDC_ISSUER":        "https://login.example.com/tenant",
		"REAUTH_OIDC_CLIENT_ID":     "reauth",
		"REAUTH_OIDC_CLIENT_SECRET": "oidc-secret-hunter2",
		"REAUTH_OIDC_ALLOW":         "group:payroll-ops, domain:example.com",
		"REAUTH_SIGN_IN_BY_KEY":     "false",
		"REAUTH_LOG_LEVEL":          "debug",
		"REAUTH_DEV_CLOCK":          "2@2026-11-21T02:00:00Z",

		"TEMPORAL_ADDRESS":                       "temporal.example.com:7233",
		"TEMPORAL_NAMESPACE":                     "reauth.abc12",
		"TEMPORAL_TLS":                           "true",
		"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": "false",
	}
}

// settle makes the environment hold exactly the given settings.
func settle(t *testing.T, settings map[string]string) {
	t.Helper()
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "REAUTH_") || strings.HasPrefix(name, "FINCH_") || strings.HasPrefix(name, "TEMPORAL_") || name == "DATABASE_URL" || name == "SMTP_URL" {
			t.Setenv(name, "") // so that it is restored
			require.NoError(t, os.Unsetenv(name))
		}
	}
	t.Setenv("TEMPORAL_CONFIG_FILE", filepath.Join(t.TempDir(), "none.toml"))
	for name, value := range settings {
		t.Setenv(name, value)
	}
}

// without returns the settings with one of them changed.
func with(settings map[string]string, name, value string) map[string]string {
	changed := maps.Clone(settings)
	changed[name] = value
	return changed
}

// commandOf names a command that reads a setting.
func commandOf(name string) string {
	for _, command := range []struct {
		name string
		of   any
	}{{"serve", serveCommand{}}, {"worker", workerCommand{}}} {
		if slices.Contains(variables(reflect.TypeOf(command.of)), name) {
			return command.name
		}
	}
	return "worker" // Temporal's own are read by all
}

// variables lists the environment variables of a command's settings.
func variables(command reflect.Type) []string {
	var names []string
	for i := range command.NumField() {
		field := command.Field(i)
		if field.Type.Kind() == reflect.Struct {
			names = append(names, variables(field.Type)...)
		}
		if name := field.Tag.Get("env"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func TestEverySettingHasARule(t *testing.T) {
	read := variables(reflect.TypeFor[commandLine]())
	for _, name := range read {
		require.Contains(t, rules(), name)
	}
	given := complete(t)
	for name, rule := range rules() {
		require.Contains(t, given, name)
		require.NotEmpty(t, rule.wants, name)
		if name != "REAUTH_KEYSET" && name != "REAUTH_CAMPAIGNS" && name != "REAUTH_APPLICATIONS" { // its example is a file that is not here
			require.NoError(t, rule.check(rule.example), "the example of %s", name)
		}
		if !strings.HasPrefix(name, "TEMPORAL_") {
			require.Contains(t, read, name)
		}
	}
}

func TestCompleteSettingsPass(t *testing.T) {
	settle(t, complete(t))
	for name, rule := range rules() {
		require.NoError(t, rule.check(complete(t)[name]), name)
	}
}

func TestAMalformedSettingStopsTheProgram(t *testing.T) {
	given := complete(t)
	tried := map[string][]string{
		"DATABASE_URL":              {"hunter2", "mysql://reauth:hunter2@localhost/reauth", "postgres://reauth:hunter2@/", "postgres://reauth:hunter2@localhost", "postgres://reauth:hunter2@localhost:port/reauth"},
		"REAUTH_KEYSET":             {"hunter2", "file:/nonexistent/hunter2-keyset", "aHVudGVyMg", given["REAUTH_KEYSET"][:100]},
		"REAUTH_PUBLIC_URL":         {"hunter2.example.com", "ftp://hunter2.example.com", "https://", "https://hunter2.example.com/path", "https://hunter2.example.com?a=b", "https://user:hunter2@example.com"},
		"REAUTH_PRODUCT_NAME":       {"hunter2\nBcc: x@example.com", strings.Repeat("hunter2", 20)},
		"REAUTH_SUPPORT_EMAIL":      {"hunter2", "hunter2 <support@example.com>", "a@b@hunter2"},
		"REAUTH_TASK_QUEUE":         {"hunter2 queue", strings.Repeat("hunter2", 40), "/_sys/hunter2"},
		"FINCH_BASE_URL":            {"hunter2", "https://hunter2:x@api.tryfinch.com", "/hunter2"},
		"FINCH_CLIENT_ID":           {"hunter2 with spaces", "hunter2\x01"},
		"FINCH_CLIENT_SECRET":       {"hunter2 with spaces", "hunter2ü"},
		"FINCH_WEBHOOK_SECRET":      {"hunter2!", "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH hunter2!"},
		"REAUTH_RETENTION":          {"hunter2", "hunter2=30d", "webhooks=1d", "cases=hunter2", "clicks=0d", "clicks=30", "clicks=36h", "clicks=30d clicks=30d"},
		"REAUTH_HTTP_ADDR":          {"hunter2", "localhost:hunter2", "localhost:70000", "8080hunter2"},
		"REAUTH_BOOTSTRAP_API_KEY":  {"hunter2", "hunter2 hunter2 hunter2 hunter2", strings.Repeat("hunter2", 100)},
		"REAUTH_CODEC_ORIGINS":      {"hunter2", "*", "https://hunter2.example.com/", "https://a.example.com,hunter2"},
		"REAUTH_CONNECT_HOSTS":      {"https://hunter2.example.com", "hunter2.example.com/path", "hunter2 example"},
		"REAUTH_TEMPORAL_UI_URL":    {"hunter2"},
		"REAUTH_TRUSTED_PROXIES":    {"hunter2", "10.0.0.1", "10.0.0.0/99"},
		"REAUTH_CODEC_OPEN":         {"hunter2", "yes"},
		"REAUTH_METRICS_OPEN":       {"hunter2", "2"},
		"SMTP_URL":                  {"hunter2", "http://user:hunter2@smtp.example.com", "smtp://user:hunter2@"},
		"REAUTH_MAIL_FROM":          {"hunter2", "Hunter2 <hunter2>", "hunter2@"},
		"REAUTH_OPERATOR_EMAIL":     {"hunter2"},
		"REAUTH_SESSION_MINUTES":    {"hunter2", "0", "129601", "30m", "-5"},
		"REAUTH_SESSION_RENEWALS":   {"hunter2", "-1", "25"},
		"REAUTH_REMINDERS":          {"hunter2", "0s,soon", "9days"},
		"REAUTH_CAMPAIGNS":          {"/nonexistent/campaigns.yaml", campaignFile(t, "campaigns: {default: {steps: [{after: soon}]}}")},
		"REAUTH_APPLICATIONS":       {"/nonexistent/applications.yaml", campaignFile(t, "applications: {sandbox: {client_id: x, client_secret: 'hunter 2 hunter2'}}")},
		"REAUTH_TIME_ZONE":          {"hunter2", "Local", "GMT+25"},
		"REAUTH_MAIL":               {"hunter2", "off", "On"},
		"REAUTH_STORM":              {"hunter2", "count=20", "count=1 share=20% within=5m hold=4h settle=30s", "count=50 share=0.2 within=5m hold=4h settle=30s", "count=50 share=20% within=5m hold=4h hunter2=30s", "count=50 count=50 share=20% within=5m hold=4h settle=30s"},
		"REAUTH_CHAT":               {"hunter2", "http://hunter2.example.com/hook", "slack://hunter2"},
		"REAUTH_WEBHOOK_URL":        {"hunter2", "ftp://hunter2.example.com/"},
		"REAUTH_WEBHOOK_SECRET":     {"hunter2", "whsec_hunter2", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		"REAUTH_IMPORT_PACE":        {"hunter2", "0", "1.5", "6001"},
		"REAUTH_METRICS_ADDR":       {"hunter2", "9090"},
		"REAUTH_OIDC_ISSUER":        {"hunter2", "https://hunter2:x@login.example.com"},
		"REAUTH_OIDC_CLIENT_ID":     {"hunter2 with spaces"},
		"REAUTH_OIDC_CLIENT_SECRET": {"hunter2 with spaces", "hunter2ü"},
		"REAUTH_OIDC_ALLOW":         {"hunter2", "email:", "everybody:hunter2", ","},
		"REAUTH_SIGN_IN_BY_KEY":     {"hunter2"},
		"REAUTH_LOG_LEVEL":          {"hunter2", "loud"},
		"REAUTH_DEV_CLOCK":          {"hunter2", "1@2026-11-21T02:00:00Z", "4000@hunter2", "4000"},

		"TEMPORAL_ADDRESS":                       {"hunter2", "https://temporal.example.com:hunter2", ":7233", "temporal.example.com:0"},
		"TEMPORAL_NAMESPACE":                     {"hunter2 x"},
		"TEMPORAL_TLS":                           {"hunter2", "on"},
		"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": {"hunter2"},
		"REAUTH_RATE_LIMITS":                     {"hunter2", "key=hunter2", "key=0/s", "key=5/h", "key=5/s key=5/s"},
		"REAUTH_OUTBOUND_ALLOW":                  {"10.0.0.0/99", "everything"},
		"REAUTH_FINCH_LIMIT":                     {"hunter2", "20", "20/1m hunter2=20/1m", "20/hunter2", "20/1m auth/token=1/1m", "20/1m 30/1m"},
		"REAUTH_SWEEP":                           {"hunter2", "1s", "1000h", "daily"},
	}
	for name, values := range tried {
		require.Contains(t, rules(), name)
		for _, value := range values {
			t.Run(name+"="+value[:min(len(value), 30)], func(t *testing.T) {
				settle(t, with(given, name, value))
				line := stops(t, commandOf(name))
				require.Contains(t, line, name+" ")
				require.Contains(t, line, "it wants "+rules()[name].wants)
				require.Contains(t, line, "for example "+name+"=")
				if name != "REAUTH_KEYSET" || !strings.HasPrefix(value, "file:") { // a path is no secret
					require.NotContains(t, line, "hunter2", "it never repeats the value")
				}
			})
		}
	}
	for name := range rules() {
		require.Contains(t, tried, name, "every setting is tried above")
	}
}

func TestCampaignsAndRemindersDoNotGoTogether(t *testing.T) {
	settle(t, complete(t))
	require.Contains(t, stops(t, "worker"), "REAUTH_REMINDERS is set beside REAUTH_CAMPAIGNS")
}

func TestAHeadlessCampaignNeedsAWebhook(t *testing.T) {
	settings := with(complete(t), "REAUTH_CAMPAIGNS", campaignFile(t, "campaigns: {quiet: {channel: webhook, steps: [{after: 0s}]}}"))
	delete(settings, "REAUTH_REMINDERS")
	delete(settings, "REAUTH_WEBHOOK_URL")
	settle(t, settings)
	require.Contains(t, stops(t, "worker"), "REAUTH_WEBHOOK_URL is missing, which the channel webhook of the campaign quiet needs")
}

// What would only fail with the first mail or webhook stops the program.
func TestTargetsInThePrivateNetworkStopTheProgram(t *testing.T) {
	given := complete(t)
	delete(given, "REAUTH_REMINDERS")
	delete(given, "REAUTH_OUTBOUND_ALLOW")
	for name, value := range map[string]string{
		"SMTP_URL":           "smtp://user:hunter2@10.1.2.3:587",
		"REAUTH_WEBHOOK_URL": "http://169.254.169.254/hunter2",
		"REAUTH_CHAT":        "http://127.0.0.1:8080/hunter2",
	} {
		settle(t, with(given, name, value))
		line := stops(t, "worker")
		require.Contains(t, line, name+" leads to an address that is not a public one")
		require.Contains(t, line, "REAUTH_OUTBOUND_ALLOW")
		require.NotContains(t, line, "hunter2")
	}
}

// campaignFile writes a file of campaigns.
func campaignFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "campaigns.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestAMissingSettingStopsTheProgram(t *testing.T) {
	given := complete(t)
	for command, needed := range map[string][]string{
		"serve":         {"DATABASE_URL", "REAUTH_KEYSET", "REAUTH_PUBLIC_URL"},
		"worker":        {"DATABASE_URL", "REAUTH_KEYSET", "REAUTH_PUBLIC_URL", "FINCH_CLIENT_ID", "FINCH_CLIENT_SECRET", "SMTP_URL", "REAUTH_MAIL_FROM", "REAUTH_WEBHOOK_SECRET"},
		"migrate":       {"DATABASE_URL"},
		"keys rotate":   {"REAUTH_KEYSET"},
		"keys reseal":   {"DATABASE_URL", "REAUTH_KEYSET"},
		"keys status":   {"DATABASE_URL", "REAUTH_KEYSET"},
		"keys retire 1": {"DATABASE_URL", "REAUTH_KEYSET"},
		"keys api list": {"DATABASE_URL"},
	} {
		for _, name := range needed {
			for _, value := range []string{"", "  "} { // composed containers have empty ones
				t.Run(command+" without "+name, func(t *testing.T) {
					settle(t, with(given, name, value))
					line := stops(t, strings.Fields(command)...)
					require.Contains(t, line, name+" is missing; it wants "+rules()[name].wants)
					require.Contains(t, line, "for example "+name+"=")
				})
			}
		}
	}
	t.Run("dev with the real Finch", func(t *testing.T) {
		settle(t, map[string]string{"FINCH_CLIENT_ID": given["FINCH_CLIENT_ID"]})
		require.Contains(t, stops(t, "dev"), "FINCH_CLIENT_SECRET is missing")
	})
}

func TestTemporalsOtherSettings(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	require.NoError(t, os.WriteFile(broken, []byte("hunter2 = ["), 0o600))
	for name, value := range map[string]string{
		"TEMPORAL_CONFIG_FILE":             broken,
		"TEMPORAL_PROFILE":                 "staging",
		"TEMPORAL_TLS_CLIENT_CERT_PATH":    "/nonexistent/cert.pem",
		"TEMPORAL_TLS_CLIENT_CERT_DATA":    "hunter2",
		"TEMPORAL_TLS_CLIENT_KEY_PATH":     "/nonexistent/key.pem",
		"TEMPORAL_TLS_CLIENT_KEY_DATA":     "hunter2",
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/nonexistent/ca.pem",
		"TEMPORAL_TLS_SERVER_CA_CERT_DATA": "hunter2",
	} {
		t.Run(name, func(t *testing.T) {
			settle(t, with(complete(t), name, value))
			line := stops(t, "serve")
			require.Contains(t, line, name+" ")
			require.NotContains(t, line, "hunter2")
		})
	}
	t.Run("empty ones count for nothing", func(t *testing.T) {
		settle(t, map[string]string{"TEMPORAL_ADDRESS": "", "TEMPORAL_TLS_CLIENT_CERT_PATH": "", "TEMPORAL_API_KEY": " "})
		options, err := temporalOptions(nil, logSettings{LogLevel: "info"}.logger(&bytes.Buffer{}))
		require.NoError(t, err)
		require.Equal(t, "localhost:7233", options.HostPort)
		require.Equal(t, "default", options.Namespace)
		require.Nil(t, options.ConnectionOptions.TLS)
	})
}

func TestEmptySettingsHaveTheirDefaults(t *testing.T) {
	command := serveCommand{
		databaseSettings: databaseSettings{DatabaseURL: " postgres://localhost/reauth "},
		keySettings:      keySettings{Keyset: complete(t)["REAUTH_KEYSET"] + "\n"},
		serviceSettings:  serviceSettings{PublicURL: "http://localhost:8080"},
		finchSettings:    finchSettings{FinchBaseURL: "http://127.0.0.1:8090"},
	}
	require.NoError(t, checkSettings(&command))
	require.Equal(t, "postgres://localhost/reauth", command.DatabaseURL)
	require.Equal(t, ":8080", command.HTTPAddr)
	require.Equal(t, "reauth", command.TaskQueue)
	require.Equal(t, []string{"connect.tryfinch.com", "127.0.0.1:8090"}, command.connectHosts(nil))
	command.FinchBaseURL = ""
	require.NoError(t, checkSettings(&command))
	require.Equal(t, []string{"connect.tryfinch.com"}, command.connectHosts(nil))
	command.ConnectHosts = "a.example.com , b.example.com:8443"
	require.Equal(t, []string{"a.example.com", "b.example.com:8443"}, command.connectHosts(nil))
}

func TestWrongCommandLines(t *testing.T) {
	settle(t, nil)
	for line, says := range map[string]string{
		"bogus":                      "`reauth --help` tells more",
		"--bogus":                    "`reauth --help` tells more",
		"start":                      "`reauth start --help` tells more",
		"start c1 --bogus":           "`reauth start --help` tells more",
		"start a/b":                  "connection_id must be",
		"start c1 --source rumour":   "source must be one of",
		"start c1 --renewals 99":     "renewals is 99",
		"start c1 --reminders soon":  "reminders[0]",
		"status c1 c2":               "`reauth status --help` tells more",
		"status a/b":                 "connection_id must be",
		"sweep x":                    "`reauth sweep --help` tells more",
		"sweep --connection a/b":     "connection_id must be",
		"sweep --every soon":         "every must be a duration from 1m0s to 720h0m0s",
		"sweep --all --connection a": "--all and --connection do not go together",
		"dev --ports random":         "`reauth dev --help` tells more",
		"dev --api-port x":           "`reauth dev --help` tells more",
		"dev --speed fast":           "`reauth dev --help` tells more",
		"dev --speed 2.5":            "`reauth dev --help` tells more",
		"dev --speed 0":              "--speed: a speed must be from 2 to 10000",
		"dev --speed=-5":             "--speed: a speed must be from 2 to 10000",
		"dev --speed 10001":          "--speed: a speed must be from 2 to 10000",
	} {
		require.Contains(t, stops(t, strings.Fields(line)...), says, line)
	}
}

// stops runs a command that must end at once with one line on stderr.
func stops(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.Equal(t, exitUsage, run(args, &out, &errs), errs.String())
	require.Empty(t, out.String())
	line := errs.String()
	require.True(t, strings.HasPrefix(line, "reauth: "), line)
	require.Equal(t, 1, strings.Count(line, "\n"), line)
	return line
}
