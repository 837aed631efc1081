package activities_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

func TestLook(t *testing.T) {
	r := newRig(t)
	restore := func(c customer) { require.NoError(t, r.sim.Restore(c.id)) }
	clicked := func(ago time.Duration) func(customer) {
		return func(c customer) { restore(c); r.click(c, ago) }
	}
	status := func(status string) func(customer) {
		return func(c customer) { require.NoError(t, r.sim.SetStatus(c.id, status)) }
	}
	fails := func(f finchsim.Fault) func(customer) { return func(customer) { r.fail(f) } }
	nothing := func(customer) {}
	tokenless := func(o *options) { o.tokenless = true }
	for name, test := range map[string]struct {
		change   func(*options)
		arrange  func(customer)
		told     bool
		restored bool
		held     time.Duration // from now; 0: not at all
		kind     string
		after    time.Duration
		entities *reauth.EntityCount
	}{
		"the stored token works":                     {arrange: restore, restored: true},
		"it works, a moment after a click":           {arrange: clicked(0), restored: true, held: 30 * time.Minute},
		"it works, 29 minutes after a click":         {arrange: clicked(29 * time.Minute), restored: true, held: time.Minute},
		"it works, half an hour after a click":       {arrange: clicked(30 * time.Minute), restored: true},
		"it is still lost":                           {arrange: nothing},
		"it is still lost, whatever we were told":    {arrange: nothing, told: true},
		"it is pending":                              {arrange: status(finch.StatusPending), told: true},
		"an account must be set up":                  {arrange: fails(answer(introspect, 401, setupRequired)), told: true},
		"the stored token is dead":                   {arrange: fails(answer(introspect, 401, invalidToken)), told: true},
		"the stored token is refused without a word": {arrange: fails(answer(introspect, 401, "")), told: true},
		"we hold no token":                           {change: tokenless, arrange: restore},
		"we hold no token, and were told":            {change: tokenless, arrange: nothing, told: true, restored: true},
		"we hold no token, were told, after a click": {change: tokenless, arrange: clicked(10 * time.Minute), told: true, restored: true, held: 20 * time.Minute},
		"too many calls":                             {arrange: fails(always(introspect, finchsim.FaultRateLimit)), kind: "rate_limited", after: 37 * time.Second},
		"the provider fails, whatever we were told":  {arrange: fails(always(introspect, finchsim.FaultServerError)), told: true, kind: "unavailable"},
		"no answer": {arrange: fails(always(introspect, finchsim.FaultDrop)), kind: "no_answer"},
		"one entity alone wants the login": {
			change: func(o *options) { o.entities = []string{"North", "South"} },
			arrange: func(c customer) {
				restore(c)
				connection, err := r.sim.Connection(c.id)
				require.NoError(t, err)
				require.NoError(t, r.sim.Break(c.id, connection.Entities[1].ID))
			},
			entities: &reauth.EntityCount{Total: 2, Stale: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			c := r.stale(test.change)
			test.arrange(c)
			out, err := run(r, r.acts.Look, activities.LookInput{Case: c.ref, Told: test.told})
			if test.kind != "" {
				assert.Equal(t, test.kind, r.failure(err).Type())
				assert.Equal(t, test.after, r.failure(err).NextRetryDelay())
				return
			}
			require.NoError(t, err)
			want := activities.Looked{Restored: test.restored, Entities: test.entities}
			if test.held > 0 {
				until := r.now.Add(test.held)
				want.HoldUntil = &until
			}
			assert.Equal(t, want, out)
		})
	}
}
