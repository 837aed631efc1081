package campaign

import (
	"slices"
	"strings"
)

// Role is what a contact is in a campaign.
type Role int

// The roles.
const (
	RolePrimary Role = iota
	RoleAlternate
	RoleCompany
)

// RoleOf reads the role of a contact as a backend gave it: "alternate",
// "backup" and "secondary" are alternates, "account_manager" and "operator" the
// company's own people. Everything else, a job title say, is a primary contact.
func RoleOf(role string) Role {
	switch strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(strings.TrimSpace(role))) {
	case "alternate", "backup", "secondary":
		return RoleAlternate
	case "account_manager", "operator":
		return RoleCompany
	}
	return RolePrimary
}

// Person is a contact as a campaign sees one.
type Person struct {
	// ID names the contact; never an address.
	ID       string
	Role     Role
	TimeZone string
	// Unreachable says why the person must not be written to; empty if they may.
	Unreachable string
}

// Choose says who hears a step that is for an audience, in the order given:
// those of it who can be reached, or else those of the next audience. Nobody is
// left when it returns none: then the operator must hear.
func Choose(audience Audience, people []Person) []Person {
	reachable := func(roles ...Role) (chosen []Person) {
		for _, p := range people {
			if p.Unreachable == "" && slices.Contains(roles, p.Role) {
				chosen = append(chosen, p)
			}
		}
		return chosen
	}
	switch audience {
	case Primary:
		if chosen := reachable(RolePrimary); len(chosen) > 0 {
			return chosen
		}
		fallthrough
	case Alternates:
		if chosen := reachable(RolePrimary, RoleAlternate); len(chosen) > 0 {
			return chosen
		}
	}
	return reachable(RoleCompany)
}
