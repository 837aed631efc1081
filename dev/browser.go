package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// browser visits pages as a person does who presses buttons: it keeps cookies,
// follows redirects and fills forms in from what the page holds.
type browser struct {
	client *http.Client
}

func newBrowser() (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("making a cookie jar: %w", err)
	}
	return &browser{client: &http.Client{Jar: jar}}, nil
}

// page is what a browser shows.
type page struct {
	url   *url.URL
	title string // of its heading
	tone  string // what our own pages say about themselves: "wait", "good", ...
	forms []form
}

type form struct {
	action  string
	fields  url.Values
	buttons map[string]button // by id
}

type button struct{ name, value string }

// open shows a page.
func (b *browser) open(ctx context.Context, address string) (*page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	return b.visit(request)
}

// press presses the button of a page that has the given id.
func (b *browser) press(ctx context.Context, from *page, id string) (*page, error) {
	for _, f := range from.forms {
		pressed, ok := f.buttons[id]
		if !ok {
			continue
		}
		fields := f.fields
		if pressed.name != "" {
			fields.Set(pressed.name, pressed.value)
		}
		target, err := from.url.Parse(f.action)
		if err != nil {
			return nil, fmt.Errorf("reading a form's address: %w", err)
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(fields.Encode()))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", from.url.Scheme+"://"+from.url.Host)
		return b.visit(request)
	}
	return nil, fmt.Errorf("the page %q has no button #%s", from.title, id)
}

func (b *browser) visit(request *http.Request) (*page, error) {
	response, err := b.client.Do(request)
	if err != nil {
		return nil, withoutAddress(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return nil, fmt.Errorf("a page at %s answers %s: %s", response.Request.URL.Host, response.Status, text)
	}
	root, err := html.Parse(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading a page: %w", err)
	}
	p := &page{url: response.Request.URL}
	p.read(root, nil)
	return p, nil
}

// withoutAddress takes the address out of an error: ours hold secrets.
func withoutAddress(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

func (p *page) read(n *html.Node, in *form) {
	if n.Type == html.ElementNode {
		switch n.Data {
		case "h1":
			p.title = strings.TrimSpace(textOf(n))
		case "main":
			p.tone = attribute(n, "data-tone")
		case "form":
			if !strings.EqualFold(attribute(n, "method"), "post") {
				break
			}
			p.forms = append(p.forms, form{action: attribute(n, "action"), fields: url.Values{}, buttons: map[string]button{}})
			in = &p.forms[len(p.forms)-1]
		case "input":
			if name := attribute(n, "name"); in != nil && name != "" {
				in.fields.Set(name, attribute(n, "value"))
			}
		case "button":
			if id := attribute(n, "id"); in != nil && id != "" {
				in.buttons[id] = button{attribute(n, "name"), attribute(n, "value")}
			}
		}
	}
	for child := range n.ChildNodes() {
		p.read(child, in)
	}
}

func textOf(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var text strings.Builder
	for child := range n.ChildNodes() {
		text.WriteString(textOf(child))
	}
	return text.String()
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
