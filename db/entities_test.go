package db_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// entities makes entities from pairs of name and status. The first word of the
// name makes the ID.
func entities(pairs ...string) reauth.Entities {
	var all reauth.Entities
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, reauth.Entity{EntityID: "id-" + strings.Fields(pairs[i])[0], Name: pairs[i], Status: pairs[i+1]})
	}
	return all
}

// entities shows the stored entities of a connection in short.
func (s store) entities(t testing.TB, id string) []string {
	t.Helper()
	c, err := s.Connection(s.ctx, id)
	require.NoError(t, err)
	var all []string
	for _, e := range c.Entities {
		all = append(all, fmt.Sprintf("%s %s since %s, seen %s", e.Name, e.Status, e.Since.Sub(t0), e.SeenAt.Sub(t0)))
	}
	return all
}

// lines lists what the timeline of a case says of entities.
func (s store) lines(t testing.TB, caseID string) []string {
	t.Helper()
	events, err := s.Timeline(s.ctx, caseID)
	require.NoError(t, err)
	var lines []string
	for _, e := range events {
		if e.Kind == db.EventEntities || e.Kind == db.EventEntityGone {
			lines = append(lines, e.Detail)
		}
	}
	return lines
}

func TestEntities(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	see := func(after time.Duration, pairs ...string) {
		t.Helper()
		require.NoError(t, s.SeeEntities(s.ctx, "c1", entities(pairs...), t0.Add(after)))
	}
	see(0, "East", "connected", "West", "connected", "North", "connected")
	see(time.Minute)
	assert.Equal(t, []string{"East connected since 0s, seen 0s", "West connected since 0s, seen 0s", "North connected since 0s, seen 0s"}, s.entities(t, "c1"),
		"no entities at all say nothing")

	s.open(t, "c1", "k1", t0.Add(time.Hour))
	see(2*time.Hour, "East", "reauth", "West", "reauth", "North", "connected")
	see(3*time.Hour, "East", "reauth", "West", "reauth", "North", "connected")
	see(150*time.Minute, "East", "connected", "West", "connected", "North", "connected")
	assert.Equal(t, []string{"East reauth since 2h0m0s, seen 3h0m0s", "West reauth since 2h0m0s, seen 3h0m0s", "North connected since 0s, seen 3h0m0s"}, s.entities(t, "c1"),
		"what was said later stands")
	see(4*time.Hour, "West", "reauth", "North", "connected", "South <s@x.example>", "connected")
	assert.Contains(t, fmt.Sprint(s.entities(t, "c1")), "South <[address]> connected", "addresses are kept in contacts alone")
	require.NoError(t, s.SetEntityStatus(s.ctx, "c1", "id-North", "disconnected", t0.Add(5*time.Hour)))
	require.NoError(t, s.SetEntityStatus(s.ctx, "c1", "id-Nowhere", "reauth", t0.Add(5*time.Hour)))
	see(6*time.Hour, "West", "connected", "North", "disconnected", "South", "connected")
	assert.Equal(t, []string{
		"2 of 3 entities want a new login: East, West.",
		"East is not part of the connection any more.",
		"1 of 3 entities wants a new login: West.",
		"North is not part of the connection any more.",
		"None of 2 entities wants a new login any more.",
	}, s.lines(t, "k1"))

	gone, err := s.UntoldGone(s.ctx, "c1")
	require.NoError(t, err)
	require.Len(t, gone, 2)
	require.NoError(t, s.ToldGone(s.ctx, "c1", gone[:1], t0))
	gone, err = s.UntoldGone(s.ctx, "c1")
	require.NoError(t, err)
	require.Len(t, gone, 1)
	require.NoError(t, s.ToldGone(s.ctx, "c1", gone, t0))
	see(7*time.Hour, "West", "connected", "South", "connected")
	gone, err = s.UntoldGone(s.ctx, "c1")
	require.NoError(t, err)
	require.Empty(t, gone, "the operator is told once")
	see(8*time.Hour, "West", "connected", "South", "connected", "North", "connected")
	see(9*time.Hour, "West", "connected", "South", "connected")
	gone, err = s.UntoldGone(s.ctx, "c1")
	require.NoError(t, err)
	require.Len(t, gone, 1, "one that was back is another matter")

	// The connection as a whole wants the login: those that are left do.
	s.end(t, "k1", reauth.OutcomeHealed, t0.Add(9*time.Hour))
	s.open(t, "c1", "k2", t0.Add(10*time.Hour))
	require.NoError(t, s.SetEntityStatus(s.ctx, "c1", "", "reauth", t0.Add(10*time.Hour)))
	assert.Equal(t, []string{"2 of 2 entities want a new login: West, South."}, s.lines(t, "k2"))
	s.end(t, "k2", reauth.OutcomeExpired, t0.Add(11*time.Hour))
	s.open(t, "c1", "k3", t0.Add(12*time.Hour))
	require.NoError(t, s.SetEntityStatus(s.ctx, "c1", "", "reauth", t0.Add(12*time.Hour)))
	assert.Equal(t, []string{"2 of 2 entities want a new login: West, South."}, s.lines(t, "k3"), "every case says it")

	_, err = s.RemoveConnection(s.ctx, "c1")
	require.NoError(t, err)
	see(13*time.Hour, "West", "connected")
	assert.Zero(t, s.count(t, "entities"), "a removed connection's are forgotten, and stay so")
	require.ErrorIs(t, s.SeeEntities(s.ctx, "c9", entities("East", "reauth"), t0), db.ErrNotFound)
}

// One company alone is the connection: there is nothing to tell apart.
func TestASingleEntityIsNoNews(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1")
	s.open(t, "c1", "k1", t0)
	require.NoError(t, s.SeeEntities(s.ctx, "c1", entities("East", "reauth"), t0))
	assert.Empty(t, s.lines(t, "k1"))
}
