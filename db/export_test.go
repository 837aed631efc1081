package db

import "time"

// SetNow sets the clock.
func (d *DB) SetNow(now func() time.Time) { d.now = now }

// TablesOfConnections are those whose rows are forgotten with a connection.
func TablesOfConnections() (tables []string) {
	for _, b := range aboutConnections() {
		tables = append(tables, b.table)
	}
	return tables
}

// Explain is how Retire finds rows.
func (r Retained) Explain() string {
	return `EXPLAIN (COSTS OFF) SELECT r.ctid FROM ` + r.Table + ` r WHERE ` + r.old + ` ORDER BY r.` + r.by + ` LIMIT 500`
}
