package finchsim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/finch-reauth/reauth/finch"
)

// dataSync is the one type of job that can be started.
const dataSync = "data_sync_all"

// completionStatuses are how a job of the sandbox can be made to end.
var completionStatuses = []string{finch.JobComplete, finch.JobReauthError, finch.JobPermissionsError, finch.JobError}

// job is a data sync. It is over as soon as it has begun.
type job struct {
	ID           string    `json:"id"`
	ConnectionID string    `json:"connection_id"`
	Status       string    `json:"status"`
	EndedAt      time.Time `json:"ended_at"`
}

// Sync syncs the data of a connection and sends the job's event. It ends with
// the given status, or, if that is empty, as the connection's own status has it.
// A sync that meets a lost login leaves the connection stale, and nothing but
// the job says so: no other event is sent.
func (s *Sim) Sync(connectionID, status string) (jobID string, err error) {
	err = s.change(func() error {
		c, err := s.live(connectionID)
		if err != nil {
			return err
		}
		if status != "" && !slices.Contains(completionStatuses, status) {
			return invalid(fmt.Errorf("status must be one of %s", strings.Join(completionStatuses, ", ")))
		}
		jobID = s.sync(c, status, s.cfg.PublicURL)
		return nil
	})
	return jobID, err
}

// sync runs under the lock.
func (s *Sim) sync(c *Connection, status, base string) (jobID string) {
	if status == "" {
		status = finch.JobComplete
		switch c.Status {
		case finch.StatusReauth:
			status = finch.JobReauthError
		case finch.StatusErrorPermissions:
			status = finch.JobPermissionsError
		}
	}
	switch status {
	case finch.JobComplete:
		c.LastSync = s.now()
	case finch.JobReauthError:
		s.mark(c, finch.StatusReauth)
	case finch.JobPermissionsError:
		s.mark(c, finch.StatusErrorPermissions)
	}
	j := &job{ID: uuid.NewString(), ConnectionID: c.ID, Status: status, EndedAt: s.now()}
	s.state.Jobs[j.ID] = j
	s.dirty = true
	if s.cfg.WebhookURL != "" && s.state.Knobs.Webhooks {
		s.enqueue(c, "", "job."+dataSync+".completed", map[string]any{"job_id": j.ID, "job_url": jobURL(base, j.ID)})
	}
	return j.ID
}

func jobURL(base, id string) string { return strings.TrimRight(base, "/") + "/jobs/automated/" + id }

// startJob answers POST /jobs/automated and POST /sandbox/jobs.
func (s *Sim) startJob(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	var in struct {
		Type string `json:"type"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	if in.Type != dataSync {
		return badRequest("type must be " + dataSync)
	}
	id := s.sync(conn, conn.SyncEnds, s.base(c.Request))
	return ok(map[string]any{
		"allowed_refreshes": 1, "remaining_refreshes": 0, "job_id": id, "job_url": jobURL(s.base(c.Request), id),
	})
}

// readJob answers GET /jobs/automated/{job_id}. A stale connection's token
// still reads its jobs: how else would reauth_error be learned.
func (s *Sim) readJob(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	j := s.state.Jobs[c.PathValue("job_id")]
	if j == nil || j.ConnectionID != conn.ID {
		return answer{http.StatusNotFound, apiError{
			StatusCode: http.StatusNotFound, Status: http.StatusNotFound, Code: http.StatusNotFound,
			Name: "not_found_error", FinchCode: "job_not_found", Message: "Job not found",
		}}
	}
	at := j.EndedAt.Format(time.RFC3339)
	return ok(map[string]any{
		"job_id": j.ID, "job_url": jobURL(s.base(c.Request), j.ID), "type": dataSync, "status": j.Status,
		"created_at": at, "started_at": at, "completed_at": at, "scheduled_at": nil, "params": nil,
	})
}

// readJobConfiguration answers GET /sandbox/jobs/configuration.
func (s *Sim) readJobConfiguration(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	return ok([]any{configurationOf(conn)})
}

// configureJobs answers PUT /sandbox/jobs/configuration: how the connection's
// next syncs end.
func (s *Sim) configureJobs(c *apiCall) answer {
	_, conn, refused := s.bearer(c)
	if refused != nil {
		return *refused
	}
	var in struct {
		Type             string `json:"type"`
		CompletionStatus string `json:"completion_status"`
	}
	if problem := c.read(&in); problem != "" {
		return badRequest(problem)
	}
	switch {
	case in.Type != dataSync:
		return badRequest("type must be " + dataSync)
	case !slices.Contains(completionStatuses, in.CompletionStatus):
		return badRequest("completion_status must be one of " + strings.Join(completionStatuses, ", "))
	}
	conn.SyncEnds = in.CompletionStatus
	s.dirty = true
	return ok(configurationOf(conn))
}

func configurationOf(c *Connection) map[string]any {
	ends := c.SyncEnds
	setDefault(&ends, finch.JobComplete)
	return map[string]any{"type": dataSync, "completion_status": ends}
}

// postSync is the control call for Sync.
func (s *Sim) postSync(r *http.Request, in input) (any, error) {
	var body struct {
		Status string `json:"status"`
	}
	if err := in.read(&body); err != nil {
		return nil, err
	}
	id, err := s.Sync(r.PathValue("id"), body.Status)
	return map[string]string{"job_id": id}, err
}
