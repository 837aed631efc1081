package cli

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The clock of a data folder is chosen at its first start: another one is
// refused before anything runs.
func TestDevRefusesAnotherClock(t *testing.T) {
	settle(t, nil)
	for name, c := range map[string]struct {
		file, content string
		says          []string
	}{
		"another speed": {"clock", "4000@2026-11-21T02:00:00Z\n", []string{"was begun with --speed 4000", "with --data to begin anew with --speed 100"}},
		"real time":     {"temporal.db", "", []string{"was begun without --speed", "with --data to begin anew with --speed 100"}},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(data, c.file), []byte(c.content), 0o600))
			var out, errs bytes.Buffer
			require.Equal(t, exitFailure, run([]string{"dev", "--data", data, "--ports", "auto", "--speed", "100"}, &out, &errs))
			require.Empty(t, out.String())
			require.Equal(t, 1, strings.Count(errs.String(), "\n"), errs.String())
			for _, says := range append(c.says, data) {
				require.Contains(t, errs.String(), says)
			}
			kept, err := os.ReadDir(data)
			require.NoError(t, err)
			names := []string{}
			for _, file := range kept {
				names = append(names, file.Name())
			}
			require.ElementsMatch(t, []string{c.file, "lock"}, names, "nothing was made")
		})
	}
}

// A case of a week is over in a minute, by itself, and its customer was reminded.
func TestDevWithSpeed(t *testing.T) {
	t.Parallel()
	data, file := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "ready.json")
	args := []string{"dev", "--data", data, "--ready-file", file, "--ports", "auto"}
	began := time.Now()
	week := map[string]string{"REAUTH_SESSION_MINUTES": "10080", "REAUTH_DEV_CLOCK": "9@2020-01-01T00:00:00Z"}
	first := begin(t, week, append(args, "--speed", "10000")...)
	ready := first.readyAt(file)
	first.until("it says how fast time passes", func() bool {
		return strings.Contains(first.out.String(), "one minute is 6 d 22 h 40 min, fourteen days pass in 2 min")
	})
	var cases struct {
		Cases []struct {
			ConnectionID string     `json:"connection_id"`
			Outcome      string     `json:"outcome"`
			OpenedAt     time.Time  `json:"opened_at"`
			ClosedAt     *time.Time `json:"closed_at"`
			NoticesSent  int        `json:"notices_sent"`
		} `json:"cases"`
	}
	first.until("the case is over", func() bool {
		return get(t, ready.APIURL+"/v1/cases", ready.APIKey, &cases) == http.StatusOK && len(cases.Cases) == 1 && cases.Cases[0].Outcome != ""
	})
	over := cases.Cases[0]
	require.Equal(t, "expired", over.Outcome)
	require.GreaterOrEqual(t, over.ClosedAt.Sub(over.OpenedAt), 7*24*time.Hour)
	require.True(t, over.OpenedAt.After(began))
	require.GreaterOrEqual(t, over.NoticesSent, 2)
	logged, err := os.ReadFile(filepath.Join(data, "logs", "worker.log"))
	require.NoError(t, err)
	require.Contains(t, string(logged), "time passes faster for cases")
	require.NoError(t, first.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitOK, first.ends(), first.out)
	clock, err := os.ReadFile(filepath.Join(data, "clock"))
	require.NoError(t, err)

	// The next start resumes by the same clock.
	second := begin(t, week, args...)
	second.readyAt(file)
	second.until("it says how fast time passes", func() bool { return strings.Contains(second.out.String(), "10000 times as fast") })
	require.NoError(t, second.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitOK, second.ends(), second.out)
	kept, err := os.ReadFile(filepath.Join(data, "clock"))
	require.NoError(t, err)
	require.Equal(t, string(clock), string(kept))
}
