package web

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/time/rate"
)

// Rate is how many requests are answered: so many every Per, and Burst at once.
// The zero Rate is the default, and a negative Count means that there is no limit.
type Rate struct {
	Count int
	Per   time.Duration
	Burst int
}

// NoLimit limits nothing.
func NoLimit() Rate { return Rate{Count: -1} }

// Limits bound what one caller can ask of one process, so that a program gone
// wild, or a stranger, takes nothing away from the others.
type Limits struct {
	// Key is for the calls of one API key.
	Key Rate
	// Address is for what one address asks without a key: pages, mostly. An
	// office behind one address must fit into it.
	Address Rate
	// Webhooks is for the events from one address.
	Webhooks Rate
	// Refused is for the wrong API keys from one address.
	Refused Rate
}

// DefaultLimits are the limits where nothing else is said.
func DefaultLimits() Limits {
	return Limits{
		Key:      Rate{Count: 1000, Per: time.Second, Burst: 20_000},
		Address:  Rate{Count: 100, Per: time.Second, Burst: 2000},
		Webhooks: Rate{Count: 1000, Per: time.Second, Burst: 20_000},
		Refused:  Rate{Count: 30, Per: time.Minute, Burst: 30},
	}
}

func (l *Limits) fill() {
	d := DefaultLimits()
	for _, r := range []struct {
		rate *Rate
		or   Rate
	}{{&l.Key, d.Key}, {&l.Address, d.Address}, {&l.Webhooks, d.Webhooks}, {&l.Refused, d.Refused}} {
		if *r.rate == (Rate{}) {
			*r.rate = r.or
		}
	}
}

func (r Rate) unlimited() bool { return r.Count < 0 }

func (r Rate) String() string {
	switch {
	case r.unlimited():
		return "any number"
	case r.Per == time.Second:
		return strconv.Itoa(r.Count) + " a second"
	case r.Per == time.Minute:
		return strconv.Itoa(r.Count) + " a minute"
	}
	return fmt.Sprintf("%d in %s", r.Count, r.Per)
}

// maxBuckets bounds how many callers are remembered.
const maxBuckets = 20_000

// limiter gives each caller a bucket of its own.
type limiter struct {
	rate Rate

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter(r Rate) *limiter { return &limiter{rate: r, buckets: map[string]*rate.Limiter{}} }

// take takes one from a caller's bucket. Where there is none, it says how long
// the next one takes.
func (l *limiter) take(caller string, now time.Time) (wait time.Duration, ok bool) {
	if l.rate.unlimited() {
		return 0, true
	}
	reservation := l.bucket(caller, now).ReserveN(now, 1)
	if wait = reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return wait, false
	}
	return 0, true
}

// empty tells whether a caller's bucket has nothing left, and takes nothing.
func (l *limiter) empty(caller string, now time.Time) (wait time.Duration, empty bool) {
	if l.rate.unlimited() {
		return 0, false
	}
	l.mu.Lock()
	bucket, known := l.buckets[caller]
	l.mu.Unlock()
	if !known {
		return 0, false
	}
	left := bucket.TokensAt(now)
	if left >= 1 {
		return 0, false
	}
	return time.Duration((1 - left) / float64(bucket.Limit()) * float64(time.Second)), true
}

func (l *limiter) bucket(caller string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bucket, known := l.buckets[caller]; known {
		return bucket
	}
	if len(l.buckets) >= maxBuckets {
		l.forget(now)
	}
	bucket := rate.NewLimiter(rate.Limit(float64(l.rate.Count)/l.rate.Per.Seconds()), max(l.rate.Burst, 1))
	l.buckets[caller] = bucket
	return bucket
}

// forget drops the buckets that are full again, which are as good as new ones;
// and where so many callers are at it that none is, half of them.
func (l *limiter) forget(now time.Time) {
	for caller, bucket := range l.buckets {
		if bucket.TokensAt(now) >= float64(bucket.Burst()) {
			delete(l.buckets, caller)
		}
	}
	for caller := range l.buckets {
		if len(l.buckets) <= maxBuckets/2 {
			return
		}
		delete(l.buckets, caller)
	}
}

// limiters are the limits of a service.
type limiters struct {
	key, address, webhooks, refused *limiter
	good                            goodKeys
}

func newLimiters(l Limits) *limiters {
	return &limiters{
		key: newLimiter(l.Key), address: newLimiter(l.Address), webhooks: newLimiter(l.Webhooks), refused: newLimiter(l.Refused),
	}
}

// goodKeys remembers which keys were right from which address: what others behind
// the same address do wrong is not held against them.
type goodKeys struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

const goodFor = 10 * time.Minute

func (g *goodKeys) note(address string, hash []byte, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil || len(g.seen) >= maxBuckets {
		g.seen = map[string]time.Time{}
	}
	g.seen[address+" "+string(hash)] = now
}

func (g *goodKeys) has(address string, hash []byte, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, known := g.seen[address+" "+string(hash)]
	return known && now.Sub(at) < goodFor
}

// tooMany is a 429 that says when to come back.
func tooMany(wait time.Duration, detail string) error {
	return huma.ErrorWithHeaders(problem(http.StatusTooManyRequests, detail), http.Header{"Retry-After": {seconds(wait)}})
}

// seconds is how long to wait, in whole seconds.
func seconds(wait time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
}

// withinRate bounds what is asked without an API key; where it is too much, it
// answers and returns false. The API counts by key, once it knows it. Connect's
// way back is not held up here: a code lives ten minutes, and callback has
// budgets of its own.
func (s *server) withinRate(w http.ResponseWriter, r *http.Request) bool {
	path, limit := r.URL.Path, s.limits.address
	switch {
	case strings.HasPrefix(path, "/v1/"), strings.HasPrefix(path, "/codec/"), strings.HasPrefix(path, "/assets/"),
		path == "/callback", path == "/metrics", path == "/healthz", path == "/readyz":
		return true
	case strings.HasPrefix(path, "/webhooks/"):
		limit = s.limits.webhooks
	}
	wait, ok := limit.take(infoOf(r.Context()).address, s.Now())
	if ok {
		return true
	}
	w.Header().Set("Retry-After", seconds(wait))
	s.fail(w, r, http.StatusTooManyRequests, "Too many requests came from your network just now. Please try again in a moment.")
	return false
}

// withinRefusals bounds the wrong keys that an address may try. A key that was
// right from there lately is not asked about.
func (s *server) withinRefusals(ctx context.Context, hash []byte) error {
	now, address := s.Now(), infoOf(ctx).address
	wait, empty := s.limits.refused.empty(address, now)
	if !empty || s.limits.good.has(address, hash, now) {
		return nil
	}
	return tooMany(wait, "Too many wrong API keys came from this address, so that none is looked at for a while.")
}
