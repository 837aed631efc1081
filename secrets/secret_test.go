package secrets_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/secrets"
)

func TestNoFormattingRevealsASecret(t *testing.T) {
	const plain = "SENTINEL"
	secret := secrets.Secret(plain)
	type holder struct {
		Token secrets.Secret
		Next  *secrets.Secret
		List  []secrets.Secret
		Map   map[string]secrets.Secret
		Any   any
	}
	values := []any{
		secret, &secret, []secrets.Secret{secret}, map[string]secrets.Secret{"k": secret},
		holder{Token: secret, Next: &secret, List: []secrets.Secret{secret}, Map: map[string]secrets.Secret{"k": secret}, Any: secret},
		&holder{Any: &secret}, errors.Join(fmt.Errorf("token %v", secret)),
	}
	// Not %p and %w: of a string they are mistakes, which go vet reports, and
	// fmt asks no methods then.
	for _, value := range values {
		for _, verb := range []string{
			"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%T",
			"% x", "%#x", "%#q", "%+q", "%20s", "%-20s", "%.3s", "%20.3v", "%!", "extra", "%[1]*d",
		} {
			printed := fmt.Sprintf(verb, value)
			for _, form := range []string{plain, fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain), fmt.Sprintf("% x", plain), plain[:3]} {
				require.NotContains(t, printed, form, "%s of %T", verb, value)
			}
		}
		require.NotContains(t, fmt.Sprint(value), plain)
		require.NotContains(t, fmt.Sprintln(value), plain)
	}
	require.Equal(t, "[secret]", secret.String())
	require.Equal(t, "[secret]", secret.GoString())
	require.Equal(t, "[secret]", fmt.Sprint(secret))
	require.Equal(t, plain, secret.Reveal())
}

func TestNoEncodingRevealsASecret(t *testing.T) {
	secret := secrets.Secret("SENTINEL")
	type holder struct {
		Token secrets.Secret `json:"token" xml:"token,attr"`
	}
	encoded, err := json.Marshal(map[string]any{"a": secret, "b": &secret, "c": holder{secret}})
	require.NoError(t, err)
	require.JSONEq(t, `{"a":"[secret]","b":"[secret]","c":{"token":"[secret]"}}`, string(encoded))

	encoded, err = xml.Marshal(holder{secret})
	require.NoError(t, err)
	require.NotContains(t, string(encoded), "SENTINEL")
}

func TestNoLogRevealsASecret(t *testing.T) {
	secret := secrets.Secret("SENTINEL")
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("message",
			"secret", secret, "pointer", &secret, "list", []secrets.Secret{secret},
			"struct", struct{ Token secrets.Secret }{secret}, slog.Group("group", "secret", secret))
		require.NotContains(t, out.String(), "SENTINEL", name)
		require.Contains(t, out.String(), "[secret]", name)
	}
}

func TestASecretIsReadFromJSON(t *testing.T) {
	var got struct{ Token secrets.Secret }
	require.NoError(t, json.Unmarshal([]byte(`{"Token":"SENTINEL"}`), &got))
	require.Equal(t, "SENTINEL", got.Token.Reveal())
}
