package finch

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Limit is how many calls may go out within any span as long as the window. The
// zero value is no limit.
type Limit struct {
	Calls  int
	Window time.Duration
}

// Limits are what Finch allows.
//
// Finch counts per application and endpoint, whatever the token: 20 calls in a
// rolling minute, 12 of some endpoints; and per IP address 1000 calls in five
// minutes over all endpoints, after which it refuses everything for an hour.
type Limits struct {
	// Each is the limit of every endpoint that Endpoints does not name.
	Each Limit
	// Endpoints are limits of single endpoints, by what EndpointOf calls them.
	Endpoints map[string]Limit
	// Together is the limit of all applications and endpoints together.
	Together Limit
}

// EndpointToken is POST /auth/token. A code lives ten minutes, so no limit that
// we only guess may hold it up.
const EndpointToken = "auth/token"

// DefaultLimits are those that Finch documents. For Connect it states none, and
// none is guessed.
func DefaultLimits() Limits {
	minute := func(n int) Limit { return Limit{n, time.Minute} }
	return Limits{
		Each: minute(20),
		Endpoints: map[string]Limit{
			EndpointToken:                     {},
			"connect/sessions":                {},
			"connect/sessions/reauthenticate": {},
			"payment":                         minute(12),
			"pay-group":                       minute(12),
			"pay-groups":                      minute(12),
			"pay-statement":                   minute(12),
		},
		Together: Limit{1000, 5 * time.Minute},
	}
}

// Of is the limit of an endpoint.
func (l Limits) Of(endpoint string) Limit {
	if limit, named := l.Endpoints[endpoint]; named {
		return limit
	}
	return l.Each
}

const (
	maxCalls  = 100_000
	minWindow = time.Second
	maxWindow = time.Hour
)

var endpointPattern = regexp.MustCompile(`^[a-z][a-z_-]*(/[a-z_*-]+){0,3}$`)

// ParseLimits reads limits as "20/1m introspect=40/1m ip=1000/5m": that of every
// endpoint, and those of single ones. An endpoint is the path of its calls
// without /employer, "ip" is all of them together, and "off" stands for no
// limit. What is not named keeps its default, except that "off" alone lifts all.
func ParseLimits(text string) (Limits, error) {
	if strings.TrimSpace(text) == "off" {
		return Limits{}, nil
	}
	limits := DefaultLimits()
	seen := map[string]bool{}
	for _, field := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		name, value, named := strings.Cut(field, "=")
		if !named {
			name, value = "", field
		}
		if seen[name] {
			return Limits{}, errors.New("an endpoint is named twice")
		}
		seen[name] = true
		limit, err := parseLimit(value)
		switch {
		case err != nil:
			return Limits{}, err
		case !named:
			limits.Each = limit
		case name == "ip":
			limits.Together = limit
		case !endpointPattern.MatchString(name):
			return Limits{}, errors.New("an endpoint is written as the path of its calls without /employer, as introspect or company")
		case name == EndpointToken:
			return Limits{}, errors.New(EndpointToken + " can have no limit: a code lives ten minutes")
		default:
			limits.Endpoints[name] = limit
		}
	}
	if len(seen) == 0 {
		return Limits{}, errors.New("it is empty")
	}
	return limits, nil
}

func parseLimit(text string) (Limit, error) {
	if text == "off" {
		return Limit{}, nil
	}
	calls, window, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(calls)
	d, badWindow := time.ParseDuration(window)
	if err != nil || badWindow != nil || n < 1 || n > maxCalls || d < minWindow || d > maxWindow {
		return Limit{}, fmt.Errorf("a limit is a number of calls from 1 to %d and a time from %s to %s, as 20/1m, or off", maxCalls, minWindow, maxWindow)
	}
	return Limit{n, d}, nil
}

// String writes the limits as ParseLimits reads them.
func (l Limits) String() string {
	fields := []string{l.Each.String()}
	for _, name := range slices.Sorted(maps.Keys(l.Endpoints)) {
		if name != EndpointToken {
			fields = append(fields, name+"="+l.Endpoints[name].String())
		}
	}
	return strings.Join(append(fields, "ip="+l.Together.String()), " ")
}

func (l Limit) String() string {
	if l.Calls == 0 {
		return "off"
	}
	window := strings.TrimSuffix(l.Window.String(), "0s") // 1m, not 1m0s
	if strings.HasSuffix(window, "h0m") {
		window = strings.TrimSuffix(window, "0m")
	}
	if window == "" || window[len(window)-1] >= '0' && window[len(window)-1] <= '9' {
		window = l.Window.String()
	}
	return strconv.Itoa(l.Calls) + "/" + window
}

// EndpointOf names the endpoint of a request as limits do: "introspect",
// "company", "connect/sessions/reauthenticate". What identifies one thing among
// others in the path becomes "*", so that there are few names.
func EndpointOf(r *http.Request) string {
	var parts []string
	for part := range strings.SplitSeq(strings.ToLower(r.URL.Path), "/") {
		switch {
		case part == "" || part == "employer" && len(parts) == 0:
			continue
		case len(part) > 40 || strings.ContainsFunc(part, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) && r != '-' && r != '_' }):
			part = "*"
		}
		if parts = append(parts, part); len(parts) == 4 {
			break
		}
	}
	return cmp.Or(strings.Join(parts, "/"), "*")
}
