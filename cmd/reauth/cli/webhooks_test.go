package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

// webhooks runs `reauth webhooks` with arguments.
func webhooks(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(append([]string{"webhooks"}, args...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestWebhooks(t *testing.T) {
	address := pgtest.URL(t)
	settle(t, map[string]string{"DATABASE_URL": address}) // nothing else is needed
	database, err := db.Open(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	for i := range 2 {
		id := fmt.Sprint("c", i+1)
		_, err := database.PutConnection(t.Context(), reauth.Connection{ConnectionID: id})
		require.NoError(t, err)
		_, err = database.OpenCase(t.Context(), db.Case{CaseID: "k" + id, ConnectionID: id, Source: reauth.SourceManual, OpenedAt: time.Now()})
		require.NoError(t, err)
	}
	put := func(id, kind, connection string) {
		t.Helper()
		e := db.OutboxEvent{ID: id, Type: kind, Payload: json.RawMessage(`{}`), ConnectionID: connection}
		if connection != "" {
			e.CaseID = "k" + connection
		}
		require.NoError(t, database.Enqueue(t.Context(), e))
	}
	put("evt_1", "reauth.case.opened", "c1")
	put("evt_2", "reauth.case.closed", "c1")
	put("evt_3", "reauth.case.opened", "c2")
	put("evt_4", "ping", "")
	soon := time.Now().Add(time.Minute)
	claimed, err := database.ClaimOutbox(t.Context(), soon, 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, claimed, 3)
	require.NoError(t, database.DeliveryFailed(t.Context(), "evt_1", soon, soon.Add(time.Hour), "the receiver answered 500"))
	require.NoError(t, database.Delivered(t.Context(), "evt_3", soon))
	require.NoError(t, database.DeliveryFailed(t.Context(), "evt_4", soon, time.Time{}, "the receiver answered 400"))

	code, out, errs := webhooks("list")
	require.Equal(t, exitOK, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 5)
	for i, want := range [][]string{
		{"MADE", "EVENT", "STATE"},
		{"ping", "evt_4", "abandoned 20", " 1 ", "the receiver answered 400"},
		{"reauth.case.opened", "evt_3", "delivered 20", " 1 ", "-"},
		{"reauth.case.closed", "evt_2", "waits behind an earlier one of its case", " 0 ", "-"},
		{"reauth.case.opened", "evt_1", "waiting, due 20", " 1 ", "the receiver answered 500"},
	} {
		for _, part := range want {
			assert.Contains(t, lines[i], part)
		}
	}
	assert.Empty(t, errs)

	for args, want := range map[string][]string{
		"--state waiting":              {"evt_2", "evt_1"},
		"--state delivered":            {"evt_3"},
		"--state abandoned":            {"evt_4"},
		"--case kc1":                   {"evt_2", "evt_1"},
		"--connection c2":              {"evt_3"},
		"--case kc1 --connection c2":   {},
		"--limit 2":                    {"evt_4", "evt_3"},
		"--since 1h":                   {"evt_4", "evt_3", "evt_2", "evt_1"},
		"--since 2000-01-01":           {"evt_4", "evt_3", "evt_2", "evt_1"},
		"--since 2999-01-01T00:00:00Z": {},
	} {
		code, out, errs := webhooks(append([]string{"list", "--json"}, strings.Fields(args)...)...)
		require.Equal(t, exitOK, code, errs)
		var list []map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		ids := []string{}
		for _, one := range list {
			ids = append(ids, one["id"].(string))
			assert.Equal(t, one["state"] == "waiting" && one["id"] == "evt_1", one["due_at"] != nil)
		}
		assert.Equal(t, want, ids, args)
	}
	_, _, errs = webhooks("list", "--limit", "2")
	assert.Contains(t, errs, "the newest 2")
	code, out, errs = webhooks("list", "--case", "nothing")
	assert.Equal(t, exitOK, code)
	assert.Empty(t, out)
	assert.Contains(t, errs, "no event matches")

	for _, test := range []struct{ args, says string }{
		{"--event evt_3", "1 event will be delivered once more, under the same webhook-id"},
		{"--case kc1", "2 events will"},
		{"--since 1h --type reauth.case.opened", "2 events will"},
		{"--since 1h --until 2999-01-01", "4 events will"},
		{"--since 2999-01-01", "0 events will"},
		{"--since 2d --until 1d", "0 events will"},
	} {
		code, out, errs := webhooks(append([]string{"replay"}, strings.Fields(test.args)...)...)
		require.Equal(t, exitOK, code, errs)
		assert.Contains(t, out, test.says, test.args)
	}
	now := time.Now().Add(time.Second)
	claimed, err = database.ClaimOutbox(t.Context(), now, 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, claimed, 3, "evt_2 has to wait for evt_1")
	require.NoError(t, database.DeliveryFailed(t.Context(), "evt_4", now, time.Time{}, "the receiver answered 400"))
	code, out, errs = webhooks("replay", "--abandoned")
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "1 event will")
	claimed, err = database.ClaimOutbox(t.Context(), now, 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	assert.Equal(t, "evt_4", claimed[0].ID)

	for args, says := range map[string]string{
		"--event evt_9": "no event has the ID evt_9",
		"--case k9":     "no event of a case k9",
	} {
		code, out, errs := webhooks(append([]string{"replay"}, strings.Fields(args)...)...)
		assert.Equal(t, exitFailure, code)
		assert.Empty(t, out)
		assert.Contains(t, errs, says)
	}
}

func TestWebhooksWithWrongArguments(t *testing.T) {
	settle(t, map[string]string{"DATABASE_URL": "postgres://nobody:hunter2@127.0.0.1:1/none?sslmode=disable"})
	const which = "exactly one of --event, --case, --since and --abandoned"
	for args, says := range map[string]string{
		"list --state lost":                                      `--state must be waiting, delivered or abandoned, and not "lost"`,
		"list --limit 0":                                         "--limit must be from 1 to 500",
		"list --limit 501":                                       "--limit must be from 1 to 500",
		"list --since yesterday":                                 `--since must be a time as 2026-11-21T08:00:00Z or 2026-11-21, or an age as 36h or 2d, and not "yesterday"`,
		"list --since 0h":                                        "--since must be a time",
		"list --since=-2d":                                       "--since must be a time",
		"list --since d":                                         "--since must be a time",
		"list --since 2026-02-30":                                "--since must be a time",
		"replay":                                                 which,
		"replay --event evt_1 --abandoned":                       which,
		"replay --case k1 --since 1h":                            which,
		"replay --type reauth.case.closed":                       which,
		"replay --case k1 --type reauth.case.closed":             "--until and --type go with --since",
		"replay --abandoned --until 1h":                          "--until and --type go with --since",
		"replay --since 1h --until tomorrow":                     "--until must be a time",
		"replay --since soon":                                    "--since must be a time",
		"replay --since 1h --until 2h":                           "--until must be after --since",
		"replay --since 2026-11-21 --until 2026-11-21T00:00:00Z": "--until must be after --since",
	} {
		code, out, errs := webhooks(strings.Fields(args)...)
		assert.Equal(t, exitUsage, code, args)
		assert.Contains(t, errs, says, args)
		assert.Empty(t, out)
	}
	code, _, errs := webhooks("replay", "--abandoned")
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, errs, "opening the database")
	assert.NotContains(t, errs, "hunter2")

	settle(t, nil)
	code, _, errs = webhooks("list")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, errs, "DATABASE_URL is missing")
}
