package activities

import (
	"context"
	"fmt"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// channel is a way of telling people of a step.
type channel interface {
	// tell tells those who may be told now. bounced reports that somebody turned
	// out to be unreachable, so that there may be others to tell.
	tell(ctx context.Context, people []campaign.Person) (bounced bool, err error)
}

// channel is the way that the step takes.
func (s *mailing) channel() channel {
	switch s.in.Step.Channel {
	case campaign.Webhook:
		return backend{s}
	case campaign.Chat:
		return chatroom{s}
	}
	return mails{s}
}

// backend gives the company's backend what it needs to write itself.
type backend struct{ *mailing }

func (s backend) tell(ctx context.Context, people []campaign.Person) (bounced bool, err error) {
	if len(people) == 0 {
		return false, nil
	}
	contacts := make([]string, len(people))
	for i, p := range people {
		contacts[i] = p.ID
	}
	event, err := s.noticeDue()
	if err != nil {
		return false, err
	}
	_, control, err := s.DB.HandToBackend(ctx, s.row(""), contacts, event, s.now)
	if err == nil && control.Mode == reauth.MailStopped {
		s.stop(control.Version)
	}
	return false, err
}

// chatroom tells the operators in their chat.
type chatroom struct{ *mailing }

func (s chatroom) tell(ctx context.Context, _ []campaign.Person) (bounced bool, err error) {
	return false, s.tellCompany(ctx)
}

// tellCompany tells the company's own people, where the connection names none:
// in the chat if the step says so and there is one, else by the operator's mail.
func (s *mailing) tellCompany(ctx context.Context) error {
	text := s.standing()
	if s.in.Step.Channel != campaign.Chat || !s.Settings.Chat {
		return s.reachOperator(ctx, s.in.Case, s.in.Step.Key, text)
	}
	id, permit, state, err := s.DB.BeginNotice(ctx, db.Notice{
		CaseID: s.in.Case.CaseID, Step: s.in.Step.Key, SessionOrdinal: s.in.SessionOrdinal, Recipient: db.RecipientOperator, Channel: db.ChannelChat,
	})
	switch {
	case err != nil:
		return err
	case state == db.NoticeStopped:
		return s.stopLate(ctx)
	case state == db.NoticeShadow:
		return s.inShadow(ctx, id, db.Notice{CaseID: s.in.Case.CaseID, Step: s.in.Step.Key, Recipient: db.RecipientOperator, Channel: db.ChannelChat})
	case !permit && state != db.NoticeSending:
		return nil
	}
	// The chat shows the case's timeline: where an attempt died before this line
	// or after it, a second line does no harm.
	if err := s.needOperator(ctx, s.in.Case, text); err != nil {
		return err
	}
	return s.DB.EndNotice(ctx, id, db.NoticeSent, "")
}

// standing says for the company's own people where the case stands.
func (s *mailing) standing() string {
	n := 0
	for contact := range s.heard {
		if campaign.RoleOf(s.people[contact].Role) != campaign.RoleCompany {
			n++
		}
	}
	heard := "nobody at the customer has been told"
	if n == 1 {
		heard = "one person at the customer has been told"
	} else if n > 1 {
		heard = fmt.Sprintf("%d people at the customer have been told", n)
	}
	return fmt.Sprintf("Nobody has logged in again since %s; %s.", s.in.Case.OpenedAt.UTC().Format("2 January"), heard)
}

// row is the ledger's row for somebody.
func (s *mailing) row(contact string) db.Notice {
	return db.Notice{CaseID: s.in.Case.CaseID, Step: s.in.Step.Key, SessionOrdinal: s.in.SessionOrdinal, Recipient: contact, Channel: string(s.in.Step.Channel)}
}
