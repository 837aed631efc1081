package starter

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
)

func TestTheCoalescerForgetsWhatIsOver(t *testing.T) {
	var c coalescer
	c.init(time.Minute)
	now := time.Now()
	kept := func() (n int) {
		for i := range c.shards {
			n += len(c.shards[i].reports)
		}
		return n
	}
	pending := c.noticed(reauth.Input{ConnectionID: "pending"}, now)
	for i := range 10_000 {
		c.made(c.noticed(reauth.Input{ConnectionID: fmt.Sprint("con-", i)}, now), now)
	}
	require.Equal(t, 10_001, kept())
	now = now.Add(time.Hour)
	for i := range 1000 { // enough to come by every shard
		c.made(c.noticed(reauth.Input{ConnectionID: fmt.Sprint("new-", i)}, now), now)
	}
	require.Equal(t, 1001, kept(), "what is over is forgotten, what is under way is not")
	require.Nil(t, c.noticed(reauth.Input{ConnectionID: "pending"}, now))
	c.dropped(pending)
	require.NotNil(t, c.noticed(reauth.Input{ConnectionID: "pending"}, now))
}

func TestTheCoalescerMakesOneReportOfManyAtOnce(t *testing.T) {
	var c coalescer
	c.init(time.Minute)
	now := time.Now()
	for round := range 3 {
		var made atomic.Int32
		var callers sync.WaitGroup
		for range 1000 {
			callers.Go(func() {
				if r := c.noticed(reauth.Input{ConnectionID: "con-1"}, now); r != nil {
					made.Add(1)
					c.newest(r)
					c.made(r, now)
				}
			})
		}
		callers.Wait()
		require.EqualValues(t, 1, made.Load(), "round %d", round)
		now = now.Add(time.Minute)
	}
}
