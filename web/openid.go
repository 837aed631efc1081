package web

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/finch-reauth/reauth/register"
)

// OpenID is the company's identity provider, by OpenID Connect: the authorization
// code flow with PKCE.
type OpenID struct {
	Issuer, ClientID, ClientSecret string
	// Allow says who of those whom the provider knows is an operator: entries as
	// "email:ada@example.com", "domain:example.com" (both of verified addresses),
	// "group:payroll-ops" and "subject:…". At least one is needed.
	Allow []string
	// HTTPClient asks the provider; a client with a timeout by default.
	HTTPClient *http.Client

	mu       sync.Mutex
	provider *oidc.Provider
}

// CheckAllow says what is wrong with the entries of OpenID.Allow, if anything.
func CheckAllow(entries []string) error {
	if len(entries) == 0 {
		return errors.New("it names nobody")
	}
	for _, entry := range entries {
		kind, value, _ := strings.Cut(entry, ":")
		if !slices.Contains([]string{"email", "domain", "group", "subject"}, kind) || value == "" {
			return errors.New("an entry is not email:, domain:, group: or subject: and what it is to be")
		}
	}
	return nil
}

// openIDTimeout bounds a call to the identity provider: a person is waiting.
const openIDTimeout = 10 * time.Second

func (o *OpenID) context(ctx context.Context) context.Context {
	client := o.HTTPClient
	if client == nil {
		client = &http.Client{Timeout: openIDTimeout}
	}
	return oidc.ClientContext(ctx, client)
}

// discover asks the provider once what it is. A provider that is down is asked
// again with the next sign-in, and keeps nobody else from anything.
func (o *OpenID) discover(ctx context.Context) (*oidc.Provider, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.provider != nil {
		return o.provider, nil
	}
	// The provider keeps this context for the keys that it fetches later on.
	provider, err := oidc.NewProvider(o.context(context.WithoutCancel(ctx)), o.Issuer)
	if err != nil {
		return nil, fmt.Errorf("ask the identity provider what it is: %w", err)
	}
	o.provider = provider
	return provider, nil
}

func (s *server) oauth(provider *oidc.Provider) *oauth2.Config {
	o := s.SignIn.OpenID
	return &oauth2.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret, Endpoint: provider.Endpoint(),
		RedirectURL: s.PublicURL + operatorHome + "/openid/return", Scopes: []string{oidc.ScopeOpenID, "profile", "email"},
	}
}

// onTheWay is a sign-in that has begun. It is sealed into a cookie.
type onTheWay struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Next     string `json:"t"`
}

// toOpenID sends the browser to the identity provider.
func (s *server) toOpenID(w http.ResponseWriter, r *http.Request) {
	provider, err := s.SignIn.OpenID.discover(r.Context())
	if err != nil {
		s.openIDFailed(w, r, http.StatusBadGateway, "The identity provider cannot be reached just now. Please try again in a minute.", err)
		return
	}
	way := onTheWay{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Next: safeNext(r.URL.Query().Get("next"))}
	ticket, err := s.Keys.Mint(ticketOpenID, way, s.Now().Add(signInLife))
	if err != nil {
		s.openIDFailed(w, r, http.StatusInternalServerError, internalDetail, err)
		return
	}
	s.setOperatorCookie(w, "openid", ticket, signInLife)
	seeOther(w, s.oauth(provider).AuthCodeURL(way.State, oidc.Nonce(way.Nonce), oauth2.S256ChallengeOption(way.Verifier)))
}

// fromOpenID takes the browser back from the identity provider.
func (s *server) fromOpenID(w http.ResponseWriter, r *http.Request) {
	var way onTheWay
	cookie, err := r.Cookie(s.operatorCookie("openid"))
	if err == nil {
		err = s.Keys.Read(ticketOpenID, cookie.Value, s.Now(), &way)
	}
	s.setOperatorCookie(w, "openid", "", 0) // it is good for one return
	query := r.URL.Query()
	switch {
	case err != nil || subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(way.State)) != 1:
		s.signInPage(w, r, http.StatusBadRequest, "This sign-in was not begun in this browser, or it took too long. Please begin again.")
		return
	case query.Get("code") == "":
		s.signInPage(w, r, http.StatusForbidden, "The identity provider did not sign you in.")
		return
	}
	who, err := s.identify(r.Context(), query.Get("code"), way)
	switch {
	case errors.Is(err, errNoOperator):
		s.openIDFailed(w, r, http.StatusForbidden, "You are signed in at the identity provider, but you are not one of the operators here (REAUTH_OIDC_ALLOW says who is).", err)
	case err != nil:
		s.openIDFailed(w, r, http.StatusBadGateway, "The identity provider's answer could not be checked. Please begin again.", err)
	default:
		s.signInAs(w, r, who, way.Next)
	}
}

func (s *server) openIDFailed(w http.ResponseWriter, r *http.Request, status int, words string, err error) {
	// The provider's own words may repeat a code or a name.
	s.Logger.LogAttrs(r.Context(), slog.LevelWarn, "an operator could not sign in",
		slog.String("problem", words), slog.String("kind", fmt.Sprintf("%T", err)), slog.String("request_id", infoOf(r.Context()).id))
	s.signInPage(w, r, status, words)
}

var errNoOperator = errors.New("not an operator")

// claims are what we want to know of a person.
type claims struct {
	Nonce             string   `json:"nonce"`
	Email             string   `json:"email"`
	EmailVerified     bool     `json:"email_verified"`
	Name              string   `json:"name"`
	PreferredUsername string   `json:"preferred_username"`
	Groups            []string `json:"groups"`
	subject           string
}

// identify exchanges the code and checks the ID token: signature, issuer,
// audience, expiry, nonce, and whether the person is an operator.
func (s *server) identify(ctx context.Context, code string, way onTheWay) (operator, error) {
	o := s.SignIn.OpenID
	provider, err := o.discover(ctx)
	if err != nil {
		return operator{}, err
	}
	ctx, cancel := context.WithTimeout(o.context(ctx), openIDTimeout)
	defer cancel()
	token, err := s.oauth(provider).Exchange(ctx, code, oauth2.VerifierOption(way.Verifier))
	if err != nil {
		return operator{}, fmt.Errorf("exchange the identity provider's code: %w", err)
	}
	raw, _ := token.Extra("id_token").(string)
	idToken, err := provider.Verifier(&oidc.Config{ClientID: o.ClientID, Now: s.Now}).Verify(ctx, raw)
	if err != nil {
		return operator{}, fmt.Errorf("verify the ID token: %w", err)
	}
	var c claims
	if err := idToken.Claims(&c); err != nil {
		return operator{}, fmt.Errorf("read the ID token: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(way.Nonce)) != 1 {
		return operator{}, errors.New("the ID token is not for this sign-in")
	}
	c.subject = idToken.Subject
	if !c.allowed(o.Allow) {
		return operator{}, errNoOperator
	}
	return operator{Who: c.name()}, nil
}

func (c claims) allowed(entries []string) bool {
	return slices.ContainsFunc(entries, func(entry string) bool {
		kind, value, _ := strings.Cut(entry, ":")
		_, domain, _ := strings.Cut(c.Email, "@")
		switch kind {
		case "email":
			return c.EmailVerified && strings.EqualFold(c.Email, value)
		case "domain":
			return c.EmailVerified && domain != "" && strings.EqualFold(domain, value)
		case "group":
			return slices.Contains(c.Groups, value)
		case "subject":
			return c.subject != "" && c.subject == value
		}
		return false
	})
}

// name is what timelines call a person: never an address.
func (c claims) name() string {
	for _, name := range []string{c.Name, c.PreferredUsername} {
		if name = strings.TrimSpace(name); name != "" && len(name) <= 100 && register.Printable(name) && !strings.Contains(name, "@") {
			return name
		}
	}
	return "operator " + addressHash(c.subject)[:8]
}
