package activities_test

import (
	"context"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// comeBack is what the customer does: the code that Connect sends back.
func (r *rig) comeBack(c customer, account finchsim.Account) activities.RedeemInput {
	r.t.Helper()
	opened := r.sim.Sessions(c.id)
	require.NotEmpty(r.t, opened)
	code, err := r.sim.CompleteConnect(opened[0].ID, account)
	require.NoError(r.t, err)
	r.secret(code)
	return activities.RedeemInput{Case: &c.ref, Code: code, ReceivedAt: r.now}
}

// opened opens a minted token with our keys.
func (r *rig) opened(minted *reauth.TokenMinted) string {
	r.t.Helper()
	require.NotNil(r.t, minted)
	plain, err := r.keys.Open(minted.Sealed, "minted", minted.ConnectionID)
	require.NoError(r.t, err)
	r.secret(string(plain))
	return string(plain)
}

func (r *rig) exchanges(in activities.RedeemInput) int {
	return r.sim.Counters().Exchanges[reauth.CodeHash(in.Code)]
}

// closed takes the database away.
func (r *rig) closed() {
	r.t.Helper()
	require.NoError(r.t, r.db.Close())
}

func TestRedeem(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.comeBack(c, finchsim.SameAccount)
	out := perform(r, r.acts.Redeem, in)

	assert.Equal(t, reauth.CodeMinted, out.State)
	token := r.opened(out.Minted)
	assert.Equal(t, &reauth.TokenMinted{
		ConnectionID: c.id, CodeHash: reauth.CodeHash(in.Code), Fingerprint: reauth.Fingerprint(token),
		Sealed: out.Minted.Sealed, MintedAt: r.now, Application: reauth.DefaultApplication,
	}, out.Minted)
	_, err := r.keys.Open(out.Minted.Sealed, "minted", "another connection")
	require.ErrorIs(t, err, secrets.ErrSealed, "the sealed token opens for its connection alone")
	assert.Equal(t, reauth.PhaseRedeeming, r.row(c).Phase)
	kept, err := r.db.Minted(t.Context(), reauth.CodeHash(in.Code))
	require.NoError(t, err)
	assert.Equal(t, out.Minted.Sealed, kept.Sealed)
	body := r.asked(exchange)[0].body
	assert.Equal(t, callback, body["redirect_uri"])

	// The worker died before Temporal had the answer: it is looked up, even
	// where nobody could exchange anything now.
	r.advance(time.Minute)
	in.Application = unconfigured
	second, err := again(r, r.acts.Redeem, in)
	require.NoError(t, err)
	out.Minted.Application = unconfigured
	assert.Equal(t, out, second)
	assert.Equal(t, 1, r.exchanges(in))
}

func TestRedeemSendsTheRedirectURIOfItsSession(t *testing.T) {
	r := newRig(t)
	report := activities.Case{CaseID: "k", ConnectionID: "c", Report: reauth.Input{RedirectURI: "https://report.example/back"}}
	for name, test := range map[string]struct {
		in       activities.RedeemInput
		settings string
		want     any
	}{
		"embedded":             {in: activities.RedeemInput{Embedded: true, Case: &report}, settings: "https://settings.example/", want: nil},
		"the message's":        {in: activities.RedeemInput{RedirectURI: "https://message.example/", Case: &report}, want: "https://message.example/"},
		"the report's":         {in: activities.RedeemInput{Case: &report}, want: "https://report.example/back"},
		"the settings'":        {in: activities.RedeemInput{}, settings: "https://settings.example/", want: "https://settings.example/"},
		"by default, our page": {in: activities.RedeemInput{}, want: callback},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.acts.Settings.RedirectURI = test.settings
			test.in.Code = "code-" + strings.ReplaceAll(name, " ", "-")
			before := len(r.asked(exchange))
			perform(r, r.acts.Redeem, test.in)
			asked := r.asked(exchange)[before:]
			require.Len(t, asked, 1)
			assert.Equal(t, test.want, asked[0].body["redirect_uri"])
		})
	}
}

// The whole embedded flow: the session has no redirect URI, and neither has the exchange.
func TestRedeemEmbedded(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	session, err := r.acts.Providers[reauth.DefaultApplication].OpenSession(t.Context(), activities.SessionRequest{ConnectionID: c.id, Minutes: 60})
	require.NoError(t, err)
	code, err := r.sim.CompleteConnect(session.ID, finchsim.SameAccount)
	require.NoError(t, err)
	r.secret(code)
	out := perform(r, r.acts.Redeem, activities.RedeemInput{Case: &c.ref, Code: code, Embedded: true})
	assert.Equal(t, reauth.CodeMinted, out.State)
	r.opened(out.Minted)
}

func TestRedeemWithoutDatabase(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.comeBack(c, finchsim.SameAccount)
	r.closed()
	_, err := run(r, r.acts.Redeem, in)
	assert.Equal(t, "application_unclear", r.failure(err).Type(), "no code is brought with another application's credentials")
	assert.Empty(t, r.asked(exchange))
	in.RedirectURI = callback // which is that of one application alone
	out := perform(r, r.acts.Redeem, in)
	assert.Equal(t, reauth.CodeMinted, out.State)
	token := r.opened(out.Minted)
	assert.NoError(t, r.acts.Providers[reauth.DefaultApplication].Probe(t.Context(), activities.Access{Token: secrets.Secret(token)}))
	assert.Contains(t, r.said.String(), "Temporal has it")
}

// A database that answers nothing must cost less than the heartbeat timeout of
// ten seconds before the code goes out, and less than the attempt's thirty in all.
func TestRedeemWithHangingDatabase(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.comeBack(c, finchsim.SameAccount)
	tx, err := r.raw.Beginx()
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.Exec(`LOCK TABLE minted, cases IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)

	began := time.Now()
	out := perform(r, r.acts.Redeem, in)
	assert.Less(t, r.asked(exchange)[0].at.Sub(began), 9*time.Second)
	assert.Less(t, time.Since(began), 15*time.Second)
	assert.Equal(t, reauth.CodeMinted, out.State)
	r.opened(out.Minted)
}

var requestID = regexp.MustCompile(` \[request [0-9a-f-]{36}\]`)

// attempt is what Finch does to one attempt at an exchange, and what becomes of it.
type attempt struct {
	fault  finchsim.Fault
	change func(*activities.RedeemInput)
	want   activities.Redeemed
	kind   string // of the error
	after  time.Duration
	benign bool
}

func TestRedeemTellsALostAnswerFromARefusal(t *testing.T) {
	r := newRig(t)
	grant := answer(exchange, 400, `{"code": 400, "name": "invalid_grant_error", "message": "Invalid authorization code"}`)
	refused := attempt{fault: grant, want: activities.Redeemed{State: reauth.CodeRefused, Problem: "invalid_grant (invalid_grant_error)"}}
	lost := attempt{fault: grant, want: activities.Redeemed{State: reauth.CodeLost, Unanswered: true, Problem: "an earlier answer was lost on the way"}}
	unanswered := attempt{fault: always(exchange, finchsim.FaultLost), kind: "no_answer"}
	broken := attempt{fault: always(exchange, finchsim.FaultServerError), kind: "unavailable"}
	limited := attempt{fault: always(exchange, finchsim.FaultRateLimit), kind: "rate_limited", after: 37 * time.Second}
	notSent := attempt{change: func(in *activities.RedeemInput) { in.Application = unreachable }, kind: "unreachable"}
	blocked := attempt{change: func(in *activities.RedeemInput) { in.Application = wrongSecret }}
	blocked.want = activities.Redeemed{State: reauth.CodeReceivedState, Blocked: true, Problem: "The provider refuses our own client credentials (invalid_client (invalid_client_error))."}
	patient := attempt{change: func(in *activities.RedeemInput) { in.Application, in.Patient = wrongSecret, true }, kind: "invalid_client", benign: true}
	unknown := attempt{change: func(in *activities.RedeemInput) { in.Application = unconfigured }}
	unknown.want = activities.Redeemed{State: reauth.CodeReceivedState, Blocked: true, Problem: `no client credentials are configured for the application "unconfigured"`}
	waiting := attempt{change: func(in *activities.RedeemInput) { in.Application, in.Patient = unconfigured, true }, kind: "invalid_client", benign: true}
	odd := attempt{
		fault: answer(exchange, 400, `{"code": 400, "name": "bad_request"}`),
		want:  activities.Redeemed{State: reauth.CodeRefused, Problem: "invalid_request (bad_request)"},
	}
	oddly := attempt{fault: odd.fault, want: lost.want}
	// A blocked exchange starts anew, as another activity: what the heartbeats
	// of the first one said is gone, and only its answer tells.
	unansweredAndBlocked, unansweredAndUnknown := blocked, unknown
	unansweredAndBlocked.want.Unanswered, unansweredAndUnknown.want.Unanswered = true, true
	anew := func(a attempt, unanswered bool) attempt {
		change := a.change
		a.change = func(in *activities.RedeemInput) {
			if change != nil {
				change(in)
			}
			r.heartbit = nil
			in.Patient, in.Unanswered = true, unanswered
		}
		return a
	}
	for name, attempts := range map[string][]attempt{
		"refused":                         {refused},
		"refused in some other way":       {odd},
		"lost":                            {unanswered, lost},
		"lost behind an error":            {broken, lost},
		"lost, after more unanswered":     {unanswered, broken, unanswered, lost},
		"lost, then too many calls":       {unanswered, limited, lost},
		"lost, then nobody there":         {unanswered, notSent, lost},
		"lost, then our credentials fail": {unanswered, patient, lost},
		"too many calls, then refused":    {limited, refused},
		"nobody there, then refused":      {notSent, refused},
		"our credentials are refused":     {blocked},
		"they are still refused":          {patient, patient, refused},
		"no credentials are configured":   {unknown},
		"there are still none":            {waiting, refused},
		"lost, then refused in some way":  {unanswered, oddly},
		"lost, across a blocked restart":  {unanswered, unansweredAndBlocked, anew(lost, true)},
		"lost, the restart blocked too":   {unanswered, unansweredAndBlocked, anew(patient, true), anew(lost, true)},
		"lost, with none configured then": {unanswered, unansweredAndUnknown, anew(waiting, true), anew(lost, true)},
		"refused, across such a restart":  {limited, blocked, anew(refused, false)},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.heartbit = nil
			for i, a := range attempts {
				in := activities.RedeemInput{Code: "planted-code-" + strings.Map(func(r rune) rune {
					if r < 'a' || r > 'z' {
						return '-'
					}
					return r
				}, name)}
				r.secret(in.Code)
				if r.fail(); a.fault.Kind != "" {
					r.fail(a.fault)
				}
				if a.change != nil {
					a.change(&in)
				}
				out, err := again(r, r.acts.Redeem, in)
				if a.kind == "" {
					require.NoError(t, err, "attempt %d", i+1)
					out.Problem = requestID.ReplaceAllString(out.Problem, "")
					assert.Equal(t, a.want, out, "attempt %d", i+1)
					continue
				}
				failure := r.failure(err)
				assert.Equal(t, a.kind, failure.Type(), "attempt %d", i+1)
				assert.Equal(t, a.after, failure.NextRetryDelay(), "attempt %d", i+1)
				assert.Equal(t, a.benign, benign(failure), "attempt %d", i+1)
			}
		})
	}
}

// The word that a code may be spent reaches Temporal before Finch has the code,
// so that even a worker that is killed leaves it behind.
func TestRedeemSaysSoBeforeItAsks(t *testing.T) {
	r := newRig(t)
	r.fail(always(exchange, finchsim.FaultLost))
	_, err := run(r, r.acts.Redeem, activities.RedeemInput{Code: "planted-code-heartbeat"})
	require.Error(t, err)
	require.NotEmpty(t, r.heartbit)
	require.True(t, r.heartbit[0].HasValues())
	var said string
	require.NoError(t, r.heartbit[0].Get(&said))
	assert.Equal(t, "asked", said)
}

// A code whose connection is not known is sealed for the one that Finch names,
// and goes to its case.
func TestRedeemWithoutCase(t *testing.T) {
	r := newRig(t)
	c := r.stale()
	in := r.comeBack(c, finchsim.SameAccount)
	in.Case = nil
	out := perform(r, r.acts.Redeem, in)
	assert.Equal(t, c.id, out.Minted.ConnectionID)
	r.opened(out.Minted)

	perform(r, alone(r.acts.HandOver), *out.Minted)
	assert.Equal(t, []reauth.TokenMinted{*out.Minted}, r.handed)
	code, err := r.db.CodeByHash(t.Context(), reauth.CodeHash(in.Code))
	require.NoError(t, err)
	assert.Equal(t, reauth.CodeMinted, code.State)
	assert.Equal(t, c.id, code.ConnectionID)

	// A hand-over that fails is tried again; one without a database is not held up.
	r.handFail = assert.AnError
	_, err = run(r, alone(r.acts.HandOver), *out.Minted)
	require.Error(t, err)
	r.handFail = nil
	r.closed()
	perform(r, alone(r.acts.HandOver), *out.Minted)
	assert.Len(t, r.handed, 3)
}

// silent is a provider that does not say how a connection does.
type silent struct{ activities.Provider }

func (silent) Inspect(ctx context.Context, _ activities.Access) (activities.Inspection, error) {
	select {
	case <-ctx.Done():
		return activities.Inspection{}, ctx.Err()
	case <-time.After(30 * time.Second):
		return activities.Inspection{ConnectionID: "nobody-waited-so-long"}, nil
	}
}

// The case's own connection proves nothing: a token is sealed for the one that
// the provider names, in its answer or when it is asked once more, or for none.
func TestRedeemSaysWhoseTheTokenIsOnlyIfTheProviderDoes(t *testing.T) {
	r := newRig(t)
	another, _, err := r.sim.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	for name, test := range map[string]struct {
		introspect             finchsim.Fault
		another, named, silent bool
	}{
		"the token tells":                  {named: true},
		"the token tells, it is another's": {another: true, named: true},
		"the provider fails":               {introspect: always(introspect, finchsim.FaultServerError)},
		"it fails, and it is another's":    {introspect: always(introspect, finchsim.FaultServerError), another: true},
		"it wants the login":               {introspect: answer(introspect, 401, `{"finch_code": "reauthenticate_user"}`)},
		"its answer names nobody":          {introspect: answer(introspect, 200, `{"connection_status": {"status": "connected"}}`)},
		"it never answers":                 {silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			c := r.stale()
			owner, want := c.id, ""
			if test.another {
				owner = another.ID
			}
			if test.named {
				want = owner
			}
			token, err := r.sim.MintToken(owner)
			require.NoError(t, err)
			r.secret(token)
			faults := []finchsim.Fault{answer(exchange, 200, `{"access_token": "`+token+`", "token_type": "bearer"}`)}
			if test.introspect.Kind != "" {
				faults = append(faults, test.introspect)
			}
			r.fail(faults...)
			if finch := r.acts.Providers[reauth.DefaultApplication]; test.silent {
				r.acts.Providers[reauth.DefaultApplication] = silent{finch}
				defer func() { r.acts.Providers[reauth.DefaultApplication] = finch }()
			}
			in := activities.RedeemInput{Case: &c.ref, Code: "planted-code-of-" + c.id}
			r.secret(in.Code)
			out := perform(r, r.acts.Redeem, in)
			assert.Equal(t, reauth.CodeMinted, out.State)
			assert.Equal(t, want, out.Minted.ConnectionID)
			assert.Equal(t, token, r.opened(out.Minted))

			// Whoever looks it up learns no more.
			in.LookUp = true
			assert.Equal(t, out, perform(r, r.acts.Redeem, in))
		})
	}
}

// A token of which nobody knows whose it is goes to no case.
func TestHandOverOfATokenOfNobodyKnown(t *testing.T) {
	r := newRig(t)
	minted := r.minted("", "planted-token-of-nobody-known")
	for range 2 {
		perform(r, alone(r.acts.HandOver), minted)
		assert.Empty(t, r.handed)
		aside, err := r.db.Quarantined(t.Context(), minted.Fingerprint)
		require.NoError(t, err)
		assert.Equal(t, db.QuarantinedToken{Fingerprint: minted.Fingerprint, Sealed: minted.Sealed, Reason: "owner_unproved", At: r.now}, aside)
		code, err := r.db.CodeByHash(t.Context(), minted.CodeHash)
		require.NoError(t, err)
		assert.Equal(t, reauth.CodeLost, code.State, "the page asks for one more click")
	}
}

func TestTellOfCode(t *testing.T) {
	r := newRig(t)
	tell := alone(r.acts.TellOfCode)
	in := activities.RedeemProblem{Application: "sandbox", Step: "credentials", Problem: "Finch refuses our own client credentials."}

	// Until the mail server has taken it …
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 450}))
	_, err := run(r, tell, in)
	for range 2 {
		assert.Equal(t, "mail_deferred", r.failure(err).Type())
		assert.True(t, benign(r.failure(err)))
		_, err = again(r, tell, in)
	}
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	_, err = again(r, tell, in)
	require.NoError(t, err)
	require.Len(t, r.mails(operatorMail), 1)
	mail := r.mails(operatorMail)[0]
	assert.Contains(t, mail.Text, in.Problem)
	assert.Equal(t, notify.MessageID("product.example", "default-test-workflow-id", "credentials-sandbox", 0, "operator"), mail.MessageID)

	// … and not again when the worker died before it could say so.
	_, err = again(r, tell, in)
	require.NoError(t, err)
	require.Len(t, r.mails(operatorMail), 1)

	// Nor where the mail server took it and did not say so, or takes it never.
	for _, knobs := range []inbox.Knobs{
		{Fault: inbox.FaultDrop, At: inbox.AtContent},
		{Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 550},
	} {
		require.NoError(t, r.inbox.SetKnobs(knobs))
		perform(r, tell, in)
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
		_, err = again(r, tell, in)
		require.NoError(t, err)
	}
	taken := len(r.mails(operatorMail))
	assert.Equal(t, 2, taken)

	// Another application's trouble is another mail; without an address the log has to do.
	in.Application = ""
	perform(r, tell, in)
	require.Len(t, r.mails(operatorMail), taken+1)
	assert.NotEqual(t, mail.MessageID, r.mails(operatorMail)[taken].MessageID)
	r.acts.Settings.OperatorEmail = ""
	in.Problem = "Said to nobody."
	perform(r, tell, in)
	assert.Len(t, r.mails(operatorMail), taken+1)
	assert.Contains(t, r.said.String(), in.Problem)
}

func TestSettleCode(t *testing.T) {
	r := newRig(t)
	settle := alone(r.acts.SettleCode)
	for state, phase := range map[reauth.CodeState]reauth.Phase{
		reauth.CodeRefused:  reauth.PhaseAwaitingCustomer,
		reauth.CodeLost:     reauth.PhaseAwaitingCustomer,
		reauth.CodeUnusable: reauth.PhaseBlocked, // our own fault goes on
	} {
		t.Run(string(state), func(t *testing.T) {
			r.in(t)
			c := r.stale()
			require.NoError(t, r.db.SetPhase(t.Context(), c.ref.CaseID, reauth.PhaseBlocked, ""))
			hash := reauth.CodeHash("code of " + c.id)
			in := activities.SettleInput{Case: &c.ref, CodeHash: hash, State: state, Problem: "why", SessionOrdinal: 1}
			perform(r, settle, in)
			perform(r, settle, in)
			code, err := r.db.CodeByHash(t.Context(), hash)
			require.NoError(t, err)
			assert.Equal(t, state, code.State)
			assert.Equal(t, c.ref.CaseID, code.CaseID)
			row := r.row(c)
			assert.Equal(t, phase, row.Phase)
			assert.Empty(t, row.ConnectURL, "the session is used up")
			assert.Equal(t, []string{"why"}, r.timeline(c, "code_"+string(state)))

			// The first result stands.
			in.State = reauth.CodeWrongAccount
			perform(r, settle, in)
			code, err = r.db.CodeByHash(t.Context(), hash)
			require.NoError(t, err)
			assert.Equal(t, state, code.State)
		})
	}
	t.Run("without a case", func(t *testing.T) {
		r.in(t)
		nobodys := activities.Case{CaseID: "without-a-row", ConnectionID: "nobodys"}
		for hash, in := range map[string]activities.SettleInput{
			reauth.CodeHash("1"): {},
			reauth.CodeHash("2"): {Case: &nobodys},
		} {
			in.CodeHash, in.State = hash, reauth.CodeRefused
			perform(r, settle, in)
			code, err := r.db.CodeByHash(t.Context(), hash)
			require.NoError(t, err)
			assert.Equal(t, reauth.CodeRefused, code.State)
			assert.Empty(t, code.CaseID)
		}
	})
	t.Run("a later session stays", func(t *testing.T) {
		r.in(t)
		c := r.stale()
		require.NoError(t, r.db.SetSession(t.Context(), c.ref.CaseID, db.Session{
			ID: "s2", URL: "https://connect.example/", Ordinal: 2, ExpiresAt: r.now, DeadlineAt: r.now,
		}))
		perform(r, settle, activities.SettleInput{Case: &c.ref, CodeHash: reauth.CodeHash("3"), State: reauth.CodeRefused, SessionOrdinal: 1})
		assert.Equal(t, "https://connect.example/", r.row(c).ConnectURL)
	})
}

// A case that begins with its code has asked nobody yet whose client
// credentials its connection belongs to.
func TestRedeemFindsTheApplication(t *testing.T) {
	r := newRig(t)
	c, in, _ := r.back()
	_, err := r.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: c.id, Application: wrongSecret})
	require.NoError(t, err)
	out, err := run(r, r.acts.Redeem, activities.RedeemInput{Case: &in.Case, Code: "planted-code-of-another-application"})
	require.NoError(t, err)
	assert.True(t, out.Blocked, "it asks with that application's credentials, which are wrong")
}

// Every application has a redirect URI of its own, and its own credentials.
func TestRedeemByApplication(t *testing.T) {
	r := newRig(t)
	sandbox, err := finchsim.New(finchsim.Config{ClientID: "sandbox", ClientSecret: "planted-sandbox-secret", RedirectURIs: []string{callback + "/sandbox"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sandbox.Close() })
	server := httptest.NewServer(sandbox)
	t.Cleanup(server.Close)
	r.secret("planted-sandbox-secret")
	r.acts.Providers["sandbox"] = activities.Finch{Client: finch.New(finch.Config{BaseURL: server.URL, ClientID: "sandbox", ClientSecret: "planted-sandbox-secret"})}
	ours := r.sim
	r.sim = sandbox
	c := r.stale(func(o *options) { o.application = "sandbox" })
	opened := sandbox.Sessions(c.id)
	require.Len(t, opened, 1)
	assert.Equal(t, callback+"/sandbox", opened[0].RedirectURI)

	complete := func() activities.RedeemInput {
		t.Helper()
		session, err := r.acts.Providers["sandbox"].OpenSession(t.Context(), activities.SessionRequest{ConnectionID: c.id, Minutes: 60, RedirectURI: callback + "/sandbox"})
		require.NoError(t, err)
		code, err := sandbox.CompleteConnect(session.ID, finchsim.SameAccount)
		require.NoError(t, err)
		r.secret(code)
		return activities.RedeemInput{Case: &c.ref, Code: code, ReceivedAt: r.now}
	}
	// A case that begins with its code asks the database.
	out := perform(r, r.acts.Redeem, complete())
	assert.Equal(t, "sandbox", out.Minted.Application)
	// A code of which no case is known says it by where it came back.
	in := complete()
	in.Case, in.Application = nil, "sandbox"
	assert.Equal(t, "sandbox", perform(r, r.acts.Redeem, in).Minted.Application)
	// Without the database, the redirect URI does.
	in = complete()
	in.RedirectURI = callback + "/sandbox"
	r.closed()
	assert.Equal(t, "sandbox", perform(r, r.acts.Redeem, in).Minted.Application)
	assert.Zero(t, ours.Counters().Calls["POST /auth/token"], "no code met the other application's Finch")
}
