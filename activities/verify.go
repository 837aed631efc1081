package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const (
	// ownerUnproved is why a token waits, and in the end is kept aside, of which
	// nothing says whose it is.
	ownerUnproved = "owner_unproved"
	// proveAtMost is how long such a token waits. It is less than a case stays
	// in verifying.
	proveAtMost = 20 * time.Minute
)

// ErrTypeEntitiesLeft is the type of AwaitWorking's error where the login brought
// some entities back, but not all.
const ErrTypeEntitiesLeft = "entities_left"

// Verify asks the provider whose a minted token is, and adopts it if it is
// this connection's. Another's is kept aside, sealed, and never adopted.
func (a *Activities) Verify(ctx context.Context, in VerifyInput) (Verified, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityVerify)
	defer startPulse(ctx).end()
	a.besideDatabase(ctx, "the phase could not be stored", func(ctx context.Context) error {
		return a.DB.SetPhase(ctx, in.Case.CaseID, reauth.PhaseVerifying, "")
	})
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return a.setAside(ctx, in, reauth.CodeQuarantined, "connection_unknown", Verified{Unknown: true})
	case err != nil:
		return Verified{}, err
	case connection.Status == reauth.StatusRemoved && connection.DisconnectedAt != nil:
		// The provider has ended all of its tokens; should this one work all the
		// same, it is the handle to end it.
		return a.setAside(ctx, in, reauth.CodeQuarantined, "connection_disconnected", Verified{})
	case connection.Status == reauth.StatusRemoved:
		return a.setAside(ctx, in, reauth.CodeQuarantined, "connection_removed", Verified{})
	}
	if err := a.openCase(ctx, in.Case, connection); err != nil && !errors.Is(err, db.ErrRemoved) {
		return Verified{}, err
	}
	if owner := in.Minted.ConnectionID; owner != "" && owner != in.Case.ConnectionID {
		return a.wrongAccount(ctx, in)
	}
	plain, err := a.Keys.Open(in.Minted.Sealed, db.MintedBound(in.Minted.ConnectionID)...)
	switch {
	case errors.Is(err, secrets.ErrUnknownKey):
		// Amid a rotation the key comes, and with it the token.
		return Verified{}, temporal.NewApplicationError(
			"this worker's keyset lacks the key of a minted token ("+err.Error()+"); it is tried again until the key is there", "key_missing")
	case err != nil:
		return a.setAside(ctx, in, reauth.CodeUnusable, "unreadable", Verified{
			Problem: "A minted token could not be opened with our keys. It is kept aside.",
		})
	}
	token := secrets.Secret(plain)
	works, entities, verdict, err := a.examine(ctx, in, connection, token)
	if err != nil || verdict != nil {
		return deref(verdict), err
	}
	out, err := a.adopt(ctx, in, connection, token, works)
	out.Entities = countOf(entities)
	return out, err
}

// examine asks the provider about a token. A verdict means that it cannot be
// adopted. Whose it is, either the exchange has said, or the provider says now.
func (a *Activities) examine(ctx context.Context, in VerifyInput, connection reauth.Connection, token secrets.Secret) (works bool, entities reauth.Entities, verdict *Verified, err error) {
	provider, err := a.provider(connection.Application)
	if err != nil {
		return false, nil, nil, err
	}
	access := Access{ConnectionID: connection.ConnectionID, Token: token}
	at := a.Now()
	inspection, err := provider.Inspect(ctx, access)
	if err == nil {
		switch owner := cmp.Or(inspection.ConnectionID, in.Minted.ConnectionID); owner {
		case connection.ConnectionID:
			if err := a.see(ctx, connection, inspection, nil, at); err != nil {
				return false, nil, nil, err
			}
			return a.works(ctx, provider, access, inspection), inspection.Entities, nil, nil
		case "":
			verdict, err = a.unproved(ctx, in, "its answer names no connection")
			return false, nil, verdict, err
		default:
			// Sealed anew, so that it opens for the connection that it belongs to.
			in.Minted.ConnectionID = owner
			if in.Minted.Sealed, err = a.Keys.Seal([]byte(token.Reveal()), db.MintedBound(owner)...); err != nil {
				return false, nil, nil, err
			}
			out, err := a.wrongAccount(ctx, in)
			return false, nil, &out, err
		}
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleReauth, TroubleSetup:
		if in.Minted.ConnectionID == "" {
			verdict, err = a.unproved(ctx, in, trouble.Error())
		} else {
			err = nil // it is the connection's, but does not work yet
		}
		return false, nil, verdict, err
	case TroubleLimit, TroubleNotSent, TroubleDown, TroubleNoAnswer:
		return false, nil, nil, retry("ask the provider whose the new token is", err)
	default:
		out, err := a.setAside(ctx, in, reauth.CodeLost, "refused", Verified{
			Problem: "The provider refuses the token it has just minted (" + trouble.Error() + "). It is kept aside.",
		})
		return false, nil, &out, err
	}
}

// unproved lets a token wait for a while of which nothing says whose it is, and
// keeps it aside then.
func (a *Activities) unproved(ctx context.Context, in VerifyInput, answer string) (*Verified, error) {
	if a.Now().Sub(in.Minted.MintedAt) < proveAtMost {
		return nil, retryLater("the provider does not say yet whose the new token is: "+answer, ownerUnproved, 0)
	}
	out, err := a.setAside(ctx, in, reauth.CodeLost, ownerUnproved, Verified{
		Problem: "The provider does not say whose the token is that it has just minted (" + answer + "). It was not stored; it is kept aside.",
	})
	return &out, err
}

// works reports whether access is back: the provider says so, or a cheap call
// for data works. Where some entities still want the login, it is not.
func (a *Activities) works(ctx context.Context, provider Provider, access Access, inspection Inspection) bool {
	if inspection.Condition == ConditionConnected {
		return true
	}
	return len(inspection.Entities.Stale()) == 0 && provider.Probe(ctx, access) == nil
}

// adopt stores the token as the connection's next generation, and closes the
// case in the same transaction if it works.
func (a *Activities) adopt(ctx context.Context, in VerifyInput, connection reauth.Connection, token secrets.Secret, works bool) (Verified, error) {
	adoption := db.Adoption{
		ConnectionID: in.Case.ConnectionID,
		Fingerprint:  in.Minted.Fingerprint,
		Source:       "case",
		CaseID:       in.Case.CaseID,
		MintedAt:     in.Minted.MintedAt,
		Seal: func(generation int64) ([]byte, error) {
			return a.Keys.Seal([]byte(token.Reveal()), db.TokenBound(in.Case.ConnectionID, generation)...)
		},
	}
	state := reauth.CodeAdopted
	if works {
		state = reauth.CodeRecovered
		closing, err := a.closing(in.Case, connection, reauth.OutcomeRecovered, "")
		if err != nil {
			return Verified{}, err
		}
		adoption.Close = &closing
	}
	adopted, err := a.DB.Adopt(ctx, adoption)
	switch {
	case errors.Is(err, db.ErrRemoved):
		return a.setAside(ctx, in, reauth.CodeQuarantined, "connection_removed", Verified{})
	case errors.Is(err, db.ErrForeignToken):
		return a.setAside(ctx, in, reauth.CodeWrongAccount, "wrong_account", Verified{
			Problem: "Somebody logged in to another account: the token is stored as another connection's already. It was not stored again.",
		})
	}
	if err != nil {
		return Verified{}, err
	}
	if err := a.DB.SettleCode(ctx, in.Minted.CodeHash, in.Case.ConnectionID, in.Case.CaseID, state, adopted.Generation); err != nil {
		return Verified{}, err
	}
	out := Verified{State: state, Generation: adopted.Generation}
	if !adopted.Current {
		current, err := a.DB.CurrentToken(ctx, in.Case.ConnectionID)
		if err != nil {
			return Verified{}, err
		}
		out.Generation = current.Generation
	}
	return out, nil
}

func (a *Activities) wrongAccount(ctx context.Context, in VerifyInput) (Verified, error) {
	return a.setAside(ctx, in, reauth.CodeWrongAccount, "wrong_account", Verified{
		Problem: "Somebody logged in to another account: the token belongs to connection " + in.Minted.ConnectionID +
			". It was not stored; it is kept aside, since only it can disconnect that connection, which the provider bills.",
	})
}

// setAside keeps a token that cannot be adopted, and settles its code.
func (a *Activities) setAside(ctx context.Context, in VerifyInput, state reauth.CodeState, reason string, out Verified) (Verified, error) {
	out.State = state
	a.Logger.WarnContext(ctx, "A minted token was set aside", "connection_id", in.Minted.ConnectionID, "case_id", in.Case.CaseID, "reason", reason)
	caseID, err := a.storedCase(ctx, in.Case)
	if err != nil {
		return out, err
	}
	err = a.DB.Quarantine(ctx, db.QuarantinedToken{
		ConnectionID: in.Minted.ConnectionID, ExpectedConnectionID: in.Case.ConnectionID, Fingerprint: in.Minted.Fingerprint,
		Application: in.Minted.Application, Sealed: in.Minted.Sealed, Reason: reason, CaseID: caseID, At: a.Now(),
	})
	if err != nil {
		return out, err
	}
	return out, a.endCode(ctx, SettleInput{
		Case: &in.Case, CodeHash: in.Minted.CodeHash, State: state, Problem: out.Problem, SessionOrdinal: in.SessionOrdinal,
	}, caseID, "token_set_aside", reauth.PhaseAwaitingCustomer)
}

// AwaitWorking waits until a token that is stored works, and closes the case then.
func (a *Activities) AwaitWorking(ctx context.Context, in WorkingInput) error {
	ctx = finch.WithPriority(ctx, finch.PriorityVerify)
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if err != nil {
		return err
	}
	provider, err := a.provider(connection.Application)
	if err != nil {
		return err
	}
	access, generation, ok, err := a.access(ctx, in.Case.ConnectionID)
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("open the stored token: there is none"))
	}
	at := a.Now()
	inspection, refusal := provider.Inspect(ctx, access)
	if err := a.see(ctx, connection, inspection, refusal, at); err != nil {
		return err
	}
	if refusal != nil {
		return retry("ask whether the new token works", refusal)
	}
	if inspection.Entities.Partly() && a.elapsed(ctx) >= partlyAtMost {
		return temporal.NewNonRetryableApplicationError("some entities still want the login", ErrTypeEntitiesLeft, nil)
	}
	if !a.works(ctx, provider, access, inspection) {
		return retryLater("the provider says "+inspection.Status, "not_working_yet", 0)
	}
	closing, err := a.closing(in.Case, connection, reauth.OutcomeRecovered, "")
	if err != nil {
		return err
	}
	closing.Generation = generation
	if _, err := a.DB.CloseCase(ctx, closing); err != nil {
		return err
	}
	return a.DB.SettleCode(ctx, in.CodeHash, in.Case.ConnectionID, in.Case.CaseID, reauth.CodeRecovered, generation)
}
