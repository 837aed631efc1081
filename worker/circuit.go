package worker

import (
	"sync"
	"time"
)

const (
	// circuitFails is how many different events must fail, with none arriving
	// between, before the receiver is called down: a single event that it never
	// takes says nothing of the others.
	circuitFails = 5
	// A receiver that is down is left alone for a tenth of the time that it has
	// been down, within these bounds.
	circuitFirstWait = 5 * time.Second
	circuitMaxWait   = 15 * time.Minute
	// circuitGone is how long after a 410 it is asked again.
	circuitGone = time.Hour
	// circuitAtMost bounds what it may ask for.
	circuitAtMost = 24 * time.Hour
)

// circuit is what a courier knows of the backend. One that is down gets no
// more than one webhook at a time, and that seldom; the first that arrives then
// shows that it is well again.
type circuit struct {
	mu     sync.Mutex
	misses map[string]bool // the events that failed since one arrived
	down   time.Time       // since when it has been down; zero: it is well
	until  time.Time       // until when it is left alone, if it is down
	asked  bool            // a webhook is on its way to find out
}

// takes says how many of so many webhooks may be sent to it now, and whether it
// is one that finds out how it is.
func (c *circuit) takes(now time.Time, room int) (n int, probe bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down.IsZero() {
		return room, false
	}
	if c.asked || now.Before(c.until) || room == 0 {
		return 0, false
	}
	c.asked = true
	return 1, true
}

// notAsked says that the webhook that was to find out did not reach it.
func (c *circuit) notAsked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = false
}

// took says that it took a webhook, and reports whether it was down until then.
func (c *circuit) took(probe bool) (recovered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.misses = nil
	if !probe {
		return false // one that had left before it went down says nothing of now
	}
	c.down, c.until, c.asked = time.Time{}, time.Time{}, false
	return true
}

// failed says that an event did not arrive. It returns when to ask again, if
// that is not for the event alone to say, and whether the receiver is down from
// now on.
func (c *circuit) failed(now time.Time, id string, result result, probe bool, spread func(time.Duration) time.Duration) (until time.Time, fell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pause := result.pause
	if result.gone {
		pause = max(pause, circuitGone)
	}
	if c.misses == nil {
		c.misses = map[string]bool{}
	}
	if c.down.IsZero() {
		c.misses[id] = true
		if fell = pause > 0 || result.slow || len(c.misses) >= circuitFails; !fell {
			return time.Time{}, false
		}
		c.down = now
	} else if !probe && pause == 0 && !result.slow {
		return time.Time{}, false // it had left before
	}
	if probe {
		c.asked = false
	}
	wait := spread(min(max(now.Sub(c.down)/10, circuitFirstWait), circuitMaxWait))
	if next := now.Add(max(wait, pause)); next.After(c.until) {
		c.until = next
	}
	return c.until, fell
}

// downFor is how long it has been down; 0 while it is well.
func (c *circuit) downFor(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down.IsZero() {
		return 0
	}
	return now.Sub(c.down)
}
