package starter

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
)

// TokenTransport is an http.RoundTripper that makes each call with the current
// token of its connection: the one that Connection tells, or the request's
// context (see WithConnection). A call that names no connection, or goes to
// another host than the provider's, is left as it is.
//
// When the provider answers 401, the source learns that the token failed. Where
// a newer one is stored by then, a GET or HEAD without a body is made once more,
// with that; every other call gets its 401, since making it again is the
// caller's to decide, and the next call has the new token.
//
// To notice stale connections as well, let Base be a Transport.
type TokenTransport struct {
	// Base makes the calls; http.DefaultTransport by default.
	Base http.RoundTripper
	// Tokens gives the tokens. It is required.
	Tokens *TokenSource
	// Connection tells the connection_id of a call. Optional.
	Connection func(*http.Request) string
	// ProviderURL is the scheme and host that tokens are sent to, and none else,
	// whatever a redirect says; "https://api.tryfinch.com" by default.
	ProviderURL string
}

// RoundTrip makes the call with the connection's token. Without one the error
// wraps ErrNoToken, and no call is made.
func (t *TokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	id := connectionOf(req, t.Connection)
	if id == "" || !t.provider(req.URL) {
		return t.base().RoundTrip(req)
	}
	token, err := t.Tokens.Token(req.Context(), id)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as a RoundTripper must
		}
		return nil, err
	}
	resp, err := t.with(req, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	t.Tokens.Stale(id, token.Fingerprint)
	if !repeatable(req) {
		return resp, nil
	}
	next, err := t.Tokens.Token(req.Context(), id)
	if err != nil || next.Generation <= token.Generation {
		return resp, nil
	}
	_ = resp.Body.Close() // nobody reads it
	return t.with(req, next)
}

// with makes the call with a token, and leaves the request as it is.
func (t *TokenTransport) with(req *http.Request, token Token) (*http.Response, error) {
	authorized := req.Clone(req.Context())
	authorized.Header.Set("Authorization", "Bearer "+token.AccessToken)
	resp, err := t.base().RoundTrip(authorized)
	if resp != nil {
		resp.Request = req // so that whoever prints it finds no token
	}
	return resp, err
}

// repeatable reports whether a call may be made twice: it changes nothing, and
// nothing of it is used up.
func repeatable(req *http.Request) bool {
	return (req.Method == "" || req.Method == http.MethodGet || req.Method == http.MethodHead) && (req.Body == nil || req.Body == http.NoBody)
}

func (t *TokenTransport) provider(u *url.URL) bool {
	provider, err := url.Parse(cmp.Or(t.ProviderURL, "https://api.tryfinch.com"))
	return err == nil && u.Scheme == provider.Scheme && strings.EqualFold(u.Host, provider.Host)
}

func (t *TokenTransport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// CloseIdleConnections closes those of Base.
func (t *TokenTransport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}
