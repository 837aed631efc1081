package starter

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// HTTPReporter makes reports over HTTP, for a backend that has no Temporal
// client. Its method Report is what Transport wants.
type HTTPReporter struct {
	// BaseURL is where `reauth serve` answers, as "https://reauth.example.com".
	BaseURL string
	// APIKey authorizes the reports; it needs the scope reports:write.
	APIKey string
	// Client sends them. It must not go through a Transport that reports
	// here. By default a client that gives up after 10 seconds.
	Client *http.Client
}

const reportTimeout = 10 * time.Second

func (r HTTPReporter) api() api { return api{r.BaseURL, r.APIKey, r.Client} }

// bounded is a context that ends after reportTimeout, if no client of the
// caller's has a time limit of its own.
func (r HTTPReporter) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.Client != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, reportTimeout)
}

// Report posts to /v1/connections/{connection_id}/reauth; an input that has no
// ConnectionID but a TokenFingerprint goes to /v1/reports. An answer that makes
// repeating useless (the connection is not registered, say) is an error that
// wraps ErrRefused.
func (r HTTPReporter) Report(ctx context.Context, in reauth.Input) error {
	if err := checkReport(in); err != nil {
		return fmt.Errorf("report a stale connection: %w: %w", ErrRefused, err)
	}
	path := []string{"v1", "connections", in.ConnectionID, "reauth"}
	if in.ConnectionID == "" {
		path = []string{"v1", "reports"}
	}
	_, err := r.post(ctx, struct {
		Source           reauth.Source `json:"source"`
		FinchCode        string        `json:"finch_code,omitempty"`
		Reason           string        `json:"reason,omitempty"`
		TokenFingerprint string        `json:"token_fingerprint,omitempty"`
	}{cmp.Or(in.Source, reauth.SourceManual), in.FinchCode, in.Reason, in.TokenFingerprint}, path...)
	return err
}

// Report is evidence that a connection is stale. Exactly one of ConnectionID,
// TokenFingerprint and CustomerID names the connection, except that a
// TokenFingerprint may go along with a ConnectionID.
type Report struct {
	ConnectionID string `json:"connection_id,omitempty"`
	// TokenFingerprint is the reauth.Fingerprint of a token that the connection
	// has or had.
	TokenFingerprint string `json:"token_fingerprint,omitempty"`
	// CustomerID is the customer, as the backend's own systems call it. Where the
	// customer has several connections, Application, Provider and System tell
	// them apart.
	CustomerID  string          `json:"customer_id,omitempty"`
	Application string          `json:"application,omitempty"`
	Provider    reauth.Provider `json:"provider,omitempty"`
	System      string          `json:"system,omitempty"`
	// AskProvider has the provider asked for a customer whom no registered
	// connection has, which needs CustomerName. For a customer who never
	// connected that opens a live session at the provider.
	AskProvider  bool   `json:"ask_provider,omitempty"`
	CustomerName string `json:"customer_name,omitempty"`

	// Source says whose evidence it is; manual by default.
	Source    reauth.Source `json:"source"`
	FinchCode string        `json:"finch_code,omitempty"`
	Reason    string        `json:"reason,omitempty"`
}

// Answer is what became of a Report: a case (CaseID), nothing because a newer
// token is stored (TokenSuperseded), or nothing for now (Suppressed).
type Answer struct {
	ConnectionID    string       `json:"connection_id"`
	CaseID          string       `json:"case_id"`
	WorkflowID      string       `json:"workflow_id"`
	Created         bool         `json:"created"`
	Phase           reauth.Phase `json:"phase"`
	TokenSuperseded bool         `json:"token_superseded"`
	Generation      int64        `json:"generation"`
	Suppressed      bool         `json:"suppressed"`
	Reason          string       `json:"reason"`
	Until           *time.Time   `json:"until"`
}

// Send posts a report to /v1/reports and tells what became of it. An answer
// that makes repeating useless is an error that wraps ErrRefused: nobody knows
// the connection, say, or the customer has several, which its text names.
func (r HTTPReporter) Send(ctx context.Context, report Report) (Answer, error) {
	report.Source = cmp.Or(report.Source, reauth.SourceManual)
	body, err := r.post(ctx, report, "v1", "reports")
	if err != nil {
		return Answer{}, err
	}
	var out Answer
	if err := json.Unmarshal(body, &out); err != nil {
		return Answer{}, fmt.Errorf("report a stale connection: it was taken, but the answer is not to be read: %w", err)
	}
	return out, nil
}

func (r HTTPReporter) post(ctx context.Context, body any, path ...string) ([]byte, error) {
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	answer, err := r.api().call(ctx, http.MethodPost, nil, body, path...)
	if err == nil && !answer.ok() {
		err = answer.refusal()
	}
	if err != nil {
		return nil, fmt.Errorf("report a stale connection: %w", err)
	}
	return answer.body, nil // the report was taken, even if its answer broke off
}

// String keeps the API key out of anything that prints the reporter.
func (r HTTPReporter) String() string { return "reports to " + r.BaseURL }

// GoString keeps the API key out of %#v.
func (r HTTPReporter) GoString() string { return r.String() }
