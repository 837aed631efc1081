package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

const (
	// checkEvery is how often the provider is asked whether it has recovered.
	checkEvery = 10 * time.Minute
	// letGoBefore is how long before its last moment a storm lets go: the held
	// cases then hear when each of them may write before all wake at once.
	letGoBefore = 2 * time.Minute
)

// StormWorkflow watches a time at which so many connections of one provider
// broke together that it is the provider, not the customers. While it rages the
// first notices of its cases are held (activities.Notify does that). The
// operator is told once. It ends when the provider has recovered, when none of
// its cases is left open, when its time is over, or when an operator says so;
// then the cases are let go, one after the other.
func StormWorkflow(ctx workflow.Context, in reauth.StormInput) (reauth.StormStatus, error) {
	s := &storm{status: reauth.StormStatus{Storm: reauth.Storm{StormID: in.StormID}}}
	ctx, err := s.listen(ctx)
	if err != nil {
		return s.status, err
	}
	if err := s.read(ctx); err != nil {
		return s.status, err
	}
	hush := s.tellBeginning(ctx)
	for s.over == "" {
		s.sleep(ctx)
		switch {
		case s.released():
			s.over = "released by " + s.releasedBy()
		case due(s.ends(), workflow.Now(ctx)):
			s.over = activities.StormTimeOver
		default:
			s.check(ctx)
		}
	}
	if err := s.end(ctx); err != nil { // first, so that it holds no further case
		return s.status, err
	}
	if err := s.letGo(ctx); err != nil {
		return s.status, err
	}
	hush() // that it began is no news any more
	s.tell(ctx, 24*time.Hour)
	return s.status, nil
}

// storm is what StormWorkflow knows.
type storm struct {
	status   reauth.StormStatus
	over     string    // how it ends, in words; empty while it rages
	lastAt   time.Time // when it checked last, or began to watch
	let      activities.StormReleased
	releases workflow.ReceiveChannel
	// cancelled: somebody cancelled the workflow, which is taken as a release.
	cancelled bool
}

// listen takes the signal that releases the storm, from now on. It returns the
// context to go on with: one that a cancellation of the workflow does not reach.
func (s *storm) listen(ctx workflow.Context) (workflow.Context, error) {
	if err := checkID(ctx, reauth.StormWorkflowID(s.status.StormID), "the watch of a storm must have the workflow ID storm-<storm_id>"); err != nil {
		return ctx, err
	}
	s.releases = workflow.GetSignalChannel(ctx, reauth.SignalReleaseStorm)
	outer := ctx
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "cancellation", func(ctx workflow.Context) {
		s.cancelled = workflow.Await(ctx, func() bool { return outer.Err() != nil }) == nil
	})
	return ctx, workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, func() (reauth.StormStatus, error) { return s.status, nil },
		workflow.QueryHandlerOptions{Description: "How the storm stands"})
}

// released reports whether somebody has said that the storm is to let go.
func (s *storm) released() bool { return s.cancelled || s.releases.Len() > 0 }

func (s *storm) releasedBy() string {
	if s.cancelled {
		return "a cancellation through Temporal"
	}
	m, _ := message[reauth.ReleaseStorm](s.releases) // who it was need not be said
	return cmp.Or(clip(strings.TrimSpace(m.By), 100), "an operator")
}

// read reads what is known of the storm, which may be over already.
func (s *storm) read(ctx workflow.Context) error {
	in := reauth.StormInput{StormID: s.status.StormID}
	err := workflow.ExecuteActivity(insisting(ctx, "Read how the storm began"), acts.ReadStorm, in).Get(ctx, &s.status.Storm)
	s.over, s.lastAt = s.status.EndedHow, workflow.Now(ctx)
	s.show(ctx)
	return err
}

// ends is when the storm lets go, unless something makes it do so before.
func (s *storm) ends() time.Time {
	return s.status.EndsAt.Add(-min(letGoBefore, s.status.EndsAt.Sub(s.status.BeganAt)/10))
}

// sleep waits for the next check, for the end, or for somebody who releases it.
func (s *storm) sleep(ctx workflow.Context) {
	at, what := s.lastAt.Add(checkEvery), "Ask again whether access is back"
	if ends := s.ends(); !at.Before(ends) {
		at, what = ends, "First notices are held no longer than this"
	}
	waitUntil(ctx, at, what, s.released)
}

// check asks whether the provider has recovered. A release does not wait for
// the answer, and without one the storm goes on.
func (s *storm) check(ctx workflow.Context) {
	s.lastAt = workflow.Now(ctx)
	asking, abandon := workflow.WithCancel(s.checking(ctx))
	defer abandon()
	answer := workflow.ExecuteActivity(asking, acts.CheckStorm, activities.StormCheck{StormID: s.status.StormID, Round: s.status.Checks + 1})
	_ = workflow.Await(ctx, func() bool { return answer.IsReady() || s.released() })
	var out activities.StormChecked
	if !answer.IsReady() || answer.Get(ctx, &out) != nil {
		return
	}
	s.status.Storm, s.status.LastCheck = out.Storm, &out.Check
	s.status.Checks++
	switch {
	case out.Storm.EndedHow != "":
		s.over = out.Storm.EndedHow
	case out.Storm.Waiting == 0:
		s.over = "no held case is left open"
	case out.Recovered:
		s.over = fmt.Sprintf("access was back at %d of %d connections that were asked", out.Check.Back, out.Check.Asked)
	}
	s.show(ctx)
}

// end ends the storm in the database, whose word on how it ended stands.
func (s *storm) end(ctx workflow.Context) error {
	in := activities.StormEnd{StormID: s.status.StormID, How: s.over}
	err := workflow.ExecuteActivity(insisting(ctx, "Hold no further notice"), acts.EndStorm, in).Get(ctx, &s.status.Storm)
	s.show(ctx)
	return err
}

// letGo lets the held cases go, one after the other.
func (s *storm) letGo(ctx workflow.Context) error {
	in := reauth.StormInput{StormID: s.status.StormID}
	err := workflow.ExecuteActivity(lettingGo(ctx, "Let the held notices go, one after the other"), acts.LetGo, in).Get(ctx, &s.let)
	s.status.Released = s.let.Cases
	s.show(ctx)
	return err
}

// tellBeginning tells the operator of the storm, without waiting for it, until
// that is called off. One that was over before it was watched has no beginning.
func (s *storm) tellBeginning(ctx workflow.Context) (hush workflow.CancelFunc) {
	ctx, hush = workflow.WithCancel(ctx)
	if s.over == "" {
		atMost := remaining(ctx, s.ends(), time.Hour)
		workflow.GoNamed(ctx, "operator", func(ctx workflow.Context) { s.tell(ctx, atMost) })
	}
	return hush
}

// tell tells the operator how the storm stands.
func (s *storm) tell(ctx workflow.Context, atMost time.Duration) {
	ctx = workflow.WithScheduleToCloseTimeout(telling(ctx, s.headline()), atMost)
	var out activities.StormTold
	news := activities.StormNews{Storm: s.status.Storm, Released: s.let}
	if err := workflow.ExecuteActivity(ctx, acts.TellOfStorm, news).Get(ctx, &out); err != nil {
		return // the web UI shows it, and the log
	}
	s.status.OperatorTold = string(out.Delivery)
	s.show(ctx)
}

// show says in words how the storm stands.
func (s *storm) show(ctx workflow.Context) {
	lines := []string{
		"**" + s.headline() + "**\n",
		fmt.Sprintf("- %d of %d connections broke within minutes, before %s", s.status.Broken, s.status.Connections, stamp(s.status.BeganAt)),
		fmt.Sprintf("- Cases held: %d, of which %d are open and %d have access back", s.status.Held, s.status.Waiting, s.status.Restored),
	}
	if c := s.status.LastCheck; c != nil {
		lines = append(lines, fmt.Sprintf("- Checks: %d, the last on %s: access was back at %d of %d connections", s.status.Checks, stamp(c.At), c.Back, c.Asked))
	}
	switch {
	case s.status.EndedHow == "":
		lines = append(lines, "- Held until "+stamp(s.ends())+" at the latest; the signal `"+reauth.SignalReleaseStorm+"` `{\"by\": \"your name\"}` lets go now")
	case s.status.Released > 0:
		lines = append(lines, fmt.Sprintf("- Cases let go: %d, the last on %s; each looks at its connection before it writes", s.status.Released, stamp(s.let.Until)))
	}
	if s.status.OperatorTold != "" {
		lines = append(lines, "- The operator's last mail: "+s.status.OperatorTold)
	}
	workflow.SetCurrentDetails(ctx, strings.Join(lines, "\n")+"\n")
}

func (s *storm) headline() string {
	if s.status.EndedHow != "" {
		return "First notices are held no longer: " + s.status.EndedHow + "."
	}
	return "So many connections of " + s.status.Of() + " broke together that their first notices are held."
}

// insisting is for what must be done for the cases to go on.
func insisting(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		Summary:             summary,
	})
}

func (s *storm) checking(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    3 * time.Minute,
		ScheduleToCloseTimeout: 5 * time.Minute,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            patience(2*time.Second, 30*time.Second),
		Summary:                "Ask some of the connections of " + s.status.Of() + " whether access is back",
	})
}

func lettingGo(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         patience(time.Second, time.Minute),
		Summary:             summary,
	})
}
