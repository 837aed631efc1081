package worker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
)

// Recipient is a person to whom the backend may write, as a webhook names one.
type Recipient struct {
	ContactID string `json:"contact_id"`
	Email     string `json:"email"`
	Name      string `json:"name"`
	Role      string `json:"role"`
	Locale    string `json:"locale"`
	TimeZone  string `json:"time_zone"`
	// LinkURL is the person's own durable link.
	LinkURL string `json:"link_url"`
}

// String keeps address, name and link out of anything that prints a recipient.
func (r Recipient) String() string { return "contact " + r.ContactID }

// GoString keeps address, name and link out of %#v.
func (r Recipient) GoString() string { return r.String() }

// Expander finds the people whom an event names.
type Expander interface {
	Expand(ctx context.Context, event db.OutboxEvent) ([]Recipient, error)
}

// people finds them among the contacts, as these are when the event leaves: the
// outbox has neither an address nor a link. Who was taken off the connection or
// must not be written to any more is left out, and so is everybody once the case
// whose notice was due is closed.
type people struct {
	contacts contacts
	link     func(ctx context.Context, connectionID, contactID string) (string, error)
}

// contacts is what people needs of the database.
type contacts interface {
	CaseByID(ctx context.Context, caseID string) (db.Case, error)
	Recipients(ctx context.Context, connectionID string) ([]db.Recipient, error)
}

// peopleOf finds people as the activities do.
func peopleOf(a *activities.Activities) people { return people{a.DB, activities.Links(a)} }

// Expand implements Expander.
func (p people) Expand(ctx context.Context, event db.OutboxEvent) ([]Recipient, error) {
	if event.Type == activities.NoticeDue {
		c, err := p.contacts.CaseByID(ctx, event.CaseID)
		if err != nil {
			return nil, err
		}
		if !c.Open() {
			return nil, nil
		}
	}
	list, err := p.contacts.Recipients(ctx, event.ConnectionID)
	if err != nil {
		return nil, err
	}
	var found []Recipient
	for _, r := range list {
		if r.Unreachable != "" || !slices.Contains(event.Recipients, r.ContactID) {
			continue
		}
		link, err := p.link(ctx, event.ConnectionID, r.ContactID)
		if errors.Is(err, db.ErrRemoved) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		found = append(found, Recipient{
			ContactID: r.ContactID, Email: r.Email, Name: r.Name, Role: r.Role, Locale: r.Locale, TimeZone: r.TimeZone, LinkURL: link,
		})
	}
	return found, nil
}

// payload is what an event says when it leaves: its own text to the byte, unless
// it names recipients, who are added to its data.
func (c *courier) payload(ctx context.Context, event db.OutboxEvent) ([]byte, error) {
	if len(event.Recipients) == 0 {
		return event.Payload, nil
	}
	if c.people == nil {
		return nil, errors.New("nobody is there to find them")
	}
	found, err := c.people.Expand(ctx, event)
	if err != nil {
		return nil, err
	}
	return withRecipients(event.Payload, found)
}

// withRecipients adds recipients to the data of a payload.
func withRecipients(payload []byte, found []Recipient) ([]byte, error) {
	var whole, data map[string]json.RawMessage
	if json.Unmarshal(payload, &whole) != nil || json.Unmarshal(whole["data"], &data) != nil || data == nil {
		return nil, errors.New("the event has no data")
	}
	if found == nil {
		found = []Recipient{}
	}
	var err error
	if data["recipients"], err = json.Marshal(found); err != nil {
		return nil, err
	}
	if whole["data"], err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(whole)
}
