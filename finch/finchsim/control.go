package finchsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/finch"
)

// shown is how many connections the page at / lists.
const shown = 200

func (s *Sim) controlRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.showIndex)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { write(w, ok(map[string]string{"status": "ok"})) })
	for name, serve := range map[string]func(*http.Request, input) (any, error){
		"GET /sim/connections":                                s.listConnections,
		"POST /sim/connections":                               s.postConnection,
		"GET /sim/connections/{id}":                           s.getConnection,
		"POST /sim/connections/{id}/break":                    s.postStatus(finch.StatusReauth),
		"POST /sim/connections/{id}/restore":                  s.postStatus(finch.StatusConnected),
		"POST /sim/connections/{id}/status":                   s.postStatus(""),
		"POST /sim/connections/{id}/delete":                   s.postDelete,
		"POST /sim/connections/{id}/entities/{entity}/{what}": s.postEntity,
		"POST /sim/connections/{id}/token":                    s.postToken,
		"POST /sim/connections/{id}/sync":                     s.postSync,
		"GET /sim/sessions":                                   s.listSessions,
		"POST /sim/sessions/{id}/complete":                    s.postComplete,
		"GET /sim/knobs":                                      s.getKnobs,
		"PUT /sim/knobs":                                      s.putKnobs,
		"POST /sim/knobs":                                     s.putKnobs,
		"DELETE /sim/knobs":                                   s.deleteKnobs,
		"GET /sim/counters":                                   s.getCounters,
		"GET /sim/clock":                                      s.getClock,
		"POST /sim/clock":                                     s.postClock,
		"POST /sim/webhooks":                                  s.postWebhook,
	} {
		mux.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) { s.control(w, r, serve) })
	}
}

// input is what a control call brought: JSON, or the fields of a form on the
// page at /.
type input struct {
	json []byte
	form url.Values
}

// control serves one control call. A form is answered with a page.
func (s *Sim) control(w http.ResponseWriter, r *http.Request, serve func(*http.Request, input) (any, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	in := input{json: body}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isForm := kind == "application/x-www-form-urlencoded"
	if isForm && err == nil {
		in.json = nil
		in.form, err = url.ParseQuery(string(body))
	}
	if err != nil {
		err = invalid(errors.New("the request body cannot be read"))
	}
	var result any
	if err == nil {
		result, err = serve(r, in)
	}
	status := http.StatusOK
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrExists):
		status = http.StatusConflict
	case errors.Is(err, ErrSessionOver):
		status = http.StatusGone
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	case err != nil:
		status = http.StatusInternalServerError
	}
	switch {
	case err != nil && isForm:
		s.render(w, status, "message.html", map[string]any{"Title": "That did not work", "Text": err.Error()})
	case err != nil:
		write(w, answer{status, map[string]string{"error": err.Error()}})
	case !isForm:
		write(w, ok(result))
	default:
		if n, isNew := result.(newConnection); isNew {
			// The one time that its token is shown.
			s.render(w, status, "message.html", map[string]any{
				"Title": "Connection added", "Text": "Its access token, which is not shown again:", "Connection": n,
			})
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

// read decodes a JSON body strictly, so that a misspelt knob is noticed. No
// body at all is an empty object.
func (in input) read(into any) error {
	if len(strings.TrimSpace(string(in.json))) == 0 {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(in.json)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return invalid(err)
	}
	return nil
}

func (s *Sim) listConnections(*http.Request, input) (any, error) {
	return map[string]any{"connections": s.Connections()}, nil
}

func (s *Sim) getConnection(r *http.Request, _ input) (any, error) {
	return s.Connection(r.PathValue("id"))
}

// newConnection is a connection that was made just now.
type newConnection struct {
	ConnectionID string `json:"connection_id"`
	AccessToken  string `json:"access_token"`
}

func (s *Sim) postConnection(_ *http.Request, in input) (any, error) {
	n := NewConnection{CustomerName: in.form.Get("customer_name"), ProviderID: in.form.Get("provider_id")}
	for name := range strings.SplitSeq(in.form.Get("entities"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			n.Entities = append(n.Entities, name)
		}
	}
	if err := in.read(&n); err != nil {
		return nil, err
	}
	c, accessToken, err := s.AddConnection(n)
	return newConnection{c.ID, accessToken}, err
}

// postStatus sets the given status, or the one that the request names.
func (s *Sim) postStatus(status string) func(*http.Request, input) (any, error) {
	return func(r *http.Request, in input) (any, error) {
		var body struct {
			Status   string   `json:"status"`
			Entities []string `json:"entity_ids"`
		}
		if err := in.read(&body); err != nil {
			return nil, err
		}
		if status != "" {
			body.Status = status
		}
		if err := s.SetStatus(r.PathValue("id"), body.Status, body.Entities...); err != nil {
			return nil, err
		}
		return s.Connection(r.PathValue("id"))
	}
}

// postEntity breaks, restores or disconnects one entity.
func (s *Sim) postEntity(r *http.Request, _ input) (any, error) {
	id, entity := r.PathValue("id"), r.PathValue("entity")
	var err error
	switch what := r.PathValue("what"); what {
	case "break":
		err = s.Break(id, entity)
	case "restore":
		err = s.Restore(id, entity)
	case "disconnect":
		err = s.DisconnectEntity(id, entity)
	default:
		err = invalid(errors.New("an entity can be told to break, restore or disconnect"))
	}
	if err != nil {
		return nil, err
	}
	return s.Connection(id)
}

func (s *Sim) postDelete(r *http.Request, _ input) (any, error) {
	if err := s.Delete(r.PathValue("id")); err != nil {
		return nil, err
	}
	return s.Connection(r.PathValue("id"))
}

func (s *Sim) postToken(r *http.Request, _ input) (any, error) {
	accessToken, err := s.MintToken(r.PathValue("id"))
	return newConnection{r.PathValue("id"), accessToken}, err
}

func (s *Sim) listSessions(r *http.Request, _ input) (any, error) {
	return map[string]any{"sessions": s.Sessions(r.URL.Query().Get("connection_id"))}, nil
}

func (s *Sim) postComplete(r *http.Request, in input) (any, error) {
	body := struct {
		Account  Account  `json:"account"`
		State    string   `json:"state"`
		Embedded bool     `json:"embedded"`
		Entities []string `json:"entity_ids"` // those that the person can log in for; all if empty
	}{Account: SameAccount}
	if err := in.read(&body); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	text, err := s.completeConnect(id, body.Account, body.Embedded, body.Entities...)
	if err != nil {
		return nil, err
	}
	if body.Embedded {
		return map[string]string{"code": text}, nil
	}
	s.mu.Lock()
	redirectURI := s.state.Sessions[id].RedirectURI
	s.mu.Unlock()
	return map[string]string{"code": text, "redirect_url": s.redirectTarget(redirectURI, text, body.State)}, nil
}

func (s *Sim) getKnobs(*http.Request, input) (any, error) { return s.Knobs(), nil }

// putKnobs sets the knobs that the request names and leaves the others.
func (s *Sim) putKnobs(_ *http.Request, in input) (any, error) {
	err := s.setKnobs(func(k *Knobs) error {
		if in.form != nil {
			for _, b := range switches(k) {
				*b.On = in.form.Get(b.Name) != ""
			}
			return nil
		}
		// The faults are replaced as a whole: decoding into the present ones
		// would mix their fields with the new ones'.
		faults := k.Faults
		k.Faults = nil
		if err := in.read(k); err != nil {
			return err
		}
		if k.Faults == nil {
			k.Faults = faults
		}
		return nil
	})
	return s.Knobs(), err
}

func (s *Sim) deleteKnobs(*http.Request, input) (any, error) {
	knobs := DefaultKnobs()
	if s.cfg.Knobs != nil {
		knobs = s.cfg.Knobs.clone()
	}
	err := s.SetKnobs(func(k *Knobs) { *k = knobs })
	return s.Knobs(), err
}

// A toggle is a knob that the page at / shows as a checkbox.
type toggle struct {
	Name, Label string
	On          *bool
}

// Set reports whether the knob is on.
func (t toggle) Set() bool { return *t.On }

func switches(k *Knobs) []toggle {
	return []toggle{
		{"webhooks", "Send webhooks", &k.Webhooks},
		{"echo_state", "Return state to the redirect URI", &k.EchoState},
		{"session_superseded_by_newer", "A newer session ends the older ones", &k.SessionSupersededByNewer},
		{"session_reusable", "A session can be completed more than once", &k.SessionReusable},
		{"old_token_dies", "A new token ends the older ones", &k.OldTokenDies},
		{"introspect_unauthorized", "Introspection of a stale connection answers 401", &k.IntrospectUnauthorized},
		{"batch_errors_inline", "Batch calls answer 200 with errors inside", &k.BatchErrorsInline},
	}
}

func (s *Sim) getCounters(*http.Request, input) (any, error) { return s.Counters(), nil }

func (s *Sim) getClock(*http.Request, input) (any, error) { return s.clock(), nil }

func (s *Sim) clock() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]any{"now": s.now().Format(time.RFC3339Nano), "advanced": s.state.Advanced}
}

func (s *Sim) postClock(_ *http.Request, in input) (any, error) {
	var body struct {
		Advance Duration `json:"advance"`
	}
	if in.form != nil {
		if err := body.Advance.UnmarshalText([]byte(in.form.Get("advance"))); err != nil {
			return nil, invalid(err)
		}
	}
	if err := in.read(&body); err != nil {
		return nil, err
	}
	_, err := s.Advance(time.Duration(body.Advance))
	return s.clock(), err
}

// postWebhook sends an event about a connection that nothing else causes.
func (s *Sim) postWebhook(_ *http.Request, in input) (any, error) {
	body := struct {
		ConnectionID string         `json:"connection_id"`
		EntityID     string         `json:"entity_id"`
		Type         string         `json:"event_type"`
		Status       string         `json:"status"`
		Data         map[string]any `json:"data"`
	}{Type: finch.EventAccountUpdated}
	if err := in.read(&body); err != nil {
		return nil, err
	}
	if body.Data == nil {
		body.Data = map[string]any{"status": body.Status, "authentication_method": "credential"}
	}
	var id string
	err := s.change(func() error {
		c := s.state.Connections[body.ConnectionID]
		if c == nil {
			return fmt.Errorf("connection %w", ErrNotFound)
		}
		if s.cfg.WebhookURL == "" {
			return invalid(errors.New("no webhook URL is configured"))
		}
		id = s.enqueue(c, body.EntityID, body.Type, body.Data)
		return nil
	})
	return map[string]string{"event_id": id}, err
}

// indexPage is the page at /.
type indexPage struct {
	Connections []indexRow
	More        int // how many are not shown
	Query       string
	Providers   []string
	Toggles     []toggle
	Now         time.Time
	Advanced    time.Duration
	Faults      int
	Counters    Counters
}

type indexRow struct {
	Connection
	Name    string
	Alive   bool
	Waiting string // the open session, if any
}

func (s *Sim) showIndex(w http.ResponseWriter, r *http.Request) {
	knobs := s.Knobs()
	page := indexPage{
		Query: strings.TrimSpace(r.URL.Query().Get("q")), Toggles: switches(&knobs), Faults: len(knobs.Faults),
		Counters: s.Counters(), Providers: providerIDs(),
	}
	all := s.Connections()
	s.mu.Lock()
	page.Now, page.Advanced = s.now(), time.Duration(s.state.Advanced)
	waiting := map[string]*Session{}
	for _, x := range s.state.Sessions {
		if newest := waiting[x.ConnectionID]; s.over(x) == "" && (newest == nil || x.CreatedAt.After(newest.CreatedAt)) {
			waiting[x.ConnectionID] = x
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		row := indexRow{Connection: c, Name: c.name(), Alive: c.Status != finch.StatusDisconnected}
		if x := waiting[c.ID]; x != nil {
			row.Waiting = s.connectURL(r, x.ID)
		}
		if !strings.Contains(strings.ToLower(c.ID+" "+row.Name+" "+c.ProviderID+" "+c.Status), strings.ToLower(page.Query)) {
			continue
		}
		if len(page.Connections) == shown {
			page.More++
			continue
		}
		page.Connections = append(page.Connections, row)
	}
	s.render(w, http.StatusOK, "index.html", page)
}
