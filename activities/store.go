package activities

import (
	"context"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// Store is what activities need of the database. db.DB is one, and says what
// each call promises.
type Store interface {
	// Connections, and whom to write to.
	Connection(ctx context.Context, id string) (reauth.Connection, error)
	Recipients(ctx context.Context, connectionID string) ([]db.Recipient, error)
	SharesContact(ctx context.Context, connectionID string) (shares bool, err error)
	SeeEntities(ctx context.Context, connectionID string, seen reauth.Entities, at time.Time) error
	SetEntityStatus(ctx context.Context, connectionID, entityID, status string, at time.Time) error
	UntoldGone(ctx context.Context, connectionID string) (reauth.Entities, error)
	ToldGone(ctx context.Context, connectionID string, gone reauth.Entities, at time.Time) error
	SetUnreachable(ctx context.Context, email string, kind db.Unreachable, detail string) (cases []db.CaseContact, first bool, err error)
	EnsureLink(ctx context.Context, connectionID, recipient string, keyID uint32, hash func(keyID uint32, version int) ([]byte, error)) (version int, key uint32, err error)

	// Cases, and their timelines.
	Suppressed(ctx context.Context, connectionID string, source reauth.Source, finchCode string, at time.Time) (until time.Time, reason string, suppressed bool, err error)
	OpenCase(ctx context.Context, c db.Case) (opened bool, err error)
	CaseByID(ctx context.Context, caseID string) (db.Case, error)
	SetCampaign(ctx context.Context, caseID, campaign string) error
	SetSchedule(ctx context.Context, caseID string, s db.Schedule) error
	SetPhase(ctx context.Context, caseID string, phase reauth.Phase, lastError string) error
	SetSession(ctx context.Context, caseID string, s db.Session) error
	SpendSession(ctx context.Context, caseID string, ordinal int) error
	LastClick(ctx context.Context, caseID string) (at *time.Time, err error)
	AddEvent(ctx context.Context, e db.Event) error
	CloseCase(ctx context.Context, closing db.Closing) (first bool, err error)

	// The send ledger.
	BeginNotice(ctx context.Context, n db.Notice) (id int64, permit bool, state db.NoticeState, err error)
	BeginMail(ctx context.Context, m db.Mail) (db.Permit, error)
	LeaveBehind(ctx context.Context, noticeID int64) error
	HandToBackend(ctx context.Context, n db.Notice, contacts []string, event db.OutboxEvent, at time.Time) (given int, control db.MailControl, err error)
	EndNotice(ctx context.Context, id int64, state db.NoticeState, detail string) error
	NoticesOf(ctx context.Context, caseID string) ([]db.NoticeRow, error)
	Alerted(ctx context.Context, caseID string) (recipients []string, rootMessageID map[string]string, err error)

	// Whether mail goes out, and how fast new customers hear.
	Mail(ctx context.Context) (db.MailControl, error)
	HoldMail(ctx context.Context, caseID string) (control db.MailControl, first bool, err error)
	TakeTurn(ctx context.Context, caseID string, at time.Time, may func(time.Time) time.Time) (db.Turn, error)
	OweFixed(ctx context.Context, caseID string) error
	FixedSent(ctx context.Context, caseID string) error
	MailChange(ctx context.Context, version int64) (db.MailChange, error)
	MailHandled(ctx context.Context, version int64, at time.Time) error
	MailStanding(ctx context.Context) (db.MailStanding, error)
	MailWaits(ctx context.Context, before, after int64, limit int) ([]db.MailWait, error)
	ReleaseCase(ctx context.Context, caseID string, at time.Time) error

	// What is asked of many cases at once.
	StartBulk(ctx context.Context, id string, at time.Time) (db.Bulk, error)
	BulkCases(ctx context.Context, b db.Bulk, after string, limit int) ([]db.BulkCase, error)
	BulkTold(ctx context.Context, id, caseID string, told bool) error
	EndBulk(ctx context.Context, id, how string, at time.Time) (db.Bulk, error)

	// Codes and tokens.
	PutMinted(ctx context.Context, codeHash, connectionID, fingerprint string, sealed []byte, at time.Time) error
	Minted(ctx context.Context, codeHash string) (db.MintedToken, error)
	SettleCode(ctx context.Context, hash, connectionID, caseID string, state reauth.CodeState, generation int64) error
	Adopt(ctx context.Context, a db.Adoption) (db.Adopted, error)
	Quarantine(ctx context.Context, q db.QuarantinedToken) error
	CurrentToken(ctx context.Context, connectionID string) (db.Token, error)
	TokenByFingerprint(ctx context.Context, connectionID, fingerprint string) (t db.Token, current bool, err error)

	// Tokens that imports handed in.
	StagedOf(ctx context.Context, connectionID string, at time.Time) ([]db.StagedToken, error)
	AdoptStaged(ctx context.Context, a db.StagedAdoption) (db.Adopted, error)
	SettleStaged(ctx context.Context, v db.StagedVerdict) error
	PostponeStaged(ctx context.Context, fingerprint string, due time.Time, detail string, counted bool) error

	// Connections that are checked in turn.
	TakeCheck(ctx context.Context, application string, before time.Time, hold time.Duration) (c db.Check, taken bool, err error)
	TakeCheckOf(ctx context.Context, connectionID string, hold time.Duration) (c db.Check, taken bool, err error)
	EndCheck(ctx context.Context, c db.Check, at time.Time) error
	PutOffCheck(ctx context.Context, c db.Check, by time.Duration) error
	SweepLag(ctx context.Context, overdueBefore, dueBefore time.Time) (reauth.SweepLag, error)
	SeenWorking(ctx context.Context, connectionID string, at time.Time) (marked bool, err error)
	SetConnectionStatus(ctx context.Context, id string, status reauth.ConnectionStatus, at time.Time) error
	OpenCaseOf(ctx context.Context, connectionID string) (db.Case, error)
	HoldRestored(ctx context.Context, caseID string, until time.Time) error

	// Storms.
	MayStorm(ctx context.Context, provider reauth.Provider, count int) (may bool, err error)
	Brake(ctx context.Context, caseID string, rule db.StormRule, at time.Time) (storm db.Storm, held bool, err error)
	StormByID(ctx context.Context, id string) (db.Storm, error)
	SampleHeld(ctx context.Context, stormID string, round, n int) (connectionIDs []string, err error)
	HeldCases(ctx context.Context, stormID, after string, limit int) ([]db.Case, error)
	EndStorm(ctx context.Context, id, how string, at time.Time) (first bool, err error)
}
