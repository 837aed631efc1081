package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// finchWebhook takes Finch's events. An event is remembered after it was acted
// upon, so that one that failed half-way is acted upon when Finch repeats it.
func (s *server) finchWebhook(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if !s.takesWebhooks() {
		writeProblem(w, problem(http.StatusNotFound, "No Finch webhook secret is configured: set FINCH_WEBHOOK_SECRET."))
		return
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case tooLarge(err):
		writeProblem(w, problem(http.StatusRequestEntityTooLarge, "The event is larger than 1 MiB."))
		return
	case err != nil:
		writeProblem(w, problem(http.StatusBadRequest, "The event could not be read to its end."))
		return
	}
	eventID, signers, err := s.signers(r.Header, body, s.Now())
	if err != nil {
		s.metrics.webhook(ctx, "finch", "unverified")
		if errors.Is(err, finch.ErrWebhookSecret) {
			s.complain(ctx, "no usable Finch webhook secret", "verifying a webhook", err)
			writeProblem(w, problem(http.StatusInternalServerError, internalDetail))
			return
		}
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "a webhook was refused", slog.String("error", err.Error()), slog.String("request_id", infoOf(ctx).id))
		writeProblem(w, problem(http.StatusUnauthorized, "The signature of the event does not verify: Finch-Event-Id, Finch-Timestamp (at most five minutes old) and Finch-Signature must fit the body and our secret."))
		return
	}
	if seen, err := s.DB.WebhookSeen(ctx, string(reauth.Finch), eventID); err != nil {
		writeProblem(w, s.databaseDown(ctx, "looking a webhook up", err))
		return
	} else if seen {
		s.metrics.webhook(ctx, "finch", "repeated")
		writeJSON(w, http.StatusOK, webhookAnswer{Result: "repeated"})
		return
	}
	event, err := finch.ParseEvent(body)
	if err != nil {
		s.metrics.webhook(ctx, "finch", "malformed")
		writeProblem(w, problem(http.StatusUnprocessableEntity, "The event must be a JSON object with an event_type."))
		return
	}
	result, err := s.obey(ctx, event, signers)
	if err != nil {
		s.metrics.webhook(ctx, "finch", "failed")
		writeProblem(w, err)
		return
	}
	if _, err := s.DB.RememberWebhook(ctx, string(reauth.Finch), eventID, body); err != nil {
		// Repeating the event does no harm, so Finch is asked to.
		writeProblem(w, s.databaseDown(ctx, "remembering a webhook", err))
		return
	}
	s.metrics.webhook(ctx, "finch", result)
	writeJSON(w, http.StatusOK, webhookAnswer{Result: result})
}

// webhookAnswer says what an event did: reported, suppressed, restored, held,
// disconnected, ignored or repeated.
type webhookAnswer struct {
	Result string `json:"result"`
}

// obey acts on an event that these applications have signed. The error is a
// problem, and asks for a repetition.
func (s *server) obey(ctx context.Context, e finch.Event, signers []string) (result string, err error) {
	if e.Type != finch.EventAccountUpdated || reauth.CheckConnectionID(e.ConnectionID) != nil {
		return "ignored", nil
	}
	c, err := s.DB.Connection(ctx, e.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "ignored", nil
	case err != nil:
		return "", s.databaseDown(ctx, "reading a webhook's connection", err)
	case c.Status == reauth.StatusRemoved:
		return "ignored", nil
	case !slices.Contains(signers, c.Application):
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "an event about a connection was signed by another application, and ignored",
			slog.String("connection_id", c.ConnectionID), slog.String("application", c.Application), slog.Any("signers", signers))
		return "ignored", nil
	}
	switch {
	case e.NeedsReauth():
		return s.obeyReauth(ctx, c)
	case e.EntityID != "" && e.Status != "":
		return s.obeyEntity(ctx, c, e)
	case e.Status == finch.StatusConnected && e.EntityID == "":
		return s.obeyConnected(ctx, c)
	case e.Status == finch.StatusDisconnected && e.EntityID == "":
		return s.obeyDisconnected(ctx, c)
	}
	return "ignored", nil
}

func (s *server) obeyReauth(ctx context.Context, c reauth.Connection) (string, error) {
	result, err := s.open(ctx, c, reauth.Input{
		ConnectionID: c.ConnectionID, Source: reauth.SourceWebhook, FinchCode: finch.CodeReauthenticateUser, Reason: "account.updated: reauth",
	})
	switch {
	case err != nil:
		return "", err
	case result.Suppressed:
		return "suppressed", nil
	}
	return "reported", nil
}

// obeyConnected tells an open case, which decides for itself whether that
// heals it. Without one the connection was seen connected, and says so.
func (s *server) obeyConnected(ctx context.Context, c reauth.Connection) (string, error) {
	if held, err := s.holdRestored(ctx, c); held || err != nil {
		return "held", err
	}
	err := s.temporal(ctx, func(ctx context.Context) error { return s.Starter.Restored(ctx, c.ConnectionID) })
	switch {
	case err == nil:
		return "restored", nil
	case !errors.Is(err, starter.ErrNoOpenCase):
		return "", s.temporalDown(ctx, "telling a case that its connection is back", err)
	}
	return s.mark(ctx, c, reauth.StatusConnected, "restored")
}

// obeyDisconnected marks the connection first: an open case that is told to
// look sees it, and ends.
func (s *server) obeyDisconnected(ctx context.Context, c reauth.Connection) (string, error) {
	result, err := s.mark(ctx, c, reauth.StatusDisconnected, "disconnected")
	if err != nil {
		return "", err
	}
	err = s.temporal(ctx, func(ctx context.Context) error { return s.Starter.Restored(ctx, c.ConnectionID) })
	if err != nil && !errors.Is(err, starter.ErrNoOpenCase) {
		return "", s.temporalDown(ctx, "telling a case that its connection is gone", err)
	}
	return result, nil
}

func (s *server) mark(ctx context.Context, c reauth.Connection, status reauth.ConnectionStatus, result string) (string, error) {
	err := s.DB.SetConnectionStatus(ctx, c.ConnectionID, status, s.Now())
	switch {
	case errors.Is(err, db.ErrRemoved):
		return "ignored", nil
	case err != nil:
		return "", s.databaseDown(ctx, "marking a connection", err)
	}
	return result, nil
}

func (s *server) attoWebhook(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, problem(http.StatusNotFound, "no Atto application is configured"))
}
