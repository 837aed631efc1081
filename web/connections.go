package web

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// ConnectionBody is a connection as a backend gives it.
type ConnectionBody struct {
	Provider     string        `json:"provider,omitempty" enum:"finch" default:"finch" doc:"Whose API the connection belongs to."`
	Application  string        `json:"application,omitempty" pattern:"^[a-z0-9][a-z0-9_-]{0,63}$" patternDescription:"1 to 64 lower-case letters, digits, '_' or '-'" doc:"Whose client credentials the connection belongs to. Without it, the application that the API key is limited to, or else default."`
	CustomerID   string        `json:"customer_id,omitempty" maxLength:"255" doc:"The customer, as your own systems call it." example:"cus_1042"`
	CustomerName string        `json:"customer_name,omitempty" maxLength:"255" doc:"The customer's name, as its people know it: it stands in mails and on pages." example:"Acme Ltd"`
	System       string        `json:"system,omitempty" maxLength:"100" doc:"The employment system, as its people know it: it stands in mails and on pages. Without it, what the access_token's introspection says, or what was stored." example:"Gusto"`
	Campaign     string        `json:"campaign,omitempty" maxLength:"64" doc:"The campaign of the connection's cases, by its name. Without it, the campaigns' own rules choose. A case that is open keeps the campaign that it began with."`
	Contacts     []ContactBody `json:"contacts,omitempty" nullable:"false" maxItems:"20" doc:"Who can reconnect, first choice first. They replace those that were stored."`
	Products     []string      `json:"products,omitempty" nullable:"false" maxItems:"50" pattern:"^[a-z0-9_]{1,64}$" patternDescription:"1 to 64 lower-case letters, digits or '_'" doc:"The provider's products that a new session asks for. Without any, the session keeps what the connection has."`
	AccessToken  string        `json:"access_token,omitempty" writeOnly:"true" maxLength:"4096" doc:"The current access token. It is introspected before it is stored, sealed, and never shown here again. Leave it out to keep your tokens yourself."`
}

type putConnectionInput struct {
	ConnectionPath
	Body ConnectionBody
}

type postConnectionInput struct {
	Body ConnectionBody
}

type connectionOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     reauth.Connection
}

type listConnectionsInput struct {
	Paging
	Status string `query:"status" enum:"connected,stale,disconnected,removed" doc:"Only connections with this status. Without it, all but the removed ones."`
}

// ConnectionList is one page of connections.
type ConnectionList struct {
	Connections []reauth.Connection `json:"connections" nullable:"false"`
	NextCursor  string              `json:"next_cursor,omitempty" doc:"Gives the next page; absent on the last one."`
}

func (s *server) connectionRoutes(api huma.API) {
	const path = "/v1/connections/{connection_id}"
	huma.Register(api, also(answers(operation("put-connection", http.MethodPut, path, tagConnections, "Register or update a connection",
		"Stores the connection as given. Contacts, products and customer replace what was stored; the status and the stored tokens stay. A connection that was removed comes back. When other people can be written to than before, an open case hears of it: whoever takes over is told at once.\n\nAn `access_token` is asked about at the provider first: if it is another connection's, or nothing works, nothing at all is stored.",
		ScopeConnections), http.StatusNotFound, http.StatusUnprocessableEntity), http.StatusCreated, "The connection is new."), s.putConnection)
	huma.Register(api, also(answers(withinApplication(operation("post-connection", http.MethodPost, "/v1/connections", tagConnections, "Register a connection by its token",
		"As `PUT`, for a token whose `connection_id` you do not know: the provider tells it.",
		ScopeConnections)), http.StatusNotFound, http.StatusUnprocessableEntity), http.StatusCreated, "The connection is new."), s.postConnection)
	huma.Register(api, withinApplication(operation("list-connections", http.MethodGet, "/v1/connections", tagConnections, "List connections",
		"In the order of their IDs.", ScopeConnections, ScopeOperator)), s.listConnections)
	huma.Register(api, answers(operation("get-connection", http.MethodGet, path, tagConnections, "Read a connection",
		"Also one that was removed: its status says so. A contact who is not written to has `unreachable`: `bounce`, `complaint` or `opt_out` is said of the address, `not_me` of the person and this connection alone.", ScopeConnections, ScopeOperator), http.StatusNotFound), s.getConnection)
	del := answers(operation("delete-connection", http.MethodDelete, path, tagConnections, "Remove a connection",
		"Forgets its tokens, contacts and links, and ends its open case. The connection at the provider stays as it is, and is billed, unless `disconnect` is true: then it is disconnected there first, and nothing is removed here if that fails. A connection that the provider knows no longer counts as disconnected. Repeating the call changes nothing.",
		ScopeConnections), http.StatusNotFound, http.StatusConflict, http.StatusBadGateway)
	del.DefaultStatus = http.StatusNoContent
	huma.Register(api, del, s.deleteConnection)
}

// connection turns a body into what is stored, without its token.
func (b ConnectionBody) connection(ctx context.Context, id string) (reauth.Connection, error) {
	application, err := ownApplication(ctx, b.Application)
	if err != nil {
		return reauth.Connection{}, err
	}
	people := make([]reauth.Contact, len(b.Contacts))
	for i, contact := range b.Contacts {
		people[i] = contact.contact()
	}
	return registered(reauth.Connection{
		ConnectionID: id, Provider: reauth.Provider(b.Provider), Application: application,
		CustomerID: b.CustomerID, CustomerName: b.CustomerName, System: b.System,
		Campaign: b.Campaign, Contacts: people, Products: b.Products,
	})
}

func (s *server) putConnection(ctx context.Context, in *putConnectionInput) (*connectionOutput, error) {
	c, err := in.Body.connection(ctx, in.ConnectionID)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(s.checkCampaign(c.Campaign), s.checkApplication(c.Application)); err != nil {
		return nil, err
	}
	var token *introspected
	if in.Body.AccessToken != "" {
		if token, err = s.introspect(ctx, c.Application, in.Body.AccessToken); err != nil {
			return nil, err
		}
		if token.ConnectionID != in.ConnectionID {
			return nil, fieldProblem("body.access_token", "is the token of another connection; nothing was stored. Use POST /v1/connections when you do not know whose a token is")
		}
	}
	return s.storeConnection(ctx, c, token)
}

func (s *server) postConnection(ctx context.Context, in *postConnectionInput) (*connectionOutput, error) {
	if in.Body.AccessToken == "" {
		return nil, fieldProblem("body.access_token", "is missing; without it the connection is not known: use PUT /v1/connections/{connection_id}")
	}
	c, err := in.Body.connection(ctx, "")
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(s.checkCampaign(c.Campaign), s.checkApplication(c.Application)); err != nil {
		return nil, err
	}
	token, err := s.introspect(ctx, c.Application, in.Body.AccessToken)
	if err != nil {
		return nil, err
	}
	if reauth.CheckConnectionID(token.ConnectionID) != nil {
		return nil, fieldProblem("body.access_token", "belongs to a connection whose ID cannot be used here")
	}
	c.ConnectionID = token.ConnectionID
	return s.storeConnection(ctx, c, token)
}

// storeConnection stores a connection, and its token if there is one.
func (s *server) storeConnection(ctx context.Context, c reauth.Connection, token *introspected) (*connectionOutput, error) {
	if token != nil {
		c.CustomerID = cmp.Or(c.CustomerID, token.CustomerID)
		c.CustomerName = cmp.Or(c.CustomerName, token.CustomerName)
		c.Status = token.status()
	}
	if token != nil && c.System == "" {
		c.System = finch.SystemName(token.ProviderID)
	}
	before, err := s.DB.Connection(ctx, c.ConnectionID)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return nil, s.databaseDown(ctx, "reading a connection", err)
	}
	created, err := s.DB.PutConnection(ctx, c)
	if errors.Is(err, db.ErrNotFound) {
		return nil, notYours(http.MethodPut, c.ConnectionID)
	}
	if err != nil {
		return nil, s.databaseDown(ctx, "storing a connection", err)
	}
	if token != nil {
		if err := s.DB.SeeEntities(ctx, c.ConnectionID, entitiesOf(token.Introspection), token.at); err != nil {
			return nil, s.databaseDown(ctx, "storing a connection's entities", err)
		}
		if err := s.adopt(ctx, c.ConnectionID, token); err != nil {
			return nil, err
		}
	}
	stored, err := s.DB.Connection(ctx, c.ConnectionID)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading a connection", err)
	}
	if !maps.Equal(reachable(before.Contacts), reachable(stored.Contacts)) {
		s.tellOpenCase(ctx, c.ConnectionID)
	}
	out := &connectionOutput{Status: http.StatusOK, Body: stored}
	if created {
		out.Status, out.Location = http.StatusCreated, "/v1/connections/"+c.ConnectionID
	}
	return out, nil
}

// reachable is who of the contacts can be written to, by address, and in which role.
func reachable(contacts []reauth.Contact) map[string]campaign.Role {
	roles := make(map[string]campaign.Role, len(contacts))
	for _, c := range contacts {
		if c.Unreachable == "" {
			roles[strings.ToLower(c.Email)] = campaign.RoleOf(c.Role)
		}
	}
	return roles
}

// tellOpenCase lets a connection's open case know that its contacts have
// changed. Nothing here may fail the call: the contacts are stored.
func (s *server) tellOpenCase(ctx context.Context, connectionID string) {
	open, err := s.DB.OpenCaseOf(ctx, connectionID)
	switch {
	case err == nil:
		s.contactsChanged(ctx, []db.CaseContact{{CaseID: open.CaseID, ConnectionID: connectionID}}, "The connection was registered with other contacts.")
	case !errors.Is(err, db.ErrNotFound):
		s.complain(ctx, "the database failed", "looking for a case that must hear of new contacts; its next step finds them", err)
	}
}

func (s *server) listConnections(ctx context.Context, in *listConnectionsInput) (*struct{ Body ConnectionList }, error) {
	list, next, err := s.DB.Connections(ctx, reauth.ConnectionStatus(in.Status), in.Cursor, in.Limit)
	if err != nil {
		return nil, s.notListed(ctx, "listing connections", err)
	}
	if list == nil {
		list = []reauth.Connection{}
	}
	return &struct{ Body ConnectionList }{ConnectionList{Connections: list, NextCursor: next}}, nil
}

// notListed is the problem of a list that could not be read.
func (s *server) notListed(ctx context.Context, doing string, err error) error {
	if errors.Is(err, db.ErrBadCursor) {
		return fieldProblem("query.cursor", "must be a next_cursor that this list returned")
	}
	return s.databaseDown(ctx, doing, err)
}

func (s *server) getConnection(ctx context.Context, in *ConnectionPath) (*struct{ Body reauth.Connection }, error) {
	c, err := s.connection(ctx, in.ConnectionID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body reauth.Connection }{c}, nil
}

// connection reads a connection; the error is a problem.
func (s *server) connection(ctx context.Context, id string) (reauth.Connection, error) {
	c, err := s.DB.Connection(ctx, id)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return c, unregistered(id)
	case err != nil:
		return c, s.databaseDown(ctx, "reading a connection", err)
	}
	return c, nil
}

// usableConnection reads a connection that was not removed.
func (s *server) usableConnection(ctx context.Context, id string) (reauth.Connection, error) {
	c, err := s.connection(ctx, id)
	if err == nil && c.Status == reauth.StatusRemoved {
		return c, problem(http.StatusNotFound, "The connection "+id+" was removed. PUT /v1/connections/"+id+" registers it again.")
	}
	return c, err
}

func unregistered(id string) error {
	return problem(http.StatusNotFound, "The connection "+id+" is not registered. PUT /v1/connections/"+id+" registers it.")
}

type deleteConnectionInput struct {
	ConnectionPath
	Disconnect bool `query:"disconnect" doc:"Whether to disconnect it at the provider first, which is for good: a customer who connects again is a new, billed connection."`
}

func (s *server) deleteConnection(ctx context.Context, in *deleteConnectionInput) (*struct{}, error) {
	var removed bool
	var err error
	if in.Disconnect {
		if removed, err = s.removeDisconnected(ctx, in.ConnectionID); err != nil {
			return nil, err
		}
	} else if removed, err = s.DB.RemoveConnection(ctx, in.ConnectionID); errors.Is(err, db.ErrNotFound) {
		return nil, unregistered(in.ConnectionID)
	} else if err != nil {
		return nil, s.databaseDown(ctx, "removing a connection", err)
	}
	if removed {
		s.acted(ctx, in.ConnectionID, "connection_removed", "The connection was removed")
	}
	err = s.temporal(ctx, func(ctx context.Context) error {
		return s.Starter.Cancel(ctx, in.ConnectionID, reauth.Cancel{Reason: reauth.ReasonConnectionRemoved, By: actor(ctx)})
	})
	if err != nil && !errors.Is(err, starter.ErrNoOpenCase) {
		s.complain(ctx, "Temporal failed", "ending the case of a removed connection", err)
		return nil, unavailable("The connection is removed, but Temporal cannot be reached to end a case that may be open. Please repeat the call.")
	}
	return nil, nil
}
