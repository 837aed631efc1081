package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// databasePatience bounds what is asked of the database while a code waits:
// the code must reach Temporal even if PostgreSQL hangs.
const databasePatience = 3 * time.Second

// delivery is a code on its way to its case. Without a connection it goes to
// RedeemWorkflow, which finds out whose it is.
type delivery struct {
	ConnectionID string              `json:"-"`
	CaseID       string              `json:"-"`
	Application  string              `json:"application,omitempty"`
	Message      reauth.CodeReceived `json:"message"`
}

func (d delivery) hash() string { return reauth.CodeHash(d.Message.Code) }

// submit hands a code to Temporal and returns the run that took it, if it is
// a case's.
func submit(ctx context.Context, to Starter, d delivery) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, temporalTimeout)
	defer cancel()
	if d.ConnectionID == "" {
		_, err := to.Redeem(ctx, reauth.RedeemInput{Code: d.Message.Code, Application: d.Application, RedirectURI: d.Message.RedirectURI})
		return "", err
	}
	return to.SubmitCode(ctx, d.ConnectionID, d.Message)
}

// deliver brings a code to its case: through Temporal, or, while Temporal
// cannot be reached, through the database, from where the Forwarder brings it.
// Its arrival is noted only once one of the two has it, so that a code that is
// known is never lost. It returns the case that took the code, where that is
// known. An error means that neither could be reached.
func (s *server) deliver(ctx context.Context, d delivery) (caseID string, err error) {
	ctx = context.WithoutCancel(ctx) // the caller may go away, the code must not
	caseID = d.CaseID
	run, err := submit(ctx, s.Starter, d)
	switch {
	case err == nil && run != "":
		caseID = run
	case err != nil:
		s.complain(ctx, "Temporal failed", "handing a code over; it is held", err)
		if err := s.hold(ctx, d); err != nil {
			s.complain(ctx, "a code could not be held", "handing a code over", err)
			return "", err
		}
		s.metrics.held(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if _, _, err := s.DB.ReceiveCode(ctx, d.hash(), d.ConnectionID, caseID); err != nil {
		// The case writes the same row when it settles the code.
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "a code's arrival was not noted", slog.String("error", err.Error()))
	}
	return caseID, nil
}

// hold keeps a code, sealed, until Temporal can be reached.
func (s *server) hold(ctx context.Context, d delivery) error {
	plain, err := json.Marshal(d)
	if err != nil {
		return errors.New("a code cannot be encoded")
	}
	sealed, err := s.Keys.Seal(plain, heldBound(d.hash(), d.ConnectionID)...)
	if err != nil {
		return fmt.Errorf("sealing a code: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	return s.DB.HoldCode(ctx, d.hash(), d.ConnectionID, d.CaseID, sealed)
}

// heldBound is what the seal of a held code is bound to: a code that is moved
// to another connection's row does not open.
func heldBound(hash, connectionID string) []string { return []string{"code", hash, connectionID} }
