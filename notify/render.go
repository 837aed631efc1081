package notify

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"
	"unicode/utf8"
)

//go:embed templates
var templates embed.FS

// textWidth is where lines of the text version end: mail programs add their
// own "> " when people answer.
const textWidth = 72

// Outlook on Windows knows neither max-width nor media queries; this gives it a
// table of fixed width instead. As typed constants, because html/template drops
// comments.
const (
	outlookOpen  htmltemplate.HTML = `<!--[if mso]><table role="presentation" width="560" align="center" cellpadding="0" cellspacing="0" border="0"><tr><td><![endif]-->`
	outlookClose htmltemplate.HTML = `<!--[if mso]></td></tr></table><![endif]-->`
)

func (w words) render() (text, html string, err error) {
	plain, err := texttemplate.New("mail.txt").
		Funcs(texttemplate.FuncMap{"wrap": wrap, "pad": pad}).
		ParseFS(templates, "templates/mail.txt")
	if err != nil {
		return "", "", fmt.Errorf("parse text of mail: %w", err)
	}
	rich, err := htmltemplate.New("mail.html").
		Funcs(htmltemplate.FuncMap{
			"outlookOpen":  func() htmltemplate.HTML { return outlookOpen },
			"outlookClose": func() htmltemplate.HTML { return outlookClose },
		}).
		ParseFS(templates, "templates/mail.html")
	if err != nil {
		return "", "", fmt.Errorf("parse HTML of mail: %w", err)
	}
	var textOut, htmlOut strings.Builder
	if err := plain.Execute(&textOut, w); err != nil {
		return "", "", fmt.Errorf("write text of mail: %w", err)
	}
	if err := rich.Execute(&htmlOut, w); err != nil {
		return "", "", fmt.Errorf("write HTML of mail: %w", err)
	}
	return strings.TrimSpace(textOut.String()) + "\n", htmlOut.String(), nil
}

// pad writes one of all facts as a line "Label:  value", their values aligned,
// further lines indented.
func pad(all []fact, f fact) string {
	width := 0
	for _, other := range all {
		width = max(width, utf8.RuneCountInString(other.Label))
	}
	indent := strings.Repeat(" ", width+3)
	value := fill(f.Value, textWidth-len(indent))
	label := f.Label + ":" + strings.Repeat(" ", width+2-utf8.RuneCountInString(f.Label))
	return label + strings.ReplaceAll(value, "\n", "\n"+indent)
}

func wrap(s string) string { return fill(s, textWidth) }

// fill breaks s at spaces into lines of at most width runes. A longer word
// stands on a line of its own.
func fill(s string, width int) string {
	var out strings.Builder
	used := 0
	for i, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case used+1+n > width:
			out.WriteByte('\n')
			used = 0
		default:
			out.WriteByte(' ')
			used++
		}
		out.WriteString(word)
		used += n
	}
	return out.String()
}
