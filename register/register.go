// Package register says what a connection must be like to be registered,
// through whichever door it comes: the API or an import. Its messages say what
// would be right and never repeat what was given.
package register

import (
	"cmp"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones must not depend on what a container has installed
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"

	"github.com/finch-reauth/reauth/reauth"
)

// What a field holds at most, in characters, and a list in items.
const (
	MaxText     = 255 // customer_id, customer_name
	MaxSystem   = 100
	MaxToken    = 4096
	MaxContacts = 20
	MaxProducts = 50
	MaxEmail    = 254
	MaxName     = 200
	MaxRole     = 100
	MaxLocale   = 35
	MaxTimeZone = 64
)

// Problem is what is wrong with one field.
type Problem struct {
	// Field is where, as "contacts[0].email".
	Field   string
	Message string
}

func (p *Problem) Error() string { return p.Field + ": " + p.Message }

func wrong(field, message string) *Problem { return &Problem{Field: field, Message: message} }

var (
	applicationPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	productPattern     = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)
)

// Check checks a connection, all but its ID, and returns it as it is stored:
// with a provider and an application, its products sorted, its locales in their
// canonical form. The error is a *Problem.
func Check(c reauth.Connection) (reauth.Connection, error) {
	c.Provider = cmp.Or(c.Provider, reauth.Finch)
	c.Application = cmp.Or(c.Application, reauth.DefaultApplication)
	if c.Provider != reauth.Finch {
		return c, wrong("provider", `must be "finch"`)
	}
	if !applicationPattern.MatchString(c.Application) {
		return c, wrong("application", "must be 1 to 64 lower-case letters, digits, '_' or '-'")
	}
	var err error
	if c.Contacts, err = contacts(c.Contacts); err != nil {
		return c, err
	}
	for _, text := range []struct {
		field, value string
		most         int
	}{{"customer_name", c.CustomerName, MaxText}, {"customer_id", c.CustomerID, MaxText}, {"system", c.System, MaxSystem}} {
		if err := oneLine(text.field, text.value, text.most); err != nil {
			return c, err
		}
	}
	if len(c.Products) > MaxProducts {
		return c, wrong("products", fmt.Sprintf("must be %d at most", MaxProducts))
	}
	for i, product := range c.Products {
		if !productPattern.MatchString(product) {
			return c, wrong(fmt.Sprintf("products[%d]", i), "must be 1 to 64 lower-case letters, digits or '_'")
		}
	}
	c.CustomerName, c.System = strings.TrimSpace(c.CustomerName), strings.TrimSpace(c.System)
	c.Products = slices.Clone(c.Products)
	slices.Sort(c.Products)
	c.Products = slices.Compact(c.Products)
	return c, nil
}

// contacts checks the contacts of a connection, and writes locales canonically.
func contacts(list []reauth.Contact) ([]reauth.Contact, error) {
	if len(list) > MaxContacts {
		return nil, wrong("contacts", fmt.Sprintf("must be %d at most", MaxContacts))
	}
	seen := map[string]bool{}
	checked := make([]reauth.Contact, 0, len(list))
	for i, c := range list {
		at := func(field string) string { return fmt.Sprintf("contacts[%d].%s", i, field) }
		if !ValidEmail(c.Email) {
			return nil, wrong(at("email"), `must be an e-mail address alone, as "ada@acme.example"`)
		}
		lower := strings.ToLower(c.Email)
		if seen[lower] {
			return nil, wrong(at("email"), "stands in contacts twice; each address may appear once")
		}
		seen[lower] = true
		if err := cmp.Or(oneLine(at("name"), c.Name, MaxName), oneLine(at("role"), c.Role, MaxRole)); err != nil {
			return nil, err
		}
		locale, ok := canonicalLocale(c.Locale)
		if !ok {
			return nil, wrong(at("locale"), `must be a BCP 47 language tag, as "en-GB" or "de"`)
		}
		if !validTimeZone(c.TimeZone) {
			return nil, wrong(at("time_zone"), `must be an IANA time zone, as "Europe/London" or "America/New_York"`)
		}
		checked = append(checked, reauth.Contact{Email: c.Email, Name: c.Name, Role: c.Role, Locale: locale, TimeZone: c.TimeZone})
	}
	return checked, nil
}

// CheckToken checks what an access token looks like. The error is a *Problem.
func CheckToken(token string) error {
	if len(token) > MaxToken {
		return wrong("access_token", fmt.Sprintf("must have %d characters at most", MaxToken))
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return wrong("access_token", "must be printable ASCII without spaces")
	}
	return nil
}

// CheckCampaign refuses the name of a campaign that does not exist; an empty
// one leaves the choice to us. Nil campaigns take every name. The error has no
// field's name in it.
func CheckCampaign(name string, campaigns []string) error {
	if name == "" {
		return nil
	}
	if err := reauth.CheckCampaignName(name); err != nil {
		return err
	}
	if campaigns == nil || slices.Contains(campaigns, name) {
		return nil
	}
	if len(campaigns) == 0 {
		return errors.New("is not a campaign here, where there is none; leave it out")
	}
	return errors.New("is not a campaign here; known are " + strings.Join(campaigns, ", "))
}

// CheckApplication refuses an application whose client credentials nobody has: a
// case of its connection could never open a session. Nil applications take every
// name. The error is a *Problem.
func CheckApplication(name string, applications []string) error {
	if applications == nil || slices.Contains(applications, name) {
		return nil
	}
	return wrong("application", "is not configured here; known are "+strings.Join(applications, ", ")+". The file of REAUTH_APPLICATIONS names those beside default")
}

// ValidEmail takes an address as SMTP does, without a display name.
func ValidEmail(email string) bool {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || address.Name != "" || len(email) > MaxEmail {
		return false
	}
	return !strings.ContainsFunc(email, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' })
}

func canonicalLocale(locale string) (string, bool) {
	if locale == "" {
		return "", true
	}
	tag, err := language.Parse(locale)
	if err != nil || tag == language.Und || len(locale) > MaxLocale {
		return "", false
	}
	return tag.String(), true
}

func validTimeZone(zone string) bool {
	if zone == "" {
		return true
	}
	if zone == "Local" || len(zone) > MaxTimeZone {
		return false
	}
	_, err := time.LoadLocation(zone)
	return err == nil
}

// Printable refuses what could break a mail's header or a page's line.
func Printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func oneLine(field, text string, most int) error {
	if !Printable(text) {
		return wrong(field, "must be one line of printable text")
	}
	if utf8.RuneCountInString(text) > most {
		return wrong(field, fmt.Sprintf("must have %d characters at most", most))
	}
	return nil
}
