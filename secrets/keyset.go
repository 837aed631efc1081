package secrets

import (
	"bytes"
	"encoding/base64"
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

// KMS is a key management service: it encrypts a keyset under a key that never
// leaves the service, so that the setting alone opens nothing. The interface is
// that of Tink's registry.KMSClient: its clients for the services of AWS, Google
// and HashiCorp fit as they are.
type KMS interface {
	// Supported reports whether the service has the key that a URI names.
	Supported(keyURI string) bool
	// GetAEAD encrypts and decrypts with that key.
	GetAEAD(keyURI string) (tink.AEAD, error)
}

// ErrKeyInUse: a key that is in use cannot be taken out of its keyset.
var ErrKeyInUse = errors.New("the key is in use")

// bundle is the form of a setting: two keysets in Tink's own JSON, encrypted
// where KMS names the key.
type bundle struct {
	KMS   string          `json:"kms,omitempty"`
	Seal  json.RawMessage `json:"seal"`
	Links json.RawMessage `json:"links"`
}

// set is what a setting holds.
type set struct {
	kms         string // the URI of the key that it is wrapped with; empty if it is not
	seal, links *keyset.Handle
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
	return write(set{seal: seal, links: links}, nil)
}

// Wrap returns the setting encrypted under a key of one of the services, which
// is then needed to load it; or in plain, where keyURI is empty.
func Wrap(setting, keyURI string, services ...KMS) (string, error) {
	s, err := read(setting, services)
	if err != nil {
		return "", err
	}
	s.kms = keyURI
	return write(s, services)
}

// Extend returns the setting with a new key in each keyset that opens values
// but seals none yet. Rotation takes two steps, so that no process ever meets
// a key that it lacks: give every process the extended keyset first, and the
// promoted one after that.
func Extend(setting string, services ...KMS) (string, error) {
	return rewrite(setting, services, func(manager *keyset.Manager, template *tinkpb.KeyTemplate, _ *keyset.Handle) error {
		_, err := manager.Add(template)
		return err
	})
}

// Promote returns the setting with the newest key of each keyset in use. The
// older keys stay, and open what they sealed.
func Promote(setting string, services ...KMS) (string, error) {
	return rewrite(setting, services, func(manager *keyset.Manager, _ *tinkpb.KeyTemplate, handle *keyset.Handle) error {
		newest, err := handle.Entry(handle.Len() - 1)
		if err != nil {
			return err
		}
		return manager.SetPrimary(newest.KeyID())
	})
}

// Retire returns the setting without a key. What the key sealed cannot be opened
// any more. It fails with ErrUnknownKey where the keyset lacks the key, and with
// ErrKeyInUse for one in use.
func Retire(setting string, keyID uint32, services ...KMS) (string, error) {
	found := false
	retired, err := rewrite(setting, services, func(manager *keyset.Manager, _ *tinkpb.KeyTemplate, handle *keyset.Handle) error {
		info := handle.KeysetInfo()
		has := slices.ContainsFunc(info.GetKeyInfo(), func(key *tinkpb.KeysetInfo_KeyInfo) bool { return key.GetKeyId() == keyID })
		switch {
		case !has:
			return nil
		case info.GetPrimaryKeyId() == keyID:
			return fmt.Errorf("%w: key %d", ErrKeyInUse, keyID)
		}
		found = true
		return manager.Delete(keyID)
	})
	if err == nil && !found {
		return "", fmt.Errorf("%w: key %d", ErrUnknownKey, keyID)
	}
	return retired, err
}

func rewrite(setting string, services []KMS, change func(*keyset.Manager, *tinkpb.KeyTemplate, *keyset.Handle) error) (string, error) {
	s, err := read(setting, services)
	if err != nil {
		return "", err
	}
	for _, part := range []struct {
		handle   **keyset.Handle
		template *tinkpb.KeyTemplate
	}{{&s.seal, aead.AES256GCMKeyTemplate()}, {&s.links, prf.HMACSHA256PRFKeyTemplate()}} {
		manager := keyset.NewManagerFromHandle(*part.handle)
		if err := change(manager, part.template, *part.handle); err != nil {
			return "", fmt.Errorf("change the keyset: %w", err)
		}
		if *part.handle, err = manager.Handle(); err != nil {
			return "", fmt.Errorf("change the keyset: %w", err)
		}
	}
	return write(s, services)
}

// What each part of a wrapped keyset is bound to, so that one does not open in
// the other's place.
var (
	partSeal  = []byte("reauth keyset: seal")
	partLinks = []byte("reauth keyset: links")
)

func write(s set, services []KMS) (string, error) {
	master, err := master(s.kms, services)
	if err != nil {
		return "", err
	}
	b := bundle{KMS: s.kms}
	for _, part := range []struct {
		handle *keyset.Handle
		to     *json.RawMessage
		name   []byte
	}{{s.seal, &b.Seal, partSeal}, {s.links, &b.Links, partLinks}} {
		var text bytes.Buffer
		if master == nil {
			err = insecurecleartextkeyset.Write(part.handle, keyset.NewJSONWriter(&text))
		} else {
			err = part.handle.WriteWithAssociatedData(keyset.NewJSONWriter(&text), master, part.name)
		}
		if err != nil {
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

// master returns what a keyset is wrapped with; nil where it is not.
func master(keyURI string, services []KMS) (tink.AEAD, error) {
	if keyURI == "" {
		return nil, nil
	}
	for _, service := range services {
		if service.Supported(keyURI) {
			key, err := service.GetAEAD(keyURI)
			if err != nil {
				return nil, fmt.Errorf("reach the key %s, with which the keyset is wrapped: %w", keyURI, err)
			}
			return key, nil
		}
	}
	return nil, fmt.Errorf("the keyset is wrapped with the key %s, for which this program has no key management service", keyURI)
}

// text finds the text of a setting. A path cannot be taken for a text, which
// holds no slash.
func text(setting string) (string, error) {
	text := strings.TrimSpace(setting)
	path, isFile := strings.CutPrefix(text, "file:")
	if !isFile && !strings.HasPrefix(text, "/") {
		return text, nil
	}
	content, err := os.ReadFile(path)
	if err != nil && len(path) > 255 {
		return "", errors.New("the keyset's file cannot be read: what follows file: is too long to be a path; is it the keyset itself?")
	}
	if err != nil {
		return "", fmt.Errorf("read the keyset's file: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// read parses a setting. Its errors say what is wrong and never repeat a part
// of the setting, which is why those of the parsers are not wrapped.
func read(setting string, services []KMS) (set, error) {
	text, err := text(setting)
	if err != nil {
		return set{}, err
	}
	if text == "" {
		return set{}, errors.New("the keyset is empty; make one with `reauth keys new`")
	}
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return set{}, errors.New("the keyset is not base64url, or is cut off; it must be the one line that `reauth keys new` printed, or file: and the path of a file that holds it")
	}
	var b bundle
	if err := json.Unmarshal(decoded, &b); err != nil || len(b.Seal) == 0 || len(b.Links) == 0 {
		return set{}, errors.New("the keyset is cut off or not one of ours; it must be the whole line that `reauth keys new` printed")
	}
	master, err := master(b.KMS, services)
	if err != nil {
		return set{}, err
	}
	s := set{kms: b.KMS}
	for _, part := range []struct {
		to       **keyset.Handle
		from     json.RawMessage
		bound    []byte
		whatItIs string
	}{{&s.seal, b.Seal, partSeal, "sealing keys"}, {&s.links, b.Links, partLinks, "link keys"}} {
		reader := keyset.NewJSONReader(bytes.NewReader(part.from))
		if master != nil {
			// The service's own error says why: it does not hold the keyset.
			if *part.to, err = keyset.ReadWithAssociatedData(reader, master, part.bound); err != nil {
				return set{}, fmt.Errorf("the keyset's %s do not open with the key %s: %w", part.whatItIs, b.KMS, err)
			}
			continue
		}
		if *part.to, err = insecurecleartextkeyset.Read(reader); err != nil {
			return set{}, fmt.Errorf("the keyset's %s are malformed", part.whatItIs)
		}
	}
	return s, nil
}
