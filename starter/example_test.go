package starter_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// syncData stands for what a backend does with a customer's data.
func syncData(*http.Response) error { return nil }

func ExampleTransport() {
	reporter := starter.HTTPReporter{
		BaseURL: "https://reauth.example.com",
		APIKey:  os.Getenv("REAUTH_API_KEY"), // scope reports:write
	}
	transport := starter.NewTransport(http.DefaultTransport, reporter.Report)
	transport.OnError = func(connectionID string, err error) {
		log.Printf("report of connection %q: %v", connectionID, err)
	}
	client := &http.Client{Transport: transport}

	// Each call says whose it is. Calls that do not are known by their token.
	ctx := starter.WithConnection(context.Background(), "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.tryfinch.com/employer/company", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("FINCH_ACCESS_TOKEN"))
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	log.Print(syncData(resp))

	// Before the process ends, what waits is reported.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := transport.Close(ctx); err != nil {
		log.Print(err)
	}
}

func ExampleTransport_temporal() {
	temporal, err := client.Dial(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer temporal.Close()
	tokens, err := sql.Open("postgres", os.Getenv("DATABASE_URL")) // the backend's own
	if err != nil {
		log.Fatal(err)
	}

	transport := starter.NewTransport(http.DefaultTransport, starter.New(temporal).Reporter())
	transport.Lookup = func(ctx context.Context, fingerprint string) (connectionID string, err error) {
		err = tokens.QueryRowContext(ctx, `SELECT connection_id FROM finch_tokens WHERE fingerprint = $1`, fingerprint).Scan(&connectionID)
		if errors.Is(err, sql.ErrNoRows) {
			return "", starter.ErrNoConnection
		}
		return connectionID, err
	}
}

func ExampleTokenTransport() {
	source := &starter.TokenSource{
		BaseURL: "https://reauth.example.com",
		APIKey:  os.Getenv("REAUTH_API_KEY"), // scopes reports:write and tokens:read
	}
	reporter := starter.HTTPReporter{BaseURL: source.BaseURL, APIKey: source.APIKey}
	watching := starter.NewTransport(http.DefaultTransport, reporter.Report)
	watching.Tokens = source // a token that fails is asked for anew
	client := &http.Client{Transport: &starter.TokenTransport{Base: watching, Tokens: source}}

	// No token in sight: the call has its connection's current one.
	ctx := starter.WithConnection(context.Background(), "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.tryfinch.com/employer/company", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	log.Print(syncData(resp))
}

func ExampleTokenSource_Recovered() {
	var (
		source *starter.TokenSource // as above
		client *http.Client         // as above, with TokenTransport
	)
	const connectionID = "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1"

	ctx, cancel := context.WithTimeout(starter.WithConnection(context.Background(), connectionID), 72*time.Hour)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.tryfinch.com/employer/company", nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		err = syncData(resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			log.Print(err)
			return
		}
		// The customer hears of it and logs in again, in a minute or in a week.
		if _, err := source.Recovered(ctx, connectionID); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleHTTPReporter_Send() {
	reporter := starter.HTTPReporter{BaseURL: "https://reauth.example.com", APIKey: os.Getenv("REAUTH_API_KEY")}
	answer, err := reporter.Send(context.Background(), starter.Report{
		CustomerID: "cus_1042",
		Source:     reauth.SourceAPIError,
		FinchCode:  reauth.CodeReauth,
		Reason:     "the nightly import",
	})
	switch {
	case errors.Is(err, starter.ErrRefused):
		log.Printf("not reported, and never will be: %v", err) // nobody's, or of several connections
	case err != nil:
		log.Printf("not reported, try again: %v", err)
	case answer.TokenSuperseded:
		log.Printf("use token %d", answer.Generation)
	default:
		log.Printf("case %s of connection %s", answer.CaseID, answer.ConnectionID)
	}
}

// finchClient stands for github.com/Finch-API/finch-api-go's client, whose
// option.WithHTTPClient takes what has this method.
type finchClient struct {
	http interface {
		Do(*http.Request) (*http.Response, error)
	}
}

func TestTransportInTheOfficialClient(t *testing.T) {
	server := staleServer(t, 0)
	var r reports
	transport := r.transport(server.Client().Transport)
	c := finchClient{http: &http.Client{Transport: transport}}
	req, err := http.NewRequestWithContext(starter.WithConnection(t.Context(), "con-1"), http.MethodGet, server.URL+"/employer/company", nil)
	require.NoError(t, err)
	resp, err := c.http.Do(req)
	require.NoError(t, err)
	require.Equal(t, staleBody, read(t, resp))
	require.Len(t, closed(t, transport, &r), 1)
}

// What the documentation shows in Go stands in this file, and so compiles.
func TestTheDocumentationsSnippetsCompile(t *testing.T) {
	page, err := os.ReadFile("../docs/backends.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	flat := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	snippets := strings.Split(string(page), "```go\n")[1:]
	require.NotEmpty(t, snippets)
	for _, snippet := range snippets {
		code, _, ok := strings.Cut(snippet, "```")
		require.True(t, ok)
		require.Contains(t, flat(string(source)), flat(code), fmt.Sprint("not in example_test.go:\n", code))
	}
}
