// Package privacy forgets: everything that is known of a connection, or the
// address of a person, in the database and in what Temporal keeps.
package privacy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

// DefaultWait is how long an open case may take to end.
const DefaultWait = 2 * time.Minute

// askAgain is how often it is asked whether it has.
const askAgain = 250 * time.Millisecond

var (
	// ErrUnknown: nothing is known of the connection.
	ErrUnknown = errors.New("nothing is known of this connection")
	// ErrStillOpen: a workflow about the connection is open, and what is open is
	// never deleted.
	ErrStillOpen = starter.ErrStillOpen
)

// Temporal is what Temporal is asked; *starter.Starter does it.
type Temporal interface {
	Cancel(ctx context.Context, connectionID string, m reauth.Cancel) error
	ContactsChanged(ctx context.Context, connectionID string, m reauth.ContactsChanged) error
	OpenWorkflow(ctx context.Context, h starter.Histories) (workflowID string, err error)
	CountHistories(ctx context.Context, h starter.Histories) (n int, err error)
	DeleteHistories(ctx context.Context, h starter.Histories) (n int, err error)
}

// Forgetter forgets.
type Forgetter struct {
	DB       *db.DB
	Temporal Temporal
	// By is who wants it, for the timeline of a case that it ends.
	By string
	// Wait is how long an open case may take to end; DefaultWait if 0.
	Wait time.Duration
}

// Connection is what is, or was, known of a connection.
type Connection struct {
	ConnectionID string `json:"connection_id"`
	// Rows counts what the database holds, or held, by table; Histories are the
	// closed workflow runs that Temporal lists, or that are gone from it.
	Rows      reauth.Deleted `json:"rows"`
	Histories int            `json:"histories"`
	// Open is the workflow that has to end first; empty if none is open.
	Open string `json:"open_workflow,omitempty"`
}

// LookAt says what Forget would delete.
func (f Forgetter) LookAt(ctx context.Context, connectionID string) (c Connection, err error) {
	c.ConnectionID = connectionID
	if err := reauth.CheckConnectionID(connectionID); err != nil {
		return c, err
	}
	if c.Rows, err = f.DB.CountConnection(ctx, connectionID); err != nil {
		return c, err
	}
	histories, err := f.histories(ctx, connectionID)
	if err != nil {
		return c, err
	}
	if c.Open, err = f.Temporal.OpenWorkflow(ctx, histories); err != nil {
		return c, err
	}
	if c.Histories, err = f.Temporal.CountHistories(ctx, histories); err != nil {
		return c, err
	}
	if len(c.Rows) == 0 && c.Histories == 0 && c.Open == "" {
		return c, ErrUnknown
	}
	return c, nil
}

func (f Forgetter) histories(ctx context.Context, connectionID string) (starter.Histories, error) {
	codes, err := f.DB.CodesOf(ctx, connectionID)
	return starter.Histories{ConnectionID: connectionID, CodeHashes: codes}, err
}

// Connection removes a connection if it was not removed before, waits until its
// open case has ended, and deletes the histories of its closed workflows and every
// row about it. Whatever fails or is killed may be repeated: it goes on. Nothing
// goes while a workflow is open: then the error wraps ErrStillOpen.
func (f Forgetter) Connection(ctx context.Context, connectionID string) (Connection, error) {
	found, err := f.LookAt(ctx, connectionID)
	if err != nil {
		return found, err
	}
	if _, err := f.DB.RemoveConnection(ctx, connectionID); err != nil && !errors.Is(err, db.ErrNotFound) {
		return found, err
	}
	histories, err := f.histories(ctx, connectionID)
	if err != nil {
		return found, err
	}
	err = f.Temporal.Cancel(ctx, connectionID, reauth.Cancel{Reason: reauth.ReasonConnectionRemoved, By: f.By})
	if err != nil && !errors.Is(err, starter.ErrNoOpenCase) {
		return found, err
	}
	if found.Open, err = f.ended(ctx, histories); err != nil {
		return found, err
	}
	// A code that arrived while its case was ending belongs to it too.
	if histories, err = f.histories(ctx, connectionID); err != nil {
		return found, err
	}
	// The histories go first: the codes in the database tell which they are.
	if found.Histories, err = f.Temporal.DeleteHistories(ctx, histories); err != nil {
		return found, err
	}
	found.Rows, err = f.DB.ForgetConnection(ctx, connectionID)
	return found, err
}

// ended waits until no workflow is open any more.
func (f Forgetter) ended(ctx context.Context, histories starter.Histories) (open string, err error) {
	wait := f.Wait
	if wait == 0 {
		wait = DefaultWait
	}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	for {
		if open, err = f.Temporal.OpenWorkflow(ctx, histories); err != nil || open == "" {
			return open, err
		}
		select {
		case <-ctx.Done():
			return open, ctx.Err()
		case <-patience.C:
			return open, fmt.Errorf("%w: %s was told to end, and has not after %s", ErrStillOpen, open, wait)
		case <-time.After(askAgain):
		}
	}
}

// Contact blanks an address wherever it is a contact's, and tells the open cases
// that they have lost somebody. untold counts those that could not be told: they
// find out at their next step.
func (f Forgetter) Contact(ctx context.Context, email string, optOut bool) (forgotten db.ForgottenContact, untold int, err error) {
	if forgotten, err = f.DB.ForgetContact(ctx, email, optOut); err != nil {
		return forgotten, 0, err
	}
	for _, c := range forgotten.Cases {
		if err := f.Temporal.ContactsChanged(ctx, c.ConnectionID, reauth.ContactsChanged{Reason: "A contact was forgotten."}); err != nil {
			untold++
		}
	}
	return forgotten, untold, nil
}
