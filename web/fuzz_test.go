package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// sealing is a server that can make and read tickets, and has nothing else.
func sealing(f *testing.F) *server {
	f.Helper()
	setting, err := secrets.Generate()
	if err != nil {
		f.Fatal(err)
	}
	keys, err := secrets.Load(setting)
	if err != nil {
		f.Fatal(err)
	}
	return &server{Config: Config{Keys: keys, PublicURL: publicURL, Now: time.Now}}
}

// What comes back from Connect is taken as it was meant or refused, and a
// refusal repeats nothing of it.
func FuzzParseCallback(f *testing.F) {
	for _, query := range []string{
		"code=code-1&state=abc", "code=code-1", "state=abc", "", "code=a&code=b", "code=%00", "code=a+b", "code=a%20b", "code=a;b", "state=%", "error=access_denied&state=x",
		"code=" + strings.Repeat("c", 2048), "state=" + strings.Repeat("s", maxState+1), "%63ode=x", "CODE=x&code=y", "code[]=x", "code=%F0%9F%98%80",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		code, state, err := parseCallback(query)
		given, _ := url.ParseQuery(query)
		if err != nil {
			if code != "" || state != "" {
				t.Errorf("%q and %q beside the error %v", code, state, err)
			}
			for _, value := range append(given["code"], given["state"]...) {
				if len(value) >= 16 && strings.Contains(err.Error(), value) {
					t.Errorf("the error repeats what was sent: %v", err)
				}
			}
			return
		}
		if len(state) > maxState || len(given["code"]) > 1 || len(given["state"]) > 1 || given.Get("code") != code || given.Get("state") != state {
			t.Errorf("%q and %q are not what was sent", code, state)
		}
		if code == "" {
			return
		}
		if err := (reauth.CodeReceived{Code: code}).Check(); err != nil {
			t.Errorf("a code was taken that no case takes: %v", err)
		}
		again, againState, err := parseCallback(url.Values{"code": {code}, "state": {state}}.Encode())
		if err != nil || again != code || againState != state {
			t.Errorf("written anew it is %q, %q, %v", again, againState, err)
		}
	})
}

// Only a state that we made says whose a code is, and nothing but what it was
// made of; neither does a ticket that we made for something else, as a state or
// in a cookie.
func FuzzState(f *testing.F) {
	s := sealing(f)
	click := clickTicket{ConnectionID: connID, CaseID: "case-1", Attempt: "click-1", Application: "default", Link: strings.Repeat("l", 43)}
	mint := func(kind string, v any) string {
		text, err := s.Keys.Mint(kind, v, s.Now().Add(TicketLife))
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	// The fuzz engine runs this function in several processes, and corpus files of
	// one do not open in another: what is minted is changed by the arguments.
	state := mint(ticketState, click)
	f.Add("", 0, byte(0), false)
	f.Add("Hush", 7, byte(1), true)
	f.Add(state, 20, byte(0xff), false)
	f.Add(strings.Repeat("A", maxState+1), 1<<30, byte(4), true)
	f.Add("AAAA\nAAAA", -1, byte(9), false)
	for _, kind := range []string{ticketDone, ticketAgain, ticketOperator, ticketForm, ticketOpenID} {
		f.Add(mint(kind, click), 3, byte(8), false)
	}
	f.Fuzz(func(t *testing.T, text string, at int, change byte, cut bool) {
		read := func(text string) (clickTicket, bool) {
			fromState, ok := s.stateTicket(text)
			r := httptest.NewRequest(http.MethodGet, "/callback", nil)
			r.AddCookie(&http.Cookie{Name: s.cookieName(), Value: text})
			if fromCookie, known := s.origin(r, ""); known && fromCookie != fromState {
				t.Errorf("the cookie says %+v, and the state %+v", fromCookie, fromState)
			}
			return fromState, ok
		}
		if got, ok := read(text); ok && text != state {
			t.Errorf("%q is taken for %+v", text, got)
		}
		at = min(max(at, 0), len(state)-1)
		changed := []byte(state)
		changed[at] ^= change
		forged := string(changed)
		if cut {
			forged = state[:at]
		}
		if got, ok := read(forged); ok != (forged == state) || ok && got != click {
			t.Errorf("%q is taken for %+v, %v", forged, got, ok)
		}
	})
}

// Signing in leads to an operators' page and to no other site.
func FuzzSafeNext(f *testing.F) {
	for _, next := range []string{
		"/operator", "/operator/connections/x?done=stop", "//evil.example/operator", "https://evil.example/operator", `/\evil.example`, "/operator/../..//evil.example",
		"/operator/%2e%2e/x", "/operator/%2f%2fevil.example", "/operator/\t/evil", "javascript:alert(1)", "/operator#//evil", "/operator?next=//evil.example", "\x00", "http:/operator", "/operator/sign-in",
	} {
		f.Add(next)
	}
	base, err := url.Parse(publicURL + "/operator/sign-in")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := safeNext(next)
		u, err := base.Parse(got)
		switch {
		case err != nil:
			t.Errorf("%q leads to %q: %v", next, got, err)
		case u.Scheme+"://"+u.Host != publicURL, u.User != nil, u.Path != operatorHome && !strings.HasPrefix(u.Path, operatorHome+"/"):
			t.Errorf("%q leads to %q, which is %q", next, got, u)
		case strings.HasPrefix(got, "//"), strings.ContainsAny(got, "\\\r\n\t\x00"), strings.Contains(u.Path, ".."):
			t.Errorf("%q leads to %q, which browsers read in ways of their own", next, got)
		case safeNext(got) != got:
			t.Errorf("%q leads to %q, which leads to %q", next, got, safeNext(got))
		}
	})
}

// Nobody who is no proxy of ours chooses what address they come from.
func FuzzClientAddress(f *testing.F) {
	s := &server{Config: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	f.Add("1.2.3.4, 10.0.0.2", "192.0.2.7:1")
	f.Add("::1", "[2001:db8::1%eth0]:1")
	f.Add("junk,,", "@")
	f.Add("10.0.0.1", "10.0.0.1:80")
	f.Fuzz(func(t *testing.T, forwarded, remote string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = remote
		alone := s.clientAddress(r)
		r.Header["X-Forwarded-For"] = []string{forwarded}
		got := s.clientAddress(r)
		peer, err := netip.ParseAddrPort(remote)
		if trusted := err == nil && s.trusted(peer.Addr().Unmap()); !trusted && got != alone {
			t.Errorf("%q, which is no proxy, says that it is %q, and is believed", remote, got)
		}
	})
}

// Whatever a link's address is: unless it is the link's own, it leads nowhere, and
// in no case does it change anything, send anybody elsewhere than to Connect, or
// stand in a page or in the log.
func FuzzLink(f *testing.F) {
	fixture := newFixture(f, func(c *Config) { c.Limits = Limits{NoLimit(), NoLimit(), NoLimit(), NoLimit()} })
	link := strings.TrimPrefix(fixture.ready(connID), "/r/")
	f.Add("x", byte(0), byte(0), false)
	f.Add(strings.Repeat("A", 43), byte(1), byte(1), true)
	f.Add("../v1/cases", byte(2), byte(9), false)
	f.Add("%2e%2e%2fdocs", byte(42), byte(0x80), true)
	f.Add("..//evil.example", byte(3), byte(1), false)
	f.Add("A?stop=1", byte(3), byte(1), false)
	f.Add("\u202e\r\n", byte(3), byte(1), true)
	f.Fuzz(func(t *testing.T, text string, at, change byte, stop bool) {
		forged := []byte(link)
		forged[int(at)%len(forged)] ^= change
		for _, secret := range []string{text, string(forged)} {
			address := "/r/" + url.PathEscape(secret)
			if stop {
				address = "/stop/" + url.PathEscape(secret)
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			parsed, err := url.Parse(address)
			if err != nil {
				continue
			}
			r.URL, r.RequestURI = parsed, address
			w := httptest.NewRecorder()
			fixture.handler.ServeHTTP(w, r)
			page := w.Body.String()
			switch {
			case secret == link && w.Code != http.StatusOK:
				t.Errorf("the link itself: %d", w.Code)
			case secret != link && w.Code == http.StatusOK && strings.Contains(page, "Acme Ltd"):
				t.Errorf("%q shows whose it is", secret)
			case w.Code >= 500:
				t.Errorf("%q: %d %s", secret, w.Code, page)
			}
			if to := w.Header().Get("Location"); to != "" {
				if u, err := parsed.Parse(to); err != nil || u.Host != "" || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
					t.Errorf("%q leads to %q", secret, to)
				}
			}
			for where, all := range map[string]string{"page": page, "log": fixture.log.drain()} {
				if len(secret) >= 16 && strings.Contains(all, secret) {
					t.Errorf("the %s repeats %q", where, secret)
				}
			}
		}
		if n := len(fixture.temporal.reports) + len(fixture.temporal.signals); n > 0 {
			t.Errorf("looking at links did %d things", n)
		}
	})
}

// drain returns what was written, and forgets it.
func (b *syncBuffer) drain() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.b.String()
	b.b.Reset()
	return text
}

// The calls of the API that read a body which backends compose of other people's
// data.
var composed = []struct{ method, path string }{
	{"PUT", "/v1/connections/" + connID}, {"POST", "/v1/connections"}, {"POST", "/v1/reports"}, {"POST", "/v1/connections/" + connID + "/reauth"},
	{"POST", "/v1/connections/" + connID + "/reauth/code"}, {"POST", "/v1/contacts/bounce"}, {"POST", "/v1/connections/" + connID + "/reauth/cancel"},
	{"POST", "/v1/connections/" + connID + "/reauth/snooze"}, {"POST", "/v1/cases:cancel"},
}

// Whatever a call's body is: it is taken or the answer says what is wrong with it,
// in words that repeat no token, code or address. What was taken is what is read,
// and putting that again changes nothing.
func FuzzAPIJSON(f *testing.F) {
	fixture := newFixture(f, func(c *Config) { c.Limits = Limits{NoLimit(), NoLimit(), NoLimit(), NoLimit()} })
	fixture.register(connID)
	for i, body := range []string{
		`{"provider":"finch","customer_id":"cus_1","customer_name":"Acme Ltd","system":"Gusto","contacts":[{"email":"Ada.Planted.Mail@acme.example","name":"Ada","role":"payroll","locale":"en-US","time_zone":"America/New_York"}],"products":["company","directory"],"access_token":"planted-access-token-0001"}`,
		`{"access_token":"planted-access-token-0002"}`, `{"connection_id":"c","customer_id":"planted","source":"manual"}`,
		`{"source":"api_error","finch_code":"reauthenticate_user","reason":"x","token_fingerprint":"0123456789abcdef0123456789abcdef"}`,
		`{"code":"planted-code-0000001"}`, `{"email":"ada.planted.mail@acme.example","detail":"550"}`, `{"reason":"x"}`, `{"until":"2027-01-01T00:00:00Z"}`, `{"reason":"x","phase":"blocked"}`,
		`{"contacts":[{"email":"planted.mail@acme.example oops"}],"access_token":"planted access token"}`, `{"customer_name":"a\u0000b"}`, `{"contacts":null}`, `{"contacts":[null]}`, `{"contacts":[{}],"contacts":[]}`,
		`{"Contacts":[]}`, `[]`, `null`, ``, `{"access_token":{"planted-access-token-0003":1}}`, `{"planted-access-token-0004":1}`, "{\"customer_name\":\"\xff\"}", `{"products":["` + strings.Repeat("x", 70) + `"]}`,
	} {
		f.Add(byte(i), []byte(body))
		f.Add(byte(0), []byte(body))
	}
	do := func(method, path string, body []byte) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(string(body)))
		r.Header.Set("Authorization", "Bearer "+apiKey)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		fixture.handler.ServeHTTP(w, r)
		return w
	}
	const connection = "/v1/connections/" + connID
	read := func(t *testing.T) map[string]any {
		w := do("GET", connection, nil)
		var c map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusOK {
			t.Fatalf("reading the connection: %d %s", w.Code, w.Body)
		}
		return c
	}
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		call := composed[int(which)%len(composed)]
		w := do(call.method, call.path, body)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", call.method, call.path, w.Code, w.Body)
		}
		log := fixture.log.drain()
		for _, secret := range planted(body) {
			if strings.Contains(log, secret) {
				t.Errorf("the log repeats %q", secret)
			}
			if w.Code >= 400 && strings.Contains(w.Body.String(), secret) {
				t.Errorf("the answer repeats %q: %s", secret, w.Body)
			}
		}
		if call.method != "PUT" || w.Code >= 400 {
			return
		}
		stored, again := read(t), map[string]any{}
		for _, field := range []string{"provider", "application", "customer_id", "customer_name", "system", "campaign", "contacts", "products"} {
			if v, ok := read(t)[field]; ok {
				again[field] = v
			}
		}
		text, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if w := do("PUT", connection, text); w.Code != http.StatusOK {
			t.Fatalf("what is stored cannot be put again: %d %s\n%s", w.Code, w.Body, text)
		}
		if after := read(t); !sameBut(stored, after, "updated_at") {
			t.Errorf("putting what is stored changed it:\n%v\n%v", stored, after)
		}
	})
}

// planted finds the values in a body that nothing may repeat.
func planted(body []byte) []string {
	var found []string
	for _, word := range strings.FieldsFunc(string(body), func(r rune) bool { return strings.ContainsRune("\"{}[]:, \t\r\n\\", r) || r < ' ' || r > '~' }) {
		if strings.Contains(strings.ToLower(word), "planted-") && len(word) >= 16 || strings.Contains(strings.ToLower(word), "planted.mail@acme.example") {
			found = append(found, word)
		}
	}
	return found
}

// sameBut tells whether two objects are the same but for one field.
func sameBut(a, b map[string]any, field string) bool {
	left, right := withoutField(a, field), withoutField(b, field)
	return left == right
}

func withoutField(object map[string]any, field string) string {
	rest := map[string]any{}
	for name, v := range object {
		if name != field {
			rest[name] = v
		}
	}
	text, _ := json.Marshal(rest)
	return string(text)
}
