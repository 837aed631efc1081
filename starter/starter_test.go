package starter_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/mocks"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

var (
	connectionKey = temporal.NewSearchAttributeKeyKeyword("ReauthConnectionId")
	providerKey   = temporal.NewSearchAttributeKeyKeyword("ReauthProvider")
	phaseKey      = temporal.NewSearchAttributeKeyKeyword("ReauthPhase")
)

func run(id string) *mocks.WorkflowRun {
	r := &mocks.WorkflowRun{}
	r.On("GetRunID").Return(id)
	return r
}

// started returns the options of the only call, whose index they are at.
func started(t *testing.T, c *mocks.Client, index int) client.StartWorkflowOptions {
	t.Helper()
	require.Len(t, c.Calls, 1)
	return c.Calls[0].Arguments.Get(index).(client.StartWorkflowOptions)
}

func TestReportStartsACase(t *testing.T) {
	c := &mocks.Client{}
	in := reauth.Input{ConnectionID: "con-1", Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user", Reason: "ask SENTINEL@example.com"}
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, reauth.WorkflowType, in).Return(run("run-1"), nil)
	got, err := starter.New(c).Report(t.Context(), in)
	require.NoError(t, err)
	require.Equal(t, starter.Reported{CaseID: "run-1", WorkflowID: "reauth-con-1", Created: true}, got)

	options := started(t, c, 1)
	require.Equal(t, "reauth-con-1", options.ID)
	require.Equal(t, "reauth", options.TaskQueue)
	require.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, options.WorkflowIDReusePolicy)
	require.True(t, options.WorkflowExecutionErrorWhenAlreadyStarted)
	require.Zero(t, options.WorkflowRunTimeout, "a case has no time limit but its own")
	require.Zero(t, options.WorkflowExecutionTimeout)
	require.Equal(t, "Bring back connection con-1", options.StaticSummary)
	require.Equal(t, "Opened by a report of source `api_error` with the provider's code `reauthenticate_user`.", options.StaticDetails)
	attributes := options.TypedSearchAttributes
	for key, want := range map[temporal.SearchAttributeKeyKeyword]string{connectionKey: "con-1", providerKey: "finch", phaseKey: "confirming"} {
		value, ok := attributes.GetKeyword(key)
		require.True(t, ok)
		require.Equal(t, want, value)
	}
	require.Equal(t, 3, attributes.Size())
}

func TestWhatAReportShowsInPlainText(t *testing.T) {
	for _, in := range []reauth.Input{
		{ConnectionID: "con-1", Provider: "atto", Reason: "SENTINEL", FinchCode: "SENTINEL@example.com"},
		{ConnectionID: "con-1", Provider: "atto", FinchCode: "code SENTINEL"},
	} {
		c := &mocks.Client{}
		c.On("ExecuteWorkflow", mock.Anything, mock.Anything, reauth.WorkflowType, in).Return(run("run-1"), nil)
		_, err := starter.New(c).Report(t.Context(), in)
		require.NoError(t, err)
		options := started(t, c, 1)
		require.NotContains(t, options.StaticSummary+options.StaticDetails+options.ID, "SENTINEL")
		require.Nil(t, options.Memo)
		provider, _ := options.TypedSearchAttributes.GetKeyword(providerKey)
		require.Equal(t, "atto", provider)
	}
}

func TestReportJoinsAnOpenCase(t *testing.T) {
	for want, failure := range map[string]error{
		"run-1": serviceerror.NewWorkflowExecutionAlreadyStarted("running", "request", "run-1"),
		"run-0": serviceerror.NewWorkflowExecutionAlreadyStartedWithFirstExecutionRunId("running", "request", "run-1", "run-0"),
	} {
		c := &mocks.Client{}
		c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, failure)
		got, err := starter.New(c).Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
		require.NoError(t, err)
		require.Equal(t, starter.Reported{CaseID: want, WorkflowID: "reauth-con-1"}, got)
	}
}

func TestTheTaskQueueCanBeNamed(t *testing.T) {
	for name, want := range map[string]string{"other": "other", "": "reauth"} {
		c := &mocks.Client{}
		c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(run("run-1"), nil)
		_, err := starter.New(c, starter.WithTaskQueue(name)).Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
		require.NoError(t, err)
		require.Equal(t, want, started(t, c, 1).TaskQueue)
	}
}

func TestTheReporterReturnsTheReportsError(t *testing.T) {
	c := &mocks.Client{}
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(run("run-1"), nil).Once()
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, errors.New("no route")).Once()
	report := starter.New(c).Reporter()
	require.NoError(t, report(t.Context(), reauth.Input{ConnectionID: "con-1"}))
	require.ErrorContains(t, report(t.Context(), reauth.Input{ConnectionID: "con-1"}), "no route")
	require.ErrorIs(t, report(t.Context(), reauth.Input{}), starter.ErrRefused)
}

func TestSubmitCodeSignalsAndStarts(t *testing.T) {
	c := &mocks.Client{}
	code := reauth.CodeReceived{Code: "code-SENTINEL", RedirectURI: "https://reauth.example.com/callback"}
	in := reauth.Input{ConnectionID: "con-1", Source: reauth.SourceLink}
	c.On("SignalWithStartWorkflow", mock.Anything, "reauth-con-1", "code-received", code, mock.Anything, reauth.WorkflowType, in).Return(run("run-1"), nil)
	got, err := starter.New(c).SubmitCode(t.Context(), "con-1", code)
	require.NoError(t, err)
	require.Equal(t, "run-1", got)
	options := started(t, c, 4)
	require.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, options.WorkflowIDReusePolicy)
	require.Equal(t, enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, options.WorkflowIDConflictPolicy)
	require.Equal(t, 3, options.TypedSearchAttributes.Size())
	require.NotContains(t, options.StaticSummary+options.StaticDetails+options.ID, "SENTINEL")
}

func TestSubmitMintedSignalsAndStarts(t *testing.T) {
	c := &mocks.Client{}
	minted := reauth.TokenMinted{ConnectionID: "con-1", CodeHash: "h", Fingerprint: "f", Sealed: []byte("sealed"), MintedAt: time.Now()}
	c.On("SignalWithStartWorkflow", mock.Anything, "reauth-con-1", "token-minted", minted, mock.Anything, reauth.WorkflowType, mock.Anything).Return(run("run-1"), nil)
	require.NoError(t, starter.New(c).SubmitMinted(t.Context(), minted))
	require.Len(t, c.Calls, 1)
}

func TestRedeemStartsOncePerCode(t *testing.T) {
	in := reauth.RedeemInput{Code: "code-SENTINEL", Application: "default", RedirectURI: "https://reauth.example.com/callback"}
	c := &mocks.Client{}
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, reauth.RedeemWorkflowType, in).Return(run("run-1"), nil)
	got, err := starter.New(c).Redeem(t.Context(), in)
	require.NoError(t, err)
	require.True(t, got)
	options := started(t, c, 1)
	require.Equal(t, "redeem-"+reauth.CodeHash("code-SENTINEL"), options.ID)
	require.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY, options.WorkflowIDReusePolicy)
	require.True(t, options.WorkflowExecutionErrorWhenAlreadyStarted)
	require.NotContains(t, options.StaticSummary+options.StaticDetails+options.ID, "SENTINEL")

	c = &mocks.Client{}
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).
		Return(nil, serviceerror.NewWorkflowExecutionAlreadyStarted("finished", "request", "run-1"))
	got, err = starter.New(c).Redeem(t.Context(), in)
	require.NoError(t, err)
	require.False(t, got)
}

func TestSignalsReachTheOpenCase(t *testing.T) {
	until := time.Date(2026, 12, 24, 8, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		send    func(*starter.Starter) error
		message any
	}{
		"connection-restored": {func(s *starter.Starter) error { return s.Restored(context.Background(), "con-1") }, struct{}{}},
		"cancel": {func(s *starter.Starter) error {
			return s.Cancel(context.Background(), "con-1", reauth.Cancel{Reason: "r"})
		}, reauth.Cancel{Reason: "r"}},
		"snooze": {func(s *starter.Starter) error {
			return s.Snooze(context.Background(), "con-1", reauth.Snooze{Until: until})
		}, reauth.Snooze{Until: until}},
		"remind-now": {func(s *starter.Starter) error { return s.RemindNow(context.Background(), "con-1") }, reauth.RemindNow{}},
		"stop-notices": {func(s *starter.Starter) error {
			return s.StopNotices(context.Background(), "con-1", reauth.StopNotices{Reason: "r"})
		}, reauth.StopNotices{Reason: "r"}},
	} {
		c := &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, "reauth-con-1", "", name, test.message).Return(nil)
		require.NoError(t, test.send(starter.New(c)), name)

		c = &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewNotFound("no such workflow"))
		require.ErrorIs(t, test.send(starter.New(c)), starter.ErrNoOpenCase, name)

		c = &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewUnavailable("down"))
		err := test.send(starter.New(c))
		require.ErrorContains(t, err, "down", name)
		require.NotErrorIs(t, err, starter.ErrNoOpenCase, name)
	}
}

// What is of no use without an open case is no error then.
func TestSignalsThatNeedNoCase(t *testing.T) {
	at := time.Date(2026, 12, 24, 8, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		send    func(*starter.Starter) error
		message any
	}{
		"contacts-changed": {func(s *starter.Starter) error {
			return s.ContactsChanged(context.Background(), "con-1", reauth.ContactsChanged{Reason: "r"})
		}, reauth.ContactsChanged{Reason: "r"}},
		"notices-released": {func(s *starter.Starter) error {
			return s.ReleaseNotices(context.Background(), "con-1", reauth.NoticesReleased{StormID: "s", At: at})
		}, reauth.NoticesReleased{StormID: "s", At: at}},
	} {
		c := &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, "reauth-con-1", "", name, test.message).Return(nil)
		require.NoError(t, test.send(starter.New(c)), name)
		require.Len(t, c.Calls, 1)

		c = &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewNotFound("no such workflow"))
		require.NoError(t, test.send(starter.New(c)), name)

		c = &mocks.Client{}
		c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewUnavailable("down"))
		require.ErrorContains(t, test.send(starter.New(c)), "down", name)
	}
}

func TestAStormIsWatchedOnce(t *testing.T) {
	c := &mocks.Client{}
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, "StormWorkflow", reauth.StormInput{StormID: "6c1e"}).Return(run("run-1"), nil)
	require.NoError(t, starter.New(c, starter.WithTaskQueue("other")).WatchStorm(t.Context(), "6c1e"))
	options := started(t, c, 1)
	require.Equal(t, "storm-6c1e", options.ID)
	require.Equal(t, "other", options.TaskQueue)
	require.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY, options.WorkflowIDReusePolicy)
	require.Equal(t, enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, options.WorkflowIDConflictPolicy)
	require.Contains(t, options.StaticSummary, "first notices are held")

	for failure, want := range map[error]string{
		serviceerror.NewWorkflowExecutionAlreadyStarted("finished", "request", "run-1"): "",
		serviceerror.NewUnavailable("down"):                                             "down",
	} {
		c = &mocks.Client{}
		c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, failure)
		err := starter.New(c).WatchStorm(t.Context(), "6c1e")
		if want == "" {
			require.NoError(t, err, "it is over, and stays so")
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

func TestReleaseStorm(t *testing.T) {
	c := &mocks.Client{}
	c.On("SignalWorkflow", mock.Anything, "storm-6c1e", "", "release", reauth.ReleaseStorm{By: "Ann"}).Return(nil)
	require.NoError(t, starter.New(c).ReleaseStorm(t.Context(), "6c1e", "Ann"))
	require.Len(t, c.Calls, 1)

	c = &mocks.Client{}
	c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewNotFound("no such workflow"))
	require.ErrorIs(t, starter.New(c).ReleaseStorm(t.Context(), "6c1e", ""), starter.ErrNoStorm)

	c = &mocks.Client{}
	c.On("SignalWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(serviceerror.NewUnavailable("down"))
	err := starter.New(c).ReleaseStorm(t.Context(), "6c1e", "")
	require.ErrorContains(t, err, "down")
	require.NotErrorIs(t, err, starter.ErrNoStorm)
}

func TestStatusAsksTheCase(t *testing.T) {
	want := reauth.Status{CaseID: "run-1", ConnectionID: "con-1", Phase: reauth.PhaseAwaitingCustomer}
	value := &mocks.Value{}
	value.On("Get", mock.Anything).Run(func(args mock.Arguments) {
		reflect.ValueOf(args.Get(0)).Elem().Set(reflect.ValueOf(want))
	}).Return(nil)
	c := &mocks.Client{}
	c.On("QueryWorkflow", mock.Anything, "reauth-con-1", "", "status").Return(value, nil)
	got, err := starter.New(c).Status(t.Context(), "con-1")
	require.NoError(t, err)
	require.Equal(t, want, got)

	c = &mocks.Client{}
	c.On("QueryWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, serviceerror.NewNotFound("no such workflow"))
	_, err = starter.New(c).Status(t.Context(), "con-1")
	require.ErrorIs(t, err, starter.ErrNoOpenCase)

	broken := &mocks.Value{}
	broken.On("Get", mock.Anything).Return(errors.New("no JSON"))
	c = &mocks.Client{}
	c.On("QueryWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(broken, nil)
	_, err = starter.New(c).Status(t.Context(), "con-1")
	require.ErrorContains(t, err, "no JSON")
}

// TestWrongInputReachesNobody: the client has no calls to expect, so any would
// panic.
func TestWrongInputReachesNobody(t *testing.T) {
	s := starter.New(&mocks.Client{})
	ctx := t.Context()
	code := reauth.CodeReceived{Code: "code-SENTINEL"}
	minted := reauth.TokenMinted{ConnectionID: "con-1", CodeHash: "h", Fingerprint: "f", Sealed: []byte("s")}
	without := func(change func(*reauth.TokenMinted)) reauth.TokenMinted { m := minted; change(&m); return m }
	submit := func(id string, m reauth.CodeReceived) error { _, err := s.SubmitCode(ctx, id, m); return err }
	redeem := func(in reauth.RedeemInput) error { _, err := s.Redeem(ctx, in); return err }
	report := func(in reauth.Input) error { _, err := s.Report(ctx, in); return err }
	status := func(id string) error { _, err := s.Status(ctx, id); return err }
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"report without a connection": {report(reauth.Input{}), "connection_id is missing"},
		"report with a wrong source":  {report(reauth.Input{ConnectionID: "con-1", Source: "rumour"}), "source must be one of"},
		"report with a token":         {report(reauth.Input{ConnectionID: "con-1", TokenFingerprint: "token-SENTINEL"}), "token_fingerprint must be"},
		"code for no connection":      {submit("", code), "connection_id is missing"},
		"code for a wrong connection": {submit("a/b", code), "connection_id must be"},
		"no code":                     {submit("con-1", reauth.CodeReceived{}), "code is missing"},
		"code with blanks":            {submit("con-1", reauth.CodeReceived{Code: "code SENTINEL"}), "code must be"},
		"embedded with a redirect":    {submit("con-1", reauth.CodeReceived{Code: "c", Embedded: true, RedirectURI: "https://a"}), "redirect_uri must be absent"},
		"redeem no code":              {redeem(reauth.RedeemInput{}), "code is missing"},
		"redeem to a wrong address":   {redeem(reauth.RedeemInput{Code: "c", RedirectURI: "SENTINEL"}), "redirect_uri must be"},
		"token of no connection":      {s.SubmitMinted(ctx, without(func(m *reauth.TokenMinted) { m.ConnectionID = "" })), "connection_id is missing"},
		"token without itself":        {s.SubmitMinted(ctx, without(func(m *reauth.TokenMinted) { m.Sealed = nil })), "sealed"},
		"token without a fingerprint": {s.SubmitMinted(ctx, without(func(m *reauth.TokenMinted) { m.Fingerprint = "" })), "fingerprint"},
		"token without a code":        {s.SubmitMinted(ctx, without(func(m *reauth.TokenMinted) { m.CodeHash = "" })), "code_hash"},
		"restored":                    {s.Restored(ctx, ""), "connection_id is missing"},
		"cancel":                      {s.Cancel(ctx, "", reauth.Cancel{}), "connection_id is missing"},
		"snooze":                      {s.Snooze(ctx, "", reauth.Snooze{}), "connection_id is missing"},
		"remind now":                  {s.RemindNow(ctx, ""), "connection_id is missing"},
		"stop notices":                {s.StopNotices(ctx, "", reauth.StopNotices{}), "connection_id is missing"},
		"contacts changed":            {s.ContactsChanged(ctx, "", reauth.ContactsChanged{}), "connection_id is missing"},
		"release notices":             {s.ReleaseNotices(ctx, "", reauth.NoticesReleased{}), "connection_id is missing"},
		"watch no storm":              {s.WatchStorm(ctx, ""), "storm_id is missing"},
		"release no storm":            {s.ReleaseStorm(ctx, "", "Ann"), "storm_id is missing"},
		"status":                      {status(""), "connection_id is missing"},
	} {
		require.ErrorIs(t, test.err, starter.ErrRefused, name)
		require.ErrorContains(t, test.err, test.want, name)
		require.NotContains(t, test.err.Error(), "SENTINEL", name)
	}
}

func TestTemporalsErrorsArePassedOn(t *testing.T) {
	c := &mocks.Client{}
	down := serviceerror.NewUnavailable("down")
	c.On("ExecuteWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, down)
	c.On("SignalWithStartWorkflow", mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(nil, down)
	s := starter.New(c)
	_, err := s.Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
	require.ErrorIs(t, err, down)
	require.NotErrorIs(t, err, starter.ErrRefused)
	_, err = s.SubmitCode(t.Context(), "con-1", reauth.CodeReceived{Code: "code-SENTINEL"})
	require.ErrorIs(t, err, down)
	require.NotContains(t, err.Error(), "SENTINEL")
	_, err = s.Redeem(t.Context(), reauth.RedeemInput{Code: "code-SENTINEL"})
	require.ErrorIs(t, err, down)
	require.NotContains(t, err.Error(), "SENTINEL")
	require.ErrorIs(t, s.SubmitMinted(t.Context(), reauth.TokenMinted{ConnectionID: "con-1", CodeHash: "h", Fingerprint: "f", Sealed: []byte("s")}), down)
}
