package web

import (
	"errors"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
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

// contact leaves out what is only ever read.
func (b ContactBody) contact() reauth.Contact {
	return reauth.Contact{Email: b.Email, Name: b.Name, Role: b.Role, Locale: b.Locale, TimeZone: b.TimeZone}
}

// registered checks what JSON Schema cannot. The error is a problem.
func registered(c reauth.Connection) (reauth.Connection, error) {
	c, err := register.Check(c)
	return c, bodyProblem(err)
}

// bodyProblem makes a problem of what register says.
func bodyProblem(err error) error {
	var wrong *register.Problem
	if errors.As(err, &wrong) {
		return fieldProblem("body."+wrong.Field, wrong.Message)
	}
	return err
}
