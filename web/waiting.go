package web

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/db"
)

// awaitEvery is how often the database is asked for the tokens that are waited
// for: once for all who wait, in one statement.
const awaitEvery = 500 * time.Millisecond

// waits wakes those who wait for a connection's next token. One goroutine looks
// for all of them, as long as there are any.
type waits struct {
	mu      sync.Mutex
	waiting map[*wait]struct{}
	looking bool
}

type wait struct {
	db.Waiter
	news chan struct{}
}

// look returns the connections that have what is waited for.
type look func(context.Context, []db.Waiter) (connectionIDs []string, err error)

// await returns when a connection has a token of a generation after the
// waiter's, when the connection was removed, or when ctx is done. It says
// nothing but that it may be worth while to look.
func (w *waits) await(ctx context.Context, waiter db.Waiter, look look, logger *slog.Logger) {
	one := &wait{Waiter: waiter, news: make(chan struct{})}
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = map[*wait]struct{}{}
	}
	w.waiting[one] = struct{}{}
	if !w.looking {
		w.looking = true
		go w.run(look, logger)
	}
	w.mu.Unlock()
	select {
	case <-one.news:
	case <-ctx.Done():
		w.mu.Lock()
		delete(w.waiting, one)
		w.mu.Unlock()
	}
}

// run looks until nobody waits any more. While the database is down it goes on:
// whoever waits learns of that when the time is over.
func (w *waits) run(look look, logger *slog.Logger) {
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	failing := false
	for range tick.C {
		waiters := w.all()
		if waiters == nil {
			return
		}
		have, err := look(context.Background(), waiters)
		if err != nil && !failing {
			logger.Warn("awaited tokens cannot be looked for; it is tried again", "waiting", len(waiters), "error", err.Error())
		}
		failing = err != nil
		w.wake(have)
	}
}

// all lists those who wait. When there are none, looking has ended.
func (w *waits) all() (waiters []db.Waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.waiting {
		waiters = append(waiters, one.Waiter)
	}
	w.looking = waiters != nil
	return waiters
}

func (w *waits) wake(connectionIDs []string) {
	if len(connectionIDs) == 0 {
		return
	}
	have := make(map[string]bool, len(connectionIDs))
	for _, id := range connectionIDs {
		have[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.waiting {
		if have[one.ConnectionID] {
			delete(w.waiting, one)
			close(one.news)
		}
	}
}
