package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
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

func (s *server) tokenRoutes(api huma.API) {
	huma.Register(api, answers(operation("get-token", http.MethodGet, "/v1/connections/{connection_id}/token", tagTokens, "Read the current token",
		"The token that works now, and its generation. Where none is stored and one was imported, the provider is asked about that one first. 409 when it cannot be given yet: the detail says why.", ScopeTokens), http.StatusNotFound, http.StatusConflict), s.getToken)
}

func (s *server) getToken(ctx context.Context, in *ConnectionPath) (*struct{ Body TokenView }, error) {
	if _, err := s.usableConnection(ctx, in.ConnectionID); err != nil {
		return nil, err
	}
	token, err := s.DB.CurrentToken(ctx, in.ConnectionID)
	if errors.Is(err, db.ErrNotFound) {
		if err := s.adoptImported(ctx, in.ConnectionID); err != nil {
			return nil, err
		}
		token, err = s.DB.CurrentToken(ctx, in.ConnectionID)
	}
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "No token of the connection is stored. PUT /v1/connections/"+in.ConnectionID+" with an access_token stores one, and so does a case that recovers.")
	case err != nil:
		return nil, s.databaseDown(ctx, "reading a token", err)
	}
	plain, err := s.Keys.Open(token.Sealed, tokenBound(token.ConnectionID, token.Generation)...)
	if err != nil {
		s.complain(ctx, "a sealed token does not open", "reading a token", err)
		return nil, problem(http.StatusInternalServerError, internalDetail)
	}
	return &struct{ Body TokenView }{TokenView{
		AccessToken: string(plain), Generation: token.Generation, Fingerprint: token.Fingerprint, AdoptedAt: token.AdoptedAt,
	}}, nil
}

// adoptImported asks about a connection's imported tokens, since somebody needs
// one. The error is a problem: there is one that cannot be given.
func (s *server) adoptImported(ctx context.Context, connectionID string) error {
	if s.AdoptImported != nil {
		asking, cancel := context.WithTimeout(ctx, importedAtMost)
		defer cancel()
		adopted, err := s.AdoptImported(asking, connectionID)
		if adopted {
			return nil
		}
		if err != nil {
			s.complain(ctx, "the provider failed", "asking about an imported token", err)
			return unavailable("A token of the connection was imported, but the provider cannot be asked about it just now. Please repeat the call.")
		}
	}
	state, detail, err := s.DB.ImportedToken(ctx, connectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil
	case err != nil:
		return s.databaseDown(ctx, "reading an imported token", err)
	case state == db.StagedStale:
		return problem(http.StatusConflict, "A token of the connection was imported, but "+detail+". Report it with POST /v1/connections/"+connectionID+"/reauth.")
	case state == db.StagedWaiting && detail != "":
		return problem(http.StatusConflict, "A token of the connection was imported, but cannot be used yet: "+detail+".")
	case state == db.StagedWaiting:
		return problem(http.StatusConflict, "A token of the connection was imported, and the provider has not been asked about it yet.")
	case state == db.StagedRejected:
		return problem(http.StatusNotFound, "No token of the connection is stored. One was imported and rejected: "+detail+".")
	}
	return nil
}
