package redisstore_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

func clusterConfig(addrs ...string) redisstore.Config {
	cfg := config(addrs...)
	cfg.Topology = redisstore.TopologyCluster
	return cfg
}

// TestCluster is one test because a cluster takes seconds to start. Each part leaves it whole.
func TestCluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *redistest.Cluster)
	}{
		{"contract", clusterContract},
		{"slots are those of the server", slotsAreTheServers},
		{"a batch may be of any keys", anyKeys},
		{"equal requests are answered as separate ones", clusterEqualRequests},
		{"each primary has its own health", clusterHealth},
		{"redirects are followed, and nothing is debited twice", redirectsAreFollowed},
		{"slots move under load", slotsMoveUnderLoad},
		{"permits survive a move", permitsSurviveAMove},
		{"a key may empty while its slot moves", keysEmptyWhileTheirSlotMoves},
		{"only a node without the script is sent it", scriptIsSentWhereUnknown},
		{"a replica takes over from a primary that lives", plannedFailover},
		{"a replica takes over from a primary that died", primaryDies},
		{"a dead primary costs only its own slots", deadPrimaryIsAlone},
		{"overrides", clusterOverrides},
		{"closing ends every goroutine", clusterCloses},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.run(t, c)
			c.AwaitWhole()
		})
		if t.Failed() {
			return
		}
	}
}

func clusterEqualRequests(t *testing.T, c *redistest.Cluster) {
	compareWithSeparate(t, config(redistest.Start(t).Addr), clusterConfig(c.Addrs()...))
}

func clusterContract(t *testing.T, c *redistest.Cluster) {
	porttest.TestBucketStore(t, porttest.Harness{
		Spare: spare,
		New: func(t *testing.T) porttest.Fixture {
			now := domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
			for _, node := range primaries(t, c) {
				require.NoError(t, c.Client(node).FlushAll(t.Context()).Err())
			}
			s, setNow, err := redisstore.NewWithWrittenClock(clusterConfig(c.Addrs()...), now)
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			return porttest.Fixture{
				Store:   s,
				Foreign: foreign(t, s),
				Advance: func(d time.Duration) {
					now = now.Add(d)
					setNow(now)
				},
				Holds: func(k clientkey.BucketKey) bool {
					at, err := s.Manager().GetClient(string(k)).PExpireTime(t.Context(), script.RedisKey(k)).Result()
					require.NoError(t, err)
					return at > 0 && domain.Instant(at.Microseconds()) >= now
				},
			}
		},
		Unreachable: func(t *testing.T) (ports.BucketStore, time.Duration) {
			frozen, addrs := redistest.StartN(t, 3)
			for _, server := range frozen {
				server.Pause()
			}
			cfg := redisstore.DefaultConfig(addrs...)
			cfg.Topology = redisstore.TopologyCluster
			return newStore(t, cfg), cfg.TakeTimeout
		},
	})
}

// primaries are the nodes that own slots, in the order of the slots.
func primaries(t *testing.T, c *redistest.Cluster) []*redistest.Server {
	t.Helper()
	var list []*redistest.Server
	for slot := 0; slot < 1<<14; slot += 1 << 11 {
		if owner := c.Owner(slot); len(list) == 0 || list[len(list)-1] != owner {
			list = append(list, owner)
		}
	}
	require.Len(t, list, 3)
	return list
}

// clientAt is the name of a client whose bucket the node keeps. Names with one prefix are distinct by their number.
func clientAt(c *redistest.Cluster, node *redistest.Server, prefix string, number int) string {
	for i, found := 0, 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		if c.Owner(cluster.Slot(string(key(name)))) != node {
			continue
		}
		if found++; found > number {
			return name
		}
	}
}

func sum(t *testing.T, c *redistest.Cluster, command string, nodes ...*redistest.Server) int {
	t.Helper()
	total := 0
	for _, node := range nodes {
		n, err := strconv.Atoi(calls(t, c.Client(node), command))
		require.NoError(t, err)
		total += n
	}
	return total
}

// redirected is how often the node has answered with an error that starts with this word.
func redirected(t *testing.T, client *redis.Client, word string) int {
	t.Helper()
	for line := range strings.Lines(client.Info(t.Context(), "errorstats").Val()) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "errorstat_"+word+":count="); ok {
			n, err := strconv.Atoi(count)
			require.NoError(t, err)
			return n
		}
	}
	return 0
}

func slotsAreTheServers(t *testing.T, c *redistest.Cluster) {
	assert.Equal(t, 0x31c3, cluster.Slot("123456789"), "the check value of CRC-16/XMODEM")
	for i := range 100 {
		k := key(fmt.Sprintf("client-%d", i))
		assert.Equal(t, c.Slot(script.RedisKey(k)), cluster.Slot(string(k)), "%s", k)
	}
}

func anyKeys(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()[0]))
	l := limit(t, "burst", "1/h", 10)
	var reqs []ports.TakeRequest
	for i := range 300 { // each of 100 clients is asked for three times, in one call
		reqs = append(reqs, take("any-"+strconv.Itoa(i%100), domain.Tokens(i/100+3), l))
	}
	results := make([]ports.TakeResult, len(reqs))
	moved := 0
	for _, node := range primaries(t, c) {
		moved -= redirected(t, c.Client(node), "MOVED")
	}
	s.TakeMany(t.Context(), reqs, results)
	for _, node := range primaries(t, c) {
		moved += redirected(t, c.Client(node), "MOVED")
	}
	assert.Zero(t, moved, "each request goes to the owner of its key")
	for i, r := range results {
		require.NoError(t, r.Err)
		want := []domain.Tokens{7, 3, 3}[i/100] // 3, then 4, and then there are not 5 left
		require.Equal(t, want, l.Remaining(r.States[0]), "request %d", i)
	}
	for _, node := range primaries(t, c) {
		assert.Equal(t, node.Addr, s.Manager().GetClient(string(key(clientAt(c, node, "any-", 0)))).Options().Addr)
	}
	assert.Len(t, s.Manager().Shards(), 1)
}

func clusterHealth(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	for range 2 {
		health := s.CheckHealth(t.Context())
		require.Len(t, health, 3)
		for i, h := range health {
			assert.Equal(t, "shard-"+strconv.Itoa(i), h.Name)
			assert.NoError(t, h.Err)
		}
	}
	before := sum(t, c, "evalsha", c.Nodes...)
	s.CheckHealth(t.Context())
	for _, node := range primaries(t, c) {
		assert.NotZero(t, sum(t, c, "evalsha", node))
	}
	assert.Equal(t, before+3, sum(t, c, "evalsha", c.Nodes...), "each primary is asked once")

	dead := newStore(t, clusterConfig(redistest.Refusing(t)))
	health := dead.CheckHealth(t.Context())
	require.Len(t, health, 1)
	assert.ErrorIs(t, health[0].Err, ports.ErrUnavailable)
	assert.NotNil(t, dead.Manager().GetClient("anybody"))
}

// clusterCloses closes a store while it reads the table of slots, which a frozen primary slows down.
func clusterCloses(t *testing.T, c *redistest.Cluster) {
	frozen := primaries(t, c)[0]
	names := []string{clientAt(c, frozen, "closes-", 0), clientAt(c, primaries(t, c)[1], "closes-", 0)}
	closesWhileAsking(t, clusterConfig(c.Addrs()...), names...)
	frozen.Pause()
	defer frozen.Resume()
	for _, patience := range []time.Duration{5 * time.Millisecond, patient} { // a short one has failed, so the table is read again
		cfg := clusterConfig(c.Addrs()...)
		cfg.TakeTimeout = patience
		closesWhileAsking(t, cfg, names...)
	}
}

func redirectsAreFollowed(t *testing.T, c *redistest.Cluster) {
	s, stale := newStore(t, clusterConfig(c.Addrs()...)), newStore(t, clusterConfig(c.Addrs()...))
	l := limit(t, "burst", "1/h", 10)
	nodes := primaries(t, c)
	from, to := nodes[0], nodes[1]
	name, neighbour := clientAt(c, from, "moving-", 0), clientAt(c, from, "moving-", 1)
	slot := cluster.Slot(string(key(name)))
	require.NotEqual(t, slot, cluster.Slot(string(key(neighbour))))
	// both takes two tokens of name, in two groups of one batch, and two of the neighbour.
	both := func(left domain.Tokens) {
		t.Helper()
		results := make([]ports.TakeResult, 4)
		s.TakeMany(t.Context(), []ports.TakeRequest{
			take(name, 1, l), take(neighbour, 1, l), take(name, 1, l), take(neighbour, 1, l),
		}, results)
		for i, want := range []domain.Tokens{left - 1, left - 1, left - 2, left - 2} {
			require.NoError(t, results[i].Err)
			assert.Equal(t, want, l.Remaining(results[i].States[0]), "group %d", i)
		}
	}
	both(10)
	takePeek(t, stale, neighbour, l)
	time.Sleep(300 * time.Millisecond) // it has read the table twice by now, and reads it again only when it is redirected
	moved, asked, ran := redirected(t, c.Client(from), "MOVED"), redirected(t, c.Client(from), "ASK"), sum(t, c, "evalsha", from, to)+sum(t, c, "eval", from, to)

	c.OpenSlot(slot, to)
	both(8)
	assert.Equal(t, asked, redirected(t, c.Client(from), "ASK"), "the owner of the slot decides keys that it has")
	c.MoveKeys(slot, from, to)
	both(6)
	assert.Greater(t, redirected(t, c.Client(from), "ASK"), asked)
	assert.Equal(t, moved, redirected(t, c.Client(from), "MOVED"))
	c.CloseSlot(slot, to)
	both(4)

	assert.NotEmpty(t, level(t, c.Client(to), name, "burst"))
	assert.Equal(t, domain.Tokens(2), l.Remaining(takePeek(t, s, name, l).States[0]))
	moved = redirected(t, c.Client(from), "MOVED")
	assert.Equal(t, domain.Tokens(2), l.Remaining(takePeek(t, stale, name, l).States[0]))
	assert.Greater(t, redirected(t, c.Client(from), "MOVED"), moved)
	ran += 2 // the peeks
	assert.Equal(t, 6, sum(t, c, "evalsha", from, to)+sum(t, c, "eval", from, to)-ran, "three runs for each of two clients")
	assert.Len(t, s.CheckHealth(t.Context()), 3, "a primary of several ranges of slots is one")
	c.AwaitWhole()
	c.MoveSlot(slot, from)
}

// slotsMoveUnderLoad moves the slots of clients that are under load, and back, and those of clients at rest.
func slotsMoveUnderLoad(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	nodes := primaries(t, c)
	resting := named(t, 1, func(group string, _ int) string { return clientAt(c, nodes[0], "rest-"+group+"-", 0) })
	for _, w := range resting {
		for _, id := range []string{"first", "second"} {
			require.NoError(t, ports.Take(t.Context(), s, withPermit(id, take(w.name, 1, w.limits...))).Err)
		}
	}
	clients := named(t, 2, func(group string, i int) string { return clientAt(c, nodes[i], "load-"+group+"-", 0) })
	l := startLoad(t, s, clients)
	defer l.end()
	move := func(w *movingClient, to *redistest.Server) {
		slot := cluster.Slot(string(key(w.name)))
		from := c.Owner(slot)
		c.OpenSlot(slot, to)
		l.awaitAnswers(8, w)
		c.MoveKeys(slot, from, to)
		l.awaitAnswers(8, w)
		c.CloseSlot(slot, to)
		l.awaitAnswers(8, w)
	}
	for _, w := range resting {
		slot := cluster.Slot(string(key(w.name)))
		before := stored(t, c.Client(nodes[0]), slot)
		require.NotEmpty(t, before)
		c.MoveSlot(slot, nodes[2])
		assert.Equal(t, before, stored(t, c.Client(nodes[2]), slot), w.name)
		assert.Empty(t, stored(t, c.Client(nodes[0]), slot), w.name)
	}
	for _, w := range clients {
		move(w, nodes[2])
	}
	for home := range 2 {
		c.AwaitWhole()
		for i := home; i < len(clients); i += 2 {
			move(clients[i], nodes[home])
		}
	}
	c.AwaitWhole()
	for _, w := range resting {
		c.MoveSlot(cluster.Slot(string(key(w.name))), nodes[0])
	}
	sum := l.finish()
	t.Logf("%d answers, %d of them refusals while some of a client's keys had moved", sum.answers, sum.refused)
}

// stored are the keys of a slot that a node has, with their values as the server dumps them.
func stored(t *testing.T, node *redis.Client, slot int) map[string]string {
	t.Helper()
	keys, err := node.ClusterGetKeysInSlot(t.Context(), slot, 100).Result()
	require.NoError(t, err)
	values := make(map[string]string)
	for _, k := range keys {
		values[k], err = node.Dump(t.Context(), k).Result()
		require.NoError(t, err)
	}
	return values
}

func takePeek(t *testing.T, s ports.BucketStore, client string, l domain.Limit) ports.TakeResult {
	t.Helper()
	req := take(client, 0, l)
	req.Op = domain.OpPeek
	r := ports.Take(t.Context(), s, req)
	require.NoError(t, r.Err)
	return r
}

func scriptIsSentWhereUnknown(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	l := limit(t, "burst", "1/h", 10)
	nodes := primaries(t, c)
	names := []string{clientAt(c, nodes[0], "script-", 0), clientAt(c, nodes[1], "script-", 0), clientAt(c, nodes[2], "script-", 0)}
	var reqs []ports.TakeRequest
	for i := range 9 {
		reqs = append(reqs, take(names[i%3], 1, l))
	}
	results := make([]ports.TakeResult, len(reqs))
	s.TakeMany(t.Context(), reqs, results)
	require.NoError(t, c.Client(nodes[1]).ScriptFlush(t.Context()).Err())
	before := make([]int, 3)
	for i, node := range nodes {
		before[i] = sum(t, c, "eval", node)
	}
	s = newStore(t, clusterConfig(c.Addrs()...)) // which knows no nodes yet, so that all groups are in one batch
	s.TakeMany(t.Context(), reqs, results)
	for i, r := range results {
		require.NoError(t, r.Err)
		assert.Equal(t, domain.Tokens(6-i/3), l.Remaining(r.States[0]), "group %d: equal keys in their order", i)
	}
	for i, node := range nodes {
		want := before[i]
		if node == nodes[1] {
			want++
		}
		assert.Equal(t, want, sum(t, c, "eval", node), "node %d", i)
	}
}

func TestCluster_aLostOrGarbledAnswerIsNeverAskedForAgain(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	node := c.Nodes[0]
	client := c.Client(node)
	lostAnswers(t, node.Addr, client, func(addrs ...string) redisstore.Config {
		_, port, err := net.SplitHostPort(addrs[0])
		require.NoError(t, err)
		require.NoError(t, client.ConfigSet(t.Context(), "cluster-announce-port", port).Err()) // so that no client goes past the proxy
		return clusterConfig(addrs...)
	}, tampering, impossible)
}
