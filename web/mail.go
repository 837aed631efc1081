package web

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

const (
	// underWayAtMost is how long a call that stops mail waits for the mails that
	// are on their way to the mail server.
	underWayAtMost = 10 * time.Second
	underWayEvery  = 20 * time.Millisecond
	mailHistory    = 20
)

// MailBody asks for a change of whether mail goes out.
type MailBody struct {
	Mode        *string `json:"mode,omitempty" enum:"on,shadow,stopped" doc:"on: everybody hears what the campaigns say. shadow: every case runs and nobody is written to. stopped: no notice to a customer begins, and every step waits. Absent: it stays as it is." example:"stopped"`
	RampPerHour *int    `json:"ramp_per_hour,omitempty" minimum:"0" maximum:"100000" doc:"How many new customers may hear in an hour: connections whose case has told nobody yet. 0 lets all of them. Absent: it stays as it is."`
	Reason      string  `json:"reason,omitempty" maxLength:"500" doc:"Why, for those who come after." example:"a wrong campaign was deployed"`
}

// MailView is whether mail goes out, and what waits because of it.
type MailView struct {
	Mode        string           `json:"mode" enum:"on,shadow,stopped"`
	RampPerHour int              `json:"ramp_per_hour" doc:"How many new customers may hear in an hour; 0 lets all of them."`
	Version     int64            `json:"version" doc:"Counts the changes; 0 before the first."`
	ChangedAt   *time.Time       `json:"changed_at" doc:"When it was last changed; null before that."`
	ChangedBy   string           `json:"changed_by,omitempty"`
	Reason      string           `json:"reason,omitempty"`
	Waiting     MailWaiting      `json:"waiting"`
	Shadowed    int              `json:"shadowed" doc:"How many notices of open cases would have been sent, and were not, in shadow."`
	UnderWay    int              `json:"under_way" doc:"How many mails to customers are on their way to the mail server at this moment. The call that stops mail waits up to ten seconds for them; after it no other begins."`
	History     []MailChangeView `json:"history" nullable:"false" doc:"The last changes, the newest first."`
}

// MailWaiting counts what waits because mail is stopped, or for its turn.
type MailWaiting struct {
	Stopped   int        `json:"stopped" doc:"Open cases with a notice that is due and waits for mail to be switched on again."`
	Fixed     int        `json:"fixed" doc:"Closed cases whose note that it is fixed waits for that."`
	Ramp      int        `json:"ramp" doc:"Open cases whose first notice waits for its turn."`
	RampUntil *time.Time `json:"ramp_until" doc:"When the last of those has its turn, as things are."`
}

// MailChangeView is one change.
type MailChangeView struct {
	Version        int64     `json:"version"`
	Mode           string    `json:"mode"`
	RampPerHour    int       `json:"ramp_per_hour"`
	WasMode        string    `json:"was_mode"`
	WasRampPerHour int       `json:"was_ramp_per_hour"`
	ChangedBy      string    `json:"changed_by"`
	Reason         string    `json:"reason,omitempty"`
	ChangedAt      time.Time `json:"changed_at"`
	WorkflowID     string    `json:"workflow_id" doc:"The workflow that tells the cases that wait."`
}

type mailInput struct{ Body MailBody }

func (s *server) mailRoutes(api huma.API) {
	huma.Register(api, operation("get-mail", http.MethodGet, "/v1/mail", tagOperators, "Read whether mail goes out",
		"The switch for all mail to customers, how fast new customers hear, what waits because of it, and who changed it when and why.",
		ScopeOperator), s.getMail)
	huma.Register(api, answers(operation("set-mail", http.MethodPut, "/v1/mail", tagOperators, "Stop mail, or let it go",
		"Takes effect at once and everywhere: after the answer no notice begins that the new setting does not allow. A call that stops mail, or puts it in shadow, waits up to ten seconds for the mails that are on their way; `under_way` says how many are left. Cases that wait go on by themselves when they may, one after the other.",
		ScopeOperator), http.StatusUnprocessableEntity), s.setMail)
}

func (s *server) getMail(ctx context.Context, _ *struct{}) (*struct{ Body MailView }, error) {
	return s.mailView(ctx)
}

func (s *server) setMail(ctx context.Context, in *mailInput) (*struct{ Body MailView }, error) {
	if in.Body.Mode == nil && in.Body.RampPerHour == nil {
		return nil, fieldProblem("body", `must say what to change: mode, as {"mode": "stopped"}, or ramp_per_hour, or both`)
	}
	if !register.Printable(in.Body.Reason) {
		return nil, fieldProblem("body.reason", "must be one line of printable text")
	}
	setting := db.MailSetting{Ramp: in.Body.RampPerHour, By: cmp.Or(actor(ctx), "an operator"), Reason: in.Body.Reason, At: s.Now()}
	if in.Body.Mode != nil {
		mode := reauth.MailMode(*in.Body.Mode)
		setting.Mode = &mode
	}
	control, changed, err := s.DB.SetMail(ctx, setting)
	if err != nil {
		return nil, s.databaseDown(ctx, "setting whether mail goes out", err)
	}
	if changed {
		s.Logger.WarnContext(ctx, "whether mail goes out was changed", "mode", control.Mode, "ramp_per_hour", control.Ramp, "version", control.Version, "by", setting.By)
	}
	if control.Mode != reauth.MailOn {
		if err := s.DB.AwaitMailUnderWay(ctx, underWayAtMost, underWayEvery); err != nil {
			return nil, s.databaseDown(ctx, "waiting for the mails that are on their way", err)
		}
	}
	return s.mailView(ctx)
}

func (s *server) mailView(ctx context.Context) (*struct{ Body MailView }, error) {
	control, err := s.DB.Mail(ctx)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading whether mail goes out", err)
	}
	standing, err := s.DB.MailStanding(ctx)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading what waits for mail", err)
	}
	changes, err := s.DB.MailChanges(ctx, mailHistory)
	if err != nil {
		return nil, s.databaseDown(ctx, "listing the changes of mail", err)
	}
	v := MailView{
		Mode: string(control.Mode), RampPerHour: control.Ramp, Version: control.Version, Shadowed: standing.Shadowed, UnderWay: standing.UnderWay,
		Waiting: MailWaiting{Stopped: standing.Stopped, Fixed: standing.Fixed, Ramp: standing.Ramp, RampUntil: standing.RampUntil},
		History: make([]MailChangeView, 0, len(changes)),
	}
	for _, c := range changes {
		v.History = append(v.History, MailChangeView{
			Version: c.Version, Mode: string(c.Mode), RampPerHour: c.Ramp, WasMode: string(c.WasMode), WasRampPerHour: c.WasRamp,
			ChangedBy: c.By, Reason: c.Reason, ChangedAt: c.At, WorkflowID: reauth.MailWorkflowID(c.ChangeID),
		})
	}
	if len(changes) > 0 {
		v.ChangedAt, v.ChangedBy, v.Reason = &changes[0].At, changes[0].By, changes[0].Reason
	}
	return &struct{ Body MailView }{v}, nil
}

// mailOf says how mail stands for a case: how it stands for all, or that the case
// waits for its turn. It is empty for a case that has ended.
func mailOf(c db.Case, control db.MailControl) string {
	switch {
	case !c.Open():
		return ""
	case control.Ramped() && c.Waits == "ramp":
		return "ramp"
	}
	return string(control.Mode)
}
