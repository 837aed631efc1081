package chatsim_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/chat/chatsim"
)

func newSim(t *testing.T, options chatsim.Options) *chatsim.Server {
	t.Helper()
	sim, err := chatsim.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Close()) })
	return sim
}

// api returns where Slack's methods and Discord's webhook are.
func api(sim *chatsim.Server) (slack, token, discord string) {
	setting, base, _ := strings.Cut(sim.SlackSetting("ops"), "?api=")
	token, _, _ = strings.Cut(strings.TrimPrefix(setting, "slack://"), "@")
	return base + "/api/", token, strings.Replace(sim.DiscordSetting(), "/api/", "/api/v10/", 1)
}

// call makes a request and returns status and answer; 0 where there is none.
func call(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, strings.TrimSpace(string(answer))
}

// block is a section with a text of n characters.
func block(n int) string {
	return `{"type":"section","text":{"type":"mrkdwn","verbatim":true,"text":"` + strings.Repeat("x", n) + `"}}`
}

func TestSlackIsStrict(t *testing.T) {
	sim := newSim(t, chatsim.Options{Channels: map[string]string{"ops": "C0OPS00001", "dev": "C0DEV00001"}})
	slack, token, _ := api(sim)
	blocks := func(of ...string) string {
		return `{"channel":"ops","text":"t","blocks":[` + strings.Join(of, ",") + `]}`
	}
	many := func(n int, of string) []string {
		return strings.Split(strings.TrimSuffix(strings.Repeat(of+"\n", n), "\n"), "\n")
	}
	for name, c := range map[string]struct{ token, body, want string }{
		"no token":         {"", blocks(block(1)), "not_authed"},
		"wrong token":      {"xoxb-other", blocks(block(1)), "invalid_auth"},
		"not JSON":         {token, "text=hi", "invalid_json"},
		"no channel":       {token, `{"text":"hi"}`, "channel_not_found"},
		"unknown channel":  {token, `{"channel":"#sales","text":"hi"}`, "channel_not_found"},
		"nothing to say":   {token, `{"channel":"ops"}`, "no_text"},
		"long block":       {token, blocks(block(3001)), "invalid_blocks"},
		"empty block":      {token, blocks(block(0)), "invalid_blocks"},
		"51 blocks":        {token, blocks(many(51, block(1))...), "invalid_blocks"},
		"all too long":     {token, blocks(many(5, block(2900))...), "msg_blocks_too_long"},
		"unknown block":    {token, blocks(`{"type":"marquee"}`), "invalid_blocks"},
		"11 fields":        {token, blocks(`{"type":"section","fields":[` + strings.Join(many(11, `{"type":"mrkdwn","text":"x"}`), ",") + `]}`), "invalid_blocks"},
		"long field":       {token, blocks(`{"type":"section","fields":[{"type":"mrkdwn","text":"` + strings.Repeat("x", 2001) + `"}]}`), "invalid_blocks"},
		"in an attachment": {token, `{"channel":"ops","text":"t","attachments":[{"blocks":[` + block(3001) + `]}]}`, "invalid_blocks"},
	} {
		status, answer := call(t, http.MethodPost, slack+"chat.postMessage", c.token, c.body)
		assert.Equal(t, http.StatusOK, status, name)
		assert.JSONEq(t, `{"ok":false,"error":"`+c.want+`"}`, answer, name)
	}
	assert.Empty(t, sim.Messages())

	_, answer := call(t, http.MethodPost, slack+"chat.postMessage", token, `{"channel":"#dev","text":"hi"}`)
	var at struct {
		OK          bool
		Channel, TS string
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &at))
	assert.True(t, at.OK)
	assert.Equal(t, "C0DEV00001", at.Channel)
	for body, want := range map[string]string{
		`{"channel":"dev","ts":"` + at.TS + `","text":"changed"}`:                                  "channel_not_found",
		`{"channel":"C0OPS00001","ts":"` + at.TS + `","text":"changed"}`:                           "message_not_found",
		`{"channel":"C0DEV00001","ts":"1.1","text":"changed"}`:                                     "message_not_found",
		`{"channel":"C0DEV00001","ts":"` + at.TS + `","text":"` + strings.Repeat("x", 4001) + `"}`: "msg_too_long",
	} {
		_, answer := call(t, http.MethodPost, slack+"chat.update", token, body)
		assert.JSONEq(t, `{"ok":false,"error":"`+want+`"}`, answer)
	}
	assert.Equal(t, "hi", sim.Messages()[0].Text)
	assert.Zero(t, sim.Messages()[0].Edits)
}

func TestDiscordIsStrict(t *testing.T) {
	sim := newSim(t, chatsim.Options{})
	_, _, discord := api(sim)
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		url, body string
		status    int
		says      string
	}{
		{discord + "x", `{"content":"hi"}`, 401, "50027"},
		{strings.Replace(discord, "/webhooks/1", "/webhooks/2", 1), `{"content":"hi"}`, 404, "10015"},
		{discord, `hi`, 400, "50035"},
		{discord, `{}`, 400, "50006"},
		{discord, `{"content":"` + long(2001) + `"}`, 400, "50035"},
		{discord, `{"content":"x","embeds":[{"color":1}]}`, 400, "50035"},
		{discord, `{"embeds":[{"description":"` + long(4097) + `"}]}`, 400, "50035"},
		{discord, `{"embeds":[{"fields":[{"name":"","value":"x"}]}]}`, 400, "50035"},
		{discord, `{"embeds":[{"fields":[{"name":"x","value":"` + long(1025) + `"}]}]}`, 400, "50035"},
		{discord, `{"embeds":[{"description":"` + long(4000) + `","footer":{"text":"` + long(2001) + `"}}]}`, 400, "50035"},
	} {
		status, answer := call(t, http.MethodPost, c.url+"?wait=true", "", c.body)
		assert.Equal(t, c.status, status, "%.100s", c.body)
		assert.Contains(t, answer, c.says, "%.100s", c.body)
	}
	status, _ := call(t, http.MethodPatch, discord+"/messages/12", "", `{"content":"hi"}`)
	assert.Equal(t, http.StatusNotFound, status)
	assert.Empty(t, sim.Messages())

	status, answer := call(t, http.MethodPost, discord, "", `{"content":"hi"}`)
	assert.Equal(t, http.StatusNoContent, status, "without wait")
	assert.Empty(t, answer)
	assert.Len(t, sim.Messages(), 1)
}

func TestWebhookIsStrict(t *testing.T) {
	sim := newSim(t, chatsim.Options{})
	for _, c := range []struct {
		url, body string
		status    int
		says      string
	}{
		{sim.WebhookSetting() + "x", `{"text":"hi"}`, 404, "no_service"},
		{sim.WebhookSetting(), `hi`, 400, "invalid_payload"},
		{sim.WebhookSetting(), `{}`, 400, "no_text"},
		{sim.WebhookSetting(), `{"text":"` + strings.Repeat("x", 4001) + `"}`, 400, "msg_too_long"},
		{sim.WebhookSetting(), `{"text":"hi"}`, 200, "ok"},
	} {
		status, answer := call(t, http.MethodPost, c.url, "", c.body)
		assert.Equal(t, c.status, status)
		assert.Equal(t, c.says, answer)
	}
	assert.Len(t, sim.Messages(), 1)
}

// TestPings: what would call somebody is seen, else no test that looks for it
// means anything.
func TestPings(t *testing.T) {
	sim := newSim(t, chatsim.Options{})
	slack, token, discord := api(sim)
	section := func(text, more string) string {
		return `{"channel":"ops","text":"t","parse":"none","blocks":[{"type":"section","text":{"type":"mrkdwn",` + more + `"text":"` + text + `"}}]}`
	}
	for _, c := range []struct {
		url, body string
		want      []string
	}{
		{slack + "chat.postMessage", section("<!channel> <@U1>", `"verbatim":true,`), []string{"<!channel>", "<@U1>"}},
		{slack + "chat.postMessage", section("@here", ""), []string{"@here"}},
		{slack + "chat.postMessage", section("@here &lt;!here&gt;", `"verbatim":true,`), nil},
		{slack + "chat.postMessage", `{"channel":"ops","text":"<!here>"}`, []string{"<!here>"}},
		{discord, `{"content":"@everyone <@&12>"}`, []string{"@everyone", "<@&12>"}},
		{discord, `{"content":"@everyone","allowed_mentions":{}}`, []string{"@everyone"}},
		{discord, `{"content":"@everyone","allowed_mentions":{"parse":["everyone"]}}`, []string{"@everyone"}},
		{discord, `{"content":"@everyone","allowed_mentions":{"parse":[]}}`, nil},
		{sim.WebhookSetting(), `{"text":"@all <!here> <users/all> @ all"}`, []string{"@all", "<!here>", "<users/all>"}},
	} {
		_, _ = call(t, http.MethodPost, c.url, token, c.body)
		messages := sim.Messages()
		require.NotEmpty(t, messages)
		assert.Equal(t, c.want, messages[len(messages)-1].Pings, c.body)
	}
	assert.Len(t, sim.Messages(), 9)
}

func TestKnobs(t *testing.T) {
	sim := newSim(t, chatsim.Options{})
	for _, k := range []chatsim.Knobs{
		{Fault: "explode"}, {On: "delete"}, {RetryAfter: -1}, {RetryAfter: time.Millisecond}, {Status: 200}, {Status: 600}, {Times: -1},
	} {
		require.Error(t, sim.SetKnobs(k), "%+v", k)
	}

	post := func() int {
		status, _ := call(t, http.MethodPost, sim.WebhookSetting(), "", `{"text":"hi"}`)
		return status
	}
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultFail, On: chatsim.CallUpdate}))
	assert.Equal(t, 200, post(), "another kind of call")
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultFail, Times: 2}))
	assert.Equal(t, 500, post())
	assert.Equal(t, 500, post())
	assert.Equal(t, 200, post(), "the third time")
	assert.Equal(t, 2, sim.Struck())
	assert.Len(t, sim.Messages(), 2)

	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultDrop, Times: 1}))
	assert.Zero(t, post())
	assert.Len(t, sim.Messages(), 3, "taken")
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultDrop, Discard: true}))
	assert.Zero(t, post())
	assert.Len(t, sim.Messages(), 3, "not taken")
	assert.Equal(t, 4, sim.Struck())

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, sim.AwaitStruck(ended, 5), context.Canceled)
	require.NoError(t, sim.AwaitStruck(ended, 4))
}

// TestHang: a call that hangs goes on when the knobs change, or ends with the
// stand-in.
func TestHang(t *testing.T) {
	sim := newSim(t, chatsim.Options{})
	post := func() <-chan int {
		status := make(chan int, 1)
		go func() {
			got, _ := call(t, http.MethodPost, sim.WebhookSetting(), "", `{"text":"hi"}`)
			status <- got
		}()
		return status
	}
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultHang}))
	status := post()
	require.NoError(t, sim.AwaitStruck(t.Context(), 1))
	assert.Len(t, sim.Messages(), 1)
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{Fault: chatsim.FaultHang, Discard: true}))
	assert.Equal(t, 200, <-status)

	status = post()
	require.NoError(t, sim.AwaitStruck(t.Context(), 2))
	require.NoError(t, sim.Close())
	assert.Zero(t, <-status)
	assert.Len(t, sim.Messages(), 1)
	require.NoError(t, sim.Close(), "a second time")
	require.NoError(t, sim.SetKnobs(chatsim.Knobs{}), "afterwards")
}

func TestSecrets(t *testing.T) {
	sim, other := newSim(t, chatsim.Options{}), newSim(t, chatsim.Options{})
	all := sim.SlackSetting("ops") + sim.DiscordSetting() + sim.WebhookSetting()
	require.Len(t, sim.Secrets(), 2)
	for i, secret := range sim.Secrets() {
		assert.Contains(t, all, secret)
		assert.NotEqual(t, secret, other.Secrets()[i])
	}
}
