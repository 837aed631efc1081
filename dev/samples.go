package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// sample is a customer whose connection `reauth dev` begins with.
type sample struct {
	CustomerID   string `json:"customer_id"`
	CustomerName string `json:"customer_name"`
	ProviderID   string `json:"provider_id"`
	Provider     string `json:"provider"` // as people call it
	ConnectionID string `json:"connection_id"`

	contact reauth.Contact
	stale   bool // now, or as it shall be
}

func samples() []sample {
	return []sample{
		{
			CustomerID: "cus_1001", CustomerName: "Acme Bakery", ProviderID: "gusto", Provider: "Gusto", stale: true,
			contact: reauth.Contact{Email: "maria.lindqvist@acme-bakery.example", Name: "Maria Lindqvist", Role: "Payroll", Locale: "en-US", TimeZone: "America/Chicago"},
		},
		{
			CustomerID: "cus_1002", CustomerName: "Northwind Traders", ProviderID: "adp_run", Provider: "ADP Run",
			contact: reauth.Contact{Email: "sam.okafor@northwind.example", Name: "Sam Okafor", Role: "Finance", Locale: "en-GB", TimeZone: "Europe/London"},
		},
		{
			CustomerID: "cus_1003", CustomerName: "Blue Harbor Logistics", ProviderID: "bamboo_hr", Provider: "BambooHR",
			contact: reauth.Contact{Email: "priya.raman@blue-harbor.example", Name: "Priya Raman", Role: "People operations", Locale: "en-US", TimeZone: "America/New_York"},
		},
	}
}

// haveSamples makes sure that the sample connections exist, one of them stale
// with its mail in the inbox. Those of an earlier start stay as they are.
func (e *Environment) haveSamples(ctx context.Context) ([]sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errTooSlow)
	defer cancel()
	ours := api{base: e.ready.APIURL, key: e.ready.APIKey}
	finch := api{base: e.ready.FinchURL}
	inbox := api{base: e.ready.InboxURL}

	file := e.folder.file("samples.json")
	var kept []sample
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the sample connections of the last start: %w", err)
	}
	if kept != nil {
		for i := range kept {
			var now reauth.Connection
			if err := ours.call(ctx, http.MethodGet, "/v1/connections/"+url.PathEscape(kept[i].ConnectionID), nil, &now); err != nil {
				return nil, fmt.Errorf("looking the sample connection of %s up: %w", kept[i].CustomerName, err)
			}
			kept[i].stale = now.Status == reauth.StatusStale
		}
		return kept, nil
	}

	made := samples()
	for i := range made {
		s := &made[i]
		connection, err := finch.addConnection(ctx, s.CustomerID, s.CustomerName, s.ProviderID)
		if err != nil {
			return nil, fmt.Errorf("making the sample connection of %s at the simulated Finch: %w", s.CustomerName, err)
		}
		s.ConnectionID = connection.ConnectionID
		if err := ours.register(ctx, connection, s.CustomerID, s.CustomerName, s.contact); err != nil {
			return nil, fmt.Errorf("registering the sample connection of %s: %w", s.CustomerName, err)
		}
		if !s.stale {
			continue
		}
		if err := finch.breakConnection(ctx, s.ConnectionID); err != nil {
			return nil, fmt.Errorf("breaking the sample connection of %s: %w", s.CustomerName, err)
		}
		// Its webhook opens a case too; the report joins it, or the other way round.
		err = ours.call(ctx, http.MethodPost, "/v1/connections/"+url.PathEscape(s.ConnectionID)+"/reauth", map[string]any{
			"source": reauth.SourceAPIError, "finch_code": "reauthenticate_user",
		}, nil)
		if err != nil {
			return nil, fmt.Errorf("reporting the sample connection of %s: %w", s.CustomerName, err)
		}
		if _, err := inbox.awaitMail(ctx, s.contact.Email, func(mail) bool { return true }); err != nil {
			return nil, fmt.Errorf("waiting for the mail to %s: %w", s.CustomerName, err)
		}
	}
	text, err = json.MarshalIndent(made, "", "  ")
	if err == nil {
		err = writeFile(file, append(text, '\n'), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("remembering the sample connections: %w", err)
	}
	return made, nil
}
