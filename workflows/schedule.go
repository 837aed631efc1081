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
	sent   int  // notices that have gone out already
}

// planSteps makes the case's steps of the campaign's dates.
func (c *reauthCase) planSteps() {
	for _, date := range c.plan.Dates(c.ref, c.session.ExpiresAt, c.personIsHere) {
		c.steps = append(c.steps, step{Step: date.Step, at: date.At, due: date.At})
	}
}

// takeStep takes the step that is due. Of several of the same kind, those that
// were missed while nobody could be written to, only the one that the campaign
// has last is sent.
func (c *reauthCase) takeStep(now time.Time) step {
	s := c.steps[0]
	left := []step{}
	for _, next := range c.steps[1:] {
		alike := next.Channel == s.Channel && (next.Audience == campaign.Company) == (s.Audience == campaign.Company)
		switch {
		case !alike || next.at.After(now):
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

// putBack keeps a step for later, as the first of those that are due then.
func (c *reauthCase) putBack(s step, at time.Time) {
	if c.status.NoticesStopped {
		return
	}
	s.at = at.UTC()
	c.steps = append([]step{s}, c.steps...)
	slices.SortStableFunc(c.steps, func(a, b step) int { return a.at.Compare(b.at) })
}

// noticeInput is what a step asks of the activity.
func (c *reauthCase) noticeInput(s step) activities.NoticeInput {
	in := activities.NoticeInput{
		Case: c.ref, Step: s.Step, Kind: s.kind, Campaign: c.plan.Campaign, Asked: s.asked, HandOn: s.handOn,
		SessionOrdinal: c.session.Ordinal, DeadlineAt: c.deadline, Cause: s.cause, LookedAt: c.lookedAt,
		Next: c.upcoming(), NoticesSent: c.status.NoticesSent - s.sent,
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
	if c.lastStep == nil || c.status.NoticesStopped || c.status.HeldByStorm || c.handedOn >= handOnAtMost {
		return
	}
	c.handedOn++
	for i, s := range c.steps {
		if s.moved {
			c.steps = slices.Delete(c.steps, i, i+1)
			c.notify(ctx, s)
			return
		}
	}
	s := c.askedStep(fmt.Sprintf("handed-on-%d", c.handedOn))
	s.asked, s.handOn, s.Anytime = false, true, c.lastStep.Anytime
	c.notify(ctx, s)
}

// stopNotices ends the campaign of a case that stays open.
func (c *reauthCase) stopNotices(ctx workflow.Context, reason string) {
	if c.status.NoticesStopped {
		return
	}
	c.status.NoticesStopped, c.steps = true, nil
	c.record(ctx, "notices_stopped", "Nobody is written to any more: "+clip(reason, 200))
	c.show(ctx)
}

// release lets a notice go that a storm has held.
func (c *reauthCase) release(ctx workflow.Context, m reauth.NoticesReleased) {
	if m.StormID == "" || c.released[m.StormID] != nil {
		return
	}
	at := m.At.UTC()
	c.released[m.StormID] = &at
	if !c.status.HeldByStorm {
		return
	}
	c.status.HeldByStorm = false
	c.lookedAt = time.Time{} // much may have happened since
	for i := range c.steps {
		if c.steps[i].held {
			c.steps[i].at = at
		}
	}
	c.record(ctx, "released", "The storm is over: the first notice may go out.")
	c.show(ctx)
}

// postpone keeps a step for those who could not be told now.
func (c *reauthCase) postpone(s step, out activities.Noticed) {
	at := *out.Later
	if out.Storm != "" {
		released := c.released[out.Storm]
		if released != nil { // while the activity was under way
			at = *released
		}
		c.status.HeldByStorm = released == nil
	}
	s.sent, s.held = out.Sent, out.Storm != ""
	s.moved = s.moved || !s.held
	c.putBack(s, at)
}

// upcoming is the next step with its moment, or nil.
func (c *reauthCase) upcoming() *campaign.Date {
	at := c.nextNoticeAt()
	if at == nil {
		return nil
	}
	return &campaign.Date{Step: c.steps[0].Step, At: *at}
}

// nextNoticeAt is when the next notice is due, or nil.
func (c *reauthCase) nextNoticeAt() *time.Time {
	if len(c.steps) == 0 || !c.open() {
		return nil
	}
	at := c.steps[0].at
	for _, hold := range []time.Time{c.snoozed, c.holdNotices} {
		if hold.After(at) {
			at = hold
		}
	}
	return &at
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
