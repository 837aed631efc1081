package activities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
)

// partlyAtMost is how long a login that brought some entities back, but not all,
// waits for the others. Then the person is asked for one more.
const partlyAtMost = 2 * time.Minute

// see puts on record what the provider, asked at a time, said of a connection's
// entities. An answer about the connection as a whole is about all of them.
func (a *Activities) see(ctx context.Context, connection reauth.Connection, said Inspection, refusal error, at time.Time) error {
	id := connection.ConnectionID
	switch {
	case said.ConnectionID != "" && said.ConnectionID != id:
		return nil // another account's
	case refusal == nil && len(said.Entities) > 0:
		return a.DB.SeeEntities(ctx, id, said.Entities, at)
	case len(connection.Entities) == 0:
		return nil
	case refusal == nil && said.Condition == ConditionConnected:
		return a.DB.SetEntityStatus(ctx, id, "", reauth.EntityConnected, at)
	case refusal == nil && said.Condition == ConditionStale, refusal != nil && troubleOf(refusal).Trouble == TroubleReauth:
		return a.DB.SetEntityStatus(ctx, id, "", reauth.EntityReauth, at)
	}
	return nil
}

// countOf counts the entities of a connection that has several.
func countOf(all reauth.Entities) *reauth.EntityCount {
	if !several(all) {
		return nil
	}
	count := all.Count()
	return &count
}

// several reports whether a connection has, or had, more than one entity: one
// alone is the connection.
func several(all reauth.Entities) bool { return len(all) > 1 }

// names are the entities that a message names: those that want a login, and,
// where they are not all, those that still serve data.
func names(all reauth.Entities) (stale, working []string) {
	if !several(all) {
		return nil, nil
	}
	if all.Partly() {
		working = all.Working()
	}
	return all.Stale(), working
}

// tellGone tells the operator, once, of entities that are not part of the
// connection any more. A mail server that does not take the mail is tried again
// when the case speaks next.
func (a *Activities) tellGone(ctx context.Context, c Case) error {
	gone, err := a.DB.UntoldGone(ctx, c.ConnectionID)
	if err != nil || len(gone) == 0 {
		return err
	}
	var ids, called []string
	for _, e := range gone {
		ids, called = append(ids, e.EntityID), append(called, e.Called())
	}
	problem := strings.Join(called, ", ") + " is not part of the connection any more, the provider says."
	if len(called) > 1 {
		problem = strings.Join(called, ", ") + " are not part of the connection any more, the provider says."
	}
	sum := sha256.Sum256([]byte(strings.Join(ids, " ")))
	delivery, err := a.tellOperator(ctx, c, "gone-"+hex.EncodeToString(sum[:4]), problem+" A new login does not bring them back; whoever is to have their data again connects them anew.")
	if err != nil || delivery == notify.Deferred {
		return err
	}
	return a.DB.ToldGone(ctx, c.ConnectionID, gone, a.Now())
}
