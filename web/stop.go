package web

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/finch-reauth/reauth/db"
)

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
	// undone: they have just taken it back.
	undone bool
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
	return err == nil || s.stopFailed(w, r, "reading whom a link went to", err)
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
		first, err := s.DB.Decline(ctx, v.link.ConnectionID, v.link.Recipient)
		if err == nil && first && v.hasCase && v.newest.Open() {
			s.contactsChanged(ctx, []db.CaseContact{{CaseID: v.newest.CaseID, ConnectionID: v.link.ConnectionID, ContactID: v.link.Recipient}},
				"A contact said that they are not the right person.")
		}
		return err
	case stopNever:
		cases, first, err := s.DB.SetUnreachable(ctx, v.person.Email, db.UnreachableOptOut, "said so on the page behind a link")
		if err == nil && first {
			s.contactsChanged(ctx, cases, "A contact wants no more mails.")
		}
		return err
	}
	cases, err := s.DB.TakeBack(ctx, v.link.ConnectionID, v.link.Recipient)
	if err == nil {
		s.contactsChanged(ctx, cases, "A contact took back that they want no mails.")
	}
	return err
}
