package activities

import (
	"context"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// Look asks whether access is back. It is only when the stored token itself
// works; with no stored token, what the provider announced is believed. While
// a click is young the answer is to look again, since the customer's own
// success makes the provider say so before the code is here.
func (a *Activities) Look(ctx context.Context, in LookInput) (Looked, error) {
	ctx = finch.WithPriority(ctx, finch.PriorityLook)
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if err != nil {
		return Looked{}, err
	}
	return a.look(ctx, in.Case, connection, in.Told)
}

func (a *Activities) look(ctx context.Context, c Case, connection reauth.Connection, told bool) (Looked, error) {
	switch connection.Status {
	case reauth.StatusDisconnected:
		return Looked{Gone: true}, nil
	case reauth.StatusRemoved:
		return Looked{Removed: true}, nil
	}
	restored, entities := told, (*reauth.EntityCount)(nil)
	access, _, ok, err := a.access(ctx, c.ConnectionID)
	if err != nil {
		return Looked{}, err
	}
	if ok {
		if restored, entities, err = a.accessBack(ctx, connection, access); err != nil {
			return Looked{}, err
		}
	}
	if !restored {
		return Looked{Entities: entities}, nil
	}
	click, err := a.DB.LastClick(ctx, c.CaseID)
	if err != nil {
		return Looked{}, err
	}
	if click != nil && a.Now().Before(click.Add(reauth.ClickGrace)) {
		until := click.Add(reauth.ClickGrace).UTC()
		return Looked{Restored: true, HoldUntil: &until, Entities: entities}, nil
	}
	return Looked{Restored: true, Entities: entities}, nil
}

// accessBack reports whether the stored token works, which it does not while any
// entity wants a login. An answer that says neither is a reason to ask again.
func (a *Activities) accessBack(ctx context.Context, connection reauth.Connection, access Access) (bool, *reauth.EntityCount, error) {
	provider, err := a.provider(connection.Application)
	if err != nil {
		return false, nil, err
	}
	at := a.Now()
	inspection, refusal := provider.Inspect(ctx, access)
	if err := a.see(ctx, connection, inspection, refusal, at); err != nil {
		return false, nil, err
	}
	if refusal == nil {
		return inspection.Condition == ConditionConnected, countOf(inspection.Entities), nil
	}
	switch troubleOf(refusal).Trouble {
	case TroubleLimit, TroubleNotSent, TroubleDown, TroubleNoAnswer:
		return false, nil, retry("look whether access is back", refusal)
	}
	return false, nil, nil
}
