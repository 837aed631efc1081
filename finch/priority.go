package finch

import "context"

// Priority says how urgent a call is, for whoever shares out what Finch allows:
// where two calls want the last one of a minute, the more urgent gets it.
type Priority int

// The priorities, the most urgent first.
const (
	// PriorityVerify: a token has just been minted, and a person waits for the
	// page. It is what a call has when nothing else is said.
	PriorityVerify Priority = iota
	// PriorityConfirm: a loss was reported.
	PriorityConfirm
	// PriorityLook: before a notice, the connection is looked at once more.
	PriorityLook
	// PrioritySweep: a connection is looked at that nobody has complained of.
	PrioritySweep
	// PriorityImport: a token that was imported is asked whose it is.
	PriorityImport
)

func (p Priority) String() string {
	switch p {
	case PriorityVerify:
		return "verify"
	case PriorityConfirm:
		return "confirm"
	case PriorityLook:
		return "look"
	case PrioritySweep:
		return "sweep"
	case PriorityImport:
		return "import"
	}
	return "unknown"
}

type priorityKey struct{}

// WithPriority returns a context whose calls are as urgent as p.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityOf returns the priority of a context's calls.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey{}).(Priority)
	return p
}
