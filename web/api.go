package web

import (
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const apiDescription = `reauth brings stale provider connections back. A backend registers its connections, reports one that went stale, and reauth writes to the customer, takes the new authorization and stores the new token.

Every call needs ` + "`Authorization: Bearer <api key>`" + `. Errors are problem bodies (RFC 9457) whose detail says what would be right. Times are RFC 3339 in UTC. Calls may be repeated: a repetition changes nothing and shows the first result.`

// newAPI prepares the API's description and what every call of it shares.
func (s *server) newAPI() huma.API {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "reauth", Version: s.Version, Description: apiDescription},
			Servers: []*huma.Server{{URL: s.PublicURL}},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "An API key with the scope that the call needs."},
				},
			},
			Tags: []*huma.Tag{
				{Name: tagConnections, Description: "Register, read and remove connections."},
				{Name: tagCases, Description: "Report that a connection is stale, and follow its case."},
				{Name: tagOperators, Description: "Steer a case by hand."},
				{Name: tagContacts, Description: "Say which addresses must not be written to any more."},
				{Name: tagTokens, Description: "Read the current access token."},
			},
		},
		OpenAPIPath:                  "/openapi",
		Formats:                      map[string]huma.Format{"application/json": strictJSON(), "json": strictJSON()},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{polish(registry)},
	}
	api := humago.New(s.mux, config)
	api.UseMiddleware(s.authenticate)
	return api
}

const (
	tagConnections = "Connections"
	tagCases       = "Cases"
	tagOperators   = "Operators"
	tagContacts    = "Contacts"
	tagTokens      = "Tokens"
)

// operation describes one API call; scopes are those of which the key needs one.
func operation(id, method, path, tag, summary, description string, scopes ...string) huma.Operation {
	description += "\n\nThe key needs the scope "
	for i, scope := range scopes {
		if i > 0 {
			description += " or "
		}
		description += "`" + scope + "`"
	}
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Description: description + ".",
		Tags: []string{tag}, Metadata: map[string]any{"scopes": scopes},
		Security:     []map[string][]string{{"key": scopes}},
		Errors:       []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable},
		MaxBodyBytes: maxBody,
	}
}

// answers adds the statuses that a call can answer besides the usual ones.
func answers(op huma.Operation, errors ...int) huma.Operation {
	op.Errors = append(op.Errors, errors...)
	return op
}

// also documents a further success of a call.
func also(op huma.Operation, status int, description string) huma.Operation {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses[strconv.Itoa(status)] = &huma.Response{Description: description}
	return op
}

// ConnectionPath is the path of the calls about one connection.
type ConnectionPath struct {
	ConnectionID string `path:"connection_id" maxLength:"128" pattern:"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$" patternDescription:"1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit" doc:"The provider's connection_id." example:"6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"`
}

// Paging is the query of the calls that list.
type Paging struct {
	Cursor string `query:"cursor" maxLength:"512" doc:"Where the last page ended: its next_cursor."`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many to return at most."`
}
