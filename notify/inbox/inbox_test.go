package inbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/inbox"
)

func start(t *testing.T, options inbox.Options) (*inbox.Server, *httptest.Server) {
	t.Helper()
	server, err := inbox.New(options)
	require.NoError(t, err)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		require.NoError(t, server.Close())
	})
	return server, web
}

func send(t *testing.T, server *inbox.Server, to, message string) {
	t.Helper()
	message = strings.ReplaceAll(message, "\n", "\r\n")
	require.NoError(t, smtp.SendMail(server.SMTPAddr(), nil, "from@ledgerly.example", strings.Split(to, ","), []byte(message)))
}

// call makes a request and returns status and body.
func call(t *testing.T, method, url, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(answer), response.Header
}

const multipart = `From: =?utf-8?q?L=C3=A4dgerly?= <connections@ledgerly.example>
To: Ann <ann@northwind.example>
Reply-To: support@ledgerly.example
Subject: =?utf-8?q?Sign_in_=E2=9C=93?=
Message-ID: <two@ledgerly.example>
In-Reply-To: <one@ledgerly.example>
References: <one@ledgerly.example>
 <one-and-a-half@ledgerly.example>
List-Unsubscribe: <https://ledgerly.example/r/abc/stop>
list-unsubscribe-post: List-Unsubscribe=One-Click
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="xyz"

--xyz
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe, open https://ledgerly.example/r/abc=3Fx=3D1.
And (https://ledgerly.example/other).

--xyz
Content-Type: text/html; charset=UTF-8
Content-Transfer-Encoding: base64

PGh0bWw+PGhlYWQ+PHRpdGxlPng8L3RpdGxlPjwvaGVhZD48Ym9keT48YSBjbGFzcz0iYiIgaHJl
Zj0iaHR0cHM6Ly9sZWRnZXJseS5leGFtcGxlL3IvYWJjP3g9MSZhbXA7eT0yIj5Hbzwvc2NyaXB0
PjwvYT48YSBocmVmPSdtYWlsdG86YUBiLmV4YW1wbGUnPmE8L2E+PC9ib2R5PjwvaHRtbD4=
--xyz--
`

func TestMessage(t *testing.T) {
	server, web := start(t, inbox.Options{Now: func() time.Time { return time.Date(2026, 5, 4, 7, 20, 0, 5, time.UTC) }})
	send(t, server, "ann@northwind.example,bob@northwind.example", multipart)

	status, body, header := call(t, "GET", web.URL+"/api/messages", "")
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, "application/json", header.Get("Content-Type"))
	var messages []map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &messages))
	require.Len(t, messages, 1)
	m := messages[0]
	id := m["id"].(string)
	delete(m, "id")
	delete(m, "size")
	headers := m["headers"].(map[string]any)
	assert.Len(t, headers["Received"], 1)
	delete(headers, "Received")
	assert.Equal(t, map[string]any{
		"received_at": "2026-05-04T07:20:00.000000005Z",
		"from":        "Lädgerly <connections@ledgerly.example>",
		"to":          []any{"ann@northwind.example", "bob@northwind.example"},
		"reply_to":    "support@ledgerly.example",
		"subject":     "Sign in ✓",
		"message_id":  "two@ledgerly.example",
		"in_reply_to": "one@ledgerly.example",
		"references":  []any{"one@ledgerly.example", "one-and-a-half@ledgerly.example"},
		"text":        "Grüße, open https://ledgerly.example/r/abc?x=1.\nAnd (https://ledgerly.example/other).\n",
		"html":        `<html><head><title>x</title></head><body><a class="b" href="https://ledgerly.example/r/abc?x=1&amp;y=2">Go</script></a><a href='mailto:a@b.example'>a</a></body></html>`,
		"links": []any{"https://ledgerly.example/r/abc?x=1&y=2", "https://ledgerly.example/r/abc?x=1",
			"https://ledgerly.example/other"},
		"headers": map[string]any{
			"Return-Path":           []any{"<from@ledgerly.example>"},
			"Delivered-To":          []any{"ann@northwind.example", "bob@northwind.example"},
			"From":                  []any{"Lädgerly <connections@ledgerly.example>"},
			"To":                    []any{"Ann <ann@northwind.example>"},
			"Reply-To":              []any{"support@ledgerly.example"},
			"Subject":               []any{"Sign in ✓"},
			"Message-Id":            []any{"<two@ledgerly.example>"},
			"In-Reply-To":           []any{"<one@ledgerly.example>"},
			"References":            []any{"<one@ledgerly.example> <one-and-a-half@ledgerly.example>"},
			"List-Unsubscribe":      []any{"<https://ledgerly.example/r/abc/stop>"},
			"List-Unsubscribe-Post": []any{"List-Unsubscribe=One-Click"},
			"Mime-Version":          []any{"1.0"},
			"Content-Type":          []any{`multipart/alternative; boundary="xyz"`},
		},
	}, m)

	status, one, _ := call(t, "GET", web.URL+"/api/messages/"+id, "")
	require.Equal(t, http.StatusOK, status)
	assert.JSONEq(t, strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(body), "["), "]"), one)

	_, text, header := call(t, "GET", web.URL+"/api/messages/"+id+"/text", "")
	assert.Equal(t, m["text"], text)
	assert.Equal(t, "text/plain; charset=utf-8", header.Get("Content-Type"))

	_, raw, header := call(t, "GET", web.URL+"/api/messages/"+id+"/raw", "")
	assert.Equal(t, "text/plain; charset=utf-8", header.Get("Content-Type"))
	assert.True(t, strings.HasPrefix(raw, "Return-Path: <from@ledgerly.example>\r\nDelivered-To: ann@northwind.example\r\nDelivered-To: bob@northwind.example\r\nReceived: from "), raw)
	assert.True(t, strings.HasSuffix(raw, strings.ReplaceAll(multipart, "\n", "\r\n")))

	_, html, header := call(t, "GET", web.URL+"/api/messages/"+id+"/html", "")
	assert.Contains(t, html, `<head><base target="_blank"><title>`)
	policy := header.Get("Content-Security-Policy")
	assert.Contains(t, policy, "sandbox allow-popups allow-popups-to-escape-sandbox;")
	assert.Contains(t, policy, "default-src 'none'")
	assert.NotContains(t, policy, "allow-scripts")

	got, ok := server.Message(id)
	require.True(t, ok)
	assert.Equal(t, server.Messages()[0], got)
	assert.Equal(t, "List-Unsubscribe=One-Click", got.Header("LIST-unsubscribe-POST"))
	assert.Empty(t, got.Header("X-Nothing"))
	_, ok = server.Message("nothing")
	assert.False(t, ok)
	_, ok = server.Raw("nothing")
	assert.False(t, ok)
}

func TestOddMessagesAreShown(t *testing.T) {
	for name, c := range map[string]struct{ message, subject, text, html string }{
		"plain":            {"Subject: hi\n\nhello\n", "hi", "hello\n", ""},
		"no header at all": {"\nhello\n", "", "hello\n", ""},
		"latin1":           {"Subject: hi\nContent-Type: text/plain; charset=iso-8859-1\n\ngr\xfc\xdfe\n", "hi", "grüße\n", ""},
		"not its charset":  {"Subject: hi\nContent-Type: text/plain; charset=utf-8\n\ngr\xfc\xdfe\n", "hi", "gr\ufffde\n", ""},
		"html alone":       {"Subject: hi\nContent-Type: text/html\n\n<p>hello</p>\n", "hi", "", "<p>hello</p>\n"},
		"broken base64":    {"Subject: hi\nContent-Transfer-Encoding: base64\n\naGVsbG8!!\n", "hi", "hel", ""},
		"broken type":      {"Subject: hi\nContent-Type: /;;\n\nhello\n", "hi", "hello\n", ""},
		"unended parts":    {"Subject: hi\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhello\n", "hi", "hello", ""},
		"no boundary":      {"Subject: hi\nContent-Type: multipart/mixed\n\nhello\n", "hi", "hello\n", ""},
		"attachment":       {"Subject: hi\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Disposition: attachment\n\nfile\n--x\n\nhello\n--x--\n", "hi", "hello", ""},
		"broken subject":   {"Subject: =?nothing?q?hi?=\n\nhello\n", "=?nothing?q?hi?=", "hello\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server, web := start(t, inbox.Options{})
			send(t, server, "ann@northwind.example", c.message)
			require.Len(t, server.Messages(), 1)
			m := server.Messages()[0]
			assert.Equal(t, c.subject, m.Subject)
			assert.Equal(t, c.text, m.Text)
			assert.Equal(t, c.html, m.HTML)
			assert.Equal(t, []string{"ann@northwind.example"}, m.To)
			for _, path := range []string{"/", "/messages/" + m.ID, "/messages/" + m.ID + "?view=raw", "/messages/" + m.ID + "?view=text"} {
				status, _, _ := call(t, "GET", web.URL+path, "")
				assert.Equal(t, http.StatusOK, status, path)
			}
		})
	}
}

func TestMessagesSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mail", "box")
	server, _ := start(t, inbox.Options{Dir: dir})
	for i := range 5 {
		send(t, server, fmt.Sprintf("ann%d@northwind.example", i), fmt.Sprintf("Subject: %d\n\nhello\n", i))
	}
	send(t, server, "ann@northwind.example", multipart)
	want := server.Messages()
	require.Len(t, want, 6)
	_, err := server.Delete(want[2].ID)
	require.NoError(t, err)
	want = append(want[:2:2], want[3:]...)
	require.NoError(t, server.Close())

	// What is not the inbox's own is left alone.
	for _, name := range []string{"notes.txt", "other.eml", ".new-123"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("Subject: not ours\n\n"), 0o600))
	}
	files, err := filepath.Glob(filepath.Join(dir, "[0-9]*.eml"))
	require.NoError(t, err)
	assert.Len(t, files, 5)

	again, _ := start(t, inbox.Options{Dir: dir})
	assert.Equal(t, want, again.Messages())
	for _, m := range want {
		raw, ok := again.Raw(m.ID)
		require.True(t, ok)
		assert.Len(t, raw, m.Size)
	}
	send(t, again, "ann@northwind.example", "Subject: new\n\nhello\n")
	assert.Equal(t, "new", again.Messages()[5].Subject, "the newest is the last")

	require.NoError(t, again.DeleteAll())
	assert.Empty(t, again.Messages())
	files, err = filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	assert.Len(t, files, 3, "what is not ours is still there")
}

func TestDelete(t *testing.T) {
	server, web := start(t, inbox.Options{})
	for i := range 4 {
		send(t, server, "ann@northwind.example", fmt.Sprintf("Subject: %d\n\nhello\n", i))
	}
	messages := server.Messages()

	status, _, _ := call(t, "DELETE", web.URL+"/api/messages/"+messages[1].ID, "")
	assert.Equal(t, http.StatusNoContent, status)
	status, _, _ = call(t, "DELETE", web.URL+"/api/messages/"+messages[1].ID, "")
	assert.Equal(t, http.StatusNotFound, status)
	for _, view := range []string{"", "/html", "/text", "/raw"} {
		status, _, _ = call(t, "GET", web.URL+"/api/messages/"+messages[1].ID+view, "")
		assert.Equal(t, http.StatusNotFound, status)
	}
	status, _, _ = call(t, "GET", web.URL+"/messages/"+messages[1].ID, "")
	assert.Equal(t, http.StatusNotFound, status)

	// A page from elsewhere may not.
	for _, path := range []string{"/delete-all", "/messages/" + messages[0].ID + "/delete"} {
		status, _, _ = call(t, "POST", web.URL+path, "", "Sec-Fetch-Site", "cross-site")
		assert.Equal(t, http.StatusForbidden, status)
	}
	status, _, _ = call(t, "DELETE", web.URL+"/api/messages", "", "Origin", "https://evil.example")
	assert.Equal(t, http.StatusForbidden, status)
	// Nor does looking.
	status, _, _ = call(t, "GET", web.URL+"/delete-all", "")
	assert.Equal(t, http.StatusMethodNotAllowed, status)
	assert.Len(t, server.Messages(), 3)

	status, _, header := call(t, "POST", web.URL+"/messages/"+messages[0].ID+"/delete", "", "Sec-Fetch-Site", "same-origin")
	assert.Equal(t, http.StatusSeeOther, status)
	assert.Equal(t, "/", header.Get("Location"))
	assert.Len(t, server.Messages(), 2)
	status, _, _ = call(t, "POST", web.URL+"/delete-all", "")
	assert.Equal(t, http.StatusSeeOther, status)
	assert.Empty(t, server.Messages())

	send(t, server, "ann@northwind.example", "Subject: hi\n\nhello\n")
	status, _, _ = call(t, "DELETE", web.URL+"/api/messages", "")
	assert.Equal(t, http.StatusNoContent, status)
	_, body, _ := call(t, "GET", web.URL+"/api/messages", "")
	assert.JSONEq(t, "[]", body)
}

func TestFilterByAddress(t *testing.T) {
	server, web := start(t, inbox.Options{})
	send(t, server, "ann@northwind.example", "Subject: 1\n\nhello\n")
	send(t, server, "bob@northwind.example", "Subject: 2\n\nhello\n")
	send(t, server, "ann@northwind.example,bob@northwind.example", "Subject: 3\n\nhello\n")
	for to, want := range map[string][]string{
		"Ann@northwind.example": {"1", "3"}, "bob@northwind.example": {"2", "3"}, "": {"1", "2", "3"}, "eve@northwind.example": nil,
	} {
		_, body, _ := call(t, "GET", web.URL+"/api/messages?to="+to, "")
		var messages []inbox.Message
		require.NoError(t, json.Unmarshal([]byte(body), &messages))
		var got []string
		for _, m := range messages {
			got = append(got, m.Subject)
		}
		assert.Equal(t, want, got, to)
	}
}

func TestPages(t *testing.T) {
	server, web := start(t, inbox.Options{})
	status, body, header := call(t, "GET", web.URL+"/", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "No mail yet")
	assert.Contains(t, body, server.SMTPAddr())
	assert.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'")

	send(t, server, "ann@northwind.example", "From: <b>Bold</b> <x@y.example>\nMessage-ID: <one@ledgerly.example>\nSubject: <script>alert(1)</script>\n\n<i>first</i>\n")
	send(t, server, "ann@northwind.example", multipart)
	send(t, server, "bob@northwind.example", multipart)
	messages := server.Messages()

	_, body, _ = call(t, "GET", web.URL+"/", "")
	assert.Contains(t, body, "&lt;script&gt;alert(1)&lt;/script&gt;")
	assert.NotContains(t, body, "<script>")
	assert.NotContains(t, body, "<b>Bold")
	assert.Less(t, strings.Index(body, "Lädgerly"), strings.Index(body, "&lt;script&gt;"), "the newest comes first")

	_, body, _ = call(t, "GET", web.URL+"/messages/"+messages[1].ID, "")
	assert.Contains(t, body, `src="/api/messages/`+messages[1].ID+`/html"`)
	assert.Contains(t, body, `sandbox="allow-popups allow-popups-to-escape-sandbox"`)
	assert.NotContains(t, body, "</script>", "the mail's HTML stands in its frame only")
	assert.Contains(t, body, `href="https://ledgerly.example/r/abc?x=1&amp;y=2"`)
	assert.Contains(t, body, `href="/messages/`+messages[0].ID+`"`, "the conversation")
	assert.NotContains(t, body, messages[2].ID, "another person's")

	_, body, _ = call(t, "GET", web.URL+"/messages/"+messages[1].ID+"?view=html&width=phone", "")
	assert.Contains(t, body, `class="stage phone"`)
	assert.Contains(t, body, "https://ledgerly.example/r/abc/stop")
	assert.Contains(t, body, "List-Unsubscribe=One-Click")
	_, body, _ = call(t, "GET", web.URL+"/messages/"+messages[1].ID+"?view=text", "")
	assert.Contains(t, body, "Grüße, open")
	_, body, _ = call(t, "GET", web.URL+"/messages/"+messages[1].ID+"?view=raw", "")
	assert.Contains(t, body, "Content-Type: multipart/alternative")
	_, body, _ = call(t, "GET", web.URL+"/messages/"+messages[0].ID, "")
	assert.Contains(t, body, "&lt;i&gt;first&lt;/i&gt;", "a mail without HTML shows its text")
}

func TestKnobs(t *testing.T) {
	server, web := start(t, inbox.Options{})
	_, body, _ := call(t, "GET", web.URL+"/knobs", "")
	assert.JSONEq(t, `{"fault": ""}`, body)

	status, body, _ := call(t, "PUT", web.URL+"/knobs", `{"fault": "reject", "at": "rcpt", "times": 1}`)
	assert.Equal(t, http.StatusOK, status)
	assert.JSONEq(t, `{"fault": "reject", "at": "rcpt", "code": 451, "text": "Told to fail", "times": 1}`, body)
	_, page, _ := call(t, "GET", web.URL+"/", "")
	assert.Contains(t, page, "fails on purpose")

	err := smtp.SendMail(server.SMTPAddr(), nil, "a@b.example", []string{"c@d.example"}, []byte("Subject: hi\r\n\r\nhello\r\n"))
	var answer *textproto.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, 451, answer.Code)
	send(t, server, "c@d.example", "Subject: hi\n\nhello\n")

	for _, bad := range []string{
		``, `nothing`, `[]`, `{"fault": "explode"}`, `{"fault": "hang", "at": "lunch"}`, `{"fault": "reject", "code": 250}`,
		`{"fault": "reject", "code": 600}`, `{"fault": "reject", "text": "a\r\n250 b"}`, `{"fault": "drop", "times": -1}`, `{"falt": "drop"}`,
		`{"fault": "drop", "to": "a@b.example", "at": "mail"}`, `{"fault": "reject", "enhanced": "no"}`, `{"fault": "reject", "enhanced": "2.1.1"}`,
		`{"fault": "slow", "delay": "soon"}`, `{"fault": "slow", "delay": "-1s"}`, `{"fault": "slow", "delay": "2h"}`, `{"fault": "slow", "delay": 5}`,
	} {
		status, body, _ := call(t, "PUT", web.URL+"/knobs", bad)
		assert.Equal(t, http.StatusBadRequest, status, bad)
		assert.Contains(t, body, `"error"`)
		assert.Equal(t, inbox.Knobs{}, server.Knobs(), bad)
	}
	status, _, _ = call(t, "PUT", web.URL+"/knobs", `{"fault": "drop"}`, "Sec-Fetch-Site", "cross-site")
	assert.Equal(t, http.StatusForbidden, status)
	assert.Equal(t, inbox.Knobs{}, server.Knobs())
}

// attempt sends a mail and returns the server's answer to it, if it was a no.
func attempt(server *inbox.Server, to ...string) (answer string, err error) {
	err = smtp.SendMail(server.SMTPAddr(), nil, "a@b.example", to, []byte("Subject: hi\r\n\r\nhello\r\n"+strings.Repeat("more\r\n", 100)))
	var refusal *textproto.Error
	if errors.As(err, &refusal) {
		return fmt.Sprintf("%d %s", refusal.Code, refusal.Msg), nil
	}
	return "", err
}

func TestOneAddressHasTrouble(t *testing.T) {
	const ann, bob = "ann@northwind.example", "bob@northwind.example"
	for _, at := range []inbox.Point{inbox.AtRcpt, inbox.AtBody, inbox.AtContent} {
		t.Run(string(at), func(t *testing.T) {
			server, web := start(t, inbox.Options{})
			status, body, _ := call(t, "PUT", web.URL+"/knobs",
				`{"fault": "reject", "at": "`+string(at)+`", "to": "Ann@Northwind.example", "code": 550, "text": "5.1.1 No such user", "times": 2}`)
			require.Equal(t, http.StatusOK, status)
			assert.JSONEq(t, `{"fault": "reject", "at": "`+string(at)+`", "to": "Ann@Northwind.example", "code": 550, "enhanced": "5.1.1", "text": "No such user", "times": 2}`, body)
			_, page, _ := call(t, "GET", web.URL+"/", "")
			assert.Contains(t, page, "<code>Ann@Northwind.example</code>")
			assert.Contains(t, page, "<code>550 5.1.1 No such user</code>")

			for _, c := range []struct {
				to   []string
				want string
			}{
				{[]string{bob}, ""},
				{[]string{ann}, "550 5.1.1 No such user"},
				{[]string{bob}, ""},
				{[]string{bob, ann}, "550 5.1.1 No such user"},
				{[]string{ann}, ""}, // well again
			} {
				answer, err := attempt(server, c.to...)
				require.NoError(t, err)
				assert.Equal(t, c.want, answer, c.to)
			}
			assert.Len(t, server.Messages(), 3)
		})
	}
}

func TestRejectSaysWhatItIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		knobs inbox.Knobs
		want  string
	}{
		"nothing said":           {inbox.Knobs{At: inbox.AtRcpt}, "451 4.3.0 Told to fail"},
		"code and text":          {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Text: "No such user"}, "550 5.3.0 No such user"},
		"status code":            {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Enhanced: "5.1.1", Text: "No such user"}, "550 5.1.1 No such user"},
		"status code in text":    {inbox.Knobs{At: inbox.AtRcpt, Code: 556, Text: "5.1.10 Null MX"}, "556 5.1.10 Null MX"},
		"status code alone":      {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Text: "5.1.1"}, "550 5.1.1 Told to fail"},
		"both":                   {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Enhanced: "5.1.1", Text: "5.1.2 says who"}, "550 5.1.1 5.1.2 says who"},
		"no status code":         {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Enhanced: "none", Text: "No such user"}, "550 No such user"},
		"not a status code":      {inbox.Knobs{At: inbox.AtRcpt, Code: 550, Text: "5.1.1.1 is an address"}, "550 5.3.0 5.1.1.1 is an address"},
		"after the message":      {inbox.Knobs{Code: 554, Text: "5.7.1 Spam"}, "554 5.7.1 Spam"},
		"at DATA":                {inbox.Knobs{At: inbox.AtData, Code: 554, Text: "5.5.1 Nobody"}, "554 5.5.1 Nobody"},
		"at DATA, without":       {inbox.Knobs{At: inbox.AtData, Code: 554}, "554 Told to fail"},
		"at the greeting":        {inbox.Knobs{At: inbox.AtGreeting, Code: 554, Enhanced: "5.3.2", Text: "Closed"}, "554 5.3.2 Closed"},
		"at greeting, without":   {inbox.Knobs{At: inbox.AtGreeting, Code: 421, Enhanced: "none"}, "421 Told to fail"},
		"at EHLO, and at HELO":   {inbox.Knobs{At: inbox.AtHello, Code: 550, Text: "5.7.1 Go away"}, "550 5.7.1 Go away"},
		"at QUIT, although kept": {inbox.Knobs{At: inbox.AtQuit, Code: 500, Text: "5.5.1 Stay"}, "500 5.5.1 Stay"},
	} {
		t.Run(name, func(t *testing.T) {
			server, _ := start(t, inbox.Options{})
			c.knobs.Fault = inbox.FaultReject
			require.NoError(t, server.SetKnobs(c.knobs))
			answer, err := attempt(server, "c@d.example")
			require.NoError(t, err)
			assert.Equal(t, c.want, answer)
			kept := 0
			if c.knobs.At == inbox.AtQuit {
				kept = 1
			}
			assert.Len(t, server.Messages(), kept)
		})
	}
}

// A slow server does all that a quick one does.
func TestSlow(t *testing.T) {
	for _, at := range inbox.Points() {
		t.Run(string(at), func(t *testing.T) {
			server, _ := start(t, inbox.Options{})
			require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultSlow, At: at, Delay: inbox.Duration(time.Millisecond)}))
			answer, err := attempt(server, "c@d.example")
			require.NoError(t, err)
			assert.Empty(t, answer)
			require.Len(t, server.Messages(), 1)
			assert.Equal(t, "hello\n"+strings.Repeat("more\n", 100), server.Messages()[0].Text)

			// It waits as long as it is told, or until it is told otherwise.
			require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultSlow, At: at, Delay: inbox.Duration(time.Hour), Times: 1}))
			var told atomic.Bool
			done := make(chan bool)
			go func() {
				_, err := attempt(server, "c@d.example")
				assert.NoError(t, err)
				done <- told.Load()
			}()
			require.Eventually(t, func() bool { return server.Knobs().Fault == inbox.FaultNone }, 10*time.Second, time.Millisecond)
			for range 3 { // others are served meanwhile
				_, err := attempt(server, "e@f.example")
				require.NoError(t, err)
			}
			told.Store(true)
			require.NoError(t, server.SetKnobs(inbox.Knobs{}))
			assert.True(t, <-done, "it did not wait")
			assert.Len(t, server.Messages(), 5)
		})
	}
}

func TestSlowAndThenNo(t *testing.T) {
	server, web := start(t, inbox.Options{})
	status, body, _ := call(t, "PUT", web.URL+"/knobs", `{"fault": "slow", "delay": "1ms", "discard": true, "code": 554, "text": "5.7.1 Spam"}`)
	require.Equal(t, http.StatusOK, status)
	assert.JSONEq(t, `{"fault": "slow", "at": "content", "delay": "1ms", "discard": true, "code": 554, "enhanced": "5.7.1", "text": "Spam"}`, body)
	_, page, _ := call(t, "GET", web.URL+"/", "")
	assert.Contains(t, page, "<code>1ms</code> late")
	answer, err := attempt(server, "c@d.example")
	require.NoError(t, err)
	assert.Equal(t, "554 5.7.1 Spam", answer)
	assert.Empty(t, server.Messages())
}

// Close returns although clients hang at every point, and takes nothing after.
func TestCloseLetsGo(t *testing.T) {
	for _, at := range inbox.Points() {
		t.Run(string(at), func(t *testing.T) {
			server, err := inbox.New(inbox.Options{})
			require.NoError(t, err)
			require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultHang, At: at, Times: 1}))
			failed := make(chan error)
			go func() {
				failed <- smtp.SendMail(server.SMTPAddr(), nil, "a@b.example", []string{"c@d.example"}, []byte("Subject: hi\r\n\r\nhello\r\n"+strings.Repeat("more\r\n", 100)))
			}()
			require.Eventually(t, func() bool { return server.Knobs().Fault == inbox.FaultNone }, 10*time.Second, time.Millisecond)
			require.NoError(t, server.Close())
			require.Error(t, <-failed)
			require.NoError(t, server.Close(), "twice is fine")
			_, err = net.Dial("tcp", server.SMTPAddr())
			require.Error(t, err)
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	server, _ := start(t, inbox.Options{Dir: t.TempDir()})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			assert.NoError(t, smtp.SendMail(server.SMTPAddr(), nil, "a@b.example", []string{"c@d.example"},
				fmt.Appendf(nil, "Subject: %d\r\n\r\nhello\r\n", i)))
		})
	}
	all.Wait()
	subjects := make(map[string]bool)
	for _, m := range server.Messages() {
		subjects[m.Subject] = true
	}
	assert.Len(t, subjects, 20)
}

func TestAMessageThatCannotBeKeptIsNotTaken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "box")
	server, _ := start(t, inbox.Options{Dir: dir})
	require.NoError(t, os.RemoveAll(dir))
	err := smtp.SendMail(server.SMTPAddr(), nil, "a@b.example", []string{"c@d.example"}, []byte("Subject: hi\r\n\r\nhello\r\n"))
	var answer *textproto.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, 451, answer.Code)
	assert.Empty(t, server.Messages())
}

func TestNewRefuses(t *testing.T) {
	_, err := inbox.New(inbox.Options{Addr: "127.0.0.1:notaport"})
	require.ErrorContains(t, err, "listen for mail")
	_, err = inbox.New(inbox.Options{ImplicitTLS: true})
	require.ErrorContains(t, err, "needs TLS")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = inbox.New(inbox.Options{Dir: file})
	require.ErrorContains(t, err, "directory")
}
