package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// A key that is limited to an application sees that application and nothing
// else. Three things see to it, so that no handler has to think of it:
//
//   - calls about one connection (those with {connection_id} in their path) are
//     answered with 404 here, before their handler, if the connection is another
//     application's;
//   - every other call is refused to such a key, unless its operation says with
//     withinApplication that it keeps to the limit;
//   - the limit travels in the context (db.Within), and the database itself keeps
//     to it: its lists show, and its locks take, that application's connections
//     only.

const (
	connectionParam     = "connection_id"
	metadataApplication = "within_application"
)

// withinApplication says of an operation that is not about one connection that it
// keeps to the application that its key is limited to: it lists by calls of db that
// do, or stores what ownApplication has checked.
func withinApplication(op huma.Operation) huma.Operation {
	op.Metadata[metadataApplication] = true
	return op
}

// confine lets a limited key's call through only to what it may see. The error is
// a problem.
func (s *server) confine(ctx huma.Context, application string) error {
	op := ctx.Operation()
	if !strings.Contains(op.Path, "{"+connectionParam+"}") {
		if within, _ := op.Metadata[metadataApplication].(bool); within {
			return nil
		}
		return problem(http.StatusForbidden, "The API key is for the application "+application+" alone, and this call is about all of them; it needs a key without an application.")
	}
	id := ctx.Param(connectionParam)
	if reauth.CheckConnectionID(id) != nil {
		return nil // the handler says what is wrong with it
	}
	c, err := s.DB.Connection(ctx.Context(), id)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil // the handler says so, or registers it
	case err != nil:
		return s.databaseDown(ctx.Context(), "reading a connection", err)
	case c.Application != application:
		return notYours(op.Method, id)
	}
	return nil
}

// notYours answers for another application's connection what is answered for one
// that does not exist, except that this one cannot be registered.
func notYours(method, id string) error {
	if method == http.MethodPut {
		return problem(http.StatusNotFound, "The connection "+id+" cannot be registered with this API key.")
	}
	return unregistered(id)
}

// ownApplication is the application of what a call stores: the one given, or the
// one that its key is limited to. The error is a problem.
func ownApplication(ctx context.Context, given string) (string, error) {
	key, _ := ctx.Value(apiKeyKey{}).(db.APIKey)
	if key.Application == "" {
		return cmp.Or(given, reauth.DefaultApplication), nil
	}
	if given != "" && given != key.Application {
		return "", fieldProblem("body.application", "must be "+key.Application+", which the API key is for, or absent")
	}
	return key.Application, nil
}
