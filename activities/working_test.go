package activities_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

func TestAwaitWorking(t *testing.T) {
	r := newRig(t)
	c, in, _ := r.back()
	require.NoError(t, r.sim.Break(c.id))
	require.Equal(t, reauth.CodeAdopted, perform(r, r.acts.Verify, in).State)
	await := alone(r.acts.AwaitWorking)
	working := activities.WorkingInput{Case: c.ref, CodeHash: in.Minted.CodeHash, Generation: 2}

	for name, test := range map[string]struct {
		fault finchsim.Fault
		kind  string
	}{
		"not yet":            {finchsim.Fault{}, "not_working_yet"},
		"the provider fails": {always(introspect, finchsim.FaultServerError), "unavailable"},
		"the token is dead":  {answer(introspect, 401, invalidToken), "invalid_token"},
	} {
		if r.fail(); test.fault.Kind != "" {
			r.fail(test.fault)
		}
		_, err := run(r, await, working)
		assert.Equal(t, test.kind, r.failure(err).Type(), name)
		assert.True(t, r.row(c).Open(), name)
	}

	r.fail()
	require.NoError(t, r.sim.Restore(c.id))
	for range 2 {
		perform(r, await, working)
		row := r.row(c)
		assert.Equal(t, reauth.OutcomeRecovered, row.Outcome)
		assert.Equal(t, int64(2), row.Generation)
		assert.Equal(t, reauth.CodeRecovered, r.code(in).State)
		assert.Equal(t, []string{"evt_" + c.ref.CaseID + "_recovered"}, r.outbox(c))
	}

	_, err := r.db.RemoveConnection(t.Context(), c.id)
	require.NoError(t, err)
	_, err = run(r, await, working)
	require.ErrorContains(t, err, "there is none")
}
