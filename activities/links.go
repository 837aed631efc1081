package activities

import "context"

// Links returns the function that makes a contact's own durable URL. It is no
// method of Activities: every exported one is an activity, and the secret of a
// link must not enter Temporal.
func Links(a *Activities) func(ctx context.Context, connectionID, contactID string) (string, error) {
	return a.link
}
