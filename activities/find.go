package activities

import (
	"context"

	"go.temporal.io/sdk/temporal"

	"github.com/finch-reauth/reauth/reauth"
)

// CustomerRequest asks a provider which connection a customer has.
type CustomerRequest struct {
	// ID and Name are as they were given to the provider when the customer
	// connected. Products are needed by the session that asking may open.
	ID, Name string
	Products []string
}

// FindConnection asks the provider of an application which connection a customer
// has. Asking may open a session, so nobody asks who was not told to.
func (a *Activities) FindConnection(ctx context.Context, in reauth.FindConnection) (reauth.FoundConnection, error) {
	defer startPulse(ctx).end()
	provider, err := a.provider(in.Application)
	if err != nil {
		return reauth.FoundConnection{}, temporal.NewNonRetryableApplicationError(wordsOf(err), reauth.ErrTypeApplicationUnknown, nil)
	}
	id, err := provider.FindConnection(ctx, CustomerRequest{ID: in.CustomerID, Name: in.CustomerName, Products: in.Products})
	if err == nil {
		return reauth.FoundConnection{ConnectionID: id}, nil
	}
	switch trouble := troubleOf(err); trouble.Trouble {
	case TroubleLimit, TroubleNotSent, TroubleDown, TroubleNoAnswer:
		return reauth.FoundConnection{}, retry("ask the provider for a customer's connection", err)
	default:
		return reauth.FoundConnection{}, temporal.NewNonRetryableApplicationError(
			"the provider refuses to say which connection the customer has ("+trouble.Error()+")", reauth.ErrTypeProviderRefused, nil)
	}
}
