package activities_test

import (
	"context"
	"slices"
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

// minted seals a token as Redeem does.
func (r *rig) minted(connectionID, token string) reauth.TokenMinted {
	r.t.Helper()
	r.secret(token)
	sealed, err := r.keys.Seal([]byte(token), "minted", connectionID)
	require.NoError(r.t, err)
	return reauth.TokenMinted{
		ConnectionID: connectionID, CodeHash: reauth.CodeHash("code of " + token), Fingerprint: reauth.Fingerprint(token), Sealed: sealed, MintedAt: r.now,
	}
}

// back is a customer who has been through Connect: what Verify gets.
func (r *rig) back(change ...func(*options)) (customer, activities.VerifyInput, string) {
	r.t.Helper()
	c := r.stale(change...)
	out := perform(r, r.acts.Redeem, r.comeBack(c, finchsim.SameAccount))
	return c, activities.VerifyInput{Case: c.ref, Minted: *out.Minted, SessionOrdinal: 1}, r.opened(out.Minted)
}

// stored returns the token that we would use, and its generation.
func (r *rig) stored(c customer) (string, int64) {
	r.t.Helper()
	token, err := r.db.CurrentToken(r.t.Context(), c.id)
	require.NoError(r.t, err)
	plain, err := r.keys.Open(token.Sealed, "token", c.id, string(rune('0'+token.Generation)))
	require.NoError(r.t, err)
	return string(plain), token.Generation
}

func (r *rig) code(in activities.VerifyInput) db.CodeRow {
	r.t.Helper()
	row, err := r.db.CodeByHash(r.t.Context(), in.Minted.CodeHash)
	require.NoError(r.t, err)
	return row
}

// outbox lists the IDs of the events for the backend.
func (r *rig) outbox(c customer) []string {
	r.t.Helper()
	ids := []string{}
	require.NoError(r.t, r.raw.Select(&ids, `SELECT event_id FROM outbox WHERE case_id = $1 ORDER BY seq`, c.ref.CaseID))
	return ids
}

func TestVerifyAdopts(t *testing.T) {
	r := newRig(t)
	c, in, token := r.back()
	want := activities.Verified{State: reauth.CodeRecovered, Generation: 2}
	assert.Equal(t, want, perform(r, r.acts.Verify, in))
	check := func() {
		current, generation := r.stored(c)
		assert.Equal(t, token, current)
		assert.Equal(t, int64(2), generation)
		row := r.row(c)
		assert.Equal(t, reauth.OutcomeRecovered, row.Outcome)
		assert.Equal(t, int64(2), row.Generation)
		connection, err := r.db.Connection(t.Context(), c.id)
		require.NoError(t, err)
		assert.Equal(t, reauth.StatusConnected, connection.Status)
		code := r.code(in)
		assert.Equal(t, reauth.CodeRecovered, code.State)
		assert.Equal(t, int64(2), code.Generation)
		assert.Equal(t, []string{"evt_" + c.ref.CaseID + "_recovered"}, r.outbox(c))
		assert.Len(t, r.timeline(c, db.EventClosed), 1)
	}
	check()
	// Repeated, after its answer was lost, it changes nothing.
	r.advance(time.Minute)
	assert.Equal(t, want, perform(r, r.acts.Verify, in))
	check()
}

func TestVerifyAsksWhetherItWorks(t *testing.T) {
	r := newRig(t)
	knob := func(f func(*finchsim.Knobs)) func(customer) {
		return func(customer) { require.NoError(t, r.sim.SetKnobs(f)) }
	}
	fails := func(faults ...finchsim.Fault) func(customer) { return func(customer) { r.fail(faults...) } }
	for name, test := range map[string]struct {
		change  func(*options)
		arrange func(customer)
		works   bool
		// of a connection that has several
		entities *reauth.EntityCount
	}{
		"the provider says so": {arrange: fails(always(company, finchsim.FaultServerError)), works: true},
		"a call for data works, though the provider is still at it": {
			arrange: func(c customer) {
				r.fail(answer(introspect, 200, `{"connection_id": "`+c.id+`", "connection_status": {"status": "processing"}}`))
			},
			works: true,
		},
		"the provider is still at it":  {arrange: func(c customer) { require.NoError(t, r.sim.SetStatus(c.id, finch.StatusProcessing)) }},
		"the connection is lost again": {arrange: func(c customer) { require.NoError(t, r.sim.Break(c.id)) }},
		"introspect itself says that it is lost": {
			arrange: func(c customer) {
				require.NoError(t, r.sim.Break(c.id))
				knob(func(k *finchsim.Knobs) { k.IntrospectUnauthorized = true })(c)
			},
		},
		"an account must be set up": {arrange: fails(answer(introspect, 401, setupRequired))},
		"one entity still wants the login": { // although the call for data works
			change: func(o *options) { o.entities = []string{"North", "South"} },
			arrange: func(c customer) {
				connection, err := r.sim.Connection(c.id)
				require.NoError(t, err)
				require.NoError(t, r.sim.Break(c.id, connection.Entities[0].ID))
			},
			entities: &reauth.EntityCount{Total: 2, Stale: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			require.NoError(t, r.sim.SetKnobs(func(k *finchsim.Knobs) { *k = finchsim.DefaultKnobs() }))
			c, in, token := r.back(test.change)
			test.arrange(c)
			out := perform(r, r.acts.Verify, in)
			current, _ := r.stored(c)
			assert.Equal(t, token, current, "adopted in any case")
			row := r.row(c)
			if test.works {
				assert.Equal(t, activities.Verified{State: reauth.CodeRecovered, Generation: 2}, out)
				assert.Equal(t, reauth.OutcomeRecovered, row.Outcome)
				return
			}
			assert.Equal(t, activities.Verified{State: reauth.CodeAdopted, Generation: 2, Entities: test.entities}, out)
			assert.Equal(t, reauth.CodeAdopted, r.code(in).State)
			assert.Equal(t, reauth.PhaseVerifying, row.Phase)
			assert.Empty(t, r.outbox(c))
		})
	}
}

// asking is a provider before whose answer something happens.
type asking struct {
	activities.Provider
	before func()
}

func (a asking) Inspect(ctx context.Context, access activities.Access) (activities.Inspection, error) {
	a.before()
	return a.Provider.Inspect(ctx, access)
}

// naming is a provider that says this of every connection.
type naming struct {
	activities.Provider
	inspection activities.Inspection
}

func (n naming) Inspect(context.Context, activities.Access) (activities.Inspection, error) {
	return n.inspection, nil
}

// answers makes the provider say this of every connection, to the end of the test.
func (r *rig) answers(inspection activities.Inspection) {
	finch := r.acts.Providers[reauth.DefaultApplication]
	r.acts.Providers[reauth.DefaultApplication] = naming{finch, inspection}
	r.t.Cleanup(func() { r.acts.Providers[reauth.DefaultApplication] = finch })
}

func TestVerifySetsAside(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	type arranged struct{ owner, problem string }
	removed := func(id string) {
		_, err := r.db.RemoveConnection(ctx, id)
		require.NoError(t, err)
	}
	for name, test := range map[string]struct {
		arrange  func(c *customer, in *activities.VerifyInput, token string) arranged
		state    reauth.CodeState
		reason   string
		unknown  bool
		caseless bool
	}{
		"another account, says the exchange": {
			arrange: func(c *customer, in *activities.VerifyInput, _ string) arranged {
				require.NoError(t, r.sim.Break(c.id))
				perform(r, r.acts.OpenSession, activities.SessionInput{Case: c.ref, Plan: activities.Plan{Minutes: 60}, Ordinal: 1})
				out := perform(r, r.acts.Redeem, r.comeBack(*c, finchsim.OtherAccount))
				r.opened(out.Minted)
				in.Minted = *out.Minted
				require.NotEqual(t, c.id, in.Minted.ConnectionID)
				r.fail(answer(introspect, 401, `{"finch_code": "reauthenticate_user"}`)) // which names nobody
				return arranged{in.Minted.ConnectionID, in.Minted.ConnectionID}
			},
			state: reauth.CodeWrongAccount, reason: "wrong_account",
		},
		"another account, says introspect": {
			arrange: func(c *customer, in *activities.VerifyInput, _ string) arranged {
				other, token, err := r.sim.AddConnection(finchsim.NewConnection{})
				require.NoError(t, err)
				in.Minted = r.minted(c.id, token)
				return arranged{other.ID, other.ID}
			},
			state: reauth.CodeWrongAccount, reason: "wrong_account",
		},
		"a token that is stored as another connection's": {
			arrange: func(c *customer, _ *activities.VerifyInput, token string) arranged {
				r.adopt(r.customer(func(o *options) { o.tokenless = true }), token, r.now)
				return arranged{c.id, "another connection"}
			},
			state: reauth.CodeWrongAccount, reason: "wrong_account",
		},
		"the connection was removed": {
			arrange: func(c *customer, _ *activities.VerifyInput, _ string) arranged {
				removed(c.id)
				r.fail(always(introspect, finchsim.FaultServerError)) // nobody need be asked
				return arranged{owner: c.id}
			},
			state: reauth.CodeQuarantined, reason: "connection_removed",
		},
		"the connection is removed meanwhile": {
			arrange: func(c *customer, _ *activities.VerifyInput, _ string) arranged {
				id, finch := c.id, r.acts.Providers[reauth.DefaultApplication]
				r.acts.Providers[reauth.DefaultApplication] = asking{finch, func() {
					r.acts.Providers[reauth.DefaultApplication] = finch
					removed(id)
				}}
				return arranged{owner: c.id}
			},
			state: reauth.CodeQuarantined, reason: "connection_removed",
		},
		"nobody registered the connection": {
			arrange: func(c *customer, in *activities.VerifyInput, _ string) arranged {
				c.id, c.ref.ConnectionID, c.ref.CaseID = "nobodys", "nobodys", "nobodys-case"
				in.Case, in.Minted = c.ref, r.minted("nobodys", "planted-token-of-nobody")
				return arranged{owner: "nobodys"}
			},
			state: reauth.CodeQuarantined, reason: "connection_unknown", unknown: true, caseless: true,
		},
		"it does not open": {
			arrange: func(c *customer, in *activities.VerifyInput, _ string) arranged {
				in.Minted.Sealed[len(in.Minted.Sealed)-1] ^= 1
				return arranged{c.id, "could not be opened"}
			},
			state: reauth.CodeUnusable, reason: "unreadable",
		},
		"it was sealed for another connection": {
			arrange: func(c *customer, in *activities.VerifyInput, token string) arranged {
				in.Minted.Sealed = r.minted("another", token).Sealed
				return arranged{c.id, "could not be opened"}
			},
			state: reauth.CodeUnusable, reason: "unreadable",
		},
		"nobody says whose it is, for long": {
			arrange: func(c *customer, in *activities.VerifyInput, token string) arranged {
				in.Minted = r.minted("", token)
				in.Minted.MintedAt = r.now.Add(-20 * time.Minute)
				r.fail(answer(introspect, 401, `{"finch_code": "reauthenticate_user"}`))
				return arranged{"", "does not say whose the token is"}
			},
			state: reauth.CodeLost, reason: "owner_unproved",
		},
		"introspect names nobody, for long": {
			arrange: func(c *customer, in *activities.VerifyInput, token string) arranged {
				in.Minted = r.minted("", token)
				in.Minted.MintedAt = r.now.Add(-20 * time.Minute)
				r.answers(activities.Inspection{Condition: activities.ConditionConnected, Status: "connected"})
				return arranged{"", "names no connection"}
			},
			state: reauth.CodeLost, reason: "owner_unproved",
		},
		"introspect alone says whose it is, another's": {
			arrange: func(c *customer, in *activities.VerifyInput, _ string) arranged {
				other, token, err := r.sim.AddConnection(finchsim.NewConnection{})
				require.NoError(t, err)
				in.Minted = r.minted("", token)
				return arranged{other.ID, other.ID}
			},
			state: reauth.CodeWrongAccount, reason: "wrong_account",
		},
		"the provider refuses the token": {
			arrange: func(c *customer, _ *activities.VerifyInput, _ string) arranged {
				r.fail(answer(introspect, 401, invalidToken))
				return arranged{c.id, "invalid_token"}
			},
			state: reauth.CodeLost, reason: "refused",
		},
		"the provider refuses the token without a word": {
			arrange: func(c *customer, _ *activities.VerifyInput, _ string) arranged {
				r.fail(answer(introspect, 401, ``))
				return arranged{c.id, "unauthorized"}
			},
			state: reauth.CodeLost, reason: "refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			c, in, token := r.back()
			want := test.arrange(&c, &in, token)
			for range 2 { // the second time changes nothing
				out := perform(r, r.acts.Verify, in)
				assert.Equal(t, test.state, out.State)
				assert.Zero(t, out.Generation)
				assert.Equal(t, test.unknown, out.Unknown)
				assert.Contains(t, out.Problem, want.problem)
				assert.Equal(t, want.problem == "", out.Problem == "")

				aside, err := r.db.Quarantined(ctx, in.Minted.Fingerprint)
				require.NoError(t, err)
				assert.Equal(t, want.owner, aside.ConnectionID)
				assert.Equal(t, c.id, aside.ExpectedConnectionID)
				assert.Equal(t, test.reason, aside.Reason)
				if test.reason != "unreadable" { // whoever disconnects it must be able to open it
					plain, err := r.keys.Open(aside.Sealed, "minted", aside.ConnectionID)
					require.NoError(t, err)
					assert.Equal(t, in.Minted.Fingerprint, reauth.Fingerprint(string(plain)))
				} else {
					assert.Equal(t, in.Minted.Sealed, aside.Sealed)
				}
				assert.Equal(t, test.state, r.code(in).State)
				if test.caseless {
					assert.Empty(t, aside.CaseID)
					continue
				}
				assert.Equal(t, c.ref.CaseID, aside.CaseID)
				row := r.row(c)
				assert.True(t, row.Open())
				assert.Equal(t, reauth.PhaseAwaitingCustomer, row.Phase)
				assert.Empty(t, row.ConnectURL, "the session is used up")
				lines := r.timeline(c, "token_set_aside")
				for i := range lines {
					lines[i] = requestID.ReplaceAllString(lines[i], "")
				}
				assert.Len(t, slices.Compact(lines), 1)
			}
			if current, err := r.db.CurrentToken(ctx, c.id); err == nil {
				assert.Equal(t, int64(1), current.Generation, "never adopted")
				assert.Equal(t, reauth.Fingerprint(c.token), current.Fingerprint)
			}
		})
	}
}

func TestVerifyRetriesWhatTellsNothing(t *testing.T) {
	r := newRig(t)
	c, in, _ := r.back()
	for name, test := range map[string]struct {
		fault finchsim.Fault
		kind  string
		after time.Duration
	}{
		"too many calls":     {always(introspect, finchsim.FaultRateLimit), "rate_limited", 37 * time.Second},
		"the provider fails": {always(introspect, finchsim.FaultServerError), "unavailable", 0},
		"no answer":          {always(introspect, finchsim.FaultDrop), "no_answer", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail(test.fault)
			_, err := run(r, r.acts.Verify, in)
			assert.Equal(t, test.kind, r.failure(err).Type())
			assert.Equal(t, test.after, r.failure(err).NextRetryDelay())
			_, err = r.db.Quarantined(t.Context(), in.Minted.Fingerprint)
			require.ErrorIs(t, err, db.ErrNotFound)
			assert.True(t, r.row(c).Open())
		})
	}
	t.Run("no database", func(t *testing.T) {
		r.in(t)
		r.fail()
		r.closed()
		_, err := run(r, r.acts.Verify, in)
		r.failure(err)
	})
}

// A token of which nothing has said whose it is waits for the provider to say
// so, and is adopted then.
func TestVerifyWaitsForTheOwner(t *testing.T) {
	r := newRig(t)
	c, in, token := r.back()
	in.Minted = r.minted("", token)
	for name, arrange := range map[string]func(){
		"it wants the login":        func() { r.fail(answer(introspect, 401, `{"finch_code": "reauthenticate_user"}`)) },
		"an account must be set up": func() { r.fail(answer(introspect, 401, setupRequired)) },
		"it works, but is nobody's": func() { r.answers(activities.Inspection{Condition: activities.ConditionConnected}) },
		"nearly for as long as it may": func() {
			r.fail(answer(introspect, 401, setupRequired))
			r.advance(20*time.Minute - time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.in(t)
			r.fail()
			began := r.now
			defer func() { r.now = began }()
			arrange()
			_, err := run(r, r.acts.Verify, in)
			assert.Equal(t, "owner_unproved", r.failure(err).Type())
			assert.True(t, benign(r.failure(err)))
			_, err = r.db.Quarantined(t.Context(), in.Minted.Fingerprint)
			require.ErrorIs(t, err, db.ErrNotFound)
			_, generation := r.stored(c)
			assert.Equal(t, int64(1), generation)
			assert.True(t, r.row(c).Open())
		})
	}
	r.fail()
	assert.Equal(t, activities.Verified{State: reauth.CodeRecovered, Generation: 2}, perform(r, r.acts.Verify, in))
	current, _ := r.stored(c)
	assert.Equal(t, token, current)
}

// Amid a rotation a worker may lack the key of a token that another one sealed.
// The token waits for the key.
func TestVerifyWaitsForTheKey(t *testing.T) {
	r := newRig(t)
	c, in, token := r.back()
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	r.acts.Keys, err = secrets.Load(keyset)
	require.NoError(t, err)
	_, err = run(r, r.acts.Verify, in)
	assert.Equal(t, "key_missing", r.failure(err).Type())
	assert.Contains(t, err.Error(), "keyset lacks the key")
	_, err = r.db.Quarantined(t.Context(), in.Minted.Fingerprint)
	require.ErrorIs(t, err, db.ErrNotFound)
	assert.NotEmpty(t, r.row(c).ConnectURL)

	r.acts.Keys = r.keys
	assert.Equal(t, reauth.CodeRecovered, perform(r, r.acts.Verify, in).State)
	current, _ := r.stored(c)
	assert.Equal(t, token, current)
}

// A token that the provider will not speak about is kept aside: waiting for an
// answer that never comes would hold the case for ever.
func TestVerifySetsAsideWhatTheProviderRefuses(t *testing.T) {
	for name, fault := range map[string]finchsim.Fault{
		"forbidden":              answer(introspect, 403, `{"name": "insufficient_scope_error"}`),
		"the request is refused": answer(introspect, 400, `{"name": "bad_request"}`),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, in, _ := r.back()
			r.fail(fault)
			assert.Equal(t, reauth.CodeLost, perform(r, r.acts.Verify, in).State)
			kept, err := r.db.Quarantined(t.Context(), in.Minted.Fingerprint)
			require.NoError(t, err)
			assert.Equal(t, in.Minted.Sealed, kept.Sealed)
		})
	}
}

// A token that came late never replaces one that was minted after it.
func TestVerifyKeepsTheNewerToken(t *testing.T) {
	r := newRig(t)
	c, in, token := r.back()
	newer, err := r.sim.MintToken(c.id)
	require.NoError(t, err)
	r.adopt(c, newer, r.now.Add(time.Minute))

	for range 2 {
		assert.Equal(t, activities.Verified{State: reauth.CodeRecovered, Generation: 2}, perform(r, r.acts.Verify, in), "the connection's generation, not the token's")
		current, generation := r.stored(c)
		assert.Equal(t, newer, current)
		assert.Equal(t, int64(2), generation)
		kept, isCurrent, err := r.db.TokenByFingerprint(t.Context(), c.id, reauth.Fingerprint(token))
		require.NoError(t, err)
		assert.False(t, isCurrent)
		assert.Equal(t, int64(3), kept.Generation)
		assert.Equal(t, int64(3), r.code(in).Generation, "the token's")
		row := r.row(c)
		assert.Equal(t, reauth.OutcomeRecovered, row.Outcome)
		assert.Equal(t, int64(2), row.Generation)
	}

	// The same where it does not work yet.
	c, in, _ = r.back()
	newer, err = r.sim.MintToken(c.id)
	require.NoError(t, err)
	r.adopt(c, newer, r.now.Add(time.Minute))
	require.NoError(t, r.sim.Break(c.id))
	assert.Equal(t, activities.Verified{State: reauth.CodeAdopted, Generation: 2}, perform(r, r.acts.Verify, in))
}

// A code may come before anything else of its case.
func TestVerifyOpensTheCase(t *testing.T) {
	r := newRig(t)
	c := r.customer(func(o *options) { o.tokenless = true; o.report.Source = reauth.SourceLink })
	token, err := r.sim.MintToken(c.id)
	require.NoError(t, err)
	in := activities.VerifyInput{Case: c.ref, Minted: r.minted(c.id, token)}
	assert.Equal(t, activities.Verified{State: reauth.CodeRecovered, Generation: 1}, perform(r, r.acts.Verify, in))
	row := r.row(c)
	assert.Equal(t, reauth.SourceLink, row.Source)
	assert.Equal(t, reauth.OutcomeRecovered, row.Outcome)
}

// What is sealed here is listed with its bounds where all that is sealed is sealed
// anew when keys are rotated.
func TestWhatIsSealedHereIsSealedAnew(t *testing.T) {
	r := newRig(t)
	_, in, _ := r.back()
	require.NoError(t, r.db.PutMinted(t.Context(), in.Minted.CodeHash, in.Minted.ConnectionID, in.Minted.Fingerprint, in.Minted.Sealed, r.now))
	perform(r, r.acts.Verify, in) // adopts it
	_, in, token := r.back()
	in.Minted.ConnectionID = "con-of-another"
	var err error
	in.Minted.Sealed, err = r.keys.Seal([]byte(token), "minted", in.Minted.ConnectionID)
	require.NoError(t, err)
	perform(r, r.acts.Verify, in) // sets it aside
	for _, column := range db.SealedColumns() {
		out, err := r.db.Reseal(t.Context(), column, db.Resealing{
			Primary: 0, Limit: 100, Seal: func(sealed []byte, bound []string) ([]byte, error) { return r.keys.Reseal(sealed, bound...) },
		})
		require.NoError(t, err)
		require.Empty(t, out.Failed, column.Table)
		if column.Table != "held_codes" && column.Table != "staged_tokens" { // which web and imports fill
			require.Positive(t, out.Done, column.Table)
		}
	}
}
