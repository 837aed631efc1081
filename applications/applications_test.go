package applications_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/reauth"
)

const webhookSecret = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("planted-in-a-file\n"), 0o600))
	t.Setenv("EU_CLIENT_SECRET", "planted-in-the-environment")
	path := filepath.Join(dir, "applications.yaml")
	require.NoError(t, os.WriteFile(path, []byte(`# beside the default one
applications:
  sandbox:
    provider: finch
    client_id: 6d28c315-5eaa
    client_secret: file:`+secret+`
    base_url: https://sandbox.example.com
    webhook_secrets: [env:EU_WEBHOOK_SECRET, "`+webhookSecret+`"]
  eu:
    client_id: eu-1
    client_secret: env:EU_CLIENT_SECRET
  inline: {client_id: in-1, client_secret: planted-inline}
`), 0o600))
	list, err := applications.Load(path)
	require.NoError(t, err)
	require.Len(t, list, 3)
	eu, inline, sandbox := list[0], list[1], list[2]
	assert.Equal(t, "eu", eu.Name)
	assert.Equal(t, reauth.Finch, eu.Provider)
	assert.Empty(t, eu.BaseURL)
	assert.Equal(t, "6d28c315-5eaa", sandbox.ClientID)
	assert.Equal(t, "https://sandbox.example.com", sandbox.BaseURL)

	read := func(r applications.Reference) string {
		s, err := r.Read()
		require.NoError(t, err)
		return s.Reveal()
	}
	assert.Equal(t, "planted-in-the-environment", read(eu.ClientSecret))
	assert.Equal(t, "planted-inline", read(inline.ClientSecret))
	assert.Equal(t, "planted-in-a-file", read(sandbox.ClientSecret))
	assert.Equal(t, webhookSecret, read(sandbox.WebhookSecrets[1]))

	// What is missing is missed when it is needed, and says where.
	_, err = sandbox.WebhookSecrets[0].Read()
	require.EqualError(t, err, path+":8:23: applications.sandbox.webhook_secrets[0] refers to the environment variable EU_WEBHOOK_SECRET, which is not set")
	t.Setenv("EU_WEBHOOK_SECRET", "planted %")
	_, err = sandbox.WebhookSecrets[0].Read()
	require.ErrorContains(t, err, "no such secret: a webhook secret is base64 text")
	assert.NotContains(t, err.Error(), "planted %")
	require.NoError(t, os.Remove(secret))
	_, err = sandbox.ClientSecret.Read()
	require.ErrorContains(t, err, ":6:20: applications.sandbox.client_secret refers to a file that cannot be read")
	require.NoError(t, os.WriteFile(secret, nil, 0o600))
	_, err = sandbox.ClientSecret.Read()
	require.ErrorContains(t, err, "which is empty")

	for _, shown := range []string{fmt.Sprint(list), fmt.Sprintf("%+v %#v", list, list), fmt.Sprintf("%s", inline.ClientSecret)} {
		assert.NotContains(t, shown, "planted")
		assert.NotContains(t, shown, webhookSecret)
	}
	assert.Equal(t, "env:EU_CLIENT_SECRET", eu.ClientSecret.Where())
	assert.Equal(t, "the file itself", inline.ClientSecret.Where())

	assert.Equal(t, "/callback", applications.CallbackPath("default"))
	assert.Equal(t, "/callback/eu", applications.CallbackPath("eu"))
}

func TestFaults(t *testing.T) {
	const ok = "client_id: a, client_secret: env:A"
	for name, test := range map[string]struct{ file, want string }{
		"nothing":             {"", `f.yaml:1: the file is empty; it must have applications, as "applications: {sandbox:`},
		"no applications":     {"{}", `f.yaml:1:1: the file has no applications; it must have "applications"`},
		"another key":         {"application:\n  a: {" + ok + "}", "f.yaml:1:1: application is not known; did you mean applications?"},
		"an empty list":       {"applications: {}", "f.yaml:1:15: applications has no entry"},
		"a list":              {"applications: [a]", "f.yaml:1:15: applications is a list; it must have"},
		"the default one":     {"applications:\n  default: {" + ok + "}", "f.yaml:2:3: applications.default is the application of FINCH_CLIENT_ID"},
		"a name in capitals":  {"applications:\n  Sand: {" + ok + "}", "f.yaml:2:3: applications.Sand cannot be used; the name of an application has 1 to 64 lower-case letters"},
		"twice":               {"applications:\n  a: {" + ok + "}\n  a: {" + ok + "}", "f.yaml:3:3: applications.a is here twice, first in line 2"},
		"one client twice":    {"applications:\n  a: {" + ok + "}\n  b: {" + ok + "}", "f.yaml:3:18: applications.b.client_id is that of line 2 once more"},
		"nothing of one":      {"applications:\n  a:", "f.yaml:2:5: applications.a is empty; it must have \"client_id\" and \"client_secret\""},
		"no client_id":        {"applications:\n  a: {client_secret: env:A}", "f.yaml:2:3: applications.a has no client_id"},
		"no client_secret":    {"applications:\n  a: {client_id: x}", "f.yaml:2:3: applications.a has no client_secret"},
		"a misspelt key":      {"applications:\n  a:\n    client_id: x\n    client_secrt: env:planted", "f.yaml:4:5: applications.a.client_secrt is not known; did you mean client_secret?"},
		"another provider":    {"applications:\n  a: {provider: plaid, " + ok + "}", "applications.a.provider is not right; it must be finch"},
		"a client_id in two":  {"applications:\n  a: {client_id: 'x planted', client_secret: env:A}", "applications.a.client_id is not right; it must be the client ID"},
		"a secret in two":     {"applications:\n  a: {client_id: x, client_secret: 'x planted'}", "applications.a.client_secret is not right; it must be printable ASCII without spaces"},
		"no variable":         {"applications:\n  a: {client_id: x, client_secret: 'env:x planted'}", "applications.a.client_secret refers to no environment variable; it must be as env:SANDBOX_CLIENT_SECRET"},
		"no file":             {"applications:\n  a: {client_id: x, client_secret: 'file:'}", "applications.a.client_secret refers to no file"},
		"an empty secret":     {"applications:\n  a: {client_id: x, client_secret: }", "applications.a.client_secret is empty"},
		"no URL":              {"applications:\n  a: {base_url: api.example.com, " + ok + "}", "applications.a.base_url is not right; it must be the absolute http or https URL"},
		"a URL with password": {"applications:\n  a: {base_url: 'https://u:planted@x.example', " + ok + "}", "applications.a.base_url is not right"},
		"a receiver unsigned": {"applications:\n  a: {backend_url: 'https://eu.example.com/hooks', " + ok + "}", "applications.a has only one of backend_url and backend_secret; a receiver needs both"},
		"a receiver nowhere":  {"applications:\n  a: {backend_url: eu, backend_secret: env:EU_HOOKS, " + ok + "}", "it must be the absolute http or https URL of an endpoint of your backend"},
		"a receiver's secret": {"applications:\n  a: {backend_url: 'https://eu.example.com/hooks', backend_secret: planted, " + ok + "}", "it must be whsec_ and then base64 of 24 to 64 bytes"},
		"one webhook secret":  {"applications:\n  a: {webhook_secrets: planted, " + ok + "}", "applications.a.webhook_secrets is not right; it must be a list of secrets"},
		"no webhook secret":   {"applications:\n  a: {webhook_secrets: ['%planted'], " + ok + "}", "applications.a.webhook_secrets[0] is not right; a webhook secret is base64 text"},
		"an alias":            {"applications:\n  a: {client_id: x, client_secret: *planted}", "f.yaml:2: an alias"},
		"a tag":               {"applications:\n  a: {client_id: x, client_secret: !planted y}", "a value that begins with *, & or ! is put in quotes"},
		"no YAML":             {"applications:\n  a: {client_id: x, client_secret: \"planted}", "the file stops being YAML here"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := applications.Parse("f.yaml", []byte(test.file))
			require.Error(t, err)
			assert.Contains(t, err.Error(), test.want)
			if !strings.Contains(test.want, "planted") {
				assert.NotContains(t, err.Error(), "planted", "no secret is repeated")
			}
		})
	}
	_, err := applications.Load(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorContains(t, err, "read the applications: open ")
}
