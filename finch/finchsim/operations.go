package finchsim

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// Errors of the operations. Over HTTP they are 404, 409, 400 and 410.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrInvalid  = errors.New("invalid")
	// ErrSessionOver matches the error of completing a session that is
	// expired, completed, superseded, or whose connection is gone.
	ErrSessionOver = errors.New("the session is over")
)

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

// NewConnection describes a connection that somebody made earlier. Everything
// may be left empty.
type NewConnection struct {
	ConnectionID       string   `json:"connection_id"`
	CustomerID         string   `json:"customer_id"`
	CustomerName       string   `json:"customer_name"`
	ProviderID         string   `json:"provider_id"`         // gusto if empty
	AuthenticationType string   `json:"authentication_type"` // credential if empty
	Products           []string `json:"products"`            // company, directory, individual and employment if empty
	Entities           []string `json:"entities"`            // names; one, the customer, if empty
	Employees          int      `json:"employee_size"`       // 20 if 0
}

// AddConnection makes a connection and returns it with an access token.
func (s *Sim) AddConnection(n NewConnection) (c Connection, accessToken string, err error) {
	err = s.change(func() error {
		if n.ConnectionID != "" {
			if err := reauth.CheckConnectionID(n.ConnectionID); err != nil {
				return invalid(err)
			}
			if s.state.Connections[n.ConnectionID] != nil {
				return fmt.Errorf("connection %w", ErrExists)
			}
		}
		if err := checkProducts(n.Products); err != nil {
			return invalid(err)
		}
		if n.AuthenticationType != "" && !slices.Contains(authenticationTypes, n.AuthenticationType) {
			return invalid(fmt.Errorf("authentication_type must be one of %s", strings.Join(authenticationTypes, ", ")))
		}
		if n.Employees < 0 || n.Employees > 10_000 || len(n.Entities) > 1000 {
			return invalid(errors.New("employee_size must be from 0 to 10000, and entities 1000 at most"))
		}
		added := s.addConnection(n)
		c, accessToken = added.clone(), s.mint(added.ID)
		return nil
	})
	if err != nil {
		return Connection{}, "", err
	}
	return c, accessToken, nil
}

// MintToken makes another access token for a connection.
func (s *Sim) MintToken(connectionID string) (accessToken string, err error) {
	err = s.change(func() error {
		c, err := s.live(connectionID)
		if err != nil {
			return err
		}
		accessToken = s.mint(c.ID)
		return nil
	})
	return accessToken, err
}

// Connection returns a connection; the error matches ErrNotFound.
func (s *Sim) Connection(id string) (Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.state.Connections[id]
	if c == nil {
		return Connection{}, fmt.Errorf("connection %w", ErrNotFound)
	}
	return c.clone(), nil
}

// Connections lists the connections, the newest first.
func (s *Sim) Connections() []Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Connection, 0, len(s.state.Connections))
	for _, c := range s.state.Connections {
		list = append(list, c.clone())
	}
	slices.SortFunc(list, func(a, b Connection) int { return b.Order - a.Order })
	return list
}

// Sessions lists a connection's sessions, or all if connectionID is empty, the
// newest first.
func (s *Sim) Sessions(connectionID string) []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Session{}
	for _, x := range s.state.Sessions {
		if connectionID == "" || x.ConnectionID == connectionID {
			list = append(list, *x)
		}
	}
	slices.SortFunc(list, func(a, b Session) int {
		if order := b.CreatedAt.Compare(a.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Break makes a connection stale: the customer must log in again. With several
// entities, naming one breaks that one alone.
func (s *Sim) Break(connectionID string, entityIDs ...string) error {
	return s.SetStatus(connectionID, finch.StatusReauth, entityIDs...)
}

// Restore brings a connection back without its customer.
func (s *Sim) Restore(connectionID string, entityIDs ...string) error {
	return s.SetStatus(connectionID, finch.StatusConnected, entityIDs...)
}

// SetStatus sets the status of a connection and its entities, or of the named
// entities only, and sends the event.
func (s *Sim) SetStatus(connectionID, status string, entityIDs ...string) error {
	return s.change(func() error {
		c, err := s.live(connectionID)
		if err != nil {
			return err
		}
		if !slices.Contains(settableStatuses, status) {
			return invalid(fmt.Errorf("status must be one of %s", strings.Join(settableStatuses, ", ")))
		}
		for _, id := range entityIDs {
			if !c.has(id) {
				return fmt.Errorf("entity %w", ErrNotFound)
			}
		}
		s.setStatus(c, status, entityIDs...)
		return nil
	})
}

// DisconnectEntity ends one entity of a connection, as POST /disconnect-entity
// does. The connection itself ends with its last one.
func (s *Sim) DisconnectEntity(connectionID, entityID string) error {
	return s.change(func() error {
		c, err := s.live(connectionID)
		if err != nil {
			return err
		}
		if !c.has(entityID) {
			return fmt.Errorf("entity %w", ErrNotFound)
		}
		s.setStatus(c, finch.StatusDisconnected, entityID)
		return nil
	})
}

// Delete ends a connection and all its tokens, as POST /disconnect does.
func (s *Sim) Delete(connectionID string) error {
	return s.change(func() error {
		c, err := s.live(connectionID)
		if err != nil {
			return err
		}
		s.setStatus(c, finch.StatusDisconnected)
		return nil
	})
}

// Advance adds to the simulator's clock and returns its time.
func (s *Sim) Advance(d time.Duration) (now time.Time, err error) {
	err = s.change(func() error {
		if d < 0 {
			return invalid(errors.New("the clock cannot go back"))
		}
		s.state.Advanced += Duration(d)
		now = s.now()
		return nil
	})
	return now, err
}

// Account is what the person in Connect logs in to.
type Account string

// The accounts a person can choose.
const (
	SameAccount  Account = "same"  // the one that the session is for
	OtherAccount Account = "other" // another one, which becomes a connection of its own
)

// CompleteConnect does what a person does who goes through Connect: it returns
// the authorization code that would come back to the redirect URI.
func (s *Sim) CompleteConnect(sessionID string, account Account) (code string, err error) {
	return s.completeConnect(sessionID, account, false)
}

// CompletePartly does what a person does who can log in for some of the
// connection's entities alone: the others stay as they are.
func (s *Sim) CompletePartly(sessionID string, entityIDs ...string) (code string, err error) {
	return s.completeConnect(sessionID, SameAccount, false, entityIDs...)
}

// CompleteEmbedded does the same in Connect as the SDK embeds it in a page of
// the application. Its code is exchanged without a redirect URI, whatever the
// session's.
func (s *Sim) CompleteEmbedded(sessionID string, account Account) (code string, err error) {
	return s.completeConnect(sessionID, account, true)
}

func (s *Sim) completeConnect(sessionID string, account Account, embedded bool, entityIDs ...string) (code string, err error) {
	err = s.change(func() error {
		x := s.state.Sessions[sessionID]
		if x == nil {
			return fmt.Errorf("session %w", ErrNotFound)
		}
		if account != SameAccount && account != OtherAccount {
			return invalid(errors.New("account must be same or other"))
		}
		code, err = s.complete(x, account, embedded, entityIDs...)
		return err
	})
	return code, err
}

// What follows runs under the lock.

// live returns a connection that has not been deleted.
func (s *Sim) live(id string) (*Connection, error) {
	c := s.state.Connections[id]
	if c == nil {
		return nil, fmt.Errorf("connection %w", ErrNotFound)
	}
	if c.Status == finch.StatusDisconnected {
		return nil, invalid(errors.New("the connection has been deleted"))
	}
	return c, nil
}

func (s *Sim) addConnection(n NewConnection) *Connection {
	c := &Connection{
		ID:                 n.ConnectionID,
		CustomerID:         n.CustomerID,
		CustomerName:       n.CustomerName,
		ProviderID:         n.ProviderID,
		AuthenticationType: n.AuthenticationType,
		AccountID:          uuid.NewString(),
		CompanyID:          uuid.NewString(),
		Products:           slices.Clone(n.Products),
		Employees:          n.Employees,
		Status:             finch.StatusConnected,
		CreatedAt:          s.now(),
		ChangedAt:          s.now(),
		LastSync:           s.now(),
		Order:              len(s.state.Connections) + 1,
	}
	setDefault(&c.ID, uuid.NewString())
	setDefault(&c.ProviderID, defaultProvider)
	setDefault(&c.AuthenticationType, "credential")
	if len(c.Products) == 0 {
		c.Products = []string{"company", "directory", "individual", "employment"}
	}
	if c.Employees == 0 {
		c.Employees = 20
	}
	names := n.Entities
	if len(names) == 0 {
		names = []string{c.name()}
	}
	for _, name := range names {
		c.Entities = append(c.Entities, Entity{ID: uuid.NewString(), Name: name, Status: finch.StatusConnected})
	}
	s.state.Connections[c.ID] = c
	return c
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// setStatus marks a connection and sends the event.
func (s *Sim) setStatus(c *Connection, status string, entityIDs ...string) {
	s.mark(c, status, entityIDs...)
	if len(entityIDs) == 0 || len(c.Entities) == 1 {
		s.notify(c, "", status)
		return
	}
	for _, id := range entityIDs {
		s.notify(c, id, status)
	}
}

// mark sets the status of a connection, or of some of its entities.
func (s *Sim) mark(c *Connection, status string, entityIDs ...string) {
	for i, e := range c.Entities {
		// One that was disconnected comes back only if it is named.
		all := len(entityIDs) == 0 && (e.Status != finch.StatusDisconnected || len(c.Entities) == 1)
		if all || slices.Contains(entityIDs, e.ID) {
			c.Entities[i].Status = status
		}
	}
	whole := status
	if len(entityIDs) > 0 {
		// One entity of several says nothing about the others, but that the
		// connection works for some.
		if whole = c.shared(); whole == "" && status == finch.StatusConnected && c.Status == finch.StatusReauth {
			whole = status
		}
	}
	if whole != "" {
		c.Status, c.ChangedAt, c.Processing = whole, s.now(), 0
	}
	if status == finch.StatusConnected {
		c.LastSync = s.now()
	}
}

// shared is the status of all entities that are not gone; empty where they differ.
// Without any left the connection is gone.
func (c *Connection) shared() string {
	status := finch.StatusDisconnected
	for _, e := range c.Entities {
		switch {
		case e.Status == finch.StatusDisconnected || e.Status == status:
		case status == finch.StatusDisconnected:
			status = e.Status
		default:
			return ""
		}
	}
	return status
}

// has reports whether an entity is the connection's.
func (c *Connection) has(entityID string) bool {
	return slices.ContainsFunc(c.Entities, func(e Entity) bool { return e.ID == entityID })
}

func (s *Sim) mint(connectionID string) string {
	accessToken := secret("token")
	s.state.Tokens[accessToken] = &token{ID: uuid.NewString(), ConnectionID: connectionID, MintedAt: s.now()}
	s.state.Counters.TokensMinted++
	return accessToken
}

// over says why a session cannot be completed, or is empty.
func (s *Sim) over(x *Session) string {
	switch {
	case x.SupersededAt != nil:
		return "This session was replaced by a newer one."
	case x.CompletedAt != nil && !s.state.Knobs.SessionReusable:
		return "This session has already been completed."
	case !s.now().Before(x.ExpiresAt):
		return "This session has expired."
	}
	if x.ConnectionID != "" {
		if _, err := s.live(x.ConnectionID); err != nil {
			return "The connection that this session was for is gone."
		}
	}
	return ""
}

// complete ends a session successfully. The connection works from now on, or the
// entities that are named do, even though nobody has exchanged the code yet.
func (s *Sim) complete(x *Session, account Account, embedded bool, entityIDs ...string) (string, error) {
	if why := s.over(x); why != "" {
		return "", fmt.Errorf("%w: %s", ErrSessionOver, why)
	}
	now := s.now()
	c := s.state.Connections[x.ConnectionID]
	switch {
	case len(entityIDs) > 0 && (c == nil || slices.ContainsFunc(entityIDs, func(id string) bool { return !c.has(id) })):
		return "", fmt.Errorf("entity %w", ErrNotFound)
	case c == nil || account == OtherAccount:
		n := NewConnection{ProviderID: x.ProviderID, Products: x.Products}
		if account == SameAccount {
			n.CustomerID, n.CustomerName = x.CustomerID, x.CustomerName
		}
		c = s.addConnection(n)
		s.notify(c, "", finch.StatusConnected)
		if account == SameAccount {
			x.ConnectionID = c.ID
		}
	default:
		if len(x.Products) > 0 {
			c.Products = slices.Clone(x.Products)
		}
		s.setStatus(c, finch.StatusConnected, entityIDs...)
	}
	x.CompletedAt = &now
	text, redirectURI := secret("code"), x.RedirectURI
	if embedded {
		redirectURI = ""
	}
	s.state.Codes[text] = &code{ConnectionID: c.ID, RedirectURI: redirectURI, IssuedAt: now}
	s.state.Counters.CodesIssued++
	return text, nil
}

// secret makes something that cannot be guessed and that a search through logs
// recognises as ours.
func secret(kind string) string {
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	return "finchsim-" + kind + "-" + hex.EncodeToString(random)
}

func (c *Connection) clone() Connection {
	copied := *c
	copied.Products = slices.Clone(c.Products)
	copied.Entities = slices.Clone(c.Entities)
	return copied
}

// name is what people call the connection's owner.
func (c *Connection) name() string {
	for _, name := range []string{c.CustomerName, c.CustomerID} {
		if name != "" {
			return name
		}
	}
	return "Unnamed company"
}
