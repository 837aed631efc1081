package cli

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/secrets"
)

// holdKeys tells the database which keys this process has and uses, until the
// context ends: `reauth keys` must not put a key to use that a process lacks, nor
// retire one that is in use. The returned function ends that, and waits for it.
// Nothing depends on it while the process runs, so a failure is logged and no more.
func holdKeys(ctx context.Context, database *db.DB, keys *secrets.Keys, role string, logger *slog.Logger) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	host, _ := os.Hostname()
	holder := db.Holder{
		ID: uuid.NewString(), Name: role + " " + strconv.Itoa(os.Getpid()) + " on " + host,
		SealKeys: keys.SealKeyIDs(), SealPrimary: keys.SealKeyID(), LinkKeys: keys.LinkKeyIDs(), LinkPrimary: keys.LinkKeyID(),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(db.HolderEvery)
		defer ticker.Stop()
		for {
			if err := database.HoldKeys(ctx, holder); err != nil && ctx.Err() == nil {
				logger.Warn("which keys this process has could not be noted", "error", err)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				last, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer done()
				if err := database.LetKeysGo(last, holder.ID); err != nil {
					logger.Warn("that this process ends could not be noted", "error", err)
				}
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
