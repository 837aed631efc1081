package rows

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/strictjson"
)

// wire is a line of NDJSON: the body of PUT, the connection's ID, and when the
// token was minted.
type wire struct {
	ConnectionID   string         `json:"connection_id"`
	AccessToken    string         `json:"access_token"`
	MintedAt       string         `json:"minted_at"`
	TokenCreatedAt string         `json:"token_created_at"`
	Provider       *string        `json:"provider"`
	Application    *string        `json:"application"`
	CustomerID     *string        `json:"customer_id"`
	CustomerName   *string        `json:"customer_name"`
	System         *string        `json:"system"`
	Campaign       *string        `json:"campaign"`
	Products       *[]string      `json:"products"`
	Contacts       *[]wireContact `json:"contacts"`
}

type wireContact struct {
	Email    string `json:"email"`
	Name     string `json:"name"`
	Role     string `json:"role"`
	Locale   string `json:"locale"`
	TimeZone string `json:"time_zone"`
	// ContactID and Unreachable are what GET shows; they are ignored.
	ContactID   string `json:"contact_id"`
	Unreachable string `json:"unreachable"`
}

var (
	objectFields = []string{
		"connection_id", "access_token", "minted_at", "token_created_at", "provider", "application",
		"customer_id", "customer_name", "system", "campaign", "products", "contacts",
	}
	personFields = append(slices.Clone(contactFields), "contact_id", "unreachable")
)

// object reads a line of NDJSON.
func object(text []byte) (Row, error) {
	var row Row
	switch bytes.TrimLeft(text, " \t")[0] {
	case '{':
	case '[':
		return row, errors.New("is a JSON array; give one JSON object a line, as `jq -c '.[]'` writes them")
	default:
		return row, errors.New("is not a JSON object; give one JSON object a line")
	}
	var w wire
	if err := strictjson.Unmarshal(text, &w); err != nil {
		return row, err
	}
	row.Connection.ConnectionID = w.ConnectionID
	if err := checkNames(text); err != nil {
		return row, err
	}
	c := &row.Connection
	row.Token = secrets.Secret(w.AccessToken)
	for _, at := range []struct{ name, text string }{{"minted_at", w.MintedAt}, {"token_created_at", w.TokenCreatedAt}} {
		if at.text == "" {
			continue
		}
		if !row.MintedAt.IsZero() {
			return row, errors.New("has minted_at and token_created_at, which are the same; keep one of them")
		}
		var err error
		if row.MintedAt, err = moment(at.text); err != nil {
			return row, fmt.Errorf("%s: %w", at.name, err)
		}
	}
	for _, f := range []struct {
		from  *string
		into  *string
		given *bool
	}{
		{w.Application, &c.Application, &row.Given.Application}, {w.CustomerID, &c.CustomerID, &row.Given.CustomerID},
		{w.CustomerName, &c.CustomerName, &row.Given.CustomerName}, {w.System, &c.System, &row.Given.System},
		{w.Campaign, &c.Campaign, &row.Given.Campaign},
	} {
		if f.from != nil {
			*f.into, *f.given = *f.from, true
		}
	}
	if w.Provider != nil {
		c.Provider, row.Given.Provider = reauth.Provider(*w.Provider), true
	}
	if w.Products != nil {
		c.Products, row.Given.Products = *w.Products, true
	}
	if w.Contacts != nil {
		row.Given.Contacts = true
		for _, p := range *w.Contacts {
			c.Contacts = append(c.Contacts, reauth.Contact{Email: p.Email, Name: p.Name, Role: p.Role, Locale: p.Locale, TimeZone: p.TimeZone})
		}
	}
	return row, nil
}

// checkNames refuses fields that nothing reads.
func checkNames(text []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return errors.New("is not a JSON object")
	}
	if err := unknownField(fields, objectFields, ""); err != nil {
		return err
	}
	var people []map[string]json.RawMessage
	if list := fields["contacts"]; list != nil {
		if err := json.Unmarshal(list, &people); err != nil {
			return errors.New("contacts must be a list of objects")
		}
	}
	for i, person := range people {
		if err := unknownField(person, personFields, fmt.Sprintf("contacts[%d]: ", i)); err != nil {
			return err
		}
	}
	return nil
}

func unknownField(fields map[string]json.RawMessage, known []string, where string) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if slices.Contains(known, name) {
			continue
		}
		what := "a field"
		if harmlessName.MatchString(name) {
			what = "the field " + name
		}
		return errors.New(where + "has " + what + " that is not known; known are " + strings.Join(known, ", "))
	}
	return nil
}
