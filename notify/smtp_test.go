package notify_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/outbound"
)

func newInbox(t *testing.T, options inbox.Options) *inbox.Server {
	t.Helper()
	server, err := inbox.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server
}

func newSMTP(t *testing.T, url string) *notify.SMTP {
	t.Helper()
	sender, err := notify.NewSMTP(url)
	require.NoError(t, err)
	return sender
}

func newMail(t *testing.T) notify.Mail {
	t.Helper()
	m, err := notify.Compose(sample(notify.KindReminder))
	require.NoError(t, err)
	return m
}

// assertDiscreet checks that an error tells nothing of the mail.
func assertDiscreet(t *testing.T, m notify.Mail, err error) {
	t.Helper()
	if err == nil {
		return
	}
	text := strings.ToLower(err.Error())
	for _, secret := range []string{m.To, "ann.smith", "ann", "smith", "northwind", "8jq2mxw0", "hunter", "@"} {
		assert.NotContains(t, strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }), secret)
		if len(secret) > 3 {
			assert.NotContains(t, text, secret)
		}
	}
}

func TestSent(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	m := newMail(t)
	delivery, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, notify.Sent, delivery)

	messages := server.Messages()
	require.Len(t, messages, 1)
	got := messages[0]
	assert.Equal(t, []string{m.To}, got.To)
	assert.Contains(t, got.From, "connections@ledgerly.example")
	assert.Contains(t, got.ReplyTo, "support@ledgerly.example")
	assert.Equal(t, m.Subject, got.Subject)
	assert.Equal(t, m.MessageID, got.MessageID)
	assert.Equal(t, m.InReplyTo, got.InReplyTo)
	assert.Equal(t, m.References, got.References)
	assert.Equal(t, m.Text, got.Text)
	assert.Equal(t, m.HTML, got.HTML)
	assert.Equal(t, []string{sample(notify.KindReminder).LinkURL}, got.Links)
}

// TestDelivery has a fault at every point of the conversation with a real
// server, and what may be said about the mail then.
func TestDelivery(t *testing.T) {
	const taken, notTaken = 1, 0
	for name, c := range map[string]struct {
		knobs inbox.Knobs
		want  notify.Delivery
		kept  int // messages that the server has afterwards
		says  string
	}{
		"greeting 4xx":  {inbox.Knobs{Fault: "reject", At: "greeting", Code: 421}, notify.Deferred, notTaken, "connect: answered 421"},
		"greeting 5xx":  {inbox.Knobs{Fault: "reject", At: "greeting", Code: 554}, notify.Deferred, notTaken, "connect: answered 554"},
		"greeting drop": {inbox.Knobs{Fault: "drop", At: "greeting"}, notify.Deferred, notTaken, "connect: "},
		"greeting hang": {inbox.Knobs{Fault: "hang", At: "greeting"}, notify.Deferred, notTaken, "connect: "},
		"greeting slow": {inbox.Knobs{Fault: "slow", At: "greeting"}, notify.Deferred, notTaken, "connect: "},
		"EHLO drop":     {inbox.Knobs{Fault: "drop", At: "hello"}, notify.Deferred, notTaken, "connect: "},
		"EHLO hang":     {inbox.Knobs{Fault: "hang", At: "hello"}, notify.Deferred, notTaken, "connect: "},

		"MAIL 4xx":          {inbox.Knobs{Fault: "reject", At: "mail", Code: 452}, notify.Deferred, notTaken, "MAIL FROM: answered 452"},
		"MAIL 5xx":          {inbox.Knobs{Fault: "reject", At: "mail", Code: 550}, notify.Refused, notTaken, "MAIL FROM: answered 550"},
		"MAIL not let in":   {inbox.Knobs{Fault: "reject", At: "mail", Code: 530}, notify.Deferred, notTaken, "MAIL FROM: answered 530"},
		"MAIL drop":         {inbox.Knobs{Fault: "drop", At: "mail"}, notify.Deferred, notTaken, "MAIL FROM: "},
		"MAIL hang":         {inbox.Knobs{Fault: "hang", At: "mail"}, notify.Deferred, notTaken, "MAIL FROM: "},
		"RCPT 4xx":          {inbox.Knobs{Fault: "reject", At: "rcpt", Code: 450}, notify.Deferred, notTaken, "RCPT TO: answered 450"},
		"RCPT 5xx":          {inbox.Knobs{Fault: "reject", At: "rcpt", Code: 550}, notify.Refused, notTaken, "RCPT TO: answered 550"},
		"RCPT drop":         {inbox.Knobs{Fault: "drop", At: "rcpt"}, notify.Deferred, notTaken, "RCPT TO: "},
		"RCPT hang":         {inbox.Knobs{Fault: "hang", At: "rcpt"}, notify.Deferred, notTaken, "RCPT TO: "},
		"RCPT slow":         {inbox.Knobs{Fault: "slow", At: "rcpt"}, notify.Deferred, notTaken, "RCPT TO: "},
		"DATA command 4xx":  {inbox.Knobs{Fault: "reject", At: "data", Code: 451}, notify.Deferred, notTaken, "DATA: answered 451"},
		"DATA command 5xx":  {inbox.Knobs{Fault: "reject", At: "data", Code: 554}, notify.Refused, notTaken, "DATA: answered 554"},
		"DATA command drop": {inbox.Knobs{Fault: "drop", At: "data"}, notify.Deferred, notTaken, "DATA: "},
		"DATA command hang": {inbox.Knobs{Fault: "hang", At: "data"}, notify.Deferred, notTaken, "DATA: "},

		"amid message, drop": {inbox.Knobs{Fault: "drop", At: "body"}, notify.Unknown, notTaken, "message: "},
		"amid message, hang": {inbox.Knobs{Fault: "hang", At: "body"}, notify.Unknown, notTaken, "message: "},
		"amid message, 4xx":  {inbox.Knobs{Fault: "reject", At: "body", Code: 452}, notify.Deferred, notTaken, "message: answered 452"},

		"after message 4xx":            {inbox.Knobs{Fault: "reject", At: "content", Code: 451}, notify.Deferred, notTaken, "message: answered 451"},
		"after message 421":            {inbox.Knobs{Fault: "reject", At: "content", Code: 421}, notify.Deferred, notTaken, "message: answered 421"},
		"after message 5xx":            {inbox.Knobs{Fault: "reject", At: "content", Code: 554}, notify.Refused, notTaken, "message: answered 554"},
		"after message drop, taken":    {inbox.Knobs{Fault: "drop", At: "content"}, notify.Unknown, taken, "message: "},
		"after message drop, not kept": {inbox.Knobs{Fault: "drop", At: "content", Discard: true}, notify.Unknown, notTaken, "message: "},
		"after message hang, taken":    {inbox.Knobs{Fault: "hang", At: "content"}, notify.Unknown, taken, "message: "},
		"after message slow, taken":    {inbox.Knobs{Fault: "slow", At: "content"}, notify.Unknown, taken, "message: "},
		"after message hang, not kept": {inbox.Knobs{Fault: "hang", At: "content", Discard: true}, notify.Unknown, notTaken, "message: "},
	} {
		// What ends the waiting for a server that hangs: the caller, or our own
		// patience (tried at one point before the message and at one after).
		patiences := []string{"timeout"}
		if c.knobs.Fault == inbox.FaultHang {
			patiences = []string{"cancelled"}
			if c.knobs.At == inbox.AtRcpt || c.knobs.At == inbox.AtContent && !c.knobs.Discard {
				patiences = append(patiences, "deadline", "timeout")
			}
		}
		if c.knobs.Fault == inbox.FaultSlow {
			patiences, c.knobs.Delay = []string{"cancelled"}, inbox.Duration(time.Hour)
		}
		for _, patience := range patiences {
			t.Run(name+"/"+patience, func(t *testing.T) {
				t.Parallel()
				server := newInbox(t, inbox.Options{})
				knobs := c.knobs
				knobs.Text, knobs.Times = "sorry <ann.smith@northwind.example>", 1
				require.NoError(t, server.SetKnobs(knobs))

				ctx, timeout := t.Context(), "1h"
				switch patience {
				case "timeout":
					timeout = "500ms"
				case "deadline":
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
					defer cancel()
				case "cancelled":
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					defer cancel()
					go func() {
						// A fault that strikes once has struck when it is gone.
						for (server.Knobs().Fault != inbox.FaultNone || len(server.Messages()) < c.kept) && ctx.Err() == nil {
							time.Sleep(time.Millisecond)
						}
						cancel()
					}()
				}
				m := newMail(t)
				delivery, err := newSMTP(t, server.SMTPURL()+"?timeout="+timeout).Send(ctx, m)
				assert.Equal(t, c.want, delivery, "%v", err)
				require.ErrorContains(t, err, c.says)
				assertDiscreet(t, m, err)
				switch patience {
				case "deadline":
					require.ErrorIs(t, err, context.DeadlineExceeded)
				case "cancelled":
					require.ErrorIs(t, err, context.Canceled)
				}
				assert.Len(t, server.Messages(), c.kept)
			})
		}
	}
}

// What comes after the server's yes changes nothing, and does not keep us long.
func TestGoodbyeDoesNotMatter(t *testing.T) {
	for _, fault := range []inbox.Fault{inbox.FaultHang, inbox.FaultReject, inbox.FaultDrop, inbox.FaultSlow} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			server := newInbox(t, inbox.Options{})
			require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: fault, At: inbox.AtQuit, Times: 1, Delay: inbox.Duration(time.Hour)}))
			delivery, err := newSMTP(t, server.SMTPURL()+"?timeout=1h").Send(t.Context(), newMail(t))
			require.NoError(t, err)
			assert.Equal(t, notify.Sent, delivery)
			assert.Len(t, server.Messages(), 1)
			assert.Equal(t, inbox.Knobs{}, server.Knobs(), "the fault has struck")
		})
	}
}

// A server that takes its time has the mail once, if we have the patience.
func TestSlowServer(t *testing.T) {
	for _, at := range inbox.Points() {
		server := newInbox(t, inbox.Options{})
		require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultSlow, At: at, Delay: inbox.Duration(10 * time.Millisecond)}))
		m := newMail(t)
		delivery, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
		require.NoError(t, err, at)
		assert.Equal(t, notify.Sent, delivery, at)
		require.Len(t, server.Messages(), 1, at)
		assert.Equal(t, m.HTML, server.Messages()[0].HTML, at)
	}
}

// One address of a customer bounces; the others get their mail.
func TestOneAddressBounces(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	ann, bob := newMail(t), newMail(t)
	bob.To, bob.ToName = "bob@northwind.example", "Bob"
	require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultReject, At: inbox.AtRcpt, To: ann.To, Code: 550, Text: "5.1.1 No such user"}))
	sender := newSMTP(t, server.SMTPURL())
	for _, m := range []notify.Mail{ann, bob, ann} {
		delivery, err := sender.Send(t.Context(), m)
		if m.To == ann.To {
			assert.Equal(t, notify.Refused, delivery)
			assert.True(t, notify.Bounced(err), "%v", err)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, notify.Sent, delivery)
	}
	require.Len(t, server.Messages(), 1)
	assert.Equal(t, []string{bob.To}, server.Messages()[0].To)
}

// What mail programs need to unsubscribe arrives as it should.
func TestUnsubscribeArrives(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	n := digest(notify.KindReminder, 5)
	m, err := notify.Compose(n)
	require.NoError(t, err)
	_, err = newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
	require.NoError(t, err)
	require.Len(t, server.Messages(), 1)
	got := server.Messages()[0]
	assert.Equal(t, "<"+n.StopURL+">", got.Header("List-Unsubscribe"))
	assert.Equal(t, "List-Unsubscribe=One-Click", got.Header("List-Unsubscribe-Post"))
	links := []string{n.LinkURL}
	for _, o := range n.Others {
		links = append(links, o.LinkURL)
	}
	assert.Equal(t, append(links, n.StopURL), got.Links)
}

func TestWellAgainAfterAFault(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "reject", At: "rcpt", Code: 450, Times: 2}))
	sender, m := newSMTP(t, server.SMTPURL()), newMail(t)
	for _, want := range []notify.Delivery{notify.Deferred, notify.Deferred, notify.Sent} {
		delivery, _ := sender.Send(t.Context(), m)
		assert.Equal(t, want, delivery)
	}
	assert.Len(t, server.Messages(), 1)
}

func TestConnectionRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())

	m := newMail(t)
	delivery, err := newSMTP(t, "smtp://"+address).Send(t.Context(), m)
	assert.Equal(t, notify.Deferred, delivery)
	require.ErrorContains(t, err, "connection refused")
	require.ErrorContains(t, err, address)
	assertDiscreet(t, m, err)
}

// A server in the private network is spoken to only where that is allowed.
func TestGuard(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	m := newMail(t)
	delivery, err := newSMTP(t, server.SMTPURL()).Through(outbound.Guard{}).Send(t.Context(), m)
	assert.Equal(t, notify.Deferred, delivery, "nothing of it was sent")
	require.ErrorIs(t, err, outbound.ErrRefused)
	require.ErrorContains(t, err, "REAUTH_OUTBOUND_ALLOW")
	assertDiscreet(t, m, err)
	assert.Empty(t, server.Messages())

	here, err := outbound.Parse(outbound.Loopback)
	require.NoError(t, err)
	delivery, err = newSMTP(t, server.SMTPURL()).Through(here).Send(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, notify.Sent, delivery)
}

func TestContextEndedBefore(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	delivery, err := newSMTP(t, server.SMTPURL()).Send(ctx, newMail(t))
	assert.Equal(t, notify.Deferred, delivery)
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, server.Messages())
}

func TestMalformedMailIsNotSent(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	m := newMail(t)
	m.Subject = "a\r\nBcc: everybody@evil.example"
	delivery, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
	assert.Equal(t, notify.Refused, delivery)
	require.ErrorContains(t, err, "Subject")
	assert.Empty(t, server.Messages())
}

// script is a server that says what it is told, whatever it hears. Each line
// waits for one command; the line after "354" waits for the whole message.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		<-done
	})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		r := bufio.NewReader(conn)
		inMessage := false
		for i, line := range lines {
			for i > 0 {
				heard, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if !inMessage || heard == ".\r\n" {
					break
				}
			}
			if strings.Contains(line, "[hang]") {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
			inMessage = strings.HasPrefix(line, "354")
		}
	}()
	return "smtp://" + listener.Addr().String() + "?timeout=2s"
}

// TestOddServers are answers that a well-behaved server does not give.
func TestOddServers(t *testing.T) {
	const hello, ehlo, ok, data = "220 hi\r\n", "250 hi\r\n", "250 ok\r\n", "354 go\r\n"
	upTo354 := []string{hello, ehlo, ok, ok, data}
	for name, c := range map[string]struct {
		lines []string
		want  notify.Delivery
	}{
		"yes, then gone":                 {append(upTo354[:5:5], ok), notify.Sent},
		"yes, then silence at QUIT":      {append(upTo354[:5:5], ok, "[hang]"), notify.Sent},
		"yes, then no at QUIT":           {append(upTo354[:5:5], ok, "500 what?\r\n"), notify.Sent},
		"yes in several lines":           {append(upTo354[:5:5], "250-well\r\n250 ok\r\n"), notify.Sent},
		"another kind of yes":            {append(upTo354[:5:5], "251 forwarded\r\n"), notify.Sent},
		"yes cut off":                    {append(upTo354[:5:5], "250-well\r\n"), notify.Unknown},
		"yes without its end":            {append(upTo354[:5:5], "250 o"), notify.Sent},
		"no without its end":             {append(upTo354[:5:5], "451 n"), notify.Deferred},
		"a code cut off":                 {append(upTo354[:5:5], "45"), notify.Unknown},
		"no cut off":                     {append(upTo354[:5:5], "451-well\r\n"), notify.Unknown},
		"no in several lines":            {append(upTo354[:5:5], "451-well\r\n451 no\r\n"), notify.Deferred},
		"never in several lines":         {append(upTo354[:5:5], "554-well\r\n554 no\r\n"), notify.Refused},
		"354 again":                      {append(upTo354[:5:5], data), notify.Unknown},
		"babble":                         {append(upTo354[:5:5], "hello there\r\n"), notify.Unknown},
		"nothing but a line":             {append(upTo354[:5:5], "\r\n"), notify.Unknown},
		"a code that there is not":       {append(upTo354[:5:5], "999 what\r\n"), notify.Unknown},
		"1xx":                            {append(upTo354[:5:5], "150 soon\r\n"), notify.Unknown},
		"yes to DATA without go-ahead":   {[]string{hello, ehlo, ok, ok, ok}, notify.Deferred},
		"an answer too many before DATA": {[]string{hello, ehlo, ok, "250 ok\r\n250 ok\r\n", data}, notify.Deferred},
		"babble at RCPT":                 {[]string{hello, ehlo, ok, "?\r\n"}, notify.Deferred},
		"babble at the greeting":         {[]string{"SSH-2.0-OpenSSH_9.2\r\n"}, notify.Deferred},
		"greeting cut off":               {[]string{"220-"}, notify.Deferred},
		"no EHLO, no HELO":               {[]string{hello, "500 what?\r\n", "500 what?\r\n"}, notify.Deferred},
		"only HELO":                      {[]string{hello, "500 what?\r\n", ok, ok, ok, data, ok}, notify.Sent},
		"RCPT forwards":                  {[]string{hello, ehlo, ok, "251 will forward\r\n", data, ok}, notify.Sent},
		"421 in place of the go-ahead":   {[]string{hello, ehlo, ok, ok, "421 bye\r\n"}, notify.Deferred},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMail(t)
			delivery, err := newSMTP(t, script(t, c.lines...)).Send(t.Context(), m)
			assert.Equal(t, c.want, delivery, "%v", err)
			assert.Equal(t, c.want == notify.Sent, err == nil)
			assertDiscreet(t, m, err)
		})
	}
}

// A server that breaks off a message that is too large says so while we still
// write; what it says counts.
func TestAnswerAmidTheMessage(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   notify.Delivery
	}{
		"with a no": {"552 5.3.4 too large\r\n", notify.Refused},
		"mute":      {"", notify.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			t.Cleanup(func() {
				require.NoError(t, listener.Close())
				<-done
			})
			go func() {
				defer close(done)
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_ = conn.(*net.TCPConn).SetReadBuffer(4096)
				r := bufio.NewReader(conn)
				_, _ = io.WriteString(conn, "220 hi\r\n")
				for _, answer := range []string{"250 hi\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n" + c.answer} {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
					_, _ = io.WriteString(conn, answer)
				}
				// It reads no more, so that our writing cannot come to its end.
				<-t.Context().Done()
			}()
			m := newMail(t)
			m.Text += strings.Repeat("more of the same\n", 500_000)
			delivery, err := newSMTP(t, "smtp://"+listener.Addr().String()+"?timeout=1s").Send(t.Context(), m)
			assert.Equal(t, c.want, delivery, "%v", err)
		})
	}
}

func TestServersEchoIsNotRepeated(t *testing.T) {
	for _, text := range []string{
		"<ann.smith@northwind.example>: Recipient address rejected",
		"no mailbox ann.smith here",
		"user ANN unknown, Smith neither",
		"mailto:ann.smith%40northwind.example unknown",
		"ann.smith=northwind.example@relay",
		"(Ann-Smith) is over quota",
		"spam: https://connect.ledgerly.example/r/8Jq2mXw0Zb4nVt6yLc1dRk9sPf3hGe7uAi5oTzQxWvM",
		"8Jq2mXw0Zb4nVt6yLc1dRk9sPf3hGe7uAi5oTzQxWvM found",
		strings.Repeat("words and ", 40) + "ann.smith@northwind.example",
	} {
		server := newInbox(t, inbox.Options{})
		require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "reject", At: "rcpt", Code: 550, Text: text}))
		m := newMail(t)
		_, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
		require.Error(t, err)
		assertDiscreet(t, m, err)
	}

	server := newInbox(t, inbox.Options{})
	require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "reject", At: "rcpt", Code: 452, Text: "Mailbox full, try again later."}))
	_, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), newMail(t))
	require.ErrorContains(t, err, "RCPT TO: answered 452: 4.3.0 Mailbox full, try again later.", "what is plain words stays")
}

func TestAddressesBeyondASCII(t *testing.T) {
	m := newMail(t)
	m.To, m.ToName = "jürgen@bücher.example", "Jürgen"

	server := newInbox(t, inbox.Options{})
	delivery, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, notify.Sent, delivery)
	assert.Equal(t, []string{m.To}, server.Messages()[0].To)

	delivery, err = newSMTP(t, script(t, "220 hi\r\n", "250 hi\r\n")).Send(t.Context(), m)
	assert.Equal(t, notify.Refused, delivery)
	require.ErrorContains(t, err, "beyond ASCII")
}

func TestLogIn(t *testing.T) {
	for name, c := range map[string]struct {
		userinfo string
		want     notify.Delivery
	}{
		"right password": {"ann:hunter%2F2%40@", notify.Sent},
		"wrong password": {"ann:hunter1@", notify.Deferred},
		"none":           {"", notify.Deferred},
	} {
		t.Run(name, func(t *testing.T) {
			server := newInbox(t, inbox.Options{User: "ann", Password: "hunter/2@"})
			m := newMail(t)
			delivery, err := newSMTP(t, "smtp://"+c.userinfo+server.SMTPAddr()).Send(t.Context(), m)
			assert.Equal(t, c.want, delivery, "%v", err)
			assertDiscreet(t, m, err)
		})
	}
	t.Run("a server that asks for nobody", func(t *testing.T) {
		server := newInbox(t, inbox.Options{})
		delivery, err := newSMTP(t, "smtp://ann:hunter2@"+server.SMTPAddr()).Send(t.Context(), newMail(t))
		assert.Equal(t, notify.Deferred, delivery)
		require.ErrorContains(t, err, "AUTH")
	})
}

func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

func TestTLS(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	for name, c := range map[string]struct {
		options inbox.Options
		scheme  string
		query   string
		trusts  bool
		want    notify.Delivery
		secure  bool
	}{
		"STARTTLS where offered":        {inbox.Options{TLS: serverTLS}, "smtp", "", true, notify.Sent, true},
		"STARTTLS not offered":          {inbox.Options{}, "smtp", "", true, notify.Sent, false},
		"STARTTLS always":               {inbox.Options{TLS: serverTLS}, "smtp", "?starttls=always", true, notify.Sent, true},
		"STARTTLS always, not offered":  {inbox.Options{}, "smtp", "?starttls=always", true, notify.Deferred, false},
		"STARTTLS never":                {inbox.Options{TLS: serverTLS}, "smtp", "?starttls=never", true, notify.Sent, false},
		"STARTTLS, unknown certificate": {inbox.Options{TLS: serverTLS}, "smtp", "", false, notify.Deferred, false},
		"TLS":                           {inbox.Options{TLS: serverTLS, ImplicitTLS: true}, "smtps", "", true, notify.Sent, true},
		"TLS, unknown certificate":      {inbox.Options{TLS: serverTLS, ImplicitTLS: true}, "smtps", "", false, notify.Deferred, false},
		"TLS to a server without":       {inbox.Options{}, "smtps", "?timeout=2s", true, notify.Deferred, false},
		"no TLS to a server with":       {inbox.Options{TLS: serverTLS, ImplicitTLS: true}, "smtp", "?timeout=200ms", true, notify.Deferred, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newInbox(t, c.options)
			relay, clear := tap(t, server.SMTPAddr())
			sender := newSMTP(t, c.scheme+"://"+relay+c.query)
			if c.trusts {
				sender.Trust(clientTLS)
			}
			m := newMail(t)
			delivery, err := sender.Send(t.Context(), m)
			assert.Equal(t, c.want, delivery, "%v", err)
			assertDiscreet(t, m, err)
			if c.want == notify.Sent {
				require.Len(t, server.Messages(), 1)
				assert.Equal(t, !c.secure, strings.Contains(clear(), m.To), "the address on the wire")
			} else {
				assert.Empty(t, server.Messages())
			}
		})
	}

	t.Run("an answer lost under TLS", func(t *testing.T) {
		server := newInbox(t, inbox.Options{TLS: serverTLS})
		require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "drop", At: "content"}))
		sender := newSMTP(t, server.SMTPURL())
		sender.Trust(clientTLS)
		delivery, err := sender.Send(t.Context(), newMail(t))
		assert.Equal(t, notify.Unknown, delivery, "%v", err)
	})
	t.Run("a handshake that hangs", func(t *testing.T) {
		server := newInbox(t, inbox.Options{TLS: serverTLS, ImplicitTLS: true})
		require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "hang", At: "greeting"}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		delivery, err := newSMTP(t, server.SMTPURL()).Send(ctx, newMail(t))
		assert.Equal(t, notify.Deferred, delivery)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestAPanicEndsTheMailOnly(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	clientTLS.VerifyConnection = func(tls.ConnectionState) error { panic("ann.smith@northwind.example") }
	server := newInbox(t, inbox.Options{TLS: serverTLS})
	sender := newSMTP(t, server.SMTPURL())
	sender.Trust(clientTLS)
	m := newMail(t)
	delivery, err := sender.Send(t.Context(), m)
	assert.Equal(t, notify.Deferred, delivery)
	require.ErrorContains(t, err, "panic")
	assertDiscreet(t, m, err)
}

// trap is a context that panics when it is asked how it ended, once it is armed.
type trap struct {
	context.Context
	armed func() bool
}

func (c trap) Err() error {
	if c.armed() {
		panic("ann.smith@northwind.example")
	}
	return nil
}

func TestAPanicAfterTheMessageLeavesItOpen(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: "drop", At: "content", Times: 1}))
	m := newMail(t)
	ctx := trap{context.Background(), func() bool { return server.Knobs().Fault == inbox.FaultNone }}
	delivery, err := newSMTP(t, server.SMTPURL()).Send(ctx, m)
	assert.Equal(t, notify.Unknown, delivery)
	require.ErrorContains(t, err, "panic")
	assertDiscreet(t, m, err)
}

// tap passes connections on to a server and returns what went there.
func tap(t *testing.T, to string) (address string, heard func() string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var recorded strings.Builder
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		defer close(done)
		client, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		back := make(chan struct{})
		go func() {
			defer close(back)
			_, _ = io.Copy(client, server)
			_ = client.Close()
		}()
		_, _ = io.Copy(io.MultiWriter(server, &recorded), client)
		_ = server.Close()
		<-back
	}()
	return listener.Addr().String(), func() string {
		<-done
		return recorded.String()
	}
}

// The knobs work over HTTP too, while a mail hangs.
func TestKnobsOverHTTPLetGo(t *testing.T) {
	server := newInbox(t, inbox.Options{})
	web := httptest.NewServer(server.Handler())
	defer web.Close()
	put := func(body string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, web.URL+"/knobs", strings.NewReader(body))
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	put(`{"fault": "hang", "at": "content"}`)
	done := make(chan string)
	go func() {
		delivery, err := newSMTP(t, server.SMTPURL()).Send(t.Context(), newMail(t))
		done <- fmt.Sprint(delivery, err)
	}()
	require.Eventually(t, func() bool { return len(server.Messages()) == 1 }, 10*time.Second, 5*time.Millisecond)
	put(`{"fault": ""}`)
	assert.Equal(t, "sent<nil>", <-done)
}

func TestNewSMTP(t *testing.T) {
	for url, want := range map[string]string{
		"smtp://mail.example.com":                                "mail.example.com:25",
		"smtp://mail.example.com/":                               "mail.example.com:25",
		"smtp://ann:hunter2@mail.example.com":                    "mail.example.com:587",
		"smtp://ann:hunter2@mail.example.com:2525":               "mail.example.com:2525",
		"smtps://ann:hunter2@mail.example.com":                   "mail.example.com:465",
		"smtp://ann:hunter2@localhost:1025?starttls=never":       "localhost:1025",
		"smtp://[::1]:1025":                                      "[::1]:1025",
		"smtp://mailpit:1025?starttls=auto&timeout=5s":           "mailpit:1025",
		"smtp://mail.example.com?helo=reauth.example.com":        "mail.example.com:25",
		"smtp://ann:hunter2@mail.example.com:25?starttls=always": "mail.example.com:25",
	} {
		sender, err := notify.NewSMTP(url)
		require.NoError(t, err, url)
		assert.Equal(t, want, sender.String())
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			assert.NotContains(t, fmt.Sprintf(format, sender), "hunter2")
		}
	}
	for url, says := range map[string]string{
		"":                                            "must begin with smtp://",
		"mail.example.com:25":                         "smtp://",
		"http://mail.example.com":                     "must begin with smtp://",
		"smtp://":                                     "names no host",
		"smtp://:25":                                  "names no host",
		"smtp://a.example:0":                          "port",
		"smtp://a.example:70000":                      "port",
		"smtp://a.example:smtp":                       "not a URL",
		"smtp://u:hunter2%zz@a":                       "percent-encoded",
		"smtp://u:hunter2/x@a":                        "not a URL",
		"smtp://u:hunter2@a/path":                     "after the port",
		"smtp://u:hunter2#x@a":                        "not a URL",
		"smtp://u@a.example":                          "both a user and a password",
		"smtp://:hunter2@a.example":                   "both a user and a password",
		"smtp://a?starttls=perhaps":                   "starttls must be",
		"smtps://a?starttls=always":                   "smtp:// only",
		"smtp://a?timeout=soon":                       "timeout must be",
		"smtp://a?timeout=-1s":                        "timeout must be",
		"smtp://a?timeout=2h":                         "timeout must be",
		"smtp://a?helo=a%0d%0ab":                      "helo must be",
		"smtp://a?tls=yes":                            "unknown option",
		"smtp://a?starttls=%zz":                       "malformed query",
		"smtp://a.example:25\r\nx":                    "not a URL",
		"smtp://ann:hunter2@a.example?starttls=never": "starttls must be",
		"smtp://ann:hunter2@a.example?starttls=auto":  "starttls must be",
	} {
		sender, err := notify.NewSMTP(url)
		require.ErrorContains(t, err, says, url)
		assert.Nil(t, sender, url)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}
