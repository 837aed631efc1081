package starter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/finch-reauth/reauth/reauth"
)

const (
	// settles is how long Temporal is given to list what has just happened.
	settles = time.Second
	// listAtOnce bounds the workflow IDs of one question to Temporal.
	listAtOnce = 50
)

// ErrStillOpen: a workflow is open, and what is open is never deleted.
var ErrStillOpen = errors.New("a workflow is still open")

// WithNamespace names the client's namespace, which DeleteHistories needs where
// it is not Temporal's default. An empty name changes nothing.
func WithNamespace(name string) Option {
	return func(s *Starter) { s.namespace = cmp.Or(name, s.namespace) }
}

// Histories are those of the workflows about a connection that may hold its
// tokens and codes, sealed: its cases, and the redeems of its codes.
type Histories struct {
	ConnectionID string
	// CodeHashes are those of its codes.
	CodeHashes []string
}

// workflowIDs are the IDs that the workflows have: a new kind of workflow that
// may hold a secret of a connection belongs here.
func (h Histories) workflowIDs() []string {
	ids := []string{reauth.WorkflowID(h.ConnectionID)}
	for _, hash := range h.CodeHashes {
		ids = append(ids, reauth.RedeemWorkflowIDOf(hash))
	}
	return ids
}

func (h Histories) check() error {
	if err := reauth.CheckConnectionID(h.ConnectionID); err != nil {
		return err
	}
	if i := slices.IndexFunc(h.CodeHashes, func(hash string) bool { return !reauth.IsHash(hash) }); i >= 0 {
		return fmt.Errorf("code hash %d is malformed", i)
	}
	return nil
}

// OpenWorkflow returns the ID of a workflow of them that is open; empty if none is.
func (s *Starter) OpenWorkflow(ctx context.Context, h Histories) (workflowID string, err error) {
	if err := h.check(); err != nil {
		return "", fmt.Errorf("look for open workflows: %w: %w", ErrRefused, err)
	}
	for _, id := range h.workflowIDs() {
		run, open, err := s.describe(ctx, &commonpb.WorkflowExecution{WorkflowId: id})
		if err != nil {
			return "", fmt.Errorf("look for open workflows: %w", err)
		}
		if run != nil && open {
			return id, nil
		}
	}
	return "", nil
}

// CountHistories counts the closed runs that DeleteHistories would delete, as far
// as Temporal lists them.
func (s *Starter) CountHistories(ctx context.Context, h Histories) (n int, err error) {
	if err := h.check(); err != nil {
		return 0, fmt.Errorf("count histories: %w: %w", ErrRefused, err)
	}
	closed := map[string]bool{} // by run ID: one may be visited twice
	err = s.eachRun(ctx, h, func(run *commonpb.WorkflowExecution) error {
		found, open, err := s.describe(ctx, run)
		if found != nil && !open {
			closed[found.GetRunId()] = true
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count histories: %w", err)
	}
	return len(closed), nil
}

// DeleteHistories deletes the closed runs at Temporal, with all that their
// histories hold, and waits until they are gone. If one is open the error wraps
// ErrStillOpen, and what is closed is gone. It may be repeated.
func (s *Starter) DeleteHistories(ctx context.Context, h Histories) (deleted int, err error) {
	const doing = "delete histories"
	if err := h.check(); err != nil {
		return 0, fmt.Errorf("%s: %w: %w", doing, ErrRefused, err)
	}
	asked := map[string]bool{} // by run ID
	var open string
	for pass := 0; ; pass++ {
		left := 0
		open = ""
		err := s.eachRun(ctx, h, func(run *commonpb.WorkflowExecution) error {
			found, isOpen, err := s.describe(ctx, run)
			switch {
			case err != nil || found == nil:
				return err
			case isOpen:
				open = found.GetWorkflowId()
				return nil
			}
			left++
			if asked[found.GetRunId()] {
				return nil // Temporal is at it
			}
			// By its run ID: a run that is closed stays closed, and deleting an open
			// one would end it.
			_, err = s.client.WorkflowService().DeleteWorkflowExecution(ctx, &workflowservice.DeleteWorkflowExecutionRequest{Namespace: s.namespace, WorkflowExecution: found})
			if err == nil || isNotFound(err) {
				asked[found.GetRunId()] = true
				return nil
			}
			return err
		})
		if err != nil {
			return len(asked), fmt.Errorf("%s: %w", doing, err)
		}
		// What has closed a moment ago may be listed a moment later.
		if left == 0 && pass > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return len(asked), fmt.Errorf("%s: %w", doing, ctx.Err())
		case <-time.After(settles):
		}
	}
	if open != "" {
		return len(asked), fmt.Errorf("%s: %w: %s", doing, ErrStillOpen, open)
	}
	return len(asked), nil
}

// eachRun visits every run that is listed, and the newest of each workflow ID,
// which may not be listed yet.
func (s *Starter) eachRun(ctx context.Context, h Histories, visit func(*commonpb.WorkflowExecution) error) error {
	queries := []string{fmt.Sprintf("%s = %s AND WorkflowType = %s", reauth.SearchAttributeConnectionID, strconv.Quote(h.ConnectionID), strconv.Quote(reauth.WorkflowType))}
	for ids := range slices.Chunk(h.workflowIDs(), listAtOnce) {
		for _, id := range ids {
			if err := visit(&commonpb.WorkflowExecution{WorkflowId: id}); err != nil {
				return err
			}
		}
		quoted := make([]string, len(ids))
		for i, id := range ids {
			quoted[i] = strconv.Quote(id)
		}
		queries = append(queries, "WorkflowId IN ("+strings.Join(quoted, ", ")+")")
	}
	for _, query := range queries {
		var page []byte
		for {
			list, err := s.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: page})
			if err != nil {
				return err
			}
			for _, run := range list.GetExecutions() {
				if err := visit(run.GetExecution()); err != nil {
					return err
				}
			}
			if page = list.GetNextPageToken(); len(page) == 0 {
				break
			}
		}
	}
	return nil
}

// describe says whether a run, or the newest of a workflow ID, is there and open.
func (s *Starter) describe(ctx context.Context, of *commonpb.WorkflowExecution) (run *commonpb.WorkflowExecution, open bool, err error) {
	described, err := s.client.DescribeWorkflowExecution(ctx, of.GetWorkflowId(), of.GetRunId())
	switch {
	case isNotFound(err):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	info := described.GetWorkflowExecutionInfo()
	return info.GetExecution(), info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}
