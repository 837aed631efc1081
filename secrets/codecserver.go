package secrets

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"go.temporal.io/sdk/converter"
)

// maxCodecBody bounds a request to the codec server. Temporal refuses payloads
// of more than 2 MB.
const maxCodecBody = 8 << 20

// CodecHandler answers POST /codec/decode and POST /codec/encode, by which
// Temporal's web UI and command line show what is encrypted. It answers only
// requests that authorize allows (none, where it is nil), and of those that a
// browser sends only the ones from exactly the given origins, which CheckOrigin
// accepts: anything else, a wildcard too, allows nobody.
func (k *Keys) CodecHandler(origins []string, authorize func(*http.Request) bool) http.Handler {
	allowed := make(map[string]bool, len(origins))
	for _, origin := range origins {
		if CheckOrigin(origin) == nil {
			allowed[origin] = true
		}
	}
	serve := converter.NewPayloadCodecHTTPHandler(k.Codec())
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		w.Header().Set("Cache-Control", "no-store")
		if origin := r.Header.Get("Origin"); origin != "" {
			if !allowed[origin] {
				http.Error(w, "this origin may not use the codec", http.StatusForbidden)
				return
			}
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Credentials", "true")
		}
		if r.Method == http.MethodOptions {
			// A preflight carries no credentials: it reveals nothing, and is
			// answered before they are asked for.
			w.Header().Set("Access-Control-Allow-Methods", "POST")
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Namespace")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if authorize == nil || !authorize(r) {
			http.Error(w, "not authorized to use the codec", http.StatusUnauthorized)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxCodecBody)
		serve.ServeHTTP(w, r)
	})
	mux := http.NewServeMux()
	for _, path := range []string{"/codec/decode", "/codec/encode"} {
		mux.Handle("POST "+path, answer)
		mux.Handle("OPTIONS "+path, answer)
	}
	return mux
}

// CheckOrigin says what is wrong with the origin of a web page, if anything.
func CheckOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || strings.Contains(origin, "*") || u.Scheme+"://"+u.Host != origin {
		return errors.New(`an origin must be a scheme and a host without a path or a slash at the end, as "https://temporal.example.com" or "http://localhost:8233"`)
	}
	return nil
}
