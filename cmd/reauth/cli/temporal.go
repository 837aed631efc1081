package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"

	"github.com/finch-reauth/reauth/secrets"
)

const (
	defaultTemporalAddress = "localhost:7233"
	defaultNamespace       = "default"
)

// temporalOptions reads Temporal's own settings. With keys, what is sent is
// encrypted; without, it is plain.
func temporalOptions(keys *secrets.Keys, logger *slog.Logger) (client.Options, error) {
	environment := givenOnly{}
	for _, name := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"} {
		if value, given := environment.LookupEnv(name); given {
			if err := rules()[name].check(value); err != nil {
				return client.Options{}, malformed(name, err)
			}
		}
	}
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: environment})
	if err != nil {
		return client.Options{}, temporalSettingError(environment, err)
	}
	if options.HostPort == "" {
		options.HostPort = defaultTemporalAddress
	}
	if options.Namespace == "" {
		options.Namespace = defaultNamespace
	}
	options.Logger = log.NewStructuredLogger(logger)
	if keys != nil {
		keys.Configure(&options)
	}
	return options, nil
}

// temporalSettingError names the variables that an unreadable configuration
// can come from. The causes it knows hold paths and names, no secrets.
func temporalSettingError(environment givenOnly, err error) error {
	if profile, given := environment.LookupEnv("TEMPORAL_PROFILE"); given && strings.Contains(err.Error(), "unable to find profile") {
		return settingError{"TEMPORAL_PROFILE", fmt.Sprintf("names %q, which the configuration file does not have", profile), "a profile of Temporal's configuration file", "default"}
	}
	for _, variable := range []struct{ name, about, wants string }{
		{"TEMPORAL_TLS_SERVER_CA_CERT_PATH", "server CA", "a file with the server's CA certificate in PEM form, and no TEMPORAL_TLS_SERVER_CA_CERT_DATA"},
		{"TEMPORAL_TLS_SERVER_CA_CERT_DATA", "server CA", "the server's CA certificate in PEM form"},
		{"TEMPORAL_TLS_CLIENT_CERT_PATH", "client", "a file with a client certificate in PEM form, and TEMPORAL_TLS_CLIENT_KEY_PATH with its key"},
		{"TEMPORAL_TLS_CLIENT_KEY_PATH", "client", "a file with the key of TEMPORAL_TLS_CLIENT_CERT_PATH in PEM form"},
		{"TEMPORAL_TLS_CLIENT_CERT_DATA", "client", "a client certificate in PEM form, and TEMPORAL_TLS_CLIENT_KEY_DATA with its key"},
		{"TEMPORAL_TLS_CLIENT_KEY_DATA", "client", "the key of TEMPORAL_TLS_CLIENT_CERT_DATA in PEM form"},
	} {
		_, given := environment.LookupEnv(variable.name)
		if given && strings.Contains(err.Error(), "invalid TLS config") && strings.Contains(err.Error(), variable.about) {
			return settingError{variable.name, "cannot be used", variable.wants, "/etc/temporal/tls.pem"}
		}
	}
	return settingError{"TEMPORAL_CONFIG_FILE", "cannot be used", "Temporal's configuration file in TOML form", "/etc/temporal/temporal.toml"}
}

// givenOnly looks variables up and takes an empty one, as composed containers
// have them, for one that is not set.
type givenOnly struct{}

func (givenOnly) Environ() []string { return os.Environ() }

func (givenOnly) LookupEnv(name string) (string, bool) {
	value := strings.TrimSpace(os.Getenv(name))
	return value, value != ""
}

// notPermitted tells whether the namespace's owner must register the search
// attributes by other means, as on Temporal Cloud.
func notPermitted(err error) bool {
	var denied *serviceerror.PermissionDenied
	var unimplemented *serviceerror.Unimplemented
	return errors.As(err, &denied) || errors.As(err, &unimplemented)
}

const attributesByHand = "register the search attributes ReauthConnectionId, ReauthProvider and ReauthPhase (Keyword) by hand, " +
	"as with: temporal operator search-attribute create --name ReauthPhase --type Keyword"

// patiently calls try until it succeeds, and says in the log what it waits for.
func patiently(ctx context.Context, logger *slog.Logger, what string, try func(context.Context) error) error {
	const longest = 15 * time.Second
	began := time.Now()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, longest) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := try(attempt)
		cancel()
		if err == nil {
			if time.Since(began) > time.Second {
				logger.Info(what + " answers")
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logger.Warn("waiting for "+what, "retry_in", pause.String(), "error", err.Error())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
