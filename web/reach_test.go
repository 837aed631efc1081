package web

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	bounceURL  = "/v1/contacts/bounce"
	restoreURL = "/v1/contacts/restore"
)

func TestBounce(t *testing.T) {
	f := newFixture(t)
	want := make([]string, 0, 3)
	for i := range 5 {
		id := fmt.Sprintf("conn-%d", i)
		f.ready(id)
		if i < 3 {
			want = append(want, "contacts "+id)
		}
	}
	f.close("case-conn-3", reauth.OutcomeExpired, "")
	_, err := f.db.RemoveConnection(t.Context(), "conn-4")
	require.NoError(t, err)

	var r Reach
	w := f.api(200, "POST", bounceURL, map[string]any{"email": strings.ToUpper(email), "reason": "550 no mailbox for <" + email + ">"}, &r)
	f.checkHidden("answer", w.Body.String())
	require.Equal(t, Reach{Unreachable: true, Kind: "bounce", Cases: 3}, r)
	require.ElementsMatch(t, want, f.temporal.signals)
	require.Equal(t, reauth.ContactsChanged{Reason: "A contact's address must not be written to any more: bounce."}, f.temporal.changes[0])
	require.Equal(t, "bounce", f.unreachable("conn-0"))
	require.Equal(t, "bounce", f.unreachable("conn-3"), "also for the next case")

	f.api(200, "POST", bounceURL, map[string]any{"email": email}, &r)
	require.Equal(t, Reach{Unreachable: true, Kind: "bounce", Cases: 3}, r)
	f.api(200, "POST", bounceURL, map[string]any{"email": email, "kind": "opt_out"}, &r)
	require.Equal(t, "opt_out", r.Kind, "which stands over a bounce")
	f.api(200, "POST", bounceURL, map[string]any{"email": email, "kind": "complaint"}, &r)
	require.Equal(t, "opt_out", r.Kind, "which stands")
	require.Len(t, f.temporal.signals, 3, "only what is new is told")

	var timeline CaseDetail
	f.api(200, "GET", "/v1/connections/conn-0/reauth", nil, &timeline)
	last := timeline.Timeline[len(timeline.Timeline)-1]
	require.Equal(t, "contact_unreachable", last.Kind)
	require.Equal(t, f.contact("conn-0")+": bounce", last.Detail)
}

func TestBounceOfAnUnknownAddress(t *testing.T) {
	f := newFixture(t)
	var r Reach
	f.api(200, "POST", bounceURL, map[string]any{"email": email, "kind": "complaint"}, &r)
	require.Equal(t, Reach{Unreachable: true, Kind: "complaint"}, r)
	require.Empty(t, f.temporal.signals)
	f.register(connID)
	require.Equal(t, "complaint", f.unreachable(connID), "it is remembered until it is somebody's")
}

func TestRestore(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	f.visit("POST", stopPage(link), form("what=not_me"))
	f.api(200, "POST", bounceURL, map[string]any{"email": email}, nil)
	f.temporal.signals = nil
	var r Reach
	for range 2 {
		f.api(200, "POST", restoreURL, map[string]any{"email": strings.ToUpper(email)}, &r)
		require.Equal(t, Reach{Cases: 2}, r)
		require.ElementsMatch(t, []string{"contacts " + connID, "contacts other"}, f.temporal.signals, "told once")
	}
	require.Empty(t, f.unreachable(connID), "also what they said themselves is taken back")
	require.Empty(t, f.unreachable("other"))
	f.api(200, "POST", restoreURL, map[string]any{"email": "nobody.Hush@acme.example"}, &r)
	require.Equal(t, Reach{}, r)

	f.api(200, "POST", bounceURL, map[string]any{"email": email}, nil)
	require.Len(t, f.temporal.signals, 4, "and a bounce after that is new")
}

// An address of more cases than can be told at once.
func TestBounceInManyCases(t *testing.T) {
	f := newFixture(t)
	want := make([]string, 30)
	for i := range want {
		id := fmt.Sprintf("conn-%d", i)
		f.ready(id)
		want[i] = "contacts " + id
	}
	var r Reach
	f.api(200, "POST", bounceURL, map[string]any{"email": email}, &r)
	require.Equal(t, 30, r.Cases)
	require.ElementsMatch(t, want, f.temporal.signals)
}

// Once the database knows, a caller who goes away changes nothing.
func TestContactsChangedWithoutTheCaller(t *testing.T) {
	f := newFixture(t)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	s := &server{Config: f.config}
	s.contactsChanged(ctx, []db.CaseContact{{ConnectionID: connID}}, "x")
	require.Equal(t, []string{"contacts " + connID}, f.temporal.signals)
}

func TestBounceWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	f.twoCases()
	f.temporal.down = true
	var r Reach
	f.api(200, "POST", bounceURL, map[string]any{"email": email}, &r)
	require.Equal(t, Reach{Unreachable: true, Kind: "bounce", Cases: 2}, r)
	require.Equal(t, "bounce", f.unreachable(connID), "the cases' next steps find it")
	require.Contains(t, f.log.String(), `"open cases were not told that their contacts changed; their next steps find it","cases":2`)

	f.api(200, "POST", restoreURL, map[string]any{"email": email}, &r)
	require.Empty(t, f.unreachable(connID))

	f.temporal.down, f.temporal.noCase = false, true // a case that has just closed
	before := strings.Count(f.log.String(), "were not told")
	f.api(200, "POST", bounceURL, map[string]any{"email": email}, &r)
	require.Equal(t, before, strings.Count(f.log.String(), "were not told"))
}

func TestBounceRefuses(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		name string
		body any
		want string
	}{
		{"no address", map[string]any{}, "body: expected required property email to be present"},
		{"no domain", map[string]any{"email": "ada.Hush"}, `body.email: must be an e-mail address alone, as "ada@acme.example"`},
		{"a name beside it", map[string]any{"email": "Ada <ada.Hush@acme.example>"}, "body.email: must be an e-mail address alone"},
		{"spaces around it", map[string]any{"email": " " + email}, "body.email: must be an e-mail address alone"},
		{"two", map[string]any{"email": email + ",b@x.example"}, "body.email: must be an e-mail address alone"},
		{"a long one", map[string]any{"email": strings.Repeat("x", 250) + "@x.example"}, "body.email: expected length <= 254"},
		{"another kind", map[string]any{"email": email, "kind": "not_me"}, `body.kind: expected value to be one of "bounce, complaint, opt_out"`},
		{"two lines of reason", map[string]any{"email": email, "reason": "a\nb"}, "body.reason: must be one line"},
		{"a long reason", map[string]any{"email": email, "reason": strings.Repeat("x", 501)}, "body.reason: expected length <= 500"},
		{"an unknown field", map[string]any{"email": email, "adress": email}, "body.adress: is not a field here; known are email, kind, reason"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Contains(t, f.problem(422, "POST", bounceURL, test.body).Detail, test.want)
		})
	}
	require.Contains(t, f.problem(422, "POST", restoreURL, map[string]any{"email": "ada.Hush"}).Detail, "body.email: must be an e-mail address alone")
	require.Contains(t, f.problem(422, "POST", restoreURL, map[string]any{"email": email, "kind": "bounce"}).Detail, "body.kind: is not a field here; known are email")
	require.Zero(t, f.count("unreachable"))
}

func TestBounceWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	s := &server{Config: f.config}
	f.dbDown()
	_, err := s.bounce(t.Context(), &bounceInput{Body: BounceBody{Email: email}})
	require.ErrorContains(t, err, "The database cannot be reached")
	_, err = s.restore(t.Context(), &restoreInput{Body: RestoreBody{Email: email}})
	require.ErrorContains(t, err, "The database cannot be reached")
	require.Empty(t, f.temporal.signals)
}

// A person is forgotten in every connection; open cases hear of it, and an opt-out stays.
func TestForgetContact(t *testing.T) {
	const forgetURL = "/v1/contacts/forget"
	f := newFixture(t)
	f.ready("conn-0")
	f.ready("conn-1")
	f.close("case-conn-1", reauth.OutcomeExpired, "")
	f.api(200, "POST", bounceURL, map[string]any{"email": email, "kind": "opt_out"}, nil)
	f.temporal.signals, f.temporal.changes = nil, nil

	var out Forgotten
	w := f.api(200, "POST", forgetURL, map[string]any{"email": strings.ToUpper(email)}, &out)
	f.checkHidden("answer", w.Body.String())
	require.Equal(t, Forgotten{Contacts: 2, Cases: 1, Unreachable: "opt_out"}, out)
	require.Equal(t, []string{"contacts conn-0"}, f.temporal.signals)
	require.Equal(t, []reauth.ContactsChanged{{Reason: "A contact was forgotten."}}, f.temporal.changes)
	for _, id := range []string{"conn-0", "conn-1"} {
		c, err := f.db.Connection(t.Context(), id)
		require.NoError(t, err)
		for _, contact := range c.Contacts {
			require.NotEqual(t, email, contact.Email)
		}
	}

	f.api(200, "POST", forgetURL, map[string]any{"email": email, "also_opt_out": true}, &out)
	require.Equal(t, Forgotten{}, out, "once more finds nothing, and the opt-out is forgotten now")
}
