package cli

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

// What is wrong is said before anything is asked or reached.
func TestForgetAndRetentionCheckWhatIsAsked(t *testing.T) {
	settings := complete(t)
	for _, test := range []struct {
		args     []string
		settings map[string]string
		said     string
	}{
		{[]string{"forget", "connection", "a b"}, settings, "connection_id"},
		{[]string{"forget", "contact", "nobody"}, settings, "must be an e-mail address"},
		{[]string{"forget", "contact"}, settings, "email"},
		{[]string{"retention", "--dry-run"}, with(settings, "DATABASE_URL", ""), "DATABASE_URL is missing"},
		{[]string{"retention"}, with(settings, "REAUTH_RETENTION", "off"), "so that nothing is ever deleted"},
		{[]string{"retention"}, with(settings, "REAUTH_RETENTION", "clicks=soon"), "clicks must be 1d at the least"},
	} {
		settle(t, test.settings)
		var out, problem bytes.Buffer
		assert.Equal(t, exitUsage, run(test.args, &out, &problem), "%v", test.args)
		assert.Contains(t, problem.String(), test.said, "%v", test.args)
		assert.NotContains(t, problem.String(), "soon")
	}
}

// Where nobody can be asked, --yes must be given.
func TestForgetAsksFirst(t *testing.T) {
	var out, told bytes.Buffer
	var usage usageError
	require.ErrorAs(t, (&forgetSettings{}).ask(streams{&out, &told}, "Forget?"), &usage)
	assert.Contains(t, usage.Error(), "--yes")
	require.NoError(t, (&forgetSettings{Yes: true}).ask(streams{&out, &told}, "Forget?"))
}

func TestRetentionDryRun(t *testing.T) {
	settings := with(complete(t), "DATABASE_URL", pgtest.URL(t))
	settings["REAUTH_RETENTION"] = "webhooks=7d clicks=keep"
	database, err := db.Open(t.Context(), settings["DATABASE_URL"])
	require.NoError(t, err)
	defer database.Close()
	_, err = database.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c1"})
	require.NoError(t, err)
	settle(t, settings)
	var out, problem bytes.Buffer
	require.Equal(t, exitOK, run([]string{"retention", "--dry-run"}, &out, &problem), problem.String())
	assert.Regexp(t, `webhooks +webhooks +7d +0`, out.String())
	assert.Regexp(t, `clicks +clicks +keep +0`, out.String())
	assert.Regexp(t, `cases +cases +400d +0`, out.String())
	for _, rows := range db.RetainedRows() {
		assert.Contains(t, out.String(), rows.Table)
	}
}
