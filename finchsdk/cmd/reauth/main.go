// Command reauth is the program reauth, with every call to Finch made by Finch's
// official Go client. It has the same commands and settings: `reauth --help`.
package main

import (
	"os"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/cmd/reauth/cli"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finchsdk"
)

func main() {
	os.Exit(cli.Main(cli.WithFinch(func(cfg finch.Config) activities.FinchClient { return finchsdk.New(cfg) })))
}
