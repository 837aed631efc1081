package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// retryAfter is how many seconds a caller should wait when a part of the
// service cannot be reached.
const retryAfter = 5

// problem is an RFC 9457 problem with this status and this explanation.
func problem(status int, detail string) huma.StatusError {
	return &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail}
}

// fieldProblem is a 422 for one field, located as huma locates its own.
func fieldProblem(location, message string) huma.StatusError {
	return &huma.ErrorModel{
		Status: http.StatusUnprocessableEntity, Title: http.StatusText(http.StatusUnprocessableEntity),
		Detail: location + ": " + message,
		Errors: []*huma.ErrorDetail{{Location: location, Message: message}},
	}
}

// unavailable is a 503 that says what could not be reached, and when to come back.
func unavailable(detail string) error {
	return unavailableFor(retryAfter*time.Second, detail)
}

// unavailableFor is unavailable for a time that is known.
func unavailableFor(d time.Duration, detail string) error {
	return huma.ErrorWithHeaders(problem(http.StatusServiceUnavailable, detail), http.Header{"Retry-After": {seconds(d)}})
}

// writeProblem answers outside of huma in the same form.
func writeProblem(w http.ResponseWriter, err error) {
	var withHeaders huma.HeadersError
	if errors.As(err, &withHeaders) {
		for name, values := range withHeaders.GetHeaders() {
			w.Header()[name] = values
		}
	}
	var model *huma.ErrorModel
	if !errors.As(err, &model) {
		model = &huma.ErrorModel{Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError)}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(model.Status)
	_ = json.NewEncoder(w).Encode(model) // the client is gone if this fails
}

// writeJSON answers outside of huma.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

// isPage tells whether people, rather than programs, look at a path.
func isPage(r *http.Request) bool {
	for _, prefix := range []string{"/r/", "/stop/", "/callback", "/done/", "/again/", operatorHome} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return true
		}
	}
	return false
}

// fail answers in the form the path's visitors expect.
func (s *server) fail(w http.ResponseWriter, r *http.Request, status int, message string) {
	if isPage(r) {
		s.pages.render(w, r, status, sorryPage(message))
		return
	}
	writeProblem(w, problem(status, message))
}

// notRouted answers what no route takes.
func (s *server) notRouted(w http.ResponseWriter, r *http.Request, probe *statusProbe) {
	switch allow := probe.header.Get("Allow"); {
	case probe.status == http.StatusMethodNotAllowed && isPage(r):
		w.Header().Set("Allow", allow)
		s.pages.render(w, r, http.StatusMethodNotAllowed, sorryPage("This address cannot be used in this way. Please open it in your browser."))
	case probe.status == http.StatusMethodNotAllowed:
		w.Header().Set("Allow", allow)
		writeProblem(w, problem(http.StatusMethodNotAllowed, "This address takes "+allow+"."))
	case isPage(r):
		s.pages.render(w, r, http.StatusNotFound, s.pages.unknownLink())
	default:
		writeProblem(w, problem(http.StatusNotFound, "There is nothing at this address; /docs lists what there is."))
	}
}

// polish is a huma transformer. It takes the values that huma echoes out of
// problem bodies, since a value can be a token or a code, and says what would
// be right where huma only says what is wrong.
func polish(registry huma.Registry) huma.Transformer {
	return func(ctx huma.Context, _ string, v any) (any, error) {
		model, ok := v.(*huma.ErrorModel)
		if !ok {
			return v, nil
		}
		polished := *model
		polished.Errors = make([]*huma.ErrorDetail, 0, len(model.Errors))
		for _, detail := range model.Errors {
			if detail == nil {
				continue
			}
			polished.Errors = append(polished.Errors, &huma.ErrorDetail{
				Location: place(detail.Location), Message: advise(registry, ctx.Operation(), detail),
			})
		}
		slices.SortStableFunc(polished.Errors, func(a, b *huma.ErrorDetail) int { return strings.Compare(a.Location, b.Location) })
		if polished.Detail == "validation failed" && len(polished.Errors) > 0 {
			polished.Detail = polished.Errors[0].Location + ": " + polished.Errors[0].Message
		}
		if polished.Status == http.StatusInternalServerError {
			polished.Detail, polished.Errors = internalDetail, nil
		}
		return &polished, nil
	}
}

// fieldName is what a step of a location looks like.
var fieldName = regexp.MustCompile(`^[a-zA-Z_-]{1,24}(\[[0-9]{1,6}\])*$`)

// place is a location as far as its steps look like names of fields: what
// somebody wrote where a name belongs can be a token too.
func place(location string) string {
	steps := strings.Split(location, ".")
	for i, step := range steps {
		if !fieldName.MatchString(step) {
			return strings.Join(steps[:i], ".")
		}
	}
	return location
}

// advise adds to a message what the schema would have taken.
func advise(registry huma.Registry, op *huma.Operation, detail *huma.ErrorDetail) string {
	unnamed := place(detail.Location) != detail.Location
	switch detail.Message {
	case "unexpected property":
		if known := knownFields(registry, op, detail.Location); known != "" && unnamed {
			return "has a field that is not one here; known are " + known
		} else if known != "" {
			return "is not a field here; known are " + known
		}
	case "unknown query parameter":
		var known []string
		for _, p := range op.Parameters {
			if p.In == "query" {
				known = append(known, p.Name)
			}
		}
		if len(known) == 0 {
			return "is not a parameter of this call, which takes none"
		}
		return "is not a parameter of this call; known are " + strings.Join(known, ", ")
	}
	return detail.Message
}

// knownFields lists the fields of the object that holds the field at location,
// as "body.contacts[0].emial".
func knownFields(registry huma.Registry, op *huma.Operation, location string) string {
	if op == nil || op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return ""
	}
	schema := op.RequestBody.Content["application/json"].Schema
	steps := strings.Split(location, ".")
	for _, step := range steps[1 : len(steps)-1] {
		name, _, _ := strings.Cut(step, "[")
		if schema = resolve(registry, schema); schema == nil {
			return ""
		}
		schema = schema.Properties[name]
		if schema != nil && schema.Items != nil {
			schema = schema.Items
		}
	}
	if schema = resolve(registry, schema); schema == nil {
		return ""
	}
	known := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		known = append(known, name)
	}
	slices.Sort(known)
	return strings.Join(known, ", ")
}

func resolve(registry huma.Registry, schema *huma.Schema) *huma.Schema {
	for schema != nil && schema.Ref != "" {
		schema = registry.SchemaFromRef(schema.Ref)
	}
	return schema
}
