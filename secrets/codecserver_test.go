package secrets_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const uiOrigin = "http://localhost:8233"

func allow(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer key" }

type request struct {
	method, path, origin, authorization string
	body                                []byte
}

func (r request) do(h http.Handler) *httptest.ResponseRecorder {
	req := httptest.NewRequest(r.method, r.path, bytes.NewReader(r.body))
	if r.origin != "" {
		req.Header.Set("Origin", r.origin)
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func sealedBody(t *testing.T, keys *secrets.Keys) []byte {
	t.Helper()
	payloads, err := keys.DataConverter().ToPayloads(reauth.Input{ConnectionID: "con-1"})
	require.NoError(t, err)
	body, err := protojson.Marshal(payloads)
	require.NoError(t, err)
	return body
}

func TestTheCodecServerDecodesAndEncodes(t *testing.T) {
	keys := load(t, generate(t))
	handler := keys.CodecHandler([]string{uiOrigin}, allow)

	w := request{"POST", "/codec/decode", uiOrigin, "Bearer key", sealedBody(t, keys)}.do(handler)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, uiOrigin, w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "true", w.Header().Get("Access-Control-Allow-Credentials"))
	require.Equal(t, "Origin", w.Header().Get("Vary"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var decoded commonpb.Payloads
	require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &decoded))
	require.JSONEq(t, `{"connection_id":"con-1"}`, string(decoded.Payloads[0].Data))

	w = request{"POST", "/codec/encode", "", "Bearer key", w.Body.Bytes()}.do(handler)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"), "no browser asked")
	var encoded commonpb.Payloads
	require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &encoded))
	require.Equal(t, sealedEncoding, encodingOf(encoded.Payloads[0]))
}

func TestTemporalsOwnRemoteCodecUnderstandsTheServer(t *testing.T) {
	keys := load(t, generate(t))
	server := httptest.NewServer(keys.CodecHandler(nil, allow))
	defer server.Close()
	remote := converter.NewRemotePayloadCodec(converter.RemotePayloadCodecOptions{
		Endpoint:      server.URL + "/codec",
		ModifyRequest: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer key"); return nil },
	})
	plain := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: []byte{0, 1, 2}}
	sealed, err := remote.Encode([]*commonpb.Payload{plain})
	require.NoError(t, err)
	require.Equal(t, sealedEncoding, encodingOf(sealed[0]))
	opened, err := remote.Decode(sealed)
	require.NoError(t, err)
	require.True(t, proto.Equal(plain, opened[0]))
}

func TestTheCodecServerRefuses(t *testing.T) {
	keys := load(t, generate(t))
	body := sealedBody(t, keys)
	good := request{"POST", "/codec/decode", uiOrigin, "Bearer key", body}
	origins := []string{uiOrigin, "*", "null", "https://*.example.com", "https://slash.example.com/"}
	for name, test := range map[string]struct {
		change func(*request)
		want   int
	}{
		"no authorization":       {func(r *request) { r.authorization = "" }, http.StatusUnauthorized},
		"a wrong authorization":  {func(r *request) { r.authorization = "Bearer other" }, http.StatusUnauthorized},
		"another origin":         {func(r *request) { r.origin = "https://evil.example.com" }, http.StatusForbidden},
		"an origin with a slash": {func(r *request) { r.origin = uiOrigin + "/" }, http.StatusForbidden},
		"a longer origin":        {func(r *request) { r.origin = uiOrigin + "0" }, http.StatusForbidden},
		"another scheme":         {func(r *request) { r.origin = "https://localhost:8233" }, http.StatusForbidden},
		"a sandboxed page":       {func(r *request) { r.origin = "null" }, http.StatusForbidden},
		"a literal wildcard":     {func(r *request) { r.origin = "*" }, http.StatusForbidden},
		"a subdomain":            {func(r *request) { r.origin = "https://a.example.com" }, http.StatusForbidden},
		"a wildcard subdomain":   {func(r *request) { r.origin = "https://*.example.com" }, http.StatusForbidden},
		"GET":                    {func(r *request) { r.method = "GET" }, http.StatusMethodNotAllowed},
		"HEAD":                   {func(r *request) { r.method = "HEAD" }, http.StatusMethodNotAllowed},
		"another path":           {func(r *request) { r.path = "/decode" }, http.StatusNotFound},
		"a longer path":          {func(r *request) { r.path = "/codec/x/decode" }, http.StatusNotFound},
		"a body that is no JSON": {func(r *request) { r.body = []byte("x") }, http.StatusBadRequest},
		"a body too large":       {func(r *request) { r.body = bytes.Repeat([]byte(" "), 9<<20) }, http.StatusBadRequest},
		"a forged payload": {func(r *request) {
			r.body = []byte(`{"payloads":[{"metadata":{"encoding":"` + base64.StdEncoding.EncodeToString([]byte(sealedEncoding)) + `"},"data":"AAAA"}]}`)
		}, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			test.change(&r)
			w := r.do(keys.CodecHandler(origins, allow))
			require.Equal(t, test.want, w.Code, w.Body)
			require.NotContains(t, w.Body.String(), "con-1")
			if test.want == http.StatusForbidden {
				require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
			}
		})
	}
	require.Equal(t, http.StatusOK, good.do(keys.CodecHandler(origins, allow)).Code)
	require.Equal(t, http.StatusUnauthorized, good.do(keys.CodecHandler(origins, nil)).Code, "nobody is authorized by nil")
	require.Equal(t, http.StatusForbidden, good.do(keys.CodecHandler(nil, allow)).Code, "no origin is allowed by nil")
}

func TestTheCodecServerAnswersPreflights(t *testing.T) {
	handler := load(t, generate(t)).CodecHandler([]string{uiOrigin}, nil)
	w := request{method: "OPTIONS", path: "/codec/decode", origin: uiOrigin}.do(handler)
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Equal(t, uiOrigin, w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "POST", w.Header().Get("Access-Control-Allow-Methods"))
	for _, header := range []string{"Authorization", "Content-Type", "X-Namespace"} {
		require.Contains(t, w.Header().Get("Access-Control-Allow-Headers"), header)
	}
	w = request{method: "OPTIONS", path: "/codec/decode", origin: "https://evil.example.com"}.do(handler)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
}

func TestCheckOrigin(t *testing.T) {
	for _, origin := range []string{"https://temporal.example.com", "http://localhost:8233", "https://10.0.0.1:8443"} {
		require.NoError(t, secrets.CheckOrigin(origin), origin)
	}
	for _, origin := range []string{"", "*", "null", "localhost:8233", "https://a.example.com/", "https://a.example.com/ui", "ftp://a", "https://*", "https://*.example.com", "https://u:p@a.example.com", "https://"} {
		require.ErrorContains(t, secrets.CheckOrigin(origin), "https://temporal.example.com", origin)
	}
}
