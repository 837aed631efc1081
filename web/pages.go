package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed assets
var assetFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// tone is what a page looks like at first sight.
type tone string

const (
	toneAsk  tone = "ask"  // something for the customer to do
	toneWait tone = "wait" // we are at it
	toneGood tone = "good" // it works
	toneWarn tone = "warn" // it did not work; one more click
	toneOurs tone = "ours" // our fault
	toneNote tone = "note" // nothing to do
)

// page is everything that one of the customer's pages says.
type page struct {
	Tone   tone
	Title  string
	Lead   []string
	Facts  []fact
	Steps  []string
	Button *button
	// Choices are further buttons, of one form.
	Choices []choice
	Note    string
	// Aside is a small link below everything else.
	Aside *button
	// Refresh is after how many seconds the browser looks again; 0 is never.
	Refresh int
}

type fact struct{ Name, Value string }

// button is a form that posts to this address, or a link where Href is set.
// ReloadHref reloads the address as it is, query and all.
type button struct{ Label, Href string }

// choice is a button of a form: what it says, what it posts as "what", and
// what it means. Quiet ones stand back.
type choice struct {
	Label, Value, About string
	Quiet               bool
}

const reloadHref = "reload"

// pages renders and serves what browsers see.
type pages struct {
	config    *Config
	templates *template.Template
	assets    map[string]assetFile
	csp       string
}

type assetFile struct {
	body        []byte
	contentType string
	version     string
}

func newPages(c *Config) (*pages, error) {
	templates, err := template.ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("reading the page templates: %w", err)
	}
	p := &pages{config: c, templates: templates, assets: map[string]assetFile{}, csp: contentSecurityPolicy(c)}
	for name, contentType := range map[string]string{"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"} {
		body, err := assetFiles.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("reading asset %s: %w", name, err)
		}
		sum := sha256.Sum256(body)
		p.assets[name] = assetFile{body: body, contentType: contentType, version: hex.EncodeToString(sum[:6])}
	}
	return p, nil
}

// contentSecurityPolicy allows a page its stylesheet and its form. Browsers
// hold form-action against the redirect that follows a POST too, so the hosts
// of Connect are in it.
func contentSecurityPolicy(c *Config) string {
	forms := []string{"'self'"}
	for _, host := range c.ConnectHosts {
		forms = append(forms, "https://"+host)
		if !c.secure() {
			forms = append(forms, "http://"+host)
		}
	}
	return "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action " + strings.Join(forms, " ")
}

type view struct {
	page
	Product   string
	Support   string
	Reference string
	StyleURL  string
	IconURL   string
}

// render writes a page. A HEAD gets the headers alone.
func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, pg page) {
	v := view{
		page: pg, Product: p.config.ProductName, Support: p.config.SupportEmail,
		StyleURL: p.assetURL("style.css"), IconURL: p.assetURL("icon.svg"),
	}
	if pg.Tone == toneOurs {
		v.Reference = infoOf(r.Context()).id
	}
	p.write(w, r, status, "page.html", v)
}

func (p *pages) write(w http.ResponseWriter, r *http.Request, status int, name string, v any) {
	var body bytes.Buffer
	if err := p.templates.ExecuteTemplate(&body, name, v); err != nil {
		p.config.Logger.ErrorContext(r.Context(), "a page could not be rendered", "template", name, "error", err.Error())
		http.Error(w, "Something went wrong on our side. Please try again.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", p.csp)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body.Bytes()) // the browser is gone if this fails
	}
}

func (p *pages) assetURL(name string) string {
	return "/assets/" + name + "?v=" + p.assets[name].version
}

// asset serves the stylesheet and the icon.
func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	file, ok := p.assets[r.PathValue("name")]
	if !ok {
		writeProblem(w, problem(http.StatusNotFound, "There is no such asset."))
		return
	}
	w.Header().Set("Content-Type", file.contentType)
	if r.URL.Query().Get("v") == file.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		w.Header().Set("Cache-Control", "public, max-age=300")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.body))
}
