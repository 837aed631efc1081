package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// remindEvery is how often an operator may remind by hand.
	remindEvery = 10 * time.Minute
	// handOnAtMost bounds how often changes of the contacts are followed at once.
	handOnAtMost = 50
)

// step is one date of the campaign, or a notice that something else asked for.
type step struct {
	campaign.Step
	at   time.Time             // when to try it
	due  time.Time             // when the campaign has it
	kind activities.NoticeKind // what it says; empty until it is first sent
	// cause says more of a NoticeTryAgain: the state of the code that came to nothing.
	cause  reauth.CodeState
	asked  bool // a person asked for it
	handOn bool // it is only for those who have not heard of the case
	moved  bool // somebody could not be told at its own minute
	held   bool // a storm holds it, or held it
	// waits says that it waits for mail to be switched on again, or for its turn in
	// the ramp (activities.NoticedStopped, NoticedRamp), since a time; mail is the
	// version of the control that keeps it.
	waits string
	since time.Time
	mail  int64
	sent  int // notices that have gone out already
	// ordinal is the session's when it was first tried; 0 before.
	ordinal int
}

// alike reports whether a step can stand for another: it takes the same way, to
// the customer or to the company.
func (s step) alike(other step) bool {
	return s.Channel == other.Channel && (s.Audience == campaign.Company) == (other.Audience == campaign.Company)
}

// planSteps makes the case's steps of the campaign's dates.
func (c *reauthCase) planSteps() {
	for _, date := range c.plan.Dates(c.ref, c.session.ExpiresAt, c.personIsHere) {
		c.steps = append(c.steps, step{Step: date.Step, at: date.At, due: date.At})
	}
	if c.status.NoticesStopped {
		c.steps, c.kept = nil, c.steps
	}
}

// takeStep takes the step that is due. Of several of the same kind, those that
// were missed while nobody could be written to, only the one that the campaign
// has last is sent.
func (c *reauthCase) takeStep(now time.Time) step {
	s := c.steps[0]
	left := []step{}
	for _, next := range c.steps[1:] {
		switch {
		case !next.alike(s) || next.at.After(now):
			left = append(left, next)
		case next.due.After(s.due):
			s = next
		}
	}
	c.steps = left
	if s.Audience != campaign.Company {
		c.lastStep = &s.Step
	}
	return s
}

// notBefore is the soonest at which something is tried again that an activity
// wants to be asked for later: the clock of its machine may be behind.
const notBefore = 30 * time.Second

// later is a moment that an activity named, as the story may wait for it.
func later(ctx workflow.Context, at time.Time) time.Time {
	if soonest := workflow.Now(ctx).Add(notBefore); at.Before(soonest) {
		return soonest
	}
	return at.UTC()
}

// dropLate forgets the steps that are past the deadline, after which nobody is
// asked for anything.
func (c *reauthCase) dropLate(ctx workflow.Context) {
	if !c.deadline.IsZero() && !workflow.Now(ctx).Before(c.deadline) {
		c.steps, c.kept = nil, nil
	}
}

// putBack keeps a step for later, as the first of those that are due then.
func (c *reauthCase) putBack(s step, at time.Time) {
	s.at = at.UTC()
	if c.status.NoticesStopped {
		c.kept = append([]step{s}, c.kept...)
		return
	}
	c.steps = append([]step{s}, c.steps...)
	c.sortSteps()
}

func (c *reauthCase) sortSteps() {
	slices.SortStableFunc(c.steps, func(a, b step) int { return a.at.Compare(b.at) })
}

// noticeInput is what a step asks of the activity.
func (c *reauthCase) noticeInput(s step) activities.NoticeInput {
	in := activities.NoticeInput{
		Case: c.ref, Step: s.Step, Kind: s.kind, Campaign: c.plan.Campaign, Asked: s.asked, HandOn: s.handOn,
		SessionOrdinal: s.ordinal, DeadlineAt: c.deadline, Cause: s.cause, LookedAt: c.lookedAt,
		Unheard: c.unheard != "" && c.unheard == c.status.LastError, Next: c.upcoming(), NoticesSent: c.status.NoticesSent - s.sent,
	}
	in.Campaign.Steps = nil
	in.Step.Anytime = s.Anytime && !s.moved // a step that was moved keeps the hours
	return in
}

// kindOf is what a step says: the first notice introduces itself, whenever it comes.
func (c *reauthCase) kindOf(s step) activities.NoticeKind {
	switch {
	case s.kind != "":
		return s.kind
	case s.Template != campaign.Auto:
		return activities.NoticeKind(s.Template)
	case c.status.NoticesSent == 0:
		return activities.NoticeFirst
	case s.Before > 0:
		return activities.NoticeLastCall
	}
	return activities.NoticeReminder
}

// remind sends a notice because an operator asked for one.
func (c *reauthCase) remind(ctx workflow.Context) {
	c.remindNow = false
	now := workflow.Now(ctx)
	if !c.remindedAt.IsZero() && now.Sub(c.remindedAt) < remindEvery {
		c.record(ctx, "remind_ignored", "A reminder was asked for again within ten minutes; the first one stands.")
		return
	}
	c.remindedAt = now
	c.reminders++
	if c.remindBy != "" {
		c.record(ctx, "remind_asked", "A reminder was asked for by "+clip(c.remindBy, 100)+".")
	}
	c.notify(ctx, c.askedStep(fmt.Sprintf("remind-now-%d", c.reminders)))
}

// askedStep is a step that does not stand in the campaign. It is for whoever
// heard the last one that did.
func (c *reauthCase) askedStep(key string) step {
	s := step{Step: campaign.Step{Key: key, Audience: campaign.Primary, Channel: campaign.Mail, Anytime: true}, asked: true}
	if i := slices.IndexFunc(c.plan.Campaign.Steps, func(s campaign.Step) bool { return s.Audience != campaign.Company }); i >= 0 {
		s.Channel = c.plan.Campaign.Steps[i].Channel
	}
	if c.lastStep != nil {
		s.Audience, s.Channel = c.lastStep.Audience, c.lastStep.Channel
	}
	return s
}

// handOn tells those who can be written to since the contacts have changed, if
// others have been told already. A step that still waits for somebody is tried
// at once instead: it finds the new ones by itself.
func (c *reauthCase) handOn(ctx workflow.Context) {
	c.contactsChanged = false
	if c.lastStep == nil || c.status.NoticesStopped || c.status.HeldByStorm || c.handedOn >= handOnAtMost ||
		slices.ContainsFunc(c.steps, func(s step) bool { return s.waits != "" }) { // which finds the new ones by itself
		return
	}
	c.handedOn++
	for i, s := range c.steps {
		if s.moved && c.heldUntil().Before(workflow.Now(ctx)) {
			c.steps = slices.Delete(c.steps, i, i+1)
			c.notify(ctx, s)
			return
		}
	}
	s := c.askedStep(fmt.Sprintf("handed-on-%d", c.handedOn))
	s.asked, s.handOn, s.Anytime = false, true, c.lastStep.Anytime
	if hold := c.heldUntil(); hold.After(workflow.Now(ctx)) {
		c.putBack(s, hold)
		return
	}
	c.notify(ctx, s)
}

// stopNotices ends the campaign of a case that stays open.
func (c *reauthCase) stopNotices(ctx workflow.Context, m reauth.StopNotices) {
	if c.status.NoticesStopped {
		return
	}
	c.status.NoticesStopped, c.steps, c.kept = true, nil, c.steps
	c.record(ctx, "notices_stopped", "Nobody is written to any more"+byWhom(", stopped by ", m.By)+": "+clip(m.Reason, 200))
	c.show(ctx)
}

// release lets notices go that were held: by a storm, by mail that was stopped,
// for want of a turn in the ramp, or by whatever else.
func (c *reauthCase) release(ctx workflow.Context, m reauth.NoticesReleased) {
	m.At = m.At.UTC()
	switch {
	case m.All:
		c.releaseAll(ctx, m)
	case m.Mail > c.mailReleased.Mail:
		c.mailReleased = m
		c.letGo(m.At, func(s step) bool { return s.waits != "" && s.mail < m.Mail })
		c.show(ctx)
	case m.StormID != "" && c.released[m.StormID] == nil:
		c.released[m.StormID] = &m.At
		if c.letGo(m.At, func(s step) bool { return s.held }) {
			c.lookedAt = time.Time{} // much may have happened since
			how := ""
			if m.How != "" {
				how = " (" + clip(m.How, 200) + ")"
			}
			c.record(ctx, "released", "The storm is over"+how+": the first notice may go out.")
			c.show(ctx)
		}
	}
}

// releaseAll lets go whatever holds the case's notices, but for mail that is
// stopped: that is not about this case.
func (c *reauthCase) releaseAll(ctx workflow.Context, m reauth.NoticesReleased) {
	c.allReleased = &m.At
	c.snoozed, c.status.SnoozedUntil = m.At, nil // each at its own time, lest all write at once
	if c.status.NoticesStopped {
		c.status.NoticesStopped, c.steps, c.kept = false, c.kept, nil
		c.sortSteps()
		c.dropLate(ctx)
	}
	c.letGo(m.At, func(s step) bool { return s.held || s.waits == activities.NoticedRamp })
	why := ""
	if m.Reason != "" {
		why = ": " + clip(m.Reason, 200)
	}
	c.record(ctx, "released", "Nothing holds the notices any more"+byWhom(", released by ", m.By)+why)
	c.show(ctx)
}

// letGo tries steps that were held when they may be tried, and reports whether
// there were any.
func (c *reauthCase) letGo(at time.Time, which func(step) bool) (any bool) {
	for i := range c.steps {
		if s := &c.steps[i]; which(*s) {
			s.at, s.held, s.waits, s.mail, any = at, false, "", 0, true
		}
	}
	c.sortSteps()
	c.status.HeldByStorm = slices.ContainsFunc(c.steps, func(s step) bool { return s.held })
	if any && c.status.Mail != activities.NoticedShadow {
		c.status.Mail = ""
	}
	return any
}

// giveUp is what becomes of a step that could not be sent until the next one is
// due, or for a day.
func (c *reauthCase) giveUp(ctx workflow.Context, s step) {
	c.unheard = "The notice of step " + s.Key + " could not be sent; the next one is tried when it is due."
	c.trouble(c.unheard)
	c.record(ctx, "notice_given_up", c.unheard)
	c.tellOperator(ctx, "", c.unheard)
}

// noted remembers what was wrong with a step's notices, or that it no longer is.
func (c *reauthCase) noted(s step, out activities.Noticed) {
	c.status.Mail = out.Mail
	if out.Problem == "" && out.Sent > s.sent && c.unheard == c.status.LastError {
		c.status.LastError, c.unheard = "", ""
	}
	if out.Problem != "" {
		c.unheard = out.Problem
	}
	c.trouble(out.Problem)
}

// postpone keeps a step for those who could not be told now.
func (c *reauthCase) postpone(ctx workflow.Context, s step, out activities.Noticed) {
	at := later(ctx, *out.Later)
	switch released := c.whileUnderWay(out); {
	case released != nil:
		at = later(ctx, *released)
	case out.Storm != "":
		s.held, c.status.HeldByStorm = true, true
	case out.Mail == activities.NoticedStopped, out.Mail == activities.NoticedRamp:
		s.waits, s.mail, s.since = out.Mail, out.MailVersion, workflow.Now(ctx).UTC()
	}
	s.sent, s.moved = out.Sent, s.moved || out.Storm == ""
	c.putBack(s, at)
}

// whileUnderWay is when a step may be tried that was let go while the activity was
// under way that holds it, or nil.
func (c *reauthCase) whileUnderWay(out activities.Noticed) *time.Time {
	switch {
	case out.Mail == activities.NoticedStopped || out.Mail == activities.NoticedRamp:
		if out.MailVersion < c.mailReleased.Mail {
			return &c.mailReleased.At
		}
		if out.Mail == activities.NoticedRamp {
			return c.allReleased
		}
	case out.Storm != "" && c.allReleased != nil:
		return c.allReleased
	case out.Storm != "":
		return c.released[out.Storm]
	}
	return nil
}

// upcoming is the next step with its moment, or nil. One that waits for mail has
// been due since then.
func (c *reauthCase) upcoming() *campaign.Date {
	at := c.nextNoticeAt()
	if at == nil {
		return nil
	}
	if c.steps[0].waits == activities.NoticedStopped {
		at = &c.steps[0].since
	}
	return &campaign.Date{Step: c.steps[0].Step, At: *at}
}

// nextNoticeAt is when the next notice is due, or nil.
func (c *reauthCase) nextNoticeAt() *time.Time {
	if len(c.steps) == 0 || !c.open() {
		return nil
	}
	at := c.steps[0].at
	if hold := c.heldUntil(); hold.After(at) {
		at = hold
	}
	return &at
}

// heldUntil is when notices may go out again that a snooze, or a customer who is
// in Connect, holds.
func (c *reauthCase) heldUntil() time.Time {
	if c.holdNotices.After(c.snoozed) {
		return c.holdNotices
	}
	return c.snoozed
}

// sessionEnds is when the session is over for the story, or nil.
func (c *reauthCase) sessionEnds() *time.Time {
	if c.session == nil {
		return nil
	}
	at := c.session.ExpiresAt
	if c.holdSession.After(at) {
		at = c.holdSession
	}
	return &at
}

// ordinal counts the case's sessions; 0 before the first.
func (c *reauthCase) ordinal() int {
	if c.session == nil {
		return 0
	}
	return c.session.Ordinal
}

func (c *reauthCase) lookAtOrNil() *time.Time {
	if c.lookAt.IsZero() {
		return nil
	}
	return &c.lookAt
}
