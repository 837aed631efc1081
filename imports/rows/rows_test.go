package rows

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
)

var now = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// all reads a file to its end: its rows, and what is wrong with the others.
func all(t *testing.T, content string) (list []Row, problems []string) {
	t.Helper()
	r, err := NewReader(strings.NewReader(content), Options{Now: now, Campaigns: []string{"gentle"}})
	require.NoError(t, err)
	for {
		row, err := r.Next()
		var problem *Problem
		switch {
		case errors.Is(err, io.EOF):
			return list, problems
		case errors.As(err, &problem):
			problems = append(problems, problem.Error())
		default:
			require.NoError(t, err)
			list = append(list, row)
		}
	}
}

func TestWhatBothFormatsSay(t *testing.T) {
	want := Row{
		Connection: reauth.Connection{
			ConnectionID: "c1", Provider: reauth.Finch, Application: "sandbox", CustomerID: "cus-1", CustomerName: `Brown, "Sons" & Co`,
			System: "Gusto", Campaign: "gentle", Products: []string{"company", "directory"},
			Contacts: []reauth.Contact{
				{Email: "ada@acme.example", Name: "Ada", Role: "payroll", Locale: "en-GB", TimeZone: "Europe/London"},
				{Email: "bob@acme.example", Role: "alternate"},
			},
		},
		Given:    Given{true, true, true, true, true, true, true, true},
		Token:    "tok-1",
		MintedAt: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC),
	}
	header := "connection_id,access_token,minted_at,provider,application,customer_id,customer_name,system,campaign,products," +
		"contact_email,contact_name,contact_role,contact_locale,contact_time_zone,contact2_email,contact3_email,contact3_role\n"
	line := `c1,tok-1,2026-03-01T10:30:00+01:00,finch,sandbox,cus-1,"Brown, ""Sons"" & Co",Gusto,gentle,company directory,ada@acme.example,Ada,payroll,en_gb,Europe/London,,bob@acme.example,alternate`
	for name, content := range map[string]string{
		"csv":                      header + line + "\n",
		"no line feed at its end":  header + line,
		"CRLF and a BOM":           "\ufeff" + strings.ReplaceAll(header+line+"\n", "\n", "\r\n"),
		"empty lines":              "\n" + header + "\n \n" + line + "\n\n",
		"upper case and spaces":    strings.ReplaceAll(strings.ToUpper(header), ",", " , ") + line,
		"semicolons":               strings.ReplaceAll(header, ",", ";") + strings.ReplaceAll(strings.ReplaceAll(line, ",", ";"), "Brown;", "Brown,"),
		"tabs":                     strings.ReplaceAll(header, ",", "\t") + strings.ReplaceAll(strings.ReplaceAll(line, ",", "\t"), "Brown\t", "Brown,"),
		"token_created_at, and pg": strings.Replace(header, "minted_at", "token_created_at", 1) + strings.Replace(line, "2026-03-01T10:30:00+01:00", "2026-03-01 09:30:00.000+00", 1),
		"ndjson": `{"connection_id":"c1","access_token":"tok-1","minted_at":"2026-03-01T09:30:00Z","provider":"finch","application":"sandbox","customer_id":"cus-1",` +
			`"customer_name":"Brown, \"Sons\" & Co","system":"Gusto","campaign":"gentle","products":["directory","company"],"contacts":[` +
			`{"contact_id":"x","unreachable":"bounce","email":"ada@acme.example","name":"Ada","role":"payroll","locale":"en_gb","time_zone":"Europe/London"},{"email":"bob@acme.example","role":"alternate"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			list, problems := all(t, content)
			require.Empty(t, problems)
			require.Len(t, list, 1)
			assert.Positive(t, list[0].Line)
			list[0].Line = 0
			assert.Equal(t, want, list[0])
		})
	}
}

func TestWhatARowIsSilentOf(t *testing.T) {
	list, problems := all(t, "connection_id,customer_id\nc1,\n")
	require.Empty(t, problems)
	assert.Equal(t, Given{CustomerID: true}, list[0].Given)
	list, problems = all(t, `{"connection_id":"c1","contacts":[],"system":null}`)
	require.Empty(t, problems)
	assert.Equal(t, Given{Contacts: true}, list[0].Given)
}

func TestRowsThatAreWrong(t *testing.T) {
	const header = "connection_id,access_token,minted_at,campaign,contact_email,contact2_email,contact4_email,contact4_time_zone\n"
	for name, test := range map[string]struct{ content, want string }{
		"nothing to go by":        {header + ",,,,a@x.example,,,", "line 2: has neither a connection_id nor an access_token"},
		"a column too few":        {header + "c1,,,,,,", "line 2: has 7 columns, but the header has 8"},
		"a column too many":       {header + "c1,,,,,,,,", "line 2: has 9 columns, but the header has 8"},
		"a quote amid a cell":     {header + `c1,a"b,,,,,,`, "line 2: column 2 has a double quote amid it"},
		"a quote left open":       {header + `c1,"a,,,,,,`, "line 2: column 2 begins with a double quote that nothing closes"},
		"after a quote":           {header + `c1,"a"b,,,,,,`, "line 2: column 2 has something after its closing double quote"},
		"not UTF-8":               {header + "c1,\xff,,,,,,", "line 2: is not valid UTF-8"},
		"no time":                 {header + "c1,t,yesterday,,,,,", `line 2: minted_at: must be a time, as "2026-03-01T09:30:00Z"`},
		"the future":              {header + "c1,t,2027-01-01,,,,,", "line 2: minted_at: lies in the future"},
		"long ago":                {header + "c1,t,0001-01-01,,,,,", "line 2: minted_at: lies before the year 2000"},
		"a time of no token":      {header + "c1,,2026-01-01,,,,,", "line 2: minted_at: goes with an access_token"},
		"a campaign":              {header + "c1,,,eager,,,,", "line 2: campaign: is not a campaign here; known are gentle"},
		"a contact's column":      {header + "c1,,,,a@x.example,,hush,", "line 2: contact4_email: must be an e-mail address alone"},
		"the same address":        {header + "c1,,,,a@x.example,,A@x.example,", "line 2: contact4_email: stands in contacts twice"},
		"a contact of no address": {header + "c1,,,,,,,Europe/Paris", "line 2: contact4_email: is missing"},
		"a time zone":             {header + "c1,,,,,,a@x.example,Paris", "line 2: contact4_time_zone: must be an IANA time zone"},
		"too long":                {header + strings.Repeat("x", MaxLine+1) + "\nc1,,,,,,,", "line 2: is longer than 256 KiB"},

		"an array":           {"{\"connection_id\":\"c1\"}\n[]", "line 2: is a JSON array"},
		"a text":             {"{\"connection_id\":\"c1\"}\n\"hush\"", "line 2: is not a JSON object"},
		"cut off":            {`{"connection_id":"c1"`, "line 1: is not valid JSON: it ends too early"},
		"two in a line":      {`{"connection_id":"c1"}{"connection_id":"c2"}`, "line 1: is not valid JSON at byte"},
		"a number":           {`{"connection_id":7}`, "line 1: connection_id must be a JSON string"},
		"an unknown field":   {`{"connection_id":"c1","emial":"x"}`, "line 1: has the field emial that is not known; known are connection_id, access_token"},
		"an odd field":       {`{"connection_id":"c1","hush-4f2a9c":"x"}`, "line 1: has a field that is not known"},
		"a contact's field":  {`{"connection_id":"c1","contacts":[{"mail":"x"}]}`, "line 1: contacts[0]: has the field mail that is not known; known are email"},
		"a field twice":      {`{"connection_id":"c1","connection_id":"c1"}`, `line 1: has the field "connection_id" twice`},
		"an address":         {`{"connection_id":"c1","contacts":[{"email":"hush"}]}`, "line 1: contacts[0].email: must be"},
		"contacts, no list":  {`{"connection_id":"c1","contacts":{}}`, "line 1: contacts must be"},
		"both times":         {`{"access_token":"t","minted_at":"2026-01-01","token_created_at":"2026-01-01"}`, "line 1: has minted_at and token_created_at"},
		"an ID that is none": {`{"connection_id":"a b"}`, "line 1: connection_id must be 1 to 128"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := all(t, test.content)
			require.Len(t, problems, 1)
			assert.Contains(t, problems[0], test.want)
			assert.NotContains(t, problems[0], "hush")
		})
	}
}

func TestFilesThatAreWrong(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"nothing":                {"", "there is nothing in it"},
		"nothing but a BOM":      {"\ufeff\r\n", "there is nothing in it"},
		"gzip":                   {"\x1f\x8b\x08hush", "compressed (gzip)"},
		"a spreadsheet":          {"PK\x03\x04hush", "save it as CSV"},
		"UTF-16":                 {"\xff\xfec\x00", "UTF-16"},
		"one array":              {"[{\"connection_id\":\"c1\"}]", "line 1: is a JSON array; give one JSON object a line"},
		"no header":              {"c1,tok-hush\n", "line 1: the first line of a CSV must name its columns; known are connection_id"},
		"a header that is a row": {"connection_id,4f2a9c1e77hush\n", "line 1: the header's column 2 is not known"},
		"a misspelled column":    {"connection_id,contact_mail\n", "line 1: the header's column 2 (contact_mail) is not known"},
		"too many contacts":      {"connection_id,contact21_email\n", "column 2 (contact21_email) is not known"},
		"a column twice":         {"connection_id,system,connection_id\n", "line 1: the header has connection_id twice, as column 1 and column 3"},
		"a contact twice":        {"connection_id,contact_email,contact1_email\n", "the header has contact_email twice"},
		"both times":             {"access_token,minted_at,token_created_at\n", "which are the same"},
		"nothing to go by":       {"customer_id,system\n", "neither connection_id nor access_token"},
		"a quote":                {"\"connection_id\n", "the header column 1 begins with a double quote"},
		"old line ends":          {strings.Repeat("connection_id\rc1\r", MaxLine/10), "are its lines ended by a line feed?"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewReader(strings.NewReader(test.content), Options{Now: now})
			var file *FileError
			require.ErrorAs(t, err, &file)
			assert.ErrorContains(t, err, test.want)
			assert.NotContains(t, err.Error(), "hush")
		})
	}
}

func TestSkipTo(t *testing.T) {
	content := "connection_id\nc1\n" + strings.Repeat("x", MaxLine+7) + "\nc3\n"
	r, err := NewReader(strings.NewReader(content), Options{Now: now})
	require.NoError(t, err)
	reached, err := r.SkipTo(3)
	require.NoError(t, err)
	assert.True(t, reached)
	sum := sha256.Sum256([]byte(content[:len(content)-3]))
	assert.Equal(t, sum[:], r.Digest())
	row, err := r.Next()
	require.NoError(t, err)
	assert.Equal(t, "c3", row.Connection.ConnectionID)
	assert.Equal(t, int64(4), row.Line)
	reached, err = r.SkipTo(9)
	require.NoError(t, err)
	assert.False(t, reached)
}

// Whatever a file holds: nothing panics, every line is read once, what is taken
// can be stored, reading the same again is the same, a row that is written anew is
// read as it was, and what is wrong is said without a token or an address.
func FuzzRows(f *testing.F) {
	for _, seed := range []string{
		"connection_id,access_token\nc1,tok\n,tok\n", "\ufeffconnection_id;contact2_email\r\nc1;a@x.example\r\n", "access_token\n\"a\"\"b\"\n\"\n",
		`{"connection_id":"c1","contacts":[{"email":"a@x.example"}]}` + "\n[]\n{}\n", `{"a":{"b":[1,null]}}`, "[", "{", "\x1f\x8b", "connection_id\n\x00\xff\n", "",
		"access_token,connection_id\nPLANTED-token-0001,c 1\nPLANTED token-0001,c1\n", "PLANTED-token-0001\nc1\n", `{"access_token":"PLANTED-token-0001","connection_id":"c 1"}`, `{"PLANTED-token-0001":1}`,
		"contact_email,access_token,minted_at,products\nPLANTED@x.example oops,t,2026-01-01,a b\nPLANTED@x.example,t,PLANTED-token-0001,\n",
		`{"connection_id":"c","access_token":"PLANTED-token-0001","minted_at":"2026-01-02T03:04:05Z","products":["company"],"system":"","contacts":[{"email":"a@x.example","name":"A","locale":"de-CH","time_zone":"Asia/Tokyo","role":"payroll"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		read := func() (text []string) {
			r, err := NewReader(bytes.NewReader(content), Options{Now: now})
			if err != nil {
				requireNothingPlanted(t, err)
				return []string{err.Error()}
			}
			line := int64(0)
			for {
				row, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				require.Greater(t, r.Line(), line)
				line = r.Line()
				var problem *Problem
				if errors.As(err, &problem) {
					require.NotEmpty(t, problem.Message)
					require.Equal(t, line, problem.Line)
					requireNothingPlanted(t, problem)
					text = append(text, problem.Error())
					continue
				}
				require.NoError(t, err)
				require.Equal(t, line, row.Line)
				if id := row.Connection.ConnectionID; id != "" {
					require.NoError(t, reauth.CheckConnectionID(id))
				} else {
					require.NotEmpty(t, row.Token)
				}
				text = append(text, row.Connection.ConnectionID, row.Token.Reveal())
				anew, err := NewReader(strings.NewReader(written(t, row)), Options{Now: now})
				require.NoError(t, err)
				again, err := anew.Next()
				require.NoError(t, err)
				again.Line = row.Line
				require.Equal(t, row, again)
			}
			sum := sha256.Sum256(content)
			require.Equal(t, sum[:], r.Digest())
			require.Equal(t, int64(len(content)), r.Bytes())
			return text
		}
		require.Equal(t, read(), read())
	})
}

// requireNothingPlanted: what is said of a file repeats no token and no address.
func requireNothingPlanted(t *testing.T, err error) {
	t.Helper()
	for _, secret := range []string{"planted-token", "planted token", "planted@x"} {
		require.NotContains(t, strings.ToLower(err.Error()), secret)
	}
}

// written is a row as a line of NDJSON.
func written(t *testing.T, row Row) string {
	t.Helper()
	c, fields := row.Connection, map[string]any{"access_token": row.Token.Reveal(), "connection_id": row.Connection.ConnectionID}
	if !row.MintedAt.IsZero() {
		fields["minted_at"] = row.MintedAt.Format(time.RFC3339Nano)
	}
	for _, f := range []struct {
		name  string
		given bool
		value any
	}{
		{"provider", row.Given.Provider, c.Provider}, {"application", row.Given.Application, c.Application}, {"customer_id", row.Given.CustomerID, c.CustomerID},
		{"customer_name", row.Given.CustomerName, c.CustomerName}, {"system", row.Given.System, c.System}, {"campaign", row.Given.Campaign, c.Campaign},
		{"products", row.Given.Products, append([]string{}, c.Products...)},
	} {
		if f.given {
			fields[f.name] = f.value
		}
	}
	if row.Given.Contacts {
		people := []map[string]string{}
		for _, p := range c.Contacts {
			people = append(people, map[string]string{"email": p.Email, "name": p.Name, "role": p.Role, "locale": p.Locale, "time_zone": p.TimeZone})
		}
		fields["contacts"] = people
	}
	text, err := json.Marshal(fields)
	require.NoError(t, err)
	return string(text) + "\n"
}
