// Package starter is the way in for backends: it reports stale connections and
// hands over authorization codes through a Temporal client, and watches a
// backend's own calls to its provider for connections that have gone stale. It
// needs nothing else of the project but its words.
package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/reauth"
)

var (
	// ErrNoOpenCase: the connection has no open case to be told something, or,
	// from Status, none that Temporal still knows.
	ErrNoOpenCase = errors.New("the connection has no open case")
	// ErrNoStorm: no such storm is being watched: it is over, or there never was one.
	ErrNoStorm = errors.New("no such storm rages")
	// ErrRefused: the call can never succeed as it is; repeating it is useless.
	ErrRefused = errors.New("refused")
)

var (
	searchConnectionID = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributeConnectionID)
	searchProvider     = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributeProvider)
	searchPhase        = temporal.NewSearchAttributeKeyKeyword(reauth.SearchAttributePhase)
)

// Starter starts cases and speaks to open ones. It is safe for concurrent use.
type Starter struct {
	client    client.Client
	taskQueue string
	namespace string
}

// Option changes a Starter.
type Option func(*Starter)

// WithTaskQueue names the task queue whose workers handle the cases, where it
// is not reauth.TaskQueue. An empty name changes nothing.
func WithTaskQueue(name string) Option {
	return func(s *Starter) { s.taskQueue = cmp.Or(name, s.taskQueue) }
}

// New returns a Starter on a client, which remains the caller's to close.
func New(c client.Client, options ...Option) *Starter {
	s := &Starter{client: c, taskQueue: reauth.TaskQueue, namespace: client.DefaultNamespace}
	for _, option := range options {
		option(s)
	}
	return s
}

// Reported is what became of a report.
type Reported struct {
	CaseID     string
	WorkflowID string
	// Created says that this report opened the case; otherwise it joined one
	// that was open already.
	Created bool
}

// Report opens a case for a stale connection, or joins the one that is open.
// However many reports are made at once, of one of them Created is true. What
// is wrong in the input is an error that wraps ErrRefused.
func (s *Starter) Report(ctx context.Context, in reauth.Input) (Reported, error) {
	if err := in.Check(); err != nil {
		return Reported{}, fmt.Errorf("report a stale connection: %w: %w", ErrRefused, err)
	}
	options := s.options(in)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	options.WorkflowExecutionErrorWhenAlreadyStarted = true
	run, err := s.client.ExecuteWorkflow(ctx, options, reauth.WorkflowType, in)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &running):
		return Reported{CaseID: cmp.Or(running.FirstExecutionRunId, running.RunId), WorkflowID: options.ID}, nil
	case err != nil:
		return Reported{}, fmt.Errorf("report a stale connection: %w", err)
	}
	return Reported{CaseID: run.GetRunID(), WorkflowID: options.ID, Created: true}, nil
}

// Reporter is Report as Transport wants it. Calls whose connection nothing but
// their token names need Transport.Lookup beside it.
func (s *Starter) Reporter() func(context.Context, reauth.Input) error {
	return func(ctx context.Context, in reauth.Input) error {
		if in.ConnectionID == "" {
			return fmt.Errorf("%w: %w", ErrRefused, ErrNoConnection)
		}
		_, err := s.Report(ctx, in)
		return err
	}
}

// SubmitCode hands an authorization code to the connection's case, and opens
// one if none is open, so that a code is never lost. It returns the ID of the
// run that has it. What is wrong in the message is an error that wraps
// ErrRefused.
func (s *Starter) SubmitCode(ctx context.Context, connectionID string, m reauth.CodeReceived) (runID string, err error) {
	if err := cmp.Or(reauth.CheckConnectionID(connectionID), m.Check()); err != nil {
		return "", fmt.Errorf("submit a code: %w: %w", ErrRefused, err)
	}
	run, err := s.signalWithStart(ctx, connectionID, reauth.SignalCodeReceived, m)
	if err != nil {
		return "", fmt.Errorf("submit a code: %w", err)
	}
	return run.GetRunID(), nil
}

// SubmitMinted hands a sealed token to the case of its connection, and opens
// one if none is open.
func (s *Starter) SubmitMinted(ctx context.Context, m reauth.TokenMinted) error {
	err := reauth.CheckConnectionID(m.ConnectionID)
	if err == nil && (len(m.Sealed) == 0 || m.CodeHash == "" || m.Fingerprint == "") {
		err = errors.New("code_hash, fingerprint and sealed must all be given")
	}
	if err != nil {
		return fmt.Errorf("submit a token: %w: %w", ErrRefused, err)
	}
	if _, err := s.signalWithStart(ctx, m.ConnectionID, reauth.SignalTokenMinted, m); err != nil {
		return fmt.Errorf("submit a token: %w", err)
	}
	return nil
}

// Redeem starts the exchange of a code whose connection is not known. Started
// is false where the code is being redeemed or was: then nothing is changed.
func (s *Starter) Redeem(ctx context.Context, in reauth.RedeemInput) (started bool, err error) {
	if err := (reauth.CodeReceived{Code: in.Code, RedirectURI: in.RedirectURI}).Check(); err != nil {
		return false, fmt.Errorf("redeem a code: %w: %w", ErrRefused, err)
	}
	_, err = s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:        reauth.RedeemWorkflowID(in.Code),
		TaskQueue: s.taskQueue,
		// A code works once: only an exchange that itself broke is repeated.
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            "Redeem a code whose connection is not known",
	}, reauth.RedeemWorkflowType, in)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &already):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("redeem a code: %w", err)
	}
	return true, nil
}

// Restored tells the connection's open case that access has returned some
// other way. Without an open case it returns ErrNoOpenCase.
func (s *Starter) Restored(ctx context.Context, connectionID string) error {
	return s.signal(ctx, connectionID, reauth.SignalConnectionRestored, struct{}{})
}

// Cancel calls the connection's open case off. Without an open case it returns
// ErrNoOpenCase.
func (s *Starter) Cancel(ctx context.Context, connectionID string, m reauth.Cancel) error {
	return s.signal(ctx, connectionID, reauth.SignalCancel, m)
}

// Snooze holds the notices of the connection's open case. Without an open case
// it returns ErrNoOpenCase.
func (s *Starter) Snooze(ctx context.Context, connectionID string, m reauth.Snooze) error {
	return s.signal(ctx, connectionID, reauth.SignalSnooze, m)
}

// RemindNow makes the connection's open case send a notice at once. Without an
// open case it returns ErrNoOpenCase.
func (s *Starter) RemindNow(ctx context.Context, connectionID string) error {
	return s.Remind(ctx, connectionID, reauth.RemindNow{})
}

// Remind is RemindNow with who asks for it.
func (s *Starter) Remind(ctx context.Context, connectionID string, m reauth.RemindNow) error {
	return s.signal(ctx, connectionID, reauth.SignalRemindNow, m)
}

// StopNotices ends the notices of the connection's open case, which stays open.
// Without an open case it returns ErrNoOpenCase.
func (s *Starter) StopNotices(ctx context.Context, connectionID string, m reauth.StopNotices) error {
	return s.signal(ctx, connectionID, reauth.SignalStopNotices, m)
}

// ContactsChanged tells the connection's open case that others can be written
// to than before. Without an open case there is nobody to be told, and it
// returns nil.
func (s *Starter) ContactsChanged(ctx context.Context, connectionID string, m reauth.ContactsChanged) error {
	return unlessNoCase(s.signal(ctx, connectionID, reauth.SignalContactsChanged, m))
}

// ReleaseNotices lets the first notice go of the connection's open case, if the
// storm that m names holds it. Without an open case there is nothing to let go,
// and it returns nil.
func (s *Starter) ReleaseNotices(ctx context.Context, connectionID string, m reauth.NoticesReleased) error {
	return unlessNoCase(s.signal(ctx, connectionID, reauth.SignalNoticesReleased, m))
}

// WatchStorm has a storm watched until it is over. However often it is called,
// one workflow watches it, and none again once that has come to its end.
func (s *Starter) WatchStorm(ctx context.Context, stormID string) error {
	if err := checkStormID(stormID); err != nil {
		return fmt.Errorf("have a storm watched: %w: %w", ErrRefused, err)
	}
	// A storm that ended is not watched again; a watch that somebody terminated is.
	err := s.once(ctx, reauth.StormWorkflowID(stormID), reauth.StormWorkflowType, reauth.StormInput{StormID: stormID},
		"Storm: many connections broke together, so their first notices are held")
	if err != nil {
		return fmt.Errorf("have a storm watched: %w", err)
	}
	return nil
}

// ReleaseStorm lets the first notices go that a storm holds; by says who wants
// it. It returns ErrNoStorm when the storm is not being watched, because it is
// over, say.
func (s *Starter) ReleaseStorm(ctx context.Context, stormID, by string) error {
	if err := checkStormID(stormID); err != nil {
		return fmt.Errorf("release a storm: %w: %w", ErrRefused, err)
	}
	err := s.client.SignalWorkflow(ctx, reauth.StormWorkflowID(stormID), "", reauth.SignalReleaseStorm, reauth.ReleaseStorm{By: by})
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return fmt.Errorf("release a storm: %w: %w", ErrNoStorm, err)
	case err != nil:
		return fmt.Errorf("release a storm: %w", err)
	}
	return nil
}

func checkStormID(id string) error {
	if id == "" {
		return errors.New("storm_id is missing")
	}
	return nil
}

// Status asks the connection's newest case where it stands, also when it is
// closed, for as long as Temporal retains it; then it returns ErrNoOpenCase. A
// worker must be running to answer.
func (s *Starter) Status(ctx context.Context, connectionID string) (reauth.Status, error) {
	if err := reauth.CheckConnectionID(connectionID); err != nil {
		return reauth.Status{}, fmt.Errorf("ask for a case's status: %w: %w", ErrRefused, err)
	}
	answer, err := s.client.QueryWorkflow(ctx, reauth.WorkflowID(connectionID), "", reauth.QueryStatus)
	if err != nil {
		return reauth.Status{}, fmt.Errorf("ask for a case's status: %w", noOpenCase(err))
	}
	var status reauth.Status
	if err := answer.Get(&status); err != nil {
		return reauth.Status{}, fmt.Errorf("read a case's status: %w", err)
	}
	return status, nil
}

func (s *Starter) signal(ctx context.Context, connectionID, name string, message any) error {
	if err := reauth.CheckConnectionID(connectionID); err != nil {
		return fmt.Errorf("send %s: %w: %w", name, ErrRefused, err)
	}
	if err := s.client.SignalWorkflow(ctx, reauth.WorkflowID(connectionID), "", name, message); err != nil {
		return fmt.Errorf("send %s: %w", name, noOpenCase(err))
	}
	return nil
}

func noOpenCase(err error) error {
	if isNotFound(err) {
		return fmt.Errorf("%w: %w", ErrNoOpenCase, err)
	}
	return err
}

// unlessNoCase forgives that there is no open case.
func unlessNoCase(err error) error {
	if errors.Is(err, ErrNoOpenCase) {
		return nil
	}
	return err
}

// signalWithStart sends a message that proves a person came through Connect, so
// a case that it opens has the source link.
func (s *Starter) signalWithStart(ctx context.Context, connectionID, name string, message any) (client.WorkflowRun, error) {
	in := reauth.Input{ConnectionID: connectionID, Source: reauth.SourceLink}
	options := s.options(in)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
	return s.client.SignalWithStartWorkflow(ctx, options.ID, name, message, options, reauth.WorkflowType, in)
}

func (s *Starter) options(in reauth.Input) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                    reauth.WorkflowID(in.ConnectionID),
		TaskQueue:             s.taskQueue,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			searchConnectionID.ValueSet(in.ConnectionID),
			searchProvider.ValueSet(string(cmp.Or(in.Provider, reauth.Finch))),
			searchPhase.ValueSet(string(reauth.PhaseConfirming)),
		),
		StaticSummary: "Bring back connection " + in.ConnectionID,
		StaticDetails: details(in),
	}
}

var errorCode = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// details is what the web UI shows of the report, in plain text: nothing that
// could hold a name, an address or a secret, so not its reason.
func details(in reauth.Input) string {
	text := "Opened by a report of source `" + string(cmp.Or(in.Source, reauth.SourceManual)) + "`"
	if errorCode.MatchString(in.FinchCode) {
		text += " with the provider's code `" + in.FinchCode + "`"
	}
	return text + "."
}
