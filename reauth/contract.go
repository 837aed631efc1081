package reauth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The Temporal contract: any language's client can start, signal and query a
// case with these names and the JSON forms of the types below.
const (
	TaskQueue          = "reauth"
	WorkflowType       = "ReauthWorkflow"
	RedeemWorkflowType = "RedeemWorkflow"

	SignalCodeReceived       = "code-received"
	SignalTokenMinted        = "token-minted"
	SignalConnectionRestored = "connection-restored"
	SignalCancel             = "cancel"
	SignalSnooze             = "snooze"
	SignalRemindNow          = "remind-now"
	// SignalStopNotices ends the notices of a case, which stays open: its
	// deadline stands, and a code is still taken.
	SignalStopNotices = "stop-notices"
	// SignalContactsChanged says that other people can be written to than
	// before: somebody who has not heard of the case yet may hear now.
	SignalContactsChanged = "contacts-changed"
	// SignalNoticesReleased ends what holds a case's notices.
	SignalNoticesReleased = "notices-released"

	StormWorkflowType = "StormWorkflow"
	// SignalReleaseStorm lets the held notices of a storm go.
	SignalReleaseStorm = "release"

	QueryStatus = "status"

	SearchAttributeConnectionID = "ReauthConnectionId"
	SearchAttributeProvider     = "ReauthProvider"
	SearchAttributePhase        = "ReauthPhase"
)

// Types of the errors with which a workflow fails, and reasons that a result
// or a timeline gives.
const (
	// ErrTypeWorkflowIDMismatch: the workflow was started under an ID other
	// than WorkflowID(connection_id).
	ErrTypeWorkflowIDMismatch = "workflow_id_mismatch"
	// ErrTypeInvalidInput: the workflow's input is malformed.
	ErrTypeInvalidInput = "invalid_input"
	// ReasonConnectionUnknown: nobody registered the connection.
	ReasonConnectionUnknown = "connection_unknown"
	// ReasonConnectionRemoved: the connection was removed with us.
	ReasonConnectionRemoved = "connection_removed"
	// ReasonConnectionNotFound: the connection was deleted at the provider.
	ReasonConnectionNotFound = "connection_not_found"
)

const (
	workflowIDPrefix       = "reauth-"
	redeemWorkflowIDPrefix = "redeem-"
	stormWorkflowIDPrefix  = "storm-"

	// MinSessionMinutes and MaxSessionMinutes bound minutes_to_expire. Finch
	// states this range for POST /connect/sessions and none for
	// /connect/sessions/reauthenticate.
	MinSessionMinutes = 1
	MaxSessionMinutes = 129_600
	// DefaultSessionMinutes is Finch's own default for a reauthentication: 30 days.
	DefaultSessionMinutes = 43_200
	// MaxRenewals bounds how often a case may renew its session.
	MaxRenewals = 24
	// CodeLifetime is how long Finch keeps an authorization code.
	CodeLifetime = 10 * time.Minute
	// ClickGrace is how long after a click nothing heals a case: the customer's
	// own success makes the provider say "connected" before the code is back.
	ClickGrace = 30 * time.Minute
)

// WorkflowID is the ID of the one workflow that may handle a connection.
func WorkflowID(connectionID string) string { return workflowIDPrefix + connectionID }

// RedeemWorkflowID is the ID of the workflow that redeems a code whose
// connection is not known. It holds a hash, never the code.
func RedeemWorkflowID(code string) string { return redeemWorkflowIDPrefix + CodeHash(code) }

// StormWorkflowID is the ID of the workflow that watches a storm.
func StormWorkflowID(stormID string) string { return stormWorkflowIDPrefix + stormID }

// CodeHash identifies an authorization code without revealing it: SHA-256, the
// first 16 bytes, in hex.
func CodeHash(code string) string { return shortHash(code) }

// Fingerprint identifies a token without revealing it: SHA-256, the first 16
// bytes, in hex.
func Fingerprint(token string) string { return shortHash(token) }

// IsHash reports whether a text has the form of CodeHash and Fingerprint.
func IsHash(text string) bool { return fingerprintPattern.MatchString(text) }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

var (
	connectionIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)
	campaignNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	fingerprintPattern  = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// CheckConnectionID says what is wrong with a connection ID, if anything.
func CheckConnectionID(id string) error {
	if id == "" {
		return errors.New("connection_id is missing; give the provider's connection_id, as in \"6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1\"")
	}
	if !connectionIDPattern.MatchString(id) {
		return errors.New("connection_id must be 1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit")
	}
	return nil
}

// Input starts a ReauthWorkflow. Only ConnectionID is needed.
type Input struct {
	ConnectionID string   `json:"connection_id"`
	Provider     Provider `json:"provider,omitempty"`
	Source       Source   `json:"source,omitempty"`
	// FinchCode is the provider's error code, as "reauthenticate_user".
	FinchCode string `json:"finch_code,omitempty"`
	Reason    string `json:"reason,omitempty"`
	// TokenFingerprint is the Fingerprint of the token that failed.
	TokenFingerprint string   `json:"token_fingerprint,omitempty"`
	MinutesToExpire  int      `json:"minutes_to_expire,omitempty"`
	Renewals         *int     `json:"renewals,omitempty"`
	RedirectURI      string   `json:"redirect_uri,omitempty"`
	Products         []string `json:"products,omitempty"`
	// Reminders are durations after the case's opening ("0s", "48h", "9d"), or
	// before its deadline where negative ("-24h"). They are kept to the minute,
	// whatever the hour.
	Reminders []string `json:"reminders,omitempty"`
	// Campaign names the campaign that the case follows; Reminders go first.
	Campaign string `json:"campaign,omitempty"`
}

// Check says what is wrong with the input, if anything, and what would be
// right. It never repeats a value that could be a secret.
func (in Input) Check() error {
	if err := CheckConnectionID(in.ConnectionID); err != nil {
		return err
	}
	if in.Source != "" && !slices.Contains(Sources(), in.Source) {
		return fmt.Errorf("source must be one of %s", join(Sources()))
	}
	if in.TokenFingerprint != "" && !fingerprintPattern.MatchString(in.TokenFingerprint) {
		return errors.New("token_fingerprint must be the first 16 bytes of the token's SHA-256 in lower-case hex (32 characters)")
	}
	if in.MinutesToExpire != 0 && (in.MinutesToExpire < MinSessionMinutes || in.MinutesToExpire > MaxSessionMinutes) {
		return fmt.Errorf("minutes_to_expire is %d, but must be from %d to %d", in.MinutesToExpire, MinSessionMinutes, MaxSessionMinutes)
	}
	if in.Renewals != nil && (*in.Renewals < 0 || *in.Renewals > MaxRenewals) {
		return fmt.Errorf("renewals is %d, but must be from 0 to %d", *in.Renewals, MaxRenewals)
	}
	if in.RedirectURI != "" {
		if err := CheckRedirectURI(in.RedirectURI); err != nil {
			return err
		}
	}
	if in.Campaign != "" && CheckCampaignName(in.Campaign) != nil {
		return errors.New("campaign must be the name of a campaign: 1 to 64 letters, digits, '.', '_' or '-'")
	}
	if len(in.Reason) > 1000 || len(in.FinchCode) > 100 {
		return errors.New("reason may have 1000 bytes at most, finch_code 100")
	}
	_, err := ParseReminders(in.Reminders)
	return err
}

// CheckCampaignName says what is wrong with the name of a campaign, if anything.
func CheckCampaignName(name string) error {
	if !campaignNamePattern.MatchString(name) {
		return errors.New("the name of a campaign must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit")
	}
	return nil
}

// CheckRedirectURI says what is wrong with a redirect URI, if anything.
func CheckRedirectURI(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("redirect_uri must be an absolute http or https URL, as \"https://reauth.example.com/callback\"")
	}
	return nil
}

// Reminder is one step of a campaign: After the opening of the case, or Before
// its deadline. One of the two is set; both zero means at once.
type Reminder struct {
	After, Before time.Duration
}

// ParseReminders reads durations as Input.Reminders has them.
func ParseReminders(texts []string) ([]Reminder, error) {
	if len(texts) > 50 {
		return nil, fmt.Errorf("reminders has %d entries, but may have 50 at most", len(texts))
	}
	reminders := make([]Reminder, 0, len(texts))
	for i, text := range texts {
		d, err := parseDays(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("reminders[%d] must be a duration after the opening, as \"0s\", \"48h\" or \"9d\", or before the deadline, as \"-24h\"", i)
		}
		if d < 0 {
			reminders = append(reminders, Reminder{Before: -d})
		} else {
			reminders = append(reminders, Reminder{After: d})
		}
	}
	return reminders, nil
}

func parseDays(text string) (time.Duration, error) {
	const limit = 366 * 24 * time.Hour
	days, isDays := strings.CutSuffix(text, "d")
	if !isDays {
		d, err := time.ParseDuration(text)
		if err == nil && (d > limit || d < -limit) {
			err = errors.New("longer than a year")
		}
		return d, err
	}
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || !(n <= 366 && n >= -366) {
		return 0, errors.New("not a number of days")
	}
	return time.Duration(n * float64(24*time.Hour)), nil
}

// DefaultReminders is the campaign a case follows when nothing else is said:
// at once, after 2, 5, 9 and 13 days, and a last call a day before the deadline.
func DefaultReminders() []string { return []string{"0s", "2d", "5d", "9d", "13d", "-24h"} }

// CodeReceived is the message of SignalCodeReceived. The code is a secret.
type CodeReceived struct {
	Code        string `json:"code"`
	RedirectURI string `json:"redirect_uri,omitempty"`
	// Embedded says that the code came from Connect's embedded flow, for which
	// no redirect URI may be sent with the exchange.
	Embedded bool `json:"embedded,omitempty"`
}

// Check says what is wrong with the message, if anything.
func (m CodeReceived) Check() error {
	if m.Code == "" {
		return errors.New("code is missing; give the authorization code that Connect returned")
	}
	if len(m.Code) > 2048 || strings.ContainsFunc(m.Code, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("code must be 1 to 2048 printable ASCII characters without spaces")
	}
	if m.Embedded && m.RedirectURI != "" {
		return errors.New("redirect_uri must be absent when embedded is true: Finch refuses an exchange that has it")
	}
	if m.RedirectURI != "" {
		return CheckRedirectURI(m.RedirectURI)
	}
	return nil
}

// TokenMinted is the message of SignalTokenMinted: a token, sealed under our
// own keys, that RedeemWorkflow exchanged before its connection was known.
type TokenMinted struct {
	// ConnectionID is whose the token is, as the provider said, and what it is
	// sealed for. It is empty while the provider has not said so; such a token
	// is adopted by nobody, and no signal carries it.
	ConnectionID string    `json:"connection_id"`
	CodeHash     string    `json:"code_hash"`
	Fingerprint  string    `json:"fingerprint"`
	Sealed       []byte    `json:"sealed"`
	MintedAt     time.Time `json:"minted_at"`
	// Application is whose client was given the token.
	Application string `json:"application,omitempty"`
}

// Cancel is the message of SignalCancel. By says who asked for it, in words for
// the timeline: a name, and no e-mail address.
type Cancel struct {
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"`
}

// Snooze is the message of SignalSnooze: no notice before Until.
type Snooze struct {
	Until time.Time `json:"until"`
	By    string    `json:"by,omitempty"`
	// Reason says why, for the timeline; it may be empty.
	Reason string `json:"reason,omitempty"`
}

// StopNotices is the message of SignalStopNotices.
type StopNotices struct {
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"`
}

// RemindNow is the message of SignalRemindNow, which needs none.
type RemindNow struct {
	By string `json:"by,omitempty"`
}

// ContactsChanged is the message of SignalContactsChanged: why others can be
// written to than before, in words for the timeline, without a name or address.
type ContactsChanged struct {
	Reason string `json:"reason"`
}

// NoticesReleased is the message of SignalNoticesReleased: what has held the
// case's notices lets them go from At on.
type NoticesReleased struct {
	// StormID names the storm that has held its first notice.
	StormID string    `json:"storm_id,omitempty"`
	At      time.Time `json:"at"`
	// How says in words how the storm ended: "released by key ops-anna".
	How string `json:"how,omitempty"`
	// Mail lets go what a change of whether mail goes out has held: an earlier
	// change than the one of this version.
	Mail int64 `json:"mail,omitempty"`
	// All lets go whatever holds the case's notices: a snooze, a storm, a stop of
	// its notices, the ramp. Reason says why, for the timeline.
	// By says who wanted it.
	All    bool   `json:"all,omitempty"`
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
}

// ReleaseStorm is the message of SignalReleaseStorm.
type ReleaseStorm struct {
	// By says who released it.
	By string `json:"by"`
}

// StormInput starts a StormWorkflow.
type StormInput struct {
	StormID string `json:"storm_id"`
}

// Storm is a time at which so many connections of one provider broke together
// that their first notices are held. It holds no secret and is never encrypted.
type Storm struct {
	StormID  string   `json:"storm_id"`
	Provider Provider `json:"provider"`
	// System is the employment system that broke; empty for all of the provider's.
	System string `json:"system"`
	// Broken of Connections had broken when it began.
	Broken      int `json:"broken"`
	Connections int `json:"connections"`
	// Held counts the cases whose first notice it holds or held, Waiting those
	// of them that are open, Restored those whose access came back.
	Held     int       `json:"held"`
	Waiting  int       `json:"waiting"`
	Restored int       `json:"restored"`
	BeganAt  time.Time `json:"began_at"`
	// EndsAt is when it is over at the latest.
	EndsAt time.Time `json:"ends_at"`
	// EndedHow says in words how it ended; empty while it rages.
	EndedHow string `json:"ended_how"`
}

// Of names what broke, as people know it: "Gusto", or the provider.
func (s Storm) Of() string {
	switch {
	case s.System != "":
		return s.System
	case s.Provider == Finch:
		return "Finch"
	}
	return string(s.Provider)
}

// StormStatus is the answer to QueryStatus of a StormWorkflow, and its result.
type StormStatus struct {
	Storm
	// Checks counts how often some of the connections were asked whether access
	// is back; LastCheck is what the last time brought, nil before the first.
	Checks    int         `json:"checks"`
	LastCheck *StormCheck `json:"last_check"`
	// Released counts the cases that were let go at the end.
	Released int `json:"released"`
	// OperatorTold says what became of the last mail to the operator: "sent",
	// "refused" or "unknown"; empty while none has gone out.
	OperatorTold string `json:"operator_told"`
}

// StormCheck is what one check of a storm brought: access was back at Back of
// the Asked connections.
type StormCheck struct {
	At    time.Time `json:"at"`
	Asked int       `json:"asked"`
	Back  int       `json:"back"`
}

// Status is the answer to QueryStatus. It holds no secret and is never encrypted.
type Status struct {
	CaseID           string     `json:"case_id"`
	ConnectionID     string     `json:"connection_id"`
	Phase            Phase      `json:"phase"`
	Outcome          Outcome    `json:"outcome"`
	SessionID        string     `json:"session_id"`
	SessionExpiresAt *time.Time `json:"session_expires_at"`
	NextNoticeAt     *time.Time `json:"next_notice_at"`
	NoticesSent      int        `json:"notices_sent"`
	Generation       int64      `json:"generation"`
	LastError        string     `json:"last_error"`

	DeadlineAt   *time.Time `json:"deadline_at,omitempty"`
	SnoozedUntil *time.Time `json:"snoozed_until,omitempty"`
	RenewalsLeft int        `json:"renewals_left"`

	// Campaign names the campaign that the case follows.
	Campaign string `json:"campaign,omitempty"`
	// HeldByStorm says that the first notice waits, since so many connections
	// of the provider broke together that it may be the provider's fault.
	HeldByStorm bool `json:"held_by_storm,omitempty"`
	// NoticesStopped says that nobody is written to any more.
	NoticesStopped bool `json:"notices_stopped,omitempty"`
	// Mail says how the case's last notice found things, where mail was not
	// simply on: "shadow" (nobody was written to), "stopped" (it waits until mail
	// is switched on again) or "ramp" (it waits for its turn).
	Mail string `json:"mail,omitempty"`
	// Entities counts those of a connection that has several; their names are
	// no part of it.
	Entities *EntityCount `json:"entities,omitempty"`
}

// Result is what a ReauthWorkflow returns. It holds no secret and is never
// encrypted. Outcome is empty when no case was opened, because the report was
// suppressed or came from a token that has been replaced since.
type Result struct {
	Outcome         Outcome    `json:"outcome"`
	CaseID          string     `json:"case_id"`
	ConnectionID    string     `json:"connection_id"`
	Generation      int64      `json:"generation"`
	Reason          string     `json:"reason,omitempty"`
	By              string     `json:"by,omitempty"` // who ended the case, where a person did
	Suppressed      bool       `json:"suppressed,omitempty"`
	Until           *time.Time `json:"until,omitempty"`
	TokenSuperseded bool       `json:"token_superseded,omitempty"`
	NoticesSent     int        `json:"notices_sent"`
}

// RedeemInput starts a RedeemWorkflow. The code is a secret.
type RedeemInput struct {
	Code        string `json:"code"`
	Application string `json:"application,omitempty"`
	RedirectURI string `json:"redirect_uri,omitempty"`
}

// RedeemResult is what a RedeemWorkflow returns.
type RedeemResult struct {
	ConnectionID string    `json:"connection_id,omitempty"`
	Result       CodeState `json:"result"`
}

// CodeState says what has become of an authorization code.
type CodeState string

// The states of a code.
const (
	CodeReceivedState CodeState = "received"      // taken, not yet exchanged
	CodeMinted        CodeState = "minted"        // exchanged, not yet adopted
	CodeAdopted       CodeState = "adopted"       // its token is stored, but does not work yet
	CodeRecovered     CodeState = "recovered"     // its token is stored and works
	CodeRefused       CodeState = "refused"       // the provider refused it
	CodeLost          CodeState = "lost"          // the provider's answer never reached us
	CodeWrongAccount  CodeState = "wrong_account" // its token is another connection's
	CodeUnusable      CodeState = "unusable"      // our own fault: we could not exchange it in time
	CodeQuarantined   CodeState = "quarantined"   // its token is kept aside: the connection was removed
)

// Settled reports whether nothing further will become of the code.
func (s CodeState) Settled() bool {
	return s != CodeReceivedState && s != CodeMinted && s != CodeAdopted && s != ""
}

// Public marks the types whose payloads need no encryption, so that every
// Temporal client can read them.
type Public interface{ publicPayload() }

func (Status) publicPayload() {}
func (Result) publicPayload() {}
func (Storm) publicPayload()  {} // and StormStatus, of which it is part

// EncodePublic tells whether a value may be written to Temporal in plain text:
// the types marked Public, and bare strings, which are only ever the summaries
// and details that people read in the web UI. Every other message is a struct.
func EncodePublic(v any) bool {
	switch v.(type) {
	case string, *string, Public:
		return true
	}
	return false
}

func join[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return strings.Join(texts, ", ")
}

// String keeps the code out of anything that prints the message.
func (m CodeReceived) String() string { return "code " + CodeHash(m.Code) }

// GoString keeps the code out of %#v.
func (m CodeReceived) GoString() string { return m.String() }

// String keeps the code out of anything that prints the message.
func (in RedeemInput) String() string { return "code " + CodeHash(in.Code) }

// GoString keeps the code out of %#v.
func (in RedeemInput) GoString() string { return in.String() }
