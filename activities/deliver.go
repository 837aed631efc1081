package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// NoticeDue is the type of the event by which the company's backend writes to
// the customer itself.
const NoticeDue = db.NoticeDue

// What becomes of a message that is never sent.
const (
	shadowed notify.Delivery = "shadow"  // mail is in shadow
	stopped  notify.Delivery = "stopped" // mail is stopped: it has not begun
)

// deliver sends a notice that is nobody's step, once. Insert first, send then,
// and record what became of it: a message of which nobody knows is not sent
// again.
func (a *Activities) deliver(ctx context.Context, row db.Notice, notice notify.Notice) (notify.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	a.address(&row, &notice)
	message, err := notify.Compose(notice)
	if err != nil {
		return "", fmt.Errorf("compose the notice of step %s: %w", row.Step, err)
	}
	message.Date = a.Now().UTC()
	id, permit, state, err := a.DB.BeginNotice(ctx, row)
	switch {
	case err != nil:
		return "", err
	case state == db.NoticeStopped:
		return stopped, nil
	case state == db.NoticeShadow:
		return shadowed, a.inShadow(ctx, id, row)
	case !permit && state == db.NoticeSending:
		// An attempt died amid the conversation: nobody knows what became of
		// the mail, so it is not sent again.
		return notify.Unknown, a.end(ctx, id, notify.Unknown, "the worker died while it was sent")
	case !permit:
		return "", nil
	}
	delivery, err := a.Mail.Send(ctx, message)
	return delivery, a.end(ctx, id, delivery, detailOf(err))
}

// inShadow puts on record who would have been written to.
func (a *Activities) inShadow(ctx context.Context, id int64, row db.Notice) error {
	a.Logger.InfoContext(ctx, "Mail is in shadow: this would have been sent", "case_id", row.CaseID, "step", row.Step, "recipient", row.Recipient, "channel", row.Channel)
	return a.end(ctx, id, shadowed, "")
}

// address fills in what every mail of ours has.
func (a *Activities) address(row *db.Notice, notice *notify.Notice) {
	row.MessageID = notify.MessageID(a.mailDomain(), row.CaseID, row.Step, row.SessionOrdinal, row.Recipient)
	notice.MessageID = row.MessageID
	if notice.RootMessageID == row.MessageID {
		notice.RootMessageID = ""
	}
	notice.From, notice.ReplyTo, notice.ProductName = a.Settings.MailFrom, a.Settings.SupportEmail, a.Settings.ProductName
}

// end puts on record what became of a mail, even if the activity was abandoned.
func (a *Activities) end(ctx context.Context, id int64, delivery notify.Delivery, detail string) error {
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return a.DB.EndNotice(record, id, noticeStates[delivery], detail)
}

func detailOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

var noticeStates = map[notify.Delivery]db.NoticeState{
	notify.Sent:     db.NoticeSent,
	notify.Deferred: db.NoticeDeferred,
	notify.Refused:  db.NoticeRefused,
	notify.Unknown:  db.NoticeUnknown,
	shadowed:        db.NoticeShadow,
}

// noticeDue is the event by which the backend writes to the customer itself.
// The courier adds the recipients and their links when it delivers it.
func (s *mailing) noticeDue() (db.OutboxEvent, error) {
	data := map[string]any{
		"case_id":       s.in.Case.CaseID,
		"connection_id": s.connection.ConnectionID,
		"provider":      s.connection.Provider,
		"application":   s.connection.Application,
		"customer_id":   s.connection.CustomerID,
		"customer_name": s.connection.CustomerName,
		"system":        s.connection.System,
		"step":          s.in.Step.Key,
		"kind":          s.in.Kind,
		"opened_at":     s.in.Case.OpenedAt.UTC().Format(time.RFC3339),
		"deadline_at":   s.in.DeadlineAt.UTC().Format(time.RFC3339),
	}
	if several(s.connection.Entities) {
		data["entities"] = s.connection.Entities
	}
	payload, err := json.Marshal(map[string]any{
		"type":      NoticeDue,
		"timestamp": s.now.Format(time.RFC3339),
		"data":      data,
	})
	if err != nil {
		return db.OutboxEvent{}, fmt.Errorf("write the event of a notice: %w", err)
	}
	id := fmt.Sprintf("evt_%s_%s_%d", s.in.Case.CaseID, s.in.Step.Key, s.in.SessionOrdinal)
	return db.OutboxEvent{ID: id, Type: NoticeDue, Payload: payload}, nil
}

// link is a contact's own durable URL. Its secret is worked out anew each time:
// the database has only its hash.
func (a *Activities) link(ctx context.Context, connectionID, contact string) (string, error) {
	version, keyID, err := a.DB.EnsureLink(ctx, connectionID, contact, a.Keys.LinkKeyID(), func(keyID uint32, version int) ([]byte, error) {
		secret, err := a.Keys.LinkSecret(keyID, connectionID, contact, version)
		return secrets.HashLink(secret), err
	})
	if err != nil {
		return "", err
	}
	secret, err := a.Keys.LinkSecret(keyID, connectionID, contact, version)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(a.Settings.PublicURL, "/") + "/r/" + secret, nil
}

// stopPage is where the owner of a link says that they want no more mails. It
// is not below the link, so that nobody mistakes the one for the other.
func stopPage(link string) string {
	base, secret, _ := strings.Cut(link, "/r/")
	return base + "/stop/" + secret
}

// mailDomain is the domain of our message IDs.
func (a *Activities) mailDomain() string {
	if from, err := mail.ParseAddress(a.Settings.MailFrom); err == nil {
		if _, domain, ok := strings.Cut(from.Address, "@"); ok {
			return domain
		}
	}
	if u, err := url.Parse(a.Settings.PublicURL); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return "localhost"
}

// operatorNotice is what an operator is told of a problem.
func (a *Activities) operatorNotice(ctx context.Context, c Case, connection reauth.Connection, step, problem string) notify.Notice {
	stale, working := names(connection.Entities)
	return notify.Notice{
		Kind:         notify.KindOperator,
		Entities:     stale,
		Working:      working,
		Recipient:    notify.Recipient{Email: a.Settings.OperatorEmail},
		CustomerName: connection.CustomerName,
		ProviderName: connection.System,
		ConnectionID: c.ConnectionID,
		CaseID:       c.CaseID,
		Problem:      problem,
		OpenedAt:     c.OpenedAt,
		Step:         step,
		Links:        a.temporalLinks(ctx, "Open the case in Temporal", reauth.WorkflowID(c.ConnectionID)),
	}
}
