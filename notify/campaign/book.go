package campaign

import (
	"cmp"
	"maps"
	"slices"

	"github.com/finch-reauth/reauth/reauth"
)

// Book is the campaigns that a case can follow, and which case follows which.
// It does not change once it is made. A nil Book has only Default.
type Book struct {
	campaigns map[string]Campaign
	choices   []choice
}

// choice says which campaign is for the connections of an application, of a
// provider, or of both; empty means any.
type choice struct {
	application string
	provider    reauth.Provider
	campaign    string
	line        int // in the file
}

func (c choice) matches(application string, provider reauth.Provider) bool {
	return (c.application == "" || c.application == application) && (c.provider == "" || c.provider == provider)
}

// covers reports whether whatever fits the other choice fits this one.
func (c choice) covers(other choice) bool {
	return (c.application == "" || c.application == other.application) && (c.provider == "" || c.provider == other.provider)
}

// BookOf is a book whose default is the campaign given, and which has no other.
func BookOf(c Campaign) *Book {
	return &Book{campaigns: map[string]Campaign{DefaultName: c.clone()}}
}

// Named returns the campaign of a name, if the book has it. DefaultName is in
// every book.
func (b *Book) Named(name string) (Campaign, bool) {
	if b != nil {
		if c, ok := b.campaigns[name]; ok {
			return c.clone(), true
		}
	}
	if name == DefaultName {
		return Default(), true
	}
	return Campaign{}, false
}

// Names lists the names of the campaigns in order; DefaultName is among them.
func (b *Book) Names() []string {
	names := []string{DefaultName}
	if b != nil {
		names = slices.AppendSeq(names, maps.Keys(b.campaigns))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Choose returns the campaign that a new case of a connection follows: the one
// that is named for it, if the book has it, or else the one of the first choice
// that fits its application and provider, or else the book's default. An empty
// application or provider is the one that a connection has when nothing is said.
func (b *Book) Choose(named string, application string, provider reauth.Provider) Campaign {
	if c, ok := b.Named(named); ok {
		return c
	}
	name := DefaultName
	if b != nil {
		application, provider = cmp.Or(application, reauth.DefaultApplication), cmp.Or(provider, reauth.Finch)
		if i := slices.IndexFunc(b.choices, func(c choice) bool { return c.matches(application, provider) }); i >= 0 {
			name = b.choices[i].campaign
		}
	}
	c, _ := b.Named(name)
	return c
}

// clone lets whoever gets a campaign do with it what they like.
func (c Campaign) clone() Campaign {
	c.Steps = slices.Clone(c.Steps)
	c.Hours.DaysOff = slices.Clone(c.Hours.DaysOff)
	return c
}
