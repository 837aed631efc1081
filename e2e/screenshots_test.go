package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/dev/temporal"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

// pictureLimit bounds what a picture adds to the repository, in bytes.
const pictureLimit = 200_000

// TestScreenshots takes the pictures in docs/images; `make screenshots` runs it.
func TestScreenshots(t *testing.T) {
	folder := os.Getenv("REAUTH_SCREENSHOTS")
	if folder == "" {
		t.Skip("REAUTH_SCREENSHOTS names no folder for the pictures; `make screenshots` does")
	}
	folder, err := filepath.Abs(folder)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(folder, 0o755))
	chrome := startChromium(t)
	codec := listen(t)
	ui := startTemporalUI(t, "http://"+codec.Addr().String()+"/codec")
	s := newStack(t)
	s.serveCodec(codec, ui.UIURL())
	mails := httptest.NewServer(s.inbox.Handler())
	t.Cleanup(mails.Close)
	c := camera{folder, chrome.person(t).unchecked(desktop)}
	ofCase := func(of customer, tab string) string {
		return ui.UIURL() + "/namespaces/default/workflows/" + reauth.WorkflowID(of.id) + "/" + s.status(of).CaseID + "/" + tab
	}

	// A customer who comes through.
	recovered, link, mail := s.pictured("Acme Bakery", reauth.Contact{Email: "pat@acme-bakery.example", Name: "Pat Miller"})
	b := chrome.person(t).tab(phone)
	b.opens(link)
	c.page(b, reconnectPage, "page-link")
	c.whole("mail", mails.URL+"/api/messages/"+mail.ID+"/html", screen{width: 720, height: 600, scale: 1})
	s.pressesReconnect(b)
	b.presses("authorize")
	c.page(b, "It works again", "page-fixed")
	s.isBack(recovered)
	c.history("temporal-recovered", ofCase(recovered, "history"), "CloseAndTell", `"outcome": "recovered"`)
	c.details("temporal-recovered-details", ofCase(recovered, "user-metadata"), "Recovered")

	// A customer who is waited for, and signs in to another account.
	waiting, link, _ := s.pictured("Northwind Dental", reauth.Contact{Email: "robin@northwind.example", Name: "Robin Okafor"})
	c.history("temporal-waiting", ofCase(waiting, "history"), "Start To Fire Timeout", "Results will appear")
	c.details("temporal-waiting-details", ofCase(waiting, "user-metadata"), "Waiting")
	c.whole("inbox", mails.URL, screen{width: 1000, height: 420, scale: 1})
	b = chrome.person(t).tab(phone)
	b.opens(link)
	b.presses("continue")
	s.seesConnect(b)
	s.stopWorker()
	b.presses("authorize-other")
	c.page(b, "We have your sign-in", "page-waiting")
	s.startWorker()
	c.page(b, "That was another account", "page-wrong-account")
}

// pictured is a customer with an open case and its first mail.
func (s *stack) pictured(name string, contact reauth.Contact) (c customer, link string, mail inbox.Message) {
	s.t.Helper()
	c = s.register(contact)
	status, body := s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{"customer_name": name, "contacts": []reauth.Contact{contact}})
	require.Equal(s.t, http.StatusOK, status, "%v", body)
	require.NoError(s.t, s.sim.SetKnobs(func(k *finchsim.Knobs) { k.Webhooks = false })) // the backend is faster
	require.NoError(s.t, s.sim.Break(c.id))
	status, body = s.report(c, map[string]any{"token_fingerprint": reauth.Fingerprint(c.token)})
	require.Equal(s.t, http.StatusAccepted, status, "%v", body)
	s.eventually("its mail has come", func() bool {
		for _, m := range s.mails(contact.Email) {
			i := slices.IndexFunc(m.Links, func(l string) bool { return strings.HasPrefix(l, s.url+"/r/") })
			if i >= 0 {
				link, mail = m.Links[i], m
			}
		}
		return link != ""
	})
	s.eventually("its first step is over", func() bool { return s.status(c).NoticesSent == 1 })
	return c, link, mail
}

// camera puts pictures into a folder. Its tab is for pages that no customer
// sees, and is not watched.
type camera struct {
	folder string
	tab    *tab
}

// page photographs one of the customer's pages on a phone and on a desk.
func (c camera) page(b *tab, heading, name string) {
	b.t.Helper()
	for on, name := range map[screen]string{
		{width: phone.width, height: phone.height, mobile: true, scale: 1.5}: name + "-phone",
		{width: 900, height: 600, scale: 1}:                                  name + "-desktop",
	} {
		b.resize(on)
		b.sees(heading)
		c.take(b, name, b.number(`document.querySelector("main").getBoundingClientRect().bottom + 40`))
	}
	b.resize(phone)
}

// whole photographs all of a page.
func (c camera) whole(name, address string, on screen) {
	c.tab.t.Helper()
	c.tab.resize(on)
	c.tab.opens(address)
	c.take(c.tab, name, c.tab.number("document.documentElement.scrollHeight"))
}

// history photographs a case in Temporal's web UI, once it shows certain texts.
func (c camera) history(name, address string, texts ...string) {
	c.tab.t.Helper()
	c.tab.resize(screen{width: 1440, height: 1400, scale: 1})
	c.tab.opens(address)
	c.tab.showsText(append(texts, `"connection_id"`)...)
	// One line for each step, the first one first. The buttons may not act yet,
	// and the order is remembered from one case to the next.
	c.tab.truly("the first step is on the first line", `(() => {
		const order = [...document.querySelectorAll("button")].find(b => ["Ascending", "Descending"].includes(b.innerText.trim()))
		const first = document.querySelector("tbody tr")?.innerText ?? ""
		const ascending = order?.innerText.trim() === "Ascending"
		if (ascending && first.includes("Confirm")) return true
		if (Date.now() - (window.pressedAt ?? 0) > 1000) {
			window.pressedAt = Date.now()
			ascending ? document.querySelector("[data-testid=compact]")?.click() : order?.click()
		}
		return false
	})()`)
	c.take(c.tab, name, c.tab.number(`Math.max(...[...document.querySelectorAll("tbody tr")].map(t => t.getBoundingClientRect().bottom)) + 1`))
}

// details photographs what Temporal's web UI says of a case in words, which it
// does in frames.
func (c camera) details(name, address string, text string) {
	c.tab.t.Helper()
	c.tab.resize(screen{width: 1440, height: 1000, scale: 1})
	c.tab.opens(address)
	c.tab.truly("it says "+text, `[...document.querySelectorAll("iframe")].some(f => f.contentDocument?.body?.innerText.includes(%s))`, text)
	c.take(c.tab, name, 760)
}

// take photographs the tab from its top to a height.
func (c camera) take(b *tab, name string, height float64) {
	b.t.Helper()
	b.truly("its fonts and pictures are there", `document.fonts.status === "loaded" && [...document.images].every(i => i.complete)`)
	picture, err := chromedp.Run(b.ctx, func(ctx context.Context, t *chromedp.Target) ([]byte, error) {
		out, err := cdp.Call(ctx, t, cdppage.CaptureScreenshot, cdppage.CaptureScreenshotParams{
			Clip: &cdppage.Viewport{Width: float64(b.screen.width), Height: math.Ceil(height), Scale: 1}, CaptureBeyondViewport: new(true),
		})
		return out.Data, err
	})
	require.NoError(b.t, err)
	picture, err = fewerColors(picture)
	require.NoError(b.t, err)
	path := filepath.Join(c.folder, name+".png")
	require.NoError(b.t, os.WriteFile(path, picture, 0o644))
	b.t.Logf("%s: %d kB", path, len(picture)/1000)
	assert.Less(b.t, len(picture), pictureLimit, "%s is too large", path)
}

// fewerColors rewrites a PNG with 256 colors, which makes it a third as large:
// those that it has most of, and of the others some of every kind.
func fewerColors(picture []byte) ([]byte, error) {
	in, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	bounds, count := in.Bounds(), map[color.Color]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[in.At(x, y)]++
		}
	}
	var palette color.Palette
	for _, c := range slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] }) {
		if len(palette) < 64 || len(palette) < 256 && apart(c, palette[palette.Index(c)]) {
			palette = append(palette, c)
		}
	}
	nearest := make(map[color.Color]uint8, len(count))
	for c := range count {
		nearest[c] = uint8(palette.Index(c)) //nolint:gosec // one of 256
	}
	out := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[in.At(x, y)])
		}
	}
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out)
	return b.Bytes(), err
}

// apart tells whether two colors are easily told from each other.
func apart(a, b color.Color) bool {
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	far := func(x, y uint32) bool { return max(x, y)-min(x, y) > 0x1400 }
	return far(ar, br) || far(ag, bg) || far(ab, bb)
}

func (b *tab) resize(on screen) {
	b.t.Helper()
	b.screen = on
	b.do("choosing a screen", on.emulate())
}

func (b *tab) number(expression string) float64 {
	b.t.Helper()
	n, err := chromedp.Run(b.ctx, chromedp.Evaluate[float64](expression))
	require.NoError(b.t, err)
	return n
}

func (b *tab) showsText(texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		b.truly("it shows "+text, `document.body.textContent.includes(%s)`, text)
	}
}

// truly waits until an expression is true.
func (b *tab) truly(what, expression string, args ...string) {
	b.t.Helper()
	quoted := make([]any, len(args))
	for i, a := range args {
		text, err := json.Marshal(a)
		require.NoError(b.t, err)
		quoted[i] = string(text)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf(expression, quoted...)))
		cancel()
		if err == nil && is {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain until %s (%v); %s", what, err, b.last())
		}
	}
}

// startTemporalUI starts a Temporal server with its web UI, and makes it the
// one that stacks use until the test ends.
func startTemporalUI(t *testing.T, codecEndpoint string) temporal.Server {
	t.Helper()
	binary, err := temporal.Binary(t.Context(), os.Stderr)
	require.NoError(t, err)
	server := temporal.Server{Port: freePort(t), UIPort: freePort(t), CodecEndpoint: codecEndpoint}
	cmd := exec.Command(binary, server.Args()...)
	said := &logs{}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for err = errors.New("not asked"); err != nil; err = server.Ready(ctx) {
		select {
		case end := <-ended:
			ended <- end
			t.Fatalf("Temporal ended: %v\n%s", end, said)
		case <-ctx.Done():
			t.Fatalf("Temporal does not get ready: %v\n%s", err, said)
		case <-time.After(100 * time.Millisecond):
		}
	}
	before := address
	address = server.Address()
	t.Cleanup(func() { address = before })
	return server
}

func freePort(t *testing.T) int {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serveCodec serves what Temporal's web UI needs to read what is encrypted.
func (s *stack) serveCodec(l net.Listener, uiOrigin string) {
	s.t.Helper()
	handler, err := web.New(web.Config{
		DB: s.db, Keys: s.keys, Starter: s.starter, PublicURL: "http://" + l.Addr().String(), Logger: s.logger(),
		Introspect: func(context.Context, string, secrets.Secret) (finch.Introspection, error) {
			return finch.Introspection{}, errors.New("this service decodes only")
		},
		TemporalHealth: func(context.Context) error { return nil },
		CodecOrigins:   []string{uiOrigin}, CodecOpen: true,
	})
	require.NoError(s.t, err)
	serve(s.t, l, handler)
}
