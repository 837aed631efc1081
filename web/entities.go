package web

import (
	"fmt"
	"strings"

	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/reauth"
)

// entitiesOf are the companies of an introspected token's connection.
func entitiesOf(said finch.Introspection) reauth.Entities {
	var all reauth.Entities
	for _, e := range said.Entities {
		all = append(all, reauth.Entity{EntityID: e.ID, Name: e.Name, Status: e.Status})
	}
	return all
}

// restOf says, in a sentence, which companies still work while others do not.
func restOf(all reauth.Entities) string {
	if !all.Partly() {
		return ""
	}
	return " " + fewNames(all.Working()) + " still " + worksOf(all) + "."
}

func worksOf(all reauth.Entities) string {
	if len(all.Working()) == 1 {
		return "works"
	}
	return "work"
}

// entityFacts list the companies, where a connection has several: those that need
// the reader, and those that work.
func entityFacts(all reauth.Entities, works string) []fact {
	stale, working := all.Stale(), all.Working()
	if len(stale) == 0 || len(all) < 2 {
		return nil
	}
	facts := []fact{{"Needs you", allNames(stale)}}
	if len(working) > 0 {
		facts = append(facts, fact{works, allNames(working)})
	}
	return facts
}

// allNames joins names, as many as a page can bear.
func allNames(names []string) string {
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// fewNames names as many as a sentence can bear.
func fewNames(names []string) string {
	const most = 3
	switch n := len(names); {
	case n > most:
		return strings.Join(names[:most-1], ", ") + fmt.Sprintf(" and %d more", n-most+1)
	case n > 1:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
