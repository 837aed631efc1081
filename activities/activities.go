// Package activities is what a case does to the world, one file a step. Each
// step may run more than once, and is written so that the second time changes
// nothing.
package activities

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// Mailer sends one mail and says what became of it.
type Mailer interface {
	Send(ctx context.Context, mail notify.Mail) (notify.Delivery, error)
}

// Hander hands a minted token to the case of its connection.
type Hander interface {
	SubmitMinted(ctx context.Context, minted reauth.TokenMinted) error
}

// Cases tells cases that others can be written to than before.
type Cases interface {
	ContactsChanged(ctx context.Context, connectionID string, changed reauth.ContactsChanged) error
}

// StormWatcher has a storm watched, by one workflow however often it is asked,
// and lets the notices go that it held. That a case has ended is no error.
type StormWatcher interface {
	WatchStorm(ctx context.Context, stormID string) error
	ReleaseNotices(ctx context.Context, connectionID string, released reauth.NoticesReleased) error
}

// Finds tells of what a sweep finds.
type Finds interface {
	// ReportFound opens a case, or joins the one that is open.
	ReportFound(ctx context.Context, in reauth.Input) error
	// AccessBack tells an open case that access is back, or that the connection
	// is gone; it looks for itself. That none is open is no error.
	AccessBack(ctx context.Context, connectionID string) error
}

// Steerer tells open cases what operators want. That a case has ended is an error
// that wraps starter.ErrNoOpenCase; of ReleaseNotices it is none.
type Steerer interface {
	Cancel(ctx context.Context, connectionID string, m reauth.Cancel) error
	Snooze(ctx context.Context, connectionID string, m reauth.Snooze) error
	StopNotices(ctx context.Context, connectionID string, m reauth.StopNotices) error
	ReleaseNotices(ctx context.Context, connectionID string, m reauth.NoticesReleased) error
}

// Settings are the choices of whoever runs the project.
type Settings struct {
	// PublicURL is where customers reach the pages; links in mails begin with it.
	PublicURL string
	// RedirectURI is where Connect sends the browser, whatever the application; if
	// empty, PublicURL + "/callback", and "/" and the application unless it is the
	// default one.
	RedirectURI string
	// MailFrom is the sender, as "Acme <support@acme.example>".
	MailFrom string
	// ProductName is the company's product, as customers know it.
	ProductName string
	// SupportEmail is where replies go; MailFrom if empty.
	SupportEmail string
	// OperatorEmail hears what only an operator can mend; nobody if empty.
	OperatorEmail string
	// SessionMinutes is how long a Connect session lives.
	SessionMinutes int
	// SessionRenewals is how often a session is renewed.
	SessionRenewals int
	// Campaigns are those that a case can follow; nil leaves the built-in one.
	Campaigns *campaign.Book
	// Storm says when so many connections broke together that first notices
	// are held.
	Storm db.StormRule
	// StormSettles is how long first notices wait where a storm is possible, so
	// that those that come before it is one are not sent either.
	StormSettles time.Duration
	// Chat says that the operators have a chat.
	Chat bool
	// TemporalUIURL leads operators to the web UI; none if empty.
	TemporalUIURL string
	// Webhooks says that the backend wants an event for every case that closes.
	Webhooks bool
}

// Activities does the steps of a case.
type Activities struct {
	DB        Store
	Keys      *secrets.Keys
	Providers map[string]Provider // by application
	Mail      Mailer
	Hand      Hander
	Cases     Cases        // nil: cases find out by themselves
	Storms    StormWatcher // nil: nobody watches, and a storm ends when its time is over
	Finds     Finds        // of sweeps, which need it
	Steer     Steerer      // nil: nothing can be asked of many cases, and those that wait for mail find out by themselves
	Chat      chat.Poster  // nil: the operators' chat hears of no change of whether mail goes out
	Settings  Settings
	Logger    *slog.Logger
	Now       func() time.Time
	// Hasten turns a moment of the machine's clock into one of Now's, where
	// that one runs faster; nil where the two are the same.
	Hasten func(time.Time) time.Time
	// Sleep waits, for tests with a clock of their own; nil is the real one.
	Sleep func(ctx context.Context, d time.Duration) error
}

// How long each step waits; docs/architecture.md says why.
const (
	// clickSpares is how long after a click no session is renewed.
	clickSpares = 60 * time.Minute
	// lookAtMost is how long a notice waits for a look that brings no answer.
	lookAtMost = time.Hour
	// lookedLately is how young a look may be to stand for the next one.
	lookedLately = time.Minute
	// pendingAgain is when a provider that is still at it is asked again.
	pendingAgain = 5 * time.Minute
	// fixedAtMost is how long the closing of a case tries to send its notes.
	fixedAtMost = 15 * time.Minute
)

// provider finds the provider of an application.
func (a *Activities) provider(application string) (Provider, error) {
	if application == "" {
		application = reauth.DefaultApplication
	}
	p := a.Providers[application]
	if p == nil {
		return nil, temporal.NewApplicationError(
			fmt.Sprintf("no client credentials are configured for the application %q", application), "application_unknown")
	}
	return p, nil
}

// wordsOf are an error's own words, without what Temporal puts behind them.
func wordsOf(err error) string {
	var e *temporal.ApplicationError
	if errors.As(err, &e) {
		return e.Message()
	}
	return err.Error()
}

// access opens the stored token of a connection, or makes an imported one its
// stored one first. ok is false if there is none.
func (a *Activities) access(ctx context.Context, connectionID string) (access Access, generation int64, ok bool, err error) {
	access.ConnectionID = connectionID
	token, err := a.DB.CurrentToken(ctx, connectionID)
	if errors.Is(err, db.ErrNotFound) {
		var adopted bool
		if adopted, err = a.AdoptImported(ctx, connectionID); err == nil && adopted {
			token, err = a.DB.CurrentToken(ctx, connectionID)
		} else if err == nil {
			err = db.ErrNotFound
		}
	}
	if errors.Is(err, db.ErrNotFound) {
		return access, 0, false, nil
	}
	if err != nil {
		return access, 0, false, err
	}
	plain, err := a.Keys.Open(token.Sealed, db.TokenBound(connectionID, token.Generation)...)
	if err != nil {
		return access, 0, false, fmt.Errorf("open the stored token: %w", err)
	}
	access.Token = secrets.Secret(plain)
	return access, token.Generation, true, nil
}

// retry tells Temporal to try again, after the provider's Retry-After if it
// gave one. Its text is for people, and holds no secret.
func retry(what string, err error) error {
	trouble := troubleOf(err)
	return temporal.NewApplicationErrorWithOptions(what+": "+trouble.Error(), string(trouble.Trouble), temporal.ApplicationErrorOptions{
		NextRetryDelay: trouble.RetryAfter,
	})
}

// retryLater is retry for what is no fault: somebody is still at it.
func retryLater(what, kind string, after time.Duration) error {
	return temporal.NewApplicationErrorWithOptions(what, kind, temporal.ApplicationErrorOptions{
		NextRetryDelay: after,
		Category:       temporal.ApplicationErrorCategoryBenign,
	})
}

// pulse sends heartbeats while an activity runs, so that Temporal notices a
// dead worker soon and an abandoned activity hears of it.
type pulse struct {
	mu      sync.Mutex
	details []any
	stop    context.CancelFunc
	done    chan struct{}
}

// pulseEvery is well under the heartbeat timeout that workflows set.
const pulseEvery = 2 * time.Second

func startPulse(ctx context.Context, details ...any) *pulse {
	beating, stop := context.WithCancel(ctx)
	p := &pulse{details: details, stop: stop, done: make(chan struct{})}
	activity.RecordHeartbeat(ctx, details...)
	go func() {
		defer close(p.done)
		tick := time.NewTicker(pulseEvery)
		defer tick.Stop()
		for {
			select {
			case <-beating.Done():
				return
			case <-tick.C:
				p.mu.Lock()
				details := p.details
				p.mu.Unlock()
				activity.RecordHeartbeat(ctx, details...)
			}
		}
	}()
	return p
}

// say replaces the details that a next attempt would find.
func (p *pulse) say(ctx context.Context, details ...any) {
	p.mu.Lock()
	p.details = details
	p.mu.Unlock()
	activity.RecordHeartbeat(ctx, details...)
}

// saidLast returns what the attempt before said last in its heartbeats, or a zero
// T if there was none or it cannot be read.
func saidLast[T any](ctx context.Context) T {
	var said, none T
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &said) != nil {
		return none
	}
	return said
}

// end stops the heartbeats.
func (p *pulse) end() {
	p.stop()
	<-p.done
}

// plan is what a case keeps of the settings and its input.
func (a *Activities) plan(ctx context.Context, in reauth.Input, connection reauth.Connection) (Plan, error) {
	plan := Plan{
		Minutes:     a.Settings.SessionMinutes,
		Renewals:    a.Settings.SessionRenewals,
		Application: connection.Application,
	}
	if plan.Minutes == 0 {
		plan.Minutes = reauth.DefaultSessionMinutes
	}
	if in.MinutesToExpire != 0 {
		plan.Minutes = in.MinutesToExpire
	}
	if in.Renewals != nil {
		plan.Renewals = *in.Renewals
	}
	if in.Reminders != nil {
		plan.Campaign = campaign.FromReminders(in.Reminders)
		return plan, nil
	}
	named := in.Campaign
	if named == "" {
		named = connection.Campaign
	}
	plan.Campaign = a.Settings.Campaigns.Choose(named, connection.Application, connection.Provider)
	return plan, a.settle(ctx, &plan, connection)
}

// settle says how long the first notice waits for the breakdowns of others:
// those of the same person, with which it would be one mail, and those of the
// same provider, with which it would be none.
func (a *Activities) settle(ctx context.Context, plan *Plan, connection reauth.Connection) error {
	if plan.Campaign.Gather > 0 {
		shares, err := a.DB.SharesContact(ctx, connection.ConnectionID)
		if err != nil {
			return err
		}
		if shares {
			plan.FirstAfter = plan.Campaign.Gather
		}
	}
	if a.Settings.StormSettles > plan.FirstAfter {
		may, err := a.DB.MayStorm(ctx, connection.Provider, a.Settings.Storm.Count)
		if err != nil {
			return err
		}
		if may {
			plan.FirstAfter = a.Settings.StormSettles
		}
	}
	return nil
}

// redirectURI is where Connect sends the browser. Every application has a path of
// its own, so that a code which says nothing else says whose credentials it needs.
func (a *Activities) redirectURI(in reauth.Input, application string) string {
	if in.RedirectURI != "" {
		return in.RedirectURI
	}
	if a.Settings.RedirectURI != "" {
		return a.Settings.RedirectURI
	}
	return a.Settings.PublicURL + applications.CallbackPath(application)
}
