package web

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// CaseView is a case as lists show it: the fields of the workflow's status
// query, and what it began with.
type CaseView struct {
	CaseID           string     `json:"case_id"`
	ConnectionID     string     `json:"connection_id"`
	CustomerName     string     `json:"customer_name,omitempty"`
	Provider         string     `json:"provider"`
	Application      string     `json:"application"`
	Source           string     `json:"source" doc:"Whose evidence opened it."`
	FinchCode        string     `json:"finch_code,omitempty"`
	Reason           string     `json:"reason,omitempty"`
	Phase            string     `json:"phase" enum:"confirming,awaiting_customer,redeeming,verifying,blocked,closed"`
	Outcome          string     `json:"outcome" doc:"How it ended: recovered, healed, false_alarm, expired, cancelled or failed. Empty while it is open."`
	SessionID        string     `json:"session_id"`
	SessionExpiresAt *time.Time `json:"session_expires_at"`
	DeadlineAt       *time.Time `json:"deadline_at"`
	Campaign         string     `json:"campaign,omitempty" doc:"The campaign that the case follows."`
	NextNoticeAt     *time.Time `json:"next_notice_at" doc:"When the next step is due. People outside whose hours that is hear in their next permitted minute."`
	NextStep         string     `json:"next_step,omitempty" doc:"The campaign's step that is due then, as in notices."`
	HeldByStorm      bool       `json:"held_by_storm" doc:"Whether the first notice is held, because so many connections broke together that it may be the provider's fault."`
	Mail             string     `json:"mail,omitempty" doc:"Whether its customer can be written to: on; shadow, in which nobody is; stopped, in which every step waits; or ramp, in which its first notice waits for its turn. Absent of a case that has ended."`
	NoticesSent      int        `json:"notices_sent"`
	LastClickAt      *time.Time `json:"last_click_at"`
	Generation       int64      `json:"generation" doc:"The token generation that the case ended with."`
	LastError        string     `json:"last_error"`
	OpenedAt         time.Time  `json:"opened_at"`
	ClosedAt         *time.Time `json:"closed_at"`
	WorkflowID       string     `json:"workflow_id"`
}

// SessionView is the open Connect session of a case.
type SessionView struct {
	ID         string     `json:"id"`
	ConnectURL string     `json:"connect_url" doc:"Where the customer goes, or what the embedded Connect opens."`
	ExpiresAt  *time.Time `json:"expires_at"`
}

// EventView is one line of a case's timeline.
type EventView struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Detail string    `json:"detail,omitempty"`
}

// NoticeView is a line of a case's send ledger: one step to one recipient on
// one channel.
type NoticeView struct {
	Step       string    `json:"step" doc:"The campaign's step, or what else asked for the notice."`
	Recipient  string    `json:"recipient" doc:"The contact's ID, or operator."`
	Channel    string    `json:"channel" enum:"mail,webhook,chat" doc:"webhook: your backend was asked to write."`
	State      string    `json:"state" enum:"sending,sent,deferred,refused,unknown,shadow" doc:"sent: it was taken. shadow: it would have been sent, if mail had not been in shadow. deferred: it was not, and is tried again. refused: it was not, for good. unknown: nobody knows, so it is not tried again."`
	At         time.Time `json:"at" doc:"When it ended; while it is sending, when it began."`
	WithOthers bool      `json:"with_others" doc:"Whether it went along in the mail about another of the recipient's connections."`
	Detail     string    `json:"detail,omitempty" doc:"What the mail server said, say."`
}

// CaseDetail is the newest case of a connection, with all that is known of it.
type CaseDetail struct {
	CaseView
	Session  *SessionView    `json:"session,omitempty" doc:"Present while the case is open and has a session."`
	Link     string          `json:"link,omitempty" doc:"The link of the first contact who can be written to, for keys with the scope operator. Whoever has it can act for the customer."`
	Entities reauth.Entities `json:"entities,omitempty" doc:"The companies of a connection that has several, as they were last seen. Those with the status reauth want a new login; those with disconnected are not part of the connection any more."`
	Timeline []EventView     `json:"timeline" nullable:"false" doc:"What happened, oldest first."`
	Notices  []NoticeView    `json:"notices" nullable:"false" doc:"Who was told what, on which channel, and what became of it, oldest first."`
}

// CaseList is one page of cases.
type CaseList struct {
	Cases      []CaseView `json:"cases" nullable:"false"`
	NextCursor string     `json:"next_cursor,omitempty" doc:"Gives the next page; absent on the last one."`
}

type listCasesInput struct {
	Paging
	Phase    string `query:"phase" enum:"confirming,awaiting_customer,redeeming,verifying,blocked,closed" doc:"Only cases in this phase."`
	Outcome  string `query:"outcome" enum:"recovered,healed,false_alarm,expired,cancelled,failed" doc:"Only cases with this outcome."`
	Provider string `query:"provider" enum:"finch" doc:"Only cases of this provider."`

	Application string `query:"application" maxLength:"64" doc:"Only cases of this application."`
	System      string `query:"system" maxLength:"200" doc:"Only cases of connections to this employment system."`
}

func (s *server) caseRoutes(api huma.API) {
	huma.Register(api, answers(operation("get-case", http.MethodGet, "/v1/connections/{connection_id}/reauth", tagCases, "Read a connection's newest case",
		"Where it stands, its session, its notices, and its timeline: who was told, what happened, when.",
		ScopeReports, ScopeOperator), http.StatusNotFound), s.getCase)
	huma.Register(api, withinApplication(operation("list-cases", http.MethodGet, "/v1/cases", tagCases, "List cases", "Newest first.",
		ScopeReports, ScopeOperator)), s.listCases)
}

func viewOf(c db.Case, mail db.MailControl) CaseView {
	return CaseView{
		CaseID: c.CaseID, ConnectionID: c.ConnectionID, CustomerName: c.CustomerName, Provider: string(c.Provider),
		Application: c.Application, Source: string(c.Source), FinchCode: c.FinchCode, Reason: c.Reason,
		Phase: string(c.Phase), Outcome: string(c.Outcome), SessionID: c.SessionID, SessionExpiresAt: c.SessionExpiresAt,
		DeadlineAt: c.DeadlineAt, Campaign: c.Campaign, NextNoticeAt: c.NextNoticeAt, NextStep: c.NextStep, HeldByStorm: c.Held, Mail: mailOf(c, mail), NoticesSent: c.NoticesSent, LastClickAt: c.LastClickAt,
		Generation: c.Generation, LastError: c.LastError, OpenedAt: c.OpenedAt, ClosedAt: c.ClosedAt,
		WorkflowID: reauth.WorkflowID(c.ConnectionID),
	}
}

func (s *server) getCase(ctx context.Context, in *ConnectionPath) (*struct{ Body CaseDetail }, error) {
	c, err := s.connection(ctx, in.ConnectionID)
	if err != nil {
		return nil, err
	}
	newest, err := s.DB.NewestCase(ctx, in.ConnectionID)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, problem(http.StatusNotFound, "The connection has had no case yet. POST /v1/connections/"+in.ConnectionID+"/reauth opens one.")
	case err != nil:
		return nil, s.databaseDown(ctx, "reading the newest case", err)
	}
	mail, err := s.DB.Mail(ctx)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading whether mail goes out", err)
	}
	detail := CaseDetail{CaseView: viewOf(newest, mail), Entities: c.Entities, Timeline: []EventView{}, Notices: []NoticeView{}}
	if newest.Outcome == "" && newest.SessionID != "" {
		detail.Session = &SessionView{ID: newest.SessionID, ConnectURL: newest.ConnectURL, ExpiresAt: newest.SessionExpiresAt}
	}
	if hasScope(ctx, ScopeOperator) && c.Status != reauth.StatusRemoved {
		if detail.Link, err = s.linkOf(ctx, c.ConnectionID); err != nil {
			return nil, s.databaseDown(ctx, "reading a link", err)
		}
	}
	events, err := s.DB.Timeline(ctx, newest.CaseID)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading a timeline", err)
	}
	for _, e := range events {
		detail.Timeline = append(detail.Timeline, EventView{At: e.At, Kind: e.Kind, Detail: e.Detail})
	}
	if detail.Timeline, err = s.addWebhooks(ctx, newest.CaseID, detail.Timeline); err != nil {
		return nil, err
	}
	notices, err := s.DB.NoticesOf(ctx, newest.CaseID)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading the notices", err)
	}
	for _, n := range notices {
		detail.Notices = append(detail.Notices, noticeView(n))
	}
	return &struct{ Body CaseDetail }{detail}, nil
}

func noticeView(n db.NoticeRow) NoticeView {
	v := NoticeView{
		Step: n.Step, Recipient: n.Recipient, Channel: n.Channel, State: string(n.State), At: n.BegunAt,
		WithOthers: n.LeadID != 0, Detail: n.Detail,
	}
	if n.EndedAt != nil {
		v.At = *n.EndedAt
	}
	return v
}

// linkOf returns the link of the first recipient who can be written to, or of
// the first of all where nobody can; empty when the
// connection has none.
func (s *server) linkOf(ctx context.Context, connectionID string) (string, error) {
	recipients, err := s.DB.Recipients(ctx, connectionID)
	if err != nil || len(recipients) == 0 {
		return "", err
	}
	first := max(0, slices.IndexFunc(recipients, func(r db.Recipient) bool { return r.Unreachable == "" }))
	return s.linkURL(ctx, connectionID, recipients[first].ContactID)
}

func (s *server) listCases(ctx context.Context, in *listCasesInput) (*struct{ Body CaseList }, error) {
	filter := db.CaseFilter{Phase: reauth.Phase(in.Phase), Outcome: reauth.Outcome(in.Outcome), Provider: reauth.Provider(in.Provider), Application: in.Application, System: in.System}
	cases, next, err := s.DB.Cases(ctx, filter, in.Cursor, in.Limit)
	if err != nil {
		return nil, s.notListed(ctx, "listing cases", err)
	}
	mail, err := s.DB.Mail(ctx)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading whether mail goes out", err)
	}
	list := CaseList{Cases: make([]CaseView, 0, len(cases)), NextCursor: next}
	for _, c := range cases {
		list.Cases = append(list.Cases, viewOf(c, mail))
	}
	return &struct{ Body CaseList }{list}, nil
}
