package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

func events(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(append([]string{"events", "list"}, args...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestEvents(t *testing.T) {
	address := pgtest.URL(t)
	settle(t, map[string]string{"DATABASE_URL": address}) // nothing else is needed
	database, err := db.Open(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	for _, w := range []db.Webhook{
		{EventID: "msg_1", Type: "account.updated", ConnectionID: "c1", Status: "reauth", State: db.WebhookWaiting},
		{EventID: "msg_2", Type: "moon.full", State: db.WebhookIgnored, Result: "type", Body: `{"event_type":"moon.full"}`},
	} {
		w.Provider, w.ReceivedAt = reauth.Finch, time.Now()
		fresh, err := database.StoreWebhook(t.Context(), w, nil)
		require.NoError(t, err)
		require.True(t, fresh)
	}
	code, out, errs := events()
	require.Equal(t, exitOK, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	for i, want := range [][]string{
		{"ARRIVED", "SAID", "RESULT"}, {"moon.full", "ignored", "type"}, {"c1", "reauth", "waiting"},
	} {
		for _, part := range want {
			assert.Contains(t, lines[i], part)
		}
	}
	for args, want := range map[string][]string{
		"--state waiting":    {"msg_1"},
		"--connection c1":    {"msg_1"},
		"--since 2999-01-01": {},
		"--since 1h":         {"msg_2", "msg_1"},
	} {
		code, out, errs := events(append([]string{"--json"}, strings.Fields(args)...)...)
		require.Equal(t, exitOK, code, errs)
		var list []map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		ids := []string{}
		for _, one := range list {
			ids = append(ids, one["id"].(string))
		}
		assert.Equal(t, want, ids, args)
	}
	_, _, errs = events("--limit", "1")
	assert.Contains(t, errs, "the newest 1")
	_, _, errs = events("--connection", "nobody")
	assert.Contains(t, errs, "no event matches")
	for args, says := range map[string]string{
		"--state odd": "--state must be", "--limit 0": "--limit must be", "--limit 501": "--limit must be", "--since soon": "--since must be",
	} {
		code, _, errs := events(strings.Fields(args)...)
		assert.Equal(t, exitUsage, code, args)
		assert.Contains(t, errs, says)
	}
}
