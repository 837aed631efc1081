package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// bulkEvery keeps apart what many cases are told, so that those which need no
	// hurry do not hold up those that do.
	bulkEvery = 10 * time.Millisecond
	bulkPage  = 100
	// BulkDone is how a bulk ends that has told every case.
	BulkDone = "done"
)

// BulkEnd ends a bulk.
type BulkEnd struct {
	BulkID string `json:"bulk_id"`
	// How says in words how it ended.
	How string `json:"how"`
}

func bulkStatus(b db.Bulk) reauth.BulkStatus {
	return reauth.BulkStatus{
		BulkID: b.BulkID, Action: b.Action, By: b.By, Reason: b.Reason, Matched: b.Matched, Told: b.Told, Gone: b.Gone, EndedHow: b.EndedHow,
	}
}

// BeginBulk reads what is asked of many cases.
func (a *Activities) BeginBulk(ctx context.Context, in reauth.BulkInput) (reauth.BulkStatus, error) {
	defer startPulse(ctx).end()
	b, err := a.bulk(ctx, in.BulkID)
	return bulkStatus(b), err
}

func (a *Activities) bulk(ctx context.Context, id string) (db.Bulk, error) {
	b, err := a.DB.StartBulk(ctx, id, a.Now())
	if errors.Is(err, db.ErrNotFound) {
		return b, temporal.NewNonRetryableApplicationError("there is no such bulk", reauth.ErrTypeInvalidInput, nil)
	}
	return b, err
}

// RunBulk tells every case that a bulk is about, one after the other. The
// database knows how far it has come: an attempt goes on where the one before
// ended, and a case that is told twice does nothing the second time.
func (a *Activities) RunBulk(ctx context.Context, in reauth.BulkInput) (reauth.BulkStatus, error) {
	defer startPulse(ctx).end()
	b, err := a.bulk(ctx, in.BulkID)
	if err != nil {
		return reauth.BulkStatus{}, err
	}
	if a.Steer == nil {
		return reauth.BulkStatus{}, errors.New("this worker cannot tell cases anything")
	}
	tick := time.NewTicker(bulkEvery)
	defer tick.Stop()
	var next time.Time // when the next one may write
	for after := b.After; ; {
		cases, err := a.DB.BulkCases(ctx, b, after, bulkPage)
		if err != nil {
			return reauth.BulkStatus{}, err
		}
		if len(cases) == 0 {
			break
		}
		for _, c := range cases {
			select {
			case <-ctx.Done():
				return reauth.BulkStatus{}, ctx.Err()
			case <-tick.C:
			}
			next = later(a.Now().UTC(), next)
			told, err := a.ask(ctx, b, c, next)
			if err != nil {
				return reauth.BulkStatus{}, err
			}
			if told {
				next = next.Add(letGoEvery)
			}
			if err := a.DB.BulkTold(ctx, b.BulkID, c.CaseID, told); err != nil {
				return reauth.BulkStatus{}, err
			}
			after = c.CaseID
		}
	}
	b, err = a.DB.EndBulk(ctx, b.BulkID, BulkDone, a.Now())
	return bulkStatus(b), err
}

// ask tells one case what is asked of it; at is when it may write, if that is
// asked. told is false where the case has ended.
func (a *Activities) ask(ctx context.Context, b db.Bulk, c db.BulkCase, at time.Time) (told bool, err error) {
	if !c.Open {
		return false, nil
	}
	switch b.Action {
	case reauth.BulkCancel:
		err = a.Steer.Cancel(ctx, c.ConnectionID, reauth.Cancel{Reason: b.Reason, By: b.By})
	case reauth.BulkSnooze:
		err = a.Steer.Snooze(ctx, c.ConnectionID, reauth.Snooze{Until: b.Until.UTC(), Reason: b.Reason, By: b.By})
	case reauth.BulkStop:
		err = a.Steer.StopNotices(ctx, c.ConnectionID, reauth.StopNotices{Reason: b.Reason, By: b.By})
	case reauth.BulkRelease:
		// First in the database, so that nothing holds it anew.
		if err = a.DB.ReleaseCase(ctx, c.CaseID, a.Now()); err == nil {
			err = a.Steer.ReleaseNotices(ctx, c.ConnectionID, reauth.NoticesReleased{All: true, At: at, Reason: b.Reason, By: b.By})
		}
	default:
		return false, temporal.NewNonRetryableApplicationError("this worker does not know what is asked of the cases", reauth.ErrTypeInvalidInput, nil)
	}
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("tell a case what is asked of it: %w", err)
	}
	return true, nil
}

// EndBulk ends a bulk that somebody stopped. The first end stands.
func (a *Activities) EndBulk(ctx context.Context, in BulkEnd) (reauth.BulkStatus, error) {
	defer startPulse(ctx).end()
	b, err := a.DB.EndBulk(ctx, in.BulkID, in.How, a.Now())
	return bulkStatus(b), err
}
