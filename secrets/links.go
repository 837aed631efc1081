package secrets

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
)

// linkSecretBytes is the length of a link's secret before it is encoded.
const linkSecretBytes = 32

// LinkKeyID is the ID of the key from which new links derive their secrets.
// It is stored with the link, so that the secret can be computed again after
// the keys were rotated.
func (k *Keys) LinkKeyID() uint32 { return k.links.PrimaryID }

// LinkKeyIDs are the IDs of the keys whose links' secrets can be computed, the
// oldest first.
func (k *Keys) LinkKeyIDs() []uint32 { return slices.Clone(k.linkIDs) }

// LinkSecret computes the secret of a link: 32 bytes in base64url. It is
// derived and never stored; only its hash is. It fails with ErrUnknownKey where
// the keyset lacks the key.
func (k *Keys) LinkSecret(keyID uint32, connectionID, recipient string, version int) (string, error) {
	key, ok := k.links.PRFs[keyID]
	if !ok {
		return "", fmt.Errorf("%w: link key %d", ErrUnknownKey, keyID)
	}
	secret, err := key.ComputePRF(associated("link", []string{connectionID, recipient, strconv.Itoa(version)}), linkSecretBytes)
	if err != nil {
		return "", fmt.Errorf("derive a link's secret: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(secret), nil
}

// HashLink is what the database holds of a link's secret: its SHA-256.
func HashLink(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
