package activities

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// Notify sends one step's notices: to the people for whom the step is, as far
// as they may be written to now, and only if the connection is still lost. The
// send ledger lets nobody hear a step twice. Who can only be told later makes
// the answer say when to ask again.
func (a *Activities) Notify(ctx context.Context, in NoticeInput) (Noticed, error) {
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if err != nil {
		return Noticed{}, err
	}
	if connection.Status == reauth.StatusDisconnected {
		return Noticed{Gone: true}, nil
	}
	if out, held, err := a.hold(ctx, in); err != nil || held {
		return out, err
	}
	s := &mailing{Activities: a, in: in, connection: connection, now: a.Now().UTC()}
	if err := s.choose(ctx); err != nil {
		return Noticed{}, err
	}
	if s.anybody() && a.Now().Sub(in.LookedAt) > lookedLately {
		looked, err := a.look(ctx, in.Case, connection, false)
		switch {
		case err == nil && looked.Restored:
			return Noticed{Restored: true, HoldUntil: looked.HoldUntil}, nil
		case err == nil && looked.Gone:
			return Noticed{Gone: true}, nil
		case err != nil && a.elapsed(ctx) < lookAtMost:
			return Noticed{}, err
		}
	}
	if err := s.send(ctx); err != nil {
		return Noticed{}, err
	}
	return s.answer(ctx)
}

// hold keeps the first notice of a case back while a storm rages.
func (a *Activities) hold(ctx context.Context, in NoticeInput) (Noticed, bool, error) {
	if in.Asked || in.NoticesSent > 0 {
		return Noticed{}, false, nil
	}
	storm, held, err := a.DB.Brake(ctx, in.Case.CaseID, a.Settings.Storm, a.Now())
	if err != nil || !held {
		return Noticed{}, false, err
	}
	if a.Storms != nil { // somebody must watch it; whoever does already goes on
		if err := a.Storms.WatchStorm(ctx, storm.StormID); err != nil {
			return Noticed{}, false, fmt.Errorf("have the storm watched: %w", err)
		}
	}
	out := Noticed{Later: &storm.EndsAt, Storm: storm.StormID, Why: fmt.Sprintf(
		"%d of %d connections broke together, so it may be the provider's fault", storm.Broken, storm.Connections)}
	if err := a.event(ctx, in.Case, db.EventHeld, "The first notice is held: "+out.Why+"."); err != nil {
		return Noticed{}, false, err
	}
	return out, true, a.schedule(ctx, in, out)
}

// mailing is one attempt at a step's notices.
type mailing struct {
	*Activities
	in         NoticeInput
	connection reauth.Connection
	now        time.Time

	roots  map[string]string       // the first message of this case, by contact
	heard  map[string]bool         // contacts who have been told of this case, by us or by the backend
	people map[string]db.Recipient // by contact
	chosen []campaign.Person       // for whom the step is
	nobody bool                    // nobody at all can be written to
	tried  map[string]bool         // whom this attempt wrote to, or tried to

	deferred int
	later    time.Time
	why      string
	problem  string
}

// choose resolves the recipients, as the contacts are now.
func (s *mailing) choose(ctx context.Context) error {
	recipients, err := s.DB.Recipients(ctx, s.in.Case.ConnectionID)
	if err != nil {
		return err
	}
	if _, s.roots, err = s.DB.Alerted(ctx, s.in.Case.CaseID); err != nil {
		return err
	}
	rows, err := s.DB.NoticesOf(ctx, s.in.Case.CaseID)
	if err != nil {
		return err
	}
	s.heard = map[string]bool{}
	for _, row := range rows {
		if row.Recipient != db.RecipientOperator && (row.State == db.NoticeSent || row.State == db.NoticeUnknown) {
			s.heard[row.Recipient] = true
		}
	}
	s.people = make(map[string]db.Recipient, len(recipients))
	people := make([]campaign.Person, len(recipients))
	for i, r := range recipients {
		s.people[r.ContactID] = r
		people[i] = campaign.Person{ID: r.ContactID, Role: campaign.RoleOf(r.Role), TimeZone: r.TimeZone, Unreachable: string(r.Unreachable)}
	}
	s.chosen = campaign.Choose(s.in.Step.Audience, people)
	s.nobody = len(s.chosen) == 0
	return nil
}

// anybody reports whether a notice can go out now.
func (s *mailing) anybody() bool {
	if s.forCompany() {
		return true
	}
	for _, p := range s.chosen {
		if !s.skips(p) && !s.at(p).After(s.now) {
			return true
		}
	}
	return false
}

// forCompany reports whether the company is told where the connection names
// none of its people, or in the chat.
func (s *mailing) forCompany() bool {
	return s.nobody && s.in.Step.Audience == campaign.Company || !s.nobody && s.in.Step.Channel == campaign.Chat
}

// skips reports whether a step is not for somebody who has heard of the case.
func (s *mailing) skips(p campaign.Person) bool { return s.in.HandOn && s.heard[p.ID] }

// at is when somebody may be written to.
func (s *mailing) at(p campaign.Person) time.Time {
	if s.in.Asked {
		return s.now
	}
	return s.in.Campaign.When(s.in.Step, s.now, s.in.DeadlineAt, p.TimeZone)
}

// send writes to everybody who may be written to now. Whoever turns out to be
// unreachable makes room for the next.
func (s *mailing) send(ctx context.Context) error {
	s.tried = map[string]bool{}
	for {
		bounced, err := s.sendRound(ctx)
		if err != nil || !bounced {
			return err
		}
		if err := s.choose(ctx); err != nil {
			return err
		}
	}
}

func (s *mailing) sendRound(ctx context.Context) (bounced bool, err error) {
	switch {
	case s.forCompany():
		return false, s.tellCompany(ctx)
	case s.nobody:
		s.problem = "Nobody at the customer can be written to: " + s.whyNobody() + "."
		return false, s.reachOperator(ctx, s.in.Case, "no-recipient-"+s.in.Step.Key, s.problem)
	}
	var now []campaign.Person
	for _, p := range s.chosen {
		switch at := s.at(p); {
		case s.skips(p) || s.tried[p.ID]:
		case at.After(s.now):
			s.postpone(at, "it is outside the hours of contact "+p.ID)
		default:
			s.tried[p.ID] = true
			now = append(now, p)
		}
	}
	if s.in.Step.Channel == campaign.Webhook {
		return false, s.handToBackend(ctx, now)
	}
	for _, p := range now {
		write := s.writeToCustomer
		if p.Role == campaign.RoleCompany {
			write = s.writeToCompany
		}
		delivery, gone, err := write(ctx, p)
		if err != nil {
			return false, err
		}
		if delivery == notify.Deferred {
			s.deferred++
		}
		bounced = bounced || gone
	}
	return bounced, nil
}

// postpone remembers the first moment at which somebody else can be told.
func (s *mailing) postpone(at time.Time, why string) {
	if s.later.IsZero() || at.Before(s.later) {
		s.later, s.why = at, why
	}
}

func (s *mailing) whyNobody() string {
	if len(s.people) == 0 {
		return "the connection has no contact"
	}
	count := map[db.Unreachable]int{}
	for _, r := range s.people {
		count[r.Unreachable]++
	}
	var reasons []string
	for _, reason := range []struct {
		why   db.Unreachable
		words string
	}{
		{db.UnreachableBounce, "take no mail"},
		{db.UnreachableNotMe, "said they are not the right person"},
		{db.UnreachableOptOut, "want no mail"},
		{db.UnreachableComplaint, "complained of a mail"},
	} {
		if n := count[reason.why]; n > 0 {
			reasons = append(reasons, fmt.Sprintf("%d of its contacts %s", n, reason.words))
		}
	}
	return strings.Join(reasons, ", ")
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
	if err != nil || !permit && state != db.NoticeSending {
		return err
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

// handToBackend gives the company's backend what it needs to write itself.
func (s *mailing) handToBackend(ctx context.Context, people []campaign.Person) error {
	if len(people) == 0 {
		return nil
	}
	contacts := make([]string, len(people))
	for i, p := range people {
		contacts[i] = p.ID
	}
	event, err := s.noticeDue()
	if err != nil {
		return err
	}
	_, err = s.DB.HandToBackend(ctx, s.row(""), contacts, event, s.now)
	return err
}

// row is the ledger's row for somebody.
func (s *mailing) row(contact string) db.Notice {
	return db.Notice{CaseID: s.in.Case.CaseID, Step: s.in.Step.Key, SessionOrdinal: s.in.SessionOrdinal, Recipient: contact, Channel: string(s.in.Step.Channel)}
}

// writeToCompany tells one of the company's own people, who cannot log in but
// may know whom to ask.
func (s *mailing) writeToCompany(ctx context.Context, p campaign.Person) (_ notify.Delivery, bounced bool, err error) {
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
	return delivery, false, err
}

// writeToCustomer sends one person's notice, if the ledger permits it. What is
// due of their other connections goes along in the same mail.
func (s *mailing) writeToCustomer(ctx context.Context, p campaign.Person) (_ notify.Delivery, bounced bool, err error) {
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
	case permit.Capped:
		return "", false, s.afterCap(ctx, p)
	case !permit.Granted && permit.State == db.NoticeSending:
		return s.inDoubt(ctx, permit)
	case !permit.Granted:
		return "", false, nil
	}
	mail, err := s.withOthers(ctx, notice, permit.Along)
	if err != nil {
		_ = s.end(ctx, permit.ID, notify.Deferred, "it could not be composed")
		return "", false, err
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
func (s *mailing) request(row db.Notice, p campaign.Person) db.Mail {
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
func (s *mailing) afterCap(ctx context.Context, p campaign.Person) error {
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
func (s *mailing) inDoubt(ctx context.Context, permit db.Permit) (notify.Delivery, bool, error) {
	if permit.Led && s.Now().Sub(permit.BegunAt) < inFlightAtMost {
		return notify.Deferred, false, nil // another case's worker is at it
	}
	return notify.Unknown, false, s.end(ctx, permit.ID, notify.Unknown, "the worker died while it was sent")
}

// letter is what one person is told of this connection.
func (s *mailing) letter(ctx context.Context, to db.Recipient) (notify.Notice, error) {
	link, err := s.link(ctx, s.in.Case.ConnectionID, to.ContactID)
	if err != nil {
		return notify.Notice{}, err
	}
	kind := s.in.Kind
	if _, heard := s.roots[to.ContactID]; !heard && kind == NoticeReminder {
		kind = NoticeFirst // nobody is reminded of what they have never heard
	}
	return notify.Notice{
		Kind:          noticeKinds[kind],
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

// withOthers composes the mail with what goes along in it.
func (s *mailing) withOthers(ctx context.Context, notice notify.Notice, along []db.Along) (notify.Mail, error) {
	for _, other := range along {
		connection, err := s.DB.Connection(ctx, other.ConnectionID)
		if err != nil {
			return notify.Mail{}, err
		}
		link, err := s.link(ctx, other.ConnectionID, other.ContactID)
		if err != nil {
			return notify.Mail{}, err
		}
		notice.Others = append(notice.Others, notify.Other{
			CustomerName: connection.CustomerName, ProviderName: connection.System, LinkURL: link,
			OpenedAt: other.OpenedAt, DeadlineAt: deref(other.DeadlineAt),
		})
	}
	mail, err := notify.Compose(notice)
	mail.Date = s.now
	return mail, err
}

// bounced remembers that an address takes no mail, and lets the other cases
// know that wrote to it.
func (s *mailing) bounced(ctx context.Context, to db.Recipient) error {
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

// answer says how many have heard a step, over all attempts at it, and who
// still waits.
func (s *mailing) answer(ctx context.Context) (Noticed, error) {
	rows, err := s.DB.NoticesOf(ctx, s.in.Case.CaseID)
	if err != nil {
		return Noticed{}, err
	}
	out := Noticed{Problem: s.problem}
	var refused int
	for _, row := range rows {
		if row.Step != s.in.Step.Key || row.SessionOrdinal != s.in.SessionOrdinal || row.Recipient == db.RecipientOperator {
			continue
		}
		switch row.State {
		case db.NoticeSent, db.NoticeUnknown:
			out.Sent++
		case db.NoticeRefused:
			refused++
		}
	}
	if s.deferred > 0 {
		return out, retryLater(fmt.Sprintf("the mail server has not taken %d of the step's mails yet", s.deferred), "mail_deferred", 0)
	}
	if !s.later.IsZero() {
		out.Later, out.Why = &s.later, s.why
		if err := s.event(ctx, s.in.Case, "notice_moved", fmt.Sprintf("%s to %s, since %s.", s.in.Step.Key, s.later.Format("2006-01-02 15:04 MST"), s.why)); err != nil {
			return out, err
		}
	}
	if out.Sent == 0 && refused > 0 && s.problem == "" && out.Later == nil {
		out.Problem = "The mail server refused every mail of the step."
		if err := s.reachOperator(ctx, s.in.Case, "refused-"+s.in.Step.Key, out.Problem); err != nil {
			return out, err
		}
	}
	return out, s.schedule(ctx, s.in, out)
}

// schedule puts on record what the case sends next, after a step.
func (a *Activities) schedule(ctx context.Context, in NoticeInput, out Noticed) error {
	next := in.Next
	if out.Later != nil && (next == nil || out.Later.Before(next.At)) {
		next = &campaign.Date{Step: in.Step, At: *out.Later}
	}
	return a.DB.SetSchedule(ctx, in.Case.CaseID, scheduleOf(next, in.NoticesSent+out.Sent))
}

func scheduleOf(next *campaign.Date, sent int) db.Schedule {
	if next == nil {
		return db.Schedule{NoticesSent: sent}
	}
	at := next.At.UTC()
	return db.Schedule{At: &at, Step: next.Step.Key, Audience: string(next.Step.Audience), Channel: string(next.Step.Channel), NoticesSent: sent}
}

// elapsed is how long an activity has been tried.
func (a *Activities) elapsed(ctx context.Context) time.Duration {
	scheduled := activity.GetInfo(ctx).ScheduledTime
	if a.Hasten != nil {
		scheduled = a.Hasten(scheduled)
	}
	return a.Now().Sub(scheduled)
}

var noticeKinds = map[NoticeKind]notify.Kind{
	NoticeFirst:    notify.KindFirst,
	NoticeReminder: notify.KindReminder,
	NoticeLastCall: notify.KindLastCall,
	NoticeTryAgain: notify.KindTryAgain,
}

var causes = map[reauth.CodeState]notify.Cause{
	reauth.CodeRefused:      notify.CauseRefused,
	reauth.CodeWrongAccount: notify.CauseWrongAccount,
}

func recipientOf(r db.Recipient) notify.Recipient {
	return notify.Recipient{Email: r.Email, Name: r.Name, TimeZone: r.TimeZone}
}
