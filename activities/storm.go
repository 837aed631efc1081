package activities

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
)

// StormTimeOver is how a storm ends that lasted as long as it may.
const StormTimeOver = db.StormTimeOver

const (
	// askOfStorm is how many connections are asked in one check of a storm, and
	// askAtMost how long the provider may take for one of them.
	askOfStorm = 10
	askAtMost  = 10 * time.Second
	// letGoEvery keeps apart what a storm lets go: each case looks at its
	// connection before it writes, and a provider takes 20 calls a minute.
	letGoEvery = 3 * time.Second
	letGoPage  = 100
)

// StormCheck asks whether the provider has recovered. Each round asks other
// connections.
type StormCheck struct {
	StormID string `json:"storm_id"`
	Round   int    `json:"round"`
}

// StormChecked is the answer to StormCheck.
type StormChecked struct {
	Storm reauth.Storm      `json:"storm"`
	Check reauth.StormCheck `json:"check"`
	// Recovered: access is back at most of the connections that were asked.
	Recovered bool `json:"recovered"`
}

// StormEnd ends a storm.
type StormEnd struct {
	StormID string `json:"storm_id"`
	// How says in words how it ended.
	How string `json:"how"`
}

// StormReleased is what was let go after a storm.
type StormReleased struct {
	Cases int `json:"cases"`
	// Until is when the last of them may write.
	Until time.Time `json:"until"`
}

// StormNews is what the operator is told of a storm: that it began, or once
// it has ended, what became of it.
type StormNews struct {
	Storm    reauth.Storm  `json:"storm"`
	Released StormReleased `json:"released"`
}

// StormTold is the answer to StormNews: what became of the mail. It is empty
// where there is nobody to write to.
type StormTold struct {
	Delivery notify.Delivery `json:"delivery"`
}

// ReadStorm reads what is known of a storm.
func (a *Activities) ReadStorm(ctx context.Context, in reauth.StormInput) (reauth.Storm, error) {
	defer startPulse(ctx).end()
	return a.storm(ctx, in.StormID)
}

func (a *Activities) storm(ctx context.Context, id string) (reauth.Storm, error) {
	s, err := a.DB.StormByID(ctx, id)
	if errors.Is(err, db.ErrNotFound) {
		return reauth.Storm{}, temporal.NewNonRetryableApplicationError("there is no such storm", reauth.ErrTypeInvalidInput, nil)
	}
	return reauth.Storm{
		StormID: s.StormID, Provider: s.Provider, System: s.System, Broken: s.Broken, Connections: s.Connections,
		Held: s.Held, Waiting: s.Waiting, Restored: s.Restored, BeganAt: s.BeganAt, EndsAt: s.EndsAt, EndedHow: s.EndedHow,
	}, err
}

// CheckStorm asks the provider about some of the connections that a storm
// holds. What it leaves unanswered is not back.
func (a *Activities) CheckStorm(ctx context.Context, in StormCheck) (StormChecked, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityLook)
	defer startPulse(ctx).end()
	sample, err := a.DB.SampleHeld(ctx, in.StormID, in.Round, askOfStorm)
	if err != nil {
		return StormChecked{}, err
	}
	check := reauth.StormCheck{At: a.Now().UTC()}
	limited := false
	for _, id := range sample {
		back, err := a.backNow(ctx, id)
		if ctx.Err() != nil {
			return StormChecked{}, ctx.Err()
		}
		if err != nil {
			a.Logger.InfoContext(ctx, "A connection could not be asked whether access is back", "connection_id", id, "error", err)
		}
		check.Asked++
		if back {
			check.Back++
		}
		if limited = isLimit(err); limited {
			break // the rest would only take from what others need
		}
	}
	storm, err := a.storm(ctx, in.StormID)
	return StormChecked{Storm: storm, Check: check, Recovered: !limited && mostAreBack(check)}, err
}

// mostAreBack reports whether a check shows that the provider has recovered.
func mostAreBack(c reauth.StormCheck) bool {
	return c.Asked > 0 && 5*c.Back >= 4*c.Asked && (c.Back >= 3 || c.Back == c.Asked)
}

// backNow asks the provider whether the stored token of a connection works.
func (a *Activities) backNow(ctx context.Context, connectionID string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askAtMost)
	defer cancel()
	connection, err := a.DB.Connection(ctx, connectionID)
	if err != nil {
		return false, err
	}
	access, _, ok, err := a.access(ctx, connectionID)
	if err != nil || !ok {
		return false, err
	}
	back, _, err := a.accessBack(ctx, connection, access)
	return back, err
}

func isLimit(err error) bool {
	var e *temporal.ApplicationError
	return errors.As(err, &e) && e.Type() == string(TroubleLimit)
}

// EndStorm ends a storm, so that it holds no further case. The first end stands.
func (a *Activities) EndStorm(ctx context.Context, in StormEnd) (reauth.Storm, error) {
	defer startPulse(ctx).end()
	if _, err := a.DB.EndStorm(ctx, in.StormID, in.How, a.Now()); err != nil && !errors.Is(err, db.ErrNotFound) {
		return reauth.Storm{}, err
	}
	return a.storm(ctx, in.StormID)
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// letGo is how far LetGo has come.
type letGo struct {
	After string        `json:"after"` // the last case that was told
	Next  time.Time     `json:"next"`  // when the next one may write
	Done  StormReleased `json:"done"`
}

// LetGo tells the open cases that an ended storm held that they may write, one
// after the other. An attempt goes on where the one before was heard of last; a
// case that is told again keeps to what it was told first.
func (a *Activities) LetGo(ctx context.Context, in reauth.StormInput) (StormReleased, error) {
	at := saidLast[letGo](ctx)
	beat := startPulse(ctx, at)
	defer beat.end()
	if a.Storms == nil {
		return at.Done, nil // the cases wait for the end of the storm's time
	}
	storm, err := a.DB.StormByID(ctx, in.StormID)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return at.Done, err
	}
	for {
		held, err := a.DB.HeldCases(ctx, in.StormID, at.After, letGoPage)
		if err != nil || len(held) == 0 {
			return at.Done, err
		}
		for _, c := range held {
			when := later(a.Now().UTC(), at.Next)
			if err := a.Storms.ReleaseNotices(ctx, c.ConnectionID, reauth.NoticesReleased{StormID: in.StormID, At: when, How: storm.EndedHow}); err != nil {
				return at.Done, fmt.Errorf("let a held case go: %w", err)
			}
			at = letGo{After: c.CaseID, Next: when.Add(letGoEvery), Done: StormReleased{Cases: at.Done.Cases + 1, Until: when}}
			beat.say(ctx, at)
		}
	}
}

// TellOfStorm mails the operator that a storm began, or what became of it, as
// mailOperator does.
func (a *Activities) TellOfStorm(ctx context.Context, in StormNews) (StormTold, error) {
	notice := a.stormNotice(ctx, in)
	if activity.GetInfo(ctx).Attempt <= 1 {
		a.Logger.WarnContext(ctx, heading(in.Storm), "storm_id", in.Storm.StormID, "provider", in.Storm.Provider, "system", in.Storm.System, "problem", notice.Problem)
	}
	delivery, err := a.mailOperator(ctx, notice, false)
	return StormTold{Delivery: delivery}, err
}

// mailOperator mails the operator what is of no case. No ledger has a place for
// such a mail, so it is tried until the mail server has taken it, and not again
// where nobody knows whether it has. The answer is empty where there is nobody to
// write to.
func (a *Activities) mailOperator(ctx context.Context, notice notify.Notice, evenInShadow bool) (notify.Delivery, error) {
	if a.Settings.OperatorEmail == "" {
		return "", nil
	}
	if left(ctx, sending) {
		return notify.Unknown, nil
	}
	if !evenInShadow {
		if shadow, err := a.shadow(ctx); err != nil || shadow {
			return shadowed, err
		}
	}
	message, err := notify.Compose(notice)
	if err != nil {
		return "", fmt.Errorf("compose the operator's mail: %w", err)
	}
	beat := startPulse(ctx, sending)
	defer beat.end()
	delivery, err := a.Mail.Send(ctx, message)
	if delivery == notify.Deferred {
		beat.say(ctx)
		return "", retryLater("the mail server has not taken the operator's mail yet", "mail_deferred", 0)
	}
	if err != nil {
		a.Logger.WarnContext(ctx, "The operator's mail may not have arrived", "delivery", delivery, "error", err)
	}
	return delivery, nil
}

// stormNotice is what the operator is told. Both mails of a storm stand in one
// conversation.
func (a *Activities) stormNotice(ctx context.Context, in StormNews) notify.Notice {
	storm := in.Storm
	id := func(step string) string {
		return notify.MessageID(a.mailDomain(), reauth.StormWorkflowID(storm.StormID), step, 0, db.RecipientOperator)
	}
	n := notify.Notice{
		Kind:         notify.KindOperator,
		Heading:      fmt.Sprintf("%d of %d connections of %s broke together", storm.Broken, storm.Connections, storm.Of()),
		Recipient:    notify.Recipient{Email: a.Settings.OperatorEmail},
		ProductName:  a.Settings.ProductName,
		ProviderName: storm.Of(),
		StaleSince:   storm.BeganAt,
		From:         a.Settings.MailFrom,
		ReplyTo:      a.Settings.SupportEmail,
		Links:        a.temporalLinks(ctx, "Open the storm in Temporal", reauth.StormWorkflowID(storm.StormID)),
	}
	if storm.EndedHow != "" {
		n.Step, n.MessageID, n.RootMessageID = "ended", id("ended"), id("began")
		n.Problem = "The storm is over: " + strings.TrimSuffix(storm.EndedHow, ".") + ". " + becameOf(in)
		return n
	}
	n.Step, n.MessageID, n.DeadlineAt = "began", id("began"), storm.EndsAt
	n.Problem = fmt.Sprintf("%d of %d connections of %s broke within minutes, which is most likely the provider's fault and not the customers'. "+
		"So nobody at a customer is written to for now: first notices are held until %s at the latest. "+
		"Every ten minutes some of the connections are asked whether access is back. Once it is, the notices are let go, and whoever's connection works again hears nothing.",
		storm.Broken, storm.Connections, storm.Of(), moment(storm.EndsAt))
	n.Advice = fmt.Sprintf("To let the notices go now, POST %s/v1/storms/%s/release with an operator's API key, or send the signal %s to the workflow %s in Temporal's web UI.",
		strings.TrimSuffix(a.Settings.PublicURL, "/"), url.PathEscape(storm.StormID), reauth.SignalReleaseStorm, reauth.StormWorkflowID(storm.StormID))
	return n
}

// becameOf says what became of the cases that a storm held.
func becameOf(in StormNews) string {
	text := fmt.Sprintf("Of the %d cases that were held, %d had access back by then", in.Storm.Held, in.Storm.Restored)
	if ended := in.Storm.Held - in.Storm.Restored - in.Storm.Waiting; ended > 0 {
		text += fmt.Sprintf(", %d had ended otherwise", ended)
	}
	if in.Released.Cases == 0 {
		return text + ", and none is left to be let go."
	}
	return text + fmt.Sprintf(", and %d are let go one after the other until %s. Each looks at its connection before it writes to anybody.",
		in.Released.Cases, moment(in.Released.Until))
}

func moment(t time.Time) string { return t.UTC().Format("2 January 2006 at 15:04 MST") }

func heading(s reauth.Storm) string {
	if s.EndedHow != "" {
		return "First notices are held no longer"
	}
	return "Many connections broke together"
}
