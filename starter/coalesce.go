package starter

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// coalescer makes one report of any number of failures of a connection. It is
// split into shards, so that a backend whose thousand goroutines all fail at
// once does not queue on one lock.
type coalescer struct {
	interval time.Duration
	seed     maphash.Seed
	shards   [64]shard
}

type shard struct {
	mu      sync.Mutex
	reports map[string]*report // by connection
	swept   time.Time
}

// report is what a shard knows of a connection. Its shard's lock guards
// everything but the connection's ID.
type report struct {
	connectionID string

	in      reauth.Input
	pending bool      // not made yet
	until   time.Time // further failures are known till then
}

func (c *coalescer) init(interval time.Duration) {
	c.interval = interval
	c.seed = maphash.MakeSeed()
}

func (c *coalescer) shard(connectionID string) *shard {
	return &c.shards[maphash.String(c.seed, connectionID)%uint64(len(c.shards))]
}

// noticed takes note of a failure. It returns the report to make, or nil if
// one is under way or was made within the interval.
func (c *coalescer) noticed(in reauth.Input, now time.Time) *report {
	s := c.shard(in.ConnectionID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.reports[in.ConnectionID]; known != nil {
		if known.pending {
			known.in = in // the newest evidence counts
			return nil
		}
		if now.Before(known.until) {
			return nil
		}
	}
	s.sweep(now, c.interval)
	r := &report{connectionID: in.ConnectionID, in: in, pending: true}
	if s.reports == nil {
		s.reports = make(map[string]*report)
	}
	s.reports[in.ConnectionID] = r
	return r
}

// sweep forgets the reports whose interval is over, once per interval.
func (s *shard) sweep(now time.Time, interval time.Duration) {
	if now.Sub(s.swept) < interval {
		return
	}
	s.swept = now
	for id, r := range s.reports {
		if !r.pending && !now.Before(r.until) {
			delete(s.reports, id)
		}
	}
}

// newest returns the report with the newest evidence.
func (c *coalescer) newest(r *report) reauth.Input {
	s := c.shard(r.connectionID)
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.in
}

// made begins the interval after a report.
func (c *coalescer) made(r *report, now time.Time) {
	s := c.shard(r.connectionID)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.pending = false
	r.until = now.Add(c.interval)
}

// dropped forgets a report that could not be made, so that the connection's next
// failure tries again.
func (c *coalescer) dropped(r *report) {
	s := c.shard(r.connectionID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports[r.connectionID] == r {
		delete(s.reports, r.connectionID)
	}
}
