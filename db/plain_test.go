package db

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"nothing special, at 9:00":               "nothing special, at 9:00",
		"550 <Anna.B+x@example.com> unknown":     "550 <[address]> unknown",
		"anna@example.com":                       "[address]",
		"to:anna@example.com,bob@example.com;cc": "to:[address],[address];cc",
		`to "anna b"@example.com`:                `to [address]`,
		"mailto:anna%40example.com?x=1":          "mailto:[address]",
		"zero\x00byte":                           "zero\uFFFDbyte",
		"not \xff UTF-8":                         "not \uFFFD UTF-8",
	} {
		assert.Equal(t, want, plain(in))
	}
	long := plain(strings.Repeat("é", 5000))
	assert.True(t, utf8.ValidString(long))
	assert.LessOrEqual(t, len(long), 2010)
}

func TestCursor(t *testing.T) {
	c := cursor{List: "cases", At: time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC), ID: "a/b"}
	back, given, err := parseCursor("cases", c.String())
	require.NoError(t, err)
	assert.True(t, given)
	assert.Equal(t, c, back)

	_, given, err = parseCursor("cases", "")
	require.NoError(t, err)
	assert.False(t, given)

	encode := base64.RawURLEncoding.EncodeToString
	for name, text := range map[string]string{
		"another list's":  cursor{List: "connections", ID: "x"}.String(),
		"not base64":      "!!!",
		"cut":             c.String()[:10],
		"lengthened":      c.String() + "AA",
		"padded":          c.String() + "==",
		"not JSON":        encode([]byte("hello")),
		"no ID":           encode([]byte(`{"l":"cases","t":"2026-01-02T03:04:05Z"}`)),
		"a wrong time":    encode([]byte(`{"l":"cases","t":"yesterday","i":"x"}`)),
		"more than a key": encode([]byte(`{"l":"cases","t":"2026-01-02T03:04:05Z","i":"x","z":1}`)),
	} {
		_, _, err := parseCursor("cases", text)
		assert.ErrorIs(t, err, ErrBadCursor, name)
	}
}
