package db_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const anna, bob = "anna@example.com", "bob@example.com"

// caseContact is a connection's contact in an open case. Contact 0 is the first.
func (s store) caseContact(t testing.TB, caseID, connectionID string, contact int) db.CaseContact {
	t.Helper()
	list, err := s.Recipients(s.ctx, connectionID)
	require.NoError(t, err)
	return db.CaseContact{CaseID: caseID, ConnectionID: connectionID, ContactID: list[contact].ContactID}
}

// reasons says why a connection's contacts must not be written to, and checks
// that everything that tells it tells the same.
func (s store) reasons(t testing.TB, connectionID string) (reasons []db.Unreachable) {
	t.Helper()
	list, err := s.Recipients(s.ctx, connectionID)
	require.NoError(t, err)
	c, err := s.Connection(s.ctx, connectionID)
	require.NoError(t, err)
	require.Len(t, c.Contacts, len(list))
	for i, r := range list {
		one, err := s.Recipient(s.ctx, connectionID, r.ContactID)
		require.NoError(t, err)
		require.Equal(t, r, one)
		require.Equal(t, string(r.Unreachable), c.Contacts[i].Unreachable)
		reasons = append(reasons, r.Unreachable)
	}
	return reasons
}

// told lists the details of a case's events of a kind.
func (s store) told(t testing.TB, caseID, kind string) (details []string) {
	t.Helper()
	events, err := s.Timeline(s.ctx, caseID)
	require.NoError(t, err)
	for _, e := range events {
		if e.Kind == kind {
			details = append(details, e.Detail)
		}
	}
	return details
}

// Whoever is taken off a connection and comes back is known again.
func TestAContactWhoComesBack(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "ada@example.com", "bob@example.com")
	ada := s.contacts(t, "c1")[0]
	_, err := s.Decline(s.ctx, "c1", ada)
	require.NoError(t, err)
	s.connect(t, "c1", "bob@example.com")
	s.connect(t, "c1", "bob@example.com", "ADA@example.com")
	list, err := s.Recipients(s.ctx, "c1")
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, ada, list[1].ContactID)
	require.Equal(t, db.UnreachableNotMe, list[1].Unreachable, "what they said still counts")

	_, err = s.RemoveConnection(s.ctx, "c1")
	require.NoError(t, err)
	require.Zero(t, s.count(t, "contacts WHERE address_hash IS NOT NULL"), "a removed connection forgets everybody")
}

func TestUnreachableAddresses(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", bob, anna)
	s.connect(t, "c2", "ANNA@example.com")
	s.connect(t, "c3", anna) // has no case
	s.connect(t, "c4", anna) // whose case is over
	s.connect(t, "c5", bob)
	for i, id := range []string{"c1", "c2", "c4", "c5"} {
		s.open(t, id, "k"+id[1:], t0.Add(time.Duration(i)*time.Minute))
	}
	s.end(t, "k4", reauth.OutcomeCancelled, t0.Add(time.Hour))
	want := []db.CaseContact{s.caseContact(t, "k1", "c1", 1), s.caseContact(t, "k2", "c2", 0)}

	cases, first, err := s.SetUnreachable(s.ctx, " Anna@Example.com", db.UnreachableBounce, "550 <anna@example.com> unknown")
	require.NoError(t, err)
	require.True(t, first)
	require.Equal(t, want, cases)
	require.Equal(t, []db.Unreachable{"", db.UnreachableBounce}, s.reasons(t, "c1"))
	require.Equal(t, []db.Unreachable{db.UnreachableBounce}, s.reasons(t, "c3"))
	require.Equal(t, []string{want[0].ContactID + ": bounce"}, s.told(t, "k1", db.EventUnreachable))
	require.Empty(t, s.told(t, "k4", db.EventUnreachable))
	require.Zero(t, s.count(t, `unreachable WHERE detail LIKE '%@%'`), "no address stands outside of contacts")

	// Again changes nothing, and shows the same.
	cases, first, err = s.SetUnreachable(s.ctx, anna, db.UnreachableBounce, "")
	require.NoError(t, err)
	require.False(t, first)
	require.Equal(t, want, cases)
	require.Len(t, s.told(t, "k1", db.EventUnreachable), 1)

	// What a person said stands over a bounce, and nothing over that.
	for _, step := range []struct{ report, stands db.Unreachable }{
		{db.UnreachableComplaint, db.UnreachableComplaint}, {db.UnreachableOptOut, db.UnreachableComplaint}, {db.UnreachableBounce, db.UnreachableComplaint},
	} {
		_, first, err = s.SetUnreachable(s.ctx, anna, step.report, "")
		require.NoError(t, err)
		require.False(t, first)
		kind, err := s.AddressUnreachable(s.ctx, "ANNA@example.com ")
		require.NoError(t, err)
		require.Equal(t, step.stands, kind)
	}

	// It outlives the contact, and holds for whoever comes to have the address.
	s.connect(t, "c2", bob)
	s.connect(t, "c6", anna)
	require.Equal(t, []db.Unreachable{db.UnreachableComplaint}, s.reasons(t, "c6"))
	cases, did, err := s.SetReachable(s.ctx, "ANNA@example.com")
	require.NoError(t, err)
	require.True(t, did)
	require.Equal(t, want[:1], cases)
	require.Equal(t, []db.Unreachable{"", ""}, s.reasons(t, "c1"))
	require.Equal(t, []string{want[0].ContactID}, s.told(t, "k1", db.EventReachable))
	cases, did, err = s.SetReachable(s.ctx, anna)
	require.NoError(t, err)
	require.False(t, did)
	require.Equal(t, want[:1], cases)
	require.Len(t, s.told(t, "k1", db.EventReachable), 1)

	kind, err := s.AddressUnreachable(s.ctx, anna)
	require.NoError(t, err)
	require.Empty(t, kind)
	for _, kind := range []db.Unreachable{db.UnreachableNotMe, "", "spam"} {
		_, _, err = s.SetUnreachable(s.ctx, anna, kind, "")
		require.ErrorContains(t, err, "the kind must be bounce, complaint or opt_out")
	}
}

func TestUnreachableAtTheSameTimeIsNewOnce(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", anna)
	s.open(t, "c1", "k1", t0)
	const calls = 8
	var firsts [calls]bool
	var errs [calls]error
	together(calls, func(i int) { _, firsts[i], errs[i] = s.SetUnreachable(s.ctx, anna, db.UnreachableOptOut, "") })
	n := 0
	for i, first := range firsts {
		require.NoError(t, errs[i])
		if first {
			n++
		}
	}
	require.Equal(t, 1, n)
	require.Len(t, s.told(t, "k1", db.EventUnreachable), 1)
}

func TestDecline(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", anna, bob)
	s.connect(t, "c2", anna)
	s.open(t, "c1", "k1", t0)
	a := s.caseContact(t, "k1", "c1", 0)
	first, err := s.Decline(s.ctx, "c1", a.ContactID)
	require.NoError(t, err)
	require.True(t, first)
	first, err = s.Decline(s.ctx, "c1", a.ContactID)
	require.NoError(t, err)
	require.False(t, first)
	require.Equal(t, []db.Unreachable{db.UnreachableNotMe, ""}, s.reasons(t, "c1"))
	require.Equal(t, []db.Unreachable{""}, s.reasons(t, "c2"), "it is said of one connection alone")
	require.Equal(t, []string{a.ContactID + ": not_me"}, s.told(t, "k1", db.EventUnreachable))

	// The same contact stays declined, however they are registered again.
	s.connect(t, "c1", bob, "Anna@example.com")
	require.Equal(t, []db.Unreachable{"", db.UnreachableNotMe}, s.reasons(t, "c1"))

	// What is said of the address is shown first, and what they said stays.
	_, _, err = s.SetUnreachable(s.ctx, anna, db.UnreachableBounce, "")
	require.NoError(t, err)
	r, err := s.Recipient(s.ctx, "c1", a.ContactID)
	require.NoError(t, err)
	require.Equal(t, db.UnreachableBounce, r.Unreachable)
	require.True(t, r.Declined)

	// A contact who comes back after they were taken away is a new one.
	s.connect(t, "c1", bob)
	_, err = s.Recipient(s.ctx, "c1", a.ContactID)
	require.ErrorIs(t, err, db.ErrNotFound)
	for _, id := range []string{a.ContactID, "nobody", s.recipient(t, "c2")} {
		_, err = s.Decline(s.ctx, "c1", id)
		require.ErrorIs(t, err, db.ErrNotFound)
		_, err = s.TakeBack(s.ctx, "c1", id)
		require.ErrorIs(t, err, db.ErrNotFound)
	}
	s.connect(t, "c1", anna)
	require.Equal(t, []db.Unreachable{db.UnreachableBounce}, s.reasons(t, "c1"))
	_, _, err = s.SetReachable(s.ctx, anna)
	require.NoError(t, err)
	require.Equal(t, []db.Unreachable{""}, s.reasons(t, "c1"))

	_, err = s.Decline(s.ctx, "c1", s.recipient(t, "c1"))
	require.NoError(t, err)
	cases, did, err := s.SetReachable(s.ctx, anna)
	require.NoError(t, err)
	require.True(t, did, "that takes back what a person said, too")
	require.Equal(t, []db.CaseContact{s.caseContact(t, "k1", "c1", 0)}, cases)
	require.Equal(t, []db.Unreachable{""}, s.reasons(t, "c1"))
}

func TestTakeBack(t *testing.T) {
	s := newStore(t)
	for i, id := range []string{"c1", "c2", "c3"} {
		s.connect(t, id, anna)
		s.open(t, id, "k"+id[1:], t0.Add(time.Duration(i)*time.Minute))
	}
	a1, a2, a3 := s.caseContact(t, "k1", "c1", 0), s.caseContact(t, "k2", "c2", 0), s.caseContact(t, "k3", "c3", 0)
	decline := func(c db.CaseContact) {
		t.Helper()
		_, err := s.Decline(s.ctx, c.ConnectionID, c.ContactID)
		require.NoError(t, err)
	}
	set := func(kind db.Unreachable) {
		t.Helper()
		_, _, err := s.SetUnreachable(s.ctx, anna, kind, "")
		require.NoError(t, err)
	}
	takeBack := func(want ...db.CaseContact) {
		t.Helper()
		cases, err := s.TakeBack(s.ctx, "c1", a1.ContactID)
		require.NoError(t, err)
		require.ElementsMatch(t, want, cases)
	}

	takeBack() // nothing was said
	decline(a1)
	decline(a2)
	takeBack(a1)
	require.Equal(t, []db.Unreachable{""}, s.reasons(t, "c1"))
	require.Equal(t, []db.Unreachable{db.UnreachableNotMe}, s.reasons(t, "c2"), "what was said of another connection stays")
	takeBack()
	require.Equal(t, []string{a1.ContactID}, s.told(t, "k1", db.EventReachable))

	set(db.UnreachableOptOut)
	decline(a1)
	takeBack(a1, a3)
	require.Equal(t, []string{a3.ContactID}, s.told(t, "k3", db.EventReachable))
	require.Empty(t, s.told(t, "k2", db.EventReachable), "where they still are not the right person")

	set(db.UnreachableBounce)
	decline(a1)
	takeBack()
	require.Equal(t, []db.Unreachable{db.UnreachableBounce}, s.reasons(t, "c1"), "a bounce is not theirs to take back")
	r, err := s.Recipient(s.ctx, "c1", a1.ContactID)
	require.NoError(t, err)
	require.False(t, r.Declined)
}
