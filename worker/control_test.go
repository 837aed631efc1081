package worker

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// wishes is what operators want, and what was started because of it.
type wishes struct {
	mail    db.MailControl
	changes []db.MailChange
	bulks   []string
	started []string
}

func (o *wishes) Mail(context.Context) (db.MailControl, error)           { return o.mail, nil }
func (o *wishes) UnhandledMail(context.Context) ([]db.MailChange, error) { return o.changes, nil }
func (o *wishes) UnstartedBulks(context.Context) ([]string, error)       { return o.bulks, nil }
func (o *wishes) RunBulk(_ context.Context, id string) error             { return o.note("bulk " + id) }
func (o *wishes) SpreadMail(_ context.Context, in reauth.MailInput) error {
	return o.note("mail " + in.ChangeID)
}
func (o *wishes) note(what string) error { o.started = append(o.started, what); return nil }

// A worker has what operators want carried out, and says in the log that mail
// does not go out: when it sees it, and every hour.
func TestControl(t *testing.T) {
	var log strings.Builder
	o := &wishes{mail: db.MailControl{Mode: reauth.MailOn}}
	c := newControl(o, o, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)
	c.now = func() time.Time { return now }
	lines := func() int { return strings.Count(log.String(), "\n") }
	require.NoError(t, c.round(t.Context()))
	o.mail.Version = 1
	require.NoError(t, c.round(t.Context()))
	assert.Zero(t, lines(), "there is nothing to say where mail is on")

	o.mail = db.MailControl{Version: 2, Mode: reauth.MailStopped}
	o.changes, o.bulks = []db.MailChange{{ChangeID: "2-x"}}, []string{"b1"}
	for range 3 {
		require.NoError(t, c.round(t.Context()))
	}
	assert.Equal(t, 1, lines())
	assert.Contains(t, log.String(), "Customer mail is stopped")
	assert.Equal(t, []string{"mail 2-x", "bulk b1"}, o.started[:2])
	now = now.Add(time.Hour)
	require.NoError(t, c.round(t.Context()))
	assert.Equal(t, 2, lines(), "it says so every hour")
	o.mail = db.MailControl{Version: 3, Mode: reauth.MailOn}
	now = now.Add(time.Minute)
	require.NoError(t, c.round(t.Context()))
	now = now.Add(3 * time.Hour)
	require.NoError(t, c.round(t.Context()))
	assert.Equal(t, 3, lines())
	assert.Contains(t, log.String(), "Customer mail is on")
}
