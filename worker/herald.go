package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	heraldEvery = 2 * time.Second
	heraldBatch = 10
	// heraldLease outlives a batch whose every post takes all the time that it
	// may: four calls of 15 seconds each.
	heraldLease = 2 * heraldBatch * 4 * 15 * time.Second
	// heraldDoubts is how long a message waits of which nobody knows whether
	// the chat took it: what it says then will be newer.
	heraldDoubts  = 15 * time.Minute
	heraldMaxWait = time.Hour
	// heraldLines is how much of the timeline a message shows.
	heraldLines = 5
)

// herald tells the operators' chat how the cases stand: one message for each,
// brought up to date in place. It always tells how a case stands now, so that
// nothing piles up while the chat is down.
type herald struct {
	cases  caseBook
	chat   chat.Poster
	links  func(c db.Case) []chat.Link
	logger *slog.Logger
	now    func() time.Time
	// quietUntil is when the chat may be bothered again.
	quietUntil time.Time
}

// caseBook is what the herald needs of the database.
type caseBook interface {
	ClaimChats(ctx context.Context, limit int, lease time.Duration) ([]db.Chat, error)
	ChatTold(ctx context.Context, caseID, ref string, events int64) error
	ChatFailed(ctx context.Context, caseID, ref string, next time.Time, reason string) error
	CaseByID(ctx context.Context, caseID string) (db.Case, error)
	Connection(ctx context.Context, connectionID string) (reauth.Connection, error)
	Timeline(ctx context.Context, caseID string) ([]db.Event, error)
}

func (h *herald) run(ctx context.Context) {
	tick := time.NewTicker(heraldEvery)
	defer tick.Stop()
	for {
		for h.round(ctx) == heraldBatch {
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round brings one batch of messages up to date and returns its size.
func (h *herald) round(ctx context.Context) int {
	if h.now().Before(h.quietUntil) {
		return 0
	}
	due, err := h.cases.ClaimChats(ctx, heraldBatch, heraldLease)
	if err != nil {
		if ctx.Err() == nil {
			h.logger.WarnContext(ctx, "The cases for the chat could not be read", "error", err)
		}
		return 0
	}
	for _, one := range due {
		if h.now().Before(h.quietUntil) || ctx.Err() != nil {
			h.record(ctx, h.cases.ChatFailed(context.WithoutCancel(ctx), one.CaseID, one.Ref, h.quietUntil, "the chat asked to wait"))
			continue
		}
		h.tell(ctx, one)
	}
	return len(due)
}

// tell brings one case's message up to date.
func (h *herald) tell(ctx context.Context, one db.Chat) {
	message, err := h.message(ctx, one.CaseID)
	if err != nil {
		h.record(ctx, h.cases.ChatFailed(context.WithoutCancel(ctx), one.CaseID, one.Ref, h.now().Add(time.Minute), "its case could not be read"))
		return
	}
	ref, delivery, err := h.chat.Post(ctx, message, one.Ref)
	record := context.WithoutCancel(ctx) // what became of it, even if we are stopped meanwhile
	now := h.now()
	switch delivery {
	case chat.Sent:
		h.record(ctx, h.cases.ChatTold(record, one.CaseID, ref, one.Events))
		return
	case chat.Unknown:
		h.record(ctx, h.cases.ChatFailed(record, one.CaseID, ref, now.Add(heraldDoubts), err.Error()))
		return
	case chat.Refused:
		h.quietUntil = now.Add(heraldMaxWait) // it refuses every case alike
		h.logger.ErrorContext(ctx, "The chat refuses our messages; an operator must mend it", "error", err)
	default:
		if wait := chat.RetryAfter(err); wait > 0 {
			h.quietUntil = now.Add(wait)
		}
	}
	wait := 5 * time.Second
	for range min(one.Attempts, 12) {
		wait = min(wait*2, heraldMaxWait)
	}
	h.record(ctx, h.cases.ChatFailed(record, one.CaseID, ref, now.Add(wait), err.Error()))
}

func (h *herald) record(ctx context.Context, err error) {
	if err != nil {
		h.logger.WarnContext(ctx, "What became of a chat message could not be recorded; it will be posted again", "error", err)
	}
}

// message says how a case stands.
func (h *herald) message(ctx context.Context, caseID string) (chat.Message, error) {
	c, err := h.cases.CaseByID(ctx, caseID)
	if err != nil {
		return chat.Message{}, err
	}
	connection, err := h.cases.Connection(ctx, c.ConnectionID)
	if err != nil {
		return chat.Message{}, err
	}
	timeline, err := h.cases.Timeline(ctx, caseID)
	if err != nil {
		return chat.Message{}, err
	}
	state, words := standing(c)
	m := chat.Message{
		Key: caseID, Title: nameOf(connection) + ": " + words, State: state,
		Facts: []chat.Fact{
			{Label: "Connection", Value: c.ConnectionID},
			{Label: "Open since", Value: stamp(&c.OpenedAt)},
			{Label: "Notices sent", Value: fmt.Sprint(c.NoticesSent)},
			{Label: "Next notice", Value: stamp(c.NextNoticeAt)},
			{Label: "Deadline", Value: stamp(c.DeadlineAt)},
			{Label: "Closed", Value: stamp(c.ClosedAt)},
		},
	}
	if m.Problem = problemOf(c, timeline); m.Problem != "" {
		m.State = chat.NeedsOperator
	}
	for _, event := range timeline[max(0, len(timeline)-heraldLines):] {
		line := event.At.UTC().Format("2 Jan 15:04") + " " + strings.ReplaceAll(event.Kind, "_", " ")
		if event.Detail != "" {
			line += ": " + event.Detail
		}
		m.Lines = append(m.Lines, line)
	}
	if h.links != nil {
		m.Links = h.links(c)
	}
	return m, nil
}

// problemOf is what only an operator can mend in an open case, as far as the
// case has not gone on since.
func problemOf(c db.Case, timeline []db.Event) string {
	if !c.Open() {
		return ""
	}
	if c.Phase == reauth.PhaseBlocked {
		return c.LastError
	}
	for _, event := range slices.Backward(timeline) {
		switch event.Kind {
		case db.EventOperatorNeeded:
			return event.Detail
		case db.EventNotice + string(db.NoticeSent), "session_renewed":
			return ""
		}
	}
	return ""
}

// nameOf is what operators call a connection.
func nameOf(c reauth.Connection) string {
	name := c.CustomerName
	if name == "" {
		name = c.ConnectionID
	}
	if c.System != "" {
		name += " · " + c.System
	}
	return name
}

// standing says in a few words where a case stands.
func standing(c db.Case) (chat.State, string) {
	switch c.Outcome {
	case reauth.OutcomeRecovered:
		return chat.Resolved, "the customer logged in again"
	case reauth.OutcomeHealed:
		return chat.Resolved, "access came back by itself"
	case reauth.OutcomeFalseAlarm:
		return chat.Resolved, "a false alarm"
	case reauth.OutcomeExpired:
		return chat.Ended, "nobody logged in before the deadline"
	case reauth.OutcomeCancelled:
		return chat.Ended, "cancelled"
	case reauth.OutcomeFailed:
		return chat.Ended, "failed (" + strings.ReplaceAll(c.CloseReason, "_", " ") + ")"
	}
	switch c.Phase {
	case reauth.PhaseBlocked:
		return chat.NeedsOperator, "blocked until an operator helps"
	case reauth.PhaseRedeeming, reauth.PhaseVerifying:
		return chat.Open, "the customer is back, checking the new token"
	case reauth.PhaseConfirming:
		return chat.Open, "asking the provider whether access is lost"
	}
	return chat.Open, "waiting for the customer"
}

func stamp(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}

// chatLinks leads operators from the chat to the case in Temporal's web UI.
func chatLinks(temporalUI, namespace string) func(db.Case) []chat.Link {
	if temporalUI == "" {
		return nil
	}
	return func(c db.Case) []chat.Link {
		return []chat.Link{{Name: "Open in Temporal", URL: strings.TrimSuffix(temporalUI, "/") + "/namespaces/" + url.PathEscape(namespace) +
			"/workflows/" + url.PathEscape(reauth.WorkflowID(c.ConnectionID))}}
	}
}

// newHerald makes a herald for the chat that a setting names.
func newHerald(cases caseBook, setting string, guard outbound.Guard, links func(db.Case) []chat.Link, logger *slog.Logger, now func() time.Time) (*herald, error) {
	poster, err := chat.New(setting, guard)
	if err != nil {
		return nil, errors.New("the operators' chat: " + err.Error())
	}
	return &herald{cases: cases, chat: poster, links: links, logger: logger, now: now}, nil
}
