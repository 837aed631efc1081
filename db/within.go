package db

import "context"

type withinKey struct{}

// Within limits what is done in a context to the connections of one application:
// Connection, Connections, CustomerConnections, ConnectionOfToken, Cases and
// CurrentToken find no others, and nothing else locks one. For whoever asks within another application they do not exist.
func Within(ctx context.Context, application string) context.Context {
	return context.WithValue(ctx, withinKey{}, application)
}

// within is the application that a context is limited to; empty means all.
func within(ctx context.Context) string {
	application, _ := ctx.Value(withinKey{}).(string)
	return application
}
