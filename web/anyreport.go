package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/lifecycle"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

// findTimeout bounds how long the provider may take to name a connection.
const findTimeout = 15 * time.Second

// AnyReportBody is evidence that a connection is stale, which it names by one of
// connection_id, token_fingerprint and customer_id.
type AnyReportBody struct {
	ConnectionID string `json:"connection_id,omitempty" maxLength:"128" doc:"The connection, by the provider's connection_id. A token_fingerprint may go along, and says which token failed." example:"6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"`
	CustomerID   string `json:"customer_id,omitempty" maxLength:"255" doc:"The connection, by its customer, as your own systems call it. Where the customer has several, application, provider and system tell them apart."`
	Application  string `json:"application,omitempty" pattern:"^[a-z0-9][a-z0-9_-]{0,63}$" patternDescription:"1 to 64 lower-case letters, digits, '_' or '-'" doc:"With customer_id: only a connection of this application."`
	System       string `json:"system,omitempty" maxLength:"100" doc:"With customer_id: only a connection to this employment system, in upper or lower case." example:"Gusto"`
	AskProvider  bool   `json:"ask_provider,omitempty" doc:"With a customer_id that no registered connection has: ask the provider, and register the connection that it names. For a customer who never connected this opens a live session there, so it is done only when you say so; it needs customer_name, and a key with the scope connections:write as well."`
	CustomerName string `json:"customer_name,omitempty" maxLength:"255" doc:"With ask_provider: the customer's name, which the provider wants, and which the connection is registered with." example:"Acme Ltd"`
	ReportFields
}

// AnyReportResult says which connection a report was about, and what became of it.
type AnyReportResult struct {
	ConnectionID string `json:"connection_id" doc:"The connection that was reported."`
	ReportResult
}

type anyReportInput struct{ Body AnyReportBody }

type anyReportOutput struct {
	Status int
	Body   AnyReportResult
}

// NamedConnection is one of several that a report may mean.
type NamedConnection struct {
	ConnectionID string                  `json:"connection_id"`
	Provider     reauth.Provider         `json:"provider"`
	Application  string                  `json:"application"`
	System       string                  `json:"system,omitempty"`
	Status       reauth.ConnectionStatus `json:"status"`
}

// SeveralConnections is the problem of a report that may mean several connections.
type SeveralConnections struct {
	*huma.ErrorModel
	Connections []NamedConnection `json:"connections" nullable:"false" doc:"Those that the report may mean."`
}

func (s *server) anyReportRoutes(api huma.API) {
	op := answers(withinApplication(operation("report-any", http.MethodPost, "/v1/reports", tagCases, "Report a stale connection by what you know of it",
		"As POST /v1/connections/{connection_id}/reauth, for a connection that is named by exactly one of `connection_id`, `token_fingerprint` (whose token it is or was) and `customer_id`. "+
			"409 when the customer has several connections: the problem body lists them in `connections`, and nothing was reported; narrow it down, or report one of them by its connection_id.",
		ScopeReports)), http.StatusNotFound, http.StatusUnprocessableEntity)
	op.DefaultStatus = http.StatusAccepted
	op = also(op, http.StatusConflict, "The customer has several connections; nothing was reported.")
	op.Responses["409"].Content = map[string]*huma.MediaType{
		"application/problem+json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[SeveralConnections](), true, "")},
	}
	huma.Register(api, also(op, http.StatusOK, "No case was opened: the token was superseded, or reports are suppressed."), s.reportAny)
}

func (s *server) reportAny(ctx context.Context, in *anyReportInput) (*anyReportOutput, error) {
	b := in.Body
	if err := b.check(); err != nil {
		return nil, err
	}
	if err := s.checkCampaign(b.Campaign); err != nil {
		return nil, err
	}
	// All but the connection, before it is looked for: no provider is asked for
	// a report that is wrong.
	if err := b.input(cmp.Or(b.ConnectionID, "x")).Check(); err != nil {
		return nil, problem(http.StatusUnprocessableEntity, err.Error())
	}
	id, err := s.named(ctx, b)
	if err != nil {
		return nil, err
	}
	result, err := s.reportTo(ctx, id, b.ReportFields)
	if err != nil {
		return nil, err
	}
	return &anyReportOutput{Status: result.status(), Body: AnyReportResult{ConnectionID: id, ReportResult: result}}, nil
}

// check says what is wrong with the way in which a report names its connection.
// The error is a problem.
func (b AnyReportBody) check() error {
	switch {
	case b.ConnectionID == "" && b.CustomerID == "" && b.TokenFingerprint == "":
		return fieldProblem("body", "must name the connection by connection_id, token_fingerprint or customer_id")
	case b.CustomerID != "" && b.ConnectionID != "":
		return fieldProblem("body.customer_id", "must be absent where connection_id names the connection")
	case b.CustomerID != "" && b.TokenFingerprint != "":
		return fieldProblem("body.customer_id", "must be absent where token_fingerprint names the connection")
	case b.CustomerID == "":
		for _, field := range []struct {
			name  string
			given bool
		}{
			{"application", b.Application != ""}, {"system", b.System != ""}, {"ask_provider", b.AskProvider}, {"customer_name", b.CustomerName != ""},
		} {
			if field.given {
				return fieldProblem("body."+field.name, "goes with customer_id alone; leave it out")
			}
		}
	case !register.Printable(b.CustomerID):
		return fieldProblem("body.customer_id", "must be one line of printable text")
	case !register.Printable(b.CustomerName):
		return fieldProblem("body.customer_name", "must be one line of printable text")
	case b.AskProvider && strings.TrimSpace(b.CustomerName) == "":
		return fieldProblem("body.customer_name", "is missing; the provider wants the customer's name when it is asked for the connection")
	}
	return nil
}

// named finds the connection that a report names. The error is a problem.
func (s *server) named(ctx context.Context, b AnyReportBody) (connectionID string, err error) {
	switch {
	case b.ConnectionID != "":
		return b.ConnectionID, nil
	case b.CustomerID != "":
		return s.ofCustomer(ctx, b)
	}
	id, err := s.DB.ConnectionOfToken(ctx, b.TokenFingerprint)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "", problem(http.StatusNotFound, "No stored token has this fingerprint. Report the connection by its connection_id or customer_id, or register it with its access_token: POST /v1/connections, or PUT /v1/connections/{connection_id}.")
	case err != nil:
		return "", s.databaseDown(ctx, "looking up whose a token is", err)
	}
	return id, nil
}

func (s *server) ofCustomer(ctx context.Context, b AnyReportBody) (string, error) {
	list, err := s.DB.CustomerConnections(ctx, db.Customer{
		ID: b.CustomerID, Application: b.Application, Provider: reauth.Provider(b.Provider), System: strings.TrimSpace(b.System),
	})
	if err != nil {
		return "", s.databaseDown(ctx, "listing a customer's connections", err)
	}
	switch {
	case len(list) == 1:
		return list[0].ConnectionID, nil
	case len(list) > 1:
		return "", several(list)
	case b.AskProvider:
		return s.askProvider(ctx, b)
	}
	return "", problem(http.StatusNotFound, "No registered connection is this customer's. PUT /v1/connections/{connection_id} with its customer_id registers one; ask_provider asks the provider for it.")
}

func several(list []reauth.Connection) error {
	out := &SeveralConnections{ErrorModel: &huma.ErrorModel{
		Status: http.StatusConflict, Title: http.StatusText(http.StatusConflict),
		Detail: "The customer has several connections, and nothing was reported. Narrow it down by application, provider or system, or report one of them by its connection_id: ",
	}}
	for i, c := range list {
		if i > 0 {
			out.Detail += ", "
		}
		out.Detail += c.ConnectionID
		out.Connections = append(out.Connections, NamedConnection{
			ConnectionID: c.ConnectionID, Provider: c.Provider, Application: c.Application, System: c.System, Status: c.Status,
		})
	}
	out.Detail += "."
	return out
}

// askProvider asks the provider for a customer's connection, and registers it.
func (s *server) askProvider(ctx context.Context, b AnyReportBody) (string, error) {
	if s.FindConnection == nil {
		return "", fieldProblem("body.ask_provider", "is not available here: no registered connection is this customer's, and the provider cannot be asked for it. Register the connection with PUT /v1/connections/{connection_id}")
	}
	if !hasScope(ctx, ScopeConnections) {
		return "", problem(http.StatusForbidden, "The API key lacks the scope "+ScopeConnections+", which ask_provider needs: it registers the connection that the provider names.")
	}
	application, err := ownApplication(ctx, b.Application)
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(b.CustomerName)
	asking, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	id, err := s.FindConnection(asking, application, b.CustomerID, name)
	switch {
	case errors.Is(err, lifecycle.ErrUnknownApplication):
		return "", fieldProblem("body.application", "is not configured here, so the provider cannot be asked for its connections")
	case err != nil:
		s.complain(ctx, "the provider failed", "asking for a customer's connection", err)
		return "", unavailable("The provider cannot be asked for the customer's connection just now. Nothing was reported; please repeat the call.")
	case id == "":
		return "", problem(http.StatusNotFound, "Neither a registered connection nor the provider knows this customer, who has to connect first.")
	case reauth.CheckConnectionID(id) != nil:
		return "", problem(http.StatusNotFound, "The provider names a connection whose ID cannot be used here.")
	}
	owner, err := s.DB.IntroduceConnection(ctx, reauth.Connection{
		ConnectionID: id, Provider: reauth.Finch, Application: application, CustomerID: b.CustomerID, CustomerName: name,
	})
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "", notYours(http.MethodPut, id)
	case err != nil:
		return "", s.databaseDown(ctx, "registering a connection that the provider named", err)
	case owner != "" && owner != b.CustomerID:
		return "", problem(http.StatusConflict, "The provider says that the connection "+id+" is this customer's, but it is registered as another customer's. Nothing was reported; report it by its connection_id, or register it with its customer_id.")
	}
	return id, nil
}
