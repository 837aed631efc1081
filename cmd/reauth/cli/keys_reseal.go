package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
)

type keysResealCommand struct {
	databaseSettings
	keySettings
	Batch int  `default:"500" placeholder:"N" help:"How many values to seal at a time."`
	Force bool `help:"Seal with the key in use although not every process is known to have it."`
}

func (c *keysResealCommand) Run(ctx context.Context, s streams) error {
	if c.Batch < 1 || c.Batch > 10_000 {
		return usageError{errors.New("--batch must be from 1 to 10000")}
	}
	keys, err := c.keys()
	if err != nil {
		return err
	}
	database, err := openDatabase(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	if !c.Force {
		if err := everyHolderHas(ctx, database, s, keys.SealKeyID(), keys.LinkKeyID(), "a value that is sealed with it would be closed to them: restart them with this keyset"); err != nil {
			return err
		}
	}
	left := 0
	for _, column := range db.SealedColumns() {
		n, err := reseal(ctx, database, keys, column, c.Batch, s)
		left += n
		if err != nil {
			return fmt.Errorf("%w; what is sealed stays so: run it again to go on", err)
		}
	}
	if err := supersede(ctx, database, keys, c.Batch, s); err != nil {
		return fmt.Errorf("%w; run it again to go on", err)
	}
	if left > 0 {
		return fmt.Errorf("%d values are left that another key sealed; `reauth keys status` shows which", left)
	}
	fmt.Fprintln(s.out, "Everything that is stored is sealed with the key in use. What Temporal keeps is not sealed anew; `reauth keys status` says how long that needs the old one.")
	return nil
}

// reseal seals a column's values anew, and returns how many are left.
func reseal(ctx context.Context, database *db.DB, keys *secrets.Keys, column db.SealedColumn, batch int, s streams) (left int, err error) {
	others := func() (n int, err error) {
		count, err := database.SealedByKey(ctx, column)
		for id, values := range count {
			if id != keys.SealKeyID() {
				n += values
			}
		}
		return n, err
	}
	total, err := others()
	if err != nil {
		return 0, err
	}
	bar := newBar(s.err, column.Table, total)
	done := 0
	why := map[string]int{}
	// A second pass takes what other transactions held during the first.
	for range 2 {
		clear(why)
		var after []string
		for {
			out, err := database.Reseal(ctx, column, db.Resealing{
				Primary: keys.SealKeyID(), After: after, Limit: batch,
				Seal: func(sealed []byte, bound []string) ([]byte, error) { return keys.Reseal(sealed, bound...) },
			})
			if err != nil {
				bar.end()
				return total - done, err
			}
			done += out.Done
			for _, failure := range out.Failed {
				why[failure.Error()]++
			}
			bar.at(done)
			if after = out.Next; after == nil {
				break
			}
		}
		if left, err = others(); err != nil || left == 0 {
			break
		}
	}
	bar.end()
	if err != nil {
		return left, err
	}
	fmt.Fprintf(s.out, "%s: %d sealed anew, %d left\n", column.Table, done, left)
	for problem, n := range why {
		fmt.Fprintf(s.out, "  %d do not open: %s\n", n, problem)
	}
	return left, nil
}

// supersede lets no further message need an old key for its link.
func supersede(ctx context.Context, database *db.DB, keys *secrets.Keys, batch int, s streams) error {
	total := 0
	for {
		n, err := database.SupersedeLinks(ctx, keys.LinkKeyID(), batch)
		if err != nil {
			return err
		}
		if total += n; n < batch {
			break
		}
	}
	count, err := database.LinksByKey(ctx)
	if err != nil {
		return err
	}
	left := 0
	for id, links := range count {
		if id != keys.LinkKeyID() {
			left += links
		}
	}
	fmt.Fprintf(s.out, "links: %d still lead where they led, and their recipients' next messages get new ones; %d left\n", total, left)
	return nil
}

// bar shows on a terminal how far something is.
type bar struct {
	w          io.Writer // nil where nobody watches
	what       string
	total, was int
}

func newBar(w io.Writer, what string, total int) *bar {
	b := &bar{what: what, total: total, was: -1}
	if file, ok := w.(*os.File); ok && total > 0 {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.w = w
		}
	}
	b.at(0)
	return b
}

func (b *bar) at(done int) {
	const width = 30
	if b.w == nil {
		return
	}
	full := min(done, b.total) * width / b.total
	if full == b.was && done < b.total {
		return
	}
	b.was = full
	fmt.Fprintf(b.w, "\r%-20s [%s%s] %d of %d", b.what, strings.Repeat("=", full), strings.Repeat(" ", width-full), min(done, b.total), b.total)
}

// end takes the bar away.
func (b *bar) end() {
	if b.w != nil {
		fmt.Fprintf(b.w, "\r%s\r", strings.Repeat(" ", 90))
	}
}
