package web

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// readyTimeout bounds each check, so that a probe is answered whatever hangs.
const readyTimeout = 3 * time.Second

// Health is the answer of /healthz and /readyz.
type Health struct {
	Status string            `json:"status"`          // "ok" or "unavailable"
	Parts  map[string]string `json:"parts,omitempty"` // by part, "ok" or "down"
	// Mail says whether mail goes out: on, shadow or stopped. Stopped mail is no
	// reason not to be ready.
	Mail string `json:"mail,omitempty"`
}

// healthz tells that the process is up, and nothing more: restarting it would
// mend no database.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, Health{Status: "ok"})
}

// readyz tells whether the service can do its work, and which part is down.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	checks := map[string]func(context.Context) error{"database": s.DB.Ping, "temporal": s.TemporalHealth}
	health := Health{Status: "ok", Parts: make(map[string]string, len(checks))}
	var mu sync.Mutex
	var all sync.WaitGroup
	for part, check := range checks {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
			defer cancel()
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			health.Parts[part] = "ok"
			if err != nil {
				health.Status, health.Parts[part] = "unavailable", "down"
				s.Logger.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.String("part", part), slog.String("error", err.Error()))
			}
		})
	}
	all.Go(func() {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if mail, err := s.DB.Mail(ctx); err == nil { // that the database is down is said already
			mu.Lock()
			defer mu.Unlock()
			health.Mail = string(mail.Mode)
		}
	})
	all.Wait()
	status := http.StatusOK
	if health.Status != "ok" {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "5")
	}
	writeJSON(w, status, health)
}
