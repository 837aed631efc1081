package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// maxBody bounds a request's body, and maxWorking how long it is worked on: less
// than the connection may be written to, so that there is an answer.
const (
	maxBody    = 1 << 20
	maxWorking = 50 * time.Second
)

// boundsOf says how large a request's body may be and how long the request may
// take. Whoever reads larger bodies, or takes longer, stands here.
func boundsOf(r *http.Request) (largest int64, working time.Duration) {
	if strings.HasPrefix(r.URL.Path, "/codec/") {
		return 0, maxWorking // it has its own, larger bound
	}
	if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/connections/") && strings.HasSuffix(r.URL.Path, "/token") {
		return maxBody, maxTokenWait + 5*time.Second // its answer may be held back
	}
	if r.URL.Path == importPath {
		return maxImport, importAtMost
	}
	return maxBody, maxWorking
}

// requestInfo is what is known of a request besides the request itself. One
// goroutine uses it: the request's.
type requestInfo struct {
	id      string
	key     string // name of the API key, once it is known
	address string // where it comes from, as far as that can be believed
}

type requestInfoKey struct{}

func infoOf(ctx context.Context) *requestInfo {
	if info, ok := ctx.Value(requestInfoKey{}).(*requestInfo); ok {
		return info
	}
	return &requestInfo{}
}

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); requestIDPattern.MatchString(id) {
		return id
	}
	return rand.Text()
}

// observe gives the request an ID, bounds it, serves it, survives its panic,
// and writes the access log, which knows routes and never paths or queries:
// those can hold a link's secret or a code.
func (s *server) observe(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	began := time.Now()
	info := &requestInfo{id: requestID(r), address: s.clientAddress(r)}
	largest, working := boundsOf(r)
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), requestInfoKey{}, info), working)
	defer cancel()
	r = r.WithContext(ctx)
	rec := &recorder{ResponseWriter: w}
	if largest > 0 {
		r.Body = http.MaxBytesReader(rec, r.Body, largest)
	}
	s.baseHeaders(rec.Header())
	rec.Header().Set("X-Request-Id", info.id)

	defer func() {
		if cause := recover(); cause != nil {
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			s.logPanic(r, info, cause)
			if !rec.wrote {
				s.fail(rec, r, http.StatusInternalServerError, "Something went wrong on our side. Please try again.")
			}
		}
		s.record(r, rec, info, time.Since(began))
	}()
	next(rec, r)
}

// baseHeaders hold for every answer. Pages replace the policy by their own.
func (s *server) baseHeaders(h http.Header) {
	if s.secure() { // over plain HTTP browsers would ignore it
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (s *server) record(r *http.Request, rec *recorder, info *requestInfo, took time.Duration) {
	status := rec.status
	if status == 0 {
		status = http.StatusOK
	}
	route := r.Pattern
	if route == "" {
		route = "unknown"
	}
	_, path, found := strings.Cut(route, " ")
	if !found {
		path = route
	}
	s.metrics.request(r.Context(), method(r), path, status, took)
	attrs := []slog.Attr{
		slog.String("method", method(r)), slog.String("route", path), slog.Int("status", status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000), slog.String("request_id", info.id),
	}
	if info.key != "" {
		attrs = append(attrs, slog.String("api_key", info.key))
	}
	level := slog.LevelInfo
	if status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	s.Logger.LogAttrs(r.Context(), level, "http request", attrs...)
}

// method keeps what a client invents out of logs and metrics.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}

// logPanic tells where a panic came from, but not its value: it could hold
// anything.
func (s *server) logPanic(r *http.Request, info *requestInfo, cause any) {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var stack []string
	for {
		frame, more := frames.Next()
		stack = append(stack, fmt.Sprintf("%s:%d", frame.Function, frame.Line))
		if !more || len(stack) == 12 {
			break
		}
	}
	s.Logger.LogAttrs(r.Context(), slog.LevelError, "a handler panicked",
		slog.String("route", r.Pattern), slog.String("request_id", info.id),
		slog.String("type", fmt.Sprintf("%T", cause)), slog.Any("stack", stack))
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote && status >= 200 {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if !r.wrote {
		r.status, r.wrote = http.StatusOK, true
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// tooLarge tells whether reading a body failed because of its size.
func tooLarge(err error) bool {
	var e *http.MaxBytesError
	return errors.As(err, &e)
}
