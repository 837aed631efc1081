package activities

import (
	"time"

	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// Case names the case an activity works for, with what its row needs should
// this activity be the first to write it.
type Case struct {
	CaseID       string       `json:"case_id"`
	ConnectionID string       `json:"connection_id"`
	OpenedAt     time.Time    `json:"opened_at"`
	Report       reauth.Input `json:"report"`
}

// Plan is what a case decided at its opening and keeps: later settings do not
// change it.
type Plan struct {
	Minutes     int               `json:"minutes"`
	Renewals    int               `json:"renewals"`
	Campaign    campaign.Campaign `json:"campaign"`
	Application string            `json:"application"`
	// FirstAfter is how long the first notice waits for the breakdowns of other
	// connections, with which it would be another message, or none.
	FirstAfter time.Duration `json:"first_after,omitempty"`
}

// Deadline is the end of the last permitted session, when one that ends at a
// time has renewals left.
func (p Plan) Deadline(sessionEnds time.Time, renewals int) time.Time {
	return sessionEnds.Add(time.Duration(renewals) * time.Duration(p.Minutes) * time.Minute)
}

// Dates are when the steps of a case are due whose first session ends at a
// time. Where somebody is at the page already, none is due at the opening.
func (p Plan) Dates(c Case, sessionEnds time.Time, personIsHere bool) []campaign.Date {
	deadline := p.Deadline(sessionEnds, p.Renewals)
	dates := p.Campaign.Schedule(c.OpenedAt, deadline, personIsHere)
	first := c.OpenedAt.Add(p.FirstAfter)
	for i := range dates {
		if dates[i].At.Before(first) && first.Before(deadline) {
			dates[i].At = first
		}
	}
	return dates
}

// Session is a Connect session as a case sees it. Its URL stays in the database.
type Session struct {
	ID        string    `json:"id"`
	Ordinal   int       `json:"ordinal"`
	OpenedAt  time.Time `json:"opened_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Verdict is what came of asking the provider about a report.
type Verdict string

// The verdicts.
const (
	// VerdictStale: the loss is real and a session is open.
	VerdictStale Verdict = "stale"
	// VerdictConnected: the connection works.
	VerdictConnected Verdict = "connected"
	// VerdictBlocked: only an operator can help.
	VerdictBlocked Verdict = "blocked"
	// VerdictNotFound: the provider has no such connection any more.
	VerdictNotFound Verdict = "not_found"
	// VerdictUnknown: nobody registered the connection.
	VerdictUnknown Verdict = "unknown"
	// VerdictRemoved: the connection was removed with us.
	VerdictRemoved Verdict = "removed"
	// VerdictSuppressed: machine reports are not heard for now.
	VerdictSuppressed Verdict = "suppressed"
	// VerdictSuperseded: the report is about a token that has been replaced.
	VerdictSuperseded Verdict = "superseded"
)

// ConfirmInput asks whether the loss is real. Patient is set once the operator
// has been told: then the activity goes on asking until the answer changes.
type ConfirmInput struct {
	Case    Case `json:"case"`
	Patient bool `json:"patient,omitempty"`
}

// Confirmed is the answer to ConfirmInput.
type Confirmed struct {
	Verdict     Verdict    `json:"verdict"`
	Plan        Plan       `json:"plan"`
	Session     *Session   `json:"session,omitempty"`
	Generation  int64      `json:"generation,omitempty"`
	Problem     string     `json:"problem,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Until       *time.Time `json:"until,omitempty"`
	ConfirmedAt time.Time  `json:"confirmed_at"`
	// Entities counts those of a connection that has several.
	Entities *reauth.EntityCount `json:"entities,omitempty"`
}

// SessionInput asks for a further session of an open case.
type SessionInput struct {
	Case    Case `json:"case"`
	Plan    Plan `json:"plan"`
	Ordinal int  `json:"ordinal"`
	// RenewalsLeft is what will be left after this session, for the deadline.
	RenewalsLeft int  `json:"renewals_left"`
	Patient      bool `json:"patient,omitempty"`
	// Until is when the session is to end, where that is not after the plan's
	// minutes.
	Until *time.Time `json:"until,omitempty"`
	// SpareClick makes the activity wait for a person who may still be in
	// Connect with the session that ends.
	SpareClick bool `json:"spare_click,omitempty"`
}

// SessionOpened is the answer to SessionInput: a session, or HoldUntil when a
// person pressed the button lately, or a problem.
type SessionOpened struct {
	Verdict   Verdict    `json:"verdict"`
	Session   *Session   `json:"session,omitempty"`
	HoldUntil *time.Time `json:"hold_until,omitempty"`
	Problem   string     `json:"problem,omitempty"`
}

// NoticeKind is what a notice says.
type NoticeKind string

// The kinds of notices to the customer.
const (
	NoticeFirst    NoticeKind = "first"
	NoticeReminder NoticeKind = "reminder"
	NoticeLastCall NoticeKind = "last_call"
	NoticeTryAgain NoticeKind = "try_again"
)

// NoticeInput asks for one step's notices.
type NoticeInput struct {
	Case Case `json:"case"`
	// Step is the step; its key names it in the ledger.
	Step campaign.Step `json:"step"`
	Kind NoticeKind    `json:"kind"`
	// Campaign is the case's, for its hours and its cap.
	Campaign campaign.Campaign `json:"campaign"`
	// Asked: a person asked for this notice, so neither hours nor cap nor
	// storm keep it.
	Asked bool `json:"asked,omitempty"`
	// HandOn: it is only for those who have not heard of the case yet.
	HandOn         bool      `json:"hand_on,omitempty"`
	SessionOrdinal int       `json:"session_ordinal"`
	DeadlineAt     time.Time `json:"deadline_at"`
	// Cause says more of a NoticeTryAgain: what became of the code.
	Cause reauth.CodeState `json:"cause,omitempty"`
	// LookedAt is when the connection was last seen stale: a look younger than
	// a minute is not repeated.
	LookedAt time.Time `json:"looked_at"`
	// Unheard: the step before had a problem, which is over once this one is sent.
	Unheard bool `json:"unheard,omitempty"`
	// Next is the step after this one, NoticesSent what the steps before have sent.
	Next        *campaign.Date `json:"next,omitempty"`
	NoticesSent int            `json:"notices_sent"`
}

// Noticed is the answer to NoticeInput.
type Noticed struct {
	// Sent counts all notices of the step, those of earlier attempts included.
	Sent int `json:"sent"`
	// Later is when somebody can be told who must not be written to now: ask
	// again then. Why says what keeps them.
	Later *time.Time `json:"later,omitempty"`
	Why   string     `json:"why,omitempty"`
	// Storm holds the notice until Later, or until it is released.
	Storm string `json:"storm,omitempty"`
	// Mail says that mail was not simply on: "shadow", or what holds the notice
	// until Later, or until it is released: "stopped" or "ramp". MailVersion is the
	// control's then.
	Mail        string `json:"mail,omitempty"`
	MailVersion int64  `json:"mail_version,omitempty"`
	// Shadowed counts the notices of the step that were not sent in shadow.
	Shadowed int `json:"shadowed,omitempty"`
	// Restored: access is back, so nobody was written to. With HoldUntil the
	// customer is on the way through Connect: look again then.
	Restored  bool       `json:"restored,omitempty"`
	HoldUntil *time.Time `json:"hold_until,omitempty"`
	// Gone: the provider has no such connection any more. Removed: we have not.
	Gone    bool   `json:"gone,omitempty"`
	Removed bool   `json:"removed,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Entities counts those of a connection that has several.
	Entities *reauth.EntityCount `json:"entities,omitempty"`
}

// What Noticed.Mail says.
const (
	NoticedShadow  = "shadow"
	NoticedStopped = "stopped"
	NoticedRamp    = "ramp"
)

// LookInput asks whether access is back.
type LookInput struct {
	Case Case `json:"case"`
	// Told says that the provider announced it (connection-restored), which is
	// believed when there is no stored token to ask with.
	Told bool `json:"told,omitempty"`
}

// Looked is the answer to LookInput.
type Looked struct {
	Restored  bool       `json:"restored"`
	HoldUntil *time.Time `json:"hold_until,omitempty"`
	// Gone: the provider has no such connection any more. Removed: we have not.
	Gone    bool `json:"gone,omitempty"`
	Removed bool `json:"removed,omitempty"`
	// Entities counts those of a connection that has several.
	Entities *reauth.EntityCount `json:"entities,omitempty"`
}

// RedeemInput asks to exchange a code. The code is a secret.
type RedeemInput struct {
	// Case is absent when the code's connection is not known.
	Case        *Case     `json:"case,omitempty"`
	Application string    `json:"application,omitempty"`
	Code        string    `json:"code"`
	RedirectURI string    `json:"redirect_uri,omitempty"`
	Embedded    bool      `json:"embedded,omitempty"`
	ReceivedAt  time.Time `json:"received_at"`
	// Patient is set once our own credentials have been refused and the
	// operator told: then the activity asks until the code is dead.
	Patient bool `json:"patient,omitempty"`
	// Unanswered says that the code was sent before and no answer came, so that
	// a refusal now means that the answer was lost.
	Unanswered bool `json:"unanswered,omitempty"`
	// LookUp only asks the database whether the code, which is dead, brought a
	// token in an attempt of which nobody heard.
	LookUp bool `json:"look_up,omitempty"`
}

// String keeps the code out of anything that prints the input.
func (in RedeemInput) String() string { return "code " + reauth.CodeHash(in.Code) }

// GoString keeps the code out of %#v.
func (in RedeemInput) GoString() string { return in.String() }

// Redeemed is the answer to RedeemInput. The token is sealed.
type Redeemed struct {
	State   reauth.CodeState    `json:"state"`
	Minted  *reauth.TokenMinted `json:"minted,omitempty"`
	Problem string              `json:"problem,omitempty"`
	// Blocked: our own credentials were refused, so the operator must act.
	Blocked bool `json:"blocked,omitempty"`
	// Unanswered: what became of the code is not known for sure.
	Unanswered bool `json:"unanswered,omitempty"`
}

// RedeemProblem tells the operator what only the operator can mend about a code
// of which no case is known.
type RedeemProblem struct {
	Application string `json:"application,omitempty"`
	// Step keeps the problems of one code apart.
	Step    string `json:"step"`
	Problem string `json:"problem"`
}

// SettleInput records what became of a code that brought no token.
type SettleInput struct {
	Case     *Case            `json:"case,omitempty"`
	CodeHash string           `json:"code_hash"`
	State    reauth.CodeState `json:"state"`
	Problem  string           `json:"problem,omitempty"`
	// SessionOrdinal is the session that the code used up.
	SessionOrdinal int `json:"session_ordinal,omitempty"`
}

// VerifyInput asks to verify a minted token and to adopt it.
type VerifyInput struct {
	Case   Case               `json:"case"`
	Minted reauth.TokenMinted `json:"minted"`
	// SessionOrdinal is the session that the token's code used up.
	SessionOrdinal int `json:"session_ordinal,omitempty"`
}

// Verified is the answer to VerifyInput: recovered, adopted (stored, but not
// working yet), wrong_account, quarantined, unusable or lost.
type Verified struct {
	State reauth.CodeState `json:"state"`
	// Generation is the connection's current one. It is another than the
	// token's where one that was minted later stands.
	Generation int64  `json:"generation,omitempty"`
	Problem    string `json:"problem,omitempty"`
	// Unknown: nobody registered the connection.
	Unknown bool `json:"unknown,omitempty"`
	// Entities counts those of a connection that has several.
	Entities *reauth.EntityCount `json:"entities,omitempty"`
}

// WorkingInput asks to wait until an adopted token works.
type WorkingInput struct {
	Case       Case   `json:"case"`
	CodeHash   string `json:"code_hash"`
	Generation int64  `json:"generation"`
}

// ProblemInput tells the operator what only the operator can mend.
type ProblemInput struct {
	Case    Case         `json:"case"`
	Phase   reauth.Phase `json:"phase"`
	Problem string       `json:"problem"`
	Step    string       `json:"step"`
}

// RecordInput puts a line into the case's timeline.
type RecordInput struct {
	Case      Case         `json:"case"`
	Kind      string       `json:"kind"`
	Detail    string       `json:"detail"`
	Phase     reauth.Phase `json:"phase,omitempty"`
	LastError string       `json:"last_error,omitempty"`
	// Next and NoticesSent are the schedule as it stands.
	Next        *campaign.Date `json:"next,omitempty"`
	NoticesSent int            `json:"notices_sent"`
}

// CloseInput closes a case and tells everybody who should know.
type CloseInput struct {
	Case       Case           `json:"case"`
	Outcome    reauth.Outcome `json:"outcome"`
	Reason     string         `json:"reason,omitempty"`
	By         string         `json:"by,omitempty"` // who ended the case, where a person did
	Generation int64          `json:"generation,omitempty"`
}

// Closed is the answer to CloseInput.
type Closed struct {
	FixedNotes int    `json:"fixed_notes"`
	Problem    string `json:"problem,omitempty"`
	// Owed: the fixed notes wait for mail to be switched on again.
	Owed bool `json:"owed,omitempty"`
}
