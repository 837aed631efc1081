// Command go shows what a backend in Go does about stale connections: it
// registers one, puts starter.Transport around its Finch client, takes tokens
// from a starter.TokenSource, and when a call is refused waits for the new one
// and goes on.
//
//	go run ./examples/go <connection_id>
//
// REAUTH_URL and REAUTH_API_KEY say where reauth is, ACCESS_TOKEN is the
// connection's current token, CUSTOMER_EMAIL who can log in again. FINCH_BASE_URL
// is needed only for another Finch than the real one.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"time"

	"github.com/finch-reauth/reauth/starter"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("which connection? go run ./examples/go <connection_id>")
	}
	connectionID := args[0]
	b := backend{
		reauthURL: os.Getenv("REAUTH_URL"),
		apiKey:    os.Getenv("REAUTH_API_KEY"),
		finchURL:  cmp.Or(os.Getenv("FINCH_BASE_URL"), "https://api.tryfinch.com"),
	}

	// The transport goes around the Finch client's own. It notices when Finch
	// says that a customer must log in again, and reports that in the background;
	// it never changes, delays or fails a call. With Finch's official client,
	// hand b.finch to option.WithHTTPClient.
	reports := starter.HTTPReporter{BaseURL: b.reauthURL, APIKey: b.apiKey}
	transport := starter.NewTransport(http.DefaultTransport, reports.Report)
	// The source keeps the current tokens at hand. The transport tells it when one
	// has failed.
	tokens := &starter.TokenSource{BaseURL: b.reauthURL, APIKey: b.apiKey}
	transport.Tokens = tokens
	transport.OnError = func(connectionID string, err error) { log.Printf("reporting %s: %v", connectionID, err) }
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = transport.Close(flush)
	}()
	b.finch = &http.Client{Transport: transport, Timeout: 30 * time.Second}

	// Once for each connection, when it was made, and again when its contacts
	// change.
	if err := b.register(ctx, connectionID, os.Getenv("ACCESS_TOKEN"), os.Getenv("CUSTOMER_EMAIL")); err != nil {
		return err
	}
	fmt.Println("registered")

	// From here on, whatever the backend does with Finch all day.
	worked, refused := false, false
	for {
		token, err := tokens.Token(ctx, connectionID)
		if err != nil {
			return err
		}
		// Whose call it is: that is how the transport knows which connection to
		// report.
		name, err := b.company(starter.WithConnection(ctx, connectionID), token.AccessToken)
		switch {
		case errors.Is(err, errStale):
			fmt.Printf("generation %d: 401 reauthenticate_user; waiting for the customer\n", token.Generation)
			refused = true
			// That can take days: a job that cannot wait is put aside, and started
			// again by the webhook reauth.case.closed.
			if _, err := tokens.Recovered(ctx, connectionID); err != nil {
				return err
			}
		case err != nil:
			return err
		case refused:
			fmt.Printf("generation %d: the call works again: %s\n", token.Generation, name)
			return nil
		case !worked:
			fmt.Printf("generation %d: the call works: %s\n", token.Generation, name)
			worked = true
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// backend calls Finch and reauth.
type backend struct {
	reauthURL, apiKey string
	finchURL          string
	finch             *http.Client
}

// register tells reauth of a connection and of whom to write to.
func (b backend) register(ctx context.Context, connectionID, accessToken, email string) error {
	return b.reauth(ctx, http.MethodPut, "/v1/connections/"+url.PathEscape(connectionID), map[string]any{
		"customer_name": "Acme Bakery",
		"contacts":      []map[string]string{{"email": email, "name": "Maria", "time_zone": "America/New_York"}},
		"access_token":  accessToken,
	})
}

// errStale: the customer must log in again.
var errStale = errors.New("the connection is stale")

// company reads the company's name from Finch.
func (b backend) company(ctx context.Context, accessToken string) (name string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.finchURL+"/employer/company", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+accessToken)
	request.Header.Set("Finch-API-Version", "2020-09-17")
	response, err := b.finch.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking Finch: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		LegalName string `json:"legal_name"`
		FinchCode string `json:"finch_code"`
		Message   string `json:"message"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return "", fmt.Errorf("reading Finch's answer %s: %w", response.Status, err)
	}
	switch {
	case response.StatusCode == http.StatusOK:
		return answer.LegalName, nil
	case response.StatusCode == http.StatusUnauthorized && answer.FinchCode == "reauthenticate_user":
		return "", errStale
	}
	return "", fmt.Errorf("asking Finch: it answers %s: %s", response.Status, answer.Message)
}

// reauth calls reauth's API. What went wrong is an RFC 9457 problem.
func (b backend) reauth(ctx context.Context, method, path string, in any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, b.reauthURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+b.apiKey)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		var problem struct {
			Detail string `json:"detail"`
		}
		_ = json.NewDecoder(response.Body).Decode(&problem)
		return fmt.Errorf("%s %s answers %s: %s", method, path, response.Status, problem.Detail)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
