package activities

import (
	"context"
	"fmt"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// mails writes to each person.
type mails struct{ *mailing }

func (s mails) tell(ctx context.Context, people []campaign.Person) (bounced bool, err error) {
	for _, p := range people {
		write := s.writeToCustomer
		if p.Role == campaign.RoleCompany {
			write = s.writeToCompany
		}
		delivery, gone, err := write(ctx, p)
		if err != nil {
			return false, err
		}
		switch delivery {
		case stopped:
			return false, nil
		case notify.Deferred:
			s.deferred++
		}
		bounced = bounced || gone
	}
	return bounced, nil
}

// writeToCompany tells one of the company's own people, who cannot log in but
// may know whom to ask.
func (s mails) writeToCompany(ctx context.Context, p campaign.Person) (_ notify.Delivery, bounced bool, err error) {
	link, err := s.link(ctx, s.in.Case.ConnectionID, p.ID)
	if err != nil {
		return "", false, err
	}
	to := s.people[p.ID]
	notice := s.operatorNotice(ctx, s.in.Case, s.connection, s.in.Step.Key, s.standing())
	notice.Recipient = recipientOf(to)
	notice.Advice = "Find out who at the customer can log in, and pass this page on to them; or register them as a contact, and we write."
	notice.Links = append([]notify.Link{{Name: "The customer's page", URL: link}}, notice.Links...)
	delivery, err := s.deliver(ctx, s.row(p.ID), notice)
	if err == nil && delivery == stopped {
		err = s.stopLate(ctx)
	}
	return delivery, false, err
}

// writeToCustomer sends one person's notice, if the ledger permits it. What is
// due of their other connections goes along in the same mail.
func (s mails) writeToCustomer(ctx context.Context, p campaign.Person) (_ notify.Delivery, bounced bool, err error) {
	to := s.people[p.ID]
	notice, err := s.letter(ctx, to)
	if err != nil {
		return "", false, err
	}
	row := s.row(p.ID)
	s.address(&row, &notice)
	if _, err := notify.Compose(notice); err != nil { // before anything stands in the ledger
		return "", false, fmt.Errorf("compose the notice of step %s: %w", row.Step, err)
	}
	permit, err := s.DB.BeginMail(ctx, s.request(row, p))
	switch {
	case err != nil:
		return "", false, err
	case permit.Stopped:
		s.stop(permit.Version)
		return stopped, false, nil
	case permit.Capped:
		return "", false, s.afterCap(ctx, p)
	case !permit.Granted && permit.State == db.NoticeSending:
		return s.inDoubt(ctx, permit)
	case !permit.Granted && permit.State != db.NoticeShadow:
		return "", false, nil
	}
	along, err := s.stillLost(ctx, permit.Along)
	if err != nil {
		_ = s.end(ctx, permit.ID, notify.Deferred, "the other connections could not be looked at")
		return "", false, err
	}
	mail, err := s.withOthers(ctx, notice, along)
	if err != nil {
		_ = s.end(ctx, permit.ID, notify.Deferred, "it could not be composed")
		return "", false, err
	}
	if permit.State == db.NoticeShadow { // also where an attempt died before it could say so
		return shadowed, false, s.inShadow(ctx, permit.ID, row)
	}
	delivery, err := s.Mail.Send(ctx, mail)
	if delivery == notify.Refused && notify.Bounced(err) {
		// First, so that the next attempt passes over the address if this one dies.
		if err := s.bounced(context.WithoutCancel(ctx), to); err != nil {
			return "", false, err
		}
		bounced = true
	}
	return delivery, bounced, s.end(ctx, permit.ID, delivery, detailOf(err))
}

// request asks the ledger for a mail to somebody.
func (s mails) request(row db.Notice, p campaign.Person) db.Mail {
	m := db.Mail{Notice: row, At: s.Now().UTC()} // the mails before this one may have taken long
	if s.in.Asked || s.in.Campaign.PerDay == 0 {
		return m
	}
	m.PerDay = s.in.Campaign.PerDay
	m.DayBegins, m.JoinBefore = s.in.Campaign.Hours.DayOf(m.At, p.TimeZone)
	m.Joins = func(audience, role string) bool {
		is := campaign.RoleOf(role)
		return is == campaign.RolePrimary && audience != string(campaign.Company) || is == campaign.RoleAlternate && audience == string(campaign.Alternates)
	}
	return m
}

// afterCap postpones the notice to somebody who has had the day's mails.
func (s mails) afterCap(ctx context.Context, p campaign.Person) error {
	if at := s.in.Campaign.AfterCap(s.now, s.in.DeadlineAt, p.TimeZone); !at.IsZero() {
		s.postpone(at, "contact "+p.ID+" has had the day's mail")
		return nil
	}
	return s.event(ctx, s.in.Case, "notice_left_out",
		fmt.Sprintf("%s to %s: the day's mail was sent already, and no day is left before the deadline.", s.in.Step.Key, p.ID))
}

// inFlightAtMost is how long a mail may be on its way to the mail server.
const inFlightAtMost = 10 * time.Minute

// inDoubt deals with a notice that is on its way, or was when a worker died:
// then nobody knows what became of the mail, so it is not sent again.
func (s mails) inDoubt(ctx context.Context, permit db.Permit) (notify.Delivery, bool, error) {
	if permit.Led && s.Now().Sub(permit.BegunAt) < inFlightAtMost {
		return notify.Deferred, false, nil // another case's worker is at it
	}
	return notify.Unknown, false, s.end(ctx, permit.ID, notify.Unknown, "the worker died while it was sent")
}

// letter is what one person is told of this connection.
func (s mails) letter(ctx context.Context, to db.Recipient) (notify.Notice, error) {
	link, err := s.link(ctx, s.in.Case.ConnectionID, to.ContactID)
	if err != nil {
		return notify.Notice{}, err
	}
	kind := s.in.Kind
	if _, heard := s.roots[to.ContactID]; !heard && kind == NoticeReminder {
		kind = NoticeFirst // nobody is reminded of what they have never heard
	}
	stale, working := names(s.connection.Entities)
	return notify.Notice{
		Kind:          noticeKinds[kind],
		Entities:      stale,
		Working:       working,
		Recipient:     recipientOf(to),
		CustomerName:  s.connection.CustomerName,
		ProviderName:  s.connection.System,
		LinkURL:       link,
		StopURL:       stopPage(link),
		Step:          s.in.Step.Key,
		Cause:         causes[s.in.Cause],
		DeadlineAt:    s.in.DeadlineAt,
		OpenedAt:      s.in.Case.OpenedAt,
		RootMessageID: s.roots[to.ContactID],
	}, nil
}

// stillLost looks at the connections that are to go along in a mail, as they
// would be before a mail of their own, and leaves those behind that have access
// back, that a storm holds, or of which nobody knows.
func (s mails) stillLost(ctx context.Context, along []db.Along) (lost []companion, err error) {
	for _, row := range along {
		other := companion{Along: row}
		if other.connection, err = s.DB.Connection(ctx, row.ConnectionID); err != nil {
			return nil, err
		}
		stays, err := s.stays(ctx, other)
		if err != nil {
			return nil, err
		}
		if stays {
			err = s.DB.LeaveBehind(ctx, other.NoticeID)
		} else if other.connection, err = s.DB.Connection(ctx, row.ConnectionID); err == nil { // with what the look saw
			lost = append(lost, other)
		}
		if err != nil {
			return nil, err
		}
	}
	return lost, nil
}

// companion is a case that goes along in the mail of another, with its
// connection.
type companion struct {
	db.Along
	connection reauth.Connection
}

func (s mails) stays(ctx context.Context, other companion) (bool, error) {
	if other.NoticesSent == 0 {
		if _, held, err := s.DB.Brake(ctx, other.CaseID, s.Settings.Storm, s.Now()); err != nil || held {
			return true, err
		}
	}
	looked, err := s.look(ctx, Case{CaseID: other.CaseID, ConnectionID: other.ConnectionID}, other.connection, false)
	return err != nil || looked.Restored || looked.Gone || looked.Removed, nil
}

// withOthers composes the mail with what goes along in it.
func (s mails) withOthers(ctx context.Context, notice notify.Notice, along []companion) (notify.Mail, error) {
	for _, other := range along {
		link, err := s.link(ctx, other.ConnectionID, other.ContactID)
		if err != nil {
			return notify.Mail{}, err
		}
		stale, working := names(other.connection.Entities)
		notice.Others = append(notice.Others, notify.Other{
			Entities: stale, Working: working,
			CustomerName: other.connection.CustomerName, ProviderName: other.connection.System, LinkURL: link,
			OpenedAt: other.OpenedAt, DeadlineAt: deref(other.DeadlineAt),
		})
	}
	if len(along) > 0 {
		notice.StopURL += "?" + notify.StopAll
	}
	mail, err := notify.Compose(notice)
	mail.Date = s.now
	return mail, err
}

// bounced remembers that an address takes no mail, and lets the other cases
// know that wrote to it.
func (s mails) bounced(ctx context.Context, to db.Recipient) error {
	cases, first, err := s.DB.SetUnreachable(ctx, to.Email, db.UnreachableBounce, "a mail server said that it takes no mail")
	if err != nil || !first || s.Cases == nil {
		return err
	}
	for _, c := range cases {
		if c.CaseID == s.in.Case.CaseID {
			continue
		}
		if err := s.Cases.ContactsChanged(ctx, c.ConnectionID, reauth.ContactsChanged{Reason: "A contact's address takes no mail."}); err != nil {
			s.Logger.WarnContext(ctx, "A case could not be told of an address that takes no mail; its next step finds it", "connection_id", c.ConnectionID, "error", err)
		}
	}
	return nil
}

var noticeKinds = map[NoticeKind]notify.Kind{
	NoticeFirst:    notify.KindFirst,
	NoticeReminder: notify.KindReminder,
	NoticeLastCall: notify.KindLastCall,
	NoticeTryAgain: notify.KindTryAgain,
}

var causes = map[reauth.CodeState]notify.Cause{
	reauth.CodeAdopted:      notify.CauseUnfinished,
	reauth.CodeRefused:      notify.CauseRefused,
	reauth.CodeWrongAccount: notify.CauseWrongAccount,
}

func recipientOf(r db.Recipient) notify.Recipient {
	return notify.Recipient{Email: r.Email, Name: r.Name, TimeZone: r.TimeZone}
}
