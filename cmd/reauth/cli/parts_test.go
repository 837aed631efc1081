package cli

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/mocks"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
)

// otherFinch is another client of Finch.
type otherFinch struct {
	activities.FinchClient
	config finch.Config
}

// The worker calls Finch through the client that the program was built with, set
// as the settings say; the service has its own from the same budget.
func TestAnotherClientOfFinch(t *testing.T) {
	var made []otherFinch
	other := partsWith([]Option{WithFinch(func(cfg finch.Config) activities.FinchClient {
		made = append(made, otherFinch{config: cfg})
		return made[len(made)-1]
	})})
	worker := workerCommand{finchSettings: finchSettings{FinchBaseURL: "https://finch.example"}}
	worker.FinchClientID, worker.FinchClientSecret, worker.Storm = "an-id", "a-secret", "off"
	logger := slog.New(slog.DiscardHandler)
	all := func(make func(finch.Config) activities.FinchClient) map[string]activities.Provider {
		finchs, err := providers(worker.finchSettings, worker.finchClientSettings, nil, finchBudget{make: make}.client)
		require.NoError(t, err)
		return worker.activities(nil, finchs, nil, nil, nil, &mocks.Client{}, logger).Providers
	}
	for _, provider := range all(other.finch) {
		require.IsType(t, activities.Finch{}, provider)
		assert.IsType(t, otherFinch{}, provider.(activities.Finch).Client)
	}
	require.Len(t, made, 1)
	assert.Equal(t, "https://finch.example", made[0].config.BaseURL)
	assert.Equal(t, "an-id", made[0].config.ClientID)
	assert.Equal(t, "a-secret", made[0].config.ClientSecret)

	for _, provider := range all(partsWith(nil).finch) {
		assert.IsType(t, &finch.Client{}, provider.(activities.Finch).Client)
	}
}
