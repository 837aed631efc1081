package register_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

func TestCheck(t *testing.T) {
	c, err := register.Check(reauth.Connection{
		ConnectionID: "c1", CustomerName: " Acme ", System: "Gusto ", Products: []string{"directory", "company", "directory"},
		Contacts: []reauth.Contact{{ContactID: "x", Email: "Ada@acme.example", Name: "Ada", Locale: "en_gb", TimeZone: "Europe/London", Unreachable: "bounce"}},
	})
	require.NoError(t, err)
	assert.Equal(t, reauth.Connection{
		ConnectionID: "c1", Provider: reauth.Finch, Application: reauth.DefaultApplication, CustomerName: "Acme", System: "Gusto",
		Products: []string{"company", "directory"},
		Contacts: []reauth.Contact{{Email: "Ada@acme.example", Name: "Ada", Locale: "en-GB", TimeZone: "Europe/London"}},
	}, c)
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	one := func(c reauth.Contact) reauth.Connection { return reauth.Connection{Contacts: []reauth.Contact{c}} }
	long := strings.Repeat("é", 256)
	for name, test := range map[string]struct {
		c    reauth.Connection
		want string
	}{
		"provider":         {reauth.Connection{Provider: "plaid"}, `provider: must be "finch"`},
		"application":      {reauth.Connection{Application: "Über"}, "application: must be 1 to 64"},
		"customer's name":  {reauth.Connection{CustomerName: "a\nb"}, "customer_name: must be one line"},
		"a long name":      {reauth.Connection{CustomerName: long}, "customer_name: must have 255 characters at most"},
		"a long ID":        {reauth.Connection{CustomerID: long}, "customer_id: must have 255 characters at most"},
		"a long system":    {reauth.Connection{System: long[:202]}, "system: must have 100 characters at most"},
		"product":          {reauth.Connection{Products: []string{"company", "Pay"}}, "products[1]: must be 1 to 64"},
		"many products":    {reauth.Connection{Products: make([]string, 51)}, "products: must be 50 at most"},
		"many contacts":    {reauth.Connection{Contacts: make([]reauth.Contact, 21)}, "contacts: must be 20 at most"},
		"no address":       {one(reauth.Contact{Name: "Ada"}), "contacts[0].email: must be an e-mail address alone"},
		"a long address":   {one(reauth.Contact{Email: strings.Repeat("a", 250) + "@x.example"}), "contacts[0].email: must be"},
		"twice":            {reauth.Connection{Contacts: []reauth.Contact{{Email: "a@x.example"}, {Email: "A@x.example"}}}, "contacts[1].email: stands in contacts twice"},
		"a long role":      {one(reauth.Contact{Email: "a@x.example", Role: long}), "contacts[0].role: must have 100"},
		"a locale":         {one(reauth.Contact{Email: "a@x.example", Locale: "english"}), "contacts[0].locale: must be a BCP 47"},
		"a time zone":      {one(reauth.Contact{Email: "a@x.example", TimeZone: "Europe/Londn"}), "contacts[0].time_zone: must be an IANA"},
		"the server's own": {one(reauth.Contact{Email: "a@x.example", TimeZone: "Local"}), "contacts[0].time_zone"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := register.Check(test.c)
			var problem *register.Problem
			require.ErrorAs(t, err, &problem)
			assert.Contains(t, problem.Error(), test.want)
		})
	}
	assert.NoError(t, register.CheckToken("a-token"))
	assert.ErrorContains(t, register.CheckToken("a token"), "access_token: must be printable ASCII")
	assert.ErrorContains(t, register.CheckToken(strings.Repeat("x", 4097)), "access_token: must have 4096")
}
