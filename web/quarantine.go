package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// QuarantinedToken is a token that was kept aside, as operators see it: never the
// token itself.
type QuarantinedToken struct {
	Fingerprint          string     `json:"fingerprint" doc:"Names the token: the first 16 bytes of its SHA-256, in hex."`
	ConnectionID         string     `json:"connection_id,omitempty" doc:"The token's own connection, which the provider bills. Absent where nobody knows it."`
	ExpectedConnectionID string     `json:"expected_connection_id,omitempty" doc:"The connection whose customer logged in."`
	Application          string     `json:"application,omitempty"`
	Reason               string     `json:"reason" doc:"Why it was kept aside: wrong_account, connection_removed, connection_disconnected, connection_unknown, owner_unproved, refused or unreadable."`
	CaseID               string     `json:"case_id,omitempty"`
	At                   time.Time  `json:"at"`
	EndedAt              *time.Time `json:"ended_at,omitempty" doc:"When it was erased."`
	EndedHow             string     `json:"ended_how,omitempty" doc:"disconnected: its connection was ended with it. gone: the provider knew it no longer. forgotten: it was erased, and nothing else was done."`
	FinchCode            string     `json:"finch_code,omitempty" doc:"What the provider said then, if anything."`
}

// QuarantineList is one page of tokens that were kept aside.
type QuarantineList struct {
	Tokens     []QuarantinedToken `json:"tokens" nullable:"false"`
	NextCursor string             `json:"next_cursor,omitempty" doc:"Gives the next page; absent on the last one."`
}

type listQuarantineInput struct {
	Paging
	Ended bool `query:"ended" doc:"Those that were erased, in place of those that are kept."`
}

type quarantinePath struct {
	Fingerprint string `path:"fingerprint" pattern:"^[0-9a-f]{32}$" patternDescription:"32 characters of lower-case hex, as in the list" doc:"The token's fingerprint, as in the list."`
}

func (s *server) quarantineRoutes(api huma.API) {
	const path = "/v1/quarantine/{fingerprint}"
	huma.Register(api, operation("list-quarantine", http.MethodGet, "/v1/quarantine", tagOperators, "List tokens that were kept aside",
		"Newest first. When a customer logs in to another account than the one that was connected, the provider makes a connection of that and bills it. Its token is never used, and kept: only with it can that connection be ended.",
		ScopeOperator), s.listQuarantine)
	op := answers(operation("disconnect-quarantined", http.MethodPost, path+"/disconnect", tagOperators, "Disconnect what a token was kept for",
		"Ends the token's connection at the provider and erases the token. A connection that is registered here is never ended so. Repeating the call shows the first result.",
		ScopeOperator), http.StatusNotFound, http.StatusConflict, http.StatusBadGateway)
	op.DefaultStatus = http.StatusOK
	huma.Register(api, op, s.disconnectQuarantined)
	del := answers(operation("forget-quarantined", http.MethodDelete, path, tagOperators, "Forget a token that was kept aside",
		"Erases the token and does nothing else: its connection goes on, and is billed, unless you end it in the provider's dashboard.", ScopeOperator), http.StatusNotFound)
	del.DefaultStatus = http.StatusNoContent
	huma.Register(api, del, s.forgetQuarantined)
}

func (s *server) ender(ctx context.Context) lifecycle.Ender {
	return lifecycle.Ender{DB: s.DB, Keys: s.Keys, Disconnect: s.Disconnect, Introspect: s.Introspect, Now: s.Now, By: actor(ctx)}
}

func quarantineView(q db.QuarantinedToken) QuarantinedToken {
	return QuarantinedToken{
		Fingerprint: q.Fingerprint, ConnectionID: q.ConnectionID, ExpectedConnectionID: q.ExpectedConnectionID, Application: q.Application,
		Reason: q.Reason, CaseID: q.CaseID, At: q.At, EndedAt: q.EndedAt, EndedHow: string(q.EndedHow), FinchCode: q.FinchCode,
	}
}

func (s *server) listQuarantine(ctx context.Context, in *listQuarantineInput) (*struct{ Body QuarantineList }, error) {
	tokens, next, err := s.DB.QuarantinedTokens(ctx, in.Ended, in.Cursor, in.Limit)
	if err != nil {
		return nil, s.notListed(ctx, "listing tokens in quarantine", err)
	}
	list := QuarantineList{Tokens: []QuarantinedToken{}, NextCursor: next}
	for _, q := range tokens {
		list.Tokens = append(list.Tokens, quarantineView(q))
	}
	return &struct{ Body QuarantineList }{list}, nil
}

func (s *server) disconnectQuarantined(ctx context.Context, in *quarantinePath) (*struct{ Body QuarantinedToken }, error) {
	q, err := s.ender(ctx).DisconnectQuarantined(ctx, in.Fingerprint)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "No token of this fingerprint is in quarantine. GET /v1/quarantine lists those that are.")
	case errors.Is(err, lifecycle.ErrInUse):
		return nil, problem(http.StatusConflict, "The token belongs to a connection that is registered here, so it is not disconnected: somebody has logged in to another customer's account. DELETE /v1/quarantine/"+in.Fingerprint+" forgets the token and leaves that connection alone; DELETE /v1/connections/{connection_id}?disconnect=true ends it.")
	case errors.Is(err, lifecycle.ErrUnreadable):
		return nil, problem(http.StatusConflict, "None of our keys opens the token, so it cannot disconnect anything. Bring the key back that it was sealed with, or end the connection in the provider's dashboard and forget the token with DELETE /v1/quarantine/"+in.Fingerprint+".")
	case errors.Is(err, lifecycle.ErrUnowned):
		return nil, problem(http.StatusConflict, "The provider does not say whose the token is, so it is not used: it could be a connection that is in use. DELETE /v1/quarantine/"+in.Fingerprint+" forgets it.")
	case err != nil:
		return nil, s.notDisconnected(ctx, err, "The token is kept.")
	}
	return &struct{ Body QuarantinedToken }{quarantineView(q)}, nil
}

func (s *server) forgetQuarantined(ctx context.Context, in *quarantinePath) (*struct{}, error) {
	_, err := s.ender(ctx).ForgetQuarantined(ctx, in.Fingerprint)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "No token of this fingerprint is in quarantine. GET /v1/quarantine lists those that are.")
	case err != nil:
		return nil, s.databaseDown(ctx, "forgetting a token", err)
	}
	return nil, nil
}

// notDisconnected says why a provider has not disconnected something, and what
// was kept. The error is a problem.
func (s *server) notDisconnected(ctx context.Context, err error, kept string) error {
	var refused lifecycle.Refused
	switch {
	case errors.As(err, &refused):
		return problem(http.StatusBadGateway, "The provider refuses to disconnect it, with "+refused.Code+". "+kept+" Disconnect it in the provider's dashboard, or repeat the call when that is mended.")
	case errors.Is(err, lifecycle.ErrUnknownApplication):
		return problem(http.StatusConflict, "Its application is not configured here, so its provider cannot be asked. "+kept+" The file of REAUTH_APPLICATIONS names applications.")
	case errors.Is(err, lifecycle.ErrUnavailable):
		s.complain(ctx, "the provider failed", "disconnecting a connection", err)
		return unavailable("The provider cannot be reached to disconnect it just now. " + kept + " Please repeat the call.")
	}
	return s.databaseDown(ctx, "disconnecting a connection", err)
}

// removeDisconnected disconnects a connection at its provider and removes it. The
// error is a problem, and means that it was not removed.
func (s *server) removeDisconnected(ctx context.Context, id string) (removed bool, err error) {
	removed, err = s.ender(ctx).Remove(ctx, id)
	const without = "DELETE without ?disconnect=true removes it here alone; the provider goes on billing it until you disconnect it there."
	switch {
	case err == nil:
		return removed, nil
	case errors.Is(err, db.ErrNotFound):
		return false, unregistered(id)
	case errors.Is(err, lifecycle.ErrNoToken):
		c, err := s.connection(ctx, id)
		if err == nil && c.Status == reauth.StatusRemoved {
			return false, problem(http.StatusConflict, "The connection was removed before, with its tokens, so it cannot be disconnected from here any more. Disconnect it in the provider's dashboard, or with a token of your own (POST /disconnect at Finch).")
		}
		return false, problem(http.StatusConflict, "No token of the connection is stored, so it cannot be disconnected from here. Nothing was removed. Disconnect it with the token that you keep (POST /disconnect at Finch), then repeat the call without ?disconnect=true.")
	case errors.Is(err, lifecycle.ErrUnreadable):
		return false, problem(http.StatusConflict, "None of our keys opens the connection's token, so it cannot be disconnected from here. Nothing was removed. "+without)
	}
	return false, s.notDisconnected(ctx, err, "Nothing was removed. "+without)
}

// noDisconnect is Config.Disconnect where nobody has given one.
func noDisconnect(context.Context, string, secrets.Secret) error {
	return errors.New("this service has no way to disconnect anything")
}
