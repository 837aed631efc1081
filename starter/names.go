package starter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/finch-reauth/reauth/reauth"
)

// maxNames bounds how many tokens are remembered.
const maxNames = 100_000

// names remembers whose the tokens are that were looked up. A token belongs to
// one connection for good.
type names struct {
	mu sync.RWMutex
	by map[string]string // connection IDs, by fingerprint
}

func (n *names) of(fingerprint string) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.by[fingerprint]
}

func (n *names) learn(fingerprint, connectionID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = map[string]string{}
	}
	for other := range n.by {
		if len(n.by) < maxNames {
			break
		}
		delete(n.by, other) // any: it can be looked up again
	}
	n.by[fingerprint] = connectionID
}

// lookUp finds out whose a report's token is, and remembers it.
func (t *Transport) lookUp(ctx context.Context, in reauth.Input) error {
	t.counters.lookedUp.Add(1)
	id, err := t.Lookup(ctx, in.TokenFingerprint)
	switch {
	case errors.Is(err, ErrNoConnection), err == nil && id == "":
		return fmt.Errorf("%w: %w", ErrRefused, ErrNoConnection)
	case err != nil:
		return fmt.Errorf("look up whose the token is: %w", err)
	}
	if err := reauth.CheckConnectionID(id); err != nil {
		return fmt.Errorf("look up whose the token is: %w: %w", ErrRefused, err)
	}
	t.names.learn(in.TokenFingerprint, id)
	return nil
}
