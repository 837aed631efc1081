// Package e2e walks the whole path on real parts: a Temporal server, a
// PostgreSQL, an SMTP conversation, and the service's own pages. Only Finch is
// simulated.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"

	"github.com/finch-reauth/reauth/dev/temporal"
	"github.com/finch-reauth/reauth/worker"
)

// address is where the Temporal server of this test run listens.
var address string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	binary, err := temporal.Binary(ctx, os.Stderr)
	if err != nil {
		return 1, err
	}
	server, err := testsuite.StartDevServer(ctx, testsuite.DevServerOptions{
		ExistingPath:  binary,
		ClientOptions: &client.Options{Namespace: client.DefaultNamespace},
		LogLevel:      "error",
	})
	if err != nil {
		return 1, fmt.Errorf("start Temporal: %w", err)
	}
	defer func() { _ = server.Stop() }()
	address = server.FrontendHostPort()
	if err := worker.RegisterSearchAttributes(ctx, server.Client(), client.DefaultNamespace); err != nil {
		return 1, err
	}
	return m.Run(), nil
}
