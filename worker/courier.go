package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/outbound"
)

const (
	courierEvery   = time.Second
	courierTimeout = 15 * time.Second
	// courierAtOnce is how many webhooks are on their way at the same time, each
	// of another case.
	courierAtOnce = 8
	// courierLease outlives a delivery that takes its time, so that no other
	// courier brings the same meanwhile.
	courierLease = time.Minute
	// courierGivesUp is how long an event is tried; courierTries is how often at
	// the least, for those whose turn comes late.
	courierGivesUp = 5 * 24 * time.Hour
	courierTries   = 3
	// courierFirstWait grows threefold with every failure, to courierMaxWait.
	courierFirstWait = 5 * time.Second
	courierMaxWait   = 6 * time.Hour
	// courierBody is how much of an answer is read.
	courierBody = 64 << 10
	// courierDown is how long a receiver must have been down before events are
	// given up that nobody tried to bring, courierOld how many at a time.
	courierDown = time.Hour
	courierOld  = 100
)

// courier delivers what is in the outbox to the company's backend, signed as
// Standard Webhooks are: the events of a case one after the other, those of
// several cases side by side. It retries for days; a delivery that was taken but
// whose answer was lost comes again under the same ID.
type courier struct {
	outbox   outbox
	people   Expander
	url      string
	signer   *standardwebhooks.Webhook
	client   *http.Client
	receiver circuit
	logger   *slog.Logger
	now      func() time.Time
	// spread varies a wait, so that what failed together does not come again
	// together.
	spread func(time.Duration) time.Duration

	flights sync.WaitGroup
	flying  atomic.Int32
	landed  chan struct{} // a delivery has ended
	oldAt   time.Time     // when to look for old events again
}

// outbox is what the courier needs of the database.
type outbox interface {
	ClaimOutbox(ctx context.Context, at time.Time, limit int, lease time.Duration) ([]db.OutboxEvent, error)
	Delivered(ctx context.Context, id string, at time.Time) error
	DeliveryFailed(ctx context.Context, id string, at, next time.Time, problem string) error
	OverdueOutbox(ctx context.Context, at, before time.Time, limit int) ([]string, error)
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

// newCourier makes a courier, which goes nowhere but where the guard lets it.
// Without people it brings no event that names
// recipients.
func newCourier(outbox outbox, rawURL, secret string, guard outbound.Guard, logger *slog.Logger) (*courier, error) {
	if err := CheckWebhook(rawURL, secret); err != nil {
		return nil, err
	}
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, fmt.Errorf("read the webhook secret: it must be base64")
	}
	transport := guard.Transport()
	transport.MaxIdleConnsPerHost = courierAtOnce
	transport.MaxResponseHeaderBytes = courierBody
	return &courier{
		outbox: outbox, url: rawURL, signer: signer, logger: logger, now: time.Now, spread: jitter, landed: make(chan struct{}, 1),
		client: &http.Client{
			Transport:     transport,
			Timeout:       courierTimeout,
			CheckRedirect: outbound.NoRedirects,
		},
	}, nil
}

// jitter varies a wait by a fifth.
func jitter(wait time.Duration) time.Duration {
	return wait - wait/5 + rand.N(wait*2/5+1)
}

// run delivers until ctx ends, and then waits for what is on its way.
func (c *courier) run(ctx context.Context) {
	defer c.client.CloseIdleConnections()
	defer c.flights.Wait()
	tick := time.NewTicker(courierEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.dispatch(ctx)
		c.clearOld(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-c.landed:
		}
	}
}

// dispatch sends off what is due, as far as there is room and the receiver is
// believed to be well, and returns how much it was.
func (c *courier) dispatch(ctx context.Context) int {
	now := c.now()
	limit, probe := c.receiver.takes(now, courierAtOnce-int(c.flying.Load()))
	if limit == 0 {
		return 0
	}
	events, err := c.outbox.ClaimOutbox(ctx, now, limit, courierLease)
	if err != nil && ctx.Err() == nil {
		c.logger.WarnContext(ctx, "The outbox could not be read", "error", err)
	}
	if probe && len(events) == 0 {
		c.receiver.notAsked()
	}
	for _, event := range events {
		c.flying.Add(1)
		c.flights.Go(func() {
			c.carry(ctx, event, probe)
			c.flying.Add(-1)
			select {
			case c.landed <- struct{}{}:
			default: // that something has landed is known
			}
		})
	}
	return len(events)
}

// carry brings one event and records what became of it.
func (c *courier) carry(ctx context.Context, event db.OutboxEvent, probe bool) {
	result := c.bring(ctx, event)
	if result.problem != "" && ctx.Err() != nil {
		return // stopped amid the delivery: it comes again when its lease is over
	}
	record := context.WithoutCancel(ctx) // what became of it, even if we are stopped meanwhile
	now := c.now()
	var err error
	if result.problem == "" {
		if c.receiver.took(probe) {
			c.logger.InfoContext(ctx, "The backend takes webhooks again")
		}
		err = c.outbox.Delivered(record, event.ID, now)
	} else {
		err = c.outbox.DeliveryFailed(record, event.ID, now, c.next(ctx, event, result, probe), result.problem)
	}
	if err != nil {
		c.logger.WarnContext(ctx, "A webhook's delivery could not be recorded; it will come again", "event", event.ID, "error", err)
	}
}

// next is when an event that failed is tried again: soon at first, then every
// few hours, and never after five days. While the receiver is down it is when
// the receiver is asked again.
func (c *courier) next(ctx context.Context, event db.OutboxEvent, result result, probe bool) time.Time {
	now := c.now()
	var until time.Time
	if result.ours {
		if probe {
			c.receiver.notAsked()
		}
	} else {
		var fell bool
		if until, fell = c.receiver.failed(now, event.ID, result, probe, c.spread); fell {
			c.logger.WarnContext(ctx, "The backend does not take webhooks; until it does, one at a time is tried", "problem", result.problem, "next", until)
		}
	}
	if now.Sub(event.QueuedAt) >= courierGivesUp && event.Attempts >= courierTries {
		return time.Time{}
	}
	if !until.IsZero() {
		return until
	}
	wait := courierFirstWait
	for range min(max(event.Attempts, 1), 20) - 1 {
		wait = min(wait*3, courierMaxWait)
	}
	return now.Add(c.spread(wait))
}

// clearOld gives up what is too old to be brought, also what nobody tried to
// bring, since the receiver has been down for long.
func (c *courier) clearOld(ctx context.Context) {
	now := c.now()
	if c.receiver.downFor(now) < courierDown || now.Before(c.oldAt) {
		return
	}
	ids, err := c.outbox.OverdueOutbox(ctx, now, now.Add(-courierGivesUp), courierOld)
	for _, id := range ids {
		if err == nil {
			err = c.outbox.DeliveryFailed(ctx, id, now, time.Time{}, "the receiver has been down for too long")
		}
	}
	if err != nil && ctx.Err() == nil {
		c.logger.WarnContext(ctx, "Old webhooks could not be given up; it is tried again", "error", err)
	}
	if len(ids) < courierOld {
		c.oldAt = now.Add(time.Minute)
	}
}

// result is what became of one delivery.
type result struct {
	problem string // empty: it arrived
	ours    bool   // the receiver has no part in the problem
	// pause is how long the receiver wants to hear nothing; slow and gone say
	// that it answered 429 or 410.
	pause      time.Duration
	slow, gone bool
}

// bring posts one event.
func (c *courier) bring(ctx context.Context, event db.OutboxEvent) result {
	payload, err := c.payload(ctx, event)
	if err != nil {
		return result{problem: "its recipients could not be added: " + err.Error(), ours: true}
	}
	at := c.now()
	signature, err := c.signer.Sign(event.ID, at, payload)
	if err != nil {
		return result{problem: "could not be signed", ours: true}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(payload))
	if err != nil {
		return result{problem: "the webhook URL is malformed", ours: true}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "reauth")
	request.Header.Set(standardwebhooks.HeaderWebhookID, event.ID)
	request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	response, err := c.client.Do(request)
	switch {
	case errors.Is(err, outbound.ErrRefused):
		return result{problem: "the receiver's address is not a public one, and REAUTH_OUTBOUND_ALLOW does not name its network"}
	case err != nil:
		return result{problem: "the receiver did not answer"}
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, courierBody)) // so that the connection can be used again
	if response.StatusCode >= 200 && response.StatusCode <= 299 {
		return result{}
	}
	return result{
		problem: fmt.Sprintf("the receiver answered %d", response.StatusCode),
		pause:   retryAfter(response.Header.Get("Retry-After"), at),
		slow:    response.StatusCode == http.StatusTooManyRequests,
		gone:    response.StatusCode == http.StatusGone,
	}
}

// retryAfter reads the header of this name: seconds, or a date. It is 0 where
// it says nothing that can be kept.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(strings.TrimSpace(header)); err == nil {
		return time.Duration(min(max(seconds, 0), int(circuitAtMost/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(now), 0), circuitAtMost)
	}
	return 0
}
