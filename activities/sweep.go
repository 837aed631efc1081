package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"golang.org/x/sync/errgroup"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// sweepersEach is how many connections of one application are checked at a
	// time. What keeps the pace is the provider's limit; this is for answers that
	// take long, and for limits higher than usual.
	sweepersEach = 8
	// batchAtMost is how long a batch takes connections up. It is done a few
	// minutes later at the latest.
	batchAtMost = 5 * time.Minute
	// checkAtMost bounds one check, waiting for room included, and checkHeld is
	// how long nobody else gets its connection: longer, so that no two overlap.
	checkAtMost = 4 * time.Minute
	checkHeld   = 5 * time.Minute
	// failedAgain is when a connection is tried again that could not be asked.
	failedAgain = 10 * time.Minute
	// failuresInARow are reason enough to believe that the provider is down.
	failuresInARow = 8
)

// SweepBatch asks for checks of connections of which nobody has complained.
type SweepBatch struct {
	// Cutoff: what was last checked before it is due. Of due ones Most are
	// checked, the oldest check first.
	Cutoff time.Time `json:"cutoff"`
	Most   int       `json:"most"`
	// ConnectionIDs, if any, are checked instead, whenever they were last.
	ConnectionIDs []string `json:"connection_ids,omitempty"`
	// Every is how often each connection is to be checked.
	Every time.Duration `json:"every"`
}

// SweptBatch is what a batch has found.
type SweptBatch struct {
	reauth.SweepCounts
	// Rest are those of ConnectionIDs that it did not come to.
	Rest []string `json:"rest,omitempty"`
	// More: others are due that can be checked at once.
	More bool `json:"more"`
	// Trouble says why going on is no use for now; empty if it is.
	Trouble string          `json:"trouble,omitempty"`
	Lag     reauth.SweepLag `json:"lag"`
}

// SweepBatch checks connections that nobody has complained of, one after the
// other at the pace that the provider's limit leaves to sweeps. Each is taken
// first, so that nobody else checks it at the same time; what an attempt had
// taken that was killed is due again when its time is over.
func (a *Activities) SweepBatch(ctx context.Context, in SweepBatch) (SweptBatch, error) {
	s := &sweep{a: a, in: in, rest: slices.Clone(in.ConnectionIDs)}
	if len(in.ConnectionIDs) == 0 {
		s.progress = saidLast[reauth.SweepProgress](ctx)
		s.progress.Waits = ""
	}
	s.beat = startPulse(ctx, s.progress)
	defer s.beat.end()

	taking, enough := context.WithTimeout(ctx, batchAtMost)
	defer enough()
	go func() { // a worker that is asked to stop hands over what it has
		select {
		case <-activity.GetWorkerStopChannel(ctx):
			enough()
		case <-taking.Done():
		}
	}()
	s.taking, s.enough = taking, enough
	err := s.run(ctx)
	if ctx.Err() != nil {
		return SweptBatch{}, ctx.Err()
	}
	if err != nil {
		return SweptBatch{}, err
	}
	lag, err := a.DB.SweepLag(ctx, a.Now().Add(-in.Every), in.Cutoff)
	return SweptBatch{SweepCounts: s.progress.SweepCounts, Rest: s.rest, More: !s.dry && s.trouble == "", Trouble: s.trouble, Lag: lag}, err
}

// sweep is one batch under way.
type sweep struct {
	a    *Activities
	in   SweepBatch
	beat *pulse
	// taking ends when no further connection is to be taken up; enough ends it.
	taking context.Context
	enough context.CancelFunc

	mu       sync.Mutex // guards all below
	progress reauth.SweepProgress
	rest     []string // of the connections that were named
	taken    int
	dry      bool // nothing is due any more
	failures int  // in a row
	trouble  string
}

// run runs the sweepers until none has anything to do.
func (s *sweep) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if len(s.in.ConnectionIDs) > 0 {
		// Somebody has named them, and waits.
		ctx = finch.WithPriority(ctx, finch.PriorityLook)
		for range min(sweepersEach, len(s.in.ConnectionIDs)) {
			group.Go(func() error { return s.sweepNamed(ctx) })
		}
		err := group.Wait()
		s.dry = len(s.rest) == 0
		return err
	}
	ctx = finch.WithPriority(ctx, finch.PrioritySweep)
	// Each application has a limit of its own.
	left := len(s.a.Providers)
	for _, application := range slices.Sorted(maps.Keys(s.a.Providers)) {
		var once sync.Once
		for range sweepersEach {
			group.Go(func() error {
				none, err := s.sweepDue(ctx, application)
				if none {
					once.Do(func() {
						s.mu.Lock()
						defer s.mu.Unlock()
						left--
					})
				}
				return err
			})
		}
	}
	err := group.Wait()
	s.dry = left == 0
	return err
}

// sweepDue checks what is due of one application. none reports that it ended
// because nothing was.
func (s *sweep) sweepDue(ctx context.Context, application string) (none bool, err error) {
	for s.mayTake() {
		c, taken, err := s.a.DB.TakeCheck(ctx, application, s.in.Cutoff, checkHeld)
		if err != nil || !taken {
			return !taken && err == nil, err
		}
		if err := s.check(ctx, c); err != nil {
			return false, err
		}
	}
	return false, nil
}

// mayTake reports whether one more connection may be taken up, and counts it.
func (s *sweep) mayTake() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taking.Err() != nil || s.taken >= s.in.Most {
		return false
	}
	s.taken++
	return true
}

func (s *sweep) sweepNamed(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.taking.Err() != nil || len(s.rest) == 0 {
			s.mu.Unlock()
			return nil
		}
		id := s.rest[0]
		s.rest = s.rest[1:]
		s.mu.Unlock()
		c, taken, err := s.a.DB.TakeCheckOf(ctx, id, checkHeld)
		if err != nil {
			return err
		}
		if !taken {
			s.say(ctx, reauth.SweepCounts{Skipped: 1}, "")
			continue
		}
		if err := s.check(ctx, c); err != nil {
			return err
		}
	}
}

// errNoRoom: the batch's time was over before there was room for a check.
var errNoRoom = errors.New("no room")

// check checks one connection that was taken, and gives it back.
func (s *sweep) check(ctx context.Context, c db.Check) error {
	found, err := s.find(ctx, c)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // whoever is next waits until it is free
	case errors.Is(err, errNoRoom):
		s.giveBack(c.ConnectionID)
		return s.a.DB.PutOffCheck(ctx, c, 0)
	case err != nil:
		return s.a.DB.PutOffCheck(ctx, c, s.failed(ctx, c, err))
	}
	at := s.a.Now()
	if at.Before(s.in.Cutoff) { // by a clock that is behind that of Temporal
		at = s.in.Cutoff
	}
	if err := s.a.DB.EndCheck(ctx, c, at); err != nil {
		return err
	}
	s.say(ctx, found, "")
	return nil
}

// giveBack puts a connection back of which somebody has named it.
func (s *sweep) giveBack(connectionID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in.ConnectionIDs) > 0 {
		s.rest = append(s.rest, connectionID)
	}
}

// failed counts a connection that could not be asked, and says when to try it
// again. When too many fail in a row because the provider is away, the others are left
// alone; a fault of the connection's own (a token that no key opens, say) puts it at
// the end of the queue, so that a handful of them does not hold up everybody.
func (s *sweep) failed(ctx context.Context, c db.Check, err error) (again time.Duration) {
	s.a.Logger.InfoContext(ctx, "A connection could not be checked", "connection_id", c.ConnectionID, "error", err)
	s.say(ctx, reauth.SweepCounts{Failed: 1}, "")
	provider, ok := errors.AsType[*ProviderError](err)
	if !ok || !slices.Contains([]Trouble{TroubleDown, TroubleNoAnswer, TroubleNotSent, TroubleClient}, provider.Trouble) {
		return max(failedAgain, s.in.Every)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures++; s.failures >= failuresInARow && s.trouble == "" {
		s.trouble = fmt.Sprintf("%d checks in a row have failed, the last one for the provider's %s", s.failures, provider.Error())
		s.enough()
	}
	return failedAgain
}

// say counts what was found, and lets everybody know.
func (s *sweep) say(ctx context.Context, found reauth.SweepCounts, waits string) {
	s.mu.Lock()
	s.progress.Add(found)
	if s.progress.Waits = waits; found.Checked > 0 {
		s.failures = 0
	}
	said := s.progress
	s.mu.Unlock()
	s.beat.say(ctx, said)
}

// find asks the provider about a connection, once there is room for that, and
// does what follows from the answer. An error means that nothing was found out.
func (s *sweep) find(ctx context.Context, c db.Check) (reauth.SweepCounts, error) {
	own, cancel := context.WithTimeout(ctx, checkAtMost)
	defer cancel()
	for {
		found, err := s.a.find(own, c.ConnectionID)
		trouble := troubleOf(err)
		if err == nil || trouble.Trouble != TroubleLimit {
			return found, err
		}
		s.say(ctx, reauth.SweepCounts{}, trouble.Error())
		if err := s.a.sleep(s.taking, cmp.Or(trouble.RetryAfter, 5*time.Second)); err != nil || own.Err() != nil {
			return found, errNoRoom
		}
	}
}

// sleep waits.
func (a *Activities) sleep(ctx context.Context, d time.Duration) error {
	if a.Sleep != nil {
		return a.Sleep(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find asks the provider about a connection of which nobody has complained, and
// does what follows from the answer.
func (a *Activities) find(ctx context.Context, connectionID string) (reauth.SweepCounts, error) {
	connection, err := a.DB.Connection(ctx, connectionID)
	if err != nil {
		return reauth.SweepCounts{}, err
	}
	access, _, ok, err := a.access(ctx, connectionID)
	if err != nil {
		return reauth.SweepCounts{}, err
	}
	if !ok || connection.Status == reauth.StatusRemoved {
		return reauth.SweepCounts{Skipped: 1}, nil // it was removed meanwhile
	}
	provider, err := a.provider(connection.Application)
	if err != nil {
		return reauth.SweepCounts{}, err
	}
	at := a.Now()
	inspection, err := provider.Inspect(ctx, access)
	if err := a.see(ctx, connection, inspection, err, at); err != nil {
		return reauth.SweepCounts{}, err
	}
	found, code := reauth.SweepCounts{Checked: 1}, ""
	if err == nil {
		if owner := inspection.ConnectionID; owner != "" && owner != connectionID {
			return reauth.SweepCounts{}, errors.New("the stored token is another connection's, the provider says")
		}
		switch inspection.Condition {
		case ConditionConnected:
			return a.foundConnected(ctx, connection)
		case ConditionGone:
			return a.foundGone(ctx, connection)
		case ConditionStale:
			found.Stale, code = 1, finch.CodeReauthenticateUser
		case ConditionSetup:
			found.Setup, code = 1, inspection.Status
		default:
			found.Pending = 1
			return found, nil
		}
		return a.foundTrouble(ctx, access, found, code, inspection.Status)
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleReauth:
		found.Stale, code = 1, finch.CodeReauthenticateUser
	case TroubleSetup:
		found.Setup, code = 1, trouble.Code
	case TroubleNotFound:
		return a.foundGone(ctx, connection)
	case TroubleToken, TroubleUnauthorized:
		found.Refused, code = 1, cmp.Or(trouble.Code, string(trouble.Trouble))
	default:
		return reauth.SweepCounts{}, err
	}
	return a.foundTrouble(ctx, access, found, code, code)
}

// foundConnected: a connection works. An open case decides for itself what that
// means, and not while its customer is in Connect.
func (a *Activities) foundConnected(ctx context.Context, connection reauth.Connection) (reauth.SweepCounts, error) {
	found := reauth.SweepCounts{Checked: 1, Connected: 1}
	if connection.Status != reauth.StatusStale {
		return found, nil
	}
	open, err := a.DB.OpenCaseOf(ctx, connection.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		marked, err := a.DB.SeenWorking(ctx, connection.ConnectionID, a.Now())
		if marked {
			found.Restored = 1
		}
		return found, err
	case err != nil:
		return found, err
	case open.LastClickAt != nil && a.Now().Before(open.LastClickAt.Add(reauth.ClickGrace)):
		// It is told when the click is old, if no code has come by then.
		return found, a.DB.HoldRestored(ctx, open.CaseID, open.LastClickAt.Add(reauth.ClickGrace))
	}
	return found, a.Finds.AccessBack(ctx, connection.ConnectionID)
}

// foundGone: a connection was deleted at the provider. It is marked first, so
// that an open case sees it when it is told to look.
func (a *Activities) foundGone(ctx context.Context, connection reauth.Connection) (reauth.SweepCounts, error) {
	found := reauth.SweepCounts{Checked: 1, Gone: 1}
	err := a.DB.SetConnectionStatus(ctx, connection.ConnectionID, reauth.StatusDisconnected, a.Now())
	if errors.Is(err, db.ErrRemoved) {
		return found, nil
	}
	if err != nil {
		return found, err
	}
	return found, a.Finds.AccessBack(ctx, connection.ConnectionID)
}

// foundTrouble reports a connection, by the rules for reports of machines.
func (a *Activities) foundTrouble(ctx context.Context, access Access, found reauth.SweepCounts, code, says string) (reauth.SweepCounts, error) {
	_, _, suppressed, err := a.DB.Suppressed(ctx, access.ConnectionID, reauth.SourceSweep, code, a.Now())
	if err != nil {
		return found, err
	}
	if suppressed {
		found.Suppressed = 1
		return found, nil
	}
	found.Reported = 1
	return found, a.Finds.ReportFound(ctx, reauth.Input{
		ConnectionID: access.ConnectionID, Source: reauth.SourceSweep, FinchCode: code,
		Reason:           "A check in turn: the provider says " + says + ".",
		TokenFingerprint: reauth.Fingerprint(access.Token.Reveal()),
	})
}
