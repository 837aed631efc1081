// Package strictjson reads JSON as our doors take it: UTF-8, one value, no
// field twice, field names exactly as documented. Its messages say where
// something is wrong and never repeat what was sent.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Unmarshal reads data into v, as json.Unmarshal does.
func Unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("is not valid UTF-8")
	}
	if err := checkFields(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return jsonError(err)
	}
	return nil
}

func jsonError(err error) error {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("is not valid JSON at byte %d", syntax.Offset)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%s must be a JSON %s", wrongType.Field, wrongType.Type.Kind())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("is not valid JSON: it ends too early")
	}
	return errors.New("is not the JSON that is taken here")
}

// level is one object or array that checkFields is inside of.
type level struct {
	seen  map[string]bool // nil in an array
	isKey bool            // the next string is a field's name
}

// checkFields refuses what encoding/json would quietly put right.
func checkFields(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var levels []*level
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) && len(levels) == 0 {
			return nil
		}
		if err != nil {
			return jsonError(err)
		}
		var top *level
		if len(levels) > 0 {
			top = levels[len(levels)-1]
		}
		if top != nil && top.isKey {
			if name, ok := token.(string); ok {
				if err := checkField(name, top.seen); err != nil {
					return err
				}
				top.isKey = false
				continue
			}
		}
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				levels = append(levels, &level{seen: map[string]bool{}, isKey: true})
				continue
			case '[':
				levels = append(levels, &level{})
				continue
			default:
				levels = levels[:len(levels)-1]
				if len(levels) == 0 {
					continue
				}
				top = levels[len(levels)-1]
			}
		case string:
			if strings.ContainsRune(t, 0) {
				return errors.New("holds a NUL character, which no field may have")
			}
		}
		if top != nil && top.seen != nil {
			top.isKey = true
		}
	}
}

func checkField(name string, seen map[string]bool) error {
	if lower := strings.ToLower(name); lower != name && plainName(lower) {
		return fmt.Errorf("has a field %q; field names are written in lower case, as %q", name, lower)
	}
	if seen[name] {
		if plainName(name) {
			return fmt.Errorf("has the field %q twice", name)
		}
		return errors.New("has a field twice")
	}
	seen[name] = true
	return nil
}

// plainName keeps what does not look like a field's name out of messages: it can
// be a token that stands in the wrong place.
func plainName(name string) bool {
	return len(name) <= 24 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
}
