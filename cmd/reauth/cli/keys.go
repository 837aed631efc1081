package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
)

type keysCommand struct {
	New    keysNewCommand    `cmd:"" help:"Make a new keyset. Keep it safe: without it, sealed tokens cannot be opened."`
	Rotate keysRotateCommand `cmd:"" help:"Take the next step of a rotation: add a new key to the keyset or, once every process has it, put it to use."`
	Reseal keysResealCommand `cmd:"" help:"Seal what is stored anew with the key in use."`
	Status keysStatusCommand `cmd:"" help:"Show which keys there are, what needs each, and which may be retired."`
	Retire keysRetireCommand `cmd:"" help:"Take a key out of the keyset that nothing needs any more."`
	Wrap   keysWrapCommand   `cmd:"" help:"Encrypt the keyset under a key of a key management service."`
	API    apiKeysCommand    `cmd:"" name:"api" help:"Make, list and revoke keys to the HTTP API."`
}

// keyServices are the key management services that can open a wrapped keyset. To
// use one, add its Tink client here: awskms.NewClientWithOptions("aws-kms://"),
// say, of github.com/tink-crypto/tink-go-awskms. Nothing else needs to change.
func keyServices() []secrets.KMS { return nil }

// keys loads the keyset.
func (s keySettings) keys() (*secrets.Keys, error) {
	keys, err := secrets.Load(s.Keyset, keyServices()...)
	if err != nil {
		return nil, malformed("REAUTH_KEYSET", err)
	}
	return keys, nil
}

// keysetOutput is where a new version of a keyset goes.
type keysetOutput struct {
	Out string `short:"o" placeholder:"FILE" help:"Write the keyset there, all at once and for its owner only, instead of printing it."`
}

// put prints a keyset, or puts it into a file. A file is replaced at once, so that
// the keyset that is read from it is never lost half-way.
func (o keysetOutput) put(s streams, keyset string) error {
	if o.Out == "" {
		_, err := fmt.Fprintln(s.out, keyset)
		return err
	}
	staged, err := os.CreateTemp(filepath.Dir(o.Out), "."+filepath.Base(o.Out)+"-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("writing the keyset: %w", err)
	}
	defer os.Remove(staged.Name())
	_, err = staged.WriteString(keyset + "\n")
	err = errors.Join(err, staged.Sync(), staged.Close())
	if err == nil {
		err = os.Rename(staged.Name(), o.Out)
	}
	if err != nil {
		return fmt.Errorf("writing the keyset: %w", err)
	}
	fmt.Fprintf(s.err, "written to %s\n", o.Out)
	return nil
}

type keysNewCommand struct {
	keysetOutput
	KMS string `name:"kms" placeholder:"URI" help:"Encrypt it under this key of a key management service."`
}

func (c *keysNewCommand) Run(s streams) error {
	if c.Out != "" {
		if _, err := os.Lstat(c.Out); !errors.Is(err, fs.ErrNotExist) {
			return usageError{fmt.Errorf("%s exists; a new keyset must not replace an old one, which opens what is stored: `reauth keys rotate` adds a key to it", c.Out)}
		}
	}
	keyset, err := secrets.Generate()
	if err == nil && c.KMS != "" {
		keyset, err = secrets.Wrap(keyset, c.KMS, keyServices()...)
	}
	if err != nil {
		return fmt.Errorf("making a keyset: %w", err)
	}
	return c.put(s, keyset)
}

type keysWrapCommand struct {
	keySettings
	keysetOutput
	KMS string `name:"kms" required:"" placeholder:"URI" help:"The key of a key management service, or plain to take the wrapping off."`
}

func (c *keysWrapCommand) Run(s streams) error {
	uri := c.KMS
	if uri == "plain" {
		uri = ""
	}
	keyset, err := secrets.Wrap(c.Keyset, uri, keyServices()...)
	if err != nil {
		return fmt.Errorf("wrapping the keyset: %w", err)
	}
	return c.put(s, keyset)
}

// spareDatabase is the database where a command can do without it.
type spareDatabase struct {
	DatabaseURL string `env:"DATABASE_URL" hidden:"" help:"URL of the PostgreSQL database."`
}

type keysRotateCommand struct {
	keySettings
	spareDatabase
	keysetOutput
	Force bool `help:"Put the new key to use although not every process is known to have it."`
}

func (c *keysRotateCommand) Run(ctx context.Context, s streams) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	if newest(keys.SealKeyIDs()) == keys.SealKeyID() && newest(keys.LinkKeyIDs()) == keys.LinkKeyID() {
		keyset, err := secrets.Extend(c.Keyset, keyServices()...)
		if err != nil {
			return fmt.Errorf("adding a key: %w", err)
		}
		if err := c.put(s, keyset); err != nil {
			return err
		}
		fmt.Fprintln(s.err, "The keyset has a new key, which opens and does not seal yet. Give the keyset to every process and restart them,\nthen run `reauth keys rotate` with it once more.")
		return nil
	}
	if !c.Force {
		if err := c.everyProcessHas(ctx, s, newest(keys.SealKeyIDs()), newest(keys.LinkKeyIDs())); err != nil {
			return err
		}
	}
	keyset, err := secrets.Promote(c.Keyset, keyServices()...)
	if err != nil {
		return fmt.Errorf("putting the new key to use: %w", err)
	}
	if err := c.put(s, keyset); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "The new key is the one in use. Give the keyset to every process and restart them, then run `reauth keys reseal` with it.\n`reauth keys status` says when the old key may be retired.")
	return nil
}

func (c *keysRotateCommand) everyProcessHas(ctx context.Context, s streams, seal, links uint32) error {
	if c.DatabaseURL == "" {
		return usageError{errors.New("the next step puts the new key to use, and a process that lacks it could not go on: give DATABASE_URL, which tells whether every process has it, or --force if you know")}
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	return everyHolderHas(ctx, database, s, seal, links, "restart them with the keyset that has it")
}

// everyHolderHas makes sure that no running process lacks a key. What would help
// is said in advice.
func everyHolderHas(ctx context.Context, database *db.DB, s streams, seal, links uint32, advice string) error {
	holders, err := database.Holders(ctx)
	if err != nil {
		return fmt.Errorf("asking which processes have the key: %w", err)
	}
	var lacking []string
	for _, h := range holders {
		if !slices.Contains(h.SealKeys, seal) || !slices.Contains(h.LinkKeys, links) {
			lacking = append(lacking, h.Name)
		}
	}
	switch {
	case len(lacking) > 0:
		return fmt.Errorf("%d of %d running processes lack the newest key: %s; %s, or give --force", len(lacking), len(holders), strings.Join(lacking, ", "), advice)
	case len(holders) == 0:
		fmt.Fprintln(s.err, "No process says that it runs.")
	default:
		fmt.Fprintf(s.err, "All %d running processes have the newest key.\n", len(holders))
	}
	return nil
}

func newest(ids []uint32) uint32 { return ids[len(ids)-1] }
