package e2e

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/web"
)

// contactsBox is where an operators' page names a customer's people.
var contactsBox = regexp.MustCompile(`(?s)<ul class="people">.*?</ul>`)

// 4: nothing that our processes write holds a secret or an address in plain
// text. This walks through everything a case can do, and then reads every byte
// that it left behind.
func TestNothingSecretInTheClear(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	provider := newIdentityProvider(t)
	s := newStack(t, func(o *options) {
		o.signIn = &web.SignIn{ByKey: true, OpenID: &web.OpenID{Issuer: provider.URL, ClientID: "reauth", ClientSecret: oidcSecret, Allow: []string{"email:" + operatorsMail}}}
	})
	b := s.browser()
	secret := map[string]string{
		"the client secret":                     clientSecret,
		"the webhook secret":                    webhookSecret,
		"the API key":                           apiKey,
		"the customer's mail":                   customerMail,
		"the identity provider's client secret": oidcSecret,
		"a code that is junk":                   "planted-junk-code",
		"a code in a bad place":                 "planted code with spaces",
	}

	// A whole path, with what can go wrong on it.
	c := s.stale()
	secret["the old token"] = c.token
	s.report(c, map[string]any{"token_fingerprint": reauth.Fingerprint(c.token)})
	link := s.link()
	secret["the link's secret"] = strings.TrimPrefix(link, s.url+"/r/")
	connect := s.toConnect(b, link)
	s.faults(finchsim.Fault{Endpoint: "POST /auth/token", Kind: finchsim.FaultServerError})
	s.settle(b, b.get(s.url+"/callback?code=planted-junk-code&state="+url.QueryEscape(connect.url.Query().Get("state"))))
	s.signal(c, reauth.SignalCodeReceived, reauth.CodeReceived{Code: secret["a code in a bad place"]})
	b.get(s.url + "/callback?code=" + url.QueryEscape(secret["a code in a bad place"]))
	s.settle(b, b.press(s.toConnect(b, link), "authorize-other"))
	s.settle(b, b.press(s.toConnect(b, link), "authorize"))
	require.Equal(t, reauth.OutcomeRecovered, s.result(c).Outcome)
	_, answer := s.call(http.MethodGet, "/v1/connections/"+c.id+"/token", nil)
	secret["the new token"] = fmt.Sprint(answer["access_token"])
	// The way round by RedeemWorkflow, and API calls that go wrong.
	require.NoError(t, s.sim.Break(c.id))
	s.report(c, nil)
	s.awaitPhase(c, reauth.PhaseAwaitingCustomer)
	s.knobs(func(k *finchsim.Knobs) { k.EchoState = false })
	connect = s.toConnect(b, link)
	stranger := s.browser()
	s.settle(stranger, stranger.press(connect, "authorize"))
	s.result(c)
	for i, code := range append(b.codes, stranger.codes...) {
		secret[fmt.Sprintf("code %d", i)] = code
	}
	_, answer = s.call(http.MethodGet, "/v1/connections/"+c.id+"/token", nil)
	secret["the newest token"] = fmt.Sprint(answer["access_token"])
	s.call(http.MethodPut, "/v1/connections/"+c.id, map[string]any{"access_token": "planted token", "contacts": []map[string]any{{"email": customerMail + " oops"}}})
	s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth", map[string]any{"source": "api_error", "token_fingerprint": c.token})
	s.request(http.MethodGet, "/v1/cases", nil, "planted-wrong-key")
	secret["a wrong API key"] = "planted-wrong-key"
	secret["a malformed token"] = "planted token"
	secret["a state"] = connect.url.Query().Get("state")
	s.importSecrets(secret)
	s.webhookSecrets(c, secret)
	s.apiKeySecrets(c, secret)
	operators := s.operatorSecrets(c, provider, secret)
	for i, token := range s.minted.all() {
		secret[fmt.Sprintf("minted token %d", i)] = token
	}
	require.GreaterOrEqual(t, len(s.minted.all()), 3, "the foreign account's token is among them")
	require.NotEmpty(t, rowsOf(t, s.dbURL, "quarantined_tokens"))
	require.GreaterOrEqual(t, len(secret), 35)

	left := map[string]string{
		"the log":   s.logs.String(),
		"the pages": b.seen.String() + stranger.seen.String(),
		"Temporal":  s.everythingInTemporal(c),
		// Operators see who the customer's people are, in one box.
		"the operators' pages, without the contacts": contactsBox.ReplaceAllString(operators.seen.String(), ""),
	}
	families, err := s.metrics.Gather()
	require.NoError(t, err)
	left["the worker's metrics"] = fmt.Sprint(families)
	require.Contains(t, left["the worker's metrics"], "temporal_")
	_, metrics := s.request(http.MethodGet, "/metrics", nil, apiKey)
	left["the metrics"] = string(metrics)
	for table, text := range everyRow(t, s.dbURL) {
		left["the table "+table] = text
	}
	for where, text := range left {
		require.NotEmpty(t, text, "%s", where)
		for what, value := range secret {
			if strings.HasSuffix(what, " mail") && where == "the table contacts" {
				assert.Contains(t, text, value, "the scan does see what is there")
				continue
			}
			assert.False(t, strings.Contains(text, value), "%s is in plain text in %s: …%s…", what, where, around(text, value))
		}
	}
	require.NoError(t, ctx.Err())
}

// importSecrets imports tokens: one that works, one of a stale connection, one of
// nobody, and rows that are wrong.
func (s *stack) importSecrets(secret map[string]string) {
	s.t.Helper()
	good, goodToken, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: "Imported"})
	require.NoError(s.t, err)
	stale, staleToken, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: "Stale"})
	require.NoError(s.t, err)
	require.NoError(s.t, s.sim.Break(stale.ID))
	secret["an imported token"], secret["an imported stale token"] = goodToken, staleToken
	secret["an imported junk token"], secret["an imported malformed token"] = "planted-imported-junk", "planted imported token"
	secret["an imported mail"], secret["an imported address that is none"] = "planted.imported@acme.example", "planted.imported.bad"
	lines := `{"connection_id":"` + good.ID + `","access_token":"` + goodToken + `","contacts":[{"email":"planted.imported@acme.example"}]}
{"access_token":"` + staleToken + `"}
{"access_token":"planted-imported-junk"}
{"connection_id":"imp-1","access_token":"planted imported token"}
{"connection_id":"imp-2","contacts":[{"email":"planted.imported.bad"}]}
{"planted-imported-junk":"planted-imported-junk","connection_id":"imp-3"}
`
	request, err := http.NewRequest(http.MethodPost, s.url+"/v1/connections:import?import_id=planted", strings.NewReader(lines))
	require.NoError(s.t, err)
	request.Header.Set("Authorization", "Bearer "+apiKey)
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, response.StatusCode, "%s", answer)
	require.NotContains(s.t, string(answer), "planted-imported")
	require.NotContains(s.t, string(answer), "planted.imported")
	s.eventually("the tokens were asked about", func() bool {
		rows := strings.Join(rowsOf(s.t, s.dbURL, "staged_tokens"), "\n")
		return strings.Contains(rows, `"adopted"`) && strings.Contains(rows, `"rejected"`)
	})
}

// webhookSecrets sends events: one that Finch signed, and forged ones.
func (s *stack) webhookSecrets(c customer, secret map[string]string) {
	s.t.Helper()
	secret["another's webhook secret"] = base64.StdEncoding.EncodeToString([]byte("planted-other-webhook-secret"))
	send := func(by string, body string) int {
		request, err := http.NewRequest(http.MethodPost, s.url+"/webhooks/finch", strings.NewReader(body))
		require.NoError(s.t, err)
		request.Header = finch.SignWebhook(by, "msg_"+uuid.NewString(), time.Now(), []byte(body))
		secret["a signature "+body] = request.Header.Get(finch.HeaderSignature)
		response, err := http.DefaultClient.Do(request)
		require.NoError(s.t, err)
		require.NoError(s.t, response.Body.Close())
		return response.StatusCode
	}
	require.Equal(s.t, http.StatusOK, send(webhookSecret, `{"event_type":"account.updated","connection_id":"`+c.id+`","data":{"status":"connected"}}`))
	require.Equal(s.t, http.StatusUnauthorized, send(secret["another's webhook secret"], `{"event_type":"account.updated","data":{"status":"planted"}}`))
}

// apiKeySecrets uses API keys: a good one, a revoked one and a mistyped one.
func (s *stack) apiKeySecrets(c customer, secret map[string]string) {
	s.t.Helper()
	ctx := context.Background()
	for _, name := range []string{"good", "revoked"} {
		key := secrets.NewAPIKey()
		secret["the API key "+name] = key
		made, err := s.db.CreateAPIKey(ctx, db.APIKey{Name: "planted-" + name, Scopes: web.Scopes()}, secrets.HashAPIKey(key))
		require.NoError(s.t, err)
		if name == "revoked" {
			require.NoError(s.t, s.db.RevokeAPIKey(ctx, made.ID))
		}
		status, _ := s.request(http.MethodPost, "/v1/reports", map[string]any{"source": "manual", "token_fingerprint": reauth.Fingerprint(c.token)}, key)
		require.Equal(s.t, name == "revoked", status == http.StatusUnauthorized)
		mistyped := key[:len(key)-1] + string(key[len(key)-1]^1)
		secret["the API key "+name+", mistyped"] = mistyped
		s.request(http.MethodGet, "/v1/cases", nil, mistyped)
	}
}

// operatorSecrets signs operators in and walks through their pages.
func (s *stack) operatorSecrets(c customer, provider *identityProvider, secret map[string]string) *browser {
	s.t.Helper()
	ada, bob := s.browser(), s.browser()
	p := ada.get(s.url + "/operator/openid?next=" + url.QueryEscape("/operator/connections/"+c.id))
	require.Contains(s.t, p.body, "Ada Ops")
	require.Contains(s.t, p.body, customerMail, "the box of the contacts is there")
	ada.get(s.url + "/operator?show=all")
	ada.get(s.url + "/operator?find=" + url.QueryEscape(c.id))
	ada.get(s.url + "/operator/openid/return?code=planted-oidc-junk&state=planted-oidc-state")
	p = bob.get(s.url + "/operator/sign-in")
	for _, key := range []string{"planted-wrong-operator-key", apiKey} {
		request, err := http.NewRequest(http.MethodPost, p.url.String(), strings.NewReader(url.Values{"key": {key}}.Encode()))
		require.NoError(s.t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		bob.do(request)
	}
	ours, err := url.Parse(s.url)
	require.NoError(s.t, err)
	for who, b := range map[string]*browser{"Ada": ada, "Bob": bob} {
		found := b.client.Jar.Cookies(ours)
		require.NotEmpty(s.t, found, who)
		for _, cookie := range found {
			secret["the cookie "+cookie.Name+" of "+who] = cookie.Value
		}
	}
	secret["the identity provider's code"], secret["the identity provider's access token"] = oidcCode, oidcToken
	secret["a junk code of the identity provider"], secret["a state that is none"] = "planted-oidc-junk", "planted-oidc-state"
	secret["the operator's address"], secret["an operator's wrong key"] = operatorsMail, "planted-wrong-operator-key"
	provider.mu.Lock()
	defer provider.mu.Unlock()
	require.NotEmpty(s.t, provider.given)
	for i, token := range provider.given {
		secret[fmt.Sprintf("ID token %d", i)] = token
	}
	ada.seen.Write(bob.seen.Bytes())
	return ada
}

func around(text, value string) string {
	i := strings.Index(text, value)
	if i < 0 {
		return ""
	}
	return text[max(0, i-120):min(len(text), i+len(value)+40)]
}

// everythingInTemporal is every history of the stack's workflows and what
// visibility says of them, with every payload's bytes beside its base64.
func (s *stack) everythingInTemporal(c customer) string {
	s.t.Helper()
	ctx := context.Background()
	var text strings.Builder
	var runs int
	s.eventually("visibility has caught up", func() bool {
		text.Reset()
		runs = 0
		list, err := s.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("TaskQueue = %q", s.taskQueue),
		})
		require.NoError(s.t, err)
		for _, execution := range list.GetExecutions() {
			runs++
			text.WriteString(protojson.Format(execution))
			h := s.history(execution.GetExecution().GetWorkflowId(), execution.GetExecution().GetRunId())
			text.WriteString(protojson.Format(h))
			payloads(h.ProtoReflect(), func(p *commonpb.Payload) { text.Write(p.GetData()); text.WriteByte('\n') })
		}
		return runs >= 3
	})
	require.Contains(s.t, text.String(), c.id)
	return text.String()
}

// payloads visits every payload in a message.
func payloads(m protoreflect.Message, visit func(*commonpb.Payload)) {
	if p, ok := m.Interface().(*commonpb.Payload); ok {
		visit(p)
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Kind() == protoreflect.MessageKind {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					payloads(v.Message(), visit)
					return true
				})
			}
		case field.Kind() == protoreflect.MessageKind && field.IsList():
			for i := range value.List().Len() {
				payloads(value.List().Get(i).Message(), visit)
			}
		case field.Kind() == protoreflect.MessageKind:
			payloads(value.Message(), visit)
		}
		return true
	})
}

// everyRow reads every table, in text and with its bytes decoded.
func everyRow(t *testing.T, address string) map[string]string {
	t.Helper()
	conn, err := sql.Open("postgres", address)
	require.NoError(t, err)
	defer conn.Close()
	rows, err := conn.Query(`SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'`)
	require.NoError(t, err)
	var tables []string
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		tables = append(tables, name)
	}
	require.NoError(t, rows.Err())
	require.Greater(t, len(tables), 10)
	out := map[string]string{}
	for _, table := range tables {
		var text strings.Builder
		rows, err := conn.Query(`SELECT row_to_json(t)::text, t::text FROM "` + table + `" t`)
		require.NoError(t, err)
		for rows.Next() {
			var object, row string
			require.NoError(t, rows.Scan(&object, &row))
			text.WriteString(object + "\n" + row + "\n")
			var values map[string]any
			require.NoError(t, json.Unmarshal([]byte(object), &values))
			for _, v := range values {
				if hex, ok := strings.CutPrefix(fmt.Sprint(v), `\x`); ok {
					var raw []byte
					if _, err := fmt.Sscanf(hex, "%x", &raw); err == nil {
						text.Write(raw)
					}
				}
			}
		}
		require.NoError(t, rows.Err())
		if text.Len() > 0 {
			out[table] = text.String()
		}
	}
	return out
}
