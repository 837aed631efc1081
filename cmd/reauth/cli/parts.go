package cli

import (
	"os"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
)

// Main runs the program with the arguments, streams and environment that it
// was started with, and returns its exit code.
func Main(options ...Option) int { return run(os.Args[1:], os.Stdout, os.Stderr, options...) }

// Option exchanges a part of the program.
type Option func(*parts)

// parts are what the commands are put together from, where there is a choice.
type parts struct {
	// finch makes a client of Finch.
	finch func(finch.Config) activities.FinchClient
}

// WithFinch has every command call Finch through another client.
func WithFinch(client func(finch.Config) activities.FinchClient) Option {
	return func(p *parts) { p.finch = client }
}

func partsWith(options []Option) parts {
	p := parts{finch: func(cfg finch.Config) activities.FinchClient { return finch.New(cfg) }}
	for _, option := range options {
		option(&p)
	}
	return p
}
