package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// stoppedAgain is when a step asks again that was held because mail is
	// stopped. It is told before, when mail is switched on; this is for the case
	// that nobody tells it.
	stoppedAgain = 24 * time.Hour
	// spreadPage is how many waiting cases are read at once.
	spreadPage = 100
)

// stopped reports whether mail is stopped, so that the step is not to begin.
func (s *mailing) stopped(ctx context.Context) (held bool, err error) {
	var first bool
	if s.control, first, err = s.DB.HoldMail(ctx, s.in.Case.CaseID); err != nil || s.control.Mode != reauth.MailStopped {
		return false, err
	}
	s.stop(s.control.Version)
	s.news = first
	return true, nil
}

// stop remembers that mail was found to be stopped, perhaps amid the step: then
// those who have not heard it hear it later.
func (s *mailing) stop(version int64) {
	s.mail, s.version, s.news = NoticedStopped, version, true
}

// stopLate is stop where what found it out does not know the version.
func (s *mailing) stopLate(ctx context.Context) error {
	held, err := s.stopped(ctx)
	if err == nil && !held { // and on again by now
		err = retryLater("mail was stopped for a moment", "mail_stopped", 0)
	}
	return err
}

// unless answers the step, unless there is an error.
func (s *mailing) unless(ctx context.Context, err error) (Noticed, error) {
	if err != nil {
		return Noticed{}, err
	}
	return s.answer(ctx)
}

// waitsForTurn reports whether the ramp keeps the case from telling its first
// customer now. Who is told because a person asked for it, and the company's own
// people, are not under it.
func (s *mailing) waitsForTurn(ctx context.Context) (bool, error) {
	if !s.control.Ramped() || s.in.Asked || s.in.Step.Channel == campaign.Chat || !s.anyCustomer() || !s.anybody() {
		return false, nil
	}
	turn, err := s.DB.TakeTurn(ctx, s.in.Case.CaseID, s.now, s.may)
	if err != nil || turn.Now {
		return false, err
	}
	s.mail, s.version, s.later, s.why = NoticedRamp, turn.Version, turn.At.UTC(), "only so many new customers hear in an hour"
	return true, s.event(ctx, s.in.Case, db.EventHeld, fmt.Sprintf("%s waits for its turn on %s, since %s.", s.in.Step.Key, moment(turn.At), s.why))
}

func (s *mailing) anyCustomer() bool {
	for _, p := range s.chosen {
		if p.Role != campaign.RoleCompany {
			return true
		}
	}
	return false
}

// may is when, at a time or after it, the first of those may be written to for
// whom the step is. One that has to wait keeps their hours.
func (s *mailing) may(at time.Time) time.Time {
	if !at.After(s.now) {
		return s.now // somebody may, or the step would not be asking for its turn
	}
	step := s.in.Step
	step.Anytime = false
	var first time.Time
	for _, p := range s.chosen {
		if p.Role == campaign.RoleCompany || s.skips(p) {
			continue
		}
		if when := s.in.Campaign.When(step, at, s.in.DeadlineAt, p.TimeZone); first.IsZero() || when.Before(first) {
			first = when
		}
	}
	if first.IsZero() {
		return at
	}
	return first
}

// shadow reports whether mail is in shadow, in which not even the operator is
// written to.
func (a *Activities) shadow(ctx context.Context) (bool, error) {
	control, err := a.DB.Mail(ctx)
	if err != nil || control.Mode != reauth.MailShadow {
		return false, err
	}
	a.Logger.InfoContext(ctx, "Mail is in shadow: the operator would have been written to")
	return true, nil
}

// MailSpread is what became of the cases that waited for a change of mail.
type MailSpread struct {
	// Woken counts those that may go on, the last of them at Until.
	Woken int       `json:"woken"`
	Until time.Time `json:"until,omitzero"`
	// Fixed counts the closed cases whose fixed notes were sent.
	Fixed int `json:"fixed,omitempty"`
	// Superseded: a later change has taken over.
	Superseded bool `json:"superseded,omitempty"`
}

// ReadMail reads a change of whether mail goes out.
func (a *Activities) ReadMail(ctx context.Context, in reauth.MailInput) (reauth.MailStatus, error) {
	defer startPulse(ctx).end()
	c, err := a.DB.MailChange(ctx, in.Version)
	if errors.Is(err, db.ErrNotFound) {
		return reauth.MailStatus{}, temporal.NewNonRetryableApplicationError("there is no such change of mail", reauth.ErrTypeInvalidInput, nil)
	}
	if err == nil && c.ChangeID != in.ChangeID {
		return reauth.MailStatus{}, temporal.NewNonRetryableApplicationError("the change is another database's", reauth.ErrTypeInvalidInput, nil)
	}
	return reauth.MailStatus{
		Version: c.Version, ChangeID: c.ChangeID, Mode: c.Mode, Was: c.WasMode, RampPerHour: c.Ramp, WasPerHour: c.WasRamp, By: c.By, Reason: c.Reason, At: c.At.UTC(),
	}, err
}

// spread is how far SpreadMail has come.
type spread struct {
	After int64      `json:"after"` // the place of the last case that was told
	Next  time.Time  `json:"next"`  // when the next one may write
	Done  MailSpread `json:"done"`
}

// SpreadMail tells the cases that wait that a change lets them go on: one after
// the other where they go on to write, since each looks at its connection first,
// and all at once where they only get another turn in the ramp. It sends the
// fixed notes that are owed. An attempt goes on where the one before was heard of
// last; a case that is told again keeps to what it was told first.
func (a *Activities) SpreadMail(ctx context.Context, in reauth.MailInput) (MailSpread, error) {
	at := saidLast[spread](ctx)
	beat := startPulse(ctx, at)
	defer beat.end()
	for {
		control, err := a.DB.Mail(ctx)
		if err != nil {
			return at.Done, err
		}
		if at.Done.Superseded = control.Version > in.Version; at.Done.Superseded || control.Mode == reauth.MailStopped {
			break
		}
		waiting, err := a.DB.MailWaits(ctx, in.Version, at.After, spreadPage)
		if err != nil {
			return at.Done, err
		}
		if len(waiting) == 0 {
			break
		}
		for _, w := range waiting {
			if err := a.letOn(ctx, control, w, &at); err != nil {
				return at.Done, err
			}
			at.After = w.Seq
			beat.say(ctx, at)
		}
	}
	return at.Done, a.DB.MailHandled(ctx, in.Version, a.Now())
}

// letOn lets one case go on that has waited.
func (a *Activities) letOn(ctx context.Context, control db.MailControl, w db.MailWait, at *spread) error {
	if w.Why == "fixed" {
		sent, err := a.sendOwed(ctx, w)
		if sent {
			at.Done.Fixed++
		}
		return err
	}
	if a.Steer == nil {
		return nil // it finds out by itself
	}
	when := a.Now().UTC()
	if again := w.Why == "ramp" && control.Ramped(); !again {
		when = later(when, at.Next)
		at.Next = when.Add(letGoEvery)
	}
	if err := a.Steer.ReleaseNotices(ctx, w.ConnectionID, reauth.NoticesReleased{Mail: control.Version, At: when}); err != nil {
		return fmt.Errorf("let a waiting case go on: %w", err)
	}
	at.Done.Woken, at.Done.Until = at.Done.Woken+1, when
	return nil
}

// sendOwed sends the fixed notes that a closed case owes.
func (a *Activities) sendOwed(ctx context.Context, w db.MailWait) (sent bool, err error) {
	connection, err := a.DB.Connection(ctx, w.ConnectionID)
	if err != nil {
		return false, err
	}
	in := CloseInput{Case: Case{CaseID: w.CaseID, ConnectionID: w.ConnectionID, OpenedAt: w.OpenedAt.UTC()}}
	out, err := a.tellFixed(ctx, in, connection)
	if err != nil || out.Owed { // stopped again: a later change takes care of it
		return false, err
	}
	return out.FixedNotes > 0, a.DB.FixedSent(ctx, w.CaseID)
}

// MailTold is the answer to TellOfMail: what became of the mail. It is empty
// where there is nobody to write to.
type MailTold struct {
	Delivery notify.Delivery `json:"delivery"`
}

// TellOfMail tells the operators, by mail and in their chat, that customer mail
// was stopped, or is on. The mail goes as mailOperator's do.
func (a *Activities) TellOfMail(ctx context.Context, in reauth.MailStatus) (MailTold, error) {
	standing, err := a.DB.MailStanding(ctx)
	if err != nil {
		return MailTold{}, err
	}
	notice := a.mailNotice(ctx, in, standing)
	if activity.GetInfo(ctx).Attempt <= 1 {
		a.Logger.WarnContext(ctx, notice.Heading, "version", in.Version, "mode", in.Mode, "ramp_per_hour", in.RampPerHour, "by", in.By, "reason", in.Reason)
		if a.Chat != nil {
			if _, _, err := a.Chat.Post(ctx, mailMessage(in, notice), ""); err != nil {
				a.Logger.WarnContext(ctx, "The chat could not be told of it", "error", err)
			}
		}
	}
	delivery, err := a.mailOperator(ctx, notice, true)
	return MailTold{Delivery: delivery}, err
}

func (a *Activities) mailNotice(ctx context.Context, in reauth.MailStatus, s db.MailStanding) notify.Notice {
	step := "mail-" + string(in.Mode)
	n := notify.Notice{
		Kind: notify.KindOperator, Heading: MailHeading(in), Recipient: notify.Recipient{Email: a.Settings.OperatorEmail},
		ProductName: a.Settings.ProductName, From: a.Settings.MailFrom, ReplyTo: a.Settings.SupportEmail, Step: step,
		MessageID: notify.MessageID(a.mailDomain(), reauth.MailWorkflowID(in.ChangeID), step, 0, db.RecipientOperator),
		Problem:   MailHeading(in) + ", set on " + moment(in.At) + " by " + in.By + because(in.Reason) + ". ",
	}
	if in.Mode == reauth.MailStopped {
		n.Problem += "No notice to a customer begins, and none that had to be tried again: every step waits. Cases go on in every other respect, and their deadlines stand."
		n.Advice = "PUT " + strings.TrimSuffix(a.Settings.PublicURL, "/") + `/v1/mail {"mode": "on"} with an operator's API key, or the command reauth mail on, switches it on again.`
	} else {
		n.Problem += fmt.Sprintf("%d cases were waiting for it; they go on one after the other, and each looks at its connection before it writes to anybody.", s.Stopped)
		if in.RampPerHour > 0 {
			n.Problem += fmt.Sprintf(" At most %d new customers hear in an hour.", in.RampPerHour)
		}
	}
	n.Links = a.temporalLinks(ctx, "Open the change in Temporal", reauth.MailWorkflowID(in.ChangeID))
	return n
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// MailHeading says in a few words what a change of mail was.
func MailHeading(in reauth.MailStatus) string {
	switch {
	case in.Mode == reauth.MailStopped:
		return "Customer mail is stopped"
	case in.Mode == reauth.MailShadow:
		return "Mail is in shadow: nobody is written to"
	case in.Was == reauth.MailStopped:
		return "Customer mail is on again"
	}
	return "Customer mail is on"
}

// mailMessage is what the chat hears of a change of mail.
func mailMessage(in reauth.MailStatus, n notify.Notice) chat.Message {
	m := chat.Message{
		Key: reauth.MailWorkflowID(in.ChangeID), Title: n.Heading, State: chat.Resolved,
		Facts: []chat.Fact{{Label: "By", Value: in.By}, {Label: "Why", Value: in.Reason}},
		Lines: []string{n.Problem},
	}
	if in.Mode == reauth.MailStopped {
		m.State = chat.NeedsOperator
	}
	for _, link := range n.Links {
		m.Links = append(m.Links, chat.Link{Name: link.Name, URL: link.URL})
	}
	return m
}
