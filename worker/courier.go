package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/finch-reauth/reauth/db"
)

const (
	courierEvery   = time.Second
	courierTimeout = 15 * time.Second
	// courierLease outlives a batch whose every delivery takes its time, so that
	// no other courier brings the rest of it meanwhile.
	courierBatch   = 3
	courierLease   = time.Minute
	courierGivesUp = 5 * 24 * time.Hour
	courierMaxWait = 6 * time.Hour
)

// courier delivers what is in the outbox to the company's backend, signed as
// Standard Webhooks are. It retries for days; a delivery that was taken but
// whose answer was lost comes again under the same ID.
type courier struct {
	outbox outbox
	url    string
	signer *standardwebhooks.Webhook
	client *http.Client
	logger *slog.Logger
	now    func() time.Time
}

// outbox is what the courier needs of the database.
type outbox interface {
	ClaimOutbox(ctx context.Context, limit int, lease time.Duration) ([]db.OutboxEvent, error)
	Delivered(ctx context.Context, id string) error
	DeliveryFailed(ctx context.Context, id string, next time.Time, problem string) error
}

// CheckWebhook says what is wrong with the settings of the backend's webhook.
func CheckWebhook(rawURL, secret string) error {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("the webhook URL must be an absolute http or https URL")
	}
	if _, err := standardwebhooks.NewWebhook(secret); err != nil || strings.TrimPrefix(secret, "whsec_") == "" {
		return fmt.Errorf("the webhook secret must be base64, with or without the prefix whsec_")
	}
	return nil
}

func newCourier(outbox outbox, rawURL, secret string, logger *slog.Logger) (*courier, error) {
	if err := CheckWebhook(rawURL, secret); err != nil {
		return nil, err
	}
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, fmt.Errorf("read the webhook secret: it must be base64")
	}
	return &courier{
		outbox: outbox, url: rawURL, signer: signer, logger: logger, now: time.Now,
		client: &http.Client{
			Timeout:       courierTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (c *courier) run(ctx context.Context) {
	tick := time.NewTicker(courierEvery)
	defer tick.Stop()
	for {
		for c.round(ctx) == courierBatch {
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round delivers one batch and returns its size.
func (c *courier) round(ctx context.Context) int {
	events, err := c.outbox.ClaimOutbox(ctx, courierBatch, courierLease)
	if err != nil {
		if ctx.Err() == nil {
			c.logger.WarnContext(ctx, "The outbox could not be read", "error", err)
		}
		return 0
	}
	for _, event := range events {
		problem := c.deliver(ctx, event)
		if problem != "" && ctx.Err() != nil {
			break // stopped amid the delivery: it comes again when its lease is over
		}
		record := context.WithoutCancel(ctx) // what became of it, even if we are stopped meanwhile
		if problem == "" {
			err = c.outbox.Delivered(record, event.ID)
		} else {
			err = c.outbox.DeliveryFailed(record, event.ID, c.next(event), problem)
		}
		if err != nil {
			c.logger.WarnContext(ctx, "A webhook's delivery could not be recorded; it will come again", "event", event.ID, "error", err)
		}
	}
	return len(events)
}

// deliver posts one event and returns what went wrong, or "".
func (c *courier) deliver(ctx context.Context, event db.OutboxEvent) string {
	at := c.now()
	signature, err := c.signer.Sign(event.ID, at, event.Payload)
	if err != nil {
		return "could not be signed"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(event.Payload))
	if err != nil {
		return "the webhook URL is malformed"
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "reauth")
	request.Header.Set(standardwebhooks.HeaderWebhookID, event.ID)
	request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	response, err := c.client.Do(request)
	if err != nil {
		return "the receiver did not answer"
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Sprintf("the receiver answered %d", response.StatusCode)
	}
	return ""
}

// next is when a delivery is tried again: soon at first, then every few hours,
// and never after five days.
func (c *courier) next(event db.OutboxEvent) time.Time {
	now := c.now()
	if now.Sub(event.CreatedAt) > courierGivesUp {
		return time.Time{}
	}
	wait := 5 * time.Second
	for range min(event.Attempts, 20) {
		wait = min(wait*3, courierMaxWait)
	}
	return now.Add(wait)
}
