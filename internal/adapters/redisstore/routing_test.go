package redisstore_test

import (
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

const routedKeys = 120_000

func clientText(i int) string { return fmt.Sprintf("default:ip=10.%d.%d.%d", i>>16, i>>8&255, i&255) }

func identities(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("redis-%d:6379", i)
	}
	return out
}

// A process with other hashes would look for its clients' buckets on other shards, so the hashes never change.
func TestHash_goldenVectors(t *testing.T) {
	assert.Equal(t, uint64(0xef46db3751d8e999), redisstore.Hash(""))
	assert.Equal(t, uint64(0x44bc2cf5ad770999), redisstore.Hash("abc"), "xxHash64's own test vector")
	// SplitMix64 started at 0 gives these: its state advances by the golden ratio's fraction.
	const gamma = 0x9e3779b97f4a7c15
	seed := uint64(0)
	for _, want := range []uint64{0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f} {
		seed += gamma
		assert.Equal(t, want, redisstore.Mix64(seed))
	}
}

func TestRoute_goldenVectors(t *testing.T) {
	shards := []string{"redis-0:6379", "b", "10.0.0.3:6379"}
	texts := []string{"", "default:ip=192.0.2.7", "default:ip=2001%3Adb8%3A%3A/64", "search:h:x-client-id=alice", "default:ip=ä"}
	for i := range 27 {
		texts = append(texts, clientText(i))
	}
	for strategy, want := range map[redisstore.Strategy]string{
		redisstore.StrategyRendezvous: "11010021201122001100101022100122",
		redisstore.StrategyModulo:     "00110202001200011010201121212212",
	} {
		got := ""
		for _, text := range texts {
			got += strconv.Itoa(redisstore.Route(strategy, text, shards))
		}
		assert.Equal(t, want, got, "%s", strategy)
	}
}

func TestRoute_spreadsWithinFivePercent(t *testing.T) {
	for _, strategy := range []redisstore.Strategy{redisstore.StrategyRendezvous, redisstore.StrategyModulo} {
		for _, n := range []int{3, 8} {
			shards, counts := identities(n), make([]float64, n)
			for i := range routedKeys {
				counts[redisstore.Route(strategy, clientText(i), shards)]++
			}
			fair := float64(routedKeys) / float64(n)
			for i, count := range counts {
				assert.InEpsilon(t, fair, count, 0.05, "%s: shard %d of %d", strategy, i, n)
			}
			t.Logf("%s, %d shards: %v", strategy, n, counts)
		}
	}
}

func TestRoute_addingAShardMovesAsFewAsPromised(t *testing.T) {
	for _, n := range []int{3, 7} {
		before, after := identities(n), identities(n+1)
		moved, movedElsewhere, movedByModulo := 0, 0, 0
		for i := range routedKeys {
			text := clientText(i)
			to := redisstore.Route(redisstore.StrategyRendezvous, text, after)
			if redisstore.Route(redisstore.StrategyRendezvous, text, before) != to {
				moved++
				if to != n {
					movedElsewhere++
				}
			}
			if redisstore.Route(redisstore.StrategyModulo, text, before) != redisstore.Route(redisstore.StrategyModulo, text, after) {
				movedByModulo++
			}
		}
		assert.InEpsilon(t, routedKeys/float64(n+1), float64(moved), 0.05)
		assert.Zero(t, movedElsewhere, "clients move only to the new shard")
		assert.InEpsilon(t, routedKeys*float64(n)/float64(n+1), float64(movedByModulo), 0.05)
		t.Logf("%d to %d shards: rendezvous moves %.2f %%, modulo %.2f %%", n, n+1,
			100*float64(moved)/routedKeys, 100*float64(movedByModulo)/routedKeys)
	}
}

func TestRoute_rendezvousIgnoresTheOrder(t *testing.T) {
	shards := identities(5)
	reversed := []string{shards[4], shards[3], shards[2], shards[1], shards[0]}
	for i := range 1000 {
		a := redisstore.Route(redisstore.StrategyRendezvous, clientText(i), shards)
		b := redisstore.Route(redisstore.StrategyRendezvous, clientText(i), reversed)
		require.Equal(t, shards[a], reversed[b])
	}
}

func TestRedisShardManager_aUserStaysOnOneShard(t *testing.T) {
	m, err := redisstore.NewRedisShardManager("one=127.0.0.1:1001", "two=127.0.0.1:1002", "three=127.0.0.1:1003")
	require.NoError(t, err)
	defer func() { assert.NoError(t, m.Close()) }()
	// The same names on other hosts: no client moves.
	moved, err := redisstore.NewRedisShardManager("one=10.0.0.1:2001", "two=10.0.0.2:2002", "three=10.0.0.3:2003")
	require.NoError(t, err)
	defer func() { assert.NoError(t, moved.Close()) }()

	shards, others := m.Shards(), moved.Shards()
	assert.Equal(t, redisstore.Shard{Name: "shard-1", Identity: "two", Addr: "127.0.0.1:1002"}, shards[1])
	byAddr := map[string]string{}
	for i := range shards {
		byAddr[shards[i].Addr], byAddr[others[i].Addr] = shards[i].Identity, others[i].Identity
	}
	used := map[string]int{}
	for i := range 1000 {
		c := m.GetClient(clientText(i))
		require.Same(t, c, m.GetClient(clientText(i)))
		require.Equal(t, byAddr[c.Options().Addr], byAddr[moved.GetClient(clientText(i)).Options().Addr])
		used[c.Options().Addr]++
	}
	assert.Len(t, used, 3)
}

// The package depends on settings of go-redis that are not the defaults. Other tests would notice few of them, so each is
// checked here.
func TestGetClient_settingsOfTheConnections(t *testing.T) {
	m, err := redisstore.NewRedisShardManager("127.0.0.1:1")
	require.NoError(t, err)
	defer func() { assert.NoError(t, m.Close()) }()
	assertSettings(t, m.GetClient("anyone").Options())
}

func assertSettings(t *testing.T, o *redis.Options) {
	t.Helper()
	assert.Zero(t, o.MaxRetries, "go-redis makes 0 out of -1: no retries")
	assert.True(t, o.ContextTimeoutEnabled)
	assert.Equal(t, 1, o.DialerRetries)
	assert.Equal(t, 500*time.Millisecond, o.DialTimeout)
	assert.Equal(t, 50*time.Millisecond, o.ReadTimeout)
	assert.Equal(t, 50*time.Millisecond, o.WriteTimeout)
	assert.Equal(t, 50*time.Millisecond, o.PoolTimeout)
	assert.Equal(t, 16, o.PoolSize)
	assert.Equal(t, 16, o.MaxActiveConns)
	assert.Equal(t, 4, o.MaxConcurrentDials)
	assert.Negative(t, o.PipelinePoolSize, "no second pool")
	assert.Equal(t, 5*time.Minute, o.ConnMaxLifetime)
	assert.Equal(t, 2, o.Protocol)
	assert.True(t, o.DisableIdentity)
	assert.Equal(t, maintnotifications.ModeDisabled, o.MaintNotificationsConfig.Mode)
}

func TestRoute_scoresAreMixed(t *testing.T) {
	// Without the finaliser, three shards get about 50, 25 and 25 %: the promise of an even spread rests on it.
	counts := make([]float64, 3)
	seeds := make([]uint64, 3)
	for i, id := range identities(3) {
		seeds[i] = redisstore.Hash(id)
	}
	for i := range routedKeys {
		h, best := redisstore.Hash(clientText(i)), 0
		for s := range seeds {
			if h^seeds[s] > h^seeds[best] {
				best = s
			}
		}
		counts[best]++
	}
	worst := 0.0
	for _, c := range counts {
		worst = math.Max(worst, math.Abs(c/routedKeys*3-1))
	}
	assert.Greater(t, worst, 0.2)
}

func TestRoutingDigest_differsWhereClientsAreRoutedDifferently(t *testing.T) {
	modulo := redisstore.DefaultConfig("a=127.0.0.1:1", "b=127.0.0.1:2")
	modulo.Strategy = redisstore.StrategyModulo
	turned := redisstore.DefaultConfig("b=127.0.0.1:2", "a=127.0.0.1:1")
	turned.Strategy = redisstore.StrategyModulo
	seen := map[string]string{}
	for name, cfg := range map[string]redisstore.Config{
		"two":     redisstore.DefaultConfig("a=127.0.0.1:1", "b=127.0.0.1:2"),
		"modulo":  modulo,
		"turned":  turned,
		"three":   redisstore.DefaultConfig("a=127.0.0.1:1", "b=127.0.0.1:2", "c=127.0.0.1:3"),
		"unnamed": redisstore.DefaultConfig("127.0.0.1:1", "127.0.0.1:2"),
		"one":     redisstore.DefaultConfig("127.0.0.1:1"),
	} {
		digest := newStore(t, cfg).Manager().RoutingDigest()
		assert.Empty(t, seen[digest], "%s is like another", name)
		seen[digest] = name
	}
	moved := newStore(t, redisstore.DefaultConfig("b=127.0.0.1:3", "a=127.0.0.1:4")).Manager().RoutingDigest()
	assert.Equal(t, "two", seen[moved], "neither another host of the same name nor another order moves a client")
	assert.Equal(t, "one", seen[""], "there is nothing to agree upon")
}
