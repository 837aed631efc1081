package finchsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const stateVersion = 1

// state is all that the simulator remembers.
type state struct {
	Version     int                    `json:"version"`
	Advanced    Duration               `json:"advanced"` // what was added to the clock
	Connections map[string]*Connection `json:"connections"`
	Tokens      map[string]*token      `json:"tokens"` // by access token
	Sessions    map[string]*Session    `json:"sessions"`
	Codes       map[string]*code       `json:"codes"` // by code
	Jobs        map[string]*job        `json:"jobs"`  // by their ID
	Events      []*event               `json:"events"`
	Knobs       Knobs                  `json:"knobs"`
	Counters    Counters               `json:"counters"`
}

// Connection is a connection as the provider sees it.
type Connection struct {
	ID                 string    `json:"connection_id"`
	CustomerID         string    `json:"customer_id,omitempty"`
	CustomerName       string    `json:"customer_name,omitempty"`
	ProviderID         string    `json:"provider_id"`
	AuthenticationType string    `json:"authentication_type"`
	AccountID          string    `json:"account_id"`
	CompanyID          string    `json:"company_id"`
	Products           []string  `json:"products"`
	Entities           []Entity  `json:"entities"`
	Employees          int       `json:"employees"`
	Status             string    `json:"status"`
	CreatedAt          time.Time `json:"created_at"`
	ChangedAt          time.Time `json:"changed_at"` // when Status was last set
	LastSync           time.Time `json:"last_successful_sync"`
	// Processing is how many more introspections say that the connection is
	// not ready yet.
	Processing int `json:"processing,omitempty"`
	// SyncEnds is the status with which its next jobs end; if empty, its own
	// status says.
	SyncEnds string `json:"sync_ends,omitempty"`
	// Order tells which connection is newer.
	Order int `json:"order"`
}

// Entity is one company of a connection.
type Entity struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
}

type token struct {
	ID           string    `json:"id"`
	ConnectionID string    `json:"connection_id"`
	MintedAt     time.Time `json:"minted_at"`
	Dead         bool      `json:"dead,omitempty"`
}

// Session is a Connect session. It has either a ConnectionID, to log in again,
// or a customer who connects for the first time.
type Session struct {
	ID           string     `json:"session_id"`
	ConnectionID string     `json:"connection_id,omitempty"`
	CustomerID   string     `json:"customer_id,omitempty"`
	CustomerName string     `json:"customer_name,omitempty"`
	ProviderID   string     `json:"provider_id"`
	Products     []string   `json:"products,omitempty"`
	RedirectURI  string     `json:"redirect_uri,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	ExpiresAt    time.Time  `json:"expires_at"`
	CompletedAt  *time.Time `json:"completed_at,omitempty"`
	SupersededAt *time.Time `json:"superseded_at,omitempty"`
}

type code struct {
	ConnectionID string     `json:"connection_id"`
	RedirectURI  string     `json:"redirect_uri,omitempty"`
	IssuedAt     time.Time  `json:"issued_at"`
	UsedAt       *time.Time `json:"used_at,omitempty"`
}

func loadState(file string, knobs Knobs) (state, error) {
	st := state{
		Version:     stateVersion,
		Connections: map[string]*Connection{},
		Tokens:      map[string]*token{},
		Sessions:    map[string]*Session{},
		Codes:       map[string]*code{},
		Jobs:        map[string]*job{},
		Knobs:       knobs,
		Counters:    Counters{Calls: map[string]int{}, Limited: map[string]int{}, Exchanges: map[string]int{}},
	}
	if file == "" {
		return st, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return st, os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err != nil {
		return state{}, err
	}
	// The file's knobs replace ours as a whole.
	st.Knobs = Knobs{}
	if err := json.Unmarshal(text, &st); err != nil {
		return state{}, fmt.Errorf("%s is damaged; remove it to begin anew: %w", file, err)
	}
	if st.Counters.Limited == nil { // the file is from before there were limits
		st.Counters.Limited = map[string]int{}
	}
	if st.Version != stateVersion {
		return state{}, fmt.Errorf("%s has version %d, but %d is wanted; remove it to begin anew", file, st.Version, stateVersion)
	}
	return st, nil
}

// save replaces the file in one step, so that whoever is killed at any moment
// leaves the old state or the new one.
func (st *state) save(file string) (err error) {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.tmp") // readable by us alone
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
