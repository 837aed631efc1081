package finch

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/finch-reauth/reauth/reauth"
)

// SandboxConnection asks for a connection in Finch's sandbox. Only ProviderID
// is needed.
type SandboxConnection struct {
	ProviderID         string   `json:"provider_id"`
	AuthenticationType string   `json:"authentication_type,omitempty"` // credential, api_token, oauth or assisted
	EmployeeSize       int      `json:"employee_size,omitempty"`       // Finch's default: 20
	Products           []string `json:"products,omitempty"`
}

// SandboxToken is a new sandbox connection and its token.
type SandboxToken struct {
	// AccessToken is a secret. It is left out of JSON, and SandboxToken never
	// prints it.
	AccessToken        string   `json:"-"`
	ConnectionID       string   `json:"connection_id"`
	EntityID           string   `json:"entity_id"`
	AccountID          string   `json:"account_id"`
	CompanyID          string   `json:"company_id"`
	ProviderID         string   `json:"provider_id"`
	AuthenticationType string   `json:"authentication_type"`
	Products           []string `json:"products"`
}

// Format keeps the token out of anything that prints it.
func (t SandboxToken) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "token %s of sandbox connection %s", reauth.Fingerprint(t.AccessToken), t.ConnectionID)
}

// CreateSandboxConnection makes a connection in the sandbox.
func (c *Client) CreateSandboxConnection(ctx context.Context, s SandboxConnection) (SandboxToken, error) {
	var wire struct {
		SandboxToken
		AccessToken string `json:"access_token"`
	}
	q := call{method: http.MethodPost, path: "/sandbox/connections", auth: basicAuth, body: s}
	if _, err := c.do(ctx, q, &wire); err != nil {
		return SandboxToken{}, err
	}
	if wire.AccessToken == "" {
		return SandboxToken{}, c.unanswered(q, errors.New("the answer has no access_token"), true)
	}
	t := wire.SandboxToken
	t.AccessToken = wire.AccessToken
	return t, nil
}

// UpdateSandboxAccount sets the status of the sandbox connection that the token
// belongs to: StatusReauth makes it stale, StatusConnected brings it back.
func (c *Client) UpdateSandboxAccount(ctx context.Context, accessToken, status string) error {
	_, err := c.do(ctx, call{method: http.MethodPut, path: "/sandbox/connections/accounts", auth: bearerAuth, token: accessToken, body: struct {
		ConnectionStatus string `json:"connection_status"`
	}{status}}, nil)
	return err
}
