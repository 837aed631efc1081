package finchsim_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
)

// A sync that meets a lost login says so in its job, and nowhere else.
func TestSync(t *testing.T) {
	r := receive(t)
	b := start(t, webhookConfig(r))
	conn, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)

	id, err := b.Sync(conn.ID, "")
	require.NoError(t, err)
	job, err := b.Client.Job(t.Context(), token, id)
	require.NoError(t, err)
	assert.Equal(t, finch.JobComplete, job.Status)
	assert.Equal(t, "data_sync_all", job.Type)
	assert.False(t, job.CompletedAt.IsZero())

	for status, introspected := range map[string]string{
		finch.JobError: finch.StatusConnected, finch.JobReauthError: finch.StatusReauth, finch.JobPermissionsError: finch.StatusErrorPermissions,
	} {
		require.Equal(t, http.StatusOK, b.control(t, "PUT", "/sim/knobs", `{"webhooks":false}`, nil))
		require.NoError(t, b.Restore(conn.ID))
		require.Equal(t, http.StatusOK, b.control(t, "PUT", "/sim/knobs", `{"webhooks":true}`, nil))
		var started struct {
			ID string `json:"job_id"`
		}
		require.Equal(t, http.StatusOK, b.control(t, "POST", "/sim/connections/"+conn.ID+"/sync", `{"status":"`+status+`"}`, &started))
		job, err = b.Client.Job(t.Context(), token, started.ID)
		require.NoError(t, err)
		assert.Equal(t, status, job.Status)
		answer, err := b.Client.Introspect(t.Context(), token)
		require.NoError(t, err)
		assert.Equal(t, introspected, answer.Status())
		again, err := b.Sync(conn.ID, "")
		require.NoError(t, err)
		assert.NotEqual(t, started.ID, again)
	}
	for _, e := range r.wait(t, 7) {
		assert.Equal(t, "job.data_sync_all.completed", e.Type)
		assert.Equal(t, conn.ID, e.ConnectionID)
		assert.NotEmpty(t, e.JobID)
	}

	_, other, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	_, err = b.Client.Job(t.Context(), other, id)
	e, is := errors.AsType[*finch.Error](err)
	require.True(t, is)
	assert.Equal(t, http.StatusNotFound, e.Status, "another connection's job")
	_, err = b.Sync(conn.ID, "odd")
	require.ErrorIs(t, err, finchsim.ErrInvalid)
	_, err = b.Sync("nobody", "")
	require.ErrorIs(t, err, finchsim.ErrNotFound)
}

// The sandbox's own calls choose how syncs end.
func TestSandboxJobs(t *testing.T) {
	b := start(t, config())
	_, token, err := b.AddConnection(finchsim.NewConnection{})
	require.NoError(t, err)
	const configuration = "/sandbox/jobs/configuration"
	status, _, text := b.bearer(t, "GET", configuration, "", token)
	require.Equal(t, 200, status)
	assert.JSONEq(t, `[{"type":"data_sync_all","completion_status":"complete"}]`, text)
	status, _, text = b.bearer(t, "PUT", configuration, `{"type":"data_sync_all","completion_status":"reauth_error"}`, token)
	require.Equal(t, 200, status)
	assert.JSONEq(t, `{"type":"data_sync_all","completion_status":"reauth_error"}`, text)
	for _, path := range []string{"/sandbox/jobs", "/jobs/automated"} {
		status, _, text := b.bearer(t, "POST", path, `{"type":"data_sync_all"}`, token)
		require.Equal(t, 200, status)
		var started struct {
			ID string `json:"job_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &started))
		job, err := b.Client.Job(t.Context(), token, started.ID)
		require.NoError(t, err)
		assert.Equal(t, finch.JobReauthError, job.Status)
	}
	for call, wanted := range map[[4]string]int{
		{"PUT", configuration, token, `{"type":"x","completion_status":"complete"}`}:          400,
		{"PUT", configuration, token, `{"type":"data_sync_all","completion_status":"happy"}`}: 400,
		{"PUT", configuration, token, ``}:                                                     400,
		{"PUT", configuration, "odd", `{}`}:                                                   401,
		{"GET", configuration, "odd", ``}:                                                     401,
		{"POST", "/sandbox/jobs", token, `{"type":"x"}`}:                                      400,
		{"POST", "/sandbox/jobs", token, ``}:                                                  400,
		{"POST", "/sandbox/jobs", "odd", `{"type":"data_sync_all"}`}:                          401,
		{"GET", "/jobs/automated/x", "odd", ``}:                                               401,
	} {
		status, _, _ := b.bearer(t, call[0], call[1], call[3], call[2])
		assert.Equal(t, wanted, status, "%v", call)
	}
}
