package activities

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// Finch is the Provider that talks to Finch.
type Finch struct {
	Client FinchClient
}

// FinchClient makes the calls: a finch.Client, or another client that keeps its
// promises: it never retries, an answer that is not a success is a *finch.Error,
// no answer matches finch.ErrNoAnswer or finch.ErrNotSent, and no error holds a
// secret.
type FinchClient interface {
	Introspect(ctx context.Context, accessToken string) (finch.Introspection, error)
	Company(ctx context.Context, accessToken string) error
	Disconnect(ctx context.Context, accessToken string) error
	Job(ctx context.Context, accessToken, jobID string) (finch.Job, error)
	CreateSession(ctx context.Context, session finch.NewSession) (finch.Session, error)
	Reauthenticate(ctx context.Context, params finch.ReauthenticateParams) (finch.Session, error)
	Exchange(ctx context.Context, code, redirectURI string) (finch.Token, error)
}

var _ FinchClient = (*finch.Client)(nil)

// Inspect asks GET /introspect.
func (f Finch) Inspect(ctx context.Context, access Access) (Inspection, error) {
	answer, err := f.Client.Introspect(ctx, access.Token.Reveal())
	if err != nil {
		return Inspection{}, finchTrouble(err)
	}
	inspection := Inspection{
		ConnectionID: answer.ConnectionID,
		Status:       answer.Status(),
		Condition:    conditions[answer.Status()],
		CustomerID:   answer.CustomerID,
		CustomerName: answer.CustomerName,
		System:       finch.SystemName(answer.ProviderID),
	}
	for _, entity := range answer.Entities {
		inspection.Entities = append(inspection.Entities, reauth.Entity{EntityID: entity.ID, Name: entity.Name, Status: entity.Status})
	}
	switch {
	case answer.NeedsReauth():
		inspection.Condition = ConditionStale
	case inspection.Condition == "":
		inspection.Condition = ConditionUnknown
	}
	return inspection, nil
}

// conditions are what Finch's connection_status.status means.
var conditions = map[string]Condition{
	"connected":              ConditionConnected,
	"reauth":                 ConditionStale,
	"pending":                ConditionPending,
	"processing":             ConditionPending,
	"error_permissions":      ConditionSetup,
	"error_no_account_setup": ConditionSetup,
	"disconnected":           ConditionGone,
}

// Probe asks GET /employer/company.
func (f Finch) Probe(ctx context.Context, access Access) error {
	return finchTrouble(f.Client.Company(ctx, access.Token.Reveal()))
}

// OpenSession asks POST /connect/sessions/reauthenticate.
func (f Finch) OpenSession(ctx context.Context, request SessionRequest) (OpenSession, error) {
	session, err := f.Client.Reauthenticate(ctx, finch.ReauthenticateParams{
		ConnectionID:    request.ConnectionID,
		RedirectURI:     request.RedirectURI,
		MinutesToExpire: request.Minutes,
		Products:        request.Products,
	})
	if err != nil {
		return OpenSession{}, finchTrouble(err)
	}
	return OpenSession{ID: session.ID, ConnectURL: session.ConnectURL}, nil
}

// Exchange asks POST /auth/token.
func (f Finch) Exchange(ctx context.Context, code secrets.Secret, redirectURI string) (Grant, error) {
	token, err := f.Client.Exchange(ctx, code.Reveal(), redirectURI)
	if err != nil {
		return Grant{}, finchTrouble(err)
	}
	return Grant{ConnectionID: token.ConnectionID, Token: secrets.Secret(token.AccessToken)}, nil
}

// FindConnection asks POST /connect/sessions, which names the connection that
// stands in the way of a new one. For a customer without any it opens a session,
// of the shortest life that there is.
func (f Finch) FindConnection(ctx context.Context, customer CustomerRequest) (connectionID string, err error) {
	products := customer.Products
	if len(products) == 0 {
		products = []string{"company"}
	}
	_, err = f.Client.CreateSession(ctx, finch.NewSession{
		CustomerID: customer.ID, CustomerName: cmp.Or(customer.Name, customer.ID), Products: products, MinutesToExpire: reauth.MinSessionMinutes,
	})
	var refusal *finch.Error
	switch {
	case err == nil:
		return "", nil
	case errors.As(err, &refusal) && refusal.FinchCode == finch.CodeConnectionAlreadyExists && refusal.ConnectionID != "":
		return refusal.ConnectionID, nil
	}
	return "", finchTrouble(err)
}

// finchTrouble sorts Finch's errors.
func finchTrouble(err error) error {
	if err == nil {
		return nil
	}
	var e *finch.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, finch.ErrNotSent):
		return &ProviderError{Trouble: TroubleNotSent}
	default:
		return &ProviderError{Trouble: TroubleNoAnswer}
	}
	out := &ProviderError{Trouble: finchTroubleOf(e), Code: e.FinchCode, RequestID: e.RequestID, RetryAfter: e.RetryAfter}
	if out.Code == "" {
		out.Code = e.Name
	}
	if out.WaitsUntil = e.WaitsUntil; out.WaitsUntil.IsZero() && e.IsRateLimited() && e.RetryAfter > 0 {
		out.WaitsUntil = time.Now().Add(e.RetryAfter)
	}
	return out
}

func finchTroubleOf(e *finch.Error) Trouble {
	switch {
	case e.IsReauth():
		return TroubleReauth
	case e.IsAccountSetup():
		return TroubleSetup
	case e.IsInvalidClient():
		return TroubleClient
	case e.IsInvalidGrant():
		return TroubleGrant
	case e.IsConnectionNotFound():
		return TroubleNotFound
	case e.IsRateLimited():
		return TroubleLimit
	case e.Temporary():
		return TroubleDown
	case e.IsInvalidToken():
		return TroubleToken
	case e.Status == 401:
		return TroubleUnauthorized
	}
	return TroubleRequest
}
