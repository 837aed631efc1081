package notify

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// mostOthers keeps a digest with names of ordinary length below the 102 kB at
// which Gmail cuts a mail off.
const mostOthers = 50

// sameLastCall is how much later than the notice's own deadline another one may
// be, if the last reminder for the one is the last for the other too: last
// reminders go out a day before.
const sameLastCall = 24 * time.Hour

// digest tells of several connections in one mail.
func (w words) digest(n Notice, c clock) (words, error) {
	if !campaigning(n.Kind) {
		return words{}, fmt.Errorf("field Others is not for the kind %q", string(n.Kind))
	}
	if len(n.Others) > mostOthers {
		return words{}, fmt.Errorf("field Others has more than %d entries", mostOthers)
	}
	all := append([]Other{{
		CustomerName: n.CustomerName, ProviderName: n.ProviderName, Entities: n.Entities, Working: n.Working, LinkURL: n.LinkURL,
		StaleSince: n.StaleSince, OpenedAt: n.OpenedAt, DeadlineAt: n.DeadlineAt,
	}}, n.Others...)
	// A digest of a last reminder may tell of connections whose last one is
	// still to come.
	last := func(o Other) bool {
		if n.DeadlineAt.IsZero() {
			return o.DeadlineAt.IsZero()
		}
		return !o.DeadlineAt.IsZero() && o.DeadlineAt.Sub(n.DeadlineAt) <= sameLastCall
	}
	lasts := 0
	for _, o := range all {
		if last(o) {
			lasts++
		}
	}

	names, lastNames := make([]string, 0, len(all)), make([]string, 0, lasts)
	for i, o := range all {
		if !webURL(o.LinkURL) {
			if i == 0 {
				return words{}, errors.New("field LinkURL is not an http or https address")
			}
			return words{}, fmt.Errorf("field Others[%d].LinkURL is not an http or https address", i-1)
		}
		names = append(names, o.name())
		title := fmt.Sprintf("%d. %s", i+1, o.name())
		if n.Kind == KindLastCall && last(o) {
			lastNames = append(lastNames, o.name())
			if lasts < len(all) {
				title += ", last reminder"
			}
		}
		w.Entries = append(w.Entries, entry{
			Title: title,
			Facts: facts(
				fact{"Affected", list(o.Entities)},
				fact{"Still works", list(o.Working)},
				c.fact("Stopped", firstTime(o.StaleSince, o.OpenedAt)),
				c.fact("Reconnect by", o.DeadlineAt),
			),
			Button: Link{"Reconnect " + o.system(), o.LinkURL},
		})
	}

	connections, company := fmt.Sprintf("%d connections", len(all)), sharedCompany(all)
	w.Subject = connections + " of " + w.Product + " need you to sign in again"
	data := "the data"
	if company != "" {
		w.Subject += " (" + company + ")"
		data = "the data of " + company
	}
	oldest := ""
	if since := earliest(all, func(o Other) time.Time { return firstTime(o.StaleSince, o.OpenedAt) }); !since.IsZero() {
		oldest = ", the oldest of them since " + c.day(since)
	}
	how := "Each has a link of its own below. It opens a page from which you sign in to that system and allow the access again. It takes about two minutes each."
	silent := w.Product + " has not been able to read " + data + " behind these " + connections + oldest + "."
	w.After = []string{
		"Please sign in with the same accounts as before. Nothing has to be set up anew, and nothing that is already in " + w.Product + " gets lost.",
		"Does somebody else look after one of these systems? Please send them its link: it works for them too.",
	}

	switch n.Kind {
	case KindFirst:
		w.Preheader = few(names) + ". It takes about two minutes each."
		w.Heading = connections + " need you to sign in again"
		w.Lead = []string{
			w.Product + " can no longer read " + data + " behind these " + connections + ". Until somebody signs in again, nothing new from there reaches " + w.Product + ".",
			how + c.by(all),
		}
	case KindReminder:
		w.Preheader = "Still waiting for a new sign-in: " + few(names) + "."
		w.Heading = connections + " are still disconnected"
		w.Lead = []string{
			silent + " Nothing new from there arrives until somebody signs in again.",
			how + c.by(all),
		}
	case KindLastCall:
		w.Tone = toneLate
		w.Preheader = "This is the last reminder for " + few(lastNames) + "."
		w.Heading = "Last reminder: " + connections + " are still disconnected"
		stops := "If nobody signs in again by the date that stands with each, the connection stays off and we stop reminding you."
		switch {
		case n.DeadlineAt.IsZero() && lasts == len(all):
			stops = "If nobody signs in again, they stay off and we stop reminding you."
		case lasts < len(all):
			w.Heading = fmt.Sprintf("Last reminder for %d of %s", lasts, connections)
			stops = "Where it says \"last reminder\" and nobody signs in again in time, the connection stays off and we stop reminding you of it."
		}
		w.Lead = []string{silent + " " + stops, how}
		w.After = append(w.After[:1:1], "You can still reconnect after that: this mail keeps working.", w.After[1])
	}
	return w.ending(n, company, "these connections"), nil
}

func (o Other) system() string {
	if system := line(o.ProviderName, nameLimit); system != "" {
		return system
	}
	return "the connected system"
}

// name tells a connection from the others: "Gusto (Northwind Ltd)".
func (o Other) name() string {
	system, company := line(o.ProviderName, nameLimit), line(o.CustomerName, nameLimit)
	switch {
	case system == "" && company == "":
		return "The connected system"
	case system == "":
		return company
	case company == "":
		return system
	}
	return system + " (" + company + ")"
}

// sharedCompany is the company that all connections are of, if it is one.
func sharedCompany(all []Other) string {
	company := line(all[0].CustomerName, nameLimit)
	for _, o := range all {
		if line(o.CustomerName, nameLimit) != company {
			return ""
		}
	}
	return company
}

// earliest returns the first of the times that are known.
func earliest(all []Other, of func(Other) time.Time) time.Time {
	var first time.Time
	for _, o := range all {
		if t := of(o); !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// by says until when: one day if it is the same for all, else the first.
func (c clock) by(all []Other) string {
	first := earliest(all, func(o Other) time.Time { return o.DeadlineAt })
	if first.IsZero() {
		return ""
	}
	for _, o := range all {
		if o.DeadlineAt.IsZero() || c.day(o.DeadlineAt) != c.day(first) {
			return " Please mind the date that stands with each: the first is " + c.day(first) + "."
		}
	}
	return " Please do it by " + c.day(first) + "."
}

// few names as many connections as mail programs show beside the subject.
func few(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most-1], ", ") + fmt.Sprintf(" and %d more", len(names)-most+1)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
