package rows

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
	"github.com/finch-reauth/reauth/secrets"
)

// header is the first line of a CSV.
type header struct {
	separator byte
	columns   []column
	given     Given
	people    []int // which contact's columns those of the last row were in
}

// column is what the cells of a column are for.
type column struct {
	name    string
	contact int    // from 1; 0 is no contact's
	field   string // of the contact
}

// The columns that there are, beside those of contacts.
var columnNames = []string{
	"connection_id", "access_token", "minted_at", "token_created_at", "provider", "application",
	"customer_id", "customer_name", "system", "campaign", "products",
}

var (
	contactFields  = []string{"email", "name", "role", "locale", "time_zone"}
	contactPattern = regexp.MustCompile(`^contact([1-9][0-9]?)?_(email|name|role|locale|time_zone)$`)
	contactAt      = regexp.MustCompile(`^contacts\[([0-9]+)\]\.`)
	harmlessName   = regexp.MustCompile(`^[a-z_]{1,24}$|^contact[0-9]{1,3}_[a-z_]{1,16}$`)
)

const knownColumns = "connection_id, access_token, minted_at, provider, application, customer_id, customer_name, system, campaign, products, " +
	"contact_email, contact_name, contact_role, contact_locale, contact_time_zone, and contact2_email and so on for further contacts"

// readHeader reads the first line that has something in it.
func (r *Reader) readHeader() error {
	for {
		text, err := r.readLine()
		switch {
		case errors.Is(err, errTooLong):
			return &FileError{r.line, "the header " + tooLong + "; are its lines ended by a line feed?"}
		case err != nil:
			return &FileError{r.line, "the header is missing"}
		}
		if strings.TrimSpace(string(text)) == "" {
			continue
		}
		h, err := parseHeader(string(text))
		if err != nil {
			return &FileError{r.line, err.Error()}
		}
		r.header = h
		return nil
	}
}

func parseHeader(text string) (*header, error) {
	h := &header{separator: separatorOf(text)}
	names, err := split(text, h.separator)
	if err != nil {
		return nil, fmt.Errorf("the header %w", err)
	}
	seen := map[string]int{}
	known, unknown := 0, error(nil)
	for i, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		c, ok := columnOfName(name)
		h.columns = append(h.columns, c)
		if !ok {
			if unknown == nil {
				unknown = unknownColumn(i+1, name)
			}
			continue
		}
		known++
		if before := seen[c.name]; before > 0 {
			return nil, fmt.Errorf("the header has %s twice, as column %d and column %d", c.name, before, i+1)
		}
		seen[c.name] = i + 1
		h.give(c)
	}
	switch {
	case known == 0:
		return nil, errors.New("the first line of a CSV must name its columns; known are " + knownColumns)
	case unknown != nil:
		return nil, unknown
	case seen["minted_at"] > 0 && seen["token_created_at"] > 0:
		return nil, errors.New("the header has minted_at and token_created_at, which are the same; keep one of them")
	case seen["connection_id"] == 0 && seen["access_token"] == 0:
		return nil, errors.New("the header has neither connection_id nor access_token; a row needs at least one of them")
	}
	return h, nil
}

// unknownColumn names a column only where its name looks like one: a file
// without a header begins with a row, and that can hold a token.
func unknownColumn(n int, name string) error {
	what := fmt.Sprintf("column %d", n)
	if harmlessName.MatchString(name) {
		what += fmt.Sprintf(" (%s)", name)
	}
	return errors.New("the header's " + what + " is not known; known are " + knownColumns)
}

func columnOfName(name string) (column, bool) {
	if slices.Contains(columnNames, name) {
		return column{name: name}, true
	}
	m := contactPattern.FindStringSubmatch(name)
	if m == nil {
		return column{}, false
	}
	n := 1
	if m[1] != "" {
		n, _ = strconv.Atoi(m[1]) // two digits
	}
	if n > register.MaxContacts {
		return column{}, false
	}
	return column{name: contactColumn(n, m[2]), contact: n, field: m[2]}, true
}

func contactColumn(n int, field string) string {
	if n == 1 {
		return "contact_" + field
	}
	return fmt.Sprintf("contact%d_%s", n, field)
}

// columnOf is the name of a field of the last row as a CSV has it.
func (h *header) columnOf(field string) string {
	m := contactAt.FindStringSubmatch(field)
	if m == nil {
		return field
	}
	if n, err := strconv.Atoi(m[1]); err == nil && n < len(h.people) {
		return contactColumn(h.people[n], strings.TrimPrefix(field, m[0]))
	}
	return field
}

func (h *header) give(c column) {
	if c.contact > 0 {
		h.given.Contacts = true
	}
	switch c.name {
	case "provider":
		h.given.Provider = true
	case "application":
		h.given.Application = true
	case "customer_id":
		h.given.CustomerID = true
	case "customer_name":
		h.given.CustomerName = true
	case "system":
		h.given.System = true
	case "campaign":
		h.given.Campaign = true
	case "products":
		h.given.Products = true
	}
}

// row reads a line of the table.
func (h *header) row(text []byte) (Row, error) {
	row := Row{Given: h.given}
	cells, err := split(string(text), h.separator)
	if err != nil {
		return row, err
	}
	if len(cells) != len(h.columns) {
		return row, fmt.Errorf("has %d columns, but the header has %d; a cell with a separator or a quote in it must stand in double quotes", len(cells), len(h.columns))
	}
	var people [register.MaxContacts]reauth.Contact
	last := 0
	for i, c := range h.columns {
		cell := strings.TrimSpace(cells[i])
		if c.contact > 0 {
			fill(&people[c.contact-1], c.field, cell)
			if cell != "" {
				last = max(last, c.contact)
			}
			continue
		}
		if err := fillRow(&row, c.name, cell); err != nil {
			return row, err
		}
	}
	return row, h.withPeople(&row, people[:last])
}

// withPeople adds the contacts of a row. Those that are empty are left out.
func (h *header) withPeople(row *Row, people []reauth.Contact) error {
	h.people = h.people[:0]
	for i, p := range people {
		if p == (reauth.Contact{}) {
			continue
		}
		if p.Email == "" {
			return errors.New(contactColumn(i+1, "email") + ": is missing; a contact is known by its address")
		}
		row.Connection.Contacts = append(row.Connection.Contacts, p)
		h.people = append(h.people, i+1)
	}
	return nil
}

func fillRow(row *Row, name, cell string) (err error) {
	c := &row.Connection
	switch name {
	case "connection_id":
		c.ConnectionID = cell
	case "access_token":
		row.Token = secrets.Secret(cell)
	case "minted_at", "token_created_at":
		if cell == "" {
			return nil
		}
		if row.MintedAt, err = moment(cell); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	case "provider":
		c.Provider = reauth.Provider(cell)
	case "application":
		c.Application = cell
	case "customer_id":
		c.CustomerID = cell
	case "customer_name":
		c.CustomerName = cell
	case "system":
		c.System = cell
	case "campaign":
		c.Campaign = cell
	case "products":
		c.Products = strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(" ,;|", r) })
	}
	return nil
}

func fill(c *reauth.Contact, field, cell string) {
	switch field {
	case "email":
		c.Email = cell
	case "name":
		c.Name = cell
	case "role":
		c.Role = cell
	case "locale":
		c.Locale = cell
	case "time_zone":
		c.TimeZone = cell
	}
}

// separatorOf is what stands between the names of a header: a comma, or what
// spreadsheets write where the comma is taken.
func separatorOf(text string) byte {
	for _, separator := range []byte{';', '\t'} {
		if !strings.Contains(text, ",") && strings.IndexByte(text, separator) >= 0 {
			return separator
		}
	}
	return ','
}

// split splits a line into its cells. A cell may stand in double quotes, where
// two of them mean one. It never spans lines, as no field may.
func split(text string, separator byte) ([]string, error) {
	var cells []string
	for {
		cell, rest, more, err := cut(text, separator)
		if err != nil {
			return nil, fmt.Errorf("column %d %w", len(cells)+1, err)
		}
		cells = append(cells, cell)
		if !more {
			return cells, nil
		}
		text = rest
	}
}

func cut(text string, separator byte) (cell, rest string, more bool, err error) {
	if !strings.HasPrefix(text, `"`) {
		cell, rest, more = strings.Cut(text, string(separator))
		if strings.Contains(cell, `"`) {
			return "", "", false, errors.New(`has a double quote amid it; put the cell in double quotes and write "" for one inside`)
		}
		return cell, rest, more, nil
	}
	var b strings.Builder
	text = text[1:]
	for {
		before, after, closed := strings.Cut(text, `"`)
		b.WriteString(before)
		switch {
		case !closed:
			return "", "", false, errors.New("begins with a double quote that nothing closes on its line; no cell may hold a line break")
		case after == "":
			return b.String(), "", false, nil
		case after[0] == separator:
			return b.String(), after[1:], true, nil
		case after[0] == '"':
			b.WriteByte('"')
			text = after[1:]
		default:
			return "", "", false, errors.New("has something after its closing double quote; write \"\" for a quote inside")
		}
	}
}
