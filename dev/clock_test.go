package dev

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/worker/clock"
)

// The first start chooses the clock, and every further one keeps it.
func TestTheFolderKeepsItsClock(t *testing.T) {
	open := func(t *testing.T) *folder {
		t.Helper()
		f, err := openFolder(t.TempDir())
		require.NoError(t, err)
		t.Cleanup(f.close)
		return f
	}

	t.Run("a fast one", func(t *testing.T) {
		f := open(t)
		before := time.Now().Truncate(time.Second)
		made, err := f.clock(4000)
		require.NoError(t, err)
		require.Equal(t, 4000, made.Speed)
		require.False(t, made.Epoch.Before(before))
		require.False(t, made.Epoch.After(time.Now()))
		require.NoError(t, os.WriteFile(f.file(temporalFile), nil, 0o600))
		for _, speed := range []int{0, 4000} {
			resumed, err := f.clock(speed)
			require.NoError(t, err)
			require.Equal(t, made, resumed)
		}
		_, err = f.clock(100)
		require.ErrorContains(t, err, "was begun with --speed 4000")
		require.ErrorContains(t, err, "with --data to begin anew with --speed 100")
		kept, err := f.clock(0)
		require.NoError(t, err)
		require.Equal(t, made, kept)
	})

	t.Run("the real one", func(t *testing.T) {
		f := open(t)
		real, err := f.clock(0)
		require.NoError(t, err)
		require.Nil(t, real)
		made, err := f.clock(4000)
		require.NoError(t, err, "nothing waits in it yet")
		require.NotNil(t, made)

		f = open(t)
		require.NoError(t, os.WriteFile(f.file(temporalFile), nil, 0o600))
		_, err = f.clock(4000)
		require.ErrorContains(t, err, "was begun without --speed")
		require.ErrorContains(t, err, "with --data to begin anew with --speed 4000")
		require.NoFileExists(t, f.file(clockFile))
		real, err = f.clock(0)
		require.NoError(t, err)
		require.Nil(t, real)
	})

	for name, c := range map[string]struct{ content, says string }{
		"one that has run out":     {"10000@1990-01-01T00:00:00Z", "too late for a date"},
		"one that cannot be read":  {"later", "the speed must be"},
		"one of a forbidden speed": {"0@2026-11-21T02:00:00Z", "the speed must be"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			require.NoError(t, os.WriteFile(f.file(clockFile), []byte(c.content), 0o600))
			_, err := f.clock(0)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, f.path)
		})
	}

	t.Run("a speed that no clock has", func(t *testing.T) {
		f := open(t)
		_, err := f.clock(1)
		require.ErrorContains(t, err, "from 2 to 10000")
		require.NoFileExists(t, f.file(clockFile))
	})
}

// Only the worker has the folder's clock, whatever is set where we were started.
func TestTheWorkerHasTheClock(t *testing.T) {
	e := &Environment{options: Options{Environ: []string{"HOME=/", "REAUTH_DEV_CLOCK=9@2020-01-01T00:00:00Z"}}}
	set := func(p Part) []string {
		return slices.DeleteFunc(slices.Clone(p.Env), func(v string) bool { return len(v) < 16 || v[:16] != "REAUTH_DEV_CLOCK" })
	}
	require.Equal(t, []string{"REAUTH_DEV_CLOCK="}, set(e.worker()))
	fast, err := clock.Parse("4000@2026-11-21T02:00:00Z")
	require.NoError(t, err)
	e.clock = &fast
	require.Equal(t, []string{"REAUTH_DEV_CLOCK=4000@2026-11-21T02:00:00Z"}, set(e.worker()))
}

func TestPace(t *testing.T) {
	require.Contains(t, pace(clock.Fast{Speed: 4000, Epoch: time.Now()}), "4000 times as fast: one minute is 2 d 18 h 40 min, fourteen days pass in 5 min")
	for span, want := range map[time.Duration]string{
		72 * time.Second:              "1 min",
		100 * time.Second:             "2 min",
		24*time.Hour + time.Minute:    "1 d 1 min",
		7 * 24 * time.Hour:            "7 d",
		59400 * time.Millisecond:      "59 s",
		59600 * time.Millisecond:      "1 min",
		time.Hour - 10*time.Second:    "1 h",
		333*time.Hour + time.Minute/3: "13 d 21 h",
	} {
		require.Equal(t, want, words(span), span)
	}
}
