// Package preview shows what a campaign does before anybody gets it. It runs
// the real workflow with the real activities and the real templates on a clock
// that skips what nobody does, so that a case of weeks passes in a second. The
// database is replaced by one in memory, the provider by one where the
// connection never comes back, and the mail server by one that collects.
package preview

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker"
)

// Case is what is previewed.
type Case struct {
	// Connection is the one that goes stale, People are its contacts in order,
	// those who must not be written to included.
	Connection reauth.Connection
	People     []db.Recipient
	// Campaign is the one that the case follows.
	Campaign campaign.Campaign
	// From is when the case opens.
	From time.Time
	// Settings are those of a worker; SampleSettings has them all. Campaigns,
	// storms and webhooks are not looked at.
	Settings activities.Settings
}

// Preview is what a case did until its end.
type Preview struct {
	Connection reauth.Connection
	Campaign   campaign.Campaign
	People     []Person
	From       time.Time
	// DeadlineAt is the end of the last permitted session, EndedAt when the case
	// had its outcome.
	DeadlineAt, EndedAt time.Time
	// Sessions counts the Connect sessions that were opened.
	Sessions int
	Outcome  reauth.Outcome
	// Rows are the notices in order, those that were left out included, and the
	// end of the case as the last.
	Rows []Row
	// Messages are what was sent, in the order of the rows.
	Messages []Message
}

// stuckAfter is how long, in real time, nothing may happen before a preview is
// given up.
const stuckAfter = time.Minute

// Run lets a case pass in which nobody ever logs in again. It fails if no case
// would open, or if a notice cannot be written.
func Run(ctx context.Context, c Case) (Preview, error) {
	keyset, err := secrets.Generate()
	if err != nil {
		return Preview{}, err
	}
	keys, err := secrets.Load(keyset)
	if err != nil {
		return Preview{}, err
	}
	if err := c.Campaign.Check(); err != nil {
		return Preview{}, fmt.Errorf("check the campaign: %w", err)
	}
	c.From = c.From.UTC()
	quiet := slog.New(slog.DiscardHandler)
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(quiet))
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(c.From)
	env.SetTestTimeout(stuckAfter)
	env.SetWorkerOptions(sdkworker.Options{BackgroundActivityContext: ctx, DeadlockDetectionTimeout: stuckAfter})
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: reauth.WorkflowID(c.Connection.ConnectionID), TaskQueue: reauth.TaskQueue})
	now := func() time.Time { return env.Now().UTC() }

	var trouble first
	env.SetOnActivityCompletedListener(func(_ *activity.Info, _ converter.EncodedValue, err error) { trouble.note(err) })
	kept := &store{connection: c.Connection, people: c.People, now: now, says: map[int64]string{}, events: map[int64]db.OutboxEvent{}}
	sent := &mailbox{mails: map[string]notify.Mail{}}
	settings := c.Settings
	settings.Campaigns = campaign.BookOf(c.Campaign)
	settings.Storm, settings.StormSettles, settings.Webhooks = db.StormRule{}, 0, false
	worker.Register(env, &activities.Activities{
		DB: kept, Keys: keys, Mail: sent, Settings: settings, Logger: quiet, Now: now,
		Providers: map[string]activities.Provider{cmp.Or(c.Connection.Application, reauth.DefaultApplication): provider{}},
		Hasten:    func(time.Time) time.Time { return env.Now() },
	})

	env.ExecuteWorkflow(reauth.WorkflowType, reauth.Input{
		ConnectionID: c.Connection.ConnectionID, Provider: c.Connection.Provider, Source: reauth.SourceAPIError,
	})
	if ctx.Err() != nil {
		return Preview{}, ctx.Err()
	}
	if err := cmp.Or(trouble.err, env.GetWorkflowError()); err != nil {
		return Preview{}, fmt.Errorf("run the case: %w", err)
	}
	var result reauth.Result
	if err := env.GetWorkflowResult(&result); err != nil {
		return Preview{}, fmt.Errorf("read the outcome: %w", err)
	}
	if kept.row.DeadlineAt == nil {
		return Preview{}, fmt.Errorf("nobody is written to: the case ends at once as %s", cmp.Or(result.Reason, string(result.Outcome), "suppressed"))
	}
	hide, err := hider(keys, kept)
	if err != nil {
		return Preview{}, err
	}
	return played{Case: c, store: kept, mails: sent.mails, result: result, hide: hide}.preview(), nil
}

// hider replaces what is worth something, or is of this run alone: the secrets
// of links, and the ID of the case.
func hider(keys *secrets.Keys, kept *store) (*strings.Replacer, error) {
	pairs := []string{kept.row.CaseID, "preview"}
	for _, p := range kept.people {
		secret, err := keys.LinkSecret(keys.LinkKeyID(), kept.connection.ConnectionID, p.ContactID, linkVersion)
		if err != nil {
			return nil, fmt.Errorf("hide the links: %w", err)
		}
		pairs = append(pairs, secret, "…")
	}
	return strings.NewReplacer(pairs...), nil
}

// first keeps the first error of several goroutines.
type first struct {
	mu  sync.Mutex
	err error
}

func (f *first) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// mailbox stands for the mail server: it takes every mail.
type mailbox struct {
	mu    sync.Mutex
	mails map[string]notify.Mail // by message ID
}

func (m *mailbox) Send(_ context.Context, mail notify.Mail) (notify.Delivery, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails[mail.MessageID] = mail
	return notify.Sent, nil
}

// provider stands for one where the connection never comes back.
type provider struct{ activities.Provider }

func (provider) Inspect(_ context.Context, access activities.Access) (activities.Inspection, error) {
	return activities.Inspection{ConnectionID: access.ConnectionID, Condition: activities.ConditionStale}, nil
}

func (provider) OpenSession(context.Context, activities.SessionRequest) (activities.OpenSession, error) {
	return activities.OpenSession{ID: "preview", ConnectURL: "https://connect.example/"}, nil
}
