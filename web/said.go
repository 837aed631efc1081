package web

import (
	"context"
	"slices"
	"strings"

	"github.com/finch-reauth/reauth/db"
)

// saidAtMost bounds how much of what a provider has said a timeline shows.
const saidAtMost = 50

// addWebhooks puts into a case's timeline what its provider has said of it. The
// error is a problem.
func (s *server) addWebhooks(ctx context.Context, caseID string, timeline []EventView) ([]EventView, error) {
	said, err := s.DB.WebhooksOf(ctx, caseID, saidAtMost)
	if err != nil {
		return nil, s.databaseDown(ctx, "reading what the provider has said", err)
	}
	for _, w := range said {
		timeline = append(timeline, EventView{At: w.ReceivedAt, Kind: "webhook", Detail: wordsOf(w)})
	}
	slices.SortStableFunc(timeline, func(a, b EventView) int { return a.At.Compare(b.At) })
	return timeline, nil
}

// wordsOf is what an event said and did, for people.
func wordsOf(w db.Webhook) string {
	text := "Finch's webhook said: "
	switch {
	case w.Status != "":
		text += w.Status
	default:
		text += w.Type
	}
	if w.EntityID != "" {
		text += ", of the entity " + w.EntityID
	}
	switch {
	case w.Result == "held":
		text += ". The case hears of it when the customer, who may be in Connect, has had time to come back."
	case w.Result == "restored", w.Result == "looked":
		text += ". The case was told to look."
	case w.JobID != "" && w.Result == "reported":
		text += ". The job that it names had lost its access."
	}
	return strings.TrimSuffix(text, ".") + "."
}
