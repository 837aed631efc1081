package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	maxState = 4096
	maxQuery = 16 << 10
)

// Codes whose connection nobody knows cost a call to the provider each, and
// anybody can make some up: they are taken only while some customer is really
// on the way, and no more than these.
const (
	clickMemory       = 2 * time.Hour
	unknownWindow     = 10 * time.Minute
	unknownPerAddress = 5
	unknownInAll      = 60
	// knownPerConnection bounds the codes of one connection in the same
	// window, lest the bearer of a link flood its case with made-up ones.
	knownPerConnection = 20
)

// errNotTaken means that a code's connection is unknown and it may not be
// redeemed to find out.
var errNotTaken = errors.New("the code's connection is unknown")

// callback is where Connect returns to. Whatever it answers, a code that came
// is never thrown away: it is with Temporal, or sealed in the database, or
// still in the address of a page that asks to be kept open.
func (s *server) callback(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead { // a code is for the browser's own visit
		s.pages.render(w, r, http.StatusOK, s.pages.unfinished(""))
		return
	}
	code, state, err := parseCallback(r.URL.RawQuery)
	if err != nil {
		s.metrics.returned(r.Context(), "malformed")
		s.pages.render(w, r, http.StatusBadRequest, s.pages.malformedReturn())
		return
	}
	application, ok := callbackApplication(r)
	if !ok {
		s.metrics.returned(r.Context(), "malformed")
		s.pages.render(w, r, http.StatusNotFound, s.pages.malformedReturn())
		return
	}
	from, known := s.origin(r, state)
	if code == "" {
		s.metrics.returned(r.Context(), "without_code")
		s.pages.render(w, r, http.StatusOK, s.pages.unfinished(s.wayBack(r.Context(), from.Link)))
		return
	}
	// The browser may go away; the code lives ten minutes.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 20*time.Second)
	defer cancel()

	done := doneTicket{ConnectionID: from.ConnectionID, CaseID: from.CaseID, CodeHash: reauth.CodeHash(code), At: s.Now()}
	if known {
		done.Link = from.Link
	}
	if row, err := s.findCode(ctx, done.CodeHash); err == nil {
		s.metrics.returned(ctx, "repeated")
		done.At = row.ReceivedAt
		s.goToResult(w, r, done)
		return
	}
	if !known {
		if wait, ok := s.limits.address.take(infoOf(ctx).address, s.Now()); !ok {
			// It is worth another try: the code lives ten minutes.
			s.metrics.returned(ctx, "not_taken")
			w.Header().Set("Retry-After", seconds(wait))
			w.Header().Set("Refresh", seconds(wait))
			s.pages.render(w, r, http.StatusTooManyRequests, s.pages.keepOpen())
			return
		}
		err := errNotTaken
		if s.knows(application) {
			err = s.mayRedeem(ctx)
		}
		if err != nil {
			s.refuseCode(w, r, err)
			return
		}
	} else if s.flooded(ctx, from.ConnectionID) {
		s.metrics.returned(ctx, "too_many")
		s.pages.render(w, r, http.StatusTooManyRequests, s.pages.tooMany(s.wayBack(ctx, from.Link)))
		return
	}
	if !known && application != reauth.DefaultApplication {
		from.Application = application // what the path says is sure: it is the session's own
	}
	caseID, err := s.deliver(ctx, delivery{
		ConnectionID: from.ConnectionID, CaseID: from.CaseID, Application: from.Application,
		Message: reauth.CodeReceived{Code: code, RedirectURI: s.callbackURL(application)},
	})
	if err != nil {
		s.metrics.returned(ctx, "not_taken")
		w.Header().Set("Refresh", strconv.Itoa(retryAfter))
		s.unavailablePage(w, r, s.pages.keepOpen())
		return
	}
	s.metrics.returned(ctx, "taken")
	done.CaseID = caseID
	s.goToResult(w, r, done)
}

// parseCallback reads the two parameters that mean something. What a provider
// adds beside them is left alone.
func parseCallback(rawQuery string) (code, state string, err error) {
	if len(rawQuery) > maxQuery {
		return "", "", errors.New("the query is too long")
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", "", errors.New("the query is malformed")
	}
	if len(query["code"]) > 1 || len(query["state"]) > 1 {
		return "", "", errors.New("a parameter is there twice")
	}
	code, state = query.Get("code"), query.Get("state")
	if len(state) > maxState {
		return "", "", errors.New("the state is too long")
	}
	if code != "" {
		if err := (reauth.CodeReceived{Code: code}).Check(); err != nil {
			return "", "", err
		}
	}
	return code, state, nil
}

// origin says which click a visit belongs to: by the state, which Connect
// should give back, or else by the cookie. known is false where neither tells
// the connection.
func (s *server) origin(r *http.Request, state string) (from clickTicket, known bool) {
	if from, ok := s.stateTicket(state); ok {
		return from, true
	}
	from, ok := s.cookieTicket(r)
	if !ok {
		return clickTicket{}, false
	}
	if from.Several {
		return clickTicket{Application: from.Application, Link: from.Link}, false
	}
	return from, true
}

func (s *server) findCode(ctx context.Context, hash string) (db.CodeRow, error) {
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	row, err := s.DB.CodeByHash(ctx, hash)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		s.complain(ctx, "the database failed", "looking a code up", err)
	}
	return row, err
}

// mayRedeem tells whether a code may be redeemed although its connection is
// unknown: nil, errNotTaken, or the database's error.
func (s *server) mayRedeem(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	now := s.Now()
	recent, err := s.DB.RecentClick(ctx, now.Add(-clickMemory))
	if err != nil {
		return err
	}
	if !recent {
		return errNotTaken
	}
	for _, budget := range []struct {
		name  string
		limit int
	}{{"unknown-code:" + addressHash(infoOf(ctx).address), unknownPerAddress}, {"unknown-code", unknownInAll}} {
		spent, err := s.DB.SpendBudget(ctx, budget.name, budget.limit, unknownWindow, now)
		if err != nil {
			return err
		}
		if !spent {
			return errNotTaken
		}
	}
	return nil
}

// flooded tells whether a connection was sent more codes than people make. When
// the database cannot tell, the code is taken.
func (s *server) flooded(ctx context.Context, connectionID string) bool {
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	spent, err := s.DB.SpendBudget(ctx, "code:"+connectionID, knownPerConnection, unknownWindow, s.Now())
	return err == nil && !spent
}

// addressHash keeps addresses of people out of the database.
func addressHash(address string) string {
	sum := sha256.Sum256([]byte(address))
	return hex.EncodeToString(sum[:16])
}

func (s *server) refuseCode(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, errNotTaken) {
		s.complain(r.Context(), "the database failed", "deciding about a code of an unknown connection", err)
		s.metrics.returned(r.Context(), "not_taken")
		w.Header().Set("Refresh", strconv.Itoa(retryAfter))
		s.unavailablePage(w, r, s.pages.keepOpen())
		return
	}
	s.Logger.LogAttrs(r.Context(), slog.LevelWarn, "a code of an unknown connection was not taken", slog.String("request_id", infoOf(r.Context()).id))
	s.metrics.returned(r.Context(), "unknown")
	s.pages.render(w, r, http.StatusOK, s.pages.unknownReturn())
}

// wayBack is the address that leads to a link; empty when there is none.
func (s *server) wayBack(ctx context.Context, link string) string {
	if link == "" {
		return ""
	}
	ticket, err := s.mint(ticketAgain, againTicket{Link: link})
	if err != nil {
		s.complain(ctx, "a ticket could not be made", "leading back to a link", err)
		return ""
	}
	return "/again/" + ticket
}

// again leads back to a link. The page that showed the way does not hold the
// link's secret.
func (s *server) again(w http.ResponseWriter, r *http.Request) {
	var t againTicket
	if err := s.Keys.Read(ticketAgain, r.PathValue("ticket"), s.Now(), &t); err != nil || !linkPattern.MatchString(t.Link) {
		s.pages.render(w, r, http.StatusNotFound, s.pages.unknownLink())
		return
	}
	seeOther(w, "/r/"+t.Link)
}
