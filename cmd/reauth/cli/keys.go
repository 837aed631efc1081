package cli

import (
	"fmt"
	"io"

	"github.com/finch-reauth/reauth/secrets"
)

type keysCommand struct {
	New     keysNewCommand     `cmd:"" help:"Print a new keyset. Keep it safe: without it, sealed tokens cannot be opened."`
	Extend  keysExtendCommand  `cmd:"" help:"Print the keyset with a new key that is not in use yet: the first step of a rotation."`
	Promote keysPromoteCommand `cmd:"" help:"Print the keyset with its newest key in use: the second step, once every process has the extended keyset."`
}

type keysNewCommand struct{}

func (keysNewCommand) Run(s streams) error { return printKeyset(s.out, secrets.Generate) }

type keysExtendCommand struct{ keySettings }

func (c *keysExtendCommand) Run(s streams) error {
	return printKeyset(s.out, func() (string, error) { return secrets.Extend(c.Keyset) })
}

type keysPromoteCommand struct{ keySettings }

func (c *keysPromoteCommand) Run(s streams) error {
	return printKeyset(s.out, func() (string, error) { return secrets.Promote(c.Keyset) })
}

func printKeyset(w io.Writer, make func() (string, error)) error {
	keyset, err := make()
	if err != nil {
		return fmt.Errorf("making a keyset: %w", err)
	}
	_, err = fmt.Fprintln(w, keyset)
	return err
}
