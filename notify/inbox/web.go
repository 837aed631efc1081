package inbox

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed templates
var templates embed.FS

// Handler returns the inbox page and its API:
//
//	GET    /                            the list
//	GET    /messages/{id}               one message; ?view=html|text|raw, ?width=phone
//	GET    /api/messages?to=            every message in order of arrival, or those to one address
//	DELETE /api/messages
//	GET    /api/messages/{id}           one message
//	DELETE /api/messages/{id}
//	GET    /api/messages/{id}/{html,text,raw}
//	GET    /knobs, PUT /knobs           how the server fails
func (s *Server) Handler() http.Handler {
	pages := template.Must(template.New("").Funcs(template.FuncMap{
		"name":     displayName,
		"clock":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05") + " UTC" },
		"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"snippet":  snippet,
		"join":     strings.Join,
		"duration": func(d Duration) string { return time.Duration(d).String() },
	}).ParseFS(templates, "templates/*.html"))
	p := &page{server: s, templates: pages}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.list)
	mux.HandleFunc("GET /messages/{id}", p.message)
	mux.HandleFunc("POST /messages/{id}/delete", p.delete)
	mux.HandleFunc("POST /delete-all", p.deleteAll)

	mux.HandleFunc("GET /api/messages", p.apiList)
	mux.HandleFunc("DELETE /api/messages", p.apiDeleteAll)
	mux.HandleFunc("GET /api/messages/{id}", p.apiMessage)
	mux.HandleFunc("DELETE /api/messages/{id}", p.apiDelete)
	mux.HandleFunc("GET /api/messages/{id}/html", p.html)
	mux.HandleFunc("GET /api/messages/{id}/text", p.text)
	mux.HandleFunc("GET /api/messages/{id}/raw", p.raw)
	mux.HandleFunc("GET /knobs", p.knobs)
	mux.HandleFunc("PUT /knobs", p.setKnobs)

	// A page somewhere on the web must not empty the inbox of whoever visits it.
	return http.NewCrossOriginProtection().Handler(mux)
}

type page struct {
	server    *Server
	templates *template.Template
}

func (p *page) list(w http.ResponseWriter, _ *http.Request) {
	messages := p.server.Messages()
	slices.Reverse(messages)
	p.show(w, "list.html", struct {
		Messages []Message
		SMTP     string
		Knobs    Knobs
	}{messages, p.server.SMTPAddr(), p.server.Knobs()})
}

func (p *page) message(w http.ResponseWriter, r *http.Request) {
	m, ok := p.server.Message(r.PathValue("id"))
	if !ok {
		http.Error(w, "There is no such message. It may have been deleted.", http.StatusNotFound)
		return
	}
	raw, _ := p.server.Raw(m.ID)
	view := r.FormValue("view")
	if view != "text" && view != "raw" {
		if view = "html"; m.HTML == "" {
			view = "text"
		}
	}
	p.show(w, "message.html", struct {
		Message
		View   string
		Phone  bool
		Raw    string
		Thread []Message
	}{m, view, r.FormValue("width") == "phone", strings.ToValidUTF8(string(raw), "\ufffd"), p.thread(m)})
}

// thread returns the messages of the conversation that m belongs to, in order
// of arrival, if there are others than m.
func (p *page) thread(m Message) []Message {
	root := func(m Message) string {
		if len(m.References) > 0 {
			return m.References[0]
		}
		return cmp.Or(m.InReplyTo, m.MessageID)
	}
	if root(m) == "" {
		return nil
	}
	messages := slices.DeleteFunc(p.server.Messages(), func(other Message) bool {
		return root(other) != root(m) || !slices.Equal(other.To, m.To)
	})
	if len(messages) < 2 {
		return nil
	}
	return messages
}

func (p *page) show(w http.ResponseWriter, name string, data any) {
	var out strings.Builder
	if err := p.templates.ExecuteTemplate(&out, name, data); err != nil {
		p.server.options.Log.Error("inbox could not write a page", "error", err)
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(out.String()))
}

func (p *page) delete(w http.ResponseWriter, r *http.Request) {
	if _, err := p.server.Delete(r.PathValue("id")); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *page) deleteAll(w http.ResponseWriter, r *http.Request) {
	if err := p.server.DeleteAll(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *page) apiList(w http.ResponseWriter, r *http.Request) {
	messages := p.server.Messages()
	if to := r.FormValue("to"); to != "" {
		messages = slices.DeleteFunc(messages, func(m Message) bool {
			return !slices.ContainsFunc(m.To, func(address string) bool { return strings.EqualFold(address, to) })
		})
	}
	writeJSON(w, http.StatusOK, messages)
}

func (p *page) apiMessage(w http.ResponseWriter, r *http.Request) {
	if m, ok := p.find(w, r); ok {
		writeJSON(w, http.StatusOK, m)
	}
}

func (p *page) apiDelete(w http.ResponseWriter, r *http.Request) {
	switch ok, err := p.server.Delete(r.PathValue("id")); {
	case err != nil:
		writeError(w, http.StatusInternalServerError, err.Error())
	case !ok:
		writeError(w, http.StatusNotFound, "there is no such message")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (p *page) apiDeleteAll(w http.ResponseWriter, _ *http.Request) {
	if err := p.server.DeleteAll(); err != nil {
		writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

var headTag = regexp.MustCompile(`(?i)<head[^>]*>`)

// html serves the mail's HTML as a mail program would show it: no scripts, no
// forms, nothing fetched. Links open in a tab of their own, since most pages
// refuse to be framed.
func (p *page) html(w http.ResponseWriter, r *http.Request) {
	m, ok := p.find(w, r)
	if !ok {
		return
	}
	const base = `<base target="_blank">`
	body := base + m.HTML
	if at := headTag.FindStringIndex(m.HTML); at != nil {
		body = m.HTML[:at[1]] + base + m.HTML[at[1]:]
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(body))
}

func (p *page) text(w http.ResponseWriter, r *http.Request) {
	if m, ok := p.find(w, r); ok {
		writePlain(w, []byte(m.Text))
	}
}

func (p *page) raw(w http.ResponseWriter, r *http.Request) {
	if m, ok := p.find(w, r); ok {
		raw, _ := p.server.Raw(m.ID)
		writePlain(w, raw)
	}
}

func (p *page) knobs(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, p.server.Knobs())
}

func (p *page) setKnobs(w http.ResponseWriter, r *http.Request) {
	var k Knobs
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&k); err != nil {
		writeError(w, http.StatusBadRequest, fmt.Sprintf(`want JSON as {"fault": "reject", "at": "rcpt", "to": "ann@example.com", "code": 550, "enhanced": "5.1.1", "times": 1}: %v`, err))
		return
	}
	if err := p.server.SetKnobs(k); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, p.server.Knobs())
}

func (p *page) find(w http.ResponseWriter, r *http.Request) (Message, bool) {
	m, ok := p.server.Message(r.PathValue("id"))
	if !ok {
		writeError(w, http.StatusNotFound, "there is no such message")
	}
	return m, ok
}

func writePlain(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false) // it is read by people too
	_ = encoder.Encode(v)
}

func writeError(w http.ResponseWriter, status int, detail string) {
	writeJSON(w, status, map[string]string{"error": detail})
}

// displayName returns the name of a message's From, or the address if it has
// none.
func displayName(from string) string {
	name, _, _ := strings.Cut(from, " <")
	return cmp.Or(name, "(nobody)")
}

// snippet is the beginning of the text, on one line.
func snippet(text string) string {
	const most = 140
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}
