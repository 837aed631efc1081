package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// holdRestored remembers that the provider called a connection connected while
// its customer is in Connect. That is most likely the customer's own doing, and
// the code that is on its way says so better: telling the case would only cost
// it a look that it must not believe yet. The Forwarder tells it if no code comes.
func (s *server) holdRestored(ctx context.Context, c reauth.Connection) (held bool, err error) {
	open, err := s.DB.OpenCaseOf(ctx, c.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return false, nil
	case err != nil:
		return false, s.databaseDown(ctx, "reading the open case", err)
	case open.LastClickAt == nil || !s.Now().Before(open.LastClickAt.Add(reauth.ClickGrace)):
		return false, nil
	}
	if err := s.DB.HoldRestored(ctx, open.CaseID, open.LastClickAt.Add(reauth.ClickGrace)); err != nil {
		return false, s.databaseDown(ctx, "holding what the provider announced", err)
	}
	return true, nil
}

// tellRestored tells the cases whose hold is over.
func (f Forwarder) tellRestored(ctx context.Context) {
	due, err := f.DB.DueRestored(ctx, f.Now(), 100)
	if err != nil {
		f.complain(ctx, "what providers announced could not be read", "", err)
		return
	}
	for _, c := range due {
		if err := f.Starter.Restored(ctx, c.ConnectionID); err != nil && !errors.Is(err, starter.ErrNoOpenCase) {
			f.complain(ctx, "a case could not be told that its connection is back", c.ConnectionID, err)
			return
		}
		if err := f.DB.ForgetRestored(ctx, c.CaseID); err != nil {
			f.complain(ctx, "a case that was told could not be noted", c.ConnectionID, err)
			return
		}
	}
}

// EmbeddedSession is what the embedded Connect needs to open.
type EmbeddedSession struct {
	CaseID     string    `json:"case_id"`
	SessionID  string    `json:"session_id" doc:"Goes to the Connect SDK."`
	ConnectURL string    `json:"connect_url"`
	ExpiresAt  time.Time `json:"expires_at"`
}

type embeddedOutput struct{ Body EmbeddedSession }

func (s *server) embeddedRoutes(api huma.API) {
	op := answers(operation("open-session", http.MethodPost, "/v1/connections/{connection_id}/reauth/session", tagCases, "Open the embedded Connect",
		"Gives the open case's session for the Connect SDK in your own page, and counts as the customer's click: call it when the customer opens Connect, not before. Hand the code in with POST …/reauth/code. 409 when no case is open, or its session is not there yet.",
		ScopeReports), http.StatusNotFound, http.StatusConflict)
	op.DefaultStatus = http.StatusOK
	huma.Register(api, op, s.openEmbedded)
}

// openEmbedded is the click of the embedded flow.
func (s *server) openEmbedded(ctx context.Context, in *struct{ ConnectionPath }) (*embeddedOutput, error) {
	if _, err := s.usableConnection(ctx, in.ConnectionID); err != nil {
		return nil, err
	}
	c, err := s.DB.OpenCaseOf(ctx, in.ConnectionID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, problem(http.StatusConflict, "The connection has no open case. POST /v1/connections/"+in.ConnectionID+"/reauth opens one.")
	}
	if err != nil {
		return nil, s.databaseDown(ctx, "reading the open case", err)
	}
	now := s.Now()
	if c.ConnectURL == "" || c.SessionExpiresAt == nil || !c.SessionExpiresAt.After(now) {
		return nil, problem(http.StatusConflict, "The case has no session just now, as it is "+string(c.Phase)+". Repeat the call in a moment.")
	}
	click := db.Click{ID: uuid.NewString(), CaseID: c.CaseID, ConnectionID: c.ConnectionID, At: now, Embedded: true}
	if err := s.DB.RecordClick(ctx, click); err != nil {
		return nil, s.databaseDown(ctx, "recording a click", err)
	}
	s.metrics.clicked(ctx)
	return &embeddedOutput{EmbeddedSession{
		CaseID: c.CaseID, SessionID: c.SessionID, ConnectURL: c.ConnectURL, ExpiresAt: c.SessionExpiresAt.UTC(),
	}}, nil
}
