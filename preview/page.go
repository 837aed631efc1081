package preview

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed templates/page.html
var pageText string

// WritePage writes all of it as one HTML page that needs nothing else: the table
// on top, and below it every message as its reader sees it. The page has no
// script, and keeps the messages in sandboxes whose links lead nowhere.
func (p Preview) WritePage(w io.Writer) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"framed": framed, "place": func(i int) int { return i + 1 },
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	var out bytes.Buffer // so that nothing is written if something goes wrong
	if err := page.Execute(&out, p); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	_, err = w.Write(out.Bytes())
	return err
}

// framed is a mail's HTML for a frame of the page: its links cannot be followed,
// since their secrets are not there.
func framed(html string) string {
	return strings.Replace(html, "</head>", "<style>a{pointer-events:none}</style></head>", 1)
}

// Headline is the first line of a row's mail, which says more than its subject:
// that one stays the same through a case, to keep its mails in one conversation.
func (p Preview) Headline(r Row) string {
	if r.Message == 0 || p.Messages[r.Message-1].Event != "" {
		return r.Subject
	}
	line, _, _ := strings.Cut(strings.TrimSpace(p.Messages[r.Message-1].Mail.Text), "\n")
	return line
}
