package db

import (
	"context"
	"strings"

	"github.com/finch-reauth/reauth/reauth"
)

// FindConnections finds connections for people: by their own ID or the customer's,
// or by a part of the customer's name, whatever its case.
func (d *DB) FindConnections(ctx context.Context, text string, limit int) (list []reauth.Connection, err error) {
	pattern := "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(text) + "%"
	err = d.read(ctx, "find connections", func(ctx context.Context) error {
		var rows []connectionRow
		if err := d.sqlx.SelectContext(ctx, &rows, selectConnections+`
 WHERE (c.connection_id = $1 OR c.customer_id = $1 OR c.customer_name ILIKE $2) AND ($4 = '' OR c.application = $4)
 ORDER BY c.connection_id = $1 DESC, c.status = 'removed', c.customer_name, c.connection_id LIMIT $3`, text, pattern, page(limit), within(ctx)); err != nil {
			return err
		}
		list = make([]reauth.Connection, len(rows))
		for i, row := range rows {
			if list[i], err = row.connection(); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}
