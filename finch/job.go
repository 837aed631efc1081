package finch

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Statuses of a job. The set is open: what Finch adds is passed through.
const (
	JobPending          = "pending"
	JobInProgress       = "in_progress"
	JobComplete         = "complete"
	JobError            = "error"
	JobReauthError      = "reauth_error"      // the customer must log in again
	JobPermissionsError = "permissions_error" // the customer's account lacks permissions
)

// Job is something that Finch does with a connection in the background, as
// reading its data anew.
type Job struct {
	ID          string    `json:"job_id"`
	Type        string    `json:"type"`
	Status      string    `json:"status"`
	CompletedAt Timestamp `json:"completed_at,omitzero"` // zero while it is not over
}

// Running reports whether the job is not over yet.
func (j Job) Running() bool { return j.Status == JobPending || j.Status == JobInProgress }

// Job asks what became of an automated job of the token's connection.
func (c *Client) Job(ctx context.Context, accessToken, jobID string) (Job, error) {
	q := call{method: http.MethodGet, path: "/jobs/automated/" + url.PathEscape(jobID), auth: bearerAuth, token: accessToken}
	if strings.Trim(jobID, ".") == "" {
		return Job{}, c.unanswered(q, errors.New("the job has no ID"), false)
	}
	var job Job
	if _, err := c.do(ctx, q, &job); err != nil {
		return Job{}, err
	}
	if job.Status == "" {
		return Job{}, c.unanswered(q, errors.New("the answer has no status"), true)
	}
	return job, nil
}
