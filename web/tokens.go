package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
)

// TokenView is a connection's current access token, in the clear.
type TokenView struct {
	AccessToken string    `json:"access_token"`
	Generation  int64     `json:"generation" doc:"Counts the connection's tokens. It never goes back."`
	Fingerprint string    `json:"fingerprint" doc:"What a report names the token by."`
	AdoptedAt   time.Time `json:"adopted_at"`
}

func (s *server) tokenRoutes(api huma.API) {
	huma.Register(api, answers(operation("get-token", http.MethodGet, "/v1/connections/{connection_id}/token", tagTokens, "Read the current token",
		"The token that works now, and its generation.", ScopeTokens), http.StatusNotFound), s.getToken)
}

func (s *server) getToken(ctx context.Context, in *ConnectionPath) (*struct{ Body TokenView }, error) {
	if _, err := s.usableConnection(ctx, in.ConnectionID); err != nil {
		return nil, err
	}
	token, err := s.DB.CurrentToken(ctx, in.ConnectionID)
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
