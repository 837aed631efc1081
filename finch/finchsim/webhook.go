package finchsim

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/finch"
)

const (
	deliveryTimeout  = 10 * time.Second
	deliveriesAtOnce = 8
)

// retrySchedule is how long Finch waits after each attempt that failed. Then
// it gives up.
func retrySchedule() []time.Duration {
	return []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour}
}

// event is a webhook that has not been taken yet.
type event struct {
	ID       string          `json:"id"`
	Body     json.RawMessage `json:"body"`
	Attempts int             `json:"attempts"`
	Due      time.Time       `json:"due"` // by the real clock
}

// notify queues the event that says a connection's status, if events are on.
// The caller holds the lock.
func (s *Sim) notify(c *Connection, entityID, status string) {
	if s.cfg.WebhookURL == "" || !s.state.Knobs.Webhooks {
		return
	}
	s.enqueue(c, entityID, finch.EventAccountUpdated, map[string]any{
		"status": status, "authentication_method": c.AuthenticationType,
	})
}

// enqueue queues an event. The caller holds the lock, and commits.
func (s *Sim) enqueue(c *Connection, entityID, eventType string, data map[string]any) (id string) {
	body, _ := json.Marshal(map[string]any{ // always possible: data came from JSON or holds texts
		"company_id": c.CompanyID, "account_id": c.AccountID, "connection_id": c.ID,
		"entity_id": nullable(entityID), "event_type": eventType, "data": data,
	})
	e := &event{ID: "msg_" + uuid.NewString(), Body: body, Due: time.Now().Add(time.Duration(s.state.Knobs.WebhookDelay)).UTC()}
	s.state.Events = append(s.state.Events, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return e.ID
}

// deliver sends events when they are due, until Close.
func (s *Sim) deliver() {
	defer close(s.done)
	client := &http.Client{
		Timeout:       deliveryTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for {
		due, next := s.dueEvents()
		slots := make(chan struct{}, deliveriesAtOnce)
		var sent sync.WaitGroup
		for _, e := range due {
			slots <- struct{}{}
			sent.Go(func() {
				defer func() { <-slots }()
				s.settle(e.ID, s.send(client, e))
			})
		}
		sent.Wait()
		if len(due) > 0 {
			if s.ctx.Err() != nil {
				return
			}
			continue
		}
		timer := time.NewTimer(next)
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.ctx.Done():
		}
		timer.Stop()
		if s.ctx.Err() != nil {
			return
		}
	}
}

// dueEvents returns copies of the events to send now, and how long it takes
// until there is another.
func (s *Sim) dueEvents() (due []event, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = time.Hour
	for _, e := range s.state.Events {
		if wait := time.Until(e.Due); wait > 0 {
			next = min(next, wait)
		} else if s.cfg.WebhookURL != "" {
			due = append(due, *e)
		}
	}
	return due, next
}

// send makes one attempt and reports whether the event was taken. It is signed
// by the configured clock, which is the receiver's: the time that was added to
// the simulator's own does not count.
func (s *Sim) send(client *http.Client, e event) bool {
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.cfg.WebhookURL, bytes.NewReader(e.Body))
	if err != nil {
		return false
	}
	r.Header = finch.SignWebhook(s.cfg.WebhookSecret, e.ID, s.cfg.Now(), e.Body)
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode >= 200 && resp.StatusCode <= 299
}

func (s *Sim) settle(id string, taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.state.Events, func(e *event) bool { return e.ID == id })
	if i < 0 || (!taken && s.ctx.Err() != nil) {
		return // an attempt that Close cut short does not count
	}
	e := s.state.Events[i]
	e.Attempts++
	s.state.Counters.WebhookAttempts++
	waits := retrySchedule()
	switch {
	case taken:
		s.state.Counters.WebhooksDelivered++
		s.state.Events = slices.Delete(s.state.Events, i, i+1)
	case e.Attempts > len(waits):
		s.cfg.Logger.Warn("simulated finch gives up a webhook that nobody took", "event_id", e.ID, "attempts", e.Attempts)
		s.state.Events = slices.Delete(s.state.Events, i, i+1)
	default:
		e.Due = time.Now().Add(waits[e.Attempts-1]).UTC()
	}
	s.dirty = true
	if err := s.commit(); err != nil {
		s.cfg.Logger.Error("simulated finch failed", "error", err)
	}
}
