package starter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxAnswer bounds what is read of an answer, and maxDetail what an error
	// repeats of it.
	maxAnswer = 64 << 10
	maxDetail = 500
)

// api calls the HTTP API of reauth.
type api struct {
	baseURL, key string
	client       *http.Client
}

// noRedirects is the client by default: a redirect would turn a POST into a GET
// that reports nothing.
func noRedirects() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what the API said.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

// call makes a call. A body that is nil is not sent. The error says that there
// is no answer; an answer can still be a refusal, see refusal.
func (a api) call(ctx context.Context, method string, query url.Values, body any, path ...string) (answer, error) {
	base, err := url.Parse(a.baseURL)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return answer{}, fmt.Errorf(`%w: the base URL must be absolute, as "https://reauth.example.com"`, ErrRefused)
	}
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(encoded)
	}
	target := base.JoinPath(path...)
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), reader)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := a.client
	if client == nil {
		client = noRedirects()
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	out := answer{Response: resp}
	out.body, out.err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return out, nil
}

func (a answer) ok() bool { return a.StatusCode >= 200 && a.StatusCode < 300 }

// refusal is the error of an answer that is not ok. It wraps ErrRefused where
// repeating the call is useless.
func (a answer) refusal() error {
	if a.err != nil {
		return fmt.Errorf("status %d: %w", a.StatusCode, a.err)
	}
	err := errors.New(a.problem())
	if useless(a.StatusCode) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// useless reports whether repeating a call that was answered so is useless. A
// key that is refused may be put right meanwhile.
func useless(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

func (a answer) problem() string {
	text := "status " + a.Status
	var p struct {
		Detail string `json:"detail"`
	}
	kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if strings.HasSuffix(kind, "json") && json.Unmarshal(a.body, &p) == nil && p.Detail != "" {
		text += ": " + strings.ToValidUTF8(p.Detail[:min(len(p.Detail), maxDetail)], "")
	}
	return text
}
