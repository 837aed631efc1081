package strictjson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStrictJSON(t *testing.T) {
	type body struct {
		Name string `json:"name"`
		List []struct {
			Email string `json:"email"`
		} `json:"list"`
		Count int `json:"count"`
	}
	tests := []struct{ name, in, want string }{
		{"good", `{"name":"a","list":[{"email":"x"},{"email":"y"}],"count":2}`, ""},
		{"empty object", `{}`, ""},
		{"the same field in two objects", `{"list":[{"email":"x"},{"email":"x"}]}`, ""},
		{"a value that reads like a field", `{"name":"name","list":[]}`, ""},
		{"twice", `{"name":"a","name":"Hush"}`, `has the field "name" twice`},
		{"twice, deep", `{"list":[{"email":"x","email":"Hush"}]}`, `has the field "email" twice`},
		{"upper case", `{"Name":"Hush"}`, `has a field "Name"; field names are written in lower case, as "name"`},
		{"odd name twice", `{"Hush!":1,"Hush!":2}`, `has a field twice`},
		{"NUL", `{"name":"a\u0000Hush"}`, "holds a NUL character"},
		{"not UTF-8", "{\"name\":\"Hush\xff\"}", "is not valid UTF-8"},
		{"cut off", `{"name":"Hush`, "it ends too early"},
		{"cut off after a value", `{"name":"Hush"`, "it ends too early"},
		{"not JSON", `name=Hush`, "is not valid JSON at byte 2"},
		{"two values", `{} {"name":"Hush"}`, "is not valid JSON at byte 4"},
		{"empty", ``, "is not valid JSON"},
		{"wrong type", `{"count":"Hush"}`, "count must be a JSON int"},
		{"wrong type, not an object", `["Hush"]`, "is not the JSON that is taken here"},
		{"deep", strings.Repeat("[", 20000), "is not valid JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b body
			err := Unmarshal([]byte(test.in), &b)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "Hush")
		})
	}
}

// What the strict reader takes, the standard one takes too; and nothing makes
// it panic.
func FuzzStrictJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":null}],"c":"d"}`, `[[],{}]`, `{"a":1,"a":2}`, `"x"`, `{`, `}`, `[}`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, plain any
		if Unmarshal(data, &strict) == nil {
			require.NoError(t, json.Unmarshal(data, &plain))
			require.Equal(t, plain, strict)
		}
	})
}
