package activities

import (
	"context"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

// Notify looks at the connection once more and, if it is still lost, writes to
// everybody whom the step is for. The send ledger lets nobody hear a step twice.
func (a *Activities) Notify(ctx context.Context, in NoticeInput) (Noticed, error) {
	defer startPulse(ctx).end()
	connection, err := a.DB.Connection(ctx, in.Case.ConnectionID)
	if err != nil {
		return Noticed{}, err
	}
	if connection.Status == reauth.StatusDisconnected {
		return Noticed{Gone: true}, nil
	}
	if a.Now().Sub(in.LookedAt) > lookedLately {
		looked, err := a.look(ctx, in.Case, connection, false)
		switch {
		case err == nil && looked.Restored:
			return Noticed{Restored: true, HoldUntil: looked.HoldUntil}, nil
		case err != nil && a.Now().Sub(activity.GetInfo(ctx).ScheduledTime) < lookAtMost:
			return Noticed{}, err
		}
	}
	recipients, err := a.DB.Recipients(ctx, in.Case.ConnectionID)
	if err != nil {
		return Noticed{}, err
	}
	if len(recipients) == 0 {
		out := Noticed{Problem: "The connection has no contact, so nobody at the customer could be told."}
		if err := a.reachOperator(ctx, in.Case, "no-recipient-"+in.Step, out.Problem); err != nil {
			return Noticed{}, err
		}
		return out, a.DB.SetSchedule(ctx, in.Case.CaseID, in.NextNoticeAt, in.NoticesSent)
	}
	roots, err := a.threads(ctx, in.Case.CaseID)
	if err != nil {
		return Noticed{}, err
	}
	var deferred int
	for _, recipient := range recipients {
		delivery, err := a.write(ctx, in, connection, recipient, roots[recipient.ContactID])
		if err != nil {
			return Noticed{}, err
		}
		if delivery == notify.Deferred {
			deferred++
		}
	}
	return a.countStep(ctx, in, deferred)
}

// write sends one recipient's notice of a step, if the ledger permits it.
func (a *Activities) write(ctx context.Context, in NoticeInput, connection reauth.Connection, to db.Recipient, root string) (notify.Delivery, error) {
	link, err := a.link(ctx, connection.ConnectionID, to.ContactID)
	if err != nil {
		return "", err
	}
	return a.send(ctx, db.Notice{
		CaseID: in.Case.CaseID, Step: in.Step, SessionOrdinal: in.SessionOrdinal, Recipient: to.ContactID, Channel: db.ChannelMail,
	}, notify.Notice{
		Kind:          noticeKinds[in.Kind],
		Recipient:     recipientOf(to),
		CustomerName:  connection.CustomerName,
		ProviderName:  connection.System,
		LinkURL:       link,
		Step:          in.Step,
		Cause:         causes[in.Cause],
		DeadlineAt:    in.DeadlineAt,
		OpenedAt:      in.Case.OpenedAt,
		RootMessageID: root,
	})
}

var noticeKinds = map[NoticeKind]notify.Kind{
	NoticeFirst:    notify.KindFirst,
	NoticeReminder: notify.KindReminder,
	NoticeLastCall: notify.KindLastCall,
	NoticeTryAgain: notify.KindTryAgain,
}

var causes = map[reauth.CodeState]notify.Cause{
	reauth.CodeRefused:      notify.CauseRefused,
	reauth.CodeWrongAccount: notify.CauseWrongAccount,
}

func recipientOf(r db.Recipient) notify.Recipient {
	return notify.Recipient{Email: r.Email, Name: r.Name, TimeZone: r.TimeZone}
}

// send sends a notice once. Insert first, send then, and record what became of
// it: a message of which nobody knows is not sent again.
func (a *Activities) send(ctx context.Context, row db.Notice, notice notify.Notice) (notify.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	row.MessageID = notify.MessageID(a.mailDomain(), row.CaseID, row.Step, row.SessionOrdinal, row.Recipient)
	notice.MessageID = row.MessageID
	if notice.RootMessageID == row.MessageID {
		notice.RootMessageID = ""
	}
	notice.From, notice.ReplyTo, notice.ProductName = a.Settings.MailFrom, a.Settings.SupportEmail, a.Settings.ProductName
	message, err := notify.Compose(notice)
	if err != nil {
		return "", fmt.Errorf("compose the notice of step %s: %w", row.Step, err)
	}
	id, permit, state, err := a.DB.BeginNotice(ctx, row)
	switch {
	case err != nil:
		return "", err
	case !permit && state == db.NoticeSending:
		// An attempt died amid the conversation: nobody knows what became of
		// the mail, so it is not sent again.
		return notify.Unknown, a.DB.EndNotice(ctx, id, db.NoticeUnknown, "the worker died while it was sent")
	case !permit:
		return "", nil
	}
	delivery, err := a.Mail.Send(ctx, message)
	detail := ""
	if err != nil {
		detail = err.Error()
	}
	// The outcome must be on record even if the activity was abandoned.
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return delivery, a.DB.EndNotice(record, id, noticeStates[delivery], detail)
}

var noticeStates = map[notify.Delivery]db.NoticeState{
	notify.Sent:     db.NoticeSent,
	notify.Deferred: db.NoticeDeferred,
	notify.Refused:  db.NoticeRefused,
	notify.Unknown:  db.NoticeUnknown,
}

// countStep says how many have heard a step, over all attempts at it.
func (a *Activities) countStep(ctx context.Context, in NoticeInput, deferred int) (Noticed, error) {
	rows, err := a.DB.NoticesOf(ctx, in.Case.CaseID)
	if err != nil {
		return Noticed{}, err
	}
	var out Noticed
	var refused int
	for _, row := range rows {
		if row.Step != in.Step || row.SessionOrdinal != in.SessionOrdinal || row.Recipient == db.RecipientOperator {
			continue
		}
		switch row.State {
		case db.NoticeSent, db.NoticeUnknown:
			out.Sent++
		case db.NoticeRefused:
			refused++
		}
	}
	if deferred > 0 {
		return out, retryLater(fmt.Sprintf("the mail server has not taken %d of the step's mails yet", deferred), "mail_deferred", 0)
	}
	if out.Sent == 0 && refused > 0 {
		out.Problem = "The mail server refused every address of the customer."
		if err := a.reachOperator(ctx, in.Case, "refused-"+in.Step, out.Problem); err != nil {
			return out, err
		}
	}
	return out, a.DB.SetSchedule(ctx, in.Case.CaseID, in.NextNoticeAt, in.NoticesSent+out.Sent)
}

// link is the recipient's own durable URL. Its secret is worked out anew each
// time: the database has only its hash.
func (a *Activities) link(ctx context.Context, connectionID, recipient string) (string, error) {
	version, keyID, err := a.DB.EnsureLink(ctx, connectionID, recipient, a.Keys.LinkKeyID(), func(keyID uint32, version int) ([]byte, error) {
		secret, err := a.Keys.LinkSecret(keyID, connectionID, recipient, version)
		return secrets.HashLink(secret), err
	})
	if err != nil {
		return "", err
	}
	secret, err := a.Keys.LinkSecret(keyID, connectionID, recipient, version)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(a.Settings.PublicURL, "/") + "/r/" + secret, nil
}

// threads finds, for each recipient, the first message of this case.
func (a *Activities) threads(ctx context.Context, caseID string) (map[string]string, error) {
	_, roots, err := a.DB.Alerted(ctx, caseID)
	return roots, err
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
