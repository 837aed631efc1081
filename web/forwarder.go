package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
)

// Forwarder brings the codes that were held while Temporal could not be
// reached to their cases, and tells cases what providers announced while their
// customer was in Connect. Several may run at once: a code that reaches its
// case twice is exchanged once.
type Forwarder struct {
	DB      *db.DB
	Keys    *secrets.Keys
	Starter Starter
	// Logger defaults to slog's default, Every to two seconds, Now to the clock.
	Logger *slog.Logger
	Every  time.Duration
	Now    func() time.Time
}

// Run forwards until the context ends.
func (f Forwarder) Run(ctx context.Context) {
	if f.Logger == nil {
		f.Logger = slog.Default()
	}
	if f.Every <= 0 {
		f.Every = 2 * time.Second
	}
	if f.Now == nil {
		f.Now = time.Now
	}
	ticker := time.NewTicker(f.Every)
	defer ticker.Stop()
	for {
		f.forward(ctx)
		f.tellRestored(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// forward tries the codes that are held, the oldest first. When several fail
// Temporal is not there yet; one alone must not keep the others waiting.
func (f Forwarder) forward(ctx context.Context) {
	codes, err := f.DB.HeldCodes(ctx, 500)
	if err != nil {
		f.complain(ctx, "held codes could not be read", "", err)
		return
	}
	failures := 0
	for _, held := range codes {
		d, err := f.open(held)
		if err != nil {
			// Its key may come back; it stands in nobody's way.
			f.complain(ctx, "a held code does not open", held.ConnectionID, err)
			continue
		}
		if _, err := submit(ctx, f.Starter, d); err != nil {
			f.complain(ctx, "a held code could not be forwarded", held.ConnectionID, err)
			if failures++; failures == 3 {
				return
			}
			continue
		}
		if err := f.DB.ReleaseCode(ctx, held.Hash); err != nil {
			f.complain(ctx, "a forwarded code could not be released", held.ConnectionID, err)
			continue
		}
		f.Logger.LogAttrs(ctx, slog.LevelInfo, "a held code was forwarded", slog.String("connection_id", held.ConnectionID))
	}
}

func (f Forwarder) open(held db.HeldCode) (delivery, error) {
	plain, err := f.Keys.Open(held.Sealed, heldBound(held.Hash, held.ConnectionID)...)
	if err != nil {
		return delivery{}, err
	}
	d := delivery{ConnectionID: held.ConnectionID, CaseID: held.CaseID}
	if err := json.Unmarshal(plain, &d); err != nil || d.Message.Code == "" {
		return delivery{}, errors.New("it is not a code")
	}
	return d, nil
}

func (f Forwarder) complain(ctx context.Context, message, connectionID string, err error) {
	if ctx.Err() != nil {
		return
	}
	f.Logger.LogAttrs(ctx, slog.LevelWarn, message, slog.String("connection_id", connectionID), slog.String("error", err.Error()))
}
