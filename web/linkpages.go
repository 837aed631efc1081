package web

import (
	"cmp"
	"net/url"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// link is the page behind a link.
func (p *pages) link(v linkView) page {
	if v.waiting() {
		return p.linkWait(v)
	}
	company := companyOf(v.connection)
	switch v.state() {
	case linkReady:
		if !v.asked.IsZero() { // the explanation was on the page before
			return page{
				Tone: toneAsk, Title: "Ready",
				Lead:  []string{"Everything is prepared. One press takes you to the sign-in for " + company + "."},
				Facts: p.linkFacts(v), Button: &button{Label: "Ready – continue"}, Aside: notTheRightPerson(),
			}
		}
		return p.linkAsk(v)
	case linkOpening:
		return p.linkAsk(v)
	case linkOver:
		pg := p.linkAsk(v)
		pg.Note = "This link is still good. " + pg.Note
		return pg
	case linkTaken:
		return page{
			Tone: toneWait, Title: "We are checking the connection", Refresh: 3,
			Lead: []string{"Somebody has just signed in for " + company + ". We are checking that the connection works; there is nothing to do meanwhile."},
		}
	case linkBlocked:
		return page{
			Tone: toneOurs, Title: "We have to fix something first",
			Lead: []string{
				"We cannot start the sign-in for " + company + " just now, because something on our side needs attention. Our team has been told.",
				"It is not your fault, and you need not do anything. You can try this link again later.",
			},
		}
	case linkGone:
		return page{
			Tone: toneNote, Title: "This connection was ended",
			Lead: []string{
				"The connection of " + company + " was disconnected, so it cannot be renewed with this link.",
				p.config.ProductName + " can help you set it up again.",
			},
		}
	default: // linkWorks
		return page{
			Tone: toneGood, Title: "The connection works",
			Lead:  []string{"The connection of " + company + " to " + p.config.ProductName + " works. There is nothing to do, and you can close this page."},
			Facts: worksFacts(v),
		}
	}
}

func (p *pages) linkAsk(v linkView) page {
	company := companyOf(v.connection)
	whose, back, rest := company, "it", restOf(v.connection.Entities)
	if rest != "" { // only some of its companies are lost
		stale := v.connection.Entities.Stale()
		if whose = fewNames(stale); len(stale) > 1 {
			back = "them"
		}
	}
	host := connectHost(v.newest.ConnectURL, p.config.ConnectHosts[0])
	return page{
		Tone: toneAsk, Title: "Reconnect " + company,
		Lead: []string{
			p.config.ProductName + " can no longer read " + systemOf(v.connection) + " of " + whose + ". This happens when a password or a security setting changes there. Signing in once more brings " + back + " back." + rest,
		},
		Facts: p.linkFacts(v),
		Steps: []string{
			"You go to " + host + ", the secure sign-in of " + providerName(v.connection.Provider) + ", which " + p.config.ProductName + " uses for this.",
			"You sign in to the same " + cmp.Or(v.connection.System, "payroll and HR") + " account as before. It takes about two minutes.",
			"You come back here, and we tell you when it works.",
		},
		Button: &button{Label: "Reconnect now"},
		Note:   "We never see your password. If somebody else signs in to this system at your company, you can forward the message to them.",
		Aside:  notTheRightPerson(),
	}
}

func notTheRightPerson() *button {
	return &button{Label: "Not the right person?", Href: "?" + queryStop}
}

// linkWait is the page between the press and the session.
func (p *pages) linkWait(v linkView) page {
	pg := page{
		Tone: toneWait, Title: "One moment…", Refresh: 2,
		Lead: []string{"We are preparing the sign-in for " + companyOf(v.connection) + ". This page goes on by itself."},
	}
	if v.now.Sub(v.asked) > patience {
		pg.Refresh = 10
		pg.Lead = append(pg.Lead, "It takes longer than usual, which is our fault and not yours. You can keep this page open, or come back later with the same link: nothing is lost.")
	}
	return pg
}

func (p *pages) linkFacts(v linkView) []fact {
	facts := []fact{{"System", cmp.Or(v.connection.System, "Payroll and HR") + ", through " + providerName(v.connection.Provider)}}
	if v.hasCase && v.newest.Open() {
		facts = append(facts, fact{"Lost since", day(v.newest.OpenedAt)})
	}
	facts = append(facts, entityFacts(v.connection.Entities, "Still works")...)
	if v.hasCase && v.newest.Open() && v.newest.DeadlineAt != nil {
		facts = append(facts, fact{"Renew by", day(*v.newest.DeadlineAt)})
	}
	return facts
}

func worksFacts(v linkView) []fact {
	if !v.hasCase || v.newest.ClosedAt == nil {
		return nil
	}
	return []fact{{"Works since", moment(*v.newest.ClosedAt)}}
}

// unknownLink does not tell a link that was revoked from one that never was.
func (p *pages) unknownLink() page {
	return page{
		Tone: toneNote, Title: "This link does not work",
		Lead: []string{
			"It may have been replaced by a newer one, or a part of it is missing.",
			"Please open the link in the newest message that you have from " + p.config.ProductName + ".",
		},
	}
}

func (p *pages) foreignPress() page {
	return page{
		Tone: toneNote, Title: "Please open the link yourself",
		Lead: []string{"This request came from another site. For your safety, open the link in your message and press the button there."},
	}
}

func (p *pages) tooSoon(v linkView) page {
	return page{
		Tone: toneNote, Title: "Please try again a little later",
		Lead: []string{
			"With this link a new sign-in for " + companyOf(v.connection) + " was started less than an hour ago, and it has ended.",
			"You can start another one an hour after that. If you need it sooner, please write to us.",
		},
	}
}

// cannotOpen, cannotSend and tryLater are our own faults.
func (p *pages) cannotOpen() page {
	return page{
		Tone: toneOurs, Title: "We could not start the sign-in",
		Lead:   []string{"Something on our side does not answer just now. It is not your fault, and nothing has changed. Please try again in a minute."},
		Button: &button{Label: "Try again"},
	}
}

func (p *pages) cannotSend() page {
	return page{
		Tone: toneOurs, Title: "We cannot send you to the sign-in",
		Lead: []string{"Something on our side is set up wrongly, so we stopped for your safety. It is not your fault. Our team can see it; please try again later."},
	}
}

func (p *pages) tryLater() page {
	return page{
		Tone: toneOurs, Title: "We cannot show this just now",
		Lead:   []string{"Something on our side does not answer. It is not your fault, and nothing is lost. Please try again in a minute."},
		Button: &button{Label: "Try again", Href: reloadHref},
	}
}

// sorryPage is for whatever has no page of its own.
func sorryPage(message string) page {
	return page{Tone: toneOurs, Title: "That did not work", Lead: []string{message}}
}

func companyOf(c reauth.Connection) string { return cmp.Or(c.CustomerName, "your company") }

func systemOf(c reauth.Connection) string {
	if c.System != "" {
		return "the " + c.System + " account"
	}
	return "the payroll and HR system"
}

func providerName(p reauth.Provider) string {
	if p == reauth.Finch {
		return "Finch"
	}
	return string(p)
}

// connectHost is where the customer will be sent, so that they know the
// address when they see it.
func connectHost(connectURL, otherwise string) string {
	if u, err := url.Parse(connectURL); err == nil && u.Host != "" {
		return u.Host
	}
	return otherwise
}

// day and moment are dates as people read them, whatever their language does
// with the order of numbers.
func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

func moment(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }
