package worker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/chat/chatsim"
	"github.com/finch-reauth/reauth/reauth"
)

// town is a herald with a chat that is simulated and a clock that is turned by
// hand.
type town struct {
	store
	t      *testing.T
	sim    *chatsim.Server
	herald *herald

	mu  sync.Mutex
	now time.Time
}

func newTown(t *testing.T, setting func(sim *chatsim.Server) string) *town {
	t.Helper()
	town := &town{store: newStore(t), t: t, now: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)}
	town.DB = town.WithClock(town.clock)
	var err error
	town.sim, err = chatsim.New(chatsim.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, town.sim.Close()) })
	if setting == nil {
		setting = func(sim *chatsim.Server) string { return sim.SlackSetting("ops") }
	}
	town.herald, err = newHerald(town.DB, setting(town.sim), here(), chatLinks("https://temporal.example/", "default"), town.logger(), town.clock)
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, secret := range town.sim.Secrets() {
			assert.NotContains(t, town.logs.String(), secret)
		}
	})
	return town
}

func (w *town) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *town) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// open opens a case "k-" of a connection, which waits for the customer.
func (w *town) open(id string) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.PutConnection(ctx, reauth.Connection{ConnectionID: id, CustomerName: "Customer " + id, System: "Gusto", Contacts: []reauth.Contact{{Email: "ada@" + id + ".example"}}})
	require.NoError(w.t, err)
	_, err = w.OpenCase(ctx, db.Case{CaseID: "k-" + id, ConnectionID: id, Source: reauth.SourceManual, OpenedAt: w.clock()})
	require.NoError(w.t, err)
	ends := w.clock().Add(30 * 24 * time.Hour)
	require.NoError(w.t, w.SetSession(ctx, "k-"+id, db.Session{ID: "s", URL: "https://connect.example/s", Ordinal: 1, ExpiresAt: ends, DeadlineAt: ends}))
}

// sends sends a step's notice of a case.
func (w *town) sends(id, step string) {
	w.t.Helper()
	ctx := w.t.Context()
	people, err := w.Recipients(ctx, id)
	require.NoError(w.t, err)
	notice, permit, _, err := w.BeginNotice(ctx, db.Notice{CaseID: "k-" + id, Step: step, Recipient: people[0].ContactID, Channel: db.ChannelMail})
	require.NoError(w.t, err)
	require.True(w.t, permit)
	require.NoError(w.t, w.EndNotice(ctx, notice, db.NoticeSent, ""))
}

func (w *town) happens(id, kind, detail string) {
	w.t.Helper()
	require.NoError(w.t, w.AddEvent(w.t.Context(), db.Event{CaseID: "k-" + id, ConnectionID: id, Kind: kind, Detail: detail, At: w.clock()}))
}

func (w *town) phase(id string, phase reauth.Phase, lastError string) {
	w.t.Helper()
	require.NoError(w.t, w.SetPhase(w.t.Context(), "k-"+id, phase, lastError))
}

func (w *town) ends(id string, outcome reauth.Outcome, reason string) {
	w.t.Helper()
	_, err := w.CloseCase(w.t.Context(), db.Closing{CaseID: "k-" + id, Outcome: outcome, Reason: reason, At: w.clock()})
	require.NoError(w.t, err)
}

// round lets the herald go round once and returns how many messages it took up.
func (w *town) round() int { return w.herald.round(w.t.Context()) }

func (w *town) knobs(k chatsim.Knobs) {
	w.t.Helper()
	require.NoError(w.t, w.sim.SetKnobs(k))
}

// only is the one message that the chat has.
func (w *town) only() chatsim.Message {
	w.t.Helper()
	messages := w.sim.Messages()
	require.Len(w.t, messages, 1)
	return messages[0]
}

func TestOneMessageThroughTheLifeOfACase(t *testing.T) {
	w := newTown(t, nil)
	w.open("c1")
	assert.Zero(t, w.round(), "nobody was told of it yet")
	assert.Empty(t, w.sim.Messages())

	const open, needs, over, ended = "#d9a406", "#c0392b", "#2e8b57", "#7f8c8d"
	steps := []struct {
		happens     func()
		title       string
		color       string
		has, hasNot []string
	}{
		{
			happens: func() { w.sends("c1", "after-0s") },
			title:   "Customer c1 · Gusto: waiting for the customer", color: open,
			has: []string{"Open since\n2026-11-02 09:01 UTC", "Deadline\n2026-12-02 09:00 UTC", "notice sent: after-0s to", "k-c1",
				"Open in Temporal (https://temporal.example/namespaces/default/workflows/reauth-c1)"},
			hasNot: []string{"ada@", "Next notice", "Closed"},
		},
		{
			happens: func() {
				at := w.clock().Add(time.Hour)
				require.NoError(t, w.SetSchedule(t.Context(), "k-c1", db.Schedule{At: &at, Step: "after-2d", NoticesSent: 1}))
				w.happens("c1", db.EventOperatorNeeded, "Nobody can be written to.")
			},
			title: "Customer c1 · Gusto: waiting for the customer\nNobody can be written to.", color: needs,
			has: []string{"Notices sent\n1", "Next notice\n2026-11-02 10:02 UTC"},
		},
		{happens: func() { w.sends("c1", "after-2d") }, title: "Customer c1 · Gusto: waiting for the customer\nConnection", color: open},
		{
			happens: func() {
				w.phase("c1", reauth.PhaseBlocked, "Our own credentials are refused.")
				w.happens("c1", "confirmed", "")
			},
			title: "Customer c1 · Gusto: blocked until an operator helps\nOur own credentials are refused.", color: needs,
		},
		{
			happens: func() { w.phase("c1", reauth.PhaseVerifying, ""); w.happens("c1", "code_received", "") },
			title:   "Customer c1 · Gusto: the customer is back, checking the new token", color: open,
			has: []string{"code received"}, hasNot: []string{"opened: manual"}, // which six lines have pushed out
		},
		{
			happens: func() { w.ends("c1", reauth.OutcomeRecovered, "") },
			title:   "Customer c1 · Gusto: the customer logged in again", color: over,
			has: []string{"Closed\n2026-11-02 09:06 UTC", "closed: recovered"}, hasNot: []string{"Our own credentials", "Next notice"},
		},
	}
	for i, step := range steps {
		w.pass(time.Minute)
		if i == 0 {
			_, err := w.raw.Exec(`UPDATE cases SET opened_at = $1`, w.clock())
			require.NoError(t, err)
		}
		step.happens()
		assert.Equal(t, 1, w.round())
		m := w.only()
		assert.Equal(t, i, m.Edits, "it is changed in place")
		_, text, _ := strings.Cut(m.Text, " ") // behind the mark
		text = strings.ReplaceAll(text, "*", "")
		assert.True(t, strings.HasPrefix(text, step.title), text)
		assert.Equal(t, step.color, m.Color)
		for _, part := range step.has {
			assert.Contains(t, text, part)
		}
		for _, part := range step.hasNot {
			assert.NotContains(t, text, part)
		}
		assert.Empty(t, m.Pings)
		assert.Zero(t, w.round(), "nothing is new")
	}

	// Another case is another message, however it ends.
	for _, end := range []struct {
		outcome reauth.Outcome
		reason  string
		says    string
		color   string
	}{
		{reauth.OutcomeExpired, "", "nobody logged in before the deadline", ended},
		{reauth.OutcomeCancelled, "", "cancelled", ended},
		{reauth.OutcomeFailed, reauth.ReasonConnectionNotFound, "failed (connection not found)", ended},
		{reauth.OutcomeHealed, "", "access came back by itself", over},
		{reauth.OutcomeFalseAlarm, "", "a false alarm", over},
	} {
		id := string(end.outcome)
		before := len(w.sim.Messages())
		w.open(id)
		w.happens(id, db.EventOperatorNeeded, "Help.")
		w.round()
		w.ends(id, end.outcome, end.reason)
		w.round()
		messages := w.sim.Messages()
		require.Len(t, messages, before+1)
		last := messages[before]
		assert.Contains(t, last.Text, "Customer "+id+" · Gusto: "+end.says)
		assert.Equal(t, end.color, last.Color)
		assert.NotContains(t, last.Text, "Help.\nConnection", "an ended case needs no operator")
		assert.Equal(t, 1, last.Edits)
	}
}

// While the chat is down nothing piles up: when it is back, it hears how the
// case stands then.
func TestChatThatIsDownHearsTheNewest(t *testing.T) {
	w := newTown(t, nil)
	w.open("c1")
	w.sends("c1", "after-0s")
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultFail, Status: 503})
	assert.Equal(t, 1, w.round())
	assert.Zero(t, w.round(), "it is not bothered at once")
	waits := []time.Duration{}
	for w.sim.Struck() < 8 {
		var due time.Time
		require.NoError(t, w.raw.Get(&due, `SELECT due_at FROM chats`))
		waits = append(waits, due.Sub(w.clock()))
		w.happens("c1", "note", fmt.Sprint("line ", len(waits)))
		w.pass(due.Sub(w.clock()) - time.Second)
		assert.Zero(t, w.round())
		w.pass(time.Second)
		assert.Equal(t, 1, w.round())
	}
	assert.Equal(t, []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second, 640 * time.Second}, waits)
	assert.Empty(t, w.sim.Messages())

	w.knobs(chatsim.Knobs{})
	w.ends("c1", reauth.OutcomeHealed, "")
	w.pass(time.Hour)
	assert.Equal(t, 1, w.round())
	m := w.only()
	assert.Contains(t, m.Text, "access came back by itself")
	assert.Contains(t, m.Text, "line 7")
	assert.NotContains(t, m.Text, "line 2")
	assert.Zero(t, m.Edits)
	assert.Zero(t, w.round())

	// So does a message that is there.
	w.open("c2")
	w.sends("c2", "after-0s")
	w.round()
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultDrop, On: chatsim.CallUpdate, Discard: true})
	w.happens("c2", "note", "the first")
	w.round()
	w.happens("c2", "note", "the second")
	w.knobs(chatsim.Knobs{})
	w.pass(time.Hour)
	w.round()
	require.Len(t, w.sim.Messages(), 2)
	assert.Contains(t, w.sim.Messages()[1].Text, "the second")
	assert.Equal(t, 1, w.sim.Messages()[1].Edits)
}

// Where nobody knows whether the chat took a message, it is not posted again
// before there is probably more to say.
func TestMessageThatMayHaveBeenTaken(t *testing.T) {
	w := newTown(t, nil)
	w.open("c1")
	w.sends("c1", "after-0s")
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultDrop, Times: 1})
	assert.Equal(t, 1, w.round())
	require.Len(t, w.sim.Messages(), 1)

	w.happens("c1", "note", "Something new.")
	w.pass(heraldDoubts - time.Second)
	assert.Zero(t, w.round())
	w.pass(time.Second)
	assert.Equal(t, 1, w.round())
	messages := w.sim.Messages()
	require.Len(t, messages, 2)
	assert.Contains(t, messages[1].Text, "Something new.")

	w.happens("c1", "note", "Still more.")
	w.round()
	messages = w.sim.Messages()
	require.Len(t, messages, 2, "from now on it is known where it stands")
	assert.Contains(t, messages[1].Text, "Still more.")
}

func TestRateLimitPausesEverything(t *testing.T) {
	w := newTown(t, nil)
	const cases = 3
	for i := range cases {
		id := fmt.Sprint("c", i)
		w.open(id)
		w.sends(id, "after-0s")
	}
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultRateLimit, RetryAfter: 90 * time.Second})
	assert.Equal(t, cases, w.round())
	assert.Equal(t, 1, w.sim.Struck(), "the others are not even tried")
	w.open("late")
	w.sends("late", "after-0s")
	w.pass(89 * time.Second)
	assert.Zero(t, w.round(), "nor is a new one")
	assert.Equal(t, 1, w.sim.Struck())

	w.knobs(chatsim.Knobs{})
	w.pass(time.Second)
	assert.Equal(t, cases+1, w.round())
	assert.Len(t, w.sim.Messages(), cases+1)
}

func TestChatThatRefuses(t *testing.T) {
	w := newTown(t, func(sim *chatsim.Server) string {
		return strings.Replace(sim.SlackSetting("ops"), "@ops", "WRONG-planted@ops", 1)
	})
	for _, id := range []string{"c1", "c2"} {
		w.open(id)
		w.sends(id, "after-0s")
	}
	assert.Equal(t, 2, w.round())
	said := w.logs.String()
	assert.Equal(t, 1, strings.Count(said, "The chat refuses our messages; an operator must mend it"), said)
	assert.Contains(t, said, "the bot's token is wrong")
	assert.NotContains(t, said, "planted")
	w.pass(heraldMaxWait - time.Second)
	assert.Zero(t, w.round())
	var errors []string
	require.NoError(t, w.raw.Select(&errors, `SELECT last_error FROM chats`))
	assert.NotContains(t, strings.Join(errors, " "), "planted")

	// Once the setting is right, nothing is missing.
	mended, err := newHerald(w.DB, w.sim.SlackSetting("ops"), here(), nil, w.logger(), w.clock)
	require.NoError(t, err)
	w.herald = mended
	w.pass(time.Second)
	assert.Equal(t, 2, w.round())
	assert.Len(t, w.sim.Messages(), 2)

	for _, setting := range []string{"", "slack://planted@ops", "https://user:planted@hooks.example/x", "planted"} {
		_, err := newHerald(w.DB, setting, here(), nil, w.logger(), w.clock)
		require.ErrorContains(t, err, "the operators' chat: ", setting)
		assert.NotContains(t, err.Error(), "planted")
	}
}

// Of two heralds only one brings a message, even if a post takes its time.
func TestTwoHeralds(t *testing.T) {
	w := newTown(t, nil)
	w.open("c1")
	w.sends("c1", "after-0s")
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultHang})
	done := make(chan int)
	go func() { done <- w.round() }()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, w.sim.AwaitStruck(limited, 1))
	other, err := newHerald(w.DB, w.sim.SlackSetting("ops"), here(), nil, w.logger(), w.clock)
	require.NoError(t, err)
	w.pass(heraldBatch * 4 * 15 * time.Second) // as long as the slowest batch
	assert.Zero(t, other.round(t.Context()))
	w.knobs(chatsim.Knobs{})
	assert.Equal(t, 1, <-done)
	assert.Zero(t, other.round(t.Context()))
	w.only()
}

func TestHeraldRunsUntilItIsStopped(t *testing.T) {
	w := newTown(t, nil)
	const cases = 2*heraldBatch + 1
	for i := range cases {
		id := fmt.Sprint("c", i)
		w.open(id)
		w.sends(id, "after-0s")
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.herald.run(ctx) }()
	require.Eventually(t, func() bool { return len(w.sim.Messages()) == cases }, time.Minute, 10*time.Millisecond)
	w.happens("c0", "note", "More.")
	require.Eventually(t, func() bool { return strings.Contains(w.sim.Messages()[0].Text, "More.") }, time.Minute, 10*time.Millisecond)
	stop()
	<-done
	assert.Len(t, w.sim.Messages(), cases)
}

// What was posted while the worker was being stopped is on record.
func TestHeraldThatIsStoppedAmidAPost(t *testing.T) {
	w := newTown(t, nil)
	w.open("c1")
	w.sends("c1", "after-0s")
	w.knobs(chatsim.Knobs{Fault: chatsim.FaultHang})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.herald.round(ctx) }()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, w.sim.AwaitStruck(limited, 1))
	stop()
	<-done
	var failed string
	require.NoError(t, w.raw.Get(&failed, `SELECT last_error FROM chats`))
	assert.Contains(t, failed, "no answer", "and it waits, since the chat may have it")
	w.knobs(chatsim.Knobs{})
	assert.Zero(t, w.round())
}
