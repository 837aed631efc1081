package finch_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
)

// The test vector of Finch's own SDKs.
const (
	vectorSecret    = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
	vectorID        = "msg_2Lh9KRb0pzN4LePd3XiA4v12Axj"
	vectorTime      = 1676312382
	vectorBody      = `{"company_id":"720be419-0293-4d32-a707-32179b0827ab"}`
	vectorSignature = "v1,m7y0TV2C+hlHxU42wCieApTSTaA8/047OAplBqxIV/s="
)

func vectorHeader() http.Header {
	h := http.Header{}
	h.Set("finch-event-id", vectorID)
	h.Set("finch-timestamp", fmt.Sprint(vectorTime))
	h.Set("finch-signature", vectorSignature)
	return h
}

func TestVerifyWebhook(t *testing.T) {
	other := base64.StdEncoding.EncodeToString([]byte("another secret"))
	with := func(name string, values ...string) http.Header {
		h := vectorHeader()
		h[name] = values
		return h
	}
	for name, tc := range map[string]struct {
		secrets []string
		header  http.Header
		body    string
		after   time.Duration // from the timestamp to now
		want    error
	}{
		"Finch's test vector":             {header: vectorHeader()},
		"300 seconds old":                 {header: vectorHeader(), after: 300 * time.Second},
		"300 seconds early":               {header: vectorHeader(), after: -300 * time.Second},
		"301 seconds old":                 {header: vectorHeader(), after: 301 * time.Second, want: finch.ErrWebhookLate},
		"301 seconds early":               {header: vectorHeader(), after: -301 * time.Second, want: finch.ErrWebhookLate},
		"a forgery that is late":          {secrets: []string{other}, header: vectorHeader(), after: time.Hour, want: finch.ErrWebhook},
		"rotation, the new secret signs":  {header: with("Finch-Signature", vectorSignature+" v1,b3RoZXI=")},
		"rotation, the other order":       {header: with("Finch-Signature", "v1,b3RoZXI= "+vectorSignature)},
		"rotation, in two header lines":   {header: with("Finch-Signature", "v1,b3RoZXI=", vectorSignature)},
		"rotation, we have both secrets":  {secrets: []string{other, vectorSecret}, header: vectorHeader()},
		"one of our secrets is malformed": {secrets: []string{"%%%", vectorSecret}, header: vectorHeader()},
		"another secret":                  {secrets: []string{other}, header: vectorHeader(), want: finch.ErrWebhook},
		"another body":                    {header: vectorHeader(), body: vectorBody + " ", want: finch.ErrWebhook},
		"another event ID":                {header: with("Finch-Event-Id", "msg_other"), want: finch.ErrWebhook},
		"another timestamp":               {header: with("Finch-Timestamp", fmt.Sprint(vectorTime+1)), want: finch.ErrWebhook},
		"another version":                 {header: with("Finch-Signature", strings.Replace(vectorSignature, "v1", "v2", 1)), want: finch.ErrWebhook},
		"no version":                      {header: with("Finch-Signature", strings.TrimPrefix(vectorSignature, "v1,")), want: finch.ErrWebhook},
		"empty signature":                 {header: with("Finch-Signature", "v1,"), want: finch.ErrWebhook},
		"no signature":                    {header: with("Finch-Signature"), want: finch.ErrWebhook},
		"no event ID":                     {header: with("Finch-Event-Id"), want: finch.ErrWebhook},
		"no timestamp":                    {header: with("Finch-Timestamp"), want: finch.ErrWebhook},
		"timestamp that is no number":     {header: with("Finch-Timestamp", "yesterday"), want: finch.ErrWebhook},
		"timestamp beyond numbers":        {header: with("Finch-Timestamp", "99999999999999999999"), want: finch.ErrWebhook},
		"nothing at all":                  {header: http.Header{}, want: finch.ErrWebhook},
		"we have no secret":               {secrets: []string{}, header: vectorHeader(), want: finch.ErrWebhookSecret},
		"our only secret is empty":        {secrets: []string{""}, header: vectorHeader(), want: finch.ErrWebhookSecret},
		"our only secret is not base64":   {secrets: []string{"not base64!"}, header: vectorHeader(), want: finch.ErrWebhookSecret},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.secrets == nil {
				tc.secrets = []string{vectorSecret}
			}
			if tc.body == "" {
				tc.body = vectorBody
			}
			id, err := finch.VerifyWebhook(tc.secrets, tc.header, []byte(tc.body), time.Unix(vectorTime, 0).Add(tc.after))
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
				assert.Equal(t, errors.Is(tc.want, finch.ErrWebhookLate), errors.Is(err, finch.ErrWebhookLate))
				assert.Equal(t, !errors.Is(tc.want, finch.ErrWebhookSecret), errors.Is(err, finch.ErrWebhook))
				assert.Empty(t, id)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, vectorID, id)
		})
	}
}

func TestSignWebhook(t *testing.T) {
	at := time.Unix(vectorTime, 0)
	h := finch.SignWebhook(vectorSecret, vectorID, at, []byte(vectorBody))
	assert.Equal(t, vectorSignature, h.Get("Finch-Signature"))
	assert.Equal(t, "1676312382", h.Get("Finch-Timestamp"))
	assert.Equal(t, vectorID, h.Get("Finch-Event-Id"))

	require.NoError(t, finch.CheckWebhookSecret(vectorSecret))
	for _, secret := range []string{"", "not base64!"} {
		err := finch.CheckWebhookSecret(secret)
		require.Error(t, err)
		if secret != "" {
			assert.NotContains(t, err.Error(), secret)
		}
		_, err = finch.VerifyWebhook([]string{vectorSecret, secret}, finch.SignWebhook(secret, vectorID, at, nil), nil, at)
		require.ErrorIs(t, err, finch.ErrWebhook)
	}
}

func TestParseEvent(t *testing.T) {
	for name, tc := range map[string]struct {
		body   string
		want   finch.Event
		reauth bool
	}{
		"stale, method as a string": {
			`{"company_id":"c","account_id":"a","connection_id":"conn-1","entity_id":null,"event_type":"account.updated","data":{"status":"reauth","authentication_method":"credential"}}`,
			finch.Event{Type: "account.updated", ConnectionID: "conn-1", CompanyID: "c", AccountID: "a", Status: "reauth", AuthenticationMethod: "credential"}, true,
		},
		"method as an object": {
			`{"connection_id":"conn-1","entity_id":"e-1","event_type":"account.updated","data":{"authentication_method":{"type":"oauth","supported_fields":{}},"status":"connected"}}`,
			finch.Event{Type: "account.updated", ConnectionID: "conn-1", EntityID: "e-1", Status: "connected", AuthenticationMethod: "oauth"}, false,
		},
		"a status that SDKs do not know": {
			`{"event_type":"account.updated","connection_id":"conn-1","data":{"status":"disconnected","authentication_method":null}}`,
			finch.Event{Type: "account.updated", ConnectionID: "conn-1", Status: "disconnected"}, false,
		},
		"the status of earlier years": {
			`{"event_type":"account.updated","data":{"status":"error_reauth","authentication_method":7}}`,
			finch.Event{Type: "account.updated", Status: "error_reauth"}, true,
		},
		"a job": {
			`{"event_type":"job.data_sync_all.completed","connection_id":"conn-1","data":{"job_id":"j-1","job_url":"https://api.tryfinch.com/jobs/automated/j-1"}}`,
			finch.Event{Type: "job.data_sync_all.completed", ConnectionID: "conn-1", JobID: "j-1", JobURL: "https://api.tryfinch.com/jobs/automated/j-1"}, false,
		},
		"the dashboard's test": {`{"event_type":"test"}`, finch.Event{Type: "test"}, false},
		"an unknown type is not an account update": {
			`{"event_type":"account.created","data":{"status":"reauth"}}`, finch.Event{Type: "account.created", Status: "reauth"}, false,
		},
		"fields of other types": {
			`{"event_type":"test","connection_id":5,"data":[1]}`, finch.Event{Type: "test"}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := finch.ParseEvent([]byte(tc.body))
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
			assert.Equal(t, tc.reauth, got.NeedsReauth())
			assert.Equal(t, strings.HasPrefix(tc.want.Type, "job."), got.IsJob())
		})
	}
	for _, body := range []string{"", "null", "[]", `"x"`, "{", `{"data":{}}`, `{"event_type":""}`, `{"event_type":5}`} {
		_, err := finch.ParseEvent([]byte(body))
		require.Error(t, err, body)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, body := range []string{
		`{"event_type":"account.updated","connection_id":"c","data":{"status":"reauth","authentication_method":"credential"}}`,
		`{"event_type":"account.updated","data":{"status":"reauth","authentication_method":{"type":"oauth"}}}`,
		`{"event_type":"job.data_sync_all.completed","data":{"job_id":"j","job_url":"u"}}`,
		`{"event_type":"test","data":null}`, `{"event_type":["x"]}`, `{}`, ``, `[`, "{\"event_type\":\"\xff\"}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := finch.ParseEvent(body)
		if (err == nil) != (e.Type != "") {
			t.Errorf("%+v, %v", e, err)
		}
		if err != nil && e != (finch.Event{}) {
			t.Errorf("an event beside the error %v: %+v", err, e)
		}
		if e.NeedsReauth() && e.Type != finch.EventAccountUpdated {
			t.Errorf("%s asks for a new login", e.Type)
		}
	})
}

func FuzzVerifyWebhook(f *testing.F) {
	f.Add([]byte("key"), vectorID, int64(vectorTime), vectorSignature, []byte(vectorBody))
	f.Add([]byte{0}, "", int64(0), "", []byte{})
	f.Add([]byte("key"), "a.b", int64(-1), "v1,", []byte("."))
	f.Add([]byte("key"), "id", int64(1)<<62, "v1,a v1,b  v2,c", []byte("{}"))
	f.Fuzz(func(t *testing.T, key []byte, id string, stamp int64, given string, body []byte) {
		secret := base64.StdEncoding.EncodeToString(key)
		at := time.Unix(stamp, 0)
		right := finch.SignWebhook(secret, id, at, body)
		got, err := finch.VerifyWebhook([]string{secret}, right, body, at)
		if usable := id != "" && len(key) > 0; usable && (err != nil || got != id) || !usable && err == nil {
			t.Errorf("our own signature: %q, %v", got, err)
		}
		// A signature that is not the right one is refused, however it looks.
		forged := right.Clone()
		forged.Set(finch.HeaderSignature, given)
		got, err = finch.VerifyWebhook([]string{secret}, forged, body, at)
		if err == nil && !strings.Contains(given, right.Get(finch.HeaderSignature)) || err != nil && got != "" {
			t.Errorf("forged signature %q: %q, %v", given, got, err)
		}
	})
}
