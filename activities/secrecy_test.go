package activities_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
)

// hostile is a Finch that repeats everything it is sent, in every place that
// its answers have for words.
func (r *rig) hostile(t *testing.T) func(status int) {
	t.Helper()
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		var sent map[string]any
		_ = json.Unmarshal(body, &sent)
		_, password, _ := request.BasicAuth()
		word := strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")
		if password != "" {
			word = password
		}
		if code, ok := sent["code"].(string); ok {
			word = code
		}
		w.Header().Set("Finch-Request-Id", word)
		w.Header().Set("Location", "https://elsewhere.example/?"+word)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": word, "finch_code": word, "message": fmt.Sprintf("%s %s %v", word, body, request.Header), "error": word,
			"connection_status": word,
		})
	}))
	t.Cleanup(server.Close)
	r.acts.Providers["hostile"] = activities.Finch{Client: finch.New(finch.Config{
		BaseURL: server.URL, ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second,
	})}
	return func(s int) { status = s }
}

// Every rig scans what its activities said. Here everybody who talks to them
// does their best to make them talk.
func TestNothingSecretIsSaid(t *testing.T) {
	r := newRig(t)
	answerWith := r.hostile(t)
	hostile := func(o *options) { o.application = "hostile" }
	plan := activities.Plan{Minutes: 60, Application: "hostile"}
	errors := 0
	try := func(_ any, err error) {
		if err != nil {
			errors++
		}
	}
	for _, status := range []int{200, 202, 302, 400, 401, 403, 404, 429, 500, 503} {
		answerWith(status)
		c := r.customer(hostile)
		require.NoError(t, r.inbox.SetKnobs(inbox.Knobs{
			Fault: inbox.FaultReject, At: inbox.AtRcpt, Code: 450 + 100*(status%2), Text: "No such user " + c.mail + " or " + operatorMail,
		}))
		for _, patient := range []bool{false, true} {
			out, err := run(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref, Patient: patient})
			try(out, err)
			if out.Problem != "" {
				try(run(r, alone(r.acts.TellOperator), activities.ProblemInput{Case: c.ref, Problem: out.Problem, Step: "problem-1"}))
			}
			try(run(r, r.acts.OpenSession, activities.SessionInput{Case: c.ref, Plan: plan, Ordinal: 2, Patient: patient}))
			code := fmt.Sprintf("planted-code-%d-%t", status, patient)
			r.secret(code)
			redeemed, err := run(r, r.acts.Redeem, activities.RedeemInput{Case: &c.ref, Application: "hostile", Code: code, Patient: patient})
			try(redeemed, err)
			if redeemed.State != "" {
				try(run(r, alone(r.acts.SettleCode), activities.SettleInput{
					Case: &c.ref, CodeHash: reauth.CodeHash(code), State: redeemed.State, Problem: redeemed.Problem,
				}))
			}
		}
		try(run(r, r.acts.Look, activities.LookInput{Case: c.ref}))
		try(run(r, r.acts.Notify, r.notice(c)))
		late := r.notice(c)
		late.Step.Key, late.LookedAt = "after-2d", time.Time{}
		try(run(r, r.acts.Notify, late))
		in := activities.VerifyInput{Case: c.ref, Minted: r.minted(c.id, "planted-token-of-"+c.id)}
		try(run(r, r.acts.Verify, in))
		in.Minted.Sealed = []byte("not sealed at all")
		try(run(r, r.acts.Verify, in))
		try(run(r, alone(r.acts.AwaitWorking), activities.WorkingInput{Case: c.ref}))
		try(run(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeExpired, "")))
	}
	assert.Greater(t, errors, 50, "or else nothing was tried")
	r.scanRows(t, "contacts")

	// Nor when the database is gone.
	c := r.customer(hostile)
	r.closed()
	try(run(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref}))
	try(run(r, r.acts.Notify, r.notice(c)))
	r.secret("planted-code-without-database")
	try(run(r, r.acts.Redeem, activities.RedeemInput{Case: &c.ref, Application: "hostile", Code: "planted-code-without-database"}))
	try(run(r, r.acts.Verify, activities.VerifyInput{Case: c.ref, Minted: r.minted(c.id, "planted-token-without-database")}))
	try(run(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeFailed, "")))
}

// The same of a story that goes well, for what is stored.
func TestNothingSecretIsStoredInTheClear(t *testing.T) {
	r := newRig(t)
	c, in, _ := r.back()
	perform(r, r.acts.Notify, r.notice(c))
	perform(r, r.acts.Verify, in)
	perform(r, r.acts.CloseAndTell, closing(c, reauth.OutcomeRecovered, ""))
	require.Len(t, r.mails(c.mail), 2)
	r.secret(strings.TrimPrefix(link(t, r.mails(c.mail)[0]), publicURL+"/r/"))
	r.scanRows(t, "contacts")
}

// scanRows looks for secrets in every row, in text and in bytes, of every table but some.
func (r *rig) scanRows(t *testing.T, but ...string) {
	t.Helper()
	var tables []string
	require.NoError(t, r.raw.Select(&tables, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`))
	for _, table := range tables {
		if strings.Contains(strings.Join(but, " "), table) {
			continue
		}
		var rows []string
		require.NoError(t, r.raw.Select(&rows, `SELECT to_json(t)::text FROM "`+table+`" t`))
		all := strings.Join(rows, "\n")
		for _, secret := range r.secrets {
			assert.False(t, strings.Contains(all, secret), "the secret %q stands in %s", secret, table)
			assert.False(t, strings.Contains(all, hex.EncodeToString([]byte(secret))), "the secret %q stands in %s", secret, table)
		}
	}
}
