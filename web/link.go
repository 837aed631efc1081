package web

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// patience is how long a page waits for the session of a case that the
// customer asked for, before it says that it takes unusually long;
// maxPatience is when it stops waiting.
const (
	patience    = 20 * time.Second
	maxPatience = 10 * time.Minute
)

// linkView is what a link leads to.
type linkView struct {
	secret     string
	link       db.Link
	connection reauth.Connection
	// newest is the newest case; hasCase tells whether there is one at all.
	newest  db.Case
	hasCase bool
	now     time.Time
	// asked is when the customer pressed the button and was asked to wait;
	// zero without such a wait.
	asked time.Time
}

// linkState is what the page behind a link is about.
type linkState string

const (
	linkReady   linkState = "ready"   // a press leads to Connect
	linkOpening linkState = "opening" // a case is open, its session is on its way
	linkTaken   linkState = "taken"   // somebody came back from Connect; we are checking
	linkBlocked linkState = "blocked" // an operator must mend something of ours first
	linkWorks   linkState = "works"   // nothing to do
	linkOver    linkState = "over"    // a press opens a new case
	linkGone    linkState = "gone"    // the connection was ended at the provider
)

func (v linkView) state() linkState {
	c := v.newest
	switch {
	case v.connection.Status == reauth.StatusDisconnected:
		return linkGone
	case !v.hasCase && v.connection.Status == reauth.StatusConnected:
		return linkWorks
	case !v.hasCase:
		return linkOver
	case !c.Open() && (c.Outcome.Restored() || c.Outcome == reauth.OutcomeFalseAlarm):
		return linkWorks
	case !c.Open() && c.CloseReason == reauth.ReasonConnectionNotFound:
		return linkGone
	case !c.Open():
		return linkOver
	case c.Phase == reauth.PhaseRedeeming || c.Phase == reauth.PhaseVerifying:
		return linkTaken
	case c.ConnectURL != "" && c.SessionExpiresAt != nil && c.SessionExpiresAt.After(v.now):
		return linkReady
	case c.Phase == reauth.PhaseBlocked:
		return linkBlocked
	}
	return linkOpening
}

// waiting tells whether the customer asked for a case that is not there yet.
func (v linkView) waiting() bool {
	if v.asked.IsZero() {
		return false
	}
	switch v.state() {
	case linkOpening:
		return true
	case linkOver, linkWorks:
		return !v.hasCase || v.newest.ClosedAt != nil && v.newest.ClosedAt.Before(v.asked)
	}
	return false
}

// follow finds out what a request's link leads to. Where it leads nowhere, it
// answers and returns false.
func (s *server) follow(w http.ResponseWriter, r *http.Request) (linkView, bool) {
	v := linkView{secret: r.PathValue("link"), now: s.Now()}
	unknown := func() (linkView, bool) {
		s.pages.render(w, r, http.StatusNotFound, s.pages.unknownLink())
		return linkView{}, false
	}
	failed := func(doing string, err error) (linkView, bool) {
		s.complain(r.Context(), "the database failed", doing, err)
		s.unavailablePage(w, r, s.pages.tryLater())
		return linkView{}, false
	}
	if !linkPattern.MatchString(v.secret) {
		return unknown()
	}
	var err error
	if v.link, err = s.DB.LinkByHash(r.Context(), secrets.HashLink(v.secret)); errors.Is(err, db.ErrNotFound) {
		return unknown()
	} else if err != nil {
		return failed("looking a link up", err)
	}
	if v.link.RevokedAt != nil {
		return unknown()
	}
	if v.connection, err = s.DB.Connection(r.Context(), v.link.ConnectionID); err != nil {
		return failed("reading a link's connection", err)
	}
	if v.connection.Status == reauth.StatusRemoved {
		return unknown()
	}
	newest, err := s.DB.NewestCase(r.Context(), v.link.ConnectionID)
	switch {
	case err == nil:
		v.newest, v.hasCase = newest, true
	case !errors.Is(err, db.ErrNotFound):
		return failed("reading a link's case", err)
	}
	return v, true
}

// showLink shows what a link is about. It changes nothing: mail scanners and
// previews open links.
func (s *server) showLink(w http.ResponseWriter, r *http.Request) {
	v, ok := s.follow(w, r)
	if !ok {
		return
	}
	if r.URL.Query().Has(queryStop) {
		seeOther(w, "/stop/"+v.secret)
		return
	}
	v.asked = askedAt(r.URL.Query().Get("wait"), v.now)
	s.pages.render(w, r, http.StatusOK, s.pages.link(v))
}

// askedAt reads when the button was pressed. It is only ever used to choose
// words, so a made-up time harms nobody.
func askedAt(wait string, now time.Time) time.Time {
	millis, err := strconv.ParseInt(wait, 10, 64)
	if err != nil {
		return time.Time{}
	}
	asked := time.UnixMilli(millis)
	if asked.After(now) || now.Sub(asked) > maxPatience {
		return time.Time{}
	}
	return asked
}

// pressLink is the button: the only thing behind a link that acts.
func (s *server) pressLink(w http.ResponseWriter, r *http.Request) {
	if !s.fromHere(r) {
		s.pages.render(w, r, http.StatusForbidden, s.pages.foreignPress())
		return
	}
	v, ok := s.follow(w, r)
	if !ok {
		return
	}
	switch v.state() {
	case linkReady:
		s.goToConnect(w, r, v)
	case linkTaken:
		s.goToResult(w, r, doneTicket{ConnectionID: v.connection.ConnectionID, CaseID: v.newest.CaseID, Link: v.secret, At: v.now})
	case linkOver:
		s.reopen(w, r, v)
	case linkOpening:
		s.goToWait(w, v)
	default:
		seeOther(w, "/r/"+v.secret)
	}
}

// fromHere refuses a form that another site posts. The secret in the address
// is what really protects it; an Origin of "null" is what browsers send from
// pages that, as ours, allow no referrer.
func (s *server) fromHere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" || origin == "null" || origin == s.PublicURL {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && u.Host == r.Host
}

// goToConnect records the click and sends the browser to Connect with a state
// of its own.
func (s *server) goToConnect(w http.ResponseWriter, r *http.Request, v linkView) {
	ctx := r.Context()
	target, err := url.Parse(v.newest.ConnectURL)
	if err != nil || !s.connectURLAllowed(target) {
		s.Logger.LogAttrs(ctx, slog.LevelError, "a session's connect_url is not at an allowed host; nobody was sent there",
			slog.String("connection_id", v.connection.ConnectionID), slog.String("case_id", v.newest.CaseID), slog.String("request_id", infoOf(ctx).id))
		s.pages.render(w, r, http.StatusInternalServerError, s.pages.cannotSend())
		return
	}
	click := clickTicket{
		ConnectionID: v.connection.ConnectionID, CaseID: v.newest.CaseID, Attempt: uuid.NewString(),
		Application: v.newest.Application, Link: v.secret,
	}
	state, err := s.mint(ticketState, click)
	if err == nil {
		err = s.DB.RecordClick(ctx, db.Click{
			ID: click.Attempt, LinkID: &v.link.ID, CaseID: click.CaseID, ConnectionID: click.ConnectionID, At: v.now,
		})
	}
	if err != nil {
		s.complain(ctx, "the database failed", "recording a click", err)
		s.unavailablePage(w, r, s.pages.tryLater())
		return
	}
	cookie := state
	if click.Several = s.mendsAnother(r, click.ConnectionID); click.Several {
		if cookie, err = s.mint(ticketState, click); err != nil {
			cookie = state
		}
	}
	s.setCookie(w, cookie)
	if target.RawQuery != "" {
		target.RawQuery += "&"
	}
	target.RawQuery += "state=" + url.QueryEscape(state)
	s.metrics.clicked(ctx)
	seeOther(w, target.String())
}

// mendsAnother tells whether this browser went to Connect for another
// connection too, whose case is still open: an accountant's, say.
func (s *server) mendsAnother(r *http.Request, connectionID string) bool {
	before, ok := s.cookieTicket(r)
	if !ok || before.ConnectionID == connectionID && !before.Several {
		return false
	}
	if before.Several {
		return true
	}
	_, err := s.DB.OpenCaseOf(r.Context(), before.ConnectionID)
	return err == nil
}

// reopen opens a new case for a customer whose last one is over.
func (s *server) reopen(w http.ResponseWriter, r *http.Request, v linkView) {
	ctx := r.Context()
	claimed, err := s.DB.ClaimLinkCase(ctx, v.link.ID, v.now)
	if err != nil {
		s.complain(ctx, "the database failed", "claiming a link's case", err)
		s.unavailablePage(w, r, s.pages.tryLater())
		return
	}
	// A claim that opened nothing, because Temporal was down, is still good.
	if !claimed && v.hasCase && v.newest.Source == reauth.SourceLink && v.newest.OpenedAt.After(v.now.Add(-time.Hour)) {
		s.pages.render(w, r, http.StatusTooManyRequests, s.pages.tooSoon(v))
		return
	}
	result, err := s.open(ctx, v.connection, reauth.Input{ConnectionID: v.connection.ConnectionID, Source: reauth.SourceLink})
	if err != nil {
		s.unavailablePage(w, r, s.pages.cannotOpen())
		return
	}
	if err := s.DB.RecordClick(ctx, db.Click{
		ID: uuid.NewString(), LinkID: &v.link.ID, CaseID: result.CaseID, ConnectionID: v.connection.ConnectionID, At: v.now,
	}); err != nil {
		s.complain(ctx, "the database failed", "recording a click", err) // the next press records another
	}
	s.goToWait(w, v)
}

func (s *server) goToWait(w http.ResponseWriter, v linkView) {
	seeOther(w, "/r/"+v.secret+"?wait="+strconv.FormatInt(v.now.UnixMilli(), 10))
}

func (s *server) goToResult(w http.ResponseWriter, r *http.Request, t doneTicket) {
	ticket, err := s.mint(ticketDone, t)
	if err != nil {
		s.complain(r.Context(), "a ticket could not be made", "showing a result", err)
		s.pages.render(w, r, http.StatusInternalServerError, s.pages.tryLater())
		return
	}
	seeOther(w, "/done/"+ticket)
}

// seeOther redirects without a body: http.Redirect would write the address
// into a page.
func seeOther(w http.ResponseWriter, location string) {
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusSeeOther)
}

// unavailablePage answers a page whose reason is a part of ours that is down.
func (s *server) unavailablePage(w http.ResponseWriter, r *http.Request, p page) {
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	s.pages.render(w, r, http.StatusServiceUnavailable, p)
}
