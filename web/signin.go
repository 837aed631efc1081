package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
)

// SignIn says how operators sign in to the pages below /operator.
type SignIn struct {
	// OpenID is the way in through the company's own identity provider.
	OpenID *OpenID
	// ByKey lets an API key with the scope operator sign a browser in: for a
	// developer's machine, and for those who have no identity provider.
	ByKey bool
}

// Kinds of tickets of operators.
const (
	ticketOperator = "operator" // lies in the cookie of who is signed in
	ticketForm     = "form"     // stands in each form of a page that was shown to them
	ticketOpenID   = "openid"   // lies in the cookie of who is on the way to sign in
)

const (
	// operatorLife is how long somebody stays signed in.
	operatorLife = 8 * time.Hour
	// signInLife is how long somebody may be at the identity provider.
	signInLife = 10 * time.Minute
	// operatorHome is where the operators' pages begin.
	operatorHome = "/operator"
)

// operator is who is signed in. It is sealed into a cookie.
type operator struct {
	// Who is what timelines call them; it holds no e-mail address.
	Who string `json:"w"`
	// Key is the hash of the API key that they signed in with, if they did: it is
	// looked up again with every request.
	Key string `json:"k,omitempty"`
	// Session is random, and binds the forms to this sign-in.
	Session string `json:"s"`
	key     db.APIKey
}

// limited reports whether they signed in with a key for one application alone.
func (o operator) limited() bool { return o.key.Application != "" }

// formTicket is what a form carries to prove that we made it for this session.
type formTicket struct {
	Session string `json:"s"`
}

func (s *server) operatorCookie(name string) string {
	if s.secure() {
		return "__Host-reauth-" + name
	}
	return "reauth-" + name
}

func (s *server) setOperatorCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	age := int(life / time.Second)
	if value == "" {
		age = -1
	}
	// Lax, because who comes back from the identity provider, or follows a link in
	// a mail, comes from another site. Whatever acts is a POST with a form ticket.
	http.SetCookie(w, &http.Cookie{
		Name: s.operatorCookie(name), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteLaxMode,
	})
}

// signedIn shows a page to operators alone; others are led to the sign-in and
// back. What acts must come from a form of ours, made for this sign-in.
func (s *server) signedIn(page func(http.ResponseWriter, *http.Request, operator)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, ctx, err := s.whoIs(r)
		switch {
		case errors.Is(err, errSignedOut):
			if r.Method == http.MethodPost {
				s.pages.render(w, r, http.StatusUnauthorized, signedOutPage())
				return
			}
			seeOther(w, operatorHome+"/sign-in?next="+url.QueryEscape(r.URL.RequestURI()))
			return
		case err != nil:
			s.complain(r.Context(), "the database failed", "looking up who is signed in", err)
			s.unavailablePage(w, r, s.pages.tryLater())
			return
		}
		if r.Method == http.MethodPost && !s.ourForm(r, who) {
			s.pages.render(w, r, http.StatusForbidden, s.pages.foreignPress())
			return
		}
		infoOf(r.Context()).key = who.Who
		page(w, r.WithContext(actingAs(ctx, who.Who)), who)
	}
}

var errSignedOut = errors.New("nobody is signed in")

// whoIs tells who a browser is signed in as, and the context in which they act:
// one that is limited to their key's application, if it has one.
func (s *server) whoIs(r *http.Request) (operator, context.Context, error) {
	ctx := r.Context()
	cookie, err := r.Cookie(s.operatorCookie("operator"))
	if err != nil {
		return operator{}, ctx, errSignedOut
	}
	var who operator
	if err := s.Keys.Read(ticketOperator, cookie.Value, s.Now(), &who); err != nil || who.Session == "" {
		return operator{}, ctx, errSignedOut
	}
	if who.Key == "" {
		if s.SignIn.OpenID == nil { // it was switched off
			return operator{}, ctx, errSignedOut
		}
		return who, ctx, nil
	}
	hash, err := hex.DecodeString(who.Key)
	if err != nil || !s.SignIn.ByKey {
		return operator{}, ctx, errSignedOut
	}
	key, err := s.DB.APIKeyByHash(ctx, hash)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return operator{}, ctx, errSignedOut
	case err != nil:
		return operator{}, ctx, err
	case !key.Good(s.Now()), !slices.Contains(key.Scopes, ScopeOperator):
		return operator{}, ctx, errSignedOut
	}
	if key.Application != "" {
		ctx = db.Within(ctx, key.Application)
	}
	who.key = key
	return who, ctx, nil
}

// ourForm tells whether a POST comes from a form that was made for this sign-in.
func (s *server) ourForm(r *http.Request, who operator) bool {
	var t formTicket
	return s.fromHere(r) && s.Keys.Read(ticketForm, r.PostFormValue("form"), s.Now(), &t) == nil && t.Session == who.Session
}

// form is the ticket for the forms of a page.
func (s *server) form(who operator) string {
	ticket, err := s.Keys.Mint(ticketForm, formTicket{Session: who.Session}, s.Now().Add(operatorLife))
	if err != nil {
		return "" // which no form can act with
	}
	return ticket
}

func (s *server) signInAs(w http.ResponseWriter, r *http.Request, who operator, next string) {
	who.Session = rand.Text()
	ticket, err := s.Keys.Mint(ticketOperator, who, s.Now().Add(operatorLife))
	if err != nil {
		s.complain(r.Context(), "a ticket could not be made", "signing an operator in", err)
		s.pages.render(w, r, http.StatusInternalServerError, s.pages.tryLater())
		return
	}
	s.setOperatorCookie(w, "operator", ticket, operatorLife)
	seeOther(w, safeNext(next))
}

// safeNext is where to go after signing in: an operators' page and nothing else.
func safeNext(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || len(next) > 1000 ||
		strings.ContainsAny(next, "\\\r\n") || (u.Path != operatorHome && !strings.HasPrefix(u.Path, operatorHome+"/")) ||
		strings.Contains(u.Path, "..") || strings.Contains(u.Path, "//") || strings.HasPrefix(u.Path, operatorHome+"/sign-") {
		return operatorHome
	}
	return u.RequestURI()
}

func (s *server) showSignIn(w http.ResponseWriter, r *http.Request) {
	s.signInPage(w, r, http.StatusOK, "")
}

func (s *server) signInPage(w http.ResponseWriter, r *http.Request, status int, trouble string) {
	next := safeNext(r.FormValue("next"))
	v := signInView{frame: s.frame("Sign in"), Trouble: trouble, Next: next, ByKey: s.SignIn.ByKey}
	if s.SignIn.OpenID != nil {
		v.OpenID = operatorHome + "/openid?next=" + url.QueryEscape(next)
	}
	s.pages.write(w, r, status, "signin.html", v)
}

type signInView struct {
	frame
	Trouble, Next, OpenID string
	ByKey                 bool
}

// signInByKey signs a browser in with an API key. Guessing costs what it costs at
// the API.
func (s *server) signInByKey(w http.ResponseWriter, r *http.Request) {
	if !s.SignIn.ByKey {
		s.signInPage(w, r, http.StatusNotFound, "Here, nobody signs in with an API key.")
		return
	}
	if !s.fromHere(r) {
		s.pages.render(w, r, http.StatusForbidden, s.pages.foreignPress())
		return
	}
	given := strings.TrimSpace(r.PostFormValue("key"))
	key, err := s.authorize(r.Context(), "Bearer "+given, ScopeOperator)
	if err != nil {
		s.signInPage(w, r, statusOf(err), detailOf(err))
		return
	}
	s.signInAs(w, r, operator{Who: "key " + key.Name, Key: hex.EncodeToString(hashAPIKey(given))}, r.PostFormValue("next"))
}

func (s *server) signOut(w http.ResponseWriter, r *http.Request, _ operator) {
	s.setOperatorCookie(w, "operator", "", 0)
	seeOther(w, operatorHome+"/sign-in")
}

func signedOutPage() page {
	return page{
		Tone: toneWarn, Title: "You are not signed in any more",
		Lead:   []string{"Nothing was done. Sign in, and press the button again."},
		Button: &button{Label: "Sign in", Href: operatorHome + "/sign-in"},
	}
}

// statusOf is the status of a problem.
func statusOf(err error) int {
	var status huma.StatusError
	if errors.As(err, &status) {
		return status.GetStatus()
	}
	return http.StatusInternalServerError
}

// detailOf is what a problem says to people.
func detailOf(err error) string {
	var model *huma.ErrorModel
	if errors.As(err, &model) && model.Detail != "" {
		return model.Detail
	}
	return internalDetail
}
