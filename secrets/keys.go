// Package secrets keeps what must not be read: it seals values under the
// project's own keys, derives the secrets of links, mints tickets that the
// outside world carries for us, and encrypts what is written to Temporal.
package secrets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
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
	// The IDs of the keys, the oldest first.
	sealIDs, linkIDs []uint32
}

// Load reads a keyset from a setting: the text that Generate returned, or a file
// that holds it, as "file:" and its path. If the text was wrapped, one of the
// given services opens it, once; nothing is asked of it after that.
func Load(setting string, services ...KMS) (*Keys, error) {
	set, err := read(setting, services)
	if err != nil {
		return nil, err
	}
	k := &Keys{known: make(map[uint32]bool), primary: set.seal.KeysetInfo().GetPrimaryKeyId()}
	for _, key := range set.seal.KeysetInfo().GetKeyInfo() {
		// The prefix carries the key's ID, by which a lost key is told from
		// a forged value.
		if key.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return nil, fmt.Errorf("the keyset's sealing key %d must have the output prefix TINK", key.GetKeyId())
		}
		if key.GetStatus() == tinkpb.KeyStatusType_ENABLED {
			k.known[key.GetKeyId()] = true
		}
	}
	k.sealIDs, k.linkIDs = enabled(set.seal), enabled(set.links)
	if k.aead, err = aead.New(set.seal); err != nil {
		return nil, errors.New("the keyset's sealing keys are not AEAD keys")
	}
	if k.links, err = prf.NewPRFSet(set.links); err != nil {
		return nil, errors.New("the keyset's link keys are not PRF keys")
	}
	return k, nil
}

// enabled lists the IDs of a keyset's keys that can be used, the oldest first.
func enabled(handle *keyset.Handle) []uint32 {
	var ids []uint32
	for _, key := range handle.KeysetInfo().GetKeyInfo() {
		if key.GetStatus() == tinkpb.KeyStatusType_ENABLED {
			ids = append(ids, key.GetKeyId())
		}
	}
	return ids
}

// SealKeyID is the ID of the key that seals.
func (k *Keys) SealKeyID() uint32 { return k.primary }

// SealKeyIDs are the IDs of the keys that can open, the oldest first.
func (k *Keys) SealKeyIDs() []uint32 { return slices.Clone(k.sealIDs) }

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

// Reseal returns a sealed value sealed anew with the key in use, and bound to the
// same parts. It fails as Open does.
func (k *Keys) Reseal(sealed []byte, bound ...string) ([]byte, error) {
	plain, err := k.Open(sealed, bound...)
	if err != nil {
		return nil, err
	}
	return k.Seal(plain, bound...)
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
