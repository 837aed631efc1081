package web

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
)

const (
	clerkEvery = 250 * time.Millisecond
	// clerkAtOnce is how many connections' events are acted upon side by side,
	// clerkJobs how many of them may wait for Finch.
	clerkAtOnce = 8
	clerkJobs   = 2
	// clerkLease outlives an act that takes its time. What is left of a line
	// clerkMargin before its end is left to the next who claims it.
	clerkLease  = time.Minute
	clerkMargin = 40 * time.Second
	// clerkBatch is how many events of a connection are read at a time.
	clerkBatch = 500
	// jobTimeout bounds the question what became of a job. A token that was
	// minted jobDoubt after its end, by two clocks, is a newer one.
	jobTimeout = 20 * time.Second
	jobDoubt   = time.Minute

	// clerkFirstWait grows threefold with every failure, to clerkMaxWait.
	clerkFirstWait = time.Second
	clerkMaxWait   = 5 * time.Minute
	// clerkGivesUp is how long an event is tried while something is down;
	// clerkTries is how often where we ourselves refuse it, clerkJobTries how
	// often a job is asked for: later events of its connection wait for it.
	clerkGivesUp  = 3 * 24 * time.Hour
	clerkTries    = 10
	clerkJobTries = 6

	// clerkDown is how many failures in a row mean that it is not the events'
	// fault; then one at a time is tried, clerkRest apart.
	clerkDown = 3
	clerkRest = 2 * time.Second

	backlogEvery = 15 * time.Second
)

// clerk acts on the events that providers have sent: those of a connection one
// after the other, in order of arrival, those of several connections side by
// side. Several clerks may run at once. An event whose clerk is killed is acted
// upon again, which does no harm.
type clerk struct {
	*server
	// jobs has room for those who wait for Finch.
	jobs chan struct{}
	// spread varies a wait, so that what failed together does not come again
	// together.
	spread func(time.Duration) time.Duration

	flights sync.WaitGroup
	flying  atomic.Int32
	landed  chan struct{} // an act has ended

	mu       sync.Mutex
	failures int       // in a row, of what all events need
	rest     time.Time // while it is down: when to try again
}

func newClerk(s *server) *clerk {
	return &clerk{
		server: s, jobs: make(chan struct{}, clerkJobs), landed: make(chan struct{}, 1),
		spread: func(wait time.Duration) time.Duration { return wait - wait/5 + rand.N(wait*2/5+1) },
	}
}

// run acts until ctx ends, and then waits for what it has begun.
func (c *clerk) run(ctx context.Context, every time.Duration) {
	defer c.flights.Wait()
	c.flights.Go(func() { c.watchBacklog(ctx) })
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.dispatch(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-c.landed:
		}
	}
}

// dispatch takes what is due, as far as there is room, and returns how many
// connections' events it was.
func (c *clerk) dispatch(ctx context.Context) int {
	room := c.room()
	if room == 0 {
		return 0
	}
	lines, err := c.DB.ClaimWebhooks(ctx, c.Now(), room, clerkLease)
	if err != nil {
		c.failed()
		if say, _ := c.seldom.say("claim", c.Now()); say && ctx.Err() == nil {
			c.complain(ctx, "webhooks that wait could not be read; it is tried again", "claiming webhooks", err)
		}
		return 0
	}
	for _, line := range lines {
		c.flying.Add(1)
		c.flights.Go(func() {
			c.work(ctx, line)
			c.flying.Add(-1)
			select {
			case c.landed <- struct{}{}:
			default: // that something has landed is known
			}
		})
	}
	return len(lines)
}

// room is how many more connections can be taken.
func (c *clerk) room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	flying := int(c.flying.Load())
	switch {
	case c.failures < clerkDown:
		return clerkAtOnce - flying
	case flying > 0 || c.Now().Before(c.rest):
		return 0
	}
	return 1
}

func (c *clerk) failed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures++
	c.rest = c.Now().Add(clerkRest)
}

func (c *clerk) succeeded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = 0
}

// work acts on the events of a line, in order. What is recorded is recorded
// even if we are stopped meanwhile.
func (c *clerk) work(ctx context.Context, line db.WebhookLine) {
	record := context.WithoutCancel(ctx)
	events, err := c.DB.WaitingWebhooks(record, line, clerkBatch)
	if err != nil {
		c.failed()
		c.notRecorded(ctx, line, err)
		return
	}
	seen := line.LastSeq
	if len(events) == clerkBatch {
		seen = 0 // there are more
	}
	for len(events) > 0 {
		if ctx.Err() != nil || c.Now().After(line.Until.Add(-clerkMargin)) {
			seen = 0
			break
		}
		run := alike(events)
		events = events[len(run):]
		e := run[len(run)-1]
		d, err := c.obey(ctx, e)
		if err == nil {
			c.succeeded()
		} else {
			if ctx.Err() != nil {
				seen = 0
				break // stopped amid it: it is acted upon anew
			}
			next, given := c.again(line, e, err)
			if !given {
				c.notRecorded(ctx, line, c.DB.PostponeWebhooks(record, line, e.EventID, next, problemOf(err)))
				return
			}
			c.Logger.LogAttrs(ctx, slog.LevelWarn, "a webhook was given up", slog.String("event_id", e.EventID),
				slog.String("connection_id", e.ConnectionID), slog.String("error", err.Error()))
			d = deed{state: db.WebhookAbandoned, result: "abandoned", problem: err.Error()}
		}
		if !c.end(record, line, run, d) {
			return
		}
		line.Attempts = 0
		seen = max(seen, e.Seq)
	}
	c.notRecorded(ctx, line, c.DB.LeaveWebhooks(record, line, seen, c.Now()))
}

// end records what became of events, and reports whether the line is still ours.
func (c *clerk) end(ctx context.Context, line db.WebhookLine, run []db.Webhook, d deed) bool {
	end := db.WebhookEnd{State: d.state, Result: d.result, CaseID: d.caseID, Problem: d.problem, At: c.Now()}
	for _, e := range run {
		end.EventIDs = append(end.EventIDs, e.EventID)
	}
	held, err := c.DB.EndWebhooks(ctx, line, end)
	if err != nil || !held {
		c.notRecorded(ctx, line, err)
		return false
	}
	c.metrics.obeyed(ctx, d.result, 1)
	if len(run) > 1 {
		c.metrics.obeyed(ctx, db.WebhookCoalesced, len(run)-1)
	}
	return true
}

// notRecorded says that the database failed, if it did. The line is due again
// when its lease is over.
func (c *clerk) notRecorded(ctx context.Context, line db.WebhookLine, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	c.Logger.LogAttrs(ctx, slog.LevelWarn, "what became of webhooks could not be recorded; they are acted upon again",
		slog.String("connection_id", line.ConnectionID), slog.String("error", err.Error()))
}

// alike returns the events at the beginning that say the same, so that the last
// of them speaks for all.
func alike(events []db.Webhook) []db.Webhook {
	n := 1
	for n < len(events) && saysTheSame(events[0], events[n]) {
		n++
	}
	return events[:n]
}

func saysTheSame(a, b db.Webhook) bool {
	means := meaningOf(eventOf(a))
	// error_reauth is reauth's older name; of jobs of a type the newest knows best.
	return means == meaningOf(eventOf(b)) && a.EntityID == b.EntityID && a.Type == b.Type && slices.Equal(a.Applications, b.Applications) && (a.Status == b.Status || means == meansReauth)
}

func eventOf(w db.Webhook) finch.Event {
	return finch.Event{Type: w.Type, ConnectionID: w.ConnectionID, EntityID: w.EntityID, Status: w.Status, JobID: w.JobID}
}

// deed is what was done about an event.
type deed struct {
	state   db.WebhookState
	result  string
	caseID  string
	problem string
}

func did(result, caseID string) deed {
	return deed{state: db.WebhookDone, result: result, caseID: caseID}
}

func ignored(result string) deed { return deed{state: db.WebhookIgnored, result: result} }

// later is the error of an act that may succeed another time.
type later struct {
	problem string
	pause   time.Duration // at the least
	tries   int           // after so many it is given up
	busy    bool          // it was not even tried
}

func (l *later) Error() string { return l.problem }

// problemOf is why an attempt failed; empty if it was none.
func problemOf(err error) string {
	if l, is := errors.AsType[*later](err); is && l.busy {
		return ""
	}
	return err.Error()
}

// again says when an event is tried again, or that it is given up.
func (c *clerk) again(line db.WebhookLine, e db.Webhook, err error) (next time.Time, given bool) {
	now := c.Now()
	tries, pause := 0, clerkFirstWait
	l, isLater := errors.AsType[*later](err)
	switch {
	case isLater && l.busy:
		return now.Add(c.spread(clerkRest)), false
	case isLater:
		tries = l.tries
	case statusOf(err) == http.StatusServiceUnavailable:
		c.failed()
	default:
		tries = clerkTries
	}
	if tries > 0 && e.Attempts+1 >= tries || now.Sub(e.ReceivedAt) >= clerkGivesUp {
		return time.Time{}, true
	}
	for range min(line.Attempts, 20) {
		pause = min(pause*3, clerkMaxWait)
	}
	if isLater {
		pause = max(pause, l.pause)
	}
	return now.Add(c.spread(pause)), false
}

// obey acts on an event.
func (c *clerk) obey(ctx context.Context, w db.Webhook) (deed, error) {
	connection, err := c.DB.Connection(ctx, w.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return ignored("unregistered"), nil
	case err != nil:
		return deed{}, c.databaseDown(ctx, "reading a webhook's connection", err)
	case connection.Status == reauth.StatusRemoved:
		return ignored("removed"), nil
	case len(w.Applications) > 0 && !slices.Contains(w.Applications, connection.Application):
		c.Logger.LogAttrs(ctx, slog.LevelWarn, "an event about a connection was signed by another application, and ignored",
			slog.String("event_id", w.EventID), slog.String("connection_id", w.ConnectionID), slog.String("application", connection.Application))
		return ignored("another_application"), nil
	}
	e := eventOf(w)
	means := meaningOf(e)
	if means == meansJob {
		return c.obeyJob(ctx, connection, e)
	}
	switch {
	case means == meansReauth:
		return c.report(ctx, connection, e, finch.CodeReauthenticateUser, e.Status, "")
	case means == meansSetup:
		return c.report(ctx, connection, e, e.Status, e.Status, "")
	case e.EntityID != "":
		return c.obeyEntity(ctx, connection, e)
	case means == meansConnected:
		return c.obeyConnected(ctx, connection)
	case means == meansDisconnected:
		return c.obeyDisconnected(ctx, connection)
	}
	return ignored(ignoredType), nil
}

// report reports a connection.
func (c *clerk) report(ctx context.Context, connection reauth.Connection, e finch.Event, code, said, fingerprint string) (deed, error) {
	reason := e.Type + ": " + said
	if e.EntityID != "" {
		reason += " (entity " + e.EntityID + ")"
	}
	result, err := c.open(ctx, connection, reauth.Input{
		ConnectionID: connection.ConnectionID, Source: reauth.SourceWebhook, FinchCode: code, Reason: reason, TokenFingerprint: fingerprint,
	})
	switch {
	case err != nil:
		return deed{}, err
	case result.TokenSuperseded:
		return did("superseded", ""), nil
	case result.Suppressed:
		return did("suppressed", ""), nil
	}
	return did("reported", result.CaseID), nil
}

// obeyConnected tells an open case, which decides for itself whether that
// heals it. Without one the connection was seen connected, and says so.
func (c *clerk) obeyConnected(ctx context.Context, connection reauth.Connection) (deed, error) {
	caseID := c.openCaseID(ctx, connection)
	if held, err := c.holdRestored(ctx, connection); err != nil {
		return deed{}, err
	} else if held {
		return did("held", caseID), nil
	}
	if told, err := c.look(ctx, connection); err != nil || told {
		return did("restored", caseID), err
	}
	return c.mark(ctx, connection, reauth.StatusConnected, "restored", "")
}

// obeyDisconnected marks the connection first: an open case that is told to
// look sees it, and ends.
func (c *clerk) obeyDisconnected(ctx context.Context, connection reauth.Connection) (deed, error) {
	d, err := c.mark(ctx, connection, reauth.StatusDisconnected, "disconnected", c.openCaseID(ctx, connection))
	if err != nil {
		return deed{}, err
	}
	_, err = c.look(ctx, connection)
	return d, err
}

// obeyEntity is about one entity of several, which alone neither heals a case
// nor ends it: an open case is told to look at all of them. Without a token it
// could not look, and would believe that all is well.
func (c *clerk) obeyEntity(ctx context.Context, connection reauth.Connection, e finch.Event) (deed, error) {
	if err := c.DB.SetEntityStatus(ctx, connection.ConnectionID, e.EntityID, e.Status, c.Now()); err != nil {
		return deed{}, c.databaseDown(ctx, "storing what a webhook says of an entity", err)
	}
	if connection.Generation == 0 {
		return ignored("no_token"), nil
	}
	caseID := c.openCaseID(ctx, connection)
	if held, err := c.holdRestored(ctx, connection); err != nil {
		return deed{}, err
	} else if held {
		return did("held", caseID), nil
	}
	told, err := c.look(ctx, connection)
	if err == nil && !told {
		return ignored("no_case"), nil
	}
	return did("looked", caseID), err
}

// look tells the open case to look at its connection, if there is one.
func (c *clerk) look(ctx context.Context, connection reauth.Connection) (told bool, err error) {
	err = c.temporal(ctx, func(ctx context.Context) error { return c.Starter.Restored(ctx, connection.ConnectionID) })
	if errors.Is(err, starter.ErrNoOpenCase) {
		return false, nil
	}
	if err != nil {
		return false, c.temporalDown(ctx, "telling a case to look", err)
	}
	return true, nil
}

func (c *clerk) mark(ctx context.Context, connection reauth.Connection, status reauth.ConnectionStatus, result, caseID string) (deed, error) {
	err := c.DB.SetConnectionStatus(ctx, connection.ConnectionID, status, c.Now())
	switch {
	case errors.Is(err, db.ErrRemoved):
		return ignored("removed"), nil
	case err != nil:
		return deed{}, c.databaseDown(ctx, "marking a connection", err)
	}
	return did(result, caseID), nil
}

// openCaseID is the open case, for the record; empty if it cannot be found out.
func (c *clerk) openCaseID(ctx context.Context, connection reauth.Connection) string {
	open, err := c.DB.OpenCaseOf(ctx, connection.ConnectionID)
	if err != nil {
		return ""
	}
	return open.CaseID
}

// obeyJob asks what became of a job: one that met a lost login says so, where
// nothing else may.
func (c *clerk) obeyJob(ctx context.Context, connection reauth.Connection, e finch.Event) (deed, error) {
	if c.Job == nil {
		return ignored(ignoredJobs), nil
	}
	if c.openCaseID(ctx, connection) != "" {
		return ignored("case_open"), nil // a report would only join it
	}
	token, err := c.DB.CurrentToken(ctx, connection.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return ignored("no_token"), nil
	case err != nil:
		return deed{}, c.databaseDown(ctx, "reading a token", err)
	}
	plain, err := c.Keys.Open(token.Sealed, db.TokenBound(token.ConnectionID, token.Generation)...)
	if err != nil {
		return deed{state: db.WebhookAbandoned, result: "abandoned", problem: "the sealed token does not open"}, nil
	}
	select {
	case c.jobs <- struct{}{}:
		defer func() { <-c.jobs }()
	default:
		return deed{}, &later{problem: "others wait for Finch", busy: true}
	}
	asking, cancel := context.WithTimeout(finch.WithPriority(ctx, finch.PriorityConfirm), jobTimeout)
	defer cancel()
	job, err := c.Job(asking, connection.Application, secrets.Secret(plain), e.JobID)
	if err != nil {
		return c.jobRefused(ctx, connection, e, token, err)
	}
	late := !job.CompletedAt.IsZero() && token.MintedAt.After(job.CompletedAt.Add(jobDoubt))
	switch {
	case job.Running():
		return deed{}, &later{problem: "the job is " + job.Status, tries: clerkJobTries}
	case job.Status != finch.JobReauthError && job.Status != finch.JobPermissionsError:
		return did("fine", ""), nil
	case late:
		return did("superseded", ""), nil // the customer has come through since
	case job.Status == finch.JobReauthError:
		return c.report(ctx, connection, e, finch.CodeReauthenticateUser, job.Status, token.Fingerprint)
	}
	return c.report(ctx, connection, e, finch.StatusErrorPermissions, job.Status, token.Fingerprint)
}

// jobRefused is what to do when Finch does not say what became of a job. The
// refusal itself may be the news.
func (c *clerk) jobRefused(ctx context.Context, connection reauth.Connection, e finch.Event, token db.Token, err error) (deed, error) {
	refusal, refused := errors.AsType[*finch.Error](err)
	switch {
	case errors.Is(err, lifecycle.ErrUnknownApplication):
		return deed{state: db.WebhookAbandoned, result: "abandoned", problem: err.Error()}, nil
	case !refused:
		return deed{}, &later{problem: err.Error(), tries: clerkJobTries}
	case refusal.IsReauth() || refusal.IsAccountSetup():
		return c.report(ctx, connection, e, refusal.FinchCode, refusal.FinchCode, token.Fingerprint)
	case refusal.Temporary():
		return deed{}, &later{problem: err.Error(), pause: refusal.RetryAfter, tries: clerkJobTries}
	}
	return deed{state: db.WebhookAbandoned, result: "abandoned", problem: err.Error()}, nil
}

// watchBacklog keeps the metrics of what waits up to date.
func (c *clerk) watchBacklog(ctx context.Context) {
	tick := time.NewTicker(backlogEvery)
	defer tick.Stop()
	for {
		if waiting, oldest, err := c.DB.WebhookBacklog(ctx); err == nil {
			c.metrics.backlog.Store(&backlog{waiting: int64(waiting), oldest: oldest})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
