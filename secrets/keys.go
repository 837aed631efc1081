// Package secrets keeps what must not be read: it seals values under the
// project's own keys, derives the secrets of links, mints tickets that the
// outside world carries for us, and encrypts what is written to Temporal.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
)

var (
	// ErrUnknownKey: the value was made with a key that the keyset lacks. It
	// can be read again as soon as the key is back.
	ErrUnknownKey = errors.New("the key is not in the keyset")
	// ErrSealed: the value was not sealed by us, was altered, or is bound to
	// something else. No key will ever open it.
	ErrSealed = errors.New("the sealed value does not open")
)

// Keys holds a keyset for sealing (AES-256-GCM) and one for the secrets of
// links (HMAC-SHA-256). Each has one key in use and any number of older ones,
// which go on opening what they sealed. Keys is safe for concurrent use.
type Keys struct {
	aead    tink.AEAD
	known   map[uint32]bool // the IDs of the keys that can open
	primary uint32
	links   *prf.Set
}

// bundle is the form of a setting: two keysets in Tink's own JSON.
type bundle struct {
	Seal  json.RawMessage `json:"seal"`
	Links json.RawMessage `json:"links"`
}

// Generate returns the text of a new keyset, to be kept as a setting: one line
// of base64url. Whoever has it can read everything that was sealed with it.
func Generate() (string, error) {
	seal, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return "", fmt.Errorf("generate the sealing key: %w", err)
	}
	links, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return "", fmt.Errorf("generate the link key: %w", err)
	}
	return write(seal, links)
}

// Extend returns the setting with a new key in each keyset that opens values
// but seals none yet. Rotation takes two steps, so that no process ever meets
// a key that it lacks: give every process the extended keyset first, and the
// promoted one after that.
func Extend(setting string) (string, error) {
	return rewrite(setting, func(manager *keyset.Manager, template *tinkpb.KeyTemplate, _ *keyset.Handle) error {
		_, err := manager.Add(template)
		return err
	})
}

// Promote returns the setting with the newest key of each keyset in use. The
// older keys stay, and open what they sealed.
func Promote(setting string) (string, error) {
	return rewrite(setting, func(manager *keyset.Manager, _ *tinkpb.KeyTemplate, handle *keyset.Handle) error {
		newest, err := handle.Entry(handle.Len() - 1)
		if err != nil {
			return err
		}
		return manager.SetPrimary(newest.KeyID())
	})
}

func rewrite(setting string, change func(*keyset.Manager, *tinkpb.KeyTemplate, *keyset.Handle) error) (string, error) {
	seal, links, err := read(setting)
	if err != nil {
		return "", err
	}
	changed := make([]*keyset.Handle, 2)
	templates := []*tinkpb.KeyTemplate{aead.AES256GCMKeyTemplate(), prf.HMACSHA256PRFKeyTemplate()}
	for i, handle := range []*keyset.Handle{seal, links} {
		manager := keyset.NewManagerFromHandle(handle)
		if err := change(manager, templates[i], handle); err != nil {
			return "", fmt.Errorf("change the keyset: %w", err)
		}
		if changed[i], err = manager.Handle(); err != nil {
			return "", fmt.Errorf("change the keyset: %w", err)
		}
	}
	return write(changed[0], changed[1])
}

func write(seal, links *keyset.Handle) (string, error) {
	var b bundle
	for _, part := range []struct {
		handle *keyset.Handle
		to     *json.RawMessage
	}{{seal, &b.Seal}, {links, &b.Links}} {
		var text bytes.Buffer
		if err := insecurecleartextkeyset.Write(part.handle, keyset.NewJSONWriter(&text)); err != nil {
			return "", fmt.Errorf("write the keyset: %w", err)
		}
		*part.to = text.Bytes()
	}
	text, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("write the keyset: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(text), nil
}

// read parses a setting. Its errors say what is wrong and never repeat a part
// of the setting, which is why those of the parsers are not wrapped.
func read(setting string) (seal, links *keyset.Handle, err error) {
	text := strings.TrimSpace(setting)
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil && len(path) > 255 {
			return nil, nil, errors.New("the keyset's file cannot be read: what follows file: is too long to be a path; is it the keyset itself?")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the keyset's file: %w", err)
		}
		text = strings.TrimSpace(string(content))
	}
	if text == "" {
		return nil, nil, errors.New("the keyset is empty; make one with `reauth keys new`")
	}
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, nil, errors.New("the keyset is not base64url, or is cut off; it must be the one line that `reauth keys new` printed, or file: and the path of a file that holds it")
	}
	var b bundle
	if err := json.Unmarshal(decoded, &b); err != nil || len(b.Seal) == 0 || len(b.Links) == 0 {
		return nil, nil, errors.New("the keyset is cut off or not one of ours; it must be the whole line that `reauth keys new` printed")
	}
	if seal, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b.Seal))); err != nil {
		return nil, nil, errors.New("the keyset's sealing keys are malformed")
	}
	if links, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b.Links))); err != nil {
		return nil, nil, errors.New("the keyset's link keys are malformed")
	}
	return seal, links, nil
}

// Load reads a keyset from a setting: the text that Generate returned, or
// "file:" and the path of a file that holds it.
func Load(setting string) (*Keys, error) {
	seal, links, err := read(setting)
	if err != nil {
		return nil, err
	}
	info := seal.KeysetInfo()
	k := &Keys{known: make(map[uint32]bool), primary: info.GetPrimaryKeyId()}
	for _, key := range info.GetKeyInfo() {
		// The prefix carries the key's ID, by which a lost key is told from
		// a forged value.
		if key.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return nil, fmt.Errorf("the keyset's sealing key %d must have the output prefix TINK", key.GetKeyId())
		}
		if key.GetStatus() == tinkpb.KeyStatusType_ENABLED {
			k.known[key.GetKeyId()] = true
		}
	}
	if k.aead, err = aead.New(seal); err != nil {
		return nil, errors.New("the keyset's sealing keys are not AEAD keys")
	}
	if k.links, err = prf.NewPRFSet(links); err != nil {
		return nil, errors.New("the keyset's link keys are not PRF keys")
	}
	return k, nil
}

// Seal encrypts a value and binds it to what bound names: only Open with the
// same parts, in the same order, gives it back. The parts are not stored.
func (k *Keys) Seal(plain []byte, bound ...string) ([]byte, error) {
	return k.seal("value", plain, bound)
}

// Open returns a value that Seal sealed. It fails with ErrUnknownKey where the
// key is missing, and with ErrSealed where the value was altered, is bound to
// other parts, or was never sealed.
func (k *Keys) Open(sealed []byte, bound ...string) ([]byte, error) {
	return k.open("value", sealed, bound)
}

func (k *Keys) seal(use string, plain []byte, bound []string) ([]byte, error) {
	sealed, err := k.aead.Encrypt(plain, associated(use, bound))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// prefixSize is the length of what Tink writes before a ciphertext: a version
// byte and the key's ID.
const prefixSize = 5

func (k *Keys) open(use string, sealed []byte, bound []string) ([]byte, error) {
	if len(sealed) <= prefixSize || sealed[0] != 1 {
		return nil, ErrSealed
	}
	if id := binary.BigEndian.Uint32(sealed[1:prefixSize]); !k.known[id] {
		return nil, fmt.Errorf("%w: key %d", ErrUnknownKey, id)
	}
	plain, err := k.aead.Decrypt(sealed, associated(use, bound))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// associated joins parts so that no two lists of parts give the same bytes:
// each is preceded by its length. The use comes first, so that what was sealed
// for one use never opens in another.
func associated(use string, parts []string) []byte {
	var data []byte
	for _, part := range slices.Concat([]string{use}, parts) {
		data = binary.BigEndian.AppendUint32(data, uint32(len(part)))
		data = append(data, part...)
	}
	return data
}

// Format prints which key is in use, and nothing else, whatever the verb.
func (k *Keys) Format(f fmt.State, _ rune) {
	if k == nil {
		fmt.Fprint(f, "no keys")
		return
	}
	fmt.Fprintf(f, "keys (sealing with %d)", k.primary)
}
