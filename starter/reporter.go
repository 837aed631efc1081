package starter

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// HTTPReporter makes reports over HTTP, for a backend that has no Temporal
// client. Its method Report is what Transport wants.
type HTTPReporter struct {
	// BaseURL is where `reauth serve` answers, as "https://reauth.example.com".
	BaseURL string
	// APIKey authorizes the reports.
	APIKey string
	// Client sends them. It must not go through a Transport that reports
	// here. By default a client that gives up after 10 seconds.
	Client *http.Client
}

const (
	reportTimeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer, and maxDetail what an error
	// repeats of it.
	maxAnswer = 64 << 10
	maxDetail = 500
)

// Report posts to /v1/connections/{connection_id}/reauth. An answer that makes
// repeating useless (the connection is not registered, say) is an error that
// wraps ErrRefused.
func (r HTTPReporter) Report(ctx context.Context, in reauth.Input) error {
	if err := in.Check(); err != nil {
		return fmt.Errorf("report a stale connection: %w: %w", ErrRefused, err)
	}
	base, err := url.Parse(r.BaseURL)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return fmt.Errorf(`report a stale connection: %w: the base URL must be absolute, as "https://reauth.example.com"`, ErrRefused)
	}
	body, err := json.Marshal(struct {
		Source           reauth.Source `json:"source"`
		FinchCode        string        `json:"finch_code,omitempty"`
		Reason           string        `json:"reason,omitempty"`
		TokenFingerprint string        `json:"token_fingerprint,omitempty"`
	}{cmp.Or(in.Source, reauth.SourceManual), in.FinchCode, in.Reason, in.TokenFingerprint})
	if err != nil {
		return fmt.Errorf("report a stale connection: %w", err)
	}
	target := base.JoinPath("v1", "connections", in.ConnectionID, "reauth").String()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("report a stale connection: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+r.APIKey)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, application/problem+json")
	c := r.Client
	if c == nil {
		c = &http.Client{
			Timeout: reportTimeout,
			// A redirect would turn the POST into a GET that reports nothing.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("report a stale connection: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil // the report was taken, even if its answer broke off
	}
	if err != nil {
		return fmt.Errorf("report a stale connection: status %d: %w", resp.StatusCode, err)
	}
	err = errors.New(problem(resp, answer))
	if useless(resp.StatusCode) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("report a stale connection: %w", err)
}

// useless reports whether repeating a report that was answered so is useless. A
// key that is refused may be put right while the report waits.
func useless(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

func problem(resp *http.Response, answer []byte) string {
	text := "status " + resp.Status
	var p struct {
		Detail string `json:"detail"`
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if strings.HasSuffix(kind, "json") && json.Unmarshal(answer, &p) == nil && p.Detail != "" {
		text += ": " + strings.ToValidUTF8(p.Detail[:min(len(p.Detail), maxDetail)], "")
	}
	return text
}

// String keeps the API key out of anything that prints the reporter.
func (r HTTPReporter) String() string { return "reports to " + r.BaseURL }

// GoString keeps the API key out of %#v.
func (r HTTPReporter) GoString() string { return r.String() }
