package web

import (
	"net/http"
	"slices"
)

// codecRoutes mounts the payload codec, by which Temporal's web UI and command
// line show what is encrypted.
func (s *server) codecRoutes() {
	handler := s.Keys.CodecHandler(s.CodecOrigins, s.mayDecode)
	for _, route := range []string{"POST /codec/decode", "POST /codec/encode", "OPTIONS /codec/decode", "OPTIONS /codec/encode"} {
		s.mux.Handle(route, handler)
	}
}

// mayDecode tells whether a request may use the codec. Whoever may can read every
// message of every case, a customer's code among them: that is a scope of its own,
// for keys of all applications. A browser on a page of CodecOrigins, which the codec has
// checked by then, may also bring the cookie of an operator, whose key, if they signed in
// with one, has that scope.
func (s *server) mayDecode(r *http.Request) bool {
	switch {
	case s.CodecOpen:
		return true
	case r.Header.Get("Authorization") != "" || r.Header.Get("Origin") == "" || s.SignIn == nil:
		return s.authorizeAll(r.Context(), r.Header.Get("Authorization"), ScopeCodec) == nil
	}
	who, _, err := s.whoIs(r)
	if err != nil || who.Key != "" && (who.key.Application != "" || !slices.Contains([]string(who.key.Scopes), ScopeCodec)) {
		return false
	}
	infoOf(r.Context()).key = who.Who
	return true
}
