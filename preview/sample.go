package preview

import (
	"cmp"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// Sample is a connection to preview where there is none: one primary contact in
// New York, one alternate in London, and an account manager of whom no time zone
// is known.
func Sample() (reauth.Connection, []db.Recipient) {
	return reauth.Connection{
			ConnectionID: "sample", Provider: reauth.Finch, Application: reauth.DefaultApplication,
			CustomerName: "Northwind Traders", System: "Gusto", Status: reauth.StatusStale,
		}, []db.Recipient{
			{ContactID: "1", Email: "dana@northwind.example", Name: "Dana Whitfield", Role: "primary", TimeZone: "America/New_York"},
			{ContactID: "2", Email: "priya@northwind.example", Name: "Priya Nair", Role: "alternate", TimeZone: "Europe/London"},
			{ContactID: "3", Email: "sam@ledgerly.example", Name: "Sam Okafor", Role: "account_manager"},
		}
}

// SampleSettings completes settings with sample values where they have none. It
// assumes that the operators have a chat.
func SampleSettings(s activities.Settings) activities.Settings {
	s.PublicURL = cmp.Or(s.PublicURL, "https://reauth.ledgerly.example")
	s.ProductName = cmp.Or(s.ProductName, "Ledgerly")
	s.MailFrom = cmp.Or(s.MailFrom, s.ProductName+" <connections@ledgerly.example>")
	s.OperatorEmail = cmp.Or(s.OperatorEmail, "operations@ledgerly.example")
	s.SessionMinutes = cmp.Or(s.SessionMinutes, reauth.DefaultSessionMinutes)
	s.Chat = true
	return s
}
