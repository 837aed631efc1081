package secrets

import (
	"fmt"
	"log/slog"
)

// Secret is a string that no formatting, logging or encoding reveals: a token,
// a code, a client secret. It must not be a map's key, nor an unexported field of
// what is formatted: there fmt and encoding/json do not call its methods.
type Secret string

const hidden = "[secret]"

// Reveal returns the string itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "[secret]".
func (s Secret) String() string { return hidden }

// GoString returns "[secret]".
func (s Secret) GoString() string { return hidden }

// Format prints "[secret]", whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, hidden) }

// LogValue logs "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText encodes "[secret]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON encodes "[secret]".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
