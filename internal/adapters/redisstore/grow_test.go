package redisstore_test

import (
	"flag"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// These tests measure what a shard more costs, and a node more of a cluster. Their output (-v) is in docs/operating.md, that of
// -grow.weight=1.
var growWeight = flag.Float64("grow.weight", 0.1, "how much of the slots of another node a new node of a cluster gets")

const (
	growingClients = 3000
	burstTokens    = 10 // of each client's bucket, all taken
	dailyTokens    = 100
	dailyUsed      = 60
	heldPermits    = 2 // all taken
)

// growth is what clients can take again after the store has grown.
type growth struct {
	moved   int // clients
	burst   domain.Tokens
	daily   domain.Tokens
	permits domain.Tokens
}

func (g growth) String() string {
	percent := func(n, of int) float64 { return 100 * float64(n) / float64(of) }
	return fmt.Sprintf("%d of %d clients moved (%.1f %%); forgotten: %d of %d bucket tokens, %d of %d that quotas had counted (%.1f %%), %d of %d permits",
		g.moved, growingClients, percent(g.moved, growingClients), g.burst, growingClients*burstTokens,
		g.daily, growingClients*dailyUsed, percent(int(g.daily), growingClients*dailyUsed), g.permits, growingClients*heldPermits)
}

func growingLimits(t *testing.T) []domain.Limit {
	t.Helper()
	counted, err := daily(t, dailyTokens).WithCost(dailyUsed / 2)
	require.NoError(t, err)
	return []domain.Limit{limit(t, "burst", "1/1000h", burstTokens), counted, concurrency(t, "held", heldPermits, time.Hour)}
}

func growingClient(i int) string { return "growing-" + strconv.Itoa(i) }

// spendAll takes what each client has, in two takes.
func spendAll(t *testing.T, s ports.BucketStore) {
	t.Helper()
	limits := growingLimits(t)
	var reqs []ports.TakeRequest
	for i := range growingClients {
		for _, id := range []string{"first", "second"} {
			reqs = append(reqs, withPermit(id, take(growingClient(i), burstTokens/2, limits...)))
		}
	}
	for _, r := range takeMany(t, s, reqs) {
		require.Equal(t, domain.Allowed, r.Verdict)
	}
}

// takeMany sends requests that must be decided, some hundred at once.
func takeMany(t *testing.T, s ports.BucketStore, reqs []ports.TakeRequest) []ports.TakeResult {
	t.Helper()
	results := make([]ports.TakeResult, len(reqs))
	for from := 0; from < len(reqs); from += 200 {
		to := min(from+200, len(reqs))
		s.TakeMany(t.Context(), reqs[from:to], results[from:to])
	}
	for _, r := range results {
		require.NoError(t, r.Err)
	}
	return results
}

// grown is what clients can take again. A client that has not moved must have nothing more than before.
func grown(t *testing.T, s ports.BucketStore, moved func(client string) bool) (g growth) {
	t.Helper()
	limits := growingLimits(t)
	var reqs []ports.TakeRequest
	for i := range growingClients {
		req := take(growingClient(i), 0, limits...)
		req.Op = domain.OpPeek
		reqs = append(reqs, req)
	}
	for i, r := range takeMany(t, s, reqs) {
		more := growth{
			burst: limits[0].Remaining(r.States[0]), daily: dailyUsed - limits[1].Quota().Used(r.States[1]),
			permits: limits[2].Remaining(r.States[2]),
		}
		if moved(growingClient(i)) {
			g.moved++
		} else {
			require.Equal(t, growth{}, more, "client %d", i)
		}
		g.burst, g.daily, g.permits = g.burst+more.burst, g.daily+more.daily, g.permits+more.permits
	}
	return g
}

// A client that moves to a new shard has a full bucket there, an unused quota, and no permits. The others lose nothing.
func TestGrow_byAShard(t *testing.T) {
	for _, n := range []int{2, 3, 8} {
		t.Run(fmt.Sprintf("from %d", n), func(t *testing.T) {
			_, addrs := redistest.StartN(t, n+1)
			for i := range addrs {
				addrs[i] = fmt.Sprintf("s%d=%s", i, addrs[i]) // names keep the same clients on the same shards in each run
			}
			before, after := newStore(t, config(addrs[:n]...)), newStore(t, config(addrs...))
			spendAll(t, before)
			g := grown(t, after, func(client string) bool {
				return shardOf(before, client) != shardOf(after, client)
			})
			t.Logf("%d to %d shards: %v", n, n+1, g)
			assert.InDelta(t, 1/float64(n+1), float64(g.moved)/growingClients, 0.03)
			moved := domain.Tokens(g.moved)
			assert.Equal(t, growth{g.moved, burstTokens * moved, dailyUsed * moved, heldPermits * moved}, g)
		})
	}
}

func shardOf(s *redisstore.Store, client string) string {
	return s.Manager().GetClient(string(key(client))).Options().Addr
}

// redis-cli adds a node and moves slots to it, while clients of limits of all kinds go on.
func TestGrow_byANodeOfACluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	s := newStore(t, clusterConfig(c.Addrs()...))
	first := c.Nodes[0].Addr
	spendAll(t, s)
	more := c.StartSpare()
	for _, node := range c.Nodes { // so that none passes for dead on a busy machine, which would stop redis-cli
		require.NoError(t, c.Client(node).ConfigSet(t.Context(), "cluster-node-timeout", "60000").Err())
	}
	l := startLoad(t, s, named(t, 2, func(group string, i int) string { return fmt.Sprintf("load-%s-%d", group, i) }))
	defer l.end()
	l.awaitAnswers(8, l.clients...)
	redisCLI(t, "add-node", more.Addr, first)
	c.AwaitMet()
	require.Eventually(t, func() bool { // a new node takes no keys at first
		return strings.Contains(c.Client(more).ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	}, patient, 10*time.Millisecond)
	redisCLI(t, "rebalance", first, "--cluster-use-empty-masters", "--cluster-weight", fmt.Sprintf("%s=%v", c.ID(more), *growWeight))
	c.AwaitWhole()
	l.awaitAnswers(8, l.clients...)
	sum := l.finish()

	g := grown(t, s, func(client string) bool { return c.Owner(cluster.Slot(string(key(client)))) == more })
	t.Logf("3 to 4 nodes of a cluster: %v; %d decisions meanwhile, %d of them refused", g, sum.answers, sum.refused)
	require.Positive(t, g.moved)
	assert.InDelta(t, *growWeight/(3+*growWeight), float64(g.moved)/growingClients, 0.03)
	assert.Equal(t, growth{moved: g.moved}, g)
}

func redisCLI(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"--cluster"}, args...)...).CombinedOutput()
	require.NoError(t, err, "redis-cli --cluster %s:\n%s", strings.Join(args, " "), out)
}
