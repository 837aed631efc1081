package starter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

func TestHTTPReporterPostsTheReport(t *testing.T) {
	var got *http.Request
	var body map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	for _, base := range []string{server.URL, server.URL + "/", server.URL + "/behind/a/proxy/"} {
		body = nil
		reporter := starter.HTTPReporter{BaseURL: base, APIKey: "key-1"}
		require.NoError(t, reporter.Report(t.Context(), reauth.Input{
			ConnectionID: "con:1.a_b-c", Provider: reauth.Finch, Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user",
			TokenFingerprint: reauth.Fingerprint("token-1"), Reason: "a reason",
		}))
		require.Equal(t, http.MethodPost, got.Method)
		require.Equal(t, strings.TrimSuffix(strings.TrimPrefix(base, server.URL), "/")+"/v1/connections/con:1.a_b-c/reauth", got.URL.Path)
		require.Equal(t, "Bearer key-1", got.Header.Get("Authorization"))
		require.Equal(t, "application/json", got.Header.Get("Content-Type"))
		// Exactly the fields of the contract: the API takes no others.
		require.Equal(t, map[string]any{
			"source": "api_error", "finch_code": "reauthenticate_user", "reason": "a reason",
			"token_fingerprint": reauth.Fingerprint("token-1"),
		}, body)
	}
	body = nil
	require.NoError(t, starter.HTTPReporter{BaseURL: server.URL}.Report(t.Context(), reauth.Input{ConnectionID: "con-1"}))
	require.Equal(t, map[string]any{"source": "manual"}, body)
}

func TestHTTPReporterTellsWhichAnswersAreFinal(t *testing.T) {
	for _, test := range []struct {
		status  int
		taken   bool
		useless bool
	}{
		{200, true, false}, {202, true, false}, {204, true, false},
		{400, false, true}, {404, false, true}, {409, false, true}, {410, false, true}, {422, false, true},
		{401, false, false}, {403, false, false}, {408, false, false}, {425, false, false}, {429, false, false},
		{500, false, false}, {502, false, false}, {503, false, false}, {301, false, false}, {307, false, false},
	} {
		calls := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
			w.WriteHeader(test.status)
			if test.status != 204 {
				fmt.Fprint(w, `{"title":"T","detail":"register it with PUT /v1/connections/con-1"}`)
			}
		}))
		err := starter.HTTPReporter{BaseURL: server.URL, APIKey: "SENTINEL"}.Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
		server.Close()
		require.Equal(t, 1, calls, "a redirect is not followed")
		if test.taken {
			require.NoError(t, err, test.status)
			continue
		}
		require.ErrorContains(t, err, fmt.Sprint("status ", test.status))
		require.ErrorContains(t, err, "register it with PUT")
		require.NotContains(t, err.Error(), "SENTINEL")
		require.Equal(t, test.useless, errors.Is(err, starter.ErrRefused), test.status)
	}
}

func TestHTTPReporterShowsOnlyAnAPIsOwnWords(t *testing.T) {
	for name, test := range map[string]struct{ kind, body, want string }{
		"a page":              {"text/html", `{"detail":"SENTINEL"}`, "status 500 Internal Server Error"},
		"no problem":          {"application/json", `{"other":"SENTINEL"}`, "status 500 Internal Server Error"},
		"broken JSON":         {"application/json", `{"detail":"SENTINEL`, "status 500 Internal Server Error"},
		"a long detail":       {"application/problem+json", `{"detail":"` + strings.Repeat("é", 1000) + `"}`, strings.Repeat("é", 250)},
		"longer than a limit": {"application/problem+json", strings.Repeat(" ", 1<<20) + `{"detail":"SENTINEL"}`, "status 500 Internal Server Error"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.kind)
			w.WriteHeader(500)
			_, _ = io.WriteString(w, test.body)
		}))
		err := starter.HTTPReporter{BaseURL: server.URL}.Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
		server.Close()
		require.ErrorContains(t, err, test.want, name)
		require.NotContains(t, err.Error(), "SENTINEL", name)
		require.LessOrEqual(t, len(err.Error()), 600, name)
		require.NotErrorIs(t, err, starter.ErrRefused, name)
	}
}

func TestHTTPReporterRefusesWhatIsWrong(t *testing.T) {
	for _, base := range []string{"", "reauth.example.com", "ftp://reauth.example.com", "http://", "://"} {
		err := starter.HTTPReporter{BaseURL: base}.Report(t.Context(), reauth.Input{ConnectionID: "con-1"})
		require.ErrorIs(t, err, starter.ErrRefused, base)
		require.ErrorContains(t, err, "https://reauth.example.com", base)
	}
	err := starter.HTTPReporter{BaseURL: "http://localhost"}.Report(t.Context(), reauth.Input{ConnectionID: "../x"})
	require.ErrorIs(t, err, starter.ErrRefused)
	require.ErrorContains(t, err, "connection_id")
}

func TestHTTPReporterEndsWithItsContext(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := starter.HTTPReporter{BaseURL: server.URL, APIKey: "SENTINEL"}.Report(ctx, reauth.Input{ConnectionID: "con-1"})
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, err.Error(), "SENTINEL")
}

func TestHTTPReporterUsesTheGivenClient(t *testing.T) {
	var used bool
	c := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		used = true
		return answer(r, 202, io.NopCloser(strings.NewReader("{}"))), nil
	})}
	require.NoError(t, starter.HTTPReporter{BaseURL: "http://localhost", Client: c}.Report(t.Context(), reauth.Input{ConnectionID: "con-1"}))
	require.True(t, used)
}

func TestHTTPReporterNeverPrintsItsKey(t *testing.T) {
	r := starter.HTTPReporter{BaseURL: "https://reauth.example.com", APIKey: "SENTINEL"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		require.NotContains(t, fmt.Sprintf(verb, r), "SENTINEL")
		require.NotContains(t, fmt.Sprintf(verb, &r), "SENTINEL")
	}
}
