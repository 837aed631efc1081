package starter

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// coalescer makes one report of any number of failures of a connection: one
// that the customer must log in again, and one that the account must be mended,
// so that the second does not hide the first. It is
// split into shards, so that a backend whose thousand goroutines all fail at
// once does not queue on one lock.
type coalescer struct {
	interval time.Duration
	seed     maphash.Seed
	shards   [64]shard
}

type shard struct {
	mu      sync.Mutex
	reports map[string]*report // by keyOf
	swept   time.Time
}

// report is what a shard knows of a connection. Its shard's lock guards
// everything but its key.
type report struct {
	key string

	in      reauth.Input
	pending bool      // not made yet
	until   time.Time // further failures are known till then
}

func (c *coalescer) init(interval time.Duration) {
	c.interval = interval
	c.seed = maphash.MakeSeed()
}

func (c *coalescer) shard(key string) *shard {
	return &c.shards[maphash.String(c.seed, key)%uint64(len(c.shards))]
}

// keyOf names what is reported once: the connection, or the token whose
// connection is not known, and whether the account must be mended.
func keyOf(in reauth.Input) string {
	key := in.ConnectionID
	if key == "" {
		key = "?" + in.TokenFingerprint
	}
	if reauth.IsSetupCode(in.FinchCode) {
		key = "!" + key
	}
	return key
}

// noticed takes note of a failure. It returns the report to make, or nil if
// one is under way or was made within the interval.
func (c *coalescer) noticed(in reauth.Input, now time.Time) *report {
	key := keyOf(in)
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.reports[key]; known != nil {
		if known.pending {
			known.in = in // the newest evidence counts
			return nil
		}
		if now.Before(known.until) {
			return nil
		}
	}
	s.sweep(now, c.interval)
	r := &report{key: key, in: in, pending: true}
	if s.reports == nil {
		s.reports = make(map[string]*report)
	}
	s.reports[key] = r
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
	s := c.shard(r.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.in
}

// made begins the interval after a report.
func (c *coalescer) made(r *report, now time.Time) {
	s := c.shard(r.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.pending = false
	r.until = now.Add(c.interval)
}

// dropped forgets a report that could not be made, so that the connection's next
// failure tries again.
func (c *coalescer) dropped(r *report) {
	s := c.shard(r.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports[r.key] == r {
		delete(s.reports, r.key)
	}
}
