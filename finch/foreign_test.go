package finch_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
)

// Another client's answers are understood as ours are.
func TestAnswersOfAnotherClient(t *testing.T) {
	for name, body := range map[string]string{
		"reauth":      `{"name": "authentication_error", "finch_code": "reauthenticate_user"}`,
		"client":      `{"error": "Invalid client: Unable to validate credentials"}`,
		"token":       `{"name": "invalid_token_error"}`,
		"grant":       `{"error": "invalid_grant"}`,
		"exists":      `{"finch_code": "connection_already_exists", "context": {"connection_id": "con-1"}}`,
		"not found":   `{"message": "Connection not found"}`,
		"nothing":     ``,
		"a page":      `<html>`,
		"our secrets": fmt.Sprintf(`{"name": %q, "finch_code": %q, "message": "no %s"}`, clientSecret, accessToken, authCode),
	} {
		for _, status := range []int{302, 400, 401, 403, 404, 429, 500} {
			for _, callName := range []string{"Introspect", "Company", "Reauthenticate", "Exchange"} {
				t.Run(fmt.Sprintf("%s/%d/%s", name, status, callName), func(t *testing.T) {
					header := http.Header{"Finch-Request-Id": {"req-7"}, "Retry-After": {"90"}}
					var want *finch.Error
					require.ErrorAs(t, calls()[callName](t.Context(), answering(t, status, map[string]string{"Finch-Request-Id": "req-7", "Retry-After": "90"}, body)), &want)
					got := finch.Answer{
						Op: want.Op, Status: status, Header: header, Body: []byte(body),
						Ours:    callName == "Reauthenticate" || callName == "Exchange",
						Secrets: []string{clientSecret, accessToken, authCode},
					}.Error()
					assert.Equal(t, verdict(want), verdict(got))
					assertClean(t, fmt.Sprintf("%+v", *got))
				})
			}
		}
	}
}

// verdict is all that an Error says, but for its text for people: which secrets
// are taken out of that, only the call knows.
func verdict(e *finch.Error) string {
	return fmt.Sprintln(e.Op, e.Status, e.RequestID, e.RetryAfter, e.ConnectionID, e.IsReauth(), e.IsAccountSetup(), e.IsInvalidToken(),
		e.IsInvalidGrant(), e.IsInvalidClient(), e.IsConnectionNotFound(), e.IsRateLimited(), e.Temporary())
}

func TestAnotherClientWithoutAnswer(t *testing.T) {
	cause := errors.New(`malformed HTTP response "` + accessToken + `" for ` + authCode)
	for reached, want := range map[bool]error{true: finch.ErrNoAnswer, false: finch.ErrNotSent} {
		err := finch.Unanswered("POST /auth/token", cause, reached, authCode)
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, err, cause)
		require.NoError(t, errors.Unwrap(err))
		assert.Contains(t, err.Error(), "POST /auth/token")
		assertClean(t, err.Error())
	}
}

func TestWatch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	for url, want := range map[string]bool{server.URL: true, "http://127.0.0.1:1": false} {
		ctx, reached := finch.Watch(t.Context())
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		require.NoError(t, err)
		response, err := (&http.Client{Timeout: 5 * time.Second}).Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
		require.Error(t, err)
		assert.Equal(t, want, reached(), url)
	}
}
