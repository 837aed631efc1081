package db_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

func TestAPIKeys(t *testing.T) {
	s := newStore(t)
	s.SetNow(func() time.Time { return t0 })
	one, two := hashOf("one"), hashOf("two")
	_, err := s.APIKeyByHash(s.ctx, one)
	require.ErrorIs(t, err, db.ErrNotFound)
	require.NoError(t, s.EnsureAPIKey(s.ctx, "bootstrap", one, nil))
	require.NoError(t, s.EnsureAPIKey(s.ctx, "bootstrap", one, []string{"admin", "tokens:read"}))
	require.NoError(t, s.EnsureAPIKey(s.ctx, "other", two, nil))
	key, err := s.APIKeyByHash(s.ctx, one)
	require.NoError(t, err)
	assert.Equal(t, db.APIKey{ID: key.ID, Name: "bootstrap", Scopes: []string{"admin", "tokens:read"}, CreatedAt: t0}, key)

	// A use is noted, to the minute.
	for _, use := range []struct{ at, noted time.Duration }{
		{time.Hour, time.Hour}, {time.Hour + 59*time.Second, time.Hour}, {time.Minute, time.Hour}, {2 * time.Hour, 2 * time.Hour},
	} {
		require.NoError(t, s.TouchAPIKey(s.ctx, key.ID, t0.Add(use.at)))
		touched, err := s.APIKeyByHash(s.ctx, one)
		require.NoError(t, err)
		assert.Equal(t, t0.Add(use.noted), *touched.LastUsedAt)
	}

	// A new value under the name replaces the old, for good.
	require.NoError(t, s.EnsureAPIKey(s.ctx, "bootstrap", hashOf("new"), nil))
	key, err = s.APIKeyByHash(s.ctx, one)
	require.NoError(t, err)
	require.NotNil(t, key.RevokedAt)
	require.ErrorIs(t, s.EnsureAPIKey(s.ctx, "bootstrap", one, nil), db.ErrRevoked)
	key, err = s.APIKeyByHash(s.ctx, hashOf("new"))
	require.NoError(t, err)
	assert.Nil(t, key.RevokedAt, "a refusal changes nothing")

	require.NoError(t, s.RevokeAPIKey(s.ctx, key.ID))
	s.SetNow(func() time.Time { return t0.Add(time.Hour) })
	require.NoError(t, s.RevokeAPIKey(s.ctx, key.ID))
	key, err = s.APIKeyByHash(s.ctx, hashOf("new"))
	require.NoError(t, err)
	assert.Equal(t, t0, *key.RevokedAt)
	require.ErrorIs(t, s.RevokeAPIKey(s.ctx, 12345), db.ErrNotFound)

	list, err := s.APIKeys(s.ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	assert.Equal(t, key, list[0])
	assert.Equal(t, "other", list[1].Name)
	require.Error(t, s.EnsureAPIKey(s.ctx, "short", []byte("no hash"), nil))
}

func TestEnsureAPIKeyAtOnce(t *testing.T) {
	s := newStore(t)
	var refused atomic.Int64
	together(20, func(i int) {
		if err := s.EnsureAPIKey(s.ctx, "bootstrap", hash32(byte(i%2)), nil); err != nil {
			assert.ErrorIs(t, err, db.ErrRevoked)
			refused.Add(1)
		}
	})
	assert.Equal(t, 1, s.count(t, "api_keys WHERE revoked_at IS NULL"))
	assert.Equal(t, 2, s.count(t, "api_keys"))
	assert.Less(t, refused.Load(), int64(20))
}
