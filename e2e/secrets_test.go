package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// 4: nothing that our processes write holds a secret or an address in plain
// text. This walks through everything a case can do, and then reads every byte
// that it left behind.
func TestNothingSecretInTheClear(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newStack(t)
	b := s.browser()
	secret := map[string]string{
		"the client secret":     clientSecret,
		"the webhook secret":    webhookSecret,
		"the API key":           apiKey,
		"the customer's mail":   customerMail,
		"a code that is junk":   "planted-junk-code",
		"a code in a bad place": "planted code with spaces",
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
	time.Sleep(200 * time.Millisecond)
	require.GreaterOrEqual(t, len(secret), 15)

	left := map[string]string{
		"the log":   s.logs.String(),
		"the pages": b.seen.String() + stranger.seen.String(),
		"Temporal":  s.everythingInTemporal(c),
	}
	_, metrics := s.request(http.MethodGet, "/metrics", nil, apiKey)
	left["the metrics"] = string(metrics)
	for table, text := range everyRow(t, s.dbURL) {
		left["the table "+table] = text
	}
	for where, text := range left {
		require.NotEmpty(t, text, "%s", where)
		for what, value := range secret {
			if what == "the customer's mail" && where == "the table contacts" {
				assert.Contains(t, text, value, "the scan does see what is there")
				continue
			}
			assert.False(t, strings.Contains(text, value), "%s is in plain text in %s: …%s…", what, where, around(text, value))
		}
	}
	require.NoError(t, ctx.Err())
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
