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
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/reauth"
)

// importRows imports lines of NDJSON.
func (r *rig) importRows(id string, lines ...string) db.ImportTotals {
	r.t.Helper()
	importer := imports.Importer{Store: r.db, Keys: r.keys, Now: r.clock}
	result, err := importer.Import(r.t.Context(), imports.Job{ID: id, Reports: true, Content: strings.NewReader(strings.Join(lines, "\n"))})
	require.NoError(r.t, err)
	return result.Totals
}

// checkNext asks about the token whose turn it is.
func (r *rig) checkNext() (activities.StagedChecked, bool) {
	r.t.Helper()
	t, ok, err := r.db.ClaimStaged(r.t.Context(), r.clock().Add(time.Minute), 15*time.Minute)
	require.NoError(r.t, err)
	if !ok {
		return activities.StagedChecked{}, false
	}
	checked, err := r.acts.CheckStaged(r.t.Context(), t)
	require.NoError(r.t, err)
	return checked, true
}

func (r *rig) checkAll() (states []db.StagedState) {
	r.t.Helper()
	for {
		checked, ok := r.checkNext()
		if !ok {
			return states
		}
		states = append(states, checked.State)
	}
}

// atFinch is a connection that only Finch knows, with some tokens.
func (r *rig) atFinch(n int) (id string, tokens []string) {
	r.t.Helper()
	c, token, err := r.sim.AddConnection(finchsim.NewConnection{CustomerName: "Bean & Co", ProviderID: "gusto"})
	require.NoError(r.t, err)
	tokens = []string{token}
	for len(tokens) < n {
		token, err := r.sim.MintToken(c.ID)
		require.NoError(r.t, err)
		tokens = append(tokens, token)
	}
	r.secret(tokens...)
	return c.ID, tokens
}

func (r *rig) staged(token string) (state db.StagedState, detail string) {
	r.t.Helper()
	require.NoError(r.t, r.raw.QueryRow(`SELECT state, detail FROM staged_tokens WHERE fingerprint = $1`, reauth.Fingerprint(token)).Scan(&state, &detail))
	return state, detail
}

// current is the token that a connection has, and its generation.
func (r *rig) current(id string) (string, int64) {
	r.t.Helper()
	t, err := r.db.CurrentToken(r.t.Context(), id)
	require.NoError(r.t, err)
	plain, err := r.keys.Open(t.Sealed, "token", id, string(rune('0'+t.Generation)))
	require.NoError(r.t, err)
	return string(plain), t.Generation
}

func TestImportedTokens(t *testing.T) {
	r := newRig(t)
	r.secret("ada.planted@bean.example")
	named, tokens := r.atFinch(3)
	nameless, alone := r.atFinch(1)
	foreign, strange := r.atFinch(1)
	stale, lost := r.atFinch(1)
	gone, past := r.atFinch(1)
	require.NoError(t, r.sim.Break(stale))
	require.NoError(t, r.sim.Delete(gone))
	r.importRows("one",
		`{"connection_id":"`+named+`","access_token":"`+tokens[0]+`","minted_at":"2025-01-01"}`,
		`{"connection_id":"`+named+`","access_token":"dead-`+tokens[1]+`","minted_at":"2025-04-01"}`,
		`{"connection_id":"`+named+`","access_token":"`+tokens[2]+`","minted_at":"2025-03-01"}`,
		`{"connection_id":"`+named+`","access_token":"`+tokens[1]+`","minted_at":"2025-02-01"}`,
		`{"access_token":"`+alone[0]+`","customer_id":"cus-9","contacts":[{"email":"ada.planted@bean.example"}]}`,
		`{"connection_id":"mine","access_token":"`+strange[0]+`"}`,
		`{"connection_id":"`+stale+`","access_token":"`+lost[0]+`"}`,
		`{"connection_id":"`+gone+`","access_token":"`+past[0]+`"}`,
	)
	states := r.checkAll()
	assert.Len(t, states, 8)
	token, generation := r.current(named)
	assert.Equal(t, tokens[2], token, "the newest that works")
	assert.LessOrEqual(t, generation, int64(3))
	var kept []string
	require.NoError(t, r.raw.Select(&kept, `SELECT state FROM tokens WHERE connection_id = $1 ORDER BY minted_at`, named))
	assert.Equal(t, []string{"superseded", "superseded", "current"}, kept, "the others are kept as older ones")
	state, why := r.staged("dead-" + tokens[1])
	assert.Equal(t, db.StagedRejected, state)
	assert.Contains(t, why, "the provider")

	token, _ = r.current(nameless)
	assert.Equal(t, alone[0], token)
	c, err := r.db.Connection(t.Context(), nameless)
	require.NoError(t, err)
	assert.Equal(t, "cus-9", c.CustomerID)
	assert.Equal(t, "Bean & Co", c.CustomerName, "what the row does not say, the provider does")
	assert.Equal(t, "Gusto", c.System)
	assert.Len(t, c.Contacts, 1)

	state, why = r.staged(strange[0])
	assert.Equal(t, db.StagedRejected, state)
	assert.Contains(t, why, "belongs to another connection")
	_, err = r.db.Connection(t.Context(), foreign)
	require.ErrorIs(t, err, db.ErrNotFound, "it was not registered either")
	_, err = r.db.CurrentToken(t.Context(), "mine")
	require.ErrorIs(t, err, db.ErrNotFound)

	c, err = r.db.Connection(t.Context(), stale)
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusStale, c.Status)
	assert.Equal(t, int64(1), c.Generation, "the provider has said whose it is")
	due, err := r.db.DueStagedReports(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
	assert.Equal(t, stale, due[0].ConnectionID)
	state, _ = r.staged(past[0])
	assert.Equal(t, db.StagedRejected, state)

	var sealed int
	require.NoError(t, r.raw.Get(&sealed, `SELECT count(*) FROM staged_tokens WHERE sealed IS NOT NULL`))
	assert.Zero(t, sealed, "what is settled is erased")
	asked := len(r.asked(introspect))
	r.importRows("one", `{"connection_id":"`+named+`","access_token":"`+tokens[0]+`"}`, `{"connection_id":"`+named+`","access_token":"dead-`+tokens[1]+`"}`)
	assert.Empty(t, r.checkAll())
	assert.Len(t, r.asked(introspect), asked, "what was asked about is not asked about again")
}

// A provider that only says reauthenticate_user proves nothing: the token waits
// until somebody needs it, and is asked about again then.
func TestImportedTokenThatOnlyWantsALogin(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) { k.IntrospectUnauthorized = true }))
	id, tokens := r.atFinch(1)
	_, alone := r.atFinch(1)
	require.NoError(t, r.sim.Break(id))
	for _, c := range r.sim.Connections() {
		require.NoError(t, r.sim.Break(c.ID))
	}
	r.importRows("one", `{"connection_id":"`+id+`","access_token":"`+tokens[0]+`"}`, `{"access_token":"`+alone[0]+`"}`)
	assert.ElementsMatch(t, []db.StagedState{db.StagedStale, db.StagedRejected}, r.checkAll())
	_, why := r.staged(alone[0])
	assert.Contains(t, why, "name the connection_id")
	c, err := r.db.Connection(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusStale, c.Status)
	due, err := r.db.DueStagedReports(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, 1)

	// The case that the report opens believes it, and heals when the token works again.
	k := customer{id: id, ref: activities.Case{CaseID: "case-1", ConnectionID: id, OpenedAt: r.now, Report: reauth.Input{ConnectionID: id, Source: reauth.SourceSweep}}}
	out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: k.ref})
	assert.Equal(t, activities.VerdictStale, out.Verdict)
	require.NoError(t, r.sim.Restore(id))
	r.advance(2 * time.Minute)
	looked := perform(r, r.acts.Look, activities.LookInput{Case: k.ref})
	assert.True(t, looked.Restored)
	token, generation := r.current(id)
	assert.Equal(t, tokens[0], token)
	assert.Equal(t, int64(1), generation)
}

// Whoever needs a token does not wait for the background.
func TestImportedTokenIsAdoptedWhenItIsNeeded(t *testing.T) {
	r := newRig(t)
	id, tokens := r.atFinch(2)
	r.importRows("one", `{"connection_id":"`+id+`","access_token":"dead-`+tokens[0]+`"}`, `{"connection_id":"`+id+`","access_token":"`+tokens[0]+`","minted_at":"2025-01-01"}`,
		`{"connection_id":"`+id+`","access_token":"`+tokens[1]+`","minted_at":"2025-06-01"}`)
	k := activities.Case{CaseID: "case-1", ConnectionID: id, OpenedAt: r.now, Report: reauth.Input{ConnectionID: id, Source: reauth.SourceAPIError}}
	out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: k})
	assert.Equal(t, activities.VerdictConnected, out.Verdict)
	token, _ := r.current(id)
	assert.Equal(t, tokens[1], token)
	assert.ElementsMatch(t, []db.StagedState{db.StagedAdopted}, r.checkAll(), "the older one is kept in the background")
	token, _ = r.current(id)
	assert.Equal(t, tokens[1], token)
}

// An outage or a limit costs no token.
func TestImportedTokensOutliveAnOutage(t *testing.T) {
	r := newRig(t)
	id, tokens := r.atFinch(1)
	r.importRows("one", `{"connection_id":"`+id+`","access_token":"`+tokens[0]+`"}`)
	for range 6 {
		for _, fault := range []finchsim.Fault{
			always(introspect, finchsim.FaultRateLimit), always(introspect, finchsim.FaultServerError), always(introspect, finchsim.FaultDrop),
		} {
			r.fail(fault)
			checked, ok := r.checkNext()
			require.True(t, ok)
			assert.Equal(t, db.StagedWaiting, checked.State)
			assert.Positive(t, checked.Pause, "the others wait too")
			if fault.Kind == finchsim.FaultRateLimit {
				assert.Equal(t, 37*time.Second, checked.Pause)
			}
			r.advance(2 * time.Hour)
		}
	}
	// A bare 401 may be an outage as well, and is not believed at once.
	r.fail(answer(introspect, 401, `{}`))
	for i := range 4 {
		checked, ok := r.checkNext()
		require.True(t, ok)
		assert.Zero(t, checked.Pause)
		assert.Equal(t, i == 3, checked.State == db.StagedRejected)
		r.advance(30 * 24 * time.Hour)
	}
	_, why := r.staged(tokens[0])
	assert.Contains(t, why, "after 4 questions")
	_, err := r.db.CurrentToken(t.Context(), id)
	require.ErrorIs(t, err, db.ErrNotFound)
}

func TestImportedTokensOfAnApplicationWithoutCredentials(t *testing.T) {
	r := newRig(t)
	id, tokens := r.atFinch(1)
	r.importRows("one", `{"connection_id":"`+id+`","application":"`+unconfigured+`","access_token":"`+tokens[0]+`"}`)
	assert.Equal(t, []db.StagedState{db.StagedWaiting}, r.checkAll())
	p, err := r.db.ImportByID(t.Context(), "one")
	require.NoError(t, err)
	assert.Equal(t, int64(1), p.Waiting)
	assert.Contains(t, p.Problem, "no client credentials are configured")
	assert.Empty(t, r.asked(introspect))
}

// A connection that was removed after its token was handed in stays removed.
func TestImportedTokenOfARemovedConnection(t *testing.T) {
	r := newRig(t)
	id, tokens := r.atFinch(1)
	_, err := r.db.PutConnection(t.Context(), reauth.Connection{ConnectionID: id})
	require.NoError(t, err)
	r.importRows("one", `{"access_token":"`+tokens[0]+`"}`)
	_, err = r.db.RemoveConnection(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, []db.StagedState{db.StagedRejected}, r.checkAll())
	_, why := r.staged(tokens[0])
	assert.Contains(t, why, "was removed after it was imported")
	c, err := r.db.Connection(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, reauth.StatusRemoved, c.Status)

	r.advance(time.Hour)
	r.importRows("two", `{"connection_id":"`+id+`","access_token":"`+tokens[0]+`"}`)
	assert.Equal(t, []db.StagedState{db.StagedAdopted}, r.checkAll(), "whoever imports it later wants it back")
}

// The priority goes with the context of whoever asks.
func TestImportedTokensAreAskedAboutWithThePriorityOfTheStep(t *testing.T) {
	r := newRig(t)
	id, tokens := r.atFinch(1)
	r.importRows("one", `{"connection_id":"`+id+`","access_token":"`+tokens[0]+`"}`)
	spy := &spy{Provider: r.acts.Providers[reauth.DefaultApplication]}
	r.acts.Providers[reauth.DefaultApplication] = spy
	adopted, err := r.acts.AdoptImported(finch.WithPriority(t.Context(), finch.PriorityLook), id)
	require.NoError(t, err)
	assert.True(t, adopted)
	assert.Equal(t, []finch.Priority{finch.PriorityLook}, spy.seen)
}

type spy struct {
	activities.Provider
	seen []finch.Priority
}

func (s *spy) Inspect(ctx context.Context, access activities.Access) (activities.Inspection, error) {
	s.seen = append(s.seen, finch.PriorityOf(ctx))
	return s.Provider.Inspect(ctx, access)
}
