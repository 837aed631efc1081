package activities_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// finds stands for the starter.
type finds struct {
	mu      sync.Mutex
	reports []reauth.Input
	told    []string
	fail    error
}

func (f *finds) ReportFound(_ context.Context, in reauth.Input) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, in)
	return f.fail
}

func (f *finds) AccessBack(_ context.Context, connectionID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, connectionID)
	return f.fail
}

// due is a batch of all that was not checked at this moment.
func (r *rig) due() activities.SweepBatch {
	return activities.SweepBatch{Cutoff: r.now.Add(time.Second), Most: 100, Every: 24 * time.Hour}
}

// checkedAt is when a connection was checked last.
func (r *rig) checkedAt(c customer) *time.Time {
	r.t.Helper()
	var at *time.Time
	require.NoError(r.t, r.raw.GetContext(r.t.Context(), &at, `SELECT checked_at FROM connections WHERE connection_id = $1`, c.id))
	return at
}

func (r *rig) connectionStatus(c customer) reauth.ConnectionStatus {
	r.t.Helper()
	stored, err := r.db.Connection(r.t.Context(), c.id)
	require.NoError(r.t, err)
	return stored.Status
}

// What a check finds, and what it does about it.
func TestSweepFinds(t *testing.T) {
	r := newRig(t)
	status := func(status string) func(customer) {
		return func(c customer) { require.NoError(t, r.sim.SetStatus(c.id, status)) }
	}
	fails := func(f finchsim.Fault) func(customer) { return func(customer) { r.fail(f) } }
	staleWithUs := func(c customer) {
		require.NoError(t, r.db.SetConnectionStatus(t.Context(), c.id, reauth.StatusStale, r.now.Add(-time.Hour)))
	}
	expired := func(c customer) {
		require.NoError(t, r.sim.Break(c.id))
		_, err := r.db.OpenCase(t.Context(), db.Case{CaseID: c.ref.CaseID, ConnectionID: c.id, Source: reauth.SourceManual, OpenedAt: r.now.Add(-2 * time.Hour)})
		require.NoError(t, err)
		_, err = r.db.CloseCase(t.Context(), db.Closing{CaseID: c.ref.CaseID, Outcome: reauth.OutcomeExpired, At: r.now.Add(-time.Hour)})
		require.NoError(t, err)
	}
	type counts = reauth.SweepCounts
	for name, test := range map[string]struct {
		change  func(*options)
		arrange func(customer)
		want    counts
		code    string // of the report
		status  reauth.ConnectionStatus
	}{
		"it works":                            {want: counts{Checked: 1, Connected: 1}, status: reauth.StatusConnected},
		"it works, though we called it stale": {arrange: staleWithUs, want: counts{Checked: 1, Connected: 1, Restored: 1}, status: reauth.StatusConnected},
		"it is stale":                         {arrange: status("reauth"), want: counts{Checked: 1, Stale: 1, Reported: 1}, code: "reauthenticate_user"},
		"the call says so": {arrange: fails(answer(introspect, 401, `{"name":"authentication_error","finch_code":"reauthenticate_user"}`)),
			want: counts{Checked: 1, Stale: 1, Reported: 1}, code: "reauthenticate_user"},
		"one entity is stale": {
			change: func(o *options) { o.entities = []string{"North", "South"} },
			arrange: func(c customer) {
				connection, err := r.sim.Connection(c.id)
				require.NoError(t, err)
				require.NoError(t, r.sim.Break(c.id, connection.Entities[1].ID))
			},
			want: counts{Checked: 1, Stale: 1, Reported: 1}, code: "reauthenticate_user",
		},
		"it is stale, and a case expired lately": {arrange: expired, want: counts{Checked: 1, Stale: 1, Suppressed: 1}, status: reauth.StatusStale},
		"permissions are missing":                {arrange: status("error_permissions"), want: counts{Checked: 1, Setup: 1, Reported: 1}, code: "error_permissions"},
		"an account is missing":                  {arrange: status("error_no_account_setup"), want: counts{Checked: 1, Setup: 1, Reported: 1}, code: "error_no_account_setup"},
		"an account must be set up":              {arrange: fails(answer(introspect, 401, setupRequired)), want: counts{Checked: 1, Setup: 1, Reported: 1}, code: "account_setup_required"},
		"the token is dead":                      {arrange: fails(answer(introspect, 401, invalidToken)), want: counts{Checked: 1, Refused: 1, Reported: 1}, code: "invalid_token_error"},
		"it is refused without a word":           {arrange: fails(answer(introspect, 401, "")), want: counts{Checked: 1, Refused: 1, Reported: 1}, code: "unauthorized"},
		"it is pending":                          {arrange: status("pending"), want: counts{Checked: 1, Pending: 1}},
		"it is not found":                        {arrange: fails(answer(introspect, 404, `{"finch_code":"connection_not_found"}`)), want: counts{Checked: 1, Gone: 1}, status: reauth.StatusDisconnected},
		"a gateway says 404":                     {arrange: fails(answer(introspect, 404, "<html>")), want: counts{Failed: 1}, status: reauth.StatusConnected},
		"it fails":                               {arrange: fails(always(introspect, finchsim.FaultServerError)), want: counts{Failed: 1}},
		"no answer comes":                        {arrange: fails(always(introspect, finchsim.FaultDrop)), want: counts{Failed: 1}},
		"Finch cannot be reached":                {change: func(o *options) { o.application = unreachable }, want: counts{Failed: 1}},
		"nobody knows the application":           {change: func(o *options) { o.application = unconfigured }, want: counts{}},
		"we hold no token":                       {change: func(o *options) { o.tokenless = true }, want: counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			_, err := r.raw.ExecContext(t.Context(), `UPDATE connections SET checked_at = $1, checking_until = NULL`, r.now.Add(time.Hour)) // those of before
			require.NoError(t, err)
			f := &finds{}
			r.acts.Finds = f
			c := r.customer(test.change)
			if test.arrange != nil {
				test.arrange(c)
			}
			before := r.checkedAt(c)
			out := perform(r, r.acts.SweepBatch, r.due())
			assert.Equal(t, test.want, out.SweepCounts)
			assert.False(t, out.More)
			if test.code == "" {
				assert.Empty(t, f.reports)
			} else if assert.Len(t, f.reports, 1) {
				got := f.reports[0]
				assert.NoError(t, got.Check())
				assert.Equal(t, c.id, got.ConnectionID)
				assert.Equal(t, reauth.SourceSweep, got.Source)
				assert.Equal(t, test.code, got.FinchCode)
				assert.Equal(t, reauth.Fingerprint(c.token), got.TokenFingerprint)
			}
			if test.status != "" {
				assert.Equal(t, test.status, r.connectionStatus(c))
			}
			if test.want.Checked == 0 {
				assert.Equal(t, before, r.checkedAt(c), "it is not counted as checked")
				return
			}
			assert.Equal(t, r.due().Cutoff, r.checkedAt(c).UTC(), "a clock that is behind does no harm")
			f.reports = nil
			assert.Zero(t, perform(r, r.acts.SweepBatch, r.due()).Checked, "and it is not due again")
		})
	}
}

// An open case decides for itself what it means that access is back, and is not
// told while its customer is in Connect.
func TestASweepDoesNotDisturbTheCustomer(t *testing.T) {
	for name, test := range map[string]struct {
		click   time.Duration // ago; 0: none
		arrange func(r *rig, c customer)
		told    bool
		held    bool
	}{
		"nobody clicked":      {told: true},
		"clicked lately":      {click: 10 * time.Minute, held: true},
		"clicked a while ago": {click: 31 * time.Minute, told: true},
		"gone, though clicked lately": {click: time.Minute, told: true, arrange: func(r *rig, c customer) {
			r.fail(answer(introspect, 404, `{"finch_code":"connection_not_found"}`))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := newRig(t), &finds{}
			r.acts.Finds = f
			c := r.stale()
			require.NoError(t, r.sim.Restore(c.id))
			if test.click > 0 {
				r.click(c, test.click)
			}
			if test.arrange != nil {
				test.arrange(r, c)
			}
			assert.Zero(t, perform(r, r.acts.SweepBatch, r.due()).Checked, "a connection with an open case is not swept")
			named := r.due()
			named.ConnectionIDs = []string{c.id}
			out := perform(r, r.acts.SweepBatch, named)
			assert.Equal(t, 1, out.Checked, "unless somebody names it")
			assert.Zero(t, out.Restored)
			assert.Equal(t, test.told, len(f.told) == 1)
			assert.Empty(t, f.reports)
			due, err := r.db.DueRestored(t.Context(), r.now.Add(21*time.Minute), 10)
			require.NoError(t, err)
			assert.Equal(t, test.held, len(due) == 1, "it is told when the click is old")
			assert.NotEqual(t, reauth.StatusConnected, r.connectionStatus(c), "the case decides")
		})
	}
}

// What an attempt had taken that was killed is left alone, and the rest is not
// checked twice.
func TestAKilledSweepGoesOn(t *testing.T) {
	r := newRig(t)
	r.acts.Finds = &finds{}
	for range 3 {
		r.customer()
	}
	_, taken, err := r.db.TakeCheck(t.Context(), "default", r.due().Cutoff, time.Minute)
	require.NoError(t, err)
	require.True(t, taken) // and its worker dies
	out := perform(r, r.acts.SweepBatch, r.due())
	assert.Equal(t, 2, out.Checked)
	assert.Equal(t, 1, out.Lag.Due)
	assert.Len(t, r.asked(introspect), 2)
	_, err = r.raw.ExecContext(t.Context(), `UPDATE connections SET checking_until = clock_timestamp() - interval '1 s' WHERE checking_until IS NOT NULL`)
	require.NoError(t, err) // its time is over
	assert.Equal(t, 1, perform(r, r.acts.SweepBatch, r.due()).Checked)
	assert.Len(t, r.asked(introspect), 3)
}

// A report that cannot be made is not lost: the connection is due again.
func TestASweepsReportMustArrive(t *testing.T) {
	r := newRig(t)
	f := &finds{fail: errors.New("Temporal is away")}
	r.acts.Finds = f
	c := r.customer()
	require.NoError(t, r.sim.Break(c.id))
	out := perform(r, r.acts.SweepBatch, r.due())
	assert.Equal(t, reauth.SweepCounts{Failed: 1}, out.SweepCounts)
	assert.Equal(t, 1, out.Lag.Due)
}

// urgency notes how urgent the calls to a provider are.
type urgency struct {
	activities.Provider
	noted map[finch.Priority]int
}

func (u urgency) Inspect(ctx context.Context, access activities.Access) (activities.Inspection, error) {
	u.noted[finch.PriorityOf(ctx)]++
	return u.Provider.Inspect(ctx, access)
}

func (u urgency) OpenSession(ctx context.Context, request activities.SessionRequest) (activities.OpenSession, error) {
	u.noted[finch.PriorityOf(ctx)]++
	return u.Provider.OpenSession(ctx, request)
}

func (u urgency) Exchange(ctx context.Context, code secrets.Secret, redirectURI string) (activities.Grant, error) {
	u.noted[finch.PriorityOf(ctx)]++
	return u.Provider.Exchange(ctx, code, redirectURI)
}

func TestEachStepIsAsUrgentAsItIs(t *testing.T) {
	r := newRig(t)
	r.acts.Finds = &finds{}
	u := urgency{Provider: r.acts.Providers[reauth.DefaultApplication], noted: map[finch.Priority]int{}}
	r.acts.Providers[reauth.DefaultApplication] = u
	c := r.stale() // Confirm: introspects and opens a session
	assert.Equal(t, map[finch.Priority]int{finch.PriorityConfirm: 2}, u.noted)
	perform(r, r.acts.Look, activities.LookInput{Case: c.ref})
	assert.Equal(t, 1, u.noted[finch.PriorityLook])
	code, err := r.sim.CompleteConnect(r.row(c).SessionID, finchsim.SameAccount)
	require.NoError(t, err)
	r.secret(code)
	_ = perform(r, r.acts.Redeem, activities.RedeemInput{Case: &c.ref, Code: code, RedirectURI: callback, ReceivedAt: r.now})
	assert.Equal(t, 1, u.noted[finch.PriorityVerify])
	r.customer()
	perform(r, r.acts.SweepBatch, r.due())
	assert.Equal(t, 1, u.noted[finch.PrioritySweep])
}

// What must wait for Finch's limit says until when.
func TestWhatWaitsForTheLimitSaysUntilWhen(t *testing.T) {
	r := newRig(t)
	limits, err := finch.ParseLimits("1/1h")
	require.NoError(t, err)
	limiter := r.db.FinchLimiter(limits).WithClock(func() time.Time { return time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC) })
	var transport http.RoundTripper = &finch.LimitTransport{Limiter: limiter, Application: reauth.DefaultApplication, Base: through{r}}
	r.acts.Providers[reauth.DefaultApplication] = activities.Finch{Client: finch.New(finch.Config{
		BaseURL: "http://finch.example", ClientID: clientID, ClientSecret: clientSecret, HTTPClient: &http.Client{Transport: transport},
	})}
	c := r.stale() // takes the one that there is
	_, err = run(r, r.acts.Look, activities.LookInput{Case: c.ref})
	failure := r.failure(err)
	assert.Equal(t, "rate_limited", failure.Type())
	assert.Equal(t, "look whether access is back: the provider's limit: waits until 13:00:30 UTC", failure.Message())
	assert.InDelta(t, (2 * time.Minute).Seconds(), failure.NextRetryDelay().Seconds(), 1, "it asks again before")
}

// through sends calls to the rig's simulator.
type through struct{ r *rig }

func (t through) RoundTrip(request *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if request.Body == nil {
		request.Body = http.NoBody // as a server has it
	}
	t.r.sim.ServeHTTP(w, request)
	return w.Result(), nil
}
