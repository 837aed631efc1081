package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// operatorRoutes are the pages for the operator who is asked "why is Acme's data
// old?". They show what the API shows, and act through it.
func (s *server) operatorRoutes() {
	if s.SignIn == nil {
		return
	}
	s.mux.HandleFunc("GET /operator", s.signedIn(s.showCases))
	s.mux.HandleFunc("GET /operator/connections/{connection_id}", s.signedIn(s.showConnection))
	s.mux.HandleFunc("POST /operator/connections/{connection_id}/{act}", s.signedIn(s.act))
	s.mux.HandleFunc("POST /operator/storms/{storm_id}/release", s.signedIn(s.actOnStorm))
	s.mux.HandleFunc("GET /operator/sign-in", s.showSignIn)
	s.mux.HandleFunc("POST /operator/sign-in", s.signInByKey)
	s.mux.HandleFunc("POST /operator/sign-out", s.signedIn(s.signOut))
	if s.SignIn.OpenID != nil {
		s.mux.HandleFunc("GET /operator/openid", s.toOpenID)
		s.mux.HandleFunc("GET /operator/openid/return", s.fromOpenID)
	}
}

// frame is what every operators' page has.
type frame struct {
	Title, Product, StyleURL, IconURL string
	Who, Form                         string // of who is signed in
	Trouble                           string // what did not work
	Done                              string // what did
	Mail                              string // that mail does not go out
}

func (s *server) frame(title string) frame {
	return frame{Title: title, Product: s.ProductName, StyleURL: s.pages.assetURL("style.css"), IconURL: s.pages.assetURL("icon.svg")}
}

func (s *server) frameFor(ctx context.Context, who operator, title string) frame {
	f := s.frame(title)
	f.Who, f.Form, f.Mail = who.Who, s.form(who), s.mailBanner(ctx)
	return f
}

// tab is a choice of cases.
type tab struct {
	Name, Href string
	Here       bool
}

var tabs = []struct{ key, name string }{
	{"waiting", "Waiting for customers"}, {"blocked", "Only we can help"}, {"busy", "Confirming"}, {"closed", "Closed"}, {"all", "All"},
}

var phasesOfTabs = map[string]reauth.Phase{
	"waiting": reauth.PhaseAwaitingCustomer, "blocked": reauth.PhaseBlocked, "busy": reauth.PhaseConfirming, "closed": reauth.PhaseClosed, "all": "",
}

type casesView struct {
	frame
	Tabs   []tab
	Cases  []caseRow
	Found  []foundRow
	Storms []StormView
	Find   string
	Next   string
}

type caseRow struct {
	Name, Href, System, Standing, Since, Notices, Next, Trouble string
}

type foundRow struct{ Name, Href, Status, About string }

// showCases lists cases, and connections that were searched for.
func (s *server) showCases(w http.ResponseWriter, r *http.Request, who operator) {
	ctx, query := r.Context(), r.URL.Query()
	v := casesView{frame: s.frameFor(ctx, who, "Cases"), Find: strings.TrimSpace(query.Get("find"))}
	v.Done = doneWords[query.Get("done")]
	show := query.Get("show")
	if _, known := phasesOfTabs[show]; !known {
		show = "waiting"
	}
	for _, t := range tabs {
		v.Tabs = append(v.Tabs, tab{t.name, operatorHome + "?show=" + t.key, t.key == show && v.Find == ""})
	}
	if v.Find != "" {
		found, err := s.DB.FindConnections(ctx, v.Find, 50)
		if err != nil {
			s.operatorFailed(w, r, err)
			return
		}
		for _, c := range found {
			v.Found = append(v.Found, foundRow{
				Name: cmp.Or(c.CustomerName, c.ConnectionID), Href: connectionHref(c.ConnectionID), Status: string(c.Status),
				About: strings.TrimSpace(c.System + " " + c.ConnectionID),
			})
		}
		s.pages.write(w, r, http.StatusOK, "cases.html", v)
		return
	}
	cases, next, err := s.DB.Cases(ctx, db.CaseFilter{Phase: phasesOfTabs[show]}, query.Get("cursor"), 50)
	if err != nil && !errors.Is(err, db.ErrBadCursor) {
		s.operatorFailed(w, r, err)
		return
	}
	for _, c := range cases {
		v.Cases = append(v.Cases, s.row(c))
	}
	if next != "" {
		v.Next = operatorHome + "?show=" + show + "&cursor=" + url.QueryEscape(next)
	}
	var storms []db.Storm
	if !who.limited() {
		if storms, err = s.DB.Storms(ctx, 20); err != nil {
			s.operatorFailed(w, r, err)
			return
		}
	}
	for _, storm := range storms {
		if storm.EndedAt == nil {
			v.Storms = append(v.Storms, stormViewOf(storm))
		}
	}
	s.pages.write(w, r, http.StatusOK, "cases.html", v)
}

func connectionHref(id string) string { return operatorHome + "/connections/" + url.PathEscape(id) }

func (s *server) row(c db.Case) caseRow {
	row := caseRow{
		Name: cmp.Or(c.CustomerName, c.ConnectionID), Href: connectionHref(c.ConnectionID), System: string(c.Provider),
		Standing: standing(c), Since: s.ago(c.OpenedAt), Notices: plural(c.NoticesSent, "notice"), Trouble: c.LastError,
	}
	if c.NextNoticeAt != nil {
		row.Next = clock(*c.NextNoticeAt)
	}
	return row
}

// standing says in words what a case is doing, or how it ended.
func standing(c db.Case) string {
	if !c.Open() {
		return strings.ReplaceAll(string(c.Outcome), "_", " ")
	}
	switch {
	case c.Held:
		return "held: the provider may be to blame"
	case c.Waits == "stopped":
		return "waiting for customer mail to be switched on again"
	case c.Waits == "ramp":
		return "waiting for its turn to be written to"
	}
	return map[reauth.Phase]string{
		reauth.PhaseConfirming: "asking whether the loss is real", reauth.PhaseAwaitingCustomer: "waiting for the customer",
		reauth.PhaseRedeeming: "exchanging a code", reauth.PhaseVerifying: "checking the new token", reauth.PhaseBlocked: "only an operator can help",
	}[c.Phase]
}

// ago is how long ago something was, roughly.
func (s *server) ago(at time.Time) string {
	switch d := s.Now().Sub(at); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return plural(int(d/time.Minute), "minute") + " ago"
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour") + " ago"
	default:
		return plural(int(d/(24*time.Hour)), "day") + " ago"
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func clock(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 MST") }

type connectionView struct {
	frame
	ID       string
	Facts    []fact
	Open     bool
	Standing string
	Trouble2 string // what the case last had trouble with
	Workflow string
	Timeline []lineRow
	Notices  []noticeRow
	Contacts []contactRow
	Entities []fact // the companies of a connection that has several, and how each does
	Act      string // where its forms post to
}

type lineRow struct{ At, Kind, Detail string }

type noticeRow struct{ At, Step, To, Channel, State, Detail string }

type contactRow struct{ Name, Email, Role, Zone, Unreachable string }

// showConnection shows a connection and its newest case.
func (s *server) showConnection(w http.ResponseWriter, r *http.Request, who operator) {
	s.connectionPage(w, r, who, http.StatusOK, "")
}

func (s *server) connectionPage(w http.ResponseWriter, r *http.Request, who operator, status int, trouble string) {
	ctx, id := r.Context(), r.PathValue("connection_id")
	c, err := s.connection(ctx, id)
	if err != nil {
		s.operatorProblem(w, r, who, err)
		return
	}
	v := connectionView{frame: s.frameFor(ctx, who, cmp.Or(c.CustomerName, c.ConnectionID)), ID: id, Act: connectionHref(id)}
	v.frame.Trouble, v.Done = trouble, doneWords[r.URL.Query().Get("done")]
	v.Facts = []fact{{"Connection", c.ConnectionID}, {"System", c.System}, {"Status", string(c.Status)}, {"Application", c.Application}}
	if c.CustomerID != "" {
		v.Facts = append(v.Facts, fact{"Customer ID", c.CustomerID})
	}
	for _, e := range c.Entities {
		v.Entities = append(v.Entities, fact{e.Called(), e.Status})
	}
	names := map[string]string{db.RecipientOperator: "operator"}
	for _, p := range c.Contacts {
		v.Contacts = append(v.Contacts, contactRow{p.Name, p.Email, p.Role, p.TimeZone, strings.ReplaceAll(p.Unreachable, "_", " ")})
		names[p.ContactID] = cmp.Or(p.Name, p.Email)
	}
	if err := s.addCase(ctx, &v, names); err != nil {
		s.operatorFailed(w, r, err)
		return
	}
	v.Facts = slices.DeleteFunc(v.Facts, func(f fact) bool { return f.Value == "" })
	s.pages.write(w, r, status, "connection.html", v)
}

// addCase adds what is known of the newest case.
func (s *server) addCase(ctx context.Context, v *connectionView, names map[string]string) error {
	k, err := s.DB.NewestCase(ctx, v.ID)
	if errors.Is(err, db.ErrNotFound) {
		v.Standing = "It has had no case yet."
		return nil
	}
	if err != nil {
		return err
	}
	v.Open, v.Standing, v.Trouble2 = k.Open(), standing(k), k.LastError
	if s.TemporalUIURL != "" {
		v.Workflow = strings.TrimRight(s.TemporalUIURL, "/") + "/namespaces/" + url.PathEscape(s.TemporalNamespace) + "/workflows/" + url.PathEscape(reauth.WorkflowID(v.ID))
	}
	v.Facts = append(v.Facts, fact{"Case", k.CaseID}, fact{"Reported by", string(k.Source) + " " + clock(k.OpenedAt)}, fact{"Reason", strings.TrimSpace(k.FinchCode + " " + k.Reason)})
	for _, at := range []struct {
		name string
		at   *time.Time
	}{{"Session ends", k.SessionExpiresAt}, {"Deadline", k.DeadlineAt}, {"Next notice", k.NextNoticeAt}, {"Last click", k.LastClickAt}, {"Closed", k.ClosedAt}} {
		if at.at != nil {
			v.Facts = append(v.Facts, fact{at.name, clock(*at.at)})
		}
	}
	events, err := s.DB.Timeline(ctx, k.CaseID)
	if err != nil {
		return err
	}
	for _, e := range events {
		v.Timeline = append(v.Timeline, lineRow{clock(e.At), strings.ReplaceAll(e.Kind, "_", " "), e.Detail})
	}
	notices, err := s.DB.NoticesOf(ctx, k.CaseID)
	if err != nil {
		return err
	}
	for _, n := range notices {
		n := noticeView(n)
		v.Notices = append(v.Notices, noticeRow{clock(n.At), n.Step, cmp.Or(names[n.Recipient], n.Recipient), n.Channel, n.State, n.Detail})
	}
	return nil
}

// doneWords say what an operator has done.
var doneWords = map[string]string{
	"cancel": "The case is being called off.", "snooze": "Notices are held.", "stop": "Notices are stopped; the case stays open.",
	"remind": "One more notice goes out now.", "release": "The held notices go out now, one after the other.",
}

// act does what a button of a connection's page says, through the API's own
// calls, and in the name of who pressed it.
func (s *server) act(w http.ResponseWriter, r *http.Request, who operator) {
	ctx := r.Context()
	path := ConnectionPath{ConnectionID: r.PathValue("connection_id")}
	reason := strings.TrimSpace(r.PostFormValue("reason"))
	what := r.PathValue("act")
	err := reauth.CheckConnectionID(path.ConnectionID)
	switch {
	case err != nil:
		err = problem(http.StatusNotFound, "There is no such connection.")
	case (what == "cancel" || what == "stop") && (reason == "" || len(reason) > 500):
		err = problem(http.StatusUnprocessableEntity, "Please say why, in 500 bytes at most: it stands in the timeline.")
	case what == "cancel":
		_, err = s.cancel(ctx, &cancelInput{path, CancelBody{Reason: reason}})
	case what == "stop":
		_, err = s.stopNotices(ctx, &stopInput{path, StopBody{Reason: reason}})
	case what == "remind":
		_, err = s.remind(ctx, &path)
	case what == "snooze":
		until, parseErr := time.Parse("2006-01-02T15:04", r.PostFormValue("until"))
		if err = parseErr; err != nil {
			err = problem(http.StatusUnprocessableEntity, "Please say until when, as 2026-12-24T08:00; it is taken as UTC.")
			break
		}
		_, err = s.snooze(ctx, &snoozeInput{path, SnoozeBody{Until: until.UTC()}})
	default:
		err = problem(http.StatusNotFound, "There is no such thing to do.")
	}
	if err != nil {
		s.connectionPage(w, r, who, statusOf(err), detailOf(err))
		return
	}
	seeOther(w, connectionHref(path.ConnectionID)+"?done="+what)
}

func (s *server) actOnStorm(w http.ResponseWriter, r *http.Request, who operator) {
	err := error(problem(http.StatusForbidden, "Your key is for one application, and a storm is of all of them."))
	if !who.limited() {
		_, err = s.releaseStorm(r.Context(), &stormPath{StormID: r.PathValue("storm_id")})
	}
	if err != nil {
		s.operatorProblem(w, r, who, err)
		return
	}
	seeOther(w, operatorHome+"?done=release")
}

// operatorProblem answers with a problem, on the page of the cases.
func (s *server) operatorProblem(w http.ResponseWriter, r *http.Request, who operator, err error) {
	v := casesView{frame: s.frameFor(r.Context(), who, "Cases")}
	v.Trouble = detailOf(err)
	s.pages.write(w, r, statusOf(err), "cases.html", v)
}

func (s *server) operatorFailed(w http.ResponseWriter, r *http.Request, err error) {
	s.complain(r.Context(), "the database failed", "showing an operators' page", err)
	s.unavailablePage(w, r, s.pages.tryLater())
}
