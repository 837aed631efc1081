package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// rows counts everything that a press could change.
func (f *fixture) rows() map[string]int {
	rows := map[string]int{}
	for _, table := range []string{"connections", "cases", "clicks", "links", "case_events", "codes", "budgets", "suppressions"} {
		rows[table] = f.count(table)
	}
	return rows
}

func TestShowLinkChangesNothing(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	states := []func(){
		func() {},
		func() { f.open(connID, "case-1", reauth.PhaseConfirming) },
		func() { f.session("case-1", connect, f.clock().Add(time.Hour)) },
		func() { f.close("case-1", reauth.OutcomeExpired, "") },
	}
	for i, next := range states {
		next()
		before := f.rows()
		for _, method := range []string{"GET", "HEAD"} {
			for _, query := range []string{"", "?wait=" + strconv.FormatInt(f.clock().UnixMilli(), 10), "?wait=x", "?go=1"} {
				w := f.visit(method, link+query)
				require.Equal(t, http.StatusOK, w.Code)
				require.Empty(t, w.Result().Cookies())
				if method == "HEAD" {
					require.Empty(t, w.Body.String())
				}
			}
		}
		require.Equal(t, before, f.rows(), "state %d", i)
	}
	require.Empty(t, f.temporal.reports)
	require.Empty(t, f.temporal.signals)
}

func TestLinkStates(t *testing.T) {
	tests := []struct {
		name    string
		set     func(f *fixture)
		title   string
		button  string
		says    string
		refresh string
	}{
		{"never had a case", func(*fixture) {}, "The connection works", "", "There is nothing to do", ""},
		{"stale without a case", func(f *fixture) {
			require.NoError(f.t, f.db.SetConnectionStatus(f.t.Context(), connID, reauth.StatusStale, f.clock()))
		}, "Reconnect Acme Ltd", "Reconnect now", "still good", ""},
		{"confirming", func(f *fixture) { f.open(connID, "c", reauth.PhaseConfirming) }, "Reconnect Acme Ltd", "Reconnect now", "You go to connect.tryfinch.com", ""},
		{"awaiting the customer", func(f *fixture) { f.open(connID, "c", reauth.PhaseAwaitingCustomer) }, "Reconnect Acme Ltd", "Reconnect now", "Renew by", ""},
		{"session over", func(f *fixture) {
			f.open(connID, "c", reauth.PhaseAwaitingCustomer)
			f.session("c", connect, f.clock())
		}, "Reconnect Acme Ltd", "Reconnect now", "", ""},
		{"redeeming", func(f *fixture) { f.open(connID, "c", reauth.PhaseRedeeming) }, "We are checking the connection", "", "", "3"},
		{"verifying", func(f *fixture) { f.open(connID, "c", reauth.PhaseVerifying) }, "We are checking the connection", "", "", "3"},
		{"blocked with a session", func(f *fixture) { f.open(connID, "c", reauth.PhaseBlocked) }, "Reconnect Acme Ltd", "Reconnect now", "", ""},
		{"blocked without one", func(f *fixture) {
			f.open(connID, "c", reauth.PhaseConfirming)
			require.NoError(f.t, f.db.SetPhase(f.t.Context(), "c", reauth.PhaseBlocked, "invalid_client"))
		}, "We have to fix something first", "", "not your fault", ""},
		{"recovered", func(f *fixture) { f.over(reauth.OutcomeRecovered, "") }, "The connection works", "", "Works since", ""},
		{"healed", func(f *fixture) { f.over(reauth.OutcomeHealed, "") }, "The connection works", "", "", ""},
		{"false alarm", func(f *fixture) { f.over(reauth.OutcomeFalseAlarm, "") }, "The connection works", "", "", ""},
		{"expired", func(f *fixture) { f.over(reauth.OutcomeExpired, "") }, "Reconnect Acme Ltd", "Reconnect now", "This link is still good", ""},
		{"cancelled", func(f *fixture) { f.over(reauth.OutcomeCancelled, "left") }, "Reconnect Acme Ltd", "Reconnect now", "", ""},
		{"failed", func(f *fixture) { f.over(reauth.OutcomeFailed, "x") }, "Reconnect Acme Ltd", "Reconnect now", "", ""},
		{"deleted at the provider", func(f *fixture) { f.over(reauth.OutcomeFailed, reauth.ReasonConnectionNotFound) }, "This connection was ended", "", "", ""},
		{"disconnected", func(f *fixture) {
			f.open(connID, "c", reauth.PhaseAwaitingCustomer)
			require.NoError(f.t, f.db.SetConnectionStatus(f.t.Context(), connID, reauth.StatusDisconnected, f.clock()))
		}, "This connection was ended", "", "", ""},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			link := f.register(connID)
			test.set(f)
			w := f.visit("GET", link)
			require.Equal(t, http.StatusOK, w.Code)
			page := w.Body.String()
			require.Equal(t, test.title, title(w))
			require.Contains(t, page, test.says)
			require.Contains(t, page, "Payhub")
			if test.button != "" {
				require.Contains(t, page, `<form method="post" class="act"><button type="submit" id="continue">`+test.button+`</button></form>`)
			} else {
				require.NotContains(t, page, "<form")
			}
			if test.refresh != "" {
				require.Contains(t, page, `<meta http-equiv="refresh" content="`+test.refresh+`">`)
			} else {
				require.NotContains(t, page, "http-equiv")
			}
		})
	}
}

func (f *fixture) over(outcome reauth.Outcome, reason string) {
	f.open(connID, "c", reauth.PhaseAwaitingCustomer)
	f.close("c", outcome, reason)
	f.advance(2 * time.Hour)
}

func TestLinksThatLeadNowhere(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	gone := f.register("gone")
	_, err := f.db.RemoveConnection(t.Context(), "gone")
	require.NoError(t, err)
	require.NoError(t, f.db.RevokeLinks(t.Context(), connID, ""))
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)

	for name, path := range map[string]string{
		"revoked": link, "removed": gone, "unknown": "/r/" + strings.Repeat("A", 43), "cut off": link[:40], "longer": link + "A",
		"odd": "/r/%00%ff", "a path": "/r/..%2f..%2fetc", "a query": "/r/" + url.PathEscape("x?y=1"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST"} {
				w := f.visit(method, path)
				require.Equal(t, http.StatusNotFound, w.Code)
				require.Equal(t, "This link does not work", title(w))
			}
		})
	}
	require.Zero(t, f.count("clicks"))
	require.NotEqual(t, link, f.link(connID), "the next link of the same person is another one")
}

func TestPressGoesToConnect(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	w := f.visit("POST", link)
	target := location(t, w)
	require.Equal(t, "connect.tryfinch.com", target.Host)
	require.Equal(t, "/authorize", target.Path)
	require.Equal(t, "ses_1", target.Query().Get("session"))
	state := target.Query().Get("state")
	require.Less(t, len(state), 600, "providers cut long states off")

	jar := w.Result().Cookies()
	require.Len(t, jar, 1)
	c := jar[0]
	require.Equal(t, "__Host-reauth", c.Name)
	require.Equal(t, state, c.Value)
	require.True(t, c.HttpOnly && c.Secure)
	require.Equal(t, http.SameSiteLaxMode, c.SameSite)
	require.Equal(t, "/", c.Path)
	require.Empty(t, c.Domain)
	require.Equal(t, 24*60*60, c.MaxAge)

	var click clickTicket
	require.NoError(t, f.keys.Read(ticketState, state, f.clock(), &click))
	require.Equal(t, connID, click.ConnectionID)
	require.Equal(t, "case-1", click.CaseID)
	require.Equal(t, "default", click.Application)
	require.NotEmpty(t, click.Attempt)
	last, err := f.db.LastClick(t.Context(), "case-1")
	require.NoError(t, err)
	require.WithinDuration(t, f.clock(), *last, time.Millisecond)

	again := location(t, f.visit("POST", link))
	require.NotEqual(t, state, again.Query().Get("state"), "each click has a state of its own")
	require.Equal(t, 2, f.count("clicks"))
	require.Empty(t, f.temporal.reports, "nothing is asked of Temporal")
}

func TestCookieOverHTTP(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.PublicURL, c.ConnectHosts = "http://127.0.0.1:8080", []string{"connect.tryfinch.com", "127.0.0.1:9000"}
	})
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	f.session("case-1", "http://127.0.0.1:9000/authorize?session=x", f.clock().Add(time.Hour))
	w := f.visit("POST", link)
	require.Equal(t, "127.0.0.1:9000", location(t, w).Host)
	c := w.Result().Cookies()[0]
	require.Equal(t, "reauth", c.Name)
	require.False(t, c.Secure)
	require.Contains(t, f.visit("GET", link).Header().Get("Content-Security-Policy"), "http://127.0.0.1:9000")
}

func TestPressNeverLeadsElsewhere(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	for _, target := range []string{
		"https://evil.example/authorize?session=x", "https://connect.tryfinch.com.evil.example/", "https://connect.tryfinch.com@evil.example/",
		"http://connect.tryfinch.com/authorize", "//evil.example", "javascript:alert(1)", "https://connect.tryfinch.com:8443/", "/authorize", "%",
		"https://user:pass@connect.tryfinch.com/",
	} {
		f.session("case-1", target, f.clock().Add(time.Hour))
		w := f.visit("POST", link)
		require.Equal(t, http.StatusInternalServerError, w.Code, target)
		require.Equal(t, "We cannot send you to the sign-in", title(w))
		require.Empty(t, w.Header().Get("Location"))
		require.Empty(t, w.Result().Cookies())
	}
	require.Zero(t, f.count("clicks"))
	require.Contains(t, f.log.String(), "not at an allowed host")
	require.NotContains(t, f.log.String(), "evil")

	f.session("case-1", "https://CONNECT.tryfinch.com/authorize", f.clock().Add(time.Hour))
	require.Equal(t, "CONNECT.tryfinch.com", location(t, f.visit("POST", link)).Host)
}

func TestPressFromElsewhere(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	tests := []struct {
		name, fetchSite, origin string
		allowed                 bool
	}{
		{"an old client", "", "", true},
		{"our page", "same-origin", "null", true},
		{"our page, with its origin", "same-origin", publicURL, true},
		{"an old browser on our page", "", "null", true},
		{"an old browser, with its origin", "", publicURL, true},
		{"behind a proxy", "", "http://example.com", true}, // httptest's Host
		{"typed or reloaded", "none", "", true},
		{"another site", "cross-site", "https://evil.example", false},
		{"a sister site", "same-site", "https://app.example.com", false},
		{"another site in an old browser", "", "https://evil.example", false},
		{"a broken origin", "", "::", false},
		{"an unknown word", "sideways", "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := f.count("clicks")
			w := f.visit("POST", link, func(r *http.Request) {
				if test.fetchSite != "" {
					r.Header.Set("Sec-Fetch-Site", test.fetchSite)
				}
				if test.origin != "" {
					r.Header.Set("Origin", test.origin)
				}
			})
			if test.allowed {
				require.Equal(t, "connect.tryfinch.com", location(t, w).Host)
				return
			}
			require.Equal(t, http.StatusForbidden, w.Code)
			require.Equal(t, "Please open the link yourself", title(w))
			require.Equal(t, before, f.count("clicks"))
		})
	}
}

func TestPressWhileTheSessionIsOnItsWay(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseConfirming)
	wait := location(t, f.visit("POST", link))
	require.Equal(t, link, wait.Path)
	require.Regexp(t, `^wait=\d+$`, wait.RawQuery)

	w := f.visit("GET", wait.String())
	require.Equal(t, "One moment…", title(w))
	require.Contains(t, w.Body.String(), `<meta http-equiv="refresh" content="2">`)
	require.NotContains(t, w.Body.String(), "<form")

	f.advance(patience + time.Second)
	w = f.visit("GET", wait.String())
	require.Contains(t, w.Body.String(), `<meta http-equiv="refresh" content="10">`)
	require.Contains(t, w.Body.String(), "longer than usual, which is our fault")

	f.session("case-1", connect, f.clock().Add(time.Hour))
	w = f.visit("GET", wait.String())
	require.Equal(t, "Ready", title(w))
	require.Contains(t, w.Body.String(), "Ready – continue")
	require.NotContains(t, w.Body.String(), "http-equiv")
	require.Equal(t, "connect.tryfinch.com", location(t, f.visit("POST", wait.String())).Host)

	f.advance(maxPatience)
	require.Equal(t, "Reconnect Acme Ltd", title(f.visit("GET", wait.String())), "nobody waits for ever")
}

func TestPressWhileChecking(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "case-1", reauth.PhaseRedeeming)
	target := location(t, f.visit("POST", link))
	require.True(t, strings.HasPrefix(target.Path, "/done/"))
	require.Equal(t, "Checking the connection", title(f.visit("GET", target.Path)))
	f.close("case-1", reauth.OutcomeRecovered, "")
	require.Equal(t, "It already works", title(f.visit("GET", target.Path)))
}

func TestPressWhereThereIsNothingToDo(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.over(reauth.OutcomeRecovered, "")
	require.Equal(t, link, location(t, f.visit("POST", link)).String())
	require.Empty(t, f.temporal.reports)
	require.Zero(t, f.count("clicks"))
}

func TestPressReopens(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.over(reauth.OutcomeExpired, "")
	wait := location(t, f.visit("POST", link))
	require.Equal(t, []reauth.Input{{ConnectionID: connID, Provider: reauth.Finch, Source: reauth.SourceLink}}, f.temporal.reports)
	require.Equal(t, "One moment…", title(f.visit("GET", wait.String())))
	require.Equal(t, 1, f.count("clicks"), "the person is here")
	_, _, suppressed, err := f.db.Suppressed(t.Context(), connID, reauth.SourceAPIError, "", f.clock())
	require.NoError(t, err)
	require.False(t, suppressed)

	// Once per link and hour.
	f.session("c+", connect, f.clock().Add(time.Hour))
	require.Equal(t, "Ready", title(f.visit("GET", wait.String())))
	f.close("c+", reauth.OutcomeExpired, "")
	f.advance(time.Minute)
	w := f.visit("POST", link)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "Please try again a little later", title(w))
	require.Len(t, f.temporal.reports, 1)
	f.advance(time.Hour)
	location(t, f.visit("POST", link))
	require.Len(t, f.temporal.reports, 2)
}

// While no worker has opened the new case, the page waits instead of showing
// the old one.
func TestPressReopensBeforeTheCaseIsThere(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.temporal.idle = true
	f.over(reauth.OutcomeCancelled, "x")
	wait := location(t, f.visit("POST", link))
	require.Equal(t, "One moment…", title(f.visit("GET", wait.String())))
	f.advance(time.Second)
	_, err := f.db.OpenCase(t.Context(), db.Case{CaseID: "c+", ConnectionID: connID, Source: reauth.SourceLink, OpenedAt: f.clock()})
	require.NoError(t, err)
	require.Equal(t, "One moment…", title(f.visit("GET", wait.String())))
	f.close("c+", reauth.OutcomeFalseAlarm, "")
	require.Equal(t, "The connection works", title(f.visit("GET", wait.String())))
}

func TestPressReopensWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.over(reauth.OutcomeExpired, "")
	f.temporal.down = true
	w := f.visit("POST", link)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "We could not start the sign-in", title(w))
	require.Contains(t, w.Body.String(), "It is not your fault")
	require.Contains(t, w.Body.String(), `<form method="post"`)
	require.Contains(t, w.Body.String(), w.Header().Get("X-Request-Id"), "support can find it")

	f.temporal.down = false
	location(t, f.visit("POST", link))
	require.Len(t, f.temporal.reports, 1, "the press that failed does not count")
}

// What counts against the hour is a case that the link opened, not a press
// that failed after another report's case.
func TestPressReopensAfterAFailedPress(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.open(connID, "c", reauth.PhaseAwaitingCustomer)
	f.close("c", reauth.OutcomeCancelled, "a mistake")
	f.advance(time.Minute)
	f.temporal.down = true
	require.Equal(t, http.StatusServiceUnavailable, f.visit("POST", link).Code)
	f.temporal.down = false
	location(t, f.visit("POST", link))
	require.Len(t, f.temporal.reports, 1)
}

// A connection that is stale without ever having had a case.
func TestPressOpensTheFirstCase(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	require.NoError(t, f.db.SetConnectionStatus(t.Context(), connID, reauth.StatusStale, f.clock()))
	f.temporal.idle = true
	wait := location(t, f.visit("POST", link))
	require.Equal(t, "One moment…", title(f.visit("GET", wait.String())))
	require.Len(t, f.temporal.reports, 1)
}

func TestLinkWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	f.dbDown()
	for _, method := range []string{"GET", "POST"} {
		w := f.visit(method, link)
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "We cannot show this just now", title(w))
		require.Equal(t, "5", w.Header().Get("Retry-After"))
	}
}

func TestLinkOtherMethods(t *testing.T) {
	f := newFixture(t)
	link := f.register(connID)
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS"} {
		w := f.visit(method, link)
		require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		require.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))
	}
}

func TestLinkEscapesWhatItShows(t *testing.T) {
	f := newFixture(t)
	f.api(201, "PUT", connectionURL, map[string]any{"customer_name": `<script>alert("x")</script> & Co`, "contacts": []any{map[string]any{"email": email}}}, nil)
	f.open(connID, "case-1", reauth.PhaseAwaitingCustomer)
	page := f.visit("GET", f.link(connID)).Body.String()
	require.Contains(t, page, "&lt;script&gt;alert")
	require.NotContains(t, page, "<script>alert")
}
