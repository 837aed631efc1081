// Package dev runs everything on one machine: a real Temporal server with its
// web UI, a real PostgreSQL, a mail server with an inbox page, a simulated
// Finch, the worker and the HTTP service. It is for `reauth dev`, `reauth demo`
// and tests.
package dev

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"go.temporal.io/sdk/log"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/worker/clock"
)

// Run does what `reauth dev` does: it starts everything, makes sure that there
// are sample connections, tells where everything is, and stays until ctx ends.
func Run(ctx context.Context, options Options) error {
	began := time.Now()
	options.Out = &lines{w: options.Out}
	e, err := Start(ctx, options)
	if err != nil {
		return err
	}
	defer e.Stop()
	var connections []sample
	if options.Finch == nil {
		if connections, err = e.haveSamples(ctx); err != nil {
			return err
		}
	}
	if err := e.Announce(); err != nil {
		return err
	}
	e.say("everything answers, after %s\n", time.Since(began).Round(100*time.Millisecond))
	e.printAddresses(connections)
	if e.clock != nil {
		e.say("\n%s", pace(*e.clock))
	}
	<-ctx.Done()
	e.say("\nstopping everything ...")
	return nil
}

func (e *Environment) printAddresses(connections []sample) {
	r := e.Ready()
	table := tabwriter.NewWriter(e.options.Out, 0, 0, 3, ' ', 0)
	row := func(name, address, try string) { fmt.Fprintf(table, "  %s\t%s\t%s\n", name, address, try) }
	stale := slices.IndexFunc(connections, func(s sample) bool { return s.stale })
	switch {
	case e.options.Finch != nil:
		row("inbox", r.InboxURL, "every mail arrives here, none leaves this machine")
		row("Finch", r.FinchURL, fmt.Sprintf("the real one; its dashboard must list %s/callback as a redirect URI", e.publicURL()))
	case stale >= 0:
		row("inbox", r.InboxURL, fmt.Sprintf("begin here: %s has mail; open it, follow its link, press the button", connections[stale].CustomerName))
		row("simulated Finch", r.FinchURL, "break a connection with a click, and watch its mail arrive")
	default:
		row("simulated Finch", r.FinchURL, "begin here: break a connection with a click")
		row("inbox", r.InboxURL, "its mail arrives here; open it, follow its link, press the button")
	}
	row("operators", r.APIURL+"/operator", "sign in with the key in "+relative(e.folder.file("api-key")))
	row("Temporal UI", r.TemporalUIURL, "each case is one workflow; open one and read its timeline")
	row("API", r.APIURL+"/docs", fmt.Sprintf(`curl -H "Authorization: Bearer $(cat %s)" %s/v1/cases`, relative(e.folder.file("api-key")), r.APIURL))
	row("Temporal", r.TemporalAddress, "for your own client: the namespace is "+r.TemporalNamespace+", the task queue "+e.taskQueue())
	if e.postgres != nil {
		row("PostgreSQL", address(e.ports.Postgres), fmt.Sprintf(`psql "$(cat %s)"`, relative(e.folder.file(databaseFile))))
	} else {
		row("PostgreSQL", "as in DATABASE_URL", "")
	}
	_ = table.Flush()
	if len(connections) > 0 {
		e.say("")
		table := tabwriter.NewWriter(e.options.Out, 0, 0, 3, ' ', 0)
		for _, s := range connections {
			status := map[bool]reauth.ConnectionStatus{true: reauth.StatusStale, false: reauth.StatusConnected}[s.stale]
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", s.CustomerName, s.Provider, s.ConnectionID, status)
		}
		_ = table.Flush()
	} else {
		e.say("\nregister a connection with PUT %s/v1/connections/{connection_id}", r.APIURL)
	}
	e.say("\ndata and logs are in %s; Ctrl-C stops everything, and the next start resumes", relative(e.folder.path))
}

// pace tells how fast time passes for cases.
func pace(c clock.Fast) string {
	return fmt.Sprintf("for cases time runs %d times as fast: one minute is %s, fourteen days pass in %s; by that clock it is %s",
		c.Speed, words(time.Duration(c.Speed)*time.Minute), words(c.Real(14*24*time.Hour)), c.Now().Format("2006-01-02 15:04 MST"))
}

// words writes a span for people: 2 d 18 h 40 min. From a minute on, what is
// less than half a minute does not count.
func words(span time.Duration) string {
	if span >= time.Minute {
		span = span.Round(time.Minute)
	} else {
		span = span.Round(time.Second)
	}
	var parts []string
	for _, unit := range []struct {
		name string
		span time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}} {
		if n := span / unit.span; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
			span -= n * unit.span
		}
	}
	return strings.Join(parts, " ")
}

// lines lets several goroutines write whole lines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// silent is a logger for Temporal clients that only ask whether it answers.
func silent() log.Logger { return log.NewStructuredLogger(slog.New(slog.DiscardHandler)) }
