package starter

import "sync/atomic"

// Stats counts what a Transport has seen and done since its first call.
type Stats struct {
	// Stale counts answers that said that the customer must log in again, Setup
	// those that said that the customer's account must be mended, which no login
	// does.
	Stale, Setup int64
	// ServerErrors counts answers of status 500. Finch sometimes gives one where
	// access is lost, but more often for other reasons: they are counted, never
	// reported.
	ServerErrors int64
	// Nameless counts answers that said so of a connection that nothing names.
	Nameless int64
	// Coalesced counts answers whose report was known or under way.
	Coalesced int64
	// Reported counts reports that were made, and Refused those that proved
	// useless. Failed counts attempts that failed and were repeated, Dropped the
	// reports that were given up: the queue was full, or the Transport closed.
	Reported, Refused, Failed, Dropped int64
	// LookedUp counts the tokens that were looked up.
	LookedUp int64
	// Waiting is how many reports wait to be made, or are being made, now.
	Waiting int64
}

type counters struct {
	stale, setup, serverErrors, nameless, coalesced, reported, refused, failed, dropped, lookedUp atomic.Int64
}

// Stats returns the counters as they are now.
func (t *Transport) Stats() Stats {
	t.mu.Lock()
	waiting := t.waiting
	t.mu.Unlock()
	c := &t.counters
	return Stats{
		Stale: c.stale.Load(), Setup: c.setup.Load(), ServerErrors: c.serverErrors.Load(), Nameless: c.nameless.Load(),
		Coalesced: c.coalesced.Load(), Reported: c.reported.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		Dropped: c.dropped.Load(), LookedUp: c.lookedUp.Load(), Waiting: int64(waiting),
	}
}
