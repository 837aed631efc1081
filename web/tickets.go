package web

import (
	"context"
	"net/http"
	"regexp"
	"time"

	"github.com/finch-reauth/reauth/secrets"
)

// Kinds of tickets: what one was minted for, it cannot be used for another.
const (
	ticketState = "state" // goes to Connect and comes back, and lies in the cookie
	ticketDone  = "done"  // names a code's result page
	ticketAgain = "again" // leads from a page back to the link
)

// TicketLife is how long a state, a cookie and a result page are good for.
const TicketLife = 24 * time.Hour

// clickTicket says where a code belongs: it is the state of one click. Names
// are short because Connect carries it in a URL.
type clickTicket struct {
	ConnectionID string `json:"c"`
	CaseID       string `json:"k,omitempty"`
	Attempt      string `json:"a,omitempty"`
	Application  string `json:"p,omitempty"`
	// Link is the secret of the link that was clicked, the way back.
	Link string `json:"l,omitempty"`
	// Several is set in a browser's cookie while the browser is mending more
	// than one connection: then the cookie alone does not tell which of them a
	// code belongs to.
	Several bool `json:"s,omitempty"`
}

// doneTicket names a result page.
type doneTicket struct {
	ConnectionID string    `json:"c,omitempty"`
	CaseID       string    `json:"k,omitempty"`
	CodeHash     string    `json:"h,omitempty"`
	Link         string    `json:"l,omitempty"`
	At           time.Time `json:"t"`
}

// againTicket leads back to a link without showing its secret on a page.
type againTicket struct {
	Link string `json:"l"`
}

func (s *server) mint(kind string, v any) (string, error) {
	return s.Keys.Mint(kind, v, s.Now().Add(TicketLife))
}

// cookieName is fixed by the scheme: browsers take a __Host- cookie only over
// TLS.
func (s *server) cookieName() string {
	if s.secure() {
		return "__Host-reauth"
	}
	return "reauth"
}

func (s *server) setCookie(w http.ResponseWriter, ticket string) {
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(), Value: ticket, Path: "/", MaxAge: int(TicketLife / time.Second),
		HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteLaxMode,
	})
}

// cookieTicket reads the browser's cookie, if it has a good one.
func (s *server) cookieTicket(r *http.Request) (clickTicket, bool) {
	cookie, err := r.Cookie(s.cookieName())
	if err != nil {
		return clickTicket{}, false
	}
	var t clickTicket
	if err := s.Keys.Read(ticketState, cookie.Value, s.Now(), &t); err != nil || t.ConnectionID == "" {
		return clickTicket{}, false
	}
	return t, true
}

// stateTicket reads the state that Connect gave back. One whose time is over
// still says where a code belongs: a tab left open must not lose it.
func (s *server) stateTicket(state string) (clickTicket, bool) {
	var t clickTicket
	if state == "" || len(state) > maxState {
		return clickTicket{}, false
	}
	if err := s.Keys.Read(ticketState, state, time.Time{}, &t); err != nil || t.ConnectionID == "" {
		return clickTicket{}, false
	}
	return t, true
}

var linkPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// linkURL computes the link of a recipient, and makes one if there is none.
func (s *server) linkURL(ctx context.Context, connectionID, recipient string) (string, error) {
	version, keyID, err := s.DB.EnsureLink(ctx, connectionID, recipient, s.Keys.LinkKeyID(), func(keyID uint32, version int) ([]byte, error) {
		secret, err := s.Keys.LinkSecret(keyID, connectionID, recipient, version)
		if err != nil {
			return nil, err
		}
		return secrets.HashLink(secret), nil
	})
	if err != nil {
		return "", err
	}
	secret, err := s.Keys.LinkSecret(keyID, connectionID, recipient, version)
	if err != nil {
		return "", err
	}
	return s.PublicURL + "/r/" + secret, nil
}
