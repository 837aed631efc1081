package reauth

import "time"

// Statuses of an entity that mean something to us. The set is open: what else a
// provider says is passed through.
const (
	EntityConnected = "connected"
	EntityReauth    = "reauth"       // its customer must log in again
	EntityGone      = "disconnected" // it is not part of the connection any more
)

// Entity is one company of a connection that has several.
type Entity struct {
	EntityID string `json:"entity_id"`
	Name     string `json:"name"`
	// Status is the provider's own word, as "connected", "reauth" or
	// "disconnected".
	Status string `json:"status"`
	// Since is when it was first seen in this status, SeenAt when last.
	Since  time.Time `json:"since"`
	SeenAt time.Time `json:"seen_at"`
}

// Gone reports whether the entity is not part of the connection any more.
func (e Entity) Gone() bool { return e.Status == EntityGone }

// Called is the entity's name, or its ID where it has none.
func (e Entity) Called() string {
	if e.Name != "" {
		return e.Name
	}
	return e.EntityID
}

// Entities are those of one connection.
type Entities []Entity

// Stale names those whose customer must log in again.
func (all Entities) Stale() []string { return all.in(EntityReauth) }

// Working names those that still serve data.
func (all Entities) Working() []string { return all.in(EntityConnected) }

// Partly reports whether some want a login while others still serve data.
func (all Entities) Partly() bool { return len(all.Stale()) > 0 && len(all.Working()) > 0 }

func (all Entities) in(status string) []string {
	var names []string
	for _, e := range all {
		if e.Status == status {
			names = append(names, e.Called())
		}
	}
	return names
}

// EntityCount counts the entities of a connection. It names none, so it may be
// shown in plain text.
type EntityCount struct {
	// Total are those that are part of the connection, Stale those of them
	// whose customer must log in again, Gone those that were part of it.
	Total int `json:"total"`
	Stale int `json:"stale"`
	Gone  int `json:"gone,omitempty"`
}

// Count counts them.
func (all Entities) Count() EntityCount {
	count := EntityCount{Stale: len(all.in(EntityReauth)), Gone: len(all.in(EntityGone))}
	count.Total = len(all) - count.Gone
	return count
}
