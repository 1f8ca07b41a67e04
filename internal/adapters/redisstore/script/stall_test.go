package script_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A server that stalls between reading the clock and setting a key's expiry finds that the time for it has passed, and
// deletes the key: the next group of the same run, which is decided at the same instant, would find a full bucket.
func TestScript_aStallForgetsNoBucketWithinARun(t *testing.T) {
	server := redistest.Start(t)
	c := plainClient(t, server.Addr)
	now, err := c.Time(t.Context()).Result()
	require.NoError(t, err)
	before := domain.InstantOf(now.Add(-200 * time.Millisecond))
	s := store{script.New(withClock(fmt.Sprintf("local now_us = %d", before))), c}

	l := limit(t, "burst", "1000/s", 10) // full again after a millisecond
	results := make([]ports.TakeResult, 3)
	s.TakeMany(t.Context(), []ports.TakeRequest{take("a", 1, l), take("a", 1, l), take("a", 1, l)}, results)
	for i, left := range []domain.Tokens{9, 8, 7} {
		require.NoError(t, results[i].Err)
		assert.Equal(t, left, l.Remaining(results[i].States[0]))
	}
}
