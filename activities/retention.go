package activities

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// retireAtOnce is how many rows go in one transaction: few enough that nobody
	// waits for its locks. Of removed connections, which take much with them,
	// fewer.
	retireAtOnce        = 500
	retireAtOnceRemoved = 20
	// retireAtMost is how long a batch deletes.
	retireAtMost = 5 * time.Minute
	// MetricRetired counts what was deleted, by table.
	MetricRetired = "reauth_retention_deleted"
)

// RetentionBatch asks for the deleting of what has been kept for long enough.
type RetentionBatch struct {
	Keep reauth.Retention `json:"keep,omitempty"`
}

// RetiredBatch is what a batch has deleted.
type RetiredBatch struct {
	Deleted reauth.Deleted `json:"deleted"`
	// More: there is more to delete.
	More bool `json:"more"`
	// Trouble says what could not be deleted; empty if all could.
	Trouble string `json:"trouble,omitempty"`
}

// RetentionBatch deletes old rows, a few at a time. What is done is done: an
// attempt that follows one that was killed goes on from there, and counts what
// that one had deleted.
func (a *Activities) RetentionBatch(ctx context.Context, in RetentionBatch) (RetiredBatch, error) {
	out := RetiredBatch{Deleted: saidLast[reauth.Deleted](ctx)}
	if out.Deleted == nil {
		out.Deleted = reauth.Deleted{}
	}
	beat := startPulse(ctx, maps.Clone(out.Deleted))
	defer beat.end()
	ends := time.Now().Add(retireAtMost)
	kinds := map[string]time.Duration{}
	for _, kind := range reauth.RetainedKinds() {
		kinds[kind.Name] = in.Keep.Of(kind)
	}
	var failures []error
	for _, rows := range db.RetainedRows() {
		keep := kinds[rows.Kind]
		if keep == 0 {
			continue
		}
		limit := retireAtOnce
		if rows.Kind == "removed" {
			limit = retireAtOnceRemoved
		}
		cutoff := a.Now().Add(-keep)
		for {
			if out.More = time.Now().After(ends) || stopping(ctx); out.More || ctx.Err() != nil {
				return out, ctx.Err()
			}
			n, err := a.DB.Retire(ctx, rows, cutoff, limit)
			if errors.Is(err, db.ErrUnavailable) || ctx.Err() != nil {
				return out, err // to be tried again
			}
			if err != nil { // the others can go all the same
				failures = append(failures, err)
				break
			}
			if n > 0 {
				out.Deleted[rows.Table] += n
				beat.say(ctx, maps.Clone(out.Deleted))
				activity.GetMetricsHandler(ctx).WithTags(map[string]string{"table": rows.Table}).Counter(MetricRetired).Inc(int64(n))
			}
			if n < limit {
				break
			}
		}
	}
	if err := errors.Join(failures...); err != nil {
		out.Trouble = failures[0].Error()
		if len(failures) > 1 {
			out.Trouble += fmt.Sprintf(", and %d more", len(failures)-1)
		}
		a.Logger.ErrorContext(ctx, "Some of what is old could not be deleted", "error", err)
	}
	attrs := []any{}
	for _, table := range out.Deleted.Tables() {
		attrs = append(attrs, slog.Int(table, out.Deleted[table]))
	}
	a.Logger.InfoContext(ctx, "What has been kept for long enough was deleted", attrs...)
	return out, nil
}

// stopping reports whether the worker is asked to stop.
func stopping(ctx context.Context) bool {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
		return true
	default:
		return false
	}
}
