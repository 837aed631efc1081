package secrets_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/secrets"
)

func generate(t *testing.T) string {
	t.Helper()
	setting, err := secrets.Generate()
	require.NoError(t, err)
	return setting
}

func load(t *testing.T, setting string) *secrets.Keys {
	t.Helper()
	keys, err := secrets.Load(setting)
	require.NoError(t, err)
	return keys
}

// rotate returns the setting after each of the two steps of a rotation.
func rotate(t *testing.T, setting string) (extended, promoted string) {
	t.Helper()
	extended, err := secrets.Extend(setting)
	require.NoError(t, err)
	promoted, err = secrets.Promote(extended)
	require.NoError(t, err)
	return extended, promoted
}

func TestGenerateReturnsOneLineAndANewKeysetEachTime(t *testing.T) {
	a, b := generate(t), generate(t)
	require.NotEqual(t, a, b)
	require.Regexp(t, `^[A-Za-z0-9_-]+$`, a)
}

func TestLoadTakesTheTextOrAFile(t *testing.T) {
	setting := generate(t)
	sealed, err := load(t, setting).Seal([]byte("plain"))
	require.NoError(t, err)

	path := filepath.Join(t.TempDir(), "keyset")
	require.NoError(t, os.WriteFile(path, []byte(setting+"\n"), 0o600))
	for name, text := range map[string]string{
		"the text": setting, "the text with blanks around": "  " + setting + "\n", "a file": "file:" + path,
	} {
		plain, err := load(t, text).Open(sealed)
		require.NoError(t, err, name)
		require.Equal(t, "plain", string(plain), name)
	}
}

func TestLoadSaysWhatIsWrongAndNeverRepeatsTheContent(t *testing.T) {
	setting := generate(t)
	decoded, err := base64.RawURLEncoding.DecodeString(setting)
	require.NoError(t, err)
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	raw := encode(strings.Replace(string(decoded), `"TINK"`, `"RAW"`, 1))
	require.NotEqual(t, setting, raw)
	swapped := encode(strings.NewReplacer(`{"seal"`, `{"links"`, `"links"`, `"seal"`).Replace(string(decoded)))

	for name, test := range map[string]struct{ setting, want string }{
		"empty":          {"", "empty"},
		"blank":          {" \n", "empty"},
		"no base64":      {"SENTINEL?!", "not base64url"},
		"no keyset":      {encode("SENTINEL"), "cut off"},
		"no link keys":   {encode(`{"seal":{"SENTINEL":1}}`), "cut off"},
		"cut off":        {setting[:len(setting)/2], "cut off"},
		"no Tink keyset": {encode(`{"seal":{"SENTINEL":1},"links":{}}`), "sealing keys are malformed"},
		"no key ID":      {raw, "output prefix"},
		"wrong kind":     {swapped, "output prefix"},
		"no such file":   {"file:/nowhere/keyset", "/nowhere/keyset"},
		"text as a file": {"file:" + setting, "too long to be a path"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, f := range map[string]func(string) (any, error){
				"load":    func(s string) (any, error) { return secrets.Load(s) },
				"extend":  func(s string) (any, error) { return secrets.Extend(s) },
				"promote": func(s string) (any, error) { return secrets.Promote(s) },
			} {
				if _, err := f(test.setting); err != nil {
					require.NotContains(t, err.Error(), "SENTINEL", what)
					require.NotContains(t, err.Error(), setting[:40], what)
					for _, part := range strings.FieldsFunc(string(decoded), func(r rune) bool { return r == '"' }) {
						if len(part) > 20 && !strings.Contains(part, "google") {
							require.NotContains(t, err.Error(), part, what)
						}
					}
				}
			}
			_, err := secrets.Load(test.setting)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestASealedValueOpensOnlyUnderItsOwnBounds(t *testing.T) {
	keys := load(t, generate(t))
	sealed, err := keys.Seal([]byte("token-SENTINEL"), "con-1", "token")
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "SENTINEL")

	plain, err := keys.Open(sealed, "con-1", "token")
	require.NoError(t, err)
	require.Equal(t, "token-SENTINEL", string(plain))

	for _, bound := range [][]string{
		nil, {""}, {"con-1"}, {"token"}, {"token", "con-1"}, {"con-2", "token"}, {"con-1", "token", ""},
		{"con-1token"}, {"con-1t", "oken"}, {"con-", "1token"}, {"", "con-1token"}, {"con-1", "Token"},
	} {
		_, err := keys.Open(sealed, bound...)
		require.ErrorIs(t, err, secrets.ErrSealed, "%q", bound)
	}
}

func TestSealingTheSameTwiceDiffers(t *testing.T) {
	keys := load(t, generate(t))
	a, err := keys.Seal([]byte("same"), "con-1")
	require.NoError(t, err)
	b, err := keys.Seal([]byte("same"), "con-1")
	require.NoError(t, err)
	require.NotEqual(t, a, b)
}

func TestAnAlteredValueDoesNotOpen(t *testing.T) {
	keys := load(t, generate(t))
	sealed, err := keys.Seal([]byte("plain"), "con-1")
	require.NoError(t, err)
	for i := range sealed {
		altered := append([]byte(nil), sealed...)
		altered[i] ^= 1
		_, err := keys.Open(altered, "con-1")
		if i >= 1 && i <= 4 { // the ID of the key
			require.ErrorIs(t, err, secrets.ErrUnknownKey)
		} else {
			require.ErrorIs(t, err, secrets.ErrSealed, "byte %d", i)
		}
	}
	for i := range sealed {
		_, err := keys.Open(sealed[:i], "con-1")
		require.ErrorIs(t, err, secrets.ErrSealed, "%d bytes", i)
	}
	_, err = keys.Open(append(sealed, 0), "con-1")
	require.ErrorIs(t, err, secrets.ErrSealed)
}

func TestAnEmptyValueIsSealedToo(t *testing.T) {
	keys := load(t, generate(t))
	sealed, err := keys.Seal(nil)
	require.NoError(t, err)
	plain, err := keys.Open(sealed)
	require.NoError(t, err)
	require.Empty(t, plain)
}

func TestForeignKeysAreToldFromForgery(t *testing.T) {
	sealed, err := load(t, generate(t)).Seal([]byte("plain"))
	require.NoError(t, err)
	_, err = load(t, generate(t)).Open(sealed)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)
	require.NotErrorIs(t, err, secrets.ErrSealed)
	require.Regexp(t, `key \d+`, err.Error())
}

func TestRotation(t *testing.T) {
	original := generate(t)
	extended, promoted := rotate(t, original)
	before, between, after := load(t, original), load(t, extended), load(t, promoted)

	seal := func(k *secrets.Keys) []byte {
		sealed, err := k.Seal([]byte("plain"), "con-1")
		require.NoError(t, err)
		return sealed
	}
	opens := func(k *secrets.Keys, sealed []byte) {
		t.Helper()
		plain, err := k.Open(sealed, "con-1")
		require.NoError(t, err)
		require.Equal(t, "plain", string(plain))
	}

	old := seal(before)
	opens(between, old)
	opens(after, old)

	// While processes with either keyset run, each opens what the other sealed.
	opens(before, seal(between))
	opens(between, seal(after))
	_, err := before.Open(seal(after), "con-1")
	require.ErrorIs(t, err, secrets.ErrUnknownKey, "the promoted key must be in use")

	require.Equal(t, before.LinkKeyID(), between.LinkKeyID())
	require.NotEqual(t, before.LinkKeyID(), after.LinkKeyID())

	// A second rotation keeps all three generations.
	_, again := rotate(t, promoted)
	opens(load(t, again), old)
	opens(load(t, again), seal(after))
}

func TestLinkSecretsAreComputedAgainAfterARotation(t *testing.T) {
	original := generate(t)
	_, promoted := rotate(t, original)
	before, after := load(t, original), load(t, promoted)

	secret, err := before.LinkSecret(before.LinkKeyID(), "con-1", "17", 1)
	require.NoError(t, err)
	again, err := after.LinkSecret(before.LinkKeyID(), "con-1", "17", 1)
	require.NoError(t, err)
	require.Equal(t, secret, again)

	fresh, err := after.LinkSecret(after.LinkKeyID(), "con-1", "17", 1)
	require.NoError(t, err)
	require.NotEqual(t, secret, fresh)

	_, err = before.LinkSecret(after.LinkKeyID(), "con-1", "17", 1)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)
}

func TestLinkSecretsDifferInEveryPart(t *testing.T) {
	keys := load(t, generate(t))
	seen := make(map[string]string)
	for _, link := range []struct {
		connectionID, recipient string
		version                 int
	}{
		{"con-1", "17", 1}, {"con-1", "17", 2}, {"con-1", "18", 1}, {"con-2", "17", 1},
		{"con-11", "7", 1}, {"con-1", "171", 1}, {"con-1", "1", 71}, {"", "con-117", 1},
	} {
		secret, err := keys.LinkSecret(keys.LinkKeyID(), link.connectionID, link.recipient, link.version)
		require.NoError(t, err)
		name := fmt.Sprint(link)
		require.NotContains(t, seen, secret, "%s has the secret of %s", name, seen[secret])
		seen[secret] = name

		decoded, err := base64.RawURLEncoding.DecodeString(secret)
		require.NoError(t, err)
		require.Len(t, decoded, 32)
	}
	foreign := load(t, generate(t))
	secret, err := foreign.LinkSecret(foreign.LinkKeyID(), "con-1", "17", 1)
	require.NoError(t, err)
	require.NotContains(t, seen, secret)
}

func TestHashLinkIsSHA256(t *testing.T) {
	require.Equal(t,
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		fmt.Sprintf("%x", secrets.HashLink("abc")))
}

func TestKeysNeverPrintThemselves(t *testing.T) {
	setting := generate(t)
	keys := load(t, setting)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		require.Regexp(t, `^keys \(sealing with \d+\)$`, fmt.Sprintf(verb, keys))
	}
	require.Equal(t, "no keys", fmt.Sprint((*secrets.Keys)(nil)))
}

type state struct {
	ConnectionID string
	Attempt      int
}

var noon = time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC)

func mint(t *testing.T, keys *secrets.Keys) string {
	t.Helper()
	ticket, err := keys.Mint("state", state{"con-SENTINEL", 3}, noon)
	require.NoError(t, err)
	return ticket
}

func TestATicketCarriesItsValueUntilItExpires(t *testing.T) {
	keys := load(t, generate(t))
	ticket := mint(t, keys)
	require.Regexp(t, `^[A-Za-z0-9_-]+$`, ticket)
	decoded, err := base64.RawURLEncoding.DecodeString(ticket)
	require.NoError(t, err)
	require.NotContains(t, string(decoded), "SENTINEL")

	var got state
	require.NoError(t, keys.Read("state", ticket, noon.Add(-time.Millisecond), &got))
	require.Equal(t, state{"con-SENTINEL", 3}, got)

	for _, now := range []time.Time{noon, noon.Add(time.Hour)} {
		got = state{}
		require.ErrorIs(t, keys.Read("state", ticket, now, &got), secrets.ErrTicketExpired)
		require.Equal(t, state{"con-SENTINEL", 3}, got, "an expired ticket still says what it was for")
	}
}

func TestATicketOfAnotherKindOrKeysetIsRefused(t *testing.T) {
	keys := load(t, generate(t))
	ticket := mint(t, keys)
	var got state
	require.ErrorIs(t, keys.Read("cookie", ticket, noon.Add(-time.Hour), &got), secrets.ErrTicket)
	require.ErrorIs(t, keys.Read("", ticket, noon.Add(-time.Hour), &got), secrets.ErrTicket)
	require.ErrorIs(t, load(t, generate(t)).Read("state", ticket, noon.Add(-time.Hour), &got), secrets.ErrTicket)
	require.Zero(t, got)

	// Neither is what was sealed for another use.
	sealed, err := keys.Seal([]byte(`{"e":99999999999999,"v":{}}`), "state")
	require.NoError(t, err)
	require.ErrorIs(t, keys.Read("state", base64.RawURLEncoding.EncodeToString(sealed), noon, &got), secrets.ErrTicket)
	decoded, err := base64.RawURLEncoding.DecodeString(ticket)
	require.NoError(t, err)
	_, err = keys.Open(decoded, "state")
	require.ErrorIs(t, err, secrets.ErrSealed)
}

func TestATamperedTicketIsRefused(t *testing.T) {
	keys := load(t, generate(t))
	ticket := mint(t, keys)
	before := noon.Add(-time.Hour)
	var got state
	for i := range ticket {
		for _, c := range "Aa9_-" {
			altered := ticket[:i] + string(c) + ticket[i+1:]
			if altered != ticket {
				require.ErrorIs(t, keys.Read("state", altered, before, &got), secrets.ErrTicket, "character %d", i)
			}
		}
	}
	for _, altered := range []string{
		"", "x", "====", ticket + "A", ticket + "=", ticket + "\n", ticket[:10] + "\r\n" + ticket[10:], " " + ticket,
		ticket[:len(ticket)-1], strings.Repeat("A", 1<<20),
	} {
		require.ErrorIs(t, keys.Read("state", altered, before, &got), secrets.ErrTicket)
	}
	require.Zero(t, got)
}

func TestATicketSurvivesARotation(t *testing.T) {
	original := generate(t)
	_, promoted := rotate(t, original)
	var got state
	require.NoError(t, load(t, promoted).Read("state", mint(t, load(t, original)), noon.Add(-time.Hour), &got))
	require.Equal(t, 3, got.Attempt)
}

func TestMintRefusesWhatNoTicketCanCarry(t *testing.T) {
	keys := load(t, generate(t))
	_, err := keys.Mint("state", make(chan int), noon)
	require.Error(t, err)
	_, err = keys.Mint("state", strings.Repeat("x", 4096), noon)
	require.ErrorContains(t, err, "4096")
}
