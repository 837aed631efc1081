package preview

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// Person is a contact, or the operator.
type Person struct {
	Name, Email string
	// Role is primary, alternate or company, as the campaign sees the person.
	Role string
	// Zone is by whose clock they are written to.
	Zone *time.Location
	// Unreachable says why they are not written to; empty if they are.
	Unreachable string
}

// Row is one line of the table: a notice to one person, one that was left out,
// or the end of the case.
type Row struct {
	At time.Time
	// Person is whom the notice is for; its zone is that of the row's time. The
	// name of what is for nobody in particular is its audience.
	Person  Person
	Channel string
	Step    string
	// Subject is the mail's, or says in words what happens.
	Subject string
	// Note says why a notice was moved, left out, or given to somebody else.
	Note    string
	LeftOut bool
	// End: the row is the case's own end.
	End bool
	// Message is the place in Preview.Messages, from 1 on; 0 for none.
	Message int
}

// Message is one message as it was sent: a mail to one person, or an event for
// the backend. The secrets of its links are replaced.
type Message struct {
	At      time.Time
	Person  Person
	Channel string
	Step    string
	// Mail is set for mails, Event for events, as indented JSON.
	Mail  notify.Mail
	Event string
}

// played is a case that has ended.
type played struct {
	Case
	store  *store
	mails  map[string]notify.Mail
	result reauth.Result
	hide   *strings.Replacer
}

func (p played) preview() Preview {
	out := Preview{
		Connection: p.Connection, Campaign: p.Campaign, From: p.From, DeadlineAt: *p.store.row.DeadlineAt,
		EndedAt: *p.store.row.ClosedAt, Sessions: p.store.row.SessionOrdinal, Outcome: p.result.Outcome,
	}
	for _, r := range p.People {
		out.People = append(out.People, p.person(r.ContactID))
	}
	rows := append(p.sent(&out), p.leftOut()...)
	slices.SortStableFunc(rows, func(a, b Row) int { return a.At.Compare(b.At) })
	out.Rows = append(rows, p.end(out))
	out.number()
	return out
}

// number puts the messages into the order of the rows.
func (p *Preview) number() {
	was := p.Messages
	p.Messages = nil
	placed := map[int]int{}
	for i := range p.Rows {
		m := &p.Rows[i].Message
		if *m == 0 {
			continue
		}
		if placed[*m] == 0 {
			p.Messages = append(p.Messages, was[*m-1])
			placed[*m] = len(p.Messages)
		}
		*m = placed[*m]
	}
}

// sent are the rows of what stands in the ledger.
func (p played) sent(out *Preview) []Row {
	var rows []Row
	messages := map[string]int{} // by message ID
	for _, n := range p.store.notices {
		row := Row{At: n.BegunAt, Person: p.person(n.Recipient), Channel: n.Channel, Step: n.Step, Note: p.note(n)}
		message := Message{At: n.BegunAt, Person: row.Person, Channel: n.Channel, Step: n.Step}
		switch n.Channel {
		case db.ChannelMail:
			message.Mail = p.hidden(p.mails[n.MessageID])
			row.Subject = message.Mail.Subject
		case db.ChannelWebhook:
			message.Event = p.event(n)
			row.Subject = "your backend writes"
		case db.ChannelChat:
			row.Subject = p.store.says[n.ID]
		}
		if n.Channel != db.ChannelChat {
			if messages[n.MessageID] == 0 {
				out.Messages = append(out.Messages, message)
				messages[n.MessageID] = len(out.Messages)
			}
			row.Message = messages[n.MessageID]
		}
		rows = append(rows, row)
	}
	return rows
}

// note says what is special about a notice that was sent.
func (p played) note(n db.NoticeRow) string {
	date, ok := p.date(n.Step)
	if !ok {
		if strings.HasPrefix(n.Step, "no-recipient-") {
			return "nobody can be written to"
		}
		return ""
	}
	person := p.person(n.Recipient)
	var notes []string
	switch why := "outside their hours"; {
	case n.BegunAt.After(date.At):
		if slices.ContainsFunc(p.store.capped, func(c capped) bool { return c.step == n.Step && c.recipient == n.Recipient }) {
			why = "the day's mail was sent"
		}
		notes = append(notes, "moved from "+date.At.In(person.Zone).Format("Mon 02 Jan 15:04")+": "+why)
	case n.Recipient != db.RecipientOperator && !date.Step.Anytime && !p.Campaign.Hours.Next(n.BegunAt, p.zone(n.Recipient)).Equal(n.BegunAt):
		notes = append(notes, why+", of which none are left before the deadline")
	}
	switch to := p.role(n.Recipient); {
	case date.Step.Audience != campaign.Company && to == campaign.RoleCompany:
		notes = append(notes, "takes over: nobody at the customer can be written to")
	case date.Step.Audience == campaign.Primary && to == campaign.RoleAlternate:
		notes = append(notes, "takes over: no primary contact can be written to")
	case n.Channel == db.ChannelChat:
		notes = append(notes, "a mail to the operator where there is no chat")
	}
	return strings.Join(notes, "; ")
}

// leftOut are the rows of what the campaign has, but was not sent.
func (p played) leftOut() []Row {
	var rows []Row
	for _, step := range p.Campaign.Steps {
		date, scheduled := p.date(step.Key)
		if !scheduled {
			date.At = p.due(step)
			to := Person{Name: string(step.Audience), Zone: time.UTC}
			rows = append(rows, Row{At: date.At, Person: to, Channel: string(step.Channel), Step: step.Key, LeftOut: true, Note: p.whyUnscheduled(step)})
			continue
		}
		for _, id := range p.expected(step) {
			heard := func(n db.NoticeRow) bool {
				return n.Recipient == id && (n.Step == step.Key || strings.HasPrefix(n.Step, "no-recipient-"))
			}
			if !slices.ContainsFunc(p.store.notices, heard) {
				rows = append(rows, Row{At: date.At, Person: p.person(id), Channel: string(step.Channel), Step: step.Key, LeftOut: true, Note: p.whyUnheard(date, id)})
			}
		}
	}
	return rows
}

// expected are those for whom a step is.
func (p played) expected(step campaign.Step) []string {
	people := make([]campaign.Person, len(p.People))
	for i, r := range p.People {
		people[i] = campaign.Person{ID: r.ContactID, Role: campaign.RoleOf(r.Role), Unreachable: string(r.Unreachable)}
	}
	chosen := campaign.Choose(step.Audience, people)
	if len(chosen) == 0 || step.Channel == campaign.Chat {
		return []string{db.RecipientOperator}
	}
	ids := make([]string, len(chosen))
	for i, person := range chosen {
		ids[i] = person.ID
	}
	return ids
}

// whyUnheard says why somebody did not hear a step that had its date.
func (p played) whyUnheard(date campaign.Date, id string) string {
	for _, c := range p.store.capped {
		if c.step == date.Step.Key && c.recipient == id && p.Campaign.AfterCap(c.at, *p.store.row.DeadlineAt, p.zone(id)).IsZero() {
			return "the day's mail was sent, and no day is left before the deadline"
		}
	}
	if p.store.row.ClosedAt.Before(date.At) {
		return "the case had ended"
	}
	for _, n := range p.store.notices {
		if n.Recipient == id && !n.BegunAt.Before(date.At) && n.Channel == string(date.Step.Channel) {
			return n.Step + " goes out in its place"
		}
	}
	return "it could not be sent"
}

// whyUnscheduled says why a step has no date in this case.
func (p played) whyUnscheduled(step campaign.Step) string {
	at := p.due(step)
	switch {
	case step.Before > 0:
		return "due within twelve hours of the opening, or before it"
	case !at.Before(*p.store.row.DeadlineAt):
		return "due at the deadline or past it"
	}
	return "due less than twelve hours from a last call"
}

// due is when a step would be due, whether or not it has a date.
func (p played) due(step campaign.Step) time.Time {
	if step.Before > 0 {
		return p.store.row.DeadlineAt.Add(-step.Before)
	}
	return p.From.Add(step.After)
}

func (p played) dates() []campaign.Date {
	return p.Campaign.Schedule(p.From, *p.store.row.DeadlineAt, false)
}

// date is when a step is due in this case.
func (p played) date(key string) (campaign.Date, bool) {
	for _, date := range p.dates() {
		if date.Step.Key == key {
			return date, true
		}
	}
	return campaign.Date{}, false
}

// end is the last row.
func (p played) end(out Preview) Row {
	row := Row{At: out.EndedAt, Person: Person{Zone: time.UTC}, End: true, Step: "end", Subject: "the case ends as " + string(out.Outcome)}
	if p.result.Reason != "" {
		row.Note = strings.ReplaceAll(p.result.Reason, "_", " ")
	}
	if !out.EndedAt.Before(out.DeadlineAt) {
		row.Step = "deadline"
		if out.Sessions > 1 {
			row.Note = fmt.Sprintf("the end of session %d", out.Sessions)
		}
	}
	return row
}

func (p played) contact(id string) (db.Recipient, bool) {
	i := slices.IndexFunc(p.People, func(r db.Recipient) bool { return r.ContactID == id })
	if i < 0 {
		return db.Recipient{}, false
	}
	return p.People[i], true
}

func (p played) role(id string) campaign.Role {
	r, ok := p.contact(id)
	if !ok {
		return campaign.RolePrimary
	}
	return campaign.RoleOf(r.Role)
}

func (p played) zone(id string) string {
	r, _ := p.contact(id)
	return r.TimeZone
}

func (p played) person(id string) Person {
	r, ok := p.contact(id)
	if !ok {
		return Person{Name: "the operator", Email: p.Settings.OperatorEmail, Zone: time.UTC}
	}
	return Person{
		Name: r.Name, Email: r.Email, Role: roles[campaign.RoleOf(r.Role)], Zone: p.Campaign.Hours.Location(r.TimeZone),
		Unreachable: unreachable[r.Unreachable],
	}
}

var roles = map[campaign.Role]string{
	campaign.RolePrimary: "primary", campaign.RoleAlternate: "alternate", campaign.RoleCompany: "company",
}

var unreachable = map[db.Unreachable]string{
	db.UnreachableBounce:    "the address takes no mail",
	db.UnreachableComplaint: "complained of a mail",
	db.UnreachableOptOut:    "wants no mail",
	db.UnreachableNotMe:     "is not the right person",
}

// event is what the backend gets. The courier adds the recipients to it.
func (p played) event(n db.NoticeRow) string {
	var out bytes.Buffer
	if json.Indent(&out, p.store.events[n.ID].Payload, "", "  ") != nil {
		return ""
	}
	return p.hide.Replace(out.String())
}

func (p played) hidden(m notify.Mail) notify.Mail {
	m.Text, m.HTML = p.hide.Replace(m.Text), p.hide.Replace(m.HTML)
	return m
}
