package web

import "net/http"

// codecRoutes mounts the payload codec, by which Temporal's web UI shows what
// is encrypted. Whoever may use it can read every message of every case, so it
// asks for an operator's key.
func (s *server) codecRoutes() {
	handler := s.Keys.CodecHandler(s.CodecOrigins, func(r *http.Request) bool {
		if s.CodecOpen {
			return true
		}
		return s.authorizeAll(r.Context(), r.Header.Get("Authorization"), ScopeOperator) == nil
	})
	for _, route := range []string{"POST /codec/decode", "POST /codec/encode", "OPTIONS /codec/decode", "OPTIONS /codec/encode"} {
		s.mux.Handle(route, handler)
	}
}
