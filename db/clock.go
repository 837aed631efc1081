package db

import "time"

// WithClock returns the same database for whom now says what time it is: rows
// that say when something happened say it by that clock.
func (d *DB) WithClock(now func() time.Time) *DB {
	other := *d
	other.now = now
	return &other
}
