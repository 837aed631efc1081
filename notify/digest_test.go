package notify_test

import (
	"bytes"
	"fmt"
	"maps"
	netmail "net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify"
)

// campaigning are the kinds that can be a digest.
var campaigning = []notify.Kind{notify.KindFirst, notify.KindReminder, notify.KindLastCall}

func TestDigestTellsOfEveryConnection(t *testing.T) {
	for _, kind := range campaigning {
		for _, connections := range []int{2, 3, 5} {
			t.Run(fmt.Sprint(kind, connections), func(t *testing.T) {
				n := digest(kind, connections)
				m, err := notify.Compose(n)
				require.NoError(t, err)
				number := fmt.Sprint(connections, " connections")
				assert.Contains(t, m.Subject, number)
				assert.Contains(t, m.Subject, "Ledgerly")
				links := []string{n.LinkURL}
				for _, o := range n.Others {
					links = append(links, o.LinkURL)
				}
				for _, body := range []string{strings.Join(strings.Fields(m.Text), " "), flat(m.HTML)} {
					assert.Contains(t, body, number)
					assert.Contains(t, body, "two minutes")
					at := 0
					for _, want := range []string{"1. Gusto (Northwind Ltd)", "2. BambooHR (Northwind Ltd)"} {
						require.Greater(t, strings.Index(body, want), at, "the notice's own connection comes first")
						at = strings.Index(body, want)
					}
					for _, o := range n.Others {
						assert.Contains(t, body, o.ProviderName)
						assert.Contains(t, body, o.CustomerName)
					}
					assert.Contains(t, body, "Wednesday, 3 June 2026 at 09:25 (Europe/Berlin, UTC+2)", "the deadline of another")
					assert.Contains(t, body, "Monday, 4 May 2026 at 09:14 (Europe/Berlin, UTC+2)", "since when another is lost")
				}
				assert.Equal(t, connections, strings.Count(m.HTML, `class="button" href=`), "a button for each")
				for _, link := range links {
					assert.Equal(t, 1, strings.Count(m.Text, link+"\n"))
					assert.Equal(t, 1, strings.Count(m.HTML, `class="button" href="`+link+`"`))
				}
				assert.Equal(t, rootID != m.MessageID, m.InReplyTo == rootID)
			})
		}
	}
}

// The same connections have the same subject to the end, so that mail programs
// show one conversation.
func TestDigestIsOneConversation(t *testing.T) {
	var subjects []string
	for _, kind := range campaigning {
		m, err := notify.Compose(digest(kind, 3))
		require.NoError(t, err)
		subjects = append(subjects, m.Subject)
	}
	assert.Equal(t, subjects[0], subjects[1])
	assert.Equal(t, subjects[0], subjects[2])
}

func TestDigestOfManyIsNotCutOff(t *testing.T) {
	n := digest(notify.KindReminder, 2)
	n.Others = nil
	for i := range 50 {
		n.Others = append(n.Others, notify.Other{
			CustomerName: fmt.Sprintf("Northwind Handelsgesellschaft No. %d", i), ProviderName: "ADP Workforce Now",
			Entities:   []string{"Northwind East LLC", "Northwind West LLC"},
			LinkURL:    fmt.Sprintf("https://connect.ledgerly.example/r/%043d", i),
			StaleSince: n.StaleSince, DeadlineAt: n.DeadlineAt,
		})
	}
	m, err := notify.Compose(n)
	require.NoError(t, err)
	assert.Contains(t, m.Subject, "51 connections")
	assert.Less(t, len(m.HTML), 100_000, "Gmail cuts a mail off at 102 kB")
	for _, o := range n.Others {
		assert.Contains(t, m.Text, o.LinkURL)
		assert.Contains(t, m.HTML, o.LinkURL)
	}
}

// What is the last reminder for one connection may not be called the last for
// another, whose deadline is far.
func TestDigestOfLastRemindersIsTrue(t *testing.T) {
	for name, c := range map[string]struct {
		own     time.Duration // deadlines after 3 June, 0 for none
		others  []time.Duration
		heading string
		marked  int
	}{
		"all at once":        {time.Hour, []time.Duration{time.Hour, 2 * time.Hour}, "Last reminder: 3 connections are still disconnected", 0},
		"within a day":       {time.Hour, []time.Duration{25 * time.Hour}, "Last reminder: 2 connections are still disconnected", 0},
		"another is overdue": {48 * time.Hour, []time.Duration{time.Hour}, "Last reminder: 2 connections are still disconnected", 0},
		"another has time":   {time.Hour, []time.Duration{26 * time.Hour}, "Last reminder for 1 of 2 connections", 1},
		"another has no end": {time.Hour, []time.Duration{time.Hour, 0}, "Last reminder for 2 of 3 connections", 2},
		"none has an end":    {0, []time.Duration{0, 0}, "Last reminder: 3 connections are still disconnected", 0},
		"own has no end":     {0, []time.Duration{time.Hour}, "Last reminder for 1 of 2 connections", 1},
	} {
		t.Run(name, func(t *testing.T) {
			deadline := func(after time.Duration) time.Time {
				if after == 0 {
					return time.Time{}
				}
				return time.Date(2026, 6, 3, 0, 0, 0, 0, time.UTC).Add(after)
			}
			n := sample(notify.KindLastCall)
			n.DeadlineAt = deadline(c.own)
			for _, after := range c.others {
				n.Others = append(n.Others, notify.Other{LinkURL: "https://a.example/", ProviderName: "BambooHR", DeadlineAt: deadline(after)})
			}
			m, err := notify.Compose(n)
			require.NoError(t, err)
			for _, body := range []string{strings.Join(strings.Fields(m.Text), " "), flat(m.HTML)} {
				assert.Contains(t, body, c.heading)
				assert.Equal(t, c.marked, strings.Count(body, ", last reminder"))
			}
		})
	}
}

func TestDigestSaysUntilWhen(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 6, day, 12, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		own, other time.Time
		says       string
	}{
		"one day":      {at(3), at(3).Add(time.Hour), "Please do it by 3 June 2026."},
		"two days":     {at(5), at(3), "Please mind the date that stands with each: the first is 3 June 2026."},
		"one of two":   {at(5), time.Time{}, "Please mind the date that stands with each: the first is 5 June 2026."},
		"other of two": {time.Time{}, at(5), "Please mind the date that stands with each: the first is 5 June 2026."},
		"none":         {time.Time{}, time.Time{}, "two minutes each. 1. Gusto"},
	} {
		t.Run(name, func(t *testing.T) {
			n := sample(notify.KindFirst)
			n.DeadlineAt = c.own
			n.Others = []notify.Other{{LinkURL: "https://a.example/", ProviderName: "BambooHR", DeadlineAt: c.other}}
			m, err := notify.Compose(n)
			require.NoError(t, err)
			assert.Contains(t, strings.Join(strings.Fields(m.Text), " "), c.says)
		})
	}
}

func TestNamesCannotBreakOutOfADigest(t *testing.T) {
	for i, name := range nasty {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			for _, kind := range campaigning {
				n, plain := digest(kind, 3), digest(kind, 3)
				for j := range n.Others {
					n.Others[j].CustomerName, n.Others[j].ProviderName, n.Others[j].Entities = name, name, []string{name}
				}
				n.ProductName, n.CustomerName, n.ProviderName = name, name, name
				m, err := notify.Compose(n)
				require.NoError(t, err)
				want, err := notify.Compose(plain)
				require.NoError(t, err)
				assert.Equal(t, structure(want.HTML), structure(m.HTML), "the name changed the markup")
				assert.NotContains(t, m.HTML, "ZgotmplZ")
				assert.NotContains(t, m.Subject+m.Text+m.HTML, "\u202e")
				for _, line := range strings.Split(m.Text, "\n") {
					assert.False(t, strings.HasPrefix(line, "Bcc"), "a line of its own")
				}
				assert.Equal(t, headers(t, want), headers(t, m))
			}
		})
	}
}

// headers returns the names of a mail's headers, as they stand on the wire.
func headers(t *testing.T, m notify.Mail) []string {
	t.Helper()
	raw, err := notify.Wire(m)
	require.NoError(t, err)
	parsed, err := netmail.ReadMessage(bytes.NewReader(raw))
	require.NoError(t, err)
	return slices.Sorted(maps.Keys(parsed.Header))
}

func TestStop(t *testing.T) {
	for _, kind := range notify.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			n := sample(kind)
			n.StopURL = stopURL
			m, err := notify.Compose(n)
			require.NoError(t, err)
			assert.Contains(t, m.Text, "\nNot the right person? Tell us:\n"+stopURL+"\n")
			assert.Contains(t, m.HTML, `Not the right person? <a class="address" href="`+stopURL+`"`)
			if kind == notify.KindFirst || kind == notify.KindReminder || kind == notify.KindLastCall {
				assert.Equal(t, "<"+stopURL+">", m.Headers["List-Unsubscribe"])
				assert.Equal(t, "List-Unsubscribe=One-Click", m.Headers["List-Unsubscribe-Post"])
			} else {
				assert.NotContains(t, m.Headers, "List-Unsubscribe")
				assert.NotContains(t, m.Headers, "List-Unsubscribe-Post")
			}

			n.StopURL = ""
			m, err = notify.Compose(n)
			require.NoError(t, err)
			assert.NotContains(t, m.Headers, "List-Unsubscribe")
			assert.NotContains(t, m.Headers, "List-Unsubscribe-Post")
			assert.NotContains(t, m.Text+m.HTML, "right person")
		})
	}
}

// RFC 8058 wants https. A mail without the headers is still a mail, and its
// small print still leads to the page.
func TestOneClickIsForHTTPS(t *testing.T) {
	for address, want := range map[string]bool{
		"https://connect.ledgerly.example/stop/abc": true,
		"HTTPS://connect.ledgerly.example/stop/abc": true,
		"http://localhost:8080/stop/abc":            true,
		"http://127.0.0.1:8080/stop/abc":            true,
		"http://[::1]:8080/stop/abc":                true,
		"http://connect.ledgerly.example/stop/abc":  false,
		"http://localhost.evil.example/stop/abc":    false,
		"http://10.0.0.7:8080/stop/abc":             false,
	} {
		n := sample(notify.KindFirst)
		n.StopURL = address
		m, err := notify.Compose(n)
		require.NoError(t, err, address)
		assert.Contains(t, m.Text, address)
		_, unsubscribe := m.Headers["List-Unsubscribe"]
		_, post := m.Headers["List-Unsubscribe-Post"]
		assert.Equal(t, want, unsubscribe, address)
		assert.Equal(t, want, post, address)
	}
}

// An address that is folded, or encoded as words are, is no address any more.
func TestUnsubscribeStaysOnOneLine(t *testing.T) {
	for _, length := range []int{40, 52, 53, 54, 60, 74, 76, 78, 120, 300, 900} {
		n := digest(notify.KindReminder, 2)
		n.StopURL = "https://connect.ledgerly.example/r/"
		n.StopURL += strings.Repeat("a", length-len(n.StopURL))
		m, err := notify.Compose(n)
		require.NoError(t, err)
		raw, err := notify.Wire(m)
		require.NoError(t, err)
		assert.Contains(t, string(raw), "\r\nList-Unsubscribe: <"+n.StopURL+">\r\n", length)
		assert.Contains(t, string(raw), "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", length)
	}
}
