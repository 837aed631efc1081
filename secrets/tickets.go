package secrets

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrTicket: the ticket is malformed, altered, of another kind or not ours.
	ErrTicket = errors.New("the ticket is not valid")
	// ErrTicketExpired: the ticket is ours and its time is over.
	ErrTicketExpired = errors.New("the ticket has expired")
)

// maxTicketLength bounds what Read looks at; a ticket must fit into a URL and
// a cookie.
const maxTicketLength = 4096

type ticket struct {
	ExpiresAt int64           `json:"e"` // Unix time in milliseconds
	Value     json.RawMessage `json:"v"`
}

// Mint returns a ticket: the JSON form of v, sealed, safe in URLs and cookies,
// good for one kind of use until the moment given. Whoever carries it can
// neither read nor change it.
func (k *Keys) Mint(kind string, v any, expires time.Time) (string, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("mint a ticket: %w", err)
	}
	plain, err := json.Marshal(ticket{ExpiresAt: expires.UnixMilli(), Value: value})
	if err != nil {
		return "", fmt.Errorf("mint a ticket: %w", err)
	}
	sealed, err := k.seal("ticket", plain, []string{kind})
	if err != nil {
		return "", fmt.Errorf("mint a ticket: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(sealed)
	if len(text) > maxTicketLength {
		return "", fmt.Errorf("mint a ticket: %d characters are more than the %d that a ticket may have", len(text), maxTicketLength)
	}
	return text, nil
}

// Read opens a ticket of this kind into v, a pointer. It fails with ErrTicket
// where the ticket is not one of ours, and with ErrTicketExpired where it is
// and its time is over: then v is filled all the same, so that the bearer can be
// told what has expired.
func (k *Keys) Read(kind, text string, now time.Time, v any) error {
	// The decoder skips line breaks, by which one ticket would have many forms.
	if len(text) > maxTicketLength || strings.ContainsAny(text, "\r\n") {
		return ErrTicket
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return ErrTicket
	}
	plain, err := k.open("ticket", sealed, []string{kind})
	if err != nil {
		return ErrTicket
	}
	var t ticket
	if json.Unmarshal(plain, &t) != nil || json.Unmarshal(t.Value, v) != nil {
		return ErrTicket
	}
	if now.UnixMilli() >= t.ExpiresAt {
		return ErrTicketExpired
	}
	return nil
}
