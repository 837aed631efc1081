package secrets_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/finch-reauth/reauth/secrets"
)

func fuzzKeys(f *testing.F) *secrets.Keys {
	f.Helper()
	setting, err := secrets.Generate()
	if err != nil {
		f.Fatal(err)
	}
	keys, err := secrets.Load(setting)
	if err != nil {
		f.Fatal(err)
	}
	return keys
}

// A payload comes back as it went in, whatever it is; what is marked as sealed
// and was not sealed by us never opens; everything else passes untouched.
func FuzzCodec(f *testing.F) {
	keys := fuzzKeys(f)
	codec := keys.Codec()
	f.Add("json/plain", []byte(`{"code":"x"}`), 0, byte(1))
	f.Add("binary/null", []byte(nil), 3, byte(0))
	f.Add(sealedEncoding, []byte("not sealed"), 9, byte(128))
	f.Add(sealedEncoding, bytes.Repeat([]byte{1}, 60), 40, byte(7))
	f.Add("", []byte{0xff, 0}, -1, byte(255))
	f.Fuzz(func(t *testing.T, encoding string, data []byte, at int, change byte) {
		payload := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: data}
		sealed, err := codec.Encode([]*commonpb.Payload{payload})
		if err != nil {
			t.Fatal(err)
		}
		if len(data) >= 16 && bytes.Contains(sealed[0].Data, data) {
			t.Error("the data is in what was sealed")
		}
		opened, err := codec.Decode(sealed)
		if err != nil || !proto.Equal(opened[0], payload) {
			t.Fatalf("it came back as %v, %v", opened, err)
		}
		// As a stranger would send it.
		opened, err = codec.Decode([]*commonpb.Payload{payload})
		switch {
		case encoding != sealedEncoding && (err != nil || !proto.Equal(opened[0], payload)):
			t.Errorf("a payload that is not ours came back as %v, %v", opened, err)
		case encoding == sealedEncoding && (err == nil || opened != nil):
			t.Errorf("%v was opened", payload)
		case err != nil && !errors.Is(err, secrets.ErrSealed) && !errors.Is(err, secrets.ErrUnknownKey):
			t.Errorf("%v is neither of the errors that are told apart", err)
		}
		// As somebody would alter it.
		if change != 0 {
			altered := proto.Clone(sealed[0]).(*commonpb.Payload)
			altered.Data[min(max(at, 0), len(altered.Data)-1)] ^= change
			if opened, err := codec.Decode([]*commonpb.Payload{altered}); err == nil {
				t.Errorf("an altered payload was opened: %v", opened)
			}
		}
	})
}

// The codec server answers every body: who has no key learns nothing, and to who
// has one it tells what the codec does.
func FuzzCodecHandler(f *testing.F) {
	keys := fuzzKeys(f)
	handler := keys.CodecHandler([]string{uiOrigin}, allow)
	for _, body := range []string{
		`{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"InBsYWluIg=="}]}`, `{"payloads":[{"metadata":{"encoding":"YmluYXJ5L3JlYXV0aC1hZWFk"},"data":"AAAA"}]}`,
		`{}`, `{"payloads":[]}`, `{"payloads":[null]}`, `{"payloads":[{}]}`, `[]`, ``, `{"payloads":`, `{"payloads":[{"data":"!"}]}`, `{"Payloads":[{}],"payloads":[{}]}`, "\xff",
	} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, encode bool) {
		path := "/codec/decode"
		if encode {
			path = "/codec/encode"
		}
		if w := (request{"POST", path, uiOrigin, "Bearer other", body}).do(handler); w.Code != http.StatusUnauthorized {
			t.Errorf("without a key: %d", w.Code)
		}
		w := request{"POST", path, uiOrigin, "Bearer key", body}.do(handler)
		if w.Code == http.StatusBadRequest {
			return
		}
		var given, got commonpb.Payloads
		if w.Code != http.StatusOK || protojson.Unmarshal(w.Body.Bytes(), &got) != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if err := protojson.Unmarshal(body, &given); err != nil {
			t.Fatalf("a body was taken that is none: %v", err)
		}
		back := got.Payloads
		if encode {
			var err error
			if back, err = keys.Codec().Decode(got.Payloads); err != nil {
				t.Fatalf("what was encoded does not open: %v", err)
			}
		}
		for i, p := range given.Payloads {
			if !proto.Equal(p, back[i]) {
				t.Errorf("%v became %v", p, back[i])
			}
		}
	})
}

// A ticket is read as it was minted, by its own kind alone, and no other text is
// one.
func FuzzTicket(f *testing.F) {
	keys := fuzzKeys(f)
	f.Add("state", "done", "a value", "", 0, byte(1))
	f.Add("", "x", "\x00", "AAAA", 50, byte(255))
	f.Add("a", "aa", strings.Repeat("v", 100), "====", 1<<20, byte(32))
	f.Fuzz(func(t *testing.T, kind, other, value, text string, at int, change byte) {
		now := time.Unix(1_800_000_000, 0)
		type content struct{ Value []byte } // bytes, so that JSON repairs nothing
		minted, err := keys.Mint(kind, content{[]byte(value)}, now.Add(time.Hour))
		if err != nil {
			if len(value) < 1500 {
				t.Fatalf("a value of %d bytes cannot be minted: %v", len(value), err)
			}
			return
		}
		var got content
		if err := keys.Read(kind, minted, now, &got); err != nil || string(got.Value) != value {
			t.Fatalf("read as %q, %v", got.Value, err)
		}
		if err := keys.Read(kind, minted, now.Add(time.Hour), &got); !errors.Is(err, secrets.ErrTicketExpired) {
			t.Errorf("an hour later: %v", err)
		}
		if other != kind {
			if err := keys.Read(other, minted, now, &got); !errors.Is(err, secrets.ErrTicket) {
				t.Errorf("as another kind: %v", err)
			}
		}
		altered := []byte(minted)
		altered[min(max(at, 0), len(altered)-1)] ^= change
		for _, forged := range slices.Sorted(maps.Keys(map[string]bool{text: true, string(altered): true, minted + text: true, minted[:len(minted)-1]: true})) {
			if forged == minted {
				continue
			}
			if err := keys.Read(kind, forged, now, &got); !errors.Is(err, secrets.ErrTicket) {
				t.Errorf("%q was read: %v", forged, err)
			}
		}
	})
}
