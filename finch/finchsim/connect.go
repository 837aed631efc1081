package finchsim

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/finch"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed pages/message.js
var messageScript string

func parsePages() (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{
		"provider": providerName,
		"when":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04 MST") },
		"script":   func() template.HTML { return template.HTML("<script>" + messageScript + "</script>") },
		"words":    func(s string) string { return strings.ReplaceAll(s, "_", " ") },
	}).ParseFS(pageFiles, "pages/*.html")
}

// render answers with a page. Nothing but its own style, and the one script
// that tells an embedding page what happened, may run on it.
func (s *Sim) render(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := s.pages.ExecuteTemplate(&page, name, data); err != nil {
		s.cfg.Logger.Error("simulated finch cannot show a page", "error", err)
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256([]byte(messageScript))
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w)
}

func (s *Sim) connectRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /authorize", s.showConnect)
	mux.HandleFunc("POST /authorize", s.actConnect)
}

// connectPage is what a person in Connect sees.
type connectPage struct {
	Title, Problem string
	Session        Session
	Reauth         bool
	Entities       []Entity
	State          string
	Code           string // where no redirect takes it to the application
	// Embedded: the SDK opened the page (app_type=spa), and hands the code to
	// the page around it.
	Embedded bool
	Left     bool
}

// look returns the page of a session, and its status. It changes nothing.
func (s *Sim) look(sessionID, state string) (connectPage, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.state.Sessions[sessionID]
	if x == nil {
		return connectPage{Title: "Session not found", Problem: "This session does not exist."}, http.StatusNotFound
	}
	page := connectPage{Title: "Connect", Session: *x, State: state}
	if why := s.over(x); why != "" {
		page.Title, page.Problem = "Session over", why
		return page, http.StatusGone
	}
	if conn := s.state.Connections[x.ConnectionID]; conn != nil {
		page.Title, page.Reauth = "Reconnect", true
		page.Session.CustomerName = conn.name()
		if len(page.Session.Products) == 0 {
			page.Session.Products = conn.Products
		}
		for _, e := range conn.Entities {
			if len(conn.Entities) > 1 && e.Status == finch.StatusReauth {
				page.Entities = append(page.Entities, e)
			}
		}
	}
	return page, http.StatusOK
}

func (s *Sim) showConnect(w http.ResponseWriter, r *http.Request) {
	page, status := s.look(r.URL.Query().Get("session"), r.URL.Query().Get("state"))
	page.Embedded = r.URL.Query().Get("app_type") == "spa"
	s.render(w, status, "connect.html", page)
}

func (s *Sim) actConnect(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	sessionID, state := r.PostFormValue("session"), r.PostFormValue("state")
	page, status := s.look(sessionID, state)
	page.Embedded = r.PostFormValue("app_type") == "spa"
	if page.Problem != "" {
		s.render(w, status, "connect.html", page)
		return
	}
	var text string
	action, entity, _ := strings.Cut(r.PostFormValue("action"), ":")
	switch action {
	case "authorize", "authorize-other":
		account := SameAccount
		if action == "authorize-other" {
			account = OtherAccount
		}
		var only []string
		if entity != "" {
			only = []string{entity}
		}
		var err error
		if text, err = s.completeConnect(sessionID, account, page.Embedded, only...); err != nil {
			// Somebody else was faster, or the state could not be saved.
			page, status = s.look(sessionID, state)
			if page.Problem == "" {
				page.Title, page.Problem, status = "Try again", "Something went wrong. Please try again.", http.StatusInternalServerError
			}
			s.render(w, status, "connect.html", page)
			return
		}
	case "leave":
		page.Left = true
	default:
		page.Problem = "Please use one of the buttons."
		s.render(w, http.StatusBadRequest, "connect.html", page)
		return
	}
	target := s.redirectTarget(page.Session.RedirectURI, text, state)
	if target == "" || page.Embedded {
		page.Code = text
		s.render(w, http.StatusOK, "connected.html", page)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, target, http.StatusFound)
}

// redirectTarget is where a person who is done, or has left, is sent to. It is
// empty for a session without a redirect URI.
func (s *Sim) redirectTarget(redirectURI, code, state string) string {
	u, err := url.Parse(redirectURI)
	if redirectURI == "" || err != nil {
		return ""
	}
	q := u.Query()
	if code != "" {
		q.Set("code", code)
	}
	if state != "" && s.Knobs().EchoState {
		q.Set("state", state)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
