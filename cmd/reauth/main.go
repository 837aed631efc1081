// Command reauth brings stale provider connections back. `reauth --help` lists
// what it can do.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
