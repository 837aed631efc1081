package db

import (
	"context"
	"database/sql/driver"
	"net"
	"sync"
	"time"

	"github.com/lib/pq"
)

// silence is how long a server may take to end a statement that it was told to
// cancel, before its connection is given up.
const silence = time.Second

// connector opens connections on which every call ends with its context, also
// when the server or the network has gone silent. When a context ends, lib/pq
// asks the server, over a second connection, to cancel the statement, and then
// waits for its answer without limit. The dialer takes that second dial for the
// sign that it is, and limits the wait. To begin a transaction lib/pq does not
// look at the context at all; conn does.
type connector struct{ config pq.Config }

func (c connector) Driver() driver.Driver { return pq.Driver{} }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	d := &dialer{}
	inner, err := pq.NewConnectorConfig(c.config)
	if err != nil {
		return nil, err
	}
	inner.Dialer(d)
	stop := context.AfterFunc(ctx, func() { d.limit(0) })
	made, err := inner.Connect(ctx)
	if !stop() { // the context ended, and the connection with it
		if err == nil {
			_ = made.Close()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	d.established()
	return conn{made.(driverConn), d}, nil // lib/pq's connections are all of this
}

// driverConn is what a connection of lib/pq can do.
type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type conn struct {
	driverConn
	dialer *dialer
}

func (c conn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	stop := context.AfterFunc(ctx, func() { c.dialer.limit(0) })
	tx, err := c.driverConn.BeginTx(ctx, options)
	if !stop() {
		return nil, driver.ErrBadConn // its deadline is over
	}
	return tx, err
}

// dialer dials for one connection, and for the requests to cancel what runs on it.
type dialer struct {
	net.Dialer
	mu          sync.Mutex
	conn        net.Conn
	isConnected bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	cancelling := d.isConnected
	d.mu.Unlock()
	if cancelling {
		d.limit(silence)
		return d.Dialer.DialContext(ctx, network, address)
	}
	conn, err := d.Dialer.DialContext(ctx, network, address)
	if err == nil {
		d.mu.Lock()
		d.conn = conn
		d.mu.Unlock()
	}
	return conn, err
}

func (d *dialer) established() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.isConnected = true
}

// limit lets every wait on the connection end within a time.
func (d *dialer) limit(within time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		_ = d.conn.SetDeadline(time.Now().Add(within)) // it fails on a closed connection only
	}
}
