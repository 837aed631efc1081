package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/reauth"
)

// waitingCases opens cases that wait for their customers, of whom nobody is
// written to: somebody is at each page.
func (s *stack) waitingCases(n int, application string) []string {
	s.t.Helper()
	ctx := context.Background()
	ids := make([]string, n)
	var opening sync.WaitGroup
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range 16 {
		opening.Go(func() {
			for i := range next {
				connection, _, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: fmt.Sprint("Customer ", i)})
				if !assert.NoError(s.t, err) {
					return
				}
				ids[i] = connection.ID
				_, err = s.db.PutConnection(ctx, reauth.Connection{ConnectionID: connection.ID, System: "Gusto", CustomerID: fmt.Sprint(application, "-", i)})
				if !assert.NoError(s.t, err) {
					return
				}
				_, err = s.starter.Report(ctx, reauth.Input{ConnectionID: connection.ID, Source: reauth.SourceLink})
				assert.NoError(s.t, err)
			}
		})
	}
	opening.Wait()
	s.eventually("every case waits for its customer", func() bool {
		count, err := s.db.CountBulk(ctx, db.BulkFilter{Phase: reauth.PhaseAwaitingCustomer})
		return err == nil && count >= n
	})
	return ids
}

// Many cases are cancelled, and the worker that does it is killed with
// SIGKILL half-way: another goes on, and nobody is forgotten.
func TestABulkGoesOnWhenItsWorkerIsKilled(t *testing.T) {
	const many = 80
	ctx := context.Background()
	s := newStack(t, func(o *options) { o.noWorker = true })
	worker := s.workerProcess()
	ids := s.waitingCases(many, "default")

	status, body := s.call(http.MethodPost, "/v1/cases:cancel", map[string]any{"reason": "they left us"})
	assert.Equal(t, http.StatusUnprocessableEntity, status, "all of them must be asked for")
	assert.Contains(t, body["detail"], `{"all": true}`)
	status, body = s.call(http.MethodPost, "/v1/cases:cancel", map[string]any{"provider": "finch", "reason": "they left us", "dry_run": true})
	require.Equal(t, http.StatusOK, status, "%v", body)
	assert.EqualValues(t, many, body["matched"])
	status, body = s.call(http.MethodPost, "/v1/cases:cancel", map[string]any{"provider": "finch", "reason": "they left us"})
	require.Equal(t, http.StatusAccepted, status, "%v", body)
	id, _ := body["bulk_id"].(string)
	read := func() db.Bulk {
		b, err := s.db.BulkByID(ctx, id)
		require.NoError(t, err)
		return b
	}
	s.eventually("some have been told", func() bool { return read().Told >= many/4 })
	kill(worker)
	half := read()
	require.Nil(t, half.EndedAt, "it was killed amid the work")
	s.workerProcess()
	s.eventually("the bulk has ended", func() bool { return read().EndedAt != nil })

	status, body = s.call(http.MethodGet, "/v1/bulk/"+id, nil)
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, "done", body["ended_how"])
	told, _ := body["told"].(float64)
	gone, _ := body["gone"].(float64)
	assert.EqualValues(t, many, told+gone, "each was counted once")
	s.eventually("every case is cancelled", func() bool {
		open, err := s.db.CountBulk(ctx, db.BulkFilter{})
		return err == nil && open == 0
	})
	for _, connection := range ids {
		c, err := s.db.NewestCase(ctx, connection)
		require.NoError(t, err)
		require.Equal(t, reauth.OutcomeCancelled, c.Outcome)
		require.Equal(t, "they left us", c.CloseReason)
	}
	t.Logf("killed after %d of %d", half.Told, many)
}

// One switch stops all customer mail, everything says so, and it goes on.
func TestMailIsStopped(t *testing.T) {
	s := newStack(t)
	mail := func(change map[string]any) map[string]any {
		t.Helper()
		status, body := s.call(http.MethodPut, "/v1/mail", change)
		require.Equal(t, http.StatusOK, status, "%v", body)
		return body
	}
	body := mail(map[string]any{"mode": "stopped", "reason": "a wrong text"})
	assert.EqualValues(t, 0, body["under_way"])
	assert.Equal(t, "key bootstrap", body["changed_by"])
	c := s.stale()
	status, _ := s.report(c, map[string]any{"reminders": []string{"0s"}}) // which keeps no hours
	require.Equal(t, http.StatusAccepted, status)
	s.eventually("the first notice waits", func() bool {
		_, body := s.call(http.MethodGet, "/v1/mail", nil)
		waiting, _ := body["waiting"].(map[string]any)
		return waiting["stopped"] == 1.0
	})
	s.eventually("the workflow says so", func() bool { return s.status(c).Mail == "stopped" })
	_, body = s.call(http.MethodGet, "/v1/connections/"+c.id+"/reauth", nil)
	assert.Equal(t, "stopped", body["mail"])
	_, body = s.call(http.MethodGet, "/readyz", nil)
	assert.Equal(t, "stopped", body["mail"])
	_, metrics := s.request(http.MethodGet, "/metrics", nil, apiKey)
	assert.Contains(t, string(metrics), `reauth_mail_mode{mode="stopped"} 1`)
	assert.Contains(t, string(metrics), `reauth_mail_waiting{why="stopped"} 1`)
	_, home := s.request(http.MethodGet, "/", nil, apiKey)
	assert.Contains(t, string(home), "Customer mail is stopped")
	s.eventually("the worker's log says so", func() bool { return strings.Contains(s.logs.String(), "Customer mail is stopped: no notice begins") })
	s.eventually("the operator hears of it", func() bool { return len(s.mails(operatorMail)) == 1 })
	assert.Empty(t, s.mails(customerMail))

	mail(map[string]any{"mode": "on"})
	s.eventually("the customer hears", func() bool { return len(s.mails(customerMail)) == 1 })
	s.eventually("the operator hears that it is on", func() bool { return len(s.mails(operatorMail)) == 2 })
	assert.Contains(t, s.mails(operatorMail)[1].Subject, "Customer mail is on again")
	s.eventually("the workflow forgets it", func() bool { return s.status(c).Mail == "" })
}
