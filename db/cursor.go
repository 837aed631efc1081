package db

import (
	"encoding/base64"
	"encoding/json"
	"time"
)

const (
	defaultLimit = 50
	maxLimit     = 500
)

// page is the number of rows that a list returns.
func page(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return min(limit, maxLimit)
}

// cursor is the sort key of the last row of a page. List keeps the cursor of
// one list from being taken for another's.
type cursor struct {
	List string    `json:"l"`
	At   time.Time `json:"t,omitzero"`
	ID   string    `json:"i"`
}

func (c cursor) String() string {
	text, _ := json.Marshal(c) // a struct of texts and a time always has a JSON form
	return base64.RawURLEncoding.EncodeToString(text)
}

// parseCursor reads what String wrote. An empty text is the first page.
func parseCursor(list, text string) (c cursor, given bool, err error) {
	if text == "" {
		return cursor{}, false, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return cursor{}, false, ErrBadCursor
	}
	// Writing it again proves that nothing was added, cut or made up.
	if err := json.Unmarshal(raw, &c); err != nil || c.List != list || c.ID == "" || c.String() != text {
		return cursor{}, false, ErrBadCursor
	}
	return c, true, nil
}
