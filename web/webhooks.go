package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// maxEvent bounds an event; Finch's have some hundred bytes.
	maxEvent = 256 << 10
	// storeTimeout bounds the storing of an event: Finch waits for the answer,
	// and comes again if it gets none.
	storeTimeout = 3 * time.Second
)

// webhookAnswer says whether an event was stored now, or had been before.
type webhookAnswer struct {
	Result string `json:"result"` // stored or repeated
}

// finchWebhook takes Finch's events. An event is stored before it is answered;
// the clerk acts on it later. Whoever cannot sign costs no database work.
func (s *server) finchWebhook(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if !s.takesWebhooks() {
		writeProblem(w, problem(http.StatusNotFound, "No Finch webhook secret is configured: set FINCH_WEBHOOK_SECRET."))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	switch {
	case tooLarge(err):
		s.metrics.webhook(ctx, "finch", "too_large")
		writeProblem(w, problem(http.StatusRequestEntityTooLarge, "The event is larger than 256 KiB."))
		return
	case err != nil:
		writeProblem(w, problem(http.StatusBadRequest, "The event could not be read to its end."))
		return
	}
	eventID, signers, err := s.signers(r.Header, body, s.Now())
	if err != nil {
		writeProblem(w, s.unverified(ctx, err))
		return
	}
	if s.stored.has(eventID) { // a flood of one event asks the database once
		s.metrics.webhook(ctx, "finch", "repeated")
		writeJSON(w, http.StatusOK, webhookAnswer{Result: "repeated"})
		return
	}
	event := finchEvent(eventID, body, s.Job != nil)
	event.ReceivedAt, event.Applications = s.Now(), signers
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	fresh, err := s.DB.StoreWebhook(bounded, event, body)
	if err != nil {
		s.metrics.webhook(ctx, "finch", "failed")
		writeProblem(w, s.databaseDown(ctx, "storing a webhook", err))
		return
	}
	s.stored.add(eventID)
	switch {
	case !fresh:
		s.metrics.webhook(ctx, "finch", "repeated")
		writeJSON(w, http.StatusOK, webhookAnswer{Result: "repeated"})
	default:
		if event.State == db.WebhookIgnored {
			s.metrics.webhook(ctx, "finch", "ignored")
		} else {
			s.metrics.webhook(ctx, "finch", "stored")
		}
		if event.Result == ignoredMalformed {
			s.Logger.LogAttrs(ctx, slog.LevelWarn, "Finch signed an event that cannot be understood; it is kept",
				slog.String("event_id", event.EventID), slog.String("request_id", infoOf(ctx).id))
		}
		writeJSON(w, http.StatusOK, webhookAnswer{Result: "stored"})
	}
}

// unverified is the problem of an event that is not believed. The log hears of
// it once a minute: anybody can send such a thing as often as they like.
func (s *server) unverified(ctx context.Context, err error) error {
	result := "unverified"
	if errors.Is(err, finch.ErrWebhookLate) {
		result = "late"
	}
	s.metrics.webhook(ctx, "finch", result)
	if errors.Is(err, finch.ErrWebhookSecret) {
		s.complain(ctx, "no usable Finch webhook secret", "verifying a webhook", err)
		return problem(http.StatusInternalServerError, internalDetail)
	}
	if say, unsaid := s.seldom.say(result, s.Now()); say {
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "a webhook was refused", slog.String("error", err.Error()),
			slog.Int("others_since_the_last_line", unsaid), slog.String("request_id", infoOf(ctx).id))
	}
	if result == "late" {
		return problem(http.StatusUnauthorized, "Finch-Timestamp is more than five minutes from now, so the event could be an old one that somebody repeats. Its signature does verify.")
	}
	return problem(http.StatusUnauthorized, "The signature of the event does not verify: Finch-Event-Id, Finch-Timestamp (at most five minutes old) and Finch-Signature must fit the body and our secret.")
}

// seldom lets each kind of thing happen once a minute: a line in the log, a note
// of a key's use.
type seldom struct {
	mu     sync.Mutex
	said   map[string]time.Time
	unsaid map[string]int
}

// say tells whether it may happen now, and how often it did not since it last did.
func (l *seldom) say(kind string, now time.Time) (say bool, unsaid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said == nil {
		l.said, l.unsaid = map[string]time.Time{}, map[string]int{}
	}
	if last, said := l.said[kind]; said && now.Before(last.Add(time.Minute)) {
		l.unsaid[kind]++
		return false, 0
	}
	unsaid = l.unsaid[kind]
	l.said[kind], l.unsaid[kind] = now, 0
	return true, unsaid
}

// Why an event is ignored as soon as it arrives.
const (
	ignoredMalformed    = "malformed"     // it is no JSON, or has IDs that are none
	ignoredType         = "type"          // nothing is known of events of this type
	ignoredStatus       = "status"        // nothing is to be done about this status
	ignoredNoConnection = "no_connection" // it names no connection
	ignoredJobs         = "jobs_off"      // nobody can be asked about jobs
)

// meaning is what an event says of its connection.
type meaning string

const (
	meansNothing      meaning = ""
	meansReauth       meaning = "reauth"       // the customer must log in again
	meansSetup        meaning = "setup"        // the customer must mend their account
	meansConnected    meaning = "connected"    // access is back
	meansDisconnected meaning = "disconnected" // it was deleted
	meansJob          meaning = "job"          // a job is over, and knows more
)

func meaningOf(e finch.Event) meaning {
	switch {
	case e.NeedsReauth():
		return meansReauth
	case e.IsJob() && strings.HasSuffix(e.Type, ".completed"): // however it ended
		return meansJob
	case e.Type != finch.EventAccountUpdated:
		return meansNothing
	}
	switch e.Status {
	case finch.StatusConnected:
		return meansConnected
	case finch.StatusDisconnected:
		return meansDisconnected
	case finch.StatusErrorPermissions, finch.StatusErrorNoAccountSetup:
		return meansSetup
	}
	return meansNothing
}

// finchEvent is what is stored of an event: what is acted upon, or all of it
// where that is nothing.
func finchEvent(eventID string, body []byte, jobs bool) db.Webhook {
	w := db.Webhook{Provider: reauth.Finch, EventID: eventKey(eventID), State: db.WebhookIgnored, Body: string(body)}
	e, err := finch.ParseEvent(body)
	if err != nil {
		w.Result = ignoredMalformed
		return w
	}
	w.Type, w.Status = word(e.Type), word(e.Status)
	odd := false
	keep := func(field *string, value string, valid bool) {
		if valid {
			*field = value
		} else if value != "" {
			odd = true
		}
	}
	keep(&w.ConnectionID, e.ConnectionID, reauth.CheckConnectionID(e.ConnectionID) == nil)
	keep(&w.EntityID, e.EntityID, word(e.EntityID) != "")
	keep(&w.JobID, e.JobID, word(e.JobID) != "")
	means := meaningOf(e)
	switch {
	case odd || means == meansJob && w.JobID == "":
		w.Result = ignoredMalformed
	case means == meansNothing && e.Type == finch.EventAccountUpdated:
		w.Result = ignoredStatus
	case means == meansNothing:
		w.Result = ignoredType
	case w.ConnectionID == "":
		w.Result = ignoredNoConnection
	case means == meansJob && !jobs:
		w.Result = ignoredJobs
	default:
		w.State, w.Body = db.WebhookWaiting, ""
	}
	return w
}

var wordPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// word is a text if it looks like an identifier, and otherwise empty.
func word(text string) string {
	if wordPattern.MatchString(text) {
		return text
	}
	return ""
}

// eventKey is under what an event is remembered: its ID, or the hash of an ID
// that is unlike one.
func eventKey(id string) string {
	if word(id) != "" {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *server) attoWebhook(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, problem(http.StatusNotFound, "no Atto application is configured"))
}
