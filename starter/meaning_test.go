package starter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

const (
	setupBody      = `{"code":401,"name":"authentication_error","finch_code":"account_setup_required","message":"m"}`
	permissionBody = `{"code":403,"name":"error_permissions","finch_code":"insufficient_account_permissions","message":"m"}`
	jobs           = "https://api.tryfinch.com/jobs/automated"
	introspection  = "https://api.tryfinch.com/introspect"
)

// TestWhichCodeIsReported says which of Finch's codes is reported for an answer;
// empty where none is.
func TestWhichCodeIsReported(t *testing.T) {
	items := func(bodies ...string) string {
		return `{"responses":[{"code":401,"body":` + strings.Join(bodies, `},{"code":401,"body":`) + `}]}`
	}
	list := func(statuses ...string) string {
		return `{"paging":{"count":9,"offset":0},"data":[{"job_id":"1","status":"` + strings.Join(statuses, `"},{"status":"`) + `"}]}`
	}
	inspect := func(status string, entities ...string) string {
		text := `{"connection_id":"con-1","connection_status":{"status":"` + status + `","message":"reauth"},"entities":[`
		for i, e := range entities {
			text += strings.Repeat(",", min(i, 1)) + `{"id":"` + fmt.Sprint(i) + `","status":"` + e + `"}`
		}
		return text + `]}`
	}
	for name, test := range map[string]struct {
		url    string
		status int
		body   string
		want   string
	}{
		"the login is lost":                {company, 401, staleBody, "reauthenticate_user"},
		"an account must be set up":        {company, 401, setupBody, "account_setup_required"},
		"a permission is missing":          {company, 403, permissionBody, "insufficient_account_permissions"},
		"error_permissions":                {company, 403, `{"finch_code":"error_permissions"}`, "error_permissions"},
		"error_no_account_setup":           {company, 401, `{"finch_code":"error_no_account_setup"}`, "error_no_account_setup"},
		"a scope of ours is missing":       {company, 403, `{"code":403,"name":"insufficient_scope_error"}`, ""},
		"a name that is no code":           {company, 403, `{"code":403,"name":"error_permissions"}`, ""},
		"an item without a permission":     {people, 200, items(permissionBody), "insufficient_account_permissions"},
		"the lost login matters most":      {people, 200, items(permissionBody, staleBody, setupBody), "reauthenticate_user"},
		"the first of those that matter":   {people, 200, items(`{"finch_code":"x"}`, setupBody, permissionBody), "account_setup_required"},
		"a job":                            {jobs + "/j-1", 200, `{"job_id":"j-1","status":"reauth_error"}`, "reauthenticate_user"},
		"a job that lacked permissions":    {jobs + "/j-1/", 200, `{"status":"permissions_error"}`, "error_permissions"},
		"a job that failed":                {jobs + "/j-1", 200, `{"status":"error"}`, ""},
		"a job that is complete":           {jobs + "/j-1", 200, `{"status":"complete","type":"reauth_error"}`, ""},
		"a job's parameter":                {jobs + "/j-1", 200, `{"status":"complete","params":{"status":"reauth_error"}}`, ""},
		"a manual job":                     {"https://api.tryfinch.com/jobs/manual/j-1", 200, `{"status":"reauth_error"}`, ""},
		"the newest job":                   {jobs, 200, list("reauth_error", "complete"), "reauthenticate_user"},
		"the newest that has ended":        {jobs + "?limit=5", 200, list("pending", "in_progress", "reauth_error"), "reauthenticate_user"},
		"an old job":                       {jobs, 200, list("complete", "reauth_error"), ""},
		"old jobs":                         {jobs + "?offset=50", 200, list("reauth_error"), ""},
		"the first page by name":           {jobs + "?offset=0", 200, list("reauth_error"), "reauthenticate_user"},
		"no jobs":                          {jobs, 200, `{"data":[]}`, ""},
		"an introspection":                 {introspection, 200, inspect("reauth"), "reauthenticate_user"},
		"an introspection of an entity":    {introspection, 200, inspect("connected", "connected", "reauth"), "reauthenticate_user"},
		"an introspection, all well":       {introspection, 200, inspect("connected", "connected"), ""},
		"an introspection, pending":        {introspection, 200, inspect("pending"), ""},
		"an introspection, no permissions": {introspection, 200, inspect("error_permissions"), "error_permissions"},
		"an introspection, no setup":       {introspection, 200, inspect("error_no_account_setup", "reauth"), "reauthenticate_user"},
		"a 500":                            {company, 500, `{"code":500,"name":"server_error","finch_code":"reauthenticate_user"}`, ""},
		"a 404":                            {company, 404, staleBody, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r reports
			transport := r.transport(answers(test.status, test.body))
			require.Equal(t, test.body, read(t, call(t, transport, test.url)))
			got := closed(t, transport, &r)
			require.Empty(t, r.errors())
			if test.want == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, test.want, got[0].FinchCode)
			require.NoError(t, got[0].Check())
		})
	}
	var r reports
	transport := r.transport(answers(200, `{"status":"reauth_error"}`))
	read(t, call(t, transport, jobs+"/j-1", func(r *http.Request) { r.Method = http.MethodPost }))
	require.Empty(t, closed(t, transport, &r), "only what is asked for is an answer to it")
}

func TestASetupReportHidesNoLostLogin(t *testing.T) {
	body := setupBody
	var r reports
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		return answer(req, 401, io.NopCloser(strings.NewReader(body))), nil
	}))
	for range 3 {
		read(t, call(t, transport, company))
	}
	body = staleBody
	for range 3 {
		read(t, call(t, transport, company))
	}
	var codes []string
	for _, in := range closed(t, transport, &r) {
		codes = append(codes, in.FinchCode)
	}
	require.ElementsMatch(t, []string{"account_setup_required", "reauthenticate_user"}, codes)
	require.Equal(t, starter.Stats{Stale: 3, Setup: 3, Coalesced: 4, Reported: 2}, transport.Stats())
}

func TestStatsCount(t *testing.T) {
	status := 500
	r := reports{fail: func(attempt int) error {
		if attempt == 1 {
			return fmt.Errorf("%w: not registered", starter.ErrRefused)
		}
		return errors.New("down")
	}}
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		return answer(req, status, io.NopCloser(strings.NewReader(staleBody))), nil
	}))
	for range 3 {
		read(t, call(t, transport, company))
	}
	require.Equal(t, starter.Stats{ServerErrors: 3}, transport.Stats(), "counted, not believed")
	status = 401
	read(t, call(t, transport, company)) // refused
	require.Eventually(t, func() bool { return transport.Stats().Refused == 1 }, 30*time.Second, time.Millisecond)
	read(t, call(t, transport, company, func(r *http.Request) { // fails, and is given up at the end
		*r = *r.WithContext(starter.WithConnection(r.Context(), "con-2"))
	}))
	read(t, call(t, transport, company, func(r *http.Request) { // of nobody
		*r = *r.WithContext(context.Background())
		r.Header.Del("Authorization")
	}))
	require.NoError(t, transport.Close(t.Context()))
	got := transport.Stats()
	require.Positive(t, got.Failed)
	got.Failed = 0
	require.Equal(t, starter.Stats{Stale: 3, ServerErrors: 3, Nameless: 1, Refused: 1, Dropped: 1}, got)
}

// unnamed makes a call that only its token names.
func unnamed(token string) func(*http.Request) {
	return func(r *http.Request) {
		*r = *r.WithContext(context.Background())
		r.Header.Set("Authorization", "Bearer "+token)
	}
}

func TestATokenIsLookedUpOnceAndNeverInTheCallersWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lookups atomic.Int32
		var r reports
		transport := r.transport(answers(401, staleBody))
		transport.Interval = time.Hour
		transport.Lookup = func(ctx context.Context, fingerprint string) (string, error) {
			lookups.Add(1)
			require.Equal(t, reauth.Fingerprint("token-1"), fingerprint)
			select {
			case <-time.After(5 * time.Second):
				return "con-1", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		began := time.Now()
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() { read(t, call(t, transport, company, unnamed("token-1"))) })
		}
		callers.Wait()
		require.Equal(t, began, time.Now(), "no caller waited")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, lookups.Load())
		got := r.all()
		require.Len(t, got, 1)
		require.Equal(t, "con-1", got[0].ConnectionID)
		require.Equal(t, reauth.Fingerprint("token-1"), got[0].TokenFingerprint)

		// Known by its token or by its name: it is one connection.
		read(t, call(t, transport, company))
		read(t, call(t, transport, company, unnamed("token-1")))
		time.Sleep(59 * time.Minute)
		read(t, call(t, transport, company, unnamed("token-1")))
		synctest.Wait()
		require.Len(t, r.all(), 1)
		time.Sleep(time.Hour)
		read(t, call(t, transport, company, unnamed("token-1")))
		synctest.Wait()
		require.Len(t, r.all(), 2)
		require.EqualValues(t, 1, lookups.Load(), "whose a token is, is known for good")
		require.EqualValues(t, 1, transport.Stats().LookedUp)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestALookupThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lookups int
		var r reports
		transport := r.transport(answers(401, staleBody))
		transport.Lookup = func(context.Context, string) (string, error) {
			lookups++
			switch {
			case lookups == 1:
				return "", errors.New("database down")
			case lookups == 2:
				panic("SENTINEL")
			}
			return "con-9", nil
		}
		read(t, call(t, transport, company, unnamed("token-1")))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, "con-9", r.all()[0].ConnectionID)
		require.Equal(t, []string{": look up whose the token is: database down", ": the report panicked"}, r.errors())
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestATokenOfNobodyIsNotLookedUpWithinTheInterval(t *testing.T) {
	for name, lookup := range map[string]func(context.Context, string) (string, error){
		"it says so":     func(context.Context, string) (string, error) { return "", starter.ErrNoConnection },
		"it says none":   func(context.Context, string) (string, error) { return "", nil },
		"it says no ID":  func(context.Context, string) (string, error) { return "a b", nil },
		"it cannot work": func(context.Context, string) (string, error) { return "", starter.ErrRefused },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r reports
				transport := r.transport(answers(401, staleBody))
				transport.Lookup = lookup
				for range 10 {
					read(t, call(t, transport, company, unnamed("token-1")))
					time.Sleep(time.Second)
				}
				synctest.Wait()
				require.Empty(t, r.all())
				require.Len(t, r.errors(), 1)
				require.EqualValues(t, 1, transport.Stats().LookedUp)
				require.NoError(t, transport.Close(t.Context()))
			})
		})
	}
}

// Without a lookup, a reporter that can gets the token's fingerprint.
func TestAnUnnamedCallIsReportedByItsToken(t *testing.T) {
	var r reports
	transport := r.transport(answers(401, staleBody))
	for range 10 {
		read(t, call(t, transport, company, unnamed("token-1")))
	}
	read(t, call(t, transport, company, unnamed("token-2")))
	got := closed(t, transport, &r)
	require.Len(t, got, 2)
	for _, in := range got {
		require.Empty(t, in.ConnectionID)
	}
	require.NotEqual(t, got[0].TokenFingerprint, got[1].TokenFingerprint)

	err := starter.New(nil).Reporter()(t.Context(), got[0])
	require.ErrorIs(t, err, starter.ErrNoConnection)
	require.ErrorIs(t, err, starter.ErrRefused)
}
