package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/finch-reauth/reauth/reauth"
)

// MailControl says whether mail goes out, and how fast new customers hear.
type MailControl struct {
	// Version counts the changes; 0 before the first, when mail is on.
	Version int64           `db:"version"`
	Mode    reauth.MailMode `db:"mode"`
	// Ramp is how many new customers may hear in an hour; 0 is all of them.
	Ramp int `db:"ramp"`
}

// Ramped reports whether new customers wait for their turn.
func (c MailControl) Ramped() bool { return c.Mode == reauth.MailOn && c.Ramp > 0 }

// MailChange is one change of it.
type MailChange struct {
	MailControl
	// ChangeID is the version, and something that no other database has.
	ChangeID string          `db:"change_id"`
	WasMode  reauth.MailMode `db:"was_mode"`
	WasRamp  int             `db:"was_ramp"`
	By       string          `db:"changed_by"`
	Reason   string          `db:"reason"`
	At       time.Time       `db:"at"`
}

// MailSetting asks for a change; what is nil stays as it is.
type MailSetting struct {
	Mode *reauth.MailMode
	Ramp *int
	// By says who wants it, Reason why; both without an address.
	By, Reason string
	At         time.Time
}

func (s MailSetting) check() error {
	switch {
	case s.Mode != nil && !slices.Contains(reauth.MailModes(), *s.Mode):
		return errors.New("the mode must be on, shadow or stopped")
	case s.Ramp != nil && (*s.Ramp < 0 || *s.Ramp > reauth.MaxRamp):
		return fmt.Errorf("the ramp must be from 0 to %d", reauth.MaxRamp)
	case s.By == "":
		return errors.New("say who changes it")
	}
	return nil
}

// MailStanding is what waits because of the control.
type MailStanding struct {
	// Stopped counts the cases of which a notice waits for mail to be switched on,
	// Fixed the closed ones whose fixed notes do, Ramp those that wait for their turn.
	Stopped int `db:"stopped"`
	Fixed   int `db:"fixed"`
	Ramp    int `db:"ramp"`
	// RampUntil is when the last of those has its turn.
	RampUntil *time.Time `db:"ramp_until"`
	// Shadowed counts the notices of open cases that were not sent in shadow.
	Shadowed int `db:"shadowed"`
	// UnderWay counts the mails to customers that are on their way.
	UnderWay int `db:"under_way"`
}

// mailLock is what permissions hold together and a change holds alone, so that
// none is given under the old control once the change is made. Such locks are
// given in the order in which they are asked for: a change is not kept waiting
// by a crowd of permissions.
const mailLock = `hashtextextended('mail control', 0)`

// mailControl reads the control. Nobody changes it before the transaction ends.
// It comes before every other lock.
func mailControl(ctx context.Context, tx *sqlx.Tx) (MailControl, error) {
	// A statement of its own: the next one sees what was committed before it.
	if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock_shared(`+mailLock+`)`); err != nil {
		return MailControl{}, err
	}
	return readMailControl(ctx, tx)
}

func readMailControl(ctx context.Context, q sqlx.QueryerContext) (MailControl, error) {
	c := MailControl{Mode: reauth.MailOn}
	_, err := first(ctx, q, &c, `SELECT version, mode, ramp FROM mail_control`)
	return c, err
}

// Mail says whether mail goes out.
func (d *DB) Mail(ctx context.Context) (c MailControl, err error) {
	err = d.read(ctx, "read whether mail goes out", func(ctx context.Context) error {
		c, err = readMailControl(ctx, d.sqlx)
		return err
	})
	return c, err
}

// InitMail sets the mode if nobody has ever set one.
func (d *DB) InitMail(ctx context.Context, mode reauth.MailMode, by string) error {
	now := d.now()
	return d.write(ctx, "set whether mail goes out at first", func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(`+mailLock+`)`); err != nil {
			return err
		}
		was, err := readMailControl(ctx, tx)
		if err != nil {
			return err
		}
		// A ramp may be set before the first worker starts; it says nothing of the mode.
		var chosen bool
		if err := tx.GetContext(ctx, &chosen, `SELECT EXISTS (SELECT FROM mail_changes WHERE mode <> was_mode OR ramp = was_ramp)`); err != nil || chosen {
			return err
		}
		_, err = setMail(ctx, tx, was, MailSetting{Mode: &mode, By: by, At: now})
		return err
	})
}

// SetMail changes whether mail goes out. Once it has returned no notice is
// permitted under the old control. changed is false where nothing was other than
// it was: then nothing is written.
func (d *DB) SetMail(ctx context.Context, s MailSetting) (c MailControl, changed bool, err error) {
	const doing = "set whether mail goes out"
	if err := s.check(); err != nil {
		return c, false, fmt.Errorf("%s: %w", doing, err)
	}
	err = d.write(ctx, doing, func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `SELECT pg_advisory_xact_lock(`+mailLock+`)`); err != nil {
			return err
		}
		was, err := readMailControl(ctx, tx)
		if err != nil {
			return err
		}
		c, err = setMail(ctx, tx, was, s)
		changed = c != was
		return err
	})
	if err != nil {
		return MailControl{}, false, err
	}
	return c, changed, nil
}

// setMail writes a change under the lock.
func setMail(ctx context.Context, tx *sqlx.Tx, was MailControl, s MailSetting) (MailControl, error) {
	c := was
	if s.Mode != nil {
		c.Mode = *s.Mode
	}
	if s.Ramp != nil {
		c.Ramp = *s.Ramp
	}
	if c == was && was.Version > 0 {
		return was, nil
	}
	c.Version++
	if err := exec(ctx, tx, `
INSERT INTO mail_control (version, mode, ramp) VALUES ($1, $2, $3)
ON CONFLICT (only_row) DO UPDATE SET version = excluded.version, mode = excluded.mode, ramp = excluded.ramp`, c.Version, c.Mode, c.Ramp); err != nil {
		return was, err
	}
	if c.Ramp != was.Ramp { // whoever waits is planned anew
		if err := exec(ctx, tx, `UPDATE mail_waits SET slot_at = NULL WHERE why = 'ramp'`); err != nil {
			return was, err
		}
	}
	return c, exec(ctx, tx, `
INSERT INTO mail_changes (version, mode, ramp, was_mode, was_ramp, changed_by, reason, at, change_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		c.Version, c.Mode, c.Ramp, was.Mode, was.Ramp, plain(s.By), plain(s.Reason), s.At, fmt.Sprintf("%d-%.8s", c.Version, uuid.NewString()))
}

const selectMailChanges = `
SELECT version, change_id, mode, ramp, was_mode, was_ramp, changed_by, reason, at FROM mail_changes`

// MailChanges lists the changes, the newest first.
func (d *DB) MailChanges(ctx context.Context, limit int) (list []MailChange, err error) {
	err = d.read(ctx, "list the changes of mail", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectMailChanges+` ORDER BY version DESC LIMIT $1`, page(limit))
	})
	return list, err
}

// MailChange returns one change. ErrNotFound when there is no such version.
func (d *DB) MailChange(ctx context.Context, version int64) (c MailChange, err error) {
	err = d.read(ctx, "read a change of mail", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &c, selectMailChanges+` WHERE version = $1`, version)
	})
	return c, err
}

// UnhandledMail lists the changes of which the waiting cases have not been told,
// the oldest first.
func (d *DB) UnhandledMail(ctx context.Context) (list []MailChange, err error) {
	err = d.read(ctx, "look for changes of mail", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, selectMailChanges+` WHERE handled_at IS NULL ORDER BY version LIMIT 20`)
	})
	return list, err
}

// MailHandled says that the waiting cases were told of a change.
func (d *DB) MailHandled(ctx context.Context, version int64, at time.Time) error {
	return d.write(ctx, "note that a change of mail was told", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `UPDATE mail_changes SET handled_at = $2 WHERE version = $1 AND handled_at IS NULL`, version, at)
	})
}

// lostAfter is when a mail that was begun is on its way no more: its worker died.
const lostAfter = 10 * time.Minute

const selectUnderWay = `
SELECT count(DISTINCT message_id) FROM notices
 WHERE state = 'sending' AND channel = 'mail' AND contact_id IS NOT NULL AND begun_at > $1`

// MailUnderWay counts the mails to customers that were permitted and of which no
// end is known yet.
func (d *DB) MailUnderWay(ctx context.Context) (n int, err error) {
	now := d.now()
	err = d.read(ctx, "count the mails that are on their way", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &n, selectUnderWay, now.Add(-lostAfter))
	})
	return n, err
}

// AwaitMailUnderWay waits until no mail to a customer is on its way any more, and
// no longer than it may. What is left then MailUnderWay says: a mail server that
// hangs, say, or a worker that has died.
func (d *DB) AwaitMailUnderWay(ctx context.Context, atMost, every time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		n, err := d.MailUnderWay(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-waiting.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// MailStanding says what waits because of the control.
func (d *DB) MailStanding(ctx context.Context) (s MailStanding, err error) {
	now := d.now()
	err = d.read(ctx, "read what waits for mail", func(ctx context.Context) error {
		return d.sqlx.GetContext(ctx, &s, `
SELECT count(*) FILTER (WHERE w.why = 'stopped' AND k.outcome IS NULL) AS stopped,
       count(*) FILTER (WHERE w.why = 'fixed') AS fixed,
       count(*) FILTER (WHERE w.why = 'ramp' AND k.outcome IS NULL) AS ramp,
       max(w.slot_at) FILTER (WHERE w.why = 'ramp' AND k.outcome IS NULL) AS ramp_until,
       (SELECT count(*) FROM notices n JOIN cases o USING (case_id) WHERE n.state = 'shadow' AND o.outcome IS NULL) AS shadowed,
       (`+selectUnderWay+`) AS under_way
  FROM mail_waits w JOIN cases k USING (case_id)`, now.Add(-lostAfter))
	})
	return s, err
}

// HoldMail asks whether a step of a case may begin. Where mail is stopped the
// case stands among those that wait for it to be switched on again; first is true
// when it did not before. What may begin may still be stopped a moment later:
// BeginMail, BeginNotice and HandToBackend look themselves.
func (d *DB) HoldMail(ctx context.Context, caseID string) (c MailControl, first bool, err error) {
	now := d.now()
	err = d.write(ctx, "look whether mail goes out", func(ctx context.Context, tx *sqlx.Tx) error {
		if c, err = mailControl(ctx, tx); err != nil {
			return err
		}
		if c.Mode == reauth.MailStopped {
			first, err = waitForMail(ctx, tx, caseID, "stopped", c, now)
			return err
		}
		return exec(ctx, tx, `DELETE FROM mail_waits WHERE case_id = $1 AND (why = 'stopped' OR why = 'ramp' AND $2)`, caseID, !c.Ramped())
	})
	if err != nil {
		return MailControl{}, false, err
	}
	return c, first, nil
}

// waitForMail puts a case among those that wait for mail to be switched on again.
func waitForMail(ctx context.Context, tx *sqlx.Tx, caseID, why string, c MailControl, at time.Time) (first bool, err error) {
	if first, err = changed(ctx, tx, `
INSERT INTO mail_waits (case_id, why, version, since) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, caseID, why, c.Version, at); err != nil || first {
		return first, err
	}
	return false, exec(ctx, tx, `UPDATE mail_waits SET version = $3 WHERE case_id = $1 AND why = $2`, caseID, why, c.Version)
}

// OweFixed remembers that the fixed notes of a closed case are still to be sent.
func (d *DB) OweFixed(ctx context.Context, caseID string) error {
	now := d.now()
	return d.write(ctx, "remember that fixed notes are owed", func(ctx context.Context, tx *sqlx.Tx) error {
		c, err := readMailControl(ctx, tx)
		if err != nil {
			return err
		}
		_, err = waitForMail(ctx, tx, caseID, "fixed", c, now)
		return err
	})
}

// FixedSent says that the fixed notes of a case are owed no more.
func (d *DB) FixedSent(ctx context.Context, caseID string) error {
	return d.write(ctx, "note that fixed notes were sent", func(ctx context.Context, tx *sqlx.Tx) error {
		return exec(ctx, tx, `DELETE FROM mail_waits WHERE case_id = $1 AND why = 'fixed'`, caseID)
	})
}

// MailWait is a case that waits because of the control.
type MailWait struct {
	CaseID       string    `db:"case_id"`
	ConnectionID string    `db:"connection_id"`
	Why          string    `db:"why"`
	Seq          int64     `db:"seq"`
	OpenedAt     time.Time `db:"opened_at"`
}

// MailWaits lists the cases that have waited since before a version of the
// control, in their order, from the one after: open ones that wait for mail or
// for their turn, and closed ones that owe fixed notes.
func (d *DB) MailWaits(ctx context.Context, before, after int64, limit int) (list []MailWait, err error) {
	err = d.read(ctx, "list the cases that wait for mail", func(ctx context.Context) error {
		return d.sqlx.SelectContext(ctx, &list, `
SELECT w.case_id, k.connection_id, w.why, w.seq, k.opened_at FROM mail_waits w JOIN cases k USING (case_id)
 WHERE w.version < $1 AND w.seq > $2 AND (w.why = 'fixed' OR k.outcome IS NULL) ORDER BY w.seq LIMIT $3`, before, after, page(limit))
	})
	return list, err
}

// ReleaseCase lets a case's notices go: no storm and no ramp holds them any more.
// It changes nothing for a case that has ended.
func (d *DB) ReleaseCase(ctx context.Context, caseID string, at time.Time) error {
	return d.updateCase(ctx, "release a case", caseID, `
UPDATE cases SET released_at = coalesce(released_at, $2) WHERE case_id = $1 AND outcome IS NULL`, at)
}
