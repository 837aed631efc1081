package web

import (
	"fmt"
	"net/mail"
	"strings"
	"time"
	_ "time/tzdata" // time zones must not depend on what a container has installed
	"unicode"

	"golang.org/x/text/language"

	"github.com/finch-reauth/reauth/reauth"
)

// ContactBody is a contact as a backend gives it.
type ContactBody struct {
	Email    string `json:"email" maxLength:"254" doc:"Where notices go." example:"ada@acme.example"`
	Name     string `json:"name,omitempty" maxLength:"200" doc:"How to address the person." example:"Ada Lovelace"`
	Role     string `json:"role,omitempty" maxLength:"100" doc:"What the person does. Some roles decide when they are written to: an alternate (or backup, secondary) from the campaign's step for alternates on, or when no primary contact can be written to; an account_manager (or operator), one of your own people, when nobody at the customer can. Every other role, and none, is a primary contact's." example:"payroll admin"`
	Locale   string `json:"locale,omitempty" maxLength:"35" doc:"Their language, as a BCP 47 tag." example:"en-GB"`
	TimeZone string `json:"time_zone,omitempty" maxLength:"64" doc:"Their IANA time zone." example:"Europe/London"`
	// ContactID and Unreachable may be given so that what GET shows can be given back.
	ContactID   string `json:"contact_id,omitempty" readOnly:"true" maxLength:"64" doc:"What the send ledger and the timeline call the person, as GET shows it. It is ignored here."`
	Unreachable string `json:"unreachable,omitempty" readOnly:"true" maxLength:"20" doc:"Why the person is not written to, as GET shows it. It is ignored here: POST /v1/contacts/bounce and /v1/contacts/restore change it."`
}

// contacts checks what JSON Schema cannot, and writes locales canonically.
func contacts(bodies []ContactBody) ([]reauth.Contact, error) {
	seen := map[string]bool{}
	checked := make([]reauth.Contact, 0, len(bodies))
	for i, body := range bodies {
		at := func(field string) string { return fmt.Sprintf("body.contacts[%d].%s", i, field) }
		if !validEmail(body.Email) {
			return nil, fieldProblem(at("email"), `must be an e-mail address alone, as "ada@acme.example"`)
		}
		if lower := strings.ToLower(body.Email); seen[lower] {
			return nil, fieldProblem(at("email"), "stands in contacts twice; each address may appear once")
		} else {
			seen[lower] = true
		}
		for field, value := range map[string]string{"name": body.Name, "role": body.Role} {
			if !printable(value) {
				return nil, fieldProblem(at(field), "must be one line of printable text")
			}
		}
		locale, ok := canonicalLocale(body.Locale)
		if !ok {
			return nil, fieldProblem(at("locale"), `must be a BCP 47 language tag, as "en-GB" or "de"`)
		}
		if !validTimeZone(body.TimeZone) {
			return nil, fieldProblem(at("time_zone"), `must be an IANA time zone, as "Europe/London" or "America/New_York"`)
		}
		checked = append(checked, reauth.Contact{Email: body.Email, Name: body.Name, Role: body.Role, Locale: locale, TimeZone: body.TimeZone})
	}
	return checked, nil
}

// validEmail takes an address as SMTP does, without a display name.
func validEmail(email string) bool {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || address.Name != "" {
		return false
	}
	return !strings.ContainsFunc(email, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' })
}

func canonicalLocale(locale string) (string, bool) {
	if locale == "" {
		return "", true
	}
	tag, err := language.Parse(locale)
	if err != nil || tag == language.Und {
		return "", false
	}
	return tag.String(), true
}

func validTimeZone(zone string) bool {
	if zone == "" {
		return true
	}
	if zone == "Local" {
		return false
	}
	_, err := time.LoadLocation(zone)
	return err == nil
}

// printable refuses what could break a mail's header or a page's line.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
