package activities_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// companies is a customer whose connection has three, of which those at the
// given places have lost access.
func (r *rig) companies(stale ...int) (customer, finchsim.Connection) {
	r.t.Helper()
	c := r.customer(func(o *options) { o.entities = []string{"Acme East", "Acme West", "Acme North"} })
	at, err := r.sim.Connection(c.id)
	require.NoError(r.t, err)
	for _, i := range stale {
		require.NoError(r.t, r.sim.Break(c.id, at.Entities[i].ID))
	}
	return c, at
}

func (r *rig) entities(c customer) (stale, working []string) {
	r.t.Helper()
	connection, err := r.db.Connection(r.t.Context(), c.id)
	require.NoError(r.t, err)
	return connection.Entities.Stale(), connection.Entities.Working()
}

// A connection of which some companies still serve data is one case, whose
// messages name them; it is over when none wants a login any more.
func TestSomeEntities(t *testing.T) {
	r := newRig(t)
	c, at := r.companies(0, 1)
	count := &reauth.EntityCount{Total: 3, Stale: 2}
	confirmed := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	assert.Equal(t, activities.VerdictStale, confirmed.Verdict)
	assert.Equal(t, count, confirmed.Entities)
	assert.Equal(t, []string{"2 of 3 entities want a new login: Acme East, Acme West."}, r.timeline(c, db.EventEntities))

	in := r.notice(c)
	assert.Equal(t, activities.Noticed{Sent: 1, Entities: count}, perform(r, r.acts.Notify, in))
	first := r.mails(c.mail)[0]
	assert.Contains(t, first.Text, "Gusto needs you to sign in again for Acme East and Acme West")
	assert.Contains(t, flat(first.Text), "Affected: Acme East, Acme West Still works: Acme North")
	assert.Contains(t, first.HTML, "Acme North still works.")

	// Somebody logs in who can see one of the two alone.
	session := r.row(c).SessionID
	code, err := r.sim.CompletePartly(session, at.Entities[0].ID)
	require.NoError(t, err)
	r.secret(code)
	redeemed := perform(r, r.acts.Redeem, activities.RedeemInput{Case: &c.ref, Code: code, ReceivedAt: r.now})
	count = &reauth.EntityCount{Total: 3, Stale: 1}
	verified := perform(r, r.acts.Verify, activities.VerifyInput{Case: c.ref, Minted: *redeemed.Minted, SessionOrdinal: 1})
	assert.Equal(t, activities.Verified{State: reauth.CodeAdopted, Generation: 2, Entities: count}, verified, "not recovered")
	working := activities.WorkingInput{Case: c.ref, CodeHash: redeemed.Minted.CodeHash, Generation: 2}
	_, err = run(r, alone(r.acts.AwaitWorking), working)
	assert.Equal(t, "not_working_yet", r.failure(err).Type())
	r.advance(3 * time.Minute)
	_, err = r.attempt(alone(r.acts.AwaitWorking), working)
	require.ErrorContains(t, err, "some entities still want the login")

	// The next notice says which are left.
	in.Step.Key, in.Kind, in.Cause, in.NoticesSent = "try-again-1", activities.NoticeTryAgain, reauth.CodeAdopted, 1
	in.LookedAt = r.now.Add(-time.Hour)
	perform(r, r.acts.Notify, in)
	next := flat(r.mails(c.mail)[1].Text)
	assert.Contains(t, next, "Almost there: one more sign-in for Acme West")
	assert.Contains(t, next, "Acme East and Acme North work.")
	assert.Equal(t, activities.Looked{Entities: count}, perform(r, r.acts.Look, activities.LookInput{Case: c.ref, Told: true}), "whatever it was told")

	require.NoError(t, r.sim.Restore(c.id, at.Entities[1].ID))
	looked := perform(r, r.acts.Look, activities.LookInput{Case: c.ref})
	assert.Equal(t, activities.Looked{Restored: true, Entities: &reauth.EntityCount{Total: 3}}, looked)
	assert.Equal(t, []string{
		"2 of 3 entities want a new login: Acme East, Acme West.", "1 of 3 entities wants a new login: Acme West.",
		"None of 3 entities wants a new login any more.",
	}, r.timeline(c, db.EventEntities))
	assert.Empty(t, r.mails(operatorMail))
}

// An answer about the connection as a whole is about all of its companies.
func TestTheWholeConnectionAfterAPart(t *testing.T) {
	r := newRig(t)
	c, _ := r.companies(1)
	perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	r.fail(answer(introspect, 401, `{"code": 401, "name": "authentication_error", "finch_code": "reauthenticate_user"}`))
	perform(r, r.acts.Look, activities.LookInput{Case: c.ref})
	stale, working := r.entities(c)
	assert.Equal(t, []string{"Acme East", "Acme West", "Acme North"}, stale)
	assert.Empty(t, working)
	perform(r, r.acts.Notify, r.notice(c))
	text := flat(r.mails(c.mail)[0].Text)
	assert.Contains(t, text, "the data of Acme Bakery.", "it is the whole company's")
	assert.Contains(t, text, "Affected: Acme East, Acme West, Acme North")
	assert.NotContains(t, text, "Still works")
	r.fail(answer(introspect, 200, `{"connection_id": "`+c.id+`", "connection_status": {"status": "connected"}}`))
	assert.True(t, perform(r, r.acts.Look, activities.LookInput{Case: c.ref}).Restored)
	stale, _ = r.entities(c)
	assert.Empty(t, stale)
}

// The operator hears once of companies that are gone, whatever the mail server does.
func TestGoneEntities(t *testing.T) {
	r := newRig(t)
	c, at := r.companies(1)
	require.NoError(t, r.sim.DisconnectEntity(c.id, at.Entities[2].ID))
	confirmed := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	assert.Equal(t, &reauth.EntityCount{Total: 2, Stale: 1, Gone: 1}, confirmed.Entities)
	assert.Equal(t, []string{"Acme North is not part of the connection any more."}, r.timeline(c, db.EventEntityGone))

	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtContent, Code: 451, To: operatorMail}))
	perform(r, r.acts.Notify, r.notice(c)) // which the operator's mail does not hold up
	require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{}))
	for range 2 {
		perform(r, r.acts.Notify, r.notice(c))
	}
	mails := r.mails(operatorMail)
	require.Len(t, mails, 1)
	assert.Contains(t, flat(mails[0].Text), "Acme North is not part of the connection any more, the provider says.")
	assert.NotContains(t, r.mails(c.mail)[0].Text, "Acme North", "the customer is not told of what is no more")

	perform(r, r.acts.CloseAndTell, activities.CloseInput{Case: c.ref, Outcome: reauth.OutcomeHealed})
	assert.Len(t, r.mails(operatorMail), 1)
	assert.Len(t, r.timeline(c, db.EventOperatorNeeded), 1)

	// A case that ends before its first notice tells of them as well.
	c, at = r.companies(0)
	perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	require.NoError(t, r.sim.DisconnectEntity(c.id, at.Entities[0].ID))
	assert.True(t, perform(r, r.acts.Look, activities.LookInput{Case: c.ref}).Restored, "nobody is left who wants a login")
	perform(r, r.acts.CloseAndTell, activities.CloseInput{Case: c.ref, Outcome: reauth.OutcomeHealed})
	assert.Len(t, r.mails(operatorMail), 2)
}

// The backend that writes itself is told which companies it is about.
func TestEntitiesThroughTheBackend(t *testing.T) {
	r := newRig(t)
	c, _ := r.companies(2)
	perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	in := r.notice(c)
	in.Step.Channel = "webhook"
	perform(r, r.acts.Notify, in)
	var names []string
	require.NoError(t, r.raw.Select(&names, `
SELECT e->>'name' FROM outbox, json_array_elements(payload->'data'->'entities') e WHERE case_id = $1 AND e->>'status' = 'reauth'`, c.ref.CaseID))
	assert.Equal(t, []string{"Acme North"}, names)
}
