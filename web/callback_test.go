package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// press opens Connect for a connection and returns the state and the browser's
// cookies.
func (f *fixture) press(link string, options ...option) (state string, jar []*http.Cookie) {
	f.t.Helper()
	w := f.visit("POST", link, options...)
	return location(f.t, w).Query().Get("state"), w.Result().Cookies()
}

func (f *fixture) ready(id string) (link string) {
	f.t.Helper()
	link = f.register(id)
	f.open(id, "case-"+id, reauth.PhaseAwaitingCustomer)
	return link
}

func callbackURL(code, state string) string {
	query := url.Values{}
	if code != "" {
		query.Set("code", code)
	}
	if state != "" {
		query.Set("state", state)
	}
	return "/callback?" + query.Encode()
}

// ticketOf opens the ticket of a result page.
func (f *fixture) ticketOf(w *httptest.ResponseRecorder) (t doneTicket) {
	f.t.Helper()
	path := location(f.t, w).Path
	require.True(f.t, strings.HasPrefix(path, "/done/"), path)
	require.NoError(f.t, f.keys.Read(ticketDone, strings.TrimPrefix(path, "/done/"), f.clock(), &t))
	return t
}

func TestCallbackRefusesBadInput(t *testing.T) {
	f := newFixture(t)
	state, jar := f.press(f.ready(connID))
	for name, query := range map[string]string{
		"code twice":            "code=code-Hush-1&code=code-Hush-2",
		"state twice":           "code=code-Hush-1&state=" + state + "&state=" + state,
		"long code":             "code=" + strings.Repeat("c", 2049),
		"long state":            "code=code-Hush&state=" + strings.Repeat("s", maxState+1),
		"code with a space":     "code=code+Hush",
		"code with a NUL":       "code=code%00Hush",
		"code beyond ASCII":     "code=c%C3%B6de",
		"bad escape":            "code=code-Hush%2",
		"semicolons":            "code=a;state=b",
		"an endless query":      "code=code-Hush&x=" + strings.Repeat("x", maxQuery),
		"code twice, one empty": "code=&code=code-Hush",
	} {
		t.Run(name, func(t *testing.T) {
			w := f.visit("GET", "/callback?"+query, cookies(jar))
			require.Equal(t, http.StatusBadRequest, w.Code)
			require.Equal(t, "This address is not complete", title(w))
		})
	}
	require.Empty(t, f.temporal.codes)
	require.Empty(t, f.temporal.redeems)
	require.Zero(t, f.count("codes"))
}

func TestCallbackWithoutACode(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	state, jar := f.press(link)
	back := func(w *httptest.ResponseRecorder) string {
		t.Helper()
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "You have not finished", title(w))
		require.Contains(t, w.Body.String(), "nothing was changed")
		_, rest, found := strings.Cut(w.Body.String(), `href="/again/`)
		if !found {
			return ""
		}
		ticket, _, _ := strings.Cut(rest, `"`)
		return location(t, f.visit("GET", "/again/"+ticket)).String()
	}
	require.Equal(t, link, back(f.visit("GET", callbackURL("", state))), "the state leads back")
	require.Equal(t, link, back(f.visit("GET", "/callback?error=access_denied&error_description=Hush", cookies(jar))), "so does the cookie")
	require.Empty(t, back(f.visit("GET", "/callback")))
	require.Empty(t, back(f.visit("GET", "/callback?code=&state=Hush")))
	require.Empty(t, f.temporal.codes)
}

func TestAgainTickets(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	s := &server{Config: f.config}
	way := s.wayBack(t.Context(), strings.TrimPrefix(link, "/r/"))
	require.Equal(t, link, location(t, f.visit("GET", way)).String())
	f.advance(TicketLife)
	require.Equal(t, http.StatusNotFound, f.visit("GET", way).Code)
	foreign, err := f.keys.Mint(ticketAgain, againTicket{Link: "//evil.example"}, f.clock().Add(time.Hour))
	require.NoError(t, err)
	state, err := f.keys.Mint(ticketState, againTicket{Link: strings.TrimPrefix(link, "/r/")}, f.clock().Add(time.Hour))
	require.NoError(t, err)
	for _, ticket := range []string{"x", foreign, state} {
		require.Equal(t, http.StatusNotFound, f.visit("GET", "/again/"+ticket).Code)
	}
}

func TestCallbackWithState(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	state, _ := f.press(link)
	w := f.visit("GET", callbackURL("code-Hush-1", state))
	require.Equal(t, []reauth.CodeReceived{{Code: "code-Hush-1", RedirectURI: publicURL + "/callback"}}, f.temporal.codes)
	require.Equal(t, []string{connID}, f.temporal.codesFor)
	ticket := f.ticketOf(w)
	require.Equal(t, connID, ticket.ConnectionID)
	require.Equal(t, "case-"+connID, ticket.CaseID)
	require.Equal(t, reauth.CodeHash("code-Hush-1"), ticket.CodeHash)
	require.Equal(t, link, "/r/"+ticket.Link, "the result page knows the way back")
	require.NotContains(t, w.Header().Get("Location"), mark, "the code leaves the address")
	row, err := f.db.CodeByHash(t.Context(), ticket.CodeHash)
	require.NoError(t, err)
	require.Equal(t, reauth.CodeReceivedState, row.State)
	require.Equal(t, connID, row.ConnectionID)
}

func TestCallbackWithAnOldState(t *testing.T) {
	f := newFixture(t)
	state, _ := f.press(f.ready(connID))
	f.advance(90 * 24 * time.Hour)
	f.visit("GET", callbackURL("code-Hush-1", state))
	require.Equal(t, []string{connID}, f.temporal.codesFor, "a tab left open does not lose its code")
}

func TestCallbackWithTheCookieAlone(t *testing.T) {
	f := newFixture(t)
	state, jar := f.press(f.ready(connID))
	for i, bad := range []string{"", "Hush", state[:len(state)-1], state + "A", "xyz%20"} {
		f.visit("GET", "/callback?code=code-Hush-"+fmt.Sprint(i)+"&state="+bad, cookies(jar))
	}
	require.Equal(t, []string{connID, connID, connID, connID, connID}, f.temporal.codesFor, "a state that is not ours is as good as none")
	require.Empty(t, f.temporal.redeems)
}

// The state wins over a cookie that another click has left.
func TestCallbackStateBeforeCookie(t *testing.T) {
	f := newFixture(t)
	stateA, _ := f.press(f.ready("a"))
	_, jarB := f.press(f.ready("b"))
	f.visit("GET", callbackURL("code-Hush-1", stateA), cookies(jarB))
	require.Equal(t, []string{"a"}, f.temporal.codesFor)
}

// A browser that mends two connections at once has one cookie: without a state
// it cannot tell which of them a code belongs to, and the exchange must.
func TestCallbackWithACookieOfTwoConnections(t *testing.T) {
	f := newFixture(t)
	linkA, linkB := f.ready("a"), f.ready("b")
	_, jar := f.press(linkA)
	_, jar = f.press(linkB, cookies(jar))
	w := f.visit("GET", callbackURL("code-Hush-1", ""), cookies(jar))
	require.Empty(t, f.temporal.codesFor)
	require.Len(t, f.temporal.redeems, 1)
	require.Empty(t, f.ticketOf(w).Link, "nor whose link leads back")
	_, jar = f.press(linkB, cookies(jar))
	f.visit("GET", callbackURL("code-Hush-2", ""), cookies(jar))
	require.Len(t, f.temporal.redeems, 2, "a further click does not make it clear")

	// Once the other case is over, the cookie tells again.
	_, jar = f.press(linkA)
	f.close("case-a", reauth.OutcomeRecovered, "")
	_, jar = f.press(linkB, cookies(jar))
	f.visit("GET", callbackURL("code-Hush-3", ""), cookies(jar))
	require.Equal(t, []string{"b"}, f.temporal.codesFor)
}

func TestCallbackWithNeither(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	w := f.visit("GET", callbackURL("code-Hush-1", ""))
	require.Equal(t, "Please open your link once more", title(w), "while nobody has clicked, codes are junk")
	require.Empty(t, f.temporal.redeems)
	require.Zero(t, f.count("codes"))

	f.press(link)
	w = f.visit("GET", callbackURL("code-Hush-1", ""))
	require.Equal(t, []reauth.RedeemInput{{Code: "code-Hush-1", RedirectURI: publicURL + "/callback"}}, f.temporal.redeems)
	ticket := f.ticketOf(w)
	require.Empty(t, ticket.ConnectionID)
	require.Equal(t, reauth.CodeHash("code-Hush-1"), ticket.CodeHash)

	f.advance(clickMemory + time.Second)
	w = f.visit("GET", callbackURL("code-Hush-2", ""))
	require.Equal(t, "Please open your link once more", title(w))
	require.Len(t, f.temporal.redeems, 1)
	require.Empty(t, f.temporal.codes)
}

func TestCallbackBudgets(t *testing.T) {
	f := newFixture(t)
	f.now = f.now.Truncate(unknownWindow) // windows follow the clock
	f.press(f.ready(connID))
	taken := func(i int, address string) bool {
		w := f.visit("GET", callbackURL(fmt.Sprintf("code-Hush-%d", i), ""), from(address))
		return w.Code == http.StatusSeeOther
	}
	n := 0
	for i := range 7 {
		require.Equal(t, i < unknownPerAddress, taken(i, "203.0.113.9:1000"), "code %d of one address", i)
		n++
	}
	for i := range 7 {
		require.Equal(t, i < unknownPerAddress, taken(100+i, fmt.Sprintf("[2001:db8::%d]:1", i)), "code %d of one network", i)
	}
	accepted := 2 * unknownPerAddress
	for i := range unknownInAll {
		if taken(200+i, fmt.Sprintf("198.51.100.%d:1", i)) {
			accepted++
		}
	}
	require.Equal(t, unknownInAll, accepted)
	require.Len(t, f.temporal.redeems, unknownInAll)
	f.advance(unknownWindow)
	require.True(t, taken(999, "203.0.113.9:1000"))
	require.Zero(t, f.rowsLike("budgets", "name", "%203.0.113%"), "addresses are not stored")
}

func (f *fixture) rowsLike(table, column, pattern string) (n int) {
	f.t.Helper()
	return f.count(table + " WHERE " + column + " LIKE '" + pattern + "'")
}

func TestCallbackFloodOfOneConnection(t *testing.T) {
	f := newFixture(t)
	f.now = f.now.Truncate(unknownWindow)
	state, _ := f.press(f.ready(connID))
	for i := range knownPerConnection {
		require.Equal(t, http.StatusSeeOther, f.visit("GET", callbackURL(fmt.Sprintf("code-Hush-%d", i), state)).Code)
	}
	w := f.visit("GET", callbackURL("code-Hush-more", state))
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "Please wait a few minutes", title(w))
	require.Len(t, f.temporal.codes, knownPerConnection)
}

func TestCallbackRepeated(t *testing.T) {
	f := newFixture(t)
	state, jar := f.press(f.ready(connID))
	first := f.visit("GET", callbackURL("code-Hush-1", state))
	require.NoError(t, f.db.SettleCode(t.Context(), reauth.CodeHash("code-Hush-1"), connID, "case-1", reauth.CodeRecovered, 1))
	before := f.rows()
	for _, again := range []*httptest.ResponseRecorder{
		f.visit("GET", callbackURL("code-Hush-1", state)), f.visit("GET", callbackURL("code-Hush-1", ""), cookies(jar)), f.visit("GET", callbackURL("code-Hush-1", "")),
	} {
		require.Equal(t, "It works again", title(f.visit("GET", location(t, again).Path)))
	}
	require.Equal(t, "It works again", title(f.visit("GET", location(t, first).Path)))
	require.Len(t, f.temporal.codes, 1, "nothing is signalled again")
	require.Equal(t, before, f.rows())
}

func TestCallbackTwiceAtOnce(t *testing.T) {
	f := newFixture(t)
	state, _ := f.press(f.ready(connID))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if w := f.do("GET", callbackURL("code-Hush-1", state), nil, noKey); w.Code != http.StatusSeeOther {
				t.Errorf("status %d", w.Code)
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, f.count("codes"))
}

func TestCallbackHead(t *testing.T) {
	f := newFixture(t)
	state, _ := f.press(f.ready(connID))
	w := f.visit("HEAD", callbackURL("code-Hush-1", state))
	require.Equal(t, http.StatusOK, w.Code)
	require.Empty(t, f.temporal.codes)
	require.Zero(t, f.count("codes"))
}

// The browser goes away while the code is handed over.
func TestCallbackOutlivesTheBrowser(t *testing.T) {
	f := newFixture(t)
	state, _ := f.press(f.ready(connID))
	for _, url := range []string{callbackURL("code-Hush-1", state), callbackURL("code-Hush-2", "")} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", url, nil).WithContext(ctx))
	}
	require.Len(t, f.temporal.codes, 1)
	require.Len(t, f.temporal.redeems, 1)
	require.Equal(t, 2, f.count("codes"))
}

// The backend that hands a code in goes away meanwhile.
func TestSubmitCodeOutlivesTheCaller(t *testing.T) {
	f := newFixture(t)
	f.ready(connID)
	ctx, cancel := context.WithCancel(t.Context())
	f.temporal.onCode = cancel
	r := httptest.NewRequest("POST", reportURL+"/code", strings.NewReader(`{"code":"code-Hush-1"}`)).WithContext(ctx)
	r.Header.Set("Authorization", "Bearer "+apiKey)
	f.handler.ServeHTTP(httptest.NewRecorder(), r)
	require.Len(t, f.temporal.codes, 1)
	require.Equal(t, 1, f.count("codes"), "its arrival is noted")
}

func TestCallbackWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	state, _ := f.press(link)
	f.temporal.down = true
	w := f.visit("GET", callbackURL("code-Hush-1", state))
	done := location(t, w).Path
	require.Equal(t, "We have your sign-in", title(f.visit("GET", done)))
	f.visit("GET", callbackURL("code-Hush-2", ""))
	held, err := f.db.HeldCodes(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, held, 2)
	for _, h := range held {
		require.NotContains(t, string(h.Sealed), mark)
	}
	require.Equal(t, connID, held[0].ConnectionID)
	require.Empty(t, held[1].ConnectionID)

	location(t, f.visit("GET", callbackURL("code-Hush-1", state)))
	require.Equal(t, 2, f.count("held_codes"), "a repetition is held once")

	f.temporal.down = false
	f.forwardOnce()
	require.Equal(t, []reauth.CodeReceived{{Code: "code-Hush-1", RedirectURI: publicURL + "/callback"}}, f.temporal.codes)
	require.Equal(t, []reauth.RedeemInput{{Code: "code-Hush-2", RedirectURI: publicURL + "/callback"}}, f.temporal.redeems)
	held, err = f.db.HeldCodes(t.Context(), 10)
	require.NoError(t, err)
	require.Empty(t, held, "a forwarded code is erased")
	f.forwardOnce()
	require.Len(t, f.temporal.codes, 1)
}

func TestCallbackWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	state, jar := f.press(f.ready(connID))
	f.dbDown()
	w := f.visit("GET", callbackURL("code-Hush-1", state))
	require.Len(t, f.temporal.codes, 1, "Temporal alone is enough")
	w = f.visit("GET", location(t, w).Path)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "One moment…", title(w))
	require.Contains(t, w.Body.String(), `<meta http-equiv="refresh" content="5">`)
	f.visit("GET", callbackURL("code-Hush-2", ""), cookies(jar))
	require.Len(t, f.temporal.codes, 2)

	w = f.visit("GET", callbackURL("code-Hush-3", ""))
	require.Equal(t, http.StatusServiceUnavailable, w.Code, "without the database nobody knows whether a stranger's code may be redeemed")
	require.Equal(t, "5", w.Header().Get("Refresh"))
	require.Empty(t, f.temporal.redeems)
}

func TestCallbackWithoutEither(t *testing.T) {
	f := newFixture(t)
	state, _ := f.press(f.ready(connID))
	f.dbDown()
	f.temporal.down = true
	w := f.visit("GET", callbackURL("code-Hush-1", state))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "Please keep this page open", title(w))
	require.Equal(t, "5", w.Header().Get("Refresh"), "the same address again, which still has the code")
	require.Equal(t, "5", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), `href="">Try again now</a>`)
	f.temporal.down = false
	location(t, f.visit("GET", callbackURL("code-Hush-1", state)))
	require.Len(t, f.temporal.codes, 1)
}

// forwardOnce runs the forwarder until it has looked once.
func (f *fixture) forwardOnce() {
	Forwarder{DB: f.db, Keys: f.keys, Starter: f.temporal, Logger: f.config.Logger}.forward(f.t.Context())
}

func TestForwarderPassesWhatItCannotOpen(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	s := &server{Config: f.config, metrics: mustMetrics(t)}
	hold := func(code, connectionID string) {
		require.NoError(t, s.hold(ctx, delivery{ConnectionID: connectionID, Message: reauth.CodeReceived{Code: code}}))
	}
	require.NoError(t, f.db.HoldCode(ctx, reauth.CodeHash("x"), "a", "", []byte("not sealed")))
	hold("code-Hush-1", "a")
	hold("code-Hush-2", "b")
	f.sql(`UPDATE held_codes SET connection_id = 'c' WHERE hash = $1`, reauth.CodeHash("code-Hush-1"))
	f.forwardOnce()
	require.Equal(t, []string{"b"}, f.temporal.codesFor, "a code that was moved to another connection does not open")
	held, err := f.db.HeldCodes(ctx, 10)
	require.NoError(t, err)
	require.Len(t, held, 2, "what does not open stays")
}

func TestForwarderRun(t *testing.T) {
	f := newFixture(t)
	s := &server{Config: f.config, metrics: mustMetrics(t)}
	f.temporal.down = true
	require.NoError(t, s.hold(t.Context(), delivery{ConnectionID: "a", Message: reauth.CodeReceived{Code: "code-Hush-1"}}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Forwarder{DB: f.db, Keys: f.keys, Starter: f.temporal, Logger: f.config.Logger, Every: time.Millisecond}.Run(ctx)
	}()
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "could not be forwarded") }, 10*time.Second, time.Millisecond)
	f.temporal.mu.Lock()
	f.temporal.down = false
	f.temporal.mu.Unlock()
	require.Eventually(t, func() bool {
		held, err := f.db.HeldCodes(t.Context(), 1)
		return err == nil && len(held) == 0
	}, 10*time.Second, time.Millisecond)
	cancel()
	<-ended
	require.Equal(t, []string{"a"}, f.temporal.codesFor)
}

func mustMetrics(t *testing.T) *metrics {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	return m
}

// A state goes on working when the case has opened another session since, and a
// repeat of the code that it brought shows the first result.
func TestCallbackWithTheStateOfAnOlderSession(t *testing.T) {
	f := newFixture(t)
	old, _ := f.press(f.ready(connID))
	f.session("case-"+connID, connect+"2", f.clock().Add(time.Hour))
	fresh, _ := f.press(f.link(connID))
	require.NotEqual(t, old, fresh)
	first := f.ticketOf(f.visit("GET", callbackURL("code-Hush-1", old)))
	require.Equal(t, []string{connID}, f.temporal.codesFor)
	require.Equal(t, "case-"+connID, first.CaseID)
	for _, state := range []string{old, fresh} {
		again := f.ticketOf(f.visit("GET", callbackURL("code-Hush-1", state)))
		require.Equal(t, first.CodeHash, again.CodeHash)
	}
	require.Len(t, f.temporal.codes, 1, "nothing is exchanged twice")
}

// Login CSRF: somebody's own state, made to be opened in another's browser, is
// still about their own connection, and leaves the other's cookie as it is.
func TestCallbackWithAStrangersState(t *testing.T) {
	f := newFixture(t)
	_, victim := f.press(f.ready("victim"))
	theirs, _ := f.press(f.ready("attacker"))
	w := f.visit("GET", callbackURL("code-Hush-1", theirs), cookies(victim))
	require.Equal(t, []string{"attacker"}, f.temporal.codesFor)
	require.Equal(t, "attacker", f.ticketOf(w).ConnectionID)
	require.Empty(t, w.Result().Cookies())
	f.visit("GET", callbackURL("code-Hush-2", ""), cookies(victim))
	require.Equal(t, []string{"attacker", "victim"}, f.temporal.codesFor, "the browser's own sign-in goes on")
}

// A ticket that was minted for another use, or under another keyset, is no state.
func TestCallbackWithATicketThatIsNoState(t *testing.T) {
	f := newFixture(t)
	f.press(f.ready(connID))
	click := clickTicket{ConnectionID: connID, CaseID: "case-" + connID}
	setting, err := secrets.Generate()
	require.NoError(t, err)
	others, err := secrets.Load(setting)
	require.NoError(t, err)
	foreign, err := others.Mint(ticketState, click, f.clock().Add(time.Hour))
	require.NoError(t, err)
	tickets := []string{foreign}
	for _, kind := range []string{ticketDone, ticketAgain, ticketOperator, ticketForm, ticketOpenID} {
		ticket, err := f.keys.Mint(kind, click, f.clock().Add(time.Hour))
		require.NoError(t, err)
		tickets = append(tickets, ticket)
	}
	s := &server{Config: f.config}
	for _, ticket := range tickets {
		_, ok := s.stateTicket(ticket)
		require.False(t, ok)
		r := httptest.NewRequest("GET", "/callback", nil)
		r.AddCookie(&http.Cookie{Name: s.cookieName(), Value: ticket})
		_, ok = s.cookieTicket(r)
		require.False(t, ok)
	}
	f.visit("GET", callbackURL("code-Hush-1", foreign))
	require.Empty(t, f.temporal.codesFor)
	require.Len(t, f.temporal.redeems, 1, "it is as good as none: the exchange says whose the code is")
}
