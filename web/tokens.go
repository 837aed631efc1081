package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// importedAtMost is how long a caller waits for the provider's word on an
// imported token.
const importedAtMost = 20 * time.Second

// TokenView is a connection's current access token, in the clear.
type TokenView struct {
	AccessToken string    `json:"access_token"`
	Generation  int64     `json:"generation" doc:"Counts the connection's tokens. It never goes back."`
	Fingerprint string    `json:"fingerprint" doc:"What a report names the token by."`
	AdoptedAt   time.Time `json:"adopted_at"`
}

// maxTokenWait is the most that an answer is held back.
const maxTokenWait = 50 * time.Second

type getTokenInput struct {
	ConnectionPath
	After int64 `query:"after" minimum:"0" doc:"The generation that you have. The answer is 204 unless a later one is stored." example:"3"`
	Wait  int   `query:"wait" minimum:"0" maximum:"50" doc:"For how many seconds the answer may be held back until a generation after the one in after is stored."`
}

type getTokenOutput struct {
	Status           int
	ConnectionStatus reauth.ConnectionStatus `header:"Reauth-Connection-Status" doc:"What is believed of the connection: connected, stale or disconnected. With 204 and connected, the token that you have works, as far as is known."`
	Body             *TokenView
}

func (s *server) tokenRoutes(api huma.API) {
	huma.Register(api, also(answers(operation("get-token", http.MethodGet, "/v1/connections/{connection_id}/token", tagTokens, "Read the current token",
		"The token that works now, and its generation. With `after`, only one that is newer than yours; with `wait` as well, as soon as there is one. "+
			"Waiting costs little: wait for 50 seconds, and ask again for as long as you care.\n\n"+
			"Where none is stored and one was imported, the provider is asked about that one first; 409 says why it cannot be given yet.", ScopeTokens), http.StatusNotFound, http.StatusConflict),
		http.StatusNoContent, "No token of a generation after the one in `after` was stored within the wait."), s.getToken)
}

func (s *server) getToken(ctx context.Context, in *getTokenInput) (*getTokenOutput, error) {
	waiting, cancel := s.waiting(ctx, time.Duration(in.Wait)*time.Second)
	defer cancel()
	for first := true; ; first = false {
		c, err := s.usableConnection(ctx, in.ConnectionID)
		if err != nil {
			return nil, err
		}
		if first && c.Generation == 0 {
			adopted, err := s.adoptImported(ctx, in.ConnectionID)
			if adopted {
				continue
			}
			if err != nil && in.After == 0 && in.Wait == 0 { // others wait for what becomes of it
				return nil, err
			}
		}
		switch {
		case c.Generation > in.After:
			token, err := s.currentToken(ctx, in.ConnectionID)
			return &getTokenOutput{Status: http.StatusOK, ConnectionStatus: c.Status, Body: token}, err
		case in.After == 0 && in.Wait == 0:
			return nil, problem(http.StatusNotFound, "No token of the connection is stored. PUT /v1/connections/"+in.ConnectionID+" with an access_token stores one, and so does a case that recovers.")
		case waiting.Err() != nil:
			return &getTokenOutput{Status: http.StatusNoContent, ConnectionStatus: c.Status}, nil
		}
		s.waits.await(waiting, db.Waiter{ConnectionID: in.ConnectionID, After: in.After}, s.DB.Awaited, s.Logger)
	}
}

// waiting is the time for which an answer may be held back. It ends when the
// service stops, so that nobody who waits keeps it from stopping.
func (s *server) waiting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	if s.Stopping != nil {
		stop := context.AfterFunc(s.Stopping, cancel)
		return ctx, func() { stop(); cancel() }
	}
	return ctx, cancel
}

// currentToken opens the current token. The error is a problem.
func (s *server) currentToken(ctx context.Context, connectionID string) (*TokenView, error) {
	token, err := s.DB.CurrentToken(ctx, connectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "The connection was removed a moment ago, and its token with it.")
	case err != nil:
		return nil, s.databaseDown(ctx, "reading a token", err)
	}
	plain, err := s.Keys.Open(token.Sealed, db.TokenBound(token.ConnectionID, token.Generation)...)
	if err != nil {
		s.complain(ctx, "a sealed token does not open", "reading a token", err)
		return nil, problem(http.StatusInternalServerError, internalDetail)
	}
	return &TokenView{
		AccessToken: string(plain), Generation: token.Generation, Fingerprint: token.Fingerprint, AdoptedAt: token.AdoptedAt,
	}, nil
}

// adoptImported asks about a connection's imported tokens, since somebody needs
// one. The error is a problem: there is one that cannot be given.
func (s *server) adoptImported(ctx context.Context, connectionID string) (adopted bool, err error) {
	if s.AdoptImported != nil {
		asking, cancel := context.WithTimeout(ctx, importedAtMost)
		defer cancel()
		adopted, err := s.AdoptImported(asking, connectionID)
		if adopted {
			return true, nil
		}
		if err != nil {
			s.complain(ctx, "the provider failed", "asking about an imported token", err)
			return false, unavailable("A token of the connection was imported, but the provider cannot be asked about it just now. Please repeat the call.")
		}
	}
	state, detail, err := s.DB.ImportedToken(ctx, connectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return false, nil
	case err != nil:
		return false, s.databaseDown(ctx, "reading an imported token", err)
	case state == db.StagedStale:
		return false, problem(http.StatusConflict, "A token of the connection was imported, but "+detail+". Report it with POST /v1/connections/"+connectionID+"/reauth.")
	case state == db.StagedWaiting && detail != "":
		return false, problem(http.StatusConflict, "A token of the connection was imported, but cannot be used yet: "+detail+".")
	case state == db.StagedWaiting:
		return false, problem(http.StatusConflict, "A token of the connection was imported, and the provider has not been asked about it yet.")
	case state == db.StagedRejected:
		return false, problem(http.StatusNotFound, "No token of the connection is stored. One was imported and rejected: "+detail+".")
	}
	return false, nil
}
