package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

func TestCustomerConnections(t *testing.T) {
	s := newStore(t)
	put := func(id, customer, application, system string) {
		_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: id, CustomerID: customer, Application: application, System: system})
		require.NoError(t, err)
	}
	put("c1", "cus_1", "default", "Gusto")
	put("c2", "cus_1", "default", "ADP Run")
	put("c3", "cus_1", "sandbox", "Gusto")
	put("c4", "cus_2", "default", "Gusto")
	put("c5", "", "default", "Gusto")
	put("gone", "cus_1", "default", "Gusto")
	_, err := s.RemoveConnection(s.ctx, "gone")
	require.NoError(t, err)

	for name, test := range map[string]struct {
		of   db.Customer
		want []string
	}{
		"all of a customer's":   {db.Customer{ID: "cus_1"}, []string{"c1", "c2", "c3"}},
		"of one application":    {db.Customer{ID: "cus_1", Application: "sandbox"}, []string{"c3"}},
		"of one system":         {db.Customer{ID: "cus_1", System: "adp run"}, []string{"c2"}},
		"of one provider":       {db.Customer{ID: "cus_2", Provider: reauth.Finch}, []string{"c4"}},
		"of another provider":   {db.Customer{ID: "cus_2", Provider: "atto"}, nil},
		"of nobody":             {db.Customer{ID: "cus_3"}, nil},
		"of whoever has no ID":  {db.Customer{}, nil},
		"upper case is another": {db.Customer{ID: "CUS_1"}, nil},
	} {
		list, err := s.CustomerConnections(s.ctx, test.of)
		require.NoError(t, err)
		var ids []string
		for _, c := range list {
			ids = append(ids, c.ConnectionID)
		}
		require.Equal(t, test.want, ids, name)
	}

	for i, id := range []string{"c1", "c2", "c3"} {
		require.NoError(t, s.SetConnectionStatus(s.ctx, id, reauth.StatusDisconnected, t0))
		list, err := s.CustomerConnections(s.ctx, db.Customer{ID: "cus_1"})
		require.NoError(t, err)
		want := 2 - i
		if i == 2 {
			want = 3 // there are no others
		}
		require.Len(t, list, want)
	}
}

func TestConnectionOfToken(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.connect(t, "c2")
	for i, token := range []string{"first", "second"} {
		_, err := s.Adopt(s.ctx, adoption("c1", token, t0.Add(time.Duration(i)*time.Hour)))
		require.NoError(t, err)
	}
	for _, token := range []string{"first", "second"} {
		id, err := s.ConnectionOfToken(s.ctx, reauth.Fingerprint(token))
		require.NoError(t, err)
		require.Equal(t, "c1", id, "whose it is or was")
	}
	_, err := s.ConnectionOfToken(s.ctx, reauth.Fingerprint("nobody's"))
	require.ErrorIs(t, err, db.ErrNotFound)
	_, err = s.RemoveConnection(s.ctx, "c1")
	require.NoError(t, err)
	_, err = s.ConnectionOfToken(s.ctx, reauth.Fingerprint("second"))
	require.ErrorIs(t, err, db.ErrNotFound, "a removed connection has no tokens")
}

func TestIntroduceConnection(t *testing.T) {
	s := newStore(t)
	introduce := func(id string) string {
		customer, err := s.IntroduceConnection(s.ctx, reauth.Connection{
			ConnectionID: id, Provider: reauth.Finch, Application: "default", CustomerID: "cus_1", CustomerName: "Acme Ltd",
		})
		require.NoError(t, err)
		return customer
	}
	require.Equal(t, "cus_1", introduce("new"))
	c, err := s.Connection(s.ctx, "new")
	require.NoError(t, err)
	require.Equal(t, "Acme Ltd", c.CustomerName)
	require.Equal(t, reauth.StatusConnected, c.Status)

	s.connect(t, "known", "anna@example.com")
	require.Equal(t, "cus_1", introduce("known"))
	c, err = s.Connection(s.ctx, "known")
	require.NoError(t, err)
	require.Equal(t, "cus_1", c.CustomerID, "it had no customer")
	require.Equal(t, "Acme", c.CustomerName, "but a name")
	require.Len(t, c.Contacts, 1, "and keeps its contacts")

	_, err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "another's", CustomerID: "cus_2"})
	require.Error(t, err, "no such ID")
	_, err = s.PutConnection(s.ctx, reauth.Connection{ConnectionID: "taken", CustomerID: "cus_2"})
	require.NoError(t, err)
	require.Equal(t, "cus_2", introduce("taken"))

	s.connect(t, "gone")
	_, err = s.RemoveConnection(s.ctx, "gone")
	require.NoError(t, err)
	require.Empty(t, introduce("gone"))
	require.Equal(t, reauth.StatusRemoved, s.status(t, "gone"))
}

func TestAwaited(t *testing.T) {
	s := newStore(t)
	var waiters []db.Waiter
	for i := range 3 {
		id := fmt.Sprint("c", i)
		s.connect(t, id)
		_, err := s.Adopt(s.ctx, adoption(id, "token of "+id, t0))
		require.NoError(t, err)
		waiters = append(waiters, db.Waiter{ConnectionID: id, After: 1})
	}
	s.connect(t, "none")
	waiters = append(waiters, db.Waiter{ConnectionID: "none"}, db.Waiter{ConnectionID: "unknown"})
	awaited := func() []string {
		ids, err := s.Awaited(s.ctx, waiters)
		require.NoError(t, err)
		return ids
	}
	require.Empty(t, awaited())
	_, err := s.Adopt(s.ctx, adoption("c1", "a newer one", t0.Add(time.Hour)))
	require.NoError(t, err)
	require.Equal(t, []string{"c1"}, awaited())
	_, err = s.Adopt(s.ctx, adoption("none", "the first", t0))
	require.NoError(t, err)
	_, err = s.RemoveConnection(s.ctx, "c2")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"c1", "c2", "none"}, awaited())
	none, err := s.Awaited(s.ctx, nil)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestRecode(t *testing.T) {
	s := newStore(t)
	code := func(id, was string, end bool) string {
		s.connect(t, id)
		_, err := s.OpenCase(s.ctx, db.Case{CaseID: "k-" + id, ConnectionID: id, Source: reauth.SourceAPIError, FinchCode: was, OpenedAt: t0})
		require.NoError(t, err)
		if end {
			s.end(t, "k-"+id, reauth.OutcomeFalseAlarm, t0)
		}
		require.NoError(t, s.Recode(s.ctx, "k-"+id))
		row, err := s.CaseByID(s.ctx, "k-"+id)
		require.NoError(t, err)
		return row.FinchCode
	}
	require.Equal(t, reauth.CodeReauth, code("c1", "error_permissions", false))
	require.Equal(t, "another", code("c2", "another", false))
	require.Equal(t, "error_permissions", code("c3", "error_permissions", true))
	require.ErrorIs(t, s.Recode(s.ctx, "nobody's"), db.ErrNotFound)
}

// After a false alarm about the customer's account, a lost login is heard.
func TestAFalseAlarmAboutTheAccountSuppressesNoLostLogin(t *testing.T) {
	s := newStore(t)
	for code, heard := range map[string]bool{"error_permissions": true, "account_setup_required": true, reauth.CodeReauth: false, "": false} {
		id := "c-" + code
		s.connect(t, id)
		_, err := s.OpenCase(s.ctx, db.Case{CaseID: "k" + id, ConnectionID: id, Source: reauth.SourceAPIError, FinchCode: code, OpenedAt: t0})
		require.NoError(t, err)
		s.end(t, "k"+id, reauth.OutcomeFalseAlarm, t0)
		suppressed := func(finchCode string) bool {
			_, _, suppressed, err := s.Suppressed(s.ctx, id, reauth.SourceAPIError, finchCode, t0.Add(time.Minute))
			require.NoError(t, err)
			return suppressed
		}
		require.Equal(t, !heard, suppressed(reauth.CodeReauth), code)
		require.True(t, suppressed("error_permissions"), code)
		require.True(t, suppressed(""), code)
	}
	s.connect(t, "expired")
	_, err := s.OpenCase(s.ctx, db.Case{CaseID: "k-expired", ConnectionID: "expired", Source: reauth.SourceAPIError, FinchCode: "error_permissions", OpenedAt: t0})
	require.NoError(t, err)
	s.end(t, "k-expired", reauth.OutcomeExpired, t0)
	_, _, suppressed, err := s.Suppressed(s.ctx, "expired", reauth.SourceAPIError, reauth.CodeReauth, t0.Add(time.Minute))
	require.NoError(t, err)
	require.True(t, suppressed, "a deadline means something")
}
