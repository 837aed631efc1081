// Package reauth holds the words of the project as Go types, and the contract
// that other programs build on: the names, identifiers and messages by which a
// backend of any language starts, signals and queries a case. It imports
// nothing else of the project, so that a backend can import it lightly.
package reauth

import "time"

// Provider names whose API a connection belongs to.
type Provider string

// Finch is the provider a connection has when nothing else is said.
const Finch Provider = "finch"

// DefaultApplication names the client credentials a connection belongs to when
// nothing else is said.
const DefaultApplication = "default"

// Phase says what an open case is doing, or that it is closed.
type Phase string

// The phases of a case.
const (
	PhaseConfirming       Phase = "confirming"
	PhaseAwaitingCustomer Phase = "awaiting_customer"
	PhaseRedeeming        Phase = "redeeming"
	PhaseVerifying        Phase = "verifying"
	// PhaseBlocked means that only an operator can help, because the provider
	// refuses our own client credentials, say. A blocked case keeps retrying.
	PhaseBlocked Phase = "blocked"
	// PhaseClosed is what a case that has an outcome shows.
	PhaseClosed Phase = "closed"
)

// Phases lists every phase.
func Phases() []Phase {
	return []Phase{PhaseConfirming, PhaseAwaitingCustomer, PhaseRedeeming, PhaseVerifying, PhaseBlocked, PhaseClosed}
}

// Outcome says how a case ended.
type Outcome string

// The outcomes of a case.
const (
	OutcomeRecovered  Outcome = "recovered"   // the customer came through
	OutcomeHealed     Outcome = "healed"      // access returned some other way
	OutcomeFalseAlarm Outcome = "false_alarm" // the connection was never lost
	OutcomeExpired    Outcome = "expired"     // the last session ended unanswered
	OutcomeCancelled  Outcome = "cancelled"   // somebody called it off
	OutcomeFailed     Outcome = "failed"      // it can never succeed
)

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	return []Outcome{OutcomeRecovered, OutcomeHealed, OutcomeFalseAlarm, OutcomeExpired, OutcomeCancelled, OutcomeFailed}
}

// Restored reports whether the connection works again after this outcome.
func (o Outcome) Restored() bool { return o == OutcomeRecovered || o == OutcomeHealed }

// Source says whose evidence a report is.
type Source string

// The sources of a report.
const (
	SourceAPIError      Source = "api_error"
	SourceWebhook       Source = "webhook"
	SourceSweep         Source = "sweep"
	SourceManual        Source = "manual"
	SourceConsentExpiry Source = "consent_expiry"
	SourceLink          Source = "link"
)

// Sources lists every source.
func Sources() []Source {
	return []Source{SourceAPIError, SourceWebhook, SourceSweep, SourceManual, SourceConsentExpiry, SourceLink}
}

// Machine reports whether a program, not a person, made the report. Such
// reports are suppressed for a while after a case was expired, cancelled or
// failed.
func (s Source) Machine() bool {
	return s == SourceAPIError || s == SourceWebhook || s == SourceSweep
}

// ConnectionStatus is what we believe of a connection.
type ConnectionStatus string

// The statuses of a connection.
const (
	StatusConnected    ConnectionStatus = "connected"
	StatusStale        ConnectionStatus = "stale"
	StatusDisconnected ConnectionStatus = "disconnected" // deleted at the provider
	StatusRemoved      ConnectionStatus = "removed"      // deleted with us
)

// ConnectionStatuses lists every status.
func ConnectionStatuses() []ConnectionStatus {
	return []ConnectionStatus{StatusConnected, StatusStale, StatusDisconnected, StatusRemoved}
}

// Contact is a person who can reconnect, or who knows whom to ask. The roles
// "alternate" and "account_manager" decide when they are written to; every
// other role is a primary contact's.
type Contact struct {
	// ContactID names the contact where no address may stand: in the send ledger
	// and in timelines. It is only ever read.
	ContactID string `json:"contact_id,omitempty"`
	Email     string `json:"email"`
	Name      string `json:"name,omitempty"`
	Role      string `json:"role,omitempty"`
	Locale    string `json:"locale,omitempty"`
	TimeZone  string `json:"time_zone,omitempty"`
	// Unreachable says why the contact is not written to: bounce, complaint,
	// opt_out or not_me. It is only ever read.
	Unreachable string `json:"unreachable,omitempty"`
}

// Connection is a customer's access to one employment system, keyed by the
// provider's stable connection_id.
type Connection struct {
	ConnectionID string   `json:"connection_id"`
	Provider     Provider `json:"provider"`
	Application  string   `json:"application"`
	CustomerID   string   `json:"customer_id,omitempty"`
	CustomerName string   `json:"customer_name,omitempty"`
	// Campaign names the campaign of the connection's cases; empty leaves the
	// choice to the campaigns' own rules.
	Campaign string `json:"campaign,omitempty"`
	// System is the employment system behind the provider, as people know it:
	// "Gusto".
	System   string    `json:"system,omitempty"`
	Contacts []Contact `json:"contacts"`
	Products []string  `json:"products,omitempty"`
	// Entities are the connection's companies, where it has several, as the
	// provider named them last. They are only ever read.
	Entities Entities         `json:"entities,omitempty"`
	Status   ConnectionStatus `json:"status"`
	// Generation counts the adopted tokens; 0 means that none is stored.
	Generation int64     `json:"generation"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	// DisconnectedAt is when a removed connection was disconnected at its provider
	// as well. It is only ever read.
	DisconnectedAt *time.Time `json:"disconnected_at,omitempty"`
}
