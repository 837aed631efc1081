package activities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// Notify sends one step's notices: to the people for whom the step is, as far
// as they may be written to now, and only if the connection is still lost. The
// send ledger lets nobody hear a step twice. Who can only be told later makes
// the answer say when to ask again.
func (a *Activities) Notify(ctx context.Context, in NoticeInput) (Noticed, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityLook)
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if err != nil {
		return Noticed{}, err
	}
	switch connection.Status {
	case reauth.StatusDisconnected:
		return Noticed{Gone: true}, nil
	case reauth.StatusRemoved:
		return Noticed{Removed: true}, nil
	}
	s := &mailing{Activities: a, in: in, connection: connection, now: a.Now().UTC()}
	if held, err := s.stopped(ctx); err != nil || held {
		return s.unless(ctx, err)
	}
	if out, held, err := a.hold(ctx, in); err != nil || held {
		return out, err
	}
	if err := s.choose(ctx); err != nil {
		return Noticed{}, err
	}
	if waits, err := s.waitsForTurn(ctx); err != nil || waits {
		return s.unless(ctx, err)
	}
	if s.anybody() && a.Now().Sub(in.LookedAt) > lookedLately {
		looked, err := a.look(ctx, in.Case, connection, false)
		switch {
		case err == nil && looked.Restored:
			return Noticed{Restored: true, HoldUntil: looked.HoldUntil}, nil
		case err == nil && (looked.Gone || looked.Removed):
			return Noticed{Gone: looked.Gone, Removed: looked.Removed}, nil
		case err != nil && a.elapsed(ctx) < lookAtMost:
			return Noticed{}, err
		}
		if s.connection, err = a.DB.Connection(ctx, in.Case.ConnectionID); err != nil { // with what the look saw
			return Noticed{}, err
		}
		if s.connection.Status == reauth.StatusRemoved {
			return Noticed{Removed: true}, nil
		}
	}
	if err := s.send(ctx); err != nil {
		return Noticed{}, err
	}
	if s.connection.Entities.Count().Gone > 0 {
		if err := a.tellGone(ctx, in.Case); err != nil {
			return Noticed{}, err
		}
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

	control db.MailControl
	// mail and version are what Noticed says of them.
	mail    string
	version int64
	news    bool // that mail is stopped is not in the timeline yet
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
	case s.mail == NoticedStopped:
		return false, nil
	case s.nobody && s.in.Step.Audience == campaign.Company:
		return false, s.tellCompany(ctx)
	case s.nobody:
		s.problem = "Nobody at the customer can be written to: " + s.whyNobody() + "."
		return false, s.reachOperator(ctx, s.in.Case, noRecipient(s.problem), s.problem)
	}
	var now []campaign.Person
	for _, p := range s.chosen {
		switch at := s.at(p); {
		case s.in.Step.Channel == campaign.Chat: // which sleeps never, and is nobody's
		case s.skips(p) || s.tried[p.ID]:
		case at.After(s.now):
			s.postpone(at, "it is outside the hours of contact "+p.ID)
		default:
			s.tried[p.ID] = true
			now = append(now, p)
		}
	}
	return s.channel().tell(ctx, now)
}

// noRecipient names the operator's mail that nobody can be written to, which is
// sent once as long as the reasons stay the same.
func noRecipient(problem string) string {
	sum := sha256.Sum256([]byte(problem))
	return "no-recipient-" + hex.EncodeToString(sum[:4])
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

// answer says how many have heard a step, over all attempts at it, and who
// still waits.
func (s *mailing) answer(ctx context.Context) (Noticed, error) {
	rows, err := s.DB.NoticesOf(ctx, s.in.Case.CaseID)
	if err != nil {
		return Noticed{}, err
	}
	out := Noticed{Problem: s.problem, Entities: countOf(s.connection.Entities)}
	var refused int
	for _, row := range rows {
		if row.Step != s.in.Step.Key || row.Recipient == db.RecipientOperator {
			continue
		}
		switch row.State {
		case db.NoticeSent, db.NoticeUnknown:
			out.Sent++
		case db.NoticeRefused:
			refused++
		case db.NoticeShadow:
			out.Shadowed++
		}
	}
	out.Mail, out.MailVersion = s.mail, s.version
	if out.Mail == "" && out.Shadowed > 0 && out.Sent == 0 {
		out.Mail = NoticedShadow
	}
	if s.mail == NoticedStopped {
		if s.news {
			if err := s.event(ctx, s.in.Case, db.EventHeld, s.in.Step.Key+" is held: customer mail is stopped."); err != nil {
				return out, err
			}
		}
		again := s.Now().UTC().Add(stoppedAgain)
		out.Later, out.Why = &again, "customer mail is stopped"
		return out, s.schedule(ctx, s.in, out)
	}
	if s.deferred > 0 {
		return out, retryLater(fmt.Sprintf("the mail server has not taken %d of the step's mails yet", s.deferred), "mail_deferred", 0)
	}
	if !s.later.IsZero() && s.mail == NoticedRamp {
		out.Later, out.Why = &s.later, s.why
	} else if !s.later.IsZero() {
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
	if out.Mail == NoticedStopped { // it is due, and waits for nothing else
		next = &campaign.Date{Step: in.Step, At: a.Now()}
	} else if out.Later != nil && (next == nil || out.Later.Before(next.At)) {
		next = &campaign.Date{Step: in.Step, At: *out.Later}
	}
	schedule := scheduleOf(next, in.NoticesSent+out.Sent)
	if out.Problem != "" || in.Unheard && out.Sent > 0 {
		schedule.Problem = &out.Problem
	}
	return a.DB.SetSchedule(ctx, in.Case.CaseID, schedule)
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
