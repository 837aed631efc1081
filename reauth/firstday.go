package reauth

import "time"

// MailMode says whether mail goes out.
type MailMode string

// The modes of mail.
const (
	// MailOn: everybody hears what the campaigns say.
	MailOn MailMode = "on"
	// MailShadow: every case runs, and nobody is written to. The ledger says who
	// would have heard what.
	MailShadow MailMode = "shadow"
	// MailStopped: no notice to a customer begins, and every step waits.
	MailStopped MailMode = "stopped"
)

// MailModes lists every mode.
func MailModes() []MailMode { return []MailMode{MailOn, MailShadow, MailStopped} }

const (
	MailWorkflowType = "MailWorkflow"
	BulkWorkflowType = "BulkWorkflow"

	mailWorkflowIDPrefix = "mail-"
	bulkWorkflowIDPrefix = "bulk-"
	// MaxRamp bounds how many new customers may hear in an hour.
	MaxRamp = 100_000
)

// MailInput starts a MailWorkflow.
type MailInput struct {
	Version  int64  `json:"version"`
	ChangeID string `json:"change_id"`
}

// MailStatus is the answer to QueryStatus of a MailWorkflow, and its result: a
// change of whether mail goes out, and what became of the cases that waited. It
// holds no secret and is never encrypted.
type MailStatus struct {
	Version  int64    `json:"version"`
	ChangeID string   `json:"change_id"`
	Mode     MailMode `json:"mode"`
	Was      MailMode `json:"was"`
	// RampPerHour is how many new customers may hear in an hour; 0 is all.
	RampPerHour int       `json:"ramp_per_hour"`
	WasPerHour  int       `json:"was_per_hour"`
	By          string    `json:"by"`
	Reason      string    `json:"reason,omitempty"`
	At          time.Time `json:"at"`
	// Woken counts the cases that waited and may go on, the last at Until.
	Woken int       `json:"woken"`
	Until time.Time `json:"until,omitzero"`
	// Fixed counts the closed cases whose fixed notes were sent late.
	Fixed int `json:"fixed,omitempty"`
	// Superseded: a later change has taken over.
	Superseded bool `json:"superseded,omitempty"`
	// OperatorTold says what became of the mail to the operator; empty while none
	// has gone out.
	OperatorTold string `json:"operator_told,omitempty"`
}

// BulkAction is what is asked of many cases at once.
type BulkAction string

// The actions.
const (
	BulkCancel  BulkAction = "cancel"
	BulkSnooze  BulkAction = "snooze"
	BulkStop    BulkAction = "stop"
	BulkRelease BulkAction = "release"
)

// BulkInput starts a BulkWorkflow.
type BulkInput struct {
	BulkID string `json:"bulk_id"`
}

// BulkStatus is the answer to QueryStatus of a BulkWorkflow, and its result. It
// holds no secret and is never encrypted.
type BulkStatus struct {
	BulkID  string     `json:"bulk_id"`
	Action  BulkAction `json:"action"`
	By      string     `json:"by"`
	Reason  string     `json:"reason"`
	Matched int        `json:"matched"`
	// Told counts the cases that were told, Gone those that had ended before.
	Told int `json:"told"`
	Gone int `json:"gone"`
	// EndedHow says in words how it ended; empty while it runs.
	EndedHow string `json:"ended_how"`
}

func (MailStatus) publicPayload() {}
func (BulkStatus) publicPayload() {}

// BulkWorkflowID is the ID of the workflow that tells many cases.
func BulkWorkflowID(bulkID string) string { return bulkWorkflowIDPrefix + bulkID }

// MailWorkflowID is the ID of the workflow that tells the waiting cases of a
// change of whether mail goes out.
func MailWorkflowID(changeID string) string { return mailWorkflowIDPrefix + changeID }
