package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const (
	// stagedTries is how often a token is asked about that the provider refuses
	// without calling it invalid: that may be the provider's own trouble, which
	// must not cost a company every token it has handed in.
	stagedTries = 4
	// stagedBriefly and stagedLong are when a token is asked about again: after
	// an outage, and where somebody must mend something first.
	stagedBriefly = time.Minute
	stagedLong    = time.Hour
)

// StagedChecked is what became of a token that an import handed in.
type StagedChecked struct {
	State db.StagedState
	// Pause: the provider wants to hear nothing, or cannot be reached, for so long.
	Pause time.Duration
	// Same: it is this token that should be asked about after the pause, since it
	// has a place in the line for the provider's limit.
	Same bool
}

// CheckStaged asks the provider whose an imported token is, and adopts it as
// one of that connection's. What the provider refuses is rejected; what it leaves
// open is asked about again later. An error is the database's, or our own.
func (a *Activities) CheckStaged(ctx context.Context, t db.StagedToken) (StagedChecked, error) {
	token, row, err := imports.Open(a.Keys, t)
	switch {
	case errors.Is(err, secrets.ErrUnknownKey):
		return a.postponeStaged(ctx, t, stagedLong, 0, "the keyset lacks the key with which the token was sealed", false)
	case err != nil:
		return a.rejectStaged(ctx, t, "access_token: cannot be opened with our keys; import the row again", false)
	}
	provider, err := a.provider(t.Application)
	if err != nil {
		return a.postponeStaged(ctx, t, stagedLong, 0, wordsOf(err), false)
	}
	inspection, err := provider.Inspect(ctx, Access{ConnectionID: t.ConnectionID, Token: token})
	if ctx.Err() != nil {
		return StagedChecked{State: db.StagedWaiting}, ctx.Err()
	}
	if err != nil {
		return a.refusedStaged(ctx, t, troubleOf(err))
	}
	owner := inspection.ConnectionID
	switch {
	case owner == "":
		return a.doubtStaged(ctx, t, "the provider does not say whose it is")
	case t.ConnectionID != "" && t.ConnectionID != owner:
		return a.rejectStaged(ctx, t, "access_token: belongs to another connection than the row names; leave connection_id out where it is not certain", false)
	case reauth.CheckConnectionID(owner) != nil:
		return a.rejectStaged(ctx, t, "access_token: belongs to a connection whose ID cannot be used here", false)
	case inspection.Condition == ConditionGone:
		return a.rejectStaged(ctx, t, "access_token: its connection was deleted at the provider", true)
	}
	row.Connection.ConnectionID = owner
	return a.adoptStaged(ctx, t, token, row, inspection)
}

func (a *Activities) adoptStaged(ctx context.Context, t db.StagedToken, token secrets.Secret, row db.ImportRow, inspection Inspection) (StagedChecked, error) {
	owner := inspection.ConnectionID
	_, err := a.DB.AdoptStaged(ctx, db.StagedAdoption{
		Fingerprint: t.Fingerprint, Row: row, Stale: inspection.Condition == ConditionStale, At: a.Now(),
		Learned: reauth.Connection{CustomerID: inspection.CustomerID, CustomerName: inspection.CustomerName, System: inspection.System},
		Seal: func(generation int64) ([]byte, error) {
			return a.Keys.Seal([]byte(token.Reveal()), db.TokenBound(owner, generation)...)
		},
	})
	switch {
	case errors.Is(err, db.ErrRemoved):
		return a.rejectStaged(ctx, t, "access_token: its connection was removed after it was imported", false)
	case errors.Is(err, db.ErrForeignToken):
		return a.rejectStaged(ctx, t, "access_token: is stored as another connection's token", false)
	case errors.Is(err, db.ErrNotFound): // it was removed, or rejected, meanwhile
		return StagedChecked{State: db.StagedRejected}, nil
	case err != nil:
		return StagedChecked{State: db.StagedAdopted}, err
	}
	return StagedChecked{State: db.StagedAdopted}, a.DB.SeeEntities(ctx, owner, inspection.Entities, a.Now())
}

// refusedStaged decides about a token that the provider does not take.
func (a *Activities) refusedStaged(ctx context.Context, t db.StagedToken, trouble *ProviderError) (StagedChecked, error) {
	why := trouble.Error()
	switch trouble.Trouble {
	case TroubleReauth, TroubleSetup:
		if t.ConnectionID == "" {
			return a.rejectStaged(ctx, t, "access_token: the provider only says "+why+", and not whose it is; name the connection_id", false)
		}
		if trouble.Trouble == TroubleSetup {
			return a.doubtStaged(ctx, t, "the provider says "+why)
		}
		return a.settleStaged(ctx, t, db.StagedVerdict{State: db.StagedStale, Detail: "the customer must log in again (" + why + ")"})
	case TroubleToken:
		return a.rejectStaged(ctx, t, "access_token: the provider calls it invalid ("+why+")", false)
	case TroubleLimit:
		wait := cmp.Or(trouble.RetryAfter, stagedBriefly)
		checked, err := a.postponeStaged(ctx, t, wait, wait, "the provider's limit leaves no room", false)
		checked.Same = true
		return checked, err
	case TroubleNotSent, TroubleDown, TroubleNoAnswer:
		// This one comes later than the others, in case it is to blame.
		return a.postponeStaged(ctx, t, stagedLong, cmp.Or(trouble.RetryAfter, stagedBriefly), "the provider cannot be asked ("+why+")", false)
	}
	return a.doubtStaged(ctx, t, "the provider refuses it ("+why+")")
}

// doubtStaged asks again some hours later about a token that is refused without
// a clear word, and rejects it in the end.
func (a *Activities) doubtStaged(ctx context.Context, t db.StagedToken, why string) (StagedChecked, error) {
	if t.Attempts+1 >= stagedTries {
		return a.rejectStaged(ctx, t, fmt.Sprintf("access_token: %s, after %d questions", why, t.Attempts+1), false)
	}
	return a.postponeStaged(ctx, t, stagedLong<<(3*t.Attempts), 0, why, true)
}

func (a *Activities) rejectStaged(ctx context.Context, t db.StagedToken, why string, gone bool) (StagedChecked, error) {
	return a.settleStaged(ctx, t, db.StagedVerdict{State: db.StagedRejected, Detail: why, Gone: gone})
}

func (a *Activities) settleStaged(ctx context.Context, t db.StagedToken, v db.StagedVerdict) (StagedChecked, error) {
	v.Fingerprint, v.At = t.Fingerprint, a.Now()
	return StagedChecked{State: v.State}, a.DB.SettleStaged(ctx, v)
}

func (a *Activities) postponeStaged(ctx context.Context, t db.StagedToken, wait, pause time.Duration, why string, counted bool) (StagedChecked, error) {
	err := a.DB.PostponeStaged(ctx, t.Fingerprint, a.Now().Add(wait), why, counted)
	return StagedChecked{State: db.StagedWaiting, Pause: pause}, err
}

// AdoptImported asks about a connection's imported tokens, the newest first,
// until one of them is the connection's. It is for whoever needs a token now and
// finds none stored: the background takes days for a hundred thousand. Adopted
// says that a token is stored now. A provider that cannot be asked is an error.
func (a *Activities) AdoptImported(ctx context.Context, connectionID string) (adopted bool, err error) {
	staged, err := a.DB.StagedOf(ctx, connectionID, a.Now())
	if err != nil {
		return false, err
	}
	for _, t := range staged {
		checked, err := a.CheckStaged(ctx, t)
		switch {
		case err != nil:
			return false, err
		case checked.State == db.StagedAdopted:
			return true, nil
		case checked.Pause > 0:
			return false, retry("ask the provider about an imported token", &ProviderError{Trouble: TroubleLimit, RetryAfter: checked.Pause})
		case checked.State == db.StagedStale: // so are the others
			return false, nil
		}
	}
	return false, nil
}
