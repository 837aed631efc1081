package preview

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// linkVersion is the version of every link in a preview.
const linkVersion = 1

// store keeps one case in memory by the rules of db.DB, as far as a case needs
// them to which nobody comes back. Of other cases it knows nothing.
type store struct {
	activities.Store // nil: what is not below, such a case never asks for

	connection reauth.Connection
	people     []db.Recipient
	now        func() time.Time

	mu      sync.Mutex
	opened  bool
	row     db.Case
	notices []db.NoticeRow
	capped  []capped
	says    map[int64]string         // what the chat hears, by notice
	events  map[int64]db.OutboxEvent // what the backend gets, by notice
}

// capped is a notice that had to wait because its recipient had had the day's mails.
type capped struct {
	step, recipient string
	at              time.Time
}

func (s *store) Connection(context.Context, string) (reauth.Connection, error) {
	return s.connection, nil
}

func (s *store) Recipients(context.Context, string) ([]db.Recipient, error) { return s.people, nil }

func (s *store) SharesContact(context.Context, string) (bool, error) { return false, nil }

func (s *store) MayStorm(context.Context, reauth.Provider, int) (bool, error) { return false, nil }

func (s *store) Brake(context.Context, string, db.StormRule, time.Time) (db.Storm, bool, error) {
	return db.Storm{}, false, nil
}

func (s *store) Suppressed(context.Context, string, reauth.Source, string, time.Time) (time.Time, string, bool, error) {
	return time.Time{}, "", false, nil
}

// CurrentToken has none, so that the report is believed.
func (s *store) CurrentToken(context.Context, string) (db.Token, error) {
	return db.Token{}, db.ErrNotFound
}

// StagedOf has none either.
func (s *store) StagedOf(context.Context, string, time.Time) ([]db.StagedToken, error) {
	return nil, nil
}

func (s *store) LastClick(context.Context, string) (*time.Time, error) { return nil, nil }

func (s *store) EnsureLink(_ context.Context, _, _ string, keyID uint32, _ func(uint32, int) ([]byte, error)) (int, uint32, error) {
	return linkVersion, keyID, nil
}

func (s *store) OpenCase(_ context.Context, c db.Case) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		s.opened, s.row = true, c
	}
	return s.row.Open(), nil
}

func (s *store) CaseByID(context.Context, string) (db.Case, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		return db.Case{}, db.ErrNotFound
	}
	return s.row, nil
}

func (s *store) SetSession(_ context.Context, _ string, session db.Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.SessionOrdinal, s.row.DeadlineAt = session.Ordinal, &session.DeadlineAt
	return nil
}

func (s *store) SetPhase(context.Context, string, reauth.Phase, string) error { return nil }

func (s *store) SetCampaign(context.Context, string, string) error { return nil }

func (s *store) SetSchedule(context.Context, string, db.Schedule) error { return nil }

// AddEvent keeps of the timeline only what the chat shows: the line that
// follows a notice in the chat.
func (s *store) AddEvent(_ context.Context, e db.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.notices); n > 0 && e.Kind == db.EventOperatorNeeded {
		if last := s.notices[n-1]; last.Channel == db.ChannelChat && last.State == db.NoticeSending {
			s.says[last.ID] = e.Detail
		}
	}
	return nil
}

func (s *store) CloseCase(_ context.Context, closing db.Closing) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.row.Open() {
		return false, nil
	}
	s.row.Outcome, s.row.CloseReason, s.row.ClosedAt = closing.Outcome, closing.Reason, &closing.At
	return true, nil
}

func (s *store) BeginNotice(_ context.Context, n db.Notice) (int64, bool, db.NoticeState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, granted := s.begin(n, s.now())
	return row.ID, granted, row.State, nil
}

func (s *store) BeginMail(_ context.Context, m db.Mail) (db.Permit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := 0
	for _, row := range s.notices {
		if row.Recipient == m.Recipient && row.Channel == db.ChannelMail && !row.BegunAt.Before(m.DayBegins) {
			had++
		}
	}
	if _, found := s.find(m.Notice); !found && m.PerDay > 0 && had >= m.PerDay {
		s.capped = append(s.capped, capped{m.Step, m.Recipient, m.At})
		return db.Permit{Capped: true}, nil
	}
	row, granted := s.begin(m.Notice, m.At)
	return db.Permit{ID: row.ID, Granted: granted, State: row.State, BegunAt: row.BegunAt}, nil
}

func (s *store) HandToBackend(_ context.Context, n db.Notice, contacts []string, event db.OutboxEvent, at time.Time) (given int, control db.MailControl, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, contact := range contacts {
		n.Recipient, n.MessageID = contact, event.ID+"_"+strings.Join(contacts, "_")
		if row, granted := s.begin(n, at); granted {
			s.notices[row.ID-1].State = db.NoticeSent
			s.events[row.ID] = event
			given++
		}
	}
	return given, mailOn(), nil
}

// mailOn is how mail stands in a preview, whatever is set: it shows what people
// get once they get anything.
func mailOn() db.MailControl { return db.MailControl{Mode: reauth.MailOn} }

func (s *store) Mail(context.Context) (db.MailControl, error) { return mailOn(), nil }

func (s *store) HoldMail(context.Context, string) (control db.MailControl, first bool, err error) {
	return mailOn(), false, nil
}

// begin puts a notice into the ledger, once, while the case is open; the
// operator may hear of a closed one. IDs are places in the ledger, from 1 on.
func (s *store) begin(n db.Notice, at time.Time) (row db.NoticeRow, granted bool) {
	if row, found := s.find(n); found {
		return row, false
	}
	if !s.row.Open() && !n.Operator {
		return db.NoticeRow{}, false
	}
	row = db.NoticeRow{
		ID: int64(len(s.notices)) + 1, CaseID: n.CaseID, Step: n.Step, SessionOrdinal: n.SessionOrdinal, Recipient: n.Recipient,
		Channel: n.Channel, MessageID: n.MessageID, State: db.NoticeSending, Attempts: 1, BegunAt: at,
	}
	s.notices = append(s.notices, row)
	return row, true
}

func (s *store) find(n db.Notice) (db.NoticeRow, bool) {
	for _, row := range s.notices {
		if row.Step == n.Step && row.SessionOrdinal == n.SessionOrdinal && row.Recipient == n.Recipient && row.Channel == n.Channel {
			return row, true
		}
	}
	return db.NoticeRow{}, false
}

func (s *store) EndNotice(_ context.Context, id int64, state db.NoticeState, detail string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	row := &s.notices[id-1]
	row.State, row.Detail, row.EndedAt = state, detail, &at
	return nil
}

func (s *store) NoticesOf(context.Context, string) ([]db.NoticeRow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]db.NoticeRow(nil), s.notices...), nil
}

// Alerted leaves out nobody: in a preview every mail arrives.
func (s *store) Alerted(context.Context, string) (recipients []string, roots map[string]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	roots = map[string]string{}
	for _, row := range s.notices {
		if _, seen := roots[row.Recipient]; !seen && row.Channel == db.ChannelMail && row.State == db.NoticeSent {
			recipients = append(recipients, row.Recipient)
			roots[row.Recipient] = row.MessageID
		}
	}
	return recipients, roots, nil
}
