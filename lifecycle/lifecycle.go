// Package lifecycle ends connections for good: a connection that nobody wants any
// more, and one that somebody made by logging in to the wrong account. The provider
// bills each until it is disconnected, which takes a token of its own.
package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

var (
	// ErrNoToken: no token is stored with which the connection could be
	// disconnected.
	ErrNoToken = errors.New("no token of the connection is stored")
	// ErrUnavailable: the provider cannot be reached, or cannot just now. The same
	// call may work later.
	ErrUnavailable = errors.New("the provider does not answer just now")
	// ErrUnknownApplication is what Disconnect and Introspect return for an
	// application that is not configured.
	ErrUnknownApplication = errors.New("its application is not configured")
	// ErrInUse: the token in quarantine belongs to a connection that is registered.
	ErrInUse = errors.New("the token belongs to a connection that is registered")
	// ErrUnreadable: none of our keys opens the token.
	ErrUnreadable = errors.New("the token cannot be opened with our keys")
	// ErrUnowned: the provider does not say whose the token is.
	ErrUnowned = errors.New("the provider does not say whose the token is")
)

// Refused is the error of a provider that does not disconnect a connection.
type Refused struct {
	// Code is the provider's own word for why.
	Code string
}

func (e Refused) Error() string { return "the provider refuses to disconnect it (" + e.Code + ")" }

// Ender ends connections. Its fields are all needed.
type Ender struct {
	DB   *db.DB
	Keys *secrets.Keys
	// Disconnect ends the connection of a token at its provider, and Introspect
	// asks whose one is.
	Disconnect func(ctx context.Context, application string, token secrets.Secret) error
	Introspect func(ctx context.Context, application string, token secrets.Secret) (finch.Introspection, error)
	Now        func() time.Time
	// By is who does it, as timelines name them; nobody in particular if empty.
	By string
}

// Ended is how a connection ended at its provider.
type Ended struct {
	How db.EndedHow
	// Code is the provider's own word, where it knew the connection no longer.
	Code string
}

// Remove disconnects a connection at its provider and removes it then: nothing is
// removed unless the provider has ended it, or knows it no longer. A connection
// that was removed and disconnected before stays so, and removed is false. The error is ErrNoToken,
// ErrUnavailable, a Refused, or the database's; what came of it is in the timeline.
func (e Ender) Remove(ctx context.Context, connectionID string) (removed bool, err error) {
	c, err := e.DB.Connection(ctx, connectionID)
	switch {
	case err != nil:
		return false, err
	case c.Status == reauth.StatusRemoved && c.DisconnectedAt != nil:
		return false, nil
	}
	ended, err := e.disconnect(ctx, c)
	if err != nil {
		e.note(ctx, c, "disconnect_failed", "It was to be disconnected at the provider and removed, but was not: "+err.Error()+".")
		return false, err
	}
	said := "It was disconnected at the provider."
	if ended.How == db.EndedGone {
		said = "It was to be disconnected at the provider, which knew it no longer (" + ended.Code + ")."
	}
	e.note(ctx, c, "disconnected", said)
	return e.DB.RemoveDisconnected(ctx, connectionID)
}

func (e Ender) disconnect(ctx context.Context, c reauth.Connection) (Ended, error) {
	token, err := e.DB.CurrentToken(ctx, c.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound) && c.Status == reauth.StatusDisconnected:
		return Ended{How: db.EndedGone, Code: "connection_not_found"}, nil // it said so itself
	case errors.Is(err, db.ErrNotFound):
		return Ended{}, ErrNoToken
	case err != nil:
		return Ended{}, err
	}
	plain, err := e.Keys.Open(token.Sealed, db.TokenBound(c.ConnectionID, token.Generation)...)
	if err != nil {
		return Ended{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return e.end(ctx, c.Application, secrets.Secret(plain))
}

// end disconnects the connection of a token. One that the provider knows no
// longer has ended already.
func (e Ender) end(ctx context.Context, application string, token secrets.Secret) (Ended, error) {
	err := e.Disconnect(ctx, application, token)
	var refusal *finch.Error
	switch {
	case err == nil:
		return Ended{How: db.EndedDisconnected}, nil
	case errors.Is(err, ErrUnknownApplication):
		return Ended{}, ErrUnknownApplication
	case !errors.As(err, &refusal):
		return Ended{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case refusal.Temporary():
		return Ended{}, fmt.Errorf("%w: %s", ErrUnavailable, codeOf(refusal))
	case gone(refusal):
		return Ended{How: db.EndedGone, Code: codeOf(refusal)}, nil
	}
	return Ended{}, Refused{Code: codeOf(refusal)}
}

// gone reports whether the provider knows a token's connection no longer. That
// somebody must log in or set something up is another matter: then it is there.
func gone(refusal *finch.Error) bool {
	return (refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusNotFound || refusal.IsConnectionNotFound()) &&
		!refusal.IsReauth() && !refusal.IsAccountSetup()
}

func codeOf(refusal *finch.Error) string {
	return cmp.Or(refusal.FinchCode, refusal.Name, "status "+strconv.Itoa(refusal.Status))
}

// byWhom says in a line of the timeline who did it, where that is known.
func (e Ender) byWhom(detail string) string {
	if e.By == "" {
		return detail
	}
	return detail + " By " + e.By + "."
}

// note adds a line to the timeline of the connection's newest case, or to the
// connection's own. It must not keep anything from happening.
func (e Ender) note(ctx context.Context, c reauth.Connection, kind, detail string) {
	event := db.Event{ConnectionID: c.ConnectionID, Kind: kind, Detail: e.byWhom(detail), At: e.Now()}
	if newest, err := e.DB.NewestCase(ctx, c.ConnectionID); err == nil {
		event.CaseID = newest.CaseID
	}
	_ = e.DB.AddEvent(ctx, event)
}

// DisconnectQuarantined disconnects the connection of a token in quarantine, and
// erases the token then. A token that has ended before stays as it is. The error is
// ErrInUse, ErrUnreadable, ErrUnowned, ErrUnknownApplication, ErrUnavailable, a Refused, db.ErrNotFound or
// the database's.
func (e Ender) DisconnectQuarantined(ctx context.Context, fingerprint string) (db.QuarantinedToken, error) {
	q, err := e.DB.Quarantined(ctx, fingerprint)
	if err != nil || q.EndedAt != nil {
		return q, err
	}
	plain, err := e.Keys.Open(q.Sealed, db.MintedBound(q.ConnectionID)...)
	if err != nil {
		return q, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	token, application := secrets.Secret(plain), e.applicationOf(ctx, q)
	owner := q.ConnectionID
	if owner == "" {
		said, err := e.Introspect(ctx, application, token)
		var refusal *finch.Error
		switch {
		case err == nil:
			owner = said.ConnectionID
		case errors.As(err, &refusal) && gone(refusal):
			return e.erase(ctx, q, Ended{How: db.EndedGone, Code: codeOf(refusal)})
		case errors.Is(err, ErrUnknownApplication):
			return q, ErrUnknownApplication
		case errors.As(err, &refusal) && !refusal.Temporary():
			return q, ErrUnowned
		default:
			return q, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	// Somebody may have logged in to the account of another customer: that
	// connection must not end because its token came to the wrong place.
	switch c, err := e.DB.Connection(ctx, owner); {
	case err == nil && c.Status != reauth.StatusRemoved:
		return q, ErrInUse
	case err != nil && !errors.Is(err, db.ErrNotFound):
		return q, err
	}
	ended, err := e.end(ctx, application, token)
	if err != nil {
		return q, err
	}
	return e.erase(ctx, q, ended)
}

// ForgetQuarantined erases a token from quarantine, and does nothing else: the
// connection that it belongs to goes on, and can only be ended with the provider's
// own means.
func (e Ender) ForgetQuarantined(ctx context.Context, fingerprint string) (db.QuarantinedToken, error) {
	q, err := e.DB.Quarantined(ctx, fingerprint)
	if err != nil {
		return q, err
	}
	return e.erase(ctx, q, Ended{How: db.EndedForgotten})
}

func (e Ender) erase(ctx context.Context, q db.QuarantinedToken, ended Ended) (db.QuarantinedToken, error) {
	whose := "of a connection that nobody knows"
	if q.ConnectionID != "" {
		whose = "of connection " + q.ConnectionID
	}
	said := map[db.EndedHow]string{
		db.EndedDisconnected: "The token " + whose + " that was kept aside has disconnected it at the provider, and was erased.",
		db.EndedGone:         "The token " + whose + " that was kept aside was erased: the provider knows it no longer (" + ended.Code + ").",
		db.EndedForgotten:    "The token " + whose + " that was kept aside was erased. The connection was not disconnected.",
	}[ended.How]
	return e.DB.EndQuarantined(ctx, q.Fingerprint, ended.How, ended.Code, e.byWhom(said), e.Now())
}

// applicationOf is whose client was given a token in quarantine: what was put on
// record, or else the application of the connection that it was meant for.
func (e Ender) applicationOf(ctx context.Context, q db.QuarantinedToken) string {
	if q.Application == "" && q.ExpectedConnectionID != "" {
		if c, err := e.DB.Connection(ctx, q.ExpectedConnectionID); err == nil {
			return c.Application
		}
	}
	return cmp.Or(q.Application, reauth.DefaultApplication)
}
