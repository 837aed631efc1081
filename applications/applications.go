// Package applications reads which applications (client credentials) there are
// beside the default one, from a YAML file that refers to secrets held elsewhere.
package applications

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/yamlfile"
)

// Application is one set of client credentials at a provider.
type Application struct {
	Name     string
	Provider reauth.Provider
	ClientID string
	// ClientSecret and WebhookSecrets are where the secrets are.
	ClientSecret   Reference
	WebhookSecrets []Reference
	// BackendURL and BackendSecret say where the events about its connections go,
	// and how they are signed; to the receiver of all if empty.
	BackendURL    string
	BackendSecret Reference
	// BaseURL is where the provider's API lives; its usual place if empty.
	BaseURL string
}

// CallbackPath is where Connect returns to for an application, below the public
// URL: a code that comes back without saying whose it is says by its path whose
// credentials it needs.
func CallbackPath(application string) string {
	if application == "" || application == reauth.DefaultApplication {
		return "/callback"
	}
	return "/callback/" + application
}

// Reference is a secret, or the place where it is: "env:NAME" or "file:PATH".
type Reference struct {
	text  string
	place string // in the file, for errors
	check func(string) error
}

// Format keeps a secret that stands in the file itself out of anything that
// prints the reference, whatever the verb.
func (r Reference) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.Where()) }

// Where names the place of the secret, and never the secret.
func (r Reference) Where() string {
	switch kind, _, _ := strings.Cut(r.text, ":"); {
	case r.text == "":
		return "nowhere"
	case kind == "env", kind == "file":
		return r.text
	}
	return "the file itself"
}

// Read returns the secret. Its error says where the reference stands, and what
// would be right.
func (r Reference) Read() (secrets.Secret, error) {
	kind, name, _ := strings.Cut(r.text, ":")
	value := r.text
	switch kind {
	case "env":
		if value = strings.TrimSpace(os.Getenv(name)); value == "" {
			return "", fmt.Errorf("%s refers to the environment variable %s, which is not set", r.place, name)
		}
	case "file":
		data, err := readSecret(name)
		if err != nil {
			return "", fmt.Errorf("%s refers to a file that cannot be read: %w", r.place, err)
		}
		if value = strings.TrimSpace(string(data)); value == "" {
			return "", fmt.Errorf("%s refers to the file %s, which is empty", r.place, name)
		}
	}
	if err := r.check(value); err != nil {
		return "", fmt.Errorf("%s refers to something that is no such secret: %w", r.place, err)
	}
	return secrets.Secret(value), nil
}

func readSecret(path string) ([]byte, error) {
	const most = 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = errors.New("it is larger than 64 KiB")
	}
	return data, err
}

var file = yamlfile.Kind{
	Of: "applications", Example: "applications: {sandbox: {client_id: 6d28c315, client_secret: env:SANDBOX_SECRET}}", Secret: true,
}

// Load reads a file of applications; docs/applications.md says how one looks. It
// reads no secret that the file refers to. The error says everything that is
// wrong, each with its line and with what would be right.
func Load(path string) ([]Application, error) { return yamlfile.Load(file, path, readerOf(path)) }

// Parse reads the content of a file with the given name, as Load does.
func Parse(name string, data []byte) ([]Application, error) {
	return yamlfile.Parse(file, name, data, readerOf(name))
}

func readerOf(name string) func(*yamlfile.Reader, *yaml.Node) []Application {
	return func(r *yamlfile.Reader, root *yaml.Node) []Application { return reading{r, name}.file(root) }
}

type reading struct {
	*yamlfile.Reader
	name string
}

const (
	wantFile    = `it must have "applications", as applications: {sandbox: {client_id: ..., client_secret: env:NAME}}`
	wantName    = `the name of an application has 1 to 64 lower-case letters, digits, '_' or '-', and begins with a letter or digit`
	wantOne     = `it must have "client_id" and "client_secret"`
	wantID      = `it must be the client ID that the provider's dashboard shows`
	wantSecret  = `it must be "env:NAME", "file:PATH" or the secret itself`
	wantSecrets = `it must be a list of secrets, each "env:NAME", "file:PATH" or the secret itself, as [env:SANDBOX_WEBHOOK_SECRET]`
	wantBackend = `it must be the absolute http or https URL of an endpoint of your backend, as https://sandbox.example.com/webhooks/reauth`
	wantURL     = `it must be the absolute http or https URL of the provider's API, as https://api.tryfinch.com`
)

var (
	namePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (r reading) file(root *yaml.Node) []Application {
	fields, ok := r.Mapping(root, "", wantFile, "applications")
	if !ok {
		return nil
	}
	if len(fields) == 0 {
		if yamlfile.Complete(root, fields) {
			r.At(root, "the file", "has no applications; %s", wantFile)
		}
		return nil
	}
	named, ok := r.Mapping(fields[0].Value, "applications", wantFile)
	if ok && len(named) == 0 {
		r.At(fields[0].Value, "applications", "has no entry; %s", wantFile)
	}
	var list []Application
	ids := map[string]*yaml.Node{}
	for _, f := range named {
		path := yamlfile.Join("applications", yamlfile.Word(f.Name))
		switch {
		case f.Name == reauth.DefaultApplication:
			r.At(f.Key, path, "is the application of FINCH_CLIENT_ID and FINCH_CLIENT_SECRET; leave it out here, or give this one another name")
			continue
		case !namePattern.MatchString(f.Name):
			r.At(f.Key, path, "cannot be used; %s", wantName)
			continue
		}
		a, id := r.application(f, path)
		if id != nil {
			if other, taken := ids[a.ClientID]; taken {
				r.At(id, yamlfile.Join(path, "client_id"), "is that of line %d once more; each application has its own", other.Line)
			}
			ids[a.ClientID] = id
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Application) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (r reading) application(named yamlfile.Field, path string) (a Application, id *yaml.Node) {
	a = Application{Name: named.Name, Provider: reauth.Finch}
	fields, ok := r.Mapping(named.Value, path, wantOne, "provider", "client_id", "client_secret", "base_url", "webhook_secrets", "backend_url", "backend_secret")
	if !ok {
		return a, nil
	}
	has := map[string]bool{}
	for _, f := range fields {
		at := yamlfile.Join(path, f.Name)
		has[f.Name] = true
		switch f.Name {
		case "provider":
			if f.Value.Value != string(reauth.Finch) {
				r.Wrong(f.Value, at, "it must be finch; leave the key out for the usual")
			}
		case "client_id":
			if text := f.Value.Value; f.Value.Kind != yaml.ScalarNode || checkPrintable(text) != nil {
				r.Wrong(f.Value, at, wantID)
			} else {
				a.ClientID, id = text, f.Value
			}
		case "client_secret":
			a.ClientSecret = r.reference(f.Value, at, wantSecret, checkPrintable)
		case "base_url":
			if a.BaseURL = f.Value.Value; checkURL(a.BaseURL) != nil {
				r.Wrong(f.Value, at, wantURL)
			}
		case "backend_url":
			if a.BackendURL = f.Value.Value; checkURL(a.BackendURL) != nil {
				r.Wrong(f.Value, at, wantBackend)
			}
		case "backend_secret":
			a.BackendSecret = r.reference(f.Value, at, wantSecret, checkBackendSecret)
		case "webhook_secrets":
			if f.Value.Kind != yaml.SequenceNode {
				r.Wrong(f.Value, at, wantSecrets)
				break
			}
			for i, n := range f.Value.Content {
				a.WebhookSecrets = append(a.WebhookSecrets, r.reference(n, fmt.Sprintf("%s[%d]", at, i), wantSecret, finch.CheckWebhookSecret))
			}
		}
	}
	for _, needed := range []string{"client_id", "client_secret"} {
		if !has[needed] && yamlfile.Complete(named.Value, fields) {
			r.At(named.Key, path, "has no %s; %s", needed, wantOne)
		}
	}
	if has["backend_url"] != has["backend_secret"] && yamlfile.Complete(named.Value, fields) {
		r.At(named.Key, path, "has only one of backend_url and backend_secret; a receiver needs both")
	}
	return a, id
}

// checkBackendSecret checks the secret of a receiver, as Standard Webhooks has it.
func checkBackendSecret(text string) error {
	encoded, prefixed := strings.CutPrefix(text, "whsec_")
	if secret, err := base64.StdEncoding.DecodeString(encoded); !prefixed || err != nil || len(secret) < 24 || len(secret) > 64 {
		return errors.New("it must be whsec_ and then base64 of 24 to 64 bytes")
	}
	return nil
}

// reference reads where a secret is. One that stands in the file is checked now.
func (r reading) reference(n *yaml.Node, path, want string, check func(string) error) Reference {
	ref := Reference{text: n.Value, place: fmt.Sprintf("%s:%d:%d: %s", r.name, n.Line, n.Column, path), check: check}
	kind, name, _ := strings.Cut(n.Value, ":")
	switch {
	case n.Kind != yaml.ScalarNode || yamlfile.IsNull(n) || n.Value == "":
		r.Wrong(n, path, want)
	case kind == "env" && !variablePattern.MatchString(name):
		r.At(n, path, "refers to no environment variable; it must be as env:SANDBOX_CLIENT_SECRET")
	case kind == "file" && name == "":
		r.At(n, path, "refers to no file; it must be as file:/run/secrets/sandbox")
	case kind != "env" && kind != "file" && check(n.Value) != nil:
		r.Wrong(n, path, check(n.Value).Error()+"; "+want)
	}
	return ref
}

func checkPrintable(text string) error {
	if text == "" || len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("it must be printable ASCII without spaces")
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errors.New("no URL")
	}
	return nil
}
