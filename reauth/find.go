package reauth

import "errors"

// FindConnectionWorkflowType is the type of the workflow that asks a provider which
// connection a customer has.
const FindConnectionWorkflowType = "FindConnectionWorkflow"

const findWorkflowIDPrefix = "find-"

// FindConnectionWorkflowID is the ID of the workflow that asks about a customer of
// an application. It holds a hash, never the customer's ID.
func FindConnectionWorkflowID(application, customerID string) string {
	return findWorkflowIDPrefix + shortHash(application+"\x00"+customerID)
}

// FindConnection starts a FindConnectionWorkflow. Asking has a side effect: for a
// customer who never connected it opens a session in which they could, which lives
// a minute and is shown to nobody.
type FindConnection struct {
	// Application is whose customer it is; the default one if empty.
	Application string `json:"application,omitempty"`
	// CustomerID and CustomerName are as they were given to the provider when the
	// customer connected; the name may be empty.
	CustomerID   string `json:"customer_id"`
	CustomerName string `json:"customer_name,omitempty"`
	// Products are what such a session would ask for; some are needed, and the
	// provider's least is asked for where there are none.
	Products []string `json:"products,omitempty"`
}

// Check says what is wrong with the question, if anything.
func (m FindConnection) Check() error {
	if m.CustomerID == "" {
		return errors.New("customer_id is missing; give the customer's ID as the provider was given it")
	}
	if len(m.CustomerID) > 255 || len(m.CustomerName) > 255 {
		return errors.New("customer_id and customer_name may have 255 bytes at most")
	}
	return nil
}

// FoundConnection is what a FindConnectionWorkflow returns. ConnectionID is empty
// where the customer has no connection.
type FoundConnection struct {
	ConnectionID string `json:"connection_id,omitempty"`
}

// Types of the errors with which a FindConnectionWorkflow fails.
const (
	// ErrTypeApplicationUnknown: no client credentials are configured for the
	// application.
	ErrTypeApplicationUnknown = "application_unknown"
	// ErrTypeProviderRefused: the provider refuses to say.
	ErrTypeProviderRefused = "provider_refused"
)
