package dev

import (
	"encoding/json"
	"fmt"
)

// Ready tells a program where everything is. It is what the ready file holds.
type Ready struct {
	APIURL             string `json:"api_url"`
	APIKey             string `json:"api_key"`
	InboxURL           string `json:"inbox_url"`
	FinchURL           string `json:"finch_url"`
	FinchClientID      string `json:"finch_client_id"`
	FinchClientSecret  string `json:"finch_client_secret"`
	FinchWebhookSecret string `json:"finch_webhook_secret"`
	TemporalAddress    string `json:"temporal_address"`
	TemporalNamespace  string `json:"temporal_namespace"`
	TemporalUIURL      string `json:"temporal_ui_url"`
	DatabaseURL        string `json:"database_url"`
	// Pids are the process IDs of every process, by name.
	Pids map[string]int `json:"pids"`

	SMTPAddress string `json:"smtp_address"`
	Data        string `json:"data"`
}

func (r Ready) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = writeFile(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	return nil
}
