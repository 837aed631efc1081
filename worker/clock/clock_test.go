package clock_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/worker/clock"
)

var (
	epoch = time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	fast  = clock.Fast{Speed: 4000, Epoch: epoch}
)

const day = 24 * time.Hour

func TestParse(t *testing.T) {
	for text, want := range map[string]clock.Fast{
		"4000@2026-11-21T02:00:00Z":      fast,
		"4000@2026-11-21T03:00:00+01:00": fast,
		"2@2026-11-21T02:00:00.25Z":      {Speed: 2, Epoch: epoch.Add(250 * time.Millisecond)},
		"10000@2026-11-21T02:00:00Z":     {Speed: 10_000, Epoch: epoch},
	} {
		got, err := clock.Parse(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		again, err := clock.Parse(got.String())
		require.NoError(t, err, got.String())
		assert.Equal(t, got, again)
	}
	assert.Equal(t, "4000@2026-11-21T02:00:00Z", fast.String())
	for text, says := range map[string]string{
		"":                            "from 2 to 10000",
		"@2026-11-21T02:00:00Z":       "from 2 to 10000",
		"1@2026-11-21T02:00:00Z":      "from 2 to 10000",
		"-4000@2026-11-21T02:00:00Z":  "from 2 to 10000",
		"10001@2026-11-21T02:00:00Z":  "from 2 to 10000",
		"2.5@2026-11-21T02:00:00Z":    "from 2 to 10000",
		"4000":                        "the epoch must be",
		"4000@yesterday":              "the epoch must be",
		"4000@2026-11-21":             "the epoch must be",
		"4000@2026-11-21T02:00:00Z@1": "the epoch must be",
	} {
		_, err := clock.Parse(text)
		require.ErrorContains(t, err, says, text)
	}
}

func TestAt(t *testing.T) {
	berlin := time.FixedZone("", 3600)
	for name, c := range map[string]struct {
		clock      clock.Fast
		real, want time.Time
	}{
		"the epoch":               {fast, epoch, epoch},
		"a minute later":          {fast, epoch.Add(time.Minute), epoch.Add(2*day + 18*time.Hour + 40*time.Minute)},
		"a nanosecond later":      {fast, epoch.Add(1), epoch.Add(4000)},
		"before the epoch":        {fast, epoch.Add(-1500 * time.Millisecond), epoch.Add(-6000 * time.Second)},
		"in another zone":         {fast, epoch.Add(time.Second).In(berlin), epoch.Add(4000 * time.Second)},
		"an epoch between":        {clock.Fast{Speed: 2, Epoch: epoch.Add(750 * time.Millisecond)}, epoch.Add(time.Second), epoch.Add(1250 * time.Millisecond)},
		"beyond what spans count": {fast, epoch.Add(365 * day), epoch.AddDate(0, 0, 4000*365)},
	} {
		assert.Equal(t, c.want, c.clock.At(c.real), name)
	}
	before := fast.At(time.Now())
	now := fast.Now()
	assert.False(t, now.Before(before))
	assert.False(t, now.After(fast.At(time.Now())))
}

func TestReal(t *testing.T) {
	for span, want := range map[time.Duration]time.Duration{
		14 * day:     302*time.Second + 400*time.Millisecond,
		4000:         1,
		4001:         2,
		1:            1,
		0:            0,
		-time.Second: -250 * time.Microsecond,
	} {
		assert.Equal(t, want, fast.Real(span), "%s", span)
	}
}
