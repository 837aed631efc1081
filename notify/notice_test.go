package notify_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	rootID = "0196d2f4-5c1e-7d0a-9f3b-2f8f6d0b7a11.first.1.7f3a9c0d12e45b68@ledgerly.example"
	ownID  = "0196d2f4-5c1e-7d0a-9f3b-2f8f6d0b7a11.day-5.1.0c4be2fa77d1a390@ledgerly.example"
)

// sample is a notice with everything that the kind can say.
func sample(kind notify.Kind) notify.Notice {
	n := notify.Notice{
		Kind:          kind,
		Recipient:     notify.Recipient{Email: "ann.smith@northwind.example", Name: "Ann Smith", TimeZone: "Europe/Berlin"},
		ProductName:   "Ledgerly",
		CustomerName:  "Northwind Ltd",
		ProviderName:  "Gusto",
		LinkURL:       "https://connect.ledgerly.example/r/8Jq2mXw0Zb4nVt6yLc1dRk9sPf3hGe7uAi5oTzQxWvM",
		Step:          "day-5",
		StaleSince:    time.Date(2026, 5, 4, 7, 12, 0, 0, time.UTC),
		OpenedAt:      time.Date(2026, 5, 4, 7, 20, 0, 0, time.UTC),
		DeadlineAt:    time.Date(2026, 6, 3, 7, 20, 0, 0, time.UTC),
		MessageID:     ownID,
		RootMessageID: rootID,
		From:          "Ledgerly <connections@ledgerly.example>",
		ReplyTo:       "Ledgerly Support <support@ledgerly.example>",
	}
	switch kind {
	case notify.KindFirst:
		n.MessageID, n.Step = rootID, "first"
	case notify.KindFixed:
		n.LinkURL = ""
		n.RestoredAt = time.Date(2026, 5, 9, 14, 3, 0, 0, time.UTC)
	case notify.KindOperator:
		n.LinkURL = ""
		n.Recipient = notify.Recipient{Email: "ops@ledgerly.example"}
		n.Problem = "Finch refuses our own client credentials (invalid_client), so no session can be opened. The case waits and tries again every 15 minutes."
		n.Advice = "Check FINCH_CLIENT_ID and FINCH_CLIENT_SECRET of the application \"default\". Nothing has to be restarted by hand once they are right."
		n.ConnectionID, n.CaseID = "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1", "0196d2f4-5c1e-7d0a-9f3b-2f8f6d0b7a11"
		n.Links = []notify.Link{
			{Name: "Open the case", URL: "https://temporal.ledgerly.example/namespaces/default/workflows/reauth-6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"},
			{Name: "The connection", URL: "https://connect.ledgerly.example/v1/connections/6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"},
		}
	}
	return n
}

const stopURL = "https://connect.ledgerly.example/stop/8Jq2mXw0Zb4nVt6yLc1dRk9sPf3hGe7uAi5oTzQxWvM"

// digest is a sample that tells of several connections, the first three of one
// company and due by one day.
func digest(kind notify.Kind, connections int) notify.Notice {
	n := sample(kind)
	n.StopURL = stopURL
	n.Others = []notify.Other{
		{
			CustomerName: "Northwind Ltd", ProviderName: "BambooHR",
			LinkURL:    "https://connect.ledgerly.example/r/p5VbNc8sWq1XeZr4TyUi7OoPa0SdFg2HjKl3MzQxRvE",
			StaleSince: time.Date(2026, 5, 4, 7, 14, 0, 0, time.UTC), DeadlineAt: time.Date(2026, 6, 3, 7, 25, 0, 0, time.UTC),
		},
		{
			CustomerName: "Northwind Ltd", ProviderName: "Deutsche Bank",
			Entities:   []string{"Northwind East LLC", "Northwind West LLC", "Südwind GmbH & Co. KG"},
			LinkURL:    "https://connect.ledgerly.example/r/Lk9JhGf5DsAq2WeRt8YuIo1Pz4XcVb7Nm0QwErTyUiO",
			StaleSince: time.Date(2026, 5, 2, 16, 40, 0, 0, time.UTC), DeadlineAt: time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC),
		},
		{
			CustomerName: "Contoso Handels- und Beteiligungsgesellschaft mbH", ProviderName: "ADP Workforce Now",
			LinkURL:  "https://connect.ledgerly.example/r/Zx3CvBn6MaSd9FgHj2KlQw5ErTy8UiOp1LmNbVcXzAs",
			OpenedAt: time.Date(2026, 5, 9, 7, 20, 0, 0, time.UTC), DeadlineAt: time.Date(2026, 6, 8, 7, 20, 0, 0, time.UTC),
		},
		{CustomerName: "Fabrikam Inc", LinkURL: "https://connect.ledgerly.example/r/Qa1WsEd4RfTg7YhUj0IkOl3PzXc6VbNm9AsDfGhJkLq"},
	}[:connections-1]
	return n
}

// samples are the notices that have golden files, by their names.
func samples() map[string]notify.Notice {
	all := make(map[string]notify.Notice)
	for _, kind := range notify.Kinds() {
		all[string(kind)] = sample(kind)
	}
	refused, wrong := sample(notify.KindTryAgain), sample(notify.KindTryAgain)
	refused.Cause, wrong.Cause = notify.CauseRefused, notify.CauseWrongAccount
	all["try_again_refused"], all["try_again_wrong_account"] = refused, wrong

	entities := sample(notify.KindReminder)
	entities.Entities = []string{"Northwind East LLC", "Northwind West LLC", "Südwind GmbH & Co. KG"}
	all["reminder_entities"] = entities
	partly := func(kind notify.Kind, cause notify.Cause) notify.Notice {
		n := sample(kind)
		n.Cause = cause
		n.Entities, n.Working = []string{"Northwind East LLC", "Northwind West LLC"}, []string{"Südwind GmbH & Co. KG"}
		return n
	}
	for _, kind := range []notify.Kind{notify.KindFirst, notify.KindReminder, notify.KindLastCall, notify.KindOperator} {
		all[string(kind)+"_partly"] = partly(kind, "")
	}
	all["try_again_partly"] = partly(notify.KindTryAgain, notify.CauseUnfinished)
	unfinished := sample(notify.KindTryAgain)
	unfinished.Cause = notify.CauseUnfinished
	all["try_again_unfinished"] = unfinished
	together := digest(notify.KindFirst, 3)
	together.Entities, together.Working = []string{"Northwind West LLC"}, []string{"Northwind East LLC", "Südwind GmbH & Co. KG"}
	all["digest_partly"] = together

	stop := sample(notify.KindFirst)
	stop.StopURL = stopURL
	all["first_stop"] = stop
	fixed := sample(notify.KindFixed)
	fixed.StopURL = stopURL
	all["fixed_stop"] = fixed

	all["digest_2"] = digest(notify.KindFirst, 2)
	all["digest_5"] = digest(notify.KindReminder, 5)
	all["digest_last_call"] = digest(notify.KindLastCall, 3)
	all["digest_last_call_of_some"] = digest(notify.KindLastCall, 5)
	all["digest_bare"] = notify.Notice{
		Kind: notify.KindFirst, Recipient: notify.Recipient{Email: "ann.smith@northwind.example"}, ProductName: "Ledgerly",
		LinkURL: "https://connect.ledgerly.example/r/abc", MessageID: rootID, From: "connections@ledgerly.example",
		Others: []notify.Other{{LinkURL: "https://connect.ledgerly.example/r/def"}},
	}

	// Only what cannot be missing.
	all["first_bare"] = notify.Notice{
		Kind: notify.KindFirst, Recipient: notify.Recipient{Email: "ann.smith@northwind.example"}, ProductName: "Ledgerly",
		LinkURL: "https://connect.ledgerly.example/r/abc", MessageID: rootID, From: "connections@ledgerly.example",
	}
	return all
}

func TestComposeGolden(t *testing.T) {
	for name, notice := range samples() {
		t.Run(name, func(t *testing.T) {
			m, err := notify.Compose(notice)
			require.NoError(t, err)
			text := "Subject: " + m.Subject + "\n\n" + m.Text
			for file, got := range map[string]string{name + ".txt": text, name + ".html": m.HTML} {
				path := filepath.Join("testdata", file)
				if *update {
					require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err, "run: go test ./notify -run Golden -update")
				assert.Equal(t, string(want), got)
			}
		})
	}
}

// The golden files are exactly those of the samples.
func TestNoStaleGoldenFiles(t *testing.T) {
	want := []string{"first.eml"}
	for name := range samples() {
		want = append(want, name+".html", name+".txt")
	}
	entries, err := os.ReadDir("testdata")
	require.NoError(t, err)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	assert.ElementsMatch(t, want, got)
}

var tags = regexp.MustCompile(`(?s)<style>.*?</style>|<title>.*?</title>|<[^>]*>`)

// flat is a text without markup, line breaks and runs of spaces.
func flat(s string) string {
	s = tags.ReplaceAllString(s, " ")
	s = strings.NewReplacer("&#39;", "'", "&#34;", `"`, "&amp;", "&", "&nbsp;", " ", "&#43;", "+").Replace(s)
	return strings.Join(strings.Fields(s), " ")
}

var factLabel = regexp.MustCompile(`^([A-Z][a-z ]+):  +`)

func TestTextAndHTMLSayTheSame(t *testing.T) {
	for name, notice := range samples() {
		t.Run(name, func(t *testing.T) {
			m, err := notify.Compose(notice)
			require.NoError(t, err)
			html := flat(m.HTML)
			for _, paragraph := range strings.Split(m.Text, "\n\n") {
				paragraph = strings.TrimPrefix(paragraph, "-- \n"+notice.ProductName+"\n")
				var said []string
				for _, line := range strings.Split(paragraph, "\n") {
					if strings.HasPrefix(line, "http") { // what the line before is a link to
						assert.Contains(t, m.HTML, `href="`+line+`"`)
						said[len(said)-1] = strings.TrimSuffix(said[len(said)-1], ":")
						continue
					}
					said = append(said, factLabel.ReplaceAllString(line, "$1 "))
				}
				assert.Contains(t, html, strings.Join(strings.Fields(strings.Join(said, " ")), " "))
			}
		})
	}
}

func TestEveryMailSaysWhatItMust(t *testing.T) {
	for _, kind := range []notify.Kind{notify.KindFirst, notify.KindReminder, notify.KindLastCall, notify.KindTryAgain} {
		t.Run(string(kind), func(t *testing.T) {
			n := sample(kind)
			m, err := notify.Compose(n)
			require.NoError(t, err)
			for _, body := range []string{strings.Join(strings.Fields(m.Text), " "), flat(m.HTML)} {
				assert.Contains(t, body, "Northwind Ltd")
				assert.Contains(t, body, "Gusto")
				assert.Contains(t, body, "Ledgerly")
				assert.Contains(t, body, "two minutes")
				assert.Contains(t, body, "Wednesday, 3 June 2026 at 09:20 (Europe/Berlin, UTC+2)")
				assert.Contains(t, body, n.LinkURL)
			}
			assert.Equal(t, 1, strings.Count(m.HTML, `class="button" href=`), "one button")
			assert.Equal(t, 1, strings.Count(m.Text, n.LinkURL))
			assert.Equal(t, n.ReplyTo, m.ReplyTo)
		})
	}
	fixed, err := notify.Compose(sample(notify.KindFixed))
	require.NoError(t, err)
	assert.NotContains(t, fixed.HTML, "<a ", "nothing is left to click")
	assert.NotContains(t, fixed.Text, "http")
}

func TestNothingIsFetchedFromElsewhere(t *testing.T) {
	for name, notice := range samples() {
		m, err := notify.Compose(notice)
		require.NoError(t, err)
		for _, forbidden := range []string{"<img", "<link", "<script", "@import", "url(", "src=", "@font-face", "ZgotmplZ"} {
			assert.NotContains(t, m.HTML, forbidden, name)
		}
		assert.Less(t, len(m.HTML), 90_000, "Gmail cuts a mail off at 102 kB")
	}
}

func TestOneConversation(t *testing.T) {
	first, err := notify.Compose(sample(notify.KindFirst))
	require.NoError(t, err)
	assert.Equal(t, rootID, first.MessageID)
	assert.Empty(t, first.InReplyTo)
	assert.Empty(t, first.References)
	for _, kind := range []notify.Kind{notify.KindReminder, notify.KindLastCall, notify.KindTryAgain, notify.KindFixed} {
		m, err := notify.Compose(sample(kind))
		require.NoError(t, err)
		assert.Equal(t, first.Subject, m.Subject, kind)
		assert.Equal(t, rootID, m.InReplyTo)
		assert.Equal(t, []string{rootID}, m.References)
		assert.Equal(t, ownID, m.MessageID)
	}

	// What an operator is told about one case is a conversation too.
	blocked, expired := sample(notify.KindOperator), sample(notify.KindOperator)
	expired.Problem, expired.Links = "Nobody came.", nil
	a, err := notify.Compose(blocked)
	require.NoError(t, err)
	b, err := notify.Compose(expired)
	require.NoError(t, err)
	assert.Equal(t, a.Subject, b.Subject)
}

func TestTimesAreTheReadersOwn(t *testing.T) {
	for zone, want := range map[string]string{
		"Europe/Berlin":     "Monday, 4 May 2026 at 09:12 (Europe/Berlin, UTC+2)",
		"America/New_York":  "Monday, 4 May 2026 at 03:12 (America/New_York, UTC-4)",
		"Asia/Kolkata":      "Monday, 4 May 2026 at 12:42 (Asia/Kolkata, UTC+5:30)",
		"Pacific/Auckland":  "Monday, 4 May 2026 at 19:12 (Pacific/Auckland, UTC+12)",
		"America/St_Johns":  "Monday, 4 May 2026 at 04:42 (America/St_Johns, UTC-2:30)",
		"Europe/Lisbon":     "Monday, 4 May 2026 at 08:12 (Europe/Lisbon, UTC+1)",
		"UTC":               "Monday, 4 May 2026 at 07:12 UTC",
		"":                  "Monday, 4 May 2026 at 07:12 UTC",
		"Local":             "Monday, 4 May 2026 at 07:12 UTC",
		"Mars/Olympus":      "Monday, 4 May 2026 at 07:12 UTC",
		"../../etc/passwd":  "Monday, 4 May 2026 at 07:12 UTC",
		"Pacific/Honolulu":  "Sunday, 3 May 2026 at 21:12 (Pacific/Honolulu, UTC-10)",
		"Etc/GMT+5":         "Monday, 4 May 2026 at 02:12 (Etc/GMT+5, UTC-5)",
		"Europe/Berlin\r\n": "Monday, 4 May 2026 at 07:12 UTC",
	} {
		n := sample(notify.KindFirst)
		n.Recipient.TimeZone = zone
		m, err := notify.Compose(n)
		require.NoError(t, err)
		assert.Contains(t, strings.Join(strings.Fields(m.Text), " "), "Stopped: "+want, zone)
		assert.Contains(t, flat(m.HTML), "Stopped "+want, zone)
	}
}

// nasty are names by which somebody might hope to get more than a name.
var nasty = []string{
	"Ann\r\nBcc: everybody@evil.example",
	"Ann\nX-Evil: yes\n\n<h1>body</h1>",
	"Ann\rSubject: other",
	"Ann\u2028Bcc: everybody@evil.example",
	"Ann\u0085Bcc: everybody@evil.example",
	"Ann\x00\x1b[31m\x7f",
	`Ann" <everybody@evil.example>, "Bob`,
	"Ann <everybody@evil.example>",
	"=?utf-8?q?Ann=0D=0ABcc:_everybody@evil.example?=",
	"<script>alert(1)</script>",
	`"><img src=x onerror=alert(1)>`,
	"</style></title></td></table>{{.LinkURL}}",
	"' onmouseover='alert(1)",
	"\u202egnp.exe",
	"\xff\xfe not UTF-8",
	strings.Repeat("a", 5000),
	strings.Repeat("long name ", 500),
	strings.Repeat("ü", 400),
	"日本株式会社",
	"🏢 Büro, Söhne & Töchter (GmbH); Co.: KG",
}

func TestNamesCannotBreakOut(t *testing.T) {
	for i, name := range nasty {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			for _, kind := range notify.Kinds() {
				n := sample(kind)
				n.Recipient.Name, n.CustomerName, n.ProviderName, n.ProductName, n.Step = name, name, name, name, name
				n.Entities = []string{name, name}
				n.From = "connections@ledgerly.example" // takes the product's name
				if kind == notify.KindOperator {
					n.Problem, n.Advice, n.ConnectionID, n.CaseID, n.Links[0].Name = name, name, name, name, name
				}
				m, err := notify.Compose(n)
				require.NoError(t, err)

				plain, err := notify.Compose(sample(kind))
				require.NoError(t, err)
				assert.Equal(t, structure(plain.HTML), structure(strings.Replace(m.HTML, "Affected", "", 1)),
					"the name changed the markup")
				assert.NotContains(t, m.HTML, "ZgotmplZ")
				for _, field := range []string{m.Subject, m.ToName, m.From, m.Text, m.HTML} {
					assert.True(t, utf8.ValidString(field))
					assert.NotContains(t, field, "\u202e")
				}

				raw, err := notify.Wire(m)
				require.NoError(t, err)
				parsed, err := netmail.ReadMessage(bytes.NewReader(raw))
				require.NoError(t, err)
				wantHeaders := []string{"Auto-Submitted", "Content-Type", "Date", "From", "Message-Id", "Mime-Version",
					"Reply-To", "Subject", "To", "X-Auto-Response-Suppress", "X-Reauth-Step"}
				if n.RootMessageID != n.MessageID {
					wantHeaders = append(wantHeaders, "In-Reply-To", "References")
				}
				var headers []string
				for header, values := range parsed.Header {
					headers = append(headers, header)
					assert.Len(t, values, 1, header)
				}
				assert.ElementsMatch(t, wantHeaders, headers)
				for header, want := range map[string]string{"To": n.Recipient.Email, "From": "connections@ledgerly.example"} {
					addresses, err := parsed.Header.AddressList(header)
					require.NoError(t, err)
					require.Len(t, addresses, 1)
					assert.Equal(t, want, addresses[0].Address)
				}
				subject, err := (&mime.WordDecoder{}).DecodeHeader(parsed.Header.Get("Subject"))
				require.NoError(t, err)
				assert.Equal(t, m.Subject, subject)
				for _, line := range strings.Split(string(raw), "\r\n") {
					assert.LessOrEqual(t, len(line), 998, "a line longer than mail may have")
				}
			}
		})
	}
}

var tagName = regexp.MustCompile(`</?[a-zA-Z!][a-zA-Z0-9]*`)

// structure is the tags of a page, rows of facts aside.
func structure(html string) []string {
	html = regexp.MustCompile(`(?s)<tr>\s*<td class="label.*?</tr>`).ReplaceAllString(html, "")
	return tagName.FindAllString(html, -1)
}

func TestComposeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*notify.Notice)
		says   string
	}{
		"no product":          {func(n *notify.Notice) { n.ProductName = " \r\n" }, "ProductName"},
		"no link":             {func(n *notify.Notice) { n.LinkURL = "" }, "LinkURL"},
		"script link":         {func(n *notify.Notice) { n.LinkURL = "javascript:alert(1)" }, "LinkURL"},
		"data link":           {func(n *notify.Notice) { n.LinkURL = "data:text/html,hello" }, "LinkURL"},
		"relative link":       {func(n *notify.Notice) { n.LinkURL = "/r/abc" }, "LinkURL"},
		"link with a break":   {func(n *notify.Notice) { n.LinkURL = "https://a.example/\r\nX: y" }, "LinkURL"},
		"link with a space":   {func(n *notify.Notice) { n.LinkURL = "https://a.example/a b" }, "LinkURL"},
		"link with a user":    {func(n *notify.Notice) { n.LinkURL = "https://gusto.com@evil.example/" }, "LinkURL"},
		"no recipient":        {func(n *notify.Notice) { n.Recipient.Email = "" }, "Recipient.Email"},
		"two recipients":      {func(n *notify.Notice) { n.Recipient.Email = "a@b.example, c@d.example" }, "Recipient.Email"},
		"named recipient":     {func(n *notify.Notice) { n.Recipient.Email = "Eve <a@b.example>" }, "Recipient.Email"},
		"broken recipient":    {func(n *notify.Notice) { n.Recipient.Email = "a@b.example\r\nBcc: c@d.example" }, "Recipient.Email"},
		"no sender":           {func(n *notify.Notice) { n.From = "" }, "From"},
		"broken reply":        {func(n *notify.Notice) { n.ReplyTo = "support" }, "ReplyTo"},
		"no message ID":       {func(n *notify.Notice) { n.MessageID = "" }, "MessageID"},
		"broken message ID":   {func(n *notify.Notice) { n.MessageID = "a@b>\r\nBcc: c@d.example" }, "MessageID"},
		"broken root":         {func(n *notify.Notice) { n.RootMessageID = "root" }, "RootMessageID"},
		"unknown kind":        {func(n *notify.Notice) { n.Kind = "sms" }, "Kind"},
		"unknown cause":       {func(n *notify.Notice) { n.Kind, n.Cause = notify.KindTryAgain, "bad luck" }, "Cause"},
		"operator, no reason": {func(n *notify.Notice) { n.Kind = notify.KindOperator }, "Problem"},
		"operator, bad link": {func(n *notify.Notice) {
			n.Kind, n.Problem, n.Links = notify.KindOperator, "p", []notify.Link{{Name: "x", URL: "file:///etc/passwd"}}
		}, "Links"},
		"script to stop":     {func(n *notify.Notice) { n.StopURL = "javascript:alert(1)" }, "StopURL"},
		"stop with a break":  {func(n *notify.Notice) { n.StopURL = "https://a.example/\r\nBcc: c@d.example" }, "StopURL"},
		"two ways to stop":   {func(n *notify.Notice) { n.StopURL = "https://a.example/>,<https://b.example/" }, "StopURL"},
		"stop is too long":   {func(n *notify.Notice) { n.StopURL = "https://b.example/" + strings.Repeat("a", 900) }, "StopURL"},
		"other without link": {func(n *notify.Notice) { n.Others = []notify.Other{{ProviderName: "Gusto"}} }, "Others[0].LinkURL"},
		"other, bad link": {func(n *notify.Notice) {
			n.Others = []notify.Other{{LinkURL: "https://b.example/"}, {LinkURL: "data:text/html,hello"}}
		}, "Others[1].LinkURL"},
		"digest without own link": {func(n *notify.Notice) {
			n.LinkURL, n.Others = "", []notify.Other{{LinkURL: "https://b.example/"}}
		}, "field LinkURL"},
		"digest of fixed": {func(n *notify.Notice) {
			n.Kind, n.Others = notify.KindFixed, []notify.Other{{LinkURL: "https://b.example/"}}
		}, "Others"},
		"digest for an operator": {func(n *notify.Notice) {
			n.Kind, n.Problem, n.Others = notify.KindOperator, "p", []notify.Other{{LinkURL: "https://b.example/"}}
		}, "Others"},
		"digest of another try": {func(n *notify.Notice) {
			n.Kind, n.Others = notify.KindTryAgain, []notify.Other{{LinkURL: "https://b.example/"}}
		}, "Others"},
		"digest of too many": {func(n *notify.Notice) {
			for range 51 {
				n.Others = append(n.Others, notify.Other{LinkURL: "https://b.example/"})
			}
		}, "50"},
	} {
		t.Run(name, func(t *testing.T) {
			n := sample(notify.KindFirst)
			c.change(&n)
			m, err := notify.Compose(n)
			require.ErrorContains(t, err, c.says)
			assert.Equal(t, notify.Mail{}, m)
			assert.NotContains(t, err.Error(), "b.example")
		})
	}
}

func TestPrintingShowsNobody(t *testing.T) {
	n := digest(notify.KindFirst, 2)
	m, err := notify.Compose(n)
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		printed := fmt.Sprintf(format+format+format+format, n, m, n.Recipient, n.Others)
		assert.NotContains(t, printed, "/r/")
		assert.NotContains(t, printed, "northwind.example")
		assert.NotContains(t, printed, n.LinkURL)
	}
}

func TestMessageID(t *testing.T) {
	id := notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day-5", 1, "contact-7")
	assert.Equal(t, id, notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day-5", 1, "contact-7"), "the same each time")
	assert.Regexp(t, `^0196d2f4-5c1e\.day-5\.1\.[0-9a-f]{16}@ledgerly\.example$`, id)

	seen := []string{id}
	for _, other := range []string{
		notify.MessageID("ledgerly.example", "0196d2f4-5c1f", "day-5", 1, "contact-7"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day-2", 1, "contact-7"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day-5", 2, "contact-7"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day-5", 1, "contact-8"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day 5", 1, "contact-7"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1e", "day5", 1, "contact-7"),
		notify.MessageID("ledgerly.example", "0196d2f4-5c1ed", "ay-5", 1, "contact-7"),
	} {
		assert.NotContains(t, seen, other)
		seen = append(seen, other)
	}

	odd := notify.MessageID("evil\r\nBcc: x", "a>\r\nb", "ü", -1, "ann.smith@northwind.example")
	assert.Regexp(t, `^[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+$`, odd)
	assert.NotContains(t, odd, "northwind")
	assert.Regexp(t, `^x\.x\.0\.[0-9a-f]{16}@localhost$`, notify.MessageID("", "", "", 0, ""))
}

func TestWireGolden(t *testing.T) {
	m, err := notify.Compose(sample(notify.KindFirst))
	require.NoError(t, err)
	m.Date = time.Date(2026, 5, 4, 7, 21, 0, 0, time.UTC)
	raw, err := notify.Wire(m)
	require.NoError(t, err)
	path := filepath.Join("testdata", "first.eml")
	if *update {
		require.NoError(t, os.WriteFile(path, raw, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run: go test ./notify -run Golden -update")
	assert.Equal(t, string(want), string(raw))
}

func TestWireHasBothParts(t *testing.T) {
	n := sample(notify.KindReminder)
	n.CustomerName = "Süßwaren Ärger & Söhne " + strings.Repeat("Ö", 30)
	n.Recipient.Name = "Jürgen \"J\" Groß, Dr."
	m, err := notify.Compose(n)
	require.NoError(t, err)
	raw, err := notify.Wire(m)
	require.NoError(t, err)
	assert.False(t, bytes.ContainsFunc(raw, func(r rune) bool { return r > '~' }), "only ASCII goes over the wire")

	parsed, err := netmail.ReadMessage(bytes.NewReader(raw))
	require.NoError(t, err)
	assert.Contains(t, string(raw), "\r\nMessage-ID: <"+ownID+">\r\n", "on one line")
	assert.Contains(t, string(raw), "\r\nIn-Reply-To: <"+rootID+">\r\n", "on one line")
	assert.Contains(t, string(raw), "\r\nReferences: <"+rootID+">\r\n", "on one line")
	to, err := parsed.Header.AddressList("To")
	require.NoError(t, err)
	assert.Equal(t, n.Recipient.Name, to[0].Name)
	assert.Equal(t, "<"+ownID+">", parsed.Header.Get("Message-Id"))
	assert.Equal(t, "<"+rootID+">", parsed.Header.Get("In-Reply-To"))
	assert.Equal(t, "<"+rootID+">", parsed.Header.Get("References"))
	assert.Equal(t, "auto-generated", parsed.Header.Get("Auto-Submitted"))
	assert.Equal(t, "OOF, AutoReply", parsed.Header.Get("X-Auto-Response-Suppress"))

	kind, params, err := mime.ParseMediaType(parsed.Header.Get("Content-Type"))
	require.NoError(t, err)
	assert.Equal(t, "multipart/alternative", kind)
	parts := multipart.NewReader(parsed.Body, params["boundary"])
	for _, want := range []struct{ kind, body string }{{"text/plain", m.Text}, {"text/html", m.HTML}} {
		part, err := parts.NextRawPart()
		require.NoError(t, err)
		kind, params, err := mime.ParseMediaType(textproto.MIMEHeader(part.Header).Get("Content-Type"))
		require.NoError(t, err)
		assert.Equal(t, want.kind, kind)
		assert.Equal(t, "UTF-8", params["charset"])
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(t, err)
		assert.Equal(t, want.body, strings.ReplaceAll(string(body), "\r\n", "\n"))
	}
	_, err = parts.NextRawPart()
	assert.ErrorIs(t, err, io.EOF)
}

func TestWireRefuses(t *testing.T) {
	for name, change := range map[string]func(*notify.Mail){
		"break in subject":     func(m *notify.Mail) { m.Subject = "a\r\nBcc: b@c.example" },
		"break in name":        func(m *notify.Mail) { m.ToName = "a\nBcc: b@c.example" },
		"break in To":          func(m *notify.Mail) { m.To = "a@c.example\r\nBcc: b@c.example" },
		"two in To":            func(m *notify.Mail) { m.To = "a@c.example, b@c.example" },
		"named To":             func(m *notify.Mail) { m.To = "A <a@c.example>" },
		"break in From":        func(m *notify.Mail) { m.From = "a@c.example\r\nBcc: b@c.example" },
		"break in ReplyTo":     func(m *notify.Mail) { m.ReplyTo = "a@c.example\r\nBcc: b@c.example" },
		"break in Message-ID":  func(m *notify.Mail) { m.MessageID = "a@b>\r\nBcc: b@c.example\r\nX: <a@b" },
		"no Message-ID":        func(m *notify.Mail) { m.MessageID = "" },
		"break in In-Reply-To": func(m *notify.Mail) { m.InReplyTo = "a@b\nX: y" },
		"space in References":  func(m *notify.Mail) { m.References = []string{"a@b> <c@d"} },
		"break in header":      func(m *notify.Mail) { m.Headers["X-A"] = "a\r\nBcc: b@c.example" },
		"break in header name": func(m *notify.Mail) { m.Headers["X-A: b\r\nBcc"] = "b@c.example" },
		"Bcc by header":        func(m *notify.Mail) { m.Headers["bcc"] = "b@c.example" },
		"From by header":       func(m *notify.Mail) { m.Headers["FROM"] = "b@c.example" },
		"NUL in subject":       func(m *notify.Mail) { m.Subject = "a\x00" },
		"bad UTF-8":            func(m *notify.Mail) { m.ToName = "\xff" },
		"empty text":           func(m *notify.Mail) { m.Text = "" },
	} {
		t.Run(name, func(t *testing.T) {
			m, err := notify.Compose(sample(notify.KindFirst))
			require.NoError(t, err)
			change(&m)
			_, err = notify.Wire(m)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "c.example")
		})
	}
}

func TestLongListsAreCut(t *testing.T) {
	n := sample(notify.KindFirst)
	for i := range 30 {
		n.Entities = append(n.Entities, fmt.Sprintf("Company %d", i))
	}
	m, err := notify.Compose(n)
	require.NoError(t, err)
	assert.Contains(t, strings.Join(strings.Fields(m.Text), " "), "Company 7 and 22 more")
	assert.False(t, slices.ContainsFunc(strings.Split(m.Text, "\n"), func(line string) bool {
		return utf8.RuneCountInString(line) > 72 && !strings.Contains(line, "https://")
	}), "a line of the text is too long")
}
