package web

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

func (f *fakeTemporal) ReleaseStorm(_ context.Context, id, by string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.down:
		return errDown
	case f.noCase:
		return fmt.Errorf("no such workflow: %w", starter.ErrNoStorm)
	}
	f.signals = append(f.signals, "release "+id+" by "+by)
	return nil
}

func (f *fakeTemporal) WatchStorm(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errDown
	}
	f.noCase = false
	f.signals = append(f.signals, "watch "+id)
	return nil
}

// storm makes one that holds the cases of two connections.
func (f *fixture) storm(name string) (id string) {
	f.t.Helper()
	for i := range 2 {
		connection := fmt.Sprintf("%s-%d", name, i)
		_, err := f.db.PutConnection(f.t.Context(), reauth.Connection{ConnectionID: connection, System: name})
		require.NoError(f.t, err)
		f.open(connection, "case-"+connection, reauth.PhaseAwaitingCustomer)
		rule := db.StormRule{Count: 1, Share: 0.9, Window: time.Hour, AtMost: 2 * time.Hour}
		storm, held, err := f.db.Brake(f.t.Context(), "case-"+connection, rule, f.clock())
		require.NoError(f.t, err)
		require.True(f.t, held)
		id = storm.StormID
	}
	return id
}

func TestStorms(t *testing.T) {
	f := newFixture(t)
	var list StormList
	f.api(200, "GET", "/v1/storms", nil, &list)
	require.NotNil(t, list.Storms)
	require.Empty(t, list.Storms)

	began := f.clock()
	first := f.storm("Gusto")
	f.advance(time.Minute)
	second := f.storm("Rippling")
	f.close("case-Gusto-0", reauth.OutcomeHealed, "")
	f.api(200, "GET", "/v1/storms", nil, &list)
	require.Equal(t, []string{second, first}, []string{list.Storms[0].StormID, list.Storms[1].StormID})
	require.Equal(t, StormView{
		StormID: first, Provider: "finch", System: "Gusto", Broken: 1, Connections: 1, Held: 2, Waiting: 1, Restored: 1,
		BeganAt: began, EndsAt: began.Add(2 * time.Hour), WorkflowID: "storm-" + first,
	}, list.Storms[1])

	_, err := f.db.EndStorm(t.Context(), second, "recovered", f.clock())
	require.NoError(t, err)
	f.api(200, "GET", "/v1/storms", nil, &list)
	require.Equal(t, first, list.Storms[0].StormID, "those that rage come first")
	require.Equal(t, "recovered", list.Storms[1].EndedHow)
	require.Equal(t, f.clock(), *list.Storms[1].EndedAt)
	f.api(200, "GET", "/v1/storms?limit=1", nil, &list)
	require.Len(t, list.Storms, 1)
	f.problem(422, "GET", "/v1/storms?limit=0", nil)
}

func TestReleaseStorm(t *testing.T) {
	f := newFixture(t)
	id := f.storm("Gusto")
	url := "/v1/storms/" + id + "/release"
	var storm StormView
	f.api(202, "POST", url, nil, &storm)
	require.Equal(t, id, storm.StormID)
	require.Nil(t, storm.EndedAt)
	require.Equal(t, []string{"release " + id + " by key bootstrap"}, f.temporal.signals)

	// Whatever watched it is gone: then it is watched again, and released.
	f.temporal.signals, f.temporal.noCase = nil, true
	f.api(202, "POST", url, nil, &storm)
	require.Equal(t, []string{"watch " + id, "release " + id + " by key bootstrap"}, f.temporal.signals)

	f.temporal.signals, f.temporal.down = nil, true
	f.problem(503, "POST", url, nil)
	f.temporal.down, f.temporal.noCase = false, true
	_, err := f.db.EndStorm(t.Context(), id, "access was back", f.clock())
	require.NoError(t, err)
	require.Contains(t, f.problem(409, "POST", url, nil).Detail, "The storm is over: access was back.")
	require.Contains(t, f.problem(404, "POST", "/v1/storms/nothing/release", nil).Detail, "There is no such storm")
	require.Empty(t, f.temporal.signals)

	require.NoError(t, f.db.EnsureAPIKey(t.Context(), "reporter", hashAPIKey("key-Hush-reporter"), []string{ScopeReports}))
	reporter := header("Authorization", "Bearer key-Hush-reporter")
	f.problem(403, "POST", url, nil, reporter)
	f.problem(403, "GET", "/v1/storms", nil, reporter)
	f.dbDown()
	f.problem(503, "POST", url, nil)
}

// It may end between the look and the release.
func TestReleaseStormTooLate(t *testing.T) {
	f := newFixture(t)
	id := f.storm("Gusto")
	s := &server{Config: f.config}
	s.Starter = endsIt{f.temporal, func() {
		_, err := f.db.EndStorm(t.Context(), id, "access was back", f.clock())
		require.NoError(t, err)
	}}
	_, err := s.releaseStorm(t.Context(), &stormPath{StormID: id})
	require.ErrorContains(t, err, "The storm is over")
	require.Empty(t, f.temporal.signals, "it is not watched again")
}

// endsIt is a Temporal of which the storm has just gone.
type endsIt struct {
	*fakeTemporal
	end func()
}

func (e endsIt) ReleaseStorm(context.Context, string, string) error {
	e.end()
	return starter.ErrNoStorm
}
