package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

const monday = "2026-03-02T14:00:00Z"

// previewOf runs `reauth preview` and returns what it answers and what it says
// besides.
func previewOf(t *testing.T, code int, args ...string) (out, said string) {
	t.Helper()
	t.Setenv("DISPLAY", "") // no browser
	t.Setenv("WAYLAND_DISPLAY", "")
	var stdout, stderr bytes.Buffer
	require.Equal(t, code, run(append([]string{"preview"}, args...), &stdout, &stderr), stderr.String())
	return stdout.String(), stderr.String()
}

// The program prints what docs/preview.md shows.
func TestPreviewIsAsInTheDocs(t *testing.T) {
	settle(t, nil)
	page, err := os.ReadFile("../../../docs/preview.md")
	require.NoError(t, err)
	out, said := previewOf(t, exitOK, "--from", monday)
	assert.Contains(t, string(page), "<!-- table -->\n```text\n"+out+"```\n")
	assert.Regexp(t, `^\n30 days passed in [0-9.]+ seconds; nobody was written to\.\n$`, said)
}

func TestPreviewMailsAndPage(t *testing.T) {
	settle(t, map[string]string{
		"REAUTH_PRODUCT_NAME": "Payday", "REAUTH_MAIL_FROM": "Payday <hello@payday.example>", "REAUTH_SUPPORT_EMAIL": "help@payday.example",
		"REAUTH_PUBLIC_URL": "https://connect.payday.example", "REAUTH_REMINDERS": "1h,-1h",
	})
	file := filepath.Join(t.TempDir(), "preview.html")
	out, said := previewOf(t, exitOK, "--from", monday, "--minutes", "2880", "--renewals", "1", "--mails", "--open", file)
	for _, says := range []string{
		"Mon 02 Mar 2026 10:00 EST (UTC-5)  after-1h", "Fri 06 Mar 2026 08:00 EST (UTC-5)  before-1h", "the end of session 2",
		`From: "Payday" <hello@payday.example>`, "https://connect.payday.example/r/…",
	} {
		assert.Contains(t, out, says)
	}
	assert.Contains(t, said, "4 days passed in ")
	assert.Contains(t, said, "The page is "+file+"\n")
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(page), "answers to help@payday.example")
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it may hold the addresses of people")
}

func TestPreviewOfAFile(t *testing.T) {
	settle(t, map[string]string{"REAUTH_REMINDERS": "1h"})
	file := filepath.Join(t.TempDir(), "campaigns.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }

	write("campaigns:\n  default:\n    steps:\n      - after: 2 days\n        to: alternate\n")
	out, said := previewOf(t, exitUsage, "--campaign", file)
	assert.Empty(t, out)
	assert.Contains(t, said, file+":4:16: campaigns.default.steps[0].after is ")
	assert.Contains(t, said, file+":5:13: campaigns.default.steps[0].to is ")

	write("campaigns:\n  slow:\n    steps: [{after: 3d}]\n  quick:\n    steps: [{after: 1h}]\nchoose:\n  - {provider: finch, campaign: slow}\n")
	out, _ = previewOf(t, exitOK, "--campaign", file, "--from", monday)
	assert.Contains(t, out, "Campaign slow for ", "the one that its choices give the connection")
	assert.Contains(t, out, "Thu 05 Mar 2026 09:00 EST (UTC-5)  after-3d")
	out, _ = previewOf(t, exitOK, "--campaign", file, "--from", monday, "--name", "quick")
	assert.Contains(t, out, "Campaign quick for ")
	_, said = previewOf(t, exitUsage, "--campaign", file, "--name", "quik")
	assert.Equal(t, "reauth: there is no campaign \"quik\"; the campaigns are default, quick, slow\n", said)
}

func TestPreviewOfAConnection(t *testing.T) {
	settle(t, nil)
	_, said := previewOf(t, exitUsage, "--connection", "c1")
	assert.Contains(t, said, "DATABASE_URL is missing")

	url := pgtest.URL(t)
	t.Setenv("DATABASE_URL", url)
	_, said = previewOf(t, exitFailure, "--connection", "c1")
	assert.Contains(t, said, "no connection c1 is registered")

	database, err := db.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Close() })
	_, err = database.PutConnection(t.Context(), reauth.Connection{ConnectionID: "c1", CustomerName: "Adventure Works", System: "Rippling", Contacts: []reauth.Contact{
		{Email: "kai@adventure.example", Name: "Kai", TimeZone: "Pacific/Auckland"},
		{Email: "lea@adventure.example", Name: "Lea", Role: "backup", TimeZone: "Pacific/Honolulu"},
	}})
	require.NoError(t, err)
	_, _, err = database.SetUnreachable(t.Context(), "kai@adventure.example", db.UnreachableBounce, "")
	require.NoError(t, err)
	out, _ := previewOf(t, exitOK, "--connection", "c1", "--from", monday)
	assert.Contains(t, out, "for Adventure Works at Rippling")
	assert.Regexp(t, `Kai <kai@adventure\.example> +primary +Pacific/Auckland +no: the address takes no mail`, out)
	assert.Contains(t, out, "Mon 02 Mar 2026 04:00 HST (UTC-10)  after-0s   mail     Lea (alternate) <lea@adventure.example>")
	assert.Contains(t, out, "takes over: no primary contact can be written to")
	_, err = database.NewestCase(t.Context(), "c1")
	assert.ErrorIs(t, err, db.ErrNotFound, "nothing is written there")
}

func TestPreviewRefusesWhatIsNoTime(t *testing.T) {
	settle(t, nil)
	_, said := previewOf(t, exitUsage, "--from", "tomorrow")
	assert.Contains(t, said, "--from is no time; it wants one as 2026-03-02T14:00:00Z")
	earliest := time.Now().UTC().Round(time.Minute)
	out, _ := previewOf(t, exitOK)
	_, opened, _ := strings.Cut(out, "opened on ")
	opened, _, _ = strings.Cut(opened, ",")
	from, err := time.Parse("Mon 02 Jan 2006 15:04 MST", opened)
	require.NoError(t, err)
	assert.WithinRange(t, from, earliest, time.Now().Round(time.Minute))
}

// A terminal would break lines that are too long for it.
func TestNarrowTerminalsGetShortLines(t *testing.T) {
	var out strings.Builder
	terminal := &narrowing{Writer: &out, width: 6}
	for _, line := range []string{"sechs!\n", "zu lang\n", "größer als\n", "\n"} {
		n, err := terminal.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	assert.Equal(t, "sechs!\nzu la…\ngröße…\n\n", out.String())
	assert.True(t, terminal.cut)
}
