package reauth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retention, by names that other programs can use.
const (
	// RetentionWorkflowType deletes what has been kept for long enough.
	RetentionWorkflowType = "RetentionWorkflow"
	// RetentionScheduleID is the Temporal Schedule that starts it.
	RetentionScheduleID = "reauth-retention"
	// RetentionWorkflowID is what the workflows of the schedule are called, with
	// the time behind it.
	RetentionWorkflowID = "retention"
)

// RetentionOff says that nothing is deleted, and RetentionOn that the defaults
// hold; of one kind, RetentionKeep says that it is kept for good.
const (
	RetentionOff  = "off"
	RetentionOn   = "on"
	RetentionKeep = "keep"
)

const day = 24 * time.Hour

// RetainedKind is a kind of data that is kept for a time.
type RetainedKind struct {
	Name string
	// What says what it is, for people.
	What string
	// Default is how long it is kept where nobody says otherwise; 0 is for good.
	// Least is the shortest time that may be chosen.
	Default, Least time.Duration
}

// RetainedKinds lists the kinds, in the order in which they are deleted.
func RetainedKinds() []RetainedKind {
	return []RetainedKind{
		{"webhooks", "events from providers that have been acted upon", 30 * day, 7 * day},
		{"clicks", "clicks on links, but for those of open cases", 90 * day, day},
		{"codes", "settled authorization codes and copies of tokens that are stored elsewhere", 90 * day, 7 * day},
		{"tokens", "the sealed bytes of superseded tokens", 90 * day, day},
		{"quarantine", "what became of tokens in quarantine that were disconnected or forgotten", 400 * day, 30 * day},
		{"outbox", "webhooks to the backend that were delivered or given up", 30 * day, day},
		{"imports", "what imports have said of rows that are settled", 90 * day, day},
		{"cases", "closed cases with their events and notices", 400 * day, 30 * day},
		{"contacts", "what is left of people who were taken off their connection, and their links", 400 * day, 30 * day},
		{"removed", "connections that were removed", 400 * day, 30 * day},
		{"operations", "ended storms, bulk runs, and changes of whether mail goes out", 400 * day, 30 * day},
		{"counters", "counters of limits", day, day},
	}
}

// Retention says how long each kind is kept, as "30d" or "keep"; what is not in
// it is kept for the default.
type Retention map[string]string

// ParseRetention reads "webhooks=30d cases=400d quarantine=keep", or "on" for the
// defaults. on is false for "off". The error repeats no value.
func ParseRetention(text string) (keep Retention, on bool, err error) {
	switch text = strings.TrimSpace(text); text {
	case RetentionOff:
		return nil, false, nil
	case RetentionOn:
		return Retention{}, true, nil
	}
	keep = Retention{}
	for _, part := range strings.Fields(text) {
		name, value, found := strings.Cut(part, "=")
		if !found {
			return nil, false, fmt.Errorf("each part must be KIND=TIME; the kinds are %s", kindNames())
		}
		if _, twice := keep[name]; twice {
			return nil, false, errors.New("a kind is there twice")
		}
		keep[name] = value
	}
	if err := keep.Check(); err != nil {
		return nil, false, err
	}
	return keep, true, nil
}

// Check says what is wrong, if anything.
func (r Retention) Check() error {
	known := 0
	for _, kind := range RetainedKinds() {
		if _, given := r[kind.Name]; given {
			known++
		}
		if _, err := r.of(kind); err != nil {
			return err
		}
	}
	if known < len(r) {
		return fmt.Errorf("there is no such kind; the kinds are %s", kindNames())
	}
	return nil
}

// Of is how long a kind is kept; 0 is for good.
func (r Retention) Of(kind RetainedKind) time.Duration {
	keep, err := r.of(kind)
	if err != nil { // Check was not asked; what is not understood is kept
		return 0
	}
	return keep
}

func (r Retention) of(kind RetainedKind) (time.Duration, error) {
	text, given := r[kind.Name]
	switch {
	case !given:
		return kind.Default, nil
	case text == RetentionKeep:
		return 0, nil
	}
	days, inDays := strings.CutSuffix(text, "d")
	n, err := strconv.Atoi(days)
	keep := time.Duration(n) * day
	if !inDays || err != nil || n < 1 || n > 36500 || keep < kind.Least {
		return 0, fmt.Errorf("%s must be %dd at the least, in whole days, or %s", kind.Name, int(kind.Least/day), RetentionKeep)
	}
	return keep, nil
}

// String says how long each kind is kept.
func (r Retention) String() string {
	parts := make([]string, 0, len(RetainedKinds()))
	for _, kind := range RetainedKinds() {
		keep := RetentionKeep
		if d := r.Of(kind); d > 0 {
			keep = fmt.Sprintf("%dd", int(d/day))
		}
		parts = append(parts, kind.Name+"="+keep)
	}
	return strings.Join(parts, " ")
}

func kindNames() string {
	var names []string
	for _, kind := range RetainedKinds() {
		names = append(names, kind.Name)
	}
	return strings.Join(names, ", ")
}

// RetentionInput starts a RetentionWorkflow. It holds no secret and is never
// encrypted.
type RetentionInput struct {
	// Keep says how long each kind is kept.
	Keep Retention `json:"keep,omitempty"`

	// Goes holds what an earlier run of the same workflow has deleted; it goes on
	// from there.
	Goes *RetentionStatus `json:"goes,omitempty"`
}

// Deleted counts what was deleted, or blanked, by table.
type Deleted map[string]int

// Add adds other counts. In whatever order it does, the sum is the same.
//
//workflowcheck:ignore
func (d Deleted) Add(o Deleted) {
	for table, n := range o {
		d[table] += n
	}
}

// Tables lists the tables, in order.
//
//workflowcheck:ignore
func (d Deleted) Tables() []string { return slices.Sorted(maps.Keys(d)) }

// Words says the counts in words.
func (d Deleted) Words() string {
	var parts []string
	for _, table := range d.Tables() {
		if d[table] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", table, d[table]))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// RetentionStatus is the answer to QueryStatus of a RetentionWorkflow, and its
// result. It holds no secret and is never encrypted.
type RetentionStatus struct {
	Deleted Deleted    `json:"deleted"`
	BeganAt time.Time  `json:"began_at"`
	EndedAt *time.Time `json:"ended_at"`
	Batches int        `json:"batches"`
	// Trouble says what could not be deleted, and why; empty if all could.
	Trouble string `json:"trouble,omitempty"`
}

func (RetentionInput) publicPayload()  {}
func (RetentionStatus) publicPayload() {}
func (Deleted) publicPayload()         {}
