package secrets

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"math/big"
	"regexp"
	"strings"
)

// An API key is a prefix by which scanners of repositories and logs know it, 32
// random bytes, and a checksum by which a typo is told from a key that was revoked;
// both in base 62, so that a double click selects all of it.
const (
	apiKeyPrefix   = "reauth_"
	apiKeyBytes    = 32
	apiKeyRandom   = 43 // the digits of 32 bytes in base 62
	apiKeyChecksum = 6  // those of a CRC-32
)

// APIKeyPattern is what keys that NewAPIKey made look like, for scanners.
const APIKeyPattern = `reauth_[0-9A-Za-z]{49}`

var apiKeyPattern = regexp.MustCompile(`^` + APIKeyPattern + `$`)

// ErrAPIKeyTypo: the text looks like an API key, but its checksum does not fit.
var ErrAPIKeyTypo = errors.New("the API key is mistyped or cut off: its checksum does not fit")

// NewAPIKey returns a new API key.
func NewAPIKey() string {
	random := make([]byte, apiKeyBytes)
	_, _ = rand.Read(random) // never fails
	body := base62(new(big.Int).SetBytes(random), apiKeyRandom)
	return apiKeyPrefix + body + checksum(body)
}

// CheckAPIKey tells a typo: ErrAPIKeyTypo for a text that has the form of a key of
// ours and is none. Every other text may be a key that somebody chose.
func CheckAPIKey(key string) error {
	if !apiKeyPattern.MatchString(key) {
		return nil
	}
	body := strings.TrimPrefix(key, apiKeyPrefix)
	if checksum(body[:apiKeyRandom]) != body[apiKeyRandom:] {
		return ErrAPIKeyTypo
	}
	return nil
}

// HashAPIKey is what the database holds of an API key: its SHA-256. A key of ours
// has 256 random bits, which nobody can try out, so that a slow hash would only
// slow every request down. A key is found by its whole hash: how long that takes
// tells of the hash at most, from which no key can be worked out.
func HashAPIKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

func checksum(body string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), apiKeyChecksum)
}

func base62(n *big.Int, digits int) string {
	text := n.Text(62)
	return strings.Repeat("0", digits-len(text)) + text
}
