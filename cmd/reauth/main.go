// Command reauth brings stale provider connections back. `reauth --help` lists
// what it can do.
package main

import (
	"os"

	"github.com/finch-reauth/reauth/cmd/reauth/cli"
)

func main() { os.Exit(cli.Main()) }
