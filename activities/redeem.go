package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// asked is what a heartbeat says while a code may be at the provider. An
// attempt that finds it knows that the one before was never answered.
const asked = "asked"

// besideDatabase bounds what the exchange lets the database cost it: it must
// go on without one.
const besideDatabase = 3 * time.Second

// Redeem exchanges an authorization code for a token and returns the token
// sealed, so that Temporal holds it durably before PostgreSQL must. A code
// whose exchange was answered is never sent again: the token is looked up.
func (a *Activities) Redeem(ctx context.Context, in RedeemInput) (Redeemed, error) {
	hash := reauth.CodeHash(in.Code)
	if in.LookUp {
		return a.lookUp(ctx, hash)
	}
	if minted, ok := a.mintedBefore(ctx, hash); ok {
		return Redeemed{State: reauth.CodeMinted, Minted: minted}, nil
	}
	if in.Application == "" && in.Case != nil { // a case that begins with its code
		a.besideDatabase(ctx, "the connection's application could not be read; the default one is used", func(ctx context.Context) error {
			connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
			in.Application = connection.Application
			if errors.Is(err, db.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	provider, err := a.provider(in.Application)
	if err != nil {
		return a.redeemBlocked(in, wordsOf(err))
	}
	if in.Case != nil && !in.Patient {
		a.besideDatabase(ctx, "the phase could not be stored", func(ctx context.Context) error {
			return a.DB.SetPhase(ctx, in.Case.CaseID, reauth.PhaseRedeeming, "")
		})
	}
	unanswered := wasAsked(ctx)
	// The first heartbeat of an attempt reaches the server before this returns,
	// so that even a killed worker leaves word that the code may be spent.
	beat := startPulse(ctx, asked)
	defer beat.end()
	grant, err := provider.Exchange(ctx, secrets.Secret(in.Code), a.exchangeRedirect(in))
	if err == nil {
		return a.keep(ctx, provider, in, hash, grant)
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleGrant:
		if unanswered {
			return Redeemed{State: reauth.CodeLost, Unanswered: true, Problem: "an earlier answer was lost on the way"}, nil
		}
		return Redeemed{State: reauth.CodeRefused, Problem: trouble.Error()}, nil
	case TroubleClient, TroubleUnauthorized:
		if !unanswered {
			beat.say(ctx)
		}
		return a.redeemBlocked(in, "The provider refuses our own client credentials ("+trouble.Error()+").")
	case TroubleLimit, TroubleNotSent:
		if !unanswered {
			beat.say(ctx)
		}
		return Redeemed{}, retry("exchange a code", err)
	case TroubleDown, TroubleNoAnswer:
		return Redeemed{}, retry("exchange a code", err)
	default:
		return Redeemed{State: reauth.CodeRefused, Problem: trouble.Error()}, nil
	}
}

func (a *Activities) redeemBlocked(in RedeemInput, problem string) (Redeemed, error) {
	if in.Patient {
		return Redeemed{}, retryLater(problem, string(TroubleClient), 0)
	}
	a.Logger.Warn("An operator is needed: a code cannot be exchanged", "problem", problem)
	return Redeemed{State: reauth.CodeReceivedState, Blocked: true, Problem: problem}, nil
}

// lookUp is the last word on a dead code: the token it brought, if it did.
func (a *Activities) lookUp(ctx context.Context, hash string) (Redeemed, error) {
	defer startPulse(ctx).end()
	row, err := a.DB.Minted(ctx, hash)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return Redeemed{State: reauth.CodeLost, Problem: "the provider's answer never reached us"}, nil
	case err != nil:
		return Redeemed{}, err
	}
	return Redeemed{State: reauth.CodeMinted, Minted: &reauth.TokenMinted{
		ConnectionID: row.ConnectionID, CodeHash: hash, Fingerprint: row.Fingerprint, Sealed: row.Sealed, MintedAt: row.MintedAt,
	}}, nil
}

// keep seals a token that was just minted and stores it beside its code, as
// well as the database allows.
func (a *Activities) keep(ctx context.Context, provider Provider, in RedeemInput, hash string, grant Grant) (Redeemed, error) {
	now := a.Now().UTC()
	connectionID := grant.ConnectionID
	if connectionID == "" { // the answer should have it; the token itself knows
		if inspection, err := provider.Inspect(ctx, Access{Token: grant.Token}); err == nil {
			connectionID = inspection.ConnectionID
		}
	}
	if connectionID == "" && in.Case != nil {
		connectionID = in.Case.ConnectionID
	}
	sealed, err := a.Keys.Seal([]byte(grant.Token.Reveal()), mintedBound(connectionID)...)
	if err != nil {
		return Redeemed{}, err
	}
	minted := &reauth.TokenMinted{
		ConnectionID: connectionID, CodeHash: hash, Fingerprint: reauth.Fingerprint(grant.Token.Reveal()),
		Sealed: sealed, MintedAt: now,
	}
	a.besideDatabase(ctx, "a minted token could not be stored beside its code; Temporal has it", func(ctx context.Context) error {
		return a.DB.PutMinted(ctx, hash, connectionID, minted.Fingerprint, sealed, now)
	})
	return Redeemed{State: reauth.CodeMinted, Minted: minted}, nil
}

// mintedBefore looks whether an earlier attempt brought a token for the code.
func (a *Activities) mintedBefore(ctx context.Context, hash string) (*reauth.TokenMinted, bool) {
	var minted *reauth.TokenMinted
	a.besideDatabase(ctx, "minted tokens could not be looked up", func(ctx context.Context) error {
		row, err := a.DB.Minted(ctx, hash)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		if err == nil {
			minted = &reauth.TokenMinted{
				ConnectionID: row.ConnectionID, CodeHash: hash, Fingerprint: row.Fingerprint, Sealed: row.Sealed, MintedAt: row.MintedAt,
			}
		}
		return err
	})
	return minted, minted != nil
}

// besideDatabase does something that would be good to have, but must not hold
// anything up. It outlives an abandoned activity.
func (a *Activities) besideDatabase(ctx context.Context, otherwise string, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), besideDatabase)
	defer cancel()
	if err := do(ctx); err != nil {
		a.Logger.WarnContext(ctx, otherwise, "error", err)
	}
}

func (a *Activities) exchangeRedirect(in RedeemInput) string {
	switch {
	case in.Embedded:
		return ""
	case in.RedirectURI != "":
		return in.RedirectURI
	case in.Case != nil:
		return a.redirectURI(in.Case.Report)
	}
	return a.redirectURI(reauth.Input{})
}

// wasAsked reports whether an earlier attempt sent the code and got no answer.
func wasAsked(ctx context.Context) bool {
	if !activity.HasHeartbeatDetails(ctx) {
		return false
	}
	var said string
	return activity.GetHeartbeatDetails(ctx, &said) == nil && said == asked
}

// HandOver gives a minted token to the case that owns its connection, which is
// opened if there is none.
func (a *Activities) HandOver(ctx context.Context, minted reauth.TokenMinted) error {
	defer startPulse(ctx).end()
	if minted.ConnectionID == "" {
		_, err := a.setAside(ctx, VerifyInput{Minted: minted}, reauth.CodeQuarantined, "connection_unknown", Verified{})
		return err
	}
	a.besideDatabase(ctx, "the code's connection could not be stored", func(ctx context.Context) error {
		return a.DB.SettleCode(ctx, minted.CodeHash, minted.ConnectionID, "", reauth.CodeMinted, 0)
	})
	return a.Hand.SubmitMinted(ctx, minted)
}

// SettleCode records what became of a code that brought no token, which is
// what the page of the person who brought it shows.
func (a *Activities) SettleCode(ctx context.Context, in SettleInput) error {
	defer startPulse(ctx).end()
	connectionID, caseID := "", ""
	if in.Case != nil {
		connectionID, caseID = in.Case.ConnectionID, in.Case.CaseID
		if _, err := a.DB.CaseByID(ctx, caseID); errors.Is(err, db.ErrNotFound) {
			caseID = ""
		} else if err != nil {
			return err
		}
	}
	if err := a.DB.SettleCode(ctx, in.CodeHash, connectionID, caseID, in.State, 0); err != nil {
		return err
	}
	if caseID == "" {
		return nil
	}
	if err := a.DB.SpendSession(ctx, caseID, in.SessionOrdinal); err != nil {
		return err
	}
	if err := a.event(ctx, *in.Case, "code_"+string(in.State), in.Problem); err != nil {
		return err
	}
	phase := reauth.PhaseAwaitingCustomer
	if in.State == reauth.CodeUnusable {
		phase = reauth.PhaseBlocked
	}
	return a.DB.SetPhase(ctx, caseID, phase, in.Problem)
}

// mintedBound and tokenBound are what sealed tokens are bound to: a row copied
// elsewhere does not open.
func mintedBound(connectionID string) []string { return []string{"minted", connectionID} }
