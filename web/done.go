package web

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// result is what is known of a code and its case when its page is shown.
type result struct {
	ticket  doneTicket
	code    db.CodeRow
	hasCode bool
	kase    db.Case
	hasCase bool
	company string
	// entities are the connection's companies, as they were last seen.
	entities reauth.Entities
	now      time.Time
}

// verdict is what a result page says.
type verdict string

const (
	verdictWaiting     verdict = "waiting"     // the code is on its way to its case
	verdictChecking    verdict = "checking"    // exchanged; the token is being verified
	verdictFixed       verdict = "fixed"       // this sign-in brought the connection back
	verdictWorks       verdict = "works"       // it works, whatever became of this sign-in
	verdictUnconfirmed verdict = "unconfirmed" // stored, but the provider does not confirm it
	verdictPartly      verdict = "partly"      // stored, and some of the companies are back
	verdictWrong       verdict = "wrong_account"
	verdictRefused     verdict = "refused"
	verdictLost        verdict = "lost"
	verdictOurs        verdict = "ours"
	verdictRemoved     verdict = "removed"
)

// slow is when a result takes unusually long; stuck is when the customer
// should not be kept waiting for it.
const (
	slow  = 45 * time.Second
	stuck = 15 * time.Minute
)

// verdict tells the truth as far as it is known. It never says that a sign-in
// worked before its token is stored and works.
func (v result) verdict() verdict {
	restored := v.hasCase && v.kase.Outcome.Restored()
	if !v.hasCode {
		return v.verdictOfCase(restored)
	}
	switch v.code.State {
	case reauth.CodeRecovered:
		return verdictFixed
	case reauth.CodeRefused, reauth.CodeLost, reauth.CodeWrongAccount, reauth.CodeUnusable:
		if restored && v.code.State != reauth.CodeWrongAccount {
			return verdictWorks
		}
		return map[reauth.CodeState]verdict{
			reauth.CodeRefused: verdictRefused, reauth.CodeLost: verdictLost,
			reauth.CodeWrongAccount: verdictWrong, reauth.CodeUnusable: verdictOurs,
		}[v.code.State]
	case reauth.CodeQuarantined:
		return verdictRemoved
	case reauth.CodeMinted:
		if v.age() > stuck {
			return verdictOurs
		}
		return verdictChecking
	case reauth.CodeAdopted:
		switch {
		case restored:
			return verdictWorks
		case v.hasCase && (!v.kase.Open() || v.kase.Phase == reauth.PhaseAwaitingCustomer):
			if v.entities.Partly() {
				return verdictPartly
			}
			return verdictUnconfirmed
		}
		return verdictChecking
	}
	if v.age() > stuck {
		return verdictOurs
	}
	if v.hasCase && v.kase.Phase == reauth.PhaseVerifying {
		return verdictChecking
	}
	return verdictWaiting
}

// verdictOfCase is for a page that is about no code of its own: the button was
// pressed while somebody else's code was being checked.
func (v result) verdictOfCase(restored bool) verdict {
	switch {
	case v.ticket.CodeHash != "" && v.age() > stuck:
		return verdictOurs
	case v.ticket.CodeHash != "":
		return verdictWaiting
	case restored:
		return verdictWorks
	case v.hasCase && v.kase.Open() && v.kase.Phase != reauth.PhaseAwaitingCustomer:
		return verdictChecking
	}
	return verdictRefused
}

func (v result) age() time.Duration {
	if v.hasCode {
		return v.now.Sub(v.code.ReceivedAt)
	}
	return v.now.Sub(v.ticket.At)
}

// done shows what became of a sign-in.
func (s *server) done(w http.ResponseWriter, r *http.Request) {
	v := result{now: s.Now()}
	if err := s.Keys.Read(ticketDone, r.PathValue("ticket"), v.now, &v.ticket); err != nil {
		s.pages.render(w, r, http.StatusNotFound, s.pages.unknownResult())
		return
	}
	if err := s.learn(r, &v); err != nil {
		s.complain(r.Context(), "the database failed", "showing a result", err)
		w.Header().Set("Retry-After", "5")
		s.pages.render(w, r, http.StatusServiceUnavailable, s.pages.cannotLook())
		return
	}
	s.pages.render(w, r, http.StatusOK, s.pages.result(v, s.wayBack(r.Context(), v.ticket.Link)))
}

// learn reads what is known.
func (s *server) learn(r *http.Request, v *result) error {
	ctx := r.Context()
	connectionID, caseID := v.ticket.ConnectionID, v.ticket.CaseID
	if v.ticket.CodeHash != "" {
		row, err := s.DB.CodeByHash(ctx, v.ticket.CodeHash)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
		if err == nil {
			v.code, v.hasCode = row, true
			connectionID, caseID = cmp.Or(row.ConnectionID, connectionID), cmp.Or(row.CaseID, caseID)
		}
	}
	if caseID != "" {
		c, err := s.DB.CaseByID(ctx, caseID)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
		if err == nil {
			v.kase, v.hasCase = c, true
		}
	}
	if connectionID == "" {
		return nil
	}
	c, err := s.DB.Connection(ctx, connectionID)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return err
	}
	v.company, v.entities = companyOf(c), c.Entities
	if c.Status == reauth.StatusRemoved {
		v.company = "your company"
	}
	return nil
}
