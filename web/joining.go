package web

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

const (
	// runningFor is how long Temporal's word that a case runs stands, as long as
	// the database says that the case is open.
	runningFor = 5 * time.Minute
	// begunFor is how long it stands for a case that the database does not know
	// yet, since no worker has come to it.
	begunFor = 5 * time.Second
)

// joiner spares Temporal the reports of machines that join a case: of a
// thousand reports of one connection one gets there.
//
// That is right because a report is joined here only where Temporal would join
// it too. Two things must be so at the same time. The database says that the
// case is open: a case that has closed swallows nothing, since its row closes
// before its workflow ends, and from then on Temporal is asked. And Temporal
// said, to this process and lately, that the workflow runs: the database alone
// would not do, because the row of a run that an operator terminated stays open
// until the next case closes it. After such an end reports are joined to it for
// runningFor at most; whoever still sees the connection fail reports it again.
//
// A case that Temporal has just begun has no row yet. It may be over before it
// gets one, when its report proves to be of no use; so for begunFor a report is
// joined to it that brings the same evidence, and would prove the same.
//
// What people report always goes to Temporal.
type joiner struct {
	mu      sync.Mutex
	flights map[evidence]*flight
	known   map[string]knownCase // by connection
	words   uint64
	swept   time.Time
}

// evidence is what decides about a report.
type evidence struct {
	connectionID, fingerprint, finchCode string
}

func evidenceOf(in reauth.Input) evidence {
	return evidence{in.ConnectionID, in.TokenFingerprint, in.FinchCode}
}

// knownCase is a case that runs, as Temporal said.
type knownCase struct {
	caseID string
	of     evidence
	at     time.Time
	word   uint64 // counts what Temporal said
}

// flight is a report on its way to Temporal, which others wait for.
type flight struct {
	done     chan struct{}
	reported starter.Reported
	err      error
}

// last is what Temporal said last of a connection.
func (j *joiner) last(connectionID string) knownCase {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.known[connectionID]
}

// runs tells whether Temporal said lately that a case runs.
func (k knownCase) runs(caseID string, now time.Time) bool {
	return k.word > 0 && k.caseID == caseID && now.Sub(k.at) < runningFor
}

// begun tells whether Temporal said a moment ago, of the same evidence, that a
// case runs.
func (k knownCase) begun(of evidence, now time.Time) bool {
	return k.word > 0 && k.of == of && now.Sub(k.at) < begunFor
}

// report makes a report, or waits for the same one that is under way, or takes
// the word of one that has ended since the caller asked for the last. The report
// does not end with the caller who happened to be the first.
func (j *joiner) report(ctx context.Context, of evidence, last knownCase, now func() time.Time, start func(context.Context) (starter.Reported, error)) (starter.Reported, error) {
	j.mu.Lock()
	if known := j.known[of.connectionID]; known.word != last.word && known.of == of {
		j.mu.Unlock()
		return starter.Reported{CaseID: known.caseID, WorkflowID: reauth.WorkflowID(of.connectionID)}, nil
	}
	f, ok := j.flights[of]
	if !ok {
		f = &flight{done: make(chan struct{})}
		if j.flights == nil {
			j.flights = map[evidence]*flight{}
		}
		j.flights[of] = f
		go func() {
			f.reported, f.err = start(context.WithoutCancel(ctx))
			j.landed(of, f, now())
		}()
	}
	j.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return starter.Reported{}, ctx.Err()
	}
	reported := f.reported
	reported.Created = reported.Created && !ok
	return reported, f.err
}

func (j *joiner) landed(of evidence, f *flight, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.flights, of)
	if f.err == nil {
		if now.Sub(j.swept) >= runningFor {
			j.swept = now
			for id, known := range j.known {
				if now.Sub(known.at) >= runningFor {
					delete(j.known, id)
				}
			}
		}
		if j.known == nil {
			j.known = map[string]knownCase{}
		}
		j.words++
		j.known[of.connectionID] = knownCase{caseID: f.reported.CaseID, of: of, at: now, word: j.words}
	}
	close(f.done)
}

// openOrJoin opens a case on a machine's report, or joins the one that is open.
func (s *server) openOrJoin(ctx context.Context, in reauth.Input, current bool) (ReportResult, error) {
	last := s.joins.last(in.ConnectionID) // before the database is asked: it must not be newer
	open, err := s.DB.OpenCaseOf(ctx, in.ConnectionID)
	switch {
	case err == nil && last.runs(open.CaseID, s.Now()):
		s.metrics.coalesced(ctx, in.Source)
		return s.joined(ctx, open, in), nil
	case errors.Is(err, db.ErrNotFound):
		until, reason, suppressed, err := s.DB.Suppressed(ctx, in.ConnectionID, in.Source, in.FinchCode, s.Now())
		if err != nil {
			return ReportResult{}, s.databaseDown(ctx, "looking a suppression up", err)
		}
		if suppressed {
			until = until.UTC()
			return ReportResult{Suppressed: true, Reason: reason, Until: &until}, nil
		}
		if last.begun(evidenceOf(in), s.Now()) {
			// Without a row it is still at its beginning; with a closed one it is over.
			begun, err := s.DB.CaseByID(ctx, last.caseID)
			if errors.Is(err, db.ErrNotFound) {
				begun, err = db.Case{CaseID: last.caseID, Phase: reauth.PhaseConfirming}, nil
			}
			if err == nil && begun.Open() {
				s.metrics.coalesced(ctx, in.Source)
				return s.joined(ctx, begun, in), nil
			}
		}
	case err != nil:
		return ReportResult{}, s.databaseDown(ctx, "reading the open case", err)
	}
	reported, err := s.joins.report(ctx, evidenceOf(in), last, s.Now, func(ctx context.Context) (starter.Reported, error) {
		return s.startCase(ctx, in)
	})
	if err != nil {
		return ReportResult{}, s.temporalDown(ctx, "reporting a connection", err)
	}
	return s.reported(ctx, in, reported, current)
}

// joined answers a report that joins a case which runs.
func (s *server) joined(ctx context.Context, c db.Case, in reauth.Input) ReportResult {
	s.recode(ctx, c, in)
	created := false
	return ReportResult{CaseID: c.CaseID, WorkflowID: reauth.WorkflowID(in.ConnectionID), Created: &created, Phase: string(c.Phase)}
}

// recode notes in an open case that was opened because the customer's account
// lacks something that the login is lost as well: the case may be waiting for
// just that. It is beside the report, which must not fail for it.
func (s *server) recode(ctx context.Context, c db.Case, in reauth.Input) {
	if in.FinchCode != reauth.CodeReauth || !reauth.IsSetupCode(c.FinchCode) || !c.Open() {
		return
	}
	if err := s.DB.Recode(ctx, c.CaseID); err != nil {
		s.complain(ctx, "the database failed", "noting a lost login in an open case", err)
	}
}
