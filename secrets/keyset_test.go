package secrets_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/finch-reauth/reauth/secrets"
)

// Tink's own clients of key management services are what Load wants.
var _ secrets.KMS = registry.KMSClient(nil)

// vault is a key management service: its keys never leave it.
type vault struct {
	prefix string
	keys   map[string]tink.AEAD
	down   bool
	calls  int
}

var errVaultDown = errors.New("the vault cannot be reached")

func newVault(t *testing.T, uris ...string) *vault {
	t.Helper()
	v := &vault{prefix: "vault://", keys: map[string]tink.AEAD{}}
	for _, uri := range uris {
		handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
		require.NoError(t, err)
		v.keys[uri], err = aead.New(handle)
		require.NoError(t, err)
	}
	return v
}

func (v *vault) Supported(uri string) bool { return strings.HasPrefix(uri, v.prefix) }

func (v *vault) GetAEAD(uri string) (tink.AEAD, error) {
	v.calls++
	if key := v.keys[uri]; key != nil && !v.down {
		return key, nil
	}
	return nil, errVaultDown
}

func TestAWrappedKeysetNeedsItsService(t *testing.T) {
	const uri, other = "vault://keys/reauth", "vault://keys/other"
	v := newVault(t, uri, other)
	plain := generate(t)
	sealed, err := load(t, plain).Seal([]byte("plain"), "con-1")
	require.NoError(t, err)

	wrapped, err := secrets.Wrap(plain, uri, v)
	require.NoError(t, err)
	// Nothing of the keys stands in it.
	for _, setting := range []string{plain, wrapped} {
		decoded, err := base64.RawURLEncoding.DecodeString(setting)
		require.NoError(t, err)
		require.Equal(t, setting == plain, strings.Contains(string(decoded), "keyMaterialType"), "only the plain one holds key material")
	}
	opens := func(setting string) {
		t.Helper()
		keys, err := secrets.Load(setting, v)
		require.NoError(t, err)
		calls := v.calls
		text, err := keys.Open(sealed, "con-1")
		require.NoError(t, err)
		require.Equal(t, "plain", string(text))
		require.Equal(t, calls, v.calls, "the service is asked once, when the keyset is loaded")
	}
	opens(wrapped)

	// Every change keeps the wrapping, and old values stay open.
	for _, change := range []func(string, ...secrets.KMS) (string, error){secrets.Extend, secrets.Promote} {
		wrapped, err = change(wrapped, v)
		require.NoError(t, err)
		opens(wrapped)
		_, err = secrets.Load(wrapped)
		require.ErrorContains(t, err, "wrapped with the key "+uri+", for which this program has no key management service")
	}
	moved, err := secrets.Wrap(wrapped, other, v)
	require.NoError(t, err)
	opens(moved)
	v.keys[uri] = nil // the first key is gone
	opens(moved)
	_, err = secrets.Load(wrapped, v)
	require.ErrorIs(t, err, errVaultDown)
	unwrapped, err := secrets.Wrap(moved, "", v)
	require.NoError(t, err)
	opens(unwrapped)
	_, err = secrets.Load(unwrapped)
	require.NoError(t, err)

	v.down = true
	_, err = secrets.Load(moved, v)
	require.ErrorIs(t, err, errVaultDown)
	require.ErrorContains(t, err, other)
	_, err = secrets.Wrap(plain, "aws-kms://elsewhere", v)
	require.ErrorContains(t, err, "no key management service")
}

func TestAWrappedKeysetsPartsDoNotChangePlaces(t *testing.T) {
	const uri = "vault://keys/reauth"
	v := newVault(t, uri)
	wrapped, err := secrets.Wrap(generate(t), uri, v)
	require.NoError(t, err)
	decoded, err := base64.RawURLEncoding.DecodeString(wrapped)
	require.NoError(t, err)
	var parts map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(decoded, &parts))
	parts["seal"], parts["links"] = parts["links"], parts["seal"]
	swapped, err := json.Marshal(parts)
	require.NoError(t, err)
	_, err = secrets.Load(base64.RawURLEncoding.EncodeToString(swapped), v)
	require.ErrorContains(t, err, "do not open with the key "+uri)
}

func TestAFileMayBeNamedByItsPathAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset")
	require.NoError(t, os.WriteFile(path, []byte(generate(t)), 0o600))
	load(t, path)
	_, err := secrets.Load(path + "x")
	require.ErrorContains(t, err, "read the keyset's file")
}

func TestRetire(t *testing.T) {
	original := generate(t)
	_, promoted := rotate(t, original)
	before, after := load(t, original), load(t, promoted)
	require.Equal(t, []uint32{before.SealKeyID(), after.SealKeyID()}, after.SealKeyIDs(), "the oldest first")
	require.Equal(t, []uint32{before.LinkKeyID(), after.LinkKeyID()}, after.LinkKeyIDs())
	sealed, err := before.Seal([]byte("plain"))
	require.NoError(t, err)

	_, err = secrets.Retire(promoted, after.SealKeyID())
	require.ErrorIs(t, err, secrets.ErrKeyInUse)
	_, err = secrets.Retire(promoted, 1)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)

	retired, err := secrets.Retire(promoted, before.SealKeyID())
	require.NoError(t, err)
	keys := load(t, retired)
	require.Equal(t, []uint32{after.SealKeyID()}, keys.SealKeyIDs())
	require.Equal(t, after.LinkKeyIDs(), keys.LinkKeyIDs(), "the other keyset stays as it is")
	_, err = keys.Open(sealed)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)
	retired, err = secrets.Retire(retired, before.LinkKeyID())
	require.NoError(t, err)
	_, err = load(t, retired).LinkSecret(before.LinkKeyID(), "c", "r", 1)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)
}

func TestReseal(t *testing.T) {
	original := generate(t)
	_, promoted := rotate(t, original)
	before, after := load(t, original), load(t, promoted)
	sealed, err := before.Seal([]byte("plain"), "token", "con-1", "1")
	require.NoError(t, err)

	_, err = after.Reseal(sealed, "token", "con-1", "2")
	require.ErrorIs(t, err, secrets.ErrSealed, "nothing is sealed for other parts than it was")
	_, err = load(t, generate(t)).Reseal(sealed, "token", "con-1", "1")
	require.ErrorIs(t, err, secrets.ErrUnknownKey)

	anew, err := after.Reseal(sealed, "token", "con-1", "1")
	require.NoError(t, err)
	_, err = before.Open(anew, "token", "con-1", "1")
	require.ErrorIs(t, err, secrets.ErrUnknownKey)
	retired, err := secrets.Retire(promoted, before.SealKeyID())
	require.NoError(t, err)
	plain, err := load(t, retired).Open(anew, "token", "con-1", "1")
	require.NoError(t, err)
	require.Equal(t, "plain", string(plain))
}

func TestAPIKeysAreRandomAndKnowTheirTypos(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		key := secrets.NewAPIKey()
		require.Regexp(t, "^"+secrets.APIKeyPattern+"$", key)
		require.False(t, seen[key])
		seen[key] = true
		require.NoError(t, secrets.CheckAPIKey(key))
	}
	key := secrets.NewAPIKey()
	for i := len("reauth_"); i < len(key); i++ {
		for _, c := range []byte("0aZ") {
			if typo := key[:i] + string(c) + key[i+1:]; typo != key {
				require.ErrorIs(t, secrets.CheckAPIKey(typo), secrets.ErrAPIKeyTypo, "a typo at %d", i)
			}
		}
	}
	require.NotContains(t, secrets.ErrAPIKeyTypo.Error(), "reauth_")
	for _, chosen := range []string{"", "a key that somebody chose", "reauth_dev_abc", key[:len(key)-1], key + "x", "Bearer " + key} {
		require.NoError(t, secrets.CheckAPIKey(chosen), "no typo of ours, so the database decides")
	}
	require.Len(t, secrets.HashAPIKey(key), 32)
}

func FuzzCheckAPIKey(f *testing.F) {
	f.Add("reauth_" + strings.Repeat("0", 49))
	f.Add(secrets.NewAPIKey())
	f.Add("reauth_dev_1234")
	f.Fuzz(func(t *testing.T, key string) {
		if secrets.CheckAPIKey(key) != nil && !strings.HasPrefix(key, "reauth_") {
			t.Fatal("a key of another form is never a typo of ours")
		}
	})
}
