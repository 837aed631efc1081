package web

import (
	"cmp"

	"github.com/finch-reauth/reauth/reauth"
)

// result is the page that follows Connect. back leads to the link again; it is
// empty where the link is not known.
func (p *pages) result(v result, back string) page {
	company, product := cmp.Or(v.company, "your company"), p.config.ProductName
	var again *button
	mail := "Please open the link in the message from " + product + " again."
	if back != "" {
		again, mail = &button{Label: "Try again", Href: back}, ""
	}
	switch verdict := v.verdict(); verdict {
	case verdictWaiting, verdictChecking:
		return p.pending(v, verdict, company)
	case verdictFixed:
		return page{
			Tone: toneGood, Title: "It works again",
			Lead:  []string{"Thank you. The connection of " + company + " to " + product + " is back. There is nothing more to do, and you can close this page."},
			Facts: settledFact(v),
		}
	case verdictWorks:
		return page{
			Tone: toneGood, Title: "It already works",
			Lead: []string{"The connection of " + company + " to " + product + " is back, so this sign-in was no longer needed. There is nothing more to do, and you can close this page."},
		}
	case verdictUnconfirmed:
		return page{
			Tone: toneWarn, Title: "Not confirmed yet",
			Lead:   []string{"Your sign-in was taken, but the payroll and HR system of " + company + " does not let us read its data yet. We keep looking, and write to you if it does not come back.", "If you could not finish every step of the sign-in, please go through it once more. " + mail},
			Button: again,
		}
	case verdictPartly:
		stale := v.entities.Stale()
		need := "needs"
		if len(stale) > 1 {
			need = "need"
		}
		return page{
			Tone: toneWarn, Title: "Almost there",
			Lead: []string{
				"Thank you: your sign-in was taken. " + fewNames(v.entities.Working()) + " " + worksOf(v.entities) + ", but " + fewNames(stale) + " still " + need + " you.",
				"Please sign in once more, with an account that may see every company that was connected before. " + mail,
			},
			Facts: entityFacts(v.entities, "Works"), Button: again,
		}
	case verdictWrong:
		return page{
			Tone: toneWarn, Title: "That was another account",
			Lead:   []string{"You signed in to an account that is not the one " + product + " was connected to for " + company + ". Nothing was changed, and nothing of that account is used.", "Please sign in once more, with the account of " + company + " that was used before. " + mail},
			Button: again,
		}
	case verdictLost:
		return page{
			Tone: toneWarn, Title: "One more click, please",
			Lead:   []string{"You did everything right. The answer to your sign-in got lost on the way to us, which is not your fault.", "Please sign in once more to bring the connection of " + company + " back. " + mail},
			Button: again,
		}
	case verdictRefused:
		return page{
			Tone: toneWarn, Title: "The sign-in did not go through",
			Lead:   []string{"The sign-in for " + company + " was not accepted. This happens when it took too long, or when a page was opened twice. Nothing was changed.", "Please try once more. " + mail},
			Button: again,
		}
	case verdictRemoved:
		return page{
			Tone: toneNote, Title: "This connection is no longer in use",
			Lead: []string{product + " has removed this connection in the meantime, so there is nothing left to renew. Your sign-in is not used."},
		}
	default: // verdictOurs
		return page{
			Tone: toneOurs, Title: "That is our fault",
			Lead: []string{"Your sign-in reached us, but we could not finish it in time. You did nothing wrong.", "Our team can see it, and we will write to you when you can sign in again or when the connection of " + company + " is back. You can close this page."},
		}
	}
}

// pending is a page that looks again by itself, less often the longer it takes.
func (p *pages) pending(v result, verdict verdict, company string) page {
	pg := page{
		Tone: toneWait, Title: "We have your sign-in", Refresh: 2,
		Lead: []string{"We are finishing it for " + company + ". This page goes on by itself."},
	}
	if verdict == verdictChecking {
		pg.Title = "Checking the connection"
		pg.Lead = []string{"Your sign-in went through. We are making sure that the connection of " + company + " really works. This page goes on by itself."}
		if v.code.State == reauth.CodeAdopted && v.entities.Partly() {
			pg.Lead = append(pg.Lead, fewNames(v.entities.Working())+" "+worksOf(v.entities)+" already. We are waiting for "+fewNames(v.entities.Stale())+".")
		}
	}
	if v.age() > slow {
		pg.Refresh = 15
		pg.Lead = append(pg.Lead, "It takes longer than usual. Your sign-in is safe with us, so you can close this page: we write to you if anything more is needed.")
	}
	return pg
}

func settledFact(v result) []fact {
	if v.code.SettledAt == nil {
		return nil
	}
	return []fact{{"Works since", moment(*v.code.SettledAt)}}
}

// unknownResult does not tell an expired ticket from one that never was.
func (p *pages) unknownResult() page {
	return page{
		Tone: toneNote, Title: "This page is no longer here",
		Lead: []string{"Results are shown for one day. The link in the message from " + p.config.ProductName + " shows where the connection stands."},
	}
}

// cannotLook is shown while the database is away: the code is safe, its result
// cannot be read.
func (p *pages) cannotLook() page {
	return page{
		Tone: toneWait, Title: "One moment…", Refresh: 5,
		Lead: []string{"We have your sign-in, but cannot look up its result just now. It is safe with us, and this page goes on by itself."},
	}
}

// unfinished follows a visit without a code: the customer walked away from
// Connect, or Connect sent them back with an error.
func (p *pages) unfinished(back string) page {
	pg := page{
		Tone: toneWarn, Title: "You have not finished",
		Lead: []string{"The sign-in was not completed, so nothing was changed."},
	}
	if back != "" {
		pg.Lead = append(pg.Lead, "You can go back and do it now, or later with the link in your message.")
		pg.Button = &button{Label: "Back to the sign-in", Href: back}
	} else {
		pg.Lead = append(pg.Lead, "You can do it whenever you like: open the link in the message from "+p.config.ProductName+" again.")
	}
	return pg
}

func (p *pages) malformedReturn() page {
	return page{
		Tone: toneNote, Title: "This address is not complete",
		Lead: []string{"The sign-in came back in a form that we do not understand, so nothing was changed. Please open the link in the message from " + p.config.ProductName + " and sign in once more."},
	}
}

func (p *pages) unknownReturn() page {
	return page{
		Tone: toneWarn, Title: "Please open your link once more",
		Lead: []string{"We could not tell which connection this sign-in belongs to, so nothing was changed. This happens when the sign-in is finished in another browser than it was started in.", "Please open the link in the message from " + p.config.ProductName + " again, and finish in the same browser."},
	}
}

func (p *pages) tooMany(back string) page {
	pg := page{
		Tone: toneNote, Title: "Please wait a few minutes",
		Lead: []string{"There were very many sign-ins for this connection just now, so this one was not taken. Please try again in ten minutes."},
	}
	if back != "" {
		pg.Button = &button{Label: "Back to the sign-in", Href: back}
	}
	return pg
}

// keepOpen is shown when nothing of ours can take a code: only its address
// holds it, so the page must stay until something can.
func (p *pages) keepOpen() page {
	return page{
		Tone: toneOurs, Title: "Please keep this page open",
		Lead:   []string{"A part of our service does not answer just now, so we could not take your sign-in yet. It is not your fault, and nothing is lost while this page is open.", "This page tries again every few seconds. If it does not go on within a minute, press the button or reload the page."},
		Button: &button{Label: "Try again now", Href: reloadHref},
	}
}
