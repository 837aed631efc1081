package web

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

// Application is one beside the default one, as far as the service must know it.
type Application struct {
	Name string
	// ClientID tells the application's tokens from those of others. Optional.
	ClientID string
	// WebhookSecrets verify the webhooks of the application's connections.
	WebhookSecrets []string
}

// names lists the applications, the default one first.
func (c *Config) applicationNames() []string {
	names := []string{reauth.DefaultApplication}
	for _, a := range c.Applications {
		names = append(names, a.Name)
	}
	return names
}

func (c *Config) knows(application string) bool {
	return slices.Contains(c.applicationNames(), application)
}

// checkApplication refuses an application whose credentials nobody has: a case of
// its connection could never open a session. The error is a problem.
func (c *Config) checkApplication(name string) error {
	if err := register.CheckApplication(name, c.applicationNames()); err != nil {
		return bodyProblem(err)
	}
	return nil
}

// checkOwner refuses a token that another application's client was given, as far
// as the client IDs are known. The error is a problem.
func (c *Config) checkOwner(application, clientID string) error {
	if clientID == "" {
		return nil
	}
	for _, a := range c.Applications {
		switch {
		case a.ClientID == clientID && a.Name != application:
			return fieldProblem("body.access_token", "is a token of the application "+a.Name+"; nothing was stored. Register the connection with that application")
		case a.Name == application && a.ClientID != "" && a.ClientID != clientID:
			return fieldProblem("body.access_token", "is no token of the application "+application+", whose client ID is another; nothing was stored")
		}
	}
	return nil
}

// callbackURL is the redirect URI with which an application's sessions are opened.
func (c *Config) callbackURL(application string) string {
	return c.PublicURL + applications.CallbackPath(application)
}

// callbackApplication is the application that a visit's path names: the default
// one at /callback itself. ok is false where none can have that name.
func callbackApplication(r *http.Request) (application string, ok bool) {
	if application = r.PathValue("application"); application == "" {
		return reauth.DefaultApplication, true
	}
	return application, application != reauth.DefaultApplication && applicationPattern.MatchString(application)
}

var applicationPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// signers lists the applications whose webhook secrets sign an event: more than
// one where they share a secret. The error is that of finch.VerifyWebhook.
func (c *Config) signers(h http.Header, body []byte, now time.Time) (eventID string, signers []string, err error) {
	all := append([]Application{{Name: reauth.DefaultApplication, WebhookSecrets: c.FinchWebhookSecrets}}, c.Applications...)
	err = finch.ErrWebhookSecret
	for _, a := range all {
		if len(a.WebhookSecrets) == 0 {
			continue
		}
		id, failed := finch.VerifyWebhook(a.WebhookSecrets, h, body, now)
		switch {
		case failed == nil:
			eventID, signers = id, append(signers, a.Name)
		case errors.Is(err, finch.ErrWebhookSecret):
			err = failed
		}
	}
	if len(signers) > 0 {
		return eventID, signers, nil
	}
	return "", nil, err
}

// takesWebhooks reports whether any application has a webhook secret.
func (c *Config) takesWebhooks() bool {
	return len(c.FinchWebhookSecrets) > 0 || slices.ContainsFunc(c.Applications, func(a Application) bool { return len(a.WebhookSecrets) > 0 })
}
