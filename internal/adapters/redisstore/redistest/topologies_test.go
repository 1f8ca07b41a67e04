package redistest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

func TestStartCluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	require.Len(t, c.Nodes, 6)
	slot := c.Slot("{a}")
	from := c.Owner(slot)
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	require.NoError(t, c.Client(from).Set(t.Context(), "{a}1", "x", 0).Err())
	require.ErrorContains(t, c.Client(to).Get(t.Context(), "{a}1").Err(), "MOVED")

	c.MoveSlot(slot, to)
	assert.Equal(t, to, c.Owner(slot))
	assert.Equal(t, "x", c.Client(to).Get(t.Context(), "{a}1").Val())
	c.AwaitWhole()

	promoted := c.Failover(to)
	assert.Equal(t, promoted, c.Owner(slot))
	assert.Equal(t, "x", c.Client(promoted).Get(t.Context(), "{a}1").Val())
}

func TestStartSentinel(t *testing.T) {
	s := redistest.StartSentinel(t)
	first := s.Primary()
	assert.Equal(t, s.Servers[0], first)
	next := s.Failover()
	assert.Equal(t, s.Servers[1], next)
	s.AwaitWhole()
	assert.Eventually(t, func() bool { // on a busy machine the sentinels may change their minds
		return s.Client(s.Primary()).Set(t.Context(), "k", "v", 0).Err() == nil
	}, 20*time.Second, 100*time.Millisecond)
}
