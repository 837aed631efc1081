package finch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Statuses of a connection or an entity. The set is open: what Finch adds is
// passed through.
const (
	StatusPending             = "pending"
	StatusProcessing          = "processing"
	StatusConnected           = "connected"
	StatusErrorNoAccountSetup = "error_no_account_setup"
	StatusErrorPermissions    = "error_permissions"
	StatusReauth              = "reauth"
	StatusDisconnected        = "disconnected"
)

// Introspection is what Finch says of a token and its connection. Anything
// that Finch leaves out or sets to null is the zero value.
type Introspection struct {
	ID             string `json:"id"` // of the token
	ClientID       string `json:"client_id"`
	ClientType     string `json:"client_type"`
	ConnectionID   string `json:"connection_id"`
	ConnectionType string `json:"connection_type"`
	ProviderID     string `json:"provider_id"`
	AccountID      string `json:"account_id"`
	CompanyID      string `json:"company_id"`
	CustomerID     string `json:"customer_id"`
	CustomerName   string `json:"customer_name"`
	// CustomerEmail and Username are somebody's address: they are left out when
	// an Introspection is written as JSON, and never printed.
	CustomerEmail string `json:"-"`
	Username      string `json:"-"`

	Connection            ConnectionStatus       `json:"connection_status"`
	Products              []string               `json:"products"`
	AuthenticationMethods []AuthenticationMethod `json:"authentication_methods"`
	Entities              []Entity               `json:"entities"`
	Manual                bool                   `json:"manual"`
	PayrollProviderID     string                 `json:"payroll_provider_id"`
}

// ConnectionStatus is the state of a connection.
type ConnectionStatus struct {
	Status             string    `json:"status"`
	Message            string    `json:"message,omitempty"`
	LastSuccessfulSync Timestamp `json:"last_successful_sync,omitzero"`
}

// AuthenticationMethod is one way in which a connection reaches its provider.
type AuthenticationMethod struct {
	Type       string           `json:"type"`
	Connection ConnectionStatus `json:"connection_status"`
	Products   []string         `json:"products"`
}

// Entity is one company of a connection that has several.
type Entity struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	SourceID string `json:"source_id"`
	Status   string `json:"status"`
}

// Timestamp is a time that may be missing or unreadable; then it is zero.
type Timestamp struct{ time.Time }

// UnmarshalText reads RFC 3339 and never fails.
func (t *Timestamp) UnmarshalText(text []byte) error {
	parsed, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		parsed = time.Time{}
	}
	t.Time = parsed.UTC()
	return nil
}

// UnmarshalJSON reads a JSON string as UnmarshalText does, and anything else
// as no time.
func (t *Timestamp) UnmarshalJSON(text []byte) error {
	var s string
	_ = decode(text, &s)
	return t.UnmarshalText([]byte(s))
}

// Status is the connection's state. Where Finch answers in its older form,
// without one, it is what the authentication methods say: connected if any is,
// else the first state that is given.
func (i Introspection) Status() string {
	if i.Connection.Status != "" {
		return i.Connection.Status
	}
	var first string
	for _, m := range i.AuthenticationMethods {
		if m.Connection.Status == StatusConnected {
			return StatusConnected
		}
		if first == "" {
			first = m.Connection.Status
		}
	}
	return first
}

// NeedsReauth reports whether the connection or any of its entities waits for
// the customer to log in again.
func (i Introspection) NeedsReauth() bool {
	return i.Status() == StatusReauth || len(i.StaleEntities()) > 0
}

// StaleEntities lists the entities for which the customer must log in again.
func (i Introspection) StaleEntities() []Entity {
	var stale []Entity
	for _, e := range i.Entities {
		if e.Status == StatusReauth {
			stale = append(stale, e)
		}
	}
	return stale
}

// Format prints the connection and its state, and no person.
func (i Introspection) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "connection %s: %s", i.ConnectionID, i.Status())
}

// Introspect asks about a token and its connection. For a stale connection
// Finch may answer with the status or with an Error that IsReauth.
func (c *Client) Introspect(ctx context.Context, accessToken string) (Introspection, error) {
	var wire struct {
		Introspection
		CustomerEmail string `json:"customer_email"`
		Username      string `json:"username"`
	}
	q := call{method: http.MethodGet, path: "/introspect", auth: bearerAuth, token: accessToken}
	if _, err := c.do(ctx, q, &wire); err != nil {
		return Introspection{}, err
	}
	if wire.ConnectionID == "" {
		return Introspection{}, c.unanswered(q, errors.New("the answer has no connection_id"), true)
	}
	i := wire.Introspection
	i.CustomerEmail, i.Username = wire.CustomerEmail, wire.Username
	return i, nil
}

// Company makes a cheap data call, GET /employer/company, to see whether the
// connection serves data. Nil means that it does. The error matches ErrPending
// if Finch does not have the data yet. An Error with status 403 and the name
// insufficient_scope_error says that the token works, but not for this call.
func (c *Client) Company(ctx context.Context, accessToken string) error {
	q := call{method: http.MethodGet, path: "/employer/company", auth: bearerAuth, token: accessToken}
	status, err := c.do(ctx, q, nil)
	if err == nil && status == http.StatusAccepted {
		return fmt.Errorf("finch: %s: %w", q, ErrPending)
	}
	return err
}

// Disconnect ends the connection and every token of it, for good: a customer
// who connects again is a new, billed connection.
func (c *Client) Disconnect(ctx context.Context, accessToken string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/disconnect", auth: bearerAuth, token: accessToken}, nil)
	return err
}
