package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// DemoOptions say how Demo runs.
type DemoOptions struct {
	// Program is the reauth binary that the parts run; this one if empty.
	Program string
	// Environ is the environment for the parts.
	Environ []string
	// Keep leaves everything running at the end, until the context ends.
	Keep bool
	// Out is told each step.
	Out io.Writer
}

// Demo walks the whole path once, over real parts on free ports and in a
// folder of its own: a connection breaks, an API call notices, a case opens,
// its mail arrives, the customer goes through Connect, and the same call works
// again. It returns nil only if all of that is true. Whatever it started is
// gone when it returns.
func Demo(ctx context.Context, options DemoOptions) (err error) {
	data, err := os.MkdirTemp("", "reauth-demo-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(data)

	out := &lines{w: options.Out}
	began := time.Now()
	e, err := Start(ctx, Options{
		Data: data, Temporary: true, AutoPorts: true, Program: options.Program, Environ: withoutSettings(options.Environ), Out: out,
	})
	if err != nil {
		return err
	}
	defer e.Stop()
	d := &demo{environment: e, out: out, began: began, last: began}
	if err := d.run(ctx); err != nil {
		if ctx.Err() == nil {
			for _, name := range []string{"worker", "serve"} {
				fmt.Fprintf(out, "\nthe last lines of the log of %s:\n%s\n", name, tailOf(e.folder.file("logs/"+name+".log"), 15))
			}
		}
		return err
	}
	if options.Keep {
		fmt.Fprintf(out, "\neverything stays as it is until Ctrl-C\n")
		<-ctx.Done()
	}
	fmt.Fprintf(out, "cleaning up ...\n")
	return nil
}

// withoutSettings takes our settings out of an environment: the demo shows what
// happens with the defaults, and touches nobody's database.
func withoutSettings(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == "DATABASE_URL" || name == "SMTP_URL" || strings.HasPrefix(name, "REAUTH_") || strings.HasPrefix(name, "FINCH_")
	})
}

// demo is the main job in the making.
type demo struct {
	environment *Environment
	out         io.Writer
	began, last time.Time
}

// did tells of a step: what happened, how long it took, and where to look.
func (d *demo) did(where, format string, args ...any) {
	now := time.Now()
	fmt.Fprintf(d.out, "%9s  %s\n", took(now.Sub(d.last)), fmt.Sprintf(format, args...))
	if where != "" {
		fmt.Fprintf(d.out, "           %s\n", where)
	}
	d.last = now
}

func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func (d *demo) run(ctx context.Context) error {
	ready := d.environment.Ready()
	ours := api{base: ready.APIURL, key: ready.APIKey}
	finch := api{base: ready.FinchURL}
	inbox := api{base: ready.InboxURL}
	customer := samples()[0]
	d.did(fmt.Sprintf("Temporal UI %s · inbox %s · simulated Finch %s · API %s/docs", ready.TemporalUIURL, ready.InboxURL, ready.FinchURL, ready.APIURL),
		"everything answers: PostgreSQL, Temporal, mail server, simulated Finch, worker, HTTP service")

	// Many plans at Finch have no webhooks: the API call alone shall notice.
	if err := finch.sendWebhooks(ctx, false); err != nil {
		return fmt.Errorf("turning the simulated Finch's webhooks off: %w", err)
	}
	connection, err := finch.addConnection(ctx, customer.CustomerID, customer.CustomerName, customer.ProviderID)
	if err != nil {
		return fmt.Errorf("making a connection at the simulated Finch: %w", err)
	}
	if err := ours.register(ctx, connection, customer.CustomerID, customer.CustomerName, customer.contact); err != nil {
		return fmt.Errorf("registering the connection: %w", err)
	}
	connectionPath := "/v1/connections/" + url.PathEscape(connection.ConnectionID)
	d.did(ready.APIURL+connectionPath, "registered the connection of %s to %s, with its token", customer.CustomerName, customer.Provider)

	backend, closeBackend := d.backend(connection.ConnectionID)
	defer closeBackend()
	company := ready.FinchURL + "/employer/company"
	if status, err := getCompany(ctx, backend, company, connection.AccessToken); err != nil || status != http.StatusOK {
		return fmt.Errorf("calling GET /employer/company before the break: status %d: %w", status, err)
	}
	d.did("", "the backend's call, GET /employer/company, works")

	if err := finch.breakConnection(ctx, connection.ConnectionID); err != nil {
		return fmt.Errorf("breaking the connection: %w", err)
	}
	broken := time.Now()
	d.did(ready.FinchURL, "broke the connection at the simulated Finch")

	status, err := getCompany(ctx, backend, company, connection.AccessToken)
	if err != nil || status != http.StatusUnauthorized {
		return fmt.Errorf("calling GET /employer/company after the break: want 401, have status %d: %w", status, err)
	}
	d.did("", "the same call is refused: 401 reauthenticate_user; the backend's http.RoundTripper notices")

	opened, err := d.awaitCase(ctx, ours, connectionPath, func(c caseView) bool { return c.Phase == reauth.PhaseAwaitingCustomer })
	if err != nil {
		return fmt.Errorf("waiting for the case: %w", err)
	}
	if opened.Source != reauth.SourceAPIError {
		return fmt.Errorf("the case was opened by %q, not by the API call", opened.Source)
	}
	d.did(fmt.Sprintf("%s/namespaces/%s/workflows/%s", ready.TemporalUIURL, ready.TemporalNamespace, url.PathEscape(opened.WorkflowID)),
		"a case is open, the loss is confirmed, and Connect has a session")

	first, err := inbox.awaitMail(ctx, customer.contact.Email, func(mail) bool { return true })
	if err != nil {
		return fmt.Errorf("waiting for the mail: %w", err)
	}
	d.did(ready.InboxURL+"/messages/"+first.ID, "%s has mail: %q", customer.contact.Name, first.Subject)

	err = d.environment.reconnect(ctx, d.environment.linkIn(first), func(format string, args ...any) { d.did("", format, args...) })
	if err != nil {
		return err
	}

	var token struct {
		AccessToken string `json:"access_token"`
		Generation  int64  `json:"generation"`
	}
	if err := ours.call(ctx, http.MethodGet, connectionPath+"/token", nil, &token); err != nil {
		return fmt.Errorf("reading the new token: %w", err)
	}
	if token.AccessToken == connection.AccessToken || token.Generation != 2 {
		return fmt.Errorf("the token was not replaced: generation %d", token.Generation)
	}
	d.did(ready.APIURL+connectionPath+"/token", "the new token is stored, as generation %d", token.Generation)

	if status, err := getCompany(ctx, backend, company, token.AccessToken); err != nil || status != http.StatusOK {
		return fmt.Errorf("calling GET /employer/company with the new token: status %d: %w", status, err)
	}
	d.did("", "the same call works again")

	closed, err := d.awaitCase(ctx, ours, connectionPath, func(c caseView) bool { return c.Outcome != "" })
	if err != nil {
		return fmt.Errorf("waiting for the case's outcome: %w", err)
	}
	if closed.Outcome != reauth.OutcomeRecovered || closed.CaseID != opened.CaseID {
		return fmt.Errorf("the case ended as %q", closed.Outcome)
	}
	fixed, err := inbox.awaitMail(ctx, customer.contact.Email, func(m mail) bool {
		return m.ID != first.ID && (m.InReplyTo == first.MessageID || slices.Contains(m.References, first.MessageID))
	})
	if err != nil {
		return fmt.Errorf("waiting for the note that it is fixed: %w", err)
	}
	d.did(ready.InboxURL+"/messages/"+fixed.ID, "the case is closed as %s, and everyone who had mail has the note that it is fixed", closed.Outcome)

	fmt.Fprintf(d.out, "\nThe connection is back, %.1f s after it broke; %.1f s in all.\n", time.Since(broken).Seconds(), time.Since(d.began).Seconds())
	return nil
}

// backend is the HTTP client of a company's own backend, which calls Finch
// through our RoundTripper and reports over our HTTP API.
func (d *demo) backend(connectionID string) (c *http.Client, closeClient func()) {
	ready := d.environment.Ready()
	reporter := starter.HTTPReporter{BaseURL: ready.APIURL, APIKey: ready.APIKey}
	transport := &starter.Transport{
		Report:     reporter.Report,
		Connection: func(*http.Request) string { return connectionID },
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = transport.Close(ctx) // nothing is left to report
	}
}

func getCompany(ctx context.Context, backend *http.Client, address, token string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Finch-API-Version", "2020-09-17")
	response, err := backend.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// caseView is what the demo reads of a case.
type caseView struct {
	CaseID     string         `json:"case_id"`
	WorkflowID string         `json:"workflow_id"`
	Source     reauth.Source  `json:"source"`
	Phase      reauth.Phase   `json:"phase"`
	Outcome    reauth.Outcome `json:"outcome"`
	LastError  string         `json:"last_error"`
}

func (d *demo) awaitCase(ctx context.Context, ours api, connectionPath string, wanted func(caseView) bool) (caseView, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errTooSlow)
	defer cancel()
	var seen caseView
	err := poll(ctx, func() (bool, error) {
		err := ours.call(ctx, http.MethodGet, connectionPath+"/reauth", nil, &seen)
		var answer *httpError
		if errors.As(err, &answer) && answer.status == http.StatusNotFound {
			return false, nil // not there yet
		}
		return err == nil && wanted(seen), err
	})
	if err != nil && seen.CaseID != "" {
		err = fmt.Errorf("%w; it is %s%s, %s", err, seen.Phase, seen.Outcome, seen.LastError)
	}
	return seen, err
}
