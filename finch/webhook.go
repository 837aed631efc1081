package finch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a webhook.
const (
	HeaderEventID   = "Finch-Event-Id"
	HeaderTimestamp = "Finch-Timestamp"
	HeaderSignature = "Finch-Signature"
)

// WebhookTolerance is how far a webhook's timestamp may be from our clock.
const WebhookTolerance = 300 * time.Second

var (
	// ErrWebhook matches the error of a webhook that cannot be trusted.
	ErrWebhook = errors.New("webhook not verified")
	// ErrWebhookLate matches the error of a webhook that Finch did sign, at a
	// time that is too far from now. It matches ErrWebhook as well.
	ErrWebhookLate = fmt.Errorf("%w: %s is more than %s from now", ErrWebhook, HeaderTimestamp, WebhookTolerance)
	// ErrWebhookSecret says that none of our own secrets can be used, which is
	// not the sender's fault.
	ErrWebhookSecret = errors.New("no usable webhook secret")
)

const signatureVersion = "v1"

// CheckWebhookSecret says what is wrong with a webhook secret, if anything.
func CheckWebhookSecret(secret string) error {
	if key, err := base64.StdEncoding.DecodeString(secret); err != nil || len(key) == 0 {
		return errors.New("a webhook secret is base64 text, as Finch's dashboard shows it")
	}
	return nil
}

// VerifyWebhook checks that Finch signed the body with one of the secrets, at
// most WebhookTolerance from now, and returns the event's ID, by which repeated
// deliveries are recognised. While a secret is being rotated, the header holds
// several signatures, and secrets may hold the old one and the new. The error
// matches ErrWebhook, or ErrWebhookSecret, and ErrWebhookLate if nothing but the
// time is wrong.
func VerifyWebhook(secrets []string, h http.Header, body []byte, now time.Time) (eventID string, err error) {
	eventID = h.Get(HeaderEventID)
	stamp := h.Get(HeaderTimestamp)
	signatures := h.Values(HeaderSignature)
	if eventID == "" || stamp == "" || len(signatures) == 0 {
		return "", fmt.Errorf("%w: %s, %s or %s is missing", ErrWebhook, HeaderEventID, HeaderTimestamp, HeaderSignature)
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not a number of seconds", ErrWebhook, HeaderTimestamp)
	}
	const tolerance = int64(WebhookTolerance / time.Second)
	late := seconds < now.Unix()-tolerance || seconds > now.Unix()+tolerance
	given := strings.Fields(strings.Join(signatures, " "))
	usable := false
	for _, secret := range secrets {
		if CheckWebhookSecret(secret) != nil {
			continue
		}
		usable = true
		// No loop ends early, so that time tells nothing about the secrets.
		wanted, matches := []byte(signature(secret, eventID, stamp, body)), false
		for _, g := range given {
			if hmac.Equal([]byte(g), wanted) {
				matches = true
			}
		}
		switch {
		case matches && late:
			return "", ErrWebhookLate
		case matches:
			return eventID, nil
		}
	}
	if !usable {
		return "", ErrWebhookSecret
	}
	return "", fmt.Errorf("%w: no signature matches", ErrWebhook)
}

// SignWebhook returns the headers that Finch sends with a webhook. The secret
// must be one that CheckWebhookSecret accepts; with another, nothing that this
// returns is ever verified.
func SignWebhook(secret, eventID string, at time.Time, body []byte) http.Header {
	stamp := strconv.FormatInt(at.Unix(), 10)
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set(HeaderEventID, eventID)
	h.Set(HeaderTimestamp, stamp)
	if CheckWebhookSecret(secret) == nil {
		h.Set(HeaderSignature, signature(secret, eventID, stamp, body))
	}
	return h
}

func signature(secret, eventID, stamp string, body []byte) string {
	key, _ := base64.StdEncoding.DecodeString(secret)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(eventID + "." + stamp + "."))
	mac.Write(body)
	return signatureVersion + "," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// EventAccountUpdated is the type of the event that reports a connection's new
// status.
const EventAccountUpdated = "account.updated"

// Event is what a webhook says. Fields that its type does not have are empty;
// types and statuses that nobody knew are passed through.
type Event struct {
	Type         string `json:"event_type"`
	ConnectionID string `json:"connection_id"` // may be empty in old events
	EntityID     string `json:"entity_id"`     // set only for connections with several entities
	CompanyID    string `json:"company_id"`
	AccountID    string `json:"account_id"`

	Status               string `json:"status"` // of account.updated
	AuthenticationMethod string `json:"authentication_method"`

	JobID  string `json:"job_id"` // of job events
	JobURL string `json:"job_url"`
}

// NeedsReauth reports whether the event says that the customer must log in again.
func (e Event) NeedsReauth() bool {
	// Finch wrote error_reauth until 2024.
	return e.Type == EventAccountUpdated && (e.Status == StatusReauth || e.Status == "error_reauth")
}

// IsJob reports whether the event is about a job, whose own status may tell
// that access was lost.
func (e Event) IsJob() bool { return strings.HasPrefix(e.Type, "job.") }

// ParseEvent reads a webhook's body. It fails unless that is a JSON object with
// an event_type.
func ParseEvent(body []byte) (Event, error) {
	var wire struct {
		Type         string `json:"event_type"`
		ConnectionID string `json:"connection_id"`
		EntityID     string `json:"entity_id"`
		CompanyID    string `json:"company_id"`
		AccountID    string `json:"account_id"`
		Data         struct {
			Status string     `json:"status"`
			Method methodName `json:"authentication_method"`
			JobID  string     `json:"job_id"`
			JobURL string     `json:"job_url"`
		} `json:"data"`
	}
	if err := decode(body, &wire); err != nil {
		return Event{}, errors.New("finch: the webhook's body is not a JSON object")
	}
	if wire.Type == "" {
		return Event{}, errors.New("finch: the webhook's body has no event_type")
	}
	return Event{
		Type:                 wire.Type,
		ConnectionID:         wire.ConnectionID,
		EntityID:             wire.EntityID,
		CompanyID:            wire.CompanyID,
		AccountID:            wire.AccountID,
		Status:               wire.Data.Status,
		AuthenticationMethod: string(wire.Data.Method),
		JobID:                wire.Data.JobID,
		JobURL:               wire.Data.JobURL,
	}, nil
}

// methodName is a string in Finch's documentation and an object with a type in
// its SDKs.
type methodName string

func (m *methodName) UnmarshalJSON(text []byte) error {
	var object struct {
		Type string `json:"type"`
	}
	var name string
	if json.Unmarshal(text, &name) != nil {
		_ = decode(text, &object)
		name = object.Type
	}
	*m = methodName(name)
	return nil
}
