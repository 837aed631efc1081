package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// controlEvery is how soon a worker sees that mail was stopped, to say so. What
	// it permits it looks at anew each time.
	controlEvery = 2 * time.Second
	// controlRemind is how often it says again that mail does not go out.
	controlRemind = time.Hour
)

// control watches what operators want of many cases at once: whether mail goes
// out, and what they ask of all of some kind. It has it carried out by workflows,
// and says in the log how mail stands.
type control struct {
	db     controlBook
	start  controlStarter
	logger *slog.Logger
	now    func() time.Time

	seen   db.MailControl
	saidAt time.Time // when the log said last that mail does not go out
}

// controlBook is what control needs of the database.
type controlBook interface {
	Mail(ctx context.Context) (db.MailControl, error)
	UnhandledMail(ctx context.Context) ([]db.MailChange, error)
	UnstartedBulks(ctx context.Context) ([]string, error)
}

// controlStarter starts its workflows.
type controlStarter interface {
	SpreadMail(ctx context.Context, in reauth.MailInput) error
	RunBulk(ctx context.Context, bulkID string) error
}

func newControl(book controlBook, start controlStarter, logger *slog.Logger) *control {
	return &control{db: book, start: start, logger: logger, now: time.Now, seen: db.MailControl{Mode: reauth.MailOn}}
}

func (c *control) run(ctx context.Context) {
	tick := time.NewTicker(controlEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.logger.WarnContext(ctx, "What operators want could not be looked up; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// round looks once.
func (c *control) round(ctx context.Context) error {
	mail, err := c.db.Mail(ctx)
	if err != nil {
		return err
	}
	c.say(ctx, mail)
	changes, err := c.db.UnhandledMail(ctx)
	if err != nil {
		return err
	}
	for _, change := range changes {
		if err := c.start.SpreadMail(ctx, reauth.MailInput{Version: change.Version, ChangeID: change.ChangeID}); err != nil {
			return err
		}
	}
	bulks, err := c.db.UnstartedBulks(ctx)
	if err != nil {
		return err
	}
	for _, id := range bulks {
		if err := c.start.RunBulk(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// say tells the log of a change, and from time to time that mail does not go out.
func (c *control) say(ctx context.Context, mail db.MailControl) {
	now := c.now()
	if mail == c.seen && (mail.Mode == reauth.MailOn || now.Sub(c.saidAt) < controlRemind) {
		return
	}
	if mail != c.seen && mail.Version <= 1 && mail.Mode == reauth.MailOn && mail.Ramp == 0 {
		c.seen = mail // it has been so from the beginning
		return
	}
	c.seen, c.saidAt = mail, now
	attributes := []any{"mode", mail.Mode, "ramp_per_hour", mail.Ramp, "version", mail.Version}
	switch mail.Mode {
	case reauth.MailStopped:
		c.logger.WarnContext(ctx, "Customer mail is stopped: no notice begins, and every step waits", attributes...)
	case reauth.MailShadow:
		c.logger.WarnContext(ctx, "Mail is in shadow: nobody is written to", attributes...)
	default:
		c.logger.InfoContext(ctx, "Customer mail is on", attributes...)
	}
}
