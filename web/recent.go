package web

import "sync"

// recentAtMost is how many names each half of recent holds.
const recentAtMost = 32 << 10

// recent remembers names that were seen lately: half of its capacity for sure,
// and not much more than all of it. It is empty at first, and safe for
// concurrent use.
type recent struct {
	mu         sync.Mutex
	young, old map[string]struct{}
}

// has reports whether a name is remembered.
func (r *recent) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, young := r.young[name]
	_, old := r.old[name]
	return young || old
}

// add remembers a name.
func (r *recent) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= recentAtMost {
		r.old, r.young = r.young, map[string]struct{}{}
	}
	r.young[name] = struct{}{}
}
