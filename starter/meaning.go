package starter

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path"
	"strings"

	"github.com/finch-reauth/reauth/reauth"
)

// finding is what an answer of Finch's says about its connection: a code of
// Finch's and, where the answer has none, in which words it said so.
type finding struct {
	code   string
	reason string
}

// meaning tells what an answer says of its connection by what its body begins
// with. Nothing is the empty finding.
type meaning func(head []byte) finding

// meaningOf tells how an answer is to be understood; nil if it can say nothing
// of its connection. Of a refusal everything is clear from its body, which is
// short. A success is the caller's, and is looked at only as the caller reads.
func meaningOf(req *http.Request, resp *http.Response) (says meaning, refusal bool) {
	switch endpoint := strings.TrimSuffix(req.URL.Path, "/"); {
	case resp.StatusCode == http.StatusUnauthorized:
		says, refusal = codeAt(always, "finch_code"), true
	case resp.StatusCode == http.StatusForbidden:
		says, refusal = codeAt(reauth.IsSetupCode, "finch_code"), true
	case resp.StatusCode != http.StatusOK:
		return nil, false
	case batch(endpoint):
		says = codeAt(always, "responses", each, "body", "finch_code")
	case req.Method != http.MethodGet:
		return nil, false
	case strings.HasSuffix(endpoint, "/introspect"):
		says = introspection
	case strings.HasSuffix(path.Dir(endpoint), "/jobs/automated"):
		says = job("status")
	case strings.HasSuffix(endpoint, "/jobs/automated") && firstPage(req):
		says = job("data", each, "status")
	default:
		return nil, false
	}
	// The standard transport takes this header off when it decompresses.
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		plainly := says
		says = func(head []byte) finding { return plainly(unzip(head)) }
	}
	return says, refusal
}

// batch reports whether an endpoint answers for many people at once, each with
// a status of its own.
func batch(endpoint string) bool {
	for _, suffix := range []string{"/employer/individual", "/employer/employment", "/employer/pay-statement"} {
		if strings.HasSuffix(endpoint, suffix) {
			return true
		}
	}
	return false
}

// firstPage reports whether a list begins with its newest entry. What stands on
// later pages is old.
func firstPage(req *http.Request) bool {
	offset := req.URL.Query().Get("offset")
	return offset == "" || offset == "0"
}

func always(string) bool { return true }

// worst keeps the code that matters most: that the customer must log in again,
// else the first that says that the customer's account must be mended.
func (f *finding) worst(code string) (enough bool) {
	if code == reauth.CodeReauth || f.code == "" && reauth.IsSetupCode(code) {
		f.code = code
	}
	return f.code == reauth.CodeReauth
}

// codeAt looks for codes at a path of the answer, of those that count.
func codeAt(counts func(code string) bool, path ...string) meaning {
	return func(head []byte) (f finding) {
		if !bytes.Contains(head, []byte("finch_code")) {
			return finding{}
		}
		_, _ = walk(json.NewDecoder(bytes.NewReader(head)), path, func(code string) bool { // cut off is no error here
			return counts(code) && f.worst(code)
		})
		return f
	}
}

// introspection understands the answer of GET /introspect, where one entity may
// be stale while the others still serve data.
func introspection(head []byte) (f finding) {
	for _, path := range [][]string{{"connection_status", "status"}, {"entities", each, "status"}} {
		_, _ = walk(json.NewDecoder(bytes.NewReader(head)), path, func(status string) bool {
			if status == "reauth" {
				status = reauth.CodeReauth
			}
			return f.worst(status)
		})
	}
	if f.code != "" {
		f.reason = "GET /introspect says so"
	}
	return f
}

// job understands the status of automated jobs, of which the newest comes
// first: the first that has come to an end tells how things stand.
func job(path ...string) meaning {
	return func(head []byte) (f finding) {
		if !bytes.Contains(head, []byte("_error")) {
			return finding{}
		}
		_, _ = walk(json.NewDecoder(bytes.NewReader(head)), path, func(status string) bool {
			switch status {
			case "pending", "in_progress":
				return false
			case "reauth_error":
				f = finding{reauth.CodeReauth, "a job ended with reauth_error"}
			case "permissions_error":
				f = finding{"error_permissions", "a job ended with permissions_error"}
			}
			return true
		})
		return f
	}
}
