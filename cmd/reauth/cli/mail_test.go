package cli

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/reauth"
)

func TestMailCommand(t *testing.T) {
	settle(t, map[string]string{"DATABASE_URL": pgtest.URL(t)}) // nothing else is needed
	for _, step := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"mail"}, exitOK, []string{"mail                   on", "new customers an hour  all"}},
		{[]string{"mail", "stop", "--reason", "a wrong text"}, exitOK, []string{"STOPPED", " on ", ": a wrong text"}},
		{[]string{"mail", "stop"}, exitOK, []string{"nothing was changed", "STOPPED"}},
		{[]string{"mail", "ramp", "25"}, exitOK, []string{"new customers an hour  25", "STOPPED"}},
		{[]string{"mail", "ramp", "many"}, exitUsage, []string{"the ramp must be a number of customers an hour"}},
		{[]string{"mail", "ramp", "off"}, exitOK, []string{"new customers an hour  all"}},
		{[]string{"mail", "shadow", "--reason", "two\nlines"}, exitUsage, []string{"--reason must be one line"}},
		{[]string{"mail", "shadow"}, exitOK, []string{"in shadow: every case runs, and nobody is written to"}},
		{[]string{"mail", "on", "--json"}, exitOK, []string{`"mode": "on"`, `"history": [`}},
		{[]string{"mail", "status", "--json"}, exitOK, []string{`"version": 5`}},
	} {
		out, errs := command(t, step.code, step.args...)
		for _, want := range step.want {
			assert.Contains(t, out+errs, want, "%v", step.args)
		}
	}
}

func TestCasesCommand(t *testing.T) {
	address := pgtest.URL(t)
	settle(t, map[string]string{"DATABASE_URL": address})
	database, err := db.Open(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	for i, application := range []string{"payroll", "payroll", "sandbox"} {
		id := fmt.Sprint("c", i+1)
		_, err := database.PutConnection(t.Context(), reauth.Connection{ConnectionID: id, Application: application, CustomerName: "Acme"})
		require.NoError(t, err)
		_, err = database.OpenCase(t.Context(), db.Case{CaseID: "k" + id, ConnectionID: id, Source: reauth.SourceManual, OpenedAt: time.Now()})
		require.NoError(t, err)
	}
	for _, step := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"list", "--application", "payroll"}, exitOK, []string{"CONNECTION", "c1", "c2", "Acme", "confirming"}},
		{[]string{"list", "--phase", "sleeping"}, exitUsage, []string{"--phase must be"}},
		{[]string{"list", "--system", "Elsewhere"}, exitOK, []string{"no case matches"}},
		{[]string{"cancel", "--application", "payroll"}, exitUsage, []string{"--reason is missing"}},
		{[]string{"cancel", "--reason", "x"}, exitUsage, []string{"or ask for every open one with --all"}},
		{[]string{"cancel", "--reason", "x", "--all", "--provider", "finch"}, exitUsage, []string{"--all stands alone"}},
		{[]string{"cancel", "--reason", "x", "--application", "payroll", "--dry-run"}, exitOK, []string{"2 open cases match; nothing was asked"}},
		{[]string{"bulk"}, exitOK, []string{"nothing was ever asked"}},
		{[]string{"snooze", "--reason", "x", "--all", "--until", "2001-01-01"}, exitUsage, []string{"--until must be a time"}},
		{[]string{"snooze", "--reason", "x", "--all", "--until", time.Now().AddDate(0, 1, 0).Format(time.DateOnly)}, exitOK, []string{"snooze 3 open cases: waits for a worker"}},
		{[]string{"release", "--reason", "x", "--all"}, exitOK, []string{"release 3 open cases"}},
		{[]string{"stop", "--reason", "x", "--phase", "confirming"}, exitOK, []string{"stop 3 open cases"}},
		{[]string{"cancel", "--reason", "they left", "--application", "sandbox", "--json"}, exitOK, []string{`"matched": 1`, `"workflow_id": "bulk-`}},
		{[]string{"bulk"}, exitOK, []string{"cancel 1 open cases"}},
		{[]string{"bulk", "none"}, exitFailure, []string{"nothing of the ID none"}},
	} {
		out, errs := command(t, step.code, append([]string{"cases"}, step.args...)...)
		for _, want := range step.want {
			assert.Contains(t, out+errs, want, "%v", step.args)
		}
	}
	out, _ := command(t, exitOK, "cases", "list", "--json")
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	assert.Len(t, list, 3)
}
