package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

const (
	// registrarIdle is how often the registrar looks whether there is something
	// to do.
	registrarIdle = 5 * time.Second
	// registrarAtMost is how long one question may take, a wait for its turn at
	// the provider included; registrarLease outlives it.
	registrarAtMost = 10 * time.Minute
	registrarLease  = 15 * time.Minute
	// registrarLongest bounds what a provider asks to wait.
	registrarLongest = 10 * time.Minute
	// registrarReports is how many stale connections are reported at a time.
	registrarReports = 20
)

// registrar asks the provider, one after the other, whose the tokens are that
// imports have handed in, and reports the connections that turn out to be
// stale. What it has done is in the database, so that any worker goes on where
// another was killed; Temporal is not needed for it, and would keep a history of
// a hundred thousand questions.
type registrar struct {
	staged stagedTokens
	check  func(ctx context.Context, t db.StagedToken) (activities.StagedChecked, error)
	// report opens a case; nil: nobody is told, until the sweep finds out.
	report func(ctx context.Context, in reauth.Input) error
	// pace is how many tokens are asked about in a minute, by all workers.
	pace   int
	logger *slog.Logger
	now    func() time.Time
	wait   func(ctx context.Context, d time.Duration)
	// held is a token that waits for room in the provider's limit: whoever asks
	// about it again keeps its place in the line.
	held *db.StagedToken
}

// stagedTokens is what the registrar needs of the database.
type stagedTokens interface {
	ClaimStaged(ctx context.Context, at time.Time, lease time.Duration) (t db.StagedToken, ok bool, err error)
	DueStagedReports(ctx context.Context, limit int) ([]db.StagedReport, error)
	StagedReported(ctx context.Context, fingerprint string) error
	SpendBudget(ctx context.Context, name string, limit int, window time.Duration, at time.Time) (spent bool, err error)
}

func newRegistrar(staged stagedTokens, acts *activities.Activities, report func(context.Context, reauth.Input) error, pace int, logger *slog.Logger) *registrar {
	if pace <= 0 {
		pace = imports.DefaultPace
	}
	return &registrar{
		staged: staged, check: acts.CheckStaged, report: report, pace: pace, logger: logger, now: acts.Now,
		wait: func(ctx context.Context, d time.Duration) {
			select {
			case <-ctx.Done():
			case <-time.After(d):
			}
		},
	}
}

// run works until ctx ends.
func (r *registrar) run(ctx context.Context) {
	for ctx.Err() == nil {
		r.wait(ctx, r.step(ctx))
	}
}

// step asks about one token, and says how long to wait before the next.
func (r *registrar) step(ctx context.Context) time.Duration {
	r.tell(ctx)
	// The turn comes first: a token that was claimed and not asked about would
	// wait for its lease.
	each := time.Minute / time.Duration(r.pace)
	now := r.now()
	turn, err := r.staged.SpendBudget(ctx, "imported tokens", 1, each, now)
	if err != nil {
		return r.complain(ctx, "The pace of imports could not be kept", err)
	}
	if !turn {
		return now.Truncate(each).Add(each).Sub(now) // somebody else has had this one
	}
	t, ok, err := r.next(ctx)
	switch {
	case err != nil:
		return r.complain(ctx, "Imported tokens could not be read", err)
	case !ok:
		return registrarIdle
	}
	asking, cancel := context.WithTimeout(finch.WithPriority(ctx, finch.PriorityImport), registrarAtMost)
	defer cancel()
	checked, err := r.check(asking, t)
	if err != nil {
		return r.complain(ctx, "An imported token could not be asked about; it is tried again", err)
	}
	if checked.Same {
		r.held = &t
	}
	return min(checked.Pause, registrarLongest)
}

// next is the token to ask about.
func (r *registrar) next(ctx context.Context) (db.StagedToken, bool, error) {
	if t := r.held; t != nil {
		r.held = nil
		return *t, true, nil
	}
	return r.staged.ClaimStaged(ctx, r.now(), registrarLease)
}

func (r *registrar) complain(ctx context.Context, what string, err error) time.Duration {
	if ctx.Err() == nil {
		r.logger.WarnContext(ctx, what, "error", err)
	}
	return registrarIdle
}

// tell reports the connections that were found stale, each until it was heard.
func (r *registrar) tell(ctx context.Context) {
	if r.report == nil {
		return
	}
	due, err := r.staged.DueStagedReports(ctx, registrarReports)
	if err != nil {
		r.complain(ctx, "Stale connections of imports could not be read", err)
		return
	}
	for _, d := range due {
		in := reauth.Input{
			ConnectionID: d.ConnectionID, Source: reauth.SourceSweep, FinchCode: reauth.CodeReauth,
			Reason: "its token was imported, and the provider says that the customer must log in again",
		}
		if d.Adopted {
			in.TokenFingerprint = d.Fingerprint
		}
		if err := r.report(ctx, in); err != nil && !errors.Is(err, starter.ErrRefused) {
			r.complain(ctx, "A stale connection of an import could not be reported; it is tried again", err)
			return
		}
		if err := r.staged.StagedReported(ctx, d.Fingerprint); err != nil {
			r.complain(ctx, "A report of an import could not be noted; it is made again", err)
			return
		}
	}
}
