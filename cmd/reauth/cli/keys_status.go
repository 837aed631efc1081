package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

const (
	// unsaid is how long a process may go on using a key after it last said so:
	// one that was killed, or whose clock is a little late.
	unsaid = 5 * time.Minute
	// temporalPatience bounds what Temporal is asked.
	temporalPatience = 5 * time.Second
)

type keyFacts struct {
	databaseSettings
	keySettings
	TaskQueue string `env:"REAUTH_TASK_QUEUE" default:"reauth" placeholder:"NAME" help:"Temporal task queue."`
	logSettings
}

type keysStatusCommand struct {
	keyFacts
	JSON bool `help:"Print JSON."`
}

func (c *keysStatusCommand) Run(ctx context.Context, s streams) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	report, err := c.gather(ctx, keys, s)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, report)
	}
	return report.print(s.out)
}

type keysRetireCommand struct {
	keyFacts
	keysetOutput
	KeyID uint32 `arg:"" help:"The key, as 'reauth keys status' shows it."`
	Force bool   `help:"Take it out although something may need it: what it sealed is lost then."`
}

func (c *keysRetireCommand) Run(ctx context.Context, s streams) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	keyset, err := secrets.Retire(c.Keyset, c.KeyID, keyServices()...)
	switch {
	case errors.Is(err, secrets.ErrUnknownKey):
		return usageError{fmt.Errorf("the keyset has no key %d; `reauth keys status` shows those that it has", c.KeyID)}
	case errors.Is(err, secrets.ErrKeyInUse):
		return usageError{fmt.Errorf("the key %d is in use; `reauth keys rotate` puts another in its place", c.KeyID)}
	case err != nil:
		return fmt.Errorf("taking the key out: %w", err)
	}
	report, err := c.gather(ctx, keys, s)
	if err != nil && !c.Force {
		return err
	}
	for _, k := range report.Keys {
		if k.ID != c.KeyID || len(k.NeededBy) == 0 {
			continue
		}
		if !c.Force {
			return fmt.Errorf("the key %d is needed still: %s (--force takes it out all the same, and what it sealed is lost then)", c.KeyID, strings.Join(k.NeededBy, "; "))
		}
		fmt.Fprintf(s.err, "taken out by force: %s\n", strings.Join(k.NeededBy, "; "))
	}
	if err := c.put(s, keyset); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "The keyset is without the key %d. Give it to every process and restart them.\n", c.KeyID)
	return nil
}

// keysReport is what is known of every key.
type keysReport struct {
	Keys      []keyState    `json:"keys"`
	Processes []processKeys `json:"processes"`
}

type processKeys struct {
	Name        string `json:"name"`
	SealPrimary uint32 `json:"seals_with"`
	LinkPrimary uint32 `json:"links_with"`
	HasNewest   bool   `json:"has_newest"`
}

// keyState is what is known of one key, and what needs it.
type keyState struct {
	ID   uint32 `json:"key_id"`
	Kind string `json:"kind"` // what it does: seal or links
	// State is "in use", "new" (it opens, and is not in use yet), "old" or
	// "missing" (values need it, and the keyset lacks it).
	State         string     `json:"state"`
	PrimarySince  *time.Time `json:"in_use_since,omitempty"`
	LastPrimaryAt *time.Time `json:"in_use_until,omitempty"`
	// Sealed counts the values by table, Links the links that it derives.
	Sealed map[string]int `json:"sealed,omitempty"`
	Links  int            `json:"links,omitempty"`
	// What Temporal may keep that it sealed: OpenCases and Running are open
	// cases and workflows from its time, Retained closed ones.
	OpenCases  int        `json:"open_cases"`
	Running    int64      `json:"running_workflows"`
	Retained   int64      `json:"retained_histories"`
	RetainedTo *time.Time `json:"retained_until,omitempty"`
	// NeededBy says in words what needs it still and what would help; empty for a
	// key that may be retired.
	NeededBy []string `json:"needed_by"`
}

func (k keyState) mayRetire() bool {
	return k.State != "in use" && k.State != "missing" && len(k.NeededBy) == 0
}

// gather asks the keyset, the database and Temporal.
func (c *keyFacts) gather(ctx context.Context, keys *secrets.Keys, s streams) (keysReport, error) {
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return keysReport{}, err
	}
	defer database.Close()
	logger := c.logger(s.err)
	options, err := temporalOptions(nil, logger) // counting needs no keys
	if err != nil {
		return keysReport{}, err
	}
	temporal, err := client.NewLazyClient(options)
	if err != nil {
		return keysReport{}, fmt.Errorf("setting up the Temporal client: %w", err)
	}
	defer temporal.Close()
	return reportKeys(ctx, database, keys, temporalHistories{temporal, options.Namespace, c.TaskQueue}, time.Now())
}

// histories tells what Temporal keeps of workflows that started by a time. Closed
// ones count from a time on, unless that is zero.
type histories interface {
	kept(ctx context.Context, closedFrom, startedBy time.Time) (kept, error)
}

type kept struct {
	running, closed int64
	// until is when the last of the closed ones is given up; zero where unknown.
	until time.Time
}

func reportKeys(ctx context.Context, database *db.DB, keys *secrets.Keys, temporal histories, now time.Time) (keysReport, error) {
	holders, err := database.Holders(ctx)
	if err != nil {
		return keysReport{}, fmt.Errorf("asking which processes run: %w", err)
	}
	known, err := database.KeysetKeys(ctx)
	if err != nil {
		return keysReport{}, fmt.Errorf("asking what is known of the keys: %w", err)
	}
	sealed := map[uint32]map[string]int{}
	for _, column := range db.SealedColumns() {
		count, err := database.SealedByKey(ctx, column)
		if err != nil {
			return keysReport{}, fmt.Errorf("counting sealed values: %w", err)
		}
		for id, n := range count {
			if sealed[id] == nil {
				sealed[id] = map[string]int{}
			}
			sealed[id][column.Table] += n
		}
	}
	links, err := database.LinksByKey(ctx)
	if err != nil {
		return keysReport{}, fmt.Errorf("counting links: %w", err)
	}

	var report keysReport
	for _, h := range holders {
		report.Processes = append(report.Processes, processKeys{
			Name: h.Name, SealPrimary: h.SealPrimary, LinkPrimary: h.LinkPrimary,
			HasNewest: slices.Contains(h.SealKeys, newest(keys.SealKeyIDs())) && slices.Contains(h.LinkKeys, newest(keys.LinkKeyIDs())),
		})
	}
	for _, kind := range []string{db.KeySeals, db.KeyLinks} {
		mine, primary := keys.SealKeyIDs(), keys.SealKeyID()
		if kind == db.KeyLinks {
			mine, primary = keys.LinkKeyIDs(), keys.LinkKeyID()
		}
		for _, id := range append(slices.Clone(mine), missingKeys(kind, mine, sealed, links)...) {
			k := keyState{ID: id, Kind: kind, State: stateOf(id, mine, primary), NeededBy: []string{}}
			if kind == db.KeySeals {
				k.Sealed = sealed[id]
			} else {
				k.Links = links[id]
			}
			seen := factsOf(known, kind, id)
			k.PrimarySince, k.LastPrimaryAt = seen.PrimarySince, seen.LastPrimaryAt
			if k.State == "new" || k.State == "old" {
				if err := k.judge(ctx, database, temporal, holders, seen, known, now); err != nil {
					return report, err
				}
			}
			report.Keys = append(report.Keys, k)
		}
	}
	return report, nil
}

// missingKeys are those that values or links need and the keyset lacks.
func missingKeys(kind string, mine []uint32, sealed map[uint32]map[string]int, links map[uint32]int) []uint32 {
	needed := slices.Collect(maps.Keys(links))
	if kind == db.KeySeals {
		needed = slices.Collect(maps.Keys(sealed))
	}
	needed = slices.DeleteFunc(needed, func(id uint32) bool { return slices.Contains(mine, id) })
	slices.Sort(needed)
	return needed
}

func stateOf(id uint32, mine []uint32, primary uint32) string {
	switch at := slices.Index(mine, id); {
	case at < 0:
		return "missing"
	case id == primary:
		return "in use"
	case at > slices.Index(mine, primary):
		return "new"
	}
	return "old"
}

func factsOf(known []db.KeysetKey, kind string, id uint32) db.KeysetKey {
	for _, k := range known {
		if k.Kind == kind && k.ID == id {
			return k
		}
	}
	return db.KeysetKey{}
}

// judge finds out what needs a key that is not in use.
func (k *keyState) judge(ctx context.Context, database *db.DB, temporal histories, holders []db.Holder, seen db.KeysetKey, known []db.KeysetKey, now time.Time) error {
	need := func(text string, args ...any) { k.NeededBy = append(k.NeededBy, fmt.Sprintf(text, args...)) }
	for _, table := range slices.Sorted(maps.Keys(k.Sealed)) {
		need("%d values in %s are sealed with it (`reauth keys reseal` seals them anew)", k.Sealed[table], table)
	}
	if k.Links > 0 {
		need("%d links derive from it (`reauth keys reseal` lets their recipients' next messages have new ones)", k.Links)
	}
	for _, h := range holders {
		if k.Kind == db.KeySeals && h.SealPrimary == k.ID || k.Kind == db.KeyLinks && h.LinkPrimary == k.ID {
			need("%s uses it (restart it with the new keyset)", h.Name)
		}
	}
	if k.Kind == db.KeyLinks {
		return nil // what Temporal keeps never holds a link's secret
	}
	from, by, used := usedBetween(seen, known, now)
	if !used {
		return nil
	}
	if until := by.Add(web.TicketLife); until.After(now) {
		need("customers' browsers may hold states and result pages that it sealed, until %s", stamp(until))
	}
	var err error
	if k.OpenCases, err = database.OpenCasesBefore(ctx, by); err != nil {
		return fmt.Errorf("counting open cases: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, temporalPatience)
	defer cancel()
	has, err := temporal.kept(asking, from, by)
	if err != nil {
		need("Temporal could not be asked for the histories that it may have sealed: %v", err)
		if k.OpenCases > 0 {
			need("%d open cases are from its time (wait for them to end)", k.OpenCases)
		}
		return nil
	}
	k.Running, k.Retained = has.running, has.closed
	if open := max(has.running, int64(k.OpenCases)); open > 0 {
		need("%d open cases or workflows are from its time (wait for them to end)", open)
	}
	if has.closed > 0 {
		when := ""
		if !has.until.IsZero() {
			k.RetainedTo = &has.until
			when = ", until " + stamp(has.until) + " at the earliest"
		}
		need("Temporal keeps %d histories of closed workflows from its time%s", has.closed, when)
	}
	return nil
}

// usedBetween is when a key may have sealed something. It is not used where it
// appeared after all this was noted, and no process ever used it.
func usedBetween(seen db.KeysetKey, known []db.KeysetKey, now time.Time) (from, by time.Time, used bool) {
	if seen.FirstSeenAt.IsZero() {
		return time.Time{}, now, true // no process has spoken of it: it may be in use anywhere
	}
	began := seen.FirstSeenAt
	for _, k := range known {
		if k.Kind == seen.Kind && k.FirstSeenAt.Before(began) {
			began = k.FirstSeenAt
		}
	}
	switch {
	case seen.LastPrimaryAt != nil:
		if seen.FirstSeenAt.Before(*seen.PrimarySince) { // it was seen before it was used
			from = seen.PrimarySince.Add(-unsaid)
		}
		return from, seen.LastPrimaryAt.Add(unsaid), true
	case seen.FirstSeenAt.After(began):
		return time.Time{}, time.Time{}, false
	}
	return time.Time{}, seen.FirstSeenAt.Add(unsaid), true // it was in use before this was noted
}

type temporalHistories struct {
	client    client.Client
	namespace string
	taskQueue string
}

func (t temporalHistories) kept(ctx context.Context, closedFrom, startedBy time.Time) (kept, error) {
	of := fmt.Sprintf("TaskQueue = %s AND StartTime <= %s", strconv.Quote(t.taskQueue), strconv.Quote(startedBy.UTC().Format(time.RFC3339)))
	count := func(query string) (int64, error) {
		answer, err := t.client.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: t.namespace, Query: query})
		return answer.GetCount(), err
	}
	var k kept
	var err error
	if k.running, err = count(of + ` AND ExecutionStatus = "Running"`); err != nil {
		return kept{}, err
	}
	closed := of + ` AND ExecutionStatus != "Running"`
	if !closedFrom.IsZero() {
		closed += " AND CloseTime >= " + strconv.Quote(closedFrom.UTC().Format(time.RFC3339))
	}
	if k.closed, err = count(closed); err != nil || k.closed == 0 {
		return k, err
	}
	// The newest come first.
	list, err := t.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: t.namespace, PageSize: 1, Query: closed})
	if err != nil {
		return kept{}, err
	}
	space, err := t.client.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: t.namespace})
	if err != nil {
		return kept{}, err
	}
	if executions := list.GetExecutions(); len(executions) > 0 {
		k.until = executions[0].GetCloseTime().AsTime().Add(space.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration())
	}
	return k, nil
}

// print shows the report to a person.
func (r keysReport) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tFOR\tSTATE\tIN USE\tSTORED\tMAY BE RETIRED")
	for _, k := range r.Keys {
		stored := map[string]int{}
		maps.Copy(stored, k.Sealed)
		if k.Links > 0 {
			stored["links"] = k.Links
		}
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(stored)) {
			parts = append(parts, fmt.Sprintf("%s %d", name, stored[name]))
		}
		used := "-"
		if k.PrimarySince != nil {
			used = "since " + stamp(*k.PrimarySince)
			if k.State != "in use" {
				used = stamp(*k.PrimarySince) + " to " + stamp(*k.LastPrimaryAt)
			}
		}
		may := "no"
		if k.mayRetire() {
			may = "yes"
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Kind, k.State, used, cmp.Or(strings.Join(parts, ", "), "-"), may)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, k := range r.Keys {
		for _, need := range k.NeededBy {
			fmt.Fprintf(w, "%d: %s\n", k.ID, need)
		}
		switch {
		case k.State == "missing" && k.ID == 0:
			fmt.Fprintln(w, "0: these are not sealed values, and no key opens them")
		case k.State == "missing":
			fmt.Fprintf(w, "%d: the keyset lacks it, and what it sealed cannot be opened; put it back\n", k.ID)
		}
	}
	for _, p := range r.Processes {
		note := ""
		if !p.HasNewest {
			note = ", and lacks the newest keys"
		}
		fmt.Fprintf(w, "%s seals with %d, makes links with %d%s\n", p.Name, p.SealPrimary, p.LinkPrimary, note)
	}
	if len(r.Processes) == 0 {
		fmt.Fprintln(w, "no process says that it runs")
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") + " UTC" }
