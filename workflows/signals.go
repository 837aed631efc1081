package workflows

import (
	"time"
	"unicode/utf8"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// faultsRecorded bounds how many faulty signals a case puts on record, so that
// a client gone wild cannot fill its history.
const faultsRecorded = 20

// signals is what signals have asked of the case.
type signals struct {
	channels  []workflow.ReceiveChannel
	restored  bool // the provider says that access is back
	told      bool // and that is what the next look is about
	cancel    *reauth.Cancel
	remindNow bool
	remindBy  string // who asked for it, if they said
	// contactsChanged: others can be written to than before
	contactsChanged bool
	snoozed         time.Time
	faults          int
	recording       int // timeline lines under way
	telling         int // mails to the operator under way
	unopened        bool
}

// listen takes signals from now on, also while the story waits for an
// activity. It returns the context to go on with: one that a cancellation of
// the workflow does not reach, since that is taken as the signal cancel.
func (c *reauthCase) listen(ctx workflow.Context) workflow.Context {
	for _, name := range []string{
		reauth.SignalCodeReceived, reauth.SignalTokenMinted, reauth.SignalConnectionRestored,
		reauth.SignalCancel, reauth.SignalSnooze, reauth.SignalRemindNow,
		reauth.SignalStopNotices, reauth.SignalContactsChanged, reauth.SignalNoticesReleased,
	} {
		c.channels = append(c.channels, workflow.GetSignalChannel(ctx, name))
	}
	outer := ctx
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	c.receive(ctx)
	workflow.GoNamed(ctx, "signals", func(ctx workflow.Context) {
		for {
			if workflow.Await(ctx, c.signalled) != nil {
				return
			}
			c.receive(ctx)
		}
	})
	workflow.GoNamed(ctx, "cancellation", func(ctx workflow.Context) {
		if workflow.Await(ctx, func() bool { return outer.Err() != nil }) == nil && c.cancel == nil {
			c.cancel = &reauth.Cancel{Reason: "cancelled through Temporal"}
		}
	})
	workflow.GoNamed(ctx, "exchange", c.exchangeCodes)
	return ctx
}

// signalled reports whether a signal waits to be received.
func (c *reauthCase) signalled() bool {
	for _, channel := range c.channels {
		if channel.Len() > 0 {
			return true
		}
	}
	return false
}

// receive takes every signal that has arrived.
func (c *reauthCase) receive(ctx workflow.Context) {
	for _, channel := range c.channels {
		for channel.Len() > 0 {
			c.receiveOne(ctx, channel)
		}
	}
}

func (c *reauthCase) receiveOne(ctx workflow.Context, channel workflow.ReceiveChannel) {
	switch channel.Name() {
	case reauth.SignalCodeReceived:
		if m, ok := message[reauth.CodeReceived](channel); ok {
			c.takeCode(ctx, m)
		}
	case reauth.SignalTokenMinted:
		if m, ok := message[reauth.TokenMinted](channel); ok {
			c.takeToken(ctx, m)
		}
	case reauth.SignalConnectionRestored:
		channel.ReceiveAsync(nil)
		c.restored = true
	case reauth.SignalCancel:
		if m, ok := message[reauth.Cancel](channel); ok && c.cancel == nil {
			m.Reason, m.By = clip(m.Reason, 200), clip(m.By, 100)
			c.cancel = &m
		}
	case reauth.SignalSnooze:
		if m, ok := message[reauth.Snooze](channel); ok {
			c.snooze(ctx, m)
		}
	case reauth.SignalRemindNow:
		c.remindNow, c.remindBy = true, askedBy(channel)
	case reauth.SignalStopNotices:
		if m, ok := message[reauth.StopNotices](channel); ok {
			c.stopNotices(ctx, m)
		}
	case reauth.SignalContactsChanged:
		channel.ReceiveAsync(nil)
		c.contactsChanged = true
	case reauth.SignalNoticesReleased:
		if m, ok := message[reauth.NoticesReleased](channel); ok {
			c.release(ctx, m)
		}
	}
}

// message receives a signal's message. A payload that cannot be decoded is
// dropped, logged and counted by the SDK.
func message[T any](channel workflow.ReceiveChannel) (m T, ok bool) {
	ok = channel.ReceiveAsync(&m)
	return m, ok
}

// askedBy receives a signal that may come without a message, or with any, and
// returns who the message says has sent it.
func askedBy(channel workflow.ReceiveChannel) string {
	var raw converter.RawValue
	var m reauth.RemindNow
	if channel.ReceiveAsync(&raw) && raw.Payload() != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(raw.Payload(), &m) // it need not say
	}
	return m.By
}

// byWhom names who asked for something, where that is known.
func byWhom(words, by string) string {
	if by == "" {
		return ""
	}
	return words + clip(by, 100)
}

func (c *reauthCase) takeCode(ctx workflow.Context, m reauth.CodeReceived) {
	if err := m.Check(); err != nil {
		c.fault(ctx, reauth.SignalCodeReceived, err.Error())
		return
	}
	hash := reauth.CodeHash(m.Code)
	if c.knownCodes[hash] {
		return // a repeat changes nothing
	}
	know(&c.knownCodes, hash)
	c.codes = append(c.codes, activities.RedeemInput{
		Case: &c.ref, Code: m.Code, RedirectURI: m.RedirectURI, Embedded: m.Embedded, ReceivedAt: workflow.Now(ctx),
	})
}

func (c *reauthCase) takeToken(ctx workflow.Context, m reauth.TokenMinted) {
	switch {
	case m.ConnectionID != c.ref.ConnectionID:
		c.fault(ctx, reauth.SignalTokenMinted, "its connection_id is not this case's")
	case len(m.Sealed) == 0 || !reauth.IsHash(m.CodeHash) || !reauth.IsHash(m.Fingerprint):
		c.fault(ctx, reauth.SignalTokenMinted, "it needs connection_id, code_hash, fingerprint and sealed")
	default:
		know(&c.knownCodes, m.CodeHash)
		c.hold(ctx, m)
	}
}

func (c *reauthCase) snooze(ctx workflow.Context, m reauth.Snooze) {
	until, why := m.Until, "."
	if m.Reason != "" {
		why = ": " + clip(m.Reason, 200)
	}
	if until.IsZero() {
		c.fault(ctx, reauth.SignalSnooze, `until must be a time, as "2026-12-24T08:00:00Z"`)
		return
	}
	c.snoozed = until.UTC()
	c.status.SnoozedUntil = nil
	if until.After(workflow.Now(ctx)) {
		c.status.SnoozedUntil = &c.snoozed
	}
	c.record(ctx, "snoozed", "Notices are held until "+stamp(c.snoozed)+byWhom(", asked for by ", m.By)+why)
	c.show(ctx)
}

// fault puts a wrong signal on record. Its content is never repeated.
func (c *reauthCase) fault(ctx workflow.Context, signal, problem string) {
	c.faults++
	c.trouble("A signal " + signal + " was ignored: " + problem + ".")
	if c.faults <= faultsRecorded {
		c.record(ctx, "signal_ignored", c.status.LastError)
	}
}

// remaining bounds a moment by now, for timeouts that must be positive.
func remaining(ctx workflow.Context, until time.Time, least time.Duration) time.Duration {
	return max(until.Sub(workflow.Now(ctx)), least)
}

// clip cuts a text to at most n bytes, between two characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
