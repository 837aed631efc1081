package reauth

import (
	"fmt"
	"strings"
	"time"
)

// The sweep, by names that other programs can use.
const (
	// SweepWorkflowType checks connections that nobody has complained of.
	SweepWorkflowType = "SweepWorkflow"
	// SweepScheduleID is the Temporal Schedule that starts it.
	SweepScheduleID = "reauth-sweep"
	// SweepWorkflowID is what the workflows of the schedule are called, with the
	// time behind it.
	SweepWorkflowID = "sweep"
	// MaxSweepConnections bounds the connections that SweepInput names.
	MaxSweepConnections = 1000
	// DefaultSweepEvery is how often each connection is checked.
	DefaultSweepEvery = 24 * time.Hour
	// MinSweepEvery and MaxSweepEvery bound that.
	MinSweepEvery = time.Minute
	MaxSweepEvery = 30 * 24 * time.Hour
)

// SweepInput starts a SweepWorkflow. It holds no secret and is never encrypted.
type SweepInput struct {
	// Every is how often each connection is to be checked, as "24h": those whose
	// last check is nearly as old are due. DefaultSweepEvery if empty.
	Every string `json:"every,omitempty"`
	// All checks every connection, however young its last check is.
	All bool `json:"all,omitempty"`
	// ConnectionIDs, if any, are the only ones to be checked.
	ConnectionIDs []string `json:"connection_ids,omitempty"`

	// Goes holds what an earlier run of the same sweep has found; it goes on
	// from there.
	Goes *SweepStatus `json:"goes,omitempty"`
}

// Check says what is wrong with the input, if anything.
func (in SweepInput) Check() error {
	if _, err := in.Interval(); err != nil {
		return err
	}
	if len(in.ConnectionIDs) > MaxSweepConnections {
		return fmt.Errorf("connection_ids has %d entries, but may have %d at most; without any, all that are due are checked", len(in.ConnectionIDs), MaxSweepConnections)
	}
	for _, id := range in.ConnectionIDs {
		if err := CheckConnectionID(id); err != nil {
			return err
		}
	}
	return nil
}

// Interval reads Every.
func (in SweepInput) Interval() (time.Duration, error) {
	if in.Every == "" {
		return DefaultSweepEvery, nil
	}
	every, err := time.ParseDuration(in.Every)
	if err != nil || every < MinSweepEvery || every > MaxSweepEvery {
		return 0, fmt.Errorf(`every must be a duration from %s to %s, as "24h"`, MinSweepEvery, MaxSweepEvery)
	}
	return every, nil
}

// SweepDueAfter is how old a connection's last check is when the next one is
// due: a sixth of the interval is left for the check to get its turn.
func SweepDueAfter(every time.Duration) time.Duration { return every - every/6 }

// SweepCounts says what checks have found.
type SweepCounts struct {
	// Checked counts the connections of which the provider has said something;
	// the rest tell what.
	Checked int `json:"checked"`
	// Connected work; Restored of them were taken for stale before.
	Connected int `json:"connected"`
	Restored  int `json:"restored"`
	// Stale want the customer's login, Setup something else that only the
	// customer can mend; Refused are tokens that the provider refuses without
	// saying why. Of each, Reported opened or joined a case; Suppressed did not,
	// since a case was closed lately.
	Stale      int `json:"stale"`
	Setup      int `json:"setup"`
	Refused    int `json:"refused"`
	Reported   int `json:"reported"`
	Suppressed int `json:"suppressed"`
	// Gone were deleted at the provider.
	Gone int `json:"gone"`
	// Pending: the provider is still at it.
	Pending int `json:"pending"`
	// Failed could not be checked and are tried again later; they are not
	// counted as checked.
	Failed int `json:"failed"`
	// Skipped were named but cannot be checked: not registered, removed,
	// disconnected, without a token, or being checked by somebody else.
	Skipped int `json:"skipped"`
}

// Add adds other counts.
func (c *SweepCounts) Add(o SweepCounts) {
	c.Checked += o.Checked
	c.Connected += o.Connected
	c.Restored += o.Restored
	c.Stale += o.Stale
	c.Setup += o.Setup
	c.Refused += o.Refused
	c.Reported += o.Reported
	c.Suppressed += o.Suppressed
	c.Gone += o.Gone
	c.Pending += o.Pending
	c.Failed += o.Failed
	c.Skipped += o.Skipped
}

// Words says the counts in words.
func (c SweepCounts) Words() string {
	words := fmt.Sprintf("%d checked: %d work", c.Checked, c.Connected)
	for _, part := range []struct {
		n    int
		text string
	}{
		{c.Stale, "want the customer's login"}, {c.Setup, "want something else of the customer"}, {c.Refused, "are refused without a reason"},
		{c.Gone, "were deleted at the provider"}, {c.Pending, "are not ready yet"},
	} {
		if part.n > 0 {
			words += fmt.Sprintf(", %d %s", part.n, part.text)
		}
	}
	words += "."
	for _, part := range []struct {
		n    int
		text string
	}{
		{c.Restored, "taken for stale before, work again"}, {c.Reported, "reported"}, {c.Suppressed, "not reported, since a case was closed lately"},
		{c.Failed, "could not be asked and are tried again later"}, {c.Skipped, "skipped"},
	} {
		if part.n > 0 {
			words += fmt.Sprintf(" %d %s.", part.n, part.text)
		}
	}
	return words
}

// SweepLag says how far behind the checks are.
type SweepLag struct {
	// Connections counts those that are checked in turn, Overdue those of them
	// whose last check is older than the interval. Of one that was never checked,
	// its registration counts.
	Connections int `json:"connections"`
	Overdue     int `json:"overdue"`
	// Due counts those that are to be checked now.
	Due int `json:"due"`
	// OldestAt is the oldest check; nil where there are no connections.
	OldestAt *time.Time `json:"oldest_at"`
	// Never counts those that were never checked.
	Never int `json:"never"`
}

// SweepProgress is how far one batch of a sweep has come.
type SweepProgress struct {
	SweepCounts
	// Waits says until when Finch's limit makes the sweep wait; empty if not.
	Waits string `json:"waits,omitempty"`
}

// SweepStatus is the answer to QueryStatus of a SweepWorkflow, and its result.
// It holds no secret and is never encrypted.
type SweepStatus struct {
	SweepCounts
	BeganAt time.Time  `json:"began_at"`
	EndedAt *time.Time `json:"ended_at"`
	// Cutoff: what was last checked before it is due.
	Cutoff  time.Time `json:"cutoff"`
	Batches int       `json:"batches"`
	// Left are still to be checked.
	Left int `json:"left"`
	// Trouble says why the sweep ended before its time; empty if it did not.
	Trouble string `json:"trouble,omitempty"`
	// Lag is how far behind all checks are, after the last batch.
	Lag SweepLag `json:"lag"`
}

// Words says in words what the sweep has found and how far behind it is.
func (s SweepStatus) Words(now time.Time) string {
	lines := []string{s.SweepCounts.Words()}
	switch {
	case s.Trouble != "":
		lines = append(lines, fmt.Sprintf("It ended early: %s. %d are left for the next sweep.", s.Trouble, s.Left))
	case s.Left > 0:
		lines = append(lines, fmt.Sprintf("%d are left.", s.Left))
	}
	return strings.Join(append(lines, s.Lag.Words(now)), " ")
}

// Words says how far behind the checks are.
func (l SweepLag) Words(now time.Time) string {
	words := fmt.Sprintf("Of %d connections", l.Connections)
	switch {
	case l.Connections == 0:
		return "No connection is checked in turn: none has a token and no open case."
	case l.Overdue == 0:
		words += ", none is overdue"
	default:
		words += fmt.Sprintf(", %d are overdue", l.Overdue)
	}
	switch {
	case l.Never > 0:
		words += fmt.Sprintf("; %d were never checked", l.Never)
	case l.OldestAt != nil:
		words += fmt.Sprintf("; the oldest check is %s old", max(0, now.Sub(*l.OldestAt)).Round(time.Minute))
	}
	return words + "."
}

func (SweepInput) publicPayload()    {}
func (SweepStatus) publicPayload()   {}
func (SweepProgress) publicPayload() {}
