package notify

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// words is what one mail says, in the order in which it says it. Its text and
// its HTML are made from the same words.
type words struct {
	Subject   string
	Preheader string // what mail programs show beside the subject
	Product   string
	Tone      tone
	Heading   string
	Greeting  string
	Lead      []string // before the button
	Button    Link     // Name empty: no button
	Facts     []fact
	Entries   []entry  // the connections of a digest, in place of button and facts
	After     []string // after the facts
	Links     []Link
	Small     []string // below everything, why this mail came
	Stop      string   // where to say that it should not have; empty: nowhere
}

type fact struct{ Label, Value string }

// entry is one connection of a digest.
type entry struct {
	Title  string
	Facts  []fact
	Button Link
}

// tone picks the colour that tells the state apart at a glance.
type tone string

const (
	toneAsk   tone = "ask"
	toneLate  tone = "late"
	toneFixed tone = "fixed"
)

func wordsFor(n Notice) (words, error) {
	w := words{
		Product:  line(n.ProductName, nameLimit),
		Tone:     toneAsk,
		Greeting: "Hello,",
	}
	if w.Product == "" {
		return words{}, errors.New("field ProductName is missing")
	}
	if name := line(n.Recipient.Name, nameLimit); name != "" {
		w.Greeting = "Hello " + name + ","
	}
	if n.StopURL != "" {
		if !webURL(n.StopURL) || len(n.StopURL) > stopURLLimit {
			return words{}, fmt.Errorf("field StopURL is not an http or https address of at most %d bytes", stopURLLimit)
		}
		w.Stop = n.StopURL
	}
	c := clockFor(n.Recipient.TimeZone)
	switch {
	case len(n.Others) > 0:
		return w.digest(n, c)
	case n.Kind == KindOperator:
		return w.operator(n, c)
	}
	return w.customer(n, c)
}

func (w words) customer(n Notice, c clock) (words, error) {
	system, systemStart := line(n.ProviderName, nameLimit), line(n.ProviderName, nameLimit)
	if system == "" {
		system, systemStart = "the connected system", "The connected system"
	}
	company := line(n.CustomerName, nameLimit)
	whose := company
	if whose == "" {
		whose = "your company"
	}
	// Where only some of the connection's companies are affected, the mail is
	// about those.
	part := partOf(n)
	if part.is() {
		whose = few(part.stale)
	}

	// The subject names what to do, for which company, and stays the same to
	// the end: a mail program that sees another one begins another conversation.
	w.Subject = "Reconnect " + system + " to " + w.Product
	if company != "" {
		w.Subject += " (" + company + ")"
	}

	if n.Kind != KindFixed {
		if !webURL(n.LinkURL) {
			return words{}, errors.New("field LinkURL is not an http or https address")
		}
		w.Button = Link{"Reconnect " + system, n.LinkURL}
	}
	since := firstTime(n.StaleSince, n.OpenedAt)
	sinceDay := ""
	if !since.IsZero() {
		sinceDay = " since " + c.day(since)
	}
	how := "One click opens a page from which you sign in to " + system + " and allow the access again. It takes about two minutes."
	again := "One click opens the page again. It takes about two minutes."
	if !n.DeadlineAt.IsZero() && n.Kind != KindLastCall { // which says it to the minute
		by := " Please do it by " + c.day(n.DeadlineAt) + "."
		how, again = how+by, again+by
	}
	keep := "Please sign in with the same account as before. Nothing has to be set up anew, and nothing that is already in " + w.Product + " gets lost."
	forward := "Does somebody else look after " + system + "? Please forward this mail: it works for them too."
	w.After = []string{keep, forward}

	switch n.Kind {
	case KindFirst:
		w.Preheader = systemStart + " asks for a new sign-in. It takes about two minutes."
		w.Heading = systemStart + " needs you to sign in again" + part.heading()
		w.Lead = []string{
			systemStart + " has stopped letting " + w.Product + " read the data of " + whose + ". Until somebody signs in again, nothing new from there reaches " + w.Product + "." + part.rest("still "),
			how,
		}
	case KindReminder:
		w.Preheader = "Still waiting for a new sign-in. It takes about two minutes."
		w.Heading = systemStart + " is still disconnected" + part.heading()
		w.Lead = []string{
			w.Product + " has not been able to read the data of " + whose + " in " + system + sinceDay + ". Nothing new from there arrives until somebody signs in again." + part.rest("still "),
			how,
		}
	case KindLastCall:
		w.Tone = toneLate
		w.Preheader = "This is the last reminder. Signing in again takes about two minutes."
		w.Heading = "Last reminder: " + system + " is still disconnected" + part.heading()
		stays := "the connection stays off"
		if part.is() {
			stays = "that stays so"
		}
		stops := "If nobody signs in again, " + stays + " and we stop reminding you."
		if !n.DeadlineAt.IsZero() {
			stops = "If nobody signs in again by " + c.moment(n.DeadlineAt) + ", " + stays + " and we stop reminding you."
		}
		w.Lead = []string{
			w.Product + " has not been able to read the data of " + whose + " in " + system + sinceDay + "." + part.rest("still ") + " " + stops,
			how,
		}
		w.After = []string{keep, "You can still reconnect after that date: this mail keeps working.", forward}
	case KindTryAgain:
		switch n.Cause {
		case CauseOurFault:
			w.Preheader = "Something went wrong on our side. Please sign in once more."
			w.Heading = "Sorry, please sign in once more"
			w.Lead = []string{
				"Somebody signed in to " + system + " for " + whose + ", but something went wrong on our side before the connection was back. The sign-in was not at fault, and we are sorry to ask for another.",
				again,
			}
		case CauseRefused:
			w.Preheader = "The last sign-in did not go through. Please try once more."
			w.Heading = "The sign-in did not go through"
			w.Lead = []string{
				"Somebody signed in to " + system + " for " + whose + ", but the sign-in was not accepted. That happens when its last page stays open for too long, for example. Nothing has changed.",
				again,
			}
		case CauseWrongAccount:
			w.Preheader = "The last sign-in was for another account. Please try once more."
			w.Heading = "That was another account"
			w.Lead = []string{
				"Somebody signed in to " + system + ", but to another account than the one that " + w.Product + " was connected to for " + whose + ". So that no data gets mixed up, the connection was left as it is.",
				again,
			}
		case CauseUnfinished:
			w.Preheader = "The last sign-in was not the whole of it. Please sign in once more."
			w.Heading = systemStart + " is not back yet"
			w.Lead = []string{
				"Somebody signed in to " + system + " for " + whose + ", but " + system + " still does not let " + w.Product + " read the data. That happens when a step of the sign-in was left out, for example.",
				again,
			}
			if part.is() {
				w.Heading = "Almost there: one more sign-in" + part.heading()
				w.Lead[0] = "Somebody signed in to " + system + ", but " + whose + " did not come back with it." + part.rest("")
				w.After[0] = "Please sign in with an account that may see every company that was connected before: that is what brings all of them back. Nothing has to be set up anew, and nothing that is already in " + w.Product + " gets lost."
			}
		default:
			return words{}, fmt.Errorf("field Cause %q is not one that there is", string(n.Cause))
		}
	case KindFixed:
		w.Tone = toneFixed
		w.Preheader = "All is well again. There is nothing left for you to do."
		w.Heading = systemStart + " is connected again"
		w.Lead = []string{
			w.Product + " can read the data of " + whose + " in " + system + " again. There is nothing left for you to do, and you can ignore our earlier mails about this.",
		}
		w.After = nil
	default:
		return words{}, fmt.Errorf("field Kind %q is not one that there is", string(n.Kind))
	}

	w.Facts = facts(
		fact{"Company", company},
		fact{"Connection", line(n.ProviderName, nameLimit)},
		fact{"Affected", list(n.Entities)},
		fact{"Still works", list(n.Working)},
		c.fact("Stopped", since),
	)
	if n.Kind == KindFixed {
		w.Facts = append(w.Facts, facts(c.fact("Back since", n.RestoredAt))...)
	} else {
		w.Facts = append(w.Facts, facts(c.fact("Reconnect by", n.DeadlineAt))...)
	}

	return w.ending(n, company, "this connection"), nil
}

// part is the affected part of a connection that still works for the rest.
type part struct{ stale, working []string }

func partOf(n Notice) part { return part{named(n.Entities), named(n.Working)} }

// is reports whether the connection is affected in part only.
func (p part) is() bool { return len(p.stale) > 0 && len(p.working) > 0 }

// heading names the part at the end of a heading, or counts it.
func (p part) heading() string {
	const fits = 60
	if !p.is() {
		return ""
	}
	if names := few(p.stale); utf8.RuneCountInString(names) <= fits {
		return " for " + names
	}
	return fmt.Sprintf(" for %d of %d companies", len(p.stale), len(p.stale)+len(p.working))
}

// rest says, in a sentence, what is not affected: that it works, or still works.
func (p part) rest(still string) string {
	switch {
	case !p.is():
		return ""
	case len(p.working) == 1:
		return " " + p.working[0] + " " + still + "works."
	}
	return " " + few(p.working) + " " + still + "work."
}

// named are the names that are left of some when they have been cleaned.
func named(names []string) []string {
	var kept []string
	for _, name := range names {
		if name = line(name, nameLimit); name != "" {
			kept = append(kept, name)
		}
	}
	return kept
}

// ending adds what stands at the end of every mail to a customer.
func (w words) ending(n Notice, company, connections string) words {
	if n.ReplyTo != "" {
		w.After = append(w.After, "Questions? Just reply to this mail. A person at "+w.Product+" reads it.")
	}
	reason := "You get this mail because " + w.Product + " has you as a contact for " + connections
	if company != "" {
		reason = "You get this mail because " + w.Product + " has you as a contact of " + company + " for " + connections
	}
	w.Small = []string{reason + ". Please never send a password by mail; we do not ask for one."}
	return w
}

func (w words) operator(n Notice, c clock) (words, error) {
	problem, advice := line(n.Problem, factLimit), line(n.Advice, factLimit)
	if problem == "" {
		return words{}, errors.New("field Problem is missing")
	}
	system, company, connection := line(n.ProviderName, nameLimit), line(n.CustomerName, nameLimit), line(n.ConnectionID, 130)
	name := company
	if name == "" {
		name = connection
	}
	w.Subject = "[" + w.Product + "] A connection needs an operator"
	switch {
	case system != "" && name != "":
		w.Subject = "[" + w.Product + "] " + system + " connection needs an operator: " + name
	case name != "":
		w.Subject = "[" + w.Product + "] Connection needs an operator: " + name
	}
	w.Tone = toneLate
	w.Preheader = problem
	w.Heading = "A connection needs an operator"
	if heading := line(n.Heading, 130); heading != "" {
		w.Heading, w.Subject = heading, "["+w.Product+"] "+heading
	}
	w.Lead = []string{problem}
	if advice != "" {
		w.Lead = append(w.Lead, advice)
	}
	w.Facts = facts(
		fact{"Customer", company},
		fact{"System", system},
		fact{"Connection", connection},
		fact{"Affected", list(n.Entities)},
		fact{"Still works", list(n.Working)},
		fact{"Case", line(n.CaseID, 130)},
		c.fact("Stale since", n.StaleSince),
		c.fact("Case opened", n.OpenedAt),
		c.fact("Deadline", n.DeadlineAt),
	)
	for _, link := range n.Links {
		if !webURL(link.URL) {
			return words{}, errors.New("field Links has an entry that is not an http or https address")
		}
		named := Link{line(link.Name, nameLimit), link.URL}
		if named.Name == "" {
			named.Name = "Open"
		}
		if w.Button.Name == "" {
			w.Button = named
		} else {
			w.Links = append(w.Links, named)
		}
	}
	w.Small = []string{"You get this mail because you are the operator of " + w.Product + "'s connections. The customer was not sent this text."}
	return w, nil
}

// facts drops those that have nothing to say.
func facts(all ...fact) []fact {
	var kept []fact
	for _, f := range all {
		if f.Value != "" {
			kept = append(kept, f)
		}
	}
	return kept
}

// firstTime returns the first of times that is known.
func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func (c clock) fact(label string, t time.Time) fact {
	if t.IsZero() {
		return fact{}
	}
	return fact{label, c.moment(t)}
}

// list joins names, as many as a mail can bear.
func list(names []string) string {
	const most = 8
	kept := named(names)
	if len(kept) > most {
		return strings.Join(kept[:most], ", ") + fmt.Sprintf(" and %d more", len(kept)-most)
	}
	return strings.Join(kept, ", ")
}
