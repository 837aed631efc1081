package activities

import (
	"cmp"
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/applications"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// What a heartbeat says while something may be done of which nobody hears. An
// attempt that finds it knows that the one before was never answered.
const (
	asked   = "asked"   // a code may be at the provider
	sending = "sending" // a mail may be at the mail server
)

// besideExchange bounds what the exchange lets the database, and a second look
// at the provider, cost it: it must go on without them.
const besideExchange = 3 * time.Second

// Redeem exchanges an authorization code for a token and returns the token
// sealed, so that Temporal holds it durably before PostgreSQL must. A code
// whose exchange was answered is never sent again: the token is looked up.
func (a *Activities) Redeem(ctx context.Context, in RedeemInput) (Redeemed, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityVerify)
	hash := reauth.CodeHash(in.Code)
	if in.LookUp {
		return a.lookUp(ctx, in, hash)
	}
	if minted, ok := a.mintedBefore(ctx, hash); ok {
		minted.Application = a.applicationOf(ctx, in)
		return Redeemed{State: reauth.CodeMinted, Minted: minted}, nil
	}
	if in.Application = a.applicationOf(ctx, in); in.Application == "" {
		return Redeemed{}, temporal.NewApplicationError(
			"nothing says yet whose credentials the code needs, since the database cannot be asked", "application_unclear")
	}
	unanswered := in.Unanswered || left(ctx, asked)
	provider, err := a.provider(in.Application)
	if err != nil {
		return a.redeemBlocked(in, unanswered, wordsOf(err))
	}
	if in.Case != nil && !in.Patient {
		a.besideDatabase(ctx, "the phase could not be stored", func(ctx context.Context) error {
			return a.DB.SetPhase(ctx, in.Case.CaseID, reauth.PhaseRedeeming, "")
		})
	}
	// The first heartbeat of an attempt reaches the server before this returns,
	// so that even a killed worker leaves word that the code may be spent.
	beat := startPulse(ctx, asked)
	defer beat.end()
	grant, err := provider.Exchange(ctx, secrets.Secret(in.Code), a.exchangeRedirect(in))
	if err == nil {
		return a.keep(ctx, provider, hash, grant, in.Application)
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleClient, TroubleUnauthorized:
		if !unanswered {
			beat.say(ctx)
		}
		return a.redeemBlocked(in, unanswered, "The provider refuses our own client credentials ("+trouble.Error()+").")
	case TroubleLimit, TroubleNotSent:
		if !unanswered {
			beat.say(ctx)
		}
		return Redeemed{}, retry("exchange a code", err)
	case TroubleDown, TroubleNoAnswer:
		return Redeemed{}, retry("exchange a code", err)
	default:
		if unanswered {
			return Redeemed{State: reauth.CodeLost, Unanswered: true, Problem: "an earlier answer was lost on the way"}, nil
		}
		return Redeemed{State: reauth.CodeRefused, Problem: trouble.Error()}, nil
	}
}

func (a *Activities) redeemBlocked(in RedeemInput, unanswered bool, problem string) (Redeemed, error) {
	if in.Patient {
		return Redeemed{}, retryLater(problem, string(TroubleClient), 0)
	}
	return Redeemed{State: reauth.CodeReceivedState, Blocked: true, Unanswered: unanswered, Problem: problem}, nil
}

// lookUp is the last word on a dead code: the token it brought, if it did.
func (a *Activities) lookUp(ctx context.Context, in RedeemInput, hash string) (Redeemed, error) {
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
		Application: a.applicationOf(ctx, in),
	}}, nil
}

// keep seals a token that was just minted and stores it beside its code, as
// well as the database allows. Where neither the exchange nor the token itself
// says whose it is, it stays without a connection: the one that the code was
// meant for proves nothing.
func (a *Activities) keep(ctx context.Context, provider Provider, hash string, grant Grant, application string) (Redeemed, error) {
	now := a.Now().UTC()
	connectionID := grant.ConnectionID
	if connectionID == "" { // the answer should have it; the token itself knows
		look, cancel := context.WithTimeout(ctx, besideExchange)
		if inspection, err := provider.Inspect(look, Access{Token: grant.Token}); err == nil {
			connectionID = inspection.ConnectionID
		}
		cancel()
	}
	sealed, err := a.Keys.Seal([]byte(grant.Token.Reveal()), db.MintedBound(connectionID)...)
	if err != nil {
		return Redeemed{}, err
	}
	minted := &reauth.TokenMinted{
		ConnectionID: connectionID, CodeHash: hash, Fingerprint: reauth.Fingerprint(grant.Token.Reveal()),
		Sealed: sealed, MintedAt: now, Application: application,
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), besideExchange)
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
		return a.redirectURI(in.Case.Report, in.Application)
	}
	return a.redirectURI(reauth.Input{}, in.Application)
}

// applicationOf is whose credentials a code needs. Of a case that begins with its
// code, only the connection is known. A code that is brought with another's is
// lost, so where the database cannot be asked the redirect URI must say it; empty
// if it does not.
func (a *Activities) applicationOf(ctx context.Context, in RedeemInput) (application string) {
	if in.Application != "" || in.Case == nil {
		return cmp.Or(in.Application, reauth.DefaultApplication)
	}
	a.besideDatabase(ctx, "the connection's application could not be read", func(ctx context.Context) error {
		connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
		if errors.Is(err, db.ErrNotFound) {
			connection, err = reauth.Connection{Application: reauth.DefaultApplication}, nil
		}
		application = connection.Application
		return err
	})
	if application != "" {
		return application
	}
	for name := range a.Providers {
		if len(a.Providers) == 1 || in.RedirectURI == a.Settings.PublicURL+applications.CallbackPath(name) {
			return name
		}
	}
	return ""
}

// left reports whether an earlier attempt left this word: it began what the
// word stands for, and heard nothing of it.
func left(ctx context.Context, word string) bool {
	return saidLast[string](ctx) == word
}

// HandOver gives a minted token to the case that owns its connection, which is
// opened if there is none. A token of which nothing says whose it is is kept
// aside.
func (a *Activities) HandOver(ctx context.Context, minted reauth.TokenMinted) error {
	defer startPulse(ctx).end()
	if minted.ConnectionID == "" {
		_, err := a.setAside(ctx, VerifyInput{Minted: minted}, reauth.CodeLost, ownerUnproved, Verified{})
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
	caseID, err := a.storedCase(ctx, deref(in.Case))
	if err != nil {
		return err
	}
	phase := reauth.PhaseAwaitingCustomer
	if in.State == reauth.CodeUnusable {
		phase = reauth.PhaseBlocked
	}
	return a.endCode(ctx, in, caseID, "code_"+string(in.State), phase)
}

// endCode records that a code, or the token it brought, is of no use to its
// case. The page says so last, once nobody is sent to the session any more that
// the code has used up.
func (a *Activities) endCode(ctx context.Context, in SettleInput, caseID, event string, phase reauth.Phase) error {
	c := deref(in.Case)
	if caseID != "" {
		if err := a.DB.SpendSession(ctx, caseID, in.SessionOrdinal); err != nil {
			return err
		}
		if err := a.event(ctx, c, event, in.Problem); err != nil {
			return err
		}
		if err := a.DB.SetPhase(ctx, caseID, phase, in.Problem); err != nil {
			return err
		}
	}
	return a.DB.SettleCode(ctx, in.CodeHash, c.ConnectionID, caseID, in.State, 0)
}

// storedCase is the ID of a case that has a row, and empty for any other.
func (a *Activities) storedCase(ctx context.Context, c Case) (caseID string, err error) {
	_, err = a.DB.CaseByID(ctx, c.CaseID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	}
	return c.CaseID, nil
}

// TellOfCode mails the operator about a code of which no case is known, as
// mailOperator does.
func (a *Activities) TellOfCode(ctx context.Context, in RedeemProblem) error {
	info := activity.GetInfo(ctx)
	if info.Attempt <= 1 {
		a.Logger.WarnContext(ctx, "An operator is needed", "workflow_id", info.WorkflowExecution.ID, "application", in.Application, "problem", in.Problem)
	}
	_, err := a.mailOperator(ctx, notify.Notice{
		Kind: notify.KindOperator, Recipient: notify.Recipient{Email: a.Settings.OperatorEmail}, Problem: in.Problem, Step: in.Step,
		MessageID: notify.MessageID(a.mailDomain(), info.WorkflowExecution.ID, in.Step+"-"+in.Application, 0, db.RecipientOperator),
		From:      a.Settings.MailFrom, ReplyTo: a.Settings.SupportEmail, ProductName: a.Settings.ProductName,
	}, false)
	return err
}
