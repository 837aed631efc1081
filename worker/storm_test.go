package worker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

// breakMany breaks many connections within a minute, each with a contact of its
// own, under the rule that worker processes have when nothing else is said.
func breakMany(t *testing.T, many int) *season {
	t.Helper()
	s := newSeason(t, time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC))
	s.acts.Settings.Storm = db.StormRule{Count: 50, Share: 0.2, Window: 5 * time.Minute, AtMost: 4 * time.Hour}
	s.acts.Settings.StormSettles = 30 * time.Second
	s.book(campaign.Campaign{Name: "default", Steps: []campaign.Step{{Key: "after-0s", Audience: campaign.Primary, Channel: campaign.Mail}}})
	for i := range many {
		id := fmt.Sprintf("c%03d", i)
		s.connect(id, contact(id+"@acme.example", "UTC"))
		s.store(id)
		s.broken(time.Duration(i)*time.Minute/time.Duration(many), reauth.Input{ConnectionID: id, MinutesToExpire: 12 * 60})
	}
	return s
}

// customers lists the mails that went to customers.
func (s *season) customers() (list []letter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.letters {
		if strings.HasSuffix(l.to, "@acme.example") {
			list = append(list, l)
		}
	}
	return list
}

func (s *season) count(outcome reauth.Outcome) (n int) {
	for _, r := range s.results {
		if r.Outcome == outcome {
			n++
		}
	}
	return n
}

// When five hundred connections break in a minute and come back within the
// hour, no customer hears a word, and the operator hears of it once.
func TestStormThatPasses(t *testing.T) {
	const many = 500
	s := breakMany(t, many)
	s.after(35*time.Minute, func() {
		for i := range many {
			s.back(fmt.Sprintf("c%03d", i))
		}
	})
	s.run()
	assert.Empty(t, s.customers(), "no customer hears of it")
	assert.Equal(t, many, s.count(reauth.OutcomeHealed), "every case closes by itself")
	require.Len(t, s.storms, 1)
	assert.Contains(t, s.storms[0].EndedHow, "access was back at 10 of 10 connections")
	operator := s.sent("operator@product.example")
	require.Len(t, operator, 2, "the operator hears of the storm, and what became of it, and nothing of the cases")
	assert.Contains(t, operator[1].root, "began", "in one conversation")
}

// When they stay broken it was the customers after all: an operator lets the
// notices go, which then leave one after the other.
func TestStormThatAnOperatorReleases(t *testing.T) {
	const many = 120
	s := breakMany(t, many)
	s.after(20*time.Minute, func() {
		assert.Empty(t, s.customers())
		for id := range s.watched {
			assert.NoError(t, s.env.SignalWorkflowByID(reauth.StormWorkflowID(id), reauth.SignalReleaseStorm, reauth.ReleaseStorm{By: "Grace"}))
		}
	})
	s.run()
	require.Equal(t, many, len(s.customers()), "everybody is written to, once")
	gap := s.customers()[many-1].at.Sub(s.customers()[0].at)
	assert.Equal(t, time.Duration(many-1)*3*time.Second, gap, "three seconds apart, as the provider can bear to be asked")
	require.Len(t, s.storms, 1)
	assert.Equal(t, "released by Grace", s.storms[0].EndedHow)
	assert.Len(t, s.sent("operator@product.example"), 2+s.count(reauth.OutcomeExpired))
}

// A storm holds nobody for ever.
func TestStormThatLastsTooLong(t *testing.T) {
	const many = 150
	s := breakMany(t, many)
	s.run()
	mails := s.customers()
	require.Equal(t, many, len(mails))
	assert.WithinRange(t, mails[0].at, s.from.Add(3*time.Hour+50*time.Minute), s.from.Add(4*time.Hour+5*time.Minute))
}

// Few connections are no storm, however many of all they are.
func TestNoStorm(t *testing.T) {
	s := breakMany(t, 40)
	s.run()
	assert.Len(t, s.customers(), 40)
	assert.Empty(t, s.storms)
	for _, m := range s.customers() {
		assert.Less(t, m.at.Sub(s.from), 2*time.Minute)
	}
}
