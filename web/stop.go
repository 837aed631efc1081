package web

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
)

// stopsADay is how often the buttons behind one link can be pressed in a day.
const stopsADay = 20

// maxForm bounds the form of the stop page, which has one short field.
const maxForm = 16 << 10

// What the buttons of the stop page ask for.
const (
	stopNotMe = "not_me" // not the right person for this connection
	stopNever = "never"  // no more mails of ours at all
	stopUndo  = "undo"   // that was a mistake
)

// stopView is whom a link went to, and for what.
type stopView struct {
	linkView
	// person is whom we write to with this link. A link that went to nobody
	// among the contacts, an operator's, has none.
	person db.Recipient
	// along are the owner's other connections that are being written about: a
	// mail about several leads here with the query all.
	along []along
	// undone: they have just taken it back.
	undone bool
}

// along is a connection of the same person, and what they are called there.
type along struct {
	contact    db.CaseContact
	connection reauth.Connection
}

// stopped tells whether the person gets no mails about this connection because
// of something that they themselves said.
func (v stopView) stopped() bool {
	return v.person.Declined || v.person.Unreachable == db.UnreachableOptOut || v.person.Unreachable == db.UnreachableComplaint
}

// followStop finds out whose mails a request is about. Where that is nobody's,
// it answers and returns false.
func (s *server) followStop(w http.ResponseWriter, r *http.Request) (stopView, bool) {
	link, ok := s.follow(w, r)
	if !ok {
		return stopView{}, false
	}
	v := stopView{linkView: link}
	if v.link.Recipient == db.RecipientOperator {
		s.pages.render(w, r, http.StatusOK, s.pages.notYours(v))
		return stopView{}, false
	}
	return v, s.findPerson(w, r, &v)
}

func (s *server) findPerson(w http.ResponseWriter, r *http.Request, v *stopView) bool {
	var err error
	v.person, err = s.DB.Recipient(r.Context(), v.link.ConnectionID, v.link.Recipient)
	if err == nil && r.URL.Query().Has(notify.StopAll) {
		v.along, err = s.findAlong(r.Context(), v.link)
	}
	return err == nil || s.stopFailed(w, r, "reading whom a link went to", err)
}

// findAlong finds the other connections of a link's owner that have open cases.
func (s *server) findAlong(ctx context.Context, link db.Link) ([]along, error) {
	contacts, err := s.DB.SameAddress(ctx, link.ConnectionID, link.Recipient)
	if err != nil {
		return nil, err
	}
	all := make([]along, len(contacts))
	for i, c := range contacts {
		connection, err := s.DB.Connection(ctx, c.ConnectionID)
		if err != nil {
			return nil, err
		}
		all[i] = along{c, connection}
	}
	return all, nil
}

// stopFailed answers an error; it returns false.
func (s *server) stopFailed(w http.ResponseWriter, r *http.Request, doing string, err error) bool {
	if errors.Is(err, db.ErrNotFound) { // the contact was removed this moment
		s.pages.render(w, r, http.StatusNotFound, s.pages.unknownLink())
		return false
	}
	s.complain(r.Context(), "the database failed", doing, err)
	s.unavailablePage(w, r, s.pages.tryLater())
	return false
}

// showStop shows the page on which somebody can say that they want no more
// mails. It changes nothing: mail scanners open it.
func (s *server) showStop(w http.ResponseWriter, r *http.Request) {
	v, ok := s.followStop(w, r)
	if !ok {
		return
	}
	if r.URL.Query().Has(queryLink) {
		seeOther(w, "/r/"+v.secret)
		return
	}
	s.pages.render(w, r, http.StatusOK, s.pages.stop(v))
}

// pressStop does what a button of the stop page asks for, or what a mail
// program asks for with the "unsubscribe" that it offers itself (RFC 8058). The
// latter comes from the mail provider's servers: without a page before it, a
// cookie or an origin. The secret in the address is what protects both.
func (s *server) pressStop(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	what, oneClick, err := stopForm(r)
	switch {
	case tooLarge(err):
		s.fail(w, r, http.StatusRequestEntityTooLarge, "That form is too large. Please open the page again.")
		return
	case !oneClick && !s.fromHere(r):
		s.pages.render(w, r, http.StatusForbidden, s.pages.foreignPress())
		return
	}
	v, ok := s.followStop(w, r)
	if !ok {
		return
	}
	if err != nil || what == "" {
		s.fail(w, r, http.StatusBadRequest, "We did not understand that. Please open the page again and press one of its buttons.")
		return
	}
	// Each press wakes a case; nobody needs many.
	allowed, err := s.DB.SpendBudget(r.Context(), "stop:"+strconv.FormatInt(v.link.ID, 10), stopsADay, 24*time.Hour, s.Now())
	if err != nil {
		s.stopFailed(w, r, "counting the presses of a link", err)
		return
	}
	if !allowed {
		s.fail(w, r, http.StatusTooManyRequests, "That was pressed many times today. What you said last counts; please come back tomorrow to change it.")
		return
	}
	if err := s.stop(r.Context(), v, what); err != nil {
		s.stopFailed(w, r, "noting what a person said of their mails", err)
		return
	}
	if !s.findPerson(w, r, &v) {
		return
	}
	v.undone = what == stopUndo
	s.pages.render(w, r, http.StatusOK, s.pages.stop(v))
}

// stopForm reads what a form asks for; empty is nothing that we know.
func stopForm(r *http.Request) (what string, oneClick bool, err error) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType == "multipart/form-data" {
		err = r.ParseMultipartForm(maxForm)
	} else {
		err = r.ParseForm()
	}
	if err != nil {
		return "", false, err
	}
	if strings.EqualFold(r.PostForm.Get("List-Unsubscribe"), "One-Click") {
		return stopNotMe, true, nil
	}
	switch what = r.PostForm.Get("what"); what {
	case stopNotMe, stopNever, stopUndo:
		return what, false, nil
	}
	return "", false, nil
}

// stop does what somebody asks for, and lets the open cases know that the next
// person is to take over, or that this one is back.
func (s *server) stop(ctx context.Context, v stopView, what string) error {
	switch what {
	case stopNotMe:
		var handOn []db.CaseContact
		for _, c := range v.concerned() {
			first, err := s.DB.Decline(ctx, c.ConnectionID, c.ContactID)
			if err != nil {
				return err
			}
			if first && c.CaseID != "" {
				handOn = append(handOn, c)
			}
		}
		s.contactsChanged(ctx, handOn, "A contact said that they are not the right person.")
		return nil
	case stopNever:
		cases, first, err := s.DB.SetUnreachable(ctx, v.person.Email, db.UnreachableOptOut, "said so on the page behind a link")
		if err == nil && first {
			s.contactsChanged(ctx, cases, "A contact wants no more mails.")
		}
		return err
	}
	for _, c := range v.concerned() {
		cases, err := s.DB.TakeBack(ctx, c.ConnectionID, c.ContactID)
		if err != nil {
			return err
		}
		s.contactsChanged(ctx, cases, "A contact took back that they want no mails.")
	}
	return nil
}

// concerned are the contacts whom a press is about. One without an open case has
// no case ID.
func (v stopView) concerned() []db.CaseContact {
	own := db.CaseContact{ConnectionID: v.link.ConnectionID, ContactID: v.link.Recipient}
	if v.hasCase && v.newest.Open() {
		own.CaseID = v.newest.CaseID
	}
	all := []db.CaseContact{own}
	for _, other := range v.along {
		all = append(all, other.contact)
	}
	return all
}
