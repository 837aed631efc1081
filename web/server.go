// Package web is the HTTP side of reauth: the API for backends, the pages that
// a customer sees behind a link and after Connect, providers' webhooks, and
// what operation needs.
//
// Nothing here decides about a case. Handlers read the database and hand
// everything that acts to the case's workflow.
package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// server holds what every handler uses.
type server struct {
	Config
	mux     *http.ServeMux
	pages   *pages
	metrics *metrics
	touched seldom
	seldom  seldom
	// stored are webhooks that are certainly stored.
	stored recent
	joins  joiner
	waits  waits
	limits *limiters
}

// Service is the HTTP side of reauth: an http.Handler, and what it does beside
// answering.
type Service struct{ server *server }

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.server.ServeHTTP(w, r) }

// ActOnWebhooks acts on the events that providers have sent until the context
// ends. Several processes may do so at once: an event is acted upon by one of
// them, and by another if that one dies.
func (s *Service) ActOnWebhooks(ctx context.Context) { newClerk(s.server).run(ctx, clerkEvery) }

// New returns the service. It stores the bootstrap API key, so the database
// must be there and migrated. Somebody must call ActOnWebhooks.
func New(c Config) (*Service, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.ensureBootstrapKey(ctx); err != nil {
		return nil, err
	}
	s := &server{Config: c, mux: http.NewServeMux(), limits: newLimiters(c.Limits)}
	var err error
	if s.pages, err = newPages(&s.Config); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(c.Registry); err != nil {
		return nil, err
	}
	if err := s.metrics.watchMail(s.DB); err != nil {
		return nil, err
	}
	api := s.newAPI()
	s.routes(api)
	return &Service{s}, nil
}

func (s *server) routes(api huma.API) {
	s.connectionRoutes(api)
	s.importRoutes(api)
	s.reportRoutes(api)
	s.anyReportRoutes(api)
	s.caseRoutes(api)
	s.steeringRoutes(api)
	s.stormRoutes(api)
	s.mailRoutes(api)
	s.bulkRoutes(api)
	s.embeddedRoutes(api)
	s.tokenRoutes(api)
	s.quarantineRoutes(api)
	s.reachRoutes(api)

	s.mux.HandleFunc("GET /r/{link}", s.showLink)
	s.mux.HandleFunc("POST /r/{link}", s.pressLink)
	s.mux.HandleFunc("GET /stop/{link}", s.showStop)
	s.mux.HandleFunc("POST /stop/{link}", s.pressStop)
	s.mux.HandleFunc("GET /callback", s.callback)
	s.mux.HandleFunc("GET /callback/{application}", s.callback)
	s.mux.HandleFunc("GET /done/{ticket}", s.done)
	s.mux.HandleFunc("GET /again/{ticket}", s.again)
	s.mux.HandleFunc("GET /assets/{name}", s.pages.asset)

	s.mux.HandleFunc("POST /webhooks/finch", s.finchWebhook)
	s.mux.HandleFunc("POST /webhooks/atto", s.attoWebhook)

	s.mux.HandleFunc("GET /healthz", s.healthz)
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.Handle("GET /metrics", s.guard(s.MetricsOpen, ScopeMetrics, s.metrics.handler()))
	s.codecRoutes()

	s.operatorRoutes()

	s.mux.HandleFunc("GET /docs", s.docs(api.OpenAPI()))
	s.mux.HandleFunc("GET /{$}", s.home)
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.observe(w, r, s.route)
}

// route answers what no route takes in the service's own words; everything
// else is the mux's.
func (s *server) route(w http.ResponseWriter, r *http.Request) {
	if !s.withinRate(w, r) {
		return
	}
	handler, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	probe := &statusProbe{header: http.Header{}}
	handler.ServeHTTP(probe, r)
	s.notRouted(w, r, probe)
}

// statusProbe learns what the mux would answer: 404, 405 with the methods
// that are allowed, or a redirect to the path's clean form.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
