package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// Provider is what a case needs of Finch, or of another API whose connections
// go stale. Not every provider has codes: one whose consents come back by
// themselves (Atto) reports that through Inspect and answers Exchange with
// TroubleRequest.
type Provider interface {
	// Inspect asks how a connection does. A refusal of the token is an error
	// with TroubleReauth, TroubleSetup, TroubleToken or TroubleUnauthorized.
	Inspect(ctx context.Context, access Access) (Inspection, error)
	// Probe makes a cheap call for data, which works only if access does.
	Probe(ctx context.Context, access Access) error
	// OpenSession opens a Connect session for a connection.
	OpenSession(ctx context.Context, request SessionRequest) (OpenSession, error)
	// Exchange turns an authorization code into a token. An empty redirectURI
	// is not sent, as the embedded flow needs it.
	Exchange(ctx context.Context, code secrets.Secret, redirectURI string) (Grant, error)
	// FindConnection tells which connection a customer has; empty if none. It may
	// have to open a session to find out, so it is only asked on explicit request.
	FindConnection(ctx context.Context, customer CustomerRequest) (connectionID string, err error)
}

// Access is what a provider is asked with. Providers whose tokens are not per
// connection use the ID alone.
type Access struct {
	ConnectionID string
	Token        secrets.Secret
}

// Condition is how a connection does, in the provider's eyes.
type Condition string

// The conditions.
const (
	ConditionConnected Condition = "connected"
	ConditionStale     Condition = "stale"
	// ConditionPending: the provider is still at it; ask again later.
	ConditionPending Condition = "pending"
	// ConditionSetup: the customer must mend something that no login mends.
	ConditionSetup Condition = "setup"
	// ConditionGone: the connection was deleted at the provider.
	ConditionGone    Condition = "gone"
	ConditionUnknown Condition = "unknown"
)

// Inspection is the provider's answer to Inspect.
type Inspection struct {
	ConnectionID string
	Condition    Condition
	// Status is the provider's own word for the condition.
	Status string
	// Entities are the connection's companies, where the provider tells them
	// apart; only ID, name and status are set.
	Entities reauth.Entities
	// CustomerID, CustomerName and System are what the provider knows of the
	// connection; any may be empty.
	CustomerID, CustomerName, System string
}

// SessionRequest asks for a Connect session.
type SessionRequest struct {
	ConnectionID string
	RedirectURI  string
	Minutes      int
	Products     []string
}

// OpenSession is a Connect session that was opened.
type OpenSession struct {
	ID, ConnectURL string
}

// Grant is a token that the provider minted.
type Grant struct {
	ConnectionID string
	Token        secrets.Secret
}

// Trouble sorts the provider's errors by what can be done about them.
type Trouble string

// The troubles.
const (
	TroubleReauth       Trouble = "reauthenticate_user"
	TroubleSetup        Trouble = "setup"
	TroubleToken        Trouble = "invalid_token"
	TroubleUnauthorized Trouble = "unauthorized"
	TroubleGrant        Trouble = "invalid_grant"
	TroubleClient       Trouble = "invalid_client"
	TroubleNotFound     Trouble = "connection_not_found"
	TroubleRequest      Trouble = "invalid_request"
	// TroubleLimit: too many calls; this one was not carried out.
	TroubleLimit Trouble = "rate_limited"
	// TroubleNotSent: the provider could not be reached, so the call was not
	// carried out.
	TroubleNotSent Trouble = "unreachable"
	// TroubleDown: the provider answered that it cannot.
	TroubleDown Trouble = "unavailable"
	// TroubleNoAnswer: no answer came; the call may have been carried out.
	TroubleNoAnswer Trouble = "no_answer"
)

// ProviderError is an error of a Provider.
type ProviderError struct {
	Trouble Trouble
	// Code is the provider's own word, for people to read.
	Code string
	// RequestID is the provider's name for the call, for its support.
	RequestID string
	// RetryAfter is how long the provider asks to wait; 0 means it did not say.
	RetryAfter time.Duration
	// WaitsUntil is when a call is likely to be made for which the provider's
	// limit leaves no room; zero where nothing is known.
	WaitsUntil time.Time
}

func (e *ProviderError) Error() string {
	text := string(e.Trouble)
	if !e.WaitsUntil.IsZero() {
		return "the provider's limit: waits until " + e.WaitsUntil.UTC().Format("15:04:05 MST")
	}
	if e.Code != "" && e.Code != text {
		text += " (" + e.Code + ")"
	}
	if e.RequestID != "" {
		text += fmt.Sprintf(" [request %s]", e.RequestID)
	}
	return text
}

// troubleOf sorts an error; one that is not the provider's counts as no answer.
func troubleOf(err error) *ProviderError {
	var e *ProviderError
	if errors.As(err, &e) {
		return e
	}
	return &ProviderError{Trouble: TroubleNoAnswer}
}
