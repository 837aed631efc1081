package activities_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	invalidToken  = `{"code": 401, "name": "invalid_token_error", "message": "Invalid access token"}`
	setupRequired = `{"code": 401, "name": "authentication_error", "finch_code": "account_setup_required"}`
	noPermissions = `{"code": 403, "name": "error_permissions", "finch_code": "insufficient_account_permissions"}`
)

func TestConfirmAsksTheProvider(t *testing.T) {
	r := newRig(t)
	status := func(status string) func(customer) {
		return func(c customer) { require.NoError(t, r.sim.SetStatus(c.id, status)) }
	}
	fails := func(f finchsim.Fault) func(customer) { return func(customer) { r.fail(f) } }
	stale := func(c customer) { require.NoError(t, r.sim.Break(c.id)) }
	silent := func(o *options) { o.report.FinchCode = "" }
	coded := func(code string, tokenless bool) func(*options) {
		return func(o *options) { o.report.FinchCode, o.tokenless = code, tokenless }
	}
	for name, test := range map[string]struct {
		change  func(*options)
		arrange func(customer)
		verdict activities.Verdict
		problem string // of the verdict blocked, or connected
		// Of an attempt that fails:
		kind   string
		after  time.Duration
		benign bool
	}{
		"the connection wants the login": {arrange: stale, verdict: activities.VerdictStale},
		"one entity alone wants the login": {
			change: func(o *options) { o.entities = []string{"North", "South"} },
			arrange: func(c customer) {
				connection, err := r.sim.Connection(c.id)
				require.NoError(t, err)
				require.NoError(t, r.sim.Break(c.id, connection.Entities[1].ID))
			},
			verdict: activities.VerdictStale,
		},
		"introspect itself wants the login": {
			arrange: func(c customer) {
				stale(c)
				require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) { k.IntrospectUnauthorized = true }))
			},
			verdict: activities.VerdictStale,
		},
		"it works":                      {arrange: status(finch.StatusConnected), verdict: activities.VerdictConnected},
		"it is pending":                 {arrange: status(finch.StatusPending), kind: "pending", after: 5 * time.Minute, benign: true},
		"it is processing":              {arrange: status(finch.StatusProcessing), kind: "pending", after: 5 * time.Minute, benign: true},
		"permissions are missing":       {arrange: status(finch.StatusErrorPermissions), verdict: activities.VerdictBlocked, problem: "error_permissions"},
		"no account is set up":          {arrange: status(finch.StatusErrorNoAccountSetup), verdict: activities.VerdictBlocked, problem: "error_no_account_setup"},
		"an account must be set up":     {arrange: fails(answer(introspect, 401, setupRequired)), verdict: activities.VerdictBlocked, problem: "account_setup_required"},
		"the account lacks permissions": {arrange: fails(answer(introspect, 403, noPermissions)), verdict: activities.VerdictBlocked, problem: "insufficient_account_permissions"},
		"a status that nobody knows": {
			arrange: fails(answer(introspect, 200, `{"connection_id": "x", "connection_status": {"status": "hibernating"}}`)),
			verdict: activities.VerdictBlocked, problem: "hibernating",
		},
		"a dead token, and the report is clear":    {arrange: fails(answer(introspect, 401, invalidToken)), verdict: activities.VerdictStale},
		"a dead token, and the report is not":      {change: silent, arrange: fails(answer(introspect, 401, invalidToken)), verdict: activities.VerdictBlocked, problem: "invalid_token"},
		"a bare 401, although the report is clear": {arrange: fails(answer(introspect, 401, `{}`)), verdict: activities.VerdictBlocked, problem: "unauthorized"},
		"no credentials are configured": {
			change: func(o *options) { o.application = unconfigured }, arrange: stale,
			verdict: activities.VerdictBlocked, problem: `"unconfigured"`,
		},
		"too many calls":     {arrange: fails(always(introspect, finchsim.FaultRateLimit)), kind: "rate_limited", after: 37 * time.Second},
		"the provider fails": {arrange: fails(always(introspect, finchsim.FaultServerError)), kind: "unavailable"},
		"no answer":          {arrange: fails(always(introspect, finchsim.FaultDrop)), kind: "no_answer"},
		"nobody is there":    {change: func(o *options) { o.application = unreachable }, arrange: stale, kind: "unreachable"},
		// A report about the customer's account opens no session by itself.
		"an account must be set up, but the login is lost": {change: coded("account_setup_required", false), arrange: stale, verdict: activities.VerdictStale},
		"an account must be set up, and a dead token": {
			change: coded("account_setup_required", false), arrange: fails(answer(introspect, 401, invalidToken)),
			verdict: activities.VerdictBlocked, problem: "invalid_token",
		},
		"a permission is missing, but it works": {
			change: coded("insufficient_account_permissions", false), arrange: status(finch.StatusConnected),
			verdict: activities.VerdictConnected, problem: "refused with insufficient_account_permissions",
		},
		"error_permissions, but it works": {
			change: coded("error_permissions", false), arrange: status(finch.StatusConnected),
			verdict: activities.VerdictConnected, problem: "error_permissions",
		},
		"error_no_account_setup, and it says so": {
			change: coded("error_no_account_setup", false), arrange: status(finch.StatusErrorNoAccountSetup),
			verdict: activities.VerdictBlocked, problem: "error_no_account_setup",
		},
		"an account must be set up, and no token is stored": {
			change: coded("account_setup_required", true), arrange: stale,
			verdict: activities.VerdictBlocked, problem: "No token of the connection is stored",
		},
		"a permission is missing, and no token is stored": {
			change: coded("insufficient_account_permissions", true), arrange: stale,
			verdict: activities.VerdictBlocked, problem: "insufficient_account_permissions",
		},
		"a permission is missing, no token is stored, and then the login is lost": {
			change: coded("insufficient_account_permissions", true), arrange: func(c customer) {
				stale(c)
				_, err := r.db.OpenCase(t.Context(), db.Case{
					CaseID: c.ref.CaseID, ConnectionID: c.id, Source: reauth.SourceAPIError,
					FinchCode: c.ref.Report.FinchCode, OpenedAt: c.ref.OpenedAt,
				})
				require.NoError(t, err)
				require.NoError(t, r.db.Recode(t.Context(), c.ref.CaseID))
			},
			verdict: activities.VerdictStale,
		},
		"no token is stored": {change: func(o *options) { o.tokenless = true }, arrange: stale, verdict: activities.VerdictStale},
	} {
		for _, patient := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", and the operator knows"}[patient], func(t *testing.T) {
				r.in(t)
				require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) { *k = finchsim.DefaultKnobs() }))
				c := r.customer(test.change)
				test.arrange(c)
				out, err := run(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref, Patient: patient})

				kind, after, expected := test.kind, test.after, test.benign
				if patient && test.verdict == activities.VerdictConnected {
					test.problem = "" // the operator knows already
				}
				if patient && test.verdict == activities.VerdictBlocked { // asked again until it changes
					kind, after, expected = "blocked", 0, true
				}
				if kind != "" {
					failure := r.failure(err)
					assert.Equal(t, kind, failure.Type())
					assert.Equal(t, after, failure.NextRetryDelay())
					assert.Equal(t, expected, benign(failure))
					assert.Contains(t, failure.Message(), test.problem)
					assert.NotContains(t, failure.Message(), "retryable")
				} else {
					require.NoError(t, err)
					assert.Equal(t, test.verdict, out.Verdict)
					assert.Contains(t, out.Problem, test.problem)
					assert.NotContains(t, out.Problem, "retryable")
					assert.Equal(t, test.problem == "", out.Problem == "")
					assert.Len(t, r.timeline(c, "confirmed"), 1)
				}
				opened := r.sim.Sessions(c.id)
				if test.verdict != activities.VerdictStale {
					assert.Empty(t, opened)
					assert.Nil(t, out.Session)
					assert.Equal(t, reauth.PhaseConfirming, r.row(c).Phase)
					return
				}
				require.Len(t, opened, 1)
				assert.Equal(t, opened[0].ID, out.Session.ID)
				assert.Equal(t, r.now, out.ConfirmedAt)
				row := r.row(c)
				assert.Equal(t, reauth.PhaseAwaitingCustomer, row.Phase)
				assert.Equal(t, opened[0].ID, row.SessionID)
				assert.Contains(t, row.ConnectURL, opened[0].ID)
			})
		}
	}
}

func TestConfirmTurnsReportsAway(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	// ended leaves a case behind that ended a day ago.
	ended := func(c customer, outcome reauth.Outcome, code ...string) {
		at := r.now.Add(-24 * time.Hour)
		_, err := r.db.OpenCase(ctx, db.Case{CaseID: "before-" + c.id, ConnectionID: c.id, Source: reauth.SourceAPIError, FinchCode: strings.Join(code, ""), OpenedAt: at})
		require.NoError(t, err)
		_, err = r.db.CloseCase(ctx, db.Closing{CaseID: "before-" + c.id, Outcome: outcome, At: at})
		require.NoError(t, err)
	}
	cancelled := func(c *customer) { ended(*c, reauth.OutcomeCancelled) }
	source := func(s reauth.Source) func(*options) { return func(o *options) { o.report.Source = s } }
	for name, test := range map[string]struct {
		change  func(*options)
		arrange func(*customer)
		want    activities.Confirmed
	}{
		"nobody registered it": {
			arrange: func(c *customer) { c.ref.ConnectionID, c.id = "nobodys", "nobodys" },
			want:    activities.Confirmed{Verdict: activities.VerdictUnknown},
		},
		"it was removed": {
			arrange: func(c *customer) {
				_, err := r.db.RemoveConnection(ctx, c.id)
				require.NoError(t, err)
			},
			want: activities.Confirmed{Verdict: activities.VerdictRemoved},
		},
		"the token has been replaced": {
			change: source(reauth.SourceManual),
			arrange: func(c *customer) {
				c.ref.Report.TokenFingerprint = reauth.Fingerprint(c.token)
				r.adopt(*c, "a-newer-token-"+c.id, r.now)
			},
			want: activities.Confirmed{Verdict: activities.VerdictSuperseded, Generation: 2},
		},
		"the token is the stored one": {
			arrange: func(c *customer) { c.ref.Report.TokenFingerprint = reauth.Fingerprint(c.token) },
		},
		"the token was never ours": {
			arrange: func(c *customer) { c.ref.Report.TokenFingerprint = reauth.Fingerprint("a backend's own") },
		},
		"the login is lost, after a false alarm about the account": {
			arrange: func(c *customer) {
				ended(*c, reauth.OutcomeFalseAlarm, "error_permissions")
				c.ref.OpenedAt = c.ref.OpenedAt.Add(-23*time.Hour - 30*time.Minute)
				r.advance(-23*time.Hour - 30*time.Minute)
			},
		},
		"api_error while reports are suppressed": {
			arrange: cancelled,
			want:    activities.Confirmed{Verdict: activities.VerdictSuppressed, Reason: "cancelled"},
		},
		"webhook while reports are suppressed": {
			change:  source(reauth.SourceWebhook),
			arrange: func(c *customer) { ended(*c, reauth.OutcomeExpired) },
			want:    activities.Confirmed{Verdict: activities.VerdictSuppressed, Reason: "expired"},
		},
		"sweep while reports are suppressed": {
			change:  source(reauth.SourceSweep),
			arrange: func(c *customer) { ended(*c, reauth.OutcomeFailed) },
			want:    activities.Confirmed{Verdict: activities.VerdictSuppressed, Reason: "failed"},
		},
		"a person reports": {change: source(reauth.SourceManual), arrange: cancelled},
		"a link reports":   {change: source(reauth.SourceLink), arrange: cancelled},
		"the false alarm is long over": {
			arrange: func(c *customer) { ended(*c, reauth.OutcomeFalseAlarm) },
		},
		"the cool-down is over by our clock": {
			arrange: func(c *customer) { cancelled(c); r.advance(29*24*time.Hour + time.Minute) },
		},
		"the report was heard before": { // a repeated attempt finds its own case
			arrange: func(c *customer) {
				c.ref.Report.TokenFingerprint = reauth.Fingerprint(c.token)
				perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
				r.adopt(*c, "a-newer-token-"+c.id, r.now)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			defer func(now time.Time) { r.now = now }(r.now)
			c := r.customer(test.change)
			require.NoError(t, r.sim.Break(c.id))
			test.arrange(&c)
			before := len(r.sim.Sessions(""))
			out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
			if test.want.Verdict == "" {
				assert.Equal(t, activities.VerdictStale, out.Verdict)
				assert.Len(t, r.sim.Sessions(""), before+1)
				return
			}
			if test.want.Verdict == activities.VerdictSuppressed {
				require.NotNil(t, out.Until)
				assert.WithinDuration(t, r.now.Add(29*24*time.Hour), *out.Until, time.Second)
				out.Until = nil
			}
			assert.Equal(t, test.want, out)
			assert.Len(t, r.sim.Sessions(""), before, "no session")
			_, err := r.db.CaseByID(ctx, c.ref.CaseID)
			require.ErrorIs(t, err, db.ErrNotFound, "no case")
		})
	}
}

func TestConfirmRepeatedChangesNothing(t *testing.T) {
	r := newRig(t)
	c := r.customer()
	require.NoError(t, r.sim.Break(c.id))
	in := activities.ConfirmInput{Case: c.ref}
	first := perform(r, r.acts.Confirm, in)
	second := perform(r, r.acts.Confirm, in)

	// The provider has a further session, whose address is the one to use.
	first.Session.ID = second.Session.ID
	assert.Equal(t, first, second)
	row := r.row(c)
	assert.Equal(t, second.Session.ID, row.SessionID)
	assert.Equal(t, 1, row.SessionOrdinal)
	assert.Len(t, r.timeline(c, db.EventOpened), 1)
	assert.Len(t, r.timeline(c, "confirmed"), 1)
	var cases int
	require.NoError(t, r.raw.Get(&cases, `SELECT count(*) FROM cases`))
	assert.Equal(t, 1, cases)
}

func TestConfirmOpensASessionAsPlanned(t *testing.T) {
	r := newRig(t)
	three := 3
	hourly := campaign.BookOf(campaign.FromReminders([]string{"1h"}))
	for name, test := range map[string]struct {
		change   func(*options)
		settings activities.Settings
		minutes  int
		redirect string
		products []any
		plan     activities.Plan
	}{
		"nothing is said": {minutes: 43_200, redirect: callback, plan: activities.Plan{Campaign: campaign.Default()}},
		"by the settings": {
			settings: activities.Settings{SessionMinutes: 90, SessionRenewals: 2, Campaigns: hourly},
			minutes:  90, redirect: callback, plan: activities.Plan{Renewals: 2, Campaign: campaign.FromReminders([]string{"1h"})},
		},
		"by the report": {
			settings: activities.Settings{SessionMinutes: 90, SessionRenewals: 2, Campaigns: hourly},
			change: func(o *options) {
				o.products = []string{"company"}
				o.report.MinutesToExpire, o.report.Renewals, o.report.Reminders = 60, &three, []string{"2h"}
				o.report.Products, o.report.RedirectURI = []string{"directory", "payment"}, "https://elsewhere.example/back"
			},
			minutes: 60, redirect: "https://elsewhere.example/back", products: []any{"directory", "payment"},
			plan: activities.Plan{Renewals: 3, Campaign: campaign.FromReminders([]string{"2h"})},
		},
		"products of the connection": {
			change:  func(o *options) { o.products = []string{"company", "ssn"} },
			minutes: 43_200, redirect: callback, products: []any{"company", "ssn"}, plan: activities.Plan{Campaign: campaign.Default()},
		},
		"the callback is elsewhere": {
			settings: activities.Settings{RedirectURI: "https://pages.example/done"},
			minutes:  43_200, redirect: "https://pages.example/done", plan: activities.Plan{Campaign: campaign.Default()},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			defer func(was activities.Settings) { r.acts.Settings = was }(r.acts.Settings)
			test.settings.PublicURL = publicURL
			r.acts.Settings = test.settings
			r.fail(answer(sessions, 201, `{"session_id": "s-1", "connect_url": "https://connect.example/?s-1"}`))
			c := r.customer(test.change)
			require.NoError(t, r.sim.Break(c.id))
			before := len(r.asked(sessions))
			out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})

			asked := r.asked(sessions)[before:]
			require.Len(t, asked, 1)
			want := map[string]any{"connection_id": c.id, "minutes_to_expire": float64(test.minutes), "redirect_uri": test.redirect}
			if test.products != nil {
				want["products"] = test.products
			}
			assert.Equal(t, want, asked[0].body)
			test.plan.Minutes, test.plan.Application = test.minutes, reauth.DefaultApplication
			assert.Equal(t, test.plan, out.Plan)
			life := time.Duration(test.minutes) * time.Minute
			assert.Equal(t, &activities.Session{ID: "s-1", Ordinal: 1, OpenedAt: r.now, ExpiresAt: r.now.Add(life)}, out.Session)
			row := r.row(c)
			assert.Equal(t, "https://connect.example/?s-1", row.ConnectURL)
			assert.Equal(t, r.now.Add(life), *row.SessionExpiresAt)
			assert.Equal(t, r.now.Add(time.Duration(1+test.plan.Renewals)*life), *row.DeadlineAt, "renewals included")
		})
	}
}

// slow is a provider whose answers take a while.
type slow struct {
	activities.Provider
	wait func()
}

func (s slow) OpenSession(ctx context.Context, request activities.SessionRequest) (activities.OpenSession, error) {
	defer s.wait()
	return s.Provider.OpenSession(ctx, request)
}

func TestSessionLivesFromBeforeTheCall(t *testing.T) {
	r := newRig(t)
	c := r.customer()
	require.NoError(t, r.sim.Break(c.id))
	asked := r.now
	r.acts.Providers[reauth.DefaultApplication] = slow{r.acts.Providers[reauth.DefaultApplication], func() { r.advance(20 * time.Second) }}
	out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	assert.Equal(t, asked, out.Session.OpenedAt)
	assert.Equal(t, asked.Add(43_200*time.Minute), out.Session.ExpiresAt)
}

func TestSessionErrors(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]struct {
		change  func(*options)
		fault   finchsim.Fault
		verdict activities.Verdict
		problem string
		kind    string
		after   time.Duration
	}{
		"our credentials are refused":          {change: func(o *options) { o.application, o.tokenless = wrongSecret, true }, verdict: activities.VerdictBlocked, problem: "client credentials"},
		"our credentials are refused by name":  {fault: answer(sessions, 401, `{"code": 401, "name": "invalid_client_error"}`), verdict: activities.VerdictBlocked, problem: "client credentials"},
		"the connection is gone, says a code":  {fault: answer(sessions, 404, `{"code": 404, "name": "not_found", "finch_code": "connection_not_found"}`), verdict: activities.VerdictNotFound},
		"the connection is gone, says a text":  {fault: answer(sessions, 400, `{"code": 400, "name": "bad_request", "message": "Connection not found"}`), verdict: activities.VerdictNotFound},
		"the redirect URI is not configured":   {change: func(o *options) { o.report.RedirectURI = "https://unknown.example/" }, verdict: activities.VerdictBlocked, problem: "redirect URI"},
		"no client credentials are configured": {change: func(o *options) { o.application, o.tokenless = unconfigured, true }, verdict: activities.VerdictBlocked, problem: "unconfigured"},
		"too many calls":                       {fault: always(sessions, finchsim.FaultRateLimit), kind: "rate_limited", after: 37 * time.Second},
		"the provider fails":                   {fault: always(sessions, finchsim.FaultServerError), kind: "unavailable"},
		"no answer":                            {fault: always(sessions, finchsim.FaultLost), kind: "no_answer"},
		"nobody is there":                      {change: func(o *options) { o.application, o.tokenless = unreachable, true }, kind: "unreachable"},
	} {
		for _, patient := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", and the operator knows"}[patient], func(t *testing.T) {
				r.in(t)
				if r.fail(); test.fault.Kind != "" {
					r.fail(test.fault)
				}
				c := r.customer(test.change)
				require.NoError(t, r.sim.Break(c.id))
				out, err := run(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref, Patient: patient})
				switch {
				case test.kind != "":
					failure := r.failure(err)
					assert.Equal(t, test.kind, failure.Type())
					assert.Equal(t, test.after, failure.NextRetryDelay())
					assert.False(t, benign(failure))
				case patient && test.verdict == activities.VerdictBlocked:
					failure := r.failure(err)
					assert.Equal(t, "blocked", failure.Type())
					assert.True(t, benign(failure))
					assert.Contains(t, failure.Message(), test.problem)
				default:
					require.NoError(t, err)
					assert.Equal(t, test.verdict, out.Verdict)
					assert.Contains(t, out.Problem, test.problem)
					assert.Len(t, r.timeline(c, "confirmed"), 1)
				}
				assert.Nil(t, out.Session)
				row := r.row(c)
				assert.Empty(t, row.SessionID)
				assert.False(t, strings.Contains(row.LastError, c.mail))
			})
		}
	}
}
