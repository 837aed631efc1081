package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/imports"
)

// progress shows how far an import is: a bar that changes in place on a
// terminal, a line now and then elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	size     int64 // 0: not known
	began    time.Time
	shown    time.Time
	drawn    bool
}

const (
	barWidth = 30
	barEvery = 100 * time.Millisecond
	// lineEvery keeps a log file short.
	lineEvery = 10 * time.Second
)

func newProgress(w io.Writer, size int64) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && isTerminal(f), size: size, began: time.Now(), shown: time.Now()}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...)
}

// show draws how far it is, unless it has just been drawn.
func (p *progress) show(part imports.Part) {
	every := lineEvery
	if p.terminal {
		every = barEvery
	}
	now := time.Now()
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text := p.text(part, now.Sub(p.began))
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	p.drawn = true
	fmt.Fprint(p.w, "\r\x1b[K", text)
}

func (p *progress) text(part imports.Part, took time.Duration) string {
	rate := int64(float64(part.Totals.Rows) / max(took.Seconds(), 0.001))
	text := fmt.Sprintf("%s rows, %s rejected, %s a second", thousands(part.Totals.Rows), thousands(part.Totals.Rejected), thousands(rate))
	if p.size <= 0 {
		return text
	}
	done := min(float64(part.Bytes)/float64(p.size), 1)
	text = fmt.Sprintf("%3.0f%% %s", done*100, text)
	if p.terminal {
		full := int(done * barWidth)
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + text
	}
	return text
}

// end leaves the bar behind.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// thousands writes a number as 83,211.
func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// inWords writes a duration as people say it: 2 days 21 hours.
func inWords(d time.Duration) string {
	units := []struct {
		name string
		of   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}}
	var words []string
	for _, unit := range units {
		n := int(d / unit.of)
		d -= time.Duration(n) * unit.of
		if n == 0 && len(words) == 0 {
			continue
		}
		if n > 0 {
			s := "s"
			if n == 1 {
				s = ""
			}
			words = append(words, fmt.Sprintf("%d %s%s", n, unit.name, s))
		}
		if len(words) == 2 || n == 0 {
			break
		}
	}
	if len(words) == 0 {
		return "a minute"
	}
	return strings.Join(words, " ")
}
