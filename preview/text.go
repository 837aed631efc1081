package preview

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Heading says in one line what is previewed.
func (p Preview) Heading() string {
	of := p.Connection.CustomerName
	if of == "" {
		of = p.Connection.ConnectionID
	}
	if p.Connection.System != "" {
		of += " at " + p.Connection.System
	}
	return fmt.Sprintf("Campaign %s for %s, opened on %s, if nobody ever logs in", p.Campaign.Name, of, local(p.From, time.UTC))
}

// WriteTable writes the heading, the contacts and the table as plain text, one
// line a row. The same case always gives the same text.
func (p Preview) WriteTable(w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s.\n\n", p.Heading())
	if len(p.People) > 0 {
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CONTACT\tROLE\tTIME ZONE\tREACHABLE")
		for _, person := range p.People {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", person.mailbox(), person.Role, person.Zone, person.Reachable())
		}
		_ = table.Flush() // into memory
		out.WriteByte('\n')
	}
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DAY\tWHEN, BY THEIR CLOCK\tSTEP\tCHANNEL\tTO\tSUBJECT\tNOTE")
	for _, row := range p.Rows {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Day(row), row.When(), row.Step, row.Channel, row.To(), row.Says(), row.Note)
	}
	_ = table.Flush()
	for line := range strings.Lines(out.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// WriteMessages writes every message in full as plain text.
func (p Preview) WriteMessages(w io.Writer) error {
	for i, m := range p.Messages {
		if _, err := fmt.Fprintf(w, "\n%s\n%d. %s: %s\n", strings.Repeat("=", 72), i+1, m.When(), m.Step); err != nil {
			return err
		}
		var err error
		if m.Event != "" {
			_, err = fmt.Fprintf(w, "\n%s\n", m.Event)
		} else {
			_, err = fmt.Fprintf(w, "From: %s\nTo: %s\nSubject: %s\n\n%s\n", m.Mail.From, m.Person.mailbox(), m.Mail.Subject, strings.TrimSpace(m.Mail.Text))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// When is the row's time by the person's clock.
func (r Row) When() string { return local(r.At, r.Person.Zone) }

// To names whom the row is for.
func (r Row) To() string {
	if r.Person.Role == "" {
		return r.Person.mailbox()
	}
	return r.Person.Name + " (" + r.Person.Role + ") " + r.Person.address()
}

// Says is the row's subject, or that it was left out.
func (r Row) Says() string {
	if r.LeftOut {
		return "left out"
	}
	return r.Subject
}

// When is the message's time by the person's clock.
func (m Message) When() string { return local(m.At, m.Person.Zone) }

// Day counts the days of a row since the opening, by the person's calendar.
func (p Preview) Day(r Row) int {
	date := func(t time.Time) time.Time {
		year, month, day := t.In(r.Person.Zone).Date()
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	return int(date(r.At).Sub(date(p.From)) / (24 * time.Hour))
}

// Reachable says whether a contact can be written to.
func (p Person) Reachable() string {
	if p.Unreachable != "" {
		return "no: " + p.Unreachable
	}
	return "yes"
}

func (p Person) mailbox() string {
	return strings.TrimSpace(p.Name + " " + p.address())
}

func (p Person) address() string {
	if p.Email == "" {
		return ""
	}
	return "<" + p.Email + ">"
}

// local is a moment as a person's clock and calendar show it, with their zone:
// "Mon 09 Mar 2026 08:00 EDT (UTC-4)".
func local(t time.Time, zone *time.Location) string {
	t = t.In(zone)
	text, name := t.Format("Mon 02 Jan 2006 15:04"), t.Format("MST")
	if zone == time.UTC {
		return text + " UTC"
	}
	offset := strings.TrimSuffix(t.Format("UTC-07:00"), ":00")
	offset = strings.NewReplacer("UTC+00", "UTC+0", "UTC-0", "UTC-", "UTC+0", "UTC+").Replace(offset)
	if strings.ContainsAny(name, "+-") { // the zone has no name
		return text + " " + offset
	}
	return text + " " + name + " (" + offset + ")"
}
