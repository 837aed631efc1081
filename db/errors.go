package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

var (
	// ErrNotFound: there is no such row, or a row refers to something that
	// does not exist.
	ErrNotFound = errors.New("not found")
	// ErrRemoved: the connection was removed with us.
	ErrRemoved = errors.New("the connection was removed")
	// ErrConnected: the connection was not removed, which it must be first.
	ErrConnected = errors.New("the connection was not removed")
	// ErrBadCursor: the cursor is not one that this list returned.
	ErrBadCursor = errors.New("malformed cursor")
	// ErrForeignToken: the token is stored as another connection's.
	ErrForeignToken = errors.New("the token belongs to another connection")
	// ErrRevoked: the API key was revoked, and stays so.
	ErrRevoked = errors.New("the API key was revoked")
	// ErrExists: there is one already.
	ErrExists = errors.New("there is one already")
	// ErrUnavailable: the database cannot be reached, or is starting, stopping
	// or out of resources; the same call may work later.
	ErrUnavailable = errors.New("the database is unavailable")
)

// wrap says what was being done. It keeps our own errors and the context's, and
// replaces the driver's by what is safe to show: the driver's hold the values
// of rows, which may be e-mail addresses.
func wrap(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, safe(ctx, err))
}

func safe(ctx context.Context, err error) error {
	server, isServer := errors.AsType[*pq.Error](err)
	network, isNetwork := errors.AsType[*net.OpError](err)
	broken := errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case (isServer || isNetwork || broken) && ctx.Err() != nil:
		return ctx.Err()
	case isServer:
		return serverError(server)
	case isNetwork:
		return fmt.Errorf("%w: %w", ErrUnavailable, network)
	case broken:
		return fmt.Errorf("%w: the connection to it broke", ErrUnavailable)
	}
	return err
}

func serverError(e *pq.Error) error {
	switch {
	case e.Code == pqerror.ForeignKeyViolation:
		return fmt.Errorf("%w (%s)", ErrNotFound, e.Constraint)
	case e.Constraint == "tokens_one_row_per_token":
		return ErrForeignToken // its other cause, the same connection, is ruled out by the connection's lock
	}
	switch e.Code.Class() {
	case "08", "53", "57": // connection, resources, operator's intervention
		return fmt.Errorf("%w: %s (SQLSTATE %s)", ErrUnavailable, e.Message, e.Code)
	case "22": // data: the message repeats the value
		return fmt.Errorf("PostgreSQL refused a value (SQLSTATE %s)", e.Code)
	}
	return fmt.Errorf("PostgreSQL: %s (SQLSTATE %s)", e.Message, e.Code)
}

var address = regexp.MustCompile(`(?:"[^"]*"|[^\s<>()\[\]",;:]+)(?:@|%40)[^\s<>()\[\]",;:]+`)

// plain makes free text fit to be stored outside contacts: no e-mail address,
// nothing that PostgreSQL cannot hold, 2000 bytes at most.
func plain(text string) string {
	const limit = 2000
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	text = address.ReplaceAllString(text, "[address]")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + " …"
	}
	return text
}
