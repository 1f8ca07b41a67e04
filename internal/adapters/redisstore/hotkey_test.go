package redisstore_test

import (
	"flag"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var hotKeyTimes = flag.Int("hotkey.times", 4, "how often 5,000 takes of one key at once are tested")

// Takes of one key are one group of a batch, whichever callers they come from.
func TestHotKey_ofConcurrentTakesOverTwoNodesExactlyCapacityPass(t *testing.T) {
	const requests, capacity = 5000, 1234
	server := redistest.Start(t)
	nodes := []*redisstore.Store{newStore(t, config(server.Addr)), newStore(t, config(server.Addr))}
	limits := [][]domain.Limit{ // of each, capacity takes pass
		{limit(t, "burst", "1/24h", capacity)},
		{limit(t, "slow", "100/8760h", 2*capacity), limit(t, "burst", "1/24h", capacity)},
	}
	client := plainClient(t, server.Addr)
	for n := range *hotKeyTimes {
		before := scripts(t, calls(t, client, "evalsha"))
		all, name := limits[n%len(limits)], fmt.Sprintf("everybody-%d", n)
		var passed atomic.Int64
		var seen [capacity]atomic.Int64 // how often a take that passed saw so many left
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range requests {
			wg.Go(func() {
				<-start
				r := ports.Take(t.Context(), nodes[i%len(nodes)], take(name, 1, all...))
				if assert.NoError(t, r.Err) && r.Verdict == domain.Allowed {
					passed.Add(1)
					seen[all[len(all)-1].Remaining(r.States[len(all)-1])].Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		require.EqualValues(t, capacity, passed.Load())
		for left := range seen {
			require.EqualValues(t, 1, seen[left].Load(), "each take that passes leaves one less than the one before: %d", left)
		}
		assert.Less(t, scripts(t, calls(t, client, "evalsha"))-before, requests/10)
	}
}

func scripts(t *testing.T, calls string) int {
	t.Helper()
	n, err := strconv.Atoi(calls)
	require.NoError(t, err)
	return n
}
