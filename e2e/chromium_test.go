package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// findChromium returns the path of a Chromium. Where there is none, the test
// is skipped, but fails on a machine that must have one.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "there is no Chromium on the PATH; Debian's package is `chromium` (apt-get install chromium)"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// chromium is a browser process with a user data directory of its own, which is
// gone with it. It finds no host by its name, so nothing can leave the machine.
type chromium struct {
	ctx context.Context
}

func startChromium(t *testing.T) *chromium {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(findChromium(t)),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(stop)
	require.NoError(t, chromedp.Do(ctx), "start Chromium")
	return &chromium{ctx}
}

// person is somebody with a browser profile of their own: tabs of one person
// share their cookies, those of two do not.
type person struct {
	t     *testing.T
	ctx   context.Context // of the first tab
	first bool            // it is taken
}

func (c *chromium) person(t *testing.T) *person {
	t.Helper()
	ctx, leave := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(leave)
	return &person{t: t, ctx: ctx}
}

// screen is what a page is shown on.
type screen struct {
	width, height int64
	mobile        bool
	scale         float64
}

var (
	phone   = screen{width: 390, height: 844, mobile: true, scale: 1}
	desktop = screen{width: 1280, height: 900, scale: 1}
)

func (s screen) emulate() chromedp.Action[chromedp.Void] {
	options := []chromedp.EmulateViewportOption{chromedp.EmulateScale(s.scale)}
	if s.mobile {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch, chromedp.EmulatePortrait)
	}
	return chromedp.EmulateViewport(s.width, s.height, options...)
}

// tab is a tab of a person's browser. It watches everything that the browser
// asks for and complains of, and the test fails at its end where that is
// something which must not be.
type tab struct {
	t      *testing.T
	ctx    context.Context
	screen screen
	hosts  []string // that may be asked

	mu       sync.Mutex
	requests []asked
	troubles []trouble
	statuses map[string]int // of documents, by address, that are meant to be errors
}

// asked is a request as the browser made it.
type asked struct {
	id      network.RequestID
	url     *url.URL
	referer string
}

// trouble is something that the browser complains of.
type trouble struct {
	kind, text, url string
}

func (x trouble) String() string { return fmt.Sprintf("%s: %s (%s)", x.kind, x.text, x.url) }

func (p *person) tab(on screen) *tab {
	p.t.Helper()
	b := p.unchecked(on)
	p.t.Cleanup(b.check)
	return b
}

func (p *person) unchecked(on screen) *tab {
	p.t.Helper()
	ctx := p.ctx
	if p.first {
		var closeTab context.CancelFunc
		ctx, closeTab = chromedp.NewContext(p.ctx)
		p.t.Cleanup(closeTab)
	}
	p.first = true
	return p.watch(ctx, on)
}

// opened waits for a tab that opens because of what a person does in another,
// at an address that begins in a certain way.
func (p *person) opened(from *tab, address string, on screen, because func()) *tab {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(from.ctx, patience)
	defer cancel()
	id := chromedp.WaitNewTarget(ctx, func(i *target.Info) bool { return strings.HasPrefix(i.URL, address) })
	because()
	found, ok := <-id
	require.True(p.t, ok, "no tab opens")
	ctx, closeTab := chromedp.NewContext(from.ctx, chromedp.WithTargetID(found))
	p.t.Cleanup(closeTab)
	b := p.watch(ctx, on)
	p.t.Cleanup(b.check)
	return b
}

func (p *person) watch(ctx context.Context, on screen) *tab {
	p.t.Helper()
	b := &tab{t: p.t, ctx: ctx, screen: on, hosts: []string{"127.0.0.1"}, statuses: map[string]int{}}
	require.NoError(p.t, chromedp.Listen(ctx, b.hear))
	b.do("preparing a tab", on.emulate(), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, audits.Enable, cdp.Empty{})
		return err
	}))
	return b
}

// withoutScripts turns JavaScript off, as some people and companies do.
func (b *tab) withoutScripts() *tab {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(b.t, err)
	return b
}

// hear takes what the browser tells of a tab. It must not wait for anything.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	complain := func(kind, text, url string) { b.troubles = append(b.troubles, trouble{kind, text, url}) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil {
			complain("request", "an address that is none", e.Request.URL)
			return
		}
		b.requests = append(b.requests, asked{e.RequestID, u, header(e.Request.Headers, "Referer")})
	case *network.EventRequestWillBeSentExtraInfo: // the headers as they go over the wire
		if referer := header(e.Headers, "Referer"); referer != "" {
			b.requests = append(b.requests, asked{id: e.RequestID, referer: referer})
		}
	case *network.EventWebSocketCreated:
		complain("request", "a web socket", e.URL)
	case *network.EventLoadingFailed:
		if e.BlockedReason != "" {
			complain("request", "blocked: "+string(e.BlockedReason), "")
		}
	case *cdpruntime.EventConsoleAPICalled:
		complain("console", string(e.Type), "")
	case *cdpruntime.EventExceptionThrown:
		complain("exception", e.ExceptionDetails.Text, e.ExceptionDetails.URL)
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			complain(string(e.Entry.Source), e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if csp := e.Issue.Details.ContentSecurityPolicyIssueDetails; csp != nil {
			complain("content security policy", csp.ViolatedDirective, csp.BlockedURL)
		} else {
			details, _ := json.Marshal(e.Issue.Details)
			complain("issue", string(e.Issue.Code), string(details))
		}
	}
}

func header(headers network.Headers, name string) string {
	for k, v := range headers {
		if strings.EqualFold(k, name) {
			return fmt.Sprint(v)
		}
	}
	return ""
}

// meant says that a document answers with an error on purpose, which Chromium
// puts on the console.
func (b *tab) meant(address string, status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.statuses[address] = status
}

// complaints are the troubles that are not meant, and everything that was
// asked of another host.
func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, x := range b.troubles {
		status, meant := b.statuses[x.url]
		if meant && x.kind == "network" && strings.Contains(x.text, fmt.Sprintf("status of %d ", status)) {
			continue
		}
		out = append(out, x.String())
	}
	for _, r := range b.requests {
		if r.url != nil && !slices.Contains(b.hosts, r.url.Hostname()) {
			out = append(out, "another host was asked: "+r.url.String())
		}
		if r.referer != "" {
			out = append(out, "a request told where it came from: "+r.referer)
		}
	}
	return out
}

// codes are those that came back from Connect in an address.
func (b *tab) codes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, r := range b.requests {
		if r.url == nil || r.url.Path != "/callback" {
			continue
		}
		if code := r.url.Query().Get("code"); code != "" {
			out = append(out, code)
		}
	}
	return out
}

// check is what must hold of everything that has happened in a tab.
func (b *tab) check() {
	b.t.Helper()
	assert.Empty(b.t, b.complaints(), "what the browser complains of, and what it asked for")
	codes := b.codes()
	b.mu.Lock()
	for _, r := range b.requests {
		for _, code := range codes {
			if r.url != nil && r.url.Path != "/callback" {
				assert.NotContains(b.t, r.url.String(), code, "a code travels to the callback only")
			}
		}
	}
	b.mu.Unlock()
	history, err := chromedp.Run(b.ctx, chromedp.NavigationEntries())
	if !assert.NoError(b.t, err) {
		return
	}
	for _, entry := range history.Entries {
		assert.NotContains(b.t, entry.URL, "code=", "the browser's history keeps no code")
	}
}

func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v; %s", what, err, b.last())
	}
}

// shown is what a tab shows, and how it fits.
type shown struct {
	URL, Heading, Tone, Text, Referrer, Button string

	Loaded    bool
	Scripting bool     // JavaScript is on
	Refresh   bool     // it looks again by itself
	Scripts   int      // script elements
	Width     int      // that the page needs
	Outside   []string // elements that stick out
	Hosts     []string // that its links, forms and pictures name
}

const look = `(width => {
	const text = s => document.querySelector(s)?.textContent.trim() ?? ""
	return {
		URL: location.href, Heading: text("h1"), Tone: document.querySelector("main")?.dataset.tone ?? "",
		Text: document.body?.innerText ?? "", Referrer: document.referrer, Button: text("#continue"),
		Loaded: document.readyState === "complete",
		Refresh: document.querySelector("meta[http-equiv=refresh]") !== null,
		Scripts: document.scripts.length, Scripting: matchMedia("(scripting: enabled)").matches,
		Width: Math.max(document.documentElement.scrollWidth, document.body?.scrollWidth ?? 0, innerWidth),
		Outside: [...document.querySelectorAll("body *")].filter(e => {
			const r = e.getBoundingClientRect()
			return r.width > 0 && (r.right > width + 0.5 || r.left < -0.5)
		}).map(e => e.tagName + "." + e.className),
		Hosts: [...document.querySelectorAll("[href], [src], [action]")]
			.map(e => new URL(e.getAttribute("href") ?? e.getAttribute("src") ?? e.getAttribute("action"), location)).filter(u => u.protocol !== "mailto:").map(u => u.hostname),
	}
})(%d)`

func (b *tab) look(ctx context.Context) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[shown](fmt.Sprintf(look, b.screen.width)))
}

// last is what the tab shows and complains of, for a test that fails.
func (b *tab) last() string {
	complaints := b.complaints()
	complaints = complaints[:min(len(complaints), 10)]
	s, err := b.look(b.ctx)
	if err != nil {
		return fmt.Sprintf("the tab shows nothing (%v) and complains of %q", err, complaints)
	}
	return fmt.Sprintf("the tab shows %q at %s and complains of %q:\n%s", s.Heading, s.URL, complaints, tail(s.Text, 3000))
}

// await waits until the tab shows a page that is wanted, and checks how it
// fits on the screen.
func (b *tab) await(what string, wanted func(shown) bool) shown {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s, err := b.look(b.ctx) // which fails while the tab goes from page to page
		switch {
		case err == nil && s.Loaded && wanted(s):
			assert.LessOrEqual(b.t, int64(s.Width), b.screen.width, "the page %q scrolls sideways", s.Heading)
			assert.Empty(b.t, s.Outside, "the page %q has elements that stick out", s.Heading)
			assert.Subset(b.t, b.hosts, s.Hosts, "the page %q names other hosts", s.Heading)
			assert.Zero(b.t, s.Scripts, "the page %q has scripts", s.Heading)
			assert.Empty(b.t, s.Referrer, "the page %q knows where its visitor came from", s.Heading)
			for _, code := range b.codes() {
				assert.NotContains(b.t, s.URL, code, "a code is in the address bar")
				assert.NotContains(b.t, s.Text, code, "a code is on the page")
			}
			return s
		case errors.Is(err, context.Canceled) || time.Now().After(deadline):
			b.t.Fatalf("waited in vain until %s (%v); %s", what, err, b.last())
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// sees waits for one of our pages by its heading.
func (b *tab) sees(heading string) shown {
	b.t.Helper()
	return b.await(fmt.Sprintf("it says %q", heading), func(s shown) bool { return s.Heading == heading })
}

// opens opens an address, as a click in a mail program does.
func (b *tab) opens(address string) {
	b.t.Helper()
	b.do("opening a link", chromedp.Navigate(address))
}

// presses clicks the button with an ID, which leads to another page.
func (b *tab) presses(button string) {
	b.t.Helper()
	b.do("pressing "+button, bringToFront, chromedp.Click(chromedp.ID(button), chromedp.NodeVisible))
}

func bringToFront(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
	_, err := cdp.Call(ctx, t, cdppage.BringToFront, cdp.Empty{})
	return chromedp.Void{}, err
}

// rect is where an element is on the screen.
type rect struct{ Left, Top, Width, Height float64 }

func (b *tab) rect(selector string) rect {
	b.t.Helper()
	b.do("looking for "+selector, chromedp.WaitVisible(chromedp.CSS(selector)))
	quoted, err := json.Marshal(selector)
	require.NoError(b.t, err)
	r, err := chromedp.Run(b.ctx, chromedp.Evaluate[rect](`(s => {
		const r = document.querySelector(s).getBoundingClientRect()
		return {Left: r.left, Top: r.top, Width: r.width, Height: r.height}
	})(`+string(quoted)+`)`))
	require.NoError(b.t, err)
	return r
}
