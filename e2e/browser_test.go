package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

// What a person sees, in a real browser. Every tab is watched: no error on the
// console, no violation of a policy, nothing asked of any other host, no code
// in an address bar, in a referrer or in the history, no script, and nothing
// that needs sideways scrolling on a phone.
func TestBrowser(t *testing.T) {
	c := startChromium(t)
	for name, test := range map[string]func(*testing.T, *chromium){
		"the whole path":                     browserWholePath,
		"from the inbox of reauth dev":       browserFromInbox,
		"without JavaScript":                 browserWithoutScripts,
		"the cookie alone":                   browserCookieAlone,
		"another account":                    browserAnotherAccount,
		"leaving Connect":                    browserLeaves,
		"the link of a case that is closed":  browserOldLink,
		"the link of a cancelled case":       browserReopens,
		"a revoked link":                     browserRevokedLink,
		"a second tab":                       browserSecondTab,
		"two tabs that both come through":    browserTwoTabs,
		"a name that does not fit on a line": browserLongName,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// reconnectPage is the page behind the link of a case that is open.
const reconnectPage = "Reconnect Acme Bakery"

// toConnectPage goes from the mail's link to the simulated Connect.
func (s *stack) toConnectPage(b *tab, link string) {
	s.t.Helper()
	b.opens(link)
	s.pressesReconnect(b)
}

func (s *stack) pressesReconnect(b *tab) {
	s.t.Helper()
	b.sees(reconnectPage)
	b.presses("continue")
	s.seesConnect(b)
}

// seesConnect waits for the Connect page; a session that was not there yet
// asks for one press more.
func (s *stack) seesConnect(b *tab) {
	s.t.Helper()
	atConnect := func(p shown) bool { return strings.HasPrefix(p.URL, s.finchURL+"/authorize?") }
	if p := b.await("Connect is open", func(p shown) bool { return atConnect(p) || p.Heading == "Ready" }); atConnect(p) {
		return
	}
	b.presses("continue")
	b.await("Connect is open", atConnect)
}

// isBack checks that the connection really works, whatever a page says.
func (s *stack) isBack(c customer) {
	s.t.Helper()
	assert.Equal(s.t, reauth.OutcomeRecovered, s.result(c).Outcome)
	assert.True(s.t, s.apiWorks(c))
}

// staleAndReported is a stale connection whose customer has a mail.
func (s *stack) staleAndReported() (customer, string) {
	s.t.Helper()
	c := s.stale()
	s.report(c, nil)
	return c, s.link()
}

func browserWholePath(t *testing.T, chrome *chromium) {
	for name, on := range map[string]screen{"phone": phone, "desktop": desktop} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			c, link := s.staleAndReported()
			b := chrome.person(t).tab(on)
			s.toConnectPage(b, link)
			b.presses("authorize")
			p := b.sees("It works again")
			assert.Equal(t, "good", p.Tone)
			assert.True(t, strings.HasPrefix(p.URL, s.url+"/done/"), p.URL)
			assert.Contains(t, p.Text, "Acme Bakery")
			assert.Len(t, b.codes(), 1, "a code came back, and was looked for everywhere else")
			s.isBack(c)
		})
	}
}

// The inbox shows a mail in a frame that may do nothing but open its links.
func browserFromInbox(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	inbox := httptest.NewServer(s.inbox.Handler())
	t.Cleanup(inbox.Close)
	mail := s.mails(customerMail)[0]

	somebody := chrome.person(t)
	b := somebody.unchecked(desktop)
	b.opens(inbox.URL)
	b.do("opening the mail", chromedp.Click(chromedp.CSS(`a[href="/messages/`+mail.ID+`"]`), chromedp.NodeVisible))
	frame := b.rect("iframe")

	// Nobody can look into the frame: the same mail is laid out beside it.
	beside := somebody.unchecked(screen{width: int64(frame.Width), height: desktop.height, scale: 1})
	beside.opens(inbox.URL + "/api/messages/" + mail.ID + "/html")
	button := beside.rect(`a[href="` + link + `"]`)

	opened := somebody.opened(b, link, desktop, func() {
		b.do("clicking the button in the mail", bringToFront,
			chromedp.MouseClickXY(frame.Left+button.Left+button.Width/2, frame.Top+button.Top+button.Height/2))
	})
	opened.sees(reconnectPage)
	s.pressesReconnect(opened)
	opened.presses("authorize")
	opened.sees("It works again")
	s.isBack(c)
}

func browserWithoutScripts(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone).withoutScripts()
	s.toConnectPage(b, link)
	s.stopWorker() // nothing becomes of the code for now
	b.presses("authorize")
	p := b.sees("We have your sign-in")
	assert.False(t, p.Scripting)
	assert.Equal(t, "wait", p.Tone)
	assert.True(t, p.Refresh)
	assert.NotContains(t, p.Text, "works", "never success before the token is stored")
	s.startWorker()
	b.sees("It works again") // the page went on by itself
	s.isBack(c)
}

// Connect is another site, as in production, and does not return the state: the
// cookie must come along when it sends the customer back.
func browserCookieAlone(t *testing.T, chrome *chromium) {
	s := newStack(t, func(o *options) { o.noWorker = true })
	s.moveConnect("localhost")
	require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) { k.EchoState = false }))
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone)
	b.hosts = append(b.hosts, "localhost")
	s.toConnectPage(b, link)
	b.presses("authorize")
	b.sees("It works again")
	s.isBack(c)
	// Without the cookie too the connection would come back, by way of an
	// exchange that finds out whose the code is.
	require.Len(t, b.codes(), 1)
	_, err := s.temporal.DescribeWorkflow(context.Background(), reauth.RedeemWorkflowID(b.codes()[0]), "")
	assert.ErrorAs(t, err, new(*serviceerror.NotFound), "the cookie told whose the code is")
}

// moveConnect gives a stack whose worker has not started yet a simulated Finch
// at another host, and pages that may lead there; then it starts the worker.
func (s *stack) moveConnect(host string) {
	t := s.t
	ours, finchs := listen(t), listen(t)
	connect := net.JoinHostPort(host, strconv.Itoa(finchs.Addr().(*net.TCPAddr).Port))
	s.url, s.finchURL = "http://"+ours.Addr().String(), "http://"+connect
	var err error
	s.sim, err = finchsim.New(finchsim.Config{
		ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{s.url + "/callback"}, PublicURL: s.finchURL,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.sim.Close() })
	serve(t, finchs, s.sim)
	client := finch.New(finch.Config{BaseURL: "http://" + finchs.Addr().String(), ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second})
	handler, err := web.New(web.Config{
		DB: s.db, Keys: s.keys, Starter: s.starter,
		Introspect: func(ctx context.Context, _ string, token secrets.Secret) (finch.Introspection, error) {
			return client.Introspect(ctx, token.Reveal())
		},
		TemporalHealth: func(context.Context) error { return nil },
		PublicURL:      s.url, ConnectHosts: []string{connect}, ProductName: "Payday", BootstrapAPIKey: apiKey, Logger: s.logger(),
	})
	require.NoError(t, err)
	serve(t, ours, handler)
	s.acts.Settings.PublicURL = s.url
	s.acts.Providers = map[string]activities.Provider{reauth.DefaultApplication: activities.Finch{Client: client}}
	s.startWorker()
	t.Cleanup(s.stopWorker)
}

func browserAnotherAccount(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone)
	s.toConnectPage(b, link)
	b.presses("authorize-other")
	p := b.sees("That was another account")
	assert.Equal(t, "warn", p.Tone)
	assert.Equal(t, "Try again", p.Button)
	assert.NotContains(t, p.URL, strings.TrimPrefix(link, s.url+"/r/"), "the result page does not hold the link's secret")
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)

	b.presses("continue")
	s.pressesReconnect(b)
	b.presses("authorize")
	b.sees("It works again")
	assert.Len(t, b.codes(), 2)
	s.isBack(c)
}

func browserLeaves(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone)
	s.toConnectPage(b, link)
	b.presses("leave")
	p := b.sees("You have not finished")
	assert.Equal(t, "Back to the sign-in", p.Button)
	assert.Empty(t, b.codes())
	assert.Equal(t, reauth.PhaseAwaitingCustomer, s.status(c).Phase)

	b.presses("continue")
	s.pressesReconnect(b)
	b.presses("authorize")
	b.sees("It works again")
	s.isBack(c)
}

func browserOldLink(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone)
	s.toConnectPage(b, link)
	b.presses("authorize")
	b.sees("It works again")
	s.isBack(c)
	sessions := len(s.sim.Sessions(c.id))

	for _, later := range []*tab{b, chrome.person(t).tab(phone)} { // a colleague too
		later.opens(link)
		p := later.sees("The connection works")
		assert.Equal(t, "good", p.Tone)
		assert.Empty(t, p.Button, "there is nothing to do")
	}
	assert.Len(t, s.sim.Sessions(c.id), sessions, "looking opens nothing")
}

func browserReopens(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	status, _ := s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth/cancel", map[string]any{"reason": "later"})
	require.Less(t, status, 300)
	first := s.result(c)

	b := chrome.person(t).tab(phone)
	b.opens(link)
	p := b.sees(reconnectPage)
	assert.Contains(t, p.Text, "This link is still good.")
	b.presses("continue")
	s.seesConnect(b)
	b.presses("authorize")
	b.sees("It works again")
	s.isBack(c)
	assert.NotEqual(t, first.CaseID, s.result(c).CaseID)
}

func browserRevokedLink(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	b := chrome.person(t).tab(phone)
	b.opens(link)
	b.sees(reconnectPage)
	require.NoError(t, s.db.RevokeLinks(context.Background(), c.id, ""))
	b.meant(link, http.StatusNotFound)
	b.presses("continue") // on a page that was open already
	p := b.sees("This link does not work")
	assert.Empty(t, p.Button)
	b.opens(link)
	p = b.sees("This link does not work")
	assert.NotContains(t, p.Text, "Acme", "a revoked link tells nothing about its customer")
	click, err := s.db.LastClick(context.Background(), s.status(c).CaseID)
	require.NoError(t, err)
	assert.Nil(t, click)
}

func browserSecondTab(t *testing.T, chrome *chromium) {
	s := newStack(t)
	c, link := s.staleAndReported()
	someone := chrome.person(t)
	first, second, third := someone.tab(phone), someone.tab(phone), someone.tab(phone)
	s.toConnectPage(first, link)
	s.toConnectPage(second, link)
	third.opens(link)
	third.sees(reconnectPage)

	first.presses("authorize")
	first.sees("It works again")
	s.isBack(c)

	third.presses("continue") // of a page that knows nothing of it
	third.sees("The connection works")
	second.meant(s.finchURL+"/authorize", http.StatusGone)
	second.presses("authorize")
	second.await("Connect says that its session is over", func(p shown) bool { return p.URL == s.finchURL+"/authorize" })
	second.opens(link)
	second.sees("The connection works")
	assert.Len(t, s.sim.Counters().Exchanges, 1)
}

func browserTwoTabs(t *testing.T, chrome *chromium) {
	s := newStack(t)
	require.NoError(t, s.sim.SetKnobs(func(k *finchsim.Knobs) { k.SessionReusable = true }))
	c, link := s.staleAndReported()
	someone := chrome.person(t)
	first, second := someone.tab(phone), someone.tab(phone)
	s.toConnectPage(first, link)
	s.toConnectPage(second, link)
	first.presses("authorize")
	first.sees("It works again")
	second.presses("authorize")
	second.sees("It works again")
	s.isBack(c)
}

func browserLongName(t *testing.T, chrome *chromium) {
	const name = "Rheinische Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft mbH & Co. KG <b>bold</b>"
	s := newStack(t)
	c := s.stale()
	status, body := s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{
		"customer_name": name, "contacts": []reauth.Contact{{Email: customerMail}},
	})
	require.Equal(t, http.StatusOK, status, "%v", body)
	s.report(c, nil)
	b := chrome.person(t).tab(phone)
	b.opens(s.link())
	b.sees("Reconnect " + name)
	b.presses("continue")
	s.seesConnect(b)
	b.presses("authorize")
	assert.Contains(t, b.sees("It works again").Text, name)
	s.isBack(c)
}

// The watch itself must see what it is there for.
func TestBrowserWatch(t *testing.T) {
	t.Parallel()
	chrome := startChromium(t)
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		body := map[string]string{
			"/console":   `<script>console.error("oh")</script>`,
			"/exception": `<script>throw new Error("oh")</script>`,
			"/policy":    `<style>p{color:red}</style>`,
			"/elsewhere": `<img src="http://elsewhere.example/x.png">`,
			"/local":     `<img src="` + strings.Replace(server.URL, "127.0.0.1", "localhost", 1) + `/x.png">`,
			"/missing":   `<img src="/x.png">`,
			"/referrer":  `<img src="/y.png">`,
			"/from":      `<a id="continue" href="/to">go</a>`,
			"/wide":      `<p style="width:600px">wide</p>`,
		}[r.URL.Path]
		switch r.URL.Path {
		case "/policy":
			w.Header().Set("Content-Security-Policy", "default-src 'none'")
		case "/y.png":
			w.Header().Set("Content-Type", "image/svg+xml")
			body = `<svg xmlns="http://www.w3.org/2000/svg"/>`
		case "/x.png", "/favicon.ico":
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, `<!doctype html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><h1>%s</h1>%s`, r.URL.Path, body)
	}))
	t.Cleanup(server.Close)
	for path, want := range map[string]string{
		"/console": "console: error", "/exception": "exception: ", "/policy": "content security policy: style-src",
		"/elsewhere": "another host was asked: http://elsewhere.example/", "/local": "another host was asked: http://localhost:",
		"/missing": "status of 404", "/referrer": "told where it came from: " + server.URL + "/referrer",
	} {
		b := chrome.person(t).unchecked(phone)
		b.do("opening", chromedp.Navigate(server.URL+path))
		(&stack{t: t, logs: &logs{}}).eventually("the watch sees "+path, func() bool {
			return strings.Contains(strings.Join(b.complaints(), "\n"), want)
		})
	}
	b := chrome.person(t).unchecked(phone)
	b.do("opening", chromedp.Navigate(server.URL+"/wide"))
	p, err := b.look(b.ctx)
	require.NoError(t, err)
	assert.Greater(t, int64(p.Width), phone.width)
	assert.NotEmpty(t, p.Outside)

	b.opens(server.URL + "/from")
	b.presses("continue")
	(&stack{t: t, logs: &logs{}}).eventually("the next page is there", func() bool {
		p, err = b.look(b.ctx)
		return err == nil && p.Heading == "/to"
	})
	assert.NotEmpty(t, p.Referrer)
}
