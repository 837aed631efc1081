package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
	"github.com/finch-reauth/reauth/web"
	"github.com/finch-reauth/reauth/worker"
)

// applicationSettings name the applications beside the default one.
type applicationSettings struct {
	Applications string `env:"REAUTH_APPLICATIONS" placeholder:"FILE" help:"YAML file with further applications (client credentials); docs/applications.md says how."`
}

func checkApplications(value string) error {
	_, err := applications.Load(value)
	return inOneLine(err)
}

// inOneLine joins an error of several lines.
func inOneLine(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// further reads the applications beside the default one; none without a file.
func (s applicationSettings) further() ([]applications.Application, error) {
	if s.Applications == "" {
		return nil, nil
	}
	list, err := applications.Load(s.Applications)
	if err != nil {
		return nil, malformed("REAUTH_APPLICATIONS", inOneLine(err))
	}
	return list, nil
}

// applicationNames lists the applications, the default one first.
func applicationNames(further []applications.Application) []string {
	names := []string{reauth.DefaultApplication}
	for _, a := range further {
		names = append(names, a.Name)
	}
	return names
}

// finchClient makes the client of an application.
type finchClient func(application string, config finch.Config) activities.FinchClient

// unlimited makes clients that ask nobody whether Finch has room for a call: for
// the few of a command.
func (p parts) unlimited(_ string, config finch.Config) activities.FinchClient {
	return p.finch(config)
}

// at says where an application's API lives.
func (s finchSettings) at(a applications.Application) string {
	if a.BaseURL != "" {
		return a.BaseURL
	}
	return s.FinchBaseURL
}

// providers are the providers of all applications, with the credentials of each.
func providers(finchs finchSettings, own finchClientSettings, further []applications.Application, client finchClient) (map[string]activities.Provider, error) {
	all := map[string]activities.Provider{
		reauth.DefaultApplication: activities.Finch{Client: client(reauth.DefaultApplication, finch.Config{
			BaseURL: finchs.FinchBaseURL, ClientID: own.FinchClientID, ClientSecret: own.FinchClientSecret,
		})},
	}
	for _, a := range further {
		secret, err := a.ClientSecret.Read()
		if err != nil {
			return nil, malformed("REAUTH_APPLICATIONS", err)
		}
		all[a.Name] = activities.Finch{Client: client(a.Name, finch.Config{BaseURL: finchs.at(a), ClientID: a.ClientID, ClientSecret: secret.Reveal()})}
	}
	return all, nil
}

// tokenClients are what asks the providers of all applications with access tokens
// alone: no client credentials are needed for that.
func tokenClients(finchs finchSettings, further []applications.Application, client finchClient) map[string]activities.FinchClient {
	all := map[string]activities.FinchClient{reauth.DefaultApplication: client(reauth.DefaultApplication, finch.Config{BaseURL: finchs.FinchBaseURL})}
	for _, a := range further {
		all[a.Name] = client(a.Name, finch.Config{BaseURL: finchs.at(a)})
	}
	return all
}

// introspecter asks whose a token is, at the application's provider.
func introspecter(clients map[string]activities.FinchClient) func(context.Context, string, secrets.Secret) (finch.Introspection, error) {
	return func(ctx context.Context, application string, token secrets.Secret) (finch.Introspection, error) {
		client := clients[cmp.Or(application, reauth.DefaultApplication)]
		if client == nil {
			return finch.Introspection{}, lifecycle.ErrUnknownApplication
		}
		return client.Introspect(finch.WithPriority(ctx, finch.PriorityConfirm), token.Reveal())
	}
}

// jobs asks what became of a job, at the application's provider.
func jobs(clients map[string]activities.FinchClient) func(context.Context, string, secrets.Secret, string) (finch.Job, error) {
	return func(ctx context.Context, application string, token secrets.Secret, jobID string) (finch.Job, error) {
		client := clients[cmp.Or(application, reauth.DefaultApplication)]
		if client == nil {
			return finch.Job{}, lifecycle.ErrUnknownApplication
		}
		return client.Job(ctx, token.Reveal(), jobID)
	}
}

// disconnecter ends the connection of a token, at the application's provider.
func disconnecter(clients map[string]activities.FinchClient) func(context.Context, string, secrets.Secret) error {
	return func(ctx context.Context, application string, token secrets.Secret) error {
		client := clients[cmp.Or(application, reauth.DefaultApplication)]
		if client == nil {
			return lifecycle.ErrUnknownApplication
		}
		return client.Disconnect(ctx, token.Reveal())
	}
}

// finder asks, by way of a worker, which connection a customer has.
func finder(find func(context.Context, reauth.FindConnection) (string, error)) func(ctx context.Context, application, customerID, customerName string) (string, error) {
	return func(ctx context.Context, application, customerID, customerName string) (string, error) {
		id, err := find(ctx, reauth.FindConnection{Application: application, CustomerID: customerID, CustomerName: customerName})
		if errors.Is(err, starter.ErrApplicationUnknown) {
			return "", lifecycle.ErrUnknownApplication
		}
		return id, err
	}
}

// served is what the service must know of the applications beside the default one.
func served(further []applications.Application) ([]web.Application, error) {
	var all []web.Application
	for _, a := range further {
		known := web.Application{Name: a.Name, ClientID: a.ClientID}
		for _, reference := range a.WebhookSecrets {
			secret, err := reference.Read()
			if err != nil {
				return nil, malformed("REAUTH_APPLICATIONS", err)
			}
			known.WebhookSecrets = append(known.WebhookSecrets, secret.Reveal())
		}
		all = append(all, known)
	}
	return all, nil
}

// receivers are those of applications that have one of their own.
func receivers(further []applications.Application, general string) ([]worker.Receiver, error) {
	var all []worker.Receiver
	for _, a := range further {
		if a.BackendURL == "" {
			continue
		}
		if general == "" { // else nobody would hear of the others' events
			return nil, missing("REAUTH_WEBHOOK_URL")
		}
		secret, err := a.BackendSecret.Read()
		if err != nil {
			return nil, malformed("REAUTH_APPLICATIONS", err)
		}
		all = append(all, worker.Receiver{Application: a.Name, URL: a.BackendURL, Secret: secret.Reveal()})
	}
	return all, nil
}

type applicationsCommand struct {
	finchSettings
	applicationSettings
	ClientID     string `name:"finch-client-id" env:"FINCH_CLIENT_ID" placeholder:"ID" help:"Client ID of the default application."`
	ClientSecret string `env:"FINCH_CLIENT_SECRET" hidden:""`
	PublicURL    string `env:"REAUTH_PUBLIC_URL" placeholder:"URL" help:"Address under which customers' browsers reach the service, for the redirect URIs."`
	Check        bool   `help:"Ask the provider whether it takes each one's credentials. Nothing is changed there."`
	JSON         bool   `help:"Print JSON."`
}

// listedApplication is an application as JSON shows it: without a secret.
type listedApplication struct {
	Name           string   `json:"name"`
	Provider       string   `json:"provider"`
	ClientID       string   `json:"client_id"`
	ClientSecret   string   `json:"client_secret_from"`
	WebhookSecrets []string `json:"webhook_secrets_from,omitempty"`
	BaseURL        string   `json:"base_url"`
	RedirectURI    string   `json:"redirect_uri"`
	Credentials    string   `json:"credentials,omitempty"`
}

func (c *applicationsCommand) Run(ctx context.Context, s streams, p parts) error {
	further, err := c.further()
	if err != nil {
		return err
	}
	public := strings.TrimSuffix(c.PublicURL, "/")
	if public == "" {
		public = "<REAUTH_PUBLIC_URL>"
	}
	all := []listedApplication{{
		Name: reauth.DefaultApplication, Provider: string(reauth.Finch), ClientID: c.ClientID, ClientSecret: "env:FINCH_CLIENT_SECRET",
		BaseURL: c.FinchBaseURL, RedirectURI: public + applications.CallbackPath(""),
	}}
	secretOf := map[string]func() (secrets.Secret, error){reauth.DefaultApplication: func() (secrets.Secret, error) {
		if c.ClientID == "" || c.ClientSecret == "" {
			return "", errors.New("FINCH_CLIENT_ID or FINCH_CLIENT_SECRET is not set")
		}
		return secrets.Secret(c.ClientSecret), nil
	}}
	for _, a := range further {
		listed := listedApplication{
			Name: a.Name, Provider: string(a.Provider), ClientID: a.ClientID, ClientSecret: a.ClientSecret.Where(),
			BaseURL: c.at(a), RedirectURI: public + applications.CallbackPath(a.Name),
		}
		for _, w := range a.WebhookSecrets {
			listed.WebhookSecrets = append(listed.WebhookSecrets, w.Where())
		}
		all, secretOf[a.Name] = append(all, listed), a.ClientSecret.Read
	}
	refused := 0
	for i, a := range all {
		if !c.Check {
			break
		}
		var good bool
		if all[i].Credentials, good = tryCredentials(ctx, p, a, secretOf[a.Name]); !good {
			refused++
		}
	}
	if err := c.print(s, all); err != nil {
		return err
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d applications cannot be used", refused, len(all))
	}
	return nil
}

func (c *applicationsCommand) print(s streams, all []listedApplication) error {
	if c.JSON {
		return printJSON(s.out, all)
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "NAME\tPROVIDER\tCLIENT ID\tSECRET\tWEBHOOK SECRETS\tAPI\tREDIRECT URI")
	if c.Check {
		fmt.Fprint(table, "\tCREDENTIALS")
	}
	fmt.Fprintln(table)
	for _, a := range all {
		webhooks := strings.Join(a.WebhookSecrets, " ")
		if a.Name == reauth.DefaultApplication {
			webhooks = "env:FINCH_WEBHOOK_SECRET"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s", a.Name, a.Provider, dash(a.ClientID), a.ClientSecret, dash(webhooks), a.BaseURL, a.RedirectURI)
		if c.Check {
			fmt.Fprint(table, "\t"+a.Credentials)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// nobody is a connection that does not exist: asking for a session of it costs
// nothing, and is refused in one way with good credentials and in another without.
const nobody = "00000000-0000-4000-8000-000000000000"

// tryCredentials says in words whether the provider takes an application's
// credentials.
func tryCredentials(ctx context.Context, p parts, a listedApplication, secret func() (secrets.Secret, error)) (words string, good bool) {
	plain, err := secret()
	if err != nil {
		return err.Error(), false
	}
	client := p.finch(finch.Config{BaseURL: a.BaseURL, ClientID: a.ClientID, ClientSecret: plain.Reveal()})
	_, err = client.Reauthenticate(ctx, finch.ReauthenticateParams{ConnectionID: nobody, MinutesToExpire: reauth.MinSessionMinutes})
	var refusal *finch.Error
	switch {
	case errors.As(err, &refusal) && refusal.IsConnectionNotFound(), err == nil:
		return "taken", true
	case errors.As(err, &refusal) && refusal.IsInvalidClient():
		return "refused", false
	}
	return "unknown: " + err.Error(), false
}
