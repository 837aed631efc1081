package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/chat"
	"github.com/finch-reauth/reauth/notify/chat/chatsim"
	"github.com/finch-reauth/reauth/outbound"
)

func newSim(t *testing.T) *chatsim.Server {
	t.Helper()
	sim, err := chatsim.New(chatsim.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Close()) })
	return sim
}

// here allows what listens on this machine.
func here(t *testing.T) outbound.Guard {
	t.Helper()
	guard, err := outbound.Parse(outbound.Loopback)
	require.NoError(t, err)
	return guard
}

func newChat(t *testing.T, setting string) chat.Poster {
	t.Helper()
	poster, err := chat.New(setting, here(t))
	require.NoError(t, err)
	return poster
}

// settings are the three kinds of chats that a stand-in offers.
func settings(sim *chatsim.Server) map[string]string {
	return map[string]string{
		chatsim.Slack:   sim.SlackSetting("ops"),
		chatsim.Discord: sim.DiscordSetting(),
		chatsim.Webhook: sim.WebhookSetting(),
	}
}

func sample() chat.Message {
	return chat.Message{
		Key:   "case-8f14e45f",
		Title: "Acme Bakery · Gusto: waiting for the customer",
		State: chat.Open,
		Facts: []chat.Fact{{Label: "Since", Value: "2 June, 10:00 UTC"}, {Label: "Told", Value: "2 people"}, {Label: "Cause"}},
		Lines: []string{"10:00 reported by the backend", "10:01 first notice sent"},
		Links: []chat.Link{{Name: "Case", URL: "https://reauth.example/cases/8f14?a=1&b=2"}, {Name: "Script", URL: "javascript:alert(1)"}, {Name: "Script", URL: "javascript://reauth.example/%0aalert(1)"}},
	}
}

func blocked() chat.Message {
	m := sample()
	m.State, m.Title, m.Problem = chat.NeedsOperator, "Acme Bakery · Gusto: blocked", "Our own credentials are refused."
	return m
}

// assertDiscreet checks that an error tells nothing of setting and message.
func assertDiscreet(t *testing.T, setting string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	private := []string{setting, "Acme", "refused.", "case-8f14e45f"}
	private = append(private, strings.FieldsFunc(setting, func(r rune) bool { return strings.ContainsRune("/@?=:", r) })...)
	for _, secret := range private {
		// These say no more than what kind of chat it is.
		if !slices.Contains([]string{"", "slack", "http", "https", "api", "webhooks", "hooks", "ops", "xoxb-", "#ops"}, secret) {
			assert.NotContains(t, err.Error(), secret)
		}
	}
}

func TestOneMessageThatChanges(t *testing.T) {
	for name, setting := range map[string]func(*chatsim.Server) string{
		"slack by name": func(s *chatsim.Server) string { return s.SlackSetting("ops") },
		"slack by #":    func(s *chatsim.Server) string { return s.SlackSetting("#ops") },
		"slack by ID":   func(s *chatsim.Server) string { return s.SlackSetting("C0OPS00001") },
		"discord":       (*chatsim.Server).DiscordSetting,
	} {
		t.Run(name, func(t *testing.T) {
			sim := newSim(t)
			ref, delivery, err := newChat(t, setting(sim)).Post(t.Context(), sample(), "")
			require.NoError(t, err)
			assert.Equal(t, chat.Sent, delivery)
			require.Len(t, sim.Messages(), 1)
			first := sim.Messages()[0]
			assert.Zero(t, first.Edits)
			assert.Equal(t, "#d9a406", first.Color)
			assert.Contains(t, first.Text, "⏳")
			assert.Contains(t, first.Text, "Acme Bakery · Gusto: waiting for the customer")
			assert.Contains(t, first.Text, "Since")
			assert.Contains(t, first.Text, "2 June, 10:00 UTC")
			assert.NotContains(t, first.Text, "Cause", "a fact without a value")
			assert.Contains(t, first.Text, "• 10:00 reported by the backend\n• 10:01 first notice sent")
			assert.Contains(t, first.Text, "Case (https://reauth.example/cases/8f14?a=1&b=2)")
			assert.NotContains(t, first.Text, "Script")
			assert.Contains(t, first.Text, "case-8f14e45f")
			assert.NotContains(t, ref, "Acme")
			assert.LessOrEqual(t, len(ref), 200)

			// Another process goes on from the ref alone.
			again, delivery, err := newChat(t, setting(sim)).Post(t.Context(), blocked(), ref)
			require.NoError(t, err)
			assert.Equal(t, chat.Sent, delivery)
			assert.Equal(t, ref, again)
			require.Len(t, sim.Messages(), 1)
			second := sim.Messages()[0]
			assert.Equal(t, 1, second.Edits)
			assert.Equal(t, first.ID, second.ID)
			assert.Equal(t, "#c0392b", second.Color)
			assert.Contains(t, second.Text, "⚠️")
			assert.Contains(t, second.Text, "Our own credentials are refused.")
			assert.NotContains(t, second.Text, "waiting")
		})
	}
}

// TestLooks: a state shows in mark and colour, both its own.
func TestLooks(t *testing.T) {
	sim := newSim(t)
	slack := newChat(t, sim.SlackSetting("ops"))
	ref := ""
	marks, colors := map[string]bool{}, map[string]bool{}
	for _, state := range chat.States() {
		m := sample()
		m.State = state
		var err error
		ref, _, err = slack.Post(t.Context(), m, ref)
		require.NoError(t, err)
		shown := sim.Messages()[0]
		mark, _, _ := strings.Cut(shown.Text, " ")
		marks[mark], colors[shown.Color] = true, true
	}
	assert.Len(t, marks, 4)
	assert.Len(t, colors, 4)
}

// TestSlackOnTheWire has what only the request itself shows.
func TestSlackOnTheWire(t *testing.T) {
	sim := newSim(t)
	slack := newChat(t, sim.SlackSetting("ops"))
	ref, _, err := slack.Post(t.Context(), blocked(), "")
	require.NoError(t, err)
	body := string(sim.Messages()[0].Body)
	assert.Contains(t, body, `"channel":"#ops"`)
	assert.Contains(t, body, `"unfurl_links":false`)
	assert.Contains(t, body, `"unfurl_media":false`)
	assert.Contains(t, body, `"parse":"none"`)
	assert.Contains(t, body, `"text":"⚠️ Acme Bakery · Gusto: blocked: Our own credentials are refused."`)
	assert.Contains(t, body, `<https://reauth.example/cases/8f14?a=1&amp;b=2|Case>`)
	assert.NotContains(t, body, `"verbatim":false`)

	bare := chat.Message{Title: "Bare", State: chat.Ended}
	_, _, err = slack.Post(t.Context(), bare, ref)
	require.NoError(t, err)
	body = string(sim.Messages()[0].Body)
	assert.Contains(t, body, `"channel":"C0OPS00001"`)
	assert.Contains(t, body, `"parse":"none"`)
	assert.Contains(t, body, `"attachments":[]`, "else Slack keeps those of before")
	assert.NotContains(t, body, "unfurl", "chat.update does not have it")
}

func TestDiscordOnTheWire(t *testing.T) {
	sim := newSim(t)
	discord := newChat(t, sim.DiscordSetting())
	ref, _, err := discord.Post(t.Context(), blocked(), "")
	require.NoError(t, err)
	assert.Contains(t, string(sim.Messages()[0].Body), `"allowed_mentions":{"parse":[]}`)
	_, _, err = discord.Post(t.Context(), chat.Message{Title: "Bare", State: chat.Ended}, ref)
	require.NoError(t, err)
	body := string(sim.Messages()[0].Body)
	assert.Contains(t, body, `"allowed_mentions":{"parse":[]}`)
	assert.Contains(t, body, `"embeds":[]`, "else Discord keeps those of before")
}

// TestWebhookSpeaksWhereItMatters follows a case: what is posted of it, and
// what the ref becomes.
func TestWebhookSpeaksWhereItMatters(t *testing.T) {
	const open, needs, resolved, ended = chat.Open, chat.NeedsOperator, chat.Resolved, chat.Ended
	for name, c := range map[string]struct {
		states []chat.State
		says   []chat.State
	}{
		"a plain case":           {[]chat.State{open, open, open, resolved, resolved}, []chat.State{open, resolved}},
		"expired":                {[]chat.State{open, ended}, []chat.State{open, ended}},
		"blocked from the start": {[]chat.State{needs, needs, ended}, []chat.State{needs, ended}},
		"blocked twice":          {[]chat.State{open, needs, needs, open, open, needs, resolved}, []chat.State{open, needs, needs, resolved}},
		"over at first sight":    {[]chat.State{resolved}, []chat.State{resolved}},
		"the last word":          {[]chat.State{open, ended, resolved}, []chat.State{open, ended, resolved}},
	} {
		t.Run(name, func(t *testing.T) {
			sim := newSim(t)
			ref := ""
			for i, state := range c.states {
				m := sample()
				m.State, m.Title = state, fmt.Sprintf("Step %d is %s", i, state)
				var (
					delivery chat.Delivery
					err      error
				)
				ref, delivery, err = newChat(t, sim.WebhookSetting()).Post(t.Context(), m, ref)
				require.NoError(t, err)
				require.Equal(t, chat.Sent, delivery)
				require.NotEmpty(t, ref)
			}
			var said []chat.State
			for _, message := range sim.Messages() {
				title, _, _ := strings.Cut(message.Text, "\n")
				said = append(said, chat.State(title[strings.LastIndexByte(title, ' ')+1:]))
			}
			assert.Equal(t, c.says, said)
		})
	}
}

func TestWebhookText(t *testing.T) {
	sim := newSim(t)
	_, _, err := newChat(t, sim.WebhookSetting()).Post(t.Context(), blocked(), "")
	require.NoError(t, err)
	assert.Equal(t, strings.Join([]string{
		"⚠️ Acme Bakery · Gusto: blocked",
		"Our own credentials are refused.",
		"Since: 2 June, 10:00 UTC",
		"Told: 2 people",
		"• 10:00 reported by the backend",
		"• 10:01 first notice sent",
		"Case: https://reauth.example/cases/8f14?a=1&b=2",
		"case-8f14e45f",
	}, "\n"), sim.Messages()[0].Text)
}

// TestWebhookBodies: hosts that want something else than a bare text get it.
func TestWebhookBodies(t *testing.T) {
	m := blocked()
	m.Title = "Smith & <Sons>"
	body := func(host string) string {
		text, err := json.Marshal(chat.WebhookBody(host, m))
		require.NoError(t, err)
		return string(text)
	}
	keys := func(host string) []string {
		var all map[string]any
		require.NoError(t, json.Unmarshal([]byte(body(host)), &all))
		var names []string
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	for _, host := range []string{"chat.googleapis.com", "mattermost.example", "hooks.slack.com.evil.example", "logic.azure.com.evil.example"} {
		assert.Equal(t, []string{"text"}, keys(host), host)
		assert.Contains(t, body(host), "Smith \\u0026 ‹Sons›", host)
	}
	for _, host := range []string{"hooks.slack.com", "HOOKS.slack.com"} {
		assert.Equal(t, []string{"text", "unfurl_links", "unfurl_media"}, keys(host), host)
		assert.Contains(t, body(host), "Smith \\u0026amp; \\u0026lt;Sons\\u0026gt;", host)
	}
	for _, host := range []string{"prod-15.uksouth.logic.azure.com", "default0a1b.2c.environment.api.powerplatform.com", "acme.webhook.office.com"} {
		var card struct {
			Type        string
			Attachments []struct {
				ContentType string
				Content     struct {
					Type string
					Body []struct{ Type, Text, Weight string }
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(body(host)), &card), host)
		assert.Equal(t, "message", card.Type, host)
		require.Len(t, card.Attachments, 1, host)
		assert.Equal(t, "application/vnd.microsoft.card.adaptive", card.Attachments[0].ContentType, host)
		assert.Equal(t, "AdaptiveCard", card.Attachments[0].Content.Type, host)
		lines := card.Attachments[0].Content.Body
		require.Len(t, lines, 8, host)
		assert.Equal(t, "⚠️ Smith & ‹Sons›", lines[0].Text, host)
		assert.Equal(t, "Bolder", lines[0].Weight, host)
		assert.Equal(t, "TextBlock", lines[1].Type, host)
	}
}

// TestRefs: what is no ref of this chat is taken for none, and stands until the
// message is somewhere.
func TestRefs(t *testing.T) {
	sim := newSim(t)
	all := settings(sim)
	refs := map[string]string{}
	for name, setting := range all {
		var err error
		refs[name], _, err = newChat(t, setting).Post(t.Context(), sample(), "")
		require.NoError(t, err)
	}
	require.Len(t, sim.Messages(), 3)
	wrong := []string{"nonsense", "slack:", "slack:C0OPS00001:../x", "slack:C0OPS00001:1.2:3", "discord:12x", "discord:1/2", "discord:", "webhook:gone"}
	for _, ref := range refs {
		wrong = append(wrong, ref)
	}
	for name, setting := range all {
		for _, ref := range wrong {
			if ref == refs[name] {
				continue
			}
			before := len(sim.Messages())
			again, delivery, err := newChat(t, setting).Post(t.Context(), sample(), ref)
			require.NoError(t, err, "%s with ref %q", name, ref)
			assert.Equal(t, chat.Sent, delivery)
			assert.Len(t, sim.Messages(), before+1, "%s with ref %q", name, ref)
			assert.True(t, strings.HasPrefix(again, name+":"), again)

			require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultRateLimit}))
			again, _, err = newChat(t, setting).Post(t.Context(), sample(), ref)
			require.Error(t, err)
			assert.Equal(t, ref, again)
			require.NoError(t, sim.SetKnobs(chatsim.Knobs{}))
		}
	}
}

// TestFaults has every way in which a chat fails, and what may be said about
// the message then.
func TestFaults(t *testing.T) {
	const rate, fail, drop = chatsim.FaultRateLimit, chatsim.FaultFail, chatsim.FaultDrop
	const sent, deferred, refused, unknown = chat.Sent, chat.Deferred, chat.Refused, chat.Unknown
	const slack, discord, webhook = chatsim.Slack, chatsim.Discord, chatsim.Webhook
	every := []string{slack, discord, webhook}
	for name, c := range map[string]struct {
		chats []string
		knobs chatsim.Knobs
		// post is what becomes of a new message, update of a change ("" where
		// the chat has none); kept is whether the chat has the new message.
		post, update chat.Delivery
		kept         bool
		wait         time.Duration
		says         string
	}{
		"rate limit":       {every, chatsim.Knobs{Fault: rate, RetryAfter: 7 * time.Second}, deferred, deferred, false, 7 * time.Second, "429"},
		"drop, taken":      {every, chatsim.Knobs{Fault: drop}, unknown, deferred, true, 0, "the connection was closed"},
		"drop, not taken":  {every, chatsim.Knobs{Fault: drop, Discard: true}, unknown, deferred, false, 0, "the connection was closed"},
		"500":              {every, chatsim.Knobs{Fault: fail}, unknown, deferred, false, 0, "answered 500"},
		"502":              {every, chatsim.Knobs{Fault: fail, Status: 502}, unknown, deferred, false, 0, "answered 502"},
		"503":              {every, chatsim.Knobs{Fault: fail, Status: 503}, deferred, deferred, false, 0, "answered 503"},
		"408":              {every, chatsim.Knobs{Fault: fail, Status: 408}, deferred, deferred, false, 0, "answered 408"},
		"302":              {every, chatsim.Knobs{Fault: fail, Status: 302}, refused, refused, false, 0, "answered 302: it has moved"},
		"403":              {every, chatsim.Knobs{Fault: fail, Status: 403}, refused, refused, false, 0, "answered 403"},
		"413":              {every, chatsim.Knobs{Fault: fail, Status: 413}, refused, refused, false, 0, "answered 413"},
		"gateway's words":  {every, chatsim.Knobs{Fault: fail, Status: 502, Error: "bad_gateway"}, unknown, deferred, false, 0, "answered 502"},
		"gone webhook":     {[]string{webhook}, chatsim.Knobs{Fault: fail, Status: 410, Error: "channel_is_archived"}, refused, "", false, 0, "answered 410"},
		"webhook deleted":  {[]string{discord}, chatsim.Knobs{Fault: fail, Status: 404, Error: "10015"}, refused, refused, false, 0, "code 10015): the webhook is gone"},
		"too many edits":   {[]string{discord}, chatsim.Knobs{Fault: fail, Status: 400, Error: "30046"}, deferred, deferred, false, 30 * time.Second, "code 30046"},
		"unknown code":     {[]string{discord}, chatsim.Knobs{Fault: fail, Status: 400, Error: "99999"}, refused, refused, false, 0, "answered 400"},
		"ratelimited":      {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "ratelimited"}, deferred, deferred, false, 30 * time.Second, "ratelimited"},
		"rate_limited":     {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "rate_limited"}, deferred, deferred, false, 30 * time.Second, "rate_limited"},
		"migration":        {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "team_added_to_org"}, deferred, deferred, false, 30 * time.Second, "team_added_to_org"},
		"internal_error":   {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "internal_error"}, unknown, deferred, false, 0, "internal_error"},
		"fatal with 500":   {[]string{slack}, chatsim.Knobs{Fault: fail, Status: 500, Error: "fatal_error"}, unknown, deferred, false, 0, "fatal_error"},
		"invalid_auth":     {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "invalid_auth"}, refused, refused, false, 0, "invalid_auth: the bot's token is wrong"},
		"token_revoked":    {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "token_revoked"}, refused, refused, false, 0, "token_revoked: the bot's token is no longer valid"},
		"missing_scope":    {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "missing_scope"}, refused, refused, false, 0, "missing_scope: the bot needs the scope chat:write"},
		"channel":          {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "channel_not_found"}, refused, refused, false, 0, "channel_not_found: the channel does not exist"},
		"not_in_channel":   {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "not_in_channel"}, refused, refused, false, 0, "not_in_channel: invite the bot"},
		"archived":         {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "is_archived"}, refused, refused, false, 0, "is_archived: the channel is archived"},
		"auth with 403":    {[]string{slack}, chatsim.Knobs{Fault: fail, Status: 403, Error: "invalid_auth"}, refused, refused, false, 0, "invalid_auth"},
		"unknown word":     {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "brand_new_error"}, refused, refused, false, 0, "brand_new_error"},
		"echo of a secret": {[]string{slack}, chatsim.Knobs{Fault: fail, Error: "no xoxb-123 for Acme"}, refused, refused, false, 0, "an error whose name is not a word"},
	} {
		for _, kind := range c.chats {
			t.Run(name+" at "+kind, func(t *testing.T) {
				sim := newSim(t)
				setting := settings(sim)[kind]
				poster := newChat(t, setting)
				check := func(m chat.Message, ref string, want chat.Delivery) {
					t.Helper()
					require.NoError(t, sim.SetKnobs(c.knobs))
					again, delivery, err := poster.Post(t.Context(), m, ref)
					require.NoError(t, sim.SetKnobs(chatsim.Knobs{}))
					assert.Equal(t, want, delivery)
					assert.Equal(t, ref, again, "the ref stands until the message does elsewhere")
					require.Error(t, err)
					assert.Contains(t, err.Error(), c.says)
					assert.Equal(t, c.wait, chat.RetryAfter(err))
					assertDiscreet(t, setting, err)
				}
				check(sample(), "", c.post)
				kept := 0
				if c.kept {
					kept = 1
				}
				assert.Len(t, sim.Messages(), kept)
				for _, message := range sim.Messages() {
					sim.Delete(message.ID)
				}

				ref, delivery, err := poster.Post(t.Context(), sample(), "")
				require.NoError(t, err)
				require.Equal(t, sent, delivery)
				if want := c.update; kind == webhook {
					check(blocked(), ref, c.post) // there it is a new message, too
				} else {
					check(blocked(), ref, want)
				}

				// Once all is well, the same again is shown.
				_, delivery, err = poster.Post(t.Context(), blocked(), ref)
				require.NoError(t, err)
				assert.Equal(t, sent, delivery)
				messages := sim.Messages()
				assert.Contains(t, messages[len(messages)-1].Text, "blocked")
				if kind != webhook {
					assert.Len(t, messages, 1)
				}
			})
		}
	}
}

// TestPostedAgain: what cannot be changed any more is posted anew, where the
// setting says.
func TestPostedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		setting func(*chatsim.Server) string
		knobs   chatsim.Knobs
	}{
		"slack, deleted":         {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{}},
		"slack, another's":       {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{Error: "cant_update_message"}},
		"slack, too old":         {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{Error: "edit_window_closed"}},
		"slack, channel gone":    {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{Error: "channel_not_found"}},
		"slack, archived":        {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{Error: "is_inactive"}},
		"discord, deleted":       {(*chatsim.Server).DiscordSetting, chatsim.Knobs{}},
		"discord, another's":     {(*chatsim.Server).DiscordSetting, chatsim.Knobs{Status: 403, Error: "50005"}},
		"discord, archived":      {(*chatsim.Server).DiscordSetting, chatsim.Knobs{Status: 400, Error: "50083"}},
		"discord, old message":   {(*chatsim.Server).DiscordSetting, chatsim.Knobs{Status: 404, Error: "10008"}},
		"slack, message missing": {func(s *chatsim.Server) string { return s.SlackSetting("ops") }, chatsim.Knobs{Error: "message_not_found"}},
	} {
		t.Run(name, func(t *testing.T) {
			sim := newSim(t)
			poster := newChat(t, c.setting(sim))
			ref, _, err := poster.Post(t.Context(), sample(), "")
			require.NoError(t, err)
			first := sim.Messages()[0]
			if c.knobs.Error == "" {
				require.True(t, sim.Delete(first.ID))
			} else {
				c.knobs.Fault, c.knobs.On, c.knobs.Times = chatsim.FaultFail, chatsim.CallUpdate, 1
				require.NoError(t, sim.SetKnobs(c.knobs))
			}

			again, delivery, err := poster.Post(t.Context(), blocked(), ref)
			require.NoError(t, err)
			assert.Equal(t, chat.Sent, delivery)
			assert.NotEqual(t, ref, again)
			messages := sim.Messages()
			newest := messages[len(messages)-1]
			assert.NotEqual(t, first.ID, newest.ID)
			assert.Contains(t, newest.Text, "blocked")

			// The new ref is the one that counts.
			_, _, err = poster.Post(t.Context(), sample(), again)
			require.NoError(t, err)
			assert.Len(t, sim.Messages(), len(messages))
			assert.Equal(t, 1, sim.Messages()[len(messages)-1].Edits)
		})
	}
}

// TestRefusedForm: a chat that does not take the details of a message, for
// whatever reason, gets the gist of it.
func TestRefusedForm(t *testing.T) {
	for _, c := range []struct {
		kind   string
		status int
		word   string
	}{
		{chatsim.Slack, 0, "invalid_blocks"},
		{chatsim.Slack, 0, "invalid_blocks_format"},
		{chatsim.Slack, 0, "invalid_attachments"},
		{chatsim.Slack, 0, "attachment_payload_limit_exceeded"},
		{chatsim.Slack, 0, "msg_blocks_too_long"},
		{chatsim.Slack, 0, "msg_too_long"},
		{chatsim.Discord, 400, "50035"},
	} {
		sim := newSim(t)
		poster := newChat(t, settings(sim)[c.kind])
		knobs := chatsim.Knobs{Fault: chatsim.FaultFail, Status: c.status, Error: c.word, Times: 1}
		require.NoError(t, sim.SetKnobs(knobs))
		ref, delivery, err := poster.Post(t.Context(), sample(), "")
		require.NoError(t, err, c.word)
		assert.Equal(t, chat.Sent, delivery)
		require.NoError(t, sim.SetKnobs(knobs))
		_, delivery, err = poster.Post(t.Context(), blocked(), ref)
		require.NoError(t, err, c.word)
		assert.Equal(t, chat.Sent, delivery)
		require.Len(t, sim.Messages(), 1)
		assert.Contains(t, sim.Messages()[0].Text, "Acme Bakery · Gusto: blocked")
		assert.NotContains(t, sim.Messages()[0].Text, "first notice sent")
		assert.Equal(t, 1, sim.Messages()[0].Edits)

		knobs.Times = 0
		require.NoError(t, sim.SetKnobs(knobs))
		_, delivery, err = poster.Post(t.Context(), sample(), "")
		assert.Equal(t, chat.Refused, delivery)
		require.ErrorContains(t, err, c.word)
		assert.Equal(t, 4, sim.Struck(), "it is tried no more than twice")
	}
}

// TestPostedAgainUnknown: where the message in place of one that is gone may or
// may not have been taken, that is said.
func TestPostedAgainUnknown(t *testing.T) {
	for _, kind := range []string{chatsim.Slack, chatsim.Discord} {
		sim := newSim(t)
		poster := newChat(t, settings(sim)[kind])
		ref, _, err := poster.Post(t.Context(), sample(), "")
		require.NoError(t, err)
		require.True(t, sim.Delete(sim.Messages()[0].ID))
		require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultDrop, On: chatsim.CallPost}))
		_, delivery, err := poster.Post(t.Context(), sample(), ref)
		require.Error(t, err)
		assert.Equal(t, chat.Unknown, delivery, kind)
	}
}

func TestUnfitMessages(t *testing.T) {
	sim := newSim(t)
	for name, setting := range settings(sim) {
		for _, m := range []chat.Message{{State: chat.Open}, {State: chat.Open, Title: " \n\u202e"}, {Title: "Acme"}, {Title: "Acme", State: "lost"}} {
			ref, delivery, err := newChat(t, setting).Post(t.Context(), m, "some ref")
			require.Error(t, err, name)
			assert.Equal(t, chat.Refused, delivery, name)
			assert.Equal(t, "some ref", ref, name)
			assertDiscreet(t, setting, err)
		}
	}
	assert.Empty(t, sim.Messages())
}

// TestGivesUpWithItsContext ends a post that the chat has and never answers, and
// one that has not begun.
func TestGivesUpWithItsContext(t *testing.T) {
	for _, kind := range []string{chatsim.Slack, chatsim.Discord, chatsim.Webhook} {
		t.Run(kind, func(t *testing.T) {
			sim := newSim(t)
			setting := settings(sim)[kind]
			require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultHang}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				assert.NoError(t, sim.AwaitStruck(ctx, 1))
				cancel()
			}()
			_, delivery, err := newChat(t, setting).Post(ctx, sample(), "")
			assert.Equal(t, chat.Unknown, delivery)
			require.ErrorIs(t, err, context.Canceled)
			assertDiscreet(t, setting, err)

			_, delivery, err = newChat(t, setting).Post(ctx, sample(), "")
			assert.Equal(t, chat.Deferred, delivery, "nothing was sent")
			require.ErrorIs(t, err, context.Canceled)
			assertDiscreet(t, setting, err)
			assert.Equal(t, 1, sim.Struck())
		})
	}
}

// TestGivesUpByItself: a chat that takes connections and says nothing holds up
// nobody for ever.
func TestGivesUpByItself(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	for _, setting := range at("http://" + listener.Addr().String()) {
		poster := newChat(t, setting)
		require.Equal(t, 15*time.Second, chat.SetTimeout(poster, 50*time.Millisecond))
		_, delivery, err := poster.Post(t.Context(), sample(), "")
		require.Error(t, err)
		assert.Contains(t, []chat.Delivery{chat.Unknown, chat.Deferred}, delivery)
		assert.Contains(t, err.Error(), "it took too long")
		assertDiscreet(t, setting, err)
	}
}

// at returns a setting of each kind for a server on this machine.
func at(url string) map[string]string {
	return map[string]string{
		chatsim.Slack:   "slack://xoxb-12345678-abcdefgh@ops?api=" + url,
		chatsim.Discord: url + "/api/webhooks/1234567/s3cr3t-t0ken",
		chatsim.Webhook: url + "/services/T000/B000/s3cr3t-t0ken",
	}
}

// TestNotSent: what never got as far as the chat may be sent again.
func TestNotSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	for _, setting := range at("http://" + address) {
		_, delivery, err := newChat(t, setting).Post(t.Context(), sample(), "")
		assert.Equal(t, chat.Deferred, delivery)
		require.ErrorContains(t, err, "not sent: connection refused")
		assertDiscreet(t, setting, err)
		assert.NotContains(t, err.Error(), "127.0.0.1")
	}
	for _, setting := range []string{"https://s3cr3t-host.invalid/hooks/abcdefgh", "https://discord.com:1/api/webhooks/1234567/s3cr3t-t0ken"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing of this goes to a network
		_, delivery, err := newChat(t, setting).Post(ctx, sample(), "")
		assert.Equal(t, chat.Deferred, delivery)
		require.Error(t, err)
		assertDiscreet(t, setting, err)
	}
}

// TestCertificates: a host that cannot prove who it is gets nothing.
func TestCertificates(t *testing.T) {
	asked := false
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	for _, setting := range at(server.URL) {
		_, delivery, err := newChat(t, setting).Post(t.Context(), sample(), "")
		assert.Equal(t, chat.Deferred, delivery)
		require.ErrorContains(t, err, "the certificate of the host is not valid")
		assertDiscreet(t, setting, err)
	}
	assert.False(t, asked)
}

// TestOddAnswers: a chat, or something in front of it, may answer anything.
func TestOddAnswers(t *testing.T) {
	const slack, discord, webhook = chatsim.Slack, chatsim.Discord, chatsim.Webhook
	endless := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"ok":true,"channel":"C0OPS00001","ts":"1.2","id":"12","filler":"`))
		for chunk := []byte(strings.Repeat("x", 64<<10)); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	text := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   map[string]chat.Delivery
	}{
		"endless":        {endless, map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"nothing":        {text(200, ""), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"a page":         {text(200, "<html>Log in to the guest network</html>"), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"another type":   {text(200, `{"ok":"yes","id":12,"ts":{}}`), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"no place":       {text(200, `{"ok":true}`), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"odd place":      {text(200, `{"ok":true,"channel":"../x","ts":"1.2","id":"../../x"}`), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"not ok":         {text(200, `{"ok":false,"channel":"C0OPS00001","ts":"1.2"}`), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"no content":     {text(204, ""), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"accepted":       {text(202, ""), map[string]chat.Delivery{slack: chat.Unknown, discord: chat.Unknown, webhook: chat.Sent}},
		"a refused page": {text(403, "<html>Acme</html>"), map[string]chat.Delivery{slack: chat.Refused, discord: chat.Refused, webhook: chat.Refused}},
		"all well":       {text(200, `{"ok":true,"channel":"C0OPS00001","ts":"1.2","id":"12"}`), map[string]chat.Delivery{slack: chat.Sent, discord: chat.Sent, webhook: chat.Sent}},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.Close)
			for kind, setting := range at(server.URL) {
				_, delivery, err := newChat(t, setting).Post(t.Context(), sample(), "")
				assert.Equal(t, c.want[kind], delivery, kind)
				assert.Equal(t, delivery == chat.Sent, err == nil, kind)
				assertDiscreet(t, setting, err)
			}
		})
	}
}

// TestRedirects: a message, and the token with it, goes nowhere else.
func TestRedirects(t *testing.T) {
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(other.URL, status))
		for _, setting := range at(server.URL) {
			_, delivery, err := newChat(t, setting).Post(t.Context(), sample(), "")
			assert.Equal(t, chat.Refused, delivery)
			require.ErrorContains(t, err, "it has moved")
			assertDiscreet(t, setting, err)
			assert.NotContains(t, err.Error(), other.URL)
		}
		server.Close()
	}
	assert.Zero(t, elsewhere)
}

func TestRetryAfter(t *testing.T) {
	const date = "Tue, 02 Jun 2026 10:00:00 GMT"
	for value, want := range map[string]time.Duration{
		"":                              30 * time.Second,
		"1":                             time.Second,
		"64.5":                          64500 * time.Millisecond,
		"0":                             30 * time.Second,
		"-5":                            30 * time.Second,
		"NaN":                           30 * time.Second,
		"Inf":                           time.Hour,
		"soon":                          30 * time.Second,
		"86400":                         time.Hour,
		"Tue, 02 Jun 2026 10:00:42 GMT": 42 * time.Second,
		"Tue, 02 Jun 2026 09:00:00 GMT": 30 * time.Second,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.Header().Set("Date", date)
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		for _, setting := range at(server.URL) {
			_, _, err := newChat(t, setting).Post(t.Context(), sample(), "")
			assert.Equal(t, want, chat.RetryAfter(err), value)
			assert.Equal(t, want, chat.RetryAfter(fmt.Errorf("tell the operators: %w", err)), value)
		}
		server.Close()
	}
	assert.Zero(t, chat.RetryAfter(nil))
	assert.Zero(t, chat.RetryAfter(errors.New("other")))
}

// nasty is what somebody may have called a company.
const nasty = "<!channel> <!here|x> <@U0123456> <!subteam^S012> <users/all> @channel @here @everyone @all " +
	"<https://evil.example|Gusto> [Gusto](https://evil.example) &lt;!channel&gt; `x` *x* ~x~ _x_ ||x|| \\<@1> \u202egnp.exe \u200b\x00\r\n> quote"

// TestInjection: whatever a text holds, it is shown as it stands, calls nobody
// and hides no address behind another name.
func TestInjection(t *testing.T) {
	sim := newSim(t)
	m := chat.Message{
		Key: nasty, Title: nasty, State: chat.NeedsOperator, Problem: nasty, Lines: []string{nasty},
		Facts: []chat.Fact{{Label: nasty, Value: nasty}},
		Links: []chat.Link{{Name: nasty, URL: "https://reauth.example/a|b(c)*d*?x=1&y=2"}, {Name: "a|b", URL: "https://reauth.example/@channel"}},
	}
	for name, setting := range settings(sim) {
		for range 2 { // posted, and then changed
			_, delivery, err := newChat(t, setting).Post(t.Context(), m, "")
			require.NoError(t, err, name)
			require.Equal(t, chat.Sent, delivery, name)
		}
	}
	for _, message := range sim.Messages() {
		pings := slices.DeleteFunc(slices.Clone(message.Pings), func(ping string) bool {
			// Within an address it calls nobody.
			return message.Service == chatsim.Webhook && strings.Contains(message.Text, "https://reauth.example/"+ping)
		})
		assert.Empty(t, pings, message.Service)
		assert.NotContains(t, message.Text, "Gusto (https://evil.example)", message.Service)
		assert.NotContains(t, message.Text, "\u202e", message.Service)
		assert.NotContains(t, message.Text, "\u200b", message.Service)
		assert.NotContains(t, message.Text, "\x00", message.Service)
		assert.Contains(t, message.Text, "https://reauth.example/a%7Cb%28c%29%2Ad%2A?x=1&y=2", message.Service)
	}
}

func TestMarkup(t *testing.T) {
	for _, c := range []struct {
		in, slack, discord, neutral string
	}{
		{"Acme Bakery", "Acme Bakery", "Acme Bakery", "Acme Bakery"},
		{"Smith & <Sons>", "Smith &amp; &lt;Sons&gt;", `Smith & \<Sons\>`, "Smith & ‹Sons›"},
		{"&lt;!here&gt;", "&amp;lt;!here&amp;gt;", "&lt;!here&gt;", "&lt;!here&gt;"},
		{"*b* ~s~ `c`", "∗b∗ ∼s∼ ˋcˋ", "\\*b\\* \\~s\\~ \\`c\\`", "*b* ~s~ ˋcˋ"},
		{`a\b`, `a\b`, `a\\b`, `a\b`},
		{"[x](https://e.example)", "[x](https://e.example)", `\[x\]\(https\://e.example\)`, "[x]\u2060(https://e.example)"},
		{"@here", "@here", `\@here`, "@\u2060here"},
		{" a\t\r\n b\u00a0 c ", "a b c", "a b c", "a b c"},
		{"a\u2060\u200b\ufeff\u202eb\x00c", "ab c", "ab c", "ab c"},
		{"bad\xffbyte", "badbyte", "badbyte", "badbyte"},
		{"", "", "", ""},
	} {
		assert.Equal(t, c.slack, chat.SlackText(c.in, 100), "%q", c.in)
		assert.Equal(t, c.discord, chat.DiscordText(c.in, 100), "%q", c.in)
		assert.Equal(t, c.neutral, chat.NeutralText(c.in, 100), "%q", c.in)
	}
}

// TestCut: a text is cut between characters, and an escape is never torn.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdef", 5, "abcd…"},
		{"abcdef", 1, "…"},
		{"ab cdef", 4, "ab…"},
		{"äöüß", 4, "äöüß"},
		{"äöüß", 3, "äö…"},
		{"日本語", 2, "日…"},
		{"😀😀😀", 6, "😀😀😀"}, // two units each
		{"😀😀😀", 5, "😀😀…"},
		{"😀😀😀", 4, "😀…"},
		{"&&&", 15, "&amp;&amp;&amp;"},
		{"&&&", 14, "&amp;&amp;…"},
		{"&&&", 10, "&amp;…"},
		{"&&&", 5, "…"},
	} {
		got := chat.SlackText(c.in, c.limit)
		assert.Equal(t, c.want, got, "%q within %d", c.in, c.limit)
		assert.True(t, utf8.ValidString(got))
	}
}

// TestLongest: however much there is to say, the chats take it.
func TestLongest(t *testing.T) {
	for _, filler := range []string{"x", "&", "😀", "日", "*", "\\", "\"", "é ", nasty} {
		long := strings.Repeat(filler, 2000/len(filler)+1)
		m := chat.Message{Key: long, Title: long, State: chat.NeedsOperator, Problem: long}
		for i := range 20 {
			m.Facts = append(m.Facts, chat.Fact{Label: long, Value: long})
			m.Lines = append(m.Lines, fmt.Sprintf("line %d %s", i, long))
			for _, n := range []int{220, 270} {
				m.Links = append(m.Links, chat.Link{Name: long, URL: "https://reauth.example/" + strings.Repeat("u", n)})
			}
			m.Links = append(m.Links, chat.Link{Name: "too long", URL: "https://reauth.example/" + strings.Repeat("t", 3000)})
		}
		sim := newSim(t)
		for kind, setting := range settings(sim) {
			ref, delivery, err := newChat(t, setting).Post(t.Context(), m, "")
			require.NoError(t, err, "%s full of %.5q", kind, filler)
			assert.Equal(t, chat.Sent, delivery)
			m.State = chat.Ended
			_, _, err = newChat(t, setting).Post(t.Context(), m, ref)
			require.NoError(t, err, "%s full of %.5q", kind, filler)
		}
		for _, message := range sim.Messages() {
			has := func(part string) bool { return strings.Contains(message.Text, part) } // which prints less
			assert.True(t, utf8.ValidString(message.Text))
			assert.True(t, has("https://reauth.example/uuu"), message.Service)
			assert.False(t, has("ttt"), "an address that was cut leads nowhere")
			assert.True(t, has("line 19 ") && !has("line 0 "), "the newest lines")
		}
	}
}

func TestCheck(t *testing.T) {
	const token = "xoxb-123456789012-abcDEF"
	const wanted = "want slack://xoxb-TOKEN@CHANNEL"
	for setting, says := range map[string]string{
		"slack://" + token + "@C0123456789":                               "",
		"slack://" + token + "@ops-reauth":                                "",
		"slack://" + token + "@#ops_reauth":                               "",
		"slack://" + token + "@büro":                                      "",
		"slack://" + token + "@ops?api=http://127.0.0.1:8080":             "",
		"slack://" + token + "@ops?api=http://localhost:8080/":            "",
		"slack://" + token + "@ops?api=http%3A%2F%2F%5B%3A%3A1%5D%3A8080": "",
		"https://discord.com/api/webhooks/1234/s3cr3t_t0-ken":             "",
		"https://discord.com/api/v10/webhooks/1234/s3cr3t/":               "",
		"https://canary.discord.com/api/webhooks/1234/s3cr3t?thread_id=1": "",
		"https://discord.com/api/webhooks/1234/s3cr3t?wait=true":          "",
		"https://hooks.slack.com/services/T0/B0/s3cr3tt0ken":              "",
		"https://chat.example:8443/hooks/s3cr3t?sig=t0ken%3D":             "",
		"http://127.0.0.1:8065/hooks/s3cr3t":                              "",
		"http://localhost:8065/hooks/s3cr3t":                              "",
		"http://[::1]:8065/hooks/s3cr3t":                                  "",
		"http://127.0.0.1:8065/api/webhooks/1234/s3cr3t":                  "",

		"":                                   wanted,
		"s3cr3t":                             wanted,
		"://s3cr3t":                          wanted,
		"https://hooks.example/s3cr3t%zz":    "not a URL",
		"https://hooks.example/s3cr3t t0ken": "a space",
		"https://hooks.example/s3cr3t\n":     "a control character",
		"https://hooks.example/" + strings.Repeat("s3", 1000):    "longer than 2000 bytes",
		"ftp://hooks.example/s3cr3t":                             "does not begin with slack:// or https://",
		"http://hooks.example/s3cr3t":                            "must begin with https://",
		"http://127.0.0.1.evil.example/s3cr3t":                   "must begin with https://",
		"http://localhost.evil.example/s3cr3t":                   "must begin with https://",
		"https:///s3cr3t":                                        "names no host",
		"https://user:s3cr3t@hooks.example/":                     "in front of the host",
		"https://hooks.example/#s3cr3t":                          "after a #",
		"https://discord.com/s3cr3t":                             "want https://discord.com/api/webhooks/ID/TOKEN",
		"https://discord.com/api/webhooks/1234/s3cr3t/slack":     "want https://discord.com/api/webhooks/ID/TOKEN",
		"https://discord.com/api/webhooks/1234/s3cr3t?x=t0k":     "unknown option",
		"https://discord.com/api/webhooks/1234/s3?thread_id=t0k": "unknown option",

		"slack://" + token:                                         "no @",
		"slack://@ops":                                             "no bot token",
		"slack://xoxp-123456789012-abcDEF@ops":                     "no bot token",
		"slack://user:" + token + "@ops":                           "no bot token",
		"slack://" + token + "@":                                   "no channel",
		"slack://" + token + "@#":                                  "no channel",
		"slack://" + token + "@ops/s3cr3t":                         "no channel",
		"slack://" + token + "@" + strings.Repeat("x", 81):         "no channel",
		"slack://" + token + "@Ops":                                "in capitals",
		"slack://" + token + "@ops?api=https://slack.evil.example": "not an address of this machine",
		"slack://" + token + "@ops?api=http://127.0.0.1:80/s3cr3t": "not an address of this machine",
		"slack://" + token + "@ops?api=http://s3cr3t@127.0.0.1":    "not an address of this machine",
		"slack://" + token + "@ops?api=s3cr3t":                     "not an address of this machine",
		"slack://" + token + "@ops?proxy=s3cr3t":                   "unknown option",
		"slack://" + token + "@ops?api=%zz":                        "malformed option",
	} {
		err := chat.Check(setting)
		if says == "" {
			assert.NoError(t, err, setting)
			continue
		}
		require.Error(t, err, setting)
		assert.Contains(t, err.Error(), says, setting)
		assert.True(t, strings.HasPrefix(err.Error(), "chat "), err.Error())
		for _, secret := range []string{"s3cr3t", "t0k", "evil", "123456789012", "s3s3", "user"} {
			if secret != "user" || !strings.Contains(says, "in front") {
				assert.NotContains(t, err.Error(), secret, setting)
			}
		}
	}
}

// TestDiscordAddress: whatever the form of the setting, the version of the API
// is one that counts in seconds.
func TestDiscordAddress(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		_, _ = w.Write([]byte(`{"id":"77"}`))
	}))
	t.Cleanup(server.Close)
	for _, path := range []string{"/api/webhooks/12/tok", "/api/v6/webhooks/12/tok/?thread_id=5&wait=false"} {
		ref, _, err := newChat(t, server.URL+path).Post(t.Context(), sample(), "")
		require.NoError(t, err)
		_, _, err = newChat(t, server.URL+path).Post(t.Context(), sample(), ref)
		require.NoError(t, err)
	}
	assert.Equal(t, []string{
		"POST /api/v10/webhooks/12/tok?wait=true",
		"PATCH /api/v10/webhooks/12/tok/messages/77",
		"POST /api/v10/webhooks/12/tok?thread_id=5&wait=true",
		"PATCH /api/v10/webhooks/12/tok/messages/77?thread_id=5",
	}, asked)
}

// TestRequests: what a webhook is asked is what its setting says.
func TestRequests(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "POST /hooks/a%2Fb?sig=x%3D&sp=%2Frun", r.Method+" "+r.URL.String())
		assert.Equal(t, "application/json; charset=utf-8", r.Header.Get("Content-Type"))
		assert.Equal(t, "reauth", r.Header.Get("User-Agent"))
		assert.Empty(t, r.Header.Get("Authorization"))
	}))
	t.Cleanup(server.Close)
	_, delivery, err := newChat(t, server.URL+"/hooks/a%2Fb?sig=x%3D&sp=%2Frun").Post(t.Context(), sample(), "")
	require.NoError(t, err)
	assert.Equal(t, chat.Sent, delivery)
}

// TestPrinted: the setting shows in nothing that prints the chat.
func TestPrinted(t *testing.T) {
	for kind, setting := range at("http://127.0.0.1:8080") {
		poster := newChat(t, setting)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			for _, text := range []string{fmt.Sprintf(verb, poster), fmt.Sprintf(verb, struct{ P chat.Poster }{poster}), fmt.Sprintf(verb, []any{poster})} {
				for _, secret := range []string{"s3cr3t", "xoxb-", "12345678", "8080", fmt.Sprintf("%x", "s3cr3t")} {
					assert.NotContains(t, text, secret, "%s as %s", kind, verb)
				}
			}
		}
		written, err := json.Marshal(poster)
		require.NoError(t, err)
		assert.Equal(t, "{}", string(written))
		assert.Contains(t, fmt.Sprint(poster), "chat (")
	}
}
