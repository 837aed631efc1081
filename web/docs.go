package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/reauth"
)

// docs shows the API's description as a page that needs nothing from
// elsewhere: no scripts, no assets but our own.
func (s *server) docs(api *huma.OpenAPI) http.HandlerFunc {
	view := docsView{
		Title: "API", Product: s.ProductName, Version: s.Version, BaseURL: s.PublicURL,
		Intro: paragraphs(api.Info.Description), StyleURL: s.pages.assetURL("style.css"), IconURL: s.pages.assetURL("icon.svg"),
	}
	for _, tag := range api.Tags {
		group := docsGroup{Name: tag.Name, About: tag.Description}
		for path, item := range api.Paths {
			for method, op := range map[string]*huma.Operation{
				http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodDelete: item.Delete,
			} {
				if op != nil && slices.Contains(op.Tags, tag.Name) {
					group.Calls = append(group.Calls, describe(api, s.PublicURL, method, path, op))
				}
			}
		}
		slices.SortFunc(group.Calls, func(a, b docsCall) int {
			return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.rank(), b.rank()))
		})
		view.Groups = append(view.Groups, group)
	}
	return func(w http.ResponseWriter, r *http.Request) { s.pages.write(w, r, http.StatusOK, "docs.html", view) }
}

// home sends people who look at the bare address to what there is to read.
func (s *server) home(w http.ResponseWriter, r *http.Request) {
	var operators string
	if s.SignIn != nil {
		operators = operatorHome
	}
	s.pages.write(w, r, http.StatusOK, "home.html", docsView{
		Title: "reauth", Product: s.ProductName, Version: s.Version, UIURL: s.TemporalUIURL, OperatorURL: operators,
		StyleURL: s.pages.assetURL("style.css"), IconURL: s.pages.assetURL("icon.svg"), Mail: s.mailBanner(r.Context()),
	})
}

// mailBanner says that mail does not go out, where that is so.
func (s *server) mailBanner(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	mail, err := s.DB.Mail(ctx)
	switch {
	case err != nil:
		return ""
	case mail.Mode == reauth.MailStopped:
		return "Customer mail is stopped: nobody is written to until it is switched on again."
	case mail.Mode == reauth.MailShadow:
		return "Mail is in shadow: every case runs, and nobody is written to."
	}
	return ""
}

type docsView struct {
	Title, Product, Version, BaseURL, UIURL, OperatorURL, StyleURL, IconURL string
	// Mail says on the home page that mail does not go out.
	Mail string

	Intro  []docsText
	Groups []docsGroup
}

type docsGroup struct {
	Name, About string
	Calls       []docsCall
}

type docsCall struct {
	ID, Method, Path, Summary string

	About   []docsText
	Params  []docsField
	Body    []docsField
	Answers []docsAnswer
	Curl    string
}

// rank orders the methods of one path.
func (c docsCall) rank() int { return slices.Index([]string{"PUT", "POST", "GET", "DELETE"}, c.Method) }

type docsField struct {
	Name, Kind, About string
	Required          bool
}

type docsAnswer struct {
	Status, About string
	Fields        []docsField
}

// docsText is a paragraph in which some pieces are code.
type docsText []docsPiece

type docsPiece struct {
	Text string
	Code bool
}

func paragraphs(text string) []docsText {
	var all []docsText
	for _, paragraph := range strings.Split(text, "\n\n") {
		var pieces docsText
		for i, piece := range strings.Split(paragraph, "`") {
			if piece != "" {
				pieces = append(pieces, docsPiece{Text: piece, Code: i%2 == 1})
			}
		}
		all = append(all, pieces)
	}
	return all
}

func describe(api *huma.OpenAPI, base, method, path string, op *huma.Operation) docsCall {
	call := docsCall{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, About: paragraphs(op.Description)}
	for _, p := range op.Parameters {
		if p.In != "path" || path != "" {
			call.Params = append(call.Params, docsField{Name: p.Name, Kind: p.In + ", " + kindOf(api, p.Schema), About: p.Description, Required: p.Required})
		}
	}
	curl := "curl -X " + method + " " + base + path + " \\\n  -H \"Authorization: Bearer $REAUTH_API_KEY\""
	if op.RequestBody != nil && op.RequestBody.Content["application/json"] == nil { // a file
		curl += " \\\n  --data-binary @FILE"
	} else if op.RequestBody != nil {
		schema := op.RequestBody.Content["application/json"].Schema
		call.Body = fieldsOf(api, schema, "")
		if example, err := json.MarshalIndent(exampleOf(api, schema), "  ", "  "); err == nil {
			curl += " \\\n  -H \"Content-Type: application/json\" \\\n  -d '" + string(example) + "'"
		}
	}
	call.Curl = curl
	for status, response := range op.Responses {
		answer := docsAnswer{Status: status, About: response.Description}
		if media := response.Content["application/json"]; media != nil && strings.HasPrefix(status, "2") {
			answer.Fields = fieldsOf(api, media.Schema, "")
		}
		call.Answers = append(call.Answers, answer)
	}
	slices.SortFunc(call.Answers, func(a, b docsAnswer) int { return cmp.Compare(a.Status, b.Status) })
	return call
}

// fieldsOf lists a schema's fields, those of nested objects with their path.
func fieldsOf(api *huma.OpenAPI, schema *huma.Schema, prefix string) []docsField {
	if schema = resolve(api.Components.Schemas, schema); schema == nil {
		return nil
	}
	names := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(-compareBool(slices.Contains(schema.Required, a), slices.Contains(schema.Required, b)), cmp.Compare(a, b))
	})
	var fields []docsField
	for _, name := range names {
		property := schema.Properties[name]
		fields = append(fields, docsField{
			Name: prefix + name, Kind: kindOf(api, property), About: property.Description, Required: slices.Contains(schema.Required, name),
		})
		inner, step := resolve(api.Components.Schemas, property), "."
		if inner != nil && inner.Items != nil {
			inner, step = resolve(api.Components.Schemas, inner.Items), "[]."
		}
		if inner != nil && len(inner.Properties) > 0 {
			fields = append(fields, fieldsOf(api, inner, prefix+name+step)...)
		}
	}
	return fields
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// kindOf says in a few words what a field takes.
func kindOf(api *huma.OpenAPI, schema *huma.Schema) string {
	if schema = resolve(api.Components.Schemas, schema); schema == nil {
		return ""
	}
	kind := schema.Type
	switch {
	case schema.Format == "date-time":
		kind = "RFC 3339 time"
	case kind == huma.TypeArray:
		kind = "list of " + kindOf(api, schema.Items)
	}
	if len(schema.Enum) > 0 {
		words := make([]string, len(schema.Enum))
		for i, word := range schema.Enum {
			words[i] = fmt.Sprint(word)
		}
		kind = strings.Join(words, " | ")
	}
	if schema.Default != nil {
		kind += fmt.Sprintf(", %v if absent", schema.Default)
	}
	return kind
}

// exampleOf makes a body of the fields that are required or have an example.
func exampleOf(api *huma.OpenAPI, schema *huma.Schema) any {
	schema = resolve(api.Components.Schemas, schema)
	switch {
	case schema == nil:
		return nil
	case len(schema.Examples) > 0:
		return schema.Examples[0]
	case schema.Items != nil:
		return []any{exampleOf(api, schema.Items)}
	case len(schema.Enum) > 0:
		return schema.Enum[0]
	case len(schema.Properties) == 0:
		return "…"
	}
	example := map[string]any{}
	for name, property := range schema.Properties {
		value := exampleOf(api, property)
		resolved := resolve(api.Components.Schemas, property)
		inList := resolved != nil && resolved.Items != nil && len(resolve(api.Components.Schemas, resolved.Items).Properties) > 0
		if slices.Contains(schema.Required, name) || len(property.Examples) > 0 || inList {
			example[name] = value
		}
	}
	return example
}
