package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/dev/temporal"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// `reauth sweep` on real servers: the worker schedules sweeps, one is run by
// hand, and the metrics tell how far behind the checks are and how much of
// Finch's limit is used.
func TestSweep(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	settings := complete(t)
	delete(settings, "REAUTH_REMINDERS")
	sim, err := finchsim.New(finchsim.Config{ClientID: settings["FINCH_CLIENT_ID"], ClientSecret: settings["FINCH_CLIENT_SECRET"],
		RedirectURIs: []string{settings["REAUTH_PUBLIC_URL"] + "/callback"}, Knobs: &finchsim.Knobs{
			Limits: map[string]finchsim.Limit{"*": {Calls: 20, Window: finchsim.Duration(time.Minute)}},
		}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sim.Close() })
	finchServer := httptest.NewServer(sim)
	t.Cleanup(finchServer.Close)
	server := temporal.Server{Port: freePort(t), Headless: true}
	binary, err := temporal.Binary(ctx, os.Stderr)
	require.NoError(t, err)
	supervisor, err := dev.NewSupervisor(t.TempDir(), t.Logf, func() {})
	require.NoError(t, err)
	t.Cleanup(supervisor.Close)
	require.NoError(t, supervisor.Start(ctx, dev.Part{Name: "temporal", Command: binary, Args: server.Args(), Env: os.Environ(), Ready: server.Ready}))

	settings["DATABASE_URL"] = pgtest.URL(t)
	settings["FINCH_BASE_URL"] = finchServer.URL
	settings["REAUTH_FINCH_LIMIT"] = "20/1m"
	settings["TEMPORAL_ADDRESS"] = server.Address()
	settings["TEMPORAL_NAMESPACE"] = temporal.Namespace
	settings["TEMPORAL_TLS"] = "false"
	settings["REAUTH_METRICS_ADDR"] = fmt.Sprintf("127.0.0.1:%d", freePort(t))

	database, err := db.Open(ctx, settings["DATABASE_URL"])
	require.NoError(t, err)
	t.Cleanup(func() { _ = database.Close() })
	keys, err := secrets.Load(settings["REAUTH_KEYSET"])
	require.NoError(t, err)
	for _, id := range []string{"works", "stale"} {
		_, token, err := sim.AddConnection(finchsim.NewConnection{ConnectionID: id})
		require.NoError(t, err)
		_, err = database.PutConnection(ctx, reauth.Connection{ConnectionID: id})
		require.NoError(t, err)
		_, err = database.Adopt(ctx, db.Adoption{
			ConnectionID: id, Fingerprint: reauth.Fingerprint(token), MintedAt: time.Now(), Source: "api",
			Seal: func(generation int64) ([]byte, error) {
				return keys.Seal([]byte(token), "token", id, strconv.FormatInt(generation, 10))
			},
		})
		require.NoError(t, err)
	}
	require.NoError(t, sim.Break("stale"))
	work := begin(t, settings, "worker")
	work.until("it is at work", func() bool { return strings.Contains(work.out.String(), "at work") })

	cli := map[string]string{"TEMPORAL_ADDRESS": settings["TEMPORAL_ADDRESS"], "TEMPORAL_NAMESPACE": temporal.Namespace}
	swept := begin(t, cli, "sweep", "--all")
	require.Equal(t, exitOK, swept.ends())
	require.Contains(t, swept.out.String(), "2 checked: 1 work, 1 want the customer's login. 1 reported.", "without a keyset, too")
	require.Contains(t, swept.out.String(), "none is overdue")
	work.until("a case is open", func() bool {
		c, err := database.OpenCaseOf(ctx, "stale")
		return err == nil && c.Source == reauth.SourceSweep
	})

	named := begin(t, cli, "sweep", "--connection", "works,nobody", "--json")
	require.Equal(t, exitOK, named.ends())
	out := named.out.String()
	var status reauth.SweepStatus
	require.NoError(t, json.NewDecoder(strings.NewReader(out[strings.Index(out, "{\n"):])).Decode(&status), out)
	require.Equal(t, reauth.SweepCounts{Checked: 1, Connected: 1, Skipped: 1}, status.SweepCounts)
	require.NotNil(t, status.EndedAt)

	started := begin(t, cli, "sweep", "--no-wait")
	require.Equal(t, exitOK, started.ends())
	require.Contains(t, started.out.String(), "started a sweep: workflow sweep-by-hand\n")

	work.until("the metrics tell", func() bool {
		response, err := http.Get("http://" + settings["REAUTH_METRICS_ADDR"] + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return false
		}
		for _, line := range []string{
			`reauth_finch_budget_share_ratio{application="default",endpoint="introspect"} 0.`,
			`reauth_finch_waiting{application="default",endpoint="introspect"} 0`,
			`reauth_finch_calls_total{application="default",endpoint="introspect",fate="sent",priority="confirm"} `,
			`reauth_finch_calls_total{application="default",endpoint="introspect",fate="sent",priority="look"} `,
			`reauth_finch_calls_total{application="default",endpoint="introspect",fate="sent",priority="sweep"} 2`,
			`reauth_sweep_connections{state="all"} 1`,
			`reauth_sweep_connections{state="overdue"} 0`,
			`reauth_sweep_oldest_check_age_seconds `,
		} {
			if !strings.Contains(string(text), line) {
				return false
			}
		}
		return true
	})

	temporalClient, err := client.DialContext(ctx, client.Options{HostPort: server.Address(), Namespace: temporal.Namespace})
	require.NoError(t, err)
	defer temporalClient.Close()
	schedule := temporalClient.ScheduleClient().GetHandle(ctx, reauth.SweepScheduleID)
	described, err := schedule.Describe(ctx)
	require.NoError(t, err)
	require.Equal(t, 15*time.Minute, described.Schedule.Spec.Intervals[0].Every, "for REAUTH_SWEEP=12h")
	require.NoError(t, schedule.Trigger(ctx, client.ScheduleTriggerOptions{}))
	work.until("the schedule's sweep is done", func() bool {
		described, err := schedule.Describe(ctx)
		return err == nil && len(described.Info.RecentActions) == 1 && len(described.Info.RunningWorkflows) == 0
	})
}
