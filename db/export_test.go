package db

import "time"

// SetNow sets the clock.
func (d *DB) SetNow(now func() time.Time) { d.now = now }
