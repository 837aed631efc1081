package finchsim

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	maxBody         = 1 << 20
	defaultProvider = "gusto"

	// maxSessionMinutes is what Finch states for a new session. For logging in
	// again it states no limit; the same one is assumed.
	maxSessionMinutes        = reauth.MaxSessionMinutes
	defaultNewSessionMinutes = 129_600
)

var (
	settableStatuses = []string{
		finch.StatusPending, finch.StatusProcessing, finch.StatusConnected,
		finch.StatusErrorNoAccountSetup, finch.StatusErrorPermissions, finch.StatusReauth,
	}
	knownProducts = []string{
		"benefits", "company", "deduction", "directory", "documents", "employment", "individual", "payment",
		"pay_statement", "plans", "plans_dependents", "plans_enrollments", "recordkeeping", "ssn",
	}
	authenticationTypes = []string{"credential", "api_token", "oauth", "assisted"}
	providerNames       = map[string]string{
		"gusto": "Gusto", "bamboo_hr": "BambooHR", "adp_run": "ADP Run", "paychex_flex": "Paychex Flex",
		"rippling": "Rippling", "justworks": "Justworks", "quickbooks": "QuickBooks", "workday": "Workday",
		"finch_sandbox": "Finch Sandbox",
	}
)

// providerIDs lists the providers that have a name, in order.
func providerIDs() []string { return slices.Sorted(maps.Keys(providerNames)) }

// providerName is the provider's name for people.
func providerName(id string) string {
	if name := providerNames[id]; name != "" {
		return name
	}
	return id
}

// endpoints are the calls of Finch's API that the simulator answers.
var endpoints = map[string]func(*Sim, *apiCall) answer{
	"POST /connect/sessions":                (*Sim).newSession,
	"POST /connect/sessions/reauthenticate": (*Sim).reauthenticate,
	"POST /auth/token":                      (*Sim).exchange,
	"GET /introspect":                       (*Sim).introspect,
	"POST /disconnect":                      (*Sim).disconnect,
	"POST /disconnect-entity":               (*Sim).disconnectEntity,
	"GET /employer/company":                 (*Sim).company,
	"GET /employer/directory":               (*Sim).directory,
	"POST /employer/individual":             (*Sim).individual,
	"GET /providers":                        (*Sim).providers,
	"POST /sandbox/connections":             (*Sim).sandboxConnection,
	"PUT /sandbox/connections/accounts":     (*Sim).sandboxAccount,
	"POST /jobs/automated":                  (*Sim).startJob,
	"GET /jobs/automated/{job_id}":          (*Sim).readJob,
	"POST /sandbox/jobs":                    (*Sim).startJob,
	"GET /sandbox/jobs/configuration":       (*Sim).readJobConfiguration,
	"PUT /sandbox/jobs/configuration":       (*Sim).configureJobs,
}

// Endpoints lists the endpoints that latencies, faults and counters name.
func Endpoints() []string { return slices.Sorted(maps.Keys(endpoints)) }

func checkEndpoint(name string) error {
	if name != "*" && !slices.Contains(Endpoints(), name) {
		return fmt.Errorf("endpoint must be \"*\" or one of %s", strings.Join(Endpoints(), ", "))
	}
	return nil
}

// apiCall is one request to the API.
type apiCall struct {
	*http.Request
	body []byte
}

// answer is what a call is answered with: a status, and a body as JSON.
type answer struct {
	status int
	body   any
}

func ok(body any) answer { return answer{http.StatusOK, body} }

// apiError is an error as Finch's table of error types has it. StatusCode and
// Status repeat Code where Finch does so too.
type apiError struct {
	StatusCode int            `json:"statusCode,omitempty"`
	Status     int            `json:"status,omitempty"`
	Code       int            `json:"code"`
	Name       string         `json:"name"`
	FinchCode  string         `json:"finch_code,omitempty"`
	Message    string         `json:"message"`
	Context    map[string]any `json:"context,omitempty"`
}

func refuse(status int, name, finchCode, message string) answer {
	return answer{status, apiError{Code: status, Name: name, FinchCode: finchCode, Message: message}}
}

func badRequest(message string) answer {
	return refuse(http.StatusBadRequest, "bad_request", "invalid_request", message)
}

var (
	invalidBasic = answer{http.StatusUnauthorized, map[string]string{"error": "Invalid client: Unable to validate credentials"}}

	reauthenticateUser = refuse(http.StatusUnauthorized, "authentication_error", finch.CodeReauthenticateUser, "Please reauthenticate user")
	invalidToken       = refuse(http.StatusUnauthorized, "invalid_token_error", "", "Invalid access token")
	// Finch's documents only say that a disconnected connection's tokens get an
	// "Unauthorized" error.
	disconnected = refuse(http.StatusUnauthorized, "invalid_token_error", "", "Unauthorized")
	noToken      = answer{http.StatusUnauthorized, apiError{
		StatusCode: http.StatusUnauthorized, Status: http.StatusUnauthorized, Code: http.StatusUnauthorized,
		Name: "unauthorized_request_error", Message: "Unauthorized request: no authentication given",
	}}
	rateLimited = answer{http.StatusTooManyRequests, apiError{
		StatusCode: http.StatusTooManyRequests, Status: http.StatusTooManyRequests, Code: http.StatusTooManyRequests,
		Name: "rate_limit_exceeded_error", FinchCode: "finch_application_rl", Message: "Too many requests for token",
	}}
	serverError  = refuse(http.StatusInternalServerError, "server_error", "internal_server_error", "Internal server error")
	notFound     = refuse(http.StatusNotFound, "not_found_error", "", "Not found")
	notReady     = answer{http.StatusAccepted, apiError{Code: http.StatusAccepted, Name: "accepted", FinchCode: "data_sync_in_progress", Message: "The data is not ready yet"}}
	invalidGrant = refuse(http.StatusBadRequest, "invalid_grant_error", "", "Invalid authorization code")
)

func (s *Sim) apiRoutes(mux *http.ServeMux) {
	for name, serve := range endpoints {
		mux.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) { s.serveAPI(w, r, name, serve) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Finch-Request-Id", uuid.NewString())
		write(w, notFound)
	})
}

// serveAPI answers one call: faults and delays first, then what Finch would
// answer, which is sent only once the state is saved.
func (s *Sim) serveAPI(w http.ResponseWriter, r *http.Request, name string, serve func(*Sim, *apiCall) answer) {
	// Only when the body has been read does the server notice a caller who
	// hangs up.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	w.Header().Set("Finch-Request-Id", uuid.NewString())
	fault, delay, failed := s.admit(name)
	switch {
	case failed != nil:
		s.fail(w, failed)
		return
	case fault.Kind == FaultTimeout:
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	}
	if !s.pause(r, delay) || fault.Kind == FaultDrop {
		panic(http.ErrAbortHandler)
	}
	switch fault.Kind {
	case FaultRateLimit:
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(time.Duration(fault.RetryAfter).Seconds())))
		}
		write(w, rateLimited)
		return
	case FaultServerError:
		write(w, serverError)
		return
	case FaultAnswer:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(fault.Status)
		_, _ = io.WriteString(w, fault.Body)
		return
	}
	if err != nil {
		write(w, badRequest("The request body is too large or was not received"))
		return
	}
	s.mu.Lock()
	retryAfter, limited := s.overLimit(name)
	a := rateLimited
	if !limited {
		a = s.serve(name, &apiCall{Request: r, body: body}, serve)
		s.countSuccess(name, a)
	}
	err = s.commit()
	s.mu.Unlock()
	if retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retryAfter.Seconds()))))
	}
	switch {
	case err != nil:
		s.fail(w, err)
	case fault.Kind == FaultLost:
		panic(http.ErrAbortHandler)
	default:
		if strings.HasPrefix(r.URL.Path, "/employer/") && a.status == http.StatusOK {
			w.Header().Set("Finch-Data-Retrieved", time.Now().UTC().Format(time.RFC3339))
		}
		write(w, a)
	}
}

// overLimit reports whether an endpoint's limit refuses a call, and how long it
// asks to wait, if the knob lets it say so.
func (s *Sim) overLimit(name string) (retryAfter time.Duration, limited bool) {
	limit, ok := s.state.Knobs.limit(name)
	if !ok {
		return 0, false
	}
	now, window := s.now(), time.Duration(limit.Window)
	in := slices.DeleteFunc(s.succeeded[name], func(at time.Time) bool { return !now.Before(at.Add(window)) })
	s.succeeded[name] = in
	if len(in) < limit.Calls {
		return 0, false
	}
	s.state.Counters.Limited[name]++
	if limit.RetryAfter {
		retryAfter = in[len(in)-limit.Calls].Add(window).Sub(now)
	}
	return retryAfter, true
}

// countSuccess counts a call for its limit, unless it failed.
func (s *Sim) countSuccess(name string, a answer) {
	if _, limited := s.state.Knobs.limit(name); limited && a.status < 300 {
		s.succeeded[name] = append(s.succeeded[name], s.now())
	}
}

func (s *Sim) serve(name string, c *apiCall, serve func(*Sim, *apiCall) answer) answer {
	switch version := c.Header.Get("Finch-API-Version"); {
	case version == "" && !strings.HasPrefix(name, "POST /connect/sessions"):
		return badRequest("The header Finch-API-Version is missing")
	case version != "" && version != finch.APIVersion:
		return badRequest("The header Finch-API-Version must be " + finch.APIVersion)
	}
	return serve(s, c)
}

// admit counts a call and says what is to go wrong with it.
func (s *Sim) admit(name string) (fault Fault, delay time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Counters.Calls[name]++
	fault, hit := s.state.Knobs.take(name)
	s.dirty = s.dirty || hit
	return fault, s.state.Knobs.latency(name), s.commit()
}

// pause waits, and reports whether the caller is still there.
func (s *Sim) pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
	return false
}

// fail answers a request that failed for the simulator's own fault.
func (s *Sim) fail(w http.ResponseWriter, err error) {
	s.cfg.Logger.Error("simulated finch failed", "error", err)
	write(w, serverError)
}

func write(w http.ResponseWriter, a answer) {
	text, err := json.Marshal(a.body)
	if err != nil {
		a.status, text = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(a.status)
	_, _ = w.Write(text)
}

// read decodes a request's JSON body, and says what is wrong with it.
func (c *apiCall) read(into any) (problem string) {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return "A JSON body is needed"
	}
	if err := json.Unmarshal(c.body, into); err != nil {
		return "The request body is not the JSON that is expected"
	}
	return ""
}

// same compares secrets without telling by the time it takes where they differ.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (s *Sim) clientOK(id, secret string) bool {
	return same(id, s.cfg.ClientID) && same(secret, s.cfg.ClientSecret)
}

func (s *Sim) basicOK(c *apiCall) bool {
	id, secret, given := c.BasicAuth()
	return given && s.clientOK(id, secret)
}

// bearer finds the connection that a call's access token opens.
func (s *Sim) bearer(c *apiCall) (*token, *Connection, *answer) {
	scheme, text, _ := strings.Cut(c.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || text == "" {
		return nil, nil, &noToken
	}
	t := s.state.Tokens[strings.TrimSpace(text)]
	if t == nil || t.Dead {
		return nil, nil, &invalidToken
	}
	conn := s.state.Connections[t.ConnectionID]
	if conn.Status == finch.StatusDisconnected {
		return nil, nil, &disconnected
	}
	return t, conn, nil
}

func (s *Sim) newSession(c *apiCall) answer {
	if !s.basicOK(c) {
		return invalidBasic
	}
	var in struct {
		CustomerID   string   `json:"customer_id"`
		CustomerName string   `json:"customer_name"`
		Products     []string `json:"products"`
		RedirectURI  *string  `json:"redirect_uri"`
		Minutes      *float64 `json:"minutes_to_expire"`
		Sandbox      *string  `json:"sandbox"`
		Manual       *bool    `json:"manual"`
		Integration  *struct {
			Provider   string  `json:"provider"`
			AuthMethod *string `json:"auth_method"`
		} `json:"integration"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	length := func(s string) bool { return len(s) >= 1 && len(s) <= 255 }
	switch {
	case !length(in.CustomerID) || !length(in.CustomerName):
		return badRequest("customer_id and customer_name must have 1 to 255 characters")
	case len(in.Products) == 0:
		return badRequest("products must not be empty")
	case in.Sandbox != nil && *in.Sandbox != "finch" && *in.Sandbox != "provider":
		return badRequest("sandbox must be finch or provider")
	case in.Integration != nil && in.Integration.Provider == "":
		return badRequest("integration.provider is needed")
	}
	minutes := float64(defaultNewSessionMinutes)
	if in.Minutes != nil {
		minutes = *in.Minutes
	}
	if problem := s.sessionProblem(in.Products, in.RedirectURI, minutes); problem != "" {
		return badRequest(problem)
	}
	for _, conn := range s.state.Connections {
		if conn.CustomerID == in.CustomerID && conn.Status != finch.StatusDisconnected {
			return answer{http.StatusBadRequest, apiError{
				Code: http.StatusBadRequest, Name: "bad_request", FinchCode: finch.CodeConnectionAlreadyExists,
				Message: fmt.Sprintf("There's an existing connection for the customer_id: %s. Please use the /connect/sessions/reauthenticate endpoint instead.", in.CustomerID),
				Context: map[string]any{"customer_id": in.CustomerID, "connection_id": conn.ID},
			}}
		}
	}
	// The same customer gets the same session again until it is completed.
	now := s.now()
	var session *Session
	for _, x := range s.state.Sessions {
		if x.CustomerID == in.CustomerID && x.ConnectionID == "" && x.CompletedAt == nil {
			session = x
		}
	}
	if session == nil {
		session = s.openSession(now)
	}
	session.CustomerID, session.CustomerName, session.Products = in.CustomerID, in.CustomerName, in.Products
	session.ProviderID, session.RedirectURI = defaultProvider, deref(in.RedirectURI)
	if in.Integration != nil {
		session.ProviderID = in.Integration.Provider
	}
	session.ExpiresAt = now.Add(time.Duration(minutes * float64(time.Minute)))
	s.dirty = true
	return s.opened(c, session)
}

func (s *Sim) reauthenticate(c *apiCall) answer {
	if !s.basicOK(c) {
		return invalidBasic
	}
	var in struct {
		ConnectionID string      `json:"connection_id"`
		RedirectURI  *string     `json:"redirect_uri"`
		Minutes      json.Number `json:"minutes_to_expire"`
		Products     []string    `json:"products"`
	}
	var present map[string]json.RawMessage
	if problem := c.read(&in); problem != "" || c.read(&present) != "" {
		return badRequest(problem)
	}
	minutes := int64(reauth.DefaultSessionMinutes)
	if raw, given := present["minutes_to_expire"]; given {
		var err error
		if minutes, err = in.Minutes.Int64(); err != nil || raw[0] == '"' {
			return badRequest("minutes_to_expire must be an integer")
		}
	}
	if in.ConnectionID == "" {
		return badRequest("connection_id is needed")
	}
	if problem := s.sessionProblem(in.Products, in.RedirectURI, float64(minutes)); problem != "" {
		return badRequest(problem)
	}
	conn, err := s.live(in.ConnectionID)
	if err != nil {
		return badRequest("Connection not found")
	}
	now := s.now()
	if s.state.Knobs.SessionSupersededByNewer {
		for _, x := range s.state.Sessions {
			if x.ConnectionID == conn.ID && x.CompletedAt == nil && x.SupersededAt == nil {
				x.SupersededAt = &now
			}
		}
	}
	session := s.openSession(now)
	session.ConnectionID, session.CustomerID, session.CustomerName = conn.ID, conn.CustomerID, conn.CustomerName
	session.ProviderID, session.Products, session.RedirectURI = conn.ProviderID, in.Products, deref(in.RedirectURI)
	session.ExpiresAt = now.Add(time.Duration(minutes) * time.Minute)
	return s.opened(c, session)
}

// sessionProblem checks what both kinds of sessions have.
func (s *Sim) sessionProblem(products []string, redirectURI *string, minutes float64) string {
	if err := checkProducts(products); err != nil {
		return err.Error()
	}
	if minutes < reauth.MinSessionMinutes || minutes > maxSessionMinutes {
		return fmt.Sprintf("minutes_to_expire must be from %d to %d", reauth.MinSessionMinutes, maxSessionMinutes)
	}
	if uri := deref(redirectURI); redirectURI != nil && !slices.Contains(s.cfg.RedirectURIs, uri) {
		return "redirect_uri is not one of the redirect URIs that are configured"
	}
	return ""
}

func checkProducts(products []string) error {
	for _, p := range products {
		if !slices.Contains(knownProducts, p) {
			return fmt.Errorf("products must be among %s", strings.Join(knownProducts, ", "))
		}
	}
	return nil
}

func (s *Sim) openSession(now time.Time) *Session {
	x := &Session{ID: uuid.NewString(), CreatedAt: now}
	s.state.Sessions[x.ID] = x
	s.state.Counters.SessionsOpened++
	s.dirty = true
	return x
}

func (s *Sim) opened(c *apiCall, x *Session) answer {
	return answer{http.StatusCreated, map[string]string{
		"session_id": x.ID, "connect_url": s.connectURL(c.Request, x.ID),
	}}
}

func (s *Sim) exchange(c *apiCall) answer {
	var in struct {
		ClientID     string  `json:"client_id"`
		ClientSecret string  `json:"client_secret"`
		Code         string  `json:"code"`
		RedirectURI  *string `json:"redirect_uri"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	if !s.clientOK(in.ClientID, in.ClientSecret) {
		return refuse(http.StatusUnauthorized, "invalid_client_error", "", "Invalid client: Unable to validate credentials")
	}
	if in.Code == "" {
		return badRequest("code is needed")
	}
	found := s.state.Codes[in.Code]
	if found == nil {
		s.state.Counters.Exchanges[UnknownCode]++
		return invalidGrant
	}
	s.state.Counters.Exchanges[reauth.CodeHash(in.Code)]++
	s.dirty = true
	now := s.now()
	conn, err := s.live(found.ConnectionID)
	switch {
	case found.UsedAt != nil, !now.Before(found.IssuedAt.Add(reauth.CodeLifetime)), err != nil:
		return invalidGrant
	case (in.RedirectURI != nil) != (found.RedirectURI != "") || deref(in.RedirectURI) != found.RedirectURI:
		return refuse(http.StatusBadRequest, "invalid_grant_error", "", "Invalid redirect_uri for this authorization code")
	}
	found.UsedAt = &now
	if s.state.Knobs.OldTokenDies {
		for _, t := range s.state.Tokens {
			t.Dead = t.Dead || t.ConnectionID == conn.ID
		}
	}
	conn.Processing = s.state.Knobs.VerifyPending
	accessToken := s.mint(conn.ID)
	entities := make([]string, 0, len(conn.Entities))
	for _, e := range conn.Entities {
		entities = append(entities, e.ID)
	}
	return ok(map[string]any{
		"access_token": accessToken, "token_type": "bearer", "client_type": "sandbox",
		"connection_id": conn.ID, "connection_type": "finch", "entity_ids": entities,
		"products": conn.Products, "provider_id": conn.ProviderID,
		"account_id": conn.AccountID, "company_id": conn.CompanyID,
		"customer_id": nullable(conn.CustomerID), "customer_name": nullable(conn.CustomerName),
	})
}

func (s *Sim) introspect(c *apiCall) answer {
	t, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	status := conn.Status
	if conn.Processing > 0 && status == finch.StatusConnected {
		status = finch.StatusProcessing
		conn.Processing--
		s.dirty = true
	}
	if status == finch.StatusReauth && s.state.Knobs.IntrospectUnauthorized {
		return reauthenticateUser
	}
	state := map[string]any{
		"status": status, "message": statusMessages[status], "last_successful_sync": conn.LastSync.Format(time.RFC3339),
	}
	body := map[string]any{
		"id": t.ID, "client_id": s.cfg.ClientID, "client_type": "sandbox",
		"connection_id": conn.ID, "connection_type": "finch", "connection_status": state,
		"account_id": conn.AccountID, "company_id": conn.CompanyID, "products": conn.Products,
		"provider_id": conn.ProviderID, "payroll_provider_id": conn.ProviderID,
		"customer_id": nullable(conn.CustomerID), "customer_name": nullable(conn.CustomerName), "customer_email": nil,
		"authentication_methods": []any{map[string]any{
			"type": conn.AuthenticationType, "connection_status": state, "products": conn.Products,
		}},
		"username": nil, "manual": conn.AuthenticationType == "assisted",
	}
	if len(conn.Entities) > 1 {
		entities := make([]any, 0, len(conn.Entities))
		for _, e := range conn.Entities {
			entities = append(entities, map[string]any{"id": e.ID, "name": e.Name, "source_id": nil, "status": e.Status})
		}
		body["entities"] = entities
	}
	return ok(body)
}

var statusMessages = map[string]string{
	finch.StatusPending:             "The employer has connected, and access to its provider is being set up",
	finch.StatusProcessing:          "The connection is being processed",
	finch.StatusConnected:           "The connection is working as expected",
	finch.StatusErrorNoAccountSetup: "The employer must set up an account for access",
	finch.StatusErrorPermissions:    "The account lacks permissions",
	finch.StatusReauth:              "The employer must authenticate again",
}

func (s *Sim) disconnect(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	s.setStatus(conn, finch.StatusDisconnected)
	s.dirty = true
	return ok(map[string]string{"status": "success"})
}

func (s *Sim) disconnectEntity(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	var in struct {
		Entities []string `json:"entity_ids"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	if len(in.Entities) == 0 {
		return badRequest("entity_ids must not be empty")
	}
	for _, id := range in.Entities {
		if !conn.has(id) {
			return badRequest("entity_ids names no entity of this connection")
		}
	}
	s.setStatus(conn, finch.StatusDisconnected, in.Entities...)
	s.dirty = true
	return ok(map[string]string{"status": "success"})
}

// data admits a call for data of one product.
func (s *Sim) data(c *apiCall, product string) (*Connection, *answer) {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return nil, refused
	}
	status := conn.Status
	for _, key := range []string{"entity_ids[]", "entity_ids"} {
		for _, id := range c.URL.Query()[key] {
			i := slices.IndexFunc(conn.Entities, func(e Entity) bool { return e.ID == id })
			if i < 0 {
				a := badRequest("entity_ids names no entity of this connection")
				return nil, &a
			}
			if status == finch.StatusConnected {
				status = conn.Entities[i].Status
			}
		}
	}
	var a answer
	switch {
	case status == finch.StatusReauth:
		a = reauthenticateUser
	case status == finch.StatusErrorNoAccountSetup:
		a = refuse(http.StatusUnauthorized, "authentication_error", finch.CodeAccountSetupRequired, "The user needs to connect their employment system")
	case status == finch.StatusErrorPermissions:
		a = refuse(http.StatusForbidden, "error_permissions", finch.CodeInsufficientAccountPermissions, "The account lacks permissions")
	case status == finch.StatusPending || status == finch.StatusProcessing || conn.Processing > 0:
		a = notReady
	case !slices.Contains(conn.Products, product):
		a = refuse(http.StatusForbidden, "insufficient_scope_error", "", "The access token does not have the product "+product)
	default:
		return conn, nil
	}
	return conn, &a
}

func (s *Sim) company(c *apiCall) answer {
	conn, refused := s.data(c, "company")
	if refused != nil {
		return *refused
	}
	return ok(map[string]any{
		"id": conn.CompanyID, "legal_name": conn.name(), "ein": nil,
		"entity":        map[string]any{"type": "corporation", "subtype": nil},
		"primary_email": nil, "primary_phone_number": nil,
		"departments": []any{map[string]any{"name": "Operations", "parent": nil}},
		"locations":   []any{}, "accounts": nil,
	})
}

func (s *Sim) directory(c *apiCall) answer {
	conn, refused := s.data(c, "directory")
	if refused != nil {
		return *refused
	}
	page := map[string]int{"offset": 0, "limit": conn.Employees}
	for name := range page {
		text := c.URL.Query().Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return badRequest(name + " must be a number that is not negative")
		}
		page[name] = n
	}
	first := min(page["offset"], conn.Employees)
	last := first + min(page["limit"], conn.Employees-first)
	people := make([]any, 0, last-first)
	for i := first; i < last; i++ {
		people = append(people, person(conn, i))
	}
	return ok(map[string]any{
		"individuals": people, "paging": map[string]int{"count": conn.Employees, "offset": page["offset"]},
	})
}

func (s *Sim) individual(c *apiCall) answer {
	conn, refused := s.data(c, "individual")
	inline := refused != nil && conn != nil && refused.status == http.StatusUnauthorized && s.state.Knobs.BatchErrorsInline
	if refused != nil && !inline {
		return *refused
	}
	var in struct {
		Requests []struct {
			IndividualID string `json:"individual_id"`
		} `json:"requests"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	responses := make([]any, 0, len(in.Requests))
	for _, wanted := range in.Requests {
		one := refuse(http.StatusNotFound, "not_found_error", "individual_not_found", "Individual not found")
		if inline {
			one = *refused
		}
		for i := 0; i < conn.Employees && !inline; i++ {
			if p := person(conn, i); p["id"] == wanted.IndividualID {
				one = ok(p)
				break
			}
		}
		responses = append(responses, map[string]any{"individual_id": wanted.IndividualID, "code": one.status, "body": one.body})
	}
	return ok(map[string]any{"responses": responses})
}

// person makes up somebody who works at the company, always the same.
func person(conn *Connection, i int) map[string]any {
	first := []string{"Ada", "Grace", "Edsger", "Barbara", "Alan", "Frances", "Niklaus", "Radia", "Donald", "Margaret"}
	last := []string{"Marsh", "Okafor", "Lindqvist", "Tanaka", "Moreau", "Silva", "Novak"}
	return map[string]any{
		"id":         uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/%d", conn.ID, i)).String(),
		"first_name": first[i%len(first)], "middle_name": nil, "last_name": last[i%len(last)],
		"is_active": true, "manager": nil, "department": map[string]any{"name": "Operations"},
	}
}

func (s *Sim) providers(c *apiCall) answer {
	list := []any{}
	for _, id := range providerIDs() {
		list = append(list, map[string]any{
			"id": id, "display_name": providerNames[id], "products": knownProducts,
			"authentication_methods": []any{map[string]any{"type": "credential"}}, "manual": false, "mfa_required": false,
		})
	}
	return ok(list)
}

func (s *Sim) sandboxConnection(c *apiCall) answer {
	if !s.basicOK(c) {
		return invalidBasic
	}
	var in struct {
		ProviderID         string   `json:"provider_id"`
		AuthenticationType string   `json:"authentication_type"`
		EmployeeSize       int      `json:"employee_size"`
		Products           []string `json:"products"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	switch {
	case in.ProviderID == "":
		return badRequest("provider_id is needed")
	case in.AuthenticationType != "" && !slices.Contains(authenticationTypes, in.AuthenticationType):
		return badRequest("authentication_type must be one of " + strings.Join(authenticationTypes, ", "))
	case in.EmployeeSize < 0 || in.EmployeeSize > 10_000:
		return badRequest("employee_size must be from 1 to 10000")
	}
	if err := checkProducts(in.Products); err != nil {
		return badRequest(err.Error())
	}
	conn := s.addConnection(NewConnection{
		ProviderID: in.ProviderID, AuthenticationType: in.AuthenticationType, Products: in.Products, Employees: in.EmployeeSize,
	})
	body := sandboxBody(conn)
	body["access_token"], body["token_type"] = s.mint(conn.ID), "bearer"
	s.dirty = true
	return ok(body)
}

func (s *Sim) sandboxAccount(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	var in struct {
		ConnectionStatus *string `json:"connection_status"`
	}
	if len(bytes.TrimSpace(c.body)) > 0 {
		if problem := c.read(&in); problem != "" {
			return badRequest(problem)
		}
	}
	if in.ConnectionStatus != nil {
		if !slices.Contains(settableStatuses, *in.ConnectionStatus) {
			return badRequest("connection_status must be one of " + strings.Join(settableStatuses, ", "))
		}
		s.setStatus(conn, *in.ConnectionStatus)
		s.dirty = true
	}
	return ok(sandboxBody(conn))
}

func sandboxBody(conn *Connection) map[string]any {
	return map[string]any{
		"connection_id": conn.ID, "entity_id": conn.Entities[0].ID, "account_id": conn.AccountID,
		"company_id": conn.CompanyID, "provider_id": conn.ProviderID, "products": conn.Products,
		"authentication_type": conn.AuthenticationType,
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// nullable is null in JSON for an empty text.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
