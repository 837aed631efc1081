package web

import (
	"strings"
	"unicode/utf8"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// Queries with which the link's page and its stop page lead to each other: a
// page never holds the secret that stands in their addresses.
const (
	queryStop = "stop"
	queryLink = "link"
)

// stop is the page on which somebody says that they want no more mails, or
// what has become of it.
func (p *pages) stop(v stopView) page {
	switch {
	case v.stopped():
		return p.stopDone(v)
	case v.undone:
		return p.stopUndone(v)
	}
	return p.stopAsk(v)
}

func (p *pages) stopAsk(v stopView) page {
	pg := page{
		Tone: toneNote, Title: "Not the right person?",
		Lead: []string{"You get mails about " + p.config.ProductName + v.connections() + "."},
		Choices: []choice{
			{Value: stopNotMe, Label: "I am not the right person", About: "We will look for " + v.somebodyElse() + " to ask about " + v.these() + "."},
			{Value: stopNever, Label: "No more mails to my address", About: "We will not write to " + maskedAddress(v.person.Email) + " again, about this or any other connection.", Quiet: true},
		},
		Note:  "The mails go to " + maskedAddress(v.person.Email) + ". If one was forwarded to you, the buttons are about that address, not yours.",
		Aside: &button{Label: "Back to the connection", Href: "?" + queryLink},
	}
	if v.person.Unreachable == db.UnreachableBounce {
		pg.Lead = append(pg.Lead, "Our mails to "+maskedAddress(v.person.Email)+" came back lately, so we do not write to it at present.")
	}
	return pg
}

func (p *pages) stopDone(v stopView) page {
	pg := page{Tone: toneGood, Title: "We have noted it"}
	first := "You will get no more mails about this."
	if v.person.Unreachable == db.UnreachableOptOut || v.person.Unreachable == db.UnreachableComplaint {
		first = "We will not write to " + maskedAddress(v.person.Email) + " again, about this or any other connection."
	}
	pg.Lead = []string{first + " We will look for " + v.somebodyElse() + " to ask."}
	if v.person.Declined || v.person.Unreachable == db.UnreachableOptOut {
		pg.Choices = []choice{{Value: stopUndo, Label: "That was a mistake", Quiet: true}}
	}
	return pg
}

func (p *pages) stopUndone(v stopView) page {
	pg := page{
		Tone: toneGood, Title: "We have taken it back",
		Lead:  []string{"You get mails about " + p.config.ProductName + v.connections() + " again."},
		Aside: &button{Label: "Go to the connection", Href: "?" + queryLink},
	}
	if v.person.Unreachable == db.UnreachableBounce {
		pg.Lead = append(pg.Lead, "Our mails to "+maskedAddress(v.person.Email)+" came back lately, though, so none goes out before that is mended.")
	}
	return pg
}

// notYours is the stop page of a link that went to none of the contacts.
func (p *pages) notYours(v stopView) page {
	return page{
		Tone: toneNote, Title: "There is nothing to stop here",
		Lead: []string{"This page is for the people whom we write to about the connection of " + companyOf(v.connection) + ". This link went to none of them."},
	}
}

// somebodyElse is who is asked in a person's place. An account manager is not
// one of the customer's people.
func (v stopView) somebodyElse() string {
	if campaign.RoleOf(v.person.Role) == campaign.RoleCompany {
		return "somebody else"
	}
	return "somebody else at " + companyOf(v.connection)
}

// these is what a press is about, in short.
func (v stopView) these() string {
	if len(v.along) > 0 {
		return "these connections"
	}
	return "this connection"
}

// connections names what a press is about.
func (v stopView) connections() string {
	name := func(c reauth.Connection) string { return systemOf(c) + " of " + companyOf(c) }
	if len(v.along) == 0 {
		return "'s connection to " + name(v.connection)
	}
	names := make([]string, len(v.along))
	for i, other := range v.along {
		names[i] = name(other.connection)
	}
	return "'s connections to " + strings.Join(names, ", ") + " and " + name(v.connection)
}

// maskedAddress shows an address to its owner without giving it to whoever
// else has the link.
func maskedAddress(email string) string {
	local, domain, _ := strings.Cut(email, "@")
	_, size := utf8.DecodeRuneInString(local)
	return local[:size] + "•••@" + domain
}
