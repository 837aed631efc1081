package finch

import (
	"context"
	"net/http"
)

// What follows is for other clients of Finch than this package's, so that what
// goes wrong with them is understood, and kept free of secrets, in one place.

// Answer is an answer that is not a success, as another client got it.
type Answer struct {
	// Op is the call, as "GET /introspect".
	Op     string
	Status int
	Header http.Header
	Body   []byte
	// Ours says that the call was made with the application's credentials and
	// not with an access token: then a bare 401 refuses the application.
	Ours bool
	// Secrets are what the call held that no error may show.
	Secrets []string
}

// Error reads the answer as a Client does.
func (a Answer) Error() *Error {
	e := parseError(a.Status, a.Header, a.Body, a.Secrets)
	e.Op, e.auth = a.Op, bearerAuth
	if a.Ours {
		e.auth = basicAuth
	}
	return e
}

// Unanswered is the error of another client's call that got no usable answer.
// It matches ErrNoAnswer if the request may have reached Finch, and ErrNotSent
// if it certainly has not.
func Unanswered(op string, cause error, reached bool, secrets ...string) error {
	// Go quotes what it cannot understand of an answer, which might be a token
	// that was minted just now.
	said := quoted.ReplaceAllString(cause.Error(), `"…"`)
	return &unanswered{op: op, text: text(said, secrets), reached: reached, cause: cause}
}

// Watch returns a context for one call of another client, and a function that
// reports whether the request may have reached Finch.
func Watch(ctx context.Context) (watched context.Context, reached func() bool) {
	r := new(reach)
	return r.trace(ctx), r.possible
}
