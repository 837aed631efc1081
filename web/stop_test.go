package web

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	stopAsked    = "Not the right person?"
	stopHappened = "We have noted it"
	stopTaken    = "We have taken it back"
)

// unreachable is why a connection's first contact must not be written to.
func (f *fixture) unreachable(id string) string {
	f.t.Helper()
	var c reauth.Connection
	f.api(200, "GET", "/v1/connections/"+id, nil, &c)
	return c.Contacts[0].Unreachable
}

// twoCases registers two connections with the same contact, and opens their cases.
func (f *fixture) twoCases() (link string) {
	link = f.ready(connID)
	f.ready("other")
	return link
}

func TestShowStopChangesNothing(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	look := func(want string, query ...string) {
		t.Helper()
		before, why := f.rows(), f.unreachable(connID)
		for _, method := range []string{"GET", "HEAD"} {
			for _, q := range append(query, "", "?what=never", "?what=undo", "?List-Unsubscribe=One-Click") {
				w := f.visit(method, stopPage(link)+q, header("Content-Type", "application/x-www-form-urlencoded"))
				require.Equal(t, http.StatusOK, w.Code)
				require.Empty(t, w.Result().Cookies())
				if method == "GET" {
					require.Equal(t, want, title(w))
				} else {
					require.Empty(t, w.Body.String())
				}
			}
		}
		require.Equal(t, before, f.rows())
		require.Equal(t, why, f.unreachable(connID))
	}
	look(stopAsked)
	require.Zero(t, f.count("unreachable"))
	f.visit("POST", stopPage(link), form("what=not_me"))
	look(stopHappened)
	f.visit("POST", stopPage(link), form("what=never"))
	look(stopHappened)
	require.Len(t, f.temporal.signals, 3, "one of not_me, two of never")
}

func TestStopPage(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	f.sql(`UPDATE connections SET system = 'Gusto'`)
	page := f.visit("GET", stopPage(link)).Body.String()
	require.Contains(t, page, "You get mails about Payhub&#39;s connection to the Gusto account of Acme Ltd.")
	require.Contains(t, page, `<button type="submit" name="what" value="not_me">I am not the right person</button>`)
	require.Contains(t, page, `<button type="submit" name="what" value="never" class="quiet">No more mails to my address</button>`)
	require.Contains(t, page, "A•••@acme.example", "its owner knows the address, whoever else has the link does not get it")
	require.Equal(t, 1, strings.Count(page, `<form method="post"`))

	// The two pages lead to each other, and neither holds the link's secret.
	require.Contains(t, page, `href="?link"`)
	require.Equal(t, link, location(t, f.visit("GET", stopPage(link)+"?link")).String())
	require.Contains(t, f.visit("GET", link).Body.String(), `<a href="?stop">Not the right person?</a>`)
	require.Equal(t, stopPage(link), location(t, f.visit("GET", link+"?stop")).String())
}

func TestNotTheRightPerson(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	for range 2 {
		w := f.visit("POST", stopPage(link), form("what=not_me"))
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, stopHappened, title(w))
		require.Contains(t, w.Body.String(), "You will get no more mails about this. We will look for somebody else at Acme Ltd to ask.")
		require.Contains(t, w.Body.String(), `value="undo" class="quiet">That was a mistake</button>`)
		require.Equal(t, []string{"contacts " + connID}, f.temporal.signals, "the case hears once, the other never")
	}
	require.Equal(t, []reauth.ContactsChanged{{Reason: "A contact said that they are not the right person."}}, f.temporal.changes)
	require.Equal(t, "not_me", f.unreachable(connID))
	require.Empty(t, f.unreachable("other"), "it is said of one connection alone")
	require.Equal(t, http.StatusOK, f.visit("GET", link).Code, "the link itself still works")

	for range 2 {
		w := f.visit("POST", stopPage(link), form("what=undo"))
		require.Equal(t, stopTaken, title(w))
		require.Contains(t, w.Body.String(), "You get mails about Payhub&#39;s connection to the payroll and HR system of Acme Ltd again.")
		require.Equal(t, []string{"contacts " + connID, "contacts " + connID}, f.temporal.signals)
	}
	require.Empty(t, f.unreachable(connID))
	require.Equal(t, stopAsked, title(f.visit("GET", stopPage(link))))
}

func TestNoMoreMails(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	f.register("healthy")
	both := []string{"contacts " + connID, "contacts other"}
	for range 2 {
		w := f.visit("POST", stopPage(link), form("what=never"))
		require.Equal(t, stopHappened, title(w))
		require.Contains(t, w.Body.String(), "We will not write to A•••@acme.example again, about this or any other connection. We will look for somebody else at Acme Ltd to ask.")
		require.ElementsMatch(t, both, f.temporal.signals, "every open case with the address hears once")
	}
	require.Equal(t, "opt_out", f.unreachable(connID))
	require.Equal(t, "opt_out", f.unreachable("healthy"))

	for range 2 {
		require.Equal(t, stopTaken, title(f.visit("POST", stopPage(link), form("what=undo"))))
		require.ElementsMatch(t, append(both, both...), f.temporal.signals)
	}
	require.Empty(t, f.unreachable("other"))
	require.Zero(t, f.count("unreachable"))
}

// Both said, both are taken back; but what a mail service reported stays.
func TestUndoTakesBackWhatThePersonSaid(t *testing.T) {
	f := newFixture(t)
	link, other := f.ready(connID), f.ready("other")
	f.visit("POST", stopPage(link), form("what=not_me"))
	f.visit("POST", stopPage(link), form("what=never"))
	f.visit("POST", stopPage(other), form("what=not_me"))
	f.temporal.signals = nil
	require.Equal(t, stopTaken, title(f.visit("POST", stopPage(link), form("what=undo"))))
	require.Empty(t, f.unreachable(connID))
	require.Equal(t, "not_me", f.unreachable("other"), "which was said with another link")
	require.Equal(t, []string{"contacts " + connID}, f.temporal.signals, "nobody can be written to again in the other case")

	f.api(200, "POST", "/v1/contacts/bounce", map[string]any{"email": email, "kind": "complaint"}, nil)
	w := f.visit("POST", stopPage(link), form("what=undo"))
	require.Equal(t, stopHappened, title(w), "it says what is so")
	require.NotContains(t, w.Body.String(), "undo", "there is nothing that the page could take back")
	require.Equal(t, "complaint", f.unreachable(connID))
}

func TestStopPageOfAnAddressThatBounced(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	f.api(200, "POST", "/v1/contacts/bounce", map[string]any{"email": email}, nil)
	w := f.visit("GET", stopPage(link))
	require.Equal(t, stopAsked, title(w))
	require.Contains(t, w.Body.String(), "Our mails to A•••@acme.example came back lately")
	for range 2 {
		w = f.visit("POST", stopPage(link), form("what=not_me"))
		require.Equal(t, stopHappened, title(w))
	}
	require.Equal(t, stopHappened, title(f.visit("GET", stopPage(link))))
	w = f.visit("POST", stopPage(link), form("what=undo"))
	require.Equal(t, stopTaken, title(w))
	require.Contains(t, w.Body.String(), "none goes out before that is mended")
	require.Equal(t, "bounce", f.unreachable(connID))
}

// RFC 8058: mail providers' servers post it, with nothing but the address.
func TestOneClick(t *testing.T) {
	multipart := "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n"
	tests := []struct{ name, contentType, body string }{
		{"form", "application/x-www-form-urlencoded", "List-Unsubscribe=One-Click"},
		{"form with a charset", "application/x-www-form-urlencoded; charset=UTF-8", "List-Unsubscribe=One-Click"},
		{"multipart", "multipart/form-data; boundary=x", multipart},
	}
	shared := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := shared.again(t)
			link := f.ready(connID)
			for range 2 {
				w := f.visit("POST", stopPage(link), func(r *http.Request) {
					r.Body = io.NopCloser(strings.NewReader(test.body))
					r.Header = http.Header{"Content-Type": {test.contentType}, "Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://mail.example"}}
				})
				require.Equal(t, http.StatusOK, w.Code)
				require.Equal(t, stopHappened, title(w))
				require.Empty(t, w.Result().Cookies())
			}
			require.Equal(t, "not_me", f.unreachable(connID))
			require.Equal(t, []string{"contacts " + connID}, f.temporal.signals)
		})
	}
}

func TestStopRefuses(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	tests := []struct {
		name   string
		change option
		status int
		title  string
	}{
		{"nothing", func(*http.Request) {}, 400, "That did not work"},
		{"an unknown wish", form("what=everything"), 400, "That did not work"},
		{"a wish in the address alone", func(r *http.Request) { r.URL.RawQuery = "what=never"; form("")(r) }, 400, "That did not work"},
		{"another value of one-click", form("List-Unsubscribe=Two-Clicks"), 400, "That did not work"},
		{"a broken form", form("what=%zz"), 400, "That did not work"},
		{"a broken multipart", func(r *http.Request) {
			form("x")(r)
			r.Header.Set("Content-Type", "multipart/form-data")
		}, 400, "That did not work"},
		{"too large", form("what=not_me&x=" + strings.Repeat("x", maxForm)), 413, "That did not work"},
		{"another site", func(r *http.Request) {
			form("what=not_me")(r)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}, 403, "Please open the link yourself"},
		{"another site in an old browser", func(r *http.Request) {
			form("what=never")(r)
			r.Header.Set("Origin", "https://evil.example")
		}, 403, "Please open the link yourself"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := f.visit("POST", stopPage(link), test.change)
			require.Equal(t, test.status, w.Code)
			require.Equal(t, test.title, title(w))
			require.Empty(t, f.unreachable(connID))
		})
	}
	require.Empty(t, f.temporal.signals)
	w := f.visit("DELETE", stopPage(link))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))

	// Our own page is allowed, as browsers send it.
	require.Equal(t, stopHappened, title(f.visit("POST", stopPage(link), form("what=not_me"), header("Sec-Fetch-Site", "same-origin"), header("Origin", "null"))))
}

func TestStopLinksThatLeadNowhere(t *testing.T) {
	f := newFixture(t)
	revoked, removed, replaced := f.ready(connID), f.ready("removed"), f.ready("replaced")
	require.NoError(t, f.db.RevokeLinks(t.Context(), connID, ""))
	_, err := f.db.RemoveConnection(t.Context(), "removed")
	require.NoError(t, err)
	f.api(200, "PUT", "/v1/connections/replaced", map[string]any{"contacts": []any{map[string]any{"email": "bob.Hush@acme.example"}}}, nil)
	f.temporal.signals = nil
	for name, path := range map[string]string{
		"revoked": revoked, "a removed connection's": removed, "a contact's who was replaced": replaced,
		"unknown": "/r/" + strings.Repeat("A", 43), "cut off": revoked[:40], "odd": "/r/" + url.PathEscape("x?y=1"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{"", "what=not_me", "what=never", "what=undo", "List-Unsubscribe=One-Click"} {
				w := f.visit("POST", stopPage(path), form(body))
				require.Equal(t, http.StatusNotFound, w.Code)
				require.Equal(t, "This link does not work", title(w))
			}
			require.Equal(t, "This link does not work", title(f.visit("GET", stopPage(path))))
		})
	}
	require.Empty(t, f.temporal.signals)
	require.Zero(t, f.count("unreachable"))
}

// The operator's own link stops nothing; an account manager is a contact like
// any other.
func TestStopPageOfTheCompanysPeople(t *testing.T) {
	f := newFixture(t)
	f.ready(connID)
	link := f.linkFor(connID, db.RecipientOperator)
	for _, w := range []string{"GET", "POST"} {
		w := f.visit(w, stopPage(link), form("what=never"))
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "There is nothing to stop here", title(w))
		require.NotContains(t, w.Body.String(), "<form")
	}
	require.Empty(t, f.temporal.signals)
	require.Zero(t, f.count("unreachable"))

	f.sql(`UPDATE contacts SET role = 'account_manager'`)
	w := f.visit("POST", stopPage(f.link(connID)), form("what=not_me"))
	require.Contains(t, w.Body.String(), "We will look for somebody else to ask.")
	require.Equal(t, "not_me", f.unreachable(connID))
}

// What somebody said stands, whether or not Temporal can be reached, and
// without an open case.
func TestStopWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	f.temporal.down = true
	require.Equal(t, stopHappened, title(f.visit("POST", stopPage(link), form("what=not_me"))))
	require.Equal(t, "not_me", f.unreachable(connID))
	require.Equal(t, stopHappened, title(f.visit("POST", stopPage(link), form("what=never"))))
	require.Equal(t, "opt_out", f.unreachable(connID))
	require.Equal(t, stopTaken, title(f.visit("POST", stopPage(link), form("what=undo"))))
	require.Equal(t, 3, strings.Count(f.log.String(), "open cases were not told that their contacts changed"))

	f.temporal.down = false
	f.close("case-"+connID, reauth.OutcomeExpired, "")
	f.advance(time.Minute)
	require.Equal(t, stopHappened, title(f.visit("POST", stopPage(link), form("what=not_me"))))
	require.Empty(t, f.temporal.signals, "no case of the connection is open")
	require.Equal(t, "not_me", f.unreachable(connID), "for the next case")
}

func TestStopWithoutDatabase(t *testing.T) {
	f := newFixture(t)
	link := f.ready(connID)
	f.dbDown()
	for _, method := range []string{"GET", "POST"} {
		w := f.visit(method, stopPage(link), form("List-Unsubscribe=One-Click"))
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "a mail provider tries again")
		require.Equal(t, "5", w.Header().Get("Retry-After"))
	}
}

// stopPage is the page on which the owner of a link stops the mails.
func stopPage(link string) string { return "/stop/" + strings.TrimPrefix(link, "/r/") }

// The way out of a mail about several connections is about all of them.
func TestStopAllOfADigest(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	all := stopPage(link) + "?all"
	page := f.visit("GET", all).Body.String()
	require.Contains(t, page, "You get mails about Payhub&#39;s connections to ")
	require.Contains(t, page, "these connections")
	require.Empty(t, f.temporal.signals, "opening it changes nothing")
	w := f.visit("POST", all, form("List-Unsubscribe=One-Click"))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "not_me", f.unreachable(connID))
	require.Equal(t, "not_me", f.unreachable("other"))
	require.ElementsMatch(t, []string{"contacts " + connID, "contacts other"}, f.temporal.signals)
	f.visit("POST", all, form("what=undo"))
	require.Empty(t, f.unreachable(connID))
	require.Empty(t, f.unreachable("other"))
}

// Whoever presses all day long wears nobody out.
func TestStopHasABudget(t *testing.T) {
	f := newFixture(t)
	link := f.twoCases()
	for range stopsADay {
		require.Equal(t, http.StatusOK, f.visit("POST", stopPage(link), form("what=not_me")).Code)
	}
	require.Equal(t, http.StatusTooManyRequests, f.visit("POST", stopPage(link), form("what=undo")).Code)
	require.Equal(t, "not_me", f.unreachable(connID), "what was said last counts")
}
