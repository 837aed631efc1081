package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/reauth"
)

// MailWorkflow carries one change of whether mail goes out to everybody whom it
// concerns: the operators hear of it once, and the cases that waited go on, one
// after the other. That no mail begins any more needs no workflow: whoever
// permits one looks first.
func MailWorkflow(ctx workflow.Context, in reauth.MailInput) (reauth.MailStatus, error) {
	m := &mailChange{status: reauth.MailStatus{Version: in.Version, ChangeID: in.ChangeID}}
	if err := checkID(ctx, reauth.MailWorkflowID(in.ChangeID), "this workflow must have the workflow ID mail-<change_id>"); err != nil {
		return m.status, err
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx) // a change that is half told helps nobody
	err := workflow.SetQueryHandlerWithOptions(ctx, reauth.QueryStatus, func() (reauth.MailStatus, error) { return m.status, nil },
		workflow.QueryHandlerOptions{Description: "How the change stands"})
	if err != nil {
		return m.status, err
	}
	if err := workflow.ExecuteActivity(insisting(ctx, "Read what was changed"), acts.ReadMail, in).Get(ctx, &m.status); err != nil {
		return m.status, err
	}
	m.show(ctx)
	told := workflow.NewWaitGroup(ctx)
	if m.isNews() {
		told.Add(1)
		workflow.GoNamed(ctx, "operator", func(ctx workflow.Context) {
			defer told.Done()
			m.tell(ctx)
		})
	}
	var out activities.MailSpread
	if err := workflow.ExecuteActivity(lettingGo(ctx, "Let the cases that wait go on, one after the other"), acts.SpreadMail, in).Get(ctx, &out); err != nil {
		return m.status, err
	}
	m.status.Woken, m.status.Until, m.status.Fixed, m.status.Superseded = out.Woken, out.Until, out.Fixed, out.Superseded
	told.Wait(ctx)
	m.show(ctx)
	return m.status, nil
}

// mailChange is what MailWorkflow knows.
type mailChange struct{ status reauth.MailStatus }

// isNews reports whether the operators hear of the change: that customer mail was
// stopped, and that it is on. In shadow nobody is written to.
func (m *mailChange) isNews() bool {
	return m.status.Mode != m.status.Was && m.status.Mode != reauth.MailShadow
}

func (m *mailChange) tell(ctx workflow.Context) {
	ctx = workflow.WithScheduleToCloseTimeout(telling(ctx, activities.MailHeading(m.status)), 24*time.Hour)
	var out activities.MailTold
	if err := workflow.ExecuteActivity(ctx, acts.TellOfMail, m.status).Get(ctx, &out); err != nil {
		return // the web UI shows it, and the log
	}
	m.status.OperatorTold = string(out.Delivery)
}

// show says in words what was changed.
func (m *mailChange) show(ctx workflow.Context) {
	s := m.status
	lines := []string{
		"**" + activities.MailHeading(s) + "**\n",
		fmt.Sprintf("- It was %s, set on %s by %s", s.Was, stamp(s.At), s.By),
	}
	if s.Reason != "" {
		lines = append(lines, "- Why: "+s.Reason)
	}
	if s.RampPerHour > 0 || s.WasPerHour > 0 {
		lines = append(lines, "- New customers an hour: "+perHour(s.RampPerHour)+", before: "+perHour(s.WasPerHour))
	}
	if s.Woken > 0 {
		lines = append(lines, fmt.Sprintf("- Cases that waited and go on: %d, the last on %s", s.Woken, stamp(s.Until)))
	}
	if s.Superseded {
		lines = append(lines, "- A later change has taken over")
	}
	if s.OperatorTold != "" {
		lines = append(lines, "- The operator's mail: "+s.OperatorTold)
	}
	workflow.SetCurrentDetails(ctx, strings.Join(lines, "\n")+"\n")
}

func perHour(n int) string {
	if n == 0 {
		return "all of them"
	}
	return fmt.Sprint(n)
}
