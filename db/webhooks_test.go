package db_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRememberWebhook(t *testing.T) {
	s := newStore(t)
	remember := func(provider, id, body string) bool {
		fresh, err := s.RememberWebhook(s.ctx, provider, id, []byte(body))
		require.NoError(t, err)
		return fresh
	}
	seen := func(provider, id string) bool {
		seen, err := s.WebhookSeen(s.ctx, provider, id)
		require.NoError(t, err)
		return seen
	}
	assert.False(t, seen("finch", "1"))
	assert.True(t, remember("finch", "1", `{"email": "anna@example.com"}`))
	assert.False(t, remember("finch", "1", `another`))
	assert.True(t, remember("atto", "1", ``))
	assert.True(t, remember("finch", "2", ``))
	assert.True(t, seen("finch", "1"))
	assert.False(t, seen("atto", "2"))
	assert.Equal(t, 1, s.count(t, "webhooks WHERE body_sha256 = $1", hashOf(`{"email": "anna@example.com"}`)))
	_, err := s.RememberWebhook(s.ctx, "finch", "", nil)
	require.Error(t, err)

	var fresh atomic.Int64
	together(30, func(int) {
		ok, err := s.RememberWebhook(s.ctx, "finch", "3", nil)
		assert.NoError(t, err)
		if ok {
			fresh.Add(1)
		}
	})
	assert.Equal(t, int64(1), fresh.Load())
}
