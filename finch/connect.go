package finch

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/finch-reauth/reauth/reauth"
)

// Session is a Connect session. Finch does not say when it ends: that is
// minutes_to_expire after it was opened.
type Session struct {
	ID         string
	ConnectURL string
}

// NewSession asks for a session in which a customer connects for the first
// time. CustomerID, CustomerName and Products are needed.
type NewSession struct {
	CustomerID      string       `json:"customer_id"`
	CustomerName    string       `json:"customer_name"`
	CustomerEmail   string       `json:"customer_email,omitempty"`
	Products        []string     `json:"products"`
	RedirectURI     string       `json:"redirect_uri,omitempty"`
	MinutesToExpire int          `json:"minutes_to_expire,omitempty"` // Finch's default: 129,600
	Sandbox         string       `json:"sandbox,omitempty"`           // "finch" or "provider"
	Manual          *bool        `json:"manual,omitempty"`
	Integration     *Integration `json:"integration,omitempty"`
}

// Integration leads the customer straight to one provider.
type Integration struct {
	Provider   string `json:"provider"`
	AuthMethod string `json:"auth_method,omitempty"`
}

// CreateSession opens a session for a new connection. A customer who is
// connected already is refused with connection_already_exists; the Error then
// has the ConnectionID.
func (c *Client) CreateSession(ctx context.Context, s NewSession) (Session, error) {
	return c.session(ctx, "/connect/sessions", s, s.CustomerEmail)
}

// ReauthenticateParams asks for a session in which a customer logs in again.
// Only ConnectionID is needed.
type ReauthenticateParams struct {
	ConnectionID string
	// RedirectURI must be one that is registered with Finch; empty for the
	// embedded flow.
	RedirectURI string
	// MinutesToExpire is always sent, since Finch's default has changed before:
	// reauth.DefaultSessionMinutes if 0.
	MinutesToExpire int
	// Products to ask for; those of the connection if empty.
	Products []string
}

// Reauthenticate opens a session for an existing connection.
func (c *Client) Reauthenticate(ctx context.Context, p ReauthenticateParams) (Session, error) {
	minutes := p.MinutesToExpire
	if minutes == 0 {
		minutes = reauth.DefaultSessionMinutes
	}
	return c.session(ctx, "/connect/sessions/reauthenticate", struct {
		ConnectionID    string   `json:"connection_id"`
		RedirectURI     string   `json:"redirect_uri,omitempty"`
		MinutesToExpire int      `json:"minutes_to_expire"`
		Products        []string `json:"products,omitempty"`
	}{p.ConnectionID, p.RedirectURI, minutes, p.Products}, "")
}

func (c *Client) session(ctx context.Context, path string, body any, private string) (Session, error) {
	var wire struct {
		SessionID  string `json:"session_id"`
		ConnectURL string `json:"connect_url"`
	}
	q := call{method: http.MethodPost, path: path, auth: basicAuth, private: private, body: body}
	if _, err := c.do(ctx, q, &wire); err != nil {
		return Session{}, err
	}
	if wire.SessionID == "" || wire.ConnectURL == "" {
		return Session{}, c.unanswered(q, errors.New("the answer has no session_id or no connect_url"), true)
	}
	return Session{ID: wire.SessionID, ConnectURL: wire.ConnectURL}, nil
}

// Token is what an authorization code is exchanged for.
type Token struct {
	// AccessToken is a secret. It is left out of JSON, and Token never prints it.
	AccessToken string `json:"-"`
	// ConnectionID is empty if Finch did not name it; introspection does.
	ConnectionID   string   `json:"connection_id"`
	CustomerID     string   `json:"customer_id,omitempty"`
	ProviderID     string   `json:"provider_id,omitempty"`
	ClientType     string   `json:"client_type,omitempty"`
	ConnectionType string   `json:"connection_type,omitempty"`
	EntityIDs      []string `json:"entity_ids,omitempty"`
	Products       []string `json:"products,omitempty"`
}

// String names the connection and the token's fingerprint.
func (t Token) String() string {
	return fmt.Sprintf("token %s of connection %s", reauth.Fingerprint(t.AccessToken), t.ConnectionID)
}

// GoString is String.
func (t Token) GoString() string { return t.String() }

// Format keeps the token out of anything that prints it, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// Exchange redeems an authorization code, which works once. redirectURI is the
// one that the session was opened with; it must be empty for the embedded flow.
// A Token is returned whenever Finch's answer held one.
//
// After an error that matches ErrNoAnswer the code may have been consumed.
func (c *Client) Exchange(ctx context.Context, code, redirectURI string) (Token, error) {
	var wire struct {
		AccessToken    string   `json:"access_token"`
		ConnectionID   string   `json:"connection_id"`
		CustomerID     string   `json:"customer_id"`
		ProviderID     string   `json:"provider_id"`
		ClientType     string   `json:"client_type"`
		ConnectionType string   `json:"connection_type"`
		EntityIDs      []string `json:"entity_ids"`
		Products       []string `json:"products"`
	}
	q := call{method: http.MethodPost, path: "/auth/token", auth: bodyAuth, private: code, body: struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		Code         string `json:"code"`
		RedirectURI  string `json:"redirect_uri,omitempty"`
	}{c.clientID, c.clientSecret, code, redirectURI}}
	if _, err := c.do(ctx, q, &wire); err != nil {
		return Token{}, err
	}
	if wire.AccessToken == "" {
		return Token{}, c.unanswered(q, errors.New("the answer has no access_token"), true)
	}
	return Token(wire), nil
}
