package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// api calls one of the parts over HTTP, with JSON.
type api struct {
	base, key string
}

// httpError is an answer that is not a success.
type httpError struct {
	status int
	call   string
	text   string
}

func (e *httpError) Error() string { return fmt.Sprintf("%s answers %d: %s", e.call, e.status, e.text) }

func (a api) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if a.key != "" {
		request.Header.Set("Authorization", "Bearer "+a.key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return &httpError{response.StatusCode, method + " " + path, string(text[:min(len(text), 500)])}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// simulated is a connection of the simulated Finch and its first token.
type simulated struct {
	ConnectionID string `json:"connection_id"`
	AccessToken  string `json:"access_token"`
}

// addConnection makes a connection at the simulated Finch.
func (a api) addConnection(ctx context.Context, customerID, customerName, providerID string) (simulated, error) {
	var made simulated
	err := a.call(ctx, http.MethodPost, "/sim/connections", map[string]string{
		"customer_id": customerID, "customer_name": customerName, "provider_id": providerID,
	}, &made)
	return made, err
}

// breakConnection makes a connection stale at the simulated Finch.
func (a api) breakConnection(ctx context.Context, connectionID string) error {
	return a.call(ctx, http.MethodPost, "/sim/connections/"+url.PathEscape(connectionID)+"/break", struct{}{}, nil)
}

// sendWebhooks turns the simulated Finch's webhooks on or off.
func (a api) sendWebhooks(ctx context.Context, on bool) error {
	return a.call(ctx, http.MethodPut, "/sim/knobs", map[string]bool{"webhooks": on}, nil)
}

// register registers a connection, with its token, at our own API.
func (a api) register(ctx context.Context, c simulated, customerID, customerName string, contact reauth.Contact) error {
	return a.call(ctx, http.MethodPut, "/v1/connections/"+url.PathEscape(c.ConnectionID), map[string]any{
		"provider":      reauth.Finch,
		"customer_id":   customerID,
		"customer_name": customerName,
		"contacts":      []reauth.Contact{contact},
		"access_token":  c.AccessToken,
	}, nil)
}

// mail is a message as the inbox's API shows it.
type mail struct {
	ID         string    `json:"id"`
	ReceivedAt time.Time `json:"received_at"`
	To         []string  `json:"to"`
	Subject    string    `json:"subject"`
	MessageID  string    `json:"message_id"`
	InReplyTo  string    `json:"in_reply_to"`
	References []string  `json:"references"`
	Links      []string  `json:"links"`
}

// awaitMail waits for a mail to an address that wanted accepts.
func (a api) awaitMail(ctx context.Context, to string, wanted func(mail) bool) (mail, error) {
	var found mail
	err := poll(ctx, func() (bool, error) {
		var messages []mail
		if err := a.call(ctx, http.MethodGet, "/api/messages?to="+url.QueryEscape(to), nil, &messages); err != nil {
			return false, err
		}
		i := slices.IndexFunc(messages, wanted)
		if i >= 0 {
			found = messages[i]
		}
		return i >= 0, nil
	})
	return found, err
}

// poll calls done, several times a second, until it says so.
func poll(ctx context.Context, done func() (bool, error)) error {
	for {
		finished, err := done()
		if err != nil || finished {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
